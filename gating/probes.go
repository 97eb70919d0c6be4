package gating

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/probe"
)

// probes are the synthetic clients, one per configured service.
type probes struct {
	all map[tidegate.ServiceName]*trier
}

// trier tries its service through the normal route, again and again, and
// remembers when that was good: t0 and t8 are such moments, if it writes.
type trier struct {
	cfg    ProbeConfig
	log    *slog.Logger
	client probe.Client
	epoch  func() tidegate.Epoch // of the service's route
	now    func() time.Time
	number atomic.Uint64 // of the newest attempt

	mu       sync.Mutex
	good     bool
	began    time.Time // of the newest good attempt
	lastGood time.Time // its end; zero: none yet
	// lastAnswer is when the service answered last, also by a refusal; zero: not yet.
	lastAnswer time.Time
	firstBad   time.Time // end of the first bad one since; zero: none
	latency    time.Duration
	err        error // of the newest bad one; nil while good, and before the first
	changed    chan struct{}
}

// newProbes makes the clients of a gate's file; it does no I/O.
func newProbes(log *slog.Logger, now func() time.Time, gate string, kinds probe.Kinds, world *world, cfgs []ProbeConfig) (*probes, error) {
	p := &probes{all: map[tidegate.ServiceName]*trier{}}
	for _, c := range cfgs {
		kind, ok := kinds[c.Kind]
		if !ok {
			return nil, &tidegate.Error{Op: "make probe of", Subject: c.Service, Class: tidegate.Misuse, Err: fmt.Errorf("kind %q: want one of %s", c.Kind, kinds.Names())}
		}
		client, err := kind(gate, c.Settings)
		if err != nil {
			return nil, &tidegate.Error{Op: "make probe of", Subject: c.Service, Class: tidegate.Misuse, Err: err}
		}
		name := tidegate.ServiceName(c.Service)
		t := &trier{
			cfg: c, log: log.With("service", c.Service), client: client, now: now, changed: make(chan struct{}),
			epoch: func() tidegate.Epoch {
				v, _, _ := world.current()
				return v.Routes[name].Value.Epoch
			},
		}
		t.number.Store(uint64(now().UnixMicro())) // grows over restarts, too
		p.all[name] = t
	}
	return p, nil
}

func (p *probes) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, one := range p.all {
		g.Go(func() error { return one.run(ctx) })
	}
	return g.Wait()
}

// writes reports whether a service has a synthetic client that writes: only such
// a one tells when clients are served.
func (p *probes) writes(s tidegate.ServiceName) bool {
	return p.all[s] != nil && p.all[s].cfg.Level == probe.Write
}

// verifies reports whether a promoted service is written to before its clients are
// sent there.
func (p *probes) verifies(s tidegate.ServiceName) bool { return p.writes(s) && p.all[s].cfg.Verify }

// fault returns the last good write and the first bad one after it, while the
// service is down; zero times otherwise, or when it was never good.
func (p *probes) fault(s tidegate.ServiceName) (lastGood, firstBad time.Time) {
	one := p.all[s]
	if !p.writes(s) {
		return time.Time{}, time.Time{}
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.good || one.lastGood.IsZero() {
		return time.Time{}, time.Time{}
	}
	return one.lastGood, one.firstBad
}

// goodSince waits for a good write that began at or after a moment, and returns its end.
func (p *probes) goodSince(ctx context.Context, s tidegate.ServiceName, since time.Time) (time.Time, bool) {
	one := p.all[s]
	for {
		one.mu.Lock()
		good, began, end, changed := one.good, one.began, one.lastGood, one.changed
		one.mu.Unlock()
		if good && !began.Before(since) {
			return end, true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return time.Time{}, false
		}
	}
}

// verify writes to endpoints past the route, one after the other and again, until
// one of them confirms a write or ctx ends; then it returns why none did.
func (p *probes) verify(ctx context.Context, s tidegate.ServiceName, epoch tidegate.Epoch, endpoints func() []string) error {
	one := p.all[s]
	tick := time.NewTicker(one.cfg.Every)
	defer tick.Stop()
	err := errors.New("nobody has told where the service answers")
	for {
		for _, at := range endpoints() {
			if err = one.once(ctx, probe.Request{Epoch: epoch, At: at}); err == nil {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

func (o *trier) run(ctx context.Context) error {
	tick := time.NewTicker(o.cfg.Every)
	defer tick.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, probesInFlightMax)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		// Attempts may hang while the service is down. The next one goes out all the
		// same: it, not the one that hangs, shows when the service is back.
		select {
		case slots <- struct{}{}:
		default:
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			began := o.now()
			err := o.once(ctx, probe.Request{Epoch: o.epoch(), Heard: func() { o.answered(o.now()) }})
			if ctx.Err() == nil {
				o.result(began, o.now(), err)
			}
		})
	}
}

// probesInFlightMax bounds the attempts of one client that wait for an answer.
const probesInFlightMax = 16

func (o *trier) once(ctx context.Context, r probe.Request) error {
	ctx, cancel := context.WithTimeout(ctx, o.cfg.Timeout)
	defer cancel()
	r.Level, r.Number = o.cfg.Level, o.number.Add(1)
	return o.client.Try(ctx, r)
}

// answered notes that somebody lives where the route leads.
func (o *trier) answered(at time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if at.After(o.lastAnswer) {
		o.lastAnswer = at
	}
}

func (o *trier) result(began, end time.Time, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if began.Before(o.began) {
		return // an older attempt that came back late says nothing about now
	}
	if err != nil {
		if o.good || o.firstBad.IsZero() {
			o.firstBad = end
		}
		if o.good {
			o.log.Warn("synthetic client failed", "level", string(o.cfg.Level), "err", err)
		}
		o.good, o.err = false, err
		return
	}
	if !o.good {
		o.log.Info("synthetic client good", "level", string(o.cfg.Level), "took", end.Sub(began))
	}
	o.good, o.began, o.lastGood, o.firstBad, o.latency, o.err = true, began, end, time.Time{}, end.Sub(began), nil
	close(o.changed)
	o.changed = make(chan struct{})
}
