package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
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
	return ServeStacked(ctx, log, role, parts)
}

// ServeStacked is Serve for parts that stand on each other: the parts of a
// level run side by side, are started when those of the level before are ready,
// and are stopped when those of the levels after have ended.
func ServeStacked(ctx context.Context, log *slog.Logger, role string, levels ...[]Part) error {
	log.Info("starting", "role", role)
	ctx, fail := context.WithCancel(ctx)
	defer fail()
	var mu sync.Mutex
	running := map[string]bool{}
	one := func(ctx context.Context, p Part) error {
		mu.Lock()
		running[p.Name] = true
		mu.Unlock()
		err := p.Run(ctx)
		mu.Lock()
		delete(running, p.Name)
		mu.Unlock()
		log.Debug("part ended", "role", role, "part", p.Name)
		if err == nil && ctx.Err() == nil {
			err = errors.New("ended by itself")
		}
		if err == nil {
			return nil
		}
		fail()
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	done := make(chan error, 1)
	// owned by serve; ends with the last part, or with the process if that hangs
	go func() { done <- stacked(ctx, levels, one) }()

	if ready(ctx, slices.Concat(levels...)) {
		log.Info("ready", "role", role)
		notify(log, daemon.SdNotifyReady)
	}
	<-ctx.Done()
	notify(log, daemon.SdNotifyStopping)
	log.Info("stopping", "role", role)
	select {
	case err := <-done:
		log.Info("stopped", "role", role)
		return err
	case <-time.After(StopWithin):
		mu.Lock()
		defer mu.Unlock()
		return &tidegate.Error{
			Op: "stop", Subject: role, Class: tidegate.Permanent,
			Hint: "look for a disk or a network file system that does not answer",
			Err:  fmt.Errorf("%s still running after %s", strings.Join(slices.Sorted(maps.Keys(running)), ", "), StopWithin),
		}
	}
}

// stacked runs the lowest level, and the others on top of it once it is ready. A
// part does not see ctx end: it ends after what stands on it.
func stacked(ctx context.Context, levels [][]Part, run func(ctx context.Context, p Part) error) error {
	if len(levels) == 0 {
		<-ctx.Done()
		return nil
	}
	own, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var lowest errgroup.Group
	for _, p := range levels[0] {
		lowest.Go(func() error { return run(own, p) })
	}
	var above error
	if ready(ctx, levels[0]) {
		above = stacked(ctx, levels[1:], run)
	}
	stop()
	return errors.Join(above, lowest.Wait())
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
