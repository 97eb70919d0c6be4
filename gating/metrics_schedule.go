package gating

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/registry"
)

var (
	descOverdue   = prometheus.NewDesc("tidegate_gate_drill_overdue", "1 when a scheduled drill was missed and none has run since it was due; absent when not known.", []string{"service"}, nil)
	descNextDrill = prometheus.NewDesc("tidegate_gate_drill_next_timestamp_seconds", "When the next drill is due by the service's schedule; absent when there is none.", []string{"service"}, nil)
	descDrilling  = prometheus.NewDesc("tidegate_gate_drill_running", "1 while a worker has a drill of the service.", []string{"service"}, nil)
)

var scheduleDescs = []*prometheus.Desc{descOverdue, descNextDrill, descDrilling}

// schedule exports how a service stands to its schedule, once a leader has seen it. What
// is against a drill now does not count here, so that every gate says the same.
func (c *collector) schedule(gauge func(*prometheus.Desc, float64, ...string), v *registry.View, service tidegate.ServiceName) {
	s, ok := v.Schedules[service]
	if !ok {
		return
	}
	gauge(descDrilling, oneIf(s.Value.Claim != nil), string(service))
	d, err := c.p.due(v, service, nil)
	if err != nil {
		return
	}
	gauge(descOverdue, oneIf(d.Overdue), string(service))
	if !d.Next.Due.IsZero() {
		gauge(descNextDrill, seconds(d.Next.Due), string(service))
	}
}
