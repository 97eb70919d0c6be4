package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tidegate/tidegate"
)

// SectorSize is the unit that a disk writes whole or not at all.
const SectorSize = 512

// Mem is a file system in memory that knows what a power cut would take. It is
// for tests: one lock serves it all.
type Mem struct {
	mu       sync.Mutex
	root     *memNode
	pending  []*nameChange // name changes not yet durable, in order
	locks    map[string]bool
	capacity uint64 // 0: unlimited
	used     uint64
	ticks    int64 // modification times are a counter: no clock
}

// memNode is a file or a directory.
type memNode struct {
	// A directory has names; durable holds the ones that a power cut leaves.
	names   map[string]*memNode
	durable map[string]*memNode

	// A file has data. Of it, durableSize bytes are durable except for the
	// sectors in before, which hold what the disk has in place of newer data.
	// Sectors past durableSize are on no disk.
	data        []byte
	durableSize int64
	before      map[int64][]byte
	given       map[int64]bool // sectors in before that Sync takes for clean; see LoseWrites
	modTime     time.Time
}

// nameChange is one atomic change of directory entries: put node at (dir,
// name) and take (oldDir, oldName) away; either part may be missing.
type nameChange struct {
	dir     *memNode
	name    string
	node    *memNode
	oldDir  *memNode
	oldName string
}

func (c *nameChange) apply(names func(*memNode) map[string]*memNode) {
	if c.oldDir != nil {
		delete(names(c.oldDir), c.oldName)
	}
	if c.dir != nil {
		names(c.dir)[c.name] = c.node
	}
}

func currentNames(d *memNode) map[string]*memNode { return d.names }
func durableNames(d *memNode) map[string]*memNode { return d.durable }

func newMemDir() *memNode {
	return &memNode{names: map[string]*memNode{}, durable: map[string]*memNode{}}
}

func newMemFile() *memNode {
	return &memNode{before: map[int64][]byte{}, given: map[int64]bool{}}
}

func (n *memNode) isDir() bool { return n.names != nil }

// NewMem returns an empty file system. Its root directory, "/" or ".", exists
// and is durable.
func NewMem() *Mem {
	return &Mem{root: newMemDir(), locks: map[string]bool{}}
}

// SetCapacity limits the bytes in files; a write beyond stores what fits and
// returns [ErrNoSpace]. 0 lifts the limit.
func (m *Mem) SetCapacity(bytes uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = bytes
}

// FlipBit changes one bit of a file, on the disk and in the cache, as rot does.
func (m *Mem) FlipBit(name string, bit int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.file("flip bit", name)
	if err != nil {
		return err
	}
	if bit < 0 || bit/8 >= int64(len(n.data)) {
		return pathError("flip bit", name, fmt.Errorf("bit %d is outside the file", bit))
	}
	n.data[bit/8] ^= 1 << (bit % 8)
	return nil
}

// LoseWrites does to a file what a failed fsync does: its unsynced bytes still
// read as written, but count as clean. A later Sync succeeds without them, and
// a power cut may then take them, until they are written again.
func (m *Mem) LoseWrites(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.file("lose writes", name)
	if err != nil {
		return err
	}
	for s := int64(0); s*SectorSize < int64(len(n.data)); s++ {
		start, end := s*SectorSize, min((s+1)*SectorSize, int64(len(n.data)))
		kept, dirty := n.before[s]
		if !dirty && end <= n.durableSize {
			continue
		}
		sector := make([]byte, end-start)
		if dirty {
			copy(sector, kept)
		} else if start < n.durableSize {
			copy(sector[:n.durableSize-start], n.data[start:])
		}
		n.before[s], n.given[s] = sector, true
	}
	return nil
}

func split(name string) []string {
	name = strings.Trim(filepath.Clean(name), string(filepath.Separator))
	if name == "" || name == "." {
		return nil
	}
	return strings.Split(name, string(filepath.Separator))
}

func pathError(op, name string, err error) error {
	return mapError(&fs.PathError{Op: op, Path: name, Err: err})
}

var (
	errIsDir    = errors.New("is a directory")
	errNotDir   = error(syscall.ENOTDIR)
	errNotEmpty = syscall.ENOTEMPTY
	errReadOnly = errors.New("opened for reading only")
)

func (m *Mem) lookup(op, name string) (*memNode, error) {
	n := m.root
	for _, part := range split(name) {
		if !n.isDir() {
			return nil, pathError(op, name, errNotDir)
		}
		next, ok := n.names[part]
		if !ok {
			return nil, pathError(op, name, fs.ErrNotExist)
		}
		n = next
	}
	return n, nil
}

func (m *Mem) file(op, name string) (*memNode, error) {
	n, err := m.lookup(op, name)
	if err == nil && n.isDir() {
		return nil, pathError(op, name, errIsDir)
	}
	return n, err
}

func (m *Mem) dir(op, name string) (*memNode, error) {
	n, err := m.lookup(op, name)
	if err == nil && !n.isDir() {
		return nil, pathError(op, name, errNotDir)
	}
	return n, err
}

