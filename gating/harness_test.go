package gating

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/gating/probe"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/gating/rules"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/pki"
	"github.com/tidegate/tidegate/internal/vfs"
)

// site is a cluster in one process: a real etcd, gates, and standby nodes that
// run the real fence.Node core behind the real API.
type site struct {
	t        *testing.T
	ca       *pki.Authority
	dir      string
	registry registry.Config // of the shared member
	stopEtcd func()
	nodes    map[tidegate.NodeName]*fakeNode
	agents   map[tidegate.NodeName]tidegate.HolderID
	gate     *runningGate
	log      *slog.Logger
	kinds    probe.Kinds
	archive  func(context.Context) (bucket.Bucket, error)
	reports  func([]byte) (DrillReport, error)

	mu      *sync.Mutex
	clients map[string]*http.Client // by identity
	beacon  time.Duration           // age of the writer's newest beacon, as nodes report it
	state   tidegate.Digest         // that the writer hands over; zero: none
	blocked bool                    // the writer's gate is closed, as it reports
}

func newSite(t *testing.T, nodes ...tidegate.NodeName) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), nodes: map[tidegate.NodeName]*fakeNode{}, agents: map[tidegate.NodeName]tidegate.HolderID{}, clients: map[string]*http.Client{}, mu: &sync.Mutex{}, beacon: 100 * time.Millisecond}
	var out io.Writer = io.Discard
	if os.Getenv("GATE_TEST_LOG") != "" {
		out = os.Stderr
	}
	s.log, s.kinds = slog.New(slog.NewTextHandler(out, nil)), probe.Kinds{probe.HTTPKind: probe.HTTP}
	var err error
	if s.ca, err = pki.Dev(filepath.Join(s.dir, "pki"), "demo"); err != nil {
		t.Fatal(err)
	}
	member := registry.Config{Dir: filepath.Join(s.dir, "r")}.SetDefaults()
	s.registry = registry.Config{
		Endpoints: []string{"unix://" + member.Socket}, Dir: filepath.Join(s.dir, "mark"), Timeout: time.Second, LeaderTTL: 2 * time.Second,
	}
	s.startEtcd(member)
	for _, n := range nodes {
		s.nodes[n] = s.startNode(n)
	}
	return s
}

// startEtcd runs the registry's member until stopEtcd is called or the test ends.
func (s *site) startEtcd(cfg registry.Config) {
	ctx, cancel := context.WithCancel(context.Background())
	srv := registry.NewServer(vfs.OS(), s.log, "demo", cfg)
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }() // owned by stopEtcd
	select {
	case <-srv.Ready():
	case err := <-done:
		s.t.Fatalf("registry: %v", err)
	}
	s.stopEtcd = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("registry: %v", err)
		}
	})
	s.t.Cleanup(func() { s.stopEtcd() })
}

func (s *site) creds(role tidegate.Role, site tidegate.SiteName, name string) *pki.Credentials {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.ca.Credentials(tidegate.Identity{Cluster: "demo", Site: site, Role: role, Name: name})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

type runningGate struct {
	addr string
	stop func()
}

// startGate runs a gate at the site of the nodes; afterSave may be nil.
func (s *site) startGate(name string, afterSave func(fence.PlanStep, int), edit func(*Config)) *runningGate {
	s.t.Helper()
	return s.startGateAt("west", name, afterSave, edit)
}

func (s *site) startGateAt(where tidegate.SiteName, name string, afterSave func(fence.PlanStep, int), edit func(*Config)) *runningGate {
	s.t.Helper()
	cfg := Config{Listen: "127.0.0.1:0", Dir: filepath.Join(s.dir, name), Registry: s.registry}
	cfg.Timing.Tick = 20 * time.Millisecond
	cfg.Timing.Fence, cfg.Timing.Adopt, cfg.Timing.Call = 2*time.Second, 5*time.Second, 2*time.Second
	if edit != nil {
		edit(&cfg)
	}
	cfg = cfg.SetDefaults()
	if err := cfg.Validate(); err != nil {
		s.t.Fatal(err)
	}
	g := New(Deps{
		FS: vfs.OS(), Clock: clock.System(), Log: s.log.With("gate", name), Metrics: prometheus.NewRegistry(),
		Creds: s.creds(tidegate.RoleGate, where, name), Probes: s.kinds, Archive: s.archive, DrillReport: s.reports,
	}, cfg)
	g.afterSave = afterSave
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }() // owned by stop
	select {
	case <-g.Ready():
	case err := <-done:
		s.t.Fatalf("gate: %v", err)
	}
	r := &runningGate{addr: g.Addr().String()}
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("gate: %v", err)
		}
	})
	s.t.Cleanup(r.stop)
	s.mu.Lock()
	s.gate = r
	s.mu.Unlock()
	return r
}

