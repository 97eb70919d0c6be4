package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	cold "github.com/tidegate/tidegate/archive/restore"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
)

func exportCommand() *ucli.Command {
	return &ucli.Command{
		Name: "export", Usage: "put a range of an archived log, and the base that it begins with, into a directory that is an archive by itself", ArgsUsage: " ",
		Flags: archiveFlags(
			&ucli.StringFlag{Name: "from", Usage: "`TARGET` from which on states can be restored: a time (2026-11-22T06:30:00Z), a position, seq:N"},
			&ucli.StringFlag{Name: "to", Value: "latest", Usage: "`TARGET` where it ends: latest, a time, a position, seq:N"},
			&ucli.UintFlag{Name: "generation", Usage: "`NUMBER` of the generation that a position is of", DefaultText: "the newest"},
			&ucli.StringFlag{Name: "base", Usage: "begin with the base whose `NAME` begins so, as `tidegate window` lists them; none: a journal's log from its beginning", DefaultText: "the newest that will do, else none"},
			&ucli.StringFlag{Name: "out", Usage: "`DIR`, empty or not there yet"},
		),
		Action: exportArchive,
		Description: "For analysis elsewhere, and for bug reports: `window`, `where`, `verify`, `restore` and `replay` read DIR by --url file://DIR.\n" +
			"Batches and bases are there as the source wrote them, with all that is in them: nothing is removed, blackened or encrypted.\n" +
			"What was put is read back and compared. DIR/" + archive.ExportName + " lists every object with its SHA-256; it is written last.\n\n" +
			"Examples:\n" +
			"   tidegate export --url file:///srv/archive --service bank --from 2026-11-22T06:00:00Z --to 2026-11-22T07:00:00Z --out /srv/case-4711\n" +
			"   tidegate replay --url file:///srv/case-4711 --service bank --run /tmp/sandbox/run --from 2026-11-22T06:00:00Z",
	}
}

// exportResult is what the command prints.
type exportResult struct {
	Service tidegate.ServiceName `json:"service"`
	Stream  tidegate.StreamName  `json:"stream"`
	Out     string               `json:"out"`
	Begin   archive.Place        `json:"begin"`
	End     archive.Place        `json:"end"`
	Bases   []string             `json:"bases"`
	Objects int                  `json:"objects"`
	Bytes   int64                `json:"bytes"`
	Records int64                `json:"records"`
}

func exportArchive(c *ucli.Context) error {
	if _, err := cli.Args(c); err != nil {
		return err
	}
	out, err := exportFlags(c)
	if err != nil {
		return err
	}
	r, err := openArchive(c)
	if err != nil {
		return err
	}
	s, kind, err := archivedStream(c, r)
	if err != nil {
		return err
	}
	bases, err := s.Bases(c.Context)
	if err != nil {
		return err
	}
	defer bases.Close()
	excerpt, err := exportRange(c, s, kind, bases)
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(vfs.OS(), out); err != nil {
		return err
	}
	var m archive.ExportMeter
	var made *archive.Export
	to := dir.New(vfs.OS(), out)
	err = withProgress(c, "export "+streamLabel(s.Info), m.Progress, func(ctx context.Context) (err error) {
		made, err = s.Export(ctx, to, excerpt, time.Now(), &m)
		return err
	})
	if err != nil {
		return err
	}
	v, err := verifyExport(c, to, made)
	if err != nil {
		return err
	}
	res := exportResult{
		Service: s.Info.Service, Stream: s.Info.Name, Out: out, Begin: made.Begin, End: made.End, Bases: made.Bases, Objects: len(made.Objects), Records: v.Records,
	}
	for _, o := range made.Objects {
		res.Bytes += o.Bytes
	}
	return cli.Print(c, res, func(w io.Writer) error { return res.write(w, kind) })
}

// exportFlags reads what can be said without the archive; all mistakes at once.
func exportFlags(c *ucli.Context) (out string, err error) {
	var errs []error
	if c.String("service") == "" {
		errs = append(errs, errors.New("export which service? --service SERVICE"))
	}
	if c.String("from") == "" {
		errs = append(errs, errors.New("--from: want a time, a position or seq:N"))
	}
	if c.String("out") == "" {
		errs = append(errs, errors.New("export into which directory? --out DIR"))
	}
	if len(errs) > 0 {
		return "", cli.Usagef("%w", errors.Join(errs...))
	}
	return filepath.Abs(c.String("out"))
}

func exportRange(c *ucli.Context, s *archive.Stream, kind storeKind, bases *archive.Bases) (x archive.Exporting, err error) {
	choice := cold.Choice{Base: c.String("base"), NeedsBase: kind.needsBase}
	if choice.Base == cold.NoBase && kind.needsBase {
		return x, cli.Usagef("--base none is for journals: a %s store is not rebuilt from its log alone", s.Info.Store)
	}
	if choice.To, err = kind.parseTo(c.String("from"), c.Uint("generation")); err != nil {
		return x, err
	}
	if choice.To == (cold.To{}) {
		return x, cli.Usagef("--from: want a time, a position or seq:N (got %q)", c.String("from"))
	}
	to, err := kind.parseTo(c.String("to"), c.Uint("generation"))
	if err != nil {
		return x, err
	}
	// A journal's bases have the digests of its states, which replays are compared with.
	return cold.Excerpt(c.Context, s, bases, choice, to, !kind.needsBase)
}

// verifyExport reads back everything that was put.
func verifyExport(c *ucli.Context, to *dir.Bucket, made *archive.Export) (v archive.Verified, err error) {
	r, err := archive.OpenReader(c.Context, to)
	if err != nil {
		return v, err
	}
	if v, err = verifyStream(c, r, made.Stream); err != nil {
		return v, err
	}
	bad, err := made.Verify(c.Context, r)
	if err != nil {
		return v, err
	}
	return v, worst(append(v.Bad, bad...))
}

func (o *exportResult) write(w io.Writer, kind storeKind) error {
	var b strings.Builder
	fmt.Fprintf(&b, "exported %s/%s: batches %d to %d, %d records, positions %s to %s\n", o.Service, o.Stream, uint64(o.Begin.Seq), uint64(o.End.Seq), o.Records,
		kind.show(o.Begin.First), kind.show(o.End.Next))
	fmt.Fprintf(&b, "source times %s to %s\n", o.Begin.Oldest.Format(time.RFC3339Nano), o.End.Newest.Format(time.RFC3339Nano))
	for _, name := range o.Bases {
		fmt.Fprintf(&b, "base: %.12s\n", name)
	}
	fmt.Fprintf(&b, "in: %s, %d objects, %s, read back and compared; nothing of their contents was removed\n", o.Out, o.Objects, cli.Size(o.Bytes))
	fmt.Fprintf(&b, "next: tidegate window --url file://%s\n", o.Out)
	_, err := io.WriteString(w, b.String())
	return err
}
