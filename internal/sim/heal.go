package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/tidegate/tidegate/gating/fence"
)

// heal ends the chaos. A random core of the standbys works from now on, as many as
// it takes: W, and R that know what they had. The others stay as they are. One
// last failover must succeed, and the service must go on.
func (w *world) heal() {
	w.chaos = false
	w.healedAt = w.now
	w.chooseCore()
	w.log("", "", "heal", "core %v", w.core)
	w.net.heal()
	s := &w.shape
	s.loss, s.dup, s.reorder = 0, 0, 0
	w.reg.up, w.reg.slow = true, 0
	for _, m := range w.machines {
		m.disk = disk{} // who is paused or asleep goes on by itself: what waits for it keeps its order
	}
	for _, x := range w.standbys {
		switch {
		case !w.core[x.i] && x.up && w.oneIn(2):
			x.crash()
		case !w.core[x.i]:
			w.cutOff(x)
		case !x.up:
			x.start()
		}
	}
	for i := range w.streams {
		w.reg.commit(func(v *view) {
			v.frozen = false
			v.wishes[i].brake = false
		})
	}
	for _, g := range w.gates {
		if !g.up {
			g.start()
		}
		for _, r := range g.plans {
			r.obeyed = !r.alive()
		}
	}
	for _, l := range w.libs {
		if !l.up {
			l.comeBack()
		}
	}
	w.drive()
	w.poll()
}

// cutOff leaves a standby alone for good.
func (w *world) cutOff(x *standby) {
	for _, m := range w.machines {
		if m != x.m {
			w.net.block(m, x.m)
			w.net.block(x.m, m)
		}
	}
}

// chooseCore draws the standbys that are healed, as few as do.
func (w *world) chooseCore() {
	for _, i := range w.rng.Perm(w.shape.n) {
		if !w.coreLacks() {
			return
		}
		w.core[i] = true
	}
}

// coreLacks reports whether the healed standbys are too few for what is on record.
func (w *world) coreLacks() bool {
	for i := range w.reg.v.keys {
		for _, cfg := range []fence.Config{w.reg.v.keys[i].Record.Config, w.oracle.streams[i].active.Config} {
			if len(cfg.Members) == 0 {
				continue
			}
			have, know := 0, 0
			for _, m := range cfg.Members {
				s := w.standbyOn(m.Node)
				if !w.core[s.i] {
					continue
				}
				have++
				if ns := s.streams[i]; ns.meta.Incarnation == m.Incarnation && !ns.meta.Limbo && ns.rotten == 0 {
					know++
				}
			}
			if have < cfg.W || know < cfg.Quorum().R() {
				return true
			}
		}
	}
	n := 0
	for _, in := range w.core {
		if in {
			n++
		}
	}
	return n < w.shape.w
}

// growCore heals more standbys when a failover that was under way at the healing
// has opened an epoch since, with a smaller configuration that these do not carry.
func (w *world) growCore() {
	if !w.coreLacks() {
		return
	}
	w.chooseCore()
	w.log("", "", "heal", "core %v", w.core)
	w.net.heal()
	for _, x := range w.standbys {
		switch {
		case !w.core[x.i]:
			w.cutOff(x)
		case !x.up:
			x.start()
		}
	}
}

// drive runs the last failover, again when it was refused or superseded.
func (w *world) drive() {
	w.after(500*time.Millisecond, func() {
		defer w.drive()
		w.obey()
		w.growCore()
		for _, g := range w.gates {
			for _, r := range g.plans {
				if s := w.standbyOn(r.target.Node); r.alive() && (s == nil || w.core[s.i]) {
					w.log(g.addr, "", "busy", "%.8s %s", r.id, r.c.Plan().Step)
					return
				}
			}
		}
		if w.reg.v.frozen {
			off := false // an order of before the healing that came late
			w.gates[0].send(&w.reg.host, &mSet{freeze: &off})
			return
		}
		if w.final() == nil {
			w.gates[0].order(order{
				kind: fence.KindFailover, target: w.agentOn(w.coreNode().name).self,
				reason: reasonFinal, attest: true, acceptLoss: true,
			})
		}
	})
}

// obey does what the newest refusals tell an operator to do: of two logs that
// contradict one another the one that holds less is set aside.
func (w *world) obey() {
	for _, g := range w.gates {
		for _, r := range g.plans {
			p := r.c.Plan()
			if r.alive() || r.obeyed || p.Refusal == nil || p.Refusal.Rule != fence.RuleAdoptQuorum {
				continue
			}
			r.obeyed = true
			for i := range p.Streams {
				s := &p.Streams[i]
				if len(s.Declined) == 0 {
					continue
				}
				less := s.Declined
				if slices.ContainsFunc(less, func(d fence.AdoptReply) bool { return d.Durable.Seq > s.Record.Head.Seq }) {
					less = s.Adopters
				}
				w.setAside(i, less)
			}
		}
	}
}

func (w *world) setAside(stream int, of []fence.AdoptReply) {
	for _, r := range of {
		if s := w.standbyOn(r.Member.Node); s.up && s.streams[stream].meta.Incarnation == r.Member.Incarnation {
			s.bounce()
			s.streams[stream].setAside()
		}
	}
}

// coreNode returns the first healed standby.
func (w *world) coreNode() *standby {
	for _, s := range w.standbys {
		if w.core[s.i] {
			return s
		}
	}
	return w.standbys[0]
}

// final returns the last failover once it is done and still holds the streams.
func (w *world) final() *running {
	for _, g := range w.gates {
		for _, r := range g.plans {
			if r.reason != reasonFinal || r.c.Plan().Step != fence.StepDone {
				continue
			}
			holds := true
			for i := range w.reg.v.keys {
				rec := &w.reg.v.keys[i].Record
				holds = holds && rec.Plan == r.id && rec.State == fence.StateActive
			}
			if holds {
				return r
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

// why says what is missing for convergence; "" when nothing is.
func (w *world) why() string {
	if w.final() == nil {
		return "the last failover is not done"
	}
	a := w.agentOn(w.coreNode().name)
	for i := range w.reg.v.keys {
		rec := &w.reg.v.keys[i].Record
		as := a.streams[i]
		switch {
		case !as.writing():
			return fmt.Sprintf("stream %d has no writer", i)
		case as.w.Durable() < rec.Head.Seq+5:
			return fmt.Sprintf("stream %d: D is %s, head was %s", i, as.w.Durable(), rec.Head.Seq)
		}
		for _, s := range w.standbys {
			if !w.core[s.i] {
				continue
			}
			ns := s.streams[i]
			n := ns.n
			// Who slept while the last failover ran out of patience was left out of a
			// smaller configuration: it follows, until an operator names it again.
			left := w.shape.shrink && len(rec.Config.Members) < w.shape.n
			if n == nil || n.Limbo() || n.Adopted().Epoch != rec.Epoch || !left && !rec.Config.Names(ns.meta.Member()) {
				return fmt.Sprintf("stream %d: %s has adopted %s of %s, limbo %v", i, s.name, ns.meta.History.Last().Epoch, rec.Epoch, ns.meta.Limbo)
			}
			if l := ns.warm(); ns.applied < int(rec.Head.Seq)+2 && (l == nil || !l.active) {
				return fmt.Sprintf("stream %d: %s has applied %d", i, s.name, ns.applied)
			}
		}
		if last := w.oracle.sinkAt(i); last < w.healedAt {
			return fmt.Sprintf("stream %d: no client was told of anything since %s", i, last)
		}
	}
	return ""
}
