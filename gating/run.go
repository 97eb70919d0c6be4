package gating

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
)

// errPreempted ends a run in favour of another plan of the same service.
var errPreempted = errors.New("another plan of the service goes first")

// errOutdated ends a plan that was written down and never begun.
var errOutdated = errors.New("the gate that wrote it down did not begin it, and nobody waits for it any more; nothing was changed")

// errUnconfirmed ends a plan whose first record was not confirmed to whoever asked
// for it: it may have been written all the same, and nobody carries it out.
var errUnconfirmed = errors.New("the registry did not confirm in time that the plan was written down, so it was not begun; nothing was changed")

// runner carries out one plan. Its run is called once; the handle is what
// others may touch meanwhile.
type runner struct {
	parts
	lead   *registry.Leadership
	ctl    *fence.Controller
	view   *pb.Plan
	next   *successor
	handle *handle

	events   chan fence.ControlEvent
	inflight map[string]bool // calls that are out; their names come back in events
	deadline *time.Timer     // of the current step
	awaiting fence.PlanStep
	leases   time.Duration // the longest lease that F4 waits for; 0 none
	reserved time.Time     // F1 was done by then, on this gate's clock; zero while it is not known to be
	saved    int           // records written; a test kills the gate after the n-th
	at       int64         // registry revision of the plan's record; 0 while it is not known
	route    routeWish
}

// routeWish is what F7 learned about where the service answers.
type routeWish struct {
	mu       sync.Mutex
	endpoint string
}

// callDone wraps an event of a background call, so that the runner may start
// the same call again. It never reaches the core.
type callDone struct {
	fence.ControlEvent
	key string
}

// eventsMax bounds the answers that wait for the runner; calls block on it.
const eventsMax = 64

func newRunner(p parts, lead *registry.Leadership, rec planRecord) (*runner, error) {
	ctl, err := fence.NewController(rec.plan)
	if err != nil {
		return nil, &tidegate.Error{Op: "take up plan", Subject: rec.plan.ID.String(), Class: tidegate.Permanent, Err: err}
	}
	view := proto.CloneOf(rec.view)
	view.Controller = p.name
	return &runner{
		parts: p, lead: lead, ctl: ctl, view: view, next: rec.next, handle: newHandle(rec.plan, view),
		events: make(chan fence.ControlEvent, eventsMax), inflight: map[string]bool{}, at: rec.at,
	}, nil
}

// run drives the core until the plan is over (nil), ctx ends, or this gate no
// longer leads. It has stopped every call it started when it returns.
func (r *runner) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var calls sync.WaitGroup
	defer calls.Wait()
	defer cancel()
	r.deadline = time.NewTimer(time.Hour)
	r.deadline.Stop()
	defer r.deadline.Stop()
	tick := time.NewTicker(r.timing.Tick)
	defer tick.Stop()
	effects := r.ctl.Start(r.now())
	for {
		if err := r.carryOut(ctx, &calls, effects); err != nil {
			return err
		}
		if r.ctl.Plan().Finished() {
			return nil
		}
		var ev fence.ControlEvent
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case ev = <-r.events:
		case ev = <-r.handle.asked:
			if a, ok := ev.(fence.Abort); ok {
				r.view.Abort = &pb.PlanAbort{Actor: a.Actor, Reason: a.Reason, At: timestamppb.New(r.now())}
			}
		case <-tick.C:
			ev = fence.Tick{}
		case <-r.deadline.C:
			ev = fence.Deadline{Step: r.awaiting}
		}
		if d, ok := ev.(callDone); ok {
			delete(r.inflight, d.key)
			if ev = d.ControlEvent; ev == nil {
				effects = nil
				continue
			}
		}
		effects = r.ctl.Step(r.now(), ev)
	}
}

// carryOut does effects in order, then steps the core with what came back at
// once, until nothing does.
func (r *runner) carryOut(ctx context.Context, calls *sync.WaitGroup, effects []fence.ControlEffect) error {
	for len(effects) > 0 {
		var back []fence.ControlEvent
		for _, e := range effects {
			ev, err := r.do(ctx, calls, e)
			if err != nil {
				return err
			}
			if ev != nil {
				back = append(back, ev)
			}
		}
		effects = nil
		for _, ev := range back {
			effects = append(effects, r.ctl.Step(r.now(), ev)...)
		}
	}
	return nil
}

