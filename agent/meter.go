package agent

import (
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/rpo"
	"github.com/tidegate/tidegate/shipper"
)

// meter joins what the library says (L, A, T0) with what the standby nodes say
// (D) into exposure, on the one boot clock of this machine. It is guarded by
// the writer's mutex.
type meter struct {
	lib   local.LibraryProgress
	heard bool             // lib is from a library that is connected
	at    tidegate.Instant // when lib was heard
	d     facts            // newest durable batch
	last  facts            // newest sealed batch
	begun bool

	// The library counts from the journal's beginning, the ring from the
	// term's: base is the difference, known once both have been seen at one
	// position.
	aligned     bool
	baseRecords uint64
	baseBytes   uint64

	areas *rpo.Meter
}

func newMeter() meter { return meter{areas: rpo.NewMeter(rpo.DefaultAgeBounds())} }

func (m *meter) head() tidegate.Position { return m.lib.L.Position }

// begin starts the count at the head of the term.
func (m *meter) begin(now tidegate.Instant, f facts) {
	m.d, m.last, m.begun = f, f, true
	m.align(m.lib.L, f)
	m.observe(now)
}

// align notes that the library's count c and the ring's f are the same place.
func (m *meter) align(c local.Count, f facts) {
	if m.aligned || !m.begun || c.Position != f.next || c.Records < f.records || c.Bytes < f.bytes {
		return
	}
	m.aligned, m.baseRecords, m.baseBytes = true, c.Records-f.records, c.Bytes-f.bytes
}

func (m *meter) library(now tidegate.Instant, p *local.LibraryProgress) {
	m.lib, m.heard, m.at = *p, true, now
	m.align(p.L, m.last)
	m.observe(now)
}

func (m *meter) lost(now tidegate.Instant) {
	m.heard = false
	m.observe(now)
}

func (m *meter) captured(f facts) { m.last = f }

func (m *meter) durable(now tidegate.Instant, f facts) {
	m.d = f
	m.observe(now)
}

func (m *meter) observe(now tidegate.Instant) {
	if m.begun {
		m.areas.Observe(now, m.exposure(now))
	}
}

// exposure is what a disaster would lose now. Where A is not known, everything
// on the primary counts as released.
func (m *meter) exposure(now tidegate.Instant) rpo.Exposure {
	e := rpo.Exposure{
		Known:   m.begun && m.heard && m.lib.AKnown && m.aligned,
		Records: tidegate.Unbounded, Bytes: tidegate.Unbounded, Age: tidegate.Unbounded, Window: tidegate.Unbounded,
		InDoubtRecords: tidegate.Unbounded, InDoubtBytes: tidegate.Unbounded,
	}
	if !m.aligned {
		return e
	}
	dRecords, dBytes := m.baseRecords+m.d.records, m.baseBytes+m.d.bytes
	if !e.Known {
		if m.heard && m.lib.L.Position >= m.d.next {
			e.Records, e.Bytes = int64(m.lib.L.Records-dRecords), int64(m.lib.L.Bytes-dBytes)
		}
		return e
	}
	released := m.lib.A
	e.Records, e.Bytes, e.Age, e.Window = 0, 0, 0, 0
	if released.Position > m.d.next {
		e.Records, e.Bytes = int64(released.Records-dRecords), int64(released.Bytes-dBytes)
		if t0 := m.lib.T0; t0 > 0 {
			e.Age = max(0, time.Duration(now-t0))
			e.Window = max(0, time.Duration(m.lib.Released-t0))
		}
	} else {
		released = local.Count{Position: m.d.next, Records: dRecords, Bytes: dBytes}
	}
	e.InDoubtRecords = max(0, int64(m.lib.L.Records)-int64(released.Records))
	e.InDoubtBytes = max(0, int64(m.lib.L.Bytes)-int64(released.Bytes))
	return e
}

// within reports whether what is exposed now lies within b: only then may a
// tighter record claim it.
func (m *meter) within(now tidegate.Instant, b tidegate.Bounds) bool {
	e := m.exposure(now)
	return e.Known && e.Records <= b.Records && e.Bytes <= b.Bytes && e.Window <= b.Window
}

// beacon is the meter's part of a beacon. It is dated by what it says of A: a
// library that is silent makes the DR side blind, however often beacons come.
func (m *meter) beacon(now tidegate.Instant) shipper.Beacon {
	b := shipper.Beacon{AKnown: m.heard && m.lib.AKnown, A: m.lib.A.Position, L: m.lib.L.Position, D: m.d.next, Boot: now, Exposed: -1}
	if b.AKnown {
		b.Boot = m.at
	}
	if e := m.exposure(now); e.Known {
		b.Exposed = e.Records
	}
	return b
}
