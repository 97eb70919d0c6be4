package standby

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/shipper"
)

// trimStep is how many segments go at a time: no sync can run meanwhile.
const trimStep = 2

// peerTimeout bounds asking another node where its log ends.
const peerTimeout = 3 * time.Second

// trimming is what is remembered between two looks; the goroutine's own.
type trimming struct {
	held map[tidegate.NodeName]tidegate.Instant // since when the log is kept for a node
}

// heldFor is for how long the log has been kept for a node.
func (t *trimming) heldFor(node tidegate.NodeName, now tidegate.Instant) time.Duration {
	since, held := t.held[node]
	if !held {
		return 0
	}
	return time.Duration(now - since)
}

// keepTrimmed removes what nobody needs any more of the log of a stream that has
// bases, until ctx ends. A log that nobody holds a base of is never touched.
func (s *stream) keepTrimmed(ctx context.Context) {
	if s.bases == nil || s.n.cfg.Bases.TrimOff {
		return
	}
	t := trimming{held: map[tidegate.NodeName]tidegate.Instant{}}
	tick := time.NewTicker(s.n.cfg.Bases.LookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.trim(ctx, &t); err != nil && ctx.Err() == nil {
			s.lg.Warn("trim log", keyErr, err)
			if errors.Is(err, tidegate.ErrStopped) {
				s.n.stop(err)
				return
			}
		}
	}
}

