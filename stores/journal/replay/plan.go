package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	cold "github.com/tidegate/tidegate/archive/restore"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/stores/journal/base"
)

// Choice is what an operator may choose.
type Choice struct {
	// From is where the pace begins; the zero value is where the state begins.
	From cold.To
	To   cold.To
	// Base is the beginning of the name of the base that the state begins with; empty:
	// the newest at or before From, or the log's beginning where there is none.
	Base string
	// Beginning has the state begin with the log's first batch, whatever bases there are.
	Beginning bool
	// Digest, unless it is zero, is what the state must have at the target.
	Digest tidegate.Digest
	// Marks are further places at which the state's digest is known, of the history that
	// is fed. Those outside of the range are not looked at.
	Marks []Mark
}

// Mark is a place where the digest of the service's state is on record.
type Mark struct {
	Position tidegate.Position `json:"position"`
	Digest   tidegate.Digest   `json:"digest"`
	From     string            `json:"from"` // who recorded it, for people

	lineage tidegate.Lineage // of the journal before it; of a base only, empty: the one that is fed
}

// Plan is what is fed of one stream.
type Plan struct {
	Stream *archive.Stream
	Base   *archive.Base     // that the state begins with; nil: it is empty
	Origin tidegate.Lineage  // of the journal where it begins
	First  tidegate.Position // where the log that is fed begins
	Begin  archive.Place     // the batch that has First
	End    archive.Place     // the last batch that has anything of the target
	Since  time.Time         // source time from which on the source's pace is kept
	Bytes  int64             // of the journal that are fed, at most

	from   cold.To
	to     cold.To
	digest tidegate.Digest
	marks  []Mark // of bases; ascending
}

func refuse(hint string, err error) error {
	return &tidegate.Error{Op: "plan replay", Class: tidegate.Permanent, Hint: hint, Err: err}
}

const windowHint = "`tidegate window` lists what is archived"

// Make chooses what is fed. What is not archived is tidegate.ErrNotFound; what a hole
// lies in, tidegate.ErrGap. bases stay open until the replay has ended.
func Make(ctx context.Context, s *archive.Stream, bases *archive.Bases, c Choice) (*Plan, error) {
	p := &Plan{Stream: s, from: c.From, to: c.To, digest: c.Digest}
	var err error
	if p.End, err = c.To.Place(ctx, s); err != nil {
		return nil, err
	}
	at := p.End // the latest batch that the state may begin with
	if c.From != (cold.To{}) {
		if at, err = c.From.Place(ctx, s); err != nil {
			return nil, err
		}
		if at.Seq > p.End.Seq {
			return nil, &tidegate.Error{Op: "plan replay", Class: tidegate.Misuse, Err: fmt.Errorf("it would begin at %s, behind its end at %s", c.From, c.To)}
		}
		if at.Generation != p.End.Generation {
			return nil, refuse(windowHint, fmt.Errorf("it would begin in generation %d and end in generation %d: %w", uint32(at.Generation), uint32(p.End.Generation), tidegate.ErrGap))
		}
	}
	if err := p.begin(ctx, bases, c, at); err != nil {
		return nil, err
	}
	if err := p.unbroken(p.Begin); err != nil {
		return nil, refuse(windowHint, err)
	}
	switch {
	case !c.From.Time.IsZero():
		p.Since = c.From.Time
	case c.From != (cold.To{}):
		p.Since = at.Oldest
	default:
		p.Since = p.Begin.Oldest
	}
	p.Bytes = int64(p.End.Next - p.First) //nolint:gosec // a size
	return p, p.findMarks(bases, c.Marks)
}

// unbroken is an error when there is a hole between a batch and the end.
func (p *Plan) unbroken(begin archive.Place) error {
	for _, h := range p.Stream.Branch.Holes {
		if begin.Seq <= h.Last && h.First <= p.End.Seq {
			return fmt.Errorf("batches %d to %d %s: %w", uint64(h.First), uint64(h.Last), p.Stream.Missing(h.First, h.Last), tidegate.ErrGap)
		}
	}
	return nil
}

// begin chooses what the state begins with.
func (p *Plan) begin(ctx context.Context, bases *archive.Bases, c Choice, at archive.Place) error {
	first, err := p.Stream.AtSeq(ctx, 1)
	whole := err == nil && first.Generation == p.End.Generation
	if err != nil && !errors.Is(err, tidegate.ErrNotFound) {
		return err
	}
	usesBase := c.Base != "" || !c.Beginning && (c.From != (cold.To{}) || !whole)
	if usesBase {
		err := p.choose(ctx, bases, c, at)
		if err == nil || c.Base != "" || !whole {
			return err
		}
	}
	if !whole {
		return refuse(windowHint, fmt.Errorf("the archived log does not begin at its beginning: %w", tidegate.ErrNotFound))
	}
	p.Begin, p.First = first, first.First
	p.Origin, err = p.lineage(ctx)
	return err
}

