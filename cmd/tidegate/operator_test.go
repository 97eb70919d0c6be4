package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/gating"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/pki"
)

// fakeGate answers with what a test gives it.
type fakeGate struct {
	tidegatev1connect.UnimplementedOperatorServiceHandler
	status   *pb.StatusResponse
	change   func(*pb.ChangeRoleRequest, *connect.ServerStream[pb.ChangeRoleResponse]) error
	added    *pb.AddStreamRequest
	findings []*pb.Finding
	explain  *pb.GateExplainResponse
	gaps     []*pb.GapView

	noGap     bool // there is none to accept
	reports   func([]byte) (gating.DrillReport, error)
	noService bool // Status knows no service
	asked     any  // newest request that the test may look at
	desk      drillDesk
}

func (g *fakeGate) Status(_ context.Context, r *connect.Request[pb.StatusRequest]) (*connect.Response[pb.StatusResponse], error) {
	if g.noService {
		return nil, notFound(r.Msg.GetService())
	}
	if g.status == nil {
		return nil, api.Error(&tidegate.Error{Op: "status", Class: tidegate.Transient, Err: errors.New("not yet")})
	}
	return connect.NewResponse(g.status), nil
}

func (g *fakeGate) AddStream(_ context.Context, r *connect.Request[pb.AddStreamRequest]) (*connect.Response[pb.AddStreamResponse], error) {
	g.added = r.Msg
	return connect.NewResponse(&pb.AddStreamResponse{Stream: &pb.StreamView{Id: "id"}}), nil
}

func (g *fakeGate) Doctor(context.Context, *connect.Request[pb.DoctorRequest]) (*connect.Response[pb.DoctorResponse], error) {
	return connect.NewResponse(&pb.DoctorResponse{Findings: g.findings}), nil
}

func (g *fakeGate) ChangeRole(_ context.Context, r *connect.Request[pb.ChangeRoleRequest], s *connect.ServerStream[pb.ChangeRoleResponse]) error {
	return g.change(r.Msg, s)
}

// commandLine serves g over mutual TLS and returns a function that runs the
// program against it; the first gate of its file does not answer.
func commandLine(t *testing.T, g *fakeGate) func(args ...string) (code cli.Code, stdout, stderr string) {
	t.Helper()
	return commandLineWith(t, g, nil)
}

// commandLineWith is commandLine with somebody who types; nil is nobody.
func commandLineWith(t *testing.T, g *fakeGate, stdin io.Reader) func(args ...string) (code cli.Code, stdout, stderr string) {
	t.Helper()
	dir, gates, files := serveGate(t, g, tidegate.RoleOperator)
	config := filepath.Join(dir, "operator.yaml")
	text := fmt.Sprintf("gates: [%q, %q]\ntls: {ca: %s, cert: %s, key: %s}\n", gates[0], gates[1], files.CA, files.Cert, files.Key)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(args ...string) (cli.Code, string, string) {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), append(append([]string{"tidegate"}, args...), "-c", config), stdin, &stdout, &stderr)
		return cli.Code(code), stdout.String(), stderr.String()
	}
}

// serveGate serves g over mutual TLS to one role, and returns a folder, two addresses of
// which the first does not answer, and the files of a certificate of that role.
func serveGate(t *testing.T, g *fakeGate, role tidegate.Role) (dir string, gates []string, files pki.Files) {
	t.Helper()
	dir = t.TempDir()
	authority, err := pki.Dev(dir, "demo")
	if err != nil {
		t.Fatal(err)
	}
	creds, err := authority.Credentials(tidegate.Identity{Cluster: "demo", Site: "west", Role: tidegate.RoleGate, Name: "g1"})
	if err != nil {
		t.Fatal(err)
	}
	if files, err = authority.Issue(tidegate.Identity{Cluster: "demo", Site: "west", Role: role, Name: "ada"}, nil, time.Hour); err != nil {
		t.Fatal(err)
	}
	_, handler := tidegatev1connect.NewOperatorServiceHandler(g)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", creds.ServerTLS(role))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() { server.Close(); serving.Wait() })

	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	return dir, []string{closed.Addr().String(), listener.Addr().String()}, files
}

func ptr[T any](v T) *T { return &v }

