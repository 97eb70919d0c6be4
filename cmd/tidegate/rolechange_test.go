package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/cli"
)

// sends is one event of a change of role.
func sends(s *connect.ServerStream[pb.ChangeRoleResponse], events ...any) error {
	for _, e := range events {
		m := &pb.ChangeRoleResponse{}
		switch e := e.(type) {
		case *pb.Plan:
			m.Event = &pb.ChangeRoleResponse_Plan{Plan: e}
			if e.GetOutcome() == pb.PlanOutcome_PLAN_OUTCOME_DONE || e.GetOutcome() == pb.PlanOutcome_PLAN_OUTCOME_ABORTED {
				m.Event = &pb.ChangeRoleResponse_Done{Done: e}
			}
		case *pb.PlanStep:
			m.Event = &pb.ChangeRoleResponse_Step{Step: e}
		}
		if err := s.Send(m); err != nil {
			return err
		}
	}
	return nil
}

func TestFailoverShowsEveryStep(t *testing.T) {
	plan := &pb.Plan{
		Id: "p1", Kind: pb.PlanKind_PLAN_KIND_FAILOVER, Service: "bank", Target: &pb.Holder{Node: "w1", Site: "west"},
		Impact: "writes stop for about 2 s", Expected: durationpb.New(2 * time.Second),
		Rules: []*pb.RuleVerdict{{Rule: "gate-armed", Holds: true, Known: true, Reason: "sync"}},
	}
	g := &fakeGate{change: func(r *pb.ChangeRoleRequest, s *connect.ServerStream[pb.ChangeRoleResponse]) error {
		if r.GetReason() != "fire" || !r.GetAttestPrimaryDown() || r.GetService() != "bank" || r.GetKind() != pb.PlanKind_PLAN_KIND_FAILOVER {
			return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("got %v", r))
		}
		done := &pb.Plan{
			Id: "p1", Outcome: pb.PlanOutcome_PLAN_OUTCOME_DONE, Loss: &pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_ZERO},
			Streams: []*pb.PlanStream{{Name: "main", FromEpoch: 3, Epoch: 4, Head: &pb.LogPos{Seq: 42}, Loss: &pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_ZERO}}},
			Phases: &pb.Phases{Rta: durationpb.New(1500 * time.Millisecond), Phases: []*pb.Phase{
				{Name: "fence", Ends: "fenced", At: timestamppb.New(time.Unix(0, 0)), Took: durationpb.New(20 * time.Millisecond)},
				{Name: "verify", Ends: "verified"},
			}},
		}
		return errors.Join(
			s.Send(&pb.ChangeRoleResponse{Event: &pb.ChangeRoleResponse_Plan{Plan: plan}}),
			s.Send(&pb.ChangeRoleResponse{Event: &pb.ChangeRoleResponse_Step{Step: &pb.PlanStep{Name: "F1 reserve", State: "done", Took: durationpb.New(3 * time.Millisecond)}}}),
			s.Send(&pb.ChangeRoleResponse{Event: &pb.ChangeRoleResponse_Done{Done: done}}))
	}}
	code, stdout, stderr := commandLine(t, g)("failover", "bank", "--attest-primary-down", "--reason", "fire")
	if code != cli.OK || stderr != "" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	want := `plan p1: failover of bank to w1 (site west)
impact: writes stop for about 2 s
RULE        HOLDS  WHY   OVERRIDE
gate-armed  yes    sync  -
expected: 2s
F1 reserve                    done      3ms
plan p1: done
  main: epoch 3 -> 4, log ends at batch 42: loses nothing acknowledged
loss: loses nothing acknowledged
PHASE   TOOK     ENDED
fence   20ms     fenced 00:00:00.000
verify  unknown  did not happen
rta: 1.5s, from the decision: unknown
`
	if diff := cmp.Diff(want, stdout); diff != "" {
		t.Error(diff)
	}
}

