package live

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/drills/assert"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/judge"
	"github.com/tidegate/tidegate/drills/probe"
	"github.com/tidegate/tidegate/internal/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func clone(s *pb.StatusResponse) *pb.StatusResponse { return proto.Clone(s).(*pb.StatusResponse) }

// down is what gates say of a site that is lost.
func down(s *pb.StatusResponse) {
	s.Services[0].Probe = &pb.ProbeStatus{Enabled: true, Error: "connection refused"}
}

// short is what gates say of a standby node that is lost.
func short(s *pb.StatusResponse) {
	s.Services[0].Verdict, s.Services[0].Reasons = pb.Verdict_VERDICT_AT_RISK, []string{"eur: 2 of 3 members answer"}
	s.Services[0].Streams[0].UnderProtected = true
}

func (w *world) check(r *Result, name string) *evidence.Check {
	i := slices.IndexFunc(r.Report.Checks, func(c evidence.Check) bool { return c.Name == name })
	if i < 0 {
		w.t.Errorf("no check %s in %+v", name, r.Report.Checks)
		return &evidence.Check{}
	}
	return &r.Report.Checks[i]
}

func (w *world) healed() {
	w.t.Helper()
	if _, err := os.Stat(w.file("fault")); !errors.Is(err, os.ErrNotExist) {
		w.t.Errorf("the fault is still there: %v", err)
	}
	if _, err := os.Stat(w.file("live-bank.fault.json")); !errors.Is(err, os.ErrNotExist) {
		w.t.Errorf("its note is still there: %v", err)
	}
}

func asserted(t *testing.T, text string) assert.Assertion {
	a, err := assert.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// behind is a service that is exposed.
func behind(s *pb.StatusResponse) {
	s.Services[0].Streams[0].Writer.Exposure.Age = durationpb.New(time.Second)
}

func TestPasses(t *testing.T) {
	for _, c := range []struct {
		level    evidence.Level
		scenario Scenario
		fault    func(*pb.StatusResponse)
		writer   string // afterwards
		changes  int
		survives bool
	}{
		{evidence.L2, Planned, nil, "p1", 2, true},
		{evidence.L3, PrimarySiteLost, down, "d1", 1, false},
		{evidence.L3, StandbyNodeLost, short, "p1", 0, true},
		{evidence.L3, LinkSlow, behind, "p1", 0, true},
		{evidence.L4, PrimarySiteLost, down, "d1", 1, false},
	} {
		t.Run(string(c.level)+" "+string(c.scenario), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.onFault, w.survives = c.fault, c.survives
			out, v := w.play(t.Context(), w.config(), c.level, c.scenario)
			if v.Outcome != judge.Passed || v.ExitCode != 0 {
				t.Errorf("%+v", v.Reasons)
			}
			w.healed()
			node, _ := writer(w.now.GetServices()[0])
			if node != c.writer || len(w.asked) != c.changes {
				t.Errorf("%s writes after %d changes", node, len(w.asked))
			}
			rep := out.Report
			if rep.Recovered.Actual == nil || rep.Recovered.Predicted == nil || *rep.Lost.Actual != 0 || *rep.Lost.Records != 0 || *rep.Gate.Mode != tidegate.ModeSync {
				t.Errorf("%+v, %+v, %+v", rep.Recovered, rep.Lost, rep.Gate)
			}
			if named := strings.Contains(out.Next, "tidegate failback bank --to p1"); named != (c.writer == "d1") {
				t.Errorf("next: %q", out.Next)
			}
			for _, req := range w.asked {
				if !strings.Contains(req.GetReason(), rep.ID.String()) || req.GetAcceptLoss() {
					t.Errorf("%+v", req)
				}
			}
		})
	}
}

