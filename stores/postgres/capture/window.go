package capture

import (
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// window keeps the newest bytes of the log, [start, end), in a ring of fixed size.
// Not safe for concurrent use.
//
// Invariant: end-start <= len(ring); the byte at lsn lies at lsn modulo len(ring).
type window struct {
	ring       []byte
	start, end wal.LSN
}

func newWindow(size int) window { return window{ring: make([]byte, size)} }

// reset empties the window; the next byte is the one at at.
func (w *window) reset(at wal.LSN) { w.start, w.end = at, at }

// append adds b, which begins at end, over the oldest bytes.
func (w *window) append(b []byte) {
	n := len(w.ring)
	if len(b) > n {
		skip := len(b) - n
		w.end += wal.LSN(skip)
		b = b[skip:]
	}
	for at := w.end; len(b) > 0; {
		k := copy(w.ring[int(at%wal.LSN(n)):], b)
		b, at = b[k:], at+wal.LSN(k)
		w.end = at
	}
	if w.end-w.start > wal.LSN(n) || w.start > w.end {
		w.start = w.end - wal.LSN(n)
	}
}

// truncate forgets what lies at and beyond at.
func (w *window) truncate(at wal.LSN) {
	w.end = min(w.end, at)
	w.start = min(w.start, w.end)
}

// read copies what there is from at on into dst; ok is false when at is not in the
// window, nor its end.
func (w *window) read(at wal.LSN, dst []byte) (n int, ok bool) {
	if at < w.start || at > w.end {
		return 0, false
	}
	for len(dst) > 0 && at < w.end {
		i := int(at % wal.LSN(len(w.ring)))
		k := copy(dst, w.ring[i:min(len(w.ring), i+int(w.end-at))])
		dst, at, n = dst[k:], at+wal.LSN(k), n+k
	}
	return n, true
}

// differs compares b, which begins at at, with what the window has there, and
// returns where they differ first. Bytes outside of the window are not compared.
func (w *window) differs(at wal.LSN, b []byte) (where wal.LSN, ok bool) {
	if at < w.start {
		skip := min(wal.LSN(len(b)), w.start-at)
		at, b = at+skip, b[skip:]
	}
	for at < w.end && len(b) > 0 {
		if w.ring[int(at%wal.LSN(len(w.ring)))] != b[0] {
			return at, true
		}
		at, b = at+1, b[1:]
	}
	return 0, false
}
