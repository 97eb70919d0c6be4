package fence

import (
	"fmt"
	"math"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/mutate"
)

// Node is a standby node's part of one stream: what it has sworn, what its log
// has adopted, and what it may acknowledge and apply.
//
// Invariants:
//  1. promise (enforced) >= disk.Promise, and never falls (I1, I21)
//  2. disk.History.Last().Epoch <= disk.Promise.Epoch
//  3. durable.Seq <= end.Seq
//  4. an ack is made only while promise, disk.Promise and the adopted term are one (I3, I5)
//  5. at most one operation runs, and it waits for exactly one token
//  6. while a lease runs, promise.Holder is the one it was granted to, or the
//     promise was attested, or came with an adopt; it is kept through both
//
// Not safe for concurrent use.
type Node struct {
	disk    NodeMeta // as it stands on disk
	promise Promise  // enforced; ahead of disk.Promise while a Persist is under way
	view    LogView
	end     tidegate.LogPos // received
	durable tidegate.LogPos
	commit  tidegate.Seq // highest known; volatile, learned again after a start
	started bool         // the start counter is on disk: acks may be stamped
	acks    uint64       // low 40 bits of Ack.Stamp: four years at 8,000 acks a second
	cutAt   tidegate.Seq // lowest cut of this run: late sync reports beyond it are checked
	token   uint64
	op      *nodeOp
	queue   []*nodeOp // requests that wait for op
	record  *RecordRead
	now     tidegate.Instant // latest heard, boot clock
	owed    bool             // what disk.LeaseTTL says may run from the next instant heard
	word    leaseWord        // given
	asked   leaseWord        // a fence waits for the word to be out
	out     []NodeEffect
}

// NodeQueueMax bounds the distinct requests that wait for the running one.
const NodeQueueMax = 16

// NewNode starts a node's stream from its metadata and the durable end of its
// log. The effects (a Persist of the start counter) must be carried out; no ack
// is made before.
func NewNode(meta NodeMeta, end tidegate.LogPos, view LogView) (*Node, []NodeEffect) {
	n := &Node{
		disk: meta, promise: meta.Promise, view: view,
		end: end, durable: end, cutAt: math.MaxUint64, owed: meta.LeaseTTL > 0,
	}
	n.disk.History = meta.History.Clone()
	if mutate.Broken(mutate.Limbo) {
		n.disk.Limbo = false
	}
	if mutate.Broken(mutate.Limbo) || mutate.Broken(mutate.ReadEpoch) {
		n.disk.EpochRead = true
	}
	n.begin(&nodeOp{kind: opStart})
	return n, n.take()
}

// Step takes one event and returns what must be done, in order. The slice
// belongs to the caller.
func (n *Node) Step(ev NodeEvent) []NodeEffect {
	switch ev := ev.(type) {
	case FenceAsked:
		n.clock(ev.Now)
		n.askFence(ev)
	case LeaseAsked:
		n.clock(ev.Now)
		n.askLease(ev)
	case Started:
		n.clock(ev.Now)
	case AdoptAsked:
		n.askAdopt(ev)
	case PromoteAsked:
		n.out = append(n.out, ReplyPromote{ev.Call, n.promoteReply(ev.Req)})
	case RecordRead:
		n.readRecord(ev)
	case Persisted:
		n.complete(ev.Token, ev)
	case Synced:
		if n.complete(ev.Token, ev) {
			break
		}
		n.synced(ev.End)
	case ChainRead:
		n.complete(ev.Token, ev)
	case CutDone:
		n.complete(ev.Token, ev)
	case Fetched:
		n.complete(ev.Token, ev)
	}
	return n.take()
}

// readRecord keeps the newest record until no operation runs. A fresh read that
// still waits must not be lost to a watched record that came after it: what is
// at least as new as a linearizable read is as good as one.
func (n *Node) readRecord(ev RecordRead) {
	if old := n.record; old != nil && old.Fresh && !ev.Fresh {
		if ev.Record.Epoch < old.Record.Epoch {
			ev = *old
		}
		ev.Fresh = true
	}
	n.record = &ev
	n.idle()
}

func (n *Node) take() []NodeEffect {
	out := n.out
	n.out = nil
	return out
}

// CheckAppend reports whether a batch sealed under the epoch sealed may be
// appended for a session attached as (epoch, holder): nil, or an error wrapping
// [tidegate.ErrFenced] (a higher promise: the session is over for good) or
// [ErrNotAdopted] (try again later). It allocates nothing.
func (n *Node) CheckAppend(epoch tidegate.Epoch, holder tidegate.HolderID, sealed tidegate.Epoch) error {
	if mutate.Broken(mutate.EpochCheck) {
		return nil
	}
	t := n.Adopted()
	switch {
	case !n.promise.Allows(epoch, holder):
		return errFencedAppend
	case n.promise != n.disk.Promise, n.promise.Epoch != epoch,
		t.Epoch != epoch, t.Holder != holder, n.logBusy():
		return errNotAdoptedAppend
	case sealed != epoch:
		return errForeignBatch
	}
	return nil
}

