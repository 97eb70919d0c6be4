package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/internal/cli"
)

// roleVerb is one of the four commands that change who writes a service.
type roleVerb struct {
	name, usage, description string
	kind                     pb.PlanKind
}

func roleVerbs() []roleVerb {
	return []roleVerb{
		{
			"failover", "make another site the writer of a service: the primary is lost, or treated as lost",
			"Evaluates every rule, prints the plan and its expected times, then fences the old writer,\n" +
				"completes the log, promotes, applies and re-routes. It goes on at the gate when this command ends.",
			pb.PlanKind_PLAN_KIND_FAILOVER,
		},
		{
			"takeover", "a failover without a fence quorum, for when too few standby nodes are left",
			"Goes on with whatever standby nodes answer. What is lost is then unknown, and members that did not\n" +
				"answer are named. Needs --accept-loss, and that you type the service's name, or --yes.",
			pb.PlanKind_PLAN_KIND_TAKEOVER,
		},
		{
			"switchover", "move a service in an orderly way: the writer drains, hands over and loses nothing",
			"Can be called off with `tidegate plan abort` until the old writer has handed over.",
			pb.PlanKind_PLAN_KIND_SWITCHOVER,
		},
		{
			"failback", "move a service back to a node of its old site, once that follows again",
			"Makes the node a counted member where it is not one yet, then switches over to it.",
			pb.PlanKind_PLAN_KIND_FAILBACK,
		},
	}
}

func roleCommands() []*ucli.Command {
	var all []*ucli.Command
	for _, v := range roleVerbs() {
		all = append(all, &ucli.Command{
			Name: v.name, Usage: v.usage, ArgsUsage: "SERVICE", Description: v.description,
			Flags: operatorFlags(v.flags()...), Action: func(c *ucli.Context) error { return changeRole(c, v) },
		})
	}
	return all
}

func (v roleVerb) flags() []ucli.Flag {
	flags := []ucli.Flag{
		cli.OutputFlag(),
		&ucli.StringFlag{Name: "target", Aliases: []string{"to"}, Usage: "`NODE` whose agent becomes the writer; chosen by the gate when absent"},
		&ucli.BoolFlag{Name: "dry-run", Usage: "evaluate the rules and print the plan; change nothing"},
		&ucli.GenericFlag{Name: "override", Value: &sentences{}, Usage: "go on although `RULE=REASON` does not hold; repeat it for each rule"},
		&ucli.DurationFlag{Name: "expires", Usage: "how `LONG` the overrides count", DefaultText: "1h"},
		&ucli.StringFlag{Name: "reason", Usage: "`WHY`, for the record"},
	}
	if planned(v.kind) {
		return append(flags, &ucli.DurationFlag{Name: "drain-timeout", Usage: "call it off when the writer has not handed over after this `TIME`", DefaultText: "30s"})
	}
	return append(flags,
		&ucli.StringFlag{Name: "accept-loss", Usage: "go on although this `MUCH` may be lost: what --dry-run prints behind \"to accept\", such as 100 or unknown"},
		&ucli.BoolFlag{Name: "attest-primary-down", Usage: "vouch that the old writer cannot put anything out any more"},
		&ucli.BoolFlag{Name: "yes", Usage: "accept the loss without being asked to type the service's name"})
}

// request reads the arguments, and refuses what makes no sense before any gate is asked.
func (v roleVerb) request(c *ucli.Context) (*pb.ChangeRoleRequest, error) {
	args, err := cli.Args(c, "SERVICE")
	if err != nil {
		return nil, err
	}
	req := &pb.ChangeRoleRequest{
		Service: args[0], Kind: v.kind, Target: c.String("target"), DryRun: c.Bool("dry-run"),
		AcceptLoss: c.String("accept-loss") != "", AttestPrimaryDown: c.Bool("attest-primary-down"), Reason: c.String("reason"),
	}
	if v.kind == pb.PlanKind_PLAN_KIND_TAKEOVER && req.GetDryRun() {
		req.AcceptLoss = true // a rehearsal tells what there is to accept
	}
	if req.Overrides, err = overridesOf(*c.Generic("override").(*sentences)); err != nil {
		return nil, err
	}
	switch {
	case !req.GetDryRun() && req.GetReason() == "":
		return nil, cli.Usagef("%s: want --reason, it goes on the record", v.name)
	case c.IsSet("expires") && len(req.GetOverrides()) == 0:
		return nil, cli.Usagef("%s: --expires is for --override, and there is none", v.name)
	case c.IsSet("expires") && c.Duration("expires") <= 0, c.IsSet("drain-timeout") && c.Duration("drain-timeout") <= 0:
		return nil, cli.Usagef("%s: want a time above 0", v.name)
	case v.kind == pb.PlanKind_PLAN_KIND_TAKEOVER && !req.GetDryRun() && !req.GetAcceptLoss():
		return nil, cli.Usagef("takeover: want --accept-loss=MUCH; --dry-run tells what may be lost")
	}
	if c.IsSet("expires") {
		req.Expires = durationpb.New(c.Duration("expires"))
	}
	if c.IsSet("drain-timeout") {
		req.DrainTimeout = durationpb.New(c.Duration("drain-timeout"))
	}
	return req, nil
}

// sentences is a repeated flag whose values may have commas, unlike the library's lists.
type sentences []string

// Set implements [ucli.Generic].
func (s *sentences) Set(text string) error {
	*s = append(*s, text)
	return nil
}

func (s *sentences) String() string { return strings.Join(*s, "; ") }

