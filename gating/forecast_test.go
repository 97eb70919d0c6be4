package gating

import (
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
)

func TestForecastTakesTheMedianOfTheNewestFailovers(t *testing.T) {
	steps := stepsOf(fence.KindFailover)
	plan := func(kind fence.PlanKind, step fence.PlanStep, took time.Duration) planRecord {
		return planRecord{
			plan: fence.Plan{Kind: kind, Step: step},
			view: &pb.Plan{Steps: []*pb.PlanStep{{Name: steps[1].name, Took: durationpb.New(took)}, {Name: steps[2].name}}},
		}
	}
	f := forecastFrom([]planRecord{
		plan(fence.KindAcquire, fence.StepDone, time.Hour), plan(fence.KindFailover, fence.StepRefused, time.Hour),
		plan(fence.KindFailover, fence.StepDone, 9*time.Second), plan(fence.KindFailover, fence.StepDone, time.Second), plan(fence.KindFailover, fence.StepDone, 2*time.Second),
		plan(fence.KindFailover, fence.StepDone, 3*time.Second), plan(fence.KindFailover, fence.StepDone, 4*time.Second),
		plan(fence.KindFailover, fence.StepDone, time.Hour), // older than the five
	}, fence.KindFailover)
	if got := f.took[steps[1].name]; got != 3*time.Second {
		t.Errorf("%s: %s, want 3s", steps[1].name, got)
	}
	if _, ok := f.took[steps[2].name]; ok {
		t.Errorf("%s was never timed, and is forecast", steps[2].name)
	}
	if got, want := f.total(), (forecast{}).total()-steps[1].expected+3*time.Second; got != want {
		t.Errorf("total %s, want %s: what is not forecast counts as built in", got, want)
	}
}

func TestApplyTime(t *testing.T) {
	num := func(n int64) *int64 { return &n }
	rate := func(r float64) *float64 { return &r }
	for _, tt := range []struct {
		name  string
		lag   *int64
		rate  *float64
		want  time.Duration
		known bool
	}{
		{"caught up, never timed", num(0), nil, 0, true},
		{"caught up", num(0), rate(10), 0, true},
		{"behind", num(500), rate(100), 5 * time.Second, true},
		{"behind, never timed", num(500), nil, 0, false},
		{"no warm copy", nil, nil, 0, false},
	} {
		c := newClinic()
		c.report(func(m *pb.ReportStandbyRequest) {
			m.Streams[0].ApplyLagRecords, m.Streams[0].ApplyRecordsPerSecond = tt.lag, tt.rate
		})
		if d, known := c.op.world.applyTime(c.view, "ledger", "w1"); d != tt.want || known != tt.known {
			t.Errorf("%s: %s, known %v; want %s, %v", tt.name, d, known, tt.want, tt.known)
		}
	}
}

// Status predicts from what the last failover took, also at a gate that did not
// run it.
func TestStatusIsCalibratedByFinishedPlans(t *testing.T) {
	t.Parallel()
	s, _, _ := ready(t, pb.Mode_MODE_SYNC, nil)
	predicted := func() time.Duration {
		t.Helper()
		s.report()
		r, err := s.operator(tidegate.RoleViewer).Status(t.Context(), connect.NewRequest(&pb.StatusRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		return r.Msg.GetServices()[0].GetRtoPredicted().AsDuration()
	}
	builtIn := (forecast{}).total()
	if got := predicted(); got != builtIn {
		t.Fatalf("predicted %s before any failover, want the built-in %s", got, builtIn)
	}
	plan, _, err := s.failover(&pb.ChangeRoleRequest{Target: "w1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range plan.GetSteps() {
		// A registry's transaction takes time; what was not timed would read 0s.
		if slices.Contains([]string{"F1", "F6"}, step.GetName()[:2]) && step.GetTook().AsDuration() <= 0 {
			t.Errorf("%s took %s", step.GetName(), step.GetTook().AsDuration())
		}
	}
	calibrated := func() error {
		if got := predicted(); got == builtIn || got <= 0 {
			return tidegate.ErrNotFound
		}
		return nil
	}
	s.eventually("the prediction to follow", calibrated)
	s.gate.stop()
	s.startGate("gate-b", nil, nil)
	for n := range s.nodes {
		s.agent(n, "west")
	}
	s.eventually("another gate to know it", calibrated)
}
