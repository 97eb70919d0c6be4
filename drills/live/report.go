package live

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/judge"
)

// Result is what came of a drill.
type Result struct {
	Report evidence.Report // without a verdict until it is judged
	Next   string          // what the operator does now; empty: nothing

	refused     []string
	interrupted []string
	rto, rpo    time.Duration
}

// result writes down what came of it. Nothing of the run goes on any more.
func (r *run) result() Result {
	d, svc := r.d, r.sight.service(r.d.cfg.Service)
	first := r.witness[d.cfg.Service].first.service(d.cfg.Service)
	now := d.clk.Wall().UTC()
	out := Result{refused: r.refused, rto: d.cfg.Objectives.RTO, rpo: d.cfg.Objectives.RPO, Next: r.next(), Report: evidence.Report{
		ID: r.id, Cluster: d.ctl.Identity().Cluster, Service: d.cfg.Service, Level: d.opts.Level, Scenario: string(d.opts.Scenario),
		Started: evidence.Moment{At: r.began.UTC()}, Ended: &now, Config: d.opts.Config,
		Ran:       evidence.Ran{Identity: d.ctl.Identity().String(), Host: d.opts.Host, Version: d.opts.Version},
		Gate:      protection(first),
		Lag:       r.witness[d.cfg.Service].lag(),
		LeftOvers: r.leftOvers,
	}}
	if out.rto == 0 {
		out.rto = first.GetRto().AsDuration()
	}
	if out.rpo == 0 {
		out.rpo = first.GetRpo().AsDuration()
	}
	rep := &out.Report
	rep.Recovered.Objective, rep.Lost.Objective = objective(out.rto), objective(out.rpo)
	if first.GetRtoPredicted() != nil {
		rep.Recovered.Predicted = new(first.GetRtoPredicted().AsDuration())
	}
	rep.Backlog.Records = backlog(first, r.target())
	rep.Streams = streams(svc, r.there[d.cfg.Service])
	if _, begun := r.course.Begun(Inject); begun || r.fault != nil {
		r.measure(rep)
	} else {
		rep.Phases = r.phases()
	}
	r.ending(&out)
	return out
}

// ending adds what ended the drill, and what it left.
func (r *run) ending(out *Result) {
	rep := &out.Report
	step := func(name, wanted, why string) {
		rep.Checks = append(rep.Checks, evidence.Check{Name: name, Kind: "step", Wanted: wanted, Outcome: evidence.CheckFailed, Why: why})
	}
	if e, at := r.course.Ended(); e.Failed != "" {
		step(at.String(), "it comes to its end", e.Failed)
	} else if e.Called != "" && len(r.refused) == 0 {
		why := fmt.Sprintf("%s, in step %s", e.Called, at)
		if at <= Steady {
			out.refused = append(out.refused, why) // nothing was done
		} else {
			out.interrupted = append(out.interrupted, why)
		}
	}
	for _, c := range r.open {
		step("heal", "the fault is healed", fmt.Sprintf("the fault is still there: %s did not end well", c.Run))
	}
	for _, why := range r.lost {
		step("end", "nothing is left", why)
	}
}

func objective(d time.Duration) *time.Duration {
	if d <= 0 {
		return nil
	}
	return &d
}

// measure adds what was measured of a drill that has done something.
func (r *run) measure(rep *evidence.Report) {
	d := r.d
	rep.Phases = r.phases()
	rep.Recovered.Actual = r.rta()
	lost := r.tally.Lost(d.cfg.Service)
	if lost.Asked > 0 && lost.Unknown == 0 {
		rep.Lost.Actual, rep.Lost.Records = &lost.Span, new(int64(lost.Records))
	}
	for _, name := range r.services {
		rep.Checks = append(rep.Checks, r.canaries(name)...)
		w := r.witness[name]
		first := w.first.service(name)
		rpo := d.cfg.Objectives.RPO
		if rpo == 0 {
			rpo = first.GetRpo().AsDuration()
		}
		all := append(w.checks(r.wanted(name), r.cut()), judgeLoss(r.tally.Lost(name), protection(first).Mode, r.statement(name), rpo, name != d.cfg.Service)...)
		all = append(all, r.route(name)...)
		for _, c := range all {
			if len(r.services) > 1 {
				c.Name += " of " + string(name)
			}
			rep.Checks = append(rep.Checks, c)
		}
	}
	rep.Checks = append(append(rep.Checks, r.clients(rep)), r.checks...)
	if r.expect.Clients == Served && r.expect.Says == nil && !r.planned {
		rep.Checks = append(rep.Checks, r.faultSeen(rep))
	}
	rep.Checks = append(append(rep.Checks, r.harm()), r.asserts.checks()...)
}

