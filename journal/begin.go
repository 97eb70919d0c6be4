package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/seglog"
)

// Beginning is where a journal begins that has nothing of what lies before: at a state of
// its service, which lies beside it and is given to the service when that starts.
type Beginning struct {
	Position tidegate.Position // everything before it is in the state
	Records  uint64            // of the journal before it
	Digest   tidegate.Digest   // of the state; zero if the service gives none
	Lineage  tidegate.Lineage  // of the journal before it
	Bytes    int64             // of the state
}

func (b Beginning) head() stateHead {
	return stateHead{position: b.Position, records: b.Records, digest: b.Digest, lineage: b.Lineage, size: b.Bytes}
}

// CreateState begins to write down the state that this journal is to begin at, in place
// of what lies there of an earlier attempt. It is for whoever rebuilds a journal: a
// follower takes states from its standby node by itself.
func (j *Journal) CreateState(b Beginning) (*StateWriter, error) {
	w, err := j.states().create(b.head())
	if err != nil {
		return nil, err
	}
	return &StateWriter{w, b.Bytes}, nil
}

// StateWriter takes a state's bytes in order, from one goroutine.
type StateWriter struct {
	w     *stateWriter
	bytes int64
}

// Write implements [io.Writer].
func (w *StateWriter) Write(p []byte) (int, error) { return w.w.Write(p) }

// Close makes the state durable under its name. One of which not every byte was written
// is dropped, and that is an error.
func (w *StateWriter) Close() error {
	if have := w.w.bytes(); have != w.bytes {
		return errors.Join(fmt.Errorf("state at %s: %d of %d bytes were written", w.w.h.position, have, w.bytes), w.w.t.Discard())
	}
	_, err := w.w.commit()
	return err
}

// OpenState opens the state that was written down as b says; the caller closes it.
// tidegate.ErrNotFound when there is none. Its bytes are not verified before its end.
func (j *Journal) OpenState(b Beginning) (io.ReadCloser, error) {
	f, err := j.states().open(b.Position)
	if err != nil {
		return nil, err
	}
	want := b.head()
	want.sum = f.sum // of bytes that nobody has read yet
	if f.stateHead != want {
		return nil, errors.Join(fmt.Errorf("state at %s is another one: %w", b.Position, tidegate.ErrNotFound), f.close())
	}
	return openState{f.reader(), f}, nil
}

type openState struct {
	io.Reader
	f *stateFile
}

// Close implements [io.Closer].
func (s openState) Close() error { return s.f.close() }

// BeginAt has this journal, which holds nothing, begin at the state that [Journal.CreateState]
// wrote down for at; durable when it returns. One that begins there is left as it is.
// tidegate.ErrConflict when it holds something else.
func (j *Journal) BeginAt(ctx context.Context, at tidegate.Position) error {
	f, err := j.states().open(at)
	if err != nil {
		return fmt.Errorf("begin journal at %s: %w", at, err)
	}
	if err := f.close(); err != nil {
		return err
	}
	if at == j.First() && f.lineage == j.lineageBefore(at) {
		return nil
	}
	return j.begin(ctx, f.stateHead)
}

// begin makes this journal, which holds nothing, one that begins at a state that lies
// beside it. A crash in between leaves an empty journal, which begins anew.
func (j *Journal) begin(ctx context.Context, h stateHead) error {
	m, err := metaOf(h.lineage)
	if err != nil {
		return err
	}
	err = j.alone(ctx, func() error {
		if first, end := j.First(), j.End(); first != end || end > h.position || j.gate.active() {
			return fmt.Errorf("journal holds [%s, %s): %w", first, end, tidegate.ErrConflict)
		}
		if err := j.adopt(h.lineage); err != nil {
			return err
		}
		for _, b := range m.Branches {
			if err := j.addBranch(b); err != nil {
				return err
			}
		}
		if err := j.compare.close(); err != nil {
			return err
		}
		var state seglog.State
		putRecordNumber(&state, h.records)
		if err := j.log.Begin(uint64(h.position), state); err != nil {
			return err
		}
		j.mu.Lock()
		defer j.mu.Unlock()
		j.setEnd()
		j.gate.rewind(j.end)
		return nil
	})
	if err != nil {
		return fmt.Errorf("begin journal at %s: %w", h.position, err)
	}
	return nil
}

