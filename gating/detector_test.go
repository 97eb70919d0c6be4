package gating

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/detect"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/internal/clock"
)

// primary is a primary that can be heard, or not: its agent's reports, the
// beacons that nodes hear, and what answers its clients.
type primary struct {
	s       *site
	clients *httptest.Server
	agent   atomic.Bool // reports
	beacons atomic.Bool // arrive
	served  atomic.Int32
	lost    atomic.Int64 // when beacons ceased, unix ns
}

// observed is a site with gates at three sites, all with a prober, of which the
// one at the nodes' site leads, and a primary that all of them see.
func observed(t *testing.T) (*site, *primary, map[string]tidegate.StreamID) {
	t.Helper()
	s := newSite(t, "w1", "w2", "w3")
	p := &primary{s: s}
	p.agent.Store(true)
	p.beacons.Store(true)
	p.served.Store(http.StatusOK)
	p.clients = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		code := int(p.served.Load())
		if code == 0 {
			panic(http.ErrAbortHandler) // nobody is there: the connection ends without an answer
		}
		w.WriteHeader(code)
	}))
	t.Cleanup(p.clients.Close)
	probing := func(c *Config) {
		c.Probes = []ProbeConfig{{Service: "ledger", Every: 100 * time.Millisecond, Timeout: time.Second, Settings: section(t, "url: "+p.clients.URL)}}
	}
	lead := s.startGate("gate-w", nil, probing)
	s.register()
	ids := s.addStreams(pb.Mode_MODE_SYNC, nil)
	s.agent("e1", "east")
	for n := range s.nodes {
		s.agent(n, "west")
	}
	s.mustAcquire("e1", "east")
	s.startGateAt("north", "gate-n", nil, probing)
	s.startGateAt("east", "gate-e", nil, probing)
	s.mu.Lock()
	s.gate = lead
	s.mu.Unlock()
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	wg.Go(func() { p.live(ctx, ids) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return s, p, ids
}

// live reports what there is to report, several times a second.
func (p *primary) live(ctx context.Context, ids map[string]tidegate.StreamID) {
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	agent := p.s.node(tidegate.RoleAgent, "east", "e1")
	nodes := map[tidegate.NodeName]func(*pb.ReportStandbyRequest) error{}
	for name := range p.s.nodes {
		c := p.s.node(tidegate.RoleStandby, "west", string(name))
		nodes[name] = func(r *pb.ReportStandbyRequest) error {
			_, err := c.ReportStandby(ctx, connect.NewRequest(r))
			return err
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		age := 100 * time.Millisecond
		if !p.beacons.Load() {
			p.lost.CompareAndSwap(0, time.Now().UnixNano())
			age += time.Since(time.Unix(0, p.lost.Load()))
		} else {
			p.lost.Store(0)
		}
		for name, send := range nodes {
			if err := send(p.s.standbyReport(p.s.nodes[name], age)); err != nil && ctx.Err() == nil {
				p.s.log.Warn("report", "err", err)
			}
		}
		if !p.agent.Load() {
			continue
		}
		r := &pb.ReportAgentRequest{Node: "e1", Site: "east", Holder: p.s.agents["e1"].String(), Sent: timestamppb.Now()}
		for _, id := range ids {
			r.Streams = append(r.Streams, &pb.AgentStream{StreamId: id.String(), Epoch: 1, Role: pb.AgentRole_AGENT_ROLE_WRITER})
		}
		if _, err := agent.ReportAgent(ctx, connect.NewRequest(r)); err != nil && ctx.Err() == nil {
			p.s.log.Warn("report", "err", err)
		}
	}
}

// die takes the primary away from everybody.
func (p *primary) die() {
	p.agent.Store(false)
	p.beacons.Store(false)
	p.served.Store(0)
}

func (s *site) detector() *pb.DetectorStatus {
	s.t.Helper()
	r, err := s.operator(tidegate.RoleViewer).Status(s.t.Context(), connect.NewRequest(&pb.StatusRequest{}))
	if err != nil || len(r.Msg.GetServices()) == 0 {
		s.t.Fatalf("status: %v", err)
	}
	return r.Msg.GetServices()[0].GetDetector()
}

func (s *site) awaitVerdict(want pb.DetectorVerdict) *pb.DetectorStatus {
	s.t.Helper()
	var d *pb.DetectorStatus
	s.eventually("verdict "+want.String(), func() error {
		if d = s.detector(); d.GetVerdict() != want {
			return fmt.Errorf("%v", d)
		}
		return nil
	})
	return d
}

// setDetector changes a service's detector in the registry.
func (s *site) setDetector(d registry.Detector) {
	s.t.Helper()
	s.editRegistry(func(store *registry.Store) error {
		var svc registry.Service
		rev, err := store.Get(s.t.Context(), registry.ServiceKey("ledger"), &svc)
		if err != nil {
			return err
		}
		svc.Detector = d
		_, err = store.Commit(s.t.Context(), new(registry.Tx).Unchanged(registry.ServiceKey("ledger"), rev).Put(registry.ServiceKey("ledger"), svc))
		return err
	})
}

func (s *site) editRegistry(edit func(*registry.Store) error) {
	s.t.Helper()
	store, err := registry.Open("demo", s.registry)
	if err == nil {
		defer store.Close()
		err = edit(store)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// declared lists what the detector has put on the audit trail, "state" by "state".
func (s *site) declared() []string {
	s.t.Helper()
	var out []string
	s.editRegistry(func(store *registry.Store) error {
		entries, _, err := store.AuditFrom(s.t.Context(), "", 1000, func(e registry.AuditEntry) bool { return e.Action == ActionDeclare })
		for _, e := range entries {
			out = append(out, e.Detail[0].Value)
		}
		return err
	})
	return out
}

// quick is a detector as fast as it may be.
func quick(m registry.DetectorMode) registry.Detector {
	return registry.Detector{Mode: m, DownAfter: detect.DownAfterMin, AntiFlap: detect.DownAfterMin}
}

func TestDetectorObserves(t *testing.T) {
	t.Parallel()
	s, p, ids := observed(t)
	s.setDetector(quick(registry.DetectorObserve))
	up := s.awaitVerdict(pb.DetectorVerdict_DETECTOR_VERDICT_UP)
	s.eventually("all vantage points vote", func() error {
		up = s.detector()
		alive := 0
		sites := map[string]bool{}
		for _, v := range up.GetVotes() {
			if v.GetBallot() == string(detect.VoteAlive) {
				alive, sites[v.GetSite()] = alive+1, true
			}
		}
		// Three nodes, the leader's session, three probers.
		if alive != 7 || len(sites) != 3 {
			return fmt.Errorf("%d alive at %d sites: %v", alive, len(sites), up)
		}
		return nil
	})
	// Clients are refused, beacons and the agent are there: not down, but no success either.
	p.served.Store(http.StatusServiceUnavailable)
	s.eventually("an alarm", func() error {
		d := s.detector()
		if d.GetVerdict() == pb.DetectorVerdict_DETECTOR_VERDICT_DOWN {
			t.Fatalf("down although everybody hears it: %v", d)
		}
		if !slices.ContainsFunc(d.GetAlarms(), func(f *pb.Fact) bool { return f.GetKey() == detect.AlarmNoProgress }) {
			return fmt.Errorf("%v", d)
		}
		return nil
	})
	// The standby side and the leading gate hear nothing, clients are served.
	p.served.Store(http.StatusOK)
	p.agent.Store(false)
	p.beacons.Store(false)
	s.eventually("partition", func() error {
		d := s.detector()
		if d.GetVerdict() == pb.DetectorVerdict_DETECTOR_VERDICT_DOWN {
			t.Fatalf("down although clients are served: %v", d)
		}
		if !slices.ContainsFunc(d.GetAlarms(), func(f *pb.Fact) bool { return f.GetKey() == detect.AlarmPartition }) {
			return fmt.Errorf("%v", d)
		}
		return nil
	})
	p.die()
	s.awaitVerdict(pb.DetectorVerdict_DETECTOR_VERDICT_DOWN)
	s.eventually("it says what it would do", func() error {
		if got := s.declared(); len(got) != 2 || got[0] != "down" || !strings.HasPrefix(got[1], "would have failed over to w") {
			return fmt.Errorf("%q; %v", got, s.detector())
		}
		return nil
	})
	for name, rec := range s.records(ids) {
		if rec.Epoch != 1 {
			t.Errorf("stream %s: epoch %s: it only observes", name, rec.Epoch)
		}
	}
	p.agent.Store(true)
	p.beacons.Store(true)
	p.served.Store(http.StatusOK)
	s.awaitVerdict(pb.DetectorVerdict_DETECTOR_VERDICT_UP)
	s.eventually("it says that it is back", func() error {
		if got := s.declared(); len(got) != 3 || got[2] != "up again" {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
}

func TestDetectorActs(t *testing.T) {
	t.Parallel()
	s, p, ids := observed(t)
	s.setDetector(quick(registry.DetectorAuto))
	s.awaitVerdict(pb.DetectorVerdict_DETECTOR_VERDICT_UP)
	s.freeze(true)
	p.die()
	s.eventually("the freeze stands against it", func() error {
		if d := s.detector(); !strings.Contains(strings.Join(d.GetAgainst(), " "), ruleFreeze) {
			return fmt.Errorf("%v", d)
		}
		return nil
	})
	if rec := s.records(ids)["a"]; rec.Epoch != 1 {
		t.Fatalf("epoch %s while role changes are frozen", rec.Epoch)
	}
	s.freeze(false)
	s.eventually("failover", func() error {
		if rec := s.records(ids)["a"]; rec.State != fence.StateActive || rec.Holder.Site != "west" {
			return fmt.Errorf("%s %s of %s; %v", rec.Epoch, rec.State, rec.Holder, s.detector())
		}
		return nil
	})
	plan := s.plans()[0]
	if !strings.HasPrefix(plan.GetActor(), actorDetector+"/") || !strings.Contains(plan.GetReason(), "heard nothing") {
		t.Errorf("plan by %q because %q", plan.GetActor(), plan.GetReason())
	}
	for _, ph := range plan.GetPhases().GetPhases() {
		if ph.GetName() == "detect" && (ph.GetTook() == nil || ph.GetTook().AsDuration() <= 0 || ph.GetTook().AsDuration() > 20*time.Second) {
			t.Errorf("detection took %v", ph.GetTook())
		}
	}
	if n := len(slices.DeleteFunc(s.declared(), func(d string) bool { return !strings.HasPrefix(d, "failing over") })); n != 1 {
		t.Errorf("it declared %d failovers: %q", n, s.declared())
	}
}

func (s *site) freeze(on bool) {
	s.t.Helper()
	if _, err := s.operator(tidegate.RoleOperator).Freeze(s.t.Context(), connect.NewRequest(&pb.FreezeRequest{Service: "ledger", Frozen: on, Reason: "works"})); err != nil {
		s.t.Fatal(err)
	}
}

func TestDetectorNeedsSitesAndAnArmedGateToAct(t *testing.T) {
	t.Parallel()
	v := &registry.View{
		Services: map[tidegate.ServiceName]registry.Entry[registry.Service]{"ledger": {Value: registry.Service{Name: "ledger", Disarmed: true}}},
		Streams:  map[tidegate.StreamID]registry.Entry[registry.Stream]{{1}: {Value: registry.Stream{ID: tidegate.StreamID{1}, Service: "ledger", Name: "a"}}},
		Epochs: map[tidegate.StreamID]registry.Entry[fence.EpochRecord]{{1}: {Value: fence.EpochRecord{
			Stream: tidegate.StreamID{1}, Gate: fence.GateRecord{State: fence.GateDegraded, Mode: tidegate.ModeSync},
		}}},
	}
	l := newLookout("west")
	l.world = newWorld(clock.System())
	err := l.checkDetector(v, "ledger", registry.Detector{Mode: registry.DetectorAuto, Agree: 2})
	for _, want := range []string{"agree 2", "0 sites", "arm switch", "gate degraded"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want ...%s...", err, want)
		}
	}
	if err := l.checkDetector(v, "ledger", registry.Detector{Mode: registry.DetectorObserve}); err != nil {
		t.Errorf("observing is refused: %v", err)
	}
	if err := l.checkDetector(v, "ledger", registry.Detector{Mode: "perhaps"}); err == nil || errors.Is(err, tidegate.ErrConflict) {
		t.Errorf("got %v", err)
	}
}
