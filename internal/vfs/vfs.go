package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
	"time"

	"github.com/tidegate/tidegate"
)

// File is an open file.
type File interface {
	io.Reader // from the file's own offset, which Write shares
	io.ReaderAt
	io.Writer
	io.WriterAt

	// Sync makes the file's bytes and size durable (fdatasync); not its name.
	// After an error the state of every byte written since the last successful
	// Sync is unknown, and calling again proves nothing.
	Sync() error
	// Truncate sets the size; new bytes are zero. The offset does not move.
	Truncate(size int64) error
	Size() (int64, error)
	// Close releases the file. It does not sync.
	Close() error
	// Name is the path the file was opened by.
	Name() string
}

// Reserve asks the file system for room for the bytes [from, to) of f ahead of
// writing them; size and contents do not change. It makes the sync after an
// append cheaper, because the blocks are allocated already. A file system that
// cannot, or is full, is no error: the write itself will find out.
func Reserve(f File, from, to int64) {
	if r, ok := f.(interface{ reserve(from, to int64) }); ok {
		r.reserve(from, to)
	}
}

// Flush asks the file system to begin to write the bytes [from, to) of f to the
// disk, so that a later Sync finds less to do. Nothing is durable by it, and what
// fails shows in that Sync. A file system that cannot is no error.
func Flush(f File, from, to int64) {
	if w, ok := f.(interface{ flush(from, to int64) }); ok {
		w.flush(from, to)
	}
}

// WriteAround is f.WriteAt for bytes that nobody will read again soon: where the file
// system can, and where p is long and begins, is long and lies at multiples of 4096
// bytes, they go to the disk past the page cache, which takes less of a processor and
// drives nothing out of it. What is durable is what the next Sync says, as ever. One
// goroutine at a time calls it for a file.
func WriteAround(f File, p []byte, off int64) (int, error) {
	if w, ok := f.(interface {
		writeAround(p []byte, off int64) (int, error)
	}); ok {
		return w.writeAround(p, off)
	}
	return f.WriteAt(p, off)
}

// Info describes a directory entry.
type Info struct {
	Size    int64 // bytes; 0 for a directory
	Dir     bool
	ModTime time.Time
}

// FS is a file system. Paths are as in package path/filepath.
type FS interface {
	// Create makes a new empty file for reading and writing; it fails when the
	// name is taken (O_EXCL).
	Create(name string) (File, error)
	// Open opens an existing file for reading.
	Open(name string) (File, error)
	// OpenReadWrite opens an existing file for reading and writing.
	OpenReadWrite(name string) (File, error)
	// Remove removes a file or an empty directory.
	Remove(name string) error
	// Rename moves a file or directory, atomically, replacing a file or an
	// empty directory that has the new name.
	Rename(oldName, newName string) error
	// MkdirAll makes a directory and its missing parents, syncing nothing; see
	// package durable.
	MkdirAll(dir string) error
	// List returns the names in a directory, sorted.
	List(dir string) ([]string, error)
	Stat(name string) (Info, error)
	// SyncDir makes the names in a directory durable, and the absence of the
	// names removed from it.
	SyncDir(dir string) error
	// Free returns the bytes an unprivileged user may still write and the size
	// of the file system that holds dir.
	Free(dir string) (free, total uint64, err error)
	// Lock takes an exclusive lock on a file, made if missing, until the
	// returned closer is closed or the process ends. A lock held by anybody
	// else is tidegate.ErrConflict at once.
	Lock(name string) (io.Closer, error)
}

// Errors to inject; both look exactly like what [OS] returns.
var (
	ErrNoSpace = fmt.Errorf("%w: %w", tidegate.ErrFull, syscall.ENOSPC)
	ErrIO      = fmt.Errorf("input/output error: %w", syscall.EIO)
)

// mapError gives an error of the file system the sentinel its condition has.
func mapError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &sentinelError{err, tidegate.ErrFull}
	case errors.Is(err, fs.ErrNotExist):
		return &sentinelError{err, tidegate.ErrNotFound}
	case errors.Is(err, fs.ErrExist):
		return &sentinelError{err, tidegate.ErrConflict}
	}
	return err
}

// sentinelError reads as the file system's error and is also the sentinel.
type sentinelError struct {
	err      error
	sentinel error
}

func (e *sentinelError) Error() string   { return e.err.Error() }
func (e *sentinelError) Unwrap() []error { return []error{e.err, e.sentinel} }
