package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/retry"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/stores"
)

// keepLink holds a session with whichever relay the core picks, receives its
// acks, and goes to the next when it fails.
func (w *writer) keepLink(ctx context.Context) error {
	backoff := retry.Policy{First: 20 * time.Millisecond, Max: 2 * time.Second}.Backoff()
	for {
		if err := w.over(); err != nil {
			return err
		}
		w.mu.Lock()
		node := w.dial
		w.mu.Unlock()
		if node == "" {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-w.redial:
			}
			continue
		}
		began := w.s.agent.clk.Boot()
		err := w.session(ctx, node)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, tidegate.ErrDiverged) && !w.isReady.Load():
			// Our log is not the one that the standby nodes hold. Nothing was
			// shipped under this epoch, and nothing will be.
			return err
		}
		w.linkDown(node, err)
		if time.Duration(w.s.agent.clk.Boot()-began) > 10*time.Second {
			backoff.Reset()
		}
		if w.s.pause(ctx, backoff) != nil {
			return ctx.Err()
		}
	}
}

// linkDown tells the core why a session ended. A refusal that names a promise
// decides whether the epoch is over.
func (w *writer) linkDown(node tidegate.NodeName, err error) {
	w.log.Warn("relay lost", "node", string(node), "err", err)
	w.s.meters.relayLost.Inc()
	var list []fence.WriterEffect
	w.mu.Lock()
	w.link, w.dial = nil, ""
	if r, ok := errors.AsType[*shipper.Refusal](err); ok && r.Code == shipper.CodeFenced {
		list = w.core.OnRefused(r.Promise)
	}
	t := w.effects(list)
	if !t.over {
		t2 := w.effects(w.core.RelayDown(node, err))
		t.redial, t.over = t.redial || t2.redial, t2.over
		w.dial, _ = w.core.Relay()
	}
	w.mu.Unlock()
	w.do(t)
	if !t.over { // what ends the epoch says itself whether that is an error: after a handover it is none
		w.s.setErr(err)
	}
	if !w.isReady.Load() {
		w.s.miss(err)
	}
}

// session attaches to one relay and receives until it is over.
func (w *writer) session(ctx context.Context, node tidegate.NodeName) error {
	addr, ok := w.s.address(node)
	if !ok {
		return &tidegate.Error{Op: "ship to", Subject: string(node), Class: tidegate.Transient, Err: errors.New("the gate has no address for this node")}
	}
	w.mu.Lock()
	rec := w.core.Record()
	w.mu.Unlock()
	conn, attached, over, err := w.s.dial(ctx, node, addr, relayLimits(len(rec.Config.Members)), shipper.Attach{
		Stream: rec.Stream, As: shipper.AsWriter, Epoch: w.epoch, Holder: w.s.agent.holder, Members: rec.Config.Members,
	})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // Recv reports it
	defer stop()
	defer func() { _ = conn.Close() }() // idempotent; the session's error says why
	defer w.s.crossing.attached(conn, over)()
	if attached.Node != node {
		return &tidegate.Error{Op: "ship to", Subject: string(node), Class: tidegate.Misuse, Err: fmt.Errorf("node %s answers at %s", attached.Node, addr)}
	}
	if !w.isReady.Load() {
		if err := w.prove(ctx, rec, attached); err != nil {
			return err
		}
	}
	l := &link{conn: conn, node: node, over: over, began: w.s.agent.clk.Boot(), stored: attached.Received.Seq}
	w.mu.Lock()
	w.link = l
	t := w.effects(w.core.RelayUp(fence.Member{Node: attached.Node, Incarnation: attached.Incarnation}, attached.Received, attached.Durable))
	from := l.next
	fit := from != 0
	if !fit {
		w.link = nil
	}
	d := w.core.Durable()
	w.mu.Unlock()
	w.do(t)
	if !fit {
		return &tidegate.Error{
			Op: "ship to", Subject: string(node), Class: tidegate.Transient,
			Err: fmt.Errorf("its log ends at %s, which the ring cannot continue: %w", attached.Received, tidegate.ErrGap),
		}
	}
	w.log.Info("shipping", "node", string(node), "from", from.String(), "lane", string(over))
	w.s.setErr(nil)
	w.s.meters.relayUp.Set(1)
	defer w.s.meters.relayUp.Set(0)
	_ = conn.SendCommit(d) // what was durable before this session; Recv reports a loss
	wake(w.kick)
	return w.receive(l)
}

