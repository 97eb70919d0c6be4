package sim

import (
	"math"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/internal/mutate"
	"github.com/tidegate/tidegate/rpo"
)

// Messages on the local socket between a library and its agent, and between
// clients and the library.
type (
	mHello    struct{}
	mGone     struct{} // the other end's process has ended
	mProgress struct {
		stream     int
		activation uint64
		active     bool
		l          tidegate.Position // durable here
		records    int64             // through it
		a          rpo.Mark          // released
		aKnown     bool
		exposure   rpo.Exposure
		want       machine.Want
		state      machine.State
		grant      uint64
		drained    bool
		branch     tidegate.Epoch // what the journal's lineage ends with
	}
	mGrant struct {
		stream int
		number uint64
		t      told
	}
	mSubmit struct {
		stream int
		c      *client
		op     uint64
		class  class
		kind   recordKind
		size   int32
	}
	mResult struct {
		stream int
		op     uint64
		ok     bool
		epoch  tidegate.Epoch
		id     int32
	}
)

// library is the service's process: its state machine over the journal, with the
// gate's ceiling where outputs leave.
type library struct {
	host
	agent   *agent
	streams []*libStream
	was     bool // active when it went down
}

type libStream struct {
	l *library
	i int

	// disk
	j *journal

	// memory
	state      state
	applied    int // records
	active     bool
	activation uint64
	syncing    bool
	dirty      bool // a report to the agent is due

	epoch    tidegate.Epoch
	dEpoch   tidegate.Epoch
	fencedBy tidegate.Epoch
	ours     tidegate.Epoch // promoted to, or held by the agent
	held     bool
	lost     bool // held when the agent went away
	openGoes bool
	terms    told
	obeyed   uint64
	ceiling  *rpo.Ceiling
	marked   int // records that the ceiling knows
	edge     *machine.Machine
	out      machine.Output
	standing rpo.Standing
	drains   rpo.DrainRate
	pace     rpo.Throttle
	touched  tidegate.Instant
	sealed   bool
	waiters  []waiter
}

// waiter is a client's call that waits for its record to be released.
type waiter struct {
	c     *client
	op    uint64
	rec   record
	class class
}

func newLibrary(w *world, m *computer, shared []*journal) *library {
	l := &library{}
	l.host = m.newHost("l."+string(m.name), l.receive)
	w.net.add(&l.host)
	for i := range w.streams {
		ls := &libStream{l: l, i: i, j: &journal{}}
		if shared != nil {
			ls.j = shared[i]
		}
		l.streams = append(l.streams, ls)
	}
	return l
}

func (l *library) start() {
	l.begin()
	for _, ls := range l.streams {
		ls.open()
	}
	l.every(50*time.Millisecond, func() {
		for _, ls := range l.streams {
			ls.tick()
		}
	})
	if l.agent.up {
		l.send(&l.agent.host, &mGone{})
	}
}

// open replays the journal.
func (ls *libStream) open() {
	*ls = libStream{l: ls.l, i: ls.i, j: ls.j, activation: ls.activation}
	ls.edge = machine.New(ls.now())
	ls.applyTo(len(ls.j.recs))
}

// crash ends the process. What the journal had not synced is lost in part.
func (l *library) crash() {
	l.end()
	l.w.res.Crashes++
	l.w.log(l.addr, "", "crash", "")
	for _, ls := range l.streams {
		if j := ls.j; j.leader == ls || l.m.site != siteEast {
			j.cut(j.synced + l.w.rng.IntN(len(j.recs)-j.synced+1))
			j.synced = len(j.recs)
		}
		l.w.oracle.closed(ls)
	}
	if l.agent.up {
		l.agent.receive(&l.host, &mGone{})
	}
}

// bounce restarts the service; it is active again if it was.
func (l *library) bounce() {
	if !l.up {
		return
	}
	l.was = l.streams[0].active
	l.crash()
	gen := l.gen
	l.w.after(l.w.jitter(150*time.Millisecond), func() {
		if !l.up && l.gen == gen {
			l.comeBack()
		}
	})
}

