package apply

import (
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/stores/postgres/replication"
	"github.com/tidegate/tidegate/stores/postgres/wal"
	"github.com/tidegate/tidegate/stores/postgres/walsender"
)

// feedbackEvery is how often what the warm server asks of the primary is said again
// while it holds: who hears nothing of it for long takes the server for gone.
const feedbackEvery = 10 * time.Second

// back is what the warm server says of itself on the stream that feeds it: it
// says so at once, where asking it costs a query. Guarded by the connector's mu.
type back struct {
	session  uint64 // newest one of the walsender's that fed it; 0 while none has
	replayed wal.LSN
	asks     bool // feedback is of this stream
	feedback replication.Feedback
}

// events are what the walsender tells of the warm server. Whoever else reads the log
// over the same socket has another name.
func (c *Connector) events() walsender.Events {
	warm := func(s walsender.Stream, change func(*back)) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if s.Application != c.cfg.Server.Name || s.Session < c.back.session {
			return // a session that the server has given up may end after the next one began
		}
		if s.Session > c.back.session {
			c.back = back{session: s.Session}
		}
		change(&c.back)
	}
	return walsender.Events{
		Status: func(s walsender.Stream, st walsender.Status) {
			warm(s, func(b *back) {
				if st.Apply > b.replayed {
					b.replayed = st.Apply
					ring(c.kick)
				}
			})
			ring(c.asked)
		},
		Feedback: func(s walsender.Stream, f walsender.Feedback) {
			warm(s, func(b *back) {
				b.asks = true
				b.feedback = replication.Feedback{Xmin: f.Xmin, XminEpoch: f.XminEpoch, CatalogXmin: f.CatalogXmin, CatalogXminEpoch: f.CatalogXminEpoch}
				ring(c.kick)
			})
		},
		Ended: func(s walsender.Stream, _ error) {
			warm(s, func(b *back) { *b = back{session: s.Session} })
		},
	}
}

// replayed is how far a server in recovery has come; mu is held.
func (c *Connector) replayed() wal.LSN { return max(c.seen.Replayed, c.back.replayed) }

// saidBack is what a session has said of the warm server's feedback.
type saidBack struct {
	known    bool
	feedback replication.Feedback
	at       tidegate.Instant
}

// feedback returns what the node is to be told of the reads on the warm server; due is
// false while that was said not long ago. A server that stops reading log takes
// nothing back by that: it may be there again in a moment. mu is held.
func (c *Connector) feedback(said *saidBack) (m local.Feedback, due bool) {
	b, now, none := &c.back, c.deps.Clock.Boot(), replication.Feedback{}
	same := said.known && said.feedback == b.feedback
	if !b.asks || same && (b.feedback == none || time.Duration(now-said.at) < feedbackEvery) {
		return m, false
	}
	*said = saidBack{true, b.feedback, now}
	if b.feedback != none {
		m.Opaque = b.feedback.Opaque()
	}
	return m, true
}