func (r *runner) do(ctx context.Context, calls *sync.WaitGroup, e fence.ControlEffect) (fence.ControlEvent, error) {
	switch e := e.(type) {
	case fence.ReadKeys:
		return r.readKeys(ctx, e)
	case fence.Txn:
		return r.txn(ctx, e)
	case fence.SavePlan:
		return nil, r.save(ctx, e.Plan)
	case fence.SendFence:
		r.call(ctx, calls, fmt.Sprintf("fence %s %s %s", e.Member.Node, e.Req.Stream, e.Req.Epoch), func(ctx context.Context) fence.ControlEvent {
			v, _, _ := r.world.current()
			reply, err := r.standbys.fence(ctx, v, e.Member, e.Req)
			if err != nil {
				r.unanswered("fence", e.Member.Node, err)
				return nil
			}
			return fence.FenceReplied{Reply: reply}
		})
	case fence.SendAdopt:
		r.call(ctx, calls, fmt.Sprintf("adopt %s %s %s", e.Member.Node, e.Req.Stream, e.Req.Epoch), func(ctx context.Context) fence.ControlEvent {
			v, _, _ := r.world.current()
			reply, err := r.standbys.adopt(ctx, v, e.Member, e.Req)
			if err != nil {
				r.unanswered("adopt", e.Member.Node, err)
				return nil
			}
			return fence.AdoptReplied{Reply: reply}
		})
	case fence.SendPromote:
		r.sendPromote(ctx, calls, e)
	case fence.Verify:
		r.call(ctx, calls, "verify", func(ctx context.Context) fence.ControlEvent { return r.verify(ctx, e) })
	case fence.SwitchRoute:
		r.call(ctx, calls, "route", func(ctx context.Context) fence.ControlEvent { return r.switchRoute(ctx, e) })
	case fence.SetDeadline:
		r.awaiting = e.Step
		r.deadline.Reset(r.patience(e.Step) + e.Extra)
	case fence.AwaitLease:
		r.log.Info("waiting for the old writer's outputs to be over", "plan", r.view.GetId(), "why", e.Why, "lease", e.Lease)
		if r.leases = e.Lease; e.Lease > 0 {
			plan := r.ctl.Plan()
			if r.reserved.IsZero() {
				// Another gate did F1, and stamped it by its own clock: wait from here on.
				r.reserved = r.now()
			}
			since := r.reserved
			r.call(ctx, calls, "lease", func(ctx context.Context) fence.ControlEvent { return r.awaitLease(ctx, plan, e.Lease, since) })
		}
	case fence.AbortRefused:
		r.view.Abort = nil
		r.handle.refuseAbort(e.Why)
	case fence.Report, fence.Refuse, fence.Superseded, fence.Finished:
		// The plan's record, saved before, says it all.
	}
	return nil, nil
}

func (r *runner) patience(s fence.PlanStep) time.Duration {
	switch s {
	case fence.StepFence:
		return r.timing.Fence
	case fence.StepLease:
		return r.timing.Lease + leasePatience(r.leases)
	case fence.StepDrain:
		return 0 // the plan says how long
	case fence.StepAdopt:
		return r.timing.Adopt
	}
	return r.timing.Apply
}

// call starts a call in the background unless the same one is out already.
func (r *runner) call(ctx context.Context, calls *sync.WaitGroup, key string, fn func(context.Context) fence.ControlEvent) {
	if r.inflight[key] {
		return
	}
	r.inflight[key] = true
	calls.Go(func() {
		ev := fn(ctx)
		select {
		case r.events <- callDone{ControlEvent: ev, key: key}:
		case <-ctx.Done():
		}
	})
}

func (r *runner) unanswered(what string, n tidegate.NodeName, err error) {
	r.log.Debug("standby node did not answer, asking again", "call", what, "node", n, "plan", r.view.GetId(), "err", err)
}

// show brings the view to the plan's state and tells those who watch it.
func (r *runner) show(p fence.Plan) { r.tell(p, r.draw(p)) }

// draw brings the view to the plan's state and returns the steps that changed.
func (r *runner) draw(p fence.Plan) []*pb.PlanStep {
	now := r.now()
	changed := showStep(r.view, p.Step, now)
	showStreams(r.view, p)
	showDetails(r.view, p)
	r.handle.showRemark(r.view)
	switch p.Step {
	case fence.StepDone:
		r.view.Outcome = pb.PlanOutcome_PLAN_OUTCOME_DONE
	case fence.StepRefused:
		r.view.Outcome = pb.PlanOutcome_PLAN_OUTCOME_REFUSED
		if p.Attempts > 0 {
			r.view.Outcome = pb.PlanOutcome_PLAN_OUTCOME_FAILED
		}
		if calledOff(p) {
			r.view.Outcome = pb.PlanOutcome_PLAN_OUTCOME_ABORTED
		}
		if p.Refusal != nil {
			r.view.Error, r.view.Hint = p.Refusal.Error(), p.Refusal.Hint
		}
	case fence.StepGone:
		r.view.Outcome = pb.PlanOutcome_PLAN_OUTCOME_SUPERSEDED
	}
	if p.Finished() && r.view.GetEnded() == nil {
		r.view.Ended = timestamppb.New(now)
	}
	showPause(r.view, p)
	return changed
}

