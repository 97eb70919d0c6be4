package shipper

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/clock"
)

func asWriter() Attach {
	return Attach{Stream: stream, As: AsWriter, Epoch: 3, Holder: holder, Members: []fence.Member{{Node: "dr1", Incarnation: tidegate.ID{1}}}}
}

func TestRefusedBatchesAreTypedAndNotStored(t *testing.T) {
	ca := newCerts(t, "alpha", time.Now)
	good := sealLog(t, 3, 3, 100)
	flipped := func(at int) []byte {
		b := bytes.Clone(good[1])
		b[at] ^= 1
		return b
	}
	for name, tc := range map[string]struct {
		second []byte
		code   Code
		class  tidegate.Class
		is     error
	}{
		"header flipped":  {flipped(50), CodeCorrupt, tidegate.Corrupt, nil},
		"payload flipped": {flipped(batch.HeaderSize + 5), CodeCorrupt, tidegate.Corrupt, nil},
		"truncated":       {good[1][:len(good[1])-1], CodeCorrupt, tidegate.Corrupt, nil},
		"cut header":      {good[1][:40], CodeProtocol, tidegate.Misuse, nil},
		"replayed":        {good[0], CodeGap, tidegate.Permanent, tidegate.ErrGap},
		"reordered":       {good[2], CodeGap, tidegate.Permanent, tidegate.ErrGap},
		"wrong epoch":     {sealLog(t, 2, 2, 100)[1], CodeFenced, tidegate.Fenced, tidegate.ErrFenced},
		"other log":       {sealLog(t, 2, 3, 101)[1], CodeDiverged, tidegate.Permanent, tidegate.ErrDiverged},
	} {
		t.Run(name, func(t *testing.T) {
			m := &memory{}
			addr := listen(t, ca.serve("dr1"), fast, m)
			c, _, err := ca.dialer(tidegate.RoleAgent, "app1").Dial(t.Context(), addr, asWriter())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for _, b := range [][]byte{good[0], tc.second, good[1]} {
				if err := c.Send(t.Context(), b); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.Flush(); err != nil {
				t.Fatal(err)
			}
			err = ends(c)
			r := refusalIn(t, err)
			if r.Code != tc.code || tidegate.ClassOf(err) != tc.class {
				t.Errorf("got %s, %s: %v", r.Code, tidegate.ClassOf(err), err)
			}
			if tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("%v is not %v", err, tc.is)
			}
			if r.Code == CodeFenced && r.Promise.Epoch != 3 {
				t.Errorf("promise %s crossed", r.Promise)
			}
			if got := m.seqs(); !slices.Equal(got, []tidegate.Seq{1}) {
				t.Errorf("stored %v", got)
			}
		})
	}
}

