package capture

import (
	"bytes"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/stores"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// retains are settings under which a standby keeps no log for itself.
var retains = map[string]string{
	"wal_keep_size": "0", "min_wal_size": "2MB", "max_wal_size": "2MB", "max_slot_wal_keep_size": "-1", "autovacuum": "off",
}

// spareSite is a replica with its connector, and settings of its own, beside a primary
// that has no connector.
func spareSite(t *testing.T, cfg pgtest.Config, own map[string]string, change func(*Settings)) (primary *pgtest.Server, s *site) {
	t.Helper()
	primary = pgtest.New(t, cfg)
	primary.SQL(t, table)
	s = withServer(t, primary.Replica(t, pgtest.Config{Settings: own}), change)
	s.until("streaming", func(st Status) bool { return st.Streaming })
	return primary, s
}

// replayed waits until the replica has replayed all that the primary has written.
func (s *site) replayed(primary *pgtest.Server) {
	s.t.Helper()
	s.pg.UntilReplayed(s.t, primary.LSN(s.t))
}

const namesOf = "SHOW synchronous_standby_names"

// A server that its cluster may promote waits for us from its first commit on, and
// keeps what the other site lacks, no more; one that follows another site does
// neither.
func TestSpareMakesReady(t *testing.T) {
	primary, s := spareSite(t, pgtest.Config{SegmentSizeMiB: 1, Settings: map[string]string{"wal_keep_size": "1GB"}}, retains, func(set *Settings) { set.SetNames = true })
	const slots, restart = "SELECT count(*) FROM pg_replication_slots", "SELECT restart_lsn >= '%s' FROM pg_replication_slots"
	s.pg.UntilSQL(t, slots, "0")
	st := stores.Standing{Part: stores.PartNext, Holds: true}
	s.c.Stand(st)
	s.pg.UntilSQL(t, namesOf, "tidegate")
	s.pg.UntilSQL(t, "SELECT active FROM pg_replication_slots", "t")
	oldest := s.pg.SQL(t, "SELECT min(name) FROM pg_ls_waldir() WHERE name ~ '^0'")

	grow := func() {
		for range 3 {
			primary.SQL(t, "INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 4000) n")
			primary.SQL(t, "CHECKPOINT")
			s.replayed(primary)
			s.pg.SQL(t, "CHECKPOINT")
		}
	}
	grow()
	if got := s.pg.SQL(t, "SELECT min(name) FROM pg_ls_waldir() WHERE name ~ '^0'"); got > oldest {
		t.Errorf("the replica's oldest log is %s, it was %s when nothing was durable", got, oldest)
	}
	st.Durable = s.caughtUp().Head.Position()
	s.c.Stand(st)
	s.pg.UntilSQL(t, fmt.Sprintf(restart, wal.LSN(st.Durable)), "t")
	grow()
	if got := s.pg.SQL(t, "SELECT min(name) FROM pg_ls_waldir() WHERE name ~ '^0'"); got <= oldest {
		t.Errorf("the replica still has %s, and %s is durable", got, wal.LSN(st.Durable))
	}

	st.Holds = false
	s.c.Stand(st)
	s.pg.UntilSQL(t, namesOf, "")
	s.c.Stand(stores.Standing{}) // nothing is known: nothing changes
	s.c.Stand(stores.Standing{Part: stores.PartAway})
	s.pg.UntilSQL(t, slots, "0")
	s.until("streaming", func(st Status) bool { return st.Streaming && st.Finding == nil })
}

// Nobody is told anything by a replica from its promotion on, before an agent holds
// the stream for it: not even what the statement says that promoted it.
func TestSpareHoldsFromItsFirstCommit(t *testing.T) {
	primary, s := spareSite(t, pgtest.Config{}, nil, func(set *Settings) { set.SetNames = true })
	s.c.Stand(stores.Standing{Part: stores.PartNext, Holds: true})
	s.pg.UntilSQL(t, namesOf, "tidegate")
	s.agent.until("session", func(a *fakeAgent) bool { return a.sessions > 0 })
	s.agent.role(local.Role{State: local.StateIdle, Epoch: 1})
	primary.Kill(t)
	s.pg.Promote(t)
	done := s.commit("INSERT INTO t VALUES (1, 'x')")
	s.waits(done)
	s.until("active", func(st Status) bool { return st.Active })
	s.waits(done)
	s.agent.role(local.Role{State: local.StateActive, Epoch: 2})
	head := s.caughtUp().Head
	s.agent.grant(local.DaemonProgress{
		D: head.Position(), DKnown: true, Epoch: 2, Mode: tidegate.ModeSync, Recorded: true, Policy: tidegate.Policy{Reaction: tidegate.ReactBlock},
	})
	s.goes(done)
}

// The operator's policy takes the slot of a replica, too, when its disk comes first;
// the replica is looked at as before.
func TestSlotOfASpareIsGivenUp(t *testing.T) {
	var share atomic.Int64
	share.Store(50)
	primary := pgtest.New(t, pgtest.Config{Settings: map[string]string{"wal_keep_size": "0", "max_wal_size": "1GB"}})
	primary.SQL(t, table)
	s := &site{t: t, pg: primary.Replica(t, pgtest.Config{}), agent: startAgent(t), free: func(string) (uint64, uint64, error) { return uint64(share.Load()), 100, nil }}
	s.connect(func(set *Settings) { set.DropSlotBelow = 10 })
	s.c.Stand(stores.Standing{Part: stores.PartNext})
	s.pg.UntilSQL(t, "SELECT active FROM pg_replication_slots", "t")
	primary.SQL(t, "INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 90000) n")
	s.replayed(primary)
	share.Store(5)
	s.pg.UntilSQL(t, "SELECT count(*) FROM pg_replication_slots", "0")
	s.agent.until("said", func(a *fakeAgent) bool {
		for _, f := range a.findings.List() {
			if f.Name == foundSlotGone {
				return true
			}
		}
		return false
	})
	s.until("streaming", func(st Status) bool { return st.Streaming && st.Finding == nil })
}

// Log is captured from a replica when the operator says so: its slot keeps what the
// other site lacks, from a base on that is taken there. Nothing is promised by it.
func TestCaptureFromAReplica(t *testing.T) {
	primary, s := spareSite(t, pgtest.Config{}, nil, func(set *Settings) { set.Replica = true })
	s.until("active", func(st Status) bool { return st.Active })
	begin, err := s.c.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.c.Base(t.Context(), &shelf{files: map[string]*bytes.Buffer{}}, nil)
	if err != nil || b.Start < begin {
		t.Fatalf("a base from %s of a log from %s: %v", b.Start, begin, err)
	}
	primary.Tool(t, "pgbench", "-i", "-q", "-n")
	s.replayed(primary)
	head := s.caughtUp().Head
	if got, _ := s.read(t, wal.LSN(begin), head, 1<<20); !bytes.Equal(got, s.files(t, 1, wal.LSN(begin), head)) {
		t.Error("what was read is not what the server has")
	}
	s.grant(head, tidegate.ModeSync, tidegate.Bounds{})
	s.pg.UntilSQL(t, fmt.Sprintf("SELECT restart_lsn >= '%s' FROM pg_replication_slots", head), "t")
	s.agent.until("that it holds nothing back", func(a *fakeAgent) bool {
		return a.finding != nil && strings.Contains(a.finding.Error(), "replica") && a.progress.Grant == 0 && a.progress.L.Position >= head.Position()
	})
	s.grant(head, tidegate.ModeOpen, tidegate.Bounds{})
	s.agent.until("nothing to say", func(a *fakeAgent) bool { return a.finding == nil && a.progress.Grant > 0 })

	activation := s.activation()
	primary.Kill(t)
	s.pg.Promote(t)
	s.until("active as a primary", func(st Status) bool { return st.Active && s.activation() > activation })
	s.name()
	s.durable(tidegate.ModeSync, tidegate.Bounds{})
	done := s.commit("INSERT INTO t VALUES (1, 'x')")
	s.waits(done)
	s.grant(s.caughtUp().Head, tidegate.ModeSync, tidegate.Bounds{})
	s.goes(done)
}

func TestReplicaWantsNoNames(t *testing.T) {
	set := Settings{Conn: "host=/s user=u", Slot: "s", Replica: true, SetNames: true}.SetDefaults()
	if err := set.Validate(); err == nil || !strings.Contains(err.Error(), "replica: ") {
		t.Error(err)
	}
	set.SetNames = false
	if err := set.Validate(); err != nil {
		t.Error(err)
	}
}
