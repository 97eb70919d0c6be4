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
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/probe"
	"github.com/tidegate/tidegate/internal/config"
)

// section is settings as a gate's file has them.
func section(t *testing.T, text string) config.Section {
	t.Helper()
	f, err := config.Parse[sectionFile]("test", []byte("settings:\n  "+strings.ReplaceAll(text, "\n", "\n  ")))
	if err != nil {
		t.Fatal(err)
	}
	return f.Settings
}

type sectionFile struct {
	Settings config.Section `yaml:"settings"`
}

func (f sectionFile) SetDefaults() sectionFile { return f }
func (f sectionFile) Validate() error          { return nil }

// mayFailOver waits until the gate would fail over to a node: what nodes have
// adopted shows in their next reports.
func (s *site) mayFailOver(to string) {
	s.t.Helper()
	s.eventually("failover to "+to, func() error {
		s.report()
		plan, _, err := s.failover(&pb.ChangeRoleRequest{Target: to, DryRun: true})
		if err == nil && failing(plan.GetRules()) {
			err = refusal(plan)
		}
		return err
	})
}

// TestRTAByTheSyntheticClient lets a service die, fails over, brings it back,
// and demands that the plan's phases are those of the client, not of the gate.
func TestRTAByTheSyntheticClient(t *testing.T) {
	t.Parallel()
	var up atomic.Bool
	var writes atomic.Int64
	up.Store(true)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !up.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if r.Method == http.MethodPost && r.URL.Query().Get("id") != "" {
			writes.Add(1)
		}
	}))
	defer service.Close()
	s := newSite(t, "w1", "w2", "w3")
	s.startGate("gate-a", nil, func(c *Config) {
		c.Probes = []ProbeConfig{{Service: "ledger", Every: 20 * time.Millisecond, Settings: section(t, "url: "+service.URL+"/probe?id={n}")}}
	})
	s.register()
	ids := s.addStreams(pb.Mode_MODE_SYNC, nil)
	s.agent("e1", "east")
	for n := range s.nodes {
		s.agent(n, "west")
	}
	recs := s.mustAcquire("e1", "east")
	s.write(recs[0], 1, "w1", "w2")
	s.report()
	probe := func(good bool) {
		s.eventually("probe", func() error {
			r, err := s.operator(tidegate.RoleViewer).Status(t.Context(), connect.NewRequest(&pb.StatusRequest{}))
			if err == nil && r.Msg.GetServices()[0].GetProbe().GetGood() != good {
				err = fmt.Errorf("probe %v", r.Msg.GetServices()[0].GetProbe())
			}
			return err
		})
	}
	probe(true)
	up.Store(false)
	probe(false)
	go func() { // ends when the route is recorded: the service comes up behind it
		s.eventuallyQuiet(func() bool {
			r, err := s.operator(tidegate.RoleViewer).Status(t.Context(), connect.NewRequest(&pb.StatusRequest{}))
			return err == nil && r.Msg.GetServices()[0].GetRoute().GetEpoch() == 2
		})
		up.Store(true)
	}()
	s.mayFailOver("w1")
	plan, _, err := s.failover(&pb.ChangeRoleRequest{Target: "w1"})
	if err != nil {
		t.Fatal(err)
	}
	ph := plan.GetPhases()
	if ph.GetRta() == nil || ph.GetControllable() == nil || ph.GetRta().AsDuration() <= ph.GetControllable().AsDuration() {
		t.Fatalf("rta %v, controllable %v: want both, the fault came before the decision", ph.GetRta(), ph.GetControllable())
	}
	var sum time.Duration
	for _, one := range ph.GetPhases() {
		if one.GetName() == "reconstitute" || one.GetName() == "verify" { // nothing is verified: re-route begins where apply ended
			continue
		}
		if one.GetTook() == nil {
			t.Errorf("phase %s is not known", one.GetName())
		}
		sum += one.GetTook().AsDuration()
	}
	if diff := (sum - ph.GetRta().AsDuration()).Abs(); diff > time.Millisecond {
		t.Errorf("phases add up to %s, rta is %s", sum, ph.GetRta().AsDuration())
	}
	if writes.Load() == 0 {
		t.Error("the probe never wrote")
	}
	// t9 comes when the new writer counts its members.
	rec := s.records(ids)
	req := &pb.ReportAgentRequest{Node: "w1", Site: "west", Holder: s.agents["w1"].String()}
	for _, r := range rec {
		st := &pb.AgentStream{StreamId: r.Stream.String(), Role: pb.AgentRole_AGENT_ROLE_WRITER, Epoch: uint64(r.Epoch), Endpoint: "w1:8080"}
		for _, m := range r.Config.Members {
			st.Members = append(st.Members, &pb.AgentMember{Node: string(m.Node), Counted: true})
		}
		req.Streams = append(req.Streams, st)
	}
	agent := s.node(tidegate.RoleAgent, "west", "w1")
	s.eventually("t9", func() error {
		if _, err := agent.ReportAgent(t.Context(), connect.NewRequest(req)); err != nil {
			return err
		}
		r, err := s.operator(tidegate.RoleViewer).ShowPlan(t.Context(), connect.NewRequest(&pb.ShowPlanRequest{Id: plan.GetId()}))
		if err != nil {
			return err
		}
		phases := r.Msg.GetPlan().GetPhases().GetPhases()
		if phases[len(phases)-1].GetTook() == nil {
			return fmt.Errorf("phases %v", phases)
		}
		return nil
	})
}

