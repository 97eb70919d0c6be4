package sim

import (
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// agent seals and ships where it holds a stream. It keeps nothing on disk: a
// restart is another holder.
type agent struct {
	host
	name    tidegate.NodeName
	site    tidegate.SiteName
	self    fence.Holder
	streams []*agentStream
}

type agentStream struct {
	a        *agent
	i        int
	w        *fence.Writer
	ring     []entry // (D, end], and the batch at D before them when there is one
	base     tidegate.LogPos
	dial     int
	relay    string
	sent     tidegate.Seq
	stalled  int
	heard    tidegate.Seq // relay's received
	seenAt   tidegate.Seq
	released tidegate.Seq
}

type mAcquire struct{ holder fence.Holder }

func newAgent(w *world, name, site string) *agent {
	a := &agent{host: host{w: w, addr: "a." + name}, name: tidegate.NodeName(name), site: tidegate.SiteName(site)}
	a.recv = a.receive
	w.net.add(&a.host)
	return a
}

func (a *agent) start() {
	a.up = true
	a.gen++
	a.self = fence.Holder{Node: a.name, Site: a.site, UUID: a.w.id()}
	a.streams = nil
	for i := range a.w.streams {
		a.streams = append(a.streams, &agentStream{a: a, i: i})
	}
	a.every(70*time.Millisecond, func() { a.w.reg.watch(&a.host) })
	a.every(a.w.shape.pace, func() {
		for _, as := range a.streams {
			as.seal()
		}
	})
	a.every(60*time.Millisecond, func() {
		for _, as := range a.streams {
			as.nurse()
		}
	})
}

func (a *agent) stop() {
	a.up = false
	a.gen++
}

// acquire asks a gate for every stream: this agent's service is the active one.
func (a *agent) acquire() {
	g := a.w.gates[a.w.rng.IntN(len(a.w.gates))]
	a.w.log(a.addr, g.addr, "acquire", "%s", a.self)
	a.send(g.addr, mAcquire{a.self})
}

func (a *agent) receive(from string, msg any) {
	switch m := msg.(type) {
	case mWatched:
		if m.gen == a.gen {
			for i, k := range m.keys {
				a.streams[i].onRecord(k.Record)
			}
		}
	case mAttached:
		as := a.streams[m.stream]
		if as.w != nil && as.dial == m.dial {
			as.relay, as.stalled = from, 0
			as.do(as.w.RelayUp(m.member, m.received, m.durable))
		}
	case mAck:
		as := a.streams[m.stream]
		if as.w == nil {
			return
		}
		if "s."+string(m.ack.Node) == as.relay {
			as.heard = max(as.heard, m.ack.Received)
		}
		as.do(as.w.OnAck(m.ack))
		as.release()
	case mNack:
		if as := a.streams[m.stream]; as.w != nil && from == as.relay && m.fit {
			as.sent = m.end.Seq
		}
	case mRefused:
		if as := a.streams[m.stream]; as.w != nil {
			as.do(as.w.OnRefused(m.promise))
		}
	}
}

func (as *agentStream) onRecord(rec fence.EpochRecord) {
	// The same run of an agent may be given the stream again, under a later epoch.
	again := rec.State == fence.StateActive && rec.Holder == as.a.self && (as.w == nil || rec.Epoch > as.w.Epoch())
	if as.w != nil && !again {
		as.do(as.w.OnRecord(rec))
		as.release()
		return
	}
	if !again {
		return
	}
	w, err := fence.NewWriter(as.a.self, rec)
	if err != nil {
		panic(err)
	}
	as.w, as.base, as.ring = w, rec.Head, nil
	as.released = rec.Head.Seq
	as.a.w.log(as.a.addr, "", "writer", "stream %d epoch %s from %s", as.i, rec.Epoch, rec.Head)
	as.do(w.Start())
}

func (as *agentStream) writing() bool {
	if as.w == nil {
		return false
	}
	_, fenced := as.w.Fenced()
	return !fenced
}

func (as *agentStream) seal() {
	if !as.writing() || as.w.End().Seq-as.w.Durable() >= tidegate.Seq(as.a.w.shape.flight) {
		return
	}
	prev := as.w.End()
	e := entry{parent: prev.Chain, holder: as.a.self.UUID}
	e.pos = tidegate.LogPos{Epoch: as.w.Epoch(), Seq: prev.Seq + 1}
	e.pos.Chain = chainOf(prev.Chain, e.pos.Epoch, e.pos.Seq, e.holder, as.a.w.rng.Uint64())
	as.a.w.oracle.sealed(as.i, e)
	if err := as.w.Sealed(e.pos); err != nil {
		panic(err)
	}
	as.ring = append(as.ring, e)
	as.ship()
}

// ship sends what the relay has not been sent.
func (as *agentStream) ship() {
	if _, up := as.w.Relay(); !up || !as.writing() {
		return
	}
	prev, ok := as.at(as.sent)
	if !ok {
		return
	}
	msg := mAppend{stream: as.i, epoch: as.w.Epoch(), holder: as.a.self.UUID, prev: prev, commit: as.w.Durable(), dial: as.dial}
	for _, e := range as.ring {
		if e.pos.Seq > as.sent && len(msg.entries) < 16 {
			msg.entries = append(msg.entries, e)
		}
	}
	if n := len(msg.entries); n > 0 {
		as.sent = msg.entries[n-1].pos.Seq
	}
	as.a.send(as.relay, msg)
}

func (as *agentStream) at(seq tidegate.Seq) (tidegate.LogPos, bool) {
	if seq == as.base.Seq {
		return as.base, true
	}
	if i := int(seq) - int(as.base.Seq) - 1; i >= 0 && i < len(as.ring) {
		return as.ring[i].pos, true
	}
	return tidegate.LogPos{}, false
}

// nurse resends what seems lost, gives up a relay that makes no progress, and
// asks for limbo exits that are due.
func (as *agentStream) nurse() {
	if !as.writing() {
		return
	}
	for _, m := range as.w.CaughtUp() {
		as.a.send("etcd", mExitLimbo{as.i, fence.Promise{Epoch: as.w.Epoch(), Holder: as.a.self.UUID}, m})
	}
	node, up := as.w.Relay()
	if !up {
		return
	}
	if as.w.End().Seq > as.w.Durable() && as.seenAt == as.w.Durable() {
		as.stalled++
	} else {
		as.stalled = 0
	}
	as.seenAt = as.w.Durable()
	if as.stalled > 8 {
		as.stalled = 0
		as.do(as.w.RelayDown(node, nil))
		return
	}
	if _, ok := as.at(as.heard); ok {
		as.sent = min(as.sent, as.heard)
	}
	as.ship()
}

// release lets go what is durable, and drops it from the ring.
func (as *agentStream) release() {
	if !as.writing() {
		return
	}
	d := as.w.Durable()
	as.a.w.oracle.durable(as, d)
	for len(as.ring) > 0 && as.ring[0].pos.Seq < as.w.Floor() {
		as.released = as.ring[0].pos.Seq
		as.a.w.oracle.release(as, as.ring[0])
		as.base = as.ring[0].pos
		as.ring = as.ring[1:]
	}
	as.w.Retained(as.base.Seq + 1)
}

func (as *agentStream) do(effects []fence.WriterEffect) {
	for _, e := range append([]fence.WriterEffect(nil), effects...) {
		switch e := e.(type) {
		case fence.DialRelay:
			as.dialRelay(e.Node)
		case fence.ShipFrom:
			as.sent, as.heard = e.Seq-1, e.Seq-1
			as.ship()
		case fence.SteppedDown:
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
	as.relay = ""
	as.a.after(as.a.w.jitter(20*time.Millisecond), func() {
		if !as.writing() || dial != as.dial {
			return
		}
		as.a.send("s."+string(node), mAttach{as.i, as.w.Epoch(), as.a.self.UUID, as.w.Record().Config.Members, dial})
		as.a.after(150*time.Millisecond, func() {
			if r, up := as.w.Relay(); as.writing() && dial == as.dial && r == node && !up {
				as.do(as.w.RelayDown(node, nil))
			}
		})
	})
}
