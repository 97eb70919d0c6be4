package snapshot

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
)

// Put is what became of an extent.
type Put struct {
	Needed int // bytes of it that were not there
	Stored int // bytes that were handed over for them, compressed
}

// Sink takes extents: a [Store] by its [Intake], or a session to one. Put may be
// called concurrently, and returns when the pages have been handed over.
type Sink interface {
	Put(ctx context.Context, place uint64, x *Extent, pages Pages) (Put, error)
}

// Intake is the one writer of a store's directory. Offer, Take and Put may be
// called concurrently.
type Intake struct {
	s    *Store
	lock io.Closer

	mu      sync.Mutex
	next    uint64 // number of the next pack
	f       vfs.File
	number  uint64
	at      int64 // end of the last whole record
	synced  int64
	flushed int64 // that the disk was asked to begin with
	entries []indexEntry
	buf     []byte
	broken  error
}

// flushBytes is written between two requests to the disk to begin.
const flushBytes = 1 << 20

// Intake begins to write. tidegate.ErrConflict when another process does, or this
// one already. What an intake before this one left behind is sealed and counts.
func (s *Store) Intake() (*Intake, error) {
	lock, err := s.fsys.Lock(filepath.Join(s.dir, lockFile))
	if err != nil {
		return nil, &tidegate.Error{
			Op: "write bases in", Subject: s.dir, Class: tidegate.Transient, Err: err,
			Hint: "a base is being taken in, or seeded, or bases are being removed; `tidegate status` shows how far a base is; try again",
		}
	}
	in := &Intake{s: s, lock: lock}
	if err := in.recover(); err != nil {
		return nil, errors.Join(fmt.Errorf("recover packs in %s: %w", s.dir, err), lock.Close())
	}
	return in, nil
}

// recover seals the packs whose writer was killed, and loads what others sealed.
func (in *Intake) recover() error {
	dir := filepath.Join(in.s.dir, packsDir)
	for _, d := range []string{dir, filepath.Join(in.s.dir, basesDir)} {
		if err := durable.SweepTemp(in.s.fsys, d); err != nil {
			return err
		}
	}
	names, err := in.s.fsys.List(dir)
	if err != nil {
		return err
	}
	sealed, open := map[uint64]bool{}, map[uint64]bool{}
	for _, file := range names {
		stem, suffix, _ := strings.Cut(file, ".")
		number, err := strconv.ParseUint(stem, 16, 64)
		if err != nil {
			continue
		}
		in.next = max(in.next, number)
		switch "." + suffix {
		case idxSuffix:
			sealed[number] = true
		case packSuffix:
			open[number] = true
		}
	}
	in.next++
	for _, number := range slices.Sorted(maps.Keys(open)) {
		if sealed[number] {
			continue
		}
		if err := in.sealFound(number); err != nil {
			return err
		}
	}
	for number := range sealed {
		if open[number] {
			continue
		}
		if err := in.s.finishRemoval(number); err != nil {
			return err
		}
	}
	return in.s.refresh()
}

