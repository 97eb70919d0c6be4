package agent

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// metrics are the counters that are moved where things happen. Everything that
// is a state is read at the scrape, by collector.
type metrics struct {
	batches, records, rawBytes, shippedBytes *prometheus.CounterVec
	sealSeconds, relayLost, laneChanges      *prometheus.CounterVec
	roundTrip                                *prometheus.HistogramVec
	relayUp, clockOffset, clockOffsetErr     *prometheus.GaugeVec
}

// streamMetrics are those of one stream.
type streamMetrics struct {
	batches, records, rawBytes, shippedBytes prometheus.Counter
	sealSeconds, relayLost, laneChanges      prometheus.Counter
	roundTrip                                prometheus.Observer
	relayUp, clockOffset, clockOffsetErr     prometheus.Gauge
}

var streamLabels = []string{"service", "stream"}

func newMetrics(reg *prometheus.Registry) *metrics {
	counter := func(name, help string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, streamLabels)
		reg.MustRegister(v)
		return v
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, streamLabels)
		reg.MustRegister(v)
		return v
	}
	m := &metrics{
		batches:        counter("tidegate_agent_batches_sealed_total", "Batches sealed."),
		records:        counter("tidegate_agent_records_sealed_total", "Records of the source in sealed batches."),
		rawBytes:       counter("tidegate_agent_raw_sealed_bytes_total", "Bytes of the source in sealed batches, before compression."),
		shippedBytes:   counter("tidegate_agent_shipped_bytes_total", "Bytes of sealed batches handed to a relay, resent ones included."),
		sealSeconds:    counter("tidegate_agent_seal_seconds_total", "Time spent sealing."),
		relayLost:      counter("tidegate_agent_relay_lost_total", "Sessions with a relay that failed or could not be opened."),
		laneChanges:    counter("tidegate_agent_lane_changes_total", "Times that the stream took the other lane: the archive, or live again."),
		relayUp:        gauge("tidegate_agent_relay_up", "1 while a session with a relay is attached."),
		clockOffset:    gauge("tidegate_agent_clock_offset_seconds", "Relay's boot clock minus this node's, best estimate."),
		clockOffsetErr: gauge("tidegate_agent_clock_offset_error_seconds", "Bound on the error of the clock offset."),
		roundTrip: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tidegate_agent_durable_round_trip_seconds", Help: "From a batch's sealing until it is durable on W standby nodes.",
			Buckets: prometheus.ExponentialBucketsRange(100e-6, 10, 21),
		}, streamLabels),
	}
	reg.MustRegister(m.roundTrip)
	return m
}

func (m *metrics) stream(c StreamConfig) *streamMetrics {
	l := []string{string(c.Service), string(c.Stream)}
	return &streamMetrics{
		batches: m.batches.WithLabelValues(l...), records: m.records.WithLabelValues(l...),
		rawBytes: m.rawBytes.WithLabelValues(l...), shippedBytes: m.shippedBytes.WithLabelValues(l...),
		sealSeconds: m.sealSeconds.WithLabelValues(l...), relayLost: m.relayLost.WithLabelValues(l...),
		laneChanges: m.laneChanges.WithLabelValues(l...),
		roundTrip:   m.roundTrip.WithLabelValues(l...), relayUp: m.relayUp.WithLabelValues(l...),
		clockOffset: m.clockOffset.WithLabelValues(l...), clockOffsetErr: m.clockOffsetErr.WithLabelValues(l...),
	}
}

// collector reads the streams' state at every scrape.
type collector struct{ a *Agent }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append([]string{"service", "stream"}, labels...), nil)
}

