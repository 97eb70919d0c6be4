package gating

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
)

// ready is a site with a gate, three nodes, two streams, a writer at the east
// site in epoch 1 and a dormant agent beside each node.
func ready(t *testing.T, mode pb.Mode, bounds *pb.Bounds) (*site, map[string]tidegate.StreamID, []fence.EpochRecord) {
	t.Helper()
	s := newSite(t, "w1", "w2", "w3")
	s.startGate("gate-a", nil, nil)
	s.register()
	ids := s.addStreams(mode, bounds)
	s.agent("e1", "east")
	for n := range s.nodes {
		s.agent(n, "west")
	}
	recs := s.mustAcquire("e1", "east")
	s.report()
	return s, ids, recs
}

func TestAcquire(t *testing.T) {
	t.Parallel()
	s, _, recs := ready(t, pb.Mode_MODE_SYNC, nil)
	if len(recs) != 2 {
		t.Fatalf("%d grants, want both streams", len(recs))
	}
	for _, r := range recs {
		if r.Epoch != 1 || r.State != fence.StateActive || r.Holder.UUID != s.agents["e1"] || len(r.Config.Members) != 3 {
			t.Errorf("record %+v", r)
		}
	}
	s.write(recs[0], 3, "w1", "w2")
	again, err := s.acquire("e1", "east")
	if err != nil || again[0].Epoch != 1 {
		t.Fatalf("asking again: epoch %s, %v; the same holder has its epoch already", again[0].Epoch, err)
	}
	s.agent("e2", "east")
	next, err := s.acquire("e2", "east")
	if err != nil {
		t.Fatal(err)
	}
	if next[0].Epoch != 2 || next[0].Head.Seq != 3 || next[0].StartSeq != 4 {
		t.Fatalf("next writer: %+v, want epoch 2 after batch 3", next[0])
	}
	_, err = s.acquire("w1", "west")
	if tidegate.ClassOf(err) != tidegate.Refused || !strings.Contains(err.Error(), fence.RuleSameSite) {
		t.Fatalf("an agent of the other site acquired: %v", err)
	}
}

