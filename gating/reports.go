package gating

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
)

// ReportAgent implements NodeService.
func (s *nodeService) ReportAgent(ctx context.Context, req *connect.Request[pb.ReportAgentRequest]) (*connect.Response[pb.ReportAgentResponse], error) {
	m := req.Msg
	if err := speaksFor(ctx, m.GetNode(), m.GetSite()); err != nil {
		return nil, err
	}
	holder, err := api.RequireID("holder", m.GetHolder())
	if err != nil {
		return nil, misuse("report agent", m.GetNode(), err)
	}
	s.world.reportAgent(m, holder)
	return connect.NewResponse(&pb.ReportAgentResponse{}), s.control.elsewhere("report")
}

// ReportStandby implements NodeService.
func (s *nodeService) ReportStandby(ctx context.Context, req *connect.Request[pb.ReportStandbyRequest]) (*connect.Response[pb.ReportStandbyResponse], error) {
	m := req.Msg
	if err := speaksFor(ctx, m.GetNode(), m.GetSite()); err != nil {
		return nil, err
	}
	s.world.reportStandby(m)
	v, _, _ := s.world.current()
	for _, st := range m.GetStreams() {
		id, err := api.RequireID("stream id", st.GetStreamId())
		if err != nil {
			return nil, misuse("report standby", m.GetNode(), err)
		}
		e, ok := v.Epochs[id]
		if ok && tidegate.Epoch(st.GetPromise().GetEpoch()) > e.Value.Epoch {
			if err := s.promisedAbove(ctx, id, tidegate.Epoch(st.GetPromise().GetEpoch())); err != nil && !registry.Unreachable(err) {
				return nil, err
			}
		}
	}
	return connect.NewResponse(&pb.ReportStandbyResponse{}), s.control.elsewhere("report")
}

// promisedAbove marks a stream whose node has sworn to an epoch that the key
// does not know: a gate reserves an epoch before it asks anybody, so the
// registry has gone back in time. The tables at hand may be old; the key is read anew.
func (p parts) promisedAbove(ctx context.Context, id tidegate.StreamID, promised tidegate.Epoch) error {
	return p.change(ctx, func() error {
		e, err := p.epoch(ctx, id)
		if err != nil || e.Value.Epoch >= promised || e.Value.Restored {
			return err
		}
		p.log.Error("a node's promise is above the registry's epoch: the registry was restored from a backup; no zero-loss claim until a live writer re-arms",
			"stream", id, "epoch", e.Value.Epoch, "promised", promised)
		return p.distrust(ctx, e)
	})
}

// distrust writes that no claim may rest on a record until a live writer re-arms.
func (p parts) distrust(ctx context.Context, e registry.Entry[fence.EpochRecord]) error {
	rec := e.Value.Clone()
	rec.Restored, rec.Gate.State, rec.Since = true, fence.GateUnknown, p.now().UnixNano()
	key := registry.EpochKey(rec.Stream)
	var st registry.Stream
	if v, _, _ := p.world.current(); v != nil {
		st = v.Streams[rec.Stream].Value // for people; empty while the tables are not known
	}
	entry := p.entry(ctx, ActionDistrust, st.Service, "the registry may have gone back in time", fact("id", "%s", rec.Stream), fact("epoch", "%s", rec.Epoch))
	entry.Stream, entry.Actor = st.Name, p.self()
	_, err := p.store.Commit(ctx, new(registry.Tx).Unchanged(key, e.Revision).Put(key, rec).Audit(entry))
	return err
}

// ReportRoute implements NodeService.
func (s *nodeService) ReportRoute(ctx context.Context, req *connect.Request[pb.ReportRouteRequest]) (*connect.Response[pb.ReportRouteResponse], error) {
	if err := speaksFor(ctx, req.Msg.GetName(), req.Msg.GetSite()); err != nil {
		return nil, err
	}
	s.world.reportRoute(req.Msg)
	return connect.NewResponse(&pb.ReportRouteResponse{}), s.control.elsewhere("report")
}

// ReportQuarantine implements NodeService.
func (s *nodeService) ReportQuarantine(ctx context.Context, req *connect.Request[pb.ReportQuarantineRequest]) (*connect.Response[pb.ReportQuarantineResponse], error) {
	m := req.Msg
	if err := speaksFor(ctx, m.GetNode(), ""); err != nil {
		return nil, err
	}
	q, err := quarantineOf(m)
	if err != nil {
		return nil, misuse("report quarantine", m.GetNode(), err)
	}
	q.Role = callerOf(ctx).Role
	if err := s.keepQuarantine(ctx, q); err != nil {
		return nil, err
	}
	s.log.Warn("quarantine reported", "node", q.Node, "stream", q.Stream, "epoch", q.CutEpoch, "records", q.Records, "bytes", q.Bytes, "reason", q.Reason, "path", q.Path)
	return connect.NewResponse(&pb.ReportQuarantineResponse{}), nil
}

