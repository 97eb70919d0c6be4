package gating

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/internal/local"
)

// A new generation is declared here and opened by the agent beside the source. The
// declaration names the epoch up to whose end the log is given up, and goes with the
// stream: a writer at that site that begins behind such an epoch opens a generation,
// again and again if need be, until the log goes on under a newer one. Nothing of it
// touches what a fence or a failover does: the standby nodes say of themselves how far
// they count.

// Rules of a declaration, besides freeze.
const (
	ruleBases = "has-bases"          // the store's streams begin with a base
	ruleHeld  = "writer-at-site"     // the stream is written, or was last, at a site that goes on with it
	ruleLost  = "log-lost"           // the source beside the writer says that it does not go on
	ruleShips = "acknowledged-stays" // the new generation leaves out nothing that was shipped
)

// declaring is a declaration as asked for.
type declaring struct {
	op, action string // action is that of the audit trail
	reason     string
	acceptLoss bool
	dryRun     bool
}

// declared is what became of it.
type declared struct {
	rules   []*pb.RuleVerdict
	facts   []registry.Fact
	renewal *registry.Renewal // nil when nothing was declared
	gap     *tidegate.Gap     // that it accepts; nil when nothing was declared
}

// RegenerateStream implements OperatorService.
func (s *operatorService) RegenerateStream(ctx context.Context, req *connect.Request[pb.RegenerateStreamRequest]) (*connect.Response[pb.RegenerateStreamResponse], error) {
	m := req.Msg
	d, err := s.declareFor(ctx, m.GetService(), m.GetStream(), declaring{op: "regenerate stream", action: ActionRegenerate, reason: m.GetReason(), acceptLoss: m.GetAcceptLoss(), dryRun: m.GetDryRun()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.RegenerateStreamResponse{Rules: d.rules, Facts: factMessages(d.facts), Renewal: renewalMessage(d.renewal)}), nil
}

// declareFor is what an operator's verbs do.
func (s *operatorService) declareFor(ctx context.Context, service, stream string, ask declaring) (declared, error) {
	if err := s.control.elsewhere(ask.op); err != nil {
		return declared{}, err // agents report to the gate that leads
	}
	subject := service + "/" + stream
	release, err := s.control.hold(ctx, ask.op, tidegate.ServiceName(service))
	if err != nil {
		return declared{}, err
	}
	defer release()
	v, err := s.store.Read(ctx)
	if err != nil {
		return declared{}, err
	}
	e, ok := v.Stream(tidegate.ServiceName(service), tidegate.StreamName(stream))
	switch {
	case !ok:
		return declared{}, notFound(ask.op, subject, "see `tidegate streams list`")
	case ask.reason == "" && !ask.dryRun:
		return declared{}, misuse(ask.op, subject, errors.New("reason: want one, it goes on the record"))
	}
	return s.declareGeneration(ctx, v, e, ask)
}

func factMessages(facts []registry.Fact) (list []*pb.Fact) {
	for _, f := range facts {
		list = append(list, &pb.Fact{Key: f.Key, Value: f.Value})
	}
	return list
}

// DeclareGeneration implements NodeService.
func (s *nodeService) DeclareGeneration(ctx context.Context, req *connect.Request[pb.DeclareGenerationRequest]) (*connect.Response[pb.DeclareGenerationResponse], error) {
	m := req.Msg
	const op = "declare generation"
	if err := s.control.elsewhere(op); err != nil {
		return nil, err
	}
	if err := speaksFor(ctx, m.GetNode(), ""); err != nil {
		return nil, err
	}
	id, err := api.RequireID("stream id", m.GetStreamId())
	if err != nil {
		return nil, misuse(op, m.GetStreamId(), err)
	}
	v, err := s.store.Read(ctx)
	if err != nil {
		return nil, err
	}
	e, ok := v.Streams[id]
	if !ok {
		return nil, notFound(op, m.GetStreamId(), "the stream was removed, or never added")
	}
	release, err := s.control.hold(ctx, op, e.Value.Service)
	if err != nil {
		return nil, err
	}
	defer release()
	// Where another node was the last that wrote, this source may be an old primary that
	// came back: a person may know better, a policy cannot.
	at := v.Epochs[id].Value.Active
	if site := callerOf(ctx).Site; site != at.Site || m.GetNode() != string(at.Node) {
		return nil, misuse(op, m.GetStreamId(), fmt.Errorf("node %s at site %s: the stream is written by node %s at site %s", m.GetNode(), site, at.Node, at.Site))
	}
	d, err := s.declareGeneration(ctx, v, e, declaring{op: op, action: ActionRegenerate, reason: "by policy: " + m.GetReason()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.DeclareGenerationResponse{Renewal: renewalMessage(d.renewal)}), nil
}

// declareGeneration judges, and writes down that the log is given up. The service is
// held by the caller, so that no plan runs.
func (p parts) declareGeneration(ctx context.Context, v *registry.View, e registry.Entry[registry.Stream], ask declaring) (declared, error) {
	st, rec := e.Value, v.Epochs[e.Value.ID]
	said := p.world.sourceOf(st, rec.Value, p.timing.Stale)
	if r := st.Renewal; r.Pending(rec.Value) && (said.node == "" || r.Node == said.node) {
		d := declared{renewal: r} // it is under way
		if i := slices.IndexFunc(st.Gaps, func(g tidegate.Gap) bool { return g.Epoch == r.Epoch }); i >= 0 {
			d.gap = &st.Gaps[i]
		}
		return d, nil
	}
	gap := p.world.gapOf(rec.Value, said, p.timing.Stale)
	d := declared{
		rules: regenerateRules(v, st, rec.Value, said, ask),
		facts: append(regenerateFacts(st, rec.Value, said), p.gapFacts(rec.Value, said, gap)...),
	}
	refused := &api.RulesError{Rules: d.rules}
	if ask.dryRun {
		return d, nil
	}
	subject := fmt.Sprintf("%s/%s", st.Service, st.Name)
	if len(refused.Failing()) > 0 {
		return d, &tidegate.Error{
			Op: ask.op, Subject: subject, Class: tidegate.Refused, Err: refused,
			Hint: "see `tidegate doctor` for what the agent finds; --dry-run answers every rule",
		}
	}
	gap.Reason, gap.Actor, gap.Since, gap.AcceptedLoss = ask.reason, actor(ctx), p.now().UTC(), ask.acceptLoss
	st.Renewal = &registry.Renewal{
		Epoch: gap.Epoch, Node: gap.Node, Site: gap.Site, Reason: gap.Reason, Actor: gap.Actor, Since: gap.Since, AcceptedLoss: gap.AcceptedLoss,
	}
	st.Gaps = noteGap(st.Gaps, gap)
	entry := p.entry(ctx, ask.action, st.Service, ask.reason, d.facts...)
	entry.Stream = st.Name
	if ask.acceptLoss {
		entry.Detail = append(entry.Detail, fact("accept_loss", "true"))
	}
	_, err := p.store.Commit(ctx, new(registry.Tx).Unchanged(registry.StreamKey(st.ID), e.Revision).Unchanged(registry.EpochKey(st.ID), rec.Revision).
		Put(registry.StreamKey(st.ID), st).Audit(entry))
	if err != nil {
		return d, err
	}
	p.log.Warn("new generation declared", "service", st.Service, "stream", st.Name, "up_to_epoch", st.Renewal.Epoch, "reason", ask.reason, "actor", actor(ctx))
	d.renewal, d.gap = st.Renewal, &gap
	return d, nil
}

// source is what the agent beside a stream's source has said last.
type source struct {
	node   tidegate.NodeName // empty when none reports
	report *pb.AgentStream
}

// sourceOf finds the agent beside the source: the writer's while it is one, whatever
// an old primary beside it says of itself; else one at its site that says its log is
// lost. What was said of a log that has been given up since does not count.
func (w *world) sourceOf(st registry.Stream, rec fence.EpochRecord, stale time.Duration) (best source) {
	w.mu.Lock()
	defer w.mu.Unlock()
	most := 0
	for _, node := range slices.Sorted(maps.Keys(w.agents)) {
		a := w.agents[node]
		if a.report == nil || a.site != rec.Active.Site || w.age(a.at) > stale {
			continue
		}
		for _, one := range a.report.GetStreams() {
			if one.GetStreamId() != rec.Stream.String() || st.Renewal.Past(rec, tidegate.Epoch(one.GetEpoch())) {
				continue
			}
			if node == rec.Active.Node && writes(one.GetRole()) {
				return source{node, one}
			}
			rank := 1
			if one.GetLost() != "" {
				rank += 2
			}
			if node == rec.Active.Node {
				rank++
			}
			if rank > most {
				most, best = rank, source{node, one}
			}
		}
	}
	return best
}

// writes reports whether an agent in a role has the stream's writer beside it.
func writes(r pb.AgentRole) bool {
	return r == pb.AgentRole_AGENT_ROLE_WRITER || r == pb.AgentRole_AGENT_ROLE_PROVING
}

// regenerateRules answers what a declaration needs.
func regenerateRules(v *registry.View, st registry.Stream, rec fence.EpochRecord, said source, ask declaring) []*pb.RuleVerdict {
	var out []*pb.RuleVerdict
	add := func(rule string, holds, known bool, format string, args ...any) {
		out = append(out, &pb.RuleVerdict{Rule: rule, Holds: holds, Known: known, Reason: fmt.Sprintf(format, args...)})
	}
	if svc := v.Services[st.Service].Value; svc.Frozen {
		add(ruleFreeze, false, true, "frozen: %s", first(svc.Reason, "no reason was given"))
	} else {
		add(ruleFreeze, true, true, "role changes are allowed")
	}
	if st.Store == local.KindJournal {
		add(ruleBases, false, true, "a stream of store %s is its log, and has no bases", st.Store)
	} else {
		add(ruleBases, true, true, "generations begin with a base")
	}
	add(ruleHeld, rec.State == fence.StateActive && rec.ActiveEpoch > 0, true, "the stream is %s at site %s", rec.State, first(string(rec.Active.Site), "none"))
	lost := said.report.GetLost()
	switch {
	case said.node == "":
		add(ruleLost, false, false, "no agent at site %s reports the stream: nobody there could open a generation", rec.Active.Site)
	case lost != "":
		add(ruleLost, true, true, "%s: %s", said.node, lost)
	case ask.action == ActionGapAccept:
		add(ruleLost, false, true, "%s does not say that the log ends: there is no gap to accept; see `tidegate gap list`", said.node)
	case ask.acceptLoss:
		add(ruleLost, true, true, "%s does not say so; whoever declares it does", said.node)
	default:
		add(ruleLost, false, true, "%s does not say that the log ends; --accept-loss declares it all the same", said.node)
	}
	switch {
	case ask.acceptLoss:
		add(ruleShips, true, true, "what the source lacks of what was shipped is accepted as lost to it")
	case said.report.GetLostDiverged():
		add(ruleShips, false, true, "the source lacks what was shipped, or may: a failover keeps that; --accept-loss goes on without")
	default:
		add(ruleShips, true, lost != "", "the source lacks nothing of what was shipped, as far as it can tell")
	}
	return out
}

// regenerateFacts is what goes on the record, and what somebody who says yes should
// have read.
func regenerateFacts(st registry.Stream, rec fence.EpochRecord, said source) []registry.Fact {
	out := []registry.Fact{fact("up to epoch", "%s", rec.ActiveEpoch), fact("site", "%s", rec.Active.Site)}
	if r := said.report; r != nil {
		out = append(out, fact("source", "%s: %s", said.node, first(r.GetLost(), "says nothing")))
		if r.GetDurableSeq() > 0 {
			out = append(out, fact("durable batch", "%s", tidegate.Seq(r.GetDurableSeq())))
		}
		if r.Durable != nil {
			out = append(out, fact("durable position", "%s", tidegate.Position(r.GetDurable())))
		}
		if r.Head != nil {
			out = append(out, fact("source ends at", "%s", tidegate.Position(r.GetHead())))
		}
	}
	text := "they wait until the new generation is whole at W standby nodes"
	if rec.Gate.State != fence.GateArmed || rec.Gate.Mode == tidegate.ModeOpen {
		text = "they go on, and are lost with the site until the new generation is whole at W standby nodes"
	}
	return append(out,
		fact("commits", "%s", text),
		fact("failover meanwhile", "to the end of the log before, which stays as it is at %v", st.Members))
}

func renewalMessage(r *registry.Renewal) *pb.Renewal {
	if r == nil {
		return nil
	}
	return &pb.Renewal{Epoch: uint64(r.Epoch), Node: string(r.Node), Site: string(r.Site), Reason: r.Reason, Actor: r.Actor, Since: timestamppb.New(r.Since)}
}

// renewing reports whether some stream of a service is to begin a new generation with
// its next epoch, which a node is to acquire.
func renewing(v *registry.View, s tidegate.ServiceName, node tidegate.NodeName) bool {
	return slices.ContainsFunc(v.StreamsOf(s), func(st registry.Stream) bool {
		return st.Renewal.Pending(v.Epochs[st.ID].Value) && st.Renewal.Node == node
	})
}
