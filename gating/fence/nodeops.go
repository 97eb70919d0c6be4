package fence

import (
	"errors"
	"fmt"
	"slices"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/mutate"
)

type opKind int

const (
	opStart  opKind = iota // persist the start counter
	opFence                // sync, persist the promise, reply
	opAdopt                // persist the promise, find the common point, cut, fetch, sync, persist the term, reply
	opRecord               // persist what the epoch record allows: promise read, limbo left
	opLease                // persist the length of a lease, then grant it
)

// nodeOp is one running operation. It waits for one token at a time.
type nodeOp struct {
	kind   opKind
	calls  []uint64
	fence  FenceRequest
	adopt  AdoptRequest
	before tidegate.Epoch // fence: promised until now
	meta   NodeMeta       // being persisted

	token     uint64
	next      func(NodeEvent) // takes the completion
	cancelled bool            // CancelFetch is out
	fetching  bool
	reached   tidegate.LogPos // adopt: where the log begins beyond the head; zero when it is copied to the head
	lo, hi    tidegate.Seq    // binary search of the common point: equal at lo, different at hi
	reason    string
}

func (o *nodeOp) promise() Promise {
	switch o.kind {
	case opFence:
		return Promise{o.fence.Epoch, o.fence.Holder}
	case opAdopt:
		return Promise{o.adopt.Epoch, o.adopt.Holder}
	}
	return Promise{}
}

func (o *nodeOp) same(p *nodeOp) bool { return o.kind == p.kind && o.promise() == p.promise() }

// --- running one operation at a time ---

func (n *Node) begin(o *nodeOp) {
	n.op = o
	switch o.kind {
	case opStart:
		o.meta = n.disk
		o.meta.Starts++
		n.persist(func() { n.started = true; n.finish() })
	case opFence, opAdopt:
		switch p := o.promise(); {
		case !n.promise.Allows(p.Epoch, p.Holder):
			n.refuse(o, tidegate.Fenced, fmt.Sprintf("promised %s", n.promise))
			n.finish()
		case o.kind == opFence:
			n.runFence(o)
		default:
			n.runAdopt(o)
		}
	}
}

// wait makes the running operation wait for one completion.
func (n *Node) wait(next func(NodeEvent)) uint64 {
	n.token++
	n.op.token, n.op.next = n.token, next
	return n.token
}

func (n *Node) complete(token uint64, ev NodeEvent) bool {
	if n.op == nil || token == 0 || n.op.token != token {
		return false
	}
	next := n.op.next
	n.op.token, n.op.next = 0, nil
	next(ev)
	return true
}

// persist writes op.meta and goes on when it is on disk.
func (n *Node) persist(then func()) {
	o := n.op
	t := n.wait(func(NodeEvent) {
		n.disk = o.meta
		then()
	})
	n.out = append(n.out, Persist{t, o.meta})
}

// finish ends the operation and takes up what waited.
func (n *Node) finish() {
	n.op = nil
	n.idle()
}

func (n *Node) idle() {
	if n.op != nil {
		return
	}
	if r := n.record; r != nil {
		n.record = nil
		if meta, free, due := n.afterRecord(*r); due {
			o := &nodeOp{kind: opRecord, meta: meta}
			n.op = o
			if meta.Promise.Epoch > n.promise.Epoch {
				n.promise = meta.Promise
			}
			n.persist(func() {
				if free {
					n.owed = n.disk.LeaseTTL > 0
					n.out = append(n.out, Freed{})
				}
				// The same record may now allow the next step.
				if n.record == nil {
					n.record = r
				}
				n.finish()
			})
			return
		}
	}
	if len(n.queue) > 0 {
		n.begin(n.pick())
	}
}

// pick takes the next request: first the one that carries the enforced promise,
// so that refusals to the others speak of a promise that is on disk.
func (n *Node) pick() *nodeOp {
	i := max(0, slices.IndexFunc(n.queue, func(q *nodeOp) bool { return q.promise() == n.promise }))
	o := n.queue[i]
	n.queue = slices.Delete(n.queue, i, i+1)
	return o
}