func (l *library) comeBack() {
	l.start()
	if l.was {
		l.activate()
	}
}

// activate makes the service the active one: its cluster has decided so.
func (l *library) activate() {
	for _, ls := range l.streams {
		ls.activate()
	}
}

func (l *library) deactivate() {
	for _, ls := range l.streams {
		ls.deactivate()
	}
}

func (ls *libStream) now() tidegate.Instant { return ls.l.m.boot() }

func (ls *libStream) activate() {
	if ls.active || ls.fencedBy != 0 {
		return
	}
	w := ls.l.w
	ls.active = true
	ls.activation++
	ls.j.leader = ls
	now := ls.now()
	ls.ceiling, ls.marked = ls.newCeiling(), len(ls.j.recs)
	ls.ceiling.Hold(now)
	ls.openGoes, ls.touched = false, now
	ls.terms, ls.drains = told{}, rpo.DrainRate{}
	w.log(ls.l.addr, "", "activate", "stream %d at %d", ls.i, ls.j.end().end)
	w.oracle.activated(ls)
	ls.step(now)
	ls.kickSync()
	ls.report()
}

func (ls *libStream) newCeiling() *rpo.Ceiling {
	return rpo.NewCeiling(markOf(ls.j.end()))
}

func markOf(r record) rpo.Mark {
	return rpo.Mark{Position: r.end, Records: r.n, Bytes: int64(r.end)}
}

func (ls *libStream) deactivate() {
	if !ls.active {
		return
	}
	ls.active, ls.ceiling, ls.held, ls.lost = false, nil, false, false
	ls.terms = told{}
	ls.l.w.log(ls.l.addr, "", "deactivate", "stream %d", ls.i)
	ls.l.w.oracle.closed(ls)
	for _, x := range ls.waiters {
		ls.answer(x, false)
	}
	ls.waiters = ls.waiters[:0]
	ls.step(ls.now())
	ls.report()
}

func (l *library) receive(_ *host, msg any) {
	switch m := msg.(type) {
	case *mHello:
		for _, ls := range l.streams {
			ls.report()
		}
	case *mGone:
		for _, ls := range l.streams {
			ls.agentLost()
		}
	case *mGrant:
		l.streams[m.stream].onGrant(m)
	case *mProbe:
		if l.streams[0].active && l.streams[0].held {
			l.send(&m.g.host, &mProbed{})
		}
	case *mSubmit:
		l.streams[m.stream].submit(m)
	}
}

// --- work ---

func (ls *libStream) submit(m *mSubmit) {
	x := waiter{c: m.c, op: m.op, class: m.class}
	if !ls.active || ls.fencedBy != 0 || ls.j.leader != ls || ls.l.m.full() ||
		ls.out.Refuse != machine.RefuseNone || ls.sealed || !ls.pace.Take(ls.now(), 1) {
		ls.answer(x, false)
		return
	}
	x.rec = ls.j.append(ls.l.w.oracle.submitted(ls, m))
	ls.waiters = append(ls.waiters, x)
	ls.touched = ls.now()
	ls.kickSync()
}

func (ls *libStream) answer(x waiter, ok bool) {
	ls.l.send(&x.c.host, &mResult{ls.i, x.op, ok, ls.epoch, x.rec.id})
}

// kickSync is the journal's group fsync.
func (ls *libStream) kickSync() {
	if ls.syncing || ls.j.synced == len(ls.j.recs) || ls.j.leader != ls {
		ls.advance()
		return
	}
	ls.syncing = true
	n := len(ls.j.recs)
	d, failed := ls.l.m.syncTime()
	ls.l.after(d, func() {
		ls.syncing = false
		if failed {
			ls.l.w.log(ls.l.addr, "", "eio", "")
			ls.j.cut(ls.j.synced)
			ls.l.bounce()
			return
		}
		if ls.j.leader == ls {
			ls.j.synced = max(ls.j.synced, min(n, len(ls.j.recs)))
		}
		ls.advance()
		ls.kickSync()
	})
}

