package shipper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/wire"
	"github.com/tidegate/tidegate/snapshot"
)

// BaseReceiver is the receiving end of a session for a base.
type BaseReceiver struct {
	Link   BaseLink
	Intake *snapshot.Intake // of the store that the base goes to; the caller closes it
	// Wait holds an answer back until about n bytes may cross for it; the session
	// is kept alive meanwhile. nil: nothing is held back.
	Wait  func(ctx context.Context, n int) error
	Meter *snapshot.Meter // never nil
	// Here is called for every extent that is in the store now, before the manifest
	// is; from one goroutine or another, one call at a time. nil: nobody asks.
	Here func(place uint64, x snapshot.Name)
	// Commit lists the base by Intake.Commit and does what else must be done before
	// the sender is told. Called once, when everything offered is in the store.
	Commit func(ctx context.Context, manifest []byte) (snapshot.Listed, error)

	mu      sync.Mutex
	open    map[uint32]*offer // not answered, or its pages not yet here
	settled chan struct{}     // rung when open has become empty; capacity 1
	asked   chan struct{}     // one per payload that was asked for and is not stored
	needed  int64             // bytes asked for, and what they were compressed to
	crossed int64
}

// offer is an extent on its way.
type offer struct {
	number uint32
	place  uint64
	x      *snapshot.Extent
	o      *snapshot.Offered // nil until it was answered, and once its pages came
}

// arrived is a payload that waits to be stored.
type arrived struct {
	offer *offer
	o     *snapshot.Offered
	p     snapshot.Payload
}

// baseAskedMax bounds the payloads that are asked for and not stored, of an extent
// at most each. They fit into the queue of those who store, so that a disk that is
// slow does not keep the session from being read.
const baseAskedMax = 32

// errCommitted ends the receiver's goroutines.
var errCommitted = errors.New("base is committed")

// leaveTimeout bounds how long a sender may stay after it was told of the commit.
const leaveTimeout = time.Second

// Run receives one base, and returns what was listed once the sender has been
// told. Any error ends the session: what has arrived stays in the store.
func (r *BaseReceiver) Run(ctx context.Context) (snapshot.Listed, error) {
	r.open, r.settled, r.asked = map[uint32]*offer{}, make(chan struct{}, 1), make(chan struct{}, baseAskedMax)
	answers := make(chan *offer, baseOffersMax)
	pages := make(chan arrived, baseAskedMax)
	commit := make(chan []byte, 1)
	var listed snapshot.Listed
	committed := false // the peer may end the session before that is seen here
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.answer(gctx, answers) })
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error { return r.take(gctx, pages) })
	}
	g.Go(func() (err error) {
		listed, err = r.commit(gctx, commit)
		if err == nil {
			committed, err = true, errCommitted
		}
		return err
	})
	// Receiving is where the session's end is seen, and what a peer is told by: it
	// outlasts the others.
	var receiving errgroup.Group
	left := make(chan struct{})
	var end error // set before left is closed
	receiving.Go(func() error {
		end = r.receive(answers, pages, commit)
		close(left)
		return end
	})
	g.Go(func() error {
		select {
		case <-left:
			return end
		case <-gctx.Done():
			return gctx.Err()
		}
	})
	err := g.Wait()
	if committed {
		err = nil
		timer := time.NewTimer(leaveTimeout)
		defer timer.Stop()
		select {
		case <-left:
		case <-timer.C:
		}
	}
	r.hangUp(err)
	_ = receiving.Wait() // it ended because of err, or brought it
	return listed, err
}

// hangUp makes Recv return. The connection stays open, so that a server can tell
// its peer why.
func (r *BaseReceiver) hangUp(err error) {
	if err == nil {
		err = net.ErrClosed
	}
	r.Link.interrupt(err)
}

// commit waits for the manifest and for all that was offered, and lists the base.
func (r *BaseReceiver) commit(ctx context.Context, commit <-chan []byte) (l snapshot.Listed, err error) {
	var manifest []byte
	select {
	case manifest = <-commit:
	case <-ctx.Done():
		return l, ctx.Err()
	}
	for {
		r.mu.Lock()
		n := len(r.open)
		r.mu.Unlock()
		if n == 0 {
			break
		}
		select {
		case <-r.settled:
		case <-ctx.Done():
			return l, ctx.Err()
		}
	}
	if l, err = r.Commit(ctx, manifest); err != nil {
		return l, err
	}
	return l, r.Link.send(typeBaseCommitted, l.Name[:])
}

