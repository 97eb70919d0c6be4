package sim

import (
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/mutate"
)

// Messages between gates and standbys. plan finds its way back in the reply.
type (
	mFence struct {
		plan *running
		req  fence.FenceRequest
	}
	mAdopt struct {
		plan *running
		req  fence.AdoptRequest
	}
	mPromote struct {
		plan *running
		req  fence.PromoteRequest
	}
	mFenceReply   struct{ reply fence.FenceReply }
	mAdoptReply   struct{ reply fence.AdoptReply }
	mPromoteReply struct {
		stream  tidegate.StreamID
		reply   fence.PromoteReply
		applied bool
	}
	mReply struct {
		plan *running
		msg  any
	}
	mDescribe  struct{ stream int }
	mDescribed struct {
		stream           int
		s                *standby
		adopted, promise tidegate.Epoch
	}
	// mChange is what an agent asks of an epoch key.
	mChange struct {
		what      string
		streams   []int
		revisions []int64
		next      func(int, fence.EpochRecord) (fence.EpochRecord, error)
		from      *host
		uuid      tidegate.HolderID
	}
	mRoute struct { // to the route: clients go to the holder
		holder fence.Holder
		epoch  tidegate.Epoch
		plan   *running
	}
	mRouted struct {
		plan  *running
		epoch tidegate.Epoch
	}
)

// call remembers who asked; the number travels through the node's core.
func (w *world) call(from *host, p *running) uint64 {
	w.oracle.calls = append(w.oracle.calls, caller{from: from, plan: p})
	return uint64(len(w.oracle.calls))
}

type caller struct {
	from   *host
	plan   *running
	number uint64 // of a lease
}

func (w *world) replyTo(h *host, call uint64, msg any) {
	c := w.oracle.calls[call-1]
	h.send(c.from, &mReply{c.plan, msg})
}

// gate hosts controllers, serves the nodes, and brings stragglers back.
type gate struct {
	host
	mark     mark // on its disk
	seen     *view
	trusted  bool // the registry was compared with the mark since this start
	watchers []*watch
	plans    []*running
	adults   []tidegate.NodeName // per stream: a node that has adopted the active epoch
	eyes     *eyes
}

// mark is the newest revision that a gate has seen, on its own disk: what a
// registry that was put back without new revisions is recognised by.
type mark struct {
	cluster  int
	revision int64
}

type watch struct {
	h   *host
	gen int
}

func newGate(w *world, m *computer, name string) *gate {
	g := &gate{}
	g.host = m.newHost(name, g.receive)
	w.net.add(&g.host)
	return g
}

func (g *gate) start() {
	g.begin()
	g.plans, g.watchers, g.seen, g.trusted = nil, nil, nil, false
	g.adults = make([]tidegate.NodeName, len(g.w.streams))
	g.look()
	g.every(200*time.Millisecond, func() {
		g.w.reg.beat()
		g.look()
		g.push()
	})
	g.every(g.w.shape.tend, g.reconcile)
	g.eyes = newEyes(g)
	g.eyes.start()
}

func (g *gate) stop() {
	g.end()
	g.plans, g.watchers = nil, nil
}

// look reads the registry: a pulse, and the way in which a registry that went
// back is noticed when no watch tells.
func (g *gate) look() { g.read(g.onView) }

func (g *gate) read(then func(*view)) {
	gen := g.gen
	g.send(&g.w.reg.host, &mRead{then: func(v *view) {
		if g.gen == gen {
			then(v)
		}
	}})
}

// onView takes a newer state of the registry. One that is older than what this
// gate has seen, now or before a restart, was put back from a backup: nothing that
// it says of the gates' bounds is believed.
func (g *gate) onView(v *view) {
	back := g.mark.revision > 0 && (g.mark.cluster != v.cluster || v.clock() < g.mark.revision)
	if g.trusted {
		back = v.cluster != g.seen.cluster || v.clock() < g.seen.clock()
	}
	switch {
	case back:
		if g.trusted && v.cluster == g.w.reg.v.cluster && v.clock() < g.w.reg.v.clock() {
			return // a reading that merely came late: the second look tells
		}
		g.distrustAll(v)
		return
	case !g.trusted:
		g.trusted = true
	}
	g.saveMark(v)
	if g.seen == nil || v.revision > g.seen.revision {
		g.seen = v
		for i := range g.adults {
			g.adults[i] = ""
		}
		g.push()
		g.w.route.look(g)
	}
}

func (g *gate) saveMark(v *view) { g.mark = mark{v.cluster, v.clock()} }

// distrustAll writes that no claim may rest on any record until a live writer has
// armed its gate again.
func (g *gate) distrustAll(v *view) {
	m := &mSwap{what: "distrust"}
	for i := range v.keys {
		if !v.keys[i].Record.Restored {
			m.streams, m.revisions = append(m.streams, i), append(m.revisions, v.keys[i].Revision)
		}
	}
	done := func(v *view) {
		g.trusted, g.seen = true, v
		g.saveMark(v)
		g.push()
	}
	if len(m.streams) == 0 {
		done(v)
		return
	}
	g.w.log(g.addr, "", "distrust", "rev %d", v.revision)
	gen := g.gen
	m.next = distrust
	m.done = func(ok bool, v *view) {
		if ok && g.gen == gen {
			done(v)
		}
	}
	g.send(&g.w.reg.host, m)
}

