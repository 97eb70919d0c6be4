package gating

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/gating/rules"
)

// handClock stands still until it is moved.
type handClock struct{ boot tidegate.Instant }

func (c *handClock) Boot() tidegate.Instant { return c.boot }

func (c *handClock) Wall() time.Time { return time.Unix(0, int64(c.boot)) }

const aStream = "00000000000000000000000000000001"

// factual is a world in which a failover of ledger to w1 breaks no rule but the
// one about drills, for which nobody has evidence.
func factual() (*world, *handClock, *registry.View) {
	c := &handClock{boot: tidegate.Instant(time.Hour)}
	w := newWorld(c)
	id, _ := tidegate.ParseID(aStream)
	writer := fence.Holder{Node: "e1", Site: "east", UUID: tidegate.ID{7}}
	rec := fence.EpochRecord{
		Stream: id, Epoch: 3, ActiveEpoch: 3, State: fence.StateActive, Holder: writer, Active: writer,
		Gate: fence.GateRecord{State: fence.GateArmed, Mode: tidegate.ModeSync}, Config: fence.Config{W: 2},
	}
	v := &registry.View{
		Services: map[tidegate.ServiceName]registry.Entry[registry.Service]{"ledger": {Value: registry.Service{Name: "ledger"}}},
		Streams:  map[tidegate.StreamID]registry.Entry[registry.Stream]{id: {Value: registry.Stream{ID: id, Service: "ledger", Name: "a", Members: []tidegate.NodeName{"w1", "w2", "w3"}}}},
		Epochs:   map[tidegate.StreamID]registry.Entry[fence.EpochRecord]{},
		Nodes:    map[registry.Key]registry.Entry[registry.Node]{},
	}
	agent := &pb.ReportAgentRequest{Node: "e1", Site: "east", Streams: []*pb.AgentStream{{StreamId: aStream, Epoch: 3}}}
	for i, n := range []tidegate.NodeName{"w1", "w2", "w3"} {
		inc := tidegate.Incarnation{byte(i + 1)}
		rec.Config.Members = append(rec.Config.Members, fence.Member{Node: n, Incarnation: inc})
		v.Nodes[registry.NodeKey(registry.KindStandby, n)] = registry.Entry[registry.Node]{Value: registry.Node{Name: n, Kind: registry.KindStandby, Site: "west"}}
		v.Nodes[registry.NodeKey(registry.KindAgent, n)] = registry.Entry[registry.Node]{Value: registry.Node{Name: n, Kind: registry.KindAgent, Holder: tidegate.ID{byte(i + 100)}}}
		w.reportStandby(&pb.ReportStandbyRequest{
			Node: string(n), Site: "west", Incarnation: inc.String(), DiskFreeBytes: 1 << 40, DiskTotalBytes: 1 << 41, GrowthBytesPerSecond: new(1e6),
			Streams: []*pb.StandbyStream{{
				StreamId: aStream, History: []*pb.Term{{Epoch: 3}}, BeaconAge: durationpb.New(time.Second), AppliedSeq: new(uint64(9)),
				Durable: api.LogPosMessage(tidegate.LogPos{Epoch: 3, Seq: 9, Chain: tidegate.Chain{1}}),
			}},
		})
		agent.Streams[0].Members = append(agent.Streams[0].Members, &pb.AgentMember{Node: string(n), Incarnation: inc.String(), Counted: true})
	}
	v.Epochs[id] = registry.Entry[fence.EpochRecord]{Value: rec}
	w.reportAgent(agent, writer.UUID)
	w.setView(&registry.View{Revision: 1, Nodes: v.Nodes})
	return w, c, v
}

func refusals(w *world, v *registry.View, q question) []string {
	q.service = "ledger"
	if q.target == "" {
		q.target = "w1"
	}
	var out []string
	for _, x := range rules.Failing(rules.Evaluate(w.facts(v, q, 5*time.Second), rules.Request{Action: rules.Failover}, nil, time.Time{})) {
		if x.Rule != rules.DrillFresh {
			out = append(out, x.Rule)
		}
	}
	return out
}

