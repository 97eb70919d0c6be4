package gating

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/gating/registry"
)

// revisions reads when each stream's epoch key was last changed.
func (s *site) revisions(ids map[string]tidegate.StreamID) map[string]int64 {
	s.t.Helper()
	store, err := registry.Open("demo", s.registry)
	if err != nil {
		s.t.Fatal(err)
	}
	defer store.Close()
	out := map[string]int64{}
	for name, id := range ids {
		es, err := store.ReadEpochs(s.t.Context(), id)
		if err != nil {
			s.t.Fatal(err)
		}
		out[name] = es[0].Revision
	}
	return out
}

// plans reads all of a service's plans.
func (s *site) plans() []*pb.Plan {
	s.t.Helper()
	var out []*pb.Plan
	for before := ""; ; {
		page, next := s.plansBefore(before, 2)
		if out, before = append(out, page...), next; before == "" {
			return out
		}
	}
}

// plansBefore lists some plans of the service that are older than the one before,
// or the newest.
func (s *site) plansBefore(before string, limit uint32) (page []*pb.Plan, next string) {
	s.t.Helper()
	page, next, err := s.tryPlans(before, limit)
	if err != nil {
		s.t.Fatal(err)
	}
	return page, next
}

func (s *site) tryPlans(before string, limit uint32) (page []*pb.Plan, next string, err error) {
	r, err := s.operator(tidegate.RoleViewer).ListPlans(s.t.Context(), connect.NewRequest(&pb.ListPlansRequest{Service: "ledger", Before: before, Limit: limit}))
	if err != nil {
		return nil, "", err
	}
	return r.Msg.GetPlans(), r.Msg.GetNext(), nil
}

// A refusal is exit code 4 and changes nothing: not the epoch keys, not the
// plans, not the nodes' promises. Each override lifts its own rule only.
func TestRefusedFailoverChangesNothing(t *testing.T) {
	t.Parallel()
	s, ids, _ := ready(t, pb.Mode_MODE_OPEN, nil)
	before, plans := s.revisions(ids), len(s.plans())
	for _, tt := range []struct {
		req  *pb.ChangeRoleRequest
		rule string
		not  string
	}{
		{&pb.ChangeRoleRequest{Target: "w1"}, rulePrimary, ""},
		{&pb.ChangeRoleRequest{Target: "w1"}, ruleRPO, ""},
		{&pb.ChangeRoleRequest{Target: "w1", AcceptLoss: true}, rulePrimary, ruleRPO},
		{&pb.ChangeRoleRequest{Target: "w1", AttestPrimaryDown: true}, ruleRPO, rulePrimary},
	} {
		plan, _, err := s.failover(tt.req)
		if tidegate.ClassOf(err) != tidegate.Refused || plan.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_REFUSED {
			t.Fatalf("failover %v: %s, %v; want a refusal", tt.req, plan.GetOutcome(), err)
		}
		if !strings.Contains(err.Error(), tt.rule) || tt.not != "" && strings.Contains(err.Error(), tt.not) {
			t.Errorf("failover %v: %v; want %s and not %s", tt.req, err, tt.rule, tt.not)
		}
	}
	if after := s.revisions(ids); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("epoch keys changed from revisions %v to %v", before, after)
	}
	if n := len(s.plans()); n != plans {
		t.Errorf("%d plans are on record, want %d: a refused one never began", n, plans)
	}
	logs.Lock()
	for name, n := range s.nodes {
		if p := n.stream(ids["a"]).core.Promise(); p.Epoch != 1 {
			t.Errorf("%s has promised %s", name, p)
		}
	}
	logs.Unlock()
	plan, _, err := s.failover(&pb.ChangeRoleRequest{Target: "w1", AcceptLoss: true, AttestPrimaryDown: true})
	if err != nil || plan.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_DONE {
		t.Fatalf("with both overrides: %s, %v", plan.GetOutcome(), err)
	}
	if !plan.GetAcceptLoss() || !plan.GetAttestPrimaryDown() || !strings.Contains(plan.GetActor(), "operator/") {
		t.Errorf("the overrides and who made them are not on record: %v", plan)
	}
	if plan.RpoActual != nil {
		t.Errorf("rpo actual %s of an open stream whose old site is gone", plan.GetRpoActual().AsDuration())
	}
}

