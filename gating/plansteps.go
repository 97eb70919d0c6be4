package gating

import (
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
)

// planStep is one step as an operator sees it, with what it usually takes on
// nodes that answer. The numbers are replaced by the medians of the service's own
// finished plans as soon as there are any.
type planStep struct {
	step     fence.PlanStep
	name     string
	expected time.Duration
	source   string // of the number
	kinds    []fence.PlanKind
	impact   string // what users notice; of a switchover unless said otherwise
}

var (
	everyKind   = []fence.PlanKind{fence.KindAcquire, fence.KindFailover, fence.KindSwitchover, fence.KindReconfigure}
	movingKinds = []fence.PlanKind{fence.KindFailover, fence.KindSwitchover}
	onlySwitch  = []fence.PlanKind{fence.KindSwitchover}
)

// Where the first estimates come from, before there is a plan to learn from.
const (
	sourceTxn   = "estimate: one transaction of the registry"
	sourceFence = "estimate: a WAN round trip and an fsync"
	sourceDrain = "estimate: what is in flight, a handover batch at every member, its apply"
	sourceAdopt = "estimate: members that are close, an fsync each"
	sourceApply = "estimate: an idle target; its backlog is added where it is known"
	sourceRoute = "estimate: one driver or proxy"
	sourceLease = "estimate: no lease to wait out"
)

const (
	impactNone    = "none"
	impactRefused = "new writes are refused, or held by the proxies; what is in flight is finished"
	impactWaiting = "writes wait"
	impactCut     = "connections are cut once and go to the new site"
)

var planSteps = []planStep{
	{fence.StepSwitching, "S1 ask the writer to drain", 20 * time.Millisecond, sourceTxn, onlySwitch, impactNone},
	{fence.StepDrain, "S2 drain and hand over", 500 * time.Millisecond, sourceDrain, onlySwitch, impactRefused},
	{fence.StepReserve, "F1 reserve the next epoch", 20 * time.Millisecond, sourceTxn, everyKind, impactWaiting},
	{fence.StepFence, "F2 fence the old writer", 200 * time.Millisecond, sourceFence, everyKind, impactWaiting},
	{fence.StepChoose, "F3 choose the head", 20 * time.Millisecond, sourceTxn, everyKind, impactWaiting},
	{fence.StepLease, "F4 old outputs over", 0, sourceLease, everyKind, impactWaiting},
	{fence.StepAdopt, "F5 bring members to the head", 500 * time.Millisecond, sourceAdopt, everyKind, impactWaiting},
	{fence.StepActivate, "F6 activate", 20 * time.Millisecond, sourceTxn, everyKind, impactWaiting},
	{fence.StepApply, "F7 apply and promote", 500 * time.Millisecond, sourceApply, movingKinds, impactWaiting},
	{fence.StepRoute, "F8 switch the route", 300 * time.Millisecond, sourceRoute, movingKinds, impactCut},
	{fence.StepReport, "F9 report", 10 * time.Millisecond, sourceTxn, movingKinds, impactNone},
}

// stepsOf returns the steps of a kind of plan, in order.
func stepsOf(k fence.PlanKind) []planStep {
	var out []planStep
	for _, s := range planSteps {
		if slices.Contains(s.kinds, k) {
			out = append(out, s)
		}
	}
	return out
}

func (s planStep) impactOf(k fence.PlanKind) string {
	switch {
	case s.impact == impactWaiting && k == fence.KindSwitchover:
		return impactRefused
	case s.impact == impactWaiting && k == fence.KindFailover:
		return "writes get no answer"
	}
	return s.impact
}

// sumExpected adds the steps' times up: all of them, and those that users notice.
func sumExpected(v *pb.Plan) {
	var total, pause time.Duration
	for _, s := range v.GetSteps() {
		total += s.GetExpected().AsDuration()
		if s.GetImpact() != impactNone {
			pause += s.GetExpected().AsDuration()
		}
	}
	v.Expected, v.PauseExpected = durationpb.New(total), durationpb.New(pause)
}

// showPause says how long users were refused or kept waiting, as far as it is
// known: of a failover from the fault to the first good write, of a switchover
// from the moment at which the writer was asked to drain, of a reconfiguration
// while the epoch changed.
func showPause(v *pb.Plan, p fence.Plan) {
	from, to := p.Times.T0, p.Times.T8
	switch p.Kind {
	case fence.KindSwitchover:
		if from = p.Times.S1; to.IsZero() {
			to = routed(v)
		}
	case fence.KindReconfigure, fence.KindAcquire:
		from, to = p.Times.T2, p.Times.T5
	case fence.KindFailover:
	}
	if !from.IsZero() && to.After(from) {
		v.PauseActual = durationpb.New(to.Sub(from))
	}
	if v.GetEnded() != nil && v.GetStarted() != nil {
		v.Took = durationpb.New(v.GetEnded().AsTime().Sub(v.GetStarted().AsTime()))
	}
}

// routed returns when F8 ended: as close to the first write as the gate can tell
// without a prober; the zero time while it has not.
func routed(v *pb.Plan) time.Time {
	for _, s := range v.GetSteps() {
		if s.GetName() == nameOf(fence.StepRoute) && s.GetState() == stepDone {
			return s.GetStarted().AsTime().Add(s.GetTook().AsDuration())
		}
	}
	return time.Time{}
}

func nameOf(step fence.PlanStep) string {
	for _, s := range planSteps {
		if s.step == step {
			return s.name
		}
	}
	return ""
}

// showStep brings the view's steps to the plan's step and returns the ones that
// changed. A plan that goes back to F1 begins its steps anew.
func showStep(v *pb.Plan, step fence.PlanStep, now time.Time) []*pb.PlanStep {
	name := nameOf(step)
	at := slices.IndexFunc(v.GetSteps(), func(s *pb.PlanStep) bool { return s.GetName() == name })
	switch step {
	case fence.StepDone:
		at = len(v.GetSteps())
	case fence.StepRefused, fence.StepGone:
		return endStep(v, stepFailed, now)
	case fence.StepDecide, fence.StepAbort:
		return nil
	}
	if at < 0 {
		return nil
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
	name := nameOf(step)
	for _, s := range v.GetSteps() {
		switch {
		case s.GetName() == name:
			s.Started, s.Took = timestamppb.New(began), durationpb.New(ended.Sub(began))
		case s.GetState() == stepRunning:
			s.Started = timestamppb.New(ended)
		}
	}
}
