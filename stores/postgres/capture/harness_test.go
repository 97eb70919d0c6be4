package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// site is a server, its connector, and what an agent would tell that.
type site struct {
	t     *testing.T
	pg    *pgtest.Server
	c     *Capture
	agent *fakeAgent
	stop  func()
	// unregistered: the agent has not heard of the stream by a gate.
	unregistered bool

	kept   time.Duration                                // Config.FeedbackKept
	free   func(string) (free, total uint64, err error) // of the disk of pg_wal; nil is the machine's
	memory string
}

// newSite starts all three; the agent holds epoch 1 and has granted nothing.
func newSite(t *testing.T, cfg pgtest.Config, change func(*Settings)) *site {
	t.Helper()
	return withServer(t, pgtest.New(t, cfg), change)
}

func withServer(t *testing.T, pg *pgtest.Server, change func(*Settings)) *site {
	t.Helper()
	s := &site{t: t, pg: pg, agent: startAgent(t)}
	s.connect(change)
	return s
}

// connect starts a connector, in place of the one that runs, if any.
func (s *site) connect(change func(*Settings)) {
	s.t.Helper()
	if s.stop != nil {
		s.stop()
	}
	if s.memory == "" {
		s.memory = filepath.Join(s.t.TempDir(), "given-up", "shop_main.json")
	}
	cfg := Config{
		Memory:   s.memory,
		Settings: Settings{Conn: s.pg.Conn(), Slot: "tidegate"}, GuardEvery: 50 * time.Millisecond, Free: s.free, FeedbackKept: s.kept,
		Service: "shop", Stream: "main", Socket: s.agent.path, Endpoint: "10.0.0.1:5432",
		Clock: clock.System(), Log: slog.New(slog.NewTextHandler(testWriter{s.t}, nil)), ProgressEvery: 20 * time.Millisecond,
	}
	if change != nil {
		change(&cfg.Settings)
	}
	c, err := New(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	if !s.unregistered {
		c.Wanted(true)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { // ends in stop
		defer close(done)
		if err := c.Run(ctx); err != nil {
			s.t.Errorf("run: %v", err)
		}
	}()
	s.c, s.stop = c, sync.OnceFunc(func() { cancel(); <-done })
	s.t.Cleanup(s.stop)
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// until waits for the connector's status.
func (s *site) until(what string, ok func(Status) bool) Status {
	s.t.Helper()
	var st Status
	pgtest.Until(s.t, what, func(context.Context) error {
		if st = s.c.Status(); !ok(st) {
			return fmt.Errorf("status %+v", st)
		}
		return nil
	})
	return st
}

// active waits until the connector is, and has received all that the server has.
func (s *site) active() Status {
	s.t.Helper()
	s.until("active", func(st Status) bool { return st.Active })
	return s.caughtUp()
}

// caughtUp waits until the head is what the server has now.
func (s *site) caughtUp() Status {
	s.t.Helper()
	end, err := wal.ParseLSN(s.pg.LSN(s.t))
	if err != nil {
		s.t.Fatal(err)
	}
	return s.until("all received", func(st Status) bool { return st.Head >= end })
}

// name makes the server wait for the connector.
func (s *site) name() {
	s.t.Helper()
	s.pg.SQL(s.t, "ALTER SYSTEM SET synchronous_standby_names = 'tidegate'")
	s.pg.SQL(s.t, "SELECT pg_reload_conf()")
	s.pg.UntilSQL(s.t, "SHOW synchronous_standby_names", "tidegate")
	// Commits wait from when the checkpointer has read it, which it does before it answers.
	s.pg.SQL(s.t, "CHECKPOINT")
}

// seen waits until the server was seen to hold commits back, and has the commit that
// showed it covered.
func (s *site) seen(mode tidegate.Mode, b tidegate.Bounds) {
	s.t.Helper()
	s.until("waited for", func(st Status) bool { return !st.Leaks })
	s.grant(s.caughtUp().Head, mode, b)
	s.pg.UntilSQL(s.t, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "0")
}

// commit runs a statement in the background; the channel has its end.
func (s *site) commit(sql string) <-chan error {
	done := make(chan error, 1)
	go func() { // ends with the server, at the latest
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, err := s.pg.Query(ctx, sql)
		done <- err
	}()
	return done
}

// waits checks that a commit is held back by the server.
func (s *site) waits(done <-chan error) {
	s.t.Helper()
	s.pg.UntilSQL(s.t, "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "t")
	select {
	case err := <-done:
		s.t.Fatalf("the commit was not held back: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
}

func (s *site) goes(done <-chan error) {
	s.t.Helper()
	select {
	case err := <-done:
		if err != nil {
			s.t.Fatal(err)
		}
	case <-time.After(patience):
		s.t.Fatalf("the commit is held back: %+v", s.c.Status())
	}
}

// grant tells D and bounds.
func (s *site) grant(d wal.LSN, mode tidegate.Mode, b tidegate.Bounds) {
	s.t.Helper()
	s.tell(d, 0, mode, b)
}

// applied tells D under sync, and how far a warm server is.
func (s *site) applied(d, applied wal.LSN) {
	s.t.Helper()
	s.tell(d, applied, tidegate.ModeSync, tidegate.Bounds{})
}

func (s *site) tell(d, applied wal.LSN, mode tidegate.Mode, b tidegate.Bounds) {
	s.t.Helper()
	eff, err := mode.Bounds(b)
	if err != nil {
		s.t.Fatal(err)
	}
	s.agent.grant(local.DaemonProgress{
		D: d.Position(), DKnown: true, Epoch: 1, Mode: mode, Bounds: eff, Recorded: true, Record: machine.RecordArmed,
		Policy: tidegate.Policy{Reaction: tidegate.ReactBlock}, Applied: applied.Position(),
	})
}

// durable says that everything which was received is.
func (s *site) durable(mode tidegate.Mode, b tidegate.Bounds) wal.LSN {
	s.t.Helper()
	head := s.active().Head
	s.grant(head, mode, b)
	s.until("flush told", func(st Status) bool { return st.Told.Flush >= head })
	return head
}

// fakeAgent is an agent's end of the session.
type fakeAgent struct {
	t    *testing.T
	path string

	mu       sync.Mutex
	conn     *local.Conn
	hello    local.Hello
	progress local.LibraryProgress
	active   *local.Activated
	finding  error // what keeps the connector from its work
	findings local.Findings
	latest   *local.DaemonProgress
	number   uint64
	sessions int
}

func startAgent(t *testing.T) *fakeAgent {
	t.Helper()
	a := &fakeAgent{t: t, path: filepath.Join(t.TempDir(), "agent.sock")}
	ln, err := local.Listen(a.path)
	if err != nil {
		t.Fatal(err)
	}
	var sessions sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	sessions.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			sessions.Go(func() { a.serve(ctx, conn) })
		}
	})
	t.Cleanup(func() {
		cancel()
		if err := ln.Close(); err != nil {
			t.Error(err)
		}
		sessions.Wait()
	})
	return a
}

func (a *fakeAgent) serve(ctx context.Context, conn *local.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer conn.Close()
	hello, err := conn.Serve(ctx, local.Welcome{Daemon: local.DaemonAgent, Node: "n1"}, func(h local.Hello) error { return h.CheckKind(Kind) })
	if err != nil {
		return
	}
	a.mu.Lock()
	a.conn, a.hello, a.active, a.finding, a.findings = conn, hello, nil, nil, local.Findings{}
	a.sessions++
	latest := a.latest
	a.mu.Unlock()
	if conn.Send(&local.Role{State: local.StateActive, Epoch: 1}) != nil || latest != nil && conn.Send(latest) != nil {
		return
	}
	for {
		m, err := conn.Recv()
		if err != nil {
			return
		}
		a.mu.Lock()
		switch m := m.(type) {
		case *local.LibraryProgress:
			a.progress = *m
		case *local.Activated:
			a.active = m
		case *local.Deactivated:
			a.active = nil
		case *local.Finding:
			a.findings.Note(m)
			a.finding = a.findings.Work()
		}
		a.mu.Unlock()
	}
}

func (a *fakeAgent) grant(m local.DaemonProgress) {
	a.mu.Lock()
	a.number++
	m.Grant = a.number
	a.latest = &m
	conn := a.conn
	a.mu.Unlock()
	if conn != nil {
		_ = conn.Send(&m) // a lost session is told anew
	}
}

func (a *fakeAgent) role(r local.Role) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.conn.Send(&r); err != nil {
		a.t.Error(err)
	}
}

// until waits for what the connector told.
func (a *fakeAgent) until(what string, ok func(*fakeAgent) bool) {
	a.t.Helper()
	pgtest.Until(a.t, what, func(context.Context) error {
		a.mu.Lock()
		defer a.mu.Unlock()
		if !ok(a) {
			return fmt.Errorf("progress %+v, active %+v, finding %w", a.progress, a.active, errors.Join(a.finding))
		}
		return nil
	})
}
