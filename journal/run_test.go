package journal

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/vfs"
)

// patience bounds every wait of these tests; nothing waits that long.
const patience = 20 * time.Second

// peer is a daemon that does what the test says.
type peer struct {
	t    *testing.T
	l    *local.Listener
	kind local.Daemon
	conn *local.Conn
	in   chan local.Message
	wg   sync.WaitGroup
}

func listen(t *testing.T, kind local.Daemon) *peer {
	t.Helper()
	l, err := local.Listen(local.SocketPath(t.TempDir(), kind, "l", "m"))
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, l: l, kind: kind}
	t.Cleanup(func() {
		p.hangUp()
		_ = l.Close()
	})
	return p
}

// accept waits for the library and returns what it said first.
func (p *peer) accept() local.Hello {
	p.t.Helper()
	conn, err := p.l.Accept()
	if err != nil {
		p.t.Fatal(err)
	}
	h, err := conn.Serve(p.t.Context(), local.Welcome{Daemon: p.kind, Node: "n1"}, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	p.conn = conn
	in := make(chan local.Message, 1<<16)
	p.in = in
	p.wg.Go(func() {
		defer close(in)
		for {
			m, err := conn.Recv()
			if err != nil {
				return
			}
			in <- m
		}
	})
	return h
}

func (p *peer) hangUp() {
	if p.conn != nil {
		_ = p.conn.Close()
		p.wg.Wait()
		p.conn = nil
	}
}

func (p *peer) send(m local.Message) {
	p.t.Helper()
	if err := p.conn.Send(m); err != nil {
		p.t.Fatal(err)
	}
}

// expect waits for a message that satisfies ok.
func expect[M local.Message](p *peer, what string, ok func(M) bool) M {
	p.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case m, open := <-p.in:
			if !open {
				p.t.Fatalf("%s: the library hung up", what)
			}
			if m, is := m.(M); is && ok(m) {
				return m
			}
		case <-timeout:
			p.t.Fatalf("%s: never came", what)
		}
	}
}

func anyOf[M local.Message](M) bool { return true }

// barrier returns once the library has acted on everything sent before: it
// answers Role{active} of a stream of epochs in order, and D is told last.
func (p *peer) grant(j *Journal, m local.DaemonProgress) {
	p.t.Helper()
	p.send(&m)
	eventually(p.t, "grant taken", func() bool {
		j.gate.mu.Lock()
		defer j.gate.mu.Unlock()
		return j.gate.Last == m
	})
}

// eventually polls; the library has no event for "a message was taken".
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(100 * time.Microsecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: never", what)
		case <-tick.C:
		}
	}
}

// tallier is a service that counts.
type tallier struct {
	mu       sync.Mutex
	applied  tidegate.Position
	payloads []string
	fenced   []tidegate.Epoch
	promoted []tidegate.Epoch
	applyErr error
	onFence  chan struct{}
}

func newTallier() *tallier { return &tallier{onFence: make(chan struct{}, 10)} }

func (m *tallier) State() (tidegate.Position, tidegate.Digest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.applied, tidegate.Digest{byte(len(m.payloads))}
}

func (m *tallier) Apply(r Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.applyErr != nil {
		return m.applyErr
	}
	m.applied = r.Next
	m.payloads = append(m.payloads, string(r.Payload))
	return nil
}

func (m *tallier) Promote(_ context.Context, epoch tidegate.Epoch, _ tidegate.Position) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.promoted = append(m.promoted, epoch)
	return nil
}

func (m *tallier) Fenced(epoch tidegate.Epoch) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fenced = append(m.fenced, epoch)
	m.onFence <- struct{}{}
}

// run runs j until the test ends, or stop is called, which returns Run's error.
func run(t *testing.T, j *Journal, svc Service) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- j.Run(ctx, svc) }() // owned by the test; ends in stop
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() {
			cancel()
			select {
			case err = <-done:
			case <-time.After(patience):
				err = errors.New("run does not end")
			}
		})
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

func bounds(k, b int64, window time.Duration) tidegate.Bounds {
	return tidegate.Bounds{Records: k, Bytes: b, Window: window}
}

func progress(epoch tidegate.Epoch, d tidegate.Position, mode tidegate.Mode, b tidegate.Bounds) local.DaemonProgress {
	effective, err := mode.Bounds(b)
	if err != nil {
		panic(err)
	}
	return local.DaemonProgress{D: d, DKnown: true, Epoch: epoch, Mode: mode, Bounds: effective, Recorded: true}
}

