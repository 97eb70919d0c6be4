package replication_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/stores/postgres/replication"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

func refused(t *testing.T, what string, err, want error, class tidegate.Class) {
	t.Helper()
	if !errors.Is(err, want) || tidegate.ClassOf(err) != class {
		t.Errorf("%s: %v (%s): want %v (%s)", what, err, tidegate.ClassOf(err), want, class)
		return
	}
	t.Logf("%s: %v\nhint: %s", what, err, tidegate.HintOf(err))
}

func TestRefusedConnections(t *testing.T) {
	s := pgtest.New(t, pgtest.Config{
		HBA:      []string{"host replication nobody_here 127.0.0.0/8 reject"},
		Settings: map[string]string{"max_wal_senders": "2"},
	})
	s.SQL(t, "CREATE ROLE plain LOGIN PASSWORD 'p'; CREATE ROLE nobody_here LOGIN; CREATE ROLE repl LOGIN REPLICATION PASSWORD 'p'")
	at := func(conn string) replication.Config {
		return replication.Config{Conn: conn, ApplicationName: "tidegate"}
	}
	try := func(cfg replication.Config) error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c, err := replication.Connect(ctx, cfg)
		if err == nil {
			c.Close()
		}
		return err
	}
	if err := try(at(s.TCP("user=repl", "password=p"))); err != nil {
		t.Errorf("a role that may: %v", err)
	}
	wrong := try(at(s.TCP("password=hunter2")))
	refused(t, "wrong password", wrong, replication.ErrPassword, tidegate.Misuse)
	if strings.Contains(wrong.Error(), "hunter2") {
		t.Errorf("the password is in the message: %v", wrong)
	}
	refused(t, "no REPLICATION", try(at(s.TCP("user=plain", "password=p"))), replication.ErrRights, tidegate.Misuse)
	refused(t, "rejected by pg_hba.conf", try(at(s.TCP("user=nobody_here", "password=p"))), replication.ErrRights, tidegate.Misuse)
	refused(t, "unknown authority", try(at(s.TCP("sslrootcert="+strangerCA(t)))), replication.ErrCertificate, tidegate.Misuse)
	other := at(s.Conn())
	other.System = 42
	refused(t, "other system", try(other), replication.ErrSystem, tidegate.Misuse)
	_, err := replication.ConnectSQL(t.Context(), other)
	refused(t, "other system by SQL", err, replication.ErrSystem, tidegate.Misuse)

	for range 2 {
		connect(t, at(s.Conn()))
	}
	refused(t, "too many", try(at(s.Conn())), replication.ErrTooMany, tidegate.Transient)

	for what, cfg := range map[string]replication.Config{
		"no name":              {Conn: s.Conn()},
		"a name too long":      {Conn: s.Conn(), ApplicationName: strings.Repeat("n", 64)},
		"a string that is not": {Conn: "host=x port=many", ApplicationName: "tidegate"},
		"session attributes":   {Conn: s.Conn("target_session_attrs=primary"), ApplicationName: "tidegate"},
	} {
		if err := try(cfg); tidegate.ClassOf(err) != tidegate.Misuse {
			t.Errorf("%s: %v", what, err)
		}
	}
	s.Stop(t, pgtest.Fast)
	if err := try(at(s.Conn())); tidegate.ClassOf(err) != tidegate.Transient {
		t.Errorf("server is down: %v", err)
	}
}

// strangerCA is the certificate of somebody else.
func strangerCA(t *testing.T) string {
	t.Helper()
	return pgtest.New(t, pgtest.Config{}).CAFile()
}

