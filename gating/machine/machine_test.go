package machine

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tidegate/tidegate"
)

func TestEveryPairHasAnAnswer(t *testing.T) {
	for s := State(1); s < states; s++ {
		for e := range events {
			if to := table[s][e]; !to.Valid() {
				t.Errorf("%s, %s: no answer", s, e)
			}
		}
		if stateNames[s] == "" || s.Outer() == OuterUnknown {
			t.Errorf("state %d has no name or no outer state", s)
		}
	}
	for e := range events {
		if eventNames[e] == "" {
			t.Errorf("event %d has no name", e)
		}
	}
}

// TestAnswers is the table once more, by what must never be and what must be,
// for every pair.
func TestAnswers(t *testing.T) {
	enforcing := func(s State) bool { return s != Degraded }
	for s := State(1); s < states; s++ {
		for e := range events {
			to := table[s][e]
			switch {
			case to == Degraded && s != Degraded && e != SaysDegraded && e != Open && e != Braked && (e != Lagged || s != Enforcing):
				t.Errorf("%s, %s leads to %s", s, e, to)
			case to == Arming && s != Arming && (s != Enforcing || e != CaughtUp):
				t.Errorf("%s, %s leads to %s", s, e, to)
			case s == Fenced && to != Fenced && e != Begin:
				t.Errorf("fenced is left by %s", e)
			case s == HandedOver && to != HandedOver && e != Begin && e != Fence:
				t.Errorf("handed over is left by %s", e)
			case e == Fence && to != Fenced:
				t.Errorf("%s does not stop at a fence", s)
			case e == End && to != Off && s != Fenced && s != HandedOver:
				t.Errorf("%s does not end", s)
			case e == HandOver && to != HandedOver && s != Off && s != Fenced:
				t.Errorf("%s is not handed over", s)
			case e == Drain && to != Draining && s != Off && s != Fenced && s != HandedOver:
				t.Errorf("%s does not drain", s)
			case (e == SaysUnknown || e == SaysArmed) && !enforcing(to):
				t.Errorf("%s, %s leads to %s", s, e, to)
			case e == Begin && !enforcing(to):
				t.Errorf("%s begins unprotected", s)
			case s.flow() && e >= Ease && e <= Ask && !to.flow():
				t.Errorf("%s, %s leads to %s", s, e, to)
			}
		}
	}
}

// run is a machine that a test drives.
type run struct {
	m   *Machine
	now tidegate.Instant
	in  Input
	out Output
}

func newRun() *run {
	r := &run{m: New(1), now: 1}
	r.in = Input{Held: true, Epoch: 3, Record: RecordArmed, Covered: true}
	return r
}

func (r *run) step(after time.Duration) Output {
	r.now += tidegate.Instant(after)
	r.out = r.m.Step(r.now, r.in)
	return r.out
}

func (r *run) want(t *testing.T, s State) {
	t.Helper()
	if r.out.State != s {
		t.Fatalf("state %s, want %s (output %+v)", r.out.State, s, r.out)
	}
}

func TestRejectAfterGrace(t *testing.T) {
	r := newRun()
	r.in.Policy = tidegate.Policy{Reaction: tidegate.ReactReject, Grace: time.Second}
	r.step(0)
	r.want(t, Flowing)
	r.in.Late, r.in.Utilisation = true, 1
	if out := r.step(10 * time.Second); !out.Closed || out.Refuse != RefuseNone {
		t.Errorf("closed: %+v", out)
	}
	r.want(t, Blocked)
	// The display may lag behind; the refusal does not.
	if out := r.step(time.Second); out.Refuse != RefuseClosed {
		t.Errorf("after the grace: %+v", out)
	}
	r.want(t, Blocked)
	r.step(FlowHold)
	r.want(t, Rejecting)
	r.in.Late, r.in.Utilisation = false, 0.2
	if out := r.step(0); out.Refuse != RefuseNone || out.Closed {
		t.Errorf("open again: %+v", out)
	}
}

