package journal

import (
	"context"
	"fmt"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/rpo"
)

// Closed is the answer to new work that the gate does not take. It is reached by
// errors.As, and wraps tidegate.ErrGateClosed or tidegate.ErrDraining.
type Closed struct {
	State       machine.Outer
	Exposure    rpo.Exposure      // what a disaster would lose now
	Utilisation float64           // largest used share of a bound; unknown unless Exposure.Known
	A           tidegate.Position // released; unknown unless Exposure.Known
	D           tidegate.Position // durable at the other site; unknown unless DKnown
	DKnown      bool
	Reason      string        // why, for people
	RetryAfter  time.Duration // when it may be worth trying again; a guess
	Condition   error         // tidegate.ErrGateClosed or tidegate.ErrDraining
}

func (c *Closed) Error() string {
	if !c.Exposure.Known {
		return fmt.Sprintf("%v: %s, retry after %s", c.Condition, c.Reason, c.RetryAfter)
	}
	return fmt.Sprintf("%v: %s, utilisation %.2f, retry after %s", c.Condition, c.Reason, c.Utilisation, c.RetryAfter)
}

// Unwrap returns the condition.
func (c *Closed) Unwrap() error { return c.Condition }

// retryBounds clip the guess: shorter makes a client's retries the load, longer
// its patience the outage.
const (
	retryMin     = time.Second
	retryDrained = 100 * time.Millisecond // the next holder may serve any moment
	retryMax     = 30 * time.Second
	retryUnknown = 5 * time.Second
)

// stepped puts in force what the machine says now beside the ceiling. mu is held.
func (g *gate) stepped(now tidegate.Instant, was machine.Output) {
	if g.Ceiling != nil && g.Out.Unbounded != was.Unbounded {
		g.wake(now)
	}
	g.admitFrom(now, was)
	if g.Out.State != was.State || g.Out.Want != was.Want {
		g.kick()
	}
}

// admitFrom puts in force what the machine says about new work.
func (g *gate) admitFrom(now tidegate.Instant, was machine.Output) {
	rate := g.Out.Rate
	if g.Terms.RateLimited {
		rate = min(rate, float64(g.Terms.Rate))
	}
	g.pace.throttle.SetRate(now, rate)
	draining := g.Out.Refuse == machine.RefuseDraining
	g.draining.Store(draining)
	if !draining {
		g.sealed.Store(false)
	}
	g.pace.look.Store(g.Out.Refuse != machine.RefuseNone || !g.pace.throttle.Unlimited())
	if g.pace.headed && (g.Out.Refuse != was.Refuse || g.pace.throttle.Unlimited()) {
		signal(g.pace.changed)
	}
}

// tend steps the machine while the service is active: deadlines pass without
// anybody calling. Ends with ctx.
func (j *Journal) tend(ctx context.Context) error {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			j.gate.tick()
		}
	}
}

// tendEvery is how late a deadline may act on new work. Releases ask the ceiling
// and are never late.
const tendEvery = 50 * time.Millisecond

func (g *gate) tick() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.Ceiling != nil {
		g.Step(g.clock.Boot())
	}
}

// refused returns why new work is not taken, nil if it is. mu is held.
func (g *gate) refused() error {
	switch {
	case g.stopped != nil:
		return g.stopped
	case g.FencedBy != 0:
		return g.fencedError("append")
	case g.Out.Refuse == machine.RefuseDraining:
		return g.refusal("append", "a planned handover is under way: the work belongs to the next holder")
	case g.Out.Refuse == machine.RefuseClosed:
		return g.refusal("append", g.reason())
	}
	return nil
}

// refusal makes the error of a gate that takes no work. mu is held.
func (g *gate) refusal(op, reason string) error {
	c := &Closed{
		State: g.Out.State.Outer(), Utilisation: g.Standing.Utilisation,
		Reason: reason, RetryAfter: retryDrained, Condition: tidegate.ErrDraining,
	}
	c.Exposure = g.Exposure(g.clock.Boot())
	if g.Ceiling != nil {
		a, _ := g.Ceiling.A()
		c.A = a.Position
		c.D, c.DKnown = g.Ceiling.D()
	}
	hint := "send it to the site that serves next; `tidegate status` names it"
	if g.Out.Refuse == machine.RefuseClosed {
		c.Condition, c.RetryAfter = tidegate.ErrGateClosed, g.retryAfter(g.clock.Boot())
		hint = "see why the other site does not keep up with `tidegate status`; `tidegate gate open` lets work go on unprotected"
	}
	return &tidegate.Error{Op: op, Class: tidegate.Transient, Hint: hint, Err: c}
}

// reason says for people why the gate is closed.
func (g *gate) reason() string {
	switch {
	case g.Standing.Late:
		return fmt.Sprintf("the oldest unprotected output is %s old, the bound is %s",
			g.Standing.Age.Round(time.Millisecond), g.Terms.Bounds.Window)
	case g.Lost:
		return "the agent on this node is away"
	case g.Standing.Leaseless:
		return "the output lease is over"
	}
	return "nothing has become durable at the other site for too long"
}

// retryAfter guesses when the gate will open: when the other site has taken what
// waits, at the pace it had.
func (g *gate) retryAfter(now tidegate.Instant) time.Duration {
	rate, known := g.Drains.Rate(now)
	if !known || rate <= 0 || g.Ceiling == nil {
		return retryUnknown
	}
	waits := float64(g.Ceiling.L().Records - g.Standing.Drained)
	return time.Duration(min(retryMax.Seconds(), max(retryMin.Seconds(), waits/rate)) * float64(time.Second))
}

// settleAfter is how long nothing must have happened before a drain is over
// although outputs were never asked for: a service may drop one.
const settleAfter = 200 * time.Millisecond

// seal ends a drain: if nothing is in flight, the journal's end is final from
// now on. It takes both locks, so that every append comes before it or sees it.
func (j *Journal) seal() {
	if !j.gate.draining.Load() || j.gate.sealed.Load() {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	g := &j.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.Out.State != machine.Draining || g.Ceiling == nil || g.awaiting > 0 || g.pace.admitted.Load() > 0 || g.Head != j.end {
		return
	}
	a, known := g.Ceiling.A()
	d, _ := g.Ceiling.D()
	quiet := time.Duration(g.clock.Boot()-max(g.touched, g.Out.Since)) >= settleAfter
	if known && a.Position >= g.Head.Position || d >= g.Head.Position && quiet {
		g.sealed.Store(true)
	}
}

// mayPut returns why a record must not be put after all; the journal's mu is
// held. Work that the service's own cluster had taken before is finished, until
// the journal's end is reported as final.
func (g *gate) mayPut(replicated bool) error {
	if !g.draining.Load() || replicated && !g.sealed.Load() {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rejected.Add(1)
	return g.refusal("append", "a planned handover is under way: the work belongs to the next holder")
}
