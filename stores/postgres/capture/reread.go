package capture

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidegate/tidegate/stores/postgres/replication"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// rereadIdle is how long a second connection may stand unused: a server that shuts
// down waits until all receivers have taken its log.
const rereadIdle = 3 * time.Second

// reread is a second connection, opened when it is needed. For one goroutine.
type reread struct {
	c    *Capture
	ctx  func() context.Context // of whoever opened it: it ends the connection
	s    *replication.Stream
	at   wal.LSN // of rest, or of what comes next
	rest []byte  // of the message at hand
	idle *time.Timer
	stop func() bool
}

func newReread(ctx context.Context, c *Capture) *reread {
	return &reread{c: c, ctx: func() context.Context { return ctx }}
}

// under returns r, or a new one if r is nil, whose connection ends with ctx.
func (r *reread) under(ctx context.Context, c *Capture) *reread {
	if r == nil {
		return newReread(ctx, c)
	}
	r.ctx = func() context.Context { return ctx }
	if r.s != nil {
		r.stop()
		r.stop = r.guard(ctx)
	}
	return r
}

func (r *reread) guard(ctx context.Context) func() bool {
	s := r.s
	return context.AfterFunc(ctx, func() { _ = s.Close() }) // Receive reports it
}

// read copies at least a byte of the server's log at at into dst; the caller knows
// that the server has flushed it.
func (r *reread) read(p place, at wal.LSN, dst []byte) (int, error) {
	for {
		if r.s == nil || r.at != at {
			if err := r.open(p, at); err != nil {
				return 0, r.c.trimmed(at, err)
			}
		}
		r.idle.Reset(rereadIdle)
		if len(r.rest) > 0 {
			n := copy(dst, r.rest)
			r.rest, r.at = r.rest[n:], r.at+wal.LSN(n)
			return n, nil
		}
		m, err := r.s.Receive()
		if end := (*replication.TimelineEnd)(nil); errors.As(err, &end) {
			r.close()
			continue // the next timeline is asked for by the place
		}
		if err != nil {
			r.close()
			return 0, r.c.trimmed(at, err)
		}
		if m.End < at {
			r.close()
			return 0, diverged("the server's log ends at %s, and what is read lies at %s", m.End, at)
		}
		r.rest = m.Data
	}
}

func (r *reread) open(p place, at wal.LSN) error {
	r.close()
	ctx := r.ctx()
	server := r.c.cfg.server(r.c.cfg.Name + "_reread")
	server.System = p.system
	conn, err := replication.Connect(ctx, server)
	if err != nil {
		return err
	}
	s, err := conn.Start(ctx, replication.StartOptions{Timeline: p.lineage.TimelineAt(at), From: at})
	if err != nil {
		return fmt.Errorf("reread log at %s: %w", at, err)
	}
	r.s, r.at, r.rest = s, at, nil
	r.stop = r.guard(ctx)
	r.idle = time.AfterFunc(rereadIdle, func() { _ = s.Close() }) // the next read opens another
	return nil
}

// close ends the connection, if there is one; nil is none.
func (r *reread) close() {
	if r == nil || r.s == nil {
		return
	}
	r.stop()
	r.idle.Stop()
	_ = r.s.Close() // only read from
	r.s, r.rest = nil, nil
}
