package walsender

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// closedDir is a directory of our own, short enough for a socket.
func closedDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "walsender-") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func mustNew(t *testing.T, log Log, cfg Config) *Server {
	t.Helper()
	s, err := New(log, vfs.OS(), clock.System(), slog.New(slog.DiscardHandler), cfg, Events{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs s until the returned function is called, which gives Run's error.
func run(t *testing.T, s *Server) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }() // owned by the test; ends when stop is called or the test ends
	select {
	case <-s.Ready():
	case err := <-ended:
		cancel()
		t.Fatalf("run: %v", err)
	}
	return func() error {
		cancel()
		return <-ended
	}
}

func TestConfigValidate(t *testing.T) {
	err := Config{Directory: strings.Repeat("x", 200), SessionsMax: -1, KeepaliveEvery: -1, HandshakeTimeout: -1, CloseTimeout: -1}.SetDefaults().Validate()
	if err == nil {
		t.Fatal("valid")
	}
	for _, want := range []string{"absolute path", "at most 107 bytes (got 214", "sessions_max", "keepalive_every", "handshake_timeout", "close_timeout"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
	if _, err := New(nil, nil, nil, nil, Config{}, Events{}); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("new: %v", err)
	}
}

func TestConnInfo(t *testing.T) {
	c := Config{Directory: `/run/it's`}.SetDefaults()
	parsed, err := pgconn.ParseConfig(c.ConnInfo(`warm "1"`))
	if err != nil {
		t.Fatal(err)
	}
	if parsed.Host != c.Directory || parsed.Port != 5432 || parsed.RuntimeParams["application_name"] != `warm "1"` || parsed.TLSConfig != nil {
		t.Errorf("%+v", parsed)
	}
}

func TestRunOnSocket(t *testing.T) {
	cfg := Config{Directory: closedDir(t), Port: 7}
	log := newMemLog(0x1000000, 0x1000100)
	s := mustNew(t, log, cfg)
	stop := run(t, s)

	conn, err := pgconn.Connect(t.Context(), s.cfg.ConnInfo("x")+" replication=true")
	if err != nil {
		t.Fatal(err)
	}
	results, err := conn.Exec(t.Context(), "IDENTIFY_SYSTEM").ReadAll()
	if err != nil || string(results[0].Rows[0][2]) != "0/1000100" {
		t.Errorf("identify: %v, %v", results, err)
	}

	// Nobody else takes the place, and the first is not disturbed.
	if err := mustNew(t, log, cfg).Run(t.Context()); tidegate.ClassOf(err) != tidegate.Misuse || tidegate.HintOf(err) == "" {
		t.Errorf("second server: %v", err)
	}
	if err := stop(); err != nil {
		t.Errorf("run: %v", err)
	}
	if _, err := conn.Exec(t.Context(), "IDENTIFY_SYSTEM").ReadAll(); err == nil {
		t.Error("served after the end")
	}
	if _, err := os.Lstat(s.cfg.Socket()); !os.IsNotExist(err) {
		t.Errorf("socket: %v", err)
	}
}

func TestListen(t *testing.T) {
	log := newMemLog(0x1000000, 0x1000100)
	t.Run("stale socket", func(t *testing.T) {
		s := mustNew(t, log, Config{Directory: closedDir(t)})
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.cfg.Socket(), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
		if err := run(t, s)(); err != nil {
			t.Error(err)
		}
	})
	t.Run("not a socket", func(t *testing.T) {
		s := mustNew(t, log, Config{Directory: closedDir(t)})
		if err := os.WriteFile(s.cfg.Socket(), []byte("keep me"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "not a socket") {
			t.Errorf("run: %v", err)
		}
		if b, err := os.ReadFile(s.cfg.Socket()); string(b) != "keep me" {
			t.Errorf("%q, %v", b, err)
		}
	})
	t.Run("open directory", func(t *testing.T) {
		dir := closedDir(t)
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := mustNew(t, log, Config{Directory: dir}).Run(t.Context()); tidegate.ClassOf(err) != tidegate.Misuse {
			t.Errorf("run: %v", err)
		}
	})
	t.Run("no directory", func(t *testing.T) {
		if err := mustNew(t, log, Config{Directory: filepath.Join(closedDir(t), "no")}).Run(t.Context()); tidegate.ClassOf(err) != tidegate.Misuse {
			t.Errorf("run: %v", err)
		}
	})
}

// A receiver that does not read does not hold up the end of Run.
func TestRunEndsThoughReceiverIsFrozen(t *testing.T) {
	s := mustNew(t, newMemLog(0x1000000, 0x1000000+64<<20), Config{Directory: closedDir(t), CloseTimeout: 50 * time.Millisecond})
	stop := run(t, s)
	conn, err := pgconn.Connect(t.Context(), s.cfg.ConnInfo("frozen")+" replication=true")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	raw, err := conn.Hijack()
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Conn.Close()
	if _, err := raw.Conn.Write([]byte("Q\x00\x00\x00\x20START_REPLICATION 0/1000000\x00")); err != nil {
		t.Fatal(err)
	}
	until(t, "the socket's buffer to be full", func() bool {
		states := s.Streams()
		return len(states) == 1 && states[0].Sent > 0x1000000
	})
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// A receiver that says goodbye and goes while log is being written to it has left
// in good order: so does a standby's walreceiver at a promotion.
func TestGoodbyeWhileWriting(t *testing.T) {
	ended := make(chan error, 1)
	s, err := New(newMemLog(0x1000000, 0x1000000+64<<20), vfs.OS(), clock.System(), slog.New(slog.DiscardHandler),
		Config{Directory: closedDir(t)}, Events{Ended: func(_ Stream, err error) { ended <- err }})
	if err != nil {
		t.Fatal(err)
	}
	stop := run(t, s)
	conn, err := pgconn.Connect(t.Context(), s.cfg.ConnInfo("standby")+" replication=true")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := conn.Hijack()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Conn.Write([]byte("Q\x00\x00\x00\x20START_REPLICATION 0/1000000\x00")); err != nil {
		t.Fatal(err)
	}
	until(t, "log to be written", func() bool {
		states := s.Streams()
		return len(states) == 1 && states[0].Sent > 0x1000000
	})
	if _, err := raw.Conn.Write([]byte("X\x00\x00\x00\x04")); err != nil {
		t.Fatal(err)
	}
	raw.Conn.Close()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// until polls cond; the test's own deadline bounds it.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(30 * time.Second)
	for !cond() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("waited too long for %s", what)
		}
	}
}