func TestFacts(t *testing.T) {
	t.Parallel()
	stream := func(w *world, n tidegate.NodeName) *pb.StandbyStream { return w.standbys[n].report.GetStreams()[0] }
	for _, c := range []struct {
		name  string
		spoil func(*world, *handClock, *registry.View)
		q     question
		want  string
	}{
		{"good", func(*world, *handClock, *registry.View) {}, question{}, ""},
		{"no such service", func(_ *world, _ *handClock, v *registry.View) { clear(v.Services) }, question{}, "freeze-off arm-switch"},
		{"disarmed", func(_ *world, _ *handClock, v *registry.View) {
			v.Services["ledger"] = registry.Entry[registry.Service]{Value: registry.Service{Disarmed: true}}
		}, question{}, "arm-switch"},
		{"unregistered target", func(*world, *handClock, *registry.View) {}, question{target: "x1"}, "target adopt-quorum no-gap content-verified capacity"},
		{"reports grow old", func(_ *world, c *handClock, _ *registry.View) { c.boot += tidegate.Instant(6 * time.Second) }, question{}, "target fence-quorum adopt-quorum primary-fenced rpo-bound datum-fresh no-gap content-verified capacity"},
		{"two members in limbo", func(w *world, _ *handClock, _ *registry.View) {
			stream(w, "w2").Limbo, stream(w, "w3").Limbo = true, true
		}, question{}, "fence-quorum primary-fenced rpo-bound"},
		{"another incarnation", func(w *world, _ *handClock, _ *registry.View) { stream(w, "w1").Incarnation = tidegate.ID{99}.String() }, question{}, "target adopt-quorum no-gap content-verified"},
		{"target has not adopted", func(w *world, _ *handClock, _ *registry.View) { stream(w, "w1").History[0].Epoch = 2 }, question{}, "content-verified"},
		{"two members differ", func(w *world, _ *handClock, _ *registry.View) {
			stream(w, "w3").Durable.Chain = tidegate.Chain{2}.String()
		}, question{}, "content-verified"},
		{"the writer distrusts one", func(w *world, _ *handClock, _ *registry.View) {
			w.agents["e1"].report.GetStreams()[0].GetMembers()[1].Counted = false
		}, question{}, "content-verified"},
		{"target reports an error", func(w *world, _ *handClock, _ *registry.View) { stream(w, "w1").Error = "apply stopped" }, question{}, "no-gap content-verified capacity"},
		{"the source lost its log", func(w *world, _ *handClock, _ *registry.View) {
			w.agents["e1"].report.GetStreams()[0].Lost = "the slot was dropped"
		}, question{}, "no-gap"},
		{"the source was set back", func(w *world, _ *handClock, _ *registry.View) {
			said := w.agents["e1"].report.GetStreams()[0]
			said.Lost, said.LostDiverged = "it is of an older state", true
		}, question{}, ""},
		{"which somebody has accepted", func(w *world, _ *handClock, v *registry.View) {
			w.agents["e1"].report.GetStreams()[0].Lost = "the slot was dropped"
			for id, e := range v.Streams {
				e.Value.Renewal = &registry.Renewal{Epoch: 3, Node: "e1", Site: "east"}
				v.Streams[id] = e
			}
		}, question{}, ""},
		{"disk not reported", func(w *world, _ *handClock, _ *registry.View) { w.standbys["w1"].report.DiskTotalBytes = 0 }, question{}, "capacity"},
		{"growth not measured", func(w *world, _ *handClock, _ *registry.View) { w.standbys["w1"].report.GrowthBytesPerSecond = nil }, question{}, "capacity"},
		{"a lease that does not bind", func(_ *world, _ *handClock, v *registry.View) {
			for id, e := range v.Epochs {
				e.Value.Gate = fence.GateRecord{State: fence.GateBlindOK, Mode: tidegate.ModeSync, Lease: 10 * time.Second}
				v.Epochs[id] = e
			}
		}, question{}, "primary-fenced rpo-bound"},
		{"no beacon", func(w *world, _ *handClock, _ *registry.View) {
			for _, n := range []tidegate.NodeName{"w1", "w2", "w3"} {
				stream(w, n).BeaconAge = nil
			}
		}, question{}, "datum-fresh"},
		{"beacons ceased long before the writer", func(w *world, _ *handClock, _ *registry.View) {
			for _, n := range []tidegate.NodeName{"w1", "w2", "w3"} {
				stream(w, n).BeaconAge = durationpb.New(time.Hour)
			}
		}, question{}, "datum-fresh"},
		{"both ceased long ago", func(w *world, c *handClock, _ *registry.View) {
			w.agents["e1"].at -= tidegate.Instant(time.Hour)
			for _, n := range []tidegate.NodeName{"w1", "w2", "w3"} {
				stream(w, n).BeaconAge = durationpb.New(time.Hour)
			}
		}, question{}, ""},
		{"clients were served long after", func(w *world, c *handClock, _ *registry.View) {
			w.agents["e1"].at -= tidegate.Instant(time.Hour)
			w.signs["ledger"] = c.boot - tidegate.Instant(time.Minute)
			for _, n := range []tidegate.NodeName{"w1", "w2", "w3"} {
				stream(w, n).BeaconAge = durationpb.New(time.Hour)
			}
		}, question{}, "datum-fresh"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w, clk, v := factual()
			c.spoil(w, clk, v)
			if got := strings.Join(refusals(w, v, c.q), " "); got != c.want {
				t.Errorf("refused by %q, want %q", got, c.want)
			}
		})
	}
}

