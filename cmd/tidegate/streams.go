package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"connectrpc.com/connect"
	ucli "github.com/urfave/cli/v2"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/config"
)

func servicesCommand() *ucli.Command {
	return &ucli.Command{
		Name:  "services",
		Usage: "the units of objective and failover",
		Subcommands: []*ucli.Command{{
			Name:      "add",
			Usage:     "make a service known",
			ArgsUsage: "SERVICE",
			Flags: operatorFlags(cli.OutputFlag(),
				&ucli.DurationFlag{Name: "rpo", Usage: "objective: the most `TIME` of acknowledged work that a disaster may cost", DefaultText: "none"},
				&ucli.DurationFlag{Name: "rto", Usage: "objective: the most `TIME` until clients write again", DefaultText: "none"},
				&ucli.StringSliceFlag{Name: "route", Usage: "`NAME` of a route that must follow before a change counts as done"},
				&ucli.StringSliceFlag{Name: "endpoint", Usage: "where a site serves clients until its library says so, `SITE=HOST:PORT`"},
				&ucli.Int64Flag{Name: "loss-records", Usage: "a failover may lose at most `K` records without --accept-loss", DefaultText: "no such limit"},
				&ucli.StringFlag{Name: "loss-bytes", Usage: "at most `B` bytes of them, such as 16MiB", DefaultText: "no such limit"},
				&ucli.DurationFlag{Name: "loss-window", Usage: "at most `T` of release time", DefaultText: "rpo"},
				&ucli.DurationFlag{Name: "lease", Usage: "open and degraded streams are released only under a lease of this `TIME`", DefaultText: "none"},
				singleRegistryFlag()),
			Action: servicesAdd,
		}},
	}
}

func servicesAdd(c *ucli.Context) error {
	args, err := cli.Args(c, "SERVICE")
	if err != nil {
		return err
	}
	service := &pb.Service{Name: args[0], Routes: c.StringSlice("route")}
	if c.IsSet("rpo") {
		service.Rpo = durationpb.New(c.Duration("rpo"))
	}
	if c.IsSet("rto") {
		service.Rto = durationpb.New(c.Duration("rto"))
	}
	for _, e := range c.StringSlice("endpoint") {
		site, addr, ok := strings.Cut(e, "=")
		if !ok || config.HostPort("", addr) != nil {
			return cli.Usagef("endpoint %q: want SITE=HOST:PORT", e)
		}
		service.Endpoints = append(service.Endpoints, &pb.SiteEndpoints{Site: site, Endpoints: []string{addr}})
	}
	if service.MaxLoss, err = maxLossOf(c); err != nil {
		return err
	}
	if service.LeaseTtl, err = timeOf(c, "lease"); err != nil {
		return err
	}
	req := &pb.AddServiceRequest{Service: service, SingleRegistry: c.Bool("single-registry")}
	var out *pb.AddServiceResponse
	return operate(c, "add service", args[0], func(ctx context.Context, client tidegatev1connect.OperatorServiceClient) error {
		res, err := client.AddService(ctx, connect.NewRequest(req))
		if err == nil {
			out = res.Msg
		}
		return err
	}, func() error {
		return cli.Print(c, out, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "service %s added\n", out.GetService().GetName())
			return err
		})
	})
}

// maxLossOf reads what a failover may lose by itself; nil leaves it to the RPO.
func maxLossOf(c *ucli.Context) (*pb.Bounds, error) {
	m := modeChoice{}
	if c.IsSet("loss-records") {
		m.Records = new(c.Int64("loss-records"))
	}
	if c.IsSet("loss-bytes") {
		m.Bytes = new(config.Bytes)
		if err := m.Bytes.UnmarshalText([]byte(c.String("loss-bytes"))); err != nil {
			return nil, cli.Usagef("loss-bytes: %w", err)
		}
	}
	if c.IsSet("loss-window") {
		m.Window = new(c.Duration("loss-window"))
	}
	b := m.bounds()
	switch {
	case b.Records == nil && b.Bytes == nil && b.Window == nil:
		return nil, nil
	case b.GetRecords() < 0 || b.GetWindow().AsDuration() < 0:
		return nil, cli.Usagef("loss: want none negative")
	}
	return b, nil
}

