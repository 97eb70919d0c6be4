package capture

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/internal/retry"
	"github.com/tidegate/tidegate/rpo"
	"github.com/tidegate/tidegate/stores/postgres/replication"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

const (
	// overlapBytes are received again after a break and compared. What differs
	// nearer than that to where two histories parted is found by the links between
	// records, which are checked through the overlap.
	overlapBytes = 64 << 10
	anchorEvery  = overlapBytes
	anchorsMax   = 4
	// pingsMax keepalives in a row that ask for an answer are a server that waits
	// to shut down; it asks again as soon as it is answered.
	pingsMax  = 8
	pingPause = 50 * time.Millisecond
	// drainWait is how long the agent's word may come after the gate's, by which the
	// server was stopped.
	drainWait = 10 * time.Second
)

// reconnect is how soon a server that is gone is looked for again: while it is
// away nothing is confirmed. What waiting does not mend is tried less often.
var (
	reconnect     = retry.Policy{First: 20 * time.Millisecond, Max: time.Second}
	reconnectSlow = retry.Policy{First: time.Second, Max: 5 * time.Second}
)

// errStopping ends a stream whose server waits to shut down, for longer than it may.
var errStopping = &tidegate.Error{
	Op: "stream log", Class: tidegate.Transient, Err: errors.New("the server shuts down, and the other site does not take what it waits for: it was let go"),
	Hint: "what the other site lacks stays with the server; it is shipped when both are back",
}

// keepStream receives the server's log until ctx ends.
func (c *Capture) keepStream(ctx context.Context) error {
	soft, hard := reconnect.Backoff(), reconnectSlow.Backoff()
	for ctx.Err() == nil {
		began := c.clock.Boot()
		err := c.stream(ctx)
		c.down(err)
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, errAgain) {
			continue
		}
		if end := (*replication.TimelineEnd)(nil); errors.As(err, &end) {
			c.log.Info("timeline ended", "timeline", end.Timeline.String(), "at", end.At.String(), "next", end.Next.String())
			continue
		}
		c.find(err)
		if time.Duration(c.clock.Boot()-began) > 10*time.Second {
			soft, hard = reconnect.Backoff(), reconnectSlow.Backoff()
		}
		wait := soft
		if tidegate.ClassOf(err) != tidegate.Transient || errors.Is(err, errStopping) {
			wait = hard
		}
		if wait.Wait(ctx) != nil {
			break
		}
	}
	return nil
}

// down takes the end of a stream. Whoever waited for an answer may have been let
// go since: what is released counts anew with the next one. A server that went in
// order, with all of its log durable at the other site, has said its last word, and
// nobody waits: it may have been stopped for a switchover of which the agent has
// yet to hear.
func (c *Capture) down(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil {
		return
	}
	c.link = nil
	if errors.Is(err, replication.ErrShutDown) && c.covered() {
		c.final = c.clock.Boot()
	} else {
		c.gate.Deactivate(c.clock.Boot())
	}
	signal(c.report)
}

// covered reports whether all that was received is durable at the other site; mu is
// held.
func (c *Capture) covered() bool {
	if c.gate.Ceiling == nil {
		return false
	}
	d, known := c.gate.Ceiling.D()
	return known && d >= c.gate.Head.Position
}

// handing reports whether the agent drains the stream, or has handed it over; mu is
// held.
func (c *Capture) handing() bool {
	return c.gate.Out.State == machine.Draining || c.gate.Out.State == machine.HandedOver
}

// awaitDrain ends the activity of a server that went in order when no switchover
// was heard of for a while; mu is held.
func (c *Capture) awaitDrain(now tidegate.Instant) {
	if c.final == 0 || c.handing() || time.Duration(now-c.final) < drainWait {
		return
	}
	c.final = 0
	c.gate.Deactivate(now)
	signal(c.report)
}

// drained reports whether nothing more comes of the server, in a handover; mu is
// held.
func (c *Capture) drained() bool {
	return c.final != 0 && c.handing()
}

