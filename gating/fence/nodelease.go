package fence

import (
	"fmt"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/mutate"
)

// Node leases, PROTOCOL 4.5. A writer whose gate does not hold it by itself needs
// W of them, or the registry's, for everything that it releases beyond D.
//
// Why they are sound: a holder counts the words of W members of its own
// configuration, each from before it asked for it; a controller opens another
// epoch only after R members of that configuration have promised it, and a
// member that has given its word promises nobody else before the word is out.
// W + R > N: one of the W has promised, so its word was out, so the holder's
// lease was, on any two clocks that drift by less than the holder's margin. A
// (A reconfiguration changes whom a fence asks while its holder goes on. Words of
// members before end within one lease of the fence that it made there, so F4 of
// the next change waits that long, see [EpochRecord.Inherited].) A
// statement "nothing has been promised yet" without the word to keep it so
// would prove nothing: the fence may complete right after it. The argument
// needs that a word counts only in the configuration that the fence asks: the
// holder counts them per epoch, and only of incarnations that the record names.
// And it needs that a word outlives the process that gave it: its length is on
// disk before it is given, and a process that starts, or a directory that
// leaves limbo, behaves as if the longest had been given at that moment.
//
// It outlives a promise, too. Who promises another holder on a plan's attestation
// keeps the word: the attestation is that plan's, and says nothing for the next
// one, which may have been made because it was wrong. Only the next lease takes
// its place: that of a holder whose epoch was opened.

// leaseWord is what a node owes: no promise to anybody but holder before until.
type leaseWord struct {
	holder tidegate.HolderID
	until  tidegate.Instant
}

// fenceHold is how long after a refused fence a node grants no lease to anybody
// else: the holder's must run out some day, or a failover would never end. The
// controller asks again long before; when it is gone the holder gets leases again.
const fenceHold = 10 * time.Second

// clock takes the time. The first one heard is when a lease granted by the
// process before this one is taken to begin.
func (n *Node) clock(now tidegate.Instant) {
	n.now = max(n.now, now)
	if n.owed && !mutate.Broken(mutate.LeaseAfterRestart) {
		n.word = leaseWord{n.disk.LeaseHolder, n.now + tidegate.Instant(n.disk.LeaseTTL)}
	}
	n.owed = false
}

// leased returns how long the node must not promise holder anything.
func (n *Node) leased(holder tidegate.HolderID) time.Duration {
	if n.word.holder == holder || n.word.holder != n.disk.LeaseHolder || n.word.until <= n.now || mutate.Broken(mutate.LeaseFence) {
		return 0
	}
	return time.Duration(n.word.until - n.now)
}

// holdOff answers a fence that a lease stands against; false when none does.
func (n *Node) holdOff(ev FenceAsked) bool {
	d := n.leased(ev.Req.Holder)
	if d == 0 || ev.Req.Attested {
		return false
	}
	n.asked = leaseWord{ev.Req.Holder, n.now + tidegate.Instant(d+fenceHold)}
	n.out = append(n.out, ReplyFence{ev.Call, FenceReply{
		Stream: ev.Req.Stream, Member: n.disk.Member(), Leased: d, Promise: n.disk.Promise,
		History: n.history(), Durable: n.durable, Commit: n.commit, Limbo: n.disk.Limbo,
	}})
	return true
}

func (n *Node) askLease(ev LeaseAsked) {
	want := Promise{ev.Req.Epoch, ev.Req.Holder}
	t := n.Adopted()
	why := ""
	switch {
	case ev.Req.TTL <= 0 || ev.Req.TTL > LeaseTTLMax:
		why = fmt.Sprintf("lease of %s: want at most %s", ev.Req.TTL, LeaseTTLMax)
	case n.promise != want || n.disk.Promise != want || t.Epoch != want.Epoch || t.Holder != want.Holder:
		why = fmt.Sprintf("promised %s, adopted %s", n.promise, t.Epoch)
	case n.disk.Limbo:
		why = "in limbo: no fence asks this node"
	case n.asked.until > n.now && n.asked.holder != want.Holder && !mutate.Broken(mutate.LeaseNoRenew):
		why = "a fence waits for the lease to run out"
	case !n.started || n.op != nil:
		why = "busy"
	}
	if why != "" {
		n.replyLease(ev, why)
		return
	}
	if n.disk.LeaseHolder == want.Holder && n.disk.LeaseTTL >= ev.Req.TTL {
		n.grant(ev)
		return
	}
	o := &nodeOp{kind: opLease, meta: n.disk}
	o.meta.LeaseHolder, o.meta.LeaseTTL = want.Holder, ev.Req.TTL
	n.op = o
	n.persist(func() {
		if n.promise == want {
			n.grant(ev)
		} else {
			n.replyLease(ev, fmt.Sprintf("promised %s", n.promise))
		}
		n.finish()
	})
}

func (n *Node) grant(ev LeaseAsked) {
	n.word = leaseWord{ev.Req.Holder, max(n.word.until, ev.Now+tidegate.Instant(ev.Req.TTL))}
	n.replyLease(ev, "")
}

func (n *Node) replyLease(ev LeaseAsked, why string) {
	r := LeaseReply{Member: n.disk.Member(), Epoch: ev.Req.Epoch, TTL: ev.Req.TTL, Why: why}
	if why == "" {
		r.Granted, r.Until = true, ev.Now+tidegate.Instant(ev.Req.TTL)
	}
	n.out = append(n.out, ReplyLease{ev.Call, r})
}

// unlease forgets a lease on disk that is over, when another holder is promised.
func (n *Node) unlease(m *NodeMeta) {
	if m.LeaseHolder != m.Promise.Holder && (n.leased(m.Promise.Holder) == 0 || mutate.Broken(mutate.LeaseKept)) {
		m.LeaseTTL, m.LeaseHolder = 0, tidegate.HolderID{}
	}
}