func exampleArchive() *pb.StandbyArchive {
	return &pb.StandbyArchive{Archivist: true, ArchivedSeq: ptr[uint64](39), Behind: durationpb.New(3 * time.Second), BehindBytes: ptr[uint64](2048)}
}

func exampleStatus() *pb.StatusResponse {
	return &pb.StatusResponse{
		Cluster: "demo", Verdict: pb.Verdict_VERDICT_AT_RISK, Reasons: []string{"bank/main: 2 of 3 members count"}, RegistryReachable: true,
		Services: []*pb.ServiceStatus{{
			Name: "bank", Verdict: pb.Verdict_VERDICT_AT_RISK, Reasons: []string{"main: 2 of 3 members count"},
			Rpo: durationpb.New(2 * time.Second), Rto: durationpb.New(time.Minute), RtoPredicted: durationpb.New(4300 * time.Millisecond),
			LossIfNow: &pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_ZERO, Why: "sync and armed"},
			Route:     &pb.Route{Epoch: 3, Endpoints: []string{"n1:8080"}, Site: "east"},
			Streams: []*pb.StreamStatus{{
				View: &pb.StreamView{
					Id: "s1", Name: "main", Mode: pb.Mode_MODE_SYNC, W: 2,
					Epoch: &pb.EpochRecord{Epoch: 3, State: pb.EpochState_EPOCH_STATE_ACTIVE, Holder: &pb.Holder{Node: "n1"}, Gate: &pb.GateRecord{State: pb.GateState_GATE_STATE_ARMED}},
				},
				Archive: &pb.StreamArchive{State: pb.ArchiveState_ARCHIVE_STATE_UPLOADS, Node: "w1", Said: exampleArchive()},
				Verdict: pb.Verdict_VERDICT_AT_RISK, MembersCounted: 2, Members: make([]*pb.MemberStatus, 3), SiteRedundant: true,
				Writer: &pb.AgentStream{Exposure: &pb.Exposure{Records: ptr[int64](0), Bytes: ptr[int64](0), Age: durationpb.New(0)}},
			}},
		}},
		Standbys: []*pb.StandbyStatus{
			{
				Node: &pb.NodeView{Node: "w1", Site: "west"}, ReportAge: durationpb.New(300 * time.Millisecond),
				Report: &pb.ReportStandbyRequest{Streams: []*pb.StandbyStream{{StreamId: "s1", Durable: &pb.LogPos{Seq: 42}, CommitSeq: 41, AppliedSeq: ptr[uint64](40), Archive: exampleArchive()}}},
			},
			{Node: &pb.NodeView{Node: "w2", Site: "west"}},
		},
		Agents: []*pb.AgentStatus{
			{
				Node: "n1", Site: "east", ReportAge: durationpb.New(time.Second),
				Report: &pb.ReportAgentRequest{Streams: []*pb.AgentStream{{StreamId: "s1", Role: pb.AgentRole_AGENT_ROLE_WRITER, DurableSeq: 42}}},
			},
			{
				Node: "n2", Site: "east", ReportAge: durationpb.New(time.Second),
				Report: &pb.ReportAgentRequest{Streams: []*pb.AgentStream{{StreamId: "s1", Role: pb.AgentRole_AGENT_ROLE_OBSERVER}}},
			},
			{Node: "n3", Site: "east"},
		},
	}
}

func TestStatusAnswersInTheFirstLine(t *testing.T) {
	code, stdout, stderr := commandLine(t, &fakeGate{status: exampleStatus()})("status")
	if code != cli.OK || stderr != "" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	want := `AT RISK: bank/main: 2 of 3 members count

service bank  AT RISK: main: 2 of 3 members count
  rpo 2s, rto 1m0s (predicted 4.3s), a failover now: loses nothing acknowledged (sync and armed)
  served at n1:8080 (site east, epoch 3)
  drills: none on record
  STREAM  VERDICT  WRITER  EPOCH  MODE  GATE   EXPOSED     AGE  MEMBERS      ARCHIVE             NOTES
  main    AT RISK  n1      3      sync  armed  0 rec, 0 B  0s   2 of 3, w 2  3s, 2.0 KiB behind  -

ROLE     NODE  SITE  STREAM     STATE      DURABLE  COMMIT  APPLIED  ARCHIVED      SEEN
standby  w1    west  bank/main  receiving  42       41      40       39 (uploads)  300ms ago
standby  w2    west  -          no report  -        -       -        -             never
agent    n1    east  bank/main  writer     42       -       -        -             1s ago
agent    n2    east  bank/main  observer   -        -       -        -             1s ago
agent    n3    east  -          no report  -        -       -        -             never
`
	if diff := cmp.Diff(want, stdout); diff != "" {
		t.Error(diff)
	}
}

