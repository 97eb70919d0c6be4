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
	"github.com/tidegate/tidegate/internal/retry"
)

// errPreempted ends a run in favour of another plan of the same service.
var errPreempted = errors.New("another plan of the service goes first")

// errOutdated ends a plan that was written down and never begun.
var errOutdated = errors.New("the gate that wrote it down did not begin it, and nobody waits for it any more; nothing was changed")

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
		events: make(chan fence.ControlEvent, eventsMax), inflight: map[string]bool{},
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

// --- the registry ---

func (r *runner) readKeys(ctx context.Context, e fence.ReadKeys) (fence.ControlEvent, error) {
	entries, err := r.store.ReadEpochs(ctx, e.Streams...)
	if err != nil {
		if !r.mayRetry(ctx, err) {
			return nil, err
		}
		return r.again(ctx, fence.TxnUnknown{Token: e.Token})
	}
	ev := fence.KeysRead{Token: e.Token}
	for i, id := range e.Streams {
		ev.Keys = append(ev.Keys, fence.KeyState{Stream: id, Revision: entries[i].Revision, Record: entries[i].Value})
	}
	return ev, nil
}

// again waits a tick before an answer that makes the core ask again at once: a
// registry that is down must not be asked in a tight loop.
func (r *runner) again(ctx context.Context, ev fence.ControlEvent) (fence.ControlEvent, error) {
	t := time.NewTimer(r.timing.Tick)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-t.C:
		return ev, nil
	}
}

// mayRetry reports whether a failed request may be repeated: the registry does
// not answer, and this run is still wanted.
func (r *runner) mayRetry(ctx context.Context, err error) bool {
	return ctx.Err() == nil && tidegate.ClassOf(err) == tidegate.Transient && !errors.Is(err, tidegate.ErrConflict)
}

func (r *runner) txn(ctx context.Context, e fence.Txn) (fence.ControlEvent, error) {
	began := r.now()
	changed := r.draw(e.Plan)
	t := new(registry.Tx).Leading(r.lead)
	for _, p := range e.Puts {
		t.Unchanged(registry.EpochKey(p.Stream), p.IfRevision).Put(registry.EpochKey(p.Stream), p.Record)
		if e.Step == fence.StepActivate {
			t.Put(registry.HistoryKey(p.Stream, p.Record.Epoch), p.Record)
		}
	}
	t.Put(registry.PlanKey(e.Plan.ID.String()), planRecord{plan: e.Plan, view: r.view, next: r.next})
	rev, err := r.store.Commit(ctx, t)
	switch {
	case err == nil:
		// The record had to say that the step is done; how long the registry took
		// is known only now, and goes on record with the next step.
		tookStep(r.view, e.Step, began, r.now())
		if e.Step == fence.StepReserve && r.reserved.IsZero() {
			r.reserved = r.now()
		}
		r.tell(e.Plan, changed)
		r.recorded()
		return fence.TxnDone{Token: e.Token, Committed: true, Revision: rev}, nil
	case errors.Is(err, tidegate.ErrConflict):
		return fence.TxnDone{Token: e.Token}, r.stillLeading(ctx)
	case r.mayRetry(ctx, err):
		return r.again(ctx, fence.TxnUnknown{Token: e.Token})
	}
	return nil, err
}

// stillLeading tells the two reasons of a conflict apart: a changed key is the
// core's business, a lost turn ends the run.
func (r *runner) stillLeading(ctx context.Context) error {
	return retry.Policy{}.Do(ctx, func(ctx context.Context) error {
		_, err := r.store.Commit(ctx, new(registry.Tx).Leading(r.lead))
		if errors.Is(err, tidegate.ErrConflict) {
			return &tidegate.Error{Op: "run plan", Subject: r.view.GetId(), Class: tidegate.Permanent, Err: errNotLeading}
		}
		return err
	})
}

