package machine

import (
	"math"
	"time"

	"github.com/tidegate/tidegate"
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
	// with what was; then the gate stays degraded and counts anew.
	EnforceMax = 2 * time.Second
)

// Soft is the utilisation beyond which work is admitted more slowly.
const Soft = 0.5

// RateMin is the least rate, in records per second, to which a soft zone slows
// work down: less would look like a gate that is shut.
const RateMin = 100

// Input is everything the machine decides by, at one moment.
type Input struct {
	Held     bool           // the service is active here under a held epoch; stays true while the agent is lost
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
	Covered     bool              // nothing is released beyond D
	Age         time.Duration     // of the earliest release beyond D; 0 if there is none
	D           tidegate.Position // durable at the other site
	Drains      float64           // records per second by which D advances
	DrainsKnown bool
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
