package standby

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/shipper"
)

const (
	namespace = "tidegate"
	subsystem = "standby"
)

// metrics are the node's. What is not known is absent, never 0.
type metrics struct {
	n *Standby

	fsync       prometheus.Histogram
	refused     *prometheus.CounterVec
	quarantined prometheus.Counter
	torn        prometheus.Counter
	removed     prometheus.Counter
	freed       prometheus.Counter

	archiveObjects prometheus.Counter
	archiveBytes   prometheus.Counter
	archiveErrors  *prometheus.CounterVec
	archiveRemoved prometheus.Counter
	archiveFreed   prometheus.Counter

	received, durable, commit, applied, appliedPosition,
	beacon, blind, limbo, faulted, learner, lease, relayUp,
	logBytes, logFirst, baseTaken, baseBytes,
	archivist, archived, archiveBehind, archiveHoles, archiveSuccess,
	dropConnections, dropBytes, dropFailures,
	free, total, quarantine, full *prometheus.Desc
}

func newMetrics(reg prometheus.Registerer, n *Standby) *metrics {
	m := &metrics{
		n: n,
		fsync: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "fsync_seconds",
			Help:    "Time of one delta log sync.",
			Buckets: prometheus.ExponentialBuckets(50e-6, 2, 16), // 50 us to 1.6 s
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "refused_total",
			Help: "Ship sessions refused or ended, by refusal code.",
		}, []string{"code"}),
		quarantined: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "quarantined_bytes_total",
			Help: "Raw bytes of batches cut from logs into quarantine.",
		}),
		torn: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "torn_bytes_total",
			Help: "Bytes of torn log tails found at start and moved to quarantine.",
		}),
		removed: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "bases_removed_total",
			Help: "Bases removed because newer ones stand for them.",
		}),
		freed: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "base_freed_bytes_total",
			Help: "Bytes of packs that went because no base needs what was in them, less what was stored anew of them.",
		}),
		archiveObjects: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "archive_objects_total",
			Help: "Objects that this node has put into the archive.",
		}),
		archiveBytes: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "archive_bytes_total",
			Help: "Bytes of those objects.",
		}),
		archiveErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "archive_errors_total",
			Help: "Attempts to archive something that failed, by class of error.",
		}, []string{"class"}),
		archiveRemoved: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "archive_removed_objects_total",
			Help: "Objects that this node has removed from the archive, as archive.keep says.",
		}),
		archiveFreed: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "archive_removed_bytes_total",
			Help: "Bytes of the objects that this node has removed from the archive.",
		}),
	}
	stream := []string{"service", "stream"}
	m.received = prometheus.NewDesc("tidegate_standby_received_seq", "Newest batch in the log.", stream, nil)
	m.durable = prometheus.NewDesc("tidegate_standby_durable_seq", "Newest batch fsynced here.", stream, nil)
	m.commit = prometheus.NewDesc("tidegate_standby_commit_seq", "Newest batch known durable on W nodes.", stream, nil)
	m.applied = prometheus.NewDesc("tidegate_standby_applied_seq", "Newest batch applied to the warm service; absent while none is connected.", stream, nil)
	m.appliedPosition = prometheus.NewDesc("tidegate_standby_applied_position", "Position up to which the warm service has applied; absent while none is connected.", stream, nil)
	m.beacon = prometheus.NewDesc("tidegate_standby_last_beacon_timestamp_seconds", "The writer's wall clock in its last beacon.", stream, nil)
	m.blind = prometheus.NewDesc("tidegate_standby_blind_window_seconds", "Upper bound on the time about which this node knows nothing; absent while clocks are not compared.", stream, nil)
	m.limbo = prometheus.NewDesc("tidegate_standby_limbo", "1 while the node's copy counts for nothing.", stream, nil)
	m.faulted = prometheus.NewDesc("tidegate_standby_faulted", "1 while the stream is not served or not applied and an operator must look.", stream, nil)
	m.learner = prometheus.NewDesc("tidegate_standby_learner", "1 while the active epoch does not count this configured node.", stream, nil)
	m.lease = prometheus.NewDesc("tidegate_standby_lease_remaining_seconds", "For how much longer this node refuses fences for the writer's sake; absent while it has granted no lease.", stream, nil)
	m.relayUp = prometheus.NewDesc("tidegate_standby_relay_up", "1 while the session to the other node is up; absent while this node is not the relay.", []string{"service", "stream", "node"}, nil)
	m.logBytes = prometheus.NewDesc("tidegate_standby_log_bytes", "Size of the batches that are kept.", stream, nil)
	m.logFirst = prometheus.NewDesc("tidegate_standby_log_first_seq", "Oldest batch that is kept.", stream, nil)
	m.baseTaken = prometheus.NewDesc("tidegate_standby_base_taken_timestamp_seconds", "When the newest base of the log's generation was taken; absent while none is held.", stream, nil)
	m.baseBytes = prometheus.NewDesc("tidegate_standby_base_bytes", "Size of the packs that bases are kept in; absent where the stream has none.", stream, nil)
	m.archivist = prometheus.NewDesc("tidegate_standby_archivist", "1 while this node uploads the stream to the archive; absent where it has none.", stream, nil)
	m.archived = prometheus.NewDesc("tidegate_standby_archived_seq", "Newest batch up to which the archive has all that this log has; absent while that is not known.", stream, nil)
	m.archiveBehind = prometheus.NewDesc("tidegate_standby_archive_behind_seconds", "Age of the oldest committed batch that is not archived; 0 when there is none, absent while that is not known.", stream, nil)
	m.archiveHoles = prometheus.NewDesc("tidegate_standby_archive_holes", "Ranges of batches that the archive lacks and this log cannot fill; absent while that is not known.", stream, nil)
	m.archiveSuccess = prometheus.NewDesc("tidegate_standby_archive_last_success_timestamp_seconds", "When the archive did last what this node asked; absent until it has.", stream, nil)
	m.dropConnections = prometheus.NewDesc("tidegate_standby_drop_connections", "Connections by way of the archive that are open, those in their handshake included; absent where none can be.", nil, nil)
	m.dropBytes = prometheus.NewDesc("tidegate_standby_drop_bytes_total", "Bytes put into the archive and read from it by sessions that cross by it; absent where none can.", nil, nil)
	m.dropFailures = prometheus.NewDesc("tidegate_standby_drop_failures_total", "Requests to the archive that failed while sessions crossed by it, or were looked for; absent where none can.", nil, nil)
	m.free = prometheus.NewDesc("tidegate_standby_disk_free_bytes", "Room left on the data directory's file system.", nil, nil)
	m.total = prometheus.NewDesc("tidegate_standby_disk_total_bytes", "Size of the data directory's file system.", nil, nil)
	m.quarantine = prometheus.NewDesc("tidegate_standby_quarantine_bytes", "Bytes that lie in quarantine.", nil, nil)
	m.full = prometheus.NewDesc("tidegate_standby_full", "1 while batches are refused for want of room.", nil, nil)
	reg.MustRegister(m.fsync, m.refused, m.quarantined, m.torn, m.removed, m.freed, m.archiveObjects, m.archiveBytes, m.archiveErrors, m.archiveRemoved, m.archiveFreed, m)
	return m
}