// gateAddr is that of the gate started last; what runs beside the test asks it.
func (s *site) gateAddr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gate.addr
}

func (s *site) httpClient(role tidegate.Role, site tidegate.SiteName, name string) *http.Client {
	key := fmt.Sprintf("%s %s %s", role, site, name)
	s.mu.Lock()
	c := s.clients[key]
	s.mu.Unlock()
	if c != nil {
		return c
	}
	c = api.NewHTTPClient(s.creds(role, site, name).ClientTLS(pki.Expect{Role: tidegate.RoleGate}))
	s.mu.Lock()
	defer s.mu.Unlock()
	if first := s.clients[key]; first != nil {
		return first
	}
	s.clients[key] = c
	s.t.Cleanup(c.CloseIdleConnections)
	return c
}

func (s *site) node(role tidegate.Role, site tidegate.SiteName, name string) tidegatev1connect.NodeServiceClient {
	return tidegatev1connect.NewNodeServiceClient(s.httpClient(role, site, name), "https://"+s.gateAddr())
}

func (s *site) operator(role tidegate.Role) tidegatev1connect.OperatorServiceClient {
	return tidegatev1connect.NewOperatorServiceClient(s.httpClient(role, "west", "someone"), "https://"+s.gateAddr())
}

// eventually repeats cond until it returns nil.
func (s *site) eventually(what string, cond func() error) {
	s.t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := cond()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			s.t.Fatalf("%s: %v", what, err)
		}
	}
}

// --- standby nodes ---

type fakeNode struct {
	site *site
	name tidegate.NodeName
	inc  tidegate.Incarnation
	addr string

	streams map[tidegate.StreamID]*fakeStream
	down    bool
	alone   bool            // no service is connected beside it
	state   tidegate.Digest // that its service tells at every handover; zero: none
	tidegatev1connect.UnimplementedStandbyServiceHandler
}

type fakeStream struct {
	n     *fakeNode
	core  *fence.Node
	log   []tidegate.LogPos // log[i] is seq i+1
	calls uint64
	reply map[uint64]any
	cut   int
	promo int
}

func (f *fakeStream) At(seq tidegate.Seq) (tidegate.LogPos, error) {
	if seq == 0 {
		return tidegate.LogPos{}, nil
	}
	if int(seq) > len(f.log) {
		return tidegate.LogPos{}, tidegate.ErrNotFound
	}
	return f.log[seq-1], nil
}

func (f *fakeStream) end() tidegate.LogPos { p, _ := f.At(tidegate.Seq(len(f.log))); return p }

// do carries out effects; everything it persists or syncs is done at once.
func (f *fakeStream) do(effects []fence.NodeEffect) {
	for len(effects) > 0 {
		e := effects[0]
		effects = effects[1:]
		var ev fence.NodeEvent
		switch e := e.(type) {
		case fence.Persist:
			ev = fence.Persisted{Token: e.Token}
		case fence.Sync:
			ev = fence.Synced{Token: e.Token, End: f.end()}
		case fence.AskChain:
			p, err := f.n.source(e.Source, f).At(e.Seq)
			ev = fence.ChainRead{Token: e.Token, Pos: p, Err: err}
		case fence.Cut:
			f.cut += len(f.log) - int(e.To.Seq)
			f.log = f.log[:e.To.Seq]
			ev = fence.CutDone{Token: e.Token, End: f.end()}
		case fence.Fetch:
			src := f.n.source(e.Source, f)
			f.log = append(f.log, src.log[e.From.Seq:e.To.Seq]...)
			ev = fence.Fetched{Token: e.Token, End: f.end()}
		case fence.ReplyFence:
			f.reply[e.Call] = e.Reply
		case fence.ReplyAdopt:
			f.reply[e.Call] = e.Reply
		case fence.ReplyPromote:
			f.reply[e.Call] = e.Reply
		}
		if ev != nil {
			effects = append(effects, f.core.Step(ev)...)
		}
	}
}

