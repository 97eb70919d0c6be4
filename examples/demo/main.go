package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	app := &ucli.App{
		Name: "demo", Usage: "lose a primary site twice, and see what is left",
		HideVersion: true,
		Flags: []ucli.Flag{
			&ucli.StringFlag{Name: "bin", Required: true, Usage: "`FOLDER` of the binaries"},
			&ucli.StringFlag{Name: "dir", Usage: "`FOLDER` to work in, empty (default: a new one, removed when all holds)"},
			&ucli.IntFlag{Name: "act", Usage: "only this act"},
			&ucli.BoolFlag{Name: "postgres", Usage: "with a PostgreSQL server instead of the ledger"},
			&ucli.DurationFlag{Name: "load", Value: 6 * time.Second, Usage: "how long clients transfer before the disaster"},
		},
		Action: func(c *ucli.Context) error { return demo(c.Context, stdout, c) },
	}
	return int(cli.Run(ctx, app, args, os.Stdin, stdout, stderr))
}

// acts are the two disasters.
var acts = []act{
	{
		number: 1, title: "kill -9 of the whole primary site, sync",
		plant: lab.Plant{Mode: tidegate.ModeSync},
		down:  killSite,
	},
	{
		number: 2, title: "the primary site cut off and frozen, then thawed; bounded",
		plant: lab.Plant{Mode: tidegate.ModeBounded, Bounds: tidegate.Bounds{Records: 500, Bytes: 1 << 20, Window: 2 * time.Second}},
		down:  freezeSite, thawed: true,
	},
}

func demo(ctx context.Context, out io.Writer, c *ucli.Context) (err error) {
	bin, err := filepath.Abs(c.String("bin"))
	if err != nil {
		return err
	}
	dir := c.String("dir")
	if dir == "" {
		// Below /tmp, because a socket's path must fit into 107 bytes.
		if dir, err = os.MkdirTemp("/tmp", "tidegate-demo-"); err != nil {
			return err
		}
		if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // PostgreSQL's account passes through it to its sockets
			return err
		}
		defer func() {
			if err != nil {
				fmt.Fprintf(out, "\nlogs and data are left in %s\n", dir)
				return
			}
			err = os.RemoveAll(dir)
		}()
	}
	wanted := func(number int) bool { only := c.Int("act"); return only == 0 || only == number }
	place := func(number int) string { return filepath.Join(dir, fmt.Sprintf("act%d", number)) }
	if c.Bool("postgres") {
		return postgresActs(ctx, out, wanted, func(a *pgAct) { a.cfg.Dir, a.cfg.Bin, a.load = place(a.number), bin, c.Duration("load") })
	}
	var results []*result
	var broken []error
	for _, a := range acts {
		if !wanted(a.number) {
			continue
		}
		a.plant.Dir, a.plant.Bin = place(a.number), bin
		r, err := a.play(ctx, out, c.Duration("load"))
		if err != nil {
			return fmt.Errorf("act %d: %w", a.number, err)
		}
		results, broken = append(results, r), append(broken, r.broken...)
	}
	report(out, results)
	return errors.Join(broken...)
}