// keepQuarantine writes a report down. Of two reports of one bundle the better
// one stays: a report that a restarted agent repeats may know less.
func (p parts) keepQuarantine(ctx context.Context, q registry.Quarantine) error {
	key := registry.QuarantineKey(q.Stream, string(q.Node)+"-"+q.ID)
	return p.change(ctx, func() error {
		var old registry.Quarantine
		rev, err := p.store.Get(ctx, key, &old)
		if err != nil || rev != 0 && knowsMore(old, q) {
			return err
		}
		_, err = p.store.Commit(ctx, new(registry.Tx).Unchanged(key, rev).Put(key, q))
		return err
	})
}

// knowsMore reports whether a is to be preferred to a later report b of the same
// bundle: it knows what had been released, or knows of more of it.
func knowsMore(a, b registry.Quarantine) bool {
	switch {
	case a.ReleasedRecords == nil:
		return b.ReleasedRecords == nil && a.Records > b.Records
	case b.ReleasedRecords == nil:
		return true
	case *a.ReleasedRecords != *b.ReleasedRecords:
		return *a.ReleasedRecords > *b.ReleasedRecords
	}
	return a.Records > b.Records
}

func quarantineOf(m *pb.ReportQuarantineRequest) (registry.Quarantine, error) {
	id, err := api.RequireID("stream id", m.GetStreamId())
	q := registry.Quarantine{
		ID: m.GetId(), Node: tidegate.NodeName(m.GetNode()), Stream: id,
		WrittenEpoch: tidegate.Epoch(m.GetWrittenEpoch()), CutEpoch: tidegate.Epoch(m.GetCutEpoch()),
		First: tidegate.Position(m.GetFirstPosition()), Next: tidegate.Position(m.GetNextPosition()),
		Records: m.GetRecords(), Bytes: m.GetBytes(), ReleasedRecords: m.ReleasedRecords, Reason: m.GetReason(), Path: m.GetPath(),
		Oldest: timeOf(m.GetOldest()), Newest: timeOf(m.GetNewest()), ReleasedNewest: timeOf(m.GetReleasedNewest()),
	}
	switch {
	case err != nil:
		return q, err
	case q.ID == "" || len(q.ID) > 200:
		return q, errors.New("id: want 1 to 200 characters")
	case q.CutEpoch == 0 || q.Next < q.First || q.Records < 0 || q.Bytes < 0:
		return q, fmt.Errorf("cut epoch %s, range [%s, %s), %d records, %d bytes: want a real cut", q.CutEpoch, q.First, q.Next, q.Records, q.Bytes)
	}
	return q, nil
}

func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// measure completes a plan's loss statements with what was found since. It is
// done whenever a plan is shown, so that a report which comes late counts too.
func (p parts) measure(ctx context.Context, v *pb.Plan) error {
	if k := v.GetKind(); k != pb.PlanKind_PLAN_KIND_FAILOVER && k != pb.PlanKind_PLAN_KIND_TAKEOVER {
		return nil
	}
	whole := map[string]bool{}
	for _, st := range v.GetStreams() {
		id, err := api.RequireID("stream id", st.GetStreamId())
		if err != nil || st.GetLoss() == nil {
			continue
		}
		qs, err := p.store.Quarantines(ctx, id)
		if err != nil {
			return err
		}
		if m := measured(qs, tidegate.Epoch(st.GetEpoch())); m != nil {
			st.Loss.Measured = m
			contradict(st.Loss)
		}
		whole[st.GetStreamId()] = left(qs, tidegate.Epoch(st.GetFromEpoch()), tidegate.Epoch(st.GetEpoch()))
	}
	v.Loss = serviceLoss(v.GetStreams())
	if v.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_DONE {
		return nil
	}
	if d, known := actualRPO(v.GetStreams()); known {
		v.RpoActual = durationpb.New(d)
	} else if d, known := maxRPO(v.GetStreams(), whole); known {
		v.RpoActualMax = durationpb.New(d)
	}
	return nil
}

// left reports whether what the writer of an epoch left behind was found.
func left(qs []registry.Quarantine, written, cut tidegate.Epoch) bool {
	return slices.ContainsFunc(qs, func(q registry.Quarantine) bool {
		return q.CutEpoch == cut && q.Reason != fence.ReasonSuperseded && q.WrittenEpoch != 0 && q.WrittenEpoch >= written
	})
}

// maxRPO bounds actualRPO where nobody knows what of the tails had been
// acknowledged: all of it, at worst, and no more than an armed gate let go. whole
// says by a stream's id that its tail was found; a tail may have grown since.
func maxRPO(streams []*pb.PlanStream, whole map[string]bool) (worst time.Duration, known bool) {
	for _, s := range streams {
		l := s.GetLoss()
		switch m := l.GetMeasured(); {
		case l.GetKind() == pb.LossKind_LOSS_KIND_ZERO:
		case m.GetReleasedKnown() && m.GetReleasedWindow() != nil:
			worst = max(worst, m.GetReleasedWindow().AsDuration())
		default:
			var all []time.Duration
			if whole[s.GetStreamId()] && m.GetWindow() != nil {
				all = append(all, m.GetWindow().AsDuration())
			}
			if w := l.GetBounds().GetWindow(); w != nil && l.GetKind() == pb.LossKind_LOSS_KIND_AT_MOST {
				all = append(all, w.AsDuration())
			}
			if len(all) == 0 {
				return 0, false
			}
			worst = max(worst, slices.Min(all))
		}
	}
	return worst, len(streams) > 0
}

