package sim

import (
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// nemesis keeps breaking things while chaos lasts: one act after another, drawn
// from those that the seed allows.
func (w *world) nemesis() {
	acts := w.acts()
	var next func()
	next = func() {
		w.after(w.jitter(w.shape.chaos/28), func() {
			if w.chaos {
				acts[w.rng.IntN(len(acts))]()
				next()
			}
		})
	}
	next()
	w.after(w.jitter(200*time.Millisecond), w.check)
}

// check runs what is too dear to be judged after each event.
func (w *world) check() {
	w.oracle.standing()
	w.after(200*time.Millisecond, w.check)
}

// acts lists what the nemesis may do, the weightier things more than once.
func (w *world) acts() []func() {
	s := &w.shape
	acts := []func(){w.failover, w.failover, w.failoverTwice, w.bounceGate}
	if s.auto {
		// People keep out of it: the detector must see what it takes.
		acts = []func(){w.losePrimary, w.fillDisks, w.crashStandby, w.cut, w.pauseSomething, w.bounceGate}
		return acts
	}
	some := func(allowed bool, fs ...func()) {
		if allowed {
			acts = append(acts, fs...)
		}
	}
	some(s.crashes, w.crashStandby, w.crashStandby, w.crashService, w.upgrade)
	some(s.wipes, w.wipeStandby)
	some(s.flips, w.flipBit)
	some(s.disks, w.hurtDisk, w.hurtDisk)
	some(s.cuts, w.cut, w.cut, w.isolateStandby, w.ambush, w.cutSite, w.clog)
	some(s.clocks, w.jumpClock)
	some(s.sleeps, w.pauseSomething, w.pauseSomething, w.suspendMachine, w.zombie)
	some(s.outages, w.outage)
	some(s.restarts, w.restartWriter, w.restartWriter, w.elect)
	some(s.duel, w.takeOver, w.twins, w.twins, w.twins)
	some(s.restores, w.backupOrRestore, w.rollback, w.rollback)
	some(s.wish.lease > 0 && !s.restores, w.leaseAmbush)
	some(s.switches, w.switchover, w.switchover)
	some(s.force, w.abandon, w.abandon)
	some(s.restarts && s.n > 2, w.orphan)
	some(s.modes, w.changeMode, w.brake, w.freeze)
	for range len(acts) / 2 { // half of what a theme's seed meets is the theme
		some(s.theme == themeTwins, w.twins)
		some(s.theme == themeBack, w.rollback, w.changeMode, w.repeat)
		some(s.theme == themeLeases, w.leaseAmbush)
		some(s.theme == themeBrake, w.brake)
		some(s.theme == themeRegate, w.restartStuck)
	}
	return acts
}

// --- processes ---

func (w *world) someStandby() *standby { return w.standbys[w.rng.IntN(w.shape.n)] }

func (w *world) crashStandby() { w.someStandby().bounce() }

func (w *world) crashService() {
	w.libs[w.rng.IntN(len(w.libs))].bounce()
}

// upgrade restarts every process, one after the other.
func (w *world) upgrade() {
	w.log("", "", "upgrade", "")
	d := time.Duration(0)
	for _, s := range w.standbys {
		d += w.jitter(250 * time.Millisecond)
		w.after(d, func() {
			if w.chaos {
				s.bounce()
			}
		})
	}
	for _, a := range w.agents {
		d += w.jitter(40 * time.Millisecond)
		w.after(d, func() {
			if w.chaos && a.up {
				a.restart()
			}
		})
	}
}

// restartWriter restarts the agent of the active service: another holder.
func (w *world) restartWriter() {
	for i, l := range w.libs {
		if l.up && l.streams[0].active && w.agents[i].up && w.oneIn(2) {
			w.agents[i].restart()
			return
		}
	}
}

// elect lets the cluster of the primary site choose its leader anew: the old one
// may learn of it late, and cannot commit.
func (w *world) elect() {
	to := w.libs[w.rng.IntN(2)]
	other := w.libs[0]
	if to == other {
		other = w.libs[1]
	}
	ls := other.streams[0]
	if !to.up || ls.j.leader != ls || !ls.active || to.streams[0].fencedBy != 0 {
		return
	}
	w.log(to.addr, "", "elect", "")
	for i, x := range other.streams {
		x.j.cut(x.j.synced) // what its quorum had not, the new leader never saw
		to.streams[i].advance()
	}
	to.deactivate()
	to.activate()
}

func (w *world) pauseSomething() {
	h := w.net.hosts[w.rng.IntN(len(w.net.hosts))]
	if h.m.site != siteThird || w.oneIn(4) {
		h.pause(w.jitter(600 * time.Millisecond))
	}
}

func (w *world) suspendMachine() {
	w.machines[w.rng.IntN(len(w.machines))].suspend(w.jitter(900 * time.Millisecond))
}

// zombie stops the active service, or its whole machine, moves the streams away,
// and lets it wake up in the middle of what it was doing.
func (w *world) zombie() {
	for _, l := range w.libs {
		if l.up && l.streams[0].active && l.m.name == w.route.holder.Node {
			d := w.jitter(2 * time.Second)
			if w.oneIn(2) {
				l.m.suspend(d)
			} else {
				l.pause(d)
			}
			w.failover()
			return
		}
	}
}

// leaseAmbush runs a failover while the old writer, cut off from all but its
// clients, believes in its leases: renewed behind the back of fences that came late
// (which the nodes may have forgotten by a restart), counted from answers that came
// late, or counted by a clock that stood still while the machine slept. Or an
// operator attests that it is down, sees that it is not, and starts another one
// that is to wait for its leases.
func (w *world) leaseAmbush() {
	if w.busy() {
		return
	}
	ttl := w.shape.wish.lease
	var fences, deaf, link, in, out [][2]*computer
	var writer *library
	for _, l := range w.libs {
		if l.m.name == w.route.holder.Node {
			writer = l
		}
	}
	if writer == nil {
		return
	}
	for _, m := range w.machines {
		if m == writer.m || m.name == "c" {
			continue
		}
		in, out = append(in, [2]*computer{m, writer.m}), append(out, [2]*computer{writer.m, m})
		if m.name[0] == 'n' {
			link = append(link, [2]*computer{m, writer.m}, [2]*computer{writer.m, m})
		} else {
			deaf = append(deaf, [2]*computer{m, writer.m})
		}
		for _, g := range w.gates {
			if g.m != m && m.name[0] == 'n' {
				fences = append(fences, [2]*computer{g.m, m})
			}
		}
	}
	how := w.rng.IntN(6)
	w.log(string(writer.m.name), "", "ambush", "of leases %d", how)
	later := func(d time.Duration, f func()) {
		w.after(d, func() {
			if w.chaos {
				f()
			}
		})
	}
	isolate := func() { w.net.blockFor(5*ttl, in); w.net.blockFor(5*ttl, out) }
	call := func(attest bool) {
		w.someGate().order(order{kind: fence.KindFailover, target: w.someTarget(), reason: "ambush", acceptLoss: true, attest: attest})
	}
	fail := func() { call(false) }
	switch how {
	case 0, 1:
		d := ttl/4 + w.jitter(ttl/2)
		w.net.blockFor(d, fences)
		w.net.blockFor(d, deaf)
		fail()
		later(d, isolate)
		if how == 1 {
			later(d, func() {
				for _, s := range w.standbys {
					s.bounce()
				}
			})
		}
	case 5:
		d := ttl/4 + w.jitter(ttl/2)
		w.net.blockFor(d, fences)
		w.net.blockFor(d, deaf)
		fail()
		later(d, func() { isolate(); call(true) })
		later(d+w.jitter(40*time.Millisecond), func() { call(false) })
	case 2: // asks go out once, their answers come late
		d := ttl/2 + w.jitter(ttl/4)
		for _, p := range in {
			w.net.link(p[0], p[1]).clogged = w.now + d
		}
		later(ttl/4+w.jitter(20*time.Millisecond), func() { w.net.blockFor(5*ttl, out); fail() })
		later(d-time.Millisecond, func() { w.net.blockFor(5*ttl, in) })
	case 3: // the link is down, and the gates renew what the nodes cannot
		w.net.blockFor(6*ttl, link)
		later(ttl+w.jitter(ttl), func() { isolate(); fail() })
	default:
		isolate()
		writer.m.suspend(3 * ttl)
		fail()
	}
}

// orphan brings a service up, loses sight of it before its agent has written
// anything, brings another one up, and lets the first one come back.
func (w *world) orphan() {
	target := w.someTarget()
	a := w.agentOn(target.Node)
	if w.busy() || a.lib.streams[0].active {
		return
	}
	move := func(to fence.Holder) {
		w.someGate().order(order{kind: fence.KindFailover, target: to, reason: "orphan", attest: true, acceptLoss: true})
	}
	move(target)
	tries := 0
	var look func()
	look = func() {
		if tries++; !w.chaos || tries > 200 || !a.up || !a.lib.up {
			return
		}
		for _, ls := range a.lib.streams {
			if !ls.active {
				w.after(2*time.Millisecond, look)
				return
			}
		}
		a.restart()
		var pairs [][2]*computer
		for _, m := range w.machines {
			if m != a.m {
				pairs = append(pairs, [2]*computer{m, a.m}, [2]*computer{a.m, m})
			}
		}
		w.net.blockFor(patience+w.jitter(400*time.Millisecond), pairs)
		w.after(w.jitter(100*time.Millisecond), func() {
			if to := w.someTarget(); w.chaos && to.Node != target.Node {
				move(to)
			}
		})
	}
	look()
}

// silence ends whoever writes. An operator who forces a choice with fewer than R
// promises, and attests that the primary is down, must be right: members that have
// promised nothing would go on serving it, and nothing in the protocol is left that
// could stop two writers. That is what force asks for. A wrong attestation alone, with
// R promises, is another matter, and is met often.
func (w *world) silence() {
	for _, a := range w.agents {
		if a.up && slices.ContainsFunc(a.streams, (*agentStream).writing) {
			a.restart()
		}
	}
}

// abandon lets one node alone choose a head, which some others adopt when they come
// back; and before its epoch is opened another plan takes over, without force.
func (w *world) abandon() {
	if w.busy() {
		return
	}
	one := w.someStandby()
	for _, s := range w.standbys {
		if s != one {
			var pairs [][2]*computer
			for _, g := range w.gates {
				pairs = append(pairs, [2]*computer{g.m, s.m}, [2]*computer{s.m, g.m})
			}
			w.net.blockFor(patience+w.jitter(300*time.Millisecond), pairs)
		}
	}
	w.log(one.addr, "", "abandon", "")
	g := w.someGate()
	w.after(w.jitter(20*time.Millisecond), func() {
		if w.chaos {
			w.silence()
			g.order(order{kind: fence.KindFailover, target: w.someTarget(), reason: "forced", attest: true, acceptLoss: true, force: true})
		}
	})
	w.after(patience+w.jitter(400*time.Millisecond), func() {
		if w.chaos {
			w.someGate().order(order{kind: fence.KindFailover, target: w.someTarget(), reason: "instead", attest: true, acceptLoss: true})
		}
	})
}

func (w *world) jumpClock() {
	m := w.machines[w.rng.IntN(len(w.machines))]
	d := time.Duration(w.rng.IntN(7200)-3600) * time.Second
	w.log(string(m.name), "", "jump", "wall clock by %s", d)
	m.clock.wall += d
}

// restartStuck cuts the active service off from the standbys, and restarts it a
// little later.
func (w *world) restartStuck() {
	for _, l := range w.libs {
		if l.m.name != w.route.holder.Node {
			continue
		}
		var pairs [][2]*computer
		for _, s := range w.standbys {
			if s.m != l.m {
				pairs = append(pairs, [2]*computer{s.m, l.m}, [2]*computer{l.m, s.m})
			}
		}
		w.net.blockFor(1500*time.Millisecond, pairs)
		w.after(w.jitter(400*time.Millisecond), func() {
			if w.chaos {
				l.bounce()
			}
		})
	}
}

// losePrimary takes the site where the streams live away, for long enough to be
// called down: a power cut, or the loss of all its links.
func (w *world) losePrimary() {
	d := 2*downAfter + w.jitter(downAfter)
	if w.lostUntil > w.now {
		return
	}
	w.lostUntil = w.now + d
	if w.oneIn(2) {
		for _, l := range w.libs {
			if l.m.name == w.route.holder.Node {
				l.m.suspend(d)
			}
		}
		return
	}
	for _, l := range w.libs {
		if l.m.name == w.route.holder.Node {
			var pairs [][2]*computer
			for _, m := range w.machines {
				if m != l.m && (m.site != l.m.site || l.m.site == siteWest) {
					pairs = append(pairs, [2]*computer{m, l.m}, [2]*computer{l.m, m})
				}
			}
			w.log(string(l.m.name), "", "lose", "%s", d)
			w.net.blockFor(d, pairs)
		}
	}
}

// fillDisks leaves the standbys no room: the primary is heard, and gets nothing done.
func (w *world) fillDisks() {
	if w.lostUntil > w.now {
		return
	}
	d := 5 * downAfter
	w.lostUntil = w.now + d
	w.log("", "", "fulldisks", "%s", d)
	for _, s := range w.standbys {
		s.m.disk.full = w.now + d
	}
}

// --- disks ---

// mayLose keeps the losses within what W copies can bear: at most W-1 members
// of any configuration may not know what they had.
func (w *world) mayLose(s *standby) bool {
	for i := range w.reg.v.keys {
		for _, cfg := range []fence.Config{w.reg.v.keys[i].Record.Config, w.oracle.streams[i].active.Config} {
			lost := 0
			for _, m := range cfg.Members {
				ns := w.standbyOn(m.Node).streams[i]
				if ns.meta.Incarnation != m.Incarnation || ns.meta.Limbo || ns.rotten > 0 || ns.s == s {
					lost++
				}
			}
			if lost > cfg.W-1 && len(cfg.Members) > 0 {
				return false
			}
		}
	}
	return true
}

func (w *world) wipeStandby() {
	if s := w.someStandby(); s.up && w.mayLose(s) {
		s.bounce()
		s.wipe()
	}
}

func (w *world) flipBit() {
	if s := w.someStandby(); s.up && w.mayLose(s) {
		s.flip()
	}
}

func (w *world) hurtDisk() {
	m := w.machines[w.rng.IntN(len(w.machines))]
	switch w.rng.IntN(3) {
	case 0:
		m.disk.slow = w.now + w.jitter(1500*time.Millisecond)
		w.log(string(m.name), "", "slowdisk", "")
	case 1:
		m.disk.full = w.now + w.jitter(1200*time.Millisecond)
		w.log(string(m.name), "", "fulldisk", "")
	default:
		m.disk.bad = true
	}
}

// --- the network ---

// cut stops one direction between two machines for a while, or both.
func (w *world) cut() {
	a, b := w.machines[w.rng.IntN(len(w.machines))], w.machines[w.rng.IntN(len(w.machines))]
	if a == b {
		return
	}
	pairs := [][2]*computer{{a, b}}
	if w.oneIn(2) {
		pairs = append(pairs, [2]*computer{b, a})
	}
	w.log(string(a.name), string(b.name), "cut", "both ways: %v", len(pairs) == 2)
	w.net.blockFor(w.jitter(800*time.Millisecond), pairs)
}

// cutSite takes a site away from the others, in one direction or in both.
func (w *world) cutSite() {
	site := []tidegate.SiteName{siteEast, siteWest}[w.rng.IntN(2)]
	in, out := !w.oneIn(3), !w.oneIn(3)
	var pairs [][2]*computer
	for _, a := range w.machines {
		for _, b := range w.machines {
			if a.site == site && b.site != site {
				if out {
					pairs = append(pairs, [2]*computer{a, b})
				}
				if in {
					pairs = append(pairs, [2]*computer{b, a})
				}
			}
		}
	}
	w.log(string(site), "", "cutsite", "in %v out %v", in, out)
	w.net.blockFor(w.jitter(1200*time.Millisecond), pairs)
}

// clog holds everything between two machines back, and lets it go at once.
func (w *world) clog() {
	a, b := w.machines[w.rng.IntN(len(w.machines))], w.machines[w.rng.IntN(len(w.machines))]
	w.log(string(a.name), string(b.name), "clog", "")
	w.net.link(a, b).clogged = w.now + w.jitter(700*time.Millisecond)
}

// isolate takes a standby away from everybody, or from everybody but the
// agents: the old writer may then go on filling a log that nobody else sees.
func (w *world) isolate(s *standby, agents bool) {
	var pairs [][2]*computer
	for _, m := range w.machines {
		if m != s.m && (agents || m.site != siteEast) {
			pairs = append(pairs, [2]*computer{s.m, m}, [2]*computer{m, s.m})
		}
	}
	w.log(s.addr, "", "isolate", "agents too: %v", agents)
	w.net.blockFor(w.jitter(700*time.Millisecond), pairs)
}

func (w *world) isolateStandby() { w.isolate(w.someStandby(), w.oneIn(2)) }

// ambush lets one node fill up with a tail that nobody else has, moves the
// stream on without it, and then asks that node and not one of those who know
// better.
func (w *world) ambush() {
	stale := w.someStandby()
	w.isolate(stale, false)
	w.after(w.jitter(350*time.Millisecond), w.failover)
	w.after(w.jitter(900*time.Millisecond), func() {
		if other := w.someStandby(); w.chaos && other != stale {
			w.isolate(other, true)
			w.failover()
		}
	})
}

// --- the registry ---

func (w *world) outage() {
	if w.oneIn(3) {
		w.reg.slow = w.now + w.jitter(800*time.Millisecond)
		w.log("etcd", "", "slow", "")
		return
	}
	w.reg.outage(w.jitter(400 * time.Millisecond))
}

func (w *world) backupOrRestore() {
	if w.reg.old == nil || w.oneIn(3) {
		w.reg.backup()
		return
	}
	w.reg.restore(w.oneIn(2))
}

// rollback puts the registry back to before a role change that some nodes know of
// already, and then runs another one.
func (w *world) rollback() {
	if w.reg.old == nil {
		w.reg.backup()
		return
	}
	if w.oneIn(2) {
		w.isolate(w.someStandby(), true)
	}
	w.failover()
	w.after(w.jitter(60*time.Millisecond), func() {
		if !w.chaos {
			return
		}
		w.reg.restore(w.oneIn(2))
		w.after(w.jitter(250*time.Millisecond), w.failover)
	})
}

// repeat puts the registry back to before a role change, after which the gate was
// opened, and has the same epoch reserved for the same holder by a gate that dies
// before anybody hears of it. What the nodes have adopted looks familiar then.
func (w *world) repeat() {
	g := w.someGate()
	if w.busy() || !g.up || w.reg.v.frozen {
		return
	}
	w.reg.backup()
	target := w.someTarget()
	order := order{kind: fence.KindFailover, target: target, reason: "repeated", attest: true, acceptLoss: true}
	later := func(d time.Duration, f func()) {
		w.after(d, func() {
			if w.chaos {
				f()
			}
		})
	}
	g.order(order)
	later(600*time.Millisecond, func() {
		for i := range w.streams {
			w.set(i, func(s *wish) { s.mode = tidegate.ModeOpen })
		}
	})
	later(backupAge+w.jitter(200*time.Millisecond), func() {
		w.reg.restore(w.oneIn(2))
		later(170*time.Millisecond, func() {
			for _, s := range w.standbys {
				w.net.blockFor(50*time.Millisecond, [][2]*computer{{g.m, s.m}})
			}
			g.order(order)
			later(45*time.Millisecond, func() {
				if g.up {
					g.stop()
					w.res.Crashes++
					w.log(g.addr, "", "crash", "")
					w.after(w.jitter(300*time.Millisecond), func() {
						if !g.up {
							g.start()
						}
					})
				}
				order.target = w.someTarget()
				for _, o := range w.gates {
					if o != g {
						o.order(order)
					}
				}
			})
		})
	})
}

// --- operators ---

func (w *world) someGate() *gate { return w.gates[w.rng.IntN(len(w.gates))] }

// someTarget returns a member's agent.
func (w *world) someTarget() fence.Holder {
	members := w.reg.v.keys[0].Record.Config.Members
	return w.agentOn(members[w.rng.IntN(len(members))].Node).self
}

func (w *world) failover() {
	g := w.someGate()
	if w.chaos && (w.shape.duel || !w.busy() || w.oneIn(4)) {
		o := order{
			kind: fence.KindFailover, target: w.someTarget(), reason: "nemesis",
			attest: w.oneIn(4), acceptLoss: !w.oneIn(3), force: w.shape.force && w.oneIn(3),
		}
		if o.force && o.attest {
			w.silence()
		}
		g.order(o)
	}
}

// failoverTwice: who missed the first must not look good in the second.
func (w *world) failoverTwice() {
	w.failover()
	w.after(w.jitter(400*time.Millisecond), w.failover)
}

func (w *world) switchover() {
	if w.busy() && !w.shape.duel {
		return
	}
	g := w.someGate()
	if !g.order(order{kind: fence.KindSwitchover, target: w.someTarget(), reason: "nemesis"}) || !w.oneIn(4) {
		return
	}
	r := g.plans[len(g.plans)-1]
	w.after(w.jitter(500*time.Millisecond), func() { r.step(fence.Abort{Actor: "operator", Reason: "changed my mind"}) })
}

func (w *world) busy() bool {
	return slices.ContainsFunc(w.gates, func(g *gate) bool { return slices.ContainsFunc(g.plans, (*running).alive) })
}

// twins runs one plan on both gates from the start, while the standbys' ends differ.
func (w *world) twins() {
	g := w.gates[0]
	if g.seen == nil || !g.trusted || g.seen.frozen {
		return
	}
	p := g.plan(order{kind: fence.KindFailover, target: w.someTarget(), reason: "twins", attest: true, acceptLoss: true})
	for _, g := range w.gates {
		if g.up && g.seen != nil && g.trusted {
			g.run(p)
		}
	}
}

// bounceGate kills a gate in the middle of whatever it does; another one, or
// itself, takes its plans up.
func (w *world) bounceGate() {
	g := w.someGate()
	if !g.up {
		return
	}
	g.stop()
	w.res.Crashes++
	w.log(g.addr, "", "crash", "")
	w.after(w.jitter(300*time.Millisecond), func() {
		if !g.up {
			g.start()
			w.after(w.jitter(100*time.Millisecond), w.takeOver)
		}
	})
}

// takeOver starts a second controller on the newest unfinished plan, whether or
// not the first is still at it.
func (w *world) takeOver() {
	g := w.someGate()
	for i := len(w.reg.plans) - 1; g.up && g.trusted && i >= 0; i-- {
		if p := w.reg.plans[i]; !p.Finished() {
			g.run(p)
			return
		}
	}
}

func (w *world) set(stream int, f func(*wish)) {
	g := w.someGate()
	if g.up {
		g.send(&w.reg.host, &mSet{stream: stream, set: f})
	}
}

func (w *world) changeMode() {
	stream, b := w.rng.IntN(len(w.streams)), w.someBounds()
	mode := []tidegate.Mode{tidegate.ModeSync, tidegate.ModeBounded, tidegate.ModeOpen}[w.rng.IntN(3)]
	w.log("", "", "setmode", "stream %d %s %+v", stream, mode, b)
	w.set(stream, func(s *wish) { s.mode, s.bounds = mode, b })
}

// brake opens a stream's gate by hand, recorded before it acts, or lets it arm
// itself again.
func (w *world) brake() {
	stream, on, g := w.rng.IntN(len(w.streams)), !w.oneIn(3), w.someGate()
	w.log("", "", "brake", "stream %d %v", stream, on)
	w.set(stream, func(s *wish) { s.brake = on })
	if !on || !g.up {
		return
	}
	g.send(&w.reg.host, &mSwap{
		what: "open gate", streams: []int{stream}, revisions: []int64{-1}, done: func(bool, *view) {},
		next: func(_ int, r fence.EpochRecord) (fence.EpochRecord, error) { return r.OpenGate() },
	})
}

func (w *world) freeze() {
	on := true
	w.log("", "", "freeze", "")
	g := w.someGate()
	g.send(&w.reg.host, &mSet{freeze: &on})
	w.after(w.jitter(500*time.Millisecond), func() {
		off := false
		g.send(&w.reg.host, &mSet{freeze: &off})
	})
}
