package standby

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/retry"
	"github.com/tidegate/tidegate/snapshot"
)

// applyState is what is known of the warm service beside this node; guarded by
// the stream's mu.
type applyState struct {
	fault     error    // why nothing is applied; stays until the library connects again
	library   *library // nil while none is connected
	promotion *promotion
	unfit     map[snapshot.Name]unfit
	handover  *fence.Handover // newest one that the warm service stands at or has passed
}

// promotion is what Promote has been told, for as long as its epoch is adopted.
type promotion struct {
	promise fence.Promise
	head    tidegate.LogPos
	at      tidegate.Position // end of the head batch: where the new history forks off
}

// library is one session with the journal library.
type library struct {
	s     *stream
	conn  *local.Conn
	hello local.Hello
	target
	over chan struct{} // closed when its last message has been taken

	// Guarded by the stream's mu.
	states    snapshots
	findings  local.Findings // what it says of itself and of its store
	heard     bool           // its first message came: whether it is active is known
	active    bool
	told      local.Role // last role sent
	progress  local.LibraryProgress
	own       tidegate.Lineage // of its journal, as it last said
	reborn    bool             // it was active since: what is known of its journal is old
	applied   tidegate.Seq
	appliedOK bool
	proven    tidegate.Epoch // it is fed the log of this epoch: what it applies is of that; 0 while it is not
	asked     string         // of the source
	askedAs   uint64         // number of that statement; 0 while it has asked nothing

	// The feeding goroutine's own.
	opener  batch.Opener
	payload []byte
	lineage tidegate.Lineage
	settled settling
	fed     tidegate.Position // end of the newest batch that was sent; where it begins before the first

	// The receiving goroutine's own.
	near tidegate.Seq // where the applied position was found last
}

// seq returns the newest batch that the warm service has applied, if known.
func (a *applyState) seq() (tidegate.Seq, bool) {
	if a.library == nil {
		return 0, false
	}
	return a.library.applied, a.library.appliedOK
}

// serveLibraries listens for the service's library until ctx ends.
func (s *stream) serveLibraries(ctx context.Context, service tidegate.ServiceName, name tidegate.StreamName) error {
	path := local.SocketPath(s.n.cfg.RunDir, local.DaemonStandby, service, name)
	check := func(h local.Hello) error {
		s.mu.Lock()
		store := s.view.store()
		s.mu.Unlock()
		return checkLibrary(h, service, name, store)
	}
	backoff := retry.Policy{}.Backoff()
	for {
		err := s.acceptLibraries(ctx, path, check)
		if ctx.Err() != nil {
			return nil
		}
		s.lg.Warn("local socket is not served", "path", path, keyErr, err, "hint", tidegate.HintOf(err))
		s.setApplyFault(err)
		if backoff.Wait(ctx) != nil {
			return nil
		}
	}
}

func (s *stream) acceptLibraries(ctx context.Context, path string, check func(local.Hello) error) error {
	ln, err := local.Listen(path)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var sessions sync.WaitGroup
	defer sessions.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() }) // Accept reports it
	defer stop()
	for {
		conn, err := ln.Accept()
		if err != nil {
			return errors.Join(err, ln.Close())
		}
		sessions.Go(func() {
			if err := s.serveLibrary(ctx, conn, check); err != nil && ctx.Err() == nil {
				s.lg.Warn("session with the library ended", keyErr, err)
			}
		})
	}
}

