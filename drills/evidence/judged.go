package evidence

import (
	"slices"
	"strings"

	"github.com/tidegate/tidegate/drills/judge"
)

// Kinds of checks that are judged by their kind, or made in more than one place.
const (
	KindHarm      = "harm"      // the drill did no harm to the live protection: what calls a drill off
	KindAssertion = "assertion" // a service-level assertion, judged as other checks are
)

// Judged is the drill as it is judged, and as later ones are compared with it. Why it
// was refused or interrupted is not in it.
func (r *Report) Judged() judge.Run {
	out := judge.Run{
		ID: r.ID.String(), Started: r.Started.At, RTA: r.Recovered.Actual, RPA: r.Lost.Actual, Outcome: judge.Outcome(r.Verdict.Outcome), Lint: r.Level == L0,
		Stratum: judge.Stratum{
			Service: string(r.Service), Level: string(r.Level), Scenario: r.Scenario, Mode: "unknown",
			Backlog: judge.ClassOf(r.Backlog.Records, r.Backlog.Bytes),
		},
		Recovery: r.Recovery.judged(),
	}
	if m := r.Gate.Mode; m != nil {
		out.Stratum.Mode = string(*m)
	}
	for _, p := range r.Phases {
		one := judge.Phase{Name: p.Name, Took: p.Took, Absent: p.Absent}
		if p.Noise != nil {
			one.Noise = *p.Noise
		}
		out.Phases = append(out.Phases, one)
	}
	for _, c := range slices.Concat(r.Isolation, r.Checks) {
		f := judge.Finding{Name: c.Name, Outcome: judge.Found(c.Outcome), Why: c.Why}
		if c.Kind == KindHarm {
			out.Harm = worse(out.Harm, f)
			continue
		}
		out.Checks = append(out.Checks, f)
	}
	return out
}

// Conclude writes a verdict into the report.
func (r *Report) Conclude(v judge.Verdict) {
	r.Verdict = Verdict{Outcome: Outcome(v.Outcome), Reasons: v.Sentences()}
	r.Compared = []Compared{}
	for i := range v.Compared {
		c := &v.Compared[i]
		r.Compared = append(r.Compared, Compared{
			Phase: c.Phase, Baseline: c.Baseline, Newest: c.Newest, BaselineMedian: c.BaselineMedian, NewestMedian: c.NewestMedian,
			Shift: c.Shift, Ratio: c.Ratio, P: c.P, Limit: c.Limit, Finding: string(c.Trend),
		})
	}
	r.Proven = &Proven{Passes: v.Proof.Passes, Misses: v.Proof.Misses, Percentile: v.Proof.Percentile, Confidence: v.Proof.Confidence}
}

// worse is the graver of two findings; the zero one is none.
func worse(a, b judge.Finding) judge.Finding {
	gravity := map[judge.Found]int{judge.Fail: 2, judge.Unknown: 1}
	if a == (judge.Finding{}) || gravity[b.Outcome] > gravity[a.Outcome] {
		return b
	}
	return a
}

func (r *Recovery) judged() (out judge.Recovery) {
	if r.Required != nil {
		out.Required = *r.Required
	}
	if r.Predicted != nil {
		out.Predicted = *r.Predicted
	}
	if r.Observed != nil {
		out.Observed = *r.Observed
	}
	switch wordOf(r.Outcome) {
	case "holds", "lucky":
		out.Met = judge.Pass
		return out
	case "failed":
		out.Met = judge.Fail
	default:
		out.Met = judge.Unknown
	}
	out.Why = strings.Join(r.Reasons, "; ")
	return out
}
