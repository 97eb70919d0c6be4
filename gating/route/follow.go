package route

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/internal/retry"
)

// Gate is a gate that the proxy can follow.
type Gate struct {
	Addr   string
	Client tidegatev1connect.NodeServiceClient
}

// Follower keeps a proxy in step with the gates.
type Follower struct {
	log    *slog.Logger
	self   tidegate.Identity
	gates  []Gate
	period time.Duration
	silent time.Duration
}

// NewFollower makes a follower that speaks as self, which must be the identity
// of its certificate. period is that of reports.
func NewFollower(log *slog.Logger, self tidegate.Identity, gates []Gate, period time.Duration) *Follower {
	return &Follower{log: log, self: self, gates: gates, period: period, silent: 3 * api.WatchBeat}
}

// run follows one gate at a time and goes to the next when it fails. Clients
// are served from the last target meanwhile.
func (f *Follower) run(ctx context.Context, p *Proxy) error {
	b := retry.Policy{First: 50 * time.Millisecond, Max: 2 * time.Second}.Backoff()
	for i := 0; ctx.Err() == nil; i++ {
		gate := f.gates[i%len(f.gates)]
		err := f.follow(ctx, p, gate, b)
		if ctx.Err() != nil {
			return nil
		}
		var broken *applyError
		if errors.As(err, &broken) {
			return broken.err
		}
		f.log.Warn("gate lost, the last route stays", "gate", gate.Addr, "err", err)
		if err := b.Wait(ctx); err != nil {
			return nil
		}
	}
	return nil
}

// applyError is a target that could not be made durable: the proxy must stop.
type applyError struct{ err error }

func (e *applyError) Error() string { return e.err.Error() }

func (f *Follower) follow(ctx context.Context, p *Proxy, gate Gate, b *retry.Backoff) error {
	g, ctx := errgroup.WithContext(ctx)
	changed := make(chan struct{}, 1)
	g.Go(func() error { return f.watch(ctx, p, gate, b, changed) })
	g.Go(func() error { return f.report(ctx, p, gate, changed) })
	return g.Wait()
}

func (f *Follower) watch(ctx context.Context, p *Proxy, gate Gate, b *retry.Backoff, changed chan<- struct{}) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(f.silent, func() { cancel(errors.New("gate is silent")) })
	defer silence.Stop()
	stream, err := gate.Client.Watch(ctx, connect.NewRequest(&pb.WatchRequest{
		Node: f.self.Name, Kind: pb.NodeKind_NODE_KIND_ROUTE, Site: string(f.self.Site),
	}))
	if err != nil {
		return api.FromError("watch gate", gate.Addr, err)
	}
	defer func() { _ = stream.Close() }()
	for stream.Receive() {
		silence.Reset(f.silent)
		b.Reset()
		for _, s := range stream.Msg().GetServices() {
			if err := f.apply(p, s.GetRoute()); err != nil {
				return err
			}
		}
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
		return cause
	}
	if err := stream.Err(); err != nil {
		return api.FromError("watch gate", gate.Addr, err)
	}
	return errors.New("gate ended the watch")
}

func (f *Follower) apply(p *Proxy, r *pb.Route) error {
	if r == nil {
		return nil
	}
	err := p.Apply(Target{
		Service: tidegate.ServiceName(r.GetService()), Epoch: tidegate.Epoch(r.GetEpoch()),
		Site: tidegate.SiteName(r.GetSite()), Endpoints: r.GetEndpoints(), Since: r.GetSince().AsTime(),
	})
	switch tidegate.ClassOf(err) {
	case tidegate.Fenced, tidegate.Misuse:
		// An old or a broken view: the applied target stays, which is what the proxy is for.
		f.log.Warn("route refused", "service", r.GetService(), "epoch", r.GetEpoch(), "err", err)
		return nil
	case tidegate.Transient, tidegate.Permanent, tidegate.Corrupt, tidegate.Refused:
	}
	if err != nil {
		return &applyError{err: err}
	}
	return nil
}

func (f *Follower) report(ctx context.Context, p *Proxy, gate Gate, changed <-chan struct{}) error {
	tick := time.NewTicker(f.period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-changed:
		}
		req := &pb.ReportRouteRequest{Name: f.self.Name, Site: string(f.self.Site)}
		for _, a := range p.Applied() {
			r := &pb.RouteApplied{
				Service: string(a.Service), Epoch: uint64(a.Epoch), Endpoint: a.Endpoint,
				Connections: uint32(a.Connections), CutTotal: a.CutTotal,
			}
			if a.Service == "" {
				continue // nothing was ever applied
			}
			if !a.Since.IsZero() {
				r.Since = timestamppb.New(a.Since)
			}
			req.Services = append(req.Services, r)
		}
		call, cancel := context.WithTimeout(ctx, f.silent)
		_, err := gate.Client.ReportRoute(call, connect.NewRequest(req))
		cancel()
		if err != nil && ctx.Err() == nil {
			return api.FromError("report to gate", gate.Addr, err)
		}
	}
}
