package sim

import (
	"time"
)

// network loses, repeats, delays and reorders. Between two machines each direction
// may be cut, held back (clogged: everything waits and then comes at once) or narrow.
type network struct {
	w     *world
	hosts []*host
	links []link // from*len(machines)+to
	n     int
}

type link struct {
	cuts    int           // reasons why nothing passes
	clogged time.Duration // until
	free    time.Duration // when the line is free for the next message
}

func (n *network) add(h *host) {
	h.i = len(n.hosts)
	n.hosts = append(n.hosts, h)
	h.m.hosts = append(h.m.hosts, h)
}

func (n *network) open(machines int) {
	n.n = machines
	n.links = make([]link, machines*machines)
}

func (n *network) link(from, to *computer) *link { return &n.links[from.i*n.n+to.i] }

// send gives msg to the network. Within a machine it is a local socket: nothing is
// lost, and order is kept.
func (h *host) send(to *host, msg any) {
	w := h.w
	if h.m == to.m {
		w.deliver(w.now+50*time.Microsecond, h, to, msg)
		return
	}
	l := w.net.link(h.m, to.m)
	if l.cuts > 0 || w.chance(w.shape.loss) {
		w.logMsg(h, to, "lost", msg)
		return
	}
	copies := 1
	if w.chance(w.shape.dup) {
		copies = 2
	}
	far := h.m.site != to.m.site
	for range copies {
		mean := w.shape.lan
		if far {
			mean = w.shape.wan
		}
		d := w.jitter(mean)
		if w.chance(w.shape.reorder) {
			d *= 20 // past much of what follows
		}
		at := w.now
		if far && w.shape.bytesPerSecond > 0 {
			at = max(at, l.free) + time.Duration(sizeOf(msg))*time.Second/time.Duration(w.shape.bytesPerSecond)
			l.free = at
		}
		w.deliver(max(at+d, l.clogged), h, to, msg)
	}
}

func (w *world) deliver(at time.Duration, from, to *host, msg any) {
	w.agenda.push(at, event{h: to, from: from, msg: msg})
}

// sizeOf is what a message weighs on a narrow line.
func sizeOf(msg any) int {
	n := 200
	if m, ok := msg.(*mAppend); ok {
		for i := range m.entries {
			n += 100 + m.entries[i].bytes
		}
	}
	if m, ok := msg.(*mLog); ok {
		for i := range m.entries {
			n += 100 + m.entries[i].bytes
		}
	}
	return n
}

// block cuts one direction between two machines until the returned function is called.
func (n *network) block(from, to *computer) (lift func()) {
	l := n.link(from, to)
	l.cuts++
	return func() { l.cuts-- }
}

// blockFor cuts the pairs for d.
func (n *network) blockFor(d time.Duration, pairs [][2]*computer) {
	var lifts []func()
	for _, p := range pairs {
		lifts = append(lifts, n.block(p[0], p[1]))
	}
	n.w.after(d, func() {
		if n.w.chaos { // healing has lifted them all
			for _, lift := range lifts {
				lift()
			}
		}
	})
}

func (n *network) heal() {
	for i := range n.links {
		n.links[i].cuts, n.links[i].clogged = 0, 0
	}
}
