package machine

import "fmt"

// State is where a stream's gate stands. 0 is "not told".
type State uint8

// The states. Flowing to Asked are what operators call armed; while armed they
// are for show, changed at most every [FlowHold], and what the gate does follows
// the numbers at once: see [Machine.Step].
const (
	Off        State = iota + 1 // the service is not active here, or no epoch is held: nothing may leave
	Flowing                     // armed; work is admitted freely
	Throttled                   // armed; half of a bound is used up, work is admitted more slowly
	Blocked                     // armed; a bound is reached and nothing is released beyond it
	Rejecting                   // armed; blocked beyond the grace, new work is refused
	Asked                       // armed; blocked beyond the grace, and the record was asked for permission to go on
	Degraded                    // the record says so: bounds are not enforced
	Enforcing                   // record still degraded, bounds enforced again: D catches up with what was released beyond them
	Arming                      // bounds enforced and kept; the record was asked to say so
	Draining                    // a planned handover: no new work, what is in flight is finished
	HandedOver                  // the handover is recorded: nothing leaves here any more
	Fenced                      // a newer epoch is held elsewhere
	states
)

var stateNames = [states]string{
	"unknown", "off", "flowing", "throttled", "blocked", "rejecting", "asked", "degraded",
	"enforcing", "arming", "draining", "handed-over", "fenced",
}

func (s State) String() string {
	if s < states {
		return stateNames[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Valid reports whether s is a state; 0 is none.
func (s State) Valid() bool { return s > 0 && s < states }

// flow reports whether s is one of the states for show.
func (s State) flow() bool { return s >= Flowing && s <= Asked }

// Outer is a state as operators and other nodes are told it.
type Outer string

// The outer states.
const (
	OuterOff        Outer = "off"
	OuterFlowing    Outer = "armed/flowing"
	OuterThrottled  Outer = "armed/throttled"
	OuterBlocked    Outer = "armed/blocked"
	OuterRejecting  Outer = "armed/rejecting"
	OuterDegraded   Outer = "degraded"
	OuterDraining   Outer = "draining"
	OuterHandedOver Outer = "handed-over"
	OuterFenced     Outer = "fenced"
	OuterUnknown    Outer = "unknown"
)

// Outer folds the inner steps of degrading and re-arming: until the record says
// degraded it is blocked, until it says armed it is degraded.
func (s State) Outer() Outer {
	switch s {
	case Off:
		return OuterOff
	case Flowing:
		return OuterFlowing
	case Throttled:
		return OuterThrottled
	case Blocked, Asked:
		return OuterBlocked
	case Rejecting:
		return OuterRejecting
	case Degraded, Enforcing, Arming:
		return OuterDegraded
	case Draining:
		return OuterDraining
	case HandedOver:
		return OuterHandedOver
	case Fenced:
		return OuterFenced
	}
	return OuterUnknown
}

// Record is what the gate's record says about a stream's bounds.
type Record uint8

// The records. Unknown permits nothing.
const (
	RecordUnknown  Record = iota // not read in this epoch
	RecordArmed                  // the bounds hold
	RecordDegraded               // they do not; nothing is promised
	RecordBlindOK                // they may stop holding at any time without anybody being asked
	records
)

var recordNames = [records]string{"unknown", "armed", "degraded", "blind-ok"}

func (r Record) String() string {
	if r < records {
		return recordNames[r]
	}
	return fmt.Sprintf("record(%d)", uint8(r))
}

// Valid reports whether r is one of the four.
func (r Record) Valid() bool { return r < records }

// Want is what the machine asks the keeper of the record for.
type Want uint8

// The wants.
const (
	WantNone     Want = iota // nothing
	WantDegraded             // permission to go on unprotected
	WantArmed                // that the record says armed again: the bounds are enforced already
	wants
)

var wantNames = [wants]string{"none", "degraded", "armed"}

func (w Want) String() string {
	if w < wants {
		return wantNames[w]
	}
	return fmt.Sprintf("want(%d)", uint8(w))
}

// Valid reports whether w is one of the three.
func (w Want) Valid() bool { return w < wants }
