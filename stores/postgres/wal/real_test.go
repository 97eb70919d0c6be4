package wal_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/internal/racetest"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// What the log must hold for the comparison to be worth its name: every event
// kind that a running server writes.
func work(t *testing.T, s *pgtest.Server) {
	t.Helper()
	s.BenchInit(t, 1)
	if err := s.Bench(t, "-c", "4", "-t", "300").Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.SQL(t, "SELECT pg_switch_wal()")
	for i := range 4 {
		table := fmt.Sprintf("ddl%d", i)
		s.SQL(t, fmt.Sprintf("CREATE TABLE %[1]s (a serial primary key, b text); CREATE INDEX ON %[1]s (b); INSERT INTO %[1]s (b) SELECT md5(g::text) FROM generate_series(1, 3000) g", table))
		s.SQL(t, fmt.Sprintf("BEGIN; DROP TABLE %s; ROLLBACK", table))
		s.SQL(t, fmt.Sprintf("BEGIN; ALTER TABLE %[1]s ADD c int DEFAULT 7; TRUNCATE %[1]s; COMMIT", table))
		s.SQL(t, "SELECT pg_switch_wal()")
	}
	s.SQL(t, "CREATE TABLE big (b text); ALTER TABLE big ALTER b SET STORAGE EXTERNAL; INSERT INTO big SELECT string_agg(md5(g::text), '') FROM generate_series(1, 200000) g")
	s.SQL(t, "SELECT pg_logical_emit_message(true, 'large', repeat('x', 3000000))")
	s.SQL(t, "SELECT pg_logical_emit_message(false, 'large', repeat('y', 40000))")
	// A subtransaction for every row, in a commit record of several pages.
	s.SQL(t, `CREATE TABLE sub (a int);
		DO $$ BEGIN FOR i IN 1..5000 LOOP BEGIN INSERT INTO sub VALUES (i); EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$`)
	// Prepared ones with everything that can stand before the id in their records.
	for i := range 6 {
		s.SQL(t, fmt.Sprintf("BEGIN; SAVEPOINT a; INSERT INTO sub VALUES (1); RELEASE a; CREATE TABLE p%d (a int); DROP TABLE IF EXISTS ddl%d; PREPARE TRANSACTION 'tx%d'", i, i, i))
	}
	for i := range 5 {
		s.SQL(t, fmt.Sprintf("%s PREPARED 'tx%d'", []string{"COMMIT", "ROLLBACK"}[i%2], i))
	}
	// A second word before the main data: a replication origin.
	s.SQL(t, "SELECT pg_replication_origin_create('elsewhere')")
	s.SQL(t, "SELECT pg_replication_origin_session_setup('elsewhere'); SELECT pg_replication_origin_xact_setup('0/AB', now()); INSERT INTO sub VALUES (2)")
	s.SQL(t, "ALTER SYSTEM SET max_connections = 120")
	s.SQL(t, "CHECKPOINT")
	s.Stop(t, pgtest.Immediate) // recovery, and a checkpoint of it
	s.Start(t)
	if err := s.Bench(t, "-c", "2", "-t", "50").Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
}

var settings = map[string]string{
	"wal_level": "logical", "max_prepared_transactions": "20", "wal_keep_size": "2GB", "autovacuum": "off",
	"track_commit_timestamp": "on", "wal_compression": "off", "archive_timeout": "0",
}

// segments reads the segment files of a timeline, oldest first.
type segments struct {
	size  wal.SegmentSize
	start wal.LSN
	files [][]byte
}

func readSegments(t testing.TB, s *pgtest.Server, tli wal.Timeline) segments {
	t.Helper()
	size, err := wal.ParseSegmentSize(s.SQL(t, "SHOW wal_segment_size"))
	if err != nil {
		t.Fatal(err)
	}
	return readFiles(t, filepath.Join(s.DataDir, "pg_wal"), size, tli)
}

func readFiles(t testing.TB, dir string, size wal.SegmentSize, tli wal.Timeline) segments {
	t.Helper()
	out := segments{size: size}
	names, err := filepath.Glob(filepath.Join(dir, fmt.Sprintf("%08X????????????????", uint32(tli))))
	if err != nil || len(names) == 0 {
		t.Fatalf("no segments in %s: %v", dir, err)
	}
	slices.Sort(names)
	for i, name := range names {
		_, at, err := size.ParseFileName(filepath.Base(name))
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			out.start = at
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if want := out.start + wal.LSN(i)*wal.LSN(size); at != want || len(b) != int(size) {
			t.Fatalf("%s: %d bytes at %s, want %d at %s", name, len(b), at, size, want)
		}
		out.files = append(out.files, b)
	}
	return out
}

