package sim

import (
	"math/bits"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// oracle sees everything and judges at the moment a thing happens. It never
// helps: nothing in a world reads it, except calls, which is only bookkeeping.
type oracle struct {
	w       *world
	calls   []caller
	streams []*truth
}

// truth is what is really so about one stream.
type truth struct {
	batches map[tidegate.Chain]entry  // every batch ever sealed
	synced  map[tidegate.Chain]uint32 // nodes, as bits, that ever had it fsynced
	exposed []tidegate.Chain          // by seq-1: released, or recovered by an ACTIVE epoch
	holders map[tidegate.Epoch]tidegate.HolderID
	active  fence.EpochRecord // the highest ACTIVE one
	adopted []adoption
	nodes   []nodeTruth
}

// adoption is one reply that said "adopted", with the log as it was then.
type adoption struct {
	member fence.Member
	epoch  tidegate.Epoch
	holder tidegate.HolderID
	log    []entry // the fsynced part
}

type nodeTruth struct {
	replied  tidegate.Epoch // highest promise ever replied, by the node's name, whatever its disk
	enforced tidegate.Epoch // in this life
	disk     tidegate.Epoch // on this disk
	had      []entry        // fsynced at losses of the disk: what its acks may have counted for
	marked   int
}

func newOracle(w *world) *oracle {
	o := &oracle{w: w}
	for range w.shape.streams {
		o.streams = append(o.streams, &truth{
			batches: map[tidegate.Chain]entry{}, synced: map[tidegate.Chain]uint32{},
			holders: map[tidegate.Epoch]tidegate.HolderID{}, nodes: make([]nodeTruth, w.shape.n),
		})
	}
	return o
}

func (o *oracle) node(ns *nodeStream) *nodeTruth { return &o.streams[ns.i].nodes[o.index(ns.s.name)] }

func (o *oracle) index(name tidegate.NodeName) int { return int(name[1] - '0') }

// --- writers ---

// sealed: I2, one holder per epoch.
func (o *oracle) sealed(stream int, e entry) {
	t := o.streams[stream]
	if h, ok := t.holders[e.pos.Epoch]; !ok || h != e.holder {
		o.w.fail("I2", "stream %d: batch %s sealed by %.8s, epoch belongs to %.8s", stream, e.pos, e.holder, h)
	}
	t.batches[e.pos.Chain] = e
}

// durable: I9, D is monotone and true.
func (o *oracle) durable(as *agentStream, d tidegate.Seq) {
	t := o.streams[as.i]
	if d < as.released {
		o.w.fail("I9", "stream %d: D went back from %s to %s", as.i, as.released, d)
	}
	pos, ok := as.at(d)
	if !ok || d == as.w.Record().Head.Seq {
		return
	}
	if n := bits.OnesCount32(t.synced[pos.Chain]); n < as.w.Record().Config.W {
		o.w.fail("I9", "stream %d: D is %s, which only %d nodes ever fsynced", as.i, pos, n)
	}
}

// release: I5, I6, I7.
func (o *oracle) release(as *agentStream, e entry) {
	t := o.streams[as.i]
	o.w.res.Released++
	if e.pos.Epoch < t.active.Epoch && e.pos.Seq >= t.active.StartSeq {
		o.w.fail("I5", "stream %d: %s became durable under its epoch after epoch %s was opened from %s", as.i, e.pos, t.active.Epoch, t.active.StartSeq)
	}
	o.expose(as.i, e.pos, "I7")
}

// expose folds the log that ends at pos into what the world has seen.
func (o *oracle) expose(stream int, pos tidegate.LogPos, invariant string) {
	t := o.streams[stream]
	if int(pos.Seq) < len(t.exposed) {
		if invariant == "I6" || pos.Seq > 0 && t.exposed[pos.Seq-1] != pos.Chain {
			o.w.fail(invariant, "stream %d: log ends at %s, but %d batches were exposed", stream, pos, len(t.exposed))
		}
		return
	}
	var chain []tidegate.Chain
	c := pos.Chain
	for s := int(pos.Seq); s > len(t.exposed); s-- {
		chain = append(chain, c)
		c = t.batches[c].parent
	}
	if n := len(t.exposed); n > 0 && t.exposed[n-1] != c {
		o.w.fail(invariant, "stream %d: the log that ends at %s has another batch at %d than the one exposed", stream, pos, n)
		return
	}
	for i := len(chain) - 1; i >= 0; i-- {
		t.exposed = append(t.exposed, chain[i])
	}
}

func (o *oracle) distrusted(as *agentStream, e fence.Distrusted) {
	o.w.fail("I8", "stream %d: %s distrusted in a world where no disk lies: %s", as.i, e.Member, e.Why)
}

// --- nodes ---

// promised: I1, an enforced promise never falls while the process lives.
func (o *oracle) promised(ns *nodeStream) {
	n, p := o.node(ns), ns.n.Promise().Epoch
	if p < n.enforced {
		o.w.fail("I1", "%s stream %d: promise fell from %s to %s", ns.s.name, ns.i, n.enforced, p)
	}
	n.enforced = p
}

func (o *oracle) persisted(ns *nodeStream) {
	n := o.node(ns)
	if ns.meta.Promise.Epoch < n.disk {
		o.w.fail("I1", "%s stream %d: promise on disk fell from %s to %s", ns.s.name, ns.i, n.disk, ns.meta.Promise.Epoch)
	}
	n.disk = ns.meta.Promise.Epoch
}

// crashed: I21, what was replied is still there.
func (o *oracle) crashed(ns *nodeStream) {
	n := o.node(ns)
	n.enforced = ns.meta.Promise.Epoch
	n.marked = min(n.marked, len(ns.log))
	if ns.meta.EpochRead || !ns.meta.Limbo {
		if ns.meta.Promise.Epoch < n.replied {
			o.w.fail("I21", "%s stream %d: promised %s, remembers %s after a crash", ns.s.name, ns.i, n.replied, ns.meta.Promise.Epoch)
		}
	}
}

func (o *oracle) wiped(ns *nodeStream, damage bool) {
	n := o.node(ns)
	if n.marked > len(n.had) {
		n.had = ns.lost[:n.marked]
	}
	n.marked = min(n.marked, len(ns.log))
	if !damage {
		n.disk, n.enforced = 0, 0
	}
}

// accepts: I2, I3.
func (o *oracle) accepts(ns *nodeStream, epoch tidegate.Epoch, holder tidegate.HolderID, e entry) {
	n, t := o.node(ns), o.streams[ns.i]
	if epoch < n.replied {
		o.w.fail("I3", "%s stream %d: accepted %s under epoch %s after it had promised %s", ns.s.name, ns.i, e.pos, epoch, n.replied)
	}
	if h := t.holders[epoch]; h != holder || e.pos.Epoch != epoch || e.holder != holder {
		o.w.fail("I2", "%s stream %d: accepted %s of %.8s, epoch %s belongs to %.8s", ns.s.name, ns.i, e.pos, holder, epoch, h)
	}
}

// appended: I8, equal chains mean equal prefixes: each batch follows its parent.
func (o *oracle) appended(ns *nodeStream, e entry) {
	if k := len(ns.log); k > 1 && ns.log[k-2].pos.Chain != e.parent || e.pos.Seq != tidegate.Seq(k) {
		o.w.fail("I8", "%s stream %d: %s does not follow the log", ns.s.name, ns.i, e.pos)
	}
}

func (o *oracle) syncedTo(ns *nodeStream) {
	n, t := o.node(ns), o.streams[ns.i]
	for ; n.marked < ns.synced; n.marked++ {
		t.synced[ns.log[n.marked].pos.Chain] |= 1 << o.index(ns.s.name)
	}
}

// acked: I5, no ack under an older epoch after a promise.
func (o *oracle) acked(ns *nodeStream, a fence.Ack) {
	if n := o.node(ns); a.Epoch < n.replied {
		o.w.fail("I5", "%s stream %d: acknowledged %s under epoch %s after it had promised %s", ns.s.name, ns.i, a.Durable, a.Epoch, n.replied)
	}
}

func (o *oracle) repliedFence(ns *nodeStream, r fence.FenceReply) {
	if n := o.node(ns); !r.Refused {
		if !r.Limbo && r.Promise.Epoch < n.replied {
			o.w.fail("I21", "%s stream %d: promised %s after %s", ns.s.name, ns.i, r.Promise, n.replied)
		}
		n.replied = max(n.replied, r.Promise.Epoch)
	}
}

func (o *oracle) repliedAdopt(ns *nodeStream, r fence.AdoptReply) {
	if !r.Adopted {
		return
	}
	n, t := o.node(ns), o.streams[ns.i]
	if r.Epoch < n.replied {
		o.w.fail("I22", "%s stream %d: adopted %s after it had promised %s", ns.s.name, ns.i, r.Epoch, n.replied)
	}
	n.replied = max(n.replied, r.Epoch)
	t.adopted = append(t.adopted, adoption{r.Member, r.Epoch, r.Holder, ns.log[:ns.synced:ns.synced]})
}

// cut: I18 (the shell keeps what it removes) and I24.
func (o *oracle) cut(ns *nodeStream, e fence.Cut) {
	n := o.node(ns)
	n.marked = min(n.marked, int(e.To.Seq))
	o.w.log(ns.s.addr, "", "quarantine", "stream %d (%d,%d] %s", ns.i, e.To.Seq, len(ns.log), e.Reason)
	if e.To.Seq < ns.applied.Seq {
		o.w.fail("I24", "%s stream %d: cut to %s below the applied %s", ns.s.name, ns.i, e.To, ns.applied)
	}
}

// applied: I24, only what is committed is applied.
func (o *oracle) applied(ns *nodeStream) {
	t, p := o.streams[ns.i], ns.applied
	if int(p.Seq) > len(t.exposed) || t.exposed[p.Seq-1] != p.Chain {
		o.w.fail("I24", "%s stream %d: applied %s, which is not committed", ns.s.name, ns.i, p)
	}
}

// --- the registry ---

// recorded: I1, I4, I6, I14, I15.
func (o *oracle) recorded(stream int, old, rec fence.EpochRecord) {
	t := o.streams[stream]
	if rec.Epoch < old.Epoch {
		o.w.fail("I1", "stream %d: epoch fell from %s to %s", stream, old.Epoch, rec.Epoch)
	}
	if err := rec.Validate(); err != nil {
		o.w.fail("I4", "stream %d: %v", stream, err)
	}
	if rec.State != fence.StateActive {
		return
	}
	if h, ok := t.holders[rec.Epoch]; ok && h != rec.Holder.UUID {
		o.w.fail("I1", "stream %d: epoch %s of %.8s opened for %.8s", stream, rec.Epoch, h, rec.Holder.UUID)
	}
	t.holders[rec.Epoch] = rec.Holder.UUID
	adopters, target := 0, rec.Kind != fence.KindFailover
	for _, m := range rec.Config.Members {
		if t.hasAdopted(m, rec) {
			adopters++
			target = target || m.Node == rec.Holder.Node
		}
	}
	if adopters < rec.Config.W || !target {
		o.w.fail("I14", "stream %d: epoch %s opened with %d of %d adopters, target among them: %v", stream, rec.Epoch, adopters, rec.Config.W, target)
	}
	if a := t.active; a.Epoch == rec.Epoch && a.Holder == rec.Holder && a.Head == rec.Head {
		return // the same epoch once more, after the registry went back: the same writer goes on
	}
	o.expose(stream, rec.Head, "I6")
	if rec.Epoch > t.active.Epoch {
		t.active = rec.Clone()
	}
}

func (t *truth) hasAdopted(m fence.Member, rec fence.EpochRecord) bool {
	for _, a := range t.adopted {
		if a.member == m && a.epoch == rec.Epoch && a.holder == rec.Holder.UUID {
			h := int(rec.Head.Seq)
			if h == 0 || h <= len(a.log) && a.log[h-1].pos.Chain == rec.Head.Chain {
				return true
			}
		}
	}
	return false
}

// exitsLimbo: I22, it has again whatever its acks may have counted for.
func (o *oracle) exitsLimbo(stream int, rec fence.EpochRecord, m fence.Member) {
	t, s := o.streams[stream], o.w.standbys[o.index(m.Node)]
	o.w.log("etcd", "", "exitlimbo", "stream %d %s epoch %s", stream, m, rec.Epoch)
	if s.inc != m.Incarnation {
		return // lost its disk again meanwhile: a dead incarnation is named, and counts for nothing
	}
	n, ns := &t.nodes[o.index(m.Node)], s.streams[stream]
	need := min(len(n.had), len(t.exposed))
	for need > 0 && n.had[need-1].pos.Chain != t.exposed[need-1] {
		need-- // never exposed: divergent, and rightly gone
	}
	if need > ns.synced || need > 0 && ns.log[need-1].pos.Chain != t.exposed[need-1] {
		o.w.fail("I22", "stream %d: %s left limbo with %d batches fsynced, had acknowledged %d", stream, m, ns.synced, need)
	}
	n.had = nil
}

func (o *oracle) restored(int, fence.EpochRecord) {}

// reported: I23, a zero claim is true. Whatever was exposed is in the recovered
// log, or expose has already failed.
func (o *oracle) reported(p fence.Plan, loss []fence.LossStatement) {
	for i, l := range loss {
		r := p.Streams[i].Record
		if l.Kind == fence.LossZero && (r.Unclean || r.Restored || r.Gate.State != fence.GateArmed) {
			o.w.fail("I23", "stream %d: zero loss claimed over an unclean or unarmed recovery", i)
		}
	}
}
