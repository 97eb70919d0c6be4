package gating

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/gating/rules"
)

// change asks for a change of role and returns the plans shown, the last one as
// it ended, and the steps.
func (s *site) change(req *pb.ChangeRoleRequest) ([]*pb.Plan, []*pb.PlanStep, error) {
	req.Service = first(req.GetService(), "ledger")
	stream, err := s.operator(tidegate.RoleOperator).ChangeRole(s.t.Context(), connect.NewRequest(req))
	if err != nil {
		return nil, nil, api.FromError("change role", "ledger", err)
	}
	defer func() { _ = stream.Close() }()
	var plans []*pb.Plan
	var steps []*pb.PlanStep
	for stream.Receive() {
		switch e := stream.Msg().GetEvent().(type) {
		case *pb.ChangeRoleResponse_Plan:
			plans = append(plans, e.Plan)
		case *pb.ChangeRoleResponse_Done:
			plans = append(plans, e.Done)
		case *pb.ChangeRoleResponse_Step:
			steps = append(steps, e.Step)
		}
	}
	return plans, steps, api.FromError("change role", "ledger", stream.Err())
}

// drain is the writer of all streams: once it sees SWITCHING it seals a handover
// batch on every node it counts, and hands over.
func (s *site) drain(ctx context.Context, node tidegate.NodeName, holder tidegate.HolderID, ids map[string]tidegate.StreamID) error {
	store, err := registry.Open("demo", s.registry)
	if err != nil {
		return err
	}
	defer store.Close()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		req := &pb.HandOverRequest{Service: "ledger", Node: string(node), Holder: holder.String()}
		for _, id := range ids {
			es, err := store.ReadEpochs(ctx, id)
			if err != nil {
				return err
			}
			rec := es[0].Value
			if rec.State != fence.StateSwitching {
				break
			}
			h := fence.Handover{Head: s.seal(rec, rec.Target.Node), Position: 100, StateKnown: !s.state.IsZero(), StateDigest: s.state}
			req.Streams = append(req.Streams, &pb.StreamHandover{StreamId: id.String(), Epoch: uint64(rec.Epoch), Revision: es[0].Revision, Handover: fencewire.HandoverMessage(&h)})
		}
		if len(req.GetStreams()) != len(ids) {
			continue
		}
		_, err := s.node(tidegate.RoleAgent, whereIs(node), string(node)).HandOver(ctx, connect.NewRequest(req))
		if tidegate.ClassOf(api.FromError("hand over", "", err)) == tidegate.Transient {
			continue
		}
		return err
	}
}

// seal appends one batch under a record to every member that is up, and to the target.
func (s *site) seal(rec fence.EpochRecord, target tidegate.NodeName) tidegate.LogPos {
	logs.Lock()
	defer logs.Unlock()
	var p tidegate.LogPos
	for name, n := range s.nodes {
		if n.down || rec.Config.Index(name) < 0 && name != target {
			continue
		}
		f := n.stream(rec.Stream)
		prev := f.end()
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %s", prev, rec.Epoch, rec.Holder.UUID))
		p = tidegate.LogPos{Epoch: rec.Epoch, Seq: prev.Seq + 1, Chain: tidegate.Chain(sum[:16])}
		if f.core.CheckAppend(rec.Epoch, rec.Holder.UUID, rec.Epoch) != nil {
			continue
		}
		f.log = append(f.log, p)
		f.core.Received(p)
		f.core.Durable(p)
		f.core.Commit(rec.Epoch, rec.Holder.UUID, p.Seq)
	}
	return p
}

// draining runs a writer's drain beside the test.
func (s *site) draining(node tidegate.NodeName, ids map[string]tidegate.StreamID) {
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	holder := s.agents[node]
	go func() { done <- s.drain(ctx, node, holder, ids) }() // owned by the cleanup
	s.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) && connect.CodeOf(err) != connect.CodeCanceled {
			s.t.Errorf("drain: %v", err)
		}
	})
}

// learn lets every node take up the active record, as the standbys' learners do.
func (s *site) learn(ids map[string]tidegate.StreamID) {
	s.t.Helper()
	for _, rec := range s.records(ids) {
		for name := range s.nodes {
			logs.Lock()
			f := s.nodes[name].stream(rec.Stream)
			req, due := rec.AdoptFor(f.core.Meta().History.Last().Epoch, rec.Source)
			if due {
				f.calls++
				f.do(f.core.Step(fence.AdoptAsked{Call: f.calls, Req: req}))
			}
			logs.Unlock()
		}
	}
}

