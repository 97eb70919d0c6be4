package sim

import (
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// Messages to and from the registry (etcd).
type (
	mRead struct {
		plan  *running
		token uint64
	}
	mTxn struct {
		plan  *running
		token uint64
		puts  []fence.Put
		save  fence.Plan
	}
	mSave  struct{ plan fence.Plan }
	mWatch struct{ gen int }
	mKeys  struct {
		plan  *running
		token uint64
		keys  []fence.KeyState
	}
	mTxnDone struct {
		plan *running
		done fence.TxnDone
	}
	mWatched struct {
		gen  int
		keys []fence.KeyState
	}
	mExitLimbo struct {
		stream int
		by     fence.Promise
		member fence.Member
	}
)

// registry is a linearizable store with compare-and-swap over several keys.
type registry struct {
	host
	rev   int64
	keys  []fence.KeyState
	plans []fence.Plan
	old   []fence.KeyState // a backup
}

func newRegistry(w *world) *registry {
	r := &registry{host: host{w: w, addr: "etcd", up: true}}
	r.recv = r.receive
	w.net.add(&r.host)
	return r
}

func (r *registry) key(id tidegate.StreamID) *fence.KeyState { return &r.keys[r.w.short(id)] }

func (r *registry) snapshot() []fence.KeyState {
	out := make([]fence.KeyState, len(r.keys))
	for i, k := range r.keys {
		out[i] = fence.KeyState{Stream: k.Stream, Revision: k.Revision, Record: k.Record.Clone()}
	}
	return out
}

// watch asks for the keys on behalf of a host.
func (r *registry) watch(h *host) { h.send(r.addr, mWatch{h.gen}) }

func (r *registry) receive(from string, msg any) {
	switch m := msg.(type) {
	case mRead:
		r.send(from, mKeys{m.plan, m.token, r.snapshot()})
	case mWatch:
		r.send(from, mWatched{m.gen, r.snapshot()})
	case mTxn:
		r.send(from, mTxnDone{m.plan, r.txn(m)})
	case mSave:
		r.save(m.plan)
	case mExitLimbo:
		k := &r.keys[m.stream]
		if rec, err := k.Record.ExitLimbo(m.by, m.member); err == nil {
			r.w.oracle.exitsLimbo(m.stream, rec, m.member)
			r.rev++
			k.Revision, k.Record = r.rev, rec
		}
	}
}

func (r *registry) txn(m mTxn) fence.TxnDone {
	for _, p := range m.puts {
		if k := r.key(p.Stream); p.IfRevision >= 0 && k.Revision != p.IfRevision {
			r.w.log("etcd", "", "conflict", "stream %d", r.w.short(p.Stream))
			return fence.TxnDone{Token: m.token}
		}
	}
	r.rev++
	for _, p := range m.puts {
		k := r.key(p.Stream)
		r.w.oracle.recorded(r.w.short(p.Stream), k.Record, p.Record)
		k.Revision, k.Record = r.rev, p.Record.Clone()
		r.w.log("etcd", "", "put", "stream %d rev %d %s epoch %s head %s", r.w.short(p.Stream), r.rev, p.Record.State, p.Record.Epoch, p.Record.Head)
	}
	r.save(m.save)
	return fence.TxnDone{Token: m.token, Committed: true, Revision: r.rev}
}

func (r *registry) save(p fence.Plan) {
	for i := range r.plans {
		if r.plans[i].ID == p.ID {
			r.plans[i] = p
			return
		}
	}
	r.plans = append(r.plans, p)
}

func (r *registry) backup() { r.old = r.snapshot() }

// restore puts the backup back. Revisions go on, as a restored etcd bumps them.
func (r *registry) restore() {
	if r.old == nil {
		return
	}
	r.w.log("etcd", "", "restore", "")
	r.rev += 1000
	for i := range r.old {
		r.keys[i] = fence.KeyState{Stream: r.old[i].Stream, Revision: r.rev, Record: r.old[i].Record.Clone()}
		r.w.oracle.restored(i, r.keys[i].Record)
	}
}

func (r *registry) outage(d time.Duration) {
	r.up = false
	r.w.log("etcd", "", "down", "%s", d)
	r.w.after(d, func() { r.up = true })
}
