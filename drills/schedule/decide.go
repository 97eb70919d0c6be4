package schedule

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

// Occurrence is one time at which a drill is wanted.
type Occurrence struct {
	At    time.Time // as the cron expression says
	Due   time.Time // with its jitter
	Until time.Time // the end of its grace
}

// State is what must be on record of a service's schedule. Its zero value is that of a
// service which nobody has looked at.
type State struct {
	Since time.Time `json:"since"` // occurrences of before are nobody's
	Taken time.Time `json:"taken"` // the newest occurrence that was begun or given up; zero: none
	Tries int       `json:"tries"` // how often that was begun
	Again time.Time `json:"again"` // it may be begun again from then on; zero: it is done with
}

// How often an occurrence is begun whose drill does not come to its end, and how soon.
const (
	triesMax = 3
	pause    = 15 * time.Minute
)

// ahead is how far the clock of whoever ran a drill may be ahead.
const ahead = time.Minute

// Begun is the state once an occurrence was begun.
func (s State) Begun(at time.Time) State {
	if !s.Taken.Equal(at) {
		s.Tries = 0
	}
	s.Taken, s.Again = at, time.Time{}
	s.Tries++
	return s
}

// Undone is the state once the drill of Taken has ended without having come to its end.
func (s State) Undone(now time.Time) State {
	if s.Tries < triesMax {
		s.Again = now.Add(pause)
	}
	return s
}

// Facts are what counts besides the clock.
type Facts struct {
	Ran     time.Time // end of the newest drill that came to a verdict; zero: none is known
	Running bool      // a drill of the service runs
	Against []string  // why none may begin now; nil: nothing is against it
}

// Decision is what follows now.
type Decision struct {
	Begin   bool
	At      Occurrence // the one at hand; zero: none
	Why     string     // Begin is false: what is waited for
	Next    Occurrence // the one after now; zero: none, it is off
	Overdue bool       // also while a drill runs: until one has come to a verdict
	State   State      // is to be on record; At is begun with [State.Begun] of it
	Missed  string     // not empty: At was missed by that, and State says so
}

// Decide says what follows for a service at now.
func (t *Timetable) Decide(service string, s State, f Facts, now time.Time) Decision {
	if f.Ran.After(now.Add(ahead)) {
		f.Ran = time.Time{} // a clock was ahead: when it ran is not known
	}
	d := Decision{State: t.sane(service, s, now)}
	if t.policy.Off {
		d.Why = "the schedule is off"
		return d
	}
	d.Next = t.next(service, now)
	if late, ok := t.newest(service, now.Add(-t.grace())); ok {
		d.Overdue = late.At.After(d.State.Since) && f.Ran.Before(late.Due)
	}
	at, again := t.pending(service, d.State, f, now)
	switch {
	case f.Running:
		d.Why = "a drill runs"
	case at.At.IsZero():
		d.Why = "none is due before " + d.Next.Due.UTC().Format(time.RFC3339)
	default:
		d.At = at
		d.Why = t.against(f, again, now)
		d.Begin = d.Why == ""
		if !now.Before(at.Until) {
			d.Missed = first(d.Why, "no worker has taken it")
			d.State.Taken, d.State.Tries, d.State.Again = at.At, 0, time.Time{}
			d.At, d.Begin, d.Why = Occurrence{}, false, "none is due before "+d.Next.Due.UTC().Format(time.RFC3339)
		}
	}
	return d
}

// against is why a pending occurrence is not begun now; empty: it is.
func (t *Timetable) against(f Facts, again, now time.Time) string {
	if why, until := t.blocked(now); why != "" {
		return fmt.Sprintf("blocked by %q until %s", why, until.UTC().Format(time.RFC3339))
	}
	if len(f.Against) > 0 {
		return strings.Join(f.Against, "; ")
	}
	if now.Before(again) {
		return "the last try did not come to its end; the next one comes at " + again.UTC().Format(time.RFC3339)
	}
	return ""
}

