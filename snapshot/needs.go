package snapshot

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

// headsAtOnce is how many records' heads are read at a time, each of some 8 KiB.
const headsAtOnce = 8

// Needs returns which sealed packs listed bases need: those with their extents, with
// the extents that those take pages from, and so on. It reads the heads of their
// records, unless every pack is needed for what the manifests name. An error leaves
// it open what they need.
func (s *Store) Needs(ctx context.Context, bases []Listed) (map[uint64]bool, error) {
	return s.needs(ctx, bases, false)
}

// Whole reports what bases lack of what they rest on, directly or not: a
// *tidegate.CorruptError or tidegate.ErrNotFound. It reads the head of each record that
// they need, and nothing behind it.
func (s *Store) Whole(ctx context.Context, bases []Listed) error {
	_, err := s.needs(ctx, bases, true)
	return err
}

// needs follows what bases rest on, to its end or until all packs are needed.
func (s *Store) needs(ctx context.Context, bases []Listed, toEnd bool) (map[uint64]bool, error) {
	packs, known := map[uint64]bool{}, map[Name]bool{}
	var next []Name
	note := func(x Name) error {
		if known[x] {
			return nil
		}
		at, ok := s.find(x)
		if !ok {
			return corruptExtent(x, "is needed and not there")
		}
		known[x], packs[at.pack] = true, true
		next = append(next, x)
		return nil
	}
	for _, l := range bases {
		_, m, err := s.Manifest(l)
		if err != nil {
			return nil, fmt.Errorf("base %.12s: %w", l.Name, err)
		}
		for _, extents := range m.Extents {
			for _, x := range extents {
				if err := note(x); err != nil {
					return nil, fmt.Errorf("base %.12s: %w", l.Name, err)
				}
			}
		}
	}
	for len(next) > 0 && (toEnd || len(packs) < s.sealedCount()) {
		todo := next
		next = nil
		sources, err := s.sources(ctx, todo)
		if err != nil {
			return nil, err
		}
		for _, x := range sources {
			if err := note(x); err != nil {
				return nil, err
			}
		}
	}
	return packs, nil
}

func (s *Store) sealedCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.packs)
}

// sources returns what the records of extents take pages from, several times if
// several do.
func (s *Store) sources(ctx context.Context, extents []Name) ([]Name, error) {
	slices.SortFunc(extents, func(a, b Name) int { return slices.Compare(a[:], b[:]) })
	var mu sync.Mutex
	var all []Name
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(headsAtOnce)
	for _, x := range extents {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			from, err := s.sourcesOf(x)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, from...)
			return nil
		})
	}
	return all, g.Wait()
}

// sourcesOf reads the head of an extent's record.
func (s *Store) sourcesOf(x Name) (from []Name, err error) {
	f, at, err := s.openPack(x)
	if err != nil {
		return nil, err
	}
	path := s.packPath(at.pack, packSuffix)
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	b := make([]byte, min(tableBytesMax, int(at.length)))
	if err := readRecord(f, b, at.offset); err != nil {
		return nil, inFile(err, path, at.offset)
	}
	name, from, err := parseSources(b)
	if err == nil && name != x {
		err = badRecord(fmt.Sprintf("is extent %.12s, the index says %.12s", name, x))
	}
	if err != nil {
		return nil, inFile(err, path, at.offset)
	}
	return from, nil
}
