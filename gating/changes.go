package gating

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/gating/rules"
)

var kindNames = map[pb.PlanKind]string{
	pb.PlanKind_PLAN_KIND_ACQUIRE: "acquire", pb.PlanKind_PLAN_KIND_FAILOVER: "failover", pb.PlanKind_PLAN_KIND_TAKEOVER: "takeover",
	pb.PlanKind_PLAN_KIND_SWITCHOVER: "switchover", pb.PlanKind_PLAN_KIND_FAILBACK: "failback", pb.PlanKind_PLAN_KIND_RECONFIGURE: "reconfigure",
}

// kindName is what an operator calls a kind of plan.
func kindName(k pb.PlanKind) string { return first(kindNames[k], "change role") }

func lossName(k pb.LossKind) string {
	switch k {
	case pb.LossKind_LOSS_KIND_ZERO:
		return "zero"
	case pb.LossKind_LOSS_KIND_AT_MOST:
		return "at most"
	case pb.LossKind_LOSS_KIND_UNKNOWN, pb.LossKind_LOSS_KIND_UNSPECIFIED:
	}
	return "unknown"
}

// events is where the caller of a change is told how it goes.
type events struct {
	plan, done func(*pb.Plan) error
	step       func(*pb.PlanStep) error
}

// ChangeRole implements OperatorService.
func (s *operatorService) ChangeRole(ctx context.Context, req *connect.Request[pb.ChangeRoleRequest], out *connect.ServerStream[pb.ChangeRoleResponse]) error {
	return s.changeRole(ctx, req.Msg, events{
		plan: func(p *pb.Plan) error {
			return out.Send(&pb.ChangeRoleResponse{Event: &pb.ChangeRoleResponse_Plan{Plan: p}})
		},
		step: func(p *pb.PlanStep) error {
			return out.Send(&pb.ChangeRoleResponse{Event: &pb.ChangeRoleResponse_Step{Step: p}})
		},
		done: func(p *pb.Plan) error {
			return out.Send(&pb.ChangeRoleResponse{Event: &pb.ChangeRoleResponse_Done{Done: p}})
		},
	})
}

// changeRole draws a change, and unless it is a dry run or a rule refuses, begins
// it and tells how it goes.
func (s *operatorService) changeRole(ctx context.Context, m *pb.ChangeRoleRequest, to events) error {
	op := kindName(m.GetKind())
	if err := s.control.elsewhere(op); err != nil {
		return err
	}
	if err := checkChange(m); err != nil {
		s.noteRefusal(ctx, changeRoleProcedure, m, misuse(op, m.GetService(), err))
		return misuse(op, m.GetService(), err)
	}
	ch := roleChange{
		question: question{
			service: tidegate.ServiceName(m.GetService()), target: tidegate.NodeName(m.GetTarget()), acceptLoss: m.GetAcceptLoss(),
			attest: m.GetAttestPrimaryDown(), actor: actor(ctx), reason: m.GetReason(),
		},
		kind: m.GetKind(), drain: m.GetDrainTimeout().AsDuration(), who: actor(ctx),
	}
	return s.carry(ctx, op, m.GetDryRun(), to, func() (planRecord, error) {
		v, err := s.store.Read(ctx)
		if err != nil {
			return planRecord{}, err
		}
		s.world.setView(v)
		if ch.overrides, err = s.overridesFor(ctx, ch, m); err != nil {
			return planRecord{}, err
		}
		ch.at = s.now()
		return s.control.changePlan(ctx, v, ch)
	})
}

func checkChange(m *pb.ChangeRoleRequest) error {
	switch {
	case actions[m.GetKind()] == "":
		return fmt.Errorf("kind %s: want failover, takeover, switchover or failback", m.GetKind())
	case m.GetKind() == pb.PlanKind_PLAN_KIND_TAKEOVER && !m.GetAcceptLoss():
		return errors.New("accept loss: want it said, because a takeover may promote what cannot be proven to be all")
	case actions[m.GetKind()].Planned() && (m.GetAcceptLoss() || m.GetAttestPrimaryDown()):
		return errors.New("accept loss, attest primary down: a planned change loses nothing and asks the primary itself")
	case m.GetDrainTimeout().AsDuration() < 0:
		return errors.New("drain timeout: want none negative")
	}
	return nil
}

