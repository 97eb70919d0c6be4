package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/pki"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/journal"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/stores"
	"github.com/tidegate/tidegate/stores/journal/capture"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	cluster = "acme"
	patient = 20 * time.Second
)

// world is one stream with fake standby nodes, a fake gate, real agents and
// real journals.
type world struct {
	t    testing.TB
	ca   *pki.Authority
	log  *dr
	gate *fakeGate
	ctx  context.Context
	wg   sync.WaitGroup
}

func newWorld(t testing.TB, nodes ...tidegate.NodeName) *world {
	t.Helper()
	ca, err := pki.Dev(t.TempDir(), cluster)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &world{t: t, ca: ca, ctx: ctx}
	w.log = &dr{stream: tidegate.NewID(), nodes: map[tidegate.NodeName]*drNode{}, changed: make(chan struct{})}
	t.Cleanup(func() { cancel(); w.wg.Wait() })
	for _, n := range nodes {
		w.startNode(n)
	}
	w.startGate()
	return w
}

func (w *world) credentials(site tidegate.SiteName, role tidegate.Role, name string) *pki.Credentials {
	w.t.Helper()
	c, err := w.ca.Credentials(tidegate.Identity{Cluster: cluster, Site: site, Role: role, Name: name})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// dr is the log of all standby nodes: a fan-out that takes no time.
type dr struct {
	stream tidegate.StreamID

	mu      sync.Mutex
	sealed  [][]byte
	headers []batch.Header
	promise fence.Promise
	commit  tidegate.Seq
	stamp   uint64
	deaf    bool // takes nothing in and acknowledges nothing
	nodes   map[tidegate.NodeName]*drNode
	changed chan struct{} // closed and replaced at every change
}

type drNode struct {
	member fence.Member
	addr   string
	stop   context.CancelFunc
	done   chan struct{}
}

func (d *dr) shout() {
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *dr) end() tidegate.LogPos {
	if len(d.headers) == 0 {
		return tidegate.LogPos{}
	}
	return d.headers[len(d.headers)-1].Pos()
}

// adopt binds the nodes to a new epoch and returns the head it begins after.
func (d *dr) adopt(p fence.Promise) tidegate.LogPos {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.promise = p
	d.shout()
	return d.end()
}

func (d *dr) fencedRefusal() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := shipper.Refuse(shipper.CodeFenced, "promised %s", d.promise)
	r.Promise = d.promise
	return r
}

func (d *dr) setDeaf(deaf bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.deaf = deaf
	d.shout()
}

// seal appends a batch that another site's writer would have sealed.
func (d *dr) seal(t testing.TB, first tidegate.Position, payload []byte) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	end := d.end()
	sealed, h, err := batch.NewSealer(batch.CodecSnappy).Seal(nil, batch.Header{
		Kind: batch.KindData, Stream: d.stream, Epoch: d.promise.Epoch, Seq: end.Seq + 1, First: first,
		Next: first + tidegate.Position(len(payload)), Records: 1, Head: first + tidegate.Position(len(payload)), Generation: 1,
	}, end.Chain, payload)
	if err != nil {
		t.Fatal(err)
	}
	d.sealed, d.headers = append(d.sealed, sealed), append(d.headers, h)
	d.shout()
}

func (d *dr) take(sealed []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	h, err := batch.Verify(sealed, d.end().Chain)
	if err != nil {
		return err
	}
	if h.Seq != d.end().Seq+1 {
		return shipper.Refuse(shipper.CodeGap, "batch %s after %s", h.Seq, d.end().Seq)
	}
	d.sealed, d.headers = append(d.sealed, bytes.Clone(sealed)), append(d.headers, h)
	d.shout()
	return nil
}

func (d *dr) acks() (list []fence.Ack) {
	d.mu.Lock()
	defer d.mu.Unlock()
	end := d.end()
	for _, n := range d.nodes {
		d.stamp++
		list = append(list, fence.Ack{
			Node: n.member.Node, Incarnation: n.member.Incarnation, Epoch: d.promise.Epoch,
			Received: end.Seq, Durable: end.Seq, Chain: end.Chain, Stamp: d.stamp,
		})
	}
	return list
}

