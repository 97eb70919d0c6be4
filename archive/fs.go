package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/internal/vfs"
)

// Read-ahead of an [FS]: a base's extents lie one behind the other in its packs, so
// that what is fetched for one is what the next ones want.
const (
	blockBytes = 4 << 20
	blocksKept = 48
)

// FS returns the objects of b whose names begin with prefix, as they are now, as a
// file system that can be read and not written: the object "a/b" is the file "/a/b".
// Requests are made under ctx, for as long as the file system is used. It fetches
// blocks of 4 MiB and keeps the newest 48.
func FS(ctx context.Context, b bucket.Bucket, prefix string) (vfs.FS, error) {
	return blocksOf(ctx, b, prefix, blockBytes)
}

// blocksOf is FS with blocks of another size.
func blocksOf(ctx context.Context, b bucket.Bucket, prefix string, size int64) (vfs.FS, error) {
	m := &mirrorFS{block: size, sizes: map[string]int64{}, dirs: map[string]map[string]bool{}, blocks: map[blockKey]*block{}}
	m.fetch = func(name string, off, n int64) ([]byte, error) { return getRange(ctx, b, name, off, n) }
	for o, err := range b.List(ctx, prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", prefix, err)
		}
		name := "/" + o.Name
		m.sizes[name] = o.Size
		for dir, file := path.Split(name); file != ""; dir, file = path.Split(strings.TrimSuffix(dir, "/")) {
			dir = path.Clean(dir)
			if m.dirs[dir] == nil {
				m.dirs[dir] = map[string]bool{}
			}
			m.dirs[dir][file] = true
		}
	}
	return m, nil
}

// getRange reads exactly n bytes of an object.
func getRange(ctx context.Context, b bucket.Bucket, name string, off, n int64) (_ []byte, err error) {
	r, err := b.Get(ctx, name, off, n)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	buf := make([]byte, n)
	got, err := io.ReadFull(r, buf)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, &tidegate.CorruptError{Path: name, Offset: off, What: fmt.Sprintf("%d bytes, want %d: the object is cut", got, n)}
	}
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	return buf, nil
}

// mirrorFS implements [vfs.FS].
type mirrorFS struct {
	block int64                      // bytes that are fetched at a time
	sizes map[string]int64           // by path; not changed after FS
	dirs  map[string]map[string]bool // names in a directory; the same
	fetch func(name string, off, n int64) ([]byte, error)

	mu     sync.Mutex
	blocks map[blockKey]*block
	uses   uint64
}

type blockKey struct {
	path  string
	index int64
}

// block is a part of an object, fetched or on its way.
type block struct {
	done chan struct{} // closed when data and err are there
	data []byte
	err  error
	used uint64
}

// read returns a block; whoever asks first fetches it. A failure is not kept.
func (m *mirrorFS) read(p string, index int64) ([]byte, error) {
	key := blockKey{p, index}
	m.mu.Lock()
	m.uses++
	b, known := m.blocks[key]
	if known {
		b.used = m.uses
		m.mu.Unlock()
		<-b.done
		return b.data, b.err
	}
	b = &block{done: make(chan struct{}), used: m.uses}
	m.blocks[key] = b
	m.evict()
	m.mu.Unlock()
	off := index * m.block
	b.data, b.err = m.fetch(strings.TrimPrefix(p, "/"), off, min(m.block, m.sizes[p]-off))
	close(b.done)
	if b.err != nil {
		m.mu.Lock()
		if m.blocks[key] == b {
			delete(m.blocks, key)
		}
		m.mu.Unlock()
	}
	return b.data, b.err
}

// evict forgets what was not used for longest. mu is held.
func (m *mirrorFS) evict() {
	for len(m.blocks) > blocksKept {
		var oldest blockKey
		first := true
		for k, b := range m.blocks {
			if first || b.used < m.blocks[oldest].used {
				oldest, first = k, false
			}
		}
		delete(m.blocks, oldest) // who waits for it has it
	}
}

