package shipper

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/wire"
)

// Handler decides on sessions and serves them.
type Handler interface {
	// Attach serves one session until it ends, on a goroutine of its own. The
	// peer's role has been checked against a.As, nothing else. It calls
	// [ServerConn.Accept] or returns why not; an error, before or after, is
	// sent to the peer as a [Refusal] unless the session is already gone.
	// When it returns the session is closed. ctx ends when the server stops.
	Attach(ctx context.Context, peer tidegate.Identity, a Attach, conn *ServerConn) error
}

// BaseHandler is a Handler that also takes and gives bases; a Server offers
// [FeatureBase] when its handler is one.
type BaseHandler interface {
	// AttachBase serves one session for a base until it ends; all else as with
	// Attach. It calls [ServerConn.AcceptBase] or returns why not.
	AttachBase(ctx context.Context, peer tidegate.Identity, a BaseAttach, conn *ServerConn) error
}

// ServerConfig is what a Server needs to know.
type ServerConfig struct {
	TLS      *tls.Config       // both certificates' checks, see internal/pki
	Node     tidegate.NodeName // this node's name
	Limits   Limits            // after SetDefaults
	Features []string          // optional parts on offer; version 1 defines none
	Clock    clock.Clock
	Log      *slog.Logger
	// Refused is called once per refusal that was sent; may be nil.
	Refused func(Code)
}

// PeerAware is implemented by a connection of the listener that has to know when its
// handshake is over: PeerKnown is called once the peer has shown a certificate by which
// it may attach, before the handler is asked, on the session's goroutine.
type PeerAware interface{ PeerKnown() }

// Server accepts sessions on one listener.
type Server struct {
	cfg     ServerConfig
	handler Handler
	bases   BaseHandler // nil where the handler is none
	open    atomic.Int64
}

// NewServer does no I/O.
func NewServer(cfg ServerConfig, h Handler) (*Server, error) {
	cfg.Limits = cfg.Limits.SetDefaults()
	if err := cfg.Limits.Validate(); err != nil {
		return nil, fmt.Errorf("ship limits: %w", err)
	}
	if cfg.Refused == nil {
		cfg.Refused = func(Code) {}
	}
	bases, _ := h.(BaseHandler)
	return &Server{cfg: cfg, handler: h, bases: bases}, nil
}

// Serve accepts until ctx ends, then closes every session, waits for the
// handlers and returns nil. It closes ln. Another error is the listener's.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var sessions sync.WaitGroup
	defer sessions.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() }) // Accept reports it
	defer stop()
	for {
		nc, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return errors.Join(fmt.Errorf("accept on %s: %w", ln.Addr(), err), ln.Close())
		}
		if s.open.Add(1) > int64(s.cfg.Limits.ConnectionsMax) {
			s.open.Add(-1)
			s.cfg.Refused(CodeStopping)
			s.cfg.Log.Warn("connection limit reached", "peer", nc.RemoteAddr().String(), "limit", s.cfg.Limits.ConnectionsMax)
			_ = nc.Close() // nothing was exchanged
			continue
		}
		sessions.Go(func() {
			defer s.open.Add(-1)
			s.serve(ctx, nc)
		})
	}
}

func (s *Server) serve(ctx context.Context, nc net.Conn) {
	raw := &timedConn{Conn: nc, idle: s.cfg.Limits.IdleTimeout}
	c := &ServerConn{session: newSession(raw, tls.Server(raw, tlsConfig(s.cfg.TLS)), s.cfg.Limits, s.cfg.Clock), node: s.cfg.Node}
	unwatch := context.AfterFunc(ctx, func() { _ = c.close("node is stopping") }) // Recv reports it
	defer unwatch()
	err := s.handshake(ctx, c)
	if aware, ok := nc.(PeerAware); ok && err == nil {
		aware.PeerKnown()
	}
	switch {
	case err != nil:
	case c.attach.As == asBase:
		err = s.bases.AttachBase(ctx, c.peer, c.base, c)
	default:
		err = s.handler.Attach(ctx, c.peer, c.attach, c)
	}
	s.finish(c, err)
}

// finish ends a session: with a refusal when there is a reason that the peer
// does not know yet, quietly when the connection is gone.
func (s *Server) finish(c *ServerConn, err error) {
	switch {
	case err == nil:
		_ = c.close("done") // best effort, like every goodbye
		return
	case c.isEnded() || errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, errPeerClosed) || errors.Is(err, syscall.ECONNRESET):
		_ = c.close("")
		return
	}
	r := RefusalOf(err)
	s.cfg.Refused(r.Code)
	s.cfg.Log.Info("session refused", "peer", c.peer.String(), "code", r.Code.String(), "err", err)
	c.refuse(r)
}

