package capture

import (
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/stores/postgres/replication"
)

const table = "CREATE TABLE t (n int, v text)"

func TestSyncCommitsWaitForD(t *testing.T) {
	s := newSite(t, pgtest.Config{}, nil)
	s.pg.SQL(t, table)
	s.durable(tidegate.ModeSync, tidegate.Bounds{})
	s.name()
	for i := range 3 {
		done := s.commit("INSERT INTO t VALUES (1, 'x')")
		s.waits(done)
		if i == 1 {
			// At remote_write the bounds let it go, and sync's are none.
			other := s.commit("SET synchronous_commit = remote_write; INSERT INTO t VALUES (2, 'x')")
			s.waits(other)
			defer s.goes(other)
		}
		head := s.caughtUp().Head
		s.agent.until("head told", func(a *fakeAgent) bool { return a.progress.L.Position >= head.Position() && a.active != nil })
		s.grant(head, tidegate.ModeSync, tidegate.Bounds{})
		s.goes(done)
	}
	if st := s.c.Status(); !st.Exposure.Known || st.Exposure.Bytes != 0 || st.Told.Apply != 0 {
		t.Errorf("status %+v", st)
	}
	if slot := s.pg.SQL(t, "SELECT restart_lsn <= pg_current_wal_flush_lsn() AND wal_status = 'reserved' FROM pg_replication_slots"); slot != "t" {
		t.Errorf("slot %s", slot)
	}
}

func TestBoundedLetsGoWithinBounds(t *testing.T) {
	const none = tidegate.Unbounded
	insert := "SET synchronous_commit = remote_write; INSERT INTO t VALUES (1, 'x')"
	for name, tc := range map[string]struct {
		bounds tidegate.Bounds
		free   int // commits that go at once
	}{
		"K": {tidegate.Bounds{Records: 3, Bytes: none, Window: none}, 3},
		"B": {tidegate.Bounds{Records: none, Bytes: 100_000, Window: none}, 3},
		"T": {tidegate.Bounds{Records: none, Bytes: none, Window: time.Hour}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, pgtest.Config{Settings: map[string]string{"autovacuum": "off"}}, nil)
			s.pg.SQL(t, table)
			s.pg.SQL(t, "CHECKPOINT")
			s.durable(tidegate.ModeBounded, tc.bounds)
			s.name()
			s.seen(tidegate.ModeBounded, tc.bounds)
			sync := s.commit("INSERT INTO t VALUES (0, 'sync')")
			s.waits(sync) // flush is D whatever the bounds
			for range tc.free - 1 {
				s.goes(s.commit(insert))
			}
			st := s.until("exposure counted", func(st Status) bool { return st.Exposure.Known && st.Exposure.Records >= int64(tc.free) })
			s.agent.until("exposure told", func(a *fakeAgent) bool { return a.progress.AKnown && a.progress.A.Records >= 1 && a.progress.T0 > 0 })
			var held <-chan error
			switch name {
			case "K":
				held = s.commit(insert)
				s.waits(held)
			case "B":
				held = s.commit("SET synchronous_commit = remote_write; INSERT INTO t SELECT 1, repeat('x', 1000) FROM generate_series(1, 200)")
				s.waits(held)
			case "T":
				// The oldest is too old now: nothing more goes.
				s.grant(s.c.Status().Told.Flush, tidegate.ModeBounded, tidegate.Bounds{Records: none, Bytes: none, Window: time.Nanosecond})
				s.agent.until("bounds obeyed", func(a *fakeAgent) bool { return a.progress.Grant == a.number })
				held = s.commit(insert)
				s.waits(held)
			}
			if st.Told.Flush >= st.Told.Write {
				t.Errorf("told %+v: want write beyond flush", st.Told)
			}
			s.grant(s.caughtUp().Head, tidegate.ModeBounded, tc.bounds)
			s.goes(held)
			s.goes(sync)
		})
	}
}

func TestFencedConfirmsNothing(t *testing.T) {
	s := newSite(t, pgtest.Config{}, nil)
	s.pg.SQL(t, table)
	s.durable(tidegate.ModeOpen, tidegate.Bounds{})
	s.name()
	s.goes(s.commit("SET synchronous_commit = remote_write; INSERT INTO t VALUES (1, 'x')"))
	s.agent.role(local.Role{State: local.StateFenced, Epoch: 2})
	s.agent.until("deactivated", func(a *fakeAgent) bool { return a.active == nil })
	done := s.commit("SET synchronous_commit = remote_write; INSERT INTO t VALUES (1, 'x')")
	s.waits(done)
	s.agent.mu.Lock()
	released, known := s.agent.progress.A, s.agent.progress.AKnown
	s.agent.mu.Unlock()
	if !known || released.Records == 0 {
		t.Errorf("released %+v (known %v): want what the activity had let go", released, known)
	}
	s.pg.SQL(t, "ALTER SYSTEM SET synchronous_standby_names = ''")
	s.pg.SQL(t, "SELECT pg_reload_conf()")
	s.goes(done)
}

