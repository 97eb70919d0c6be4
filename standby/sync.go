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
		group := y.take()
		err := syncGroup(group)
		y.giveBack(group)
		if err != nil {
			return err
		}
	}
}

func syncGroup(group map[*stream]struct{}) error {
	if len(group) == 1 {
		for s := range group {
			return s.groupSync()
		}
	}
	// Side by side: the file system commits its journal once for all of them.
	var g errgroup.Group
	for s := range group {
		g.Go(s.groupSync)
	}
	return g.Wait()
}
