package gating

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/detect"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/internal/clock"
)

// What changes the tables while the detector begins a failover may be the operator
// who switches it off.
func TestDetectorWavers(t *testing.T) {
	t.Parallel()
	l := newLookout("west")
	l.world = newWorld(clock.System())
	if why := l.wavers("ledger", detect.Settings{Mode: detect.Auto}); !strings.Contains(why, "does not lead") {
		t.Errorf("nothing watched: %q", why)
	}
	w := &watched{verdict: detect.Verdict{State: detect.Down}}
	l.watched["ledger"] = w
	for _, m := range []detect.Mode{detect.Off, detect.Observe} {
		if why := l.wavers("ledger", detect.Settings{Mode: m}); !strings.Contains(why, string(m)) {
			t.Errorf("mode %s: %q", m, why)
		}
	}
	if why := l.wavers("ledger", detect.Settings{Mode: detect.Auto}); why != "" {
		t.Errorf("nothing changed: %q", why)
	}
	if w.verdict.State = detect.Up; l.wavers("ledger", detect.Settings{Mode: detect.Auto}) == "" {
		t.Error("the primary is up again, and the failover is begun")
	}
}

func TestWhichPlanGivesWay(t *testing.T) {
	t.Parallel()
	to := func(n tidegate.NodeName) fence.Holder { return fence.Holder{Node: n} }
	plan := func(k fence.PlanKind, n tidegate.NodeName) fence.Plan { return fence.Plan{Kind: k, Target: to(n)} }
	for _, c := range []struct {
		name  string
		step  fence.PlanStep
		rec   planRecord
		yield bool
	}{
		{"another failover before the epoch is open", fence.StepAdopt, planRecord{plan: plan(fence.KindFailover, "w2"), named: true}, false},
		{"to a named target while the first one applies", fence.StepApply, planRecord{plan: plan(fence.KindFailover, "w2"), named: true}, true},
		{"while routes are waited for", fence.StepRoute, planRecord{plan: plan(fence.KindFailover, "w2"), named: true}, true},
		{"to whatever is best", fence.StepApply, planRecord{plan: plan(fence.KindFailover, "w2")}, false},
		{"to the same target", fence.StepApply, planRecord{plan: plan(fence.KindFailover, "w1"), named: true}, false},
		{"a start while it applies", fence.StepApply, planRecord{plan: plan(fence.KindAcquire, "w1")}, false},
		{"a start once it is done", fence.StepDone, planRecord{plan: plan(fence.KindAcquire, "w1")}, true},
		{"a planned change once it is done", fence.StepDone, planRecord{plan: plan(fence.KindSwitchover, "w2")}, true},
	} {
		p := plan(fence.KindFailover, "w1")
		p.Step = c.step
		if got := yields(newHandle(p, &pb.Plan{}), c.rec); got != c.yield {
			t.Errorf("%s: gives way %t, want %t", c.name, got, c.yield)
		}
	}
}

