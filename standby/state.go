package standby

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/retry"
	"github.com/tidegate/tidegate/snapshot"
	journalbase "github.com/tidegate/tidegate/stores/journal/base"
)

// findingNeeds names what the node says of a warm service that it cannot feed.
const findingNeeds = "needs-snapshot"

// snapshots is what a session with a library has under way of states; guarded by the
// stream's mu.
type snapshots struct {
	can   bool // it said that it takes and gives them
	empty bool // and that its journal can begin at one
	// needs says why it cannot be fed; empty while it can.
	needs   string
	asks    chan local.SnapshotRead // of the state that it is being given; nil: none is
	given   *snapshot.Listed        // that state
	answers chan local.Message      // to what it was asked for; nil: it was not
}

// hand passes on a message about snapshots to whoever waits for it. It is the session's
// receiving goroutine's, and ends the session when nobody does.
func (l *library) hand(ctx context.Context, m local.Message) error {
	l.s.mu.Lock()
	asks, given, answers := l.states.asks, l.states.given, l.states.answers
	l.s.mu.Unlock()
	switch m := m.(type) {
	case *local.Snapshot:
		if given != nil && m.Text != "" {
			return l.unfit(given, &tidegate.Error{Op: "the service did not take it", Class: m.Class, Hint: m.Hint, Err: errors.New(m.Text)})
		}
	case *local.SnapshotRead:
		if asks == nil {
			break
		}
		select {
		case asks <- *m:
		case <-ctx.Done():
		}
		return nil
	case *local.SnapshotPart:
		m.Payload = bytes.Clone(m.Payload) // the connection's
	}
	if answers == nil {
		if s, is := m.(*local.Snapshot); is {
			l.s.lg.Debug("a snapshot came that nobody waits for any more", "position", s.Position.String())
			return nil
		}
		return fmt.Errorf("library sent %T, which nobody asked for", m)
	}
	select {
	case answers <- m:
	case <-ctx.Done():
	}
	return nil
}

