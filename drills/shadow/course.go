package shadow

import (
	"fmt"
	"time"

	"github.com/tidegate/tidegate"
)

// Step is one part of a drill, in the order in which they come.
type Step int

// The steps. Those from CatchUp to Verify are timed, each is the phase of its name.
const (
	Prepare Step = iota // the clone without its backlog, in the sandbox, followed by the service
	CatchUp             // the backlog is read from the node, and is on the sandbox's disk
	Apply               // the service has it, and its state is the one on record
	Promote             // the service says that it is active
	Verify              // the clone has taken every canary
	Checks              // the operator's checks; not timed
	Over                // the sandbox is torn down
)

var stepNames = [...]string{"prepare", "catch-up", "apply", "promote", "verify", "checks", "over"}

func (s Step) String() string {
	if s < 0 || int(s) >= len(stepNames) {
		return fmt.Sprintf("step(%d)", int(s))
	}
	return stepNames[s]
}

// timed reports whether a step is a phase of the recovery.
func (s Step) timed() bool { return s >= CatchUp && s <= Verify }

// Event is how a step came out. Exactly one of the two texts is set where it is not well.
type Event struct {
	Failed string // what was found wrong: the drill has failed
	Called string // why the drill is called off: nothing was found wrong
}

// Course is how far a drill is. It is pure: whoever carries the steps out tells it how
// they came out and when. Its zero value is a drill that prepares.
//
// Invariants:
//
//  1. a phase is known only if its step came to its end;
//  2. the recovery time is known only if all phases are, and is their sum;
//  3. whatever happens, the next step is a later one, and Over comes last.
type Course struct {
	step   Step
	since  tidegate.Instant
	phases [Over]time.Duration
	known  [Over]bool
	event  Event // that ended it early
	at     Step  // where that was
}

// Step is what is to be done now.
func (c Course) Step() Step { return c.step }

// Next is the course behind the present step, which ended at now with e. A step begins
// when the one before it ends.
func (c Course) Next(e Event, now tidegate.Instant) Course {
	if c.step == Over {
		return c
	}
	if e != (Event{}) {
		c.event, c.at, c.step = e, c.step, Over
		return c
	}
	if c.step.timed() {
		c.phases[c.step], c.known[c.step] = time.Duration(now-c.since), true
	}
	c.since = now
	c.step++
	return c
}

// Phase is how long a step took, where it is known.
func (c Course) Phase(s Step) (took time.Duration, known bool) {
	if !s.timed() {
		return 0, false
	}
	return c.phases[s], c.known[s]
}

// RTA is the recovery time, where it is known.
func (c Course) RTA() (sum time.Duration, known bool) {
	for s := CatchUp; s <= Verify; s++ {
		if !c.known[s] {
			return 0, false
		}
		sum += c.phases[s]
	}
	return sum, true
}

// Ended is what ended the drill early, and in which step; the zero Event when nothing did.
func (c Course) Ended() (Event, Step) { return c.event, c.at }