// primary is an active service with its agent.
type primary struct {
	t     *testing.T
	j     *Journal
	agent *peer
	clock *clock.Fake
	svc   *tallier
	stop  func() error
}

func startPrimary(t *testing.T, fsys vfs.FS) *primary {
	t.Helper()
	p := &primary{t: t, agent: listen(t, local.DaemonAgent), clock: clock.NewFake(testTime), svc: newTallier()}
	cfg := testConfig()
	cfg.AgentSocket, cfg.Clock = p.agent.l.Addr(), p.clock
	p.j = open(t, fsys, "/j", cfg)
	p.stop = run(t, p.j, p.svc)
	h := p.agent.accept()
	if h.Service != "ledger" || h.Dir != "/j" || h.End != p.j.End() || h.Lineage != p.j.Lineage() {
		t.Errorf("hello %+v", h)
	}
	return p
}

// activate makes it active under epoch.
func (p *primary) activate(epoch tidegate.Epoch) {
	p.t.Helper()
	end := p.j.End()
	if err := p.j.Activate(); err != nil {
		p.t.Fatal(err)
	}
	expect(p.agent, "activated", func(m *local.Activated) bool { return m.L == end })
	p.agent.send(&local.Role{State: local.StateActive, Epoch: epoch})
}

func (p *primary) append(i int) Range {
	p.t.Helper()
	r, err := p.j.Append(p.t.Context(), payload(i), testTime)
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}

// blocked reports that an Await of p does not return now.
func (p *primary) blocked(at tidegate.Position) bool {
	p.t.Helper()
	ctx, cancel := context.WithCancel(p.t.Context())
	cancel() // Await decides before it waits
	err := p.j.Await(ctx, at)
	if err != nil && !errors.Is(err, context.Canceled) {
		p.t.Fatalf("await %s: %v", at, err)
	}
	return err != nil
}

func TestSyncReleasesAtD(t *testing.T) {
	p := startPrimary(t, vfs.NewMem())
	p.activate(1)
	r := p.append(0)
	if !p.blocked(r.Next) {
		t.Fatal("released before the agent said anything")
	}
	p.agent.grant(p.j, progress(1, 0, tidegate.ModeSync, tidegate.Bounds{}))
	if !p.blocked(r.Next) {
		t.Fatal("released before D")
	}
	released := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { released <- p.j.Await(t.Context(), r.Next) })
	m := expect(p.agent, "L", func(m *local.LibraryProgress) bool { return m.L.Position == r.Next })
	if m.L.Records != 1 || m.L.Bytes != uint64(r.Next) {
		t.Errorf("progress %+v", m)
	}
	p.agent.send(&local.DaemonProgress{D: r.Next, DKnown: true, Epoch: 1, Mode: tidegate.ModeSync, Recorded: true})
	if err := <-released; err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	expect(p.agent, "A", func(m *local.LibraryProgress) bool { return m.AKnown && m.A.Position == r.Next && m.T0 == 0 })
	if e := p.j.Exposure(); !e.Known || e.Records != 0 {
		t.Errorf("exposure %+v", e)
	}
}

func TestBoundedByRecords(t *testing.T) {
	p := startPrimary(t, vfs.NewMem())
	p.activate(1)
	p.agent.grant(p.j, progress(1, 0, tidegate.ModeBounded, bounds(2, tidegate.Unbounded, tidegate.Unbounded)))
	var rs []Range
	for i := range 4 {
		rs = append(rs, p.append(i))
	}
	for i, want := range []bool{false, false, true, true} {
		if got := p.blocked(rs[i].Next); got != want {
			t.Errorf("record %d blocked %v", i, got)
		}
	}
	if e := p.j.Exposure(); e.Records != 2 || e.InDoubtRecords != 2 {
		t.Errorf("exposure %+v", e)
	}
	p.agent.grant(p.j, progress(1, rs[0].Next, tidegate.ModeBounded, bounds(2, tidegate.Unbounded, tidegate.Unbounded)))
	if p.blocked(rs[2].Next) || !p.blocked(rs[3].Next) {
		t.Error("K does not follow D")
	}
}

