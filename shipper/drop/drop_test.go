package drop

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/shipper"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Whatever sleeps here does so in a bubble of synctest, where it takes no time and is over
// when everything else waits.
const node = tidegate.NodeName("west1")

// memory is a bucket in memory.
func memory(t *testing.T) bucket.Bucket {
	t.Helper()
	mem := vfs.NewMem()
	if err := mem.MkdirAll("/archive"); err != nil {
		t.Fatal(err)
	}
	return dir.New(mem, "/archive")
}

// names lists what lies in a bucket.
func names(t *testing.T, b bucket.Bucket) (all []string) {
	t.Helper()
	for o, err := range b.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, o.Name)
	}
	return all
}

func always() bool { return true }

// ends are both ends of a connection that the node has found.
func ends(t *testing.T, b bucket.Bucket) (agent *Drop, l *Listener, up, down net.Conn) {
	t.Helper()
	agent, standby := New(b, Config{}), New(b, Config{})
	l = standby.Listen(node, always, slog.New(slog.DiscardHandler))
	up, err := agent.Dial(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	send(t, up, "knock")
	if down, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	expect(t, down, "knock")
	return agent, l, up, down
}

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil { // who polls the bucket would do so for ever
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v, want %q", got, err, want)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
}

// closeAll closes what the test is done with.
func closeAll(t *testing.T, all ...io.Closer) {
	t.Helper()
	for _, c := range all {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestNames(t *testing.T) {
	id := tidegate.NewID()
	good := pieceName(node, id, wayUp, 0xabc)
	if gotID, w, n, err := parsePiece(node, good); err != nil || gotID != id || w != wayUp || n != 0xabc {
		t.Errorf("%s: %s %s %d, %v", good, gotID, w, n, err)
	}
	if err := bucket.ValidName(good); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{
		"", "drop/", good + "0", good + "-", strings.Replace(good, "-up-", "/up/", 1), strings.Replace(good, "abc", "ABC", 1), strings.Replace(good, "-up-", "-to-", 1),
		strings.Replace(good, "west1", "west2", 1), strings.Replace(good, "drop/", "", 1), strings.Replace(good, "0000", "000", 1),
		strings.Replace(good, id.String(), "x", 1), "streams/" + good,
	} {
		if _, _, _, err := parsePiece(node, bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// What either end writes arrives, whole and in order, however it is cut; a full bucket
// is empty again once it has.
func TestBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory(t)
		agent, l, up, down := ends(t, b)
		rnd := rand.NewChaCha8([32]byte{1})
		var wg sync.WaitGroup
		for i, way := range [][2]net.Conn{{up, down}, {down, up}} {
			want := make([]byte, 12345)
			if i == 0 {
				want = make([]byte, PieceMax+12345) // more than is pending at a time
			}
			_, _ = rnd.Read(want) // never fails
			sizes := rand.New(rand.NewPCG(3, 4))
			wg.Go(func() {
				for rest := want; len(rest) > 0; {
					n := min(1+sizes.IntN(len(want)/20), len(rest))
					if _, err := way[0].Write(rest[:n]); err != nil {
						t.Error(err)
						return
					}
					rest = rest[n:]
				}
			})
			wg.Go(func() {
				got := make([]byte, len(want))
				if _, err := io.ReadFull(way[1], got); err != nil || !bytes.Equal(got, want) {
					t.Errorf("what arrived is not what was written: %v", err)
				}
			})
		}
		wg.Wait()
		if err := up.Close(); err != nil {
			t.Error(err)
		}
		if n, err := down.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("after the other end's close: %d, %v", n, err)
		}
		if _, err := down.Write([]byte("x")); !errors.Is(err, io.EOF) {
			t.Errorf("written after the other end's close: %v", err)
		}
		if err := down.Close(); err != nil {
			t.Error(err)
		}
		agent.Wait()
		l.d.Wait()
		if l.Connections() != 0 {
			t.Errorf("%d connections", l.Connections())
		}
		// The node's own end piece may be left: nobody reads it.
		time.Sleep(LeftoverAfter)
		go func() { time.Sleep(time.Second); _ = l.Close() }() // ends the Accept below
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		if left := names(t, b); len(left) != 0 {
			t.Errorf("left: %q", left)
		}
	})
}

// What was written before a close arrives; what is written after it does not.
func TestFarewell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent, l, up, down := ends(t, memory(t))
		send(t, down, "you are not welcome")
		if err := down.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := down.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		expect(t, up, "you are not welcome")
		if _, err := up.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		closeAll(t, up)
		agent.Wait()
		l.d.Wait()
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		agent, l, up, down := ends(t, memory(t))
		if err := up.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		var timeout net.Error
		if _, err := up.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() || time.Since(began) != 3*time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		if err := up.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		send(t, down, "late")
		expect(t, up, "late")
		closeAll(t, up, down)
		agent.Wait()
		l.d.Wait()
	})
}

