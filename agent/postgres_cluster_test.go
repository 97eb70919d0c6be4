package agent

import (
	"slices"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/stores/postgres/capture"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// pgCluster is a primary and a replica of one site, each with its agent, in sync.
func pgCluster(t *testing.T) (w *world, n1, n2 *pgHost) {
	t.Helper()
	w = newWorld(t, "s1")
	primary := pgtest.New(t, pgtest.Config{})
	primary.SQL(t, "CREATE TABLE t (n int)")
	n1 = w.postgres(primary)
	n1.set.SetNames = true
	n1.start()
	n1.caughtUp()
	n2 = &pgHost{host: w.host("east", "n2"), pg: primary.Replica(t, pgtest.Config{})}
	n2.before = primary
	n2.set = capture.Settings{Conn: n2.pg.Conn(), Slot: "tidegate", SetNames: true}
	n2.start()
	n2.state(StateObserving)
	n1.writer("recorded", func(st *WriterStatus) bool { return st.Recorded && st.Mode == tidegate.ModeSync })
	n2.pg.UntilSQL(t, "SHOW synchronous_standby_names", "tidegate")
	n1.commit("INSERT INTO t VALUES (1)")
	return w, n1, n2
}

// promote has the cluster lose its primary, and go on from the replica.
func promote(t *testing.T, lost, next *pgHost) {
	t.Helper()
	lost.pg.Kill(t)
	next.pg.Promote(t)
}

// The other site is behind what the promoted replica has: the stream goes on there,
// under a new epoch, over the fork, and the lost primary's agent has nothing to say
// when its server comes back by itself.
func TestPostgresReplicaIsPromoted(t *testing.T) {
	w, n1, n2 := pgCluster(t)
	w.log.setDeaf(true)
	n1.commit("SET synchronous_commit = local; INSERT INTO t SELECT generate_series(1, 20000)")
	n2.pg.UntilReplayed(t, n1.pg.LSN(t))
	promote(t, n1, n2)
	n2.heldBack("INSERT INTO t VALUES (2)") // from its first commit on
	w.log.setDeaf(false)
	n2.state(StateWriting)
	n2.commit("INSERT INTO t VALUES (3)")
	n2.caughtUp()
	end := n2.check()
	l, err := wal.ParseLineage(tidegate.Lineage(n2.c.Status().Lineage))
	if err != nil || len(l.Forks) != 1 || end <= l.Forks[0].At {
		t.Fatalf("shipped up to %s of lineage %s: %v", end, l, err)
	}
	w.log.mu.Lock()
	var forks []batch.Header
	for _, h := range w.log.headers {
		if h.Kind == batch.KindLineage {
			forks = append(forks, h)
		}
	}
	w.log.mu.Unlock()
	if len(forks) != 2 || wal.LSN(forks[1].First) != l.Forks[0].At || forks[1].Epoch != 2 {
		t.Errorf("lineage batches %+v, want the second at %s in epoch 2", forks, l.Forks[0].At)
	}

	n1.pg.Start(t)
	n1.heldBack("INSERT INTO t VALUES (4)")
	w.gate.wait(t, "the old primary to be found out", func(*fakeGate) bool {
		st := n1.agent.Status().Streams[0]
		return st.Observer != nil && st.Observer.Diverged != ""
	})
	if st := n1.agent.Status().Streams[0]; st.Lost != "" {
		t.Errorf("the old primary asks for a new generation: %s", st.Lost)
	}
	n2.commit("INSERT INTO t VALUES (5)")
	holder := func(epoch tidegate.Epoch) {
		t.Helper()
		w.gate.mu.Lock()
		defer w.gate.mu.Unlock()
		if w.gate.rec.Holder.Node != "n2" || w.gate.rec.Epoch != epoch {
			t.Errorf("held by %+v in epoch %s", w.gate.rec.Holder, w.gate.rec.Epoch)
		}
	}
	holder(2)

	// A generation is declared of the one that holds it: the old primary does not answer.
	w.gate.declare("n2")
	n2.opened(2)
	n2.commit("INSERT INTO t VALUES (6)")
	n1.heldBack("INSERT INTO t VALUES (7)")
	holder(3)
}

// The replica that is promoted lacks what clients were told of, because the other
// site has it: nothing of it is shipped, nobody is answered by it, and that is said
// by name, before anything is written to it.
func TestPostgresReplicaIsPromotedBehindTheOtherSite(t *testing.T) {
	w, n1, n2 := pgCluster(t)
	n2.pg.SQL(t, "ALTER SYSTEM SET primary_conninfo = ''")
	n2.pg.SQL(t, "SELECT pg_reload_conf()")
	n2.pg.UntilSQL(t, "SELECT count(*) FROM pg_stat_wal_receiver", "0")
	n1.commit("INSERT INTO t SELECT generate_series(1, 1000)")
	n1.caughtUp()
	w.log.mu.Lock()
	held := w.log.end()
	w.log.mu.Unlock()

	promote(t, n1, n2)
	st := n2.state(StateDiverged)
	i := slices.IndexFunc(st.Findings, func(f local.Finding) bool { return f.Name == foundBehind })
	if i < 0 || st.Findings[i].Severity != local.SeverityCritical || st.Findings[i].Hint == "" {
		t.Errorf("findings %+v", st.Findings)
	}
	n2.heldBack("INSERT INTO t VALUES (2)")
	w.gate.wait(t, "its own log to be kept", func(g *fakeGate) bool { return len(g.bundles) == 1 })
	w.gate.mu.Lock()
	if w.gate.acquired != 1 || w.gate.rec.Holder.Node != "n1" {
		t.Errorf("acquired %d times, held by %+v", w.gate.acquired, w.gate.rec.Holder)
	}
	w.gate.mu.Unlock()
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	if end := w.log.end(); end != held && end.Epoch != held.Epoch {
		t.Errorf("the standby nodes held %s, and hold %s", held, end)
	}
}
