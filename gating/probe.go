package gating

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
)

// probes are the synthetic clients, one per configured service.
type probes struct {
	all map[tidegate.ServiceName]*probe
}

// probe writes to its service through the normal route, again and again, and
// remembers when that was good: t0 and t8 are such moments.
type probe struct {
	cfg  ProbeConfig
	log  *slog.Logger
	http *http.Client
	now  func() time.Time

	mu       sync.Mutex
	good     bool
	began    time.Time // of the newest good request
	lastGood time.Time // its end; zero: none yet
	// lastAnswer is the end of the newest request that was answered at all, also
	// by a refusal; zero: none yet.
	lastAnswer time.Time
	firstBad   time.Time // end of the first bad one since; zero: none
	latency    time.Duration
	err        string
	changed    chan struct{}
}

func newProbes(log *slog.Logger, now func() time.Time, cfgs []ProbeConfig) *probes {
	p := &probes{all: map[tidegate.ServiceName]*probe{}}
	for _, c := range cfgs {
		p.all[tidegate.ServiceName(c.Service)] = &probe{
			cfg: c, log: log.With("service", c.Service), now: now, changed: make(chan struct{}),
			// Every request is a new client: a kept connection would not notice a switch of the route.
			http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: c.Timeout},
		}
	}
	return p
}

func (p *probes) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, one := range p.all {
		g.Go(func() error { return one.run(ctx) })
	}
	return g.Wait()
}

func (p *probes) has(s tidegate.ServiceName) bool { return p.all[s] != nil }

// fault returns the last good write and the first bad one after it, while the
// service is down; zero times otherwise, or when it was never good.
func (p *probes) fault(s tidegate.ServiceName) (lastGood, firstBad time.Time) {
	one := p.all[s]
	if one == nil {
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

func (o *probe) run(ctx context.Context) error {
	tick := time.NewTicker(o.cfg.Every)
	defer tick.Stop()
	defer o.http.CloseIdleConnections()
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, probesInFlightMax)
	for n := uint64(o.now().UnixMicro()); ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		// Requests may hang while the service is down. The next one goes out all
		// the same: it, not the one that hangs, shows when the service is back.
		select {
		case slots <- struct{}{}:
		default:
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			began := o.now()
			err := o.once(ctx, n)
			if ctx.Err() == nil {
				o.result(began, o.now(), err)
			}
		})
	}
}

// probesInFlightMax bounds the requests of one probe that wait for an answer.
const probesInFlightMax = 16

func (o *probe) once(ctx context.Context, n uint64) error {
	fill := func(s string) string { return strings.ReplaceAll(s, "{n}", strconv.FormatUint(n, 10)) }
	req, err := http.NewRequestWithContext(ctx, o.cfg.Method, fill(o.cfg.URL), strings.NewReader(fill(o.cfg.Body)))
	if err != nil {
		return err
	}
	for k, v := range o.cfg.Headers {
		req.Header.Set(k, fill(v))
	}
	resp, err := o.http.Do(req)
	if err != nil {
		return err
	}
	o.answered(o.now())
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	if cerr := resp.Body.Close(); err == nil {
		err = cerr
	}
	if err == nil && resp.StatusCode != o.cfg.Status {
		err = fmt.Errorf("status %d, want %d", resp.StatusCode, o.cfg.Status)
	}
	return err
}

// answered notes that somebody lives where the route leads.
func (o *probe) answered(at time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if at.After(o.lastAnswer) {
		o.lastAnswer = at
	}
}

func (o *probe) result(began, end time.Time, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		if began.Before(o.began) {
			return // an older request that gave up late says nothing about now
		}
		if o.good || o.firstBad.IsZero() {
			o.firstBad = end
		}
		if o.good {
			o.log.Warn("synthetic write failed", "err", err)
		}
		o.good, o.err = false, err.Error()
		return
	}
	if began.Before(o.began) {
		return
	}
	if !o.good {
		o.log.Info("synthetic write good", "took", end.Sub(began))
	}
	o.good, o.began, o.lastGood, o.firstBad, o.latency, o.err = true, began, end, time.Time{}, end.Sub(began), ""
	close(o.changed)
	o.changed = make(chan struct{})
}
