package journal

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
)

// follower applies what the standby node's daemon sends. It outlives sessions;
// only the session's receiving goroutine changes it.
type follower struct {
	j   *Journal
	svc Service

	reached atomic.Uint64 // applied, for the reporter; 0 before following
	started bool
	applied tidegate.Position // everything before it is applied
	applyTo tidegate.Position // committed so far

	// A written state that was found damaged; the receiving goroutine's own.
	bad   tidegate.Position
	isBad bool
}

// standbyLink is the receiving half of a session with the standby node's daemon.
type standbyLink struct {
	f      *follower
	conn   *local.Conn
	giving giving
}

// run talks until either end stops.
func (l *standbyLink) run(ctx context.Context, w local.Welcome, r *reporter) error {
	ctx, cancel := context.WithCancel(ctx)
	defer l.giving.end()
	defer cancel()
	if _, can := l.f.svc.(Snapshotter); can && w.Version >= versionSnapshots {
		if err := l.conn.Send(&local.Snapshots{Empty: l.f.j.First() == l.f.j.End()}); err != nil {
			return err
		}
	}
	return l.conn.Pair(ctx, l.recv, r.run)
}

func (l *standbyLink) recv(ctx context.Context) error {
	for {
		m, err := l.conn.Recv()
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *local.Role:
			err = l.f.role(ctx, m)
		case *local.Batch:
			err = l.f.batch(ctx, m)
		case *local.Rewind:
			err = l.f.rewind(ctx, m)
		case *local.SnapshotAsk:
			err = l.askState(ctx)
		case *local.SnapshotRead:
			err = l.readState(m)
		case *local.Snapshot:
			err = l.f.beginAt(ctx, l.conn, m)
		case *local.DaemonProgress: // for display only: the grant is the agent's
		default:
			err = fmt.Errorf("standby node sent %T", m)
		}
		if err != nil {
			return err
		}
		signal(l.f.j.standbyKick)
	}
}

// role takes a part over. Errors of the service and of the journal are fatal.
func (f *follower) role(ctx context.Context, m *local.Role) error {
	switch m.State {
	case local.StateFollow:
		return fatal(ctx, f.follow(ctx, m))
	case local.StateActive:
		return fatal(ctx, f.promote(ctx, m))
	case local.StateFenced:
		f.j.fence(m.Epoch, f.svc)
	case local.StateIdle:
	}
	return nil
}

// fatal marks err as one that must end Run, unless it only says that ctx did.
func fatal(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	return fatalError{err}
}

// follow applies what the journal has already, as far as it is committed.
func (f *follower) follow(ctx context.Context, m *local.Role) error {
	if down, err := f.standDown(ctx, m.Epoch); err != nil {
		return err
	} else if !down {
		// The service is active; batches, if they came, would be refused.
		f.j.cfg.Log.Warn("told to follow while active", "epoch", uint64(m.Epoch))
		return nil
	}
	if err := f.start(ctx, m, true); err != nil {
		return err
	}
	f.applyTo = max(f.applyTo, m.ApplyTo)
	return f.catchUp(ctx)
}

// start learns once, and after every time the service was active, where its
// state stands. One that follows, or that is older than its journal, is given the
// newest state that lies beside the journal.
func (f *follower) start(ctx context.Context, m *local.Role, follows bool) error {
	if err := f.j.adopt(m.Lineage); err != nil {
		return err
	}
	if f.started {
		return nil
	}
	applied, _ := f.svc.State()
	if _, can := f.svc.(Snapshotter); can && (follows || applied < f.j.First()) {
		if _, err := f.j.Restore(ctx, f.svc); err != nil {
			return err
		}
		applied, _ = f.svc.State()
	}
	if first, end := f.j.First(), f.j.End(); applied < first || applied > end {
		return &tidegate.Error{
			Op: "follow", Subject: f.j.dir, Class: tidegate.Permanent,
			Hint: "the service's state and its journal are not of one history, or one of them lost its tail: start from a snapshot",
			Err:  fmt.Errorf("state at %s, journal has [%s, %s): %w", applied, first, end, tidegate.ErrGap),
		}
	}
	f.started = true
	f.advance(applied)
	return nil
}