func TestALearnerMayBeTheTargetOfAPlannedChangeOnly(t *testing.T) {
	t.Parallel()
	w, _, v := factual()
	id, _ := tidegate.ParseID(aStream)
	st := v.Streams[id].Value
	st.Members = append(st.Members, "e2")
	v.Streams[id] = registry.Entry[registry.Stream]{Value: st}
	v.Nodes[registry.NodeKey(registry.KindStandby, "e2")] = registry.Entry[registry.Node]{Value: registry.Node{Name: "e2", Kind: registry.KindStandby, Site: "east"}}
	v.Nodes[registry.NodeKey(registry.KindAgent, "e2")] = registry.Entry[registry.Node]{Value: registry.Node{Name: "e2", Kind: registry.KindAgent, Holder: tidegate.ID{42}}}
	r := proto.CloneOf(w.standbys["w1"].report)
	r.Node, r.Site, r.Incarnation = "e2", "east", tidegate.ID{43}.String()
	w.reportStandby(r)
	refused := func(a rules.Action) []string {
		var out []string
		for _, x := range rules.Failing(rules.Evaluate(w.facts(v, question{service: "ledger", target: "e2"}, 5*time.Second), rules.Request{Action: a}, nil, time.Time{})) {
			out = append(out, x.Rule)
		}
		return out
	}
	if got := refused(rules.Failback); !slices.Equal(got, []string{rules.DrillFresh}) {
		t.Errorf("failback to a learner is refused by %v", got)
	}
	if got := refused(rules.Failover); !slices.Contains(got, rules.AdoptQuorum) {
		t.Errorf("failover to a learner is refused by %v, want adopt-quorum", got)
	}
}

// Overrides are given without a change of role, by operators only, and a detector
// that acts by itself goes by them.
func TestOverridesAreGivenAhead(t *testing.T) {
	t.Parallel()
	s, _, _ := ready(t, pb.Mode_MODE_SYNC, nil)
	req := &pb.PutOverridesRequest{Service: "ledger", Reason: "a lab", Overrides: []*pb.RuleOverride{{Rule: rules.Capacity}, {Rule: rules.NoGap, Reason: "known"}}}
	put := func(role tidegate.Role) (*pb.PutOverridesResponse, error) {
		r, err := s.operator(role).PutOverrides(t.Context(), connect.NewRequest(req))
		if err != nil {
			return nil, api.FromError("override", "ledger", err)
		}
		return r.Msg, nil
	}
	if _, err := put(tidegate.RoleViewer); err == nil {
		t.Fatal("a viewer has given an override")
	}
	out, err := put(tidegate.RoleOperator)
	if err != nil || len(out.GetOverrides()) != 2 || out.GetOverrides()[0].GetReason() != "a lab" || out.GetOverrides()[1].GetReason() != "known" {
		t.Fatalf("%v, %v", out, err)
	}
	r, err := s.operator(tidegate.RoleViewer).ListOverrides(t.Context(), connect.NewRequest(&pb.ListOverridesRequest{Service: "ledger"}))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range out.GetOverrides() {
		if !slices.ContainsFunc(r.Msg.GetOverrides(), func(x *pb.Override) bool { return x.GetId() == o.GetId() && x.GetExpires() != nil }) {
			t.Errorf("%s is not in force: %v", o.GetId(), r.Msg.GetOverrides())
		}
	}
	x, err := s.operator(tidegate.RoleViewer).GateExplain(t.Context(), connect.NewRequest(&pb.GateExplainRequest{Service: "ledger", Kind: pb.PlanKind_PLAN_KIND_FAILOVER, Auto: true}))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range x.Msg.GetRules() {
		if v.GetRule() == rules.Capacity && !v.GetHolds() {
			t.Errorf("capacity refuses an automatic failover: %v", v)
		}
	}
	for _, bad := range []*pb.PutOverridesRequest{
		{Service: "ledger", Reason: "none"},
		{Service: "ledger", Overrides: []*pb.RuleOverride{{Rule: rules.Capacity}}},
		{Service: "ledger", Reason: "x", Overrides: []*pb.RuleOverride{{Rule: rules.FreezeOff}}},
		{Service: "ledger", Reason: "x", Overrides: []*pb.RuleOverride{{Rule: rules.Capacity}}, Expires: durationpb.New(25 * time.Hour)},
		{Service: "other", Reason: "x", Overrides: []*pb.RuleOverride{{Rule: rules.Capacity}}},
	} {
		req = bad
		if _, err := put(tidegate.RoleOperator); tidegate.ClassOf(err) != tidegate.Misuse {
			t.Errorf("%v: %v", bad, err)
		}
	}
	given := 0
	for _, e := range s.audit("ledger", time.Time{}) {
		if e.GetAction() == ActionOverride && e.GetReason() != "" {
			given++
		}
	}
	if given != 2 {
		t.Errorf("%d overrides in the audit, want 2", given)
	}
}

