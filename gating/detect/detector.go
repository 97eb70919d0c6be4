package detect

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/mutate"
)

// State is what the detector makes of its observations.
type State string

// The states.
const (
	Up        State = "up"        // a vantage point that can be believed hears it
	Suspect   State = "suspect"   // longer silent than usual, or heard but getting nothing done
	Down      State = "down"      // all that can be believed have heard nothing for Td, at enough sites
	Undecided State = "undecided" // not enough is known, or they contradict each other
)

// Ballot is what one vantage point's silence amounts to.
type Ballot string

// The ballots.
const (
	VoteAlive   Ballot = "alive"
	VoteSuspect Ballot = "suspect"
	VoteDown    Ballot = "down"
	Abstain     Ballot = "abstains"
)

// Vote is one vantage point's part in a verdict.
type Vote struct {
	Point  Point
	Ballot Ballot
	Silent *time.Duration // since its last contact, as far as it has told; nil when it never had one
	Why    string
}

// Kinds of alarms.
const (
	AlarmNoProgress = "no-progress" // heard, but its work does not become durable
	AlarmPartition  = "partition"   // heard by some and not by others
)

// Alarm is something for people to look at. It never makes a primary down.
type Alarm struct {
	Kind string
	Text string
}

// Verdict is the detector's answer at one moment.
type Verdict struct {
	State   State
	Since   tidegate.Instant // on the detector's clock
	Episode uint64           // grows when the state becomes down for the first time since it was up
	Votes   []Vote           // sorted by point
	Reasons []string
	Alarms  []Alarm
	// Silent is the shortest time since anybody's last contact; nil when nobody had one.
	Silent *time.Duration
}

// Detector watches the primary of one service. See the package's documentation.
type Detector struct {
	set      Settings
	vantages []*vantage // sorted by point
	primary  tidegate.SiteName

	called  tidegate.Instant // last time anything was called
	resumed tidegate.Instant // its start, or the end of its own last pause

	state     State
	since     tidegate.Instant
	episode   uint64
	changed   tidegate.Instant // last change of role or attempt; 0: none known
	recovered tidegate.Instant // last time it was up again after down; 0: none
	wasDown   bool             // it has been down and not up since
}

// New makes a detector. The settings must be valid.
func New(s Settings) *Detector { return &Detector{set: s, state: Undecided} }

// Set changes the settings; what was observed stays.
func (d *Detector) Set(s Settings) { d.set = s }

// Settings returns the settings.
func (d *Detector) Settings() Settings { return d.set }

// Primary says at which site the primary is. Another site than before forgets
// every contact: they were with another one.
func (d *Detector) Primary(site tidegate.SiteName) {
	if site != d.primary {
		d.primary, d.vantages, d.wasDown = site, nil, false
	}
}

// RoleChanged says that a role changed or was about to be changed, some time ago.
func (d *Detector) RoleChanged(now tidegate.Instant, ago time.Duration) {
	d.changed = max(d.changed, now-tidegate.Instant(max(ago, 0)), 1)
}

// Observe takes an observation as it arrives.
func (d *Detector) Observe(now tidegate.Instant, o Observation) {
	d.wake(now)
	i, found := slices.BinarySearchFunc(d.vantages, o.Point, func(v *vantage, p Point) int { return v.point.compare(p) })
	if !found {
		d.vantages = slices.Insert(d.vantages, i, &vantage{point: o.Point})
	}
	d.vantages[i].observe(now, o, d.set.DownAfter)
}

// wake notices that the detector itself was asleep: what it then finds silent
// may have spoken all the time.
func (d *Detector) wake(now tidegate.Instant) {
	if d.called == 0 || time.Duration(now-d.called) > PauseMax {
		d.resumed = now
	}
	d.called = max(d.called, now)
}

// Tick judges what is known at a moment. It is called about once a second.
func (d *Detector) Tick(now tidegate.Instant) Verdict {
	d.wake(now)
	d.vantages = slices.DeleteFunc(d.vantages, func(x *vantage) bool { return time.Duration(now-x.received) > forgotten })
	v := Verdict{}
	t := tally{points: map[place]bool{}, sites: map[tidegate.SiteName]bool{}}
	for _, x := range d.vantages {
		vote := d.vote(now, x)
		v.Votes = append(v.Votes, vote)
		t.count(vote, d.primary)
		if s := vote.Silent; s != nil && (v.Silent == nil || *s < *v.Silent) {
			v.Silent = s
		}
	}
	d.judge(&v, t)
	d.progress(now, &v)
	d.enter(now, v.State)
	v.Since, v.Episode = d.since, d.episode
	return v
}

