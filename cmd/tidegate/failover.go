package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"connectrpc.com/connect"
	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/internal/cli"
)

func failoverCommand() *ucli.Command {
	return &ucli.Command{
		Name:      "failover",
		Usage:     "make another site the writer of a service",
		ArgsUsage: "SERVICE",
		Description: "Evaluates every rule, prints the plan and its expected times, then fences the old writer,\n" +
			"completes the log, promotes, applies and re-routes. It goes on at the gate when this command ends.",
		Flags: operatorFlags(cli.OutputFlag(),
			&ucli.StringFlag{Name: "target", Usage: "standby `NODE` to promote; chosen by the gate when absent"},
			&ucli.BoolFlag{Name: "dry-run", Usage: "evaluate the rules and print the plan; change nothing"},
			&ucli.BoolFlag{Name: "accept-loss", Usage: "go on although zero loss or the bound cannot be proven"},
			&ucli.BoolFlag{Name: "attest-primary-down", Usage: "vouch that the old writer cannot put anything out any more"},
			&ucli.StringFlag{Name: "reason", Usage: "`WHY`, for the record"}),
		Action: failover,
	}
}

func failover(c *ucli.Context) error {
	args, err := cli.Args(c, "SERVICE")
	if err != nil {
		return err
	}
	dry := c.Bool("dry-run")
	if !dry && c.String("reason") == "" {
		return cli.Usagef("failover: want --reason, it goes on the record")
	}
	o, err := newOperator(c)
	if err != nil {
		return err
	}
	req := &pb.FailoverRequest{
		Service: args[0], Target: c.String("target"), DryRun: dry, AcceptLoss: c.Bool("accept-loss"),
		AttestPrimaryDown: c.Bool("attest-primary-down"), Reason: c.String("reason"),
	}
	show := &follower{w: c.App.Writer, json: cli.WantsJSON(c)}
	err = o.do(c.Context, "failover", args[0], func(client tidegatev1connect.OperatorServiceClient) error {
		return show.follow(c.Context, client, req)
	})
	if err != nil {
		show.rules(err)
		return err
	}
	return show.end(dry)
}

// follower prints a failover while it goes on.
type follower struct {
	w    io.Writer
	json bool
	last *pb.Plan
}

// errCutOff is not unreachable: the gate had taken the request, and asking
// another gate to start anew would make two plans of one.
var errCutOff = errors.New("connection lost after the plan was made")

func (f *follower) follow(ctx context.Context, client tidegatev1connect.OperatorServiceClient, req *pb.FailoverRequest) error {
	stream, err := client.Failover(ctx, connect.NewRequest(req))
	if err != nil {
		return err
	}
	for stream.Receive() {
		if err := f.event(stream.Msg()); err != nil {
			return err
		}
	}
	err = stream.Err()
	// An error that did not cross the wire is the connection's: the gate died, or the way to it.
	lost := err != nil && ctx.Err() == nil && (!connect.IsWireError(err) || cli.CodeOf(cli.Remote("", "", err)) == cli.Unreachable)
	if lost && f.last != nil {
		return connect.NewError(connect.CodeUnknown, fmt.Errorf("%w; it goes on at the gate, see `tidegate plan show %s`: %w", errCutOff, f.last.GetId(), err))
	}
	return errors.Join(err, stream.Close())
}

func (f *follower) event(m *pb.FailoverResponse) error {
	if f.json {
		f.keep(m)
		return cli.PrintEvent(f.w, m)
	}
	switch {
	case m.GetPlan() != nil:
		writePlanHead(f.w, m.GetPlan())
		if m.GetPlan().GetOutcome() == pb.PlanOutcome_PLAN_OUTCOME_DRY_RUN {
			writeSteps(f.w, m.GetPlan())
		}
	case m.GetStep() != nil:
		writeStep(f.w, m.GetStep())
	case m.GetDone() != nil:
		writePlanEnd(f.w, m.GetDone())
	}
	f.keep(m)
	return nil
}

func (f *follower) keep(m *pb.FailoverResponse) {
	if p := m.GetDone(); p != nil {
		f.last = p
	} else if p := m.GetPlan(); p != nil {
		f.last = p
	}
}

// rules prints the verdicts behind a refusal, one a line, unless a plan has shown them.
func (f *follower) rules(err error) {
	var refused *api.RulesError
	if f.json || f.last != nil || !errors.As(err, &refused) {
		return
	}
	writeRules(f.w, refused.Rules)
}

func (f *follower) end(dry bool) error {
	switch {
	case f.last == nil:
		return &tidegate.Error{Op: "failover", Class: tidegate.Transient, Err: errors.New("the gate ended the call without a plan")}
	case dry:
		return dryRunResult(f.last)
	}
	return planResult(f.last)
}

// dryRunResult is a refusal when a rule would refuse: a rehearsal's exit code
// must be the real one's.
func dryRunResult(p *pb.Plan) error {
	refused := &api.RulesError{Rules: p.GetRules()}
	if len(refused.Failing()) == 0 {
		return nil
	}
	return &tidegate.Error{Op: "failover", Subject: p.GetService(), Class: tidegate.Refused, Err: refused, Hint: p.GetHint()}
}