// catchUp applies from the journal up to applyTo.
func (f *follower) catchUp(ctx context.Context) error {
	limit := min(f.applyTo, f.j.End())
	if f.applied >= limit {
		return nil
	}
	if err := f.j.Sync(ctx); err != nil {
		return err
	}
	r, err := f.j.NewReader(f.applied)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // only read
	for f.applied < limit {
		rec, ok, err := r.TryNext()
		if err != nil {
			return err
		}
		if !ok || rec.Next > limit {
			return nil // committed up to the middle of a record: not this one
		}
		if err := f.apply(rec); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

func (f *follower) apply(rec Record) error {
	if rec.Kind == KindData {
		if err := f.svc.Apply(rec); err != nil {
			return fmt.Errorf("apply record %d at %s: %w", rec.Number, rec.First, err)
		}
	}
	f.advance(rec.Next)
	return nil
}

func (f *follower) advance(p tidegate.Position) {
	f.applied = p
	f.reached.Store(uint64(p))
}

// batch appends a committed batch to the journal, then applies it.
func (f *follower) batch(ctx context.Context, m *local.Batch) error {
	if !f.started || f.j.gate.active() {
		return fmt.Errorf("batch %s came while not following", m.Seq)
	}
	at, raw := m.First, m.Payload
	if begin := f.j.First(); at < begin {
		// What lies before the journal's beginning, it has in a state, or had once.
		n := min(begin-at, tidegate.Position(len(raw)))
		at, raw = at+n, raw[n:]
		if len(raw) == 0 {
			return nil
		}
	}
	if _, err := f.j.AppendRaw(ctx, at, raw); err != nil {
		return fatal(ctx, fmt.Errorf("follow batch %s: %w", m.Seq, err))
	}
	if f.applied < at {
		f.applyTo = max(f.applyTo, at)
		if err := f.catchUp(ctx); err != nil {
			return fatal(ctx, err)
		}
	}
	f.applyTo = max(f.applyTo, m.Next)
	// Straight from the batch: its bytes were verified and are the journal's.
	for len(raw) > 0 {
		rec, err := parseRecord(raw, at)
		if err != nil {
			return fatal(ctx, err)
		}
		raw, at = raw[rec.Next-rec.First:], rec.Next
		if rec.First < f.applied {
			continue
		}
		if err := f.apply(rec); err != nil {
			return fatal(ctx, err)
		}
	}
	return nil
}

// promote makes this follower the active service of m's epoch. Every step may
// be repeated: a crash in between, or a second telling, changes nothing.
func (f *follower) promote(ctx context.Context, m *local.Role) error {
	if f.j.gate.active() {
		return nil
	}
	if !f.j.gate.unfence(m.Epoch) {
		f.j.cfg.Log.Warn("promotion under an old epoch ignored", "epoch", uint64(m.Epoch))
		return nil
	}
	if err := f.start(ctx, m, false); err != nil {
		return err
	}
	f.applyTo = max(f.applyTo, m.ApplyTo)
	if err := f.catchUp(ctx); err != nil {
		return err
	}
	if f.applied < m.Branch {
		return &tidegate.Error{
			Op: "promote", Subject: f.j.dir, Class: tidegate.Permanent, Err: tidegate.ErrGap,
			Hint: fmt.Sprintf("applied to %s, the new history begins at %s: wait for the batches in between", f.applied, m.Branch),
		}
	}
	// Branch syncs what was followed, too: its own record lies behind it.
	if _, err := f.j.Branch(ctx, m.Epoch, m.Branch); err != nil {
		return err
	}
	// Beyond the branch is what this service wrote itself, before a restart.
	f.applyTo = max(f.applyTo, f.j.End())
	if err := f.catchUp(ctx); err != nil {
		return err
	}
	if err := f.svc.Promote(ctx, m.Epoch, m.Branch); err != nil {
		return fmt.Errorf("promote under epoch %s at %s: %w", m.Epoch, m.Branch, err)
	}
	// When it follows again, its state is where it will have left it.
	f.started, f.applyTo = false, 0
	f.reached.Store(0)
	f.j.cfg.Log.Info("promoted", "epoch", uint64(m.Epoch), "position", m.Branch.String())
	return f.j.Activate()
}

// syncLazily fsyncs what was followed: the standby node's log is the durable
// copy, this one only must not fall behind for ever.
func (f *follower) syncLazily(ctx context.Context) error {
	tick := time.NewTicker(f.j.cfg.SyncEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := f.j.Sync(ctx); err != nil && ctx.Err() == nil {
			return err
		}
	}
}
