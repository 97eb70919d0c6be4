package standby

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"
)

// syncer is the node's one group sync: while a group is being synced the next
// one gathers. There is no timer: an idle node syncs a single batch at once.
type syncer struct {
	mu    sync.Mutex
	dirty map[*stream]struct{}
	spare map[*stream]struct{}
	bell  bell

	// running is held while a group, or one stream by now, is being synced; it
	// is taken before mu.
	running sync.Mutex
}

func newSyncer() *syncer {
	return &syncer{dirty: map[*stream]struct{}{}, spare: map[*stream]struct{}{}, bell: newBell()}
}

// mark says that s has been appended to.
func (y *syncer) mark(s *stream) {
	y.mu.Lock()
	y.dirty[s] = struct{}{}
	y.mu.Unlock()
	y.bell.ring()
}

// now syncs s at once, on the caller's goroutine, unless a group is being synced
// or gathers: then it does nothing and reports false. by is the bell of a
// follower that needs no word of it. The error is that of run.
func (y *syncer) now(s *stream, by bell) (done bool, err error) {
	if !y.running.TryLock() {
		return false, nil
	}
	defer y.running.Unlock()
	y.mu.Lock()
	alone := len(y.dirty) == 0
	y.mu.Unlock()
	if !alone {
		return false, nil
	}
	return true, s.groupSync(by)
}

func (y *syncer) take() map[*stream]struct{} {
	y.mu.Lock()
	defer y.mu.Unlock()
	group := y.dirty
	y.dirty = y.spare
	y.spare = nil
	return group
}

func (y *syncer) giveBack(group map[*stream]struct{}) {
	clear(group)
	y.mu.Lock()
	y.spare = group
	y.mu.Unlock()
}

// run syncs groups until ctx ends. A failed sync ends it with an error, and the
// node with it: what is on the disk is unknown from then on.
func (y *syncer) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-y.bell:
		}
		y.running.Lock()
		group := y.take()
		err := syncGroup(group)
		y.giveBack(group)
		y.running.Unlock()
		if err != nil {
			return err
		}
	}
}

func syncGroup(group map[*stream]struct{}) error {
	if len(group) == 1 {
		for s := range group {
			return s.groupSync(nil)
		}
	}
	// Side by side: the file system commits its journal once for all of them.
	var g errgroup.Group
	for s := range group {
		g.Go(func() error { return s.groupSync(nil) })
	}
	return g.Wait()
}
