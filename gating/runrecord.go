package gating

import (
	"context"
	"errors"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/internal/retry"
)

func (r *runner) readKeys(ctx context.Context, e fence.ReadKeys) (fence.ControlEvent, error) {
	entries, err := r.store.ReadEpochs(ctx, e.Streams...)
	if err != nil {
		if !r.mayRetry(ctx, err) {
			return nil, err
		}
		return r.again(ctx, fence.TxnUnknown{Token: e.Token})
	}
	ev := fence.KeysRead{Token: e.Token}
	for i, id := range e.Streams {
		ev.Keys = append(ev.Keys, fence.KeyState{Stream: id, Revision: entries[i].Revision, Record: entries[i].Value})
	}
	return ev, nil
}

// again waits a tick before an answer that makes the core ask again at once: a
// registry that is down must not be asked in a tight loop.
func (r *runner) again(ctx context.Context, ev fence.ControlEvent) (fence.ControlEvent, error) {
	t := time.NewTimer(r.timing.Tick)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-t.C:
		return ev, nil
	}
}

// mayRetry reports whether a failed request may be repeated: the registry does
// not answer, and this run is still wanted.
func (r *runner) mayRetry(ctx context.Context, err error) bool {
	return ctx.Err() == nil && tidegate.ClassOf(err) == tidegate.Transient && !errors.Is(err, tidegate.ErrConflict)
}

// commit writes the plan's record with t. The record must be as this run knows it:
// a request that this run has given up on, because it was told to give way or had
// no answer in time, may still reach the registry after a later one, and must then
// find that it is too late. A plan whose first record has not arrived gets it now.
func (r *runner) commit(ctx context.Context, t *registry.Tx, p fence.Plan) (revision int64, err error) {
	id, rec := p.ID.String(), planRecord{plan: p, view: r.view, next: r.next}
	if r.at == 0 {
		if r.at, err = r.store.Get(ctx, registry.PlanKey(id), new(planRecord)); err != nil {
			return 0, err
		}
	}
	if r.at == 0 {
		t.NewPlan(id, p.Service, rec)
	} else {
		t.Unchanged(registry.PlanKey(id), r.at).Put(registry.PlanKey(id), rec)
	}
	r.at, err = r.store.Commit(ctx, t) // 0 after an error: it may have been written, or may yet be
	return r.at, err
}

func (r *runner) txn(ctx context.Context, e fence.Txn) (fence.ControlEvent, error) {
	began := r.now()
	changed := r.draw(e.Plan)
	t := new(registry.Tx).Leading(r.lead)
	for _, p := range e.Puts {
		t.Unchanged(registry.EpochKey(p.Stream), p.IfRevision).Put(registry.EpochKey(p.Stream), p.Record)
		if e.Step == fence.StepActivate {
			t.Put(registry.HistoryKey(p.Stream, p.Record.Epoch), p.Record)
		}
	}
	rev, err := r.commit(ctx, t, e.Plan)
	switch {
	case err == nil:
		// The record had to say that the step is done; how long the registry took
		// is known only now, and goes on record with the next step.
		tookStep(r.view, e.Step, began, r.now())
		if e.Step == fence.StepReserve && r.reserved.IsZero() {
			r.reserved = r.now()
		}
		r.tell(e.Plan, changed)
		r.recorded()
		return fence.TxnDone{Token: e.Token, Committed: true, Revision: rev}, nil
	case errors.Is(err, tidegate.ErrConflict):
		return fence.TxnDone{Token: e.Token}, r.stillLeading(ctx)
	case r.mayRetry(ctx, err):
		return r.again(ctx, fence.TxnUnknown{Token: e.Token})
	}
	return nil, err
}

// stillLeading tells the two reasons of a conflict apart: a changed key is the
// core's business, a lost turn ends the run.
func (r *runner) stillLeading(ctx context.Context) error {
	return retry.Policy{}.Do(ctx, func(ctx context.Context) error {
		_, err := r.store.Commit(ctx, new(registry.Tx).Leading(r.lead))
		if errors.Is(err, tidegate.ErrConflict) {
			return &tidegate.Error{Op: "run plan", Subject: r.view.GetId(), Class: tidegate.Permanent, Err: errNotLeading}
		}
		return err
	})
}

// save writes the plan's record and returns when it is durable: whatever the
// core does next is done after that.
func (r *runner) save(ctx context.Context, p fence.Plan) error {
	r.show(p)
	return retry.Policy{First: r.timing.Tick, Max: 4 * r.timing.Tick}.Do(ctx, func(ctx context.Context) error {
		_, err := r.commit(ctx, new(registry.Tx).Leading(r.lead), p)
		switch {
		case err == nil:
			r.recorded()
		case errors.Is(err, tidegate.ErrConflict):
			if lost := r.stillLeading(ctx); lost != nil {
				return lost
			}
		}
		return err
	})
}

func (r *runner) recorded() {
	r.saved++
	if r.afterSave != nil {
		r.afterSave(r.ctl.Plan().Step, r.saved)
	}
}

// giveUp closes the record of a plan that is not gone on with: another one took
// its place, or it had not begun.
func (r *runner) giveUp(ctx context.Context, why error) error {
	p := r.ctl.Plan()
	p.Step = fence.StepGone
	r.view.Error = why.Error()
	if err := r.save(ctx, p); err != nil {
		return err
	}
	if p.Kind != fence.KindAcquire {
		r.note(ctx, r.planEntry(ctx, ActionPlanEnd, p, r.view))
	}
	return nil
}
