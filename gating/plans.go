package gating

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/gating/rules"
)

// acquirePlan draws the plan of an agent's start as writer. held are the epochs
// that it writes under now; those that the records do not know count as heard of,
// so that none is issued twice. branches are the promotions that its service's own
// logs went on from, of those that tell.
func (c *controller) acquirePlan(ctx context.Context, v *registry.View, svc registry.Service, holder fence.Holder, held, branches map[tidegate.StreamID]fence.Promise, sameBoot bool, reason string) (fence.Plan, error) {
	p := fence.Plan{
		ID: newPlanID(c.now()), Service: svc.Name, Kind: fence.KindAcquire, Target: holder, SameBoot: sameBoot,
		Reason: reason, Actor: string(tidegate.RoleAgent) + "/" + string(holder.Node),
	}
	var err error
	p.Streams, err = streamPlans(v, svc.Name, func(st registry.Stream, rec fence.EpochRecord) *fence.Config {
		return wantedConfig(v, st, rec.Config, holder.Site, counted(rec.Config))
	})
	for i := range p.Streams {
		if h := held[p.Streams[i].Stream]; h.Epoch > v.Epochs[p.Streams[i].Stream].Value.Epoch {
			p.Streams[i].Heard = h
		}
		if b, ok := branches[p.Streams[i].Stream]; ok {
			p.Streams[i].Branch = &b.Epoch
		}
	}
	if err == nil {
		p.Preempt, err = c.leftBehind(ctx, v, svc.Name)
	}
	return p, err
}

// leftBehind reports whether some stream of a service is in the hands of a plan
// that is over: it ended without opening its epoch, or without going on from the
// handover, and the stream is free again.
func (c *controller) leftBehind(ctx context.Context, v *registry.View, s tidegate.ServiceName) (bool, error) {
	for _, st := range v.StreamsOf(s) {
		rec := v.Epochs[st.ID].Value
		if !rec.Moving() && rec.State != fence.StateSwitching {
			continue
		}
		over, err := c.planIsOver(ctx, rec.Plan)
		if err != nil || over {
			return over, err
		}
	}
	return false, nil
}

// planIsOver reports whether a plan has ended.
func (c *controller) planIsOver(ctx context.Context, id tidegate.ID) (bool, error) {
	var rec planRecord
	rev, err := c.store.Get(ctx, registry.PlanKey(id.String()), &rec)
	if err != nil || rev == 0 {
		return false, err
	}
	return rec.plan.Finished(), nil
}

// roleChange is a change of role, or of the standby set, as asked for.
type roleChange struct {
	question
	kind   pb.PlanKind
	drain  time.Duration // switchover and failback
	named  bool          // the target was named, not chosen
	parent tidegate.ID   // the plan that this one is the second part of; zero for none
	who    string        // the actor, for people
}

// actions says by which rules a kind of plan is judged.
var actions = map[pb.PlanKind]rules.Action{
	pb.PlanKind_PLAN_KIND_FAILOVER: rules.Failover, pb.PlanKind_PLAN_KIND_TAKEOVER: rules.Takeover,
	pb.PlanKind_PLAN_KIND_SWITCHOVER: rules.Switchover, pb.PlanKind_PLAN_KIND_FAILBACK: rules.Failback,
}

// drainDefault is how long a writer may take to finish what is in flight: work in
// flight is short, and a longer pause is noticed by everybody.
const drainDefault = 30 * time.Second

// failoverPlan draws a failover, with every rule's verdict, and changes nothing.
func (c *controller) failoverPlan(ctx context.Context, v *registry.View, q question, reason, actor string) (planRecord, error) {
	q.reason = reason
	return c.changePlan(ctx, v, roleChange{question: q, kind: pb.PlanKind_PLAN_KIND_FAILOVER, who: actor})
}

