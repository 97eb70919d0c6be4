package capture

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/stores"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// files are the bytes [from, to) of the log in the server's own files.
func (s *site) files(t *testing.T, tli wal.Timeline, from, to wal.LSN) []byte {
	t.Helper()
	s.c.mu.Lock()
	size := s.c.place.segment
	s.c.mu.Unlock()
	var all []byte
	for at := from; at < to; {
		b, err := os.ReadFile(filepath.Join(s.pg.DataDir, "pg_wal", size.FileName(tli, at)))
		if err != nil {
			t.Fatal(err)
		}
		end := min(to, size.Start(at)+wal.LSN(size))
		all = append(all, b[size.Offset(at):size.Offset(at)+int64(end-at)]...)
		at = end
	}
	return all
}

// read takes the log from from to limit in units and checks them.
func (s *site) read(t *testing.T, from, limit wal.LSN, bytesMax int) (content []byte, records uint32) {
	t.Helper()
	cur, err := s.c.Follow(t.Context(), from.Position())
	if err != nil {
		t.Fatal(err)
	}
	defer cur.Close()
	for at := from.Position(); at < limit.Position(); {
		u, err := cur.Read(limit.Position(), bytesMax)
		if err != nil {
			t.Fatal(err)
		}
		if u.First != at || u.Next <= at || u.Next > limit.Position() || len(u.Payload) != int(u.Next-u.First) || u.Next%8 != 0 {
			t.Fatalf("unit [%s, %s) of %d bytes at %s", u.First, u.Next, len(u.Payload), at)
		}
		// A record is never cut; those of release 17 hold up to 32 pages of an index.
		if most := max(bytesMax, 3*wal.PageSize); len(u.Payload) > most && len(u.Payload)-s.largest(t, u) > most {
			t.Errorf("unit [%s, %s) of %d bytes where at most %d were asked for", u.First, u.Next, len(u.Payload), bytesMax)
		}
		if (u.Records > 0) != (u.Oldest > 0) || u.Oldest > u.Newest {
			t.Errorf("%d records from %d to %d", u.Records, u.Oldest, u.Newest)
		}
		content, records, at = append(content, u.Payload...), records+u.Records, u.Next
	}
	u, err := cur.Read(limit.Position(), bytesMax)
	if err != nil || len(u.Payload) != 0 || u.First != limit.Position() {
		t.Fatalf("at the limit: %+v, %v", u, err)
	}
	return content, records
}

// largest is about how many bytes the largest record of a unit takes, 0 when all
// are small: what the parser was given from one record end to the next.
func (s *site) largest(t *testing.T, u stores.Unit) int {
	t.Helper()
	s.c.mu.Lock()
	size := s.c.place.segment
	s.c.mu.Unlock()
	p, err := wal.NewParser(wal.Config{SegmentSize: size, Version: wal.Version(s.pg.Version)})
	switch at := wal.LSN(u.First); {
	case err != nil:
	case size.Offset(at) == 0:
		p.Begin(at) // the first of all, which may begin in the middle of one
	default:
		err = p.Resume(wal.Mark{End: at})
	}
	var most wal.LSN
	for rest := u.Payload; err == nil && len(rest) > 0; {
		n, before := min(len(rest), wal.PageSize), p.End()
		err = p.Push(p.Next(), rest[:n])
		if rest = rest[n:]; before > 0 {
			most = max(most, p.End()-before)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if most <= 2*wal.PageSize {
		return 0
	}
	return int(most)
}

func TestUnitsAreTheServersLog(t *testing.T) {
	for name, window := range map[string]int{"from the window": 64 << 20, "from the server": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, pgtest.Config{SegmentSizeMiB: 4}, func(set *Settings) { set.WindowBytes = config.Bytes(window) })
			s.active()
			begin, err := s.c.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			s.pg.BenchInit(t, 1)
			s.pg.Tool(t, "pgbench", "-n", "-c", "4", "-t", "200")
			s.pg.SQL(t, "SELECT pg_switch_wal()")
			s.pg.SQL(t, "CREATE TABLE big AS SELECT repeat('x', 2000) v FROM generate_series(1, 2000)")
			var head wal.LSN
			var counted int64
			for same := false; !same; { // the server may analyse its tables meanwhile
				head = s.caughtUp().Head
				s.c.mu.Lock()
				counted, same = s.c.gate.Head.Records, s.c.gate.Head.Position == head.Position()
				s.c.mu.Unlock()
			}
			want := s.files(t, 1, wal.LSN(begin), head)
			for _, bytesMax := range []int{1 << 20, 100_000, 9000, 1} {
				got, records := s.read(t, wal.LSN(begin), head, bytesMax)
				if !bytes.Equal(got, want) {
					t.Fatalf("units of %d bytes: %d bytes, the server's files have %d", bytesMax, len(got), len(want))
				}
				// What it began behind is counted as more.
				if int64(records) != counted && (window > 1<<20 || int64(records) > counted) || records < 800 {
					t.Errorf("units of %d bytes: %d commits, the receiver counted %d", bytesMax, records, counted)
				}
				if bytesMax == 1 {
					break
				}
			}
			s.reread(t, wal.LSN(begin), head, want)
		})
	}
}

