package capture

import (
	"strconv"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/stores/postgres/replication"
)

func TestHorizonsCoverAllNodesAndForgetTheSilent(t *testing.T) {
	var h horizons
	at := func(d time.Duration) tidegate.Instant { return tidegate.Instant(d) }
	want := func(now time.Duration, xmin uint32, known bool) {
		t.Helper()
		if f, k := h.oldest(at(now), time.Minute); f.Xmin != xmin || k != known {
			t.Errorf("at %s: %+v (%v), want %d (%v)", now, f, k, xmin, known)
		}
	}
	want(0, 0, false)
	h.note(at(0), "d1", replication.Feedback{Xmin: 700})
	h.note(at(0), "d2", replication.Feedback{Xmin: 650})
	want(time.Second, 650, true)
	h.note(at(50*time.Second), "d1", replication.Feedback{Xmin: 700})
	want(59*time.Second, 650, true)
	want(60*time.Second, 700, true) // d2 is silent for a minute
	h.note(at(61*time.Second), "d1", replication.Feedback{})
	want(62*time.Second, 0, true)
}

// slotXmin is what the slot makes the server keep, as text; empty for nothing.
const slotXmin = "SELECT coalesce(xmin::text, '') FROM pg_replication_slots"

// asks has the agent pass on what a node's warm server asks for.
func (s *site) asks(node tidegate.NodeName, f replication.Feedback) {
	s.t.Helper()
	m := local.Feedback{Node: node}
	if f != (replication.Feedback{}) {
		m.Opaque = f.Opaque()
	}
	s.agent.mu.Lock()
	defer s.agent.mu.Unlock()
	if err := s.agent.conn.Send(&m); err != nil {
		s.t.Error(err)
	}
}

// What warm servers ask for is in the server's slot, the oldest of all; it goes when
// they take it back, when nothing more is heard of them, and when nobody may ask.
func TestFeedbackHoldsRowsAndLetsThemGo(t *testing.T) {
	on := func(s *Settings) { s.HotStandbyFeedback = true }
	s := newSite(t, pgtest.Config{Settings: map[string]string{"autovacuum": "off"}}, on)
	s.pg.SQL(t, table)
	s.active()
	oldest := s.pg.SQL(t, "SELECT pg_current_xact_id()")
	newer := s.pg.SQL(t, "SELECT pg_current_xact_id()")
	s.pg.SQL(t, "INSERT INTO t VALUES (1, 'x')")
	s.asks("d1", replication.Feedback{Xmin: xid(t, newer)})
	s.pg.UntilSQL(t, slotXmin, newer)
	s.asks("d1", replication.Feedback{})
	s.pg.UntilSQL(t, slotXmin, "")
	s.asks("d2", replication.Feedback{Xmin: xid(t, oldest)})
	s.asks("d1", replication.Feedback{Xmin: xid(t, newer)})
	s.pg.UntilSQL(t, slotXmin, oldest)

	// A connector that starts again lets what the slot holds be, until it knows better.
	s.connect(on)
	s.active()
	s.c.mu.Lock()
	_, due := s.c.nextFeedback()
	s.c.mu.Unlock()
	if got := s.pg.SQL(t, slotXmin); due || got != oldest {
		t.Errorf("the slot keeps rows since %q, want %s (due %v)", got, oldest, due)
	}
	// Of a server that is silent nothing is kept.
	s.kept = 300 * time.Millisecond
	s.connect(on)
	s.pg.UntilSQL(t, slotXmin, "")

	s.kept = 0
	s.connect(on)
	s.active()
	s.asks("d1", replication.Feedback{Xmin: xid(t, newer)})
	s.pg.UntilSQL(t, slotXmin, newer)
	s.connect(nil) // switched off
	s.pg.UntilSQL(t, slotXmin, "")
	s.active()
	s.asks("d1", replication.Feedback{Xmin: xid(t, newer)})
	s.active()
	if got := s.pg.SQL(t, slotXmin); got != "" {
		t.Errorf("the slot keeps rows since %s, and nobody may ask", got)
	}
}

func xid(t *testing.T, text string) uint32 {
	t.Helper()
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

// Who waits for the warm server is let go when it has applied the commit and D has
// reached it, never by one of the two alone; others do not wait for it.
func TestRemoteApplyWaitsForTheWarmServer(t *testing.T) {
	s := newSite(t, pgtest.Config{Settings: map[string]string{"autovacuum": "off"}}, nil)
	s.pg.SQL(t, table)
	s.durable(tidegate.ModeSync, tidegate.Bounds{})
	s.name()
	applied := s.commit("SET synchronous_commit = remote_apply; INSERT INTO t VALUES (1, 'x')")
	s.waits(applied)
	durable := s.commit("INSERT INTO t VALUES (2, 'x')")
	s.waits(durable)
	head := s.caughtUp().Head
	s.grant(head, tidegate.ModeSync, tidegate.Bounds{})
	s.goes(durable)
	s.waits(applied)
	s.until("apply unknown", func(st Status) bool { return st.Told.Flush >= head && st.Told.Apply == 0 })
	s.applied(head, head)
	s.goes(applied)

	// Less than before is told of another warm server: what was shown stays shown.
	s.applied(head, head/2)
	s.until("apply stays", func(st Status) bool { return st.Told.Apply == head && st.Told.Flush == head })
}