// serveLibrary runs one session. A newer one ends an older.
func (s *stream) serveLibrary(ctx context.Context, conn *local.Conn, check func(local.Hello) error) error {
	hello, err := conn.Serve(ctx, local.Welcome{Daemon: local.DaemonStandby, Node: s.n.cfg.Node}, check)
	if err != nil {
		return err
	}
	if err := s.attend(); err != nil {
		return errors.Join(err, conn.Close())
	}
	l := &library{s: s, conn: conn, hello: hello, target: targetOf(hello.Kind), over: make(chan struct{}), lineage: hello.Lineage, own: hello.Lineage}
	s.mu.Lock()
	if old := s.apply.library; old != nil {
		_ = old.conn.Close() // its session reports it
	}
	s.apply.library, s.apply.fault = l, nil
	s.ring()
	s.mu.Unlock()
	s.lg.Info("library connected", "dir", hello.Dir, "end", hello.End.String(), "endpoint", hello.Endpoint)

	g, gctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(gctx, func() { _ = conn.Close() }) // Recv reports it
	defer stop()
	g.Go(func() error {
		defer close(l.over)
		return l.receive(gctx)
	})
	g.Go(func() error { return l.feed(gctx) })
	err = g.Wait()
	s.mu.Lock()
	if s.apply.library == l {
		s.apply.library = nil
		s.replay.paused()
	}
	if tidegate.ClassOf(err) != tidegate.Transient && ctx.Err() == nil {
		s.apply.fault = err
	}
	s.ring()
	s.mu.Unlock()
	return errors.Join(err, conn.Close(), l.unsettle())
}

func checkLibrary(h local.Hello, service tidegate.ServiceName, name tidegate.StreamName, store string) error {
	if h.Service == service && h.Stream == name {
		return h.CheckKind(store)
	}
	return &tidegate.Error{
		Op: "serve library of", Subject: fmt.Sprintf("%s/%s", h.Service, h.Stream), Class: tidegate.Misuse,
		Hint: "the socket's name and the library's configuration must name the same stream",
		Err:  fmt.Errorf("this socket is of %s/%s", service, name),
	}
}

func (s *stream) setApplyFault(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apply.fault = err
	s.ring()
}

// receive takes the library's messages until the session ends.
func (l *library) receive(ctx context.Context) error {
	for {
		m, err := l.conn.Recv()
		if err != nil {
			return &tidegate.Error{Op: "session with library", Class: tidegate.Transient, Err: err}
		}
		switch m := m.(type) {
		case *local.Activated:
			lineage := m.Lineage
			l.note(func() { l.heard, l.active, l.reborn, l.own, l.proven = true, true, true, lineage, 0 })
		case *local.Deactivated:
			// Where its journal ends now, the progress that follows will say: what was
			// heard before may lack what it wrote last.
			l.note(func() { l.heard, l.active, l.reborn, l.proven = false, false, true, 0 })
		case *local.LibraryProgress:
			p := *m
			seq, ok, err := l.appliedSeq(p.Applied)
			if err != nil {
				return err
			}
			l.note(func() {
				l.heard, l.progress = true, p
				l.applied, l.appliedOK = seq, ok
				if ok {
					l.s.replay.applied(l.s.n.deps.Clock.Boot(), seq)
				}
			})
		case *local.Finding:
			news := false
			l.note(func() { news = l.findings.Note(m) })
			if news && m.Text != "" {
				l.s.lg.Warn("library found something", "finding", m.Name, "severity", m.Severity.String(), keyErr, m.Text, "hint", m.Hint)
			}
		case *local.Feedback:
			l.takeFeedback(m)
		case *local.Snapshots:
			empty := m.Empty
			l.note(func() { l.states.can, l.states.empty = true, empty })
		case *local.Snapshot, *local.SnapshotRead, *local.SnapshotPart:
			if err := l.hand(ctx, m); err != nil {
				return err
			}
		default:
			return fmt.Errorf("library sent %T", m)
		}
	}
}

func (l *library) note(change func()) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	change()
	l.s.noteHandover()
	l.s.ring()
}

// endOf returns the newest batch that a library of a generation can have: the log's
// own end, or where a newer generation follows. of is 0 where there is but one.
func (s *stream) endOf(of tidegate.Generation) (tidegate.Seq, batch.Header, error) {
	end := s.log.End().Seq
	if end == 0 || s.log.Empty() {
		return 0, batch.Header{}, nil
	}
	_, h, err := s.log.At(end)
	if err != nil || of == 0 || h.Generation <= of {
		return end, h, err
	}
	if end, err = s.log.LastOf(of); err != nil || end == 0 {
		return 0, batch.Header{}, err
	}
	_, h, err = s.log.At(end)
	return end, h, err
}

