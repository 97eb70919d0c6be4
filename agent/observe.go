package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/retry"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/stores"
)

// observation is how far an observer has come.
type observation struct {
	node     tidegate.NodeName // attached to; empty when to none
	proven   tidegate.Seq      // compared equal, or not comparable, through this batch
	end      tidegate.Seq      // newest batch heard of
	commit   tidegate.Seq
	caughtUp bool // proven has reached what the node held when we attached

	activation uint64 // of the service, for which caughtUp counts

	gen     tidegate.Generation // that the positions below are in
	durable tidegate.Position   // of this node's own log: what W nodes have of it, as far as was compared
	held    []placed            // batches beyond it that were compared
}

// observe compares what is shipped with this node's own copy until another job
// is due. It ends by itself only when the logs differ.
func (s *stream) observe(ctx context.Context) error {
	backoff := retry.Policy{First: 100 * time.Millisecond, Max: 3 * time.Second}.Backoff()
	for i := 0; ; i++ {
		s.mu.Lock()
		rec := s.view.rec.Clone()
		s.mu.Unlock()
		began := s.agent.clk.Boot()
		node, activation, err := s.observable(ctx, rec, i)
		if err == nil {
			err = s.observeAt(ctx, rec, node, activation)
		}
		s.mu.Lock()
		s.seen.node, s.seen.caughtUp = "", false
		s.mu.Unlock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.log.Debug("observation ended", "node", string(node), "err", err)
		if d, ok := errors.AsType[*divergedError](err); ok {
			return s.divergedAt(ctx, d)
		}
		s.setErr(err)
		if time.Duration(s.agent.clk.Boot()-began) > 10*time.Second {
			backoff.Reset()
		}
		if s.pause(ctx, backoff) != nil {
			return ctx.Err()
		}
	}
}

// observeAt follows the headers of one node's log.
func (s *stream) observeAt(ctx context.Context, rec fence.EpochRecord, node tidegate.NodeName, activation uint64) error {
	addr, ok := s.address(node)
	if !ok {
		return fmt.Errorf("observe %s: the gate has no address for it", node)
	}
	s.mu.Lock()
	from := s.seen.proven + 1
	s.mu.Unlock()
	conn, attached, over, err := s.dialObserver(ctx, node, addr, rec, from)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // Recv reports it
	defer stop()
	defer func() { _ = conn.Close() }() // idempotent; the session's error says why
	defer s.crossing.attached(conn, over)()
	s.mu.Lock()
	s.seen.node, s.seen.end, s.seen.commit, s.seen.activation = node, attached.Received.Seq, attached.Commit, activation
	s.mu.Unlock()
	s.setErr(nil)
	s.log.Debug("observing", "node", string(node), "from", s.provenNow().String(), "end", attached.Received.Seq.String())
	s.provenThrough(s.provenNow(), attached.Received.Seq)
	gen := newestOf(attached.Tail)
	for {
		ev, err := conn.Recv()
		if err != nil {
			return err
		}
		s.crossing.word(over)
		switch ev := ev.(type) {
		case *shipper.HeaderEvent:
			h := ev.Header
			if s.leftOut(h) {
				return fmt.Errorf("observe %s: its batch %s of epoch %s is not part of the log any more: it has not adopted the active epoch", node, h.Seq, h.Epoch)
			}
			if h.Generation >= gen {
				if err := s.compare(ctx, rec, h); err != nil {
					return err
				}
				s.mu.Lock()
				s.seen.hold(h)
				s.mu.Unlock()
			}
			s.provenThrough(h.Seq, attached.Received.Seq)
			s.noteCommit(0)
		case *shipper.CommitEvent:
			s.noteCommit(ev.Seq)
		}
	}
}

// noteCommit takes in that W nodes have the batches through commit, and tells the source
// what of its log that is.
func (s *stream) noteCommit(commit tidegate.Seq) {
	s.mu.Lock()
	was := s.seen.durable
	s.seen.commit = max(s.seen.commit, commit)
	s.seen.settle()
	news := s.seen.durable != was
	s.mu.Unlock()
	if news {
		s.stand()
	}
}

// leftOut reports whether the active epoch's log goes on without this batch: a
// standby node that missed its adopt still has it. It must not be the measure of
// this node's own log, which may have gone the way of the epoch.
func (s *stream) leftOut(h batch.Header) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec := s.view.rec
	if rec.State != fence.StateActive || h.Epoch > rec.Epoch {
		return false // the node's log may be ahead of what the gate has told
	}
	epoch := rec.History.EpochAt(h.Seq)
	return epoch != 0 && epoch != h.Epoch
}

// dialObserver attaches at from. An observer that has compared nothing yet, or
// whose place is not in the node's log any more, begins with the newest batches:
// as many as a new writer would have to prove.
func (s *stream) dialObserver(ctx context.Context, node tidegate.NodeName, addr string, rec fence.EpochRecord, from tidegate.Seq) (*shipper.Conn, shipper.Attached, lane, error) {
	attach := shipper.Attach{Stream: rec.Stream, As: shipper.AsObserver, From: from}
	if from > 1 {
		conn, attached, over, err := s.dial(ctx, node, addr, shipper.Limits{}, attach)
		if !errors.Is(err, tidegate.ErrGap) {
			return conn, attached, over, err
		}
	}
	attach.From = 0 // the end
	conn, attached, over, err := s.dial(ctx, node, addr, shipper.Limits{}, attach)
	if err != nil {
		return nil, attached, over, err
	}
	end := attached.Received.Seq
	attach.From = max(1, end-min(end, shipper.TailMax-1))
	tail, tailed, later, err := s.dial(ctx, node, addr, shipper.Limits{}, attach)
	switch {
	case err == nil:
		s.skipTo(attach.From)
		return tail, tailed, later, conn.Close()
	case errors.Is(err, tidegate.ErrGap):
		// Trimmed or cut meanwhile: what comes from now on is compared, and a
		// new writer's proof looks at the tail in any case.
		s.skipTo(end + 1)
		return conn, attached, over, nil
	}
	return nil, tailed, later, errors.Join(err, conn.Close())
}

