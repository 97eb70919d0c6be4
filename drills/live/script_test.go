package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/judge"
	"github.com/tidegate/tidegate/drills/probe"
	"github.com/tidegate/tidegate/drills/shadow"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
)

// world is a service behind a route, real as far as HTTP goes, and gates that say what a
// script wants: which no real gate does on demand. The real ones are in internal/lab.
// A fault is a file, which the drill's own commands make and remove.
type world struct {
	t      *testing.T
	dir    string
	server *httptest.Server

	mu         sync.Mutex
	now        *pb.StatusResponse
	kept       map[string]bool // canaries
	accepted   int
	loses      func(n int) bool            // whether the nth accepted canary is not kept
	answers    func(read bool) int         // status of an answer; 0: as usual
	silent     map[string]string           // gates that give no answer
	onFault    func(*pb.StatusResponse)    // what the fault makes of what gates say
	refuses    []*pb.RuleVerdict           // what a change of role is refused by
	refusals   int                         // how often, besides rehearsals; below 0: always
	loss       *pb.LossStatement           // that is claimed
	running    string                      // a plan
	outcome    pb.PlanOutcome              // of changes
	asked      []*pb.ChangeRoleRequest     // that were no rehearsals
	plans      map[string]*pb.Plan         // by id
	onChange   func(*pb.ChangeRoleRequest) // called when it begins
	loseAnswer bool                        // of a change that was made
	survives   bool                        // the service is served while there is a fault
	before     string                      // what standing finds; empty: nothing
	looks      int
}

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, dir: t.TempDir(), kept: map[string]bool{}, plans: map[string]*pb.Plan{}, outcome: pb.PlanOutcome_PLAN_OUTCOME_DONE,
		loss: &pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_ZERO}, now: &pb.StatusResponse{RegistryReachable: true, Leader: "g1"},
	}
	w.add("bank", "p1", "east", tidegate.ModeSync)
	w.server = httptest.NewServer(w)
	t.Cleanup(w.server.Close)
	return w
}

// add has a service that is protected as it should be.
func (w *world) add(name, node, site string, mode tidegate.Mode) {
	w.now.Services = append(w.now.Services, &pb.ServiceStatus{
		Name: name, Verdict: pb.Verdict_VERDICT_SAFE, Rto: durationpb.New(time.Minute), Rpo: durationpb.New(time.Minute), RtoPredicted: durationpb.New(time.Second),
		Probe: &pb.ProbeStatus{Enabled: true, Good: true}, Route: &pb.Route{Site: site, Epoch: 1},
		Streams: []*pb.StreamStatus{{
			Verdict: pb.Verdict_VERDICT_SAFE, MembersCounted: 2, WriterReportAge: durationpb.New(0),
			Members: []*pb.MemberStatus{{Node: "d1", Stream: &pb.StandbyStream{ApplyLagRecords: new(int64(5))}}},
			View: &pb.StreamView{
				Id: tidegate.StreamID{1}.String(), Name: "eur", Store: "journal", W: 2,
				Epoch: &pb.EpochRecord{
					Holder: &pb.Holder{Node: node, Site: site}, State: pb.EpochState_EPOCH_STATE_ACTIVE, ActiveEpoch: 1,
					Gate: &pb.GateRecord{State: pb.GateState_GATE_STATE_ARMED, Mode: api.ModeMessage(mode)},
				},
			},
			Writer: &pb.AgentStream{Exposure: &pb.Exposure{Records: new(int64), Bytes: new(int64), Age: durationpb.New(0)}},
		}},
	})
	w.now.Routes = append(w.now.Routes, &pb.RouteStatus{Name: "r1", Services: []*pb.RouteApplied{{Service: name, Epoch: 1}}})
}

func (w *world) file(name string) string { return filepath.Join(w.dir, name) }

func (w *world) faulty() bool {
	_, err := os.Stat(w.file("fault"))
	return err == nil
}