// appliedSeq finds the newest batch that lies wholly before a position of the
// library's generation. It is not known when the log does not reach to the position.
// A library that is far behind reports often: what was found last says where to look.
func (l *library) appliedSeq(p tidegate.Position) (tidegate.Seq, bool, error) {
	of := l.hello.Generation
	end, h, err := l.s.endOf(of)
	switch {
	case err != nil:
		return 0, false, err
	case end == 0:
		b, _ := l.s.begin()
		return b.Before.Seq, p == b.Position, nil
	case of != 0 && h.Generation != of:
		return 0, false, nil
	case p >= h.Next:
		return end, p == h.Next, nil
	}
	next, err := l.s.log.FindPositionNear(h.Generation, p, l.near)
	switch {
	case errors.Is(err, tidegate.ErrNotFound):
		return 0, false, nil
	case err != nil:
		return 0, false, err
	}
	if b, _ := l.s.begin(); b.Before.Seq > 0 && b.Generation == h.Generation && p < b.Position {
		return 0, false, nil // the log begins behind what it has
	}
	l.near = next - 1
	return l.near, true, nil
}

// feed sends the library its part and, while it follows, what is committed.
func (l *library) feed(ctx context.Context) error {
	b := l.s.follow()
	defer l.s.unfollow(b)
	var cursor followCursor
	defer func() { cursor.close() }()
	for {
		o, ok, err := l.part()
		if ok {
			o, err = l.fit(o)
		}
		if ok && err == nil && l.hello.Rest && o.role.State == local.StateFollow {
			o.role.Lineage, err = l.s.termLineage(o.upTo)
		}
		if ok && err == nil && o.prove {
			ok, err = l.settle(ctx)
		}
		if err != nil {
			return err
		}
		if ok {
			if err := l.tell(o.role); err != nil {
				return err
			}
			if err := l.feedTo(ctx, &cursor, o); err != nil {
				return err
			}
		}
		l.prove(o, ok && cursor.c != nil, ok && cursor.c != nil && cursor.c.Seq() > o.upTo)
		select {
		case <-ctx.Done():
			return nil
		case <-b:
		}
	}
}

// positionAt returns the end of a batch in the source's own log.
func (s *stream) positionAt(seq tidegate.Seq) (tidegate.Position, error) {
	if seq == 0 {
		return 0, nil
	}
	if b, _ := s.begin(); b.Before.Seq == seq {
		return b.Position, nil // nothing is here yet, or the first batch is the next
	}
	_, h, err := s.log.At(seq)
	return h.Next, err
}

// tell sends the role if it differs from the last one sent.
func (l *library) tell(role local.Role) error {
	l.s.mu.Lock()
	same := l.told == role
	l.s.mu.Unlock()
	if same {
		return nil
	}
	if err := l.conn.Send(&role); err != nil {
		return &tidegate.Error{Op: "tell library its role", Class: tidegate.Transient, Err: err}
	}
	if role.State != local.StateFollow || l.told.State != role.State {
		l.s.lg.Info("library told its part", "role", role.State.String(), keyEpoch, uint64(role.Epoch), "apply_to", role.ApplyTo.String())
	}
	l.note(func() { l.told = role })
	return nil
}

// followCursor is where the library stands in the log; no cursor before it has
// been found.
type followCursor struct {
	c interface {
		logCursor
		Close() error
	}
}

func (f *followCursor) close() {
	if f.c != nil {
		_ = f.c.Close() // it was only read from
		f.c = nil
	}
}

