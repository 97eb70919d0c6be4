package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"connectrpc.com/connect"
	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/internal/cli"
)

func planCommand() *ucli.Command {
	return &ucli.Command{
		Name:  "plan",
		Usage: "role changes, step by step",
		Subcommands: []*ucli.Command{
			{
				Name: "list", Usage: "list plans, newest first", ArgsUsage: " ",
				Flags: operatorFlags(cli.OutputFlag(),
					&ucli.StringFlag{Name: "service", Usage: "only this `SERVICE`"},
					&ucli.UintFlag{Name: "limit", Value: 20, Usage: "at most `N`"},
					&ucli.StringFlag{Name: "before", Usage: "only plans older than `PLAN`: the next page"}),
				Action: planList,
			},
			{
				Name: "show", Usage: "show one plan: steps, times, loss statement", ArgsUsage: "PLAN",
				Flags: operatorFlags(cli.OutputFlag()), Action: planShow,
			},
			{
				Name: "abort", Usage: "call a plan off before its point of no return; what it changed is put back", ArgsUsage: "PLAN",
				Flags: operatorFlags(cli.OutputFlag(), reasonFlag()), Action: planAbort,
			},
		},
	}
}

func planList(c *ucli.Context) error {
	if _, err := cli.Args(c); err != nil {
		return err
	}
	req := &pb.ListPlansRequest{Service: c.String("service"), Limit: uint32(min(c.Uint("limit"), 1000)), Before: c.String("before")} //nolint:gosec // at most 1000
	var out *pb.ListPlansResponse
	return operate(c, "list plans", c.String("service"), func(ctx context.Context, client tidegatev1connect.OperatorServiceClient) error {
		res, err := client.ListPlans(ctx, connect.NewRequest(req))
		if err != nil {
			return err
		}
		out = res.Msg
		return known(ctx, client, req.GetService(), len(out.GetPlans()))
	}, func() error {
		return cli.Print(c, out, func(w io.Writer) error {
			table := cli.NewTable("plan", "service", "kind", "target", "outcome", "started", "rta", "loss")
			for _, p := range out.GetPlans() {
				started := ""
				if p.GetStarted() != nil {
					started = p.GetStarted().AsTime().Format(time.RFC3339)
				}
				rta, loss := "", "" // an acquisition loses nothing and has no outage of its own
				if unplanned(p.GetKind()) {
					rta, loss = span(p.GetPhases().GetRta(), cli.Unknown), enumWord(p.GetLoss().GetKind())
				}
				table.Row(p.GetId(), p.GetService(), enumWord(p.GetKind()), p.GetTarget().GetNode(), enumWord(p.GetOutcome()), started, rta, loss)
			}
			if _, err := table.WriteTo(w); err != nil || out.GetNext() == "" {
				return err
			}
			_, err := fmt.Fprintln(w, "there are older ones: --before", out.GetNext())
			return err
		})
	})
}

func planShow(c *ucli.Context) error {
	args, err := cli.Args(c, "PLAN")
	if err != nil {
		return err
	}
	var out *pb.Plan
	return operate(c, "show plan", args[0], func(ctx context.Context, client tidegatev1connect.OperatorServiceClient) error {
		res, err := client.ShowPlan(ctx, connect.NewRequest(&pb.ShowPlanRequest{Id: args[0]}))
		if err == nil {
			out = res.Msg.GetPlan()
		}
		return err
	}, func() error {
		return cli.Print(c, out, func(w io.Writer) error {
			writePlanHead(w, out)
			if out.GetReason() != "" {
				fmt.Fprintf(w, "reason: %s (%s)\n", out.GetReason(), out.GetActor())
			}
			writeSteps(w, out)
			writePlanEnd(w, out)
			if out.GetError() != "" {
				fmt.Fprintln(w, "error:", out.GetError())
			}
			return nil
		})
	})
}

func planAbort(c *ucli.Context) error {
	args, err := cli.Args(c, "PLAN")
	if err != nil {
		return err
	}
	reason, err := wantReason(c)
	if err != nil {
		return err
	}
	var out *pb.AbortPlanResponse
	return operate(c, "abort plan", args[0], func(ctx context.Context, gate client) error {
		res, err := gate.AbortPlan(ctx, connect.NewRequest(&pb.AbortPlanRequest{Id: args[0], Reason: reason}))
		if err == nil {
			out = res.Msg
		}
		return err
	}, func() error {
		if outcome := out.GetPlan().GetOutcome(); !out.GetChanged() && outcome != pb.PlanOutcome_PLAN_OUTCOME_ABORTED {
			return &tidegate.Error{
				Op: "abort plan", Subject: args[0], Class: tidegate.Refused, Err: fmt.Errorf("it was over already, as %s: %w", enumWord(outcome), tidegate.ErrConflict),
				Hint: "`tidegate plan show` tells how it ended; the way back is a change of role of its own",
			}
		}
		return cli.Print(c, out, func(w io.Writer) error {
			text := "is being called off; `tidegate plan show` tells when everything is as it was"
			if out.GetPlan().GetOutcome() == pb.PlanOutcome_PLAN_OUTCOME_ABORTED {
				text = "called off, everything is as it was"
			}
			_, err := fmt.Fprintf(w, "plan %s %s\n", args[0], text)
			return err
		})
	})
}
