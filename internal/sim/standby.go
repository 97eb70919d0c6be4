package sim

import (
	"errors"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/mutate"
)

// Messages of the data plane. Entries are shared, never changed.
type (
	mAttach struct {
		stream  int
		epoch   tidegate.Epoch
		holder  tidegate.HolderID
		members []fence.Member
		head    tidegate.Seq // of the epoch: what lies there is asked for, to prove one's own journal by
		dial    int
	}
	mAttached struct {
		stream            int
		member            fence.Member
		received, durable tidegate.LogPos
		head              *entry
		dial              int
	}
	mAppend struct {
		stream  int
		epoch   tidegate.Epoch
		holder  tidegate.HolderID
		prev    tidegate.LogPos
		entries []*entry
		commit  tidegate.Seq
		beacon  beacon
		dial    int // the writer's session that this comes from, at first or second hand
	}
	mNack struct { // cannot append here: not adopted, no room, or a gap after end
		stream int
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
		state  uint64 // of the warm service, at ack.Applied
	}
	mReadLog struct {
		stream   int
		from, to tidegate.Seq
		token    uint64
	}
	mLog struct {
		stream  int
		entries []*entry
		token   uint64
	}
)

// beacon is what the writer says of its releases, with its batches.
type beacon struct {
	known    bool
	released int64 // records of the journal through A
	head     int64 // through L
	durable  int64 // through D
}

// standby is one node: its disk survives crashes, everything else does not.
type standby struct {
	host
	i       int
	name    tidegate.NodeName
	inc     tidegate.Incarnation
	watch   watcher
	streams []*nodeStream
}

// nodeStream is the standby's shell of one stream.
type nodeStream struct {
	s  *standby
	i  int
	id tidegate.StreamID

	// disk
	log    []*entry
	synced int
	meta   fence.NodeMeta
	aside  []*entry // quarantine
	rotten int      // the entry whose bits have flipped, counted from 1; 0: none
	lost   []*entry // the log before the last wipe, for the oracle

	// memory
	n        *fence.Node
	cuts     int // log truncations of this life: a sync that began before one proves nothing
	syncing  bool
	upstream *host // where acks go
	relay    relayRole
	ask      uint64 // outstanding AskChain or Fetch
	asked    fence.NodeEffect
	beacon   beacon
	heardAt  tidegate.Instant // of the beacon
	applied  int              // entries that the warm copy has
	promoted fence.Promise    // what the target was told last
	branchAt tidegate.LogPos
}

func newStandby(w *world, m *computer, i int) *standby {
	s := &standby{i: i, name: m.name, inc: w.id()}
	s.host = m.newHost("s."+string(m.name), s.receive)
	w.net.add(&s.host)
	for i, id := range w.streams {
		ns := &nodeStream{s: s, i: i, id: id}
		ns.meta = fence.FormatMeta(id, s.member())
		s.streams = append(s.streams, ns)
	}
	return s
}

func (s *standby) member() fence.Member { return fence.Member{Node: s.name, Incarnation: s.inc} }

func (s *standby) start() {
	s.begin()
	for _, ns := range s.streams {
		if ns.rotten > 0 {
			// Opening reads every batch: the stream is not served until an operator
			// has set the log aside.
			ns.setAside()
		}
	}
	for _, ns := range s.streams {
		ns.start()
	}
	s.every(60*time.Millisecond, func() {
		for _, ns := range s.streams {
			ns.apply()
			ns.fanOut()
		}
	})
	s.watch.start(&s.host, s.onView)
	s.watchWriter()
}

func (s *standby) onView(v *view, fresh bool) {
	for i := range v.keys {
		s.streams[i].step(fence.RecordRead{Record: v.keys[i].Record, Fresh: fresh})
	}
}

func (ns *nodeStream) end() tidegate.LogPos { return ns.entry(len(ns.log)).pos }

func (ns *nodeStream) entry(n int) *entry {
	if n == 0 {
		return origin
	}
	return ns.log[n-1]
}

var errNoBatch = errors.New("no such batch")

// At implements [fence.LogView].
func (ns *nodeStream) At(seq tidegate.Seq) (tidegate.LogPos, error) {
	if int(seq) > len(ns.log) {
		return tidegate.LogPos{}, errNoBatch
	}
	return ns.entry(int(seq)).pos, nil
}

func (ns *nodeStream) start() {
	var effects []fence.NodeEffect
	ns.n, effects = fence.NewNode(ns.meta, ns.end(), ns)
	ns.do(effects)
	ns.step(fence.Started{Now: ns.s.m.boot()})
}

func (ns *nodeStream) step(ev fence.NodeEvent) {
	if ns.n == nil {
		return // went down in the middle of a message
	}
	effects := ns.n.Step(ev)
	ns.s.w.oracle.promised(ns)
	ns.do(effects)
}

