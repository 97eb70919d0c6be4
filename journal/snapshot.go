package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
)

// Snapshotter is a [Service] whose state can be written down and read back. Recovery
// is then the newest state and the records behind it: of this service after a
// restart, and of one that begins with nothing, at a base that its standby node has.
// The standby node's log behind such bases need not be kept for ever.
type Snapshotter interface {
	// Snapshot holds the state as it is now, where State says, and returns what writes
	// it. It is called while following, between two calls of Apply, which waits for
	// it: it should take no longer than a copy of what may change. WriteTo is called
	// once at most, beside everything else. States that have much in common should be
	// written so that their bytes do: that is stored, and sent, once.
	Snapshot() (io.WriterTo, error)

	// Restore replaces the state by one that was written at a position; State answers
	// that position, and its digest, from the return on. It is called by
	// [Journal.Restore], and before the journal begins at a position that is not its
	// service's; not concurrent with Apply, Promote and Snapshot. When r or it fails,
	// or the process is killed, the state is as before, or the zero state: an older one is then given to it, or
	// the log, and nothing ends by it. It may find what an earlier call left. A state
	// that it took without an error, and for which State answers otherwise than it was
	// written, has to be given up: a [Rewinder] is told that the journal ends before it,
	// and Run ends of a service that is none.
	Restore(ctx context.Context, at tidegate.Position, r io.Reader) error
}

// Restored says what [Journal.Restore] did.
type Restored struct {
	At    tidegate.Position // of the state that was read; meaningful only if Done
	Bytes int64             // of it
	Took  time.Duration
	Done  bool // false: the service's own state is no older than any here
	// Left is how many records of the journal lie behind the service's state now.
	Left uint64
}

// Restore gives the service the newest state that lies beside the journal, if that
// is newer than its own: what is then left to apply is what lies behind State's
// position. One that is damaged, or that the service does not take, is passed over for
// the one before it, and not looked at again by this process. Before [Journal.Run]
// it is the service's to call, when it replays its journal itself; a follower is
// restored by Run.
func (j *Journal) Restore(ctx context.Context, svc Service) (Restored, error) {
	s, can := svc.(Snapshotter)
	if !can {
		return Restored{}, &tidegate.Error{Op: "restore state", Subject: j.dir, Class: tidegate.Misuse, Err: fmt.Errorf("the service is no Snapshotter: %w", tidegate.ErrUnsupported)}
	}
	list, err := j.states().list()
	if err != nil {
		return Restored{}, fmt.Errorf("restore state: %w", err)
	}
	var damaged error
	for _, at := range slices.Backward(list) {
		own, _ := svc.State()
		if at <= own {
			break
		}
		if at > j.End() || j.passedOver(at) {
			continue // a crash took what it was made of: that comes again
		}
		began := j.cfg.Clock.Boot()
		f, err := j.restoreFrom(ctx, svc, s, at)
		switch {
		case err == nil:
			r := Restored{At: at, Bytes: f.size, Took: time.Duration(j.cfg.Clock.Boot() - began), Done: true, Left: j.Records() - f.records}
			j.cfg.Log.Info("state restored", "stream", string(j.cfg.Stream), "position", at.String(), "bytes", r.Bytes, "took", r.Took, "left", r.Left)
			return r, nil
		case ctx.Err() != nil:
			return Restored{}, err
		}
		j.cfg.Log.Warn("state is passed over", "stream", string(j.cfg.Stream), "position", at.String(), "err", err)
		j.passOver(at)
		if err := takeBack(ctx, svc, own, err); err != nil {
			return Restored{}, err
		}
		damaged = err
	}
	if own, _ := svc.State(); own < j.First() && damaged != nil {
		return Restored{}, damaged // nothing older will do: the journal begins behind it
	}
	return Restored{}, nil
}

// RestoreOldest gives a service that holds nothing the oldest state that lies beside the
// journal, whatever newer ones there are: for who carries the journal out once more, from
// where it begins. tidegate.ErrNotFound: there is none.
func (j *Journal) RestoreOldest(ctx context.Context, svc Service) error {
	s, can := svc.(Snapshotter)
	list, err := j.states().list()
	switch {
	case !can:
		err = fmt.Errorf("the service is no Snapshotter: %w", tidegate.ErrUnsupported)
	case err == nil && len(list) == 0:
		err = fmt.Errorf("no state lies beside the journal: %w", tidegate.ErrNotFound)
	case err == nil:
		_, err = j.restoreFrom(ctx, svc, s, list[0])
	}
	if err != nil {
		return fmt.Errorf("restore oldest state beside %s: %w", j.dir, err)
	}
	return nil
}

// restoreFrom gives the service the state at a position, and asks it what it made of it.
func (j *Journal) restoreFrom(ctx context.Context, svc Service, s Snapshotter, at tidegate.Position) (h stateHead, err error) {
	f, err := j.states().open(at)
	if err != nil {
		return h, err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	if l := j.lineageBefore(at); l != f.lineage {
		return h, &tidegate.CorruptError{Path: f.f.Name(), Offset: 0, What: fmt.Sprintf("is of %s, the journal there is %s", f.lineage, l)}
	}
	return f.stateHead, restore(ctx, svc, s, f)
}

func restore(ctx context.Context, svc Service, s Snapshotter, f *stateFile) error {
	r := f.reader()
	if err := s.Restore(ctx, f.position, r); err != nil {
		return fmt.Errorf("restore state at %s: %w", f.position, err)
	}
	if n, err := r.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		return fmt.Errorf("restore state at %s: the service has not read all of it: %w", f.position, errors.Join(err, tidegate.ErrConflict))
	}
	if at, digest := svc.State(); at != f.position || f.digest != (tidegate.Digest{}) && digest != f.digest {
		return &tidegate.CorruptError{Path: f.f.Name(), Offset: -1, What: fmt.Sprintf("the service is at %s with digest %s, written was %s with %s", at, digest, f.position, f.digest)}
	}
	return nil
}