func TestOverridesAreKept(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	store, err := registry.Open("demo", s.registry)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	p := parts{name: "gate-a", log: slog.New(slog.DiscardHandler), store: store, ids: new(entryIDs), now: func() time.Time { return now }}
	ctx := t.Context()
	put := func(ws ...overrideWish) error {
		_, err := p.putOverrides(ctx, "ledger", "operator/o", ws)
		return err
	}
	drill := overrideWish{rule: rules.DrillFresh, reason: "none yet"}
	if err := put(drill); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("override of an unknown service: %v", err)
	}
	if _, err := store.Commit(ctx, new(registry.Tx).Put(registry.ServiceKey("ledger"), registry.Service{Name: "ledger"})); err != nil {
		t.Fatal(err)
	}
	if err := put(drill, overrideWish{rule: rules.FreezeOff, reason: "hurry"}); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("override of the freeze: %v", err)
	}
	if got, err := p.listOverrides(ctx, "", true); err != nil || len(got) != 0 {
		t.Errorf("%v %v, want none: all of them or none", got, err)
	}
	if err := put(drill, overrideWish{rule: rules.Capacity, reason: "growth", expires: time.Minute}); err != nil {
		t.Fatal(err)
	}
	names := func(of tidegate.ServiceName, expired bool) string {
		got, err := p.listOverrides(ctx, of, expired)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, o := range got {
			out = append(out, o.ID())
		}
		return strings.Join(out, " ")
	}
	for _, c := range []struct {
		of      tidegate.ServiceName
		expired bool
		after   time.Duration
		want    string
	}{
		{"", false, 0, "ledger/capacity ledger/drill-fresh"},
		{"other", false, 0, ""},
		{"ledger", false, time.Minute, "ledger/drill-fresh"},
		{"ledger", true, time.Minute, "ledger/capacity ledger/drill-fresh"},
		{"ledger", false, time.Hour, ""},
	} {
		began := now
		now = now.Add(c.after)
		if got := names(c.of, c.expired); got != c.want {
			t.Errorf("of %q, expired %v, after %s: %q, want %q", c.of, c.expired, c.after, got, c.want)
		}
		now = began
	}
	if o, err := p.revokeOverride(ctx, "ledger", rules.DrillFresh, "operator/o", "drilled"); err != nil || o.Reason != "none yet" {
		t.Errorf("revoked %+v, %v", o, err)
	}
	if _, err := p.revokeOverride(ctx, "ledger", rules.DrillFresh, "operator/o", "again"); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("revoked twice: %v", err)
	}
	if got := names("", true); got != "ledger/capacity" {
		t.Errorf("left: %q", got)
	}
	entries, _, err := store.AuditFrom(ctx, "", 10, func(registry.AuditEntry) bool { return true })
	var actions []string
	for _, e := range entries {
		actions = append(actions, e.Action)
	}
	if want := []string{ActionOverride, ActionOverride, ActionRevoke}; err != nil || !slices.Equal(actions, want) {
		t.Errorf("audit %v %v, want %v", actions, err, want)
	}
}
