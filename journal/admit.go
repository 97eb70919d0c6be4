package journal

import (
	"context"
	"math"
	"sync/atomic"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/rpo"
)

// pace lets new work in: at once, at a rate, or not. Waiters stand in one queue;
// its head alone watches the clock, with the one timer there is.
type pace struct {
	look     atomic.Bool   // somebody must look before appending; false: nothing stands in the way
	admitted atomic.Int64  // [Admission]s that are not done
	changed  chan struct{} // for the head: look again

	// Under the gate's mu.
	throttle rpo.Throttle
	queue    waitlist // by ticket
	tickets  uint64
	headed   bool // somebody is the head
	timer    *time.Timer
}

// lookEvery bounds how long the head sleeps: the gate may close meanwhile.
const lookEvery = tendEvery

func (p *pace) init(now tidegate.Instant) {
	p.changed = make(chan struct{}, 1)
	p.throttle.SetRate(now, math.Inf(1))
}

// Admission is one piece of work that the gate has taken and that has not been
// appended yet.
type Admission struct{ g *gate }

// Done says that the work's record was appended, or never will be. Call it once.
func (a Admission) Done() {
	if a.g != nil {
		a.g.pace.admitted.Add(-1)
		if a.g.draining.Load() {
			a.g.kick()
		}
	}
}

// Admit asks the gate to take one record's worth of new work, for a service that
// replicates its log before the journal sees it: call it before proposing, and
// Done once the record is appended by SubmitAt, which asks nobody. It waits
// while the gate slows work down, and answers as Append does when it refuses.
func (j *Journal) Admit(ctx context.Context) (Admission, error) {
	g := &j.gate
	// Counted first: a drain that does not see it is seen by the look.
	g.pace.admitted.Add(1)
	a := Admission{g}
	if err := j.gate.mayAppend(); err != nil {
		a.Done()
		return Admission{}, err
	}
	if err := g.admit(ctx, 1); err != nil {
		a.Done()
		return Admission{}, err
	}
	return a, nil
}

// admit returns when n records may be appended, or why not. While the gate
// flows it reads one flag.
func (g *gate) admit(ctx context.Context, n int) error {
	if !g.pace.look.Load() {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p := &g.pace
	if p.headed || len(p.queue.heap) > 0 {
		p.tickets++
		// nil: the head has gone and this one is it.
		if err := p.queue.wait(ctx, &g.mu, p.queue.add(tidegate.Position(p.tickets))); err != nil {
			if ctx.Err() == nil {
				g.rejected.Add(1)
			}
			return err
		}
	}
	p.headed = true
	defer p.next()
	for {
		now := g.clock.Boot()
		g.Step(now)
		if err := g.refused(); err != nil {
			g.rejected.Add(1)
			p.queue.wake(noPosition, err)
			return err
		}
		if p.throttle.Take(now, n) {
			return nil
		}
		if err := g.doze(ctx, p.throttle.Wait(now, n)); err != nil {
			return err
		}
	}
}

// next makes the oldest waiter the head. The gate's mu is held.
func (p *pace) next() {
	p.headed = false
	if len(p.queue.heap) > 0 {
		p.headed = true
		p.queue.wake(p.queue.heap[0].p, nil)
	}
}

// doze lets go of mu for d, or until there is something to look at. Only the
// head calls it.
func (g *gate) doze(ctx context.Context, d time.Duration) error {
	p := &g.pace
	d = min(d, lookEvery)
	if p.timer == nil {
		p.timer = time.NewTimer(d)
	} else {
		p.timer.Reset(d)
	}
	g.mu.Unlock()
	defer g.mu.Lock()
	select {
	case <-ctx.Done():
		p.timer.Stop()
		return ctx.Err()
	case <-p.changed:
		p.timer.Stop()
	case <-p.timer.C:
	}
	return nil
}
