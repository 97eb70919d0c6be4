package gating

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/drills/schedule"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
)

// schedule puts a schedule on record whose newest occurrence was in the minute of at.
func (s *site) schedule(at time.Time, edit func(*registry.Schedule)) {
	s.t.Helper()
	key := registry.ScheduleKey("ledger")
	policy := schedule.Default()
	policy.Cron, policy.Jitter, policy.Settle = fmt.Sprintf("%d * * * *", at.UTC().Minute()), 0, 0
	s.eventually("the schedule to be set", func() (err error) {
		s.editRegistry(func(store *registry.Store) error {
			var old registry.Schedule
			rev, gerr := store.Get(s.t.Context(), key, &old)
			next := registry.Schedule{Policy: &policy, State: schedule.State{Since: at.Add(-2 * time.Hour).UTC()}, Took: old.Took}
			if edit != nil {
				edit(&next)
			}
			_, err = store.Commit(s.t.Context(), new(registry.Tx).Unchanged(key, rev).Put(key, next))
			return gerr
		})
		return err
	})
}

// guarded has the service ledger protected, its writer at e1.
func (s *site) guarded() (report func()) {
	s.t.Helper()
	s.register()
	s.addStreams(pb.Mode_MODE_SYNC, nil)
	s.agent("e1", "east")
	recs := s.mustAcquire("e1", "east")
	return func() {
		s.report()
		if _, err := s.node(tidegate.RoleAgent, "east", "e1").ReportAgent(s.t.Context(), connect.NewRequest(s.writerReport("e1", recs))); err != nil {
			s.t.Fatal(err)
		}
	}
}

// writerReport is what a writer says that has nothing exposed.
func (s *site) writerReport(node tidegate.NodeName, recs []fence.EpochRecord) *pb.ReportAgentRequest {
	req := &pb.ReportAgentRequest{Node: string(node), Site: "east", Holder: s.agents[node].String()}
	for _, r := range recs {
		st := &pb.AgentStream{
			StreamId: r.Stream.String(), Role: pb.AgentRole_AGENT_ROLE_WRITER, Epoch: 1, Blocked: s.blocked,
			Exposure: &pb.Exposure{Records: new(int64(0)), Bytes: new(int64(0)), Age: durationpb.New(0)},
		}
		for _, m := range r.Config.Members {
			st.Members = append(st.Members, &pb.AgentMember{Node: string(m.Node), Counted: true})
		}
		req.Streams = append(req.Streams, st)
	}
	return req
}