func TestHandshakeRefusals(t *testing.T) {
	ca, other := newCerts(t, "alpha", time.Now), newCerts(t, "beta", time.Now)
	refused := handlerFunc(func(context.Context, tidegate.Identity, Attach, *ServerConn) error {
		return Refuse(CodeInternal, "got through")
	})
	addr := listen(t, ca.serve("dr1"), fast, refused)
	expired := listen(t, ca.expired(tidegate.RoleStandby, "dr1").ServerTLS(), fast, refused)
	attach := func(as As) Attach { return Attach{Stream: stream, As: as, Epoch: 1} }
	for name, tc := range map[string]struct {
		d    Dialer
		addr string
		a    Attach
		want string
	}{
		"other cluster dials":  {other.dialer(tidegate.RoleAgent, "app1"), addr, attach(AsWriter), "cluster"},
		"expired server":       {ca.dialer(tidegate.RoleAgent, "app1"), expired, attach(AsWriter), "expired"},
		"standby as writer":    {ca.dialer(tidegate.RoleStandby, "dr2"), addr, attach(AsWriter), "role standby may not attach as writer"},
		"agent as relay":       {ca.dialer(tidegate.RoleAgent, "app1"), addr, attach(AsRelay), "role agent may not attach as relay"},
		"gate as observer":     {ca.dialer(tidegate.RoleGate, "g1"), addr, attach(AsObserver), "role gate may not"},
		"viewer as reader":     {ca.dialer(tidegate.RoleViewer, "v1"), addr, attach(AsReader), "role viewer may not"},
		"operator as writer":   {ca.dialer(tidegate.RoleOperator, "o1"), addr, attach(AsWriter), "role operator may not"},
		"drill as writer":      {ca.dialer(tidegate.RoleDrill, "d1"), addr, attach(AsWriter), "role drill may not"},
		"drill as relay":       {ca.dialer(tidegate.RoleDrill, "d1"), addr, attach(AsRelay), "role drill may not"},
		"a drill's epoch":      {ca.dialer(tidegate.RoleAgent, "app1"), addr, Attach{Stream: stream, As: AsWriter, Epoch: tidegate.EpochDrillFirst}, "a drill's"},
		"attach as nothing":    {ca.dialer(tidegate.RoleAgent, "app1"), addr, attach(0), "as(0)"},
		"not a standby server": {Dialer{TLS: ca.of(tidegate.RoleAgent, "app1").ClientTLS(expectGate()), Clock: fastClock()}, addr, attach(AsWriter), "role standby"},
	} {
		t.Run(name, func(t *testing.T) {
			c, _, err := tc.d.Dial(t.Context(), tc.addr, tc.a)
			if err == nil {
				c.Close()
				t.Fatal("attached")
			}
			class := tidegate.ClassOf(err)
			if class != tidegate.Refused && class != tidegate.Misuse || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: %v", class, err)
			}
		})
	}
}

// The far end turns our certificate away: the dialer hears of it with its first
// read, as an alert.
func TestCertificateTurnedAwayByTheServer(t *testing.T) {
	ca := newCerts(t, "alpha", time.Now)
	addr := listen(t, ca.serve("dr1"), fast, handlerFunc(nil))
	d := ca.dialer(tidegate.RoleAgent, "app1")
	d.TLS.GetClientCertificate = ca.expired(tidegate.RoleAgent, "app2").ClientTLS(expectGate()).GetClientCertificate
	_, _, err := d.Dial(t.Context(), addr, asWriter())
	if tidegate.ClassOf(err) != tidegate.Refused || tidegate.HintOf(err) == "" {
		t.Errorf("%s: %v", tidegate.ClassOf(err), err)
	}
}

func TestVersionsThatDoNotMeet(t *testing.T) {
	ca := newCerts(t, "alpha", time.Now)
	addr := listen(t, ca.serve("dr1"), fast, handlerFunc(nil))
	d := ca.dialer(tidegate.RoleAgent, "app1")
	s := rawDial(t, d, addr)
	defer s.close("")
	if err := s.send(typeHello, hello{min: VersionMax + 1, max: VersionMax + 5}.append(nil)); err != nil {
		t.Fatal(err)
	}
	_, err := s.expect(typeWelcome)
	if !errors.Is(err, tidegate.ErrUnsupported) || !strings.Contains(err.Error(), "versions 2 to 6") || !strings.Contains(err.Error(), "1 to 1") {
		t.Errorf("got %v", err)
	}
}

func TestFeaturesAreTheCommonOnes(t *testing.T) {
	ca := newCerts(t, "alpha", time.Now)
	addr := listen(t, ca.serve("dr1"), fast, handlerFunc(nil))
	s := rawDial(t, ca.dialer(tidegate.RoleAgent, "app1"), addr)
	defer s.close("")
	h := hello{min: 1, max: VersionMax + 3, features: []string{"from-the-future"}}
	if err := s.send(typeHello, h.append(nil)); err != nil {
		t.Fatal(err)
	}
	body, err := s.expect(typeWelcome)
	if err != nil {
		t.Fatal(err)
	}
	w, err := parseWelcome(body)
	if err != nil || w.version != VersionMax || len(w.features) != 0 {
		t.Errorf("%+v, %v", w, err)
	}
}