// skipTo begins the comparison at seq.
func (s *stream) skipTo(seq tidegate.Seq) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen.proven = seq - 1
}

func (s *stream) provenNow() tidegate.Seq {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen.proven
}

// provenThrough notes that everything through seq has been compared; target is
// where the node's log ended when we attached.
func (s *stream) provenThrough(seq, target tidegate.Seq) {
	s.mu.Lock()
	s.seen.proven = max(s.seen.proven, seq)
	s.seen.end = max(s.seen.end, seq)
	news := !s.seen.caughtUp && s.seen.proven >= target
	if news {
		s.seen.caughtUp = true
	}
	s.mu.Unlock()
	if news {
		s.agent.poke(s.cfg.Service)
	}
}

// divergedError is a batch of the shipped log that this node's log contradicts.
type divergedError struct {
	header batch.Header
	err    error
}

func (e *divergedError) Error() string { return e.err.Error() }
func (e *divergedError) Unwrap() error { return e.err }

// compare finds a shipped batch in this node's own log, waiting for the
// library to reach it.
func (s *stream) compare(ctx context.Context, rec fence.EpochRecord, h batch.Header) error {
	if h.Kind != batch.KindData {
		return nil
	}
	if s.head() < h.Next && s.leftBehind(rec) {
		// Its library is fenced: once it has said so, its log does not grow any more.
		s.awaitFinal(ctx, s.agent.cfg.Limits.ProofWait)
		if s.overtaken(rec, h) {
			return s.endsInside(h)
		}
	}
	for {
		if err := s.lacking(h); err != nil {
			return err
		}
		err := s.waitHead(ctx, h.Next, s.agent.cfg.Limits.ProofWait)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			break
		}
		if s.overtaken(rec, h) {
			return s.endsInside(h)
		}
	}
	err := compareHeader(ctx, s, h)
	switch {
	case errors.Is(err, stores.ErrTrimmed):
		return nil // a writer's proof looks at what is left
	case errors.Is(err, tidegate.ErrDiverged):
		return &divergedError{h, err}
	}
	return err
}

func (s *stream) endsInside(h batch.Header) error {
	return &divergedError{h, diverged("batch %s covers [%s, %s), own log ends inside it at %s and is written no more", h.Seq, h.First, h.Next, s.head())}
}

// leftBehind reports whether this agent was the writer and the stream goes on
// at another site.
func (s *stream) leftBehind(rec fence.EpochRecord) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left() && s.elsewhere(rec)
}

// left reports whether a term as writer was taken from this agent and its log
// has not followed the stream since; mu is held.
func (s *stream) left() bool { return s.fenced != nil && !s.fenced.whole }

// overtaken reports whether this node's log ends within h and will never reach
// its end: it was the writer's, and the stream goes on at another site.
func (s *stream) overtaken(rec fence.EpochRecord, h batch.Header) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left() && s.elsewhere(rec) && s.lib.head() >= h.First && s.lib.head() < h.Next
}

// divergedAt ends the observation: this node's log leaves the shipped one at a
// batch. The node is unfit to become writer. The agent that wrote the part that
// was left behind keeps a copy of it and reports how much of it had been
// released; on other nodes the same bytes simply stay in their journals.
func (s *stream) divergedAt(ctx context.Context, d *divergedError) error {
	h := d.header
	s.mu.Lock()
	s.diverged = s.divergence(d)
	former := s.former
	if rec := s.view.rec; rec.Epoch < h.Epoch && rec.Holder.Node != "" {
		// The log is ahead of the gate's view: its holder is the one left behind.
		former = rec.Holder.Node
	}
	report := s.left() || former == "" || former == s.agent.cfg.Node.Name
	s.reporting = report
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.reporting = false
	}()
	s.log.Error("log diverged", "position", h.First.String(), "seq", h.Seq.String(), "epoch", h.Epoch.String(), "err", d.err)
	s.tellRole()
	s.agent.poke(s.cfg.Service)
	if !report {
		return d
	}
	s.awaitFinal(ctx, 2*time.Second)
	backoff := retry.Policy{First: 200 * time.Millisecond, Max: 10 * time.Second}.Backoff()
	for {
		err := s.quarantine(ctx, h)
		if err == nil {
			return d
		}
		s.setErr(err)
		s.log.Error("quarantine failed", "err", err, "hint", tidegate.HintOf(err))
		if backoff.Wait(ctx) != nil {
			return ctx.Err()
		}
		if compareHeader(ctx, s, h) == nil {
			s.mended()
			return nil // to be observed again
		}
	}
}

// mended takes back that this node's log is not the stream's: whoever keeps the
// server has set it back to where the stream went on, and kept what it left. What
// is there now is the stream's own, and no tail.
func (s *stream) mended() {
	s.mu.Lock()
	s.diverged = nil
	if s.fenced != nil {
		s.fenced.whole = true
	}
	s.mu.Unlock()
	s.setErr(nil)
	s.log.Info("the log is the stream's again")
	s.tellRole()
}
