package gating

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/gating/registry"
)

// nodeService answers agents, standby nodes and routes.
type nodeService struct {
	parts
	tidegatev1connect.UnimplementedNodeServiceHandler
	control *controller
}

// conflictRetries bounds how often a small change of the registry is tried
// again after somebody else changed the same record.
const conflictRetries = 5

// Register implements NodeService.
func (s *nodeService) Register(ctx context.Context, req *connect.Request[pb.RegisterRequest]) (*connect.Response[pb.RegisterResponse], error) {
	m := req.Msg
	if err := speaksFor(ctx, m.GetNode(), m.GetSite()); err != nil {
		return nil, err
	}
	if kindRoles[m.GetKind()] != callerOf(ctx).Role {
		return nil, misuse("register", m.GetNode(), fmt.Errorf("kind %s with a certificate of role %s", m.GetKind(), callerOf(ctx).Role))
	}
	inc, err := api.ParseID("incarnation", m.GetIncarnation())
	if err == nil && m.GetKind() == pb.NodeKind_NODE_KIND_STANDBY && inc.IsZero() {
		err = errors.New("incarnation: want the one drawn by format")
	}
	if err != nil {
		return nil, misuse("register", m.GetNode(), err)
	}
	var known registry.Node
	err = s.change(ctx, func() error {
		known = registry.Node{}
		key := registry.NodeKey(kindOf(m.GetKind()), tidegate.NodeName(m.GetNode()))
		rev, err := s.store.Get(ctx, key, &known)
		if err != nil {
			return err
		}
		want := known
		want.Name, want.Kind, want.Site = tidegate.NodeName(m.GetNode()), kindOf(m.GetKind()), tidegate.SiteName(m.GetSite())
		want.ShipAddress, want.APIAddress = m.GetShipAddress(), m.GetApiAddress()
		if rev == 0 {
			want.Incarnation = inc
		}
		if want == known {
			return nil
		}
		known = want
		_, err = s.store.Commit(ctx, new(registry.Tx).Unchanged(key, rev).Put(key, want))
		return err
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.RegisterResponse{Incarnation: api.IDText(known.Incarnation), Limbo: known.Incarnation != inc}), nil
}

func kindOf(m pb.NodeKind) registry.Kind {
	for k, km := range kindMessages {
		if km == m {
			return k
		}
	}
	return ""
}

// change repeats a read-and-write of one record while somebody else is faster.
func (p parts) change(ctx context.Context, once func() error) error {
	var err error
	for range conflictRetries {
		if err = once(); !errors.Is(err, tidegate.ErrConflict) || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// Watch implements NodeService.
func (s *nodeService) Watch(ctx context.Context, req *connect.Request[pb.WatchRequest], out *connect.ServerStream[pb.WatchResponse]) error {
	m := req.Msg
	if err := speaksFor(ctx, m.GetNode(), m.GetSite()); err != nil {
		return err
	}
	if kindRoles[m.GetKind()] != callerOf(ctx).Role {
		return misuse("watch", m.GetNode(), fmt.Errorf("kind %s with a certificate of role %s", m.GetKind(), callerOf(ctx).Role))
	}
	s.metrics.watchers.Inc()
	defer s.metrics.watchers.Dec()
	if m.GetKind() == pb.NodeKind_NODE_KIND_AGENT {
		holder, err := api.RequireID("holder", m.GetHolder())
		if err != nil {
			return misuse("watch", m.GetNode(), err)
		}
		node := tidegate.NodeName(m.GetNode())
		defer s.world.agentSession(node, tidegate.SiteName(m.GetSite()), holder)()
		if err := s.registerAgent(ctx, node, tidegate.SiteName(m.GetSite()), holder); err != nil && !registry.Unreachable(err) {
			return err
		}
	}
	beat := time.NewTicker(api.WatchBeat)
	defer beat.Stop()
	w := watcher{only: m.GetServices(), sent: map[string]*pb.ServiceView{}}
	for due := true; ; {
		view, reachable, changed := s.world.current()
		if view.Revision > 0 || w.revision > 0 {
			// Before the first reading of the registry there is nothing to say: an
			// empty snapshot would mean that nothing exists.
			if msg := w.next(view, reachable, due, s.planOf); msg != nil {
				if err := out.Send(msg); err != nil {
					return err
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			due = false
		case <-beat.C:
			due = true
		}
	}
}

func (s *nodeService) planOf(name tidegate.ServiceName) string {
	if h := s.control.runningPlan(name); h != nil {
		return h.id.String()
	}
	return ""
}

// registerAgent writes down under which holder an agent runs now, so that any
// gate can make it the target of a failover.
func (s *nodeService) registerAgent(ctx context.Context, n tidegate.NodeName, site tidegate.SiteName, holder tidegate.HolderID) error {
	return s.change(ctx, func() error {
		key := registry.NodeKey(registry.KindAgent, n)
		var node registry.Node
		rev, err := s.store.Get(ctx, key, &node)
		if err != nil || node.Holder == holder && node.Site == site {
			return err
		}
		node.Name, node.Kind, node.Site, node.Holder = n, registry.KindAgent, site, holder
		_, err = s.store.Commit(ctx, new(registry.Tx).Unchanged(key, rev).Put(key, node))
		return err
	})
}

// watcher tells one peer what changed since the last message.
type watcher struct {
	only      []string
	revision  int64
	reachable bool
	sent      map[string]*pb.ServiceView
	nodes     []*pb.NodeView
}

// next returns the message to send: what changed since the last one, which may
// be nothing when a beat is due, or nil.
func (w *watcher) next(v *registry.View, reachable, due bool, planOf func(tidegate.ServiceName) string) *pb.WatchResponse {
	out := &pb.WatchResponse{Revision: w.revision + 1, Snapshot: w.revision == 0, RegistryReachable: reachable}
	seen := map[string]bool{}
	for _, name := range v.ServiceNames() {
		if len(w.only) > 0 && !slices.Contains(w.only, string(name)) {
			continue
		}
		seen[string(name)] = true
		sv := serviceView(v, name, planOf(name))
		if !proto.Equal(sv, w.sent[string(name)]) {
			w.sent[string(name)] = sv
			out.Services = append(out.Services, sv)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.sent)) {
		if !seen[name] {
			delete(w.sent, name)
			out.RemovedServices = append(out.RemovedServices, name)
		}
	}
	nodes := nodeViews(v)
	if !slices.EqualFunc(nodes, w.nodes, func(a, b *pb.NodeView) bool { return proto.Equal(a, b) }) {
		w.nodes, out.Nodes = nodes, nodes
	}
	if !due && !out.GetSnapshot() && reachable == w.reachable && len(out.GetServices())+len(out.GetRemovedServices())+len(out.GetNodes()) == 0 {
		return nil
	}
	w.revision, w.reachable = out.GetRevision(), reachable
	return out
}

// AcquireEpoch implements NodeService.
func (s *nodeService) AcquireEpoch(ctx context.Context, req *connect.Request[pb.AcquireEpochRequest]) (*connect.Response[pb.AcquireEpochResponse], error) {
	m := req.Msg
	if err := speaksFor(ctx, m.GetHolder().GetNode(), m.GetHolder().GetSite()); err != nil {
		return nil, err
	}
	holder, err := fencewire.Holder(m.GetHolder())
	if err == nil && holder.UUID.IsZero() {
		err = errors.New("holder uuid: want the one of this start")
	}
	held, herr := promisesOf(m.GetHeld(), m.GetHolder().GetUuid())
	branches, berr := promisesOf(m.GetBranches(), m.GetHolder().GetUuid())
	if err = errors.Join(err, herr, berr); err != nil {
		return nil, misuse("acquire", m.GetService(), err)
	}
	v, err := s.store.Read(ctx)
	if err != nil {
		return nil, err
	}
	s.world.setView(v)
	name := tidegate.ServiceName(m.GetService())
	svc, ok := v.Services[name]
	if !ok {
		return nil, notFound("acquire", m.GetService(), "add the service with `tidegate streams add`")
	}
	if h, e, ok := activeHolder(v, name); ok && h == holder && e > 0 && !forgotten(v, name, held) && !renewing(v, name, holder.Node) {
		return connect.NewResponse(grantsOf(v, name, "")), nil // no change of role, frozen or not
	}
	if svc.Value.Frozen {
		return nil, &tidegate.Error{
			Op: "acquire", Subject: m.GetService(), Class: tidegate.Transient, Err: fmt.Errorf("role changes are frozen: %s", first(svc.Value.Reason, "no reason was given")),
			Hint: "allow role changes again with `tidegate gate thaw`",
		}
	}
	plan, err := s.control.acquirePlan(ctx, v, svc.Value, holder, held, branches, m.GetPredecessorDead(), m.GetReason())
	if err != nil {
		return nil, err
	}
	h, err := s.control.start(ctx, planRecord{
		plan: plan, view: newView(plan, s.name, s.now()),
		// A freeze that came in between counts: the agent asks again.
		with: func(tx *registry.Tx) { tx.Unchanged(registry.ServiceKey(name), svc.Revision) },
	})
	if err != nil {
		return nil, err
	}
	select {
	case <-h.over:
	case <-ctx.Done():
		return nil, ctx.Err() // the plan goes on; asking again joins it
	}
	p, view, err := h.result()
	if err != nil {
		return nil, &tidegate.Error{Op: "acquire", Subject: m.GetService(), Class: tidegate.Transient, Err: err, Hint: "ask again; another gate may lead now"}
	}
	if err := verdictErr(p, view); err != nil {
		return nil, err
	}
	out := &pb.AcquireEpochResponse{PlanId: p.ID.String()}
	for i := range p.Streams {
		out.Grants = append(out.Grants, &pb.StreamGrant{StreamId: p.Streams[i].Stream.String(), Epoch: fencewire.RecordMessage(p.Streams[i].Record, p.Streams[i].Revision)})
	}
	return connect.NewResponse(out), nil
}

// promisesOf returns the promises that a holder's epochs stand for.
func promisesOf(epochs []*pb.StreamEpoch, holder string) (map[tidegate.StreamID]fence.Promise, error) {
	out := map[tidegate.StreamID]fence.Promise{}
	for _, e := range epochs {
		id, err := api.RequireID("stream id", e.GetStreamId())
		if err != nil {
			return nil, err
		}
		if out[id], err = promiseOf(e.GetEpoch(), holder); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// forgotten reports whether some record is of a lower epoch than the one that its
// writer holds: an epoch is on record before anybody has it, so that the registry
// was put back.
func forgotten(v *registry.View, s tidegate.ServiceName, held map[tidegate.StreamID]fence.Promise) bool {
	return slices.ContainsFunc(v.StreamsOf(s), func(st registry.Stream) bool {
		return held[st.ID].Epoch > v.Epochs[st.ID].Value.Epoch
	})
}

func grantsOf(v *registry.View, s tidegate.ServiceName, plan string) *pb.AcquireEpochResponse {
	out := &pb.AcquireEpochResponse{PlanId: plan}
	for _, st := range v.StreamsOf(s) {
		e := v.Epochs[st.ID]
		out.Grants = append(out.Grants, &pb.StreamGrant{StreamId: st.ID.String(), Epoch: fencewire.RecordMessage(e.Value, e.Revision)})
	}
	return out
}

// ReadEpoch implements NodeService.
func (s *nodeService) ReadEpoch(ctx context.Context, req *connect.Request[pb.ReadEpochRequest]) (*connect.Response[pb.ReadEpochResponse], error) {
	id, err := api.RequireID("stream id", req.Msg.GetStreamId())
	if err != nil {
		return nil, misuse("read epoch", req.Msg.GetStreamId(), err)
	}
	e, err := s.epoch(ctx, id)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.ReadEpochResponse{Epoch: fencewire.RecordMessage(e.Value, e.Revision)}), nil
}

func (p parts) epoch(ctx context.Context, id tidegate.StreamID) (registry.Entry[fence.EpochRecord], error) {
	es, err := p.store.ReadEpochs(ctx, id)
	if err != nil {
		return registry.Entry[fence.EpochRecord]{}, err
	}
	if es[0].Revision == 0 {
		return es[0], notFound("read epoch", id.String(), "the stream was removed, or never added")
	}
	return es[0], nil
}

func promiseOf(epoch uint64, holder string) (fence.Promise, error) {
	id, err := api.RequireID("holder", holder)
	return fence.Promise{Epoch: tidegate.Epoch(epoch), Holder: id}, err
}

// ExitLimbo implements NodeService.
func (s *nodeService) ExitLimbo(ctx context.Context, req *connect.Request[pb.ExitLimboRequest]) (*connect.Response[pb.ExitLimboResponse], error) {
	m := req.Msg
	by, err := promiseOf(m.GetEpoch(), m.GetHolder())
	if err != nil {
		return nil, misuse("exit limbo", m.GetStreamId(), err)
	}
	member, err := fencewire.Member(m.GetMember())
	if err != nil {
		return nil, misuse("exit limbo", m.GetStreamId(), err)
	}
	rec, err := s.swap(ctx, "exit limbo", m.GetStreamId(), m.GetRevision(), func(r fence.EpochRecord, _ *registry.Tx) (fence.EpochRecord, *registry.AuditEntry, error) {
		if err := speaksFor(ctx, string(r.Holder.Node), ""); err != nil && r.Promise() == by {
			return r, nil, err
		}
		next, err := r.ExitLimbo(by, member)
		if err == nil {
			err = s.vouched("exit limbo", r)
		}
		return next, nil, err
	})
	if err != nil {
		return nil, err
	}
	s.log.Info("member counts again", "stream", m.GetStreamId(), "member", member)
	if err := s.renew(ctx, member); err != nil {
		// The record is what counts; the next stream that the node leaves limbo in tries again.
		s.log.Warn("node's new incarnation not registered", "member", member, "err", err)
	}
	return connect.NewResponse(&pb.ExitLimboResponse{Epoch: rec}), nil
}

// renew registers the incarnation of a node whose whole data directory is a new
// one, so that configurations to come name it. An incarnation of one stream's
// log alone stays in that stream's record.
func (s *nodeService) renew(ctx context.Context, m fence.Member) error {
	var node string
	s.world.read(func() {
		if st := s.world.standbys[m.Node]; st != nil {
			node = st.report.GetIncarnation()
		}
	})
	if node != m.Incarnation.String() {
		return nil
	}
	return s.change(ctx, func() error {
		key := registry.NodeKey(registry.KindStandby, m.Node)
		var known registry.Node
		rev, err := s.store.Get(ctx, key, &known)
		if err != nil || rev == 0 || known.Incarnation == m.Incarnation {
			return err
		}
		known.Incarnation = m.Incarnation
		_, err = s.store.Commit(ctx, new(registry.Tx).Unchanged(key, rev).Put(key, known))
		return err
	})
}
