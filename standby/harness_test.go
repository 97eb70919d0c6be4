package standby

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/pki"
	"github.com/tidegate/tidegate/internal/rates"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/shipper/drop"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var theStream = tidegate.ID{0xaa}

// patience bounds every wait of these tests; nothing waits that long when the
// code is right.
const patience = 20 * time.Second

// gate is a Directory for several nodes.
type gate struct {
	mu      sync.Mutex
	down    bool
	view    View
	record  fence.EpochRecord
	watches map[tidegate.NodeName]bell
	reports map[tidegate.NodeName]Status
	tails   []Tail
}

type gateOf struct {
	*gate
	node tidegate.NodeName
}

func (g gateOf) Watch(ctx context.Context, self NodeView, update func(View)) error {
	b := newBell()
	g.mu.Lock()
	g.watches[g.node] = b
	g.view.Nodes = slices.DeleteFunc(slices.Clone(g.view.Nodes), func(n NodeView) bool { return n.Node == self.Node })
	g.view.Nodes = append(g.view.Nodes, self)
	g.ringAll()
	g.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b:
		}
		g.mu.Lock()
		v, down := g.view, g.down
		rec := g.record.Clone()
		g.mu.Unlock()
		if down {
			continue
		}
		v.Streams = slices.Clone(v.Streams)
		for i := range v.Streams {
			if rec.Version != 0 {
				v.Streams[i].Record = &rec
			}
		}
		update(v)
	}
}

func (g *gate) ringAll() {
	for _, b := range g.watches {
		b.ring()
	}
}

func (g gateOf) ReadEpoch(context.Context, tidegate.StreamID) (fence.EpochRecord, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.down || g.record.Version == 0 {
		return fence.EpochRecord{}, &tidegate.Error{Op: "read epoch", Class: tidegate.Transient, Err: errors.New("gate is down")}
	}
	return g.record.Clone(), nil
}

func (g gateOf) Report(_ context.Context, st Status) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reports[g.node] = st
	return nil
}

func (g gateOf) ReportTail(_ context.Context, t Tail) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.down {
		return &tidegate.Error{Op: "report tail", Class: tidegate.Transient, Err: errors.New("gate is down")}
	}
	g.tails = append(g.tails, t)
	return nil
}

func (g *gate) set(rec fence.EpochRecord) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.record = rec
	g.ringAll()
}

// cluster is several nodes on real sockets.
type cluster struct {
	t     testing.TB
	gate  *gate
	ca    *pki.Authority
	nodes map[tidegate.NodeName]*node
	w     int
	run   string
	rates string // directory of rate files; none of anybody's own machine

	// Of tests that start many nodes: issued once.
	serve, agent *pki.Credentials
	sealer       *batch.Sealer

	policy BasePolicy // of every node; set before it starts
	// bucket is a node's archive, and archive how it uploads; nil: it has none.
	bucket  func(tidegate.NodeName) bucket.Bucket
	archive archive.Policy
	drop    bucket.Bucket // by which sessions cross, too; nil: none do

	outside map[tidegate.NodeName]tidegate.SiteName // nodes that no configuration names, and where they are
}

// newCrashCluster has a gate and certificates, and no node.
func newCrashCluster(t testing.TB) *cluster {
	t.Helper()
	ca, err := pki.Dev(t.TempDir(), "alpha")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{
		t: t, ca: ca, w: 1, rates: filepath.Join(t.TempDir(), "rates"), sealer: batch.NewSealer(batch.CodecNone),
		gate: &gate{watches: map[tidegate.NodeName]bell{}, reports: map[tidegate.NodeName]Status{}},
	}
	c.gate.view.Streams = []StreamView{{ID: theStream, Service: "ledger", Name: "main", Store: storeJournal, Members: []tidegate.NodeName{"dr1"}, Mode: tidegate.ModeSync}}
	c.serve, c.agent = c.creds(tidegate.RoleStandby, "dr1"), c.creds(tidegate.RoleAgent, "app1")
	return c
}

type node struct {
	c      *cluster
	name   tidegate.NodeName
	fs     vfs.FS
	dir    string
	run    string // of its sockets; empty: the cluster's
	n      *Standby
	cancel context.CancelFunc
	done   chan error
	reg    *prometheus.Registry
}

