package gating

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/gating/registry"
)

// swap replaces an epoch record by compare-and-swap on the revision that the
// caller based its change on. next returns the record to write, and the audit
// entry of the change if it has one; it may add conditions to the transaction.
func (s *nodeService) swap(ctx context.Context, op, stream string, revision int64, next func(fence.EpochRecord, *registry.Tx) (fence.EpochRecord, *registry.AuditEntry, error)) (*pb.EpochRecord, error) {
	id, err := api.RequireID("stream id", stream)
	if err != nil {
		return nil, misuse(op, stream, err)
	}
	e, err := s.epoch(ctx, id)
	if err != nil {
		return nil, err
	}
	tx := new(registry.Tx)
	rec, entry, err := next(e.Value, tx)
	if err != nil {
		return nil, err
	}
	if e.Revision != revision {
		return nil, &tidegate.Error{
			Op: op, Subject: stream, Class: tidegate.Transient, Err: fmt.Errorf("record is at revision %d, not %d: %w", e.Revision, revision, tidegate.ErrConflict),
		}
	}
	if entry != nil {
		tx.Audit(*entry)
	}
	rec.Since = s.now().UnixNano()
	rev, err := s.store.Commit(ctx, tx.Unchanged(registry.EpochKey(id), revision).Put(registry.EpochKey(id), rec))
	if err != nil {
		return nil, err
	}
	return fencewire.RecordMessage(rec, rev), nil
}

// RecordGate implements NodeService.
func (s *nodeService) RecordGate(ctx context.Context, req *connect.Request[pb.RecordGateRequest]) (*connect.Response[pb.RecordGateResponse], error) {
	m := req.Msg
	gate, err := fencewire.Gate(m.GetGate())
	was, werr := fencewire.Gate(m.GetWas())
	if err = errors.Join(err, werr); err != nil {
		return nil, misuse("record gate", m.GetStreamId(), err)
	}
	by, err := promiseOf(m.GetEpoch(), m.GetHolder())
	if err != nil {
		return nil, misuse("record gate", m.GetStreamId(), err)
	}
	rec, err := s.swap(ctx, "record gate", m.GetStreamId(), m.GetRevision(), func(r fence.EpochRecord, tx *registry.Tx) (fence.EpochRecord, *registry.AuditEntry, error) {
		if err := speaksFor(ctx, string(r.Holder.Node), ""); err != nil && r.Promise() == by {
			return r, nil, err
		}
		next, err := r.SetGate(by, was, gate)
		if err != nil {
			return r, nil, err
		}
		st, err := s.allowGate(ctx, tx, r, &next)
		if err != nil {
			return r, nil, err
		}
		e := s.gateEntry(ctx, st, r.Gate, next.Gate, m.GetReason())
		return next, &e, nil
	})
	if err != nil {
		return nil, err
	}
	s.log.Info("gate recorded", "stream", m.GetStreamId(), "epoch", m.GetEpoch(), "gate", rec.GetGate().GetState(), "mode", gate.Mode, "reason", m.GetReason())
	return connect.NewResponse(&pb.RecordGateResponse{Epoch: rec}), nil
}