// TestLostCanary: an acknowledged canary that is not there afterwards is counted, and what
// that means depends on what was promised and claimed.
func TestLostCanary(t *testing.T) {
	most := func(records int64) *pb.LossStatement {
		return &pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_AT_MOST, Bounds: &pb.Bounds{Records: &records, Window: durationpb.New(time.Minute)}}
	}
	for name, c := range map[string]struct {
		mode    tidegate.Mode
		loss    *pb.LossStatement
		rpo     time.Duration
		answers func(bool) int
		outcome judge.Outcome
		code    int
		say     string
	}{
		"sync":            {tidegate.ModeSync, nil, 0, nil, judge.Failed, 9, "nothing acknowledged may be lost in mode sync"},
		"within bounds":   {tidegate.ModeBounded, most(9), 0, nil, judge.Passed, 0, ""},
		"beyond them":     {tidegate.ModeBounded, most(1), 0, nil, judge.Failed, 9, "at most 1 records was claimed"},
		"beyond the RPO":  {tidegate.ModeBounded, most(9), time.Millisecond, nil, judge.Failed, 10, "the RPO is 1ms"},
		"nobody says so":  {tidegate.ModeBounded, most(9), 0, func(read bool) int { return map[bool]int{true: http.StatusServiceUnavailable}[read] }, judge.Partial, 12, "nobody answered for"},
		"nothing claimed": {tidegate.ModeBounded, &pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_UNKNOWN, Why: "no quorum"}, 0, nil, judge.Partial, 12, "the gate claims nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.now.Services, w.now.Routes = nil, nil
			w.add("bank", "p1", "east", c.mode)
			w.onFault, w.loses, w.answers = down, func(n int) bool { return n == 2 || n == 3 }, c.answers
			if c.loss != nil {
				w.loss = c.loss
			}
			cfg := w.config()
			cfg.Objectives.RPO = c.rpo
			out, v := w.play(t.Context(), cfg, evidence.L3, PrimarySiteLost)
			if v.Outcome != c.outcome || v.ExitCode != c.code || c.say != "" && !strings.Contains(strings.Join(v.Sentences(), "; "), c.say) {
				t.Errorf("%s, code %d: %v", v.Outcome, v.ExitCode, v.Sentences())
			}
			if lost := out.Report.Lost; c.answers == nil && (lost.Records == nil || *lost.Records != 2 || *lost.Actual == 0) {
				t.Errorf("%+v", lost)
			}
		})
	}
}

