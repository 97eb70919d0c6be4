package agent

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/pki"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/journal"
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
	clk  *jumping
}

// jumping is the system's clock, which tests move on as a suspend does.
type jumping struct {
	clock.Clock
	ahead atomic.Int64
}

func (c *jumping) Boot() tidegate.Instant {
	return c.Clock.Boot() + tidegate.Instant(c.ahead.Load())
}

func (c *jumping) jump(d time.Duration) { c.ahead.Add(int64(d)) }

func newWorld(t testing.TB, nodes ...tidegate.NodeName) *world {
	t.Helper()
	ca, err := pki.Dev(t.TempDir(), cluster)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &world{t: t, ca: ca, ctx: ctx, clk: &jumping{Clock: clock.System()}}
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

// host is a machine that may be active: its journal and its agent.
type host struct {
	proofWait time.Duration // 0: short
	limits    Limits        // what is 0 is the default
	drop      bucket.Bucket // nil: there is one lane
	slow      time.Duration // of the live one, to be left; 0: the default
	connect   func(ctx context.Context, addr string) (net.Conn, error)

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
		AgentSocket: local.SocketPath(h.dir, local.DaemonAgent, "ledger", "main"), Clock: h.w.clk,
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

// service0 is a service whose state is how far it has come.
type service0 struct{ j *journal.Journal }

func (s *service0) State() (tidegate.Position, tidegate.Digest) {
	end := s.j.End()
	return end, stateAt(end)
}

func stateAt(p tidegate.Position) (d tidegate.Digest) {
	binary.LittleEndian.PutUint64(d[:], uint64(p)+1)
	return d
}

func (s *service0) Apply(journal.Record) error { return nil }
func (s *service0) Fenced(tidegate.Epoch)      {}
func (s *service0) Promote(context.Context, tidegate.Epoch, tidegate.Position) error {
	return nil
}

func (h *host) config() Config {
	h.limits.ProofWait = cmp.Or(h.proofWait, 300*time.Millisecond)
	c := Config{
		Node:    config.Node{Cluster: cluster, Site: h.site, Name: h.name},
		TLS:     config.TLS{CA: "/pki/ca", Cert: "/pki/cert", Key: "/pki/key"},
		Gates:   []string{h.w.gate.addr},
		Listen:  "127.0.0.1:0",
		DataDir: filepath.Join(h.dir, "agent-data"),
		RunDir:  h.dir, RatesDir: filepath.Join(h.dir, "rates"),
		Streams: []StreamConfig{{Service: "ledger", Stream: "main", JournalDir: filepath.Join(h.dir, "journal")}},
		Limits:  h.limits,
	}
	if h.drop != nil {
		c.Archive.URL, c.Drop.Every = "file:///opened/already", 10*time.Millisecond
		c.Drop.Slow = h.slow
	}
	return c.SetDefaults()
}

func newRegistry() *prometheus.Registry { return prometheus.NewRegistry() }

func (h *host) source(c StreamConfig) (stores.Source, error) {
	return capture.New(vfs.OS(), c.JournalDir), nil
}

func (h *host) startAgent() *host {
	t := h.w.t
	t.Helper()
	a, err := New(h.config(), Deps{
		FS: vfs.OS(), Clock: h.w.clk, Credentials: h.w.credentials(h.site, tidegate.RoleAgent, string(h.name)),
		Log: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug})), Registry: newRegistry(),
		Source: h.source, BootID: "this-boot", Drop: h.drop, Connect: h.connect,
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

// held checks that p is not released, given some time.
func (h *host) held(p tidegate.Position) {
	h.w.t.Helper()
	ctx, cancel := context.WithTimeout(h.w.t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := h.j.Await(ctx, p); !errors.Is(err, context.DeadlineExceeded) {
		h.w.t.Fatalf("await %s: %v, want it held back (agent: %+v)", p, err, h.agent.Status().Streams[0].Writer)
	}
}

// writer waits until the status of the agent's one writer is as ok wants it.
func (h *host) writer(what string, ok func(*WriterStatus) bool) *WriterStatus {
	h.w.t.Helper()
	var st *WriterStatus
	h.w.gate.wait(h.w.t, what, func(*fakeGate) bool {
		st = h.agent.Status().Streams[0].Writer
		return st != nil && ok(st)
	})
	return st
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
