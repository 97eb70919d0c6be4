package standby

import (
	"context"
	"fmt"
	"slices"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/snapshot"
)

// beginBehind makes this log, which is empty, one that begins where that of a source
// begins, whose older batches were trimmed. The base that stands for those must be
// held here. beyond says that it begins behind the head that is asked for: then the
// source must have adopted the epoch from that very head, for what was there can
// not be compared any more.
func (s *stream) beginBehind(at shipper.Attached, e fence.Fetch) (beyond bool, err error) {
	b := at.Begin
	s.mu.Lock()
	defer s.mu.Unlock()
	// The lock is kept for what is written: nobody may append, and a node whose log is
	// empty keeps nobody waiting.
	if beyond, err = s.mayBeginBehind(at, e); err != nil {
		return false, err
	}
	if err := s.writeBegin(b); err != nil {
		return false, fmt.Errorf("write down where the log begins: %w", err)
	}
	if err := s.log.Begin(b.Before); err != nil {
		s.n.stop(err)
		return false, err
	}
	s.bases.want = shipper.Begin{}
	s.bases.cut()
	s.replay.cut(b.Before.Seq)
	s.witness.cut()
	s.lg.Info("log begins behind a base", "source", string(at.Node), "before", b.Before.Seq.String(), "position", b.Position.String())
	return beyond, nil
}

// mayBeginBehind checks what beginBehind rests on; mu is held.
func (s *stream) mayBeginBehind(at shipper.Attached, e fence.Fetch) (beyond bool, err error) {
	b := at.Begin
	p := s.core.Promise()
	beyond = b.Before.Seq > e.To.Seq
	switch {
	case !s.log.Empty():
		return false, fmt.Errorf("log of %s begins behind %s: %w", at.Node, b.Before.Seq, tidegate.ErrGap)
	case s.bases == nil:
		return false, fmt.Errorf("log of %s was trimmed, and the stream has no bases: %w", at.Node, tidegate.ErrUnsupported)
	case beyond && at.Adopted != (fence.Term{Epoch: p.Epoch, StartSeq: e.To.Seq + 1, Holder: p.Holder}):
		return false, fmt.Errorf("log of %s begins behind %s, beyond the head %s, and has adopted epoch %s from %s: %w",
			at.Node, b.Before.Seq, e.To.Seq, at.Adopted.Epoch, at.Adopted.StartSeq, fence.ErrNotAdopted)
	case !s.bases.covers(b):
		s.bases.want = b
		return false, fmt.Errorf("log of %s begins at %s of generation %d, and no base is held from there on: %w", at.Node, b.Position, b.Generation, tidegate.ErrNotFound)
	}
	return beyond, nil
}

// beginAnew lets a node that has adopted the active epoch and holds nothing begin
// where the others' logs begin: of an epoch that began with the stream there was
// nothing to copy, and nobody keeps its first batches any more.
func (s *stream) beginAnew(ctx context.Context) {
	for _, node := range s.anewFrom() {
		conn, at, err := s.n.attachTo(ctx, node, shipper.Attach{Stream: s.id, As: shipper.AsObserver})
		if err != nil {
			continue // it is asked again
		}
		_ = conn.Close() // it has said everything
		if at.Begin.Before.Seq == 0 {
			return // it can be copied from the first batch on
		}
		if err = s.n.vouches(s.id, at); err == nil {
			err = s.beginNow(at)
		}
		if err == nil {
			return
		}
		s.lg.Debug("begin behind a base", "node", string(node), keyErr, err)
	}
}

// anewFrom lists the nodes to ask; none when this one holds something.
func (s *stream) anewFrom() []tidegate.NodeName {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bases == nil || !s.log.Empty() || s.log.First() > 1 || !s.settled() {
		return nil
	}
	return s.sources(s.view.Record)
}

// beginNow is beginBehind outside of an adopt.
func (s *stream) beginNow(at shipper.Attached) error {
	s.mu.Lock()
	t := s.core.Adopted()
	err := s.core.CheckAppend(t.Epoch, t.Holder, t.Epoch) // nothing else is at the log
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if _, err := s.beginBehind(at, fence.Fetch{To: tidegate.LogPos{Seq: t.StartSeq - 1}}); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.core.Received(s.log.End())
	s.core.Durable(s.log.Durable())
	s.ring()
	return nil
}

// beginAs makes this log, which is empty, begin as a source's does.
func (s *stream) beginAs(at shipper.Attached, e fence.Fetch) (beyond bool, err error) {
	if at.Begin.Before.Seq > 0 {
		return s.beginBehind(at, e)
	}
	if s.log.First() > 1 {
		if err := s.log.Begin(tidegate.LogPos{}); err != nil {
			return false, err
		}
	}
	return false, s.forgetBegin()
}

// covers reports whether a base is held from which a log that begins so goes on, or
// one of a later generation, which the log may come to: whether it has, and by the
// same opener, is seen from the log. mu is held.
func (b *bases) covers(at shipper.Begin) bool {
	return slices.ContainsFunc(b.held, func(l snapshot.Listed) bool {
		return l.Generation > at.Generation || goesOn(l.Info, at)
	})
}

// wanting reports whether the base is missing that a source's log goes on from; mu
// is held.
func (b *bases) wanting() bool { return b.want.Before.Seq != 0 && !b.covers(b.want) }

// goesOn reports whether a log that begins at goes on from a base: the base is of the
// log's generation, needs nothing from before, and was taken of a history that is the
// log's where it begins. How far it is the log's behind that the beginning cannot say.
func goesOn(base snapshot.Info, at shipper.Begin) bool {
	return base.Generation == at.Generation && base.Opened == at.Opened && base.Start >= at.Position &&
		extends(base.Lineage, at.Lineage, at.Position)
}

// wholeAt is bases.whole as a function of what is held, of those of it that count, and of
// where the log begins; the zero value: with its stream.
func wholeAt(held []snapshot.Listed, sp span, begin shipper.Begin, is func(*snapshot.Listed) bool) (to tidegate.Position, based bool) {
	for i := range held {
		switch l := &held[i]; {
		case l.Generation != sp.generation || l.Opened != sp.opened:
		case begin.Before.Seq > 0 && sp.generation <= begin.Generation && !goesOn(l.Info, begin):
		case !is(l):
		case !based || l.End < to:
			to, based = l.End, true
		}
	}
	return to, based
}
