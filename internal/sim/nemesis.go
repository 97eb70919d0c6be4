package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// nemesis keeps breaking things while chaos lasts.
func (w *world) nemesis() {
	w.after(w.jitter(150*time.Millisecond), func() {
		if !w.chaos {
			return
		}
		w.harm()
		w.nemesis()
	})
}

func (w *world) harm() {
	s := w.shape
	switch w.rng.IntN(16) {
	case 0, 1:
		if s.crashes {
			if n := w.standbys[w.rng.IntN(s.n)]; n.up {
				n.bounce()
			}
		}
	case 2:
		if n := w.standbys[w.rng.IntN(s.n)]; s.wipes && n.up && w.mayLose(n) {
			n.bounce()
			n.wipe(w.rng.IntN(3) == 0)
			w.res.Wipes++
		}
	case 3, 4:
		if s.cuts {
			w.cut()
		}
	case 5:
		if s.outages {
			w.reg.outage(w.jitter(400 * time.Millisecond))
		}
	case 6, 7:
		if s.restarts {
			w.restartWriter()
		}
	case 8:
		w.failover()
	case 12:
		// Twice in a row: who missed the first must not look good in the second.
		w.failover()
		w.after(w.jitter(400*time.Millisecond), w.failover)
	case 13:
		if s.cuts {
			w.isolate(w.standbys[w.rng.IntN(s.n)], w.rng.IntN(2) == 0)
		}
	case 14:
		if s.cuts {
			w.ambush()
		}
	case 15:
		if s.duel {
			w.twins()
		}
	case 9:
		w.bounceGate()
	case 10:
		if s.duel {
			w.takeOver()
		}
	case 11:
		switch {
		case !s.restores:
		case w.reg.old == nil || w.rng.IntN(3) == 0:
			w.reg.backup()
		default:
			w.reg.restore()
		}
	}
}

// mayLose keeps the losses within what W copies can bear: at most W-1 members
// of any configuration may not know what they had.
func (w *world) mayLose(n *standby) bool {
	for i, k := range w.reg.keys {
		lost := 0
		for _, m := range k.Record.Config.Members {
			s := w.standbys[w.oracle.index(m.Node)]
			if s.inc != m.Incarnation || s.streams[i].meta.Limbo || s == n {
				lost++
			}
		}
		if lost > k.Record.Config.W-1 {
			return false
		}
	}
	return true
}

// ambush lets one node fill up with a tail that nobody else has, moves the
// stream on without it, and then asks that node and not one of those who know
// better.
func (w *world) ambush() {
	stale := w.standbys[w.rng.IntN(w.shape.n)]
	w.isolate(stale, false)
	w.after(w.jitter(350*time.Millisecond), w.failover)
	w.after(w.jitter(900*time.Millisecond), func() {
		if other := w.standbys[w.rng.IntN(w.shape.n)]; w.chaos && other != stale {
			w.isolate(other, true)
			w.failover()
		}
	})
}

// isolate takes a standby away from everybody, or from everybody but the
// agents: the old writer may then go on filling a log that nobody else sees.
func (w *world) isolate(s *standby, agents bool) {
	var pairs [][2]string
	for _, h := range w.net.hosts {
		if h != &s.host && (agents || h.addr[:2] != "a.") {
			pairs = append(pairs, [2]string{s.addr, h.addr}, [2]string{h.addr, s.addr})
		}
	}
	w.net.cuts = append(w.net.cuts, pairs...)
	w.log(s.addr, "", "isolate", "agents too: %v", agents)
	w.after(w.jitter(700*time.Millisecond), func() {
		w.net.cuts = slices.DeleteFunc(slices.Clone(w.net.cuts), func(c [2]string) bool { return slices.Contains(pairs, c) })
	})
}

// cut stops one direction between two hosts for a while.
func (w *world) cut() {
	a, b := w.net.hosts[w.rng.IntN(len(w.net.hosts))], w.net.hosts[w.rng.IntN(len(w.net.hosts))]
	pair := [2]string{a.addr, b.addr}
	w.net.cuts = append(w.net.cuts, pair)
	if w.rng.IntN(2) == 0 {
		w.net.cuts = append(w.net.cuts, [2]string{b.addr, a.addr})
	}
	w.log(a.addr, b.addr, "cut", "")
	w.after(w.jitter(800*time.Millisecond), func() {
		kept := w.net.cuts[:0:0]
		for _, c := range w.net.cuts {
			if c != pair && c != [2]string{pair[1], pair[0]} {
				kept = append(kept, c)
			}
		}
		w.net.cuts = kept
	})
}

// restartWriter lets an agent of the site where the streams live come up anew
// and ask for them.
func (w *world) restartWriter() {
	site := tidegate.SiteName("east")
	if r := w.reg.keys[0].Record; r.ActiveEpoch > 0 {
		site = r.Active.Site
	}
	var here []*agent
	for _, a := range w.agents {
		if a.site == site {
			here = append(here, a)
		}
	}
	a := here[w.rng.IntN(len(here))]
	if w.rng.IntN(3) > 0 || !a.up {
		a.stop()
		w.log(a.addr, "", "restart", "")
		a.start()
	}
	a.acquire()
}

