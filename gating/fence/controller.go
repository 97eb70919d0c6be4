package fence

import "time"

// Controller carries out one plan.
type Controller struct{ plan Plan }

// NewController takes up a plan: a new one (Step empty), or one that another
// controller saved at any step.
func NewController(p Plan) (*Controller, error) { return &Controller{plan: p}, p.Validate() }

// Start returns the first effect (ReadKeys). now is the wall clock.
func (c *Controller) Start(now time.Time) []ControlEffect { return nil }

// Step takes one event and returns what must be done, in order. now is the
// wall clock; it is recorded and decides nothing.
func (c *Controller) Step(now time.Time, ev ControlEvent) []ControlEffect { return nil }

// Plan returns the plan as it stands. It shares memory with the controller.
func (c *Controller) Plan() Plan { return c.plan }
