package apply

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// node is a scripted standby daemon: it says what package standby would say, over
// the real socket, with the batches of an origin.
type node struct {
	t  *testing.T
	ln *local.Listener
	o  *origin

	mu       sync.Mutex
	conn     *local.Conn // newest session
	sessions int
	feeds    int // sessions that were fed
	epoch    tidegate.Epoch
	follow   bool
	of       tidegate.Generation // of the log
	h        wal.LSN             // of the promotion that was ordered; 0: none
	tells    tidegate.Lineage    // the log's, to a connector that offers nothing
	source   local.Source        // what the record says of the server beside it
	limit    wal.LSN             // nothing beyond is committed; 0: no limit
	from     wal.LSN             // the log was trimmed of what ends before
	told     local.Role
	progress local.LibraryProgress
	heard    bool
	active   bool
	lineage  tidegate.Lineage // of Activated
	hello    local.Hello
	finding  string
	asked    string // of the primary, by the warm server
	changed  chan struct{}
}

func newNode(t *testing.T, o *origin, run string) *node {
	t.Helper()
	n := &node{t: t, o: o, epoch: 3, of: 1, changed: make(chan struct{})}
	n.listen(run)
	return n
}

func (n *node) listen(run string) {
	ln, err := local.Listen(local.SocketPath(run, local.DaemonStandby, "shop", "orders"))
	if err != nil {
		n.t.Fatal(err)
	}
	n.ln = ln
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { n.serve(c) })
		}
	})
	n.t.Cleanup(func() {
		_ = ln.Close()
		n.mu.Lock()
		if n.conn != nil {
			_ = n.conn.Close()
		}
		n.mu.Unlock()
		wg.Wait()
	})
}

// change changes what the node thinks.
func (n *node) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *node) serve(c *local.Conn) {
	h, err := c.Serve(context.Background(), local.Welcome{Daemon: local.DaemonStandby, Node: "dr1"}, nil)
	if err != nil {
		return
	}
	n.change(func() {
		if n.conn != nil {
			_ = n.conn.Close()
		}
		n.conn, n.hello, n.heard, n.active, n.told, n.finding = c, h, false, false, local.Role{}, ""
		n.progress = local.LibraryProgress{}
		n.sessions++
	})
	var wg sync.WaitGroup
	wg.Go(func() { n.feed(c, h) })
	for {
		m, err := c.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				n.t.Logf("connector went away: %v", err)
			}
			break
		}
		n.hear(c, m)
	}
	n.change(func() {
		if n.conn == c {
			n.conn, n.active, n.heard = nil, false, false
		}
	})
	_ = c.Close()
	wg.Wait()
}

func (n *node) hear(c *local.Conn, m local.Message) {
	n.change(func() {
		if n.conn != c {
			return
		}
		switch m := m.(type) {
		case *local.Activated:
			n.active, n.heard, n.lineage = true, true, m.Lineage
		case *local.Deactivated:
			n.active = false
		case *local.LibraryProgress:
			n.progress, n.heard = *m, true
		case *local.Finding:
			n.finding = m.Text
		case *local.Feedback:
			n.asked = m.Opaque
		}
	})
}

// role is what standby's part says.
func (n *node) role(lineage tidegate.Lineage, committed wal.LSN) local.Role {
	r := local.Role{State: local.StateIdle, Epoch: n.epoch, Lineage: lineage, Generation: n.of, Source: n.source}
	switch {
	case n.h != 0 && (n.active || n.progress.Applied >= n.h.Position()):
		r.State, r.ApplyTo, r.Branch = local.StateActive, n.h.Position(), n.h.Position()
	case n.h != 0:
		r.State, r.ApplyTo = local.StateFollow, n.h.Position()
	case n.follow:
		r.State, r.ApplyTo = local.StateFollow, committed.Position()
	}
	return r
}

func (n *node) feed(c *local.Conn, h local.Hello) {
	lineage := h.Lineage
	n.mu.Lock()
	if lineage == "" {
		lineage = n.tells
	}
	n.mu.Unlock()
	at, i, fed := wal.LSN(h.End), 0, false
	for {
		entries, more := n.o.entries(i)
		n.mu.Lock()
		changed, mine, heard := n.changed, n.conn == c, n.heard
		bound, from := n.limit, n.from
		if n.h != 0 {
			bound = n.h
		}
		committed := n.o.end()
		if bound != 0 {
			committed = min(committed, bound)
		}
		role := n.role(lineage, committed)
		fits := h.Generation == 0 || h.Generation == n.of
		n.mu.Unlock()
		if !mine {
			return
		}
		if heard && !n.tell(c, role) {
			return
		}
		if heard && role.State == local.StateFollow && !h.Rest && fits {
			if !fed {
				fed = true
				n.change(func() { n.feeds++ })
				continue
			}
			for _, e := range entries {
				if bound != 0 && e.next > bound {
					break
				}
				i++
				if e.lineage != "" {
					if e.next >= at || e.next == 0 {
						lineage = e.lineage
					}
					role.Lineage = lineage
					if !n.tell(c, role) {
						return
					}
					continue
				}
				if e.next <= max(at, from) {
					continue
				}
				m := &local.Batch{Epoch: 1, Seq: tidegate.Seq(i), First: e.first.Position(), Next: e.next.Position(), Records: 1, Payload: e.bytes}
				if c.Send(m) != nil {
					return
				}
			}
		}
		select {
		case <-changed:
		case <-more:
		case <-n.t.Context().Done():
			return
		}
	}
}

func (n *node) tell(c *local.Conn, r local.Role) bool {
	n.mu.Lock()
	same := n.told == r
	n.told = r
	n.mu.Unlock()
	return same || c.Send(&r) == nil
}

// cut ends what is committed where the log is now, and returns the place: H of a
// promotion, whatever the primary goes on to write.
func (n *node) cut() (h wal.LSN) {
	n.change(func() {
		h = n.o.end()
		n.limit = h
	})
	return h
}

// promote orders the promotion and waits until the connector says that it is done.
func (n *node) promote(h wal.LSN) {
	n.t.Helper()
	n.change(func() { n.h, n.epoch = h, n.epoch+1 })
	n.until("the warm server to be active", func() bool { return n.active })
}

// until waits for something that the node has heard.
func (n *node) until(what string, ok func() bool) {
	n.t.Helper()
	pgtest.Until(n.t, what, func(context.Context) error {
		n.mu.Lock()
		defer n.mu.Unlock()
		if !ok() {
			return errors.New("applied " + wal.LSN(n.progress.Applied).String() + ", finding " + n.finding)
		}
		return nil
	})
}