// choose takes the newest base at or before a batch; without From, the oldest from which
// the log leads to the end.
func (p *Plan) choose(ctx context.Context, bases *archive.Bases, c Choice, at archive.Place) error {
	all := slices.Clone(bases.All)
	latest, before := p.End.Next, c.To
	if c.From != (cold.To{}) {
		slices.Reverse(all)
		if latest, before = at.First, c.From; c.From.Position != 0 {
			latest = c.From.Position
		}
	}
	why := fmt.Errorf("there is no such base in the archive: %w", tidegate.ErrNotFound)
	for i := range all {
		b := &all[i]
		if c.Base != "" && !strings.HasPrefix(b.Name.String(), c.Base) || b.Generation != p.End.Generation {
			continue
		}
		begin, _, err := p.Stream.From(ctx, b.Info)
		if err == nil {
			err = p.unbroken(begin)
		}
		switch {
		case err == nil && b.Start > latest:
			why = fmt.Errorf("base %.12s lies behind %s: %w", b.Name, before, tidegate.ErrNotFound)
		case err == nil:
			p.Base, p.Begin, p.First, p.Origin = b, begin, b.Start, b.Lineage
			return nil
		case !errors.Is(err, tidegate.ErrNotFound) && !errors.Is(err, tidegate.ErrGap) && !errors.Is(err, tidegate.ErrDiverged):
			return err
		default:
			why = fmt.Errorf("base %.12s: %w", b.Name, err)
		}
	}
	return refuse(windowHint, why)
}

// lineage reads the history that a log which begins at its beginning is of.
func (p *Plan) lineage(ctx context.Context) (tidegate.Lineage, error) {
	var opener batch.Opener
	for b, err := range p.Stream.Batches(ctx, p.Begin.Seq) {
		if err != nil {
			return "", err
		}
		if b.Kind == batch.KindData {
			break
		}
		if b.Kind != batch.KindLineage {
			continue
		}
		_, payload, err := opener.Open(nil, b.Sealed)
		if err != nil {
			return "", p.Stream.InSegment(b.Seq, err)
		}
		l, err := batch.ParseLineage(payload)
		return l.Lineage, err
	}
	return "", refuse("", fmt.Errorf("the log does not say which journal it is of: %w", tidegate.ErrUnsupported))
}

// findMarks lists the bases within the range whose services said a digest, and what is
// known besides.
func (p *Plan) findMarks(bases *archive.Bases, more []Mark) error {
	for _, m := range more {
		if m.Position > p.First && m.Position <= p.End.Next {
			p.marks = append(p.marks, m)
		}
	}
	for i := range bases.All {
		b := &bases.All[i]
		if b.Generation != p.End.Generation || b.Start <= p.First || b.Start > p.End.Next {
			continue
		}
		d, err := base.Digest(b.Base)
		if err != nil {
			return fmt.Errorf("base %.12s: %w", b.Name, err)
		}
		if !d.IsZero() {
			p.marks = append(p.marks, Mark{b.Start, d, fmt.Sprintf("base %.12s", b.Name), b.Lineage})
		}
	}
	slices.SortStableFunc(p.marks, func(a, b Mark) int { return cmp.Compare(a.Position, b.Position) })
	p.marks = slices.Compact(p.marks) // several mirrors have one base
	return nil
}

// Marks are the places within the range where a digest is on record, by position.
func (p *Plan) Marks() []Mark { return p.marks }

// paced reports whether a record is fed at the source's pace.
func (p *Plan) paced(seq tidegate.Seq, first tidegate.Position, at time.Time) bool {
	switch {
	case !p.from.Time.IsZero():
		return !at.Before(p.from.Time)
	case p.from.Position != 0:
		return first >= p.from.Position
	}
	return seq >= p.from.Seq
}

// beyond reports whether a record, and so all that follow it, lies behind the target.
func (p *Plan) beyond(next tidegate.Position, at time.Time) bool {
	return p.to.Position != 0 && next > p.to.Position || !p.to.Time.IsZero() && at.After(p.to.Time)
}

// over reports whether a batch lies wholly behind the target.
func (p *Plan) over(b *batch.Header) bool {
	// To a time, the record that lies behind it is what ends the range, wherever it is.
	return b.Generation != p.End.Generation || p.to.Time.IsZero() && b.Seq > p.End.Seq
}

// state opens the base that the state begins with, and says which of its files the state
// is; the caller closes the reader.
func (p *Plan) state() (r *snapshot.Reader, st base.State, at int, err error) {
	if r, err = p.Base.Store.Reader(p.Base.Listed); err != nil {
		return nil, st, 0, err
	}
	if st, at, err = base.Parse(r.Info().Base, r.Files()); err != nil {
		r.Close()
		return nil, st, 0, err
	}
	return r, st, at, nil
}
