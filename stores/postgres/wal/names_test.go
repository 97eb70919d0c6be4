package wal_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

func TestLSN(t *testing.T) {
	for text, want := range map[string]wal.LSN{
		"0/0": 0, "0/3000158": 0x3000158, "16/B374D848": 0x16B374D848, "FFFFFFFF/FFFFFFFF": math.MaxUint64, "1/0": 1 << 32,
		"0/03000158": 0x3000158, "a/b": 0xA0000000B,
	} {
		got, err := wal.ParseLSN(text)
		if err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
		if again, err := wal.ParseLSN(got.String()); err != nil || again != got {
			t.Errorf("%s again: %s, %v", got, again, err)
		}
	}
	for _, text := range []string{"", "/", "0", "0/", "/0", "000000000/0", "0/123456789", "0x1/0", "-1/0", "1/0/0", " 1/0", "1/0 ", "+1/0", "g/0"} {
		if got, err := wal.ParseLSN(text); err == nil {
			t.Errorf("%q is taken for %s", text, got)
		}
	}
	if wal.LSN(0x16B374D848).String() != "16/B374D848" || wal.LSN(0x3000158).Position().String() != "0000000003000158" {
		t.Error("the text of an LSN has changed")
	}
}

func TestSegments(t *testing.T) {
	for text, want := range map[string]wal.SegmentSize{"16MB": 16 << 20, "1MB": 1 << 20, "1GB": 1 << 30, "64MB": 64 << 20, "1024kB": 1 << 20, "16777216B": 16 << 20} {
		if got, err := wal.ParseSegmentSize(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "16", "MB", "2GB", "3MB", "512kB", "16TB", "16mb", "-1MB", "1MBMB"} {
		if got, err := wal.ParseSegmentSize(text); err == nil {
			t.Errorf("%q is taken for %d", text, got)
		}
	}
	// Names as PostgreSQL's pg_walfile_name gives them.
	for _, c := range []struct {
		size wal.SegmentSize
		lsn  wal.LSN
		tli  wal.Timeline
		want string
	}{
		{16 << 20, 0x16B374D848, 1, "0000000100000016000000B3"},
		{1 << 20, 0x16B374D848, 2, "000000020000001600000B37"},
		{1 << 30, 0x16B374D848, 0xABC, "00000ABC0000001600000002"},
		{16 << 20, 0x1000000, 1, "000000010000000000000001"},
		{16 << 20, 0x100000000, 1, "000000010000000100000000"},
	} {
		if got := c.size.FileName(c.tli, c.lsn); got != c.want {
			t.Errorf("%s with segments of %d: %s, want %s", c.lsn, c.size, got, c.want)
		}
		tli, at, err := c.size.ParseFileName(c.want)
		if err != nil || tli != c.tli || at != c.size.Start(c.lsn) {
			t.Errorf("%s: timeline %s at %s, %v", c.want, tli, at, err)
		}
	}
	s := wal.SegmentSize(16 << 20)
	for _, name := range []string{
		"", "00000001", "000000010000000000000001.partial", "00000002.history", "00000001000000000000000a",
		"000000010000000000000100", "000000000000000000000001", "000000010000000000000001.00000028.backup",
	} {
		if _, _, err := s.ParseFileName(name); err == nil {
			t.Errorf("%s is taken for a segment's name", name)
		}
	}
	if s.Start(0x16B374D848) != 0x16B3000000 || s.End(0x16B374D848) != 0x16B4000000 || s.End(0x16B3000000) != 0x16B3000000 || s.Offset(0x16B374D848) != 0x74D848 {
		t.Error("start, end or offset is wrong")
	}
}

func TestSafeCut(t *testing.T) {
	for _, c := range []struct {
		from, end wal.LSN
		size      int
		want      wal.LSN
	}{
		{0x1000028, 0x1000100, 1 << 17, 0x1000100},
		{0x1000028, 0x1100100, 1 << 17, 0x1020000},
		{0x1000000, 0x1020000, 1 << 17, 0x1020000},
		{0x1001FF8, 0x1009000, 0, 0x1004000}, // less than two pages is two pages: never nothing
		{0x1002000, 0x1009000, 1, 0x1006000},
		{0x1000100, 0x1000100, 1 << 17, 0x1000100},
		{0x1000200, 0x1000100, 1 << 17, 0x1000200},
	} {
		if got := wal.SafeCut(c.from, c.end, c.size); got != c.want {
			t.Errorf("from %s to %s by %d: %s, want %s", c.from, c.end, c.size, got, c.want)
		}
	}
}

func TestHistory(t *testing.T) {
	text := "1\t0/3000158\tno recovery target specified\n\n\n# by hand\n2\t1/DC2431B0\tbefore 2000-01-01 00:00:00+00\n"
	h, err := wal.ParseHistory(5, []byte(text))
	want := wal.History{{1, 0x3000158, "no recovery target specified"}, {2, 0x1DC2431B0, "before 2000-01-01 00:00:00+00"}}
	if err != nil || !slices.Equal(h, want) {
		t.Fatalf("%+v, %v", h, err)
	}
	if got := string(h.Format()); got != "1\t0/3000158\tno recovery target specified\n2\t1/DC2431B0\tbefore 2000-01-01 00:00:00+00\n" {
		t.Errorf("%q", got)
	}
	if h, err := wal.ParseHistory(1, nil); err != nil || len(h) != 0 {
		t.Errorf("no parents: %+v, %v", h, err)
	}
	for _, text := range []string{
		"x\t0/1\tr", "1", "1\tx\tr", "1\t0/100\tr\n1\t0/200\tr", "2\t0/100\tr\n1\t0/200\tr", "1\t0/200\tr\n2\t0/100\tr",
		"5\t0/100\tr", "6\t0/100\tr", "0\t0/100\tr", "1\t0/0\tr", "01\t0/100\tr",
	} {
		if h, err := wal.ParseHistory(5, []byte(text)); err == nil {
			t.Errorf("%q is taken for %+v", text, h)
		}
	}
	if wal.Timeline(0xAB).HistoryFileName() != "000000AB.history" {
		t.Error("name of a history file")
	}
}

func lineage(t *testing.T, text tidegate.Lineage) wal.Lineage {
	t.Helper()
	l, err := wal.ParseLineage(text)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// The text is in sealed batches: it never changes.
func TestLineageTextIsFrozen(t *testing.T) {
	h := wal.History{{1, 0x3000158, "r"}, {2, 0x1DC2431B0, "r"}}
	l, err := wal.NewLineage(7301234567890123456, 5, h)
	const want = "pg:7301234567890123456:1+2@0000000003000158+5@00000001dc2431b0"
	if err != nil || l.Text() != want {
		t.Fatalf("%s, %v", l, err)
	}
	got := lineage(t, want)
	if got.Text() != want || got.Timeline() != 5 || got.First != 1 || got.System != 7301234567890123456 {
		t.Errorf("%+v", got)
	}
	for i, s := range got.History() {
		if s.From != h[i].From || s.At != h[i].At {
			t.Errorf("history %+v", got.History())
		}
	}
	// A server whose parents nobody knows begins where it is.
	if l, err := wal.NewLineage(7, 3, nil); err != nil || l.Text() != "pg:7:3" {
		t.Errorf("%s, %v", l, err)
	}
}

func TestLineageIsRefused(t *testing.T) {
	for _, text := range []tidegate.Lineage{
		"", "pg", "pg:", "pg:1", "pg:1:", "pg:1:0", "pg:0:1", "pg:x:1", "pg:01:1", "pg:1:01", "journal:1:1", "pg:1:1+", "pg:1:1+2", "pg:1:1+2@",
		"pg:1:1+2@0/3000158", "pg:1:1+2@0000000000000000", "pg:1:1+1@0000000003000158", "pg:1:1+3@0000000003000158+2@0000000003000158",
		"pg:1:1+2@0000000003000158+3@0000000003000150", "pg:1:1+2@00000000030001A8", "pg:1:1 ", "pg:18446744073709551616:1", "pg:1:4294967296",
	} {
		if l, err := wal.ParseLineage(text); err == nil {
			t.Errorf("%q is taken for %s", text, l)
		}
	}
	l := wal.Lineage{System: 1, First: 1}
	for i := 2; ; i++ {
		next, err := l.Fork(wal.Timeline(i), wal.LSN(i)<<20)
		if err != nil {
			if n := len(l.Forks); n < 140 || !strings.Contains(err.Error(), "want at most 4096") {
				t.Errorf("after %d forks: %v", n, err)
			}
			break
		}
		l = next
	}
}

func TestLineageTimelines(t *testing.T) {
	l := lineage(t, "pg:7:1+2@0000000000001000+5@0000000000002000")
	for lsn, want := range map[wal.LSN]wal.Timeline{0: 1, 0xFFF: 1, 0x1000: 2, 0x1FFF: 2, 0x2000: 5, 1 << 40: 5} {
		if got := l.TimelineAt(lsn); got != want {
			t.Errorf("at %s: timeline %s, want %s", lsn, got, want)
		}
	}
	for tli, want := range map[wal.Timeline]wal.LSN{1: 0, 2: 0x1000, 5: 0x2000} {
		if got, ok := l.Start(tli); !ok || got != want {
			t.Errorf("timeline %s starts at %s, %t", tli, got, ok)
		}
	}
	if _, ok := l.Start(3); ok {
		t.Error("timeline 3 has a start")
	}
	if next, at, ok := l.End(1); next != 2 || at != 0x1000 || !ok {
		t.Errorf("timeline 1 ends with %s at %s, %t", next, at, ok)
	}
	if next, at, ok := l.End(2); next != 5 || at != 0x2000 || !ok {
		t.Errorf("timeline 2 ends with %s at %s, %t", next, at, ok)
	}
	for _, tli := range []wal.Timeline{5, 3, 9} {
		if _, _, ok := l.End(tli); ok {
			t.Errorf("timeline %s has an end", tli)
		}
	}
	if u, ok := l.Until(2); !ok || u.Text() != "pg:7:1+2@0000000000001000" {
		t.Errorf("until 2: %s, %t", u, ok)
	}
	if u, ok := l.Until(1); !ok || u.Text() != "pg:7:1" {
		t.Errorf("until 1: %s, %t", u, ok)
	}
	if _, ok := l.Until(4); ok {
		t.Error("until 4")
	}
}

// Two servers that both call themselves timeline 2 are told apart.
func TestLineageParting(t *testing.T) {
	const never = wal.LSN(math.MaxUint64)
	for _, c := range []struct {
		a, b tidegate.Lineage
		at   wal.LSN
	}{
		{"pg:7:1", "pg:7:1", never},
		{"pg:7:1", "pg:7:1+2@0000000000001000", 0x1000},
		{"pg:7:1+2@0000000000001000", "pg:7:1+2@0000000000001000", never},
		{"pg:7:1+2@0000000000001000", "pg:7:1+2@0000000000000f00", 0xF00},
		{"pg:7:1+2@0000000000001000", "pg:7:1+3@0000000000001000", 0x1000},
		{"pg:7:1+2@0000000000001000+3@0000000000002000", "pg:7:1+2@0000000000001000", 0x2000},
		{"pg:7:1+2@0000000000001000+3@0000000000002000", "pg:7:1+3@0000000000001800", 0x1000},
	} {
		a, b := lineage(t, c.a), lineage(t, c.b)
		for range 2 {
			at, none, err := a.Parting(b)
			if err != nil || none != (c.at == never) || !none && at != c.at {
				t.Errorf("%s and %s part at %s, %t, %v", a, b, at, none, err)
			}
			if c.at != never && (!a.Extends(b, c.at) || a.Extends(b, c.at+1)) {
				t.Errorf("%s extends %s not exactly to %s", a, b, c.at)
			}
			a, b = b, a
		}
	}
	for _, other := range []tidegate.Lineage{"pg:8:1", "pg:7:2"} {
		_, _, err := lineage(t, "pg:7:1").Parting(lineage(t, other))
		if !errors.Is(err, tidegate.ErrDiverged) || tidegate.HintOf(err) == "" {
			t.Errorf("%s: %v", other, err)
		}
		if lineage(t, "pg:7:1").Extends(lineage(t, other), 0) {
			t.Errorf("extends %s", other)
		}
	}
}

func TestTally(t *testing.T) {
	var a, b, none wal.Tally
	a.Add(&wal.Event{Kind: wal.Commit, Time: 50})
	a.Add(&wal.Event{Kind: wal.Commit, Time: 30})
	a.Add(&wal.Event{Kind: wal.Abort, Time: 10})
	b.Add(&wal.Event{Kind: wal.Commit, Time: -5})
	b.Add(&wal.Event{Kind: wal.SegmentSwitch})
	if a != (wal.Tally{Commits: 2, Aborts: 1, Oldest: 30, Newest: 50}) || b != (wal.Tally{Commits: 1, Oldest: -5, Newest: -5}) {
		t.Errorf("%+v, %+v", a, b)
	}
	a.Merge(none)
	a.Merge(b)
	none.Merge(a)
	if want := (wal.Tally{Commits: 3, Aborts: 1, Oldest: -5, Newest: 50}); a != want || none != want {
		t.Errorf("%+v, %+v, want %+v", a, none, want)
	}
}

func TestVersions(t *testing.T) {
	for _, v := range wal.Versions() {
		if err := v.Validate(); err != nil || v.Magic() == 0 {
			t.Errorf("%d: magic %04X, %v", v, v.Magic(), err)
		}
	}
	for _, v := range []wal.Version{0, 9, 14, 19} {
		if err := v.Validate(); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("PostgreSQL %d: want 15, 16, 17, 18", v)) {
			t.Errorf("%d: %v", v, err)
		}
	}
}
