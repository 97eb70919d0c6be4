package gating

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/drills/schedule"
	"github.com/tidegate/tidegate/gating/registry"
)

// What a schedule has rehearsed: a clone, with what is live only read. Higher levels move
// what is live, and are begun by people.
const drillLevel, drillScenario = "L1", "shadow-promote"

// SetDrillSchedule implements OperatorService.
func (s *operatorService) SetDrillSchedule(ctx context.Context, req *connect.Request[pb.SetDrillScheduleRequest]) (*connect.Response[pb.SetDrillScheduleResponse], error) {
	const op = "set drill schedule"
	m := req.Msg
	policy := schedule.Default()
	if m.GetSchedule() != nil {
		policy = schedulePolicy(m.GetSchedule())
	}
	table, err := schedule.New(policy)
	if err != nil {
		return nil, misuse(op, m.GetService(), err)
	}
	err = s.change(ctx, func() error {
		v, svc, _, err := s.ofService(ctx, op, m.GetService(), "")
		if err != nil || m.GetDryRun() {
			return err
		}
		name := svc.Value.Name
		old, key := v.Schedules[name], registry.ScheduleKey(name)
		if reflect.DeepEqual(old.Value.InForce(), policy) && (old.Value.Policy == nil) == (m.GetSchedule() == nil) {
			return nil // what is due and overdue by it stays so
		}
		next, now := old.Value, s.world.clock.Wall().UTC()
		next.Policy, next.State = nil, schedule.State{Since: now, Taken: now}
		if d, err := s.due(v, name, nil); err == nil && d.Overdue {
			next.State.Since = old.Value.State.Since // it is not drilled by that
		}
		if m.GetSchedule() != nil {
			next.Policy = &policy
		}
		e := s.entry(ctx, ActionDrillSchedule, name, m.GetReason(), fact("schedule", "%s -> %s", policyText(old.Value.InForce()), policyText(policy)))
		_, err = s.store.Commit(ctx, new(registry.Tx).Unchanged(registry.ServiceKey(name), svc.Revision).Unchanged(key, old.Revision).Put(key, next).Audit(e))
		return err
	})
	if err != nil {
		return nil, err
	}
	out := &pb.SetDrillScheduleResponse{Schedule: scheduleMessage(policy)}
	for _, o := range table.Next(m.GetService(), s.world.clock.Wall(), occurrencesShown) {
		out.Next = append(out.Next, occurrenceMessage(table, o))
	}
	if !m.GetDryRun() {
		s.log.Info("drill schedule set", "service", m.GetService(), "schedule", policyText(policy), "actor", actor(ctx))
	}
	return connect.NewResponse(out), nil
}

// occurrencesShown is how many occurrences an operator is shown.
const occurrencesShown = 5

// policyText is a policy on one line.
func policyText(p schedule.Policy) string {
	if p.Off {
		return "off"
	}
	out := fmt.Sprintf("%s %s, jitter %s, %s", p.Cron, p.Zone, p.Jitter, p.Missed)
	if p.Missed == schedule.RunOnce {
		out += fmt.Sprintf(" within %s", p.Grace)
	}
	out += fmt.Sprintf(", settle %s", p.Settle)
	if blocked := slices.Concat(p.Blocked, p.Dates); len(blocked) > 0 {
		out += ", blocked " + strings.Join(blocked, ", ")
	}
	return out
}

