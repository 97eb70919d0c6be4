package sim

import (
	"slices"
	"time"
)

// host is anything with an address. gen grows at every restart: timers and
// messages of an earlier life are void.
type host struct {
	w    *world
	addr string
	gen  int
	up   bool
	recv func(from string, msg any)
}

// after runs fn on the host unless it has gone down since.
func (h *host) after(d time.Duration, fn func()) {
	gen := h.gen
	h.w.after(d, func() {
		if h.up && h.gen == gen {
			fn()
		}
	})
}

func (h *host) send(to string, msg any) { h.w.net.send(h, to, msg) }

// network loses, repeats, delays and reorders, and may be cut one way.
type network struct {
	hosts []*host
	cuts  [][2]string // from, to: nothing passes
}

func (n *network) add(h *host) { n.hosts = append(n.hosts, h) }

func (n *network) find(addr string) *host {
	for _, h := range n.hosts {
		if h.addr == addr {
			return h
		}
	}
	return nil
}

func (n *network) send(from *host, to string, msg any) {
	w := from.w
	if slices.Contains(n.cuts, [2]string{from.addr, to}) || w.chance(w.shape.loss) {
		w.logMsg(from.addr, to, "lost", msg)
		return
	}
	copies := 1
	if w.chance(w.shape.dup) {
		copies = 2
	}
	for range copies {
		d := w.jitter(w.shape.latency)
		if w.chance(0.02) {
			d *= 20 // reordered past much of what follows
		}
		w.after(d, func() {
			if h := n.find(to); h != nil && h.up {
				w.logMsg(from.addr, to, "recv", msg)
				h.recv(from.addr, msg)
			}
		})
	}
}
