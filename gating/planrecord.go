package gating

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/rpo"
)

// planRecord is a plan as the registry keeps it: the core's own record, from
// which any gate goes on, and the view that operators see.
type planRecord struct {
	plan fence.Plan
	view *pb.Plan
	next *successor // what follows once the plan is done; nil for nothing

	at    int64              // registry revision that it was read at, 0 for none; not kept
	with  func(*registry.Tx) // what else its first transaction demands and does; not kept
	named bool               // somebody named the target of a change of role; not kept
}

// successor is the second part of a change that takes two plans. Any gate that
// leads when the first one is done begins it.
type successor struct {
	Kind   string            `json:"kind"` // name of the pb.PlanKind
	Target tidegate.NodeName `json:"target"`
	Drain  time.Duration     `json:"drain"` // nanoseconds
}

type planJSON struct {
	Version int             `json:"version"`
	Fence   json.RawMessage `json:"fence"`
	View    json.RawMessage `json:"view"`
	Next    *successor      `json:"next,omitempty"`
}

// planRecordVersion is the version of the JSON form of a plan's record.
const planRecordVersion = 1

// Marshal returns the record's bytes; the registry calls it.
func (p planRecord) Marshal() ([]byte, error) {
	f, err := p.plan.Marshal()
	if err != nil {
		return nil, err
	}
	v, err := protojson.Marshal(p.view)
	if err != nil {
		return nil, err
	}
	return json.Marshal(planJSON{Version: planRecordVersion, Fence: f, View: v, Next: p.next})
}

// UnmarshalJSON reads what Marshal wrote and refuses other versions.
func (p *planRecord) UnmarshalJSON(b []byte) error {
	var raw planJSON
	if err := json.Unmarshal(b, &raw); err != nil {
		return err
	}
	if raw.Version != planRecordVersion {
		return fmt.Errorf("plan record version %d: %w", raw.Version, tidegate.ErrUnsupported)
	}
	var err error
	if p.plan, err = fence.ParsePlan(raw.Fence); err != nil {
		return err
	}
	p.view, p.next = &pb.Plan{}, raw.Next
	// A newer gate's view may have fields that this one does not know.
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(raw.View, p.view)
}

// States of a step.
const (
	stepPending = "pending"
	stepRunning = "running"
	stepDone    = "done"
	stepFailed  = "failed"
)

// newView draws the plan an operator sees before anything is done.
func newView(p fence.Plan, gate string, now time.Time) *pb.Plan {
	v := &pb.Plan{
		Id: p.ID.String(), Kind: fencewire.KindMessage(p.Kind), Service: string(p.Service), Target: fencewire.HolderMessage(p.Target),
		Outcome: pb.PlanOutcome_PLAN_OUTCOME_RUNNING, Reason: p.Reason, Actor: p.Actor, Controller: gate,
		Started: timestamppb.New(now), AcceptLoss: p.AcceptLoss, AttestPrimaryDown: p.AttestPrimaryDown,
	}
	for _, s := range stepsOf(p.Kind) {
		v.Steps = append(v.Steps, &pb.PlanStep{Name: s.name, State: stepPending, Expected: durationpb.New(s.expected), ExpectedFrom: s.source, Impact: s.impactOf(p.Kind)})
	}
	sumExpected(v)
	showStreams(v, p)
	return v
}

// showStreams brings the view's streams, loss and phases to the plan's state.
func showStreams(v *pb.Plan, p fence.Plan) {
	before := map[string]*pb.Config{}
	for _, s := range v.GetStreams() {
		before[s.GetStreamId()] = s.GetFromConfig()
	}
	v.Streams = v.Streams[:0]
	for i := range p.Streams {
		s := &p.Streams[i]
		out := &pb.PlanStream{
			StreamId: s.Stream.String(), Name: string(s.Name), FromEpoch: uint64(fromEpoch(p, s.Record)), Epoch: uint64(s.Record.Epoch),
			Head: api.LogPosMessage(s.Record.Head), Handover: fencewire.HandoverMessage(s.Record.Handover), FromConfig: before[s.Stream.String()],
		}
		if p.Attempts > 0 && s.Record.State == fence.StateActive {
			out.Config = fencewire.ConfigMessage(s.Record.Config)
		}
		if i < len(p.Loss) {
			out.Loss = fencewire.LossMessage(p.Loss[i])
		}
		v.Streams = append(v.Streams, out)
	}
	v.Loss = serviceLoss(v.Streams)
	v.Phases = phasesMessage(p.Times)
	v.AttestPrimaryDown = p.AttestPrimaryDown
}