func (m *Mem) parent(op, name string) (dir *memNode, base string, err error) {
	if len(split(name)) == 0 {
		return nil, "", pathError(op, name, errIsDir)
	}
	dir, err = m.dir(op, filepath.Dir(filepath.Clean(name)))
	return dir, filepath.Base(name), err
}

func (m *Mem) change(c *nameChange) {
	c.apply(currentNames)
	m.pending = append(m.pending, c)
}

func (m *Mem) now() time.Time {
	m.ticks++
	return time.Unix(m.ticks, 0).UTC()
}

// Create implements [FS].
func (m *Mem) Create(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.create(name)
}

func (m *Mem) create(name string) (File, error) {
	dir, base, err := m.parent("create", name)
	if err != nil {
		return nil, err
	}
	if _, taken := dir.names[base]; taken {
		return nil, pathError("create", name, fs.ErrExist)
	}
	n := newMemFile()
	n.modTime = m.now()
	m.change(&nameChange{dir: dir, name: base, node: n})
	return &memFile{fs: m, node: n, name: name, writable: true}, nil
}

// Open implements [FS].
func (m *Mem) Open(name string) (File, error) { return m.open(name, false) }

// OpenReadWrite implements [FS].
func (m *Mem) OpenReadWrite(name string) (File, error) { return m.open(name, true) }

func (m *Mem) open(name string, writable bool) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.file("open", name)
	if err != nil {
		return nil, err
	}
	return &memFile{fs: m, node: n, name: name, writable: writable}, nil
}

// Remove implements [FS].
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parent("remove", name)
	if err != nil {
		return err
	}
	n, ok := dir.names[base]
	switch {
	case !ok:
		return pathError("remove", name, fs.ErrNotExist)
	case n.isDir() && len(n.names) > 0:
		return pathError("remove", name, errNotEmpty)
	}
	m.used -= uint64(len(n.data))
	m.change(&nameChange{oldDir: dir, oldName: base})
	return nil
}

// Rename implements [FS].
func (m *Mem) Rename(oldName, newName string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	oldDir, oldBase, err := m.parent("rename", oldName)
	if err != nil {
		return err
	}
	newDir, newBase, err := m.parent("rename", newName)
	if err != nil {
		return err
	}
	n, ok := oldDir.names[oldBase]
	if !ok {
		return pathError("rename", oldName, fs.ErrNotExist)
	}
	if target, taken := newDir.names[newBase]; taken && target != n {
		switch {
		case target.isDir() != n.isDir():
			return pathError("rename", newName, fs.ErrExist)
		case target.isDir() && len(target.names) > 0:
			return pathError("rename", newName, errNotEmpty)
		}
		m.used -= uint64(len(target.data))
	}
	m.change(&nameChange{dir: newDir, name: newBase, node: n, oldDir: oldDir, oldName: oldBase})
	return nil
}

// MkdirAll implements [FS].
func (m *Mem) MkdirAll(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.root
	for _, part := range split(dir) {
		next, ok := n.names[part]
		if !ok {
			next = newMemDir()
			next.modTime = m.now()
			m.change(&nameChange{dir: n, name: part, node: next})
		}
		if !next.isDir() {
			return pathError("mkdir", dir, errNotDir)
		}
		n = next
	}
	return nil
}

// List implements [FS].
func (m *Mem) List(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.dir("list", dir)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(n.names)), nil
}

// Stat implements [FS].
func (m *Mem) Stat(name string) (Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.lookup("stat", name)
	if err != nil {
		return Info{}, err
	}
	return Info{Size: int64(len(n.data)), Dir: n.isDir(), ModTime: n.modTime}, nil
}

// SyncDir implements [FS]. A rename between directories becomes durable with
// the first of the two that is synced, as in a journalled file system.
func (m *Mem) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.dir("sync", dir)
	if err != nil {
		return err
	}
	m.pending = slices.DeleteFunc(m.pending, func(c *nameChange) bool {
		if c.dir != n && c.oldDir != n {
			return false
		}
		c.apply(durableNames)
		return true
	})
	return nil
}

// Free implements [FS].
func (m *Mem) Free(string) (free, total uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.capacity == 0 {
		return 1 << 40, 1 << 40, nil
	}
	return m.capacity - min(m.used, m.capacity), m.capacity, nil
}

// Lock implements [FS].
func (m *Mem) Lock(name string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name = filepath.Clean(name)
	if m.locks[name] {
		return nil, &sentinelError{&fs.PathError{Op: "lock", Path: name, Err: errors.New("held by another process")}, tidegate.ErrConflict}
	}
	if _, err := m.lookup("lock", name); errors.Is(err, fs.ErrNotExist) {
		if _, err := m.create(name); err != nil {
			return nil, err
		}
	}
	m.locks[name] = true
	return &memLock{fs: m, name: name}, nil
}

type memLock struct {
	fs   *Mem
	name string
	once sync.Once
}

func (l *memLock) Close() error {
	l.once.Do(func() {
		l.fs.mu.Lock()
		defer l.fs.mu.Unlock()
		delete(l.fs.locks, l.name)
	})
	return nil
}
