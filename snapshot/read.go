package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
)

// opener reads extents and keeps the buffers that it takes. It belongs to one
// goroutine.
type opener struct {
	s       *Store
	bufs    [2][]byte // of the record, of a source's record
	own     []byte
	raw     []byte
	sources map[Name][]byte // opened payloads of the extent at hand
}

// read returns the bytes of an extent, verified by its name and theirs. They
// belong to o again at the next call.
func (o *opener) read(x Name) ([]byte, error) {
	var r record
	var err error
	if r, o.bufs[0], err = o.s.record(x, o.bufs[0]); err != nil {
		return nil, err
	}
	own, err := o.s.codec.decode(o.own, r.payload, r.own)
	if err != nil {
		return nil, fmt.Errorf("extent %.12s: %w", x, err)
	}
	if r.payload.Encoding != Plain {
		o.own = own
	}
	clear(o.sources)
	if r.own == r.x.Bytes && r.payload.Encoding != Plain { // every page is its own, in order: see record.check
		return own, r.x.Verify(own)
	}
	for _, n := range r.sources {
		if err := o.source(n); err != nil {
			switch {
			case tidegate.ClassOf(err) == tidegate.Corrupt:
				o.s.forget(n, err)
			case errors.Is(err, tidegate.ErrNotFound):
				// Without the source it is as good as damaged: it is to be brought again.
				err = corruptExtent(x, fmt.Sprintf("some of its pages are in extent %.12s, which is not here", n))
			}
			return nil, fmt.Errorf("extent %.12s: %w", x, err)
		}
	}
	o.raw = o.raw[:0]
	for i, f := range r.refs {
		from := own
		if f.source > 0 {
			from = o.sources[r.sources[f.source-1]]
		}
		at, n := int(f.ordinal)*PageBytes, r.x.pageLen(i)
		if at+n > len(from) {
			return nil, corruptExtent(x, fmt.Sprintf("page %d lies beyond its payload", i))
		}
		o.raw = append(o.raw, from[at:at+n]...)
	}
	return o.raw, r.x.Verify(o.raw)
}

func (o *opener) source(n Name) error {
	if o.sources == nil {
		o.sources = map[Name][]byte{}
	}
	r, buf, err := o.s.record(n, o.bufs[1])
	o.bufs[1] = buf
	if err != nil {
		return err
	}
	raw, err := o.s.codec.decode(nil, r.payload, r.own)
	if err != nil {
		return err
	}
	if r.payload.Encoding == Plain {
		raw = append([]byte(nil), raw...) // the buffer is the next source's
	}
	o.sources[n] = raw
	return nil
}

// wanted maps the extents of m to the lengths that their places in the files ask for.
func (m *Manifest) wanted() (map[Name]int, error) {
	want := map[Name]int{}
	for i := range m.Files {
		for j, x := range m.Extents[i] {
			n := m.extentLen(i, j)
			if was, ok := want[x]; ok && was != n {
				return nil, corruptExtent(x, fmt.Sprintf("of %d bytes in one place and of %d in another", was, n))
			}
			want[x] = n
		}
	}
	return want, nil
}

// extentLen returns the length of extent j of file i.
func (m *Manifest) extentLen(i, j int) int {
	if m.Files[i].Kind == KindStream {
		return m.Cuts[i][j]
	}
	return int(min(ExtentBytes, m.Files[i].Size-int64(j)*ExtentBytes))
}