// resume ends what was cut off in beginAt, which gives the state to the service first, for a
// journal that has begun does not go back to one that its service cannot read: a service
// that keeps its state has the one that lies here, and the journal holds nothing, and ends before it. A service that made
// something else of that state had yet to give it up, which is what lies here a proof of. Anything else that
// does not fit together is for following to refuse.
func (j *Journal) resume(ctx context.Context, svc Service) error {
	if _, can := svc.(Snapshotter); !can || j.First() != j.End() || j.gate.active() {
		return nil
	}
	at, digest := svc.State()
	if at <= j.End() {
		return nil
	}
	f, err := j.states().open(at)
	switch {
	case errors.Is(err, tidegate.ErrNotFound), tidegate.ClassOf(err) == tidegate.Corrupt:
		return nil
	case err != nil:
		return err
	}
	if err := f.close(); err != nil {
		return err
	}
	_, goesBack := svc.(Rewinder)
	switch {
	case f.digest.IsZero() && goesBack:
		// It may be one that the service did not take, and says that it has. It is brought
		// again. A service that cannot go back could not have declined it either.
		return j.giveUp(ctx, svc, at, j.End(), errors.New("it has no digest, and whether the service took it was cut off"))
	case digest != f.digest && !f.digest.IsZero():
		return j.giveUp(ctx, svc, at, j.End(), fmt.Errorf("the service has digest %s, written was %s: that it gives it up was cut off", digest, f.digest))
	}
	j.cfg.Log.Warn("journal begins at the state that its service has: a beginning was cut off", "stream", string(j.cfg.Stream), "position", at.String())
	return j.begin(ctx, f.stateHead)
}

// errBegun ends a session after the journal has begun at a state: the next one says so.
var errBegun = &tidegate.Error{Op: "begin at snapshot", Class: tidegate.Transient, Err: errors.New("journal begins at a snapshot, connecting anew")}

// beginAt takes a state from the standby node, durably, and has service and journal
// begin there.
func (f *follower) beginAt(ctx context.Context, conn *local.Conn, m *local.Snapshot) error {
	s, can := f.svc.(Snapshotter)
	if !can || !f.started || f.j.gate.active() || f.j.First() != f.j.End() || f.j.End() > m.Position {
		return fmt.Errorf("told to begin at %s: %w", m.Position, tidegate.ErrConflict)
	}
	began := f.j.cfg.Clock.Boot()
	h := stateHead{position: m.Position, records: m.Records, digest: m.Digest, lineage: m.Lineage}
	if _, err := f.j.states().write(h, func(w io.Writer) error { return receiveState(conn, m, w) }); err != nil {
		return err
	}
	file, err := f.j.states().open(m.Position)
	if err != nil {
		return err
	}
	own, _ := f.svc.State()
	err = restore(ctx, f.svc, s, file)
	if err := errors.Join(err, file.close()); err != nil {
		return f.decline(ctx, conn, m.Position, own, err)
	}
	if err := f.j.begin(ctx, file.stateHead); err != nil {
		return fatal(ctx, err)
	}
	f.j.cfg.Log.Info("journal begins at a snapshot", "stream", string(f.j.cfg.Stream), "position", m.Position.String(), "bytes", file.size,
		"took", time.Duration(f.j.cfg.Clock.Boot()-began))
	f.startOver()
	return errBegun
}

// decline tells the standby node that the service does not take a state at which its
// journal was to begin, and leaves journal and service as they were, at own: the next
// session brings something else.
func (f *follower) decline(ctx context.Context, conn *local.Conn, at, own tidegate.Position, why error) error {
	if ctx.Err() != nil {
		return why
	}
	if err := f.j.giveUp(ctx, f.svc, at, own, why); err != nil {
		return fatal(ctx, err)
	}
	f.forget()
	err := conn.Send(&local.Snapshot{Position: at, Class: tidegate.ClassOf(why), Text: why.Error(), Hint: tidegate.HintOf(why)})
	return errors.Join(why, err)
}

// giveUp takes a service back to own from a state at which its journal was to begin, and
// removes the state, last: a service that keeps its own is otherwise ahead of its journal
// after a crash, and nothing tells why. When it comes to that position by itself, it
// writes down its own.
func (j *Journal) giveUp(ctx context.Context, svc Service, at, own tidegate.Position, why error) error {
	j.cfg.Log.Warn("state that the journal was to begin at is not taken", "stream", string(j.cfg.Stream), "position", at.String(), "err", why)
	if err := takeBack(ctx, svc, own, why); err != nil {
		return err
	}
	return j.states().remove([]tidegate.Position{at})
}

// receiveState reads a state off the session; nothing else comes meanwhile.
func receiveState(conn *local.Conn, m *local.Snapshot, w io.Writer) error {
	for offset := uint64(0); ; {
		r, done := m.NextRead(offset)
		if done {
			return nil
		}
		if err := conn.Send(&r); err != nil {
			return err
		}
		got, err := conn.Recv()
		if err != nil {
			return err
		}
		part, is := got.(*local.SnapshotPart)
		if !is || !part.Is(r) {
			return fmt.Errorf("standby node sent %T where bytes %d to %d of the state at %s were due", got, offset, offset+uint64(r.Bytes), m.Position)
		}
		if _, err := w.Write(part.Payload); err != nil {
			return err
		}
		offset += uint64(r.Bytes)
	}
}
