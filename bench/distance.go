package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	"github.com/tidegate/tidegate/bench/figure"
	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/journal"
)

// distanceTarget is the round trip that B4's target is stated for.
const distanceTarget = 50 * time.Millisecond

// B4's load: as much in flight as clients that wait for an answer each would
// have at this rate and distance, and more.
const (
	distanceSize   = 250     // bytes of a record
	distanceRate   = 100_000 // records/s offered
	distanceWindow = 64 << 20
	distanceWarmup = 500 * time.Millisecond
	paceEvery      = 2 * time.Millisecond
)

// distanceRow is B4 for one round trip between the sites: the same load in both
// modes, in turns.
type distanceRow struct {
	RTT   time.Duration `json:"rtt_ns"`
	Open  figure.Spread `json:"open_records_per_second"`
	Sync  figure.Spread `json:"sync_records_per_second"`
	Ratio figure.Spread `json:"ratio"`
	Wait  figure.Tail   `json:"sync_release"` // append to release in sync
	Free  figure.Tail   `json:"open_release"`
}

// measureDistance puts rtt between the agent and its standby node and offers the
// same load in open and in sync mode. A record counts when it was released, so
// open is as fast as the disk here, and sync as the window permits.
func measureDistance(ctx context.Context, p plan, dir string, rtt time.Duration, say func(string, ...any)) (row distanceRow, err error) {
	row = distanceRow{RTT: rtt}
	say("B4: %s of round trip, %d rounds", rtt, p.rounds)
	far, err := lab.NewDelay(rtt / 2)
	if err != nil {
		return row, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var g errgroup.Group
	g.Go(func() error { return far.Run(ctx) })
	defer func() { cancel(); err = errors.Join(err, g.Wait()) }()
	s, err := startPlant(ctx, lab.Plant{Dir: dir, Bin: p.bin, Standbys: 1, Tune: func(name string, file map[string]any) {
		switch name {
		case "d1/standby.yaml":
			ship := file["ship"].(map[string]any) //nolint:forcetypeassert // as the lab writes it
			far.Lead(ship["listen"].(string))     //nolint:forcetypeassert // likewise
			ship["public"] = far.Addr()
		case "p1/agent.yaml":
			file["limits"] = map[string]any{"ring_bytes_max": distanceWindow}
		}
	}}, benched, func(string) {})
	if err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	var open, held, ratios []float64
	var waits, frees []time.Duration
	for range p.rounds {
		var rates [2]float64
		for i, mode := range []tidegate.Mode{tidegate.ModeOpen, tidegate.ModeSync} {
			if err := s.setMode(ctx, mode); err != nil {
				return row, err
			}
			rate, took, err := s.offer(ctx, p.distantTime)
			if err != nil {
				return row, fmt.Errorf("%s at %s: %w", mode, rtt, err)
			}
			rates[i] = rate
			if mode == tidegate.ModeOpen {
				frees = append(frees, took...)
			} else {
				waits = append(waits, took...)
			}
		}
		open, held, ratios = append(open, rates[0]), append(held, rates[1]), append(ratios, rates[1]/rates[0])
	}
	row.Open, row.Sync, row.Ratio = figure.SpreadOf(open), figure.SpreadOf(held), figure.SpreadOf(ratios)
	row.Wait, row.Free = figure.TailOf(waits), figure.TailOf(frees)
	return row, nil
}

// setMode changes the gate and waits until its record says so: a loosening acts
// after that, a tightening before.
func (s *stack) setMode(ctx context.Context, mode tidegate.Mode) error {
	if _, err := s.lab.Tidegate(ctx, "gate", "set", "--mode", string(mode), "--reason", "bench", lab.Service+"/"+streamName); err != nil {
		return err
	}
	return s.lab.Until(ctx, "the writer to go by mode "+string(mode), func(ctx context.Context) error {
		st, err := s.lab.Status(ctx)
		if err != nil {
			return err
		}
		for _, svc := range st.GetServices() {
			for _, x := range svc.GetStreams() {
				if got := api.Mode(x.GetView().GetEpoch().GetGate().GetMode()); got != mode {
					return fmt.Errorf("the record says %s", got)
				}
			}
		}
		return nil
	})
}

// offer appends distanceRate records a second for span. It returns how many were
// released per second once the first answers were back, and how long each few
// took.
func (s *stack) offer(ctx context.Context, span time.Duration) (rate float64, took []time.Duration, err error) {
	type part struct {
		end tidegate.Position
		n   int
		at  time.Time
	}
	parts := make(chan part, distanceWindow/distanceSize)
	var g errgroup.Group
	began := time.Now()
	from, to := began.Add(distanceWarmup), began.Add(distanceWarmup+span)
	released := 0
	g.Go(func() error {
		var failed error
		for p := range parts {
			if failed == nil {
				failed = s.await(ctx, p.end)
			}
			if now := time.Now(); now.After(from) && now.Before(to) {
				released += p.n
				took = append(took, now.Sub(p.at))
			}
		}
		return failed
	})
	tick := time.NewTicker(paceEvery)
	defer tick.Stop()
	for sent := 0; err == nil && time.Now().Before(to); <-tick.C {
		at, first := time.Now(), sent
		var r journal.Range
		for due := int(at.Sub(began).Seconds() * distanceRate); sent < due && err == nil; sent++ {
			r, err = s.j.Submit(ctx, s.record(sent, distanceSize), at)
		}
		if err == nil && sent > first {
			parts <- part{end: r.Next, n: sent - first, at: at}
		}
	}
	close(parts)
	err = errors.Join(err, g.Wait())
	return float64(released) / span.Seconds(), took, err
}

func (r *report) printDistances(out io.Writer) {
	fmt.Fprintf(out, "\nB4: %d records/s of %d B offered, released per second; sync with a window of %d MiB, beside open\n", distanceRate, distanceSize, distanceWindow>>20)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "RTT\topen/s\tsync/s\tsync / open\topen p50 µs\tp99\tsync p50 µs\tp99\ttarget\t\t")
	for _, d := range r.Distances {
		target, said := "", ""
		if d.RTT == distanceTarget {
			target, said = fmt.Sprintf(">= %.2f", distanceRatioMin), figure.Verdict(d.Ratio.Median, distanceRatioMin)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.0f\t%.0f\t%.0f\t%.0f\t%s\t%s\t\n", d.RTT, d.Open.Whole(), d.Sync.Whole(), d.Ratio,
			d.Free.P50, d.Free.P99, d.Wait.P50, d.Wait.P99, target, said)
	}
	_ = w.Flush() // to a terminal
}
