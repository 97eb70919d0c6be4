package release

import (
	"math"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/rpo"
)

// Gate decides what leaves one stream in one process. The exported fields are for
// reading, but for what a method says. Invariants:
//
//  1. Ceiling is nil unless the service is active.
//  2. the ceiling grants anew only while Held, or while Lost and either OpenGoes
//     or bounds are not enforced by the machine's word.
//  3. bounds are enforced unless Out, the machine's last word, says otherwise.
//
// Make one with [New].
type Gate struct {
	Head       rpo.Mark          // durable on this node
	Ceiling    *rpo.Ceiling      // releases are reported to it; nil while the service is not active
	Activation uint64            // counts activities
	Start      tidegate.Position // head when the present one began

	Epoch    tidegate.Epoch       // latest the agent held
	FencedBy tidegate.Epoch       // 0: not fenced
	Held     bool                 // the agent says that it holds Epoch for this node
	Lost     bool                 // it did when its session ended
	Terms    local.DaemonProgress // the grant in force, kept while the agent is lost
	Obeyed   uint64               // its number; 0 while none is in force
	Last     local.DaemonProgress // latest grant of the held epoch; its Epoch is 0 if there is none

	Out      machine.Output // of the last step
	Standing rpo.Standing   // that it was decided by
	Drains   rpo.DrainRate

	ours     tidegate.Epoch // latest that this node was promoted to, or the agent held
	final    final          // of the last activity, once it has ended
	dEpoch   tidegate.Epoch // under which the ceiling's D was told
	openGoes bool           // the record says open: it goes on without a daemon

	machine *machine.Machine
	stepped func(now tidegate.Instant, was machine.Output)
}

// final is what an activity had released when it ended. The agent asks for it
// when it counts what a lost tail had promised, which is after the end.
type final struct {
	a            rpo.Mark
	known        bool
	t0, released tidegate.Instant
}

// New returns a gate whose service is not active. stepped, if not nil, is called
// at the end of every step with the machine's word before it: what of Out is for
// the owner to put in force, it puts in force there. It must not call the gate's
// methods but those that only read.
func New(now tidegate.Instant, stepped func(now tidegate.Instant, was machine.Output)) Gate {
	return Gate{
		machine: machine.New(now), stepped: stepped,
		Out: machine.Output{State: machine.Off, Rate: math.Inf(1)},
	}
}

// Append says that the stream is durable on this node up to end; marks are the
// records' ends since the last call, as far as they are of this activity. Step
// when that is done.
func (g *Gate) Append(end rpo.Mark, marks []rpo.Mark) {
	g.Head = end
	if g.Ceiling != nil {
		for _, m := range marks {
			g.Ceiling.Append(m)
		}
	}
}

// Activate begins an activity at end, where the log ends, durable or not. The
// service is not active before, and nobody is fencing it.
func (g *Gate) Activate(now tidegate.Instant, end rpo.Mark) {
	g.Activation++
	g.Start = end.Position
	g.Ceiling = rpo.NewCeiling(end)
	g.Ceiling.Hold(now)
	g.openGoes = false
	g.Terms, g.Drains = local.DaemonProgress{}, rpo.DrainRate{}
	if g.Held && g.Last.Epoch == g.Epoch {
		// The agent gives the lease back while nothing is active here: what it told
		// before says nothing about the lease any more.
		p := g.Last
		p.LeaseUntil = 0
		g.apply(now, &p)
	}
	g.Step(now)
}

// Deactivate ends the activity, if there is one.
func (g *Gate) Deactivate(now tidegate.Instant) {
	if c := g.Ceiling; c != nil {
		a, known := c.A()
		g.final = final{a: a, known: known, t0: c.T0(), released: c.LastRelease()}
	}
	g.Ceiling = nil
	g.openGoes, g.Lost = false, false
	g.Terms = local.DaemonProgress{}
	g.Step(now)
}

// Fence takes note that epoch is held elsewhere, and reports whether that was
// news; then the caller ends the activity. The agent's word may have waited behind
// a sleeping process while the standby node promoted it to a newer epoch.
func (g *Gate) Fence(epoch tidegate.Epoch) bool {
	if epoch < g.ours || epoch <= g.FencedBy {
		return false
	}
	g.FencedBy = epoch
	g.Held, g.Last = false, local.DaemonProgress{}
	return true
}

// Unfence ends a fence when the epoch is held here, and reports whether epoch is
// not an old one.
func (g *Gate) Unfence(epoch tidegate.Epoch) bool {
	if epoch < g.FencedBy || epoch < g.ours {
		return false
	}
	g.FencedBy, g.ours = 0, epoch
	return true
}

// Yields reports whether an activity has to end because the stream is written
// elsewhere under epoch: the agent here holds nothing as new, and is not away
// with it.
func (g *Gate) Yields(epoch tidegate.Epoch) bool {
	return !g.Held && !g.Lost && epoch > g.ours
}

// Hold says that the agent holds epoch for this node: grants may come. It reports
// whether epoch is not an old one; otherwise nothing changes.
func (g *Gate) Hold(now tidegate.Instant, epoch tidegate.Epoch) bool {
	if !g.Unfence(epoch) {
		return false
	}
	if epoch != g.Epoch {
		// What the record says in this epoch is not known yet.
		g.Epoch, g.openGoes, g.Terms = epoch, false, local.DaemonProgress{}
		if g.Ceiling != nil {
			g.Ceiling.Hold(now)
		}
	}
	g.Held, g.Lost = true, false
	g.Step(now)
	return true
}