// Verify reads every extent of m, in parallel, and compares it with its name.
// What is damaged does not count as held any more, so that it is asked for again;
// an error tells how many extents that was.
func (s *Store) Verify(ctx context.Context, m *Manifest) error {
	want, err := m.wanted()
	if err != nil {
		return err
	}
	todo := slices.Collect(maps.Keys(want))
	var damaged atomic.Int64
	var first atomic.Pointer[error]
	g, ctx := errgroup.WithContext(ctx)
	n := runtime.GOMAXPROCS(0)
	for w := range n {
		g.Go(func() error {
			o := opener{s: s}
			for i := w; i < len(todo); i += n {
				if err := ctx.Err(); err != nil {
					return err
				}
				raw, err := o.read(todo[i])
				if err == nil && len(raw) != want[todo[i]] {
					err = corruptExtent(todo[i], fmt.Sprintf("%d bytes, want %d", len(raw), want[todo[i]]))
				}
				switch {
				case err == nil:
				case tidegate.ClassOf(err) == tidegate.Corrupt:
					s.forget(todo[i], err)
					damaged.Add(1)
					first.CompareAndSwap(nil, &err)
				default:
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if n := damaged.Load(); n > 0 {
		return fmt.Errorf("%d of %d extents are damaged: %w", n, len(todo), *first.Load())
	}
	return nil
}

// forget makes a damaged extent one that is asked for again. Its bytes stay.
func (s *Store) forget(x Name, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.index[x]; ok {
		delete(s.index, x)
		s.faults = append(s.faults, why)
	}
}

// Reader gives the files of a base back. All methods may be called concurrently.
// While it is open the base is not removed.
type Reader struct {
	s       *Store
	m       *Manifest
	openers sync.Pool
	close   func()
}

// Reader opens a listed base; the caller closes it. tidegate.ErrNotFound when it
// is not listed any more.
func (s *Store) Reader(l Listed) (*Reader, error) {
	if !s.pin(l.Name) {
		return nil, &tidegate.Error{Op: "read base", Subject: l.Name.String(), Class: tidegate.Transient, Err: tidegate.ErrNotFound}
	}
	_, m, err := s.Manifest(l)
	if err != nil {
		s.unpin(l.Name)
		return nil, fmt.Errorf("read base of generation %d: %w", l.Generation, err)
	}
	return &Reader{
		s: s, m: m, openers: sync.Pool{New: func() any { return &opener{s: s} }},
		close: sync.OnceFunc(func() { s.unpin(l.Name) }),
	}, nil
}

// Close lets the base be removed. It is idempotent.
func (r *Reader) Close() { r.close() }

// Info returns what the base is of.
func (r *Reader) Info() Info { return r.m.Info }

// Files returns the base's entries in the order in which the source gave them.
// The slice is the reader's. Parents of a file need not be listed.
func (r *Reader) Files() []File { return r.m.Files }

// Copy writes the file Files()[i] to w. Every byte has been verified by the names
// in the manifest before it is written; after an error the part that was written
// is still right, and short. What follows is read on other goroutines meanwhile, as
// many as there are cores.
func (r *Reader) Copy(ctx context.Context, i int, w io.Writer) error {
	extents := r.m.Extents[i]
	ahead := make([]*reading, min(len(extents), runtime.GOMAXPROCS(0)+1))
	var all sync.WaitGroup
	defer func() { // nobody reads into an opener that is somebody else's
		all.Wait()
		for _, a := range ahead {
			if a != nil {
				r.openers.Put(a.o)
			}
		}
	}()
	begin := func(j int) {
		a := ahead[j%len(ahead)]
		if a == nil {
			a = &reading{o: r.openers.Get().(*opener), done: make(chan struct{}, 1)}
			ahead[j%len(ahead)] = a
		}
		all.Go(func() {
			a.raw, a.err = a.o.read(extents[j])
			a.done <- struct{}{}
		})
	}
	for j := range min(len(ahead)-1, len(extents)) {
		begin(j)
	}
	for j := range extents {
		if err := ctx.Err(); err != nil {
			return err
		}
		if next := j + len(ahead) - 1; next < len(extents) {
			begin(next)
		}
		a := ahead[j%len(ahead)]
		<-a.done
		err := a.err
		if want := r.m.extentLen(i, j); err == nil && len(a.raw) != want {
			err = corruptExtent(extents[j], fmt.Sprintf("%d bytes, want %d", len(a.raw), want))
		}
		if err == nil {
			_, err = w.Write(a.raw)
		}
		if err != nil {
			return fmt.Errorf("copy %s out of base: %w", r.m.Files[i].Path, err)
		}
	}
	return nil
}

// reading is an extent that is being read.
type reading struct {
	o    *opener
	raw  []byte
	err  error
	done chan struct{} // holds one when raw and err are there
}