func TestLeakIsCounted(t *testing.T) {
	s := newSite(t, pgtest.Config{}, nil)
	s.pg.SQL(t, table)
	d := s.durable(tidegate.ModeSync, tidegate.Bounds{})
	s.pg.SQL(t, "INSERT INTO t VALUES (1, 'x')") // nobody is named: it does not wait
	st := s.until("leak found", func(st Status) bool { return st.Finding != nil && st.Leaks && st.Exposure.Records > 0 })
	if !st.Exposure.Known || st.Exposure.Bytes == 0 || st.Told.Write > d || tidegate.HintOf(st.Finding) == "" {
		t.Errorf("%+v beyond %s", st, d)
	}
	s.agent.until("told", func(a *fakeAgent) bool { return a.finding != nil && a.progress.A.Position > d.Position() })
	s.name()
	s.seen(tidegate.ModeSync, tidegate.Bounds{})
	s.until("leak mended", func(st Status) bool { return st.Finding == nil && !st.Leaks })
	done := s.commit("INSERT INTO t VALUES (2, 'x')")
	s.waits(done)
	if st := s.c.Status(); !st.Exposure.Known || st.Exposure.Records != 0 {
		t.Errorf("%+v", st)
	}
	s.grant(s.caughtUp().Head, tidegate.ModeSync, tidegate.Bounds{})
	s.goes(done)
}