func TestFailoverRefusedNamesTheRule(t *testing.T) {
	rule := &pb.RuleVerdict{Rule: "primary-fenced", Known: true, Reason: "open mode, no lease", Override: "--attest-primary-down"}
	refused := func(*pb.ChangeRoleRequest, *connect.ServerStream[pb.ChangeRoleResponse]) error {
		return api.Error(&tidegate.Error{Op: "failover", Subject: "bank", Class: tidegate.Refused, Hint: "attest it", Err: &api.RulesError{Rules: []*pb.RuleVerdict{rule}}})
	}
	dry := func(_ *pb.ChangeRoleRequest, s *connect.ServerStream[pb.ChangeRoleResponse]) error {
		return errors.Join(s.Send(&pb.ChangeRoleResponse{Event: &pb.ChangeRoleResponse_Plan{Plan: &pb.Plan{
			Id: "p", Service: "bank", Outcome: pb.PlanOutcome_PLAN_OUTCOME_DRY_RUN, Rules: []*pb.RuleVerdict{rule},
			Steps: []*pb.PlanStep{{Name: "F1 reserve", State: "pending", Expected: durationpb.New(20 * time.Millisecond), ExpectedFrom: "median of 5 plans", Impact: "writes stop"}},
		}}}), refused(nil, nil))
	}
	for name, g := range map[string]*fakeGate{"refused": {change: refused}, "dry run": {change: dry}} {
		t.Run(name, func(t *testing.T) {
			args := []string{"failover", "bank", "--reason", "x"}
			if name == "dry run" {
				args = append(args, "--dry-run")
			}
			code, stdout, stderr := commandLine(t, g)(args...)
			if code != cli.Refused || !strings.Contains(stderr, "primary-fenced (open mode, no lease)") || !strings.Contains(stderr, "hint: attest it") {
				t.Errorf("exit code %d, stderr %q", code, stderr)
			}
			if strings.Count(stdout, "primary-fenced  no     open mode, no lease  --attest-primary-down") != 1 {
				t.Errorf("stdout %q", stdout)
			}
			if name == "dry run" && !strings.Contains(stdout, "F1 reserve  20ms      median of 5 plans  writes stop\n") {
				t.Errorf("the dry run does not show what each step would take:\n%s", stdout)
			}
		})
	}
}

func TestFailoverCutOffIsNotStartedAgain(t *testing.T) {
	for name, end := range map[string]func() error{
		"the gate stops": func() error { return connect.NewError(connect.CodeUnavailable, errors.New("gate stops")) },
		"the gate dies":  func() error { panic(http.ErrAbortHandler) }, // which breaks the stream off
	} {
		calls := 0
		g := &fakeGate{change: func(_ *pb.ChangeRoleRequest, s *connect.ServerStream[pb.ChangeRoleResponse]) error {
			calls++
			if err := s.Send(&pb.ChangeRoleResponse{Event: &pb.ChangeRoleResponse_Plan{Plan: &pb.Plan{Id: "p1"}}}); err != nil {
				return err
			}
			return end()
		}}
		code, _, stderr := commandLine(t, g)("failover", "bank", "--reason", "x")
		if code == cli.OK || code == cli.Unreachable || calls != 1 || !strings.Contains(stderr, "it goes on at the gate, see `tidegate plan show p1`") {
			t.Errorf("%s: exit code %d after %d calls, stderr %q", name, code, calls, stderr)
		}
	}
}

// lossy answers a rehearsal with loss, and counts what is really begun.
func lossy(loss *pb.LossStatement, begun *int) *fakeGate {
	return &fakeGate{change: func(r *pb.ChangeRoleRequest, s *connect.ServerStream[pb.ChangeRoleResponse]) error {
		plan := &pb.Plan{Id: "p1", Service: "bank", Target: &pb.Holder{Node: "w1"}, Loss: loss, Outcome: pb.PlanOutcome_PLAN_OUTCOME_DRY_RUN}
		if r.GetDryRun() {
			return sends(s, plan)
		}
		*begun++
		return sends(s, &pb.Plan{Id: "p1"}, &pb.Plan{Id: "p1", Outcome: pb.PlanOutcome_PLAN_OUTCOME_DONE})
	}}
}

