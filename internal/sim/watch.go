package sim

import (
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// Messages between gates and nodes.
type (
	mWatch struct{ gen int }
	mView  struct {
		view  *view
		fresh bool // a linearizable read, made for the watch of gen
		gen   int
	}
)

// watcher keeps a node's watch open on one of the gates, and goes to the next one
// when nothing is heard.
type watcher struct {
	h    *host
	on   func(v *view, fresh bool)
	gate int
	last tidegate.Instant
	seen *view
	due  bool // a linearizable read has not been answered in this life
}

const (
	watchPeriod  = 250 * time.Millisecond
	watchTimeout = 700 * time.Millisecond
)

func (a *watcher) start(h *host, on func(*view, bool)) {
	*a = watcher{h: h, on: on, gate: h.i, due: true}
	a.ask()
	h.every(watchPeriod, func() {
		if time.Duration(h.m.boot()-a.last) > watchTimeout {
			a.gate++
			a.ask()
		} else if a.due {
			a.ask()
		}
	})
}

func (a *watcher) ask() {
	a.last = a.h.m.boot()
	gates := a.h.w.gates
	a.h.send(&gates[a.gate%len(gates)].host, &mWatch{a.h.gen})
}

func (a *watcher) got(from *host, m *mView) {
	if m.gen != a.h.gen {
		return
	}
	gates := a.h.w.gates
	if from == &gates[a.gate%len(gates)].host {
		a.last = a.h.m.boot()
	}
	a.seen, a.due = m.view, a.due && !m.fresh
	a.on(m.view, m.fresh)
}

// known is what a node remembers of a stream: the newest it has seen.
type known struct {
	rec      *fence.EpochRecord
	revision int64
	wish     wish
}

// sighting is the zero one while nothing was seen.
func (k *known) sighting() *fence.Sighting {
	if k.rec == nil {
		return &fence.Sighting{}
	}
	return &fence.Sighting{Record: *k.rec, Revision: k.revision}
}

func (k *known) show(v *view, stream int, unused func(*fence.EpochRecord) bool) {
	now := known{rec: &v.keys[stream].Record, revision: v.keys[stream].Revision}
	if !now.sighting().Older(k.sighting()) || now.rec.Plan != k.rec.Plan && unused(now.rec) {
		k.rec, k.revision = now.rec, now.revision
	}
	k.wish = v.wishes[stream]
}
