package judge

import (
	"fmt"
	"slices"
)

// Outcome is what came of a drill.
type Outcome string

// The outcomes.
const (
	Passed      Outcome = "passed"      // all that was asked is known, and is as it must be
	Partial     Outcome = "partial"     // nothing failed, and something that must be known is not
	Failed      Outcome = "failed"      // something is known to be wrong
	Interrupted Outcome = "interrupted" // called off before its end, and nothing failed until then
	Refused     Outcome = "refused"     // it did not start
)

// The exit codes of docs/operating/exit-codes.md that a verdict can have.
const (
	codePassed      = 0
	codeRefused     = 4
	codeInterrupted = 5
	codeFailed      = 9
	codeRPO         = 10
	codeRTO         = 11
	codePartial     = 12
)

// Kind is what a reason is about.
type Kind string

// The kinds, the gravest first; reasons stand in this order.
const (
	ByRefusal      Kind = "refused"
	ByCheck        Kind = "check"
	ByRecovery     Kind = "recovery-type"
	ByRPO          Kind = "rpo"
	ByRTO          Kind = "rto"
	ByHarm         Kind = "harm"
	ByTrend        Kind = "trend"
	ByInterruption Kind = "interrupted"
	ByUnknown      Kind = "unknown"
)

// Reason is one cause of a verdict other than passed.
type Reason struct {
	Kind Kind   `json:"kind"`
	Text string `json:"text"` // names the thing; lower case, no full stop
}

// Verdict is what a drill has shown.
type Verdict struct {
	Outcome  Outcome    `json:"outcome"`
	ExitCode int        `json:"exit_code"`
	Reasons  []Reason   `json:"reasons"` // the gravest first; none only when passed
	Compared []Compared `json:"compared"`
	Proof    Proof      `json:"proof"` // by the runs of this stratum, with this one
}

// Sentences are the texts of the reasons.
func (v Verdict) Sentences() []string {
	out := make([]string, 0, len(v.Reasons))
	for _, r := range v.Reasons {
		out = append(out, r.Text)
	}
	return out
}

// Judge decides what now has shown, by itself and against history, which is oldest
// first, as the chain of reports has it.
//
//  1. A run in which something is known to be wrong (a check, the recovery type, RPO,
//     RTO) has failed, whether it came to its end or not.
//  2. A run that has measured nothing and names why is refused.
//  3. A run that was called off is interrupted; that it was slow or harmed the live
//     protection may be why, and is named.
//  4. A run that harmed the live protection, or became slower, has failed.
//  5. A run of which anything is unknown that must be known, or that no check has
//     passed, is partial.
//  6. What is left has passed.
func Judge(now Run, history []Run, objectives Objectives) Verdict {
	v := Verdict{Compared: Compare(now, history)}
	add := func(kind Kind, format string, args ...any) {
		v.Reasons = append(v.Reasons, Reason{kind, fmt.Sprintf(format, args...)})
	}
	refused := len(now.Refused) > 0 && !now.ran()
	called := ByRefusal
	if !refused {
		called = ByInterruption // what has run was not refused, whatever it is called
	}
	for _, why := range now.Refused {
		add(called, "%s", why)
	}
	for _, why := range now.Interrupted {
		add(ByInterruption, "%s", why)
	}
	v.wrong(now, objectives, add)
	unknown(now, objectives, add)
	slices.SortStableFunc(v.Reasons, func(a, b Reason) int { return gravity(a.Kind) - gravity(b.Kind) })
	v.Outcome, v.ExitCode = conclude(v.Reasons, refused)
	v.Proof = proofOf(append(stratum(history, now), trial(v.Outcome, now.RTA)), objectives)
	return v
}

