package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/internal/cli"
)

func gapCommand() *ucli.Command {
	return &ucli.Command{
		Name:  "gap",
		Usage: "ranges of a log that are lost: list them, and go on without",
		Subcommands: []*ucli.Command{
			{
				Name: "list", Usage: "list what of the streams' logs is lost, and what was ever", ArgsUsage: "[SERVICE/STREAM]",
				Description: "What the gate and the nodes know; with --archive or --url also the holes and the scars of an archive, which knows where\n" +
					"a gap ends. Ends with 1 while a gap is open, with 12 while it is not known of a stream whether one is.",
				Flags: operatorFlags(cli.OutputFlag(),
					&ucli.StringFlag{Name: "archive", Usage: "`FILE` with the archive's address: a block of its own, or the block archive of any role's file"},
					&ucli.StringFlag{Name: "url", Usage: "`URL` of the archive, as in file:///srv/archive or s3://bucket/prefix, where nothing more need be said"}),
				Action: gapList,
			},
			{
				Name: "accept", Usage: "go on without what a source has lost of its log: a new generation is opened beside it", ArgsUsage: "SERVICE/STREAM",
				Description: "For a source that says that it does not go on; refused where none says so. The agent beside it takes a new base and\n" +
					"ships it with the log from there on, in a new epoch. What was lost in between stays on record as a scar, for ever.",
				Flags: operatorFlags(cli.OutputFlag(),
					&ucli.BoolFlag{Name: "dry-run", Usage: "answer the rules and say what becomes of the log; change nothing"},
					&ucli.BoolFlag{Name: "accept-loss", Usage: "go on although the source lacks what was shipped of the log"},
					reasonFlag()),
				Action: gapAccept,
			},
		},
	}
}

func gapAccept(c *ucli.Context) error {
	service, stream, err := streamArg(c)
	if err != nil {
		return err
	}
	subject := service + "/" + stream
	req := &pb.AcceptGapRequest{Service: service, Stream: stream, Reason: c.String("reason"), DryRun: c.Bool("dry-run"), AcceptLoss: c.Bool("accept-loss")}
	if !req.GetDryRun() {
		if req.Reason, err = wantReason(c); err != nil {
			return err
		}
	}
	var out *pb.AcceptGapResponse
	return operate(c, "accept gap", subject, func(ctx context.Context, gate client) error {
		res, err := gate.AcceptGap(ctx, connect.NewRequest(req))
		if err == nil {
			out = res.Msg
		}
		return err
	}, func() error {
		err := cli.Print(c, out, func(w io.Writer) error {
			if err := writeDeclared(w, out.GetRules(), out.GetFacts()); err != nil {
				return err
			}
			r := out.GetGap().GetRenewal()
			if r == nil {
				_, err := fmt.Fprintln(w, "nothing changed")
				return err
			}
			_, err := fmt.Fprintf(w, "stream %s: the gap is accepted by %s, and a new generation opens behind epoch %d at site %s; `tidegate status` shows how far its base is\n",
				subject, r.GetActor(), r.GetEpoch(), r.GetSite())
			return err
		})
		if err != nil || !req.GetDryRun() {
			return err
		}
		return wouldBeRefused("accept gap", subject, out.GetRules())
	})
}

// States of a gap, as listed.
const (
	gapOpen     = "open"     // the source does not go on, and nobody has accepted that
	gapPending  = "pending"  // accepted, and the new generation is not opened yet
	gapAccepted = "accepted" // the log went on behind it
	gapMissing  = "missing"  // a hole of the archive: the log itself went on
	gapUnknown  = "unknown"  // nobody says whether the source goes on
)

var gapStates = map[pb.GapState]string{
	pb.GapState_GAP_STATE_OPEN: gapOpen, pb.GapState_GAP_STATE_PENDING: gapPending, pb.GapState_GAP_STATE_ACCEPTED: gapAccepted,
	pb.GapState_GAP_STATE_UNKNOWN: gapUnknown, pb.GapState_GAP_STATE_UNSPECIFIED: gapUnknown,
}

// gapRow is a lost range as listed; in JSON, null is unknown.
type gapRow struct {
	Service    tidegate.ServiceName `json:"service"`
	Stream     tidegate.StreamName  `json:"stream"`
	State      string               `json:"state"`
	Generation *tidegate.Generation `json:"generation"` // that ends
	From       *tidegate.Position   `json:"from"`
	To         *tidegate.Position   `json:"to"`                // where the next generation begins
	Batches    *archive.Range       `json:"batches,omitempty"` // of a hole
	Why        string               `json:"why"`
	Since      *time.Time           `json:"since"` // when it was accepted
	Actor      string               `json:"actor,omitempty"`
	Reason     string               `json:"reason,omitempty"`

	id  string         // of the stream
	end tidegate.Epoch // up to whose end the log is given up; 0 where it was not
}

