package rpo

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tidegate/tidegate"
)

func TestDrainRate(t *testing.T) {
	var r DrainRate
	if _, known := r.Rate(0); known {
		t.Error("known before anything was seen")
	}
	at := tidegate.Instant(0)
	note := func(after time.Duration, records int64, busy bool) {
		at += tidegate.Instant(after)
		r.Note(at, records, busy)
	}
	for i := range int64(20) {
		note(100*time.Millisecond, 100*i, true)
	}
	if got, known := r.Rate(at); !known || math.Abs(got-1000) > 1 {
		t.Errorf("%v %v, want 1000/s", got, known)
	}
	// D stands while something waits: the rate falls to nothing.
	for range 20 {
		note(100*time.Millisecond, 1900, true)
	}
	if got, known := r.Rate(at); !known || got != 0 {
		t.Errorf("%v %v, want 0", got, known)
	}
	// An idle hour says nothing about the link.
	note(time.Second, 1900, false)
	note(time.Hour, 1900, true)
	if _, known := r.Rate(at); known {
		t.Error("known after an idle time")
	}
	note(200*time.Millisecond, 1920, true)
	if got, known := r.Rate(at); !known || got != 100 {
		t.Errorf("%v %v, want 100/s", got, known)
	}
}

func TestThrottleKeepsItsRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Float64Range(1, 1e6).Draw(t, "rate")
		var th Throttle
		now := tidegate.Instant(0)
		th.SetRate(now, rate)
		admitted, biggest := 0, 0
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			n := rapid.IntRange(1, 50).Draw(t, "n")
			wait := th.Wait(now, n)
			ok := th.Take(now, n)
			if ok != (wait == 0) {
				t.Fatalf("take %v, wait %s", ok, wait)
			}
			if !ok {
				// After the wait it is always admitted.
				if now += tidegate.Instant(wait); !th.Take(now, n) {
					t.Fatalf("refused after waiting %s", wait)
				}
			}
			admitted, biggest = admitted+n, max(biggest, n)
			now += tidegate.Instant(rapid.Int64Range(0, 1e7).Draw(t, "dt"))
		}
		// What a batch overdraws is paid back before the next one.
		if most := rate*time.Duration(now).Seconds() + th.burst() + float64(biggest); float64(admitted) > most {
			t.Fatalf("%d admitted in %s, at most %.0f", admitted, time.Duration(now), most)
		}
	})
}

func TestThrottleExtremes(t *testing.T) {
	var th Throttle
	if th.Take(1, 1) || th.Wait(1, 1) != tidegate.Unbounded {
		t.Error("the zero value admits")
	}
	th.SetRate(1, math.Inf(1))
	if !th.Unlimited() || !th.Take(1, 1e9) || th.Wait(1, 1e9) != 0 {
		t.Error("no limit limits")
	}
	th.SetRate(2, 0)
	if th.Take(1e18, 1) || th.Wait(1e18, 1) != tidegate.Unbounded {
		t.Error("a rate of 0 admits")
	}
	// A batch that overdrew a small rate is not paid for under the next limit.
	th = Throttle{}
	now := tidegate.Instant(time.Second)
	th.SetRate(now, 100)
	if now += tidegate.Instant(time.Second); !th.Take(now, 10_000) {
		t.Fatal("a large batch is never admitted")
	}
	th.SetRate(now, math.Inf(1))
	now += tidegate.Instant(time.Second)
	th.SetRate(now, 100)
	if wait := th.Wait(now, 1); wait > 20*time.Millisecond {
		t.Errorf("%s for one record of a new limit", wait)
	}
}

func TestStanding(t *testing.T) {
	c := NewCeiling(Mark{})
	if s := c.Standing(1); s.Utilisation != 1 || s.Covered {
		t.Errorf("before D is known: %+v", s)
	}
	c.Durable(0)
	c.SetBounds(tidegate.Bounds{Records: 10, Bytes: 100, Window: 1000})
	for i := range int64(20) {
		c.Append(Mark{tidegate.Position(i + 1), i + 1, 6 * (i + 1)})
	}
	if !c.Release(100, 10) {
		t.Fatal("release refused")
	}
	s := c.Standing(200)
	if s.Utilisation != 1 || !s.HeldBack || s.Late || !s.Covered || s.Age != 100 || !s.Busy {
		t.Errorf("K used up: %+v", s)
	}
	c.Durable(8)
	if s = c.Standing(600); s.Utilisation != 0.5 || s.Drained != 8 {
		t.Errorf("half of T: %+v", s)
	}
	if s = c.Standing(1100); s.Utilisation != 1 || !s.Late || s.Covered {
		t.Errorf("T reached: %+v", s)
	}
	for _, b := range []tidegate.Bounds{{}, {Records: 1, Bytes: 100, Window: 1000}, {Records: 10, Bytes: 11, Window: 1000}} {
		c.SetBounds(b)
		if s = c.Standing(600); s.Covered {
			t.Errorf("2 records of 12 bytes lie within %s", b)
		}
	}
	c.SetBounds(tidegate.Bounds{Records: 10, Bytes: 100, Window: 1000})
	// Degraded, the bounds are still what is measured against.
	c.SetDegraded(true)
	if s = c.Standing(1100); !s.Late || s.HeldBack {
		t.Errorf("degraded: %+v", s)
	}
	c.SetLease(true, 1100)
	if s = c.Standing(1100); !s.Leaseless || !s.HeldBack {
		t.Errorf("without a lease: %+v", s)
	}
	c.Durable(20)
	if s = c.Standing(1200); s.Utilisation != 0 || s.Late || s.HeldBack || !s.Covered || s.Busy {
		t.Errorf("everything durable: %+v", s)
	}
}

// A lease ends at its instant, in the same step as the release that asks.
func TestLeaseEndsAtItsInstant(t *testing.T) {
	c := NewCeiling(Mark{})
	c.Durable(0)
	c.SetBounds(unbounded)
	c.Append(Mark{1, 1, 1})
	c.Append(Mark{2, 2, 2})
	c.SetLease(true, 50)
	if !c.Release(49, 1) {
		t.Error("refused under a lease")
	}
	if c.Release(50, 2) {
		t.Error("released without a lease")
	}
	c.Durable(2)
	if !c.Release(51, 2) {
		t.Error("what is durable needs no lease")
	}
}
