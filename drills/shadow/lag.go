package shadow

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/assert"
	"github.com/tidegate/tidegate/drills/evidence"
)

// Seen is what one look at the live standby node says of a stream. What it does not know
// is nil, or zero where that is said.
type Seen struct {
	Digest   tidegate.Digest   // of its service's state; zero: it gives none
	DigestAt tidegate.Position // where
	Records  *int64            // that are not applied there
	Bytes    *int64
	Blind    *time.Duration // its blind window: how much of the source it may not know of
	// Head is how far the source had come by its newest beacon, and Durable how much of
	// that is durable there: a node whose disk hangs goes on hearing beacons.
	Head, Durable *tidegate.Position
}

// Look is one look at all streams of the service; nil when the node gave no answer.
type Look map[tidegate.StreamID]Seen

// lagWhen says which part of a drill a look belongs to.
type lagWhen int

const (
	lagBefore lagWhen = iota
	lagDuring
	lagAfter
)

// lag keeps what was seen of the live node's lag, and says when the drill harms it. Pure;
// it belongs to one goroutine at a time.
type lag struct {
	harm   Harm
	seen   [lagAfter + 1][]Seen // the worst stream of each look
	behind tidegate.Instant     // since when it is, without a break; 0: it is not
	harmed string               // the drill has been called off for that

	heads map[tidegate.StreamID][]heard // of each stream, those that are not durable yet

	judged   []*assert.Watch
	blocking []*assert.Watch
	broken   string // one of the blocking ones, which calls the drill off
}

// heard is a head that was seen at a moment.
type heard struct {
	at   tidegate.Instant
	head tidegate.Position
}

// looked are the metrics that a look knows.
var looked = []assert.Metric{assert.BlindWindow, assert.RecordsBehind, assert.BytesBehind}

func newLag(cfg *Config, gate evidence.Gate) lag {
	l := lag{harm: cfg.Harm.under(gate)}
	for _, a := range cfg.Assertions {
		l.judged = append(l.judged, assert.NewWatch(a))
	}
	for _, a := range cfg.Blocking {
		l.blocking = append(l.blocking, assert.NewWatch(a))
	}
	return l
}

// values are s as assertions have it.
func (s Seen) values() assert.Values {
	v := assert.Values{}
	if s.Blind != nil {
		v[assert.BlindWindow] = int64(*s.Blind)
	}
	if s.Records != nil {
		v[assert.RecordsBehind] = *s.Records
	}
	if s.Bytes != nil {
		v[assert.BytesBehind] = *s.Bytes
	}
	return v
}

// worst is the stream of a look that is furthest behind in each respect; what is unknown
// of one stream is unknown.
func (l Look) worst() (w Seen) {
	blind, records, bytes := time.Duration(0), int64(0), int64(0)
	w = Seen{Blind: &blind, Records: &records, Bytes: &bytes}
	for _, s := range l {
		worse(&w.Blind, s.Blind)
		worse(&w.Records, s.Records)
		worse(&w.Bytes, s.Bytes)
	}
	if len(l) == 0 {
		return Seen{}
	}
	return w
}

func worse[N ~int64](w **N, n *N) {
	switch {
	case *w == nil:
	case n == nil:
		*w = nil
	case *n > **w:
		*w = new(*n)
	}
}

// take notes a look, and says why the drill must be called off; empty: it need not.
func (l *lag) take(when lagWhen, look Look, now tidegate.Instant) (harmed string) {
	w := l.aged(look, now).worst()
	l.seen[when] = append(l.seen[when], w)
	if broken := l.hold(w, now); l.broken == "" && when != lagAfter {
		l.broken = broken
	}
	switch {
	case w.Blind != nil && *w.Blind <= l.harm.Blind:
		l.behind = 0
		return cmp.Or(l.harmed, l.broken)
	case l.behind == 0:
		l.behind = now
	}
	if when != lagAfter && l.harmed == "" && time.Duration(now-l.behind) >= l.harm.For {
		l.harmed = fmt.Sprintf("the live standby node has been behind for %s: %s", time.Duration(now-l.behind).Round(time.Millisecond), l.how(w))
	}
	return cmp.Or(l.harmed, l.broken)
}

