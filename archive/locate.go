package archive

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
)

// Place is a batch of the newest branch, as its header says.
type Place struct {
	Seq        tidegate.Seq        `json:"seq"`
	Epoch      tidegate.Epoch      `json:"epoch"`
	Chain      tidegate.Chain      `json:"chain"`
	Generation tidegate.Generation `json:"generation"`
	First      tidegate.Position   `json:"first"` // of the source, inclusive
	Next       tidegate.Position   `json:"next"`  // exclusive
	Oldest     time.Time           `json:"oldest"`
	Newest     time.Time           `json:"newest"`
}

// PlaceOf is what a batch's header says.
func PlaceOf(h *batch.Header) Place {
	return Place{
		Seq: h.Seq, Epoch: h.Epoch, Chain: h.Chain, Generation: h.Generation, First: h.First, Next: h.Next,
		Oldest: time.Unix(0, h.OldestTime).UTC(), Newest: time.Unix(0, h.NewestTime).UTC(),
	}
}

// Pos is the log's end behind the batch.
func (p Place) Pos() tidegate.LogPos {
	return tidegate.LogPos{Epoch: p.Epoch, Seq: p.Seq, Chain: p.Chain}
}

// AtSeq finds a batch by its seq. Errors: tidegate.ErrGap in a hole,
// tidegate.ErrNotFound outside of the branch.
func (s *Stream) AtSeq(ctx context.Context, seq tidegate.Seq) (Place, error) {
	h, err := s.header(ctx, seq)
	if err != nil {
		return Place{}, err
	}
	return PlaceOf(h), nil
}

func (s *Stream) header(ctx context.Context, seq tidegate.Seq) (*batch.Header, error) {
	i, ok := s.Branch.At(seq)
	if !ok {
		return nil, s.notHere(seq)
	}
	g := s.Branch.Segments[i]
	heads, err := s.headers(ctx, g)
	if err != nil {
		return nil, err
	}
	return &heads[seq-g.First], nil
}

// AtPosition finds the last batch that begins at or before a position of a generation;
// 0 is the newest generation. Errors as of AtSeq; a position behind the branch's
// end is outside, one in a scar is tidegate.ErrGap.
func (s *Stream) AtPosition(ctx context.Context, g tidegate.Generation, p tidegate.Position) (Place, error) {
	tip, err := s.Tip(ctx)
	if err != nil {
		return Place{}, err
	}
	if g == 0 {
		g = tip.Generation
	}
	if g > tip.Generation || g == tip.Generation && p > tip.Next {
		return Place{}, s.outside("position " + p.String())
	}
	at, err := s.lastThat(ctx, func(h *batch.Header) bool {
		return h.Generation < g || h.Generation == g && h.First <= p
	})
	if err != nil {
		return Place{}, err
	}
	if at == nil || at.Generation != g {
		if err := s.inScar(ctx, g, p); err != nil {
			return Place{}, err
		}
		return Place{}, s.outside("position " + p.String())
	}
	if at.Next < p { // behind it is a hole, or the generation's end
		if i, ok := s.Branch.At(at.Seq + 1); !ok || s.Branch.Segments[i].First > at.Seq+1 {
			return Place{}, s.notHere(at.Seq + 1)
		}
		if err := s.inScar(ctx, g, p); err != nil {
			return Place{}, err
		}
		return Place{}, s.outside("position " + p.String())
	}
	return PlaceOf(at), nil
}

// AtTime finds the last batch that has anything of a moment, or of before it, by the
// source's clock. A moment before the branch's first batch, or behind its newest record,
// is outside: nobody can say what happened then. One behind the newest record before a
// hole, or a scar, is tidegate.ErrGap.
func (s *Stream) AtTime(ctx context.Context, t time.Time) (Place, error) {
	tip, err := s.Tip(ctx)
	if err != nil {
		return Place{}, err
	}
	newest, found, err := s.newestRecord(ctx, s.Branch.Segments[0].First, tip.Seq)
	switch {
	case err != nil:
		return Place{}, err
	case !found:
		return Place{}, s.outside("time " + t.UTC().Format(time.RFC3339Nano))
	case t.After(newest):
		return Place{}, &tidegate.Error{
			Op: "find", Subject: "time " + t.UTC().Format(time.RFC3339Nano), Class: tidegate.Permanent,
			Err:  fmt.Errorf("%s/%s is not archived there, its newest record is of %s: %w", s.Info.Service, s.Info.Name, newest.Format(time.RFC3339Nano), tidegate.ErrNotFound),
			Hint: "`tidegate window` lists what is; latest is everything that is archived",
		}
	}
	at, err := s.lastThat(ctx, func(h *batch.Header) bool { return h.OldestTime <= t.UnixNano() })
	if err != nil {
		return Place{}, err
	}
	if at == nil {
		return Place{}, s.outside("time " + t.UTC().Format(time.RFC3339Nano))
	}
	return PlaceOf(at), s.into(ctx, at.Seq, t)
}

