package standby

import (
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/shipper"
)

// leaseState is what is known of node leases: those asked of this node, and
// everybody's newest grant, to be passed on to the writer. Guarded by the
// stream's mu.
type leaseState struct {
	asks   map[uint64]leaseAsked // by call, until the core has answered
	grants map[tidegate.NodeName]shipper.LeaseGrant
	own    ownLease
}

type leaseAsked struct {
	promise fence.Promise
	ask     shipper.LeaseAsk
}

// ownLease is the newest lease that this node has granted.
type ownLease struct {
	promise fence.Promise
	ttl     time.Duration
	until   tidegate.Instant // this node's boot clock
}

// NodeLease is a lease that a node has granted and that runs.
type NodeLease struct {
	Epoch     tidegate.Epoch
	Holder    tidegate.HolderID
	TTL       time.Duration
	Remaining time.Duration
}

// askLease puts a beacon's ask before the core, with mu held. Only the members of
// the writer's configuration are asked: no fence asks another node, so its word
// would bind nobody.
func (s *stream) askLease(f *feed, k *shipper.Beacon) {
	if k.Lease.TTL <= 0 || k.Epoch != f.promise.Epoch || (fence.Config{Members: f.members}).Index(s.n.cfg.Node) < 0 {
		return
	}
	if g := s.leases.grants[s.n.cfg.Node]; g.Epoch == k.Epoch && g.Seqno >= k.Lease.Seqno {
		return // two feeds of one writer brought the same ask
	}
	s.call++
	s.leases.asks[s.call] = leaseAsked{f.promise, k.Lease}
	s.perform(s.core.Step(fence.LeaseAsked{
		Call: s.call, Now: s.n.deps.Clock.Boot(),
		Req: fence.LeaseRequest{Stream: s.id, Epoch: f.promise.Epoch, Holder: f.promise.Holder, TTL: k.Lease.TTL},
	}))
}

// leaseAnswered takes the core's answer, with mu held. A refusal is not sent: the
// writer counts what it is granted.
func (s *stream) leaseAnswered(e fence.ReplyLease) {
	asked, due := s.leases.asks[e.Call]
	delete(s.leases.asks, e.Call)
	switch {
	case !due:
	case !e.Reply.Granted || e.Reply.TTL < asked.ask.TTL:
		s.lg.Debug("lease refused", keyEpoch, uint64(asked.promise.Epoch), "why", e.Reply.Why)
	default:
		s.leases.own = ownLease{asked.promise, e.Reply.TTL, e.Reply.Until}
		s.leases.grants[s.n.cfg.Node] = shipper.LeaseGrant{
			Node: e.Reply.Member.Node, Incarnation: e.Reply.Member.Incarnation,
			Epoch: asked.promise.Epoch, TTL: asked.ask.TTL, Seqno: asked.ask.Seqno,
		}
	}
}

// grantsFor appends the grants that the feed has not been sent.
func (s *stream) grantsFor(f *feed, sent map[tidegate.NodeName]uint64, due []shipper.LeaseGrant) []shipper.LeaseGrant {
	s.mu.Lock()
	defer s.mu.Unlock()
	for node, g := range s.leases.grants {
		own := node == s.n.cfg.Node
		if g.Epoch != f.promise.Epoch || g.Seqno <= sent[node] || !own && f.as != shipper.AsWriter {
			continue
		}
		due = append(due, g)
	}
	return due
}

// running returns the lease that this node has granted, if it runs; mu is held.
func (o ownLease) running(now tidegate.Instant) *NodeLease {
	if o.ttl == 0 || now >= o.until {
		return nil
	}
	return &NodeLease{Epoch: o.promise.Epoch, Holder: o.promise.Holder, TTL: o.ttl, Remaining: time.Duration(o.until - now)}
}
