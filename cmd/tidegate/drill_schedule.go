package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect"
	ucli "github.com/urfave/cli/v2"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/cli"
)

func drillScheduleCommand() *ucli.Command {
	return &ucli.Command{
		Name: "schedule", Usage: "say when drills of a service are wanted", ArgsUsage: "SERVICE",
		Flags: operatorFlags(cli.OutputFlag(),
			&ucli.StringFlag{Name: "cron", Usage: "`EXPRESSION`: minute, hour, day of month, month, weekday, as in \"30 2 * * Sun\"; or @daily, @weekly, @monthly"},
			&ucli.StringFlag{Name: "zone", Usage: "`ZONE` of its times, as in Europe/Berlin"},
			&ucli.DurationFlag{Name: "jitter", Usage: "up to that `LONG` later, by service and occurrence"},
			&ucli.StringFlag{Name: "missed", Usage: "`WHAT` becomes of one that could not begin: run-once (within the grace) or skip"},
			&ucli.DurationFlag{Name: "grace", Usage: "so `LONG` after it was due it is still begun, with run-once"},
			&ucli.DurationFlag{Name: "settle", Usage: "none so `SOON` after the writer has changed"},
			&ucli.StringFlag{Name: "blocked", Usage: "`WINDOWS` of each week, as in \"Mon-Fri 08:00-18:00 Europe/Berlin; Sun 00:00-24:00\"; \"\" for none"},
			&ucli.StringFlag{Name: "blocked-dates", Usage: "`DAYS`, as in \"2026-10-03; 2026-12-24..2027-01-02\"; \"\" for none"},
			&ucli.BoolFlag{Name: "off", Usage: "no drills by schedule; --off=false for them again"},
			&ucli.BoolFlag{Name: "clear", Usage: "the schedule of services for which none was set: weekly"},
			&ucli.BoolFlag{Name: "dry-run", Usage: "say what would be, and change nothing"},
			reasonFlag()),
		Action: drillSchedule,
		Description: "Without a flag it shows the schedule. What is not given stays as it is. A service for which none was set is drilled once a week.\n" +
			"Who carries it out is `tidegate drill worker`; `tidegate drill status` shows what comes of it.\n\n" +
			"Examples:\n" +
			"   tidegate drill schedule bank\n" +
			"   tidegate drill schedule bank --cron \"30 2 * * *\" --zone Europe/Berlin --blocked \"Mon-Fri 08:00-18:00\" --dry-run\n" +
			"   tidegate drill schedule bank --off --reason \"moving house\"",
	}
}

// scheduleFlags change a schedule.
var scheduleFlags = []string{"cron", "zone", "jitter", "missed", "grace", "settle", "blocked", "blocked-dates", "off"}

func drillSchedule(c *ucli.Context) error {
	args, err := cli.Args(c, "SERVICE")
	if err != nil {
		return err
	}
	touched := false
	for _, name := range scheduleFlags {
		touched = touched || c.IsSet(name)
	}
	req := &pb.SetDrillScheduleRequest{Service: args[0], Reason: c.String("reason"), DryRun: c.Bool("dry-run")}
	set := touched || c.Bool("clear")
	switch {
	case touched && c.Bool("clear"):
		return cli.Usagef("drill schedule: --clear takes back what the other flags say: give one or the other")
	case set && !req.GetDryRun():
		if req.Reason, err = wantReason(c); err != nil {
			return err
		}
	}
	var out *pb.SetDrillScheduleResponse
	return operate(c, "set drill schedule", args[0], func(ctx context.Context, gate client) error {
		if !c.Bool("clear") {
			now, err := drillsOf(ctx, gate, args[0])
			if err != nil {
				return err
			}
			req.Schedule = changedSchedule(c, now.GetSchedule())
		}
		if !set {
			req.DryRun = true // says the same, and what comes next
		}
		res, err := gate.SetDrillSchedule(ctx, connect.NewRequest(req))
		if err == nil {
			out = res.Msg
		}
		return err
	}, func() error {
		return cli.Print(c, out, func(w io.Writer) error {
			if set && req.GetDryRun() {
				fmt.Fprintln(w, "nothing was changed; it would be:")
			}
			return writeSchedule(w, args[0], out)
		})
	})
}

