package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores"
	"github.com/tidegate/tidegate/stores/postgres/capture"
	"github.com/tidegate/tidegate/stores/postgres/replication"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// pgHost is a machine with a PostgreSQL server, an agent and its connector.
type pgHost struct {
	*host

	pg *pgtest.Server

	before *pgtest.Server // has the log that pg was made too late for; nil: it has all

	set  capture.Settings
	c    *capture.Capture
	stop func()

	generation string // policy; "" is ask
}

func (w *world) postgres(pg *pgtest.Server) *pgHost {
	return &pgHost{host: w.host("east", "n1"), pg: pg, set: capture.Settings{Conn: pg.Conn(), Slot: "tidegate", HotStandbyFeedback: true}}
}

// start runs agent and connector as one process does.
func (h *pgHost) start() *pgHost {
	t := h.w.t
	t.Helper()
	cfg, err := config.Parse[Config]("test", fmt.Appendf(nil, `
node: {cluster: %s, site: %s, name: %s}
tls: {ca: /pki/ca, cert: /pki/cert, key: /pki/key}
gates: [%q]
listen: "127.0.0.1:0"
data_dir: %s
run_dir: %s
rates_dir: %s
streams: [{service: ledger, stream: main, source: postgres, settings: {slot: tidegate}, new_generation: %q}]
limits: {proof_wait: 2s}
`, cluster, h.site, h.name, h.w.gate.addr, filepath.Join(h.dir, "agent-data"), h.dir, filepath.Join(h.dir, "rates"), h.generation))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
	h.c, err = capture.New(capture.Config{
		Settings: h.set, Service: "ledger", Stream: "main",
		Socket: local.SocketPath(h.dir, local.DaemonAgent, "ledger", "main"), Clock: h.w.clk, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	h.agent, err = New(cfg, Deps{
		FS: vfs.OS(), Clock: h.w.clk, Credentials: h.w.credentials(h.site, tidegate.RoleAgent, string(h.name)),
		Log: log, Registry: newRegistry(), BootID: "this-boot",
		Source: func(StreamConfig) (stores.Source, error) { return h.c, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(h.w.ctx)
	var both sync.WaitGroup
	for _, run := range []func(context.Context) error{h.agent.Run, h.c.Run} {
		both.Go(func() {
			if err := run(ctx); err != nil {
				t.Errorf("agent: %v", err)
			}
		})
	}
	<-h.agent.Ready()
	h.stop = sync.OnceFunc(func() { cancel(); both.Wait() })
	t.Cleanup(func() { h.stop() })
	return h
}

// warm has the standby nodes' warm copies say how far they are, and what they ask.
func (h *pgHost) warm(applied tidegate.Position, f replication.Feedback) {
	d := h.w.log
	d.mu.Lock()
	defer d.mu.Unlock()
	d.warm, d.asked = applied, f.Opaque()
	d.shout()
}

// named makes the server wait for the agent.
func (h *pgHost) named() *pgHost {
	h.pg.SQL(h.w.t, "ALTER SYSTEM SET synchronous_standby_names = 'tidegate'")
	h.pg.SQL(h.w.t, "SELECT pg_reload_conf()")
	h.pg.UntilSQL(h.w.t, "SHOW synchronous_standby_names", "tidegate")
	return h
}

// do runs SQL, in time or not at all.
func (h *pgHost) do(sql string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(h.w.t.Context(), patience)
	defer cancel()
	_, err := h.pg.Query(ctx, sql)
	return err
}

func (h *pgHost) commit(sql string) {
	h.w.t.Helper()
	if err := h.do(sql, patient); err != nil {
		h.w.t.Fatalf("%s: %v (%+v, %+v)", sql, err, h.c.Status(), h.agent.Status().Streams[0])
	}
}

func (h *pgHost) heldBack(sql string) {
	h.w.t.Helper()
	if err := h.do(sql, 500*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		h.w.t.Fatalf("%s: %v, want it held back", sql, err)
	}
}

// check compares what the standby nodes hold with the server's own files, and
// returns where it ends.
func (h *pgHost) check() wal.LSN {
	t := h.w.t
	t.Helper()
	var o batch.Opener
	var all []byte
	var begin, end tidegate.Position
	h.w.log.mu.Lock()
	for i, sealed := range h.w.log.sealed {
		hd, payload, err := o.Open(nil, sealed)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if hd.Kind != batch.KindLineage {
				t.Errorf("the log begins with a %s batch", hd.Kind)
			}
			begin, end = hd.First, hd.First
		}
		if hd.First != end {
			t.Fatalf("batch %s begins at %s, the one before ends at %s", hd.Seq, hd.First, end)
		}
		all, end = append(all, payload[:hd.Next-hd.First]...), hd.Next
	}
	h.w.log.mu.Unlock()
	const size = wal.SegmentSizeDefault
	if size.Start(wal.LSN(begin)) != wal.LSN(begin) {
		t.Errorf("the log begins at %s, inside a segment", begin)
	}
	for at := wal.LSN(begin); at < wal.LSN(end); at = size.End(at + 1) {
		name := size.FileName(h.timelineOf(size.End(at+1)), at)
		file, err := os.ReadFile(filepath.Join(h.pg.DataDir, "pg_wal", name))
		if h.before != nil && errors.Is(err, os.ErrNotExist) {
			file, err = os.ReadFile(filepath.Join(h.before.DataDir, "pg_wal", name))
		}
		if err != nil {
			t.Fatal(err)
		}
		n := min(wal.LSN(len(file)), wal.LSN(end)-at)
		if !bytes.Equal(all[at-wal.LSN(begin):at-wal.LSN(begin)+n], file[:n]) {
			t.Fatalf("segment at %s: the standby nodes hold something else", at)
		}
	}
	return wal.LSN(end)
}

// timelineOf is the timeline of the server's file that ends at end: a fork's own
// begins with what was before.
func (h *pgHost) timelineOf(end wal.LSN) wal.Timeline {
	h.w.t.Helper()
	l, err := wal.ParseLineage(tidegate.Lineage(h.c.Status().Lineage))
	if err != nil {
		h.w.t.Fatal(err)
	}
	return l.TimelineAt(end - 1)
}

// caughtUp waits until the standby nodes hold all that the server has.
func (h *pgHost) caughtUp() {
	h.w.t.Helper()
	end, err := wal.ParseLSN(h.pg.LSN(h.w.t))
	if err != nil {
		h.w.t.Fatal(err)
	}
	h.writer("caught up", func(st *WriterStatus) bool { return !st.Proving && wal.LSN(st.Durable) >= end })
}

func TestPostgresCommitsWaitForTheOtherSite(t *testing.T) {
	w := newWorld(t, "s1", "s2")
	h := w.postgres(pgtest.New(t, pgtest.Config{})).start()
	h.commit("CREATE TABLE t (n int)")
	h.caughtUp()
	h.named()
	h.commit("INSERT INTO t VALUES (1)")
	w.log.setDeaf(true)
	h.heldBack("INSERT INTO t VALUES (2)")
	w.log.setDeaf(false)
	h.commit("INSERT INTO t VALUES (3)")
	h.caughtUp()
	h.check()
	h.heldBack("SET synchronous_commit = remote_apply; INSERT INTO t VALUES (4)")
	h.warm(math.MaxUint64, replication.Feedback{Xmin: 700}) // beyond all that is durable
	h.commit("SET synchronous_commit = remote_apply; INSERT INTO t VALUES (5)")
	h.pg.UntilSQL(t, "SELECT xmin FROM pg_replication_slots", "700")
	h.writer("applied told", func(st *WriterStatus) bool { return st.Applied > 0 && st.Applied == st.Durable })
	w.log.setDeaf(true)
	h.heldBack("SET synchronous_commit = remote_apply; INSERT INTO t VALUES (6)")
	w.log.setDeaf(false)
	h.caughtUp()
	h.writer("exposure known", func(st *WriterStatus) bool {
		return st.Exposure.Known && st.Exposure.Bytes == 0 && st.Mode == tidegate.ModeSync && st.Recorded && st.Gate.State == "flowing"
	})
}

func TestPostgresBoundedGoesOnWithinK(t *testing.T) {
	w := newWorld(t, "s1")
	h := w.postgres(pgtest.New(t, pgtest.Config{Settings: map[string]string{"autovacuum": "off"}})).start()
	w.gate.set(tidegate.ModeBounded, tidegate.Bounds{Records: 5, Bytes: tidegate.Unbounded, Window: tidegate.Unbounded})
	h.commit("CREATE TABLE t (n int)")
	h.caughtUp()
	h.named()
	h.writer("bounded", func(st *WriterStatus) bool {
		// Until the server was seen to wait, everything counts as released.
		return st.Mode == tidegate.ModeBounded && st.Recorded && !h.c.Status().Leaks
	})
	w.log.setDeaf(true)
	for i := range 5 {
		h.commit(fmt.Sprintf("SET synchronous_commit = remote_write; INSERT INTO t VALUES (%d)", i))
	}
	h.heldBack("SET synchronous_commit = remote_write; INSERT INTO t VALUES (6)")
	h.heldBack("INSERT INTO t VALUES (7)")
	h.writer("all of K exposed", func(st *WriterStatus) bool { return st.Exposure.Known && st.Exposure.Records == 5 })
	w.log.setDeaf(false)
	h.commit("INSERT INTO t VALUES (8)")
	h.caughtUp()
	h.check()
}

func TestPostgresAgentAndServerKilledUnderLoad(t *testing.T) {
	w := newWorld(t, "s1", "s2")
	h := w.postgres(pgtest.New(t, pgtest.Config{})).start()
	h.pg.BenchInit(t, 1)
	h.caughtUp()
	h.named()
	for i := range 4 {
		load := h.pg.Bench(t, "-c", "4")
		w.log.mu.Lock()
		had := len(w.log.sealed)
		w.log.mu.Unlock()
		w.log.wait(t, "load shipped", func(d *dr) bool { return len(d.sealed) > had+20 })
		if i%2 == 0 {
			h.stop()
			h.start()
		} else {
			h.pg.Kill(t)
			h.pg.Start(t)
		}
		load.Kill()
		h.commit("INSERT INTO pgbench_branches VALUES (1000 + (random() * 1e6)::int, 0)")
	}
	h.caughtUp()
	h.check()
	w.log.wait(t, "epochs", func(d *dr) bool { return d.promise.Epoch >= 3 })
}

// A server keeps from the slot's place on, and the proof looks further back: what
// is not there any more is no contradiction.
func TestPostgresAgentStartedAgainWithoutOldLog(t *testing.T) {
	w := newWorld(t, "s1")
	h := w.postgres(pgtest.New(t, pgtest.Config{Settings: map[string]string{"wal_keep_size": "0", "max_wal_size": "32MB", "autovacuum": "off"}})).start()
	h.commit("CREATE TABLE t (n int)")
	for i := range 4 {
		h.commit(fmt.Sprintf("INSERT INTO t VALUES (%d)", i))
		h.commit("SELECT pg_switch_wal()")
	}
	h.caughtUp() // so that a batch begins behind what will be gone
	h.commit("INSERT INTO t VALUES (5)")
	h.caughtUp()
	h.pg.UntilSQL(t, "SELECT restart_lsn > '0/5000000' FROM pg_replication_slots", "t")
	h.stop()
	h.commit("CHECKPOINT")
	if oldest := h.pg.SQL(t, "SELECT min(name) FROM pg_ls_waldir() WHERE name ~ '^0'"); oldest < "000000010000000000000004" {
		t.Fatalf("the server still has %s: the test tests nothing", oldest)
	}
	h.start()
	h.commit("INSERT INTO t VALUES (6)")
	h.caughtUp()
}

func TestPostgresServerSetBackIsFound(t *testing.T) {
	for name, past := range map[string]bool{"behind what was shipped": false, "past what was shipped": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "s1")
			h := w.postgres(pgtest.New(t, pgtest.Config{})).start()
			h.pg.BenchInit(t, 1)
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
			if past {
				h.pg.Tool(t, "pgbench", "-n", "-t", "500")
			}
			h.start()
			h.named()
			h.state(StateDiverged) // a primary never gets what it lacks
			h.heldBack("CREATE TABLE another ()")
		})
	}
}

func cp(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
}