// A receiver that does not grant holds the sender back, whatever it has to say.
func TestCreditBoundsWhatIsInFlight(t *testing.T) {
	ca := newCerts(t, "alpha", time.Now)
	l := fast
	l.BatchBytesMax, l.CreditBytes = 16<<10, 32<<10
	release := make(chan struct{})
	var got sync.WaitGroup
	got.Add(1)
	addr := listen(t, ca.serve("dr1"), l, handlerFunc(func(ctx context.Context, _ tidegate.Identity, _ Attach, conn *ServerConn) error {
		if err := conn.Accept(Attached{Node: "dr1"}); err != nil {
			return err
		}
		held, announced := 0, false
		for {
			ev, err := conn.Recv()
			if err != nil {
				return err
			}
			if b, ok := ev.(*BatchEvent); ok {
				held += len(b.Sealed)
			}
			if held > int(l.CreditBytes) {
				t.Errorf("%d bytes held, %d granted", held, l.CreditBytes)
			}
			select {
			case <-release:
				n := held
				held = 0
				if err := conn.Grant(n); err != nil {
					return err
				}
				if !announced {
					announced = true
					got.Done()
				}
			default:
			}
		}
	}))
	c, at, err := ca.dialer(tidegate.RoleAgent, "app1").Dial(t.Context(), addr, asWriter())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if at.Credit != l.CreditBytes {
		t.Fatalf("credit %d", at.Credit)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = ends(c) })
	log := sealLog(t, 20, 3, 4000)
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	sent := 0
	for _, b := range log {
		if err := c.Send(short, b); err != nil {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			break
		}
		sent++
	}
	if want := int(l.CreditBytes) / len(log[0]); sent != want {
		t.Errorf("%d batches sent on %d bytes of credit, want %d", sent, l.CreditBytes, want)
	}
	close(release)
	for _, b := range log[sent:] {
		if err := c.Send(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	got.Wait()
	c.Close()
	wg.Wait()
}

func TestSenderBeyondItsCreditIsRefused(t *testing.T) {
	ca := newCerts(t, "alpha", time.Now)
	l := fast
	l.BatchBytesMax, l.CreditBytes = 16<<10, 32<<10
	addr := listen(t, ca.serve("dr1"), l, handlerFunc(func(_ context.Context, _ tidegate.Identity, _ Attach, conn *ServerConn) error {
		err := conn.Accept(Attached{Node: "dr1"})
		for err == nil {
			_, err = conn.Recv()
		}
		return err
	}))
	c, _, err := ca.dialer(tidegate.RoleAgent, "app1").Dial(t.Context(), addr, asWriter())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.granted.Store(1 << 30)
	for _, b := range sealLog(t, 10, 3, 4000) {
		if c.Send(t.Context(), b) != nil {
			break
		}
	}
	_ = c.Flush() // Recv has the reason
	if r := refusalIn(t, ends(c)); r.Code != CodeProtocol || !strings.Contains(r.Message, "granted") {
		t.Errorf("got %v", r)
	}
}

func TestBatchLargerThanTheLimitIsMisuse(t *testing.T) {
	ca := newCerts(t, "alpha", time.Now)
	addr := listen(t, ca.serve("dr1"), fast, &memory{})
	d := ca.dialer(tidegate.RoleAgent, "app1")
	d.Limits.BatchBytesMax = 16 << 10
	c, _, err := d.Dial(t.Context(), addr, asWriter())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Send(t.Context(), sealLog(t, 1, 3, 17<<10)[0]); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("got %v", err)
	}
}

