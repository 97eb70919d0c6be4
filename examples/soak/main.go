package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	ucli "github.com/urfave/cli/v2"

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
		Name: "soak", Usage: "kill processes under load, and see whether anything that was acknowledged is gone",
		HideVersion: true,
		Flags: []ucli.Flag{
			&ucli.StringFlag{Name: "bin", Required: true, Usage: "`FOLDER` of the binaries"},
			&ucli.StringFlag{Name: "dir", Usage: "`FOLDER` to work in, empty (default: a new one, removed when all holds)"},
			&ucli.DurationFlag{Name: "duration", Value: 5 * time.Minute, Usage: "begin no round that would end later"},
			&ucli.DurationFlag{Name: "load", Value: 20 * time.Second, Usage: "how long a round kills under load"},
			&ucli.DurationFlag{Name: "outage", Usage: "after the rounds, one more in which the registry is gone for so long"},
			&ucli.Uint64Flag{Name: "seed", DefaultText: "drawn", Usage: "of all rounds"},
			&ucli.IntFlag{Name: "round", Usage: "only round `N` of the seed"},
			&ucli.BoolFlag{Name: "keep", Usage: "keep the directory also when all holds"},
			&ucli.BoolFlag{Name: "handover", Usage: "only kill the writer's machine, three times in each round, without a disaster"},
		},
		Action: func(c *ucli.Context) error { return soak(c.Context, stdout, c) },
	}
	return int(cli.Run(ctx, app, args, os.Stdin, stdout, stderr))
}

const (
	nodes                = 3 // of each kind
	quorum               = 2
	handoversOnly        = 3 // in a round of --handover
	leastRounds          = 2 // one of each mode, whatever the duration
	tailLines            = 8
	seedsUpTo     uint64 = 1 << 32
)

// run of all rounds.
type runner struct {
	out            io.Writer
	bin, dir       string
	seed           uint64
	load           time.Duration
	outage         time.Duration // of the registry, in a round after the others
	handover, keep bool
	rounds, kills  int
	acks, lost     uint64
	longestHandled time.Duration
}

func soak(ctx context.Context, out io.Writer, c *ucli.Context) (err error) {
	r := &runner{out: out, seed: c.Uint64("seed"), load: c.Duration("load"), outage: c.Duration("outage"), handover: c.Bool("handover"), keep: c.Bool("keep"), dir: c.String("dir")}
	if !c.IsSet("seed") {
		r.seed = rand.Uint64N(seedsUpTo)
	}
	if r.bin, err = filepath.Abs(c.String("bin")); err != nil {
		return err
	}
	if r.dir == "" {
		// Below /tmp, because a socket's path must fit into 107 bytes.
		if r.dir, err = os.MkdirTemp("/tmp", "tidegate-soak-"); err != nil {
			return err
		}
		defer func() {
			if err == nil && !r.keep {
				err = os.RemoveAll(r.dir)
			}
		}()
	}
	fmt.Fprintf(out, "soak with seed %d, for %s, in %s\n", r.seed, c.Duration("duration"), r.dir)
	begun := time.Now()
	if only := c.Int("round"); only > 0 {
		err = r.play(ctx, only, r.outage)
	} else {
		err = r.all(ctx, begun, c.Duration("duration"))
	}
	verdict := "all held"
	if err != nil {
		verdict = "DID NOT HOLD"
	}
	fmt.Fprintf(out, "\n%d rounds, %d kills, %d transfers acknowledged, %d of them lost (bounded only), %s: %s\n",
		r.rounds, r.kills, r.acks, r.lost, time.Since(begun).Round(time.Second), verdict)
	return err
}

// all plays rounds as long as one more of the longest length fits, and then the
// one without a registry.
func (r *runner) all(ctx context.Context, begun time.Time, length time.Duration) error {
	n := 1
	for ; n <= leastRounds || time.Since(begun)+r.longestHandled <= length; n++ {
		if err := r.play(ctx, n, 0); err != nil {
			return err
		}
	}
	if r.outage == 0 {
		return nil
	}
	return r.play(ctx, n, r.outage)
}

// play plays one round and keeps its directory if it failed.
func (r *runner) play(ctx context.Context, number int, outage time.Duration) error {
	dir := filepath.Join(r.dir, fmt.Sprintf("round%d", number))
	plant := lab.Plant{Dir: dir, Bin: r.bin, Primaries: nodes, Standbys: nodes, W: quorum}
	s := site{w: quorum}
	for i := range nodes {
		s.primaries, s.standbys = append(s.primaries, fmt.Sprintf("p%d", i+1)), append(s.standbys, fmt.Sprintf("d%d", i+1))
	}
	rd := drawRound(r.seed, number, s, r.load)
	handovers, disaster := 1, true
	if r.handover {
		rd.deeds, handovers, disaster = nil, handoversOnly, false
	}
	plant.Mode, plant.Bounds = rd.mode, rd.bounds
	fmt.Fprintf(r.out, "\nround %d, %s, %d kills under load, primary site to be %s\n", number, rd.mode, rd.kills(), rd.disaster)
	p := &play{round: rd, plant: plant, out: r.out, outage: outage, witness: lab.NewWitness(plant.Bounds)}
	err := p.run(ctx, handovers, disaster)
	err = errors.Join(append(p.broken, err)...)
	r.rounds++
	r.kills += p.kills
	r.acks += p.check.Acknowledged
	r.lost += p.check.Lost
	r.longestHandled = max(r.longestHandled, p.took)
	fmt.Fprintln(r.out, p.line())
	if err == nil {
		if r.keep {
			return nil
		}
		return os.RemoveAll(dir)
	}
	if ctx.Err() == nil {
		r.explain(dir, number, p, err)
	}
	return fmt.Errorf("round %d: %w", number, err)
}

// explain says how a round failed and how to have it again.
func (r *runner) explain(dir string, number int, p *play, err error) {
	fmt.Fprintf(r.out, "\nDID NOT HOLD:\n%v\n\nends of the logs:\n%s\n", err, lab.Tails(dir, tailLines))
	for _, lost := range p.check.LostSample {
		fmt.Fprintf(r.out, "lost: %+v\n", lost)
	}
	again := fmt.Sprintf("soak --bin %s --seed %d --round %d --load %s", r.bin, r.seed, number, r.load)
	if r.handover {
		again += " --handover"
	}
	if p.outage > 0 {
		again += " --outage " + p.outage.String()
	}
	fmt.Fprintf(r.out, "logs and data are left in %s\nthe same kills again: %s\n", dir, again)
}
