package gating

import (
	"errors"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/probe"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/internal/clock"
)

// clinic is a doctor whose world is made by hand: no registry, no network.
type clinic struct {
	op   *operatorService
	clk  *clock.Fake
	view *registry.View
	id   tidegate.StreamID
	left time.Duration // of the gate's certificate
}

// newClinic is a healthy service of one stream on one node.
func newClinic() *clinic {
	c := &clinic{clk: clock.NewFake(time.Unix(1_700_000_000, 0)), id: tidegate.NewID(), left: 365 * 24 * time.Hour}
	inc, holder := tidegate.ID{9}, fence.Holder{Node: "e1", Site: "east", UUID: tidegate.ID{7}}
	c.view = &registry.View{
		Revision: 1,
		Services: map[tidegate.ServiceName]registry.Entry[registry.Service]{"ledger": {Value: registry.Service{Name: "ledger", Routes: []string{"front"}}}},
		Streams:  map[tidegate.StreamID]registry.Entry[registry.Stream]{c.id: {Value: registry.Stream{ID: c.id, Service: "ledger", Name: "a"}}},
		Epochs: map[tidegate.StreamID]registry.Entry[fence.EpochRecord]{c.id: {Value: fence.EpochRecord{
			Stream: c.id, Epoch: 3, ActiveEpoch: 3, State: fence.StateActive, Holder: holder,
			Config: fence.Config{W: 1, Members: []fence.Member{{Node: "w1", Incarnation: inc}}},
		}}},
		Nodes: map[registry.Key]registry.Entry[registry.Node]{registry.NodeKey(registry.KindStandby, "w1"): {Value: registry.Node{
			Name: "w1", Kind: registry.KindStandby, Site: "west", Incarnation: inc, APIAddress: "w1:7414",
		}}},
		Routes: map[tidegate.ServiceName]registry.Entry[registry.Route]{"ledger": {Value: registry.Route{Service: "ledger", Epoch: 3}}},
	}
	w := newWorld(c.clk)
	shared := parts{backups: &backups{}, name: "gate-a", world: w, now: c.clk.Wall, timing: Timing{}.SetDefaults(), probes: &probes{all: map[tidegate.ServiceName]*trier{
		"ledger": {cfg: ProbeConfig{Service: "ledger"}.SetDefaults(), good: true},
	}}}
	c.op = &operatorService{
		parts: shared, control: &controller{parts: shared, notifier: &notifier{}},
		certificate: func() time.Duration { return c.left },
	}
	w.reportAgent(&pb.ReportAgentRequest{Node: "e1", Site: "east", Streams: []*pb.AgentStream{{StreamId: c.id.String(), Role: pb.AgentRole_AGENT_ROLE_WRITER, Epoch: 3}}}, holder.UUID)
	w.reportRoute(&pb.ReportRouteRequest{Name: "front", Services: []*pb.RouteApplied{{Service: "ledger", Epoch: 3}}})
	c.report(nil)
	return c
}

// report is the node's, edited.
func (c *clinic) report(edit func(*pb.ReportStandbyRequest)) {
	m := &pb.ReportStandbyRequest{
		Node: "w1", Incarnation: tidegate.ID{9}.String(), DiskFreeBytes: 500 << 30, DiskTotalBytes: 1 << 40, Sent: timestamppb.New(c.clk.Wall()),
		Streams: []*pb.StandbyStream{{StreamId: c.id.String()}},
	}
	if edit != nil {
		edit(m)
	}
	c.op.world.reportStandby(m)
}

// reportFinding is the word of an agent at the primary site.
func (c *clinic) reportFinding(node string, f *pb.StoreFinding) {
	holder, role := tidegate.ID{8}, pb.AgentRole_AGENT_ROLE_OBSERVER
	if node == "e1" {
		holder, role = tidegate.ID{7}, pb.AgentRole_AGENT_ROLE_WRITER
	}
	c.op.world.reportAgent(&pb.ReportAgentRequest{Node: node, Site: "east", Streams: []*pb.AgentStream{{
		StreamId: c.id.String(), Role: role, Epoch: 3, Findings: []*pb.StoreFinding{f},
	}}}, holder)
}

