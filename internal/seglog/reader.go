package seglog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
)

// readAhead is what a reader's own buffer holds, in bytes; a longer record
// grows it.
const readAhead = 256 << 10

// Reader reads whole, verified records in order and follows rolls. It holds one
// open file and, for Next, one buffer. It is not for concurrent use.
type Reader struct {
	fsys   vfs.FS
	dir    string
	format Format
	log    *Log // nil in another process
	cuts   int  // cuts of the log that have been seen

	f   vfs.File // nil after a failed move
	at  uint64   // index of the next record
	off int64    // where in f it starts

	buf   []byte // of Next
	ahead []byte // whole records from off on, in buf
}

// NewReader returns a reader whose first record is the one at index from,
// which may be the end of the log.
func (l *Log) NewReader(from uint64) (*Reader, error) {
	r := &Reader{fsys: l.fsys, dir: l.dir, format: l.format, log: l}
	l.mu.Lock()
	r.cuts = len(l.cuts)
	l.mu.Unlock()
	if err := r.seek(from); err != nil {
		return nil, fmt.Errorf("read %s: %w", l.dir, err)
	}
	return r, nil
}

// ErrTrimmed says that a log, which is there, begins behind what was asked for. It is a
// kind of tidegate.ErrNotFound.
var ErrTrimmed = fmt.Errorf("trimmed: %w", tidegate.ErrNotFound)

// OpenReader returns a reader for a process that does not have the log open.
// It knows nothing of the log's end: read with ReadUpTo, up to a limit that the
// process with the log has vouched for. A from before the oldest record is
// [ErrTrimmed].
func OpenReader(fsys vfs.FS, dir string, format Format, from uint64) (*Reader, error) {
	r := &Reader{fsys: fsys, dir: dir, format: format}
	if err := r.seek(from); err != nil {
		return nil, fmt.Errorf("read %s: %w", dir, err)
	}
	return r, nil
}

// seek moves to the record at index.
func (r *Reader) seek(index uint64) error {
	r.ahead = nil
	if r.log != nil {
		found, err := r.log.locate(index)
		if err != nil {
			return err
		}
		return r.move(found.file, index, found.at)
	}
	firsts, err := listSegments(r.fsys, r.dir)
	if err != nil {
		return err
	}
	i, exact := slices.BinarySearch(firsts, index)
	if !exact {
		i--
	}
	switch {
	case i < 0 && len(firsts) > 0:
		return fmt.Errorf("index %d is before the oldest record, %d: %w", index, firsts[0], ErrTrimmed)
	case i < 0:
		return fmt.Errorf("index %d is in no segment: %w", index, tidegate.ErrNotFound)
	}
	f, err := r.open(firsts[i])
	if err != nil {
		return err
	}
	w := walker{f: f, format: r.format, index: firsts[i], at: HeaderSize}
	if err := w.to(index); err != nil {
		return errors.Join(err, f.Close())
	}
	return r.move(f, index, w.at)
}

