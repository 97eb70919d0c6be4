package detect

import (
	"cmp"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
)

// Kind is how a vantage point observes.
type Kind string

// The kinds.
const (
	Beacon  Kind = "beacon"  // a standby node hears the writer's beacons
	Probe   Kind = "probe"   // a synthetic client is answered through the normal route
	Session Kind = "session" // the writer's agent reports to a gate
)

// Point is a vantage point: who observes from where, and how.
type Point struct {
	Site tidegate.SiteName
	Name string // of the node or gate
	Kind Kind
}

func (p Point) String() string { return string(p.Kind) + " at " + p.Name + " (" + string(p.Site) + ")" }

func (p Point) compare(q Point) int {
	return cmp.Or(cmp.Compare(p.Site, q.Site), cmp.Compare(p.Name, q.Name), cmp.Compare(p.Kind, q.Kind))
}

// Outcome is how the observer's newest attempt went, or what it expected came.
type Outcome uint8

// The outcomes.
const (
	Absent Outcome = iota // nothing was tried, nothing came
	OK
	Failed // it was tried in vain, or what was there ended
)

// Observation is what a vantage point says of one service's primary. Instants
// and durations are on the observer's own clock.
type Observation struct {
	Point   Point
	At      tidegate.Instant
	Outcome Outcome

	// Silent is the time since the last contact; nil when there never was one.
	Silent *time.Duration
	// Asleep is the observer's longest pause since its observation before: a gap
	// between its own steps, in which it could not have heard anything.
	Asleep time.Duration
	// Company is how many other vantage points at other sites the observer has
	// seen lately; nil when that is not known.
	Company *int
	// Progress of the service's streams as far as the vantage can tell.
	Progress []Progress
}

// Progress is how far a stream's writer has come, by its own word: positions in
// the source's log, which only grow in one epoch. Durable may be in any unit.
type Progress struct {
	Stream   tidegate.StreamName
	Head     uint64
	Released uint64
	Durable  uint64
}

// vantage is what the detector keeps of one point.
type vantage struct {
	point    Point
	received tidegate.Instant // on the detector's clock
	last     Observation
	floor    tidegate.Instant // on the observer's clock: silence before it does not count
	contact  tidegate.Instant // on the observer's clock
	window   [windowLen]time.Duration
	filled   int
	next     int
	usual    time.Duration // the longest usual interval; 0 while too few are known
	progress []streamProgress
}

type streamProgress struct {
	Progress
	moved tidegate.Instant // on the detector's clock: when Durable or Released last grew, or there was nothing to do
}

// observe takes a newer observation of the same point.
func (v *vantage) observe(now tidegate.Instant, o Observation, downAfter time.Duration) {
	first := v.received == 0
	if !first && o.At < v.last.At {
		// The observer started anew, or its clock was set: nothing measured before
		// can be compared with what comes.
		*v = vantage{point: v.point}
		first = true
	}
	// An observer that was not heard from may have been asleep without saying so.
	if first || o.Asleep > PauseMax || time.Duration(now-v.received) > fresh {
		v.floor = o.At
	}
	if o.Silent != nil && *o.Silent >= 0 {
		contact := o.At - tidegate.Instant(*o.Silent)
		if d := time.Duration(contact - v.contact); !first && v.last.Silent != nil && d > 0 && d < downAfter && o.Asleep <= PauseMax {
			v.remember(d)
		}
		v.contact = contact
	}
	for _, p := range o.Progress {
		v.advance(now, p)
	}
	v.last, v.received = o, now
}

// remember adds an interval between contacts. Longer ones than Td are outages
// and not how the contacts usually come.
func (v *vantage) remember(d time.Duration) {
	v.window[v.next] = d
	v.next = (v.next + 1) % windowLen
	v.filled = min(v.filled+1, windowLen)
	if v.filled < windowMin {
		return
	}
	// The longest but one: one freak in a window does not make the vantage deaf.
	var a, b time.Duration
	for _, x := range v.window[:v.filled] {
		switch {
		case x > a:
			a, b = x, a
		case x > b:
			b = x
		}
	}
	v.usual = b
}

func (v *vantage) advance(now tidegate.Instant, p Progress) {
	i, found := slices.BinarySearchFunc(v.progress, p.Stream, func(s streamProgress, n tidegate.StreamName) int { return cmp.Compare(s.Stream, n) })
	if !found {
		v.progress = slices.Insert(v.progress, i, streamProgress{Progress: p, moved: now})
		return
	}
	s := &v.progress[i]
	if p.Head <= p.Released || p.Durable != s.Durable || p.Released != s.Released {
		s.moved = now
	}
	s.Progress = p
}

// suspectAfter is the silence from which the vantage is uneasy.
func (v *vantage) suspectAfter(downAfter time.Duration) time.Duration {
	if v.usual == 0 {
		return downAfter
	}
	return min(max(unusual*v.usual, suspectMin), downAfter)
}

// downAfter is the silence that the vantage calls down: Td, or longer where
// contacts usually come so irregularly that Td says little, at most twice Td.
func (v *vantage) downAfter(td time.Duration) time.Duration {
	return min(max(td, unusual*v.usual), 2*td)
}