func TestCountBoundsCloseOnlyWhenDStands(t *testing.T) {
	r := newRun()
	r.in.Policy = tidegate.Policy{Reaction: tidegate.ReactReject}
	r.step(0)
	r.in.HeldBack, r.in.Covered, r.in.Utilisation = true, false, 1
	for range 50 {
		r.in.D++
		if out := r.step(StallAfter / 2); out.Closed || out.Refuse != RefuseNone {
			t.Fatalf("closed while D moves: %+v", out)
		}
	}
	r.step(StallAfter - 1)
	if r.out.Closed {
		t.Error("closed too early")
	}
	if out := r.step(1); out.Refuse != RefuseClosed {
		t.Errorf("D stands: %+v", out)
	}
	// A stream that was idle for long is not closed by its first record.
	r = newRun()
	r.in.Policy = tidegate.Policy{Reaction: tidegate.ReactReject}
	r.step(0)
	r.step(time.Hour)
	r.in.HeldBack = true
	if out := r.step(time.Hour); out.Closed {
		t.Error("closed by the first record after a pause")
	}
}

func TestDegradeAndArmAgain(t *testing.T) {
	r := newRun()
	r.in.Policy = tidegate.Policy{Reaction: tidegate.ReactDegrade, Grace: time.Second, Rearm: 20 * time.Second}
	r.step(0)
	r.in.HeldBack, r.in.Covered, r.in.Utilisation = true, false, 1
	r.step(0)
	r.step(StallAfter)
	if out := r.step(time.Second); out.Want != WantDegraded || out.Unbounded {
		t.Fatalf("after the grace: %+v", out)
	}
	r.in.Record = RecordDegraded
	if out := r.step(0); !out.Unbounded || out.Want != WantNone {
		t.Fatalf("recorded: %+v", out)
	}
	r.want(t, Degraded)
	// D keeps up again, but A is never quite covered under load.
	r.in.HeldBack, r.in.Utilisation, r.in.Age = false, 0.1, 20*time.Millisecond
	r.step(0)
	r.step(20*time.Second - 1)
	r.want(t, Degraded)
	if out := r.step(1); out.Unbounded || out.Want != WantNone {
		t.Fatalf("enforcing: %+v", out)
	}
	r.want(t, Enforcing)
	// D does not catch up: open again, nothing was asked.
	r.step(EnforceMax)
	r.want(t, Degraded)
	r.step(20 * time.Second)
	r.want(t, Enforcing)
	r.in.Covered, r.in.Age = true, 0
	if out := r.step(time.Millisecond); out.Want != WantArmed || out.Unbounded {
		t.Fatalf("caught up: %+v", out)
	}
	// Asked for: bounds hold, however long it takes and whatever happens.
	r.in.Covered, r.in.HeldBack = false, true
	if out := r.step(time.Hour); out.Unbounded || out.Want != WantArmed {
		t.Fatalf("arming: %+v", out)
	}
	r.in.Record = RecordArmed
	r.step(0)
	if r.out.Want == WantArmed || r.out.Unbounded {
		t.Fatalf("armed: %+v", r.out)
	}
}

func TestBlindOpensWithoutAsking(t *testing.T) {
	r := newRun()
	r.in.Policy = tidegate.Policy{Reaction: tidegate.ReactDegradeBlind}
	r.in.Record = RecordBlindOK
	r.step(0)
	r.in.Late, r.in.Utilisation = true, 1
	if out := r.step(0); !out.Unbounded || out.Want != WantNone {
		t.Fatalf("blind: %+v", out)
	}
	// Without the permission it asks like any other.
	r = newRun()
	r.in.Policy = tidegate.Policy{Reaction: tidegate.ReactDegradeBlind}
	r.step(0)
	r.in.Late, r.in.Utilisation = true, 1
	if out := r.step(0); out.Unbounded || out.Want != WantDegraded {
		t.Fatalf("not permitted: %+v", out)
	}
}

func TestBrake(t *testing.T) {
	r := newRun()
	r.step(0)
	r.in.Brake = true
	if out := r.step(0); out.Unbounded {
		t.Fatal("open before the record says so")
	}
	r.in.Record = RecordDegraded
	if out := r.step(0); !out.Unbounded {
		t.Fatal("the brake does not open")
	}
	r.step(time.Hour)
	r.want(t, Degraded)
	r.in.Brake = false
	r.step(0)
	r.step(time.Hour)
	r.want(t, Arming)
	r.in.Brake = true
	r.step(0)
	r.want(t, Degraded)
}

