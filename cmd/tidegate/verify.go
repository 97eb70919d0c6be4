package main

import (
	"context"
	"fmt"
	"io"
	"time"

	ucli "github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/internal/cli"
)

func verifyCommand() *ucli.Command {
	return &ucli.Command{
		Name: "verify", Usage: "read everything in an archive, and compare it with its names, checksums and digests", ArgsUsage: " ",
		Flags: archiveFlags(), Action: verifyArchive,
		Description: "Segments are read whole, their batches opened and their chains followed; of bases every page is read, and what a\n" +
			"journal's says of the state in it. Of an export every object is compared with the list of what was put. Ends with 9 when\n" +
			"anything is not as it must be, and names each object.\n\n" +
			"Examples:\n" +
			"   tidegate verify --url file:///srv/archive\n" +
			"   tidegate verify --archive /etc/tidegate/archive.yaml --service bank -o json",
	}
}

type verifyResult struct {
	Stream   string   `json:"stream"`
	Segments int      `json:"segments"`
	Batches  int64    `json:"batches"`
	Records  int64    `json:"records"`
	Bytes    int64    `json:"bytes"`
	Gaps     int64    `json:"gap_batches"`
	Bases    int      `json:"bases"`
	Bad      []string `json:"bad"`
}

func verifyArchive(c *ucli.Context) error {
	if _, err := cli.Args(c); err != nil {
		return err
	}
	r, err := openArchive(c)
	if err != nil {
		return err
	}
	streams, faults, err := archivedStreams(c, r)
	if err != nil {
		return err
	}
	var out []verifyResult
	var bad []error
	for _, info := range streams {
		v, err := verifyStream(c, r, info)
		if err != nil && !archive.OfObject(err) {
			return err
		}
		if err != nil {
			v.Bad = append(v.Bad, err)
		}
		one := verifyResult{streamLabel(info), v.Segments, v.Batches, v.Records, v.Bytes, v.Gaps, v.Bases, []string{}}
		for _, err := range v.Bad {
			one.Bad = append(one.Bad, err.Error())
		}
		out, bad = append(out, one), append(bad, v.Bad...)
	}
	for _, f := range faults {
		out, bad = append(out, verifyResult{Stream: f.Stream.String(), Bad: []string{f.Err.Error()}}), append(bad, f.Err)
	}
	unlike, err := verifyExported(c.Context, r)
	if err != nil {
		return err
	}
	if len(unlike) > 0 {
		one := verifyResult{Stream: archive.ExportName}
		for _, err := range unlike {
			one.Bad = append(one.Bad, err.Error())
		}
		out, bad = append(out, one), append(bad, unlike...)
	}
	err = cli.Print(c, out, func(w io.Writer) error {
		table := cli.NewTable("stream", "segments", "batches", "records", "size", "bases", "bad")
		for _, o := range out {
			table.Row(o.Stream, fmt.Sprint(o.Segments), fmt.Sprint(o.Batches), fmt.Sprint(o.Records), cli.Size(o.Bytes), fmt.Sprint(o.Bases), fmt.Sprint(len(o.Bad)))
		}
		if _, err := table.WriteTo(w); err != nil {
			return err
		}
		for _, o := range out {
			for _, text := range o.Bad {
				fmt.Fprintf(w, "%s: %s\n", o.Stream, text)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return worst(bad)
}

// verifyExported compares an archive that is an export with the list of what was put.
func verifyExported(ctx context.Context, r *archive.Reader) (bad []error, err error) {
	x, err := r.Export(ctx)
	switch {
	case err != nil && archive.OfObject(err):
		return []error{err}, nil
	case x == nil || err != nil:
		return nil, err
	}
	return x.Verify(ctx, r)
}

func verifyStream(c *ucli.Context, r *archive.Reader, info archive.StreamInfo) (v archive.Verified, err error) {
	s, err := r.Open(c.Context, info)
	if err != nil {
		return v, err
	}
	bases, err := s.Bases(c.Context)
	if err != nil {
		return v, err
	}
	defer bases.Close()
	var m archive.VerifyMeter
	err = withProgress(c, "verify "+streamLabel(info), m.Progress, func(ctx context.Context) error {
		v, err = s.Verify(ctx, bases, &m)
		return err
	})
	if err != nil {
		return v, err
	}
	kind, err := kindOf(info)
	if err != nil {
		return v, err
	}
	for _, b := range bases.All {
		_, man, err := b.Store.Manifest(b.Listed)
		if err != nil {
			continue // it is among what is bad
		}
		if err := kind.check(man); err != nil {
			v.Bad = append(v.Bad, fmt.Errorf("base %.12s in the mirror of %s: %w", b.Name, b.Mirror.Node, err))
		}
	}
	return v, nil
}

// archiveProgressEvery is how often a command says how far it has come.
const archiveProgressEvery = 2 * time.Second

// withProgress does work, and says meanwhile on stderr how far it has come, how fast,
// and how long the rest will take at that rate.
func withProgress(c *ucli.Context, what string, progress func() (done, total int64), work func(context.Context) error) error {
	return withLines(c, what, func(elapsed time.Duration) string {
		done, total := progress()
		return progressLine(done, total, elapsed)
	}, work)
}

// withLines does work, and says meanwhile on stderr what line says of it.
func withLines(c *ucli.Context, what string, line func(elapsed time.Duration) string, work func(context.Context) error) error {
	ctx, cancel := context.WithCancel(c.Context)
	defer cancel()
	var g errgroup.Group
	began := time.Now()
	g.Go(func() error {
		tick := time.NewTicker(archiveProgressEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				_, err := fmt.Fprintf(c.App.ErrWriter, "%s: %s\n", what, line(time.Since(began)))
				if err != nil {
					return nil //nolint:nilerr // nobody reads it: the work goes on
				}
			}
		}
	})
	err := work(ctx)
	cancel()
	_ = g.Wait() // it returns none
	return err
}

// progressLine says how far something has come after some time.
func progressLine(done, total int64, elapsed time.Duration) string {
	if total <= 0 {
		return "looking"
	}
	rate := float64(done) / elapsed.Seconds()
	line := fmt.Sprintf("%s of %s, %s/s", cli.Size(min(done, total)), cli.Size(total), cli.Size(int64(rate)))
	if done > 0 {
		left := time.Duration(float64(max(0, total-done)) / rate * float64(time.Second))
		line += fmt.Sprintf(", about %s left", left.Round(time.Second))
	}
	return line
}