// overridesFor returns the overrides in force for a change: those on record, and
// those asked for with it, which go on record unless it is a dry run.
func (s *operatorService) overridesFor(ctx context.Context, ch roleChange, m *pb.ChangeRoleRequest) ([]rules.Override, error) {
	var wishes []overrideWish
	for _, o := range m.GetOverrides() {
		wishes = append(wishes, overrideWish{rule: o.GetRule(), reason: first(o.GetReason(), m.GetReason()), expires: m.GetExpires().AsDuration()})
	}
	given, err := s.overridesInForce(ctx, ch.service)
	if err != nil || len(wishes) == 0 {
		return given, err
	}
	if m.GetDryRun() {
		now := s.now()
		for _, w := range wishes {
			o := rules.Override{Rule: w.rule, Reason: w.reason, Actor: actor(ctx), Given: now, Expires: now.Add(max(w.expires, rules.OverrideTTL))}
			if err := o.Validate(now); err != nil {
				return nil, misuse("override", string(ch.service), err)
			}
			given = append(given, o)
		}
		return given, nil
	}
	put, err := s.putOverrides(ctx, ch.service, actor(ctx), wishes)
	for _, o := range put {
		given = slices.DeleteFunc(given, func(old rules.Override) bool { return old.Rule == o.Rule })
		given = append(given, o.Override)
	}
	return given, err
}

// carry draws a change until it can be begun on the tables that it was drawn
// from, begins it, and tells how it goes.
func (s *operatorService) carry(ctx context.Context, op string, dry bool, to events, draw func() (planRecord, error)) error {
	for tries := 0; ; tries++ {
		rec, err := draw()
		if err != nil {
			return err
		}
		if rec.plan.ID.IsZero() && !failing(rec.view.GetRules()) {
			return nothingToDo(rec.view, dry, to)
		}
		if dry || failing(rec.view.GetRules()) {
			return s.notBegun(ctx, op, rec, dry, to)
		}
		h, err := s.control.start(ctx, rec)
		if errors.Is(err, tidegate.ErrConflict) && s.control.leads() && s.control.runningPlan(rec.plan.Service) == nil && tries < conflictRetries {
			continue // the service was changed meanwhile: the rules may answer differently now
		}
		if err != nil {
			return err
		}
		if err := to.plan(rec.view); err != nil {
			return err
		}
		return s.watchPlan(ctx, op, h, to)
	}
}

// nothingToDo ends a change that everything is in place for already: it has no
// plan on record.
func nothingToDo(view *pb.Plan, dry bool, to events) error {
	view.Outcome = pb.PlanOutcome_PLAN_OUTCOME_DRY_RUN
	view.Impact = "none: everything is as it is wanted"
	if err := to.plan(view); err != nil || dry {
		return err
	}
	view.Outcome = pb.PlanOutcome_PLAN_OUTCOME_DONE
	return to.done(view)
}

// notBegun ends a change that is a dry run, or that a rule refuses.
func (s *operatorService) notBegun(ctx context.Context, op string, rec planRecord, dry bool, to events) error {
	no := failing(rec.view.GetRules())
	rec.view.Outcome = pb.PlanOutcome_PLAN_OUTCOME_DRY_RUN
	if !dry {
		rec.view.Outcome, rec.view.Ended = pb.PlanOutcome_PLAN_OUTCOME_REFUSED, timestamppb.New(s.now())
		s.log.Info("change of role refused", "change", op, "service", rec.view.GetService(), "target", rec.view.GetTarget().GetNode(), "actor", actor(ctx))
		s.metrics.plans.WithLabelValues(string(rec.plan.Kind), "refused").Inc()
		e := s.planEntry(ctx, rec)
		s.note(ctx, e)
	}
	if err := to.plan(rec.view); err != nil || !no {
		return err
	}
	return refusal(rec.view)
}

// planEntry tells of a change that rules refused.
func (s *operatorService) planEntry(ctx context.Context, rec planRecord) registry.AuditEntry {
	e := s.control.planEntry(ctx, ActionPlanStart, rec.plan, rec.view)
	e.Outcome = outcomeRefused
	for _, r := range rec.view.GetRules() {
		if !r.GetHolds() {
			e.Detail = append(e.Detail, fact("rule "+r.GetRule(), "%s", r.GetReason()))
		}
	}
	return e
}

// refusal is the error of a change that its rules refuse.
func refusal(view *pb.Plan) error {
	return &tidegate.Error{
		Op: kindName(view.GetKind()), Subject: view.GetService(), Class: tidegate.Refused, Err: &api.RulesError{Rules: view.GetRules()},
		Hint: overrideHint(view.GetRules()),
	}
}

