package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/stores"
)

// heldMax bounds how many batches beyond the commit an observer remembers the ends
// of. What is forgotten only makes D look older than it is.
const heldMax = 1 << 12

// placed is where a batch ends in the source's log.
type placed struct {
	seq  tidegate.Seq
	next tidegate.Position
}

// hold notes a batch that was found in this node's own log.
func (o *observation) hold(h batch.Header) {
	if h.Generation != o.gen {
		o.gen, o.durable, o.held = h.Generation, 0, o.held[:0]
	}
	if len(o.held) == heldMax {
		o.held = append(o.held[:0], o.held[1:]...)
	}
	o.held = append(o.held, placed{h.Seq, h.Next})
}

// settle moves what is known to be durable, and the same here, on to the commit.
func (o *observation) settle() {
	n := 0
	for n < len(o.held) && o.held[n].seq <= o.commit {
		o.durable = max(o.durable, o.held[n].next)
		n++
	}
	o.held = append(o.held[:0], o.held[n:]...)
}

// stand tells a source that can make ready how the stream stands.
func (s *stream) stand() {
	spare, can := s.source.(stores.Spare)
	if !can {
		return
	}
	s.sending.Lock() // what is told last is the newest
	defer s.sending.Unlock()
	s.mu.Lock()
	now := s.standing()
	s.mu.Unlock()
	spare.Stand(now)
}

// standing is what the record makes of this node; mu is held.
func (s *stream) standing() stores.Standing {
	rec := s.view.rec
	st := stores.Standing{Durable: s.seen.durable, Holds: rec.Gate.Holds()}
	switch {
	case !s.view.known() || rec.Holder.Node == "" || rec.Holder.Node == s.agent.cfg.Node.Name:
		return stores.Standing{}
	case rec.Holder.Site == s.agent.cfg.Node.Site:
		st.Part = stores.PartNext
	default:
		st.Part = stores.PartAway
	}
	return st
}

// whole reports whether the service is active here with all of the log that it will
// ever have but for what it writes itself; mu is held.
func (s *stream) whole() bool {
	spare, can := s.source.(stores.Spare)
	return can && s.lib.conn != nil && s.lib.known && s.lib.active && spare.Whole()
}

// activation names the service's activity, 0 while there is none, or for a source
// whose log may still grow from elsewhere; mu is held.
func (s *stream) activation() uint64 {
	if _, can := s.source.(stores.Spare); can && s.lib.conn != nil && s.lib.active {
		return s.lib.activated
	}
	return 0
}

// comparable reports whether this node's log was compared with all that the standby
// nodes held, and if the service is whole, held after it became active; mu is held.
func (s *stream) comparable() bool {
	return s.seen.caughtUp && s.seen.activation == s.activation()
}

// observable chooses the node to observe: each in turn, but the one that holds most
// where the service is active here. So many are asked that nothing can be durable of
// which none of them knows: a writer must not be deposed by a log that lacks it. A
// node that missed the active epoch's adopt may hold more, which is not part of the log
// any more.
func (s *stream) observable(ctx context.Context, rec fence.EpochRecord, turn int) (node tidegate.NodeName, activation uint64, err error) {
	members := rec.Config.Members
	s.mu.Lock()
	activation = s.activation()
	s.mu.Unlock()
	if activation == 0 {
		return members[turn%len(members)].Node, 0, nil
	}
	ends := make([]logEnd, len(members))
	errs := make([]error, len(members))
	var all sync.WaitGroup
	for i, m := range members {
		all.Go(func() { ends[i], errs[i] = s.endAt(ctx, rec.Stream, m.Node) })
	}
	all.Wait()
	best, err := holdsMost(rec, ends, errs)
	if err != nil {
		return "", 0, &tidegate.Error{Op: "ask the standby nodes for their ends", Subject: string(s.cfg.Stream), Class: tidegate.Transient, Err: err}
	}
	return members[best].Node, activation, nil
}

