package gating

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
)

// From which a finding is made.
const (
	certificateSoon = 14 * 24 * time.Hour
	diskFullSoon    = 24 * time.Hour
	diskFreeLow     = 0.10
	clockSkewMax    = 500 * time.Millisecond // beyond what a report's own delay explains on a healthy network
)

// findings collects what needs attention.
type findings struct{ all []*pb.Finding }

func (f *findings) add(s pb.Severity, subject, next, format string, args ...any) {
	f.all = append(f.all, &pb.Finding{Severity: s, Subject: subject, Finding: fmt.Sprintf(format, args...), NextStep: next})
}

// Doctor implements OperatorService.
func (s *operatorService) Doctor(ctx context.Context, _ *connect.Request[pb.DoctorRequest]) (*connect.Response[pb.DoctorResponse], error) {
	if err := s.control.elsewhere("doctor"); err != nil {
		return nil, err
	}
	f := &findings{}
	v, reachable, _ := s.world.current()
	if !reachable {
		f.add(pb.Severity_SEVERITY_CRITICAL, "registry", "see the gate's log and the disk it lies on", "the registry does not answer; role changes wait")
	}
	if left := s.certificate(); left < certificateSoon {
		f.add(severityOf(left < 24*time.Hour), "gate "+s.name, "issue a new certificate; it is taken up without a restart", "its certificate expires in %s", left.Round(time.Hour))
	}
	for name, why := range s.control.notifier.failing() {
		f.add(pb.Severity_SEVERITY_WARNING, "receiver "+name, "repair it; everything it asked for waits for it, in order", "does not take notifications: %s", why)
	}
	s.doctorBackups(f)
	s.doctorStandbys(f, v)
	s.doctorStreams(ctx, f, v)
	s.doctorStores(f, v)
	s.doctorProbes(f, v)
	return connect.NewResponse(&pb.DoctorResponse{Findings: f.all}), nil
}

// doctorBackups tells when the registry is not being backed up where it should be;
// only the gate that leads knows.
func (s *operatorService) doctorBackups(f *findings) {
	b := s.backups
	if b.open == nil || !s.control.leads() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	const next = "see the gate's log; until then a registry that is lost is rebuilt from the standby nodes (`tidegate gate rebuild`), without any zero-loss claim"
	if b.stuck != nil {
		f.add(pb.Severity_SEVERITY_WARNING, "registry-backup", "let the gates remove objects below registry/, or have the bucket's own rules do it", "old backups of the registry are not removed: %s", b.stuck)
	}
	why := "not tried yet"
	if b.failed != nil {
		why = b.failed.Error()
	}
	switch {
	case b.newest.Revision > 0:
		if age := s.now().Sub(b.newest.Taken); age > b.late() {
			f.add(pb.Severity_SEVERITY_WARNING, "registry-backup", next, "the newest backup of the registry is %s old: %s", age.Round(time.Minute), why)
		}
	case b.failed != nil:
		f.add(pb.Severity_SEVERITY_WARNING, "registry-backup", next, "no backup of the registry is known: %s", why)
	}
}

func severityOf(critical bool) pb.Severity {
	if critical {
		return pb.Severity_SEVERITY_CRITICAL
	}
	return pb.Severity_SEVERITY_WARNING
}

func (s *operatorService) doctorStandbys(f *findings, v *registry.View) {
	for _, n := range nodeViews(v) {
		name := tidegate.NodeName(n.GetNode())
		var rep *pb.ReportStandbyRequest
		var age time.Duration
		s.world.read(func() {
			if st := s.world.standbys[name]; st != nil {
				rep, age = st.report, s.world.age(st.at)
			}
		})
		subject := "standby " + n.GetNode()
		switch {
		case rep == nil:
			f.add(pb.Severity_SEVERITY_WARNING, subject, "start it, or check its gates and certificate", "has not reported to this gate")
			continue
		case age > s.timing.Stale:
			f.add(pb.Severity_SEVERITY_CRITICAL, subject, "see whether the process runs and reaches a gate", "silent for %s", age.Round(time.Second))
		}
		if rep.GetIncarnation() != n.GetIncarnation() {
			f.add(pb.Severity_SEVERITY_WARNING, subject, "nothing, if its disk was replaced: it counts again once it has caught up", "runs on another data directory than the registered one")
		}
		if sent := rep.GetSent(); sent != nil {
			// The report's age is taken off: what remains is skew plus its way here.
			if skew := s.now().Add(-age).Sub(sent.AsTime()).Abs(); skew > clockSkewMax {
				f.add(pb.Severity_SEVERITY_WARNING, subject, "repair its time synchronisation", "its clock differs from the gate's by %s", skew.Round(time.Millisecond))
			}
		}
		doctorDisk(f, subject, rep)
	}
}

func doctorDisk(f *findings, subject string, rep *pb.ReportStandbyRequest) {
	free, total := rep.GetDiskFreeBytes(), rep.GetDiskTotalBytes()
	if total == 0 {
		return
	}
	next := "free space or grow the disk; a full node refuses batches, and with fewer than W nodes left the gate closes"
	if rate := rep.GetGrowthBytesPerSecond(); rate > 0 {
		if left := time.Duration(float64(free) / rate * float64(time.Second)); left > 0 && left < diskFullSoon {
			f.add(severityOf(left < time.Hour), subject, next, "its disk is full in about %s at this rate", left.Round(time.Minute))
			return
		}
	}
	if share := float64(free) / float64(total); share < diskFreeLow {
		f.add(pb.Severity_SEVERITY_WARNING, subject, next, "%.0f%% of its disk is free", share*100)
	}
}