func (w *writer) receive(l *link) error {
	for {
		ev, err := l.conn.Recv()
		if err != nil {
			w.dropLink(l)
			return err
		}
		w.s.crossing.word(l.over)
		switch ev := ev.(type) {
		case *shipper.AckEvent:
			w.onAck(l, ev.Ack)
		case *shipper.LeaseEvent:
			w.onLease(ev.Grant)
		case *shipper.FeedbackEvent:
			w.onFeedback(ev.Feedback)
		case *shipper.OffsetEvent:
			w.s.meters.clockOffset.Set(ev.Offset.Seconds())
			w.s.meters.clockOffsetErr.Set(ev.Err.Seconds())
		}
		if w.over() != nil {
			return errOver
		}
	}
}

// prove shows, before the first batch of the term, that this node's log
// continues the one that the standby nodes hold: it reaches their end, and the
// ranges at the end have the same content.
func (w *writer) prove(ctx context.Context, rec fence.EpochRecord, attached shipper.Attached) error {
	began := w.s.agent.clk.Boot()
	f, gen, err := proofStart(rec.Head, attached)
	if err != nil {
		return err
	}
	opens := w.s.opens(rec.Head)
	if opens {
		gen++
	}
	if src, ok := w.s.source.(stores.Begun); ok && (opens || f.seq == 0) {
		if f.next, err = src.Begin(ctx); err != nil {
			return fmt.Errorf("begin log: %w", err)
		}
	}
	wait := w.s.agent.cfg.Limits.ProofWait
	if err := w.s.waitHead(ctx, f.next, wait); err != nil {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case opens: // nothing is to be matched
			return &tidegate.Error{Op: "open generation", Subject: f.next.String(), Class: tidegate.Transient, Err: fmt.Errorf("the log is known up to %s", w.s.head())}
		}
		return diverged("its log ends at %s, the standby nodes hold it up to %s", w.s.head(), f.next)
	}
	if !opens {
		if err := w.match(ctx, attached.Tail); err != nil {
			return err
		}
	}
	took := time.Duration(w.s.agent.clk.Boot() - began)
	w.log.Info("log proven", "head", rec.Head.String(), "position", f.next.String(), "batches", len(attached.Tail), "generation", uint32(gen), "opens", opens, "took", took.String())
	w.mu.Lock()
	w.ring = newRing(int(w.s.agent.cfg.Limits.RingBytesMax), f)
	w.gen, w.start = gen, f.next
	if _, based := w.s.source.(stores.Based); based && (opens || f.seq == 0) {
		w.entry = f.seq + 1
	}
	entry := w.entry > 0
	w.sealedAt = w.s.agent.clk.Boot()
	w.meter.begin(w.sealedAt, f)
	w.mu.Unlock()
	w.s.mu.Lock()
	w.s.noteOpening(entry)
	w.s.mu.Unlock()
	w.isReady.Store(true)
	close(w.proven)
	w.s.tellRole()
	w.s.tellGrant()
	w.s.poke()
	return nil
}

// match compares the newest batches with the own log. What the source has trimmed
// says nothing; but where there is content, some of it must be found. Positions of
// an older generation are places in another log.
func (w *writer) match(ctx context.Context, tail []batch.Header) error {
	gen := newestOf(tail)
	tail = slices.DeleteFunc(slices.Clone(tail), func(h batch.Header) bool { return h.Generation < gen })
	var gone error
	found := false
	for i := 0; i < len(tail); {
		err := compareHeader(ctx, w.s, tail[i])
		if errors.Is(err, stores.ErrTrimmed) {
			gone = err
			i += (len(tail) - i + 1) / 2 // sources trim the oldest, and each look may cost a connection
			continue
		}
		if err != nil {
			return err
		}
		found = found || tail[i].Kind == batch.KindData
		i++
	}
	if gone != nil && !found && !w.s.forkedAt(newestData(tail)) {
		return &tidegate.Error{
			Op: "prove log", Subject: string(w.s.cfg.Stream), Class: tidegate.Transient,
			Hint: "the source must keep some of what is durable at the other site, wal_keep_size for PostgreSQL: without it nobody can tell that its log is still the same",
			Err:  fmt.Errorf("none of the newest %d batches can be compared: %w", len(tail), gone),
		}
	}
	return nil
}