// TestFails: what the gate does not say, what does not come back and what does not end
// well fails the drill, and is healed.
func TestFails(t *testing.T) {
	for name, c := range map[string]struct {
		scenario Scenario
		prepare  func(*world, *Config)
		say      string
		outcome  judge.Outcome
	}{
		"the gate says nothing": {StandbyNodeLost, func(w *world, c *Config) { w.survives, c.Notice = true, 50*time.Millisecond }, "the gates to say which standby node is silent", judge.Failed},
		"what the gate says is old": {StandbyNodeLost, func(w *world, c *Config) {
			w.survives, w.before, c.Notice = true, "silent for", 50*time.Millisecond
		}, "the gates to say which standby node is silent", judge.Failed},
		"clients wait": {LinkSlow, func(_ *world, c *Config) { c.Pause, c.Hold = 50*time.Millisecond, 200*time.Millisecond }, "clients were not served for", judge.Failed},
		"somebody else writes": {LinkSlow, func(w *world, _ *Config) {
			w.survives, w.onFault = true, func(s *pb.StatusResponse) { s.Services[0].Streams[0].View.Epoch.Holder.Node = "d9" }
		}, "d9 became the writer", judge.Failed},
		"unknown is called safe": {LinkSlow, func(w *world, _ *Config) {
			w.survives, w.onFault = true, func(s *pb.StatusResponse) { s.Services[0].Streams[0].Writer = nil }
		}, "is called safe, and its exposure is not known", judge.Failed},
		"the plan fails": {PrimarySiteLost, func(w *world, _ *Config) {
			w.onFault, w.outcome = down, pb.PlanOutcome_PLAN_OUTCOME_FAILED
		}, "ended as failed", judge.Failed},
		"a rule refuses": {PrimarySiteLost, func(w *world, c *Config) {
			w.onFault, w.refusals, c.Change = down, -1, 50*time.Millisecond
		}, "failover of bank: not within 50ms", judge.Failed},
		"protection stays away": {StandbyNodeLost, func(w *world, c *Config) {
			w.survives, c.Whole = true, 50*time.Millisecond
			w.onFault = func(s *pb.StatusResponse) { short(s); short(w.now) }
		}, "not every member answers", judge.Failed},
		"the registry stays away": {RegistryLost, func(w *world, c *Config) {
			w.survives, c.Whole = true, 50*time.Millisecond
			w.onFault = func(s *pb.StatusResponse) { s.RegistryReachable, w.now.RegistryReachable = false, false }
		}, "protection to be whole again: not within 50ms: the registry does not answer", judge.Failed},
		"a gate stays away": {ControllerLost, func(w *world, c *Config) {
			w.survives, c.Whole = true, 50*time.Millisecond
			w.onFault = func(*pb.StatusResponse) { w.silent = map[string]string{"g2.example:7412": "connection refused"} }
		}, "gate g2.example:7412 gives no answer: connection refused", judge.Failed},
		"nothing is seen of the fault": {LinkSlow, func(w *world, _ *Config) { w.survives = true }, "whether there was a fault is not known", judge.Partial},
		"nobody is served after the failover": {PrimarySiteLost, func(w *world, c *Config) {
			w.onFault, c.Refused, c.Objectives.RTO = down, 200*time.Millisecond, 100*time.Millisecond
			w.onChange = func(*pb.ChangeRoleRequest) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.answers = func(bool) int { return http.StatusTeapot }
			}
		}, "check serve failed: no canary was accepted for", judge.Failed},
		"it is not served again, and that is longer than the RTO": {LinkCut, func(_ *world, c *Config) {
			c.Refused, c.Objectives.RTO, c.Notice = 200*time.Millisecond, 100*time.Millisecond, time.Minute
		}, "and the RTO is 100ms", judge.Failed},
		"an answer of a gate is late once": {ControllerLost, func(w *world, c *Config) {
			w.survives, c.Notice = true, 100*time.Millisecond
			w.onFault = func(*pb.StatusResponse) {
				if w.silent = nil; w.looks == 0 {
					w.looks, w.silent = 1, map[string]string{"g2.example:7412": "timeout"}
				}
			}
		}, "they said nothing of it", judge.Failed},
		"a blocking assertion is longer than the drill": {StandbyNodeLost, func(w *world, c *Config) {
			w.survives, w.onFault, c.Blocking = true, short, []assert.Assertion{asserted(w.t, "durable_nodes_min >= 2 for 1m")}
		}, "", judge.Passed},
		"it cannot be injected": {StandbyNodeLost, func(_ *world, c *Config) {
			f := c.Faults[StandbyNodeLost]
			f.Inject = append(f.Inject, Command{Run: []string{"/bin/false"}})
			c.Faults[StandbyNodeLost] = f
		}, "the fault could not be injected: run /bin/false", judge.Interrupted},
		"an assertion does not hold": {StandbyNodeLost, func(w *world, c *Config) {
			w.survives, c.Assertions = true, []assert.Assertion{asserted(w.t, "durable_nodes_min >= 2")}
			w.onFault = func(s *pb.StatusResponse) { short(s); s.Services[0].Streams[0].MembersCounted = 1 }
		}, "check durable_nodes_min >= 2 failed", judge.Failed},
		"an assertion is over something unknown": {PrimarySiteLost, func(w *world, c *Config) {
			c.Assertions = []assert.Assertion{asserted(w.t, "exposure_age_max < 5s")}
			w.onFault = func(s *pb.StatusResponse) {
				down(s)
				s.Services[0].Streams[0].Writer, s.Services[0].Streams[0].Verdict = nil, pb.Verdict_VERDICT_UNKNOWN
			}
		}, "check exposure_age_max < 5s has no answer", judge.Partial},
		"a blocking assertion does not hold": {StandbyNodeLost, func(w *world, c *Config) {
			w.survives, c.Hold, c.Blocking = true, time.Minute, []assert.Assertion{asserted(w.t, "durable_nodes_min >= 2")}
			w.onFault = func(s *pb.StatusResponse) { short(s); s.Services[0].Streams[0].MembersCounted = 1 }
		}, "durable_nodes_min >= 2 does not hold", judge.Interrupted},
		"a journey is not gone": {LinkSlow, func(w *world, c *Config) {
			step := probe.Step{Ask: probe.Ask{HTTP: &probe.HTTP{URL: w.server.URL + "/nobody"}}}
			w.survives, c.Journeys = true, []probe.Journey{{Name: "open-and-look", Steps: []probe.Step{step}}}
		}, "check open-and-look failed", judge.Failed},
		"clients are refused for too long": {LinkCut, func(_ *world, c *Config) { c.Refused, c.Notice = 100*time.Millisecond, time.Minute }, "no canary was accepted for", judge.Interrupted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			cfg := w.config()
			c.prepare(w, &cfg)
			_, v := w.play(t.Context(), cfg, evidence.L3, c.scenario)
			if v.Outcome != c.outcome || !strings.Contains(strings.Join(v.Sentences(), "; "), c.say) {
				t.Errorf("%s: %v", v.Outcome, v.Sentences())
			}
			w.healed()
		})
	}
}