func (s *Server) handshake(ctx context.Context, c *ServerConn) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Limits.HandshakeTimeout)
	defer cancel()
	stop := c.bound(ctx)
	defer stop()
	if err := c.tls.HandshakeContext(ctx); err != nil {
		// The alert has been sent; there is no channel for a refusal.
		s.cfg.Refused(CodeRole)
		s.cfg.Log.Info("handshake failed", "peer", c.raw.RemoteAddr().String(), "err", err)
		return errors.Join(net.ErrClosed, err)
	}
	var err error
	if c.peer, err = peerIdentity(c.tls.ConnectionState()); err != nil {
		return err
	}
	body, err := c.expect(typeHello)
	if err != nil {
		return err
	}
	h, err := parseHello(body)
	if err != nil {
		return c.malformed(err)
	}
	w := welcome{version: min(h.max, VersionMax), node: s.cfg.Node, features: common(s.features(), h.features)}
	if w.version < max(h.min, VersionMin) {
		r := Refuse(CodeUnsupported, "peer speaks versions %d to %d, this node %d to %d", h.min, h.max, VersionMin, VersionMax)
		r.Hint = "upgrade the older of the two"
		return r
	}
	if err := c.send(typeWelcome, w.append(nil)); err != nil {
		return err
	}
	return c.expectAttach(slices.Contains(w.features, FeatureBase))
}

// features returns the optional parts on offer.
func (s *Server) features() []string {
	if s.bases == nil {
		return s.cfg.Features
	}
	return append(slices.Clone(s.cfg.Features), FeatureBase, FeatureBasePick)
}

// expectAttach reads what the session is for, and checks the peer's role.
func (c *ServerConn) expectAttach(bases bool) error {
	t, body, err := c.r.Next()
	if err != nil {
		return c.lost("read", err)
	}
	var permitted bool
	switch {
	case t == typeAttach:
		if c.attach, err = parseAttach(body); err != nil {
			return c.malformed(err)
		}
		permitted = c.attach.As.permits(c.peer.Role)
	case t == typeBaseAttach && bases:
		if c.base, err = parseBaseAttach(body); err != nil {
			return c.malformed(err)
		}
		c.attach.As = asBase
		permitted = c.base.Way.permits(c.peer.Role)
	case t == typeRefusal:
		return c.refused("attach", body)
	default:
		return c.unexpected(t)
	}
	if !permitted {
		r := Refuse(CodeRole, "role %s may not attach as %s", c.peer.Role, c.attach.As)
		if c.attach.As == asBase {
			r = Refuse(CodeRole, "role %s may not %s a base", c.peer.Role, c.base.Way)
		}
		r.Hint = "the certificate in use belongs to another kind of process"
		return r
	}
	return nil
}

// ServerConn is the acceptor's end of a session. One goroutine receives, any
// number may send.
type ServerConn struct {
	*session
	node   tidegate.NodeName
	attach Attach
	base   BaseAttach // where attach.As is asBase

	// Credit, in bytes of batches since the session began; the receiving
	// goroutine's, save granted.
	received  int64
	granted   int64
	announced int64
}

// Peer returns whom the dialer's certificate speaks for.
func (c *ServerConn) Peer() tidegate.Identity { return c.peer }

// Accept answers the attach with yes. Credit is filled in.
func (c *ServerConn) Accept(a Attached) error {
	a.Credit = 0
	if c.attach.As.Ships() {
		a.Credit = c.limits.CreditBytes
	}
	c.granted, c.announced = a.Credit, a.Credit
	a.Tail = a.Tail[max(0, len(a.Tail)-TailMax):]
	return c.send(typeAttached, a.append(nil))
}

// AcceptBase answers an attach to a base with yes.
func (c *ServerConn) AcceptBase(a BaseAttached) error { return c.send(typeBaseAttached, a.append(nil)) }

// Recv waits for the next event: *BatchEvent, *CommitEvent and *BeaconEvent
// from a writer or relay, *OffsetEvent from anybody. It answers time exchanges
// by itself, so somebody must be in it even where nothing is expected. Its
// error ends the session.
func (c *ServerConn) Recv() (Event, error) {
	for {
		t, body, err := c.r.Next()
		if err != nil {
			return nil, c.lost("session with", err)
		}
		ships := c.attach.As.Ships()
		switch {
		case c.attach.As == asBase && isBase(t):
			return c.baseEvent(t, body), nil
		case t == typeTimeRequest:
			ev, err := c.timeRequest(body)
			if ev != nil || err != nil {
				return ev, err
			}
		case t == typeBatch && ships:
			if c.received += int64(len(body)); c.received > c.granted {
				return nil, c.malformed(fmt.Errorf("%d bytes of batches sent, %d granted", c.received, c.granted))
			}
			return c.batchEvent(body)
		case t == typeCommit && ships:
			return c.commitEvent(body)
		case t == typeBeacon && ships:
			return c.beaconEvent(body)
		case t == typeClose:
			return nil, c.closed(body)
		default:
			return nil, c.unexpected(t)
		}
	}
}

