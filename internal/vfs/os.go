package vfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate"
)

const (
	filePerm = 0o640 // the service's group may read logs, nobody else
	dirPerm  = 0o750
)

// OS returns the operating system's file system.
func OS() FS { return osFS{} }

type osFS struct{}

func (osFS) open(name string, flag int) (File, error) {
	f, err := os.OpenFile(name, flag, filePerm)
	if err != nil {
		return nil, mapError(err)
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, errors.Join(mapError(err), f.Close())
	}
	return &osFile{f: f, conn: conn}, nil
}

func (o osFS) Create(name string) (File, error) {
	return o.open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}
func (o osFS) Open(name string) (File, error)          { return o.open(name, os.O_RDONLY) }
func (o osFS) OpenReadWrite(name string) (File, error) { return o.open(name, os.O_RDWR) }
func (osFS) Remove(name string) error                  { return mapError(os.Remove(name)) }
func (osFS) Rename(oldName, newName string) error      { return mapError(os.Rename(oldName, newName)) }

func (osFS) MkdirAll(dir string) error { return mapError(os.MkdirAll(dir, dirPerm)) }

func (osFS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return nil, mapError(err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

func (osFS) Stat(name string) (Info, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return Info{}, mapError(err)
	}
	info := Info{Dir: fi.IsDir(), ModTime: fi.ModTime()}
	if !info.Dir {
		info.Size = fi.Size()
	}
	return info, nil
}

func (osFS) SyncDir(dir string) (err error) {
	d, err := os.Open(dir)
	if err != nil {
		return mapError(err)
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return mapError(d.Sync())
}

func (osFS) Free(dir string) (free, total uint64, err error) {
	var st unix.Statfs_t
	if err := retryInterrupted(func() error { return unix.Statfs(dir, &st) }); err != nil {
		return 0, 0, mapError(&os.PathError{Op: "statfs", Path: dir, Err: err})
	}
	unit := uint64(st.Bsize)
	return st.Bavail * unit, st.Blocks * unit, nil
}

func (osFS) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, filePerm)
	if err != nil {
		return nil, mapError(err)
	}
	err = retryInterrupted(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if err == nil {
		return f, nil
	}
	err = error(&os.PathError{Op: "lock", Path: name, Err: err})
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = &sentinelError{err, tidegate.ErrConflict}
	}
	return nil, errors.Join(err, f.Close())
}

type osFile struct {
	f    *os.File
	conn syscall.RawConn
	// around is the same file for writes past the page cache, nil until there was one;
	// cached says that the file system has refused.
	around *os.File
	cached bool
}

func (f *osFile) Read(p []byte) (int, error)              { return f.f.Read(p) }
func (f *osFile) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }
func (f *osFile) Truncate(size int64) error               { return mapError(f.f.Truncate(size)) }
func (f *osFile) Name() string                            { return f.f.Name() }
func (f *osFile) Write(p []byte) (n int, err error)       { n, err = f.f.Write(p); return n, mapError(err) }

func (f *osFile) WriteAt(p []byte, o int64) (n int, err error) {
	n, err = f.f.WriteAt(p, o)
	return n, mapError(err)
}

func (f *osFile) Close() error {
	err := f.f.Close()
	if f.around != nil {
		err = errors.Join(err, f.around.Close())
	}
	return mapError(err)
}

// What open(2) asks of O_DIRECT: multiples of the disk's logical blocks, of which no
// common disk has larger ones; shorter writes gain nothing.
const (
	aroundAlign = 4096
	aroundMin   = 256 << 10
)

func (f *osFile) writeAround(p []byte, off int64) (int, error) {
	if f.cached || len(p) < aroundMin || len(p)%aroundAlign != 0 || off%aroundAlign != 0 || uintptr(unsafe.Pointer(unsafe.SliceData(p)))%aroundAlign != 0 {
		return f.WriteAt(p, off)
	}
	if f.around == nil && !f.openAround() {
		f.cached = true
		return f.WriteAt(p, off)
	}
	n, err := f.around.WriteAt(p, off)
	if errors.Is(err, unix.EINVAL) { // its blocks are larger than we know of
		f.cached = true
		m, err := f.WriteAt(p[n:], off+int64(n))
		return n + m, err
	}
	return n, mapError(err)
}

// openAround opens the file once more, by its descriptor: its name may be another by now.
func (f *osFile) openAround() bool {
	var err error
	cerr := f.conn.Control(func(fd uintptr) {
		f.around, err = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_WRONLY|unix.O_DIRECT, 0)
	})
	return cerr == nil && err == nil
}

func (f *osFile) Size() (int64, error) {
	fi, err := f.f.Stat()
	if err != nil {
		return 0, mapError(err)
	}
	return fi.Size(), nil
}

// Sync uses fdatasync: it makes bytes and size durable and leaves out the
// times, which would cost a second journal write on most file systems.
func (f *osFile) Sync() error {
	var syncErr error
	err := f.conn.Control(func(fd uintptr) {
		syncErr = retryInterrupted(func() error { return unix.Fdatasync(int(fd)) })
	})
	if err == nil && syncErr != nil {
		err = &os.PathError{Op: "fdatasync", Path: f.f.Name(), Err: syncErr}
	}
	return mapError(err)
}

func (f *osFile) reserve(from, to int64) {
	_ = f.conn.Control(func(fd uintptr) {
		_ = unix.Fallocate(int(fd), unix.FALLOC_FL_KEEP_SIZE, from, to-from)
	})
}

// flush does not wait for the disk, and so takes no error away from the next
// Sync (sync_file_range(2), SYNC_FILE_RANGE_WRITE alone).
func (f *osFile) flush(from, to int64) {
	_ = f.conn.Control(func(fd uintptr) { // a hint: a file that is closed, or fails, shows in Sync
		_ = unix.SyncFileRange(int(fd), from, to-from, unix.SYNC_FILE_RANGE_WRITE) // as above
	})
}

// retryInterrupted repeats a system call that a signal cut short before it did
// anything; the Go runtime's preemption signals make that common.
func retryInterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
