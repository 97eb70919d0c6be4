package rpo

import (
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/mutate"
)

// Mark is a place where a record ends, with everything before it counted.
// Records and Bytes are cumulative over the stream and never decrease.
type Mark struct {
	Position tidegate.Position
	Records  int64
	Bytes    int64
}

// marksMax bounds the places remembered beyond D. Past it neighbours are
// merged, so that an open stream on a dead link needs no more memory however
// long it goes on; the price is that grants come in larger steps until D has
// passed the merged part.
const marksMax = 1 << 16

// releasesMax bounds the remembered release times, merged in the same way.
const releasesMax = 1 << 12

// Ceiling computes how far outputs may be released:
//
//	Gc = max(A, D, max{s <= L : records(D,s] <= K and bytes(D,s] <= B and (s <= D or now < T0+T)})
//
// where T0 is the earliest release among positions beyond D, or now if there is
// none. Open is K, B, T infinite, sync is all zero: one formula. A degraded gate
// is one whose K, B and T do not count for the time being, and an output lease
// that is needed and over leaves max(A, D).
//
// Invariants, checked by valid in tests:
//
//  1. D, L and A never decrease, and A <= max(D, L).
//  2. marks are strictly increasing in position; the first is at or below D, all others beyond D.
//  3. releases are strictly increasing in position, all beyond D, their times never decrease.
//  4. between two calls of Durable, and with bounds that are neither loosened nor
//     degraded, records(D,A] <= K, bytes(D,A] <= B and the loss window < T,
//     whatever the merging.
//
// Merging only ever forgets places and later release times, so that every
// answer moves to the safe side: a lower ceiling, a larger exposure, an earlier T0.
//
// Append and Release are O(1) amortised and allocate nothing in steady state,
// Durable is amortised O(1) per mark passed, Limit and Standing are O(log n).
type Ceiling struct {
	bounds tidegate.Bounds
	d      tidegate.Position
	a      tidegate.Position
	head   Mark
	start  tidegate.Position // A is unknown until D has reached it
	known  bool              // D >= start was seen
	dKnown bool
	held   bool              // no new grants: see Hold
	hold   tidegate.Position // highest grant while held
	moved  tidegate.Instant  // release that moved A last

	degraded   bool // bounds are not enforced: see SetDegraded
	needsLease bool
	leaseUntil tidegate.Instant

	marks    ring[Mark]
	releases ring[release]
}

// release says: everything up to (and not before the previous entry's) upTo was
// released no earlier than at.
type release struct {
	upTo tidegate.Position
	at   tidegate.Instant
}

// NewCeiling begins at a start or a change of writer. head is where the
// stream ends at that moment: everything before it may have been released by
// somebody, so A is unknown, and nothing beyond D is granted until D reaches it.
// The bounds begin as sync.
func NewCeiling(head Mark) *Ceiling {
	c := &Ceiling{
		head: head, start: head.Position,
		marks:    newRing(marksMax, mergeMarks),
		releases: newRing(releasesMax, mergeReleases),
	}
	// The floor: D is at least the beginning of the stream, where all counts are 0.
	c.marks.push(Mark{})
	if head.Position > 0 {
		c.marks.push(head)
	}
	c.settle()
	return c
}

// Append says that the stream is durable on the primary up to m, where a
// record ends. Marks that do not advance are ignored. Feed every record's end:
// the ceiling only ever lies on a mark.
func (c *Ceiling) Append(m Mark) {
	if m.Position <= c.head.Position {
		return
	}
	c.head = m
	c.marks.push(m)
}

// Durable says that everything before p is durable at the DR site. A lower p
// than before is ignored: what was durable stays so.
func (c *Ceiling) Durable(p tidegate.Position) {
	c.dKnown = true
	if p > c.d {
		c.d = p
		// Keep the newest mark at or below D as the floor of the counts: with D
		// between two marks the lower one counts too much, which is the safe side.
		for c.marks.len() > 1 && c.marks.at(1).Position <= p {
			c.marks.pop()
		}
		for c.releases.len() > 0 && c.releases.at(0).upTo <= p {
			c.releases.pop()
		}
	}
	c.settle()
}

// settle ends the time in which A is unknown.
func (c *Ceiling) settle() {
	if !c.known && c.dKnown && c.d >= c.start {
		c.known = true
	}
}

