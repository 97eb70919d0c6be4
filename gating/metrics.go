package gating

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
)

type metrics struct {
	plans         *prometheus.CounterVec
	watchers      prometheus.Gauge
	notifications *prometheus.CounterVec
}

// delivered counts an attempt to tell a receiver.
func (m *metrics) delivered(receiver string, taken bool) {
	outcome := "failed"
	if taken {
		outcome = "taken"
	}
	m.notifications.WithLabelValues(receiver, outcome).Inc()
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		plans: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidegate_gate_plans_total", Help: "Changes of writer that ended at this gate, by kind and outcome.",
		}, []string{"kind", "outcome"}),
		watchers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tidegate_gate_watchers", Help: "Watch streams that are open.",
		}),
		notifications: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidegate_gate_notifications_total", Help: "Attempts to tell a receiver of an audit entry, by outcome: taken or failed.",
		}, []string{"receiver", "outcome"}),
	}
	reg.MustRegister(m.plans, m.watchers, m.notifications)
	return m
}

// collector exports the state of the world at the moment of the scrape: what
// is not known then is not exported, rather than exported as an old value.
type collector struct {
	p       parts
	control *controller
}

var (
	descLeading   = prometheus.NewDesc("tidegate_gate_leading", "1 while this gate runs plans.", nil, nil)
	descReachable = prometheus.NewDesc("tidegate_gate_registry_reachable", "1 while the registry answers.", nil, nil)
	descVerdict   = prometheus.NewDesc("tidegate_gate_service_verdict", "1 for the service's verdict: safe, at-risk, unsafe or unknown.", []string{"service", "verdict"}, nil)
	descRPO       = prometheus.NewDesc("tidegate_gate_service_rpo_seconds", "Objective.", []string{"service"}, nil)
	descRTO       = prometheus.NewDesc("tidegate_gate_service_rto_seconds", "Objective.", []string{"service"}, nil)
	descPredicted = prometheus.NewDesc("tidegate_gate_service_rto_predicted_seconds", "How long a recovery would take now; absent when it cannot be predicted.", []string{"service"}, nil)
	descArmed     = prometheus.NewDesc("tidegate_gate_service_armed", "1 while the service's arm switch is on; 0 refuses changes of role.", []string{"service"}, nil)
	descBrake     = prometheus.NewDesc("tidegate_gate_stream_brake", "1 while an operator lets the stream's primary run unprotected.", []string{"service", "stream"}, nil)
	descRoute     = prometheus.NewDesc("tidegate_gate_route_epoch", "Epoch of the service's recorded route.", []string{"service"}, nil)
	descProbe     = prometheus.NewDesc("tidegate_gate_probe_good", "1 while the synthetic client succeeds, which writes unless its level is read.", []string{"service"}, nil)
	descProbeAt   = prometheus.NewDesc("tidegate_gate_probe_last_good_timestamp_seconds", "Wall time of the last good attempt of the synthetic client.", []string{"service"}, nil)
	descProbeTook = prometheus.NewDesc("tidegate_gate_probe_latency_seconds", "What the last good attempt of the synthetic client took, connecting included.", []string{"service"}, nil)
	descEpoch     = prometheus.NewDesc("tidegate_gate_stream_epoch", "Epoch on record.", []string{"service", "stream"}, nil)
	descMembers   = prometheus.NewDesc("tidegate_gate_stream_members_alive", "Members that reported lately and know what they had.", []string{"service", "stream"}, nil)
	descRecords   = prometheus.NewDesc("tidegate_gate_stream_exposure_records", "Exposed records as the writer reports them; absent when not known.", []string{"service", "stream"}, nil)
	descBytes     = prometheus.NewDesc("tidegate_gate_stream_exposure_bytes", "Exposed bytes as the writer reports them; absent when not known.", []string{"service", "stream"}, nil)
	descAge       = prometheus.NewDesc("tidegate_gate_stream_exposure_age_seconds", "Age of the oldest release that is not durable at the DR site, as the writer reports it; absent when not known.", []string{"service", "stream"}, nil)
	descHead      = prometheus.NewDesc("tidegate_gate_stream_head_position", "Newest position durable on the primary (L), as the writer reports it; absent when not known.", []string{"service", "stream"}, nil)
	descCaptured  = prometheus.NewDesc("tidegate_gate_stream_captured_position", "Newest position sealed, as the writer reports it; absent when not known.", []string{"service", "stream"}, nil)
	descDurable   = prometheus.NewDesc("tidegate_gate_stream_durable_position", "Newest position durable at the DR site (D), as the writer reports it; absent when not known.", []string{"service", "stream"}, nil)
	descBlocked   = prometheus.NewDesc("tidegate_gate_stream_blocked", "1 while the writer says that the service waits for the DR site; absent when not known.", []string{"service", "stream"}, nil)
	descState     = prometheus.NewDesc("tidegate_gate_stream_gate_state_info", "1 for the state the gate beside the ceiling is in, as the writer reports it; absent when not known.", []string{"service", "stream", "state"}, nil)
	descRecord    = prometheus.NewDesc("tidegate_gate_stream_gate_record_info", "1 for what the gate's record says: armed, degraded, blind-ok or unknown.", []string{"service", "stream", "record"}, nil)
	descRule      = prometheus.NewDesc("tidegate_gate_service_rule_holds", "1 for a rule that lets a failover begin now, 0 for one that refuses it, both without overrides; absent when not known.", []string{"service", "rule"}, nil)
	descBackup    = prometheus.NewDesc("tidegate_gate_registry_backup_timestamp_seconds", "Wall time of the newest backup of the registry in the archive, as this gate has found or made it; absent when not known, or there is none.", nil, nil)
	descBackupOf  = prometheus.NewDesc("tidegate_gate_registry_backup_bytes", "Its size.", nil, nil)
	descBackups   = prometheus.NewDesc("tidegate_gate_registry_backups_total", "Attempts of this gate to back the registry up, by outcome: taken or failed.", []string{"outcome"}, nil)
	descReport    = prometheus.NewDesc("tidegate_gate_node_report_timestamp_seconds", "Wall time of the node's last report to this gate.", []string{"node", "kind"}, nil)
)

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descLeading, descReachable, descVerdict, descRPO, descRTO, descPredicted, descRoute, descProbe, descProbeAt, descProbeTook, descArmed, descBrake,
		descEpoch, descMembers, descRecords, descBytes, descReport, descBackup, descBackupOf, descBackups,
		descAge, descHead, descCaptured, descDurable, descBlocked, descState, descRecord, descRule,
	} {
		ch <- d
	}
	for _, d := range slices.Concat(drillDescs, scheduleDescs) {
		ch <- d
	}
}

