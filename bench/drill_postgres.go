package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/bench/figure"
	"github.com/tidegate/tidegate/internal/lab/pglab"
)

// B7's load, and what it waits for.
const (
	pgRate     = "100"    // transactions a second
	pgCaughtUp = 16 << 20 // bytes: the warm server replays what the load writes
	pgProgress = 15 * time.Second
	pgBehind   = 64 << 20 // bytes of log more than the backlog, behind the base
)

// measurePostgresDrills rehearses the recovery of a PostgreSQL server under pgbench.
func measurePostgresDrills(ctx context.Context, dir string, p plan, say func(string, ...any)) (row *drillRow, err error) {
	// The primary, the warm server and the clone hold the tables, and all of them log.
	if err := figure.Room(p.dir, 4*p.pgSize+6*p.pgBacklog+(4<<30)); err != nil {
		return nil, fmt.Errorf("B7: %w; give a smaller PGSIZE", err)
	}
	if err := os.Chmod(p.dir, 0o755); err != nil { //nolint:gosec // PostgreSQL's account passes through it to its sockets
		return nil, err
	}
	began := time.Now()
	say("B7: filling %s of pgbench's tables", figure.Human(p.pgSize))
	l, err := pglab.New(ctx, pglab.Config{Dir: filepath.Join(dir), Bin: p.bin, Scale: int(max(1, p.pgSize/pglab.ScaleBytes)), NoTwin: true, Standbys: 1})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	say("B7: filled after %.1f s; starting the sites", time.Since(began).Seconds())
	if err := l.Up(ctx, func(text string) { say("B7: %s", text) }); err != nil {
		return nil, err
	}
	say("B7: the base has crossed, %.1f s after the beginning", time.Since(began).Seconds())
	if err := l.Gate(ctx, tidegate.ModeBounded, drillBounds); err != nil {
		return nil, err
	}
	bench, err := l.Primary.Bench([]string{"PGOPTIONS=-c synchronous_commit=" + pglab.Level(tidegate.ModeBounded)}, "-c", "4", "-R", pgRate)
	if err != nil {
		return nil, err
	}
	defer bench.Kill()
	if err := writeLog(ctx, l, p.pgBacklog+pgBehind, say); err != nil {
		return nil, err
	}
	more := pglab.Drill()
	more["wait"] = "10m"
	name := drillRow{Name: "B7", What: fmt.Sprintf("a PostgreSQL server of %s, backlog %s of log", figure.Human(p.pgSize), figure.Human(p.pgBacklog))}
	d, err := newDrilling(ctx, l.Lab, p, name, fmt.Sprintf("%dMiB", p.pgBacklog>>20), more, say)
	if err != nil {
		return nil, err
	}
	return d.rounds(ctx, p.rounds)
}

// writeLog has the primary write so much log behind the base, and waits until the warm
// server has replayed it.
func writeLog(ctx context.Context, l *pglab.Lab, size int64, say func(string, ...any)) error {
	say("B7: %s of log behind the base", figure.Human(size))
	from, err := l.Primary.Text(ctx, "SELECT pg_current_wal_lsn()")
	if err != nil {
		return err
	}
	begun, said := time.Now(), time.Now()
	for n := 0; ; n++ {
		got, err := l.Beyond(ctx, from)
		if err != nil {
			return err
		}
		if got >= size {
			break
		}
		if time.Since(said) > pgProgress {
			said = time.Now()
			left := time.Duration(float64(time.Since(begun)) * float64(size-got) / float64(max(got, 1)))
			say("B7:   %s of %s, ETA %s", figure.Human(got), figure.Human(size), left.Round(time.Second))
		}
		if err := l.Rewrite(ctx, n); err != nil {
			return err
		}
	}
	return l.Until(ctx, "the warm server to have replayed it", func(ctx context.Context) error {
		got, err := l.Behind(ctx)
		if err == nil && got > pgCaughtUp {
			err = fmt.Errorf("%s are left", figure.Human(got))
		}
		return err
	})
}
