package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate/bench/figure"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	app := &cli.App{
		Name: "bench", Usage: "measure the crossing beside the physical limits of this machine",
		Writer: stdout, ErrWriter: stderr, HideVersion: true,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "bin", Required: true, Usage: "`FOLDER` of the binaries"},
			&cli.StringFlag{Name: "dir", Usage: "`FOLDER` to work in, empty, on the file system to be measured (default: a new one, removed at the end)"},
			&cli.StringFlag{Name: "json", Usage: "write the results to this `FILE`, too"},
			&cli.StringFlag{Name: "only", Value: "b1,b2,b3,b4,b5", Usage: "which benches"},
			&cli.StringFlag{Name: "sizes", Value: "125,250,500,1000,2000", Usage: "record sizes in bytes"},
			&cli.StringFlag{Name: "nodes", Value: "1,3", Usage: "numbers of standby nodes; W is their majority"},
			&cli.StringFlag{Name: "rtt", Value: "10ms,50ms,100ms", Usage: "round trips between the sites of B4"},
			&cli.IntFlag{Name: "rounds", Value: 7, Usage: "rounds of each bench"},
			&cli.IntFlag{Name: "accounts", Value: 1_000_000, Usage: "of the ledger of B5 and B6"},
			&cli.StringFlag{Name: "pgsize", Value: "5G", Usage: "about `BYTES` of pgbench's tables in B7"},
			&cli.StringFlag{Name: "backlog", Value: "256MiB", Usage: "`BYTES` of log that a drill of B7 leaves to replay"},
			&cli.StringFlag{Name: "rate", Value: "50MiB", Usage: "`BYTES` a second that a drill of B6 and B7 reads before it is timed"},
			&cli.DurationFlag{Name: "span", Value: 30 * time.Second, Usage: "of a turn without a drill in B6 and B7"},
			&cli.BoolFlag{Name: "quick", Usage: "one short round each: shows that the bench works, measures nothing"},
		},
		Commands: []*cli.Command{{
			Name: peerCommand, Hidden: true, Action: func(c *cli.Context) error { return servePeer(c.Args().Slice(), stdout) },
		}},
		Action:         func(c *cli.Context) error { return bench(c.Context, stdout, c) },
		ExitErrHandler: func(*cli.Context, error) {},
	}
	// The peer needs none of the flags that the bench requires.
	if len(args) > 1 && args[1] == peerCommand {
		app.Flags = nil
	}
	if err := app.RunContext(ctx, args); err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
	return 0
}

// plan is what a run does.
type plan struct {
	bin, dir string
	only     []string
	sizes    []int
	nodes    []int
	rounds   int

	trips       int             // B1: round trips of product and limit in a round
	turn        int             // B1: of them in a row before it is the other's turn
	pumpBytes   int             // B2: bytes of a round, or
	pumpTime    time.Duration   // at most so long
	replayCount int             // B3: records
	distances   []time.Duration // B4: round trips between the sites
	distantTime time.Duration   // B4: of a round
	accounts    int             // B5: of the ledger that is written down; B6: that is drilled

	drillBacklog int           // B6: records that a drill leaves for t0
	drillSpan    time.Duration // B6, B7: of a turn without a drill
	rate         string        // B6, B7: of the drill's file
	pgSize       int64         // B7: bytes of tables
	pgBacklog    int64         // B7: bytes of log that a drill leaves for t0
}

func parsePlan(c *cli.Context) (p plan, err error) {
	p = plan{
		rounds: c.Int("rounds"), only: strings.Split(c.String("only"), ","),
		trips: 400, turn: 50, pumpBytes: 128 << 20, pumpTime: time.Second, replayCount: 2_000_000, distantTime: 2 * time.Second,
		accounts: c.Int("accounts"), drillBacklog: 100_000, drillSpan: c.Duration("span"), rate: c.String("rate"),
	}
	if c.Bool("quick") {
		p.rounds, p.trips, p.turn, p.pumpBytes, p.pumpTime, p.replayCount = 1, 20, 10, 4<<20, 200*time.Millisecond, 20_000
		p.distantTime, p.accounts = 300*time.Millisecond, 2000
		p.drillBacklog, p.drillSpan = 1000, 2*time.Second
	}
	if p.bin, err = filepath.Abs(c.String("bin")); err != nil {
		return p, err
	}
	var errs []error
	for flag, into := range map[string]*int64{"pgsize": &p.pgSize, "backlog": &p.pgBacklog} {
		n, err := figure.ParseBytes(c.String(flag))
		if err != nil || n < 1<<20 {
			errs = append(errs, fmt.Errorf("--%s: want a size of a mebibyte at least, as 5G or 256MiB (got %q)", flag, c.String(flag)))
		}
		*into = n
	}
	if n, err := figure.ParseBytes(p.rate); err != nil || n < 1 {
		errs = append(errs, fmt.Errorf("--rate: want bytes a second, as 50MiB (got %q)", p.rate))
	}
	if p.accounts < 1 || p.drillSpan <= 0 {
		errs = append(errs, fmt.Errorf("--accounts, --span: want more than 0 (got %d, %s)", p.accounts, p.drillSpan))
	}
	for flag, into := range map[string]*[]int{"sizes": &p.sizes, "nodes": &p.nodes} {
		for _, text := range strings.Split(c.String(flag), ",") {
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 {
				errs = append(errs, fmt.Errorf("--%s: want positive numbers with commas between (got %q)", flag, c.String(flag)))
				break
			}
			*into = append(*into, n)
		}
	}
	for _, text := range strings.Split(c.String("rtt"), ",") {
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 {
			errs = append(errs, fmt.Errorf("--rtt: want durations with commas between (got %q)", c.String("rtt")))
			break
		}
		p.distances = append(p.distances, d)
	}
	for _, name := range p.only {
		if !slices.Contains([]string{"b1", "b2", "b3", "b4", "b5", "b6", "b7"}, name) {
			errs = append(errs, fmt.Errorf("--only: want b1, b2, b3, b4, b5, b6, b7 with commas between (got %q)", name))
		}
	}
	if p.rounds < 1 {
		errs = append(errs, fmt.Errorf("--rounds: want at least 1 (got %d)", p.rounds))
	}
	p.dir = c.String("dir")
	return p, errors.Join(errs...)
}