// operate runs one call against the gates and then prints.
func operate(c *ucli.Context, op, subject string, call func(context.Context, tidegatev1connect.OperatorServiceClient) error, print func() error) error {
	o, err := newOperator(c)
	if err != nil {
		return err
	}
	err = o.do(c.Context, op, subject, func(client tidegatev1connect.OperatorServiceClient) error { return call(c.Context, client) })
	if err != nil {
		return err
	}
	return print()
}

func streamsCommand() *ucli.Command {
	reason := &ucli.StringFlag{Name: "reason", Usage: "`WHY`, for the record"}
	return &ucli.Command{
		Name:  "streams",
		Usage: "the ordered logs of the services",
		Subcommands: []*ucli.Command{
			{
				Name: "list", Usage: "list streams with their epochs", ArgsUsage: " ",
				Flags:  operatorFlags(cli.OutputFlag(), &ucli.StringFlag{Name: "service", Usage: "only this `SERVICE`"}),
				Action: streamsList,
			},
			{
				Name: "add", Usage: "make a stream known", ArgsUsage: "SERVICE/STREAM",
				Flags: operatorFlags(slices.Concat(modeFlags("sync"), policyFlags(), []ucli.Flag{
					singleRegistryFlag(),
					cli.OutputFlag(),
					&ucli.StringFlag{Name: "id", Usage: "the stream's `ID`, 32 hex digits; drawn by the gate when absent"},
					&ucli.StringFlag{Name: "store", Value: "journal", Usage: "`STORE` at the source"},
					&ucli.StringSliceFlag{Name: "member", Usage: "standby `NODE` that keeps the log; give each"},
					&ucli.UintFlag{Name: "w", Usage: "`NUMBER` of standby nodes that must have fsynced a batch", DefaultText: "a majority of the members"},
				})...),
				Action: streamsAdd,
			},
			reconfigureCommand(),
			regenerateCommand(),
			{
				Name: "pause", Usage: "stop shipping a stream; exposure grows", ArgsUsage: "SERVICE/STREAM",
				Flags: operatorFlags(reason), Action: streamsPause,
			},
			{
				Name: "resume", Usage: "ship a paused stream again", ArgsUsage: "SERVICE/STREAM",
				Flags: operatorFlags(), Action: streamsResume,
			},
			{
				Name: "remove", Usage: "forget a stream; its logs stay where they are", ArgsUsage: "SERVICE/STREAM",
				Flags: operatorFlags(reason), Action: streamsRemove,
			},
		},
	}
}

// streamArg is the one argument SERVICE/STREAM.
func streamArg(c *ucli.Context) (service, stream string, err error) {
	args, err := cli.Args(c, "SERVICE/STREAM")
	if err != nil {
		return "", "", err
	}
	service, stream, ok := strings.Cut(args[0], "/")
	if !ok || tidegate.ValidName(service) != nil || tidegate.ValidName(stream) != nil {
		return "", "", cli.Usagef("stream %q: want SERVICE/STREAM", args[0])
	}
	return service, stream, nil
}

func streamsAdd(c *ucli.Context) error {
	service, stream, err := streamArg(c)
	if err != nil {
		return err
	}
	mode, bounds, err := modeOf(c)
	if err != nil {
		return err
	}
	members := c.StringSlice("member")
	w := c.Uint("w")
	if !c.IsSet("w") {
		w = uint(len(members)/2 + 1)
	}
	if len(members) == 0 || w < 1 || w > uint(len(members)) {
		return cli.Usagef("members %v with w %d: want at least one --member, and 1 <= w <= members", members, w)
	}
	policy, grace, rearm, err := policyOf(c)
	if err != nil {
		return err
	}
	if policy == 0 {
		policy = pb.GatePolicy_GATE_POLICY_BLOCK
	}
	req := &pb.AddStreamRequest{
		Service: service, Name: stream, Id: c.String("id"), Store: c.String("store"),
		Mode: mode, Bounds: bounds, Policy: policy, Grace: grace, Rearm: rearm, SingleRegistry: c.Bool("single-registry"),
		Members: members, W: uint32(w), //nolint:gosec // at most len(members)
	}
	var out *pb.AddStreamResponse
	return operate(c, "add stream", service+"/"+stream, func(ctx context.Context, client tidegatev1connect.OperatorServiceClient) error {
		res, err := client.AddStream(ctx, connect.NewRequest(req))
		if err == nil {
			out = res.Msg
		}
		return err
	}, func() error {
		return cli.Print(c, out, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "stream %s/%s added, id %s\n", service, stream, out.GetStream().GetId())
			return err
		})
	})
}