// wrong adds what is known to be wrong.
func (v *Verdict) wrong(now Run, o Objectives, add func(Kind, string, ...any)) {
	for _, c := range now.Checks {
		if c.Outcome == Fail {
			add(ByCheck, "check %s failed%s", c.Name, because(c.Why))
		}
	}
	if r := now.Recovery; r.asked() && r.Met == Fail {
		seen := r.Observed
		if seen == "" {
			seen = "not made out"
		}
		add(ByRecovery, "the recovery type is %s, and %s%s", seen, r.against(), because(r.Why))
	}
	if rpa := known(now.RPA); o.RPO > 0 && rpa != nil && *rpa > o.RPO {
		add(ByRPO, "%s of acknowledged work was lost, and the RPO is %s", *rpa, o.RPO)
	}
	if rta := known(now.RTA); o.RTO > 0 && rta != nil && *rta > o.RTO {
		add(ByRTO, "the recovery took %s, and the RTO is %s", *rta, o.RTO)
	}
	if now.Harm.Outcome == Fail {
		add(ByHarm, "the live protection was harmed%s", because(now.Harm.Why))
	}
	for _, c := range v.Compared {
		if c.Trend.Regressed() {
			add(ByTrend, "%s", c.sentence())
		}
	}
}

// unknown adds what must be known and is not.
func unknown(now Run, o Objectives, add func(Kind, string, ...any)) {
	passed := false
	for _, c := range now.Checks {
		passed = passed || c.Outcome == Pass
		if c.unknown() {
			add(ByUnknown, "check %s has no answer%s", c.Name, because(c.Why))
		}
	}
	if !passed {
		add(ByUnknown, "no check has passed")
	}
	if r := now.Recovery; r.asked() && r.Met != Pass && r.Met != Fail {
		add(ByUnknown, "whether the recovery type is as it must be is not known, and %s%s", r.against(), because(r.Why))
	}
	if now.Lint {
		return
	}
	if o.RPO > 0 && known(now.RPA) == nil {
		add(ByUnknown, "what was lost was not measured, and the RPO is %s", o.RPO)
	}
	if known(now.RTA) == nil {
		add(ByUnknown, "how long the recovery took was not measured")
	}
	if now.Harm.unknown() {
		add(ByUnknown, "whether the live protection was harmed is not known%s", because(now.Harm.Why))
	}
	for _, p := range now.Phases {
		if !p.Absent && known(p.Took) == nil {
			add(ByUnknown, "phase %s was not measured", p.Name)
		}
	}
}

// conclude is the outcome that the rules of [Judge] draw from reasons in their order.
func conclude(reasons []Reason, refused bool) (Outcome, int) {
	has := func(k Kind) bool {
		return slices.ContainsFunc(reasons, func(r Reason) bool { return r.Kind == k })
	}
	switch {
	case refused:
		return Refused, codeRefused
	case has(ByCheck), has(ByRecovery):
		return Failed, codeFailed
	case has(ByRPO):
		return Failed, codeRPO
	case has(ByRTO):
		return Failed, codeRTO
	case has(ByInterruption):
		return Interrupted, codeInterrupted
	case has(ByHarm), has(ByTrend):
		return Failed, codeFailed
	case has(ByUnknown):
		return Partial, codePartial
	}
	return Passed, codePassed
}

var gravest = []Kind{ByRefusal, ByCheck, ByRecovery, ByRPO, ByRTO, ByHarm, ByTrend, ByInterruption, ByUnknown}

func gravity(k Kind) int { return slices.Index(gravest, k) }

// sentence says how much slower a phase is, and by what evidence.
func (c Compared) sentence() string {
	if c.Trend == Doubled {
		return fmt.Sprintf("phase %s took %s, and the median of %d runs is %s", c.Phase, span(c.Took), c.Baseline, span(c.BaselineMedian))
	}
	return fmt.Sprintf("phase %s has become slower by %s: median %s of the newest %d runs, %s of %d before them (p %s)",
		c.Phase, span(c.Shift), span(c.NewestMedian), c.Newest, span(c.BaselineMedian), c.Baseline, number(c.P))
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}
