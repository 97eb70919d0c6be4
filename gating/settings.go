package gating

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/gating/rules"
)

var detectorModesOf = map[pb.DetectorMode]registry.DetectorMode{
	pb.DetectorMode_DETECTOR_MODE_UNSPECIFIED: registry.DetectorOff, pb.DetectorMode_DETECTOR_MODE_OFF: registry.DetectorOff,
	pb.DetectorMode_DETECTOR_MODE_OBSERVE: registry.DetectorObserve, pb.DetectorMode_DETECTOR_MODE_AUTO: registry.DetectorAuto,
}

// detectorOf converts detector settings; nil is off. Whether the numbers make
// sense, and whether it may act, is decided where it is known.
func detectorOf(m *pb.DetectorSettings) (registry.Detector, error) {
	mode, ok := detectorModesOf[m.GetMode()]
	d := registry.Detector{Mode: mode, DownAfter: m.GetDownAfter().AsDuration(), AntiFlap: m.GetAntiFlap().AsDuration(), Agree: int(m.GetAgree())}
	if !ok {
		return d, fmt.Errorf("detector mode %s: want off, observe or auto", m.GetMode())
	}
	if err := settingsOf(d).Validate(); err != nil {
		return d, fmt.Errorf("detector: %w", err)
	}
	return d, nil
}

// SetDetector implements OperatorService.
func (s *operatorService) SetDetector(ctx context.Context, req *connect.Request[pb.SetDetectorRequest]) (*connect.Response[pb.SetDetectorResponse], error) {
	m := req.Msg
	if m.GetDetector() == nil && m.GetDrill() == nil {
		return nil, misuse("set detector", m.GetService(), errors.New("want detector settings or a drill policy"))
	}
	if err := s.control.elsewhere("set detector"); err != nil {
		return nil, err // what may act rests on what the leader hears
	}
	d, err := detectorOf(m.GetDetector())
	if err == nil && m.GetDrill().GetMaxAge().AsDuration() < 0 {
		err = errors.New("drill max age: want none negative")
	}
	if err != nil {
		return nil, misuse("set detector", m.GetService(), err)
	}
	var next registry.Service
	err = s.change(ctx, func() error {
		v, svc, _, err := s.ofService(ctx, "set detector", m.GetService(), "")
		if err != nil {
			return err
		}
		next = svc.Value
		next.SingleRegistry = next.SingleRegistry || m.GetSingleRegistry()
		e := s.entry(ctx, ActionDetectorSet, next.Name, m.GetReason())
		if m.GetDetector() != nil {
			if err := s.look.checkDetector(v, next.Name, d); err != nil {
				return &tidegate.Error{Op: "set detector", Subject: m.GetService(), Class: tidegate.Refused, Err: err, Hint: "observe first: `tidegate status` shows what it sees"}
			}
			e.Detail = append(e.Detail, fact("mode", "%s -> %s", first(string(next.Detector.Mode), string(registry.DetectorOff)), d.Mode),
				fact("down_after", "%s", settingsOf(d).DownAfter), fact("agree", "%d", settingsOf(d).Agree))
			next.Detector = d
		}
		if m.GetDrill() != nil {
			e.Detail = append(e.Detail, fact("drill_max_age", "%s -> %s", next.DrillAge, m.GetDrill().GetMaxAge().AsDuration()))
			next.DrillAge = m.GetDrill().GetMaxAge().AsDuration()
		}
		if err := s.outlives("set detector", next, nil); err != nil {
			return err
		}
		key := registry.ServiceKey(next.Name)
		_, err = s.store.Commit(ctx, new(registry.Tx).Unchanged(key, svc.Revision).Put(key, next).Audit(e))
		return err
	})
	if err != nil {
		return nil, err
	}
	s.log.Info("detector set", "service", m.GetService(), "mode", next.Detector.Mode, "actor", actor(ctx))
	return connect.NewResponse(&pb.SetDetectorResponse{Service: serviceMessage(next)}), nil
}

// serviceMessage is a service as configured.
func serviceMessage(svc registry.Service) *pb.Service {
	out := &pb.Service{
		Name: string(svc.Name), Rpo: someDuration(svc.RPO), Rto: someDuration(svc.RTO), Routes: svc.Routes, LeaseTtl: someDuration(svc.LeaseTTL),
		Detector: detectorSettings(svc.Detector), Drill: drillPolicy(svc),
	}
	for site, at := range svc.Endpoints {
		out.Endpoints = append(out.Endpoints, &pb.SiteEndpoints{Site: string(site), Endpoints: at})
	}
	if svc.MaxLoss != nil {
		out.MaxLoss = api.BoundsMessage(*svc.MaxLoss)
	}
	return out
}

func drillPolicy(svc registry.Service) *pb.DrillPolicy {
	if svc.DrillAge == 0 {
		return nil
	}
	return &pb.DrillPolicy{MaxAge: durationpb.New(svc.DrillAge)}
}

