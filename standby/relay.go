package standby

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/retry"
	"github.com/tidegate/tidegate/shipper"
)

// relay keeps a session to every other member of the writer's configuration, and
// to every learner, for as long as the writer is attached here.
//
// The members' copies go out once per node, within the site as a rule: the WAN
// was crossed once, from the writer to here. A learner at a third site, or at
// the old one, costs one more crossing each; one at the writer's own site is
// resting and costs none.
func (s *stream) relay(ctx context.Context, p fence.Promise, members []fence.Member) error {
	var sessions errgroup.Group
	defer func() { _ = sessions.Wait() }() // the writer hears of what ends its epoch through endFeeds
	for _, m := range members {
		if m.Node != s.n.cfg.Node {
			sessions.Go(func() error { return s.fanOut(ctx, p, members, m.Node) })
		}
	}
	b := s.watchView()
	defer s.unwatchView(b)
	fed := map[tidegate.NodeName]context.CancelFunc{}
	for {
		due := s.toTeach(p, members)
		for node, cancel := range fed {
			if !slices.Contains(due, node) {
				cancel()
				delete(fed, node)
			}
		}
		for _, node := range due {
			if fed[node] == nil {
				learning, cancel := context.WithCancel(ctx)
				fed[node] = cancel
				sessions.Go(func() error {
					defer cancel()
					return s.fanOut(learning, p, members, node)
				})
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-b:
		}
	}
}

// toTeach lists the learners that a writer under p is to feed through this node.
func (s *stream) toTeach(p fence.Promise, members []fence.Member) []tidegate.NodeName {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.view.Record == nil || s.view.Record.Promise() != p {
		return nil // the view is not of this writer's epoch
	}
	return slices.DeleteFunc(s.view.learners(s.sites), func(n tidegate.NodeName) bool {
		return n == s.n.cfg.Node || (fence.Config{Members: members}).Index(n) >= 0
	})
}

// fanOut keeps a session to one node for as long as the writer is attached here. It
// ends with ctx, or when the node has promised a higher epoch.
func (s *stream) fanOut(ctx context.Context, p fence.Promise, members []fence.Member, to tidegate.NodeName) error {
	defer s.relayed(to, errNotRelaying)
	backoff := retry.Policy{}.Backoff()
	for {
		began := time.Now()
		attached, err := s.relayOnce(ctx, p, members, to)
		if ctx.Err() != nil {
			return nil
		}
		s.relayed(to, err)
		s.lg.Debug("relay session ended", "node", string(to), keyErr, err)
		if tidegate.ClassOf(err) == tidegate.Fenced {
			// This node's own promise may still be the old one; the writer must
			// learn that its epoch is over.
			s.endFeeds(p, err)
			return err
		}
		// A node that lets the relay in and refuses the first batch, because its
		// disk is full, would be asked without a pause.
		if attached && time.Since(began) > relayLasting {
			backoff.Reset()
		}
		if backoff.Wait(ctx) != nil {
			return nil
		}
	}
}

// relayLasting is how long a session has lasted that was worth being opened anew at once.
const relayLasting = 2 * time.Second

// errNotRelaying is why no session to another node is up while no writer is
// attached here.
var errNotRelaying = errors.New("no writer attached")

// relayed notes the state of the session to a member; nil is up.
func (s *stream) relayed(node tidegate.NodeName, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		delete(s.feedback.of, node) // a writer that comes later must not take it for news
	}
	if errors.Is(err, errNotRelaying) {
		delete(s.relays, node)
		return
	}
	s.relays[node] = err
}

