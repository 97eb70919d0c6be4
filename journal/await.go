package journal

import (
	"context"
	"fmt"
	"time"

	"github.com/tidegate/tidegate"
)

// class is what a waiter asks for, as an index.
type class int

const (
	classStream class = iota // what the stream promises
	classBounded
	classSync
	classCount
)

// mode is the class in the ceiling's words.
func (c class) mode() tidegate.Mode {
	return [classCount]tidegate.Mode{"", tidegate.ModeBounded, tidegate.ModeSync}[c]
}

func classOf(m tidegate.Mode) (class, error) {
	switch m {
	case "", tidegate.ModeOpen:
		return classStream, nil
	case tidegate.ModeBounded:
		return classBounded, nil
	case tidegate.ModeSync:
		return classSync, nil
	}
	return 0, &tidegate.Error{
		Op: "await", Class: tidegate.Misuse, Err: fmt.Errorf("durability %q: want open, bounded or sync", string(m)),
	}
}

// Await returns nil when outputs that depend on the journal up to p may leave:
// at that moment p counts as released. p is the Next of a record, and anything
// before p is released with it. Errors: tidegate.ErrFenced, [ErrInactive],
// tidegate.ErrDraining once a handover is recorded, tidegate.ErrGap if p was
// never appended, tidegate.ErrStopped, or ctx's; after an error p must not be
// released, though it may be durable at the other site. A closed gate is no
// error: p may become durable yet. Bound the wait by ctx.
func (j *Journal) Await(ctx context.Context, p tidegate.Position) error {
	return j.awaitClass(ctx, p, classStream)
}

// AwaitDurability is Await for an output that wants at least what mode promises,
// whatever the stream's own mode is: sync waits until p is durable at the other
// site, bounded holds the stream's bounds even while its gate is degraded, and is
// sync where the stream has none. A mode weaker than the stream's is Await.
func (j *Journal) AwaitDurability(ctx context.Context, p tidegate.Position, mode tidegate.Mode) error {
	c, err := classOf(mode)
	if err != nil {
		return err
	}
	return j.awaitClass(ctx, p, c)
}

func (j *Journal) awaitClass(ctx context.Context, p tidegate.Position, c class) error {
	if end := j.End(); p > end {
		return fmt.Errorf("await %s: journal ends at %s: %w", p, end, tidegate.ErrGap)
	}
	at, err := j.gate.await(ctx, p, c)
	if err == nil {
		j.gate.noteSlack(int64(time.Since(at)))
	}
	return err
}

// ReleaseSlack returns the longest time that has passed from the clock reading
// by which an Await was decided to its return: the epsilon by which the loss
// window can exceed its bound. A suspend of the machine in between is not counted.
func (j *Journal) ReleaseSlack() time.Duration { return time.Duration(j.gate.slack.Load()) }

// noteSlack keeps the maximum: the epsilon by which the loss window can exceed T.
func (g *gate) noteSlack(d int64) {
	for old := g.slack.Load(); d > old && !g.slack.CompareAndSwap(old, d); old = g.slack.Load() {
	}
}

// await returns when the clock was read that the release was decided by. The
// process's own clock measures the slack: it costs a tenth of the boot clock,
// and a suspend in between shows in neither before it is over.
func (g *gate) await(ctx context.Context, p tidegate.Position, c class) (time.Time, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.awaiting++
	defer func() { g.awaiting-- }()
	activation := g.Activation
	for {
		if err := g.check(); err != nil {
			return time.Time{}, err
		}
		if g.Activation != activation {
			return time.Time{}, ErrInactive
		}
		// The clock is read in the same step as the release: nothing can come
		// between them but a pause of the whole process.
		at, now := time.Now(), g.clock.Boot()
		if p <= g.Ceiling.L().Position && g.Ceiling.ReleaseFor(now, p, c.mode()) {
			g.released(now, p)
			return at, nil
		}
		if err := g.waiters[c].wait(ctx, &g.mu, g.waiters[c].add(p)); err != nil {
			return time.Time{}, err
		}
	}
}

func (g *gate) released(now tidegate.Instant, p tidegate.Position) {
	g.touched = now
	// Within D nothing is exposed: the next regular report is soon enough, and
	// the bounds are used no more than before.
	if d, _ := g.Ceiling.D(); p > d {
		g.Step(now)
		g.kick()
	}
}

// wake lets those try again whose position the ceiling has reached.
func (g *gate) wake(now tidegate.Instant) {
	for c := range classCount {
		if w := &g.waiters[c]; len(w.heap) > 0 {
			w.wake(g.Ceiling.LimitFor(now, c.mode()), nil)
		}
	}
}