// allowGate holds a writer's change of its gate's record against what the
// operator wants, and binds the transaction to that.
func (s *nodeService) allowGate(ctx context.Context, tx *registry.Tx, old fence.EpochRecord, next *fence.EpochRecord) (registry.Stream, error) {
	var st registry.Stream
	key := registry.StreamKey(old.Stream)
	rev, err := s.store.Get(ctx, key, &st)
	if err != nil {
		return st, err
	}
	if rev == 0 {
		return st, notFound("record gate", old.Stream.String(), "the stream was removed")
	}
	tx.Unchanged(key, rev)
	refuse := func(hint, format string, args ...any) error {
		return &tidegate.Error{Op: "record gate", Subject: string(st.Service) + "/" + string(st.Name), Class: tidegate.Refused, Err: fmt.Errorf(format, args...), Hint: hint}
	}
	if err := s.vouched("record gate", old); err != nil {
		return st, err
	}
	switch to := next.Gate.State; {
	case doubted(old) && to != fence.GateArmed:
		return st, refuse("arm the gate first", "the registry may have gone back, and nothing is known of the gate")
	case to == fence.GateArmed && st.Brake != nil:
		return st, refuse("lift it with `tidegate gate arm "+string(st.Service)+"`", "the brake is on: %s", st.Brake.Reason)
	case to == fence.GateDegraded && old.Gate.State == fence.GateArmed && !st.Policy.Degrades() && st.Brake == nil:
		return st, refuse("set a policy that degrades with `tidegate gate set --policy degrade`, or open the gate with `tidegate gate open`",
			"the stream's policy is %s", first(string(st.Policy.Reaction), string(tidegate.ReactBlock)))
	case to == fence.GateArmed && st.Policy.Reaction == tidegate.ReactDegradeBlind:
		// A writer that may open without asking is never on record as one that holds.
		next.Gate.State = fence.GateBlindOK
	case to == fence.GateBlindOK && st.Policy.Reaction != tidegate.ReactDegradeBlind && old.Gate.State != fence.GateBlindOK:
		return st, refuse("", "the stream's policy is %s", first(string(st.Policy.Reaction), string(tidegate.ReactBlock)))
	}
	return st, nil
}

// doubted reports whether a record may be older than what was decided since.
func doubted(rec fence.EpochRecord) bool {
	return rec.Restored || rec.Gate.State == fence.GateUnknown
}

// vouched refuses a writer's change of a record that may be an old one: the holder
// that it names may have been fenced long ago, and would arm a gate that is not
// its own. W members that know what they had and stand by the record's epoch show
// that no later one was opened: R of them promise before that.
func (p parts) vouched(op string, rec fence.EpochRecord) error {
	if !doubted(rec) {
		return nil
	}
	n := p.world.standBy(rec, p.timing.Stale)
	if n >= rec.Config.W {
		return nil
	}
	return &tidegate.Error{
		Op: op, Subject: rec.Stream.String(), Class: tidegate.Transient,
		Err:  fmt.Errorf("the registry may have gone back, and %d of %d members that answer stand by epoch %s, want %d", n, len(rec.Config.Members), rec.Epoch, rec.Config.W),
		Hint: "it is tried again; see `tidegate doctor` if it lasts",
	}
}

// standBy counts the members of a record's configuration that reported lately that
// the record's epoch is what they have promised. One in limbo may only have read
// that from the record.
func (w *world) standBy(rec fence.EpochRecord, stale time.Duration) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range rec.Config.Members {
		st := w.standbys[m.Node]
		if st == nil || w.age(st.at) > stale {
			continue
		}
		for _, s := range st.report.GetStreams() {
			p := s.GetPromise()
			if s.GetStreamId() == rec.Stream.String() && !s.GetLimbo() && tidegate.Epoch(p.GetEpoch()) == rec.Epoch && p.GetHolder() == rec.Holder.UUID.String() {
				n++
			}
		}
	}
	return n
}

func (p parts) gateEntry(ctx context.Context, st registry.Stream, old, next fence.GateRecord, reason string) registry.AuditEntry {
	action := ActionGateSet
	switch {
	case old.State == next.State:
	case next.State == fence.GateArmed:
		action = ActionGateArmed
	case next.State == fence.GateDegraded:
		action = ActionGateDegraded
	}
	e := p.entry(ctx, action, st.Service, reason, gateFacts(old, next)...)
	e.Stream = st.Name
	return e
}

// gateFacts says what differs between two records of a gate.
func gateFacts(old, next fence.GateRecord) []registry.Fact {
	var out []registry.Fact
	add := func(key string, a, b any) {
		if a != b {
			out = append(out, fact(key, "%v -> %v", a, b))
		}
	}
	add("state", old.State, next.State)
	add("mode", old.Mode, next.Mode)
	add("bounds", old.Bounds.String(), next.Bounds.String())
	add("lease", old.Lease, next.Lease)
	add("since_seq", old.SinceSeq, next.SinceSeq)
	return out
}

