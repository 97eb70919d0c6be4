package apply

import (
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// serverState is what the warm server's process is seen to be.
type serverState uint8

const (
	serverDown     serverState = iota // no process
	serverStarting                    // a process that does not take queries yet
	serverRecovery                    // takes queries, and follows
	serverPrimary                     // takes queries, and is out of recovery
)

func (s serverState) String() string {
	switch s {
	case serverStarting:
		return "starting"
	case serverRecovery:
		return "in recovery"
	case serverPrimary:
		return "out of recovery"
	case serverDown:
	}
	return "down"
}

// facts is everything that a step is chosen from.
type facts struct {
	saved  saved      // what is written down
	role   local.Role // the node's latest; State 0 before the first in this session
	server serverState
	base   bool // a whole base of the log's generation is at hand; of a lost one: not the one it was made from

	replayed wal.LSN // of a server in recovery; 0 when not known
	received wal.LSN // what is in its pg_wal; 0 when not known
	// unverified: it is out of recovery, as an active one is, and nobody in this run
	// has looked whether its history is the one that was written down.
	unverified bool
	lost       bool // the log is of another generation than the server, or goes on behind what it has: only a base helps
	bare       bool // the session was begun with nothing to offer: the role's lineage is the log's
	adopted    bool // the data is somebody else's server until the stream leaves it
	unreadable bool // the data does not say what it is
}

// handsOver reports whether the server is to end for a switchover; writes, whether
// the gate says that it goes on. Between the two nobody knows.
func (f facts) handsOver() bool { return f.role.Source == local.SourceHandsOver }
func (f facts) writes() bool    { return f.role.Source == local.SourceWrites }

// step is what is to be done next.
type step uint8

const (
	stepWait    step = iota // nothing: the facts have to change first
	stepRestore             // make a data directory from the base
	stepResume              // finish or begin anew a restore that was cut short
	stepStart               // start the server as it is
	stepPromote             // order the promotion, or go on waiting for it
	stepVerify              // the server is out of recovery as ordered: see whether its history is right
	stepNote                // active, under a newer epoch than is written down
	stepFollow              // a promotion was given up before it was done: follow again
	stepStop                // it must not run: stop it for good
	stepDrain               // a switchover is under way: stop it in order
	stepUndrain             // the switchover was called off: it goes on
	stepLeave               // it was the source, and the stream is written elsewhere: stop it at once
	stepRejoin              // make a follower of what was the source
)

func (s step) String() string {
	return [...]string{"wait", "restore", "resume restore", "start", "promote", "verify", "note epoch", "follow again", "stop", "drain", "go on", "leave", "rejoin"}[s]
}

// decision is a step and, for people, why.
type decision struct {
	step step
	why  string
	// stuck says that waiting is not the ordinary state of affairs.
	stuck bool
}

func do(s step, why string) decision { return decision{step: s, why: why} }

func stuck(why string) decision { return decision{step: stepWait, why: why, stuck: true} }

// plan chooses the next step from the facts, and says for people why. It is asked
// anew after every step and every change, so a crash between any two is a change
// like another.
//
// Invariants:
//  1. a server that was never ordered to promote is not left running out of recovery
//  2. an active server runs only under an epoch that the node has told since
//     it started, or while it runs already
//  3. nothing that stood down starts again by itself
//  4. a promotion is ordered only at H: replayed exactly to there, nothing received beyond
//  5. what was stopped for a switchover starts as a source only by the gate's word
//  6. what was a source follows only a log that has shown how it went on
//  7. nothing is done with a data directory that does not say what it is
func plan(f facts) decision {
	if f.unreadable {
		return f.planUnreadable()
	}
	switch f.saved.Phase {
	case phaseNone:
		return f.planEmpty()
	case phaseRestoring:
		if f.role.State != local.StateFollow {
			return do(stepWait, "a restore was cut short; it goes on when there is something to follow")
		}
		return do(stepResume, "a restore was cut short")
	case phaseFollowing:
		return f.planFollowing()
	case phasePromoting:
		return f.planPromoting()
	case phaseActive:
		return f.planActive()
	case phaseLeft:
		return f.planLeft()
	case phaseStoodDown:
	}
	if f.server != serverDown {
		return do(stepStop, "it stood down, and runs")
	}
	return stuck(f.saved.Why)
}

func (f facts) planUnreadable() decision {
	const why = "the data directory cannot be read"
	if f.saved.Phase == phaseStoodDown && f.server != serverDown || f.saved.Phase == phaseFollowing && f.server == serverPrimary {
		return do(stepStop, why+", and it must not run")
	}
	return do(stepWait, why)
}

// planAdopted is for a server that somebody else runs, until the stream leaves it.
func (f facts) planAdopted() decision {
	switch {
	case f.handsOver():
		return f.planDrain()
	case f.role.State == local.StateFollow:
		return do(stepLeave, "the stream is written elsewhere")
	case f.saved.Drained && f.writes():
		return do(stepUndrain, "the switchover was called off")
	case f.saved.Drained:
		return do(stepWait, "stopped for a switchover")
	}
	return do(stepWait, "somebody else's server, which is the source or was never fed")
}

func (f facts) planDrain() decision {
	if f.server == serverDown && f.saved.Drained {
		return do(stepWait, "stopped for a switchover")
	}
	return do(stepDrain, "a switchover hands the stream over")
}

func (f facts) planLeft() decision {
	switch {
	case f.server != serverDown:
		return do(stepLeave, "the stream is written elsewhere, and it runs")
	case !f.bare || f.role.State != local.StateFollow || f.role.Generation == 0 || f.role.Lineage == "":
		return do(stepWait, "waiting for the log that the stream went on with")
	}
	return do(stepRejoin, "the stream is written elsewhere")
}

func (f facts) planEmpty() decision {
	switch {
	case f.adopted:
		return f.planAdopted()
	case f.role.State != local.StateFollow:
		return do(stepWait, "nothing to follow")
	case !f.base:
		return stuck("no whole base of the stream on this node yet")
	}
	return do(stepRestore, "a base is at hand")
}

func (f facts) planFollowing() decision {
	switch {
	case f.server == serverPrimary:
		return do(stepStop, "it left recovery without being told to")
	case f.lost && f.base && f.role.State == local.StateFollow:
		return do(stepRestore, "the log here goes on behind what it has")
	case f.lost:
		return stuck("the log goes on in another generation or was trimmed, and the base for it is not on this node yet")
	case f.server == serverDown:
		return do(stepStart, "follow")
	case f.role.State != local.StateActive || f.server == serverStarting:
		return do(stepWait, "following")
	}
	return f.planOrder()
}

// planOrder is a promotion that was ordered, with the server in recovery.
func (f facts) planOrder() decision {
	h := wal.LSN(f.role.ApplyTo)
	switch {
	case f.role.Epoch < f.saved.Epoch:
		return do(stepWait, "the promotion is of an old epoch")
	case h == 0:
		return do(stepWait, "a promotion without a place")
	case f.replayed > h || f.received > h:
		return do(stepStop, "it holds more than H")
	case f.replayed < h:
		return do(stepWait, "replaying to H")
	}
	return do(stepPromote, "everything to H is replayed")
}

// planPromoting: the order was written down, so the server may be on either side
// of it. A node that was restarted leads to the same order again, by Role{follow}
// or Role{idle} of the same epoch.
func (f facts) planPromoting() decision {
	role := f.role
	gone := role.Epoch > f.saved.Epoch && (role.State == local.StateFollow || role.State == local.StateFenced)
	order := role.State == local.StateActive && role.Epoch >= f.saved.Epoch
	switch {
	case role.State == 0:
		// What was begun is neither ended nor taken back before the node is heard.
		return do(stepWait, "waiting for the node's word on a promotion that was begun")
	case f.server == serverDown:
		return do(stepStart, "a promotion was begun")
	case f.server == serverStarting:
		return do(stepWait, "the server is starting")
	case gone && f.server == serverPrimary:
		return do(stepLeave, "the promotion was given up after it was done")
	case gone:
		return do(stepFollow, "the promotion was given up")
	case f.server == serverPrimary && (order || role.Epoch == f.saved.Epoch && role.State != local.StateFenced):
		return do(stepVerify, "it is out of recovery, as ordered")
	case order:
		return f.planOrder()
	}
	return do(stepWait, "waiting for the order to go on with a promotion that was begun")
}

func (f facts) planActive() decision {
	gone := f.role.Epoch > f.saved.Epoch && (f.role.State == local.StateFollow || f.role.State == local.StateFenced)
	switch {
	case gone:
		return do(stepLeave, "the stream is written elsewhere")
	case f.handsOver():
		return f.planDrain()
	case f.saved.Drained && f.writes():
		return do(stepUndrain, "the switchover was called off")
	case f.saved.Drained:
		return do(stepWait, "stopped for a switchover")
	case f.server == serverRecovery:
		return do(stepStop, "it was active, and is in recovery: somebody made a standby of it")
	case f.unverified:
		return do(stepVerify, "it was active before")
	case f.role.State == 0, f.role.State == local.StateFenced, f.role.Epoch < f.saved.Epoch:
		return do(stepWait, "waiting for the node's word")
	case f.server == serverDown && f.role.Epoch > f.saved.Epoch && f.role.State != local.StateActive:
		return stuck("a newer epoch is held, and not said to be this node's")
	case f.server == serverDown:
		return do(stepStart, "it is the active one")
	case f.server == serverPrimary && f.role.Epoch > f.saved.Epoch:
		return do(stepNote, "it is the active one, under a newer epoch")
	}
	return do(stepWait, "active")
}