// stream connects, catches up, and receives until the connection ends, which it
// does with an error.
func (c *Capture) stream(ctx context.Context) error {
	if err := c.beginAnew(); err != nil {
		return err
	}
	if err := c.givenUp(); err != nil {
		return err
	}
	c.mu.Lock()
	have := c.place
	head := wal.LSN(c.gate.Head.Position)
	c.mu.Unlock()
	server := c.cfg.server(c.cfg.Name)
	server.System = have.system
	conn, err := replication.Connect(ctx, server)
	if err != nil {
		return err
	}
	now, l, err := c.look(ctx, conn, have, head)
	if err != nil {
		_ = conn.Close() // what was found is what counts
		return err
	}
	from, err := c.settle(now, l.primary, head)
	if err != nil {
		_ = conn.Close() // the same
		return err
	}
	o := replication.StartOptions{Timeline: now.lineage.TimelineAt(from.End), From: from.End}
	if l.slotted {
		o.Slot = c.cfg.Slot
	}
	s, err := conn.Start(ctx, o)
	if err != nil {
		return c.startError(err, from.End, head, l.primary)
	}
	l.stream = s
	stop := context.AfterFunc(ctx, func() { _ = s.Close() }) // unblocks Receive
	defer stop()
	defer func() { _ = s.Close() }() // the stream's error says why
	err = c.receive(ctx, l, now, from)
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.again {
		return errAgain
	}
	return err
}

// look asks the server who it is, makes sure of the slot, and returns a link that has
// no stream yet.
func (c *Capture) look(ctx context.Context, conn *replication.Conn, have place, head wal.LSN) (now place, l *link, err error) {
	now, l = have, &link{}
	var id replication.Identity
	if id, now.lineage, err = conn.Lineage(ctx); err != nil {
		return now, l, err
	}
	now.system, now.known, now.end = id.System, true, id.End
	if now.segment, err = conn.SegmentSize(ctx); err != nil {
		return now, l, err
	}
	recovery, err := conn.Show(ctx, "in_hot_standby")
	if err != nil {
		return now, l, err
	}
	if have.known && recovery == "on" && !now.lineage.Extends(have.lineage, head) {
		// It was made a follower of a log that went on without what it had.
		c.forget()
		return now, l, &tidegate.Error{Op: "stream log", Class: tidegate.Transient, Err: fmt.Errorf("the server follows lineage %s now, it is looked at anew", now.lineage)}
	}
	if have.known && !now.lineage.Extends(have.lineage, head) {
		return now, l, diverged("the server is of lineage %s now; what was received up to %s is of %s", now.lineage, head, have.lineage)
	}
	slot, err := conn.ReadSlot(ctx, c.cfg.Slot)
	if l.primary = recovery == "off"; !l.primary {
		now.begin = now.segment.Start(id.End)
		if err == nil {
			slot, l.slotted, err = c.reserve(ctx, conn, slot)
		}
		if err == nil && c.cfg.Replica {
			now.begin, err = c.beginOf(ctx, now, slot)
		}
		return now, l, err
	}
	l.slotted = true
	if err == nil && c.letGo(slot) {
		c.log.Warn("dropping the replication slot, which has lost its log: it is made anew", "slot", c.cfg.Slot)
		if err = conn.DropSlot(ctx, c.cfg.Slot); err == nil {
			slot, err = conn.ReadSlot(ctx, c.cfg.Slot)
		}
	}
	if err == nil && !slot.Exists {
		if err := c.mayMake(); err != nil {
			return now, l, err
		}
		c.log.Info("making the replication slot", "slot", c.cfg.Slot)
		slot, err = conn.CreateSlot(ctx, c.cfg.Slot, false)
	}
	if err != nil {
		return now, l, err
	}
	if err := slot.Check(); err != nil {
		if errors.Is(err, replication.ErrSlotLost) {
			err = c.generation("stream from slot", c.cfg.Slot, err)
		}
		return now, l, err
	}
	now.begin = now.segment.Start(slot.Restart)
	return now, l, nil
}

