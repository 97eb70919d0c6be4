package capture

import (
	"context"
	"time"

	"github.com/tidegate/tidegate/stores/postgres/replication"
)

const (
	// proofMax is how long a look waits for a proof; the next one goes on with it.
	proofMax   = time.Second
	proofEvery = 5 * time.Millisecond
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
	err     error         // once done is closed
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
// leak that stands while it does not. It is seen by a commit that waits, a client's or
// one of our own. Nothing new is told of what is durable meanwhile, so that ours can
// neither wait too briefly to be seen nor come back for having waited. Errors are of
// the sessions with the server.
func (c *Capture) prove(ctx context.Context, sql *replication.SQL, names string) (leak, error) {
	c.mu.Lock()
	l := c.link
	c.mu.Unlock()
	p := &c.proof
	if l == nil || p.stands(l, names) {
		return leak{}, nil
	}
	c.freeze(l, true)
	defer c.freeze(l, false)
	enough := time.NewTimer(proofMax) // not of what the server is asked: it may be slow
	defer enough.Stop()
	tick := time.NewTicker(proofEvery)
	defer tick.Stop()
	for ours := false; ; { // the mark was begun while nothing was told
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
			ours = true
		}
		select {
		case <-ctx.Done():
			return unproven, ctx.Err()
		case <-enough.C:
			return unproven, nil
		case <-tick.C:
		case <-p.mark.done:
			err, went := p.mark.err, ours
			p.mark = nil
			if err != nil || went {
				return unproven, err
			}
		}
	}
}

// freeze has nothing new told of what is durable, or lets it be told again.
func (c *Capture) freeze(l *link, frozen bool) {
	c.mu.Lock()
	l.frozen = frozen
	c.mu.Unlock()
	signal(c.answer)
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
		m.err = session.Mark()
		_ = session.Close() // it has said what it had to
	}()
	return m, nil
}
