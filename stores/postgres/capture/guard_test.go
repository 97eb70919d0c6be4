package capture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/stores/postgres/replication"
)

// finds waits until every name is found, with a text that has what stands behind
// its colon, and none that begins with a minus.
func (s *site) finds(names ...string) {
	s.t.Helper()
	pgtest.Until(s.t, strings.Join(names, ", "), func(context.Context) error {
		all := s.c.Findings()
		for _, want := range names {
			name, text, _ := strings.Cut(want, ":")
			name, absent := strings.CutPrefix(name, "-")
			there := slices.ContainsFunc(all, func(f local.Finding) bool {
				return f.Name == name && strings.Contains(f.Text, text) && (f.Hint != "" || f.Name == "") && f.Severity != 0
			})
			if there == absent {
				return fmt.Errorf("%s in %+v", want, all)
			}
		}
		return nil
	})
}

func TestFindingsOfAServer(t *testing.T) {
	pg := pgtest.New(t, pgtest.Config{SegmentSizeMiB: 1, Settings: map[string]string{
		"full_page_writes": "off", "archive_mode": "on", "archive_command": "false", "max_wal_size": "2MB", "min_wal_size": "2MB", "wal_keep_size": "0",
	}})
	for _, sql := range []string{
		"CREATE ROLE batch LOGIN", "ALTER ROLE batch SET synchronous_commit = off", "ALTER DATABASE postgres SET synchronous_commit = 'on'",
		"CREATE DATABASE shop", "ALTER ROLE batch IN DATABASE shop SET synchronous_commit TO local", "CREATE UNLOGGED TABLE cart ()",
		"SELECT pg_create_physical_replication_slot('left', true)",
		"CREATE SUBSCRIPTION feed CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false)", "ALTER SUBSCRIPTION feed SET (slot_name = 'feed')", "ALTER SUBSCRIPTION feed ENABLE",
	} {
		pg.SQL(t, sql)
	}
	s := withServer(t, pg, nil)
	s.durable(tidegate.ModeSync, tidegate.Bounds{})
	for range 8 {
		pg.SQL(t, "SELECT pg_switch_wal() FROM pg_logical_emit_message(false, 'x', 'x')")
	}
	s.finds("fsync-off", "full-page-writes-off", "checksums-off", "unwaiting-commits:role batch at off", "unwaiting-commits:role batch in database shop at local",
		"unwaiting-commits:subscription feed", "unlogged-tables:1 in database postgres (cart)", "archive-failing", "other-slot:left, ", "slot-unbounded",
		"slot-holds:slot tidegate holds", "-wal-disk-unseen", "-slot-missing")
	s.agent.until("told", func(a *fakeAgent) bool {
		return slices.ContainsFunc(a.findings.List(), func(f local.Finding) bool {
			return f.Name == "unwaiting-commits" && f.Severity == local.SeverityWarning
		})
	})

	for _, sql := range []string{
		"ALTER SYSTEM SET full_page_writes = on", "ALTER SYSTEM SET max_slot_wal_keep_size = '64MB'", "SELECT pg_reload_conf()",
		"ALTER ROLE batch RESET synchronous_commit", "ALTER ROLE batch IN DATABASE shop RESET synchronous_commit",
		"ALTER SUBSCRIPTION feed SET (synchronous_commit = on)", "SELECT pg_drop_replication_slot('left')",
	} {
		pg.SQL(t, sql)
	}
	s.finds("-full-page-writes-off", "-unwaiting-commits", "-other-slot", "-slot-unbounded", "slot-limit:loses its log in about")
	s.agent.until("taken back", func(a *fakeAgent) bool {
		return !slices.ContainsFunc(a.findings.List(), func(f local.Finding) bool { return f.Name == "unwaiting-commits" })
	})
	pg.SQL(t, "ALTER SYSTEM SET max_slot_wal_keep_size = '4MB'")
	pg.SQL(t, "SELECT pg_reload_conf()")
	for range 8 {
		pg.SQL(t, "SELECT pg_switch_wal() FROM pg_logical_emit_message(false, 'x', 'x')")
	}
	pg.SQL(t, "CHECKPOINT")
	s.until("new generation asked for", func(st Status) bool { return errors.Is(st.Finding, ErrGeneration) })
	s.finds("slot-lost")
}

