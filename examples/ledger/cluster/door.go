package cluster

import (
	"sync"
	"time"
)

// door counts who is inside, so that raft is stopped only when nobody waits for
// it any more: raft forgets those it has not answered when it stops.
type door struct {
	mu     sync.Mutex
	closed bool
	inside int
	empty  chan struct{} // made by shut, closed when the last one leaves
}

// enter reports whether the door is open; then leave must follow.
func (d *door) enter() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	d.inside++
	return true
}

func (d *door) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inside--
	if d.closed && d.inside == 0 {
		close(d.empty)
	}
}

// shut lets nobody in any more and waits until everybody has left, at most for
// limit. It reports whether everybody has. Called once.
func (d *door) shut(limit time.Duration) bool {
	d.mu.Lock()
	d.closed = true
	d.empty = make(chan struct{})
	if d.inside == 0 {
		close(d.empty)
	}
	d.mu.Unlock()
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-d.empty:
		return true
	case <-t.C:
		return false
	}
}
