package shipper

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/internal/wire"
	"github.com/tidegate/tidegate/snapshot"
)

// baseNode is a handler that keeps bases, and gives the newest away.
type baseNode struct {
	memory
	store *snapshot.Store
	wait  func(ctx context.Context, n int) error
	meter snapshot.Meter
}

func (n *baseNode) AttachBase(ctx context.Context, _ tidegate.Identity, a BaseAttach, conn *ServerConn) error {
	in, err := n.store.Intake()
	if err != nil {
		return err
	}
	defer in.Close()
	if err := conn.AcceptBase(BaseAttached{Node: "dr1", Incarnation: tidegate.ID{1}, Generation: a.Generation}); err != nil {
		return err
	}
	r := BaseReceiver{Link: conn, Intake: in, Wait: n.wait, Meter: &n.meter, Commit: func(ctx context.Context, b []byte) (snapshot.Listed, error) {
		return in.Commit(ctx, b, func(info snapshot.Info) error {
			if info.Stream != a.Stream || info.Generation != a.Generation {
				return Refuse(CodeProtocol, "manifest of %s", info.Stream)
			}
			return nil
		})
	}}
	_, err = r.Run(ctx)
	return err
}

func newBaseNode(t *testing.T, fsys vfs.FS) *baseNode {
	t.Helper()
	s, err := snapshot.Open(fsys, "/base", snapshot.StoreConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return &baseNode{store: s}
}

func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(b)
	return b
}

// fillWith writes one file per content.
func fillWith(files ...[]byte) func(context.Context, snapshot.Writer, func(int64)) (snapshot.Base, error) {
	return func(ctx context.Context, w snapshot.Writer, total func(int64)) (snapshot.Base, error) {
		sum := 0
		for _, f := range files {
			sum += len(f)
		}
		total(int64(sum))
		for i, b := range files {
			f, err := w.Create(ctx, snapshot.File{Path: string(rune('a' + i)), Kind: snapshot.KindFile, Mode: 0o600, Size: int64(len(b))})
			if err != nil {
				return snapshot.Base{}, err
			}
			if _, err := f.Write(b); err != nil {
				return snapshot.Base{}, err
			}
			if err := f.Close(); err != nil {
				return snapshot.Base{}, err
			}
		}
		return snapshot.Base{Start: 1, End: 2, Lineage: "pg:1:1"}, nil
	}
}

// easy limits do not mind a machine that is busy.
var easy = Limits{KeepaliveEvery: 20 * time.Millisecond, IdleTimeout: 10 * time.Second}.SetDefaults()

func (c certs) easyDialer(role tidegate.Role, name string) Dialer {
	d := c.dialer(role, name)
	d.Limits = easy
	return d
}

var thePush = BaseAttach{Stream: stream, Generation: 1, Promise: fence.Promise{Epoch: 3, Holder: holder}}

func checkBase(t *testing.T, s *snapshot.Store, files ...[]byte) {
	t.Helper()
	bases := s.Bases()
	if len(bases) == 0 {
		t.Fatal("no base is listed")
	}
	r, err := s.Reader(bases[len(bases)-1])
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range files {
		var b bytes.Buffer
		if err := r.Copy(t.Context(), i, &b); err != nil || !bytes.Equal(b.Bytes(), want) {
			t.Errorf("file %d differs: %v", i, err)
		}
	}
}

func TestPushBase(t *testing.T) {
	c := newCerts(t, "alpha", time.Now)
	n := newBaseNode(t, vfs.NewMem())
	addr := listen(t, c.serve("dr1"), easy, n)
	a, b := random(1, 5<<20+3), random(2, 100)
	var meter snapshot.Meter
	p, err := c.easyDialer(tidegate.RoleAgent, "app1").PushBase(t.Context(), addr, thePush, PushConfig{Meter: &meter}, fillWith(a, b, nil))
	if err != nil {
		t.Fatal(err)
	}
	if p.Node != "dr1" || p.Held || p.Info.Opened != 3 || n.store.Bases()[0].Name != p.Name {
		t.Errorf("pushed %+v", p)
	}
	checkBase(t, n.store, a, b, nil)
	here, there := meter.Progress(), n.meter.Progress()
	if here.Bytes != int64(len(a)+len(b)) || here.Files != 3 || there.Bytes != here.Bytes || there.Sent != here.Sent || there.Total != here.Total || here.Total != here.Bytes {
		t.Errorf("progress here %+v, there %+v", here, there)
	}
	// Once more with one page changed: that page crosses.
	a[9000]++
	var second snapshot.Meter
	if _, err := c.easyDialer(tidegate.RoleAgent, "app1").PushBase(t.Context(), addr, thePush, PushConfig{Meter: &second}, fillWith(a, b, nil)); err != nil {
		t.Fatal(err)
	}
	if got := second.Progress().Needed; got != snapshot.PageBytes {
		t.Errorf("%d bytes crossed for one changed page", got)
	}
	checkBase(t, n.store, a, b, nil)
}

