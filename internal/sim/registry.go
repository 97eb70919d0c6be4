package sim

import (
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/mutate"
)

// wish is what the operator wants of a stream; it lies in the registry beside the
// epoch record.
type wish struct {
	mode   tidegate.Mode
	bounds tidegate.Bounds
	policy tidegate.Policy
	brake  bool
	lease  time.Duration
}

func (s wish) effective() tidegate.Bounds {
	b, err := s.mode.Bounds(s.bounds)
	if err != nil {
		panic(err)
	}
	return b
}

// view is the registry at one revision. It never changes once made.
type view struct {
	revision int64 // without the beats
	beats    int64 // writes of the gates' own, each pulse: they move the store's revision too
	cluster  int   // grows when the registry is put back with revisions moved forward
	keys     []fence.KeyState
	wishes   []wish
	frozen   bool
}

// Messages to and from the registry (etcd). Only gates speak with it.
type (
	mRead struct { // linearizable
		plan  *running // whose ReadKeys it is; nil: the gate's own look, or somebody's fresh read
		token uint64
		then  func(*view)
	}
	mKeys struct {
		req  *mRead
		view *view
	}
	mTxn struct {
		plan  *running
		token uint64
		puts  []fence.Put
		save  fence.Plan
	}
	mTxnDone struct {
		plan *running
		done fence.TxnDone
	}
	mSave struct{ plan fence.Plan }
	// mSwap is one compare-and-swap of epoch keys that a gate makes for somebody.
	mSwap struct {
		what      string
		streams   []int
		revisions []int64 // -1: whatever it is
		next      func(stream int, r fence.EpochRecord) (fence.EpochRecord, error)
		done      func(ok bool, v *view) // at the gate
	}
	mSwapped struct {
		req  *mSwap
		ok   bool
		view *view
	}
	// mLease renews the output lease of a stream's holder, or asks how long one runs
	// yet when nobody is named.
	mLease struct {
		stream int
		by     fence.Promise
		then   func(ttl time.Duration)
	}
	mLeased struct {
		req *mLease
		ttl time.Duration
	}
	mChanged struct{ view *view } // a watch's event
	mSet     struct {             // an operator's setting
		stream int
		set    func(*wish)
		freeze *bool
	}
)

// registry is a linearizable store with compare-and-swap over several keys.
type registry struct {
	host
	v     *view
	plans []fence.Plan
	old   *view // a backup
	oldAt time.Duration

	oldPlans []fence.Plan
	slow     time.Duration
	lease    []tidegate.Instant // per stream, until when one runs
	keep     []tidegate.Instant // with the backup
}

func newRegistry(w *world, m *computer) *registry {
	r := &registry{v: &view{revision: 1}}
	r.host = m.newHost("etcd", r.receive)
	w.net.add(&r.host)
	return r
}

func (r *registry) rec(stream int) *fence.EpochRecord { return &r.v.keys[stream].Record }

// commit makes the next revision.
func (r *registry) commit(change func(v *view)) {
	v := *r.v
	v.keys, v.wishes = slices.Clone(v.keys), slices.Clone(v.wishes)
	v.revision++
	change(&v)
	r.v = &v
	for _, g := range r.w.gates {
		r.send(&g.host, &mChanged{r.v})
	}
}

func (r *registry) answer(to *host, msg any) {
	if r.slow > r.w.now {
		r.after(r.w.jitter(250*time.Millisecond), func() { r.send(to, msg) })
		return
	}
	r.send(to, msg)
}

func (r *registry) receive(from *host, msg any) {
	switch m := msg.(type) {
	case *mRead:
		r.answer(from, &mKeys{m, r.v})
	case *mTxn:
		r.answer(from, &mTxnDone{m.plan, r.txn(m)})
	case *mSave:
		r.save(m.plan)
	case *mSwap:
		ok := r.swap(m)
		r.answer(from, &mSwapped{m, ok, r.v})
	case *mLease:
		r.answer(from, &mLeased{m, r.leased(m)})
	case *mSet:
		r.commit(func(v *view) {
			if m.freeze != nil {
				v.frozen = *m.freeze
			}
			if m.set != nil {
				m.set(&v.wishes[m.stream])
			}
		})
	}
}

func (r *registry) txn(m *mTxn) fence.TxnDone {
	for _, p := range m.puts {
		if k := &r.v.keys[r.w.short(p.Stream)]; p.IfRevision >= 0 && k.Revision != p.IfRevision {
			r.w.log("etcd", "", "conflict", "stream %d", r.w.short(p.Stream))
			return fence.TxnDone{Token: m.token}
		}
	}
	r.commit(func(v *view) {
		for _, p := range m.puts {
			r.put(v, r.w.short(p.Stream), p.Record)
		}
	})
	r.save(m.save)
	return fence.TxnDone{Token: m.token, Committed: true, Revision: r.v.revision}
}

