package journal

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/rpo"
)

// ErrInactive is what Await answers when this service is not the active one.
var ErrInactive = errors.New("the service is not active here")

// noPosition is beyond every position: wake up to it means everybody.
const noPosition = ^tidegate.Position(0)

// gate holds outputs back, and new work where the policy says so. Invariants:
//
//  1. ceiling is nil unless the service is active.
//  2. nobody waits unless it is.
//  3. the ceiling grants anew only while the agent on this node says that it
//     holds an epoch not below the fencing one, or a stream that is open, or
//     degraded on record, lost its agent.
//  4. bounds are enforced unless the machine said otherwise at its last step.
//  5. once sealed, nothing of this service's own is appended before the handover
//     is given up.
type gate struct {
	clock clock.Clock
	kick  func() // tells the agent's link that something to report changed; does not block
	turn  func() // tells both links that the service became active or no longer is

	mu         sync.Mutex
	head       rpo.Mark // durable here
	ceiling    *rpo.Ceiling
	activation uint64               // counts Activate
	start      tidegate.Position    // head when it was activated
	final      final                // of the last activity, once it has ended
	waiters    [classCount]waitlist // of Await, by what they ask for
	awaiting   int                  // calls of Await that have not returned
	stopped    error                // sticky: the journal cannot go on

	epoch    tidegate.Epoch       // latest the agent held
	dEpoch   tidegate.Epoch       // under which the ceiling's D was told
	fencedBy tidegate.Epoch       // 0: not fenced
	held     bool                 // the agent says that it holds epoch for this node
	lost     bool                 // it did when its session ended
	openGoes bool                 // the gate's record says open: it goes on without a daemon
	last     local.DaemonProgress // latest grant of the held epoch; its Epoch is 0 if there is none
	terms    local.DaemonProgress // the same, and kept while the agent is lost
	obeyed   uint64               // number of the grant in force

	// The edge of the bounds: see edge.go.
	machine  *machine.Machine
	out      machine.Output // of its last step
	standing rpo.Standing   // that it was decided by
	drains   rpo.DrainRate
	touched  tidegate.Instant // last append or release
	pace     pace

	fenced   atomic.Bool   // fencedBy != 0, for the append path
	draining atomic.Bool   // a handover is under way or done
	sealed   atomic.Bool   // and the end of the journal was reported as final; set with the journal's mu and mu held
	rejected atomic.Uint64 // calls refused by the gate
	slack    atomic.Int64  // longest time from a release's clock reading to Await's return, ns
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
		now := g.clock.Boot()
		g.touched = now
		g.step(now)
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
	case g.fencedBy != 0:
		return g.fencedError("activate")
	case g.ceiling != nil:
		return nil
	}
	g.activation++
	g.start = end.Position
	now := g.clock.Boot()
	g.ceiling = rpo.NewCeiling(end)
	g.ceiling.Hold(now)
	g.openGoes, g.touched = false, now
	g.terms, g.drains = local.DaemonProgress{}, rpo.DrainRate{}
	if g.held && g.last.Epoch == g.epoch {
		// The agent gives the lease back while nothing is active here: what it told
		// before says nothing about the lease any more.
		p := g.last
		p.LeaseUntil = 0
		g.apply(now, &p)
	}
	g.step(now)
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
	g.openGoes, g.lost = false, false
	g.terms = local.DaemonProgress{}
	for i := range g.waiters {
		g.waiters[i].wake(noPosition, err)
	}
	g.step(g.clock.Boot())
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

// yields reports whether an activity has to end because the stream is written
// elsewhere under epoch: the agent here holds nothing as new, and is not away
// with it.
func (g *gate) yields(epoch tidegate.Epoch) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.held && !g.lost && epoch > g.epoch
}

// hold says that the agent holds epoch for this node: grants may come.
func (g *gate) hold(epoch tidegate.Epoch) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.clearFence(epoch) {
		return
	}
	now := g.clock.Boot()
	if epoch != g.epoch {
		// What the record says in this epoch is not known yet.
		g.epoch, g.openGoes, g.terms = epoch, false, local.DaemonProgress{}
		if g.ceiling != nil {
			g.ceiling.Hold(now)
		}
	}
	g.held, g.lost = true, false
	g.step(now)
}

// release takes hold back, or stands for a lost daemon: what is granted stays,
// nothing more is, unless the gate's record says open or degraded.
func (g *gate) release(lost bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.clock.Boot()
	g.lost = lost && (g.held || g.lost) && g.ceiling != nil
	g.held, g.obeyed = false, 0
	g.last = local.DaemonProgress{}
	if !g.lost {
		g.terms = local.DaemonProgress{}
		if g.ceiling != nil {
			g.ceiling.Hold(now)
		}
	}
	g.step(now)
}

// grant takes the durable position and the gate's bounds in.
func (g *gate) grant(p *local.DaemonProgress) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.held || p.Epoch != g.epoch {
		return
	}
	g.last = *p
	now := g.clock.Boot()
	if g.ceiling == nil {
		g.obeyed = p.Grant // nothing leaves
		return
	}
	g.apply(now, p)
	g.wake(now)
}

// apply puts a grant in force. Its bounds hold before anything is asked of them.
func (g *gate) apply(now tidegate.Instant, p *local.DaemonProgress) {
	if p.DKnown {
		if d, _ := g.ceiling.D(); p.D < d && p.Epoch != g.dEpoch {
			// A new epoch that begins below the old D has lost something: what was
			// released beyond it is unknown, as after a start.
			g.ceiling = rpo.NewCeiling(g.head)
			g.drains = rpo.DrainRate{}
		}
		g.ceiling.Durable(p.D)
		g.dEpoch = p.Epoch
	}
	g.terms = *p
	g.ceiling.SetBounds(p.Bounds)
	g.ceiling.SetLease(p.LeaseNeeded, p.LeaseUntil)
	g.ceiling.Resume()
	g.openGoes = p.Recorded && p.Mode == tidegate.ModeOpen
	g.step(now)
	g.obeyed = p.Grant
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
	case g.out.State == machine.HandedOver:
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
	m.Gate, m.Since, m.Want, m.Grant = g.out.State, g.out.Since, g.out.Want, g.obeyed
	m.Utilisation, m.Rejected, m.Slack = g.standing.Utilisation, g.rejected.Load(), time.Duration(g.slack.Load())
	m.Drained = g.sealed.Load()
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
	return g.exposureLocked()
}

func (g *gate) exposureLocked() rpo.Exposure {
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