func (c *clinic) findings(t *testing.T) []*pb.Finding {
	t.Helper()
	c.op.world.setView(c.view)
	r, err := c.op.Doctor(t.Context(), connect.NewRequest(&pb.DoctorRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	return r.Msg.GetFindings()
}

func TestDoctorFindings(t *testing.T) {
	if got := newClinic().findings(t); len(got) != 0 {
		t.Fatalf("findings about a healthy site: %v", got)
	}
	record := func(c *clinic, edit func(*fence.EpochRecord)) {
		e := c.view.Epochs[c.id]
		edit(&e.Value)
		c.view.Epochs[c.id] = e
	}
	for name, tt := range map[string]struct {
		make    func(*clinic)
		subject string
		finding string
		as      pb.Severity
	}{
		"certificate soon": {func(c *clinic) { c.left = 10 * 24 * time.Hour }, "gate gate-a", "expires in 240h", pb.Severity_SEVERITY_WARNING},
		"certificate now":  {func(c *clinic) { c.left = time.Hour }, "gate gate-a", "expires in 1h", pb.Severity_SEVERITY_CRITICAL},
		"registry":         {func(c *clinic) { c.op.world.setView(c.view); c.op.world.setUnreachable(); c.view = &registry.View{} }, "registry", "does not answer", pb.Severity_SEVERITY_CRITICAL},
		"never reported":   {func(c *clinic) { delete(c.op.world.standbys, "w1") }, "standby w1", "has not reported", pb.Severity_SEVERITY_WARNING},
		"silent":           {func(c *clinic) { c.clk.Advance(time.Minute) }, "standby w1", "silent for 1m", pb.Severity_SEVERITY_CRITICAL},
		"writer silent":    {func(c *clinic) { c.clk.Advance(time.Minute) }, "stream ledger/a", "has been silent for 1m", pb.Severity_SEVERITY_CRITICAL},
		"no probe":         {func(c *clinic) { delete(c.op.probes.all, "ledger") }, "service ledger", "no synthetic client that writes", pb.Severity_SEVERITY_INFO},
		"read only":        {func(c *clinic) { c.op.probes.all["ledger"].cfg.Level = probe.Read }, "service ledger", "no synthetic client that writes", pb.Severity_SEVERITY_INFO},
		"probe fails": {func(c *clinic) {
			c.op.probes.all["ledger"].err = &tidegate.Error{Op: "probe", Subject: "front:80", Class: tidegate.Misuse, Err: errors.New("no rights"), Hint: "grant them"}
		}, "service ledger", "synthetic client of gate gate-a fails: probe front:80: no rights", pb.Severity_SEVERITY_WARNING},
		"probe of nobody": {func(c *clinic) { c.op.probes.all["till"] = c.op.probes.all["ledger"] }, "gate gate-a", "probes service till, which is not registered", pb.Severity_SEVERITY_WARNING},
		"another directory": {func(c *clinic) {
			c.report(func(m *pb.ReportStandbyRequest) { m.Incarnation = tidegate.ID{1}.String() })
		}, "standby w1", "another data directory", pb.Severity_SEVERITY_WARNING},
		"clock": {func(c *clinic) {
			c.report(func(m *pb.ReportStandbyRequest) { m.Sent = timestamppb.New(c.clk.Wall().Add(-2 * time.Second)) })
		}, "standby w1", "differs from the gate's by 2s", pb.Severity_SEVERITY_WARNING},
		"disk forecast": {func(c *clinic) {
			c.report(func(m *pb.ReportStandbyRequest) { r := float64(500<<30) / 7200; m.GrowthBytesPerSecond = &r })
		}, "standby w1", "full in about 2h", pb.Severity_SEVERITY_WARNING},
		"disk in an hour": {func(c *clinic) {
			c.report(func(m *pb.ReportStandbyRequest) { r := float64(500<<30) / 1800; m.GrowthBytesPerSecond = &r })
		}, "standby w1", "full in about 30m", pb.Severity_SEVERITY_CRITICAL},
		"store here": {func(c *clinic) {
			c.reportFinding("e1", &pb.StoreFinding{Name: "wal-disk", Severity: pb.Severity_SEVERITY_CRITICAL, Text: "2% of the disk is free", Hint: "make room"})
		}, "stream ledger/a on agent e1", "wal-disk: 2% of the disk", pb.Severity_SEVERITY_CRITICAL},
		"store on another node": {func(c *clinic) {
			c.reportFinding("e2", &pb.StoreFinding{Severity: pb.Severity_SEVERITY_WARNING, Text: "no server", Hint: "start it"})
		}, "stream ledger/a on agent e2", "no server", pb.Severity_SEVERITY_WARNING},
		"store of a standby": {func(c *clinic) {
			c.report(func(m *pb.ReportStandbyRequest) {
				m.Streams[0].Findings = []*pb.StoreFinding{{Name: "versions", Severity: pb.Severity_SEVERITY_CRITICAL, Text: "15 there, 17 here"}}
			})
		}, "stream ledger/a on standby w1", "versions: 15 there", pb.Severity_SEVERITY_CRITICAL},
		"disk low":      {func(c *clinic) { c.report(func(m *pb.ReportStandbyRequest) { m.DiskFreeBytes = 50 << 30 }) }, "standby w1", "5% of its disk is free", pb.Severity_SEVERITY_WARNING},
		"restored":      {func(c *clinic) { record(c, func(r *fence.EpochRecord) { r.Restored = true }) }, "stream ledger/a", "went back in time", pb.Severity_SEVERITY_CRITICAL},
		"left half-way": {func(c *clinic) { record(c, func(r *fence.EpochRecord) { r.State, r.Epoch = fence.StateFencing, 4 }) }, "stream ledger/a", "without a writer", pb.Severity_SEVERITY_CRITICAL},
		"no address": {func(c *clinic) {
			k := registry.NodeKey(registry.KindStandby, "w1")
			e := c.view.Nodes[k]
			e.Value.APIAddress = ""
			c.view.Nodes[k] = e
		}, "stream ledger/a", "has no address", pb.Severity_SEVERITY_WARNING},
		"orphan": {func(c *clinic) {
			c.report(func(m *pb.ReportStandbyRequest) {
				m.Streams = append(m.Streams, &pb.StandbyStream{StreamId: tidegate.ID{5}.String()})
			})
		}, "standby w1", "not registered", pb.Severity_SEVERITY_INFO},
		"quarantine": {func(c *clinic) { c.report(func(m *pb.ReportStandbyRequest) { m.Streams[0].QuarantineBytes = 77 }) }, "standby w1", "77 bytes of stream", pb.Severity_SEVERITY_INFO},
		"route behind": {func(c *clinic) {
			c.op.world.reportRoute(&pb.ReportRouteRequest{Name: "front", Services: []*pb.RouteApplied{{Service: "ledger", Epoch: 2}}})
		}, "service ledger", "[front] are not in step", pb.Severity_SEVERITY_WARNING},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClinic()
			tt.make(c)
			found := false
			for _, f := range c.findings(t) {
				if f.GetNextStep() == "" {
					t.Errorf("no next step: %v", f)
				}
				found = found || f.GetSubject() == tt.subject && strings.Contains(f.GetFinding(), tt.finding) && f.GetSeverity() == tt.as
			}
			if !found {
				t.Errorf("findings %v, want %s about %s: ...%s...", c.findings(t), tt.as, tt.subject, tt.finding)
			}
		})
	}
}
