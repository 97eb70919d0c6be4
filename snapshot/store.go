package snapshot

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
)

// Names in a store's directory.
const (
	packsDir   = "packs"
	basesDir   = "bases"
	lockFile   = "writer.lock"
	packSuffix = ".pack"
	idxSuffix  = ".idx"
	baseSuffix = ".base"
	// A pack whose sync failed is never read again: what the kernel says of its
	// pages proves nothing.
	failedSuffix = ".failed"
)

// StoreNames are the names in the directory of a store.
func StoreNames() []string { return []string{packsDir, basesDir, lockFile} }

// StoreConfig shapes a store. The zero value means the defaults.
type StoreConfig struct {
	PackBytes int64 // of a pack, before the next begins; default 256 MiB
	SyncBytes int64 // written between two syncs; default 64 MiB
}

func (c StoreConfig) setDefaults() StoreConfig {
	if c.PackBytes == 0 {
		c.PackBytes = 256 << 20 // 4000 packs for a terabyte
	}
	if c.SyncBytes == 0 {
		c.SyncBytes = 64 << 20 // what a power cut costs
	}
	return c
}

// Listed is a base that the store holds: whole, synced, and read back before it
// was listed.
type Listed struct {
	Info
	Name  Name  // of its manifest
	Files int   // entries, directories and links included
	Bytes int64 // of all files
}

// Store keeps bases in a directory. Every method may be called concurrently.
type Store struct {
	fsys  vfs.FS
	dir   string
	cfg   StoreConfig
	codec *codec

	mu     sync.Mutex
	packs  map[uint64]int64 // sizes, of the sealed packs that were loaded
	index  map[Name]loc
	places map[uint64]Name // newest extent at a place
	bases  []Listed        // by generation, then start
	bytes  int64           // of the packs loaded
	faults []error
	open   map[Name]int // readers of a base, which keep it
	givers int          // that may hand out extents which no base names; they keep everything
}

// loc is where a record is.
type loc struct {
	pack   uint64
	offset int64
	length uint32
}

// Open opens the store in dir, which is made when it is missing. What cannot be
// read is left where it is, does not count as held and stands in [Store.Faults].
func Open(fsys vfs.FS, dir string, cfg StoreConfig) (*Store, error) {
	s := &Store{
		fsys: fsys, dir: dir, cfg: cfg.setDefaults(),
		packs: map[uint64]int64{}, index: map[Name]loc{}, places: map[uint64]Name{}, open: map[Name]int{},
	}
	for _, d := range []string{packsDir, basesDir} {
		if err := durable.MkdirAll(fsys, filepath.Join(dir, d)); err != nil {
			return nil, err
		}
	}
	var err error
	if s.codec, err = newCodec(); err != nil {
		return nil, err
	}
	if err = s.refresh(); err == nil {
		err = s.list()
	}
	if err != nil {
		s.codec.close()
		return nil, fmt.Errorf("open bases in %s: %w", dir, err)
	}
	return s, nil
}

// Close releases memory and goroutines. It does not sync; nothing is open.
func (s *Store) Close() { s.codec.close() }

// Faults returns what could not be read, one error per file.
func (s *Store) Faults() []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.faults)
}

// Bases returns what the store holds, by generation and start.
func (s *Store) Bases() []Listed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.bases)
}

// Bytes is the size of the packs.
func (s *Store) Bytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}

// Has reports whether the extent can be read.
func (s *Store) Has(x Name) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.index[x]
	return ok
}

// refresh loads the packs that somebody has sealed since, in their order, and
// forgets those that somebody has taken away.
func (s *Store) refresh() error {
	names, err := s.fsys.List(filepath.Join(s.dir, packsDir))
	if err != nil {
		return err
	}
	var numbers []uint64
	for _, file := range names { // sorted: the newest place wins
		stem, ok := strings.CutSuffix(file, idxSuffix)
		if number, err := strconv.ParseUint(stem, 16, 64); ok && err == nil {
			numbers = append(numbers, number)
		}
	}
	s.forgetPacksBut(numbers)
	for _, number := range numbers {
		s.mu.Lock()
		_, known := s.packs[number]
		s.mu.Unlock()
		if known {
			continue
		}
		if err := s.load(number); err != nil {
			if tidegate.ClassOf(err) != tidegate.Corrupt && !errors.Is(err, tidegate.ErrNotFound) && !errors.Is(err, tidegate.ErrUnsupported) {
				return err
			}
			s.fault(err)
		}
	}
	return nil
}

func (s *Store) fault(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, err)
}

// load reads a sealed pack's index.
func (s *Store) load(number uint64) error {
	path := s.packPath(number, idxSuffix)
	b, err := readAll(s.fsys, path)
	if err != nil {
		return err
	}
	got, entries, err := parseIndex(b)
	if err == nil && got != number {
		err = badRecord(fmt.Sprintf("is the index of pack %x", got))
	}
	if err != nil {
		return inFile(err, path, -1)
	}
	info, err := s.fsys.Stat(s.packPath(number, packSuffix))
	if errors.Is(err, tidegate.ErrNotFound) && len(entries) == 0 {
		return nil // a sweep was cut short behind the removal of the pack
	}
	if err != nil {
		return fmt.Errorf("pack of %s: %w", path, err)
	}
	s.add(number, entries, info.Size)
	return nil
}

// add makes records known.
func (s *Store) add(number uint64, entries []indexEntry, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packs[number] += size
	s.bytes += size
	for _, e := range entries {
		s.index[e.name] = loc{number, e.offset, e.length}
		s.places[e.place] = e.name
	}
}

func (s *Store) packPath(number uint64, suffix string) string {
	return filepath.Join(s.dir, packsDir, fmt.Sprintf("%016x%s", number, suffix))
}

