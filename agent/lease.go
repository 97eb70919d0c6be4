package agent

import (
	"context"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/shipper"
)

// A lease is counted from before it was asked for, on the boot clock, and ends
// here earlier than wherever it was granted, by what may lie between the two.
const (
	// leaseDrift is how much two clocks of machines in service may drift apart, in
	// parts of a million; disciplined ones do a hundredth of that.
	leaseDrift = 500
	// leaseSlack covers what passes between the library's look at the clock and
	// the moment at which what it lets go has left it: many times what is measured
	// (journal.ReleaseSlack, tidegate_agent_release_slack_seconds).
	leaseSlack = 250 * time.Millisecond
)

// leaseMargin is how much of a lease of ttl is not used.
func leaseMargin(ttl time.Duration) time.Duration {
	return ttl/1_000_000*leaseDrift + leaseSlack
}

// lender says who granted the lease that runs longest.
type lender string

// The lenders.
const (
	lenderNone     lender = ""
	lenderRegistry lender = "registry"
	lenderNodes    lender = "nodes"
)

// leaseState is what a stream's outputs beyond D depend on.
type leaseState struct {
	needed bool
	ttl    time.Duration
	until  tidegate.Instant // on this machine's boot clock; at it nothing may leave
	by     lender
}

// remaining is what is left at now, 0 if nothing is.
func (l leaseState) remaining(now tidegate.Instant) time.Duration {
	return max(0, time.Duration(l.until-now))
}

// leases is what the registry has granted to a service, all streams together.
type leases struct {
	mu      sync.Mutex
	until   tidegate.Instant
	epochs  map[tidegate.StreamID]tidegate.Epoch // that it was granted for
	refused bool                                 // the registry answered, and said no
	err     string                               // why the last renewal failed
}

func (l *leases) get(stream tidegate.StreamID, epoch tidegate.Epoch) (until tidegate.Instant, refused bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.epochs[stream] != epoch {
		return 0, l.refused
	}
	return l.until, l.refused
}

func (l *leases) set(until tidegate.Instant, epochs map[tidegate.StreamID]tidegate.Epoch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until, l.epochs, l.refused, l.err = until, epochs, false, ""
}

func (l *leases) failed(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused, l.err = tidegate.ClassOf(err) != tidegate.Transient, err.Error()
}

// drop forgets the lease and reports whether one was still running.
func (l *leases) drop(now tidegate.Instant) (ran bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ran = l.until > now
	l.until, l.epochs = 0, nil
	return ran
}

func (l *leases) reason() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// leaseTTL is the lease that the writer needs, 0 if it needs none: an armed gate
// with bounds holds it without, and one that may open blindly would obey none.
// What the operator has just asked for counts before the record has it, what he
// has given up until the record has lost it. mu is held.
func (w *writer) leaseTTL() time.Duration {
	if w.terms.Holds() || w.terms.State == fence.GateBlindOK || w.phase == fence.StateDemoted || w.ring == nil || w.ended {
		return 0
	}
	return max(w.terms.Lease, w.wantLease)
}

// lease returns what the outputs depend on now; mu is held.
func (w *writer) lease(tidegate.Instant) leaseState {
	l := leaseState{ttl: w.leaseTTL()}
	if l.needed = l.ttl > 0; !l.needed {
		return l
	}
	if until, _ := w.s.service.leases.get(w.stream, w.epoch); until > l.until {
		l.until, l.by = until, lenderRegistry
	}
	// The core has taken off its own margin; what is ours beyond that goes too.
	if until := w.core.LeaseUntil() - tidegate.Instant(max(0, leaseMargin(l.ttl)-fence.LeaseMargin(l.ttl))); until > l.until {
		l.until, l.by = until, lenderNodes
	}
	return l
}

// askNodes returns the ask for node leases that goes with a beacon sent at now:
// one is due when half of the registry's lease is gone and no gate answers. A
// gate that said no is an answer: a change of writer is under way, and what the
// nodes lend would only delay it. mu is held.
func (w *writer) askNodes(now tidegate.Instant) shipper.LeaseAsk {
	ttl := min(w.leaseTTL(), fence.LeaseTTLMax)
	if ttl == 0 || !w.meter.heard {
		return shipper.LeaseAsk{}
	}
	until, refused := w.s.service.leases.get(w.stream, w.epoch)
	if refused || time.Duration(until-now) > ttl/2 {
		return shipper.LeaseAsk{}
	}
	return shipper.LeaseAsk{TTL: ttl, Seqno: w.core.AskLease(now, ttl)}
}

// onLease counts a node's grant.
func (w *writer) onLease(g shipper.LeaseGrant) {
	now := w.s.agent.clk.Boot()
	w.mu.Lock()
	before := w.core.LeaseUntil()
	w.core.OnLease(fence.Member{Node: g.Node, Incarnation: g.Incarnation}, g.Epoch, g.Seqno, now)
	news := w.core.LeaseUntil() != before
	w.mu.Unlock()
	if news {
		w.s.tellNews()
	}
}

// leaseAsk is one renewal: for all streams of the service that have a writer.
type leaseAsk struct {
	ttl    time.Duration // the shortest that any stream needs; 0: none is needed
	epochs map[tidegate.StreamID]tidegate.Epoch
}

