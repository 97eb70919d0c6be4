package wal

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tidegate/tidegate"
)

// Fork is the start of a timeline: what lies at At and beyond is its own, what
// lies before is its parent's.
type Fork struct {
	Timeline Timeline
	At       LSN
}

// Lineage is the identity of a server's log: its system and the whole way it
// took. Two logs of one lineage agree up to their shorter end, unless a server
// was set back without being told: see docs/formats/postgres.md.
//
//	pg:<system id>:<first timeline>+<timeline>@<fork>...
//	pg:7301234567890123456:1+2@0000000003000158
//
// Forks are oldest first, each position 16 hexadecimal digits. It is the form that
// every stream's lineage has: a root, and what was forked off it.
type Lineage struct {
	System uint64   // pg_control's system identifier
	First  Timeline // the oldest that is known, 1 but for servers that were made otherwise
	Forks  []Fork
}

// LineageBytesMax bounds the text of a lineage: what a lineage batch can hold.
const LineageBytesMax = 4096

const lineageScheme = "pg:"

// NewLineage makes the lineage of a server that says it is on t, from the history
// file of t.
func NewLineage(system uint64, t Timeline, h History) (Lineage, error) {
	l := Lineage{System: system, First: t}
	if err := h.check(t); err != nil {
		return Lineage{}, fmt.Errorf("history of timeline %s: %w", t, err)
	}
	for i, s := range h {
		if i == 0 {
			l.First = s.From
		}
		next := t
		if i+1 < len(h) {
			next = h[i+1].From
		}
		l.Forks = append(l.Forks, Fork{Timeline: next, At: s.At})
	}
	return l, l.validate()
}

func (l Lineage) validate() error {
	if l.System == 0 || l.First == 0 {
		return errors.New("lineage: system id and first timeline: want neither to be 0")
	}
	last, at := l.First, LSN(0)
	for _, f := range l.Forks {
		if f.Timeline <= last || f.At < at || f.At == 0 {
			return fmt.Errorf("lineage: fork of timeline %s at %s: not after timeline %s at %s", f.Timeline, f.At, last, at)
		}
		last, at = f.Timeline, f.At
	}
	if n := len(l.Text()); n > LineageBytesMax {
		return fmt.Errorf("lineage: %d forks take %d bytes: want at most %d", len(l.Forks), n, LineageBytesMax)
	}
	return nil
}

// Text returns the form that batches, roles and sessions carry.
func (l Lineage) Text() tidegate.Lineage {
	b := fmt.Appendf(nil, "%s%d:%s", lineageScheme, l.System, l.First)
	for _, f := range l.Forks {
		b = fmt.Appendf(b, "+%s@%s", f.Timeline, f.At.Position())
	}
	return tidegate.Lineage(b)
}

// String returns Text.
func (l Lineage) String() string { return string(l.Text()) }

// ParseLineage reads exactly what [Lineage.Text] writes.
func ParseLineage(text tidegate.Lineage) (Lineage, error) {
	fail := func(cause string) (Lineage, error) {
		return Lineage{}, fmt.Errorf("parse lineage %q: %s", text, cause)
	}
	root, rest, more := strings.Cut(string(text), "+")
	system, first, ok := strings.Cut(strings.TrimPrefix(root, lineageScheme), ":")
	if !ok || !strings.HasPrefix(root, lineageScheme) {
		return fail("want pg:<system id>:<timeline>")
	}
	var l Lineage
	var err error
	if l.System, err = strconv.ParseUint(system, 10, 64); err != nil {
		return fail("system id: want a decimal number")
	}
	if l.First, err = ParseTimeline(first); err != nil {
		return fail("want pg:<system id>:<timeline>")
	}
	for more {
		var one string
		one, rest, more = strings.Cut(rest, "+")
		number, at, _ := strings.Cut(one, "@")
		t, errTimeline := ParseTimeline(number)
		p, errPosition := tidegate.ParsePosition(at)
		if errTimeline != nil || errPosition != nil {
			return fail("fork " + strconv.Quote(one) + ": want <timeline>@<position>")
		}
		l.Forks = append(l.Forks, Fork{Timeline: t, At: LSN(p)})
	}
	if err := l.validate(); err != nil {
		return fail(err.Error())
	}
	if l.Text() != text {
		return fail("not in its one form")
	}
	return l, nil
}

