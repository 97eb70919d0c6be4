package standby

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/retry"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
)

// Names in the directory of a stream's bases.
const (
	// sweepFileName says that something may be there that no base needs: it is made
	// before a base goes, and removed when everything was swept.
	sweepFileName = "sweep"
	// fatesFileName is what the node last thought of its bases, for the operator.
	fatesFileName = "fates.json"
	fatesVersion  = 1
)

type fatesFile struct {
	Version int                 `json:"version"` // fatesVersion
	Bases   map[string]BaseFate `json:"bases"`   // by name
}

// sweeping is what no base needs being cleared out.
type sweeping struct {
	end  context.CancelCauseFunc
	done chan struct{} // closed when the store's writer is free
}

var errSwept = fmt.Errorf("a base is taken: %w", tidegate.ErrConflict)

// finish ends a sweep, which may be nil, and returns when it has ended.
func (w *sweeping) finish(ctx context.Context) error {
	if w == nil {
		return nil
	}
	w.end(errSwept)
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// keepCleared removes the bases that newer ones stand for, and what only they needed,
// until ctx ends.
func (s *stream) keepCleared(ctx context.Context) {
	if s.bases == nil {
		return
	}
	tick := time.NewTicker(s.n.cfg.Bases.LookEvery)
	defer tick.Stop()
	backoff := retry.Policy{First: s.n.cfg.Bases.LookEvery, Max: time.Hour}.Backoff()
	var known map[string]BaseFate
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := s.clear(ctx, &known)
		switch {
		case err == nil || ctx.Err() != nil:
			backoff.Reset()
			continue
		case errors.Is(err, tidegate.ErrConflict):
			continue // somebody else writes, reads or gives: it is looked again
		case errors.Is(err, tidegate.ErrStopped):
			s.n.stop(err) // a sync has failed: what is on the disk is not known any more
			return
		}
		s.lg.Warn("clear out bases", keyErr, err)
		if backoff.Wait(ctx) != nil {
			return
		}
	}
}

// clear looks once at what may go, and takes it away. known is what was written down
// the last time.
func (s *stream) clear(ctx context.Context, known *map[string]BaseFate) error {
	f, err := s.keepFacts(ctx)
	if err != nil {
		return err
	}
	fates := map[string]BaseFate{}
	var gone []snapshot.Listed
	for i, fate := range f.rule() {
		fates[f.Bases[i].Listed.Name.String()] = fate
		if fate.Goes {
			gone = append(gone, f.Bases[i].Listed)
		}
	}
	if !maps.Equal(fates, *known) {
		if err := s.bases.writeFates(fates); err != nil {
			return err
		}
		*known = fates
	}
	due, err := exists(s.n.deps.FS, filepath.Join(s.bases.dir, sweepFileName))
	if err != nil || !due && len(gone) == 0 {
		return err
	}
	return s.bases.clear(ctx, f, gone)
}

