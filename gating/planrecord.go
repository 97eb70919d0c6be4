package gating

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
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
	"github.com/tidegate/tidegate/rpo"
)

// planRecord is a plan as the registry keeps it: the core's own record, from
// which any gate goes on, and the view that operators see.
type planRecord struct {
	plan fence.Plan
	view *pb.Plan
}

type planJSON struct {
	Version int             `json:"version"`
	Fence   json.RawMessage `json:"fence"`
	View    json.RawMessage `json:"view"`
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
	return json.Marshal(planJSON{Version: planRecordVersion, Fence: f, View: v})
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
	p.view = &pb.Plan{}
	// A newer gate's view may have fields that this one does not know.
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(raw.View, p.view)
}

// newPlanID draws an id that sorts by time: 48 bits of milliseconds, 80 random.
func newPlanID(now time.Time) tidegate.ID {
	id := tidegate.NewID()
	ms := uint64(now.UnixMilli())
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	return id
}

// planSteps are the steps an operator sees, with what they usually take on
// nodes that answer; the numbers are calibrated by finished plans of the service.
var planSteps = []struct {
	step     fence.PlanStep
	name     string
	expected time.Duration
	failover bool
}{
	{fence.StepReserve, "F1 reserve the next epoch", 20 * time.Millisecond, false},
	{fence.StepFence, "F2 fence the old writer", 200 * time.Millisecond, false},
	{fence.StepChoose, "F3 choose the head", 20 * time.Millisecond, false},
	{fence.StepLease, "F4 old outputs over", 0, false},
	{fence.StepAdopt, "F5 bring members to the head", 500 * time.Millisecond, false},
	{fence.StepActivate, "F6 activate", 20 * time.Millisecond, false},
	{fence.StepApply, "F7 apply and promote", 500 * time.Millisecond, true},
	{fence.StepRoute, "F8 switch the route", 300 * time.Millisecond, true},
	{fence.StepReport, "F9 report", 10 * time.Millisecond, true},
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
	var total time.Duration
	for _, s := range planSteps {
		if s.failover && p.Kind != fence.KindFailover {
			continue
		}
		total += s.expected
		v.Steps = append(v.Steps, &pb.PlanStep{Name: s.name, State: stepPending, Expected: durationpb.New(s.expected)})
	}
	v.Expected = durationpb.New(total)
	showStreams(v, p)
	return v
}

// showStreams brings the view's streams, loss and phases to the plan's state.
func showStreams(v *pb.Plan, p fence.Plan) {
	v.Streams = v.Streams[:0]
	for i := range p.Streams {
		s := &p.Streams[i]
		out := &pb.PlanStream{
			StreamId: s.Stream.String(), Name: string(s.Name), FromEpoch: uint64(fromEpoch(p, s.Record)), Epoch: uint64(s.Record.Epoch),
			Head: api.LogPosMessage(s.Record.Head),
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

// showStep brings the view's steps to the plan's step and returns the ones that
// changed. A plan that goes back to F1 begins its steps anew.
func showStep(v *pb.Plan, step fence.PlanStep, now time.Time) []*pb.PlanStep {
	at := slices.IndexFunc(planSteps, func(s struct {
		step     fence.PlanStep
		name     string
		expected time.Duration
		failover bool
	},
	) bool {
		return s.step == step
	})
	switch step {
	case fence.StepDecide:
		return nil
	case fence.StepDone:
		at = len(v.Steps)
	case fence.StepRefused, fence.StepGone:
		return endStep(v, stepFailed, now)
	}
	var changed []*pb.PlanStep
	for i, s := range v.Steps {
		want := stepPending
		switch {
		case i < at:
			want = stepDone
		case i == at:
			want = stepRunning
		}
		if s.GetState() == want {
			continue
		}
		if want == stepPending {
			s.Started, s.Took = nil, nil
		}
		if s.GetStarted() == nil && want != stepPending {
			s.Started = timestamppb.New(now)
		}
		if want == stepDone {
			s.Took = durationpb.New(now.Sub(s.GetStarted().AsTime()))
		}
		s.State = want
		changed = append(changed, s)
	}
	return changed
}

// tookStep corrects the times of a step that one transaction did, and the
// beginning of the next one.
func tookStep(v *pb.Plan, step fence.PlanStep, began, ended time.Time) {
	for i, s := range v.GetSteps() {
		switch {
		case planSteps[i].step == step:
			s.Started, s.Took = timestamppb.New(began), durationpb.New(ended.Sub(began))
		case s.GetState() == stepRunning:
			s.Started = timestamppb.New(ended)
		}
	}
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
