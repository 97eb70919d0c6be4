package lab

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// delayChunk and delayBytes: what is read at once, and how much may be on its
// way in one direction of one connection. The latter bounds the rate at
// delayBytes per delay, far above what one machine's disks take.
const (
	delayChunk = 64 << 10
	delayBytes = 256 << 20
)

// Delay is a TCP relay that holds bytes back for a fixed time each way, as
// distance does: it takes no bandwidth away, and keeps their order.
type Delay struct {
	each time.Duration
	ln   net.Listener

	mu     sync.Mutex
	target string
	conns  map[net.Conn]struct{}
}

// NewDelay listens on the loopback interface. Run relays, once Lead has said where to.
func NewDelay(each time.Duration) (*Delay, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &Delay{each: each, ln: ln, conns: map[net.Conn]struct{}{}}, nil
}

// Lead says where new connections lead to.
func (d *Delay) Lead(target string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.target = target
}

// Addr returns where the relay listens.
func (d *Delay) Addr() string { return d.ln.Addr().String() }

// Run relays until ctx ends.
func (d *Delay) Run(ctx context.Context) error {
	var g errgroup.Group
	stop := context.AfterFunc(ctx, d.close)
	defer stop()
	for {
		near, err := d.ln.Accept()
		if err != nil {
			d.close()
			err = errors.Join(err, g.Wait())
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		g.Go(func() error { d.relay(ctx, near); return nil })
	}
}

func (d *Delay) close() {
	_ = d.ln.Close() // Accept reports what matters
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.conns {
		_ = c.Close()
	}
}

// keep closes conns when the relay ends; the returned function does so now.
func (d *Delay) keep(conns ...net.Conn) (done func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range conns {
		d.conns[c] = struct{}{}
	}
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, c := range conns {
			_ = c.Close()
			delete(d.conns, c)
		}
	}
}

func (d *Delay) relay(ctx context.Context, near net.Conn) {
	d.mu.Lock()
	target := d.target
	d.mu.Unlock()
	var dialer net.Dialer
	far, err := dialer.DialContext(ctx, "tcp", target)
	if err != nil {
		_ = near.Close() // that is how a dead end looks from afar
		return
	}
	done := d.keep(near, far)
	defer done()
	if ctx.Err() != nil {
		return // closed before keep could see it
	}
	var g errgroup.Group
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		g.Go(func() error {
			defer done() // either end's end is both ends' end
			return d.carry(way[1], way[0])
		})
	}
	_ = g.Wait() // what broke shows at both ends
}

// late is a piece of data and when it arrives.
type late struct {
	at time.Time
	b  []byte
}

// carry moves bytes from one end to the other, each of them d.each late.
func (d *Delay) carry(to io.Writer, from io.Reader) error {
	way := make(chan late, delayBytes/delayChunk)
	var g errgroup.Group
	g.Go(func() error {
		var failed error
		for l := range way {
			if failed != nil {
				continue // drains, so that the reader ends
			}
			time.Sleep(time.Until(l.at))
			_, failed = to.Write(l.b)
		}
		return failed
	})
	for {
		b := make([]byte, delayChunk)
		n, err := from.Read(b)
		if n > 0 {
			way <- late{at: time.Now().Add(d.each), b: b[:n]}
		}
		if err != nil {
			close(way)
			return errors.Join(err, g.Wait())
		}
	}
}