// leaseWanted returns what is to be renewed. A service that is not active, or
// cannot be told, gets nothing: what its library was told runs out by itself.
func (v *service) leaseWanted() (ask leaseAsk) {
	ask.epochs = map[tidegate.StreamID]tidegate.Epoch{}
	for _, s := range v.streams {
		w := s.writer.Load()
		if w == nil {
			continue
		}
		active := s.isActive()
		w.mu.Lock()
		if ttl := w.leaseTTL(); active && ttl > 0 && (ask.ttl == 0 || ttl < ask.ttl) {
			ask.ttl = ttl
		}
		if !w.ended {
			ask.epochs[w.stream] = w.epoch
		}
		w.mu.Unlock()
	}
	return ask
}

// isActive reports whether the service is connected and active here.
func (s *stream) isActive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lib.conn != nil && s.lib.active
}

// keepLease renews the output lease every third of its life while any stream
// needs one, and gives it back as soon as nothing can leave under it any more,
// until ctx ends. An agent that stops beside a service that goes on gives nothing
// back: the service works on until the lease is over, or the next agent is there.
func (v *service) keepLease(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-v.leaseChanged:
		case <-timer.C:
		}
		ask := v.leaseWanted()
		if ask.ttl == 0 {
			v.releaseLease(ctx)
			timer.Reset(time.Second)
			continue
		}
		ttl, err := v.renew(ctx, ask)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if v.leases.reason() == "" {
				v.log.Warn("output lease not renewed", "err", err)
			}
			v.leases.failed(err)
			ttl = ask.ttl / 4 // the next try comes while there is time
		}
		for _, s := range v.streams {
			s.tellNews()
		}
		timer.Reset(max(ttl/3, 20*time.Millisecond))
	}
}

// renew asks once and returns what was granted.
func (v *service) renew(ctx context.Context, ask leaseAsk) (time.Duration, error) {
	a := v.agent
	req := &pb.RenewLeaseRequest{Service: string(v.name), Node: string(a.cfg.Node.Name), Holder: api.IDText(a.holder)}
	for id, epoch := range ask.epochs {
		req.Epochs = append(req.Epochs, &pb.StreamEpoch{StreamId: api.IDText(id), Epoch: uint64(epoch)})
	}
	began := a.clk.Boot() // before the call: what it takes is ours to lose
	res, err := call(ctx, a.gate, "renew lease", min(callTimeout, max(ask.ttl/3, 100*time.Millisecond)), req,
		func(c tidegatev1connect.NodeServiceClient, ctx context.Context, r *connect.Request[pb.RenewLeaseRequest]) (*connect.Response[pb.RenewLeaseResponse], error) {
			return c.RenewLease(ctx, r)
		})
	if err != nil {
		return 0, err
	}
	ttl := res.GetTtl().AsDuration()
	v.leases.set(began+tidegate.Instant(ttl-leaseMargin(ttl)), ask.epochs)
	return ttl, nil
}

// releaseLease gives the lease back before its time, so that a change of writer
// need not wait for it. Only when every library has said that it lets nothing go
// any more: one that was cut off goes on until the lease ends.
func (v *service) releaseLease(ctx context.Context) {
	a := v.agent
	if !v.dropLease(a.clk.Boot()) {
		return
	}
	for _, s := range v.streams {
		s.tellNews()
	}
	req := &pb.ReleaseLeaseRequest{Service: string(v.name), Node: string(a.cfg.Node.Name), Holder: api.IDText(a.holder)}
	_, err := call(ctx, a.gate, "release lease", callTimeout, req,
		func(c tidegatev1connect.NodeServiceClient, ctx context.Context, r *connect.Request[pb.ReleaseLeaseRequest]) (*connect.Response[pb.ReleaseLeaseResponse], error) {
			return c.ReleaseLease(ctx, r)
		})
	if err != nil && ctx.Err() == nil {
		// It runs out by itself; whoever takes over waits for that.
		v.log.Info("output lease not given back", "err", err)
		return
	}
	v.log.Info("output lease given back")
}

// dropLease forgets the lease if every library has said that it lets nothing go
// any more, and reports whether there was one to give back. Nothing is told
// meanwhile: a grant that names the lease must not be on its way.
func (v *service) dropLease(now tidegate.Instant) bool {
	for _, s := range v.streams {
		s.sending.Lock()
		defer s.sending.Unlock()
	}
	for _, s := range v.streams {
		if !s.sealedOff() {
			return false
		}
	}
	return v.leases.drop(now)
}

// sealedOff reports whether the library has said that nothing leaves it: it is
// not active, fenced, or has handed over, or obeys a grant that needs no lease
// because its gate holds it.
func (s *stream) sealedOff() bool {
	w := s.writer.Load()
	s.mu.Lock()
	p, known := s.lib.progress, s.lib.known
	s.mu.Unlock()
	switch {
	case !known:
		return false
	case p.Gate == machine.Off, p.Gate == machine.Fenced, p.Gate == machine.HandedOver:
		return true
	case w == nil:
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.sent.LeaseNeeded && w.obeyed(w.since.lease)
}
