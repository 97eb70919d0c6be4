package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/batch"
)

// Reader reads an archive. All methods may be called concurrently.
type Reader struct {
	b bucket.Bucket
}

// OpenReader makes sure that b is an archive of this version. tidegate.ErrNotFound
// when there is none.
func OpenReader(ctx context.Context, b bucket.Bucket) (*Reader, error) {
	text, _, err := bucket.ReadAll(ctx, b, FormatName, DocumentBytesMax)
	if err == nil {
		err = CheckFormat(text)
	}
	if err != nil {
		e := &tidegate.Error{Op: "open archive", Subject: b.String(), Class: tidegate.ClassOf(err), Err: err}
		if errors.Is(err, tidegate.ErrNotFound) {
			e.Hint = "there is no archive at this address: check its url and prefix"
		}
		return nil, e
	}
	return &Reader{b: b}, nil
}

// String names the archive for people.
func (r *Reader) String() string { return r.b.String() }

// StreamFault says why nobody knows what a stream is of.
type StreamFault struct {
	Stream tidegate.StreamID
	Err    error
}

// Streams lists what is archived, by service and name. A stream whose document is
// missing or bad is among the faults, and hides no other.
func (r *Reader) Streams(ctx context.Context) (all []StreamInfo, faults []StreamFault, err error) {
	for after := ""; ; {
		id, found, err := r.nextStream(ctx, after)
		if err != nil {
			return nil, nil, fmt.Errorf("list streams of %s: %w", r.b, err)
		}
		if !found {
			break
		}
		info, err := r.info(ctx, id)
		switch {
		case err == nil:
			all = append(all, info)
		case OfObject(err):
			faults = append(faults, StreamFault{id, fmt.Errorf("stream %s: %w", id, err)})
		default:
			return nil, nil, err
		}
		after = StreamsPrefix + id.String() + "0" // '0' sorts right behind '/'
	}
	slices.SortFunc(all, func(a, b StreamInfo) int {
		return slices.Compare([]string{string(a.Service), string(a.Name)}, []string{string(b.Service), string(b.Name)})
	})
	return all, faults, nil
}

// OfObject reports whether an error is about what is, or is not, in the archive: the
// rest of it may be good. Any other is of the reading itself.
func OfObject(err error) bool {
	return tidegate.ClassOf(err) == tidegate.Corrupt || errors.Is(err, tidegate.ErrNotFound) || errors.Is(err, tidegate.ErrUnsupported)
}

func (r *Reader) info(ctx context.Context, id tidegate.StreamID) (StreamInfo, error) {
	text, _, err := bucket.ReadAll(ctx, r.b, StreamName(id), DocumentBytesMax)
	if err != nil {
		return StreamInfo{}, fmt.Errorf("%s: %w", StreamName(id), err)
	}
	return ParseStream(id, text)
}

// nextStream finds the first stream whose objects sort behind after.
func (r *Reader) nextStream(ctx context.Context, after string) (id tidegate.StreamID, found bool, err error) {
	for o, err := range r.b.List(ctx, StreamsPrefix, after) {
		if err != nil {
			return id, false, err
		}
		if e, err := Parse(o.Name); err == nil { // any other object is not the archive's
			return e.Stream, true, nil
		}
	}
	return id, false, nil
}

// Stream is one stream of an archive, as it was when it was opened.
type Stream struct {
	Info    StreamInfo
	Branch  Branch   // the newest
	Mirrors []Mirror // with at least one base
	Bytes   int64    // of all segments, those of other branches included
	Removed Removed  // what a rule has let go
	Fault   error    // nil: what was removed is known

	b     bucket.Bucket
	sizes map[Segment]int64
	heads headCache
	scars scarCache
}

// scarCache keeps the scars that were written down.
type scarCache struct {
	names []ScarName // as listed

	mu     sync.Mutex
	read   bool
	list   []Scar
	faults []error
}