// ServeHTTP is the service: POST keeps a canary, GET has it or not.
func (w *world) ServeHTTP(res http.ResponseWriter, req *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	number := strings.TrimPrefix(req.URL.Path, "/")
	node, _ := writer(w.now.GetServices()[0])
	read := req.Method == http.MethodGet
	status := http.StatusOK
	switch {
	case w.faulty() && node == "p1" && !w.survives:
		status = http.StatusServiceUnavailable
	case w.answers != nil && w.answers(read) != 0:
		status = w.answers(read)
	case !read:
		if w.accepted++; w.loses == nil || !w.loses(w.accepted) {
			w.kept[number] = true
		}
	case !w.kept[number]:
		status = http.StatusNotFound
	}
	res.WriteHeader(status)
	_, _ = io.WriteString(res, "it is "+number)
}

// Look implements [Control].
func (w *world) Look(context.Context) Sight {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.faulty() && w.onFault != nil {
		if node, _ := writer(w.now.GetServices()[0]); node == "p1" {
			changed := clone(w.now)
			w.onFault(changed)
			return Sight{Status: changed, Findings: w.standing(), Silent: w.silent}
		}
	}
	return Sight{Status: clone(w.now), Findings: w.standing(), Silent: w.silent}
}

// standing is what the doctor found before any drill, and finds in other words each time.
func (w *world) standing() []*pb.Finding {
	if w.before == "" {
		return nil
	}
	w.looks++
	return []*pb.Finding{{Subject: "standby d2", Severity: pb.Severity_SEVERITY_WARNING, Finding: fmt.Sprintf("%s %d s", w.before, w.looks)}}
}

