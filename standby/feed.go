package standby

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/rpo"
	"github.com/tidegate/tidegate/shipper"
)

// feed is an attached writer or relay.
type feed struct {
	s       *stream
	conn    *shipper.ServerConn
	peer    tidegate.Identity
	as      shipper.As
	promise fence.Promise
	members []fence.Member
	next    tidegate.Seq // of this session; another session may have brought it already
	offset  clockOffset
	news    bell // there may be something to acknowledge
	owed    int  // bytes of credit that were used and not given back; the receiving goroutine's

	acking sync.Mutex                      // held while acks are sent; before the stream's mu
	sent   map[tidegate.NodeName]fence.Ack // newest per node
	due    []fence.Ack                     // scratch
	leased map[tidegate.NodeName]uint64    // number of the newest grant that was sent, per node
	grants []shipper.LeaseGrant            // scratch
	told   map[tidegate.NodeName]uint64    // number of the newest feedback that was sent, per node
	back   []askedBack                     // scratch
}

// clockOffset dates what a peer says: this node's boot clock - the peer's.
type clockOffset struct {
	known     bool
	theta     time.Duration
	within    time.Duration
	wallKnown bool
	wall      time.Duration
}

// beaconState is the writer's last word, and when it came.
type beaconState struct {
	known  bool
	last   shipper.Beacon
	at     tidegate.Instant // this node's boot clock
	offset clockOffset      // this node - the writer, all hops
}

// Attach implements shipper.Handler.
func (n *Standby) Attach(ctx context.Context, peer tidegate.Identity, a shipper.Attach, conn *shipper.ServerConn) error {
	s := n.stream(a.Stream)
	switch {
	case s == nil:
		r := shipper.Refuse(shipper.CodeNotFound, "stream %s is not known to node %s", a.Stream, n.cfg.Node)
		r.Hint = "the gate tells a node its streams; see `tidegate streams list`"
		return r
	case s.fault != nil:
		return limboRefusal(s.fault)
	}
	switch a.As {
	case shipper.AsWriter, shipper.AsRelay:
		return s.serveFeed(ctx, peer, a, conn)
	case shipper.AsObserver:
		return s.serveObserver(ctx, a, conn)
	case shipper.AsReader:
		return s.serveReader(ctx, a, conn)
	}
	return shipper.Refuse(shipper.CodeProtocol, "attach as %s", a.As)
}

func limboRefusal(fault error) *shipper.Refusal {
	r := shipper.Refuse(shipper.CodeLimbo, "%v", fault)
	r.Hint = tidegate.HintOf(fault)
	return r
}

// refusal names the promise where the core said fenced, and its own code for
// an epoch that is not adopted yet. Called with mu held.
func (s *stream) refusal(err error) error {
	switch {
	case errors.Is(err, tidegate.ErrFenced):
		return s.fencedBy(s.core.Promise())
	case errors.Is(err, fence.ErrNotAdopted):
		return shipper.Refuse(shipper.CodeNotAdopted, "%v", err)
	}
	return err
}

func (s *stream) fencedBy(p fence.Promise) *shipper.Refusal {
	r := shipper.Refuse(shipper.CodeFenced, "node %s has promised epoch %s", s.n.cfg.Node, p)
	r.Hint = "this writer was replaced; `tidegate status` shows by whom"
	r.Promise = p
	return r
}

// serveFeed runs a writer's or relay's session.
func (s *stream) serveFeed(ctx context.Context, peer tidegate.Identity, a shipper.Attach, conn *shipper.ServerConn) error {
	f := &feed{
		s: s, conn: conn, peer: peer, as: a.As, promise: fence.Promise{Epoch: a.Epoch, Holder: a.Holder}, members: a.Members,
		sent: map[tidegate.NodeName]fence.Ack{}, leased: map[tidegate.NodeName]uint64{},
		told: map[tidegate.NodeName]uint64{},
	}
	// Outside the lock: it reads the log's files. What is appended meanwhile
	// only makes the proof longer than it names.
	tail, err := s.log.Tail(shipper.TailMax)
	if err != nil {
		return fmt.Errorf("read tail: %w", err)
	}
	attached, err := s.admit(f, tail)
	if err != nil {
		return err
	}
	defer s.dismiss(f)
	if err := conn.Accept(attached); err != nil {
		return err
	}
	s.lg.Info("feed attached", keyPeer, peer.String(), "as", a.As.String(), keyEpoch, uint64(a.Epoch), keySeq, uint64(attached.Received.Seq))
	ctx, cancel := context.WithCancel(ctx)
	var sending errgroup.Group
	f.news = s.follow()
	sending.Go(func() error { return f.sendAcks(ctx) })
	if a.As == shipper.AsWriter {
		sending.Go(func() error { return s.relay(ctx, f.promise, f.members) })
	}
	err = f.receive()
	cancel()
	conn.Hasten()
	// What the senders met is the same end, seen from the other side.
	_ = sending.Wait()
	s.lg.Info("feed ended", keyPeer, peer.String(), "as", a.As.String(), keyErr, err)
	return err
}

