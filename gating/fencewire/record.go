package fencewire

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
)

// HolderMessage converts a holder; the zero holder is nil.
func HolderMessage(h fence.Holder) *pb.Holder {
	if h == (fence.Holder{}) {
		return nil
	}
	return &pb.Holder{Node: string(h.Node), Site: string(h.Site), Uuid: api.IDText(h.UUID)}
}

// Holder converts back; nil is the zero holder.
func Holder(m *pb.Holder) (fence.Holder, error) {
	id, err := api.ParseID("holder uuid", m.GetUuid())
	return fence.Holder{Node: tidegate.NodeName(m.GetNode()), Site: tidegate.SiteName(m.GetSite()), UUID: id}, err
}

// PromiseMessage converts a promise.
func PromiseMessage(p fence.Promise) *pb.Promise {
	return &pb.Promise{Epoch: uint64(p.Epoch), Holder: api.IDText(p.Holder)}
}

// Promise converts back; nil is the zero promise.
func Promise(m *pb.Promise) (fence.Promise, error) {
	id, err := api.ParseID("promise holder", m.GetHolder())
	return fence.Promise{Epoch: tidegate.Epoch(m.GetEpoch()), Holder: id}, err
}

// HistoryMessage converts a history.
func HistoryMessage(h fence.History) []*pb.Term {
	out := make([]*pb.Term, 0, len(h))
	for _, t := range h {
		out = append(out, &pb.Term{Epoch: uint64(t.Epoch), StartSeq: uint64(t.StartSeq), Holder: api.IDText(t.Holder)})
	}
	return out
}

// History converts back.
func History(ms []*pb.Term) (fence.History, error) {
	if len(ms) == 0 {
		return nil, nil
	}
	out := make(fence.History, 0, len(ms))
	for _, m := range ms {
		id, err := api.ParseID("history holder", m.GetHolder())
		if err != nil {
			return nil, err
		}
		out = append(out, fence.Term{Epoch: tidegate.Epoch(m.GetEpoch()), StartSeq: tidegate.Seq(m.GetStartSeq()), Holder: id})
	}
	return out, out.Validate()
}

// MemberMessage converts a member.
func MemberMessage(m fence.Member) *pb.Member {
	return &pb.Member{Node: string(m.Node), Incarnation: api.IDText(m.Incarnation)}
}

// Member converts back.
func Member(m *pb.Member) (fence.Member, error) {
	id, err := api.RequireID("member incarnation", m.GetIncarnation())
	return fence.Member{Node: tidegate.NodeName(m.GetNode()), Incarnation: id}, err
}

// ConfigMessage converts a configuration; one without members is nil.
func ConfigMessage(c fence.Config) *pb.Config {
	if len(c.Members) == 0 {
		return nil
	}
	out := &pb.Config{W: uint32(c.W)}
	for _, m := range c.Members {
		out.Members = append(out.Members, MemberMessage(m))
	}
	return out
}

// Config converts back; nil is the zero configuration.
func Config(m *pb.Config) (fence.Config, error) {
	if m == nil {
		return fence.Config{}, nil
	}
	c := fence.Config{W: int(m.GetW())}
	for _, mm := range m.GetMembers() {
		member, err := Member(mm)
		if err != nil {
			return c, err
		}
		c.Members = append(c.Members, member)
	}
	return c, c.Validate()
}

// GateMessage converts the gate's part of a record.
func GateMessage(g fence.GateRecord) *pb.GateRecord {
	m := &pb.GateRecord{
		State: gateStates[g.State], Mode: api.ModeMessage(g.Mode), Bounds: api.BoundsMessage(g.Bounds), SinceSeq: uint64(g.SinceSeq),
	}
	if g.Lease > 0 {
		m.Lease = durationpb.New(g.Lease)
	}
	return m
}

// Gate converts back.
func Gate(m *pb.GateRecord) (fence.GateRecord, error) {
	b, err := api.Bounds(m.GetBounds())
	if err != nil {
		return fence.GateRecord{}, fmt.Errorf("gate %w", err)
	}
	g := fence.GateRecord{
		Mode: api.Mode(m.GetMode()), Bounds: b, SinceSeq: tidegate.Seq(m.GetSinceSeq()), Lease: m.GetLease().AsDuration(),
	}
	var ok bool
	if g.State, ok = back(gateStates, m.GetState()); !ok {
		return g, fmt.Errorf("gate state %s: want a known one", m.GetState())
	}
	if g.Mode == "" {
		return g, fmt.Errorf("gate mode %s: want open, bounded or sync", m.GetMode())
	}
	if g.Lease < 0 {
		return g, fmt.Errorf("gate lease %s: want none or a positive one", g.Lease)
	}
	return g, nil
}

// HandoverMessage converts what a writer handed over; nil is nil.
func HandoverMessage(h *fence.Handover) *pb.Handover {
	if h == nil {
		return nil
	}
	m := &pb.Handover{Head: api.LogPosMessage(h.Head), Position: uint64(h.Position), StateKnown: h.StateKnown}
	if h.StateKnown {
		m.StateDigest = h.StateDigest.String()
	}
	return m
}

// Handover converts back; nil is nil.
func Handover(m *pb.Handover) (*fence.Handover, error) {
	if m == nil {
		return nil, nil
	}
	h := &fence.Handover{Position: tidegate.Position(m.GetPosition()), StateKnown: m.GetStateKnown()}
	var err error
	if h.Head, err = api.LogPos(m.GetHead()); err != nil {
		return nil, fmt.Errorf("handover %w", err)
	}
	if h.StateKnown {
		if err := h.StateDigest.UnmarshalText([]byte(m.GetStateDigest())); err != nil {
			return nil, fmt.Errorf("handover state: %w", err)
		}
	}
	return h, nil
}

