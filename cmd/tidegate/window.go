package main

import (
	"context"
	"fmt"
	"io"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	cold "github.com/tidegate/tidegate/archive/restore"
	"github.com/tidegate/tidegate/internal/cli"
)

func windowCommand() *ucli.Command {
	return &ucli.Command{
		Name: "window", Usage: "what can be restored out of an archive, or of a standby node, with its holes", ArgsUsage: " ",
		Flags: fromFlags(), Action: showWindow,
		Description: "Reads the archive alone, or with --from a node of the standby cluster. A stream can be restored to any moment from `since` to `to`, which is the time of its\n" +
			"newest record; holes and scars, where one generation ends and the next begins, stay listed for ever. With --archive FILE that says what is kept (archive.keep) it lists what\n" +
			"that would let go now; nothing is removed by it. Ends with 9 when a stream cannot be read; the others are listed.\n\n" +
			"Examples:\n" +
			"   tidegate window --url file:///srv/archive\n" +
			"   tidegate window --archive /etc/tidegate/standby.yaml --service bank -o json\n" +
			"   tidegate window --from west1.west.example:7414 --service bank",
	}
}

// windowResult is one stream's window; times are the source's.
type windowResult struct {
	Stream   tidegate.StreamID    `json:"stream_id"`
	Service  tidegate.ServiceName `json:"service"`
	Name     tidegate.StreamName  `json:"stream"`
	Store    string               `json:"store"`
	Spans    []archive.Span       `json:"spans"`
	Scars    []archive.Scar       `json:"scars"` // where one generation ends and the next begins
	Holes    []archive.Hole       `json:"holes"`
	Removed  []archive.Gone       `json:"removed"` // as archive.keep says
	Keeps    *windowKeeps         `json:"keeps,omitempty"`
	Bases    []windowBase         `json:"bases"`
	Aside    []string             `json:"aside"` // segments of other branches
	LogBytes int64                `json:"log_bytes"`
	Faults   []string             `json:"faults"`
}

type windowBase struct {
	Name       string              `json:"name"`
	Generation tidegate.Generation `json:"generation"`
	Start      tidegate.Position   `json:"start"`
	End        tidegate.Position   `json:"end"`
	Taken      time.Time           `json:"taken"`
	Bytes      int64               `json:"bytes"`
	Node       tidegate.NodeName   `json:"node"`
	Unfit      string              `json:"unfit,omitempty"`
	Stays      string              `json:"stays,omitempty"` // why, as archive.keep says
	Goes       bool                `json:"goes,omitempty"`
}

// windowKeeps is what archive.keep would let go now.
type windowKeeps struct {
	Window   string       `json:"window"`
	Held     string       `json:"held,omitempty"` // why nothing goes
	From     tidegate.Seq `json:"from"`           // the log stays from here on
	Bases    int          `json:"bases_to_go"`
	Segments int          `json:"segments_to_go"`
	Bytes    int64        `json:"segment_bytes_to_go"`
}