func TestBoundedByBytes(t *testing.T) {
	p := startPrimary(t, vfs.NewMem())
	p.activate(1)
	a, b := p.append(0), p.append(1)
	p.agent.grant(p.j, progress(1, 0, tidegate.ModeBounded, bounds(tidegate.Unbounded, int64(a.Next), tidegate.Unbounded)))
	if p.blocked(a.Next) || !p.blocked(b.Next) {
		t.Error("B is not the limit")
	}
}

func TestBoundedByTime(t *testing.T) {
	p := startPrimary(t, vfs.NewMem())
	p.activate(1)
	b := bounds(tidegate.Unbounded, tidegate.Unbounded, 2*time.Second)
	p.agent.grant(p.j, progress(1, 0, tidegate.ModeBounded, b))
	one, two, three := p.append(0), p.append(1), p.append(2)
	if p.blocked(one.Next) {
		t.Fatal("nothing released yet, but closed")
	}
	t0 := p.clock.Boot()
	expect(p.agent, "T0", func(m *local.LibraryProgress) bool { return m.T0 == t0 && m.Released == t0 })
	p.clock.Advance(2*time.Second - 1)
	if p.blocked(two.Next) {
		t.Error("closed before T")
	}
	p.clock.Advance(1)
	if !p.blocked(three.Next) {
		t.Error("open at T0 + T")
	}
	if e := p.j.Exposure(); e.Window != 2*time.Second-1 || e.Age != 2*time.Second {
		t.Errorf("exposure %+v", e)
	}
	p.agent.grant(p.j, progress(1, two.Next, tidegate.ModeBounded, b))
	if p.blocked(three.Next) {
		t.Error("closed though D caught up")
	}
}

// TestAfterARestartNothingBeyondD is MySQL's bug 99370: what was pending when
// the process died must not come out before the other site has it.
func TestAfterARestartNothingBeyondD(t *testing.T) {
	for _, mode := range []tidegate.Mode{tidegate.ModeSync, tidegate.ModeBounded, tidegate.ModeOpen} {
		t.Run(string(mode), func(t *testing.T) {
			mem := vfs.NewMem()
			p := startPrimary(t, mem)
			p.activate(1)
			k := bounds(1000, tidegate.Unbounded, tidegate.Unbounded)
			p.agent.grant(p.j, progress(1, 0, mode, k))
			first, last := p.append(0), p.append(1)
			// kill -9: the page cache lives, nobody said goodbye.
			q := startPrimary(t, mem.CrashClone(1))
			if q.j.End() != last.Next {
				t.Fatalf("journal ends at %s", q.j.End())
			}
			q.activate(2)
			q.agent.grant(q.j, progress(2, first.Next, mode, k))
			next := q.append(2)
			if q.blocked(first.Next) {
				t.Error("blocked at D")
			}
			if !q.blocked(last.Next) || !q.blocked(next.Next) {
				t.Error("released beyond D after a restart")
			}
			if e := q.j.Exposure(); e.Known || e.Records == 0 {
				t.Errorf("exposure is unknown, got %+v", e)
			}
			q.agent.grant(q.j, progress(2, last.Next, mode, k))
			if q.blocked(last.Next) {
				t.Error("blocked though D reached the head at the start")
			}
			if got, want := q.blocked(next.Next), mode == tidegate.ModeSync; got != want {
				t.Errorf("next record blocked %v, want %v", got, want)
			}
		})
	}
}

func TestDisconnectedGrantsNothingMore(t *testing.T) {
	for _, c := range []struct {
		name     string
		mode     tidegate.Mode
		recorded bool
		goesOn   bool
	}{
		{"bounded", tidegate.ModeBounded, true, false},
		{"open recorded", tidegate.ModeOpen, true, true},
		{"open not recorded", tidegate.ModeOpen, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startPrimary(t, vfs.NewMem())
			p.activate(1)
			grant := progress(1, 0, c.mode, bounds(1000, tidegate.Unbounded, tidegate.Unbounded))
			grant.Recorded = c.recorded
			p.agent.grant(p.j, grant)
			granted := p.append(0)
			p.agent.hangUp()
			eventually(t, "loss noticed", func() bool {
				p.j.gate.mu.Lock()
				defer p.j.gate.mu.Unlock()
				return !p.j.gate.Held
			})
			later := p.append(1)
			if p.blocked(granted.Next) {
				t.Error("what was granted is taken back")
			}
			if got := !p.blocked(later.Next); got != c.goesOn {
				t.Errorf("goes on %v, want %v", got, c.goesOn)
			}
			p.agent.accept()
			expect(p.agent, "activated again", anyOf[*local.Activated])
			p.agent.send(&local.Role{State: local.StateActive, Epoch: 1})
			p.agent.grant(p.j, grant)
			if p.blocked(later.Next) {
				t.Error("blocked after the agent came back")
			}
		})
	}
}

