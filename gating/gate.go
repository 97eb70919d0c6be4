package gating

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/probe"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/pki"
	"github.com/tidegate/tidegate/internal/retry"
	"github.com/tidegate/tidegate/internal/vfs"
)

// Deps are what a gate needs from its surroundings.
type Deps struct {
	FS      vfs.FS
	Clock   clock.Clock
	Log     *slog.Logger
	Metrics *prometheus.Registry // the process's own; also what /metrics serves
	Creds   *pki.Credentials     // cluster, site and name of the gate
	Probes  probe.Kinds          // kinds of synthetic client that the file may name
	// Archive opens the archive that the registry is backed up to; nil for none.
	Archive func(context.Context) (bucket.Bucket, error)
	// DrillReport proves the signature of a drill's report, and reads it; nil: no key is
	// trusted, and no report is taken. May be called concurrently.
	DrillReport func(envelope []byte) (DrillReport, error)
}

// Gate is the controller's process. Run may be called once.
type Gate struct {
	deps  Deps
	cfg   Config
	ready chan struct{}
	addr  net.Addr

	afterSave func(fence.PlanStep, int) // test seam, see parts
}

// New makes a gate; it does no I/O. cfg must be valid.
func New(d Deps, cfg Config) *Gate {
	return &Gate{deps: d, cfg: cfg, ready: make(chan struct{})}
}

// Ready is closed when the gate answers calls. It may not lead yet.
func (g *Gate) Ready() <-chan struct{} { return g.ready }

// Addr returns where the gate listens; valid once Ready is closed.
func (g *Gate) Addr() net.Addr { return g.addr }

// Run serves until ctx ends; nil then. Everything it started has ended when it returns.
func (g *Gate) Run(ctx context.Context) error {
	if err := durable.MkdirAll(g.deps.FS, g.cfg.Dir); err != nil {
		return &tidegate.Error{Op: "run gate", Subject: g.cfg.Dir, Class: tidegate.Permanent, Err: err}
	}
	if !g.cfg.Registry.Embedded() {
		return g.serve(ctx)
	}
	// The embedded member outlives what writes to it: a last record or a
	// resignation would otherwise wait for its timeout.
	mctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	srv := registry.NewServer(g.deps.FS, g.deps.Log, g.cluster(), g.cfg.Registry)
	var member errgroup.Group
	member.Go(func() error {
		defer cancel() // without its registry the gate ends
		return srv.Run(mctx)
	})
	var err error
	select {
	case <-srv.Ready():
		err = g.serve(ctx)
	case <-ctx.Done():
	}
	stop()
	return errors.Join(err, member.Wait())
}

func (g *Gate) cluster() string { return g.deps.Creds.Identity().Cluster }

func (g *Gate) serve(ctx context.Context) (err error) {
	store, err := registry.Open(g.cluster(), g.cfg.Registry)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	p, control, err := g.build(store)
	if err != nil {
		return err
	}
	defer p.standbys.close()
	node := &nodeService{parts: p, control: control}
	op := &operatorService{
		parts: p, control: control, cfg: g.cfg, cluster: g.cluster(),
		certificate: func() time.Duration { return g.deps.Creds.ExpiresIn(g.deps.Clock.Wall()) }, reports: g.deps.DrillReport,
	}
	if err := g.deps.Metrics.Register(&collector{p: p, control: control}); err != nil {
		return err
	}
	srv := newServer(p, g.deps.Creds, g.cfg.Listen, g.deps.Metrics, node, op)
	trusted := make(chan struct{})
	eg, ctx := errgroup.WithContext(ctx)
	eg.Go(func() error { return p.follow(ctx, trusted) })
	eg.Go(func() error { return p.pulse(ctx) })
	eg.Go(func() error { return p.probes.run(ctx) })
	eg.Go(func() error { return p.look.watch(ctx) })
	eg.Go(func() error {
		select {
		case <-trusted:
			return control.run(ctx)
		case <-ctx.Done():
			return nil
		}
	})
	eg.Go(func() error { return srv.run(ctx) })
	eg.Go(func() error {
		select {
		case g.addr = <-srv.addr:
			close(g.ready)
			p.log.Info("gate answers", "addr", g.addr.String())
		case <-ctx.Done():
		}
		return nil
	})
	return eg.Wait()
}

// build wires the gate's parts; it does no I/O.
func (g *Gate) build(store *registry.Store) (parts, *controller, error) {
	t := g.cfg.Timing
	w := newWorld(g.deps.Clock)
	// Stamps of one gate are exact to each other although the wall clock may be
	// set: it is read once, and the boot clock runs on from there.
	wall, boot := g.deps.Clock.Wall(), g.deps.Clock.Boot()
	now := func() time.Time { return wall.Add(time.Duration(g.deps.Clock.Boot() - boot)) }
	probes, err := newProbes(g.deps.Log, now, g.deps.Creds.Identity().Name, g.deps.Probes, w, g.cfg.Probes)
	if err != nil {
		return parts{}, nil, err
	}
	p := parts{
		cluster: g.cluster(), backups: &backups{cfg: g.cfg.Backup, open: g.deps.Archive},
		name: g.deps.Creds.Identity().Name, log: g.deps.Log, fs: g.deps.FS, timing: t, dir: g.cfg.Dir, store: store, world: w,
		standbys: newStandbys(g.deps.Creds, t.Call),
		routes:   &routes{log: g.deps.Log, store: store, world: w, drivers: g.cfg.Route.Drivers(g.deps.FS), timeout: t.Route, now: now},
		probes:   probes, metrics: newMetrics(g.deps.Metrics), forecasts: newForecasts(), back: make(chan struct{}, 1), ids: &entryIDs{}, rehearsals: newRehearsals(), silence: g.cfg.Drills.Silence, survives: g.cfg.Registry.SurvivesSite(), now: now, afterSave: g.afterSave,
	}
	p.look = newLookout(g.deps.Creds.Identity().Site)
	n, err := newNotifier(p, g.cluster(), g.cfg.Notify)
	c := &controller{parts: p, ttl: g.cfg.Registry.LeaderTTL, notifier: n}
	p.look.parts, p.look.control = p, c
	return p, c, err
}

