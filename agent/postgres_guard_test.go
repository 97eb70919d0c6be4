package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/pgtest"
)

// What is wrong with a server is told although nothing of it could ever be
// streamed, and what its store keeps for the stream is told, too.
func TestPostgresFindingsAndWhatIsKept(t *testing.T) {
	w := newWorld(t, "s1", "s2")
	pg := pgtest.New(t, pgtest.Config{Settings: map[string]string{"wal_level": "minimal", "max_wal_senders": "0"}})
	h := w.postgres(pg).start()
	until := func(what string, ok func() bool) {
		t.Helper()
		pgtest.Until(t, what, func(context.Context) error {
			if !ok() {
				return fmt.Errorf("status %+v", h.agent.Status().Streams[0])
			}
			return nil
		})
	}
	shows := func(name string, want bool) {
		t.Helper()
		until(fmt.Sprintf("%s: %v", name, want), func() bool {
			return slices.ContainsFunc(h.agent.Status().Streams[0].Findings, func(f local.Finding) bool { return f.Name == name && f.Hint != "" }) == want
		})
	}
	shows("wal-level", true)
	if st := h.agent.Status().Streams[0]; st.LibraryConnected || len(st.Keeps) != 0 {
		t.Errorf("status %+v", st)
	}
	pg.SQL(t, "ALTER SYSTEM SET wal_level = replica")
	pg.SQL(t, "ALTER SYSTEM SET max_wal_senders = 10")
	pg.Restart(t)
	h.caughtUp()
	shows("wal-level", false)
	until("the slot is told", func() bool {
		keeps := h.agent.report().GetStreams()[0].GetKeeps()
		return len(keeps) == 1 && strings.Contains(keeps[0], "pg_drop_replication_slot('tidegate')")
	})
	shows("fsync-off", true)

	h.named()
	w.gate.change(func(g *fakeGate) { g.leaving = true })
	shows("leaving", true) // the names are the operator's
	if n := pg.SQL(t, "SELECT count(*) FROM pg_replication_slots"); n != "1" {
		t.Errorf("%s slots while commits wait", n)
	}
	pg.SQL(t, "ALTER SYSTEM RESET synchronous_standby_names")
	pg.SQL(t, "SELECT pg_reload_conf()")
	pg.UntilSQL(t, "SELECT count(*) FROM pg_replication_slots", "0")
	until("nothing is kept", func() bool { return len(h.agent.report().GetStreams()[0].GetKeeps()) == 0 })
}