func showWindow(c *ucli.Context) error {
	if _, err := cli.Args(c); err != nil {
		return err
	}
	var block readBlock
	at := &place{}
	var err error
	if c.String("from") != "" {
		at.node, at.r, err = openFrom(c, "")
	} else {
		at.r, block, err = openBlock(c)
	}
	if err != nil {
		return err
	}
	streams, faults, err := archivedStreams(c, at.r)
	if err != nil {
		return err
	}
	var out []windowResult
	var bad []error
	for _, info := range streams {
		w, err := windowOf(c, *at, info, block.Keep)
		if err != nil && !archive.OfObject(err) {
			return notPermitted(err)
		}
		if err != nil {
			w.Faults = append(w.Faults, err.Error())
			bad = append(bad, fmt.Errorf("%s: %w", streamLabel(info), err))
		}
		out = append(out, w)
	}
	for _, f := range faults {
		w := newWindow(archive.StreamInfo{Stream: f.Stream})
		w.Faults = append(w.Faults, f.Err.Error())
		out, bad = append(out, w), append(bad, f.Err)
	}
	err = cli.Print(c, out, func(w io.Writer) error {
		for i, one := range out {
			if i > 0 {
				fmt.Fprintln(w)
			}
			if err := one.write(w); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return worst(bad)
}

func newWindow(info archive.StreamInfo) windowResult {
	return windowResult{
		Stream: info.Stream, Service: info.Service, Name: info.Name, Store: info.Store,
		Spans: []archive.Span{}, Scars: []archive.Scar{}, Holes: []archive.Hole{}, Removed: []archive.Gone{}, Bases: []windowBase{}, Aside: []string{}, Faults: []string{},
	}
}

// windowOf looks at a stream; what it has found comes with an error, too.
func windowOf(c *ucli.Context, at place, info archive.StreamInfo, keep archive.Retention) (windowResult, error) {
	out := newWindow(info)
	kind, err := kindOf(info)
	if err != nil {
		return out, err
	}
	if at.s, err = at.r.Open(c.Context, info); err != nil {
		return out, err
	}
	s := at.s
	bases, err := at.bases(c.Context)
	if err != nil {
		return out, err
	}
	defer bases.Close()
	w, err := s.Window(c.Context, bases, kind.needsBase)
	if err != nil {
		return out, err
	}
	out.Spans, out.Holes, out.LogBytes = append(out.Spans, w.Spans...), append(out.Holes, w.Holes...), s.Bytes
	out.Removed, out.Scars = append(out.Removed, w.Gone...), append(out.Scars, w.Scars...)
	kept, err := s.Retain(c.Context, &w, keep, nil, time.Now())
	if err != nil {
		return out, err
	}
	if keep.Window > 0 {
		branch, aside, bytes := s.Goes(kept)
		out.Keeps = &windowKeeps{Window: keep.Window.String(), Held: kept.Held, From: kept.From, Segments: len(branch) + len(aside), Bytes: bytes}
	}
	for i, b := range w.Bases {
		one := windowBase{
			Name: b.Base.Name.String(), Generation: b.Base.Generation, Start: b.Base.Start, End: b.Base.End,
			Taken: time.Unix(0, b.Base.Taken).UTC(), Bytes: b.Base.Bytes, Node: b.Base.Mirror.Node,
		}
		if b.Unfit != nil {
			one.Unfit = b.Unfit.Error()
		}
		if out.Keeps != nil {
			if one.Stays, one.Goes = kept.Stays[i], kept.Stays[i] == ""; one.Goes {
				out.Keeps.Bases++
			}
		}
		out.Bases = append(out.Bases, one)
	}
	for _, g := range w.Aside {
		out.Aside = append(out.Aside, g.Name(info.Stream))
	}
	for _, err := range w.Faults {
		out.Faults = append(out.Faults, err.Error())
	}
	return out, nil
}

func (o windowResult) write(w io.Writer) error {
	if o.Service == "" {
		_, err := fmt.Fprintf(w, "stream %s\n  damaged: %s\n", o.Stream, o.Faults[0])
		return err
	}
	fmt.Fprintf(w, "%s/%s  %s, %s of log\n", o.Service, o.Name, o.Store, cli.Size(o.LogBytes))
	table := cli.NewTable("  restorable", "since", "to", "seqs", "positions", "generation")
	for _, s := range o.Spans {
		can, since, until := "  no", "-", "-"
		if !s.Until.IsZero() {
			until = s.Until.Format(time.RFC3339)
		}
		if s.Restorable {
			can, since = "  yes", s.Since.Newest.Format(time.RFC3339)
		}
		table.Row(can, since, until, fmt.Sprintf("%d-%d", uint64(s.From.Seq), uint64(s.To.Seq)),
			fmt.Sprintf("%s-%s", s.From.First, s.To.Next), fmt.Sprint(uint32(s.To.Generation)))
	}
	if _, err := table.WriteTo(w); err != nil {
		return err
	}
	if len(o.Spans) == 0 {
		fmt.Fprintln(w, "  nothing of its log is archived")
	}
	for _, c := range o.Scars {
		fmt.Fprintf(w, "  scar: %s\n", c)
	}
	for _, g := range o.Removed {
		fmt.Fprintf(w, "  removed: batches %d to %d, as archive.keep says\n", uint64(g.First), uint64(g.Last))
	}
	for _, h := range o.Holes {
		fmt.Fprintf(w, "  hole: batches %d to %d were never archived\n", uint64(h.First), uint64(h.Last))
	}
	for _, b := range o.Bases {
		fmt.Fprintf(w, "  base %.12s of generation %d, %s to %s, taken %s, %s, from %s", b.Name, uint32(b.Generation), b.Start, b.End, b.Taken.Format(time.RFC3339), cli.Size(b.Bytes), b.Node)
		if b.Unfit != "" {
			fmt.Fprintf(w, ": of no use: %s", b.Unfit)
		}
		if b.Goes {
			fmt.Fprint(w, ": is to go")
		}
		fmt.Fprintln(w)
	}
	if k := o.Keeps; k != nil && k.Held != "" {
		fmt.Fprintf(w, "  window of %s: nothing goes: %s\n", k.Window, k.Held)
	} else if k != nil {
		fmt.Fprintf(w, "  window of %s: log stays from batch %d on; %d bases and %d segments, %s, are to go, and the packs of no other base\n", k.Window, uint64(k.From), k.Bases, k.Segments, cli.Size(k.Bytes))
	}
	for _, name := range o.Aside {
		fmt.Fprintf(w, "  aside: %s\n", name)
	}
	for _, f := range o.Faults {
		fmt.Fprintf(w, "  damaged: %s\n", f)
	}
	return nil
}

func whereCommand() *ucli.Command {
	return &ucli.Command{
		Name: "where", Usage: "find a moment, a position or a batch in an archive, or on a standby node", ArgsUsage: "TIME|POSITION|seq:N|latest",
		Flags: fromFlags(&ucli.UintFlag{Name: "generation", Usage: "`NUMBER` of the generation that a position is of", DefaultText: "the newest"}), Action: showWhere,
		Description: "Prints the batch that has it, and what a restore to there begins with. A time is the source's; a batch that has anything\n" +
			"of it is found, and a restore cuts within it.\n\n" +
			"Examples:\n" +
			"   tidegate where --url file:///srv/archive --service bank 2026-11-22T06:30:00Z\n" +
			"   tidegate where --archive /etc/tidegate/archive.yaml --service shop 16/B374D848",
	}
}

func showWhere(c *ucli.Context) error {
	args, err := cli.Args(c, "TIME|POSITION|seq:N")
	if err != nil {
		return err
	}
	at, err := openStream(c, "")
	if err != nil {
		return err
	}
	s, kind := at.s, at.kind
	to, err := kind.parseTo(args[0], c.Uint("generation"))
	if err != nil {
		return err
	}
	p, err := to.Place(c.Context, s)
	if err != nil {
		return err
	}
	out := whereResult{Place: p}
	if err := out.begin(c.Context, at, cold.Choice{To: to, NeedsBase: kind.needsBase}); err != nil {
		return err
	}
	return cli.Print(c, out, func(w io.Writer) error {
		fmt.Fprintf(w, "seq %d of epoch %s, generation %d\nposition %s to %s\ntime %s to %s\nchain %s\n",
			uint64(p.Seq), p.Epoch, uint32(p.Generation), kind.show(p.First), kind.show(p.Next),
			p.Oldest.Format(time.RFC3339Nano), p.Newest.Format(time.RFC3339Nano), p.Chain)
		_, err := fmt.Fprintf(w, "restored from: %s\n", out.from())
		return err
	})
}

// whereResult is a place, and what a restore to there begins with.
type whereResult struct {
	archive.Place

	Restorable bool   `json:"restorable"`
	Why        string `json:"why,omitempty"`       // not
	Base       string `json:"base,omitempty"`      // absent: the log from its beginning
	LogBytes   int64  `json:"log_bytes,omitempty"` // behind it, as stored
}

// begin finds what a restore begins with.
func (o *whereResult) begin(ctx context.Context, at *place, c cold.Choice) error {
	bases, err := at.bases(ctx)
	if err != nil {
		return err
	}
	defer bases.Close()
	plan, err := cold.Choose(ctx, at.s, bases, c)
	switch {
	case err == nil:
		o.LogBytes = plan.LogBytes
		if plan.Base != nil {
			o.Base = plan.Base.Name.String()
		}
	case archive.OfObject(err) || cold.IsUnfit(err):
		o.Why = err.Error()
	default:
		return err
	}
	o.Restorable = err == nil
	return nil
}

// from says it for people.
func (o *whereResult) from() string {
	switch {
	case !o.Restorable:
		return "nothing: " + o.Why
	case o.Base != "":
		return fmt.Sprintf("base %.12s, and %s of log", o.Base, cli.Size(o.LogBytes))
	}
	return fmt.Sprintf("the log's beginning, %s", cli.Size(o.LogBytes))
}