// RecordMessage converts an epoch record with the revision of its key.
func RecordMessage(r fence.EpochRecord, revision int64) *pb.EpochRecord {
	out := &pb.EpochRecord{
		StreamId: api.IDText(r.Stream), Epoch: uint64(r.Epoch), Holder: HolderMessage(r.Holder), State: states[r.State],
		Gate: GateMessage(r.Gate), Config: ConfigMessage(r.Config), ActiveEpoch: uint64(r.ActiveEpoch),
		StartSeq: uint64(r.StartSeq), Head: api.LogPosMessage(r.Head), History: HistoryMessage(r.History),
		Source: string(r.Source), PlanId: api.IDText(r.Plan), PlanKind: KindMessage(r.Kind),
		Unclean: r.Unclean, Restored: r.Restored, Shrunk: r.Shrunk, Revision: revision, Active: HolderMessage(r.Active),
		Target: HolderMessage(r.Target), Handover: HandoverMessage(r.Handover), Forced: uint64(r.Forced),
	}
	if r.Deadline != 0 {
		out.Deadline = timestamppb.New(time.Unix(0, r.Deadline))
	}
	if r.Since != 0 {
		out.Since = timestamppb.New(time.Unix(0, r.Since))
	}
	return out
}

// Record converts back and checks the record's invariants.
func Record(m *pb.EpochRecord) (r fence.EpochRecord, revision int64, err error) {
	if m == nil {
		return r, 0, fmt.Errorf("epoch record: want one")
	}
	r = fence.EpochRecord{
		Version: fence.EpochRecordVersion, Epoch: tidegate.Epoch(m.GetEpoch()), ActiveEpoch: tidegate.Epoch(m.GetActiveEpoch()),
		StartSeq: tidegate.Seq(m.GetStartSeq()), Source: tidegate.NodeName(m.GetSource()), Kind: Kind(m.GetPlanKind()),
		Unclean: m.GetUnclean(), Restored: m.GetRestored(), Shrunk: m.GetShrunk(), Forced: tidegate.Epoch(m.GetForced()),
	}
	if m.GetSince() != nil {
		r.Since = m.GetSince().AsTime().UnixNano()
	}
	if m.GetDeadline() != nil {
		r.Deadline = m.GetDeadline().AsTime().UnixNano()
	}
	var ok bool
	if r.State, ok = back(states, m.GetState()); !ok {
		return r, 0, fmt.Errorf("epoch record state %s: want a known one", m.GetState())
	}
	for _, parse := range []func() error{
		func() (err error) { r.Stream, err = api.RequireID("stream id", m.GetStreamId()); return err },
		func() (err error) { r.Holder, err = Holder(m.GetHolder()); return err },
		func() (err error) { r.Active, err = Holder(m.GetActive()); return err },
		func() (err error) { r.Gate, err = Gate(m.GetGate()); return err },
		func() (err error) { r.Config, err = Config(m.GetConfig()); return err },
		func() (err error) { r.Head, err = api.LogPos(m.GetHead()); return err },
		func() (err error) { r.History, err = History(m.GetHistory()); return err },
		func() (err error) { r.Target, err = Holder(m.GetTarget()); return err },
		func() (err error) { r.Handover, err = Handover(m.GetHandover()); return err },
		func() (err error) { r.Plan, err = api.ParseID("plan id", m.GetPlanId()); return err },
	} {
		if err := parse(); err != nil {
			return r, 0, fmt.Errorf("epoch record: %w", err)
		}
	}
	return r, m.GetRevision(), r.Validate()
}

// KindMessage converts a plan's kind.
func KindMessage(k fence.PlanKind) pb.PlanKind { return kinds[k] }

// Kind converts back; unspecified is "".
func Kind(m pb.PlanKind) fence.PlanKind {
	k, _ := back(kinds, m)
	return k
}

var states = map[fence.State]pb.EpochState{
	fence.StateActive:     pb.EpochState_EPOCH_STATE_ACTIVE,
	fence.StateSwitching:  pb.EpochState_EPOCH_STATE_SWITCHING,
	fence.StateDemoted:    pb.EpochState_EPOCH_STATE_DEMOTED,
	fence.StateFencing:    pb.EpochState_EPOCH_STATE_FENCING,
	fence.StateRecovering: pb.EpochState_EPOCH_STATE_RECOVERING,
}

var gateStates = map[fence.GateState]pb.GateState{
	fence.GateArmed:    pb.GateState_GATE_STATE_ARMED,
	fence.GateDegraded: pb.GateState_GATE_STATE_DEGRADED,
	fence.GateBlindOK:  pb.GateState_GATE_STATE_BLIND_OK,
	fence.GateUnknown:  pb.GateState_GATE_STATE_UNKNOWN,
}

var kinds = map[fence.PlanKind]pb.PlanKind{
	fence.KindAcquire:  pb.PlanKind_PLAN_KIND_ACQUIRE,
	fence.KindFailover: pb.PlanKind_PLAN_KIND_FAILOVER,

	fence.KindSwitchover:  pb.PlanKind_PLAN_KIND_SWITCHOVER,
	fence.KindReconfigure: pb.PlanKind_PLAN_KIND_RECONFIGURE,
}

// back finds the key of a value; the tables have a handful of entries.
func back[K, V comparable](table map[K]V, v V) (K, bool) {
	for k, tv := range table {
		if tv == v {
			return k, true
		}
	}
	var zero K
	return zero, false
}