// A record that permits it beforehand is no reason to let the brake wait.
func TestBrakeOpensABlindGateAtOnce(t *testing.T) {
	r := newRun()
	r.in.Policy = tidegate.Policy{Reaction: tidegate.ReactDegradeBlind, Grace: time.Hour}
	r.in.Record = RecordBlindOK
	r.step(0)
	r.in.Late, r.in.Utilisation = true, 1
	if out := r.step(0); out.Unbounded {
		t.Fatalf("open before the grace, and nobody said so: %+v", out)
	}
	r.in.Brake = true
	if out := r.step(0); !out.Unbounded || out.State != Degraded {
		t.Fatalf("the brake does not open: %+v", out)
	}
	r.in.Late, r.in.Utilisation = false, 0
	r.step(2 * time.Hour)
	r.want(t, Degraded)
	r.in.Brake = false
	r.step(0)
	r.step(time.Hour)
	r.want(t, Arming)
	r.step(0)
	r.want(t, Flowing)
}

func TestDrainAndHandOver(t *testing.T) {
	r := newRun()
	r.step(0)
	r.in.Drain = true
	if out := r.step(0); out.Refuse != RefuseDraining || out.Sealed {
		t.Fatalf("draining: %+v", out)
	}
	r.in.Drain = false
	r.step(0)
	r.want(t, Flowing)
	r.in.Drain, r.in.HandedOver = true, true
	if out := r.step(0); out.Refuse != RefuseDraining || !out.Sealed {
		t.Fatalf("handed over: %+v", out)
	}
	r.in.Drain, r.in.HandedOver = false, false
	r.step(0)
	r.want(t, HandedOver)
	r.in.Held = false
	r.step(0)
	r.in.Held = true
	r.step(0)
	r.want(t, HandedOver)
	r.in.Epoch++
	r.step(0)
	r.want(t, Flowing)
}

func TestFencedUntilTheEpochIsHeld(t *testing.T) {
	r := newRun()
	r.step(0)
	r.in.FencedBy, r.in.Held = 5, false
	r.step(0)
	r.want(t, Fenced)
	r.in.FencedBy, r.in.Held, r.in.Epoch = 0, true, 4
	r.step(0)
	r.want(t, Fenced)
	r.in.Epoch = 5
	r.step(0)
	r.want(t, Flowing)
}

func TestSoftZone(t *testing.T) {
	r := newRun()
	if out := r.step(0); !math.IsInf(out.Rate, 1) {
		t.Errorf("flowing: %+v", out)
	}
	r.in.Utilisation = 0.75
	if out := r.step(0); !math.IsInf(out.Rate, 1) {
		t.Errorf("drain rate unknown: %+v", out)
	}
	r.in.Drains, r.in.DrainsKnown = 1000, true
	if out := r.step(0); out.Rate != 500 {
		t.Errorf("soft zone: %+v", out)
	}
	r.in.Utilisation = 0.999
	if out := r.step(0); out.Rate != RateMin {
		t.Errorf("at the edge: %+v", out)
	}
}

// TestAnyInput drives a machine with whatever comes, in any order.
func TestAnyInput(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := New(1)
		now := tidegate.Instant(1)
		in := Input{Held: true, Epoch: 1}
		var (
			handed, fencedBy tidegate.Epoch
			lastShow         tidegate.Instant
			shown            bool
		)
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now += tidegate.Instant(rapid.SampledFrom([]time.Duration{
				0, time.Millisecond, 100 * time.Millisecond, time.Second, FlowHold, 30 * time.Second,
			}).Draw(t, "dt"))
			drawInput(t, &in)
			before := m.State()
			out := m.Step(now, in)
			after := out.State
			fencedBy = max(fencedBy, in.FencedBy)
			switch {
			case !after.Valid():
				t.Fatalf("state %d", after)
			case out.Unbounded && in.Record != RecordDegraded && in.Record != RecordBlindOK:
				t.Fatalf("unbounded under record %s", in.Record)
			case out.Unbounded && (out.Want == WantArmed || after != Degraded):
				t.Fatalf("unbounded and %+v", out)
			case out.Want == WantArmed && before != Arming && !in.Covered:
				t.Fatal("asked to be armed while something was exposed")
			case out.Want == WantArmed && before != Arming && in.Brake:
				t.Fatal("asked to be armed under the brake")
			case before == Fenced && after != Fenced && (!in.Held || in.Epoch < fencedBy):
				t.Fatalf("left the fence of %s under epoch %s", fencedBy, in.Epoch)
			case before == HandedOver && after != HandedOver && after != Fenced && in.Epoch <= handed:
				t.Fatalf("went on after a handover under epoch %s", in.Epoch)
			case (after == Draining || after == HandedOver) != (out.Refuse == RefuseDraining):
				t.Fatalf("%+v", out)
			case out.Refuse == RefuseClosed && (!out.Closed || in.Policy.Reaction != tidegate.ReactReject):
				t.Fatalf("refused: %+v", out)
			case in.Late && after.flow() && !out.Closed:
				t.Fatalf("late and not closed: %+v", out)
			}
			if before.flow() && after.flow() && before != after {
				if shown && time.Duration(now-lastShow) < FlowHold {
					t.Fatalf("%s to %s only %s after the last change", before, after, time.Duration(now-lastShow))
				}
				lastShow, shown = now, true
			}
			if after == HandedOver && before != HandedOver {
				handed = in.Epoch
			}
		}
	})
}