// TestAskedAgain: a refusal that passes is no failure.
func TestAskedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.refusals = 3
	if _, v := w.play(t.Context(), w.config(), evidence.L2, Planned); v.Outcome != judge.Passed || len(w.asked) != 5 {
		t.Errorf("%v after %d requests", v.Sentences(), len(w.asked))
	}
}

// TestRefusedPlan: a plan that begins and is refused has moved nothing; it is asked for again.
func TestRefusedPlan(t *testing.T) {
	t.Parallel()
	w, first := newWorld(t), true
	w.onChange = func(req *pb.ChangeRoleRequest) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.outcome = pb.PlanOutcome_PLAN_OUTCOME_DONE
		if req.GetKind() == pb.PlanKind_PLAN_KIND_FAILBACK && first {
			w.outcome, first = pb.PlanOutcome_PLAN_OUTCOME_REFUSED, false
		}
	}
	if _, v := w.play(t.Context(), w.config(), evidence.L2, Planned); v.Outcome != judge.Passed || len(w.asked) != 3 {
		t.Errorf("%s: %v after %d changes", v.Outcome, v.Sentences(), len(w.asked))
	}
}

// TestAnswerLost: a change of role whose answer was lost is found, and followed; and where
// its steps were not seen, no canary of the old writer's is taken for the new one's.
func TestAnswerLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.loseAnswer = true
	out, v := w.play(t.Context(), w.config(), evidence.L2, Planned)
	if v.Outcome != judge.Partial || len(w.asked) != 2 || out.Next != "" {
		t.Errorf("%s: %v after %d requests; next %q", v.Outcome, v.Sentences(), len(w.asked), out.Next)
	}
	asked, returned := at(1), at(2)
	if m := (&movement{asked: asked, returned: &returned}); m.active() != returned {
		t.Errorf("canaries count from %d on, and the plan's end was known at %d", m.active(), returned)
	}
	for _, p := range out.Report.Phases {
		if p.Name == phaseDrain && p.Took != nil {
			t.Errorf("drain took %s, and nobody saw its end", *p.Took)
		}
	}
}

// TestSequence: a fault that is made step by step begins with what is seen of it.
func TestSequence(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.onFault = down
	cfg := w.config()
	f := cfg.Faults[Thermal]
	f.Inject = []Command{{Run: f.Inject[0].Run, Then: 200 * time.Millisecond}, {Run: []string{"/bin/true"}}}
	cfg.Faults[Thermal] = f
	out, v := w.play(t.Context(), cfg, evidence.L3, Thermal)
	if v.Outcome != judge.Passed || *out.Report.Recovered.Actual < 150*time.Millisecond {
		t.Errorf("%s: %v, RTA %s", v.Outcome, v.Sentences(), *out.Report.Recovered.Actual)
	}
}

// TestKilled: what a drill has left that was killed is ended and healed; a service that it
// had moved is not taken for one at home.
func TestKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg := w.config()
	st, err := openState(vfs.OS(), &cfg)
	if err != nil {
		t.Fatal(err)
	}
	left := exec.Command("/bin/sleep", "600")
	left.Env = []string{injecting + "=of-the-killed"}
	if err := errors.Join(left.Start(), st.open(note{Drill: "of-the-killed", Scenario: LinkCut, Heal: cfg.SetDefaults().Faults[LinkCut].Heal}), st.close()); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- left.Wait() }() // owned by this test; ends with the process
	out, v := w.play(t.Context(), cfg, evidence.L2, Planned)
	if err := <-ended; err == nil || v.Outcome != judge.Passed || len(out.Report.LeftOvers) != 2 { // the process and the fault
		t.Errorf("%v; %s: %v; %v", err, v.Outcome, v.Sentences(), out.Report.LeftOvers)
	}
	w.healed()
	if err := st.open(note{Drill: "of-the-killed", Scenario: Planned, Home: "p2"}); err != nil {
		t.Fatal(err)
	}
	if _, v := w.play(t.Context(), cfg, evidence.L2, Planned); v.Outcome != judge.Refused || !strings.Contains(v.Sentences()[0], "has moved it away from p2") {
		t.Errorf("%s: %v", v.Outcome, v.Sentences())
	}
	if err := st.open(note{Drill: "of-the-killed", Scenario: Planned, Home: "p1"}); err != nil {
		t.Fatal(err)
	}
	if _, v := w.play(t.Context(), cfg, evidence.L2, Planned); v.Outcome != judge.Passed {
		t.Errorf("%s: %v", v.Outcome, v.Sentences())
	}
	w.healed()
}

