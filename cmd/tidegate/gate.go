package main

import (
	"context"
	"fmt"
	"io"

	"connectrpc.com/connect"
	ucli "github.com/urfave/cli/v2"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/internal/cli"
)

func gateCommand() *ucli.Command {
	reason := &ucli.StringFlag{Name: "reason", Usage: "`WHY`, for the record"}
	return &ucli.Command{
		Name:      "gate",
		Usage:     "run a gate; set modes, freeze, rebuild the registry",
		ArgsUsage: " ",
		Flags:     []ucli.Flag{roleFileFlag("gate")},
		Action:    gateRun,
		Subcommands: []*ucli.Command{
			{
				Name: "run", Usage: "the same as gate alone, said in full", ArgsUsage: " ",
				Flags: []ucli.Flag{roleFileFlag("gate")}, Action: gateRun,
			},
			{
				Name: "set", Usage: "set a stream's mode and bounds", ArgsUsage: "SERVICE/STREAM",
				Flags: operatorFlags(append(modeFlags(), reason)...), Action: gateSet,
			},
			{
				Name: "freeze", Usage: "stop role changes of a service, and nothing else", ArgsUsage: "SERVICE",
				Flags: operatorFlags(reason), Action: func(c *ucli.Context) error { return gateFreeze(c, true) },
			},
			{
				Name: "thaw", Usage: "allow role changes of a service again", ArgsUsage: "SERVICE",
				Flags: operatorFlags(reason), Action: func(c *ucli.Context) error { return gateFreeze(c, false) },
			},
			{
				Name: "rebuild", Usage: "write the registry anew from what the standby nodes hold", ArgsUsage: " ",
				Description: "For the day the registry is lost for good. Epochs are written above every promise found;\n" +
					"no zero-loss claim is made until a live writer arms its gate again.",
				Flags: operatorFlags(cli.OutputFlag(), reason,
					&ucli.StringSliceFlag{Name: "from-standbys", Usage: "API `HOST:PORT` of a standby node; give every one that is left"},
					&ucli.StringSliceFlag{Name: "missing", Usage: "`NODE` that is lost for good; without it every configured node must answer"},
					&ucli.StringFlag{Name: "active-site", Usage: "`SITE` where the services run now; needed when no standby node remembers it"},
					&ucli.BoolFlag{Name: "dry-run", Usage: "report what would be written; change nothing"}),
				Action: gateRebuild,
			},
		},
	}
}

func gateSet(c *ucli.Context) error {
	service, stream, err := streamArg(c)
	if err != nil {
		return err
	}
	mode, bounds, err := modeOf(c)
	if err != nil {
		return err
	}
	if c.String("reason") == "" {
		return cli.Usagef("gate set: want --reason, it goes on the record")
	}
	req := &pb.SetModeRequest{Service: service, Stream: stream, Mode: mode, Bounds: bounds, Reason: c.String("reason")}
	return operate(c, "set gate", service+"/"+stream, func(ctx context.Context, client tidegatev1connect.OperatorServiceClient) error {
		_, err := client.SetMode(ctx, connect.NewRequest(req))
		return err
	}, func() error {
		_, err := fmt.Fprintf(c.App.Writer, "%s/%s: mode %s wanted; the writer brings its gate and its record to it\n", service, stream, enumWord(mode))
		return err
	})
}

func gateFreeze(c *ucli.Context, frozen bool) error {
	args, err := cli.Args(c, "SERVICE")
	if err != nil {
		return err
	}
	req := &pb.FreezeRequest{Service: args[0], Frozen: frozen, Reason: c.String("reason")}
	verb := map[bool]string{true: "freeze", false: "thaw"}[frozen]
	return operate(c, verb, args[0], func(ctx context.Context, client tidegatev1connect.OperatorServiceClient) error {
		_, err := client.Freeze(ctx, connect.NewRequest(req))
		return err
	}, func() error {
		_, err := fmt.Fprintf(c.App.Writer, "%s: role changes %s\n", args[0], map[bool]string{true: "frozen", false: "allowed"}[frozen])
		return err
	})
}

func gateRebuild(c *ucli.Context) error {
	if _, err := cli.Args(c); err != nil {
		return err
	}
	standbys := c.StringSlice("from-standbys")
	if len(standbys) == 0 {
		return cli.Usagef("gate rebuild: want --from-standbys HOST:PORT, once per node that is left")
	}
	if !c.Bool("dry-run") && c.String("reason") == "" {
		return cli.Usagef("gate rebuild: want --reason, it goes on the record")
	}
	req := &pb.RebuildRequest{Standbys: standbys, Missing: c.StringSlice("missing"), DryRun: c.Bool("dry-run"), Reason: c.String("reason"), ActiveSite: c.String("active-site")}
	var out *pb.RebuildResponse
	return operate(c, "rebuild registry", "", func(ctx context.Context, client tidegatev1connect.OperatorServiceClient) error {
		res, err := client.Rebuild(ctx, connect.NewRequest(req))
		if err == nil {
			out = res.Msg
		}
		return err
	}, func() error {
		return cli.Print(c, out, func(w io.Writer) error {
			for _, s := range out.GetStreams() {
				fmt.Fprintf(w, "%s/%s: epoch %d, gate %s\n", s.GetService(), s.GetName(), s.GetEpoch().GetEpoch(), enumWord(s.GetEpoch().GetGate().GetState()))
			}
			for _, warning := range out.GetWarnings() {
				fmt.Fprintln(w, "warning:", warning)
			}
			return nil
		})
	})
}