// feedTo sends committed batches through upTo, as long as the library has room. One
// batch is in memory, however far behind it is.
func (l *library) feedTo(ctx context.Context, f *followCursor, o order) error {
	if o.role.State != local.StateFollow || !o.prove || l.hello.Rest {
		f.close()
		return nil
	}
	if f.c == nil {
		from, ok, err := l.start(ctx)
		if err != nil || !ok {
			return err
		}
		if err := l.tellLineage(from); err != nil {
			return err
		}
		if f.c, err = l.s.log.ReadFrom(from); err != nil {
			return err
		}
	}
	for f.c.Seq() <= o.upTo && l.hasRoom() {
		h, sealed, err := f.c.Next(ctx)
		if err == nil {
			err = l.admitApply(ctx, len(sealed))
		}
		if err == nil {
			err = l.send(&h, sealed)
		}
		if errors.Is(err, tidegate.ErrConflict) || ctx.Err() != nil {
			// Cut behind the cursor: the library starts over in a new session.
			return &tidegate.Error{Op: "feed library", Class: tidegate.Transient, Err: err}
		}
		if err != nil {
			return err
		}
	}
	if err := l.conn.Flush(); err != nil {
		return &tidegate.Error{Op: "send batches to library", Class: tidegate.Transient, Err: err}
	}
	return nil
}

// hasRoom reports whether the library takes the next batch now. When it has more
// room it says so, and the feeding goroutine looks again.
func (l *library) hasRoom() bool {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return l.progress.Room == 0 || l.fed < l.progress.Room
}

// start finds the batch with the first byte that the library lacks. ok is false
// while the log does not reach to the library's end: a node that lost its disk
// copies the log again first.
func (l *library) start(ctx context.Context) (from tidegate.Seq, ok bool, err error) {
	s := l.s
	l.s.mu.Lock()
	have := l.progress.End
	l.s.mu.Unlock()
	l.fed = have
	end, h, err := s.endOf(l.hello.Generation)
	if err != nil {
		return 0, false, err
	}
	base, why := l.beginning(have)
	l.lacking(why)
	switch {
	case why != "":
		return 0, false, nil // what it lacks may come
	case base != nil:
		return 0, false, l.seed(ctx, *base)
	case end == 0:
		return 1, have == 0, nil
	}
	if have >= h.Next {
		return end + 1, have == h.Next, nil
	}
	from, err = s.log.FindPosition(h.Generation, have)
	if err != nil {
		return 0, false, fmt.Errorf("find position %s for the library: %w", have, err)
	}
	return from, true, nil
}

// tellLineage tells a library that is fed from a batch on of what lineage the log is
// there: the batch that said so may lie before it. One whose journal's id was drawn takes
// it from this, before it has anything of the log.
func (l *library) tellLineage(from tidegate.Seq) error {
	if from <= 1 || !l.target.epochs {
		return nil
	}
	line, err := l.s.lineageThrough(from - 1)
	if err != nil || line == "" || line == l.lineage {
		return err
	}
	l.lineage = line
	l.s.mu.Lock()
	role := l.told
	l.s.mu.Unlock()
	role.Lineage = line
	return l.tell(role)
}

// send hands one committed batch over. What this version does not understand
// stops the warm copy and nothing else.
func (l *library) send(h *batch.Header, sealed []byte) error {
	_, payload, err := l.opener.Open(l.payload, sealed)
	if err != nil {
		return fmt.Errorf("open batch %s: %w", h.Seq, err)
	}
	if cap(payload) > cap(l.payload) && h.Codec != batch.CodecNone {
		l.payload = payload[:0]
	}
	switch h.Kind {
	case batch.KindData:
	case batch.KindLineage:
		line, err := batch.ParseLineage(payload)
		if err != nil {
			return fmt.Errorf("batch %s: %w", h.Seq, err)
		}
		// Said before the first batch of it: a library may have to know where it begins.
		l.lineage = line.Lineage
		l.s.mu.Lock()
		role := l.told
		l.s.mu.Unlock()
		role.Lineage = line.Lineage
		return l.tell(role)
	case batch.KindHeartbeat, batch.KindBarrier, batch.KindHandover:
		return nil // nothing for the store
	case batch.KindGap:
		return &tidegate.Error{
			Op: "apply batch", Subject: h.Seq.String(), Class: tidegate.Permanent, Err: tidegate.ErrGap,
			Hint: "the source declared these positions lost: this service cannot follow past them; start it anew on a copy of the source's state that lies beyond",
		}
	default:
		return fmt.Errorf("apply batch %s of %s: %w", h.Seq, h.Kind, tidegate.ErrUnsupported)
	}
	err = l.conn.Put(&local.Batch{Epoch: h.Epoch, Seq: h.Seq, First: h.First, Next: h.Next, Records: h.Records, Payload: payload})
	if err != nil {
		return &tidegate.Error{Op: "send batch to library", Class: tidegate.Transient, Err: err}
	}
	l.fed = h.Next
	return nil
}