// await waits for the answer to what the library was asked for.
func (l *library) await(ctx context.Context, answers chan local.Message) (local.Message, error) {
	select {
	case m := <-answers:
		return m, nil
	case <-l.over:
		return nil, &tidegate.Error{Op: "read state of the warm service", Class: tidegate.Transient, Err: errors.New("its session has ended")}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Base implements [BaseSource] by asking the library for the service's state. It is
// whole, and on the library's own disk, before it is read here.
func (l *library) Base(ctx context.Context, w snapshot.Writer, total func(int64)) (snapshot.Base, error) {
	answers := make(chan local.Message, 1)
	if !l.ask(answers) {
		return snapshot.Base{}, &tidegate.Error{Op: "ask the warm service for its state", Class: tidegate.Transient, Err: fmt.Errorf("it is being asked: %w", tidegate.ErrConflict)}
	}
	defer l.ask(nil)
	if err := l.conn.Send(&local.SnapshotAsk{}); err != nil {
		return snapshot.Base{}, &tidegate.Error{Op: "ask the warm service for its state", Class: tidegate.Transient, Err: err}
	}
	m, err := l.await(ctx, answers)
	if err != nil {
		return snapshot.Base{}, err
	}
	at, is := m.(*local.Snapshot)
	if !is {
		return snapshot.Base{}, fmt.Errorf("library sent %T where a snapshot was due", m)
	}
	if err := at.Err(); err != nil {
		return snapshot.Base{}, err
	}
	if err := l.worth(at); err != nil {
		return snapshot.Base{}, err
	}
	state := journalbase.State{Position: at.Position, Records: at.Records, Digest: at.Digest, Lineage: at.Lineage, Bytes: int64(at.Size)} //nolint:gosec // a file's size
	total(state.Bytes)
	out, err := w.Create(ctx, state.File())
	if err != nil {
		return snapshot.Base{}, err
	}
	if err := errors.Join(l.readState(ctx, answers, at, out), out.Close()); err != nil {
		return snapshot.Base{}, err
	}
	return state.Base(), nil
}

// ask takes the place of the one who waits for the library's answers, or leaves it.
func (l *library) ask(answers chan local.Message) bool {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if answers != nil && l.states.answers != nil {
		return false
	}
	l.states.answers = answers
	return true
}

// worth refuses a state that says no more than a base that is held.
func (l *library) worth(at *local.Snapshot) error {
	list := Bases{l.s}.useful()
	if at.Position > 0 && (len(list) == 0 || list[len(list)-1].Start < at.Position) {
		return nil
	}
	return &tidegate.Error{Op: "look at the warm service", Class: tidegate.Transient, Err: fmt.Errorf("its state is of %s, and a base of there is held: %w", at.Position, tidegate.ErrConflict)}
}

func (l *library) readState(ctx context.Context, answers chan local.Message, at *local.Snapshot, out io.Writer) error {
	for offset := uint64(0); ; {
		r, done := at.NextRead(offset)
		if done {
			return nil
		}
		if err := l.conn.Send(&r); err != nil {
			return &tidegate.Error{Op: "read state of the warm service", Class: tidegate.Transient, Err: err}
		}
		m, err := l.await(ctx, answers)
		if err != nil {
			return err
		}
		part, is := m.(*local.SnapshotPart)
		if !is || !part.Is(r) {
			return fmt.Errorf("library sent %T where bytes %d to %d of its state were due", m, offset, offset+uint64(r.Bytes))
		}
		if _, err := out.Write(part.Payload); err != nil {
			return err
		}
		offset += uint64(r.Bytes)
	}
}

// keepRenewed renews the bases of a journal from the library beside this node, by the
// node's policy and when the operator asks, until ctx ends.
func (s *stream) keepRenewed(ctx context.Context) {
	if s.bases == nil || !s.bases.rooted {
		return
	}
	tick := time.NewTicker(s.n.cfg.Bases.LookEvery)
	defer tick.Stop()
	backoff := retry.Policy{First: s.n.cfg.Bases.LookEvery, Max: time.Hour}.Backoff()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if s.renew(ctx, s.warm(), backoff) != nil {
			return
		}
	}
}

// warm returns the library that follows beside this node; nil when there is none.
func (s *stream) warm() BaseSource {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.apply.library
	switch {
	case l == nil || !l.heard || l.active || l.told.State != local.StateFollow || !l.appliedOK:
		return nil
	case l.states.asks != nil:
		return nil // it is being given a state itself
	case !l.states.can:
		return cannot{}
	}
	return l
}

// cannot is a service that keeps its state to itself.
type cannot struct{}

// Base implements [BaseSource].
func (cannot) Base(context.Context, snapshot.Writer, func(int64)) (snapshot.Base, error) {
	return snapshot.Base{}, &tidegate.Error{
		Op: "take base of the warm service", Class: tidegate.Permanent, Err: fmt.Errorf("it does not write its state down: %w", tidegate.ErrUnsupported),
		Hint: "a service does that by implementing journal.Snapshotter; without it the stream's log is kept whole",
	}
}

// beginning is where a library with an empty journal is to begin: the newest base that
// the log goes on from, and that was not found unfit; nil where that is the log itself. why says what is missing where it cannot be fed from the log's
// beginning, and there is no such base; mu is not held.
func (l *library) beginning(have tidegate.Position) (from *snapshot.Listed, why string) {
	s := l.s
	if s.bases == nil || !s.bases.rooted {
		return nil, ""
	}
	b, _ := s.begin()
	lacks := b.Before.Seq > 0 && have < b.Position
	s.mu.Lock()
	can, empty := l.states.can, l.states.empty
	s.mu.Unlock()
	switch {
	case lacks && !can:
		return nil, "the service does not implement journal.Snapshotter"
	case lacks && !empty:
		return nil, fmt.Sprintf("its journal ends at %s, the log begins at %s: stop the service, move its journal aside, and start it", have, b.Position)
	case !can || !empty:
		return nil, ""
	}
	var list []snapshot.Listed
	for _, base := range (Bases{s}).Bases() { // by start
		if _, err := s.keptFrom(base.Info); err == nil && base.Start > have {
			list = append(list, base)
		}
	}
	s.mu.Lock()
	from, err := s.apply.choose(list, lacks, s.n.deps.Clock.Boot())
	s.mu.Unlock()
	switch {
	case from != nil || !lacks:
		return from, ""
	case err != nil:
		return nil, fmt.Sprintf("none of the %d bases that are held can be given to it, and the log begins behind them: %v", len(list), err)
	}
	return nil, "no base is held that the log goes on from"
}

// lacking notes what the library lacks to be fed; of nothing, that it does not.
func (l *library) lacking(why string) {
	l.s.mu.Lock()
	news := l.states.needs != why
	l.states.needs = why
	l.s.mu.Unlock()
	if news && why != "" {
		l.s.lg.Warn("the warm service cannot be fed", "why", why)
	}
}

// needsFinding is what there is to say of a warm service that is not fed; mu is held.
func (l *library) needsFinding() []local.Finding {
	if l.states.needs == "" {
		return nil
	}
	return []local.Finding{{
		Name: findingNeeds, Severity: local.SeverityCritical, Text: "the warm service needs a snapshot: " + l.states.needs,
		Hint: "bases come from other nodes, and from warm services of theirs; see docs/operating/bases.md",
	}}
}

// errSeeded ends the session of a library that has been given a base.
var errSeeded = &tidegate.Error{Op: "give base to the warm service", Class: tidegate.Transient, Err: errors.New("it has it: it connects anew")}

// seed gives a library the base at which its journal is to begin. It ends with the session:
// the library connects anew, with a journal that ends there, or that is as empty as
// before; then it has said why, or the base could not be read here.
func (l *library) seed(ctx context.Context, base snapshot.Listed) error {
	r, err := l.s.bases.store.Reader(base)
	if err != nil {
		return l.unfit(&base, err)
	}
	defer r.Close()
	m, at, err := offer(r)
	if err != nil {
		return l.unfit(&base, err)
	}
	asks := make(chan local.SnapshotRead)
	l.s.mu.Lock()
	l.states.asks, l.states.given = asks, &base
	l.s.mu.Unlock()
	l.s.lg.Info("giving the warm service a base", "position", m.Position.String(), "bytes", m.Size)
	if err := l.conn.Send(m); err != nil {
		return &tidegate.Error{Op: "give base to the warm service", Class: tidegate.Transient, Err: err}
	}
	state := journalbase.Content(ctx, r, at)
	defer func() { _ = state.Close() }() // it never fails
	read := func(part []byte) error {
		if err := l.s.n.limits.copying.Wait(ctx, len(part)); err != nil {
			return err
		}
		if _, err := io.ReadFull(state, part); ctx.Err() != nil {
			return ctx.Err() // the session's end shows as anything
		} else if err != nil {
			return l.unfit(&base, fmt.Errorf("read base: %w", err))
		}
		return nil
	}
	if err := l.conn.GiveState(ctx, m, read, asks, l.over); err != nil {
		return err
	}
	return errSeeded
}

// offer makes of a base what a library is told, and says which file of it the state is.
func offer(r *snapshot.Reader) (*local.Snapshot, int, error) {
	s, at, err := journalbase.Parse(r.Info().Base, r.Files())
	if err != nil {
		return nil, 0, err
	}
	return &local.Snapshot{Position: s.Position, Records: s.Records, Digest: s.Digest, Lineage: s.Lineage, Size: uint64(s.Bytes)}, at, nil //nolint:gosec // a file's size
}
