package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect"
	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/cli"
)

func gateShowCommand() *ucli.Command {
	return &ucli.Command{
		Name: "show", Usage: "show what each gate does, how much of its bounds is in use, and what that means", ArgsUsage: "[SERVICE[/STREAM]]",
		Flags: operatorFlags(cli.OutputFlag()), Action: gateShow,
	}
}

func gateShow(c *ucli.Context) error {
	service, stream := "", ""
	if c.Args().Len() > 0 {
		var err error
		if service, stream, err = serviceArg(c); err != nil {
			return err
		}
	}
	var out *pb.StatusResponse
	return operate(c, "show gate", c.Args().First(), func(ctx context.Context, gate client) error {
		st, err := statusOf(ctx, gate, service)
		if err == nil {
			out, err = onlyStream(st, service, stream)
		}
		return err
	}, func() error {
		return cli.Print(c, out, func(w io.Writer) error {
			for i, s := range out.GetServices() {
				if i > 0 {
					fmt.Fprintln(w)
				}
				writeServiceGate(w, s)
			}
			return nil
		})
	})
}

func statusOf(ctx context.Context, gate client, service string) (*pb.StatusResponse, error) {
	res, err := gate.Status(ctx, connect.NewRequest(&pb.StatusRequest{Service: service}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// serviceNow is one service as it is.
func serviceNow(ctx context.Context, gate client, service string) (*pb.ServiceStatus, error) {
	st, err := statusOf(ctx, gate, service)
	if err != nil {
		return nil, err
	}
	for _, s := range st.GetServices() {
		if s.GetName() == service {
			return s, nil
		}
	}
	return nil, unknownService(service)
}

// onlyStream leaves one stream of its service; "" leaves all.
func onlyStream(st *pb.StatusResponse, service, stream string) (*pb.StatusResponse, error) {
	if stream == "" {
		return st, nil
	}
	for _, s := range st.GetServices() {
		for _, x := range s.GetStreams() {
			if s.GetName() == service && x.GetView().GetName() == stream {
				s.Streams = []*pb.StreamStatus{x}
				return st, nil
			}
		}
	}
	return nil, unknownService(service + "/" + stream)
}

// unknownService is the answer about a name that no gate knows.
func unknownService(name string) error {
	return api.Error(&tidegate.Error{Op: "look up", Subject: name, Class: tidegate.Misuse, Err: tidegate.ErrNotFound, Hint: "see `tidegate streams list`"})
}

func writeServiceGate(w io.Writer, s *pb.ServiceStatus) {
	var notes []string
	if !s.GetArmed() {
		notes = append(notes, "role changes are off (arm switch)")
	}
	if s.GetFrozen() {
		notes = append(notes, "role changes are frozen")
	}
	if s.GetPlanId() != "" {
		notes = append(notes, "plan "+s.GetPlanId()+" is under way")
	}
	if d := s.GetDetector(); d.GetSettings().GetMode() > pb.DetectorMode_DETECTOR_MODE_OFF {
		notes = append(notes, "detector "+enumWord(d.GetSettings().GetMode())+": "+enumWord(d.GetVerdict()))
	}
	if len(notes) == 0 {
		notes = append(notes, "role changes are armed")
	}
	fmt.Fprintf(w, "service %s: %s\n", s.GetName(), strings.Join(notes, "; "))
	for _, x := range s.GetStreams() {
		writeGate(w, x)
	}
}

// writeGate prints one gate, one fact a line.
func writeGate(w io.Writer, s *pb.StreamStatus) {
	v, a := s.GetView(), s.GetWriter()
	rec := v.GetEpoch().GetGate()
	fmt.Fprintf(w, "\n%s/%s\n", v.GetService(), v.GetName())
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %-9s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("wanted", "%s", modeText(v))
	line("record", "%s", recordText(v.GetEpoch()))
	line("gate", "%s", gateNow(a))
	line("in use", "%s", inUse(v, a))
	line("exposed", "%s", exposureText(a.GetExposure()))
	line("policy", "%s", policyText(v))
	line("lease", "%s", leaseText(v, a))
	if b := v.GetBrake(); b != nil {
		line("brake", "ON since %s, by %s: %s", b.GetSince().AsTime().Format(time.RFC3339), b.GetActor(), b.GetReason())
	} else {
		line("brake", "off")
	}
	if a.GetRejected() > 0 {
		line("rejected", "%d since the service's library started", a.GetRejected())
	}
	if a != nil && a.AdmissionRate != nil {
		line("admission", "at most %.0f records a second, by the operator's rates", a.GetAdmissionRate())
	}
	line("means", "%s", consequence(v, rec))
	for _, r := range s.GetReasons() {
		line("note", "%s", r)
	}
}

func recordText(e *pb.EpochRecord) string {
	if e.GetEpoch() == 0 {
		return "no writer yet"
	}
	g := e.GetGate()
	text := enumWord(g.GetState()) + ", mode " + enumWord(g.GetMode())
	if g.GetMode() == pb.Mode_MODE_BOUNDED {
		text += " " + boundsText(g.GetBounds())
	}
	text += fmt.Sprintf(", since batch %d of epoch %d", g.GetSinceSeq(), e.GetEpoch())
	if e.GetRestored() {
		text += "; the registry went back in time, no zero-loss claim"
	}
	return text
}

func gateNow(a *pb.AgentStream) string {
	if a.GetGateState() == "" {
		return cli.Unknown
	}
	text := a.GetGateState()
	if a.GetGateStateAge() != nil {
		text += " for " + cli.Span(a.GetGateStateAge().AsDuration())
	}
	if a.GetWant() != 0 {
		text += ", wants the record to say " + enumWord(a.GetWant())
	}
	if a.GetDrained() {
		text += ", drained"
	}
	return text
}

func inUse(v *pb.StreamView, a *pb.AgentStream) string {
	switch {
	case a == nil:
		return cli.Unknown
	case a.GetGateState() == "degraded":
		return "no bounds while it is degraded"
	case v.GetMode() == pb.Mode_MODE_OPEN:
		return "no bounds"
	case v.GetMode() == pb.Mode_MODE_SYNC:
		return map[bool]string{true: "waiting for the standby side", false: "nothing is released before it is durable"}[a.GetBlocked()]
	}
	return fmt.Sprintf("%.0f %% of the tightest bound", 100*a.GetUtilisation())
}

func exposureText(e *pb.Exposure) string {
	if e == nil {
		return cli.Unknown
	}
	return fmt.Sprintf("%s records, %s, oldest %s, loss window %s", cli.Count(e.Records), cli.MaybeSize(e.Bytes), span(e.GetAge(), cli.Unknown), span(e.GetLossWindow(), cli.Unknown))
}

func policyText(v *pb.StreamView) string {
	text := enumWord(v.GetPolicy())
	if v.GetGrace() != nil {
		text += ", after " + cli.Span(v.GetGrace().AsDuration())
	}
	if v.GetPolicy() == pb.GatePolicy_GATE_POLICY_DEGRADE || v.GetPolicy() == pb.GatePolicy_GATE_POLICY_DEGRADE_BLIND {
		text += ", re-arms after " + span(v.GetRearm(), cli.Unknown)
	}
	return text
}

func leaseText(v *pb.StreamView, a *pb.AgentStream) string {
	if v.GetLeaseTtl() == nil {
		return "none"
	}
	text := "of " + cli.Span(v.GetLeaseTtl().AsDuration())
	switch {
	case a == nil:
		return text + ", whether it is held is unknown"
	case !a.GetLeaseNeeded():
		return text + ", not needed while the gate is armed with bounds"
	case a.GetLeaseRemaining() == nil:
		return text + ", needed and NOT held: nothing is released"
	}
	return fmt.Sprintf("%s, %s left, granted by the %s", text, cli.Span(a.GetLeaseRemaining().AsDuration()), a.GetLeaseBy())
}

// consequence says in words what the choice of mode and policy means, now.
func consequence(v *pb.StreamView, rec *pb.GateRecord) string {
	loss := map[pb.Mode]string{
		pb.Mode_MODE_OPEN:    "a disaster loses whatever is exposed, without limit",
		pb.Mode_MODE_BOUNDED: "a disaster loses at most " + boundsText(rec.GetBounds()),
		pb.Mode_MODE_SYNC:    "a disaster loses nothing acknowledged; each acknowledgement waits for the other site",
	}[rec.GetMode()]
	switch rec.GetState() {
	case pb.GateState_GATE_STATE_DEGRADED:
		return "the gate is open although its mode is not: a disaster loses whatever is exposed, without limit"
	case pb.GateState_GATE_STATE_BLIND_OK:
		return "the gate may open without saying so: no loss can be promised"
	case pb.GateState_GATE_STATE_ARMED:
	default:
		return "no loss can be promised until a live writer arms the gate"
	}
	if rec.GetMode() == pb.Mode_MODE_OPEN {
		return loss + "; without the other site work goes on"
	}
	edge := map[pb.GatePolicy]string{
		pb.GatePolicy_GATE_POLICY_BLOCK:         "work waits",
		pb.GatePolicy_GATE_POLICY_REJECT:        "new work is refused",
		pb.GatePolicy_GATE_POLICY_DEGRADE:       "work goes on unprotected once that is on record",
		pb.GatePolicy_GATE_POLICY_DEGRADE_BLIND: "work goes on unprotected",
	}[v.GetPolicy()]
	if edge == "" {
		return loss
	}
	return loss + "; without the other site " + edge
}

func gateExplainCommand() *ucli.Command {
	return &ucli.Command{
		Name: "explain", Usage: "answer every rule of a change of role, with what it looked at; change nothing", ArgsUsage: "SERVICE [ACTION]",
		Description: "ACTION is failover (when absent), takeover, switchover, failback, or auto: what the detector would be answered.\n" +
			"The exit code is 4 when the action would be refused now.",
		Flags: operatorFlags(cli.OutputFlag(),
			&ucli.StringFlag{Name: "target", Aliases: []string{"to"}, Usage: "`NODE` that would become the writer; chosen by the gate when absent"}),
		Action: gateExplain,
	}
}

func gateExplain(c *ucli.Context) error {
	args := c.Args().Slice()
	if len(args) == 1 {
		args = append(args, "failover")
	}
	if len(args) != 2 {
		return cli.Usagef("gate explain: want SERVICE [ACTION]")
	}
	req := &pb.GateExplainRequest{Service: args[0], Target: c.String("target")}
	words := []string{"auto"}
	for _, v := range roleVerbs() {
		words = append(words, v.name)
		if v.name == args[1] {
			req.Kind = v.kind
		}
	}
	switch {
	case args[1] == "auto":
		req.Kind, req.Auto = pb.PlanKind_PLAN_KIND_FAILOVER, true
	case req.GetKind() == 0:
		return cli.Usagef("action %q: want one of %s", args[1], strings.Join(words, ", "))
	}
	var out *pb.GateExplainResponse
	err := operate(c, "explain "+args[1], args[0], func(ctx context.Context, gate client) error {
		res, err := gate.GateExplain(ctx, connect.NewRequest(req))
		if err == nil {
			out = res.Msg
		}
		return err
	}, func() error {
		return cli.Print(c, out, func(w io.Writer) error {
			writeExplain(w, args[1], args[0], out)
			return nil
		})
	})
	if err == nil && out.GetRefused() {
		return cli.Exit(cli.Refused)
	}
	return err
}

func writeExplain(w io.Writer, action, service string, out *pb.GateExplainResponse) {
	answer := "would go on"
	if out.GetRefused() {
		answer = "would be refused"
	}
	to := ""
	if out.GetTarget() != "" {
		to = " to " + out.GetTarget()
	}
	fmt.Fprintf(w, "%s of %s%s %s\n", action, service, to, answer)
	for _, r := range out.GetRules() {
		fmt.Fprintf(w, "\n%-10s %s: %s\n", verdict(r), r.GetRule(), r.GetReason())
		for _, e := range r.GetEvidence() {
			fmt.Fprintf(w, "%-10s   %s = %s\n", "", e.GetKey(), e.GetValue())
		}
		switch by := r.GetOverriddenBy(); {
		case by != nil:
			fmt.Fprintf(w, "%-10s   overridden by %s\n", "", overrideText(by))
		case !r.GetHolds() && r.GetOverride() != "":
			fmt.Fprintf(w, "%-10s   go on against it with %s\n", "", r.GetOverride())
		}
	}
}
