package assert

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/evidence"
)

const (
	// unknownMax is how long a blocking assertion with no longer window may be over
	// something unknown.
	unknownMax = 10 * time.Second
	// gapMax is the longest time between two looks of one window.
	gapMax = 10 * time.Second
)

// seen is one look at the metric.
type seen struct {
	at    tidegate.Instant
	value int64
	known bool
}

// Watch is an assertion while it is looked at.
//
// Invariants:
//
//  1. it has failed once a look, or a window that is whole, was known to break it, and
//     stays so;
//  2. it has passed only if its window was whole at least once, or it has none and there
//     was a look, and nothing that it speaks of was unknown.
type Watch struct {
	a     Assertion
	began tidegate.Instant // the first look at all
	looks int              // that counted

	window  []seen // without a break, no longer than needed
	whole   bool   // a window was, and held
	failed  string
	unknown string           // what was not known first
	judged  tidegate.Instant // when the latest window was all known, or none was due; 0: never
	lowest  int64            // of the known
	highest int64
	known   bool // there are those
}

// NewWatch returns one that nothing was seen of.
func NewWatch(a Assertion) *Watch { return &Watch{a: a} }

// Take notes a look. Looks come in the order of their moments, which are above 0; one that
// got no answer is empty Values.
func (w *Watch) Take(now tidegate.Instant, v Values) {
	if w.began == 0 {
		w.began = now
	}
	what := w.a.must.metric
	n, known := v[what]
	s := seen{now, n, known}
	if c := w.a.while; c != nil {
		n, known := v[c.metric]
		switch {
		case !known:
			s.known, what = false, c.metric
		case !c.cmp.holds(n, c.limit):
			if w.judged = now; w.a.window > 0 { // a window has no break; all looks are all that count
				w.window = nil
			}
			return
		}
	}
	w.looks++
	w.note(s, what)
	if n := len(w.window); n > 0 && w.a.window > 0 && time.Duration(now-w.window[n-1].at) > gapMax {
		w.window = nil
	}
	w.window = append(w.window, s)
	w.hold(now)
}

// note keeps what the report says of a look.
func (w *Watch) note(s seen, what Metric) {
	if !s.known {
		if w.unknown == "" {
			w.unknown = fmt.Sprintf("%s was unknown, first %s", what, w.after(s.at))
		}
		return
	}
	if !w.known {
		w.lowest, w.highest, w.known = s.value, s.value, true
	}
	w.lowest, w.highest = min(w.lowest, s.value), max(w.highest, s.value)
}

// hold holds the assertion against the window that ends now.
func (w *Watch) hold(now tidegate.Instant) {
	must, last := w.a.must, w.window[len(w.window)-1]
	if must.everyLook() && last.known && !must.cmp.holds(last.value, must.limit) {
		w.fail(now, last.value)
	}
	from := now - tidegate.Instant(w.a.window)
	if last.known && w.a.window == 0 {
		w.judged = now
	}
	covered := w.a.window == 0 || w.window[0].at <= from
	if w.a.window > 0 || must.everyLook() { // what lies before the look that opens the window is not needed any more
		first := 0
		for first+1 < len(w.window) && w.window[first+1].at <= from {
			first++
		}
		w.window = w.window[first:]
	}
	if !covered || !must.everyLook() && w.a.window == 0 { // a statistic of all looks waits for the last one
		return
	}
	w.judge(now)
}

// judge is hold once the window is whole. Looks that are unknown are taken for the best
// that they can have been: what does not hold even so has failed.
func (w *Watch) judge(now tidegate.Instant) {
	unknown := slices.ContainsFunc(w.window, func(s seen) bool { return !s.known })
	if !unknown {
		w.whole, w.judged = true, now
	}
	if must := w.a.must; !must.everyLook() {
		if n, sure := must.atBest(w.window); sure && !must.cmp.holds(n, must.limit) {
			w.fail(now, n)
		}
	}
}

// atBest is the statistic of looks, those that are unknown taken for what helps most; not
// sure: nothing helps most.
func (c condition) atBest(all []seen) (n int64, sure bool) {
	best := int64(0)
	switch c.cmp[0] {
	case '<':
	case '>':
		best = math.MaxInt64
	default:
		if slices.ContainsFunc(all, func(s seen) bool { return !s.known }) {
			return 0, false
		}
	}
	all = slices.Clone(all)
	for i := range all {
		if !all[i].known {
			all[i].value = best
		}
	}
	return c.of.over(all), true
}

