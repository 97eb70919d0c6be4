package main

import (
	"context"
	"os"
	"path/filepath"
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

// answer remembers what was asked and gives the answer of a test.
func answerWith[Req, Res any](g *fakeGate, r *connect.Request[Req], res *Res) (*connect.Response[Res], error) {
	g.asked = r.Msg
	return connect.NewResponse(res), nil
}

func (g *fakeGate) SetMode(_ context.Context, r *connect.Request[pb.SetModeRequest]) (*connect.Response[pb.SetModeResponse], error) {
	return answerWith(g, r, &pb.SetModeResponse{})
}

func (g *fakeGate) OpenGate(_ context.Context, r *connect.Request[pb.OpenGateRequest]) (*connect.Response[pb.OpenGateResponse], error) {
	return answerWith(g, r, &pb.OpenGateResponse{Changed: true})
}

func (g *fakeGate) ArmGate(_ context.Context, r *connect.Request[pb.ArmGateRequest]) (*connect.Response[pb.ArmGateResponse], error) {
	return answerWith(g, r, &pb.ArmGateResponse{Changed: true})
}

func (g *fakeGate) GateExplain(_ context.Context, r *connect.Request[pb.GateExplainRequest]) (*connect.Response[pb.GateExplainResponse], error) {
	return answerWith(g, r, g.explain)
}

func (g *fakeGate) SetDetector(_ context.Context, r *connect.Request[pb.SetDetectorRequest]) (*connect.Response[pb.SetDetectorResponse], error) {
	return answerWith(g, r, &pb.SetDetectorResponse{Service: &pb.Service{Detector: r.Msg.GetDetector()}})
}

func (g *fakeGate) AbortPlan(_ context.Context, r *connect.Request[pb.AbortPlanRequest]) (*connect.Response[pb.AbortPlanResponse], error) {
	if r.Msg.GetId() == "old" {
		return answerWith(g, r, &pb.AbortPlanResponse{Plan: &pb.Plan{Outcome: pb.PlanOutcome_PLAN_OUTCOME_DONE}})
	}
	return answerWith(g, r, &pb.AbortPlanResponse{Changed: true, Plan: &pb.Plan{Outcome: pb.PlanOutcome_PLAN_OUTCOME_ABORTED}})
}

func (g *fakeGate) RevokeOverride(_ context.Context, r *connect.Request[pb.RevokeOverrideRequest]) (*connect.Response[pb.RevokeOverrideResponse], error) {
	return answerWith(g, r, &pb.RevokeOverrideResponse{})
}

func (g *fakeGate) PutOverrides(_ context.Context, r *connect.Request[pb.PutOverridesRequest]) (*connect.Response[pb.PutOverridesResponse], error) {
	out := &pb.PutOverridesResponse{}
	for _, o := range r.Msg.GetOverrides() {
		out.Overrides = append(out.Overrides, &pb.Override{
			Id: r.Msg.GetService() + "/" + o.GetRule(), Service: r.Msg.GetService(), Rule: o.GetRule(), Actor: "operator/ada", Reason: r.Msg.GetReason(),
			Expires: timestamppb.New(time.Unix(0, 0)),
		})
	}
	return answerWith(g, r, out)
}

func (g *fakeGate) ListOverrides(_ context.Context, r *connect.Request[pb.ListOverridesRequest]) (*connect.Response[pb.ListOverridesResponse], error) {
	return answerWith(g, r, &pb.ListOverridesResponse{})
}

func (g *fakeGate) ListPlans(_ context.Context, r *connect.Request[pb.ListPlansRequest]) (*connect.Response[pb.ListPlansResponse], error) {
	return answerWith(g, r, &pb.ListPlansResponse{})
}

func (g *fakeGate) ListStreams(_ context.Context, r *connect.Request[pb.ListStreamsRequest]) (*connect.Response[pb.ListStreamsResponse], error) {
	return answerWith(g, r, &pb.ListStreamsResponse{})
}

func (g *fakeGate) ListAudit(_ context.Context, r *connect.Request[pb.ListAuditRequest]) (*connect.Response[pb.ListAuditResponse], error) {
	return answerWith(g, r, &pb.ListAuditResponse{Next: "7", Entries: []*pb.AuditEntry{{
		Id: "6", At: timestamppb.New(time.Unix(0, 0)), Actor: "operator/ada", Action: "gate-open", Service: "bank", Stream: "main",
		Reason: "the link is down", Outcome: "done", Detail: []*pb.Fact{{Key: "record", Value: "degraded"}},
	}}})
}

// boundedStatus has a stream with everything that a gate can show.
func boundedStatus() *pb.StatusResponse {
	st := exampleStatus()
	s := st.Services[0]
	s.Armed = true
	x := s.Streams[0]
	x.View = &pb.StreamView{
		Id: "s1", Service: "bank", Name: "main", Mode: pb.Mode_MODE_BOUNDED, W: 2, Policy: pb.GatePolicy_GATE_POLICY_DEGRADE,
		Bounds: &pb.Bounds{Records: ptr[int64](100)}, Grace: durationpb.New(10 * time.Second), Rearm: durationpb.New(30 * time.Second),
		LeaseTtl: durationpb.New(10 * time.Second),
		Epoch: &pb.EpochRecord{
			Epoch: 3, ActiveEpoch: 3, State: pb.EpochState_EPOCH_STATE_ACTIVE,
			Gate:   &pb.GateRecord{State: pb.GateState_GATE_STATE_ARMED, Mode: pb.Mode_MODE_BOUNDED, Bounds: &pb.Bounds{Records: ptr[int64](100)}, SinceSeq: 12},
			Config: &pb.Config{W: 2, Members: []*pb.Member{{Node: "w1"}, {Node: "w2"}, {Node: "w3"}}},
		},
	}
	x.Writer = &pb.AgentStream{
		GateState: "throttled", GateStateAge: durationpb.New(3 * time.Second), Utilisation: 0.7, Rejected: 4,
		Exposure: &pb.Exposure{Records: ptr[int64](70), Bytes: ptr[int64](7000), Age: durationpb.New(time.Second)},
	}
	return st
}

func TestGateShowSaysWhatItMeans(t *testing.T) {
	g := &fakeGate{status: boundedStatus()}
	code, stdout, stderr := commandLine(t, g)("gate", "show", "bank/main")
	if code != cli.OK {
		t.Fatalf("exit code %d, stderr %q", code, stderr)
	}
	want := `service bank: role changes are armed

bank/main
  wanted    bounded 100 records
  record    armed, mode bounded 100 records, since batch 12 of epoch 3
  gate      throttled for 3s
  in use    70 % of the tightest bound
  exposed   70 records, 6.8 KiB, oldest 1s, loss window unknown
  policy    degrade, after 10s, re-arms after 30s
  lease     of 10s, not needed while the gate is armed with bounds
  brake     off
  rejected  4 since the service's library started
  means     a disaster loses at most 100 records; without the other site work goes on unprotected once that is on record
`
	if diff := cmp.Diff(want, stdout); diff != "" {
		t.Error(diff)
	}
	g.status.Services[0].Streams[0].Writer = nil
	g.status.Services[0].Streams[0].View.Brake = &pb.Brake{Actor: "operator/ada", Reason: "link down", Since: timestamppb.New(time.Unix(0, 0))}
	g.status.Services[0].Streams[0].View.Epoch.Gate.State = pb.GateState_GATE_STATE_DEGRADED
	g.status.Services[0].Armed, g.status.Services[0].Frozen = false, true
	_, stdout, _ = commandLine(t, g)("gate", "show")
	for _, want := range []string{
		"role changes are off (arm switch); role changes are frozen\n", "  gate      unknown\n", "  in use    unknown\n", "  exposed   unknown\n",
		"  brake     ON since 1970-01-01T00:00:00Z, by operator/ada: link down\n", "whether it is held is unknown", "without limit\n",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("stdout lacks %q:\n%s", want, stdout)
		}
	}
}