// verdictLabels are the label values of the verdict.
var verdictLabels = map[pb.Verdict]string{
	pb.Verdict_VERDICT_SAFE: "safe", pb.Verdict_VERDICT_AT_RISK: "at-risk", pb.Verdict_VERDICT_UNSAFE: "unsafe", pb.Verdict_VERDICT_UNKNOWN: "unknown",
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	v, reachable, _ := c.p.world.current()
	gauge(descLeading, oneIf(c.control.leads()))
	gauge(descReachable, oneIf(reachable))
	for _, name := range v.ServiceNames() {
		svc, s := string(name), c.p.serviceStatus(v, name)
		for verdict, label := range verdictLabels {
			gauge(descVerdict, oneIf(s.GetVerdict() == verdict), svc, label)
		}
		if s.GetRpo() != nil {
			gauge(descRPO, s.GetRpo().AsDuration().Seconds(), svc)
		}
		if s.GetRto() != nil {
			gauge(descRTO, s.GetRto().AsDuration().Seconds(), svc)
		}
		if s.GetRtoPredicted() != nil {
			gauge(descPredicted, s.GetRtoPredicted().AsDuration().Seconds(), svc)
		}
		gauge(descArmed, oneIf(s.GetArmed()), svc)
		if r, ok := v.Routes[name]; ok {
			gauge(descRoute, float64(r.Value.Epoch), svc)
		}
		if p := s.GetProbe(); p.GetEnabled() {
			gauge(descProbe, oneIf(p.GetGood()), svc)
			if p.GetSinceLastGood() != nil {
				gauge(descProbeAt, seconds(c.p.now().Add(-p.GetSinceLastGood().AsDuration())), svc)
				gauge(descProbeTook, p.GetLatency().AsDuration().Seconds(), svc)
			}
		}
		c.streams(gauge, svc, s)
		c.rules(gauge, v, name)
		c.drills(gauge, v, name)
		c.schedule(gauge, v, name)
	}
	c.reports(gauge)
	c.backups(ch)
}

// backups exports what is known of the registry's backups, where there is an archive.
func (c *collector) backups(ch chan<- prometheus.Metric) {
	b := c.p.backups
	if b.open == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.newest.Revision > 0 {
		ch <- prometheus.MustNewConstMetric(descBackup, prometheus.GaugeValue, seconds(b.newest.Taken))
		ch <- prometheus.MustNewConstMetric(descBackupOf, prometheus.GaugeValue, float64(b.newest.Bytes))
	}
	ch <- prometheus.MustNewConstMetric(descBackups, prometheus.CounterValue, float64(b.taken), "taken")
	ch <- prometheus.MustNewConstMetric(descBackups, prometheus.CounterValue, float64(b.tries), "failed")
}

