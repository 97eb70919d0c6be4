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
	o, err := newOperator(c)
	if err != nil {
		return err
	}
	out, err := o.doctor(c.Context)
	if err != nil {
		return err
	}
	if err := cli.Print(c, out, func(w io.Writer) error { return writeFindings(w, out.GetFindings()) }); err != nil {
		return err
	}
	for _, f := range out.GetFindings() {
		if f.GetSeverity() == pb.Severity_SEVERITY_CRITICAL {
			return cli.Exit(cli.Failed)
		}
	}
	return nil
}

// doctor asks every gate. The findings are those of the first that answers; a
// gate that does not answer is a finding that no other gate makes.
func (o *operator) doctor(ctx context.Context) (*pb.DoctorResponse, error) {
	var out *pb.DoctorResponse
	var silent []*pb.Finding
	var unreachable []error
	for _, gate := range o.gates {
		res, err := tidegatev1connect.NewOperatorServiceClient(o.http, "https://"+gate).Doctor(ctx, connect.NewRequest(&pb.DoctorRequest{}))
		err = cli.Remote("doctor", "", err)
		switch {
		case err == nil:
			if out == nil {
				out = res.Msg
			}
		case cli.CodeOf(err) != cli.Unreachable || ctx.Err() != nil:
			return nil, err
		default:
			unreachable = append(unreachable, fmt.Errorf("gate %s: %w", gate, err))
			silent = append(silent, &pb.Finding{
				Severity: pb.Severity_SEVERITY_WARNING, Subject: "gate " + gate, Finding: "does not answer from here: " + err.Error(),
				NextStep: "see whether it runs and can be reached; with no gate left role changes wait",
			})
		}
	}
	if out == nil {
		return nil, noGate("doctor", "", unreachable)
	}
	out.Findings = append(out.Findings, silent...)
	return out, nil
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
