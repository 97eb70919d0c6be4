package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/snapshot"
)

// Base is a base in one of a stream's mirrors.
type Base struct {
	snapshot.Listed
	Mirror Mirror
	Store  *snapshot.Store // of the mirror; it is closed with the Bases. nil: the base is only told of
}

// Bases are those of all mirrors of a stream.
type Bases struct {
	All    []Base  // by generation, start, and name; the same base may be in several mirrors
	Faults []error // what cannot be read, one per object

	stores []*snapshot.Store
}

// Close releases memory.
func (b *Bases) Close() {
	for _, s := range b.stores {
		s.Close()
	}
}

// Bases opens the mirrors of a stream; the caller closes them. What is read of them
// later is read under ctx.
func (s *Stream) Bases(ctx context.Context) (*Bases, error) { return s.bases(ctx, blockBytes) }

// bases is Bases, for what is read in parts of so many bytes.
func (s *Stream) bases(ctx context.Context, block int64) (*Bases, error) {
	out := &Bases{}
	for _, m := range s.Mirrors {
		prefix := m.Prefix(s.Info.Stream)
		fsys, err := blocksOf(ctx, s.b, prefix, block)
		if err != nil {
			out.Close()
			return nil, err
		}
		store, err := snapshot.Open(fsys, "/"+prefix[:len(prefix)-1], snapshot.StoreConfig{})
		if err != nil {
			out.Close()
			return nil, fmt.Errorf("mirror of node %s: %w", m.Node, err)
		}
		out.stores = append(out.stores, store)
		out.Faults = append(out.Faults, store.Faults()...)
		for _, l := range store.Bases() {
			if l.Stream != s.Info.Stream {
				out.Faults = append(out.Faults, &tidegate.CorruptError{Path: prefix, Offset: -1, What: fmt.Sprintf("base %s is of stream %s", l.Name, l.Stream)})
				continue
			}
			out.All = append(out.All, Base{Listed: l, Mirror: m, Store: store})
		}
	}
	out.Sort()
	return out, nil
}

// Sort brings All into its order.
func (b *Bases) Sort() {
	slices.SortStableFunc(b.All, func(a, b Base) int {
		return cmp.Or(cmp.Compare(a.Generation, b.Generation), cmp.Compare(a.Start, b.Start), slices.Compare(a.Name[:], b.Name[:]))
	})
}

// From finds where the log of a base begins in the newest branch, and the batch with
// which the base is consistent. why says what keeps it from being restored; nil when
// nothing does, as far as the archive knows.
func (s *Stream) From(ctx context.Context, b snapshot.Info) (begin, consistent Place, why error) {
	opened, found, err := s.opened(ctx, b.Generation)
	if err != nil {
		return begin, consistent, err
	}
	if found && opened.Epoch != b.Opened {
		return begin, consistent, fmt.Errorf("generation %d was opened under epoch %s in the log, and under %s for the base: %w", uint32(b.Generation), opened.Epoch, b.Opened, tidegate.ErrDiverged)
	}
	if begin, err = s.AtPosition(ctx, b.Generation, b.Start); err != nil {
		return begin, consistent, fmt.Errorf("the log where it begins: %w", err)
	}
	if consistent, err = s.AtPosition(ctx, b.Generation, b.End); err != nil {
		return begin, consistent, fmt.Errorf("the log up to where it is consistent: %w", err)
	}
	for _, h := range s.Branch.Holes {
		if begin.Seq <= h.Last && h.First <= consistent.Seq {
			return begin, consistent, s.hole(h.First, h.Last)
		}
	}
	return begin, consistent, s.ledTo(ctx, b)
}

// ledTo reports why a base that is complete where it begins may not be of this log: of
// such a base nothing behind Start tells.
func (s *Stream) ledTo(ctx context.Context, b snapshot.Info) error {
	if b.Start != b.End || b.Start == 0 {
		return nil
	}
	of := b.Attrs[snapshot.AttrEpoch]
	if of == "" {
		return fmt.Errorf("it does not say of which log it was taken: %w", tidegate.ErrNotFound)
	}
	before, err := s.AtPosition(ctx, b.Generation, b.Start-1)
	switch {
	case err != nil:
		return fmt.Errorf("the log that led to it: %w", err)
	case before.Epoch.String() != of:
		return fmt.Errorf("the log that led to it is of epoch %s, it was taken of one of epoch %s: %w", before.Epoch, of, tidegate.ErrDiverged)
	}
	return nil
}

// ignoreAbsent makes nothing of an error that says that something is not there.
func ignoreAbsent(err error) error {
	if errors.Is(err, tidegate.ErrNotFound) || errors.Is(err, tidegate.ErrGap) {
		return nil
	}
	return err
}