// afterRecord returns what the epoch record allows a node in limbo. (I22)
func (n *Node) afterRecord(r RecordRead) (meta NodeMeta, free, due bool) {
	meta = n.disk
	switch {
	case !meta.Limbo:
		return meta, false, false
	case !meta.EpochRead:
		if !r.Fresh {
			return meta, false, false
		}
		// Whatever was promised before the loss, an epoch that the record does
		// not know yet could not have been asked for.
		meta.EpochRead = true
		if r.Record.Epoch > n.promise.Epoch {
			meta.Promise = r.Record.Promise()
		} else {
			meta.Promise = n.promise
		}
		return meta, false, true
	case r.Record.Config.Names(meta.Member()) && (meta.History.Last().Epoch >= r.Record.ActiveEpoch || len(meta.History) == 0):
		// With no history it was named when the stream was made, and has never
		// acknowledged: to exit limbo later takes an adopted log.
		meta.Limbo = false
		if r.Record.Gate.Lease > 0 && r.Record.ActiveEpoch > 0 {
			// What the directory before this one promised its holder is forgotten
			// with it; at most this much of it can run.
			meta.LeaseTTL, meta.LeaseHolder = max(meta.LeaseTTL, r.Record.Gate.Lease), r.Record.Active.UUID
		}
		return meta, true, true
	}
	return meta, false, false
}

// enqueue joins an equal operation, or waits; false when too many wait.
func (n *Node) enqueue(o *nodeOp) bool {
	if n.op != nil && n.op.same(o) {
		n.op.calls = append(n.op.calls, o.calls...)
		return true
	}
	for _, q := range n.queue {
		if q.same(o) {
			q.calls = append(q.calls, o.calls...)
			return true
		}
	}
	if len(n.queue) >= NodeQueueMax {
		return false
	}
	n.queue = append(n.queue, o)
	n.raise(o.promise())
	n.idle()
	return true
}

// raise enforces a promise at once, long before it is on disk: from here on no
// batch of an older epoch is taken or acknowledged. A running adopt of an older
// epoch gives up at its next completion.
func (n *Node) raise(p Promise) {
	if p == n.promise || !n.promise.Allows(p.Epoch, p.Holder) {
		return
	}
	n.promise = p
	n.out = append(n.out, DropSessions{p})
	if o := n.op; o != nil && o.fetching && !o.cancelled && o.promise() != p {
		o.cancelled = true
		n.out = append(n.out, CancelFetch{o.token})
	}
}

// --- fence ---

func (n *Node) askFence(ev FenceAsked) {
	o := &nodeOp{kind: opFence, calls: []uint64{ev.Call}, fence: ev.Req}
	// A refusal speaks only of promises that are on disk; while a higher one is
	// on its way there the answer waits for it.
	switch {
	case !n.disk.Promise.Allows(ev.Req.Epoch, ev.Req.Holder):
		n.replyFence(o, true)
	case n.holdOff(ev):
	case !n.enqueue(o):
		n.replyFence(o, true)
	}
}

func (n *Node) runFence(o *nodeOp) {
	o.before = n.disk.Promise.Epoch
	n.raise(o.promise())
	if n.end.Seq != n.durable.Seq {
		// What was received is kept: the better the chosen head, the smaller the loss.
		t := n.wait(func(ev NodeEvent) {
			n.synced(ev.(Synced).End)
			n.persistPromise(o)
		})
		n.out = append(n.out, Sync{t})
		return
	}
	n.persistPromise(o)
}