func TestFencedStopsEverything(t *testing.T) {
	p := startPrimary(t, vfs.NewMem())
	p.activate(4)
	p.agent.grant(p.j, progress(4, 0, tidegate.ModeSync, tidegate.Bounds{}))
	r := p.append(0)
	waiters := make(chan error, 3)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { waiters <- p.j.Await(t.Context(), r.Next) })
	}
	p.agent.send(&local.Role{State: local.StateFenced, Epoch: 5})
	for range 3 {
		if err := <-waiters; !errors.Is(err, tidegate.ErrFenced) || tidegate.ClassOf(err) != tidegate.Fenced || tidegate.HintOf(err) == "" {
			t.Errorf("waiter: %v", err)
		}
	}
	wg.Wait()
	<-p.svc.onFence
	if _, err := p.j.Append(t.Context(), payload(1), testTime); !errors.Is(err, tidegate.ErrFenced) {
		t.Errorf("append: %v", err)
	}
	if err := p.j.Await(t.Context(), 0); !errors.Is(err, tidegate.ErrFenced) {
		t.Errorf("await: %v", err)
	}
	if err := p.j.Activate(); !errors.Is(err, tidegate.ErrFenced) {
		t.Errorf("activate: %v", err)
	}
	// An old role does not open it again, a newer one does.
	p.agent.send(&local.Role{State: local.StateActive, Epoch: 4})
	p.agent.send(&local.Role{State: local.StateFenced, Epoch: 5})
	p.agent.send(&local.Role{State: local.StateActive, Epoch: 6})
	eventually(t, "unfenced", func() bool { return !p.j.gate.fenced.Load() })
	if err := p.j.Activate(); err != nil {
		t.Errorf("activate under epoch 6: %v", err)
	}
	if len(p.svc.fenced) != 1 || p.svc.fenced[0] != 5 {
		t.Errorf("service was told %v", p.svc.fenced)
	}
	if err := p.stop(); err != nil {
		t.Errorf("run: %v", err)
	}
}

// TestTheCountOutlivesItsActivity: the agent counts the released part of a lost
// tail when the service has been fenced or has stepped down already.
func TestTheCountOutlivesItsActivity(t *testing.T) {
	for name, end := range map[string]func(*primary){
		"fenced":      func(p *primary) { p.agent.send(&local.Role{State: local.StateFenced, Epoch: 2}) },
		"deactivated": func(p *primary) { p.j.Deactivate() },
	} {
		t.Run(name, func(t *testing.T) {
			p := startPrimary(t, vfs.NewMem())
			p.activate(1)
			p.agent.grant(p.j, progress(1, 0, tidegate.ModeBounded, bounds(2, tidegate.Unbounded, tidegate.Unbounded)))
			p.append(0)
			b := p.append(1)
			p.append(2)
			if p.blocked(b.Next) {
				t.Fatal("blocked within K")
			}
			end(p)
			expect(p.agent, "deactivated", anyOf[*local.Deactivated])
			m := expect(p.agent, "progress", anyOf[*local.LibraryProgress])
			if !m.AKnown || m.A.Position != b.Next || m.A.Records != 2 || m.L.Records != 3 || m.T0 == 0 {
				t.Errorf("progress after the end: %+v", m)
			}
			if p.j.Status().AKnown {
				t.Error("an activity that is over still shows as releasing")
			}
		})
	}
}

