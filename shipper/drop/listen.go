package drop

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/tidegate/tidegate"
)

// Listener finds the connections that others begin with a node. It implements
// net.Listener: an error of its Accept is its end; a bucket that does not answer is
// none, and is asked again.
type Listener struct {
	d      *Drop
	node   tidegate.NodeName
	wanted func() bool
	log    *slog.Logger

	stop   context.CancelFunc
	ctx    func() context.Context // ends with Close
	failed bool                   // the last look did; of the goroutine in Accept
	spared int                    // looks since the last one; the same
	queue  []tidegate.ID          // found and not accepted; the same
	mu     sync.Mutex
	open   map[tidegate.ID]stage
	ended  map[tidegate.ID]time.Time // since when; what they left goes LeftoverAfter later
}

// stage is how far an open connection has come.
type stage int

const (
	stageHandshake stage = iota
	stageKnown           // its peer has shown that it may attach
)

// Listen returns a listener. wanted says whether somebody is likely to come this way:
// until then the bucket is asked less often. It is called on the goroutine of Accept, of
// which there is one.
func (d *Drop) Listen(node tidegate.NodeName, wanted func() bool, log *slog.Logger) *Listener {
	ctx, cancel := context.WithCancel(context.Background())
	return &Listener{
		d: d, node: node, wanted: wanted, log: log, stop: cancel, ctx: func() context.Context { return ctx },
		open: map[tidegate.ID]stage{}, ended: map[tidegate.ID]time.Time{},
	}
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return addr(l.d.String() + " " + nodePrefix(l.node)) }

// Close implements net.Listener. Connections go on.
func (l *Listener) Close() error {
	l.stop()
	return nil
}

// Connections returns how many are open.
func (l *Listener) Connections() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open)
}

// handshakes returns how many of them are not over.
func (l *Listener) handshakes() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.open {
		if s == stageHandshake {
			n++
		}
	}
	return n
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	ctx := l.ctx()
	for {
		if ctx.Err() != nil {
			return nil, net.ErrClosed
		}
		if len(l.queue) > 0 {
			id := l.queue[0]
			l.queue = l.queue[1:]
			return l.accept(id), nil
		}
		if l.spared++; l.spared >= IdleLooks || l.wanted() {
			l.spared = 0
			err := l.look(ctx)
			if err != nil && !l.failed && ctx.Err() == nil {
				l.log.Warn("look for who comes by the archive", "bucket", l.d.String(), "err", err)
			}
			l.failed = err != nil
			if err != nil {
				l.d.failures.Add(1)
			}
		}
		if len(l.queue) == 0 && sleep(ctx, l.d.cfg.Look) != nil {
			return nil, net.ErrClosed
		}
	}
}

func (l *Listener) accept(id tidegate.ID) net.Conn {
	l.mu.Lock()
	l.open[id] = stageHandshake
	l.mu.Unlock()
	known := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if _, open := l.open[id]; open {
			l.open[id] = stageKnown
		}
	}
	return l.d.open(l.node, id, wayDown, known, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.open, id)
		l.ended[id] = time.Now()
	})
}

// found is a connection that the bucket shows.
type found struct {
	id     tidegate.ID
	newest time.Time // by the bucket's clock
	whole  bool      // its first piece is there
}

// look lists what lies there for the node: new connections are queued, the newest
// first, and what is left of old ones is removed, once nobody waits for that.
func (l *Listener) look(ctx context.Context) error {
	var fresh []found
	left := map[tidegate.ID]bool{}
	for o, err := range l.d.b.List(ctx, nodePrefix(l.node), "") {
		if err != nil {
			return err
		}
		id, w, number, err := parsePiece(l.node, o.Name)
		if err != nil {
			continue // somebody else's: not ours to read or to remove
		}
		l.mu.Lock()
		_, over := l.ended[id]
		_, open := l.open[id]
		l.mu.Unlock()
		switch {
		case open:
		case over:
			left[id] = true
		default:
			fresh = note(fresh, found{id: id, newest: o.Modified, whole: w == wayUp && number == 0})
		}
	}
	fresh = l.leaveOut(fresh)
	slices.SortStableFunc(fresh, func(a, b found) int { return b.newest.Compare(a.newest) })
	room := max(0, HandshakesMax-l.handshakes())
	for _, f := range fresh[:min(room, len(fresh))] {
		l.queue = append(l.queue, f.id)
	}
	if len(l.queue) > 0 {
		return nil
	}
	return l.sweep(ctx, left)
}

// note adds a connection, or what else is known of the one that is there.
func note(list []found, f found) []found {
	if n := len(list); n > 0 && list[n-1].id == f.id { // names of one connection come together
		last := &list[n-1]
		last.whole = last.whole || f.whole
		if f.newest.After(last.newest) {
			last.newest = f.newest
		}
		return list
	}
	return append(list, f)
}

// leaveOut ends connections whose first piece another run of this node has read: nobody
// can go on with them.
func (l *Listener) leaveOut(fresh []found) []found {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(fresh, func(f found) bool {
		if !f.whole {
			l.ended[f.id] = time.Now()
		}
		return !f.whole
	})
}

// sweep removes what ended connections have left, and forgets those that left nothing.
// What cannot be removed is tried again LeftoverAfter later; what there is no time for,
// after the next look.
func (l *Listener) sweep(ctx context.Context, left map[tidegate.ID]bool) error {
	ctx, cancel := context.WithTimeout(ctx, tidyMax)
	defer cancel()
	l.mu.Lock()
	var gone []tidegate.ID
	for id, since := range l.ended {
		if time.Since(since) >= LeftoverAfter {
			gone = append(gone, id)
		}
	}
	l.mu.Unlock()
	var errs []error
	for _, id := range gone {
		if ctx.Err() != nil {
			break
		}
		var err error
		if left[id] {
			err = l.d.removeAll(ctx, connectionPrefix(l.node, id))
		}
		l.mu.Lock()
		if err == nil {
			delete(l.ended, id)
		} else {
			l.ended[id] = time.Now() // forgotten, it would be taken for a new one
		}
		l.mu.Unlock()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