var errReadOnly = &tidegate.Error{Op: "write", Class: tidegate.Misuse, Err: fmt.Errorf("an archive is read only here: %w", tidegate.ErrUnsupported)}

func notThere(op, name string) error {
	return &fs.PathError{Op: op, Path: name, Err: missing{}}
}

// unlike is of an object whose size is none that was put.
func unlike(name string) error {
	return &tidegate.CorruptError{Path: strings.TrimPrefix(name, "/"), Offset: -1, What: "has a size that no object has which was put: it is cut, or a stranger's"}
}

// missing is both the library's and the product's word for it.
type missing struct{}

func (missing) Error() string { return "no such object" }
func (missing) Is(target error) bool {
	return target == tidegate.ErrNotFound || target == fs.ErrNotExist
}

// Open implements [vfs.FS].
func (m *mirrorFS) Open(name string) (vfs.File, error) {
	size, ok := m.sizes[name]
	if !ok {
		return nil, notThere("open", name)
	}
	if size < 0 {
		return nil, unlike(name)
	}
	return &mirrorFile{m: m, path: name, size: size}, nil
}

// List implements [vfs.FS].
func (m *mirrorFS) List(dir string) ([]string, error) {
	return slices.Sorted(maps.Keys(m.dirs[path.Clean(dir)])), nil
}

// Stat implements [vfs.FS].
func (m *mirrorFS) Stat(name string) (vfs.Info, error) {
	if size, ok := m.sizes[name]; ok && size < 0 {
		return vfs.Info{}, unlike(name)
	} else if ok {
		return vfs.Info{Size: size}, nil
	}
	if m.dirs[path.Clean(name)] != nil {
		return vfs.Info{Dir: true}, nil
	}
	return vfs.Info{}, notThere("stat", name)
}

// MkdirAll implements [vfs.FS]: where there are no directories, none is missing.
func (m *mirrorFS) MkdirAll(string) error { return nil }

// SyncDir implements [vfs.FS].
func (m *mirrorFS) SyncDir(string) error { return nil }

func (m *mirrorFS) Create(string) (vfs.File, error)        { return nil, errReadOnly }
func (m *mirrorFS) OpenReadWrite(string) (vfs.File, error) { return nil, errReadOnly }
func (m *mirrorFS) Remove(string) error                    { return errReadOnly }
func (m *mirrorFS) Rename(string, string) error            { return errReadOnly }
func (m *mirrorFS) Free(string) (uint64, uint64, error)    { return 0, 0, errReadOnly }
func (m *mirrorFS) Lock(string) (io.Closer, error)         { return nil, errReadOnly }

// mirrorFile is an object that is open.
type mirrorFile struct {
	m    *mirrorFS
	path string
	size int64
	at   int64
}

func (f *mirrorFile) Name() string         { return f.path }
func (f *mirrorFile) Size() (int64, error) { return f.size, nil }
func (f *mirrorFile) Close() error         { return nil }

// ReadAt implements [vfs.File].
func (f *mirrorFile) ReadAt(b []byte, off int64) (n int, err error) {
	for n < len(b) {
		if off >= f.size {
			return n, io.EOF
		}
		data, err := f.m.read(f.path, off/f.m.block)
		if err != nil {
			return n, err
		}
		got := copy(b[n:], data[off%f.m.block:])
		n, off = n+got, off+int64(got)
	}
	return n, nil
}

// Read implements [vfs.File].
func (f *mirrorFile) Read(b []byte) (int, error) {
	if f.at >= f.size {
		return 0, io.EOF
	}
	n, err := f.ReadAt(b[:min(int64(len(b)), f.size-f.at)], f.at)
	f.at += int64(n)
	return n, err
}

func (f *mirrorFile) Write([]byte) (int, error)          { return 0, errReadOnly }
func (f *mirrorFile) WriteAt([]byte, int64) (int, error) { return 0, errReadOnly }
func (f *mirrorFile) Truncate(int64) error               { return errReadOnly }
func (f *mirrorFile) Sync() error                        { return nil }
