package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// follow makes the agent say that whatever is received is durable, until the test
// or ctx ends.
func (s *site) follow(ctx context.Context) {
	go func() { // ends with ctx
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		var d tidegate.Position
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			s.agent.mu.Lock()
			l := s.agent.progress.L.Position
			s.agent.mu.Unlock()
			if l > d {
				d = l
				s.grant(wal.LSN(d), tidegate.ModeSync, tidegate.Bounds{})
			}
		}
	}()
}

func TestServerKilledUnderLoad(t *testing.T) {
	s := newSite(t, pgtest.Config{}, nil)
	s.pg.BenchInit(t, 1)
	s.durable(tidegate.ModeSync, tidegate.Bounds{})
	s.name()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.follow(ctx)
	begin, err := s.c.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		load := s.pg.Bench(t, "-c", "4")
		before := s.c.Status().Head
		s.until("load", func(st Status) bool { return st.Head > before+200_000 })
		activation := s.activation()
		s.pg.Kill(t)
		s.until("down", func(st Status) bool { return !st.Active })
		s.pg.Start(t)
		s.until("active again", func(st Status) bool { return st.Active && s.activation() > activation })
		load.Kill()
	}
	head := s.caughtUp().Head
	s.grant(head, tidegate.ModeSync, tidegate.Bounds{})
	want := s.files(t, 1, wal.LSN(begin), head)
	if got, _ := s.read(t, wal.LSN(begin), head, 1<<20); !bytes.Equal(got, want) {
		t.Error("what was read is not what the server has")
	}
	s.until("nothing exposed", func(st Status) bool { return st.Exposure.Known && st.Exposure.Bytes == 0 })
}

func (s *site) activation() uint64 {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.c.gate.Activation
}

func TestConnectorStartedAgain(t *testing.T) {
	s := newSite(t, pgtest.Config{}, nil)
	s.pg.SQL(t, table)
	s.durable(tidegate.ModeSync, tidegate.Bounds{})
	s.name()
	done := s.commit("INSERT INTO t VALUES (1, 'x')")
	s.waits(done)
	s.connect(nil)
	s.waits(done) // the new one has the old D again, and that is before the commit
	head := s.active().Head
	if st := s.c.Status(); st.Exposure.Known {
		t.Errorf("what an earlier process released is said to be known: %+v", st.Exposure)
	}
	s.grant(head, tidegate.ModeSync, tidegate.Bounds{})
	s.goes(done)
}