var (
	descState         = desc("tidegate_agent_state", "1 for the state the stream is in, 0 for the others.", "state")
	descEpoch         = desc("tidegate_agent_epoch", "Epoch written under here, else the newest known.")
	descHead          = desc("tidegate_agent_head_position", "Newest position durable on the primary (L).")
	descReleased      = desc("tidegate_agent_released_position", "Newest position whose outputs were released (A); absent when not known.")
	descCaptured      = desc("tidegate_agent_captured_position", "Newest position sealed; absent until the log is proven.")
	descCapturedSeq   = desc("tidegate_agent_captured_seq", "Newest batch sealed.")
	descShippedSeq    = desc("tidegate_agent_shipped_seq", "Newest batch handed to the relay.")
	descDurable       = desc("tidegate_agent_durable_position", "Newest position durable at the DR site (D); absent until the log is proven.")
	descDurableSeq    = desc("tidegate_agent_durable_seq", "Newest batch durable on W standby nodes.")
	descApplied       = desc("tidegate_agent_applied_position", "Newest position that a warm copy beside a member of the standby set has applied; absent while none is known.")
	descExposureKnown = desc("tidegate_agent_exposure_known", "1 while exposure is known; without it the exposure metrics are absent.")
	descExposureRec   = desc("tidegate_agent_exposure_records", "Records released and not durable at the DR site.")
	descExposureBytes = desc("tidegate_agent_exposure_bytes", "Bytes released and not durable at the DR site.")
	descExposureAge   = desc("tidegate_agent_exposure_age_seconds", "Age of the oldest release that is not durable at the DR site.")
	descLossWindow    = desc("tidegate_agent_loss_window_seconds", "Span of release times that would be lost.")
	descAreaRecords   = desc("tidegate_agent_exposure_record_seconds_total", "Integral of exposed records over known time.")
	descAreaBytes     = desc("tidegate_agent_exposure_byte_seconds_total", "Integral of exposed bytes over known time.")
	descAreaAge       = desc("tidegate_agent_exposure_age_seconds_squared_total", "Integral of exposure age over known time.")
	descKnownTime     = desc("tidegate_agent_exposure_known_seconds_total", "Time in which exposure was known.")
	descUnknownTime   = desc("tidegate_agent_exposure_unknown_seconds_total", "Time in which exposure was not known.")
	descMode          = desc("tidegate_agent_gate_mode_info", "1 for the mode in force.", "mode")
	descRecorded      = desc("tidegate_agent_gate_recorded", "1 while mode and bounds in force are those of the gate's record.")
	descRing          = desc("tidegate_agent_ring_bytes", "Sealed batches kept because W nodes have not stored them yet.")
	descRingMax       = desc("tidegate_agent_ring_limit_bytes", "Room for sealed batches.")
	descProven        = desc("tidegate_agent_proven_seq", "Newest shipped batch found equal in this node's own log.")
	descOpening       = desc("tidegate_agent_generation_opening_seconds", "For how long a new generation is being opened, from its declaration until W standby nodes hold it, as far as this process has seen; 0 while none is.")
	descDiverged      = desc("tidegate_agent_diverged", "1 when this node's log is not the one that was shipped.")
	descGateState     = desc("tidegate_agent_gate_state_info", "1 for the state the gate beside the ceiling is in; absent while the library does not tell.", "state")
	descGateRecord    = desc("tidegate_agent_gate_record_info", "1 for what the gate's record says.", "record")
	descUtilisation   = desc("tidegate_agent_gate_utilisation_ratio", "Largest used share of a bound; absent while the library does not tell.")
	descRejected      = desc("tidegate_agent_gate_rejected_total", "Calls that the gate refused since the service started.")
	descSlack         = desc("tidegate_agent_release_slack_seconds", "Longest time from a release's look at the clock to its effect, since the service started.")
	descBrake         = desc("tidegate_agent_gate_brake", "1 while an operator holds the gate open.")
	descLeaseNeeded   = desc("tidegate_agent_lease_needed", "1 while outputs beyond D need a lease.")
	descLeaseLeft     = desc("tidegate_agent_lease_remaining_seconds", "What is left of the output lease; absent while none is needed.")
	descLane          = desc("tidegate_agent_lane_info", "1 for the lane by which sessions go, 0 for the other; absent where there is one only.", "lane")
	descLibrary       = desc("tidegate_agent_library_connected", "1 while the service's library is connected.")
	descPauses        = prometheus.NewDesc("tidegate_agent_pauses_total", "Times for which this process did not run for a second or more.", nil, nil)
	descPaused        = prometheus.NewDesc("tidegate_agent_paused_seconds_total", "Time for which this process did not run, in pauses of a second or more.", nil, nil)
	descLongestPause  = prometheus.NewDesc("tidegate_agent_longest_pause_seconds", "Longest time for which this process did not run.", nil, nil)
	descDropBytes     = prometheus.NewDesc("tidegate_agent_drop_bytes_total", "Bytes put into the archive and read from it by sessions that cross by it; absent without one.", nil, nil)
	descDropFailures  = prometheus.NewDesc("tidegate_agent_drop_failures_total", "Requests to the archive that failed while crossing by it; absent without one.", nil, nil)
	descGate          = prometheus.NewDesc("tidegate_agent_gate_reached", "1 while a gate answers.", nil, nil)
)