// TestAborted: whoever calls a drill off finds the fault healed, no change of role half
// done, and the next command named.
func TestAborted(t *testing.T) {
	t.Run("while the fault lasts", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.survives = true
		ctx, cancel := context.WithCancel(t.Context())
		w.onFault = func(s *pb.StatusResponse) { short(s); cancel() }
		cfg := w.config()
		cfg.Hold = time.Minute
		_, v := w.play(ctx, cfg, evidence.L3, StandbyNodeLost)
		if v.Outcome != judge.Interrupted || v.ExitCode != 5 || len(w.asked) != 0 {
			t.Errorf("%s: %v", v.Outcome, v.Sentences())
		}
		w.healed()
	})
	t.Run("while the service moves", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		w.onChange = func(*pb.ChangeRoleRequest) { cancel() }
		out, v := w.play(ctx, w.config(), evidence.L2, Planned)
		node, _ := writer(w.now.GetServices()[0])
		if v.Outcome != judge.Interrupted || node != "d1" || len(w.asked) != 1 || !strings.Contains(out.Next, "tidegate failback bank --to p1") {
			t.Errorf("%s: %v; %s writes; next %q", v.Outcome, v.Sentences(), node, out.Next)
		}
	})
	t.Run("as the gate says it", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		w.onFault = func(s *pb.StatusResponse) { down(s); cancel() }
		if _, v := w.play(ctx, w.config(), evidence.L3, PrimarySiteLost); v.Outcome != judge.Interrupted || len(w.asked) != 0 {
			t.Errorf("%s: %v, after %d requests", v.Outcome, v.Sentences(), len(w.asked))
		}
		w.healed()
	})
	t.Run("before anything", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, v := w.play(ctx, w.config(), evidence.L3, LinkCut); v.Outcome != judge.Refused || len(w.asked) != 0 {
			t.Errorf("%s: %v", v.Outcome, v.Sentences())
		}
		w.healed()
	})
}