func TestSlots(t *testing.T) {
	s := pgtest.New(t, pgtest.Config{Settings: map[string]string{"max_replication_slots": "2"}})
	c := connect(t, config(s))
	slot, err := c.ReadSlot(t.Context(), "tide")
	if err != nil || slot.Exists {
		t.Fatalf("%+v, %v", slot, err)
	}
	refused(t, "check of a missing slot", slot.Check(), replication.ErrSlotMissing, tidegate.Permanent)
	_, err = connect(t, config(s)).Start(t.Context(), replication.StartOptions{Slot: "tide", Timeline: 1, From: lsn(t, s.LSN(t))})
	refused(t, "missing slot", err, replication.ErrSlotMissing, tidegate.Permanent)

	if _, err = c.CreateSlot(t.Context(), "tide", false); err != nil {
		t.Fatal(err)
	}
	if slot, err = c.ReadSlot(t.Context(), "tide"); err != nil || slot.Check() != nil || slot.Restart == 0 {
		t.Fatalf("%+v, %v", slot, err)
	}
	_, err = c.CreateSlot(t.Context(), "tide", false)
	refused(t, "slot exists", err, replication.ErrSlotExists, tidegate.Permanent)
	if _, err := c.CreateSlot(t.Context(), "passing", true); err != nil {
		t.Error(err)
	}
	_, err = c.CreateSlot(t.Context(), "third", false)
	refused(t, "no slot left", err, replication.ErrTooMany, tidegate.Misuse)

	stream(t, config(s), replication.StartOptions{Slot: "tide", Timeline: 1, From: slot.Restart})
	_, err = connect(t, config(s)).Start(t.Context(), replication.StartOptions{Slot: "tide", Timeline: 1, From: slot.Restart})
	refused(t, "slot in use", err, replication.ErrSlotBusy, tidegate.Transient)
	refused(t, "drop of a slot in use", c.DropSlot(t.Context(), "tide"), replication.ErrSlotBusy, tidegate.Transient)
	// The commands that failed took the temporary slot along.
	refused(t, "drop of no slot", c.DropSlot(t.Context(), "passing"), replication.ErrSlotMissing, tidegate.Permanent)
	for _, name := range []string{"", "Tide", "a; DROP", strings.Repeat("x", 64)} {
		if _, err := c.ReadSlot(t.Context(), name); tidegate.ClassOf(err) != tidegate.Misuse {
			t.Errorf("slot %q: %v", name, err)
		}
	}
	s.SQL(t, "SELECT pg_switch_wal()")
	if err := c.DropSlot(t.Context(), "gone"); !errors.Is(err, replication.ErrSlotMissing) {
		t.Error(err)
	}
}