// fakeClient is a synthetic client whose endpoints answer what a test wants.
type fakeClient struct {
	endpoint func() error // of an attempt past the route

	mu    sync.Mutex
	asked []probe.Request // of those attempts
}

func (f *fakeClient) Try(_ context.Context, r probe.Request) error {
	if r.At == "" {
		r.Heard()
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, r)
	return f.endpoint()
}

// TestVerifiesBeforeClientsAreSentThere: what a failover promotes is written to at
// its endpoint, once the epoch is open and before the route leads there. When it
// confirms nothing for too long the plan goes on, and says so.
func TestVerifiesBeforeClientsAreSentThere(t *testing.T) {
	t.Parallel()
	for name, confirms := range map[string]bool{"confirmed": true, "not confirmed": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, "w1", "w2", "w3")
			f := &fakeClient{}
			s.kinds["fake"] = func(string, config.Section) (probe.Client, error) { return f, nil }
			s.startGate("gate-a", nil, func(c *Config) {
				c.Probes = []ProbeConfig{{Service: "ledger", Kind: "fake", Every: 20 * time.Millisecond, Verify: true, Settings: section(t, "any: thing")}}
				c.Timing.Verify = 300 * time.Millisecond
				if confirms {
					c.Timing.Verify = time.Minute // it ends with the third answer, however slow the machine
				}
			})
			s.register()
			s.addStreams(pb.Mode_MODE_SYNC, nil)
			s.agent("e1", "east")
			for n := range s.nodes {
				s.agent(n, "west")
			}
			recs := s.mustAcquire("e1", "east")
			s.write(recs[0], 1, "w1", "w2")
			s.report()
			route := func() uint64 {
				r, err := s.operator(tidegate.RoleViewer).Status(t.Context(), connect.NewRequest(&pb.StatusRequest{}))
				if err != nil {
					t.Error(err)
				}
				return r.Msg.GetServices()[0].GetRoute().GetEpoch()
			}
			f.endpoint = func() error {
				if e := route(); e == 2 {
					t.Error("clients were sent there before it was verified")
				}
				if n := len(f.asked); confirms && n > 2 {
					return nil
				}
				return errors.New("it takes no writes")
			}
			s.mayFailOver("w1")
			plan, _, err := s.failover(&pb.ChangeRoleRequest{Target: "w1"})
			if err != nil || plan.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_DONE {
				t.Fatalf("%v, %v", plan.GetOutcome(), err)
			}
			if r := f.asked[0]; r.At != "w1:8080" || r.Level != probe.Write || r.Epoch != 2 {
				t.Errorf("asked %+v", r)
			}
			if e := route(); e != 2 {
				t.Errorf("the route is of epoch %d", e)
			}
			known, detail := false, ""
			for _, x := range plan.GetPhases().GetPhases() {
				known = known || x.GetName() == "verify" && x.GetTook() != nil
			}
			for _, x := range plan.GetSteps() {
				detail += x.GetDetail()
			}
			if known != confirms || strings.Contains(detail, "it takes no writes") == confirms {
				t.Errorf("verify known: %v; details %q", known, detail)
			}
		})
	}
}

