package archive

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
)

// Verified is what was read and compared of a stream.
type Verified struct {
	Segments int     // objects
	Batches  int64   // in them
	Bytes    int64   // of them, as stored
	Records  int64   // of the source, those of other branches and those that are there twice included
	Gaps     int64   // batches that say that something of the source was lost
	Bases    int     // those in several mirrors count in each
	Bad      []error // what is not as it must be; an object each
}

// VerifyMeter tells how far a verification has come; it may be read at any time.
type VerifyMeter struct{ done, total atomic.Int64 }

// Progress returns bytes read, and to be read: of segments as stored, of bases as
// their files are.
func (m *VerifyMeter) Progress() (done, total int64) { return m.done.Load(), m.total.Load() }

// Verify reads every segment and every base of a stream, several at a time: names,
// checksums, chains, what batches hold against their digests, extents against their
// names. What is bad is listed; an error is of the reading itself.
func (s *Stream) Verify(ctx context.Context, bases *Bases, m *VerifyMeter) (Verified, error) {
	var v Verified
	total := s.Bytes
	for _, b := range bases.All {
		total += b.Bytes
	}
	m.total.Store(total)
	v.Bad = append(v.Bad, bases.Faults...)
	if s.Fault != nil {
		v.Bad = append(v.Bad, s.Fault)
	}
	for _, h := range s.Holes() {
		v.Bad = append(v.Bad, s.hole(h.First, h.Last))
	}
	if err := s.verifySegments(ctx, m, &v); err != nil {
		return v, err
	}
	for _, b := range bases.All {
		_, man, err := b.Store.Manifest(b.Listed)
		if err == nil {
			err = b.Store.Verify(ctx, man)
		}
		if err != nil {
			err = fmt.Errorf("base %.12s in the mirror of %s: %w", b.Name, b.Mirror.Node, err)
		}
		if err := v.note(err); err != nil {
			return v, err
		}
		v.Bases++
		m.done.Add(b.Bytes)
	}
	return v, nil
}

// note keeps an error that is about what was read, and returns any other.
func (v *Verified) note(err error) error {
	if err == nil {
		return nil
	}
	if OfObject(err) {
		v.Bad = append(v.Bad, err)
		return nil
	}
	return err
}

func (s *Stream) verifySegments(ctx context.Context, m *VerifyMeter, v *Verified) error {
	var mu sync.Mutex
	firsts := map[Segment]batch.Header{}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchesAhead)
	for seg, size := range s.sizes {
		g.Go(func() error {
			heads, err := s.verifyOne(gctx, seg)
			m.done.Add(max(0, size))
			mu.Lock()
			defer mu.Unlock()
			v.Segments++
			v.Bytes += max(0, size)
			for i := range heads {
				v.Batches++
				v.Records += int64(heads[i].Records)
				if heads[i].Kind == batch.KindGap {
					v.Gaps++
				}
			}
			if len(heads) > 0 {
				firsts[seg] = heads[0]
			}
			return v.note(err)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, seg := range s.Branch.Segments {
		h, read := firsts[seg]
		if i == 0 || !read || s.Branch.Segments[i-1].Last != seg.First-1 {
			continue // those that overlap were compared when the branch was found, or there is a hole
		}
		if prev := s.Branch.Segments[i-1]; !batch.Follows(h.Append(nil), prev.Chain) {
			v.Bad = append(v.Bad, &tidegate.CorruptError{Path: s.name(seg), Offset: 0, What: fmt.Sprintf("batch %d does not follow %s", uint64(h.Seq), prev.End())})
		}
	}
	return nil
}

// verifyOne reads a segment and opens all of its batches.
func (s *Stream) verifyOne(ctx context.Context, seg Segment) ([]batch.Header, error) {
	data, heads, err := s.fetch(ctx, seg)
	if err != nil {
		return nil, err
	}
	var opener batch.Opener
	var buf []byte
	off := 0
	for i := range heads {
		n := heads[i].SealedLen()
		_, payload, err := opener.Open(buf, data[off:off+n])
		if err != nil {
			return heads, inObject(s.name(seg), int64(off), err)
		}
		if heads[i].Codec != batch.CodecNone {
			buf = payload[:0]
		}
		off += n
	}
	return heads, nil
}
