package evidence_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/judge"
)

func TestJudged(t *testing.T) {
	r := full()
	r.Checks = append(r.Checks[1:2:2], evidence.Check{Name: "harm", Kind: evidence.KindHarm, Outcome: evidence.CheckFailed, Why: "it fell behind"})
	want := judge.Run{
		ID: r.ID.String(), Started: started, RTA: new(4200 * time.Millisecond), RPA: new(time.Duration(0)), Outcome: judge.Failed,
		Stratum: judge.Stratum{Service: "bank", Level: "L1", Scenario: "shadow-promote", Mode: "bounded", Backlog: judge.ClassOf(nil, new(int64(16<<20)))},
		Phases: []judge.Phase{
			{Name: "detect", Absent: true},
			{Name: "catch-up", Took: new(1200 * time.Millisecond)},
			{Name: "apply", Took: new(3 * time.Second), Noise: 200 * time.Millisecond},
			{Name: "verify", Took: new(time.Duration(0))},
			{Name: "re-route"},
		},
		Checks:   []judge.Finding{{Name: "acquire epoch", Outcome: judge.Pass}, {Name: "canary", Outcome: judge.Pass}},
		Harm:     judge.Finding{Name: "harm", Outcome: judge.Fail, Why: "it fell behind"},
		Recovery: judge.Recovery{Required: "precise", Predicted: "repeating", Observed: "repeating", Met: judge.Fail},
	}
	if d := cmp.Diff(want, r.Judged()); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	for _, outcome := range []evidence.CheckOutcome{evidence.CheckPassed, evidence.CheckUnknown} { // the graver stays
		r.Checks = append(r.Checks, evidence.Check{Name: "blocking", Kind: evidence.KindHarm, Outcome: outcome})
	}
	r.Checks = append([]evidence.Check{{Name: "first", Kind: evidence.KindHarm, Outcome: evidence.CheckUnknown}, {Name: "asserted", Kind: evidence.KindAssertion, Outcome: evidence.CheckFailed}}, r.Checks...)
	if got := r.Judged(); got.Harm.Name != "harm" || len(got.Checks) != 3 {
		t.Errorf("%+v", got)
	}
	b := bare()
	got := b.Judged()
	if got.Stratum.Mode != "unknown" || got.Stratum.Backlog != "unknown" || got.RTA != nil || got.Recovery.Met != judge.Unknown {
		t.Errorf("a report of nothing: %+v", got)
	}
	r.Recovery.Outcome = new("lucky")
	if r.Judged().Recovery.Met != judge.Pass {
		t.Error("lucky is no pass")
	}
}
