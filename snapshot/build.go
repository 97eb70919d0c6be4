package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
)

// Meter counts what a build has done; it may be read at any time.
type Meter struct {
	files                      atomic.Int64
	bytes, needed, sent, total atomic.Int64
}

// Progress reads the meter.
func (m *Meter) Progress() Progress {
	return Progress{
		Files: int(m.files.Load()), Bytes: m.bytes.Load(), Needed: m.needed.Load(), Sent: m.sent.Load(), Total: m.total.Load(),
	}
}

// SetTotal tells how many bytes of files are expected in all.
func (m *Meter) SetTotal(bytes int64) { m.total.Store(bytes) }

// Took counts an extent that has been handed over, for sinks that are fed without
// a [Build].
func (m *Meter) Took(bytes int, p Put) {
	m.bytes.Add(int64(bytes))
	m.needed.Add(int64(p.Needed))
	m.sent.Add(int64(p.Stored))
}

// BuildConfig shapes a build. The zero value means the defaults.
type BuildConfig struct {
	// InFlight is how many extents are on their way at a time, of ExtentBytes of
	// memory each; default 32. With a round trip of 30 ms that is 1 GB/s.
	InFlight int
	Meter    *Meter // may be nil
}

// InFlightDefault is how many extents a build has on their way.
const InFlightDefault = 32