// advance takes up that the journal is durable further than before.
func (ls *libStream) advance() {
	ls.applyTo(ls.j.synced)
	// A leader that has not learnt yet that it was deposed commits nothing: what stands
	// in the journal now may be another's.
	if ls.ceiling == nil || ls.j.leader != ls {
		return
	}
	if ls.marked < ls.j.synced {
		for _, r := range ls.j.recs[ls.marked:ls.j.synced] {
			ls.ceiling.Append(markOf(r))
		}
		ls.marked = ls.j.synced
		now := ls.now()
		ls.step(now)
		ls.wake(now)
		ls.changed()
	}
}

func (ls *libStream) applyTo(n int) {
	for ; ls.applied < n; ls.applied++ {
		ls.state.apply(&ls.j.recs[ls.applied])
	}
}

// wake releases whatever the ceiling has reached.
func (ls *libStream) wake(now tidegate.Instant) {
	if ls.ceiling == nil || len(ls.waiters) == 0 || ls.out.Sealed {
		return
	}
	kept := ls.waiters[:0]
	released := false
	for _, x := range ls.waiters {
		if x.rec.end > ls.ceiling.L().Position || !ls.ceiling.ReleaseFor(now, x.rec.end, classModes[x.class]) {
			kept = append(kept, x)
			continue
		}
		released = true
		ls.l.w.oracle.ackedRecord(ls, x)
		ls.answer(x, true)
	}
	ls.waiters = kept
	if released {
		ls.touched = now
		ls.changed()
	}
}

// --- the gate beside the ceiling; the order of things is that of package journal ---

// step lets the machine decide anew and puts in force what it says.
func (ls *libStream) step(now tidegate.Instant) {
	in := machine.Input{
		Epoch: ls.epoch, FencedBy: ls.fencedBy, Lost: ls.lost,
		Policy: ls.terms.wish.policy, Record: ls.terms.record, Brake: ls.terms.brake,
		Drain: ls.terms.drain, HandedOver: ls.terms.over,
	}
	ls.standing = rpo.Standing{}
	if ls.ceiling != nil {
		s := ls.ceiling.Standing(now)
		ls.standing = s
		in.Held = ls.held || ls.lost
		in.Utilisation, in.Late, in.HeldBack, in.Covered = s.Utilisation, s.Late, s.HeldBack, s.Covered
		in.Age, in.D = s.Age, s.D
		ls.drains.Note(now, s.Drained, s.Busy)
		in.Drains, in.DrainsKnown = ls.drains.Rate(now)
	}
	was := ls.out
	ls.out = ls.edge.Step(now, in)
	if ls.out.State != was.State {
		ls.l.w.log(ls.l.addr, "", "gate", "stream %d %s", ls.i, ls.out.State)
	}
	if ls.ceiling != nil {
		ls.ceiling.SetDegraded(ls.out.Unbounded)
		if ls.lost {
			if ls.openGoes || ls.out.Unbounded {
				ls.ceiling.Resume()
			} else {
				ls.ceiling.Hold(now)
			}
		}
		if ls.out.Unbounded != was.Unbounded {
			if ls.out.Unbounded {
				ls.l.w.res.Degraded++
			}
			ls.wake(now)
		}
	}
	ls.pace.SetRate(now, ls.out.Rate)
	if ls.out.Refuse != machine.RefuseDraining {
		ls.sealed = false
	}
	if ls.out.State != was.State || ls.out.Want != was.Want {
		ls.changed()
	}
}

func (ls *libStream) tick() {
	now := ls.now()
	if ls.ceiling != nil {
		if ls.j.leader != ls && ls.l.m.site == siteEast {
			ls.deactivate() // its cluster has another leader
			return
		}
		ls.step(now)
		ls.wake(now)
		ls.seal(now)
	}
	ls.changed()
}