func TestDeactivatedAndNewEpochWithLoss(t *testing.T) {
	p := startPrimary(t, vfs.NewMem())
	if err := p.j.Await(t.Context(), 0); !errors.Is(err, ErrInactive) {
		t.Errorf("await while inactive: %v", err)
	}
	p.activate(1)
	k := bounds(1000, tidegate.Unbounded, tidegate.Unbounded)
	p.agent.grant(p.j, progress(1, 0, tidegate.ModeBounded, k))
	a, b := p.append(0), p.append(1)
	p.agent.grant(p.j, progress(1, b.Next, tidegate.ModeBounded, k))
	if p.blocked(b.Next) {
		t.Fatal("blocked at D")
	}
	// Epoch 2 begins below what epoch 1 called durable: A is unknown again.
	p.agent.send(&local.Role{State: local.StateActive, Epoch: 2})
	p.agent.grant(p.j, progress(2, a.Next, tidegate.ModeBounded, k))
	c := p.append(2)
	if !p.blocked(c.Next) {
		t.Error("released beyond D though the epoch lost something")
	}
	p.j.Deactivate()
	expect(p.agent, "deactivated", anyOf[*local.Deactivated])
	if err := p.j.Await(t.Context(), a.Next); !errors.Is(err, ErrInactive) {
		t.Errorf("await: %v", err)
	}
	if err := p.j.Await(t.Context(), c.Next+1); !errors.Is(err, tidegate.ErrGap) {
		t.Errorf("await beyond the end: %v", err)
	}
}

// standby is a following service with its standby node's daemon.
type standbyRig struct {
	j       *Journal
	fs      *vfs.Mem
	daemon  *peer
	agent   *peer
	svc     *tallier
	stop    func() error
	payload []byte // of the source journal
}

const batchRecords = 10

func startStandby(t *testing.T, fsys *vfs.Mem, svc *tallier) *standbyRig {
	t.Helper()
	source := open(t, vfs.NewMem(), "/j", testConfig())
	appendN(t, source, 0, 40)
	s := &standbyRig{
		fs: fsys, svc: svc, payload: rawBytes(t, source, 0),
		daemon: listen(t, local.DaemonStandby), agent: listen(t, local.DaemonAgent),
	}
	cfg := testConfig()
	cfg.ID = tidegate.ID{}
	cfg.StandbySocket, cfg.AgentSocket = s.daemon.l.Addr(), s.agent.l.Addr()
	s.j = open(t, fsys, "/j", cfg)
	s.stop = run(t, s.j, svc)
	s.daemon.accept()
	s.agent.accept()
	return s
}

// batches cuts the source's bytes in batches of ten records.
func (s *standbyRig) batches() []*local.Batch {
	var bs []*local.Batch
	n, first := 0, tidegate.Position(0)
	_ = Scan(s.payload, 0, func(r Record) error {
		if n++; n%batchRecords == 0 {
			bs = append(bs, &local.Batch{
				Epoch: 1, Seq: tidegate.Seq(len(bs) + 1), First: first, Next: r.Next,
				Records: batchRecords, Payload: s.payload[first:r.Next],
			})
			first = r.Next
		}
		return nil
	})
	return bs
}

func TestFollowAndBePromoted(t *testing.T) {
	s := startStandby(t, vfs.NewMem(), newTallier())
	lineage := tidegate.Lineage("journal:" + testConfig().ID.String())
	s.daemon.send(&local.Role{State: local.StateFollow, Epoch: 1, Lineage: s.j.Lineage()})
	bs := s.batches()
	for _, b := range bs {
		s.daemon.send(b)
	}
	h := bs[len(bs)-1].Next
	// The lineage may come late, with the stream's own batch that says so.
	s.daemon.send(&local.Role{State: local.StateFollow, Epoch: 1, Lineage: lineage})
	m := expect(s.daemon, "applied", func(m *local.LibraryProgress) bool { return m.Applied == h && m.DigestAt == h })
	if m.Digest[0] != 40 || m.End != h {
		t.Errorf("progress %+v", m)
	}
	eventually(t, "the stream's lineage", func() bool { return s.j.Lineage() == lineage })
	s.daemon.send(&local.Role{State: local.StateActive, Epoch: 9, ApplyTo: h, Branch: h})
	a := expect(s.agent, "activated", anyOf[*local.Activated])
	expect(s.daemon, "activated", anyOf[*local.Activated])
	if want := lineage + "+9@" + tidegate.Lineage(h.String()); a.Lineage != want {
		t.Errorf("lineage %s, want %s", a.Lineage, want)
	}
	if s.j.Durable() != a.L || a.L <= h {
		t.Errorf("durable %s, activated at %s, H %s", s.j.Durable(), a.L, h)
	}
	s.svc.mu.Lock()
	if len(s.svc.payloads) != 40 || len(s.svc.promoted) != 1 || s.svc.promoted[0] != 9 {
		t.Errorf("%d applied, promoted %v", len(s.svc.payloads), s.svc.promoted)
	}
	s.svc.mu.Unlock()
	// Its own writes go on from there, and wait for D like any.
	r, err := s.j.Append(t.Context(), payload(40), testTime)
	if err != nil {
		t.Fatal(err)
	}
	s.agent.send(&local.Role{State: local.StateActive, Epoch: 9})
	s.agent.grant(s.j, progress(9, r.Next, tidegate.ModeSync, tidegate.Bounds{}))
	if err := s.j.Await(t.Context(), r.Next); err != nil {
		t.Error(err)
	}
	wantRecords(t, s.j, 41)
}

