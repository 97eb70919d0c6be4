package gating

import (
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

// A new generation is declared only of a source that says it does not go on, by
// somebody who knows what is left out by it; it is on the record, and is what the next
// epoch of that site is for.
func TestRegenerate(t *testing.T) {
	t.Parallel()
	s, ids, recs := ready(t, pb.Mode_MODE_SYNC, nil)
	op := s.operator(tidegate.RoleOperator)
	report := func(lost string, diverged bool) {
		t.Helper()
		_, err := s.node(tidegate.RoleAgent, "east", "e1").ReportAgent(t.Context(), connect.NewRequest(&pb.ReportAgentRequest{
			Node: "e1", Site: "east", Holder: s.agents["e1"].String(),
			Streams: []*pb.AgentStream{{StreamId: ids["a"].String(), Lost: lost, LostDiverged: diverged}},
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
		r, err := ask(&pb.RegenerateStreamRequest{Reason: "the slot was dropped"})
		if err != nil || r.GetRenewal().GetEpoch() != 1 || r.GetRenewal().GetNode() != "e1" || r.GetRenewal().GetActor() == "" {
			t.Fatalf("%v, %v", r, err)
		}
	}
	all := slices.DeleteFunc(s.audit("ledger", time.Time{}), func(e *pb.AuditEntry) bool { return e.GetAction() != ActionRegenerate })
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
