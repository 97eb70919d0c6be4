package sim

import (
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// running is one controller at work on one gate.
type running struct {
	g      *gate
	c      *fence.Controller
	gen    int
	id     tidegate.ID
	kind   fence.PlanKind
	target fence.Holder
	reason string
	done   bool
	obeyed bool // its refusal's hint was followed, or came before the healing

	reserved tidegate.Instant // when F1 was committed, on this machine's boot clock; 0: by another gate
}

// order is what an operator, or the detector, asks for.
type order struct {
	kind       fence.PlanKind
	target     fence.Holder
	attest     bool
	acceptLoss bool
	force      bool
	reason     string
}

// plan makes a plan over all streams of the world.
func (g *gate) plan(o order) fence.Plan {
	w := g.w
	p := fence.Plan{
		ID: w.id(), Service: "books", Kind: o.kind, Target: o.target, Shrink: w.shape.shrink && o.kind == fence.KindFailover,
		AttestPrimaryDown: o.attest, AcceptLoss: o.acceptLoss, Force: o.force, Reason: o.reason, Drain: 2 * time.Second,
	}
	for i, id := range w.streams {
		p.Streams = append(p.Streams, fence.StreamPlan{
			Stream: id, Name: tidegate.StreamName([]string{"a", "b"}[i]), Wanted: g.wanted(i),
		})
		p.MaxLoss = g.seen.wishes[i].effective()
	}
	return p
}

// wanted returns the configuration that the operator wants of a stream, nil when
// the record has it. A member on record keeps its incarnation: another one must
// leave limbo first.
func (g *gate) wanted(i int) *fence.Config {
	have := &g.seen.keys[i].Record.Config
	want := fence.Config{W: g.w.shape.w}
	same := len(have.Members) == len(g.w.standbys) && have.W == want.W
	for _, s := range g.w.standbys {
		if k := have.Index(s.name); k >= 0 {
			want.Members = append(want.Members, have.Members[k])
			continue
		}
		same = false
		want.Members = append(want.Members, s.streams[i].meta.Member())
	}
	if same {
		return nil
	}
	fence.SortMembers(want.Members)
	return &want
}

// acquire is an agent's start as writer.
func (g *gate) acquire(h fence.Holder, branches []tidegate.Epoch) {
	if g.seen == nil {
		return
	}
	for _, r := range g.plans {
		if r.alive() && r.target == h {
			return
		}
	}
	p := g.plan(order{kind: fence.KindAcquire, target: h, reason: "activated"})
	for i := range p.Streams {
		p.Streams[i].Branch = &branches[i]
		rec := &g.seen.keys[i].Record
		if rec.Moving() {
			if saved := g.w.reg.saved(rec.Plan); saved == nil || saved.Finished() {
				p.Preempt = true
			}
		}
	}
	g.run(p)
}

// order starts a role change, unless the service is frozen or has no gate that
// knows the registry.
func (g *gate) order(o order) bool {
	if !g.up || g.seen == nil || !g.trusted || g.seen.frozen {
		return false
	}
	g.run(g.plan(o))
	return true
}

// run starts a controller on the plan, new or taken over.
func (g *gate) run(p fence.Plan) *running {
	c, err := fence.NewController(p)
	if err != nil {
		panic(err)
	}
	r := &running{g: g, c: c, gen: g.gen, id: p.ID, kind: p.Kind, target: p.Target, reason: p.Reason, done: p.Finished()}
	kept := g.plans[:0]
	for _, x := range g.plans {
		if x.alive() || x.reason == reasonFinal {
			kept = append(kept, x)
		}
	}
	g.plans = append(kept, r)
	g.w.log(g.addr, "", "plan", "%.8s %s to %s step %s %s", p.ID, p.Kind, p.Target, p.Step, p.Reason)
	r.do(c.Start(g.m.wall()))
	r.ticks()
	return r
}

func (r *running) alive() bool { return r.g.up && r.gen == r.g.gen && !r.done }

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
		if t, ok := ev.(fence.TxnDone); ok && t.Committed && r.reserved == 0 {
			r.reserved = r.g.m.boot()
		}
		r.do(r.c.Step(r.g.m.wall(), ev))
	}
}

// patience is how long a gate waits in a step before it decides with what it has.
const patience = 1500 * time.Millisecond

