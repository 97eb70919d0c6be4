package gating

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/gating/rules"
)

// facts collects what is known for the rules: the tables, and what everybody
// last reported. What has not been reported is left out, which no rule passes.
func (w *world) facts(v *registry.View, q question, stale time.Duration) rules.Facts {
	svc, known := v.Services[q.service]
	f := rules.Facts{Target: rules.TargetFacts{Node: q.target}}
	if known {
		f.Service = rules.ServiceFacts{
			Frozen: new(svc.Value.Frozen), FrozenWhy: svc.Value.Reason, Armed: new(!svc.Value.Disarmed), ArmedWhy: brakeText(v, q.service),
			MaxLoss: maxLoss(svc.Value),
		}
		f.Limits.DrillAge = svc.Value.DrillAge
		f.Service.DrillAge = w.drillAge(v, q.service)
	}
	streams := v.StreamsOf(q.service)
	for _, s := range streams {
		f.Streams = append(f.Streams, w.streamFacts(v, q, s, stale))
	}
	w.targetFacts(v, &f.Target, streams, stale)
	return f
}

// brakeText says who switched the arm switch off, as far as a stream's brake tells.
func brakeText(v *registry.View, service tidegate.ServiceName) string {
	for _, s := range v.StreamsOf(service) {
		if b := s.Brake; b != nil {
			return fmt.Sprintf("the brake of %s is on: %s (%s)", s.Name, b.Reason, b.Actor)
		}
	}
	return ""
}

func (w *world) targetFacts(v *registry.View, t *rules.TargetFacts, streams []registry.Stream, stale time.Duration) {
	if t.Node == "" {
		return
	}
	_, registered := v.Node(registry.KindStandby, t.Node)
	holder, _ := w.holderOf(t.Node)
	t.Registered, t.Agent = &registered, new(!holder.IsZero())
	w.mu.Lock()
	defer w.mu.Unlock()
	st := w.standbys[t.Node]
	if st == nil || w.age(st.at) > stale {
		return
	}
	t.Healthy = new(true)
	for _, s := range st.report.GetStreams() {
		if s.GetError() != "" && hasStream(streams, s.GetStreamId()) {
			t.Healthy, t.HealthWhy = new(false), s.GetError()
		}
	}
	if st.report.GetDiskTotalBytes() > 0 {
		t.DiskFree = new(int64(min(st.report.GetDiskFreeBytes(), uint64(tidegate.Unbounded))))
	}
	t.DiskGrowth = st.report.GrowthBytesPerSecond
}

func (w *world) streamFacts(v *registry.View, q question, s registry.Stream, stale time.Duration) rules.StreamFacts {
	e, ok := v.Epochs[s.ID]
	out := rules.StreamFacts{Name: s.Name, Recorded: &ok}
	if !ok {
		return out
	}
	rec := e.Value
	never := rec.ActiveEpoch == 0
	out.NeverWritten, out.Restored, out.Quorum = &never, new(rec.Restored), rec.Config.Quorum()
	out.TargetNamed = new(slices.Contains(s.Members, q.target) || rec.Config.Index(q.target) >= 0)
	// Under whichever uuid: a service that is made writer where it is active would
	// keep no record of where the new epoch begins.
	out.TargetHolds = new(!never && rec.Active.Node == q.target)
	out.GateHolds, out.Lease = new(rec.Gate.Holds()), new(time.Duration(0))
	if rec.Gate.LeaseBinds() {
		out.Lease = new(rec.Gate.Lease)
	}
	out.GateText = fmt.Sprintf("gate %s in mode %s", strings.ToLower(string(rec.Gate.State)), rec.Gate.Mode)
	if !never {
		out.Writer = fmt.Sprintf("epoch %s of %s", rec.ActiveEpoch, rec.Active.Node)
	}
	out.Members = w.memberFacts(s, rec, stale)
	out.Loss = w.lossFacts(rec, s.ID, stale)
	w.contentFacts(&out, q.target, rec, stale)
	// A source that was set back lacks what the members hold: a change of role is what brings it back.
	if said := w.sourceOf(s, rec, stale); said.report.GetLost() != "" && !said.report.GetLostDiverged() && !s.Renewal.Pending(rec) {
		out.NoGap, out.GapWhy = new(false), fmt.Sprintf("the source beside %s has come to where it does not continue the log: %s; `tidegate gap accept %s/%s` goes on in a new generation",
			said.node, said.report.GetLost(), s.Service, s.Name)
	}
	out.BeaconAge = w.beaconAge(rec, s.ID, stale)
	out.WriterSilent = w.writerSilent(rec, q.service)
	return out
}

