package archive

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
)

// fetchesAhead is how many segments are on their way at a time, each in memory whole.
const fetchesAhead = 6

// Batch is a sealed batch out of an archive. Sealed is the iteration's: it is valid
// until the next one.
type Batch struct {
	batch.Header
	Sealed []byte
}

// Batches gives the batches of the newest branch in order, from seq from on; all of
// them are verified, and that each follows the one before. Segments are fetched
// ahead, several at a time. It ends at the first error: a hole wraps tidegate.ErrGap,
// damage names the object and the byte.
func (s *Stream) Batches(ctx context.Context, from tidegate.Seq) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		if err := s.batches(ctx, from, yield); err != nil {
			yield(Batch{}, err)
		}
	}
}

// fetched is a segment on its way.
type fetched struct {
	data  []byte
	heads []batch.Header
	err   error
}

// errOver says that the consumer has had enough.
var errOver = errors.New("over")

func (s *Stream) batches(ctx context.Context, from tidegate.Seq, yield func(Batch, error) bool) error {
	first, ok := s.Branch.At(from)
	if !ok {
		return s.notHere(from)
	}
	ctx, cancel := context.WithCancel(ctx)
	g, ctx := errgroup.WithContext(ctx)
	queue := make(chan chan fetched, fetchesAhead-1)
	g.Go(func() error {
		defer close(queue)
		for _, seg := range s.Branch.Segments[first:] {
			out := make(chan fetched, 1)
			select {
			case queue <- out:
			case <-ctx.Done():
				return nil
			}
			g.Go(func() error {
				var f fetched
				f.data, f.heads, f.err = s.fetch(ctx, seg)
				out <- f
				return nil
			})
		}
		return nil
	})
	err := s.consume(ctx, from, first, queue, yield)
	cancel()
	_ = g.Wait() // what they met is in what they sent
	if errors.Is(err, errOver) {
		return nil
	}
	return err
}

func (s *Stream) consume(ctx context.Context, from tidegate.Seq, at int, queue <-chan chan fetched, yield func(Batch, error) bool) error {
	var prev *tidegate.LogPos
	for out := range queue {
		var f fetched
		select {
		case f = <-out:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if f.err != nil {
			return f.err
		}
		seg := s.Branch.Segments[at]
		if prev != nil && seg.First > prev.Seq+1 {
			return s.hole(prev.Seq+1, seg.First-1)
		}
		off := 0
		for _, h := range f.heads {
			sealed := f.data[off : off+h.SealedLen()]
			off += h.SealedLen()
			switch {
			case h.Seq > s.Branch.until(at):
				continue
			case prev != nil && h.Seq == prev.Seq+1 && !batch.Follows(sealed, prev.Chain):
				return &tidegate.CorruptError{Path: s.name(seg), Offset: int64(off - h.SealedLen()), What: fmt.Sprintf("batch %d does not follow %s", uint64(h.Seq), *prev)}
			}
			pos := h.Pos()
			prev = &pos
			if h.Seq < from {
				continue
			}
			if !yield(Batch{Header: h, Sealed: sealed}, nil) {
				return errOver
			}
		}
		at++
	}
	return context.Cause(ctx)
}

func (s *Stream) hole(first, last tidegate.Seq) error {
	return &tidegate.Error{
		Op: "read archive of", Subject: fmt.Sprintf("%s/%s", s.Info.Service, s.Info.Name), Class: tidegate.Corrupt,
		Err:  fmt.Errorf("batches %d to %d %s: %w", uint64(first), uint64(last), s.Missing(first, last), tidegate.ErrGap),
		Hint: "`tidegate window` lists what can be restored around it",
	}
}

// notHere says that a batch is not in the branch.
func (s *Stream) notHere(seq tidegate.Seq) error {
	for _, h := range s.Branch.Holes {
		if h.First <= seq && seq <= h.Last {
			return s.hole(h.First, h.Last)
		}
	}
	return s.outside(fmt.Sprintf("batch %d", uint64(seq)))
}

// outside says that a place is not within what is archived.
func (s *Stream) outside(what string) error {
	return &tidegate.Error{
		Op: "find", Subject: what, Class: tidegate.Permanent,
		Err:  fmt.Errorf("%s/%s is not archived there: %w", s.Info.Service, s.Info.Name, tidegate.ErrNotFound),
		Hint: "`tidegate window` lists what is",
	}
}

// InSegment says of an error in which object the batch is.
func (s *Stream) InSegment(seq tidegate.Seq, err error) error {
	if i, ok := s.Branch.At(seq); ok {
		return inObject(s.name(s.Branch.Segments[i]), -1, fmt.Errorf("batch %d: %w", uint64(seq), err))
	}
	return err
}
