package journal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/rpo"
)

// ErrInactive is what Await answers when this service is not the active one.
var ErrInactive = errors.New("the service is not active here")

// noPosition is beyond every position: wake up to it means everybody.
const noPosition = ^tidegate.Position(0)

// gate holds outputs back. Invariants:
//
//  1. ceiling is nil unless the service is active.
//  2. nobody waits unless it is.
//  3. the ceiling grants anew only while the agent on this node says that it
//     holds an epoch not below the fencing one, or an open stream lost its agent.
type gate struct {
	clock clock.Clock
	kick  func() // tells the agent's link that L or A changed; does not block
	turn  func() // tells both links that the service became active or no longer is

	mu         sync.Mutex
	head       rpo.Mark // durable here
	ceiling    *rpo.Ceiling
	activation uint64            // counts Activate
	start      tidegate.Position // head when it was activated
	final      final             // of the last activity, once it has ended
	waiters    waitlist
	stopped    error // sticky: the journal cannot go on

	epoch    tidegate.Epoch       // latest the agent held
	dEpoch   tidegate.Epoch       // under which the ceiling's D was told
	fencedBy tidegate.Epoch       // 0: not fenced
	held     bool                 // the agent says that it holds epoch for this node
	openGoes bool                 // the gate's record says open: it goes on without a daemon
	last     local.DaemonProgress // latest grant of the held epoch; its Epoch is 0 if there is none

	fenced atomic.Bool  // fencedBy != 0, for the append path
	slack  atomic.Int64 // longest time from a release's clock reading to Await's return, ns
}

// final is what an activity had released when it ended. The agent asks for it
// when it counts what a lost tail had promised, which is after the end.
type final struct {
	a            rpo.Mark
	known        bool
	t0, released tidegate.Instant
}

// appended says that the journal is durable up to end. marks are the records'
// ends since the last call, as far as they were appended while active; they
// are only read.
func (g *gate) appended(end rpo.Mark, marks []rpo.Mark) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.head = end
	if g.ceiling != nil {
		for _, m := range marks {
			g.ceiling.Append(m)
		}
		g.wake()
	}
	g.kick()
}

// wake lets those try again whose position the ceiling has reached.
func (g *gate) wake() {
	if len(g.waiters.heap) > 0 {
		g.waiters.wake(g.ceiling.Limit(g.clock.Boot()), nil)
	}
}

// activate begins an activity at the journal's end, durable or not.
func (g *gate) activate(end rpo.Mark) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.stopped != nil:
		return g.stopped
	case g.fencedBy != 0:
		return g.fencedError("activate")
	case g.ceiling != nil:
		return nil
	}
	g.activation++
	g.start = end.Position
	g.ceiling = rpo.NewCeiling(end)
	g.ceiling.Hold(g.clock.Boot())
	g.openGoes = false
	if g.held && g.last.Epoch == g.epoch {
		g.apply(&g.last)
	}
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
	if c := g.ceiling; c != nil {
		a, known := c.A()
		g.final = final{a: a, known: known, t0: c.T0(), released: c.LastRelease()}
	}
	g.ceiling = nil
	g.openGoes = false
	g.waiters.wake(noPosition, err)
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
}

// fence stops everything for the sake of a newer epoch. It reports whether
// that was news.
func (g *gate) fence(epoch tidegate.Epoch) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if epoch < g.epoch || epoch <= g.fencedBy {
		return false
	}
	g.fencedBy = epoch
	g.fenced.Store(true)
	g.held, g.last = false, local.DaemonProgress{}
	g.end(g.fencedError("await"))
	return true
}

// unfence ends a fence when the epoch is held here, and reports whether epoch
// is not an old one.
func (g *gate) unfence(epoch tidegate.Epoch) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.clearFence(epoch)
}

func (g *gate) clearFence(epoch tidegate.Epoch) bool {
	if epoch < g.fencedBy || epoch < g.epoch {
		return false
	}
	g.fencedBy = 0
	g.fenced.Store(false)
	return true
}

// hold says that the agent holds epoch for this node: grants may come.
func (g *gate) hold(epoch tidegate.Epoch) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.clearFence(epoch) {
		return
	}
	if epoch != g.epoch {
		g.epoch, g.openGoes = epoch, false
	}
	g.held = true
}

// release takes hold back, or stands for a lost daemon: what is granted stays,
// nothing more is, unless the gate's record says open.
func (g *gate) release(lost bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = false
	g.last = local.DaemonProgress{}
	if g.ceiling != nil && (!lost || !g.openGoes) {
		g.ceiling.Hold(g.clock.Boot())
	}
}

