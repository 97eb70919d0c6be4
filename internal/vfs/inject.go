package vfs

import (
	"errors"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
)

// OpKind names an operation of [FS] or [File].
type OpKind string

// The operations, in the words of the interfaces.
const (
	OpCreate        OpKind = "create"
	OpOpen          OpKind = "open"
	OpOpenReadWrite OpKind = "open-read-write"
	OpRemove        OpKind = "remove"
	OpRename        OpKind = "rename"
	OpMkdirAll      OpKind = "mkdir-all"
	OpList          OpKind = "list"
	OpStat          OpKind = "stat"
	OpSyncDir       OpKind = "sync-dir"
	OpFree          OpKind = "free"
	OpLock          OpKind = "lock"
	OpRead          OpKind = "read"
	OpReadAt        OpKind = "read-at"
	OpWrite         OpKind = "write"
	OpWriteAt       OpKind = "write-at"
	OpSync          OpKind = "sync"
	OpTruncate      OpKind = "truncate"
	OpSize          OpKind = "size"
	OpClose         OpKind = "close"
)

// Op is one operation about to be done.
type Op struct {
	Kind  OpKind
	Path  string // of a rename: the new name
	Index int64  // running number over all operations of one Inject, from 0
}

// ErrCrashed is what every operation returns after the moment of a [CrashAt].
var ErrCrashed = errors.New("the machine has crashed")

// Inject returns fsys with before called ahead of every operation. An error
// from it is returned instead of doing the operation. Wrapped by [Partial], a
// write stores the first half of its bytes before it fails.
//
// Operations of files opened through the returned FS count and fail likewise.
// before may be called concurrently when the FS is used so. Close always
// releases the underlying file, whatever it returns.
func Inject(fsys FS, before func(Op) error) FS {
	return &injectFS{fsys: fsys, before: before}
}

// Partial marks an injected error of a write as one that comes after half of
// the bytes have been stored.
func Partial(err error) error { return &partialError{err} }

type partialError struct{ err error }

func (e *partialError) Error() string { return e.err.Error() }
func (e *partialError) Unwrap() error { return e.err }

// PathMatch limits before to operations on paths whose last element matches
// the pattern (as in [filepath.Match]). A malformed pattern panics.
func PathMatch(pattern string, before func(Op) error) func(Op) error {
	if _, err := filepath.Match(pattern, ""); err != nil {
		panic("vfs: pattern " + pattern + ": " + err.Error())
	}
	return func(op Op) error {
		if ok, err := filepath.Match(pattern, filepath.Base(op.Path)); err != nil || !ok {
			return err
		}
		return before(op)
	}
}

// KindIs limits before to operations of one kind.
func KindIs(kind OpKind, before func(Op) error) func(Op) error {
	return func(op Op) error {
		if op.Kind != kind {
			return nil
		}
		return before(op)
	}
}

// Fault fails one operation, or one and all after it, and remembers which. It
// counts the operations it is asked about, so that it can stand behind
// [PathMatch] or [KindIs].
type Fault struct {
	at    int64
	err   error
	crash bool

	mu    sync.Mutex
	seen  int64
	fired bool
	op    Op
}

// OnIndex fails operation n (from 0) with err, and no other.
func OnIndex(n int64, err error) *Fault { return &Fault{at: n, err: err} }

// CrashAt stops the machine before operation n: it and all later operations
// return [ErrCrashed]. Take [Mem.CrashClone] afterwards.
func CrashAt(n int64) *Fault { return &Fault{at: n, err: ErrCrashed, crash: true} }

// Inject is the function to hand to [Inject].
func (f *Fault) Inject(op Op) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.seen
	f.seen++
	if n != f.at && !(f.crash && f.fired) {
		return nil
	}
	if !f.fired {
		f.fired, f.op = true, op
	}
	return f.err
}

// Fired reports whether the operation was reached; a loop over n ends at the
// first scenario that did not reach it.
func (f *Fault) Fired() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fired
}

// Op returns the operation that was failed first.
func (f *Fault) Op() Op {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.op
}