func TestSwitchover(t *testing.T) {
	t.Parallel()
	s, ids, recs := ready(t, pb.Mode_MODE_SYNC, nil)
	s.write(recs[0], 5, "w1", "w2", "w3")
	s.report()
	s.draining("e1", ids)
	plans, steps, err := s.change(&pb.ChangeRoleRequest{Kind: pb.PlanKind_PLAN_KIND_SWITCHOVER, Target: "w1", Reason: "works"})
	if err != nil {
		t.Fatal(err)
	}
	plan := plans[len(plans)-1]
	if plan.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_DONE || plan.GetKind() != pb.PlanKind_PLAN_KIND_SWITCHOVER {
		t.Fatalf("plan %v", plan)
	}
	var names []string
	for _, st := range steps {
		if st.GetState() == stepDone {
			names = append(names, st.GetName()[:2])
		}
	}
	if want := []string{"S1", "S2", "F1", "F2", "F3", "F4", "F5", "F6", "F7", "F8", "F9"}; !slices.Equal(names, want) {
		t.Errorf("steps %v, want %v", names, want)
	}
	for _, st := range plan.GetSteps() {
		if st.GetExpected() == nil || st.GetExpectedFrom() == "" || st.GetImpact() == "" || st.GetTook() == nil {
			t.Errorf("step %s: expected %v (%s), took %v, impact %q", st.GetName(), st.GetExpected(), st.GetExpectedFrom(), st.GetTook(), st.GetImpact())
		}
	}
	if plan.GetPauseExpected().AsDuration() == 0 || plan.GetPauseActual().AsDuration() == 0 || plan.GetTook() == nil || !strings.Contains(plan.GetImpact(), "nothing is lost") {
		t.Errorf("pause expected %v, actual %v, took %v, impact %q", plan.GetPauseExpected(), plan.GetPauseActual(), plan.GetTook(), plan.GetImpact())
	}
	for name, rec := range s.records(ids) {
		want := map[string]tidegate.Seq{"a": 6, "b": 1}[name] // what was there, and the handover
		if rec.State != fence.StateActive || rec.Epoch != 2 || rec.Holder.UUID != s.agents["w1"] || rec.Head.Seq != want {
			t.Errorf("stream %s: %+v, want head %s", name, rec, want)
		}
	}
	for _, st := range plan.GetStreams() {
		if st.GetHandover().GetPosition() != 100 || st.GetFromConfig() == nil || st.GetConfig() == nil {
			t.Errorf("stream %s: handover %v, from %v, to %v", st.GetName(), st.GetHandover(), st.GetFromConfig(), st.GetConfig())
		}
	}
	// What it took is what the next one is expected to take.
	s.agent("e1", "east")
	again, _, _ := s.change(&pb.ChangeRoleRequest{Kind: pb.PlanKind_PLAN_KIND_SWITCHOVER, Target: "w2", DryRun: true})
	if got := again[0].GetSteps()[0].GetExpectedFrom(); !strings.Contains(got, "median") {
		t.Errorf("expected from %q, want the plan before", got)
	}
}

// A planned change to a node whose service is not connected is refused before any
// client is drained, and so is a move to where the service is.
func TestNoPlannedChangeToAServiceThatIsNotThere(t *testing.T) {
	t.Parallel()
	s, _, _ := ready(t, pb.Mode_MODE_SYNC, nil)
	s.nodes["w1"].alone = true
	s.report()
	for target, rule := range map[string]string{"w1": rules.CaughtUp, "e1": rules.Target} {
		plans, _, err := s.change(&pb.ChangeRoleRequest{Kind: pb.PlanKind_PLAN_KIND_SWITCHOVER, Target: target, Reason: "works"})
		if tidegate.ClassOf(err) != tidegate.Refused || !strings.Contains(err.Error(), rule) {
			t.Errorf("switchover to %s: %v, %v, want %s to refuse", target, plans, err, rule)
		}
	}
	plans, _, err := s.change(&pb.ChangeRoleRequest{Kind: pb.PlanKind_PLAN_KIND_SWITCHOVER, Target: "w2", DryRun: true})
	if err != nil {
		t.Errorf("switchover to a service that applies: %v, %v", plans, err)
	}
}