func TestLossIsAcceptedByItsNumber(t *testing.T) {
	atMost := &pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_AT_MOST, Bounds: &pb.Bounds{Records: ptr[int64](100), Bytes: ptr[int64](1 << 20)}}
	for name, tc := range map[string]struct {
		loss  *pb.LossStatement
		verb  string
		args  []string
		typed string
		want  cli.Code
		says  string
	}{
		"the number":             {atMost, "takeover", []string{"--accept-loss=100", "--yes"}, "", cli.OK, ""},
		"another number":         {atMost, "takeover", []string{"--accept-loss=50", "--yes"}, "", cli.Refused, "hint: if that is acceptable: --accept-loss=100"},
		"unknown":                {&pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_UNKNOWN}, "takeover", []string{"--accept-loss=unknown", "--yes"}, "", cli.OK, ""},
		"unknown is not 0":       {&pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_UNKNOWN}, "failover", []string{"--accept-loss=0", "--yes"}, "", cli.Refused, "--accept-loss=unknown"},
		"nobody knows":           {nil, "failover", []string{"--accept-loss=0", "--yes"}, "", cli.Refused, "--accept-loss=unknown"},
		"zero":                   {&pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_ZERO}, "failover", []string{"--accept-loss=0", "--yes"}, "", cli.OK, ""},
		"bytes":                  {&pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_AT_MOST, Bounds: &pb.Bounds{Bytes: ptr[int64](4096)}}, "failover", []string{"--accept-loss=4096B", "--yes"}, "", cli.OK, ""},
		"a window":               {&pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_AT_MOST, Bounds: &pb.Bounds{Window: durationpb.New(2 * time.Second)}}, "failover", []string{"--accept-loss=2s", "--yes"}, "", cli.OK, ""},
		"typed":                  {atMost, "takeover", []string{"--accept-loss=100"}, "bank\n", cli.OK, "loses at most 100 records, 1 MiB.\nType the service's name to go on: "},
		"typed wrong":            {atMost, "takeover", []string{"--accept-loss=100"}, "yes\n", cli.Aborted, "not confirmed, nothing changed"},
		"typed nothing":          {atMost, "takeover", []string{"--accept-loss=100"}, "", cli.Usage, "want --yes where nobody can be asked"},
		"takeover says nothing":  {atMost, "takeover", []string{"--yes"}, "", cli.Usage, "want --accept-loss=MUCH"},
		"rehearsed":              {atMost, "takeover", []string{"--accept-loss=100", "--dry-run"}, "", cli.OK, ""},
		"rehearsed with another": {atMost, "takeover", []string{"--accept-loss=7", "--dry-run"}, "", cli.Refused, "--accept-loss=100"},
		"planned accept nothing": {atMost, "switchover", []string{"--accept-loss=100"}, "", cli.Usage, "flag provided but not defined"},
	} {
		t.Run(name, func(t *testing.T) {
			begun := 0
			g := lossy(tc.loss, &begun)
			line := commandLine(t, g)
			if tc.typed != "" {
				line = commandLineWith(t, g, strings.NewReader(tc.typed))
			}
			code, stdout, stderr := line(append([]string{tc.verb, "bank", "--reason", "x"}, tc.args...)...)
			if code != tc.want || !strings.Contains(stderr, tc.says) {
				t.Errorf("exit code %d, want %d; stderr %q; stdout %q", code, tc.want, stderr, stdout)
			}
			if dry := strings.HasPrefix(name, "rehearsed"); (begun == 1) != (tc.want == cli.OK && !dry) {
				t.Errorf("begun %d times", begun)
			}
		})
	}
}

