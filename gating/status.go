package gating

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
)

// Status implements OperatorService. It answers from memory, so that it also
// answers while the registry is down.
func (s *operatorService) Status(ctx context.Context, req *connect.Request[pb.StatusRequest]) (*connect.Response[pb.StatusResponse], error) {
	if err := s.control.elsewhere("status"); err != nil {
		return nil, err
	}
	v, reachable, _ := s.world.current()
	out := &pb.StatusResponse{
		Cluster: s.cluster, RegistryReachable: reachable, Now: timestamppb.New(s.now()), Verdict: pb.Verdict_VERDICT_SAFE,
		RegistryAge: s.registryAge(), RegistrySurvivesSite: s.survives,
	}
	if reachable {
		leader, err := s.store.Leader(ctx)
		if err == nil {
			out.Leader = leader
		}
	}
	for _, name := range v.ServiceNames() {
		if f := req.Msg.GetService(); f != "" && f != string(name) {
			continue
		}
		one := s.serviceStatus(v, name)
		one.Lease = s.leaseStatus(ctx, v.Services[name].Value, reachable)
		out.Services = append(out.Services, one)
	}
	if f := req.Msg.GetService(); f != "" && len(out.GetServices()) == 0 && v.Revision > 0 {
		return nil, notFound("show status of", f, "see `tidegate streams list`")
	}
	j := judgement{verdict: pb.Verdict_VERDICT_SAFE}
	for _, one := range out.GetServices() {
		for _, r := range one.GetReasons() {
			j.say(one.GetVerdict(), "%s: %s", one.GetName(), r)
		}
		j.say(one.GetVerdict(), "")
	}
	judgeRegistry(&j, v, out)
	for _, e := range v.Epochs {
		out.RegistrySuspect = out.GetRegistrySuspect() || e.Value.Restored
	}
	out.Verdict, out.Reasons = j.verdict, j.reasons
	s.nodesStatus(v, out)
	return connect.NewResponse(out), nil
}

func judgeRegistry(j *judgement, v *registry.View, out *pb.StatusResponse) {
	switch {
	case v.Revision == 0: // there is no view, nor an age of it
		j.say(pb.Verdict_VERDICT_UNKNOWN, "this gate has not read the registry yet: streams flow, role changes wait")
		return
	case len(out.GetServices()) == 0:
		j.say(pb.Verdict_VERDICT_UNKNOWN, "no service is registered")
	}
	switch {
	case !out.GetRegistryReachable():
		j.say(pb.Verdict_VERDICT_AT_RISK, "the registry does not answer: streams flow, role changes wait; this view of it is %s old", out.GetRegistryAge().AsDuration().Round(time.Second))
	case out.GetLeader() == "":
		j.say(pb.Verdict_VERDICT_AT_RISK, "no gate leads: role changes wait")
	}
}

// judgement collects reasons and keeps the worst verdict.
type judgement struct {
	verdict pb.Verdict
	reasons []string
}

// severity orders verdicts: what is not known is worse than a known risk, and
// nothing is worse than what is known to be broken.
var severity = map[pb.Verdict]int{
	pb.Verdict_VERDICT_SAFE: 0, pb.Verdict_VERDICT_AT_RISK: 1, pb.Verdict_VERDICT_UNKNOWN: 2, pb.Verdict_VERDICT_UNSAFE: 3,
}

func (j *judgement) say(v pb.Verdict, format string, args ...any) {
	if severity[v] > severity[j.verdict] {
		j.verdict = v
	}
	if format != "" {
		j.reasons = append(j.reasons, fmt.Sprintf(format, args...))
	}
}