// A gate killed after any record of a switchover leaves it to the next one, which
// ends it: the service has one writer, and nothing is lost.
func TestSwitchoverSurvivesTheGateAtEveryStep(t *testing.T) {
	t.Parallel()
	for n := 1; ; n++ {
		s := newSite(t, "w1", "w2", "w3")
		killed := make(chan struct{}, 1)
		last := true
		var kill func()
		g := s.startGate("gate-a", func(_ fence.PlanStep, saved int) {
			if saved == n && kill != nil {
				last = false
				select {
				case killed <- struct{}{}:
				default:
				}
				go kill() // owned by the gate's own cleanup, which waits for it
			}
		}, nil)
		s.register()
		ids := s.addStreams(pb.Mode_MODE_SYNC, nil)
		s.agent("e1", "east")
		for name := range s.nodes {
			s.agent(name, "west")
		}
		s.mustAcquire("e1", "east")
		s.report()
		kill = g.stop
		s.draining("e1", ids)
		_, _, err := s.change(&pb.ChangeRoleRequest{Kind: pb.PlanKind_PLAN_KIND_SWITCHOVER, Target: "w1"})
		if last {
			if err != nil {
				t.Fatalf("switchover that nobody disturbed: %v", err)
			}
			return
		}
		<-killed
		g.stop()
		s.startGate("gate-b", nil, nil)
		for name := range s.nodes {
			s.agentAs(name, "west", s.agents[name])
		}
		s.eventually(fmt.Sprintf("switchover after a kill at record %d", n), func() error {
			for name, rec := range s.records(ids) {
				if rec.State != fence.StateActive || rec.Holder.UUID != s.agents["w1"] {
					return fmt.Errorf("stream %s is %s of %s", name, rec.State, rec.Holder)
				}
			}
			for _, p := range s.plans() {
				if p.GetOutcome() == pb.PlanOutcome_PLAN_OUTCOME_RUNNING {
					return fmt.Errorf("plan %s runs", p.GetId())
				}
			}
			return nil
		})
		s.gate.stop()
		s.stopEtcd()
	}
}

// A writer that does not hand over is left alone: the switchover ends with
// everything as it was, and so does one that an operator calls off.
func TestSwitchoverCalledOff(t *testing.T) {
	t.Parallel()
	s, ids, _ := ready(t, pb.Mode_MODE_SYNC, nil)
	plans, _, err := s.change(&pb.ChangeRoleRequest{Kind: pb.PlanKind_PLAN_KIND_SWITCHOVER, Target: "w1", DrainTimeout: durationpb.New(100 * time.Millisecond)})
	if tidegate.ClassOf(err) != tidegate.Refused || plans[len(plans)-1].GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_ABORTED {
		t.Fatalf("drain without an end: %v, %v", plans[len(plans)-1].GetOutcome(), err)
	}
	asWas := func() {
		t.Helper()
		for name, rec := range s.records(ids) {
			if rec.State != fence.StateActive || rec.Epoch != 1 || rec.Holder.UUID != s.agents["e1"] || rec.Target != (fence.Holder{}) {
				t.Errorf("stream %s: %+v, want it as it was", name, rec)
			}
		}
	}
	asWas()
	done := make(chan error, 1)
	go func() { // ends with the plan
		_, _, err := s.change(&pb.ChangeRoleRequest{Kind: pb.PlanKind_PLAN_KIND_SWITCHOVER, Target: "w1"})
		done <- err
	}()
	var id string
	s.eventually("a plan to call off", func() error {
		for _, p := range s.plans() {
			if p.GetOutcome() == pb.PlanOutcome_PLAN_OUTCOME_RUNNING && s.records(ids)["a"].State == fence.StateSwitching {
				id = p.GetId()
				return nil
			}
		}
		return errors.New("none")
	})
	abort := func() (*pb.AbortPlanResponse, error) {
		r, err := s.operator(tidegate.RoleOperator).AbortPlan(t.Context(), connect.NewRequest(&pb.AbortPlanRequest{Id: id, Reason: "not today"}))
		if err != nil {
			return nil, api.FromError("abort plan", id, err)
		}
		return r.Msg, nil
	}
	r, err := abort()
	if err != nil || !r.GetChanged() || r.GetPlan().GetAbort().GetReason() != "not today" || r.GetPlan().GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_ABORTED {
		t.Fatalf("abort: %v, %v", r, err)
	}
	if err := <-done; tidegate.ClassOf(err) != tidegate.Refused {
		t.Errorf("the caller of the switchover was told %v", err)
	}
	asWas()
	if r, err := abort(); err != nil || r.GetChanged() {
		t.Errorf("to call it off again: changed %t, %v", r.GetChanged(), err)
	}
}