// TakeDrill implements OperatorService. Only the leader knows whether a drill may begin.
func (s *operatorService) TakeDrill(ctx context.Context, req *connect.Request[pb.TakeDrillRequest]) (*connect.Response[pb.TakeDrillResponse], error) {
	const op = "take drill"
	m := req.Msg
	if m.GetWorker() == "" || !slices.Contains(m.GetLevels(), drillLevel) {
		return nil, misuse(op, m.GetService(), fmt.Errorf("want the worker's name, and level %s among those that it can do (got %q, %v)", drillLevel, m.GetWorker(), m.GetLevels()))
	}
	lead := s.control.leadership()
	if lead == nil {
		return nil, s.control.notLeading(ctx, op, m.GetService())
	}
	out := &pb.TakeDrillResponse{}
	err := s.change(ctx, func() error {
		v, svc, _, err := s.ofService(ctx, op, m.GetService(), "")
		if err != nil {
			return err
		}
		s.world.setView(v)
		name := svc.Value.Name
		s.rehearsals.askedBy(name, m.GetWorker(), s.world.clock.Boot())
		old, key := v.Schedules[name], registry.ScheduleKey(name)
		if c := old.Value.Claim; c != nil && s.unanswered(*c, m.GetWorker()) {
			s.rehearsals.hear(c.ID, "", s.world.clock.Boot())
			out.Claim = s.claimMessage(name, *c)
			return nil
		}
		d, err := s.due(v, name, s.control.against(v, name))
		if err != nil {
			return err
		}
		if out.Why = d.Why; !d.Begin {
			return nil
		}
		claim := registry.Claim{
			ID: tidegate.NewID().String(), Worker: m.GetWorker(), Level: drillLevel, Scenario: drillScenario,
			Occurrence: d.At.At, Since: s.world.clock.Wall().UTC(), Newest: newestReport(v.Drills[name].Value, drillLevel, drillScenario).ID,
		}
		next := old.Value
		next.State, next.Claim = d.State.Begun(d.At.At), &claim
		e := s.entry(ctx, ActionDrillTake, name, "", fact("worker", "%s", claim.Worker), fact("claim", "%s", claim.ID), fact("level", "%s", claim.Level),
			fact("occurrence", "%s", claim.Occurrence.UTC().Format(time.RFC3339)), fact("try", "%d", next.State.Tries))
		s.rehearsals.hear(claim.ID, "", s.world.clock.Boot())
		_, err = s.store.Commit(ctx, new(registry.Tx).Leading(lead).Unchanged(registry.ServiceKey(name), svc.Revision).Unchanged(key, old.Revision).Put(key, next).Audit(e))
		if err == nil {
			out.Claim = s.claimMessage(name, claim)
			s.log.Info("drill taken", "service", name, "worker", claim.Worker, "claim", claim.ID, "occurrence", claim.Occurrence)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(out), nil
}

// unanswered reports whether a worker asks again that has just been given a claim: it has
// said nothing of it, so the answer was lost, with the gate that gave it perhaps.
func (s *operatorService) unanswered(c registry.Claim, worker string) bool {
	fresh := s.world.clock.Wall().Sub(c.Since) < s.silence
	return c.Worker == worker && c.Abort == nil && fresh && s.rehearsals.of(c.ID, s.world.clock.Boot()).step == ""
}

// ReportDrill implements OperatorService. The leader counts how long a worker is silent.
func (s *operatorService) ReportDrill(ctx context.Context, req *connect.Request[pb.ReportDrillRequest]) (*connect.Response[pb.ReportDrillResponse], error) {
	const op = "report drill"
	m := req.Msg
	if !s.control.leads() {
		return nil, s.control.notLeading(ctx, op, m.GetService())
	}
	name := tidegate.ServiceName(m.GetService())
	v, _, _ := s.world.current()
	claim := v.Schedules[name].Value.Claim
	if claim == nil || claim.ID != m.GetClaim() { // it may have been given just now
		read, _, _, err := s.ofService(ctx, op, m.GetService(), "")
		if err != nil {
			return nil, err
		}
		v, claim = read, read.Schedules[name].Value.Claim
	}
	if claim == nil || claim.ID != m.GetClaim() {
		why := "it is not this worker's any more"
		if e := v.Schedules[name].Value.Ended; e != nil && e.Claim == m.GetClaim() {
			why += ": " + e.Why
		}
		return connect.NewResponse(&pb.ReportDrillResponse{Abort: true, Reason: why}), nil
	}
	s.rehearsals.hear(claim.ID, m.GetStep(), s.world.clock.Boot())
	out := &pb.ReportDrillResponse{}
	if a := claim.Abort; a != nil {
		out.Abort, out.Reason = true, fmt.Sprintf("%s: %s", a.Actor, a.Reason)
	} else if h := s.control.runningPlan(name); h != nil && moves(h.kind) {
		out.Abort, out.Reason = true, fmt.Sprintf("%s %s is under way", h.kind, h.id)
	} else {
		why := s.control.bare(v, name)
		if lasts := s.rehearsals.bareFor(claim.ID, len(why) > 0, s.world.clock.Boot()); lasts >= 2*s.control.silence { // a new leader knows nothing at first
			out.Abort, out.Reason = true, fmt.Sprintf("for %s: %s", lasts.Round(time.Millisecond), strings.Join(why, "; "))
		}
	}
	return connect.NewResponse(out), nil
}

// EndDrill implements OperatorService. Any gate may be told: it is the registry that knows.
func (s *operatorService) EndDrill(ctx context.Context, req *connect.Request[pb.EndDrillRequest]) (*connect.Response[pb.EndDrillResponse], error) {
	const op = "end drill"
	m := req.Msg
	verdict := slices.Contains(verdicts, m.GetOutcome())
	if !verdict && m.GetOutcome() != drillInterrupted && m.GetOutcome() != drillRefused {
		return nil, misuse(op, m.GetService(), fmt.Errorf("outcome %q: want one of %v, %s or %s", m.GetOutcome(), verdicts, drillInterrupted, drillRefused))
	}
	out := &pb.EndDrillResponse{}
	err := s.change(ctx, func() error {
		v, svc, _, err := s.ofService(ctx, op, m.GetService(), "")
		if err != nil {
			return err
		}
		name := svc.Value.Name
		old, key := v.Schedules[name], registry.ScheduleKey(name)
		claim := old.Value.Claim
		if claim == nil || claim.ID != m.GetClaim() {
			e := old.Value.Ended // the answer to the first may have been lost
			out.Held = e != nil && e.Claim == m.GetClaim() && e.Outcome == m.GetOutcome() && e.Why == m.GetWhy()
			return nil
		}
		now := s.world.clock.Wall().UTC()
		end := registry.DrillEnd{Occurrence: claim.Occurrence, Outcome: m.GetOutcome(), Why: m.GetWhy(), At: now, Worker: claim.Worker, Claim: claim.ID}
		report, known := onRecord(v.Drills[name].Value, *claim, m.GetReport())
		if known && report.Outcome != m.GetOutcome() {
			return misuse(op, m.GetService(), fmt.Errorf("outcome %q: report %s, which is on record, says %s", m.GetOutcome(), report.ID, report.Outcome))
		}
		verdict := verdict && known
		next := old.Value.Finish(end, verdict)
		if !verdict && claim.Abort == nil {
			next.State = next.State.Undone(now)
		}
		e := s.drillEntry(ctx, ActionDrillEnd, name, end)
		if m.GetReport() != "" {
			e.Detail = append(e.Detail, fact("report", "%s", m.GetReport()))
		}
		_, err = s.store.Commit(ctx, new(registry.Tx).Unchanged(registry.ServiceKey(name), svc.Revision).Unchanged(key, old.Revision).Put(key, next).Audit(e))
		out.Held = err == nil
		return err
	})
	if err != nil {
		return nil, err
	}
	s.log.Info("drill ended", "service", m.GetService(), "claim", m.GetClaim(), "outcome", m.GetOutcome(), "held", out.GetHeld())
	return connect.NewResponse(out), nil
}

// onRecord returns the report that a claim ended with: of its kind the newest on record, or
// that of its chain, where somebody else's ended later. It was not on record when the claim
// was given.
func onRecord(d registry.Drills, c registry.Claim, id string) (r registry.Drill, known bool) {
	want := registry.Drill{Level: c.Level, Scenario: c.Scenario}
	for _, r := range append(slices.Collect(maps.Values(d.Heads())), newestReport(d, c.Level, c.Scenario)) {
		if id != "" && r.ID == id && r.ID != c.Newest && r.Kind() == want.Kind() {
			return r, true
		}
	}
	return r, false
}

// newestReport is the newest on record of a level and scenario; its zero value: there is none.
func newestReport(d registry.Drills, level, scenario string) registry.Drill {
	kind := registry.Drill{Level: level, Scenario: scenario}
	return d.ByLevel()[kind.Kind()].Last
}

// AbortDrill implements OperatorService.
func (s *operatorService) AbortDrill(ctx context.Context, req *connect.Request[pb.AbortDrillRequest]) (*connect.Response[pb.AbortDrillResponse], error) {
	const op = "abort drill"
	m := req.Msg
	if m.GetReason() == "" {
		return nil, misuse(op, m.GetService(), errors.New("want a reason"))
	}
	out := &pb.AbortDrillResponse{}
	err := s.change(ctx, func() error {
		v, svc, _, err := s.ofService(ctx, op, m.GetService(), "")
		if err != nil {
			return err
		}
		name := svc.Value.Name
		old, key := v.Schedules[name], registry.ScheduleKey(name)
		if old.Value.Claim == nil {
			return &tidegate.Error{
				Op: op, Subject: m.GetService(), Class: tidegate.Refused, Err: errors.New("no worker has taken a drill of it"),
				Hint: "one that was begun by hand is called off where it runs, by ^C",
			}
		}
		next, claim := old.Value, *old.Value.Claim
		next.Claim = &claim
		defer func() { out.Drill = s.runningMessage(next) }()
		if claim.Abort != nil {
			return nil // it is known
		}
		claim.Abort = &registry.DrillAbort{Actor: actor(ctx), Reason: m.GetReason(), At: s.world.clock.Wall().UTC()}
		e := s.entry(ctx, ActionDrillAbort, name, m.GetReason(), fact("worker", "%s", claim.Worker), fact("claim", "%s", claim.ID))
		_, err = s.store.Commit(ctx, new(registry.Tx).Unchanged(registry.ServiceKey(name), svc.Revision).Unchanged(key, old.Revision).Put(key, next).Audit(e))
		return err
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(out), nil
}