func overrideHint(verdicts []*pb.RuleVerdict) string {
	var with []string
	for _, r := range verdicts {
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
	if r, ok := rules.Lookup(rule); ok && r.Instead != "" {
		return r.Instead
	}
	switch rule {
	case ruleWriter:
		return "start the service, and let one agent acquire all of its streams"
	}
	return "rule " + rule + " has no override; make it hold"
}

func actor(ctx context.Context) string {
	id := callerOf(ctx)
	return string(id.Role) + "/" + id.Name
}

// watchPlan passes a run's steps on until it is over, and those of the plan that
// follows it. The run goes on when the operator goes away.
func (s *operatorService) watchPlan(ctx context.Context, op string, h *handle, to events) error {
	for {
		if err := passSteps(ctx, h, to); err != nil {
			return err
		}
		next := h.following()
		if next == nil {
			break
		}
		_, view, _ := next.result()
		if err := to.plan(view); err != nil {
			return err
		}
		h = next
	}
	p, view, err := h.result()
	if err != nil {
		return &tidegate.Error{
			Op: op, Subject: view.GetService(), Class: tidegate.Transient, Err: err,
			Hint: "the plan is on record and the next leading gate goes on with it: `tidegate plan show " + view.GetId() + "`",
		}
	}
	if err := s.measure(ctx, view); err != nil {
		s.log.Warn("measured loss not read", "plan", view.GetId(), "err", err)
	}
	if err := to.done(view); err != nil {
		return err
	}
	if err := verdictErr(p, view); err != nil || view.GetError() == "" {
		return err
	}
	return &tidegate.Error{Op: op, Subject: view.GetService(), Class: tidegate.Refused, Err: errors.New(view.GetError()), Hint: view.GetHint()}
}

// passSteps passes the changes of steps on until the run is over.
func passSteps(ctx context.Context, h *handle, to events) error {
	sent := 0
	for over := false; ; {
		steps, changed := h.since(sent)
		for _, st := range steps {
			if err := to.step(st); err != nil {
				return err
			}
		}
		sent += len(steps)
		if over {
			return nil
		}
		select {
		case <-changed:
		case <-h.over:
			over = true // once more, for what came last
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Reconfigure implements OperatorService.
func (s *operatorService) Reconfigure(ctx context.Context, req *connect.Request[pb.ReconfigureRequest], out *connect.ServerStream[pb.ReconfigureResponse]) error {
	m := req.Msg
	if err := s.control.elsewhere("reconfigure"); err != nil {
		return err
	}
	to := events{
		plan: func(p *pb.Plan) error {
			return out.Send(&pb.ReconfigureResponse{Event: &pb.ReconfigureResponse_Plan{Plan: p}})
		},
		step: func(p *pb.PlanStep) error {
			return out.Send(&pb.ReconfigureResponse{Event: &pb.ReconfigureResponse_Step{Step: p}})
		},
		done: func(p *pb.Plan) error {
			return out.Send(&pb.ReconfigureResponse{Event: &pb.ReconfigureResponse_Done{Done: p}})
		},
	}
	if err := s.setMembers(ctx, m); err != nil {
		s.noteRefusal(ctx, reconfigureProcedure, m, err)
		return err
	}
	ch := roleChange{
		question: question{service: tidegate.ServiceName(m.GetService()), actor: actor(ctx), reason: m.GetReason()},
		kind:     pb.PlanKind_PLAN_KIND_RECONFIGURE, who: actor(ctx),
	}
	return s.carry(ctx, "reconfigure", m.GetDryRun(), to, func() (planRecord, error) {
		v, err := s.store.Read(ctx)
		if err != nil {
			return planRecord{}, err
		}
		s.world.setView(v)
		if m.GetDryRun() {
			if v, err = withMembers(v, m); err != nil {
				return planRecord{}, misuse("reconfigure", m.GetService(), err)
			}
		}
		return s.control.reconfigurePlan(ctx, v, ch, s.control.wantedByOperator(v))
	})
}

// setMembers writes down which nodes the operator wants. They follow as learners
// from then on; whether they count is decided by the plan.
func (s *operatorService) setMembers(ctx context.Context, m *pb.ReconfigureRequest) error {
	if len(m.GetMembers()) == 0 && m.GetW() == 0 || m.GetDryRun() {
		return nil
	}
	return s.change(ctx, func() error {
		v, _, streams, err := s.ofService(ctx, "reconfigure", m.GetService(), m.GetStream())
		if err != nil {
			return err
		}
		tx := new(registry.Tx)
		e := s.entry(ctx, ActionModeSet, tidegate.ServiceName(m.GetService()), m.GetReason())
		e.Stream = tidegate.StreamName(m.GetStream())
		for _, old := range streams {
			st, err := membersOf(v, old, m)
			if err != nil {
				return misuse("reconfigure", m.GetService()+"/"+string(old.Name), err)
			}
			e.Detail = append(e.Detail, fact(string(st.Name), "%v, w %d -> %v, w %d", old.Members, old.W, st.Members, st.W))
			tx.Unchanged(registry.StreamKey(st.ID), v.Streams[st.ID].Revision).Put(registry.StreamKey(st.ID), st)
		}
		_, err = s.store.Commit(ctx, tx.Audit(e))
		return err
	})
}

// membersOf returns a stream with the members and W that are asked for.
func membersOf(v *registry.View, st registry.Stream, m *pb.ReconfigureRequest) (registry.Stream, error) {
	if len(m.GetMembers()) > 0 {
		st.Members = nil
	}
	for _, n := range m.GetMembers() {
		name := tidegate.NodeName(n)
		if node, ok := v.Node(registry.KindStandby, name); !ok || node.Incarnation.IsZero() {
			return st, fmt.Errorf("members: want registered standby nodes (got %q)", n)
		}
		if slices.Contains(st.Members, name) {
			return st, fmt.Errorf("members: want each node once (got %q twice)", n)
		}
		st.Members = append(st.Members, name)
	}
	if m.GetW() > 0 {
		st.W = int(m.GetW())
	}
	if len(st.Members) > fence.MembersMax {
		return st, fmt.Errorf("members: want at most %d (got %d)", fence.MembersMax, len(st.Members))
	}
	return st, (tidegate.Quorum{N: len(st.Members), W: st.W}).Validate()
}

// withMembers is the view as it would be with the members that are asked for.
func withMembers(v *registry.View, m *pb.ReconfigureRequest) (*registry.View, error) {
	out := *v
	out.Streams = map[tidegate.StreamID]registry.Entry[registry.Stream]{}
	for id, e := range v.Streams {
		if string(e.Value.Service) == m.GetService() && (m.GetStream() == "" || string(e.Value.Name) == m.GetStream()) {
			var err error
			if e.Value, err = membersOf(v, e.Value, m); err != nil {
				return nil, err
			}
		}
		out.Streams[id] = e
	}
	return &out, nil
}

// AbortPlan implements OperatorService.
func (s *operatorService) AbortPlan(ctx context.Context, req *connect.Request[pb.AbortPlanRequest]) (*connect.Response[pb.AbortPlanResponse], error) {
	m := req.Msg
	if err := s.control.elsewhere("abort plan"); err != nil {
		return nil, err
	}
	id, err := api.RequireID("plan", m.GetId())
	if err != nil {
		return nil, misuse("abort plan", m.GetId(), err)
	}
	rec, err := s.plan(ctx, "abort plan", id.String())
	if err != nil {
		return nil, err
	}
	h := s.control.runningPlan(rec.plan.Service)
	if rec.plan.Finished() || h == nil || h.id != id {
		if !rec.plan.Finished() {
			return nil, &tidegate.Error{
				Op: "abort plan", Subject: m.GetId(), Class: tidegate.Transient, Err: errors.New("no gate works on it now"),
				Hint: "a leading gate takes it up within seconds, or gives it an end on record; try again",
			}
		}
		return connect.NewResponse(&pb.AbortPlanResponse{Plan: rec.view}), nil
	}
	if err := h.abort(ctx, fence.Abort{Actor: actor(ctx), Reason: m.GetReason()}); err != nil {
		return nil, err
	}
	p, view, err := h.result()
	if err != nil {
		return nil, err
	}
	e := s.entry(ctx, ActionPlanAbort, p.Service, m.GetReason(), fact("plan", "%s", id), fact("outcome", "%s", outcomeLabel(view.GetOutcome())))
	if view.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_ABORTED {
		e.Outcome = outcomeRefused
		s.note(ctx, e)
		return nil, &tidegate.Error{
			Op: "abort plan", Subject: m.GetId(), Class: tidegate.Refused, Err: fmt.Errorf("it ended first: %s", outcomeLabel(view.GetOutcome())), Hint: "`tidegate plan show " + m.GetId() + "`",
		}
	}
	s.note(ctx, e)
	return connect.NewResponse(&pb.AbortPlanResponse{Plan: view, Changed: true}), nil
}