// showDetails says beside the steps what needs no alarm: members that had not
// answered when those that had were enough, and that nothing was verified.
func showDetails(v *pb.Plan, p fence.Plan) {
	var late []string
	for i := range p.Streams {
		for _, n := range p.Streams[i].Record.Missing {
			late = unique(late, []string{string(n)})
		}
	}
	for _, s := range v.GetSteps() {
		switch {
		case s.GetState() != stepDone:
		case strings.HasPrefix(s.GetName(), "F2") && len(late) > 0:
			s.Detail = "without " + strings.Join(sorted(late), ", ")
		case strings.HasPrefix(s.GetName(), "F7") && !p.Verify:
			s.Detail = "not verified by a write before the route is switched"
		case strings.HasPrefix(s.GetName(), "F7") && p.Unverified != "":
			s.Detail = "a write before the route is switched was wanted, and not confirmed: " + p.Unverified
		}
	}
}

// fromEpoch is the epoch that the plan replaces: the last active one, and once
// the plan's own is active the one before it in the log. 0: there was none.
func fromEpoch(p fence.Plan, r fence.EpochRecord) tidegate.Epoch {
	switch n := len(r.History); {
	case p.Attempts == 0 || r.ActiveEpoch < r.Epoch:
		return r.ActiveEpoch
	case n >= 2:
		return r.History[n-2].Epoch
	}
	return 0
}

func endStep(v *pb.Plan, state string, now time.Time) []*pb.PlanStep {
	for _, s := range v.Steps {
		if s.GetState() == stepRunning {
			s.State, s.Took = state, durationpb.New(now.Sub(s.GetStarted().AsTime()))
			return []*pb.PlanStep{s}
		}
	}
	return nil
}

// lossRank orders kinds from strongest to weakest claim.
var lossRank = map[pb.LossKind]int{
	pb.LossKind_LOSS_KIND_ZERO: 1, pb.LossKind_LOSS_KIND_AT_MOST: 2, pb.LossKind_LOSS_KIND_UNKNOWN: 3,
}

// worstLoss picks the weakest of the streams' claims; see serviceLoss.
func worstLoss(streams []*pb.PlanStream) *pb.LossStatement {
	var worst *pb.LossStatement
	for _, s := range streams {
		if l := s.GetLoss(); l != nil && (worst == nil || weaker(l, worst)) {
			worst = l
		}
	}
	return worst
}

// weaker orders claims: by kind, then by what is known to be lost, then by how
// long the DR side was blind.
func weaker(a, b *pb.LossStatement) bool {
	return cmp.Or(
		cmp.Compare(lossRank[a.GetKind()], lossRank[b.GetKind()]), cmp.Compare(a.GetAtLeast(), b.GetAtLeast()),
		cmp.Compare(a.GetBlind().AsDuration(), b.GetBlind().AsDuration()),
	) > 0
}

// phasesOf converts the core's stamps to package rpo's phases.
func phasesOf(t fence.Timings) rpo.Phases {
	var p rpo.Phases
	for m, at := range map[rpo.Moment]time.Time{
		rpo.Fault: t.T0, rpo.Suspected: t.T1, rpo.Decided: t.T2, rpo.Fenced: t.T3, rpo.LeaseOver: t.T3Lease, rpo.CaughtUp: t.T4,
		rpo.Promoted: t.T5, rpo.Applied: t.T6, rpo.Verified: t.T7, rpo.Rerouted: t.T8, rpo.Reconstituted: t.T9,
	} {
		if !at.IsZero() {
			p.Stamp(m, at)
		}
	}
	return p
}

func phasesMessage(t fence.Timings) *pb.Phases {
	p := phasesOf(t)
	out := &pb.Phases{}
	for _, ph := range p.List() {
		m := &pb.Phase{Name: ph.Name, Ends: ph.Ends.String()}
		if at, ok := p.At(ph.Ends); ok {
			m.At = timestamppb.New(at)
		}
		if ph.Known {
			m.Took = durationpb.New(ph.Duration)
		}
		out.Phases = append(out.Phases, m)
	}
	if d, ok := p.RTA(); ok {
		out.Rta = durationpb.New(d)
	}
	if d, ok := p.Controllable(); ok {
		out.Controllable = durationpb.New(d)
	}
	return out
}
