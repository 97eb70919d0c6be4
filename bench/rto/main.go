package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate/bench/figure"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/lab/pglab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	app := &ucli.App{
		Name: "rto", Usage: "measure a failover of a PostgreSQL service, phase by phase",
		HideVersion: true,
		Flags: []ucli.Flag{
			&ucli.StringFlag{Name: "bin", Required: true, Usage: "`FOLDER` of the binaries"},
			&ucli.StringFlag{Name: "size", Value: "5G", Usage: "about `BYTES` of pgbench's tables: 200M, 5G"},
			&ucli.StringFlag{Name: "lag", Value: "1G", Usage: "`BYTES` of log that the second turn's standby has still to replay"},
			&ucli.IntFlag{Name: "rounds", Value: 1, Usage: "`NUMBER` of rounds; figures are their medians"},
			&ucli.DurationFlag{Name: "load", Value: 20 * time.Second, Usage: "how long there is load before the kill"},
		},
		Action: func(c *ucli.Context) error { return measure(c.Context, stdout, c) },
	}
	return int(cli.Run(ctx, app, args, os.Stdin, stdout, stderr))
}

func measure(ctx context.Context, out io.Writer, c *ucli.Context) error {
	size, err := figure.ParseBytes(c.String("size"))
	if err != nil {
		return err
	}
	lag, err := figure.ParseBytes(c.String("lag"))
	if err != nil {
		return err
	}
	bin, err := filepath.Abs(c.String("bin"))
	if err != nil {
		return err
	}
	if c.Int("rounds") < 1 || size < pglab.ScaleBytes {
		return fmt.Errorf("want a round at least, and %d bytes of tables", pglab.ScaleBytes)
	}
	// The primary and the warm server hold the tables, three nodes a compressed base each,
	// and all of them log.
	if err := figure.Room(os.TempDir(), 4*size+6*lag+(2<<30)); err != nil {
		return fmt.Errorf("%w; give a smaller SIZE or LAG", err)
	}
	turns := []*turn{{name: "standby up to date"}, {name: "standby " + figure.Human(lag) + " behind", lag: lag}}
	for n := range c.Int("rounds") {
		for _, t := range turns {
			fmt.Fprintf(out, "\nround %d of %d: %s; load of the machine %s\n", n+1, c.Int("rounds"), t.name, load())
			if err := t.play(ctx, out, bin, pglab.Config{Scale: int(size / pglab.ScaleBytes)}, c.Duration("load")); err != nil {
				return fmt.Errorf("round %d, %s: %w", n+1, t.name, err)
			}
		}
	}
	report(out, turns)
	var broken []error
	for _, t := range turns {
		broken = append(broken, t.broken...)
	}
	return errors.Join(broken...)
}

func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(b))[:3], " ")
}
