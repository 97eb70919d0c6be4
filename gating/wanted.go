package gating

import (
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
)

// The standby set of an epoch depends on where its writer is: a copy at the
// writer's own site goes down with it. Of the configured nodes those at other
// sites are taken, if at least W of them can adopt; otherwise those beside the
// writer, so that the stream is not without any; otherwise all there are, of
// which the plan keeps those that do adopt. Configured nodes that are left out
// are learners: they follow, and count again in a later epoch.

// wantedConfig returns the configuration that a writer at site should have, nil
// when it is the one on record. able says whether a node can be counted on to
// have the log at hand.
func wantedConfig(v *registry.View, s registry.Stream, have fence.Config, site tidegate.SiteName, able func(tidegate.NodeName) bool) *fence.Config {
	var near, away []fence.Member
	ready := 0
	for _, n := range s.Members {
		m, ok := memberOf(v, have, n)
		if !ok {
			continue // not registered: nobody can ask it
		}
		if node, ok := v.Node(registry.KindStandby, n); ok && node.Site == site {
			near = append(near, m)
			continue
		}
		if away = append(away, m); able(n) {
			ready++
		}
	}
	switch {
	case ready >= s.W:
		return unlessSame(fence.Config{Members: away, W: s.W}, have)
	case len(near) >= s.W:
		return unlessSame(fence.Config{Members: near, W: s.W}, have)
	}
	return unlessSame(fence.Config{Members: append(near, away...), W: s.W}, have)
}

// withMember returns the configuration on record, less what is not configured any
// more, with one node added: the first part of a failback.
func withMember(v *registry.View, s registry.Stream, have fence.Config, add tidegate.NodeName) *fence.Config {
	want := fence.Config{W: s.W}
	for _, n := range s.Members {
		if m, ok := memberOf(v, have, n); ok && (n == add || have.Index(n) >= 0) {
			want.Members = append(want.Members, m)
		}
	}
	return unlessSame(want, have)
}

// memberOf names a node with the incarnation that counts. A member on record keeps
// its own: another one must leave limbo first.
func memberOf(v *registry.View, have fence.Config, n tidegate.NodeName) (fence.Member, bool) {
	if i := have.Index(n); i >= 0 {
		return have.Members[i], true
	}
	node, ok := v.Node(registry.KindStandby, n)
	return fence.Member{Node: n, Incarnation: node.Incarnation}, ok && !node.Incarnation.IsZero()
}

func unlessSame(want, have fence.Config) *fence.Config {
	fence.SortMembers(want.Members)
	if want.W == have.W && slices.Equal(want.Members, have.Members) || want.Validate() != nil {
		return nil
	}
	return &want
}

// counted is the ability of a node to be counted on by an agent's start: it is
// counted already. A start must not wait for the copying of a new member's log.
func counted(have fence.Config) func(tidegate.NodeName) bool {
	return func(n tidegate.NodeName) bool { return have.Index(n) >= 0 }
}

// able returns whether a node can be counted on by a change of writer or of the
// configuration: it is counted and answers, or it keeps up.
func (w *world) able(rec fence.EpochRecord, stale time.Duration) func(tidegate.NodeName) bool {
	alive, up := w.aliveMembers(rec.Config, rec.Stream, stale), w.keepsUp(rec, stale)
	return func(n tidegate.NodeName) bool { return slices.Contains(alive, string(n)) || up(n) }
}

// keepsUp returns whether a node has the log at hand: it reported lately, out of
// limbo and without an error, has adopted the active epoch, and holds what was
// durable one report of the writer ago.
func (w *world) keepsUp(rec fence.EpochRecord, stale time.Duration) func(tidegate.NodeName) bool {
	return func(n tidegate.NodeName) bool { return w.lagOf(rec, n, stale) == "" }
}

// lagOf says why a node does not keep up with a stream; "" when it does.
func (w *world) lagOf(rec fence.EpochRecord, n tidegate.NodeName, stale time.Duration) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	st := w.standbys[n]
	if st == nil {
		return "has not reported to this gate"
	}
	if w.age(st.at) > stale {
		return "has been silent for " + w.age(st.at).Round(time.Second).String()
	}
	i := slices.IndexFunc(st.report.GetStreams(), func(s *pb.StandbyStream) bool { return s.GetStreamId() == rec.Stream.String() })
	if i < 0 {
		return "does not know the stream yet"
	}
	s := st.report.GetStreams()[i]
	var adopted uint64
	if h := s.GetHistory(); len(h) > 0 {
		adopted = h[len(h)-1].GetEpoch()
	}
	switch due := w.durableBefore(rec); {
	case s.GetError() != "":
		return s.GetError()
	case s.GetLimbo():
		return "does not know what it had"
	case tidegate.Epoch(adopted) < rec.ActiveEpoch:
		return "has not adopted epoch " + rec.ActiveEpoch.String()
	case s.GetDurable().GetSeq() < due:
		return "is at batch " + tidegate.Seq(s.GetDurable().GetSeq()).String() + " of " + tidegate.Seq(due).String()
	}
	return ""
}