func (w *world) agentOn(node tidegate.NodeName) *agent {
	for _, a := range w.agents {
		if a.name == node {
			return a
		}
	}
	return nil
}

func (w *world) failover() {
	g := w.gates[w.rng.IntN(len(w.gates))]
	members := w.reg.keys[0].Record.Config.Members
	target := members[w.rng.IntN(len(members))].Node
	if w.chaos && g.up && (w.shape.duel || len(g.plans) == 0 || w.rng.IntN(4) == 0) {
		g.run(w.plan(fence.KindFailover, w.agentOn(target).self))
	}
}

// twins runs one plan on both gates from the start, while the standbys' ends differ.
func (w *world) twins() {
	members := w.reg.keys[0].Record.Config.Members
	p := w.plan(fence.KindFailover, w.agentOn(members[w.rng.IntN(len(members))].Node).self)
	for _, g := range w.gates {
		if g.up {
			g.run(p)
		}
	}
}

// bounceGate kills a gate in the middle of whatever it does; another one, or
// itself, takes its plans up.
func (w *world) bounceGate() {
	g := w.gates[w.rng.IntN(len(w.gates))]
	if !g.up {
		return
	}
	g.stop()
	w.log(g.addr, "", "crash", "")
	w.after(w.jitter(300*time.Millisecond), func() {
		if !g.up {
			g.start()
			w.takeOver()
		}
	})
}

// takeOver starts a second controller on the newest unfinished plan, whether or
// not the first is still at it.
func (w *world) takeOver() {
	g := w.gates[w.rng.IntN(len(w.gates))]
	for i := len(w.reg.plans) - 1; g.up && i >= 0; i-- {
		if p := w.reg.plans[i]; !p.Finished() {
			g.run(p)
			return
		}
	}
}

// heal ends the chaos: everything works, and one last failover must succeed and
// bring every member back.
func (w *world) heal() {
	w.chaos = false
	w.log("", "", "heal", "")
	w.net.cuts, w.shape.loss, w.shape.dup = nil, 0, 0
	w.reg.up = true
	for _, s := range w.standbys {
		if !s.up {
			s.start()
		}
	}
	for _, g := range w.gates {
		if !g.up {
			g.start()
		}
	}
	w.drive()
	w.poll()
}

// drive runs the last failover, again when it was refused or superseded.
func (w *world) drive() {
	w.after(500*time.Millisecond, func() {
		defer w.drive()
		for _, g := range w.gates {
			for _, r := range g.plans {
				if r.alive() {
					w.log(g.addr, "", "busy", "%.8s %s", r.c.Plan().ID, r.c.Plan().Step)
					return
				}
			}
		}
		if w.final() != nil {
			return
		}
		p := w.plan(fence.KindFailover, w.agentOn("n0").self)
		for i := range p.Streams {
			cfg := w.fullConfig()
			p.Streams[i].Wanted = &cfg
		}
		p.Reason = "final"
		w.gates[0].run(p)
	})
}

// final returns the last failover once it is done and still holds the streams.
func (w *world) final() *fence.Plan {
	for _, g := range w.gates {
		for _, r := range g.plans {
			p := r.c.Plan()
			if p.Reason != "final" || p.Step != fence.StepDone {
				continue
			}
			holds := true
			for _, k := range w.reg.keys {
				holds = holds && k.Record.Plan == p.ID && k.Record.State == fence.StateActive
			}
			if holds {
				return &p
			}
		}
	}
	return nil
}

// poll looks now and then whether the world has converged: looking after each
// event would cost more than the events.
func (w *world) poll() {
	w.after(100*time.Millisecond, func() {
		w.settled = w.why() == ""
		w.poll()
	})
}

func (w *world) converged() bool { return w.settled }

// why says what is missing for convergence; "" when nothing is.
func (w *world) why() string {
	if w.final() == nil {
		return "the last failover is not done"
	}
	a := w.agentOn("n0")
	for i, k := range w.reg.keys {
		as := a.streams[i]
		switch {
		case !as.writing():
			return fmt.Sprintf("stream %d has no writer", i)
		case as.w.Durable() < k.Record.Head.Seq+5:
			return fmt.Sprintf("stream %d: D is %s, head was %s", i, as.w.Durable(), k.Record.Head.Seq)
		}
		for _, s := range w.standbys {
			n := s.streams[i].n
			if n.Limbo() || n.Adopted().Epoch != k.Record.Epoch || !k.Record.Config.Names(fence.Member{Node: s.name, Incarnation: s.inc}) {
				return fmt.Sprintf("stream %d: %s has adopted %s of %s, limbo %v", i, s.name, n.Adopted().Epoch, k.Record.Epoch, n.Limbo())
			}
			if s.streams[i].applied.Seq < k.Record.Head.Seq+3 {
				return fmt.Sprintf("stream %d: %s has applied %s", i, s.name, s.streams[i].applied.Seq)
			}
		}
	}
	return ""
}