// calledOff reports whether a plan ended with everything as it was before: nobody
// is without a writer.
func calledOff(p fence.Plan) bool {
	if p.Refusal == nil || p.Attempts > 0 && p.Refusal.Rule != fence.RuleConfig {
		return false
	}
	return p.Refusal.Rule == fence.RuleAborted || p.Refusal.Rule == fence.RuleDrain || p.Refusal.Rule == fence.RuleConfig
}

// tell shows the view to those who watch the plan.
func (r *runner) tell(p fence.Plan, changed []*pb.PlanStep) {
	r.handle.publish(p, r.view, changed)
	for _, s := range changed {
		r.log.Info("plan step", "plan", r.view.GetId(), "service", r.view.GetService(), "step", s.GetName(), "state", s.GetState())
	}
}

// --- F7, F8 ---

func (r *runner) sendPromote(ctx context.Context, calls *sync.WaitGroup, e fence.SendPromote) {
	key := fmt.Sprintf("promote %s %s", e.Req.Stream, e.Req.Epoch)
	r.call(ctx, calls, key, func(ctx context.Context) fence.ControlEvent {
		v, _, _ := r.world.current()
		var last *pb.PromoteResponse
		err := r.standbys.promote(ctx, v, e.Node, e.Req, func(m *pb.PromoteResponse) {
			last = m
			if m.GetEndpoint() != "" {
				r.route.set(m.GetEndpoint())
			}
		})
		if err != nil {
			r.unanswered("promote", e.Node, err)
			return nil
		}
		if last.GetRefused() {
			return fence.Promoted{Stream: e.Req.Stream, Class: tidegate.Class(last.GetClass()), Why: last.GetWhy()}
		}
		return fence.Promoted{Stream: e.Req.Stream, Applied: true}
	})
}

func (w *routeWish) set(endpoint string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.endpoint = endpoint
}

func (w *routeWish) get() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.endpoint
}

// verify writes to the promoted service at its endpoint, before clients are sent
// there.
func (r *runner) verify(ctx context.Context, e fence.Verify) fence.ControlEvent {
	name := tidegate.ServiceName(r.view.GetService())
	if !r.probes.verifies(name) {
		return fence.Unverified{Why: "gate " + r.name + " has no probe that verifies the service"} // another gate drew the plan
	}
	vctx, cancel := context.WithTimeout(ctx, r.timing.Verify)
	defer cancel()
	err := r.probes.verify(vctx, name, e.Epoch, func() []string {
		v, _, _ := r.world.current()
		if at := r.route.get(); at != "" {
			return []string{at} // by the word of who was promoted
		}
		return r.world.endpointsOf(v.Services[name].Value, v.StreamsOf(name), e.Holder.Node, e.Holder.Site)
	})
	switch {
	case err == nil:
		return fence.Verified{}
	case ctx.Err() != nil:
		return nil
	}
	r.log.Warn("the promoted service did not confirm a write, its clients are sent there all the same", "plan", r.view.GetId(), "service", name, "waited", r.timing.Verify, "err", err)
	return fence.Unverified{Why: err.Error()}
}

func (r *runner) switchRoute(ctx context.Context, e fence.SwitchRoute) fence.ControlEvent {
	ctx, cancel := context.WithTimeout(ctx, r.timing.Route)
	defer cancel()
	if err := r.routes.to(ctx, r.lead, e.Service, e.Holder, e.Epoch, r.route.get()); err != nil {
		r.log.Warn("route not switched yet, trying again", "plan", r.view.GetId(), "service", e.Service, "err", err)
		return nil
	}
	return fence.RouteSwitched{Epoch: e.Epoch}
}

// verdictErr is the error of a plan that did not end well, nil for one that did.
func verdictErr(p fence.Plan, view *pb.Plan) error {
	switch p.Step {
	case fence.StepRefused:
		rule := &pb.RuleVerdict{Rule: "plan", Reason: view.GetError()}
		if p.Refusal != nil {
			rule = &pb.RuleVerdict{Rule: p.Refusal.Rule, Reason: p.Refusal.Why, Override: overrides[p.Refusal.Rule]}
		}
		class := tidegate.Refused
		if p.Kind == fence.KindAcquire && rule.GetRule() != fence.RuleSameSite && rule.GetRule() != fence.RuleBranch {
			class = tidegate.Transient // the agent goes on asking: members may come back
		}
		return &tidegate.Error{
			Op: string(p.Kind), Subject: string(p.Service), Class: class, Hint: view.GetHint(),
			Err: &api.RulesError{Rules: []*pb.RuleVerdict{rule}},
		}
	case fence.StepGone:
		return &tidegate.Error{
			Op: string(p.Kind), Subject: string(p.Service), Class: tidegate.Transient, Err: fmt.Errorf("superseded: %w", tidegate.ErrConflict),
			Hint: "another change of writer went first; look at `tidegate status` and try again if it is still wanted",
		}
	}
	return nil
}