// admit checks the feed against the core and makes it one of the stream's.
func (s *stream) admit(f *feed, tail []batch.Header) (shipper.Attached, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.core.CheckAppend(f.promise.Epoch, f.promise.Holder, f.promise.Epoch); err != nil {
		return shipper.Attached{}, s.refusal(err)
	}
	if f.as == shipper.AsWriter && s.log.Empty() && s.log.First() > 1 {
		// Nothing of the log is here that a writer could prove its own by.
		return shipper.Attached{}, shipper.Refuse(shipper.CodeNotAdopted, "node %s begins behind %s and has no batch yet", s.n.cfg.Node, s.log.First()-1)
	}
	begin, known := s.begin()
	if !known {
		return shipper.Attached{}, errCutUnder // it is being trimmed
	}
	for old := range s.feeds {
		// A writer has one session; a second one means that it has given up the
		// first, of whose death this node has not heard yet.
		if old.as == f.as && old.peer == f.peer {
			old.conn.Interrupt(shipper.Refuse(shipper.CodeStopping, "superseded by a newer session of the same peer"))
		}
	}
	s.feeds[f] = struct{}{}
	if ack, ok := s.ownAck(s.core.Ack()); ok {
		s.acks[s.n.cfg.Node] = ack
	}
	meta := s.core.Meta()
	end := s.log.End()
	f.next = end.Seq + 1
	return shipper.Attached{
		Node: meta.Node, Incarnation: meta.Incarnation, Promise: s.core.Promise(),
		Durable: s.counted(s.core.DurablePos()), Received: end, Commit: s.core.KnownCommit(), Tail: tail,
		Adopted: s.core.Adopted(), Begin: begin,
	}, nil
}

func (s *stream) dismiss(f *feed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.feeds, f)
}

// receive takes what the feed sends until the session ends.
func (f *feed) receive() error {
	for {
		ev, err := f.conn.Recv()
		if err != nil {
			return err
		}
		switch ev := ev.(type) {
		case *shipper.BatchEvent:
			if err := f.append(ev); err != nil {
				return err
			}
			f.owed += len(ev.Sealed)
		case *shipper.CommitEvent:
			f.s.commit(f, ev.Seq)
		case *shipper.BeaconEvent:
			f.s.hear(f, ev.Beacon)
		case *shipper.OffsetEvent:
			f.offset = clockOffset{known: true, theta: ev.Offset, within: ev.Err, wallKnown: true, wall: ev.Wall}
		}
		if err := f.grant(); err != nil {
			return err
		}
	}
}

// append verifies one batch, once, and puts it into the log.
func (f *feed) append(ev *shipper.BatchEvent) error {
	s := f.s
	h := &ev.Header
	switch {
	case h.Seq != f.next:
		return shipper.Refuse(shipper.CodeGap, "batch %s where %s was due", h.Seq, f.next)
	case h.Stream != s.id:
		return shipper.Refuse(shipper.CodeProtocol, "batch of stream %s", h.Stream)
	case s.n.full.Load():
		return s.n.refuseFull()
	}
	if _, err := batch.VerifyBytes(ev.Sealed); err != nil {
		return err
	}
	f.next++
	if s.log.Rolls(len(ev.Sealed)) {
		// The segment that ends here is synced before the next one begins; not while
		// the stream's lock is held, which everybody waits for.
		if err := s.groupSync(nil); err != nil {
			s.n.stop(err)
			return err
		}
	}
	appended, err := s.append(f.promise, h, ev.Sealed)
	if !appended {
		return err
	}
	return f.sync(len(ev.Sealed))
}

// alongMax is the largest batch that the receiving goroutine syncs by itself, in
// bytes. A quiet session is acknowledged sooner so, by two changes of goroutine;
// under load the next batches are to be received while these are being synced.
const alongMax = 64 << 10

// sync makes what was appended durable: at once, if the session is quiet and the
// node syncs nothing else, or else with the node's next group.
func (f *feed) sync(size int) error {
	if size > alongMax || f.conn.Buffered() {
		f.s.n.syncer.mark(f.s)
		return nil
	}
	done, err := f.s.n.syncer.now(f.s, f.news)
	switch {
	case err != nil:
		f.s.n.stop(err)
		return err
	case !done:
		f.s.n.syncer.mark(f.s)
		return nil
	case !f.acking.TryLock():
		f.news.ring() // the other one is at it, and looks again
		return nil
	}
	defer f.acking.Unlock()
	return f.sendDue()
}

// refuseFull is the answer to batches while the disk lacks room.
func (n *Standby) refuseFull() *shipper.Refusal {
	return shipper.Refuse(shipper.CodeFull, "less than %d bytes left on the disk of node %s", n.cfg.FreeBytesMin, n.cfg.Node)
}