// settle takes down what look found and returns from where to receive: at first the
// start of the slot's segment, or less where a cursor has to read a backlog again
// anyway; later an anchor far enough before the head, or as far as a primary's slot
// holds the log: what lies before that was received once, and is not lacking.
func (c *Capture) settle(now place, primary bool, head wal.LSN) (from wal.Mark, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	anchors, mark := c.place.anchors, c.place.mark
	now.anchors, now.mark = anchors, mark
	c.place = now
	c.shout()
	if c.renewing() {
		c.least = now.begin
	}
	if head == 0 {
		from := c.enter(now)
		c.window.reset(from)
		return wal.Mark{End: from}, nil
	}
	c.window.truncate(head)
	from = mark // just across a fork: what lies before it was received from its own timeline
	for i := len(anchors) - 1; i >= 0 && !(primary && anchors[i].End < now.begin); i-- {
		if a := anchors[i]; a.End >= c.window.start && a.End <= head && now.lineage.TimelineAt(a.End) == now.lineage.TimelineAt(head) {
			if from = a; head-a.End >= overlapBytes {
				break
			}
		}
	}
	return from, nil
}

// commitBytesMin is the smallest commit record: the record's header, that of its
// data, and the time, aligned (xact.h, xl_xact_commit).
const commitBytesMin = 40

// enter returns where receiving begins. A backlog that the window does not hold is
// not received to be thrown away: the cursor that ships it reads and parses it from
// the server, and only its end is received here. Its commits are counted as if it
// held nothing else, for that bounds what is exposed before D has passed it. mu is
// held.
func (c *Capture) enter(now place) wal.LSN {
	size := wal.LSN(len(c.window.ring))
	if now.end <= now.begin+size {
		return now.begin
	}
	// A page's start: the parser finds the first record that begins behind it. That
	// none does for half a window takes a record of that size at the very end.
	from := (now.end - size/2).PageStart()
	if now.lineage.TimelineAt(from) != now.lineage.Timeline() {
		// A timeline that ends in padding, as behind a switch, may show no record from
		// there on, and then it would be received for ever.
		return now.begin
	}
	c.gate.Rewind(rpo.Mark{Records: int64(from-now.begin) / commitBytesMin})
	c.cancels.forgotten = from
	return from
}

// forget begins anew with a replica: what was received of it was only compared.
func (c *Capture) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gate.Deactivate(c.clock.Boot())
	c.gate.Rewind(rpo.Mark{})
	c.place = place{system: c.place.system}
	c.final, c.least = 0, 0
	if c.renew != nil {
		c.renew() // the agent, too, compares anew
	}
	c.shout()
}

// startError explains a server that does not stream from from on.
func (c *Capture) startError(err error, from, head wal.LSN, primary bool) error {
	switch {
	case errors.Is(err, replication.ErrSegmentRemoved) && !primary:
		c.forget()
		return &tidegate.Error{Op: "stream log", Class: tidegate.Transient, Err: fmt.Errorf("what follows is gone from the replica, it is looked at anew: %w", err)}
	case errors.Is(err, replication.ErrSegmentRemoved), errors.Is(err, replication.ErrSlotLost):
		return c.generation("stream from", from.String(), err)
	case errors.Is(err, replication.ErrAhead) && !primary:
		return &tidegate.Error{Op: "stream log", Class: tidegate.Transient, Err: err} // it is a replica, and will have it
	case errors.Is(err, replication.ErrAhead) && head > 0:
		return diverged("the server's log ends before %s, and %s was received from it: %v", from, head, err)
	case errors.Is(err, replication.ErrTimeline):
		return diverged("%v", err)
	}
	return err
}

// intake is what one stream's receiver keeps. It belongs to that goroutine, but
// for what it shares under the capture's mu.
type intake struct {
	c       *Capture
	link    *link
	parser  *wal.Parser
	head    rpo.Mark // as it stands here; the gate's follows
	since   wal.LSN  // what ends at or before it was counted before the break
	marks   []rpo.Mark
	commits []commit // in marks
	oldest  escape   // the first of commits
	target  wal.LSN  // what the server had flushed when the stream began; 0 once it was received
	pings   int
	asked   tidegate.Instant // since when the server only asks
}

