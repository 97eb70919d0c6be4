package archive

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/snapshot"
)

// Retention says what of a stream stays in an archive. The zero value keeps everything.
type Retention struct {
	// Window is for how long back any moment stays recoverable, counted from the newest
	// record that is archived; 0: nothing is removed.
	Window time.Duration `yaml:"window" json:"window"`
	// Keep names bases that stay beyond that, each with the log that makes it whole. Its
	// zero value names none.
	Keep `yaml:",inline"`
}

// WindowMin is the least [Retention.Window] but 0: what is less is a slip of the pen.
const WindowMin = time.Hour

// Validate reports every broken rule.
func (r Retention) Validate() error {
	errs := []error{r.Keep.Validate()}
	switch {
	case r.Window != 0 && r.Window < WindowMin:
		errs = append(errs, fmt.Errorf("window: want 0 or at least %s (got %s)", WindowMin, r.Window))
	case r.Window == 0 && r.Keep != (Keep{}):
		errs = append(errs, errors.New("window: want more than 0 where bases are to be kept beyond it (got 0)"))
	}
	return errors.Join(errs...)
}

// BaseFact is what decides about a base that is listed.
type BaseFact struct {
	Name       snapshot.Name
	Generation tidegate.Generation
	Start      tidegate.Position
	Taken      time.Time
	Unfit      string // why it cannot be restored; empty: it can, and what follows is known

	Begin, Whole tidegate.Seq // of the log without which it is of no use, what led to it included
	Moment       time.Time    // the source's, of Whole
	End          tidegate.Seq // the last batch that it can be restored to
	Until        time.Time    // the source's, of End
	Locked       bool         // the bucket does not let it go yet
}

// Retained is what a rule keeps.
type Retained struct {
	Held  string       // why nothing goes, for people; empty: what the rest says
	Stays []string     // per base, why it stays; empty: it goes
	From  tidegate.Seq // the log stays from here on
	// Islands are what stays of the log before From, because a base that stays needs it.
	Islands []Range
	// Stuck: nothing can go before something changes that should not be as it is.
	Stuck bool
	// Rests are the bases, by index, that what is to be recoverable rests on.
	Rests []int
}

// hold keeps everything, of so many bases; the reason is for people.
func hold(bases int, stuck bool, format string, args ...any) Retained {
	out := Retained{Held: fmt.Sprintf(format, args...), Stuck: stuck, From: 1, Stays: make([]string, bases)}
	for i := range out.Stays {
		out.Stays[i] = out.Held
	}
	return out
}

// Rule says what stays. tip is the last batch of the newest branch and newest its
// time, by the source; now is by this clock, and counts only where it is earlier:
// while nothing comes, and when a clock is wrong, nothing goes.
//
// Invariants, whatever the facts:
//  1. nothing goes while the newest base cannot be restored up to tip
//  2. nothing goes while no base stands for the window's first moment
//  3. every moment of the window that could be restored can be restored
//  4. each base that stays can be restored if it could be
//  5. the newest base stays
func (r Retention) Rule(bases []BaseFact, tip tidegate.Seq, newest, now time.Time) Retained {
	n := len(bases)
	if r.Window == 0 {
		return hold(n, false, "no window is configured")
	}
	if n == 0 {
		return hold(n, false, "there is no base")
	}
	last := newestBase(bases)
	switch b := bases[last]; {
	case b.Unfit != "":
		return hold(n, true, "the newest base, %.12s, is of no use: %s", b.Name, b.Unfit)
	case b.End != tip:
		return hold(n, true, "behind the newest base, %.12s, there is a hole: it can be restored up to batch %d of %d", b.Name, uint64(b.End), uint64(tip))
	}
	if now.Before(newest) {
		newest = now
	}
	since := newest.Add(-r.Window)
	bases = forwards(bases, newest)
	anchors := anchors(bases, since)
	if len(anchors) == 0 {
		return hold(n, false, "no base is older than the window, which begins %s", since.UTC().Format(time.RFC3339))
	}
	out := Retained{Stays: make([]string, n), From: tip}
	for _, i := range anchors {
		out.From = min(out.From, bases[i].Begin)
		out.Stays[i] = "the window begins behind it"
	}
	out.Stays[last] = "it is the newest"
	if out.Rests = anchors; !slices.Contains(anchors, last) {
		out.Rests = append(out.Rests, last)
	}
	r.stays(bases, since, out.Stays)
	for i, b := range bases {
		if out.Stays[i] != "" && b.Unfit == "" && b.Begin < out.From {
			out.Islands = append(out.Islands, Range{b.Begin, b.Whole})
		}
	}
	return out
}