// grant takes the durable position and the gate's bounds in.
func (g *gate) grant(p *local.DaemonProgress) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.held || p.Epoch != g.epoch {
		return
	}
	g.last = *p
	if g.ceiling != nil {
		g.apply(p)
	}
}

func (g *gate) apply(p *local.DaemonProgress) {
	if p.DKnown {
		if d, _ := g.ceiling.D(); p.D < d && p.Epoch != g.dEpoch {
			// A new epoch that begins below the old D has lost something: what was
			// released beyond it is unknown, as after a start.
			g.ceiling = rpo.NewCeiling(g.head)
		}
		g.ceiling.Durable(p.D)
		g.dEpoch = p.Epoch
	}
	g.ceiling.SetBounds(p.Bounds)
	g.ceiling.Resume()
	g.openGoes = p.Recorded && p.Mode == tidegate.ModeOpen
	g.wake()
}

// await is Await for a position that has been appended.
func (g *gate) await(ctx context.Context, p tidegate.Position) error {
	at, err := g.tryAwait(ctx, p)
	if err == nil {
		g.noteSlack(int64(time.Since(at)))
	}
	return err
}

// noteSlack keeps the maximum: the epsilon by which the loss window can exceed T.
func (g *gate) noteSlack(d int64) {
	for old := g.slack.Load(); d > old && !g.slack.CompareAndSwap(old, d); old = g.slack.Load() {
	}
}

// tryAwait returns when the clock was read that the release was decided by. The
// process's own clock measures the slack: it costs a tenth of the boot clock,
// and a suspend in between shows in neither before it is over.
func (g *gate) tryAwait(ctx context.Context, p tidegate.Position) (time.Time, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	activation := g.activation
	for {
		if err := g.check(); err != nil {
			return time.Time{}, err
		}
		if g.activation != activation {
			return time.Time{}, ErrInactive
		}
		// The clock is read in the same step as the release: nothing can come
		// between them but a pause of the whole process.
		at, now := time.Now(), g.clock.Boot()
		if p <= g.ceiling.L().Position && g.ceiling.Release(now, p) {
			g.released(p)
			return at, nil
		}
		if err := g.waiters.wait(ctx, &g.mu, g.waiters.add(p)); err != nil {
			return time.Time{}, err
		}
	}
}

func (g *gate) released(p tidegate.Position) {
	// Within D nothing is exposed: the next regular report is soon enough.
	if d, _ := g.ceiling.D(); p > d {
		g.kick()
	}
}

// check returns why nothing may be released at all.
func (g *gate) check() error {
	switch {
	case g.stopped != nil:
		return g.stopped
	case g.fencedBy != 0:
		return g.fencedError("await")
	case g.ceiling == nil:
		return ErrInactive
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
	if g.fencedBy != 0 {
		return g.fencedError("append")
	}
	return nil
}

func (g *gate) fencedError(op string) error {
	return &tidegate.Error{
		Op: op, Subject: fmt.Sprintf("under epoch %s", g.epoch), Class: tidegate.Fenced,
		Hint: "another site serves this stream now; run `tidegate status` before restarting the service",
		Err:  fmt.Errorf("%w: epoch %s", tidegate.ErrFenced, g.fencedBy),
	}
}

// progress fills in what the daemon computes exposure from.
func (g *gate) progress(m *local.LibraryProgress) (activation uint64, active bool, start tidegate.Position) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m.L = count(g.head)
	if g.ceiling == nil {
		f := &g.final
		m.A, m.AKnown, m.T0, m.Released = count(f.a), f.known, f.t0, f.released
		return g.activation, false, 0
	}
	a, known := g.ceiling.A()
	m.A, m.AKnown = count(a), known
	m.T0, m.Released = g.ceiling.T0(), g.ceiling.LastRelease()
	return g.activation, true, g.start
}

func count(m rpo.Mark) local.Count {
	return local.Count{Position: m.Position, Records: uint64(m.Records), Bytes: uint64(m.Bytes)}
}

func (g *gate) exposure() rpo.Exposure {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ceiling == nil {
		const none = tidegate.Unbounded
		return rpo.Exposure{Records: none, Bytes: none, Age: none, Window: none, InDoubtRecords: none, InDoubtBytes: none}
	}
	return g.ceiling.Exposure(g.clock.Boot())
}

func (g *gate) active() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ceiling != nil
}

// rewind sets the head after a cut.
func (g *gate) rewind(end rpo.Mark) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.head = end
	g.final = final{} // it counted in a history that is no longer this one
}
