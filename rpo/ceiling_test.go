package rpo

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tidegate/tidegate"
)

// dumb is the formula, read aloud: it remembers everything and searches.
type dumb struct {
	marks    []Mark
	releases []release
	d, a     tidegate.Position
	start    tidegate.Position
	dKnown   bool
	b        tidegate.Bounds
	degraded bool
	lease    bool
	until    tidegate.Instant
}

func (m *dumb) known() bool { return m.dKnown && m.d >= m.start }

// countsAt are those of the newest mark at or below p.
func (m *dumb) countsAt(p tidegate.Position) Mark {
	var at Mark
	for _, x := range m.marks {
		if x.Position <= p {
			at = x
		}
	}
	return at
}

func (m *dumb) t0(now tidegate.Instant) tidegate.Instant {
	t0 := now
	for _, r := range m.releases {
		if r.upTo > m.d {
			t0 = min(t0, r.at)
		}
	}
	return t0
}

func (m *dumb) limit(now tidegate.Instant) tidegate.Position {
	b := m.b
	if m.degraded {
		b = unbounded
	}
	return max(m.a, m.within(now, b))
}

// limitFor reads the classes aloud.
func (m *dumb) limitFor(now tidegate.Instant, mode tidegate.Mode) tidegate.Position {
	isOpen := m.b == unbounded
	switch mode {
	case tidegate.ModeSync:
		return m.d
	case tidegate.ModeBounded:
		if isOpen {
			return m.d
		}
		return m.within(now, m.b)
	case tidegate.ModeOpen:
	}
	return m.limit(now)
}

// within is D, or the newest mark beyond it that b permits.
func (m *dumb) within(now tidegate.Instant, b tidegate.Bounds) tidegate.Position {
	gc := m.d
	if !m.known() || m.lease && now >= m.until {
		return gc
	}
	floor := m.countsAt(m.d)
	open := b.Window == tidegate.Unbounded || time.Duration(now-m.t0(now)) < b.Window
	for _, s := range m.marks {
		within := s.Records-floor.Records <= b.Records && s.Bytes-floor.Bytes <= b.Bytes
		if within && (s.Position <= m.d || open) {
			gc = max(gc, s.Position)
		}
	}
	return gc
}

func drawBounds(t *rapid.T) tidegate.Bounds {
	limit := func(name string, most int64) int64 {
		return rapid.OneOf(rapid.Int64Range(0, most), rapid.Just(int64(tidegate.Unbounded))).Draw(t, name)
	}
	return tidegate.Bounds{
		Records: limit("K", 12), Bytes: limit("B", 300), Window: time.Duration(limit("T", 40)),
	}
}

// world drives a ceiling by random events, beside the dumb one when there is one.
type world struct {
	c    *Ceiling
	m    *dumb
	head Mark
	now  tidegate.Instant
}

func (w *world) step(t *rapid.T) {
	w.now += tidegate.Instant(rapid.Int64Range(0, 10).Draw(t, "dt"))
	switch rapid.IntRange(0, 11).Draw(t, "event") {
	case 10:
		w.m.degraded = rapid.Bool().Draw(t, "degraded")
		w.c.SetDegraded(w.m.degraded)
	case 11:
		w.m.lease = rapid.Bool().Draw(t, "lease needed")
		w.m.until = w.now + tidegate.Instant(rapid.Int64Range(-5, 30).Draw(t, "lease"))
		w.c.SetLease(w.m.lease, w.m.until)
	case 0, 1, 2:
		n := rapid.Int64Range(1, 60).Draw(t, "bytes")
		w.head = Mark{w.head.Position + tidegate.Position(n), w.head.Records + 1, w.head.Bytes + n}
		w.c.Append(w.head)
		w.m.marks = append(w.m.marks, w.head)
	case 3, 4:
		p := tidegate.Position(rapid.Uint64Range(0, uint64(w.head.Position)).Draw(t, "D"))
		w.c.Durable(p)
		w.m.d, w.m.dKnown = max(w.m.d, p), true
	case 5, 6, 7, 8:
		p := tidegate.Position(rapid.Uint64Range(0, uint64(w.head.Position)).Draw(t, "release"))
		mode := rapid.SampledFrom([]tidegate.Mode{"", tidegate.ModeOpen, tidegate.ModeBounded, tidegate.ModeSync}).Draw(t, "class")
		if ok, want := w.c.ReleaseFor(w.now, p, mode), p <= w.m.limitFor(w.now, mode); ok != want {
			t.Fatalf("release of %s at %d as %q: %v, want %v", p, w.now, mode, ok, want)
		} else if ok && p > w.m.a {
			w.m.a = p
			w.m.releases = append(w.m.releases, release{p, w.now})
		}
	case 9:
		b := drawBounds(t)
		w.c.SetBounds(b)
		w.m.b = b
	}
}