// append puts a verified batch behind the log's end, or finds that another
// session of the same epoch has brought it already.
func (s *stream) append(p fence.Promise, h *batch.Header, sealed []byte) (appended bool, err error) {
	if err := s.noteLine(h, sealed); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.core.CheckAppend(p.Epoch, p.Holder, h.Epoch); err != nil {
		return false, s.refusal(err)
	}
	if h.Seq <= s.log.End().Seq {
		have, _, err := s.log.At(h.Seq)
		if err == nil && have.Chain != h.Chain {
			err = fmt.Errorf("batch %s differs from the one in the log: %w", h.Seq, tidegate.ErrDiverged)
		}
		return false, err
	}
	if err := s.log.AppendVerified(h, sealed); err != nil {
		return false, s.appendFailed(err)
	}
	s.replay.appended(h)
	s.witness.appended(h)
	s.core.Received(s.log.End())
	return true, nil
}

// appendFailed tells what the batch is to blame for from what the disk is: the
// latter stops the node, save that it is full, which leaves the log as it was.
func (s *stream) appendFailed(err error) error {
	if _, corrupt := errors.AsType[*tidegate.CorruptError](err); corrupt {
		return err
	}
	for _, blameless := range []error{tidegate.ErrGap, tidegate.ErrDiverged, tidegate.ErrFull, tidegate.ErrUnsupported} {
		if errors.Is(err, blameless) {
			return err
		}
	}
	err = fmt.Errorf("stream %s: append: %w", s.id, err)
	s.n.stop(err)
	return err
}

// sendAcks passes on what is durable, here and, to a writer, on the others.
// Acks are cumulative: while one write is in flight only the newest per node waits.
func (f *feed) sendAcks(ctx context.Context) error {
	defer f.s.unfollow(f.news)
	for {
		f.acking.Lock()
		err := f.sendDue()
		f.acking.Unlock()
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-f.news:
		}
	}
}

// sendDue sends the acks, the lease grants and the feedback that the peer does not
// have; acking is held.
func (f *feed) sendDue() error {
	f.due = f.s.acksFor(f, f.sent, f.due[:0])
	for _, a := range f.due {
		if err := f.conn.SendAck(a); err != nil {
			return err
		}
		f.sent[a.Node] = a
	}
	f.grants = f.s.grantsFor(f, f.leased, f.grants[:0])
	for _, g := range f.grants {
		if err := f.conn.SendLeaseGrant(g); err != nil {
			return err
		}
		f.leased[g.Node] = g.Seqno
	}
	f.back = f.s.feedbackFor(f, f.told, f.back[:0])
	for _, a := range f.back {
		if err := f.conn.SendFeedback(a.Feedback); err != nil {
			return err
		}
		f.told[a.Node] = a.number
	}
	if len(f.due)+len(f.grants)+len(f.back) == 0 {
		return nil
	}
	return f.conn.Flush()
}

func (s *stream) acksFor(f *feed, sent map[tidegate.NodeName]fence.Ack, due []fence.Ack) []fence.Ack {
	s.mu.Lock()
	defer s.mu.Unlock()
	for node, a := range s.acks {
		own := node == s.n.cfg.Node
		if own {
			a.Applied, _ = s.apply.seq()
			a.AppliedAt = s.apply.at(a.Epoch)
		}
		if a.Epoch != f.promise.Epoch || !own && f.as != shipper.AsWriter {
			continue
		}
		if last, ok := sent[node]; ok {
			last.Received, last.Stamp = a.Received, a.Stamp // which are no news by themselves
			if last == a {
				continue
			}
		}
		due = append(due, a)
	}
	return due
}

// commit takes the writer's word on what is durable on W nodes. The feed's own
// acks do not speak of it.
func (s *stream) commit(f *feed, seq tidegate.Seq) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.core.Commit(f.promise.Epoch, f.promise.Holder, seq)
	s.noteHandover()
	s.ringOthers(f.news)
}

// hear takes a beacon, from the writer or passed on by its relay.
func (s *stream) hear(f *feed, k shipper.Beacon) {
	o := f.offset
	if f.as == shipper.AsRelay {
		o.known = o.known && k.OffsetKnown
		o.theta += k.Offset
		o.within += k.OffsetErr
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beacon = beaconState{known: true, last: k, at: s.n.deps.Clock.Boot(), offset: o}
	s.witness.hear(s.beacon)
	s.askLease(f, &k)
	s.ring()
}

// blind bounds from above the time about which this node knows nothing.
func (b beaconState) blind(now tidegate.Instant) (time.Duration, bool) {
	if !b.known || !b.offset.known {
		return 0, false
	}
	return rpo.BlindWindow(now, b.last.Boot, b.offset.theta, b.offset.within), true
}
