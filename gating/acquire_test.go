package gating

import (
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
)

// TestAcquireByAServiceThatWasLeftBehind: being at the writer's site does not make
// a service a part of its source.
func TestAcquireByAServiceThatWasLeftBehind(t *testing.T) {
	t.Parallel()
	s, ids, recs := ready(t, pb.Mode_MODE_SYNC, nil)
	s.write(recs[0], 1, "w1", "w2")
	s.report()
	if _, _, err := s.failover(&pb.ChangeRoleRequest{Target: "w1", Reason: "fire"}); err != nil {
		t.Fatal(err)
	}
	acquire := func(epoch uint64) error {
		s.agent("w2", "west")
		req := &pb.AcquireEpochRequest{
			Service: "ledger", Holder: &pb.Holder{Node: "w2", Site: "west", Uuid: s.agents["w2"].String()}, Reason: "activated",
		}
		for _, id := range ids {
			req.Branches = append(req.Branches, &pb.StreamEpoch{StreamId: id.String(), Epoch: epoch})
		}
		_, err := s.node(tidegate.RoleAgent, "west", "w2").AcquireEpoch(t.Context(), connect.NewRequest(req))
		if err != nil {
			err = api.FromError("acquire", "ledger", err)
		}
		return err
	}
	if err := acquire(1); tidegate.ClassOf(err) != tidegate.Refused || !strings.Contains(err.Error(), fence.RuleBranch) {
		t.Fatalf("a service that does not go on from epoch 2 acquired: %v", err)
	}
	if err := acquire(2); err != nil {
		t.Fatalf("a service of the same cluster: %v", err)
	}
}
