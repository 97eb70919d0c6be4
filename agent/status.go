package agent

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/rates"
	"github.com/tidegate/tidegate/rpo"
	"github.com/tidegate/tidegate/stores"
)

// Status is what /status shows and `tidegate-agent status` prints.
type Status struct {
	Node        tidegate.NodeName `json:"node"`
	Site        tidegate.SiteName `json:"site"`
	Holder      tidegate.HolderID `json:"holder"`
	Version     string            `json:"version"`
	GateReached bool              `json:"gate_reached"`
	Gate        string            `json:"gate"`                 // the one that answers, or is tried next
	GateError   string            `json:"gate_error,omitempty"` // why none answers
	Streams     []StreamStatus    `json:"streams"`
	Rates       rates.Status      `json:"rates"`
	Pauses      Pauses            `json:"pauses"` // times for which this process did not run
}

// StreamStatus is one stream.
type StreamStatus struct {
	Service tidegate.ServiceName `json:"service"`
	Stream  tidegate.StreamName  `json:"stream"`
	ID      tidegate.StreamID    `json:"id"`
	State   State                `json:"state"`
	Epoch   tidegate.Epoch       `json:"epoch"` // of the writer here, else the newest that is known
	// Waiting says why a service that is active here has no writer yet.
	Waiting string `json:"waiting,omitempty"`
	Error   string `json:"error,omitempty"`
	// Finding is what keeps the library from its work, or makes what it says worth
	// less than it seems, in its own words.
	Finding string `json:"finding,omitempty"`
	Hint    string `json:"hint,omitempty"` // what to do about it
	// Findings are all that the library has said of itself and of its store, the
	// gravest first.
	Findings []local.Finding `json:"findings,omitempty"`

	// OpeningFor is for how long the newest generation is being opened, from its
	// declaration until it counts, as far as this process has seen; 0 when none is.
	OpeningFor time.Duration `json:"opening_for,omitzero"`

	// Lost says why the source does not continue the log, whatever time passes: a new
	// generation is needed. LostDiverged: one leaves out what was shipped, or may.
	Lost         string `json:"lost,omitempty"`
	LostDiverged bool   `json:"lost_diverged,omitempty"`

	// Keeps is what the store keeps for the stream, each with the command that removes
	// it by hand.
	Keeps []string `json:"keeps,omitempty"`

	LibraryConnected bool   `json:"library_connected"`
	ServiceActive    bool   `json:"service_active"`
	Endpoint         string `json:"endpoint,omitempty"`

	HeadKnown     bool              `json:"head_known"`
	Head          tidegate.Position `json:"head,omitzero"` // L; absent while not known
	ReleasedKnown bool              `json:"released_known"`
	Released      tidegate.Position `json:"released,omitzero"` // A; absent while not known, and while nothing was

	Crossing *CrossingStatus `json:"crossing,omitempty"` // nil where there is one lane only
	Writer   *WriterStatus   `json:"writer,omitempty"`
	Observer *ObserverStatus `json:"observer,omitempty"`
}

// WriterStatus is a term that is under way.
type WriterStatus struct {
	Proving bool `json:"proving,omitzero"` // captured and durable positions are not known yet
	// Generation is the one that is written; 0 while not known. Opening: it counts for
	// nothing yet, because W standby nodes do not have its base, and Durable is not known.
	Generation tidegate.Generation `json:"generation,omitzero"`
	Opening    bool                `json:"opening,omitzero"`

	Captured     tidegate.Position  `json:"captured"`
	CapturedSeq  tidegate.Seq       `json:"captured_seq"`
	Shipped      tidegate.Seq       `json:"shipped_seq"`
	Durable      tidegate.Position  `json:"durable"` // D
	DurableSeq   tidegate.Seq       `json:"durable_seq"`
	Applied      tidegate.Position  `json:"applied,omitzero"` // by the furthest warm copy; 0 while none is known
	Mode         tidegate.Mode      `json:"mode"`
	Bounds       tidegate.Bounds    `json:"bounds"`
	Recorded     bool               `json:"recorded"` // mode and bounds are those of the gate's record
	Exposure     rpo.Exposure       `json:"exposure"`
	Areas        rpo.Areas          `json:"areas"`
	Relay        tidegate.NodeName  `json:"relay"`
	RelayUp      bool               `json:"relay_up"`
	RingBytes    int                `json:"ring_bytes"`
	RingBytesMax int                `json:"ring_bytes_max"`
	Members      []fence.PeerStatus `json:"members"`
	Gate         GateStatus         `json:"gate"`
	Lease        *LeaseStatus       `json:"lease,omitempty"`    // nil while none is needed
	Handover     *HandoverStatus    `json:"handover,omitempty"` // nil unless a switchover is under way
	Base         *BaseStatus        `json:"base,omitempty"`     // nil unless one is on its way
}

