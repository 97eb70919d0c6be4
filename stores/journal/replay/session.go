package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/journal"
	"github.com/tidegate/tidegate/stores/journal/base"
)

// windowBytes is how much of the journal may be on its way to the service: more than
// that is not sent before it has applied what came before, or a slow service would look
// like one that does not read.
const windowBytes = 1 << 20

// waitMin is the least that a record is held back for: what is due sooner goes along.
const waitMin = time.Millisecond

// goneError wraps what only ends the session: the service may come back.
type goneError struct{ error }

func (e goneError) Unwrap() error { return e.error }

// errDiffers ends a replay at a digest that is not the recorded one.
var errDiffers = errors.New("the service's state differs")

// session is one connection of the service.
type session struct {
	f      *feed
	conn   *local.Conn
	hello  local.Hello
	seeded bool // it was given a base, with which it connects anew

	news chan struct{} // one value while something came that was not looked at
	over chan struct{} // closed when nothing comes any more
	asks chan local.SnapshotRead

	mu       sync.Mutex
	heard    bool // its first progress came: what it is, is known
	can      bool // it takes a base
	empty    bool // its journal can begin at one
	active   bool
	fault    string // that it has found of itself; empty: none
	declined error  // the base that it was given; nil: it was not
	progress local.LibraryProgress
}

// run talks to the service until it has been fed everything, or goes away.
func (s *session) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = s.conn.Close() }) // Recv reports it
	defer stop()
	var g errgroup.Group
	g.Go(func() error {
		defer close(s.over)
		return s.receive(ctx)
	})
	err := s.talk(ctx)
	cancel()
	ended := g.Wait()
	if gone, is := errors.AsType[goneError](err); is {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.fault != "" {
			ended = errors.Join(errors.New(s.fault), ended)
		}
		return goneError{errors.Join(gone.error, ended)}
	}
	return err
}

// receive takes the service's messages until the session ends.
func (s *session) receive(ctx context.Context) error {
	for {
		m, err := s.conn.Recv()
		if err != nil {
			return err
		}
		s.mu.Lock()
		switch m := m.(type) {
		case *local.LibraryProgress:
			s.heard, s.progress = true, *m
		case *local.Snapshots:
			s.can, s.empty = true, m.Empty
		case *local.Activated:
			s.active = true
		case *local.Deactivated:
			s.active = false
		case *local.Snapshot:
			s.declined = m.Err()
		case *local.Finding:
			s.fault = m.Text
		}
		s.mu.Unlock()
		if ask, is := m.(*local.SnapshotRead); is {
			select {
			case s.asks <- *ask:
			case <-ctx.Done():
			}
		}
		select {
		case s.news <- struct{}{}:
		default:
		}
	}
}

var errHungUp = errors.New("it hung up")