func (n *Node) persistPromise(o *nodeOp) {
	if n.disk.Promise == o.promise() {
		n.replyFence(o, false)
		n.finish()
		return
	}
	o.meta = n.disk
	o.meta.Promise = o.promise()
	n.unlease(&o.meta)
	if mutate.Broken(mutate.PromiseOnDisk) {
		n.disk.Promise = o.promise()
		n.replyFence(o, false)
		n.finish()
		return
	}
	n.persist(func() {
		n.replyFence(o, false)
		n.finish()
	})
}

func (n *Node) replyFence(o *nodeOp, refused bool) {
	r := FenceReply{
		Stream: o.fence.Stream, Member: n.disk.Member(), Refused: refused,
		Promise: n.disk.Promise, History: n.history(), Durable: n.durable,
		Commit: n.commit, Limbo: n.disk.Limbo,
	}
	if mutate.Broken(mutate.AdoptedEpoch) && o.before > r.History.Last().Epoch && !refused {
		r.History = r.History.With(Term{Epoch: o.before, StartSeq: n.durable.Seq + 1})
	}
	for _, c := range o.calls {
		n.out = append(n.out, ReplyFence{c, r})
	}
}

// history returns what the log can vouch for. Of one that was about to be cut to a
// head, and has not come to hold all of that, a last term says whose head it was: it
// may know as little of what it once had as one that does. That term begins beyond
// the end of the log, where no other does.
func (n *Node) history() History {
	h := n.disk.History.through(n.durable.Seq)
	if p := n.disk.GivingUp; p.Epoch > h.Last().Epoch && !mutate.Broken(mutate.UncleanSticks) {
		h = h.With(Term{p.Epoch, n.durable.Seq + 2, p.Holder})
	}
	return h
}

// --- adopt ---

func (n *Node) askAdopt(ev AdoptAsked) {
	o := &nodeOp{kind: opAdopt, calls: []uint64{ev.Call}, adopt: ev.Req}
	switch {
	case !n.disk.Promise.Allows(ev.Req.Epoch, ev.Req.Holder):
		n.refuse(o, tidegate.Fenced, fmt.Sprintf("promised %s", n.disk.Promise))
	case n.disk.Limbo && !n.disk.EpochRead && !mutate.Broken(mutate.ReadEpoch):
		n.refuse(o, tidegate.Transient, "in limbo and the epoch record has not been read")
	case !n.enqueue(o):
		n.refuse(o, tidegate.Transient, "too many requests wait")
	}
}

// overtaken ends the adopt when a higher promise was heard meanwhile.
func (n *Node) overtaken(o *nodeOp) bool {
	if n.promise == o.promise() {
		return false
	}
	n.refuse(o, tidegate.Fenced, fmt.Sprintf("promised %s", n.promise))
	n.finish()
	return true
}

// refuse answers every call of o with a refusal; it does not end o.
func (n *Node) refuse(o *nodeOp, class tidegate.Class, why string) {
	if o.kind == opFence {
		n.replyFence(o, true)
		return
	}
	for _, c := range o.calls {
		n.out = append(n.out, ReplyAdopt{c, AdoptReply{
			Stream: o.adopt.Stream, Member: n.disk.Member(), Epoch: o.adopt.Epoch, Holder: o.adopt.Holder,
			Promise: n.disk.Promise, Durable: n.durable, Class: class, Why: why,
		}})
	}
}

func (n *Node) fail(o *nodeOp, err error, what string) {
	class := tidegate.ClassOf(err)
	n.refuse(o, class, fmt.Sprintf("%s: %v", what, err))
	n.finish()
}

func (n *Node) runAdopt(o *nodeOp) {
	t := n.disk.History.Last()
	if t.Epoch == o.adopt.Epoch && t.Holder == o.adopt.Holder && n.disk.Promise == o.promise() && n.durable.Seq >= o.adopt.Head.Seq {
		n.again(o, t)
		return
	}
	n.raise(o.promise())
	if n.disk.Promise != o.promise() {
		// The log is about to change: the old holder must stay out even after a crash.
		o.meta = n.disk
		o.meta.Promise = o.promise()
		n.unlease(&o.meta)
		n.persist(func() { n.findCommon(o) })
		return
	}
	n.findCommon(o)
}

