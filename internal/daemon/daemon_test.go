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
