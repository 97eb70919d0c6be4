package sim

import (
	"errors"
	"hash/fnv"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// entry is one sealed batch: its position is all there is to know.
type entry struct {
	pos    tidegate.LogPos
	parent tidegate.Chain
	holder tidegate.HolderID
}

// chainOf is the chain rule: a digest over the previous chain and the batch.
func chainOf(prev tidegate.Chain, epoch tidegate.Epoch, seq tidegate.Seq, holder tidegate.HolderID, content uint64) (c tidegate.Chain) {
	h := fnv.New128a()
	var b [24]byte
	for i := range 8 {
		b[i], b[8+i], b[16+i] = byte(epoch>>(8*i)), byte(seq>>(8*i)), byte(content>>(8*i))
	}
	_, _ = h.Write(prev[:])
	_, _ = h.Write(holder[:])
	_, _ = h.Write(b[:])
	h.Sum(c[:0])
	return c
}

// Messages of the data plane. Entries are shared, never changed.
type (
	mAttach struct {
		stream  int
		epoch   tidegate.Epoch
		holder  tidegate.HolderID
		members []fence.Member
		dial    int
	}
	mAttached struct {
		stream            int
		member            fence.Member
		received, durable tidegate.LogPos
		dial              int
	}
	mAppend struct {
		stream  int
		epoch   tidegate.Epoch
		holder  tidegate.HolderID
		prev    tidegate.LogPos
		entries []entry
		commit  tidegate.Seq
		dial    int // the writer's session that this comes from, at first or second hand
	}
	mNack struct { // cannot append here: not adopted, or a gap after end
		stream int
		node   tidegate.NodeName
		end    tidegate.LogPos
		fit    bool // the node would append after end
	}
	mRefused struct {
		stream  int
		promise fence.Promise
	}
	mAck struct {
		stream int
		ack    fence.Ack
	}
	mReadLog struct {
		stream   int
		from, to tidegate.Seq
		token    uint64
	}
	mLog struct {
		stream  int
		entries []entry
		token   uint64
	}
)

// standby is one node: its disk survives crashes, everything else does not.
type standby struct {
	host
	name    tidegate.NodeName
	inc     tidegate.Incarnation
	streams []*nodeStream
}

// nodeStream is the standby's shell of one stream.
type nodeStream struct {
	s  *standby
	i  int
	id tidegate.StreamID

	// disk
	log    []entry
	synced int
	meta   fence.NodeMeta
	lost   []entry // the log before the last wipe, for the oracle

	// memory
	n        *fence.Node
	cuts     int // log truncations of this life: a sync that began before one proves nothing
	syncing  bool
	upstream string // where acks go
	relay    relayRole
	ask      uint64 // outstanding AskChain or Fetch
	asked    fence.NodeEffect
	applied  tidegate.LogPos
}

// relayRole is the fan-out to the other members.
type relayRole struct {
	on      bool
	epoch   tidegate.Epoch
	holder  tidegate.HolderID
	writer  string
	dial    int
	commit  tidegate.Seq
	members []fence.Member
	cursor  []tidegate.LogPos
	known   []bool
}

func newStandby(w *world, name string) *standby {
	s := &standby{host: host{w: w, addr: "s." + name}, name: tidegate.NodeName(name), inc: w.id()}
	s.recv = s.receive
	w.net.add(&s.host)
	for i, id := range w.streams {
		ns := &nodeStream{s: s, i: i, id: id}
		ns.meta = fence.FormatMeta(id, fence.Member{Node: s.name, Incarnation: s.inc})
		s.streams = append(s.streams, ns)
	}
	return s
}

func (s *standby) start() {
	s.up = true
	s.gen++
	for _, ns := range s.streams {
		ns.start()
	}
	s.every(60*time.Millisecond, func() {
		for _, ns := range s.streams {
			ns.apply()
			ns.fanOut()
		}
	})
	s.every(80*time.Millisecond, func() { s.w.reg.watch(&s.host) })
}

func (h *host) every(d time.Duration, fn func()) {
	h.after(h.w.jitter(d), func() {
		fn()
		h.every(d, fn)
	})
}

// crash takes the node down. What was not synced may be lost, from the end.
func (s *standby) crash() {
	s.up = false
	s.gen++
	for _, ns := range s.streams {
		kept := ns.synced + s.w.rng.IntN(len(ns.log)-ns.synced+1)
		ns.log = ns.log[:kept:kept]
		ns.synced = kept
		ns.n, ns.syncing, ns.relay, ns.asked, ns.ask = nil, false, relayRole{}, nil, 0
		s.w.oracle.crashed(ns)
		s.w.oracle.syncedTo(ns) // what a power cut has left is on the disk
	}
	s.w.log(s.addr, "", "crash", "")
}

// wipe replaces the disk; damage keeps the promise and part of the log. Either
// way the node is another incarnation from now on.
func (s *standby) wipe(damage bool) {
	s.inc = s.w.id()
	for _, ns := range s.streams {
		ns.lost = ns.log
		if damage {
			ns.log = ns.log[: ns.synced/2 : ns.synced/2]
			ns.meta = ns.meta.Damaged(s.inc)
		} else {
			ns.log, ns.applied = nil, tidegate.LogPos{}
			ns.meta = fence.FormatMeta(ns.id, fence.Member{Node: s.name, Incarnation: s.inc})
		}
		ns.synced = len(ns.log)
		if ns.applied.Seq > tidegate.Seq(len(ns.log)) {
			ns.applied = ns.end()
		}
		s.w.oracle.wiped(ns, damage)
	}
	s.w.log(s.addr, "", "wipe", "damage=%v", damage)
}

func (ns *nodeStream) end() tidegate.LogPos { return ns.at(len(ns.log)) }

func (ns *nodeStream) at(n int) tidegate.LogPos {
	if n == 0 {
		return tidegate.LogPos{}
	}
	return ns.log[n-1].pos
}

var errNoBatch = errors.New("no such batch")

// At implements [fence.LogView].
func (ns *nodeStream) At(seq tidegate.Seq) (tidegate.LogPos, error) {
	if int(seq) > len(ns.log) {
		return tidegate.LogPos{}, errNoBatch
	}
	return ns.at(int(seq)), nil
}

func (ns *nodeStream) start() {
	var effects []fence.NodeEffect
	ns.n, effects = fence.NewNode(ns.meta, ns.end(), ns)
	ns.do(effects)
}

func (ns *nodeStream) step(ev fence.NodeEvent) {
	effects := ns.n.Step(ev)
	ns.s.w.oracle.promised(ns)
	ns.do(effects)
}

func (ns *nodeStream) do(effects []fence.NodeEffect) {
	s, w := ns.s, ns.s.w
	for _, e := range effects {
		switch e := e.(type) {
		case fence.Persist:
			s.after(w.jitter(2*time.Millisecond), func() {
				ns.meta = e.Meta
				if w.chance(0.02) && w.chaos && w.shape.crashes {
					w.oracle.persisted(ns)
					s.bounce() // between the write and its completion
					return
				}
				w.oracle.persisted(ns)
				ns.step(fence.Persisted{Token: e.Token})
			})
		case fence.Sync:
			n := len(ns.log)
			s.after(w.jitter(2*time.Millisecond), func() {
				ns.markSynced(n)
				ns.step(fence.Synced{Token: e.Token, End: ns.at(n)})
			})
		case fence.AskChain:
			ns.remote(e, e.Token, e.Source, mReadLog{ns.i, e.Seq, e.Seq, e.Token})
		case fence.Fetch:
			ns.remote(e, e.Token, e.Source, mReadLog{ns.i, e.From.Seq + 1, e.To.Seq, e.Token})
		case fence.CancelFetch:
			if ns.ask == e.Token {
				ns.failRemote(errors.New("cancelled"))
			}
		case fence.Cut:
			s.after(w.jitter(2*time.Millisecond), func() {
				ns.cut(e)
				ns.step(fence.CutDone{Token: e.Token, End: ns.end()})
			})
		case fence.ReplyFence:
			w.oracle.repliedFence(ns, e.Reply)
			w.replyTo(&s.host, e.Call, mFenceReply{e.Reply})
		case fence.ReplyAdopt:
			w.oracle.repliedAdopt(ns, e.Reply)
			w.replyTo(&s.host, e.Call, mAdoptReply{e.Reply})
		case fence.ReplyPromote:
			ns.apply()
			w.replyTo(&s.host, e.Call, mPromoteReply{ns.id, e.Reply, ns.applied.Seq})
		case fence.DropSessions:
			ns.relay = relayRole{}
		}
	}
}

// bounce crashes the node and brings it back soon.
func (s *standby) bounce() {
	s.crash()
	s.w.res.Crashes++
	s.w.after(s.w.jitter(300*time.Millisecond), func() {
		if !s.up {
			s.start()
		}
	})
}

func (ns *nodeStream) markSynced(n int) {
	if n > ns.synced && n <= len(ns.log) {
		ns.synced = n
	}
	ns.s.w.oracle.syncedTo(ns)
}

func (ns *nodeStream) cut(e fence.Cut) {
	ns.s.w.oracle.cut(ns, e)
	ns.log = ns.log[:e.To.Seq:e.To.Seq]
	ns.synced = min(ns.synced, len(ns.log))
	ns.cuts++
}

// --- reading other nodes' logs ---

func (ns *nodeStream) remote(e fence.NodeEffect, token uint64, source tidegate.NodeName, msg mReadLog) {
	ns.ask, ns.asked = token, e
	ns.s.send("s."+string(source), msg)
	ns.s.after(400*time.Millisecond, func() {
		if ns.ask == token {
			ns.failRemote(errors.New("timed out"))
		}
	})
}

func (ns *nodeStream) failRemote(err error) {
	token, e := ns.ask, ns.asked
	ns.ask, ns.asked = 0, nil
	if _, ok := e.(fence.AskChain); ok {
		ns.step(fence.ChainRead{Token: token, Err: err})
		return
	}
	ns.step(fence.Fetched{Token: token, End: ns.end(), Err: err})
}

func (ns *nodeStream) onLog(m mLog) {
	if m.token != ns.ask || ns.asked == nil {
		return
	}
	e := ns.asked
	ns.ask, ns.asked = 0, nil
	if _, ok := e.(fence.AskChain); ok {
		if len(m.entries) == 0 {
			ns.step(fence.ChainRead{Token: m.token, Err: errNoBatch})
			return
		}
		ns.step(fence.ChainRead{Token: m.token, Pos: m.entries[0].pos})
		return
	}
	for _, x := range m.entries {
		if x.pos.Seq != ns.end().Seq+1 || x.parent != ns.end().Chain {
			break // the log's own check: contiguous and chained
		}
		ns.append(x)
	}
	var err error
	if ns.end().Seq != e.(fence.Fetch).To.Seq {
		err = errNoBatch
	}
	ns.step(fence.Fetched{Token: m.token, End: ns.end(), Err: err})
}

func (ns *nodeStream) append(x entry) {
	ns.log = append(ns.log, x)
	ns.s.w.oracle.appended(ns, x)
}

// --- messages ---

func (s *standby) receive(from string, msg any) {
	switch m := msg.(type) {
	case mFence:
		call := s.w.call(from, m.plan)
		s.streams[s.w.short(m.req.Stream)].step(fence.FenceAsked{Call: call, Req: m.req})
	case mAdopt:
		call := s.w.call(from, m.plan)
		s.streams[s.w.short(m.req.Stream)].step(fence.AdoptAsked{Call: call, Req: m.req})
	case mPromote:
		call := s.w.call(from, m.plan)
		s.streams[s.w.short(m.req.Stream)].step(fence.PromoteAsked{Call: call, Req: m.req})
	case mDescribe:
		ns := s.streams[m.stream]
		s.send(from, mDescribed{m.stream, s.name, ns.n.Adopted().Epoch})
	case mWatched:
		if m.gen != s.gen {
			return
		}
		for i, k := range m.keys {
			s.streams[i].step(fence.RecordRead{Record: k.Record, Fresh: true})
		}
	case mAttach:
		s.streams[m.stream].attach(from, m)
	case mAppend:
		s.streams[m.stream].onAppend(from, m)
	case mNack:
		s.streams[m.stream].onNack(m)
	case mAck:
		s.streams[m.stream].onAck(m)
	case mReadLog:
		ns := s.streams[m.stream]
		out := mLog{stream: m.stream, token: m.token}
		if int(m.to) <= len(ns.log) && m.from >= 1 && m.from <= m.to {
			out.entries = ns.log[m.from-1 : m.to : m.to]
		}
		s.send(from, out)
	case mLog:
		s.streams[m.stream].onLog(m)
	}
}

func (ns *nodeStream) refuse(to string, err error) {
	if errors.Is(err, tidegate.ErrFenced) {
		ns.s.send(to, mRefused{ns.i, ns.n.Promise()})
		return
	}
	ns.s.send(to, mNack{stream: ns.i, node: ns.s.name, end: ns.end()})
}

func (ns *nodeStream) attach(from string, m mAttach) {
	if err := ns.n.CheckAppend(m.epoch, m.holder, m.epoch); err != nil {
		ns.refuse(from, err)
		return
	}
	ns.upstream = from
	ns.relay = relayRole{on: true, epoch: m.epoch, holder: m.holder, writer: from, dial: m.dial}
	for _, x := range m.members {
		if x.Node != ns.s.name {
			ns.relay.members = append(ns.relay.members, x)
		}
	}
	ns.relay.cursor = make([]tidegate.LogPos, len(ns.relay.members))
	ns.relay.known = make([]bool, len(ns.relay.members))
	meta := ns.n.Meta()
	ns.s.send(from, mAttached{ns.i, meta.Member(), ns.end(), ns.n.DurablePos(), m.dial})
	ns.sendAck()
}

func (ns *nodeStream) onAppend(from string, m mAppend) {
	sealed := m.epoch
	if len(m.entries) > 0 {
		sealed = m.entries[0].pos.Epoch
	}
	if err := ns.n.CheckAppend(m.epoch, m.holder, sealed); err != nil {
		ns.refuse(from, err)
		return
	}
	if ns.relay.on && m.dial > ns.relay.dial {
		ns.relay = relayRole{} // the writer has chosen another one
	}
	ns.upstream = from
	at, err := ns.At(m.prev.Seq)
	if err != nil || at.Chain != m.prev.Chain {
		ns.s.send(from, mNack{ns.i, ns.s.name, ns.end(), true})
		return
	}
	had := len(ns.log)
	for _, x := range m.entries {
		if have, err := ns.At(x.pos.Seq); err == nil {
			if have.Chain != x.pos.Chain {
				ns.s.send(from, mNack{ns.i, ns.s.name, ns.end(), true})
				return
			}
			continue
		}
		ns.s.w.oracle.accepts(ns, m.epoch, m.holder, x)
		ns.append(x)
	}
	ns.n.Received(ns.end())
	ns.n.Commit(m.epoch, m.holder, m.commit)
	if ns.relay.on {
		ns.relay.commit = max(ns.relay.commit, m.commit)
	}
	ns.sendAck()
	ns.kickSync()
	if len(ns.log) > had {
		ns.fanOut()
	}
}

// kickSync is the group fsync: one at a time, covering what was there when it began.
func (ns *nodeStream) kickSync() {
	if ns.syncing || ns.synced == len(ns.log) {
		return
	}
	ns.syncing = true
	n, end, cuts := len(ns.log), ns.end(), ns.cuts
	ns.s.after(ns.s.w.jitter(3*time.Millisecond), func() {
		ns.syncing = false
		if cuts == ns.cuts {
			ns.markSynced(n)
		}
		// A report that a cut has overtaken is made all the same: the core must see through it.
		if ack, ok := ns.n.Durable(end); ok {
			ns.emit(ack)
		}
		ns.kickSync()
	})
}

func (ns *nodeStream) sendAck() {
	if ack, ok := ns.n.Ack(); ok {
		ns.emit(ack)
	}
}

func (ns *nodeStream) emit(ack fence.Ack) {
	ns.s.w.oracle.acked(ns, ack)
	if ns.upstream != "" {
		ns.s.send(ns.upstream, mAck{ns.i, ack})
	}
}

// --- the relay ---

func (ns *nodeStream) onAck(m mAck) {
	r := &ns.relay
	if !r.on {
		return
	}
	for i, x := range r.members {
		if x.Node == m.ack.Node {
			if at, err := ns.At(m.ack.Received); err == nil && m.ack.Epoch == r.epoch {
				r.cursor[i], r.known[i] = at, true
			}
		}
	}
	ns.s.send(r.writer, m) // unchanged
}

func (ns *nodeStream) onNack(m mNack) {
	r := &ns.relay
	for i, x := range r.members {
		if x.Node == m.node && m.fit {
			if at, err := ns.At(m.end.Seq); err == nil && at.Chain == m.end.Chain {
				r.cursor[i], r.known[i] = at, true
			}
		}
	}
}

func (ns *nodeStream) fanOut() {
	r := &ns.relay
	if !r.on || ns.n.CheckAppend(r.epoch, r.holder, r.epoch) != nil {
		return
	}
	for i, x := range r.members {
		msg := mAppend{stream: ns.i, epoch: r.epoch, holder: r.holder, prev: ns.end(), commit: r.commit, dial: r.dial}
		if r.known[i] {
			from := int(r.cursor[i].Seq)
			to := min(len(ns.log), from+16)
			msg.prev, msg.entries = r.cursor[i], ns.log[from:to:to]
			r.cursor[i] = ns.at(to)
		}
		ns.s.send("s."+string(x.Node), msg)
	}
}

// apply moves the warm copy up to what the core allows.
func (ns *nodeStream) apply() {
	if ns.n == nil {
		return
	}
	if to := ns.n.ApplyTo(); to > ns.applied.Seq {
		ns.applied = ns.at(int(to))
		ns.s.w.oracle.applied(ns)
	}
}