func (p plan) does(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return slices.Contains(p.only, name) })
}

func bench(ctx context.Context, out io.Writer, c *cli.Context) (err error) {
	p, err := parsePlan(c)
	if err != nil {
		return err
	}
	if p.dir == "" {
		// Below /tmp, because a socket's path must fit into 107 bytes.
		if p.dir, err = os.MkdirTemp("/tmp", "tidegate-bench-"); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				fmt.Fprintf(out, "\nlogs and data are left in %s\n", p.dir)
				return
			}
			err = os.RemoveAll(p.dir)
		}()
	}
	r := &report{Machine: figure.Machine(p.dir), Rounds: p.rounds}
	fmt.Fprintln(out, r.Machine)
	say := func(format string, args ...any) {
		fmt.Fprintf(out, "%s  %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
	}
	if err := measure(ctx, p, r, say); err != nil {
		return err
	}
	r.print(out)
	if name := c.String("json"); name != "" {
		text, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(name, append(text, '\n'), 0o644); err != nil {
			return err
		}
	}
	var broken []error
	for _, row := range r.Drills {
		broken = append(broken, row.broken)
	}
	return errors.Join(broken...)
}

func measure(ctx context.Context, p plan, r *report, say func(string, ...any)) error {
	var err error
	if r.Agent, err = agentSize(p.bin); err != nil {
		return err
	}
	for _, n := range p.nodes {
		if !p.does("b1", "b2") {
			break
		}
		if err := measureStack(ctx, p, n, r, say); err != nil {
			return err
		}
	}
	if p.does("b3") {
		say("B3: replay of %d records", p.replayCount)
		if r.Replay, err = measureReplay(ctx, filepath.Join(p.dir, "replay"), p); err != nil {
			return err
		}
	}
	for i, rtt := range p.distances {
		if !p.does("b4") {
			break
		}
		row, err := measureDistance(ctx, p, filepath.Join(p.dir, fmt.Sprintf("rtt%d", i)), rtt, say)
		if err != nil {
			return err
		}
		r.Distances = append(r.Distances, row)
	}
	if p.does("b5") {
		if r.Snapshots, err = measureSnapshots(ctx, filepath.Join(p.dir, "snapshots"), p, say); err != nil {
			return err
		}
	}
	for _, b := range []struct {
		name    string
		measure func(context.Context, string, plan, func(string, ...any)) (*drillRow, error)
	}{{"b6", measureLedgerDrills}, {"b7", measurePostgresDrills}} {
		if !p.does(b.name) {
			continue
		}
		row, err := b.measure(ctx, filepath.Join(p.dir, b.name), p, say)
		if err != nil {
			return err
		}
		r.Drills = append(r.Drills, row)
	}
	return nil
}

func measureStack(ctx context.Context, p plan, n int, r *report, say func(string, ...any)) (err error) {
	dir := filepath.Join(p.dir, fmt.Sprintf("n%d", n))
	l, err := newLimit(ctx, filepath.Join(dir, "limit"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	s, err := startStack(ctx, filepath.Join(dir, "lab"), p.bin, n, func(text string) { say("N=%d: %s", n, text) })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if p.does("b1") {
		for _, size := range p.sizes {
			say("B1: N=%d W=%d, %d B, %d rounds", n, s.w, size, p.rounds)
			row, err := s.measureTrips(ctx, l, p, size)
			if err != nil {
				return err
			}
			r.Trips = append(r.Trips, row)
		}
	}
	if !p.does("b2") {
		return nil
	}
	for _, size := range p.sizes {
		say("B2: N=%d W=%d, %d B, %d rounds", n, s.w, size, p.rounds)
		row, err := s.measurePump(ctx, l, p, size)
		if err != nil {
			return err
		}
		r.Pumps = append(r.Pumps, row)
	}
	return nil
}