// Buffered reports whether the next event has already been read from the
// connection, so that a receiver may append several batches with one write.
func (c *ServerConn) Buffered() bool { return c.r.Buffered() }

// Grant gives back the credit of n bytes of batches that no longer need
// memory. Called by the receiving goroutine; the peer is told in quarters of
// the window.
func (c *ServerConn) Grant(n int) error {
	c.granted += int64(n)
	if c.granted-c.announced < c.limits.CreditBytes/4 {
		return nil
	}
	c.announced = c.granted
	var buf [8]byte
	return c.send(typeCredit, wire.AppendI64(buf[:0], c.granted))
}

// SendAck queues a node's statement, this node's or another's unchanged; Flush
// sends it.
func (c *ServerConn) SendAck(a fence.Ack) error {
	var buf [160]byte
	if err := c.w.Put(typeAck, appendAck(buf[:0], a)); err != nil {
		return c.lost("send ack", err)
	}
	return nil
}

// SendLeaseGrant queues a node's grant, this node's or another's unchanged;
// Flush sends it.
func (c *ServerConn) SendLeaseGrant(g LeaseGrant) error {
	var buf [160]byte
	if err := c.w.Put(typeLeaseGrant, g.append(buf[:0])); err != nil {
		return c.lost("send lease grant", err)
	}
	return nil
}

// SendFeedback queues what a node's warm copy asks, this node's or another's
// unchanged; Flush sends it.
func (c *ServerConn) SendFeedback(f Feedback) error {
	var buf [160]byte
	if err := c.w.Put(typeFeedback, f.append(buf[:0])); err != nil {
		return c.lost("send feedback", err)
	}
	return nil
}

// SendBatch queues a whole batch for a reader; Flush sends it.
func (c *ServerConn) SendBatch(sealed []byte) error {
	if err := c.w.Put(typeBatch, sealed); err != nil {
		return c.lost("send batch", err)
	}
	return nil
}

// SendHeader queues the header of a sealed batch for an observer; Flush sends it.
func (c *ServerConn) SendHeader(header []byte) error {
	if err := c.w.Put(typeHeader, header); err != nil {
		return c.lost("send header", err)
	}
	return nil
}

// Flush starts writing what was queued.
func (c *ServerConn) Flush() error { return c.flush() }

// SendCommit passes the writer's commit on to an observer.
func (c *ServerConn) SendCommit(seq tidegate.Seq) error { return c.sendCommit(seq) }

// SendBeacon passes the writer's beacon on to an observer.
func (c *ServerConn) SendBeacon(k Beacon) error { return c.sendBeacon(k) }

// Interrupt makes Recv return err, now or at its next call, so that the handler
// returns it and the peer is told. May be called from any goroutine; the first
// error wins.
func (c *ServerConn) Interrupt(err error) { c.interrupt(err) }

// Hasten lets no write wait for long any more: the handler is about to return
// and its sending goroutines must not hold it up.
func (c *ServerConn) Hasten() { c.hasten() }

// timeRequest answers, and returns the dialer's estimate once it has one.
func (c *ServerConn) timeRequest(body []byte) (Event, error) {
	t1 := c.clk.Boot()
	d := wire.NewDecoder(body)
	t0, known := d.I64(), d.Bool()
	offset := OffsetEvent{Offset: time.Duration(d.I64()), Err: time.Duration(d.I64()), Wall: time.Duration(d.I64())}
	if err := finish(&d, "time request"); err != nil {
		return nil, c.malformed(err)
	}
	var buf [32]byte
	b := wire.AppendI64(wire.AppendI64(buf[:0], t0), int64(t1))
	b = wire.AppendI64(b, int64(c.clk.Boot()))
	if err := c.send(typeTimeReply, wire.AppendI64(b, c.clk.Wall().UnixNano())); err != nil {
		return nil, err
	}
	if !known {
		return nil, nil //nolint:nilnil // nothing to report yet, see Recv
	}
	c.offset = offset
	return &c.offset, nil
}

// lingerBytesMax bounds what is read and dropped after a refusal.
const lingerBytesMax = 64 << 20

// refuse sends r and waits a moment for the dialer to read it: closing with
// unread bytes would reset the connection, and the dialer would see its failed
// write instead of the reason.
func (c *ServerConn) refuse(r *Refusal) {
	c.hasten()
	c.raw.interrupted.Store(false)
	if c.send(typeRefusal, r.append(nil)) == nil {
		// Both calls fail only on a connection that is already gone.
		_ = c.tls.CloseWrite()
		_, _ = io.CopyN(io.Discard, c.tls, lingerBytesMax)
	}
	_ = c.close("")
}
