package agent

import (
	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/shipper"
)

// warmCopy is how far the warm copy beside a node has applied the log, as the node
// said last: 0 where there is none, or none that is proven to follow this epoch's.
type warmCopy struct {
	of fence.Member
	at tidegate.Position
}

// noteWarm takes what an ack says of the node's warm copy and reports whether the
// furthest one moved; mu is held.
func (w *writer) noteWarm(a fence.Ack) bool {
	if w.ring != nil && w.opening() {
		w.warm = nil // what was applied was of the generation before
		return false
	}
	now := warmCopy{fence.Member{Node: a.Node, Incarnation: a.Incarnation}, a.AppliedAt}
	if a.Applied < w.entry {
		now.at = 0 // W nodes have the generation's base; this one's warm copy is not of it yet
	}
	if a.Epoch != w.epoch || w.warm[a.Node] == now {
		return false
	}
	was := w.furthest()
	if w.warm == nil {
		w.warm = map[tidegate.NodeName]warmCopy{}
	}
	w.warm[a.Node] = now
	return w.furthest() != was
}

// furthest is the end of what the furthest warm copy has applied; 0 when that is not
// known of any. Only a node whose acks count for D is believed. mu is held.
func (w *writer) furthest() (p tidegate.Position) {
	for _, c := range w.warm {
		if c.at > p && w.core.Counts(c.of) {
			p = c.at
		}
	}
	return p
}

// onFeedback hands on what a node's warm copy asks of the source.
func (w *writer) onFeedback(f shipper.Feedback) {
	w.mu.Lock()
	counts := f.Epoch == w.epoch && w.core.Counts(fence.Member{Node: f.Node, Incarnation: f.Incarnation})
	w.mu.Unlock()
	if counts && w.s.asksBack() {
		w.s.send(&local.Feedback{Node: f.Node, Opaque: f.Opaque})
	}
}

// asksBack reports whether the library wants to hear what comes back from warm
// copies. Others are not woken for it.
func (s *stream) asksBack() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lib.conn != nil && s.lib.hello.Warm
}