// TestPromotionIsRepeatable kills the process after its branch record and a
// record of its own.
func TestPromotionIsRepeatable(t *testing.T) {
	s := startStandby(t, vfs.NewMem(), newTallier())
	s.daemon.send(&local.Role{State: local.StateFollow, Epoch: 1})
	bs := s.batches()
	h := bs[1].Next
	s.daemon.send(bs[0])
	s.daemon.send(bs[1])
	promotion := &local.Role{State: local.StateActive, Epoch: 9, ApplyTo: h, Branch: h}
	s.daemon.send(promotion)
	expect(s.agent, "activated", anyOf[*local.Activated])
	if _, err := s.j.Append(t.Context(), payload(20), testTime); err != nil {
		t.Fatal(err)
	}
	end, lineage := s.j.End(), s.j.Lineage()
	again := startStandby(t, s.fs.CrashClone(vfs.CrashLoseAll), newTallier())
	again.daemon.send(promotion)
	a := expect(again.agent, "activated", anyOf[*local.Activated])
	if a.L != end || a.Lineage != lineage {
		t.Errorf("activated at %s of %s, want %s of %s", a.L, a.Lineage, end, lineage)
	}
	if n := len(again.svc.payloads); n != 21 {
		t.Errorf("%d records applied, want 21", n)
	}
	wantRecords(t, again.j, 21)
}

func TestFollowerStopsForGood(t *testing.T) {
	broken := errors.New("balance below zero")
	for _, c := range []struct {
		name string
		prep func(*standbyRig)
		want error
	}{
		{"apply fails", func(s *standbyRig) { s.svc.applyErr = broken }, broken},
		{"diverged", func(s *standbyRig) {
			other := appendRecord(nil, 0, header{number: 1, time: 1, kind: KindData}, []byte("other"))
			if _, err := s.j.AppendRaw(context.Background(), 0, other); err != nil {
				panic(err)
			}
			s.svc.applied = tidegate.Position(len(other))
		}, tidegate.ErrDiverged},
		{"state ahead of the journal", func(s *standbyRig) { s.svc.applied = 1 << 30 }, tidegate.ErrGap},
		{"another history", func(s *standbyRig) {
			if _, err := s.j.Append(context.Background(), payload(0), testTime); err != nil {
				panic(err)
			}
		}, tidegate.ErrDiverged},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startStandby(t, vfs.NewMem(), newTallier())
			s.svc.mu.Lock()
			c.prep(s)
			s.svc.mu.Unlock()
			lineage := tidegate.Lineage("journal:" + testConfig().ID.String())
			s.daemon.send(&local.Role{State: local.StateFollow, Epoch: 1, Lineage: lineage})
			_ = s.daemon.conn.Send(s.batches()[0]) // it may have hung up already
			done := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				defer close(done)
				s.daemon.wg.Wait()
			})
			<-done // the library hung up for good
			if err := s.stop(); !errors.Is(err, c.want) {
				t.Errorf("run: %v, want %v", err, c.want)
			}
		})
	}
}

func TestRunTwiceAndReconnect(t *testing.T) {
	p := startPrimary(t, vfs.NewMem())
	if err := p.j.Run(t.Context(), p.svc); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("second run: %v", err)
	}
	for i := range 3 {
		p.agent.hangUp()
		p.agent.accept()
		expect(p.agent, fmt.Sprintf("progress %d", i), anyOf[*local.LibraryProgress])
	}
}

// TestPrimaryOverASilentSocket: a daemon that accepts and says nothing must not
// hold Run up when it is told to end.
func TestPrimaryOverASilentSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := testConfig()
	cfg.AgentSocket = path
	j := open(t, vfs.NewMem(), "/j", cfg)
	stop := run(t, j, newTallier())
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := stop(); err != nil {
		t.Error(err)
	}
}
