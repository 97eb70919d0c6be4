package main

import (
	"context"
	"fmt"
	"io"

	"connectrpc.com/connect"
	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/cli"
)

func regenerateCommand() *ucli.Command {
	return &ucli.Command{
		Name: "regenerate", Usage: "declare that the source does not continue the log, and have a new generation opened beside it", ArgsUsage: "SERVICE/STREAM",
		Description: "For a source whose log is gone that the other site lacks, or that was set back: `tidegate doctor` says so.\n" +
			"The agent beside it takes a new base and ships it with the log from there on, in a new epoch. What the standby\n" +
			"nodes hold stays, and is what a failover goes to until W of them have the new base.",
		Flags: operatorFlags(cli.OutputFlag(),
			&ucli.BoolFlag{Name: "dry-run", Usage: "answer the rules and say what is given up; change nothing"},
			&ucli.BoolFlag{Name: "accept-loss", Usage: "go on although the source lacks what was shipped of the log, or does not say that it lacks anything"},
			reasonFlag()),
		Action: regenerate,
	}
}

func regenerate(c *ucli.Context) error {
	service, stream, err := streamArg(c)
	if err != nil {
		return err
	}
	req := &pb.RegenerateStreamRequest{
		Service: service, Stream: stream, Reason: c.String("reason"), DryRun: c.Bool("dry-run"), AcceptLoss: c.Bool("accept-loss"),
	}
	if !req.GetDryRun() {
		if req.Reason, err = wantReason(c); err != nil {
			return err
		}
	}
	var out *pb.RegenerateStreamResponse
	return operate(c, "regenerate stream", service+"/"+stream, func(ctx context.Context, gate client) error {
		res, err := gate.RegenerateStream(ctx, connect.NewRequest(req))
		if err == nil {
			out = res.Msg
		}
		return err
	}, func() error {
		if err := cli.Print(c, out, func(w io.Writer) error { return writeRegenerate(w, service+"/"+stream, out) }); err != nil {
			return err
		}
		if req.GetDryRun() {
			return wouldBeRefused("regenerate stream", service+"/"+stream, out.GetRules())
		}
		return nil
	})
}

// wouldBeRefused is what a dry run ends with where the command itself would be refused.
func wouldBeRefused(op, subject string, rules []*pb.RuleVerdict) error {
	refused := &api.RulesError{Rules: rules}
	if len(refused.Failing()) == 0 {
		return nil
	}
	return &tidegate.Error{
		Op: op, Subject: subject, Class: tidegate.Refused, Err: refused,
		Hint: "see `tidegate doctor` for what the agent finds, and the rules above for what --accept-loss goes on without",
	}
}

func writeRegenerate(w io.Writer, subject string, out *pb.RegenerateStreamResponse) error {
	r := out.GetRenewal()
	if err := writeDeclared(w, out.GetRules(), out.GetFacts()); err != nil {
		return err
	}
	if r == nil {
		_, err := fmt.Fprintln(w, "nothing changed")
		return err
	}
	_, err := fmt.Fprintf(w, "stream %s: a new generation is declared by %s, up to epoch %d at site %s; `tidegate status` shows how far its base is\n", subject, r.GetActor(), r.GetEpoch(), r.GetSite())
	return err
}

// writeDeclared says what a declaration needs, and what becomes of the log.
func writeDeclared(w io.Writer, rules []*pb.RuleVerdict, facts []*pb.Fact) error {
	if len(rules) > 0 {
		writeRules(w, rules)
	}
	for _, f := range facts {
		if _, err := fmt.Fprintf(w, "%s: %s\n", f.GetKey(), f.GetValue()); err != nil {
			return err
		}
	}
	return nil
}
