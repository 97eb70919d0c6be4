package snapshot

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Giver hands extents of a store to sinks; several may be on their way at a time.
// While one is open no extent is swept: it may give what no base names yet.
type Giver struct {
	s     *Store
	spare chan *stored
	close func()
}

// Giver returns one that has inFlight extents on their way at most, which is the
// memory it takes in [ExtentBytes]; 0 is [InFlightDefault]. The caller closes it.
func (s *Store) Giver(inFlight int) *Giver {
	if inFlight == 0 {
		inFlight = InFlightDefault
	}
	s.mu.Lock()
	s.givers++
	s.mu.Unlock()
	g := &Giver{s: s, spare: make(chan *stored, inFlight), close: sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.givers--
	})}
	for range inFlight {
		g.spare <- &stored{o: opener{s: s}}
	}
	return g
}

// Close lets extents be swept. It is idempotent.
func (g *Giver) Close() { g.close() }

// stored is an extent of a store that is on its way.
type stored struct {
	o    opener
	r    record
	buf  []byte
	need []byte
	z    []byte
}

// Pages implements [Pages]: the payload as it is stored when that is what is
// asked for.
func (t *stored) Pages(need Need) (Payload, error) {
	if need == t.r.need() {
		return t.r.payload, nil
	}
	raw, err := t.o.read(t.r.x.Name)
	if err != nil {
		return Payload{}, err
	}
	t.need = need.Pick(t.need[:0], &t.r.x, raw)
	p := t.o.s.codec.encode(t.z, t.need)
	if p.Encoding == Zstd {
		t.z = p.Stored
	}
	return p, nil
}

// Give hands one extent to sink as that of a place. It waits while as many as may
// be are on their way.
func (g *Giver) Give(ctx context.Context, sink Sink, place uint64, x Name) (bytes int, p Put, err error) {
	var t *stored
	select {
	case t = <-g.spare:
	case <-ctx.Done():
		return 0, p, ctx.Err()
	}
	defer func() { g.spare <- t }() // never full: as many as there are
	if t.r, t.buf, err = g.s.record(x, t.buf); err != nil {
		return 0, p, err
	}
	p, err = sink.Put(ctx, place, &t.r.x, t)
	return t.r.x.Bytes, p, err
}

// GiveAll hands every extent of m to sink and returns when all have arrived or one
// has failed.
func (g *Giver) GiveAll(ctx context.Context, sink Sink, m *Manifest, meter *Meter) error {
	meter.SetTotal(m.Bytes())
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(cap(g.spare))
	for i := range m.Files {
		offset := int64(0)
		for j, x := range m.Extents[i] {
			place := Place(m.Files[i].Path, offset)
			offset += int64(m.extentLen(i, j))
			if ctx.Err() != nil {
				break
			}
			all.Go(func() error {
				n, p, err := g.Give(ctx, sink, place, x)
				if err != nil {
					return fmt.Errorf("give %.12s: %w", x, err)
				}
				meter.Took(n, p)
				return nil
			})
		}
		if m.Files[i].filled() {
			meter.files.Add(1)
		}
	}
	return all.Wait()
}
