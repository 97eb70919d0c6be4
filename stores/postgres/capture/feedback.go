package capture

import (
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/stores/postgres/replication"
)

// feedbackKept is how long what a warm server asked for holds when nothing more is
// heard of it: as long as a PostgreSQL server waits for a standby that is silent
// (wal_sender_timeout). Connectors repeat it every ten seconds.
const feedbackKept = time.Minute

// horizons are the oldest transactions whose rows the reads on warm servers need, by
// node. The zero value knows of none. Pure, and under the capture's mu.
//
// Invariant: known is set before the first of them is kept, and stays.
type horizons struct {
	of    map[tidegate.NodeName]horizon
	known bool // some node was heard of: that none asks for anything any more means something
}

type horizon struct {
	replication.Feedback
	at tidegate.Instant // when it was said last
}

// note takes what a node's warm server asks for; the zero Feedback takes it back.
func (h *horizons) note(now tidegate.Instant, node tidegate.NodeName, f replication.Feedback) {
	h.known = true
	if f == (replication.Feedback{}) {
		delete(h.of, node)
		return
	}
	if h.of == nil {
		h.of = map[tidegate.NodeName]horizon{}
	}
	h.of[node] = horizon{f, now}
}

// oldest returns what covers all of them, after forgetting those of which nothing
// was heard for kept: an away standby must not bloat the server for ever. known is
// false while nobody was ever heard of.
func (h *horizons) oldest(now tidegate.Instant, kept time.Duration) (f replication.Feedback, known bool) {
	for node, one := range h.of {
		if time.Duration(now-one.at) >= kept {
			delete(h.of, node)
			continue
		}
		f = f.Oldest(one.Feedback)
	}
	return f, h.known
}

// hear takes what the agent passes on of a node's warm server. What cannot be read
// is as good as silence: what was asked before holds until it is old.
func (c *Capture) hear(m *local.Feedback) {
	var f replication.Feedback
	if m.Opaque != "" {
		var err error
		if f, err = replication.ParseOpaque(m.Opaque); err != nil {
			c.log.Warn("feedback of a warm server cannot be read", "node", string(m.Node), "err", err)
			return
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.horizons.note(c.clock.Boot(), m.Node, f)
	signal(c.answer)
}

// nextFeedback returns what the server is to be told of the reads on warm servers;
// due is false when it was told already, on this connection. The slot remembers what
// it was told on others: that is left alone until a node was heard of, or could have
// been. mu is held.
func (c *Capture) nextFeedback() (f replication.Feedback, due bool) {
	l := c.link
	if !l.primary {
		return f, false // nothing is kept by a replica for us
	}
	if c.cfg.HotStandbyFeedback {
		now := c.clock.Boot()
		var known bool
		f, known = c.horizons.oldest(now, c.cfg.FeedbackKept)
		if !known && time.Duration(now-l.began) < c.cfg.FeedbackKept {
			return f, false
		}
	}
	if l.fedBack && l.feedback == f {
		return f, false
	}
	l.fedBack, l.feedback = true, f
	return f, true
}
