package wal_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/internal/racetest"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// A crash leaves a record whose last segment never reached the disk; the restarted
// server voids it and goes on behind it. The stream saw its beginning, and then
// the page that voids it.
func TestOverwrittenRecord(t *testing.T) {
	if racetest.Apart(t) {
		return
	}
	s := pgtest.New(t, pgtest.Config{Settings: settings, SegmentSizeMiB: 1})
	s.SQL(t, "CREATE TABLE a (b int); INSERT INTO a VALUES (1)")
	s.SQL(t, "SELECT pg_switch_wal()")
	before, err := wal.ParseLSN(s.LSN(t))
	if err != nil {
		t.Fatal(err)
	}
	s.SQL(t, "SELECT pg_logical_emit_message(true, 'large', repeat('x', 3000000))")
	s.Stop(t, pgtest.Immediate)

	size := wal.SegmentSize(1 << 20)
	dir := filepath.Join(s.DataDir, "pg_wal")
	torn := size.FileName(1, before+2<<20) // the record's middle: what follows is lost
	whole := readFiles(t, dir, size, 1)
	for _, name := range names(t, dir, 1) {
		if name >= torn {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.Start(t)
	s.SQL(t, "INSERT INTO a VALUES (2)")
	s.Stop(t, pgtest.Fast)
	log := readFiles(t, dir, size, 1)

	var events []wal.Event
	cfg := wal.Config{SegmentSize: size, Event: func(e wal.Event) { events = append(events, e) }}
	p := parser(t, cfg)
	p.Begin(log.start)
	if f := pushAll(t, p, log.start, log.bytes(), fixed(10_000)); f == nil || f.Kind != wal.FaultEnd {
		t.Fatalf("the log ends with %+v", f)
	}
	ref := refer(t, s, firstRecord(size, p.First()), p.End())
	var lines []string
	overwritten := 0
	for _, e := range events {
		lines = append(lines, line(e))
		if e.Kind == wal.Overwrite {
			overwritten++
			if e.Torn < before || e.Torn >= e.Start {
				t.Errorf("voids %s, want one from %s on", e.Torn, before)
			}
		}
	}
	same(t, "event", lines, ref.lines)
	if overwritten != 1 {
		t.Fatalf("%d records are voided, want one", overwritten)
	}

	// Every page on which the void record lies is a place to begin at.
	void := events[slices.IndexFunc(events, func(e wal.Event) bool { return e.Kind == wal.Overwrite })]
	for page := void.Torn.PageStart(); page <= void.Start.PageStart(); page += wal.PageSize {
		p.Begin(page)
		if f := pushAll(t, p, page, log.bytes()[page-log.start:], fixed(1<<20)); f == nil || f.Kind != wal.FaultEnd {
			t.Fatalf("begun at %s: %+v", page, f)
		}
		if p.End() != ref.end(t, p) || page > void.Torn && p.First() > void.Start {
			t.Fatalf("begun at %s: first %s, end %s", page, p.First(), p.End())
		}
	}

	// A stream that goes on as if nothing had happened is another history.
	p.Begin(log.start)
	cut := size.Start(void.Start)
	if f := pushAll(t, p, log.start, log.bytes()[:cut-log.start], fixed(1<<20)); f != nil {
		t.Fatal(f)
	}
	if p.End() > void.Torn {
		t.Errorf("end %s lies in the torn record %s", p.End(), void.Torn)
	}
	if f := pushAll(t, p, cut, whole.bytes()[cut-whole.start:], fixed(1<<20)); f != nil && f.At < cut {
		t.Errorf("the unharmed log: %+v", f)
	}
}

// end is where p, which has read to the end of the log, must be.
func (r reference) end(t *testing.T, p *wal.Parser) wal.LSN {
	t.Helper()
	if p.Last() != r.starts[len(r.starts)-1] {
		t.Fatalf("last record %s, want %s", p.Last(), r.starts[len(r.starts)-1])
	}
	return p.End()
}

func names(t *testing.T, dir string, tli wal.Timeline) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, fmt.Sprintf("%08X????????????????", uint32(tli))))
	if err != nil {
		t.Fatal(err)
	}
	for i := range paths {
		paths[i] = filepath.Base(paths[i])
	}
	slices.Sort(paths)
	return paths
}