// trim looks once, and takes away what may go.
func (s *stream) trim(ctx context.Context, t *trimming) error {
	f, err := s.trimFacts(ctx)
	if err != nil {
		return err
	}
	r := f.rule()
	if r.To > f.First && s.log.TrimPoint(r.To, trimStep) > f.First {
		f.Peers = append(s.trimPeers(ctx, t, f.term), s.archivePeer(t, f.term)...) // they are asked only if it matters
		r = f.rule()
	}
	now := s.n.deps.Clock.Boot()
	for node := range t.held {
		if !slices.Contains(r.For, node) && !slices.Contains(r.Lost, node) {
			delete(t.held, node)
		}
	}
	for _, node := range r.For {
		if _, known := t.held[node]; !known {
			t.held[node] = now
		}
	}
	s.mu.Lock()
	s.trimmed = r
	if why := s.whyGivenUp(&r); why != "" {
		s.givenUp = why
	}
	s.mu.Unlock()
	for ctx.Err() == nil {
		to := s.log.TrimPoint(r.To, trimStep)
		if to <= s.log.First() {
			return nil
		}
		if err := s.trimTo(ctx, to, f); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// trimFacts gathers what is known on this node.
func (s *stream) trimFacts(ctx context.Context) (f trimFacts, err error) {
	f.Keep, f.Wait, f.Tight = s.n.cfg.Bases.Keep, s.n.cfg.Bases.TrimWait, s.n.tight()
	s.mu.Lock()
	f.Follows, f.Commit, f.term = s.settled(), s.core.ApplyTo(), s.core.Adopted()
	f.Applied, f.Known = s.apply.seq()
	f.Warm = s.hasWarm()
	s.mu.Unlock()
	f.First = s.log.First()
	end := s.log.End().Seq
	if f.Follows = f.Follows && f.Commit >= f.First; !f.Follows {
		return f, nil
	}
	if f.at, _, err = s.log.At(f.Commit); err != nil {
		return f, err
	}
	f.Spare = min(s.log.Behind(s.n.cfg.Bases.TrimExtra), end-min(end, shipper.TailMax))
	for _, l := range (Bases{s}).that(func(verdict) bool { return true }) { // one that is of no use says why
		first, err := s.keptFrom(l.Info)
		if err != nil {
			f.Useless = err.Error()
			continue
		}
		f.Bases = append(f.Bases, first)
	}
	if len(f.Bases) > 0 && s.bases.rooted && f.First == 1 {
		f.Bases = append(f.Bases, f.First) // the stream's beginning is a base as any other
	}
	slices.Sort(f.Bases)
	return f, ctx.Err()
}

// settled reports whether the node follows the active epoch and no change is under
// way; mu is held.
func (s *stream) settled() bool {
	rec, term := s.view.Record, s.core.Adopted()
	if rec == nil || rec.State != fence.StateActive || s.core.Limbo() || term.Epoch != rec.ActiveEpoch {
		return false
	}
	if s.core.Promise() != (fence.Promise{Epoch: term.Epoch, Holder: term.Holder}) {
		return false
	}
	p := s.view.partOf(s.n.cfg.Node, s.n.cfg.Site)
	return p == partMember || p == partLearner
}

// trimPeers asks the other nodes of the stream where their logs end, those of a term.
func (s *stream) trimPeers(ctx context.Context, t *trimming, term fence.Term) []trimPeer {
	s.mu.Lock()
	nodes := slices.Clone(s.view.Members)
	if s.view.Record != nil {
		for _, m := range s.view.Record.Config.Members {
			nodes = append(nodes, m.Node)
		}
	}
	s.mu.Unlock()
	slices.Sort(nodes)
	var peers []trimPeer
	for _, node := range slices.Compact(nodes) {
		if node == s.n.cfg.Node {
			continue
		}
		p := trimPeer{Node: node, Held: t.heldFor(node, s.n.deps.Clock.Boot())}
		next, err := s.askNext(ctx, node, term)
		if err != nil {
			s.lg.Debug("ask where the log ends", "node", string(node), keyErr, err)
		} else {
			p.Known, p.Next = true, next
		}
		peers = append(peers, p)
	}
	return peers
}

// askNext returns the batch of a term's log that another node needs next.
func (s *stream) askNext(ctx context.Context, node tidegate.NodeName, term fence.Term) (tidegate.Seq, error) {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	conn, at, err := s.n.attachTo(ctx, node, shipper.Attach{Stream: s.id, As: shipper.AsObserver})
	if err != nil {
		return 0, err
	}
	if at.Durable.Seq > 0 && at.Adopted.Epoch != term.Epoch {
		// What it has may not be of this history, and end before our log does.
		return 0, errors.Join(fmt.Errorf("node %s has adopted epoch %s, want %s", node, at.Adopted.Epoch, term.Epoch), conn.Close())
	}
	return at.Durable.Seq + 1, conn.Close()
}

// trimTo takes away what is before a segment's first batch. Between the rule and
// this the log may have been cut, here or on a node whose word the rule rests on, for
// another term: so it is made sure, with cuts held off, that log and term are those
// that were looked at. That it begins later is written down first.
func (s *stream) trimTo(ctx context.Context, to tidegate.Seq, f trimFacts) error {
	lineage, err := s.lineageThrough(to - 1)
	if err != nil {
		return err
	}
	s.syncing.Lock()
	defer s.syncing.Unlock()
	s.mu.Lock()
	ok := s.settled() && s.core.Adopted() == f.term && s.core.ApplyTo() >= f.Commit && s.log.First() < to && to <= f.Commit
	if ok {
		var at tidegate.LogPos
		at, _, err = s.log.At(f.Commit)
		ok = err == nil && at == f.at
	}
	var b shipper.Begin
	if ok {
		b, err = s.beginAt(to, lineage)
	}
	s.mu.Unlock()
	if err != nil || !ok {
		return err
	}
	if err := s.writeBegin(b); err != nil {
		return fmt.Errorf("write down where the log begins: %w: %w", tidegate.ErrStopped, err)
	}
	if err := s.log.TrimBefore(to); err != nil {
		return err
	}
	s.lg.Info("log trimmed", "before", to.String(), "position", b.Position.String(), "left", s.log.Bytes())
	return nil
}

// beginAt describes a log that begins with a batch; mu is held. The generations that
// are left must stay known by who opened them.
func (s *stream) beginAt(to tidegate.Seq, lineage tidegate.Lineage) (shipper.Begin, error) {
	before, _, err := s.log.At(to - 1)
	if err != nil {
		return shipper.Begin{}, err
	}
	_, h, err := s.log.At(to)
	if err != nil {
		return shipper.Begin{}, err
	}
	_, opened, known := s.openedOf(h.Generation)
	if !known || opened == 0 {
		return shipper.Begin{}, fmt.Errorf("who opened generation %d is not known: %w", h.Generation, tidegate.ErrNotFound)
	}
	return shipper.Begin{Before: before, Position: h.First, Generation: h.Generation, Opened: opened, Lineage: lineage}, nil
}

// findingTrim names what the node says when much is kept for somebody.
const findingTrim = "log-kept"

// trimFinding is what there is to say of what is kept; mu is held.
func (s *stream) trimFinding() []local.Finding {
	var list []local.Finding
	for _, node := range s.trimmed.Lost {
		if node == archivePeer {
			continue // said as a hole
		}
		list = append(list, local.Finding{
			Name: findingTrim, Severity: local.SeverityWarning, Text: fmt.Sprintf("log is kept no longer for node %s, which needs a base", node),
			Hint: "bring the node back, or take it out of the stream's members; on it: `tidegate standby set-aside`, then start it",
		})
	}
	if len(s.trimmed.For) > 0 {
		list = append(list, local.Finding{Name: findingTrim, Severity: local.SeverityInfo, Text: "log is kept: " + s.trimmed.Why})
	}
	return list
}