// A failover that waits for its first good write is done, whatever goes before it;
// and the new writer may start again meanwhile.
func TestAStartDoesNotWaitForTheFirstWrite(t *testing.T) {
	t.Parallel()
	s := newSite(t, "w1", "w2", "w3")
	nobody := httptest.NewServer(http.NotFoundHandler())
	nobody.Close()
	s.startGate("gate-a", nil, func(c *Config) {
		c.Probes = []ProbeConfig{{Service: "ledger", Every: 100 * time.Millisecond, Timeout: time.Second, Settings: section(t, "url: "+nobody.URL)}}
	})
	s.register()
	ids := s.addStreams(pb.Mode_MODE_SYNC, nil)
	s.agent("e1", "east")
	for n := range s.nodes {
		s.agent(n, "west")
	}
	s.mustAcquire("e1", "east")
	s.report()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := s.operator(tidegate.RoleOperator).ChangeRole(ctx, connect.NewRequest(&pb.ChangeRoleRequest{
		Service: "ledger", Kind: pb.PlanKind_PLAN_KIND_FAILOVER, Target: "w1",
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	s.eventually("a plan that is done", func() error {
		if p := s.plans()[0]; p.GetKind() != pb.PlanKind_PLAN_KIND_FAILOVER || p.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_DONE {
			return fmt.Errorf("%v", p)
		}
		return nil
	})
	done := s.plans()[0].GetId()
	began := time.Now()
	s.agent("w1", "west") // the service's agent starts again
	s.mustAcquire("w1", "west")
	if took := time.Since(began); took > firstWriteMax/2 {
		t.Errorf("the start waited for %s", took)
	}
	if rec := s.records(ids)["a"]; rec.Epoch != 3 || rec.Holder.UUID != s.agents["w1"] {
		t.Errorf("record %+v", rec)
	}
	for _, p := range s.plans() {
		if p.GetId() == done && p.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_DONE {
			t.Errorf("the failover was done, and is shown as %s", p.GetOutcome())
		}
	}
}

// A plan that was written down and not begun, by a gate that then told whoever had
// asked that it failed, is not taken up by whatever gate leads some day.
func TestAnOldPlanThatDidNothingIsNotTakenUp(t *testing.T) {
	t.Parallel()
	s, ids, _ := ready(t, pb.Mode_MODE_SYNC, nil)
	s.gate.stop()
	p := fence.Plan{
		ID: newPlanID(time.Now()), Service: "ledger", Kind: fence.KindFailover, Target: fence.Holder{Node: "w1", Site: "west", UUID: s.agents["w1"]},
		Force: true, AcceptLoss: true, Shrink: true, Step: fence.StepDecide, Actor: "operator/yesterday",
	}
	for _, name := range []string{"a", "b"} {
		p.Streams = append(p.Streams, fence.StreamPlan{Stream: ids[name], Name: tidegate.StreamName(name)})
	}
	s.editRegistry(func(store *registry.Store) error {
		rec := planRecord{plan: p, view: newView(p, "gate-a", time.Now().Add(-time.Hour))}
		_, err := store.Commit(t.Context(), new(registry.Tx).NewPlan(p.ID.String(), p.Service, rec))
		return err
	})
	s.startGate("gate-b", nil, nil)
	s.eventually("the plan's end", func() error {
		if got := s.plans()[0]; got.GetId() != p.ID.String() || got.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_SUPERSEDED || got.GetError() != errOutdated.Error() {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	if rec := s.records(ids)["a"]; rec.Epoch != 1 || rec.Holder.Node != "e1" {
		t.Errorf("record %+v", rec)
	}
	c := &controller{parts: parts{now: time.Now}}
	young := planRecord{plan: p, view: newView(p, "gate-a", time.Now())}
	for want, svc := range map[bool]registry.Service{true: {Frozen: true}, false: {}} {
		if got := c.outdated(young, svc); got != want {
			t.Errorf("frozen %t: outdated %t", svc.Frozen, got)
		}
	}
	if !c.outdated(young, registry.Service{Disarmed: true}) {
		t.Error("a failover is begun although the arm switch is off")
	}
}

// An agent speaks for itself, also where it names the right holder.
func TestAgentsSpeakForThemselves(t *testing.T) {
	t.Parallel()
	s, ids, recs := ready(t, pb.Mode_MODE_OPEN, nil)
	if _, err := s.operator(tidegate.RoleOperator).SetMode(t.Context(), connect.NewRequest(&pb.SetModeRequest{
		Service: "ledger", LeaseTtl: durationpb.New(time.Minute), SingleRegistry: true,
	})); err != nil {
		t.Fatal(err)
	}
	if _, err := s.renew("e1", recs); err != nil {
		t.Fatal(err)
	}
	s.agents["e9"] = s.agents["e1"]
	if _, err := s.renew("e9", recs); tidegate.ClassOf(err) != tidegate.Refused {
		t.Errorf("somebody else renewed the lease: %v", err)
	}
	e9 := s.node(tidegate.RoleAgent, "east", "e9")
	if _, err := e9.ReleaseLease(t.Context(), connect.NewRequest(&pb.ReleaseLeaseRequest{Service: "ledger", Node: "e9", Holder: s.agents["e1"].String()})); err != nil {
		t.Error(err)
	}
	s.editRegistry(func(store *registry.Store) error {
		if _, ok, err := store.GetLease(t.Context(), "ledger"); err != nil || !ok {
			t.Errorf("somebody else gave the lease back: %t, %v", ok, err)
		}
		return nil
	})
	req := &pb.HandOverRequest{Service: "ledger", Node: "e9", Holder: s.agents["e1"].String()}
	for _, id := range ids {
		h := fence.Handover{Head: tidegate.LogPos{Epoch: 1, Seq: 1}}
		req.Streams = append(req.Streams, &pb.StreamHandover{StreamId: id.String(), Epoch: 1, Handover: fencewire.HandoverMessage(&h)})
	}
	_, err := e9.HandOver(t.Context(), connect.NewRequest(req))
	if err = api.FromError("hand over", "", err); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("somebody else handed over: %v", err)
	}
	w, err := s.node(tidegate.RoleStandby, "west", "w1").Watch(t.Context(), connect.NewRequest(&pb.WatchRequest{
		Node: "w1", Kind: pb.NodeKind_NODE_KIND_AGENT, Site: "west", Holder: tidegate.NewID().String(),
	}))
	if err == nil {
		for w.Receive() {
			t.Fatal("a standby node watches as an agent")
		}
		err = w.Err()
		_ = w.Close()
	}
	if tidegate.ClassOf(api.FromError("watch", "", err)) != tidegate.Misuse {
		t.Errorf("a standby node as an agent: %v", err)
	}
}

// F1's stamp is from the clock of the gate that did it; how long has passed since
// is told by the clock of the one that waits.
func TestLeaseIsWaitedForOnOneClock(t *testing.T) {
	t.Parallel()
	s := newSite(t, "w1")
	const longest = time.Second
	s.editRegistry(func(store *registry.Store) error {
		r := &runner{parts: parts{store: store, now: time.Now}}
		plan := fence.Plan{Service: "ledger", Streams: []fence.StreamPlan{{Record: fence.EpochRecord{Inherited: true}}}}
		plan.Times.T2 = time.Now().Add(-time.Hour) // by a clock that is behind
		began := time.Now()
		if ev := r.awaitLease(t.Context(), plan, longest, began); ev == nil || time.Since(began) < longest {
			t.Errorf("%v after %s, want a lease's length", ev, time.Since(began))
		}
		return nil
	})
}

func TestATakeoverIsMeasuredToo(t *testing.T) {
	t.Parallel()
	s := newSite(t, "w1")
	id := tidegate.NewID()
	s.editRegistry(func(store *registry.Store) error {
		q := registry.Quarantine{Role: tidegate.RoleAgent, ID: "q", Node: "e1", Stream: id, WrittenEpoch: 1, CutEpoch: 2, Records: 7, ReleasedRecords: new(int64(3))}
		if _, err := store.Commit(t.Context(), new(registry.Tx).Put(registry.QuarantineKey(id, "e1-q"), q)); err != nil {
			return err
		}
		v := &pb.Plan{Kind: pb.PlanKind_PLAN_KIND_TAKEOVER, Streams: []*pb.PlanStream{{
			StreamId: id.String(), Epoch: 2, Loss: &pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_UNKNOWN},
		}}}
		if err := (parts{store: store}).measure(t.Context(), v); err != nil {
			return err
		}
		if m := v.GetStreams()[0].GetLoss().GetMeasured(); m == nil {
			t.Errorf("nothing is measured: %v", v)
		}
		return nil
	})
}

func TestStatusSaysWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	j := judgement{verdict: pb.Verdict_VERDICT_SAFE}
	judgeRegistry(&j, &registry.View{}, &pb.StatusResponse{})
	if j.verdict != pb.Verdict_VERDICT_UNKNOWN || strings.Contains(strings.Join(j.reasons, ""), "0s old") {
		t.Errorf("a registry that was never read: %s %q", j.verdict, j.reasons)
	}
	j = judgement{verdict: pb.Verdict_VERDICT_SAFE}
	judgeDetector(&j, &pb.DetectorStatus{Settings: &pb.DetectorSettings{Mode: pb.DetectorMode_DETECTOR_MODE_AUTO}, Verdict: pb.DetectorVerdict_DETECTOR_VERDICT_UNDECIDED, Reasons: []string{"no vantage point can tell"}})
	if j.verdict != pb.Verdict_VERDICT_AT_RISK || len(j.reasons) != 1 {
		t.Errorf("a detector that cannot tell: %s %q", j.verdict, j.reasons)
	}
}

// With too few members in force for W there is no configuration that the target
// could join: the failback has not been done, and does not say so.
func TestAFailbackThatCannotBeginIsRefused(t *testing.T) {
	t.Parallel()
	w, _, v := factual()
	for id, e := range v.Streams {
		e.Value.Members, e.Value.W = []tidegate.NodeName{"w1", "w2", "w3"}, 3
		v.Streams[id] = e
		rec := v.Epochs[id]
		rec.Value.Config = fence.Config{Members: rec.Value.Config.Members[:1], W: 1}
		v.Epochs[id] = rec
	}
	c := &controller{parts: parts{world: w, now: time.Now, timing: Timing{Stale: 5 * time.Second}}}
	ch := roleChange{question: question{service: "ledger", target: "w2"}, kind: pb.PlanKind_PLAN_KIND_FAILBACK}
	wanted, ok := c.joinFirst(v, ch)
	if !ok {
		t.Fatal("w2 counts already")
	}
	rec, err := c.joinPlan(t.Context(), v, ch, wanted, nil)
	if err != nil || !rec.plan.ID.IsZero() || !failing(rec.view.GetRules()) {
		t.Errorf("plan %s, rules %v, %v", rec.plan.ID, rec.view.GetRules(), err)
	}
}

// Every node of the old site reports the same tail; only the one that wrote last
// can know what of it was released, and what it knows counts.
func TestLastWriterSaysWhatWasReleased(t *testing.T) {
	t.Parallel()
	tail := func(n tidegate.NodeName, written tidegate.Epoch, records int64, released *int64) registry.Quarantine {
		return registry.Quarantine{
			Node: n, WrittenEpoch: written, CutEpoch: 5, First: 100, Next: 200, Records: records, Bytes: 100,
			ReleasedRecords: released, Reason: fence.ReasonDiverged,
		}
	}
	for _, c := range []struct {
		name     string
		found    []registry.Quarantine
		records  int64
		released int64
		known    bool
	}{
		{"an old writer does not know", []registry.Quarantine{tail("p2", 2, 8, nil), tail("p3", 4, 8, new(int64(3)))}, 8, 3, true},
		{"who only kept the log has more of it", []registry.Quarantine{tail("p2", 0, 9, nil), tail("p3", 4, 8, new(int64(0)))}, 9, 0, true},
		{"the last writer does not know", []registry.Quarantine{tail("p2", 2, 8, new(int64(0))), tail("p3", 4, 8, nil)}, 8, 0, false},
		{"an old writer knows of more", []registry.Quarantine{tail("p2", 2, 8, new(int64(7))), tail("p3", 4, 8, new(int64(3)))}, 8, 7, true},
		{"nobody knows who wrote", []registry.Quarantine{tail("p2", 0, 8, nil)}, 8, 0, false},
	} {
		m := measured(c.found, 5)
		if m.GetRecords() != c.records || m.GetReleasedKnown() != c.known || c.known && m.GetReleasedRecords() != c.released {
			t.Errorf("%s: %v", c.name, m)
		}
	}
}

// leading calls use with what a gate's runs share while it leads.
func (s *site) leading(use func(parts, *registry.Leadership) error) {
	s.t.Helper()
	s.editRegistry(func(store *registry.Store) error {
		lead, err := store.Campaign(s.t.Context(), "gate-a", 10*time.Second)
		if err != nil {
			return err
		}
		err = use(parts{
			name: "gate-a", log: slog.New(slog.DiscardHandler), store: store, ids: new(entryIDs), now: time.Now, timing: Timing{}.SetDefaults(),
		}, lead)
		return errors.Join(err, lead.Resign(s.t.Context()))
	})
}

// someSwitchover is a plan's record of which nothing is written yet.
func someSwitchover() planRecord {
	p := fence.Plan{
		ID: newPlanID(time.Now()), Service: "ledger", Kind: fence.KindSwitchover, Target: fence.Holder{Node: "w1", Site: "west", UUID: tidegate.NewID()},
		Actor: "operator/duel", Drain: time.Second, Streams: []fence.StreamPlan{{Stream: tidegate.NewID(), Name: "a"}},
	}
	return planRecord{plan: p, view: newView(p, "gate-a", time.Now())}
}

// A request to the registry that a run has given up on may arrive late: the record
// of a plan that gave way meanwhile stays as it is, and a plan whose request came
// first gives way all the same. Either way its end is on the audit trail.
func TestALateRequestDoesNotReviveAPlan(t *testing.T) {
	t.Parallel()
	s := newSite(t, "w1")
	for _, late := range []bool{true, false} {
		s.leading(func(shared parts, lead *registry.Leadership) error {
			rec := someSwitchover()
			id := rec.plan.ID.String()
			at, err := shared.store.Commit(t.Context(), new(registry.Tx).Leading(lead).NewPlan(id, rec.plan.Service, rec))
			if err != nil {
				return err
			}
			rec.at = at
			request, err := newRunner(shared, lead, rec)
			if err != nil {
				return err
			}
			giving, err := newRunner(shared, lead, rec)
			if err != nil {
				return err
			}
			arrive := func() bool {
				ev, err := request.txn(t.Context(), fence.Txn{Plan: rec.plan, Step: fence.StepDrain})
				if err != nil {
					t.Error(err)
					return false
				}
				return ev.(fence.TxnDone).Committed
			}
			if !late && !arrive() {
				t.Error("the request was not carried out")
			}
			if err := giving.giveUp(t.Context(), errPreempted); err != nil {
				return err
			}
			if late && arrive() {
				t.Error("a late request was carried out")
			}
			var got planRecord
			if _, err := shared.store.Get(t.Context(), registry.PlanKey(id), &got); err != nil {
				return err
			}
			if !got.plan.Finished() || got.view.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_SUPERSEDED {
				t.Errorf("late %t: the plan has no end: %v", late, got.view)
			}
			ends, _, err := shared.store.AuditFrom(t.Context(), "", 10, func(e registry.AuditEntry) bool {
				return e.Action == ActionPlanEnd && slices.Contains(e.Detail, fact("plan", "%s", id))
			})
			if err != nil || len(ends) != 1 || ends[0].Outcome != "superseded" {
				t.Errorf("late %t: on the audit trail: %v, %v", late, ends, err)
			}
			return nil
		})
	}
}

// A plan whose first record was not confirmed has an end on record, whether it
// had been written or not.
func TestAnUnconfirmedPlanGetsAnEnd(t *testing.T) {
	t.Parallel()
	s := newSite(t, "w1")
	s.leading(func(shared parts, lead *registry.Leadership) error {
		rec := someSwitchover()
		first := new(registry.Tx).Leading(lead).NewPlan(rec.plan.ID.String(), rec.plan.Service, rec)
		r, err := newRunner(shared, lead, rec)
		if err != nil {
			return err
		}
		if err := r.giveUp(t.Context(), errUnconfirmed); err != nil {
			return err
		}
		if _, err := shared.store.Commit(t.Context(), first); !errors.Is(err, tidegate.ErrConflict) {
			t.Errorf("the first record arrived after the end: %v", err)
		}
		recs, err := shared.plans(t.Context(), "ledger", "", 1)
		if err != nil || len(recs) != 1 || recs[0].view.GetError() != errUnconfirmed.Error() {
			t.Errorf("%v, %v", recs, err)
		}
		return nil
	})
}