// drillsOf reads how a service stands to its schedule.
func drillsOf(ctx context.Context, gate client, service string) (*pb.ServiceDrills, error) {
	res, err := gate.DrillStatus(ctx, connect.NewRequest(&pb.DrillStatusRequest{Service: service}))
	if err != nil {
		return nil, err
	}
	if len(res.Msg.GetServices()) != 1 {
		return nil, errors.New("the gate says nothing of the service")
	}
	return res.Msg.GetServices()[0], nil
}

// changedSchedule is a schedule with what the flags say.
func changedSchedule(c *ucli.Context, now *pb.DrillSchedule) *pb.DrillSchedule {
	next := &pb.DrillSchedule{
		Off: now.GetOff(), Cron: now.GetCron(), Zone: now.GetZone(), Jitter: now.GetJitter(), Missed: now.GetMissed(), Grace: now.GetGrace(),
		Settle: now.GetSettle(), Blocked: now.GetBlocked(), Dates: now.GetDates(),
	}
	for name, to := range map[string]*string{"cron": &next.Cron, "zone": &next.Zone, "missed": &next.Missed} {
		if c.IsSet(name) {
			*to = c.String(name)
		}
	}
	if c.IsSet("missed") && !c.IsSet("grace") && next.GetMissed() != now.GetMissed() {
		next.Grace = nil // of the other policy
		if now.GetMissed() == "skip" {
			next.Grace = durationpb.New(24 * time.Hour)
		}
	}
	for name, to := range map[string]**durationpb.Duration{"jitter": &next.Jitter, "grace": &next.Grace, "settle": &next.Settle} {
		if c.IsSet(name) {
			*to = durationpb.New(c.Duration(name))
		}
	}
	for name, to := range map[string]*[]string{"blocked": &next.Blocked, "blocked-dates": &next.Dates} {
		if c.IsSet(name) {
			*to = nil
			for text := range strings.SplitSeq(c.String(name), ";") {
				if text = strings.TrimSpace(text); text != "" {
					*to = append(*to, text)
				}
			}
		}
	}
	if c.IsSet("off") {
		next.Off = c.Bool("off")
	}
	return next
}

func writeSchedule(w io.Writer, service string, m *pb.SetDrillScheduleResponse) error {
	fmt.Fprintf(w, "%s: %s\n", service, scheduleText(m.GetSchedule()))
	if len(m.GetNext()) == 0 {
		return nil
	}
	table := cli.NewTable("occurrence", "due", "at the latest", "blocked")
	for _, o := range m.GetNext() {
		table.Row(wall(o.GetAt(), m.GetSchedule().GetZone()), wall(o.GetDue(), m.GetSchedule().GetZone()), wall(o.GetUntil(), m.GetSchedule().GetZone()), blockedText(o, m.GetSchedule().GetZone()))
	}
	_, err := table.WriteTo(w)
	return err
}

// scheduleText is a schedule on one line.
func scheduleText(s *pb.DrillSchedule) string {
	if s.GetOff() {
		return "no drills by schedule"
	}
	out := fmt.Sprintf("%q %s", s.GetCron(), s.GetZone())
	if d := s.GetJitter().AsDuration(); d > 0 {
		out += ", up to " + cli.Span(d) + " later"
	}
	if s.GetGrace() != nil {
		out += ", still begun within " + cli.Span(s.GetGrace().AsDuration())
	} else {
		out += ", skipped when missed"
	}
	if d := s.GetSettle().AsDuration(); d > 0 {
		out += ", none within " + cli.Span(d) + " of a change of writer"
	}
	if len(s.GetBlocked())+len(s.GetDates()) > 0 {
		out += ", blocked " + strings.Join(append(append([]string{}, s.GetBlocked()...), s.GetDates()...), ", ")
	}
	return out
}