func TestAdvanceSlotOnStandby(t *testing.T) {
	p := pgtest.New(t, pgtest.Config{})
	r := p.Replica(t, pgtest.Config{})
	slot := createSlot(t, r, "tide")
	p.SQL(t, "CREATE TABLE a (n int)")
	to := lsn(t, p.LSN(t))
	r.UntilReplayed(t, to.String())
	q := connectSQL(t, r)
	if err := q.AdvanceSlot(t.Context(), "tide", to); err != nil {
		t.Fatal(err)
	}
	slots, err := q.Slots(t.Context())
	if err != nil || len(slots) != 1 || slots[0].Restart != to || slots[0].Restart <= slot.Restart {
		t.Errorf("%+v, %v", slots, err)
	}
	st, err := q.State(t.Context())
	if err != nil || !st.InRecovery || st.Replayed < to || st.Received < to || st.End != 0 {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestLogThatIsNotThere(t *testing.T) {
	s := pgtest.New(t, pgtest.Config{SegmentSizeMiB: 1, Settings: map[string]string{
		"max_slot_wal_keep_size": "2MB", "wal_keep_size": "0", "min_wal_size": "2MB", "max_wal_size": "4MB",
	}})
	slot := createSlot(t, s, "tide")
	q := connectSQL(t, s)
	_, err := connect(t, config(s)).Start(t.Context(), replication.StartOptions{Timeline: 1, From: lsn(t, s.LSN(t)) + 1<<20})
	refused(t, "ahead", err, replication.ErrAhead, tidegate.Permanent)

	s.SQL(t, "CREATE TABLE a (n int)")
	for range 8 {
		s.SQL(t, "INSERT INTO a SELECT generate_series(1, 20000); SELECT pg_switch_wal()")
	}
	s.SQL(t, "CHECKPOINT")
	pgtest.Until(t, "the slot to be lost", func(ctx context.Context) error {
		s.SQL(t, "CHECKPOINT")
		slots, err := q.Slots(ctx)
		if err != nil || len(slots) != 1 || slots[0].Keeping != replication.KeepingLost {
			return fmt.Errorf("%+v, %w", slots, err)
		}
		return nil
	})
	lost, err := connect(t, config(s)).ReadSlot(t.Context(), "tide")
	if err != nil {
		t.Fatal(err)
	}
	refused(t, "check of a lost slot", lost.Check(), replication.ErrSlotLost, tidegate.Permanent)
	_, err = connect(t, config(s)).Start(t.Context(), replication.StartOptions{Slot: "tide", Timeline: 1, From: slot.Restart})
	gone := replication.ErrSegmentRemoved
	if s.Version >= 18 {
		gone = replication.ErrSlotLost // it looks at the slot first
	}
	refused(t, "lost slot", err, gone, tidegate.Permanent)
	_, err = connect(t, config(s)).Start(t.Context(), replication.StartOptions{Timeline: 1, From: slot.Restart})
	refused(t, "segment removed", err, replication.ErrSegmentRemoved, tidegate.Permanent)
}

// A slot that nobody used for long is lost from release 18 on, as one whose log is
// gone; older ones know of no such thing.
func TestSlotThatWasIdle(t *testing.T) {
	set := map[string]string{}
	if pgtest.Find(t).Version >= 18 {
		set["idle_replication_slot_timeout"] = "1s"
	}
	s := pgtest.New(t, pgtest.Config{SegmentSizeMiB: 1, Settings: set})
	slot := createSlot(t, s, "tide")
	q := connectSQL(t, s)
	if s.Version < 18 {
		slots, err := q.Slots(t.Context())
		if err != nil || len(slots) != 1 || slots[0].Keeping != replication.KeepingReserved || slots[0].Why != "" {
			t.Errorf("%+v, %v", slots, err)
		}
		return
	}
	pgtest.Until(t, "the slot to be lost", func(ctx context.Context) error {
		s.SQL(t, "CHECKPOINT") // which is when the server looks
		slots, err := q.Slots(ctx)
		if err != nil || len(slots) != 1 || slots[0].Keeping != replication.KeepingLost || slots[0].Why != "idle_timeout" {
			return fmt.Errorf("%+v, %w", slots, err)
		}
		return nil
	})
	_, err := connect(t, config(s)).Start(t.Context(), replication.StartOptions{Slot: "tide", Timeline: 1, From: slot.Restart})
	refused(t, "idle slot", err, replication.ErrSlotLost, tidegate.Permanent)
}

func TestControlAndSettings(t *testing.T) {
	s := pgtest.New(t, pgtest.Config{SegmentSizeMiB: 4, Checksums: true, Settings: map[string]string{"max_connections": "37"}})
	s.SQL(t, "CREATE ROLE watcher LOGIN IN ROLE pg_monitor")
	q, err := replication.ConnectSQL(t.Context(), replication.Config{Conn: s.Conn("user=watcher"), ApplicationName: "tidegate"})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	id, err := connect(t, config(s)).Identify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.SQL(t, "CHECKPOINT") // the files that it began with may be old
	c, err := q.Control(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if c.System != id.System || c.Timeline != 1 || c.SegmentSize != 4<<20 || c.PageBytes != 8192 || c.WALPageBytes != wal.PageSize ||
		!c.DataChecksums || !c.FullPageWrites || c.Redo == 0 || c.Redo > c.Checkpoint || c.MinRecoveryEnd != 0 ||
		time.Since(time.Unix(c.CheckpointedUnix, 0)).Abs() > time.Hour {
		t.Errorf("%+v", c)
	}
	set, err := q.Settings(t.Context(), append(replication.StandbySettings(), "wal_level", "synchronous_standby_names", "no_such_setting")...)
	if err != nil || set["max_connections"] != "37" || set["wal_level"] != "replica" || set["synchronous_standby_names"] != "" || len(set) != 7 {
		t.Errorf("%v, %v", set, err)
	}
	st, err := q.State(t.Context())
	if err != nil || st.InRecovery || st.End == 0 || st.Version/10000 != s.Version {
		t.Errorf("%+v, %v", st, err)
	}
	if _, err := q.Senders(t.Context()); err != nil {
		t.Error(err)
	}
}
