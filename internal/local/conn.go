package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/wire"
)

// sendBufferMax bounds what waits for a write in flight; a slower peer then
// holds its sender back instead of memory.
const sendBufferMax = 1 << 20

// writeTimeout bounds one write to a peer on the same machine that does not read.
const writeTimeout = 5 * time.Second

// handshakeTimeout bounds Hello and its answer: both ends are on one machine.
const handshakeTimeout = 5 * time.Second

// SocketPath returns <run>/<daemon>/<service>.<stream>.sock.
func SocketPath(runDir string, d Daemon, service tidegate.ServiceName, stream tidegate.StreamName) string {
	return filepath.Join(runDir, d.String(), string(service)+"."+string(stream)+".sock")
}

// Conn carries messages both ways. Send may be called concurrently, Recv by
// one goroutine; Close ends both.
type Conn struct {
	nc net.Conn
	r  *wire.Reader
	w  *wire.Writer
}

// NewConn wraps a connection on which no byte has been read; it owns nc.
func NewConn(nc net.Conn) *Conn {
	return &Conn{nc: nc, r: wire.NewReader(nc, bodyMax), w: wire.NewWriter(boundedWriter{nc}, sendBufferMax)}
}

// boundedWriter gives every write a deadline of its own, so that a peer that
// has stopped reading (frozen, hung) loses its connection instead of holding up
// the sender: what a sender serves besides must go on.
type boundedWriter struct{ nc net.Conn }

func (w boundedWriter) Write(p []byte) (int, error) {
	if err := w.nc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return w.nc.Write(p)
}

// Send hands m over; nil does not mean that the peer has it. m is not kept.
func (c *Conn) Send(m Message) error {
	if b, ok := m.(*Batch); ok {
		if err := c.Put(b); err != nil {
			return err
		}
		return c.Flush()
	}
	return c.w.Send(m.wireType(), m.appendTo(nil))
}

// Put hands a batch over as Send does, but lets it wait for the next Flush or Send,
// or until much waits: small batches of a backlog then share a write.
func (c *Conn) Put(b *Batch) error {
	// The payload is the large part: it is copied once, into the write buffer.
	var buf [64]byte
	head := wire.AppendU32(b.appendHead(buf[:0]), uint32(len(b.Payload)))
	return c.w.Put(typeBatch, head, b.Payload)
}

// Flush sends what was Put.
func (c *Conn) Flush() error { return c.w.Flush() }

// Recv waits for the next message. A [Batch]'s payload is valid until the next
// call. A [Refusal] comes back as a *tidegate.Error of its class; io.EOF means
// that the peer closed between messages.
func (c *Conn) Recv() (Message, error) {
	t, body, err := c.r.Next()
	if err != nil {
		return nil, err
	}
	m, err := Decode(t, body)
	if err != nil {
		return nil, err
	}
	if r, ok := m.(*Refusal); ok {
		return nil, r.err()
	}
	return m, nil
}

// Close ends the connection at once; a blocked Send or Recv returns.
func (c *Conn) Close() error {
	c.w.Fail(net.ErrClosed)
	return c.nc.Close()
}

// Refuse sends err as a [Refusal] and closes.
func (c *Conn) Refuse(err error) error {
	sendErr := c.Send(&Refusal{Class: tidegate.ClassOf(err), Text: err.Error(), Hint: tidegate.HintOf(err)})
	return errors.Join(sendErr, c.Close())
}

func (m *Refusal) err() error {
	cause := errors.New(m.Text)
	if m.Class == tidegate.Fenced {
		cause = fmt.Errorf("%s: %w", m.Text, tidegate.ErrFenced)
	}
	return &tidegate.Error{Op: "local session", Class: m.Class, Hint: m.Hint, Err: cause}
}

// FindingOf makes the message of what keeps a library from its work; of nil, the one
// that takes it back. What may pass by itself is a warning.
func FindingOf(err error) *Finding {
	if err == nil {
		return &Finding{}
	}
	severity := SeverityCritical
	if tidegate.ClassOf(err) == tidegate.Transient {
		severity = SeverityWarning
	}
	return &Finding{Severity: severity, Class: tidegate.ClassOf(err), Text: err.Error(), Hint: tidegate.HintOf(err)}
}

// Err returns the finding as the receiver's error; nil when it takes one back.
func (m *Finding) Err() error {
	if m.Text == "" {
		return nil
	}
	return &tidegate.Error{Op: "library", Class: m.Class, Hint: m.Hint, Err: errors.New(m.Text)}
}

// CheckKind is for the check of [Conn.Serve]: it refuses a library of another
// store than the stream's, and one that a drill has promoted.
func (m Hello) CheckKind(store string) error {
	if m.Lineage.IsDrill() {
		return &tidegate.Error{
			Op: "serve library of", Subject: m.Dir, Class: tidegate.Refused, Err: fmt.Errorf("its journal was promoted by a drill: %s", m.Lineage),
			Hint: "a sandbox's data folder never becomes a live one: start the service with its own",
		}
	}
	if m.Kind == store {
		return nil
	}
	return &tidegate.Error{
		Op: "serve library of", Subject: fmt.Sprintf("%s/%s", m.Service, m.Stream), Class: tidegate.Misuse,
		Err:  fmt.Errorf("it is of kind %q, the stream's store is %q: %w", m.Kind, store, tidegate.ErrUnsupported),
		Hint: "the daemon's configuration and what connects to it must be of one store",
	}
}

