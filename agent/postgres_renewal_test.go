package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/internal/pgtest"
)

// recycles is a server that keeps no log but for slots.
var recycles = map[string]string{"wal_keep_size": "0", "max_wal_size": "32MB", "autovacuum": "off"}

// passes makes the server write several segments, and give up all that it need not keep.
func (h *pgHost) passes() {
	h.w.t.Helper()
	for range 5 {
		h.commit("SET synchronous_commit = local; CREATE TABLE IF NOT EXISTS t (n int); INSERT INTO t VALUES (1)")
		h.commit("SELECT pg_switch_wal()")
	}
	h.commit("CHECKPOINT")
}

// lost waits until the agent says that its source does not go on.
func (h *pgHost) lost(diverged bool, command string) {
	h.w.t.Helper()
	pgtest.Until(h.w.t, "the log to be lost", func(context.Context) error {
		st := h.agent.Status().Streams[0]
		if len(st.Findings) == 0 || st.Findings[0].Name != findingGeneration || st.LostDiverged != diverged || !strings.Contains(st.Findings[0].Hint, command) {
			return fmt.Errorf("status %+v", st)
		}
		return nil
	})
}

// opened waits until a generation is written, and returns where its first batch is.
func (h *pgHost) opened(g tidegate.Generation) (first batch.Header) {
	h.w.t.Helper()
	h.w.log.wait(h.w.t, fmt.Sprintf("generation %d", g), func(d *dr) bool {
		for _, one := range d.headers {
			if one.Generation == g {
				first = one
				return true
			}
		}
		return false
	})
	if first.Kind != batch.KindLineage || first.First%(16<<20) != 0 {
		h.w.t.Errorf("generation %d begins with a %s batch at %s", g, first.Kind, first.First)
	}
	return first
}

// A source that lost its log goes on in a generation beside the old one, once that is
// declared: in the same process, or in another one.
func TestPostgresNewGeneration(t *testing.T) {
	for name, lose := range map[string]func(h *pgHost){
		"log gone while the agent was away": func(h *pgHost) {
			h.stop()
			h.pg.UntilSQL(h.w.t, "SELECT active FROM pg_replication_slots", "f") // the server has seen us go
			h.commit("SELECT pg_drop_replication_slot('tidegate')")
			h.passes()
			h.start()
		},
		"slot lost": func(h *pgHost) {
			h.w.log.setDeaf(true)
			h.commit("ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'")
			h.commit("SELECT pg_reload_conf()")
			h.passes()
			h.pg.UntilSQL(h.w.t, "SELECT wal_status FROM pg_replication_slots", "lost")
			h.w.log.setDeaf(false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "s1", "s2")
			h := w.postgres(pgtest.New(t, pgtest.Config{Settings: recycles})).start()
			h.commit("CREATE TABLE t (n int)")
			h.caughtUp()
			lose(h)
			h.named()
			h.lost(false, "tidegate gap accept ledger/main")
			h.heldBack("INSERT INTO t VALUES (2)")

			w.log.is(&w.log.mute, true) // nobody has the new base
			w.gate.declare("n1")
			first := h.opened(2)
			h.writer("opening", func(st *WriterStatus) bool { return st.Generation == 2 && st.Opening && st.Durable == 0 })
			if st := h.agent.Status().Streams[0]; st.Lost != "" || len(st.Findings) > 0 && st.Findings[0].Name == findingGeneration {
				t.Errorf("still said to be lost: %+v", st)
			}
			// What waited since before the base must not be let go by a position in it.
			h.heldBack("INSERT INTO t VALUES (3)")
			if n := h.pg.SQL(t, "SELECT count(*) FROM pg_stat_replication WHERE flush_lsn > '0/0'"); n != "0" {
				t.Errorf("%s receivers have confirmed something", n)
			}
			w.log.is(&w.log.mute, false)
			h.commit("INSERT INTO t VALUES (4)")
			h.caughtUp()
			if first.Epoch != 2 && first.Epoch != 3 {
				t.Errorf("opened in epoch %s", first.Epoch)
			}

			// The declaration has had its effect: the next run goes on.
			h.stop()
			h.start()
			h.commit("INSERT INTO t VALUES (5)")
			h.caughtUp()
			w.log.mu.Lock()
			defer w.log.mu.Unlock()
			if g := w.log.headers[len(w.log.headers)-1].Generation; g != 2 {
				t.Errorf("generation %d", g)
			}
		})
	}
}

