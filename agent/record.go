package agent

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/internal/retry"
)

// keepRecord brings the gate's record to what the operator wants, in the safe
// order, and asks the gate to count members that have caught up. While no gate
// answers nothing changes and the term goes on.
func (w *writer) keepRecord(ctx context.Context) error {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	backoff := retry.Policy{First: 100 * time.Millisecond, Max: 5 * time.Second}.Backoff()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.settle:
		case <-ticker.C:
		}
		if err := w.over(); err != nil {
			return err
		}
		err := errors.Join(w.recordGate(ctx), w.exitLimbo(ctx))
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			backoff.Reset()
		default:
			w.log.Warn("record at the gate failed", "err", err)
			if backoff.Wait(ctx) != nil {
				return ctx.Err()
			}
		}
	}
}

func (w *writer) recordGate(ctx context.Context) error {
	now := w.s.agent.clk.Boot()
	w.mu.Lock()
	next, why, due := w.nextGate(now)
	req := &pb.RecordGateRequest{
		StreamId: api.IDText(w.stream), Epoch: uint64(w.epoch), Holder: api.IDText(w.s.agent.holder), Revision: w.revision,
		Was: fencewire.GateMessage(w.terms), Gate: fencewire.GateMessage(next), Reason: why,
	}
	was := w.terms.State
	if due {
		w.claiming(next)
	}
	w.mu.Unlock()
	if !due {
		return nil
	}
	res, err := call(ctx, w.s.agent.gate, "record gate", callTimeout, req,
		func(c tidegatev1connect.NodeServiceClient, ctx context.Context, r *connect.Request[pb.RecordGateRequest]) (*connect.Response[pb.RecordGateResponse], error) {
			return c.RecordGate(ctx, r)
		})
	if err != nil {
		return err
	}
	if was != next.State {
		w.log.Warn("gate recorded", "from", string(was), "to", string(next.State), "why", why, "since", next.SinceSeq.String())
	}
	return w.s.recordFrom(res.GetEpoch())
}

// nextGate returns what the gate's record should say next, and why; due is false
// while it may stay as it is, or must. A loosening is recorded before it acts; a
// tightening once the library has obeyed it. mu is held.
func (w *writer) nextGate(now tidegate.Instant) (next fence.GateRecord, why string, due bool) {
	have := w.terms
	if w.ring == nil || w.ended || w.wantMode == "" || w.phase != fence.StateActive || w.brake.on {
		// The brake's own record is the gate's to write, and nothing arms under it.
		return next, "", false
	}
	next = fence.GateRecord{State: fence.GateArmed, Mode: w.wantMode, Bounds: w.want, SinceSeq: w.ring.last().seq + 1, Lease: w.wantLease}
	if w.policy.Reaction == tidegate.ReactDegradeBlind {
		next.State = fence.GateBlindOK
	}
	switch {
	case w.asks(machine.WantDegraded) && have.State != fence.GateDegraded && have.State != fence.GateBlindOK:
		if !w.policy.Degrades() {
			return next, "", false
		}
		have.State, have.SinceSeq = fence.GateDegraded, w.ring.durable.seq+1
		return have, "closed for longer than its grace", true
	case have.State == fence.GateDegraded:
		if w.asks(machine.WantArmed) && w.mayArm(now, next) {
			return next, "what was released lies within the bounds, and they are enforced again", true
		}
		have.Lease = next.Lease
		return have, "the operator's setting", have.Lease != w.terms.Lease && w.mayLease(have)
	case same(have, next):
		return next, "", false
	}
	return next, "the operator's setting", w.mayArm(now, next) && w.mayLease(next)
}

// same reports whether two records promise the same.
func same(a, b fence.GateRecord) bool {
	a.SinceSeq, b.SinceSeq = 0, 0
	if x, err := a.Mode.Bounds(a.Bounds); err == nil && b.Mode != "" {
		if y, err := b.Mode.Bounds(b.Bounds); err == nil && x == y {
			a.Mode, a.Bounds, b.Mode, b.Bounds = "", tidegate.Bounds{}, "", tidegate.Bounds{}
		}
	}
	return a == b
}

// asks reports whether the library wants that of the record, in this term. What
// it wanted before it obeyed a grant of this term is history. mu is held.
func (w *writer) asks(want machine.Want) bool {
	return w.meter.lib.Want == want && w.obeyed(w.since.record)
}

// mayArm reports whether the record may claim what next says: the library
// enforces it, and what was released under something looser lies within it by
// now. A record that promises nothing claims nothing. mu is held.
func (w *writer) mayArm(now tidegate.Instant, next fence.GateRecord) bool {
	if next.State != fence.GateArmed {
		return w.terms.State != fence.GateDegraded || w.obeyed(w.since.bounds)
	}
	have, armed := recorded(w.terms)
	if armed && !have.LooserThan(w.want) {
		return true
	}
	if !w.obeyed(max(w.since.bounds, w.since.policy, w.since.record)) {
		return false
	}
	if lib := w.meter.lib.Gate; lib == machine.Degraded || lib == 0 && w.terms.State == fence.GateBlindOK {
		return false // bounds are not enforced at this moment
	}
	return w.meter.within(now, w.want)
}

// mayLease reports whether the record may name next's lease: a writer that the
// record says obeys one must do so already, unless its gate holds it anyway. mu
// is held.
func (w *writer) mayLease(next fence.GateRecord) bool {
	return w.terms.Lease > 0 || next.Lease == 0 || next.Holds() || next.State == fence.GateBlindOK || w.obeyed(w.since.lease)
}

func (w *writer) exitLimbo(ctx context.Context) error {
	w.mu.Lock()
	rec, revision := w.core.Record(), w.revision
	members := w.core.CaughtUp()
	w.mu.Unlock()
	for _, m := range members {
		req := &pb.ExitLimboRequest{
			StreamId: api.IDText(rec.Stream), Member: fencewire.MemberMessage(m),
			Epoch: uint64(w.epoch), Holder: api.IDText(w.s.agent.holder), Revision: revision,
		}
		res, err := call(ctx, w.s.agent.gate, "exit limbo", callTimeout, req,
			func(c tidegatev1connect.NodeServiceClient, ctx context.Context, r *connect.Request[pb.ExitLimboRequest]) (*connect.Response[pb.ExitLimboResponse], error) {
				return c.ExitLimbo(ctx, r)
			})
		if err != nil {
			return err
		}
		w.log.Info("standby node counts again", "node", string(m.Node), "incarnation", m.Incarnation.String())
		if err := w.s.recordFrom(res.GetEpoch()); err != nil {
			return err
		}
	}
	return nil
}

// recordFrom takes a record that a gate's answer carried.
func (s *stream) recordFrom(m *pb.EpochRecord) error {
	if m == nil {
		return nil
	}
	rec, revision, err := fencewire.Record(m)
	if err != nil {
		return err
	}
	s.written(rec, revision)
	return nil
}
