package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
)

// fakeGate holds one stream's record and lets the test change it.
type fakeGate struct {
	tidegatev1connect.UnimplementedNodeServiceHandler

	d    *dr
	addr string
	stop func()

	mu       sync.Mutex
	changed  chan struct{}
	rec      fence.EpochRecord
	revision int64
	mode     tidegate.Mode
	bounds   tidegate.Bounds
	policy   tidegate.Policy
	brake    *pb.Brake
	leaving  bool
	renewal  *pb.Renewal
	declares int
	lease    time.Duration
	renewals int
	released int
	renew    func() error                // asked at every renewal; nil grants
	record   func(next fence.GateRecord) // called before a gate is recorded, without the lock
	handed   []*pb.HandOverRequest
	lose     *fence.Holder // the answer to a handover is lost, and this one is writer before the view tells of it
	w        int
	refuse   error
	acquired int
	recorded []fence.GateRecord
	bundles  []*pb.ReportQuarantineRequest
	reports  map[string]*pb.ReportAgentRequest
}

func (w *world) startGate() {
	w.t.Helper()
	g := w.gate
	if g == nil {
		g = &fakeGate{d: w.log, changed: make(chan struct{}), revision: 1, mode: tidegate.ModeSync, w: 1, reports: map[string]*pb.ReportAgentRequest{}}
		rec, err := fence.NewRecord(w.log.stream, g.config(), fence.GateRecord{State: fence.GateArmed, Mode: tidegate.ModeSync})
		if err != nil {
			w.t.Fatal(err)
		}
		g.rec, w.gate = rec, g
		g.addr = "127.0.0.1:0"
	}
	ln, err := net.Listen("tcp", g.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	g.addr = ln.Addr().String()
	mux := http.NewServeMux()
	mux.Handle(tidegatev1connect.NewNodeServiceHandler(g))
	ctx, cancel := context.WithCancel(w.ctx)
	srv := &http.Server{
		Handler: mux, TLSConfig: w.credentials("witness", tidegate.RoleGate, "g1").ServerTLS(), ReadHeaderTimeout: time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx }, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo),
	}
	done := make(chan struct{})
	w.wg.Go(func() {
		defer close(done)
		if err := srv.ServeTLS(ln, "", ""); !errors.Is(err, http.ErrServerClosed) {
			w.t.Errorf("gate: %v", err)
		}
	})
	g.stop = sync.OnceFunc(func() { cancel(); _ = srv.Close(); <-done })
	w.t.Cleanup(g.stop)
}

func (g *fakeGate) config() fence.Config {
	c := fence.Config{W: g.w}
	for _, n := range g.d.nodes {
		c.Members = append(c.Members, n.member)
	}
	fence.SortMembers(c.Members)
	return c
}

func (g *fakeGate) shout() {
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *fakeGate) view() *pb.WatchResponse {
	m := &pb.WatchResponse{Snapshot: true, RegistryReachable: true}
	m.Services = []*pb.ServiceView{{Name: "ledger", Streams: []*pb.StreamView{{
		Id: api.IDText(g.d.stream), Service: "ledger", Name: "main", Store: "journal",
		Mode: api.ModeMessage(g.mode), Bounds: api.BoundsMessage(g.bounds), Epoch: fencewire.RecordMessage(g.rec, g.revision),
		Grace: durationpb.New(g.policy.Grace), Rearm: durationpb.New(g.policy.Rearm), Brake: g.brake, LeaseTtl: durationpb.New(g.lease), Leaving: g.leaving,
		Renewal: g.renewal,
	}}}}
	for wire, r := range reactions {
		if r == g.policy.Reaction {
			m.Services[0].Streams[0].Policy = wire
		}
	}
	g.d.mu.Lock()
	defer g.d.mu.Unlock()
	for _, n := range g.d.nodes {
		m.Nodes = append(m.Nodes, &pb.NodeView{Node: string(n.member.Node), Kind: pb.NodeKind_NODE_KIND_STANDBY, ShipAddress: n.addr})
	}
	return m
}

func (g *fakeGate) Register(context.Context, *connect.Request[pb.RegisterRequest]) (*connect.Response[pb.RegisterResponse], error) {
	return connect.NewResponse(&pb.RegisterResponse{}), nil
}