// Timeline returns the newest timeline.
func (l Lineage) Timeline() Timeline {
	if n := len(l.Forks); n > 0 {
		return l.Forks[n-1].Timeline
	}
	return l.First
}

// TimelineAt returns the timeline that the byte at lsn is of. A log that ends
// exactly at a fork is wholly of the timeline before.
func (l Lineage) TimelineAt(lsn LSN) Timeline {
	t := l.First
	for _, f := range l.Forks {
		if lsn < f.At {
			break
		}
		t = f.Timeline
	}
	return t
}

// Start returns the fork at which t began: 0 for the first timeline, false when
// t is not of this lineage.
func (l Lineage) Start(t Timeline) (LSN, bool) {
	if t == l.First {
		return 0, true
	}
	for _, f := range l.Forks {
		if f.Timeline == t {
			return f.At, true
		}
	}
	return 0, false
}

// End returns the timeline that followed t and the fork where it did. ok is false
// for the newest timeline and for one that is not of this lineage.
func (l Lineage) End(t Timeline) (next Timeline, at LSN, ok bool) {
	before := l.First
	for _, f := range l.Forks {
		if before == t {
			return f.Timeline, f.At, true
		}
		before = f.Timeline
	}
	return 0, 0, false
}

// Until returns l as it was when t was its newest timeline; false when t is not
// of this lineage.
func (l Lineage) Until(t Timeline) (Lineage, bool) {
	if t == l.First {
		return Lineage{System: l.System, First: l.First}, true
	}
	for i, f := range l.Forks {
		if f.Timeline == t {
			return Lineage{System: l.System, First: l.First, Forks: slices.Clone(l.Forks[:i+1])}, true
		}
	}
	return Lineage{}, false
}

// Fork returns l after a promotion to t at lsn.
func (l Lineage) Fork(t Timeline, at LSN) (Lineage, error) {
	out := Lineage{System: l.System, First: l.First, Forks: append(slices.Clone(l.Forks), Fork{t, at})}
	return out, out.validate()
}

// History returns what the history file of l's newest timeline says; nil for a
// timeline without parents.
func (l Lineage) History() History {
	var h History
	from := l.First
	for _, f := range l.Forks {
		h = append(h, Switch{From: from, At: f.At, Reason: "forked"})
		from = f.Timeline
	}
	return h
}

// Parting says where the logs of two lineages part: the first LSN whose byte need
// not be the same in both. never is true when they are the same lineage, so that
// only their ends can differ. The error, which wraps tidegate.ErrDiverged, is for
// logs that have nothing in common: another system, or another root.
func (l Lineage) Parting(o Lineage) (at LSN, never bool, err error) {
	if l.System != o.System || l.First != o.First {
		return 0, false, &tidegate.Error{
			Op: "compare lineages", Subject: string(l.Text()), Class: tidegate.Permanent,
			Err:  fmt.Errorf("other is %s: another system: %w", o.Text(), tidegate.ErrDiverged),
			Hint: "check that both are of one cluster; a cluster that was made anew needs a new generation",
		}
	}
	for i := range max(len(l.Forks), len(o.Forks)) {
		switch {
		case i >= len(l.Forks):
			return o.Forks[i].At, false, nil
		case i >= len(o.Forks):
			return l.Forks[i].At, false, nil
		case l.Forks[i] != o.Forks[i]:
			return min(l.Forks[i].At, o.Forks[i].At), false, nil
		}
	}
	return 0, true, nil
}

// Extends reports whether a log of lineage l may be a continuation of a log of
// lineage o that ends at end: all of o's log lies before the place where they
// part. It is a claim of the lineages, not a comparison of bytes.
func (l Lineage) Extends(o Lineage, end LSN) bool {
	at, never, err := l.Parting(o)
	return err == nil && (never || end <= at)
}
