package wal_test

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// reseal makes the record at off, which lies on one page, whole again.
func reseal(b []byte, off int) {
	table := crc32.MakeTable(crc32.Castagnoli)
	size := binary.LittleEndian.Uint32(b[off:])
	crc := crc32.Update(0, table, b[off+24:off+int(size)])
	binary.LittleEndian.PutUint32(b[off+20:], crc32.Update(crc, table, b[off:off+20]))
}

// Every kind of damage is named, at the page or record where it is, and nothing at
// or behind it is taken.
func TestFaults(t *testing.T) {
	g := goldens(t)[0]
	const record = 40 // the segment begins with a record: its first page continues none
	second := func(b []byte) int { return record + int(binary.LittleEndian.Uint32(b[record:])+7)&^7 }
	page := wal.PageSize
	le := binary.LittleEndian
	for _, c := range []struct {
		name  string
		at    func(b []byte) int // of the page or record
		harm  func(b []byte, at int)
		kind  wal.FaultKind
		class tidegate.Class
		is    error
		says  string
	}{
		{"bit flipped in a record", second, func(b []byte, at int) { b[at+25] ^= 1 }, wal.FaultChecksum, tidegate.Corrupt, nil, "checksum mismatch"},
		{"bit flipped in a record's id", second, func(b []byte, at int) { b[at+4] ^= 1 }, wal.FaultChecksum, tidegate.Corrupt, nil, "checksum mismatch"},
		{"zeros", second, func(b []byte, at int) { clear(b[at:]) }, wal.FaultEnd, tidegate.Corrupt, nil, "zeros where a record must begin"},
		{"zeroed page", func([]byte) int { return page }, func(b []byte, at int) { clear(b[at : at+page]) }, wal.FaultEnd, tidegate.Corrupt, nil, "zeros where a page must begin"},
		{"short record", second, func(b []byte, at int) { le.PutUint32(b[at:], 19) }, wal.FaultRecord, tidegate.Corrupt, nil, "19 bytes long"},
		{"endless record", second, func(b []byte, at int) { le.PutUint32(b[at:], 1<<31) }, wal.FaultRecord, tidegate.Corrupt, nil, "bytes long"},
		{"unknown manager", second, func(b []byte, at int) { b[at+17] = 77; reseal(b, at) }, wal.FaultRecord, tidegate.Corrupt, nil, "manager 77"},
		{"link elsewhere", second, func(b []byte, at int) { le.PutUint64(b[at+8:], 0x1000028); reseal(b, at) }, wal.FaultLink, tidegate.Corrupt, tidegate.ErrDiverged, "follows 0/1000028"},
		{"link forward", func([]byte) int { return record }, func(b []byte, at int) { le.PutUint64(b[at+8:], 1<<60); reseal(b, at) }, wal.FaultLink, tidegate.Corrupt, tidegate.ErrDiverged, "not before it"},
		{"unknown magic", func([]byte) int { return page }, func(b []byte, at int) { le.PutUint16(b[at:], 0xBEEF) }, wal.FaultPage, tidegate.Corrupt, nil, "BEEF"},
		{"older release", func([]byte) int { return 0 }, func(b []byte, at int) { le.PutUint16(b[at:], 0xD10D) }, wal.FaultVersion, tidegate.Permanent, tidegate.ErrUnsupported, "PostgreSQL 14"},
		{"other release", func([]byte) int { return page }, func(b []byte, at int) { le.PutUint16(b[at:], 0xD118) }, wal.FaultVersion, tidegate.Permanent, tidegate.ErrUnsupported, "PostgreSQL 18 (D118): want 15 (D110)"},
		{"older page", func([]byte) int { return page }, func(b []byte, at int) { le.PutUint64(b[at+8:], 8192) }, wal.FaultEnd, tidegate.Corrupt, nil, "an older page, 0/2000"},
		{"page of elsewhere", func([]byte) int { return page }, func(b []byte, at int) { le.PutUint64(b[at+8:], 1<<40) }, wal.FaultPage, tidegate.Corrupt, nil, "says that it is 100/0"},
		{"unknown flag", func([]byte) int { return page }, func(b []byte, at int) { b[at+2] |= 0x40 }, wal.FaultPage, tidegate.Corrupt, nil, "unknown flags"},
		{"long header in the middle", func([]byte) int { return page }, func(b []byte, at int) { b[at+2] |= 2 }, wal.FaultSystem, tidegate.Corrupt, tidegate.ErrDiverged, "header is long"},
		{"short header at the start", func([]byte) int { return 0 }, func(b []byte, at int) { b[at+2] &^= 2 }, wal.FaultSystem, tidegate.Corrupt, tidegate.ErrDiverged, "header is long"},
		{"other system", func([]byte) int { return 0 }, func(b []byte, at int) { b[at+24] ^= 1 }, wal.FaultSystem, tidegate.Corrupt, tidegate.ErrDiverged, "is of system"},
		{"other segment size", func([]byte) int { return 0 }, func(b []byte, at int) { le.PutUint32(b[at+32:], 16<<20) }, wal.FaultSystem, tidegate.Corrupt, tidegate.ErrDiverged, "16777216 bytes in pages of 8192"},
		{"other page size", func([]byte) int { return 0 }, func(b []byte, at int) { le.PutUint32(b[at+36:], 4096) }, wal.FaultSystem, tidegate.Corrupt, tidegate.ErrDiverged, "pages of 4096"},
		{"other timeline", func([]byte) int { return page }, func(b []byte, at int) { b[at+4] = 2 }, wal.FaultTimeline, tidegate.Corrupt, tidegate.ErrDiverged, "timeline 2: want 1"},
		{"no timeline", func([]byte) int { return page }, func(b []byte, at int) { b[at+4] = 0 }, wal.FaultTimeline, tidegate.Corrupt, tidegate.ErrDiverged, "timeline 0"},
		{"not continued", func([]byte) int { return page }, func(b []byte, at int) { b[at+2] &^= 1 }, wal.FaultPage, tidegate.Corrupt, nil, "is not continued"},
		{"continued by another", func([]byte) int { return page }, func(b []byte, at int) { b[at+16]++ }, wal.FaultPage, tidegate.Corrupt, nil, "want"},
		{"continued by nothing", func([]byte) int { return page }, func(b []byte, at int) { le.PutUint32(b[at+16:], 0) }, wal.FaultPage, tidegate.Corrupt, nil, "with 0 bytes"},
		{"continued and void", func([]byte) int { return page }, func(b []byte, at int) { b[at+2] |= 8 }, wal.FaultPage, tidegate.Corrupt, nil, "continues a record and voids it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, size := range []int{1, 8192, 1 << 20} {
				b := slices.Clone(g.log)
				at := c.at(b)
				c.harm(b, at)
				p := parser(t, wal.Config{SegmentSize: goldenSegment, System: g.system, Lineage: wal.Lineage{System: g.system, First: 1}})
				p.Begin(g.start)
				f := pushAll(t, p, g.start, b, fixed(size))
				if f == nil {
					t.Fatal("not noticed")
				}
				if f.Kind != c.kind || f.At != g.start+wal.LSN(at) || f.End != p.End() || !strings.Contains(f.What, c.says) {
					t.Errorf("%+v: want %s at %s: %s", f, c.kind, g.start+wal.LSN(at), c.says)
				}
				if p.End() > f.At {
					t.Errorf("end %s lies behind the fault at %s", p.End(), f.At)
				}
				err := p.Push(p.Next(), []byte{0})
				if tidegate.ClassOf(err) != c.class || c.is != nil && !errors.Is(err, c.is) || tidegate.HintOf(err) == "" {
					t.Errorf("%v: class %s, hint %q: want %s, %v", err, tidegate.ClassOf(err), tidegate.HintOf(err), c.class, c.is)
				}
				if want := "read wal " + f.At.String() + ": "; !strings.HasPrefix(err.Error(), want) {
					t.Errorf("%v: want %s", err, want)
				}
			}
		})
	}
}

