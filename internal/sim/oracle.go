package sim

import (
	"math/bits"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// oracle sees everything and judges at the moment a thing happens. It never
// helps: nothing in a world reads it, except calls, which is only bookkeeping.
type oracle struct {
	w       *world
	calls   []caller
	streams []*truth
	sinks   []tidegate.Epoch // highest that a client took something of
	toldAt  []time.Duration  // when
}

// truth is what is really so about one stream.
type truth struct {
	entries map[tidegate.Chain]*entry // every batch ever sealed
	exposed []*entry                  // by seq-1: committed, or recovered by an ACTIVE epoch
	holders map[tidegate.Epoch]tidegate.HolderID
	active  fence.EpochRecord       // the highest ACTIVE one
	vouched fence.EpochRecord       // the last one that was opened without a fence quorum
	forced  map[tidegate.Epoch]bool // a head was chosen without a quorum, in an epoch that may never be opened
	given   map[*entry]bool         // were exposed, and given up by a choice without a quorum that was opened
	adopted []adoption
	nodes   []nodeTruth

	records []recTruth
	terms   map[tidegate.Epoch]*term
	turns   []turn
	pending []int32 // records that were released and are not durable, in order of release
}

// adoption is one reply that said "adopted", with the log as it was then.
type adoption struct {
	member fence.Member
	epoch  tidegate.Epoch
	holder tidegate.HolderID
	log    []*entry // the fsynced part
}

type nodeTruth struct {
	replied  tidegate.Epoch    // highest promise ever replied, by the node's name, whatever its disk
	by       tidegate.HolderID // whom it was made to
	enforced tidegate.Epoch    // in this life
	disk     tidegate.Epoch    // on this disk
	had      []*entry          // fsynced at losses of the disk: what its acks may have counted for
	marked   int
	applied  int // entries, in any life
}

func newOracle(w *world) *oracle {
	o := &oracle{w: w, sinks: make([]tidegate.Epoch, w.shape.streams), toldAt: make([]time.Duration, w.shape.streams)}
	for range w.shape.streams {
		o.streams = append(o.streams, &truth{
			entries: map[tidegate.Chain]*entry{{}: origin}, holders: map[tidegate.Epoch]tidegate.HolderID{},
			nodes: make([]nodeTruth, w.shape.n), terms: map[tidegate.Epoch]*term{}, forced: map[tidegate.Epoch]bool{}, given: map[*entry]bool{},
		})
	}
	return o
}

func (o *oracle) node(ns *nodeStream) *nodeTruth { return &o.streams[ns.i].nodes[ns.s.i] }

// --- writers ---

// sealed: I2, one holder per epoch.
func (o *oracle) sealed(as *agentStream, e *entry) {
	t := o.streams[as.i]
	if h, ok := t.holders[e.pos.Epoch]; !ok || h != e.holder {
		o.w.fail("I2", "stream %d: batch %s sealed by %.8s, epoch belongs to %.8s", as.i, e.pos, e.holder, h)
	}
	t.entries[e.pos.Chain] = e
}

// durable: I9, D is monotone and true; I25, nothing leaves the ring before.
func (o *oracle) durable(as *agentStream, d tidegate.Seq) {
	if d < as.base.pos.Seq {
		o.w.fail("I9", "stream %d: D went back from %s to %s", as.i, as.base.pos.Seq, d)
	}
	e := as.at(d)
	switch {
	case e == nil:
		o.w.fail("I25", "stream %d: D is %s, which has left the ring", as.i, d)
	case e != as.base:
		if n := bits.OnesCount32(e.synced); n < as.quorum() {
			o.w.fail("I9", "stream %d: D is %s, which only %d nodes ever fsynced", as.i, e.pos, n)
		}
	}
}

func (as *agentStream) quorum() int {
	if r := as.record(); r != nil {
		return r.Config.W
	}
	return as.w.Record().Config.W
}

// release: I5, I7.
func (o *oracle) release(as *agentStream, e *entry) {
	t := o.streams[as.i]
	o.w.res.Batches++
	if e.pos.Epoch < t.vouched.Epoch && e.pos.Seq >= t.vouched.StartSeq {
		return // where no fence quorum was, an operator vouched for its end, and was wrong
	}
	if e.pos.Epoch < t.active.Epoch && e.pos.Seq >= t.active.StartSeq {
		o.w.fail("I5", "stream %d: %s became durable under its epoch after epoch %s was opened from %s", as.i, e.pos, t.active.Epoch, t.active.StartSeq)
	}
	o.expose(as.i, e, "I7")
}

// expose folds the log that ends at e into what the world has seen.
func (o *oracle) expose(stream int, e *entry, invariant string) {
	t := o.streams[stream]
	seq := int(e.pos.Seq)
	if seq < len(t.exposed) {
		if invariant == "I6" || seq > 0 && t.exposed[seq-1] != e {
			o.w.fail(invariant, "stream %d: log ends at %s, but %d batches were exposed", stream, e.pos, len(t.exposed))
		}
		return
	}
	at := len(t.exposed)
	for x := e; int(x.pos.Seq) > at; x = x.prev() {
		t.exposed = append(t.exposed, x)
	}
	slices.Reverse(t.exposed[at:])
	below := origin
	if at > 0 {
		below = t.exposed[at-1]
	}
	if at < len(t.exposed) && t.exposed[at].prev() != below || at == len(t.exposed) && e != below {
		o.w.fail(invariant, "stream %d: the log that ends at %s has another batch at %d than the one exposed", stream, e.pos, at)
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
	if (ns.meta.EpochRead || !ns.meta.Limbo) && ns.meta.Promise.Epoch < n.replied {
		o.w.fail("I21", "%s stream %d: promised %s, remembers %s after a crash", ns.s.name, ns.i, n.replied, ns.meta.Promise.Epoch)
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
func (o *oracle) accepts(ns *nodeStream, epoch tidegate.Epoch, holder tidegate.HolderID, e *entry) {
	n, t := o.node(ns), o.streams[ns.i]
	if epoch < n.replied {
		o.w.fail("I3", "%s stream %d: accepted %s under epoch %s after it had promised %s", ns.s.name, ns.i, e.pos, epoch, n.replied)
	}
	if h := t.holders[epoch]; h != holder || e.pos.Epoch != epoch || e.holder != holder {
		o.w.fail("I2", "%s stream %d: accepted %s of %.8s, epoch %s belongs to %.8s", ns.s.name, ns.i, e.pos, holder, epoch, h)
	}
}

// appended: I8, equal chains mean equal prefixes: each batch follows its parent.
func (o *oracle) appended(ns *nodeStream, e *entry) {
	if k := len(ns.log); ns.entry(k-1) != e.prev() || e.pos.Seq != tidegate.Seq(k) {
		o.w.fail("I8", "%s stream %d: %s does not follow the log", ns.s.name, ns.i, e.pos)
	}
}

func (o *oracle) syncedTo(ns *nodeStream) {
	n, t := o.node(ns), o.streams[ns.i]
	for ; n.marked < ns.synced; n.marked++ {
		e := ns.log[n.marked]
		e.synced |= 1 << ns.s.i
		if bits.OnesCount32(e.synced) >= t.active.Config.W {
			t.durable(e)
		}
	}
}

// acked: I5, no ack under an older epoch after a promise.
func (o *oracle) acked(ns *nodeStream, a fence.Ack) {
	if n := o.node(ns); a.Epoch < n.replied {
		o.w.fail("I5", "%s stream %d: acknowledged %s under epoch %s after it had promised %s", ns.s.name, ns.i, a.Durable, a.Epoch, n.replied)
	}
}

func (o *oracle) repliedFence(ns *nodeStream, r fence.FenceReply) {
	if n := o.node(ns); !r.Refused && r.Leased == 0 {
		if !r.Limbo && r.Promise.Epoch < n.replied {
			o.w.fail("I21", "%s stream %d: promised %s after %s", ns.s.name, ns.i, r.Promise, n.replied)
		}
		o.swore(ns, r.Promise.Epoch, r.Promise.Holder)
	}
}

// swore: I3, one epoch is never promised to two holders.
func (o *oracle) swore(ns *nodeStream, epoch tidegate.Epoch, holder tidegate.HolderID) {
	n := o.node(ns)
	if epoch == n.replied && holder != n.by && !ns.meta.Limbo {
		o.w.fail("I3", "%s stream %d: epoch %s promised to %.8s after %.8s", ns.s.name, ns.i, epoch, holder, n.by)
	}
	if epoch >= n.replied {
		n.replied, n.by = epoch, holder
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
	o.swore(ns, r.Epoch, r.Holder)
	t.adopted = append(t.adopted, adoption{r.Member, r.Epoch, r.Holder, ns.log[:ns.synced:ns.synced]})
}

// cut: I18, what is removed lies in quarantine first; I24.
func (o *oracle) cut(ns *nodeStream, e fence.Cut, quarantined []*entry) {
	n := o.node(ns)
	n.marked = min(n.marked, int(e.To.Seq))
	if removed := ns.log[e.To.Seq:]; len(quarantined) < len(removed) || !slices.Equal(quarantined[len(quarantined)-len(removed):], removed) {
		o.w.fail("I18", "%s stream %d: removes (%d,%d], which is not in quarantine", ns.s.name, ns.i, e.To.Seq, len(ns.log))
	}
	o.w.log(ns.s.addr, "", "quarantine", "stream %d (%d,%d] %s", ns.i, e.To.Seq, len(ns.log), e.Reason)
	if int(e.To.Seq) < ns.applied && !e.Committed {
		o.w.fail("I24", "%s stream %d: cut to %s below the applied %d", ns.s.name, ns.i, e.To, ns.applied)
	}
}

// applied: I24, only what is committed is applied; I20 and I29, the state at a
// place is a function of the log up to it, whoever computed it.
func (o *oracle) applied(ns *nodeStream, e *entry, s state) {
	t := o.streams[ns.i]
	// A node that has not heard of a choice without a quorum goes on to apply what it
	// gave up; the adopt that brings it there says that its warm copy is to be rebuilt.
	if n := int(e.pos.Seq); (n > len(t.exposed) || t.exposed[n-1] != e) && !t.given[e] {
		o.w.fail("I24", "%s stream %d: applied %s, which is not committed", ns.s.name, ns.i, e.pos)
	}
	if s != e.state {
		o.w.fail("I20", "%s stream %d: state at %s is %x after %d records, want %x after %d", ns.s.name, ns.i, e.pos, s.hash, s.n, e.state.hash, e.state.n)
	}
	n := o.node(ns)
	n.applied = max(n.applied, int(e.pos.Seq))
}

// --- the registry ---

// recorded: I1, I4, I6, I14, and what the changes of gates and holders mean.
func (o *oracle) recorded(stream int, old, rec fence.EpochRecord) {
	t := o.streams[stream]
	if rec.Epoch < old.Epoch {
		o.w.fail("I1", "stream %d: epoch fell from %s to %s", stream, old.Epoch, rec.Epoch)
	}
	if err := rec.Validate(); err != nil {
		o.w.fail("I4", "stream %d: %v", stream, err)
	}
	if rec.Epoch == rec.ActiveEpoch {
		o.gateRecorded(stream, old, rec)
	}
	if rec.Unclean {
		t.forced[rec.Epoch] = true
	}
	if rec.State == fence.StateDemoted {
		o.handedOver(stream, rec)
	}
	again := old.Epoch == rec.Epoch && old.Holder == rec.Holder && (old.State == fence.StateActive || old.State == fence.StateSwitching)
	if rec.State != fence.StateActive || again {
		if rec.Epoch == t.active.Epoch && again && rec.Holder == t.active.Holder {
			t.active.Config = rec.Config
		}
		return
	}
	if h, ok := t.holders[rec.Epoch]; ok && h != rec.Holder.UUID {
		o.w.fail("I1", "stream %d: epoch %s of %.8s opened for %.8s", stream, rec.Epoch, h, rec.Holder.UUID)
	}
	t.holders[rec.Epoch] = rec.Holder.UUID
	adopters, target := 0, rec.Kind == fence.KindAcquire || rec.Kind == fence.KindReconfigure
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
		t.active = rec // the same epoch once more: the same writer goes on
		return
	}
	head := t.entries[rec.Head.Chain]
	if rec.Unclean {
		t.giveUp(head) // it says so
		t.vouched = rec
	}
	o.expose(stream, head, "I6")
	if rec.Epoch > t.active.Epoch {
		o.turned(stream, rec, head)
		t.active = rec
	}
}

// giveUp leaves what was exposed and is not part of the log that ends at head: one
// that a single node had may have parted from it long before.
func (t *truth) giveUp(head *entry) {
	e, n := head, len(t.exposed)
	for ; int(e.pos.Seq) > n; e = e.prev() {
	}
	for ; n > int(e.pos.Seq) || n > 0 && t.exposed[n-1] != e; n-- {
		t.given[t.exposed[n-1]] = true
		if n == int(e.pos.Seq) {
			e = e.prev()
		}
	}
	t.exposed = t.exposed[:n]
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
	t, s := o.streams[stream], o.w.standbyOn(m.Node)
	ns := s.streams[stream]
	o.w.log("etcd", "", "exitlimbo", "stream %d %s epoch %s", stream, m, rec.Epoch)
	if ns.meta.Incarnation != m.Incarnation {
		return // lost its disk again meanwhile: a dead incarnation is named, and counts for nothing
	}
	n := &t.nodes[s.i]
	need := min(len(n.had), len(t.exposed))
	for need > 0 && n.had[need-1] != t.exposed[need-1] {
		need-- // never exposed: divergent, and rightly gone
	}
	if need > ns.synced || need > 0 && ns.log[need-1] != t.exposed[need-1] {
		o.w.fail("I22", "stream %d: %s left limbo with %d batches fsynced, had acknowledged %d", stream, m, ns.synced, need)
	}
	n.had = nil
}

// gaveUp reports whether a member's log was made equal, or is being made equal, to
// a head that an operator has let fewer than R members choose. The record has said
// so since before the first adopt; nobody may take it for a member that knows what
// it had, and no record may be clean that rests on it.
func (t *truth) gaveUp(m *fence.NodeMeta) bool {
	e := max(m.History.Last().Epoch, m.GivingUp.Epoch)
	return e > t.active.Epoch && t.forced[e]
}

// standing: I19, what is committed is never absent from all fence quorums: fewer
// than R members of the last active configuration lack it, those aside that do not
// know what they had. Called now and then.
func (o *oracle) standing() {
	for i, t := range o.streams {
		if len(t.exposed) == 0 || t.active.Epoch == 0 {
			continue
		}
		last, have, excused := t.exposed[len(t.exposed)-1], 0, 0
		for _, m := range t.active.Config.Members {
			ns := o.w.standbyOn(m.Node).streams[i]
			switch {
			case ns.meta.Incarnation != m.Incarnation || ns.meta.Limbo || ns.rotten > 0 || t.gaveUp(&ns.meta):
				excused++
			case ns.synced >= len(t.exposed) && ns.log[len(t.exposed)-1] == last:
				have++
			}
		}
		if have+excused < t.active.Config.W {
			o.w.fail("I19", "stream %d: %s is committed, %d members have it, want %d", i, last.pos, have, t.active.Config.W)
		}
	}
}