// sealFound makes an index of the whole records in a pack. What lies behind them
// was never known to be stored; it stays where it is.
func (in *Intake) sealFound(number uint64) (err error) {
	path := in.s.packPath(number, packSuffix)
	f, err := in.s.fsys.OpenReadWrite(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	entries, err := scanPack(f)
	if err != nil {
		return inFile(err, path, -1)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return in.writeIndex(number, entries)
}

// scanPack returns the whole records of a pack, up to the first that is not.
func scanPack(f vfs.File) ([]indexEntry, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	head := make([]byte, recordHeaderSize)
	if size < packHeaderSize {
		return nil, nil
	}
	if _, err := f.ReadAt(head[:packHeaderSize], 0); err != nil {
		return nil, err
	}
	if _, err := parsePackHeader(head[:packHeaderSize]); err != nil {
		return nil, nil //nolint:nilerr // torn before anything was stored in it
	}
	var entries []indexEntry
	var buf []byte
	for at := int64(packHeaderSize); at+recordHeaderSize <= size; {
		if _, err := f.ReadAt(head, at); err != nil {
			return nil, err
		}
		n := int64(le.Uint32(head[4:]))
		if n < recordHeaderSize || n > recordBytesMax || at+n > size {
			break
		}
		buf = append(buf[:0], make([]byte, n)...)
		if _, err := f.ReadAt(buf, at); err != nil {
			return nil, err
		}
		r, err := parseRecord(buf)
		if err != nil {
			break
		}
		entries = append(entries, indexEntry{r.x.Name, r.place, at, uint32(n)})
		at += n
	}
	return entries, nil
}

func (in *Intake) writeIndex(number uint64, entries []indexEntry) error {
	return durable.WriteFile(in.s.fsys, in.s.packPath(number, idxSuffix), appendIndex(nil, number, entries))
}

// Offered is an extent, and what the store lacks of it.
type Offered struct {
	Need Need // zero: nothing is to be given

	place   uint64
	x       Extent
	refs    []ref
	sources []Name
	whole   *whole // not nil: pages that are here are stored once more
}

// Offer says which pages of an extent are missing; x is copied where it is kept.
// Pages are found when the whole extent is known, or in what was last at the same
// place.
func (in *Intake) Offer(place uint64, x *Extent) (*Offered, error) {
	if err := x.check(); err != nil {
		return nil, &tidegate.Error{Op: "offer extent", Class: tidegate.Misuse, Err: err}
	}
	o := &Offered{place: place}
	if in.s.Has(x.Name) {
		return o, nil
	}
	o.x = Extent{x.Name, x.Bytes, append([]Name(nil), x.Pages...)}
	o.find(in.s.before(place), in.s.Has)
	if o.Need != (Need{}) {
		return o, nil
	}
	return o, in.store(o, nil, Payload{})
}

// before returns the record that was last at the place; nil when there is none
// that can be read: then the pages cross again.
func (s *Store) before(place uint64) *record {
	s.mu.Lock()
	name, ok := s.places[place]
	s.mu.Unlock()
	if !ok {
		return nil
	}
	r, _, err := s.record(name, nil)
	if err != nil {
		if tidegate.ClassOf(err) == tidegate.Corrupt {
			s.forget(name, err)
		}
		return nil
	}
	return &r
}

// find fills in where the pages are, or will be. has tells which extents can be read.
func (o *Offered) find(old *record, has func(Name) bool) {
	known := map[Name]ref{} // of old's pages
	var of []Name           // by source - 1: old itself, then its sources
	if old != nil {
		of = append([]Name{old.x.Name}, old.sources...)
		held := make([]bool, len(of))
		for i := range of {
			held[i] = has(of[i])
		}
		for i, f := range old.refs {
			if held[f.source] {
				known[old.x.Pages[i]] = ref{f.source + 1, f.ordinal}
			}
		}
	}
	used := map[uint8]uint8{} // source in of -> in o.sources
	own := map[Name]uint8{}
	o.refs = make([]ref, len(o.x.Pages))
	if old != nil && len(old.sources) >= sourcesMax {
		o.whole = &whole{of: old.x}
	}
	for i, p := range o.x.Pages {
		f, ok := known[p]
		if ok && o.whole == nil {
			if used[f.source] == 0 {
				o.sources = append(o.sources, of[f.source-1])
				used[f.source] = uint8(len(o.sources))
			}
			o.refs[i] = ref{used[f.source], f.ordinal}
			continue
		}
		n, again := own[p]
		if !again {
			n = uint8(len(own))
			own[p] = n
			if ok {
				o.whole.here.Add(i)
			} else {
				o.Need.Add(i)
			}
		}
		o.refs[i] = ref{0, n}
	}
}

// Take stores the pages that were needed. A *tidegate.CorruptError when they are
// not what the extent names: nothing is stored then, and they may be given again.
// tidegate.ErrFull: nothing is stored, try later. Any other error is for ever.
func (in *Intake) Take(o *Offered, p Payload) error {
	raw, err := in.s.codec.decode(nil, p, o.Need.Bytes(&o.x))
	if err != nil {
		return fmt.Errorf("take extent %.12s: %w", o.x.Name, err)
	}
	for i, rest := 0, raw; i < len(o.x.Pages); i++ {
		if !o.Need.Has(i) {
			continue
		}
		n := o.x.pageLen(i)
		if sha256.Sum256(rest[:n]) != o.x.Pages[i] {
			return fmt.Errorf("take pages: %w", corruptExtent(o.x.Name, fmt.Sprintf("page %d is not what its name says", i)))
		}
		rest = rest[n:]
	}
	return in.store(o, raw, p)
}

// Put implements [Sink].
func (in *Intake) Put(ctx context.Context, place uint64, x *Extent, pages Pages) (Put, error) {
	if err := ctx.Err(); err != nil {
		return Put{}, err
	}
	o, err := in.Offer(place, x)
	if err != nil || o.Need == (Need{}) {
		return Put{}, err
	}
	p, err := pages.Pages(o.Need)
	if err != nil {
		return Put{}, err
	}
	return Put{o.Need.Bytes(&o.x), len(p.Stored)}, in.Take(o, p)
}

// append writes a record and makes it known. It syncs now and then, so that a
// power cut does not cost a whole transfer.
func (in *Intake) append(o *Offered, p Payload) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.broken != nil {
		return in.broken
	}
	if in.s.Has(o.x.Name) {
		return nil // it was offered twice
	}
	r := record{place: o.place, x: o.x, refs: o.refs, sources: o.sources, own: o.own(), payload: p}
	e, err := in.write(&r)
	if err != nil {
		return err
	}
	in.s.add(in.number, []indexEntry{e}, int64(e.length))
	if in.at-in.synced >= in.s.cfg.SyncBytes {
		return in.sync()
	}
	return nil
}

// write puts a record into the open pack, in.number then, and makes it known to
// nobody; mu is held.
func (in *Intake) write(r *record) (e indexEntry, err error) {
	if err := in.room(); err != nil {
		return e, err
	}
	in.buf = r.append(in.buf[:0])
	if _, err := in.f.WriteAt(in.buf, in.at); err != nil {
		if errors.Is(err, tidegate.ErrFull) {
			return e, fmt.Errorf("write pack: %w", err) // the next record is written over the half one
		}
		return e, in.fail(fmt.Errorf("write pack: %w", err))
	}
	e = indexEntry{r.x.Name, r.place, in.at, uint32(len(in.buf))}
	in.entries = append(in.entries, e)
	in.at += int64(len(in.buf))
	if in.at-in.flushed >= flushBytes {
		// The sync of a log on the same disk waits for what this file's sync still has to write.
		vfs.Flush(in.f, in.flushed, in.at)
		in.flushed = in.at
	}
	return e, nil
}

// room opens a pack if none is open, after sealing one that is full; mu is held.
func (in *Intake) room() error {
	if in.f != nil && in.at >= in.s.cfg.PackBytes {
		if err := in.seal(); err != nil {
			return err
		}
	}
	if in.f != nil {
		return nil
	}
	path := in.s.packPath(in.next, packSuffix)
	f, err := in.s.fsys.Create(path)
	if err != nil {
		return err
	}
	in.next++ // whatever happens next: the name is taken
	_, err = f.WriteAt(packHeader(in.next-1), 0)
	if err == nil {
		err = in.s.fsys.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("begin pack: %w", err), f.Close())
	}
	in.f, in.number, in.at, in.synced, in.flushed, in.entries = f, in.next-1, packHeaderSize, 0, 0, nil
	return nil
}