func TestEventsCrossUnchanged(t *testing.T) {
	ca := newCerts(t, "alpha", time.Now)
	ack := fence.Ack{Node: "dr3", Incarnation: tidegate.ID{9}, Epoch: 3, Received: 12, Durable: 11, Stored: 12, Chain: tidegate.Chain{4}, Applied: 10, AppliedAt: 99, Stamp: 1<<32 | 5}
	beacon := Beacon{Epoch: 3, Generation: 1, AKnown: true, A: 1, L: 3, D: 2, Boot: 44, Wall: time.Unix(5, 6), Exposed: 9, OffsetKnown: true, Offset: -7, OffsetErr: 8, Lease: LeaseAsk{TTL: 5 * time.Second, Seqno: 13}}
	grant := LeaseGrant{Node: "dr3", Incarnation: tidegate.ID{9}, Epoch: 3, TTL: 5 * time.Second, Seqno: 13}
	feedback := Feedback{Node: "dr3", Incarnation: tidegate.ID{9}, Epoch: 3, Opaque: "\x00asked"}
	log := sealLog(t, 2, 3, 50)
	addr := listen(t, ca.serve("dr1"), fast, handlerFunc(func(_ context.Context, peer tidegate.Identity, a Attach, conn *ServerConn) error {
		if peer.Name == "" || conn.Peer() != peer {
			t.Errorf("peer %v", peer)
		}
		if err := conn.Accept(Attached{Node: "dr1", Commit: 9}); err != nil {
			return err
		}
		switch a.As {
		case AsWriter:
			_ = errors.Join(conn.SendAck(ack), conn.SendLeaseGrant(grant), conn.SendFeedback(feedback), conn.Flush()) // the dialer counts what came
		case AsObserver:
			_ = errors.Join(conn.SendHeader(log[0][:batch.HeaderSize]), conn.SendCommit(77), conn.SendBeacon(beacon))
		case AsReader:
			_ = errors.Join(conn.SendBatch(log[0]), conn.SendBatch(log[1]), conn.Flush())
		}
		for {
			ev, err := conn.Recv()
			if err != nil {
				return err
			}
			if b, ok := ev.(*BeaconEvent); ok && b.Beacon != beacon {
				t.Errorf("beacon %+v", b.Beacon)
			}
			if b, ok := ev.(*CommitEvent); ok && b.Seq != 66 {
				t.Errorf("commit %s", b.Seq)
			}
			if _, ok := ev.(*OffsetEvent); ok && a.As == AsWriter {
				return nil
			}
		}
	}))
	for _, tc := range []struct {
		role tidegate.Role
		as   As
		want int // events other than offsets
	}{{tidegate.RoleAgent, AsWriter, 3}, {tidegate.RoleAgent, AsObserver, 3}, {tidegate.RoleStandby, AsReader, 2}} {
		t.Run(tc.as.String(), func(t *testing.T) {
			a := asWriter()
			a.As = tc.as
			c, at, err := ca.dialer(tc.role, "n1").Dial(t.Context(), addr, a)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if at.Commit != 9 || c.Node() != "dr1" || c.Peer().Role != tidegate.RoleStandby {
				t.Errorf("attached %+v to %s, %s", at, c.Node(), c.Peer())
			}
			if tc.as.Ships() {
				if err := errors.Join(c.SendCommit(66), c.SendBeacon(beacon)); err != nil {
					t.Fatal(err)
				}
			}
			n, offset := 0, false
			for n < tc.want || !offset {
				ev, err := c.Recv()
				if err != nil {
					t.Fatal(err)
				}
				switch ev := ev.(type) {
				case *OffsetEvent:
					offset = true
					if ev.Err <= 0 || ev.Err > time.Second || ev.Offset.Abs() > time.Second || ev.Wall.Abs() > time.Second {
						t.Errorf("offset %+v on one machine", ev)
					}
					continue
				case *AckEvent:
					if ev.Ack != ack {
						t.Errorf("ack %+v", ev.Ack)
					}
				case *LeaseEvent:
					if ev.Grant != grant {
						t.Errorf("grant %+v", ev.Grant)
					}
				case *FeedbackEvent:
					if ev.Feedback != feedback {
						t.Errorf("feedback %+v", ev.Feedback)
					}
				case *HeaderEvent:
					if ev.Header.Seq != 1 {
						t.Errorf("header %+v", ev.Header)
					}
				case *CommitEvent:
					if ev.Seq != 77 {
						t.Errorf("commit %s", ev.Seq)
					}
				case *BeaconEvent:
					if ev.Beacon != beacon {
						t.Errorf("beacon %+v", ev.Beacon)
					}
				case *BatchEvent:
					if !bytes.Equal(ev.Sealed, log[ev.Header.Seq-1]) {
						t.Errorf("batch %s changed", ev.Header.Seq)
					}
				}
				n++
			}
			if tc.as == AsWriter {
				if err := ends(c); tidegate.ClassOf(err) != tidegate.Transient || !strings.Contains(err.Error(), "done") {
					t.Errorf("end: %v", err)
				}
			}
		})
	}
}