// TestStatusAnswersAreWeSafe walks one stream from unknown to safe and to unsafe.
func TestStatusAnswersAreWeSafe(t *testing.T) {
	t.Parallel()
	s, _, recs := ready(t, pb.Mode_MODE_SYNC, nil)
	op := s.operator(tidegate.RoleOperator)
	if _, err := op.AddService(t.Context(), connect.NewRequest(&pb.AddServiceRequest{Service: &pb.Service{Name: "ledger", Rpo: durationpb.New(time.Second)}})); err != nil {
		t.Fatal(err)
	}
	agent := s.node(tidegate.RoleAgent, "east", "e1")
	status := func(age time.Duration, known bool) *pb.StatusResponse {
		t.Helper()
		req := &pb.ReportAgentRequest{Node: "e1", Site: "east", Holder: s.agents["e1"].String()}
		for _, r := range recs {
			st := &pb.AgentStream{StreamId: r.Stream.String(), Role: pb.AgentRole_AGENT_ROLE_WRITER, Epoch: uint64(r.Epoch), Endpoint: "e1:8080"}
			if known {
				n := int64(0)
				st.Exposure = &pb.Exposure{Records: &n, Bytes: &n, Age: durationpb.New(age)}
			}
			for _, m := range r.Config.Members {
				st.Members = append(st.Members, &pb.AgentMember{Node: string(m.Node), Counted: true})
			}
			req.Streams = append(req.Streams, st)
		}
		if _, err := agent.ReportAgent(t.Context(), connect.NewRequest(req)); err != nil {
			t.Fatal(err)
		}
		s.report()
		r, err := op.Status(t.Context(), connect.NewRequest(&pb.StatusRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		return r.Msg
	}
	r, err := op.Status(t.Context(), connect.NewRequest(&pb.StatusRequest{}))
	if err != nil || r.Msg.GetVerdict() != pb.Verdict_VERDICT_UNKNOWN {
		t.Fatalf("a writer that never reported: %v, %v", r.Msg.GetVerdict(), err)
	}
	for _, c := range []struct {
		age   time.Duration
		known bool
		want  pb.Verdict
	}{
		{0, true, pb.Verdict_VERDICT_SAFE},
		{600 * time.Millisecond, true, pb.Verdict_VERDICT_AT_RISK},
		{2 * time.Second, true, pb.Verdict_VERDICT_UNSAFE},
		{0, false, pb.Verdict_VERDICT_UNKNOWN},
	} {
		if got := status(c.age, c.known); got.GetVerdict() != c.want {
			t.Errorf("age %s known %v: %s %v, want %s", c.age, c.known, got.GetVerdict(), got.GetReasons(), c.want)
		}
	}
	// The route follows an acquisition without any F8.
	s.eventually("route", func() error {
		got := status(0, true).GetServices()[0].GetRoute()
		if got.GetEpoch() != 1 || !slices.Equal(got.GetEndpoints(), []string{"e1:8080"}) {
			return fmt.Errorf("route %v", got)
		}
		return nil
	})
	if l := status(0, true).GetServices()[0].GetLossIfNow(); l.GetKind() != pb.LossKind_LOSS_KIND_ZERO {
		t.Errorf("loss if now %v", l)
	}
}

// TestRPOAtMost: what nobody knows is bounded by what was left behind, and by what
// an armed gate let go, whichever is less.
func TestRPOAtMost(t *testing.T) {
	tail := &pb.MeasuredLoss{Window: durationpb.New(9 * time.Second)}
	bounds := &pb.Bounds{Window: durationpb.New(500 * time.Millisecond)}
	for name, x := range map[string]struct {
		loss  *pb.LossStatement
		whole bool
		want  time.Duration
		known bool
	}{
		"nothing":             {&pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_UNKNOWN}, false, 0, false},
		"a part of the tail":  {&pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_UNKNOWN, Measured: tail}, false, 0, false},
		"the tail":            {&pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_UNKNOWN, Measured: tail, Bounds: bounds}, true, 9 * time.Second, true},
		"the gate":            {&pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_AT_MOST, Bounds: bounds}, false, 500 * time.Millisecond, true},
		"both":                {&pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_AT_MOST, Bounds: bounds, Measured: tail}, true, 500 * time.Millisecond, true},
		"a gate without time": {&pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_AT_MOST, Bounds: &pb.Bounds{}}, false, 0, false},
		"proven":              {&pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_ZERO}, false, 0, true},
	} {
		got, known := maxRPO([]*pb.PlanStream{{StreamId: "s", Loss: x.loss}}, map[string]bool{"s": x.whole})
		if got != x.want || known != x.known {
			t.Errorf("%s: %s, %v; want %s, %v", name, got, known, x.want, x.known)
		}
	}
}