func exists(fsys vfs.FS, path string) (bool, error) {
	_, err := fsys.Stat(path)
	if errors.Is(err, tidegate.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// keepFacts gathers what is known on this node.
func (s *stream) keepFacts(ctx context.Context) (f keepFacts, err error) {
	f.Keep, f.Off = s.n.cfg.Bases.Keep, s.n.cfg.Bases.TrimOff
	s.mu.Lock()
	f.Follows = s.settled()
	commit := s.core.ApplyTo()
	_, f.Known = s.apply.seq()
	f.Warm = s.hasWarm()
	if l := s.apply.library; l != nil {
		f.Serves = l.hello.Generation
	}
	if first := s.log.First(); f.Follows && commit >= first {
		err = s.generations(&f, first, commit)
	} else {
		f.Follows = false
	}
	list := s.bases.store.Bases()
	for _, l := range list {
		f.Bases = append(f.Bases, keepBase{Listed: l, Counts: s.bases.holds(l.Generation, l.Opened), Read: s.bases.store.Read(l.Name)})
	}
	s.mu.Unlock()
	if err != nil || !f.Follows {
		return f, err
	}
	for i := range f.Bases {
		b := &f.Bases[i]
		if !b.of(f.Generation, f.Opened) {
			continue
		}
		if _, err := s.keptFrom(b.Listed.Info); err != nil {
			b.Useless = err.Error()
		}
	}
	return f, ctx.Err()
}

// generations fills in what the log is of; mu is held.
func (s *stream) generations(f *keepFacts, first, commit tidegate.Seq) error {
	at, h, err := s.log.At(commit)
	if err != nil {
		return err
	}
	sp, err := s.bases.span(s.log, h.Generation, commit)
	if err != nil {
		return err
	}
	f.commit, f.Generation, f.Opened = at, sp.generation, sp.opened
	if _, h, err = s.log.At(first); err == nil {
		f.Oldest = h.Generation
	}
	return err
}

// clear removes bases, and what no base needs. A base that is to be taken ends it, and
// it is gone on with later.
func (b *bases) clear(ctx context.Context, f keepFacts, gone []snapshot.Listed) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	mine := &sweeping{end: cancel, done: make(chan struct{})}
	b.s.mu.Lock()
	busy := b.now != nil
	if !busy {
		b.sweep = mine
	}
	b.s.mu.Unlock()
	if busy {
		return nil
	}
	defer func() {
		b.s.mu.Lock()
		b.sweep = nil
		b.s.mu.Unlock()
		close(mine.done)
	}()
	w, err := b.store.Sweep()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if err := b.remove(w, f, gone); err != nil {
		return err
	}
	if err := b.sweepOut(ctx, w); err != nil {
		return err
	}
	path := filepath.Join(b.dir, sweepFileName)
	if err := b.s.n.deps.FS.Remove(path); err != nil && !errors.Is(err, tidegate.ErrNotFound) {
		return err
	}
	return nil
}

// remove takes bases off the list. That they are not counted on any more is written
// down first: a node whose base is gone that it counted on is in limbo.
func (b *bases) remove(w *snapshot.Sweep, f keepFacts, gone []snapshot.Listed) error {
	if len(gone) == 0 {
		return nil
	}
	if err := durable.WriteFile(b.s.n.deps.FS, filepath.Join(b.dir, sweepFileName), []byte("Something may be here that no base needs.\n")); err != nil {
		return err
	}
	if same, err := b.unhold(f, gone); err != nil || !same {
		return err
	}
	for _, l := range gone {
		err := w.Remove(l)
		if errors.Is(err, tidegate.ErrConflict) {
			continue // somebody has begun to read it: it goes some other time
		}
		if err != nil {
			return err
		}
		b.s.n.metrics.removed.Inc()
		b.s.lg.Info("base removed", "generation", uint32(l.Generation), "start", l.Start.String(), "name", l.Name.String())
	}
	return nil
}

// unhold writes down that bases are not counted on any more. It does nothing when the
// log is not the one any more that the rule was asked for.
func (b *bases) unhold(f keepFacts, gone []snapshot.Listed) (same bool, err error) {
	s := b.s
	goes := func(h snapshot.Listed) bool {
		return slices.ContainsFunc(gone, func(l snapshot.Listed) bool { return l.Name == h.Name })
	}
	s.mu.Lock()
	at, _, err := s.log.At(f.commit.Seq)
	same = err == nil && at == f.commit && s.settled()
	left := slices.DeleteFunc(slices.Clone(b.held), goes)
	s.mu.Unlock()
	if !same {
		return false, nil
	}
	if err := b.writeHeld(left); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b.held = left
	for _, l := range gone {
		delete(b.judged, l.Name)
	}
	return true, nil
}

// sweepOut has the store remove what no base needs.
func (b *bases) sweepOut(ctx context.Context, w *snapshot.Sweep) error {
	n := b.s.n
	done, err := w.Run(ctx, snapshot.Pace{
		Read: n.limits.copying.Wait,
		Write: func(ctx context.Context, bytes int) error {
			if n.full.Load() {
				return tidegate.ErrFull // nothing is moved then; what can go without that has gone
			}
			return n.limits.copying.Wait(ctx, bytes)
		},
	})
	n.metrics.freed.Add(float64(max(0, done.Freed)))
	for _, fault := range done.Damaged {
		b.s.lg.Error("part of a base is not readable; its pack stays", keyErr, fault)
	}
	if done.Extents > 0 || done.Packs > 0 {
		b.s.lg.Info("bases swept", "freed", done.Freed, "packs", done.Packs, "extents", done.Extents, "moved", done.Moved)
	}
	if err != nil && ctx.Err() != nil {
		err = errors.Join(err, context.Cause(ctx))
	}
	return err
}

func (b *bases) writeFates(fates map[string]BaseFate) error {
	raw, err := json.MarshalIndent(fatesFile{fatesVersion, fates}, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(b.s.n.deps.FS, filepath.Join(b.dir, fatesFileName), raw)
}

// BaseFates returns what the node whose data directory this is last thought of its
// bases, by name; empty when it has not looked yet.
func BaseFates(fsys vfs.FS, dataDir string, stream tidegate.StreamID) (map[string]BaseFate, error) {
	path := filepath.Join(streamDir(dataDir, stream), baseDirName, fatesFileName)
	raw, err := readFile(fsys, path)
	if errors.Is(err, tidegate.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var f fatesFile
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, &tidegate.CorruptError{Path: path, Offset: -1, What: err.Error()}
	}
	if f.Version != fatesVersion {
		return nil, fmt.Errorf("read %s: version %d: %w", path, f.Version, tidegate.ErrUnsupported)
	}
	return f.Bases, nil
}