// HandOver implements NodeService: S5 of a switchover. The records of all streams
// go from SWITCHING to DEMOTED in one transaction, which is the demotion token.
func (s *nodeService) HandOver(ctx context.Context, req *connect.Request[pb.HandOverRequest]) (*connect.Response[pb.HandOverResponse], error) {
	m := req.Msg
	if err := speaksFor(ctx, m.GetNode(), ""); err != nil {
		return nil, err
	}
	given, err := handoversOf(m)
	if err != nil {
		return nil, misuse("hand over", m.GetService(), err)
	}
	v, err := s.store.Read(ctx)
	if err != nil {
		return nil, err
	}
	service := tidegate.ServiceName(m.GetService())
	tx, out := new(registry.Tx), &pb.HandOverResponse{}
	e := s.entry(ctx, ActionHandOver, service, "")
	var recs []fence.EpochRecord
	repeated := 0
	for _, st := range v.StreamsOf(service) {
		at := v.Epochs[st.ID]
		h, ok := given[st.ID]
		if !ok {
			if at.Value.ActiveEpoch == 0 && at.Value.State == fence.StateDemoted {
				continue // added lately: it has no writer yet
			}
			return nil, misuse("hand over", m.GetService(), fmt.Errorf("streams: want every stream of the service (%s is missing)", st.Name))
		}
		if err := speaksFor(ctx, string(at.Value.Holder.Node), ""); err != nil && at.Value.Promise() == h.by {
			return nil, err
		}
		if old := at.Value; old.State == fence.StateDemoted && old.Promise() == h.by && old.Handover != nil && *old.Handover == h.to {
			repeated++
			out.Epochs = append(out.Epochs, fencewire.RecordMessage(old, at.Revision))
			continue
		}
		rec, err := at.Value.HandOver(h.by, h.to)
		if err != nil {
			return nil, err
		}
		if at.Revision != h.revision {
			return nil, &tidegate.Error{
				Op: "hand over", Subject: string(st.Name), Class: tidegate.Transient,
				Err: fmt.Errorf("record is at revision %d, not %d: %w", at.Revision, h.revision, tidegate.ErrConflict),
			}
		}
		rec.Since = s.now().UnixNano()
		recs = append(recs, rec)
		e.Detail = append(e.Detail, fact(string(st.Name), "%s at position %s", h.to.Head, h.to.Position))
		tx.Unchanged(registry.EpochKey(st.ID), h.revision).Put(registry.EpochKey(st.ID), rec)
	}
	switch {
	case repeated > 0 && len(recs) == 0:
		return connect.NewResponse(out), nil
	case len(recs) == 0 || repeated > 0:
		return nil, misuse("hand over", m.GetService(), errors.New("streams: want every stream of the service, in one call"))
	}
	unknown, err := s.compareApplied(ctx, v, recs)
	if err != nil {
		s.log.Error("handover refused, the writer goes on", "service", service, "err", err)
		s.control.notApplied(ctx, service, err)
		return nil, err
	}
	for _, text := range unknown {
		e.Detail = append(e.Detail, fact("not compared", "%s", text))
	}
	s.control.notCompared(service, unknown)
	rev, err := s.store.Commit(ctx, tx.Audit(e))
	if err != nil {
		return nil, err
	}
	for _, rec := range recs {
		out.Epochs = append(out.Epochs, fencewire.RecordMessage(rec, rev))
	}
	s.log.Info("writer has handed over", "service", service, "node", m.GetNode())
	s.control.handedOver(service)
	return connect.NewResponse(out), nil
}

type handover struct {
	by       fence.Promise
	revision int64
	to       fence.Handover
}

func handoversOf(m *pb.HandOverRequest) (map[tidegate.StreamID]handover, error) {
	out := map[tidegate.StreamID]handover{}
	for _, one := range m.GetStreams() {
		id, err := api.RequireID("stream id", one.GetStreamId())
		if err != nil {
			return nil, err
		}
		h := handover{revision: one.GetRevision()}
		if h.by, err = promiseOf(one.GetEpoch(), m.GetHolder()); err != nil {
			return nil, err
		}
		to, err := fencewire.Handover(one.GetHandover())
		if err != nil {
			return nil, err
		}
		if to == nil {
			return nil, fmt.Errorf("stream %s: want its handover", id)
		}
		h.to = *to
		out[id] = h
	}
	return out, nil
}