func streamsList(c *ucli.Context) error {
	if _, err := cli.Args(c); err != nil {
		return err
	}
	var out *pb.ListStreamsResponse
	return operate(c, "list streams", c.String("service"), func(ctx context.Context, client tidegatev1connect.OperatorServiceClient) error {
		res, err := client.ListStreams(ctx, connect.NewRequest(&pb.ListStreamsRequest{Service: c.String("service")}))
		if err != nil {
			return err
		}
		out = res.Msg
		return known(ctx, client, c.String("service"), len(out.GetStreams()))
	}, func() error {
		return cli.Print(c, out, func(w io.Writer) error {
			table := cli.NewTable("stream", "id", "store", "mode", "epoch", "state", "writer", "members", "w")
			for _, s := range out.GetStreams() {
				epoch, state, writer := "none", "", ""
				if e := s.GetEpoch(); e.GetEpoch() > 0 {
					epoch, state, writer = fmt.Sprint(e.GetEpoch()), enumWord(e.GetState()), e.GetHolder().GetNode()
				}
				if r := s.GetRenewal(); r != nil && r.GetEpoch() >= s.GetEpoch().GetEpoch() {
					state = strings.TrimSpace(state + " regenerating")
				}
				if s.GetPaused() {
					state = strings.TrimSpace(state + " paused")
				}
				table.Row(s.GetService()+"/"+s.GetName(), s.GetId(), s.GetStore(), modeText(s), epoch, state, writer,
					strings.Join(s.GetMembers(), ","), fmt.Sprint(s.GetW()))
			}
			_, err := table.WriteTo(w)
			return err
		})
	})
}

// modeText is the mode with its bounds: "bounded 100 records, a window of 2s".
func modeText(s *pb.StreamView) string {
	text := enumWord(s.GetMode())
	if s.GetMode() != pb.Mode_MODE_BOUNDED {
		return text
	}
	return text + " " + boundsText(s.GetBounds())
}

func streamsPause(c *ucli.Context) error {
	return streamVerb(c, "pause", func(ctx context.Context, client tidegatev1connect.OperatorServiceClient, service, stream string) error {
		_, err := client.PauseStream(ctx, connect.NewRequest(&pb.PauseStreamRequest{Service: service, Stream: stream, Reason: c.String("reason")}))
		return err
	})
}

func streamsResume(c *ucli.Context) error {
	return streamVerb(c, "resume", func(ctx context.Context, client tidegatev1connect.OperatorServiceClient, service, stream string) error {
		_, err := client.ResumeStream(ctx, connect.NewRequest(&pb.ResumeStreamRequest{Service: service, Stream: stream}))
		return err
	})
}

func streamsRemove(c *ucli.Context) error {
	var left []*pb.Remnant
	err := streamVerb(c, "remove", func(ctx context.Context, client tidegatev1connect.OperatorServiceClient, service, stream string) error {
		res, err := client.RemoveStream(ctx, connect.NewRequest(&pb.RemoveStreamRequest{Service: service, Stream: stream, Reason: c.String("reason")}))
		if err == nil {
			left = res.Msg.GetRemnants()
		}
		return err
	})
	for _, r := range left {
		fmt.Fprintf(c.App.Writer, "still to be done by hand beside %s: %s\n", r.GetNode(), r.GetText())
	}
	return err
}

func streamVerb(c *ucli.Context, verb string, call func(context.Context, tidegatev1connect.OperatorServiceClient, string, string) error) error {
	service, stream, err := streamArg(c)
	if err != nil {
		return err
	}
	return operate(c, verb+" stream", service+"/"+stream, func(ctx context.Context, client tidegatev1connect.OperatorServiceClient) error {
		return call(ctx, client, service, stream)
	}, func() error {
		past := map[string]string{"pause": "paused", "resume": "resumed", "remove": "removed"}[verb]
		_, err := fmt.Fprintf(c.App.Writer, "stream %s/%s %s\n", service, stream, past)
		return err
	})
}
