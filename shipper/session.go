package shipper

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/wire"
)

// goodbyeTimeout bounds how long a close or a refusal waits for a peer that
// does not read.
const goodbyeTimeout = 250 * time.Millisecond

// timedConn gives every read and write a deadline of its own: progress, not
// duration, keeps a session alive.
type timedConn struct {
	net.Conn
	idle        time.Duration
	hurry       atomic.Bool // the session is ending: goodbyeTimeout instead of idle
	interrupted atomic.Bool // reads return at once
}

func (c *timedConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.patience())); err != nil {
		return 0, err
	}
	// Asked after the deadline was set: interrupt does the two in the other
	// order, so that one of them is seen.
	if c.interrupted.Load() {
		return 0, os.ErrDeadlineExceeded
	}
	return c.Conn.Read(p)
}

func (c *timedConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.patience())); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c *timedConn) patience() time.Duration {
	if c.hurry.Load() {
		return goodbyeTimeout
	}
	return c.idle
}

// session is what both ends have in common: framing, names and an end.
type session struct {
	raw    *timedConn
	tls    *tls.Conn
	r      *wire.Reader
	w      *wire.Writer
	limits Limits
	clk    clock.Clock
	peer   tidegate.Identity
	names  interner

	ended chan struct{} // closed when close begins
	once  sync.Once
	cause atomic.Pointer[error] // given to interrupt

	// Reused for what Recv returns.
	ack      AckEvent
	bat      BatchEvent
	head     HeaderEvent
	commit   CommitEvent
	beacon   BeaconEvent
	lease    LeaseEvent
	feedback FeedbackEvent
	offset   OffsetEvent
	base     baseEvent
}

func newSession(raw *timedConn, conn *tls.Conn, l Limits, clk clock.Clock) *session {
	return &session{
		raw: raw, tls: conn, limits: l, clk: clk,
		r:     wire.NewReader(conn, l.BatchBytesMax),
		w:     wire.NewWriter(conn, l.PendingBytesMax),
		ended: make(chan struct{}),
	}
}

// tlsConfig is cfg with what the session insists on.
func tlsConfig(cfg *tls.Config) *tls.Config {
	cfg = cfg.Clone()
	cfg.MinVersion = tls.VersionTLS13
	// Full records from the first byte: the crossing carries bulk, and a
	// sealed batch is of use only when it is whole.
	cfg.DynamicRecordSizingDisabled = true
	return cfg
}

// peerIdentity reads whom the verified certificate speaks for.
func peerIdentity(cs tls.ConnectionState) (tidegate.Identity, error) {
	if len(cs.PeerCertificates) == 0 {
		return tidegate.Identity{}, Refuse(CodeRole, "no certificate shown")
	}
	for _, u := range cs.PeerCertificates[0].URIs {
		if u.Scheme == "tidegate" {
			return tidegate.ParseIdentity(u.String())
		}
	}
	return tidegate.Identity{}, Refuse(CodeRole, "certificate without URI SAN tidegate://<cluster>/<site>/<role>/<name>")
}

// expect reads one frame, which must be of type t or a refusal.
func (s *session) expect(t wire.Type) ([]byte, error) {
	got, body, err := s.r.Next()
	switch {
	case err != nil:
		return nil, s.lost("read", err)
	case got == t:
		return body, nil
	case got == typeRefusal:
		return nil, s.refused("attach", body)
	}
	return nil, s.unexpected(got)
}

func (s *session) unexpected(t wire.Type) error {
	return &tidegate.Error{
		Op: "session with", Subject: s.peer.String(), Class: tidegate.Misuse,
		Err: Refuse(CodeProtocol, "message %d out of place", t),
	}
}

func (s *session) refused(op string, body []byte) error {
	r, err := parseRefusal(body)
	if err != nil {
		return s.malformed(err)
	}
	return r.arrived(op, s.peer.String())
}

func (s *session) malformed(err error) error {
	return &tidegate.Error{
		Op: "session with", Subject: s.peer.String(), Class: tidegate.Misuse,
		Err: errors.Join(Refuse(CodeProtocol, "%v", err), err),
	}
}

