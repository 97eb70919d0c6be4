package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/cli"
)

func toleranceCommand() *ucli.Command {
	return &ucli.Command{
		Name:  "tolerance",
		Usage: "how many standby nodes may fail: by the numbers, and of each stream now",
		Description: "N standby nodes, W of them must have fsynced a batch before it is durable; R = N-W+1 must answer\n" +
			"for a failover that can prove what it loses.",
		ArgsUsage: " ",
		Flags: operatorFlags(cli.OutputFlag(),
			&ucli.StringFlag{Name: "service", Usage: "only this `SERVICE`"},
			&ucli.BoolFlag{Name: "table", Usage: "only the numbers; ask no gate"}),
		Action: tolerance,
	}
}

// quorumRow is what one choice of N and W bears.
type quorumRow struct {
	N    int `json:"n"`
	W    int `json:"w"`
	R    int `json:"r"`
	Lost int `json:"lost_with_the_primary_site"` // zero loss still proven
	Down int `json:"down_while_flowing"`         // the gate still flows
}

func quorumOf(n, w int) quorumRow {
	q := tidegate.Quorum{N: n, W: w}
	return quorumRow{N: n, W: w, R: q.R(), Lost: w - 1, Down: n - w}
}

// quorumTable lists the sizes that are in use, and what each is good for.
func quorumTable() []quorumRow {
	return []quorumRow{quorumOf(1, 1), quorumOf(2, 2), quorumOf(2, 1), quorumOf(3, 2), quorumOf(3, 3), quorumOf(5, 3), quorumOf(5, 2)}
}

// streamRow is what a stream bears now. Numbers below 0 say how many nodes lack.
type streamTolerance struct {
	Stream  string `json:"stream"`
	Now     string `json:"unknown,omitempty"` // why nothing is known
	N       int    `json:"n"`
	W       int    `json:"w"`
	R       int    `json:"r"`
	Counted int    `json:"counted"` // members that are caught up and answer
	Lost    int    `json:"lost_with_the_primary_site"`
	Down    int    `json:"down_while_flowing"`
}

type toleranceView struct {
	Table   []quorumRow       `json:"table"`
	Streams []streamTolerance `json:"streams,omitempty"`
}

func tolerance(c *ucli.Context) error {
	if _, err := cli.Args(c); err != nil {
		return err
	}
	view := toleranceView{Table: quorumTable()}
	show := func() error { return cli.Print(c, view, view.write) }
	if c.Bool("table") {
		return show()
	}
	service := c.String("service")
	return operate(c, "show tolerance", service, func(ctx context.Context, gate client) error {
		st, err := statusOf(ctx, gate, service)
		if err != nil {
			return err
		}
		view.Streams = nil
		for _, s := range st.GetServices() {
			for _, x := range s.GetStreams() {
				view.Streams = append(view.Streams, toleranceOf(x))
			}
		}
		return nil
	}, show)
}

// toleranceOf counts only members that answer and hold what the writer calls
// durable. A node that is down is not lost, but nobody can tell the two apart
// until it comes back.
func toleranceOf(s *pb.StreamStatus) streamTolerance {
	v := s.GetView()
	cfg := v.GetEpoch().GetConfig()
	out := streamTolerance{Stream: v.GetService() + "/" + v.GetName(), N: len(cfg.GetMembers()), W: int(cfg.GetW())}
	if v.GetEpoch().GetActiveEpoch() == 0 || out.N == 0 {
		out.Now = "it has no writer yet"
		return out
	}
	q := tidegate.Quorum{N: out.N, W: out.W}
	out.R, out.Counted = q.R(), int(s.GetMembersCounted())
	if s.GetWriter() == nil {
		out.Now = "its writer does not report"
		return out
	}
	out.Down, out.Lost = out.Counted-out.W, out.Counted-out.R
	return out
}

func (v toleranceView) write(w io.Writer) error {
	table := cli.NewTable("n", "w", "r", "lost with the primary site, zero loss proven", "down, the gate flows")
	for _, r := range v.Table {
		table.Row(strconv.Itoa(r.N), strconv.Itoa(r.W), strconv.Itoa(r.R), strconv.Itoa(r.Lost), strconv.Itoa(r.Down))
	}
	if _, err := table.WriteTo(w); err != nil || len(v.Streams) == 0 {
		return err
	}
	fmt.Fprintln(w, "\nnow:")
	now := cli.NewTable("stream", "n/w/r", "count", "may be lost with the primary site", "may go down", "note")
	for _, s := range v.Streams {
		lost, down := strconv.Itoa(max(0, s.Lost)), strconv.Itoa(max(0, s.Down))
		if s.Now != "" {
			lost, down = cli.Unknown, cli.Unknown
		}
		now.Row(s.Stream, fmt.Sprintf("%d/%d/%d", s.N, s.W, s.R), fmt.Sprintf("%d of %d", s.Counted, s.N), lost, down, s.note())
	}
	_, err := now.WriteTo(w)
	return err
}

// note says what the next failure would do, where it would do something.
func (s streamTolerance) note() string {
	switch {
	case s.Now != "":
		return s.Now
	case s.Down < 0:
		return "too few members: nothing becomes durable"
	case s.Lost < 0:
		return "a failover now could not prove what it loses"
	case s.Down == 0 && s.Lost == 0:
		return "the next node that fails stops the gate, or with the primary site ends the proof of zero loss"
	case s.Down == 0:
		return "the next node that fails stops the gate"
	case s.Lost == 0:
		return "one node lost with the primary site ends the proof of zero loss"
	}
	return ""
}