// again answers an adopt of the term that the log already has. The head must be
// the same one: a registry that went back in time can issue an epoch twice.
func (n *Node) again(o *nodeOp, t Term) {
	at, err := n.view.At(o.adopt.Head.Seq)
	if err != nil || at.Chain != o.adopt.Head.Chain || t.StartSeq != o.adopt.Head.Seq+1 {
		n.refuse(o, tidegate.Refused, fmt.Sprintf("adopted epoch %s from %s, asked from %s", t.Epoch, t.StartSeq, o.adopt.Head.Seq+1))
		n.finish()
		return
	}
	n.adopted(o)
}

func (n *Node) adopted(o *nodeOp) {
	for _, c := range o.calls {
		n.out = append(n.out, ReplyAdopt{c, AdoptReply{
			Stream: o.adopt.Stream, Member: n.disk.Member(), Adopted: true,
			Epoch: o.adopt.Epoch, Holder: o.adopt.Holder, Promise: n.disk.Promise, Durable: n.durable,
		}})
	}
	n.finish()
}

// findCommon looks for the highest seq at which this log equals the chosen one:
// first at the shorter end, where it nearly always is; then where the histories
// part, which one writer per epoch makes exact; and only when even that is
// refuted, by halving.
func (n *Node) findCommon(o *nodeOp) {
	if n.overtaken(o) {
		return
	}
	o.reason = o.adopt.Reason
	if mutate.Broken(mutate.TruncateCommon) {
		n.cut(o, min(n.commit, n.end.Seq, o.adopt.Head.Seq))
		return
	}
	top := min(n.end.Seq, o.adopt.Head.Seq)
	n.compare(o, top, func(equal bool) {
		if equal {
			n.cut(o, top)
			return
		}
		bound, ok := n.disk.History.CommonBound(n.end.Seq, o.adopt.History, o.adopt.Head.Seq)
		if !ok || bound >= top {
			bound = 0
		}
		n.compare(o, bound, func(equal bool) {
			if equal && bound > 0 {
				n.cut(o, bound)
				return
			}
			o.lo, o.hi = 0, top
			if ok {
				// Equal terms with different content: never merely superseded.
				o.reason = ReasonDiverged
			}
			n.halve(o)
		})
	})
}

func (n *Node) halve(o *nodeOp) {
	if o.lo+1 >= o.hi {
		n.cut(o, o.lo)
		return
	}
	mid := o.lo + (o.hi-o.lo)/2
	n.compare(o, mid, func(equal bool) {
		if equal {
			o.lo = mid
		} else {
			o.hi = mid
		}
		n.halve(o)
	})
}

// compare asks whether both logs are equal through seq.
func (n *Node) compare(o *nodeOp, seq tidegate.Seq, then func(equal bool)) {
	if seq == 0 || mutate.Broken(mutate.ChainCheck) {
		then(true)
		return
	}
	own, err := n.view.At(seq)
	if err != nil {
		n.fail(o, err, "read own chain")
		return
	}
	if seq == o.adopt.Head.Seq {
		then(own.Chain == o.adopt.Head.Chain)
		return
	}
	t := n.wait(func(ev NodeEvent) {
		r := ev.(ChainRead)
		switch {
		case n.overtaken(o):
		case r.Err != nil:
			n.refuse(o, tidegate.Transient, fmt.Sprintf("read chain at %s of %s: %v", seq, o.adopt.Source, r.Err))
			n.finish()
		default:
			then(own.Chain == r.Pos.Chain)
		}
	})
	n.out = append(n.out, AskChain{t, o.adopt.Source, seq})
}

var errCutsCommitted = errors.New("the chosen log lacks what this node knows to be committed")

