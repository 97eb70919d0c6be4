package journal

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/gating/release"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/rpo"
)

// ErrInactive is what Await answers when this service is not the active one.
var ErrInactive = errors.New("the service is not active here")

// noPosition is beyond every position: wake up to it means everybody.
const noPosition = ^tidegate.Position(0)

// gate holds outputs back, and new work where the policy says so. What may leave
// is decided by the embedded [release.Gate]; who waits for it is kept here.
// Invariants:
//
//  1. nobody waits unless the service is active.
//  2. once sealed, nothing of this service's own is appended before the handover
//     is given up.
type gate struct {
	clock clock.Clock
	kick  func() // tells the agent's link that something to report changed; does not block
	turn  func() // tells both links that the service became active or no longer is

	mu sync.Mutex
	release.Gate

	waiters  [classCount]waitlist // of Await, by what they ask for
	awaiting int                  // calls of Await that have not returned
	stopped  error                // sticky: the journal cannot go on

	// The edge of the bounds: see edge.go.
	touched tidegate.Instant // last append or release
	pace    pace

	fenced   atomic.Bool   // FencedBy != 0, for the append path
	draining atomic.Bool   // a handover is under way or done
	sealed   atomic.Bool   // and the end of the journal was reported as final; set with the journal's mu and mu held
	rejected atomic.Uint64 // calls refused by the gate
	slack    atomic.Int64  // longest time from a release's clock reading to Await's return, ns
}

// appended says that the journal is durable up to end. marks are the records'
// ends since the last call, as far as they were appended while active; they
// are only read.
func (g *gate) appended(end rpo.Mark, marks []rpo.Mark) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.Append(end, marks)
	if g.Ceiling != nil {
		now := g.clock.Boot()
		g.touched = now
		g.Step(now)
		g.wake(now)
	}
	g.kick()
}

// activate begins an activity at the journal's end, durable or not.
func (g *gate) activate(end rpo.Mark) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.stopped != nil:
		return g.stopped
	case g.FencedBy != 0:
		return g.fencedError("activate")
	case g.Ceiling != nil:
		return nil
	}
	now := g.clock.Boot()
	g.touched = now
	g.Activate(now, end)
	g.turn()
	return nil
}

// deactivate ends it; waiters fail with err.
func (g *gate) deactivate(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.end(err)
}

func (g *gate) end(err error) {
	g.Deactivate(g.clock.Boot())
	for i := range g.waiters {
		g.waiters[i].wake(noPosition, err)
	}
	g.turn()
}

// stop makes every later call fail with err.
func (g *gate) stop(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped == nil {
		g.stopped = err
	}
	g.end(err)
	g.pace.queue.wake(noPosition, g.stopped)
	signal(g.pace.changed)
}

// fence stops everything for the sake of a newer epoch. It reports whether
// that was news.
func (g *gate) fence(epoch tidegate.Epoch) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.Fence(epoch) {
		return false
	}
	g.fenced.Store(true)
	g.end(g.fencedError("await"))
	return true
}

// unfence ends a fence when the epoch is held here, and reports whether epoch
// is not an old one.
func (g *gate) unfence(epoch tidegate.Epoch) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.Unfence(epoch) {
		return false
	}
	g.fenced.Store(false)
	return true
}

// yields reports whether an activity has to end because the stream is written
// elsewhere under epoch.
func (g *gate) yields(epoch tidegate.Epoch) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.Yields(epoch)
}

// hold says that the agent holds epoch for this node: grants may come.
func (g *gate) hold(epoch tidegate.Epoch) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.Hold(g.clock.Boot(), epoch) {
		g.fenced.Store(false)
	}
}

// release takes hold back, or stands for a lost daemon.
func (g *gate) release(lost bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.Unhold(g.clock.Boot(), lost)
}

// grant takes the durable position and the gate's bounds in.
func (g *gate) grant(p *local.DaemonProgress) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := g.clock.Boot(); g.Grant(now, p) {
		g.wake(now)
	}
}

// check returns why nothing may be released at all.
func (g *gate) check() error {
	switch {
	case g.stopped != nil:
		return g.stopped
	case g.FencedBy != 0:
		return g.fencedError("await")
	case g.Ceiling == nil:
		return ErrInactive
	case g.Out.State == machine.HandedOver:
		return g.refusal("await", "the handover is recorded: the next holder answers")
	}
	return nil
}

// mayAppend returns why nothing may be appended.
func (g *gate) mayAppend() error {
	if !g.fenced.Load() {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.FencedBy != 0 {
		return g.fencedError("append")
	}
	return nil
}

func (g *gate) fencedError(op string) error {
	return &tidegate.Error{
		Op: op, Subject: fmt.Sprintf("under epoch %s", g.Epoch), Class: tidegate.Fenced,
		Hint: "another site serves this stream now; run `tidegate status` before restarting the service",
		Err:  fmt.Errorf("%w: epoch %s", tidegate.ErrFenced, g.FencedBy),
	}
}

// progress fills in what the daemon computes exposure from.
func (g *gate) progress(m *local.LibraryProgress) (activation uint64, active bool, start tidegate.Position) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m.Rejected, m.Slack, m.Drained = g.rejected.Load(), time.Duration(g.slack.Load()), g.sealed.Load()
	return g.Progress(m)
}

func (g *gate) exposure() rpo.Exposure {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.Exposure(g.clock.Boot())
}

func (g *gate) active() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.Ceiling != nil
}

// rewind sets the head after a cut.
func (g *gate) rewind(end rpo.Mark) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.Rewind(end)
}