// logBusy reports whether a cut or a fetch owns the log.
func (n *Node) logBusy() bool { return n.op != nil && n.op.kind == opAdopt }

// Received tells that the log now ends at end, fsynced or not.
func (n *Node) Received(end tidegate.LogPos) { n.end = end }

// Durable tells that the log is fsynced through end and returns the ack to
// send; ok is false when nobody may count it. It allocates nothing. A report of
// a sync that began before a cut is recognised and ignored.
func (n *Node) Durable(end tidegate.LogPos) (ack Ack, ok bool) {
	n.synced(end)
	return n.Ack()
}

func (n *Node) synced(end tidegate.LogPos) {
	if end.Seq <= n.durable.Seq || end.Seq > n.end.Seq {
		return
	}
	if end.Seq > n.cutAt {
		if at, err := n.view.At(end.Seq); err != nil || at.Chain != end.Chain {
			return
		}
	}
	n.durable = end
}

// Ack returns the current ack, for a session that has just attached or to tell
// of progress in Received; ok is false when nobody may count it.
func (n *Node) Ack() (ack Ack, ok bool) {
	t := n.Adopted()
	owes := n.promise == n.disk.Promise && t.Epoch == n.promise.Epoch && t.Holder == n.promise.Holder
	if mutate.Broken(mutate.NoAckAfterFence) || mutate.Broken(mutate.EpochCheck) {
		owes = true
	}
	if !n.started || !owes || t.Epoch == 0 || n.logBusy() {
		return Ack{}, false
	}
	n.acks++
	d := n.durable
	if mutate.Broken(mutate.AckAfterSync) {
		d = n.end
	}
	return Ack{
		Node: n.disk.Node, Incarnation: n.disk.Incarnation, Epoch: t.Epoch,
		Received: n.end.Seq, Durable: d.Seq, Chain: d.Chain, Stored: d.Seq,
		Stamp: uint64(n.disk.Starts)<<40 | n.acks,
	}, true
}

// Commit tells what the holder of epoch has committed (its D). What a holder of
// the adopted term committed stays true even after a higher promise.
func (n *Node) Commit(epoch tidegate.Epoch, holder tidegate.HolderID, seq tidegate.Seq) {
	t := n.disk.History.Last()
	if t.Epoch == epoch && t.Holder == holder && epoch != 0 {
		n.commit = max(n.commit, seq)
	}
}

// ApplyTo returns the highest seq that may be applied to the warm copy: known
// committed and on this node's disk. (I24)
func (n *Node) ApplyTo() tidegate.Seq {
	if mutate.Broken(mutate.ApplyCommitted) {
		return n.durable.Seq
	}
	return min(n.commit, n.durable.Seq)
}

// Meta returns the metadata as it stands on disk. The history must not be changed.
func (n *Node) Meta() NodeMeta { return n.disk }

// Promise returns the promise that the node enforces.
func (n *Node) Promise() Promise { return n.promise }

// Adopted returns the term that the log has adopted; the zero term when the log
// is shorter than that (damage), so that the node is asked to adopt again.
func (n *Node) Adopted() Term {
	if t := n.disk.History.Last(); t.StartSeq <= n.end.Seq+1 {
		return t
	}
	return Term{}
}

// Limbo reports whether the node does not know what it once acknowledged.
func (n *Node) Limbo() bool { return n.disk.Limbo }

// EndPos returns the received end of the log, DurablePos the fsynced one.
func (n *Node) EndPos() tidegate.LogPos { return n.end }

// DurablePos returns the fsynced end of the log.
func (n *Node) DurablePos() tidegate.LogPos { return n.durable }

// KnownCommit returns the highest seq known to be committed; it may lie beyond the log.
func (n *Node) KnownCommit() tidegate.Seq { return n.commit }

func (n *Node) promoteReply(req PromoteRequest) PromoteReply {
	want := Promise{req.Epoch, req.Holder}
	t := n.Adopted()
	switch {
	case !n.promise.Allows(req.Epoch, req.Holder):
		return PromoteReply{Class: tidegate.Fenced, Why: fmt.Sprintf("promised %s", n.promise)}
	case n.promise != want, n.disk.Promise != want, t.Epoch != req.Epoch, t.Holder != req.Holder, n.logBusy():
		return PromoteReply{Class: tidegate.Transient, Why: "epoch " + req.Epoch.String() + " not adopted"}
	case n.durable.Seq < req.Head.Seq:
		return PromoteReply{Class: tidegate.Transient, Why: fmt.Sprintf("durable %s, want %s", n.durable.Seq, req.Head.Seq)}
	}
	at, err := n.view.At(req.Head.Seq)
	if err != nil || at.Chain != req.Head.Chain {
		return PromoteReply{Class: tidegate.Corrupt, Why: fmt.Sprintf("own log at %s is %s, want %s", req.Head.Seq, at, req.Head)}
	}
	n.commit = max(n.commit, req.Head.Seq)
	return PromoteReply{Accepted: true}
}