func TestRoleVerbsSendWhatWasAsked(t *testing.T) {
	var got *pb.ChangeRoleRequest
	g := &fakeGate{change: func(r *pb.ChangeRoleRequest, s *connect.ServerStream[pb.ChangeRoleResponse]) error {
		got = r
		return sends(s, &pb.Plan{Id: "p1", Outcome: pb.PlanOutcome_PLAN_OUTCOME_DONE})
	}}
	line := commandLine(t, g)
	code, _, stderr := line("failback", "bank", "--to", "p1", "--reason", "home", "--drain-timeout", "5s",
		"--override", "drill-fresh=not rehearsed, a = b", "--override", "capacity=known", "--expires", "10m")
	want := &pb.ChangeRoleRequest{
		Service: "bank", Kind: pb.PlanKind_PLAN_KIND_FAILBACK, Target: "p1", Reason: "home",
		DrainTimeout: durationpb.New(5 * time.Second), Expires: durationpb.New(10 * time.Minute),
		Overrides: []*pb.RuleOverride{{Rule: "drill-fresh", Reason: "not rehearsed, a = b"}, {Rule: "capacity", Reason: "known"}},
	}
	if code != cli.OK || got.String() != want.String() {
		t.Errorf("exit code %d, stderr %q, sent %v", code, stderr, got)
	}
	for verb, kind := range map[string]pb.PlanKind{"failover": pb.PlanKind_PLAN_KIND_FAILOVER, "switchover": pb.PlanKind_PLAN_KIND_SWITCHOVER} {
		if code, _, stderr := line(verb, "bank", "--reason", "x"); code != cli.OK || got.GetKind() != kind {
			t.Errorf("%s: exit code %d, stderr %q, sent %v", verb, code, stderr, got)
		}
	}
}

func TestAbortedPlanIsNotDone(t *testing.T) {
	g := &fakeGate{change: func(_ *pb.ChangeRoleRequest, s *connect.ServerStream[pb.ChangeRoleResponse]) error {
		return sends(s, &pb.Plan{Id: "p1", Service: "bank", Outcome: pb.PlanOutcome_PLAN_OUTCOME_ABORTED, Abort: &pb.PlanAbort{Actor: "operator/bob", Reason: "not now"}})
	}}
	code, stdout, stderr := commandLine(t, g)("switchover", "bank", "--reason", "x")
	if code != cli.Aborted || !strings.Contains(stderr, "called off, everything is as it was (operator/bob: not now)") || !strings.Contains(stdout, "plan p1: aborted (operator/bob: not now)\n") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

func TestStepsTellWhatIsLeft(t *testing.T) {
	step := func(name, state string, expected time.Duration) *pb.PlanStep {
		return &pb.PlanStep{Name: name, State: state, Expected: durationpb.New(expected)}
	}
	g := &fakeGate{change: func(_ *pb.ChangeRoleRequest, s *connect.ServerStream[pb.ChangeRoleResponse]) error {
		plan := &pb.Plan{Id: "p1", Steps: []*pb.PlanStep{step("F1 reserve", "pending", time.Second), step("F2 fence", "pending", 2*time.Second)}}
		return sends(s, plan, step("F1 reserve", "running", time.Second), step("F1 reserve", "done", time.Second), step("F2 fence", "running", 2*time.Second),
			&pb.Plan{Id: "p1", Outcome: pb.PlanOutcome_PLAN_OUTCOME_DONE})
	}}
	_, stdout, _ := commandLine(t, g)("failover", "bank", "--reason", "x")
	for _, want := range []string{"running  (expected 1s), about 3s to go\n", "running  (expected 2s), about 2s to go\n"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("stdout lacks %q:\n%s", want, stdout)
		}
	}
}

