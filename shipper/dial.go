package shipper

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/wire"
	"github.com/tidegate/tidegate/rpo"
)

// Dialer opens sessions. It is a value; all of it may be shared.
type Dialer struct {
	TLS      *tls.Config // both certificates' checks, see internal/pki; never nil
	Clock    clock.Clock // never nil
	Limits   Limits      // after SetDefaults
	Features []string    // optional parts offered; version 1 defines none
	// Connect opens the byte stream; nil means TCP.
	Connect func(ctx context.Context, addr string) (net.Conn, error)
}

// Conn is the dialer's end of a session. One goroutine receives, one ships
// batches, any number may send the rest.
type Conn struct {
	*session
	as       As
	node     tidegate.NodeName
	version  uint16
	features []string

	granted atomic.Int64  // credit in bytes since the session began
	sent    int64         // of batches; belongs to the goroutine that calls Send
	credit  chan struct{} // a grant has arrived; capacity 1

	clocks   sync.Mutex
	offsets  rpo.ClockOffset
	wall     time.Duration    // acceptor's wall clock - ours, at the newest sample
	answered tidegate.Instant // see Answered

	wg sync.WaitGroup
}

// Dial connects to addr, negotiates and attaches. A refusal comes back as a
// *tidegate.Error that holds a *[Refusal] and unwraps to tidegate.ErrFenced,
// ErrDiverged, ErrGap, ErrFull, ErrUnsupported or ErrNotFound; every other
// trouble on the way is transient, save a certificate that either side turned
// away. ctx bounds the dialling only; the session ends by Close.
func (d Dialer) Dial(ctx context.Context, addr string, a Attach) (*Conn, Attached, error) {
	c, body, err := d.dial(ctx, addr, a.As.String(), request{typeAttach, a.append(nil), typeAttached, ""})
	if err != nil {
		return nil, Attached{}, err
	}
	c.as = a.As
	attached, err := parseAttached(body)
	if err != nil {
		err = c.malformed(err)
		_ = c.close("") // the error says more
		return nil, Attached{}, fmt.Errorf("attach to %s as %s: %w", addr, a.As, err)
	}
	c.granted.Store(attached.Credit)
	c.wg.Go(c.keepalive)
	return c, attached, nil
}

// request is how a session is bound to something, and how the yes is called.
type request struct {
	kind  wire.Type
	body  []byte
	reply wire.Type
	needs string // optional part that the node must have; empty: none
}

// dial connects, negotiates and sends the request. The reply's bytes are the
// session's until the first Recv.
func (d Dialer) dial(ctx context.Context, addr, as string, req request) (*Conn, []byte, error) {
	c, ctx, cancel, err := d.connect(ctx, addr)
	if err != nil {
		return nil, nil, err
	}
	defer cancel()
	body, err := c.handshake(ctx, d.Features, req)
	if err != nil {
		_ = c.close("") // the handshake's error says more
		return nil, nil, fmt.Errorf("attach to %s as %s: %w", addr, as, err)
	}
	return c, body, nil
}

// connect opens the byte stream. The context that it gives bounds the handshake.
func (d Dialer) connect(ctx context.Context, addr string) (*Conn, context.Context, context.CancelFunc, error) {
	l := d.Limits.SetDefaults()
	ctx, cancel := context.WithTimeout(ctx, l.HandshakeTimeout)
	connect := d.Connect
	if connect == nil {
		connect = dialTCP
	}
	nc, err := connect(ctx, addr)
	if err != nil {
		cancel()
		return nil, nil, nil, &tidegate.Error{Op: "dial", Subject: addr, Class: tidegate.Transient, Err: err}
	}
	raw := &timedConn{Conn: nc, idle: l.IdleTimeout}
	s := newSession(raw, tls.Client(raw, tlsConfig(d.TLS)), l, d.Clock)
	return &Conn{session: s, credit: make(chan struct{}, 1)}, ctx, cancel, nil
}

func dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr)
}

// Probe asks whether an acceptor answers at addr: it connects, negotiates and goes. A
// nil error says that bytes cross both ways, and that both certificates are good.
func (d Dialer) Probe(ctx context.Context, addr string) error {
	c, ctx, cancel, err := d.connect(ctx, addr)
	if err != nil {
		return err
	}
	defer cancel()
	defer func() { _ = c.close("") }() // nothing is under way
	stop := c.bound(ctx)
	defer stop()
	if _, err := c.negotiate(ctx, d.Features); err != nil {
		return fmt.Errorf("ask %s: %w", addr, err)
	}
	return nil
}