// refuse counts a refusal.
func (m *metrics) refuse(c shipper.Code) { m.refused.WithLabelValues(c.String()).Inc() }

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		m.received, m.durable, m.commit, m.applied, m.appliedPosition, m.beacon, m.blind,
		m.limbo, m.faulted, m.learner, m.lease, m.relayUp, m.logBytes, m.logFirst, m.baseTaken, m.baseBytes,
		m.archivist, m.archived, m.archiveBehind, m.archiveHoles, m.archiveSuccess,
		m.dropConnections, m.dropBytes, m.dropFailures, m.free, m.total, m.quarantine, m.full,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	st := m.n.Status()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if st.TotalBytes > 0 {
		gauge(m.free, float64(st.FreeBytes))
		gauge(m.total, float64(st.TotalBytes))
		gauge(m.quarantine, float64(st.Quarantined))
		gauge(m.full, truth(st.Full))
	}
	if e := m.n.drop.Load(); e != nil {
		gauge(m.dropConnections, float64(e.listener.Connections()))
		ch <- prometheus.MustNewConstMetric(m.dropBytes, prometheus.CounterValue, float64(e.drop.Bytes()))
		ch <- prometheus.MustNewConstMetric(m.dropFailures, prometheus.CounterValue, float64(e.drop.Failures()))
	}
	for _, s := range st.Streams {
		// A stream that no view has named yet goes by its id.
		service, name := string(s.View.Service), string(s.View.Name)
		if name == "" {
			name = s.View.ID.String()
		}
		gauge(m.limbo, truth(s.Limbo), service, name)
		gauge(m.faulted, truth(s.Err != ""), service, name)
		gauge(m.learner, truth(s.Learner), service, name)
		if s.Lease != nil {
			gauge(m.lease, s.Lease.Remaining.Seconds(), service, name)
		}
		if s.Received.Seq > 0 || !s.Limbo {
			gauge(m.received, float64(s.Received.Seq), service, name)
			gauge(m.durable, float64(s.Durable.Seq), service, name)
		}
		if s.LogFirst > 0 {
			gauge(m.logBytes, float64(s.LogBytes), service, name)
			gauge(m.logFirst, float64(s.LogFirst), service, name)
		}
		if s.BaseBytes > 0 {
			gauge(m.baseBytes, float64(s.BaseBytes), service, name)
		}
		if !s.BaseTaken.IsZero() {
			gauge(m.baseTaken, float64(s.BaseTaken.UnixNano())/1e9, service, name)
		}
		m.collectArchive(gauge, &s)
		if s.Commit > 0 {
			gauge(m.commit, float64(s.Commit), service, name)
		}
		if s.Applied != nil {
			gauge(m.applied, float64(*s.Applied), service, name)
		}
		if s.AppliedPosition != nil {
			gauge(m.appliedPosition, float64(*s.AppliedPosition), service, name)
		}
		if s.BeaconWall != nil {
			gauge(m.beacon, float64(s.BeaconWall.UnixNano())/1e9, service, name)
		}
		if s.Blind != nil {
			gauge(m.blind, s.Blind.Seconds(), service, name)
		}
		for node, problem := range s.Relays {
			gauge(m.relayUp, truth(problem == ""), service, name, string(node))
		}
	}
}