// source returns another node's stream; tests use one lock for all logs.
func (n *fakeNode) source(from tidegate.NodeName, self *fakeStream) *fakeStream {
	id := self.core.Meta().Stream
	return n.site.nodes[from].streams[id]
}

// logs is the one lock of all fake logs: a fetch reads another node's.
var logs sync.Mutex

func (n *fakeNode) stream(id tidegate.StreamID) *fakeStream {
	f := n.streams[id]
	if f == nil {
		f = &fakeStream{n: n, reply: map[uint64]any{}}
		core, effects := fence.NewNode(fence.FormatMeta(id, fence.Member{Node: n.name, Incarnation: n.inc}), tidegate.LogPos{}, f)
		f.core = core
		f.do(effects)
		n.streams[id] = f
		store, err := registry.Open("demo", n.site.registry)
		if err == nil {
			defer store.Close()
			if es, err := store.ReadEpochs(context.Background(), id); err == nil && es[0].Revision != 0 {
				f.do(core.Step(fence.RecordRead{Record: es[0].Value, Fresh: true}))
			}
		}
	}
	return f
}

func (n *fakeNode) ask(id tidegate.StreamID, ev func(call uint64) fence.NodeEvent) (any, error) {
	logs.Lock()
	defer logs.Unlock()
	if n.down {
		return nil, &tidegate.Error{Op: "ask", Class: tidegate.Transient, Err: errors.New("down")}
	}
	f := n.stream(id)
	f.calls++
	f.do(f.core.Step(ev(f.calls)))
	r, ok := f.reply[f.calls]
	if !ok {
		return nil, &tidegate.Error{Op: "ask", Class: tidegate.Transient, Err: errors.New("busy")}
	}
	return r, nil
}

func (n *fakeNode) Fence(_ context.Context, req *connect.Request[pb.FenceRequest]) (*connect.Response[pb.FenceResponse], error) {
	r, err := fencewire.FenceRequest(req.Msg)
	if err != nil {
		return nil, api.Error(err)
	}
	got, err := n.ask(r.Stream, func(c uint64) fence.NodeEvent { return fence.FenceAsked{Call: c, Req: r} })
	if err != nil {
		return nil, api.Error(err)
	}
	return connect.NewResponse(fencewire.FenceReplyMessage(got.(fence.FenceReply))), nil
}

func (n *fakeNode) Adopt(_ context.Context, req *connect.Request[pb.AdoptRequest], out *connect.ServerStream[pb.AdoptResponse]) error {
	r, err := fencewire.AdoptRequest(req.Msg)
	if err != nil {
		return api.Error(err)
	}
	got, err := n.ask(r.Stream, func(c uint64) fence.NodeEvent { return fence.AdoptAsked{Call: c, Req: r} })
	if err != nil {
		return api.Error(err)
	}
	return out.Send(fencewire.AdoptReplyMessage(got.(fence.AdoptReply)))
}

func (n *fakeNode) Promote(_ context.Context, req *connect.Request[pb.PromoteRequest], out *connect.ServerStream[pb.PromoteResponse]) error {
	r, err := fencewire.PromoteRequest(req.Msg)
	if err != nil {
		return api.Error(err)
	}
	got, err := n.ask(r.Stream, func(c uint64) fence.NodeEvent { return fence.PromoteAsked{Call: c, Req: r} })
	if err != nil {
		return api.Error(err)
	}
	reply := got.(fence.PromoteReply)
	logs.Lock()
	n.stream(r.Stream).promo++
	logs.Unlock()
	return out.Send(&pb.PromoteResponse{
		Done: reply.Accepted, Refused: !reply.Accepted, Class: string(reply.Class), Why: reply.Why,
		AppliedSeq: uint64(r.Head.Seq), Endpoint: string(n.name) + ":8080",
	})
}

