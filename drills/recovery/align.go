package recovery

import (
	"fmt"
	"slices"

	"github.com/tidegate/tidegate"
)

// Sequences is evidence of outputs without ids, by their contents alone.
type Sequences struct {
	Stream tidegate.StreamName
	Before []tidegate.Digest
	After  []tidegate.Digest // without those of a superseded epoch
	Golden []tidegate.Digest // from the first of Before on, at least as far as After goes; nil: there is none

	Terms // of which MinTail and Horizon count
}

// Alignment says how outputs without ids fit to what is due.
type Alignment struct {
	Fits        int `json:"fits"`         // places of the golden where all of After fits
	RollbackMin int `json:"rollback_min"` // outputs of Before that came again: at least, and at most
	RollbackMax int `json:"rollback_max"`
	Matched     int `json:"matched"` // outputs of After that are in the golden, in its order
}

// What is searched for parts of After that fit: so many outputs of it, and so many of the
// golden on each side of where it should lie.
const (
	alignMax    = 2048
	alignWindow = 512
)

// Align tells how a service recovered whose outputs have no ids. Where equal outputs
// leave several ways in which they fit, it says so, and claims the weaker type; contents
// that repeat leave it at unknown.
func Align(q Sequences) (Result, error) {
	if err := tidegate.ValidName(string(q.Stream)); err != nil {
		return Result{}, fmt.Errorf("align outputs: stream: %w", err)
	}
	q.MinTail = max(q.MinTail, 1)
	r := Result{
		Basis: ByAlignment, Confidence: Certain, Content: q.Golden != nil, Reasons: []string{}, MinTail: q.MinTail, Horizon: q.Horizon,
	}
	a := aligner{Sequences: q, r: &r, v: Vector{Stream: q.Stream, Before: len(q.Before), After: len(q.After), Alignment: &Alignment{}}}
	a.align()
	a.v.Also = a.v.besides(a.v.Type)
	r.Streams = []Vector{a.v}
	r.together()
	return r, nil
}

type aligner struct {
	Sequences

	r *Result
	v Vector
}

func (a *aligner) say(t, atBest Type, format string, args ...any) {
	a.v.Type, a.v.AtBest = t, atBest
	a.r.Reasons = append(a.r.Reasons, fmt.Sprintf("%s: %s", a.Stream, fmt.Sprintf(format, args...)))
}

func (a *aligner) align() {
	if a.Golden == nil {
		a.v.Alignment.RollbackMax = overlap(a.Before, a.After)
		a.r.Confidence = Ambiguous
		a.say(Unknown, Unknown, "there is no golden, and outputs have no ids: at most %d came again, and nothing else is decidable", a.v.Alignment.RollbackMax)
		return
	}
	due := len(a.Golden)
	a.v.Golden = &due
	for i, d := range a.Before {
		if i >= due || d != a.Golden[i] {
			a.r.Confidence = Partial
			a.say(Unknown, Convergent, "output %d of before is not what is due there: nothing can be aligned with it", i+1)
			return
		}
	}
	if len(a.After) == 0 {
		a.say(Unknown, Unknown, "no output of the new writer came until the horizon, %s", a.Horizon)
		return
	}
	fits := a.fits()
	a.v.Alignment.Fits = len(fits)
	switch {
	case len(fits) > 0:
		a.whole(fits)
	case len(a.After) < a.MinTail:
		a.say(Unknown, Convergent, "outputs of the new writer: %d, and at least %d are needed to tell", len(a.After), a.MinTail)
	case len(a.After) > alignMax:
		a.r.Confidence = Partial
		a.say(Unknown, Convergent, "%s of the new writer do not fit as a whole, and parts are searched for among %d at most", outputs(len(a.After)), alignMax)
	default:
		a.parts()
	}
}

