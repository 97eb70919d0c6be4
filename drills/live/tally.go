package live

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
)

// Attempt is one canary's write, and what came of it.
type Attempt struct {
	Canary  string // its name in the file
	Service tidegate.ServiceName
	Number  string // that no other canary has
	Began   tidegate.Instant
	Ended   tidegate.Instant
	Failed  string // why it was not accepted; empty: it was. One that was not may be there all the same
}

// Found is what looking up an acknowledged canary gave.
type Found int

// The answers.
const (
	Unknown Found = iota // nobody answered
	There
	Missing
)

// Tally counts canaries: which were accepted and when, and which of those are still there.
// Its zero value has none.
type Tally struct {
	all      []Attempt
	accepted map[string][]int // by canary, in the order in which they ended
	found    map[string]Found // by number
}

// Take notes an attempt that has ended.
func (t *Tally) Take(a Attempt) {
	t.all = append(t.all, a)
	if a.Failed != "" {
		return
	}
	if t.accepted == nil {
		t.accepted = map[string][]int{}
	}
	t.accepted[a.Canary] = append(t.accepted[a.Canary], len(t.all)-1)
}

// Served is when each of some canaries was accepted that was begun at or after since: the
// first of each, and of those the last. false: one of them was not.
func (t *Tally) Served(canaries []string, since tidegate.Instant) (at tidegate.Instant, ok bool) {
	for _, name := range canaries {
		first := tidegate.Instant(0)
		for _, i := range t.accepted[name] {
			if a := &t.all[i]; a.Began >= since && (first == 0 || a.Ended < first) {
				first = a.Ended
			}
		}
		if first == 0 {
			return 0, false
		}
		at = max(at, first)
	}
	return at, len(canaries) > 0
}

// Newest is when the canary was accepted last that waits longest; false: one never was.
func (t *Tally) Newest(canaries []string) (at tidegate.Instant, ok bool) {
	for i, name := range canaries {
		all := t.accepted[name]
		if len(all) == 0 {
			return 0, false
		}
		if last := t.all[all[len(all)-1]].Ended; i == 0 || last < at {
			at = last
		}
	}
	return at, len(canaries) > 0
}

// Pause is the longest time between two accepted canaries of one name that ended after
// from; with the time from the last one to until. false: a name has none at all.
func (t *Tally) Pause(canaries []string, from, until tidegate.Instant) (longest time.Duration, ok bool) {
	for _, name := range canaries {
		all := t.accepted[name]
		if len(all) == 0 {
			return 0, false
		}
		last := from
		for _, i := range all {
			end := t.all[i].Ended
			if end > from && end <= until {
				longest = max(longest, time.Duration(end-last))
			}
			if end <= until {
				last = end
			}
		}
		longest = max(longest, time.Duration(until-max(last, from)))
	}
	return longest, len(canaries) > 0
}

// Latency is the median time until an answer of the canaries that were begun at or after
// from and before until; nil: there were none.
func (t *Tally) Latency(from, until tidegate.Instant) *time.Duration {
	var all []time.Duration
	for _, a := range t.all {
		if a.Began >= from && a.Began < until {
			all = append(all, time.Duration(a.Ended-a.Began))
		}
	}
	if len(all) == 0 {
		return nil
	}
	slices.Sort(all)
	return &all[len(all)/2]
}

// Failing is when the first canary began that was begun at or after from and not accepted;
// false: each was.
func (t *Tally) Failing(from tidegate.Instant) (at tidegate.Instant, ok bool) {
	for _, a := range t.all {
		if a.Failed != "" && a.Began >= from && (!ok || a.Began < at) {
			at, ok = a.Began, true
		}
	}
	return at, ok
}

// LastFailure is why the newest canary was not accepted that was not; empty: none.
func (t *Tally) LastFailure() string {
	for i := len(t.all) - 1; i >= 0; i-- {
		if why := t.all[i].Failed; why != "" {
			return why
		}
	}
	return ""
}

// Counts is how many canaries were tried and accepted.
func (t *Tally) Counts() (tried, accepted int) {
	for _, a := range t.all {
		if a.Failed == "" {
			accepted++
		}
	}
	return len(t.all), accepted
}

// Acknowledged are the accepted ones that no answer is known of yet.
func (t *Tally) Acknowledged() (out []Attempt) {
	for _, a := range t.all {
		if _, known := t.found[a.Number]; a.Failed == "" && !known {
			out = append(out, a)
		}
	}
	return out
}

// Look notes what looking one up gave.
func (t *Tally) Look(number string, f Found) {
	if t.found == nil {
		t.found = map[string]Found{}
	}
	t.found[number] = f
}

// Lost is what of the acknowledged canaries of a service is not there.
type Lost struct {
	Records int // missing
	Unknown int // that nobody answered for
	Asked   int // acknowledged
	// Span is the time over which acknowledgements were lost: from the last one before them
	// that is there to the last that is not. At most so much is lost of what comes in between.
	Span time.Duration
	// Inner is the time between the first and the last that is not there: at least so much.
	Inner time.Duration
	First string // number of the first that is missing
}

func (l Lost) String() string {
	return fmt.Sprintf("%d of %d acknowledged canaries are missing", l.Records, l.Asked)
}

// Lost adds up what is missing of a service. Canaries of one name lose in the order of
// their acknowledgements; the spans are the longest of the names.
func (t *Tally) Lost(service tidegate.ServiceName) (sum Lost) {
	by := map[string][]Attempt{}
	for _, a := range t.all {
		if a.Failed == "" && a.Service == service {
			by[a.Canary] = append(by[a.Canary], a)
		}
	}
	earliest := tidegate.Instant(0)
	for _, all := range by {
		slices.SortFunc(all, func(a, b Attempt) int { return cmp.Compare(a.Ended, b.Ended) })
		var first, last, before tidegate.Instant
		sum.Asked += len(all)
		for _, a := range all {
			switch t.found[a.Number] {
			case There:
				if first == 0 {
					before = a.Ended
				}
			case Missing:
				sum.Records++
				if first == 0 {
					first = a.Ended
					if earliest == 0 || first < earliest {
						earliest, sum.First = first, a.Number
					}
				}
				last = a.Ended
			case Unknown:
				sum.Unknown++
			}
		}
		if first == 0 {
			continue
		}
		if before == 0 {
			before = all[0].Began // none before them is there
		}
		sum.Span, sum.Inner = max(sum.Span, time.Duration(last-before)), max(sum.Inner, time.Duration(last-first))
	}
	return sum
}