// TestNamesCountWhenTheCheckpointerHasReadThem: what the server shows of its settings
// is no proof that its commits wait.
func TestNamesCountWhenTheCheckpointerHasReadThem(t *testing.T) {
	s := newSite(t, pgtest.Config{}, nil)
	s.pg.SQL(t, table)
	s.durable(tidegate.ModeSync, tidegate.Bounds{})
	pid, err := strconv.Atoi(s.pg.SQL(t, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil { // as a checkpoint's syncs hold it up
		t.Fatal(err)
	}
	defer syscall.Kill(pid, syscall.SIGCONT) //nolint:errcheck // it runs again already, unless the test has failed
	s.pg.SQL(t, "ALTER SYSTEM SET synchronous_standby_names = 'tidegate'")
	s.pg.SQL(t, "SELECT pg_reload_conf()")
	s.pg.UntilSQL(t, "SELECT sync_state FROM pg_stat_replication WHERE application_name = 'tidegate'", "sync")
	s.until("not believed", func(st Status) bool {
		return st.Leaks && st.Finding != nil && strings.Contains(st.Finding.Error(), unproven.why)
	})
	s.goes(s.commit("INSERT INTO t VALUES (1, 'x')")) // D does not have it
	s.until("counted", func(st Status) bool { return st.Leaks && st.Exposure.Known && st.Exposure.Records > 0 })
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.seen(tidegate.ModeSync, tidegate.Bounds{})
	done := s.commit("INSERT INTO t VALUES (2, 'x')")
	s.waits(done)
	s.grant(s.caughtUp().Head, tidegate.ModeSync, tidegate.Bounds{})
	s.goes(done)
}

func TestNamesFollowThePromise(t *testing.T) {
	const none = tidegate.Unbounded
	s := newSite(t, pgtest.Config{}, func(set *Settings) { set.SetNames = true })
	s.pg.SQL(t, table)
	s.durable(tidegate.ModeOpen, tidegate.Bounds{})
	s.goes(s.commit("INSERT INTO t VALUES (1, 'open')"))
	s.until("open leaks by design", func(st Status) bool { return st.Leaks && st.Finding == nil && st.Exposure.Records > 0 })

	s.grant(s.caughtUp().Head, tidegate.ModeSync, tidegate.Bounds{})
	s.pg.UntilSQL(t, "SHOW synchronous_standby_names", "tidegate")
	s.agent.until("in force", func(a *fakeAgent) bool { return a.progress.Grant == a.number && a.finding == nil })
	done := s.commit("INSERT INTO t VALUES (2, 'sync')")
	s.waits(done)

	// Degraded on record: bounds stay those of an armed gate, and do not count.
	s.agent.grant(local.DaemonProgress{
		D: s.c.Status().Told.Flush.Position(), DKnown: true, Epoch: 1, Mode: tidegate.ModeSync, Recorded: false, Record: machine.RecordDegraded,
		Policy: tidegate.Policy{Reaction: tidegate.ReactDegrade, Rearm: time.Hour},
	})
	s.goes(done)
	s.pg.UntilSQL(t, "SHOW synchronous_standby_names", "")
	s.until("exposed", func(st Status) bool {
		return st.Gate == machine.Degraded && st.Exposure.Records > 0 && st.Exposure.Records != none
	})
}

func TestLeakOf(t *testing.T) {
	us := func(sync string) replication.Sender {
		return replication.Sender{ApplicationName: "tidegate", State: "streaming", Sync: sync}
	}
	other := func(sync string) replication.Sender { return replication.Sender{ApplicationName: "b", Sync: sync} }
	for name, tc := range map[string]struct {
		names, level string
		senders      []replication.Sender
		leaks        bool
	}{
		"waits for us":                 {"tidegate", "on", []replication.Sender{us("sync"), other("async")}, false},
		"waits for us at remote_write": {"tidegate", "remote_write", []replication.Sender{us("sync")}, false},
		"nobody named":                 {"", "on", []replication.Sender{us("async")}, true},
		"does not wait by default":     {"tidegate", "local", []replication.Sender{us("sync")}, true},
		"waits for another":            {"FIRST 1 (b, tidegate)", "on", []replication.Sender{us("potential"), other("sync")}, true},
		"waits for any":                {"ANY 1 (b, tidegate)", "on", []replication.Sender{us("quorum"), other("quorum")}, true},
		"waits for all":                {"FIRST 2 (b, tidegate)", "on", []replication.Sender{us("sync"), other("sync")}, false},
		"not confirmed anything yet":   {"tidegate", "on", []replication.Sender{us("async")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := leakOf("tidegate", map[string]string{"synchronous_standby_names": tc.names, "synchronous_commit": tc.level}, tc.senders)
			if (l.why != "") != tc.leaks || (l.err() != nil) != tc.leaks {
				t.Errorf("leak %+v, want %v", l, tc.leaks)
			}
		})
	}
}

// walsender is the process that sends to the connector.
func (s *site) walsender() int {
	s.t.Helper()
	pid, err := strconv.Atoi(s.pg.SQL(s.t, "SELECT pid FROM pg_stat_replication WHERE application_name = 'tidegate'"))
	if err != nil {
		s.t.Fatal(err)
	}
	return pid
}

// TestExposureIsAsOldAsItsCommits: what comes late, because the way here stood
// still, is as old as the server says, not as old as its arrival.
func TestExposureIsAsOldAsItsCommits(t *testing.T) {
	s := newSite(t, pgtest.Config{}, nil)
	s.pg.SQL(t, table)
	s.durable(tidegate.ModeOpen, tidegate.Bounds{})
	s.until("an open gate", func(st Status) bool { return st.Leaks && st.Exposure.Known && st.Exposure.Records == 0 })
	pid := s.walsender()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(pid, syscall.SIGCONT) //nolint:errcheck // it runs again already, unless the test has failed
	s.pg.SQL(t, "INSERT INTO t VALUES (1, 'late')")
	committed := time.Now() // or before
	s.pg.UntilSQL(t, "SELECT clock_timestamp() > to_timestamp("+strconv.FormatFloat(float64(committed.UnixMilli())/1000+1.5, 'f', 3, 64)+")", "t")
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.until("the commit to be exposed", func(st Status) bool { return st.Exposure.Records > 0 })
	if age, st := time.Since(committed), s.c.Status(); !st.Exposure.Known || st.Exposure.Age < age {
		t.Errorf("exposed for %s, want %s at least", st.Exposure.Age, age)
	}
}

// TestSilentServerIsNotIdle: a server that lets commits go without our answer, and
// does not answer either, may go on for all that is known.
func TestSilentServerIsNotIdle(t *testing.T) {
	s := newSite(t, pgtest.Config{}, nil)
	s.pg.SQL(t, table)
	s.durable(tidegate.ModeOpen, tidegate.Bounds{})
	idle := func(st Status) bool { return st.Leaks && st.Exposure.Known && st.Exposure.Records == 0 }
	s.until("an idle server", idle)
	pid := s.walsender()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(pid, syscall.SIGCONT) //nolint:errcheck // it runs again already, unless the test has failed
	s.until("exposure to be unknown", func(st Status) bool { return st.Streaming && !st.Exposure.Known })
	s.agent.until("told", func(a *fakeAgent) bool { return !a.progress.AKnown })
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.until("an idle server again", idle)
	s.agent.until("told again", func(a *fakeAgent) bool { return a.progress.AKnown })
}
