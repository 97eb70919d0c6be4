package journal

import (
	"context"
	"errors"
	"fmt"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
)

// Rewinder is a [Service] whose state can be taken back. A journal that has gone
// another way than the stream, as that of an old primary has, is cut before it
// follows again; records that the service had applied are then not in it.
type Rewinder interface {
	// Rewound says that the journal ends at to now, and that what lay behind is in
	// quarantine. If State had moved past to, the service rebuilds it: by replay,
	// from a snapshot at or before to. State must answer at most to from the return
	// on. Not concurrent with Apply and Promote. An error ends Run with that error.
	Rewound(ctx context.Context, to tidegate.Position) error
}

// Follower is a [Service] that wants to know when it begins to follow.
type Follower interface {
	// Following says that the stream is written elsewhere, under epoch, and that
	// this service applies what is written there from now on: it stands down, if it
	// was active, and gives up whatever cluster state would make it active again
	// by itself. State is asked after it returned. Called once each time following
	// begins, also after a restart, and before a journal is cut for [Rewinder];
	// again with the same arguments it must do no harm. Not concurrent with Apply
	// and Promote. An error ends Run with that error.
	Following(ctx context.Context, epoch tidegate.Epoch) error
}

// standDown ends the activity of a service whose stream is written elsewhere,
// and reports whether it has ended: not while the agent here holds the epoch, or
// did so last, for then it is the standby node that is behind.
func (f *follower) standDown(ctx context.Context, epoch tidegate.Epoch) (bool, error) {
	if f.j.gate.active() {
		if !f.j.gate.yields(epoch) {
			return false, nil
		}
		f.j.fence(epoch, f.svc)
	}
	if svc, ok := f.svc.(Follower); ok && !f.started {
		if err := svc.Following(ctx, epoch); err != nil {
			return false, fmt.Errorf("begin to follow epoch %s: %w", epoch, err)
		}
	}
	return true, nil
}

// errRewound ends a session after a rewind: the next one begins with the new end.
var errRewound = &tidegate.Error{Op: "rewind", Class: tidegate.Transient, Err: errors.New("journal was cut, connecting anew")}

// rewind cuts the journal to where the stream's history goes on. Every step may
// be repeated: a crash after the cut leaves a journal that ends at m.To, and a
// service that replays it.
func (f *follower) rewind(ctx context.Context, m *local.Rewind) error {
	f.started = false
	if down, err := f.standDown(ctx, m.Epoch); err != nil {
		return fatal(ctx, err)
	} else if !down {
		// Only one end can be right, and it is not for the journal to say which:
		// the agent's word ends the activity first.
		return fmt.Errorf("told to rewind to %s while active: %w", m.To, tidegate.ErrConflict)
	}
	rewinder, can := f.svc.(Rewinder)
	if applied, _ := f.svc.State(); applied > m.To && !can {
		return fatalError{&tidegate.Error{
			Op: "rewind", Subject: f.j.dir, Class: tidegate.Permanent, Err: tidegate.ErrDiverged,
			Hint: "the service has applied records that are not part of the stream and cannot take them back: " +
				"cut its journal with it stopped, and start it from a snapshot",
		}}
	}
	reason := fmt.Sprintf("epoch %s goes on from %s", m.Epoch, m.To)
	cut, err := f.j.CutTo(ctx, m.To, "", reason)
	if err != nil {
		return fatal(ctx, err)
	}
	f.j.cfg.Log.Warn("journal rewound", "stream", string(f.j.cfg.Stream), "epoch", uint64(m.Epoch),
		"position", m.To.String(), "records", cut.Records, "quarantine", cut.Path)
	if can {
		if err := rewinder.Rewound(ctx, m.To); err != nil {
			return fatal(ctx, fmt.Errorf("rewind the service to %s: %w", m.To, err))
		}
	}
	f.startOver()
	return errRewound
}

// startOver forgets what is known of a journal that is another one now.
func (f *follower) startOver() {
	if c := f.j.agentConn.Load(); c != nil {
		_ = c.Close() // its receiver reports it: the agent, too, must see the journal anew
	}
	f.forget()
}

// forget forgets where the service stands: it is asked anew.
func (f *follower) forget() {
	f.started, f.applied, f.applyTo = false, 0, 0
	f.reached.Store(0)
}
