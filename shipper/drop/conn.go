package drop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
)

// conn is one end of a connection. What its user writes goes through a pipe, which
// also keeps the deadlines, to three goroutines: collect takes it over, put makes
// pieces of what has come together, and fetch writes what the other end has put into
// the pipe.
//
// Invariants:
//  1. pieces of a direction are put in the order of their numbers, each once, and the
//     next one only when it is certain that the one before is there
//  2. a piece is removed only after the user has read all of it
//  3. after the first failure nothing more is put or read: the user learns why
type conn struct {
	net.Conn // the user's end of the pipe

	d       *Drop
	node    tidegate.NodeName
	id      tidegate.ID
	out, in way
	cancel  context.CancelFunc
	cause   atomic.Pointer[error] // why it ended; nil: by a Close
	known   func()                // called when the peer is known; nil: nobody asks
	ended   func()                // called once when nothing of it runs any more; nil: nobody asks

	news chan struct{} // something is pending, or nothing will be; capacity 1
	room *sync.Cond    // pending has become shorter, or nobody will take it

	mu       sync.Mutex
	pending  []byte
	complete bool // the user has closed: pending is the last of it
	over     bool // put has ended
	answered bool // the other end has put something
	aborted  bool // what has not been read is to be taken back
	goodbye  *time.Timer
}

// open makes one end and starts it; known and ended may be nil.
func (d *Drop) open(node tidegate.NodeName, id tidegate.ID, out way, known, ended func()) *conn {
	user, inner := net.Pipe()
	ctx, cancel := context.WithCancel(context.Background()) // ends by Close, whatever asked for it has gone
	c := &conn{
		Conn: user, d: d, node: node, id: id, out: out, in: wayDown, cancel: cancel, known: known, ended: ended,
		news: make(chan struct{}, 1),
	}
	if out == wayDown {
		c.in = wayUp
	}
	c.room = sync.NewCond(&c.mu)
	var three sync.WaitGroup
	three.Add(3)
	run := func(what func()) { d.wg.Go(func() { defer three.Done(); what() }) }
	run(func() { c.collect(inner) })
	run(func() { c.put(ctx, inner) })
	run(func() { c.fetch(ctx, inner) })
	d.wg.Go(func() {
		three.Wait()
		c.tidy()
		if ended != nil {
			ended()
		}
	})
	return c
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, c.why(err)
}

// Write implements net.Conn. What it took is put in the background.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	return n, c.why(err)
}

// why is what has ended the connection in place of that it has ended.
func (c *conn) why(err error) error {
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe) {
		return err
	}
	if cause := c.cause.Load(); cause != nil {
		return *cause
	}
	return net.ErrClosed
}

// Close implements net.Conn. What was written before is still put, for FarewellMax.
func (c *conn) Close() error {
	c.mu.Lock()
	if c.goodbye == nil {
		c.goodbye = time.AfterFunc(FarewellMax, c.cancel)
	}
	c.mu.Unlock()
	return c.Conn.Close()
}

// abort is [Abort].
func (c *conn) abort() {
	c.mu.Lock()
	c.aborted, c.pending = true, nil
	c.mu.Unlock()
	c.cancel()
	_ = c.Conn.Close() // a pipe's does not fail
}

// PeerKnown implements [shipper.PeerAware].
func (c *conn) PeerKnown() {
	if c.known != nil {
		c.known()
	}
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return addr(c.d.String()) }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr {
	return addr(fmt.Sprintf("%s %s", c.d, connectionPrefix(c.node, c.id)))
}

// addr names a place in a bucket.
type addr string

func (addr) Network() string  { return "drop" }
func (a addr) String() string { return string(a) }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error { return c.why(c.Conn.SetDeadline(t)) }

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error { return c.why(c.Conn.SetReadDeadline(t)) }

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error { return c.why(c.Conn.SetWriteDeadline(t)) }

// endOfPeer is the cause of a connection whose other end was closed: its piece says so.
var endOfPeer error = io.EOF

// fail ends the connection; the first reason is the one that is told. The other end
// still hears of the end, if put can tell it.
func (c *conn) fail(inner net.Conn, err error) {
	c.cause.CompareAndSwap(nil, &err)
	_ = inner.Close() // a pipe's does not fail
}

// collect takes over what the user writes until the pipe is closed at either end.
func (c *conn) collect(inner net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := inner.Read(buf)
		c.mu.Lock()
		for len(c.pending) > 0 && len(c.pending)+n > PieceMax && !c.over {
			c.room.Wait()
		}
		c.pending = append(c.pending, buf[:n]...)
		c.complete = err != nil || c.over
		done := c.complete
		c.mu.Unlock()
		select {
		case c.news <- struct{}{}:
		default:
		}
		if done {
			return
		}
	}
}

