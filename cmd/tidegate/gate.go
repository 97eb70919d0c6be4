package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"connectrpc.com/connect"
	ucli "github.com/urfave/cli/v2"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/cli"
)

func gateCommand() *ucli.Command {
	return &ucli.Command{
		Name:      "gate",
		Usage:     "run a gate; show, set, open, arm and freeze the gates of services; back up, restore and rebuild the registry",
		ArgsUsage: " ",
		Flags:     []ucli.Flag{roleFileFlag("gate")},
		Action:    gateRun,
		Subcommands: []*ucli.Command{
			{
				Name: "run", Usage: "the same as gate alone, said in full", ArgsUsage: " ",
				Flags: []ucli.Flag{roleFileFlag("gate")}, Action: gateRun,
			},
			gateShowCommand(),
			gateExplainCommand(),
			gateSetCommand(),
			{
				Name: "open", Usage: "the brake: let the primary go on unprotected, on the record", ArgsUsage: "SERVICE[/STREAM]",
				Description: "Recorded before it acts. No gate re-arms by itself and no role changes until `tidegate gate arm`.\n" +
					"What is released meanwhile may be lost with the site, and no zero-loss claim is made for it.",
				Flags: operatorFlags(reasonFlag()), Action: gateOpen,
			},
			{
				Name: "arm", Usage: "take the brake off: the writer enforces its bounds again, then they are on record", ArgsUsage: "SERVICE",
				Flags: operatorFlags(reasonFlag()), Action: gateArm,
			},
			{
				Name: "freeze", Usage: "stop role changes of a service, and nothing else", ArgsUsage: "SERVICE",
				Flags: operatorFlags(reasonFlag()), Action: func(c *ucli.Context) error { return gateFreeze(c, true) },
			},
			{
				Name: "thaw", Usage: "allow role changes of a service again", ArgsUsage: "SERVICE",
				Flags: operatorFlags(reasonFlag()), Action: func(c *ucli.Context) error { return gateFreeze(c, false) },
			},
			gateBackupCommand(),
			gateRebuildCommand(),
		},
	}
}

// reasonFlag is the flag of every command that changes something.
func reasonFlag() ucli.Flag {
	return &ucli.StringFlag{Name: "reason", Usage: "`WHY`, for the record"}
}

// wantReason reads it where it must be given.
func wantReason(c *ucli.Context) (string, error) {
	if c.String("reason") == "" {
		return "", cli.Usagef("%s: want --reason, it goes on the record", c.Command.HelpName[strings.Index(c.Command.HelpName, " ")+1:])
	}
	return c.String("reason"), nil
}

// serviceArg is the one argument SERVICE or SERVICE/STREAM; stream is "" for all.
func serviceArg(c *ucli.Context) (service, stream string, err error) {
	args, err := cli.Args(c, "SERVICE[/STREAM]")
	if err != nil {
		return "", "", err
	}
	return splitService(args[0])
}

func splitService(arg string) (service, stream string, err error) {
	service, stream, named := strings.Cut(arg, "/")
	if tidegate.ValidName(service) != nil || named && tidegate.ValidName(stream) != nil {
		return "", "", cli.Usagef("service %q: want SERVICE or SERVICE/STREAM", arg)
	}
	return service, stream, nil
}

// gateSetCommand is `gate set`.
func gateSetCommand() *ucli.Command {
	return &ucli.Command{
		Name: "set", Usage: "set a stream's mode, bounds and policy, and its service's lease", ArgsUsage: "SERVICE/STREAM",
		Description: "What is not given stays as it is. A loosening is recorded before it acts, a tightening acts before it is recorded.",
		Flags: operatorFlags(append(modeFlags(""),
			append(policyFlags(),
				&ucli.DurationFlag{Name: "lease", Usage: "open and degraded streams of the whole service are released only under a lease of this `TIME`; 0 for none", DefaultText: "as it is"},
				singleRegistryFlag(), reasonFlag())...)...),
		Action: gateSet,
	}
}

// policyFlags say what a gate does at its edge.
func policyFlags() []ucli.Flag {
	return []ucli.Flag{
		&ucli.StringFlag{Name: "policy", Usage: "`WHAT` a gate does that has been closed for longer than its grace: block, reject, degrade or degrade-blind"},
		&ucli.DurationFlag{Name: "grace", Usage: "closed for this `TIME` before the policy sets in"},
		&ucli.DurationFlag{Name: "rearm", Usage: "a degraded gate arms itself after the standby side has kept up for this `TIME`"},
	}
}

func singleRegistryFlag() ucli.Flag {
	return &ucli.BoolFlag{Name: "single-registry", Usage: "allow what needs a registry that outlives a site, although this one does not"}
}

// policyOf reads policyFlags; absent ones are unspecified and nil.
func policyOf(c *ucli.Context) (policy pb.GatePolicy, grace, rearm *durationpb.Duration, err error) {
	if word := c.String("policy"); word != "" {
		n, words, ok := enumValue(pb.GatePolicy(0), word)
		if !ok {
			return 0, nil, nil, cli.Usagef("policy %q: want one of %s", word, strings.Join(words, ", "))
		}
		policy = pb.GatePolicy(n)
	}
	if grace, err = timeOf(c, "grace"); err != nil {
		return 0, nil, nil, err
	}
	rearm, err = timeOf(c, "rearm")
	return policy, grace, rearm, err
}

