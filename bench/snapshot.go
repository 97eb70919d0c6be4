package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate/bench/figure"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/internal/lab"
)

// B5: what the primary's clients notice of a snapshot that the standby takes. The
// example's ledger follows there, with a state that takes some seconds to be written
// down, read, compressed and stored.
const (
	snapshotNode     = "d1"
	snapshotWait     = 2 * time.Minute        // for one to begin and to end: a node looks every 10 s
	snapshotRate     = "16MiB"                // a second, of turn C
	snapshotObeyed   = 750 * time.Millisecond // after that a rate's file that is there, or gone, is
	snapshotMsgBegin = "taking a base of the warm service"
	snapshotMsgEnd   = "base renewed"
)

// snapshotRow is B5. Ratios are of a round's p99.9.
type snapshotRow struct {
	State    int64         `json:"state_bytes"`
	Spans    figure.Spread `json:"snapshot_seconds"`
	Longer   figure.Spread `json:"rated_snapshot_seconds"`
	Without  figure.Tail   `json:"without"`       // turn A, of all rounds together
	Again    figure.Tail   `json:"without_again"` // turn A'
	With     figure.Tail   `json:"with"`          // turn B: nothing holds it back, as by default
	Rated    figure.Tail   `json:"rated"`         // turn C: at snapshotRate
	Band     figure.Spread `json:"without_again_to_without"`
	Ratio    figure.Spread `json:"with_to_without"`
	Held     figure.Spread `json:"rated_to_without"`
	Recovery recoveryRow   `json:"recovery"`
}

// snapshots is B5 while it runs.
type snapshots struct {
	*books
	turn time.Duration // as long as the last snapshot took
}

func measureSnapshots(ctx context.Context, dir string, p plan, say func(string, ...any)) (row *snapshotRow, err error) {
	say("B5: a state of %d accounts", p.accounts)
	b := &snapshots{books: &books{accounts: p.accounts}}
	b.stack, err = startPlant(ctx, lab.Plant{Dir: filepath.Join(dir, "lab"), Bin: p.bin, Standbys: 1, Tune: keepBases}, streamOf(ledger.EUR, b.next), func(string) {})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.follow(ctx, 1); err != nil {
		return nil, err
	}
	if err := b.fill(ctx, 2*p.accounts); err != nil { // each is opened, and given something
		return nil, err
	}
	row = &snapshotRow{}
	if _, _, err := b.during(ctx, ""); err != nil { // the first is stored whole, and says how long a turn is
		return nil, err
	}
	if err := b.rounds(ctx, p, row, say); err != nil {
		return nil, err
	}
	say("B5: recovery from the newest snapshot and %d records behind it", p.replayCount)
	if err := b.fill(ctx, p.replayCount); err != nil {
		return nil, err
	}
	row.Recovery, err = b.recovery(ctx, p.rounds)
	row.State = row.Recovery.State
	return row, err
}

// rounds takes turns: A and A' without a snapshot, B and C with one.
func (b *snapshots) rounds(ctx context.Context, p plan, row *snapshotRow, say func(string, ...any)) error {
	var spans, longer, band, ratios, held []float64
	var without, with, again, rated []time.Duration
	for n := range p.rounds {
		say("B5: round %d of %d, turns of %s", n+1, p.rounds, b.turn.Round(time.Millisecond))
		a1, err := b.trips(ctx, time.Now().Add(b.turn), nil)
		if err != nil {
			return err
		}
		bs, span, err := b.during(ctx, "")
		if err != nil {
			return err
		}
		a2, err := b.trips(ctx, time.Now().Add(span), nil)
		if err != nil {
			return err
		}
		cs, long, err := b.during(ctx, snapshotRate)
		if err != nil {
			return err
		}
		spans, longer = append(spans, span.Seconds()), append(longer, long.Seconds())
		without, with, again, rated = append(without, a1...), append(with, bs...), append(again, a2...), append(rated, cs...)
		t1, tb, t2, tc := figure.TailOf(a1), figure.TailOf(bs), figure.TailOf(a2), figure.TailOf(cs)
		base := (t1.P999 + t2.P999) / 2
		band, ratios, held = append(band, t2.P999/t1.P999), append(ratios, tb.P999/base), append(held, tc.P999/base)
	}
	row.Spans, row.Longer = figure.SpreadOf(spans), figure.SpreadOf(longer)
	row.Band, row.Ratio, row.Held = figure.SpreadOf(band), figure.SpreadOf(ratios), figure.SpreadOf(held)
	row.Without, row.With, row.Again, row.Rated = figure.TailOf(without), figure.TailOf(with), figure.TailOf(again), figure.TailOf(rated)
	return nil
}

