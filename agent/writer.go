package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/shipper"
)

// heartbeatEvery is how long a stream may be quiet before a batch says so.
const heartbeatEvery = time.Second

// writer is one term: everything between a record that names this agent and
// the proof that it is over. It never outlives its epoch, and no second writer
// is made for the same one: a batch's bytes and seq exist only in this ring.
//
// Goroutines of run: seal (the only one that seals, sends and writes the
// arena), link (dials relays and receives), tick (beacons), gate (records
// what the gate must know), and base
// (takes one, if the standby nodes lack it). mu is held for bookkeeping only, never across I/O.
type writer struct {
	s      *stream
	stream tidegate.StreamID
	epoch  tidegate.Epoch
	log    *slog.Logger

	kick    chan struct{} // the sealing goroutine has something to look at; capacity 1
	redial  chan struct{} // the core wants another relay; capacity 1
	settle  chan struct{} // the gate's record may have to change; capacity 1
	proven  chan struct{} // closed by the link goroutine once ring and start are set
	isReady atomic.Bool   // proven is closed

	mu        sync.Mutex
	core      *fence.Writer
	revision  int64
	ring      *ring
	gen       tidegate.Generation
	start     tidegate.Position // where this term's first batch begins
	entry     tidegate.Seq      // first batch of a generation that this term opens and that has a base; 0 when it goes on with one
	link      *link
	dial      tidegate.NodeName // relay that the core wants
	ended     bool              // the core has stepped down
	paused    bool
	starved   bool             // the ring had no room when the sealing goroutine asked last
	terms     fence.GateRecord // the gate's part of the record
	phase     fence.State      // of the record: active, switching or demoted
	target    fence.Holder     // of a switchover that is under way
	wantMode  tidegate.Mode    // what the operator wants; empty when the gate did not say
	want      tidegate.Bounds  // of that mode
	wantLease time.Duration
	claimed   claim // what the record was asked to say last
	policy    tidegate.Policy
	brake     brake
	sent      local.DaemonProgress // newest grant
	since     grantNumbers
	hand      handover
	applied   map[tidegate.NodeName]tidegate.Seq // by standby nodes, as they say; kept while a switchover is under way
	base      *pushing                           // nil while none is on its way
	warm      map[tidegate.NodeName]warmCopy     // as the nodes say
	hbDue     bool
	sealedAt  tidegate.Instant // of the last batch
	meter     meter
}

// link is one session with a relay.
type link struct {
	conn *shipper.Conn
	node tidegate.NodeName
	next tidegate.Seq // first batch that has not been sent; the sealing goroutine's
	put  bool         // something was sent and not flushed; the sealing goroutine's

	over   lane
	began  tidegate.Instant
	stored tidegate.Seq // by the relay, as far as it has said; under the writer's mu
	// The newest batch that the session has taken; under the writer's mu. next is beyond it
	// while a batch waits for credit, for which the crossing is not to blame.
	through tidegate.Seq
}

func newWriter(s *stream, rec fence.EpochRecord, revision int64) (*writer, error) {
	self := fence.Holder{Node: s.agent.cfg.Node.Name, Site: s.agent.cfg.Node.Site, UUID: s.agent.holder}
	core, err := fence.NewWriter(self, rec)
	if err != nil {
		return nil, err
	}
	w := &writer{
		s: s, stream: rec.Stream, epoch: rec.Epoch, core: core, revision: revision,
		log:    s.log.With("epoch", rec.Epoch.String()),
		kick:   make(chan struct{}, 1),
		redial: make(chan struct{}, 1),
		settle: make(chan struct{}, 1),
		proven: make(chan struct{}),
		meter:  newMeter(),
		terms:  rec.Gate, phase: rec.State,
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w.wish(s.view)
	if s.lib.known {
		w.meter.library(s.agent.clk.Boot(), &s.lib.progress)
	}
	return w, nil
}

// wish takes what the operator wants of the stream; mu is held, or nobody else
// has w yet.
func (w *writer) wish(v streamView) {
	w.paused = v.paused
	if v.mode != "" {
		// A view that does not tell, because the stream is missing from it, takes
		// nothing back: least of all a bound.
		w.wantMode, w.want, w.wantLease = v.mode, v.bounds, v.lease
		w.policy, w.brake = v.policy, v.brake
	}
}

// run writes until the epoch is over (an error that wraps tidegate.ErrFenced),
// the log turns out not to be the one that was shipped (tidegate.ErrDiverged),
// or ctx ends.
func (w *writer) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	w.mu.Lock()
	effects := w.effects(w.core.Start())
	w.mu.Unlock()
	w.do(effects)
	g.Go(func() error { return w.seal(ctx) })
	g.Go(func() error { return w.keepLink(ctx) })
	g.Go(func() error { return w.tick(ctx) })
	g.Go(func() error { return w.keepRecord(ctx) })
	g.Go(func() error { return w.keepBase(ctx) })
	err := g.Wait()
	if w.handedOver() && w.over() != nil {
		return nil // of its own will: nobody took anything from it
	}
	if by, over := w.fencedBy(); over {
		return &tidegate.Error{
			Op: "write stream", Subject: string(w.s.cfg.Stream), Class: tidegate.Fenced,
			Hint: "`tidegate status` shows who holds the stream now",
			Err:  fmt.Errorf("epoch %s: %w (%s)", w.epoch, tidegate.ErrFenced, by),
		}
	}
	return err
}