// lost classifies the end of the connection. Losing a peer is transient, save
// that it turned our certificate away or does not speak the protocol.
func (s *session) lost(op string, err error) error {
	class, hint := tidegate.Transient, ""
	// crypto/tls keeps the type of a received alert to itself.
	alert, isAlert := errors.AsType[*net.OpError](err)
	isAlert = isAlert && alert.Op == "remote error"
	if cause := s.cause.Load(); cause != nil {
		return *cause
	}
	switch {
	case s.isEnded():
		err = net.ErrClosed
	case isAlert:
		class = tidegate.Refused
		hint = "the peer turned this node's certificate away; `tidegate doctor` compares both"
		err = fmt.Errorf("certificate refused: %w", err)
	case errors.Is(err, wire.ErrFrame), errors.Is(err, wire.ErrTooLarge):
		class = tidegate.Misuse
		err = errors.Join(Refuse(CodeProtocol, "%v", err), err)
	case errors.Is(err, io.EOF):
		err = fmt.Errorf("peer is gone: %w", err)
	}
	return &tidegate.Error{Op: op, Subject: s.peer.String(), Class: class, Hint: hint, Err: err}
}

func (s *session) isEnded() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// send puts one frame and starts writing what is pending.
func (s *session) send(t wire.Type, parts ...[]byte) error {
	if err := s.w.Send(t, parts...); err != nil {
		return s.lost("write", err)
	}
	return nil
}

func (s *session) flush() error {
	if err := s.w.Flush(); err != nil {
		return s.lost("write", err)
	}
	return nil
}

// close ends the session; reason, if any, is told to a peer that reads. It
// waits for a write, its own or one in flight, for twice goodbyeTimeout at most.
func (s *session) close(reason string) error {
	var err error
	s.once.Do(func() {
		close(s.ended)
		// A write that hangs would otherwise have the whole idle timeout left.
		s.hasten()
		// Nor does a connection get more time that overlooks its deadline.
		late := time.AfterFunc(2*goodbyeTimeout, func() { _ = s.raw.Close() }) // below it is closed in any case
		defer late.Stop()
		if reason != "" {
			_ = s.w.Put(typeClose, wire.AppendString(nil, cut(reason))) // best effort: the peer also notices the end itself
			_ = s.w.Drain()                                             // the same; another write may be in flight
		}
		s.w.Fail(net.ErrClosed)
		if err = s.raw.Close(); errors.Is(err, net.ErrClosed) {
			err = nil
		}
	})
	return err
}

// interrupt makes the receiving goroutine's Recv return err, now or at its next
// call, and lets no write wait for long. The connection stays open, so that err
// can still be told to the peer.
func (s *session) interrupt(err error) {
	if !s.cause.CompareAndSwap(nil, &err) {
		return
	}
	s.hasten()
	s.raw.interrupted.Store(true)
	_ = s.raw.SetReadDeadline(time.Unix(1, 0)) // fails only on a closed connection
}

// hasten shortens the patience with the peer: the session is about to end.
func (s *session) hasten() {
	s.raw.hurry.Store(true)
	_ = s.raw.SetWriteDeadline(time.Now().Add(goodbyeTimeout)) // fails only on a closed connection
}

// closed turns a received close into an error.
func (s *session) closed(body []byte) error {
	d := wire.NewDecoder(body)
	reason := d.String(messageBytesMax)
	if err := finish(&d, "close"); err != nil {
		return s.malformed(err)
	}
	return &tidegate.Error{Op: "session with", Subject: s.peer.String(), Class: tidegate.Transient, Err: fmt.Errorf("%w: %s", errPeerClosed, reason)}
}

// errPeerClosed is the end of a session whose peer has said goodbye: it waits
// for no answer.
var errPeerClosed = errors.New("closed by peer")

// bound closes the connection when ctx ends, for the handshake.
func (s *session) bound(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = s.raw.Close() }) // the blocked call reports it
}

func (s *session) batchEvent(body []byte) (Event, error) {
	if len(body) < batch.HeaderSize {
		return nil, s.malformed(fmt.Errorf("batch of %d bytes", len(body)))
	}
	h, err := batch.ParseHeader(body[:batch.HeaderSize])
	if err != nil {
		return nil, fmt.Errorf("receive batch from %s: %w", s.peer.Name, err)
	}
	if len(body) != batch.HeaderSize+int(h.StoredLen) {
		return nil, fmt.Errorf("receive batch %s from %s: %w", h.Seq, s.peer.Name,
			&tidegate.CorruptError{Path: "session", Offset: -1, What: fmt.Sprintf("%d bytes, header says %d", len(body), batch.HeaderSize+int(h.StoredLen))})
	}
	s.bat = BatchEvent{Header: h, Sealed: body}
	return &s.bat, nil
}

