package gating

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/gating/route"
)

// routes sends clients to where the writer is: on record first, then by the
// drivers, then by waiting for the proxies that must follow.
type routes struct {
	log     *slog.Logger
	store   *registry.Store
	world   *world
	drivers []route.Driver
	timeout time.Duration
	now     func() time.Time
}

// to switches a service's route. It may be repeated; it returns nil when every
// driver and every configured proxy has applied it.
func (r *routes) to(ctx context.Context, lead *registry.Leadership, s tidegate.ServiceName, h fence.Holder, e tidegate.Epoch, endpoint string) error {
	v, _, _ := r.world.current()
	svc, ok := v.Services[s]
	if !ok {
		return notFound("switch route", string(s), "add the service")
	}
	endpoints := r.world.endpointsOf(svc.Value, v.StreamsOf(s), h.Node, h.Site)
	if endpoint != "" {
		endpoints = unique([]string{endpoint}, endpoints)
	}
	if len(endpoints) == 0 {
		return &tidegate.Error{
			Op: "switch route", Subject: string(s), Class: tidegate.Transient,
			Err:  fmt.Errorf("nobody has told where the service answers at %s", h.Site),
			Hint: "the active service reports it through its agent; or configure the service's endpoints for the site",
		}
	}
	target := registry.Route{Service: s, Epoch: e, Site: h.Site, Endpoints: endpoints, Since: r.now()}
	target, err := r.record(ctx, lead, target)
	if err != nil {
		return err
	}
	t := route.Target{Service: s, Epoch: target.Epoch, Site: target.Site, Endpoints: target.Endpoints, Since: target.Since}
	for _, d := range r.drivers {
		if err := d.Switch(ctx, t); err != nil {
			return err
		}
	}
	return r.applied(ctx, svc.Value, e)
}

// record writes the route unless it is there already; it never goes back.
func (r *routes) record(ctx context.Context, lead *registry.Leadership, want registry.Route) (registry.Route, error) {
	var old registry.Route
	rev, err := r.store.Get(ctx, registry.RouteKey(want.Service), &old)
	if err != nil {
		return want, err
	}
	switch {
	case rev != 0 && old.Epoch > want.Epoch:
		return want, &tidegate.Error{
			Op: "switch route", Subject: string(want.Service), Class: tidegate.Fenced,
			Err: fmt.Errorf("epoch %s is below the recorded %s: %w", want.Epoch, old.Epoch, tidegate.ErrFenced),
		}
	case rev != 0 && old.Epoch == want.Epoch && slices.Equal(old.Endpoints, want.Endpoints):
		return old, nil
	}
	_, err = r.store.Commit(ctx, new(registry.Tx).Leading(lead).Unchanged(registry.RouteKey(want.Service), rev).Put(registry.RouteKey(want.Service), want))
	return want, err
}

// applied waits until every proxy that the service names has applied the epoch.
func (r *routes) applied(ctx context.Context, svc registry.Service, e tidegate.Epoch) error {
	for {
		_, _, changed := r.world.current()
		waiting := r.world.behind(svc, e)
		if len(waiting) == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return &tidegate.Error{
				Op: "switch route", Subject: string(svc.Name), Class: tidegate.Transient, Err: fmt.Errorf("routes %v have not applied epoch %s: %w", waiting, e, ctx.Err()),
				Hint: "see whether `tidegate route` runs and reaches a gate",
			}
		}
	}
}

// behind returns the proxies of a service that have not applied an epoch.
func (w *world) behind(svc registry.Service, e tidegate.Epoch) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, name := range svc.Routes {
		ok := false
		if st := w.routes[name]; st != nil {
			for _, a := range st.report.GetServices() {
				ok = ok || a.GetService() == string(svc.Name) && tidegate.Epoch(a.GetEpoch()) >= e
			}
		}
		if !ok {
			out = append(out, name)
		}
	}
	return out
}

// follow keeps routes in step with acquisitions: when the writer moves within
// its site there is no F8, and endpoints may change at any time.
func (r *routes) follow(ctx context.Context, lead *registry.Leadership, busy func(tidegate.ServiceName) bool) error {
	tick := time.NewTicker(500 * time.Millisecond) // endpoints come with reports, which are no change of the tables
	defer tick.Stop()
	for {
		v, reachable, changed := r.world.current()
		for _, s := range v.ServiceNames() {
			if !reachable || busy(s) {
				continue
			}
			if err := r.keep(ctx, lead, v, s); err != nil && ctx.Err() == nil && !errors.Is(err, tidegate.ErrConflict) {
				r.log.Warn("route not in step", "service", s, "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-tick.C:
		}
	}
}

func (r *routes) keep(ctx context.Context, lead *registry.Leadership, v *registry.View, s tidegate.ServiceName) error {
	holder, epoch, ok := activeHolder(v, s)
	if !ok {
		return nil
	}
	old, had := v.Routes[s]
	endpoints := r.world.endpointsOf(v.Services[s].Value, v.StreamsOf(s), holder.Node, holder.Site)
	same := had && old.Value.Epoch == epoch && slices.Equal(old.Value.Endpoints, endpoints)
	if same || len(endpoints) == 0 || had && old.Value.Epoch > epoch {
		return nil
	}
	// A failover's own switch comes at F8, after the target has applied the log;
	// before that the old route must stay.
	if kind := v.Epochs[v.StreamsOf(s)[0].ID].Value.Kind; moves(kind) && (!had || old.Value.Epoch < epoch) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	return r.to(ctx, lead, s, holder, epoch, "")
}

// activeHolder returns who holds all streams of a service, and the highest epoch.
func activeHolder(v *registry.View, s tidegate.ServiceName) (h fence.Holder, e tidegate.Epoch, ok bool) {
	for i, st := range v.StreamsOf(s) {
		rec := v.Epochs[st.ID].Value
		if rec.State != fence.StateActive || rec.Epoch == 0 || i > 0 && rec.Holder != h {
			return h, 0, false
		}
		h, e, ok = rec.Holder, max(e, rec.Epoch), true
	}
	return h, e, ok
}
