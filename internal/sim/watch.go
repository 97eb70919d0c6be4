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

// older reports whether a record of epoch e at revision r is older than one of
// epoch f at revision g: revisions alone do not tell when a registry was put back.
func older(e tidegate.Epoch, r int64, f tidegate.Epoch, g int64) bool {
	return e < f || e == f && r < g
}

// known is what a node remembers of a stream: the newest it has seen.
type known struct {
	rec      *fence.EpochRecord
	revision int64
	wish     wish
}

func (k *known) show(v *view, stream int, unused func(*fence.EpochRecord) bool) {
	key := &v.keys[stream]
	anew := k.rec != nil && key.Record.Plan != k.rec.Plan && !k.rec.Leaves(&key.Record) && (key.Record.Epoch == k.rec.Epoch || unused(&key.Record))
	if k.rec == nil || anew || !older(key.Record.Epoch, key.Revision, k.rec.Epoch, k.revision) {
		k.rec, k.revision = &key.Record, key.Revision
	}
	k.wish = v.wishes[stream]
}
