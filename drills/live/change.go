package live

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
)

// rehearse has the gate judge the change of role that a drill makes, or must be able to
// fall back on, and changes nothing. Its error names each rule that does not hold.
func (d *Drill) rehearse(ctx context.Context, name tidegate.ServiceName) (*pb.Plan, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	plan, err := d.ctl.Change(ctx, d.request(name, true, "a live drill looks whether it may begin"), func(*pb.Plan, *pb.PlanStep) {})
	if err != nil {
		return nil, err
	}
	if refused := (&api.RulesError{Rules: plan.GetRules()}); len(failing(plan)) > 0 {
		return plan, refused
	}
	return plan, nil
}

// failing are the rules that do not hold and that no override lets pass.
func failing(p *pb.Plan) (out []*pb.RuleVerdict) {
	for _, r := range p.GetRules() {
		if !r.GetHolds() && r.GetOverriddenBy() == nil {
			out = append(out, r)
		}
	}
	return out
}

// why is the reason that stands on the gate's record.
func (r *run) why() string {
	return fmt.Sprintf("drill %s: %s %s", r.id, r.d.opts.Level, r.d.opts.Scenario)
}

// change moves the services, all at the same time.
func (r *run) change(ctx context.Context) error {
	if r.planned {
		if err := r.note(nil); err != nil {
			return calledError{fmt.Errorf("write down that the service will move: %w", err)}
		}
		now := r.d.clk.Boot()
		r.tell(func() { r.first, r.fault, r.part = &now, &now, during })
	}
	var all errgroup.Group
	for _, name := range r.services {
		m := &movement{}
		r.there[name] = m
		all.Go(func() error { return r.move(ctx, r.d.request(name, false, r.why()), m, "") })
	}
	return all.Wait()
}

// comeBack moves the service back to the node that wrote before.
func (r *run) comeBack(ctx context.Context) error {
	r.back = &movement{}
	return r.move(ctx, &pb.ChangeRoleRequest{
		Service: string(r.d.cfg.Service), Kind: pb.PlanKind_PLAN_KIND_FAILBACK, Target: r.home, Overrides: r.d.cfg.Operator.overrides(), Reason: r.why(),
	}, r.back, r.there[r.d.cfg.Service].plan.GetId())
}

// move carries one change of role out. A refusal, before or in its plan, is asked for again
// until it is too late: what the rules look at goes on. What the gate has begun is waited for also when the
// drill is called off, so that no service is left half moved; also where its answer was
// lost: it is found by its reason, and is another plan than before.
func (r *run) move(ctx context.Context, req *pb.ChangeRoleRequest, m *movement, before string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx) // nothing is begun any more
	}
	bounded, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), r.d.cfg.Change, fmt.Errorf("%s of %s: not within %s", verb(req.GetKind()), req.GetService(), r.d.cfg.Change))
	defer cancel()
	for {
		asked := r.d.clk.Boot()
		r.tell(func() { m.asked = asked })
		plan, err := r.d.ctl.Change(bounded, req, func(p *pb.Plan, s *pb.PlanStep) { r.saw(m, p, s) })
		class := tidegate.ClassOf(err)
		if plan == nil && class == tidegate.Transient {
			plan, err = r.d.ctl.Made(bounded, req, before)
		}
		returned := r.d.clk.Boot()
		r.tell(func() { m.plan, m.returned = plan, &returned })
		if plan != nil && err == nil {
			if err = ended(req, plan); plan.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_REFUSED {
				return err
			}
			before, class = plan.GetId(), tidegate.Refused // it began, and nothing was moved
		}
		if class != tidegate.Refused && (class != tidegate.Transient || plan != nil) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-bounded.Done():
			return errors.Join(context.Cause(bounded), err)
		default:
		}
		if err := r.sleep(ctx, r.d.pace.ask); err != nil {
			return err
		}
	}
}

// saw notes what the gate tells of a change of role. A second plan, of a failback, begins
// anew.
func (r *run) saw(m *movement, p *pb.Plan, s *pb.PlanStep) {
	now := r.d.clk.Boot()
	r.tell(func() {
		switch {
		case p != nil:
			m.plan, m.decided, m.activated = p, nil, nil
		case stepDone(s, reserved) && m.decided == nil:
			m.decided = &now
		case stepDone(s, activated) && m.activated == nil:
			m.activated = &now
		}
	})
}