// forkedAt reports whether the service's own journal forked off right behind a batch,
// by a promotion under a later epoch. Then it had all that led there, and was told by a
// node that held it: of a journal that began at a snapshot nothing else may be left to compare.
func (s *stream) forkedAt(h batch.Header) bool {
	if s.cfg.Source != SourceJournal {
		return false // its lineages do not name epochs
	}
	l := string(s.lineageNow())
	epoch, at, ok := strings.Cut(l[strings.LastIndexByte(l, '+')+1:], "@")
	e, eerr := tidegate.ParseEpoch(epoch)
	p, perr := tidegate.ParsePosition(at)
	return ok && eerr == nil && perr == nil && e > h.Epoch && p == h.Next
}

// newestData returns the newest batch with log in it: control batches behind it may be of
// terms that have written nothing yet. Of a tail without any it is the newest batch.
func newestData(tail []batch.Header) batch.Header {
	for _, h := range slices.Backward(tail) {
		if h.Kind == batch.KindData {
			return h
		}
	}
	return tail[len(tail)-1]
}

// newestOf returns the generation in which the newest of batches was sealed; 0 of none.
func newestOf(tail []batch.Header) tidegate.Generation {
	if len(tail) == 0 {
		return 0
	}
	return tail[len(tail)-1].Generation
}

// proofStart finds where the term begins: the source position behind the head
// that the record names.
func proofStart(head tidegate.LogPos, a shipper.Attached) (facts, tidegate.Generation, error) {
	switch a.Received.Compare(head) {
	case tidegate.Same:
	case tidegate.Before:
		return facts{}, 0, &tidegate.Error{
			Op: "prove log", Subject: string(a.Node), Class: tidegate.Transient,
			Err: fmt.Errorf("node holds %s, the epoch begins after %s: %w", a.Received, head, tidegate.ErrGap),
		}
	default:
		return facts{}, 0, &tidegate.Error{
			Op: "prove log", Subject: string(a.Node), Class: tidegate.Transient,
			Err: fmt.Errorf("node holds %s, the epoch begins after %s", a.Received, head),
		}
	}
	f := facts{seq: head.Seq, chain: head.Chain, epoch: head.Epoch}
	if head.Seq == 0 {
		return f, 1, nil
	}
	if len(a.Tail) == 0 || a.Tail[len(a.Tail)-1].Pos().Compare(head) != tidegate.Same {
		return facts{}, 0, &tidegate.Error{
			Op: "prove log", Subject: string(a.Node), Class: tidegate.Transient,
			Err: fmt.Errorf("node names no batch at %s: %w", head, tidegate.ErrNotFound),
		}
	}
	last := a.Tail[len(a.Tail)-1]
	f.next = last.Next
	return f, last.Generation, nil
}

// compareHeader finds the content of a shipped batch in the stream's own log; the
// error wraps stores.ErrTrimmed when it is there no more.
func compareHeader(ctx context.Context, s *stream, h batch.Header) error {
	if h.Kind != batch.KindData {
		return nil
	}
	d, err := s.source.Reread(ctx, h.First, h.Next)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, stores.ErrTrimmed):
		return fmt.Errorf("prove batch %s: %w", h.Seq, err)
	case errors.Is(err, tidegate.ErrNotFound):
		// No record ends there: another log. Or trimmed, by a source that cannot
		// tell, which says nothing about the content.
		return diverged("batch %s covers [%s, %s), which is not there: %v", h.Seq, h.First, h.Next, err)
	case err != nil:
		return fmt.Errorf("prove batch %s: %w", h.Seq, err)
	case d != h.Digest:
		return diverged("batch %s covers [%s, %s) with digest %s, own log has %s", h.Seq, h.First, h.Next, h.Digest, d)
	}
	return nil
}

func diverged(format string, args ...any) error {
	return &tidegate.Error{
		Op: "prove log", Class: tidegate.Permanent,
		Hint: "this node's copy of the log is not the one at the DR site; `tidegate status` shows who holds the stream",
		Err:  fmt.Errorf(format+": %w", append(args, tidegate.ErrDiverged)...),
	}
}

// address returns where a standby node takes ship sessions.
func (s *stream) address(node tidegate.NodeName) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	addr, ok := s.members[node]
	return addr, ok
}
