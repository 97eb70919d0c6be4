package shadow

import (
	"fmt"
	"time"

	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/judge"
	"github.com/tidegate/tidegate/drills/probe"
)

// Scenario is what an L1 drill plays.
const Scenario = "shadow-promote"

// phaseNames are all that a recovery has, in the order in which they come here: those of a
// real failover that a clone has not are not measured.
var phaseNames = []string{"detect", "decide", "fence", "lease", CatchUp.String(), Apply.String(), Promote.String(), Verify.String(), "re-route", "reconstitute"}

// noise is how far a phase may be off: how often the service says how far it is, or how
// often a canary is tried.
var noise = map[string]time.Duration{Apply.String(): 200 * time.Millisecond, Verify.String(): probe.CanaryEvery}

// Result is what came of a drill.
type Result struct {
	Report evidence.Report // without a verdict until it is judged

	refused     []string
	interrupted []string
	rto         time.Duration
}

// result writes down what came of it.
func (r *run) result() Result {
	d := r.d
	now := d.clk.Wall().UTC()
	id, err := evidence.NewID()
	if err != nil {
		r.lost = append(r.lost, evidence.Sentence(err))
	}
	out := Result{refused: r.refused, rto: d.cfg.Objectives.RTO, Report: evidence.Report{
		ID: id, Cluster: d.src.Identity().Cluster, Service: d.cfg.Service, Level: evidence.L1, Scenario: Scenario,
		Started: evidence.Moment{At: r.began.UTC()}, Ended: &now, Config: d.opts.Config,
		Ran:       evidence.Ran{Identity: d.src.Identity().String(), Host: d.opts.Host, Version: d.opts.Version},
		Gate:      d.src.Protection(),
		Backlog:   d.opts.chosen(),
		Lag:       r.lag.record(),
		Isolation: r.isolation, LeftOvers: r.leftOvers,
		Recovered: evidence.Recovered{},
	}}
	rep := &out.Report
	r.phases(rep)
	if o := d.cfg.Objectives.RTO; o > 0 {
		rep.Recovered.Objective = &o
	}
	if r.twin != nil {
		rep.Backlog.Records, rep.Backlog.Bytes = r.twin.backlog()
		rep.Streams, rep.Checks = r.twin.streams(), r.twin.content(r.appliedAll())
	}
	rep.Recovery = r.recoveryType()
	rep.Checks = append(append(append(rep.Checks, r.checks...), r.typing.checks...), r.lag.checks()...)
	if e, at := r.course.Ended(); e.Failed != "" {
		rep.Checks = append(rep.Checks, evidence.Check{Name: at.String(), Kind: "step", Wanted: "it comes to its end", Outcome: evidence.CheckFailed, Why: e.Failed})
	} else if e.Called != "" && len(r.refused) == 0 {
		out.interrupted = append(out.interrupted, fmt.Sprintf("%s, in step %s", e.Called, at))
	}
	for _, why := range r.lost {
		rep.Checks = append(rep.Checks, evidence.Check{Name: "teardown", Kind: "step", Wanted: "nothing is left", Outcome: evidence.CheckFailed, Why: why})
	}
	return out
}

// chosen is the backlog that was asked for.
func (o *Options) chosen() (b evidence.Backlog) {
	switch {
	case o.Backlog == nil:
	case o.Backlog.Bytes > 0:
		b.ChosenBytes = &o.Backlog.Bytes
	default:
		b.Chosen = &o.Backlog.Records
	}
	return b
}

func (r *run) phases(rep *evidence.Report) {
	steps := map[string]Step{}
	for s := CatchUp; s <= Verify; s++ {
		steps[s.String()] = s
	}
	for _, name := range phaseNames {
		p := evidence.Phase{Name: name, Absent: !ofClone(name)}
		if off, is := noise[name]; is {
			p.Noise = &off
		}
		if s, here := steps[name]; here {
			if took, known := r.course.Phase(s); known {
				p.Took = &took
			}
		}
		rep.Phases = append(rep.Phases, p)
	}
	if rta, known := r.course.RTA(); known {
		rep.Recovered.Actual = &rta
	}
}

// appliedAll reports whether the clone has everything up to the cut.
func (r *run) appliedAll() bool {
	_, known := r.course.Phase(Apply)
	return known
}

// ofClone reports whether a clone has a phase.
func ofClone(name string) bool {
	for s := CatchUp; s <= Verify; s++ {
		if s.String() == name {
			return true
		}
	}
	return false
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
	v := judge.Judge(now, runs, judge.Objectives{RTO: r.rto})
	r.Report.Conclude(v)
	return v
}