// cut reports whether the drill was called off: what had not come then might have.
func (r *run) cut() bool {
	e, _ := r.course.Ended()
	return e.Called != ""
}

// wanted is what the gates must say of a service: of those beside the drill's own, that
// they are not called safe for nothing.
func (r *run) wanted(name tidegate.ServiceName) Expectation {
	e := r.expect
	e.FailsOver = e.FailsOver || r.planned
	if name != r.d.cfg.Service {
		e.Says = nil
	}
	return e
}

// rta is the time until clients were served: of a service that moved, from the fault on;
// of a fault that is ridden out, the longest that they had to wait.
func (r *run) rta() *time.Duration {
	if r.planned || r.expect.FailsOver {
		return between(r.onset(), r.serve)
	}
	if r.first == nil || r.whole == nil {
		return nil
	}
	if d, ok := r.tally.Pause(r.names(), *r.first, *r.whole); ok {
		return new(max(0, d-r.d.cfg.Every)) // between two canaries nobody waits
	}
	return nil
}

// onset is t0: when the last command of the fault began, or what was seen of the fault
// before; nil: there was none.
func (r *run) onset() *tidegate.Instant {
	if r.fault == nil {
		return nil
	}
	t0 := *r.fault
	if at, ok := r.tally.Failing(*r.first); ok {
		t0 = min(t0, at)
	}
	if r.notice != nil && *r.notice < t0 {
		t0 = *r.first
	}
	return &t0
}

// phases are those of this drill, in their order.
func (r *run) phases() []evidence.Phase {
	d := r.d
	noise := max(d.pace.look, d.cfg.Every)
	if !r.planned && !r.expect.FailsOver {
		var heal *tidegate.Instant
		if at, ok := r.course.Begun(Heal); ok {
			heal = &at
		}
		return Ridden(r.onset(), r.notice, heal, r.whole, r.expect.Says != nil, noise)
	}
	verifies := r.witness[r.d.cfg.Service].first.service(r.d.cfg.Service).GetProbe().GetVerify()
	m, plan := Moments{Fault: r.onset(), Notice: r.notice, Serve: r.serve, Whole: r.whole}, (*pb.Plan)(nil)
	if there := r.there[r.d.cfg.Service]; there != nil {
		m.Decide, plan = there.decided, there.plan
	}
	if !r.planned {
		return Phases(m, plan, false, verifies, noise)
	}
	b := Moments{Whole: r.whole}
	var backPlan *pb.Plan
	if r.back != nil {
		b.Fault, b.Decide, b.Serve, backPlan = &r.back.asked, r.back.decided, r.back.served, r.back.plan
		m.Whole = nil
	}
	all := Phases(m, plan, true, verifies, noise)
	all[len(all)-1] = evidence.Phase{Name: phaseReconstitute, Absent: true} // on the way back
	return append(all, wayBack(Phases(b, backPlan, true, verifies, noise))...)
}

// canaries are the checks that each was accepted after the fault or the change.
func (r *run) canaries(name tidegate.ServiceName) (out []evidence.Check) {
	since, known := tidegate.Instant(0), false
	if m := r.there[name]; m != nil && m.returned != nil {
		since, known = m.active(), true
	} else if at, begun := r.course.Begun(Whole); begun && !r.expect.FailsOver && !r.planned {
		since, known = at, true
	}
	for _, k := range r.d.cfg.Canaries {
		if k.Service != name {
			continue
		}
		c := evidence.Check{Name: k.Name, Kind: "canary", Wanted: k.Write.Wanted(), Outcome: evidence.CheckPassed}
		at, ok := r.tally.Served([]string{k.Name}, since)
		switch {
		case !known, !ok && r.cut():
			c.Outcome, c.Why = evidence.CheckUnknown, "the drill ended before it could be accepted"
		case !ok:
			c.Outcome, c.Why = evidence.CheckFailed, "none was accepted: "+r.tally.LastFailure()
		case r.fault != nil:
			c.Took = new(max(0, time.Duration(at-*r.onset())))
		}
		out = append(out, c)
	}
	return out
}