// content opens every data batch and returns the source's bytes, having
// checked that they follow each other.
func (d *dr) content(t testing.TB) []byte {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []byte
	var o batch.Opener
	for i, sealed := range d.sealed {
		h, payload, err := o.Open(nil, sealed)
		if err != nil {
			t.Fatal(err)
		}
		if h.Kind != batch.KindData {
			continue
		}
		if int(h.First) != len(all) {
			t.Fatalf("batch %d begins at %s, the content so far ends at %x", i+1, h.First, len(all))
		}
		all = append(all, payload...)
	}
	return all
}

// wait blocks until ok holds.
func (d *dr) wait(t testing.TB, what string, ok func(*dr) bool) {
	t.Helper()
	deadline := time.After(patient)
	for {
		d.mu.Lock()
		ch, done := d.changed, ok(d)
		d.mu.Unlock()
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

func (w *world) startNode(name tidegate.NodeName) {
	w.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	cred := w.credentials("west", tidegate.RoleStandby, string(name))
	srv, err := shipper.NewServer(shipper.ServerConfig{
		TLS: cred.ServerTLS(), Node: name, Clock: clock.System(), Log: slog.New(slog.DiscardHandler),
	}, &acceptor{d: w.log, name: name})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	n := &drNode{member: fence.Member{Node: name, Incarnation: tidegate.NewID()}, addr: ln.Addr().String(), stop: cancel, done: make(chan struct{})}
	w.log.nodes[name] = n
	w.wg.Go(func() {
		defer close(n.done)
		if err := srv.Serve(ctx, ln); err != nil {
			w.t.Errorf("serve: %v", err)
		}
	})
}

// kill ends a standby node.
func (w *world) kill(name tidegate.NodeName) {
	w.log.mu.Lock()
	n := w.log.nodes[name]
	delete(w.log.nodes, name)
	w.log.mu.Unlock()
	n.stop()
	<-n.done
}

// acceptor is one standby node's end of the ship sessions.
type acceptor struct {
	d    *dr
	name tidegate.NodeName
}

func (a *acceptor) Attach(ctx context.Context, _ tidegate.Identity, at shipper.Attach, conn *shipper.ServerConn) error {
	d := a.d
	d.mu.Lock()
	n := d.nodes[a.name]
	if n == nil {
		d.mu.Unlock()
		return tidegate.ErrStopped
	}
	if at.As == shipper.AsWriter && (at.Epoch != d.promise.Epoch || at.Holder != d.promise.Holder) {
		r := shipper.Refuse(shipper.CodeFenced, "promised %s", d.promise)
		r.Promise = d.promise
		d.mu.Unlock()
		return r
	}
	reply := shipper.Attached{
		Node: a.name, Incarnation: n.member.Incarnation, Promise: d.promise, Durable: d.end(), Received: d.end(), Commit: d.commit,
	}
	if at.As == shipper.AsWriter {
		reply.Tail = append(reply.Tail, d.headers[max(0, len(d.headers)-shipper.TailMax):]...)
	}
	if at.From == 0 {
		at.From = d.end().Seq + 1
	}
	gap := at.From > d.end().Seq+1
	d.mu.Unlock()
	if gap {
		return shipper.Refuse(shipper.CodeGap, "asked from %s", at.From)
	}
	if err := conn.Accept(reply); err != nil {
		return err
	}
	if at.As == shipper.AsObserver {
		return a.observer(ctx, at, conn)
	}
	return a.writer(ctx, at, conn)
}

func (a *acceptor) writer(ctx context.Context, at shipper.Attach, conn *shipper.ServerConn) error {
	// A fence ends the session at once, with its reason.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	fenced := make(chan struct{})
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	watch.Go(func() {
		for {
			a.d.mu.Lock()
			ch, over := a.d.changed, a.d.promise.Holder != at.Holder
			a.d.mu.Unlock()
			if over {
				close(fenced)
				conn.Interrupt(a.d.fencedRefusal())
				return
			}
			select {
			case <-ch:
			case <-ctx.Done():
				return
			}
		}
	})
	for {
		ev, err := conn.Recv()
		if err != nil {
			return err
		}
		switch ev := ev.(type) {
		case *shipper.BatchEvent:
			for a.isDeaf() {
				a.d.mu.Lock()
				ch := a.d.changed
				a.d.mu.Unlock()
				select {
				case <-ch:
				case <-ctx.Done():
					return ctx.Err()
				case <-fenced:
					return a.d.fencedRefusal()
				}
			}
			a.d.mu.Lock()
			over := a.d.promise.Holder != at.Holder
			a.d.mu.Unlock()
			if over {
				return a.d.fencedRefusal()
			}
			if err := a.d.take(ev.Sealed); err != nil {
				return err
			}
			if err := conn.Grant(len(ev.Sealed)); err != nil {
				return err
			}
			for _, ack := range a.d.acks() {
				if err := conn.SendAck(ack); err != nil {
					return err
				}
			}
			if err := conn.Flush(); err != nil {
				return err
			}
		case *shipper.CommitEvent:
			a.d.mu.Lock()
			a.d.commit = max(a.d.commit, ev.Seq)
			a.d.shout()
			a.d.mu.Unlock()
		}
	}
}

func (a *acceptor) isDeaf() bool {
	a.d.mu.Lock()
	defer a.d.mu.Unlock()
	return a.d.deaf
}

func (a *acceptor) observer(ctx context.Context, at shipper.Attach, conn *shipper.ServerConn) error {
	ctx, cancel := context.WithCancel(ctx)
	var recv sync.WaitGroup
	defer recv.Wait()
	defer conn.Interrupt(net.ErrClosed)
	defer cancel()
	recv.Go(func() {
		defer cancel()
		for {
			if _, err := conn.Recv(); err != nil {
				return
			}
		}
	})
	for next := at.From; ; {
		a.d.mu.Lock()
		ch, list := a.d.changed, a.d.sealed
		a.d.mu.Unlock()
		for ; int(next) <= len(list); next++ {
			if err := conn.SendHeader(list[next-1][:batch.HeaderSize]); err != nil {
				return err
			}
		}
		if err := conn.Flush(); err != nil {
			return err
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return net.ErrClosed
		}
	}
}

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
	}}}}
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
	epoch := g.rec.Epoch + 1
	head := g.d.adopt(fence.Promise{Epoch: epoch, Holder: h.UUID})
	gate := g.rec.Gate
	g.rec = fence.EpochRecord{
		Version: fence.EpochRecordVersion, Stream: g.d.stream, Epoch: epoch, ActiveEpoch: epoch, Holder: h, State: fence.StateActive,
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
	rec := g.grant(h, fence.KindAcquire)
	g.mu.Lock()
	defer g.mu.Unlock()
	return connect.NewResponse(&pb.AcquireEpochResponse{Grants: []*pb.StreamGrant{{
		StreamId: api.IDText(g.d.stream), Epoch: fencewire.RecordMessage(rec, g.revision),
	}}}), nil
}

