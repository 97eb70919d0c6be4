package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/shipper/drop"
)

// wire is a network that can be cut, or made too slow for anything to arrive.
type wire struct {
	mu    sync.Mutex
	down  bool
	slow  atomic.Bool
	conns []net.Conn
}

// slowConn takes what is written, and brings nothing of it while its wire is slow.
type slowConn struct {
	net.Conn

	slow *atomic.Bool
}

func (c slowConn) Write(p []byte) (int, error) {
	if c.slow.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (l *wire) connect(ctx context.Context, addr string) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return nil, errors.New("network is unreachable")
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	l.conns = append(l.conns, c)
	return slowConn{c, &l.slow}, nil
}

func (l *wire) set(down bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = down
	for _, c := range l.conns {
		_ = c.Close() // whoever uses it reports it
	}
	l.conns = nil
}

// serveDrop lets a standby node take sessions through a bucket, too.
func (w *world) serveDrop(name tidegate.NodeName, d *drop.Drop) {
	w.t.Helper()
	srv, err := shipper.NewServer(shipper.ServerConfig{
		TLS: w.credentials("west", tidegate.RoleStandby, string(name)).ServerTLS(), Node: name, Clock: clock.System(),
		Limits: drop.Limits(shipper.Limits{}.SetDefaults()), Log: slog.New(slog.DiscardHandler),
	}, &acceptor{d: w.log, name: name})
	if err != nil {
		w.t.Fatal(err)
	}
	ln := d.Listen(name, func() bool { return true }, slog.New(slog.DiscardHandler))
	w.wg.Go(func() {
		if err := srv.Serve(w.ctx, ln); err != nil {
			w.t.Errorf("serve: %v", err)
		}
		d.Wait()
	})
}

// lane waits until the agent's one stream goes by a lane. Time passes meanwhile: lanes
// change after seconds.
func (h *host) lane(want lane) {
	h.w.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patient); h.agent.Status().Streams[0].Crossing.Lane != string(want); <-tick.C {
		if time.Now().After(deadline) {
			h.w.t.Fatalf("waited in vain for the lane %s: %+v", want, h.agent.Status().Streams[0])
		}
		h.w.clk.jump(200 * time.Millisecond)
	}
}

func TestStreamCrossesByTheArchive(t *testing.T) {
	streamCrosses(t, dir.New(vfs.OS(), t.TempDir()))
}

func TestSlowCrossingGoesByTheArchive(t *testing.T) {
	slowCrosses(t, dir.New(vfs.OS(), t.TempDir()))
}

// slowCrosses has a stream whose link answers, and then brings nothing of what is sent,
// go by the archive, and say that this is why.
func slowCrosses(t *testing.T, b bucket.Bucket) {
	w := newWorld(t, "s1")
	w.serveDrop("s1", drop.New(b, drop.Config{Every: 5 * time.Millisecond, Look: 5 * time.Millisecond}))
	link := &wire{}
	h := w.host("east", "n1")
	h.drop, h.connect, h.slow = b, link.connect, 10*time.Second
	h.openJournal().startAgent()
	if err := h.j.Activate(); err != nil {
		t.Fatal(err)
	}
	h.await(h.append(5))
	link.slow.Store(true)
	p := h.append(5)
	h.lane(laneArchive)
	h.await(p)
	if st := h.agent.Status().Streams[0]; !strings.Contains(st.Crossing.Why, "has not arrived for 10s") || len(st.Findings) != 1 || st.Findings[0].Name != foundCrossing {
		t.Errorf("%+v, %+v", st.Findings, st.Crossing)
	}
}