func TestReceiverCutOffComparesTheOverlap(t *testing.T) {
	s := newSite(t, pgtest.Config{}, nil)
	s.pg.BenchInit(t, 1)
	head := s.durable(tidegate.ModeSync, tidegate.Bounds{})
	for range 3 {
		s.pg.SQL(t, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots")
		s.pg.Tool(t, "pgbench", "-n", "-t", "50")
		s.active()
	}
	// What was received is changed here: as if the server now sent something else.
	s.c.mu.Lock()
	at := wal.LSN(s.c.gate.Head.Position) - 64 // the newest anchor may be the head itself
	s.c.window.ring[int(at%wal.LSN(len(s.c.window.ring)))] ^= 1
	s.c.mu.Unlock()
	s.pg.SQL(t, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots")
	s.pg.SQL(t, "SELECT txid_current()")
	st := s.until("divergence found", func(st Status) bool { return errors.Is(st.Finding, tidegate.ErrDiverged) })
	if st.Active {
		t.Errorf("%+v after %s", st, head)
	}
}

// A quiet server keeps nothing before its slot's segment. A connection that begins
// anew asks for no more than that, and finds nothing lacking.
func TestQuietServerKeepsNoOverlap(t *testing.T) {
	s := newSite(t, pgtest.Config{SegmentSizeMiB: 1, Settings: map[string]string{"wal_keep_size": "0", "min_wal_size": "2MB", "max_wal_size": "2MB"}}, nil)
	s.pg.SQL(t, table)
	s.pg.SQL(t, "INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 200) n")
	s.durable(tidegate.ModeSync, tidegate.Bounds{})
	s.pg.SQL(t, "SELECT pg_switch_wal()")
	s.pg.SQL(t, "INSERT INTO t VALUES (0, 'in a segment of its own')")
	s.durable(tidegate.ModeSync, tidegate.Bounds{})
	s.pg.SQL(t, "CHECKPOINT")
	s.pg.UntilSQL(t, "SELECT min(name) = (SELECT pg_walfile_name(restart_lsn) FROM pg_replication_slots) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'", "t")
	activation := s.activation()
	s.pg.SQL(t, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots")
	s.until("streaming anew", func(st Status) bool {
		if errors.Is(st.Finding, ErrGeneration) {
			t.Fatalf("nothing is lacking: %v", st.Finding)
		}
		return st.Active && s.activation() > activation
	})
	s.pg.SQL(t, "INSERT INTO t VALUES (-1, 'after it')")
	s.durable(tidegate.ModeSync, tidegate.Bounds{})
}

func TestServerSetBack(t *testing.T) {
	for name, load := range map[string]int{"and it has written little since": 0, "and it has written past": 400} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, pgtest.Config{}, nil)
			s.pg.BenchInit(t, 1)
			s.durable(tidegate.ModeSync, tidegate.Bounds{})
			s.pg.Stop(t, pgtest.Immediate)
			copied := t.TempDir() + "/data"
			cp(t, s.pg.DataDir, copied)
			s.pg.Start(t)
			s.pg.Tool(t, "pgbench", "-n", "-t", "100")
			s.durable(tidegate.ModeSync, tidegate.Bounds{})
			s.pg.Stop(t, pgtest.Immediate)
			if err := os.RemoveAll(s.pg.DataDir); err != nil {
				t.Fatal(err)
			}
			cp(t, copied, s.pg.DataDir)
			s.until("down", func(st Status) bool { return !st.Streaming })
			s.c.mu.Lock() // it does not get to connect before all is written
			s.pg.Start(t)
			if load > 0 {
				s.pg.Tool(t, "pgbench", "-n", "-t", fmt.Sprint(load))
			}
			s.name()
			done := s.commit("CREATE TABLE other ()")
			s.pg.UntilSQL(t, "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "t")
			s.c.mu.Unlock()
			s.until("divergence found", func(st Status) bool { return errors.Is(st.Finding, tidegate.ErrDiverged) })
			s.waits(done)
			s.agent.until("told", func(a *fakeAgent) bool { return a.finding != nil })
		})
	}
}

func cp(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
}

func TestReplicaIsFollowedThroughItsPromotion(t *testing.T) {
	primary := pgtest.New(t, pgtest.Config{})
	primary.BenchInit(t, 1)
	replica := primary.Replica(t, pgtest.Config{})
	s := withServer(t, replica, nil)
	primary.Tool(t, "pgbench", "-n", "-t", "100")
	st := s.caughtUp()
	if st.Active {
		t.Fatalf("a replica is active: %+v", st)
	}
	begin, err := s.c.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	primary.Stop(t, pgtest.Immediate)
	replica.Promote(t)
	s.until("active", func(st Status) bool { return st.Active })
	replica.Tool(t, "pgbench", "-n", "-t", "100")
	head := s.caughtUp().Head
	l, err := wal.ParseLineage(tidegate.Lineage(s.c.Status().Lineage))
	if err != nil || l.Timeline() != 2 {
		t.Fatalf("lineage %v, %v", l, err)
	}
	s.agent.until("told", func(a *fakeAgent) bool { return a.active != nil && a.active.Lineage == l.Text() })
	fork := l.Forks[0].At
	if got, _ := s.read(t, wal.LSN(begin), head, 1<<20); !bytes.Equal(got[fork-wal.LSN(begin):], s.files(t, 2, fork, head)) {
		t.Error("what was read beyond the fork is not what the server has")
	}
}
