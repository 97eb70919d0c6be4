package shipper

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/wire"
	"github.com/tidegate/tidegate/snapshot"
)

// BaseLink is a session for a base, either end of it: a *[Conn] by
// [Dialer.DialBase] or a *[ServerConn] in [BaseHandler.AttachBase].
type BaseLink interface {
	Recv() (Event, error)
	Peer() tidegate.Identity
	send(t wire.Type, parts ...[]byte) error
	malformed(err error) error
	unexpected(t wire.Type) error
	interrupt(err error)
}

// baseOffersMax bounds the offers that a receiver has not answered, or has not
// been given the pages of. It is part of the protocol.
const baseOffersMax = 256

// BaseSender is the sending end: a [snapshot.Sink] whose Put offers an extent,
// waits for the answer and sends what is missing. Put, Total and Commit may be
// called concurrently; Run must be running.
type BaseSender struct {
	link  BaseLink
	slots chan struct{} // one per offer that is under way

	mu        sync.Mutex
	next      uint32
	waiting   map[uint32]chan snapshot.Need // capacity 1 each
	committed chan snapshot.Name            // capacity 1
	ended     chan struct{}                 // closed when Run has returned
	err       error                         // why; set before ended is closed
}

// NewBaseSender sends over a session that nothing was sent over yet.
func NewBaseSender(link BaseLink) *BaseSender {
	return &BaseSender{
		link: link, slots: make(chan struct{}, baseOffersMax), waiting: map[uint32]chan snapshot.Need{},
		committed: make(chan snapshot.Name, 1), ended: make(chan struct{}),
	}
}

// Run receives until the session ends, and returns why; an error that wraps
// net.ErrClosed when this end closed it.
func (s *BaseSender) Run() (err error) {
	defer func() {
		s.err = err
		close(s.ended)
	}()
	for {
		ev, err := s.link.Recv()
		if err != nil {
			return err
		}
		b, ok := ev.(*baseEvent)
		if !ok {
			continue
		}
		switch b.kind {
		case typeBaseNeed:
			err = s.answered(b.body)
		case typeBaseCommitted:
			err = s.done(b.body)
		default:
			err = s.link.unexpected(b.kind)
		}
		if err != nil {
			return err
		}
	}
}

func (s *BaseSender) answered(body []byte) error {
	number, need, err := parseNeed(body)
	if err != nil {
		return s.link.malformed(err)
	}
	s.mu.Lock()
	ch := s.waiting[number]
	delete(s.waiting, number)
	s.mu.Unlock()
	if ch == nil {
		return s.link.malformed(fmt.Errorf("answer to offer %d, which is not open", number))
	}
	ch <- need
	return nil
}

func (s *BaseSender) done(body []byte) error {
	if len(body) != nameBytes {
		return s.link.malformed(fmt.Errorf("base committed with a name of %d bytes", len(body)))
	}
	select {
	case s.committed <- snapshot.Name(body):
		return nil
	default:
		return s.link.malformed(errors.New("base committed twice"))
	}
}

// Put implements [snapshot.Sink].
func (s *BaseSender) Put(ctx context.Context, place uint64, x *snapshot.Extent, pages snapshot.Pages) (snapshot.Put, error) {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return snapshot.Put{}, ctx.Err()
	case <-s.ended:
		return snapshot.Put{}, s.err
	}
	defer func() { <-s.slots }()
	ch := make(chan snapshot.Need, 1)
	s.mu.Lock()
	number := s.next
	s.next++
	s.waiting[number] = ch
	s.mu.Unlock()
	var buf [baseOfferMax]byte
	if err := s.link.send(typeBaseOffer, appendOffer(buf[:0], number, place, x)); err != nil {
		return snapshot.Put{}, err
	}
	select {
	case need := <-ch:
		return s.give(number, need, x, pages)
	case <-ctx.Done():
		return snapshot.Put{}, ctx.Err()
	case <-s.ended:
		return snapshot.Put{}, s.err
	}
}

func (s *BaseSender) give(number uint32, need snapshot.Need, x *snapshot.Extent, pages snapshot.Pages) (snapshot.Put, error) {
	if need == (snapshot.Need{}) {
		return snapshot.Put{}, nil
	}
	if !need.Within(x) {
		return snapshot.Put{}, s.link.malformed(fmt.Errorf("page asked for that extent %.12s does not have", x.Name))
	}
	p, err := pages.Pages(need)
	if err != nil {
		return snapshot.Put{}, err
	}
	var head [5]byte
	b := wire.AppendU8(wire.AppendU32(head[:0], number), uint8(p.Encoding))
	if err := s.link.send(typeBasePages, b, p.Stored); err != nil {
		return snapshot.Put{}, err
	}
	return snapshot.Put{Needed: need.Bytes(x), Stored: len(p.Stored)}, nil
}

// Total tells the receiver how many bytes of files are expected, for its ETA.
func (s *BaseSender) Total(bytes int64) error {
	var buf [8]byte
	return s.link.send(typeBaseTotal, wire.AppendI64(buf[:0], bytes))
}

// Commit sends the manifest, after every Put has returned, and waits until the
// receiver holds the base: synced, read back and listed.
func (s *BaseSender) Commit(ctx context.Context, manifest []byte, name snapshot.Name) error {
	for at := 0; at < len(manifest); at += manifestPiece {
		var head [16]byte
		b := wire.AppendU64(wire.AppendU64(head[:0], uint64(len(manifest))), uint64(at))
		if err := s.link.send(typeBaseManifest, b, manifest[at:min(at+manifestPiece, len(manifest))]); err != nil {
			return err
		}
	}
	select {
	case got := <-s.committed:
		if got != name {
			return s.link.malformed(fmt.Errorf("committed %.12s, was given %.12s", got, name))
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ended:
		return s.err
	}
}