// actualRPO returns the span of acknowledged work that was lost, of the stream
// that lost most; known only if it is known of every stream.
func actualRPO(streams []*pb.PlanStream) (worst time.Duration, known bool) {
	for _, s := range streams {
		l := s.GetLoss()
		switch m := l.GetMeasured(); {
		case l.GetKind() == pb.LossKind_LOSS_KIND_ZERO:
		case m.GetReleasedKnown() && m.GetReleasedWindow() != nil:
			worst = max(worst, m.GetReleasedWindow().AsDuration())
		default:
			return 0, false
		}
	}
	return worst, len(streams) > 0
}

// measured adds up what the old site's agents found beyond the head that an
// epoch recovered. Every agent keeps its own copy of the same log, so the node
// that holds most counts, and the others say the same again. A tail that the
// next writer sealed anew is superseded, not lost. A standby node reports what the
// service beside it left behind, under the name that the agent there gives it too.
//
// What of it had been released is the last writer's to say: it knows only once all
// that it found at its start was durable, so nobody before it can have released
// what was lost, and those who only kept the log released nothing.
func measured(qs []registry.Quarantine, cut tidegate.Epoch) *pb.MeasuredLoss {
	byNode := map[tidegate.NodeName]*pb.MeasuredLoss{}
	var worst, last *pb.MeasuredLoss
	var written tidegate.Epoch // by the last writer
	for _, q := range qs {
		if q.CutEpoch != cut || q.Reason == fence.ReasonSuperseded {
			continue
		}
		m := byNode[q.Node]
		if m == nil {
			m = &pb.MeasuredLoss{ReleasedKnown: true, Window: durationpb.New(0), ReleasedWindow: durationpb.New(0)}
			byNode[q.Node] = m
		}
		m.Bundles++
		m.Records += q.Records
		m.Bytes += q.Bytes
		if q.ReleasedRecords != nil {
			m.ReleasedRecords += *q.ReleasedRecords
		} else {
			m.ReleasedKnown = false
		}
		m.ReleasedWindow = releasedWindow(m.GetReleasedWindow(), q)
		if !q.Oldest.IsZero() && q.Newest.After(q.Oldest) {
			m.Window = durationpb.New(m.GetWindow().AsDuration() + q.Newest.Sub(q.Oldest))
		}
		if worst == nil || m.GetReleasedRecords() > worst.GetReleasedRecords() ||
			m.GetReleasedRecords() == worst.GetReleasedRecords() && m.GetRecords() > worst.GetRecords() {
			worst = m
		}
		if q.WrittenEpoch > written {
			written, last = q.WrittenEpoch, m
		}
	}
	switch {
	case last == nil:
	case !last.GetReleasedKnown():
		worst.ReleasedKnown, worst.ReleasedWindow = false, nil
	case last.GetReleasedRecords() >= worst.GetReleasedRecords():
		worst.ReleasedKnown, worst.ReleasedRecords, worst.ReleasedWindow = true, last.GetReleasedRecords(), last.GetReleasedWindow()
	}
	return worst
}

// releasedWindow adds a bundle's released records to the span so far; nil once
// the span of one is not known.
func releasedWindow(sum *durationpb.Duration, q registry.Quarantine) *durationpb.Duration {
	switch {
	case sum == nil || q.ReleasedRecords == nil:
		return nil
	case *q.ReleasedRecords == 0:
		return sum
	case q.Oldest.IsZero() || q.ReleasedNewest.Before(q.Oldest):
		return nil
	}
	return durationpb.New(sum.AsDuration() + q.ReleasedNewest.Sub(q.Oldest))
}

// contradict weakens a claim that the measurement refutes: a statement is never
// more optimistic than what is known. (I23)
func contradict(l *pb.LossStatement) {
	m := l.GetMeasured()
	limit := int64(tidegate.Unbounded)
	if b := l.GetBounds(); b != nil && b.Records != nil {
		limit = b.GetRecords()
	}
	if l.GetKind() == pb.LossKind_LOSS_KIND_UNKNOWN || m.GetReleasedRecords() <= limit {
		return
	}
	l.Why = fmt.Sprintf("%d released records were found beyond the head, against the claim (%s)", m.GetReleasedRecords(), l.GetWhy())
	l.Kind, l.Bounds, l.AtLeast = pb.LossKind_LOSS_KIND_UNKNOWN, nil, max(l.GetAtLeast(), 1)
}