func TestFreezeRefusesRoleChanges(t *testing.T) {
	t.Parallel()
	s, ids, _ := ready(t, pb.Mode_MODE_SYNC, nil)
	op := s.operator(tidegate.RoleOperator)
	freeze := func(on bool) {
		t.Helper()
		if _, err := op.Freeze(t.Context(), connect.NewRequest(&pb.FreezeRequest{Service: "ledger", Frozen: on, Reason: "works"})); err != nil {
			t.Fatal(err)
		}
	}
	freeze(true)
	before := s.revisions(ids)
	_, _, err := s.failover(&pb.ChangeRoleRequest{Target: "w1", AcceptLoss: true, AttestPrimaryDown: true})
	if tidegate.ClassOf(err) != tidegate.Refused || !strings.Contains(err.Error(), ruleFreeze) || !strings.Contains(tidegate.HintOf(err), "thaw") {
		t.Fatalf("failover while frozen: %v (hint %q), want %s", err, tidegate.HintOf(err), ruleFreeze)
	}
	s.agent("e2", "east")
	if _, err := s.acquire("e2", "east"); tidegate.ClassOf(err) != tidegate.Transient || !strings.Contains(err.Error(), "works") {
		t.Fatalf("acquire while frozen: %v, want the reason and to ask again", err)
	}
	if recs, err := s.acquire("e1", "east"); err != nil || recs[0].Epoch != 1 {
		t.Fatalf("the writer asked for its own epoch while frozen: %v, %v", recs, err)
	}
	if after := s.revisions(ids); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("epoch keys changed from revisions %v to %v", before, after)
	}
	freeze(false)
	if _, _, err := s.failover(&pb.ChangeRoleRequest{Target: "w1"}); err != nil {
		t.Fatalf("failover after the thaw: %v", err)
	}
	_, err = op.Freeze(t.Context(), connect.NewRequest(&pb.FreezeRequest{Service: "other", Frozen: true}))
	if tidegate.ClassOf(api.FromError("freeze", "", err)) != tidegate.Misuse {
		t.Errorf("freezing what does not exist: %v", err)
	}
}

// A wish for a looser gate is no looser gate: until the writer has recorded it,
// a failover still claims what the record says.
func TestSetModeIsAWishUntilRecorded(t *testing.T) {
	t.Parallel()
	s, ids, _ := ready(t, pb.Mode_MODE_SYNC, nil)
	op := s.operator(tidegate.RoleOperator)
	before := s.revisions(ids)
	for _, name := range []string{"a", "b"} {
		r, err := op.SetMode(t.Context(), connect.NewRequest(&pb.SetModeRequest{Service: "ledger", Stream: name, Mode: pb.Mode_MODE_OPEN}))
		if err != nil {
			t.Fatal(err)
		}
		if v := r.Msg.GetStream(); v.GetMode() != pb.Mode_MODE_OPEN || v.GetEpoch().GetGate().GetMode() != pb.Mode_MODE_SYNC {
			t.Errorf("stream %s: wish %s, record %s", name, v.GetMode(), v.GetEpoch().GetGate().GetMode())
		}
	}
	if after := s.revisions(ids); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("a wish changed the epoch keys from revisions %v to %v", before, after)
	}
	dry := func() pb.LossKind {
		t.Helper()
		plan, _, _ := s.failover(&pb.ChangeRoleRequest{Target: "w1", DryRun: true, AcceptLoss: true, AttestPrimaryDown: true})
		return plan.GetLoss().GetKind()
	}
	if got := dry(); got != pb.LossKind_LOSS_KIND_ZERO {
		t.Errorf("loss %s before the loosening is on record, want zero", got)
	}
	_, err := s.node(tidegate.RoleAgent, "east", "e1").RecordGate(t.Context(), connect.NewRequest(&pb.RecordGateRequest{
		StreamId: ids["a"].String(), Epoch: 1, Holder: s.agents["e1"].String(), Revision: before["a"], Was: fencewire.GateMessage(s.records(ids)["a"].Gate),
		Gate: &pb.GateRecord{State: pb.GateState_GATE_STATE_ARMED, Mode: pb.Mode_MODE_OPEN, SinceSeq: 1},
	}))
	if err != nil {
		t.Fatal(err)
	}
	if got := dry(); got != pb.LossKind_LOSS_KIND_UNKNOWN {
		t.Errorf("loss %s after it is on record, want unknown", got)
	}
	_, err = op.SetMode(t.Context(), connect.NewRequest(&pb.SetModeRequest{Service: "ledger", Stream: "a", Mode: pb.Mode_MODE_BOUNDED}))
	if tidegate.ClassOf(api.FromError("set mode", "", err)) != tidegate.Misuse {
		t.Errorf("bounded without a bound: %v", err)
	}
}

