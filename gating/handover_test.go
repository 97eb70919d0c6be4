package gating

import (
	"errors"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
)

// The service that is to go on must have come to the writer's state. One that
// came to another is not given the epoch: the switchover ends at once, and the
// writer goes on. What nobody can compare is said, and holds nothing up.
func TestHandoverComparesStates(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name         string
		ours, theirs tidegate.Digest
		outcome      pb.PlanOutcome
		says         string
	}{
		{"equal", tidegate.Digest{1}, tidegate.Digest{1}, pb.PlanOutcome_PLAN_OUTCOME_DONE, ""},
		{"the writer tells none", tidegate.Digest{}, tidegate.Digest{1}, pb.PlanOutcome_PLAN_OUTCOME_DONE, "the writer's service tells no digest"},
		{"the target tells none", tidegate.Digest{1}, tidegate.Digest{}, pb.PlanOutcome_PLAN_OUTCOME_DONE, "w1 does not tell"},
		{"different", tidegate.Digest{1}, tidegate.Digest{2}, pb.PlanOutcome_PLAN_OUTCOME_ABORTED, ruleApplied},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, ids, recs := ready(t, pb.Mode_MODE_SYNC, nil)
			s.write(recs[0], 3, "w1", "w2", "w3")
			s.report()
			s.state, s.nodes["w1"].state = c.ours, c.theirs
			drained := make(chan error, 1)
			writer := s.agents["e1"]
			go func() { drained <- s.drain(t.Context(), "e1", writer, ids) }() // awaited below
			plans, _, err := s.change(&pb.ChangeRoleRequest{Kind: pb.PlanKind_PLAN_KIND_SWITCHOVER, Target: "w1", Reason: "works"})
			plan := plans[len(plans)-1]
			if plan.GetOutcome() != c.outcome {
				t.Fatalf("ended %s: %v", plan.GetOutcome(), err)
			}
			detail := ""
			for _, st := range plan.GetSteps() {
				if strings.HasPrefix(st.GetName(), "S2") {
					detail = st.GetDetail()
				}
			}
			refused := c.outcome != pb.PlanOutcome_PLAN_OUTCOME_DONE
			if err := <-drained; (err != nil) != refused {
				t.Errorf("the writer was answered %v", err)
			}
			if !refused {
				if !strings.Contains(detail, c.says) || c.says == "" && detail != "" {
					t.Errorf("the plan says %q of the drain, want %q", detail, c.says)
				}
				return
			}
			if !strings.Contains(plan.GetAbort().GetReason(), c.says) || tidegate.ClassOf(err) != tidegate.Refused {
				t.Errorf("called off because %q, %v", plan.GetAbort().GetReason(), err)
			}
			s.eventually("the writer to go on", func() error {
				for _, rec := range s.records(ids) {
					if rec.State != fence.StateActive || rec.Epoch != 1 || rec.Holder.UUID != s.agents["e1"] {
						return errors.New(string(rec.State))
					}
				}
				return nil
			})
		})
	}
}
