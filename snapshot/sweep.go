package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tidegate/tidegate"
)

// Pace holds a sweep back: each is asked before about so many bytes are read, or
// written. nil: nothing is held back. An error ends the sweep, and what was done
// stays done.
type Pace struct {
	Read, Write func(ctx context.Context, bytes int) error
}

// Swept says what a sweep has done.
type Swept struct {
	Extents int   // that no base needs, and that are not known any more
	Packs   int   // files that went
	Moved   int64 // bytes of records that were written once more
	Freed   int64 // bytes of the packs that went, less what was moved
	// Damaged says what could not be read. Its pack stays.
	Damaged []error
}

// Sweep is what removes bases, and what no base needs any more. It is the one
// writer of its store while it is open, so that no intake can find an extent that is
// about to go. It belongs to one goroutine.
//
// Invariants, at any moment and after any crash:
//  1. an extent that a listed base, or one being read, needs has a record that a
//     sealed pack's index names, and so has each extent that the record takes pages
//     from, and so on
//  2. what a transfer has brought that was cut off, or a seed, is kept until a base
//     has been listed after it: it lies in packs behind all that bases name
//  3. no index names a record that can not be read because of what went, save where
//     a crash came in between; that is found out when it is read back, and brought anew
type Sweep struct {
	s       *Store
	in      *Intake
	kept    map[Name]bool // extents that stay; true: what they take pages from is among them
	packs   []sweptPack   // ascending
	pending bool          // packs lie behind all that bases name
	done    Swept
}

// sweptPack is what a sealed pack has that stays.
type sweptPack struct {
	number  uint64
	size    int64
	left    int64 // bytes of records that stay
	entries []indexEntry
	damaged bool
}

// Sweep begins one; the caller closes it. tidegate.ErrConflict while a base is taken
// in, here or by another process.
func (s *Store) Sweep() (*Sweep, error) {
	in, err := s.Intake()
	if err != nil {
		return nil, err
	}
	return &Sweep{s: s, in: in}, nil
}

// Close lets others write.
func (w *Sweep) Close() error { return w.in.Close() }

// Remove takes a base off the list, durably. Its extents go with the next Run.
// tidegate.ErrConflict while somebody reads it. After another error it may still be
// there at the next start, as whole as it was.
func (w *Sweep) Remove(l Listed) error {
	s := w.s
	s.mu.Lock()
	i := slices.IndexFunc(s.bases, func(o Listed) bool { return o.Name == l.Name })
	read := s.open[l.Name] > 0
	if i >= 0 && !read {
		s.bases = slices.Delete(s.bases, i, i+1) // from now on nobody opens it
	}
	s.mu.Unlock()
	if read {
		return &tidegate.Error{Op: "remove base", Subject: l.Name.String(), Class: tidegate.Transient, Err: fmt.Errorf("somebody reads it: %w", tidegate.ErrConflict)}
	}
	path := filepath.Join(s.dir, basesDir, baseFile(l.Generation, l.Name))
	if err := s.fsys.Remove(path); err != nil && !errors.Is(err, tidegate.ErrNotFound) {
		if i >= 0 {
			s.insert(l)
		}
		return fmt.Errorf("remove base: %w", err)
	}
	return s.fsys.SyncDir(filepath.Dir(path))
}

// Run takes away what no listed base needs. It holds a name in memory for each
// extent that stays. tidegate.ErrConflict while a [Giver] is open. When ctx ends, or
// the pace fails, the store is as valid as before, and Run may be called again.
func (w *Sweep) Run(ctx context.Context, pace Pace) (Swept, error) {
	w.done, w.kept, w.packs, w.pending = Swept{}, map[Name]bool{}, nil, false
	// A manifest that was removed must not come back to a store that lacks its extents.
	if err := w.s.fsys.SyncDir(filepath.Join(w.s.dir, basesDir)); err != nil {
		return w.done, err
	}
	if err := w.given(); err != nil {
		return w.done, err // before everything is looked at in vain
	}
	if some, err := w.roots(); err != nil || !some {
		return w.done, err
	}
	if err := w.reach(ctx, pace); err != nil {
		return w.done, err
	}
	err := w.given()
	if err == nil {
		err = w.drop()
	}
	if err == nil {
		err = w.remove(w.emptied())
	}
	if err == nil {
		err = w.compact(ctx, pace)
	}
	return w.done, err
}

