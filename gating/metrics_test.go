package gating

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/gating/registry"
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

// drilled has a report of a drill of the ledger recorded.
func (s *site) drilled(outcome string, number uint64, ended time.Time) {
	s.t.Helper()
	b, err := json.Marshal(DrillReport{Cluster: "demo", Service: "ledger", Previous: strings.Repeat("aa", int(number-1)), Drill: registry.Drill{
		ID: "d", Number: number, Level: "L1", Scenario: "link-cut", Outcome: outcome, Ended: ended, Hash: strings.Repeat("aa", int(number)),
		RTA: new(2 * time.Second), RTO: new(30 * time.Second), Phases: []registry.DrillPhase{
			{Name: "verify"}, {Name: "promote", Took: new(time.Millisecond)}, {Name: "apply", Took: new(time.Second), Slower: new(outcome == "failed")}, {Name: "total", Slower: new(false)},
		},
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.operator(tidegate.RoleDrill).RecordDrill(s.t.Context(), connect.NewRequest(&pb.RecordDrillRequest{Envelope: b})); err != nil {
		s.t.Fatal(err)
	}
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
	s.reports = func(b []byte) (r DrillReport, err error) { return r, json.Unmarshal(b, &r) }
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
	for _, absent := range []string{
		"exposure_records", "exposure_age", "stream_blocked", "stream_head", "gate_state_info", "rto_predicted", "node_report", "drill_last", "drill_outcome", "drill_phase",
		`rule_holds{rule="drill-fresh"`,
	} {
		if i := slices.IndexFunc(s.scrape(), func(l string) bool { return strings.HasPrefix(l, "tidegate_gate_") && strings.Contains(l, absent) }); i >= 0 {
			t.Errorf("exported before anybody reported: %s", s.scrape()[i])
		}
	}
	req := &pb.ReportAgentRequest{Node: "e1", Site: "east", Holder: s.agents["e1"].String()}
	n, bytes := int64(3), int64(77)
	for _, r := range recs {
		st := &pb.AgentStream{
			StreamId: r.Stream.String(), Role: pb.AgentRole_AGENT_ROLE_WRITER, Epoch: 1, Endpoint: "e1:8080", GateState: "flowing",
			Head: new(uint64(9)), Captured: new(uint64(8)), Durable: new(uint64(7)),
			Exposure: &pb.Exposure{Records: &n, Bytes: &bytes, Age: durationpb.New(125 * time.Millisecond)},
		}
		for _, m := range r.Config.Members {
			st.Members = append(st.Members, &pb.AgentMember{Node: string(m.Node), Counted: true})
		}
		req.Streams = append(req.Streams, st)
	}
	passed := time.Now().Add(-time.Hour).Truncate(time.Second)
	s.drilled("passed", 1, passed)
	s.drilled("failed", 2, passed.Add(time.Minute))
	stamp := func(at time.Time) string { return strconv.FormatFloat(float64(at.Unix()), 'g', -1, 64) }
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
			`tidegate_gate_stream_exposure_age_seconds{service="ledger",stream="a"} 0.125`, `tidegate_gate_stream_blocked{service="ledger",stream="a"} 0`,
			`tidegate_gate_stream_captured_position{service="ledger",stream="b"} 8`, `tidegate_gate_stream_gate_state_info{service="ledger",state="flowing",stream="a"} 1`,
			`tidegate_gate_stream_gate_record_info{record="armed",service="ledger",stream="a"} 1`, `tidegate_gate_stream_gate_record_info{record="degraded",service="ledger",stream="a"} 0`,
			`tidegate_gate_service_rule_holds{rule="freeze-off",service="ledger"} 1`, `tidegate_gate_service_rule_holds{rule="drill-fresh",service="ledger"} 1`,
			`tidegate_gate_drill_age_limit_seconds{service="ledger"} 604800`,
			`tidegate_gate_drill_last_timestamp_seconds{level="L1",scenario="link-cut",service="ledger"} ` + stamp(passed.Add(time.Minute)),
			`tidegate_gate_drill_last_pass_timestamp_seconds{level="L1",scenario="link-cut",service="ledger"} ` + stamp(passed),
			`tidegate_gate_drill_outcome{level="L1",outcome="failed",scenario="link-cut",service="ledger"} 1`, `tidegate_gate_drill_outcome{level="L1",outcome="passed",scenario="link-cut",service="ledger"} 0`,
			`tidegate_gate_drill_rta_seconds{level="L1",scenario="link-cut",service="ledger"} 2`, `tidegate_gate_drill_rto_seconds{level="L1",scenario="link-cut",service="ledger"} 30`,
			`tidegate_gate_drill_phase_seconds{level="L1",phase="apply",scenario="link-cut",service="ledger"} 1`, `tidegate_gate_drill_phase_slower{level="L1",phase="apply",scenario="link-cut",service="ledger"} 1`,
			`tidegate_gate_drill_phase_slower{level="L1",phase="total",scenario="link-cut",service="ledger"} 0`,
			`tidegate_gate_plans_total{kind="acquire",outcome="done"} 1`, `tidegate_gate_probe_good{service="ledger"} 1`,
		} {
			if !slices.Contains(lines, exact) {
				return fmt.Errorf("no line %q", exact)
			}
		}
		return nil
	})
}

// What a writer leaves out of its report is not exported, whatever it leaves out.
func TestWriterGaugesOfLittle(t *testing.T) {
	for _, w := range []*pb.AgentStream{{}, {Exposure: &pb.Exposure{}}, {Exposure: &pb.Exposure{Age: durationpb.New(0)}}} {
		writerGauges(func(d *prometheus.Desc, _ float64, _ ...string) { t.Errorf("%v: exported %s", w, d) }, "s", "a", w)
	}
}