// save writes the plan's record and returns when it is durable: whatever the
// core does next is done after that.
func (r *runner) save(ctx context.Context, p fence.Plan) error {
	r.show(p)
	rec := planRecord{plan: p, view: r.view, next: r.next}
	return retry.Policy{First: r.timing.Tick, Max: 4 * r.timing.Tick}.Do(ctx, func(ctx context.Context) error {
		_, err := r.store.Commit(ctx, new(registry.Tx).Leading(r.lead).Put(registry.PlanKey(p.ID.String()), rec))
		if errors.Is(err, tidegate.ErrConflict) {
			return &tidegate.Error{Op: "save plan", Subject: p.ID.String(), Class: tidegate.Permanent, Err: errNotLeading}
		}
		if err == nil {
			r.recorded()
		}
		return err
	})
}

func (r *runner) recorded() {
	r.saved++
	if r.afterSave != nil {
		r.afterSave(r.ctl.Plan().Step, r.saved)
	}
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

// handle is a run as others see it.
type handle struct {
	id      tidegate.ID
	service tidegate.ServiceName
	kind    fence.PlanKind
	target  fence.Holder

	mu      sync.Mutex
	plan    fence.Plan
	view    *pb.Plan
	steps   []*pb.PlanStep // every change of a step so far, in order
	changed chan struct{}
	over    chan struct{} // closed when the run has ended
	err     error         // why the run ended before the plan did
	next    *handle       // the second part of the change, once it has begun
	said    string        // of the drain; see remark

	preempt   chan struct{}           // full when the run is asked to give way
	asked     chan fence.ControlEvent // what others want the run to know
	noAbort   string                  // why the plan cannot be called off any more
	noAborted chan struct{}           // closed when that is known
}

func newHandle(p fence.Plan, view *pb.Plan) *handle {
	return &handle{
		id: p.ID, service: p.Service, kind: p.Kind, target: p.Target, plan: p, view: proto.CloneOf(view),
		changed: make(chan struct{}), over: make(chan struct{}), asked: make(chan fence.ControlEvent), noAborted: make(chan struct{}),
		preempt: make(chan struct{}, 1),
	}
}

// giveWay asks the run to end in favour of another plan, if it has not been asked.
func (h *handle) giveWay() {
	select {
	case h.preempt <- struct{}{}:
	default:
	}
}

// poke steps the run with an event if it is ready to take one; what it tells can
// be found out otherwise too.
func (h *handle) poke(ev fence.ControlEvent) {
	select {
	case h.asked <- ev:
	default:
	}
}

// abort asks the run to call the plan off, and waits until it has ended or says
// that this cannot be done any more.
func (h *handle) abort(ctx context.Context, ev fence.Abort) error {
	select {
	case h.asked <- ev:
	case <-h.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-h.noAborted:
		h.mu.Lock()
		defer h.mu.Unlock()
		return &tidegate.Error{Op: "abort plan", Subject: h.id.String(), Class: tidegate.Refused, Err: errors.New(h.noAbort), Hint: "it goes on by itself: `tidegate plan show " + h.id.String() + "`"}
	case <-h.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *handle) refuseAbort(why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.noAbort == "" {
		h.noAbort = why
		close(h.noAborted)
	}
}

// step returns how far the plan has come.
func (h *handle) step() fence.PlanStep {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.plan.Step
}

func (h *handle) setNext(n *handle) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next = n
}

// following returns the second part of the change; valid once over is closed.
func (h *handle) following() *handle {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.next
}

func (h *handle) publish(p fence.Plan, view *pb.Plan, steps []*pb.PlanStep) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.plan, h.view = p, proto.CloneOf(view)
	for _, s := range steps {
		h.steps = append(h.steps, proto.CloneOf(s))
	}
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *handle) end(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
	close(h.over)
}

// since returns the step changes after the first n, and a channel closed at the next one.
func (h *handle) since(n int) (steps []*pb.PlanStep, changed <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.steps[n:], h.changed
}

// result returns how the run ended; valid once over is closed.
func (h *handle) result() (fence.Plan, *pb.Plan, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.plan, proto.CloneOf(h.view), h.err
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
