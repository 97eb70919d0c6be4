package shadow

import (
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/assert"
	"github.com/tidegate/tidegate/drills/evidence"
)

// TestHarm: a live node that is behind in one stretch for long enough calls the drill off,
// also one of which nobody knows; one that comes back in between does not.
func TestHarm(t *testing.T) {
	over, under := new(3*time.Second), new(time.Second)
	one := func(blind *time.Duration) Look { return Look{{1}: {Blind: new(time.Duration)}, {2}: {Blind: blind}} }
	for name, tc := range map[string]struct {
		looks   []Look
		harmed  bool
		outcome evidence.CheckOutcome
	}{
		"well":          {[]Look{one(under), one(under), one(under)}, false, evidence.CheckPassed},
		"behind":        {[]Look{one(under), one(over), one(over), one(over)}, true, evidence.CheckFailed},
		"comes back":    {[]Look{one(over), one(over), one(under), one(over), one(under)}, false, evidence.CheckPassed},
		"ends behind":   {[]Look{one(over), one(over), one(under), one(over), one(over)}, false, evidence.CheckUnknown},
		"once unknown":  {[]Look{one(under), one(nil), one(under)}, false, evidence.CheckUnknown},
		"unknown":       {[]Look{one(under), one(nil), one(nil), one(nil)}, true, evidence.CheckFailed},
		"no answer":     {[]Look{one(under), nil, nil, nil}, true, evidence.CheckFailed},
		"never known":   {[]Look{one(nil)}, false, evidence.CheckUnknown},
		"nothing there": {nil, false, evidence.CheckUnknown},
	} {
		l := lag{harm: Harm{Blind: 2 * time.Second, For: 2 * time.Second}}
		harmed := false
		for i, look := range tc.looks {
			harmed = l.take(lagDuring, look, tidegate.Instant(time.Hour)+tidegate.Instant(i)*tidegate.Instant(time.Second)) != ""
		}
		if c := l.notHarmed(); harmed != tc.harmed || c.Outcome != tc.outcome || (c.Why == "") != (c.Outcome == evidence.CheckPassed) {
			t.Errorf("%s: called off %v, %+v", name, harmed, c)
		}
		if ready := l.ready(one(over).worst()) == ""; ready || l.ready(one(under).worst()) != "" || l.ready(one(nil).worst()) == "" {
			t.Errorf("%s: it would begin", name)
		}
	}
}

// TestUndurableIsHarm: a node whose disk hangs hears of the source as before, and lacks
// more and more; one that falls a little behind and catches up again and again does not.
func TestUndurableIsHarm(t *testing.T) {
	look := func(head, durable tidegate.Position) Look {
		return Look{{1}: {Blind: new(time.Millisecond), Head: &head, Durable: &durable}}
	}
	for name, tc := range map[string]struct {
		looks  []Look
		harmed bool
		most   time.Duration
	}{
		"well":       {[]Look{look(10, 10), look(20, 20), look(30, 30), look(30, 30)}, false, time.Millisecond},
		"hangs":      {[]Look{look(10, 10), look(20, 10), look(30, 10), look(40, 10), look(50, 10), look(60, 10)}, true, 4 * time.Second},
		"idle":       {[]Look{look(10, 10), look(20, 10), look(20, 10), look(20, 10), look(20, 10), look(20, 10)}, true, 4 * time.Second},
		"is a batch": {[]Look{look(10, 0), look(20, 10), look(30, 20), look(40, 30), look(50, 40), look(60, 50)}, false, time.Second / 1000},
	} {
		l, harmed := lag{harm: Harm{Blind: time.Second, For: 2 * time.Second}}, false
		for i, look := range tc.looks {
			harmed = l.take(lagDuring, look, tidegate.Instant(i+1)*tidegate.Instant(time.Second)) != ""
		}
		if max := SumLag(l.seen[lagDuring]).Max; harmed != tc.harmed || max == nil || *max != tc.most {
			t.Errorf("%s: called off %v, at most %v", name, harmed, max)
		}
	}
	l := lag{}
	l.take(lagDuring, Look{{1}: {Blind: new(time.Duration), Head: new(tidegate.Position)}}, 1)
	if s := SumLag(l.seen[lagDuring]); s.Max != nil {
		t.Errorf("nobody knows what is durable, and it lacks at most %s", s.Max)
	}
}

// TestHarmByBounds: what a clone may do to a service follows from what its gate bounds.
func TestHarmByBounds(t *testing.T) {
	for window, want := range map[time.Duration]time.Duration{
		tidegate.Unbounded: 10 * time.Second, 0: time.Second, 100 * time.Millisecond: time.Second, 4 * time.Second: 4 * time.Second, time.Hour: 10 * time.Second,
	} {
		gate := evidence.Gate{Bounds: &tidegate.Bounds{Window: window}}
		if got := (Harm{}).under(gate).Blind; got != want {
			t.Errorf("window %s: %s, want %s", window, got, want)
		}
		if got := (Harm{Blind: time.Minute}).under(gate).Blind; got != time.Minute {
			t.Errorf("configured: %s", got)
		}
	}
	if got := (Harm{}).under(evidence.Gate{}).Blind; got != 10*time.Second {
		t.Errorf("unknown: %s", got)
	}
}

