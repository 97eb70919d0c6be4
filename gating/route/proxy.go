package route

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
)

// Proxy is the TCP proxy. Run may be called once.
type Proxy struct {
	fs       vfs.FS
	log      *slog.Logger
	follower *Follower
	cfg      Config
	metrics  *metrics
	services map[tidegate.ServiceName]*service
	ready    chan struct{}
}

// New makes a proxy; it does no I/O. follower may be nil: then targets come by
// [Proxy.Apply] only.
func New(fsys vfs.FS, log *slog.Logger, reg prometheus.Registerer, follower *Follower, cfg Config) *Proxy {
	p := &Proxy{
		fs: fsys, log: log, follower: follower, cfg: cfg, metrics: newMetrics(reg),
		services: map[tidegate.ServiceName]*service{}, ready: make(chan struct{}),
	}
	for _, s := range cfg.Services {
		name := tidegate.ServiceName(s.Name)
		p.services[name] = &service{
			name: name, listen: s.Listen, limit: cfg.ConnsMax, dialer: net.Dialer{Timeout: cfg.DialTimeout},
			log: log.With("service", s.Name), metrics: p.metrics, conns: map[*conn]struct{}{},
		}
	}
	return p
}

// Ready is closed when all listeners are open.
func (p *Proxy) Ready() <-chan struct{} { return p.ready }

// Addrs returns where a service's clients are taken; valid once Ready is closed.
func (p *Proxy) Addrs(s tidegate.ServiceName) []net.Addr {
	var out []net.Addr
	if svc := p.services[s]; svc != nil {
		for _, l := range svc.listeners {
			out = append(out, l.Addr())
		}
	}
	return out
}

// Run takes clients and follows the gate until ctx ends; nil then. All
// connections are cut when it returns.
func (p *Proxy) Run(ctx context.Context) error {
	if err := durable.MkdirAll(p.fs, p.cfg.Dir); err != nil {
		return fmt.Errorf("run route: %w", err)
	}
	if err := durable.SweepTemp(p.fs, p.cfg.Dir); err != nil {
		return fmt.Errorf("run route: %w", err)
	}
	for _, s := range p.services {
		if err := p.load(s); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range p.services {
		if err := s.open(); err != nil {
			p.closeAll()
			return err
		}
	}
	close(p.ready)
	for _, s := range p.services {
		for _, l := range s.listeners {
			g.Go(func() error { return s.serve(ctx, l) })
		}
	}
	g.Go(func() error {
		<-ctx.Done()
		p.closeAll()
		return nil
	})
	if p.follower != nil {
		g.Go(func() error { return p.follower.run(ctx, p) })
	}
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (p *Proxy) closeAll() {
	for _, s := range p.services {
		for _, l := range s.listeners {
			_ = l.Close() // only ends Accept; nothing was written
		}
		s.cut(func(*conn) bool { return true })
	}
}

// Apply puts a target into effect: durable first, then for new connections,
// then by cutting those of lower epochs. A lower epoch than the one applied is
// refused with [tidegate.ErrFenced]. A service that is not configured is ignored.
func (p *Proxy) Apply(t Target) error {
	s := p.services[t.Service]
	if s == nil {
		return nil
	}
	if err := t.Validate(); err != nil {
		return &tidegate.Error{Op: "apply route", Subject: string(t.Service), Class: tidegate.Misuse, Err: err}
	}
	s.applying.Lock()
	defer s.applying.Unlock()
	old := s.current()
	if t.Epoch < old.Epoch {
		p.metrics.refused.WithLabelValues(string(t.Service)).Inc()
		return &tidegate.Error{
			Op: "apply route", Subject: string(t.Service), Class: tidegate.Fenced,
			Err: fmt.Errorf("epoch %s is below the applied %s: %w", t.Epoch, old.Epoch, tidegate.ErrFenced),
		}
	}
	if equal(old, t) {
		return nil
	}
	if err := writeTarget(p.fs, p.cfg.Dir, t); err != nil {
		return fmt.Errorf("apply route %s: %w", t.Service, err)
	}
	s.set(t)
	n := s.cut(func(c *conn) bool { return c.epoch < t.Epoch })
	p.metrics.epoch.WithLabelValues(string(t.Service)).Set(float64(t.Epoch))
	if t.Epoch > old.Epoch {
		s.log.Info("route switched", "epoch", t.Epoch, "site", t.Site, "endpoints", t.Endpoints, "cut", n)
	}
	return nil
}

func equal(a, b Target) bool {
	if a.Epoch != b.Epoch || len(a.Endpoints) != len(b.Endpoints) {
		return false
	}
	for i := range a.Endpoints {
		if a.Endpoints[i] != b.Endpoints[i] {
			return false
		}
	}
	return true
}

// load reads the target that was applied before a restart.
func (p *Proxy) load(s *service) error {
	path := filepath.Join(p.cfg.Dir, string(s.name)+".json")
	f, err := p.fs.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("load route %s: %w", s.name, err)
	}
	b, err := io.ReadAll(io.LimitReader(f, 1<<16))
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("load route %s: %w", s.name, err)
	}
	var t Target
	if err = json.Unmarshal(b, &t); err == nil {
		err = t.Validate()
	}
	if err != nil {
		return &tidegate.CorruptError{Path: path, Offset: -1, What: err.Error()}
	}
	s.set(t)
	p.metrics.epoch.WithLabelValues(string(s.name)).Set(float64(t.Epoch))
	return nil
}

// Applied is what the proxy does now for one service.
type Applied struct {
	Target
	Endpoint    string // of the newest connection; empty when none was made
	Connections int
	CutTotal    uint64
}

// Applied returns what is in effect, in no particular order.
func (p *Proxy) Applied() []Applied {
	out := make([]Applied, 0, len(p.services))
	for _, s := range p.services {
		out = append(out, s.applied())
	}
	return out
}

// service is one service's clients.
type service struct {
	name    tidegate.ServiceName
	listen  []string
	limit   int
	dialer  net.Dialer
	log     *slog.Logger
	metrics *metrics

	listeners []net.Listener // set by open, before anybody reads them
	applying  sync.Mutex     // one Apply at a time; held over the write of the target

	mu       sync.Mutex // guards what follows; never held over I/O
	target   Target
	conns    map[*conn]struct{}
	endpoint string
	cutTotal uint64
}

func (s *service) open() error {
	for _, addr := range s.listen {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return &tidegate.Error{Op: "listen for", Subject: string(s.name), Class: tidegate.Misuse, Err: err}
		}
		s.listeners = append(s.listeners, l)
	}
	return nil
}

func (s *service) current() Target {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.target
}

func (s *service) set(t Target) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.target = t
}

func (s *service) applied() Applied {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Applied{Target: s.target, Endpoint: s.endpoint, Connections: len(s.conns), CutTotal: s.cutTotal}
}

// cut resets the connections that match and returns how many.
func (s *service) cut(match func(*conn) bool) int {
	s.mu.Lock()
	var hit []*conn
	for c := range s.conns {
		if match(c) {
			hit = append(hit, c)
		}
	}
	s.cutTotal += uint64(len(hit))
	s.mu.Unlock()
	for _, c := range hit {
		c.reset()
	}
	s.metrics.cut.WithLabelValues(string(s.name)).Add(float64(len(hit)))
	return len(hit)
}
