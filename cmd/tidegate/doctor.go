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

func doctorCommand() *ucli.Command {
	return &ucli.Command{
		Name:      "doctor",
		Usage:     "list what needs attention, each finding with its next step",
		ArgsUsage: " ",
		Flags:     operatorFlags(cli.OutputFlag()),
		Action:    doctor,
	}
}

func doctor(c *ucli.Context) error {
	if _, err := cli.Args(c); err != nil {
		return err
	}
	var out *pb.DoctorResponse
	return operate(c, "doctor", "", func(ctx context.Context, client tidegatev1connect.OperatorServiceClient) error {
		res, err := client.Doctor(ctx, connect.NewRequest(&pb.DoctorRequest{}))
		if err == nil {
			out = res.Msg
		}
		return err
	}, func() error {
		if err := cli.Print(c, out, func(w io.Writer) error { return writeFindings(w, out.GetFindings()) }); err != nil {
			return err
		}
		for _, f := range out.GetFindings() {
			if f.GetSeverity() == pb.Severity_SEVERITY_CRITICAL {
				return cli.Exit(cli.Failed)
			}
		}
		return nil
	})
}

func writeFindings(w io.Writer, findings []*pb.Finding) error {
	if len(findings) == 0 {
		_, err := fmt.Fprintln(w, "nothing found")
		return err
	}
	for _, f := range findings {
		fmt.Fprintf(w, "%s: %s: %s\n", enumWord(f.GetSeverity()), f.GetSubject(), f.GetFinding())
		if f.GetNextStep() != "" {
			fmt.Fprintf(w, "  next: %s\n", f.GetNextStep())
		}
	}
	return nil
}