func TestPauseResumeRemove(t *testing.T) {
	t.Parallel()
	s, ids, recs := ready(t, pb.Mode_MODE_SYNC, nil)
	op := s.operator(tidegate.RoleOperator)
	p, err := op.PauseStream(t.Context(), connect.NewRequest(&pb.PauseStreamRequest{Service: "ledger", Stream: "a", Reason: "moving house"}))
	if err != nil || !p.Msg.GetStream().GetPaused() {
		t.Fatalf("pause: %v, %v", p, err)
	}
	st, err := op.Status(t.Context(), connect.NewRequest(&pb.StatusRequest{}))
	if err != nil || st.Msg.GetVerdict() != pb.Verdict_VERDICT_UNSAFE || !strings.Contains(fmt.Sprint(st.Msg.GetReasons()), "moving house") {
		t.Errorf("status of a paused stream: %v, %v", st.Msg.GetReasons(), err)
	}
	r, err := op.ResumeStream(t.Context(), connect.NewRequest(&pb.ResumeStreamRequest{Service: "ledger", Stream: "a"}))
	if err != nil || r.Msg.GetStream().GetPaused() {
		t.Fatalf("resume: %v, %v", r, err)
	}
	if _, err := op.RemoveStream(t.Context(), connect.NewRequest(&pb.RemoveStreamRequest{Service: "ledger", Stream: "a", Reason: "gone"})); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"remove again": func() error {
			_, err := op.RemoveStream(t.Context(), connect.NewRequest(&pb.RemoveStreamRequest{Service: "ledger", Stream: "a"}))
			return err
		}(),
		"pause what is gone": func() error {
			_, err := op.PauseStream(t.Context(), connect.NewRequest(&pb.PauseStreamRequest{Service: "ledger", Stream: "a"}))
			return err
		}(),
		"read its epoch": func() error {
			_, err := s.node(tidegate.RoleAgent, "east", "e1").ReadEpoch(t.Context(), connect.NewRequest(&pb.ReadEpochRequest{StreamId: ids["a"].String()}))
			return err
		}(),
	} {
		if err := api.FromError("call", "", err); tidegate.ClassOf(err) != tidegate.Misuse || tidegate.HintOf(err) == "" {
			t.Errorf("%s: %v (hint %q)", what, err, tidegate.HintOf(err))
		}
	}
	store, err := registry.Open("demo", s.registry)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var last fence.EpochRecord
	if rev, err := store.Get(t.Context(), registry.HistoryKey(ids["a"], 1), &last); err != nil || rev == 0 || last.Holder != recs[0].Holder {
		t.Errorf("history of the removed stream: revision %d, %+v, %v", rev, last, err)
	}
	again, err := op.AddStream(t.Context(), connect.NewRequest(&pb.AddStreamRequest{Service: "ledger", Name: "a", Mode: pb.Mode_MODE_SYNC, Members: []string{"w1", "w2", "w3"}, W: 2}))
	if err != nil || again.Msg.GetStream().GetId() == ids["a"].String() {
		t.Errorf("the name is free again, for another stream: %v, %v", again, err)
	}
}

// A node that lost its disk comes back as another member: it is told so, votes
// for nothing, and counts again by one compare-and-swap of the writer.
func TestRegisterIntoLimboAndOut(t *testing.T) {
	t.Parallel()
	s, ids, _ := ready(t, pb.Mode_MODE_SYNC, nil)
	w3 := s.node(tidegate.RoleStandby, "west", "w3")
	fresh := tidegate.NewID()
	r, err := w3.Register(t.Context(), connect.NewRequest(&pb.RegisterRequest{
		Node: "w3", Kind: pb.NodeKind_NODE_KIND_STANDBY, Site: "west", Incarnation: fresh.String(), ShipAddress: "ship:9", ApiAddress: s.nodes["w3"].addr,
	}))
	if err != nil || !r.Msg.GetLimbo() || r.Msg.GetIncarnation() != s.nodes["w3"].inc.String() {
		t.Fatalf("register with another incarnation: %v, %v; want limbo, and the one on record", r, err)
	}
	report := &pb.ReportStandbyRequest{Node: "w3", Site: "west", Incarnation: fresh.String(), Streams: []*pb.StandbyStream{
		{StreamId: ids["a"].String()}, {StreamId: ids["b"].String(), Limbo: true},
	}}
	if _, err := w3.ReportStandby(t.Context(), connect.NewRequest(report)); err != nil {
		t.Fatal(err)
	}
	plan, _, _ := s.failover(&pb.ChangeRoleRequest{Target: "w3", DryRun: true})
	for _, rule := range plan.GetRules() {
		if rule.GetRule() == ruleTarget && rule.GetHolds() {
			t.Error("a node that does not know what it had may be the target")
		}
		if rule.GetRule() == ruleQuorum && !strings.Contains(rule.GetReason(), "2 of 3") {
			t.Errorf("quorum: %s", rule.GetReason())
		}
	}
	revision := s.revisions(ids)["a"]
	exit := func(node string, epoch uint64, revision int64) error {
		_, err := s.node(tidegate.RoleAgent, "east", "e1").ExitLimbo(t.Context(), connect.NewRequest(&pb.ExitLimboRequest{
			StreamId: ids["a"].String(), Member: &pb.Member{Node: node, Incarnation: fresh.String()}, Epoch: epoch,
			Holder: s.agents["e1"].String(), Revision: revision,
		}))
		return api.FromError("exit limbo", "", err)
	}
	for what, want := range map[string]struct {
		err   error
		class tidegate.Class
	}{
		"an old revision": {exit("w3", 1, revision-1), tidegate.Transient},
		"an old epoch":    {exit("w3", 0, revision), tidegate.Fenced},
		"no member":       {exit("w9", 1, revision), tidegate.Refused},
	} {
		if tidegate.ClassOf(want.err) != want.class {
			t.Errorf("exit limbo, %s: %v, want class %s", what, want.err, want.class)
		}
	}
	if err := exit("w3", 1, revision); err != nil {
		t.Fatal(err)
	}
	if rec := s.records(ids)["a"]; !rec.Config.Names(fence.Member{Node: "w3", Incarnation: fresh}) || rec.Epoch != 1 {
		t.Errorf("record %+v, want the new incarnation within the epoch", rec)
	}
	if rec := s.records(ids)["b"]; rec.Config.Names(fence.Member{Node: "w3", Incarnation: fresh}) {
		t.Error("the other stream counts a member that has not caught up in it")
	}
	r, err = w3.Register(t.Context(), connect.NewRequest(&pb.RegisterRequest{
		Node: "w3", Kind: pb.NodeKind_NODE_KIND_STANDBY, Site: "west", Incarnation: fresh.String(), ShipAddress: "ship:9", ApiAddress: s.nodes["w3"].addr,
	}))
	if err != nil || r.Msg.GetLimbo() {
		t.Errorf("register after it counts again: %v, %v", r, err)
	}
}