func TestRulesTellUnknownFromNo(t *testing.T) {
	var b strings.Builder
	writeRules(&b, []*pb.RuleVerdict{
		{Rule: "a", Holds: true, Known: true, Override: "--override a=REASON"},
		{Rule: "b", Known: true, Reason: "no", Override: "--override b=REASON"},
		{Rule: "c", Reason: "nobody knows"},
		{Rule: "d", Holds: true, Known: true, OverriddenBy: &pb.Override{Actor: "operator/ada", Reason: "fire", Expires: timestamppb.New(time.Unix(0, 0))}},
	})
	want := `RULE  HOLDS       WHY           OVERRIDE
a     yes         -             -
b     no          no            --override b=REASON
c     unknown     nobody knows  -
d     overridden  -             operator/ada: fire, until 1970-01-01T00:00:00Z
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestProgressTellsHowFarTheWarmCopyIs(t *testing.T) {
	st := exampleStatus()
	st.Standbys[0].Report.Streams[0].ApplyLagRecords = ptr[int64](5000)
	if lag, ok := lagOf(st, "w1"); !ok || lag != 5000 {
		t.Errorf("got %d, %t", lag, ok)
	}
	if _, ok := lagOf(st, "w2"); ok {
		t.Error("a node without a report has a known lag")
	}
	var b strings.Builder
	f := &follower{w: &b, last: &pb.Plan{Service: "bank", Target: &pb.Holder{Node: "w1"}}, steps: map[string]*pb.PlanStep{"F7 apply": {Name: "F7 apply", State: "running"}}}
	f.lag(5000, time.Unix(10, 0))
	f.lag(1000, time.Unix(12, 0))
	if want := "  5000 records to apply\n  1000 records to apply, 2000 a second, about 500ms to go\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
	if !f.applying() {
		t.Error("F7 runs and nothing applies")
	}
}

func (g *fakeGate) Reconfigure(_ context.Context, r *connect.Request[pb.ReconfigureRequest], s *connect.ServerStream[pb.ReconfigureResponse]) error {
	g.asked = r.Msg
	return errors.Join(
		s.Send(&pb.ReconfigureResponse{Event: &pb.ReconfigureResponse_Plan{Plan: &pb.Plan{Id: "p1", Kind: pb.PlanKind_PLAN_KIND_RECONFIGURE, Service: "bank"}}}),
		s.Send(&pb.ReconfigureResponse{Event: &pb.ReconfigureResponse_Step{Step: &pb.PlanStep{Name: "F1 reserve", State: "done"}}}),
		s.Send(&pb.ReconfigureResponse{Event: &pb.ReconfigureResponse_Done{Done: &pb.Plan{Id: "p1", Outcome: pb.PlanOutcome_PLAN_OUTCOME_DONE}}}))
}

func TestReconfigureFollowsItsPlan(t *testing.T) {
	g := &fakeGate{}
	line := commandLine(t, g)
	code, stdout, stderr := line("streams", "reconfigure", "bank/main", "--member", "w1", "--member", "w4", "--w", "2", "--reason", "w2 is gone")
	want := &pb.ReconfigureRequest{Service: "bank", Stream: "main", Members: []string{"w1", "w4"}, W: 2, Reason: "w2 is gone"}
	if code != cli.OK || !proto.Equal(g.asked.(proto.Message), want) || !strings.Contains(stdout, "plan p1: reconfigure of bank\n") || !strings.Contains(stdout, "F1 reserve                    done\nplan p1: done\n") {
		t.Errorf("exit code %d, sent %v, stdout %q, stderr %q", code, g.asked, stdout, stderr)
	}
	for _, args := range [][]string{{"bank", "--w", "0", "--reason", "x"}, {"bank", "--member", "w1", "--w", "2", "--reason", "x"}, {"bank"}} {
		if code, _, stderr := line(append([]string{"streams", "reconfigure"}, args...)...); code != cli.Usage {
			t.Errorf("%v: exit code %d, stderr %q", args, code, stderr)
		}
	}
}