func (n *fakeNode) Describe(context.Context, *connect.Request[pb.DescribeRequest]) (*connect.Response[pb.DescribeResponse], error) {
	logs.Lock()
	defer logs.Unlock()
	if n.down {
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("down"))
	}
	out := &pb.DescribeResponse{Node: string(n.name), Site: "west", Incarnation: n.inc.String(), ShipAddress: "ship:1", ApiAddress: n.addr}
	store, err := registry.Open("demo", n.site.registry)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	for id, f := range n.streams {
		cfg := fence.Config{W: 2}
		for _, m := range n.site.nodes {
			cfg.Members = append(cfg.Members, fence.Member{Node: m.name, Incarnation: m.inc})
		}
		fence.SortMembers(cfg.Members)
		out.Streams = append(out.Streams, &pb.StreamDescription{
			StreamId: id.String(), Service: "ledger", Name: "s-" + id.String()[:8], Store: "journal",
			Promise: fencewire.PromiseMessage(f.core.Promise()), History: fencewire.HistoryMessage(f.core.Meta().History),
			Durable: api.LogPosMessage(f.core.DurablePos()), Limbo: f.core.Limbo(), Config: fencewire.ConfigMessage(cfg), Mode: pb.Mode_MODE_SYNC,
		})
	}
	return connect.NewResponse(out), nil
}

// whereIs is the site of a node or agent: its name begins with its letter.
func whereIs(n tidegate.NodeName) tidegate.SiteName {
	if strings.HasPrefix(string(n), "e") {
		return "east"
	}
	return "west"
}

func (s *site) startNode(name tidegate.NodeName) *fakeNode {
	n := &fakeNode{site: s, name: name, inc: tidegate.NewID(), streams: map[tidegate.StreamID]*fakeStream{}}
	mux := http.NewServeMux()
	mux.Handle(tidegatev1connect.NewStandbyServiceHandler(n))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	n.addr = l.Addr().String()
	srv := &http.Server{Handler: mux, TLSConfig: s.creds(tidegate.RoleStandby, whereIs(name), string(name)).ServerTLS(tidegate.RoleGate), ReadHeaderTimeout: time.Second}
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(l, "", "") }() // owned by the cleanup
	s.t.Cleanup(func() {
		_ = srv.Close()
		<-done //nolint:errcheck // it was closed
	})
	return n
}

// --- what agents, nodes and operators do ---

// register makes the nodes known and lets them report.
func (s *site) register() {
	s.t.Helper()
	for name, n := range s.nodes {
		c := s.node(tidegate.RoleStandby, whereIs(name), string(name))
		r, err := c.Register(s.t.Context(), connect.NewRequest(&pb.RegisterRequest{
			Node: string(name), Kind: pb.NodeKind_NODE_KIND_STANDBY, Site: string(whereIs(name)), Incarnation: n.inc.String(), ShipAddress: "ship:1", ApiAddress: n.addr,
		}))
		if err != nil {
			s.t.Fatal(err)
		}
		if r.Msg.GetLimbo() {
			s.t.Fatalf("%s was registered into limbo", name)
		}
	}
}

