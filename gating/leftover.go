package gating

import (
	"context"
	"errors"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
)

// leftoverPeriod is how soon a writer that drains for nobody is let go on.
const leftoverPeriod = time.Second

// callOff lets a writer go on that was asked to drain by a plan that is over: a
// more urgent plan went before the switchover, and was then refused itself. It
// lasts as long as this gate leads.
func (c *controller) callOff(ctx context.Context, lead *registry.Leadership) error {
	tick := time.NewTicker(leftoverPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		v, reachable, _ := c.world.current()
		for _, s := range v.ServiceNames() {
			if !reachable || !switching(v, s) || c.runningPlan(s) != nil {
				continue
			}
			if err := c.callOffService(ctx, lead, s); err != nil && ctx.Err() == nil && !errors.Is(err, tidegate.ErrConflict) {
				c.log.Warn("a writer drains for a plan that is over", "service", s, "err", err)
			}
		}
	}
}

func switching(v *registry.View, s tidegate.ServiceName) bool {
	for _, st := range v.StreamsOf(s) {
		if v.Epochs[st.ID].Value.State == fence.StateSwitching {
			return true
		}
	}
	return false
}

func (c *controller) callOffService(ctx context.Context, lead *registry.Leadership, s tidegate.ServiceName) error {
	release, err := c.hold(ctx, "call off switchover", s)
	if err != nil {
		return err
	}
	defer release()
	v, err := c.store.Read(ctx)
	if err != nil || !switching(v, s) {
		return err
	}
	over, err := c.leftBehind(ctx, v, s)
	if err != nil || !over {
		return err
	}
	tx, e := new(registry.Tx).Leading(lead), c.entry(ctx, ActionPlanAbort, s, "the plan that asked the writer to drain is over")
	for _, st := range v.StreamsOf(s) {
		at := v.Epochs[st.ID]
		if at.Value.State != fence.StateSwitching {
			continue
		}
		e.Detail = append(e.Detail, fact("plan", "%s", at.Value.Plan))
		rec, err := at.Value.AbortSwitch(at.Value.Plan)
		if err != nil {
			return err
		}
		rec.Since = c.now().UnixNano()
		tx.Unchanged(registry.EpochKey(st.ID), at.Revision).Put(registry.EpochKey(st.ID), rec)
	}
	if _, err = c.store.Commit(ctx, tx.Audit(e)); err == nil {
		c.log.Warn("switchover called off: the plan that asked for it is over", "service", s)
	}
	return err
}