func (r *Reader) open(first uint64) (vfs.File, error) {
	f, err := r.fsys.Open(segmentPath(r.dir, first))
	if err != nil {
		return nil, err
	}
	if _, err := readSegmentHeader(f, r.format, first); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (r *Reader) move(f vfs.File, index uint64, off int64) error {
	old := r.f
	r.f, r.at, r.off = f, index, off
	if old != nil {
		return old.Close()
	}
	return nil
}

// At is the index of the next record.
func (r *Reader) At() uint64 { return r.at }

// Next waits for the next record and returns it with the index after it. rec is
// valid until the next call on r. Errors: ctx's when it ends; the log's when it
// has stopped and nothing is left; tidegate.ErrConflict when the reader has
// passed a place where the log was cut; *tidegate.CorruptError; and
// tidegate.ErrUnsupported from a reader of [OpenReader], which cannot know what
// to wait for.
func (r *Reader) Next(ctx context.Context) (rec []byte, next uint64, err error) {
	if r.log == nil {
		return nil, 0, fmt.Errorf("read %s: follow from another process: %w", r.dir, tidegate.ErrUnsupported)
	}
	for {
		end, err := r.settle()
		if err != nil {
			return nil, 0, err
		}
		if len(r.ahead) > 0 {
			rec, err := parseRecord(r.format, r.ahead, r.at)
			if err != nil {
				return nil, 0, corruptAt(r.f.Name(), r.off, err)
			}
			b := r.ahead[:rec.Len:rec.Len]
			r.ahead, r.at, r.off = r.ahead[rec.Len:], rec.Next, r.off+int64(rec.Len)
			return b, rec.Next, nil
		}
		if end <= r.at {
			if err := r.log.Wait(ctx, r.at); err != nil {
				return nil, 0, err
			}
			continue
		}
		if r.buf == nil {
			r.buf = make([]byte, readAhead)
		}
		if r.ahead, r.buf, _, err = r.read(end, r.buf); err != nil {
			return nil, 0, err
		}
	}
}

// ReadUpTo returns whole records that end at or before index limit, without
// waiting, and the index after them: as many as fit in buf's capacity, but at
// least one if there is one, in new storage when buf is too small. When there
// is none it returns no bytes and no error. In the process that has the log
// open, limit is cut to the log's end. Errors are those of Next.
func (r *Reader) ReadUpTo(limit uint64, buf []byte) (recs []byte, next uint64, err error) {
	r.ahead = nil
	if r.log != nil {
		end, err := r.settle()
		if err != nil {
			return nil, r.at, err
		}
		limit = min(limit, end)
	}
	if limit <= r.at {
		return nil, r.at, nil
	}
	recs, _, next, err = r.read(limit, buf)
	if err != nil {
		return nil, r.at, err
	}
	r.at, r.off = next, r.off+int64(len(recs))
	return recs, next, nil
}

// settle returns the log's end, after taking note of cuts: what was read ahead
// may be gone, and so may be what was already handed out.
func (r *Reader) settle() (end uint64, err error) {
	l := r.log
	l.mu.Lock()
	end = l.end.index
	cuts := l.cuts[r.cuts:]
	l.mu.Unlock()
	if r.f == nil {
		return end, fmt.Errorf("read %s: reader is closed: %w", r.dir, tidegate.ErrStopped)
	}
	if len(cuts) == 0 {
		return end, nil
	}
	for _, cut := range cuts {
		if cut < r.at {
			return end, fmt.Errorf("read %s at index %d: the log was cut at %d: %w", r.dir, r.at, cut, tidegate.ErrConflict)
		}
	}
	if err := r.seek(r.at); err != nil {
		return end, fmt.Errorf("read %s: %w", r.dir, err)
	}
	r.cuts += len(cuts)
	return end, nil
}

// read reads verified records from at up to limit, which is beyond at.
func (r *Reader) read(limit uint64, buf []byte) (recs, grown []byte, next uint64, err error) {
	for {
		recs, buf, next, err = readRecords(r.f, r.format, r.off, r.at, limit, buf)
		if err == nil {
			return recs, buf, next, nil
		}
		if r.wasCut() {
			// The bytes changed under us; settle will tell where we stand.
			if _, err := r.settle(); err != nil {
				return nil, buf, r.at, err
			}
			if limit = min(limit, r.log.End()); limit <= r.at {
				return nil, buf, r.at, nil
			}
			continue
		}
		var damage *unreadable
		if errors.As(err, &damage) {
			err = corruptAt(r.f.Name(), r.off, damage.err)
		}
		if !errors.Is(err, io.EOF) {
			return nil, buf, r.at, err
		}
		// A clean end of the file before the limit: the log has rolled.
		f, err := r.open(r.at)
		if err != nil {
			return nil, buf, r.at, fmt.Errorf("read %s: next segment: %w", r.dir, err)
		}
		if err := r.move(f, r.at, HeaderSize); err != nil {
			return nil, buf, r.at, err
		}
	}
}

func (r *Reader) wasCut() bool {
	if r.log == nil {
		return false
	}
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	return len(r.log.cuts) > r.cuts
}

// Close releases the reader's file.
func (r *Reader) Close() error {
	if r.f == nil {
		return nil
	}
	f := r.f
	r.f = nil
	return f.Close()
}

// unreadable is a record that is not whole; whether that is damage or a torn
// tail is the caller's to say.
type unreadable struct{ err error }

func (e *unreadable) Error() string { return e.err.Error() }
func (e *unreadable) Unwrap() error { return e.err }

// readRecords reads the records at off in f, the first of which has index at,
// as long as they are whole, end at or before limit, and fit in buf, which is
// grown for the first alone and returned. A file that ends at off is io.EOF, a
// first record that is not whole is *unreadable; one behind others is left for
// the next call.
func readRecords(f vfs.File, format Format, off int64, at, limit uint64, buf []byte) (recs, grown []byte, next uint64, err error) {
	if cap(buf) < format.HeaderLen() {
		buf = make([]byte, readAhead)
	}
	buf = buf[:cap(buf)]
	n, err := f.ReadAt(buf, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, buf, at, err
	}
	if n == 0 {
		return nil, buf, at, io.EOF
	}
	atEnd := err != nil
	next = at
	size := 0
	for size < n && next < limit {
		rec, bad := parseRecord(format, buf[size:n], next)
		if bad == nil && rec.Next > limit && size > 0 {
			break // the next call looks whether it is the limit or the record that is wrong
		}
		switch {
		case bad != nil && !atEnd && n-size < format.HeaderLen():
			return buf[:size], buf, next, nil // the header goes on behind the buffer
		case bad == nil && rec.Len > n-size && !atEnd:
			if size > 0 {
				return buf[:size], buf, next, nil
			}
			return readLong(f, format, off, at, limit, rec, buf)
		case bad == nil && rec.Len > n-size:
			bad = fmt.Errorf("record is cut: %d of %d bytes", n-size, rec.Len)
		case bad == nil:
			bad = format.Verify(buf[size:size+rec.Len], next)
		}
		if bad != nil {
			if size > 0 {
				break
			}
			return nil, buf, at, &unreadable{bad}
		}
		if rec.Next > limit {
			break // a whole record, beyond the limit
		}
		size += rec.Len
		next = rec.Next
	}
	return buf[:size], buf, next, nil
}

// readLong reads one record that is longer than buf. The file's size is asked
// first: a torn header may promise any length.
func readLong(f vfs.File, format Format, off int64, at, limit uint64, rec Record, buf []byte) (recs, grown []byte, next uint64, err error) {
	size, err := f.Size()
	if err != nil {
		return nil, buf, at, err
	}
	if off+int64(rec.Len) > size {
		return nil, buf, at, &unreadable{fmt.Errorf("record is cut: %d of %d bytes", size-off, rec.Len)}
	}
	return readRecords(f, format, off, at, limit, make([]byte, rec.Len))
}
