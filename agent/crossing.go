package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/retry"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/shipper/drop"
)

const (
	// crossingEvery is the time between two looks at the lane in use.
	crossingEvery = 200 * time.Millisecond
	// probeEvery is the time between two questions over the live lane while that is not
	// in use, and probeTimeout how long an answer may take: longer, and it is no better.
	probeEvery   = 2 * time.Second
	probeTimeout = 2 * time.Second
	// sleptMin is the shortest time between two looks that means that the machine, or the
	// process, stood still: well beyond a probe and a busy processor.
	sleptMin = 10 * time.Second
)

// foundCrossing names the finding while the archive carries a stream.
const foundCrossing = "crossing-by-archive"

// crossing is by which lane the sessions of one stream go. All methods may be called
// concurrently; without a drop there is one lane, and nothing is kept.
type crossing struct {
	drop *drop.Drop // nil: there is none

	mu     sync.Mutex
	core   cascade
	opened map[io.Closer]lane // sessions that are attached
	failed error              // of the last attempt over the lane in use; nil once one has attached
}

// CrossingStatus is by which lane a stream's sessions go.
type CrossingStatus struct {
	Lane string `json:"lane"` // live or archive
	// Of the archive lane: for how long, why the live one was left, and what keeps it
	// from carrying anything.
	For   time.Duration `json:"for_ns,omitzero"`
	Why   string        `json:"why,omitempty"`
	Error string        `json:"error,omitempty"`
}

// use gives the stream a second lane, before anything is dialled.
func (c *crossing) use(d *drop.Drop, cfg DropConfig) {
	c.drop, c.core, c.opened = d, newCascade(cfg), map[io.Closer]lane{}
}

// tried returns the lane for a session that is about to be opened.
func (c *crossing) tried(now tidegate.Instant) lane {
	if c.drop == nil {
		return laneLive
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.core.tried(now)
	return c.core.lane
}

// outcome takes how an attempt to open a session went. Whoever refuses has answered.
func (c *crossing) outcome(over lane, err error) {
	if c.drop == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil || answered(err) {
		c.core.word(over)
	}
	if over == c.core.lane {
		c.failed = err
	}
}

// answered reports whether an error is the word of a peer: a refusal, or another one
// that no lost connection makes.
func answered(err error) bool {
	_, refused := errors.AsType[*shipper.Refusal](err)
	return refused || tidegate.ClassOf(err) == tidegate.Refused
}

// word says that something has come over a lane.
func (c *crossing) word(over lane) {
	if c.drop == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.core.word(over)
}

// idle says that nobody wants a session.
func (c *crossing) idle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.core.idle()
}

// attached has a session closed when its lane is left, until leave is called; at once if
// it was left already.
func (c *crossing) attached(conn io.Closer, over lane) (leave func()) {
	if c.drop == nil {
		return func() {}
	}
	c.mu.Lock()
	late := over != c.core.lane
	c.opened[conn] = over
	c.mu.Unlock()
	if late {
		_ = conn.Close() // its receiver reports it
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.opened, conn)
	}
}

// step moves the core on; when it takes another lane, the sessions of the one before
// are returned to be closed.
func (c *crossing) step(now tidegate.Instant, waiting time.Duration) (to lane, why string, left []io.Closer, moved bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	moved = c.core.step(now, waiting)
	if moved {
		left = slices.Collect(maps.Keys(c.opened))
		c.failed = nil
	}
	return c.core.lane, c.core.why, left, moved
}

func (c *crossing) slept(now tidegate.Instant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.core.slept(now)
}

func (c *crossing) probed(now tidegate.Instant, answered bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.core.probed(now, answered)
}

// status returns nil without a second lane.
func (c *crossing) status(now tidegate.Instant) *CrossingStatus {
	if c.drop == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	st := &CrossingStatus{Lane: string(c.core.lane)}
	if c.core.lane == laneArchive {
		st.For, st.Why = time.Duration(now-c.core.since), c.core.why
		if c.failed != nil && c.core.mute(now) {
			st.Error = c.failed.Error()
		}
	}
	return st
}

// finding tells an operator that the archive carries the stream.
func (st *CrossingStatus) finding(d *drop.Drop) (f local.Finding, some bool) {
	if st == nil || st.Lane != string(laneArchive) {
		return f, false
	}
	f = local.Finding{
		Name: foundCrossing, Severity: local.SeverityWarning, Class: tidegate.Transient,
		Text: fmt.Sprintf("crosses by the archive %s for %s: %s", d, st.For.Round(time.Second), st.Why),
		Hint: "repair the live crossing; the stream goes back to it by itself. Until then each acknowledgement takes seconds",
	}
	if st.Error != "" {
		f.Severity = local.SeverityCritical
		f.Text += "; nor does it carry anything: " + st.Error
		f.Hint = "repair the live crossing or the archive: nothing gets across, and the gate holds outputs back within the stream's bounds"
	}
	return f, true
}

