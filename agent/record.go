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
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/retry"
)

// unbounded is what a record stands for that promises nothing.
var unbounded = tidegate.Bounds{Records: tidegate.Unbounded, Bytes: tidegate.Unbounded, Window: tidegate.Unbounded}

// recorded returns the bounds that the gate's record promises, and whether it
// promises any.
func recorded(g fence.GateRecord) (tidegate.Bounds, bool) {
	if g.State != fence.GateArmed {
		return unbounded, false
	}
	b, err := g.Mode.Bounds(g.Bounds)
	if err != nil {
		return unbounded, false
	}
	return b, true
}

// tightest is the component-wise minimum: what both the record and the
// operator allow. It makes both orders come out right at once: a loosening acts
// only when the record has it, a tightening before the record does.
func tightest(a, b tidegate.Bounds) tidegate.Bounds {
	return tidegate.Bounds{Records: min(a.Records, b.Records), Bytes: min(a.Bytes, b.Bytes), Window: min(a.Window, b.Window)}
}

// modeOf names the mode that bounds amount to.
func modeOf(b tidegate.Bounds) tidegate.Mode {
	switch b {
	case tidegate.Bounds{}:
		return tidegate.ModeSync
	case unbounded:
		return tidegate.ModeOpen
	}
	return tidegate.ModeBounded
}

// effective returns the bounds in force, and whether they are the record's; mu
// is held.
func (w *writer) effective() (b tidegate.Bounds, isRecord bool) {
	rec, armed := recorded(w.core.Record().Gate)
	if w.wantMode == "" {
		if !armed {
			return tidegate.Bounds{}, false // nobody has allowed anything
		}
		return rec, true
	}
	b = tightest(rec, w.want)
	return b, armed && b == rec
}

// grant returns what the library may release, once the term is proven.
func (w *writer) grant() (local.DaemonProgress, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ring == nil || w.ended {
		return local.DaemonProgress{}, false
	}
	b, isRecord := w.effective()
	if b != w.granted {
		w.granted, w.grantedAt, w.reports = b, w.s.agent.clk.Boot(), 0
	}
	return local.DaemonProgress{
		D: w.ring.floor.next, DKnown: true, Epoch: w.epoch, Mode: modeOf(b), Bounds: b, Recorded: isRecord,
	}, true
}

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

// A library that has reported this often, and this long, after it was given new
// bounds has obeyed them in what it reports: a report may have been on its way
// when the bounds were given, but reports are 200 ms apart at most.
const (
	enforcedReports = 3
	enforcedAfter   = 500 * time.Millisecond
)

// enforced reports whether what the library says it has released was released
// under the bounds in force; mu is held.
func (w *writer) enforced(now tidegate.Instant) bool {
	return w.reports >= enforcedReports && time.Duration(now-w.grantedAt) >= enforcedAfter
}

func (w *writer) recordGate(ctx context.Context) error {
	now := w.s.agent.clk.Boot()
	w.mu.Lock()
	rec := w.core.Record()
	have, armed := recorded(rec.Gate)
	due := w.ring != nil && w.wantMode != "" && (!armed || have != w.want)
	if due && have.LooserThan(w.want) && !(w.enforced(now) && w.meter.within(now, w.want)) {
		// Something was, or may have been, released under the looser bounds and
		// is not durable: the record must not deny it yet.
		due = false
	}
	req := &pb.RecordGateRequest{
		StreamId: api.IDText(rec.Stream), Epoch: uint64(w.epoch), Holder: api.IDText(w.s.agent.holder), Revision: w.revision,
		Reason: "the operator's setting",
	}
	if due {
		req.Gate = fencewire.GateMessage(fence.GateRecord{
			State: fence.GateArmed, Mode: w.wantMode, Bounds: w.want, SinceSeq: w.ring.last().seq + 1,
		})
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
	return w.s.recordFrom(res.GetEpoch())
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
	s.granted(rec, revision)
	return nil
}