// GateStatus is the gate at the edge of its bounds: what is on record, and what
// the library beside the ceiling does.
type GateStatus struct {
	Record   fence.GateState `json:"record"`
	SinceSeq tidegate.Seq    `json:"record_since_seq"` // first batch under it
	Policy   tidegate.Policy `json:"policy"`
	// Brake says who opened the gate by hand, and why; empty while nobody has.
	Brake string `json:"brake,omitempty"`
	// What follows is the library's word, absent and 0 unless Known.
	Known       bool          `json:"known"`
	State       string        `json:"state,omitempty"`
	StateAge    time.Duration `json:"state_age_ns,omitzero"`
	Want        string        `json:"want,omitempty"` // what it wants the record to say
	Utilisation float64       `json:"utilisation"`
	Rejected    uint64        `json:"rejected"`         // calls refused since the service started
	Slack       time.Duration `json:"release_slack_ns"` // longest time from a release's look at the clock to its effect
	// Admission is the operator's limit on new records each second; nil for none.
	Admission *uint64 `json:"admission_per_second,omitempty"`
}

// LeaseStatus is the output lease.
type LeaseStatus struct {
	TTL       time.Duration `json:"ttl_ns"`
	Remaining time.Duration `json:"remaining_ns"` // 0: over, nothing leaves beyond D
	By        string        `json:"by,omitempty"` // registry or nodes
	Error     string        `json:"error,omitempty"`
}

// HandoverStatus is how far a switchover has come here.
type HandoverStatus struct {
	To      tidegate.NodeName `json:"to"`
	Drained bool              `json:"drained"` // nothing is in flight any more
	Sealed  *fence.Handover   `json:"sealed,omitempty"`
	Done    bool              `json:"done"` // the record says so
}

// ObserverStatus is how far the comparison has come.
type ObserverStatus struct {
	Node        tidegate.NodeName `json:"node,omitempty"` // attached to
	ProvenSeq   tidegate.Seq      `json:"proven_seq"`
	EndSeq      tidegate.Seq      `json:"end_seq"`
	CaughtUp    bool              `json:"caught_up"`
	DivergedSeq tidegate.Seq      `json:"diverged_seq,omitzero"`
	DivergedAt  tidegate.Position `json:"diverged_at,omitzero"`
	Diverged    string            `json:"diverged,omitempty"`
}

// Status returns the agent's state now.
func (a *Agent) Status() Status {
	st := Status{
		Node: a.cfg.Node.Name, Site: a.cfg.Node.Site, Holder: a.holder, Version: a.version,
		Rates: a.rates.Status(), Pauses: a.pauses.get(),
	}
	st.GateReached, st.Gate, st.GateError = a.gate.state()
	for _, s := range a.streams {
		st.Streams = append(st.Streams, s.status())
	}
	return st
}