// A dialer that ends its session is not refused, and not reported as if it were.
func TestDialerThatClosesIsNotRefused(t *testing.T) {
	ca := newCerts(t, "alpha", time.Now)
	var refused atomic.Int64
	ended := make(chan error, 1)
	s, err := NewServer(ServerConfig{
		TLS: ca.serve("dr1"), Node: "dr1", Limits: fast, Clock: clock.System(), Log: quiet(), Refused: func(Code) { refused.Add(1) },
	}, handlerFunc(func(_ context.Context, _ tidegate.Identity, _ Attach, conn *ServerConn) error {
		err := conn.Accept(Attached{Node: "dr1"})
		for err == nil {
			_, err = conn.Recv()
		}
		ended <- err
		return err
	}))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(ctx, ln) })
	defer func() { cancel(); wg.Wait() }()
	c, _, err := ca.dialer(tidegate.RoleAgent, "app1").Dial(t.Context(), ln.Addr().String(), asWriter())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	// What the dialer had not read yet when it closed makes its kernel reset the
	// connection, and the goodbye may be lost by that.
	if err := <-ended; !strings.Contains(err.Error(), "closed by peer: dialer closes") && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("ended by %v", err)
	}
	cancel()
	wg.Wait()
	if n := refused.Load(); n != 0 {
		t.Errorf("%d refusals", n)
	}
}

