package vfs

import "unsafe"

// aroundBytes is how much [Around] writes at once: long enough for a disk's full rate,
// and short enough that a sync of another file waits for one of them only.
const aroundBytes = 1 << 20

// Around writes a stream of bytes to a file past the page cache, see [WriteAround],
// a mebibyte at a time, each when the one before is on its way to the disk. A file that
// is written through the cache and synced at its end gives the disk everything at once,
// and what others sync meanwhile waits behind it.
//
// Not safe for concurrent use. Nothing is durable before Flush and the file's Sync.
type Around struct {
	f   File
	at  int64 // of buf
	buf []byte
	mem []byte // begins at a multiple of aroundAlign
}

// NewAround returns a writer whose first byte goes to off.
func NewAround(f File, off int64) *Around {
	mem := make([]byte, aroundBytes+aroundAlign)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(mem))) % aroundAlign
	mem = mem[skip : skip+aroundBytes]
	return &Around{f: f, at: off, buf: mem[:0], mem: mem}
}

// Write implements io.Writer. After an error the file's contents are not known.
func (a *Around) Write(p []byte) (int, error) {
	done := 0
	for len(p) > 0 {
		room := int(aroundBytes-a.at%aroundBytes) - len(a.buf)
		n := min(room, len(p))
		a.buf = append(a.buf, p[:n]...)
		if p = p[n:]; n == room {
			if err := a.Flush(); err != nil {
				return done, err
			}
		}
		done += n
	}
	return done, nil
}

// Flush writes what was held back.
func (a *Around) Flush() error {
	if len(a.buf) == 0 {
		return nil
	}
	n, err := WriteAround(a.f, a.buf, a.at)
	a.at += int64(n)
	a.buf = append(a.mem[:0], a.buf[n:]...)
	return err
}