// endFeeds tells the writers under p that another node has refused their epoch.
func (s *stream) endFeeds(p fence.Promise, err error) {
	r := shipper.RefusalOf(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.feeds {
		if f.promise == p && r.Promise.Epoch > p.Epoch {
			f.conn.Interrupt(r)
		}
	}
}

// relayOnce runs one session to a member or a learner.
func (s *stream) relayOnce(ctx context.Context, p fence.Promise, members []fence.Member, to tidegate.NodeName) (attached bool, err error) {
	addr, err := s.n.shipAddress(to)
	if err != nil {
		return false, err
	}
	conn, at, err := s.n.dialer().Dial(ctx, addr, shipper.Attach{
		Stream: s.id, As: shipper.AsRelay, Epoch: p.Epoch, Holder: p.Holder, Members: members,
	})
	if err != nil {
		return false, err
	}
	// Receiving ends the others: it is where the session's end is seen first.
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // Recv reports it
	defer stop()
	g.Go(func() error { return s.takeAcks(conn, to) })
	g.Go(func() error { return s.spread(ctx, conn, forwarded) })
	g.Go(func() error { return s.ship(ctx, conn, at) })
	s.relayed(to, nil)
	err = g.Wait()
	return true, errors.Join(err, conn.Close())
}

// forwarded dates a beacon for a node behind this one. What it asks of the
// members is asked once: an ask as old as the lease would bind a node that the
// writer does not count any more.
func forwarded(k *shipper.Beacon, b beaconState, now tidegate.Instant) {
	k.OffsetKnown, k.Offset, k.OffsetErr = b.offset.known, b.offset.theta, b.offset.within
	if time.Duration(now-b.at) >= k.Lease.TTL {
		k.Lease = shipper.LeaseAsk{}
	}
}

// observed is a beacon for somebody of whom nothing is asked.
func observed(k *shipper.Beacon, _ beaconState, _ tidegate.Instant) { k.Lease = shipper.LeaseAsk{} }

// ship sends the member what it lacks, and then whatever arrives here, before
// it is synced here.
func (s *stream) ship(ctx context.Context, conn *shipper.Conn, at shipper.Attached) error {
	b := s.follow()
	defer s.unfollow(b)
	// The member may have had more from an earlier relay than this node has yet.
	for s.log.End().Seq < at.Received.Seq {
		if err := s.log.Wait(ctx, at.Received.Seq-1); err != nil {
			return err
		}
	}
	own, err := logView{s}.At(at.Received.Seq)
	if errors.Is(err, tidegate.ErrNotFound) && at.Received.Seq < s.log.First() {
		return &tidegate.Error{
			Op: "relay to", Subject: string(at.Node), Class: tidegate.Transient,
			Hint: "stop the node, `tidegate standby set-aside` moves its log to quarantine, and it begins anew at a base when it is started",
			Err:  fmt.Errorf("needs a base: its log ends at %s, and here nothing is kept before %s: %w", at.Received.Seq, s.log.First(), err),
		}
	}
	if err != nil {
		return fmt.Errorf("find %s in own log: %w", at.Received.Seq, err)
	}
	if own.Chain != at.Received.Chain {
		return &tidegate.Error{
			Op: "relay to", Subject: string(at.Node), Class: tidegate.Transient,
			Hint: "the node must adopt the epoch again; `tidegate status` shows its promise",
			Err:  fmt.Errorf("logs differ at %s: %w", at.Received.Seq, tidegate.ErrDiverged),
		}
	}
	return s.shipFrom(ctx, conn, at.Received.Seq+1)
}

func (s *stream) shipFrom(ctx context.Context, conn *shipper.Conn, from tidegate.Seq) (err error) {
	cursor, err := s.log.ReadFrom(from)
	if err != nil {
		return fmt.Errorf("read log from %s: %w", from, err)
	}
	defer func() { err = errors.Join(err, cursor.Close()) }()
	for {
		_, sealed, err := cursor.Next(ctx)
		if err != nil {
			return err
		}
		if err := conn.Send(ctx, sealed); err != nil {
			return err
		}
		if cursor.Seq() > s.log.End().Seq {
			if err := conn.Flush(); err != nil {
				return err
			}
		}
	}
}

// takeAcks keeps the member's statements for the writer. A node speaks for
// itself only: its certificate must carry the name in the ack.
func (s *stream) takeAcks(conn *shipper.Conn, node tidegate.NodeName) error {
	for {
		ev, err := conn.Recv()
		if err != nil {
			return err
		}
		switch ev := ev.(type) {
		case *shipper.AckEvent:
			if ev.Ack.Node != node || conn.Peer().Name != string(node) {
				return shipper.Refuse(shipper.CodeProtocol, "%s acknowledged in the name of %s", conn.Peer(), ev.Ack.Node)
			}
			s.mu.Lock()
			s.acks[node] = ev.Ack
			s.ring()
			s.mu.Unlock()
		case *shipper.LeaseEvent:
			if ev.Grant.Node != node || conn.Peer().Name != string(node) {
				return shipper.Refuse(shipper.CodeProtocol, "%s granted a lease in the name of %s", conn.Peer(), ev.Grant.Node)
			}
			s.mu.Lock()
			s.leases.grants[node] = ev.Grant
			s.ring()
			s.mu.Unlock()
		case *shipper.FeedbackEvent:
			if ev.Feedback.Node != node || conn.Peer().Name != string(node) {
				return shipper.Refuse(shipper.CodeProtocol, "%s asked in the name of %s", conn.Peer(), ev.Feedback.Node)
			}
			s.mu.Lock()
			s.feedback.note(ev.Feedback)
			s.ring()
			s.mu.Unlock()
		}
	}
}

// askChain reads the position of one batch in another node's log.
func (n *Standby) askChain(ctx context.Context, id tidegate.StreamID, source tidegate.NodeName, seq tidegate.Seq) (pos tidegate.LogPos, err error) {
	conn, at, err := n.attachTo(ctx, source, shipper.Attach{Stream: id, As: shipper.AsObserver, From: seq})
	if errors.Is(err, tidegate.ErrGap) {
		// Its log may begin right behind.
		conn, at, err = n.attachTo(ctx, source, shipper.Attach{Stream: id, As: shipper.AsObserver, From: seq + 1})
		if err == nil && at.Begin.Before.Seq == seq {
			return at.Begin.Before, errors.Join(n.vouches(id, at), conn.Close())
		}
		if err == nil {
			_ = conn.Close() // it has nothing to say of this batch
			err = fmt.Errorf("%s has nothing of batch %s: %w", source, seq, tidegate.ErrGap)
		}
	}
	if err != nil {
		return pos, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // Recv reports it
	defer stop()
	defer func() { _ = conn.Close() }() // everything was read
	if at.Received.Seq < seq {
		return pos, tooShort(source, at.Received.Seq, seq)
	}
	if err := n.vouches(id, at); err != nil {
		return pos, err
	}
	for {
		ev, err := conn.Recv()
		if err != nil {
			return pos, err
		}
		if h, ok := ev.(*shipper.HeaderEvent); ok {
			if h.Header.Seq != seq {
				return pos, fmt.Errorf("%s answered with batch %s, asked for %s: %w", source, h.Header.Seq, seq, tidegate.ErrGap)
			}
			return h.Header.Pos(), nil
		}
	}
}

// fetch copies (From, To] from another node's log, verbatim.
//
// An empty log begins where the source's begins, if that was trimmed; beyond says
// that this is behind To, so that nothing was copied.
func (s *stream) fetch(ctx context.Context, e fence.Fetch) (beyond bool, err error) {
	if e.To.Seq <= e.From.Seq {
		return false, context.Canceled
	}
	next := e.From.Seq + 1
	if s.log.Empty() {
		next = 0 // the oldest there is
	}
	conn, at, err := s.n.attachTo(ctx, e.Source, shipper.Attach{Stream: s.id, As: shipper.AsReader, From: next})
	if err != nil {
		return false, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // Recv reports it
	defer stop()
	defer func() { _ = conn.Close() }() // what was read is what counts
	if at.Durable.Seq < e.To.Seq {
		return false, tooShort(e.Source, at.Durable.Seq, e.To.Seq)
	}
	if err := s.n.vouches(s.id, at); err != nil {
		return false, err
	}
	if next == 0 {
		if beyond, err = s.beginAs(at, e); beyond || err != nil {
			return beyond, err
		}
		if b := at.Begin.Before; b.Seq == e.To.Seq && b.Compare(e.To) != tidegate.Same {
			return false, fmt.Errorf("log of %s begins behind %s, want %s: %w", e.Source, b, e.To, tidegate.ErrDiverged)
		}
		next = at.Begin.Before.Seq + 1
	}
	for next <= e.To.Seq {
		ev, err := conn.Recv()
		if err != nil {
			return false, err
		}
		b, ok := ev.(*shipper.BatchEvent)
		if !ok {
			continue
		}
		if err := s.n.limits.copying.Wait(ctx, len(b.Sealed)); err != nil {
			return false, err
		}
		if err := s.fetched(ctx, next, b); err != nil {
			return false, err
		}
		next++
	}
	return false, nil
}

// copied is where the log ends after a fetch of all through to. A log that is empty
// stands for what it begins behind only once that is all that was asked for.
func copied(end tidegate.LogPos, empty bool, to tidegate.Seq, err error) tidegate.LogPos {
	if empty && (err != nil || end.Seq < to) {
		return tidegate.LogPos{}
	}
	return end
}

// fetched appends one copied batch. Only the fetch appends while it runs, so
// that the core needs no say in it; ctx ends when the core cancels.
func (s *stream) fetched(ctx context.Context, next tidegate.Seq, b *shipper.BatchEvent) error {
	if b.Header.Seq != next {
		return fmt.Errorf("got batch %s, want %s: %w", b.Header.Seq, next, tidegate.ErrGap)
	}
	if s.n.full.Load() {
		return fmt.Errorf("copy batch %s: %w", next, tidegate.ErrFull)
	}
	if _, err := batch.VerifyBytes(b.Sealed); err != nil {
		return err
	}
	if err := s.noteLine(&b.Header, b.Sealed); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.log.AppendVerified(&b.Header, b.Sealed); err != nil {
		return s.appendFailed(err)
	}
	s.replay.appended(&b.Header)
	s.witness.appended(&b.Header)
	return nil
}

// vouches refuses a source that has not even promised the epoch which is being
// adopted here: its log may be the one that the epoch left behind.
func (n *Standby) vouches(id tidegate.StreamID, at shipper.Attached) error {
	s := n.stream(id)
	s.mu.Lock()
	own := s.core.Promise()
	s.mu.Unlock()
	if at.Promise.Epoch >= own.Epoch {
		return nil
	}
	return fmt.Errorf("%s has promised %s, this node %s: %w", at.Node, at.Promise, own, fence.ErrNotAdopted)
}

// tooShort refuses a source that does not have what is asked of it. Waiting for
// it to grow would never end when it waits for this node in turn, as two nodes
// that lost their disks do.
func tooShort(source tidegate.NodeName, end, want tidegate.Seq) error {
	return fmt.Errorf("log of %s ends at %s, want %s: %w", source, end, want, tidegate.ErrGap)
}

func (n *Standby) attachTo(ctx context.Context, node tidegate.NodeName, a shipper.Attach) (*shipper.Conn, shipper.Attached, error) {
	addr, err := n.shipAddress(node)
	if err != nil {
		return nil, shipper.Attached{}, err
	}
	return n.dialer().Dial(ctx, addr, a)
}

func (n *Standby) dialer() shipper.Dialer {
	return shipper.Dialer{TLS: n.deps.ShipDial, Clock: n.deps.Clock, Limits: n.cfg.Limits}
}

// shipAddress finds where a node takes ship sessions.
func (n *Standby) shipAddress(node tidegate.NodeName) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if v, ok := n.view.node(node); ok && v.Ship != "" {
		return v.Ship, nil
	}
	if addr := n.heard[node]; addr != "" {
		return addr, nil
	}
	return "", &tidegate.Error{
		Op: "find node", Subject: string(node), Class: tidegate.Transient,
		Hint: "the node has not registered with the gate yet",
		Err:  tidegate.ErrNotFound,
	}
}