// A promotion beside a primary that goes on: the promoted server's log is the
// common part and its own; the primary's tail is what is lost.
func TestForkAndTail(t *testing.T) {
	primary := pgtest.New(t, pgtest.Config{Settings: settings, SegmentSizeMiB: 1})
	replica := primary.Replica(t, pgtest.Config{})
	primary.SQL(t, "CREATE TABLE a (b int)")
	for i := range 20 {
		primary.SQL(t, fmt.Sprintf("INSERT INTO a VALUES (%d)", i))
	}
	replica.UntilReplayed(t, primary.LSN(t))
	id, size := systemID(t, primary), wal.SegmentSize(1<<20)
	old := wal.Lineage{System: id, First: 1}
	replica.Promote(t)
	replica.SQL(t, "INSERT INTO a SELECT generate_series(1, 2000)")

	// What the promoted server says of itself.
	text, err := os.ReadFile(filepath.Join(replica.DataDir, "pg_wal", wal.Timeline(2).HistoryFileName()))
	if err != nil {
		t.Fatal(err)
	}
	history, err := wal.ParseHistory(2, text)
	if err != nil {
		t.Fatal(err)
	}
	lineage, err := wal.NewLineage(id, 2, history)
	if err != nil {
		t.Fatal(err)
	}
	fork, never, err := lineage.Parting(old)
	if err != nil || never || len(lineage.Forks) != 1 || lineage.Timeline() != 2 {
		t.Fatalf("lineage %s: parts at %s, never %t, %v", lineage, fork, never, err)
	}
	if !lineage.Extends(old, fork) || lineage.Extends(old, fork+8) || old.Extends(lineage, fork+8) {
		t.Errorf("lineage %s: what extends the old one is not what lies before %s", lineage, fork)
	}

	// The tail: three commits, one of them of a prepared transaction, one rollback, and
	// one transaction left prepared.
	var xids []string
	for i := range 2 {
		xids = append(xids, primary.SQL(t, fmt.Sprintf("INSERT INTO a VALUES (%d) RETURNING pg_current_xact_id()", 200+i)))
	}
	primary.SQL(t, "BEGIN; INSERT INTO a VALUES (300); ROLLBACK")
	primary.SQL(t, "SELECT pg_switch_wal()")
	for _, name := range []string{"one", "two"} {
		primary.SQL(t, fmt.Sprintf("BEGIN; INSERT INTO a VALUES (400); PREPARE TRANSACTION '%s'", name))
		xids = append(xids, primary.SQL(t, fmt.Sprintf("SELECT transaction FROM pg_prepared_xacts WHERE gid = '%s'", name)))
	}
	primary.SQL(t, "COMMIT PREPARED 'one'")
	to := primary.LSN(t)
	primary.Stop(t, pgtest.Immediate)

	z, err := wal.NewSummarizer(wal.Config{SegmentSize: size, System: id, Lineage: old}, wal.Mark{End: fork})
	if err != nil {
		t.Fatal(err)
	}
	log := readFiles(t, filepath.Join(primary.DataDir, "pg_wal"), size, 1)
	if done, err := z.Push(fork, log.bytes()[fork-log.start:]); !done || err != nil {
		t.Fatalf("done %t, %v", done, err)
	}
	got := z.Summary()
	t.Log(got)
	end, err := wal.ParseLSN(to)
	if err != nil {
		t.Fatal(err)
	}
	var want []uint32
	for _, x := range strings.Fields(strings.Join(xids, " ")) {
		n, err := strconv.ParseUint(x, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, uint32(n))
	}
	if got.From != fork || got.To < end || got.Commits != 3 || got.Aborts != 1 || !slices.Equal(got.XIDs, want[:3]) || !slices.Equal(got.Open, want[3:]) {
		t.Errorf("tail: %+v; want to %s or later, xids %v, open %v", got, end, want[:3], want[3:])
	}
	if got.Ended == "" || got.Cause == "" || got.Oldest == nil || got.Newest.Before(*got.Oldest) || got.Newest.Sub(*got.Oldest).Minutes() > 5 {
		t.Errorf("tail: %+v", got)
	}

	// The stream: the old timeline to the fork, then the new one, to one parser and
	// to one that goes on where the first stopped; and no other way on.
	replica.Stop(t, pgtest.Fast)
	after := readFiles(t, filepath.Join(replica.DataDir, "pg_wal"), size, 2)
	before := readFiles(t, filepath.Join(replica.DataDir, "pg_wal"), size, 1)
	var promotion wal.Event
	cfg := wal.Config{SegmentSize: size, System: id, Lineage: lineage, Event: func(e wal.Event) {
		if e.Timeline != e.Previous {
			promotion = e
		}
	}}
	p := parser(t, cfg)
	p.Begin(before.start)
	if f := pushAll(t, p, before.start, before.bytes()[:fork-before.start], fixed(5000)); f != nil || p.End() != fork {
		t.Fatalf("to the fork: %+v, end %s, want %s", f, p.End(), fork)
	}
	mark := p.Mark()
	for _, same := range []bool{true, false} {
		q := p
		if !same {
			q = parser(t, cfg)
			if err := q.Resume(mark); err != nil {
				t.Fatal(err)
			}
		}
		if f := pushAll(t, q, fork, after.bytes()[fork-after.start:], fixed(5000)); f == nil || f.Kind != wal.FaultEnd && f.Kind != wal.FaultPage {
			t.Fatalf("from the fork: %+v", f)
		}
		if promotion.Timeline != 2 || promotion.Previous != 1 || q.Timeline() != 2 {
			t.Errorf("promotion %+v, timeline %s", promotion, q.Timeline())
		}
		promotion = wal.Event{}
	}
	// The promoted server's first segment holds the old timeline's bytes before the fork.
	if at := size.Start(fork); string(after.bytes()[at-after.start:fork-after.start]) != string(before.bytes()[at-before.start:fork-before.start]) {
		t.Error("the new timeline's first segment does not begin with the old one's bytes")
	}
	// The primary's tail is no continuation of the new timeline, and says so by its pages.
	if err := p.Resume(mark); err != nil {
		t.Fatal(err)
	}
	if f := pushAll(t, p, fork, log.bytes()[fork-log.start:], fixed(5000)); f == nil || f.Kind != wal.FaultTimeline {
		t.Errorf("the old primary's tail under the new lineage: %+v", f)
	}
}