// Change implements [Control].
func (w *world) Change(ctx context.Context, req *pb.ChangeRoleRequest, saw func(*pb.Plan, *pb.PlanStep)) (*pb.Plan, error) {
	w.mu.Lock()
	refused := len(w.refuses) > 0
	if !req.GetDryRun() {
		w.asked = append(w.asked, req)
		refused = w.refusals != 0
		w.refusals = max(w.refusals-1, min(w.refusals, 0))
	}
	onChange := w.onChange
	w.mu.Unlock()
	if refused {
		return nil, &tidegate.Error{Op: "change", Class: tidegate.Refused, Err: &api.RulesError{Rules: w.refuses}}
	}
	target := &pb.Holder{Node: req.GetTarget(), Site: "west"}
	if target.GetNode() == "" {
		target.Node = "d1"
	}
	if target.GetNode() == "p1" {
		target.Site = "east"
	}
	p := &pb.Plan{Id: fmt.Sprintf("plan-%d", len(w.plans)+1), Reason: req.GetReason(), Service: req.GetService(), Kind: req.GetKind(), Target: target, Loss: w.loss, Outcome: pb.PlanOutcome_PLAN_OUTCOME_RUNNING}
	if req.GetDryRun() {
		p.Steps = []*pb.PlanStep{{Name: "F1 reserve the next epoch", Expected: durationpb.New(time.Millisecond)}}
		return p, nil
	}
	if onChange != nil {
		onChange(req)
	}
	if ctx.Err() != nil { // who asked has gone: nobody follows the plan
		return nil, &tidegate.Error{Op: "change", Class: tidegate.Transient, Err: ctx.Err()}
	}
	if w.loseAnswer {
		saw = func(*pb.Plan, *pb.PlanStep) {}
	}
	saw(p, nil)
	for _, name := range []string{"F1 reserve the next epoch", "F6 activate"} {
		saw(nil, &pb.PlanStep{Name: name, State: "done"})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.outcome == pb.PlanOutcome_PLAN_OUTCOME_DONE {
		for i, svc := range w.now.GetServices() {
			if svc.GetName() == req.GetService() {
				svc.Streams[0].View.Epoch.Holder = target
				svc.Route = &pb.Route{Site: target.GetSite(), Epoch: svc.GetRoute().GetEpoch() + 1}
				w.now.Routes[i].Services[0].Epoch++
			}
		}
	}
	p.Outcome, p.Phases = w.outcome, &pb.Phases{}
	for _, name := range append(byGate[:len(byGate)-1:len(byGate)-1], phaseReconstitute) {
		p.Phases.Phases = append(p.Phases.Phases, &pb.Phase{Name: name, Took: durationpb.New(0)})
	}
	w.plans[p.GetId()] = p
	if w.loseAnswer {
		return nil, &tidegate.Error{Op: "change", Class: tidegate.Transient, Err: errors.New("connection lost")}
	}
	return p, nil
}

// Plan implements [Control].
func (w *world) Plan(_ context.Context, id string) (*pb.Plan, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.plans[id], nil
}

// Made implements [Control].
func (w *world) Made(_ context.Context, req *pb.ChangeRoleRequest, before string) (*pb.Plan, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var newest []*pb.Plan
	for i := len(w.plans); i > 0; i-- {
		newest = append(newest, w.plans[fmt.Sprintf("plan-%d", i)])
	}
	return madeBy(req, newest, before), nil
}

// Running implements [Control].
func (w *world) Running(context.Context, tidegate.ServiceName) (string, error) { return w.running, nil }

// Identity implements [Control].
func (w *world) Identity() tidegate.Identity {
	return tidegate.Identity{Cluster: "lab", Site: "north", Role: tidegate.RoleOperator, Name: "ada"}
}

// config is a file's, with short times.
func (w *world) config() Config {
	url := w.server.URL + "/{canary}"
	fault := Fault{Inject: []Command{{Run: []string{"/bin/touch", w.file("fault")}}}, Heal: []Command{{Run: []string{"/bin/rm", "-f", w.file("fault")}}}}
	c := Config{
		Service: "bank", Every: 10 * time.Millisecond, Steady: 30 * time.Millisecond, Notice: 10 * time.Second, Change: 10 * time.Second, Hold: 30 * time.Millisecond,
		Whole: 10 * time.Second, Refused: 10 * time.Second,
		Operator: Operator{Gates: []string{"g1.example:7412"}},
		Canaries: []Canary{{Canary: probe.Canary{
			Name: "open", Write: probe.Ask{HTTP: &probe.HTTP{Method: http.MethodPost, URL: url}}, Read: probe.Ask{HTTP: &probe.HTTP{URL: url, Contains: "{canary}"}},
		}}},
		Checks:   []probe.Check{{Name: "wet", Ask: probe.Ask{Command: &probe.Command{Run: []string{"/bin/true"}}}}},
		Faults:   map[Scenario]Fault{},
		Evidence: shadow.Evidence{Directory: w.file("evidence"), Key: w.file("key")}.SetDefaults(),
	}
	for _, s := range Scenarios() {
		c.Faults[s] = fault
	}
	return c
}

// drill makes one that hurries.
func (w *world) drill(cfg Config, level evidence.Level, scenario Scenario) *Drill {
	d := New(vfs.OS(), clock.System(), w, cfg.SetDefaults(), Options{Level: level, Scenario: scenario, Limit: time.Minute})
	d.pace = pace{look: 5 * time.Millisecond, ask: 5 * time.Millisecond, lookup: time.Millisecond, heal: time.Millisecond}
	return d
}

// play runs one and judges it. What it leaves behind must not be a fault.
func (w *world) play(ctx context.Context, cfg Config, level evidence.Level, scenario Scenario) (Result, judge.Verdict) {
	w.t.Helper()
	out := w.drill(cfg, level, scenario).Run(ctx)
	v := out.Judge(nil)
	sealable := out.Report
	sealable.Number = 1
	if _, err := sealable.Encode(); err != nil {
		w.t.Errorf("its report is none: %v", err)
	}
	return out, v
}