func (s segments) bytes() []byte { return slices.Concat(s.files...) }

// pushAll pushes b in pieces of what piece says until the log ends, and returns
// why it did.
func pushAll(t testing.TB, p *wal.Parser, at wal.LSN, b []byte, piece func() int) *wal.Fault {
	t.Helper()
	for len(b) > 0 {
		n := min(piece(), len(b))
		if err := p.Push(at, b[:n]); err != nil {
			var f *wal.Fault
			if !errors.As(err, &f) {
				t.Fatalf("no fault: %v", err)
			}
			return f
		}
		at, b = at+wal.LSN(n), b[n:]
	}
	return nil
}

func fixed(n int) func() int { return func() int { return n } }

// line is an event as the lines of reference name it.
func line(e wal.Event) string {
	at := func(ns int64) string {
		return time.Unix(0, ns).UTC().Format("2006-01-02 15:04:05.000000 UTC")
	}
	switch e.Kind {
	case wal.Commit, wal.Abort, wal.Prepare:
		return fmt.Sprintf("%s %s prepared=%t xid=%d children=%d %s", e.Start, e.Kind, e.Prepared, e.XID, e.Children, at(e.Time))
	case wal.Checkpoint, wal.Shutdown:
		return fmt.Sprintf("%s %s redo=%s tli=%s prev=%s", e.Start, e.Kind, e.Redo, e.Timeline, e.Previous)
	case wal.Recovered:
		return fmt.Sprintf("%s %s tli=%s prev=%s %s", e.Start, e.Kind, e.Timeline, e.Previous, at(e.Time))
	case wal.Overwrite:
		return fmt.Sprintf("%s %s torn=%s %s", e.Start, e.Kind, e.Torn, at(e.Time))
	case wal.Settings:
		s := e.Settings
		return fmt.Sprintf("%s %s %d %d %d %d %d %d %t %t", e.Start, e.Kind, s.MaxConnections, s.MaxWorkerProcesses, s.MaxWalSenders, s.MaxPreparedXacts, s.MaxLocksPerXact, s.WalLevel, s.WalLogHints, s.TrackCommitTimestamps)
	case wal.SegmentSwitch:
		return fmt.Sprintf("%s %s", e.Start, e.Kind)
	}
	return "unknown"
}

// reference is what PostgreSQL's own reader says of a stretch of its log.
type reference struct {
	starts []wal.LSN
	lines  []string
}