// list reads the manifests.
func (s *Store) list() error {
	dir := filepath.Join(s.dir, basesDir)
	names, err := s.fsys.List(dir)
	if err != nil {
		return err
	}
	for _, file := range names {
		if !strings.HasSuffix(file, baseSuffix) {
			continue
		}
		m, name, err := s.namedManifest(file)
		switch {
		case err == nil:
			s.listed(m, name)
		case tidegate.ClassOf(err) == tidegate.Corrupt || errors.Is(err, tidegate.ErrUnsupported):
			s.fault(err)
		default:
			return err
		}
	}
	return nil
}

// ManifestPath returns where a store in dir keeps the manifest of a base, by the text
// of its name, whether it is there, and readable, or not.
func ManifestPath(dir string, g tidegate.Generation, name string) string {
	return filepath.Join(dir, basesDir, fmt.Sprintf("%08x-%s%s", uint32(g), name, baseSuffix))
}

func baseFile(g tidegate.Generation, n Name) string {
	return filepath.Base(ManifestPath("", g, n.String()))
}

// listed counts a base as held, unless one of its extents is not there.
func (s *Store) listed(m *Manifest, name Name) {
	if missing, n := s.missing(m); n > 0 {
		s.fault(&tidegate.CorruptError{
			Path: filepath.Join(s.dir, basesDir, baseFile(m.Generation, name)), Offset: -1,
			What: fmt.Sprintf("%d of its extents cannot be read, the first is %.12s", n, missing),
		})
		return
	}
	l := Listed{Info: m.Info, Name: name, Files: len(m.Files), Bytes: m.Bytes()}
	s.insert(l)
}

// missing returns how many extents of m the store lacks, and one of them.
func (s *Store) missing(m *Manifest) (one Name, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, list := range m.Extents {
		for _, x := range list {
			if _, ok := s.index[x]; !ok {
				if n++; n == 1 {
					one = x
				}
			}
		}
	}
	return one, n
}

// namedManifest reads a manifest, and makes sure that it is the one that its file is
// named for.
func (s *Store) namedManifest(file string) (*Manifest, Name, error) {
	path := filepath.Join(s.dir, basesDir, file)
	b, err := readAll(s.fsys, path)
	if err != nil {
		return nil, Name{}, err
	}
	m, err := ParseManifest(b)
	if err != nil {
		return nil, Name{}, fmt.Errorf("%s: %w", path, err)
	}
	name := Name(sha256.Sum256(b))
	if file != baseFile(m.Generation, name) {
		return nil, Name{}, &tidegate.CorruptError{Path: path, Offset: -1, What: "content is not what its name says"}
	}
	return m, name, nil
}

// Manifest returns a listed base's bytes and what they say.
func (s *Store) Manifest(l Listed) ([]byte, *Manifest, error) {
	path := filepath.Join(s.dir, basesDir, baseFile(l.Generation, l.Name))
	b, err := readAll(s.fsys, path)
	if err != nil {
		return nil, nil, err
	}
	if sha256.Sum256(b) != l.Name {
		return nil, nil, &tidegate.CorruptError{Path: path, Offset: -1, What: "content is not what its name says"}
	}
	m, err := ParseManifest(b)
	return b, m, err
}

// find returns where the record of an extent is.
func (s *Store) find(x Name) (at loc, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok = s.index[x]
	return at, ok
}

// openPack opens the pack that the record of an extent is in. Between the look and
// the opening a sweep may have moved it: then it is looked for once more.
func (s *Store) openPack(x Name) (f vfs.File, at loc, err error) {
	at, ok := s.find(x)
	for ok {
		f, err = s.fsys.Open(s.packPath(at.pack, packSuffix))
		if !errors.Is(err, tidegate.ErrNotFound) {
			return f, at, err
		}
		was := at
		if at, ok = s.find(x); at == was {
			return nil, at, err
		}
	}
	return nil, at, &tidegate.Error{Op: "read extent", Subject: x.String(), Class: tidegate.Permanent, Err: tidegate.ErrNotFound}
}

// record reads one record; buf is reused if it is large enough, and the payload
// may lie in it.
func (s *Store) record(x Name, buf []byte) (r record, back []byte, err error) {
	f, at, err := s.openPack(x)
	if err != nil {
		return r, buf, err
	}
	path := s.packPath(at.pack, packSuffix)
	defer func() { err = errors.Join(err, f.Close()) }()
	buf = slices.Grow(buf[:0], int(at.length))[:at.length]
	if _, err := f.ReadAt(buf, at.offset); err != nil {
		if errors.Is(err, io.EOF) {
			err = badRecord("record is cut")
		}
		return r, buf, inFile(err, path, at.offset)
	}
	if r, err = parseRecord(buf); err == nil && r.x.Name != x {
		err = badRecord(fmt.Sprintf("is extent %.12s, the index says %.12s", r.x.Name, x))
	}
	return r, buf, inFile(err, path, at.offset)
}

// inFile says of a *CorruptError in which file the bytes are, and wraps others.
func inFile(err error, path string, offset int64) error {
	if err == nil {
		return nil
	}
	var c *tidegate.CorruptError
	if errors.As(err, &c) {
		return &tidegate.CorruptError{Path: path, Offset: offset, What: c.What}
	}
	return fmt.Errorf("read %s: %w", path, err)
}

func readAll(fsys vfs.FS, path string) (b []byte, err error) {
	f, err := fsys.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > ManifestBytesMax {
		return nil, &tidegate.CorruptError{Path: path, Offset: -1, What: fmt.Sprintf("is %d bytes long", size)}
	}
	b = make([]byte, size)
	_, err = io.ReadFull(f, b)
	return b, err
}