// TestAssertions: a blocking one that is broken calls the drill off, or refuses it; what is
// broken after the drill has failed all the same.
func TestAssertions(t *testing.T) {
	cfg := Config{Harm: Harm{Blind: time.Hour, For: time.Hour}}
	for to, text := range map[*[]assert.Assertion]string{&cfg.Blocking: "records_behind < 5", &cfg.Assertions: "blind_window <= 1s"} {
		a, err := assert.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		*to = []assert.Assertion{a}
	}
	look := func(records int64, blind time.Duration) Look { return Look{{1}: {Blind: &blind, Records: &records}} }
	for name, tc := range map[string]struct {
		looks    map[lagWhen]Look
		called   string
		refused  bool
		blocking evidence.CheckOutcome
		judged   evidence.CheckOutcome
	}{
		"well":           {map[lagWhen]Look{lagBefore: look(1, 0), lagDuring: look(1, 0), lagAfter: look(1, 0)}, "", false, evidence.CheckPassed, evidence.CheckPassed},
		"blocked":        {map[lagWhen]Look{lagDuring: look(5, 0)}, "records_behind < 5 does not hold: records_behind = 5", true, evidence.CheckFailed, evidence.CheckPassed},
		"blocked before": {map[lagWhen]Look{lagBefore: look(5, 0)}, "records_behind < 5 does not hold", true, evidence.CheckFailed, evidence.CheckPassed},
		"broken after":   {map[lagWhen]Look{lagDuring: look(1, 0), lagAfter: look(5, 2*time.Second)}, "", true, evidence.CheckFailed, evidence.CheckFailed},
		"unknown":        {map[lagWhen]Look{lagDuring: {{1}: {Blind: new(time.Duration)}}}, "", false, evidence.CheckUnknown, evidence.CheckPassed},
	} {
		l, called := newLag(&cfg, evidence.Gate{}), ""
		for when := lagBefore; when <= lagAfter; when++ {
			if look, looked := tc.looks[when]; looked {
				called = l.take(when, look, tidegate.Instant(time.Hour)+tidegate.Instant(when))
			}
		}
		all := l.checks()
		if len(all) != 3 || all[0].Name != "harm" || all[1].Kind != evidence.KindHarm || all[1].Outcome != tc.blocking || all[2].Kind != evidence.KindAssertion || all[2].Outcome != tc.judged {
			t.Errorf("%s: %+v", name, all)
		}
		if why := l.ready(look(1, 0).worst()); !strings.HasPrefix(called, tc.called) || (called == "") != (tc.called == "") || (why != "") != tc.refused {
			t.Errorf("%s: called off for %q, refused for %q", name, called, why)
		}
	}
}

// TestHarmWantsALookDuringIt: what was seen before and after says nothing of the drill;
// what was seen after it counts too.
func TestHarmWantsALookDuringIt(t *testing.T) {
	well, behind := Look{{1}: {Blind: new(time.Duration)}}, Look{{1}: {Blind: new(time.Minute)}}
	for name, tc := range map[string]struct {
		looks   map[lagWhen]Look
		outcome evidence.CheckOutcome
	}{
		"none":         {map[lagWhen]Look{lagBefore: well, lagAfter: well}, evidence.CheckUnknown},
		"one":          {map[lagWhen]Look{lagBefore: well, lagDuring: well, lagAfter: well}, evidence.CheckPassed},
		"behind after": {map[lagWhen]Look{lagBefore: well, lagDuring: well, lagAfter: behind}, evidence.CheckUnknown},
		"silent after": {map[lagWhen]Look{lagBefore: well, lagDuring: well, lagAfter: nil}, evidence.CheckUnknown},
	} {
		l := lag{harm: Harm{Blind: time.Second, For: time.Second}}
		for when := lagBefore; when <= lagAfter; when++ {
			if look, looked := tc.looks[when]; looked {
				l.take(when, look, 1)
			}
		}
		if c := l.notHarmed(); c.Outcome != tc.outcome {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

// TestLagIsNeverGuessed: one look that does not know a value makes its sum unknown.
func TestLagIsNeverGuessed(t *testing.T) {
	l := lag{harm: Harm{Blind: time.Hour}}
	for i := range 10 {
		l.take(lagBefore, Look{{1}: {Blind: new(time.Duration(i) * time.Second), Records: new(int64(i))}}, 1)
	}
	l.take(lagDuring, Look{{1}: {Records: new(int64)}, {2}: {Blind: new(time.Second)}}, 2)
	got := l.record()
	if b := got.Before; b.Samples != 10 || *b.Median != 5*time.Second || *b.P99 != 9*time.Second || *b.Max != 9*time.Second || *b.Records != 9 || b.Bytes != nil {
		t.Errorf("before: %+v", b)
	}
	if d := got.During; d.Samples != 1 || d.Median != nil || d.P99 != nil || d.Max != nil || d.Records != nil {
		t.Errorf("during: %+v", d)
	}
	if a := got.After; a.Samples != 0 || a.Median != nil || a.Records != nil {
		t.Errorf("after: %+v", a)
	}
}