// trips appends one command after the other and waits for its release, and returns how
// long each took of those that keep, if there is one, wants.
func (b *snapshots) trips(ctx context.Context, until time.Time, keep func(began, ended time.Time) bool) (took []time.Duration, err error) {
	for time.Now().Before(until) && ctx.Err() == nil {
		rec, err := b.next()
		if err != nil {
			return nil, err
		}
		began := time.Now()
		if err := b.trip(ctx, rec); err != nil {
			return nil, err
		}
		if ended := time.Now(); keep == nil || keep(began, ended) {
			took = append(took, ended.Sub(began))
		}
	}
	return took, ctx.Err()
}

// during asks for a snapshot, held back at a rate unless that is empty, and keeps the
// trips that were under way while it was taken.
func (b *snapshots) during(ctx context.Context, rate string) (took []time.Duration, span time.Duration, err error) {
	type lap struct{ began, ended time.Time }
	var laps []lap
	before, err := b.taken()
	if err == nil {
		err = b.hold(ctx, rate)
	}
	if err != nil {
		return nil, 0, err
	}
	g, gctx := errgroup.WithContext(ctx)
	asking, stop := context.WithCancel(gctx)
	defer stop()
	g.Go(func() error {
		defer stop()
		return b.refresh(gctx)
	})
	for asking.Err() == nil {
		// One that is cut off in between would not be released: the stop is looked at here.
		if _, err := b.trips(ctx, time.Now().Add(time.Millisecond), func(began, ended time.Time) bool {
			laps = append(laps, lap{began, ended})
			return false
		}); err != nil {
			return nil, 0, errors.Join(err, g.Wait())
		}
	}
	if err := g.Wait(); err != nil {
		return nil, 0, err
	}
	after, err := b.taken()
	if err != nil || len(after) != len(before)+1 {
		return nil, 0, errors.Join(err, fmt.Errorf("%d snapshots in the node's log, want %d", len(after), len(before)+1))
	}
	s := after[len(after)-1]
	for _, l := range laps {
		if l.ended.After(s.began) && l.began.Before(s.ended) {
			took = append(took, l.ended.Sub(l.began))
		}
	}
	b.turn = s.ended.Sub(s.began)
	return took, b.turn, nil
}

// hold has the node read at a rate, or as fast as it can, and returns when it does.
func (b *snapshots) hold(ctx context.Context, rate string) error {
	dir := b.lab.File(snapshotNode, "rates")
	err := os.MkdirAll(dir, 0o750)
	if err == nil && rate == "" {
		err = os.RemoveAll(filepath.Join(dir, "copy"))
	} else if err == nil {
		err = os.WriteFile(filepath.Join(dir, "copy"), []byte(rate+"\n"), 0o640)
	}
	if err != nil {
		return err
	}
	_, err = b.trips(ctx, time.Now().Add(snapshotObeyed), nil)
	return err
}

// spanOf is when a snapshot was taken.
type spanOf struct{ began, ended time.Time }

// taken is the snapshots that the node has logged.
func (b *snapshots) taken() (all []spanOf, err error) {
	text, err := os.ReadFile(b.lab.File("logs", "standby-"+snapshotNode+".log"))
	if err != nil {
		return nil, err
	}
	var began time.Time
	for _, line := range bytes.Split(text, []byte("\n")) {
		var said struct {
			Time time.Time
			Msg  string
		}
		if json.Unmarshal(line, &said) != nil {
			continue // not whole yet
		}
		switch said.Msg {
		case snapshotMsgBegin:
			began = said.Time
		case snapshotMsgEnd:
			all = append(all, spanOf{began, said.Time})
		}
	}
	return all, nil
}

func (s *snapshotRow) print(out io.Writer) {
	fmt.Fprintf(out, "\nB5: one record from append to release, µs, sync, one standby node, while that takes a snapshot of a ledger of %.0f MB, in B as fast as it can, %s s, in C at %s/s, %s s\n",
		float64(s.State)/1e6, s.Spans, snapshotRate, s.Longer)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "turn\tp50\tp99\tp99.9\tp99.9 of a round\t\t")
	for _, x := range []struct {
		name string
		tail figure.Tail
		to   string
	}{{"A without", s.Without, ""}, {"A' without", s.Again, "/ A " + s.Band.String()}, {"B with", s.With, "/ A " + s.Ratio.String()}, {"C held back", s.Rated, "/ A " + s.Held.String()}} {
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.0f\t%s\t\n", x.name, x.tail.P50, x.tail.P99, x.tail.P999, x.to)
	}
	_ = w.Flush() // to a terminal
	fmt.Fprintf(out, "target: within what A' / A spans, %.2f to %.2f: B %s; C %s\n", s.Band.Min, s.Band.Max, figure.Verdict(s.Band.Max, s.Ratio.Median), figure.Verdict(s.Band.Max, s.Held.Median))
	s.Recovery.print(out)
}