func (s *session) baseEvent(t wire.Type, body []byte) Event {
	s.base = baseEvent{t, body}
	return &s.base
}

func (s *session) headerEvent(body []byte) (Event, error) {
	h, err := batch.ParseHeader(body)
	if err != nil {
		return nil, fmt.Errorf("receive header from %s: %w", s.peer.Name, err)
	}
	s.head = HeaderEvent{Header: h}
	return &s.head, nil
}

func (s *session) commitEvent(body []byte) (Event, error) {
	d := wire.NewDecoder(body)
	s.commit = CommitEvent{Seq: tidegate.Seq(d.U64())}
	if err := finish(&d, "commit"); err != nil {
		return nil, s.malformed(err)
	}
	return &s.commit, nil
}

func (s *session) beaconEvent(body []byte) (Event, error) {
	k, err := parseBeacon(body)
	if err != nil {
		return nil, s.malformed(err)
	}
	s.beacon = BeaconEvent{Beacon: k}
	return &s.beacon, nil
}

func (s *session) ackEvent(body []byte) (Event, error) {
	a, err := parseAck(body, &s.names)
	if err != nil {
		return nil, s.malformed(err)
	}
	s.ack = AckEvent{Ack: a}
	return &s.ack, nil
}

func (s *session) leaseEvent(body []byte) (Event, error) {
	g, err := parseLeaseGrant(body)
	if err != nil {
		return nil, s.malformed(err)
	}
	s.lease = LeaseEvent{Grant: g}
	return &s.lease, nil
}

func (s *session) feedbackEvent(body []byte) (Event, error) {
	f, err := parseFeedback(body)
	if err != nil {
		return nil, s.malformed(err)
	}
	s.feedback = FeedbackEvent{Feedback: f}
	return &s.feedback, nil
}

func (s *session) sendCommit(seq tidegate.Seq) error {
	var buf [8]byte
	return s.send(typeCommit, wire.AppendU64(buf[:0], uint64(seq)))
}

func (s *session) sendBeacon(k Beacon) error {
	var buf [96]byte
	return s.send(typeBeacon, k.append(buf[:0]))
}

// interner keeps one copy of each node's name, so that an ack allocates nothing.
type interner struct{ names [MembersMax]tidegate.NodeName }

func (in *interner) name(b []byte) tidegate.NodeName {
	for i, n := range in.names {
		if n == "" {
			in.names[i] = tidegate.NodeName(b)
			return in.names[i]
		}
		if string(n) == string(b) {
			return n
		}
	}
	return tidegate.NodeName(b)
}

func appendAck(b []byte, a fence.Ack) []byte {
	b = wire.AppendString(b, string(a.Node))
	b = wire.Append16(b, a.Incarnation)
	b = wire.AppendU64(b, uint64(a.Epoch))
	b = wire.AppendU64(b, uint64(a.Received))
	b = wire.AppendU64(b, uint64(a.Durable))
	b = wire.Append16(b, a.Chain)
	b = wire.AppendU64(b, uint64(a.Stored))
	b = wire.AppendU64(b, uint64(a.Applied))
	b = wire.AppendU64(b, uint64(a.AppliedAt))
	return wire.AppendU64(b, a.Stamp)
}

func parseAck(body []byte, names *interner) (a fence.Ack, err error) {
	d := wire.NewDecoder(body)
	n := d.Count(nameBytesMax)
	name := d.Raw(n)
	a.Incarnation = d.Array16()
	a.Epoch = tidegate.Epoch(d.U64())
	a.Received = tidegate.Seq(d.U64())
	a.Durable = tidegate.Seq(d.U64())
	a.Chain = d.Array16()
	a.Stored = tidegate.Seq(d.U64())
	a.Applied = tidegate.Seq(d.U64())
	a.AppliedAt = tidegate.Position(d.U64())
	a.Stamp = d.U64()
	if a.Durable > a.Stored || a.Stored > a.Received {
		d.Fail("durable %s, stored %s, received %s: want none beyond the next", a.Durable, a.Stored, a.Received)
	}
	if err := finish(&d, "ack"); err != nil {
		return fence.Ack{}, err
	}
	a.Node = names.name(name)
	return a, tidegate.ValidName(string(a.Node))
}
