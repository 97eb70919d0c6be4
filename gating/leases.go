package gating

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/gating/registry"
)

// RenewLease implements NodeService. The lease is granted in a transaction that
// compares the epoch records of all the service's streams: once a change of
// writer has reserved its epoch nobody renews.
func (s *nodeService) RenewLease(ctx context.Context, req *connect.Request[pb.RenewLeaseRequest]) (*connect.Response[pb.RenewLeaseResponse], error) {
	m := req.Msg
	if err := speaksFor(ctx, m.GetNode(), ""); err != nil {
		return nil, err
	}
	by, err := epochsOf(m)
	if err != nil {
		return nil, misuse("renew lease", m.GetService(), err)
	}
	var ttl time.Duration
	err = s.change(ctx, func() error {
		v, err := s.store.Read(ctx)
		if err != nil {
			return err
		}
		l, at, err := s.leaseFor(v, tidegate.ServiceName(m.GetService()), by)
		if err != nil {
			return err
		}
		ttl = l.TTL
		if err := speaksFor(ctx, string(l.Holder.Node), ""); err != nil {
			return err
		}
		return s.store.PutLease(ctx, l, at)
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.RenewLeaseResponse{Ttl: durationpb.New(ttl)}), nil
}

func epochsOf(m *pb.RenewLeaseRequest) (map[tidegate.StreamID]fence.Promise, error) {
	out, err := promisesOf(m.GetEpochs(), m.GetHolder())
	if err == nil && len(out) == 0 {
		err = errors.New("epochs: want that of every stream")
	}
	return out, err
}

// leaseFor decides whether a holder may have the service's lease, and returns
// with it the revisions that the decision rests on.
func (p parts) leaseFor(v *registry.View, service tidegate.ServiceName, by map[tidegate.StreamID]fence.Promise) (registry.Lease, map[tidegate.StreamID]int64, error) {
	svc, ok := v.Services[service]
	if !ok {
		return registry.Lease{}, nil, notFound("renew lease", string(service), "add the service with `tidegate streams add`")
	}
	l := registry.Lease{Service: service, TTL: svc.Value.LeaseTTL, Renewed: p.now().UTC(), Epochs: map[tidegate.StreamID]tidegate.Epoch{}}
	at := map[tidegate.StreamID]int64{}
	refuse := func(class tidegate.Class, format string, args ...any) error {
		return &tidegate.Error{Op: "renew lease", Subject: string(service), Class: class, Err: fmt.Errorf(format, args...)}
	}
	for _, st := range v.StreamsOf(service) {
		e := v.Epochs[st.ID]
		rec, want, named := e.Value, by[st.ID], by[st.ID] != fence.Promise{}
		switch {
		case rec.ActiveEpoch == 0 && !named && rec.State == fence.StateDemoted:
			continue // added lately: it has no writer, and nothing of it is put out
		case rec.Promise() != want:
			return l, nil, refuse(tidegate.Fenced, "stream %s is at epoch %s, not %s: %w", st.Name, rec.Epoch, want.Epoch, tidegate.ErrFenced)
		case rec.State != fence.StateActive && rec.State != fence.StateSwitching:
			return l, nil, refuse(tidegate.Fenced, "stream %s is %s: %w", st.Name, rec.State, tidegate.ErrFenced)
		}
		l.Holder, l.Epochs[st.ID], at[st.ID] = rec.Holder, rec.Epoch, e.Revision
		// While the service's wish is shorter or none, a record that still names a
		// lease binds its writer to one of that length.
		l.TTL = max(l.TTL, rec.Gate.Lease)
	}
	switch {
	case len(at) == 0:
		return l, nil, refuse(tidegate.Fenced, "none of its streams has a writer: %w", tidegate.ErrFenced)
	case l.TTL == 0:
		return l, nil, refuse(tidegate.Refused, "the service has no output lease")
	}
	return l, at, nil
}

// ReleaseLease implements NodeService.
func (s *nodeService) ReleaseLease(ctx context.Context, req *connect.Request[pb.ReleaseLeaseRequest]) (*connect.Response[pb.ReleaseLeaseResponse], error) {
	m := req.Msg
	if err := speaksFor(ctx, m.GetNode(), ""); err != nil {
		return nil, err
	}
	holder, err := api.RequireID("holder", m.GetHolder())
	if err != nil {
		return nil, misuse("release lease", m.GetService(), err)
	}
	if err := s.store.DropLease(ctx, tidegate.ServiceName(m.GetService()), tidegate.NodeName(m.GetNode()), holder); err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.ReleaseLeaseResponse{}), nil
}

// leaseStatus reads a service's lease; nil when it has none to give. What the
// registry does not tell is left out.
func (p parts) leaseStatus(ctx context.Context, svc registry.Service, reachable bool) *pb.LeaseStatus {
	if svc.LeaseTTL == 0 {
		return nil
	}
	out := &pb.LeaseStatus{Ttl: durationpb.New(svc.LeaseTTL)}
	if !reachable {
		return out
	}
	if l, ok, err := p.store.GetLease(ctx, svc.Name); err == nil && ok {
		out.Holder, out.Renewed = fencewire.HolderMessage(l.Holder), timestamppb.New(l.Renewed)
	}
	return out
}

// leasePoll is how often the end of a lease is looked for.
const leasePoll = 100 * time.Millisecond

// awaitLease waits until the output lease of a service is over: its key is gone,
// and one margin more has passed for the drift of the holder's clock. Nobody
// renews it, because F1 has changed the records that a renewal compares.
//
// A registry that may have been restored can have lost a key whose lease runs, and
// after a reconfiguration the holder may go by words of nodes that F2 did not ask:
// there the longest lease is waited out, whatever the key says, from since on: a
// moment after F1 on this gate's clock, whichever gate did F1.
func (r *runner) awaitLease(ctx context.Context, plan fence.Plan, longest time.Duration, since time.Time) fence.ControlEvent {
	tick := time.NewTicker(leasePoll)
	defer tick.Stop()
	margin := registry.LeaseMargin(longest)
	var gone time.Time
	for {
		l, ok, err := r.store.GetLease(ctx, plan.Service)
		switch {
		case err != nil:
			gone = time.Time{} // not known
		case ok:
			gone, margin = time.Time{}, max(margin, registry.LeaseMargin(l.TTL))
		case gone.IsZero():
			gone = r.now()
		}
		if !gone.IsZero() && r.now().Sub(gone) >= margin && (!untold(plan) || r.now().Sub(since) >= longest+margin) {
			return fence.LeaseOver{}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// untold reports whether leases may run that neither the registry nor F2 can tell of.
func untold(p fence.Plan) bool {
	for i := range p.Streams {
		if r := &p.Streams[i].Record; r.Restored || r.Inherited {
			return true
		}
	}
	return false
}

// leasePatience is how long F4 may take with leases: one that was renewed just
// before F1, once more in full if etcd changed its leader meanwhile, and what it
// takes etcd to notice.
func leasePatience(longest time.Duration) time.Duration {
	if longest == 0 {
		return 0
	}
	return 2*longest + registry.LeaseMargin(longest) + 2*time.Second
}
