package machine

import "fmt"

// Event is something that a state may answer with another state.
type Event uint8

// The events. At each step all that are due are applied, in this order.
const (
	Begin    Event = iota // a new epoch is held, or the service has become active under it
	End                   // the service is not active any more, or the epoch is not held
	Fence                 // a newer epoch is held elsewhere
	Drain                 // a planned handover is under way
	Resume                // it was given up
	HandOver              // it is recorded

	SaysUnknown // the record was not read in this epoch
	SaysArmed
	SaysDegraded
	SaysBlindOK
	Braked // an operator holds the gate open, and the record says so

	KeptUp   // degraded, and D has kept up for as long as the policy asks
	CaughtUp // what is released beyond D lies within the bounds
	Lagged   // D did not catch up in time

	Ease   // at most half of every bound is used
	Press  // more than that
	Shut   // the gate is closed
	Refuse // for longer than the grace, and the policy is to refuse new work
	Ask    // the same, and the policy is to go on unprotected once the record says so
	Open   // the same, and the record has allowed it beforehand
	events
)

var eventNames = [events]string{
	"begin", "end", "fence", "drain", "resume", "hand over",
	"record unknown", "record armed", "record degraded", "record blind-ok", "brake",
	"kept up", "caught up", "lagged", "ease", "press", "shut", "refuse", "ask", "open",
}

func (e Event) String() string {
	if e < events {
		return eventNames[e]
	}
	return fmt.Sprintf("event(%d)", uint8(e))
}

// row is one state's answers.
type row [events]State

// table is the machine. Every pair has an answer; the state itself means that
// nothing changes. Guards that a table cannot hold are in [Machine.due].
var table = [states]row{
	Off: stays(Off, row{
		Begin: Flowing, Fence: Fenced,
	}),
	Flowing:   armed(Flowing),
	Throttled: armed(Throttled),
	Blocked:   armed(Blocked),
	Rejecting: armed(Rejecting),
	Asked:     armed(Asked),
	Degraded: stays(Degraded, row{
		Begin: Flowing, End: Off, Fence: Fenced, Drain: Draining, HandOver: HandedOver,
		// A record that does not say degraded permits nothing: enforce at once.
		SaysUnknown: Flowing, SaysArmed: Flowing,
		KeptUp: Enforcing,
	}),
	Enforcing: stays(Enforcing, row{
		Begin: Flowing, End: Off, Fence: Fenced, Drain: Draining, HandOver: HandedOver,
		SaysUnknown: Flowing, SaysArmed: Flowing,
		Braked: Degraded, CaughtUp: Arming, Lagged: Degraded,
	}),
	// Once armed was asked for, the record may say so at any moment: the way back
	// leads over the record, or over an operator's brake, after which it cannot.
	Arming: stays(Arming, row{
		Begin: Flowing, End: Off, Fence: Fenced, Drain: Draining, HandOver: HandedOver,
		SaysUnknown: Flowing, SaysArmed: Flowing, SaysBlindOK: Flowing,
		Braked: Degraded,
	}),
	Draining: stays(Draining, row{
		Begin: Flowing, End: Off, Fence: Fenced, Resume: Flowing, HandOver: HandedOver,
	}),
	// Only forward: a newer epoch, held here or elsewhere.
	HandedOver: stays(HandedOver, row{
		Begin: Flowing, Fence: Fenced,
	}),
	Fenced: stays(Fenced, row{
		Begin: Flowing,
	}),
}

// stays completes r: events without an answer leave s as it is.
func stays(s State, r row) row {
	for e := range r {
		if r[e] == 0 {
			r[e] = s
		}
	}
	return r
}

// armed is the row of a state for show: any of them leads to any other.
func armed(s State) row {
	return stays(s, row{
		Begin: Flowing, End: Off, Fence: Fenced, Drain: Draining, HandOver: HandedOver,
		SaysDegraded: Degraded,
		// Under a record that permits it: an operator's word is not waited for any
		// grace, because nobody asks for one without need.
		Braked: Degraded,
		Ease:   Flowing, Press: Throttled, Shut: Blocked, Refuse: Rejecting, Ask: Asked,
		Open: Degraded,
	})
}