// newCluster formats and starts nodes; fsOf gives each its file system, the
// same at every call; nil means the operating system's, in a temporary directory.
func newCluster(t testing.TB, w int, fsOf func(tidegate.NodeName) vfs.FS, names ...tidegate.NodeName) *cluster {
	t.Helper()
	return newClusterWith(t, w, fsOf, nil, names...)
}

// newClusterWith has nodes outside of every configuration, too.
func newClusterWith(t testing.TB, w int, fsOf func(tidegate.NodeName) vfs.FS, outside map[tidegate.NodeName]tidegate.SiteName, names ...tidegate.NodeName) *cluster {
	t.Helper()
	ca, err := pki.Dev(t.TempDir(), "alpha")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{
		outside: outside, rates: filepath.Join(t.TempDir(), "rates"),
		t: t, ca: ca, w: w, nodes: map[tidegate.NodeName]*node{},
		gate: &gate{watches: map[tidegate.NodeName]bell{}, reports: map[tidegate.NodeName]Status{}},
	}
	c.gate.view.Streams = []StreamView{{
		ID: theStream, Service: "ledger", Name: "main", Store: storeJournal, Members: names,
		Mode: tidegate.ModeSync,
	}}
	for _, name := range names {
		nd := &node{c: c, name: name, dir: t.TempDir() + "/data"}
		nd.fs = vfs.OS()
		if fsOf != nil && fsOf(name) != nil {
			nd.fs, nd.dir = fsOf(name), "/data"
		}
		c.nodes[name] = nd
		if _, err := Format(nd.fs, nd.dir, name); err != nil {
			t.Fatal(err)
		}
		nd.start()
	}
	t.Cleanup(func() {
		for _, nd := range c.nodes {
			_ = nd.stop() // a test that expects an error has asked for it
		}
	})
	for _, nd := range c.nodes {
		c.until(string(nd.name)+" knows the stream", func() bool { return nd.n.stream(theStream) != nil })
	}
	return c
}

// site is where a node is.
func (c *cluster) site(node tidegate.NodeName) tidegate.SiteName {
	if s := c.outside[node]; s != "" {
		return s
	}
	return "west"
}

func (c *cluster) creds(role tidegate.Role, name string) *pki.Credentials {
	c.t.Helper()
	cred, err := c.ca.Credentials(tidegate.Identity{Cluster: "alpha", Site: c.site(tidegate.NodeName(name)), Role: role, Name: name})
	if err != nil {
		c.t.Fatal(err)
	}
	return cred
}

var testLimits = shipper.Limits{
	KeepaliveEvery: 50 * time.Millisecond, IdleTimeout: 2 * time.Second, BatchBytesMax: 2 << 20, CreditBytes: 4 << 20,
}.SetDefaults()

var quickDrop = drop.Config{Every: 2 * time.Millisecond, Look: 2 * time.Millisecond}

func (nd *node) start() {
	t := nd.c.t
	t.Helper()
	cred := nd.c.creds(tidegate.RoleStandby, string(nd.name))
	nd.reg = prometheus.NewRegistry()
	var err error
	var archives func(context.Context, *rates.Limiter) (bucket.Bucket, error)
	if nd.c.bucket != nil {
		archives = func(context.Context, *rates.Limiter) (bucket.Bucket, error) { return nd.c.bucket(nd.name), nil }
	}
	var passing func(context.Context) (bucket.Bucket, error)
	if nd.c.drop != nil {
		passing = func(context.Context) (bucket.Bucket, error) { return nd.c.drop, nil }
	}
	nd.n, err = New(Config{
		Node: nd.name, Site: nd.c.site(nd.name), DataDir: nd.dir, RunDir: cmp.Or(nd.run, nd.c.run), RatesDir: nd.c.rates, ShipListen: "127.0.0.1:0", APIListen: "127.0.0.1:0",
		Limits: testLimits, SegmentBytes: 1 << 20, FreeBytesMin: 1, RejoinEvery: 50 * time.Millisecond,
		Bases: nd.c.policy, Archive: nd.c.archive, Drop: quickDrop,
	}, Deps{
		FS: nd.fs, Clock: clock.System(), Log: slog.New(slog.DiscardHandler), Registry: nd.reg, Directory: gateOf{nd.c.gate, nd.name},
		ShipServe: cred.ServerTLS(), ShipDial: cred.ClientTLS(pki.Expect{Role: tidegate.RoleStandby}), APIServe: cred.ServerTLS(),
		Archive: archives, Drop: passing,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	nd.cancel, nd.done = cancel, make(chan error, 1)
	go func(n *Standby, done chan error) { done <- n.Run(ctx) }(nd.n, nd.done) // owned by stop; ends with ctx
	select {
	case <-nd.n.Ready():
	case err := <-nd.done:
		nd.done <- err
		t.Fatalf("%s: %v", nd.name, err)
	}
}

// stop ends the node and returns what Run returned; nil if it is stopped already.
func (nd *node) stop() error {
	if nd.cancel == nil {
		return nil
	}
	nd.cancel()
	nd.cancel = nil
	return <-nd.done
}

func (nd *node) status() StreamStatus {
	return nd.n.stream(theStream).status()
}

// until waits for a condition that other goroutines bring about.
func (c *cluster) until(what string, ok func() bool) {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			for name, nd := range c.nodes {
				if nd.cancel != nil && nd.n.stream(theStream) != nil {
					c.t.Logf("%s: %+v", name, nd.status())
				}
			}
			c.t.Fatalf("waited in vain: %s", what)
		}
		<-tick.C
	}
}

