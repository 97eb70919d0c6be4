package standby

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/snapshot"
)

// seekBase fetches the base that this node lacks from whichever other node has it,
// or is being given it by the writer: so it crosses the WAN once.
func (s *stream) seekBase(ctx context.Context) {
	if s.bases == nil {
		return
	}
	tick, news := time.NewTicker(s.n.cfg.RejoinEvery), time.NewTicker(s.n.cfg.Bases.LookEvery)
	defer tick.Stop()
	defer news.Stop()
	for {
		newer := false
		select {
		case <-ctx.Done():
			return
		case <-news.C:
			newer = true
		case <-tick.C:
		}
		g, sources := s.baseSources(newer)
		for _, node := range sources {
			err := s.fetchBase(ctx, node, g)
			if err == nil || ctx.Err() != nil {
				break
			}
			s.lg.Debug("fetch base", "node", string(node), "generation", uint32(g), keyErr, err)
		}
	}
}

// baseSources lists the nodes to ask for the base of generation g, those of this
// node's own site first; none when nothing is lacking or something is on its way.
// With newer a base that is held is reason enough to ask for one that begins later.
func (s *stream) baseSources(newer bool) (g tidegate.Generation, nodes []tidegate.NodeName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, _, lacks := s.lacks()
	p := s.view.partOf(s.n.cfg.Node, s.n.cfg.Site)
	if !lacks && (!newer || g == 0) || s.bases.now != nil || p != partMember && p != partLearner {
		return g, nil
	}
	add := func(n tidegate.NodeName) {
		if n != "" && n != s.n.cfg.Node && !slices.Contains(nodes, n) {
			nodes = append(nodes, n)
		}
	}
	for _, n := range s.view.Members {
		add(n)
	}
	if s.view.Record != nil {
		for _, m := range s.view.Record.Config.Members {
			add(m.Node)
		}
	}
	slices.SortStableFunc(nodes, func(a, b tidegate.NodeName) int {
		near := func(n tidegate.NodeName) int {
			if s.sites[n] == s.n.cfg.Site {
				return 0
			}
			return 1
		}
		return near(a) - near(b)
	})
	return g, nodes
}

// fetchBase takes a base from another node.
func (s *stream) fetchBase(ctx context.Context, node tidegate.NodeName, g tidegate.Generation) error {
	addr, err := s.n.shipAddress(node)
	if err != nil {
		return err
	}
	conn, at, err := s.n.dialer().DialBase(ctx, addr, shipper.BaseAttach{Stream: s.id, Way: shipper.BaseFetch, Generation: g})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // what was listed is what counts
	if s.noNews(at) {
		return errNoNewer
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // Recv reports it
	defer stop()
	t := &taking{generation: at.Generation, opened: at.Opened, from: string(node), began: s.n.deps.Clock.Boot(), end: cancel, done: make(chan struct{})}
	in, err := s.bases.begin(ctx, t, errOtherBase)
	if err != nil {
		return err
	}
	defer s.bases.finish(t, in)
	s.lg.Info("fetching base", "node", string(node), "generation", uint32(at.Generation))
	return s.take(ctx, conn, t, in, func(info snapshot.Info) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, opened, known := s.openedOf(info.Generation); known && opened != info.Opened {
			return fmt.Errorf("base of generation %d that epoch %s opened, the log's was opened by %s: %w", info.Generation, info.Opened, opened, tidegate.ErrDiverged)
		}
		v, err := s.judgeBase(info)
		if err == nil && v == verdictNot {
			err = fmt.Errorf("base at %s of %s, which the log went on without: %w", info.Start, info.Lineage, tidegate.ErrDiverged)
		}
		return err
	})
}

// errNoNewer is what a node has to give that this one has already.
var errNoNewer = fmt.Errorf("it has no newer base: %w", tidegate.ErrConflict)

// noNews reports whether a base that another node gives is one to leave: it is here,
// or is no newer than one that is of use.
func (s *stream) noNews(at shipper.BaseAttached) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _, lacks := s.lacks()
	return slices.ContainsFunc(s.bases.held, func(l snapshot.Listed) bool {
		if l.Generation != at.Generation || l.Opened != at.Opened {
			return false
		}
		switch s.bases.verdict(&l) {
		case verdictOf:
			return l.Start == at.Start || !lacks && l.Start > at.Start
		case verdictOpen:
			return l.Start == at.Start
		case verdictNot:
		}
		return false // it is as good as none
	})
}

// Seed puts the files below from into the store that a stream's bases are kept in,
// ahead of a base that resembles them: what is in them then need not cross the
// WAN. Nothing counts by it, and nothing is trusted: a base is asked for by its
// own content. The node may be running; a base is not taken in meanwhile. What is
// stored waits for wait, which nil is not asked. meter may be read all the while.
func Seed(ctx context.Context, fsys vfs.FS, dataDir string, stream tidegate.StreamID, from string, meter *snapshot.Meter, wait func(ctx context.Context, bytes int) error) (snapshot.Progress, error) {
	dir := streamDir(dataDir, stream)
	if _, err := fsys.Stat(filepath.Join(dir, baseDirName)); err != nil {
		return snapshot.Progress{}, noBases("seed stream", stream, err)
	}
	store, err := snapshot.Open(fsys, filepath.Join(dir, baseDirName), snapshot.StoreConfig{})
	if err != nil {
		return snapshot.Progress{}, err
	}
	defer store.Close()
	in, err := store.Intake()
	if err != nil {
		return snapshot.Progress{}, err
	}
	var sink snapshot.Sink = in
	if wait != nil {
		sink = snapshot.HoldBack(in, wait)
	}
	info := snapshot.Info{Stream: stream, Generation: 1} // of a manifest that nobody commits
	_, err = snapshot.Build(ctx, sink, snapshot.BuildConfig{Meter: meter}, info, snapshot.Directory(from, meter))
	if cerr := in.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return meter.Progress(), fmt.Errorf("seed stream %s from %s: %w", stream, from, err)
	}
	return meter.Progress(), nil
}
