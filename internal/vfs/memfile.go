package vfs

import (
	"io"
	"io/fs"
)

// memFile is an open file of a [Mem]; like a file descriptor it stays usable
// after the name is gone.
type memFile struct {
	fs       *Mem
	node     *memNode
	name     string
	writable bool
	offset   int64
	closed   bool
}

func (f *memFile) Name() string { return f.name }

func (f *memFile) Read(p []byte) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	n, err := f.readAt(p, f.offset)
	f.offset += int64(n)
	if n > 0 {
		err = nil // a short read of io.Reader is no end of file yet
	}
	return n, err
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return f.readAt(p, off)
}

func (f *memFile) readAt(p []byte, off int64) (int, error) {
	if err := f.usable("read", false); err != nil {
		return 0, err
	}
	if off >= int64(len(f.node.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.node.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) Write(p []byte) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	n, err := f.writeAt(p, f.offset)
	f.offset += int64(n)
	return n, err
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return f.writeAt(p, off)
}

func (f *memFile) writeAt(p []byte, off int64) (int, error) {
	if err := f.usable("write", true); err != nil {
		return 0, err
	}
	n := f.node
	size := int64(len(n.data))
	want := int64(len(p))
	if grow := off + want - size; grow > 0 && f.fs.capacity > 0 {
		room := int64(f.fs.capacity) - int64(f.fs.used)
		if grow > room {
			want = max(0, min(want, size+max(0, room)-off))
		}
	}
	if want > 0 {
		n.remember(off, off+want)
		if end := off + want; end > size {
			n.grow(end)
			f.fs.used += uint64(end - size)
		}
		copy(n.data[off:], p[:want])
		n.modTime = f.fs.now()
	}
	if want < int64(len(p)) {
		return int(want), pathError("write", f.name, ErrNoSpace)
	}
	return int(want), nil
}

// Sync makes every byte, and the size, durable.
func (f *memFile) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.usable("sync", false); err != nil {
		return err
	}
	n := f.node
	for s := range n.before {
		if !n.given[s] {
			delete(n.before, s)
		}
	}
	n.durableSize = int64(len(n.data))
	return nil
}

func (f *memFile) Truncate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.usable("truncate", true); err != nil {
		return err
	}
	n := f.node
	old := int64(len(n.data))
	if size < old {
		n.remember(size, old)
		n.data = n.data[:size]
	} else {
		n.grow(size)
	}
	f.fs.used += uint64(size - old) // wraps correctly when the file shrinks
	n.modTime = f.fs.now()
	return nil
}

func (f *memFile) Size() (int64, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.usable("stat", false); err != nil {
		return 0, err
	}
	return int64(len(f.node.data)), nil
}

func (f *memFile) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.usable("close", false); err != nil {
		return err
	}
	f.closed = true
	return nil
}

func (f *memFile) usable(op string, write bool) error {
	switch {
	case f.closed:
		return pathError(op, f.name, fs.ErrClosed)
	case write && !f.writable:
		return pathError(op, f.name, errReadOnly)
	}
	return nil
}

// grow extends the file with zeros, which the bytes of an earlier, longer
// version must not shine through.
func (n *memNode) grow(size int64) {
	old := int64(len(n.data))
	if size > int64(cap(n.data)) {
		bigger := make([]byte, size, max(size, 2*int64(cap(n.data)), 4*SectorSize))
		copy(bigger, n.data)
		n.data = bigger
		return
	}
	n.data = n.data[:size]
	clear(n.data[old:])
}

// remember keeps what the disk holds of the sectors of [from, to) that are
// about to change, unless it is kept already.
func (n *memNode) remember(from, to int64) {
	for s := from / SectorSize; s*SectorSize < to && len(n.given) > 0; s++ {
		delete(n.given, s)
	}
	for s := from / SectorSize; s*SectorSize < min(to, n.durableSize); s++ {
		if _, kept := n.before[s]; kept {
			continue
		}
		start, end := s*SectorSize, min((s+1)*SectorSize, n.durableSize)
		// The file may be shorter than its durable size only after a truncation,
		// which remembered the sectors it took away.
		sector := make([]byte, end-start)
		if start < int64(len(n.data)) {
			copy(sector, n.data[start:])
		}
		n.before[s] = sector
	}
}