// passOver remembers a state that could not be restored.
func (j *Journal) passOver(at tidegate.Position) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.passed = append(j.passed, at)
}

func (j *Journal) passedOver(at tidegate.Position) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Contains(j.passed, at)
}

// takeBack makes sure that a service is as it was at a position, or holds nothing, after
// a restore that failed because of cause. One that says it is somewhere else has taken
// the state, and gives it up if it can. Its error, which is fatal, is that it cannot.
func takeBack(ctx context.Context, svc Service, to tidegate.Position, cause error) error {
	at, _ := svc.State()
	if at == to || at == 0 {
		return nil
	}
	fail := func(err error) error {
		return &tidegate.Error{
			Op: "give up a state", Subject: at.String(), Class: tidegate.Permanent, Err: errors.Join(err, cause),
			Hint: "the service holds a state that is not what was written: start it anew, with its own state set aside",
		}
	}
	rewinder, can := svc.(Rewinder)
	if !can {
		return fail(fmt.Errorf("the service is no Rewinder: %w", tidegate.ErrUnsupported))
	}
	if err := rewinder.Rewound(ctx, to); err != nil {
		return fail(err)
	}
	return nil
}

func (j *Journal) states() states { return states{j.fs, filepath.Join(j.dir, statesName)} }

// lineageBefore returns the journal's lineage without the forks that lie at p or behind it.
func (j *Journal) lineageBefore(p tidegate.Position) tidegate.Lineage {
	j.mu.Lock()
	m := j.meta
	j.mu.Unlock()
	return m.before(p)
}

// recordsBefore returns how many records lie before p, a record's beginning or the end.
func (j *Journal) recordsBefore(p tidegate.Position) (uint64, error) {
	if end := j.endMark(); p == end.Position {
		return uint64(end.Records), nil //nolint:gosec // counted up from 0
	}
	r, err := j.NewReader(p)
	if err != nil {
		return 0, err
	}
	defer func() { _ = r.Close() }() // only read
	rec, ok, err := r.TryNext()
	if err != nil || !ok {
		return 0, errors.Join(err, fmt.Errorf("no record at %s", p))
	}
	return rec.Number - 1, nil
}

// frozen is a state that is about to be written down.
type frozen struct {
	head  stateHead
	state io.WriterTo // nil: it lies on the disk already
}

// freeze holds the service's state; Apply stands still meanwhile.
func (f *follower) freeze(ctx context.Context) (z frozen, err error) {
	s, can := f.svc.(Snapshotter)
	switch {
	case !can:
		return z, fmt.Errorf("the service cannot write its state down: %w", tidegate.ErrUnsupported)
	case !f.started || f.j.gate.active():
		return z, &tidegate.Error{Op: "hold state", Class: tidegate.Transient, Err: errors.New("the service does not follow now")}
	}
	// The journal must reach the state whatever happens, also when the daemons' copies
	// of it are gone: what is durable here is what is written down.
	if err := f.j.Sync(ctx); err != nil {
		return z, err
	}
	z.head.position, z.head.digest = f.svc.State()
	if z.head.records, err = f.j.recordsBefore(z.head.position); err != nil {
		return z, err
	}
	z.head.lineage = f.j.lineageBefore(z.head.position)
	if have, err := f.j.states().open(z.head.position); err == nil {
		known := have.stateHead
		if err := have.close(); err != nil {
			return z, err
		}
		isBad := f.isBad && f.bad == known.position || f.j.passedOver(known.position)
		if !isBad && known.digest == z.head.digest && known.lineage == z.head.lineage && known.records == z.head.records {
			return frozen{head: known}, nil
		}
	}
	z.state, err = s.Snapshot()
	return z, err
}

// writeDown makes a held state durable. Called beside Apply.
func (j *Journal) writeDown(ctx context.Context, z frozen) (stateHead, error) {
	if z.state == nil {
		return z.head, nil
	}
	began := j.cfg.Clock.Boot()
	h, err := j.states().write(z.head, func(w io.Writer) error {
		_, err := z.state.WriteTo(contextWriter{w, ctx.Err})
		return err
	})
	if err != nil {
		return h, err
	}
	j.mu.Lock()
	j.passed = slices.DeleteFunc(j.passed, func(at tidegate.Position) bool { return at == h.position }) // it is another one now
	j.mu.Unlock()
	j.cfg.Log.Info("state written down", "stream", string(j.cfg.Stream), "position", h.position.String(), "bytes", h.size,
		"took", time.Duration(j.cfg.Clock.Boot()-began))
	return h, j.states().prune()
}

// contextWriter ends a long write with its context.
type contextWriter struct {
	w   io.Writer
	err func() error
}

func (w contextWriter) Write(p []byte) (int, error) {
	if err := w.err(); err != nil {
		return 0, err
	}
	return w.w.Write(p)
}
