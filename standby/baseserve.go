package standby

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/snapshot"
)

// AttachBase implements shipper.BaseHandler.
func (n *Standby) AttachBase(ctx context.Context, peer tidegate.Identity, a shipper.BaseAttach, conn *shipper.ServerConn) error {
	s := n.stream(a.Stream)
	switch {
	case s == nil:
		r := shipper.Refuse(shipper.CodeNotFound, "stream %s is not known to node %s", a.Stream, n.cfg.Node)
		r.Hint = "the gate tells a node its streams; see `tidegate streams list`"
		return r
	case s.fault != nil:
		return limboRefusal(s.fault)
	case s.bases == nil, s.bases.rooted && a.Way == shipper.BasePush:
		return s.refuseBase()
	case a.Way == shipper.BasePush:
		return s.pushed(ctx, peer, a, conn)
	}
	return s.giveBase(ctx, a, conn)
}

// pushed takes a base from the stream's writer.
func (s *stream) pushed(ctx context.Context, peer tidegate.Identity, a shipper.BaseAttach, conn *shipper.ServerConn) error {
	b := s.bases
	s.mu.Lock()
	err := s.mayPush(a, 0)
	sp, opened, _ := s.openedOf(a.Generation)
	_, v := b.whole(sp)
	yes := shipper.BaseAttached{
		Node: s.n.cfg.Node, Incarnation: s.core.Meta().Incarnation, Generation: a.Generation, Opened: opened,
		Held: opened != 0 && v != verdictNot,
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if yes.Held {
		if err := conn.AcceptBase(yes); err != nil {
			return err
		}
		for {
			if _, err := conn.Recv(); err != nil { // the peer goes: it has nothing to do here
				return err
			}
		}
	}
	t := &taking{generation: a.Generation, opened: opened, from: peer.Name, promise: a.Promise, began: s.n.deps.Clock.Boot(), end: conn.Interrupt, done: make(chan struct{})}
	in, err := b.begin(ctx, t, shipper.Refuse(shipper.CodeStopping, "superseded by a newer base"))
	if err != nil {
		return err
	}
	defer b.finish(t, in)
	if err := conn.AcceptBase(yes); err != nil {
		return err
	}
	s.lg.Info("base is being taken", keyPeer, peer.String(), "generation", uint32(a.Generation))
	return s.take(ctx, conn, t, in, func(info snapshot.Info) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if info.Generation != a.Generation {
			return fmt.Errorf("manifest is of generation %d, the session of %d: %w", info.Generation, a.Generation, tidegate.ErrConflict)
		}
		return s.mayPush(a, info.Opened)
	})
}

// openedOf returns the epoch in which the log's generation g began; known is false
// when the log has no batch of it. mu is held.
func (s *stream) openedOf(g tidegate.Generation) (sp span, opened tidegate.Epoch, known bool) {
	end := s.log.End().Seq
	if end == 0 || end < s.log.First() {
		return sp, 0, false
	}
	_, h, err := s.log.At(end)
	if err != nil || h.Generation < g {
		return sp, 0, false
	}
	sp, err = s.bases.span(s.log, g, end)
	if err != nil {
		return sp, 0, false
	}
	if _, h, err = s.log.At(sp.first); err != nil || h.Generation != g {
		return sp, 0, false
	}
	return sp, sp.opened, true
}

// mayPush reports whether the writer that pushes may; opened is the epoch that its
// manifest names, 0 while there is none. mu is held.
func (s *stream) mayPush(a shipper.BaseAttach, opened tidegate.Epoch) error {
	if err := s.core.CheckAppend(a.Promise.Epoch, a.Promise.Holder, a.Promise.Epoch); err != nil {
		return s.refusal(err)
	}
	_, have, known := s.openedOf(a.Generation)
	if opened != 0 && known && opened != have {
		return shipper.Refuse(shipper.CodeDiverged, "base of generation %d that epoch %s opened, the log's was opened by %s", a.Generation, opened, have)
	}
	return nil
}

