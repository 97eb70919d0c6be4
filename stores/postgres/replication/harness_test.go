package replication_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/stores/postgres/replication"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// config connects to s over its socket.
func config(s *pgtest.Server) replication.Config {
	return replication.Config{Conn: s.Conn(), ApplicationName: "tidegate"}
}

func connect(t testing.TB, cfg replication.Config) *replication.Conn {
	t.Helper()
	c, err := replication.Connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func connectSQL(t testing.TB, s *pgtest.Server) *replication.SQL {
	t.Helper()
	q, err := replication.ConnectSQL(t.Context(), config(s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	return q
}

// stream starts a stream on a connection of its own.
func stream(t testing.TB, cfg replication.Config, o replication.StartOptions) *replication.Stream {
	t.Helper()
	s, err := connect(t, cfg).Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func createSlot(t testing.TB, s *pgtest.Server, name string) replication.Slot {
	t.Helper()
	c := connect(t, config(s))
	slot, err := c.CreateSlot(t.Context(), name, false)
	if err = errors.Join(err, c.Close()); err != nil {
		t.Fatal(err)
	}
	return slot
}

func lsn(t testing.TB, s string) wal.LSN {
	t.Helper()
	l, err := wal.ParseLSN(s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// upTo receives until the log reaches end and returns its bytes from where the
// stream began.
func upTo(t testing.TB, s *replication.Stream, end wal.LSN) []byte {
	t.Helper()
	var log []byte
	for {
		m, err := s.Receive()
		if err != nil {
			t.Fatalf("after %d bytes: %v", len(log), err)
		}
		log = append(log, m.Data...)
		if m.Next() >= end {
			return log
		}
	}
}

// segments are the bytes [from, to) as they lie in the server's own files.
func segments(t testing.TB, s *pgtest.Server, tli wal.Timeline, size wal.SegmentSize, from, to wal.LSN) []byte {
	t.Helper()
	var log []byte
	for at := from; at < to; {
		b, err := os.ReadFile(filepath.Join(s.DataDir, "pg_wal", size.FileName(tli, at)))
		if err != nil {
			t.Fatal(err)
		}
		end := min(to, size.Start(at)+wal.LSN(size))
		log = append(log, b[size.Offset(at):size.Offset(at)+int64(end-at)]...)
		at = end
	}
	return log
}

func same(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	n := 0
	for n < len(got) && n < len(want) && got[n] == want[n] {
		n++
	}
	t.Fatalf("%s: got %d bytes, want %d, which differ from %d on", what, len(got), len(want), n)
}

// link forwards connections to a server's TCP port until it is cut or frozen.
type link struct {
	listener net.Listener
	target   string

	mu     sync.Mutex
	thaw   *sync.Cond
	frozen bool
	down   bool
	conns  []net.Conn
	passed int64 // bytes towards the client
	cutAt  int64 // bytes after which the link is cut; 0 is never
	wg     sync.WaitGroup
}

func newLink(t testing.TB, s *pgtest.Server) *link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &link{listener: l, target: net.JoinHostPort(s.Host, strconv.Itoa(pgtest.Port))}
	k.thaw = sync.NewCond(&k.mu)
	k.wg.Go(k.serve)
	t.Cleanup(func() {
		k.listener.Close()
		k.cut()
		k.wg.Wait()
	})
	return k
}

// config connects through the link, without TLS unless tls is set.
func (k *link) config(s *pgtest.Server, tls bool) replication.Config {
	host, port, err := net.SplitHostPort(k.listener.Addr().String())
	if err != nil {
		panic(err)
	}
	// The certificate is for the server's own address.
	mode := "sslmode=disable"
	if tls {
		mode = "sslmode=verify-ca"
	}
	return replication.Config{Conn: s.TCP("host="+host, "port="+port, mode), ApplicationName: "tidegate", SilenceMax: time.Second}
}

func (k *link) serve() {
	for {
		a, err := k.listener.Accept()
		if err != nil {
			return
		}
		b, err := net.Dial("tcp", k.target)
		if err != nil {
			a.Close()
			continue
		}
		k.mu.Lock()
		k.conns = append(k.conns, a, b)
		k.mu.Unlock()
		k.wg.Go(func() { k.pass(b, a, false) })
		k.wg.Go(func() { k.pass(a, b, true) })
	}
}

func (k *link) pass(dst, src net.Conn, counted bool) {
	buf := make([]byte, 32<<10)
	defer dst.Close()
	defer src.Close()
	for {
		n, err := src.Read(buf)
		k.mu.Lock()
		for k.frozen && !k.down {
			k.thaw.Wait()
		}
		if counted {
			k.passed += int64(n)
		}
		over := counted && k.cutAt > 0 && k.passed > k.cutAt
		k.mu.Unlock()
		if over || err != nil {
			return
		}
		if _, err := dst.Write(buf[:n]); err != nil {
			return
		}
	}
}

// cut breaks every connection there is; new ones pass.
func (k *link) cut() {
	k.mu.Lock()
	conns := k.conns
	k.conns, k.down = nil, true
	k.thaw.Broadcast()
	k.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}

func (k *link) set(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f()
	k.thaw.Broadcast()
}

// restorer writes a base into a directory, tablespaces below pg_tblspc as they come.
type restorer struct {
	dir   string
	open  bool
	fail  error // what Write gives
	names []string
}

func (r *restorer) Add(f snapshot.File) error {
	r.names = append(r.names, f.Path)
	p := filepath.Join(r.dir, f.Path)
	if f.Kind == snapshot.KindLink {
		return os.Symlink(f.Link, p)
	}
	return os.MkdirAll(p, 0o700)
}

func (r *restorer) Create(_ context.Context, f snapshot.File) (io.WriteCloser, error) {
	if r.open {
		return nil, errors.New("the file before is open")
	}
	r.names = append(r.names, f.Path)
	p := filepath.Join(r.dir, f.Path)
	if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	r.open = true
	return &restoring{r: r, File: file, left: f.Size}, nil
}

type restoring struct {
	*os.File
	r    *restorer
	left int64
}

func (w *restoring) Write(p []byte) (int, error) {
	w.left -= int64(len(p))
	if w.r.fail != nil {
		return 0, w.r.fail
	}
	return w.File.Write(p)
}

func (w *restoring) Close() error {
	w.r.open = false
	if w.left != 0 && w.r.fail == nil {
		return fmt.Errorf("%s: %d bytes are missing", w.Name(), w.left)
	}
	return w.File.Close()
}
