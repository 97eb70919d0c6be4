package apply

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/stores/postgres/replication"
	"github.com/tidegate/tidegate/stores/postgres/server"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// warm is a connector under test.
type warm struct {
	t    *testing.T
	o    *origin
	cfg  Config
	c    *Connector
	stop func()
	log  *lines
	left chan Tail // accounts of tails
	// bases are the node's; the origin's own if nil.
	bases *snapshot.Store
}

// lines keeps what was logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// newWarm prepares a connector beside a scripted node.
func newWarm(t *testing.T, o *origin) (*warm, *node) {
	t.Helper()
	place := o.Place(t)
	run := filepath.Join(place, "run")
	if err := os.Mkdir(run, 0o755); err != nil {
		t.Fatal(err)
	}
	w := &warm{t: t, o: o, stop: func() {}, log: &lines{}, left: make(chan Tail, 16), cfg: Config{
		Service: "shop", Stream: "orders", RunDir: run, Endpoint: "dr1:5432",
		Server: server.Config{
			Home: filepath.Join(place, "home"), BinDir: o.BinDir, StopTimeout: 10 * time.Second,
			Settings: map[string]string{"fsync": "off", "shared_buffers": "32MB"},
		},
	}}
	if !o.Account.Self {
		w.cfg.Server.Account = &server.Account{UID: o.Account.UID, GID: o.Account.GID}
	}
	n := newNode(t, o, run)
	t.Cleanup(w.end)
	return w, n
}

func (w *warm) deps() Deps {
	return Deps{
		FS: vfs.OS(), Clock: clock.System(), Log: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Bases: func() (Bases, error) { return cmp.Or(w.bases, w.o.store), nil },
		Left:  func(t Tail) error { w.left <- t; return nil },
	}
}

// start runs a connector until stop is called, or the test ends.
func (w *warm) start() {
	w.t.Helper()
	c, err := New(w.deps(), w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.c = c
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(done)
		if err := c.Run(ctx); err != nil {
			w.t.Errorf("connector: %v", err)
		}
	})
	w.stop = func() { cancel(); wg.Wait() }
}

// end stops connector and server, and shows what they said when the test failed.
func (w *warm) end() {
	w.stop()
	s, err := server.New(vfs.OS(), clock.System(), slog.New(slog.DiscardHandler), w.cfg.SetDefaults().Server)
	if err == nil {
		err = s.Stop(context.Background(), server.StopImmediate)
	}
	if err != nil {
		w.t.Errorf("stop warm server: %v", err)
	}
	if w.t.Failed() {
		text, _ := os.ReadFile(s.LogPath())
		w.t.Logf("connector says:\n%s\nserver says:\n%s", w.log, text[max(0, len(text)-6000):])
	}
}

// sql asks the warm server; one value.
func (w *warm) sql(query string) (string, error) {
	conn, err := pgconn.Connect(w.t.Context(), fmt.Sprintf("host=%s port=5432 user=postgres dbname=postgres sslmode=disable", filepath.Join(w.cfg.Server.Home, "run")))
	if err != nil {
		return "", err
	}
	defer conn.Close(context.Background())
	results, err := conn.Exec(w.t.Context(), query).ReadAll()
	if err != nil {
		return "", err
	}
	last := results[len(results)-1]
	if len(last.Rows) == 0 {
		return "", nil
	}
	return string(last.Rows[0][0]), nil
}

func (w *warm) must(query string) string {
	w.t.Helper()
	v, err := w.sql(query)
	if err != nil {
		w.t.Fatalf("%s: %v", query, err)
	}
	return v
}

const digestSQL = `SELECT md5(string_agg(d, ',' ORDER BY n)) FROM (
	SELECT 1 n, count(*) || ':' || sum(hashtextextended(t::text, 0)) d FROM pgbench_accounts t
	UNION ALL SELECT 2, count(*) || ':' || sum(hashtextextended(t::text, 0)) FROM pgbench_branches t
	UNION ALL SELECT 3, count(*) || ':' || sum(hashtextextended(t::text, 0)) FROM pgbench_tellers t
	UNION ALL SELECT 4, count(*) || ':' || sum(hashtextextended(t::text, 0)) FROM pgbench_history t) x`

// sameAt compares the warm server with the primary, which is quiet, at one LSN.
func (w *warm) sameAt(n *node) wal.LSN {
	w.t.Helper()
	end := w.o.flushed(w.t)
	n.until("everything applied", func() bool { return n.progress.Applied >= end.Position() })
	if got, want := w.must(digestSQL), w.o.BenchDigest(w.t); got != want {
		w.t.Errorf("at %s the warm server holds %s, the primary %s", end, got, want)
	}
	return end
}

// ordinary are a server's words for the end of what it has, for a base that was
// taken of a standby, and for a connector
// that was killed.
var ordinary = regexp.MustCompile(`invalid record length|invalid magic number 0000|closed the connection unexpectedly|invalid socket|If this has occurred more than once some data might be corrupted`)

// complaint are words of a server that was fed wrong.
var complaint = regexp.MustCompile(`PANIC|incorrect|invalid|mismatch|unexpected|out-of-sequence|corrupt|contrecord`)

// complaints searches the warm server's log.
func (w *warm) complaints() {
	w.t.Helper()
	for line := range strings.SplitSeq(readFile(w.t, filepath.Join(w.cfg.Server.Home, "log", "server.log")), "\n") {
		if complaint.MatchString(line) && !ordinary.MatchString(line) {
			w.t.Errorf("warm server complains: %s", line)
		}
	}
}