// dial opens a ship session with a node by the lane that is in use.
func (s *stream) dial(ctx context.Context, node tidegate.NodeName, addr string, limits shipper.Limits, a shipper.Attach) (*shipper.Conn, shipper.Attached, lane, error) {
	over := s.crossing.tried(s.agent.clk.Boot())
	ctx, cancel := context.WithCancel(ctx) // the attempt is given up
	defer cancel()
	d := s.agent.dialer(node, limits)
	if over == laneArchive {
		d.Limits = drop.Limits(d.Limits)
		var kept func() bool
		d.Connect, kept = s.throughDrop(ctx, node)
		defer kept()
	}
	defer s.crossing.attached(&attempt{cancel}, over)()
	conn, attached, err := d.Dial(ctx, addr, a)
	if ctx.Err() == nil {
		s.crossing.outcome(over, err)
	}
	return conn, attached, over, err
}

// throughDrop returns what opens a connection by the archive. Unless kept is called before
// ctx ends, the connection is aborted then: what came late would take the place of the
// session that there is by that time.
func (s *stream) throughDrop(ctx context.Context, node tidegate.NodeName) (connect func(context.Context, string) (net.Conn, error), kept func() bool) {
	stop := func() bool { return true }
	connect = func(dial context.Context, _ string) (net.Conn, error) {
		nc, err := s.crossing.drop.Dial(dial, node)
		if err == nil {
			stop = context.AfterFunc(ctx, func() { drop.Abort(nc) })
		}
		return nc, err
	}
	return connect, func() bool { return stop() }
}

// pause waits before the next attempt, until ctx ends; a new lane is tried at once.
func (s *stream) pause(ctx context.Context, b *retry.Backoff) error {
	if s.crossing.drop == nil {
		return b.Wait(ctx)
	}
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	s.crossing.mu.Lock()
	over := s.crossing.core.lane
	s.crossing.mu.Unlock()
	defer s.crossing.attached(&attempt{cancel}, over)()
	if b.Wait(wait) != nil {
		b.Reset()
	}
	return ctx.Err()
}

// attempt is one under way or awaited: it is given up like a session that is attached.
type attempt struct{ cancel context.CancelFunc }

func (a *attempt) Close() error {
	a.cancel()
	return nil
}

// keepCrossing changes lanes until ctx ends.
func (s *stream) keepCrossing(ctx context.Context) error {
	c := &s.crossing
	if c.drop == nil {
		return nil
	}
	ticker := time.NewTicker(crossingEvery)
	defer ticker.Stop()
	var asked tidegate.Instant
	looked := s.agent.clk.Boot()
	for try := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		now := s.agent.clk.Boot()
		if time.Duration(now-looked) >= sleptMin {
			c.slept(now)
		}
		looked = now
		w := s.writer.Load()
		if w == nil && !s.wantsSession() {
			c.idle()
		}
		to, why, left, moved := c.step(now, w.waiting(now))
		if moved {
			s.moved(to, why, left)
		}
		if to == laneArchive && time.Duration(now-asked) >= probeEvery {
			asked = now
			ok := s.probe(ctx, try)
			if !ok {
				try++ // another node, the next time
			}
			c.probed(s.agent.clk.Boot(), ok)
		}
	}
}

// moved is what a change of lanes brings: whoever has a session opens another one.
func (s *stream) moved(to lane, why string, left []io.Closer) {
	if to == laneArchive {
		s.log.Warn("crossing by the archive", "bucket", s.crossing.drop.String(), "why", why)
	} else {
		s.log.Info("crossing live again")
	}
	s.meters.laneChanges.Inc()
	for _, conn := range left {
		_ = conn.Close() // its receiver reports it
	}
	if w := s.writer.Load(); w != nil {
		wake(w.redial)
	}
}

// wantsSession reports whether the stream is observed now.
func (s *stream) wantsSession() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lib.conn != nil && s.view.rec.ActiveEpoch > 0
}

// probe asks one of the standby nodes over the live lane whether it is there.
func (s *stream) probe(ctx context.Context, try int) bool {
	s.mu.Lock()
	members := s.view.rec.Config.Members
	s.mu.Unlock()
	if len(members) == 0 {
		return false
	}
	node := members[try%len(members)].Node
	addr, ok := s.address(node)
	if !ok {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	return s.agent.dialer(node, shipper.Limits{}).Probe(ctx, addr) == nil
}

// waiting returns for how long the oldest batch that was sent has been on its way to the
// relay: 0 if all have arrived, or the relay has answered what was sent behind it and is
// what is slow; 0, too, if there is no writer or no session.
func (w *writer) waiting(now tidegate.Instant) time.Duration {
	if w == nil {
		return 0
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.link
	if l == nil || w.ring == nil {
		return 0
	}
	it, ok := w.ring.get(max(l.stored, w.ring.floor.seq) + 1)
	if !ok || it.seq > l.through {
		return 0
	}
	since := max(it.sent, l.began)
	if l.conn.Answered() > since {
		return 0
	}
	return time.Duration(now - since)
}
