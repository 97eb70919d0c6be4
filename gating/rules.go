package gating

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/gating/rules"
)

// Rules by name, for refusals and hints.
const (
	ruleFreeze   = rules.FreezeOff
	ruleTarget   = rules.Target
	ruleRecord   = rules.Record
	ruleQuorum   = rules.FenceQuorum
	ruleAdopt    = rules.AdoptQuorum
	rulePrimary  = rules.PrimaryFenced
	ruleRPO      = rules.RPOBound
	ruleRegistry = rules.RegistryTrusted
)

// overrides says how an operator may go on against a rule that a plan itself
// refused by; "" means not at all.
var overrides = map[string]string{
	ruleQuorum:   rules.FlagAcceptLoss,
	rulePrimary:  rules.FlagAttest,
	ruleRPO:      rules.FlagAcceptLoss,
	ruleRegistry: rules.FlagAcceptLoss,
}

// question is a change of role as asked for.
type question struct {
	action     rules.Action // "" is a failover
	service    tidegate.ServiceName
	target     tidegate.NodeName
	acceptLoss bool
	attest     bool
	actor      string
	reason     string
	overrides  []rules.Override // see overridesInForce
	at         time.Time        // that overrides are in force at; zero: none is
}

// overridesInForce reads what operators have said against rules of a service.
func (p parts) overridesInForce(ctx context.Context, service tidegate.ServiceName) ([]rules.Override, error) {
	all, err := p.listOverrides(ctx, service, false)
	if err != nil {
		return nil, err
	}
	out := make([]rules.Override, 0, len(all))
	for _, o := range all {
		out = append(out, o.Override)
	}
	return out, nil
}

// evaluate answers every rule for a change of role, without changing anything.
func (w *world) evaluate(v *registry.View, q question, stale time.Duration) []*pb.RuleVerdict {
	if q.action == "" {
		q.action = rules.Failover
	}
	req := rules.Request{Action: q.action, AcceptLoss: q.acceptLoss, Attest: q.attest, Actor: q.actor, Reason: q.reason}
	given := q.overrides
	if q.at.IsZero() {
		given = nil
	}
	var out []*pb.RuleVerdict
	for _, x := range rules.Evaluate(w.facts(v, q, stale), req, given, q.at) {
		out = append(out, verdictMessage(q.service, x))
	}
	return out
}

func verdictMessage(service tidegate.ServiceName, x rules.Verdict) *pb.RuleVerdict {
	out := &pb.RuleVerdict{Rule: x.Rule, Holds: x.Holds, Known: x.Known, Reason: x.Reason, Override: x.Override}
	for _, e := range x.Evidence {
		out.Evidence = append(out.Evidence, &pb.Fact{Key: e.Key, Value: e.Value})
	}
	if o := x.OverriddenBy; o != nil {
		out.OverriddenBy = overrideMessage(registry.Override{Service: service, Override: *o})
	}
	return out
}

// overrideMessage is an override as operators see it. One that was a flag of the
// request has no id and does not expire: it was over with the request.
func overrideMessage(o registry.Override) *pb.Override {
	out := &pb.Override{Service: string(o.Service), Rule: o.Rule, Reason: o.Reason, Actor: o.Actor}
	if !o.Given.IsZero() {
		out.Created = timestamppb.New(o.Given)
	}
	if !o.Expires.IsZero() {
		out.Id, out.Expires = o.ID(), timestamppb.New(o.Expires)
	}
	return out
}

// failing reports whether a rule refuses.
func failing(vs []*pb.RuleVerdict) bool {
	return slices.ContainsFunc(vs, func(r *pb.RuleVerdict) bool { return !r.GetHolds() })
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// maxLoss returns what a failover of the service may lose without being told.
func maxLoss(svc registry.Service) tidegate.Bounds {
	if svc.MaxLoss != nil {
		return *svc.MaxLoss
	}
	if svc.RPO > 0 {
		return tidegate.Bounds{Records: tidegate.Unbounded, Bytes: tidegate.Unbounded, Window: svc.RPO}
	}
	return tidegate.Bounds{}
}

// aliveMembers returns the members of a configuration that reported lately, under
// the incarnation that counts and out of limbo.
func (w *world) aliveMembers(cfg fence.Config, id tidegate.StreamID, stale time.Duration) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, m := range cfg.Members {
		st := w.standbys[m.Node]
		if st == nil || w.age(st.at) > stale {
			continue
		}
		for _, s := range st.report.GetStreams() {
			inc := first(s.GetIncarnation(), st.report.GetIncarnation())
			if s.GetStreamId() == id.String() && !s.GetLimbo() && inc == m.Incarnation.String() {
				out = append(out, string(m.Node))
			}
		}
	}
	return out
}

// mayHold reports whether a node may be the target of a failover.
func (w *world) mayHold(v *registry.View, s tidegate.ServiceName, n tidegate.NodeName, stale time.Duration) bool {
	vs := rules.Evaluate(w.facts(v, question{service: s, target: n}, stale), rules.Request{Action: rules.Failover}, nil, time.Time{})
	i := slices.IndexFunc(vs, func(x rules.Verdict) bool { return x.Rule == ruleTarget })
	return i >= 0 && vs[i].Holds
}

// chooseTarget returns the first of targets; "" when none qualifies.
func (w *world) chooseTarget(v *registry.View, s tidegate.ServiceName, stale time.Duration) tidegate.NodeName {
	if all := w.targets(v, s, stale); len(all) > 0 {
		return all[0]
	}
	return ""
}

// targets returns the members that may be the target of a failover and whose agent
// reports, those with the most applied streams first, equals by name.
func (w *world) targets(v *registry.View, s tidegate.ServiceName, stale time.Duration) []tidegate.NodeName {
	streams := v.StreamsOf(s)
	if len(streams) == 0 {
		return nil
	}
	applied := map[tidegate.NodeName]uint64{}
	for _, m := range v.Epochs[streams[0].ID].Value.Config.Members {
		if w.mayHold(v, s, m.Node, stale) {
			applied[m.Node] = w.appliedSum(m.Node)
		}
	}
	return slices.SortedFunc(maps.Keys(applied), func(a, b tidegate.NodeName) int {
		return cmp.Or(cmp.Compare(applied[b], applied[a]), cmp.Compare(a, b))
	})
}

func (w *world) appliedSum(n tidegate.NodeName) (sum uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if st := w.standbys[n]; st != nil {
		for _, s := range st.report.GetStreams() {
			sum += s.GetAppliedSeq()
		}
	}
	return sum
}
