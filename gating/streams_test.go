package gating

import (
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/registry"
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
		"store: want one of":    func(m *pb.AddStreamRequest) { m.Store = "tape" },
		"policy 99: want block": func(m *pb.AddStreamRequest) { m.Policy = 99 },
		"gate policy grace -1s": func(m *pb.AddStreamRequest) { m.Grace = durationpb.New(-time.Second) },
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

// What must be recorded while a site is lost needs a registry that is not: one
// member is refused for it, until the operator says that it is to be so.
func TestOneMemberIsNoRegistryForDegradingAndLeases(t *testing.T) {
	t.Parallel()
	s := newSite(t, "w1")
	s.startGate("gate-a", nil, nil)
	s.register()
	op := s.operator(tidegate.RoleOperator)
	add := func(name string, lease time.Duration, single bool) error {
		_, err := op.AddService(t.Context(), connect.NewRequest(&pb.AddServiceRequest{Service: &pb.Service{Name: name, LeaseTtl: durationpb.New(lease)}, SingleRegistry: single}))
		return api.FromError("add service", name, err)
	}
	if err := add("plain", 0, false); err != nil {
		t.Fatal(err)
	}
	err := add("leased", 5*time.Second, false)
	if tidegate.ClassOf(err) != tidegate.Refused || !strings.Contains(tidegate.HintOf(err), "--single-registry") {
		t.Fatalf("a lease on one member: %v (hint %q)", err, tidegate.HintOf(err))
	}
	if err := add("leased", 5*time.Second, true); err != nil {
		t.Fatal(err)
	}
	if err := add("leased", 6*time.Second, false); err != nil {
		t.Errorf("it has been said for the service already: %v", err)
	}
	if err := add("odd", 1500*time.Millisecond, true); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("a lease that etcd cannot keep: %v", err)
	}
	m := &pb.AddStreamRequest{Service: "plain", Name: "a", Mode: pb.Mode_MODE_SYNC, Members: []string{"w1"}, W: 1, Policy: pb.GatePolicy_GATE_POLICY_DEGRADE}
	_, err = op.AddStream(t.Context(), connect.NewRequest(m))
	if err = api.FromError("add stream", "a", err); tidegate.ClassOf(err) != tidegate.Refused {
		t.Fatalf("degrading on one member: %v", err)
	}
	m.SingleRegistry = true
	r, err := op.AddStream(t.Context(), connect.NewRequest(m))
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Msg.GetStream(); got.GetPolicy() != pb.GatePolicy_GATE_POLICY_DEGRADE || got.GetGrace().AsDuration() != graceDefault || got.GetRearm().AsDuration() != rearmDefault {
		t.Errorf("policy %v grace %v rearm %v", got.GetPolicy(), got.GetGrace(), got.GetRearm())
	}
}

func TestEtcdMustOutliveAnySite(t *testing.T) {
	for _, tt := range []struct {
		sites []string
		want  bool
	}{
		{nil, false},
		{[]string{"east"}, false},
		{[]string{"east", "west"}, false},
		{[]string{"east", "west", "witness"}, true},
		{[]string{"east", "east", "west"}, false},
		{[]string{"east", "east", "west", "west", "witness"}, true},
		{[]string{"east", "west", "witness", "witness"}, false},
	} {
		if got := (registry.Config{Endpoints: []string{"x"}, Sites: tt.sites}).SurvivesSite(); got != tt.want {
			t.Errorf("members at %v: %t, want %t", tt.sites, got, tt.want)
		}
	}
}