func (c *cluster) sorted() []*node {
	var out []*node
	for _, name := range slices.Sorted(maps.Keys(c.nodes)) {
		out = append(out, c.nodes[name])
	}
	return out
}

// config names every node with the incarnation of its directory.
func (c *cluster) config() fence.Config {
	cfg := fence.Config{W: c.w}
	for _, nd := range c.sorted() {
		if c.outside[nd.name] != "" {
			continue
		}
		cfg.Members = append(cfg.Members, fence.Member{Node: nd.name, Incarnation: nd.n.Identity().Incarnation})
	}
	return cfg
}

func (c *cluster) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	c.t.Cleanup(cancel)
	return ctx
}

// register writes the record of a stream that has never been active, so that
// formatted nodes leave limbo.
func (c *cluster) register() {
	c.t.Helper()
	rec, err := fence.NewRecord(theStream, c.config(), fence.GateRecord{State: fence.GateArmed, Mode: tidegate.ModeSync})
	if err != nil {
		c.t.Fatal(err)
	}
	c.gate.set(rec)
	for _, nd := range c.nodes {
		if c.outside[nd.name] != "" {
			continue
		}
		c.until(string(nd.name)+" leaves limbo", func() bool { return !nd.status().Limbo })
	}
}

// activate runs F1 to F6 over the nodes named (all if none) and returns the
// record. Nodes are asked through the node's own methods.
func (c *cluster) activate(holder fence.Holder, ask ...tidegate.NodeName) fence.EpochRecord {
	c.t.Helper()
	if len(ask) == 0 {
		ask = slices.DeleteFunc(slices.Sorted(maps.Keys(c.nodes)), func(n tidegate.NodeName) bool { return c.outside[n] != "" })
	}
	c.gate.mu.Lock()
	rec := c.gate.record.Clone()
	c.gate.mu.Unlock()
	epoch := rec.Epoch + 1
	var best fence.FenceReply
	for _, name := range ask {
		r, err := c.nodes[name].n.Fence(c.ctx(), fence.FenceRequest{Stream: theStream, Epoch: epoch, Holder: holder.UUID})
		if err != nil || r.Refused || r.Limbo {
			c.t.Fatalf("fence %s: %+v, %v", name, r, err)
		}
		if best.Member.Node == "" || r.History.Last().Epoch > best.History.Last().Epoch ||
			r.History.Last().Epoch == best.History.Last().Epoch && r.Durable.Seq > best.Durable.Seq {
			best = r
		}
	}
	for _, name := range ask {
		c.until(string(name)+" adopts", func() bool { // again, as the plan does: a source that just began may not be known by its new address
			r, err := c.nodes[name].n.Adopt(c.ctx(), fence.AdoptRequest{
				Stream: theStream, Epoch: epoch, Holder: holder.UUID, History: best.History, Head: best.Durable,
				Source: best.Member.Node, Reason: fence.ReasonDiverged,
			})
			if err != nil || !r.Adopted && r.Class != tidegate.Transient {
				c.t.Fatalf("adopt %s: %+v, %v", name, r, err)
			}
			return r.Adopted
		})
	}
	rec.Epoch, rec.ActiveEpoch, rec.Holder, rec.Active, rec.State = epoch, epoch, holder, holder, fence.StateActive
	rec.Head, rec.StartSeq = best.Durable, best.Durable.Seq+1
	rec.History = best.History.With(fence.Term{Epoch: epoch, StartSeq: rec.StartSeq, Holder: holder.UUID})
	rec.Config = c.config()
	if err := rec.Validate(); err != nil {
		c.t.Fatal(err)
	}
	c.gate.set(rec)
	return rec
}

