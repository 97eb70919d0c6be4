package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/bench/figure"
)

// trial is one restore.
type trial struct {
	took, cpu  time.Duration
	bytes      int64  // of the base's files; 0: not said
	home, data string // what to remove; the data directory
}

// Kinds of change.
const (
	none       = "none"
	contiguous = "contiguous"
	random     = "random"
)

// stage is what was measured of one state of the database.
type stage struct {
	change  string
	theirs  []copied // by compression
	ours    copied
	changed int64 // pages that the base has and the one before has not; -1: there is none before

	bytes                 int64       // of the base's files
	oursMBs, limitMBs     []float64   // a round
	cpuOurs, cpuLimit     []float64   // seconds
	theirsMBs, cpuTheirs  [][]float64 // by compression; nil: left out
	overTheirs, overLimit []float64   // ratios of a round
}

// measure does it all: a base and backups of the database as it is, restores of those
// in turns; the same after each change.
func (r *rig) measure(ctx context.Context) (*report, error) {
	if err := r.build(ctx); err != nil {
		return nil, err
	}
	full := &stage{change: none, changed: -1}
	for n := range theirs {
		c, err := r.backUp(ctx, n, "full")
		if err != nil {
			return nil, err
		}
		full.theirs = append(full.theirs, c)
	}
	first, err := r.firstBase(ctx)
	if err != nil {
		return nil, err
	}
	full.ours = first
	// Of the warm server from here on: its pages are not the primary's to the last bit.
	if err := r.settle(ctx); err != nil {
		return nil, err
	}
	again, err := r.nextBase(ctx, 2)
	if err != nil {
		return nil, err
	}
	out := &report{rounds: r.rounds, version: r.back.Version, again: again}
	was, best, err := r.restores(ctx, full, again.name, 0, 1)
	if err != nil {
		return nil, err
	}
	out.stages, out.best = append(out.stages, full), best
	for i, kind := range []string{contiguous, random} {
		if err := r.change(ctx, kind); err != nil {
			return nil, err
		}
		st := &stage{change: kind, theirs: make([]copied, len(theirs))}
		for n := range theirs {
			if st.theirs[n], err = r.backUp(ctx, n, "incr"); err != nil {
				return nil, err
			}
		}
		if st.ours, err = r.nextBase(ctx, 3+i); err != nil {
			return nil, err
		}
		now, _, err := r.restores(ctx, st, st.ours.name, best)
		if err != nil {
			return nil, err
		}
		st.changed = now.changed(was)
		was = now
		out.stages = append(out.stages, st)
	}
	return out, nil
}

// restores restores a base and backups in turns, and returns the base's pages, and which
// compression of theirs was restored fastest.
func (r *rig) restores(ctx context.Context, st *stage, base string, compressions ...int) (now pages, best int, err error) {
	st.theirsMBs, st.cpuTheirs = make([][]float64, len(theirs)), make([][]float64, len(theirs))
	want, err := r.lab.Primary.Text(ctx, contents)
	if err != nil {
		return nil, 0, err
	}
	t := &turns{rig: r, st: st, base: base, want: want}
	for round := range r.rounds {
		r.say("restores, changed: %s: round %d of %d", st.change, round+1, r.rounds)
		ours, err := t.ours(ctx, round == 0)
		if err != nil {
			return nil, 0, fmt.Errorf("ours: %w", err)
		}
		fastest := 0.0
		for _, n := range compressions {
			rate, err := t.theirs(ctx, n, round == 0)
			if err != nil {
				return nil, 0, fmt.Errorf("pgBackRest, %s: %w", theirs[n], err)
			}
			fastest = max(fastest, rate)
		}
		raw, err := t.bound(ctx)
		if err != nil {
			return nil, 0, fmt.Errorf("limit: %w", err)
		}
		st.overTheirs, st.overLimit = append(st.overTheirs, ours/fastest), append(st.overLimit, ours/raw)
	}
	best = compressions[0]
	for _, n := range compressions {
		if figure.SpreadOf(st.theirsMBs[n]).Median > figure.SpreadOf(st.theirsMBs[best]).Median {
			best = n
		}
	}
	return t.pages, best, os.RemoveAll(t.limit.dir)
}

// turns is the restores of one state of the database.
type turns struct {
	*rig
	st         *stage
	base, want string
	pages      pages  // of the base
	limit      *limit // made of the first that was restored
}

func rate(bytes int64, took time.Duration) float64 { return float64(bytes) / 1e6 / took.Seconds() }

func (t *turns) ours(ctx context.Context, first bool) (float64, error) {
	got, err := t.restoreOurs(ctx, t.base, "restored")
	if err != nil {
		return 0, err
	}
	if first {
		if t.pages, err = pagesOf(got.data); err != nil {
			return 0, err
		}
		if t.limit, err = newLimit(got.home, filepath.Join(t.dir, chunksDir)); err != nil {
			return 0, err
		}
	}
	st, mb := t.st, rate(got.bytes, got.took)
	st.bytes = got.bytes
	st.oursMBs, st.cpuOurs = append(st.oursMBs, mb), append(st.cpuOurs, got.cpu.Seconds())
	return mb, t.judge(ctx, got, first, t.want)
}

func (t *turns) theirs(ctx context.Context, n int, first bool) (float64, error) {
	st := t.st
	got, err := t.restoreTheirs(ctx, n, st.theirs[n].name, "theirs")
	if err != nil {
		return 0, err
	}
	// The same database: as many bytes of files, but for what each leaves out.
	mb := rate(st.bytes, got.took)
	st.theirsMBs[n], st.cpuTheirs[n] = append(st.theirsMBs[n], mb), append(st.cpuTheirs[n], got.cpu.Seconds())
	return mb, t.judge(ctx, got, first, t.want)
}

func (t *turns) bound(ctx context.Context) (float64, error) {
	got, err := t.restoreLimit(ctx, t.limit)
	if err != nil {
		return 0, err
	}
	st, mb := t.st, rate(got.bytes, got.took)
	st.limitMBs, st.cpuLimit = append(st.limitMBs, mb), append(st.cpuLimit, got.cpu.Seconds())
	return mb, nil
}

func (r *rig) restoreLimit(ctx context.Context, l *limit) (t trial, err error) {
	if err := r.cold(l.dir); err != nil {
		return t, err
	}
	if t, err = l.restore(ctx, filepath.Join(r.dir, limitDir)); err != nil {
		return t, err
	}
	return t, os.RemoveAll(t.home)
}

// judge removes what was restored, after it has answered if it is to be asked.
func (r *rig) judge(ctx context.Context, t trial, ask bool, want string) error {
	if ask {
		got, err := r.answers(ctx, t)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("the restored server has %s, the primary %s", got, want)
		}
	}
	return os.RemoveAll(t.home)
}

// cold has nothing left to be written, and a folder not in the page cache.
func (r *rig) cold(dir string) error {
	unix.Sync()
	_, err := figure.Uncache(dir)
	return err
}