func (w *Watch) fail(now tidegate.Instant, n int64) {
	if w.failed != "" {
		return
	}
	c := condition{w.a.must.metric, w.a.must.of, "=", n}
	w.failed = fmt.Sprintf("%s, %s", c, w.after(now))
}

// after says when something was.
func (w *Watch) after(at tidegate.Instant) string {
	return time.Duration(at-w.began).Round(time.Millisecond).String() + " after the first look"
}

// over is the statistic of the values of looks; there is at least one.
func (s statistic) over(all []seen) int64 {
	sorted := make([]int64, len(all))
	for i := range all {
		sorted[i] = all[i].value
	}
	slices.Sort(sorted)
	rank := 1 // by the nearest-rank method
	switch s {
	case median:
		rank = (len(sorted)*50 + 99) / 100
	case p99:
		rank = (len(sorted)*99 + 99) / 100
	case most:
		rank = len(sorted)
	}
	return sorted[rank-1]
}

// Broken says why what goes on must be called off by the looks up to now; empty: it need
// not. That is once the assertion has failed, or something was unknown and no window could
// be judged for its length and as long again, which is at least 10 s: one look that is
// unknown, alone, is in each window for its length.
func (w *Watch) Broken(now tidegate.Instant) string {
	switch {
	case w.failed != "":
		return fmt.Sprintf("%s does not hold: %s", w.a, w.failed)
	case w.unknown != "" && time.Duration(now-w.since()) >= w.a.window+max(w.a.window, unknownMax):
		return fmt.Sprintf("whether %s holds is unknown for %s: %s", w.a, time.Duration(now-w.since()).Round(time.Millisecond), w.unknown)
	}
	return ""
}

// since is when a window was judged last, or the first one was due.
func (w *Watch) since() tidegate.Instant {
	if w.judged != 0 {
		return w.judged
	}
	return w.began
}

// SoFar says why the looks of the window there is do not hold, whole or not; empty: they
// do, as far as they are known.
func (w *Watch) SoFar() string {
	must := w.a.must
	switch {
	case w.failed != "":
		return fmt.Sprintf("%s does not hold: %s", w.a, w.failed)
	case len(w.window) == 0 || must.everyLook():
		return ""
	}
	if n, sure := must.atBest(w.window); sure && !must.cmp.holds(n, must.limit) {
		return fmt.Sprintf("%s does not hold so far: %s", w.a, condition{must.metric, must.of, "=", n})
	}
	return ""
}

// Guarded is Check of a blocking assertion: it need not have held for a whole window, it
// must not have been broken.
func (w *Watch) Guarded() evidence.Check {
	c := w.Check(evidence.KindHarm)
	if c.Outcome == evidence.CheckUnknown && w.looks > 0 && w.unknown == "" {
		if c.Why = w.SoFar(); c.Why == "" {
			c.Outcome = evidence.CheckPassed
		}
	}
	return c
}

// Check is what came of the assertion by its last look, as a check of that kind.
func (w *Watch) Check(kind string) evidence.Check {
	if must := w.a.must; !must.everyLook() && w.a.window == 0 && len(w.window) > 0 {
		w.judge(w.window[len(w.window)-1].at)
	}
	c := evidence.Check{Name: w.a.String(), Kind: kind, Wanted: "it holds", Outcome: evidence.CheckUnknown}
	if w.known {
		u := units[w.a.must.metric]
		c.Got = new(fmt.Sprintf("%s from %s to %s, in %d looks", w.a.must.metric, u.format(w.lowest), u.format(w.highest), w.looks))
	}
	switch {
	case w.failed != "":
		c.Outcome, c.Why = evidence.CheckFailed, w.failed
	case w.unknown != "":
		c.Why = w.unknown
	case w.looks == 0 && w.a.while != nil:
		c.Why = fmt.Sprintf("%s was at no look", w.a.while)
	case w.looks == 0:
		c.Why = "nobody looked"
	case !w.whole:
		c.Why = fmt.Sprintf("it was not looked at for %s without a break", w.a.window)
	default:
		c.Outcome = evidence.CheckPassed
	}
	return c
}
