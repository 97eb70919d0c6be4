package gating

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/drills/schedule"
	"github.com/tidegate/tidegate/gating/registry"
)

// DrillStatus implements OperatorService. Workers speak with the leader, so that it knows.
func (s *operatorService) DrillStatus(ctx context.Context, req *connect.Request[pb.DrillStatusRequest]) (*connect.Response[pb.DrillStatusResponse], error) {
	const op = "show drills of"
	if err := s.control.elsewhere(op); err != nil {
		return nil, err
	}
	v, err := s.store.Read(ctx)
	if err != nil {
		return nil, s.old(err)
	}
	s.world.setView(v)
	wanted := tidegate.ServiceName(req.Msg.GetService())
	if _, ok := v.Services[wanted]; wanted != "" && !ok {
		return nil, notFound(op, string(wanted), "see `tidegate streams list`")
	}
	out := &pb.DrillStatusResponse{Now: timestamppb.New(s.world.clock.Wall())}
	for _, name := range v.ServiceNames() {
		if wanted == "" || name == wanted {
			out.Services = append(out.Services, s.serviceDrills(v, name))
		}
	}
	return connect.NewResponse(out), nil
}

func (s *operatorService) serviceDrills(v *registry.View, name tidegate.ServiceName) *pb.ServiceDrills {
	one := v.Schedules[name].Value
	out := &pb.ServiceDrills{
		Service: string(name), Schedule: scheduleMessage(one.InForce()), ByDefault: one.Policy == nil,
		Running: s.runningMessage(one), Ended: endMessage(one.Ended),
	}
	if d, ok := v.Drills[name]; ok {
		out.Last = drillMessage(&d.Value.Last)
	}
	if a, ok := s.rehearsals.asker(name); ok {
		out.Worker, out.WorkerSilent = a.worker, durationpb.New(time.Duration(s.world.clock.Boot()-a.at))
	}
	d, err := s.due(v, name, s.control.against(v, name))
	if err != nil {
		out.Why = err.Error()
		return out
	}
	table, err := s.rehearsals.table(one)
	if err != nil {
		out.Why = err.Error()
		return out
	}
	out.Why, out.Pending, out.Next = d.Why, occurrenceMessage(table, d.At), occurrenceMessage(table, d.Next)
	if v.Schedules[name].Revision != 0 {
		out.Overdue = &d.Overdue
	}
	if d.Begin {
		out.Why = "a worker is to take it"
		if out.GetWorker() == "" {
			out.Why = "no worker has asked for drills of the service: `tidegate drill worker`"
		}
	}
	return out
}

// runningMessage is the drill that a worker has taken; nil: none.
func (p parts) runningMessage(s registry.Schedule) *pb.RunningDrill {
	c := s.Claim
	if c == nil {
		return nil
	}
	boot := p.world.clock.Boot()
	h := p.rehearsals.of(c.ID, boot)
	out := &pb.RunningDrill{
		Claim: c.ID, Worker: c.Worker, Level: c.Level, Scenario: c.Scenario, Occurrence: timestamppb.New(c.Occurrence), Since: timestamppb.New(c.Since),
		Step: h.step, Silent: durationpb.New(time.Duration(boot - h.at)),
	}
	if d, ok := s.Expected(); ok {
		out.Expected = durationpb.New(d)
	}
	if c.Abort != nil {
		out.Abort = &pb.DrillAbort{Actor: c.Abort.Actor, Reason: c.Abort.Reason, At: timestamppb.New(c.Abort.At)}
	}
	return out
}

func (p parts) claimMessage(service tidegate.ServiceName, c registry.Claim) *pb.DrillClaim {
	return &pb.DrillClaim{
		Id: c.ID, Service: string(service), Level: c.Level, Scenario: c.Scenario, Occurrence: timestamppb.New(c.Occurrence), Silence: durationpb.New(p.silence),
	}
}

func endMessage(e *registry.DrillEnd) *pb.DrillEnd {
	if e == nil {
		return nil
	}
	return &pb.DrillEnd{Occurrence: timestamppb.New(e.Occurrence), Outcome: e.Outcome, Why: e.Why, Ended: timestamppb.New(e.At), Worker: e.Worker, Claim: e.Claim}
}

// occurrenceMessage is nil for the zero occurrence.
func occurrenceMessage(t *schedule.Timetable, o schedule.Occurrence) *pb.DrillOccurrence {
	if o.At.IsZero() {
		return nil
	}
	out := &pb.DrillOccurrence{At: timestamppb.New(o.At), Due: timestamppb.New(o.Due), Until: timestamppb.New(o.Until)}
	if why, until := t.Blocked(o); why != "" {
		out.Blocked, out.BlockedUntil = why, timestamppb.New(until)
	}
	return out
}

func scheduleMessage(p schedule.Policy) *pb.DrillSchedule {
	return &pb.DrillSchedule{
		Off: p.Off, Cron: p.Cron, Zone: p.Zone, Jitter: durationpb.New(p.Jitter), Missed: string(p.Missed), Grace: someDuration(p.Grace),
		Settle: durationpb.New(p.Settle), Blocked: p.Blocked, Dates: p.Dates,
	}
}

func schedulePolicy(m *pb.DrillSchedule) schedule.Policy {
	return schedule.Policy{
		Off: m.GetOff(), Cron: m.GetCron(), Zone: m.GetZone(), Jitter: m.GetJitter().AsDuration(), Missed: schedule.Missed(m.GetMissed()),
		Grace: m.GetGrace().AsDuration(), Settle: m.GetSettle().AsDuration(), Blocked: m.GetBlocked(), Dates: m.GetDates(),
	}
}