// receive takes the log in until the link's stream ends.
func (c *Capture) receive(ctx context.Context, l *link, now place, from wal.Mark) error {
	l.heard, l.began = c.clock.Boot(), c.clock.Boot()
	in, s, primary := &intake{c: c, link: l}, l.stream, l.primary
	var err error
	in.parser, err = wal.NewParser(wal.Config{SegmentSize: now.segment, System: now.system, Lineage: now.lineage, Event: in.event})
	if err != nil {
		return err
	}
	c.mu.Lock()
	in.head, in.since = c.gate.Head, wal.LSN(c.gate.Head.Position)
	c.mu.Unlock()
	if in.since == 0 {
		in.parser.Begin(from.End)
	} else if err := in.parser.Resume(from); err != nil {
		return err
	}
	first, err := s.Receive()
	if err != nil {
		return c.startError(err, from.End, in.since, primary)
	}
	if primary && first.End < in.since {
		return diverged("the server's log ends at %s, and %s was received from it", first.End, in.since)
	}
	in.target = max(first.End, 1)
	c.mu.Lock()
	if c.final != 0 {
		// Behind the last word is another start: what it let go before this nobody knows.
		c.gate.Deactivate(c.clock.Boot())
	}
	if c.renewal == renewalOrdered {
		c.mu.Unlock()
		return &tidegate.Error{Op: "stream log", Class: tidegate.Transient, Err: errors.New("the log is given up, the server is looked at anew")}
	}
	c.link, c.final, c.renewal = in.link, 0, renewalNone
	c.follows = c.follows || !primary
	l.again = c.stale(l) // it was said while we connected
	c.shout()
	c.mu.Unlock()
	if l.again {
		return errAgain
	}
	c.find(nil)
	c.log.Info("streaming", "from", from.End.String(), "head", in.since.String(), "lineage", now.lineage.String(), "primary", primary)

	ctx, cancel := context.WithCancel(ctx)
	var answers sync.WaitGroup
	defer answers.Wait()
	defer cancel()
	answers.Go(func() {
		// A server that is gone has said why: the receiver hears it out.
		if err := c.answerAll(ctx, in.link); tidegate.ClassOf(err) == tidegate.Misuse {
			_ = s.Close() // the receiver reports the end
		}
	})
	for m := first; ; {
		if err := in.take(ctx, m); err != nil {
			return err
		}
		if m, err = s.Receive(); err != nil {
			return c.startError(err, from.End, in.since, primary)
		}
	}
}

// event is the parser's: commits are the places that backends wait for.
func (in *intake) event(e wal.Event) {
	if e.Kind != wal.Commit || e.End <= in.since {
		return
	}
	in.head.Records++
	if len(in.commits) == 0 {
		in.oldest = escape{end: e.End, time: e.Time}
	}
	in.commits = append(in.commits, commit{e.XID, e.End})
	in.marks = append(in.marks, rpo.Mark{Position: e.End.Position(), Records: in.head.Records, Bytes: int64(e.End)})
}

// take takes one message in.
func (in *intake) take(ctx context.Context, m replication.Message) error {
	if m.Keepalive() {
		in.hear()
		if err := in.ping(ctx, m); err != nil {
			return err
		}
		in.caughtUp()
		return nil
	}
	in.pings = 0
	err := in.data(m.Start, m.Data)
	in.caughtUp()
	if err == nil {
		in.c.answerNow(in.link)
	}
	return err
}

// hear notes that the server is there.
func (in *intake) hear() {
	in.c.mu.Lock()
	defer in.c.mu.Unlock()
	in.link.heard = in.c.clock.Boot()
}

