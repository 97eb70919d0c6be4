package sim

import (
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
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
		applied tidegate.Seq
	}
	mReply struct {
		plan *running
		msg  any
	}
	mDescribe  struct{ stream int }
	mDescribed struct {
		stream  int
		node    tidegate.NodeName
		adopted tidegate.Epoch
	}
)

// call remembers who asked; the number travels through the node's core.
func (w *world) call(from string, p *running) uint64 {
	w.oracle.calls = append(w.oracle.calls, caller{from, p})
	return uint64(len(w.oracle.calls))
}

type caller struct {
	addr string
	plan *running
}

func (w *world) replyTo(h *host, call uint64, msg any) {
	c := w.oracle.calls[call-1]
	h.send(c.addr, mReply{c.plan, msg})
}

// gate hosts controllers and the reconciler that brings stragglers back.
type gate struct {
	host
	plans  []*running
	keys   []fence.KeyState
	adults []tidegate.NodeName // per stream: a node that has adopted the active epoch
}

// running is one controller at work on one gate.
type running struct {
	g      *gate
	c      *fence.Controller
	gen    int
	target tidegate.NodeName
}

func newGate(w *world, name string) *gate {
	g := &gate{host: host{w: w, addr: name}}
	g.recv = g.receive
	w.net.add(&g.host)
	return g
}

func (g *gate) start() {
	g.up = true
	g.gen++
	g.plans = nil
	g.adults = make([]tidegate.NodeName, len(g.w.streams))
	g.every(g.w.shape.tend, func() {
		g.w.reg.watch(&g.host)
		g.reconcile()
	})
}

func (g *gate) stop() {
	g.up = false
	g.gen++
	g.plans = nil
}

// reconcile asks the members of active streams what they have adopted; who has
// missed F5 is asked to adopt when the answer comes.
func (g *gate) reconcile() {
	for i, k := range g.keys {
		if k.Record.State == fence.StateActive {
			for _, m := range k.Record.Config.Members {
				g.send("s."+string(m.Node), mDescribe{i})
			}
		}
	}
}

func (g *gate) onDescribed(m mDescribed) {
	if g.keys == nil {
		return
	}
	rec := g.keys[m.stream].Record
	if rec.State == fence.StateActive && m.adopted == rec.Epoch {
		g.adults[m.stream] = m.node
		return
	}
	if req, due := rec.AdoptFor(m.adopted, g.adults[m.stream]); due && g.adults[m.stream] != "" {
		g.send("s."+string(m.node), mAdopt{nil, req})
	}
}

// plan makes a plan over all streams of the world.
func (w *world) plan(kind fence.PlanKind, target fence.Holder) fence.Plan {
	p := fence.Plan{
		ID: w.id(), Service: "books", Kind: kind, Target: target,
		Shrink: w.shape.shrink, AttestPrimaryDown: w.shape.restores, AcceptLoss: w.shape.restores, Preempt: true,
	}
	for i, id := range w.streams {
		p.Streams = append(p.Streams, fence.StreamPlan{Stream: id, Name: tidegate.StreamName([]string{"a", "b"}[i])})
	}
	return p
}

// run starts a controller on the plan, new or taken over.
func (g *gate) run(p fence.Plan) {
	c, err := fence.NewController(p)
	if err != nil {
		panic(err)
	}
	r := &running{g: g, c: c, gen: g.gen, target: p.Target.Node}
	g.plans = append(g.plans, r)
	g.w.log(g.addr, "", "plan", "%.8s %s to %s step %s", p.ID, p.Kind, p.Target, p.Step)
	r.do(c.Start(g.w.wall()))
	r.ticks()
}

func (r *running) alive() bool { return r.g.up && r.gen == r.g.gen && !r.c.Plan().Finished() }

func (r *running) ticks() {
	r.g.after(r.g.w.jitter(120*time.Millisecond), func() {
		if r.alive() {
			r.step(fence.Tick{})
			r.ticks()
		}
	})
}

func (r *running) step(ev fence.ControlEvent) {
	if r.alive() {
		r.do(r.c.Step(r.g.w.wall(), ev))
	}
}

func (g *gate) receive(from string, msg any) {
	switch m := msg.(type) {
	case mAcquire:
		g.run(g.w.plan(fence.KindAcquire, m.holder))
	case mKeys:
		m.plan.step(fence.KeysRead{Token: m.token, Keys: m.keys})
	case mTxnDone:
		m.plan.step(m.done)
	case mWatched:
		if m.gen == g.gen {
			g.keys = m.keys
			for i := range g.adults {
				g.adults[i] = ""
			}
		}
	case mDescribed:
		g.onDescribed(m)
	case mReply:
		if m.plan == nil || m.plan.g != g {
			return
		}
		switch x := m.msg.(type) {
		case mFenceReply:
			m.plan.step(fence.FenceReplied{Reply: x.reply})
		case mAdoptReply:
			m.plan.step(fence.AdoptReplied{Reply: x.reply})
		case mPromoteReply:
			m.plan.onPromoted(x)
		}
	}
}

func (r *running) onPromoted(x mPromoteReply) {
	ev := fence.Promoted{Stream: x.stream, Class: x.reply.Class, Why: x.reply.Why}
	for _, s := range r.c.Plan().Streams {
		if s.Stream == x.stream {
			ev.Applied = x.reply.Accepted && x.applied >= s.Record.Head.Seq
		}
	}
	r.step(ev)
}

func (r *running) do(effects []fence.ControlEffect) {
	g, w := r.g, r.g.w
	for _, e := range effects {
		switch e := e.(type) {
		case fence.ReadKeys:
			g.send("etcd", mRead{r, e.Token})
			g.after(500*time.Millisecond, func() { r.step(fence.TxnUnknown{Token: e.Token}) })
		case fence.Txn:
			g.send("etcd", mTxn{r, e.Token, e.Puts, e.Plan})
			g.after(500*time.Millisecond, func() { r.step(fence.TxnUnknown{Token: e.Token}) })
		case fence.SavePlan:
			g.send("etcd", mSave{e.Plan})
		case fence.SendFence:
			g.send("s."+string(e.Member.Node), mFence{r, e.Req})
		case fence.SendAdopt:
			g.send("s."+string(e.Member.Node), mAdopt{r, e.Req})
		case fence.SendPromote:
			g.send("s."+string(e.Node), mPromote{r, e.Req})
		case fence.AwaitLease:
			g.after(100*time.Millisecond, func() { r.step(fence.Attested{Actor: "sim"}) })
		case fence.SwitchRoute:
			g.after(w.jitter(5*time.Millisecond), func() { r.step(fence.RouteSwitched{Epoch: e.Epoch}) })
		case fence.SetDeadline:
			g.after(1500*time.Millisecond, func() { r.step(fence.Deadline{Step: e.Step}) })
		case fence.Report:
			w.oracle.reported(r.c.Plan(), e.Loss)
		case fence.Refuse:
			w.res.Refused++
			w.log(g.addr, "", "refused", "%s", e.Refusal.Error())
		case fence.Superseded:
			w.log(g.addr, "", "superseded", "by %.8s", e.By)
		case fence.Finished:
			p := r.c.Plan()
			w.log(g.addr, "", "finished", "%.8s %s", p.ID, p.Kind)
			if p.Kind == fence.KindFailover {
				w.res.Failovers++
			} else {
				w.res.Acquires++
			}
		}
	}
}