// Describe implements [prometheus.Collector].
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descState, descEpoch, descHead, descReleased, descCaptured, descCapturedSeq, descShippedSeq, descDurable, descDurableSeq, descApplied,
		descExposureKnown, descExposureRec, descExposureBytes, descExposureAge, descLossWindow,
		descAreaRecords, descAreaBytes, descAreaAge, descKnownTime, descUnknownTime,
		descMode, descRecorded, descRing, descRingMax, descProven, descOpening, descDiverged, descLibrary, descLane, descGate,
		descGateState, descGateRecord, descUtilisation, descRejected, descSlack, descBrake, descLeaseNeeded, descLeaseLeft,
		descPauses, descPaused, descLongestPause, descDropBytes, descDropFailures,
	} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (c collector) Collect(ch chan<- prometheus.Metric) {
	st := c.a.Status()
	ch <- prometheus.MustNewConstMetric(descGate, prometheus.GaugeValue, one(st.GateReached))
	ch <- prometheus.MustNewConstMetric(descPauses, prometheus.CounterValue, float64(st.Pauses.Count))
	ch <- prometheus.MustNewConstMetric(descPaused, prometheus.CounterValue, st.Pauses.Total.Seconds())
	ch <- prometheus.MustNewConstMetric(descLongestPause, prometheus.GaugeValue, st.Pauses.Longest.Seconds())
	if d := c.a.drop; d != nil {
		ch <- prometheus.MustNewConstMetric(descDropBytes, prometheus.CounterValue, float64(d.Bytes()))
		ch <- prometheus.MustNewConstMetric(descDropFailures, prometheus.CounterValue, float64(d.Failures()))
	}
	for i := range st.Streams {
		collectStream(ch, &st.Streams[i])
	}
}

func collectStream(ch chan<- prometheus.Metric, s *StreamStatus) {
	labels := []string{string(s.Service), string(s.Stream)}
	gauge := func(d *prometheus.Desc, v float64, more ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append(labels[:2:2], more...)...)
	}
	for _, state := range States {
		gauge(descState, one(state == s.State), string(state))
	}
	gauge(descEpoch, float64(s.Epoch))
	gauge(descLibrary, one(s.LibraryConnected))
	gauge(descOpening, s.OpeningFor.Seconds())
	if s.Crossing != nil {
		for _, l := range []lane{laneLive, laneArchive} {
			gauge(descLane, one(s.Crossing.Lane == string(l)), string(l))
		}
	}
	if s.HeadKnown {
		gauge(descHead, float64(s.Head))
	}
	if s.ReleasedKnown {
		gauge(descReleased, float64(s.Released))
	}
	if o := s.Observer; o != nil {
		gauge(descProven, float64(o.ProvenSeq))
		gauge(descDiverged, one(o.Diverged != ""))
	}
	if s.Writer != nil {
		collectWriter(ch, gauge, labels, s.Writer)
	}
}

func collectWriter(ch chan<- prometheus.Metric, gauge func(*prometheus.Desc, float64, ...string), labels []string, w *WriterStatus) {
	counter := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	if !w.Proving {
		gauge(descCaptured, float64(w.Captured))
		gauge(descDurable, float64(w.Durable))
	}
	if w.Applied > 0 {
		gauge(descApplied, float64(w.Applied))
	}
	gauge(descCapturedSeq, float64(w.CapturedSeq))
	gauge(descShippedSeq, float64(w.Shipped))
	gauge(descDurableSeq, float64(w.DurableSeq))
	gauge(descExposureKnown, one(w.Exposure.Known))
	if e := w.Exposure; e.Known {
		gauge(descExposureRec, float64(e.Records))
		gauge(descExposureBytes, float64(e.Bytes))
		gauge(descExposureAge, e.Age.Seconds())
		gauge(descLossWindow, e.Window.Seconds())
	}
	counter(descAreaRecords, w.Areas.RecordSeconds)
	counter(descAreaBytes, w.Areas.ByteSeconds)
	counter(descAreaAge, w.Areas.AgeSeconds2)
	counter(descKnownTime, w.Areas.KnownSeconds)
	counter(descUnknownTime, w.Areas.UnknownSeconds)
	for _, mode := range []tidegate.Mode{tidegate.ModeOpen, tidegate.ModeBounded, tidegate.ModeSync} {
		gauge(descMode, one(mode == w.Mode), string(mode))
	}
	gauge(descRecorded, one(w.Recorded))
	for _, state := range []fence.GateState{fence.GateArmed, fence.GateDegraded, fence.GateBlindOK, fence.GateUnknown} {
		gauge(descGateRecord, one(state == w.Gate.Record), string(state))
	}
	gauge(descBrake, one(w.Gate.Brake != ""))
	if g := &w.Gate; g.Known {
		gauge(descGateState, 1, g.State)
		gauge(descUtilisation, g.Utilisation)
		counter(descRejected, float64(g.Rejected))
		gauge(descSlack, g.Slack.Seconds())
	}
	gauge(descLeaseNeeded, one(w.Lease != nil))
	if w.Lease != nil {
		gauge(descLeaseLeft, w.Lease.Remaining.Seconds())
	}
	gauge(descRing, float64(w.RingBytes))
	gauge(descRingMax, float64(w.RingBytesMax))
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