// Build cuts the files that fill writes, hands their extents to sink, several at a
// time, and returns what fill said and the files. info is completed by what fill
// returns; the manifest is not committed here. An error of the sink ends fill's
// context and its writes, and is what Build returns.
func Build(ctx context.Context, sink Sink, cfg BuildConfig, info Info, fill func(ctx context.Context, w Writer) (Base, error)) (*Manifest, error) {
	if cfg.InFlight == 0 {
		cfg.InFlight = InFlightDefault
	}
	if cfg.Meter == nil {
		cfg.Meter = &Meter{}
	}
	codec, err := newCodec()
	if err != nil {
		return nil, err
	}
	defer codec.close()
	g, ctx := errgroup.WithContext(ctx)
	b := &builder{
		meter: cfg.Meter, m: &Manifest{Info: info}, over: ctx.Done(),
		work: make(chan *cutting, cfg.InFlight), free: make(chan *cutting, cfg.InFlight),
	}
	for range cfg.InFlight {
		b.free <- &cutting{codec: codec, raw: make([]byte, 0, ExtentBytes)}
		g.Go(func() error { return b.hand(ctx, sink) })
	}
	g.Go(func() error {
		defer close(b.work)
		base, err := fill(ctx, b)
		if err == nil && b.open {
			err = errors.New("a file was not closed")
		}
		b.m.Base = base
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	b.m.Extents, b.m.Cuts = make([][]Name, len(b.names)), b.cuts
	for i, names := range b.names {
		for _, n := range names {
			b.m.Extents[i] = append(b.m.Extents[i], *n)
		}
	}
	return b.m, nil
}

// builder is the Writer of a build.
type builder struct {
	meter *Meter
	m     *Manifest
	names [][]*Name     // per file; each is set before the build ends
	cuts  [][]int       // per file; of a stream the lengths of its extents
	work  chan *cutting // closed when fill has returned
	free  chan *cutting
	over  <-chan struct{} // closed when a sink's error, or the end of everything, ends the build
	open  bool            // a file is
}

// cutting is a buffer on its way; it is also the Pages of its extent.
type cutting struct {
	codec *codec
	place uint64
	raw   []byte
	x     Extent
	name  *Name
	need  []byte
	z     []byte
}

// Pages implements [Pages].
func (c *cutting) Pages(need Need) (Payload, error) {
	c.need = need.Pick(c.need[:0], &c.x, c.raw)
	p := c.codec.encode(c.z, c.need)
	if p.Encoding == Zstd {
		c.z = p.Stored
	}
	return p, nil
}

// hand names what was cut and hands it to the sink until nothing is left.
func (b *builder) hand(ctx context.Context, sink Sink) error {
	for {
		select {
		case c, ok := <-b.work:
			if !ok {
				return nil
			}
			c.x.Cut(c.raw)
			*c.name = c.x.Name
			p, err := sink.Put(ctx, c.place, &c.x, c)
			if err != nil {
				return err
			}
			b.meter.Took(len(c.raw), p)
			b.free <- c // never full: as many as there are
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Add implements [Writer].
func (b *builder) Add(f File) error {
	if f.filled() {
		return &tidegate.Error{Op: "add to base", Subject: f.Path, Class: tidegate.Misuse, Err: errors.New("is a file")}
	}
	return b.add(f)
}

func (b *builder) add(f File) error {
	if err := f.check(); err != nil {
		return &tidegate.Error{Op: "add to base", Class: tidegate.Misuse, Err: err}
	}
	b.m.Files, b.names, b.cuts = append(b.m.Files, f), append(b.names, nil), append(b.cuts, nil)
	return nil
}

// Create implements [Writer].
func (b *builder) Create(ctx context.Context, f File) (io.WriteCloser, error) {
	switch {
	case b.open:
		return nil, &tidegate.Error{Op: "create in base", Subject: f.Path, Class: tidegate.Misuse, Err: errors.New("the file before it is open")}
	case !f.filled():
		return nil, &tidegate.Error{Op: "create in base", Subject: f.Path, Class: tidegate.Misuse, Err: errors.New("is not a file")}
	}
	if err := b.add(f); err != nil {
		return nil, err
	}
	b.open = true
	return &fileWriter{b: b, done: ctx.Done(), cause: ctx.Err, f: f, index: len(b.names) - 1}, nil
}

// fileWriter takes one file.
type fileWriter struct {
	b      *builder
	done   <-chan struct{} // of the context that Create was given
	cause  func() error
	f      File
	index  int
	at     int64
	cut    cutter // of a stream
	c      *cutting
	closed bool
}

// Write implements io.Writer.
func (w *fileWriter) Write(p []byte) (n int, err error) {
	if w.closed || int64(len(p)) > w.f.Size-w.at {
		return 0, &tidegate.Error{Op: "write to base", Subject: w.f.Path, Class: tidegate.Misuse, Err: fmt.Errorf("beyond its %d bytes", w.f.Size)}
	}
	for n < len(p) {
		if w.c == nil {
			select {
			case w.c = <-w.b.free:
				w.c.raw = w.c.raw[:0]
			case <-w.b.over:
				return n, context.Canceled // Build knows why
			case <-w.done:
				return n, w.cause()
			}
		}
		k, cut := min(len(p)-n, ExtentBytes-len(w.c.raw)), false
		if w.f.Kind == KindStream {
			k, cut = w.cut.next(p[n : n+k])
		}
		w.c.raw = append(w.c.raw, p[n:n+k]...)
		n += k
		w.at += int64(k)
		if cut || len(w.c.raw) == ExtentBytes || w.at == w.f.Size {
			w.flush()
		}
	}
	return n, nil
}

func (w *fileWriter) flush() {
	c := w.c
	w.c = nil
	c.place = Place(w.f.Path, w.at-int64(len(c.raw)))
	c.name = new(Name)
	w.b.names[w.index] = append(w.b.names[w.index], c.name)
	if w.f.Kind == KindStream {
		w.b.cuts[w.index] = append(w.b.cuts[w.index], len(c.raw))
		w.cut = cutter{}
	}
	w.b.work <- c // never full: as many as there are
}

// Close implements io.Closer; a file that is shorter than it was said to be is an error.
func (w *fileWriter) Close() error {
	if w.closed {
		return nil
	}
	w.closed, w.b.open = true, false
	if w.at != w.f.Size {
		return &tidegate.Error{Op: "write to base", Subject: w.f.Path, Class: tidegate.Misuse, Err: fmt.Errorf("ends at %d of %d bytes", w.at, w.f.Size)}
	}
	w.b.meter.files.Add(1)
	return nil
}

// HoldBack returns a sink whose pages wait, compressed, until so many bytes may be
// handed over.
func HoldBack(sink Sink, wait func(ctx context.Context, bytes int) error) Sink {
	return heldBack{sink, wait}
}

type heldBack struct {
	sink Sink
	wait func(ctx context.Context, bytes int) error
}

// Put implements [Sink].
func (h heldBack) Put(ctx context.Context, place uint64, x *Extent, pages Pages) (Put, error) {
	return h.sink.Put(ctx, place, x, heldPages{func(n int) error { return h.wait(ctx, n) }, pages})
}

type heldPages struct {
	wait  func(bytes int) error
	pages Pages
}

// Pages implements [Pages].
func (h heldPages) Pages(need Need) (Payload, error) {
	p, err := h.pages.Pages(need)
	if err != nil {
		return p, err
	}
	return p, h.wait(len(p.Stored))
}