// SetBounds replaces K, B and T. Tightening lowers the ceiling at once, never A.
func (c *Ceiling) SetBounds(b tidegate.Bounds) { c.bounds = b }

// Bounds returns what SetBounds was given last; sync at the start.
func (c *Ceiling) Bounds() tidegate.Bounds { return c.bounds }

// Hold stops new grants: until Resume the ceiling is at most what it is now,
// and still falls when T runs out. D does not advance meanwhile unless Durable
// is called, and what Durable proves may be released.
func (c *Ceiling) Hold(now tidegate.Instant) {
	if !c.held {
		c.hold = c.Limit(now)
		c.held = true
	}
}

// Resume ends Hold.
func (c *Ceiling) Resume() { c.held = false }

// SetDegraded says whether bounds are enforced. Enforcing them again lowers the
// ceiling at once, never A. The caller has the record's word for it.
func (c *Ceiling) SetDegraded(on bool) { c.degraded = on }

// SetLease says whether releases beyond D need an output lease, and until when
// this holder has one, on the clock that the other methods are given; at until
// it has none.
func (c *Ceiling) SetLease(needed bool, until tidegate.Instant) {
	c.needsLease, c.leaseUntil = needed, until
}

// unbounded forbids nothing.
var unbounded = tidegate.Bounds{Records: tidegate.Unbounded, Bytes: tidegate.Unbounded, Window: tidegate.Unbounded}

// inForce returns the bounds that count now.
func (c *Ceiling) inForce() tidegate.Bounds {
	if c.degraded || mutate.Broken(mutate.BoundsEnforced) {
		return unbounded
	}
	return c.bounds
}

// Limit returns the ceiling. Read the clock for now in the same step as the
// release that relies on the answer, and report that release by Release.
func (c *Ceiling) Limit(now tidegate.Instant) tidegate.Position {
	return max(c.a, c.Permits(now))
}

// Permits returns how far D and the bounds let releases go now, whatever has been
// released: the ceiling for one who asks anew after something escaped.
func (c *Ceiling) Permits(now tidegate.Instant) tidegate.Position {
	return max(c.d, c.grant(now, c.inForce()))
}

// LimitFor returns the ceiling for one release that asks for at least the
// durability of mode; a mode weaker than the stream's changes nothing. Sync is D,
// whatever else was released; bounded holds the stream's bounds although it is
// degraded, and is sync where the stream has none.
func (c *Ceiling) LimitFor(now tidegate.Instant, mode tidegate.Mode) tidegate.Position {
	if mutate.Broken(mutate.ClassStrengthens) {
		return c.Limit(now)
	}
	switch {
	case mode == tidegate.ModeSync, mode == tidegate.ModeBounded && c.bounds == unbounded:
		return c.d
	case mode == tidegate.ModeBounded:
		// Not A: what weaker releases have passed is not within the bounds for that,
		// and what was held back under other bounds would be let go long after T.
		return max(c.d, c.grant(now, c.bounds))
	}
	return c.Limit(now)
}