func newWorld(t *rapid.T) *world {
	w := &world{now: 1}
	if rapid.Bool().Draw(t, "restarted") {
		w.head = Mark{100, 7, 100}
	}
	w.c = NewCeiling(w.head)
	w.m = &dumb{start: w.head.Position, marks: []Mark{{}, w.head}}
	return w
}

func TestCeilingIsTheFormula(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			w.step(t)
			if n := w.c.valid(); n != 0 {
				t.Fatalf("invariant %d broken", n)
			}
			if got, want := w.c.Limit(w.now), w.m.limit(w.now); got != want {
				t.Fatalf("limit %s, want %s (A %s D %s L %s bounds %+v)", got, want, w.m.a, w.m.d, w.head.Position, w.m.b)
			}
			for _, mode := range []tidegate.Mode{tidegate.ModeSync, tidegate.ModeBounded, tidegate.ModeOpen} {
				got, want := w.c.LimitFor(w.now, mode), w.m.limitFor(w.now, mode)
				if got != want || got > w.c.Limit(w.now) {
					t.Fatalf("limit for %s is %s, want %s", mode, got, want)
				}
			}
			if _, known := w.c.A(); known != w.m.known() {
				t.Fatalf("A known %v, want %v", known, w.m.known())
			}
		}
	})
}

// TestMergingStaysOnTheSafeSide compares a ceiling with room for few marks with
// one that forgets nothing.
func TestMergingStaysOnTheSafeSide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.c.marks.limit, w.c.marks.buf = 4, make([]Mark, 4)
		w.c.marks.n = 0
		w.c.marks.push(Mark{})
		if w.head.Position > 0 {
			w.c.marks.push(w.head)
		}
		w.c.releases.limit, w.c.releases.buf = 4, make([]release, 4)
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			before := w.c.a
			w.stepBounded(t)
			if n := w.c.valid(); n != 0 {
				t.Fatalf("invariant %d broken", n)
			}
			if w.c.a < before {
				t.Fatal("A went back")
			}
			if got, most := w.c.Limit(w.now), w.m.limit(w.now); got > most {
				t.Fatalf("limit %s is beyond the formula's %s", got, most)
			}
			if w.c.marks.len() > 4 || w.c.releases.len() > 4 {
				t.Fatal("memory is not bounded")
			}
		}
	})
}

// stepBounded is step where only the merging ceiling decides about releases.
func (w *world) stepBounded(t *rapid.T) {
	if rapid.Bool().Draw(t, "try release") {
		w.now++
		p := w.c.Limit(w.now)
		if !w.c.Release(w.now, p) {
			t.Fatal("the ceiling's own limit was refused")
		}
		if p > w.m.a {
			w.m.a = p
			w.m.releases = append(w.m.releases, release{p, w.now})
		}
		return
	}
	w.now += tidegate.Instant(rapid.Int64Range(0, 10).Draw(t, "dt"))
	switch rapid.IntRange(0, 5).Draw(t, "event") {
	case 0, 1, 2, 3:
		n := rapid.Int64Range(1, 60).Draw(t, "bytes")
		w.head = Mark{w.head.Position + tidegate.Position(n), w.head.Records + 1, w.head.Bytes + n}
		w.c.Append(w.head)
		w.m.marks = append(w.m.marks, w.head)
	case 4:
		p := tidegate.Position(rapid.Uint64Range(0, uint64(w.head.Position)).Draw(t, "D"))
		w.c.Durable(p)
		w.m.d, w.m.dKnown = max(w.m.d, p), true
	case 5:
		b := drawBounds(t)
		w.c.SetBounds(b)
		w.m.b = b
	}
}

