package rpo

import (
	"math"
	"math/bits"
	"time"

	"github.com/tidegate/tidegate"
)

// Meter integrates exposure over time, exactly, at the events that change it.
// The average over any window is a difference of areas divided by the window;
// percentiles are fractions of time, not of samples.
//
// Between two calls of Observe records and bytes stay as they were, and the age
// grows with slope 1 if anything was exposed. Stretches whose beginning was
// unknown are kept apart and count towards no area: unknown is never 0.
type Meter struct {
	bounds  []time.Duration
	buckets []time.Duration // time spent with age in (bounds[i-1], bounds[i]]; the last: beyond all bounds

	started bool
	at      tidegate.Instant
	now     Exposure

	recordNS area // record·ns
	byteNS   area
	ageNS2   area // twice the area under the age, in ns²
	known    time.Duration
	unknown  time.Duration

	max Peaks
}

// DefaultAgeBounds are histogram bounds from a loopback link to a lost one.
func DefaultAgeBounds() []time.Duration {
	return []time.Duration{
		0, time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond,
		20 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond,
		500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second,
		30 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour,
	}
}

// NewMeter makes a meter whose age histogram has strictly increasing upper
// bounds; a first bound of 0 counts the time in which nothing was exposed.
func NewMeter(ageBounds []time.Duration) *Meter {
	return &Meter{
		bounds:  append([]time.Duration(nil), ageBounds...),
		buckets: make([]time.Duration, len(ageBounds)+1),
	}
}

// Observe says that from now on exposure is e, as of now. A clock that stands
// still or goes back adds nothing.
func (m *Meter) Observe(now tidegate.Instant, e Exposure) {
	if m.started {
		m.advance(now)
	}
	m.started = true
	m.at = max(m.at, now)
	m.now = e
	m.max.note(e)
}

// advance integrates from the last event to now.
func (m *Meter) advance(now tidegate.Instant) {
	if now <= m.at {
		return
	}
	dt := time.Duration(now - m.at)
	m.at = now
	if !m.now.Known {
		m.unknown += dt
		return
	}
	m.known += dt
	m.recordNS.add(uint64(max(0, m.now.Records)), uint64(dt))
	m.byteNS.add(uint64(max(0, m.now.Bytes)), uint64(dt))
	from, to := m.now.Age, m.now.Age
	if exposed(m.now) {
		to += dt
		// The trapezoid's doubled area: (from+to)*dt, a whole number of ns².
		m.ageNS2.add(uint64(from)+uint64(to), uint64(dt))
	}
	m.now.Age = to
	m.spread(from, to, dt)
	m.max.note(m.now)
}

// exposed reports whether the age is running.
func exposed(e Exposure) bool { return e.Records > 0 || e.Bytes > 0 || e.Age > 0 }

// spread adds dt to the histogram: at from if the age stood still, else evenly
// over [from, to].
func (m *Meter) spread(from, to, dt time.Duration) {
	if from == to {
		m.buckets[m.bucket(from)] += dt
		return
	}
	for i := m.bucket(from); from < to; i++ {
		end := to
		if i < len(m.bounds) {
			end = min(to, m.bounds[i])
		}
		if end > from {
			m.buckets[i] += end - from
			from = end
		}
	}
}

// bucket returns the first bucket whose bound is at least age.
func (m *Meter) bucket(age time.Duration) int {
	lo, hi := 0, len(m.bounds)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if m.bounds[mid] < age {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// Areas are integrals since the meter was made; they only grow.
type Areas struct {
	RecordSeconds  float64       `json:"recordSeconds"`
	ByteSeconds    float64       `json:"byteSeconds"`
	AgeSeconds2    float64       `json:"ageSeconds2"` // s²
	KnownSeconds   float64       `json:"knownSeconds"`
	UnknownSeconds float64       `json:"unknownSeconds"`
	Age            []AgeFraction `json:"age,omitempty"` // cumulative, ascending
}

// AgeFraction is the known time spent with an age of at most Max.
type AgeFraction struct {
	Max     time.Duration `json:"max"` // [tidegate.Unbounded] in the last
	Seconds float64       `json:"seconds"`
}

// Areas integrates up to now and returns the sums.
func (m *Meter) Areas(now tidegate.Instant) Areas {
	if m.started {
		m.advance(now)
	}
	a := Areas{
		RecordSeconds:  m.recordNS.float() / 1e9,
		ByteSeconds:    m.byteNS.float() / 1e9,
		AgeSeconds2:    m.ageNS2.float() / 2e18,
		KnownSeconds:   m.known.Seconds(),
		UnknownSeconds: m.unknown.Seconds(),
		Age:            make([]AgeFraction, len(m.buckets)),
	}
	var sum time.Duration
	for i, d := range m.buckets {
		sum += d
		bound := time.Duration(tidegate.Unbounded)
		if i < len(m.bounds) {
			bound = m.bounds[i]
		}
		a.Age[i] = AgeFraction{Max: bound, Seconds: sum.Seconds()}
	}
	return a
}

// Peaks are the largest values since they were last taken.
type Peaks struct {
	Records int64         `json:"records"`
	Bytes   int64         `json:"bytes"`
	Age     time.Duration `json:"age"`
	Window  time.Duration `json:"window"`
	Unknown bool          `json:"unknown"` // exposure was unknown at some time: the peaks are at least these
}

func (p *Peaks) note(e Exposure) {
	if !e.Known {
		p.Unknown = true
		return
	}
	p.Records = max(p.Records, e.Records)
	p.Bytes = max(p.Bytes, e.Bytes)
	p.Age = max(p.Age, e.Age)
	p.Window = max(p.Window, e.Window)
}

// TakePeaks returns the peaks up to now and begins anew with the present values.
func (m *Meter) TakePeaks(now tidegate.Instant) Peaks {
	if m.started {
		m.advance(now)
	}
	p := m.max
	m.max = Peaks{}
	if m.started {
		m.max.note(m.now)
	}
	return p
}

// area is a 128-bit sum of products: byte·ns of a day at a terabyte does not
// fit in 64 bits, and a float would drop the small events.
type area struct{ hi, lo uint64 }

func (a *area) add(x, y uint64) {
	hi, lo := bits.Mul64(x, y)
	var carry uint64
	a.lo, carry = bits.Add64(a.lo, lo, 0)
	a.hi, _ = bits.Add64(a.hi, hi, carry)
}

func (a area) float() float64 { return math.Ldexp(float64(a.hi), 64) + float64(a.lo) }