// Open lists a stream's objects and finds its newest branch. A stream without any
// segment has an empty one.
func (r *Reader) Open(ctx context.Context, info StreamInfo) (*Stream, error) {
	s := &Stream{Info: info, b: r.b, sizes: map[Segment]int64{}}
	removed := false
	for o, err := range r.b.List(ctx, StreamPrefix(info.Stream), "") {
		if err != nil {
			return nil, fmt.Errorf("list stream %s/%s: %w", info.Service, info.Name, err)
		}
		e, err := Parse(o.Name)
		if err != nil {
			continue // not the archive's: it is left alone
		}
		switch e.Kind {
		case KindSegment:
			s.sizes[e.Segment] = o.Size
			s.Bytes += max(0, o.Size)
		case KindBase:
			if !slices.Contains(s.Mirrors, e.Mirror) {
				s.Mirrors = append(s.Mirrors, e.Mirror)
			}
		case KindRemoved:
			removed = true
		case KindScar:
			s.scars.names = append(s.scars.names, e.Scar)
		default:
		}
	}
	if removed {
		var err error
		if s.Removed, _, err = readRemoved(ctx, r.b, info.Stream); err != nil && !OfObject(err) {
			return nil, err
		}
		s.Fault = err
	}
	all := make([]Segment, 0, len(s.sizes))
	for seg := range s.sizes {
		all = append(all, seg)
	}
	var err error
	s.Branch, err = newest(all, func(prev, next Segment) (bool, error) { return s.meets(ctx, prev, next) })
	if err != nil {
		return nil, fmt.Errorf("find newest branch of %s/%s: %w", info.Service, info.Name, err)
	}
	return s, nil
}

// Aside lists the segments that the newest branch is not made of: of other branches,
// or with batches that others have as well.
func (s *Stream) Aside() []Segment {
	used := map[Segment]bool{}
	for _, g := range s.Branch.Segments {
		used[g] = true
	}
	var out []Segment
	for g := range s.sizes {
		if !used[g] {
			out = append(out, g)
		}
	}
	slices.SortFunc(out, func(a, b Segment) int { return int(min(1, max(-1, int64(a.First)-int64(b.First)))) })
	return out
}

// Size is the size of a segment's object in bytes; 0 where it is none that was put.
func (s *Stream) Size(g Segment) int64 { return max(0, s.sizes[g]) }

func (s *Stream) name(g Segment) string { return g.Name(s.Info.Stream) }

// meets reports whether next goes on from the batch before its first as prev has it.
func (s *Stream) meets(ctx context.Context, prev, next Segment) (bool, error) {
	raw, err := getRange(ctx, s.b, s.name(next), 0, batch.HeaderSize)
	if err != nil {
		return false, err
	}
	if _, err := batch.ParseHeader(raw); err != nil {
		return false, inObject(s.name(next), 0, err)
	}
	chain := prev.Chain
	if prev.Last >= next.First {
		heads, err := s.headers(ctx, prev)
		if err != nil {
			return false, err
		}
		i := int(next.First - 1 - prev.First)
		if i < 0 || i >= len(heads) {
			return false, nil
		}
		chain = heads[i].Chain
	}
	return batch.Follows(raw, chain), nil
}

// inObject says in which object damage is.
func inObject(name string, off int64, err error) error {
	var c *tidegate.CorruptError
	if errors.As(err, &c) {
		return &tidegate.CorruptError{Path: name, Offset: off, What: c.What}
	}
	return fmt.Errorf("%s at %d: %w", name, off, err)
}

// fetch reads a segment whole and verifies all of it but what it follows: every
// batch's header, length and checksums, that each follows the one before, and that
// first and last are what the name says.
func (s *Stream) fetch(ctx context.Context, g Segment) (data []byte, heads []batch.Header, err error) {
	name := s.name(g)
	r, err := s.b.Get(ctx, name, 0, -1)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if s.sizes[g] < 0 {
		return nil, nil, unlike(name)
	}
	data = make([]byte, s.sizes[g])
	n, err := io.ReadFull(r, data)
	if err == nil {
		var more [1]byte
		if k, _ := io.ReadFull(r, more[:]); k > 0 { // an end is what is expected
			return nil, nil, &tidegate.CorruptError{Path: name, Offset: int64(n), What: fmt.Sprintf("the object has more than the %d bytes that were listed", n)}
		}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, nil, &tidegate.CorruptError{Path: name, Offset: int64(n), What: fmt.Sprintf("the object has %d bytes, want %d", n, len(data))}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("get %s: %w", name, err)
	}
	heads, err = s.verify(g, data)
	return data, heads, err
}

