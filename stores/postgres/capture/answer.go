package capture

import (
	"context"
	"sync"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/release"
	"github.com/tidegate/tidegate/rpo"
	"github.com/tidegate/tidegate/stores/postgres/replication"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// link is one connection on which log is streamed. All under the capture's mu but
// stream and answering.
type link struct {
	stream    *replication.Stream
	answering sync.Mutex         // held from reading off what to tell until it is told; before mu
	confirmed wal.LSN            // last record end that this connection has shown
	told      replication.Status // newest answer
	heard     tidegate.Instant   // the server's newest word
	primary   bool               // out of recovery, as the connection was made
	slotted   bool               // it goes by our slot
	again     bool               // closed by us, to begin anew
	frozen    bool               // flush stays as it was told
	ready     bool               // log is captured from it, and all of what it had flushed at first was received
	began     tidegate.Instant
	feedback  replication.Feedback // newest that the server was told, if fedBack
	fedBack   bool
}

// next returns what the server is to be told now; write is released as it is read
// off the ceiling. news is false when it was told before. mu is held.
func (c *Capture) next() (st replication.Status, news bool) {
	l := c.link
	st = l.told
	if !l.primary {
		st = c.reserved(st)
		news = st != l.told
		l.told = st
		return st, news
	}
	if c.gate.Ceiling == nil || c.gate.Out.Sealed {
		return st, false
	}
	now := c.clock.Boot()
	d, known := c.gate.Ceiling.D()
	if known && wal.LSN(d) < c.least {
		return st, false // it is of the generation before
	}
	if known && !l.frozen {
		st.Flush = max(st.Flush, min(wal.LSN(d), l.confirmed))
	}
	write := min(wal.LSN(c.gate.Ceiling.Permits(now)), l.confirmed, wal.LSN(c.gate.Head.Position))
	if write > st.Write && c.gate.Ceiling.Release(now, write.Position()) {
		st.Write = write
		if write.Position() > d {
			c.gate.Step(now)
			signal(c.report)
		}
	}
	// What a warm server has shown once was shown, whatever becomes of that server. Of
	// a term that is over, nothing new is taken for it.
	st.Apply = max(st.Apply, min(wal.LSN(c.gate.Terms.Applied), st.Flush))
	st.Write = max(st.Write, st.Flush) // what is durable there was written there
	news = st != l.told
	l.told = st
	return st, news
}

// answerAll answers the server when somebody asks for it, and each second, until ctx
// ends or the connection is lost.
func (c *Capture) answerAll(ctx context.Context, l *link) error {
	tick := time.NewTicker(answerEvery)
	defer tick.Stop()
	for {
		due := false
		select {
		case <-ctx.Done():
			return nil
		case <-c.answer:
		case <-tick.C:
			due = true
		}
		l.answering.Lock()
		err := c.tellServer(l, due)
		l.answering.Unlock()
		if err != nil {
			return err
		}
	}
}

// answerNow answers the server on the caller's goroutine: it has brought what a
// client waits for, and a change of goroutine is a part of what that one sees. When
// another goroutine is at it, it is asked to look again. nil is no connection.
func (c *Capture) answerNow(l *link) {
	if l == nil {
		return
	}
	if !l.answering.TryLock() {
		signal(c.answer)
		return
	}
	defer l.answering.Unlock()
	// A server that is gone has said why: the receiver hears it out.
	if err := c.tellServer(l, false); tidegate.ClassOf(err) == tidegate.Misuse {
		_ = l.stream.Close() // the receiver reports the end
	}
}

// tellServer sends what is new, and when it is due what is so, and then asks for an
// answer. What is told was released before. answering is held.
func (c *Capture) tellServer(l *link, due bool) error {
	c.mu.Lock()
	if c.link != l {
		c.mu.Unlock()
		return nil
	}
	at := time.Now() // the process's own clock: a suspend in between shows in neither
	st, news := c.next()
	asked, asks := c.nextFeedback()
	c.mu.Unlock()
	if news {
		if err := l.stream.Status(st); err != nil {
			return err
		}
		c.noteSlack(time.Since(at))
	}
	if asks {
		if err := l.stream.Feedback(asked); err != nil {
			return err
		}
	}
	if due {
		// A server that has nothing to send says nothing: its answer tells idle from
		// broken.
		return l.stream.Ping()
	}
	return nil
}

// unheardMax is how long the server may be silent before it is not known what it let
// go: it is asked each second.
const unheardMax = 5 * time.Second

// unheard reports whether commits may go on of which nothing is known here: the
// server lets them go without our answer, and has not been heard for too long; mu is
// held.
func (c *Capture) unheard(now tidegate.Instant) bool {
	return c.link != nil && c.leak.why != "" && time.Duration(now-c.link.heard) > unheardMax
}

// exposure is what a disaster would lose now; mu is held.
func (c *Capture) exposure(now tidegate.Instant) rpo.Exposure {
	if c.unheard(now) {
		return (&release.Gate{}).Exposure(now) // unknown
	}
	return c.gate.Exposure(now)
}

// noteSlack keeps the longest time from a release's clock reading to the answer's
// leaving this process: the epsilon by which the loss window can exceed T.
func (c *Capture) noteSlack(took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slack = max(c.slack, took)
}
