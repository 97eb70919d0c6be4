package route

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	epoch    *prometheus.GaugeVec
	opened   *prometheus.CounterVec
	cut      *prometheus.CounterVec
	refused  *prometheus.CounterVec
	rejected *prometheus.CounterVec
	failed   *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	label := []string{"service"}
	counter := func(name, help string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, label)
		reg.MustRegister(c)
		return c
	}
	m := &metrics{
		epoch:    prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tidegate_route_epoch", Help: "Epoch that the route has applied; lower ones are refused."}, label),
		opened:   counter("tidegate_route_connections_opened_total", "Client connections that reached the service."),
		cut:      counter("tidegate_route_connections_cut_total", "Connections reset because their epoch was passed."),
		refused:  counter("tidegate_route_targets_refused_total", "Targets refused because their epoch was lower than the applied one."),
		rejected: counter("tidegate_route_connections_rejected_total", "Client connections refused at the limit."),
		failed:   counter("tidegate_route_connections_failed_total", "Client connections for which no endpoint answered."),
	}
	reg.MustRegister(m.epoch)
	return m
}
