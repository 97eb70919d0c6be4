package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
)

// StopWithin bounds an orderly stop; the unit files give a little more before
// systemd kills. A stop that takes longer hangs on a disk.
const StopWithin = 20 * time.Second

// Part is one component of a role.
type Part struct {
	Name string
	// Run blocks until ctx ends, returns nil then, and has stopped all it started.
	Run func(ctx context.Context) error
	// Ready is closed when the part serves; nil when it serves at once.
	Ready <-chan struct{}
}

// Serve runs the parts side by side until ctx ends or one of them fails; the
// others are stopped then. It tells systemd, if that is the parent, when all
// parts are ready and when they stop.
func Serve(ctx context.Context, log *slog.Logger, role string, parts ...Part) error {
	log.Info("starting", "role", role)
	var mu sync.Mutex
	running := map[string]bool{}
	for _, p := range parts {
		running[p.Name] = true
	}
	group, groupCtx := errgroup.WithContext(ctx)
	for _, p := range parts {
		group.Go(func() error {
			err := p.Run(groupCtx)
			mu.Lock()
			delete(running, p.Name)
			mu.Unlock()
			if err == nil && ctx.Err() == nil && groupCtx.Err() == nil {
				err = errors.New("ended by itself")
			}
			if err != nil {
				return fmt.Errorf("%s: %w", p.Name, err)
			}
			return nil
		})
	}
	done := make(chan error, 1)
	// owned by Serve; ends with the last part, or with the process if that hangs
	go func() { done <- group.Wait() }()

	if ready(groupCtx, parts) {
		log.Info("ready", "role", role)
		notify(log, daemon.SdNotifyReady)
	}
	<-groupCtx.Done()
	notify(log, daemon.SdNotifyStopping)
	log.Info("stopping", "role", role)
	select {
	case err := <-done:
		log.Info("stopped", "role", role)
		return err
	case <-time.After(StopWithin):
		mu.Lock()
		defer mu.Unlock()
		var names []string
		for name := range running {
			names = append(names, name)
		}
		slices.Sort(names)
		return &tidegate.Error{
			Op: "stop", Subject: role, Class: tidegate.Permanent,
			Hint: "look for a disk or a network file system that does not answer",
			Err:  fmt.Errorf("%s still running after %s", strings.Join(names, ", "), StopWithin),
		}
	}
}

// ready waits for all parts; false when ctx ended first.
func ready(ctx context.Context, parts []Part) bool {
	for _, p := range parts {
		if p.Ready == nil {
			continue
		}
		select {
		case <-p.Ready:
		case <-ctx.Done():
			return false
		}
	}
	return ctx.Err() == nil
}

// notify tells systemd; without systemd there is nobody to tell.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd was not told", "err", err)
	}
}

// Logger writes to w: text on a terminal, JSON lines elsewhere.
func Logger(w io.Writer, level slog.Level) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if f, ok := w.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			return slog.New(slog.NewTextHandler(w, opts))
		}
	}
	return slog.New(slog.NewJSONHandler(w, opts))
}

// Registry is a process's own registry, with the runtime's metrics.
func Registry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// Metrics serves reg at /metrics on addr. An empty addr serves nothing.
func Metrics(addr string, reg *prometheus.Registry) Part {
	ready := make(chan struct{})
	run := func(ctx context.Context) error {
		if addr == "" {
			close(ready)
			<-ctx.Done()
			return nil
		}
		var lc net.ListenConfig
		ln, err := lc.Listen(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
		server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
		stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // scrapes may be cut off
		defer stop()
		close(ready)
		if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
	return Part{Name: "metrics", Run: run, Ready: ready}
}