func (c *Conn) handshake(ctx context.Context, features []string, req request) ([]byte, error) {
	stop := c.bound(ctx)
	defer stop()
	w, err := c.negotiate(ctx, features)
	if err != nil {
		return nil, err
	}
	c.node, c.version, c.features = w.node, w.version, common(features, w.features)
	if req.needs != "" && !slices.Contains(c.features, req.needs) {
		return nil, &tidegate.Error{
			Op: "attach to", Subject: string(w.node), Class: tidegate.Permanent, Hint: "upgrade the node",
			Err: fmt.Errorf("it does not have %q, which this takes: %w", req.needs, tidegate.ErrUnsupported),
		}
	}
	if err := c.send(req.kind, req.body); err != nil {
		return nil, err
	}
	return c.expect(req.reply)
}

// negotiate finds out who answers, and what both ends speak.
func (c *Conn) negotiate(ctx context.Context, features []string) (w welcome, err error) {
	if err := c.tls.HandshakeContext(ctx); err != nil {
		// The reason of our own check travels inside the handshake's error.
		if own, ok := errors.AsType[*tidegate.Error](err); ok {
			return w, own
		}
		return w, c.lost("handshake", err)
	}
	if c.peer, err = peerIdentity(c.tls.ConnectionState()); err != nil {
		return w, err
	}
	h := hello{min: VersionMin, max: VersionMax, features: features}
	if err := c.send(typeHello, h.append(nil)); err != nil {
		return w, err
	}
	body, err := c.expect(typeWelcome)
	if err != nil {
		return w, err
	}
	if w, err = parseWelcome(body); err != nil {
		return w, c.malformed(err)
	}
	if w.version < VersionMin || w.version > VersionMax {
		return w, c.malformed(fmt.Errorf("version %d chosen, offered %d to %d", w.version, VersionMin, VersionMax))
	}
	return w, nil
}

// Node returns the acceptor's name.
func (c *Conn) Node() tidegate.NodeName { return c.node }

// Peer returns whom the acceptor's certificate speaks for.
func (c *Conn) Peer() tidegate.Identity { return c.peer }

// Features returns the optional parts that both ends have.
func (c *Conn) Features() []string { return c.features }

// Answered returns when, on this end's boot clock, the newest time exchange began that
// the acceptor has answered; 0 before the first. It has read by then what was sent before.
func (c *Conn) Answered() tidegate.Instant {
	c.clocks.Lock()
	defer c.clocks.Unlock()
	return c.answered
}

// Send ships one sealed batch, unchanged; sealed is only read, and is free
// again when Send returns. It waits for credit until ctx ends, and while a
// write in flight holds the queue full; [Conn.Recv] must be running to see
// grants. The batch leaves with the next Flush, or when Send has to wait.
// After an error the reason is in what Recv returns.
func (c *Conn) Send(ctx context.Context, sealed []byte) error {
	if n := len(sealed); n > c.limits.BatchBytesMax {
		return &tidegate.Error{
			Op: "ship batch", Subject: fmt.Sprintf("of %d bytes", n), Class: tidegate.Misuse,
			Hint: "raise batch_bytes_max on both ends",
			Err:  fmt.Errorf("larger than the session's limit of %d", c.limits.BatchBytesMax),
		}
	}
	c.sent += int64(len(sealed))
	for c.sent > c.granted.Load() {
		// The acceptor grants only for what it has been given.
		if err := c.flush(); err != nil {
			return err
		}
		select {
		case <-c.credit:
		case <-ctx.Done():
			c.sent -= int64(len(sealed))
			return ctx.Err()
		case <-c.ended:
			return c.lost("ship batch", net.ErrClosed)
		}
	}
	if err := c.w.Put(typeBatch, sealed); err != nil {
		return c.lost("ship batch", err)
	}
	return nil
}

// Flush starts writing what Send queued; it does not wait for a write that is
// in flight already.
func (c *Conn) Flush() error { return c.flush() }

// SendCommit spreads the writer's commit: seq is durable on W nodes. It goes
// out at once, behind the batches queued before.
func (c *Conn) SendCommit(seq tidegate.Seq) error { return c.sendCommit(seq) }

// SendBeacon sends the writer's, or as a relay the forwarded, beacon.
func (c *Conn) SendBeacon(k Beacon) error { return c.sendBeacon(k) }

