package agent

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/internal/retry"
)

// service is the consistency group: an epoch is acquired for all its streams
// in one transaction, so one goroutine asks for all of them.
type service struct {
	agent   *Agent
	name    tidegate.ServiceName
	streams []*stream
	log     *slog.Logger
	leases  leases

	changed       chan struct{} // an epoch may be due; capacity 1, as the others
	leaseChanged  chan struct{} // the lease may have to be renewed
	switchChanged chan struct{} // a handover may go on
}

func newService(a *Agent, name tidegate.ServiceName) *service {
	return &service{
		agent: a, name: name, log: a.log.With("service", string(name)),
		changed: make(chan struct{}, 1), leaseChanged: make(chan struct{}, 1), switchChanged: make(chan struct{}, 1),
	}
}

// pokeLease makes keepLease look, pokeSwitch keepSwitch.
func (v *service) pokeLease()  { wake(v.leaseChanged) }
func (v *service) pokeSwitch() { wake(v.switchChanged) }

// run keeps the service's epochs, lease and handover until ctx ends.
func (v *service) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return v.keepEpoch(ctx) })
	g.Go(func() error { return v.keepLease(ctx) })
	g.Go(func() error { return v.keepSwitch(ctx) })
	return g.Wait()
}

// keepEpoch acquires an epoch whenever the service is active here and another holds
// its streams, until ctx ends.
func (v *service) keepEpoch(ctx context.Context) error {
	// Short at most: while this agent waits, the service answers nobody, and only
	// the one agent beside the active service asks.
	backoff := retry.Policy{First: 100 * time.Millisecond, Max: time.Second}.Backoff()
	for {
		due, why := v.due()
		for _, s := range v.streams {
			s.setAcquire(why)
		}
		if !due {
			select {
			case <-ctx.Done():
				return nil
			case <-v.changed:
			}
			continue
		}
		err := v.acquire(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			backoff.Reset()
			continue
		}
		for _, s := range v.streams {
			s.setAcquire(err.Error())
		}
		v.log.Warn("epoch not acquired", "err", err)
		if backoff.Wait(ctx) != nil {
			return nil
		}
	}
}

// due reports whether an epoch should be asked for now, and if the service is
// active here and it should not, why.
func (v *service) due() (due bool, why string) {
	held, active := 0, 0
	for _, s := range v.streams {
		isActive, mine, reason := s.ready()
		switch {
		case !isActive:
			reason = "the service is not active on it"
		case mine:
			held++
			active++
		default:
			active++
		}
		if why == "" && reason != "" {
			why = fmt.Sprintf("stream %s: %s", s.cfg.Stream, reason)
		}
	}
	if active == 0 {
		return false, ""
	}
	return why == "" && held < len(v.streams), why
}

// ready tells whether the service is active on this stream and may be given an
// epoch; mine is true when it has one. why says what is missing.
func (s *stream) ready() (active, mine bool, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.lib.conn == nil || !s.lib.active:
		return false, false, ""
	case s.writer.Load() != nil:
		return true, !s.reclaim(s.writer.Load()), "" // it goes on in either case
	case !s.view.known():
		return true, false, "the gate has not told of it yet"
	case s.mine(s.view.rec) && s.view.rec.Epoch > s.spent:
		return true, true, ""
	case s.view.rec.Kind == fence.KindReconfigure && s.view.rec.Holder.UUID == s.agent.holder && s.view.rec.Epoch > s.spent:
		return true, false, "another standby set is being put in force"
	case s.elsewhere(s.view.rec):
		return true, false, "the stream is written at site " + string(s.view.rec.Holder.Site) + "; a failover brings it here"
	case s.view.paused:
		return true, false, "paused by the operator"
	case s.renewing():
		if !s.begun() || !s.lib.known {
			return true, false, "a new generation is to begin"
		}
	case s.deposed(s.view.rec):
		return true, false, "another holds the stream since this service became active"
	case s.diverged != nil:
		return true, false, s.diverged.reason
	case !s.lib.known:
		return true, false, "the library has not reported yet"
	case s.view.rec.ActiveEpoch > 0 && !s.comparable():
		// Never depose a writer whose log we may not be able to continue.
		return true, false, "comparing the log with the standby nodes'"
	}
	return true, false, ""
}

func (s *stream) setAcquire(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acquire = why
}

// promotedBy returns the epoch of the newest promotion that a log went on from, 0
// for none; ok is false where the store's lineage does not tell. PostgreSQL's names
// timelines and places, and two promotions at one place look the same in it.
func promotedBy(source string, l tidegate.Lineage) (e tidegate.Epoch, ok bool) {
	if source != SourceJournal || l == "" {
		return 0, false
	}
	i := strings.LastIndexByte(string(l), '+')
	if i < 0 {
		return 0, true
	}
	epoch, _, _ := strings.Cut(string(l[i+1:]), "@")
	e, err := tidegate.ParseEpoch(epoch)
	return e, err == nil
}

// acquire asks the gate to make this agent the writer of all the streams.
func (v *service) acquire(ctx context.Context) error {
	a := v.agent
	req := &pb.AcquireEpochRequest{
		Service: string(v.name), Reason: "activated",
		Holder: fencewire.HolderMessage(fence.Holder{Node: a.cfg.Node.Name, Site: a.cfg.Node.Site, UUID: a.holder}),
	}
	dead := true
	for _, s := range v.streams {
		s.mu.Lock()
		req.Heads = append(req.Heads, &pb.StreamPosition{StreamId: api.IDText(s.view.id), Position: uint64(s.lib.head())})
		if e, ok := promotedBy(s.cfg.Source, s.lib.lineage); ok {
			req.Branches = append(req.Branches, &pb.StreamEpoch{StreamId: api.IDText(s.view.id), Epoch: uint64(e)})
		}
		if w := s.writer.Load(); w != nil {
			req.Held = append(req.Held, &pb.StreamEpoch{StreamId: api.IDText(s.view.id), Epoch: uint64(w.epoch)})
			if s.forgotten != nil {
				req.Reason = "the registry has forgotten its epoch"
			}
		}
		// Our own earlier run is dead: it held the lock that we hold now.
		dead = dead && s.view.rec.Holder.UUID == a.predecessor && !a.predecessor.IsZero()
		s.mu.Unlock()
	}
	if req.PredecessorDead = dead; dead {
		req.Reason = "restart"
	}
	began := a.clk.Boot()
	res, err := call(ctx, a.gate, "acquire epoch", acquireTimeout, req,
		func(c tidegatev1connect.NodeServiceClient, ctx context.Context, r *connect.Request[pb.AcquireEpochRequest]) (*connect.Response[pb.AcquireEpochResponse], error) {
			return c.AcquireEpoch(ctx, r)
		})
	if err != nil {
		return err
	}
	v.log.Info("epoch acquired", "took", time.Duration(a.clk.Boot()-began).String(), "plan", res.GetPlanId())
	for _, g := range res.GetGrants() {
		for _, s := range v.streams {
			s.mu.Lock()
			id := s.view.id
			s.mu.Unlock()
			if g.GetStreamId() == id.String() {
				if err := s.recordFrom(g.GetEpoch()); err != nil {
					return err
				}
				s.mu.Lock()
				s.forgotten = nil // a view that still tells of the past comes again
				s.mu.Unlock()
			}
		}
	}
	return nil
}