// Unhold takes Hold back, or stands for a lost daemon: what is granted stays,
// nothing more is, unless the gate's record says open or degraded.
func (g *Gate) Unhold(now tidegate.Instant, lost bool) {
	g.Lost = lost && (g.Held || g.Lost) && g.Ceiling != nil
	g.Held, g.Obeyed = false, 0
	g.Last = local.DaemonProgress{}
	if !g.Lost {
		g.Terms = local.DaemonProgress{}
		if g.Ceiling != nil {
			g.Ceiling.Hold(now)
		}
	}
	g.Step(now)
}

// Grant takes the durable position and the gate's bounds in, and reports whether
// they are in force on an activity: then more may leave than before.
func (g *Gate) Grant(now tidegate.Instant, p *local.DaemonProgress) bool {
	if !g.Held || p.Epoch != g.Epoch {
		return false
	}
	g.Last = *p
	if g.Ceiling == nil {
		g.Obeyed = p.Grant // nothing leaves
		return false
	}
	g.apply(now, p)
	return true
}

// apply puts a grant in force. Its bounds hold before anything is asked of them.
func (g *Gate) apply(now tidegate.Instant, p *local.DaemonProgress) {
	if p.DKnown {
		if d, _ := g.Ceiling.D(); p.D < d && p.Epoch != g.dEpoch {
			// A new epoch that begins below the old D has lost something: what was
			// released beyond it is unknown, as after a start.
			g.Ceiling = rpo.NewCeiling(g.Head)
			g.Drains = rpo.DrainRate{}
		}
		g.Ceiling.Durable(p.D)
		g.dEpoch = p.Epoch
	}
	g.Terms = *p
	g.Ceiling.SetBounds(p.Bounds)
	g.Ceiling.SetLease(p.LeaseNeeded, p.LeaseUntil)
	g.Ceiling.Resume()
	g.openGoes = p.Recorded && p.Mode == tidegate.ModeOpen
	g.Step(now)
	g.Obeyed = p.Grant
}

// Step lets the machine decide anew and puts in force what it says of the
// ceiling. Call it after every event that the other methods do not step for, and
// often enough for deadlines.
func (g *Gate) Step(now tidegate.Instant) {
	in := machine.Input{
		Epoch: g.Epoch, FencedBy: g.FencedBy, Lost: g.Lost,
		Policy: g.Terms.Policy, Record: g.Terms.Record, Brake: g.Terms.Brake,
		Drain: g.Terms.Drain, HandedOver: g.Terms.HandedOver,
	}
	g.Standing = rpo.Standing{}
	if g.Ceiling != nil {
		s := g.Ceiling.Standing(now)
		g.Standing = s
		in.Held = g.Held || g.Lost
		in.Late, in.HeldBack, in.Covered, in.Age, in.D = s.Late, s.HeldBack, s.Covered, s.Age, s.D
		if s.Known {
			// Before D is known nothing is measured: what waits for it is held back.
			in.Utilisation = s.Utilisation
		}
		g.Drains.Note(now, s.Drained, s.Busy)
		in.Drains, in.DrainsKnown = g.Drains.Rate(now)
	}
	was := g.Out
	g.Out = g.machine.Step(now, in)
	if g.Ceiling != nil {
		g.Ceiling.SetDegraded(g.Out.Unbounded)
		if g.Out.State == machine.Off {
			// What it is told is that nothing leaves here unprotected: the agent may
			// give the output lease back on the strength of it.
			g.Ceiling.SetLease(true, 0)
		}
		if g.Lost {
			g.freeze(now, !g.openGoes && !g.Out.Unbounded)
		}
	}
	if g.stepped != nil {
		g.stepped(now, was)
	}
}

// freeze stops new grants, or lets them go on.
func (g *Gate) freeze(now tidegate.Instant, on bool) {
	if on {
		g.Ceiling.Hold(now)
	} else {
		g.Ceiling.Resume()
	}
}

// Progress fills in what the daemon computes exposure from.
func (g *Gate) Progress(m *local.LibraryProgress) (activation uint64, active bool, start tidegate.Position) {
	m.L = Count(g.Head)
	m.Gate, m.Since, m.Want, m.Grant = g.Out.State, g.Out.Since, g.Out.Want, g.Obeyed
	m.Utilisation = g.Standing.Utilisation
	if g.Ceiling == nil {
		f := &g.final
		m.A, m.AKnown, m.T0, m.Released = Count(f.a), f.known, f.t0, f.released
		return g.Activation, false, 0
	}
	a, known := g.Ceiling.A()
	m.A, m.AKnown = Count(a), known
	m.T0, m.Released = g.Ceiling.T0(), g.Ceiling.LastRelease()
	return g.Activation, true, g.Start
}

// Count is m in the words of the local session.
func Count(m rpo.Mark) local.Count {
	return local.Count{Position: m.Position, Records: uint64(m.Records), Bytes: uint64(m.Bytes)}
}

// Exposure returns what a disaster would lose now; it is unknown unless the
// service is active.
func (g *Gate) Exposure(now tidegate.Instant) rpo.Exposure {
	if g.Ceiling == nil {
		const none = tidegate.Unbounded
		return rpo.Exposure{Records: none, Bytes: none, Age: none, Window: none, InDoubtRecords: none, InDoubtBytes: none}
	}
	return g.Ceiling.Exposure(now)
}

// Rewind sets the head after a cut.
func (g *Gate) Rewind(end rpo.Mark) {
	g.Head = end
	g.final = final{} // it counted in a history that is no longer this one
}
