package live

import (
	"fmt"
	"strings"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/shadow"
)

// part says which part of a drill a look belongs to.
type part int

const (
	before part = iota // of fault and change
	during
	after // the fault is healed, or the service moved
)

// Witness keeps what was seen of gates and service. Pure; its zero value has seen nothing.
type Witness struct {
	seen   [after + 1][]shadow.Seen
	first  Sight  // the newest one before
	node   string // that wrote then
	moved  string // another writer that was seen; empty: none
	blind  string // what was called safe, and was not known
	looks  int    // during and after
	heard  string // whom the newest look speaks of as expected, where it must be said twice
	named  string // the line by which the gates said what was expected
	namedD bool
}

// Take notes a sight.
func (w *Witness) Take(p part, s Sight, e Expectation, name tidegate.ServiceName) {
	w.seen[p] = append(w.seen[p], s.exposure(name))
	node, _ := writer(s.service(name))
	if p == before {
		w.first, w.node = s, node
		return
	}
	w.looks++
	if node != "" && node != w.node && w.moved == "" {
		w.moved = node
	}
	if why := s.blind(name); why != "" && w.blind == "" {
		w.blind = why
	}
	if p == during && !w.namedD {
		w.name(s, e, name)
	}
}

// name notes the line by which a look says what is expected.
func (w *Witness) name(s Sight, e Expectation, name tidegate.ServiceName) {
	line, ok := s.says(e, name, w.first)
	whom, _, _ := strings.Cut(line, ": ")
	if ok && (!e.Twice || whom == w.heard) {
		w.named, w.namedD = line, true
	}
	w.heard = whom
}

// Named reports whether the gates have said what is expected of them, and how.
func (w *Witness) Named() (string, bool) { return w.named, w.namedD }

// lag is what goes into the report.
func (w *Witness) lag() evidence.Lag {
	return evidence.Lag{Before: shadow.SumLag(w.seen[before]), During: shadow.SumLag(w.seen[during]), After: shadow.SumLag(w.seen[after])}
}

// checks are what a scenario's expectation asks of the gates. Where the drill was cut short,
// they may have been about to say it.
func (w *Witness) checks(e Expectation, cut bool) (out []evidence.Check) {
	safe := evidence.Check{Name: "unknown-is-not-safe", Kind: "gate", Wanted: "no stream whose exposure is not known is called safe", Outcome: evidence.CheckPassed}
	switch {
	case w.blind != "":
		safe.Outcome, safe.Why = evidence.CheckFailed, w.blind
	case w.looks == 0:
		safe.Outcome, safe.Why = evidence.CheckUnknown, "nobody looked"
	}
	out = append(out, safe)
	if e.Says != nil {
		c := evidence.Check{Name: "gate-says", Kind: "gate", Wanted: "the gates say " + e.What, Outcome: evidence.CheckPassed}
		if w.namedD {
			c.Got = &w.named
		} else {
			c.Outcome, c.Why = evidence.CheckFailed, "they said nothing of it that they had not said before"
			if w.looks == 0 || cut {
				c.Outcome, c.Why = evidence.CheckUnknown, "nobody looked for as long as they may take"
			}
		}
		out = append(out, c)
	}
	if !e.FailsOver {
		c := evidence.Check{Name: "rides-out", Kind: "gate", Wanted: "nobody else becomes the writer", Outcome: evidence.CheckPassed}
		switch {
		case w.moved != "":
			c.Outcome, c.Why = evidence.CheckFailed, fmt.Sprintf("%s became the writer, and %s was", w.moved, w.node)
		case w.node == "" || w.looks == 0:
			c.Outcome, c.Why = evidence.CheckUnknown, "who writes was not known"
		}
		out = append(out, c)
	}
	return out
}
