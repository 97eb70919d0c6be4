package gating

import (
	"context"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/gating/registry"
)

// operatorService answers operators.
type operatorService struct {
	parts
	tidegatev1connect.UnimplementedOperatorServiceHandler
	control *controller
	cfg     Config
	cluster string

	certificate func() time.Duration // how long the gate's own is valid still
}

func lossMessage(l fence.LossStatement) *pb.LossStatement { return fencewire.LossMessage(l) }

// Failover implements OperatorService.
func (s *operatorService) Failover(ctx context.Context, req *connect.Request[pb.FailoverRequest], out *connect.ServerStream[pb.FailoverResponse]) error {
	m := req.Msg
	if err := s.control.elsewhere("failover"); err != nil {
		return err
	}
	v, err := s.store.Read(ctx)
	if err != nil {
		return err
	}
	s.world.setView(v)
	q := question{service: tidegate.ServiceName(m.GetService()), target: tidegate.NodeName(m.GetTarget()), acceptLoss: m.GetAcceptLoss(), attest: m.GetAttestPrimaryDown()}
	rec, err := s.control.failoverPlan(ctx, v, q, m.GetReason(), actor(ctx))
	if err != nil {
		return err
	}
	no := failing(rec.view.GetRules())
	if m.GetDryRun() || no {
		rec.view.Outcome = pb.PlanOutcome_PLAN_OUTCOME_DRY_RUN
		if !m.GetDryRun() {
			rec.view.Outcome, rec.view.Ended = pb.PlanOutcome_PLAN_OUTCOME_REFUSED, timestamppb.New(s.now())
			s.log.Info("failover refused", "service", q.service, "target", rec.view.GetTarget().GetNode(), "actor", actor(ctx))
			s.metrics.plans.WithLabelValues(string(fence.KindFailover), "refused").Inc()
		}
		if err := out.Send(&pb.FailoverResponse{Event: &pb.FailoverResponse_Plan{Plan: rec.view}}); err != nil || !no {
			return err
		}
		return &tidegate.Error{
			Op: "failover", Subject: m.GetService(), Class: tidegate.Refused, Err: &api.RulesError{Rules: rec.view.GetRules()},
			Hint: overrideHint(rec.view.GetRules()),
		}
	}
	h, err := s.control.start(ctx, rec)
	if err != nil {
		return err
	}
	if err := out.Send(&pb.FailoverResponse{Event: &pb.FailoverResponse_Plan{Plan: rec.view}}); err != nil {
		return err
	}
	return s.watchPlan(ctx, h, out)
}

func overrideHint(rules []*pb.RuleVerdict) string {
	var with []string
	for _, r := range rules {
		if r.GetHolds() {
			continue
		}
		if r.GetOverride() == "" {
			return nextStep(r.GetRule())
		}
		with = unique(with, []string{r.GetOverride()})
	}
	return fmt.Sprintf("if it must be, repeat with %s; the override is recorded with your name and reason", strings.Join(with, " "))
}

// nextStep is what to do about a rule that has no override.
func nextStep(rule string) string {
	switch rule {
	case ruleFreeze:
		return "allow role changes again with `tidegate gate thaw`"
	case ruleTarget:
		return "name another --target: `tidegate status` lists the standby nodes and their agents"
	case ruleRecord:
		return "start a writer on that stream, or take it out of the service with `tidegate streams remove`"
	case ruleAdopt:
		return "name a --target that is a member of every stream and answers, or bring members back"
	}
	return "rule " + rule + " has no override; make it hold"
}

func actor(ctx context.Context) string {
	id := callerOf(ctx)
	return string(id.Role) + "/" + id.Name
}

// watchPlan passes a run's steps on until it is over. The run goes on when the
// operator goes away.
func (s *operatorService) watchPlan(ctx context.Context, h *handle, out *connect.ServerStream[pb.FailoverResponse]) error {
	sent := 0
	for over := false; ; {
		steps, changed := h.since(sent)
		for _, st := range steps {
			if err := out.Send(&pb.FailoverResponse{Event: &pb.FailoverResponse_Step{Step: st}}); err != nil {
				return err
			}
		}
		sent += len(steps)
		if over {
			break
		}
		select {
		case <-changed:
		case <-h.over:
			over = true // once more, for what came last
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	p, view, err := h.result()
	if err != nil {
		return &tidegate.Error{
			Op: "failover", Subject: view.GetService(), Class: tidegate.Transient, Err: err,
			Hint: "the plan is on record and the next leading gate goes on with it: `tidegate plan show " + view.GetId() + "`",
		}
	}
	if err := s.measure(ctx, view); err != nil {
		s.log.Warn("measured loss not read", "plan", view.GetId(), "err", err)
	}
	if err := out.Send(&pb.FailoverResponse{Event: &pb.FailoverResponse_Done{Done: view}}); err != nil {
		return err
	}
	return verdictErr(p, view)
}

// ShowPlan implements OperatorService.
func (s *operatorService) ShowPlan(ctx context.Context, req *connect.Request[pb.ShowPlanRequest]) (*connect.Response[pb.ShowPlanResponse], error) {
	var rec planRecord
	rev, err := s.store.Get(ctx, registry.PlanKey(req.Msg.GetId()), &rec)
	if err != nil {
		return nil, err
	}
	if rev == 0 {
		return nil, notFound("show plan", req.Msg.GetId(), "see `tidegate plan list`")
	}
	if err := s.measure(ctx, rec.view); err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.ShowPlanResponse{Plan: rec.view}), nil
}

// How many plans are listed when nothing else is asked for, and at most.
const (
	plansShown    = 50
	plansShownMax = 1000
)

// ListPlans implements OperatorService.
func (s *operatorService) ListPlans(ctx context.Context, req *connect.Request[pb.ListPlansRequest]) (*connect.Response[pb.ListPlansResponse], error) {
	m := req.Msg
	limit := min(int(m.GetLimit()), plansShownMax)
	if limit == 0 {
		limit = plansShown
	}
	if _, err := api.ParseID("before", m.GetBefore()); err != nil {
		return nil, misuse("list plans", m.GetService(), err)
	}
	recs, err := s.plans(ctx, tidegate.ServiceName(m.GetService()), m.GetBefore(), limit+1)
	if err != nil {
		return nil, err
	}
	out := &pb.ListPlansResponse{}
	for i, r := range recs {
		if i == limit {
			out.Next = recs[i-1].view.GetId()
			break
		}
		if err := s.measure(ctx, r.view); err != nil {
			return nil, err
		}
		out.Plans = append(out.Plans, r.view)
	}
	return connect.NewResponse(out), nil
}

// ListStreams implements OperatorService.
func (s *operatorService) ListStreams(ctx context.Context, req *connect.Request[pb.ListStreamsRequest]) (*connect.Response[pb.ListStreamsResponse], error) {
	v, err := s.store.Read(ctx)
	if err != nil {
		return nil, err
	}
	out := &pb.ListStreamsResponse{}
	for _, name := range v.ServiceNames() {
		if f := req.Msg.GetService(); f != "" && f != string(name) {
			continue
		}
		for _, st := range v.StreamsOf(name) {
			out.Streams = append(out.Streams, streamView(v, st))
		}
	}
	return connect.NewResponse(out), nil
}