// cutConn breaks after so many bytes were written.
type cutConn struct {
	net.Conn
	left *atomic.Int64
}

func (c cutConn) Write(p []byte) (int, error) {
	if c.left.Add(-int64(len(p))) < 0 {
		_ = c.Conn.Close()
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

// TestPushIsResumedWhereverItWasCut breaks the link after every half of an extent:
// what had arrived does not cross again, and what is listed in the end is whole.
func TestPushIsResumedWhereverItWasCut(t *testing.T) {
	c := newCerts(t, "alpha", time.Now)
	content := [][]byte{random(1, 3<<20), random(2, 40_000), random(3, 1<<20+77)}
	size := int64(0)
	for _, b := range content {
		size += int64(len(b))
	}
	d := c.easyDialer(tidegate.RoleAgent, "app1")
	cuts := 0
	for at := int64(4096); ; at += snapshot.ExtentBytes / 2 {
		n := newBaseNode(t, vfs.NewMem())
		addr := listen(t, c.serve("dr1"), easy, n)
		left := &atomic.Int64{}
		left.Store(at)
		broken := d
		broken.Connect = func(ctx context.Context, addr string) (net.Conn, error) {
			nc, err := dialTCP(ctx, addr)
			return cutConn{nc, left}, err
		}
		_, err := broken.PushBase(t.Context(), addr, thePush, PushConfig{InFlight: 2}, fillWith(content...))
		if err == nil {
			t.Logf("%d cuts", cuts)
			if cuts < 8 {
				t.Errorf("only %d", cuts)
			}
			return
		}
		cuts++
		if tidegate.ClassOf(err) != tidegate.Transient {
			t.Fatalf("cut after %d bytes: %v", at, err)
		}
		if len(n.store.Bases()) != 0 {
			t.Fatalf("cut after %d bytes: half a base is listed", at)
		}
		var meter snapshot.Meter
		eventually(t, func() error {
			_, err := d.PushBase(t.Context(), addr, thePush, PushConfig{Meter: &meter}, fillWith(content...))
			return err
		}, tidegate.ErrConflict)
		checkBase(t, n.store, content...)
		if p := n.meter.Progress(); p.Needed > size {
			t.Errorf("cut after %d bytes: %d bytes arrived of %d", at, p.Needed, size)
		}
	}
}

// eventually tries again while the error is one that passes.
func eventually(t *testing.T, try func() error, passing error) {
	t.Helper()
	end := time.Now().Add(20 * time.Second)
	for {
		err := try()
		if err == nil {
			return
		}
		if r := (*Refusal)(nil); !errors.Is(err, passing) && (!errors.As(err, &r) || tidegate.ClassOf(err) != tidegate.Transient) || time.Now().After(end) {
			t.Fatal(err)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// TestDamagedPagesEndTheSession: what is not what it was offered as is refused by
// name, and nothing of it is kept.
func TestDamagedPagesEndTheSession(t *testing.T) {
	c := newCerts(t, "alpha", time.Now)
	n := newBaseNode(t, vfs.NewMem())
	addr := listen(t, c.serve("dr1"), easy, n)
	conn, _, err := c.easyDialer(tidegate.RoleAgent, "app1").DialBase(t.Context(), addr, push())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s := NewBaseSender(conn)
	var wg sync.WaitGroup
	var ended error
	wg.Go(func() { ended = s.Run() })
	var x snapshot.Extent
	raw := random(1, 3*snapshot.PageBytes)
	x.Cut(raw)
	raw[snapshot.PageBytes]++ // on its way
	if _, err := s.Put(t.Context(), 1, &x, rawPages(raw)); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if r := refusalIn(t, ended); r.Code != CodeCorrupt || r.Class != tidegate.Corrupt {
		t.Errorf("refused as %s, %s", r.Code, r.Class)
	}
	if n.store.Has(x.Name) {
		t.Error("damaged pages were stored")
	}
}

func push() BaseAttach {
	a := thePush
	a.Way = BasePush
	return a
}

// rawPages gives everything, whatever is asked for.
type rawPages []byte

func (p rawPages) Pages(snapshot.Need) (snapshot.Payload, error) {
	return snapshot.Payload{Encoding: snapshot.Plain, Stored: p}, nil
}

// TestRateHoldsABaseBack: a receiver that lets nothing through keeps the session
// alive for longer than its silence would.
func TestRateHoldsABaseBack(t *testing.T) {
	c := newCerts(t, "alpha", time.Now)
	n := newBaseNode(t, vfs.NewMem())
	open := make(chan struct{})
	asked := make(chan int, 64)
	n.wait = func(ctx context.Context, bytes int) error {
		asked <- bytes
		select {
		case <-open:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	addr := listen(t, c.serve("dr1"), fast, n)
	done := make(chan error, 1)
	go func() {
		_, err := c.dialer(tidegate.RoleAgent, "app1").PushBase(t.Context(), addr, thePush, PushConfig{}, fillWith(random(1, 3<<20)))
		done <- err
	}()
	if got := <-asked; got != snapshot.ExtentBytes {
		t.Errorf("asked for %d bytes", got)
	}
	select {
	case err := <-done:
		t.Fatalf("ended while it was held back: %v", err)
	case <-time.After(3 * fast.IdleTimeout):
	}
	if p := n.meter.Progress(); p.Sent != 0 {
		t.Errorf("%d bytes crossed while everything was stopped", p.Sent)
	}
	close(open)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestBaseRefusals(t *testing.T) {
	c := newCerts(t, "alpha", time.Now)
	n := newBaseNode(t, vfs.NewMem())
	addr := listen(t, c.serve("dr1"), easy, n)
	plain := listen(t, c.serve("dr1"), easy, &memory{})
	if _, _, err := c.easyDialer(tidegate.RoleAgent, "app1").DialBase(t.Context(), plain, push()); !errors.Is(err, tidegate.ErrUnsupported) {
		t.Errorf("a node that takes no bases: %v", err)
	}
	if _, _, err := c.easyDialer(tidegate.RoleStandby, "dr2").DialBase(t.Context(), addr, push()); err == nil || refusalIn(t, err).Code != CodeRole {
		t.Errorf("a push by a standby: %v", err)
	}
	fetch := push()
	fetch.Way = BaseFetch
	if _, _, err := c.easyDialer(tidegate.RoleDrill, "d1").DialBase(t.Context(), addr, push()); err == nil || refusalIn(t, err).Code != CodeRole {
		t.Errorf("a drill pushes a base: %v", err)
	}
	if _, _, err := c.easyDialer(tidegate.RoleAgent, "app1").DialBase(t.Context(), addr, fetch); err == nil || refusalIn(t, err).Code != CodeRole {
		t.Errorf("a fetch by an agent: %v", err)
	}
	small := c.easyDialer(tidegate.RoleAgent, "app1")
	small.Limits.BatchBytesMax = 64 << 10
	if _, _, err := small.DialBase(t.Context(), addr, push()); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("a session that no extent fits into: %v", err)
	}
	wrong := errors.New("the server went away")
	_, err := c.easyDialer(tidegate.RoleAgent, "app1").PushBase(t.Context(), addr, thePush, PushConfig{},
		func(context.Context, snapshot.Writer, func(int64)) (snapshot.Base, error) {
			return snapshot.Base{}, wrong
		})
	if !errors.Is(err, wrong) {
		t.Errorf("the source's own error: %v", err)
	}
	// A session of the other kind, and frames out of place.
	for name, frame := range map[string]struct {
		typ  wire.Type
		body []byte
	}{
		"batch":         {typeBatch, nil},
		"unasked pages": {typeBasePages, append(wire.AppendU8(wire.AppendU32(nil, 9), 0), "x"...)},
		"need":          {typeBaseNeed, appendNeed(nil, 1, snapshot.Need{})},
		"cut offer":     {typeBaseOffer, []byte{1}},
		"forged offer":  {typeBaseOffer, append(appendOffer(nil, 1, 2, anExtent())[:16], make([]byte, 3*nameBytes)...)},
		"late manifest": {typeBaseManifest, append(wire.AppendU64(wire.AppendU64(nil, 9), 5), "rest"...)},
		"no manifest":   {typeBaseManifest, append(wire.AppendU64(wire.AppendU64(nil, 4), 0), "junk"...)},
	} {
		var conn *Conn
		eventually(t, func() (err error) {
			conn, _, err = c.easyDialer(tidegate.RoleAgent, "app1").DialBase(t.Context(), addr, push())
			return err
		}, tidegate.ErrConflict)
		if err := conn.send(frame.typ, frame.body); err != nil {
			t.Fatal(err)
		}
		if err := ends(conn); err == nil {
			t.Errorf("%s is taken", name)
		} else if r, ok := errors.AsType[*Refusal](err); !ok || r.Class != tidegate.Misuse && r.Class != tidegate.Corrupt {
			t.Errorf("%s: %v", name, err)
		}
		_ = conn.Close()
	}
}
