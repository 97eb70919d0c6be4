package gating

import (
	"context"
	"fmt"
	"slices"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/gating/rules"
)

// Rules of a new configuration, besides those of a change of role.
const (
	ruleCaughtUp = rules.CaughtUp  // a node that is to count has the log at hand
	ruleWriter   = "writer-active" // one writer holds every stream, and goes on with the new epoch
	ruleUnderway = fence.RuleUnderway
)

// reconfigurePlan draws a new epoch of the same writer with another standby set.
// wanted says which; streams for which it returns nil keep theirs. The plan has
// no id when nothing would change.
func (c *controller) reconfigurePlan(ctx context.Context, v *registry.View, ch roleChange, wanted func(registry.Stream, fence.EpochRecord) *fence.Config) (planRecord, error) {
	svc, ok := v.Services[ch.service]
	if !ok {
		return planRecord{}, notFound("reconfigure", string(ch.service), "see `tidegate streams list`")
	}
	streams, err := streamPlans(v, ch.service, wanted)
	if err != nil {
		return planRecord{}, err
	}
	holder, _, held := activeHolder(v, ch.service)
	verdicts := c.reconfigureRules(v, svc.Value, streams, held)
	if !slices.ContainsFunc(streams, func(s fence.StreamPlan) bool { return s.Wanted != nil }) {
		return planRecord{
			plan: fence.Plan{Service: ch.service, Kind: fence.KindReconfigure, Reason: ch.reason, Actor: ch.who},
			view: &pb.Plan{Service: string(ch.service), Kind: ch.kind, Rules: verdicts, Reason: ch.reason, Actor: ch.who},
		}, nil
	}
	p := fence.Plan{
		ID: newPlanID(c.now()), Service: ch.service, Kind: fence.KindReconfigure, Target: holder,
		MaxLoss: maxLoss(svc.Value), Reason: ch.reason, Actor: ch.who, Streams: streams,
	}
	if !held {
		p.Target = v.Epochs[streams[0].Stream].Value.Active // for people: the plan is refused
	}
	return c.predict(ctx, v, svc, p, ch, verdicts)
}

// reconfigureRules answers what a new configuration needs: nobody waits for a log
// that is still to be copied while the writer stands still.
func (c *controller) reconfigureRules(v *registry.View, svc registry.Service, streams []fence.StreamPlan, held bool) []*pb.RuleVerdict {
	var out []*pb.RuleVerdict
	add := func(rule string, holds bool, format string, args ...any) {
		out = append(out, &pb.RuleVerdict{Rule: rule, Holds: holds, Known: true, Reason: fmt.Sprintf(format, args...)})
	}
	if svc.Frozen {
		add(ruleFreeze, false, "frozen: %s", first(svc.Reason, "no reason was given"))
	} else {
		add(ruleFreeze, true, "role changes are allowed")
	}
	if held {
		add(ruleWriter, true, "one writer holds every stream")
	} else {
		add(ruleWriter, false, "no single writer holds every stream of the service")
	}
	for _, s := range streams {
		rec := v.Epochs[s.Stream].Value
		if s.Wanted == nil {
			continue
		}
		for _, m := range s.Wanted.Members {
			if rec.Config.Index(m.Node) >= 0 {
				continue
			}
			if lag := c.world.lagOf(rec, m.Node, c.timing.Stale); lag != "" {
				add(ruleCaughtUp, false, "%s: %s %s", s.Name, m.Node, lag)
			} else {
				add(ruleCaughtUp, true, "%s: %s follows closely", s.Name, m.Node)
			}
		}
	}
	return out
}

// joinFirst reports whether a failback takes a reconfiguration first: the target
// is configured and follows, and does not count yet, so that it could not be
// brought to the handover within the pause.
func (c *controller) joinFirst(v *registry.View, ch roleChange) (wanted func(registry.Stream, fence.EpochRecord) *fence.Config, ok bool) {
	if ch.kind != pb.PlanKind_PLAN_KIND_FAILBACK {
		return nil, false
	}
	for _, st := range v.StreamsOf(ch.service) {
		rec := v.Epochs[st.ID].Value
		ok = ok || slices.Contains(st.Members, ch.target) && rec.Config.Index(ch.target) < 0
	}
	return func(st registry.Stream, rec fence.EpochRecord) *fence.Config {
		return withMember(v, st, rec.Config, ch.target)
	}, ok
}

// joinPlan draws the first part of a failback; the second follows it by itself.
func (c *controller) joinPlan(ctx context.Context, v *registry.View, ch roleChange, wanted func(registry.Stream, fence.EpochRecord) *fence.Config, verdicts []*pb.RuleVerdict) (planRecord, error) {
	part := ch
	part.kind = pb.PlanKind_PLAN_KIND_RECONFIGURE
	part.reason = fmt.Sprintf("failback to %s: %s", ch.target, first(ch.reason, "no reason was given"))
	rec, err := c.reconfigurePlan(ctx, v, part, wanted)
	if err != nil {
		return rec, err
	}
	for _, r := range rec.view.GetRules() {
		if r.GetRule() != ruleFreeze { // the failback's own verdicts have it
			verdicts = append(verdicts, r)
		}
	}
	if rec.plan.ID.IsZero() {
		verdicts = append(verdicts, &pb.RuleVerdict{
			Rule: ruleCaughtUp, Known: true, Reason: fmt.Sprintf("%s cannot be counted yet: with the members in force there are fewer than W", ch.target),
		})
	}
	rec.view.Rules = verdicts
	rec.next = &successor{Kind: pb.PlanKind_PLAN_KIND_FAILBACK.String(), Target: ch.target, Drain: ch.drain}
	return rec, nil
}

// follow draws the second part of a change whose first part is done.
func (c *controller) follow(ctx context.Context, first planRecord) (planRecord, error) {
	v, err := c.store.Read(ctx)
	if err != nil {
		return planRecord{}, err
	}
	c.world.setView(v)
	given, err := c.overridesInForce(ctx, first.plan.Service)
	if err != nil {
		return planRecord{}, err
	}
	kind := pb.PlanKind(pb.PlanKind_value[first.next.Kind])
	return c.changePlan(ctx, v, roleChange{
		question: question{
			action: actions[kind], service: first.plan.Service, target: first.next.Target, actor: first.plan.Actor, reason: first.plan.Reason,
			overrides: given, at: c.now(),
		},
		kind: kind, drain: first.next.Drain, parent: first.plan.ID, who: first.plan.Actor,
	})
}

// wantedByOperator is the configuration that the streams' configured members and W
// stand for where the writer is now.
func (c *controller) wantedByOperator(v *registry.View) func(registry.Stream, fence.EpochRecord) *fence.Config {
	return func(st registry.Stream, rec fence.EpochRecord) *fence.Config {
		return wantedConfig(v, st, rec.Config, rec.Active.Site, c.world.able(rec, c.timing.Stale))
	}
}
