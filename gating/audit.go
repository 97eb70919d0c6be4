package gating

import (
	"context"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/registry"
)

// Actions of the audit trail. Notifications choose among them by name.
const (
	ActionServiceSet   = "service-set"
	ActionStreamAdd    = "stream-add"
	ActionStreamRemove = "stream-remove"
	ActionStreamPause  = "stream-pause"
	ActionStreamResume = "stream-resume"
	ActionRegenerate   = "stream-regenerate" // the log is given up at the source, a new generation begins
	ActionGapAccept    = "gap-accept"        // the same, of a source that says that it does not go on
	ActionModeSet      = "mode-set"
	ActionDetectorSet  = "detector-set"
	ActionDrill        = "drill-record"

	ActionDrillSchedule = "drill-schedule"
	ActionDrillTake     = "drill-take"  // by a worker, as scheduled
	ActionDrillEnd      = "drill-end"   // by that worker
	ActionDrillLapse    = "drill-lapse" // the worker was silent
	ActionDrillMiss     = "drill-miss"  // nobody has taken it in time
	ActionDrillAbort    = "drill-abort"

	ActionFreeze       = "freeze"
	ActionThaw         = "thaw"
	ActionGateOpen     = "gate-open"     // the brake
	ActionGateArm      = "gate-arm"      // the brake is lifted
	ActionGateDegraded = "gate-degraded" // by the policy, or following the brake
	ActionGateArmed    = "gate-armed"    // by the writer
	ActionGateSet      = "gate-set"      // mode, bounds or lease of the record, by the writer
	ActionHandOver     = "hand-over"
	ActionPlanStart    = "plan-start"
	ActionPlanEnd      = "plan-end"
	ActionPlanAbort    = "plan-abort"
	ActionOverride     = "override"
	ActionRevoke       = "override-revoke"
	ActionDeclare      = "detector-declare" // the detector takes a service for down, or up again
	ActionRebuild      = "registry-rebuild"
	ActionDistrust     = "registry-distrust"
	ActionNotify       = "notify"
	ActionRefused      = "call-refused" // an operator's call that changed nothing
)

// Actions lists every action of the audit trail, sorted.
func Actions() []string {
	all := []string{
		ActionServiceSet, ActionStreamAdd, ActionStreamRemove, ActionStreamPause, ActionStreamResume, ActionRegenerate, ActionGapAccept, ActionModeSet, ActionDetectorSet, ActionDrill,
		ActionDrillSchedule, ActionDrillTake, ActionDrillEnd, ActionDrillLapse, ActionDrillMiss, ActionDrillAbort,
		ActionFreeze, ActionThaw, ActionGateOpen, ActionGateArm, ActionGateDegraded, ActionGateArmed, ActionGateSet, ActionHandOver,
		ActionPlanStart, ActionPlanEnd, ActionPlanAbort, ActionOverride, ActionRevoke, ActionDeclare, ActionRebuild, ActionDistrust,
		ActionNotify, ActionRefused,
	}
	slices.Sort(all)
	return all
}

// Outcomes of an entry.
const (
	outcomeDone      = "done"
	outcomeRefused   = "refused"
	outcomeFailed    = "failed"
	outcomeUnchanged = "unchanged"
)

// entry makes an audit entry of what the caller of ctx does; outside a call the
// gate itself is the actor.
func (p parts) entry(ctx context.Context, action string, service tidegate.ServiceName, reason string, facts ...registry.Fact) registry.AuditEntry {
	now := p.now()
	who := actor(ctx)
	if callerOf(ctx) == (tidegate.Identity{}) {
		who = p.self()
	}
	return registry.AuditEntry{
		ID: p.ids.next(now).String(), At: now.UTC(), Actor: who, Action: action, Service: service, Reason: reason, Outcome: outcomeDone, Detail: facts,
	}
}

// self is the gate as an actor.
func (p parts) self() string { return string(tidegate.RoleGate) + "/" + p.name }

func fact(key string, format string, args ...any) registry.Fact {
	return registry.Fact{Key: key, Value: fmt.Sprintf(format, args...)}
}