func (p parts) serviceStatus(v *registry.View, name tidegate.ServiceName) *pb.ServiceStatus {
	svc := v.Services[name].Value
	out := &pb.ServiceStatus{Name: string(name), Route: routeView(v, name), Frozen: svc.Frozen, Armed: !svc.Disarmed, Drill: drillPolicy(svc)}
	if d, ok := v.Drills[name]; ok {
		out.LastDrill, out.PassedDrill = drillMessage(&d.Value.Last), drillMessage(d.Value.Passed)
	}
	if svc.RPO > 0 {
		out.Rpo = durationpb.New(svc.RPO)
	}
	if svc.RTO > 0 {
		out.Rto = durationpb.New(svc.RTO)
	}
	j := judgement{verdict: pb.Verdict_VERDICT_SAFE}
	var losses []*pb.PlanStream
	for _, st := range v.StreamsOf(name) {
		ss := p.streamStatus(v, svc, st)
		out.Streams = append(out.Streams, ss)
		for _, r := range ss.GetReasons() {
			j.say(ss.GetVerdict(), "%s: %s", st.Name, r)
		}
		j.say(ss.GetVerdict(), "")
		losses = append(losses, &pb.PlanStream{Loss: predictedLoss(p.world, v, st.ID, p.timing.Stale)})
	}
	if len(losses) == 0 {
		j.say(pb.Verdict_VERDICT_UNKNOWN, "no streams")
	}
	out.LossIfNow = serviceLoss(losses)
	out.Probe = p.probes.status(name, p.now())
	if out.GetProbe().GetEnabled() && !out.GetProbe().GetGood() {
		j.say(pb.Verdict_VERDICT_AT_RISK, "synthetic %s fails: %s", out.GetProbe().GetLevel(), out.GetProbe().GetError())
	}
	if d, ok := p.predictRTO(v, name); ok {
		out.RtoPredicted = durationpb.New(d)
		if svc.RTO > 0 && d > svc.RTO {
			j.say(pb.Verdict_VERDICT_UNSAFE, "a recovery would take about %s, the objective is %s", d.Round(10*time.Millisecond), svc.RTO)
		}
	} else if svc.RTO > 0 {
		j.say(pb.Verdict_VERDICT_AT_RISK, "the time of a recovery cannot be predicted: no warm copy reports its replay")
	}
	if svc.Disarmed {
		j.say(pb.Verdict_VERDICT_AT_RISK, "the arm switch is off: no change of role until `tidegate gate arm`")
	}
	out.Detector = p.look.status(svc)
	judgeDetector(&j, out.Detector)
	out.Verdict, out.Reasons = j.verdict, j.reasons
	return out
}

// predictRTO adds up what the steps took lately and what the best target has
// still to apply. It counts from the decision: nobody can foresee how long
// people take to make it.
func (p parts) predictRTO(v *registry.View, name tidegate.ServiceName) (time.Duration, bool) {
	target := p.world.chooseTarget(v, name, p.timing.Stale)
	if target == "" {
		return 0, false
	}
	lag, known := p.world.applyTime(v, string(name), target)
	return lag + p.forecasts.get(name).total(), known
}

func (p parts) streamStatus(v *registry.View, svc registry.Service, st registry.Stream) *pb.StreamStatus {
	out := &pb.StreamStatus{View: streamView(v, st)}
	e, ok := v.Epochs[st.ID]
	j := judgement{verdict: pb.Verdict_VERDICT_SAFE}
	defer func() { out.Verdict, out.Reasons = j.verdict, j.reasons }()
	if !ok {
		j.say(pb.Verdict_VERDICT_UNKNOWN, "no epoch record")
		return out
	}
	rec := e.Value
	w, age := p.world.writerReport(rec)
	out.Members = p.world.memberStatus(rec, st, w, p.timing.Stale)
	for _, m := range out.GetMembers() {
		if m.GetCounted() {
			out.MembersCounted++
		}
		if text := m.GetStream().GetError(); text != "" {
			j.say(pb.Verdict_VERDICT_AT_RISK, "member %s: %s", m.GetNode(), text)
		}
	}
	out.Archive = streamArchive(out.GetMembers(), p.timing.Stale)
	alive := len(p.world.aliveMembers(rec.Config, st.ID, p.timing.Stale))
	// Configured nodes at the writer's site are for the way back: they are not missed.
	wanted := rec.Config
	if c := wantedConfig(v, st, rec.Config, rec.Active.Site, func(tidegate.NodeName) bool { return true }); c != nil {
		wanted = *c
	}
	out.UnderProtected = rec.Shrunk || alive < len(wanted.Members)
	out.SiteRedundant = p.siteRedundant(v, rec)
	judgeRecord(&j, rec, st)
	switch {
	case rec.ActiveEpoch == 0: // judgeRecord has said it
	case w == nil:
		j.say(pb.Verdict_VERDICT_UNKNOWN, "the writer %s has not reported to this gate", rec.Holder.Node)
	case age > p.timing.Stale:
		j.say(pb.Verdict_VERDICT_UNKNOWN, "the writer %s has been silent for %s", rec.Holder.Node, age.Round(time.Second))
	default:
		judgeWriter(&j, w, svc, p.timing.RPOLow)
	}
	if w != nil {
		out.Writer, out.WriterReportAge = w, durationpb.New(age)
	}
	switch q := rec.Config.Quorum(); {
	case alive < q.R():
		j.say(pb.Verdict_VERDICT_UNSAFE, "%d of %d members answer, a proven recovery takes %d", alive, q.N, q.R())
	case alive < q.N:
		j.say(pb.Verdict_VERDICT_AT_RISK, "%d of %d members answer", alive, q.N)
	case w != nil && int(out.GetMembersCounted()) < q.N:
		j.say(pb.Verdict_VERDICT_AT_RISK, "%d of %d members are caught up", out.GetMembersCounted(), q.N)
	}
	if rec.Shrunk {
		j.say(pb.Verdict_VERDICT_AT_RISK, "fewer members than configured since epoch %s", rec.ActiveEpoch)
	}
	if !out.GetSiteRedundant() {
		j.say(pb.Verdict_VERDICT_AT_RISK, "no member at another site than the writer's")
	}
	return out
}