// TestBoundsAreNeverPassed checks invariant 4: whatever comes, with fixed
// bounds, A - D stays within K and B, and the span of releases beyond D below T.
func TestBoundsAreNeverPassed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		b := drawBounds(t)
		w.c.SetBounds(b)
		w.m.b = b
		small := rapid.Bool().Draw(t, "little memory")
		if small {
			w.c.releases.limit, w.c.releases.buf = 4, make([]release, 4)
		}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			w.fixedBoundsStep(t)
			d, a := w.m.countsAt(w.m.d), w.m.countsAt(w.m.a)
			if w.m.a <= w.m.d || !w.m.known() {
				continue
			}
			if a.Records-d.Records > b.Records || a.Bytes-d.Bytes > b.Bytes {
				t.Fatalf("exposed %d records, %d bytes, bounds %+v", a.Records-d.Records, a.Bytes-d.Bytes, b)
			}
			first, last := w.m.t0(w.now), tidegate.Instant(0)
			for _, r := range w.m.releases {
				last = max(last, r.at)
			}
			if window := time.Duration(last - first); window >= b.Window && b.Window != 0 || window > 0 && b.Window == 0 {
				t.Fatalf("loss window %d, bound %d", window, b.Window)
			}
			e := w.c.Exposure(w.now)
			if !e.Known || e.Records < a.Records-d.Records || e.Bytes < a.Bytes-d.Bytes || e.Window < time.Duration(last-first) {
				t.Fatalf("exposure %+v is below the truth", e)
			}
		}
	})
}

func (w *world) fixedBoundsStep(t *rapid.T) {
	w.now += tidegate.Instant(rapid.Int64Range(0, 10).Draw(t, "dt"))
	switch rapid.IntRange(0, 5).Draw(t, "event") {
	case 0, 1:
		n := rapid.Int64Range(1, 60).Draw(t, "bytes")
		w.head = Mark{w.head.Position + tidegate.Position(n), w.head.Records + 1, w.head.Bytes + n}
		w.c.Append(w.head)
		w.m.marks = append(w.m.marks, w.head)
	case 2:
		p := tidegate.Position(rapid.Uint64Range(0, uint64(w.head.Position)).Draw(t, "D"))
		w.c.Durable(p)
		w.m.d, w.m.dKnown = max(w.m.d, p), true
	default:
		p := w.c.Limit(w.now)
		if !w.c.Release(w.now, p) {
			t.Fatal("the ceiling's own limit was refused")
		}
		if p > w.m.a {
			w.m.a = p
			w.m.releases = append(w.m.releases, release{p, w.now})
		}
	}
}

func TestAfterAStartNothingBeyondD(t *testing.T) {
	c := NewCeiling(Mark{100, 10, 100})
	c.SetBounds(tidegate.Bounds{Records: tidegate.Unbounded, Bytes: tidegate.Unbounded, Window: tidegate.Unbounded})
	c.Append(Mark{110, 11, 110})
	if got := c.Limit(1); got != 0 {
		t.Errorf("limit before any D: %s", got)
	}
	c.Durable(50)
	if got := c.Limit(1); got != 50 {
		t.Errorf("limit %s, want D", got)
	}
	e := c.Exposure(1)
	if e.Known || e.Records != 10 || e.Bytes != 100 || e.Age != tidegate.Unbounded {
		t.Errorf("exposure while A is unknown: %+v", e)
	}
	c.Durable(100)
	if got := c.Limit(1); got != 110 {
		t.Errorf("limit %s, want L", got)
	}
	if e := c.Exposure(1); !e.Known || e.Records != 0 || e.InDoubtRecords != 1 {
		t.Errorf("exposure: %+v", e)
	}
}

