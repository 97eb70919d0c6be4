package registry

import (
	"slices"
	"time"

	"github.com/tidegate/tidegate/drills/schedule"
)

// Schedule is when drills of a service are wanted, which one runs, and how the newest ended.
type Schedule struct {
	Policy *schedule.Policy `json:"policy"` // nil: [schedule.Default]
	State  schedule.State   `json:"state"`
	Claim  *Claim           `json:"claim"` // the drill that runs; nil: none
	Ended  *DrillEnd        `json:"ended"` // of the newest occurrence; nil: there was none
	// Ran is when the newest drill of the schedule came to a verdict; zero: none has.
	Ran  time.Time       `json:"ran"`
	Took []time.Duration `json:"took"` // those that came to one, nanoseconds, the newest last
}

// Claim is a drill that a worker has taken. It is the only one of its service.
type Claim struct {
	ID         string      `json:"id"`
	Worker     string      `json:"worker"`
	Level      string      `json:"level"`
	Scenario   string      `json:"scenario"`
	Occurrence time.Time   `json:"occurrence"`
	Since      time.Time   `json:"since"`  // on the clock of the gate that gave it
	Newest     string      `json:"newest"` // id of the newest report of its level and scenario that was on record then; empty: none
	Abort      *DrillAbort `json:"abort"`  // nil: nobody wants it called off
}

// DrillAbort is somebody's wish that a drill be called off.
type DrillAbort struct {
	Actor  string    `json:"actor"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// DrillEnd is how an occurrence ended.
type DrillEnd struct {
	Occurrence time.Time `json:"occurrence"`
	Outcome    string    `json:"outcome"` // a verdict of drills, or missed
	Why        string    `json:"why"`
	At         time.Time `json:"at"`
	Worker     string    `json:"worker"`
	Claim      string    `json:"claim"`
}

// InForce is the policy that counts.
func (s Schedule) InForce() schedule.Policy {
	if s.Policy == nil {
		return schedule.Default()
	}
	return *s.Policy
}

// tookMax is how many are kept of what drills took.
const tookMax = 9

// Finish returns the schedule once its claim has ended as e says. verdict: the drill came
// to its end, whatever that was.
func (s Schedule) Finish(e DrillEnd, verdict bool) Schedule {
	if verdict {
		s.Ran = e.At
		s.Took = append(slices.Clone(s.Took), max(0, e.At.Sub(s.Claim.Since)))
		s.Took = s.Took[max(0, len(s.Took)-tookMax):]
	}
	s.Claim, s.Ended = nil, &e
	return s
}

// Expected is how long a drill of the service takes, the median of what is known; false:
// nothing is.
func (s Schedule) Expected() (time.Duration, bool) {
	if len(s.Took) == 0 {
		return 0, false
	}
	sorted := slices.Sorted(slices.Values(s.Took))
	return sorted[len(sorted)/2], true
}
