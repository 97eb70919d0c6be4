package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/internal/lab"
)

// B6's load, in records.
const (
	drillPaceEvery = 10 * time.Millisecond
	drillPace      = 10 // at a time
)

// measureLedgerDrills rehearses the recovery of the example's ledger, which is warm, under
// load.
func measureLedgerDrills(ctx context.Context, dir string, p plan, say func(string, ...any)) (row *drillRow, err error) {
	say("B6: a ledger of %d accounts", p.accounts)
	b := &books{accounts: p.accounts}
	b.stack, err = startPlant(ctx, lab.Plant{
		Dir: filepath.Join(dir, "lab"), Bin: p.bin, Standbys: 1, Mode: tidegate.ModeBounded, Bounds: drillBounds, Tune: keepBases,
	}, streamOf(ledger.EUR, b.next), func(string) {}, streamOf(ledger.USD, idle))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.follow(ctx, len(lab.Currencies)); err != nil {
		return nil, err
	}
	began := time.Now()
	if err := b.fill(ctx, 2*p.accounts); err != nil { // each is opened, and given something
		return nil, err
	}
	say("B6: filled after %.1f s; a base, and a backlog behind it", time.Since(began).Seconds())
	if err := b.refresh(ctx); err != nil {
		return nil, err
	}
	if err := b.fill(ctx, p.drillBacklog*5/4); err != nil {
		return nil, err
	}
	name := drillRow{Name: "B6", What: fmt.Sprintf("a ledger of %d accounts, backlog %d records", p.accounts, p.drillBacklog)}
	d, err := newDrilling(ctx, b.lab, p, name, fmt.Sprint(p.drillBacklog), b.lab.LedgerDrill(), say)
	if err != nil {
		return nil, err
	}
	working, stop := context.WithCancel(ctx)
	var load errgroup.Group
	load.Go(func() error { return b.load(working) })
	row, err = d.rounds(ctx, p.rounds)
	stop()
	return row, errors.Join(err, load.Wait())
}

// idle is the ledger's other book, in which nothing happens: a clone leads when it has both.
func idle() ([]byte, error) {
	c := ledger.Command{Currency: ledger.USD, Client: tidegate.ID{2}, Request: 1, Kind: ledger.KindOpen, To: "idle"}
	return c.Append(nil)
}

// load submits drillPace records every drillPaceEvery and releases them, until ctx ends.
func (b *books) load(ctx context.Context) error {
	tick := time.NewTicker(drillPaceEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		end := b.j.End()
		for range drillPace {
			rec, err := b.next()
			if err != nil {
				return err
			}
			r, err := b.j.Submit(ctx, rec, time.Now())
			if err != nil {
				return unlessOver(ctx, err)
			}
			end = r.Next
		}
		if err := b.await(ctx, end); err != nil {
			return unlessOver(ctx, err)
		}
	}
}

// unlessOver is nil where the caller's time is up.
func unlessOver(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