func judgeRecord(j *judgement, rec fence.EpochRecord, st registry.Stream) {
	switch {
	case rec.ActiveEpoch == 0:
		j.say(pb.Verdict_VERDICT_UNKNOWN, "never had a writer")
	case rec.State != fence.StateActive:
		j.say(pb.Verdict_VERDICT_UNSAFE, "no writer: epoch %s is %s", rec.Epoch, rec.State)
	}
	switch rec.Gate.State {
	case fence.GateArmed:
	case fence.GateDegraded:
		j.say(pb.Verdict_VERDICT_UNSAFE, "the gate is degraded since batch %s: loss is not bounded", rec.Gate.SinceSeq)
	case fence.GateBlindOK:
		j.say(pb.Verdict_VERDICT_UNSAFE, "the gate may open without a record: loss is not bounded")
	case fence.GateUnknown:
		j.say(pb.Verdict_VERDICT_UNKNOWN, "the gate's state is not known until the writer re-arms it")
	}
	if rec.Gate.State == fence.GateArmed && rec.Gate.Mode == tidegate.ModeOpen {
		j.say(pb.Verdict_VERDICT_AT_RISK, "the gate is open: nothing bounds the loss")
	}
	if st.Paused {
		j.say(pb.Verdict_VERDICT_UNSAFE, "paused: %s", first(st.Reason, "no reason was given"))
	}
}

func judgeWriter(j *judgement, w *pb.AgentStream, svc registry.Service, low float64) {
	if w.GetBlocked() {
		j.say(pb.Verdict_VERDICT_AT_RISK, "the gate is closed: the service waits for the DR site")
	}
	if w.GetError() != "" {
		j.say(pb.Verdict_VERDICT_AT_RISK, "writer: %s", w.GetError())
	}
	for _, one := range w.GetFindings() {
		if one.GetSeverity() == pb.Severity_SEVERITY_CRITICAL && one.GetName() != "" {
			j.say(pb.Verdict_VERDICT_AT_RISK, "writer: %s: %s", one.GetName(), one.GetText())
		}
	}
	x := w.GetExposure()
	switch {
	case x == nil || x.Records == nil || x.GetAge() == nil:
		j.say(pb.Verdict_VERDICT_UNKNOWN, "exposure is not known")
	case svc.RPO > 0 && x.GetAge().AsDuration() > svc.RPO:
		j.say(pb.Verdict_VERDICT_UNSAFE, "a disaster now loses %d records, the oldest %s old; the objective is %s", x.GetRecords(), x.GetAge().AsDuration().Round(time.Millisecond), svc.RPO)
	case svc.RPO > 0 && x.GetAge().AsDuration() > time.Duration(float64(svc.RPO)*low):
		j.say(pb.Verdict_VERDICT_AT_RISK, "exposed for %s, the objective is %s", x.GetAge().AsDuration().Round(time.Millisecond), svc.RPO)
	}
}

// memberStatus joins the configuration with what nodes and writer report. A
// member counts when the writer counts its acks, and it answers, and it is
// caught up: it holds what was durable one report of the writer ago. What was
// durable at this moment no node's report can tell.
func (w *world) memberStatus(rec fence.EpochRecord, st registry.Stream, writer *pb.AgentStream, stale time.Duration) []*pb.MemberStatus {
	names := slices.Clone(st.Members)
	for _, m := range rec.Config.Members {
		if !slices.Contains(names, m.Node) {
			names = append(names, m.Node)
		}
	}
	slices.Sort(names)
	w.mu.Lock()
	defer w.mu.Unlock()
	due := w.durableBefore(rec)
	var out []*pb.MemberStatus
	for _, n := range names {
		ms := &pb.MemberStatus{Node: string(n)}
		if s := w.standbys[n]; s != nil {
			ms.ReportAge = durationpb.New(w.age(s.at))
			for _, one := range s.report.GetStreams() {
				if one.GetStreamId() == rec.Stream.String() {
					ms.Stream = one
				}
			}
		}
		one := ms.GetStream()
		caughtUp := one != nil && ms.GetReportAge().AsDuration() <= stale && !one.GetLimbo() && one.GetError() == "" && one.GetDurable().GetSeq() >= due
		for _, m := range writer.GetMembers() {
			ms.Counted = ms.GetCounted() || caughtUp && m.GetNode() == string(n) && m.GetCounted()
		}
		out = append(out, ms)
	}
	return out
}