// leased grants, or tells, an output lease. A grant and the reservation of a higher
// epoch are transactions on the same key.
func (r *registry) leased(m *mLease) time.Duration {
	now := r.m.boot()
	if m.by == (fence.Promise{}) {
		return max(0, time.Duration(r.lease[m.stream]-now))
	}
	rec := r.rec(m.stream)
	ttl, holds := rec.Gate.Lease, rec.Promise() == m.by && (rec.State == fence.StateActive || rec.State == fence.StateSwitching)
	if !holds && mutate.Broken(mutate.LeaseNoRenew) {
		holds = true
	}
	if !holds || ttl == 0 {
		return 0
	}
	if rec.Promise() == m.by { // broken: the old holder's lease is renewed beside the new key
		r.lease[m.stream] = now + tidegate.Instant(ttl)
	}
	return ttl
}

func (r *registry) put(v *view, stream int, rec fence.EpochRecord) {
	k := &v.keys[stream]
	old := k.Record
	k.Revision, k.Record = v.revision, rec.Clone()
	if r.w.trace != nil {
		r.w.log("etcd", "", "put", "stream %d rev %d %s epoch %s gate %s/%s head %s", stream, v.revision, rec.State, rec.Epoch, rec.Gate.State, rec.Gate.Mode, rec.Head)
	}
	r.w.oracle.recorded(stream, old, k.Record)
}

func (r *registry) swap(m *mSwap) bool {
	next := make([]fence.EpochRecord, len(m.streams))
	for i, s := range m.streams {
		k := &r.v.keys[s]
		if m.revisions[i] >= 0 && k.Revision != m.revisions[i] {
			return false
		}
		var err error
		if next[i], err = m.next(s, k.Record); err != nil {
			r.w.log("etcd", "", "refused", "%s stream %d: %v", m.what, s, err)
			return false
		}
	}
	r.commit(func(v *view) {
		for i, s := range m.streams {
			r.put(v, s, next[i])
		}
	})
	return true
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

func (r *registry) saved(id tidegate.ID) *fence.Plan {
	for i := range r.plans {
		if r.plans[i].ID == id {
			return &r.plans[i]
		}
	}
	return nil
}

func (r *registry) backup() {
	r.w.log("etcd", "", "backup", "rev %d", r.v.revision)
	r.old, r.oldAt, r.keep = r.v, r.w.now, slices.Clone(r.lease)
	r.oldPlans = slices.Clone(r.plans)
}

// beat is a gate's write of what it sees: nobody else looks at it.
func (r *registry) beat() {
	if r.up {
		v := *r.v
		v.beats++
		r.v = &v
	}
}

// clock is what the store itself counts.
func (v *view) clock() int64 { return v.revision + v.beats }

// restore puts the backup back: the gates are stopped for it, because the store
// lives in their processes. bump moves the revisions forward, past any that was
// ever given out; otherwise the same numbers come a second time, and only the
// gates' own marks tell.
func (r *registry) restore(bump bool) {
	if r.old == nil || r.w.now < r.oldAt+backupAge {
		return
	}
	r.w.log("etcd", "", "restore", "rev %d to %d bump=%v", r.v.revision, r.old.revision, bump)
	moved := true // since the backup, so that the nodes know better
	for i := range r.old.keys {
		moved = moved && r.w.oracle.streams[i].active.Epoch > r.old.keys[i].Record.Epoch
	}
	forget := moved && r.w.oneIn(2) // the gates' disks were lost with it
	for _, g := range r.w.gates {
		g.stop()
		if forget {
			g.mark = mark{}
		}
	}
	v := *r.old
	v.keys = slices.Clone(v.keys)
	v.cluster = r.v.cluster + 1
	if bump {
		v.revision = r.v.clock() + 1000
		for i := range v.keys {
			v.keys[i].Revision = v.revision
		}
	} else {
		v.cluster = r.v.cluster // members keep the identity that their directories hold
	}
	r.old, r.plans = nil, r.oldPlans
	copy(r.lease, r.keep)
	for i := range v.keys {
		r.w.oracle.restored(i, r.v.keys[i].Record, v.keys[i].Record)
	}
	r.v = &v
	for _, g := range r.w.gates {
		r.w.after(r.w.jitter(100*time.Millisecond), func() {
			if !g.up {
				g.start()
			}
		})
	}
}

// backupAge is how old a backup is at least when it is put back: older than the
// time between two pulses of a gate.
const backupAge = time.Second

func (r *registry) outage(d time.Duration) {
	r.up = false
	r.w.log("etcd", "", "down", "%s", d)
	r.w.after(d, func() { r.up = true })
}