func TestFollowThenPromote(t *testing.T) {
	o := newOrigin(t, pgtest.Config{})
	w, n := newWarm(t, o)
	w.cfg.Server.Feedback = true
	n.change(func() { n.follow = true })
	w.start()
	bench := o.Bench(t, "-c", "4", "-T", "3")
	n.until("something applied", func() bool { return n.progress.Applied > 0 })
	n.until("the primary to be asked for rows", func() bool {
		f, err := replication.ParseOpaque(n.asked)
		return err == nil && f.Xmin != 0
	})
	if err := bench.Wait(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, bench.Output())
	}
	w.sameAt(n)
	w.complaints()
	digest := o.BenchDigest(t)

	// The primary is lost, and goes on for a while all the same.
	h := n.cut()
	o.SQL(t, "INSERT INTO pgbench_history (tid, bid, aid, delta) VALUES (1, 1, 1, 41)")
	began := time.Now()
	n.promote(h)
	took := time.Since(began)
	t.Logf("promoted in %s", took)
	if took > time.Second {
		t.Errorf("promotion took %s", took)
	}
	if got := w.must(digestSQL); got != digest {
		t.Errorf("promoted with %s, want %s", got, digest)
	}
	want, err := o.line.Fork(o.line.Timeline()+1, h)
	if err != nil {
		t.Fatal(err)
	}
	if n.lineage != want.Text() {
		t.Errorf("lineage %s, want %s", n.lineage, want)
	}
	w.must("INSERT INTO pgbench_history (tid, bid, aid, delta) VALUES (1, 1, 1, 42)")
	if got := w.must("SELECT count(*) FROM pgbench_history WHERE delta = 42"); got == "0" {
		t.Error("the promoted server lost a write")
	}
}

// The primary's cluster promotes a replica: the warm server follows to the new
// timeline by itself, and is promoted from there.
func TestTimelineSwitch(t *testing.T) {
	o := newOrigin(t, pgtest.Config{})
	replica := o.Replica(t, pgtest.Config{})
	w, n := newWarm(t, o)
	n.change(func() { n.follow = true })
	w.start()
	o.Tool(t, "pgbench", "-n", "-c", "2", "-t", "200")
	w.sameAt(n)
	started := w.must("SELECT pg_postmaster_start_time()")
	o.Stop(t, pgtest.Fast) // the replica gets all of it
	end := o.end()
	replica.UntilReplayed(t, end.String())
	replica.Promote(t)
	o.failOver(t, replica)
	o.Tool(t, "pgbench", "-n", "-c", "2", "-t", "200")
	w.sameAt(n)
	if got := w.must("SELECT pg_postmaster_start_time()"); got != started {
		t.Error("the warm server was started again")
	}
	for range 2 { // also from the middle of the new timeline, and after a restart
		w.stop()
		w.start()
		o.Tool(t, "pgbench", "-n", "-c", "2", "-t", "100")
		w.sameAt(n)
	}
	w.complaints()
	digest := o.BenchDigest(t)
	h := n.cut()
	n.promote(h)
	want, err := o.line.Fork(o.line.Timeline()+1, h)
	if err != nil {
		t.Fatal(err)
	}
	if n.lineage != want.Text() || w.must(digestSQL) != digest {
		t.Errorf("promoted as %s, want %s", n.lineage, want)
	}
}

// The log goes on in a new generation: the server waits for its base, and is made
// anew from it. What it was is kept.
func TestNewGeneration(t *testing.T) {
	o := newOrigin(t, pgtest.Config{})
	w, n := newWarm(t, o)
	n.change(func() { n.follow = true })
	w.start()
	w.sameAt(n)
	n.change(func() { n.of = 2 })
	n.until("a finding", func() bool { return strings.Contains(n.finding, "another generation") })
	o.Tool(t, "pgbench", "-n", "-c", "2", "-t", "100")
	conn := o.connect(t)
	o.takeBase(t, conn, 2)
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	n.until("of the new generation", func() bool { return n.hello.Generation == 2 && n.finding == "" })
	o.Tool(t, "pgbench", "-n", "-c", "2", "-t", "100")
	w.sameAt(n)
	aside, err := filepath.Glob(filepath.Join(w.cfg.Server.Home, "aside", "generation-1-*", "data", "PG_VERSION"))
	if err != nil || len(aside) != 1 {
		t.Errorf("moved aside: %v, %v", aside, err)
	}
	w.complaints()
}

// A data directory that was not restored here is left alone.
func TestForeignDataIsNotTouched(t *testing.T) {
	o := newOrigin(t, pgtest.Config{})
	w, n := newWarm(t, o)
	precious := filepath.Join(w.cfg.Server.Home, "cluster", "data", "PG_VERSION")
	if err := os.MkdirAll(filepath.Dir(precious), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(precious, []byte("15\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.change(func() { n.follow = true })
	w.start()
	n.until("a finding", func() bool { return strings.Contains(n.finding, "not restored here") })
	if readFile(t, precious) != "15\n" {
		t.Error("it was touched")
	}
}

// A primary that rolls back by hand, or a node with another history: the server is
// stopped and says what it takes.
func TestRewindStandsDown(t *testing.T) {
	o := newOrigin(t, pgtest.Config{})
	w, n := newWarm(t, o)
	n.change(func() { n.follow = true })
	w.start()
	end := w.sameAt(n)
	n.change(func() {
		if err := n.conn.Send(&local.Rewind{To: (end - 8).Position(), Epoch: 9}); err != nil {
			t.Error(err)
		}
	})
	n.until("a finding", func() bool { return strings.Contains(n.finding, "epoch 9 goes on") })
	pgtest.Until(t, "the server to end", func(context.Context) error {
		if _, err := w.sql("SELECT 1"); err == nil {
			return errors.New("it answers")
		}
		return nil
	})
}
