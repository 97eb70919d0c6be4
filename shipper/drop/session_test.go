package drop

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/pki"
	"github.com/tidegate/tidegate/shipper"
)

// quick keeps these tests, which do not run in a bubble, short.
var quick = Config{Every: 2 * time.Millisecond, Look: 2 * time.Millisecond}

// brisk limits notice soon that something is missing.
var brisk = shipper.Limits{KeepaliveEvery: 20 * time.Millisecond, IdleTimeout: 5 * time.Second}.SetDefaults()

// acceptor is a node that acknowledges what it has taken.
type acceptor struct {
	mu       sync.Mutex
	attached int
	stored   map[tidegate.StreamID][][]byte
}

func (a *acceptor) Attach(_ context.Context, _ tidegate.Identity, at shipper.Attach, conn *shipper.ServerConn) error {
	a.mu.Lock()
	a.attached++
	a.mu.Unlock()
	if err := conn.Accept(shipper.Attached{Node: node, Incarnation: tidegate.ID{1}}); err != nil {
		return err
	}
	var prev tidegate.Chain
	for {
		ev, err := conn.Recv()
		if err != nil {
			return err
		}
		b, ok := ev.(*shipper.BatchEvent)
		if !ok {
			continue
		}
		if _, err := batch.Verify(b.Sealed, prev); err != nil {
			return err
		}
		prev = b.Header.Chain
		a.mu.Lock()
		if b.Header.Seq == 1 {
			a.stored[at.Stream] = nil // a session begins anew here
		}
		a.stored[at.Stream] = append(a.stored[at.Stream], bytes.Clone(b.Sealed))
		a.mu.Unlock()
		seq := b.Header.Seq
		if err := errors.Join(conn.SendAck(fence.Ack{Node: node, Epoch: 1, Received: seq, Stored: seq, Durable: seq, Stamp: uint64(seq)}), conn.Flush()); err != nil {
			return err
		}
	}
}

// took is what has arrived of a stream, and how many sessions of any have.
func (a *acceptor) took(stream tidegate.StreamID) (attached int, stored [][]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.attached, a.stored[stream]
}

// first is the stream of the tests that have one.
var first = tidegate.StreamID{1}

// place is a bucket with a node behind it, and certificates.
type place struct {
	t    *testing.T
	b    bucket.Bucket
	ca   *pki.Authority
	node *acceptor
	l    *Listener

	limits shipper.Limits
}

func newPlace(t *testing.T, b bucket.Bucket) *place {
	t.Helper()
	return newPatientPlace(t, b, brisk)
}

// newPatientPlace is one with other limits.
func newPatientPlace(t *testing.T, b bucket.Bucket, limits shipper.Limits) *place {
	t.Helper()
	ca, err := pki.Dev(t.TempDir(), "c")
	if err != nil {
		t.Fatal(err)
	}
	p := &place{t: t, b: b, ca: ca, node: &acceptor{stored: map[tidegate.StreamID][][]byte{}}, limits: limits}
	d := New(b, quick)
	p.l = d.Listen(node, always, slog.New(slog.DiscardHandler))
	s, err := shipper.NewServer(shipper.ServerConfig{
		TLS: p.of(tidegate.RoleStandby, string(node)).ServerTLS(), Node: node, Limits: limits,
		Clock: clock.System(), Log: slog.New(slog.DiscardHandler),
	}, p.node)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(ctx, p.l); err != nil {
			t.Errorf("serve: %v", err)
		}
		d.Wait()
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return p
}

