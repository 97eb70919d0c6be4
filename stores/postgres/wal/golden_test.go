package wal_test

import (
	"bytes"
	"compress/gzip"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

var update = flag.Bool("update", false, "write the golden log of the PostgreSQL that TIDEGATE_PG_BIN names")

const goldenSegment = wal.SegmentSize(1 << 20)

// golden is a segment that a real server of a release wrote, and what PostgreSQL's
// own reader says is in it.
type golden struct {
	version wal.Version
	start   wal.LSN
	log     []byte
	system  uint64
	from    wal.LSN  // the first record end
	end     wal.LSN  // the last
	records int      // between them
	lines   []string // the events
}

func goldenPath(v wal.Version, suffix string) string {
	return filepath.Join("testdata", fmt.Sprintf("pg%d.%s", v, suffix))
}

func goldens(t testing.TB) []golden {
	t.Helper()
	var out []golden
	for _, v := range wal.Versions() {
		g := golden{version: v}
		f, err := os.Open(goldenPath(v, "wal.gz"))
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		if g.log, err = io.ReadAll(z); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(goldenPath(v, "events"))
		if err != nil {
			t.Fatal(err)
		}
		head, rest, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
		var start, from, end string
		if _, err := fmt.Sscanf(head, "system %d start %s from %s end %s records %d", &g.system, &start, &from, &end, &g.records); err != nil {
			t.Fatalf("%s: %v", head, err)
		}
		g.start, g.from, g.end = mustLSN(t, start), mustLSN(t, from), mustLSN(t, end)
		g.lines = strings.Split(rest, "\n")
		out = append(out, g)
	}
	return out
}

func mustLSN(t testing.TB, s string) wal.LSN {
	t.Helper()
	lsn, err := wal.ParseLSN(s)
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}

// TestGoldens reads the log of every supported release.
func TestGoldens(t *testing.T) {
	if *update {
		writeGolden(t)
	}
	for _, g := range goldens(t) {
		t.Run(fmt.Sprint(g.version), func(t *testing.T) {
			var lines []string
			p := parser(t, wal.Config{
				SegmentSize: goldenSegment, Version: g.version, System: g.system, Lineage: wal.Lineage{System: g.system, First: 1},
				Event: func(e wal.Event) { lines = append(lines, line(e)) },
			})
			for _, size := range []int{1, 1000, len(g.log)} {
				lines = lines[:0]
				p.Begin(g.start)
				if f := pushAll(t, p, g.start, g.log, fixed(size)); f != nil {
					t.Fatalf("%s: %v", f.At, f)
				}
				same(t, "event", lines, g.lines)
				if p.First() != g.from || p.End() != g.end || p.Tally().Records != uint64(g.records) || p.Timeline() != 1 || p.Version() != g.version {
					t.Errorf("first %s, end %s, timeline %s, version %d, %+v: want %+v", p.First(), p.End(), p.Timeline(), p.Version(), p.Tally(), g)
				}
			}
		})
	}
}

func writeGolden(t *testing.T) {
	set := map[string]string{"full_page_writes": "off"}
	for k, v := range settings {
		set[k] = v
	}
	s := pgtest.New(t, pgtest.Config{Settings: set, SegmentSizeMiB: 1})
	s.SQL(t, "CREATE TABLE a (b int); CREATE TABLE c (d int primary key)")
	for range 2 { // the second segment then begins with nothing of another
		s.SQL(t, "SELECT pg_switch_wal()")
	}
	start, err := wal.ParseLSN(s.SQL(t, "INSERT INTO a VALUES (1); SELECT pg_current_wal_flush_lsn()"))
	if err != nil {
		t.Fatal(err)
	}
	start = goldenSegment.Start(start)
	s.SQL(t, "BEGIN; SAVEPOINT s; INSERT INTO a VALUES (2); RELEASE s; COMMIT")
	s.SQL(t, "BEGIN; INSERT INTO a VALUES (3); ROLLBACK")
	s.SQL(t, "SELECT pg_logical_emit_message(true, 'large', repeat('x', 20000))")
	s.SQL(t, "BEGIN; SAVEPOINT s; INSERT INTO a VALUES (4); RELEASE s; DROP TABLE c; PREPARE TRANSACTION 'one'")
	s.SQL(t, "COMMIT PREPARED 'one'")
	s.SQL(t, "BEGIN; INSERT INTO a VALUES (5); PREPARE TRANSACTION 'two'")
	s.SQL(t, "ROLLBACK PREPARED 'two'")
	s.SQL(t, "CHECKPOINT")
	s.SQL(t, "SELECT pg_switch_wal()")
	s.SQL(t, "INSERT INTO a VALUES (6)")
	dir := filepath.Join(s.DataDir, "pg_wal")
	log := readFiles(t, dir, goldenSegment, 1)
	b := log.bytes()[start-log.start:][:goldenSegment]
	p := parser(t, wal.Config{SegmentSize: goldenSegment})
	p.Begin(start)
	if f := pushAll(t, p, start, b, fixed(1<<20)); f != nil {
		t.Fatal(f)
	}
	ref := refer(t, s, firstRecord(goldenSegment, p.First()), p.End())
	v := wal.Version(s.Version)
	head := fmt.Sprintf("system %d start %s from %s end %s records %d\n", systemID(t, s), start, p.First(), p.End(), len(ref.starts))
	if err := os.WriteFile(goldenPath(v, "events"), []byte(head+strings.Join(ref.lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var z bytes.Buffer
	w, err := gzip.NewWriterLevel(&z, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(goldenPath(v, "wal.gz"), z.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", z.Len())
}