// collectArchive shows what is known of a stream's archive.
func (m *metrics) collectArchive(gauge func(d *prometheus.Desc, v float64, labels ...string), s *StreamStatus) {
	a := s.Archive
	if a == nil || s.View.Name == "" {
		return
	}
	service, name := string(s.View.Service), string(s.View.Name)
	gauge(m.archivist, truth(a.Archivist), service, name)
	if a.Archived != nil {
		gauge(m.archived, float64(*a.Archived), service, name)
		gauge(m.archiveHoles, float64(len(a.Holes)), service, name)
	}
	if a.Behind != nil {
		gauge(m.archiveBehind, a.Behind.Seconds(), service, name)
	}
	if !a.LastSuccess.IsZero() {
		gauge(m.archiveSuccess, float64(a.LastSuccess.UnixNano())/1e9, service, name)
	}
}

// Stored implements archive.Meter.
func (m *metrics) Stored(bytes int64) {
	m.archiveObjects.Inc()
	m.archiveBytes.Add(float64(bytes))
}

// Removed implements archive.Meter.
func (m *metrics) Removed(bytes int64) {
	m.archiveRemoved.Inc()
	m.archiveFreed.Add(float64(bytes))
}

// Failed implements archive.Meter.
func (m *metrics) Failed(class tidegate.Class) {
	m.archiveErrors.WithLabelValues(string(class)).Inc()
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