// The way back: the old site's node follows as a learner, joins the configuration
// in an epoch of the same writer, and takes the service by a switchover.
func TestFailback(t *testing.T) {
	t.Parallel()
	s := newSite(t, "e1", "w1", "w2", "w3")
	s.startGate("gate-a", nil, nil)
	s.register()
	ids := s.addStreams(pb.Mode_MODE_SYNC, nil)
	for n := range s.nodes {
		s.agent(n, whereIs(n))
	}
	recs := s.mustAcquire("e1", "east")
	for _, rec := range recs {
		if rec.Config.Index("e1") >= 0 || len(rec.Config.Members) != 3 {
			t.Fatalf("configuration of an epoch at east: %v, want the nodes elsewhere", rec.Config)
		}
	}
	s.write(recs[0], 3, "w1", "w2", "w3")
	s.report()
	if plan, _, err := s.failover(&pb.ChangeRoleRequest{Target: "w1", Reason: "fire"}); err != nil {
		t.Fatalf("%v: %v", plan, err)
	}
	for _, st := range s.streams() {
		if !slices.Equal(st.GetLearners(), []string{"e1"}) {
			t.Fatalf("learners of %s: %v", st.GetName(), st.GetLearners())
		}
	}
	s.report()
	_, _, err := s.change(&pb.ChangeRoleRequest{Kind: pb.PlanKind_PLAN_KIND_FAILBACK, Target: "e1", Reason: "home"})
	if tidegate.ClassOf(err) != tidegate.Refused || !strings.Contains(err.Error(), ruleCaughtUp) {
		t.Fatalf("failback to a node that has not caught up: %v", err)
	}
	s.learn(ids)
	s.report()
	s.draining("w1", ids)
	stop := s.reporting()
	defer stop()
	plans, _, err := s.change(&pb.ChangeRoleRequest{Kind: pb.PlanKind_PLAN_KIND_FAILBACK, Target: "e1", Reason: "home"})
	if err != nil {
		t.Fatal(err)
	}
	if len(plans) != 3 || plans[0].GetKind() != pb.PlanKind_PLAN_KIND_RECONFIGURE || plans[1].GetParentId() != plans[0].GetId() ||
		plans[2].GetKind() != pb.PlanKind_PLAN_KIND_FAILBACK || plans[2].GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_DONE {
		t.Fatalf("plans %v", plans)
	}
	for name, rec := range s.records(ids) {
		if rec.State != fence.StateActive || rec.Epoch != 4 || rec.Holder.UUID != s.agents["e1"] || rec.Config.Index("e1") >= 0 || len(rec.Config.Members) != 3 {
			t.Errorf("stream %s after the failback: %+v", name, rec)
		}
	}
}

func TestReconfigure(t *testing.T) {
	t.Parallel()
	s, ids, recs := ready(t, pb.Mode_MODE_SYNC, nil)
	s.write(recs[0], 2, "w1", "w2", "w3")
	s.report()
	reconfigure := func(req *pb.ReconfigureRequest) (plan *pb.Plan, err error) {
		req.Service = "ledger"
		stream, err := s.operator(tidegate.RoleOperator).Reconfigure(t.Context(), connect.NewRequest(req))
		if err != nil {
			return nil, err
		}
		defer func() { _ = stream.Close() }()
		for stream.Receive() {
			plan = stream.Msg().GetDone()
			if p := stream.Msg().GetPlan(); p != nil {
				plan = p
			}
		}
		return plan, api.FromError("reconfigure", "ledger", stream.Err())
	}
	plan, err := reconfigure(&pb.ReconfigureRequest{Members: []string{"w1", "w2"}, W: 2, DryRun: true})
	if err != nil || plan.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_DRY_RUN || len(s.streams()[0].GetMembers()) != 3 {
		t.Fatalf("dry run: %v, %v", plan, err)
	}
	if plan, err = reconfigure(&pb.ReconfigureRequest{Members: []string{"w1", "w2"}, W: 2}); err != nil || plan.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_DONE {
		t.Fatalf("reconfigure: %v, %v", plan, err)
	}
	for name, rec := range s.records(ids) {
		if rec.Epoch != 2 || rec.State != fence.StateActive || rec.Holder.UUID != s.agents["e1"] || len(rec.Config.Members) != 2 || rec.Config.W != 2 {
			t.Errorf("stream %s: %+v", name, rec)
		}
	}
	plan, err = reconfigure(&pb.ReconfigureRequest{})
	if err != nil || plan.GetId() != "" || plan.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_DONE {
		t.Errorf("nothing to change: %v, %v", plan, err)
	}
	if _, err = reconfigure(&pb.ReconfigureRequest{Members: []string{"w9"}}); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("an unknown member: %v", err)
	}
}

// streams lists all streams.
func (s *site) streams() []*pb.StreamView {
	s.t.Helper()
	r, err := s.operator(tidegate.RoleViewer).ListStreams(s.t.Context(), connect.NewRequest(&pb.ListStreamsRequest{}))
	if err != nil {
		s.t.Fatal(err)
	}
	return r.Msg.GetStreams()
}

// reporting lets the nodes report until stop is called.
func (s *site) reporting() (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	go func() { // owned by stop
		defer close(done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if err := s.tryReport(ctx); err != nil && ctx.Err() == nil {
					s.log.Debug("report", "err", err) // the next one may be taken
				}
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}