// place tells vantage points apart as far as they can fail apart: two standby
// nodes of one site hear through the same link.
type place struct {
	site tidegate.SiteName
	kind Kind
}

type tally struct {
	alive, suspect, down, abstain int
	points                        map[place]bool             // that call it down
	sites                         map[tidegate.SiteName]bool // besides the primary's, that call it down
}

func (t *tally) count(v Vote, primary tidegate.SiteName) {
	switch v.Ballot {
	case VoteAlive:
		t.alive++
	case VoteSuspect:
		t.suspect++
	case VoteDown:
		t.down++
		t.points[place{v.Point.Site, v.Point.Kind}] = true
		if v.Point.Site != primary {
			t.sites[v.Point.Site] = true
		}
	case Abstain:
		t.abstain++
	}
}

// vote says what one vantage point's silence amounts to.
func (d *Detector) vote(now tidegate.Instant, x *vantage) Vote {
	v := Vote{Point: x.point, Ballot: Abstain}
	if x.last.Silent != nil {
		s := *x.last.Silent + max(time.Duration(now-x.received), 0)
		v.Silent = &s
	}
	switch heard := time.Duration(now - x.received); {
	case heard > fresh:
		v.Why = fmt.Sprintf("has not been heard from for %s", heard.Round(100*time.Millisecond))
		return v
	case x.last.Silent == nil:
		v.Why = "never had a contact"
		return v
	case x.last.Company != nil && *x.last.Company == 0:
		v.Why = "sees no other vantage point: it may be the one that is cut off"
		return v
	case x.point.Kind == Probe && x.last.Outcome == Absent:
		v.Why = "has tried nothing"
		return v
	}
	raw := *x.last.Silent
	suspect, down := x.suspectAfter(d.set.DownAfter), x.downAfter(d.set.DownAfter)
	if raw < suspect {
		v.Ballot, v.Why = VoteAlive, fmt.Sprintf("a contact %s ago", raw.Round(time.Millisecond))
		return v
	}
	counts := min(raw, time.Duration(x.last.At-x.floor), time.Duration(now-d.resumed))
	switch {
	case counts < suspect:
		v.Why = fmt.Sprintf("it or the detector was asleep until %s ago: its silence starts anew", counts.Round(100*time.Millisecond))
	case counts < down:
		v.Ballot, v.Why = VoteSuspect, fmt.Sprintf("silent for %s, usual is at most %s", raw.Round(time.Millisecond), x.usual.Round(time.Millisecond))
	default:
		v.Ballot, v.Why = VoteDown, fmt.Sprintf("silent for %s", raw.Round(time.Millisecond))
	}
	return v
}

// judge puts the votes together.
func (d *Detector) judge(v *Verdict, t tally) {
	say := func(s State, format string, a ...any) {
		v.State = s
		v.Reasons = append(v.Reasons, fmt.Sprintf(format, a...))
	}
	one := mutate.Broken(mutate.DetectorQuorum) && t.down > 0 // any single vantage point decides
	switch {
	case d.primary == "":
		say(Undecided, "the service has no writer")
	case one:
		say(Down, "a vantage point hears nothing")
	case t.alive > 0 && t.down > 0:
		say(Undecided, "%d vantage points hear it, %d have heard nothing for %s: a partition", t.alive, t.down, d.set.DownAfter)
		v.Alarms = append(v.Alarms, Alarm{AlarmPartition, v.Reasons[0]})
	case t.alive > 0:
		say(Up, "%d of %d vantage points hear it", t.alive, t.alive+t.suspect+t.abstain)
	case t.suspect > 0:
		say(Suspect, "no vantage point has heard it lately")
	case t.down == 0:
		say(Undecided, "no vantage point can tell")
	case len(t.sites) < AgreeMin:
		say(Undecided, "only vantage points at %d sites other than the primary's have heard nothing for %s; down takes %d", len(t.sites), d.set.DownAfter, AgreeMin)
	case len(t.points) < AgreeMin:
		say(Undecided, "only %d vantage points have heard nothing for %s; down takes %d", len(t.points), d.set.DownAfter, AgreeMin)
	default:
		say(Down, "%d vantage points at %d sites have heard nothing for %s", len(t.points), len(t.sites), d.set.DownAfter)
	}
}