// changePlan draws a change of role, with every rule's verdict, and changes nothing.
func (c *controller) changePlan(ctx context.Context, v *registry.View, ch roleChange) (planRecord, error) {
	svc, ok := v.Services[ch.service]
	if !ok {
		return planRecord{}, notFound(kindName(ch.kind), string(ch.service), "see `tidegate streams list`")
	}
	if ch.action == "" {
		ch.action = actions[ch.kind]
	}
	if ch.named = ch.target != ""; !ch.named {
		ch.target = c.defaultTarget(ctx, v, ch)
	}
	verdicts := c.world.evaluate(v, ch.question, c.timing.Stale)
	if part, ok := c.joinFirst(v, ch); ok {
		return c.joinPlan(ctx, v, ch, part, verdicts)
	}
	holder, site := c.world.holderOf(ch.target)
	p := fence.Plan{
		ID: newPlanID(c.now()), Service: ch.service, Kind: fence.KindFailover,
		Target:     fence.Holder{Node: ch.target, Site: site, UUID: holder},
		AcceptLoss: ch.acceptLoss, MaxLoss: maxLoss(svc.Value), Force: ch.acceptLoss, AttestPrimaryDown: ch.attest,
		Shrink: true, Reason: ch.reason, Actor: ch.who, Verify: c.probes.verifies(ch.service),
	}
	if ch.action.Planned() {
		p.Kind, p.Drain, p.Shrink = fence.KindSwitchover, ch.drain, false
		if p.Drain == 0 {
			p.Drain = drainDefault
		}
	} else {
		p.Times.T0, p.Times.T1 = c.probes.fault(ch.service)
	}
	var err error
	p.Streams, err = streamPlans(v, ch.service, func(st registry.Stream, rec fence.EpochRecord) *fence.Config {
		return wantedConfig(v, st, rec.Config, site, c.world.able(rec, c.timing.Stale))
	})
	if err == nil {
		p.Preempt, err = c.leftBehind(ctx, v, ch.service)
	}
	if err != nil {
		return planRecord{}, err
	}
	return c.predict(ctx, v, svc, p, ch, verdicts)
}

// predict completes a drawn plan with what it will take, and binds its start to
// the tables that it was drawn from.
func (c *controller) predict(ctx context.Context, v *registry.View, svc registry.Entry[registry.Service], p fence.Plan, ch roleChange, verdicts []*pb.RuleVerdict) (planRecord, error) {
	for i := range p.Streams {
		p.Streams[i].Record = v.Epochs[p.Streams[i].Stream].Value
	}
	view := newView(p, c.name, c.now())
	view.Kind, view.Rules = ch.kind, verdicts
	if !ch.parent.IsZero() {
		view.ParentId = ch.parent.String()
	}
	for i, s := range view.Streams {
		s.FromConfig = fencewire.ConfigMessage(p.Streams[i].Record.Config)
		if p.Kind == fence.KindFailover {
			s.Loss = predictedLoss(c.world, v, p.Streams[i].Stream, c.timing.Stale)
		}
	}
	view.Loss = serviceLoss(view.Streams)
	recs, err := c.plans(ctx, ch.service, "", forecastDepth)
	if err != nil {
		return planRecord{}, err
	}
	forecastFrom(recs, p.Kind).fill(view)
	if p.Kind != fence.KindReconfigure {
		c.world.expectApply(v, view, p.Target.Node)
	}
	sumExpected(view)
	view.Impact = impact(view, p.Kind)
	for _, o := range verdicts {
		if o.GetOverriddenBy().GetId() != "" {
			view.Overrides = append(view.Overrides, o.GetOverriddenBy())
		}
	}
	for i := range p.Streams {
		p.Streams[i].Record = fence.EpochRecord{}
	}
	return planRecord{plan: p, view: view, named: ch.named, with: func(tx *registry.Tx) { bindTo(tx, v, svc) }}, nil
}

// bindTo demands that a service is still configured as a plan was drawn for it: a
// freeze, the brake, or a stream that came or went in between is not overlooked.
func bindTo(tx *registry.Tx, v *registry.View, svc registry.Entry[registry.Service]) {
	tx.Unchanged(registry.ServiceKey(svc.Value.Name), svc.Revision)
	for _, st := range v.StreamsOf(svc.Value.Name) {
		tx.Unchanged(registry.StreamKey(st.ID), v.Streams[st.ID].Revision)
	}
}

// defaultTarget chooses where to: to the best member that answers, or back to a
// configured node of another site than the writer's. In a disaster a report of some
// seconds ago does not say that a node is there, and a plan cannot change its target.
func (c *controller) defaultTarget(ctx context.Context, v *registry.View, ch roleChange) tidegate.NodeName {
	if ch.kind != pb.PlanKind_PLAN_KIND_FAILBACK {
		all := c.world.targets(v, ch.service, c.timing.Stale)
		for _, n := range all {
			if len(all) == 1 || c.standbys.answers(ctx, v, n) {
				return n
			}
		}
		return c.world.chooseTarget(v, ch.service, c.timing.Stale)
	}
	for _, st := range v.StreamsOf(ch.service) {
		rec := v.Epochs[st.ID].Value
		for _, n := range st.Members {
			node, ok := v.Node(registry.KindStandby, n)
			if holder, _ := c.world.holderOf(n); ok && node.Site != rec.Active.Site && !holder.IsZero() {
				return n
			}
		}
	}
	return ""
}

