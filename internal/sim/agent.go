package sim

import (
	"errors"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/machine"
)

// agent seals and ships where it holds a stream. It keeps nothing on disk: a
// restart is another holder.
type agent struct {
	host
	self    fence.Holder
	watch   watcher
	lib     *library
	asked   tidegate.Instant // for an epoch, last
	streams []*agentStream
}

type agentStream struct {
	a     *agent
	i     int
	known known
	prog  *mProgress // of the library that is connected; nil: none heard

	spent   tidegate.Epoch // newest epoch this process has written under
	spentBy uint64         // activation that it was written for
	fenced  bool           // was writer, and is over

	w        *fence.Writer
	revision int64
	proven   bool
	ring     []*entry // (D, end]
	base     *entry   // before the ring
	dial     int
	relay    *standby
	sent     tidegate.Seq
	stalled  int
	heard    tidegate.Seq // relay's received
	seenAt   tidegate.Seq
	opened   bool // the term's first batch is sealed

	told    told
	grant   uint64 // number of the last one given
	pending bool   // a record change is under way
	claimed claim
	lease   leases
	hand    handing
}

// told is what the library was told last: each different grant has its number.
type told struct {
	role   role
	epoch  tidegate.Epoch
	d      tidegate.Position
	bounds tidegate.Bounds
	record machine.Record
	wish   wish
	brake  bool
	lease  bool
	until  tidegate.Instant
	drain  bool
	over   bool // handed over
}

type role uint8

const (
	roleIdle role = iota
	roleActive
	roleFenced
)

// Messages between agents and gates.
type (
	mAcquire struct {
		holder   fence.Holder
		branches []tidegate.Epoch // of the service's journals
	}
	mGranted struct { // answers what an agent asked a gate for
		stream   int
		ok       bool
		rec      *fence.EpochRecord
		revision int64
		agent    tidegate.HolderID
	}
)

func newAgent(w *world, m *computer) *agent {
	a := &agent{}
	a.host = m.newHost("a."+string(m.name), a.receive)
	w.net.add(&a.host)
	return a
}

func (a *agent) start() {
	a.begin()
	a.self = fence.Holder{Node: a.m.name, Site: a.m.site, UUID: a.w.id()}
	a.streams = nil
	for i := range a.w.streams {
		a.streams = append(a.streams, &agentStream{a: a, i: i})
	}
	a.watch.start(&a.host, a.onView)
	a.every(80*time.Millisecond, func() {
		for _, as := range a.streams {
			as.nurse()
		}
		a.maybeAcquire()
	})
	a.speak()
	if a.lib.up {
		a.send(&a.lib.host, &mHello{})
	}
}

func (a *agent) stop() {
	a.end()
	if a.lib.up {
		a.send(&a.lib.host, &mGone{})
	}
}

// restart is an upgrade, or a crash with a quick recovery.
func (a *agent) restart() {
	a.w.res.Crashes++
	a.w.log(a.addr, "", "restart", "")
	a.stop()
	a.start()
}

func (a *agent) anyGate() *host { return &a.w.gates[a.w.rng.IntN(len(a.w.gates))].host }

func (a *agent) onView(v *view, _ bool) {
	for i, as := range a.streams {
		as.known.show(v, i, func(rec *fence.EpochRecord) bool { return as.mine(rec) && rec.Epoch > as.spent })
		as.look()
	}
}

// look takes up what the newest record says.
func (as *agentStream) look() {
	rec := as.known.rec
	if rec == nil {
		return
	}
	if as.w != nil && !as.known.sighting().Older(&fence.Sighting{Record: as.w.Record(), Revision: as.revision}) {
		as.revision = as.known.revision
		as.do(as.w.OnRecord(*rec))
		as.onDurable()
	}
	if as.mine(rec) && rec.Epoch > as.spent && as.prog != nil && as.prog.active && !as.writing() {
		as.beginTerm(rec)
	}
	as.tell()
	as.settle()
}

