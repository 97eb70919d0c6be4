package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/stores/postgres/server"
)

// A child process is this test's binary again, with a connector in it that can be
// killed.
const childEnv = "TIDEGATE_APPLY_CHILD"

type childConfig struct {
	Config Config
	Bases  string   // the store's directory
	Last   []string // it dies once its log has said one of these
}

// lastWords is a log that kills its process in the midst of its step: a killer who
// reads it might come a step late.
type lastWords []string

func (l lastWords) Write(b []byte) (int, error) {
	n, err := os.Stderr.Write(b)
	for _, word := range l {
		if strings.Contains(string(b), word) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // nobody refuses it
		}
	}
	return n, err
}

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		if err := child(text); err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func child(text string) error {
	var c childConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	store, err := snapshot.Open(vfs.OS(), c.Bases, snapshot.StoreConfig{})
	if err != nil {
		return err
	}
	defer store.Close()
	conn, err := New(Deps{
		FS: vfs.OS(), Clock: clock.System(), Log: slog.New(slog.NewTextHandler(lastWords(c.Last), &slog.HandlerOptions{Level: slog.LevelDebug})),
		Bases: func() (Bases, error) { return store, nil },
		Left:  func(Tail) error { return nil },
	}, c.Config)
	if err != nil {
		return err
	}
	return conn.Run(context.Background())
}

// spawn starts a connector in a process of its own. It dies once its log says one
// of the words (never, when there is none), and at the end of the test; the
// returned function waits for its death.
func (w *warm) spawn(words ...string) (dead func()) {
	w.t.Helper()
	text, err := json.Marshal(childConfig{w.cfg, w.o.bases, words})
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StderrPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(ended)
		_, _ = io.Copy(w.log, out) // up to its end, whatever that is
		_ = cmd.Wait()             // killed
	})
	w.stop = func() { _ = cmd.Process.Kill(); wg.Wait() } // it may have ended
	return func() {
		w.t.Helper()
		pgtest.Until(w.t, fmt.Sprintf("the connector to come to %q", words), func(context.Context) error {
			select {
			case <-ended:
				return nil
			default:
				return errors.New("it lives")
			}
		})
	}
}

// killServer kills the warm server's postmaster, and with it everything of it.
func (w *warm) killServer() {
	w.t.Helper()
	text := readFile(w.t, filepath.Join(w.cfg.Server.Home, "cluster", "data", "postmaster.pid"))
	var pid int
	if _, err := fmt.Sscan(text, &pid); err != nil {
		w.t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		w.t.Fatal(err)
	}
	pgtest.Until(w.t, "the server to be started again", func(context.Context) error {
		v, err := w.sql("SELECT pg_read_file('postmaster.pid')")
		if err == nil && strings.HasPrefix(v, fmt.Sprintln(pid)) {
			err = errors.New("it is the old one")
		}
		return err
	})
}

// Killed in every step of its way, a connector comes to where an unkilled one
// would have come.
func TestConnectorKilledInEveryStep(t *testing.T) {
	o := newOrigin(t, pgtest.Config{})
	o.Tool(t, "pgbench", "-n", "-c", "2", "-t", "200")
	w, n := newWarm(t, o)
	n.change(func() { n.follow = true })
	for _, word := range []string{
		"step=restore", "base restored", "step=start", "text=IDENTIFY_SYSTEM", "warm server asks for log", "rest=false", "msg=streaming",
	} {
		dead := w.spawn(word)
		dead()
	}
	dead := w.spawn("step=promote")
	o.Tool(t, "pgbench", "-n", "-c", "2", "-t", "200")
	w.sameAt(n)
	digest := o.BenchDigest(t)
	h := n.cut()
	n.change(func() { n.h, n.epoch = h, n.epoch+1 })
	dead() // before or while the server is asked to promote
	dead = w.spawn("warm server is active")
	dead()
	w.start()
	n.until("the warm server to be active", func() bool { return n.active })
	want, err := o.line.Fork(o.line.Timeline()+1, h)
	if err != nil {
		t.Fatal(err)
	}
	if n.lineage != want.Text() {
		t.Errorf("lineage %s, want %s", n.lineage, want)
	}
	if got := w.must(digestSQL); got != digest {
		t.Errorf("promoted with %s, want %s", got, digest)
	}
	w.must("CREATE TABLE after_all (n int)")
	w.complaints()
}

// The server is killed while it follows, while it is promoted, and after.
func TestServerKilled(t *testing.T) {
	o := newOrigin(t, pgtest.Config{})
	w, n := newWarm(t, o)
	n.change(func() { n.follow = true })
	w.start()
	n.until("something applied", func() bool { return n.progress.Applied > 0 })
	bench := o.Bench(t, "-c", "2")
	for range 3 {
		w.killServer()
		at := o.flushed(t)
		n.until("it follows again", func() bool { return n.progress.Applied >= at.Position() })
	}
	bench.Stop()
	w.sameAt(n)
	digest := o.BenchDigest(t)
	h := n.cut()

	// While it is down it is ordered to promote.
	n.change(func() { n.h, n.epoch = h, n.epoch+1 })
	w.killServer()
	n.until("the warm server to be active", func() bool { return n.active })
	if got := w.must(digestSQL); got != digest {
		t.Errorf("promoted with %s, want %s", got, digest)
	}
	w.must("CREATE TABLE after_all AS SELECT 7 AS n")
	w.killServer()
	pgtest.Until(t, "the server to be back", func(context.Context) error {
		v, err := w.sql("SELECT n FROM after_all")
		if err == nil && v != "7" {
			err = fmt.Errorf("got %q", v)
		}
		return err
	})
	n.until("active again", func() bool { return n.active })

	// The stream goes on elsewhere: it leaves, and stays down until the log shows how.
	n.change(func() { n.h, n.follow, n.epoch = 0, true, n.epoch+1 })
	s, err := server.New(vfs.OS(), clock.System(), slog.New(slog.DiscardHandler), w.cfg.SetDefaults().Server)
	if err != nil {
		t.Fatal(err)
	}
	down := func() bool { running, err := s.Running(); return err == nil && !running }
	n.until("it left", func() bool { return !n.active && down() })
	w.stop()
	w.start()
	n.until("it says so again", func() bool { return n.heard && n.told.ApplyTo != 0 })
	if !down() {
		t.Error("it runs again")
	}
}

// A server that somebody promoted by hand is stopped, and never called active.
func TestPromotedByHandIsStopped(t *testing.T) {
	o := newOrigin(t, pgtest.Config{})
	w, n := newWarm(t, o)
	n.change(func() { n.follow = true })
	w.start()
	n.until("something applied", func() bool { return n.progress.Applied > 0 })
	w.must("SELECT pg_promote(false)")
	n.until("a finding", func() bool { return strings.Contains(n.finding, "without being told") })
	n.change(func() {
		if n.active {
			t.Error("called active")
		}
	})
	if _, err := w.sql("SELECT 1"); err == nil {
		t.Error("it still runs")
	}
}