// sync makes the open pack durable; mu is held.
func (in *Intake) sync() error {
	if err := in.f.Sync(); err != nil {
		return in.fail(fmt.Errorf("sync pack: %w", err))
	}
	in.synced = in.at
	return nil
}

// fail ends the intake for good, and the pack with it: nothing in it is known to
// be what was written; mu is held.
func (in *Intake) fail(err error) error {
	path := in.s.packPath(in.number, packSuffix)
	in.s.forgetPack(in.number)
	err = errors.Join(err, in.f.Close(), in.s.fsys.Rename(path, path+failedSuffix), in.s.fsys.SyncDir(filepath.Dir(path)))
	in.f = nil
	in.broken = &tidegate.Error{Op: "store base", Subject: path, Class: tidegate.Permanent, Err: fmt.Errorf("%w: %w", tidegate.ErrStopped, err)}
	return in.broken
}

func (s *Store) forgetPack(number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, at := range s.index {
		if at.pack == number {
			delete(s.index, n)
		}
	}
}

// seal syncs and closes the open pack and writes its index; mu is held.
func (in *Intake) seal() error {
	if in.f == nil {
		return nil
	}
	if err := in.sync(); err != nil {
		return err
	}
	f := in.f
	in.f = nil
	if err := errors.Join(f.Close(), in.writeIndex(in.number, in.entries)); err != nil {
		return fmt.Errorf("seal pack: %w", err) // the next intake makes the index
	}
	return nil
}