// start1 registers and activates epoch 1.
func (c *cluster) start1() *writer {
	c.register()
	return c.writer(c.activate(fence.Holder{Node: "app1", Site: "east", UUID: tidegate.NewID()}))
}

// writer is a small agent: it seals, ships, counts acks.
type writer struct {
	c      *cluster
	rec    fence.EpochRecord
	sealer *batch.Sealer
	log    [][]byte // sealed, from seq 1; nil below the epoch's start
	chain  tidegate.Chain
	pos    tidegate.Position

	mu   sync.Mutex
	conn *shipper.Conn
	at   shipper.Attached
	acks map[fence.Member]fence.Ack
	d    tidegate.Seq
	err  error // that ended the session
	lent map[tidegate.NodeName]shipper.LeaseGrant
	back []shipper.Feedback // as they came
	wg   sync.WaitGroup
	sent tidegate.Seq

	connect func(ctx context.Context, addr string) (net.Conn, error) // nil: TCP
}

func (c *cluster) writer(rec fence.EpochRecord) *writer {
	w := &writer{c: c, rec: rec, sealer: batch.NewSealer(batch.CodecSnappy), acks: map[fence.Member]fence.Ack{}, lent: map[tidegate.NodeName]shipper.LeaseGrant{}, chain: rec.Head.Chain}
	w.log = make([][]byte, rec.Head.Seq)
	c.t.Cleanup(w.close)
	return w
}

func (w *writer) dialer() shipper.Dialer {
	limits := testLimits
	if w.connect != nil {
		limits = drop.Limits(limits) // as an agent has: a session through a bucket is patient
	}
	return shipper.Dialer{
		TLS:   w.c.creds(tidegate.RoleAgent, "app1").ClientTLS(pki.Expect{Role: tidegate.RoleStandby}),
		Clock: clock.System(), Limits: limits, Connect: w.connect,
	}
}

func (w *writer) dial(relay tidegate.NodeName) (*shipper.Conn, shipper.Attached, error) {
	return w.dialer().Dial(w.c.ctx(), w.c.nodes[relay].n.Identity().Ship, shipper.Attach{
		Stream: theStream, As: shipper.AsWriter, Epoch: w.rec.Epoch, Holder: w.rec.Holder.UUID, Members: w.rec.Config.Members,
	})
}

// attach ships through relay from now on.
func (w *writer) attach(relay tidegate.NodeName) {
	w.c.t.Helper()
	w.close()
	conn, at, err := w.dial(relay)
	if err != nil {
		w.c.t.Fatalf("attach to %s: %v", relay, err)
	}
	w.mu.Lock()
	w.conn, w.at, w.err, w.sent = conn, at, nil, at.Received.Seq
	w.mu.Unlock()
	w.wg.Go(func() { w.receive(conn) })
}

func (w *writer) receive(conn *shipper.Conn) {
	for {
		ev, err := conn.Recv()
		w.mu.Lock()
		if err != nil {
			w.err = err
			w.mu.Unlock()
			return
		}
		switch ev := ev.(type) {
		case *shipper.AckEvent:
			w.count(ev.Ack)
		case *shipper.LeaseEvent:
			w.lent[ev.Grant.Node] = ev.Grant
		case *shipper.FeedbackEvent:
			w.back = append(w.back, ev.Feedback)
		}
		d := w.d
		w.mu.Unlock()
		if _, ok := ev.(*shipper.AckEvent); ok {
			if err := conn.SendCommit(d); err != nil {
				continue // the session's end comes with the next Recv
			}
		}
	}
}

