package drop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/shipper"
)

// Config says how often the bucket is asked. The zero value means the defaults.
type Config struct {
	// Every is the least time between two pieces of a direction, and between two looks
	// for the next one: a round trip takes about twice as long.
	Every time.Duration
	// Look is the time between two looks for new connections, by a node that wants some;
	// one that wants none looks every IdleLooks-th time.
	Look time.Duration
}

// Defaults and limits.
const (
	// EveryDefault makes at most eight requests a second of a direction, for a round
	// trip of half a second.
	EveryDefault = 250 * time.Millisecond
	// EveryMax, with LookMax, lets a handshake end in time: it needs a look, of those that
	// a node makes which wants nobody, and five pieces one after the other.
	EveryMax = time.Second
	// LookDefault is a listing a second, while a node lacks its writer.
	LookDefault = time.Second
	// LookMax is the longest Look; see EveryMax.
	LookMax = 2 * time.Second
	// pauseMin is the shortest Every or Look of a file: requests take longer.
	pauseMin = 10 * time.Millisecond
	// IdleLooks is how many looks a node that wants nobody spares for each one that it
	// makes: what it takes for its writer may be a session that is dead already.
	IdleLooks = 5
	// PieceMax is the most bytes in one piece: what a session must be able to hold twice.
	PieceMax = 4 << 20
	// FarewellMax is how long what was written before a Close may take to be put: more
	// than two of the longest Every, for the reason and for the end.
	FarewellMax = 3 * time.Second
	// HandshakesMax is how many connections a node has at a time whose handshake is not
	// over. Whoever can write to the bucket can begin one; each costs memory until it has
	// failed. How many sessions there are is the acceptor's affair.
	HandshakesMax = 16
	// HandshakeTimeout is of a session through a drop.
	HandshakeTimeout = 20 * time.Second
	// LeftoverAfter is how long what an ended connection has left may still be read.
	LeftoverAfter = time.Minute
	// tidyMax bounds the removing that others wait for: the next piece, the next look.
	tidyMax = 3 * time.Second
)

// SetDefaults fills the fields that are zero.
func (c Config) SetDefaults() Config {
	if c.Every == 0 {
		c.Every = EveryDefault
	}
	if c.Look == 0 {
		c.Look = LookDefault
	}
	return c
}

// Validate reports every broken rule of a file, after SetDefaults.
func (c Config) Validate() error {
	within := func(key string, t, longest time.Duration) error {
		if t > longest {
			return config.Broken(key, fmt.Sprintf("want at most %s, or no handshake ends within its %s", longest, HandshakeTimeout), t)
		}
		return config.AtLeast(key, t, pauseMin)
	}
	return errors.Join(within("every", c.Every, EveryMax), within("look", c.Look, LookMax))
}

// Limits are those of a session through a drop: l with the patience that it needs.
func Limits(l shipper.Limits) shipper.Limits {
	l.KeepaliveEvery = 2 * time.Second
	l.IdleTimeout = 30 * time.Second // a whole piece over a slow link, or a server that restarts
	l.HandshakeTimeout = HandshakeTimeout
	return l
}

// Drop is one end of all connections through a bucket.
type Drop struct {
	b   bucket.Bucket
	cfg Config
	wg  sync.WaitGroup

	moved    atomic.Uint64 // bytes of pieces put and read
	failures atomic.Uint64
}

// New does no I/O. The bucket's requests may take long, but each must end with its context.
func New(b bucket.Bucket, cfg Config) *Drop { return &Drop{b: b, cfg: cfg.SetDefaults()} }

// Bytes returns how many bytes have been put and read.
func (d *Drop) Bytes() uint64 { return d.moved.Load() }

// Failures returns how many requests have failed, those that were made again included.
func (d *Drop) Failures() uint64 { return d.failures.Load() }

// String names the bucket for people, without credentials.
func (d *Drop) String() string { return d.b.String() }

// Wait returns once every goroutine of every connection has ended; all must have been
// closed, and no more be opened.
func (d *Drop) Wait() { d.wg.Wait() }

// Dial begins a connection with a node. It does no I/O: whether the node answers shows
// when something is read.
func (d *Drop) Dial(ctx context.Context, node tidegate.NodeName) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return d.open(node, tidegate.NewID(), wayUp, nil, nil), nil
}

// Abort ends a connection that Dial gave, without a farewell, and takes back what the
// node has not read: a session that is not wanted any more does not begin by it.
func Abort(nc net.Conn) {
	if c, ok := nc.(*conn); ok {
		c.abort()
	}
}

// remove removes one piece. What is left of it the node's sweep takes along.
func (d *Drop) remove(ctx context.Context, name string) {
	short, cancel := context.WithTimeout(ctx, tidyMax)
	defer cancel()
	if err := d.b.Remove(short, name); err != nil && ctx.Err() == nil {
		d.failures.Add(1)
	}
}

// get reads one piece; tidegate.ErrNotFound while it is not there.
func (d *Drop) get(ctx context.Context, name string) (_ []byte, err error) {
	r, err := d.b.Get(ctx, name, 0, PieceMax+1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return readPiece(name, r)
}

// failed counts a request that failed, unless its connection has ended.
func (d *Drop) failed(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		d.failures.Add(1)
	}
	return fmt.Errorf("crossing by the archive: %w", err)
}

// removeAll removes the objects below prefix, as many as it can.
func (d *Drop) removeAll(ctx context.Context, prefix string) error {
	var errs []error
	for o, err := range d.b.List(ctx, prefix, "") {
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		if err := d.b.Remove(ctx, o.Name); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// sleep waits for t or the end of ctx.
func sleep(ctx context.Context, t time.Duration) error {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