// Commit makes the manifest's bytes a base of the store: when every extent is
// there, synced and, read back, what its name says. allowed is asked before and
// after that, which may take as long as reading takes; its error is returned as
// it is. A *tidegate.CorruptError means that something is damaged, here, and that
// offering everything again will bring it. A base that is listed already is
// returned once more.
func (in *Intake) Commit(ctx context.Context, manifest []byte, allowed func(Info) error) (Listed, error) {
	m, err := ParseManifest(manifest)
	if err != nil {
		return Listed{}, err
	}
	name := Name(sha256.Sum256(manifest))
	if err := allowed(m.Info); err != nil {
		return Listed{}, err
	}
	if one, n := in.s.missing(m); n > 0 {
		return Listed{}, &tidegate.Error{
			Op: "commit base", Subject: name.String(), Class: tidegate.Transient,
			Err: fmt.Errorf("%d of its extents are not here, the first is %.12s: %w", n, one, tidegate.ErrNotFound),
		}
	}
	if err := in.flush(); err != nil {
		return Listed{}, err
	}
	if err := in.s.Verify(ctx, m); err != nil {
		return Listed{}, fmt.Errorf("read base back: %w", err)
	}
	if err := allowed(m.Info); err != nil {
		return Listed{}, err
	}
	path := filepath.Join(in.s.dir, basesDir, baseFile(m.Generation, name))
	if _, err := in.s.fsys.Stat(path); errors.Is(err, tidegate.ErrNotFound) {
		if err := durable.WriteFile(in.s.fsys, path, manifest); err != nil {
			return Listed{}, err
		}
	} else if err != nil {
		return Listed{}, err
	}
	in.s.listed(m, name)
	for _, l := range in.s.Bases() {
		if l.Name == name {
			return l, nil
		}
	}
	return Listed{}, &tidegate.Error{Op: "commit base", Subject: name.String(), Class: tidegate.Corrupt, Err: errors.New("damaged while it was being listed")}
}

func (in *Intake) flush() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.broken != nil {
		return in.broken
	}
	return in.seal()
}

// Close seals what was written, so that it is found by whoever goes on, and lets
// another write. It is idempotent.
func (in *Intake) Close() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.lock == nil {
		return nil
	}
	var err error
	if in.broken == nil {
		err = in.seal()
	}
	err = errors.Join(err, in.lock.Close())
	in.lock = nil
	if in.broken == nil {
		in.broken = &tidegate.Error{Op: "store base", Subject: in.s.dir, Class: tidegate.Misuse, Err: tidegate.ErrStopped}
	}
	return err
}