// count computes D, with mu held.
func (w *writer) count(a fence.Ack) {
	m := fence.Member{Node: a.Node, Incarnation: a.Incarnation}
	w.acks[m] = a
	var durable []tidegate.Seq
	for _, m := range w.rec.Config.Members {
		if ack, ok := w.acks[m]; ok && ack.Epoch == w.rec.Epoch {
			durable = append(durable, ack.Durable)
		}
	}
	if len(durable) >= w.c.w {
		slices.Sort(durable)
		w.d = max(w.d, durable[len(durable)-w.c.w])
	}
}

func (w *writer) durable() tidegate.Seq {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.d
}

func (w *writer) acked(n tidegate.NodeName) tidegate.Seq {
	w.mu.Lock()
	defer w.mu.Unlock()
	var seq tidegate.Seq
	for m, a := range w.acks {
		if m.Node == n {
			seq = max(seq, a.Durable)
		}
	}
	return seq
}

// stored is what a node says that it has synced, whether it counts or not.
func (w *writer) stored(n tidegate.NodeName) tidegate.Seq {
	w.mu.Lock()
	defer w.mu.Unlock()
	var seq tidegate.Seq
	for m, a := range w.acks {
		if m.Node == n {
			seq = max(seq, a.Stored)
		}
	}
	return seq
}

func (w *writer) lost() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// seal makes n batches of size bytes.
func (w *writer) seal(n, size int) {
	w.c.t.Helper()
	for range n {
		payload := make([]byte, size)
		for i := range payload {
			payload[i] = byte(int(w.pos) + i*7 + i*i>>3)
		}
		w.sealOne(batch.KindData, 1, payload)
	}
}

// sealOne makes one batch; of data it covers the payload's bytes, of any other
// kind no position.
func (w *writer) sealOne(kind batch.Kind, records uint32, payload []byte) {
	w.c.t.Helper()
	next := w.pos
	if kind == batch.KindData {
		next += tidegate.Position(len(payload))
	}
	sealed, h, err := w.sealer.Seal(nil, batch.Header{
		Kind: kind, Records: records, Stream: theStream, Epoch: w.rec.Epoch, Seq: tidegate.Seq(len(w.log) + 1),
		First: w.pos, Next: next, Head: next, Generation: 1, OldestTime: 1, NewestTime: 1,
	}, w.chain, payload)
	if err != nil {
		w.c.t.Fatal(err)
	}
	w.chain, w.pos = h.Chain, next
	w.log = append(w.log, sealed)
}

// ship sends everything sealed that was not sent in this session.
func (w *writer) ship() error {
	w.mu.Lock()
	conn := w.conn
	w.mu.Unlock()
	for w.sent < tidegate.Seq(len(w.log)) {
		if err := conn.Send(w.c.ctx(), w.log[w.sent]); err != nil {
			return err
		}
		w.sent++
	}
	return conn.Flush()
}

func (w *writer) close() {
	w.mu.Lock()
	conn := w.conn
	w.conn = nil
	w.mu.Unlock()
	if conn != nil {
		_ = conn.Close() // its end is what was asked for
	}
	w.wg.Wait()
}

// same checks that nodes hold the writer's log exactly, through seq.
func (w *writer) same(upTo tidegate.Seq, names ...tidegate.NodeName) {
	w.c.t.Helper()
	for _, name := range names {
		s := w.c.nodes[name].n.stream(theStream)
		for seq := tidegate.Seq(1); seq <= upTo; seq++ {
			_, h, err := s.log.At(seq)
			if err != nil {
				w.c.t.Fatalf("%s at %s: %v", name, seq, err)
			}
			if want := w.log[seq-1]; want != nil && h.Chain != batch.ChainOf(want) {
				w.c.t.Fatalf("%s at %s: %+v is not what was sealed", name, seq, h)
			}
		}
	}
}

func mems(names ...tidegate.NodeName) (map[tidegate.NodeName]*vfs.Mem, func(tidegate.NodeName) vfs.FS) {
	m := map[tidegate.NodeName]*vfs.Mem{}
	for _, n := range names {
		m[n] = vfs.NewMem()
	}
	return m, func(n tidegate.NodeName) vfs.FS { return m[n] }
}

func describe(err error) string { return fmt.Sprintf("%s: %v", tidegate.ClassOf(err), err) }

func fenceAsk(epoch tidegate.Epoch, holder tidegate.HolderID) fence.FenceRequest {
	return fence.FenceRequest{Stream: theStream, Epoch: epoch, Holder: holder}
}
