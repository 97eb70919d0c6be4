package live

import (
	"context"
	"fmt"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/evidence"
)

// Plan is what a drill would do, and whether it may.
type Plan struct {
	Service   tidegate.ServiceName   `json:"service"`
	Services  []tidegate.ServiceName `json:"services"` // all that would be moved, or meet the fault
	Level     evidence.Level         `json:"level"`
	Scenario  Scenario               `json:"scenario"`
	Expected  string                 `json:"expected"` // what is expected of the service, and of the gates
	Refused   []string               `json:"refused"`  // why it would not start; none: it would
	Steps     []string               `json:"steps"`
	Writer    string                 `json:"writer"` // "": not known
	Target    string                 `json:"target"` // of the change of role; "": none, or not known
	Inject    [][]string             `json:"inject"`
	Heal      [][]string             `json:"heal"`
	Phases    []PlannedPhase         `json:"phases"`          // of a change of role, as the gate expects its steps
	Predicted *time.Duration         `json:"predicted_rto"`   // from the decision on; null: unknown
	Objective *time.Duration         `json:"rto"`             // null: none
	Canaries  []string               `json:"canaries"`        // that are written through the route
	Checks    []string               `json:"checks"`          // that are asked afterwards
	LeftOver  string                 `json:"left_over_fault"` // of a killed drill, healed first; "": none
}

// PlannedPhase is a step of the change of role, and how long the gate expects it to take.
type PlannedPhase struct {
	Step     string         `json:"step"`
	Expected *time.Duration `json:"expected"` // null: unknown
}

// Plan looks and asks as Run does before it begins, and changes nothing.
func (d *Drill) Plan(ctx context.Context) (Plan, error) {
	r := newRun(d)
	p := Plan{
		Service: d.cfg.Service, Services: r.services, Level: d.opts.Level, Scenario: d.opts.Scenario, Expected: d.expected(),
		Refused: []string{}, Steps: []string{}, Inject: [][]string{}, Heal: [][]string{}, Phases: []PlannedPhase{}, Canaries: r.names(), Checks: []string{},
	}
	for _, c := range d.cfg.Checks {
		p.Checks = append(p.Checks, c.Name)
	}
	for _, s := range r.course.Steps() {
		if s != Over {
			p.Steps = append(p.Steps, s.String())
		}
	}
	f := d.cfg.Faults[d.opts.Scenario]
	for _, c := range f.Inject {
		p.Inject = append(p.Inject, c.Run)
	}
	for _, c := range f.Heal {
		p.Heal = append(p.Heal, c.Run)
	}
	state, err := openState(d.fs, &d.cfg)
	if err != nil {
		return p, err
	}
	left, err := state.left()
	if left != nil {
		p.LeftOver = fmt.Sprintf("%s of drill %s", left.Scenario, left.Drill)
	}
	if err = state.closed(err); err != nil {
		return p, err
	}
	s := d.ctl.Look(ctx)
	if err := d.ready(ctx, s, r.services); err != nil {
		p.Refused = append(p.Refused, evidence.Sentence(err))
	}
	d.foresee(ctx, s, &p, r)
	return p, ctx.Err()
}

// foresee adds what the gate expects.
func (d *Drill) foresee(ctx context.Context, s Sight, p *Plan, r *run) {
	svc := s.service(d.cfg.Service)
	p.Writer, _ = writer(svc)
	if p.Objective = objective(d.cfg.Objectives.RTO); p.Objective == nil {
		p.Objective = objective(svc.GetRto().AsDuration())
	}
	if svc.GetRtoPredicted() != nil {
		p.Predicted = new(svc.GetRtoPredicted().AsDuration())
	}
	if !r.planned && !r.expect.FailsOver {
		return
	}
	plan, _ := d.rehearse(ctx, d.cfg.Service) // why it would be refused was said
	p.Target = plan.GetTarget().GetNode()
	for _, one := range plan.GetSteps() {
		step := PlannedPhase{Step: one.GetName()}
		if one.GetExpected() != nil {
			step.Expected = new(one.GetExpected().AsDuration())
		}
		p.Phases = append(p.Phases, step)
	}
}

func (d *Drill) expected() string {
	e, fault := Expected(d.opts.Scenario)
	if !fault {
		return "moves to the target and back, nothing acknowledged is lost"
	}
	text := fmt.Sprintf("the service %s, %s", e, e.Clients)
	if e.What != "" {
		text += "; the gates say " + e.What
	}
	return text
}