func drawInput(t *rapid.T, in *Input) {
	flip := func(name string, odds int, b *bool) {
		if rapid.IntRange(0, odds).Draw(t, name) == 0 {
			*b = !*b
		}
	}
	flip("held", 12, &in.Held)
	flip("brake", 8, &in.Brake)
	flip("drain", 8, &in.Drain)
	flip("late", 4, &in.Late)
	flip("held back", 4, &in.HeldBack)
	flip("covered", 3, &in.Covered)
	in.HandedOver = rapid.IntRange(0, 15).Draw(t, "handed over") == 0
	in.Drain = in.Drain || in.HandedOver
	in.FencedBy = 0
	if rapid.IntRange(0, 12).Draw(t, "fenced") == 0 {
		in.FencedBy = tidegate.Epoch(rapid.IntRange(1, 12).Draw(t, "by"))
	}
	if rapid.IntRange(0, 9).Draw(t, "epoch") == 0 {
		in.Epoch = tidegate.Epoch(rapid.IntRange(1, 12).Draw(t, "e"))
	}
	if rapid.IntRange(0, 3).Draw(t, "record moves") == 0 {
		in.Record = Record(rapid.IntRange(0, int(records)-1).Draw(t, "record"))
	}
	if rapid.IntRange(0, 9).Draw(t, "policy moves") == 0 {
		in.Policy = tidegate.Policy{
			Reaction: rapid.SampledFrom([]tidegate.Reaction{"", tidegate.ReactBlock, tidegate.ReactReject, tidegate.ReactDegrade, tidegate.ReactDegradeBlind}).Draw(t, "reaction"),
			Grace:    time.Duration(rapid.IntRange(0, 2).Draw(t, "grace")) * time.Second,
			Rearm:    time.Duration(rapid.IntRange(0, 20).Draw(t, "rearm")) * time.Second,
		}
	}
	in.D += tidegate.Position(rapid.IntRange(0, 1).Draw(t, "D"))
	in.Utilisation = rapid.SampledFrom([]float64{0, 0.3, 0.6, 0.9, 1, 7}).Draw(t, "u")
	in.Age = rapid.SampledFrom([]time.Duration{0, 10 * time.Millisecond, time.Second, time.Hour}).Draw(t, "age")
	in.Drains, in.DrainsKnown = 1000, rapid.Bool().Draw(t, "drains known")
}

// TestFlapping toggles the link ten times a second for an hour.
func TestFlapping(t *testing.T) {
	for _, reaction := range []tidegate.Reaction{tidegate.ReactBlock, tidegate.ReactReject, tidegate.ReactDegrade} {
		t.Run(string(reaction), func(t *testing.T) {
			r := newRun()
			r.in.Policy = tidegate.Policy{Reaction: reaction}
			changes, last := 0, r.step(0).State
			for i := range 36000 {
				r.in.Late = i%2 == 0
				r.in.Utilisation = float64(1 - i%2)
				if r.step(100 * time.Millisecond); r.out.State != last {
					changes, last = changes+1, r.out.State
				}
			}
			if most := 3600/5 + 1; changes > most || changes == 0 {
				t.Errorf("%d changes in an hour, at most %d", changes, most)
			}
		})
	}
}

func TestStepAllocatesNothing(t *testing.T) {
	r := newRun()
	if n := testing.AllocsPerRun(1000, func() { r.in.D++; r.step(time.Millisecond) }); n != 0 {
		t.Errorf("%v allocations per step", n)
	}
}

func BenchmarkDecision(b *testing.B) {
	r := newRun()
	b.ReportAllocs()
	for b.Loop() {
		r.in.D++
		r.step(time.Microsecond)
	}
}