func (r *BaseReceiver) receive(answers chan<- *offer, pages chan<- arrived, commit chan<- []byte) error {
	var manifest []byte
	for {
		ev, err := r.Link.Recv()
		if err != nil {
			return err
		}
		b, ok := ev.(*baseEvent)
		if !ok {
			continue
		}
		switch b.kind {
		case typeBaseOffer:
			err = r.offered(b.body, answers)
		case typeBasePages:
			err = r.came(b.body, pages)
		case typeBaseTotal:
			d := wire.NewDecoder(b.body)
			r.Meter.SetTotal(d.I64())
			err = finish(&d, "base total")
		case typeBaseManifest:
			manifest, err = r.listing(b.body, manifest, commit)
		default:
			err = r.Link.unexpected(b.kind)
		}
		if err != nil {
			return err
		}
	}
}

func (r *BaseReceiver) offered(body []byte, answers chan<- *offer) error {
	msg, err := parseOffer(body)
	if err != nil {
		return r.Link.malformed(err)
	}
	o := &offer{number: msg.number, place: msg.place, x: msg.extent()}
	r.mu.Lock()
	_, twice := r.open[o.number]
	full := len(r.open) >= baseOffersMax
	r.open[o.number] = o
	r.mu.Unlock()
	if twice || full {
		return r.Link.malformed(fmt.Errorf("offer %d with %d open", o.number, baseOffersMax))
	}
	answers <- o // never full: as many as may be open
	return nil
}

// answer says what is missing, as fast as the operator's rate allows.
func (r *BaseReceiver) answer(ctx context.Context, answers <-chan *offer) error {
	for {
		var o *offer
		select {
		case o = <-answers:
		case <-ctx.Done():
			return ctx.Err()
		}
		offered, err := r.Intake.Offer(o.place, o.x)
		if tidegate.ClassOf(err) == tidegate.Misuse {
			err = r.Link.malformed(err)
		}
		if err != nil {
			return err
		}
		need := offered.Need
		if n := need.Bytes(o.x); n > 0 {
			select {
			case r.asked <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			if r.Wait != nil {
				if err := r.Wait(ctx, r.estimate(n)); err != nil {
					return err
				}
			}
			r.mu.Lock()
			o.o = offered
			r.mu.Unlock()
		} else {
			r.here(o, snapshot.Put{})
		}
		var buf [4 + len(need)]byte
		if err := r.Link.send(typeBaseNeed, appendNeed(buf[:0], o.number, need)); err != nil {
			return err
		}
	}
}

// estimate guesses what n bytes are compressed to, from those that came.
func (r *BaseReceiver) estimate(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.needed == 0 {
		return n
	}
	return max(1, int(float64(n)*float64(r.crossed)/float64(r.needed)))
}

// here notes that the extent is in the store; the offer is closed.
func (r *BaseReceiver) here(o *offer, p snapshot.Put) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if delete(r.open, o.number); len(r.open) == 0 {
		select {
		case r.settled <- struct{}{}:
		default:
		}
	}
	r.needed += int64(p.Needed)
	r.crossed += int64(p.Stored)
	r.Meter.Took(o.x.Bytes, p)
	if r.Here != nil {
		r.Here(o.place, o.x.Name)
	}
}

// came takes pages over from the session's buffer.
func (r *BaseReceiver) came(body []byte, pages chan<- arrived) error {
	number, p, err := parsePages(body)
	if err != nil {
		return r.Link.malformed(err)
	}
	r.mu.Lock()
	o := r.open[number]
	var offered *snapshot.Offered
	if o != nil {
		offered, o.o = o.o, nil
	}
	r.mu.Unlock()
	if offered == nil {
		return r.Link.malformed(fmt.Errorf("pages of offer %d, which were not asked for", number))
	}
	p.Stored = append([]byte(nil), p.Stored...) // the session's buffer is the next frame's
	pages <- arrived{o, offered, p}             // never full: as many as may be asked for
	return nil
}

// take stores what came.
func (r *BaseReceiver) take(ctx context.Context, pages <-chan arrived) error {
	for {
		select {
		case a := <-pages:
			if err := r.Intake.Take(a.o, a.p); err != nil {
				return err
			}
			<-r.asked
			r.here(a.offer, snapshot.Put{Needed: a.o.Need.Bytes(a.offer.x), Stored: len(a.p.Stored)})
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// listing puts the manifest together; its last part starts the commit.
func (r *BaseReceiver) listing(body, manifest []byte, commit chan<- []byte) ([]byte, error) {
	part, err := parseManifestPart(body)
	if err != nil {
		return nil, r.Link.malformed(err)
	}
	if part.offset != uint64(len(manifest)) {
		return nil, r.Link.malformed(fmt.Errorf("manifest goes on at %d, %d is due", part.offset, len(manifest)))
	}
	manifest = append(manifest, part.bytes...)
	if uint64(len(manifest)) == part.total {
		select {
		case commit <- manifest:
		default:
			return nil, r.Link.malformed(errors.New("a second manifest"))
		}
	}
	return manifest, nil
}