// data parses log and makes what is whole the head. What lies before the head is
// the overlap.
func (in *intake) data(at wal.LSN, b []byte) error {
	c := in.c
	if at < in.since {
		n := min(wal.LSN(len(b)), in.since-at)
		c.mu.Lock()
		where, differs := c.window.differs(at, b[:n])
		c.mu.Unlock()
		if differs {
			return diverged("the server's log differs at %s from what was received before, up to %s, on one timeline", where, in.since)
		}
	}
	err := in.parser.Push(at, b)
	good := min(wal.LSN(len(b)), in.parser.Next()-at)
	c.mu.Lock()
	defer c.mu.Unlock()
	in.link.heard = c.clock.Boot()
	if end := at + good; end > c.window.end {
		c.window.append(b[c.window.end-at : good])
	}
	in.advance()
	if err != nil {
		return fmt.Errorf("the log that the server sends: %w", err)
	}
	return nil
}

// advance moves the head to the parser's last record end; mu is held.
func (in *intake) advance() {
	c, mark := in.c, in.parser.Mark()
	if mark.End == 0 {
		return
	}
	in.link.confirmed = mark.End
	if mark.End <= wal.LSN(in.head.Position) && in.head.Position != 0 {
		return
	}
	in.head.Position, in.head.Bytes = mark.End.Position(), int64(mark.End)
	in.marks = append(in.marks, in.head)
	c.gate.Append(in.head, in.marks)
	in.marks = in.marks[:0]
	for _, one := range in.commits {
		c.cancels.note(one)
	}
	oldest := in.oldest
	in.commits, in.oldest = in.commits[:0], escape{}
	c.place.mark = mark
	c.place.anchor(mark)
	if c.gate.Ceiling != nil {
		c.escape(oldest)
		c.gate.Step(c.clock.Boot())
	}
	signal(c.report)
}

// anchor remembers a record end now and then, to begin an overlap at.
func (p *place) anchor(m wal.Mark) {
	if n := len(p.anchors); n > 0 && m.End-p.anchors[n-1].End < anchorEvery {
		return
	}
	if len(p.anchors) == anchorsMax {
		p.anchors = append(p.anchors[:0], p.anchors[1:]...)
	}
	p.anchors = append(p.anchors, m)
}

// caughtUp begins the activity once all that the server had flushed is here.
func (in *intake) caughtUp() {
	if in.target == 0 || in.parser.Next() < in.target || in.parser.End() == 0 {
		return
	}
	in.target = 0
	c := in.c
	c.mu.Lock()
	defer c.mu.Unlock()
	in.link.ready = in.link.primary || c.cfg.Replica
	c.activate()
}

// activate begins an activity if there is a primary to answer, or a replica to
// capture from, and nobody fences it; mu is held.
func (c *Capture) activate() {
	if c.link == nil || !c.link.ready || c.gate.Ceiling != nil {
		return
	}
	if by := c.gate.FencedBy; by != 0 {
		if !c.follows || !c.link.primary {
			return
		}
		// It has followed the stream since, and was promoted.
		c.outlived = by
		c.gate.Unfence(by)
	}
	c.follows = false
	c.leak = notAsked
	c.gate.Activate(c.clock.Boot(), c.gate.Head)
	signal(c.ask)
	c.log.Info("active", "lineage", c.place.lineage.String(), "head", wal.LSN(c.gate.Head.Position).String())
	signal(c.report)
	signal(c.answer)
}

// ping looks at keepalives: a server that waits to shut down asks and asks. Nothing
// that a fenced one has is confirmed any more, so it waits in vain.
func (in *intake) ping(ctx context.Context, m replication.Message) error {
	if !m.Reply {
		return nil
	}
	if in.pings++; in.pings < pingsMax {
		in.asked = in.c.clock.Boot()
		return nil
	}
	in.c.mu.Lock()
	fenced := in.c.gate.FencedBy != 0
	in.c.mu.Unlock()
	if fenced || time.Duration(in.c.clock.Boot()-in.asked) >= in.c.cfg.StopWait {
		return errStopping
	}
	pause := time.NewTimer(pingPause)
	defer pause.Stop()
	select {
	case <-ctx.Done():
	case <-pause.C:
	}
	return nil
}