// report lets every node that is up tell the gate what it holds.
func (s *site) report() {
	s.t.Helper()
	if err := s.tryReport(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) tryReport(ctx context.Context) error {
	for name, n := range s.nodes {
		if n.down {
			continue
		}
		req := s.standbyReport(n, s.beacon)
		if _, err := s.node(tidegate.RoleStandby, whereIs(name), string(name)).ReportStandby(ctx, connect.NewRequest(req)); err != nil {
			return err
		}
	}
	return nil
}

// Status tells of the newest batch as of a handover that was applied.
func (n *fakeNode) Status(context.Context, *connect.Request[pb.StandbyServiceStatusRequest]) (*connect.Response[pb.StandbyServiceStatusResponse], error) {
	logs.Lock()
	defer logs.Unlock()
	out := &pb.StandbyServiceStatusResponse{Node: string(n.name), Incarnation: n.inc.String()}
	for id, f := range n.streams {
		h := &fence.Handover{Head: f.end(), Position: 100, StateKnown: !n.state.IsZero(), StateDigest: n.state}
		out.Streams = append(out.Streams, &pb.StandbyStream{StreamId: id.String(), HandoverApplied: fencewire.HandoverMessage(h)})
	}
	return connect.NewResponse(out), nil
}

// applied is how far the service beside a node says that it is.
func (n *fakeNode) applied(f *fakeStream) *uint64 {
	if n.alone {
		return nil
	}
	return new(uint64(f.core.DurablePos().Seq))
}

// standbyReport is what a node would tell the gate now.
func (s *site) standbyReport(n *fakeNode, beacon time.Duration) *pb.ReportStandbyRequest {
	req := &pb.ReportStandbyRequest{
		Node: string(n.name), Site: string(whereIs(n.name)), Incarnation: n.inc.String(), DiskFreeBytes: 1 << 40, DiskTotalBytes: 1 << 41, GrowthBytesPerSecond: new(1e6),
	}
	logs.Lock()
	defer logs.Unlock()
	for id, f := range n.streams {
		lag := int64(0)
		req.Streams = append(req.Streams, &pb.StandbyStream{
			StreamId: id.String(), Promise: fencewire.PromiseMessage(f.core.Promise()), Durable: api.LogPosMessage(f.core.DurablePos()),
			Limbo: f.core.Limbo(), AppliedSeq: n.applied(f), ApplyLagRecords: &lag, BeaconAge: durationpb.New(beacon), History: fencewire.HistoryMessage(f.core.Meta().History),
		})
	}
	return req
}

// agent starts an agent's Watch and returns a function that ends it.
func (s *site) agent(node tidegate.NodeName, where tidegate.SiteName) tidegate.HolderID {
	s.t.Helper()
	return s.agentAs(node, where, tidegate.NewID())
}

// agentAs starts an agent's Watch under a uuid.
func (s *site) agentAs(node tidegate.NodeName, where tidegate.SiteName, uuid tidegate.HolderID) tidegate.HolderID {
	s.t.Helper()
	s.agents[node] = uuid
	ctx, cancel := context.WithCancel(s.t.Context())
	stream, err := s.node(tidegate.RoleAgent, where, string(node)).Watch(ctx, connect.NewRequest(&pb.WatchRequest{
		Node: string(node), Kind: pb.NodeKind_NODE_KIND_AGENT, Site: string(where), Holder: uuid.String(),
	}))
	if err != nil {
		s.t.Fatal(err)
	}
	if !stream.Receive() {
		s.t.Fatal(stream.Err())
	}
	done := make(chan struct{})
	go func() { // ends with ctx
		defer close(done)
		for stream.Receive() {
		}
	}()
	s.t.Cleanup(func() {
		cancel()
		_ = stream.Close()
		<-done
	})
	return uuid
}

// addStreams makes service ledger with streams a and b over all nodes.
func (s *site) addStreams(mode pb.Mode, bounds *pb.Bounds) map[string]tidegate.StreamID {
	s.t.Helper()
	op := s.operator(tidegate.RoleOperator)
	if _, err := op.AddService(s.t.Context(), connect.NewRequest(&pb.AddServiceRequest{Service: &pb.Service{Name: "ledger"}})); err != nil {
		s.t.Fatal(err)
	}
	s.unrehearsed("ledger")
	ids := map[string]tidegate.StreamID{}
	for _, name := range []string{"a", "b"} {
		req := &pb.AddStreamRequest{Service: "ledger", Name: name, Mode: mode, Bounds: bounds, W: 2}
		for n := range s.nodes {
			req.Members = append(req.Members, string(n))
		}
		r, err := op.AddStream(s.t.Context(), connect.NewRequest(req))
		if err != nil {
			s.t.Fatal(err)
		}
		id, err := tidegate.ParseID(r.Msg.GetStream().GetId())
		if err != nil {
			s.t.Fatal(err)
		}
		ids[name] = id
		logs.Lock()
		for _, n := range s.nodes {
			n.stream(id)
		}
		logs.Unlock()
	}
	return ids
}

// unrehearsed says, as an operator would, that no drill has been made: there is
// no evidence of drills, and every change of role is refused without it.
func (s *site) unrehearsed(service tidegate.ServiceName) {
	s.t.Helper()
	store, err := registry.Open("demo", s.registry)
	if err != nil {
		s.t.Fatal(err)
	}
	defer store.Close()
	now := time.Now()
	o := registry.Override{Service: service, Override: rules.Override{
		Rule: rules.DrillFresh, Reason: "a test", Actor: "operator/test", Given: now, Expires: now.Add(rules.OverrideTTL),
	}}
	if _, err := store.Commit(s.t.Context(), new(registry.Tx).Put(registry.OverrideKey(service, o.Rule), o)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) acquire(node tidegate.NodeName, where tidegate.SiteName) ([]fence.EpochRecord, error) {
	r, err := s.node(tidegate.RoleAgent, where, string(node)).AcquireEpoch(s.t.Context(), connect.NewRequest(&pb.AcquireEpochRequest{
		Service: "ledger", Holder: &pb.Holder{Node: string(node), Site: string(where), Uuid: s.agents[node].String()}, Reason: "activated",
	}))
	if err != nil {
		return nil, api.FromError("acquire", "ledger", err)
	}
	var out []fence.EpochRecord
	for _, g := range r.Msg.GetGrants() {
		rec, _, err := fencewire.Record(g.GetEpoch())
		if err != nil {
			return nil, err
		}
		out = append(out, rec)
	}
	return out, nil
}

// mustAcquire also waits out the first election.
func (s *site) mustAcquire(node tidegate.NodeName, where tidegate.SiteName) []fence.EpochRecord {
	s.t.Helper()
	var recs []fence.EpochRecord
	s.eventually("acquire", func() (err error) {
		recs, err = s.acquire(node, where)
		if err != nil && tidegate.ClassOf(err) != tidegate.Transient {
			s.t.Fatal(err)
		}
		return err
	})
	return recs
}

// write appends n batches under a record to the given nodes, and commits them.
func (s *site) write(rec fence.EpochRecord, n int, to ...tidegate.NodeName) {
	s.t.Helper()
	logs.Lock()
	defer logs.Unlock()
	for _, name := range to {
		f := s.nodes[name].stream(rec.Stream)
		for range n {
			if err := f.core.CheckAppend(rec.Epoch, rec.Holder.UUID, rec.Epoch); err != nil {
				s.t.Fatalf("append to %s: %v", name, err)
			}
			prev := f.end()
			sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %s", prev, rec.Epoch, rec.Holder.UUID))
			p := tidegate.LogPos{Epoch: rec.Epoch, Seq: prev.Seq + 1, Chain: tidegate.Chain(sum[:16])}
			f.log = append(f.log, p)
			f.core.Received(p)
			f.core.Durable(p)
			f.core.Commit(rec.Epoch, rec.Holder.UUID, p.Seq)
		}
	}
}

// failover asks for one and returns the last plan seen.
func (s *site) failover(req *pb.ChangeRoleRequest) (*pb.Plan, []*pb.PlanStep, error) {
	req.Service, req.Kind = "ledger", pb.PlanKind_PLAN_KIND_FAILOVER
	stream, err := s.operator(tidegate.RoleOperator).ChangeRole(s.t.Context(), connect.NewRequest(req))
	if err != nil {
		return nil, nil, api.FromError("failover", "ledger", err)
	}
	defer func() { _ = stream.Close() }()
	var plan *pb.Plan
	var steps []*pb.PlanStep
	for stream.Receive() {
		switch e := stream.Msg().GetEvent().(type) {
		case *pb.ChangeRoleResponse_Plan:
			plan = e.Plan
		case *pb.ChangeRoleResponse_Done:
			plan = e.Done
		case *pb.ChangeRoleResponse_Step:
			steps = append(steps, e.Step)
		}
	}
	return plan, steps, api.FromError("failover", "ledger", stream.Err())
}

// records reads the epoch records as they stand.
func (s *site) records(ids map[string]tidegate.StreamID) map[string]fence.EpochRecord {
	s.t.Helper()
	store, err := registry.Open("demo", s.registry)
	if err != nil {
		s.t.Fatal(err)
	}
	defer store.Close()
	out := map[string]fence.EpochRecord{}
	for name, id := range ids {
		es, err := store.ReadEpochs(s.t.Context(), id)
		if err != nil {
			s.t.Fatal(err)
		}
		out[name] = es[0].Value
	}
	return out
}
