package machine

import (
	"math"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/mutate"
)

// The machine's own times. They are not configuration: each guards against
// flapping, and none of them delays anything that is promised.
const (
	// FlowHold is how long a state for show stays at least.
	FlowHold = 5 * time.Second
	// StallAfter is how long D may stand still, while something waits for it,
	// before the gate counts as closed: longer than any round trip, shorter than
	// a person's patience.
	StallAfter = time.Second
	// RearmMin is the shortest time for which D must have kept up before bounds
	// are enforced again, whatever the policy says.
	RearmMin = 5 * time.Second
	// EnforceMax bounds the pause in which nothing is released while D catches up
	// with what was released beyond the bounds; then the gate stays degraded and
	// counts anew.
	EnforceMax = 2 * time.Second
)

// Soft is the utilisation beyond which work is admitted more slowly.
const Soft = 0.5

// RateMin is the least rate, in records per second, to which a soft zone slows
// work down: less would look like a gate that is shut.
const RateMin = 100

// Input is everything the machine decides by, at one moment.
type Input struct {
	Held     bool           // the service is active here under a held epoch, or was when the agent was lost
	Lost     bool           // the agent is away: what it said last still counts, but nothing can be asked
	Epoch    tidegate.Epoch // that epoch
	FencedBy tidegate.Epoch // the newer epoch that somebody else holds; 0: none
	Policy   tidegate.Policy

	Record     Record
	Brake      bool // an operator opened the gate: it does not arm itself
	Drain      bool // a planned handover is under way
	HandedOver bool // and is recorded

	// What the ceiling says under the armed bounds, degraded or not.
	Utilisation float64           // largest used share of a bound; of bounds that are 0 none
	Late        bool              // the time bound is reached
	HeldBack    bool              // the ceiling lies below the head
	Covered     bool              // what is released beyond D lies within the bounds: nothing at all, in sync
	Age         time.Duration     // of the earliest release beyond D; 0 if there is none
	D           tidegate.Position // durable at the other site
	Drains      float64           // records per second by which D advances
	DrainsKnown bool
}

// fenced reports whether somebody else holds an epoch that the held one is not
// at least as new as.
func (in Input) fenced() bool {
	return in.FencedBy != 0 && (!in.Held || in.Epoch < in.FencedBy)
}

// Refusal is why new work is not taken.
type Refusal uint8

// The refusals.
const (
	RefuseNone     Refusal = iota
	RefuseClosed           // bounds reached, and the policy is to say so
	RefuseDraining         // a planned handover, under way or done
)

// Output is what the gate does from now on.
type Output struct {
	State State
	Since tidegate.Instant // of State

	Closed    bool    // exact, whatever State shows
	Unbounded bool    // bounds are not enforced
	Sealed    bool    // nothing leaves, not even what is durable: the next holder answers
	Refuse    Refusal // of new work; what was taken waits on
	Rate      float64 // records per second of new work; +Inf: no limit
	Want      Want
}

// unlimited is the rate of a gate that slows nothing down.
var unlimited = math.Inf(1)

// Machine is the gate of one stream in one process. The zero value is not
// usable; see [New].
//
// Invariants, checked by tests:
//
//  1. Output.Unbounded only while the last Input.Record said degraded or blind-ok.
//  2. Want is WantArmed only in Arming, and Arming is entered only while what is
//     released beyond D lies within the bounds.
//  3. Fenced is left only under an epoch not below the fencing one, HandedOver
//     only under a higher one.
//  4. two changes from one state for show to another are FlowHold apart.
type Machine struct {
	state    State
	since    tidegate.Instant
	epoch    tidegate.Epoch // highest held
	fencedBy tidegate.Epoch // highest fencing one

	shown      tidegate.Instant // last change among the states for show
	everShown  bool
	d          tidegate.Position
	dMoved     tidegate.Instant
	heldBack   bool
	heldSince  tidegate.Instant
	closed     bool
	closedFrom tidegate.Instant
	kept       bool
	keptFrom   tidegate.Instant
}

// New returns a machine that is off.
func New(now tidegate.Instant) *Machine {
	return &Machine{state: Off, since: now, dMoved: now}
}

// State returns the state after the last step.
func (m *Machine) State() State { return m.state }

// Step takes in what holds at now and returns what the gate does from now on.
// now never goes back. Call it at every event that changes the input, and often
// enough for the times that matter: a deadline acts at the first step after it.
func (m *Machine) Step(now tidegate.Instant, in Input) Output {
	m.observe(now, in)
	before := m.state
	for e := range events {
		if !m.due(e, now, in) {
			continue
		}
		to := table[m.state][e]
		if to == m.state || m.tooSoon(before, to, now) {
			continue
		}
		m.enter(to, now, in)
	}
	if before.flow() && m.state.flow() && m.state != before {
		m.shown, m.everShown = now, true
	}
	return m.output(now, in)
}

// observe keeps the times by which the gate counts as closed or as kept up.
func (m *Machine) observe(now tidegate.Instant, in Input) {
	m.fencedBy = max(m.fencedBy, in.FencedBy)
	if in.D != m.d {
		m.d, m.dMoved = in.D, now
	}
	if in.HeldBack && !m.heldBack {
		m.heldSince = now
	}
	m.heldBack = in.HeldBack
	stalled := in.HeldBack && since(now, max(m.dMoved, m.heldSince)) >= StallAfter
	closed := in.Late || stalled
	if closed && !m.closed {
		m.closedFrom = now
	}
	m.closed = closed
	// Bounds of 0 are never half used: the age stands in for them.
	kept := !in.Lost && (!in.Brake || mutate.Broken(mutate.BrakeHolds)) && in.Age < StallAfter/2 && in.Utilisation < Soft
	if kept && !m.kept {
		m.keptFrom = now
	}
	m.kept = kept
}