func (ns *nodeStream) do(effects []fence.NodeEffect) {
	s, w := ns.s, ns.s.w
	for _, e := range effects {
		switch e := e.(type) {
		case fence.Persist:
			ns.persist(e)
		case fence.Sync:
			n := len(ns.log)
			ns.fsync(func() {
				ns.markSynced(n)
				ns.step(fence.Synced{Token: e.Token, End: ns.entry(n).pos})
			})
		case fence.AskChain:
			ns.remote(e, e.Token, e.Source, &mReadLog{ns.i, e.Seq, e.Seq, e.Token})
		case fence.Fetch:
			ns.remote(e, e.Token, e.Source, &mReadLog{ns.i, e.From.Seq + 1, e.To.Seq, e.Token})
		case fence.CancelFetch:
			if ns.ask == e.Token {
				ns.failRemote(errors.New("cancelled"))
			}
		case fence.Cut:
			ns.fsync(func() {
				ns.cut(e)
				ns.step(fence.CutDone{Token: e.Token, End: ns.end()})
			})
		case fence.ReplyFence:
			ns.evidence(&e.Reply)
			w.oracle.repliedFence(ns, e.Reply)
			w.replyTo(&s.host, e.Call, &mFenceReply{e.Reply})
		case fence.ReplyAdopt:
			w.oracle.repliedAdopt(ns, e.Reply)
			w.replyTo(&s.host, e.Call, &mAdoptReply{e.Reply})
		case fence.ReplyPromote:
			ns.promote(e)
		case fence.ReplyLease:
			c := w.oracle.calls[e.Call-1]
			s.send(c.from, &mLeaseGrant{ns.i, e.Reply, c.number})
		case fence.DropSessions:
			ns.relay = relayRole{}
		}
	}
}

// persist writes the metadata. A crash between the write and its completion finds
// it on the disk.
func (ns *nodeStream) persist(e fence.Persist) {
	s, w := ns.s, ns.s.w
	crash := w.chaos && w.shape.crashes && w.chance(0.02)
	ns.fsync(func() {
		ns.meta = e.Meta
		w.oracle.persisted(ns)
		if crash {
			s.bounce()
			return
		}
		ns.step(fence.Persisted{Token: e.Token})
	})
}

// fsync calls done when what was written is on the disk. A failed sync is never
// repeated: the node stops, and what it had not synced before is moved aside when
// it comes back.
func (ns *nodeStream) fsync(done func()) {
	d, failed := ns.s.m.syncTime()
	ns.s.after(d, func() {
		if failed {
			ns.s.syncFailed()
			return
		}
		done()
	})
}

func (ns *nodeStream) markSynced(n int) {
	if n > ns.synced && n <= len(ns.log) {
		ns.synced = n
	}
	ns.s.w.oracle.syncedTo(ns)
}

func (ns *nodeStream) cut(e fence.Cut) {
	if !mutate.Broken(mutate.QuarantineFirst) {
		ns.aside = append(ns.aside, ns.log[e.To.Seq:]...)
	}
	ns.s.w.oracle.cut(ns, e, ns.aside)
	ns.truncate(int(e.To.Seq))
}

func (ns *nodeStream) truncate(n int) {
	ns.log = ns.log[:n:n]
	ns.synced = min(ns.synced, n)
	ns.applied = min(ns.applied, n)
	if ns.rotten > n {
		ns.rotten = 0
	}
	ns.cuts++
}

// --- reading other nodes' logs ---