func TestTighteningLowersTheCeilingNotA(t *testing.T) {
	c := NewCeiling(Mark{})
	c.Durable(0)
	c.SetBounds(tidegate.Bounds{Records: 10, Bytes: tidegate.Unbounded, Window: tidegate.Unbounded})
	for i := int64(1); i <= 10; i++ {
		c.Append(Mark{tidegate.Position(i), i, i})
	}
	if !c.Release(1, 6) {
		t.Fatal("release within bounds refused")
	}
	c.SetBounds(tidegate.Bounds{})
	if got := c.Limit(2); got != 6 {
		t.Errorf("limit %s, want A", got)
	}
	if c.Release(2, 7) {
		t.Error("released beyond the ceiling")
	}
}

func TestHoldKeepsWhatIsGranted(t *testing.T) {
	c := NewCeiling(Mark{})
	c.Durable(0)
	c.SetBounds(tidegate.Bounds{Records: 5, Bytes: tidegate.Unbounded, Window: 10})
	c.Append(Mark{1, 1, 1})
	c.Append(Mark{2, 2, 2})
	c.Hold(1)
	c.Append(Mark{3, 3, 3})
	if got := c.Limit(1); got != 2 {
		t.Errorf("held limit %s, want 2", got)
	}
	if !c.Release(1, 1) {
		t.Fatal("granted position refused")
	}
	if got, ok := c.NextDeadline(5); !ok || got != 11 {
		t.Errorf("next deadline %d %v", got, ok)
	}
	if got := c.Limit(11); got != 1 {
		t.Errorf("limit after T ran out %s, want A", got)
	}
	c.Resume()
	c.Durable(1)
	if got := c.Limit(11); got != 3 {
		t.Errorf("limit %s, want 3", got)
	}
}

func TestOpenOnADeadLinkHasBoundedMemory(t *testing.T) {
	c := NewCeiling(Mark{})
	c.Durable(0)
	b, _ := tidegate.ModeOpen.Bounds(tidegate.Bounds{})
	c.SetBounds(b)
	const n = 10 * marksMax
	for i := int64(1); i <= n; i++ {
		c.Append(Mark{tidegate.Position(i), i, i})
		if !c.Release(tidegate.Instant(i), tidegate.Position(i)) {
			t.Fatalf("open refused %d", i)
		}
	}
	if c.marks.len() > marksMax || c.releases.len() > releasesMax {
		t.Errorf("%d marks, %d releases", c.marks.len(), c.releases.len())
	}
	e := c.Exposure(n)
	if e.Records != n || e.Age != n-1 || e.Window != n-1 {
		t.Errorf("exposure %+v", e)
	}
}

func TestWhatEscapedCountsAndPermitsNothing(t *testing.T) {
	c := NewCeiling(Mark{})
	c.Durable(0)
	for i := int64(1); i <= 4; i++ {
		c.Append(Mark{Position: tidegate.Position(10 * i), Records: i, Bytes: 10 * i})
	}
	c.SetBounds(tidegate.Bounds{Records: 1, Bytes: tidegate.Unbounded, Window: tidegate.Unbounded})
	c.Escape(5, 1000) // beyond the head: there is nothing
	if a, known := c.A(); a.Position != 40 || !known {
		t.Errorf("A %s (known %v), want the head", a.Position, known)
	}
	if e := c.Exposure(6); !e.Known || e.Records != 4 || e.Bytes != 40 {
		t.Errorf("exposure %+v", e)
	}
	if p := c.Permits(6); p != 10 {
		t.Errorf("permits %s, want one record", p)
	}
	if s := c.Standing(6); s.Covered || s.Utilisation != 4 {
		t.Errorf("standing %+v", s)
	}
	c.Durable(40)
	if e := c.Exposure(7); e.Records != 0 || c.valid() != 0 {
		t.Errorf("exposure %+v, invariant %d", e, c.valid())
	}
}
