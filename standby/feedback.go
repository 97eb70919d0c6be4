package standby

import (
	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/shipper"
)

// feedbackState is what goes back to the source from the warm copies of other nodes,
// while this node is their relay; guarded by the stream's mu. What it means only the
// stream's store knows.
type feedbackState struct {
	heard uint64 // counts what was heard of all nodes, so that each is passed on once
	of    map[tidegate.NodeName]askedBack
}

// askedBack is one node's newest statement.
type askedBack struct {
	number uint64
	shipper.Feedback
}

// next numbers a statement that was just heard.
func (f *feedbackState) next() uint64 {
	f.heard++
	return f.heard
}

// note keeps another node's statement.
func (f *feedbackState) note(m shipper.Feedback) {
	f.of[m.Node] = askedBack{f.next(), m}
}

// takeFeedback keeps what the library asks of the source. It is passed on while the
// library is proven to follow.
func (l *library) takeFeedback(m *local.Feedback) {
	opaque := m.Opaque
	l.note(func() { l.asked, l.askedAs = opaque, l.s.feedback.next() })
}

// prove notes after an order was carried out whether the library is being fed the
// log of its epoch: whatever it applies from then on is of that log, and may be told
// to the writer. It is once it was given all that was committed: what the adoption of
// the epoch may have cut behind the cursor ends the session before that. A resting
// library is not: nothing shows that it still is where the log is.
func (l *library) prove(o order, fed, all bool) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	proven := tidegate.Epoch(0)
	own := l.hello.Generation
	if o.role.State == local.StateFollow && o.prove && fed && (own == 0 || own == o.role.Generation) && (all || l.proven == o.role.Epoch) {
		proven = o.role.Epoch
	}
	if l.proven != proven {
		l.proven = proven
		l.s.ring()
	}
}

// at returns the end of what the warm service has applied of the log of an epoch;
// 0 while that is not proven. A service that is active is no copy. mu is held.
func (a *applyState) at(epoch tidegate.Epoch) tidegate.Position {
	l := a.library
	if l == nil || l.active || l.proven != epoch || !l.appliedOK || l.progress.Applied > l.told.ApplyTo {
		return 0
	}
	return l.progress.Applied
}

// feedbackFor appends what the feed has not been sent of what warm copies ask.
func (s *stream) feedbackFor(f *feed, sent map[tidegate.NodeName]uint64, due []askedBack) []askedBack {
	s.mu.Lock()
	defer s.mu.Unlock()
	epoch, self := f.promise.Epoch, s.n.cfg.Node
	if l := s.apply.library; l != nil && !l.active && l.proven == epoch && l.askedAs > sent[self] {
		due = append(due, askedBack{l.askedAs, shipper.Feedback{
			Node: self, Incarnation: s.core.Meta().Incarnation, Epoch: epoch, Opaque: l.asked,
		}})
	}
	if f.as != shipper.AsWriter {
		return due
	}
	for node, a := range s.feedback.of {
		if a.Epoch == epoch && a.number > sent[node] {
			due = append(due, a)
		}
	}
	return due
}
