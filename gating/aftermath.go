package gating

import (
	"context"
	"time"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
)

// firstWriteMax bounds how long a failover is shown as under way while the
// synthetic client gets no answer. t8 stays unknown then.
const firstWriteMax = time.Minute

// firstWrite stamps t8: the first good synthetic write that began after the new
// route was written down. Without a prober it stays unknown.
func (r *runner) firstWrite(ctx context.Context) error {
	p := r.ctl.Plan()
	if !p.Times.T8.IsZero() || !r.probes.writes(p.Service) {
		return nil
	}
	var to registry.Route
	if _, err := r.store.Get(ctx, registry.RouteKey(p.Service), &to); err != nil {
		return err
	}
	wctx, cancel := context.WithTimeout(ctx, firstWriteMax)
	defer cancel()
	at, ok := r.probes.goodSince(wctx, p.Service, to.Since)
	if !ok {
		if ctx.Err() == nil {
			r.log.Warn("no synthetic write succeeded since the route was switched", "plan", r.view.GetId(), "service", p.Service, "waited", firstWriteMax)
		}
		return context.Cause(ctx)
	}
	return r.afterwards(ctx, fence.Journey{At: at})
}

// afterwards steps a finished plan with a late stamp and saves it.
func (r *runner) afterwards(ctx context.Context, ev fence.ControlEvent) error {
	for _, e := range r.ctl.Step(r.now(), ev) {
		if s, ok := e.(fence.SavePlan); ok {
			if err := r.save(ctx, s.Plan); err != nil {
				return err
			}
		}
	}
	return nil
}

// redundancyPeriod is how often a finished failover looks for its redundancy.
const redundancyPeriod = 250 * time.Millisecond

// reconstitute stamps t9: every stream has W counted members again and an armed
// gate. It lasts as long as that takes, or this gate leads.
func (r *runner) reconstitute(ctx context.Context) error {
	p := r.ctl.Plan()
	tick := time.NewTicker(redundancyPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		v, _, _ := r.world.current()
		switch r.redundant(v, p) {
		case redundantYes:
			return r.afterwards(ctx, fence.Reconstituted{})
		case redundantMoot:
			return nil
		case redundantNo:
		}
	}
}

type redundancy int

const (
	redundantNo   redundancy = iota
	redundantYes             // t9
	redundantMoot            // the streams have moved on: nobody waits for this any more
)

func (r *runner) redundant(v *registry.View, p fence.Plan) redundancy {
	for i := range p.Streams {
		e, ok := v.Epochs[p.Streams[i].Stream]
		rec := e.Value
		if !ok || rec.ActiveEpoch > p.Streams[i].Record.Epoch && moves(rec.Kind) {
			return redundantMoot
		}
		if rec.State != fence.StateActive || rec.Shrunk || rec.Gate.State != fence.GateArmed || !r.world.counted(rec, v.Streams[rec.Stream].Value, r.timing.Stale) {
			return redundantNo
		}
	}
	return redundantYes
}

// counted reports whether at least W members count: the writer counts their acks,
// and they are caught up. That a record names a member says nothing yet.
func (w *world) counted(rec fence.EpochRecord, st registry.Stream, stale time.Duration) bool {
	s, age := w.writerReport(rec)
	if s == nil || age > stale {
		return false
	}
	n := 0
	for _, m := range w.memberStatus(rec, st, s, stale) {
		if m.GetCounted() {
			n++
		}
	}
	return n >= rec.Config.W
}

// writerReport returns what the holder of a record last said about its stream;
// nil when it never did.
func (w *world) writerReport(rec fence.EpochRecord) (*pb.AgentStream, time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.agents[rec.Holder.Node]
	if a == nil || a.report == nil || a.holder != rec.Holder.UUID {
		return nil, 0
	}
	for _, s := range a.report.GetStreams() {
		if s.GetStreamId() == rec.Stream.String() && s.GetRole() == pb.AgentRole_AGENT_ROLE_WRITER && tidegate.Epoch(s.GetEpoch()) == rec.Epoch {
			return s, w.age(a.at)
		}
	}
	return nil, 0
}