type injectFS struct {
	fsys   FS
	before func(Op) error
	next   atomic.Int64
}

func (i *injectFS) check(kind OpKind, path string) error {
	return i.before(Op{Kind: kind, Path: path, Index: i.next.Add(1) - 1})
}

func (i *injectFS) file(kind OpKind, name string, open func(string) (File, error)) (File, error) {
	if err := i.check(kind, name); err != nil {
		return nil, err
	}
	f, err := open(name)
	if err != nil {
		return nil, err
	}
	return &injectFile{File: f, fsys: i}, nil
}

func (i *injectFS) Create(name string) (File, error) { return i.file(OpCreate, name, i.fsys.Create) }
func (i *injectFS) Open(name string) (File, error)   { return i.file(OpOpen, name, i.fsys.Open) }
func (i *injectFS) OpenReadWrite(name string) (File, error) {
	return i.file(OpOpenReadWrite, name, i.fsys.OpenReadWrite)
}

func (i *injectFS) Remove(name string) error {
	if err := i.check(OpRemove, name); err != nil {
		return err
	}
	return i.fsys.Remove(name)
}

func (i *injectFS) Rename(oldName, newName string) error {
	if err := i.check(OpRename, newName); err != nil {
		return err
	}
	return i.fsys.Rename(oldName, newName)
}

func (i *injectFS) MkdirAll(dir string) error {
	if err := i.check(OpMkdirAll, dir); err != nil {
		return err
	}
	return i.fsys.MkdirAll(dir)
}

func (i *injectFS) List(dir string) ([]string, error) {
	if err := i.check(OpList, dir); err != nil {
		return nil, err
	}
	return i.fsys.List(dir)
}

func (i *injectFS) Stat(name string) (Info, error) {
	if err := i.check(OpStat, name); err != nil {
		return Info{}, err
	}
	return i.fsys.Stat(name)
}

func (i *injectFS) SyncDir(dir string) error {
	if err := i.check(OpSyncDir, dir); err != nil {
		return err
	}
	return i.fsys.SyncDir(dir)
}

func (i *injectFS) Free(dir string) (free, total uint64, err error) {
	if err := i.check(OpFree, dir); err != nil {
		return 0, 0, err
	}
	return i.fsys.Free(dir)
}

func (i *injectFS) Lock(name string) (io.Closer, error) {
	if err := i.check(OpLock, name); err != nil {
		return nil, err
	}
	return i.fsys.Lock(name)
}

// injectFile passes Name through.
type injectFile struct {
	File
	fsys *injectFS
}

func (f *injectFile) check(kind OpKind) error { return f.fsys.check(kind, f.Name()) }

func (f *injectFile) Read(p []byte) (int, error) {
	if err := f.check(OpRead); err != nil {
		return 0, err
	}
	return f.File.Read(p)
}

func (f *injectFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.check(OpReadAt); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *injectFile) Write(p []byte) (int, error) {
	return f.write(OpWrite, p, f.File.Write)
}

func (f *injectFile) WriteAt(p []byte, off int64) (int, error) {
	return f.write(OpWriteAt, p, func(p []byte) (int, error) { return f.File.WriteAt(p, off) })
}

func (f *injectFile) write(kind OpKind, p []byte, write func([]byte) (int, error)) (int, error) {
	err := f.check(kind)
	if err == nil {
		return write(p)
	}
	var partial *partialError
	if !errors.As(err, &partial) {
		return 0, err
	}
	n, writeErr := write(p[:len(p)/2])
	return n, errors.Join(partial.err, writeErr)
}

func (f *injectFile) Sync() error {
	if err := f.check(OpSync); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *injectFile) Truncate(size int64) error {
	if err := f.check(OpTruncate); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *injectFile) Size() (int64, error) {
	if err := f.check(OpSize); err != nil {
		return 0, err
	}
	return f.File.Size()
}

func (f *injectFile) Close() error {
	err := f.check(OpClose)
	return errors.Join(err, f.File.Close())
}
