package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/cli"
)

func writePlanHead(w io.Writer, p *pb.Plan) {
	fmt.Fprintf(w, "plan %s: %s of %s", p.GetId(), enumWord(p.GetKind()), p.GetService())
	if t := p.GetTarget(); t.GetNode() != "" {
		fmt.Fprintf(w, " to %s", t.GetNode())
		if t.GetSite() != "" {
			fmt.Fprintf(w, " (site %s)", t.GetSite())
		}
	}
	fmt.Fprintln(w)
	if p.GetParentId() != "" {
		fmt.Fprintln(w, "second part of: plan", p.GetParentId())
	}
	if p.GetImpact() != "" {
		fmt.Fprintln(w, "impact:", p.GetImpact())
	}
	if p.GetLoss() != nil {
		fmt.Fprint(w, "loss: ", lossText(p.GetLoss()))
		if p.GetLoss().GetKind() != pb.LossKind_LOSS_KIND_ZERO && p.GetOutcome() == pb.PlanOutcome_PLAN_OUTCOME_DRY_RUN {
			fmt.Fprintf(w, "; to accept: --accept-loss=%s", lossToAccept(p.GetLoss()))
		}
		fmt.Fprintln(w)
	}
	writeRules(w, p.GetRules())
	fmt.Fprintf(w, "expected: %s", span(p.GetExpected(), cli.Unknown))
	if p.GetPauseExpected() != nil {
		fmt.Fprintf(w, ", users wait for %s of it", span(p.GetPauseExpected(), cli.Unknown))
	}
	fmt.Fprintln(w)
}

// verdict is a rule's answer in one word: what is not known is not "no".
func verdict(r *pb.RuleVerdict) string {
	switch {
	case r.GetOverriddenBy() != nil:
		return "overridden"
	case r.GetHolds():
		return "yes"
	case !r.GetKnown():
		return "unknown"
	}
	return "no"
}

func writeRules(w io.Writer, rules []*pb.RuleVerdict) {
	table := cli.NewTable("rule", "holds", "why", "override")
	for _, r := range rules {
		override := r.GetOverride()
		if by := r.GetOverriddenBy(); by != nil {
			override = overrideText(by)
		}
		if r.GetHolds() && r.GetOverriddenBy() == nil {
			override = ""
		}
		table.Row(r.GetRule(), verdict(r), r.GetReason(), override)
	}
	_, _ = table.WriteTo(w) // the next write reports a broken pipe
}

func overrideText(o *pb.Override) string {
	text := fmt.Sprintf("%s: %s", o.GetActor(), o.GetReason())
	if o.GetExpires() != nil {
		text += ", until " + o.GetExpires().AsTime().Format(time.RFC3339)
	}
	return text
}

// writeExpected shows what each step is expected to take, and what users notice.
func writeExpected(w io.Writer, p *pb.Plan) {
	table := cli.NewTable("step", "expected", "from", "users notice")
	for _, s := range p.GetSteps() {
		table.Row(s.GetName(), span(s.GetExpected(), cli.Unknown), s.GetExpectedFrom(), s.GetImpact())
	}
	_, _ = table.WriteTo(w) // the next write reports a broken pipe
}

func writeSteps(w io.Writer, p *pb.Plan) {
	for _, s := range p.GetSteps() {
		writeStep(w, s, 0, false)
	}
}

// writeStep prints a step; left is what remains of the whole plan, if that is known.
func writeStep(w io.Writer, s *pb.PlanStep, left time.Duration, known bool) {
	took := ""
	if s.GetTook() != nil && s.GetState() != "running" {
		took = "  " + cli.Span(s.GetTook().AsDuration())
	}
	if s.GetExpected() != nil {
		took += " (expected " + cli.Span(s.GetExpected().AsDuration()) + ")"
	}
	if known && s.GetState() == "running" {
		took += ", about " + cli.Span(left) + " to go"
	}
	fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("%-29s %-8s%s  %s", s.GetName(), s.GetState(), took, s.GetDetail()), " "))
}