// note writes an entry that belongs to no other change. That it could not be
// written is logged and changes nothing: whatever it tells of has happened.
func (p parts) note(ctx context.Context, e registry.AuditEntry) {
	if _, err := p.store.Commit(ctx, new(registry.Tx).Audit(e)); err != nil {
		p.log.Warn("audit entry not written", "action", e.Action, "service", e.Service, "actor", e.Actor, "outcome", e.Outcome, "err", err)
	}
}

// subject is what requests say of what they are about.
type subject interface {
	GetService() string
}

// noteRefusal writes down an operator's call that came to nothing. Calls that
// were turned away because another gate leads are not: they come again there.
func (p parts) noteRefusal(ctx context.Context, procedure string, msg any, err error) {
	if !slices.Equal(callers[procedure], writers) || registry.Unreachable(err) || isElsewhere(err) || ctx.Err() != nil {
		return
	}
	e := p.entry(ctx, ActionRefused, "", "", fact("call", "%s", verbOf(procedure)), fact("error", "%s", err))
	e.Outcome = outcomeFailed
	if c := tidegate.ClassOf(err); c == tidegate.Refused || c == tidegate.Misuse {
		e.Outcome = outcomeRefused
	}
	if m, ok := msg.(subject); ok {
		e.Service = tidegate.ServiceName(m.GetService())
	}
	if m, ok := msg.(interface{ GetStream() string }); ok {
		e.Stream = tidegate.StreamName(m.GetStream())
	}
	if m, ok := msg.(interface{ GetReason() string }); ok {
		e.Reason = m.GetReason()
	}
	p.note(ctx, e)
}

// verbOf returns the last part of a procedure's name.
func verbOf(procedure string) string {
	for i := len(procedure) - 1; i >= 0; i-- {
		if procedure[i] == '/' {
			return procedure[i+1:]
		}
	}
	return procedure
}

// How many entries are listed when nothing else is asked for, and at most.
const (
	auditShown    = 100
	auditShownMax = 1000
)

// ListAudit implements OperatorService.
func (s *operatorService) ListAudit(ctx context.Context, req *connect.Request[pb.ListAuditRequest]) (*connect.Response[pb.ListAuditResponse], error) {
	m := req.Msg
	if err := s.known(ctx, "list audit", m.GetService()); err != nil {
		return nil, err
	}
	limit := min(int(m.GetLimit()), auditShownMax)
	if limit == 0 {
		limit = auditShown
	}
	if _, err := api.ParseID("after", m.GetAfter()); err != nil {
		return nil, misuse("list audit", m.GetService(), err)
	}
	after, since := m.GetAfter(), timeOf(m.GetSince())
	if first := sinceID(since); first > after {
		after = first
	}
	entries, next, err := s.store.AuditFrom(ctx, after, limit, func(e registry.AuditEntry) bool {
		return (m.GetService() == "" || string(e.Service) == m.GetService()) && !e.At.Before(since)
	})
	if err != nil {
		return nil, s.old(err)
	}
	out := &pb.ListAuditResponse{Next: next}
	for _, e := range entries {
		out.Entries = append(out.Entries, auditMessage(e))
	}
	return connect.NewResponse(out), nil
}

func auditMessage(e registry.AuditEntry) *pb.AuditEntry {
	out := &pb.AuditEntry{
		Id: e.ID, At: timestamppb.New(e.At), Actor: e.Actor, Action: e.Action, Service: string(e.Service), Stream: string(e.Stream),
		Reason: e.Reason, Outcome: e.Outcome,
	}
	for _, f := range e.Detail {
		out.Detail = append(out.Detail, &pb.Fact{Key: f.Key, Value: f.Value})
	}
	return out
}

// keepAudit prunes the audit trail while l leads. What a receiver has not been
// told of stays, however long it is away.
func (c *controller) keepAudit(ctx context.Context, l *registry.Leadership) error {
	tick := time.NewTicker(auditPeriod)
	defer tick.Stop()
	for {
		if n, err := c.store.PruneAudit(ctx, l, auditKept, c.notifier.told()); err != nil && ctx.Err() == nil {
			c.log.Warn("old audit entries not pruned", "err", err)
		} else if n > 0 {
			c.log.Debug("old audit entries pruned", "entries", n)
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

const (
	// auditKept is how many entries the registry keeps: some 10 MB of its 2 GB.
	// An archive of all of them is what a receiver of notifications keeps.
	auditKept   = 20_000
	auditPeriod = 10 * time.Minute
)