// sane is the state as it can be at now. A clock that was ahead has left times of a
// future: drills would wait for that.
func (t *Timetable) sane(service string, s State, now time.Time) State {
	if s.Since.IsZero() || s.Since.After(now) {
		s.Since = now
	}
	if again := now.Add(pause); s.Again.After(again) {
		s.Again = again
	}
	if s.Taken.After(now) && t.next(service, now).At.Before(s.Taken) {
		s = State{Since: s.Since, Taken: now}
	}
	return s
}

// pending is the occurrence that is to be begun, and from when on; zero: none.
func (t *Timetable) pending(service string, s State, f Facts, now time.Time) (at Occurrence, again time.Time) {
	at, ok := t.newest(service, now)
	switch {
	case !ok, !at.At.After(s.Since), !f.Ran.Before(at.Due):
		return Occurrence{}, time.Time{}
	case at.At.After(s.Taken):
		return at, time.Time{}
	case at.At.Equal(s.Taken) && !s.Again.IsZero():
		return at, s.Again
	}
	return Occurrence{}, time.Time{}
}

// Next returns the next n occurrences after now.
func (t *Timetable) Next(service string, now time.Time, n int) []Occurrence {
	var out []Occurrence
	for at := now; len(out) < n && !t.policy.Off; {
		o := t.after(service, at)
		if o.At.IsZero() {
			break
		}
		out, at = append(out, o), o.At
	}
	return out
}

// Blocked says what keeps an occurrence from being begun when it is due, and until when;
// empty: nothing does.
func (t *Timetable) Blocked(o Occurrence) (why string, until time.Time) { return t.blocked(o.Due) }

// next is the first occurrence that is due after now.
func (t *Timetable) next(service string, now time.Time) Occurrence {
	for at := now.Add(-t.policy.Jitter - every); ; {
		o := t.after(service, at)
		if o.At.IsZero() || o.Due.After(now) {
			return o
		}
		at = o.At
	}
}

// looks are how far back the newest occurrence is looked for, one after the other: a
// schedule that comes often is not walked through for a year.
var looks = []time.Duration{2 * time.Hour, 26 * time.Hour, 8 * 24 * time.Hour, 32 * 24 * time.Hour, 370 * 24 * time.Hour, 5 * 366 * 24 * time.Hour}

// newest is the newest occurrence that is due at now.
func (t *Timetable) newest(service string, now time.Time) (out Occurrence, found bool) {
	for _, back := range looks {
		for at := now.Add(-back - t.policy.Jitter); ; {
			o := t.after(service, at)
			if o.At.IsZero() || o.At.After(now) {
				break
			}
			if !o.Due.After(now) {
				out, found = o, true
			}
			at = o.At
		}
		if found {
			return out, true
		}
	}
	return out, false
}

// after is the first occurrence behind an instant, whatever its jitter is; zero: none in
// the years that the cron library looks through.
func (t *Timetable) after(service string, at time.Time) Occurrence {
	wall := wallOf(at, t.zone).Add(-time.Minute) // a fraction of a second may lie in the one of now
	for {
		if wall = t.cron.Next(wall); wall.IsZero() {
			return Occurrence{}
		}
		// Those in an hour that comes twice have come, those in one that is left out come together.
		if o := instantOf(wall, t.zone); o.After(at) {
			due := o.Add(t.jitter(service, o))
			return Occurrence{At: o, Due: due, Until: due.Add(t.grace())}
		}
	}
}

// jitter is what is added to an occurrence: whole seconds, the same on every gate.
func (t *Timetable) jitter(service string, at time.Time) time.Duration {
	span := uint64(t.policy.Jitter / time.Second) //nolint:gosec // none negative
	if span == 0 {
		return 0
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", service, at.Unix()))
	return time.Duration(binary.BigEndian.Uint64(sum[:])%span) * time.Second //nolint:gosec // a day at most
}

func first(texts ...string) string {
	for _, s := range texts {
		if s != "" {
			return s
		}
	}
	return ""
}