func (s *Stream) verify(g Segment, data []byte) ([]batch.Header, error) {
	name := s.name(g)
	bad := func(off int, format string, args ...any) error {
		return &tidegate.CorruptError{Path: name, Offset: int64(off), What: fmt.Sprintf(format, args...)}
	}
	var heads []batch.Header
	for off := 0; off < len(data); {
		h, err := batch.ParseHeader(data[off:])
		if err != nil {
			return nil, inObject(name, int64(off), err)
		}
		end := off + h.SealedLen()
		if end > len(data) {
			return nil, bad(off, "batch %d is cut: %d of %d bytes", uint64(h.Seq), len(data)-off, h.SealedLen())
		}
		if _, err := batch.VerifyBytes(data[off:end]); err != nil {
			return nil, inObject(name, int64(off), err)
		}
		switch want := g.First + tidegate.Seq(len(heads)); {
		case h.Stream != s.Info.Stream:
			return nil, bad(off, "is of stream %s", h.Stream)
		case h.Seq != want:
			return nil, bad(off, "has batch %d where %d is due", uint64(h.Seq), uint64(want))
		case len(heads) > 0 && !batch.Follows(data[off:], heads[len(heads)-1].Chain):
			return nil, bad(off, "batch %d does not follow the one before", uint64(h.Seq))
		}
		heads = append(heads, h)
		off = end
	}
	if len(heads) == 0 {
		return nil, bad(0, "has no batch")
	}
	if h := heads[len(heads)-1]; h.Pos() != g.End() {
		return nil, bad(0, "ends with %s, its name says %s", h.Pos(), g.End())
	}
	return heads, nil
}

// headCache keeps the headers of segments that were asked for.
type headCache struct {
	mu    sync.Mutex
	all   map[Segment][]batch.Header
	first map[Segment]batch.Header
}

// headsKept bounds the cache; a segment has some hundred batches.
const headsKept = 64

// headers returns the headers of a segment's batches, verified.
func (s *Stream) headers(ctx context.Context, g Segment) ([]batch.Header, error) {
	s.heads.mu.Lock()
	heads, ok := s.heads.all[g]
	s.heads.mu.Unlock()
	if ok {
		return heads, nil
	}
	_, heads, err := s.fetch(ctx, g)
	if err != nil {
		return nil, err
	}
	s.heads.mu.Lock()
	defer s.heads.mu.Unlock()
	if s.heads.all == nil || len(s.heads.all) >= headsKept {
		s.heads.all = map[Segment][]batch.Header{}
	}
	s.heads.all[g] = heads
	return heads, nil
}

// head returns the header of a segment's first batch: one small request.
func (s *Stream) head(ctx context.Context, g Segment) (batch.Header, error) {
	s.heads.mu.Lock()
	h, ok := s.heads.first[g]
	s.heads.mu.Unlock()
	if ok {
		return h, nil
	}
	raw, err := getRange(ctx, s.b, s.name(g), 0, batch.HeaderSize)
	if err != nil {
		return h, err
	}
	if h, err = batch.ParseHeader(raw); err != nil {
		return h, inObject(s.name(g), 0, err)
	}
	if h.Seq != g.First || h.Stream != s.Info.Stream {
		return h, &tidegate.CorruptError{Path: s.name(g), Offset: 0, What: fmt.Sprintf("begins with batch %d of stream %s", uint64(h.Seq), h.Stream)}
	}
	s.heads.mu.Lock()
	defer s.heads.mu.Unlock()
	if s.heads.first == nil {
		s.heads.first = map[Segment]batch.Header{}
	}
	s.heads.first[g] = h
	return h, nil
}