func (c *collector) streams(gauge func(*prometheus.Desc, float64, ...string), svc string, s *pb.ServiceStatus) {
	for _, st := range s.GetStreams() {
		name := st.GetView().GetName()
		gauge(descEpoch, float64(st.GetView().GetEpoch().GetEpoch()), svc, name)
		gauge(descBrake, oneIf(st.GetView().GetBrake() != nil), svc, name)
		v, _, _ := c.p.world.current()
		if id, err := tidegate.ParseID(st.GetView().GetId()); err == nil {
			gauge(descMembers, float64(len(c.p.world.aliveMembers(v.Epochs[id].Value.Config, id, c.p.timing.Stale))), svc, name)
		}
		if id, err := tidegate.ParseID(st.GetView().GetId()); err == nil {
			if e, ok := v.Epochs[id]; ok {
				for record, label := range recordLabels {
					gauge(descRecord, oneIf(e.Value.Gate.State == record), svc, name, label)
				}
			}
		}
		if st.GetWriterReportAge() == nil || st.GetWriterReportAge().AsDuration() > c.p.timing.Stale {
			continue
		}
		writerGauges(gauge, svc, name, st.GetWriter())
	}
}

// recordLabels are the label values of what a gate's record says.
var recordLabels = map[fence.GateState]string{
	fence.GateArmed: "armed", fence.GateDegraded: "degraded", fence.GateBlindOK: "blind-ok", fence.GateUnknown: "unknown",
}

// writerGauges exports what a stream's writer has reported lately.
func writerGauges(gauge func(*prometheus.Desc, float64, ...string), svc, name string, w *pb.AgentStream) {
	x := w.GetExposure() // nil from a writer of another version: one report must not end the scrape
	if x != nil {
		if x.Records != nil {
			gauge(descRecords, float64(x.GetRecords()), svc, name)
		}
		if x.Bytes != nil {
			gauge(descBytes, float64(x.GetBytes()), svc, name)
		}
		if x.Records != nil && x.GetAge() != nil { // as the verdict has it: without records nothing is known
			gauge(descAge, x.GetAge().AsDuration().Seconds(), svc, name)
		}
	}
	for d, position := range map[*prometheus.Desc]*uint64{descHead: w.Head, descCaptured: w.Captured, descDurable: w.Durable} {
		if position != nil {
			gauge(d, float64(*position), svc, name)
		}
	}
	if w.GetGateState() != "" {
		gauge(descState, 1, svc, name, w.GetGateState())
	}
	if w.GetGateState() != "" || x != nil && x.Records != nil { // it is told from either
		gauge(descBlocked, oneIf(w.GetBlocked()), svc, name)
	}
}

// rules exports what a failover to the target that would be chosen now is judged by.
func (c *collector) rules(gauge func(*prometheus.Desc, float64, ...string), v *registry.View, service tidegate.ServiceName) {
	q := question{service: service, target: c.p.world.chooseTarget(v, service, c.p.timing.Stale)}
	answers := map[string][]*pb.RuleVerdict{}
	for _, r := range c.p.world.evaluate(v, q, c.p.timing.Stale) {
		answers[r.GetRule()] = append(answers[r.GetRule()], r) // one per stream, where the rule is about streams
	}
	for rule, all := range answers {
		refuses := slices.ContainsFunc(all, func(r *pb.RuleVerdict) bool { return r.GetKnown() && !r.GetHolds() })
		unknown := slices.ContainsFunc(all, func(r *pb.RuleVerdict) bool { return !r.GetKnown() })
		if refuses || !unknown {
			gauge(descRule, oneIf(!refuses), string(service), rule)
		}
	}
}

func (c *collector) reports(gauge func(*prometheus.Desc, float64, ...string)) {
	w, now := c.p.world, c.p.now()
	type report struct {
		node, kind string
		age        time.Duration
	}
	var all []report
	w.read(func() {
		for n, a := range w.agents {
			if a.report != nil {
				all = append(all, report{string(n), "agent", w.age(a.at)})
			}
		}
		for n, s := range w.standbys {
			all = append(all, report{string(n), "standby", w.age(s.at)})
		}
		for n, r := range w.routes {
			all = append(all, report{n, "route", w.age(r.at)})
		}
	})
	for _, r := range all {
		gauge(descReport, seconds(now.Add(-r.age)), r.node, r.kind)
	}
}

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func seconds(t time.Time) float64 { return float64(t.UnixNano()) / float64(time.Second) }