func TestStatusNeverPrintsZeroForUnknown(t *testing.T) {
	st := exampleStatus()
	st.Services[0].Streams[0].Writer = nil
	st.Services[0].RtoPredicted, st.Services[0].LossIfNow = nil, nil
	st.Services[0].Streams[0].UnderProtected, st.Services[0].Streams[0].SiteRedundant = true, false
	_, stdout, _ := commandLine(t, &fakeGate{status: st})("status")
	for _, want := range []string{"predicted unknown", "a failover now: loss unknown", "armed  unknown  unknown", "under-protected; site-redundant: no"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("stdout lacks %q:\n%s", want, stdout)
		}
	}
}

// TestStatusOfTheArchive: what no node has said is not "all", and not 0.
func TestStatusOfTheArchive(t *testing.T) {
	unknown := &pb.StandbyArchive{Archivist: true}
	all := &pb.StandbyArchive{Archivist: true, ArchivedSeq: ptr[uint64](41), Behind: durationpb.New(0), BehindBytes: ptr[uint64](0), Holes: 1}
	for _, tt := range []struct {
		a    *pb.StreamArchive
		want string
	}{
		{nil, "unknown"},
		{&pb.StreamArchive{State: pb.ArchiveState_ARCHIVE_STATE_NONE}, "none"},
		{&pb.StreamArchive{State: pb.ArchiveState_ARCHIVE_STATE_UPLOADS, Said: unknown}, "unknown"},
		{&pb.StreamArchive{State: pb.ArchiveState_ARCHIVE_STATE_UPLOADS, Said: all}, "all, 1 holes"},
		{&pb.StreamArchive{State: pb.ArchiveState_ARCHIVE_STATE_IDLE, Said: exampleArchive()}, "nobody uploads, 3s, 2.0 KiB behind"},
		{&pb.StreamArchive{State: pb.ArchiveState_ARCHIVE_STATE_FAILS, Said: &pb.StandbyArchive{Error: "gone"}}, "fails: gone"},
	} {
		if got := streamArchive(tt.a); got != tt.want {
			t.Errorf("%v: got %q, want %q", tt.a, got, tt.want)
		}
	}
	if got := archivedTo(unknown); got != "unknown (uploads)" {
		t.Errorf("a node that does not know: %q", got)
	}
}