// cut sends everything beyond the common point to quarantine.
func (n *Node) cut(o *nodeOp, common tidegate.Seq) {
	if n.end.Seq == common {
		n.fetch(o)
		return
	}
	below := common < min(n.commit, n.end.Seq)
	if below && !o.adopt.Unclean {
		n.refuse(o, tidegate.Refused, errCutsCommitted.Error())
		n.finish()
		return
	}
	if o.adopt.Unclean && n.disk.GivingUp != o.promise() {
		o.meta = n.disk
		o.meta.GivingUp = o.promise()
		n.persist(func() {
			if !n.overtaken(o) {
				n.cut(o, common)
			}
		})
		return
	}
	to, err := n.view.At(common)
	if err != nil {
		n.fail(o, err, "read own chain")
		return
	}
	t := n.wait(func(ev NodeEvent) {
		r := ev.(CutDone)
		if r.Err != nil {
			n.fail(o, r.Err, "quarantine tail")
			return
		}
		n.end, n.cutAt = r.End, min(n.cutAt, r.End.Seq)
		if n.durable.Seq > r.End.Seq {
			n.durable = r.End
		}
		if below {
			n.commit = common
		}
		if r.End.Seq != common {
			n.fail(o, fmt.Errorf("log ends at %s, want %s", r.End.Seq, common), "quarantine tail")
			return
		}
		if n.overtaken(o) {
			return
		}
		n.fetch(o)
	})
	n.out = append(n.out, Cut{t, to, o.adopt.Epoch, o.reason, o.adopt.Unclean})
}

// fetch copies what the chosen log has and this one has not.
func (n *Node) fetch(o *nodeOp) {
	if n.end.Seq == o.adopt.Head.Seq {
		n.settle(o)
		return
	}
	from := n.end
	t := n.wait(func(ev NodeEvent) {
		r := ev.(Fetched)
		o.fetching = false
		n.end = r.End
		switch {
		case n.overtaken(o):
		case r.Err != nil:
			n.refuse(o, tidegate.Transient, fmt.Sprintf("copy from %s: %v", o.adopt.Source, r.Err))
			n.finish()
		case r.Beyond && from == (tidegate.LogPos{}) && r.End.Seq > o.adopt.Head.Seq:
			o.reached = r.End
			n.settle(o)
		case r.End.Compare(o.adopt.Head) != tidegate.Same:
			n.refuse(o, tidegate.Corrupt, fmt.Sprintf("copy from %s ended at %s, want %s", o.adopt.Source, r.End, o.adopt.Head))
			n.finish()
		default:
			n.settle(o)
		}
	})
	o.fetching = true
	n.out = append(n.out, Fetch{t, o.adopt.Source, n.end, o.adopt.Head})
}

// settle fsyncs the log, then opens the term.
func (n *Node) settle(o *nodeOp) {
	want := o.adopt.Head
	if o.reached != (tidegate.LogPos{}) {
		want = o.reached
	}
	if n.durable.Seq == want.Seq {
		n.openTerm(o)
		return
	}
	t := n.wait(func(ev NodeEvent) {
		n.synced(ev.(Synced).End)
		switch {
		case n.overtaken(o):
		case n.durable.Compare(want) != tidegate.Same:
			n.refuse(o, tidegate.Corrupt, fmt.Sprintf("log synced to %s, want %s", n.durable, want))
			n.finish()
		default:
			n.openTerm(o)
		}
	})
	n.out = append(n.out, Sync{t})
}

func (n *Node) openTerm(o *nodeOp) {
	o.meta = n.disk
	o.meta.History, o.meta.GivingUp = o.adopt.History.With(Term{o.adopt.Epoch, o.adopt.Head.Seq + 1, o.adopt.Holder}), Promise{}
	n.persist(func() {
		// An unclean head may lie below what an older writer had committed; what
		// this epoch puts there has yet to be.
		n.commit = min(n.commit, o.adopt.Head.Seq)
		if n.overtaken(o) {
			return
		}
		n.adopted(o)
	})
}