// seal ends a drain: if nothing is in flight, the journal's end is final.
func (ls *libStream) seal(now tidegate.Instant) {
	if ls.out.State != machine.Draining || ls.sealed || len(ls.waiters) > 0 || ls.marked != len(ls.j.recs) {
		return
	}
	a, known := ls.ceiling.A()
	d, _ := ls.ceiling.D()
	head := ls.ceiling.L().Position
	quiet := time.Duration(now-max(ls.touched, ls.out.Since)) >= 200*time.Millisecond
	if known && a.Position >= head || d >= head && quiet {
		ls.sealed = true
		ls.changed()
	}
}

func (ls *libStream) onGrant(m *mGrant) {
	t := m.t
	now := ls.now()
	switch t.role {
	case roleFenced:
		if t.epoch < ls.ours || t.epoch <= ls.fencedBy {
			return
		}
		ls.fencedBy, ls.held, ls.lost = t.epoch, false, false
		ls.deactivate()
	case roleIdle:
		ls.held, ls.lost, ls.obeyed, ls.terms = false, false, 0, told{}
		if ls.ceiling != nil {
			ls.ceiling.Hold(now)
		}
	case roleActive:
		if t.epoch < ls.fencedBy || t.epoch < ls.ours {
			return
		}
		ls.fencedBy, ls.ours = 0, t.epoch
		if t.epoch != ls.epoch {
			ls.epoch, ls.openGoes, ls.terms = t.epoch, false, told{}
			if ls.ceiling != nil {
				ls.ceiling.Hold(now)
			}
		}
		ls.held, ls.lost = true, false
		if ls.ceiling != nil {
			ls.apply(now, m)
			ls.wake(now)
		}
	}
	ls.step(now)
	ls.changed()
}

// apply puts a grant in force. Its bounds hold before anything is asked of them.
func (ls *libStream) apply(now tidegate.Instant, m *mGrant) {
	t := m.t
	if d, _ := ls.ceiling.D(); t.d < d && t.epoch != ls.dEpoch {
		// A new epoch that begins below the old D has lost something.
		ls.ceiling, ls.marked, ls.drains = rpo.NewCeiling(markOf(ls.j.at(ls.j.synced))), ls.j.synced, rpo.DrainRate{}
	}
	ls.ceiling.Durable(t.d)
	ls.dEpoch = t.epoch
	ls.terms = t
	ls.ceiling.SetBounds(t.bounds)
	until := t.until
	if mutate.Broken(mutate.LeaseBootClock) {
		until += tidegate.Instant(ls.l.m.clock.slept) // as if counted by a clock that stops in a suspend
	}
	ls.ceiling.SetLease(t.lease, until)
	ls.ceiling.Resume()
	ls.openGoes = t.record == machine.RecordArmed && t.bounds == unbounded
	ls.step(now)
	ls.obeyed = m.number
}

func (ls *libStream) agentLost() {
	now := ls.now()
	ls.lost = (ls.held || ls.lost) && ls.ceiling != nil
	ls.held, ls.obeyed = false, 0
	if !ls.lost {
		ls.terms = told{}
		if ls.ceiling != nil {
			ls.ceiling.Hold(now)
		}
	}
	ls.step(now)
}

// changed makes a report due; several changes make one report.
func (ls *libStream) changed() {
	if ls.dirty {
		return
	}
	ls.dirty = true
	ls.l.after(time.Millisecond, func() {
		ls.dirty = false
		ls.report()
	})
}

func (ls *libStream) report() {
	if !ls.l.agent.up {
		return
	}
	m := &mProgress{
		stream: ls.i, activation: ls.activation, active: ls.active, l: ls.j.at(ls.j.synced).end, records: ls.j.at(ls.j.synced).n,
		want: ls.out.Want, state: ls.out.State, grant: ls.obeyed, drained: ls.sealed,
		branch: ls.j.branch(),
	}
	if ls.ceiling != nil {
		m.a, m.aKnown = ls.ceiling.A()
		m.exposure = ls.ceiling.Exposure(ls.now())
	}
	ls.l.send(&ls.l.agent.host, m)
}

var unbounded = tidegate.Bounds{Records: math.MaxInt64, Bytes: math.MaxInt64, Window: math.MaxInt64}