// progress looks for a primary that is heard and has work, but whose work does
// not become durable: acks that never come back to it, or a standby side that
// takes nothing. It is not simply alive, and it is never down.
func (d *Detector) progress(now tidegate.Instant, v *Verdict) {
	if mutate.Broken(mutate.DetectorProgress) {
		return
	}
	for i, x := range d.vantages {
		if v.Votes[i].Ballot != VoteAlive {
			continue
		}
		for _, s := range x.progress {
			stuck := time.Duration(now - max(s.moved, d.resumed))
			if s.Head <= s.Released || stuck < d.set.DownAfter {
				continue
			}
			text := fmt.Sprintf("stream %s: heard by %s, but nothing it appended has become durable or been released for %s", s.Stream, x.point, stuck.Round(100*time.Millisecond))
			v.Alarms = append(v.Alarms, Alarm{AlarmNoProgress, text})
			v.Reasons = append(v.Reasons, text)
			if v.State == Up {
				v.State = Suspect
			}
		}
	}
}

func (d *Detector) enter(now tidegate.Instant, s State) {
	if s == d.state && d.since != 0 {
		return
	}
	switch {
	case s == Down && !d.wasDown:
		d.wasDown = true
		d.episode++
	case s == Up && d.wasDown:
		d.wasDown, d.recovered = false, now
	}
	d.state, d.since = s, now
}

// Permission is what the rules say to a failover that nobody asked for.
type Permission struct {
	Holds bool
	Why   []string // of the rules that do not hold
}

// Decision is what follows from a verdict.
type Decision struct {
	Act   bool     // begin a failover now
	Would bool     // only the mode stands against it
	Why   []string // what stands against it
}

// Sites returns the sites that have a vantage point that was heard from lately.
func (d *Detector) Sites(now tidegate.Instant) []tidegate.SiteName {
	var out []tidegate.SiteName
	for _, x := range d.vantages {
		if time.Duration(now-x.received) <= fresh {
			out = append(out, x.point.Site)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Decide says whether a failover may begin by itself. After Act is true the
// caller begins it and calls RoleChanged, also when that came to nothing.
func (d *Detector) Decide(now tidegate.Instant, v Verdict, p Permission) Decision {
	if d.set.Mode == Off || v.State != Down {
		return Decision{Why: []string{fmt.Sprintf("mode %s, state %s", d.set.Mode, v.State)}}
	}
	var why []string
	against := func(format string, a ...any) { why = append(why, fmt.Sprintf(format, a...)) }
	t := tally{points: map[place]bool{}, sites: map[tidegate.SiteName]bool{}}
	for _, x := range v.Votes {
		t.count(x, d.primary)
	}
	if need := max(d.set.Agree, AgreeMinAuto); len(t.points) < need {
		against("%d vantage points agree, it takes %d", len(t.points), need)
	}
	if silent := d.unheard(v, t); len(silent) > 0 {
		against("the vantage points at %v, which may know better, cannot tell", silent)
	}
	for _, w := range []struct {
		at   tidegate.Instant
		what string
	}{{d.changed, "the last change of role or attempt"}, {d.recovered, "it last recovered"}} {
		if left := d.set.AntiFlap - time.Duration(now-w.at); w.at != 0 && left > 0 {
			against("anti-flap: %s more since %s", left.Round(100*time.Millisecond), w.what)
		}
	}
	if !p.Holds {
		why = append(why, p.Why...)
		if len(p.Why) == 0 {
			against("the rules were not evaluated")
		}
	}
	free := len(why) == 0
	if d.set.Mode != Auto {
		against("mode %s", d.set.Mode)
	}
	return Decision{Act: free && d.set.Mode == Auto, Would: free && d.set.Mode != Auto, Why: why}
}

// unheard lists the sites other than the primary's whose vantage points once
// had contact and now all abstain: they may know better. The primary's own may
// be lost with it.
func (d *Detector) unheard(v Verdict, t tally) []tidegate.SiteName {
	var out []tidegate.SiteName
	for _, x := range v.Votes {
		if x.Silent != nil && x.Point.Site != d.primary && !t.sites[x.Point.Site] && !slices.Contains(out, x.Point.Site) {
			out = append(out, x.Point.Site)
		}
	}
	slices.SortFunc(out, func(a, b tidegate.SiteName) int { return cmp.Compare(a, b) })
	return out
}
