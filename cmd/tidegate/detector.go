package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect"
	ucli "github.com/urfave/cli/v2"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/cli"
)

func detectorCommand() *ucli.Command {
	return &ucli.Command{
		Name:  "detector",
		Usage: "what the gates make of a primary's silence, and what they may do about it",
		Subcommands: []*ucli.Command{
			{
				Name: "show", Usage: "show the detector of a service: verdict, votes, alarms", ArgsUsage: "SERVICE",
				Flags: operatorFlags(cli.OutputFlag()), Action: detectorShow,
			},
			{
				Name: "set", Usage: "set how a service's detector may act, and how fresh its drills must be", ArgsUsage: "SERVICE",
				Description: "What is not given stays as it is.",
				Flags: operatorFlags(
					&ucli.StringFlag{Name: "mode", Usage: "`MODE`: off, observe (it says what it would do) or auto (it begins a failover when every rule holds)"},
					&ucli.DurationFlag{Name: "down-after", Usage: "declared down after this `TIME` without a sign of progress"},
					&ucli.UintFlag{Name: "agree", Usage: "`NUMBER` of vantage points that must agree; at least 2, for auto at least 3"},
					&ucli.DurationFlag{Name: "anti-flap", Usage: "nothing by itself within this `TIME` after a change of role, an attempt or a recovery"},
					&ucli.DurationFlag{Name: "drill-max-age", Usage: "the newest passed drill may be this `OLD` for a change of role"},
					singleRegistryFlag(), reasonFlag()),
				Action: detectorSet,
			},
		},
	}
}

func detectorSet(c *ucli.Context) error {
	args, err := cli.Args(c, "SERVICE")
	if err != nil {
		return err
	}
	change, touched, err := detectorChange(c)
	if err != nil {
		return err
	}
	req := &pb.SetDetectorRequest{Service: args[0], SingleRegistry: c.Bool("single-registry")}
	age, err := timeOf(c, "drill-max-age")
	if err != nil {
		return err
	}
	if age != nil {
		req.Drill = &pb.DrillPolicy{MaxAge: age}
	}
	if !touched && age == nil {
		return cli.Usagef("detector set: want --mode, --down-after, --agree, --anti-flap or --drill-max-age")
	}
	if req.Reason, err = wantReason(c); err != nil {
		return err
	}
	var out *pb.Service
	return operate(c, "set detector", args[0], func(ctx context.Context, gate client) error {
		if touched {
			now, err := serviceNow(ctx, gate, args[0])
			if err != nil {
				return err
			}
			req.Detector = change(now.GetDetector().GetSettings())
		}
		res, err := gate.SetDetector(ctx, connect.NewRequest(req))
		if err == nil {
			out = res.Msg.GetService()
		}
		return err
	}, func() error {
		_, err := fmt.Fprintf(c.App.Writer, "%s: detector %s\n", args[0], settingsText(out.GetDetector()))
		return err
	})
}

// detectorChange returns what the flags change about settings that stand.
func detectorChange(c *ucli.Context) (change func(*pb.DetectorSettings) *pb.DetectorSettings, touched bool, err error) {
	var mode pb.DetectorMode
	if word := c.String("mode"); word != "" {
		n, words, ok := enumValue(pb.DetectorMode(0), word)
		if !ok {
			return nil, false, cli.Usagef("mode %q: want one of %s", word, strings.Join(words, ", "))
		}
		mode = pb.DetectorMode(n)
	}
	down, err := timeOf(c, "down-after")
	if err != nil {
		return nil, false, err
	}
	flap, err := timeOf(c, "anti-flap")
	if err != nil {
		return nil, false, err
	}
	if c.IsSet("agree") && (c.Uint("agree") < 2 || c.Uint("agree") > 100) {
		return nil, false, cli.Usagef("agree %d: want at least 2", c.Uint("agree"))
	}
	touched = mode != 0 || down != nil || flap != nil || c.IsSet("agree")
	return func(now *pb.DetectorSettings) *pb.DetectorSettings {
		next := &pb.DetectorSettings{Mode: now.GetMode(), DownAfter: now.GetDownAfter(), Agree: now.GetAgree(), AntiFlap: now.GetAntiFlap()}
		if mode != 0 {
			next.Mode = mode
		}
		if down != nil {
			next.DownAfter = down
		}
		if flap != nil {
			next.AntiFlap = flap
		}
		if c.IsSet("agree") {
			next.Agree = uint32(c.Uint("agree")) //nolint:gosec // at most 100
		}
		return next
	}, touched, nil
}

func settingsText(s *pb.DetectorSettings) string {
	if s.GetMode() <= pb.DetectorMode_DETECTOR_MODE_OFF {
		return "off"
	}
	return fmt.Sprintf("%s: down after %s without a sign, %d must agree, quiet for %s after a change",
		enumWord(s.GetMode()), span(s.GetDownAfter(), cli.Unknown), s.GetAgree(), span(s.GetAntiFlap(), cli.Unknown))
}

func detectorShow(c *ucli.Context) error {
	args, err := cli.Args(c, "SERVICE")
	if err != nil {
		return err
	}
	var out *pb.DetectorStatus
	return operate(c, "show detector", args[0], func(ctx context.Context, gate client) error {
		now, err := serviceNow(ctx, gate, args[0])
		if err != nil {
			return err
		}
		if out = now.GetDetector(); out == nil {
			out = &pb.DetectorStatus{}
		}
		return nil
	}, func() error {
		return cli.Print(c, out, func(w io.Writer) error { return writeDetector(w, args[0], out) })
	})
}

func writeDetector(w io.Writer, service string, d *pb.DetectorStatus) error {
	fmt.Fprintf(w, "%s: detector %s\n", service, settingsText(d.GetSettings()))
	if d.GetSettings().GetMode() <= pb.DetectorMode_DETECTOR_MODE_OFF && d.GetVerdict() == 0 {
		return nil
	}
	fmt.Fprintf(w, "verdict: %s", enumWord(d.GetVerdict()))
	if d.GetSince() != nil {
		fmt.Fprintf(w, " since %s", d.GetSince().AsTime().Format(time.RFC3339))
	}
	fmt.Fprintln(w)
	for _, r := range d.GetReasons() {
		fmt.Fprintln(w, "  because:", r)
	}
	for _, a := range d.GetAlarms() {
		fmt.Fprintf(w, "  alarm: %s: %s\n", a.GetKey(), a.GetValue())
	}
	for _, a := range d.GetAgainst() {
		fmt.Fprintln(w, "  against a failover by itself:", a)
	}
	table := cli.NewTable("vantage point", "site", "kind", "ballot", "silent", "why")
	for _, v := range d.GetVotes() {
		table.Row(v.GetName(), v.GetSite(), v.GetKind(), v.GetBallot(), span(v.GetSilent(), "never heard"), v.GetWhy())
	}
	_, err := table.WriteTo(w)
	return err
}