// broken is a bucket whose requests fail as a test says.
type broken struct {
	bucket.Bucket

	mu     sync.Mutex
	err    error // of Put and Get
	get    func(name string, data []byte) []byte
	remove func(ctx context.Context, name string) error // in place of Remove
}

func (b *broken) Remove(ctx context.Context, name string) error {
	if b.remove != nil {
		return b.remove(ctx, name)
	}
	return b.Bucket.Remove(ctx, name)
}

func (b *broken) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

func (b *broken) now() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

func (b *broken) Put(ctx context.Context, name string, body bucket.Body, o bucket.PutOptions) (bucket.Object, error) {
	if err := b.now(); err != nil {
		return bucket.Object{}, err
	}
	return b.Bucket.Put(ctx, name, body, o)
}

func (b *broken) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if err := b.now(); err != nil {
		return nil, err
	}
	r, err := b.Bucket.Get(ctx, name, off, n)
	if err != nil || b.get == nil {
		return r, err
	}
	data, err := io.ReadAll(r)
	return io.NopCloser(bytes.NewReader(b.get(name, data))), errors.Join(err, r.Close())
}

// A bucket that is gone for good ends a connection with its own words; one that is
// gone for a while does not end one that only waits.
func TestBucketAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &broken{Bucket: memory(t)}
		agent, l, up, down := ends(t, b)
		b.fail(&tidegate.Error{Op: "get object", Class: tidegate.Transient, Err: errors.New("slow down")})
		time.Sleep(10 * time.Second)
		if agent.Failures() == 0 {
			t.Error("failures are not counted")
		}
		b.fail(nil)
		send(t, down, "again")
		expect(t, up, "again")
		b.fail(&tidegate.Error{Op: "put object", Class: tidegate.Misuse, Err: errors.New("the archive's directory is not there")})
		if _, err := up.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "crossing by the archive: put object: the archive's directory") && !strings.Contains(err.Error(), "directory is not there") {
			t.Errorf("%v", err)
		}
		if _, err := up.Write([]byte("x")); err == nil || !strings.Contains(err.Error(), "is not there") {
			t.Errorf("%v", err)
		}
		closeAll(t, up, down)
		agent.Wait()
		l.d.Wait()
	})
}

// An agent that nobody answers takes back what it has put.
func TestNobodyThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory(t)
		agent := New(b, Config{})
		up, err := agent.Dial(t.Context(), node)
		if err != nil {
			t.Fatal(err)
		}
		send(t, up, "knock")
		time.Sleep(20 * time.Second)
		if len(names(t, b)) != 1 {
			t.Errorf("%q", names(t, b))
		}
		closeAll(t, up)
		agent.Wait()
		if left := names(t, b); len(left) != 0 {
			t.Errorf("left: %q", left)
		}
	})
}

// The bucket is asked less often while nobody is wanted, and a node that cannot list goes on.
func TestLooksLessOftenWhenNobodyIsWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory(t)
		agent, standby := New(b, Config{}), New(b, Config{})
		l := standby.Listen(node, func() bool { return false }, slog.New(slog.DiscardHandler))
		up, err := agent.Dial(t.Context(), node)
		if err != nil {
			t.Fatal(err)
		}
		send(t, up, "knock")
		found := make(chan net.Conn, 1)
		go func() { // ends with the connection it finds
			c, err := l.Accept()
			if err != nil {
				t.Error(err)
			}
			found <- c
		}()
		began := time.Now()
		down := <-found
		if took := time.Since(began); took != (IdleLooks-1)*LookDefault {
			t.Errorf("found after %s", took)
		}
		expect(t, down, "knock")
		closeAll(t, up, down)
		agent.Wait()
		standby.Wait()
	})
}