// timeOf is a flag's duration, nil when it was not given.
func timeOf(c *ucli.Context, name string) (*durationpb.Duration, error) {
	switch {
	case !c.IsSet(name):
		return nil, nil
	case c.Duration(name) < 0:
		return nil, cli.Usagef("%s %s: want none negative", name, c.Duration(name))
	}
	return durationpb.New(c.Duration(name)), nil
}

func gateSet(c *ucli.Context) error {
	service, stream, err := streamArg(c)
	if err != nil {
		return err
	}
	req := &pb.SetModeRequest{Service: service, Stream: stream, SingleRegistry: c.Bool("single-registry")}
	if req.Mode, req.Bounds, err = modeOf(c); err != nil {
		return err
	}
	if req.Policy, req.Grace, req.Rearm, err = policyOf(c); err != nil {
		return err
	}
	if req.LeaseTtl, err = timeOf(c, "lease"); err != nil {
		return err
	}
	if req.GetMode() == 0 && req.GetPolicy() == 0 && req.Grace == nil && req.Rearm == nil && req.LeaseTtl == nil {
		return cli.Usagef("gate set: want --mode, --policy, --grace, --rearm or --lease")
	}
	if req.Reason, err = wantReason(c); err != nil {
		return err
	}
	return operate(c, "set gate", service+"/"+stream, func(ctx context.Context, gate client) error {
		_, err := gate.SetMode(ctx, connect.NewRequest(req))
		return err
	}, func() error {
		_, err := fmt.Fprintf(c.App.Writer, "%s/%s: %s wanted; the writer brings its gate and its record to it\n", service, stream, wanted(req))
		return err
	})
}

// wanted repeats what was asked for.
func wanted(m *pb.SetModeRequest) string {
	var parts []string
	if m.GetMode() != 0 {
		parts = append(parts, "mode "+enumWord(m.GetMode()))
	}
	if m.GetPolicy() != 0 {
		parts = append(parts, "policy "+enumWord(m.GetPolicy()))
	}
	for _, t := range []struct {
		name string
		d    *durationpb.Duration
	}{{"grace", m.GetGrace()}, {"rearm", m.GetRearm()}, {"lease", m.GetLeaseTtl()}} {
		if t.d != nil {
			parts = append(parts, t.name+" "+cli.Span(t.d.AsDuration()))
		}
	}
	return strings.Join(parts, ", ")
}

func gateOpen(c *ucli.Context) error {
	service, stream, err := serviceArg(c)
	if err != nil {
		return err
	}
	reason, err := wantReason(c)
	if err != nil {
		return err
	}
	var out *pb.OpenGateResponse
	return operate(c, "open gate", c.Args().First(), func(ctx context.Context, gate client) error {
		res, err := gate.OpenGate(ctx, connect.NewRequest(&pb.OpenGateRequest{Service: service, Stream: stream, Reason: reason}))
		if err == nil {
			out = res.Msg
		}
		return err
	}, func() error {
		if !out.GetChanged() {
			_, err := fmt.Fprintf(c.App.Writer, "%s: the brake was on already\n", c.Args().First())
			return err
		}
		_, err := fmt.Fprintf(c.App.Writer, "%s: the brake is on: outputs are released unprotected, and that is on record. `tidegate gate arm %s` ends it\n", c.Args().First(), service)
		return err
	})
}

func gateArm(c *ucli.Context) error {
	args, err := cli.Args(c, "SERVICE")
	if err != nil {
		return err
	}
	reason, err := wantReason(c)
	if err != nil {
		return err
	}
	var out *pb.ArmGateResponse
	return operate(c, "arm gate", args[0], func(ctx context.Context, gate client) error {
		res, err := gate.ArmGate(ctx, connect.NewRequest(&pb.ArmGateRequest{Service: args[0], Reason: reason}))
		if err == nil {
			out = res.Msg
		}
		return err
	}, func() error {
		text := "no brake was on, and role changes were armed already"
		if out.GetChanged() {
			text = "the brake is off; the writer enforces its bounds, and the record says so once it has caught up"
		}
		_, err := fmt.Fprintf(c.App.Writer, "%s: %s\n", args[0], text)
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
	return operate(c, verb, args[0], func(ctx context.Context, gate client) error {
		_, err := gate.Freeze(ctx, connect.NewRequest(req))
		return err
	}, func() error {
		_, err := fmt.Fprintf(c.App.Writer, "%s: role changes %s\n", args[0], map[bool]string{true: "frozen", false: "allowed"}[frozen])
		return err
	})
}

func gateRebuildCommand() *ucli.Command {
	return &ucli.Command{
		Name: "rebuild", Usage: "write the registry anew from what the standby nodes hold", ArgsUsage: " ",
		Description: "For the day the registry is lost for good. Epochs are written above every promise found;\n" +
			"no zero-loss claim is made until a live writer arms its gate again.",
		Flags: operatorFlags(cli.OutputFlag(), reasonFlag(),
			&ucli.StringSliceFlag{Name: "from-standbys", Usage: "API `HOST:PORT` of a standby node; give every one that is left"},
			&ucli.StringSliceFlag{Name: "missing", Usage: "`NODE` that is lost for good; without it every configured node must answer"},
			&ucli.StringFlag{Name: "active-site", Usage: "`SITE` where the services run now; needed when no standby node remembers it"},
			&ucli.BoolFlag{Name: "dry-run", Usage: "report what would be written; change nothing"}),
		Action: gateRebuild,
	}
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
	return operate(c, "rebuild registry", "", func(ctx context.Context, gate client) error {
		res, err := gate.Rebuild(ctx, connect.NewRequest(req))
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
