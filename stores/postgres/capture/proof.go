package capture

import (
	"context"
	"time"

	"github.com/tidegate/tidegate/stores/postgres/replication"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

const (
	// proofMax is how long a look waits for a proof; the next one goes on with it.
	proofMax   = time.Second
	proofEvery = 10 * time.Millisecond
)

// unproven stands while the server says that it waits, and has not been seen to.
var unproven = leak{
	"the server has not been seen to hold a commit back since synchronous_standby_names was set",
	"its checkpointer puts the names in force, after what it is writing now; this ends by itself, and at the latest with the checkpoint",
}

// proof is that a server holds commits back. What it shows of its settings is what
// each of its processes has read for itself; commits wait from when the checkpointer
// has (SyncRepUpdateSyncStandbysDefined in syncrep.c), which may take as long as a
// checkpoint's syncs do. Of the watch's goroutine alone.
type proof struct {
	link  *link  // on which the server waits for us
	names string // that it waits by
	mark  *mark  // commit of our own that shows it; nil while none is under way
}

// mark is a commit of our own.
type mark struct {
	session *replication.Marker
	done    chan struct{} // closed when the server has confirmed it, or failed
	at      wal.LSN       // of the commit, or before; once done is closed
	err     error         // likewise
}

// stands reports whether the server was seen to wait by these names on this link.
func (p *proof) stands(l *link, names string) bool { return p.link == l && p.names == names }

// end gives up what is under way.
func (p *proof) end() {
	if p.mark != nil {
		p.mark.session.Cut()
		<-p.mark.done
	}
	*p = proof{}
}

// prove sees whether a server that should hold commits back does, and returns the
// leak that stands while it does not. One that waits is seen to; a commit of our own
// is there to be waited with, and when it came back, what the server was told by then
// must cover it. Errors are of the sessions with the server.
func (c *Capture) prove(ctx context.Context, sql *replication.SQL, names string) (leak, error) {
	c.mu.Lock()
	l := c.link
	c.mu.Unlock()
	p := &c.proof
	if l == nil || p.stands(l, names) {
		return leak{}, nil
	}
	enough := time.NewTimer(proofMax) // not of what the server is asked: it may be slow
	defer enough.Stop()
	tick := time.NewTicker(proofEvery)
	defer tick.Stop()
	for {
		waiting, err := sql.Waiting(ctx)
		if err != nil {
			return unproven, err
		}
		if len(waiting) > 0 {
			p.link, p.names = l, names
			return leak{}, nil
		}
		if p.mark == nil {
			if p.mark, err = c.newMark(ctx); err != nil {
				return unproven, err
			}
		}
		select {
		case <-ctx.Done():
			return unproven, ctx.Err()
		case <-enough.C:
			return unproven, nil
		case <-tick.C:
		case <-p.mark.done:
			at, err := p.mark.at, p.mark.err
			p.mark = nil
			if err != nil || !c.told(l, at) {
				return unproven, err
			}
			p.link, p.names = l, names
			return leak{}, nil
		}
	}
}

// told reports whether the server was told on l that the other site has a place.
func (c *Capture) told(l *link, at wal.LSN) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link == l && l.told.Flush >= at
}

// newMark begins a commit.
func (c *Capture) newMark(ctx context.Context) (*mark, error) {
	c.mu.Lock()
	server := c.cfg.server(c.cfg.Name + "_mark")
	c.mu.Unlock()
	session, err := replication.ConnectMarker(ctx, server)
	if err != nil {
		return nil, err
	}
	m := &mark{session: session, done: make(chan struct{})}
	go func() { // owned by c.proof; ends when the server confirms, or when end cuts the session
		defer close(m.done)
		m.at, m.err = session.Mark()
		_ = session.Close() // it has said what it had to
	}()
	return m, nil
}