// GateExplain implements OperatorService.
func (s *operatorService) GateExplain(ctx context.Context, req *connect.Request[pb.GateExplainRequest]) (*connect.Response[pb.GateExplainResponse], error) {
	m := req.Msg
	if err := s.control.elsewhere("explain gate"); err != nil {
		return nil, err
	}
	v, err := s.store.Read(ctx)
	if err != nil {
		return nil, s.old(err)
	}
	s.world.setView(v)
	service := tidegate.ServiceName(m.GetService())
	if _, ok := v.Services[service]; !ok {
		return nil, notFound("explain gate", m.GetService(), "see `tidegate streams list`")
	}
	given, err := s.overridesInForce(ctx, service)
	if err != nil {
		return nil, s.old(err)
	}
	ch := roleChange{question: question{service: service, target: tidegate.NodeName(m.GetTarget()), actor: actor(ctx), overrides: given, at: s.now()}, kind: m.GetKind()}
	if ch.kind == pb.PlanKind_PLAN_KIND_RECONFIGURE {
		rec, err := s.control.reconfigurePlan(ctx, v, ch, s.control.wantedByOperator(v))
		if err != nil {
			return nil, err
		}
		return connect.NewResponse(&pb.GateExplainResponse{Rules: rec.view.GetRules(), Refused: failing(rec.view.GetRules())}), nil
	}
	if ch.kind == pb.PlanKind_PLAN_KIND_UNSPECIFIED {
		ch.kind = pb.PlanKind_PLAN_KIND_FAILOVER
	}
	if ch.action = actions[ch.kind]; ch.action == "" {
		return nil, misuse("explain gate", m.GetService(), fmt.Errorf("kind %s: want failover, takeover, switchover, failback or reconfigure", m.GetKind()))
	}
	if m.GetAuto() {
		ch.action = rules.Auto
	}
	rec, err := s.control.changePlan(ctx, v, ch)
	if err != nil {
		return nil, err
	}
	target := rec.view.GetTarget().GetNode()
	if rec.next != nil {
		target = string(rec.next.Target)
	}
	return connect.NewResponse(&pb.GateExplainResponse{Rules: rec.view.GetRules(), Refused: failing(rec.view.GetRules()), Target: target}), nil
}

// ListOverrides implements OperatorService.
func (s *operatorService) ListOverrides(ctx context.Context, req *connect.Request[pb.ListOverridesRequest]) (*connect.Response[pb.ListOverridesResponse], error) {
	if err := s.known(ctx, "list overrides", req.Msg.GetService()); err != nil {
		return nil, err
	}
	all, err := s.listOverrides(ctx, tidegate.ServiceName(req.Msg.GetService()), false)
	if err != nil {
		return nil, s.old(err)
	}
	out := &pb.ListOverridesResponse{}
	for _, o := range all {
		out.Overrides = append(out.Overrides, overrideMessage(o))
	}
	return connect.NewResponse(out), nil
}

// PutOverrides implements OperatorService.
func (s *operatorService) PutOverrides(ctx context.Context, req *connect.Request[pb.PutOverridesRequest]) (*connect.Response[pb.PutOverridesResponse], error) {
	m := req.Msg
	var wishes []overrideWish
	for _, o := range m.GetOverrides() {
		wishes = append(wishes, overrideWish{rule: o.GetRule(), reason: first(o.GetReason(), m.GetReason()), expires: m.GetExpires().AsDuration()})
	}
	if len(wishes) == 0 {
		return nil, misuse("override", m.GetService(), errors.New("overrides: want a rule at least"))
	}
	put, err := s.putOverrides(ctx, tidegate.ServiceName(m.GetService()), actor(ctx), wishes)
	if err != nil {
		return nil, err
	}
	out := &pb.PutOverridesResponse{}
	for _, o := range put {
		out.Overrides = append(out.Overrides, overrideMessage(o))
	}
	return connect.NewResponse(out), nil
}

// RevokeOverride implements OperatorService. An override's id is service/rule.
func (s *operatorService) RevokeOverride(ctx context.Context, req *connect.Request[pb.RevokeOverrideRequest]) (*connect.Response[pb.RevokeOverrideResponse], error) {
	service, rule, ok := strings.Cut(req.Msg.GetId(), "/")
	if !ok || rule == "" {
		return nil, misuse("revoke override", req.Msg.GetId(), errors.New("id: want SERVICE/RULE, as listed"))
	}
	if _, err := s.revokeOverride(ctx, tidegate.ServiceName(service), rule, actor(ctx), req.Msg.GetReason()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.RevokeOverrideResponse{}), nil
}

// registryAge is how old the answer's tables are; nil when there are none.
func (p parts) registryAge() *durationpb.Duration {
	if age, ok := p.world.viewAge(); ok {
		return durationpb.New(age.Round(time.Millisecond))
	}
	return nil
}
