package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"connectrpc.com/connect"
	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/judge"
	"github.com/tidegate/tidegate/drills/shadow"
	"github.com/tidegate/tidegate/gating"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/pki"
)

func drillRecordCommand() *ucli.Command {
	return &ucli.Command{
		Name: "record", Usage: "have the gate write down what came of drills, by their reports", ArgsUsage: "FILE...",
		Flags: operatorFlags(cli.OutputFlag(),
			&ucli.BoolFlag{Name: "anew", Usage: "the first need not follow the report on record; takes an operator's certificate and --reason"},
			&ucli.StringFlag{Name: "reason", Usage: "`WHY`, for the audit trail"}),
		Action: recordDrills,
		Description: "A report counts for the rule drill-fresh once a gate has it that trusts the key: gate.drills.keys in the gate's file. `drill run`\n" +
			"sends its own; this is for those that could not be sent, in their order: none can be left out. Where reports are lost, or another\n" +
			"chain was begun, an operator goes on with --anew, which stands on the audit trail.\n\n" +
			"Example:\n" +
			"   tidegate drill record evidence/bank/0000000017.dsse.json\n" +
			"   tidegate drill record evidence/bank/0000000001.dsse.json --anew --reason \"the old archive is gone\"",
	}
}

// recordedDrill is what record prints of one report.
type recordedDrill struct {
	File    string          `json:"file"`
	Service string          `json:"service"`
	Drill   *pb.DrillRecord `json:"drill"`
}

func recordDrills(c *ucli.Context) error {
	if c.NArg() == 0 {
		return cli.Usagef("record which reports? name their files, the oldest first")
	}
	if c.Bool("anew") && c.String("reason") == "" {
		return cli.Usagef("drill record: want --reason with --anew")
	}
	op, err := newOperator(c)
	if err != nil {
		return err
	}
	var out []recordedDrill
	for _, name := range c.Args().Slice() {
		files, dir, err := readPath(name)
		if err != nil {
			return cli.Usagef("%s: %w", name, err)
		}
		if dir {
			return cli.Usagef("%s is a directory: name the files, the oldest first", name)
		}
		r, err := recordDrill(c.Context, op, files[0].Name, &pb.RecordDrillRequest{
			Envelope: files[0].Data, Anew: c.Bool("anew") && len(out) == 0, Reason: c.String("reason"),
		})
		if err != nil {
			return errors.Join(err, cli.Print(c, out, func(w io.Writer) error { return writeRecorded(w, out) }))
		}
		out = append(out, recordedDrill{name, r.GetService(), r.GetDrill()})
	}
	return cli.Print(c, out, func(w io.Writer) error { return writeRecorded(w, out) })
}

// recordDrill sends one report to a gate.
func recordDrill(ctx context.Context, op *operator, name string, m *pb.RecordDrillRequest) (r *pb.RecordDrillResponse, err error) {
	err = op.do(ctx, "record drill", name, func(client tidegatev1connect.OperatorServiceClient) error {
		res, err := client.RecordDrill(ctx, connect.NewRequest(m))
		if err == nil {
			r = res.Msg
		}
		return err
	})
	return r, err
}

func writeRecorded(w io.Writer, all []recordedDrill) error {
	for _, one := range all {
		if _, err := fmt.Fprintf(w, "%s: report %d of %s, %s %s, is on record\n", one.File, one.Drill.GetNumber(), one.Service, one.Drill.GetLevel(), one.Drill.GetOutcome()); err != nil {
			return err
		}
	}
	return nil
}

// drillReports reads reports for a gate, which believes those that one of the keys in
// the files has signed; nil when there are no files.
func drillReports(paths []string) (func([]byte) (gating.DrillReport, error), error) {
	if len(paths) == 0 {
		return nil, nil //nolint:nilnil // as documented
	}
	var keys []evidence.PublicKey
	var wrong []error
	for _, path := range paths {
		k, err := evidence.LoadPublicKey(path)
		keys, wrong = append(keys, k), append(wrong, err)
	}
	if err := errors.Join(wrong...); err != nil {
		return nil, err
	}
	return func(envelope []byte) (gating.DrillReport, error) {
		file := []evidence.File{{Name: "report", Data: envelope}}
		for _, k := range keys { // one by one: who has signed it is what was proven, and not what the envelope says
			if p := evidence.Verify(file, []evidence.PublicKey{k}, evidence.VerifyOptions{}); p.Err() == nil {
				return drillReportOf(p.Chains[0].Reports[0], k.ID()), nil
			}
		}
		return gating.DrillReport{}, evidence.Verify(file, keys, evidence.VerifyOptions{}).Err()
	}, nil
}