// reread digests ranges, one after the other and apart.
func (s *site) reread(t *testing.T, begin, head wal.LSN, want []byte) {
	t.Helper()
	cur, err := s.c.Follow(t.Context(), begin.Position())
	if err != nil {
		t.Fatal(err)
	}
	defer cur.Close()
	var ends []tidegate.Position
	for at := begin.Position(); at < head.Position(); {
		u, err := cur.Read(head.Position(), 500_000)
		if err != nil {
			t.Fatal(err)
		}
		at = u.Next
		ends = append(ends, at)
	}
	first := begin.Position()
	for i, next := range ends {
		if i%3 == 2 {
			first = next // leave one out: the next range does not follow
			continue
		}
		sum := sha256.Sum256(want[first-begin.Position() : next-begin.Position()])
		got, err := s.c.Reread(t.Context(), first, next)
		if err != nil || got != tidegate.Digest(sum[:16]) {
			t.Fatalf("reread [%s, %s): %s, %v; want %x", first, next, got, err, sum[:16])
		}
		first = next
	}
	if _, err := s.c.Reread(t.Context(), ends[0], ends[1]-8); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("reread to where no record ends: %v", err)
	}
	if _, err := s.c.Reread(t.Context(), ends[0]+8, ends[1]); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("reread from where no record ends: %v", err)
	}
	if _, err := s.c.Follow(t.Context(), head.Position()+1<<20); err == nil {
		t.Error("a place beyond the end is followed")
	}
}

// A connector that starts with a backlog is active at once, and the log between D
// and the server's end is read once: by the cursor.
func TestBacklogIsReceivedOnce(t *testing.T) {
	s := newSite(t, pgtest.Config{SegmentSizeMiB: 1, Settings: map[string]string{"log_replication_commands": "on"}}, func(set *Settings) { set.WindowBytes = 1 << 20 })
	d := s.durable(tidegate.ModeSync, tidegate.Bounds{})
	s.stop()
	s.pg.BenchInit(t, 1)
	s.pg.Tool(t, "pgbench", "-n", "-c", "2", "-t", "100")
	mark := s.pg.LogSize(t)
	s.connect(func(set *Settings) { set.WindowBytes = 1 << 20 })
	head := s.active().Head
	want := s.files(t, 1, d, head)
	if len(want) < 8<<20 {
		t.Fatalf("a backlog of %d bytes", len(want))
	}
	e := s.c.Status().Exposure
	got, records := s.read(t, d, head, 1<<20)
	if !bytes.Equal(got, want) {
		t.Error("what was read is not what the server has")
	}
	if e.Known || e.Records < int64(records) || e.Bytes < int64(len(want)) {
		t.Errorf("exposed %+v, and there are %d commits in %d bytes", e, records, len(want))
	}
	var slot, others []wal.LSN
	for _, line := range strings.Split(s.pg.LogSince(t, mark), "\n") {
		_, command, found := strings.Cut(line, "START_REPLICATION ")
		if !found || !strings.Contains(line, "received replication command") {
			continue
		}
		_, place, _ := strings.Cut(command, "PHYSICAL ")
		lsn, err := wal.ParseLSN(strings.Fields(place)[0])
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(command, "SLOT ") {
			slot = append(slot, lsn)
		} else {
			others = append(others, lsn)
		}
	}
	if len(slot) != 1 || slot[0] < head-(2<<20) || len(others) != 1 || others[0] > d {
		t.Errorf("streamed from %s and, to be shipped, from %s; D was %s, the end %s", slot, others, d, head)
	}
	s.grant(head, tidegate.ModeSync, tidegate.Bounds{})
	s.until("nothing exposed", func(st Status) bool { return st.Exposure.Known && st.Exposure.Bytes == 0 })
}

func TestLogThatIsGone(t *testing.T) {
	s := newSite(t, pgtest.Config{SegmentSizeMiB: 1, Settings: map[string]string{
		"max_slot_wal_keep_size": "4MB", "wal_keep_size": "0", "min_wal_size": "2MB", "max_wal_size": "2MB",
	}}, nil)
	s.pg.SQL(t, table)
	old := s.durable(tidegate.ModeSync, tidegate.Bounds{})
	for range 3 {
		s.pg.SQL(t, "INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 6000) n")
		s.pg.SQL(t, "CHECKPOINT")
	}
	s.pg.UntilSQL(t, "SELECT wal_status FROM pg_replication_slots", "lost")
	st := s.until("found", func(st Status) bool { return errors.Is(st.Finding, ErrGeneration) })
	if tidegate.ClassOf(st.Finding) != tidegate.Permanent || tidegate.HintOf(st.Finding) == "" || st.Active {
		t.Errorf("%+v", st)
	}
	s.agent.until("finding told", func(a *fakeAgent) bool { return a.finding != nil && a.active == nil })
	if _, err := s.c.Reread(t.Context(), old.Position()-8, old.Position()); err == nil {
		t.Error("what is gone was read")
	}
}

func TestBrokenServerIsAFindingThatGoes(t *testing.T) {
	s := newSite(t, pgtest.Config{}, nil)
	s.active()
	s.pg.Stop(t, pgtest.Immediate)
	st := s.until("found", func(st Status) bool { return st.Finding != nil })
	if tidegate.ClassOf(st.Finding) != tidegate.Transient || st.Streaming || st.Active {
		t.Errorf("%+v", st)
	}
	s.pg.Start(t)
	s.until("no finding", func(st Status) bool { return st.Finding == nil && st.Active })
	if got := fmt.Sprint(s.c.Finding()); got != "<nil>" {
		t.Error(got)
	}
}