func (g *fakeGate) RecordGate(_ context.Context, r *connect.Request[pb.RecordGateRequest]) (*connect.Response[pb.RecordGateResponse], error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.Msg.GetRevision() != g.revision {
		return nil, api.Error(tidegate.ErrConflict)
	}
	gate, err := fencewire.Gate(r.Msg.GetGate())
	if err != nil {
		return nil, api.Error(err)
	}
	g.recorded = append(g.recorded, gate)
	g.rec.Gate = gate
	g.revision++
	g.shout()
	return connect.NewResponse(&pb.RecordGateResponse{Epoch: fencewire.RecordMessage(g.rec, g.revision)}), nil
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

// host is a machine that may be active: its journal and its agent.
type host struct {
	w    *world
	site tidegate.SiteName
	name tidegate.NodeName
	dir  string

	j     *journal.Journal
	stopJ func()
	agent *Agent
	stopA func()
}

func (w *world) host(site tidegate.SiteName, name tidegate.NodeName) *host {
	return &host{w: w, site: site, name: name, dir: w.t.TempDir()}
}

// journalID is shared by all hosts, as the replicas of one service share it.
var journalID = tidegate.ID{1, 2, 3}

func (h *host) openJournal() *host {
	t := h.w.t
	t.Helper()
	j, err := journal.Open(filepath.Join(h.dir, "journal"), journal.Config{
		Service: "ledger", Stream: "main", ID: journalID, Endpoint: "127.0.0.1:1234",
		AgentSocket: local.SocketPath(h.dir, local.DaemonAgent, "ledger", "main"),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(h.w.ctx)
	done := make(chan struct{})
	h.w.wg.Go(func() {
		defer close(done)
		if err := j.Run(ctx, &service0{j: j}); err != nil {
			t.Errorf("journal: %v", err)
		}
	})
	h.j = j
	h.stopJ = sync.OnceFunc(func() {
		cancel()
		<-done
		if err := j.Close(); err != nil {
			t.Errorf("close journal: %v", err)
		}
	})
	t.Cleanup(func() { h.stopJ() })
	return h
}

// service0 is a service without a state.
type service0 struct{ j *journal.Journal }

func (s *service0) State() (tidegate.Position, tidegate.Digest) { return s.j.End(), tidegate.Digest{} }
func (s *service0) Apply(journal.Record) error                  { return nil }
func (s *service0) Fenced(tidegate.Epoch)                       {}
func (s *service0) Promote(context.Context, tidegate.Epoch, tidegate.Position) error {
	return nil
}

func (h *host) config() Config {
	return Config{
		Node:    config.Node{Cluster: cluster, Site: h.site, Name: h.name},
		TLS:     config.TLS{CA: "/pki/ca", Cert: "/pki/cert", Key: "/pki/key"},
		Gates:   []string{h.w.gate.addr},
		Listen:  "127.0.0.1:0",
		DataDir: filepath.Join(h.dir, "agent-data"),
		RunDir:  h.dir,
		Streams: []StreamConfig{{Service: "ledger", Stream: "main", JournalDir: filepath.Join(h.dir, "journal")}},
		Limits:  Limits{ProofWait: 300 * time.Millisecond},
	}.SetDefaults()
}

func newRegistry() *prometheus.Registry { return prometheus.NewRegistry() }

func (h *host) source(c StreamConfig) (stores.Source, error) {
	return capture.New(vfs.OS(), c.JournalDir), nil
}

func (h *host) startAgent() *host {
	t := h.w.t
	t.Helper()
	a, err := New(h.config(), Deps{
		FS: vfs.OS(), Clock: clock.System(), Credentials: h.w.credentials(h.site, tidegate.RoleAgent, string(h.name)),
		Log: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug})), Registry: newRegistry(),
		Source: h.source, BootID: "this-boot",
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(h.w.ctx)
	done := make(chan struct{})
	h.w.wg.Go(func() {
		defer close(done)
		if err := a.Run(ctx); err != nil {
			t.Errorf("agent %s: %v", h.name, err)
		}
	})
	<-a.Ready()
	h.agent = a
	h.stopA = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(func() { h.stopA() })
	return h
}

// testWriter logs as long as the test runs.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(string(bytes.TrimSpace(p)))
	return len(p), nil
}

func (h *host) append(n int) tidegate.Position {
	h.w.t.Helper()
	var end tidegate.Position
	for i := range n {
		r, err := h.j.Append(h.w.t.Context(), fmt.Appendf(nil, "record %d at %s", i, h.j.End()), time.Unix(1000, 0))
		if err != nil {
			h.w.t.Fatal(err)
		}
		end = r.Next
	}
	return end
}

func (h *host) await(p tidegate.Position) {
	h.w.t.Helper()
	ctx, cancel := context.WithTimeout(h.w.t.Context(), patient)
	defer cancel()
	if err := h.j.Await(ctx, p); err != nil {
		h.w.t.Fatalf("await %s: %v (agent: %+v)", p, err, h.agent.Status().Streams[0])
	}
}

// state waits until the agent's one stream is in the given state.
func (h *host) state(want State) StreamStatus {
	h.w.t.Helper()
	var st StreamStatus
	h.w.gate.wait(h.w.t, fmt.Sprintf("agent %s %s", h.name, want), func(*fakeGate) bool {
		st = h.agent.Status().Streams[0]
		return st.State == want
	})
	return st
}

// copyOf gives the host a journal with the same bytes as another's up to limit.
func (h *host) copyOf(o *host, limit tidegate.Position) *host {
	h.w.t.Helper()
	c, err := capture.New(vfs.OS(), filepath.Join(o.dir, "journal")).Follow(h.w.t.Context(), 0)
	if err != nil {
		h.w.t.Fatal(err)
	}
	u, err := c.Read(limit, 1<<30)
	if err != nil {
		h.w.t.Fatal(err)
	}
	if u.Records > 0 {
		if _, err := h.j.AppendRaw(h.w.t.Context(), u.First, u.Payload); err != nil {
			h.w.t.Fatal(err)
		}
	}
	if err := errors.Join(h.j.Sync(h.w.t.Context()), c.Close()); err != nil {
		h.w.t.Fatal(err)
	}
	return h
}