func TestServerThatCannotBeReplicated(t *testing.T) {
	pg := pgtest.New(t, pgtest.Config{Settings: map[string]string{"wal_level": "minimal", "max_wal_senders": "0"}})
	s := withServer(t, pg, nil)
	s.finds("wal-level:minimal", "slot-missing")
}

// A role that may follow the log may not see everything: what is not seen is said.
func TestWhatTheRoleDoesNotSee(t *testing.T) {
	pg := pgtest.New(t, pgtest.Config{HBA: []string{
		"local replication all trust", "local postgres narrow trust", "local all narrow reject", "local all blind reject",
	}})
	pg.SQL(t, "CREATE ROLE narrow LOGIN REPLICATION")
	pg.SQL(t, "CREATE ROLE blind LOGIN REPLICATION")
	s := withServer(t, pg, func(set *Settings) { set.Conn = pg.Conn("user=narrow") })
	s.finds("wal-disk-unseen:pg_monitor", "unseen:database template1", "-slot-missing")
	s.connect(func(set *Settings) { set.Conn = pg.Conn("user=blind") })
	s.finds("unseen:the server cannot be looked at", "-wal-disk-unseen")
	pg.Stop(t, pgtest.Immediate)
	s.finds("-unseen", ":connect")
}

func TestCancelledWaitIsCounted(t *testing.T) {
	s := newSite(t, pgtest.Config{}, nil)
	s.pg.SQL(t, table)
	s.durable(tidegate.ModeSync, tidegate.Bounds{})
	s.name()
	s.seen(tidegate.ModeSync, tidegate.Bounds{})
	done, kept := s.commit("INSERT INTO t VALUES (1, 'x')"), s.commit("INSERT INTO t VALUES (2, 'y')")
	s.waits(done)
	s.until("seen to wait", func(Status) bool {
		s.c.mu.Lock()
		defer s.c.mu.Unlock()
		return len(s.c.cancels.waiting) == 2
	})
	s.pg.SQL(t, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%''x''%'")
	s.goes(done) // with a warning only
	st := s.until("counted", func(st Status) bool { return st.Cancelled == 1 && st.Exposure.Records > 0 })
	s.waits(kept)
	if !st.Exposure.Known || st.Exposure.Records == tidegate.Unbounded {
		t.Errorf("%+v", st)
	}
	s.finds("cancelled-waits:1 commits")
	s.agent.until("told as released", func(a *fakeAgent) bool { return a.progress.AKnown && a.progress.A.Position > st.Told.Write.Position() })
	s.grant(s.caughtUp().Head, tidegate.ModeSync, tidegate.Bounds{})
	s.goes(kept)
	s.finds("-cancelled-waits")
	if st := s.c.Status(); st.Cancelled != 1 {
		t.Errorf("who was answered is counted: %+v", st)
	}
}

func TestAbandonedSlotIsGivenUp(t *testing.T) {
	pg := pgtest.New(t, pgtest.Config{SegmentSizeMiB: 1, Settings: map[string]string{"max_wal_size": "2MB", "min_wal_size": "2MB", "wal_keep_size": "0"}})
	var free atomic.Uint64
	free.Store(50 << 20)
	s := &site{t: t, pg: pg, agent: startAgent(t), free: func(dir string) (uint64, uint64, error) {
		if !strings.HasSuffix(dir, "/pg_wal") {
			return 0, 0, fmt.Errorf("asked for %s", dir)
		}
		return free.Load(), 100 << 20, nil
	}}
	s.connect(func(set *Settings) { set.DropSlotBelow = 10 })
	s.pg.SQL(t, table)
	s.durable(tidegate.ModeOpen, tidegate.Bounds{})
	free.Store(5 << 20) // and yet the slot holds nothing that the server would not keep
	s.finds("wal-disk:5.0% of the disk", "-slot-holds")
	free.Store(50 << 20)
	for range 8 {
		pg.SQL(t, "SELECT pg_switch_wal() FROM pg_logical_emit_message(false, 'x', 'x')")
	}
	s.finds("slot-holds:the disk is full in about", "-wal-disk")
	if n := pg.SQL(t, "SELECT count(*) FROM pg_replication_slots"); n != "1" {
		t.Fatalf("%s slots while there is room", n)
	}
	free.Store(9 << 20)
	st := s.until("given up", func(st Status) bool {
		return errors.Is(st.Finding, errSlotDropped) && errors.Is(st.Finding, ErrGeneration) && !st.Streaming
	})
	if tidegate.HintOf(st.Finding) == "" {
		t.Error(st.Finding)
	}
	pg.UntilSQL(t, "SELECT count(*) FROM pg_replication_slots", "0")
	pg.UntilSQL(t, "SELECT sum(size) < 5 * 1024 * 1024 FROM pg_ls_waldir()", "t") // the server lives
	s.agent.until("told", func(a *fakeAgent) bool {
		return a.finding != nil && strings.Contains(a.finding.Error(), "new generation")
	})
	s.finds("-slot-missing", "-slot-holds")
	if n := pg.SQL(t, "SELECT count(*) FROM pg_replication_slots"); n != "0" {
		t.Errorf("%s slots: it was made again", n)
	}

	// Nor by an agent that is started again, even if it was killed before the slot went.
	free.Store(50 << 20)
	s.stop()
	pg.SQL(t, "SELECT pg_create_physical_replication_slot('tidegate', true)")
	s.connect(func(set *Settings) { set.DropSlotBelow = 10 })
	st = s.until("known to be given up", func(st Status) bool { return errors.Is(st.Finding, errSlotDropped) })
	if !strings.Contains(st.Finding.Error(), "9.0% of the disk") || !errors.Is(s.c.Lost(), ErrGeneration) || errors.Is(s.c.Lost(), tidegate.ErrDiverged) {
		t.Error(st.Finding)
	}
	pg.UntilSQL(t, "SELECT count(*) FROM pg_replication_slots", "0")

	// A new generation begins behind all that.
	s.c.Renew()
	s.until("streaming", func(st Status) bool { return st.Streaming && st.Finding == nil })
	if begin, err := s.c.Begin(t.Context()); err != nil || begin.String() <= st.Head.Position().String() {
		t.Errorf("begins at %s, %v; the old log went to %s", begin, err, st.Head)
	}
	if err := s.c.Lost(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(s.memory); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still remembered: %v", err)
	}
	// An agent that speaks of the old log moves the slot nowhere.
	s.until("active", func(st Status) bool { return st.Active && st.DKnown })
	if st := s.c.Status(); st.Told.Flush != 0 {
		t.Errorf("told %+v", st.Told)
	}
}

// Where what was written down cannot be read nothing is streamed, and nothing dropped;
// what is of another slot says nothing of this one; and a server that follows has
// nothing to give up.
func TestSlotThatMayHaveBeenGivenUp(t *testing.T) {
	s := newSite(t, pgtest.Config{}, nil)
	s.active()
	s.stop()
	if err := os.MkdirAll(filepath.Dir(s.memory), 0o700); err != nil {
		t.Fatal(err)
	}
	recalls := func(text string) {
		t.Helper()
		if err := os.WriteFile(s.memory, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s.connect(nil)
	}
	recalls("{")
	s.until("held", func(st Status) bool {
		return errors.Is(st.Finding, errMemory) && !st.Streaming && strings.Contains(tidegate.HintOf(st.Finding), s.memory)
	})
	if err := s.c.Lost(); err != nil {
		t.Errorf("the log counts as lost: %v", err)
	}
	s.stop()
	if n := s.pg.SQL(t, "SELECT count(*) FROM pg_replication_slots"); n != "1" {
		t.Fatalf("%s slots", n)
	}
	recalls(`{"version":1,"slot":"another","why":"a test","at":"2026-11-21T00:00:00Z"}`)
	s.until("streaming", func(st Status) bool { return st.Streaming })
	s.stop()
	recalls(`{"version":1,"slot":"tidegate","why":"a test","at":"2026-11-21T00:00:00Z"}`)
	s.until("given up", func(st Status) bool { return errors.Is(st.Finding, errSlotDropped) })
	s.pg.UntilSQL(t, "SELECT count(*) FROM pg_replication_slots", "0")
	s.pg.Stop(t, pgtest.Fast)
	if err := os.WriteFile(filepath.Join(s.pg.DataDir, "standby.signal"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.pg.Start(t)
	s.until("looked at", func(st Status) bool { return !errors.Is(st.Finding, errSlotDropped) })
	if _, err := os.Stat(s.memory); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestSlotDroppedBySomebody(t *testing.T) {
	s := newSite(t, pgtest.Config{}, nil)
	s.pg.SQL(t, table)
	d := s.durable(tidegate.ModeSync, tidegate.Bounds{})
	s.stop()
	s.pg.UntilSQL(t, "SELECT count(*) FROM pg_replication_slots WHERE active", "0")
	s.pg.SQL(t, "SELECT pg_drop_replication_slot('tidegate')")
	s.pg.SQL(t, "INSERT INTO t VALUES (1, 'x')")
	s.pg.SQL(t, "CHECKPOINT")
	s.pg.SQL(t, "CHECKPOINT") // the slot keeps the log from the newest redo on
	s.connect(nil)
	s.active()
	s.grant(d, tidegate.ModeSync, tidegate.Bounds{})
	// Told what the other site has, the slot keeps the log from there on again.
	s.pg.UntilSQL(t, "SELECT restart_lsn = '"+d.String()+"' AND active AND wal_status = 'reserved' FROM pg_replication_slots", "t")
	s.finds("-slot-missing", "-slot-lost")
	if begin, err := s.c.Begin(t.Context()); err != nil || begin == 0 {
		t.Errorf("begin %d, %v", begin, err)
	}
}

func TestJudge(t *testing.T) {
	const gib = 1 << 30
	slot := func(k replication.Keeping, safe int64) replication.SlotState {
		return replication.SlotState{Name: "tidegate", Restart: gib, Keeping: k, SafeBytes: safe, HasSafe: safe != 0}
	}
	for name, tc := range map[string]struct {
		change func(*facts)
		want   string // "severity name", sorted as found
	}{
		"nothing":       {func(*facts) {}, ""},
		"keeps nothing": {func(f *facts) { f.survey.Settings["wal_keep_size"] = "0" }, "info wal-keep"},
		"standby":       {func(f *facts) { f.survey.InRecovery, f.survey.Slots = true, nil }, ""},
		"standby keeps nothing": {func(f *facts) {
			f.survey.InRecovery, f.survey.Slots, f.survey.Settings["wal_keep_size"] = true, nil, "0"
		}, "info wal-keep"},
		"in danger":                {func(f *facts) { f.survey.Slots[0] = slot(replication.KeepingExtended, 1<<20); f.grows = 1 << 20 }, "critical slot-limit, warning slot-holds"},
		"small limit":              {func(f *facts) { f.survey.Slots[0] = slot(replication.KeepingReserved, gib); f.rate = 1 << 20 }, "warning slot-limit"},
		"goes next":                {func(f *facts) { f.survey.Slots[0] = slot(replication.KeepingUnreserved, 0) }, "critical slot-limit"},
		"lost":                     {func(f *facts) { f.survey.Slots[0] = slot(replication.KeepingLost, 0) }, "critical slot-lost"},
		"idle for an hour":         {func(f *facts) { f.survey.Settings["idle_replication_slot_timeout"] = "3600" }, "warning slot-idle"},
		"idle for ever":            {func(f *facts) { f.survey.Settings["idle_replication_slot_timeout"] = "0" }, ""},
		"full soon":                {func(f *facts) { f.survey.Slots[0] = slot(replication.KeepingExtended, 90*gib); f.grows = 10 << 20 }, "warning slot-limit, warning slot-holds"},
		"old rows":                 {func(f *facts) { f.survey.Slots[0].XminAge = rowsOld }, "warning old-rows"},
		"very old rows":            {func(f *facts) { f.survey.Slots[0].XminAge = rowsVeryOld }, "critical old-rows"},
		"disk low":                 {func(f *facts) { f.disk.free = 9 * gib }, "warning wal-disk"},
		"disk full":                {func(f *facts) { f.disk.free = 4 * gib }, "critical wal-disk"},
		"near the limit":           {func(f *facts) { f.disk.free, f.settings.DropSlotBelow = 40*gib, 30 }, "warning wal-disk"},
		"not seen":                 {func(f *facts) { f.disk.err = errors.New("no") }, "info wal-disk-unseen"},
		"not seen, and it matters": {func(f *facts) { f.disk.err, f.settings.DropSlotBelow = errors.New("no"), 10 }, "warning wal-disk-unseen"},
		"not looked into":          {func(f *facts) { f.unloggedErr = []string{"database a"} }, "info unseen"},
		"open": {func(f *facts) {
			f.promises, f.survey.Unwaiting = false, []replication.Unwaiting{{Role: "a", Level: "off"}}
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := facts{
				disk: disk{free: 50 * gib, total: 100 * gib}, rate: -1, grows: -1, promises: true, settings: Settings{Slot: "tidegate"}, anew: "regenerate it",
				survey: replication.Survey{
					Settings: map[string]string{"wal_level": "logical", "fsync": "on", "full_page_writes": "on", "data_checksums": "on", "wal_keep_size": "128"},
					End:      2 * gib, Slots: []replication.SlotState{slot(replication.KeepingReserved, 90*gib)},
				},
			}
			tc.change(&f)
			var got []string
			for _, one := range judge(&f) {
				got = append(got, one.Severity.String()+" "+one.Name)
				if one.Hint == "" {
					t.Errorf("no hint: %+v", one)
				}
				if one.Name == foundSlotLost && !strings.Contains(one.Hint, f.anew) {
					t.Errorf("its hint does not name the command: %+v", one)
				}
			}
			if text := strings.Join(got, ", "); text != tc.want {
				t.Errorf("found %q, want %q", text, tc.want)
			}
		})
	}
	if a, b := span(90*time.Minute), size(1.5*gib); a != "1h30m" || b != "1.5 GiB" {
		t.Error(a, b)
	}
}

func TestPercent(t *testing.T) {
	for text, want := range map[string]Percent{"10%": 10, "0": 0, "0%": 0, "2.5 %": 2.5} {
		var p Percent
		if err := p.UnmarshalText([]byte(text)); err != nil || p != want {
			t.Errorf("%q: %v, %v", text, p, err)
		}
	}
	for _, text := range []string{"10", "", "%", "100%", "-1%", "NaN%", "ten"} {
		var p Percent
		if err := p.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: %v", text, p)
		}
	}
}

// What is forgotten counts as the worst, what was answered as nothing.
func TestCancelsWithinTheirMemory(t *testing.T) {
	var n cancels
	for i := range uint32(commitsMax + 10) {
		n.note(commit{xid: i, end: replication.Status{}.Write + 8*(1+100*1)})
	}
	n.compare(1, []uint32{3, 100, 200}, 0, 5000)
	if newest, found := n.compare(1, []uint32{200}, 0, 5000); newest != 5000 || found != 2 {
		t.Errorf("%s, %d", newest, found)
	}
	if newest, found := n.compare(1, nil, 808, 5000); newest != 0 || found != 0 {
		t.Errorf("answered: %s, %d", newest, found)
	}
	n.compare(1, []uint32{300}, 0, 5000)
	if _, found := n.compare(2, nil, 0, 5000); found != 0 {
		t.Errorf("of another activity: %d", found)
	}
}