// TestNotHealed: a fault that cannot be healed fails the drill and is named, and the next
// drill heals it before anything else.
func TestNotHealed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.survives, w.onFault = true, short
	cfg := w.config()
	f := cfg.Faults[StandbyNodeLost]
	heal := []string{"/bin/sh", "-c", `test -e "$0.key" && rm -f "$0"`, w.file("fault")}
	f.Heal = []Command{{Run: heal}}
	cfg.Faults[StandbyNodeLost] = f
	out, v := w.play(t.Context(), cfg, evidence.L3, StandbyNodeLost)
	if v.Outcome != judge.Failed || v.ExitCode != 9 || w.check(&out, "harm").Outcome != evidence.CheckFailed || !strings.Contains(out.Next, "the fault is still there") {
		t.Errorf("%s: %v; next %q", v.Outcome, v.Sentences(), out.Next)
	}
	if left := out.Report.LeftOvers; len(left) != 1 || left[0].Removed || !strings.Contains(left[0].Where, "/bin/sh") {
		t.Errorf("%+v", left)
	}
	if _, v := w.play(t.Context(), cfg, evidence.L2, Planned); v.Outcome != judge.Refused || !strings.Contains(v.Sentences()[0], "has left of standby-node-lost") {
		t.Errorf("begun over a fault: %s: %v", v.Outcome, v.Sentences())
	}
	if err := os.WriteFile(w.file("fault.key"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	out, v = w.play(t.Context(), cfg, evidence.L2, Planned)
	if left := out.Report.LeftOvers; v.Outcome != judge.Passed || len(left) != 1 || !left[0].Removed {
		t.Errorf("%s: %v, %+v", v.Outcome, v.Sentences(), left)
	}
	w.healed()
}

// TestRefused: nothing is done to a service that is not as it must be.
func TestRefused(t *testing.T) {
	stream := func(w *world) *pb.StreamStatus { return w.now.Services[0].Streams[0] }
	for name, c := range map[string]struct {
		prepare func(*world)
		level   evidence.Level
		say     string
	}{
		"frozen":           {func(w *world) { w.now.Services[0].Frozen = true }, evidence.L3, "are frozen"},
		"not armed":        {func(w *world) { stream(w).View.Epoch.Gate.State = pb.GateState_GATE_STATE_DEGRADED }, evidence.L3, "gate is not armed"},
		"open":             {func(w *world) { stream(w).View.Epoch.Gate.Mode = pb.Mode_MODE_OPEN }, evidence.L3, "nothing bounds"},
		"unknown":          {func(w *world) { stream(w).Verdict = pb.Verdict_VERDICT_UNKNOWN }, evidence.L3, "eur is unknown"},
		"too few members":  {func(w *world) { stream(w).MembersCounted = 1 }, evidence.L3, "W is 2"},
		"a member is away": {func(w *world) { stream(w).UnderProtected = true }, evidence.L3, "not every member answers"},
		"paused":           {func(w *world) { stream(w).View.Paused = true }, evidence.L3, "is paused"},
		"nobody leads":     {func(w *world) { w.now.Leader = "" }, evidence.L3, "no gate leads"},
		"no registry":      {func(w *world) { w.now.RegistryReachable = false }, evidence.L3, "the registry does not answer"},
		"clients are down": {func(w *world) { down(w.now) }, evidence.L3, "synthetic client fails"},
		"a plan runs":      {func(w *world) { w.running = "plan plan-9" }, evidence.L3, "plan plan-9 of bank runs"},
		"a rule refuses":   {func(w *world) { w.refuses = []*pb.RuleVerdict{{Rule: "no-gap", Reason: "a stretch is missing"}} }, evidence.L3, "no-gap (a stretch is missing)"},
		"no such service":  {func(w *world) { w.now.Services[0].Name = "till" }, evidence.L3, "knows no service bank"},
		"the detector acts": {func(w *world) {
			w.now.Services[0].Detector = &pb.DetectorStatus{Settings: &pb.DetectorSettings{Mode: pb.DetectorMode_DETECTOR_MODE_AUTO}}
		}, evidence.L3, "is in mode auto"},
		"nobody is served":   {func(w *world) { w.answers = func(bool) int { return http.StatusTeapot } }, evidence.L3, "nothing was done"},
		"a service is there": {func(w *world) { w.add("till", "p2", "east", tidegate.ModeSync) }, evidence.L4, "service till is active at site east, too"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			c.prepare(w)
			cfg := w.config()
			cfg.Pause = 50 * time.Millisecond
			d := w.drill(cfg, c.level, PrimarySiteLost)
			_, v := w.play(t.Context(), cfg, c.level, PrimarySiteLost)
			if v.Outcome != judge.Refused || v.ExitCode != 4 || !strings.Contains(strings.Join(v.Sentences(), "; "), c.say) || len(w.asked) != 0 {
				t.Errorf("%s: %v", v.Outcome, v.Sentences())
			}
			w.healed()
			p, err := d.Plan(t.Context())
			if served := name == "nobody is served"; err != nil || (len(p.Refused) == 0) != served {
				t.Errorf("the plan: %v, %v", p.Refused, err)
			}
		})
	}
}

// TestWholeSite: at level L4 every service of the site moves, and the time ends when the
// last one is served.
func TestWholeSite(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add("till", "p1", "east", tidegate.ModeSync)
	w.onFault = down
	cfg := w.config()
	second := cfg.Canaries[0]
	second.Service, second.Name = "till", "ring"
	cfg.Canaries = append(cfg.Canaries, second)
	out, v := w.play(t.Context(), cfg, evidence.L4, PrimarySiteLost)
	if v.Outcome != judge.Passed || len(w.asked) != 2 {
		t.Errorf("%v after %d changes", v.Sentences(), len(w.asked))
	}
	for _, name := range []string{"open", "ring", "routes of till", "routes of bank", "acknowledged-canaries of till"} {
		if c := w.check(&out, name); c.Outcome != evidence.CheckPassed {
			t.Errorf("%+v", c)
		}
	}
}

// TestOneAtATime: two live drills of a service never run at the same time.
func TestOneAtATime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg := w.config()
	held, err := openState(w.drill(cfg, evidence.L2, Planned).fs, &cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, v := w.play(t.Context(), cfg, evidence.L2, Planned); v.Outcome != judge.Refused || !strings.Contains(v.Sentences()[0], "another live drill of it runs") {
		t.Errorf("%s: %v", v.Outcome, v.Sentences())
	}
	if err := held.close(); err != nil {
		t.Fatal(err)
	}
	if p, err := w.drill(cfg, evidence.L2, Planned).Plan(t.Context()); err != nil || len(p.Refused) > 0 || p.Target != "d1" || len(p.Phases) != 1 {
		t.Errorf("%+v, %v", p, err)
	}
}
