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
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/internal/retry"
)

// digestWait is how long a handover waits for the service to tell the digest of
// its final state: clients are waiting, and the log is the same without it.
const digestWait = 500 * time.Millisecond

// handover is how far a stream has come with giving its epoch up. The zero value
// has not begun. All of it is void when the switchover is called off.
type handover struct {
	drained tidegate.Instant // since when nothing is in flight any more; 0: not yet
	due     bool             // all streams of the service are drained: the last batch may be sealed
	sealed  bool
	to      fence.Handover // what was sealed
}

// handedOver reports whether the record says that this writer has.
func (w *writer) handedOver() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.phase == fence.StateDemoted
}

// noteApplied remembers how far the nodes have applied, while that matters; mu is
// held.
func (w *writer) noteApplied(a fence.Ack) {
	if w.phase != fence.StateSwitching || a.Epoch != w.epoch {
		return
	}
	if w.applied == nil {
		w.applied = map[tidegate.NodeName]tidegate.Seq{}
	}
	w.applied[a.Node] = max(w.applied[a.Node], a.Applied)
}

// finished reports whether the library obeys the drain, nothing is in flight, and
// all of its log is sealed. mu is held.
func (w *writer) finished() bool {
	lib := &w.meter.lib
	return w.phase == fence.StateSwitching && w.ring != nil && !w.ended && lib.Drained && w.obeyed(w.since.drain) &&
		lib.L.Position == lib.End && w.ring.last().next == lib.End
}

// isDrained reports whether the stream is finished, and the service's final
// state told or not to be waited for any longer. mu is held.
func (w *writer) isDrained(now tidegate.Instant) bool {
	lib := &w.meter.lib
	if !w.finished() {
		w.hand.drained = 0
		return false
	}
	if w.hand.drained == 0 {
		w.hand.drained = now
	}
	return lib.DigestAt == lib.End && !lib.Digest.IsZero() || time.Duration(now-w.hand.drained) >= digestWait
}

// mayHandOver reports whether the last batch is durable, and the node that is to
// go on, if it keeps the stream, has applied it. mu is held.
func (w *writer) mayHandOver() bool {
	if w.phase != fence.StateSwitching || !w.hand.sealed || w.ring.durable.seq < w.hand.to.Head.Seq {
		return false
	}
	return w.core.Record().Config.Index(w.target.Node) < 0 || w.applied[w.target.Node] >= w.hand.to.Head.Seq
}

// handOver seals the last batch of the epoch, if it is due. It is the sealing
// goroutine's.
func (z *sealer) handOver() (sealed bool, err error) {
	w := z.w
	w.mu.Lock()
	lib := &w.meter.lib
	due := w.hand.due && !w.hand.sealed && w.finished()
	h := batch.Handover{Holder: w.s.agent.holder, Reason: "switchover to " + string(w.target.Node)}
	if lib.DigestAt == lib.End && !lib.Digest.IsZero() {
		h.StateKnown, h.StateDigest = true, lib.Digest
	}
	position := lib.End
	w.mu.Unlock()
	if !due {
		return false, nil
	}
	payload, err := h.Append(nil)
	if err != nil {
		return false, err
	}
	before := w.end()
	if err := z.control(batch.KindHandover, payload); err != nil {
		return false, err
	}
	head := w.end()
	if head.Seq == before.Seq {
		return false, nil // the ring is full; D makes room
	}
	w.mu.Lock()
	if w.phase == fence.StateSwitching {
		w.hand.sealed = true
		w.hand.to = fence.Handover{Head: head, Position: position, StateKnown: h.StateKnown, StateDigest: h.StateDigest}
	}
	w.mu.Unlock()
	w.log.Info("handover sealed", "head", head.String(), "position", position.String(), "state_known", h.StateKnown)
	return true, nil
}

// end returns the newest sealed batch.
func (w *writer) end() tidegate.LogPos {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.core.End()
}

// keepSwitch gives the service's epochs up, all in one call, once a switchover
// asks for it and everything is in place, until ctx ends. Whatever goes wrong,
// nothing is given up: the gate calls the switchover off when its time is over.
func (v *service) keepSwitch(ctx context.Context) error {
	backoff := retry.Policy{First: 20 * time.Millisecond, Max: 500 * time.Millisecond}.Backoff()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-v.switchChanged:
		}
		req, wait := v.nextHandOver()
		if wait > 0 {
			// Only time has to pass: the digest that is waited for may never come.
			v.later(ctx, wait)
		}
		if req == nil {
			continue
		}
		err := v.handOver(ctx, req)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			backoff.Reset()
			continue
		}
		v.log.Warn("handover not taken", "err", err)
		if backoff.Wait(ctx) != nil {
			return nil
		}
		v.pokeSwitch()
	}
}

// later pokes the switch after a while.
func (v *service) later(ctx context.Context, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-v.switchChanged:
	case <-timer.C:
	}
	v.pokeSwitch()
}

// nextHandOver moves every stream on by one step. It returns the call that is
// due once all of them are ready for it; wait is more than 0 when a stream only
// waits for time.
func (v *service) nextHandOver() (req *pb.HandOverRequest, wait time.Duration) {
	now := v.agent.clk.Boot()
	drained, ready := true, true
	var writers []*writer
	for _, s := range v.streams {
		w := s.writer.Load()
		if w == nil && s.neverWritten() {
			continue // added lately: there is nothing to give up
		}
		if w == nil {
			return nil, 0
		}
		writers = append(writers, w)
		w.mu.Lock()
		if !w.hand.sealed && !w.isDrained(now) {
			drained = false
			if w.hand.drained != 0 {
				wait = digestWait / 5
			}
		}
		ready = ready && w.mayHandOver()
		w.mu.Unlock()
	}
	if !drained || len(writers) == 0 {
		return nil, wait
	}
	if !ready {
		for _, w := range writers {
			w.mu.Lock()
			w.hand.due = true
			w.mu.Unlock()
			wake(w.kick)
		}
		return nil, 0
	}
	a := v.agent
	req = &pb.HandOverRequest{Service: string(v.name), Node: string(a.cfg.Node.Name), Holder: api.IDText(a.holder)}
	for _, w := range writers {
		w.mu.Lock()
		to := w.hand.to
		req.Streams = append(req.Streams, &pb.StreamHandover{
			StreamId: api.IDText(w.stream), Epoch: uint64(w.epoch), Revision: w.revision, Handover: fencewire.HandoverMessage(&to),
		})
		w.mu.Unlock()
	}
	return req, 0
}

// neverWritten reports whether the stream has had no epoch yet.
func (s *stream) neverWritten() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view.rec.ActiveEpoch == 0
}

// handOver is the writer's last act.
func (v *service) handOver(ctx context.Context, req *pb.HandOverRequest) error {
	res, err := call(ctx, v.agent.gate, "hand over", callTimeout, req,
		func(c tidegatev1connect.NodeServiceClient, ctx context.Context, r *connect.Request[pb.HandOverRequest]) (*connect.Response[pb.HandOverResponse], error) {
			return c.HandOver(ctx, r)
		})
	if err != nil {
		return err
	}
	v.log.Info("epochs handed over", "streams", len(req.GetStreams()))
	var all []error
	for _, e := range res.GetEpochs() {
		for _, s := range v.streams {
			if w := s.writer.Load(); w != nil && api.IDText(w.stream) == e.GetStreamId() {
				all = append(all, s.recordFrom(e))
			}
		}
	}
	return errors.Join(all...)
}