func (as *agentStream) mine(rec *fence.EpochRecord) bool {
	return rec.State == fence.StateActive && rec.Holder == as.a.self
}

func (as *agentStream) beginTerm(rec *fence.EpochRecord) {
	w, err := fence.NewWriter(as.a.self, *rec)
	if err != nil {
		panic(err)
	}
	as.w, as.revision = w, as.known.revision
	as.spent, as.spentBy, as.fenced = rec.Epoch, as.prog.activation, false
	as.proven, as.opened, as.ring, as.base = false, false, nil, nil
	as.lease, as.hand, as.claimed = leases{}, handing{}, claim{}
	as.a.w.log(as.a.addr, "", "writer", "stream %d epoch %s from %s", as.i, rec.Epoch, rec.Head)
	as.do(w.Start())
}

// maybeAcquire asks a gate for every stream, when the service is active here and
// another holds one: what the source's own consensus has decided, or a restart.
func (a *agent) maybeAcquire() {
	due := false
	for _, as := range a.streams {
		rec := as.known.rec
		switch {
		case rec == nil || as.prog == nil || !as.prog.active:
			return
		case as.writing() || as.mine(rec) && rec.Epoch > as.spent:
			continue
		case rec.State == fence.StateActive && rec.Holder.Site != a.m.site,
			rec.ActiveEpoch > 0 && rec.Active.Site != a.m.site:
			return
		case as.spent > 0 && as.prog.activation == as.spentBy && rec.Holder.Node != "":
			return // one activation, one term
		}
		due = true
	}
	if !due || a.asked > 0 && time.Duration(a.m.boot()-a.asked) < 600*time.Millisecond {
		return
	}
	a.asked = a.m.boot()
	a.w.log(a.addr, "", "acquire", "%s", a.self)
	m := &mAcquire{holder: a.self}
	// As heard with the activity: what an agent reads when it wakes may be of long ago.
	for _, as := range a.streams {
		m.branches = append(m.branches, as.prog.branch)
	}
	a.send(a.anyGate(), m)
}

func (a *agent) receive(from *host, msg any) {
	switch m := msg.(type) {
	case *mView:
		a.watch.got(from, m)
	case *mProgress:
		as := a.streams[m.stream]
		as.onProgress(m)
	case *mGone:
		for _, as := range a.streams {
			as.prog = nil
		}
	case *mAttached:
		a.streams[m.stream].onAttached(from, m)
	case *mAck:
		as := a.streams[m.stream]
		if as.w == nil {
			return
		}
		if as.relay != nil && m.ack.Node == as.relay.name {
			as.heard = max(as.heard, m.ack.Received)
		}
		as.do(as.w.OnAck(m.ack))
		if r := as.known.rec; r != nil && r.Target.Node == m.ack.Node {
			as.hand.applied, as.hand.state = m.ack.Applied, m.state
		}
		as.onDurable()
		as.handOver()
	case *mNack:
		as := a.streams[m.stream]
		if as.w != nil && as.relay != nil && from == &as.relay.host && m.fit {
			as.sent, as.heard = m.end.Seq, m.end.Seq
		}
	case *mRefused:
		if as := a.streams[m.stream]; as.w != nil {
			as.do(as.w.OnRefused(m.promise))
			as.tell()
		}
	case *mGranted:
		if m.agent != a.self.UUID {
			return
		}
		as := a.streams[m.stream]
		as.pending = false
		if granted := (known{rec: m.rec, revision: m.revision}); m.ok && !granted.sighting().Older(as.known.sighting()) {
			as.known.rec, as.known.revision = m.rec, m.revision
			as.look()
		}
	default:
		a.leaseMessage(from, msg)
	}
}

func (as *agentStream) onProgress(m *mProgress) {
	first := as.prog == nil || as.prog.activation != m.activation
	as.prog = m
	if first {
		as.look()
	}
	as.seal()
	as.settle()
	as.handOver()
}

