package main

import (
	"context"

	"connectrpc.com/connect"
	ucli "github.com/urfave/cli/v2"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/cli"
)

func reconfigureCommand() *ucli.Command {
	return &ucli.Command{
		Name: "reconfigure", Usage: "change the standby set of a service's streams, in a new epoch of the same writer", ArgsUsage: "SERVICE[/STREAM]",
		Description: "Writes wait for the moment in which the epoch changes; nothing is cut. A node that is new must be registered,\n" +
			"and follows before it counts.",
		Flags: operatorFlags(cli.OutputFlag(),
			&ucli.StringSliceFlag{Name: "member", Usage: "standby `NODE` that keeps the log, of either site; give each, they replace those that are", DefaultText: "as configured"},
			&ucli.UintFlag{Name: "w", Usage: "`NUMBER` of standby nodes that must have fsynced a batch", DefaultText: "as configured"},
			&ucli.BoolFlag{Name: "dry-run", Usage: "evaluate the rules and print the plan; change nothing"},
			reasonFlag()),
		Action: reconfigure,
	}
}

func reconfigure(c *ucli.Context) error {
	service, stream, err := serviceArg(c)
	if err != nil {
		return err
	}
	members, w := c.StringSlice("member"), c.Uint("w")
	if c.IsSet("w") && (w < 1 || len(members) > 0 && w > uint(len(members)) || w > 100) {
		return cli.Usagef("members %v with w %d: want 1 <= w <= members", members, w)
	}
	req := &pb.ReconfigureRequest{
		Service: service, Stream: stream, Members: members, W: uint32(w), //nolint:gosec // at most 100
		Reason: c.String("reason"), DryRun: c.Bool("dry-run"),
	}
	if !req.GetDryRun() {
		if req.Reason, err = wantReason(c); err != nil {
			return err
		}
	}
	o, err := newOperator(c)
	if err != nil {
		return err
	}
	show := &follower{w: c.App.Writer, json: cli.WantsJSON(c), verb: "reconfigure"}
	return show.run(c.Context, o, service, req.GetDryRun(), func(ctx context.Context, gate client) (told, error) {
		s, err := gate.Reconfigure(ctx, connect.NewRequest(req))
		if err != nil {
			return told{}, err
		}
		next := func() (*pb.ChangeRoleResponse, bool) {
			ok := s.Receive()
			return asRoleChange(s.Msg()), ok
		}
		return told{next, s.Err, s.Close}, nil
	})
}

// asRoleChange: what is told of a reconfigure is what is told of a change of role.
func asRoleChange(m *pb.ReconfigureResponse) *pb.ChangeRoleResponse {
	switch {
	case m.GetPlan() != nil:
		return &pb.ChangeRoleResponse{Event: &pb.ChangeRoleResponse_Plan{Plan: m.GetPlan()}}
	case m.GetStep() != nil:
		return &pb.ChangeRoleResponse{Event: &pb.ChangeRoleResponse_Step{Step: m.GetStep()}}
	}
	return &pb.ChangeRoleResponse{Event: &pb.ChangeRoleResponse_Done{Done: m.GetDone()}}
}
