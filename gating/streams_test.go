package gating

import (
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
)

func TestStreamsAreRefusedForWhatNobodyDoes(t *testing.T) {
	t.Parallel()
	s := newSite(t, "w1")
	s.startGate("gate-a", nil, nil)
	s.register()
	op := s.operator(tidegate.RoleOperator)
	if _, err := op.AddService(t.Context(), connect.NewRequest(&pb.AddServiceRequest{Service: &pb.Service{Name: "ledger"}})); err != nil {
		t.Fatal(err)
	}
	for want, edit := range map[string]func(*pb.AddStreamRequest){
		"store: want journal":   func(m *pb.AddStreamRequest) { m.Store = "postgres" },
		"policy: want block":    func(m *pb.AddStreamRequest) { m.Policy = pb.GatePolicy_GATE_POLICY_REJECT },
		"members: want each":    func(m *pb.AddStreamRequest) { m.Members = []string{"w1", "w1"} },
		"service: want one":     func(m *pb.AddStreamRequest) { m.Service = "other" },
		"bounds: want at least": func(m *pb.AddStreamRequest) { m.Mode = pb.Mode_MODE_BOUNDED },
	} {
		m := &pb.AddStreamRequest{Service: "ledger", Name: "a", Mode: pb.Mode_MODE_SYNC, Members: []string{"w1"}, W: 1}
		edit(m)
		_, err := op.AddStream(t.Context(), connect.NewRequest(m))
		if err = api.FromError("add", "", err); tidegate.ClassOf(err) != tidegate.Misuse || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