var (
	dumpLine    = regexp.MustCompile(`^rmgr: (\S+)\s+len \(rec/tot\):\s*\d+/\s*(\d+), tx:\s*(\d+), lsn: (\S+), prev (\S+), desc: (\S+) ?(.*)$`)
	stamp       = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?(?: UTC|\+00)`)
	firstNumber = regexp.MustCompile(`^(?:gid \S+: )?(\d+): `)
	children    = regexp.MustCompile(`subxacts:((?: \d+)+)`)
	checkpoint  = regexp.MustCompile(`redo ([0-9A-F]+/[0-9A-F]+); tli (\d+); prev tli (\d+);`)
	recovered   = regexp.MustCompile(`tli (\d+); prev tli (\d+);`)
	overwrite   = regexp.MustCompile(`lsn ([0-9A-F]+/[0-9A-F]+);`)
	limits      = regexp.MustCompile(`max_connections=(\d+) max_worker_processes=(\d+) max_wal_senders=(\d+) max_prepared_xacts=(\d+) max_locks_per_xact=(\d+) wal_level=(\S+) wal_log_hints=(\S+) track_commit_timestamp=(\S+)`)
)

func waldump(t testing.TB, in pgtest.Install, dir string, tli wal.Timeline, from, to wal.LSN) reference {
	t.Helper()
	out, err := in.Try(t, []string{"TZ=UTC"}, "pg_waldump", "-p", dir, "-t", tli.String(), "-s", from.String(), "-e", to.String())
	if err != nil {
		t.Fatalf("pg_waldump: %v\n%.2000s", err, out)
	}
	var r reference
	for l := range strings.Lines(out) {
		m := dumpLine.FindStringSubmatch(strings.TrimSpace(l))
		if m == nil {
			if strings.HasPrefix(l, "rmgr:") {
				t.Fatalf("pg_waldump: %s", l)
			}
			continue
		}
		start, err := wal.ParseLSN(m[4])
		if err != nil {
			t.Fatal(err)
		}
		r.add(t, start, m[1], m[3], m[6], m[7])
	}
	return r
}

// add takes one record: its manager, transaction, operation and description.
func (r *reference) add(t testing.TB, start wal.LSN, manager, xid, op, desc string) {
	t.Helper()
	r.starts = append(r.starts, start)
	match := func(re *regexp.Regexp) []string {
		m := re.FindStringSubmatch(desc)
		if m == nil {
			t.Fatalf("%s: description %q", start, desc)
		}
		return m
	}
	time := func() string { // pg_waldump and the server write it in different ways
		s := match(stamp)[0]
		for _, layout := range []string{"2006-01-02 15:04:05.999999 UTC", "2006-01-02 15:04:05.999999+00"} {
			if at, err := time.Parse(layout, s); err == nil {
				return at.Format("2006-01-02 15:04:05.000000 UTC")
			}
		}
		return s
	}
	switch manager + " " + op {
	case "Transaction COMMIT", "Transaction ABORT", "Transaction COMMIT_PREPARED", "Transaction ABORT_PREPARED", "Transaction PREPARE":
		kind, prepared := strings.CutSuffix(op, "_PREPARED")
		if prepared || op == "PREPARE" {
			if m := firstNumber.FindStringSubmatch(desc); m != nil {
				xid = m[1]
			}
		}
		n := 0
		if m := children.FindStringSubmatch(desc); m != nil {
			n = len(strings.Fields(m[1]))
		}
		r.lines = append(r.lines, fmt.Sprintf("%s %s prepared=%t xid=%s children=%d %s", start, strings.ToLower(kind), prepared, xid, n, time()))
	case "XLOG CHECKPOINT_SHUTDOWN", "XLOG CHECKPOINT_ONLINE":
		m := match(checkpoint)
		kind := map[string]string{"CHECKPOINT_SHUTDOWN": "shutdown", "CHECKPOINT_ONLINE": "checkpoint"}[op]
		r.lines = append(r.lines, fmt.Sprintf("%s %s redo=%s tli=%s prev=%s", start, kind, m[1], m[2], m[3]))
	case "XLOG SWITCH":
		r.lines = append(r.lines, fmt.Sprintf("%s segment switch", start))
	case "XLOG END_OF_RECOVERY":
		m := match(recovered)
		r.lines = append(r.lines, fmt.Sprintf("%s recovered tli=%s prev=%s %s", start, m[1], m[2], time()))
	case "XLOG OVERWRITE_CONTRECORD":
		m := match(overwrite)
		r.lines = append(r.lines, fmt.Sprintf("%s overwrite torn=%s %s", start, m[1], time()))
	case "XLOG PARAMETER_CHANGE":
		m := match(limits)
		level := map[string]int{"minimal": 0, "replica": 1, "logical": 2}[m[6]]
		r.lines = append(r.lines, fmt.Sprintf("%s settings %s %s %s %s %s %d %t %t", start, m[1], m[2], m[3], m[4], m[5], level, m[7] == "on", m[8] == "on"))
	}
}

// refer asks PostgreSQL's own reader of s's release: pg_waldump, or where a release
// came without it the server, which is started if need be.
func refer(t testing.TB, s *pgtest.Server, from, to wal.LSN) reference {
	t.Helper()
	if _, err := os.Stat(filepath.Join(s.BinDir, "pg_waldump")); err == nil {
		return waldump(t, s.Install, filepath.Join(s.DataDir, "pg_wal"), 1, from, to)
	}
	if !s.Running() {
		s.Start(t)
	}
	return walinspect(t, s, from, to)
}

// walinspect asks the server itself; it must be running.
func walinspect(t testing.TB, s *pgtest.Server, from, to wal.LSN) reference {
	t.Helper()
	s.SQL(t, "CREATE EXTENSION IF NOT EXISTS pg_walinspect")
	out := s.SQL(t, fmt.Sprintf("SET timezone = 'UTC'; SELECT start_lsn, resource_manager, xid, record_type, description FROM pg_get_wal_records_info('%s', '%s')", from, to))
	var r reference
	for l := range strings.Lines(out) {
		f := strings.SplitN(strings.TrimSuffix(l, "\n"), "|", 5)
		if len(f) < 5 {
			continue // the answer to SET
		}
		start, err := wal.ParseLSN(f[0])
		if err != nil {
			t.Fatal(err)
		}
		r.add(t, start, f[1], f[2], f[3], f[4])
	}
	return r
}

// sameLines reports the first place where two lists differ.
func same[T comparable](t testing.TB, what string, got, want []T) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			show := func(s []T) string {
				if i >= len(s) {
					return "(nothing)"
				}
				return fmt.Sprint(s[i])
			}
			t.Fatalf("%s %d of %d: %s\n  want (of %d): %s", what, i, len(got), show(got), len(want), show(want))
		}
	}
}

// eachStart pushes b eight bytes at a time: no two records begin within them.
func eachStart(t testing.TB, p *wal.Parser, at wal.LSN, b []byte) (starts, ends []wal.LSN) {
	t.Helper()
	for len(b) > 0 {
		last, n := p.Last(), 8
		if pad := p.Padding(); pad > at {
			n = min(len(b), int(pad-at))
		}
		err := p.Push(at, b[:n])
		if now := p.Last(); now != last {
			starts, ends = append(starts, now), append(ends, p.End())
		}
		if err != nil {
			return starts, ends
		}
		at, b = at+wal.LSN(n), b[n:]
	}
	return starts, ends
}

func parser(t testing.TB, cfg wal.Config) *wal.Parser {
	t.Helper()
	p, err := wal.NewParser(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func systemID(t testing.TB, s *pgtest.Server) uint64 {
	t.Helper()
	id, err := strconv.ParseUint(s.SQL(t, "SELECT system_identifier FROM pg_control_system()"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// firstRecord is where the first record behind a record end begins: not in a page's header.
func firstRecord(size wal.SegmentSize, lsn wal.LSN) wal.LSN {
	switch {
	case size.Start(lsn) == lsn:
		return lsn + 40
	case lsn.PageStart() == lsn:
		return lsn + 24
	}
	return lsn
}

// TestReal compares the parser with PostgreSQL's own reader, record by record, over
// a log that holds every kind of event.
func TestReal(t *testing.T) {
	if racetest.Apart(t) {
		return
	}
	for _, mib := range []int{1, 16} {
		t.Run(fmt.Sprintf("segments of %d MiB", mib), func(t *testing.T) {
			s := pgtest.New(t, pgtest.Config{Settings: settings, SegmentSizeMiB: mib})
			work(t, s)
			id := systemID(t, s)
			lineage := wal.Lineage{System: id, First: 1}
			log := readSegments(t, s, 1)
			find := parser(t, wal.Config{SegmentSize: log.size})
			find.Begin(log.start)
			if f := pushAll(t, find, log.start, log.bytes(), fixed(1<<17)); f == nil || f.Kind != wal.FaultEnd {
				t.Fatalf("the log ends with %+v", f)
			}
			first := firstRecord(log.size, find.First())
			end := find.End()
			ref := refer(t, s, first, end)
			all := log.bytes()[:end-log.start]
			if s.Version != int(find.Version()) {
				t.Errorf("version %d, want %d", find.Version(), s.Version)
			}

			var events []wal.Event
			cfg := wal.Config{SegmentSize: log.size, Version: wal.Version(s.Version), System: id, Lineage: lineage, Event: func(e wal.Event) { events = append(events, e) }}
			p := parser(t, cfg)
			p.Begin(log.start)
			starts, ends := eachStart(t, p, log.start, all)
			same(t, "record", starts, ref.starts)
			var lines []string
			for _, e := range events {
				lines = append(lines, line(e))
			}
			same(t, "event", lines, ref.lines)
			if p.End() != end || p.Next() != end || p.Tally().Records != uint64(len(starts)) {
				t.Errorf("end %s, next %s, %d records; want %s and %d", p.End(), p.Next(), p.Tally().Records, end, len(starts))
			}
			kinds := map[wal.Kind]int{}
			for _, e := range events {
				kinds[e.Kind]++
			}
			for _, k := range []wal.Kind{wal.Commit, wal.Abort, wal.Prepare, wal.SegmentSwitch, wal.Checkpoint, wal.Shutdown, wal.Settings} {
				if kinds[k] == 0 {
					t.Errorf("the log holds no %s", k)
				}
			}
			t.Logf("%d bytes, %d records, events %v", len(all), len(starts), kinds)

			rng := rand.New(rand.NewPCG(uint64(mib), 1))
			pieces := map[string]func() int{"any": func() int { return 1 + rng.IntN(1<<(10+rng.IntN(8))) }}
			if mib == 1 { // the larger log is mostly the zeros behind a switch
				pieces["8192"], pieces["128 KiB"], pieces["all"] = fixed(8192), fixed(128<<10), fixed(len(all))
			}
			anyPieces(t, pieces, cfg, log.start, all, p, lines, &events)
			if mib == 1 {
				fewBytes(t, rng, cfg, log.start, all, &events)
			}
			anyStart(t, rng, cfg, log, all, starts, ends)
		})
	}
}

// anyPieces: the same is told whatever the pieces are.
func anyPieces(t *testing.T, pieces map[string]func() int, cfg wal.Config, at wal.LSN, all []byte, want *wal.Parser, lines []string, events *[]wal.Event) {
	t.Helper()
	for name, piece := range pieces {
		*events = (*events)[:0]
		p := parser(t, cfg)
		p.Begin(at)
		if f := pushAll(t, p, at, all, piece); f != nil {
			t.Fatalf("in pieces of %s: %s: %v", name, f.At, f)
		}
		if p.Mark() != want.Mark() || p.Tally() != want.Tally() || p.First() != want.First() {
			t.Errorf("in pieces of %s: mark %+v, tally %+v; want %+v, %+v", name, p.Mark(), p.Tally(), want.Mark(), want.Tally())
		}
		var got []string
		for _, e := range *events {
			got = append(got, line(e))
		}
		same(t, "in pieces of "+name+": event", got, lines)
	}
}

// fewBytes: the same is told in pieces of a few bytes, which is slow: of places
// everywhere in the log.
func fewBytes(t *testing.T, rng *rand.Rand, cfg wal.Config, start wal.LSN, all []byte, events *[]wal.Event) {
	t.Helper()
	for range 8 {
		from := start + wal.LSN(rng.IntN(len(all)))
		b := all[from-start:][:min(200_000, len(all)-int(from-start))]
		var want []wal.Event
		var mark wal.Mark
		for i, piece := range []func() int{fixed(len(b)), fixed(1), fixed(13), func() int { return 1 + rng.IntN(100) }} {
			*events = (*events)[:0]
			p := parser(t, cfg)
			p.Begin(from)
			if f := pushAll(t, p, from, b, piece); f != nil {
				t.Fatalf("from %s: %s: %v", from, f.At, f)
			}
			if i == 0 {
				want, mark = slices.Clone(*events), p.Mark()
			}
			if p.Mark() != mark || !slices.Equal(*events, want) {
				t.Fatalf("from %s in few bytes: mark %+v, %d events; want %+v, %d", from, p.Mark(), len(*events), mark, len(want))
			}
		}
	}
}

// anyStart: begun anywhere, the parser finds the next record that begins behind a
// page boundary, and from there on all; resumed at a record end it misses none.
func anyStart(t *testing.T, rng *rand.Rand, cfg wal.Config, log segments, all []byte, starts, ends []wal.LSN) {
	t.Helper()
	cfg.Event = nil
	p := parser(t, cfg)
	stretch := func(from wal.LSN) ([]byte, wal.LSN) {
		b := all[from-log.start:]
		b = b[:min(len(b), 2<<20)]
		return b, from + wal.LSN(len(b))
	}
	for range 60 {
		from := log.start + wal.LSN(rng.IntN(len(all)))
		b, to := stretch(from)
		p.Begin(from)
		if f := pushAll(t, p, from, b, fixed(128<<10)); f != nil {
			t.Fatalf("begun at %s: %s: %v", from, f.At, f)
		}
		// How many records lie wholly between two places.
		between := func(first, last wal.LSN) int {
			i, _ := slices.BinarySearch(starts, first)
			j, found := slices.BinarySearch(ends, last)
			if found {
				j++
			}
			return max(0, j-i)
		}
		if first := p.First(); first != 0 {
			i, _ := slices.BinarySearch(starts, first)
			if i < len(starts) && firstRecord(log.size, first) != starts[i] || p.Tally().Records != uint64(between(first, to)) {
				t.Fatalf("begun at %s: first record at %s, %d records; want %s, %d", from, first, p.Tally().Records, starts[i], between(first, to))
			}
		} else if between(log.size.End(from), to) > 0 {
			t.Fatalf("begun at %s: no record found", from)
		}

		n := rng.IntN(len(ends) - 1)
		if starts[n+1] > log.size.End(ends[n])+40 {
			continue // in padding: that is what Mark.Padding is for
		}
		if err := p.Resume(wal.Mark{End: ends[n], Last: starts[n]}); err != nil {
			t.Fatal(err)
		}
		b, to = stretch(ends[n])
		if f := pushAll(t, p, ends[n], b, fixed(100_000)); f != nil {
			t.Fatalf("resumed at %s: %s: %v", ends[n], f.At, f)
		}
		if got := p.Tally().Records; got != uint64(between(ends[n], to)) {
			t.Fatalf("resumed at %s: %d records, want %d", ends[n], got, between(ends[n], to))
		}
	}
}
