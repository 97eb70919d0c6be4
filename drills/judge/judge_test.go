package judge

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// good is a run that passes against steady, its history.
func good() Run {
	return Run{
		ID:       "good",
		Phases:   []Phase{{Name: "apply", Took: &ms(1000)[0]}, {Name: "detect", Absent: true}},
		RTA:      &ms(2000)[0],
		RPA:      new(time.Duration),
		Checks:   []Finding{{Name: "state-digest", Outcome: Pass}},
		Recovery: Recovery{Required: "precise", Observed: "precise", Met: Pass},
		Harm:     Finding{Name: "lag", Outcome: Pass},
	}
}

func steady(n int) []Run {
	var out []Run
	for i := range n {
		r := good()
		r.ID, r.Outcome = fmt.Sprint(i), Passed
		out = append(out, r)
	}
	return out
}

var objectives = Objectives{RTO: 10 * time.Second, RPO: time.Second}

// part is one thing that a verdict depends on: what it may be, and what follows from it.
type part struct {
	name  string
	cases []piece
}

// piece is one case of a part. Its mark is the worst that follows from it:
// R refused, C wrong content or type (9), L over the RPO, T over the RTO, H harm or slower,
// I interrupted, U unknown, "" nothing.
type piece struct {
	mark string
	set  func(*Run, *Objectives)
}

func parts() []part {
	long, lost := ms(11_000)[0], ms(1001)[0]
	return []part{
		{"refusal", []piece{
			{"", func(*Run, *Objectives) {}},
			{"R", func(r *Run, _ *Objectives) { r.Refused = []string{"the sandbox is not empty"} }},
		}},
		{"interruption", []piece{
			{"", func(*Run, *Objectives) {}},
			{"I", func(r *Run, _ *Objectives) { r.Interrupted = []string{"^C"} }},
		}},
		{"checks", []piece{
			{"", func(*Run, *Objectives) {}},
			{"U", func(r *Run, _ *Objectives) { r.Checks = nil }},
			{"U", func(r *Run, _ *Objectives) { r.Checks = append(r.Checks, Finding{Name: "balance"}) }},
			{"CU", func(r *Run, _ *Objectives) { r.Checks[0].Outcome = Fail }},
			{"CU", func(r *Run, _ *Objectives) {
				r.Checks = append(r.Checks, Finding{Name: "balance", Outcome: Fail}, Finding{Name: "orders", Outcome: "?"})
			}},
		}},
		{"recovery type", []piece{
			{"", func(*Run, *Objectives) {}},
			{"", func(r *Run, _ *Objectives) { r.Recovery = Recovery{Met: Fail} }}, // none is required or predicted
			{"U", func(r *Run, _ *Objectives) { r.Recovery.Met = Unknown }},
			{"C", func(r *Run, _ *Objectives) { r.Recovery = Recovery{Required: "precise", Observed: "gap", Met: Fail} }},
		}},
		{"loss", []piece{
			{"", func(*Run, *Objectives) {}},
			{"", func(r *Run, o *Objectives) { r.RPA, o.RPO = nil, 0 }},
			{"", func(r *Run, o *Objectives) { r.RPA, o.RPO = &lost, lost }}, // at the objective is within it
			{"U", func(r *Run, _ *Objectives) { r.RPA = nil }},
			{"L", func(r *Run, _ *Objectives) { r.RPA = &lost }},
		}},
		{"time", []piece{
			{"", func(*Run, *Objectives) {}},
			{"", func(_ *Run, o *Objectives) { o.RTO = 0 }},
			{"", func(_ *Run, o *Objectives) { o.RTO = 2 * time.Second }},
			{"U", func(r *Run, _ *Objectives) { r.RTA = nil }},
			{"HT", func(r *Run, _ *Objectives) { r.RTA = &long }}, // five times the usual, besides
		}},
		{"harm", []piece{
			{"", func(*Run, *Objectives) {}},
			{"U", func(r *Run, _ *Objectives) { r.Harm = Finding{} }},
			{"H", func(r *Run, _ *Objectives) { r.Harm.Outcome = Fail }},
		}},
		{"phases", []piece{
			{"", func(*Run, *Objectives) {}},
			{"", func(r *Run, _ *Objectives) { r.Phases = nil }},
			{"U", func(r *Run, _ *Objectives) { r.Phases[0].Took = nil }},
			{"H", func(r *Run, _ *Objectives) { r.Phases[0].Took = &ms(2000)[0] }},
		}},
	}
}

// Every combination of what a drill may show has the verdict that the worst of it asks
// for, and names each.
func judgeCombinations(t *testing.T) {
	all, history := parts(), steady(5)
	chosen := make([]int, len(all))
	count, seen := 0, map[Outcome]int{}
	var each func(i int)
	each = func(i int) {
		if i < len(all) {
			for chosen[i] = range all[i].cases {
				each(i + 1)
			}
			return
		}
		now, o, marks := good(), objectives, ""
		for i, p := range all {
			p.cases[chosen[i]].set(&now, &o)
			marks += p.cases[chosen[i]].mark
		}
		got := Judge(now, history, o)
		ran := now.RTA != nil || now.RPA != nil || len(now.Phases) > 0 && now.Phases[0].Took != nil
		outcome, code := expected(marks, ran)
		if got.Outcome != outcome || got.ExitCode != code {
			t.Errorf("%v (%s): %s with %d, want %s with %d: %v", chosen, marks, got.Outcome, got.ExitCode, outcome, code, got.Reasons)
		}
		if (len(got.Reasons) == 0) != (outcome == Passed) {
			t.Errorf("%v: %s for %v", chosen, got.Outcome, got.Reasons)
		}
		for mark, kinds := range map[string][]Kind{
			"R": {ByRefusal, ByInterruption},
			"I": {ByInterruption},
			"C": {ByCheck, ByRecovery},
			"L": {ByRPO},
			"T": {ByRTO},
			"H": {ByHarm, ByTrend},
			"U": {ByUnknown},
		} {
			named := slices.ContainsFunc(got.Reasons, func(r Reason) bool { return slices.Contains(kinds, r.Kind) })
			if strings.Contains(marks, mark) && !named {
				t.Errorf("%v: nothing about %v in %v", chosen, kinds, got.Reasons)
			}
		}
		count++
		seen[got.Outcome]++
	}
	each(0)
	if count != 2*2*5*4*5*5*3*4 || len(seen) != 5 {
		t.Errorf("%d combinations: %v", count, seen)
	}
}