// Promoted is how far a promotion has come.
type Promoted struct {
	AppliedSeq tidegate.Seq
	Applied    tidegate.Position
	Done       bool // the service beside the node is active
	Endpoint   string
	Digest     tidegate.Digest
	DigestAt   tidegate.Position
}

// progressEvery is how often a long call tells how far it is.
const progressEvery = 500 * time.Millisecond

// Promote lets the warm service go up to the head and become active, and
// returns when it is. progress, if not nil, is called every half second.
// Asking again, after a crash or by another controller, is harmless.
func (n *Standby) Promote(ctx context.Context, req fence.PromoteRequest, progress func(Promoted) error) (Promoted, error) {
	s, err := n.served("promote", req.Stream)
	if err != nil {
		return Promoted{}, err
	}
	e, err := s.ask(ctx, func(call uint64) fence.NodeEvent { return fence.PromoteAsked{Call: call, Req: req} })
	if err != nil {
		return Promoted{}, err
	}
	if r := e.(fence.ReplyPromote).Reply; !r.Accepted {
		return Promoted{}, &tidegate.Error{Op: "promote", Subject: s.id.String(), Class: r.Class, Err: errors.New(r.Why)}
	}
	at, err := s.positionAt(req.Head.Seq)
	if err != nil {
		return Promoted{}, err
	}
	s.mu.Lock()
	s.apply.promotion = &promotion{promise: fence.Promise{Epoch: req.Epoch, Holder: req.Holder}, head: req.Head, at: at}
	s.ring()
	s.mu.Unlock()
	s.lg.Info("promotion ordered", keyEpoch, uint64(req.Epoch), keySeq, uint64(req.Head.Seq))
	return s.awaitActive(ctx, progress)
}

func (s *stream) awaitActive(ctx context.Context, progress func(Promoted) error) (Promoted, error) {
	b := s.follow()
	defer s.unfollow(b)
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		p, err := s.promoted()
		if err != nil || p.Done {
			return p, err
		}
		select {
		case <-ctx.Done():
			return p, ctx.Err()
		case <-s.n.stopped:
			return p, &tidegate.Error{Op: "promote", Subject: s.id.String(), Class: tidegate.Transient, Err: tidegate.ErrStopped}
		case <-b:
		case <-tick.C:
			if progress == nil {
				break
			}
			if err := progress(p); err != nil {
				return p, err
			}
		}
	}
}

// promoted returns how far the promotion is; an error says that it cannot go on.
func (s *stream) promoted() (Promoted, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var p Promoted
	pro := s.apply.promotion
	if pro.promise != s.core.Promise() {
		return p, s.fencedBy(s.core.Promise())
	}
	if l := s.apply.library; l != nil {
		p = Promoted{
			AppliedSeq: l.applied, Applied: l.progress.Applied, Endpoint: l.hello.Endpoint,
			Digest: l.progress.Digest, DigestAt: l.progress.DigestAt,
		}
		p.Done = l.active && l.told.State == local.StateActive && l.told.Epoch == pro.promise.Epoch
	}
	if s.apply.fault != nil && s.apply.library == nil {
		return p, fmt.Errorf("promote stream %s: %w", s.id, s.apply.fault)
	}
	return p, nil
}