// Dial connects to a daemon's socket and introduces the library; the versions
// in h are filled in. The error of a daemon that is not there is transient.
func Dial(ctx context.Context, path string, h Hello) (*Conn, Welcome, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, Welcome{}, &tidegate.Error{Op: "dial", Subject: path, Class: tidegate.Transient, Err: err}
	}
	c := NewConn(nc)
	w, err := c.greet(ctx, h)
	if err != nil {
		return nil, Welcome{}, errors.Join(fmt.Errorf("greet %s: %w", path, err), c.Close())
	}
	return c, w, nil
}

func (c *Conn) greet(ctx context.Context, h Hello) (Welcome, error) {
	stop := c.bound(ctx)
	defer stop()
	h.VersionMin, h.VersionMax = VersionMin, VersionMax
	if err := c.Send(&h); err != nil {
		return Welcome{}, err
	}
	m, err := c.Recv()
	if err != nil {
		return Welcome{}, err
	}
	w, ok := m.(*Welcome)
	if !ok {
		return Welcome{}, fmt.Errorf("%w: %T where a welcome was due", wire.ErrMessage, m)
	}
	if w.Version < VersionMin || w.Version > VersionMax {
		return Welcome{}, fmt.Errorf("version %d chosen: %w", w.Version, tidegate.ErrUnsupported)
	}
	return *w, c.nc.SetDeadline(time.Time{})
}

// bound lets ctx cut a handshake short: its deadline and its cancellation.
func (c *Conn) bound(ctx context.Context) (stop func() bool) {
	if t, ok := ctx.Deadline(); ok {
		_ = c.nc.SetDeadline(t) // a connection that cannot be bounded fails at its first read
	}
	return context.AfterFunc(ctx, func() { _ = c.nc.SetDeadline(time.Unix(1, 0)) })
}

// Listener accepts libraries on one stream's socket.
type Listener struct {
	l *net.UnixListener
}

// Listen creates the socket with mode 0660, and its directory if missing. A
// socket file left by a dead process is removed, but only after nobody has
// answered on it: two daemons never share a stream.
func Listen(path string) (*Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // services of other users must reach the socket
		return nil, fmt.Errorf("listen %s: %w", path, err)
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listen %s: %w", path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o660); err != nil { //nolint:gosec // the group is who may speak for the service
		return nil, errors.Join(fmt.Errorf("listen %s: %w", path, err), l.Close())
	}
	return &Listener{l: l}, nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("exists and is not a socket: %w", tidegate.ErrConflict)
	}
	nc, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = nc.Close() // only asked whether somebody is there
		return &tidegate.Error{
			Op: "take socket", Class: tidegate.Misuse, Err: tidegate.ErrConflict,
			Hint: "another daemon serves this stream on this machine; stop it first",
		}
	}
	return os.Remove(path)
}

// Accept waits for a connection. The handshake is the caller's: [Conn.Serve].
func (l *Listener) Accept() (*Conn, error) {
	nc, err := l.l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	wire.Widen(nc, wire.WideBytes) // a backlog of batches goes through
	return NewConn(nc), nil
}

// Addr returns the socket's path.
func (l *Listener) Addr() string { return l.l.Addr().String() }

// Close stops accepting and removes the socket.
func (l *Listener) Close() error { return l.l.Close() }

// Serve does the daemon's half of the handshake. check decides whether to take
// the library; its error is sent as a [Refusal]. The version in w is filled in.
// On error the connection is closed.
func (c *Conn) Serve(ctx context.Context, w Welcome, check func(Hello) error) (Hello, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	stop := c.bound(ctx)
	defer stop()
	h, err := c.hello()
	if err == nil {
		w.Version, err = choose(h)
	}
	if err == nil && check != nil {
		err = check(h)
	}
	if err != nil {
		return Hello{}, errors.Join(fmt.Errorf("serve library: %w", err), c.Refuse(err))
	}
	if err := errors.Join(c.Send(&w), c.nc.SetDeadline(time.Time{})); err != nil {
		return Hello{}, errors.Join(fmt.Errorf("serve library: %w", err), c.Close())
	}
	return h, nil
}

func (c *Conn) hello() (Hello, error) {
	m, err := c.Recv()
	if err != nil {
		return Hello{}, err
	}
	h, ok := m.(*Hello)
	if !ok {
		return Hello{}, fmt.Errorf("%w: %T where a hello was due", wire.ErrMessage, m)
	}
	return *h, nil
}

func choose(h Hello) (uint16, error) {
	v := min(h.VersionMax, VersionMax)
	if v < max(h.VersionMin, VersionMin) {
		return 0, fmt.Errorf("library speaks versions %d to %d, this daemon %d to %d: %w",
			h.VersionMin, h.VersionMax, VersionMin, VersionMax, tidegate.ErrUnsupported)
	}
	return v, nil
}
