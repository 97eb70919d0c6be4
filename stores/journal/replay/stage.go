package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
)

// order is what a stream's feed does next, in a replay that stays.
type order struct {
	plan  *Plan          // feed on up to its end; nil: promote
	epoch tidegate.Epoch // of the promotion
}

// Fed waits until the service has been fed the plans, those of New or of the latest Next,
// and returns what came of each, in their order. Where the replay has ended before, it
// returns what [Replay.Run] does. For a replay that stays; not to be called by two.
func (r *Replay) Fed(ctx context.Context) ([]Outcome, error) {
	out := make([]Outcome, len(r.feeds))
	for i, f := range r.feeds {
		select {
		case out[i] = <-f.fedAll:
		case <-r.over:
			return r.final, r.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return out, nil
}

// Next goes on with other plans of the same streams, in the same order, which begin where
// those before them did and end behind them; after [Replay.Fed].
func (r *Replay) Next(plans []*Plan) {
	total := int64(0)
	for i, f := range r.feeds {
		total += plans[i].Bytes
		f.orders <- order{plan: plans[i]} // it has room: the turn before it is over
	}
	r.total.Store(total)
}

// Promote makes the service the active one of that epoch, where it was fed to, and
// returns when all its streams say that they are; after [Replay.Fed].
func (r *Replay) Promote(ctx context.Context, epoch tidegate.Epoch) error {
	for _, f := range r.feeds {
		f.orders <- order{epoch: epoch}
	}
	for _, f := range r.feeds {
		select {
		case <-f.promoted:
		case <-r.over:
			return cmp.Or(r.err, error(errOver))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

var errOver = &tidegate.Error{Op: "replay", Class: tidegate.Transient, Err: fmt.Errorf("it has ended: %w", tidegate.ErrStopped)}

// stay does what is ordered when the plan has been fed, until the session ends. It
// returns nil when there is another plan to feed.
func (s *session) stay(ctx context.Context) error {
	f := s.f
	if !f.told {
		f.told = true
		f.fedAll <- f.outcome()
	}
	var o order
	select {
	case o = <-f.orders:
	case <-s.over:
		return goneError{errHungUp}
	case <-ctx.Done():
		return ctx.Err()
	}
	if o.plan != nil {
		f.p, f.marks, f.out, f.ended, f.told = o.plan, o.plan.marks, Outcome{}, false, false
		return nil
	}
	return s.promote(ctx, o.epoch)
}

// promote plays the standby node at a failover. It returns when the session ends: who
// goes away then has lost what it was promoted for.
func (s *session) promote(ctx context.Context, epoch tidegate.Epoch) error {
	f := s.f
	err := s.send(&local.Role{
		State: local.StateActive, Epoch: epoch, ApplyTo: f.fed, Branch: f.fed, Lineage: f.lineage, Generation: f.p.End.Generation,
	})
	if err == nil {
		err = s.await(ctx, func() bool { return s.active })
	}
	if err == nil {
		close(f.promoted)
		err = s.await(ctx, func() bool { return false })
	}
	if gone, is := errors.AsType[goneError](err); is {
		s.mu.Lock()
		defer s.mu.Unlock()
		why := gone.error
		if s.fault != "" {
			why = errors.New(s.fault)
		}
		return &tidegate.Error{
			Op: "promote", Subject: "epoch " + epoch.String(), Class: tidegate.Transient, Err: fmt.Errorf("the service went away: %w", why),
			Hint: "what ended it is in its own log",
		}
	}
	return err
}