// given refuses while extents may be handed out that no base names. Behind drop
// nobody finds those any more.
func (w *Sweep) given() error {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if w.s.givers > 0 {
		return &tidegate.Error{Op: "sweep bases in", Subject: w.s.dir, Class: tidegate.Transient, Err: fmt.Errorf("a base is being given to another node: %w", tidegate.ErrConflict)}
	}
	return nil
}

// roots notes what manifests name, and what arrived after all of that. Of a manifest
// that cannot be read nobody knows what it names: then nothing may go. some is false
// while there is no manifest: then all there is has arrived, or was seeded, for one
// that is to come.
func (w *Sweep) roots() (some bool, err error) {
	s, dir := w.s, filepath.Join(w.s.dir, basesDir)
	names, err := s.fsys.List(dir)
	if err != nil {
		return false, err
	}
	newest := uint64(0)
	for _, file := range names {
		if !strings.HasSuffix(file, baseSuffix) {
			continue
		}
		m, _, err := s.namedManifest(file)
		if err != nil {
			return false, err
		}
		for _, extents := range m.Extents {
			for _, x := range extents {
				if at, ok := s.find(x); ok {
					w.kept[x], some = false, true
					newest = max(newest, at.pack)
				}
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for x, at := range s.index {
		if at.pack > newest {
			w.kept[x], w.pending = false, true
		}
	}
	for _, number := range slices.Sorted(maps.Keys(s.packs)) {
		w.packs = append(w.packs, sweptPack{number: number, size: s.packs[number]})
	}
	return some, nil
}

// entriesOf returns the records of a pack that its index names, and that the store reads.
func (w *Sweep) entriesOf(number uint64) (named int, current []indexEntry, err error) {
	path := w.s.packPath(number, idxSuffix)
	b, err := readAll(w.s.fsys, path)
	if err != nil {
		return 0, nil, err
	}
	_, entries, err := parseIndex(b)
	if err != nil {
		return 0, nil, inFile(err, path, -1)
	}
	named = len(entries)
	return named, slices.DeleteFunc(entries, func(e indexEntry) bool {
		at, ok := w.s.find(e.name)
		return !ok || at != (loc{number, e.offset, e.length})
	}), nil
}

// reach adds what those that stay take pages from, until nothing is missing. A
// record's sources were there before it, so it mostly takes one round.
func (w *Sweep) reach(ctx context.Context, pace Pace) error {
	for more := true; more; {
		more = false
		for i := len(w.packs) - 1; i >= 0; i-- {
			found, err := w.reachFrom(ctx, pace, &w.packs[i])
			if err != nil {
				return err
			}
			more = more || found
		}
	}
	return nil
}

func (w *Sweep) reachFrom(ctx context.Context, pace Pace, p *sweptPack) (found bool, err error) {
	_, entries, err := w.entriesOf(p.number)
	if err != nil {
		return false, err
	}
	entries = slices.DeleteFunc(entries, func(e indexEntry) bool {
		reached, stays := w.kept[e.name]
		return !stays || reached
	})
	if len(entries) == 0 {
		return false, nil
	}
	path := w.s.packPath(p.number, packSuffix)
	f, err := w.s.fsys.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buf := make([]byte, tableBytesMax)
	for _, e := range entries {
		b := buf[:min(tableBytesMax, int(e.length))]
		if err := wait(ctx, pace.Read, len(b)); err != nil {
			return found, err
		}
		if err := readRecord(f, b, e.offset); err != nil && tidegate.ClassOf(err) != tidegate.Corrupt {
			return found, fmt.Errorf("read %s: %w", path, err)
		}
		name, sources, err := parseSources(b)
		if err == nil && name != e.name {
			err = badRecord("is of another extent")
		}
		if err != nil {
			// It cannot be read, and needs nothing any more.
			p.damaged = true
			w.done.Damaged = append(w.done.Damaged, inFile(err, path, e.offset))
		}
		w.kept[e.name] = true
		for _, x := range sources {
			if _, stays := w.kept[x]; stays {
				continue
			}
			if _, here := w.s.find(x); here {
				w.kept[x], found = false, true
			}
		}
	}
	return found, nil
}

// readRecord reads len(b) bytes; a *tidegate.CorruptError when the file is shorter.
func readRecord(f io.ReaderAt, b []byte, at int64) error {
	_, err := f.ReadAt(b, at)
	if errors.Is(err, io.EOF) {
		clear(b)
		return badRecord("record is cut")
	}
	return err
}

func wait(ctx context.Context, pace func(context.Context, int) error, bytes int) error {
	if err := ctx.Err(); err != nil || pace == nil {
		return err
	}
	return pace(ctx, bytes)
}

// drop makes every index name only what stays. What takes pages from others came
// after those, mostly, and is forgotten before them.
func (w *Sweep) drop() error {
	for i := len(w.packs) - 1; i >= 0; i-- {
		p := &w.packs[i]
		named, entries, err := w.entriesOf(p.number)
		if err != nil {
			return err
		}
		gone := []indexEntry{}
		for _, e := range entries {
			if _, stays := w.kept[e.name]; stays {
				p.entries, p.left = append(p.entries, e), p.left+int64(e.length)
			} else {
				gone = append(gone, e)
			}
		}
		if len(p.entries) == named {
			continue
		}
		if err := w.in.writeIndex(p.number, p.entries); err != nil {
			return err
		}
		w.s.forgetAll(gone)
		w.done.Extents += len(gone)
	}
	return nil
}

// emptied returns the packs of which nothing stays, whose indexes say so.
func (w *Sweep) emptied() (list []sweptPack) {
	for _, p := range w.packs {
		if len(p.entries) == 0 {
			list = append(list, p)
		}
	}
	return list
}

// remove takes packs away, and then the indexes that name nothing in them: a pack
// without an index would be taken for one whose writer was killed.
func (w *Sweep) remove(packs []sweptPack) error {
	if len(packs) == 0 {
		return nil
	}
	dir := filepath.Join(w.s.dir, packsDir)
	for _, suffix := range []string{packSuffix, idxSuffix} {
		for _, p := range packs {
			if err := w.s.fsys.Remove(w.s.packPath(p.number, suffix)); err != nil && !errors.Is(err, tidegate.ErrNotFound) {
				return err
			}
		}
		if err := w.s.fsys.SyncDir(dir); err != nil {
			return err
		}
	}
	for _, p := range packs {
		w.s.dropPack(p.number)
		w.done.Packs++
		w.done.Freed += p.size
	}
	return nil
}

// finishRemoval removes an index whose pack has gone, if that was a sweep's doing.
func (s *Store) finishRemoval(number uint64) error {
	path := s.packPath(number, idxSuffix)
	b, err := readAll(s.fsys, path)
	if err != nil {
		return err
	}
	if _, entries, err := parseIndex(b); err != nil || len(entries) > 0 {
		return nil //nolint:nilerr // damage, which is told of when it is loaded, and stays
	}
	return s.fsys.Remove(path)
}

// moving is a record that was written once more, and the packs that go when that
// is durable.
type moving struct {
	to    []indexEntry
	packs []uint64 // per entry
	from  []sweptPack
	bytes int64
}

// compact writes what stays of packs once more where that is no more than half, and
// removes them. A disk that is full ends it, without harm. While packs wait for
// their base nothing is moved behind them: they would be taken for older.
func (w *Sweep) compact(ctx context.Context, pace Pace) (err error) {
	if w.pending {
		return nil
	}
	var m moving
	for _, p := range w.packs {
		if len(p.entries) == 0 || p.damaged || 2*p.left > p.size {
			continue
		}
		if err = w.move(ctx, pace, p, &m); err != nil {
			break
		}
		if m.bytes < w.s.cfg.PackBytes {
			continue
		}
		if err = w.settle(&m); err != nil {
			return err
		}
	}
	if errors.Is(err, tidegate.ErrStopped) {
		return err
	}
	if errors.Is(err, tidegate.ErrFull) {
		err = nil
	}
	return errors.Join(err, w.settle(&m))
}

// move copies what stays of a pack into the one that is being written.
func (w *Sweep) move(ctx context.Context, pace Pace, p sweptPack, m *moving) (err error) {
	path := w.s.packPath(p.number, packSuffix)
	f, err := w.s.fsys.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var buf []byte
	for _, e := range p.entries {
		for _, pace := range []func(context.Context, int) error{pace.Read, pace.Write} {
			if err := wait(ctx, pace, int(e.length)); err != nil {
				return err
			}
		}
		buf = slices.Grow(buf[:0], int(e.length))[:e.length]
		err := readRecord(f, buf, e.offset)
		var r record
		if err == nil {
			r, err = parseRecord(buf)
		}
		if tidegate.ClassOf(err) == tidegate.Corrupt {
			w.done.Damaged = append(w.done.Damaged, inFile(err, path, e.offset))
			return nil // the pack stays; what was copied of it is found there from now on
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		if !w.s.newestAt(r.place, e.name) {
			r.place = 0 // it would be the newest there, at the next start
		}
		if err := w.put(&r, m); err != nil {
			return err
		}
	}
	m.from = append(m.from, p)
	return nil
}

func (w *Sweep) put(r *record, m *moving) error {
	w.in.mu.Lock()
	defer w.in.mu.Unlock()
	e, err := w.in.write(r)
	if err != nil {
		return err
	}
	m.to, m.packs, m.bytes = append(m.to, e), append(m.packs, w.in.number), m.bytes+int64(e.length)
	return nil
}

// settle makes durable what was moved, has it read from there, and removes the packs
// that it came from. A reader that is about to open one of those looks again.
func (w *Sweep) settle(m *moving) error {
	if len(m.to) == 0 {
		return nil
	}
	if err := w.in.flush(); err != nil {
		return err
	}
	for i, e := range m.to {
		w.s.add(m.packs[i], []indexEntry{e}, int64(e.length))
	}
	w.done.Moved += m.bytes
	w.done.Freed -= m.bytes
	for _, p := range m.from {
		if err := w.in.writeIndex(p.number, nil); err != nil {
			return err
		}
	}
	from := m.from
	*m = moving{}
	return w.remove(from)
}

// insert lists a base, by generation and start.
func (s *Store) insert(l Listed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(s.bases, func(o Listed) bool { return o.Name == l.Name }) {
		return
	}
	s.bases = append(s.bases, l)
	slices.SortStableFunc(s.bases, func(a, b Listed) int {
		return cmp.Or(cmp.Compare(a.Generation, b.Generation), cmp.Compare(a.Start, b.Start))
	})
}

// newestAt reports whether the extent was the last at a place.
func (s *Store) newestAt(place uint64, x Name) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.places[place] == x
}

// forgetAll makes records unknown.
func (s *Store) forgetAll(entries []indexEntry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range entries {
		delete(s.index, e.name)
		if s.places[e.place] == e.name {
			delete(s.places, e.place)
		}
	}
}

// dropPack forgets a pack of which no record is known any more.
func (s *Store) dropPack(number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes -= s.packs[number]
	delete(s.packs, number)
}

// forgetPacksBut forgets what was in packs that are not listed.
func (s *Store) forgetPacksBut(numbers []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gone := false
	for number, size := range s.packs {
		if _, listed := slices.BinarySearch(numbers, number); !listed {
			s.bytes -= size
			delete(s.packs, number)
			gone = true
		}
	}
	if !gone {
		return
	}
	for x, at := range s.index {
		if _, there := s.packs[at.pack]; !there {
			delete(s.index, x)
		}
	}
}

// pin keeps a base that is listed, until unpin.
func (s *Store) pin(base Name) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	listed := slices.ContainsFunc(s.bases, func(l Listed) bool { return l.Name == base })
	if listed {
		s.open[base]++
	}
	return listed
}

func (s *Store) unpin(base Name) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[base]--; s.open[base] == 0 {
		delete(s.open, base)
	}
}

// Read reports whether somebody reads a base now.
func (s *Store) Read(base Name) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[base] > 0
}
