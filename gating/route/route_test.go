package route

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo serves until the test ends: each connection gets the server's name and
// then its own bytes back.
func echo(t *testing.T, name string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	done := make(chan struct{})
	go func() { // ends when the listener is closed by the cleanup below
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns = append(conns, c)
			go func() { // ends with its connection
				_, _ = io.WriteString(c, name+"\n")
				_, _ = io.Copy(c, c)
				_ = c.(*net.TCPConn).CloseWrite()
			}()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
		for _, c := range conns {
			_ = c.Close()
		}
	})
	return l.Addr().String()
}

func run(t *testing.T, dir string, limit int) (p *Proxy, addr string, stop func()) {
	t.Helper()
	cfg := Config{
		Gates: []string{"x:1"}, Dir: dir, Services: []ServiceConfig{{Name: "ledger", Listen: []string{"127.0.0.1:0"}}}, ConnsMax: limit,
	}.SetDefaults()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	p = New(vfs.OS(), slog.New(slog.DiscardHandler), prometheus.NewRegistry(), nil, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }() // owned by stop
	select {
	case <-p.Ready():
	case err := <-done:
		t.Fatalf("run: %v", err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
	t.Cleanup(stop)
	return p, p.Addrs("ledger")[0].String(), stop
}

// talk opens a connection and returns it with the greeting it got, "" if none.
func talk(t *testing.T, addr string) (net.Conn, string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if errors.Is(err, syscall.ECONNRESET) {
		return nil, "" // turned away before the dial could return
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, line(c)
}

func line(c net.Conn) string {
	var b strings.Builder
	one := make([]byte, 1)
	for {
		if n, err := c.Read(one); err != nil || n == 1 && one[0] == '\n' {
			return b.String()
		}
		b.Write(one)
	}
}

func target(epoch tidegate.Epoch, endpoints ...string) Target {
	return Target{Service: "ledger", Epoch: epoch, Site: "east", Endpoints: endpoints, Since: time.Unix(1, 0).UTC()}
}

func TestProxyCutsLowerEpochsAndNeverGoesBack(t *testing.T) {
	dir := t.TempDir()
	old, next := echo(t, "old"), echo(t, "next")
	p, addr, stop := run(t, dir, 0)
	if _, got := talk(t, addr); got != "" {
		t.Fatalf("a client got %q before any route was known", got)
	}
	if err := p.Apply(target(3, "127.0.0.1:1", old)); err != nil {
		t.Fatal(err)
	}
	c, got := talk(t, addr)
	if got != "old" {
		t.Fatalf("greeting %q: the second endpoint should have answered", got)
	}
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if got := line(c); got != "hello" {
		t.Fatalf("echo %q", got)
	}
	if err := p.Apply(target(4, next)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("connection of epoch 3 after epoch 4: %v, want a reset", err)
	}
	if _, got := talk(t, addr); got != "next" {
		t.Fatalf("greeting %q", got)
	}
	if err := p.Apply(target(3, old)); !errors.Is(err, tidegate.ErrFenced) {
		t.Fatalf("going back: %v", err)
	}
	if a := p.Applied()[0]; a.Epoch != 4 || a.CutTotal != 1 || a.Endpoint != next {
		t.Fatalf("applied %+v", a)
	}
	stop()
	p, addr, _ = run(t, dir, 0)
	if err := p.Apply(target(3, old)); !errors.Is(err, tidegate.ErrFenced) {
		t.Fatalf("going back after a restart: %v", err)
	}
	if _, got := talk(t, addr); got != "next" {
		t.Fatalf("greeting %q: the last route should have been kept", got)
	}
}

func TestProxyHalfCloseAndLimit(t *testing.T) {
	p, addr, _ := run(t, t.TempDir(), 1)
	if err := p.Apply(target(1, echo(t, "a"))); err != nil {
		t.Fatal(err)
	}
	c, _ := talk(t, addr)
	if _, got := talk(t, addr); got != "" {
		t.Fatalf("a second connection got %q, the limit is 1", got)
	}
	if _, err := io.WriteString(c, "last words"); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(c)
	if err != nil || string(rest) != "last words" {
		t.Fatalf("after half a close: %q, %v", rest, err)
	}
}

func TestProxyStopsWhenTheTargetCannotBeKept(t *testing.T) {
	fsys := vfs.Inject(vfs.OS(), vfs.KindIs(vfs.OpSync, func(vfs.Op) error { return syscall.EIO }))
	cfg := Config{Dir: t.TempDir(), Services: []ServiceConfig{{Name: "ledger"}}}.SetDefaults()
	p := New(fsys, slog.New(slog.DiscardHandler), prometheus.NewRegistry(), nil, cfg)
	if err := p.Apply(target(1, "h:1")); !errors.Is(err, syscall.EIO) {
		t.Fatalf("apply: %v", err)
	}
	if got := p.Applied()[0].Epoch; got != 0 {
		t.Fatalf("epoch %s was applied without being durable", got)
	}
}

func TestExecHookThatHangsIsKilledWithItsChildren(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	hook := NewExec(ExecConfig{
		Command:  []string{"/bin/sh", "-c", "echo working for $TIDEGATE_SERVICE/$TIDEGATE_EPOCH; sleep 600 & echo $! > " + pidFile + "; wait"},
		Deadline: 500 * time.Millisecond,
	})
	err := hook.Switch(t.Context(), target(7, "h:1"))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "working for ledger/7") {
		t.Fatalf("hook: %v", err)
	}
	b, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	// SIGKILL is on its way to the child: it is gone, or a zombie that init reaps, soon.
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 400 {
		stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		<-tick.C
	}
	t.Fatalf("child %d outlived the hook", pid)
}

func TestExecHookGetsTheTarget(t *testing.T) {
	hook := NewExec(ExecConfig{Command: []string{"/bin/sh", "-c", `grep -q '"epoch":"7"' && test "$TIDEGATE_ENDPOINTS" = "h:1 h:2"`}, Deadline: 10 * time.Second})
	if err := hook.Switch(t.Context(), target(7, "h:1", "h:2")); err != nil {
		t.Fatal(err)
	}
}

func TestFileDriver(t *testing.T) {
	mem := vfs.NewMem()
	if err := NewFile(mem, FileConfig{Dir: "/r"}).Switch(t.Context(), target(7, "h:1")); err != nil {
		t.Fatal(err)
	}
	f, err := mem.CrashClone(1).Open("/r/ledger.json")
	if err != nil {
		t.Fatalf("the file did not survive a power cut: %v", err)
	}
	b, err := io.ReadAll(f)
	if err != nil || !strings.Contains(string(b), `"epoch": "7"`) {
		t.Fatalf("%s, %v", b, err)
	}
}

func TestConfigNamesEveryMistake(t *testing.T) {
	err := errors.Join(
		Config{Gates: []string{"nohost"}, Services: []ServiceConfig{{Name: "A"}, {Name: "A", Listen: []string{"x"}}}, ConnsMax: -1}.Validate(),
		DriverConfig{Exec: ExecConfig{Command: []string{"rel"}, Deadline: -1}, File: FileConfig{Dir: "rel"}}.Validate())
	for _, path := range []string{
		"gates[0]", "dir", "services[0].name", "services[0].listen", "services[1].name", "services[1].listen[0]",
		"connections_max", "dial_timeout", "report_period", "exec.command[0]", "exec.deadline", "file.dir",
	} {
		if !strings.Contains(err.Error(), path+": ") {
			t.Errorf("%s is not named in:\n%v", path, err)
		}
	}
}