func TestFailover(t *testing.T) {
	t.Parallel()
	s, ids, recs := ready(t, pb.Mode_MODE_SYNC, nil)
	s.write(recs[0], 5, "w1", "w2")
	s.write(recs[1], 2, "w2", "w3")
	s.report()
	plan, steps, err := s.failover(&pb.ChangeRoleRequest{Target: "w1", Reason: "fire"})
	if err != nil {
		t.Fatal(err)
	}
	if plan.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_DONE || plan.GetLoss().GetKind() != pb.LossKind_LOSS_KIND_ZERO {
		t.Fatalf("plan %v", plan)
	}
	var names []string
	for _, st := range steps {
		if st.GetState() == stepDone {
			names = append(names, st.GetName()[:2])
		}
	}
	if want := []string{"F1", "F2", "F3", "F4", "F5", "F6", "F7", "F8", "F9"}; !slices.Equal(names, want) {
		t.Errorf("steps %v, want %v", names, want)
	}
	for _, st := range plan.GetStreams() {
		if st.GetFromEpoch() != 1 || st.GetEpoch() != 2 {
			t.Errorf("stream %s: epoch %d -> %d, want 1 -> 2", st.GetName(), st.GetFromEpoch(), st.GetEpoch())
		}
	}
	for name, rec := range s.records(ids) {
		if rec.State != fence.StateActive || rec.Epoch != 2 || rec.Holder.UUID != s.agents["w1"] {
			t.Errorf("stream %s: %+v", name, rec)
		}
		if want := map[string]tidegate.Seq{"a": 5, "b": 2}[name]; rec.Head.Seq != want {
			t.Errorf("stream %s: head %s, want %s: nothing acknowledged may be lost", name, rec.Head.Seq, want)
		}
	}
	status, err := s.operator(tidegate.RoleViewer).Status(t.Context(), connect.NewRequest(&pb.StatusRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	r := status.Msg.GetServices()[0].GetRoute()
	if r.GetEpoch() != 2 || !slices.Equal(r.GetEndpoints(), []string{"w1:8080"}) || r.GetSite() != "west" {
		t.Errorf("route %v", r)
	}
	for _, ph := range plan.GetPhases().GetPhases() {
		if slices.Contains([]string{"fence", "catch-up", "promote", "apply"}, ph.GetName()) && ph.GetTook() == nil {
			t.Errorf("phase %s was not timed", ph.GetName())
		}
		if ph.GetName() == "verify" && (ph.GetTook() != nil || ph.GetAt() != nil) {
			t.Errorf("phase verify took %v although nothing was verified: unknown is never 0", ph.GetTook())
		}
	}
	logs.Lock()
	err = s.nodes["w1"].stream(ids["a"]).core.CheckAppend(recs[0].Epoch, recs[0].Holder.UUID, recs[0].Epoch)
	logs.Unlock()
	if tidegate.ClassOf(err) != tidegate.Fenced {
		t.Errorf("the old writer may still append: %v", err)
	}
}

// A node that has died since its last report is not chosen: a plan cannot change
// its target, and would wait for it in vain.
func TestChosenTargetAnswers(t *testing.T) {
	t.Parallel()
	s, _, _ := ready(t, pb.Mode_MODE_SYNC, nil)
	for _, c := range []struct {
		down []tidegate.NodeName
		want string
	}{
		{nil, "w1"},
		{[]tidegate.NodeName{"w1"}, "w2"},
		{[]tidegate.NodeName{"w1", "w2", "w3"}, "w1"}, // the rules say what is wrong
	} {
		logs.Lock()
		for _, n := range c.down {
			s.nodes[n].down = true
		}
		logs.Unlock()
		plan, _, _ := s.failover(&pb.ChangeRoleRequest{DryRun: true})
		if got := plan.GetTarget().GetNode(); got != c.want {
			t.Errorf("%v down: target %q, want %s", c.down, got, c.want)
		}
	}
}

func TestFailoverRefusalsNameEveryRule(t *testing.T) {
	t.Parallel()
	s, ids, _ := ready(t, pb.Mode_MODE_OPEN, nil)
	before := s.records(ids)
	plan, _, err := s.failover(&pb.ChangeRoleRequest{Target: "w1", DryRun: true})
	if tidegate.ClassOf(err) != tidegate.Refused {
		t.Fatalf("dry run of an open service: %v", err)
	}
	if plan.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_DRY_RUN || plan.GetExpected().AsDuration() == 0 || plan.GetImpact() == "" || len(plan.GetSteps()) != 9 {
		t.Errorf("the dry run shows no plan: %v", plan)
	}
	for _, rule := range []string{rulePrimary, ruleRPO} {
		if !strings.Contains(err.Error(), rule) {
			t.Errorf("%s is not named in %v", rule, err)
		}
	}
	if hint := tidegate.HintOf(err); !strings.Contains(hint, "--accept-loss") || !strings.Contains(hint, "--attest-primary-down") {
		t.Errorf("hint %q", hint)
	}
	s.nodes["w2"].down, s.nodes["w3"].down = true, true
	s.gate.stop()
	s.startGate("gate-b", nil, nil) // has heard of nobody but who reports now
	s.eventually("first view", func() error {
		_, _, err := s.failover(&pb.ChangeRoleRequest{Target: "w9", AcceptLoss: true, AttestPrimaryDown: true})
		if tidegate.ClassOf(err) == tidegate.Refused {
			return nil
		}
		return fmt.Errorf("unknown target: %w", err)
	})
	s.report()
	_, _, err = s.failover(&pb.ChangeRoleRequest{Target: "w1"})
	for _, rule := range []string{ruleQuorum, rulePrimary, ruleRPO} {
		if err == nil || !strings.Contains(err.Error(), rule) {
			t.Errorf("%s is not named in %v", rule, err)
		}
	}
	for name, rec := range s.records(ids) {
		if rec.Epoch != before[name].Epoch || rec.State != fence.StateActive {
			t.Errorf("a refused failover changed stream %s: %+v", name, rec)
		}
	}
}

func TestForcedFailoverClaimsNothing(t *testing.T) {
	t.Parallel()
	s, ids, recs := ready(t, pb.Mode_MODE_SYNC, nil)
	s.write(recs[0], 5, "w1", "w2")
	s.nodes["w2"].down, s.nodes["w3"].down = true, true
	s.gate.stop()
	s.startGate("gate-b", nil, func(c *Config) { c.Timing.Fence, c.Timing.Adopt = time.Second, time.Second })
	s.report()
	var plan *pb.Plan
	s.eventually("failover", func() (err error) {
		plan, _, err = s.failover(&pb.ChangeRoleRequest{Target: "w1", AcceptLoss: true, AttestPrimaryDown: true})
		return err
	})
	if plan.GetLoss().GetKind() != pb.LossKind_LOSS_KIND_UNKNOWN || !plan.GetLoss().GetUnclean() || len(plan.GetLoss().GetMissing()) != 2 {
		t.Errorf("loss %v, want unknown, unclean, two members missing", plan.GetLoss())
	}
	if rec := s.records(ids)["a"]; !rec.Shrunk || rec.Config.W != 1 || rec.State != fence.StateActive {
		t.Errorf("record %+v, want the one adopter as its configuration", rec)
	}
}

// TestAnotherGateFinishes kills the gate after every record that a failover
// writes, one run each, and lets a second gate finish what it began.
func TestAnotherGateFinishes(t *testing.T) {
	t.Parallel()
	s, ids, recs := ready(t, pb.Mode_MODE_SYNC, nil)
	s.gate.stop()
	holder, at := recs[0].Holder, recs
	targets := []tidegate.NodeName{"w1", "w2"}
	for n := 1; ; n++ {
		if n == 1 {
			s.write(at[0], 1, "w1", "w2")
		} else {
			s.learn(ids) // W adopters were enough to activate; the third follows, as nodes do
			s.write(at[0], 1, "w2", "w3")
		}
		want := s.nodes["w2"].streams[ids["a"]].end()
		killed := make(chan fence.PlanStep, 1)
		kill := make(chan struct{})
		first := s.startGate(fmt.Sprintf("gate-%d", n), func(step fence.PlanStep, saved int) {
			if saved == n {
				killed <- step
				<-kill // hold the plan exactly here until the gate's context is gone
			}
		}, nil)
		for node := range s.nodes {
			s.agents[node] = s.agent(node, "west")
		}
		s.report()
		target := targets[n%2]
		stopped := make(chan struct{})
		go func() { // ends with the gate's failover, or with its stop
			defer close(stopped)
			s.eventuallyQuiet(func() bool {
				_, _, err := s.failover(&pb.ChangeRoleRequest{Target: string(target), AcceptLoss: true, AttestPrimaryDown: true})
				return err == nil || len(killed) > 0 || tidegate.ClassOf(err) != tidegate.Transient
			})
		}()
		var step fence.PlanStep
		select {
		case step = <-killed:
			killed <- step
		case <-stopped:
			if len(killed) == 0 {
				if n < 8 {
					t.Fatalf("only %d records were written, want one per step", n-1)
				}
				close(kill)
				first.stop()
				return // a whole failover without the fault firing: every step was tried
			}
		}
		go first.stop() // waits for the plan; the plan waits for kill
		close(kill)
		first.stop()
		<-stopped
		s.startGate(fmt.Sprintf("gate-%d-next", n), nil, nil)
		s.report()
		s.eventually(fmt.Sprintf("killed after record %d, %s", n, step), func() error {
			r, err := s.operator(tidegate.RoleViewer).ListPlans(t.Context(), connect.NewRequest(&pb.ListPlansRequest{Limit: 1}))
			if err != nil {
				return err
			}
			if p := r.Msg.GetPlans()[0]; p.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_DONE || p.GetTarget().GetNode() != string(target) {
				return fmt.Errorf("plan %s is %s: %s", p.GetId(), p.GetOutcome(), p.GetError())
			}
			return nil
		})
		got := s.records(ids)
		a := got["a"]
		if a.State != fence.StateActive || a.Holder.Node != target || a.Head.Seq < want.Seq || a.Holder == holder {
			t.Fatalf("killed after record %d (%s): record %+v, want %s with head at least %s", n, step, a, target, want.Seq)
		}
		if b := got["b"]; b.Epoch == 0 || b.Holder != a.Holder || b.State != fence.StateActive {
			t.Fatalf("killed after record %d (%s): the streams are apart: %+v", n, step, b)
		}
		holder, at = a.Holder, []fence.EpochRecord{a, got["b"]}
		s.gate.stop()
		t.Logf("record %d, %s: finished by another gate in epoch %s", n, step, a.Epoch)
	}
}

// eventuallyQuiet repeats fn until it returns true, on a goroutine that must not fail the test.
func (s *site) eventuallyQuiet(fn func() bool) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 500 {
		if fn() {
			return
		}
		<-tick.C
	}
}

func TestRegistryDown(t *testing.T) {
	t.Parallel()
	s, _, _ := ready(t, pb.Mode_MODE_SYNC, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w, err := s.node(tidegate.RoleStandby, "west", "w1").Watch(ctx, connect.NewRequest(&pb.WatchRequest{Node: "w1", Kind: pb.NodeKind_NODE_KIND_STANDBY, Site: "west"}))
	if err != nil {
		t.Fatal(err)
	}
	if !w.Receive() || !w.Msg().GetSnapshot() || len(w.Msg().GetServices()) != 1 || len(w.Msg().GetNodes()) != 3 {
		t.Fatalf("snapshot %v, %v", w.Msg(), w.Err())
	}
	s.stopEtcd()
	for w.Receive() {
		if !w.Msg().GetRegistryReachable() {
			break
		}
	}
	if w.Err() != nil || len(w.Msg().GetRemovedServices()) != 0 {
		t.Fatalf("the watch must stay and keep its view: %v, %v", w.Msg(), w.Err())
	}
	s.agents["e1"] = tidegate.NewID()
	_, err = s.acquire("e1", "east")
	if tidegate.ClassOf(err) != tidegate.Transient || tidegate.HintOf(err) == "" {
		t.Fatalf("acquire without a registry: %v (class %s, hint %q)", err, tidegate.ClassOf(err), tidegate.HintOf(err))
	}
	_, _, err = s.failover(&pb.ChangeRoleRequest{Target: "w1"})
	if tidegate.ClassOf(err) != tidegate.Transient || tidegate.HintOf(err) == "" {
		t.Fatalf("failover without a registry: %v", err)
	}
	st, err := s.operator(tidegate.RoleViewer).Status(t.Context(), connect.NewRequest(&pb.StatusRequest{}))
	if err != nil || st.Msg.GetRegistryReachable() || st.Msg.GetVerdict() == pb.Verdict_VERDICT_SAFE || len(st.Msg.GetServices()) != 1 {
		t.Fatalf("status without a registry: %v, %v", st, err)
	}
	if st.Msg.GetRegistryAge() == nil || !strings.Contains(strings.Join(st.Msg.GetReasons(), " "), "old") {
		t.Errorf("status does not say how old its view is: %v, %v", st.Msg.GetRegistryAge(), st.Msg.GetReasons())
	}
	ls, err := s.operator(tidegate.RoleViewer).ListStreams(t.Context(), connect.NewRequest(&pb.ListStreamsRequest{Service: "ledger"}))
	if err != nil || ls.Msg.GetRegistryReachable() || len(ls.Msg.GetStreams()) != 2 || ls.Msg.GetRegistryAge() == nil {
		t.Errorf("streams without a registry: %v, %v", ls, err)
	}
	_, err = s.operator(tidegate.RoleViewer).ListPlans(t.Context(), connect.NewRequest(&pb.ListPlansRequest{Service: "ledger"}))
	if err = api.FromError("list plans", "", err); tidegate.ClassOf(err) != tidegate.Transient || !strings.Contains(tidegate.HintOf(err), "old") {
		t.Errorf("plans without a registry: %v (hint %q)", err, tidegate.HintOf(err))
	}
}

func TestUnknownServicesAreNotFound(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.startGate("gate-a", nil, nil)
	op, ctx := s.operator(tidegate.RoleOperator), t.Context()
	calls := map[string]error{}
	_, calls["streams"] = op.ListStreams(ctx, connect.NewRequest(&pb.ListStreamsRequest{Service: "nope"}))
	_, calls["plans"] = op.ListPlans(ctx, connect.NewRequest(&pb.ListPlansRequest{Service: "nope"}))
	_, calls["audit"] = op.ListAudit(ctx, connect.NewRequest(&pb.ListAuditRequest{Service: "nope"}))
	_, calls["overrides"] = op.ListOverrides(ctx, connect.NewRequest(&pb.ListOverridesRequest{Service: "nope"}))
	_, calls["open"] = op.OpenGate(ctx, connect.NewRequest(&pb.OpenGateRequest{Service: "nope", Reason: "x"}))
	_, calls["arm"] = op.ArmGate(ctx, connect.NewRequest(&pb.ArmGateRequest{Service: "nope"}))
	_, calls["mode"] = op.SetMode(ctx, connect.NewRequest(&pb.SetModeRequest{Service: "nope"}))
	for what, err := range calls {
		if err := api.FromError("call", "", err); !errors.Is(err, tidegate.ErrNotFound) || tidegate.HintOf(err) == "" {
			t.Errorf("%s: %v (hint %q)", what, err, tidegate.HintOf(err))
		}
	}
}

func TestRolesAreEnforced(t *testing.T) {
	t.Parallel()
	s := newSite(t, "w1")
	s.startGate("gate-a", nil, nil)
	ctx := t.Context()
	calls := map[string]error{}
	_, calls["viewer adds a service"] = s.operator(tidegate.RoleViewer).AddService(ctx, connect.NewRequest(&pb.AddServiceRequest{Service: &pb.Service{Name: "x"}}))
	_, calls["standby acquires"] = s.node(tidegate.RoleStandby, "west", "w1").AcquireEpoch(ctx, connect.NewRequest(&pb.AcquireEpochRequest{Service: "x"}))
	_, calls["agent speaks for another"] = s.node(tidegate.RoleAgent, "east", "e1").AcquireEpoch(ctx, connect.NewRequest(&pb.AcquireEpochRequest{Service: "x", Holder: &pb.Holder{Node: "e2", Site: "east", Uuid: tidegate.NewID().String()}}))
	_, calls["drill reports"] = s.node(tidegate.RoleDrill, "east", "d").ReportStandby(ctx, connect.NewRequest(&pb.ReportStandbyRequest{Node: "d"}))
	_, calls["operator speaks as a node"] = s.node(tidegate.RoleOperator, "west", "w1").ReadEpoch(ctx, connect.NewRequest(&pb.ReadEpochRequest{StreamId: tidegate.NewID().String()}))
	for what, err := range calls {
		if err := api.FromError("call", "", err); tidegate.ClassOf(err) != tidegate.Refused {
			t.Errorf("%s: %v (class %s), want a refusal", what, err, tidegate.ClassOf(err))
		}
	}
	if _, err := s.operator(tidegate.RoleViewer).Status(ctx, connect.NewRequest(&pb.StatusRequest{})); err != nil {
		t.Errorf("a viewer may read: %v", err)
	}
}

func TestGateRecordAndFailoverCompete(t *testing.T) {
	t.Parallel()
	s, ids, recs := ready(t, pb.Mode_MODE_SYNC, nil)
	agent := s.node(tidegate.RoleAgent, "east", "e1")
	read, err := agent.ReadEpoch(t.Context(), connect.NewRequest(&pb.ReadEpochRequest{StreamId: ids["a"].String()}))
	if err != nil {
		t.Fatal(err)
	}
	degrade := func(revision int64) error {
		_, err := agent.RecordGate(t.Context(), connect.NewRequest(&pb.RecordGateRequest{
			StreamId: ids["a"].String(), Epoch: 1, Holder: s.agents["e1"].String(), Revision: revision, Was: read.Msg.GetEpoch().GetGate(),
			Gate: &pb.GateRecord{State: pb.GateState_GATE_STATE_DEGRADED, Mode: pb.Mode_MODE_SYNC, SinceSeq: 1},
		}))
		return api.FromError("degrade", "a", err)
	}
	if err := degrade(read.Msg.GetEpoch().GetRevision()); tidegate.ClassOf(err) != tidegate.Refused {
		t.Fatalf("degrade against the policy: %v", err)
	}
	if _, err := s.operator(tidegate.RoleOperator).SetMode(t.Context(), connect.NewRequest(&pb.SetModeRequest{
		Service: "ledger", Stream: "a", Policy: pb.GatePolicy_GATE_POLICY_DEGRADE, SingleRegistry: true,
	})); err != nil {
		t.Fatal(err)
	}
	if err := degrade(read.Msg.GetEpoch().GetRevision() - 1); tidegate.ClassOf(err) != tidegate.Transient {
		t.Fatalf("degrade on an old revision: %v", err)
	}
	if err := degrade(read.Msg.GetEpoch().GetRevision()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.failover(&pb.ChangeRoleRequest{Target: "w1"}); tidegate.ClassOf(err) != tidegate.Refused {
		t.Fatalf("failover of a degraded stream without consent: %v", err)
	}
	plan, _, err := s.failover(&pb.ChangeRoleRequest{Target: "w1", AcceptLoss: true, AttestPrimaryDown: true})
	if err != nil || plan.GetLoss().GetKind() != pb.LossKind_LOSS_KIND_UNKNOWN {
		t.Fatalf("loss after a degradation: %v, %v", plan.GetLoss(), err)
	}
	if err := degrade(read.Msg.GetEpoch().GetRevision()); tidegate.ClassOf(err) != tidegate.Fenced {
		t.Fatalf("degrade after the failover of epoch %s: %v", recs[0].Epoch, err)
	}
}

func TestMeasuredLossCompletesTheStatement(t *testing.T) {
	t.Parallel()
	s, ids, recs := ready(t, pb.Mode_MODE_SYNC, nil)
	s.write(recs[0], 2, "w1", "w2")
	plan, _, err := s.failover(&pb.ChangeRoleRequest{Target: "w1"})
	if err != nil {
		t.Fatal(err)
	}
	released := int64(0)
	report := func(id, node string, records int64, reason string) {
		t.Helper()
		_, err := s.node(tidegate.RoleAgent, "east", node).ReportQuarantine(t.Context(), connect.NewRequest(&pb.ReportQuarantineRequest{
			Id: id, Node: node, StreamId: ids["a"].String(), WrittenEpoch: 1, CutEpoch: 2, FirstPosition: 10, NextPosition: 99,
			Records: records, Bytes: 10 * records, ReleasedRecords: &released, Reason: reason,
		}))
		if err != nil {
			t.Fatal(err)
		}
	}
	show := func() *pb.LossStatement {
		t.Helper()
		r, err := s.operator(tidegate.RoleViewer).ShowPlan(t.Context(), connect.NewRequest(&pb.ShowPlanRequest{Id: plan.GetId()}))
		if err != nil {
			t.Fatal(err)
		}
		return r.Msg.GetPlan().GetStreams()[0].GetLoss()
	}
	if show().GetMeasured() != nil {
		t.Fatal("measured before anything was reported")
	}
	report("1", "e1", 7, fence.ReasonDiverged)
	report("1", "e1", 7, fence.ReasonDiverged) // a lost answer: said again
	report("1", "e2", 5, fence.ReasonDiverged) // another copy of the same log
	report("2", "e1", 100, fence.ReasonSuperseded)
	if m := show().GetMeasured(); m.GetRecords() != 7 || m.GetReleasedRecords() != 0 || !m.GetReleasedKnown() || show().GetKind() != pb.LossKind_LOSS_KIND_ZERO {
		t.Fatalf("measured %v", show())
	}
	released = 3
	report("3", "e1", 3, fence.ReasonDiverged)
	if l := show(); l.GetKind() != pb.LossKind_LOSS_KIND_UNKNOWN || l.GetMeasured().GetReleasedRecords() != 3 {
		t.Fatalf("a refuted claim of zero still stands: %v", l)
	}
}

func TestPromiseAboveTheRegistryEndsClaims(t *testing.T) {
	t.Parallel()
	s, ids, _ := ready(t, pb.Mode_MODE_SYNC, nil)
	req := &pb.ReportStandbyRequest{Node: "w1", Site: "west", Incarnation: s.nodes["w1"].inc.String(), Streams: []*pb.StandbyStream{{
		StreamId: ids["a"].String(), Promise: &pb.Promise{Epoch: 9, Holder: tidegate.NewID().String()},
	}}}
	if _, err := s.node(tidegate.RoleStandby, "west", "w1").ReportStandby(t.Context(), connect.NewRequest(req)); err != nil {
		t.Fatal(err)
	}
	if rec := s.records(ids)["a"]; !rec.Restored || rec.Gate.State != fence.GateUnknown {
		t.Fatalf("record %+v, want it distrusted", rec)
	}
	if rec := s.records(ids)["b"]; rec.Restored {
		t.Fatal("a stream that nobody contradicts was distrusted")
	}

	// The record names e1, which may have been fenced long ago: that it asks proves
	// nothing. Two members that stand by its epoch do.
	arm := func(to pb.GateState) error {
		agent := s.node(tidegate.RoleAgent, "east", "e1")
		read, err := agent.ReadEpoch(t.Context(), connect.NewRequest(&pb.ReadEpochRequest{StreamId: ids["a"].String()}))
		if err != nil {
			t.Fatal(err)
		}
		_, err = agent.RecordGate(t.Context(), connect.NewRequest(&pb.RecordGateRequest{
			StreamId: ids["a"].String(), Epoch: 1, Holder: s.agents["e1"].String(), Revision: read.Msg.GetEpoch().GetRevision(), Was: read.Msg.GetEpoch().GetGate(),
			Gate: &pb.GateRecord{State: to, Mode: pb.Mode_MODE_SYNC, SinceSeq: 1},
		}))
		return api.FromError("record gate", "a", err)
	}
	for _, node := range []string{"w1", "w2"} {
		req.Node, req.Incarnation = node, s.nodes[tidegate.NodeName(node)].inc.String()
		if _, err := s.node(tidegate.RoleStandby, "west", node).ReportStandby(t.Context(), connect.NewRequest(req)); err != nil {
			t.Fatal(err)
		}
	}
	if err := arm(pb.GateState_GATE_STATE_ARMED); tidegate.ClassOf(err) != tidegate.Transient {
		t.Fatalf("armed while one of three members stands by the epoch: %v", err)
	}
	s.report() // as the nodes really are
	if err := arm(pb.GateState_GATE_STATE_DEGRADED); tidegate.ClassOf(err) != tidegate.Refused {
		t.Fatalf("degraded from a gate of which nothing is known: %v", err)
	}
	if err := arm(pb.GateState_GATE_STATE_ARMED); err != nil {
		t.Fatal(err)
	}
}

func TestRebuild(t *testing.T) {
	t.Parallel()
	s, ids, recs := ready(t, pb.Mode_MODE_SYNC, nil)
	s.write(recs[0], 4, "w1", "w2", "w3")
	s.gate.stop()
	s.stopEtcd()
	member := registry.Config{Dir: s.dir + "/fresh"}.SetDefaults()
	s.registry.Endpoints, s.registry.Dir = []string{"unix://" + member.Socket}, s.dir+"/fresh-mark"
	s.startEtcd(member)
	s.startGate("gate-fresh", nil, nil)
	op := s.operator(tidegate.RoleOperator)
	var addrs []string
	for _, n := range []tidegate.NodeName{"w1", "w2"} {
		addrs = append(addrs, s.nodes[n].addr)
	}
	_, err := op.Rebuild(t.Context(), connect.NewRequest(&pb.RebuildRequest{Standbys: addrs}))
	if err := api.FromError("rebuild", "", err); tidegate.ClassOf(err) != tidegate.Refused || !strings.Contains(err.Error(), "w3") {
		t.Fatalf("rebuild with a silent member: %v", err)
	}
	_, err = op.Rebuild(t.Context(), connect.NewRequest(&pb.RebuildRequest{Standbys: addrs, Missing: []string{"w3"}}))
	if err := api.FromError("rebuild", "", err); tidegate.ClassOf(err) != tidegate.Refused || !strings.Contains(err.Error(), "where the service runs") {
		t.Fatalf("rebuild without a site: %v", err)
	}
	r, err := op.Rebuild(t.Context(), connect.NewRequest(&pb.RebuildRequest{Standbys: addrs, Missing: []string{"w3"}, ActiveSite: "east"}))
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Msg.GetStreams()) != 2 {
		t.Fatalf("rebuilt %v", r.Msg)
	}
	rec := s.records(ids)["a"]
	if rec.Epoch <= recs[0].Epoch || !rec.Restored || rec.Gate.State != fence.GateUnknown || rec.Head.Seq != 4 {
		t.Fatalf("record %+v, want an epoch above all, no claim, head 4", rec)
	}
	s.agent("e1", "east")
	next := s.mustAcquire("e1", "east")
	if next[0].State != fence.StateActive || next[0].Epoch <= rec.Epoch {
		t.Fatalf("the service cannot start again: %+v", next[0])
	}
}
