package standby

import (
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
)

// noteHandover looks whether the warm service stands at a handover: the writer's
// last batch of its epoch is committed, and everything before it is applied. The
// batch itself holds nothing for the store. The gate waits for this and must hear
// of it at once: meanwhile nobody serves. Called with mu held, when commit, the
// log or the library's progress have moved.
func (s *stream) noteHandover() {
	l := s.apply.library
	if l == nil || !l.appliedOK {
		return
	}
	end := s.log.End()
	if done := s.apply.handover; done != nil && done.Head == end && done.StateKnown {
		return
	}
	if end.Seq == 0 || s.core.ApplyTo() < end.Seq {
		return
	}
	_, h, err := s.log.At(end.Seq)
	if err != nil || h.Kind != batch.KindHandover || l.progress.Applied != h.Next {
		return // an unreadable log shows itself to whoever needs what is in it
	}
	l.applied = h.Seq
	done := &fence.Handover{Head: h.Pos(), Position: h.Next}
	if p := &l.progress; p.DigestAt == h.Next && !p.Digest.IsZero() {
		done.StateKnown, done.StateDigest = true, p.Digest
	}
	if old := s.apply.handover; old == nil || *old != *done {
		s.apply.handover = done
		s.n.urgent.ring()
		s.ring() // the acks speak of it, too
	}
}