func TestGap(t *testing.T) {
	g := goldens(t)[0]
	p := parser(t, wal.Config{SegmentSize: goldenSegment})
	p.Begin(g.start)
	if err := p.Push(g.start, g.log[:100]); err != nil {
		t.Fatal(err)
	}
	err := p.Push(g.start+101, g.log[101:200])
	if !errors.Is(err, tidegate.ErrGap) || tidegate.ClassOf(err) != tidegate.Transient {
		t.Errorf("%v", err)
	}
	p.Begin(g.start)
	if err := p.Push(g.start, g.log); err != nil {
		t.Errorf("begun again: %v", err)
	}
}

func TestConfigAndMarkAreChecked(t *testing.T) {
	for _, cfg := range []wal.Config{
		{},
		{SegmentSize: 3 << 20},
		{SegmentSize: 16 << 20, Version: 14},
		{SegmentSize: 16 << 20, Lineage: wal.Lineage{System: 1}},
	} {
		if _, err := wal.NewParser(cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
	p := parser(t, wal.Config{SegmentSize: 16 << 20})
	for _, end := range []wal.LSN{0, 1<<24 + 4, 1<<24 + 32, 1<<24 + 8192 + 16} {
		if err := p.Resume(wal.Mark{End: end}); tidegate.ClassOf(err) != tidegate.Misuse {
			t.Errorf("resume at %s: %v", end, err)
		}
	}
	for _, end := range []wal.LSN{1 << 24, 1<<24 + 40, 1<<24 + 8192, 1<<24 + 8192 + 24} {
		if err := p.Resume(wal.Mark{End: end}); err != nil {
			t.Errorf("resume at %s: %v", end, err)
		}
	}
}

// Behind a switch the end goes from page to page; a parser resumed there goes on,
// one begun there finds the next segment.
func TestPadding(t *testing.T) {
	g := goldens(t)[0]
	p := parser(t, wal.Config{SegmentSize: goldenSegment})
	var sw wal.Event
	q := parser(t, wal.Config{SegmentSize: goldenSegment, Event: func(e wal.Event) {
		if e.Kind == wal.SegmentSwitch {
			sw = e
		}
	}})
	q.Begin(g.start)
	if f := pushAll(t, q, g.start, g.log[:len(g.log)-100], fixed(5000)); f != nil {
		t.Fatal(f)
	}
	segment := g.start + wal.LSN(goldenSegment)
	if q.Padding() != segment || q.End() != segment-wal.PageSize || sw.End == 0 {
		t.Fatalf("padding %s, end %s, switch %+v", q.Padding(), q.End(), sw)
	}
	m := q.Mark()
	if err := p.Resume(m); err != nil {
		t.Fatal(err)
	}
	if err := p.Push(m.End, g.log[m.End-g.start:]); err != nil || p.End() != segment || p.Padding() != 0 || p.Last() != sw.Start {
		t.Fatalf("resumed in padding: end %s, padding %s: %v", p.End(), p.Padding(), err)
	}
	p.Begin(m.End)
	if err := p.Push(m.End, g.log[m.End-g.start:]); err != nil || p.End() != 0 {
		t.Fatalf("begun in padding: end %s: %v", p.End(), err)
	}
	// The next segment, as if the golden one followed itself.
	next := slices.Clone(g.log)
	for page := 0; page < len(next); page += wal.PageSize {
		if at := binary.LittleEndian.Uint64(next[page+8:]); at != 0 {
			binary.LittleEndian.PutUint64(next[page+8:], at+uint64(goldenSegment))
		}
	}
	if err := p.Push(segment, next[:41]); err != nil || p.First() != segment || p.End() != segment {
		t.Errorf("next segment: first %s, end %s: %v", p.First(), p.End(), err)
	}
	// At a segment's start there is no excuse.
	p.Begin(m.End)
	if f := pushAll(t, p, m.End, append(slices.Clone(g.log[m.End-g.start:]), make([]byte, 64)...), fixed(999)); f == nil || f.Kind != wal.FaultEnd || f.At != segment {
		t.Errorf("zeros at a segment's start: %+v", f)
	}
}

// Nothing is allocated for a record, whole, in pieces, told or not.
func TestAllocations(t *testing.T) {
	g := goldens(t)[0]
	n := 0
	p := parser(t, wal.Config{SegmentSize: goldenSegment, Event: func(wal.Event) { n++ }})
	run := func() {
		p.Begin(g.start)
		at := g.start
		for b := g.log; len(b) > 0; {
			piece := min(1009, len(b))
			if err := p.Push(at, b[:piece]); err != nil {
				t.Error(err)
				return
			}
			at, b = at+wal.LSN(piece), b[piece:]
		}
	}
	run()
	if got := testing.AllocsPerRun(10, run); got != 0 || n == 0 {
		t.Errorf("%.1f allocations, %d events", got, n)
	}
}