func overridesOf(given []string) ([]*pb.RuleOverride, error) {
	var all []*pb.RuleOverride
	for _, g := range given {
		rule, reason, ok := strings.Cut(g, "=")
		rule, reason = strings.TrimSpace(rule), strings.TrimSpace(reason)
		if !ok || rule == "" || reason == "" {
			return nil, cli.Usagef("override %q: want RULE=REASON", g)
		}
		all = append(all, &pb.RuleOverride{Rule: rule, Reason: reason})
	}
	return all, nil
}

func changeRole(c *ucli.Context, v roleVerb) error {
	req, err := v.request(c)
	if err != nil {
		return err
	}
	o, err := newOperator(c)
	if err != nil {
		return err
	}
	if req.GetAcceptLoss() && !req.GetDryRun() {
		// What is accepted must be what would be lost, so it is looked at first.
		if err := v.consent(c, o, req); err != nil {
			return err
		}
	}
	show := &follower{w: c.App.Writer, json: cli.WantsJSON(c), verb: v.name}
	if err := show.run(c.Context, o, req.GetService(), req.GetDryRun(), asking(req)); err != nil {
		return err
	}
	if req.GetDryRun() && c.String("accept-loss") != "" {
		return v.accepts(c.String("accept-loss"), show.last)
	}
	return nil
}

// consent compares what the operator accepts with what the plan would lose now,
// and asks for a sign that it is meant.
func (v roleVerb) consent(c *ucli.Context, o *operator, req *pb.ChangeRoleRequest) error {
	dry := &pb.ChangeRoleRequest{
		Service: req.GetService(), Kind: req.GetKind(), Target: req.GetTarget(), DryRun: true, AcceptLoss: true,
		AttestPrimaryDown: req.GetAttestPrimaryDown(), Overrides: req.GetOverrides(), Expires: req.GetExpires(), Reason: req.GetReason(),
	}
	rehearsal := &follower{verb: v.name}
	if err := rehearsal.run(c.Context, o, dry.GetService(), true, asking(dry)); err != nil {
		if rehearsal.last != nil && !cli.WantsJSON(c) {
			writePlanHead(c.App.Writer, rehearsal.last)
		}
		return err
	}
	plan := rehearsal.last
	if err := v.accepts(c.String("accept-loss"), plan); err != nil || c.Bool("yes") {
		return err
	}
	question := fmt.Sprintf("%s of %s to %s: %s.\nType the service's name to go on: ", v.name, req.GetService(), plan.GetTarget().GetNode(), lossText(plan.GetLoss()))
	return confirm(c, question, req.GetService())
}

// accepts refuses when what the operator accepts is not what would be lost now.
func (v roleVerb) accepts(given string, plan *pb.Plan) error {
	want := lossToAccept(plan.GetLoss())
	if given == want {
		return nil
	}
	return &tidegate.Error{
		Op: v.name, Subject: plan.GetService(), Class: tidegate.Refused,
		Err:  fmt.Errorf("refused, nothing changed: accepted is a loss of %s, but it %s", given, lossText(plan.GetLoss())),
		Hint: "if that is acceptable: --accept-loss=" + want,
	}
}

// lossToAccept is what an operator must write to accept a loss: the tightest
// number that bounds it, or that it is unknown.
func lossToAccept(l *pb.LossStatement) string {
	b := l.GetBounds()
	switch {
	case l.GetKind() == pb.LossKind_LOSS_KIND_ZERO:
		return "0"
	case l.GetKind() != pb.LossKind_LOSS_KIND_AT_MOST:
		return "unknown"
	case b != nil && b.Records != nil:
		return fmt.Sprint(b.GetRecords())
	case b != nil && b.Bytes != nil:
		return fmt.Sprintf("%dB", b.GetBytes())
	case b.GetWindow() != nil:
		return b.GetWindow().AsDuration().String()
	}
	return "unknown"
}

// dryRunResult is a refusal when a rule would refuse: a rehearsal's exit code
// must be the real one's.
func dryRunResult(verb string, p *pb.Plan) error {
	refused := &api.RulesError{Rules: p.GetRules()}
	if len(refused.Failing()) == 0 {
		return nil
	}
	return &tidegate.Error{Op: verb, Subject: p.GetService(), Class: tidegate.Refused, Err: refused, Hint: p.GetHint()}
}

func planResult(verb string, p *pb.Plan) error {
	fail := func(class tidegate.Class, text string) error {
		if p.GetError() != "" {
			text += ": " + p.GetError()
		}
		return &tidegate.Error{Op: verb, Subject: p.GetService(), Class: class, Err: errors.New(text), Hint: p.GetHint()}
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
	case pb.PlanOutcome_PLAN_OUTCOME_ABORTED:
		return cli.WithCode(cli.Aborted, fail(tidegate.Permanent, "called off, everything is as it was"+abortText(p.GetAbort())))
	case pb.PlanOutcome_PLAN_OUTCOME_RUNNING, pb.PlanOutcome_PLAN_OUTCOME_UNSPECIFIED:
	}
	return fail(tidegate.Permanent, "still running, see `tidegate plan show "+p.GetId()+"`")
}

func abortText(a *pb.PlanAbort) string {
	if a == nil {
		return ""
	}
	return fmt.Sprintf(" (%s: %s)", a.GetActor(), a.GetReason())
}

// client is the part of a gate that a change of role needs.
type client = tidegatev1connect.OperatorServiceClient

// progressEvery is how often a step that goes on is told about again.
const progressEvery = time.Second