// await waits until something holds of what the service has said; cond is called with
// mu held.
func (s *session) await(ctx context.Context, cond func() bool) error {
	for {
		s.mu.Lock()
		ok := cond()
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-s.news:
		case <-s.over:
			return goneError{errHungUp}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *session) send(m local.Message) error {
	if err := s.conn.Send(m); err != nil {
		return goneError{err}
	}
	return nil
}

// talk tells the service its part, gives it what it lacks, and says what came of it.
func (s *session) talk(ctx context.Context) error {
	f := s.f
	if err := s.await(ctx, func() bool { return s.heard }); err != nil {
		return err
	}
	s.mu.Lock()
	active, can, empty := s.active, s.can, s.empty
	s.mu.Unlock()
	end := s.hello.End
	const onEmpty = "start it on an empty data folder"
	switch {
	case active:
		return &tidegate.Error{
			Op: "feed service in", Subject: s.hello.Dir, Class: tidegate.Refused, Err: errors.New("it is active, and takes nothing from elsewhere"),
			Hint: "start it in the role that it has at the standby site, on an empty data folder",
		}
	case end < f.p.First && !can:
		return &tidegate.Error{
			Op: "feed service in", Subject: s.hello.Dir, Class: tidegate.Refused, Err: fmt.Errorf("it does not take a base, with which this range begins: %w", tidegate.ErrUnsupported),
			Hint: "a service does that by implementing journal.Snapshotter; --base none replays from the log's beginning, where that is archived",
		}
	case end < f.p.First && !empty:
		return &tidegate.Error{
			Op: "feed service in", Subject: s.hello.Dir, Class: tidegate.Refused,
			Err: fmt.Errorf("its journal ends at %s, the range begins at %s: %w", end, f.p.First, tidegate.ErrGap), Hint: onEmpty,
		}
	}
	role := &local.Role{
		State: local.StateFollow, Epoch: f.p.End.Epoch, ApplyTo: end, Lineage: f.p.Origin, Generation: f.p.End.Generation,
	}
	if err := s.send(role); err != nil {
		return err
	}
	if end < f.p.First {
		return s.seed(ctx)
	}
	lineage := s.hello.Lineage
	for {
		from, lastData, err := f.p.locate(ctx, end)
		if err != nil {
			return err
		}
		f.begin(end, lastData, lineage)
		if err := s.feed(ctx, from); err != nil || !f.r.cfg.Stay {
			return err
		}
		if err := s.stay(ctx); err != nil {
			return err
		}
		end, lineage = f.fed, f.lineage
	}
}

// begin notes where a session begins. A service that was killed may lack what it had.
func (f *feed) begin(end, lastData tidegate.Position, l tidegate.Lineage) {
	if f.lineage = l; end <= f.p.First {
		f.lineage = f.p.Origin // an empty journal's is not the log's yet
	}
	f.r.bytes.Add(int64(end) - int64(max(f.fed, f.p.First))) //nolint:gosec // sizes
	f.fed, f.lastData = end, lastData
	for len(f.marks) > 0 && f.marks[0].Position < end {
		f.marks = f.marks[1:]
	}
}

// seed gives the service the base. It connects anew, with a journal that begins there.
func (s *session) seed(ctx context.Context) error {
	r, st, at, err := s.f.p.state()
	if err != nil {
		return err
	}
	defer r.Close()
	m := &local.Snapshot{
		Position: s.f.p.First, Records: st.Records, Digest: st.Digest, Size: uint64(st.Bytes), Lineage: s.f.p.Origin, //nolint:gosec // a file's size
	}
	if err := s.send(m); err != nil {
		return err
	}
	state := base.Content(ctx, r, at)
	defer func() { _ = state.Close() }() // it never fails
	read := func(part []byte) error {
		if _, err := io.ReadFull(state, part); err != nil {
			return fmt.Errorf("read base: %w", err)
		}
		return nil
	}
	if err := s.conn.GiveState(ctx, m, read, s.asks, s.over); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.declined != nil {
		return fmt.Errorf("the service did not take base %.12s: %w", s.f.p.Base.Name, s.declined)
	}
	s.seeded = true
	return goneError{errHungUp}
}

// feed hands over what lies between the service's end and the target, and says what the
// marks say.
func (s *session) feed(ctx context.Context, from tidegate.Seq) error {
	f := s.f
	var opener batch.Opener
	var buf []byte
	for b, err := range f.p.Stream.Batches(ctx, from) {
		if err != nil {
			return err
		}
		if f.p.over(&b.Header) {
			break
		}
		h, payload, err := opener.Open(buf, b.Sealed)
		if err != nil {
			return f.p.Stream.InSegment(b.Seq, err)
		}
		if h.Codec != batch.CodecNone {
			buf = payload[:0]
		}
		reached := false
		switch h.Kind {
		case batch.KindData:
			reached, err = s.data(ctx, &h, payload)
		case batch.KindHandover:
			err = s.handover(ctx, &h, payload)
		case batch.KindGap:
			err = fmt.Errorf("log from %s to %s is lost: %w", h.First, h.Next, tidegate.ErrGap)
		case batch.KindLineage:
			err = f.turn(payload)
		case batch.KindHeartbeat, batch.KindBarrier:
		}
		if err != nil {
			return err
		}
		if reached {
			break
		}
	}
	return s.finish(ctx)
}

// errEnough ends a scan at the first record that is not wanted.
var errEnough = errors.New("enough")

// data hands over the records of a batch that the service lacks, each when it is due.
func (s *session) data(ctx context.Context, h *batch.Header, payload []byte) (reached bool, err error) {
	f := s.f
	part := pending{next: f.fed}
	then := func(next func() error) error { // behind what is due
		if err := s.flush(ctx, h, payload, part); err != nil {
			return err
		}
		part = pending{next: f.fed}
		return next()
	}
	err = journal.Scan(payload, h.First, func(r journal.Record) error {
		switch {
		case r.Next <= f.fed:
			return nil
		case r.First < part.next:
			return fmt.Errorf("the service's journal ends at %s, within a record: %w", f.fed, tidegate.ErrDiverged)
		case f.p.beyond(r.Next, r.Time):
			reached = true
			return errEnough
		}
		if len(f.marks) > 0 && f.marks[0].Position <= r.First {
			if err := then(func() error { return s.checkHere(ctx) }); err != nil {
				return err
			}
		}
		if f.p.paced(h.Seq, r.First, r.Time) {
			f.arrive()
			wait, err := f.r.pace.wait(ctx, r.Time)
			if err != nil {
				return err
			}
			if wait >= waitMin {
				if err := then(func() error { return sleep(ctx, wait) }); err != nil {
					return err
				}
			}
			f.r.reached.Store(max(f.r.reached.Load(), r.Time.UnixNano()))
		}
		part.add(r)
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return false, err
	}
	return reached, s.flush(ctx, h, payload, part)
}

// pending is what of a batch is due and not handed over.
type pending struct {
	records  uint32
	next     tidegate.Position
	lastData tidegate.Position // 0: there is none in it
	newest   time.Time
}

func (p *pending) add(r journal.Record) {
	p.records++
	p.next, p.newest = r.Next, r.Time
	if r.Kind == journal.KindData {
		p.lastData = r.Next
	}
}

// flush hands over what is due.
func (s *session) flush(ctx context.Context, h *batch.Header, payload []byte, part pending) error {
	f := s.f
	if part.records == 0 {
		return nil
	}
	if err := s.await(ctx, func() bool { return f.fed <= s.progress.Applied+windowBytes }); err != nil {
		return err
	}
	m := &local.Batch{
		Epoch: h.Epoch, Seq: h.Seq, First: f.fed, Next: part.next, Records: part.records, Payload: payload[f.fed-h.First : part.next-h.First],
	}
	if err := s.send(m); err != nil {
		return err
	}
	f.fed, f.lastData = part.next, max(f.lastData, part.lastData)
	f.out.Records += uint64(part.records)
	f.out.Bytes += uint64(len(m.Payload))
	f.out.Newest = part.newest
	f.r.records.Add(uint64(part.records))
	f.r.bytes.Add(int64(len(m.Payload)))
	return nil
}

// turn takes what the log says of its history, and refuses a base that another one left.
func (f *feed) turn(payload []byte) error {
	l, err := batch.ParseLineage(payload)
	if err != nil {
		return err
	}
	f.lineage = l.Lineage
	if f.p.Base == nil {
		return nil
	}
	there, err := journal.LineageBefore(f.lineage, f.p.First)
	if err == nil && there != f.p.Origin {
		err = &tidegate.Error{
			Op: "replay from base", Subject: f.p.Base.Name.String()[:12], Class: tidegate.Permanent,
			Err:  fmt.Errorf("it is of %s, the log there of %s: %w", f.p.Origin, there, tidegate.ErrDiverged),
			Hint: "a failover left its history; --base chooses another one",
		}
	}
	return err
}

// handover compares the state with what the source said of its own when it handed over.
func (s *session) handover(ctx context.Context, h *batch.Header, payload []byte) error {
	over, err := batch.ParseHandover(payload)
	if err != nil || !over.StateKnown || h.First != s.f.fed {
		return err
	}
	if err := s.checkHere(ctx); err != nil {
		return err
	}
	return s.check(ctx, Mark{Position: h.First, Digest: over.StateDigest, From: fmt.Sprintf("handover in batch %d", uint64(h.Seq))})
}

// checkHere looks at the marks up to where the service was fed.
func (s *session) checkHere(ctx context.Context) error {
	f := s.f
	for len(f.marks) > 0 && f.marks[0].Position <= f.fed {
		m := f.marks[0]
		f.marks = f.marks[1:]
		there, err := journal.LineageBefore(f.lineage, m.Position)
		if err != nil {
			return err
		}
		if m.Position < f.lastData || m.lineage != "" && there != m.lineage {
			continue // of a history that a failover left
		}
		if err := s.check(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// check compares the state, where the service was fed to, with a mark.
func (s *session) check(ctx context.Context, m Mark) error {
	got, err := s.state(ctx)
	if err != nil {
		return err
	}
	f := s.f
	f.out.Digest = got
	if got.IsZero() {
		return nil // it gives none: the outcome says so
	}
	f.out.Checked = append(f.out.Checked, Checked{m, got})
	if got != m.Digest {
		f.out.Verdict = Differs
		f.out.Why = fmt.Sprintf("at %s the state is %s, and was %s (%s)", m.Position, got, m.Digest, m.From)
		return errDiffers
	}
	return nil
}

// state waits until the service has applied all that it was fed, and says its digest.
func (s *session) state(ctx context.Context) (d tidegate.Digest, err error) {
	err = s.await(ctx, func() bool {
		d = s.progress.Digest
		return s.progress.Applied >= s.f.fed && s.progress.DigestAt >= s.f.lastData
	})
	return d, err
}

// finish looks at the marks at the target.
func (s *session) finish(ctx context.Context) error {
	f := s.f
	if err := s.checkHere(ctx); err != nil {
		return err
	}
	digest, err := s.state(ctx)
	if err != nil {
		return err
	}
	f.out.Digest, f.ended = digest, true
	if want := f.p.digest; !want.IsZero() {
		return s.check(ctx, Mark{Position: f.fed, Digest: want, From: "as given"})
	}
	return nil
}