// ended is the error of a change of role that did not come to what was asked for.
func ended(req *pb.ChangeRoleRequest, p *pb.Plan) error {
	if p.GetOutcome() == pb.PlanOutcome_PLAN_OUTCOME_DONE {
		return nil
	}
	word := strings.ToLower(strings.TrimPrefix(p.GetOutcome().String(), "PLAN_OUTCOME_"))
	return endedError{&tidegate.Error{
		Op: verb(req.GetKind()), Subject: req.GetService(), Class: tidegate.Permanent, Err: fmt.Errorf("plan %s ended as %s: %s", p.GetId(), word, p.GetError()), Hint: p.GetHint(),
	}}
}

// endedError is a plan that did not end well: that is so whoever has had enough meanwhile.
type endedError struct{ error }

func (e endedError) Unwrap() error { return e.error }

func verb(k pb.PlanKind) string {
	return strings.ToLower(strings.TrimPrefix(k.String(), "PLAN_KIND_"))
}

// served waits until every canary was accepted that was begun when the new epoch was
// active: none of those is the old writer's.
func (r *run) served(ctx context.Context, by map[tidegate.ServiceName]*movement, at **tidegate.Instant) error {
	harmed := ""
	err := r.until(ctx, r.d.cfg.Change, "every canary to be accepted through the route", func() bool {
		if harmed = r.harmed; harmed != "" {
			return true
		}
		for name, m := range by {
			when, ok := r.tally.Served(r.d.cfg.canaries(name), m.active())
			if !ok {
				return false
			}
			m.served = &when
			if at != nil && (*at == nil || **at < when) {
				*at = &when
			}
		}
		return true
	})
	if err != nil {
		return fmt.Errorf("%w: %s", err, r.told(func() any { return r.tally.LastFailure() }))
	}
	if harmed != "" {
		return errors.New(harmed)
	}
	if r.planned && at == nil {
		r.tell(func() { r.part = after })
	}
	return nil
}

// unwhole says why a service's protection is not as it must be: after a failover what the
// gate calls reconstituted, else all as it was before, registry and gates among it; empty: it is.
func (r *run) unwhole(name tidegate.ServiceName) string {
	svc := r.sight.service(name)
	if r.expect.FailsOver {
		return exposed(svc)
	}
	if why := cmp.Or(weakened(svc), closed(svc)); why != "" {
		return why
	}
	return r.sight.uncontrolled(r.witness[name].first.Silent)
}

// protection waits until it is as it must be, with clients served.
func (r *run) protection(ctx context.Context) error {
	healed, _ := r.course.Begun(Whole)
	last := "nobody looked"
	err := r.until(ctx, r.d.cfg.Whole, "protection to be whole again", func() bool {
		for _, name := range r.services {
			if last = r.unwhole(name); last != "" {
				return false
			}
		}
		if _, ok := r.tally.Served(r.names(), healed); !ok {
			last = "canaries: " + r.tally.LastFailure()
			return false
		}
		return true
	})
	if err != nil {
		return fmt.Errorf("%w: %s", err, last)
	}
	now := r.d.clk.Boot()
	r.tell(func() { r.whole = &now })
	return r.onRecord(ctx)
}

// onRecord reads the plans again, which the gate completes when protection is back.
func (r *run) onRecord(ctx context.Context) error {
	for _, m := range r.there {
		if p, err := r.d.ctl.Plan(ctx, m.plan.GetId()); err == nil {
			r.tell(func() { m.plan = p })
		}
		if !r.expect.FailsOver || onRecord(m.plan, phaseReconstitute) != nil {
			continue
		}
		_ = r.sleep(ctx, 2*r.d.pace.ask) // the gate looks itself, a moment later
		if p, err := r.d.ctl.Plan(ctx, m.plan.GetId()); err == nil {
			r.tell(func() { m.plan = p })
		}
	}
	if r.back != nil {
		if p, err := r.d.ctl.Plan(ctx, r.back.plan.GetId()); err == nil {
			r.tell(func() { r.back.plan = p })
		}
	}
	return context.Cause(ctx)
}