// take runs the receiving end of a base, whoever dialled.
func (s *stream) take(ctx context.Context, link shipper.BaseLink, t *taking, in *snapshot.Intake, allowed func(snapshot.Info) error) error {
	r := shipper.BaseReceiver{
		Link: link, Intake: in, Meter: &t.meter,
		Wait: func(ctx context.Context, n int) error {
			if s.n.full.Load() {
				return s.n.refuseFull()
			}
			return s.n.limits.copying.Wait(ctx, n)
		},
		Here: func(place uint64, x snapshot.Name) {
			s.mu.Lock()
			defer s.mu.Unlock()
			t.order = append(t.order, arrival{place, x})
			s.ring()
		},
		Commit: func(ctx context.Context, manifest []byte) (snapshot.Listed, error) {
			l, err := in.Commit(ctx, manifest, func(info snapshot.Info) error {
				if info.Stream != s.id {
					return shipper.Refuse(shipper.CodeProtocol, "manifest of stream %s", info.Stream)
				}
				return allowed(info)
			})
			if err != nil {
				return l, err
			}
			if err := s.bases.hold(l); err != nil {
				return l, err
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			t.listed = &l
			s.ring()
			return l, nil
		},
	}
	_, err := r.Run(ctx)
	if errors.Is(err, tidegate.ErrStopped) {
		// A sync has failed: what is on the disk is not known any more.
		s.n.stop(err)
	}
	p := t.meter.Progress()
	s.lg.Info("base session ended", keyPeer, t.from, "generation", uint32(t.generation), "bytes", p.Bytes, "new", p.Needed, "crossed", p.Sent, keyErr, err)
	return err
}

// source is where a base is given from: one that is held, or one that the writer
// is pushing here.
type source struct {
	listed *snapshot.Listed
	taking *taking
}

// findBase looks for a base of the generation, the newest if it is 0: for one of which
// it is certain that the log goes on from it, before one that lies ahead of the log.
// None of a history that the log went on without is given to anybody. mu is held.
func (s *stream) findBase(g tidegate.Generation) (src source, opened tidegate.Epoch, found bool) {
	b := s.bases
	if t := b.now; t != nil && t.promise != (fence.Promise{}) && (g == 0 || t.generation == g) {
		return source{taking: t}, t.opened, true
	}
	for _, l := range slices.Backward(b.store.Bases()) {
		if g != 0 && l.Generation != g || !b.holds(l.Generation, l.Opened) {
			continue
		}
		if src.listed != nil && l.Generation != src.listed.Generation {
			break
		}
		switch b.verdict(&l) {
		case verdictOf:
			return source{listed: &l}, l.Opened, true
		case verdictOpen:
			if src.listed == nil {
				src.listed = &l
			}
		case verdictNot:
		}
	}
	if src.listed == nil {
		return src, 0, false
	}
	return src, src.listed.Opened, true
}

// pickBase finds a base that is held, by its name; mu is held.
func (s *stream) pickBase(name snapshot.Name) (src source, opened tidegate.Epoch, found bool) {
	for _, l := range s.usableBases() {
		if l.Name == name {
			return source{listed: &l}, l.Opened, true
		}
	}
	return src, 0, false
}

// usableBases are those that are held and that are, or may be, of the log, in the order of
// the store; mu is held.
func (s *stream) usableBases() []snapshot.Listed {
	if s.bases == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(s.bases.held), func(l snapshot.Listed) bool { return s.bases.verdict(&l) == verdictNot })
}