func (s *stream) status() StreamStatus {
	var keeps []string
	if k, keeper := s.source.(stores.Keeper); keeper {
		keeps = k.Keeps()
	}
	var found []local.Finding // while nothing is connected that tells us
	if f, finder := s.source.(stores.Finder); finder {
		found = f.Findings()
	}
	lost := s.lost()
	crossing := s.crossing.status(s.agent.clk.Boot())
	w := s.writer.Load()
	var ws *WriterStatus
	if w != nil {
		ws = w.status()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := StreamStatus{
		Service: s.cfg.Service, Stream: s.cfg.Stream, ID: s.view.id, Epoch: s.view.rec.Epoch,
		Waiting: s.acquire, Error: s.lastErr, Writer: ws,
		LibraryConnected: s.lib.conn != nil, ServiceActive: s.lib.conn != nil && s.lib.active, Endpoint: s.cfg.Endpoint,
		HeadKnown: s.lib.known, ReleasedKnown: s.lib.known && s.lib.progress.AKnown,
		State: s.stateLocked(w), Keeps: keeps, OpeningFor: s.openingFor(w), Crossing: crossing,
	}
	if st.HeadKnown {
		st.Head = s.lib.head()
	}
	if st.ReleasedKnown {
		st.Released = s.lib.progress.A.Position
	}
	if st.Findings = s.lib.findings.List(); s.lib.conn == nil {
		st.Findings = found
	}
	if lost != nil {
		f := s.lostFinding(lost)
		st.Lost, st.LostDiverged, st.Findings = lost.Error(), errors.Is(lost, tidegate.ErrDiverged), append([]local.Finding{f}, st.Findings...)
	}
	byArchive, archived := crossing.finding(s.agent.drop)
	if archived {
		st.Findings = append(st.Findings, byArchive)
	}
	unready, isUnready := s.agent.reach.finding(crossing)
	if isUnready {
		st.Findings = append(st.Findings, unready)
	}
	f, some := s.found()
	if some {
		st.Findings = append(st.Findings, f)
	}
	if some || archived || isUnready {
		slices.SortStableFunc(st.Findings, func(a, b local.Finding) int { return cmp.Compare(b.Severity, a.Severity) })
	}
	if err := s.lib.findings.Work(); err != nil {
		st.Finding, st.Hint = err.Error(), tidegate.HintOf(err)
	}
	if s.lib.hello.Endpoint != "" {
		st.Endpoint = s.lib.hello.Endpoint
	}
	if w != nil {
		st.Epoch = w.epoch
		return st
	}
	o := &ObserverStatus{Node: s.seen.node, ProvenSeq: s.seen.proven, EndSeq: s.seen.end, CaughtUp: s.seen.caughtUp}
	if d := s.diverged; d != nil {
		o.DivergedSeq, o.DivergedAt, o.Diverged = d.seq, d.at, d.reason
	}
	st.Observer = o
	return st
}

func (s *stream) stateLocked(w *writer) State {
	active := s.lib.conn != nil && s.lib.active
	switch {
	case w != nil && w.writing():
		return StateWriting
	case w != nil:
		return StateProving
	case s.fenced != nil && (s.diverged != nil || s.elsewhere(s.view.rec) || s.deposed(s.view.rec) && active):
		return StateFenced
	case s.diverged != nil:
		return StateDiverged
	case active:
		return StateAcquiring
	case s.seen.node != "":
		return StateObserving
	}
	return StateDormant
}

func (w *writer) status() *WriterStatus {
	now := w.s.agent.clk.Boot()
	w.mu.Lock()
	defer w.mu.Unlock()
	st := &WriterStatus{RingBytesMax: int(w.s.agent.cfg.Limits.RingBytesMax), Members: w.core.Peers()}
	st.Relay, st.RelayUp = w.core.Relay()
	b, isRecord := w.effective()
	st.Mode, st.Bounds, st.Recorded = modeOf(b), b, isRecord
	st.Exposure = w.meter.exposure(now)
	st.Areas = w.meter.areas.Areas(now)
	st.Gate, st.Lease, st.Handover = w.gateStatus(now), w.leaseStatus(now), w.handoverStatus()
	st.Base = w.base.status()
	if w.ring == nil {
		head := w.core.Record().Head
		st.Proving, st.CapturedSeq, st.Shipped, st.DurableSeq = true, head.Seq, head.Seq, head.Seq
		return st
	}
	last := w.ring.last()
	st.Captured, st.CapturedSeq = last.next, last.seq
	st.DurableSeq, st.Generation, st.Opening = w.ring.durable.seq, w.gen, w.opening()
	if !st.Opening {
		st.Durable = w.ring.durable.next
		st.Applied = min(w.furthest(), st.Durable)
	}
	st.Shipped = st.DurableSeq
	if w.link != nil && w.link.next > 0 {
		st.Shipped = w.link.next - 1
	}
	st.RingBytes = w.ring.used
	return st
}

// gateStatus is the gate's part of the status; mu is held.
func (w *writer) gateStatus(now tidegate.Instant) GateStatus {
	g := GateStatus{Record: w.terms.State, SinceSeq: w.terms.SinceSeq, Policy: w.policy}
	if w.brake.on {
		g.Brake = w.brake.actor + ": " + w.brake.reason
	}
	if w.sent.RateLimited {
		g.Admission = new(w.sent.Rate)
	}
	lib := &w.meter.lib
	if g.Known = w.meter.heard && lib.Gate != 0; !g.Known {
		return g
	}
	g.State, g.StateAge = lib.Gate.String(), max(0, time.Duration(now-lib.Since))
	if lib.Want != machine.WantNone {
		g.Want = lib.Want.String()
	}
	g.Utilisation, g.Rejected, g.Slack = lib.Utilisation, lib.Rejected, lib.Slack
	return g
}

// leaseStatus is the lease's; mu is held.
func (w *writer) leaseStatus(now tidegate.Instant) *LeaseStatus {
	l := w.lease(now)
	if !l.needed {
		return nil
	}
	st := &LeaseStatus{TTL: l.ttl, Remaining: l.remaining(now), Error: w.s.service.leases.reason()}
	if st.Remaining > 0 {
		st.By = string(l.by)
	}
	return st
}

// handoverStatus is the switchover's; mu is held.
func (w *writer) handoverStatus() *HandoverStatus {
	if w.phase == fence.StateActive {
		return nil
	}
	st := &HandoverStatus{To: w.target.Node, Drained: w.meter.heard && w.meter.lib.Drained, Done: w.phase == fence.StateDemoted}
	if w.hand.sealed {
		st.Sealed = new(w.hand.to)
	}
	return st
}

var roles = map[State]pb.AgentRole{
	StateDormant: pb.AgentRole_AGENT_ROLE_DORMANT, StateObserving: pb.AgentRole_AGENT_ROLE_OBSERVER,
	StateAcquiring: pb.AgentRole_AGENT_ROLE_ACQUIRING, StateProving: pb.AgentRole_AGENT_ROLE_PROVING,
	StateWriting: pb.AgentRole_AGENT_ROLE_WRITER, StateFenced: pb.AgentRole_AGENT_ROLE_FENCED,
	StateDiverged: pb.AgentRole_AGENT_ROLE_DIVERGED,
}

// report is the status in the form that the gate takes.
func (a *Agent) report() *pb.ReportAgentRequest {
	st := a.Status()
	req := &pb.ReportAgentRequest{
		Node: string(st.Node), Site: string(st.Site), Holder: api.IDText(st.Holder), Version: st.Version,
		Sent: timestamppb.New(a.clk.Wall()),
	}
	for i := range st.Rates.Rates {
		one := &st.Rates.Rates[i]
		m := &pb.Rate{Name: one.Name, Unit: string(one.Unit), Error: one.Error}
		if one.Limit != nil {
			m.Limit = new(float64(*one.Limit))
		}
		req.Rates = append(req.Rates, m)
	}
	for i := range st.Streams {
		if one := &st.Streams[i]; !one.ID.IsZero() {
			req.Streams = append(req.Streams, one.message())
		}
	}
	return req
}

func (st *StreamStatus) message() *pb.AgentStream {
	m := &pb.AgentStream{
		StreamId: api.IDText(st.ID), Role: roles[st.State], Epoch: uint64(st.Epoch),
		ServiceActive: st.ServiceActive, LibraryConnected: st.LibraryConnected, Error: st.Error,
		Findings: fencewire.FindingMessages(st.Findings), Keeps: st.Keeps, Lost: st.Lost, LostDiverged: st.LostDiverged,
	}
	if st.Finding != "" {
		m.Error = st.Finding // the cause of whatever else there is to say
	}
	if m.Error == "" {
		m.Error = st.Waiting
	}
	if st.ServiceActive {
		m.Endpoint = st.Endpoint
	}
	if st.HeadKnown {
		m.Head = new(uint64(st.Head))
	}
	if st.ReleasedKnown {
		m.Released = new(uint64(st.Released))
	}
	if o := st.Observer; o != nil {
		m.ProvenSeq, m.DivergedSeq = uint64(o.ProvenSeq), uint64(o.DivergedSeq)
	}
	if st.Writer != nil {
		st.Writer.fill(m)
	}
	return m
}

func (w *WriterStatus) fill(m *pb.AgentStream) {
	m.DurableSeq = uint64(w.DurableSeq)
	if !w.Proving {
		m.Captured = new(uint64(w.Captured))
		m.Generation, m.Opening = uint32(w.Generation), w.Opening
	}
	if !w.Proving && !w.Opening {
		m.Durable = new(uint64(w.Durable))
	}
	m.Mode, m.Bounds = api.ModeMessage(w.Mode), api.BoundsMessage(w.Bounds)
	w.Gate.fill(m)
	if !w.Gate.Known {
		m.Utilisation = utilisation(w.Exposure, w.Bounds)
		// In sync nothing is ever exposed: what is held back shows a closed gate.
		m.Blocked = m.Utilisation >= 1 || w.Mode == tidegate.ModeSync && w.Exposure.Known && w.Exposure.InDoubtRecords > 0 && !w.RelayUp
	}
	if l := w.Lease; l != nil {
		m.LeaseNeeded, m.LeaseBy = true, l.By
		if l.Remaining > 0 {
			m.LeaseRemaining = durationpb.New(l.Remaining)
		}
	}
	m.Drained = w.Handover != nil && w.Handover.Drained
	m.Exposure = &pb.Exposure{}
	if e := w.Exposure; e.Known {
		m.Exposure = &pb.Exposure{Records: &e.Records, Bytes: &e.Bytes, Age: durationpb.New(e.Age), LossWindow: durationpb.New(e.Window)}
	}
	m.Areas = &pb.Areas{
		RecordSeconds: w.Areas.RecordSeconds, ByteSeconds: w.Areas.ByteSeconds, AgeSecondsSquared: w.Areas.AgeSeconds2,
		Covered: durationpb.New(time.Duration(w.Areas.KnownSeconds * float64(time.Second))),
	}
	if w.RelayUp {
		m.Relay = string(w.Relay)
	}
	for _, p := range w.Members {
		m.Members = append(m.Members, &pb.AgentMember{
			Node: string(p.Member.Node), Incarnation: api.IDText(p.Member.Incarnation), DurableSeq: uint64(p.Durable),
			Counted: p.Named && !p.Distrusted,
		})
	}
}

func (g *GateStatus) fill(m *pb.AgentStream) {
	if g.Admission != nil {
		m.AdmissionRate = new(float64(*g.Admission))
	}
	if !g.Known {
		return
	}
	m.GateState, m.GateStateAge = g.State, durationpb.New(g.StateAge)
	m.Utilisation, m.Rejected, m.Slack = g.Utilisation, g.Rejected, durationpb.New(g.Slack)
	switch g.State {
	case machine.Blocked.String(), machine.Rejecting.String(), machine.Asked.String():
		m.Blocked = true
	}
	switch g.Want {
	case machine.WantDegraded.String():
		m.Want = pb.GateState_GATE_STATE_DEGRADED
	case machine.WantArmed.String():
		m.Want = pb.GateState_GATE_STATE_ARMED
	}
}

// utilisation is the share of the tightest bound in use; 0 while it is not
// known, which the absent exposure says.
func utilisation(e rpo.Exposure, b tidegate.Bounds) float64 {
	if !e.Known {
		return 0
	}
	share := func(n, of int64) float64 {
		switch {
		case of == tidegate.Unbounded || n == 0:
			return 0
		case of == 0:
			return 1
		}
		return float64(n) / float64(of)
	}
	return max(share(e.Records, b.Records), share(e.Bytes, b.Bytes), share(int64(e.Age), int64(b.Window)))
}
