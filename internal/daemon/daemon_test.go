package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func untilDone(ctx context.Context) error { <-ctx.Done(); return nil }

func TestServeTellsSystemd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	heard := func() string {
		buf := make([]byte, 100)
		n, err := socket.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	ctx, cancel := context.WithCancel(t.Context())
	open := make(chan struct{})
	result := make(chan error, 1)
	go func() { result <- Serve(ctx, quiet(), "test", Part{Name: "a", Run: untilDone, Ready: open}) }()
	close(open)
	if got := heard(); got != "READY=1" {
		t.Errorf("systemd heard %q", got)
	}
	cancel()
	if got := heard(); got != "STOPPING=1" {
		t.Errorf("systemd heard %q", got)
	}
	if err := <-result; err != nil {
		t.Error(err)
	}
}

func TestServeStopsTheOthersWhenOneFails(t *testing.T) {
	cause := errors.New("no disk")
	err := Serve(t.Context(), quiet(), "test",
		Part{Name: "a", Run: untilDone},
		Part{Name: "b", Run: func(context.Context) error { return cause }})
	if !errors.Is(err, cause) || !strings.HasPrefix(err.Error(), "b: ") {
		t.Errorf("got %v", err)
	}
}

func TestServeReportsAPartThatEndsByItself(t *testing.T) {
	err := Serve(t.Context(), quiet(), "test", Part{Name: "a", Run: func(context.Context) error { return nil }})
	if err == nil || err.Error() != "a: ended by itself" {
		t.Errorf("got %v", err)
	}
}

func TestServeNamesThePartThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		release := make(chan struct{})
		result := make(chan error, 1)
		go func() {
			result <- Serve(ctx, quiet(), "test", Part{Name: "good", Run: untilDone},
				Part{Name: "disk", Run: func(context.Context) error { <-release; return nil }})
		}()
		start := time.Now()
		cancel()
		err := <-result
		if err == nil || !strings.Contains(err.Error(), "disk still running after 20s") || strings.Contains(err.Error(), "good") {
			t.Errorf("got %v", err)
		}
		if took := time.Since(start); took != StopWithin {
			t.Errorf("took %s", took)
		}
		close(release)
	})
}

// logged is a part that writes down when it starts and stops, and is ready at once.
func logged(name string, lines chan<- string) Part {
	up := make(chan struct{})
	return Part{Name: name, Ready: up, Run: func(ctx context.Context) error {
		lines <- "start " + name
		close(up)
		<-ctx.Done()
		lines <- "stop " + name
		return nil
	}}
}

func drained(lines chan string) []string {
	close(lines)
	var all []string
	for l := range lines {
		all = append(all, l)
	}
	return all
}

func TestServeStackedStopsInReverse(t *testing.T) {
	lines := make(chan string, 10)
	ctx, cancel := context.WithCancel(t.Context())
	up := make(chan struct{})
	last := Part{Name: "c", Ready: up, Run: func(ctx context.Context) error { close(up); <-ctx.Done(); lines <- "stop c"; return nil }}
	result := make(chan error, 1)
	go func() {
		result <- ServeStacked(ctx, quiet(), "test", []Part{logged("a", lines)}, []Part{logged("b", lines)}, []Part{last})
	}()
	<-up
	cancel()
	if err := <-result; err != nil {
		t.Error(err)
	}
	if got := strings.Join(drained(lines), ", "); got != "start a, start b, stop c, stop b, stop a" {
		t.Errorf("got %s", got)
	}
}

func TestServeStackedStartsNothingOnWhatFailed(t *testing.T) {
	lines := make(chan string, 10)
	cause := errors.New("port in use")
	never := make(chan struct{})
	b := Part{Name: "b", Ready: never, Run: func(context.Context) error { return cause }}
	err := ServeStacked(t.Context(), quiet(), "test", []Part{logged("a", lines)}, []Part{b}, []Part{logged("c", lines)})
	if !errors.Is(err, cause) || err.Error() != "b: port in use" {
		t.Errorf("got %v", err)
	}
	if got := strings.Join(drained(lines), ", "); got != "start a, stop a" {
		t.Errorf("got %s", got)
	}
}

func TestServeStackedStopsTheOthersWhenTheLowestFails(t *testing.T) {
	lines := make(chan string, 10)
	up := make(chan struct{})
	cause := errors.New("no disk")
	on := make(chan struct{})
	a := Part{Name: "a", Ready: up, Run: func(context.Context) error { close(up); <-on; return cause }}
	b := Part{Name: "b", Run: func(ctx context.Context) error { close(on); <-ctx.Done(); lines <- "stop b"; return nil }}
	err := ServeStacked(t.Context(), quiet(), "test", []Part{a}, []Part{b})
	if !errors.Is(err, cause) || strings.Join(drained(lines), ", ") != "stop b" {
		t.Errorf("got %v", err)
	}
}

func TestMetricsServesTheRegistry(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	ctx, cancel := context.WithCancel(t.Context())
	part := Metrics(addr, Registry())
	result := make(chan error, 1)
	go func() { result <- part.Run(ctx) }()
	<-part.Ready
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || !bytes.Contains(body, []byte("go_goroutines")) {
		t.Errorf("got %q, %v", body, err)
	}
	cancel()
	if err := <-result; err != nil {
		t.Error(err)
	}
}

func TestLoggerWritesJSONWhenNobodyLooks(t *testing.T) {
	var b bytes.Buffer
	Logger(&b, slog.LevelInfo).Info("x", "k", 1)
	if !strings.HasPrefix(b.String(), "{") || !strings.Contains(b.String(), `"k":1`) {
		t.Errorf("got %q", b.String())
	}
}