func (r *running) do(effects []fence.ControlEffect) {
	g, w := r.g, r.g.w
	for _, e := range effects {
		switch e := e.(type) {
		case fence.ReadKeys:
			g.send(&w.reg.host, &mRead{plan: r, token: e.Token})
			g.after(500*time.Millisecond, func() { r.step(fence.TxnUnknown{Token: e.Token}) })
		case fence.Txn:
			g.send(&w.reg.host, &mTxn{r, e.Token, e.Puts, e.Plan})
			g.after(500*time.Millisecond, func() { r.step(fence.TxnUnknown{Token: e.Token}) })
		case fence.SavePlan:
			g.send(&w.reg.host, &mSave{e.Plan})
		case fence.SendFence:
			g.send(&w.standbyOn(e.Member.Node).host, &mFence{r, e.Req})
		case fence.SendAdopt:
			g.send(&w.standbyOn(e.Member.Node).host, &mAdopt{r, e.Req})
		case fence.SendPromote:
			g.send(&w.standbyOn(e.Node).host, &mPromote{r, e.Req})
		case fence.AwaitLease:
			r.awaitLease(e)
		case fence.SwitchRoute:
			g.send(&w.route.host, &mRoute{e.Holder, e.Epoch, r})
		case fence.SetDeadline:
			d := patience
			if e.Step == fence.StepDrain {
				d = 0
			}
			g.after(d+e.Extra, func() { r.step(fence.Deadline{Step: e.Step}) })
		case fence.Report:
			w.oracle.reported(r.c.Plan(), e.Loss)
		case fence.Refuse:
			w.res.Refused++
			w.log(g.addr, "", "refused", "%s", e.Refusal.Error())
			r.over()
		case fence.Superseded:
			r.done = true
			w.log(g.addr, "", "superseded", "by %.8s", e.By)
		case fence.Finished:
			r.over()
		case fence.AbortRefused:
			w.log(g.addr, "", "norefuse", "%s", e.Why)
		case fence.Verify:
			g.after(w.jitter(20*time.Millisecond), func() { r.step(fence.Verified{}) })
		}
	}
}

// over counts what a plan came to.
func (r *running) over() {
	r.done = true
	p, w := r.c.Plan(), r.g.w
	w.log(r.g.addr, "", "finished", "%.8s %s %s", p.ID, p.Kind, p.Step)
	if p.Step != fence.StepDone {
		if p.Refusal != nil && p.Refusal.Rule == fence.RuleAborted {
			w.res.Aborted++
		}
		return
	}
	r.g.saveMark(r.g.seen)
	switch p.Kind {
	case fence.KindFailover:
		w.res.Failovers++
	case fence.KindSwitchover:
		w.res.Switchovers++
	default:
		w.res.Acquires++
	}
}

// awaitLease waits until no lease that was granted before F1 can run any more; or
// an operator attests what cannot be known.
func (r *running) awaitLease(e fence.AwaitLease) {
	if e.Lease > 0 {
		began := r.g.m.boot()
		if r.reserved > 0 {
			began = r.reserved
		}
		r.pollLease(e.Lease, began, 0)
	}
	if r.g.w.oneIn(3) || r.reason == reasonFinal {
		r.g.after(r.g.w.jitter(1200*time.Millisecond), func() { r.step(fence.Attested{Actor: "operator"}) })
	}
}

// pollLease asks the registry whether leases run, until none does and the margin
// is over. A registry that went back does not know of all: then their whole length
// is waited for, from F1.
func (r *running) pollLease(longest time.Duration, began tidegate.Instant, stream int) {
	margin := fence.LeaseMargin(longest)
	if stream == len(r.g.w.streams) {
		wait := margin
		for _, k := range r.g.seen.keys {
			if k.Record.Restored {
				wait = max(wait, longest+margin-time.Duration(r.g.m.boot()-began))
			}
		}
		r.g.after(wait, func() { r.step(fence.LeaseOver{}) })
		return
	}
	answered := false
	r.g.send(&r.g.w.reg.host, &mLease{stream: stream, then: func(left time.Duration) {
		if answered = true; !r.alive() {
			return
		}
		if left > 0 {
			r.g.after(50*time.Millisecond, func() { r.pollLease(longest, began, stream) })
			return
		}
		r.pollLease(longest, began, stream+1)
	}})
	r.g.after(300*time.Millisecond, func() {
		if !answered && r.alive() {
			r.pollLease(longest, began, stream)
		}
	})
}

const reasonFinal = "final"