// holdsMost chooses among the members of a record's configuration by what each has
// answered.
func holdsMost(rec fence.EpochRecord, ends []logEnd, errs []error) (best int, err error) {
	members, known := rec.Config.Members, 0
	best = -1
	var left []error
	for i := range members {
		if errs[i] != nil {
			left = append(left, errs[i])
			continue
		}
		known++
		if rec.State == fence.StateActive && ends[i].adopted < rec.Epoch {
			left = append(left, fmt.Errorf("%s has adopted epoch %s, the active one is %s", members[i].Node, ends[i].adopted, rec.Epoch))
			continue
		}
		if best < 0 || ends[i].seq > ends[best].seq {
			best = i
		}
	}
	if need := len(members) - rec.Config.W + 1; known < need || best < 0 {
		return -1, fmt.Errorf("%d of %d answer, want %d: %w", known, len(members), need, errors.Join(left...))
	}
	return best, nil
}

// logEnd is where a standby node's log ends, and the newest epoch that it has adopted.
type logEnd struct {
	seq     tidegate.Seq
	adopted tidegate.Epoch
}

func (s *stream) endAt(ctx context.Context, id tidegate.StreamID, node tidegate.NodeName) (logEnd, error) {
	addr, ok := s.address(node)
	if !ok {
		return logEnd{}, fmt.Errorf("observe %s: the gate has no address for it", node)
	}
	conn, attached, _, err := s.dial(ctx, node, addr, shipper.Limits{}, shipper.Attach{Stream: id, As: shipper.AsObserver})
	if err != nil {
		return logEnd{}, err
	}
	return logEnd{seq: attached.Received.Seq, adopted: attached.Adopted.Epoch}, conn.Close()
}

// lacking returns a divergence if the service here is active without what h holds:
// then it never will have it. A server that its cluster has promoted too early is
// like that, and one that was set back.
func (s *stream) lacking(h batch.Header) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	end := s.lib.head()
	rec := s.view.rec
	if rec.State != fence.StateActive || rec.Holder.Site != s.agent.cfg.Node.Site {
		return nil // what is promoted from another site lacks what the promotion leaves out
	}
	if end >= h.Next || !s.whole() {
		return nil
	}
	if s.replaced(rec) {
		return &divergedError{h, diverged("batch %s covers [%s, %s) of epoch %s, and the log of the primary before ends at %s", h.Seq, h.First, h.Next, h.Epoch, end)}
	}
	return &divergedError{h, &tidegate.Error{
		Op: "compare log", Subject: string(s.cfg.Stream), Class: tidegate.Permanent, Hint: lackingHint,
		Err: fmt.Errorf("the standby nodes hold the log up to %s at least, and the service became active here with a log that ends at %s, of lineage %s: %w",
			h.Next, end, s.lib.lineage, errLacking),
	}}
}

// replaced reports whether the service here is a primary that has come back, as it
// was, after its cluster went on with another one: this process has written its log,
// and somebody else at the site has written since. What it lacks was never its own; mu
// is held.
func (s *stream) replaced(rec fence.EpochRecord) bool {
	return s.spent > 0 && rec.ActiveEpoch > s.spent && rec.Active.Node != s.agent.cfg.Node.Name && s.lib.lineage == s.spentOn
}

// errLacking says that the active service is behind what the standby nodes hold.
var errLacking = fmt.Errorf("it lacks what is durable there: %w", tidegate.ErrDiverged)

const lackingHint = "nothing of it is shipped. `tidegate failover` brings the service up with all that the standby nodes hold; " +
	"or have the cluster go on from a node that has it all, and make this one follow"

// The names of what an agent itself finds of a stream.
const (
	foundBehind   = "behind-standbys"
	foundDiverged = "diverged"
)

// found returns what the agent itself has found; ok is false while there is nothing.
// mu is held.
func (s *stream) found() (f local.Finding, ok bool) {
	d := s.diverged
	if d == nil || s.writer.Load() != nil {
		return f, false
	}
	f = local.Finding{Name: foundDiverged, Severity: local.SeverityWarning, Class: tidegate.Permanent, Text: d.reason, Hint: d.hint}
	if d.lacking {
		f.Name, f.Severity = foundBehind, local.SeverityCritical
	}
	return f, true
}

// divergence makes what is kept of a log that differs at a batch; mu is held.
func (s *stream) divergence(e *divergedError) *divergence {
	return &divergence{
		at: e.header.First, seq: e.header.Seq, epoch: e.header.Epoch, reason: e.Error(), hint: tidegate.HintOf(e.err),
		prefix: s.lib.head() == e.header.First, lacking: errors.Is(e, errLacking),
	}
}