func TestOfTwoReportsTheBetterStays(t *testing.T) {
	t.Parallel()
	s, ids, _ := ready(t, pb.Mode_MODE_OPEN, nil)
	plan, _, err := s.failover(&pb.ChangeRoleRequest{Target: "w1", AcceptLoss: true, AttestPrimaryDown: true})
	if err != nil {
		t.Fatal(err)
	}
	oldest := time.Unix(1_700_000_000, 0)
	report := func(stream string, released *int64) {
		t.Helper()
		m := &pb.ReportQuarantineRequest{
			Id: "1", Node: "e1", StreamId: ids[stream].String(), WrittenEpoch: 1, CutEpoch: 2, FirstPosition: 10, NextPosition: 99,
			Records: 7, Bytes: 70, ReleasedRecords: released, Reason: fence.ReasonDiverged, Oldest: timestamppb.New(oldest), Newest: timestamppb.New(oldest.Add(9 * time.Second)),
		}
		if released != nil && *released > 0 {
			m.ReleasedNewest = timestamppb.New(oldest.Add(3 * time.Second))
		}
		if _, err := s.node(tidegate.RoleAgent, "east", "e1").ReportQuarantine(t.Context(), connect.NewRequest(m)); err != nil {
			t.Fatal(err)
		}
	}
	show := func() *pb.Plan {
		t.Helper()
		r, err := s.operator(tidegate.RoleViewer).ShowPlan(t.Context(), connect.NewRequest(&pb.ShowPlanRequest{Id: plan.GetId()}))
		if err != nil {
			t.Fatal(err)
		}
		return r.Msg.GetPlan()
	}
	four, none := int64(4), int64(0)
	report("b", nil)
	if p := show(); p.RpoActualMax != nil {
		t.Errorf("at most %v although stream a has not been measured", p.GetRpoActualMax())
	}
	report("a", nil)
	if p := show(); p.RpoActual != nil || p.GetRpoActualMax().AsDuration() != 9*time.Second {
		t.Errorf("rpo actual %v, at most %v: want it to be unknown, and at most the 9s of what was left behind", p.GetRpoActual(), p.GetRpoActualMax())
	}
	if m := show().GetStreams()[0].GetLoss().GetMeasured(); m.GetReleasedKnown() || m.GetReleasedWindow() != nil {
		t.Errorf("measured %v by an agent that did not know", m)
	}
	report("a", &four)
	report("a", nil) // the agent restarted and knows less
	if m := show().GetStreams()[0].GetLoss().GetMeasured(); !m.GetReleasedKnown() || m.GetReleasedRecords() != 4 || m.GetBundles() != 1 {
		t.Errorf("measured %v, want what was known once", m)
	}
	if show().RpoActual != nil {
		t.Error("the RPO actual is told although stream b has not been measured")
	}
	report("b", &none)
	if p := show(); p.RpoActual == nil || p.GetRpoActual().AsDuration() != 3*time.Second || p.RpoActualMax != nil {
		t.Errorf("rpo actual %v, at most %v: want the 3s of released records and nothing more to say", p.GetRpoActual(), p.GetRpoActualMax())
	}
}
