package gating

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/internal/retry"
	"github.com/tidegate/tidegate/internal/vfs"
)

// errNotLeading says that another gate runs plans.
var errNotLeading = errors.New("this gate does not lead")

// parts are what the gate's components share.
type parts struct {
	name      string // of this gate
	log       *slog.Logger
	fs        vfs.FS
	timing    Timing
	dir       string
	store     *registry.Store
	world     *world
	standbys  *standbys
	routes    *routes
	probes    *probes
	metrics   *metrics
	forecasts *forecasts
	backups   *backups
	cluster   string
	look      *lookout
	ids       *entryIDs

	rehearsals *rehearsals
	silence    time.Duration // after which a worker has lost its drill

	survives bool             // the registry outlives the loss of any one site
	back     chan struct{}    // a pulse found the registry at an earlier revision
	now      func() time.Time // wall clock that advances with the boot clock: phases are exact

	afterSave func(fence.PlanStep, int) // test seam: called after each durable record of a plan
}

// controller runs plans while this gate leads.
type controller struct {
	parts
	ttl      time.Duration
	notifier *notifier

	mu   sync.Mutex
	term *term // nil while another gate leads
}

// term is one turn at leading.
type term struct {
	lead    *registry.Leadership
	spawn   func(func(context.Context) error) // runs in the turn's group, with the turn's context
	running map[tidegate.ServiceName]*handle
}

// run leads whenever it is this gate's turn, until ctx ends.
func (c *controller) run(ctx context.Context) error {
	b := retry.Policy{First: 100 * time.Millisecond, Max: 2 * time.Second}.Backoff()
	for ctx.Err() == nil {
		lead, err := c.store.Campaign(ctx, c.name, c.ttl)
		if err == nil {
			b.Reset()
			err = c.turn(ctx, lead)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			c.log.Warn("not leading", "err", err)
		}
		if b.Wait(ctx) != nil {
			return nil
		}
	}
	return nil
}

// resignTimeout bounds how long a stopping gate waits for the registry to hear of it.
const resignTimeout = time.Second

func (c *controller) turn(ctx context.Context, lead *registry.Leadership) error {
	tctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g := &errgroup.Group{}
	t := &term{
		lead: lead, running: map[tidegate.ServiceName]*handle{},
		spawn: func(fn func(context.Context) error) { g.Go(func() error { return fn(tctx) }) },
	}
	c.log.Info("leading", "gate", c.name)
	if err := c.resume(tctx, t); err != nil {
		cancel(errNotLeading)
		err = errors.Join(err, g.Wait())
		c.resign(ctx, lead)
		return err
	}
	c.rehearsals.listen()
	c.setTerm(t)
	t.spawn(func(ctx context.Context) error { return c.keepSchedules(ctx, lead) })
	t.spawn(func(ctx context.Context) error { return c.routes.follow(ctx, lead, c.busy) })
	t.spawn(func(ctx context.Context) error { return c.notifier.run(ctx, lead) })
	t.spawn(func(ctx context.Context) error { return c.keepAudit(ctx, lead) })
	t.spawn(func(ctx context.Context) error { return c.callOff(ctx, lead) })
	t.spawn(c.backUp)
	select {
	case <-ctx.Done():
	case <-lead.Done():
		c.log.Warn("turn at leading is over: the registry has not heard from this gate")
	}
	c.setTerm(nil)
	cancel(errNotLeading)
	err := g.Wait()
	c.resign(ctx, lead)
	return err
}

func (c *controller) resign(ctx context.Context, lead *registry.Leadership) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resignTimeout)
	defer cancel()
	if err := lead.Resign(ctx); err != nil {
		c.log.Debug("resign", "err", err) // the turn runs out by itself
	}
}

func (c *controller) setTerm(t *term) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.term = t
}

func (c *controller) leads() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.term != nil
}

// leadership is this gate's turn; nil while another gate leads.
func (c *controller) leadership() *registry.Leadership {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.term == nil {
		return nil
	}
	return c.term.lead
}

