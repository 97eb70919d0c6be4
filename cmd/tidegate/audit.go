package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect"
	ucli "github.com/urfave/cli/v2"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/cli"
)

func auditCommand() *ucli.Command {
	return &ucli.Command{
		Name: "audit", Usage: "who did what, and what happened to the gates, oldest first", ArgsUsage: " ",
		Flags: operatorFlags(cli.OutputFlag(),
			&ucli.StringFlag{Name: "service", Usage: "only this `SERVICE`"},
			&ucli.StringFlag{Name: "since", Usage: "from this `WHEN` on: a time ago such as 24h, or 2026-01-02T15:04:05Z", DefaultText: "from the oldest"},
			&ucli.UintFlag{Name: "limit", Value: 100, Usage: "at most `N`"},
			&ucli.StringFlag{Name: "after", Usage: "only entries newer than `ENTRY`: the next page"}),
		Action: audit,
	}
}

func audit(c *ucli.Context) error {
	if _, err := cli.Args(c); err != nil {
		return err
	}
	since, err := sinceOf(c.String("since"), time.Now())
	if err != nil {
		return err
	}
	req := &pb.ListAuditRequest{Service: c.String("service"), Since: since, Limit: uint32(min(c.Uint("limit"), 1000)), After: c.String("after")} //nolint:gosec // at most 1000
	var out *pb.ListAuditResponse
	return operate(c, "list audit", req.GetService(), func(ctx context.Context, gate client) error {
		res, err := gate.ListAudit(ctx, connect.NewRequest(req))
		if err == nil {
			out = res.Msg
		}
		return err
	}, func() error {
		return cli.Print(c, out, func(w io.Writer) error {
			table := cli.NewTable("when", "who", "what", "of", "outcome", "why", "detail")
			for _, e := range out.GetEntries() {
				of := e.GetService()
				if e.GetStream() != "" {
					of += "/" + e.GetStream()
				}
				var detail []string
				for _, f := range e.GetDetail() {
					detail = append(detail, f.GetKey()+"="+f.GetValue())
				}
				table.Row(e.GetAt().AsTime().Format(time.RFC3339), e.GetActor(), e.GetAction(), of, e.GetOutcome(), e.GetReason(), strings.Join(detail, " "))
			}
			if _, err := table.WriteTo(w); err != nil || out.GetNext() == "" {
				return err
			}
			_, err := fmt.Fprintln(w, "there are newer ones: --after", out.GetNext())
			return err
		})
	})
}

// sinceOf reads a time ago or a moment; "" is the beginning.
func sinceOf(text string, now time.Time) (*timestamppb.Timestamp, error) {
	if text == "" {
		return nil, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return timestamppb.New(now.Add(-ago)), nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return timestamppb.New(at), nil
	}
	return nil, cli.Usagef("since %q: want a time ago such as 24h, or 2026-01-02T15:04:05Z", text)
}

func overrideCommand() *ucli.Command {
	return &ucli.Command{
		Name:  "override",
		Usage: "rules that may be passed for a while although they do not hold",
		Subcommands: []*ucli.Command{
			{
				Name: "list", Usage: "list the overrides in force", ArgsUsage: " ",
				Flags:  operatorFlags(cli.OutputFlag(), &ucli.StringFlag{Name: "service", Usage: "only this `SERVICE`"}),
				Action: overrideList,
			},
			{
				Name: "set", Usage: "let every change of role of a service, also the detector's own, go on although rules do not hold", ArgsUsage: "SERVICE",
				Flags: operatorFlags(
					&ucli.StringSliceFlag{Name: "rule", Usage: "go on although `RULE` does not hold; repeat it for each rule"}, reasonFlag(),
					&ucli.DurationFlag{Name: "expires", Usage: "how `LONG` it counts", DefaultText: "1h"}, cli.OutputFlag(),
				),
				Action: overrideSet,
			},
			{
				Name: "revoke", Usage: "end an override before its time", ArgsUsage: "ID",
				Flags: operatorFlags(reasonFlag()), Action: overrideRevoke,
			},
		},
	}
}

func overrideList(c *ucli.Context) error {
	if _, err := cli.Args(c); err != nil {
		return err
	}
	var out *pb.ListOverridesResponse
	service := c.String("service")
	return operate(c, "list overrides", service, func(ctx context.Context, gate client) error {
		res, err := gate.ListOverrides(ctx, connect.NewRequest(&pb.ListOverridesRequest{Service: service}))
		if err != nil {
			return err
		}
		out = res.Msg
		return known(ctx, gate, service, len(out.GetOverrides()))
	}, func() error {
		return cli.Print(c, out, func(w io.Writer) error { return printOverrides(w, out.GetOverrides()) })
	})
}

func printOverrides(w io.Writer, all []*pb.Override) error {
	table := cli.NewTable("id", "service", "rule", "by", "reason", "until")
	for _, o := range all {
		table.Row(o.GetId(), o.GetService(), o.GetRule(), o.GetActor(), o.GetReason(), o.GetExpires().AsTime().Format(time.RFC3339))
	}
	_, err := table.WriteTo(w)
	return err
}

func overrideSet(c *ucli.Context) error {
	args, err := cli.Args(c, "SERVICE")
	if err != nil {
		return err
	}
	reason, err := wantReason(c)
	if err != nil {
		return err
	}
	req := &pb.PutOverridesRequest{Service: args[0], Reason: reason}
	for _, rule := range c.StringSlice("rule") {
		req.Overrides = append(req.Overrides, &pb.RuleOverride{Rule: rule})
	}
	switch {
	case len(req.GetOverrides()) == 0:
		return cli.Usagef("override set: want --rule, `tidegate gate explain SERVICE` tells which do not hold")
	case c.IsSet("expires") && c.Duration("expires") <= 0:
		return cli.Usagef("override set: --expires %s: want more than 0", c.Duration("expires"))
	case c.IsSet("expires"):
		req.Expires = durationpb.New(c.Duration("expires"))
	}
	var out *pb.PutOverridesResponse
	return operate(c, "override", args[0], func(ctx context.Context, gate client) error {
		res, err := gate.PutOverrides(ctx, connect.NewRequest(req))
		if err == nil {
			out = res.Msg
		}
		return err
	}, func() error {
		return cli.Print(c, out, func(w io.Writer) error { return printOverrides(w, out.GetOverrides()) })
	})
}

func overrideRevoke(c *ucli.Context) error {
	args, err := cli.Args(c, "ID")
	if err != nil {
		return err
	}
	reason, err := wantReason(c)
	if err != nil {
		return err
	}
	return operate(c, "revoke override", args[0], func(ctx context.Context, gate client) error {
		_, err := gate.RevokeOverride(ctx, connect.NewRequest(&pb.RevokeOverrideRequest{Id: args[0], Reason: reason}))
		return err
	}, func() error {
		_, err := fmt.Fprintf(c.App.Writer, "override %s revoked\n", args[0])
		return err
	})
}

// known asks whether a service exists when a list about it is empty: nothing
// known of a service and no such service are different answers.
func known(ctx context.Context, gate client, service string, found int) error {
	if service == "" || found > 0 {
		return nil
	}
	_, err := statusOf(ctx, gate, service)
	return err
}