func planResult(p *pb.Plan) error {
	fail := func(class tidegate.Class, text string) error {
		if p.GetError() != "" {
			text += ": " + p.GetError()
		}
		return &tidegate.Error{Op: "failover", Subject: p.GetService(), Class: class, Err: errors.New(text), Hint: p.GetHint()}
	}
	//exhaustive:enforce
	switch p.GetOutcome() {
	case pb.PlanOutcome_PLAN_OUTCOME_DONE, pb.PlanOutcome_PLAN_OUTCOME_DRY_RUN:
		return nil
	case pb.PlanOutcome_PLAN_OUTCOME_REFUSED:
		return fail(tidegate.Refused, "refused, nothing changed")
	case pb.PlanOutcome_PLAN_OUTCOME_SUPERSEDED:
		return fail(tidegate.Fenced, "another plan took over")
	case pb.PlanOutcome_PLAN_OUTCOME_FAILED:
		return fail(tidegate.Permanent, "stopped on the way")
	case pb.PlanOutcome_PLAN_OUTCOME_RUNNING, pb.PlanOutcome_PLAN_OUTCOME_UNSPECIFIED:
	}
	return fail(tidegate.Permanent, "still running, see `tidegate plan show "+p.GetId()+"`")
}

func writePlanHead(w io.Writer, p *pb.Plan) {
	fmt.Fprintf(w, "plan %s: %s of %s", p.GetId(), enumWord(p.GetKind()), p.GetService())
	if t := p.GetTarget(); t.GetNode() != "" {
		fmt.Fprintf(w, " to %s", t.GetNode())
		if t.GetSite() != "" {
			fmt.Fprintf(w, " (site %s)", t.GetSite())
		}
	}
	fmt.Fprintln(w)
	if p.GetImpact() != "" {
		fmt.Fprintln(w, "impact:", p.GetImpact())
	}
	if p.GetLoss() != nil {
		fmt.Fprintln(w, "loss:", lossText(p.GetLoss()))
	}
	writeRules(w, p.GetRules())
	fmt.Fprintf(w, "expected: %s\n", span(p.GetExpected(), cli.Unknown))
}

func writeRules(w io.Writer, rules []*pb.RuleVerdict) {
	table := cli.NewTable("rule", "holds", "why", "override")
	for _, r := range rules {
		holds := "no"
		if r.GetHolds() {
			holds = "yes"
		}
		table.Row(r.GetRule(), holds, r.GetReason(), r.GetOverride())
	}
	_, _ = table.WriteTo(w) // the next write reports a broken pipe
}

func writeSteps(w io.Writer, p *pb.Plan) {
	for _, s := range p.GetSteps() {
		writeStep(w, s)
	}
}

func writeStep(w io.Writer, s *pb.PlanStep) {
	took := ""
	if s.GetTook() != nil && s.GetState() != "running" {
		took = "  " + cli.Span(s.GetTook().AsDuration())
	}
	if s.GetExpected() != nil && s.GetState() != "running" {
		took += " (expected " + cli.Span(s.GetExpected().AsDuration()) + ")"
	}
	fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("%-29s %-8s%s  %s", s.GetName(), s.GetState(), took, s.GetDetail()), " "))
}

func writePlanEnd(w io.Writer, p *pb.Plan) {
	fmt.Fprintf(w, "plan %s: %s\n", p.GetId(), enumWord(p.GetOutcome()))
	for _, s := range p.GetStreams() {
		fmt.Fprintf(w, "  %s: epoch %d -> %d", s.GetName(), s.GetFromEpoch(), s.GetEpoch())
		if s.GetEpoch() > s.GetFromEpoch() { // the end is chosen after the epoch is reserved
			fmt.Fprintf(w, ", log ends at batch %d", s.GetHead().GetSeq())
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
	if p.GetKind() == pb.PlanKind_PLAN_KIND_FAILOVER {
		fmt.Fprintln(w, "rpo actual:", span(p.GetRpoActual(), cli.Unknown))
	}
	writePhases(w, p.GetPhases())
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

// writePhases shows how long each phase took.
func writePhases(w io.Writer, p *pb.Phases) {
	if len(p.GetPhases()) == 0 {
		return
	}
	table := cli.NewTable("phase", "took", "ended")
	for _, x := range p.GetPhases() {
		at := "did not happen"
		if x.GetAt() != nil {
			at = x.GetEnds() + " " + x.GetAt().AsTime().Format("15:04:05.000")
		}
		table.Row(x.GetName(), span(x.GetTook(), cli.Unknown), at)
	}
	_, _ = table.WriteTo(w) // the next write reports a broken pipe
	fmt.Fprintf(w, "rta: %s, from the decision: %s\n", span(p.GetRta(), cli.Unknown), span(p.GetControllable(), cli.Unknown))
}