// newestBase is the index of the base of the newest generation that begins last.
func newestBase(bases []BaseFact) (last int) {
	for i, b := range bases {
		if n := bases[last]; b.Generation > n.Generation || b.Generation == n.Generation && b.Start >= n.Start {
			last = i
		}
	}
	return last
}

// forwards returns the bases with times that do not go back along the log, whatever the
// source's clock has done: of those that lead to one end, none is of a moment before that
// of one which was whole earlier. What is after newest the clock had wrong, and says
// nothing of what follows it.
func forwards(bases []BaseFact, newest time.Time) []BaseFact {
	order := make([]int, len(bases))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(bases[i].Whole, bases[j].Whole) })
	out, latest := slices.Clone(bases), map[tidegate.Seq]time.Time{}
	for _, i := range order {
		b := &out[i]
		if b.Unfit != "" {
			continue
		}
		if t := latest[b.End]; b.Moment.Before(t) {
			b.Moment = t
		} else if !b.Moment.After(newest) {
			latest[b.End] = b.Moment
		}
	}
	for i, b := range out {
		if t := latest[b.End]; b.Unfit == "" && b.Until.Before(t) {
			out[i].Until = t
		}
	}
	return out
}

// inWindow reports whether a base is of the window, by the source's clock or by that of
// the node that took it.
func (b BaseFact) inWindow(since time.Time) bool {
	return b.Moment.After(since) || b.Taken.After(since)
}

// anchors are the bases from which the window's first moment is restored: of those
// that lead to one end that is in the window, the newest that is whole before since.
func anchors(bases []BaseFact, since time.Time) (list []int) {
	best := map[tidegate.Seq]int{}
	for i, b := range bases {
		if b.Unfit != "" || b.inWindow(since) || b.Until.Before(since) {
			continue
		}
		if j, ok := best[b.End]; !ok || b.Whole > bases[j].Whole {
			best[b.End] = i
		}
	}
	for i, b := range bases { // and its copies in other mirrors
		if j, ok := best[b.End]; ok && b.Unfit == "" && b.Name == bases[j].Name {
			list = append(list, i)
		}
	}
	return list
}

// stays says of the bases which are neither the newest nor an anchor why they stay.
func (r Retention) stays(bases []BaseFact, since time.Time, why []string) {
	var names []snapshot.Name // of those that can be restored; a base may be in several mirrors
	var taken []time.Time
	oldest := time.Time{} // of what stands for the window
	for i, b := range bases {
		if b.Unfit != "" {
			continue
		}
		if !slices.Contains(names, b.Name) {
			names, taken = append(names, b.Name), append(taken, b.Taken)
		}
		if why[i] != "" && (oldest.IsZero() || b.Taken.Before(oldest)) {
			oldest = b.Taken
		}
	}
	named := make([]bool, len(names))
	if r.Keep != (Keep{}) {
		named = r.Keep.Rule(taken)
	}
	for i, b := range bases {
		switch {
		case why[i] != "":
		case b.Locked:
			why[i] = "the bucket has it locked"
		case b.Unfit != "" && !b.Taken.Before(oldest):
			why[i] = "it is younger than what stands for the window, and of no use: " + b.Unfit
		case b.Unfit != "":
		case b.inWindow(since):
			why[i] = "it is in the window"
		case named[slices.Index(names, b.Name)]:
			why[i] = "it is one of those that are kept beyond the window"
		}
	}
}

// Segments returns which segments go, oldest first: of the branch, and of those that
// are aside. The latter go before any of the former does: where log around an island
// has gone, nothing but the chains of what is left says which of two branches it was of.
func (k Retained) Segments(b Branch, aside []Segment) (fromBranch, fromAside []Segment) {
	if k.Held != "" {
		return nil, nil
	}
	for _, g := range aside {
		if g.Last < k.From {
			fromAside = append(fromAside, g)
		}
	}
	stays := func(g Segment) bool {
		return g.Last >= k.From || slices.ContainsFunc(k.Islands, func(r Range) bool { return g.First <= r.Last && r.First <= g.Last })
	}
	for i, g := range b.Segments {
		// What overlaps one that stays does as well: where a range that has gone ends, the
		// chain of its last batch says of which branch it was.
		next := i + 1
		overlaps := next < len(b.Segments) && stays(b.Segments[next]) && b.Segments[next].First <= g.Last
		if !stays(g) && !overlaps {
			fromBranch = append(fromBranch, g)
		}
	}
	return fromBranch, fromAside
}