func TestStatusExitCodes(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*pb.StatusResponse)
		want   cli.Code
	}{
		"at risk":     {func(*pb.StatusResponse) {}, cli.OK},
		"safe":        {func(s *pb.StatusResponse) { s.Verdict = pb.Verdict_VERDICT_SAFE }, cli.OK},
		"unsafe":      {func(s *pb.StatusResponse) { s.Verdict = pb.Verdict_VERDICT_UNSAFE }, cli.RPOBreached},
		"unknown":     {func(s *pb.StatusResponse) { s.Verdict = pb.Verdict_VERDICT_UNKNOWN }, cli.UnknownState},
		"unspecified": {func(s *pb.StatusResponse) { s.Verdict = 0 }, cli.UnknownState},
		"slow": {func(s *pb.StatusResponse) {
			s.Services[0].RtoPredicted = durationpb.New(2 * time.Minute)
		}, cli.RTOBreached},
		"slow and unsafe": {func(s *pb.StatusResponse) {
			s.Verdict, s.Services[0].RtoPredicted = pb.Verdict_VERDICT_UNSAFE, durationpb.New(2*time.Minute)
		}, cli.RPOBreached},
		"slow and unknown": {func(s *pb.StatusResponse) {
			s.Verdict, s.Services[0].RtoPredicted = pb.Verdict_VERDICT_UNKNOWN, durationpb.New(2*time.Minute)
		}, cli.UnknownState},
	} {
		t.Run(name, func(t *testing.T) {
			st := exampleStatus()
			tc.change(st)
			if got := statusCode(st); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}

func TestStatusAsJSON(t *testing.T) {
	_, stdout, _ := commandLine(t, &fakeGate{status: exampleStatus()})("status", "-o", "json")
	for _, want := range []string{`"verdict": "VERDICT_AT_RISK"`, `"durable": {`, `"registryReachable": true`} {
		if !strings.Contains(stdout, want) {
			t.Errorf("stdout lacks %q:\n%s", want, stdout)
		}
	}
}

func TestStreamsAddSendsWhatWasAsked(t *testing.T) {
	g := &fakeGate{}
	code, stdout, stderr := commandLine(t, g)("streams", "add", "bank/main", "--mode", "bounded", "--records", "100", "--bytes", "1MiB", "--window", "2s",
		"--member", "w1", "--member", "w2", "--member", "w3")
	if code != cli.OK || stdout != "stream bank/main added, id id\n" {
		t.Fatalf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	a := g.added
	if a.GetW() != 2 || a.GetBounds().GetRecords() != 100 || a.GetBounds().GetBytes() != 1<<20 || a.GetBounds().GetWindow().AsDuration() != 2*time.Second ||
		a.GetMode() != pb.Mode_MODE_BOUNDED || len(a.GetMembers()) != 3 || a.GetPolicy() != pb.GatePolicy_GATE_POLICY_BLOCK {
		t.Errorf("sent %v", a)
	}
}

func TestDoctorFindsGatesThatDoNotAnswer(t *testing.T) {
	g := &fakeGate{}
	code, stdout, stderr := commandLine(t, g)("doctor")
	if code != cli.OK || !strings.HasPrefix(stdout, "warning: gate 127.0.0.1:") || !strings.Contains(stdout, "does not answer") || !strings.Contains(stdout, "\n  next: ") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	g.findings = []*pb.Finding{{Severity: pb.Severity_SEVERITY_CRITICAL, Subject: "registry", Finding: "the registry does not answer", NextStep: "see the log"}}
	if code, stdout, _ := commandLine(t, g)("doctor"); code != cli.Failed || !strings.HasPrefix(stdout, "critical: registry: the registry does not answer\n  next: see the log\nwarning: gate ") {
		t.Errorf("exit code %d, stdout %q", code, stdout)
	}
}

func TestUnknownFormatDoesNothing(t *testing.T) {
	g := &fakeGate{}
	if code, _, _ := commandLine(t, g)("streams", "add", "bank/main", "--member", "w1", "-o", "xml"); code != cli.Usage || g.added != nil {
		t.Errorf("exit code %d, sent %v", code, g.added)
	}
}

// A frozen gate's connections are still accepted, by its kernel: it must count
// as one that does not answer, and not hold the command for ever.
func TestFrozenGateIsUnreachable(t *testing.T) {
	dir := t.TempDir()
	authority, err := pki.Dev(dir, "demo")
	if err != nil {
		t.Fatal(err)
	}
	files, err := authority.Issue(tidegate.Identity{Cluster: "demo", Site: "west", Role: tidegate.RoleOperator, Name: "ada"}, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	frozen, err := net.Listen("tcp", "127.0.0.1:0") // and never accepts
	if err != nil {
		t.Fatal(err)
	}
	defer frozen.Close()
	config := filepath.Join(dir, "operator.yaml")
	text := fmt.Sprintf("gates: [%q]\ntls: {ca: %s, cert: %s, key: %s}\n", frozen.Addr(), files.CA, files.Cert, files.Key)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, args := range [][]string{{"status", "-c", config}, {"failover", "-c", config, "--reason", "x", "bank"}} {
		var stdout, stderr bytes.Buffer
		code := run(ctx, append([]string{"tidegate"}, args...), nil, &stdout, &stderr)
		if cli.Code(code) != cli.Unreachable || !strings.Contains(stderr.String(), "hint: streams flow on") || ctx.Err() != nil {
			t.Errorf("%s: exit code %d, stderr %q", args[0], code, stderr.String())
		}
	}
}