func (p *place) of(role tidegate.Role, name string) *pki.Credentials {
	p.t.Helper()
	c, err := p.ca.Credentials(tidegate.Identity{Cluster: "c", Site: "east", Role: role, Name: name})
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

// dial opens a writer's session.
func (p *place) dial(cred *pki.Credentials) (*shipper.Conn, error) {
	p.t.Helper()
	return p.dialFor(cred, first)
}

// dialFor opens one of a stream.
func (p *place) dialFor(cred *pki.Credentials, stream tidegate.StreamID) (*shipper.Conn, error) {
	p.t.Helper()
	d := New(p.b, quick)
	p.t.Cleanup(d.Wait)
	conn, _, err := shipper.Dialer{
		TLS: cred.ClientTLS(pki.Expect{Role: tidegate.RoleStandby, Name: string(node)}), Clock: clock.System(), Limits: p.limits,
		Connect: func(ctx context.Context, _ string) (net.Conn, error) { return d.Dial(ctx, node) },
	}.Dial(p.t.Context(), "nowhere", shipper.Attach{Stream: stream, As: shipper.AsWriter, Epoch: 1, Holder: tidegate.ID{2}})
	if err == nil {
		p.t.Cleanup(func() { _ = conn.Close() }) // before the wait
	}
	return conn, err
}

// sealed makes batches.
func sealed(t *testing.T, n int) [][]byte {
	t.Helper()
	return sealedOf(t, first, n, 1000)
}

// sealedOf makes batches of a stream, of so many bytes each.
func sealedOf(t *testing.T, stream tidegate.StreamID, n int, size tidegate.Position) (all [][]byte) {
	t.Helper()
	s := batch.NewSealer(batch.CodecNone)
	var chain tidegate.Chain
	var pos tidegate.Position
	for i := range n {
		payload := bytes.Repeat([]byte{byte(i), stream[0]}, int(size/2))
		b, h, err := s.Seal(nil, batch.Header{
			Kind: batch.KindData, Stream: stream, Epoch: 1, Seq: tidegate.Seq(i + 1), First: pos, Next: pos + size, Head: pos + size,
			Records: 1, Generation: 1, OldestTime: 1, NewestTime: 1,
		}, chain, payload)
		if err != nil {
			t.Fatal(err)
		}
		chain, pos = h.Chain, h.Next
		all = append(all, b)
	}
	return all
}

// ship sends batches and waits for the last one's ack.
func ship(t *testing.T, conn *shipper.Conn, all [][]byte) error {
	t.Helper()
	for _, b := range all {
		if err := conn.Send(t.Context(), b); err != nil {
			return err
		}
	}
	if err := conn.Flush(); err != nil {
		return err
	}
	for {
		ev, err := conn.Recv()
		if err != nil {
			return err
		}
		if a, ok := ev.(*shipper.AckEvent); ok && a.Ack.Durable == tidegate.Seq(len(all)) {
			return nil
		}
	}
}

func TestSessionCrosses(t *testing.T) {
	p := newPlace(t, memory(t))
	conn, err := p.dial(p.of(tidegate.RoleAgent, "app1"))
	if err != nil {
		t.Fatal(err)
	}
	all := sealed(t, 20)
	if err := ship(t, conn, all); err != nil {
		t.Fatal(err)
	}
	if _, got := p.node.took(first); len(got) != len(all) || !bytes.Equal(bytes.Join(got, nil), bytes.Join(all, nil)) {
		t.Errorf("%d batches arrived, want %d, byte for byte", len(got), len(all))
	}
	for _, name := range names(t, p.b) {
		data, _, err := bucket.ReadAll(t.Context(), p.b, name, PieceMax)
		if err == nil && bytes.Contains(data, all[0][batch.HeaderSize:]) {
			t.Errorf("%s shows what is in a batch", name)
		}
	}
}

// Whoever can write to the bucket but has no certificate of the cluster gets no word in:
// neither with bytes of his own, nor with those that somebody else has put.
func TestStrangersAreRefused(t *testing.T) {
	p := newPlace(t, memory(t))
	other, err := pki.Dev(t.TempDir(), "c")
	if err != nil {
		t.Fatal(err)
	}
	forged, err := other.Credentials(tidegate.Identity{Cluster: "c", Site: "east", Role: tidegate.RoleAgent, Name: "app1"})
	if err != nil {
		t.Fatal(err)
	}
	if conn, err := p.dial(forged); err == nil {
		_ = conn.Close() // it should not be there
		t.Error("a certificate of another authority was taken")
	}
	if conn, err := p.dial(p.of(tidegate.RoleStandby, "west2")); err == nil {
		_ = conn.Close() // it should not be there
		t.Error("a standby node was taken for a writer")
	} else if !strings.Contains(err.Error(), "may not attach as writer") {
		t.Errorf("the refusal did not cross: %v", err)
	}
	put := func(number uint64, id tidegate.ID, data []byte) {
		t.Helper()
		if _, err := p.b.Put(t.Context(), pieceName(node, id, wayUp, number), bytes.NewReader(data), bucket.PutOptions{IfAbsent: true}); err != nil {
			t.Fatal(err)
		}
	}
	id := tidegate.NewID()
	for i, b := range sealed(t, 3) {
		put(uint64(i), id, b)
	}
	until(t, "the stranger's connection to be over", func() bool { return ended(p.l, id) })
	if attached, stored := p.node.took(first); attached != 0 || len(stored) != 0 {
		t.Errorf("%d sessions, %d batches", attached, len(stored))
	}
}

// A piece that somebody has changed, cut short, left out or put twice ends the session,
// and nothing of it counts; the next session goes on.
func TestDamagedPieces(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"flipped": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"cut":     func(b []byte) []byte { return b[:len(b)-1] },
		"empty":   func([]byte) []byte { return nil },
		"twice":   func(b []byte) []byte { return append(b, b...) },
		"long":    func([]byte) []byte { return make([]byte, PieceMax+1) },
	} {
		t.Run(name, func(t *testing.T) {
			b := &broken{Bucket: memory(t)}
			var mu sync.Mutex
			var armed, done bool
			b.get = func(name string, data []byte) []byte {
				mu.Lock()
				defer mu.Unlock()
				if armed && !done && strings.Contains(name, "-up-") && len(data) > 5000 {
					done = true
					return damage(data)
				}
				return data
			}
			p := newPlace(t, b)
			conn, err := p.dial(p.of(tidegate.RoleAgent, "app1"))
			if err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			armed = true
			mu.Unlock()
			all := sealed(t, 50)
			for err = ship(t, conn, all); err == nil; _, err = conn.Recv() { // what is there twice was good once
			}
			_, got := p.node.took(first)
			if !bytes.Equal(bytes.Join(got, nil), bytes.Join(all[:len(got)], nil)) {
				t.Errorf("%d batches arrived, and not as they were sealed", len(got))
			}
			if name != "twice" && len(got) == len(all) {
				t.Error("nothing was missing")
			}
			again, err := p.dial(p.of(tidegate.RoleAgent, "app1"))
			if err != nil {
				t.Fatal(err)
			}
			if err := ship(t, again, all); err != nil {
				t.Errorf("the next session: %v", err)
			}
		})
	}
}

func ended(l *Listener, id tidegate.ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, over := l.ended[id]
	return over
}

// until waits for what other goroutines bring about.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