// elsewhere turns a call away when another gate leads: rules, routes and status
// rest on what the leader has heard, so nodes gather there (a report is noted
// all the same) and operators ask there. While nobody leads, or the registry
// does not tell, every gate answers.
func (c *controller) elsewhere(op string) error {
	var who string
	c.world.read(func() {
		if c.world.reachable {
			who = c.world.leader
		}
	})
	if who == "" || who == c.name || c.leads() {
		return nil
	}
	return &tidegate.Error{Op: op, Subject: c.name, Class: tidegate.Transient, Err: errNotLeading, Hint: "gate " + who + " leads; ask there"}
}

// isElsewhere reports whether a call was turned away because another gate leads.
func isElsewhere(err error) bool { return errors.Is(err, errNotLeading) }

// busy reports whether the service is being moved: its route is the plan's business.
func (c *controller) busy(s tidegate.ServiceName) bool {
	h := c.runningPlan(s)
	return h != nil && moves(h.kind)
}

// moves reports whether a kind of plan makes another node the writer.
func moves(k fence.PlanKind) bool { return k == fence.KindFailover || k == fence.KindSwitchover }

// handedOver lets a switchover look at the records at once.
func (c *controller) handedOver(s tidegate.ServiceName) {
	if h := c.runningPlan(s); h != nil && h.kind == fence.KindSwitchover {
		h.poke(fence.HandedOver{})
	}
}

func (c *controller) runningPlan(s tidegate.ServiceName) *handle {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.term == nil {
		return nil
	}
	if h := c.term.running[s]; h != nil && h.kind != "" {
		return h
	}
	return nil
}