func (ns *nodeStream) remote(e fence.NodeEffect, token uint64, source tidegate.NodeName, msg *mReadLog) {
	ns.ask, ns.asked = token, e
	if s := ns.s.w.standbyOn(source); s != nil {
		ns.s.send(&s.host, msg)
	}
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

func (ns *nodeStream) onLog(m *mLog) {
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
		if x.pos.Seq != ns.end().Seq+1 || x.prev() != ns.entry(len(ns.log)) || ns.s.m.full() {
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

// read returns a part of the log, as from the disk: a flipped bit shows now.
func (ns *nodeStream) read(from, to int) (es []*entry, ok bool) {
	if ns.rotten > from && ns.rotten <= to {
		ns.s.w.log(ns.s.addr, "", "crc", "stream %d batch %d", ns.i, ns.rotten)
		ns.s.bounce()
		return nil, false
	}
	return ns.log[from:to:to], true
}

func (ns *nodeStream) append(x *entry) {
	ns.log = append(ns.log, x)
	ns.s.w.oracle.appended(ns, x)
}

// --- messages ---

func (s *standby) receive(from *host, msg any) {
	switch m := msg.(type) {
	case *mFence:
		call := s.w.call(from, m.plan)
		s.streams[s.w.short(m.req.Stream)].step(fence.FenceAsked{Call: call, Req: m.req, Now: s.m.boot()})
	case *mAdopt:
		call := s.w.call(from, m.plan)
		s.streams[s.w.short(m.req.Stream)].step(fence.AdoptAsked{Call: call, Req: m.req})
	case *mPromote:
		call := s.w.call(from, m.plan)
		ns := s.streams[s.w.short(m.req.Stream)]
		ns.promoted, ns.branchAt = fence.Promise{Epoch: m.req.Epoch, Holder: m.req.Holder}, m.req.Head
		ns.step(fence.PromoteAsked{Call: call, Req: m.req})
	case *mLeaseAsk:
		call := s.w.call(from, nil)
		s.w.oracle.calls[call-1].number = m.number
		s.streams[m.stream].step(fence.LeaseAsked{Call: call, Req: m.req, Now: s.m.boot()})
	case *mDescribe:
		s.send(from, &mDescribed{m.stream, s, s.streams[m.stream].n.Adopted().Epoch, s.streams[m.stream].n.Promise().Epoch})
	case *mView:
		s.watch.got(from, m)
	case *mAttach:
		s.streams[m.stream].attach(from, m)
	case *mAppend:
		s.streams[m.stream].onAppend(from, m)
	case *mNack:
		s.streams[m.stream].onNack(from, m)
	case *mAck:
		s.streams[m.stream].onAck(m)
	case *mReadLog:
		ns := s.streams[m.stream]
		out := &mLog{stream: m.stream, token: m.token}
		if int(m.to) <= len(ns.log) && m.from >= 1 && m.from <= m.to {
			es, ok := ns.read(int(m.from)-1, int(m.to))
			if !ok {
				return
			}
			out.entries = es
		}
		s.send(from, out)
	case *mLog:
		s.streams[m.stream].onLog(m)
	}
}

func (ns *nodeStream) refuse(to *host, err error) {
	if errors.Is(err, tidegate.ErrFenced) {
		ns.s.send(to, &mRefused{ns.i, ns.n.Promise()})
		return
	}
	ns.s.send(to, &mNack{stream: ns.i, end: ns.end()})
}

func (ns *nodeStream) attach(from *host, m *mAttach) {
	if err := ns.n.CheckAppend(m.epoch, m.holder, m.epoch); err != nil {
		ns.refuse(from, err)
		return
	}
	ns.upstream = from
	ns.relay = relayRole{on: true, epoch: m.epoch, holder: m.holder, writer: from, dial: m.dial}
	for _, x := range m.members {
		if x.Node != ns.s.name {
			ns.relay.members = append(ns.relay.members, fan{s: ns.s.w.standbyOn(x.Node)})
		}
	}
	out := &mAttached{ns.i, ns.n.Meta().Member(), ns.end(), ns.n.DurablePos(), nil, m.dial}
	if int(m.head) <= len(ns.log) {
		out.head = ns.entry(int(m.head))
	}
	ns.s.send(from, out)
	ns.sendAck()
}

func (ns *nodeStream) onAppend(from *host, m *mAppend) {
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
	ns.beacon, ns.heardAt = m.beacon, ns.s.m.boot()
	if ns.s.m.full() && len(m.entries) > 0 {
		ns.s.send(from, &mNack{ns.i, ns.end(), false})
		return
	}
	at, err := ns.At(m.prev.Seq)
	if err != nil || at.Chain != m.prev.Chain {
		ns.s.send(from, &mNack{ns.i, ns.end(), true})
		return
	}
	had := len(ns.log)
	for _, x := range m.entries {
		if have, err := ns.At(x.pos.Seq); err == nil {
			if have.Chain != x.pos.Chain {
				ns.s.send(from, &mNack{ns.i, ns.end(), true})
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
		ns.relay.commit, ns.relay.beacon = max(ns.relay.commit, m.commit), m.beacon
	}
	if len(ns.log) == had {
		ns.sendAck()
	}
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
	ns.fsync(func() {
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
	if ns.upstream == nil {
		return
	}
	m := &mAck{stream: ns.i, ack: ack}
	if l := ns.warm(); l != nil {
		m.ack.Applied, m.state = tidegate.Seq(ns.applied), l.state.hash
	}
	ns.s.send(ns.upstream, m)
}

// evidence is what the node can tell of releases that its log does not hold.
func (ns *nodeStream) evidence(r *fence.FenceReply) {
	if !ns.beacon.known || r.Refused {
		return
	}
	r.Evidence.ReleasedKnown = true
	r.Evidence.Beyond = max(0, ns.beacon.released-ns.entry(int(r.Durable.Seq)).records)
}