// wake makes a goroutine look again; ch has capacity 1.
func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// todo is what the core's effects ask for, taken down under the lock.
type todo struct {
	over      bool
	redial    bool
	settle    bool
	leave     *shipper.Conn // session with a relay that is not wanted any more
	distrusts []fence.Distrusted
}

// effects takes the core's effects; mu is held.
func (w *writer) effects(list []fence.WriterEffect) (t todo) {
	for _, e := range list {
		switch e := e.(type) {
		case fence.DialRelay:
			w.dial, t.redial = e.Node, true
			if w.link != nil && w.link.node != e.Node {
				t.leave = w.link.conn
			}
		case fence.ShipFrom:
			if w.link != nil && w.link.node == e.Node {
				w.link.next = e.Seq
			}
		case fence.SteppedDown:
			w.ended, t.over = true, true
		case fence.Distrusted:
			t.distrusts = append(t.distrusts, e)
		case fence.CaughtUp:
			t.settle = true
		}
	}
	return t
}

// do carries out what effects took down; mu is not held.
func (w *writer) do(t todo) {
	for _, d := range t.distrusts {
		w.log.Error("standby node no longer counts", "node", string(d.Member.Node), "why", d.Why)
	}
	if t.leave != nil {
		_ = t.leave.Close() // its receiver dials the next relay
	}
	if t.redial || t.over {
		wake(w.redial)
	}
	if t.settle {
		wake(w.settle)
	}
	if t.over {
		// The library must hear of it before anything else is awaited.
		w.s.tellRole()
		wake(w.kick)
		wake(w.settle)
	}
}

func (w *writer) fencedBy() (fence.Promise, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.core.Fenced()
}

// errOver ends the writer's goroutines once the core has stepped down; run
// turns it into the error that callers see.
var errOver = errors.New("the epoch is over")

func (w *writer) over() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return errOver
	}
	return nil
}

// writing reports whether the term is under way: proven and not fenced.
func (w *writer) writing() bool { return w.isReady.Load() && w.over() == nil }

// durable returns what is known of D.
func (w *writer) durable() facts {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ring == nil {
		head := w.core.Record().Head
		return facts{seq: head.Seq, chain: head.Chain}
	}
	return w.ring.durable
}

// onAck counts a node's statement. When D moves the library hears of it at
// once; commit follows to the standby nodes.
func (w *writer) onAck(l *link, a fence.Ack) {
	now := w.s.agent.clk.Boot()
	w.mu.Lock()
	t := w.effects(w.core.OnAck(a))
	if a.Node == l.node {
		l.stored = max(l.stored, a.Stored)
	}
	if w.ring != nil {
		w.ring.state(a.Node, a.Durable)
	}
	w.noteApplied(a)
	applied := w.noteWarm(a)
	d, moved, room := w.advance(now)
	room = room && w.starved
	w.starved = w.starved && !room
	draining := w.phase == fence.StateSwitching
	w.mu.Unlock()
	if moved {
		w.s.tellGrant()
		_ = l.conn.SendCommit(d) // a lost session is the receiver's to report; the next commit covers this one
	} else if applied && w.s.asksBack() {
		w.s.tellGrant()
	}
	if room {
		wake(w.kick)
	}
	w.do(t)
	if draining {
		w.s.service.pokeSwitch()
	}
}

