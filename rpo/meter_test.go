package rpo

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tidegate/tidegate"
)

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-9*max(1, math.Abs(a), math.Abs(b)) }

// TestMeterAgainstSampling integrates the same history nanosecond by
// nanosecond.
func TestMeterAgainstSampling(t *testing.T) {
	bounds := []time.Duration{0, 5, 20, 60}
	rapid.Check(t, func(t *rapid.T) {
		m := NewMeter(bounds)
		now := tidegate.Instant(1)
		var records, bytes, age2, known, unknown float64
		buckets := make([]float64, len(bounds)+1)
		var peak time.Duration
		for range rapid.IntRange(1, 20).Draw(t, "events") {
			e := Exposure{Known: rapid.Bool().Draw(t, "known")}
			if rapid.Bool().Draw(t, "exposed") {
				e.Records = rapid.Int64Range(1, 9).Draw(t, "records")
				e.Bytes = e.Records * 100
				e.Age = time.Duration(rapid.Int64Range(0, 50).Draw(t, "age"))
			}
			m.Observe(now, e)
			for range rapid.IntRange(0, 40).Draw(t, "dt") {
				now++
				if !e.Known {
					unknown++
					continue
				}
				known++
				records += float64(e.Records)
				bytes += float64(e.Bytes)
				from := e.Age
				if e.Records > 0 {
					e.Age++
					age2 += float64(from+e.Age) / 2
				}
				i := 0
				for i < len(bounds) && bounds[i] < e.Age {
					i++
				}
				buckets[i]++
				peak = max(peak, e.Age)
			}
			if e.Known {
				peak = max(peak, e.Age)
			}
		}
		a := m.Areas(now)
		if !near(a.RecordSeconds, records/1e9) || !near(a.ByteSeconds, bytes/1e9) || !near(a.AgeSeconds2, age2/1e18) {
			t.Fatalf("areas %+v, want %v %v %v", a, records, bytes, age2)
		}
		if !near(a.KnownSeconds, known/1e9) || !near(a.UnknownSeconds, unknown/1e9) {
			t.Fatalf("known %v unknown %v, want %v %v", a.KnownSeconds, a.UnknownSeconds, known, unknown)
		}
		sum := 0.0
		for i, f := range a.Age {
			sum += buckets[i]
			if !near(f.Seconds, sum/1e9) {
				t.Fatalf("bucket %d: %v s, want %v ns", i, f.Seconds, sum)
			}
		}
		if p := m.TakePeaks(now); p.Age != peak {
			t.Fatalf("peak age %d, want %d", p.Age, peak)
		}
	})
}

func TestMeterSawtooth(t *testing.T) {
	// PROTOCOL 5.5: ship every second over a 50 ms path: mean 550 ms, max 1.05 s.
	m := NewMeter(DefaultAgeBounds())
	for i := range 100 {
		m.Observe(tidegate.Instant(i)*tidegate.Instant(time.Second), Exposure{Known: true, Records: 1, Age: 50 * time.Millisecond})
	}
	end := tidegate.Instant(100 * time.Second)
	a := m.Areas(end)
	if mean := a.AgeSeconds2 / a.KnownSeconds; !near(mean, 0.55) {
		t.Errorf("mean age %v s", mean)
	}
	if p := m.TakePeaks(end); p.Age != 1050*time.Millisecond {
		t.Errorf("max age %s", p.Age)
	}
	if p := m.TakePeaks(end + 1); p.Age > 1050*time.Millisecond+1 {
		t.Errorf("max age since the last look %s", p.Age)
	}
}

func TestMeterHugeAreas(t *testing.T) {
	m := NewMeter(nil)
	m.Observe(0, Exposure{Known: true, Bytes: 1 << 50, Records: 1})
	day := tidegate.Instant(24 * time.Hour)
	if a := m.Areas(day); !near(a.ByteSeconds, float64(1<<50)*86400) || !near(a.AgeSeconds2, 86400.0*86400/2) {
		t.Errorf("%+v", a)
	}
}

func TestClockOffsetBoundsTheTruth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		truth := rapid.Int64Range(-1e12, 1e12).Draw(t, "offset")
		var o ClockOffset
		now := int64(1e13)
		for range rapid.IntRange(1, 60).Draw(t, "samples") {
			now += rapid.Int64Range(0, 4e9).Draw(t, "wait")
			out, back := rapid.Int64Range(0, 1e8).Draw(t, "out"), rapid.Int64Range(0, 1e8).Draw(t, "back")
			work := rapid.Int64Range(0, 1e6).Draw(t, "work")
			s := TimeSample{
				Sent: tidegate.Instant(now), Received: tidegate.Instant(now + out + truth),
				Answered: tidegate.Instant(now + out + work + truth), Returned: tidegate.Instant(now + out + work + back),
			}
			now += out + work + back
			o.Add(s)
			theta, err, known := o.Estimate(tidegate.Instant(now))
			if diff := int64(theta) - truth; !known || max(diff, -diff) > int64(err) {
				t.Fatalf("estimate %d ± %d, truth %d, known %v", theta, err, truth, known)
			}
		}
	})
}

func TestClockOffsetKeepsTheBestSample(t *testing.T) {
	var o ClockOffset
	if _, _, known := o.Estimate(0); known {
		t.Error("an estimate without a sample")
	}
	at := func(sent, delay tidegate.Instant) TimeSample {
		return TimeSample{Sent: sent, Received: sent + delay/2, Answered: sent + delay/2, Returned: sent + delay}
	}
	o.Add(at(1e9, 1000))
	o.Add(at(2e9, 100))
	o.Add(at(3e9, 5000))
	if _, err, _ := o.Estimate(3e9); err > 1e6 {
		t.Errorf("error %s, want that of the fastest sample", err)
	}
	o.Add(TimeSample{Sent: 10, Received: 0, Answered: 0, Returned: 5})
	o.Add(at(60e9, 400e3))
	if _, err, _ := o.Estimate(60e9 + 400e3); err > 250*time.Microsecond {
		t.Errorf("error %s after the window, want that of the new sample", err)
	}
}

func TestLossBound(t *testing.T) {
	k := tidegate.Bounds{Records: 10, Bytes: 1000, Window: 2 * time.Second}
	last := Exposure{Known: true, Records: 3, Bytes: 30}
	for _, c := range []struct {
		name     string
		mode     tidegate.Mode
		recorded bool
		want     LossUpper
	}{
		{"sync", tidegate.ModeSync, true, LossUpper{Known: true}},
		{"bounded", tidegate.ModeBounded, true, LossUpper{true, 10, 1000, time.Second}},
		{"bounded not recorded", tidegate.ModeBounded, false, LossUpper{false, 3, 30, time.Second}},
		{"open", tidegate.ModeOpen, true, LossUpper{false, 3, 30, time.Second}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := LossBound(c.mode, k, c.recorded, last, time.Second); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
	if got := BlindWindow(1000, 400, 100, 7); got != 507 {
		t.Errorf("blind window %d", got)
	}
}
