package gating

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
)

// Rules that the gate evaluates before a failover begins, besides those of
// package fence that the plan itself meets. What is not known does not hold.
const (
	ruleFreeze   = "freeze-off"     // role changes of the service are not frozen
	ruleTarget   = fence.RuleTarget // the target may hold the streams
	ruleRecord   = fence.RuleRecord // every stream has a record that was active
	ruleQuorum   = fence.RuleFenceQuorum
	ruleAdopt    = fence.RuleAdoptQuorum
	rulePrimary  = fence.RulePrimaryFence
	ruleRPO      = fence.RuleRPOBound
	ruleRegistry = "registry-trusted" // the registry has not gone back in time
)

// overrides says how an operator may go on against a rule; "" means not at all.
var overrides = map[string]string{
	ruleQuorum:   "--accept-loss",
	rulePrimary:  "--attest-primary-down",
	ruleRPO:      "--accept-loss",
	ruleRegistry: "--accept-loss",
}

// question is a failover as asked for.
type question struct {
	service    tidegate.ServiceName
	target     tidegate.NodeName
	acceptLoss bool
	attest     bool
}

// evaluate answers every rule for a failover, without changing anything.
func (w *world) evaluate(v *registry.View, q question, stale time.Duration) []*pb.RuleVerdict {
	svc := v.Services[q.service].Value
	streams := v.StreamsOf(q.service)
	var out []*pb.RuleVerdict
	add := func(rule string, holds bool, format string, args ...any) {
		out = append(out, &pb.RuleVerdict{Rule: rule, Holds: holds, Reason: fmt.Sprintf(format, args...), Override: overrides[rule]})
	}
	if svc.Frozen {
		add(ruleFreeze, false, "frozen: %s", first(svc.Reason, "no reason was given"))
	} else {
		add(ruleFreeze, true, "role changes are allowed")
	}
	why := w.targetTrouble(v, q, streams, stale)
	add(ruleTarget, why == "", "%s", first(why, string(q.target)+" is a member of every stream and its agent is known"))
	for _, s := range streams {
		rec := v.Epochs[s.ID].Value
		name := string(s.Name)
		if rec.ActiveEpoch == 0 {
			add(ruleRecord, false, "%s never had a writer", name)
			continue
		}
		add(ruleRecord, true, "%s: epoch %s of %s", name, rec.ActiveEpoch, rec.Active.Node)
		alive := w.aliveMembers(rec.Config, rec.Stream, stale)
		need := rec.Config.Quorum().R()
		add(ruleQuorum, len(alive) >= need || q.acceptLoss, "%s: %d of %d members answer and know what they had (%s), want %d",
			name, len(alive), len(rec.Config.Members), strings.Join(alive, " "), need)
		add(ruleAdopt, len(alive) >= 1 && slices.Contains(alive, string(q.target)), "%s: %d members can take the chosen log, the target %s among them", name, len(alive), isOrNot(slices.Contains(alive, string(q.target))))
		add(rulePrimary, rec.Gate.Holds() || q.attest, "%s: gate %s in mode %s%s", name, strings.ToLower(string(rec.Gate.State)), rec.Gate.Mode, attested(rec.Gate.Holds(), q.attest))
		if rec.Restored {
			add(ruleRegistry, q.acceptLoss, "%s: the registry has gone back in time and no writer has re-armed since", name)
		}
		l := fence.PredictLoss(rec)
		if len(alive) < need {
			l = fence.LossStatement{Kind: fence.LossUnknown, Why: "no fence quorum"}
		}
		wanted := ""
		if !acceptable(l, svc) {
			wanted = "; the service accepts " + boundsText(maxLoss(svc))
		}
		add(ruleRPO, q.acceptLoss || wanted == "", "%s: %s%s", name, lossText(l), wanted)
	}
	if len(streams) == 0 {
		add(ruleRecord, false, "the service has no streams")
	}
	return out
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func isOrNot(is bool) string {
	if is {
		return "is"
	}
	return "is not"
}

func attested(holds, attest bool) string {
	switch {
	case holds:
		return ": a cut-off writer stops by itself"
	case attest:
		return "; the operator attests that the primary is down"
	}
	return ": a cut-off writer could go on releasing outputs"
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

func acceptable(l fence.LossStatement, svc registry.Service) bool {
	return l.Kind == fence.LossZero || l.Kind == fence.LossAtMost && !l.Bounds.LooserThan(maxLoss(svc))
}

func lossText(l fence.LossStatement) string {
	switch l.Kind {
	case fence.LossZero:
		return "loss zero: " + l.Why
	case fence.LossAtMost:
		return "loss at most " + boundsText(l.Bounds) + ": " + l.Why
	case fence.LossUnknown:
	}
	return "loss unknown: " + l.Why
}

func boundsText(b tidegate.Bounds) string {
	var parts []string
	if b.Records != tidegate.Unbounded {
		parts = append(parts, fmt.Sprintf("%d records", b.Records))
	}
	if b.Bytes != tidegate.Unbounded {
		parts = append(parts, fmt.Sprintf("%d bytes", b.Bytes))
	}
	if b.Window != tidegate.Unbounded {
		parts = append(parts, "a window of "+b.Window.String())
	}
	if len(parts) == 0 {
		return "anything"
	}
	return strings.Join(parts, ", ")
}

// targetTrouble says what keeps a node from holding the service's streams.
func (w *world) targetTrouble(v *registry.View, q question, streams []registry.Stream, stale time.Duration) string {
	if q.target == "" {
		return "no member has a reporting agent beside it to take over; name the target"
	}
	if _, ok := v.Node(registry.KindStandby, q.target); !ok {
		return fmt.Sprintf("%s is not a registered standby node", q.target)
	}
	holder, _ := w.holderOf(q.target)
	if holder.IsZero() {
		return fmt.Sprintf("the agent on %s is not known to any gate", q.target)
	}
	for _, s := range streams {
		rec := v.Epochs[s.ID].Value
		if !slices.Contains(s.Members, q.target) && rec.Config.Index(q.target) < 0 {
			return fmt.Sprintf("%s is not a member of %s", q.target, s.Name)
		}
		if rec.State == fence.StateActive && rec.Holder.UUID == holder {
			return fmt.Sprintf("%s already holds %s in epoch %s", q.target, s.Name, rec.Epoch)
		}
		if !slices.Contains(w.aliveMembers(rec.Config, s.ID, stale), string(q.target)) {
			return fmt.Sprintf("%s has not reported in the last %s, or does not know what it had", q.target, stale)
		}
	}
	return ""
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

// chooseTarget returns the member with the most applied streams whose agent
// reports; "" when none qualifies. Of equals the first by name.
func (w *world) chooseTarget(v *registry.View, s tidegate.ServiceName, stale time.Duration) tidegate.NodeName {
	streams := v.StreamsOf(s)
	if len(streams) == 0 {
		return ""
	}
	var best tidegate.NodeName
	var bestSeq uint64
	for _, m := range v.Epochs[streams[0].ID].Value.Config.Members {
		q := question{service: s, target: m.Node}
		if w.targetTrouble(v, q, streams, stale) != "" {
			continue
		}
		if seq := w.appliedSum(m.Node); best == "" || seq > bestSeq {
			best, bestSeq = m.Node, seq
		}
	}
	return best
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

// failing returns the rules that do not hold.
func failing(rules []*pb.RuleVerdict) bool {
	return slices.ContainsFunc(rules, func(r *pb.RuleVerdict) bool { return !r.GetHolds() })
}
