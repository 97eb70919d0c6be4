package gating

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/gating/rules"
)

var drillLabels = []string{"service", "level", "scenario"}

var (
	descDrillEnded   = prometheus.NewDesc("tidegate_gate_drill_last_timestamp_seconds", "When the newest drill on record ended; absent while there is none.", drillLabels, nil)
	descDrillOutcome = prometheus.NewDesc("tidegate_gate_drill_outcome", "1 for the outcome of the newest drill on record: passed, partial, failed, interrupted or refused.", append(drillLabels[:3:3], "outcome"), nil)
	descDrillPassed  = prometheus.NewDesc("tidegate_gate_drill_last_pass_timestamp_seconds", "When the newest drill on record ended that passed and counts for drill-fresh; absent while there is none.", drillLabels, nil)
	descDrillRTA     = prometheus.NewDesc("tidegate_gate_drill_rta_seconds", "Recovery time that the newest drill on record measured; absent when it measured none.", drillLabels, nil)
	descDrillRTO     = prometheus.NewDesc("tidegate_gate_drill_rto_seconds", "Objective that the newest drill on record was held against; absent when it had none.", drillLabels, nil)
	descDrillPhase   = prometheus.NewDesc("tidegate_gate_drill_phase_seconds", "What a phase of the newest drill on record took; absent when it was not measured.", append(drillLabels[:3:3], "phase"), nil)
	descDrillSlower  = prometheus.NewDesc("tidegate_gate_drill_phase_slower", "1 for a phase, or the total, that became slower than its own history, by the newest drill on record; absent when it was not compared, or on too few drills.", append(drillLabels[:3:3], "phase"), nil)
	descDrillLimit   = prometheus.NewDesc("tidegate_gate_drill_age_limit_seconds", "How old the newest passed drill may be for the rule drill-fresh.", []string{"service"}, nil)
)

var drillDescs = []*prometheus.Desc{
	descDrillEnded, descDrillOutcome, descDrillPassed, descDrillRTA, descDrillRTO, descDrillPhase, descDrillSlower, descDrillLimit,
}

// drillOutcomes are the label values of an outcome, besides any other that a report has.
var drillOutcomes = []string{drillPassed, "partial", "failed", "interrupted", "refused"}

// drills exports what is on record of a service's drills, scenario by scenario.
func (c *collector) drills(gauge func(*prometheus.Desc, float64, ...string), v *registry.View, service tidegate.ServiceName) {
	svc := string(service)
	limits := rules.Limits{DrillAge: v.Services[service].Value.DrillAge}
	gauge(descDrillLimit, limits.SetDefaults().DrillAge.Seconds(), svc)
	on := v.Drills[service].Value
	for _, of := range on.ByLevel() {
		d := of.Last
		gauge(descDrillEnded, seconds(d.Ended), svc, d.Level, d.Scenario)
		for _, o := range drillOutcomes {
			gauge(descDrillOutcome, oneIf(o == d.Outcome), svc, d.Level, d.Scenario, o)
		}
		if !slices.Contains(drillOutcomes, d.Outcome) {
			gauge(descDrillOutcome, 1, svc, d.Level, d.Scenario, d.Outcome)
		}
		if of.Passed != nil {
			gauge(descDrillPassed, seconds(of.Passed.Ended), svc, d.Level, d.Scenario)
		}
		if d.RTA != nil {
			gauge(descDrillRTA, d.RTA.Seconds(), svc, d.Level, d.Scenario)
		}
		if d.RTO != nil {
			gauge(descDrillRTO, d.RTO.Seconds(), svc, d.Level, d.Scenario)
		}
		for _, p := range d.Phases {
			if p.Took != nil {
				gauge(descDrillPhase, p.Took.Seconds(), svc, d.Level, d.Scenario, p.Name)
			}
			if p.Slower != nil {
				gauge(descDrillSlower, oneIf(*p.Slower), svc, d.Level, d.Scenario, p.Name)
			}
		}
	}
}