func TestConsequenceNeverPromisesWhatTheRecordDoesNot(t *testing.T) {
	view := &pb.StreamView{Policy: pb.GatePolicy_GATE_POLICY_BLOCK}
	for state, promises := range map[pb.GateState]bool{
		pb.GateState_GATE_STATE_ARMED: true, pb.GateState_GATE_STATE_DEGRADED: false, pb.GateState_GATE_STATE_BLIND_OK: false,
		pb.GateState_GATE_STATE_UNKNOWN: false, pb.GateState_GATE_STATE_UNSPECIFIED: false,
	} {
		text := consequence(view, &pb.GateRecord{State: state, Mode: pb.Mode_MODE_SYNC})
		if strings.Contains(text, "loses nothing") != promises {
			t.Errorf("%s: %s", state, text)
		}
	}
}

func TestUnknownNamesAreNotEmptyLists(t *testing.T) {
	g := &fakeGate{status: boundedStatus()}
	line := commandLine(t, g)
	for _, args := range [][]string{
		{"gate", "show", "bank/other"}, {"detector", "show", "shop"}, {"detector", "set", "shop", "--mode", "off", "--reason", "x"},
	} {
		if code, _, stderr := line(args...); code != cli.NotFound {
			t.Errorf("%v: exit code %d, stderr %q", args, code, stderr)
		}
	}
	g.status = nil
	g.noService = true
	for _, args := range [][]string{
		{"streams", "list", "--service", "shop"},
		{"plan", "list", "--service", "shop"},
		{"override", "list", "--service", "shop"},
		{"gate", "show", "shop"},
		{"tolerance", "--service", "shop"},
	} {
		code, stdout, stderr := line(args...)
		if code != cli.NotFound || stdout != "" || !strings.Contains(stderr, "shop") {
			t.Errorf("%v: exit code %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
	}
}

func TestExplainAnswersEveryRule(t *testing.T) {
	g := &fakeGate{explain: &pb.GateExplainResponse{
		Target: "w1", Refused: true, Rules: []*pb.RuleVerdict{
			{Rule: "freeze-off", Holds: true, Known: true, Reason: "role changes are not frozen"},
			{Rule: "datum-fresh", Known: true, Reason: "main: the newest beacon is 40s old", Override: "--override datum-fresh=REASON", Evidence: []*pb.Fact{{Key: "beacon_age", Value: "40s"}}},
			{Rule: "drill-fresh", Holds: true, Reason: "no evidence", OverriddenBy: &pb.Override{Actor: "operator/ada", Reason: "never rehearsed"}},
		},
	}}
	code, stdout, stderr := commandLine(t, g)("gate", "explain", "bank", "switchover")
	want := `switchover of bank to w1 would be refused

yes        freeze-off: role changes are not frozen

no         datum-fresh: main: the newest beacon is 40s old
             beacon_age = 40s
             go on against it with --override datum-fresh=REASON

overridden drill-fresh: no evidence
             overridden by operator/ada: never rehearsed
`
	if diff := cmp.Diff(want, stdout); diff != "" || code != cli.Refused || stderr != "" {
		t.Errorf("exit code %d, stderr %q, %s", code, stderr, diff)
	}
	g.explain.Refused = false
	for action, want := range map[string]*pb.GateExplainRequest{
		"auto": {Service: "bank", Kind: pb.PlanKind_PLAN_KIND_FAILOVER, Auto: true}, "takeover": {Service: "bank", Kind: pb.PlanKind_PLAN_KIND_TAKEOVER},
	} {
		if code, _, _ := commandLine(t, g)("gate", "explain", "bank", action); code != cli.OK || !proto.Equal(g.asked.(proto.Message), want) {
			t.Errorf("%s: exit code %d, sent %v", action, code, g.asked)
		}
	}
	if code, _, stderr := commandLine(t, g)("gate", "explain", "bank", "drill"); code != cli.Usage || !strings.Contains(stderr, "want one of auto, failover, takeover, switchover, failback") {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
}

func TestGateVerbsSendWhatWasAsked(t *testing.T) {
	g := &fakeGate{status: boundedStatus()}
	g.status.Services[0].Detector = &pb.DetectorStatus{Settings: &pb.DetectorSettings{Mode: pb.DetectorMode_DETECTOR_MODE_OBSERVE, Agree: 2, DownAfter: durationpb.New(15 * time.Second)}}
	line := commandLine(t, g)
	for _, tc := range []struct {
		args string
		want proto.Message
		says string
	}{
		{"gate set bank/main --policy degrade --grace 5s --lease 10s --reason x", &pb.SetModeRequest{
			Service: "bank", Stream: "main", Policy: pb.GatePolicy_GATE_POLICY_DEGRADE, Grace: durationpb.New(5 * time.Second), LeaseTtl: durationpb.New(10 * time.Second), Reason: "x",
		}, "bank/main: policy degrade, grace 5s, lease 10s wanted"},
		{"gate set bank/main --mode sync --lease 0s --single-registry --reason x", &pb.SetModeRequest{
			Service: "bank", Stream: "main", Mode: pb.Mode_MODE_SYNC, Bounds: &pb.Bounds{}, LeaseTtl: durationpb.New(0), SingleRegistry: true, Reason: "x",
		}, "mode sync, lease 0s wanted"},
		{"gate open bank/main --reason x", &pb.OpenGateRequest{Service: "bank", Stream: "main", Reason: "x"}, "the brake is on"},
		{"gate open bank --reason x", &pb.OpenGateRequest{Service: "bank", Reason: "x"}, "`tidegate gate arm bank` ends it"},
		{"gate arm bank --reason x", &pb.ArmGateRequest{Service: "bank", Reason: "x"}, "the brake is off"},
		{"detector set bank --mode auto --agree 3 --reason x", &pb.SetDetectorRequest{
			Service: "bank", Reason: "x", Detector: &pb.DetectorSettings{Mode: pb.DetectorMode_DETECTOR_MODE_AUTO, Agree: 3, DownAfter: durationpb.New(15 * time.Second)},
		}, "bank: detector auto: down after 15s without a sign, 3 must agree"},
		{"detector set bank --drill-max-age 240h --reason x", &pb.SetDetectorRequest{Service: "bank", Reason: "x", Drill: &pb.DrillPolicy{MaxAge: durationpb.New(240 * time.Hour)}}, ""},
		{"plan abort p1 --reason x", &pb.AbortPlanRequest{Id: "p1", Reason: "x"}, "plan p1 called off, everything is as it was"},
		{"override set bank --rule drill-fresh --rule capacity --reason x", &pb.PutOverridesRequest{
			Service: "bank", Reason: "x", Overrides: []*pb.RuleOverride{{Rule: "drill-fresh"}, {Rule: "capacity"}},
		}, "bank/capacity"},
		{"override set bank --rule drill-fresh --reason x --expires 8h", &pb.PutOverridesRequest{
			Service: "bank", Reason: "x", Overrides: []*pb.RuleOverride{{Rule: "drill-fresh"}}, Expires: durationpb.New(8 * time.Hour),
		}, "bank/drill-fresh"},
		{"override revoke o1 --reason x", &pb.RevokeOverrideRequest{Id: "o1", Reason: "x"}, "override o1 revoked"},
	} {
		code, stdout, stderr := line(strings.Fields(tc.args)...)
		if code != cli.OK || !proto.Equal(g.asked.(proto.Message), tc.want) || !strings.Contains(stdout, tc.says) {
			t.Errorf("%s: exit code %d, sent %v, stdout %q, stderr %q", tc.args, code, g.asked, stdout, stderr)
		}
	}
}

func TestAbortOfAPlanThatIsOver(t *testing.T) {
	code, stdout, stderr := commandLine(t, &fakeGate{})("plan", "abort", "old", "--reason", "x")
	if code != cli.Conflict || stdout != "" || !strings.Contains(stderr, "it was over already, as done") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

func TestDetectorShowsItsVotes(t *testing.T) {
	st := boundedStatus()
	st.Services[0].Detector = &pb.DetectorStatus{
		Settings: &pb.DetectorSettings{Mode: pb.DetectorMode_DETECTOR_MODE_OBSERVE, Agree: 2, DownAfter: durationpb.New(15 * time.Second), AntiFlap: durationpb.New(10 * time.Minute)},
		Verdict:  pb.DetectorVerdict_DETECTOR_VERDICT_SUSPECT, Reasons: []string{"one of two is silent"},
		Alarms: []*pb.Fact{{Key: "partition", Value: "w1 hears it, the witness does not"}}, Against: []string{"too few vantage points"},
		Votes: []*pb.DetectorVote{{Site: "west", Name: "w1", Kind: "beacon", Ballot: "alive", Silent: durationpb.New(200 * time.Millisecond)}, {Site: "witness", Name: "g2", Kind: "probe", Ballot: "abstains", Why: "paused"}},
	}
	_, stdout, _ := commandLine(t, &fakeGate{status: st})("detector", "show", "bank")
	want := `bank: detector observe: down after 15s without a sign, 2 must agree, quiet for 10m0s after a change
verdict: suspect
  because: one of two is silent
  alarm: partition: w1 hears it, the witness does not
  against a failover by itself: too few vantage points
VANTAGE POINT  SITE     KIND    BALLOT    SILENT       WHY
w1             west     beacon  alive     200ms        -
g2             witness  probe   abstains  never heard  paused
`
	if diff := cmp.Diff(want, stdout); diff != "" {
		t.Error(diff)
	}
}

func TestAuditPages(t *testing.T) {
	g := &fakeGate{}
	code, stdout, stderr := commandLine(t, g)("audit", "--service", "bank", "--since", "2026-01-02T15:04:05Z", "--limit", "1")
	want := `WHEN                  WHO           WHAT       OF         OUTCOME  WHY               DETAIL
1970-01-01T00:00:00Z  operator/ada  gate-open  bank/main  done     the link is down  record=degraded
there are newer ones: --after 7
`
	if diff := cmp.Diff(want, stdout); diff != "" || code != cli.OK {
		t.Errorf("exit code %d, stderr %q, %s", code, stderr, diff)
	}
	if r := g.asked.(*pb.ListAuditRequest); r.GetSince().AsTime().Year() != 2026 || r.GetLimit() != 1 || r.GetService() != "bank" {
		t.Errorf("sent %v", r)
	}
	now := time.Unix(1000, 0)
	if at, err := sinceOf("10s", now); err != nil || at.AsTime().Unix() != 990 {
		t.Errorf("got %v, %v", at, err)
	}
	if code, _, _ := commandLine(t, g)("audit", "--since", "yesterday"); code != cli.Usage {
		t.Errorf("exit code %d", code)
	}
}

func TestToleranceIsThatOfTheQuorums(t *testing.T) {
	code, stdout, stderr := commandLine(t, &fakeGate{status: boundedStatus()})("tolerance")
	want := `N  W  R  LOST WITH THE PRIMARY SITE, ZERO LOSS PROVEN  DOWN, THE GATE FLOWS
1  1  1  0                                             0
2  2  1  1                                             0
2  1  2  0                                             1
3  2  2  1                                             1
3  3  1  2                                             0
5  3  3  2                                             2
5  2  4  1                                             3

now:
STREAM     N/W/R  COUNT   MAY BE LOST WITH THE PRIMARY SITE  MAY GO DOWN  NOTE
bank/main  3/2/2  2 of 3  0                                  0            the next node that fails stops the gate, or with the primary site ends the proof of zero loss
`
	if diff := cmp.Diff(want, stdout); diff != "" || code != cli.OK {
		t.Errorf("exit code %d, stderr %q, %s", code, stderr, diff)
	}
	st := boundedStatus()
	st.Services[0].Streams[0].Writer = nil
	if _, stdout, _ := commandLine(t, &fakeGate{status: st})("tolerance"); !strings.Contains(stdout, "unknown                            unknown      its writer does not report") {
		t.Errorf("an unknown tolerance has a number:\n%s", stdout)
	}
	for counted, want := range map[uint32]string{3: "", 1: "too few members: nothing becomes durable", 0: "too few members: nothing becomes durable"} {
		x := boundedStatus().Services[0].Streams[0]
		x.MembersCounted = counted
		if got := toleranceOf(x).note(); got != want {
			t.Errorf("%d counted: %q, want %q", counted, got, want)
		}
	}
}

func TestRatesWorkWithoutAGate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "rates")
	st := boundedStatus()
	st.Agents[0].Report.Rates = []*pb.Rate{{Name: "ship", Unit: "bytes/s", Limit: ptr(0.0)}, {Name: "capture", Unit: "bytes/s", Error: "want bytes"}}
	line := commandLine(t, &fakeGate{status: st})
	alone := func(args ...string) (cli.Code, string, string) {
		var stdout, stderr strings.Builder
		code := run(t.Context(), append([]string{"tidegate", "rates"}, args...), nil, &stdout, &stderr)
		return cli.Code(code), stdout.String(), stderr.String()
	}
	if code, stdout, stderr := alone("set", "ship", "0", "--dir", dir); code != cli.OK || !strings.HasPrefix(stdout, "ship: 0 bytes/s (stopped), obeyed by the agent of this machine within ") {
		t.Fatalf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "ship")); err != nil || string(b) != "0\n" {
		t.Errorf("the file holds %q, %v", b, err)
	}
	code, stdout, stderr := line("rates", "list", "--dir", dir)
	for _, want := range []string{"ship     0 bytes/s (stopped)", "capture  no limit", "n1    agent   ship     0 bytes/s (stopped)", "n1    agent   capture  no limit"} {
		if !strings.Contains(stdout, want) || code != cli.OK {
			t.Errorf("exit code %d, stderr %q, stdout lacks %q:\n%s", code, stderr, want, stdout)
		}
	}
	if code, stdout, _ := alone("-c", filepath.Join(dir, "none.yaml"), "--dir", dir); code != cli.OK || !strings.Contains(stdout, "other nodes are unknown: no operator's file here") {
		t.Errorf("exit code %d, stdout %q", code, stdout)
	}
	if code, stdout, _ := alone("list", "-c", filepath.Join(dir, "none.yaml"), "--dir", dir, "-o", "json"); code != cli.OK || !strings.Contains(stdout, `"limit": 0`) {
		t.Errorf("exit code %d, stdout %q", code, stdout)
	}
	if code, _, _ := alone("lift", "ship", "--dir", dir); code != cli.OK {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Stat(filepath.Join(dir, "ship")); !os.IsNotExist(err) {
		t.Errorf("the file is still there: %v", err)
	}
	for _, args := range [][]string{{"set", "shipp", "0"}, {"set", "ship", "fast"}, {"set", "ship"}, {"lift", "all"}} {
		if code, _, stderr := alone(append(args, "--dir", dir)...); code != cli.Usage {
			t.Errorf("%v: exit code %d, stderr %q", args, code, stderr)
		}
	}
}

// What is named before a sub-command is meant: its gates, not the default file's.
func TestConfigBeforeTheSubcommand(t *testing.T) {
	var stdout, stderr strings.Builder
	code := run(t.Context(), []string{"tidegate", "gate", "-c", "/nowhere/mine.yaml", "rebuild", "--from-standbys", "w1:1", "--dry-run"}, nil, &stdout, &stderr)
	if cli.Code(code) != cli.NotFound || !strings.Contains(stderr.String(), "/nowhere/mine.yaml") {
		t.Errorf("exit code %d, stderr %q", code, stderr.String())
	}
}

// notFound is what a gate answers about a service that it does not know.
func notFound(service string) error {
	return api.Error(&tidegate.Error{Op: "show status of", Subject: service, Class: tidegate.Misuse, Err: tidegate.ErrNotFound})
}