// durableBefore returns what a record's writer called durable in its report
// before the newest; 0 when there is none. Called with mu held.
func (w *world) durableBefore(rec fence.EpochRecord) uint64 {
	a := w.agents[rec.Holder.Node]
	if a == nil || a.holder != rec.Holder.UUID {
		return 0
	}
	for _, s := range a.before.GetStreams() {
		if s.GetStreamId() == rec.Stream.String() && tidegate.Epoch(s.GetEpoch()) == rec.Epoch {
			return s.GetDurableSeq()
		}
	}
	return 0
}

func (p parts) siteRedundant(v *registry.View, rec fence.EpochRecord) bool {
	return slices.ContainsFunc(rec.Config.Members, func(m fence.Member) bool {
		n, ok := v.Node(registry.KindStandby, m.Node)
		return ok && n.Site != rec.Holder.Site
	})
}

func (s *operatorService) nodesStatus(v *registry.View, out *pb.StatusResponse) {
	w := s.world
	for _, n := range nodeViews(v) {
		st := &pb.StandbyStatus{Node: n}
		w.read(func() {
			if r := w.standbys[tidegate.NodeName(n.GetNode())]; r != nil {
				st.Report, st.ReportAge = r.report, durationpb.New(w.age(r.at))
			}
		})
		out.Standbys = append(out.Standbys, st)
	}
	w.read(func() {
		for _, n := range slices.Sorted(maps.Keys(w.agents)) {
			a := w.agents[n]
			st := &pb.AgentStatus{Node: string(n), Site: string(a.site), Connected: a.sessions > 0}
			if a.report != nil {
				st.Report, st.ReportAge = a.report, durationpb.New(w.age(a.at))
			}
			out.Agents = append(out.Agents, st)
		}
		for _, n := range slices.Sorted(maps.Keys(w.routes)) {
			r := w.routes[n]
			out.Routes = append(out.Routes, &pb.RouteStatus{Name: n, Site: r.report.GetSite(), Services: r.report.GetServices(), ReportAge: durationpb.New(w.age(r.at))})
		}
	})
}

func (p *probes) status(s tidegate.ServiceName, now time.Time) *pb.ProbeStatus {
	one := p.all[s]
	if one == nil {
		return &pb.ProbeStatus{}
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	out := &pb.ProbeStatus{Enabled: true, Good: one.good, Kind: one.cfg.Kind, Level: string(one.cfg.Level), Verify: one.cfg.Verify}
	if one.err != nil {
		out.Error = one.err.Error()
	}
	if !one.lastGood.IsZero() {
		out.SinceLastGood, out.Latency = durationpb.New(now.Sub(one.lastGood)), durationpb.New(one.latency)
	}
	return out
}

// streamArchive says how a stream stands to the archive: as the node says that uploads,
// else the one that has the most archived. Reports older than stale say nothing.
func streamArchive(members []*pb.MemberStatus, stale time.Duration) *pb.StreamArchive {
	out := &pb.StreamArchive{}
	silent := false // one that is may be the one that uploads
	for _, m := range members {
		if m.GetStream() == nil || m.GetReportAge().AsDuration() > stale {
			silent = true
			continue
		}
		a := m.GetStream().GetArchive()
		if a == nil {
			continue
		}
		if had := out.GetSaid(); had != nil && !(a.GetArchivist() && !had.GetArchivist() || a.GetArchivist() == had.GetArchivist() && a.GetArchivedSeq() > had.GetArchivedSeq()) {
			continue
		}
		out.Node, out.ReportAge, out.Said = m.GetNode(), m.GetReportAge(), a
		switch {
		case !a.GetArchivist():
			out.State = pb.ArchiveState_ARCHIVE_STATE_IDLE
		case a.GetError() != "":
			out.State = pb.ArchiveState_ARCHIVE_STATE_FAILS
		default:
			out.State = pb.ArchiveState_ARCHIVE_STATE_UPLOADS
		}
	}
	if out.GetSaid() == nil && !silent && len(members) > 0 {
		out.State = pb.ArchiveState_ARCHIVE_STATE_NONE
	}
	return out
}