// streamCrosses has a stream whose link is cut go by the archive, say so, and go back.
func streamCrosses(t *testing.T, b bucket.Bucket) {
	w := newWorld(t, "s1")
	w.serveDrop("s1", drop.New(b, drop.Config{Every: 5 * time.Millisecond, Look: 5 * time.Millisecond}))
	link := &wire{}
	h := w.host("east", "n1")
	h.drop, h.connect = b, link.connect
	h.openJournal().startAgent()
	if err := h.j.Activate(); err != nil {
		t.Fatal(err)
	}
	h.await(h.append(5))
	if st := h.agent.Status().Streams[0]; st.Crossing == nil || st.Crossing.Lane != "live" || len(st.Findings) > 0 {
		t.Errorf("%+v, %+v", st.Crossing, st.Findings)
	}

	link.set(true)
	p := h.append(5)
	h.lane(laneArchive)
	h.await(p)
	st := h.agent.Status().Streams[0]
	if len(st.Findings) != 1 || st.Findings[0].Name != foundCrossing || st.Crossing.Why == "" || !st.Writer.RelayUp {
		t.Errorf("%+v, %+v, %+v", st.Findings, st.Crossing, st.Writer)
	}

	link.set(false)
	h.lane(laneLive)
	p = h.append(5)
	h.await(p)
	h.shipped(p)
	if st := h.agent.Status().Streams[0]; len(st.Findings) > 0 {
		t.Errorf("%+v", st.Findings)
	}
}

// While the link is up an agent says that its bucket could not be used, until it could.
func TestUnusableArchiveIsFoundBeforeTheLinkFails(t *testing.T) {
	w := newWorld(t, "s1")
	root := filepath.Join(t.TempDir(), "unmounted")
	h := w.host("east", "n1")
	h.drop = dir.New(vfs.OS(), root)
	h.openJournal().startAgent()
	findings := func() []local.Finding { return h.agent.Status().Streams[0].Findings }
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patient); len(findings()) == 0; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("nothing is said")
		}
	}
	if f := findings()[0]; f.Name != foundUnready || f.Severity != local.SeverityWarning || f.Hint == "" || !strings.Contains(f.Text, root) {
		t.Errorf("%+v", f)
	}
	try := func() time.Duration { return h.agent.reach.try(t.Context(), h.agent.drop, "n1") }
	if again := try(); again != readyAgain {
		t.Errorf("again after %s", again)
	}
	if err := os.Mkdir(root, 0o750); err != nil {
		t.Fatal(err)
	}
	if again := try(); again != readyEvery || len(findings()) > 0 {
		t.Errorf("again after %s, %+v", again, findings())
	}
}

// Only what the crossing has taken and not brought counts as waiting: not what waits for
// the node's credit, nor behind what the node has answered.
func TestWaitingIsForTheCrossing(t *testing.T) {
	r := newRing(100, facts{seq: 4})
	r.add(append(r.reserve(10), 1), facts{seq: 5}, at(0))
	l := &link{conn: &shipper.Conn{}, next: 6, began: at(time.Second), stored: 4, through: 4}
	w := &writer{ring: r, link: l}
	if d := w.waiting(at(time.Minute)); d != 0 {
		t.Errorf("while it waits for credit: %s", d)
	}
	l.through = 5
	it, _ := r.get(5)
	it.sent = at(10 * time.Second)
	if d := w.waiting(at(time.Minute)); d != 50*time.Second {
		t.Errorf("sent 50 s ago: %s", d)
	}
	it.sent = 0 // over another session
	if d := w.waiting(at(time.Minute)); d != 59*time.Second {
		t.Errorf("of a session of 59 s: %s", d)
	}
	l.stored = 5
	if d := w.waiting(at(time.Minute)); d != 0 {
		t.Errorf("stored: %s", d)
	}
}

// A node that takes what is sent, answers, and acknowledges nothing is slow; the crossing is not.
func TestNodeThatAnswersIsNotASlowCrossing(t *testing.T) {
	w := newWorld(t, "s1")
	h := w.host("east", "n1")
	h.openJournal().startAgent()
	if err := h.j.Activate(); err != nil {
		t.Fatal(err)
	}
	h.await(h.append(1))
	w.log.is(&w.log.mute, true)
	h.append(1)
	wr := h.agent.streams[0].writer.Load()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	sent := func() bool { // and not stored
		wr.mu.Lock()
		defer wr.mu.Unlock()
		return wr.link != nil && wr.link.through > wr.link.stored
	}
	for deadline := time.Now().Add(patient); !sent() || wr.waiting(w.clk.Boot()) != 0; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("counts as waiting for the crossing")
		}
	}
}