// newestRecord is the source time of the newest record of the last batch with records
// between two, both inclusive. Batches without any say nothing of what the source had
// committed: their time is the agent's, who may have read nothing for long.
func (s *Stream) newestRecord(ctx context.Context, first, last tidegate.Seq) (t time.Time, found bool, err error) {
	h, err := s.header(ctx, last)
	if err != nil {
		return t, false, err
	}
	for h != nil && h.Seq >= first {
		if h.Records > 0 {
			return PlaceOf(h).Newest, true, nil
		}
		behind := *h // what stands at one position is passed over at once
		h, err = s.lastThat(ctx, func(h *batch.Header) bool {
			return h.Generation < behind.Generation || h.Generation == behind.Generation && h.First < behind.First
		})
		if err != nil {
			return t, false, err
		}
		if h != nil && h.Seq >= behind.Seq {
			return t, false, s.outside(fmt.Sprintf("a record before batch %d", uint64(behind.Seq))) // positions went back
		}
	}
	return t, false, nil
}

// Tip is the branch's last batch; tidegate.ErrNotFound when there is none.
func (s *Stream) Tip(ctx context.Context) (Place, error) {
	n := len(s.Branch.Segments)
	if n == 0 {
		return Place{}, &tidegate.Error{
			Op: "find", Subject: "the log's end", Class: tidegate.Permanent,
			Err:  fmt.Errorf("of %s/%s nothing of its log is archived: %w", s.Info.Service, s.Info.Name, tidegate.ErrNotFound),
			Hint: "the bases in the archive are of no use without the log behind them; the standby cluster has it",
		}
	}
	heads, err := s.headers(ctx, s.Branch.Segments[n-1])
	if err != nil {
		return Place{}, err
	}
	return PlaceOf(&heads[len(heads)-1]), nil
}

// lastThat finds the last batch for which before holds, which holds for all batches
// before it: by small requests for the first headers of segments, and one for a
// whole segment. nil when it holds for none. Clocks that went back make a time's
// answer one of several right ones.
func (s *Stream) lastThat(ctx context.Context, before func(*batch.Header) bool) (*batch.Header, error) {
	var failed error
	n := sort.Search(len(s.Branch.Segments), func(i int) bool {
		h, err := s.head(ctx, s.Branch.Segments[i])
		if err != nil && failed == nil {
			failed = err
		}
		return err != nil || !before(&h)
	})
	if failed != nil {
		return nil, failed
	}
	if n == 0 {
		return nil, nil
	}
	heads, err := s.headers(ctx, s.Branch.Segments[n-1])
	if err != nil {
		return nil, err
	}
	heads = heads[:min(len(heads), int(s.Branch.until(n-1)-heads[0].Seq)+1)]
	i := sort.Search(len(heads), func(i int) bool { return !before(&heads[i]) })
	return &heads[i-1], nil // it holds for the first
}

// Tail finds the last batch from which on at least so many records lie up to the end of
// another one; where the branch has fewer, its first. For none it is the batch behind.
func (s *Stream) Tail(ctx context.Context, end tidegate.Seq, records uint64) (tidegate.Seq, error) {
	first := end + 1
	for n := uint64(0); n < records; first-- {
		h, err := s.header(ctx, first-1)
		if errors.Is(err, tidegate.ErrNotFound) && first <= end {
			break
		}
		if err != nil {
			return 0, err
		}
		n += uint64(h.Records)
	}
	return first, nil
}

// Count counts the records of batches from first to last, both inclusive, and the bytes
// of the source's log.
func (s *Stream) Count(ctx context.Context, first, last tidegate.Seq) (records, size uint64, err error) {
	for seq := first; seq <= last; seq++ {
		h, err := s.header(ctx, seq)
		if err != nil {
			return 0, 0, err
		}
		records += uint64(h.Records)
		size += uint64(h.Next - h.First)
	}
	return records, size, nil
}

// opened is the place of a generation's first batch; found is false when that is not
// in the branch.
func (s *Stream) opened(ctx context.Context, g tidegate.Generation) (p Place, found bool, err error) {
	if len(s.Branch.Segments) == 0 {
		return Place{}, false, nil
	}
	at, err := s.lastThat(ctx, func(h *batch.Header) bool { return h.Generation < g })
	if err != nil {
		return Place{}, false, err
	}
	seq := s.Branch.Segments[0].First
	if at != nil {
		seq = at.Seq + 1
	} else if seq != 1 {
		return Place{}, false, nil
	}
	p, err = s.AtSeq(ctx, seq)
	if err != nil {
		return Place{}, false, ignoreAbsent(err)
	}
	return p, p.Generation == g, nil
}

// String is for people.
func (p Place) String() string {
	return fmt.Sprintf("seq %d, position %s of generation %d", uint64(p.Seq), p.Next, uint32(p.Generation))
}