func distrust(_ int, r fence.EpochRecord) (fence.EpochRecord, error) {
	r = r.Clone()
	r.Restored, r.Gate.State = true, fence.GateUnknown
	return r, nil
}

// push sends the view to those who watch.
func (g *gate) push() {
	if g.seen == nil || !g.trusted {
		return
	}
	for _, x := range g.watchers {
		g.send(x.h, &mView{view: g.seen, gen: x.gen})
	}
}

func (g *gate) onWatch(from *host, gen int) {
	i := slices.IndexFunc(g.watchers, func(x *watch) bool { return x.h == from })
	if i < 0 {
		g.watchers = append(g.watchers, &watch{h: from})
		i = len(g.watchers) - 1
	}
	g.watchers[i].gen = gen
	g.read(func(v *view) {
		g.onView(v)
		if g.trusted {
			g.send(from, &mView{view: v, fresh: true, gen: gen})
		}
	})
}

// reconcile asks the nodes of active streams what they have adopted; who has
// missed F5, or only follows, is asked to adopt when the answer comes.
func (g *gate) reconcile() {
	if g.seen == nil {
		return
	}
	for i := range g.seen.keys {
		for _, s := range g.w.standbys {
			g.send(&s.host, &mDescribe{i})
		}
	}
}

func (g *gate) onDescribed(m *mDescribed) {
	if g.seen == nil {
		return
	}
	k := &g.seen.keys[m.stream]
	rec := &k.Record
	if m.promise > rec.Epoch && !rec.Restored && !mutate.Broken(mutate.HeardEpoch) {
		// A gate reserves an epoch before it asks anybody: the registry may have
		// gone back. The key is read anew.
		g.send(&g.w.reg.host, &mSwap{
			what: "distrust", streams: []int{m.stream}, revisions: []int64{-1},
			next: func(i int, r fence.EpochRecord) (fence.EpochRecord, error) {
				if r.Epoch >= m.promise || r.Restored {
					return r, tidegate.ErrConflict
				}
				return distrust(i, r)
			},
			done: func(bool, *view) {},
		})
	}
	if rec.State == fence.StateActive && m.adopted == rec.Epoch {
		g.adults[m.stream] = m.s.name
		return
	}
	if req, due := rec.AdoptFor(m.adopted, g.adults[m.stream]); due && g.adults[m.stream] != "" {
		g.send(&m.s.host, &mAdopt{nil, req})
	}
}

func (g *gate) receive(from *host, msg any) {
	switch m := msg.(type) {
	case *mWatch:
		g.onWatch(from, m.gen)
	case *mAcquire:
		g.acquire(m.holder, m.branches)
	case *mChange:
		g.change(m)
	case *mRenew:
		g.renew(from, m)
	case *mKeys:
		if m.req.plan != nil {
			m.req.plan.step(fence.KeysRead{Token: m.req.token, Keys: m.view.keys})
			return
		}
		m.req.then(m.view)
	case *mTxnDone:
		m.plan.step(m.done)
	case *mSwapped:
		m.req.done(m.ok, m.view)
	case *mLeased:
		m.req.then(m.ttl)
	case *mChanged:
		if g.trusted {
			g.onView(m.view)
		}
	case *mDescribed:
		g.onDescribed(m)
	case *mSeen, *mSession, *mProbed:
		g.eyes.receive(from, msg)
	case *mRouted:
		m.plan.step(fence.RouteSwitched{Epoch: m.epoch})
	case *mReply:
		if m.plan == nil || m.plan.g != g {
			return
		}
		switch x := m.msg.(type) {
		case *mFenceReply:
			m.plan.step(fence.FenceReplied{Reply: x.reply})
		case *mAdoptReply:
			m.plan.step(fence.AdoptReplied{Reply: x.reply})
		case *mPromoteReply:
			m.plan.step(fence.Promoted{
				Stream: x.stream, Class: x.reply.Class, Why: x.reply.Why,
				Applied: x.reply.Accepted && x.applied,
			})
		}
	}
}

// change makes an agent's change of a record by compare-and-swap.
func (g *gate) change(m *mChange) {
	if !g.trusted {
		return
	}
	gen := g.gen
	g.send(&g.w.reg.host, &mSwap{what: m.what, streams: m.streams, revisions: m.revisions, next: m.next, done: func(ok bool, v *view) {
		if g.gen != gen {
			return
		}
		for _, i := range m.streams {
			g.send(m.from, &mGranted{i, ok, &v.keys[i].Record, v.keys[i].Revision, m.uuid})
		}
		if ok {
			g.onView(v)
		}
	}})
}

// renew grants an output lease to the holder that the registry names; never once a
// higher epoch is reserved. The lease is the registry's: its clock runs it out.
func (g *gate) renew(from *host, m *mRenew) {
	gen := g.gen
	g.send(&g.w.reg.host, &mLease{stream: m.stream, by: m.by, then: func(ttl time.Duration) {
		if g.gen == gen && ttl > 0 {
			g.send(from, &mRenewed{m.stream, m.by, ttl, m.asked})
		}
	}})
}