// A server that was set back lacks what was shipped: it goes on without that only
// when somebody declares it, whatever the policy.
func TestPostgresNewGenerationOfAServerSetBack(t *testing.T) {
	w := newWorld(t, "s1")
	h := w.postgres(pgtest.New(t, pgtest.Config{}))
	h.generation = GenerationAuto
	h.start().pg.BenchInit(t, 1)
	h.caughtUp()
	h.stop()
	h.pg.Stop(t, pgtest.Fast)
	copied := filepath.Join(t.TempDir(), "data")
	cp(t, h.pg.DataDir, copied)
	h.pg.Start(t)
	h.start()
	h.pg.Tool(t, "pgbench", "-n", "-t", "100")
	h.caughtUp()
	h.stop()
	h.pg.Stop(t, pgtest.Immediate)
	if err := os.RemoveAll(h.pg.DataDir); err != nil {
		t.Fatal(err)
	}
	cp(t, copied, h.pg.DataDir)
	h.pg.Start(t)
	h.pg.Tool(t, "pgbench", "-n", "-t", "500")
	h.start()
	h.named()
	h.state(StateDiverged)
	h.lost(true, "--accept-loss")
	h.heldBack("CREATE TABLE other ()")
	w.gate.mu.Lock()
	declared := w.gate.declares
	w.gate.mu.Unlock()
	if declared != 0 {
		t.Fatal("declared by itself")
	}
	w.gate.declare("n1")
	h.opened(2)
	h.commit("CREATE TABLE another ()")
	h.caughtUp()

	// The old generation's batches are near the end of the log still, and are no measure
	// of what this server writes now.
	h.stop()
	h.start()
	h.commit("CREATE TABLE one_more ()")
	h.caughtUp()
}

// By policy the agent says yes itself where the server has all that it ever had.
func TestPostgresNewGenerationByPolicy(t *testing.T) {
	w := newWorld(t, "s1")
	h := w.postgres(pgtest.New(t, pgtest.Config{Settings: recycles}))
	h.generation = GenerationAuto
	h.start().commit("CREATE TABLE t (n int)")
	h.caughtUp()
	w.log.setDeaf(true)
	h.commit("ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'")
	h.commit("SELECT pg_reload_conf()")
	h.passes()
	w.gate.change(func(g *fakeGate) {
		g.refuse = &tidegate.Error{Op: "acquire", Class: tidegate.Transient, Err: errors.New("too few standby nodes")}
	})
	h.pg.UntilSQL(t, "SELECT wal_status <> 'lost' FROM pg_replication_slots", "t")
	// Lost once more before an epoch can be had: it is begun anew once more.
	h.passes()
	h.pg.UntilSQL(t, "SELECT wal_status FROM pg_replication_slots", "lost")
	w.clk.jump(renewEvery)
	h.pg.UntilSQL(t, "SELECT wal_status <> 'lost' FROM pg_replication_slots", "t")
	w.gate.change(func(g *fakeGate) { g.refuse = nil })
	w.log.setDeaf(false)
	h.named()
	h.opened(2)
	h.commit("INSERT INTO t VALUES (4)")
	h.caughtUp()
	w.gate.mu.Lock()
	defer w.gate.mu.Unlock()
	if w.gate.declares != 1 {
		t.Errorf("declared %d times", w.gate.declares)
	}
}
