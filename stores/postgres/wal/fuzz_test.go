package wal_test

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

func fuzzLogs(f *testing.F) {
	f.Helper()
	for _, g := range goldens(f) {
		for _, cut := range []int{100, 9000, 40000} {
			f.Add(g.log[:cut], uint16(7), uint64(g.start))
			f.Add(g.log[8192:cut+8192], uint16(4096), uint64(g.start)+8192)
		}
	}
	f.Add([]byte{}, uint16(0), uint64(0))
	f.Add(make([]byte, 8192), uint16(1), uint64(1)<<20)
}

// checkedPush pushes and checks what must hold after every push.
func checkedPush(t *testing.T, p *wal.Parser, at wal.LSN, b []byte, piece int) error {
	for len(b) > 0 {
		n := min(piece, len(b))
		end := p.End()
		err := p.Push(at, b[:n])
		if p.End() < end || p.First() > p.End() || p.End() > p.Next() || p.End()%8 != 0 {
			t.Fatalf("first %s, end %s, was %s, next %s", p.First(), p.End(), end, p.Next())
		}
		if err != nil {
			return err
		}
		at, b = at+wal.LSN(n), b[n:]
		if p.Next() != at {
			t.Fatalf("next %s, want %s", p.Next(), at)
		}
	}
	return nil
}

// FuzzParser: nothing panics, whole and in pieces the same is found, and what was
// found is found again from its own end.
func FuzzParser(f *testing.F) {
	fuzzLogs(f)
	f.Fuzz(func(t *testing.T, b []byte, piece uint16, at uint64) {
		from := wal.LSN(at % (1 << 62))
		var events [2][]wal.Event
		var parsers [2]*wal.Parser
		var errs [2]error
		for i, n := range []int{max(1, int(piece)), max(1, len(b))} {
			p := parser(t, wal.Config{SegmentSize: goldenSegment, Event: func(e wal.Event) { events[i] = append(events[i], e) }})
			p.Begin(from)
			parsers[i], errs[i] = p, checkedPush(t, p, from, b, n)
		}
		if parsers[0].Mark() != parsers[1].Mark() || parsers[0].Tally() != parsers[1].Tally() || !slices.Equal(events[0], events[1]) || (errs[0] == nil) != (errs[1] == nil) {
			t.Fatalf("in pieces: %+v, %v; whole: %+v, %v", parsers[0].Mark(), errs[0], parsers[1].Mark(), errs[1])
		}
		p := parsers[1]
		m := p.Mark()
		if m.End == 0 || m.End < from || p.First() < from {
			return
		}
		q := parser(t, wal.Config{SegmentSize: goldenSegment})
		if err := q.Resume(m); err != nil {
			t.Fatalf("resume at %+v: %v", m, err)
		}
		err := checkedPush(t, q, m.End, b[min(len(b), int(m.End-from)):], max(1, int(piece)))
		if (err == nil) != (errs[1] == nil) || q.End() != p.End() {
			t.Fatalf("resumed at %+v: end %s, %v; want %s, %v", m, q.End(), err, p.End(), errs[1])
		}
	})
}

// FuzzResealed lets the fuzzer past links, places and checksums.
func FuzzResealed(f *testing.F) {
	fuzzLogs(f)
	f.Fuzz(func(t *testing.T, b []byte, piece uint16, at uint64) {
		from := goldenSegment.Start(wal.LSN(at%(1<<62))) + wal.LSN(goldenSegment)
		b = slices.Clone(b)
		mend(b, from)
		p := parser(t, wal.Config{SegmentSize: goldenSegment, Event: func(e wal.Event) {
			if e.Start < from || e.End <= e.Start || e.Kind == 0 || strings.Contains(e.Kind.String(), "unknown") {
				t.Fatalf("%+v", e)
			}
		}})
		p.Begin(from)
		_ = checkedPush(t, p, from, b, max(1, int(piece)))
		z, err := wal.NewSummarizer(wal.Config{SegmentSize: goldenSegment}, wal.Mark{End: from})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := z.Push(from, b); err == nil {
			_ = z.Summary().String()
		}
	})
}

// mend makes page headers right, and the records that lie whole on the first page.
func mend(b []byte, from wal.LSN) {
	for page := 0; page+40 <= len(b); page += wal.PageSize {
		binary.LittleEndian.PutUint16(b[page:], wal.Version(18).Magic())
		binary.LittleEndian.PutUint64(b[page+8:], uint64(from)+uint64(page))
		if page == 0 {
			b[2] = b[2]&^1 | 2
			binary.LittleEndian.PutUint32(b[32:], uint32(goldenSegment))
			binary.LittleEndian.PutUint32(b[36:], wal.PageSize)
		}
	}
	last := uint64(0)
	for off := 40; off+24 <= min(len(b), wal.PageSize); {
		size := int(binary.LittleEndian.Uint32(b[off:]))
		if size < 24 || off+size > min(len(b), wal.PageSize) {
			return
		}
		binary.LittleEndian.PutUint64(b[off+8:], last)
		reseal(b, off)
		last = uint64(from) + uint64(off)
		off += (size + 7) &^ 7
	}
}

// FuzzLineage: what parses is written as it was, and parts from itself nowhere.
func FuzzLineage(f *testing.F) {
	f.Add("pg:7301234567890123456:1+2@0000000003000158")
	f.Add("pg:1:1")
	f.Add("journal:00")
	f.Fuzz(func(t *testing.T, s string) {
		l, err := wal.ParseLineage(tidegate.Lineage(s))
		if err != nil {
			return
		}
		if string(l.Text()) != s {
			t.Fatalf("%q is written %q", s, l.Text())
		}
		if _, never, err := l.Parting(l); !never || err != nil {
			t.Fatalf("%s parts from itself: %v", l, err)
		}
		again, err := wal.NewLineage(l.System, l.Timeline(), l.History())
		if err != nil || again.Text() != l.Text() {
			t.Fatalf("%s by its history is %s, %v", l, again, err)
		}
	})
}

// FuzzHistory: what parses is written so that it parses to the same.
func FuzzHistory(f *testing.F) {
	f.Add(uint32(5), []byte("1\t0/3000158\tno recovery target specified\n\n2\t1/DC2431B0\tr\n"))
	f.Add(uint32(2), []byte("# nothing"))
	f.Fuzz(func(t *testing.T, tli uint32, b []byte) {
		h, err := wal.ParseHistory(wal.Timeline(tli), b)
		if err != nil {
			return
		}
		again, err := wal.ParseHistory(wal.Timeline(tli), h.Format())
		if err != nil || len(again) != len(h) {
			t.Fatalf("%q: %v", h.Format(), err)
		}
		for i := range h {
			if h[i].From != again[i].From || h[i].At != again[i].At {
				t.Fatalf("%+v, again %+v", h[i], again[i])
			}
		}
	})
}

// FuzzNames: LSNs, segment sizes and file names.
func FuzzNames(f *testing.F) {
	f.Add("16/B374D848", "16MB", "0000000100000016000000B3")
	f.Fuzz(func(t *testing.T, lsn, size, name string) {
		if l, err := wal.ParseLSN(lsn); err == nil {
			if again, err := wal.ParseLSN(l.String()); err != nil || again != l {
				t.Fatalf("%q: %s, %v", lsn, l, err)
			}
		}
		s, err := wal.ParseSegmentSize(size)
		if err != nil {
			return
		}
		if tli, at, err := s.ParseFileName(name); err == nil && s.FileName(tli, at) != name {
			t.Fatalf("%q is written %q", name, s.FileName(tli, at))
		}
	})
}
