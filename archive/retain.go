package archive

import (
	"context"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
)

// Retain says what a rule keeps of the stream, as it is in the archive. locked are
// names of bases that the bucket does not let go; now is this clock's.
func (s *Stream) Retain(ctx context.Context, w *Window, r Retention, locked func(BaseState) bool, now time.Time) (Retained, error) {
	if r.Window == 0 || len(w.Bases) == 0 || len(s.Branch.Segments) == 0 {
		return r.Rule(nil, 0, time.Time{}, now), nil
	}
	if len(w.Faults) > 0 { // what cannot be read may rest on what would go
		return hold(len(w.Bases), true, "of what is archived something cannot be read, and nothing goes before somebody has looked: %v", w.Faults[0]), nil
	}
	tip, err := s.Tip(ctx)
	if err != nil {
		return Retained{}, err
	}
	facts := make([]BaseFact, 0, len(w.Bases))
	for _, b := range w.Bases {
		f, err := s.fact(ctx, b)
		if err != nil {
			return Retained{}, err
		}
		f.Locked = locked != nil && locked(b)
		facts = append(facts, f)
	}
	return r.Rule(facts, tip.Seq, tip.Newest, now), nil
}

// fact is what decides about a base.
func (s *Stream) fact(ctx context.Context, b BaseState) (BaseFact, error) {
	f := BaseFact{
		Name: b.Base.Name, Generation: b.Base.Generation, Start: b.Base.Start, Taken: time.Unix(0, b.Base.Taken).UTC(),
		Begin: b.Begin.Seq, Whole: b.Whole.Seq, Moment: b.Whole.Newest,
	}
	if b.Unfit != nil {
		f.Unfit = b.Unfit.Error()
		return f, nil
	}
	if b.Base.Start > 0 { // what led to it shows of which log it is
		before, err := s.AtPosition(ctx, b.Base.Generation, b.Base.Start-1)
		if ignoreAbsent(err) != nil {
			return f, err
		}
		if err == nil {
			f.Begin = min(f.Begin, before.Seq)
		}
	}
	end, err := s.lastThat(ctx, func(h *batch.Header) bool { return h.Generation <= b.Base.Generation })
	if err != nil {
		return f, err
	}
	last := end.Seq
	for _, run := range s.Branch.Runs() {
		if s.Branch.Segments[run[0]].First <= f.Whole {
			last = min(end.Seq, s.Branch.until(run[1]-1)) // of the last run that begins before it
		}
	}
	at, err := s.AtSeq(ctx, last)
	f.End, f.Until = at.Seq, at.Newest
	return f, err
}

// Goes returns which segments a rule lets go, and how many bytes they have.
func (s *Stream) Goes(k Retained) (fromBranch, fromAside []Segment, bytes int64) {
	fromBranch, fromAside = k.Segments(s.Branch, s.Aside())
	for _, list := range [][]Segment{fromBranch, fromAside} {
		for _, g := range list {
			bytes += s.Size(g)
		}
	}
	return fromBranch, fromAside, bytes
}

// Holes are the ranges of the branch that were never archived, those included of
// which a rule has let go what was around them.
func (s *Stream) Holes() []Hole { return s.Removed.holes(s.Branch) }

// Missing says how it came about that the branch lacks batches.
func (s *Stream) Missing(first, last tidegate.Seq) string {
	if s.Removed.gone(first) && s.Removed.gone(last) {
		return "are not in the archive any more: its rule has let them go"
	}
	return "were never archived"
}
