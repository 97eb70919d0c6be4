package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect"
	ucli "github.com/urfave/cli/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/cli"
)

func drillStatusCommand() *ucli.Command {
	return &ucli.Command{
		Name: "status", Usage: "show which drills run, when the next ones are due, and which are overdue", ArgsUsage: "[SERVICE]",
		Flags: operatorFlags(cli.OutputFlag()), Action: drillStatus,
		Description: "Of drills that workers have taken as scheduled; one that was begun by hand is seen once its report is on record.\n" +
			"Ends with 12 when a drill is overdue or the gate does not know.",
	}
}

func drillAbortCommand() *ucli.Command {
	return &ucli.Command{
		Name: "abort", Usage: "have a drill that a worker has taken called off", ArgsUsage: "SERVICE",
		Flags: operatorFlags(cli.OutputFlag(), reasonFlag()), Action: drillAbort,
		Description: "The worker hears of it with its next report, a few seconds later, tears the drill down, and signs what came of it.\n" +
			"The occurrence is not begun again. Ends with 4 when no worker has a drill of the service.",
	}
}

func drillStatus(c *ucli.Context) error {
	service, err := optionalService(c)
	if err != nil {
		return err
	}
	var out *pb.DrillStatusResponse
	return operate(c, "show drills of", cmp.Or(service, "all services"), func(ctx context.Context, gate client) error {
		res, err := gate.DrillStatus(ctx, connect.NewRequest(&pb.DrillStatusRequest{Service: service}))
		if err == nil {
			out = res.Msg
		}
		return err
	}, func() error {
		return errors.Join(cli.Print(c, out, func(w io.Writer) error { return writeDrillStatus(w, out) }), staleDrills(out))
	})
}

// optionalService is the argument SERVICE; "" is all of them.
func optionalService(c *ucli.Context) (string, error) {
	if c.NArg() == 0 {
		return "", nil
	}
	args, err := cli.Args(c, "[SERVICE]")
	if err != nil {
		return "", err
	}
	return args[0], nil
}

// staleDrills is the error of services whose drills are overdue, or not known to be in time.
func staleDrills(m *pb.DrillStatusResponse) error {
	var stale []string
	for _, s := range m.GetServices() {
		if s.Overdue == nil || s.GetOverdue() {
			stale = append(stale, s.GetService())
		}
	}
	if len(stale) == 0 {
		return nil
	}
	return cli.WithCode(cli.UnknownState, &tidegate.Error{
		Op: "show drills of", Subject: strings.Join(stale, ", "), Class: tidegate.Permanent, Err: errors.New("overdue, or not known"),
		Hint: "a worker carries schedules out: `tidegate drill worker`; what it waits for is said above",
	})
}

func writeDrillStatus(w io.Writer, m *pb.DrillStatusResponse) error {
	for _, s := range m.GetServices() {
		zone := s.GetSchedule().GetZone()
		var b strings.Builder
		fmt.Fprintf(&b, "%s: %s", s.GetService(), scheduleText(s.GetSchedule()))
		if s.GetByDefault() {
			b.WriteString(" (by default)")
		}
		b.WriteString("\n")
		if r := s.GetRunning(); r != nil {
			fmt.Fprintf(&b, "  runs: %s\n", runningText(r, m.GetNow().AsTime()))
		}
		if s.GetPending() != nil {
			fmt.Fprintf(&b, "  due since %s, begun until %s: waits: %s\n", wall(s.GetPending().GetDue(), zone), wall(s.GetPending().GetUntil(), zone), s.GetWhy())
		}
		if s.GetNext() != nil {
			fmt.Fprintf(&b, "  next: %s", wall(s.GetNext().GetDue(), zone))
			if s.GetNext().GetBlocked() != "" {
				fmt.Fprintf(&b, ", blocked then: %s", blockedText(s.GetNext(), zone))
			}
			b.WriteString("\n")
		}
		if e := s.GetEnded(); e != nil {
			fmt.Fprintf(&b, "  newest by schedule: %s, of %s: %s", e.GetOutcome(), wall(e.GetOccurrence(), zone), wall(e.GetEnded(), zone))
			if e.GetWhy() != "" {
				fmt.Fprintf(&b, ": %s", e.GetWhy())
			}
			b.WriteString("\n")
		}
		if d := s.GetLast(); d != nil {
			fmt.Fprintf(&b, "  newest report: %s %s, %s\n", d.GetLevel(), d.GetOutcome(), wall(d.GetEnded(), zone))
		}
		switch {
		case s.GetWorker() == "":
			b.WriteString("  worker: none has asked this gate\n")
		default:
			fmt.Fprintf(&b, "  worker: %s, asked %s ago\n", s.GetWorker(), cli.Span(s.GetWorkerSilent().AsDuration()))
		}
		switch {
		case s.Overdue == nil:
			why := "no gate that leads has looked at it yet"
			if s.GetNext() == nil {
				why = s.GetWhy() // the schedule cannot be read
			}
			fmt.Fprintf(&b, "  overdue: not known: %s\n", why)
		case s.GetOverdue():
			b.WriteString("  OVERDUE: one was missed, and none has run since\n")
		}
		if _, err := io.WriteString(w, b.String()); err != nil {
			return err
		}
	}
	return nil
}

// runningText is a drill that runs, with what is left of it where the ones before it say.
func runningText(r *pb.RunningDrill, now time.Time) string {
	took := now.Sub(r.GetSince().AsTime())
	out := fmt.Sprintf("%s %s on %s for %s, step %s", r.GetLevel(), r.GetScenario(), r.GetWorker(), cli.Span(max(0, took)), cmp.Or(r.GetStep(), "not known"))
	if r.GetExpected() != nil {
		if left := r.GetExpected().AsDuration() - took; left > 0 {
			out += ", about " + cli.Span(left) + " left"
		} else {
			out += ", longer than usual (" + cli.Span(r.GetExpected().AsDuration()) + ")"
		}
	}
	if a := r.GetAbort(); a != nil {
		out += fmt.Sprintf("; %s has it called off: %s", a.GetActor(), a.GetReason())
	}
	return out
}

func blockedText(o *pb.DrillOccurrence, zone string) string {
	if o.GetBlocked() == "" {
		return ""
	}
	return o.GetBlocked() + ", until " + wall(o.GetBlockedUntil(), zone)
}

// wall is a time as the clock of a zone shows it; UTC where this machine does not know that.
func wall(t *timestamppb.Timestamp, zone string) string {
	loc, err := time.LoadLocation(zone)
	if err != nil {
		loc = time.UTC
	}
	return t.AsTime().In(loc).Format("Mon 2006-01-02 15:04 MST")
}

func drillAbort(c *ucli.Context) error {
	args, err := cli.Args(c, "SERVICE")
	if err != nil {
		return err
	}
	req := &pb.AbortDrillRequest{Service: args[0]}
	if req.Reason, err = wantReason(c); err != nil {
		return err
	}
	var out *pb.RunningDrill
	return operate(c, "abort drill", args[0], func(ctx context.Context, gate client) error {
		res, err := gate.AbortDrill(ctx, connect.NewRequest(req))
		if err == nil {
			out = res.Msg.GetDrill()
		}
		return err
	}, func() error {
		return cli.Print(c, out, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "%s: worker %s is told with its next report; `tidegate drill status %s` shows when it has ended\n", args[0], out.GetWorker(), args[0])
			return err
		})
	})
}