func (as *agentStream) writing() bool {
	if as.w == nil {
		return false
	}
	_, fenced := as.w.Fenced()
	return !fenced
}

// onAttached takes up the relay's session. The first one of a term proves that
// the service's journal continues the log: the content at the head is the same.
func (as *agentStream) onAttached(from *host, m *mAttached) {
	if !as.writing() || as.dial != m.dial {
		return
	}
	if !as.proven && !as.prove(m.head) {
		return
	}
	as.relay, as.stalled = as.a.w.standbyOn(m.member.Node), 0
	as.do(as.w.RelayUp(m.member, m.received, m.durable))
	as.seal()
	as.tell()
}

// prove reports whether the journal beside the agent has what the log holds.
func (as *agentStream) prove(head *entry) bool {
	if head == nil || head.pos != as.w.Record().Head {
		return false
	}
	j := as.a.lib.streams[as.i].j
	n, exact := j.index(head.next)
	if !exact || j.at(n).cum != head.cum || j.synced < n {
		as.a.w.log(as.a.addr, "", "unproven", "stream %d head %s", as.i, head.pos)
		return false
	}
	as.proven, as.base, as.ring = true, head, nil
	return true
}

// seal captures what the library has made durable.
func (as *agentStream) seal() {
	if !as.writing() || !as.proven || as.prog == nil {
		return
	}
	if as.hand.last != nil {
		as.ship() // the last batch of the epoch is sealed, until the switchover is called off
		return
	}
	w := as.a.w
	for more := true; more && as.w.End().Seq-as.w.Durable() < tidegate.Seq(w.shape.flight); {
		last := as.last()
		j := as.a.lib.streams[as.i].j
		from, _ := j.index(last.next)
		to, _ := j.index(as.prog.l)
		to = min(to, j.synced, from+w.shape.batch)
		switch {
		case to > from:
			more = as.sealed(last.seal(entData, as.w.Epoch(), as.a.self.UUID, j.recs[from:to:to], w.rng.Uint64()))
		case !as.opened:
			more = as.sealed(last.seal(entHeartbeat, as.w.Epoch(), as.a.self.UUID, nil, w.rng.Uint64()))
		default:
			as.ship()
			return
		}
	}
	as.ship()
}

func (as *agentStream) last() *entry {
	if n := len(as.ring); n > 0 {
		return as.ring[n-1]
	}
	return as.base
}

// sealed hands a batch to the core; false when the epoch was handed over already.
func (as *agentStream) sealed(e *entry) bool {
	if err := as.w.Sealed(e.pos); err != nil {
		if !errors.Is(err, tidegate.ErrFenced) {
			panic(err)
		}
		return false
	}
	as.opened = true
	as.a.w.oracle.sealed(as, e)
	as.ring = append(as.ring, e)
	return true
}

// ship sends what the relay has not been sent.
func (as *agentStream) ship() {
	if _, up := as.w.Relay(); !up || !as.writing() || as.relay == nil {
		return
	}
	prev := as.at(as.sent)
	if prev == nil || as.sent >= as.w.End().Seq {
		return
	}
	as.sendRelay(prev)
}

func (as *agentStream) sendRelay(prev *entry) {
	msg := &mAppend{
		stream: as.i, epoch: as.w.Epoch(), holder: as.a.self.UUID, prev: prev.pos,
		commit: as.w.Durable(), beacon: as.beacon(), dial: as.dial,
	}
	if i := int(prev.pos.Seq) - int(as.base.pos.Seq); i < len(as.ring) {
		to := min(len(as.ring), i+batchMax)
		msg.entries = as.ring[i:to:to]
		as.sent = msg.entries[to-i-1].pos.Seq
	}
	as.a.send(&as.relay.host, msg)
}

func (as *agentStream) beacon() beacon {
	if as.prog == nil || !as.prog.aKnown {
		return beacon{}
	}
	return beacon{known: true, released: as.prog.a.Records, head: as.prog.records, durable: as.base.records}
}

