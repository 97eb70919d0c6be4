package agent

import (
	"fmt"
	"maps"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
)

// view is what the gate last said. It never changes once it is shown.
type view struct {
	services map[tidegate.ServiceName]serviceView
	nodes    map[tidegate.NodeName]string // ship addresses of standby nodes
}

type serviceView struct {
	streams map[tidegate.StreamName]streamView
	frozen  bool
	plan    string
}

// streamView is one stream of the view. The zero value is a stream that the
// gate does not know.
type streamView struct {
	id       tidegate.StreamID
	mode     tidegate.Mode   // what the operator wants
	bounds   tidegate.Bounds // of that mode
	policy   tidegate.Policy // what the gate does at its edge
	brake    brake
	lease    time.Duration // ttl of the output lease that the operator wants; 0 for none
	paused   bool
	leaving  bool              // about to be removed
	renewal  declaration       // newest
	rec      fence.EpochRecord // zero before registration is complete
	revision int64
}

// brake is an operator's word that the primary shall run unprotected.
type brake struct {
	on            bool
	reason, actor string
}

func (v *streamView) sighting() fence.Sighting {
	return fence.Sighting{Record: v.rec, Revision: v.revision}
}

// known reports whether the gate has the stream with a record.
func (v streamView) known() bool { return !v.id.IsZero() && v.rec.Version != 0 }

func newView() *view {
	return &view{services: map[tidegate.ServiceName]serviceView{}, nodes: map[tidegate.NodeName]string{}}
}

// with returns v brought up to date by one message.
func (v *view) with(m *pb.WatchResponse) (*view, error) {
	next := newView()
	if !m.GetSnapshot() {
		maps.Copy(next.services, v.services)
		maps.Copy(next.nodes, v.nodes)
	}
	for _, name := range m.GetRemovedServices() {
		delete(next.services, tidegate.ServiceName(name))
	}
	for _, sm := range m.GetServices() {
		sv := serviceView{streams: map[tidegate.StreamName]streamView{}, frozen: sm.GetFrozen(), plan: sm.GetPlanId()}
		for _, one := range sm.GetStreams() {
			st, err := parseStreamView(one)
			if err != nil {
				return nil, fmt.Errorf("stream %s/%s: %w", sm.GetName(), one.GetName(), err)
			}
			sv.streams[tidegate.StreamName(one.GetName())] = st
		}
		next.services[tidegate.ServiceName(sm.GetName())] = sv
	}
	for _, n := range m.GetNodes() {
		if n.GetKind() == pb.NodeKind_NODE_KIND_STANDBY && n.GetShipAddress() != "" {
			next.nodes[tidegate.NodeName(n.GetNode())] = n.GetShipAddress()
		}
	}
	return next, nil
}

var reactions = map[pb.GatePolicy]tidegate.Reaction{
	pb.GatePolicy_GATE_POLICY_BLOCK: tidegate.ReactBlock, pb.GatePolicy_GATE_POLICY_REJECT: tidegate.ReactReject,
	pb.GatePolicy_GATE_POLICY_DEGRADE: tidegate.ReactDegrade, pb.GatePolicy_GATE_POLICY_DEGRADE_BLIND: tidegate.ReactDegradeBlind,
}

func parseStreamView(m *pb.StreamView) (v streamView, err error) {
	if v.id, err = api.RequireID("stream id", m.GetId()); err != nil {
		return v, err
	}
	v.paused, v.leaving = m.GetPaused(), m.GetLeaving()
	v.renewal = declaration{epoch: tidegate.Epoch(m.GetRenewal().GetEpoch()), node: tidegate.NodeName(m.GetRenewal().GetNode()), site: tidegate.SiteName(m.GetRenewal().GetSite())}
	v.policy = tidegate.Policy{Reaction: reactions[m.GetPolicy()], Grace: m.GetGrace().AsDuration(), Rearm: m.GetRearm().AsDuration()}
	if v.policy.Reaction == "" {
		// A gate that names none means the strictest; one that names an unknown
		// reaction must not be taken for a looser one.
		v.policy.Reaction = tidegate.ReactBlock
	}
	if err := v.policy.Validate(); err != nil {
		return v, err
	}
	if b := m.GetBrake(); b != nil {
		v.brake = brake{on: true, reason: b.GetReason(), actor: b.GetActor()}
	}
	v.lease = max(0, m.GetLeaseTtl().AsDuration())
	v.mode = api.Mode(m.GetMode())
	b, err := api.Bounds(m.GetBounds())
	if err != nil {
		return v, err
	}
	if v.mode != "" {
		if v.bounds, err = v.mode.Bounds(b); err != nil {
			return v, err
		}
	}
	if m.GetEpoch() != nil {
		v.rec, v.revision, err = fencewire.Record(m.GetEpoch())
	}
	return v, err
}