func (g *fakeGate) Watch(ctx context.Context, _ *connect.Request[pb.WatchRequest], stream *connect.ServerStream[pb.WatchResponse]) error {
	for {
		g.mu.Lock()
		ch, m := g.changed, g.view()
		g.mu.Unlock()
		if err := stream.Send(m); err != nil {
			return err
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return nil
		}
	}
}

// grant makes holder the writer, as F1 to F6 would.
func (g *fakeGate) grant(h fence.Holder, kind fence.PlanKind) fence.EpochRecord {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.next(h, kind)
}

// next does it; mu is held.
func (g *fakeGate) next(h fence.Holder, kind fence.PlanKind) fence.EpochRecord {
	epoch := g.rec.Epoch + 1
	head := g.d.adopt(fence.Promise{Epoch: epoch, Holder: h.UUID})
	gate := g.rec.Gate
	g.rec = fence.EpochRecord{
		Version: fence.EpochRecordVersion, Stream: g.d.stream, Epoch: epoch, ActiveEpoch: epoch, Active: h, Holder: h, State: fence.StateActive,
		Gate: gate, Config: g.rec.Config, Head: head, StartSeq: head.Seq + 1, Kind: kind, Plan: tidegate.NewID(),
		History: g.rec.History.With(fence.Term{Epoch: epoch, StartSeq: head.Seq + 1, Holder: h.UUID}),
	}
	g.revision++
	g.shout()
	return g.rec
}