// fits returns where After fits as a whole; of several places, those from where it comes
// as far as Before, if there are.
func (a *aligner) fits() []int {
	all := occurrences(a.Golden, a.After)
	if i := slices.IndexFunc(all, func(at int) bool { return at+len(a.After) >= len(a.Before) }); i > 0 {
		return all[i:]
	}
	return all
}

// whole judges outputs that fit as they are, beginning at any of these places.
func (a *aligner) whole(fits []int) {
	n, m := len(a.Before), len(a.After)
	a.v.Alignment.Matched = m
	a.v.Alignment.RollbackMin, a.v.Alignment.RollbackMax = max(0, n-fits[len(fits)-1]), max(0, n-fits[0])
	back, behind := fits[0] < n, fits[len(fits)-1] > n
	if len(fits) > 1 {
		a.r.Confidence = Ambiguous
	}
	// As few as they may be: of each, there is a way to fit that has no more.
	missing, pending := max(0, fits[0]-n), max(0, len(a.Golden)-max(n, fits[len(fits)-1]+m))
	none, wrong, phantom, tail := Seen{}, Seen{}, Seen{}, m
	a.v.Missing, a.v.Pending, a.v.Tail = &Seen{Count: missing}, &pending, &tail
	a.v.Dup.Count, a.v.DupDiff, a.v.NewWrong, a.v.Phantom = a.v.Alignment.RollbackMin, &none, &wrong, &phantom
	switch {
	case missing > 0:
		a.say(Gap, Gap, "at least %s missing", outputs(missing))
	case behind:
		a.say(Unknown, Unknown, "outputs repeat: they fit behind a gap, and without one")
	case m < a.MinTail:
		a.say(Unknown, bound(back, len(fits) > 1), "outputs of the new writer: %d, and at least %d are needed to tell", m, a.MinTail)
	case fits[len(fits)-1]+m < n:
		a.say(Unknown, Repeating, "the new writer has not come as far as the old one had been")
	case back:
		a.say(Repeating, Repeating, "at least %s again, and at most %d", outputs(a.v.Alignment.RollbackMin), a.v.Alignment.RollbackMax)
	default:
		a.v.Type, a.v.AtBest = Precise, Precise
	}
}

// bound is what is not excluded where outputs fit going back, unless they fit otherwise too.
func bound(back, several bool) Type {
	if back && !several {
		return Repeating
	}
	return Unknown
}

// parts judges outputs of which only some fit.
func (a *aligner) parts() {
	n := len(a.Before)
	from := max(0, n-alignWindow-len(a.After))
	to := min(len(a.Golden), n+len(a.After)+alignWindow)
	p := match(a.After, a.Golden, from, to, n)
	a.r.Confidence = Partial
	a.v.Alignment.Matched = p.matched
	a.v.Alignment.RollbackMin, a.v.Alignment.RollbackMax = p.again, p.again
	none := Seen{}
	a.v.Missing, a.v.NewWrong, a.v.Phantom = &Seen{Count: p.missing}, &Seen{Count: p.wrong}, &Seen{Count: p.phantom}
	a.v.Dup.Count, a.v.DupDiff, a.v.Order.Count, a.v.Tail = p.again, &none, p.reordered, &p.tail
	if p.tail > 0 && len(occurrences(a.Golden, a.After[len(a.After)-p.tail:])) > 1 {
		a.r.Confidence = Ambiguous
	}
	switch {
	case p.matched == 0:
		a.say(Divergent, Divergent, "none of %s of the new writer is what is due; whether more are missing is not decidable", outputs(len(a.After)))
	case p.missing > 0:
		a.say(Gap, Gap, "%s missing between those that fit", outputs(p.missing))
	case p.tail >= a.MinTail && p.reach >= n:
		a.say(Convergent, Convergent, "outputs differ from what is due, but for the last %d", p.tail)
	default:
		a.say(Divergent, Divergent, "outputs differ from what is due; of the last ones %d in a row were right, %d are asked for", p.tail, a.MinTail)
	}
}