// giveBase gives another node a base: one that is held, or, while it is on its way
// here from the writer, everything as it arrives.
func (s *stream) giveBase(ctx context.Context, a shipper.BaseAttach, conn *shipper.ServerConn) error {
	s.mu.Lock()
	src, opened, found := s.findBase(a.Generation)
	if a.Way == shipper.BasePick {
		src, opened, found = s.pickBase(a.Name)
	}
	yes := shipper.BaseAttached{Node: s.n.cfg.Node, Incarnation: s.core.Meta().Incarnation, Generation: a.Generation, Opened: opened}
	s.mu.Unlock()
	switch {
	case !found && a.Way == shipper.BasePick:
		return shipper.Refuse(shipper.CodeNotFound, "node %s has no base %.12s", s.n.cfg.Node, a.Name)
	case !found:
		return shipper.Refuse(shipper.CodeNotFound, "node %s has no base of generation %d", s.n.cfg.Node, a.Generation)
	case src.taking != nil:
		yes.Generation = src.taking.generation
	default:
		yes.Generation, yes.Start = src.listed.Generation, src.listed.Start
	}
	if err := conn.AcceptBase(yes); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sender := shipper.NewBaseSender(conn)
	var giving errgroup.Group
	giving.Go(func() error {
		err := s.give(ctx, sender, yes.Generation, src)
		if err == nil {
			err = errGiven
		}
		conn.Interrupt(err)
		return err
	})
	err := sender.Run()
	cancel()
	conn.Hasten()
	_ = giving.Wait() // the same end, seen from the other side
	if errors.Is(err, errGiven) {
		err = nil
	}
	return err
}

// errGiven ends a session whose base has arrived.
var errGiven = fmt.Errorf("base was given: %w", net.ErrClosed)

// give sends what there is. One that is still coming is followed; should the writer
// begin anew, so does this, and what the other node has is not sent again.
func (s *stream) give(ctx context.Context, to *shipper.BaseSender, g tidegate.Generation, src source) error {
	var meter snapshot.Meter
	giver := s.bases.store.Giver(0)
	defer giver.Close()
	for src.listed == nil {
		next, err := s.giveTaking(ctx, to, giver, src.taking, &meter)
		if err != nil {
			return err
		}
		if src = next; src.listed != nil || src.taking != nil {
			continue
		}
		b := s.follow()
		for src.listed == nil && src.taking == nil {
			s.mu.Lock()
			src, _, _ = s.findBase(g)
			s.mu.Unlock()
			if src.listed != nil || src.taking != nil {
				break
			}
			select {
			case <-b:
			case <-ctx.Done():
				s.unfollow(b)
				return ctx.Err()
			}
		}
		s.unfollow(b)
	}
	pin, err := s.bases.store.Reader(*src.listed)
	if err != nil {
		return err
	}
	defer pin.Close() // until then it stays
	raw, m, err := s.bases.store.Manifest(*src.listed)
	if err != nil {
		return err
	}
	if err := to.Total(m.Bytes()); err != nil {
		return err
	}
	if err := giver.GiveAll(ctx, to, m, &meter); err != nil {
		return err
	}
	return to.Commit(ctx, raw, src.listed.Name)
}

// giveTaking sends extents as they arrive here, until the base is held or its
// session is over; then next holds nothing.
func (s *stream) giveTaking(ctx context.Context, to *shipper.BaseSender, giver *snapshot.Giver, t *taking, meter *snapshot.Meter) (next source, err error) {
	b := s.follow()
	defer s.unfollow(b)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(snapshot.InFlightDefault)
	total := int64(0)
	for at := 0; ctx.Err() == nil; {
		s.mu.Lock()
		due := t.order[at:]
		done := t.over || t.listed != nil
		next = source{listed: t.listed}
		s.mu.Unlock()
		if p := t.meter.Progress(); p.Total != total {
			total = p.Total
			if err := to.Total(total); err != nil {
				return next, errors.Join(err, g.Wait())
			}
		}
		for _, x := range due {
			g.Go(func() error {
				n, p, err := giver.Give(ctx, to, x.place, x.name)
				meter.Took(n, p)
				return err
			})
		}
		if at += len(due); len(due) > 0 {
			continue
		}
		if done {
			return next, g.Wait()
		}
		select {
		case <-b:
		case <-ctx.Done():
		}
	}
	return source{}, errors.Join(g.Wait(), ctx.Err())
}