// advance brings ring and meter to the core's D, and lets go of what W nodes have
// stored; mu is held. room: something went from the ring.
func (w *writer) advance(now tidegate.Instant) (d tidegate.Seq, moved, room bool) {
	d = w.core.Durable()
	if w.ring == nil {
		return d, false, false
	}
	if w.ring.settle(d) {
		moved = true
		if it, ok := w.ring.get(d); ok {
			w.s.meters.roundTrip.Observe(time.Duration(now - it.at).Seconds())
		}
	}
	room = w.ring.trim(w.core.Floor()-1) > 0
	if moved {
		w.meter.durable(now, w.ring.durable)
	}
	return d, moved, room
}

// libraryMoved takes the library's progress: more to capture, more released.
func (w *writer) libraryMoved(p *local.LibraryProgress) {
	w.mu.Lock()
	was := w.meter.lib
	w.meter.library(w.s.agent.clk.Boot(), p)
	draining := w.phase == fence.StateSwitching
	w.mu.Unlock()
	wake(w.kick)
	if p.Want != was.Want || p.Grant != was.Grant || p.Gate != was.Gate {
		wake(w.settle)
	}
	if draining {
		w.s.service.pokeSwitch()
	}
}

// libraryLost says that what is released is not known any more.
func (w *writer) libraryLost() {
	w.mu.Lock()
	w.meter.lost(w.s.agent.clk.Boot())
	w.mu.Unlock()
}

// recordChanged takes a new view of the stream.
func (w *writer) recordChanged(v streamView) {
	w.mu.Lock()
	var t todo
	if now := v.sighting(); v.rec.Version != 0 && !now.Older(&fence.Sighting{Record: w.core.Record(), Revision: w.revision}) {
		w.revision = v.revision
		t = w.effects(w.core.OnRecord(v.rec))
		w.advance(w.s.agent.clk.Boot())
		w.follow(v.rec)
	}
	w.wish(v)
	w.mu.Unlock()
	w.do(t)
	w.s.tellGrant()
	wake(w.settle)
	wake(w.kick)
	w.s.service.pokeLease()
	w.s.service.pokeSwitch()
}

// follow takes down what the record says of this epoch; mu is held.
func (w *writer) follow(rec fence.EpochRecord) {
	if rec.Epoch != w.epoch || rec.Holder.UUID != w.s.agent.holder {
		return
	}
	switch rec.State {
	case fence.StateActive, fence.StateSwitching, fence.StateDemoted:
		if rec.State != w.phase {
			w.log.Info("record changed", "from", string(w.phase), "to", string(rec.State), "target", rec.Target.String())
		}
		if rec.State == fence.StateActive {
			w.hand, w.applied = handover{}, nil // called off
		}
		w.terms, w.phase, w.target = rec.Gate, rec.State, rec.Target
	case fence.StateFencing, fence.StateRecovering:
	}
}

// tick sends beacons and marks when a heartbeat is due.
func (w *writer) tick(ctx context.Context) error {
	ticker := time.NewTicker(shipper.BeaconEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		now := w.s.agent.clk.Boot()
		w.mu.Lock()
		l := w.link
		if w.ring != nil && time.Duration(now-w.sealedAt) >= heartbeatEvery {
			w.hbDue = true
		}
		due := w.hbDue
		b := w.meter.beacon(now)
		b.Epoch, b.Generation, b.Wall = w.epoch, w.gen, w.s.agent.clk.Wall()
		ready := w.ring != nil
		if l != nil && ready {
			b.Lease = w.askNodes(now)
		}
		w.mu.Unlock()
		if l != nil && ready {
			_ = l.conn.SendBeacon(b) // the receiver reports a lost session
		}
		if due {
			wake(w.kick)
		}
		w.s.tellNews() // the operator's rates, and leases that came or went
		w.s.pokeReclaim()
	}
}
