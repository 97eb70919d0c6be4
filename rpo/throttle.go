package rpo

import (
	"math"
	"time"

	"github.com/tidegate/tidegate"
)

// drainWindow is how far back DrainRate looks, once to twice.
const drainWindow = 500 * time.Millisecond

// drainMin is the shortest time from which a rate is told.
const drainMin = 100 * time.Millisecond

// DrainRate measures how fast D advances while there is something to advance
// over. Time in which everything is durable says nothing about the link and is
// left out. The zero value knows nothing.
type DrainRate struct {
	started      bool
	older, newer drainMark
	records      int64
}

type drainMark struct {
	at      tidegate.Instant
	records int64
}

// Note says that at now records are durable in all, and whether more are on
// their way. Call it at every advance of D, and now and then in between.
func (r *DrainRate) Note(now tidegate.Instant, records int64, busy bool) {
	m := drainMark{now, records}
	r.records = records
	switch {
	case !busy:
		r.started = false
	case !r.started:
		r.started, r.older, r.newer = true, m, m
	case time.Duration(now-r.newer.at) >= drainWindow:
		r.older, r.newer = r.newer, m
	}
}

// Rate returns records per second up to now, and whether that is known.
func (r *DrainRate) Rate(now tidegate.Instant) (perSecond float64, known bool) {
	span := time.Duration(now - r.older.at)
	if !r.started || span < drainMin {
		return 0, false
	}
	return float64(r.records-r.older.records) / span.Seconds(), true
}

// throttleBurst is how much work may come at once after a pause, in time.
const throttleBurst = 20 * time.Millisecond

// Throttle admits work at a rate: a bucket of tokens, filled by the clock. It
// keeps no queue; who waits, and in which order, is the caller's. The zero value
// admits nothing.
type Throttle struct {
	rate   float64 // tokens per second; +Inf: no limit
	tokens float64
	at     tidegate.Instant
}

// SetRate changes the rate from now on; +Inf is no limit, 0 admits nothing.
func (t *Throttle) SetRate(now tidegate.Instant, perSecond float64) {
	t.fill(now)
	t.rate = max(0, perSecond)
	t.tokens = min(t.tokens, t.burst())
}

// Unlimited reports whether Take always answers true.
func (t *Throttle) Unlimited() bool { return math.IsInf(t.rate, 1) }

// burst is the size of the bucket: at least one record must fit.
func (t *Throttle) burst() float64 { return max(1, t.rate*throttleBurst.Seconds()) }

// missing is what the bucket lacks for n records.
func (t *Throttle) missing(n int) float64 { return min(float64(n), t.burst()) - t.tokens }

// rounding is by how much many small fillings may miss their sum.
const rounding = 1e-6

func (t *Throttle) fill(now tidegate.Instant) {
	switch {
	case t.Unlimited():
		t.tokens = max(0, t.tokens) // what was owed under a limit ends with it
	case now > t.at:
		t.tokens = min(t.burst(), t.tokens+t.rate*time.Duration(now-t.at).Seconds())
	}
	t.at = max(t.at, now)
}

// Take admits n records at now, if there is room. More than the bucket holds are
// admitted at once when it is full, and paid for afterwards.
func (t *Throttle) Take(now tidegate.Instant, n int) bool {
	if t.Unlimited() {
		return true
	}
	t.fill(now)
	if t.rate == 0 || t.missing(n) > rounding {
		return false
	}
	t.tokens -= float64(n)
	return true
}

// Wait returns how long after now Take(n) will say yes if nobody else takes;
// [tidegate.Unbounded] if never.
func (t *Throttle) Wait(now tidegate.Instant, n int) time.Duration {
	if t.Unlimited() {
		return 0
	}
	t.fill(now)
	if t.rate == 0 {
		return tidegate.Unbounded
	}
	missing := t.missing(n)
	if missing <= rounding {
		return 0
	}
	if seconds := missing / t.rate; seconds < math.MaxInt64/float64(time.Second) {
		return time.Duration(seconds*float64(time.Second)) + 1 // rounded up
	}
	return tidegate.Unbounded
}