// lossFacts is what a failover could claim now, at best.
func (w *world) lossFacts(rec fence.EpochRecord, id tidegate.StreamID, stale time.Duration) *fence.LossStatement {
	l := fence.PredictLoss(rec)
	switch {
	case rec.ActiveEpoch == 0:
		l = fence.LossStatement{Kind: fence.LossZero, Why: "it never had a writer"}
	case len(w.aliveMembers(rec.Config, id, stale)) < rec.Config.Quorum().R():
		l = fence.LossStatement{Kind: fence.LossUnknown, Why: "no fence quorum"}
	}
	return &l
}

// memberFacts describes the members in force, and the configured ones that are
// not in force yet.
func (w *world) memberFacts(s registry.Stream, rec fence.EpochRecord, stale time.Duration) []rules.MemberFacts {
	var out []rules.MemberFacts
	w.mu.Lock()
	defer w.mu.Unlock()
	distrusted := w.distrusted(rec)
	for _, m := range rec.Config.Members {
		out = append(out, w.memberFact(m, true, s, rec, stale, distrusted))
	}
	for _, n := range s.Members {
		if rec.Config.Index(n) < 0 {
			out = append(out, w.memberFact(fence.Member{Node: n}, false, s, rec, stale, distrusted))
		}
	}
	return out
}

// memberFact describes one member. Called with mu held.
func (w *world) memberFact(m fence.Member, inForce bool, s registry.Stream, rec fence.EpochRecord, stale time.Duration, distrusted []tidegate.NodeName) rules.MemberFacts {
	out := rules.MemberFacts{Node: m.Node, InForce: inForce}
	st := w.standbys[m.Node]
	if st == nil {
		return out
	}
	fresh := w.age(st.at) <= stale
	out.Answers = &fresh
	one := reportOf(st.report, s.ID)
	if !fresh || one == nil {
		return out
	}
	inc := first(one.GetIncarnation(), st.report.GetIncarnation())
	out.Knows = new(!one.GetLimbo() && (!inForce || inc == m.Incarnation.String()))
	adopted := adoptedEpoch(one)
	switch {
	case !*out.Knows:
		out.Verified, out.Why = new(false), "does not know what it had"
	case one.GetError() != "":
		out.Verified, out.Why = new(false), one.GetError()
	case slices.Contains(distrusted, m.Node):
		out.Verified, out.Why = new(false), "the writer does not trust it: what it acknowledged contradicts what was sent"
	case adopted < rec.ActiveEpoch:
		out.Verified, out.Why = new(false), fmt.Sprintf("has adopted epoch %s, the writer's is %s", adopted, rec.ActiveEpoch)
	default:
		out.Verified, out.Why = new(true), fmt.Sprintf("adopted epoch %s, log to batch %s with chain %.8s", adopted, tidegate.Seq(one.GetDurable().GetSeq()), one.GetDurable().GetChain())
	}
	return out
}

func reportOf(r *pb.ReportStandbyRequest, id tidegate.StreamID) *pb.StandbyStream {
	for _, s := range r.GetStreams() {
		if s.GetStreamId() == id.String() {
			return s
		}
	}
	return nil
}

