package gating

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/route"
	"github.com/tidegate/tidegate/internal/vfs"
)

// startProxy runs a route that follows the site's gate.
func (s *site) startProxy(name string) (p *route.Proxy, stop func()) {
	s.t.Helper()
	self := tidegate.Identity{Cluster: "demo", Site: "west", Role: tidegate.RoleRoute, Name: name}
	cfg := route.Config{
		Gates: []string{s.gate.addr}, Dir: s.dir + "/" + name, Services: []route.ServiceConfig{{Name: "ledger", Listen: []string{"127.0.0.1:0"}}},
	}.SetDefaults()
	f := route.NewFollower(s.log, self, []route.Gate{{Addr: s.gate.addr, Client: s.node(tidegate.RoleRoute, "west", name)}}, cfg.ReportPeriod)
	p = route.New(vfs.OS(), s.log, prometheus.NewRegistry(), f, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }() // owned by stop
	<-p.Ready()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("route: %v", err)
		}
	}
	return p, stop
}

// TestFailoverWaitsForTheProxy: F8 is over only when the route that the service
// names has applied the epoch; one that is down delays it and is named.
func TestFailoverWaitsForTheProxy(t *testing.T) {
	t.Parallel()
	s, _, _ := ready(t, pb.Mode_MODE_SYNC, nil)
	if _, err := s.operator(tidegate.RoleOperator).AddService(t.Context(), connect.NewRequest(&pb.AddServiceRequest{
		Service: &pb.Service{Name: "ledger", Routes: []string{"front"}},
	})); err != nil {
		t.Fatal(err)
	}
	p, stop := s.startProxy("front")
	plan, _, err := s.failover(&pb.ChangeRoleRequest{Target: "w1"})
	if err != nil {
		t.Fatal(err)
	}
	a := p.Applied()[0]
	if plan.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_DONE || a.Epoch != 2 || a.Endpoints[0] != "w1:8080" {
		t.Fatalf("plan %s, the proxy applied %+v", plan.GetOutcome(), a)
	}
	stop()
	s.report()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := s.operator(tidegate.RoleOperator).ChangeRole(ctx, connect.NewRequest(&pb.ChangeRoleRequest{Kind: pb.PlanKind_PLAN_KIND_FAILOVER, Service: "ledger", Target: "w2"}))
	if err != nil {
		t.Fatal(err)
	}
	routing := false
	for !routing && stream.Receive() {
		routing = strings.HasPrefix(stream.Msg().GetStep().GetName(), "F8") && stream.Msg().GetStep().GetState() == stepRunning
	}
	if !routing {
		t.Fatalf("F8 never began: %v", stream.Err())
	}
	p, stop = s.startProxy("front")
	defer stop()
	for stream.Receive() {
		plan = stream.Msg().GetDone()
	}
	if err := stream.Err(); err != nil || plan.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_DONE {
		t.Fatalf("plan %v, %v", plan, err)
	}
	if a := p.Applied()[0]; a.Epoch != 3 {
		t.Fatalf("F8 was over before the proxy applied the epoch: %+v", a)
	}
	_ = stream.Close()
}

// TestNodesGatherAtTheLeader: a second gate sends reports and changes of writer
// to the one that leads.
func TestNodesGatherAtTheLeader(t *testing.T) {
	t.Parallel()
	s, _, _ := ready(t, pb.Mode_MODE_SYNC, nil)
	s.startGate("gate-b", nil, nil)
	s.eventually("report turned away", func() error {
		_, err := s.node(tidegate.RoleAgent, "east", "e1").ReportAgent(t.Context(), connect.NewRequest(&pb.ReportAgentRequest{
			Node: "e1", Site: "east", Holder: s.agents["e1"].String(),
		}))
		err = api.FromError("report", "gate-b", err)
		if tidegate.ClassOf(err) != tidegate.Transient || !strings.Contains(tidegate.HintOf(err), "gate-a leads") {
			return fmt.Errorf("report: %w", err)
		}
		return nil
	})
	s.agents["e1"] = tidegate.NewID()
	_, err := s.acquire("e1", "east")
	if tidegate.ClassOf(err) != tidegate.Transient || !strings.Contains(tidegate.HintOf(err), "gate-a leads") {
		t.Fatalf("acquire at the other gate: %v (hint %q)", err, tidegate.HintOf(err))
	}
}
