package shipper

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// certs issues credentials of one cluster.
type certs struct {
	t       *testing.T
	a       *pki.Authority
	cluster string
}

func newCerts(t *testing.T, cluster string, now func() time.Time) certs {
	t.Helper()
	a, err := pki.OpenAuthority(t.TempDir(), cluster, now)
	if err != nil {
		t.Fatal(err)
	}
	return certs{t, a, cluster}
}

func (c certs) of(role tidegate.Role, name string) *pki.Credentials {
	c.t.Helper()
	cred, err := c.a.Credentials(tidegate.Identity{Cluster: c.cluster, Site: "east", Role: role, Name: name})
	if err != nil {
		c.t.Fatal(err)
	}
	return cred
}

// expired issues credentials that were good when they were loaded and are not
// any more when it returns.
func (c certs) expired(role tidegate.Role, name string) *pki.Credentials {
	c.t.Helper()
	f, err := c.a.Issue(tidegate.Identity{Cluster: c.cluster, Site: "east", Role: role, Name: name}, nil, 2*time.Second)
	if err != nil {
		c.t.Fatal(err)
	}
	cred, err := pki.Load(f.Cert, f.Key, f.CA)
	if err != nil {
		c.t.Fatal(err)
	}
	<-time.After(cred.ExpiresIn(time.Now()) + time.Millisecond)
	return cred
}

func (c certs) serve(name string) *tls.Config { return c.of(tidegate.RoleStandby, name).ServerTLS() }

func (c certs) dialer(role tidegate.Role, name string) Dialer {
	return Dialer{
		TLS: c.of(role, name).ClientTLS(pki.Expect{Role: tidegate.RoleStandby}), Clock: clock.System(), Limits: fast,
	}
}

// fast limits keep the tests of silence short.
var fast = Limits{KeepaliveEvery: 20 * time.Millisecond, IdleTimeout: 2 * time.Second}.SetDefaults()

// handlerFunc is a Handler.
type handlerFunc func(ctx context.Context, peer tidegate.Identity, a Attach, conn *ServerConn) error

func (f handlerFunc) Attach(ctx context.Context, peer tidegate.Identity, a Attach, conn *ServerConn) error {
	return f(ctx, peer, a, conn)
}

// listen serves until the test ends and returns the address.
func listen(t *testing.T, cfg *tls.Config, l Limits, h Handler) string {
	t.Helper()
	s, err := NewServer(ServerConfig{TLS: cfg, Node: "dr1", Limits: l, Clock: clock.System(), Log: slog.New(slog.DiscardHandler)}, h)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(ctx, ln); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return ln.Addr().String()
}

// memory is a handler that stores what it accepts and acknowledges nothing.
type memory struct {
	mu     sync.Mutex
	stored []tidegate.Seq
}

func (m *memory) Attach(_ context.Context, _ tidegate.Identity, a Attach, conn *ServerConn) error {
	if err := conn.Accept(Attached{Node: "dr1", Incarnation: tidegate.ID{1}}); err != nil {
		return err
	}
	var prev tidegate.Chain
	for next := tidegate.Seq(1); ; {
		ev, err := conn.Recv()
		if err != nil {
			return err
		}
		b, ok := ev.(*BatchEvent)
		if !ok {
			continue
		}
		switch {
		case b.Header.Epoch != a.Epoch:
			r := Refuse(CodeFenced, "epoch %s", b.Header.Epoch)
			r.Promise.Epoch = a.Epoch
			return r
		case b.Header.Seq != next:
			return Refuse(CodeGap, "batch %s where %s was due", b.Header.Seq, next)
		}
		if _, err := batch.Verify(b.Sealed, prev); err != nil {
			return err
		}
		prev = b.Header.Chain
		next++
		m.mu.Lock()
		m.stored = append(m.stored, b.Header.Seq)
		m.mu.Unlock()
		if err := conn.Grant(len(b.Sealed)); err != nil {
			return err
		}
	}
}

func (m *memory) seqs() []tidegate.Seq {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]tidegate.Seq(nil), m.stored...)
}

var (
	stream = tidegate.ID{7}
	holder = tidegate.ID{8}
)

// log seals n batches of one epoch.
func sealLog(t testing.TB, n int, epoch tidegate.Epoch, size int) [][]byte {
	t.Helper()
	s := batch.NewSealer(batch.CodecNone)
	var prev tidegate.Chain
	var log [][]byte
	for i := range n {
		payload := make([]byte, size)
		payload[0] = byte(i)
		first := tidegate.Position(i * size)
		sealed, h, err := s.Seal(nil, batch.Header{
			Kind: batch.KindData, Records: 1, Stream: stream, Epoch: epoch, Seq: tidegate.Seq(i + 1), First: first, Next: first + tidegate.Position(size),
			Head: first + tidegate.Position(size), Generation: 1, OldestTime: 1, NewestTime: 1,
		}, prev, payload)
		if err != nil {
			t.Fatal(err)
		}
		prev = h.Chain
		log = append(log, sealed)
	}
	return log
}

// ends returns the error that ends the session, draining its events.
func ends(c *Conn) error {
	for {
		if _, err := c.Recv(); err != nil {
			return err
		}
	}
}

func refusalIn(t *testing.T, err error) *Refusal {
	t.Helper()
	r, ok := errors.AsType[*Refusal](err)
	if !ok {
		t.Fatalf("got %v, want a refusal", err)
	}
	return r
}

func expectGate() pki.Expect { return pki.Expect{Role: tidegate.RoleGate} }

func fastClock() clock.Clock { return clock.System() }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func tlsClient(nc net.Conn, d Dialer) *tls.Conn { return tls.Client(nc, tlsConfig(d.TLS)) }
