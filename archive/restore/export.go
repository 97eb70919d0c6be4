package restore

import (
	"context"
	"errors"
	"fmt"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/snapshot"
)

// Excerpt chooses what an export of a range has, so that any moment from one target, c.To,
// up to another can be restored out of it: the base that a restore to the first begins
// with, or the log's beginning, and the log from there on. With inner the bases that lie
// within the range come along. Batches are whole: what lies beside a target in its batch
// comes, too. Errors are those of [Choose].
func Excerpt(ctx context.Context, s *archive.Stream, bases *archive.Bases, c Choice, to To, inner bool) (out archive.Exporting, err error) {
	p, err := Choose(ctx, s, bases, c)
	if err != nil {
		return out, err
	}
	from := p.End
	if p.End, err = to.Place(ctx, s); err != nil {
		return out, err
	}
	switch {
	case p.End.Seq < from.Seq:
		return out, &tidegate.Error{Op: "plan export", Class: tidegate.Misuse, Err: fmt.Errorf("it would begin at %s, behind its end at %s", c.To, to)}
	case p.End.Generation != from.Generation:
		return out, refuse(windowHint, fmt.Errorf("it would begin in generation %d and end in generation %d: %w", uint32(from.Generation), uint32(p.End.Generation), tidegate.ErrGap))
	}
	if !to.Time.IsZero() {
		if p.End, err = proof(ctx, s, p.End); err != nil {
			return out, err
		}
	}
	if err := p.measure(); err != nil { // a hole lies on the way
		return out, err
	}
	out.Begin, out.End = p.Begin, p.End
	if p.Base != nil {
		out.Bases = append(out.Bases, *p.Base)
		if out.Begin, err = ledFrom(ctx, s, p.Base.Info, p.Begin); err != nil {
			return out, err
		}
	}
	if inner {
		err = within(ctx, s, bases, &out)
	}
	return out, err
}

// proof is the batch that proves what a time is: with the next record behind it, unless
// the log ends before that.
func proof(ctx context.Context, s *archive.Stream, at archive.Place) (archive.Place, error) {
	for b, err := range s.Batches(ctx, at.Seq+1) {
		switch {
		case errors.Is(err, tidegate.ErrGap), errors.Is(err, tidegate.ErrNotFound):
			return at, nil
		case err != nil:
			return at, err
		case b.Generation != at.Generation:
			return at, nil
		case b.Records > 0:
			return archive.PlaceOf(&b.Header), nil
		}
	}
	return at, nil
}

// ledFrom is begin, or the batch before it: what led to a base that is whole where it
// begins says of which log the base is.
func ledFrom(ctx context.Context, s *archive.Stream, b snapshot.Info, begin archive.Place) (archive.Place, error) {
	if b.Start != b.End || b.Start == 0 {
		return begin, nil
	}
	before, err := s.AtPosition(ctx, b.Generation, b.Start-1)
	if err != nil || before.Seq > begin.Seq {
		return begin, err
	}
	return before, nil
}

// within adds the bases whose log the range has, each once.
func within(ctx context.Context, s *archive.Stream, bases *archive.Bases, x *archive.Exporting) error {
	known := map[snapshot.Name]bool{}
	for _, b := range x.Bases {
		known[b.Name] = true
	}
	for _, b := range bases.All {
		if known[b.Name] || b.Generation != x.End.Generation {
			continue
		}
		begin, consistent, err := s.From(ctx, b.Info)
		if err == nil {
			begin, err = ledFrom(ctx, s, b.Info, begin)
		}
		switch {
		case err != nil && !IsUnfit(err):
			return err
		case err == nil && begin.Seq >= x.Begin.Seq && consistent.Seq <= x.End.Seq:
			known[b.Name] = true
			x.Bases = append(x.Bases, b)
		}
	}
	return nil
}