func writePlanEnd(w io.Writer, p *pb.Plan) {
	fmt.Fprintf(w, "plan %s: %s%s\n", p.GetId(), enumWord(p.GetOutcome()), abortText(p.GetAbort()))
	for _, s := range p.GetStreams() {
		fmt.Fprintf(w, "  %s: epoch %d -> %d", s.GetName(), s.GetFromEpoch(), s.GetEpoch())
		if s.GetEpoch() > s.GetFromEpoch() { // the end is chosen after the epoch is reserved
			fmt.Fprintf(w, ", log ends at batch %d", s.GetHead().GetSeq())
		}
		if h := s.GetHandover(); h != nil {
			fmt.Fprintf(w, ", handed over at batch %d", h.GetHead().GetSeq())
		}
		if s.GetLoss() != nil { // a failover's alone
			fmt.Fprintf(w, ": %s", lossText(s.GetLoss()))
		}
		fmt.Fprintln(w)
	}
	if p.GetLoss() != nil {
		fmt.Fprintln(w, "loss:", lossText(p.GetLoss()))
		writeMeasured(w, p.GetLoss().GetMeasured())
	}
	if unplanned(p.GetKind()) {
		fmt.Fprintln(w, "rpo actual:", rpoText(p))
	}
	writePhases(w, p)
	if p.GetTook() != nil {
		fmt.Fprintf(w, "took: %s, expected %s", span(p.GetTook(), cli.Unknown), span(p.GetExpected(), cli.Unknown))
		if p.GetPauseActual() != nil {
			fmt.Fprintf(w, "; users waited for %s, expected %s", span(p.GetPauseActual(), cli.Unknown), span(p.GetPauseExpected(), cli.Unknown))
		}
		fmt.Fprintln(w)
	}
}

// unplanned reports whether a plan of this kind may lose something.
func unplanned(k pb.PlanKind) bool {
	return k == pb.PlanKind_PLAN_KIND_FAILOVER || k == pb.PlanKind_PLAN_KIND_TAKEOVER
}

// planned reports whether the old writer takes part.
func planned(k pb.PlanKind) bool {
	return k == pb.PlanKind_PLAN_KIND_SWITCHOVER || k == pb.PlanKind_PLAN_KIND_FAILBACK || k == pb.PlanKind_PLAN_KIND_RECONFIGURE
}

// rpoText is the span over which acknowledged work was lost, or what it is at most.
func rpoText(p *pb.Plan) string {
	if p.RpoActual == nil && p.GetRpoActualMax() != nil {
		return "at most " + cli.Span(p.GetRpoActualMax().AsDuration()) + "; which of what was left behind anybody was told of is not known"
	}
	return span(p.GetRpoActual(), cli.Unknown)
}

func writeMeasured(w io.Writer, m *pb.MeasuredLoss) {
	if m == nil {
		return
	}
	released := fmt.Sprintf("%d released", m.GetReleasedRecords())
	if !m.GetReleasedKnown() {
		released = "at least " + released
	}
	fmt.Fprintf(w, "measured from %d quarantined tails: %d records, %s, over %s; %s\n",
		m.GetBundles(), m.GetRecords(), cli.Size(m.GetBytes()), span(m.GetWindow(), cli.Unknown), released)
}

// writePhases shows how long each phase took. An unplanned change is measured
// whole: of that also what did not happen is said.
func writePhases(w io.Writer, plan *pb.Plan) {
	p, whole := plan.GetPhases(), !planned(plan.GetKind())
	if len(p.GetPhases()) == 0 {
		return
	}
	table := cli.NewTable("phase", "took", "ended")
	for _, x := range p.GetPhases() {
		if x.GetAt() == nil && !whole {
			continue
		}
		at := "did not happen"
		if x.GetAt() != nil {
			at = x.GetEnds() + " " + x.GetAt().AsTime().Format("15:04:05.000")
		}
		table.Row(x.GetName(), span(x.GetTook(), cli.Unknown), at)
	}
	_, _ = table.WriteTo(w) // the next write reports a broken pipe
	if whole || p.GetRta() != nil {
		fmt.Fprintf(w, "rta: %s, from the decision: %s\n", span(p.GetRta(), cli.Unknown), span(p.GetControllable(), cli.Unknown))
	}
}
