package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	ucli "github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/daemon"
	"github.com/tidegate/tidegate/internal/rates"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/standby"
)

func seedCommand() *ucli.Command {
	return &ucli.Command{
		Name: "seed", Usage: "fill a stream's store from a copy of the files on this machine, so that its base need not cross whole",
		Description: "DIR is a data directory of the service, of any age: a restored backup (pgbackrest restore), a copy that\n" +
			"came on a disk. It need not be consistent, and nothing counts by it: the base is taken from the primary\n" +
			"as ever, and only the pages that differ cross. The node may be running. The file `" + rates.Copy + "` of the rates\n" +
			"directory holds the work back. Stopped, it goes on where it was.",
		ArgsUsage: "<stream-id>",
		Flags: []ucli.Flag{
			roleFileFlag("standby"), cli.OutputFlag(),
			&ucli.StringFlag{Name: "from", Usage: "`DIR` to read", Required: true},
		},
		Action: seedStandby,
	}
}

// seedResult is what seed prints.
type seedResult struct {
	Stream tidegate.StreamID `json:"stream"`
	Files  int               `json:"files"`
	Bytes  int64             `json:"bytes"`  // of the files
	New    int64             `json:"new"`    // bytes that the store did not have
	Stored int64             `json:"stored"` // bytes that those take
}

// seedEvery is how often seed says how far it is.
const seedEvery = 5 * time.Second

func seedStandby(c *ucli.Context) error {
	args, err := cli.Args(c, "stream-id")
	if err != nil {
		return err
	}
	id, err := tidegate.ParseID(args[0])
	if err != nil {
		return cli.Usagef("%v", err)
	}
	f, err := config.Load[standbyFile](roleFile(c))
	if err != nil {
		return err
	}
	var limit []rates.Limit
	for _, l := range rates.For(rates.DaemonStandby) {
		if l.Name == rates.Copy {
			limit = append(limit, l)
		}
	}
	files := rates.New(f.Rates, clock.System(), daemon.Logger(c.App.ErrWriter, logLevel(c)), limit)
	files.Read()
	var meter snapshot.Meter
	var p snapshot.Progress
	g, ctx := errgroup.WithContext(c.Context)
	g.Go(func() error { return files.Run(ctx) })
	g.Go(func() error { return seedProgress(ctx, c.App.ErrWriter, &meter) })
	g.Go(func() error {
		p, err = standby.Seed(ctx, vfs.OS(), f.DataDir, id, c.String("from"), &meter, files.Limiter(rates.Copy).Wait)
		return errors.Join(errSeeded, err)
	})
	_ = g.Wait() // what ended the others is in err
	if err != nil {
		return err
	}
	return cli.Print(c, seedResult{id, p.Files, p.Bytes, p.Needed, p.Sent}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%d files of %d bytes: %d bytes were new and take %d\n", p.Files, p.Bytes, p.Needed, p.Sent)
		return err
	})
}

// errSeeded ends what runs beside the seeding.
var errSeeded = errors.New("seeded")

// seedProgress says how far the seeding is until ctx ends.
func seedProgress(ctx context.Context, w io.Writer, meter *snapshot.Meter) error {
	began := time.Now()
	tick := time.NewTicker(seedEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		p := meter.Progress()
		text := fmt.Sprintf("%d of %d MiB", p.Bytes>>20, p.Total>>20)
		if left, known := p.Left(time.Since(began)); known {
			text += fmt.Sprintf(", about %s left", left.Round(time.Second))
		}
		if _, err := fmt.Fprintln(w, text); err != nil {
			return nil //nolint:nilerr // nobody looks; the work goes on
		}
	}
}
