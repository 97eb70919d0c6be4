package archive

import (
	"context"
	"errors"
	"time"

	"github.com/tidegate/tidegate"
)

// Span is a part of the branch without a hole, and of one generation.
type Span struct {
	From Place `json:"from"` // first batch
	To   Place `json:"to"`   // last batch
	// Until is the source time of its newest record: the last moment that a restore can
	// be of. Zero when it has no record. To may know of a later one, by the agent's clock.
	Until time.Time `json:"until,omitzero"`
	// Restorable: what can be restored begins at Since, which is a batch of the span;
	// false when no base, and not the log's own beginning, is in it.
	Restorable bool  `json:"restorable"`
	Since      Place `json:"since,omitzero"`
}

// BaseState is a base and what can be done with it.
type BaseState struct {
	Base  Base
	Begin Place // the batch that its log begins with
	Whole Place // the batch with which it is consistent
	Unfit error // nil: it can be restored
}

// Window is what of a stream can be restored.
type Window struct {
	Spans  []Span // oldest first
	Scars  []Scar // where one generation ends and the next begins, oldest first
	Holes  []Hole // of what was never archived
	Gone   []Gone // what a rule has let go
	Bases  []BaseState
	Aside  []Segment
	Faults []error // of the mirrors
}

// Window finds what can be restored. needsBase says that the store cannot be rebuilt
// from the beginning of its log.
func (s *Stream) Window(ctx context.Context, bases *Bases, needsBase bool) (w Window, err error) {
	w = Window{Holes: s.Holes(), Gone: s.Removed.Log, Aside: s.Aside(), Faults: bases.Faults}
	if s.Fault != nil {
		w.Faults = append(w.Faults, s.Fault)
	}
	for _, b := range bases.All {
		st := BaseState{Base: b}
		st.Begin, st.Whole, st.Unfit = s.From(ctx, b.Info)
		if st.Unfit != nil && !errors.Is(st.Unfit, tidegate.ErrNotFound) && !errors.Is(st.Unfit, tidegate.ErrGap) && !errors.Is(st.Unfit, tidegate.ErrDiverged) {
			return w, st.Unfit
		}
		w.Bases = append(w.Bases, st)
	}
	var faults []error
	if w.Scars, faults, err = s.Scars(ctx); err != nil {
		return w, err
	}
	w.Faults = append(w.Faults, faults...)
	parts, err := s.allStretches(ctx)
	if err != nil {
		return w, err
	}
	for _, part := range parts {
		var span Span
		if span.From, err = s.beginning(ctx, part.first); err != nil {
			return w, err
		}
		if span.To, err = s.AtSeq(ctx, part.last); err != nil {
			return w, err
		}
		if span.Until, _, err = s.newestRecord(ctx, span.From.Seq, span.To.Seq); err != nil {
			return w, err
		}
		if !needsBase && span.From.Seq == 1 {
			span.Restorable, span.Since = true, span.From
		}
		for _, b := range w.Bases {
			in := b.Unfit == nil && span.From.Seq <= b.Begin.Seq && b.Whole.Seq <= span.To.Seq
			if in && (!span.Restorable || b.Whole.Seq < span.Since.Seq) {
				span.Restorable, span.Since = true, b.Whole
			}
		}
		w.Spans = append(w.Spans, span)
	}
	return w, nil
}