// Recv waits for the next event: *AckEvent, *LeaseEvent, *FeedbackEvent and
// *OffsetEvent for a writer or relay, *HeaderEvent, *CommitEvent and *BeaconEvent for an observer,
// *BatchEvent for a reader. Its error ends the session: a refusal as by
// [Dialer.Dial], or the loss of the peer, which is transient.
func (c *Conn) Recv() (Event, error) {
	for {
		t, body, err := c.r.Next()
		if err != nil {
			return nil, c.lost("session with", err)
		}
		switch t {
		case typeCredit:
			err = c.grant(body)
		case typeTimeReply:
			var ev Event
			if ev, err = c.timeReply(body); ev != nil {
				return ev, nil
			}
		default:
			return c.event(t, body)
		}
		if err != nil {
			return nil, err
		}
	}
}

func (c *Conn) event(t wire.Type, body []byte) (Event, error) {
	ships := c.as.Ships()
	switch {
	case c.as == asBase && isBase(t):
		return c.baseEvent(t, body), nil
	case t == typeAck && ships:
		return c.ackEvent(body)
	case t == typeLeaseGrant && ships:
		return c.leaseEvent(body)
	case t == typeFeedback && ships:
		return c.feedbackEvent(body)
	case t == typeBatch && c.as == AsReader:
		return c.batchEvent(body)
	case t == typeHeader && c.as == AsObserver:
		return c.headerEvent(body)
	case t == typeCommit && c.as.watches():
		return c.commitEvent(body)
	case t == typeBeacon && c.as.watches():
		return c.beaconEvent(body)
	case t == typeRefusal:
		return nil, c.refused("session with", body)
	case t == typeClose:
		return nil, c.closed(body)
	}
	return nil, c.unexpected(t)
}

func (c *Conn) grant(body []byte) error {
	d := wire.NewDecoder(body)
	total := d.I64()
	if err := finish(&d, "credit"); err != nil {
		return c.malformed(err)
	}
	if total < c.granted.Load() {
		return c.malformed(fmt.Errorf("credit of %d bytes after %d", total, c.granted.Load()))
	}
	c.granted.Store(total)
	select {
	case c.credit <- struct{}{}:
	default:
	}
	return nil
}

// keepalive exchanges times until the session ends. The exchange is also what
// keeps both ends from taking a quiet stream for a dead peer. owned by Close.
func (c *Conn) keepalive() {
	tick := time.NewTicker(c.limits.KeepaliveEvery)
	defer tick.Stop()
	for {
		now := c.clk.Boot()
		c.clocks.Lock()
		theta, within, known := c.offsets.Estimate(now)
		wall := c.wall
		c.clocks.Unlock()
		var buf [33]byte
		b := wire.AppendI64(buf[:0], int64(now))
		b = wire.AppendBool(b, known)
		b = wire.AppendI64(b, int64(theta))
		b = wire.AppendI64(b, int64(within))
		b = wire.AppendI64(b, int64(wall))
		if c.send(typeTimeRequest, b) != nil {
			return // Recv reports it
		}
		select {
		case <-c.ended:
			return
		case <-tick.C:
		}
	}
}

func (c *Conn) timeReply(body []byte) (Event, error) {
	d := wire.NewDecoder(body)
	sample := rpo.TimeSample{Sent: tidegate.Instant(d.I64()), Received: tidegate.Instant(d.I64()), Answered: tidegate.Instant(d.I64())}
	theirs := d.I64()
	if err := finish(&d, "time reply"); err != nil {
		return nil, c.malformed(err)
	}
	ours := c.clk.Wall().UnixNano()
	sample.Returned = c.clk.Boot()
	c.clocks.Lock()
	defer c.clocks.Unlock()
	c.answered = max(c.answered, min(sample.Sent, sample.Returned)) // a peer cannot answer what was not asked
	c.offsets.Add(sample)
	theta, within, known := c.offsets.Estimate(sample.Returned)
	if !known {
		return nil, nil //nolint:nilnil // a sample that contradicts itself; see Recv
	}
	// The reply was on the road for half of the round trip, give or take within.
	road := int64(sample.Returned-sample.Sent) - int64(sample.Answered-sample.Received)
	c.wall = time.Duration(theirs + road/2 - ours)
	c.offset = OffsetEvent{Offset: theta, Err: within, Wall: c.wall}
	return &c.offset, nil
}

// Close ends the session at once, also while I/O hangs: every blocked call
// returns an error that wraps net.ErrClosed. It is idempotent.
func (c *Conn) Close() error {
	err := c.close("dialer closes")
	c.wg.Wait()
	return err
}