// clients is whether clients noticed no more than they may.
func (r *run) clients(rep *evidence.Report) evidence.Check {
	c := evidence.Check{Name: "clients", Kind: "canary", Wanted: "the longest time without an accepted canary", Outcome: evidence.CheckPassed}
	served := !r.planned && !r.expect.FailsOver && r.expect.Clients == Served
	if served {
		c.Wanted = fmt.Sprintf("no canary waits for more than %s", r.d.cfg.Pause)
	}
	until := r.d.clk.Boot()
	if r.whole != nil {
		until = *r.whole
	}
	pause, ok := time.Duration(0), false
	if r.first != nil {
		pause, ok = r.tally.Pause(r.names(), *r.first, until)
	}
	tried, accepted := r.tally.Counts()
	switch {
	case !ok:
		c.Outcome, c.Why = evidence.CheckUnknown, "it was not measured"
	case rep.Recovered.Actual == nil && rep.Recovered.Objective != nil && pause > *rep.Recovered.Objective:
		c.Outcome, c.Why = evidence.CheckFailed, fmt.Sprintf("clients were not served for at least %s, and the RTO is %s: %s", pause.Round(time.Millisecond), rep.Recovered.Objective, r.tally.LastFailure())
	case served && pause > r.d.cfg.Pause:
		c.Outcome, c.Why = evidence.CheckFailed, fmt.Sprintf("clients were not served for %s: %s", pause.Round(time.Millisecond), r.tally.LastFailure())
	}
	if ok {
		c.Got = new(fmt.Sprintf("%s; %d of %d canaries were accepted", pause.Round(time.Millisecond), accepted, tried))
	}
	return c
}

// faultSeen is whether a fault that gates need not name was there: one of which nothing is
// measured may have been none.
func (r *run) faultSeen(rep *evidence.Report) evidence.Check {
	c := evidence.Check{Name: "fault-seen", Kind: "canary", Wanted: "canaries take longer than before, or exposure is older", Outcome: evidence.CheckUnknown}
	heal, begun := r.course.Begun(Heal)
	if r.fault == nil || !begun {
		c.Why = "the fault was not there to its end"
		return c
	}
	began, _ := r.course.Begun(Steady)
	was, is := r.tally.Latency(began, *r.first), r.tally.Latency(*r.fault, heal)
	c.Got = new(fmt.Sprintf("canaries took %s, and %s before; exposure was %s old, and %s before", text(is), text(was), text(rep.Lag.During.Median), text(rep.Lag.Before.Median)))
	if c.Outcome = evidence.CheckPassed; !grew(was, is) && !grew(rep.Lag.Before.Median, rep.Lag.During.Median) {
		c.Outcome, c.Why = evidence.CheckUnknown, *c.Got+": whether there was a fault is not known"
	}
	return c
}

// What is called longer than before: by half as much again, and by more than looks are off.
const seenLeast = 10 * time.Millisecond

func grew(was, is *time.Duration) bool {
	return was != nil && is != nil && *is-*was >= max(seenLeast, *was/2)
}

func text(d *time.Duration) string {
	if d == nil {
		return "unknown"
	}
	return d.Round(time.Millisecond).String()
}

// harm is what came of the blocking assertion, and of the service afterwards.
func (r *run) harm() evidence.Check {
	c := evidence.Check{
		Name: "harm", Kind: evidence.KindHarm, Outcome: evidence.CheckPassed,
		Wanted: fmt.Sprintf("canaries are refused for less than %s, and protection comes back", r.d.cfg.Refused),
	}
	switch {
	case r.harmed != "":
		c.Outcome, c.Why = evidence.CheckFailed, r.harmed
	case len(r.open) > 0:
		c.Outcome, c.Why = evidence.CheckFailed, "the fault is not healed"
	case r.whole == nil:
		c.Outcome, c.Why = evidence.CheckUnknown, "protection had not come back when the drill ended"
	}
	return c
}

// statement is the weakest that the gate has claimed of what the changes lost; nil: no
// writer changed.
func (r *run) statement(name tidegate.ServiceName) *pb.LossStatement {
	m := r.there[name]
	if m == nil || m.plan == nil {
		return nil
	}
	s := m.plan.GetLoss()
	if r.back != nil && r.back.plan.GetLoss().GetKind() > s.GetKind() {
		s = r.back.plan.GetLoss()
	}
	if s == nil {
		s = &pb.LossStatement{Why: "its record has none"}
	}
	return s
}

