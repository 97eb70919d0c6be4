package live

import (
	"fmt"
	"slices"

	"github.com/tidegate/tidegate"
)

// Step is one part of a drill.
type Step int

// The steps, in the order in which they come; which of them a drill has, its kind says.
const (
	Steady Step = iota // canaries are accepted, before anything else
	Inject             // the fault, t0
	Notice             // the gates say what they must, t1
	Change             // the service changes its writer
	Serve              // every canary is accepted through the route, t8
	Hold               // it stays so for a while, or the fault does
	Back               // the service changes its writer once more
	Again              // every canary is accepted again
	Heal               // the fault is ended
	Whole              // protection is as it must be, t9; where nothing changed its writer, clients are served again
	Lookup             // each acknowledged canary is looked up
	Checks             // the operator's own
	Over
)

var stepNames = [...]string{"steady", "inject", "notice", "change role", "serve", "hold", "change back", "serve again", "heal", "protection", "look up", "checks", "over"}

func (s Step) String() string {
	if s < 0 || int(s) >= len(stepNames) {
		return fmt.Sprintf("step(%d)", int(s))
	}
	return stepNames[s]
}

// The steps of each kind of drill.
var (
	ofPlanned   = []Step{Steady, Change, Serve, Hold, Back, Again, Whole, Lookup, Checks, Over}
	ofFailsOver = []Step{Steady, Inject, Notice, Change, Serve, Hold, Heal, Whole, Lookup, Checks, Over}
	ofRidesOut  = []Step{Steady, Inject, Notice, Hold, Heal, Whole, Lookup, Checks, Over}
)

// Event is how a step came out; the zero Event: well. At most one text is set.
type Event struct {
	Failed string // what was found wrong: the drill has failed
	Called string // why it is called off: nothing was found wrong
}

// Course is how far a drill is. It is pure: whoever carries the steps out tells it how they
// came out and when.
//
// Invariants:
//
//  1. once Inject has begun, Heal comes before Over, whatever happens;
//  2. after a step that did not come out well there are only Heal and, unless the drill
//     was called off, Lookup;
//  3. the next step is a later one, and Over comes last.
type Course struct {
	steps []Step
	begun [Over + 1]tidegate.Instant
	ended [Over + 1]tidegate.Instant
	known [Over + 1]bool // it came to its end, well
	event Event          // that ended it early
	at    Step           // where that was
}

// NewCourse is that of a scenario, at its first step, which begins now.
func NewCourse(s Scenario, now tidegate.Instant) Course {
	c := Course{steps: ofPlanned}
	if e, fault := Expected(s); fault && e.FailsOver {
		c.steps = ofFailsOver
	} else if fault {
		c.steps = ofRidesOut
	}
	c.begun[c.Step()] = now
	return c
}

// Step is what is to be done now.
func (c Course) Step() Step { return c.steps[0] }

// Steps are those that are to come, the present one among them.
func (c Course) Steps() []Step { return slices.Clone(c.steps) }

// Next is the course behind the present step, which ended at now with e.
func (c Course) Next(e Event, now tidegate.Instant) Course {
	here := c.Step()
	if here == Over {
		return c
	}
	c.ended[here] = now
	c.known[here] = e == Event{}
	c.steps = c.steps[1:]
	if e != (Event{}) {
		if c.event == (Event{}) {
			c.event, c.at = e, here
		}
		c.steps = c.left(e, here)
	}
	c.begun[c.Step()] = now
	return c
}

// left are the steps that a drill still takes that ends early.
func (c Course) left(e Event, here Step) (out []Step) {
	for _, s := range c.steps {
		switch {
		case s == Heal && here >= Inject, s == Over, s == Lookup && e.Called == "" && c.event.Called == "":
			out = append(out, s)
		}
	}
	return out
}

// Begun is when a step began; false: it did not.
func (c Course) Begun(s Step) (tidegate.Instant, bool) { return c.begun[s], c.begun[s] != 0 }

// Done is when a step ended well; false: it did not.
func (c Course) Done(s Step) (tidegate.Instant, bool) { return c.ended[s], c.known[s] }

// Ended is what ended the drill early, and in which step; the zero Event when nothing did.
func (c Course) Ended() (Event, Step) { return c.event, c.at }