// hold keeps plans of a service from beginning until release is called; a plan
// that is under way is a refusal.
func (c *controller) hold(ctx context.Context, op string, s tidegate.ServiceName) (release func(), err error) {
	for {
		c.mu.Lock()
		t := c.term
		if t == nil {
			c.mu.Unlock()
			return nil, c.notLeading(ctx, op, string(s))
		}
		cur := t.running[s]
		if cur == nil {
			h := newHandle(fence.Plan{Service: s}, &pb.Plan{})
			t.running[s] = h
			c.mu.Unlock()
			return func() {
				c.mu.Lock()
				delete(t.running, s)
				c.mu.Unlock()
				h.end(nil)
			}, nil
		}
		c.mu.Unlock()
		if cur.kind != "" {
			return nil, underway(op, cur)
		}
		select {
		case <-cur.over:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func underway(op string, cur *handle) error {
	e := &tidegate.Error{
		Op: op, Subject: string(cur.service), Class: tidegate.Transient,
		Err:  fmt.Errorf("%s %s to %s is under way: %w", cur.kind, cur.id, cur.target.Node, tidegate.ErrConflict),
		Hint: "it goes on by itself: `tidegate plan show " + cur.id.String() + "`; `tidegate plan abort " + cur.id.String() + "` calls it off while that can be done",
	}
	if step := cur.step(); step == fence.StepApply || step == fence.StepRoute {
		e.Hint = "it goes on by itself: `tidegate plan show " + cur.id.String() + "`; if " + string(cur.target.Node) + " is lost meanwhile, fail over to another node by name"
	}
	return e
}

// resume takes up the newest plan of each service where a killed gate left it.
// Older ones that have no end on record get one: whatever they were, a newer one
// came after them, and to take them up now could fence the writer that it made.
func (c *controller) resume(ctx context.Context, t *term) error {
	v, err := c.store.Read(ctx)
	if err != nil {
		return err
	}
	for _, s := range v.ServiceNames() {
		recs, err := c.plans(ctx, s, "", resumeDepth)
		if err != nil {
			return err
		}
		if len(recs) == 0 {
			continue
		}
		if err := c.closeOld(ctx, t.lead, recs[1:], errPreempted); err != nil {
			return err
		}
		rec := recs[0]
		switch {
		case rec.plan.Step == fence.StepDecide && c.outdated(rec, v.Services[s].Value):
			c.log.Warn("a plan that another gate wrote down and did not begin is not taken up", "plan", rec.plan.ID, "service", s, "started", rec.view.GetStarted().AsTime())
			if err := c.closeOld(ctx, t.lead, recs[:1], errOutdated); err != nil {
				return err
			}
		case !rec.plan.Finished():
			c.log.Info("taking up a plan that another gate began", "plan", rec.plan.ID, "service", s, "step", rec.plan.Step, "from", rec.view.GetController())
			r, err := newRunner(c.parts, t.lead, rec)
			if err != nil {
				return err
			}
			t.running[s] = r.handle
			c.launch(t, r)
		case rec.plan.Step == fence.StepDone && rec.next != nil:
			r, err := newRunner(c.parts, t.lead, rec)
			if err != nil {
				return err
			}
			t.spawn(func(ctx context.Context) error {
				r.handle.end(c.succeed(ctx, r))
				return nil
			})
		case rec.plan.Step == fence.StepDone && moves(rec.plan.Kind) && rec.plan.Times.T9.IsZero():
			r, err := newRunner(c.parts, t.lead, rec)
			if err != nil {
				return err
			}
			close(r.handle.over)
			t.spawn(func(ctx context.Context) error { return c.tolerate(r.reconstitute(ctx)) })
		}
	}
	return nil
}

// untouchedMax is how old a plan that has done nothing may be to be taken up: the
// next leader is there sooner, and who asked for it has not gone yet.
const untouchedMax = time.Minute

// outdated reports whether a plan that has done nothing, not even reserved its
// epoch, is not wanted any more: whoever asked for it has been told that it
// failed, or role changes have been stopped since. One that has begun goes on.
func (c *controller) outdated(rec planRecord, svc registry.Service) bool {
	return svc.Frozen || svc.Disarmed && moves(rec.plan.Kind) || c.now().Sub(rec.view.GetStarted().AsTime()) > untouchedMax
}

// resumeDepth is how many of a service's plans a new leader looks at.
const resumeDepth = 20

// closeOld ends plans on record that are not to be taken up.
func (c *controller) closeOld(ctx context.Context, lead *registry.Leadership, recs []planRecord, why error) error {
	for _, rec := range recs {
		if rec.plan.Finished() {
			continue
		}
		r, err := newRunner(c.parts, lead, rec)
		if err != nil {
			return err
		}
		if err := r.giveUp(ctx, why); err != nil {
			return err
		}
	}
	return nil
}

// launch runs a plan in the turn's group; the handle must be among the running.
// The service is free for other plans when the handle is over.
func (c *controller) launch(t *term, r *runner) {
	t.spawn(func(turn context.Context) error {
		ctx, cancel := context.WithCancelCause(turn)
		defer cancel(nil)
		var watch sync.WaitGroup
		defer watch.Wait()
		watch.Go(func() {
			select {
			case <-r.handle.preempt:
				cancel(errPreempted)
			case <-ctx.Done():
			}
		})
		defer cancel(nil)
		err := r.run(ctx)
		done := func() bool {
			p := r.ctl.Plan()
			return err == nil && p.Step == fence.StepDone && moves(p.Kind)
		}
		preempted := func() bool { return err != nil && errors.Is(context.Cause(ctx), errPreempted) }
		if done() {
			if err = r.firstWrite(ctx); preempted() {
				err = nil // it is done all the same: nobody waits for its first write any more
			}
		}
		// The run may have been in the middle of a call, whose error says less.
		if preempted() && !r.ctl.Plan().Finished() {
			err = r.giveUp(turn, errPreempted)
		}
		c.mu.Lock()
		if t.running[r.handle.service] == r.handle {
			delete(t.running, r.handle.service)
		}
		c.mu.Unlock()
		c.finish(turn, r)
		if err == nil && r.next != nil && r.ctl.Plan().Step == fence.StepDone {
			err = c.succeed(turn, r)
		}
		r.handle.end(err)
		if done() {
			err = r.reconstitute(turn)
		}
		return c.tolerate(err)
	})
}

// tolerate keeps what ends one plan from ending the turn: the plan's record
// tells how far it came, and the next turn takes it up.
func (c *controller) tolerate(err error) error {
	if err != nil && !errors.Is(err, errNotLeading) && !errors.Is(err, context.Canceled) {
		c.log.Error("plan stopped before its end", "err", err)
	}
	return nil
}

func (c *controller) finish(ctx context.Context, r *runner) {
	plan, view := r.ctl.Plan(), r.view
	c.metrics.plans.WithLabelValues(string(plan.Kind), outcomeLabel(view.GetOutcome())).Inc()
	if plan.Finished() && (plan.Kind != fence.KindAcquire || plan.Step == fence.StepDone) {
		c.note(ctx, c.planEntry(ctx, ActionPlanEnd, plan, view)) // an agent that asks in vain asks each second
	}
	c.prune(ctx, r.lead, plan.Service)
	if plan.Step != fence.StepDone {
		return
	}
	if err := c.store.SaveMark(ctx, c.fs, c.dir); err != nil {
		c.log.Warn("registry mark not saved", "err", err)
	}
}

// succeedMax is how long the second part of a change waits until its rules hold:
// nodes must have reported what the first part did.
const succeedMax = 30 * time.Second

// succeed begins the second part of a change whose first part is done, and gives
// it to those who watch the first. That it could not begin goes on record there.
func (c *controller) succeed(ctx context.Context, r *runner) error {
	wctx, cancel := context.WithTimeout(ctx, succeedMax)
	defer cancel()
	tick := time.NewTicker(c.timing.Tick)
	defer tick.Stop()
	for {
		h, err := c.trySucceed(wctx, r)
		if err == nil {
			r.handle.setNext(h)
			return nil
		}
		select {
		case <-tick.C:
			continue
		case <-wctx.Done():
		}
		if ctx.Err() != nil {
			return errNotLeading // the next leader begins it
		}
		r.next = nil
		r.view.Error, r.view.Hint = "the second part did not begin: "+err.Error(), tidegate.HintOf(err)
		return r.save(ctx, r.ctl.Plan())
	}
}

func (c *controller) trySucceed(ctx context.Context, r *runner) (*handle, error) {
	rec, err := c.follow(ctx, planRecord{plan: r.ctl.Plan(), view: r.view, next: r.next})
	if err != nil {
		return nil, err
	}
	if failing(rec.view.GetRules()) {
		return nil, refusal(rec.view)
	}
	return c.start(ctx, rec)
}

// planEntry tells of a plan's start or end.
func (p parts) planEntry(ctx context.Context, action string, plan fence.Plan, v *pb.Plan) registry.AuditEntry {
	e := p.entry(ctx, action, plan.Service, plan.Reason, fact("plan", "%s", plan.ID), fact("kind", "%s", kindName(v.GetKind())), fact("target", "%s", plan.Target.Node))
	e.Actor = plan.Actor
	if plan.AcceptLoss {
		e.Detail = append(e.Detail, fact("accept_loss", "true"))
	}
	if plan.AttestPrimaryDown {
		e.Detail = append(e.Detail, fact("attest_primary_down", "true"))
	}
	for _, o := range v.GetOverrides() {
		e.Detail = append(e.Detail, fact("override "+o.GetRule(), "%s (%s)", o.GetReason(), o.GetActor()))
	}
	if action == ActionPlanEnd {
		e.Outcome = outcomeLabel(v.GetOutcome())
		for _, s := range plan.Streams {
			e.Detail = append(e.Detail, fact("epoch "+string(s.Name), "%s", s.Record.Epoch))
		}
		if l := v.GetLoss(); l != nil {
			e.Detail = append(e.Detail, fact("loss", "%s: %s", lossName(l.GetKind()), l.GetWhy()))
		}
		if v.GetError() != "" {
			e.Detail = append(e.Detail, fact("error", "%s", v.GetError()))
		}
	}
	return e
}

// rank orders kinds of plan by urgency: a more urgent one goes before a less
// urgent one that is under way.
var rank = map[fence.PlanKind]int{fence.KindAcquire: 1, fence.KindReconfigure: 2, fence.KindSwitchover: 2, fence.KindFailover: 3}

// yields reports whether a plan under way gives way to another one. A start of
// the writer gives way to everything newer; a reconfiguration of a writer that
// has gone would wait in vain, so it gives way to a start. A failover that a
// person wants goes before every planned change; what the detector begins by
// itself goes only before starts.
//
// A plan that is over but for its first write stands in nobody's way. And one
// whose epoch is open waits for its target and for routes, without an end: if the
// target is lost meanwhile, a person who names another one goes before it.
func yields(cur *handle, rec planRecord) bool {
	p, step := rec.plan, cur.step()
	switch {
	case cur.kind == fence.KindAcquire, step == fence.StepDone:
		return true
	case p.Kind == fence.KindAcquire:
		return cur.kind == fence.KindReconfigure
	case (step == fence.StepApply || step == fence.StepRoute) && rec.named && p.Kind == fence.KindFailover && p.Target != cur.target:
		return true
	}
	return rank[p.Kind] > rank[cur.kind] && !strings.HasPrefix(p.Actor, actorDetector+"/")
}

// start begins a plan, or joins the one that does the same already, or waits
// until one that gives way to it has done so. It fails with [tidegate.ErrConflict]
// when the service is not configured any more as the plan was drawn for it.
func (c *controller) start(ctx context.Context, rec planRecord) (*handle, error) {
	for {
		h, wait, err := c.tryStart(ctx, rec)
		if err != nil || h != nil {
			return h, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (c *controller) tryStart(ctx context.Context, rec planRecord) (h *handle, wait <-chan struct{}, err error) {
	p := rec.plan
	c.mu.Lock() // not held over I/O
	t := c.term
	if t == nil {
		c.mu.Unlock()
		return nil, nil, c.notLeading(ctx, string(p.Kind), string(p.Service))
	}
	if cur := t.running[p.Service]; cur != nil {
		c.mu.Unlock()
		switch {
		case cur.kind == "":
			return nil, cur.over, nil // a small change that is over in a moment
		case p.Kind == fence.KindAcquire && cur.target == p.Target && !moves(cur.kind):
			return cur, nil, nil
		case yields(cur, rec):
			cur.giveWay()
			return nil, cur.over, nil
		}
		return nil, nil, underway(string(p.Kind), cur)
	}
	r, err := newRunner(c.parts, t.lead, rec)
	if err != nil {
		c.mu.Unlock()
		return nil, nil, err
	}
	t.running[p.Service] = r.handle
	c.mu.Unlock()
	// The plan is on record before anything is done, so that a killed gate's
	// successor knows of it from the first step on.
	tx := new(registry.Tx).Leading(t.lead).NewPlan(p.ID.String(), p.Service, planRecord{plan: r.ctl.Plan(), view: r.view, next: rec.next})
	if rec.with != nil {
		rec.with(tx)
	}
	if p.Kind != fence.KindAcquire {
		tx.Audit(c.planEntry(ctx, ActionPlanStart, p, rec.view))
	}
	r.at, err = c.store.Commit(ctx, tx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		delete(t.running, p.Service)
		r.handle.end(err)
		if c.term == t && !errors.Is(err, tidegate.ErrConflict) {
			t.spawn(func(turn context.Context) error { return c.tolerate(r.giveUp(turn, errUnconfirmed)) })
		}
		return nil, nil, err
	}
	if c.term != t {
		// The turn ended meanwhile: the plan is on record, the next leader takes it up.
		r.handle.end(errNotLeading)
		return r.handle, nil, nil
	}
	c.launch(t, r)
	return r.handle, nil, nil
}

func (c *controller) notLeading(ctx context.Context, op, subject string) error {
	e := &tidegate.Error{Op: op, Subject: subject, Class: tidegate.Transient, Err: errNotLeading}
	who, err := c.store.Leader(ctx)
	switch {
	case err != nil:
		return err
	case who == "" || who == c.name:
		e.Hint = "a gate is being elected, which takes a few seconds; try again"
	default:
		e.Hint = "gate " + who + " leads; ask it"
	}
	return e
}

func outcomeLabel(o pb.PlanOutcome) string {
	switch o {
	case pb.PlanOutcome_PLAN_OUTCOME_DONE:
		return "done"
	case pb.PlanOutcome_PLAN_OUTCOME_REFUSED:
		return "refused"
	case pb.PlanOutcome_PLAN_OUTCOME_FAILED:
		return "failed"
	case pb.PlanOutcome_PLAN_OUTCOME_SUPERSEDED:
		return "superseded"
	case pb.PlanOutcome_PLAN_OUTCOME_ABORTED:
		return "aborted"
	case pb.PlanOutcome_PLAN_OUTCOME_RUNNING, pb.PlanOutcome_PLAN_OUTCOME_DRY_RUN, pb.PlanOutcome_PLAN_OUTCOME_UNSPECIFIED:
	}
	return "interrupted"
}