// route is whether every route to a service that moved follows its newest epoch.
func (r *run) route(name tidegate.ServiceName) []evidence.Check {
	svc := r.sight.service(name)
	if r.there[name] == nil || svc == nil {
		return nil
	}
	c := evidence.Check{Name: "routes", Kind: "gate", Wanted: "every route leads to the writer", Outcome: evidence.CheckPassed}
	_, site := writer(svc)
	n := 0
	for _, route := range r.sight.Status.GetRoutes() {
		for _, to := range route.GetServices() {
			if to.GetService() != string(name) {
				continue
			}
			if n++; to.GetEpoch() < svc.GetRoute().GetEpoch() {
				c.Outcome, c.Why = evidence.CheckFailed, fmt.Sprintf("route %s follows epoch %d, and %d is the newest", route.GetName(), to.GetEpoch(), svc.GetRoute().GetEpoch())
			}
		}
	}
	switch {
	case site == "" || svc.GetRoute() == nil || n == 0:
		c.Outcome, c.Why = evidence.CheckUnknown, "the gate does not say where routes lead"
	case svc.GetRoute().GetSite() != site:
		c.Outcome, c.Why = evidence.CheckFailed, fmt.Sprintf("clients are sent to %s, and %s writes", svc.GetRoute().GetSite(), site)
	default:
		c.Got = new(fmt.Sprintf("%d routes lead to %s", n, site))
	}
	return []evidence.Check{c}
}

// target is the node that the service moved to; empty: none is known.
func (r *run) target() string {
	if m := r.there[r.d.cfg.Service]; m != nil {
		return m.plan.GetTarget().GetNode()
	}
	return r.d.cfg.Target
}

// next is what the operator does now.
func (r *run) next() string {
	svc := string(r.d.cfg.Service)
	if len(r.open) > 0 {
		return "the fault is still there: heal it by hand, then remove " + r.state.note
	}
	m := r.there[r.d.cfg.Service]
	if m == nil || m.plan == nil {
		return ""
	}
	if p := m.plan; p.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_DONE {
		return fmt.Sprintf("`tidegate plan show %s` says how far the change of role is", p.GetId())
	}
	if r.back != nil && r.back.plan.GetOutcome() == pb.PlanOutcome_PLAN_OUTCOME_DONE {
		return ""
	}
	return fmt.Sprintf("%s is active on %s now; when %s follows: `tidegate failback %s --to %s --reason \"after drill %s\"`",
		svc, m.plan.GetTarget().GetNode(), r.home, svc, r.home, r.id)
}

// protection is how strictly a service's gate is armed; what is not the same of all
// streams has no one answer.
func protection(svc *pb.ServiceStatus) (out evidence.Gate) {
	for i, x := range svc.GetStreams() {
		rec := x.GetView().GetEpoch().GetGate()
		mode := api.Mode(rec.GetMode())
		bounds, err := api.Bounds(rec.GetBounds())
		if i > 0 && (out.Mode == nil || *out.Mode != mode) {
			return evidence.Gate{}
		}
		out.Mode = &mode
		if err == nil && mode == tidegate.ModeBounded && (i == 0 || out.Bounds != nil && *out.Bounds == bounds) {
			out.Bounds = &bounds
		} else {
			out.Bounds = nil
		}
	}
	return out
}

// backlog is what a node had still to apply before the drill; nil: it does not say.
func backlog(svc *pb.ServiceStatus, node string) *int64 {
	if node == "" {
		return nil
	}
	sum := int64(0)
	for _, x := range svc.GetStreams() {
		i := slices.IndexFunc(x.GetMembers(), func(m *pb.MemberStatus) bool { return m.GetNode() == node })
		if i < 0 || x.GetMembers()[i].GetStream().ApplyLagRecords == nil {
			return nil
		}
		sum += x.GetMembers()[i].GetStream().GetApplyLagRecords()
	}
	return &sum
}

// streams are those of the service, with the cut of the change of role where there was one.
func streams(svc *pb.ServiceStatus, m *movement) (out []evidence.Stream) {
	for _, x := range svc.GetStreams() {
		v := x.GetView()
		id, err := tidegate.ParseID(v.GetId())
		if err != nil {
			continue // no stream of ours
		}
		s := evidence.Stream{ID: id, Name: tidegate.StreamName(v.GetName()), Store: v.GetStore()}
		if m != nil {
			for _, p := range m.plan.GetStreams() {
				if p.GetStreamId() == v.GetId() && p.GetHead() != nil {
					s.CutSeq = new(tidegate.Seq(p.GetHead().GetSeq()))
				}
			}
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b evidence.Stream) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Judge gives the report its verdict, by itself and against the reports before it.
func (r *Result) Judge(history []evidence.Report) judge.Verdict {
	now := r.Report.Judged()
	now.Refused, now.Interrupted = r.refused, r.interrupted
	runs := make([]judge.Run, 0, len(history))
	for i := range history {
		if history[i].Level == r.Report.Level {
			runs = append(runs, history[i].Judged())
		}
	}
	v := judge.Judge(now, runs, judge.Objectives{RTO: r.rto, RPO: r.rpo})
	r.Report.Conclude(v)
	return v
}