// A standby whose log ends in padding, whatever lies there, is at the segment's end
// and forks there.
func TestForkBehindPadding(t *testing.T) {
	primary := pgtest.New(t, pgtest.Config{Settings: settings, SegmentSizeMiB: 1})
	replica := primary.Replica(t, pgtest.Config{})
	primary.SQL(t, "CREATE TABLE a (b int)")
	replica.UntilReplayed(t, primary.SQL(t, "SELECT pg_switch_wal(); SELECT pg_current_wal_flush_lsn()"))
	replica.Stop(t, pgtest.Fast)
	primary.Stop(t, pgtest.Immediate)

	size, dir := wal.SegmentSize(1<<20), filepath.Join(replica.DataDir, "pg_wal")
	log := readFiles(t, dir, size, 1)
	var last wal.Event
	p := parser(t, wal.Config{SegmentSize: size, Event: func(e wal.Event) {
		if e.Kind == wal.SegmentSwitch {
			last = e
		}
	}})
	p.Begin(log.start)
	if f := pushAll(t, p, log.start, log.bytes(), fixed(1<<20)); f != nil && f.Kind != wal.FaultEnd || last.End == 0 || p.End() != size.End(last.End) {
		t.Fatalf("the log ends at %s, the last switch at %s: %+v", p.End(), last.End, f)
	}
	for _, name := range names(t, dir, 1) {
		if name > size.FileName(1, last.End) {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	f, err := os.OpenFile(filepath.Join(dir, size.FileName(1, last.End)), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	junk := bytes.Repeat([]byte{0xEE}, int(size.End(last.End)-last.End))
	if _, err := f.WriteAt(junk, size.Offset(last.End)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	replica.Start(t)
	replica.Promote(t)
	text, err := os.ReadFile(filepath.Join(dir, wal.Timeline(2).HistoryFileName()))
	if err != nil {
		t.Fatal(err)
	}
	h, err := wal.ParseHistory(2, text)
	if err != nil || len(h) != 1 || h[0].At != size.End(last.End) {
		t.Errorf("forks at %+v, %v: want %s", h, err, size.End(last.End))
	}
}

// A server that was set back and went on, on the same timeline: pages and checksums
// are right. The link to the record before shows it at once, except where records
// of the two histories lie alike: there only comparing bytes does.
func TestSilentDivergence(t *testing.T) {
	s := pgtest.New(t, pgtest.Config{Settings: settings, SegmentSizeMiB: 1})
	s.SQL(t, "CREATE TABLE a (b int)")
	s.Stop(t, pgtest.Fast)
	size := wal.SegmentSize(1 << 20)
	back := pgtest.AdoptDataDir(t, "back", pgtest.Config{Settings: settings}, func(dataDir string) {
		if err := os.CopyFS(dataDir, os.DirFS(s.DataDir)); err != nil {
			t.Fatal(err)
		}
	})
	write := func(s *pgtest.Server, message string) (segments, []wal.Mark) {
		s.Start(t)
		for i := range 100 {
			s.SQL(t, fmt.Sprintf("INSERT INTO a VALUES (%d); SELECT pg_logical_emit_message(true, 'm', '%s')", i, strings.Repeat(message, i%7)))
		}
		s.Stop(t, pgtest.Fast)
		log := readFiles(t, filepath.Join(s.DataDir, "pg_wal"), size, 1)
		return log, marksOf(t, log)
	}
	_, first := write(s, "first")
	second, others := write(back, "second and longer")

	p := parser(t, wal.Config{SegmentSize: size})
	noticed, alike := 0, 0
	for _, m := range first {
		if slices.Contains(others, m) { // before the two part, and where they lie alike
			alike++
			continue
		}
		if m.End >= others[len(others)-1].End {
			break
		}
		if err := p.Resume(m); err != nil {
			t.Fatal(err)
		}
		if f := pushAll(t, p, m.End, second.bytes()[m.End-second.start:], fixed(1<<17)); f == nil || p.End() != m.End {
			t.Fatalf("resumed at %s: read on to %s, %v", m.End, p.End(), f)
		}
		noticed++
	}
	if noticed < 100 {
		t.Errorf("noticed at %d places only, %d lie alike", noticed, alike)
	}
	t.Logf("noticed at each of %d record ends, %d lie alike", noticed, alike)
}

// marksOf returns every record end of a log.
func marksOf(t *testing.T, log segments) []wal.Mark {
	t.Helper()
	p := parser(t, wal.Config{SegmentSize: log.size})
	p.Begin(log.start)
	var marks []wal.Mark
	at := log.start
	for b := log.bytes(); len(b) > 0; b = b[8:] {
		last := p.Last()
		if p.Push(at, b[:8]) != nil {
			break
		}
		if p.Last() != last {
			marks = append(marks, p.Mark())
		}
		at += 8
	}
	return marks
}
