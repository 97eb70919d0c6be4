package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// HeaderSize is the length of a frame's header in bytes.
const HeaderSize = 8

// bufferKeepMax is the largest buffer a Reader or Writer keeps between frames,
// so that one large batch does not hold memory for the life of a connection.
const bufferKeepMax = 4 << 20

// Type says what a frame's body is. Each protocol numbers its own; 0 is never valid.
type Type uint8

// Errors about the framing itself: the peer does not speak the protocol, and
// the connection is of no further use.
var (
	ErrFrame    = errors.New("malformed frame")
	ErrTooLarge = errors.New("frame larger than the limit")
)

// AppendFrame appends one whole frame to dst. The body is the concatenation of parts.
func AppendFrame(dst []byte, t Type, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	dst = binary.LittleEndian.AppendUint32(dst, uint32(n))
	dst = append(dst, byte(t), 0, 0, 0)
	for _, p := range parts {
		dst = append(dst, p...)
	}
	return dst
}

// Reader reads frames into one reused buffer.
type Reader struct {
	r       io.Reader
	bodyMax int
	buf     []byte
	start   int // of the unread bytes in buf
	end     int
}

// readAhead is the smallest buffer: several acks or small batches per read call.
const readAhead = 32 << 10

// NewReader reads frames with bodies of at most bodyMax bytes from r.
func NewReader(r io.Reader, bodyMax int) *Reader {
	return &Reader{r: r, bodyMax: bodyMax, buf: make([]byte, readAhead)}
}

// Next returns the next frame. body is valid until the following call. The
// error is io.EOF only between frames; a stream that ends inside one is
// io.ErrUnexpectedEOF. After any error the Reader must not be used again.
func (r *Reader) Next() (t Type, body []byte, err error) {
	if err := r.fill(HeaderSize); err != nil {
		return 0, nil, err
	}
	h := r.buf[r.start : r.start+HeaderSize]
	n := binary.LittleEndian.Uint32(h)
	t = Type(h[4])
	if t == 0 || h[5]|h[6]|h[7] != 0 {
		return 0, nil, fmt.Errorf("read frame: %w: header % x", ErrFrame, h)
	}
	if uint64(n) > uint64(r.bodyMax) {
		return 0, nil, fmt.Errorf("read frame type %d: %w: %d bytes, at most %d", t, ErrTooLarge, n, r.bodyMax)
	}
	total := HeaderSize + int(n)
	if err := r.fill(total); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	body = r.buf[r.start+HeaderSize : r.start+total : r.start+total]
	r.start += total
	return t, body, nil
}

// Buffered reports whether another whole frame has already been read, so that
// the caller may work on several before it answers.
func (r *Reader) Buffered() bool {
	have := r.end - r.start
	if have < HeaderSize {
		return false
	}
	n := binary.LittleEndian.Uint32(r.buf[r.start:])
	return uint64(have-HeaderSize) >= uint64(n)
}

// fill makes at least n unread bytes available at r.start.
func (r *Reader) fill(n int) error {
	if r.end-r.start >= n {
		return nil
	}
	r.makeRoom(n)
	for r.end-r.start < n {
		m, err := r.r.Read(r.buf[r.end:])
		r.end += m
		if r.end-r.start >= n {
			return nil
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF) && r.end > r.start:
			return io.ErrUnexpectedEOF
		default:
			return err
		}
	}
	return nil
}

func (r *Reader) makeRoom(n int) {
	shrink := r.start == r.end && len(r.buf) > bufferKeepMax && n <= readAhead
	if len(r.buf)-r.start >= n && !shrink {
		return
	}
	to := r.buf
	switch {
	case shrink:
		to = make([]byte, readAhead)
	case n > len(r.buf):
		// Doubling keeps a stream of growing frames from copying each time;
		// the limit on n was checked before.
		to = make([]byte, max(n, min(2*len(r.buf), HeaderSize+r.bodyMax)))
	}
	r.end = copy(to, r.buf[r.start:r.end])
	r.start = 0
	r.buf = to
}

// Writer writes frames and coalesces: what was put while a write is in flight
// goes out in one following write. There is no timer and no goroutine; whoever
// calls Flush first does the writing for all. Safe for concurrent use.
type Writer struct {
	w          io.Writer
	pendingMax int

	mu      sync.Mutex
	room    sync.Cond // pending shrank, writing ended, or err was set
	pending []byte
	spare   []byte
	writing bool
	err     error // first failure; sticky
}

// NewWriter writes to w and lets at most pendingMax bytes wait for a write in
// flight (one frame may be larger, when nothing else waits).
func NewWriter(w io.Writer, pendingMax int) *Writer {
	x := &Writer{w: w, pendingMax: pendingMax}
	x.room.L = &x.mu
	return x
}

// Put queues one frame, copying its parts; it goes out with the next Flush by
// anybody. It blocks while a write is in flight and the queue is full. The
// error is that of an earlier write, or what Fail was given.
func (w *Writer) Put(t Type, parts ...[]byte) error {
	n := HeaderSize
	for _, p := range parts {
		n += len(p)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.err == nil && len(w.pending) > 0 && len(w.pending)+n > w.pendingMax {
		if !w.writing {
			w.drain()
			continue
		}
		w.room.Wait()
	}
	if w.err != nil {
		return w.err
	}
	w.pending = AppendFrame(w.pending, t, parts...)
	return nil
}

// Flush makes sure that everything put before is being written: by this call,
// or by the call whose write is in flight, in which case Flush does not wait.
// nil means handed over, not received.
func (w *Writer) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.writing {
		w.drain()
	}
	return w.err
}

// Drain is Flush, and waits until all of it has been written: by others, too. What
// is to end the connection after it is not cut off then.
func (w *Writer) Drain() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.err == nil && (w.writing || len(w.pending) > 0) {
		if !w.writing {
			w.drain()
			continue
		}
		w.room.Wait()
	}
	return w.err
}

// Send is Put and Flush.
func (w *Writer) Send(t Type, parts ...[]byte) error {
	if err := w.Put(t, parts...); err != nil {
		return err
	}
	return w.Flush()
}

// Fail makes every later and every waiting call return err, without waiting
// for a write in flight; the first failure wins.
func (w *Writer) Fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	w.room.Broadcast()
}

// Pending returns the bytes that wait for a write, the one in flight excluded.
func (w *Writer) Pending() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.pending)
}

// drain writes until nothing is pending. Called and returns with mu held; the
// lock is not held while writing.
func (w *Writer) drain() {
	w.writing = true
	for len(w.pending) > 0 && w.err == nil {
		out := w.pending
		w.pending = w.spare[:0]
		w.spare = nil
		w.room.Broadcast()
		w.mu.Unlock()
		n, err := w.w.Write(out)
		w.mu.Lock()
		if err == nil && n < len(out) {
			err = io.ErrShortWrite
		}
		if err != nil && w.err == nil {
			w.err = err
		}
		if cap(out) <= bufferKeepMax {
			w.spare = out[:0]
		}
	}
	w.writing = false
	w.room.Broadcast()
}
