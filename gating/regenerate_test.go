package gating

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
)

// A new generation is declared only of a source that says it does not go on, by
// somebody who knows what is left out by it; it is on the record, and is what the next
// epoch of that site is for.
func TestRegenerate(t *testing.T) {
	t.Parallel()
	s, ids, recs := ready(t, pb.Mode_MODE_SYNC, nil)
	op := s.operator(tidegate.RoleOperator)
	gaps := gapsOf(t, op)
	accept := func(req *pb.AcceptGapRequest) (*pb.AcceptGapResponse, error) {
		req.Service, req.Stream = "ledger", "a"
		r, err := op.AcceptGap(t.Context(), connect.NewRequest(req))
		if err != nil {
			return nil, api.FromError("accept gap", "a", err)
		}
		return r.Msg, nil
	}
	head := new(uint64(7)) // where the source's log ends; nil: not known
	report := func(lost string, diverged bool) {
		t.Helper()
		_, err := s.node(tidegate.RoleAgent, "east", "e1").ReportAgent(t.Context(), connect.NewRequest(&pb.ReportAgentRequest{
			Node: "e1", Site: "east", Holder: s.agents["e1"].String(),
			Streams: []*pb.AgentStream{{StreamId: ids["a"].String(), Lost: lost, LostDiverged: diverged, Head: head}},
		}))
		if err != nil {
			t.Fatal(err)
		}
	}
	ask := func(req *pb.RegenerateStreamRequest) (*pb.RegenerateStreamResponse, error) {
		req.Service, req.Stream = "ledger", "a"
		r, err := op.RegenerateStream(t.Context(), connect.NewRequest(req))
		if err != nil {
			return nil, api.FromError("regenerate", "a", err)
		}
		return r.Msg, nil
	}
	refused := func(rule string, req *pb.RegenerateStreamRequest) {
		t.Helper()
		req.Reason = "a test"
		if _, err := ask(req); tidegate.ClassOf(err) != tidegate.Refused || !strings.Contains(err.Error(), rule) {
			t.Errorf("%v, want it refused by %s", err, rule)
		}
	}
	refused(ruleLost, &pb.RegenerateStreamRequest{})
	report("the slot is gone", false)
	refused(ruleBases, &pb.RegenerateStreamRequest{}) // it is a journal
	s.storeOf(ids["a"], "postgres")
	report("", false)
	refused(ruleLost, &pb.RegenerateStreamRequest{})
	gaps("nothing is lost", nil)
	was := head
	head = nil
	report("", false)
	gaps("nobody can look", func(g *pb.GapView) bool { return g.GetState() == pb.GapState_GAP_STATE_UNKNOWN })
	head = was
	report("", false)
	for _, loss := range []bool{false, true} {
		if _, err := accept(&pb.AcceptGapRequest{Reason: "a test", AcceptLoss: loss}); tidegate.ClassOf(err) != tidegate.Refused || !strings.Contains(err.Error(), "there is no gap to accept") {
			t.Errorf("no gap, accept loss %t: %v", loss, err)
		}
	}
	report("set back", true)
	refused(ruleShips, &pb.RegenerateStreamRequest{})
	if _, err := ask(&pb.RegenerateStreamRequest{AcceptLoss: true}); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("without a reason: %v", err)
	}
	_, err := s.node(tidegate.RoleAgent, "east", "e1").DeclareGeneration(t.Context(), connect.NewRequest(&pb.DeclareGenerationRequest{
		Node: "e1", StreamId: ids["a"].String(), Reason: "set back",
	}))
	if err := api.FromError("declare", "a", err); tidegate.ClassOf(err) != tidegate.Refused || !strings.Contains(err.Error(), ruleShips) {
		t.Errorf("an agent's policy: %v", err)
	}
	report("the slot is gone", false)
	if r, err := ask(&pb.RegenerateStreamRequest{DryRun: true}); err != nil || r.GetRenewal() != nil || len((&api.RulesError{Rules: r.GetRules()}).Failing()) > 0 {
		t.Errorf("dry run: %v, %v", r, err)
	}
	gaps("the slot is gone", func(g *pb.GapView) bool {
		return g.GetState() == pb.GapState_GAP_STATE_OPEN && g.GetGap().GetLost() == "the slot is gone" && g.GetGap().GetRenewal().GetActor() == ""
	})
	if _, err := accept(&pb.AcceptGapRequest{}); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("without a reason: %v", err)
	}
	if r, err := accept(&pb.AcceptGapRequest{DryRun: true}); err != nil || r.GetGap() != nil || len((&api.RulesError{Rules: r.GetRules()}).Failing()) > 0 ||
		!strings.Contains(fmt.Sprint(r.GetFacts()), "new base") || !strings.Contains(fmt.Sprint(r.GetFacts()), "beside e1 at site east") {
		t.Errorf("dry run: %v, %v", r, err)
	}
	if again, err := s.acquire("e1", "east"); err != nil || again[0].Epoch != recs[0].Epoch {
		t.Errorf("nothing is declared, and the epoch is %s, %v", again[0].Epoch, err)
	}

	// An old primary beside the writer says that of itself: it is not asked.
	s.agents["e0"] = tidegate.NewID()
	for node, one := range map[tidegate.NodeName]*pb.AgentStream{"e0": {Lost: "the slot of an old primary"}, "e1": {Role: pb.AgentRole_AGENT_ROLE_WRITER, Epoch: 1}} {
		one.StreamId = ids["a"].String()
		_, err := s.node(tidegate.RoleAgent, "east", string(node)).ReportAgent(t.Context(), connect.NewRequest(&pb.ReportAgentRequest{
			Node: string(node), Site: "east", Holder: s.agents[node].String(), Streams: []*pb.AgentStream{one},
		}))
		if err != nil {
			t.Fatal(err)
		}
	}
	refused(ruleLost, &pb.RegenerateStreamRequest{})
	_, err = s.node(tidegate.RoleAgent, "east", "e0").DeclareGeneration(t.Context(), connect.NewRequest(&pb.DeclareGenerationRequest{
		Node: "e0", StreamId: ids["a"].String(), Reason: "the slot of an old primary",
	}))
	if err := api.FromError("declare", "a", err); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("declared for an old primary: %v", err)
	}
	report("the slot is gone", false)

	s.write(recs[0], 3, "w1", "w2")
	for range 2 { // again changes nothing
		r, err := accept(&pb.AcceptGapRequest{Reason: "the slot was dropped"})
		if g := r.GetGap().GetRenewal(); err != nil || g.GetEpoch() != 1 || g.GetNode() != "e1" || g.GetActor() == "" {
			t.Fatalf("%v, %v", r, err)
		}
	}
	known := func(state pb.GapState) func(*pb.GapView) bool {
		return func(g *pb.GapView) bool {
			return g.GetState() == state && g.GetGap().GetLost() == "the slot is gone" && g.GetGap().GetRenewal().GetReason() == "the slot was dropped"
		}
	}
	gaps("accepted", known(pb.GapState_GAP_STATE_PENDING))
	all := slices.DeleteFunc(s.audit("ledger", time.Time{}), func(e *pb.AuditEntry) bool {
		return e.GetAction() != ActionRegenerate && e.GetAction() != ActionGapAccept
	})
	if len(all) > 0 && all[0].GetAction() != ActionGapAccept {
		t.Errorf("on the record: %v", all)
	}
	if len(all) != 1 || all[0].GetReason() != "the slot was dropped" || !strings.Contains(all[0].String(), "the slot is gone") {
		t.Errorf("on the record: %v", all)
	}
	next, err := s.acquire("e1", "east")
	if err != nil || next[0].Epoch != 2 || next[0].Head.Seq != 3 || next[0].Kind != fence.KindAcquire {
		t.Fatalf("the next epoch: %+v, %v", next, err)
	}
	if again, err := s.acquire("e1", "east"); err != nil || again[0].Epoch != 2 {
		t.Errorf("asked again: %+v, %v", again, err)
	}
	_, err = s.node(tidegate.RoleAgent, "east", "e1").ReportAgent(t.Context(), connect.NewRequest(&pb.ReportAgentRequest{
		Node: "e1", Site: "east", Holder: s.agents["e1"].String(), Streams: []*pb.AgentStream{{StreamId: ids["a"].String(), Role: pb.AgentRole_AGENT_ROLE_WRITER, Epoch: 2, Head: head}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	gaps("it went on", known(pb.GapState_GAP_STATE_ACCEPTED))
	for _, req := range []*pb.ListGapsRequest{{Service: "ledger", Stream: "x"}, {Service: "x"}, {Stream: "a"}} {
		if _, err := op.ListGaps(t.Context(), connect.NewRequest(req)); err == nil {
			t.Errorf("%v is answered", req)
		}
	}
}

// gapsOf returns a check of the gaps of ledger/a: one that is as it should be, or none.
func gapsOf(t *testing.T, op tidegatev1connect.OperatorServiceClient) func(when string, want func(*pb.GapView) bool) {
	return func(when string, want func(*pb.GapView) bool) {
		t.Helper()
		r, err := op.ListGaps(t.Context(), connect.NewRequest(&pb.ListGapsRequest{Service: "ledger", Stream: "a"}))
		if err != nil {
			t.Fatal(err)
		}
		if list := r.Msg.GetGaps(); want == nil && len(list) > 0 || want != nil && (len(list) != 1 || !want(list[0])) {
			t.Errorf("%s: gaps %v", when, list)
		}
	}
}

// storeOf changes a stream's store behind everybody's back.
func (s *site) storeOf(id tidegate.StreamID, store string) {
	s.t.Helper()
	r, err := registry.Open("demo", s.registry)
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Close()
	var st registry.Stream
	rev, err := r.Get(s.t.Context(), registry.StreamKey(id), &st)
	if err != nil {
		s.t.Fatal(err)
	}
	st.Store = store
	if _, err := r.Commit(s.t.Context(), new(registry.Tx).Unchanged(registry.StreamKey(id), rev).Put(registry.StreamKey(id), st)); err != nil {
		s.t.Fatal(err)
	}
}