// streamPlans lists a service's streams with the configuration each should reach.
func streamPlans(v *registry.View, s tidegate.ServiceName, wanted func(registry.Stream, fence.EpochRecord) *fence.Config) ([]fence.StreamPlan, error) {
	var out []fence.StreamPlan
	for _, st := range v.StreamsOf(s) {
		e, ok := v.Epochs[st.ID]
		if !ok {
			return nil, notFound("plan", string(st.Name), "the stream has no epoch record; remove it and add it again, or rebuild the registry")
		}
		out = append(out, fence.StreamPlan{Stream: st.ID, Name: st.Name, Wanted: wanted(st, e.Value)})
	}
	if len(out) == 0 {
		return nil, notFound("plan", string(s), "add streams to the service first")
	}
	return out, nil
}

// predictedLoss is what a failover of a stream could claim now, at best.
func predictedLoss(w *world, v *registry.View, id tidegate.StreamID, stale time.Duration) *pb.LossStatement {
	rec := v.Epochs[id].Value
	l := fence.PredictLoss(rec)
	if alive := w.aliveMembers(rec.Config, id, stale); len(alive) < rec.Config.Quorum().R() {
		l = fence.LossStatement{Kind: fence.LossUnknown, Why: fmt.Sprintf("%d of %d members answer, a proof takes %d", len(alive), len(rec.Config.Members), rec.Config.Quorum().R())}
	}
	if l.Kind != fence.LossZero {
		l.Blind = w.blind(rec.Config, id, stale)
	}
	return lossMessage(l)
}

// blind returns the smallest bound on what the members do not know of; 0 when
// none of them has one.
func (w *world) blind(cfg fence.Config, id tidegate.StreamID, stale time.Duration) (d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range cfg.Members {
		st := w.standbys[m.Node]
		if st == nil || w.age(st.at) > stale {
			continue
		}
		for _, s := range st.report.GetStreams() {
			if s.GetStreamId() != id.String() || s.GetBlindWindow() == nil {
				continue
			}
			if b := s.GetBlindWindow().AsDuration() + w.age(st.at); d == 0 || b < d {
				d = b
			}
		}
	}
	return d
}

// expectApply adds the target's backlog to the expected time of F7.
func (w *world) expectApply(v *registry.View, view *pb.Plan, target tidegate.NodeName) {
	lag, known := w.applyTime(v, view.GetService(), target)
	for _, s := range view.GetSteps() {
		if strings.HasPrefix(s.GetName(), "F7") && known {
			s.Expected = durationpb.New(s.GetExpected().AsDuration() + lag)
		}
	}
}

// applyTime returns how long the target's warm services need for what is durable
// but not applied yet; known is false when a number is missing.
func (w *world) applyTime(v *registry.View, service string, target tidegate.NodeName) (d time.Duration, known bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	st := w.standbys[target]
	if st == nil {
		return 0, false
	}
	known = true
	for _, s := range v.StreamsOf(tidegate.ServiceName(service)) {
		i := slices.IndexFunc(st.report.GetStreams(), func(r *pb.StandbyStream) bool { return r.GetStreamId() == s.ID.String() })
		if i < 0 {
			return 0, false
		}
		r := st.report.GetStreams()[i]
		switch {
		case r.ApplyLagRecords == nil:
			known = false
		case r.GetApplyLagRecords() == 0:
		case r.GetApplyRecordsPerSecond() > 0:
			d = max(d, time.Duration(float64(r.GetApplyLagRecords())/r.GetApplyRecordsPerSecond()*float64(time.Second)))
		default:
			known = false
		}
	}
	return d, known
}

// impact is what users notice; empty while there is nowhere to send them.
func impact(v *pb.Plan, kind fence.PlanKind) string {
	if v.GetTarget().GetSite() == "" {
		return ""
	}
	pause := v.GetPauseExpected().AsDuration().Round(10 * time.Millisecond)
	switch kind {
	case fence.KindReconfigure:
		return fmt.Sprintf("writes of %s wait for about %s; connections stay", v.GetService(), pause)
	case fence.KindSwitchover:
		return fmt.Sprintf("%s refuses new writes, or its proxies hold them, for about %s; connections are cut once, and clients are sent to %s (%s); nothing is lost",
			v.GetService(), pause, v.GetTarget().GetSite(), v.GetTarget().GetNode())
	case fence.KindAcquire, fence.KindFailover:
	}
	return fmt.Sprintf("clients of %s get no answer to writes for about %s, their connections are cut once, and they are sent to %s (%s)",
		v.GetService(), pause, v.GetTarget().GetSite(), v.GetTarget().GetNode())
}