// due reports whether e is due; what it leads to is the table's.
func (m *Machine) due(e Event, now tidegate.Instant, in Input) bool {
	switch e {
	case Begin:
		return m.begins(in)
	case End:
		return !in.Held
	case Fence:
		return in.FencedBy >= m.epoch && in.fenced()
	case Drain:
		return in.Drain && !in.HandedOver
	case Resume:
		return !in.Drain && !in.HandedOver
	case HandOver:
		return in.HandedOver
	case SaysUnknown:
		return in.Record == RecordUnknown
	case SaysArmed:
		return in.Record == RecordArmed
	case SaysDegraded:
		return in.Record == RecordDegraded
	case SaysBlindOK:
		return in.Record == RecordBlindOK
	case Braked:
		return in.Brake && permits(in.Record)
	case KeptUp:
		return m.kept && since(now, max(m.keptFrom, m.since)) >= max(in.Policy.Rearm, RearmMin)
	case CaughtUp:
		return in.Covered && in.Utilisation < Soft
	case Lagged:
		return since(now, m.since) >= EnforceMax
	}
	return e == m.flow(now, in)
}

// begins reports whether the service may act under the epoch it holds.
func (m *Machine) begins(in Input) bool {
	if !in.Held || in.fenced() {
		return false
	}
	switch m.state {
	case Off:
		return in.Epoch >= m.epoch && in.Epoch >= m.fencedBy
	case Fenced:
		return in.Epoch >= m.fencedBy
	}
	return in.Epoch > m.epoch
}

// flow returns the one event that says how the gate stands in its bounds.
func (m *Machine) flow(now tidegate.Instant, in Input) Event {
	switch {
	case m.closed && m.reacts(now, in):
		switch in.Policy.Reaction {
		case tidegate.ReactReject:
			return Refuse
		case tidegate.ReactDegradeBlind:
			if in.Record == RecordBlindOK {
				return Open
			}
			return Ask
		case tidegate.ReactDegrade:
			return Ask
		case tidegate.ReactBlock:
		}
		return Shut
	case m.closed:
		return Shut
	case in.Utilisation > Soft:
		return Press
	}
	return Ease
}

// reacts reports whether the gate has been closed for longer than the grace.
func (m *Machine) reacts(now tidegate.Instant, in Input) bool {
	return m.closed && since(now, m.closedFrom) >= in.Policy.Grace
}

// tooSoon holds a change for show back. What the gate does is not held back.
func (m *Machine) tooSoon(before, to State, now tidegate.Instant) bool {
	return before.flow() && m.state.flow() && to.flow() && m.everShown && since(now, m.shown) < FlowHold
}

func (m *Machine) enter(s State, now tidegate.Instant, in Input) {
	if m.state == Off || m.state == Fenced || m.state == HandedOver {
		// Whoever was active before has left no stall behind.
		m.dMoved, m.heldSince, m.closedFrom, m.keptFrom = now, now, now, now
		m.closed = m.closed && in.Late
	}
	if in.Held && s != Fenced {
		m.epoch = max(m.epoch, in.Epoch)
	}
	m.state, m.since = s, now
}

func (m *Machine) output(now tidegate.Instant, in Input) Output {
	out := Output{
		State: m.state, Since: m.since, Rate: unlimited,
		Unbounded: m.state == Degraded && permits(in.Record) || m.broken(now, in),
		Sealed:    m.state == HandedOver || m.state == Fenced,
	}
	switch {
	case m.state == Draining || m.state == HandedOver:
		out.Refuse = RefuseDraining
	case m.state == Arming:
		out.Want = WantArmed
		out.Closed, out.Rate = m.closed, m.rate(in)
	case m.state == Enforcing:
		out.Closed, out.Rate = m.closed, m.rate(in)
	case m.state.flow():
		out.Closed, out.Rate = m.closed, m.rate(in)
		if e := m.flow(now, in); e == Refuse {
			out.Refuse = RefuseClosed
		} else if e == Ask {
			out.Want = WantDegraded
		}
	}
	return out
}

// broken is what a mutated build does: it goes on before the record says so, or
// asks to be armed before it enforces.
func (m *Machine) broken(now tidegate.Instant, in Input) bool {
	return mutate.Broken(mutate.DegradeRecorded) && m.state.flow() && m.flow(now, in) == Ask ||
		mutate.Broken(mutate.RearmEnforced) && (m.state == Enforcing || m.state == Arming) && permits(in.Record)
}

// permits reports whether bounds need not be enforced.
func permits(r Record) bool { return r == RecordDegraded || r == RecordBlindOK }

// rate slows new work down in the soft zone, to the pace at which the other
// site takes it; what that is must have been seen.
func (m *Machine) rate(in Input) float64 {
	switch {
	case m.closed:
		return RateMin
	case in.Utilisation > Soft && in.DrainsKnown:
		return max(RateMin, in.Drains*max(0, 1-in.Utilisation)/(1-Soft))
	}
	return unlimited
}

func since(now, then tidegate.Instant) time.Duration { return time.Duration(now - then) }
