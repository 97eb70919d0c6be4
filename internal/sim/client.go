package sim

import (
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/mutate"
)

// client sends work to where the route leads, and remembers what it was told. It
// is also the sink of the service's outputs: having heard of an epoch it takes
// nothing of an older one.
type client struct {
	host
	ops   uint64
	out   map[uint64]tidegate.Instant // waiting for an answer
	epoch []tidegate.Epoch            // per stream, the highest heard
	told  int
}

// windowMax bounds what a client waits for at one time.
const windowMax = 24

func newClient(w *world, m *computer) *client {
	c := &client{out: map[uint64]tidegate.Instant{}, epoch: make([]tidegate.Epoch, len(w.streams))}
	c.host = m.newHost("c", c.receive)
	w.net.add(&c.host)
	return c
}

func (c *client) start() {
	c.begin()
	c.every(c.w.shape.pace, c.submit)
}

func (c *client) submit() {
	w := c.w
	l := w.route.library()
	now := c.m.boot()
	for op := c.ops; op > 0 && op+4*windowMax > c.ops; op-- {
		if at, ok := c.out[op]; ok && time.Duration(now-at) > time.Second {
			delete(c.out, op) // never answered: unknown
		}
	}
	if l == nil || len(c.out) >= windowMax {
		return
	}
	for stream := range w.streams {
		c.ops++
		c.out[c.ops] = now
		m := &mSubmit{stream: stream, c: c, op: c.ops, size: int32(20 + w.rng.IntN(200))}
		if w.shape.classes {
			m.class = class(w.rng.IntN(4))
		}
		if w.oneIn(50) {
			m.kind = recFlag
		}
		c.send(&l.host, m)
	}
}

func (c *client) receive(_ *host, msg any) {
	m := msg.(*mResult)
	if _, ok := c.out[m.op]; !ok {
		return
	}
	delete(c.out, m.op)
	if !m.ok {
		return
	}
	if m.epoch < c.epoch[m.stream] {
		return // of a holder whose time is over
	}
	c.epoch[m.stream] = m.epoch
	c.told++
	c.w.oracle.delivered(m)
}

// route is the clients' address of the service.
type route struct {
	host
	holder fence.Holder
	epoch  tidegate.Epoch
}

func newRoute(w *world, m *computer) *route {
	r := &route{}
	r.host = m.newHost("route", r.receive)
	w.net.add(&r.host)
	return r
}

func (r *route) receive(from *host, msg any) {
	m := msg.(*mRoute)
	if m.epoch > r.epoch {
		r.lead(m.holder, m.epoch)
	}
	r.send(from, &mRouted{m.plan, m.epoch})
}

func (r *route) lead(h fence.Holder, epoch tidegate.Epoch) {
	r.holder, r.epoch = h, epoch
	r.w.oracle.routed(h, epoch)
}

// look follows a gate's view: a writer that was restarted in its place needs no plan
// to be found.
func (r *route) look(g *gate) {
	rec := &g.seen.keys[0].Record
	if rec.State == fence.StateActive && rec.Epoch > r.epoch && (r.holder.Site == rec.Holder.Site && rec.Kind == fence.KindAcquire || r.holder.Node == "") {
		r.lead(rec.Holder, rec.Epoch)
	}
}

// library returns where connections go now.
func (r *route) library() *library {
	for _, l := range r.w.libs {
		if l.m.name == r.holder.Node {
			return l
		}
	}
	return nil
}

var _ = mutate.Broken