// at returns the entry of seq while it is in the ring, or just before it.
func (as *agentStream) at(seq tidegate.Seq) *entry {
	if as.base == nil {
		return nil
	}
	if seq == as.base.pos.Seq {
		return as.base
	}
	if i := int(seq) - int(as.base.pos.Seq) - 1; i >= 0 && i < len(as.ring) {
		return as.ring[i]
	}
	return nil
}

// nurse resends what seems lost, gives up a relay that makes no progress, and
// asks for what is due at the gate.
func (as *agentStream) nurse() {
	as.pending = false
	as.tell()
	if !as.writing() {
		return
	}
	as.seal()
	as.settle()
	as.renew()
	node, up := as.w.Relay()
	if !up || as.relay == nil {
		return
	}
	if as.w.End().Seq > as.w.Durable() && as.seenAt == as.w.Durable() {
		as.stalled++
	} else {
		as.stalled = 0
	}
	as.seenAt = as.w.Durable()
	if as.stalled > 6 {
		as.stalled = 0
		as.do(as.w.RelayDown(node, nil))
		return
	}
	if as.stalled > 1 && as.at(as.heard) != nil {
		as.sent = min(as.sent, as.heard)
	}
	if prev := as.at(as.sent); prev != nil {
		as.sendRelay(prev) // empty, too: commits and beacons go on
	}
}

// onDurable takes up D: the library may release, and the ring lets go.
func (as *agentStream) onDurable() {
	if !as.writing() || !as.proven {
		return
	}
	d := as.w.Durable()
	as.a.w.oracle.durable(as, d)
	moved := false
	for len(as.ring) > 0 && as.ring[0].pos.Seq < as.w.Floor() {
		as.a.w.oracle.release(as, as.ring[0])
		as.base, moved = as.ring[0], true
		as.ring = as.ring[1:]
	}
	as.w.Retained(as.base.pos.Seq + 1)
	if moved {
		as.tell()
		as.seal()
		as.settle()
		as.handOver()
	}
}

func (as *agentStream) do(effects []fence.WriterEffect) {
	for _, e := range effects {
		switch e := e.(type) {
		case fence.DialRelay:
			as.dialRelay(e.Node)
		case fence.ShipFrom:
			as.sent, as.heard = e.Seq-1, e.Seq-1
			as.ship()
		case fence.SteppedDown:
			as.fenced = true
			as.a.w.log(as.a.addr, "", "stepdown", "stream %d epoch %s by %s", as.i, as.w.Epoch(), e.By)
		case fence.Distrusted:
			as.a.w.oracle.distrusted(as, e)
		case fence.CaughtUp:
			as.a.w.log(as.a.addr, "", "caughtup", "stream %d %s", as.i, e.Member)
		}
	}
}

func (as *agentStream) dialRelay(node tidegate.NodeName) {
	as.dial++
	dial := as.dial
	as.relay = nil
	as.a.after(as.a.w.jitter(20*time.Millisecond), func() {
		s := as.a.w.standbyOn(node)
		if !as.writing() || dial != as.dial || s == nil {
			return
		}
		rec := as.w.Record()
		as.a.send(&s.host, &mAttach{as.i, as.w.Epoch(), as.a.self.UUID, as.fanTo(&rec), rec.Head.Seq, dial})
		as.a.after(200*time.Millisecond, func() {
			if r, up := as.w.Relay(); as.writing() && dial == as.dial && r == node && !up {
				as.do(as.w.RelayDown(node, nil))
			}
		})
	})
}

// fanTo lists whom the relay feeds: the members, and every configured node that
// follows and counts for nothing.
func (as *agentStream) fanTo(rec *fence.EpochRecord) []fence.Member {
	ms := rec.Config.Members
	for _, s := range as.a.w.standbys {
		if rec.Config.Index(s.name) < 0 {
			ms = append(ms[:len(ms):len(ms)], s.member())
		}
	}
	return ms
}