func (g *fakeGate) AcquireEpoch(_ context.Context, r *connect.Request[pb.AcquireEpochRequest]) (*connect.Response[pb.AcquireEpochResponse], error) {
	g.mu.Lock()
	g.acquired++
	refuse := g.refuse
	g.mu.Unlock()
	if refuse != nil {
		return nil, api.Error(refuse)
	}
	h, err := fencewire.Holder(r.Msg.GetHolder())
	if err != nil {
		return nil, api.Error(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range r.Msg.GetHeld() {
		g.rec.Epoch = max(g.rec.Epoch, tidegate.Epoch(e.GetEpoch()))
	}
	rec := g.next(h, fence.KindAcquire)
	return connect.NewResponse(&pb.AcquireEpochResponse{Grants: []*pb.StreamGrant{{
		StreamId: api.IDText(g.d.stream), Epoch: fencewire.RecordMessage(rec, g.revision),
	}}}), nil
}

// declare gives the log up, as of the present epoch, for what is beside a node.
func (g *fakeGate) declare(node string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.renewal = &pb.Renewal{Epoch: uint64(g.rec.ActiveEpoch), Site: "east", Node: node}
	g.declares++
	g.revision++
	g.shout()
}

func (g *fakeGate) DeclareGeneration(_ context.Context, r *connect.Request[pb.DeclareGenerationRequest]) (*connect.Response[pb.DeclareGenerationResponse], error) {
	g.declare(r.Msg.GetNode())
	return connect.NewResponse(&pb.DeclareGenerationResponse{}), nil
}

func (g *fakeGate) RecordGate(_ context.Context, r *connect.Request[pb.RecordGateRequest]) (*connect.Response[pb.RecordGateResponse], error) {
	gate, err := fencewire.Gate(r.Msg.GetGate())
	if err != nil {
		return nil, api.Error(err)
	}
	g.mu.Lock()
	hook := g.record
	g.mu.Unlock()
	if hook != nil {
		hook(gate)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	holder, err := api.RequireID("holder", r.Msg.GetHolder())
	if err != nil {
		return nil, api.Error(err)
	}
	was, err := fencewire.Gate(r.Msg.GetWas())
	if err != nil {
		return nil, api.Error(err)
	}
	next, err := g.rec.SetGate(fence.Promise{Epoch: tidegate.Epoch(r.Msg.GetEpoch()), Holder: holder}, was, gate)
	if err != nil {
		return nil, api.Error(err)
	}
	if r.Msg.GetRevision() != g.revision {
		return nil, api.Error(&tidegate.Error{Op: "record gate", Class: tidegate.Transient, Err: tidegate.ErrConflict})
	}
	g.recorded = append(g.recorded, gate)
	g.rec = next
	g.revision++
	g.shout()
	return connect.NewResponse(&pb.RecordGateResponse{Epoch: fencewire.RecordMessage(g.rec, g.revision)}), nil
}

// change writes the record as a gate would.
func (g *fakeGate) change(f func(*fakeGate)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(g)
	g.revision++
	g.shout()
}

// states is what was recorded of the gate, in order.
func (g *fakeGate) states() (list []fence.GateState) {
	for _, r := range g.recorded {
		list = append(list, r.State)
	}
	return list
}

func (g *fakeGate) RenewLease(_ context.Context, r *connect.Request[pb.RenewLeaseRequest]) (*connect.Response[pb.RenewLeaseResponse], error) {
	g.mu.Lock()
	renew := g.renew
	g.mu.Unlock()
	if renew != nil {
		if err := renew(); err != nil {
			return nil, api.Error(err)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(r.Msg.GetEpochs()) != 1 || r.Msg.GetEpochs()[0].GetEpoch() != uint64(g.rec.Epoch) || r.Msg.GetHolder() != g.rec.Holder.UUID.String() {
		return nil, api.Error(&tidegate.Error{Op: "renew lease", Class: tidegate.Fenced, Err: tidegate.ErrFenced})
	}
	g.renewals++
	g.shout()
	return connect.NewResponse(&pb.RenewLeaseResponse{Ttl: durationpb.New(max(g.lease, g.rec.Gate.Lease))}), nil
}

func (g *fakeGate) ReleaseLease(context.Context, *connect.Request[pb.ReleaseLeaseRequest]) (*connect.Response[pb.ReleaseLeaseResponse], error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.released++
	g.shout()
	return connect.NewResponse(&pb.ReleaseLeaseResponse{}), nil
}

func (g *fakeGate) HandOver(_ context.Context, r *connect.Request[pb.HandOverRequest]) (*connect.Response[pb.HandOverResponse], error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	one := r.Msg.GetStreams()[0]
	h, err := fencewire.Handover(one.GetHandover())
	if err != nil {
		return nil, api.Error(err)
	}
	if one.GetRevision() != g.revision {
		return nil, api.Error(&tidegate.Error{Op: "hand over", Class: tidegate.Transient, Err: tidegate.ErrConflict})
	}
	next, err := g.rec.HandOver(g.rec.Promise(), *h)
	if err != nil {
		return nil, api.Error(err)
	}
	g.handed = append(g.handed, r.Msg)
	g.rec = next
	if g.lose != nil {
		h := g.rec.Handover
		g.next(*g.lose, fence.KindSwitchover)
		g.rec.Handover = h
		return nil, api.Error(&tidegate.Error{Op: "hand over", Class: tidegate.Transient, Err: context.DeadlineExceeded})
	}
	g.revision++
	g.shout()
	return connect.NewResponse(&pb.HandOverResponse{Epochs: []*pb.EpochRecord{fencewire.RecordMessage(g.rec, g.revision)}}), nil
}

func (g *fakeGate) ReportAgent(_ context.Context, r *connect.Request[pb.ReportAgentRequest]) (*connect.Response[pb.ReportAgentResponse], error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reports[r.Msg.GetNode()] = r.Msg
	g.shout()
	return connect.NewResponse(&pb.ReportAgentResponse{}), nil
}

func (g *fakeGate) ReportQuarantine(_ context.Context, r *connect.Request[pb.ReportQuarantineRequest]) (*connect.Response[pb.ReportQuarantineResponse], error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.bundles = append(g.bundles, r.Msg)
	g.shout()
	return connect.NewResponse(&pb.ReportQuarantineResponse{}), nil
}

// set changes what the operator wants.
func (g *fakeGate) set(mode tidegate.Mode, b tidegate.Bounds) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mode, g.bounds = mode, b
	g.shout()
}

func (g *fakeGate) wait(t testing.TB, what string, ok func(*fakeGate) bool) {
	t.Helper()
	deadline := time.After(patient)
	for {
		g.mu.Lock()
		ch, done := g.changed, ok(g)
		g.mu.Unlock()
		if done {
			return
		}
		select {
		case <-ch:
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		}
	}
}
