package gating

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
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

var policyMessages = map[registry.Policy]pb.GatePolicy{
	registry.PolicyBlock: pb.GatePolicy_GATE_POLICY_BLOCK, registry.PolicyReject: pb.GatePolicy_GATE_POLICY_REJECT, registry.PolicyDegrade: pb.GatePolicy_GATE_POLICY_DEGRADE,
}

func policyOf(m pb.GatePolicy) registry.Policy {
	for p, pm := range policyMessages {
		if pm == m {
			return p
		}
	}
	return registry.PolicyBlock // the safe one is the default
}

func streamView(v *registry.View, s registry.Stream) *pb.StreamView {
	out := &pb.StreamView{
		Id: s.ID.String(), Service: string(s.Service), Name: string(s.Name), Store: s.Store,
		Mode: api.ModeMessage(s.Mode), Bounds: api.BoundsMessage(s.Bounds), W: uint32(s.W), Paused: s.Paused, Policy: policyMessages[s.Policy],
	}
	for _, m := range s.Members {
		out.Members = append(out.Members, string(m))
	}
	if e, ok := v.Epochs[s.ID]; ok {
		out.Epoch = fencewire.RecordMessage(e.Value, e.Revision)
	}
	return out
}

func serviceView(v *registry.View, s tidegate.ServiceName, plan string) *pb.ServiceView {
	svc := v.Services[s].Value
	out := &pb.ServiceView{Name: string(s), Frozen: svc.Frozen, PlanId: plan, Route: routeView(v, s)}
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