func gapList(c *ucli.Context) error {
	if c.Args().Len() > 1 {
		_, err := cli.Args(c, "SERVICE/STREAM")
		return err
	}
	service, stream := "", ""
	if c.Args().Present() {
		var err error
		if service, stream, err = streamArg(c); err != nil {
			return err
		}
	}
	var rows []gapRow
	var damaged []error
	return operate(c, "list gaps", strings.Trim(service+"/"+stream, "/"), func(ctx context.Context, gate client) error {
		res, err := gate.ListGaps(ctx, connect.NewRequest(&pb.ListGapsRequest{Service: service, Stream: stream}))
		if err != nil {
			return err
		}
		rows = []gapRow{} // the call may be repeated at another gate
		for _, g := range res.Msg.GetGaps() {
			rows = append(rows, gapRowOf(g))
		}
		return nil
	}, func() error {
		if c.String("archive") != "" || c.String("url") != "" {
			var err error
			if rows, damaged, err = archivedGaps(c, rows, service, stream); err != nil {
				return err
			}
		}
		if err := cli.Print(c, rows, func(w io.Writer) error { return writeGaps(w, rows) }); err != nil {
			return err
		}
		if len(damaged) > 0 {
			return errors.Join(damaged...)
		}
		return gapVerdict(rows)
	})
}

// gapVerdict is what a list ends with.
func gapVerdict(rows []gapRow) error {
	state := func(s string) func(gapRow) bool { return func(r gapRow) bool { return r.State == s } }
	switch {
	case slices.ContainsFunc(rows, state(gapOpen)):
		return cli.Exit(cli.Failed)
	case slices.ContainsFunc(rows, state(gapUnknown)):
		return cli.Exit(cli.UnknownState)
	}
	return nil
}

// gapRowOf is what the gate knows.
func gapRowOf(m *pb.GapView) gapRow {
	g := api.Gap(m.GetGap())
	row := gapRow{
		Service: tidegate.ServiceName(m.GetService()), Stream: tidegate.StreamName(m.GetStream()), State: gapStates[m.GetState()],
		From: g.Durable, Why: g.Lost, id: m.GetStreamId(),
	}
	if row.Why == "" {
		row.Why = "the source had not said why"
	}
	if g.Generation != 0 {
		row.Generation = &g.Generation
	}
	if row.State == gapPending || row.State == gapAccepted {
		row.accepted(g)
	}
	return row
}

func (r *gapRow) accepted(g tidegate.Gap) {
	r.Since, r.Actor, r.Reason, r.end = &g.Since, g.Actor, g.Reason, g.Epoch
}

// archivedGaps adds what an archive knows to what the gate does.
// What is damaged there may be the only record of a gap.
func archivedGaps(c *ucli.Context, rows []gapRow, service, stream string) (_ []gapRow, damaged []error, err error) {
	r, _, err := openBlock(c)
	if err != nil {
		return nil, nil, err
	}
	all, faults, err := r.Streams(c.Context)
	if err != nil {
		return nil, nil, err
	}
	for _, f := range faults {
		damaged = append(damaged, f.Err)
	}
	for _, info := range all {
		if service != "" && (string(info.Service) != service || string(info.Name) != stream) {
			continue
		}
		s, err := r.Open(c.Context, info)
		if err != nil {
			return nil, nil, err
		}
		scars, faults, err := s.Scars(c.Context)
		if err != nil {
			return nil, nil, err
		}
		damaged = append(damaged, faults...)
		for _, scar := range scars {
			rows = withScar(rows, info, scar)
		}
		for _, h := range s.Holes() {
			rows = append(rows, gapRow{
				Service: info.Service, Stream: info.Name, State: gapMissing, Batches: (*archive.Range)(&h), Why: "a hole of the archive: they " + s.Missing(h.First, h.Last),
			})
		}
	}
	return rows, damaged, nil
}

// withScar says of a gap where it ended; one that the gate does not know of is added.
func withScar(rows []gapRow, info archive.StreamInfo, scar archive.Scar) []gapRow {
	i := slices.IndexFunc(rows, func(r gapRow) bool {
		return r.id == api.IDText(info.Stream) && r.State == gapAccepted && scar.Of(tidegate.Gap{Epoch: r.end})
	})
	if i < 0 {
		row := gapRow{Service: info.Service, Stream: info.Name, State: gapAccepted, Why: "the archive has a scar; why is unknown"}
		if g := scar.Accepted; g != nil {
			row.accepted(*g)
			row.Why = g.Lost
		}
		rows, i = append(rows, row), len(rows)
	}
	from, to, known := scar.Lost()
	rows[i].Generation, rows[i].From = &scar.Ended.Generation, &from
	if rows[i].To = nil; known {
		rows[i].To = &to
	}
	return rows
}

func writeGaps(w io.Writer, rows []gapRow) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, "nothing is lost, as far as is known here")
		return err
	}
	position := func(p *tidegate.Position) string {
		if p == nil {
			return cli.Unknown
		}
		return p.String()
	}
	table := cli.NewTable("stream", "state", "generation", "lost from", "to", "accepted", "why")
	for _, r := range rows {
		generation, from, to, accepted := cli.Count(r.Generation), position(r.From), position(r.To), "-"
		if b := r.Batches; b != nil {
			generation, from, to = "-", fmt.Sprintf("batch %d", uint64(b.First)), fmt.Sprintf("batch %d", uint64(b.Last))
		}
		if r.Since != nil {
			accepted = fmt.Sprintf("by %s at %s: %s", r.Actor, r.Since.UTC().Format(time.RFC3339), r.Reason)
		}
		table.Row(fmt.Sprintf("%s/%s", r.Service, r.Stream), r.State, generation, from, to, accepted, r.Why)
	}
	if _, err := table.WriteTo(w); err != nil {
		return err
	}
	for _, r := range rows {
		if r.State == gapOpen {
			fmt.Fprintf(w, "next: `tidegate gap accept %s/%s --reason WHY` goes on without; --dry-run says what that does\n", r.Service, r.Stream)
		}
	}
	return nil
}