// take waits for something to be put.
func (c *conn) take(ctx context.Context, into []byte) (piece []byte, last bool, err error) {
	for {
		c.mu.Lock()
		piece, c.pending = c.pending, into[:0]
		last = c.complete
		c.room.Signal()
		c.mu.Unlock()
		if len(piece) > 0 || last {
			return piece, last, nil
		}
		into = piece
		select {
		case <-ctx.Done():
			return nil, false, ctx.Err()
		case <-c.news:
		}
	}
}

// put makes pieces until the user has closed and all is there, or one cannot be put.
func (c *conn) put(ctx context.Context, inner net.Conn) {
	defer func() {
		c.mu.Lock()
		c.over = true
		if c.goodbye != nil {
			c.goodbye.Stop()
		}
		c.room.Signal()
		c.mu.Unlock()
		c.cancel() // nobody reads any more what comes
	}()
	var spare []byte
	for number := uint64(0); ; number++ {
		piece, last, err := c.take(ctx, spare)
		if err != nil {
			return // somebody else has failed, or the time is over
		}
		began := time.Now()
		if len(piece) > 0 {
			if err := c.putPiece(ctx, number, piece); err != nil {
				c.fail(inner, c.d.failed(ctx, err))
				return
			}
			c.d.moved.Add(uint64(len(piece)))
			spare = piece
		}
		if last {
			if len(piece) > 0 {
				number++
			}
			// The end. Without it the other end only waits longer.
			if err := c.putPiece(ctx, number, nil); err != nil && ctx.Err() == nil {
				c.d.failures.Add(1)
			}
			return
		}
		if sleep(ctx, c.d.cfg.Every-time.Since(began)) != nil {
			return
		}
	}
}

func (c *conn) putPiece(ctx context.Context, number uint64, piece []byte) error {
	_, err := c.d.b.Put(ctx, pieceName(c.node, c.id, c.out, number), bytes.NewReader(piece), bucket.PutOptions{IfAbsent: true})
	return err
}

// fetch gives the user what the other end has put, until its end or the user's.
func (c *conn) fetch(ctx context.Context, inner net.Conn) {
	for number := uint64(0); ; number++ {
		name := pieceName(c.node, c.id, c.in, number)
		piece, err := c.await(ctx, name)
		if err != nil {
			if ctx.Err() == nil {
				c.fail(inner, c.d.failed(ctx, err))
			}
			return
		}
		c.mu.Lock()
		c.answered = true
		c.mu.Unlock()
		c.d.moved.Add(uint64(len(piece)))
		if len(piece) > 0 { // or the user would read nothing
			_, err = inner.Write(piece)
		}
		// Also a piece that the user does not want any more: nobody else will read it.
		c.d.remove(ctx, name)
		if err != nil {
			return // the user has closed
		}
		if len(piece) == 0 {
			c.cause.CompareAndSwap(nil, &endOfPeer)
			_ = inner.Close() // a pipe's does not fail
			return
		}
	}
}

// await reads a piece once it is there. What fails transiently is tried again for as
// long as the user waits.
func (c *conn) await(ctx context.Context, name string) ([]byte, error) {
	for {
		piece, err := c.d.get(ctx, name)
		switch {
		case err == nil:
			return piece, nil
		case errors.Is(err, tidegate.ErrNotFound):
		case tidegate.ClassOf(err) != tidegate.Transient:
			return nil, err
		default:
			c.d.failures.Add(1)
		}
		if err := sleep(ctx, c.d.cfg.Every); err != nil {
			return nil, err
		}
	}
}

// readPiece reads a whole piece.
func readPiece(name string, r io.Reader) ([]byte, error) {
	piece, err := io.ReadAll(r)
	if err == nil && len(piece) > PieceMax {
		err = &tidegate.Error{
			Op: "get object", Subject: name, Class: tidegate.Corrupt,
			Err: fmt.Errorf("longer than the %d bytes that a piece may have", PieceMax),
		}
	}
	return piece, err
}

// tidy removes what this end has put if nobody was there to read it, or nobody is to.
func (c *conn) tidy() {
	c.mu.Lock()
	back := c.out == wayUp && (!c.answered || c.aborted)
	c.mu.Unlock()
	if !back {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), FarewellMax)
	defer cancel()
	if err := c.d.removeAll(ctx, wayPrefix(c.node, c.id, wayUp)); err != nil {
		c.d.failures.Add(1) // the node's sweep takes it along, once there is one
	}
}