// follow keeps the world's tables as the registry has them. Before the first
// time it asks whether the registry is the one this gate knew; trusted is closed
// when the answer is on record.
func (p parts) follow(ctx context.Context, trusted chan<- struct{}) error {
	b := retry.Policy{First: 100 * time.Millisecond, Max: 2 * time.Second}.Backoff()
	checked, doubt := false, ""
	for ctx.Err() == nil {
		v, err := p.store.Read(ctx)
		if err == nil && !checked {
			if err = p.suspicion(ctx, v); err == nil {
				checked = true
				close(trusted)
				continue // with tables that show it
			}
		}
		if err == nil {
			v, err = p.checkBack(ctx, v, &doubt)
		}
		if err == nil {
			b.Reset()
			p.world.setView(v)
			err = p.followFrom(ctx, v.Revision)
		}
		if ctx.Err() != nil {
			break
		}
		if err == nil {
			continue // a pulse saw it go back: look again
		}
		if tidegate.ClassOf(err) == tidegate.Corrupt {
			return err // records of another version: nothing may be decided on them
		}
		p.world.setUnreachable()
		p.log.Warn("registry lost, the last view stays", "err", err)
		if b.Wait(ctx) != nil {
			break
		}
	}
	return nil
}

// followFrom follows the tables until the registry stops answering, or a pulse
// finds that it has gone back. A watch of a registry that was put back from a
// backup meanwhile would be silent until it has caught up with the past.
func (p parts) followFrom(ctx context.Context, after int64) error {
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	watch.Go(func() {
		select {
		case <-p.back:
			cancel()
		case <-ctx.Done():
		}
	})
	return p.store.Follow(ctx, after, p.world.setView)
}

// suspicion distrusts every record of a registry that may have been restored.
func (p parts) suspicion(ctx context.Context, v *registry.View) error {
	why, err := p.store.Suspect(ctx, p.fs, p.dir)
	if err != nil {
		return err
	}
	if why != "" {
		if err := p.distrustAll(ctx, v, why); err != nil {
			return err
		}
	}
	return p.store.SaveMark(ctx, p.fs, p.dir)
}

func (p parts) distrustAll(ctx context.Context, v *registry.View, why string) error {
	p.log.Error("the registry may have been restored from a backup; no zero-loss claim until live writers re-arm", "why", why)
	for _, e := range v.Epochs {
		if e.Value.Restored {
			continue
		}
		if err := p.distrust(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// checkBack recognises a registry that went back in time under a running gate.
// A reading that merely came late is told apart by a second one. doubt remembers
// why until every record has been distrusted: the writes of a first try that
// failed on the way may have brought the revision up again.
func (p parts) checkBack(ctx context.Context, v *registry.View, doubt *string) (*registry.View, error) {
	seen, _, _ := p.world.current()
	if *doubt == "" {
		if v.Revision >= seen.Revision {
			return v, nil
		}
		again, err := p.store.Read(ctx)
		if err != nil || again.Revision >= seen.Revision {
			return again, err
		}
		v, *doubt = again, fmt.Sprintf("the registry is at revision %d, this gate has seen %d", again.Revision, seen.Revision)
	}
	if err := p.distrustAll(ctx, v, *doubt); err != nil {
		return v, err
	}
	v, err := p.store.Read(ctx)
	if err != nil {
		return v, err
	}
	*doubt = ""
	p.world.forget()
	return v, p.store.SaveMark(ctx, p.fs, p.dir)
}

// pulsePeriod is how soon an outage of the registry shows, besides its timeout:
// a watch of a dead registry is silent.
const pulsePeriod = time.Second

func (p parts) pulse(ctx context.Context) error {
	tick := time.NewTicker(pulsePeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		v, err := p.store.Read(ctx)
		if err == nil {
			var who string
			if who, err = p.store.Leader(ctx); err == nil {
				p.world.setLeader(who)
			}
		}
		switch {
		case err == nil && v.Revision > 0 && p.world.known():
			if seen, _, _ := p.world.current(); v.Revision < seen.Revision {
				select {
				case p.back <- struct{}{}: // follow looks twice before it believes it
				default:
				}
				continue
			}
			p.world.setPulse(v)
			// Each second, because each second counts: what was recorded since the
			// mark, a degradation say, would be forgotten unnoticed with a backup
			// that is newer than the mark.
			if err := p.store.SaveMark(ctx, p.fs, p.dir); err != nil && ctx.Err() == nil {
				p.log.Warn("registry mark not saved", "err", err)
			}
			if err := p.refreshForecasts(ctx, v); err != nil && ctx.Err() == nil {
				p.log.Warn("past failovers not read, predictions stay as they are", "err", err)
			}
		case err != nil && ctx.Err() == nil:
			p.world.setUnreachable()
		}
	}
}