// expected is the verdict on what has these marks, by the rules in the order in which
// an operator reads them.
func expected(marks string, ran bool) (Outcome, int) {
	has := func(mark string) bool { return strings.Contains(marks, mark) }
	if has("R") && !ran {
		return Refused, 4
	}
	for _, hard := range []struct {
		mark string
		code int
	}{{"C", 9}, {"L", 10}, {"T", 11}} {
		if has(hard.mark) {
			return Failed, hard.code
		}
	}
	switch {
	case has("R") || has("I"):
		return Interrupted, 5
	case has("H"):
		return Failed, 9
	case has("U"):
		return Partial, 12
	}
	return Passed, 0
}

func TestJudgeNames(t *testing.T) {
	now := good()
	now.Interrupted = []string{"standby was 9s behind for 30s"}
	now.Checks = append(now.Checks,
		Finding{"balance", Fail, "wanted 10, got 9"}, Finding{"orders", Unknown, "no answer in 5s"})
	now.Recovery = Recovery{Required: "precise", Observed: "gap", Met: Fail}
	now.RPA, now.RTA = &ms(2500)[0], &ms(12_000)[0]
	now.Harm = Finding{"lag", Fail, "p99 of 9s, and 2s are allowed"}
	now.Phases = append(now.Phases, Phase{Name: "promote"})
	now.Phases[0].Took = &ms(1250.4)[0]
	history := steady(9)
	for i := range 4 {
		history[5+i].Phases[0].Took = &ms(1250)[0]
	}
	got := Judge(now, history, objectives)
	want := []string{
		"check balance failed: wanted 10, got 9",
		"the recovery type is gap, and precise is required",
		"2.5s of acknowledged work was lost, and the RPO is 1s",
		"the recovery took 12s, and the RTO is 10s",
		"the live protection was harmed: p99 of 9s, and 2s are allowed",
		"phase apply has become slower by 250ms: median 1.25s of the newest 5 runs, 1s of 5 before them (p 0.00397)",
		"phase total took 12s, and the median of 5 runs is 2s",
		"standby was 9s behind for 30s",
		"check orders has no answer: no answer in 5s",
		"phase promote was not measured",
	}
	if diff := cmp.Diff(want, got.Sentences()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got.Proof.Passes != 9 || got.Proof.Misses != 1 {
		t.Errorf("proof: %+v", got.Proof)
	}
}

// Nothing measured is a verdict too, and no time in it is 0.
func TestJudgeNothing(t *testing.T) {
	got := Judge(Run{}, nil, Objectives{})
	if got.Outcome != Partial || got.ExitCode != 12 {
		t.Errorf("%s with %d", got.Outcome, got.ExitCode)
	}
	negative := good()
	negative.RTA, negative.RPA, negative.Phases[0].Took = new(time.Duration(-1)), new(time.Duration(-1)), new(time.Duration(-1))
	got = Judge(negative, steady(9), objectives)
	want := []string{"what was lost was not measured, and the RPO is 1s", "how long the recovery took was not measured", "phase apply was not measured"}
	if diff := cmp.Diff(want, got.Sentences()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	text, err := json.Marshal(Compare(Run{Phases: []Phase{{Name: "apply"}}}, nil)[0])
	if want := `{"phase":"apply","took_ns":null,"baseline_runs":0,"newest_runs":0,"baseline_median_ns":null,` +
		`"newest_median_ns":null,"shift_ns":null,"ratio":null,"p":null,"p_limit":null,"trend":"unknown"}`; err != nil || string(text) != want {
		t.Errorf("%s, %v", text, err)
	}
}

// TestJudgePredicted: a type that is weaker than its prediction fails a drill also where
// none is required, and one that is not known makes it partial.
func TestJudgePredicted(t *testing.T) {
	for _, tc := range []struct {
		met     Found
		outcome Outcome
		says    string
	}{
		{Fail, Failed, "the recovery type is gap, and precise is predicted: outputs are missing"},
		{Unknown, Partial, "whether the recovery type is as it must be is not known, and precise is predicted: outputs are missing"},
		{Pass, Passed, ""},
	} {
		took := time.Second
		now := Run{
			RTA: &took, Checks: []Finding{{Name: "content", Outcome: Pass}}, Harm: Finding{Outcome: Pass},
			Recovery: Recovery{Predicted: "precise", Observed: "gap", Met: tc.met, Why: "outputs are missing"},
		}
		v := Judge(now, nil, Objectives{})
		if said := strings.Join(v.Sentences(), "\n"); v.Outcome != tc.outcome || said != tc.says {
			t.Errorf("%s: %s, %q", tc.met, v.Outcome, said)
		}
	}
}
