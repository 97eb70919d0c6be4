package gating

import (
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/gating/registry"
)

func nodeView(n registry.Node) *pb.NodeView {
	return &pb.NodeView{
		Node: string(n.Name), Kind: kindMessages[n.Kind], Site: string(n.Site), Incarnation: api.IDText(n.Incarnation),
		ShipAddress: n.ShipAddress, ApiAddress: n.APIAddress,
	}
}

var kindMessages = map[registry.Kind]pb.NodeKind{
	registry.KindAgent: pb.NodeKind_NODE_KIND_AGENT, registry.KindStandby: pb.NodeKind_NODE_KIND_STANDBY, registry.KindRoute: pb.NodeKind_NODE_KIND_ROUTE,
}

// kindRoles says which certificate each kind of node has.
var kindRoles = map[pb.NodeKind]tidegate.Role{
	pb.NodeKind_NODE_KIND_AGENT: tidegate.RoleAgent, pb.NodeKind_NODE_KIND_STANDBY: tidegate.RoleStandby, pb.NodeKind_NODE_KIND_ROUTE: tidegate.RoleRoute,
}

var reactionMessages = map[tidegate.Reaction]pb.GatePolicy{
	"": pb.GatePolicy_GATE_POLICY_BLOCK, tidegate.ReactBlock: pb.GatePolicy_GATE_POLICY_BLOCK, tidegate.ReactReject: pb.GatePolicy_GATE_POLICY_REJECT,
	tidegate.ReactDegrade: pb.GatePolicy_GATE_POLICY_DEGRADE, tidegate.ReactDegradeBlind: pb.GatePolicy_GATE_POLICY_DEGRADE_BLIND,
}

var reactions = map[pb.GatePolicy]tidegate.Reaction{
	pb.GatePolicy_GATE_POLICY_BLOCK: tidegate.ReactBlock, pb.GatePolicy_GATE_POLICY_REJECT: tidegate.ReactReject,
	pb.GatePolicy_GATE_POLICY_DEGRADE: tidegate.ReactDegrade, pb.GatePolicy_GATE_POLICY_DEGRADE_BLIND: tidegate.ReactDegradeBlind,
}

func brakeMessage(b *registry.Brake) *pb.Brake {
	if b == nil {
		return nil
	}
	return &pb.Brake{Reason: b.Reason, Actor: b.Actor, Since: timestamppb.New(b.Since)}
}

// someDuration is a duration that is absent when it is not set.
func someDuration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

func streamView(v *registry.View, s registry.Stream) *pb.StreamView {
	out := &pb.StreamView{
		Id: s.ID.String(), Service: string(s.Service), Name: string(s.Name), Store: s.Store,
		Mode: api.ModeMessage(s.Mode), Bounds: api.BoundsMessage(s.Bounds), W: uint32(s.W), Paused: s.Paused, Brake: brakeMessage(s.Brake),
		Policy: reactionMessages[s.Policy.Reaction], Grace: someDuration(s.Policy.Grace), Rearm: someDuration(s.Policy.Rearm),
		LeaseTtl: someDuration(v.Services[s.Service].Value.LeaseTTL), Leaving: s.Leaving, Renewal: renewalMessage(s.Renewal), Gaps: api.GapMessages(s.Gaps),
	}
	for _, m := range s.Members {
		out.Members = append(out.Members, string(m))
	}
	if e, ok := v.Epochs[s.ID]; ok {
		out.Epoch = fencewire.RecordMessage(e.Value, e.Revision)
		for _, n := range learners(s, e.Value) {
			out.Learners = append(out.Learners, string(n))
		}
	}
	return out
}

// learners returns the configured nodes that the active epoch does not count:
// they follow it all the same.
func learners(s registry.Stream, rec fence.EpochRecord) []tidegate.NodeName {
	var out []tidegate.NodeName
	if rec.ActiveEpoch == 0 {
		return nil // nobody counts yet
	}
	for _, n := range s.Members {
		if rec.Config.Index(n) < 0 {
			out = append(out, n)
		}
	}
	return out
}

func serviceView(v *registry.View, s tidegate.ServiceName, plan string) *pb.ServiceView {
	svc := v.Services[s].Value
	out := &pb.ServiceView{Name: string(s), Frozen: svc.Frozen, PlanId: plan, Route: routeView(v, s), Armed: !svc.Disarmed, LeaseTtl: someDuration(svc.LeaseTTL)}
	for _, st := range v.StreamsOf(s) {
		out.Streams = append(out.Streams, streamView(v, st))
	}
	return out
}

func routeView(v *registry.View, s tidegate.ServiceName) *pb.Route {
	e, ok := v.Routes[s]
	if !ok {
		return nil
	}
	r := e.Value
	return &pb.Route{Service: string(s), Epoch: uint64(r.Epoch), Endpoints: r.Endpoints, Site: string(r.Site), Since: timestamppb.New(r.Since)}
}

// nodeViews returns the standby nodes in order: agents need their addresses.
func nodeViews(v *registry.View) []*pb.NodeView {
	var out []*pb.NodeView
	for _, e := range v.Nodes {
		if e.Value.Kind == registry.KindStandby {
			out = append(out, nodeView(e.Value))
		}
	}
	slices.SortFunc(out, func(a, b *pb.NodeView) int { return strings.Compare(a.GetNode(), b.GetNode()) })
	return out
}