// drillReportOf is what a gate keeps of a report that key has signed.
func drillReportOf(s evidence.Sealed, key evidence.KeyID) gating.DrillReport {
	r := s.Report
	out := gating.DrillReport{
		Drill: registry.Drill{
			ID: r.ID.String(), Number: uint64(r.Number), Level: string(r.Level), Scenario: r.Scenario, Outcome: string(r.Verdict.Outcome),
			RTA: r.Recovered.Actual, RTO: r.Recovered.Objective, Phases: drillPhases(r), Hash: s.Hash.String(), Key: string(key),
		},
		Cluster: r.Cluster, Service: r.Service,
	}
	if r.Ended != nil {
		out.Ended = *r.Ended
	}
	if r.Previous != nil {
		out.Previous = r.Previous.String()
	}
	return out
}

// drillPhases are the phases that drills of the level have, each with what the
// comparison with its history came to, and the total's behind them.
func drillPhases(r evidence.Report) []registry.DrillPhase {
	var out []registry.DrillPhase
	for _, p := range r.Phases {
		if !p.Absent {
			out = append(out, registry.DrillPhase{Name: p.Name, Took: p.Took})
		}
	}
	for _, c := range r.Compared {
		var slower *bool
		switch t := judge.Trend(c.Finding); {
		case t.Regressed():
			slower = new(true)
		case t == judge.Steady:
			slower = new(false)
		}
		i := slices.IndexFunc(out, func(p registry.DrillPhase) bool { return p.Name == c.Phase })
		switch {
		case i >= 0:
			out[i].Slower = slower
		case c.Phase == judge.Total:
			out = append(out, registry.DrillPhase{Name: c.Phase, Slower: slower})
		}
	}
	return out
}

// tellBack bounds how many reports of before are sent when a gate lacks them.
const tellBack = 200

// tell sends a chain's newest report, and before it those that the gate lacks: it takes
// each only when it has the one before. send must be safe to repeat.
func tell(files []evidence.File, send func(evidence.File) error) (err error) {
	first := len(files) - 1
	for ; first >= 0; first-- {
		if err = send(files[first]); tidegate.ClassOf(err) != tidegate.Refused {
			break
		}
	}
	if err != nil {
		return err
	}
	for _, f := range files[first+1:] {
		if err := send(f); err != nil {
			return err
		}
	}
	return nil
}

// tellGate has a gate that the drill's file names write down what came of the drill, and
// of those before it that it lacks, and says on stderr when it does not: the verdict
// stands all the same.
func (a *drillAsk) tellGate(ctx context.Context, w io.Writer, store *evidence.Store) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tellFor)
	defer cancel()
	if err := a.record(ctx, store); err != nil {
		fmt.Fprintf(w, "WARNING: no gate has the report on record, so drill-fresh does not count this drill: %v\n", err)
		if hint := tidegate.HintOf(err); hint != "" {
			fmt.Fprintf(w, "hint: %s\n", hint)
		}
		fmt.Fprintln(w, "hint: the next drill sends it, too; `tidegate drill record FILE...` does so before")
		return
	}
	fmt.Fprintln(w, "the gate has the report on record")
}

// record sends the newest report to a gate that the drill's file names, and before it
// those that the gate lacks.
func (a *drillAsk) record(ctx context.Context, store *evidence.Store) error {
	files, err := store.Files(ctx, a.cfg.Service, tellBack)
	if err != nil {
		return err
	}
	op, err := gatesOf(&a.cfg)
	if err != nil {
		return err
	}
	defer op.http.CloseIdleConnections()
	return tell(files, func(f evidence.File) error {
		_, err := recordDrill(ctx, op, f.Name, &pb.RecordDrillRequest{Envelope: f.Data})
		return err
	})
}

// gatesOf talks to the gates of a drill's file under the drill's identity.
func gatesOf(cfg *shadow.Config) (*operator, error) {
	creds, err := pki.Load(cfg.TLS.Cert, cfg.TLS.Key, cfg.TLS.CA)
	if err != nil {
		return nil, err
	}
	return &operator{gates: cfg.Gates, http: api.NewHTTPClient(creds.ClientTLS(pki.Expect{Role: tidegate.RoleGate}))}, nil
}

// tellFor bounds how long the gates are asked to write reports down.
const tellFor = 30 * time.Second