// grant returns how far b lets releases go beyond D, 0 if not at all.
func (c *Ceiling) grant(now tidegate.Instant, b tidegate.Bounds) tidegate.Position {
	if !c.known && !mutate.Broken(mutate.RegateAfterStart) || c.leaseOver(now) || !c.within(now, b.Window) {
		return 0
	}
	floor := c.marks.at(0)
	// The largest mark within K and B: counts never decrease, so binary search.
	lo, hi := 0, c.marks.len()-1
	for lo < hi {
		mid := int(uint(lo+hi+1) / 2)
		m := c.marks.at(mid)
		if m.Records-floor.Records <= b.Records && m.Bytes-floor.Bytes <= b.Bytes {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	p := c.marks.at(lo).Position
	if c.held {
		p = min(p, c.hold)
	}
	return p
}

// leaseOver reports whether a lease is needed and none is held at now.
func (c *Ceiling) leaseOver(now tidegate.Instant) bool {
	return c.needsLease && now >= c.leaseUntil && !mutate.Broken(mutate.LeaseChecked)
}

// within reports now < T0+window, T0 being now when nothing beyond D is released.
func (c *Ceiling) within(now tidegate.Instant, window time.Duration) bool {
	if window == tidegate.Unbounded {
		return true
	}
	t0 := now
	if c.releases.len() > 0 {
		t0 = c.releases.at(0).at
	}
	return time.Duration(now-t0) < window
}

// Release says that outputs up to upTo, at most what Limit(now) answered, are
// let go at now. It returns false, and releases nothing, if upTo is beyond it.
func (c *Ceiling) Release(now tidegate.Instant, upTo tidegate.Position) bool {
	if upTo > c.Limit(now) {
		return false
	}
	c.release(now, upTo)
	return true
}

// ReleaseFor is Release by [Ceiling.LimitFor].
func (c *Ceiling) ReleaseFor(now tidegate.Instant, upTo tidegate.Position, mode tidegate.Mode) bool {
	if upTo > c.LimitFor(now, mode) {
		return false
	}
	c.release(now, upTo)
	return true
}

// Escape says that outputs up to upTo, at most the head, left at now although
// nobody asked: A is there, and exposure counts them. Invariant 4 holds again once
// D has passed them.
func (c *Ceiling) Escape(now tidegate.Instant, upTo tidegate.Position) {
	c.release(now, min(upTo, c.head.Position))
}

func (c *Ceiling) release(now tidegate.Instant, upTo tidegate.Position) {
	if upTo <= c.a {
		return
	}
	c.a = upTo
	c.moved = max(c.moved, now)
	if upTo > c.d {
		// A clock handed in out of order must not make a later release look older.
		at := now
		if n := c.releases.len(); n > 0 {
			at = max(at, c.releases.at(n-1).at)
		}
		c.releases.push(release{upTo: upTo, at: at})
	}
}

// NextDeadline returns when the time bound will close the ceiling unless D
// advances, and whether it will: false if nothing beyond D is released, T is
// unbounded, or it is closed already.
func (c *Ceiling) NextDeadline(now tidegate.Instant) (tidegate.Instant, bool) {
	window := c.inForce().Window
	if c.releases.len() == 0 || window == tidegate.Unbounded || !c.within(now, window) {
		return 0, false
	}
	return c.releases.at(0).at + tidegate.Instant(window), true
}

// D returns the durable position and whether any is known.
func (c *Ceiling) D() (tidegate.Position, bool) { return c.d, c.dKnown }

// L returns the head.
func (c *Ceiling) L() Mark { return c.head }

// A returns the released position with its counts, and whether it is known.
// The counts may exceed the true ones where marks were merged.
func (c *Ceiling) A() (Mark, bool) {
	return c.atOrAbove(c.a), c.known
}

// T0 returns the earliest release among positions beyond D; 0 if there is none.
func (c *Ceiling) T0() tidegate.Instant {
	if c.releases.len() == 0 {
		return 0
	}
	return c.releases.at(0).at
}

// LastRelease returns when A advanced last; 0 if it never did.
func (c *Ceiling) LastRelease() tidegate.Instant { return c.moved }

// atOrAbove returns the first mark at or above p with p in place of its
// position, or the floor if p lies below everything remembered.
func (c *Ceiling) atOrAbove(p tidegate.Position) Mark {
	lo, hi := 0, c.marks.len()
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if c.marks.at(mid).Position < p {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == c.marks.len() {
		lo--
	}
	m := c.marks.at(lo)
	m.Position = p
	return m
}

// mergeMarks keeps the later of two neighbours: the ceiling can then only be
// lower, and what lies beyond D only larger.
func mergeMarks(_, later Mark) Mark { return later }

// mergeReleases keeps the wider range with the earlier time: T runs out earlier.
func mergeReleases(earlier, later release) release {
	return release{upTo: later.upTo, at: earlier.at}
}

// valid returns the number of the first broken invariant, 0 if all hold.
func (c *Ceiling) valid() int {
	if c.a > max(c.d, c.head.Position) {
		return 1
	}
	for i := range c.marks.len() {
		p := c.marks.at(i).Position
		switch {
		case i == 0 && p > c.d, i > 0 && p <= c.d, i > 0 && p <= c.marks.at(i-1).Position:
			return 2
		}
	}
	for i := range c.releases.len() {
		r := c.releases.at(i)
		if r.upTo <= c.d || i > 0 && (r.upTo <= c.releases.at(i-1).upTo || r.at < c.releases.at(i-1).at) {
			return 3
		}
	}
	return 0
}
