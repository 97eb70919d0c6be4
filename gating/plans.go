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
	"github.com/tidegate/tidegate/gating/registry"
)

// acquirePlan draws the plan of an agent's start as writer.
func (c *controller) acquirePlan(ctx context.Context, v *registry.View, svc registry.Service, holder fence.Holder, sameBoot bool, reason string) (fence.Plan, error) {
	p := fence.Plan{
		ID: newPlanID(c.now()), Service: svc.Name, Kind: fence.KindAcquire, Target: holder, SameBoot: sameBoot,
		Reason: reason, Actor: string(tidegate.RoleAgent) + "/" + string(holder.Node),
	}
	var err error
	if p.Streams, err = streamPlans(v, svc.Name); err != nil {
		return p, err
	}
	for i := range p.Streams {
		rec := v.Epochs[p.Streams[i].Stream].Value
		if rec.Kind != fence.KindFailover || rec.State == fence.StateActive {
			continue
		}
		over, err := c.planIsOver(ctx, rec.Plan)
		if err != nil {
			return p, err
		}
		p.Preempt = p.Preempt || over
	}
	return p, nil
}

// planIsOver reports whether a plan ended without opening its epoch, so that the
// streams it reserved are free again.
func (c *controller) planIsOver(ctx context.Context, id tidegate.ID) (bool, error) {
	var rec planRecord
	rev, err := c.store.Get(ctx, registry.PlanKey(id.String()), &rec)
	if err != nil || rev == 0 {
		return false, err
	}
	return rec.plan.Finished(), nil
}

// failoverPlan draws a failover, with every rule's verdict, and changes nothing.
func (c *controller) failoverPlan(ctx context.Context, v *registry.View, q question, reason, actor string) (planRecord, error) {
	svc, ok := v.Services[q.service]
	if !ok {
		return planRecord{}, notFound("failover", string(q.service), "see `tidegate streams list`")
	}
	if q.target == "" {
		q.target = c.world.chooseTarget(v, q.service, c.timing.Stale)
	}
	rules := c.world.evaluate(v, q, c.timing.Stale)
	holder, site := c.world.holderOf(q.target)
	p := fence.Plan{
		ID: newPlanID(c.now()), Service: q.service, Kind: fence.KindFailover,
		Target:     fence.Holder{Node: q.target, Site: site, UUID: holder},
		AcceptLoss: q.acceptLoss, MaxLoss: maxLoss(svc.Value), Force: q.acceptLoss, AttestPrimaryDown: q.attest,
		Shrink: true, Reason: reason, Actor: actor,
	}
	p.Times.T0, p.Times.T1 = c.probes.fault(q.service)
	var err error
	if p.Streams, err = streamPlans(v, q.service); err != nil {
		return planRecord{}, err
	}
	for i := range p.Streams {
		p.Streams[i].Record = v.Epochs[p.Streams[i].Stream].Value
	}
	view := newView(p, c.name, c.now())
	view.Rules = rules
	for i, s := range view.Streams {
		s.Loss = predictedLoss(c.world, v, p.Streams[i].Stream, c.timing.Stale)
	}
	view.Loss = serviceLoss(view.Streams)
	recs, err := c.plans(ctx, q.service, "", forecastDepth)
	if err != nil {
		return planRecord{}, err
	}
	forecastFrom(recs).fill(view)
	c.world.expectApply(v, view, q.target)
	view.Impact = impact(view)
	for i := range p.Streams {
		p.Streams[i].Record = fence.EpochRecord{}
	}
	return planRecord{plan: p, view: view}, nil
}

// streamPlans lists a service's streams with the configuration each should reach.
func streamPlans(v *registry.View, s tidegate.ServiceName) ([]fence.StreamPlan, error) {
	var out []fence.StreamPlan
	for _, st := range v.StreamsOf(s) {
		e, ok := v.Epochs[st.ID]
		if !ok {
			return nil, notFound("plan", string(st.Name), "the stream has no epoch record; remove it and add it again, or rebuild the registry")
		}
		out = append(out, fence.StreamPlan{Stream: st.ID, Name: st.Name, Wanted: wantedConfig(v, st, e.Value.Config)})
	}
	if len(out) == 0 {
		return nil, notFound("plan", string(s), "add streams to the service first")
	}
	return out, nil
}

// wantedConfig returns the configuration that the operator wants, nil when it is
// the one on record. A member on record keeps its incarnation: another one must
// leave limbo first.
func wantedConfig(v *registry.View, s registry.Stream, have fence.Config) *fence.Config {
	want := fence.Config{W: s.W}
	same := s.W == have.W && len(s.Members) == len(have.Members)
	for _, n := range s.Members {
		if i := have.Index(n); i >= 0 {
			want.Members = append(want.Members, have.Members[i])
			continue
		}
		same = false
		if node, ok := v.Node(registry.KindStandby, n); ok && !node.Incarnation.IsZero() {
			want.Members = append(want.Members, fence.Member{Node: n, Incarnation: node.Incarnation})
		}
	}
	fence.SortMembers(want.Members)
	if same || want.Validate() != nil {
		return nil
	}
	return &want
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

// expectApply adds the target's backlog to the expected time of F7 and sums the steps.
func (w *world) expectApply(v *registry.View, view *pb.Plan, target tidegate.NodeName) {
	lag, known := w.applyTime(v, view.GetService(), target)
	var total time.Duration
	for _, s := range view.GetSteps() {
		if strings.HasPrefix(s.GetName(), "F7") && known {
			s.Expected = durationpb.New(s.GetExpected().AsDuration() + lag)
		}
		total += s.GetExpected().AsDuration()
	}
	view.Expected = durationpb.New(total)
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
func impact(v *pb.Plan) string {
	if v.GetTarget().GetSite() == "" {
		return ""
	}
	return fmt.Sprintf("clients of %s get no answer to writes for about %s, their connections are cut once, and they are sent to %s (%s)",
		v.GetService(), v.GetExpected().AsDuration().Round(10*time.Millisecond), v.GetTarget().GetSite(), v.GetTarget().GetNode())
}