// No more handshakes go on than may; those that wait come in as others end, or are over.
func TestHandshakesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory(t)
		agent, standby := New(b, Config{}), New(b, Config{})
		l := standby.Listen(node, always, slog.New(slog.DiscardHandler))
		var ups []net.Conn
		for range HandshakesMax + 3 {
			up, err := agent.Dial(t.Context(), node)
			if err != nil {
				t.Fatal(err)
			}
			send(t, up, "knock")
			ups = append(ups, up)
		}
		synctest.Wait() // all lie there
		found := make(chan net.Conn, len(ups))
		var accepting sync.WaitGroup
		accepting.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				found <- c
			}
		})
		time.Sleep(3 * time.Second)
		if len(found) != HandshakesMax {
			t.Errorf("%d connections", len(found))
		}
		closeAll(t, <-found, <-found)
		attached := <-found
		attached.(shipper.PeerAware).PeerKnown()
		time.Sleep(3 * time.Second)
		if len(found) != HandshakesMax {
			t.Errorf("%d connections after two have ended and one has attached", len(found))
		}
		closeAll(t, attached)
		closeAll(t, l)
		accepting.Wait()
		for _, c := range ups {
			closeAll(t, c)
		}
		for len(found) > 0 {
			closeAll(t, <-found)
		}
		agent.Wait()
		standby.Wait()
	})
}

// lay puts pieces as an agent does.
func lay(t *testing.T, b bucket.Bucket, id tidegate.ID, first, n uint64) {
	t.Helper()
	for i := range n {
		if _, err := b.Put(t.Context(), pieceName(node, id, wayUp, first+i), strings.NewReader("x"), bucket.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// Connections that another run of the node has taken up hold no place, and go; what
// cannot be removed keeps nothing else from going, and the next piece for long.
func TestWhatOthersLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &broken{Bucket: memory(t)}
		stuck := tidegate.ID{1}
		lay(t, b, stuck, 1, 2)
		for range HandshakesMax {
			lay(t, b, tidegate.NewID(), 1, 2)
		}
		var tries int
		b.remove = func(ctx context.Context, name string) error {
			if strings.Contains(name, stuck.String()) {
				tries++
				<-ctx.Done() // as a server that is tried for minutes
				return ctx.Err()
			}
			return b.Bucket.Remove(ctx, name)
		}
		agent, l, up, down := ends(t, b) // at the first look
		if n := l.Connections(); n != 1 {
			t.Errorf("%d connections", n)
		}
		var accepting sync.WaitGroup
		accepting.Go(func() {
			if c, err := l.Accept(); err == nil {
				t.Errorf("a connection was taken up: %s", c.RemoteAddr())
			}
		})
		time.Sleep(5 * LeftoverAfter)
		if left := names(t, b); len(left) != 2 {
			t.Errorf("left: %q", left)
		}
		closeAll(t, l)
		accepting.Wait()
		if tries == 0 || tries > 12 {
			t.Errorf("tried to remove %d times in %s", tries, 5*LeftoverAfter)
		}
		b.remove = func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }
		began := time.Now()
		send(t, up, "one")
		expect(t, down, "one")
		send(t, up, "two")
		expect(t, down, "two")
		if took := time.Since(began); took > 2*tidyMax {
			t.Errorf("two pieces took %s", took)
		}
		closeAll(t, up, down)
		agent.Wait()
		l.d.Wait()
	})
}

// An attempt that is given up leaves nothing by which it could still begin.
func TestAbort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory(t)
		agent, l, up, down := ends(t, b)
		send(t, down, "who are you")
		expect(t, up, "who are you")
		send(t, up, "attach") // and the node does not read it
		time.Sleep(EveryDefault)
		send(t, up, "me")
		Abort(up)
		agent.Wait()
		if left := names(t, b); strings.Contains(strings.Join(left, " "), "-up-") {
			t.Errorf("left: %q", left)
		}
		if _, err := up.Write([]byte("x")); err == nil {
			t.Error("written after the end")
		}
		closeAll(t, up, down)
		l.d.Wait()
	})
}

func TestConfigRules(t *testing.T) {
	if err := (Config{}).SetDefaults().Validate(); err != nil {
		t.Error(err)
	}
	for _, bad := range []Config{{Every: EveryMax + 1}, {Look: LookMax + 1}, {Every: pauseMin - 1}, {Look: pauseMin - 1}} {
		if bad.SetDefaults().Validate() == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	// At the slowest, a look of a node that wants nobody and five pieces.
	if IdleLooks*LookMax+5*EveryMax >= HandshakeTimeout || FarewellMax <= 2*EveryMax {
		t.Error("what is allowed cannot work")
	}
}