// A peer whose kernel still answers but which never speaks is given up.
func TestSilentPeerIsGivenUp(t *testing.T) {
	ca := newCerts(t, "alpha", time.Now)
	addr := listen(t, ca.serve("dr1"), fast, handlerFunc(func(ctx context.Context, _ tidegate.Identity, _ Attach, conn *ServerConn) error {
		if err := conn.Accept(Attached{Node: "dr1"}); err != nil {
			return err
		}
		<-ctx.Done() // receives nothing, so answers nothing
		return nil
	}))
	d := ca.dialer(tidegate.RoleAgent, "app1")
	c, _, err := d.Dial(t.Context(), addr, asWriter())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	began := time.Now()
	if err := ends(c); tidegate.ClassOf(err) != tidegate.Transient {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > 10*fast.IdleTimeout {
		t.Errorf("took %s with an idle timeout of %s", took, fast.IdleTimeout)
	}
}

// hangConn is a connection whose I/O hangs until it is closed, deadlines or not.
type hangConn struct {
	net.Conn
	hang   chan struct{} // closed: from now on everything hangs
	closed chan struct{}
	once   sync.Once
}

func (c *hangConn) blocked() bool {
	select {
	case <-c.hang:
		<-c.closed
		return true
	default:
		return false
	}
}

func (c *hangConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.blocked() {
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *hangConn) Write(p []byte) (int, error) {
	if c.blocked() {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

func (c *hangConn) SetWriteDeadline(time.Time) error { return nil }

func (c *hangConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func TestCloseReturnsWhileIOHangs(t *testing.T) {
	ca := newCerts(t, "alpha", time.Now)
	addr := listen(t, ca.serve("dr1"), Limits{}.SetDefaults(), &memory{})
	d := ca.dialer(tidegate.RoleAgent, "app1")
	d.Limits.PendingBytesMax = 4096
	var hung *hangConn
	d.Connect = func(ctx context.Context, addr string) (net.Conn, error) {
		nc, err := dialTCP(ctx, addr)
		hung = &hangConn{Conn: nc, hang: make(chan struct{}), closed: make(chan struct{})}
		return hung, err
	}
	c, _, err := d.Dial(t.Context(), addr, asWriter())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = ends(c) })
	close(hung.hang)
	blocked := make(chan struct{})
	wg.Go(func() {
		close(blocked)
		for {
			if err := errors.Join(c.Send(t.Context(), sealLog(t, 1, 3, 3000)[0]), c.Flush()); err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("send: %v", err)
				}
				return
			}
		}
	})
	<-blocked // the hanging write may be the sender's, or that of Close
	began := time.Now()
	_ = c.Close() // what the connection says does not matter here
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("close took %s", took)
	}
	wg.Wait()
	if err := c.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func TestServerStopsWithItsContext(t *testing.T) {
	ca := newCerts(t, "alpha", time.Now)
	s, err := NewServer(ServerConfig{TLS: ca.serve("dr1"), Node: "dr1", Limits: fast, Clock: fastClock(), Log: quiet()}, &memory{})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }() // owned by this test; ends with ctx
	c, _, err := ca.dialer(tidegate.RoleAgent, "app1").Dial(t.Context(), ln.Addr().String(), asWriter())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cancel()
	if err := ends(c); tidegate.ClassOf(err) != tidegate.Transient {
		t.Errorf("session: %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
}

func TestConnectionLimit(t *testing.T) {
	ca := newCerts(t, "alpha", time.Now)
	l := fast
	l.ConnectionsMax = 1
	addr := listen(t, ca.serve("dr1"), l, &memory{})
	d := ca.dialer(tidegate.RoleAgent, "app1")
	c, _, err := d.Dial(t.Context(), addr, asWriter())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Dial(t.Context(), addr, asWriter()); tidegate.ClassOf(err) != tidegate.Transient {
		t.Errorf("second: %v", err)
	}
	c.Close()
	for {
		c, _, err := d.Dial(t.Context(), addr, asWriter())
		if err == nil {
			c.Close()
			return
		}
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}

func TestShippingAllocatesNothingPerBatch(t *testing.T) {
	ca := newCerts(t, "alpha", time.Now)
	addr := listen(t, ca.serve("dr1"), fast, handlerFunc(func(_ context.Context, _ tidegate.Identity, _ Attach, conn *ServerConn) error {
		err := conn.Accept(Attached{Node: "dr1"})
		for err == nil {
			var ev Event
			if ev, err = conn.Recv(); err == nil {
				if b, ok := ev.(*BatchEvent); ok {
					if err = conn.Grant(len(b.Sealed)); err == nil {
						err = errors.Join(conn.SendAck(fence.Ack{Node: "dr1", Received: b.Header.Seq, Stored: b.Header.Seq, Durable: b.Header.Seq}), conn.Flush())
					}
				}
			}
		}
		return err
	}))
	c, _, err := ca.dialer(tidegate.RoleAgent, "app1").Dial(t.Context(), addr, asWriter())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sealed := sealLog(t, 1, 3, 500)[0]
	round := func() {
		if err := errors.Join(c.Send(t.Context(), sealed), c.Flush()); err != nil {
			t.Fatal(err)
		}
		for {
			ev, err := c.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := ev.(*AckEvent); ok {
				return
			}
		}
	}
	round()
	// errors.Join and both ends' TLS records and time exchanges take a few small
	// allocations per round, none per byte; a copied batch would add at least two.
	if got := testing.AllocsPerRun(300, round); got > 6 {
		t.Errorf("%v allocations per batch, both ends together", got)
	}
}

// rawDial opens a session by hand, before the hello.
func rawDial(t *testing.T, d Dialer, addr string) *session {
	t.Helper()
	nc, err := dialTCP(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	raw := &timedConn{Conn: nc, idle: time.Second}
	s := newSession(raw, tlsClient(raw, d), fast, d.Clock)
	if err := s.tls.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestGarbageEndsTheSessionTyped(t *testing.T) {
	ca := newCerts(t, "alpha", time.Now)
	addr := listen(t, ca.serve("dr1"), fast, &memory{})
	for name, junk := range map[string][]byte{
		"http":       []byte("GET / HTTP/1.1\r\n\r\n"),
		"type zero":  {0, 0, 0, 0, 0, 0, 0, 0},
		"huge frame": {255, 255, 255, 255, 1, 0, 0, 0},
		"attach":     {0, 0, 0, 0, byte(typeAttach), 0, 0, 0},
		"bad hello":  {2, 0, 0, 0, byte(typeHello), 0, 0, 0, 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			s := rawDial(t, ca.dialer(tidegate.RoleAgent, "app1"), addr)
			defer s.close("")
			if _, err := s.tls.Write(junk); err != nil {
				t.Fatal(err)
			}
			_, err := s.expect(typeWelcome)
			if r := refusalIn(t, err); r.Code != CodeProtocol {
				t.Errorf("got %v", err)
			}
		})
	}
}