// TestScheduledDrills takes drills from real gates: two workers, two gates, one service.
func TestScheduledDrills(t *testing.T) {
	t.Parallel()
	s := newSite(t, "w1", "w2", "w3")
	s.reports = func(b []byte) (r DrillReport, err error) { return r, json.Unmarshal(b, &r) }
	edit := func(c *Config) { c.Drills.Silence = 700 * time.Millisecond }
	first := s.startGate("gate-a", nil, edit)
	report := s.guarded()
	take := func(worker string) (*pb.DrillClaim, string) {
		t.Helper()
		var got *pb.TakeDrillResponse
		s.eventually("a leader to answer", func() error {
			report()
			r, err := s.operator(tidegate.RoleDrill).TakeDrill(t.Context(), connect.NewRequest(&pb.TakeDrillRequest{Service: "ledger", Worker: worker, Levels: []string{"L1"}}))
			if err == nil {
				got = r.Msg
			}
			return err
		})
		return got.GetClaim(), got.GetWhy()
	}
	taken := func(worker string) *pb.DrillClaim {
		t.Helper()
		var claim *pb.DrillClaim
		s.eventually("the drill to be due", func() error {
			var why string
			if claim, why = take(worker); claim == nil {
				return errors.New(why)
			}
			return nil
		})
		return claim
	}
	tell := func(claim *pb.DrillClaim, step string) (*pb.ReportDrillResponse, error) {
		r, err := s.operator(tidegate.RoleDrill).ReportDrill(t.Context(), connect.NewRequest(&pb.ReportDrillRequest{Service: "ledger", Claim: claim.GetId(), Step: step}))
		if err != nil {
			return nil, err
		}
		return r.Msg, nil
	}
	end := func(claim *pb.DrillClaim, outcome string) bool {
		t.Helper()
		r, err := s.operator(tidegate.RoleDrill).EndDrill(t.Context(), connect.NewRequest(&pb.EndDrillRequest{Service: "ledger", Claim: claim.GetId(), Outcome: outcome, Why: "a test", Report: "r1"}))
		if err != nil {
			t.Fatal(err)
		}
		return r.Msg.GetHeld()
	}
	status := func(want string, ok func(*pb.ServiceDrills) bool) {
		t.Helper()
		s.eventually(want, func() error {
			r, err := s.operator(tidegate.RoleOperator).DrillStatus(t.Context(), connect.NewRequest(&pb.DrillStatusRequest{Service: "ledger"}))
			if err == nil && !ok(r.Msg.GetServices()[0]) {
				err = errors.New(r.Msg.GetServices()[0].String())
			}
			return err
		})
	}

	lately := time.Now().Add(-time.Minute)
	// A service that nobody has protected yet is not drilled, and its schedule is the default.
	status("the default to stand", func(d *pb.ServiceDrills) bool {
		return d.GetByDefault() && d.Overdue != nil && !d.GetOverdue() && d.GetNext() != nil
	})
	s.schedule(lately, nil)
	s.eventually("the gate to say what is against a drill", func() error {
		r, err := s.operator(tidegate.RoleDrill).TakeDrill(t.Context(), connect.NewRequest(&pb.TakeDrillRequest{Service: "ledger", Worker: "one", Levels: []string{"L1"}}))
		if err == nil && (r.Msg.GetClaim() != nil || !strings.Contains(r.Msg.GetWhy(), "not protected")) {
			err = errors.New(r.Msg.String())
		}
		return err
	})

	// One worker takes it, and nobody else; the next leader goes on with that.
	claim := taken("one")
	if other, why := take("two"); other != nil || why != "a drill runs" {
		t.Fatalf("taken twice: %v, %q", other, why)
	}
	if again, why := take("one"); again.GetId() != claim.GetId() {
		t.Fatalf("a worker that the answer was lost to got %v, %q", again, why)
	}
	prepares := func() {
		t.Helper()
		if r, err := tell(claim, "prepare"); err != nil || r.GetAbort() {
			t.Fatal(r, err)
		}
	}
	prepares()
	if again, why := take("one"); again != nil || why != "a drill runs" {
		t.Fatalf("a worker that reports was given %v, %q", again, why)
	}
	prepares()
	status("the drill to run", func(d *pb.ServiceDrills) bool { return d.GetRunning().GetStep() == "prepare" && d.GetWorker() == "one" })
	s.eventually("its metrics", func() error {
		if lines := s.scrape(); !slices.Contains(lines, `tidegate_gate_drill_running{service="ledger"} 1`) || !slices.Contains(lines, `tidegate_gate_drill_overdue{service="ledger"} 0`) {
			return errors.New("not exported")
		}
		return nil
	})
	first.stop()
	s.startGate("gate-b", nil, edit)
	s.eventually("the next leader to know of it", func() error {
		r, err := tell(claim, "apply")
		if err == nil && r.GetAbort() {
			t.Fatalf("called off by a change of leader: %s", r.GetReason())
		}
		return err
	})
	status("the drill to go on", func(d *pb.ServiceDrills) bool {
		return d.GetRunning().GetClaim() == claim.GetId() && d.GetRunning().GetStep() == "apply"
	})

	// An operator calls it off: it is not begun again.
	if _, err := s.operator(tidegate.RoleOperator).AbortDrill(t.Context(), connect.NewRequest(&pb.AbortDrillRequest{Service: "ledger", Reason: "month end"})); err != nil {
		t.Fatal(err)
	}
	s.eventually("the worker to be told", func() error {
		r, err := tell(claim, "apply")
		if err == nil && (!r.GetAbort() || !strings.Contains(r.GetReason(), "month end")) {
			err = errors.New("it is to go on")
		}
		return err
	})
	for range 2 { // the answer to the first may have been lost
		if !end(claim, "interrupted") {
			t.Fatal("the end of a drill that the worker has was not taken")
		}
	}
	if claim, why := take("one"); claim != nil || !strings.Contains(why, "none is due") {
		t.Fatalf("begun again: %v, %q", claim, why)
	}
	_, err := s.operator(tidegate.RoleOperator).AbortDrill(t.Context(), connect.NewRequest(&pb.AbortDrillRequest{Service: "ledger", Reason: "month end"}))
	if tidegate.ClassOf(api.FromError("abort", "ledger", err)) != tidegate.Refused {
		t.Fatalf("nothing to call off: %v", err)
	}

	// None begins while clients wait for the standby site, and one that runs is called off
	// when that lasts.
	s.schedule(lately, nil)
	s.blocked = true
	s.eventually("no drill to begin", func() error {
		if claim, why := take("one"); claim != nil || !strings.Contains(why, "the gate is closed") {
			return fmt.Errorf("%v, %q", claim, why)
		}
		return nil
	})
	s.blocked = false
	claim = taken("one")
	s.eventually("the worker to go on", func() error {
		report()
		r, err := tell(claim, "apply")
		if err == nil && r.GetAbort() {
			err = errors.New(r.GetReason())
		}
		return err
	})
	s.blocked = true
	s.eventually("the worker to be told that clients wait", func() error {
		report()
		r, err := tell(claim, "apply")
		if err == nil && (!r.GetAbort() || !strings.Contains(r.GetReason(), "the gate is closed")) {
			err = errors.New("it is to go on")
		}
		return err
	})
	s.blocked = false
	if !end(claim, "interrupted") {
		t.Fatal("the end of a drill that was called off was not taken")
	}

	// A worker that is killed loses its drill; one that was only paused finds it gone.
	s.schedule(lately, nil)
	lost := taken("one")
	status("the claim to lapse", func(d *pb.ServiceDrills) bool {
		return d.GetRunning() == nil && d.GetEnded().GetOutcome() == "interrupted" && strings.Contains(d.GetEnded().GetWhy(), "silent") && strings.Contains(d.GetWhy(), "next one comes at")
	})
	s.schedule(lately, func(n *registry.Schedule) {
		n.State.Taken, n.State.Tries, n.State.Again = lost.GetOccurrence().AsTime(), 1, time.Now().Add(-time.Second).UTC()
	})
	second := taken("two")
	if !second.GetOccurrence().AsTime().Equal(lost.GetOccurrence().AsTime()) || second.GetId() == lost.GetId() {
		t.Fatalf("%v after %v", second, lost)
	}
	if r, err := tell(lost, "verify"); err != nil || !r.GetAbort() {
		t.Fatal("a paused worker goes on", r, err)
	}
	if end(lost, "passed") {
		t.Fatal("a paused worker ended a drill that it had lost")
	}
	// A verdict counts once its report is on record.
	if !end(second, "passed") {
		t.Fatal("the drill of the second worker was not its own")
	}
	status("a verdict without its report not to count", func(d *pb.ServiceDrills) bool { return strings.Contains(d.GetWhy(), "next one comes at") })
	s.schedule(lately, nil)
	second = taken("two")
	report1, err := json.Marshal(DrillReport{
		Drill:   registry.Drill{ID: "r1", Number: 1, Level: "L1", Scenario: "shadow-promote", Outcome: "passed", Ended: lately.Add(-time.Hour), Hash: "aa"},
		Cluster: "demo", Service: "ledger",
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.operator(tidegate.RoleDrill).RecordDrill(t.Context(), connect.NewRequest(&pb.RecordDrillRequest{Envelope: report1})); err != nil {
		t.Fatal(err)
	}
	_, err = s.operator(tidegate.RoleDrill).EndDrill(t.Context(), connect.NewRequest(&pb.EndDrillRequest{Service: "ledger", Claim: second.GetId(), Outcome: "failed", Report: "r1"}))
	if tidegate.ClassOf(api.FromError("end", "ledger", err)) != tidegate.Misuse {
		t.Fatalf("a report that passed ended a drill that has failed: %v", err)
	}
	if !end(second, "passed") {
		t.Fatal("the drill of the second worker was not its own")
	}
	status("the drill to have ended", func(d *pb.ServiceDrills) bool {
		return d.GetRunning() == nil && d.GetEnded().GetOutcome() == "passed" && d.GetEnded().GetWorker() == "two" && !d.GetOverdue()
	})

	// One that nobody takes is missed, and overdue.
	s.schedule(lately.Add(-10*time.Minute), func(n *registry.Schedule) { n.Policy.Missed, n.Policy.Grace = schedule.Skip, 0 })
	status("the occurrence to be missed", func(d *pb.ServiceDrills) bool {
		return d.GetEnded().GetOutcome() == "missed" && d.GetOverdue() && d.GetPending() == nil
	})
	var acts []string
	for _, e := range s.audit("ledger", time.Time{}) {
		if strings.HasPrefix(e.GetAction(), "drill-") {
			acts = append(acts, strings.TrimPrefix(e.GetAction(), "drill-")+" "+e.GetOutcome())
		}
	}
	if got, want := strings.Join(acts, ", "), "take done, abort done, end done, take done, end done, take done, lapse done, take done, end done, take done, record done, end done, miss done"; got != want {
		t.Errorf("audit trail: %s\nwant: %s", got, want)
	}
}

// TestSetDrillSchedule: a schedule is refused with all its mistakes, tried without being
// set, set, and taken back.
func TestSetDrillSchedule(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.startGate("gate-a", nil, nil)
	op := s.operator(tidegate.RoleOperator)
	if _, err := op.AddService(t.Context(), connect.NewRequest(&pb.AddServiceRequest{Service: &pb.Service{Name: "ledger"}})); err != nil {
		t.Fatal(err)
	}
	want := &pb.DrillSchedule{
		Cron: "30 2 * * *", Zone: "Europe/Berlin", Jitter: durationpb.New(0), Missed: "run-once", Grace: durationpb.New(time.Hour), Settle: durationpb.New(0),
		Blocked: []string{"Mon-Fri 02:00-18:00"}, Dates: []string{"2026-12-24..2027-01-02"},
	}
	set := func(m *pb.DrillSchedule, dry bool) (*pb.SetDrillScheduleResponse, error) {
		r, err := op.SetDrillSchedule(t.Context(), connect.NewRequest(&pb.SetDrillScheduleRequest{Service: "ledger", Schedule: m, Reason: "a test", DryRun: dry}))
		if err != nil {
			return nil, api.FromError("set", "ledger", err)
		}
		return r.Msg, nil
	}
	is := func(cron string, byDefault bool) {
		t.Helper()
		s.eventually("the schedule "+cron, func() error {
			r, err := op.DrillStatus(t.Context(), connect.NewRequest(&pb.DrillStatusRequest{}))
			if err != nil {
				return err
			}
			if d := r.Msg.GetServices()[0]; d.GetSchedule().GetCron() != cron || d.GetByDefault() != byDefault || !strings.Contains(d.GetWhy(), "none is due") {
				return errors.New(d.String())
			}
			return nil
		})
	}
	_, err := set(&pb.DrillSchedule{Cron: "x", Zone: "y", Missed: "z"}, false)
	if tidegate.ClassOf(err) != tidegate.Misuse || !strings.Contains(err.Error(), "cron") || !strings.Contains(err.Error(), "zone") || !strings.Contains(err.Error(), "missed") {
		t.Fatalf("not all its mistakes: %v", err)
	}
	r, err := set(want, true)
	if err != nil || len(r.GetNext()) != 5 || r.GetNext()[0].GetDue().AsTime().Before(time.Now()) {
		t.Fatal(r, err)
	}
	blocked := 0
	for _, o := range r.GetNext() {
		if o.GetBlocked() != "" {
			blocked++
		}
	}
	if blocked < 3 { // of five days at least three are from Monday to Friday
		t.Errorf("%d of five blocked: %v", blocked, r.GetNext())
	}
	is(schedule.Default().Cron, true)
	for range 2 { // the second time changes nothing
		if _, err = set(want, false); err != nil {
			t.Fatal(err)
		}
	}
	is("30 2 * * *", false)
	if _, err = set(nil, false); err != nil {
		t.Fatal(err)
	}
	is(schedule.Default().Cron, true)
	if n := len(s.audit("ledger", time.Time{})); n != 4 { // the service, one that was refused, and two schedules
		t.Errorf("%d entries on the audit trail: %v", n, s.audit("ledger", time.Time{}))
	}
	_, err = s.operator(tidegate.RoleDrill).SetDrillSchedule(t.Context(), connect.NewRequest(&pb.SetDrillScheduleRequest{Service: "ledger"}))
	if tidegate.ClassOf(api.FromError("set", "ledger", err)) != tidegate.Refused {
		t.Fatalf("a drill sets the schedule: %v", err)
	}
	_, err = op.TakeDrill(t.Context(), connect.NewRequest(&pb.TakeDrillRequest{Service: "ledger", Worker: "alice", Levels: []string{"L1"}}))
	if tidegate.ClassOf(api.FromError("take", "ledger", err)) != tidegate.Refused {
		t.Fatalf("an operator's certificate takes a drill: %v", err)
	}
}