func (s *operatorService) doctorStreams(ctx context.Context, f *findings, v *registry.View) {
	known := map[string]bool{}
	for id, e := range v.Streams {
		known[id.String()] = true
		rec, subject := v.Epochs[id].Value, fmt.Sprintf("stream %s/%s", e.Value.Service, e.Value.Name)
		if rec.Restored {
			f.add(pb.Severity_SEVERITY_CRITICAL, subject, "nothing, if a writer is active: it re-arms; otherwise start the service", "the registry went back in time; no zero-loss claim until the writer re-arms")
		}
		if rec.State == fence.StateDemoted && rec.Handover != nil {
			f.add(pb.Severity_SEVERITY_CRITICAL, subject, "`tidegate switchover` again, or let the old writer's agent acquire", "plan %s left it without a writer: %s has handed over", rec.Plan, rec.Holder.Node)
		}
		if b := e.Value.Brake; b != nil {
			f.add(pb.Severity_SEVERITY_CRITICAL, subject, "`tidegate gate arm "+string(e.Value.Service)+"` once the reason is gone", "runs unprotected since %s by the brake of %s: %s", b.Since.Format(time.RFC3339), b.Actor, b.Reason)
		}
		if rec.State == fence.StateFencing || rec.State == fence.StateRecovering {
			f.add(pb.Severity_SEVERITY_CRITICAL, subject, "look at the plan, then run the failover again or let the old writer's agent acquire", "plan %s left it without a writer in %s", rec.Plan, rec.State)
		}
		s.doctorWriter(f, subject, e.Value, rec)
		for _, m := range rec.Config.Members {
			if n, ok := v.Node(registry.KindStandby, m.Node); ok && n.APIAddress == "" {
				f.add(pb.Severity_SEVERITY_WARNING, subject, "set the node's API address", "member %s has no address", m.Node)
			}
		}
	}
	s.world.read(func() {
		for name, st := range s.world.standbys {
			for _, one := range st.report.GetStreams() {
				if !known[one.GetStreamId()] && v.Revision > 0 {
					f.add(pb.Severity_SEVERITY_INFO, "standby "+string(name), "remove it there once nobody needs it; it is never deleted by itself", "keeps stream %s, which is not registered", one.GetStreamId())
				}
				if one.GetQuarantineBytes() > 0 {
					f.add(pb.Severity_SEVERITY_INFO, "standby "+string(name), "look at it, archive it, then remove it by hand", "%d bytes of stream %s in quarantine", one.GetQuarantineBytes(), one.GetStreamId())
				}
			}
		}
	})
	for _, name := range v.ServiceNames() {
		svc := v.Services[name].Value
		if svc.SingleRegistry && !s.survives {
			f.add(pb.Severity_SEVERITY_INFO, "service "+string(name), "run etcd with members at three sites and name them in the gate's registry.sites",
				"its degrading, leases or detector rest on a registry that may be lost together with a site, as an operator wanted")
		}
		if svc.Disarmed && !braked(v, name) {
			f.add(pb.Severity_SEVERITY_WARNING, "service "+string(name), "`tidegate gate arm "+string(name)+"`", "its arm switch is off: role changes are refused")
		}
		if behind := s.world.behind(svc, v.Routes[name].Value.Epoch); len(behind) > 0 {
			f.add(pb.Severity_SEVERITY_WARNING, "service "+string(name), "see whether `tidegate route` runs and reaches a gate", "routes %v are not in step", behind)
		}
	}
	if err := ctx.Err(); err != nil {
		f.add(pb.Severity_SEVERITY_INFO, "doctor", "run it again", "cut short: %v", err)
	}
}

func braked(v *registry.View, s tidegate.ServiceName) bool {
	for _, st := range v.StreamsOf(s) {
		if st.Brake != nil {
			return true
		}
	}
	return false
}

// doctorWriter finds streams that nobody ships.
func (s *operatorService) doctorWriter(f *findings, subject string, st registry.Stream, rec fence.EpochRecord) {
	name := fmt.Sprintf("%s/%s", st.Service, st.Name)
	if st.Paused {
		f.add(pb.Severity_SEVERITY_WARNING, subject, "`tidegate streams resume "+name+"`", "is paused (%s): its exposure grows", first(st.Reason, "no reason was given"))
	}
	if rec.ActiveEpoch == 0 {
		f.add(pb.Severity_SEVERITY_WARNING, subject, "start the service and the agent beside it with this stream, or `tidegate streams remove "+name+"`",
			"never had a writer: its service cannot fail over")
		return
	}
	if rec.State != fence.StateActive {
		return
	}
	next := "see whether the agent on " + string(rec.Holder.Node) + " runs and reaches a gate; if its site is lost, `tidegate failover " + string(st.Service) + "`"
	switch w, age := s.world.writerReport(rec); {
	case w == nil:
		f.add(pb.Severity_SEVERITY_CRITICAL, subject, next, "its writer %s has not reported to this gate", rec.Holder.Node)
	case age > s.timing.Stale:
		f.add(pb.Severity_SEVERITY_CRITICAL, subject, next, "its writer %s has been silent for %s", rec.Holder.Node, age.Round(time.Second))
	}
}
