package rpo

import (
	"testing"
	"time"

	"github.com/tidegate/tidegate"
)

// loaded is a ceiling in the middle of its work: as many records in flight as a
// fast link carries, some of them released.
type loaded struct {
	c   *Ceiling
	n   int64
	now tidegate.Instant
}

func newLoaded() *loaded {
	l := &loaded{c: NewCeiling(Mark{})}
	l.c.Durable(0)
	l.c.SetBounds(tidegate.Bounds{Records: 20_000, Bytes: tidegate.Unbounded, Window: time.Hour})
	l.c.SetLease(true, tidegate.Unbounded)
	for range 30_000 {
		l.append()
		l.c.Release(l.now, min(tidegate.Position(l.n), l.c.Limit(l.now)))
	}
	return l
}

func (l *loaded) append() {
	l.n++
	l.now++
	l.c.Append(Mark{tidegate.Position(l.n), l.n, l.n})
}

// decide is everything a record costs: its mark, D now and then, how the gate
// stands, and its release.
func (l *loaded) decide() {
	l.append()
	if l.n%64 == 0 {
		l.c.Durable(tidegate.Position(l.n - 10_000))
	}
	s := l.c.Standing(l.now)
	if s.Utilisation < 1 {
		l.c.ReleaseFor(l.now, l.c.Limit(l.now), tidegate.ModeBounded)
	}
}

func TestDecisionsAllocateNothing(t *testing.T) {
	l := newLoaded()
	for range 100_000 {
		l.decide()
	}
	var r DrainRate
	var th Throttle
	th.SetRate(0, 1e6)
	for name, f := range map[string]func(){
		"append, durable, standing, release": l.decide,
		"limit for a class":                  func() { l.c.LimitFor(l.now, tidegate.ModeSync) },
		"drain rate":                         func() { l.now++; r.Note(l.now, int64(l.now), true); r.Rate(l.now) },
		"throttle":                           func() { l.now++; th.Take(l.now, 1); th.Wait(l.now, 1) },
	} {
		if n := testing.AllocsPerRun(1000, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkLimit(b *testing.B) {
	l := newLoaded()
	b.ReportAllocs()
	for b.Loop() {
		l.c.LimitFor(l.now, tidegate.ModeBounded)
	}
}

func BenchmarkRelease(b *testing.B) {
	l := newLoaded()
	b.ReportAllocs()
	for b.Loop() {
		l.append()
		l.c.ReleaseFor(l.now, l.c.Limit(l.now), tidegate.ModeBounded)
		if l.n%64 == 0 {
			l.c.Durable(tidegate.Position(l.n - 10_000))
		}
	}
}

func BenchmarkStanding(b *testing.B) {
	l := newLoaded()
	b.ReportAllocs()
	for b.Loop() {
		l.c.Standing(l.now)
	}
}

func BenchmarkDecision(b *testing.B) {
	l := newLoaded()
	b.ReportAllocs()
	for b.Loop() {
		l.decide()
	}
}