// aged is a look in which what a node has heard of and has not made durable counts as what
// it does not know of: since the first look that saw it.
func (l *lag) aged(look Look, now tidegate.Instant) Look {
	out := make(Look, len(look))
	for id, s := range look {
		switch {
		case s.Head == nil:
		case s.Durable == nil:
			s.Blind = nil
		default:
			all := slices.DeleteFunc(append(l.heads[id], heard{now, *s.Head}), func(h heard) bool { return h.head <= *s.Durable })
			if l.heads == nil {
				l.heads = map[tidegate.StreamID][]heard{}
			}
			if l.heads[id] = all; len(all) > 0 && s.Blind != nil {
				s.Blind = new(max(*s.Blind, time.Duration(now-all[0].at)))
			}
		}
		out[id] = s
	}
	return out
}

// hold holds the assertions against a look, and says which blocking one is broken.
func (l *lag) hold(w Seen, now tidegate.Instant) (broken string) {
	v := w.values()
	for _, a := range l.judged {
		a.Take(now, v)
	}
	for _, a := range l.blocking {
		a.Take(now, v)
		if broken == "" {
			broken = a.Broken(now)
		}
	}
	return broken
}

func (l *lag) how(w Seen) string {
	if w.Blind == nil {
		return fmt.Sprintf("how much it lacks is unknown, and may be at most %s", l.harm.Blind)
	}
	return fmt.Sprintf("it may lack the last %s, and that may be at most %s", w.Blind.Round(time.Millisecond), l.harm.Blind)
}

// ready says why a drill must not begin now; empty: it may.
func (l *lag) ready(w Seen) string {
	if w.Blind != nil && *w.Blind <= l.harm.Blind {
		for _, a := range l.blocking {
			if why := a.SoFar(); why != "" {
				return why
			}
		}
		return l.broken
	}
	return "the live standby node is behind already: " + l.how(w)
}

// record is what goes into the report.
func (l *lag) record() evidence.Lag {
	return evidence.Lag{Before: SumLag(l.seen[lagBefore]), During: SumLag(l.seen[lagDuring]), After: SumLag(l.seen[lagAfter])}
}

// checks are what came of the assertions.
func (l *lag) checks() []evidence.Check {
	all := []evidence.Check{l.notHarmed()}
	for _, a := range l.blocking {
		all = append(all, a.Guarded())
	}
	for _, a := range l.judged {
		all = append(all, a.Check(evidence.KindAssertion))
	}
	return all
}

// notHarmed is whether the live node fell behind for too long.
func (l *lag) notHarmed() evidence.Check {
	c := evidence.Check{
		Name: "harm", Kind: evidence.KindHarm, Outcome: evidence.CheckPassed,
		Wanted: fmt.Sprintf("the live standby node lacks more than %s for less than %s", l.harm.Blind, l.harm.For),
	}
	seen := slices.Concat(l.seen[:]...)
	unknown := slices.ContainsFunc(seen, func(s Seen) bool { return s.Blind == nil })
	if s := SumLag(seen); s.Max != nil {
		c.Got = new(fmt.Sprintf("%s at the most, in %d looks", s.Max.Round(time.Millisecond), s.Samples))
	}
	switch {
	case l.harmed != "":
		c.Outcome, c.Why = evidence.CheckFailed, l.harmed
	case len(l.seen[lagDuring]) == 0:
		c.Outcome, c.Why = evidence.CheckUnknown, "nobody looked at the node during the drill"
	case unknown:
		c.Outcome, c.Why = evidence.CheckUnknown, "the node did not say each time what it may lack"
	case l.behind != 0:
		c.Outcome, c.Why = evidence.CheckUnknown, "the node was behind when the drill had ended, and whether it comes back is not known"
	}
	return c
}

// SumLag describes some looks. One of them at which a value was unknown makes it unknown.
func SumLag(all []Seen) (s evidence.LagSeen) {
	s.Samples = len(all)
	var blind []time.Duration
	records, bytes := new(int64), new(int64)
	for _, one := range all {
		if one.Blind != nil {
			blind = append(blind, *one.Blind)
		}
		worse(&records, one.Records)
		worse(&bytes, one.Bytes)
	}
	if len(all) == 0 {
		return s
	}
	s.Records, s.Bytes = records, bytes
	if len(blind) < len(all) {
		return s
	}
	slices.Sort(blind)
	at := func(q float64) *time.Duration { return new(blind[min(len(blind)-1, int(q*float64(len(blind))))]) }
	s.Median, s.P99, s.Max = at(0.5), at(0.99), new(blind[len(blind)-1])
	return s
}