func adoptedEpoch(s *pb.StandbyStream) tidegate.Epoch {
	h := s.GetHistory()
	if len(h) == 0 {
		return 0
	}
	return tidegate.Epoch(h[len(h)-1].GetEpoch())
}

// distrusted lists the members in force whose acks the writer does not count, by
// its newest report, however old: what contradicted it then still does. Called
// with mu held.
func (w *world) distrusted(rec fence.EpochRecord) []tidegate.NodeName {
	a := w.agents[rec.Holder.Node]
	if a == nil || a.holder != rec.Holder.UUID {
		return nil
	}
	var out []tidegate.NodeName
	for _, s := range a.report.GetStreams() {
		if s.GetStreamId() != rec.Stream.String() || tidegate.Epoch(s.GetEpoch()) != rec.Epoch {
			continue
		}
		for _, m := range s.GetMembers() {
			i := rec.Config.Index(tidegate.NodeName(m.GetNode()))
			if !m.GetCounted() && i >= 0 && rec.Config.Members[i].Incarnation.String() == m.GetIncarnation() {
				out = append(out, rec.Config.Members[i].Node)
			}
		}
	}
	return out
}

// contentFacts compares the ends of the members' logs, and asks the target for a gap.
func (w *world) contentFacts(out *rules.StreamFacts, target tidegate.NodeName, rec fence.EpochRecord, stale time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	distrusted := w.distrusted(rec)
	var tails []rules.Tail
	for _, m := range out.Members {
		st := w.standbys[m.Node]
		if st == nil || m.Knows == nil || !*m.Knows || w.age(st.at) > stale {
			continue
		}
		one := reportOf(st.report, rec.Stream)
		if m.Node == target {
			// A log is opened, appended to and adopted only without holes; what cannot be
			// read is an error, and a source that cannot give its log any more is a gap.
			out.NoGap, out.GapWhy = new(one.GetError() == ""), one.GetError()
			if one.AppliedSeq != nil {
				out.Applies, out.AppliesWhy = new(true), fmt.Sprintf("the service beside %s has applied to batch %s", m.Node, tidegate.Seq(one.GetAppliedSeq()))
			}
		}
		if !m.InForce {
			continue
		}
		end, err := api.LogPos(one.GetDurable())
		if err != nil {
			out.Agree, out.Differs = new(false), fmt.Sprintf("%s: %v", m.Node, err)
			return
		}
		tails = append(tails, rules.Tail{Node: m.Node, Epoch: adoptedEpoch(one), Seq: end.Seq, Chain: end.Chain, Distrusted: slices.Contains(distrusted, m.Node)})
	}
	if len(tails) > 0 {
		agree, differs := rules.Agreement(tails)
		out.Agree, out.Differs = &agree, differs
	}
}

// beaconAge returns the age of the newest beacon that a member has heard; nil
// when none has. A report that is not fresh any more only grows old.
func (w *world) beaconAge(rec fence.EpochRecord, id tidegate.StreamID, stale time.Duration) *time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	var best *time.Duration
	for _, m := range rec.Config.Members {
		st := w.standbys[m.Node]
		if st == nil || w.age(st.at) > stale {
			continue
		}
		one := reportOf(st.report, id)
		if one.GetBeaconAge() == nil {
			continue
		}
		if d := one.GetBeaconAge().AsDuration() + w.age(st.at); best == nil || d < *best {
			best = &d
		}
	}
	return best
}

// writerSilent returns the time since the writer's last sign of life here: its
// agent's report, or what a vantage point of the detector saw. nil: none.
func (w *world) writerSilent(rec fence.EpochRecord, service tidegate.ServiceName) *time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	var best *time.Duration
	if a := w.agents[rec.Active.Node]; a != nil && a.report != nil && a.holder == rec.Active.UUID {
		best = new(w.age(a.at))
	}
	if at, ok := w.signs[service]; ok && (best == nil || w.age(at) < *best) {
		best = new(w.age(at))
	}
	return best
}
