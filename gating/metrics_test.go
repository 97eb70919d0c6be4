package gating

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/archive/bucket"
)

// scrape reads the gate's /metrics as text lines.
func (s *site) scrape() []string {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, "https://"+s.gate.addr+"/metrics", http.NoBody)
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := s.httpClient(tidegate.RoleViewer, "west", "prometheus").Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		s.t.Fatalf("scrape: %s, %v", resp.Status, err)
	}
	return strings.Split(string(b), "\n")
}

// Every metric of the gate is exported once there is something to say, and none
// that is not known.
func TestMetrics(t *testing.T) {
	t.Parallel()
	service := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer service.Close()
	s := newSite(t, "w1", "w2", "w3")
	b := s.bucket()
	s.archive = func(context.Context) (bucket.Bucket, error) { return b, nil }
	s.startGate("gate-a", nil, func(c *Config) {
		c.Probes = []ProbeConfig{{Service: "ledger", Every: 20 * time.Millisecond, Settings: section(t, "url: "+service.URL)}}
	})
	s.register()
	s.addStreams(pb.Mode_MODE_SYNC, nil)
	if _, err := s.operator(tidegate.RoleOperator).AddService(t.Context(), connect.NewRequest(&pb.AddServiceRequest{
		Service: &pb.Service{Name: "ledger", Rpo: durationpb.New(time.Second), Rto: durationpb.New(time.Minute)},
	})); err != nil {
		t.Fatal(err)
	}
	s.agent("e1", "east")
	for n := range s.nodes {
		s.agent(n, "west")
	}
	recs := s.mustAcquire("e1", "east")
	for _, absent := range []string{"exposure_records", "rto_predicted", "node_report"} {
		if i := slices.IndexFunc(s.scrape(), func(l string) bool { return strings.HasPrefix(l, "tidegate_gate_") && strings.Contains(l, absent) }); i >= 0 {
			t.Errorf("exported before anybody reported: %s", s.scrape()[i])
		}
	}
	req := &pb.ReportAgentRequest{Node: "e1", Site: "east", Holder: s.agents["e1"].String()}
	n, bytes := int64(3), int64(77)
	for _, r := range recs {
		st := &pb.AgentStream{
			StreamId: r.Stream.String(), Role: pb.AgentRole_AGENT_ROLE_WRITER, Epoch: 1, Endpoint: "e1:8080",
			Exposure: &pb.Exposure{Records: &n, Bytes: &bytes, Age: durationpb.New(0)},
		}
		for _, m := range r.Config.Members {
			st.Members = append(st.Members, &pb.AgentMember{Node: string(m.Node), Counted: true})
		}
		req.Streams = append(req.Streams, st)
	}
	agent := s.node(tidegate.RoleAgent, "east", "e1")
	name := regexp.MustCompile(`fqName: "([^"]+)"`)
	want := []string{"tidegate_gate_plans_total", "tidegate_gate_watchers"}
	descs := make(chan *prometheus.Desc, 100)
	(&collector{}).Describe(descs)
	close(descs)
	for d := range descs {
		want = append(want, name.FindStringSubmatch(d.String())[1])
	}
	s.eventually("every metric", func() error {
		s.report()
		if _, err := agent.ReportAgent(t.Context(), connect.NewRequest(req)); err != nil {
			return err
		}
		lines := s.scrape()
		for _, w := range want {
			if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, w+"{") || strings.HasPrefix(l, w+" ") }) {
				return fmt.Errorf("%s is not exported", w)
			}
		}
		for _, exact := range []string{
			"tidegate_gate_leading 1", "tidegate_gate_registry_reachable 1", "tidegate_gate_watchers 4",
			`tidegate_gate_service_verdict{service="ledger",verdict="safe"} 1`,
			`tidegate_gate_service_verdict{service="ledger",verdict="unsafe"} 0`,
			`tidegate_gate_service_rto_seconds{service="ledger"} 60`, `tidegate_gate_route_epoch{service="ledger"} 1`,
			`tidegate_gate_stream_exposure_records{service="ledger",stream="a"} 3`, `tidegate_gate_stream_exposure_bytes{service="ledger",stream="b"} 77`,
			`tidegate_gate_stream_members_alive{service="ledger",stream="a"} 3`, `tidegate_gate_stream_epoch{service="ledger",stream="a"} 1`,
			`tidegate_gate_plans_total{kind="acquire",outcome="done"} 1`, `tidegate_gate_probe_good{service="ledger"} 1`,
		} {
			if !slices.Contains(lines, exact) {
				return fmt.Errorf("no line %q", exact)
			}
		}
		return nil
	})
}
