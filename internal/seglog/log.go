package seglog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/invariant"
	"github.com/tidegate/tidegate/internal/vfs"
)

// reserveStep is the room set aside ahead of the tail's end, in bytes: what an
// idle log holds of the disk beyond its records.
const reserveStep = 8 << 20

// flushStep is how much of the tail gathers before the disk is given it, in bytes.
const flushStep = 1 << 20

// Log is an open log.
type Log struct {
	fsys    vfs.FS
	dir     string
	format  Format
	chained Chained // format, when it is one
	cfg     Config
	lock    io.Closer
	plan    plan // scratch of Append

	// reserved is how far the tail file has room set aside, as an offset in the
	// file; only the appender uses it, and 0 is always right.
	reserved int64
	// flushed is how far the disk has been given the tail file, as an offset in it.
	flushed int64

	// syncMu is held by whoever syncs, rolls, cuts or trims: the tail file and
	// the mark change hands only under it. It is taken before mu.
	syncMu sync.Mutex
	mark   *markFile

	// mu guards the rest and is never held across I/O.
	mu       sync.Mutex
	segments []*segment // ascending, never empty; all but the last durable
	tail     vfs.File   // the last segment, open for writing
	dirDirty bool       // the last segment's name is not durable yet
	end      synced     // of what was appended
	durable  synced
	state    State // at end
	cuts     []uint64
	wake     chan struct{} // made by a waiter, closed by what it waits for
	closed   bool
	err      error // why the log has stopped; nil while it works
}

// plan is how an Append splits into segments.
type plan struct {
	pieces []piece
	places []place
}

// piece is a run of records that goes to one segment.
type piece struct {
	from, to    int    // bytes of the append
	first, next uint64 // indexes
	roll        bool   // starts a new segment
}

// Append writes whole records, back to back, the last of which ends at index
// next, with one write per segment. It does not sync. recs is only read.
//
// When the disk is full the error is tidegate.ErrFull and the log goes on
// working: records up to End are in it, whole, and the rest may be tried again.
// Any other failed write stops the log.
func (l *Log) Append(recs []byte, next uint64) error {
	l.mu.Lock()
	err, at, tail, state := l.err, l.end, l.segments[len(l.segments)-1], l.state
	l.mu.Unlock()
	if err != nil {
		return err
	}
	if err := l.split(recs, at, tail); err != nil {
		return fmt.Errorf("append to %s: %w", l.dir, err)
	}
	if n := len(l.plan.pieces); n == 0 && next != at.index || n > 0 && l.plan.pieces[n-1].next != next {
		return fmt.Errorf("append to %s: records do not end at index %d", l.dir, next)
	}
	for _, p := range l.plan.pieces {
		b := recs[p.from:p.to]
		if p.roll {
			err = l.roll(b, p, state)
		} else {
			err = l.write(b, p)
		}
		if err != nil {
			return err
		}
		l.mu.Lock()
		state = l.state
		l.mu.Unlock()
	}
	return nil
}

// Rolls reports whether an append of one record of n bytes would begin a segment
// now, and so sync what is not durable yet. Who may not wait for that syncs before.
func (l *Log) Rolls(n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	in := l.end.offset - l.segments[len(l.segments)-1].offset
	return in > 0 && in+int64(n) > l.cfg.SegmentBytes
}

// split checks every record before the first byte is written, and decides where
// segments begin: a record that would make its segment longer than SegmentBytes
// starts the next one. Nothing but the records decides.
func (l *Log) split(recs []byte, at synced, tail *segment) error {
	l.plan.pieces, l.plan.places = l.plan.pieces[:0], l.plan.places[:0]
	inSegment := at.offset - tail.offset
	lastPlace := tail.lastPlace()
	index := at.index
	cur := piece{first: index}
	for i := 0; i < len(recs); {
		rec, err := parseRecord(l.format, recs[i:], index)
		if err != nil {
			return err
		}
		if rec.Len > len(recs)-i {
			return fmt.Errorf("record at index %d is cut: %d of %d bytes", index, len(recs)-i, rec.Len)
		}
		if inSegment > 0 && inSegment+int64(rec.Len) > l.cfg.SegmentBytes {
			if i > cur.from {
				cur.to, cur.next = i, index
				l.plan.pieces = append(l.plan.pieces, cur)
			}
			cur = piece{from: i, first: index, roll: true}
			inSegment, lastPlace = 0, 0
		}
		if inSegment-lastPlace >= placeEvery {
			l.plan.places = append(l.plan.places, place{index, inSegment})
			lastPlace = inSegment
		}
		i += rec.Len
		inSegment += int64(rec.Len)
		index = rec.Next
	}
	if len(recs) > cur.from {
		cur.to, cur.next = len(recs), index
		l.plan.pieces = append(l.plan.pieces, cur)
	}
	return nil
}

// write appends one piece to the tail.
func (l *Log) write(b []byte, p piece) error {
	l.mu.Lock()
	at := HeaderSize + l.end.offset - l.segments[len(l.segments)-1].offset
	l.mu.Unlock()
	l.reserve(l.tail, at+int64(len(b)))
	if _, err := l.tail.WriteAt(b, at); err != nil {
		// What the failed write left beyond the end must go: a shorter record
		// appended later would not cover it, and its rest could be read as records.
		l.reserved = 0
		return l.fullOrStop("append to", err, l.tail.Truncate(at))
	}
	l.flush(at + int64(len(b)))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.advance(b, p)
	return nil
}

// flush has the tail's bytes written to the disk as they come, up to the offset to,
// a step at a time, so that no sync has a whole segment before it.
func (l *Log) flush(to int64) {
	if to-l.flushed < flushStep {
		return
	}
	vfs.Flush(l.tail, l.flushed, to)
	l.flushed = to
}

// reserve sets room aside up to the offset to and some more, but not past what
// the segment may grow to. It asks once in reserveStep, for that asks the file
// system's journal.
func (l *Log) reserve(tail vfs.File, to int64) {
	if to <= l.reserved {
		return
	}
	ahead := max(to, min(to+reserveStep, HeaderSize+l.cfg.SegmentBytes))
	vfs.Reserve(tail, l.reserved, ahead)
	l.reserved = ahead
}

// roll seals the tail, all of it durable, and starts a new segment with one
// piece. A segment never exists without a record, or else a log that failed
// here would differ from one that did not.
func (l *Log) roll(b []byte, p piece, state State) error {
	l.syncMu.Lock()
	defer l.unlockSync()
	// Sealed segments are durable in bytes and name: then only the tail can be
	// torn, and a damaged sealed segment is known to be damage.
	if err := l.sync(); err != nil {
		return err
	}
	header := segmentHeader{format: l.format.Magic(), first: p.first, offset: l.end.offset, state: state}
	path := segmentPath(l.dir, p.first)
	f, err := l.fsys.Create(path)
	if err != nil {
		return l.fullOrStop("roll", err, nil)
	}
	l.reserved, l.flushed = 0, 0
	l.reserve(f, HeaderSize+int64(len(b)))
	if _, err = f.WriteAt(header.encode(), 0); err == nil {
		_, err = f.WriteAt(b, HeaderSize)
	}
	if err != nil {
		// The name must be gone for good: the index it stands for may be written
		// to the old tail next.
		l.reserved = 0 // it was the new file's
		return l.fullOrStop("roll", err, errors.Join(f.Close(), l.fsys.Remove(path), l.fsys.SyncDir(l.dir)))
	}
	old := l.tail
	l.mu.Lock()
	l.segments[len(l.segments)-1].size = l.end.offset - l.segments[len(l.segments)-1].offset
	l.segments = append(l.segments, &segment{first: p.first, offset: l.end.offset})
	l.tail, l.dirDirty = f, true
	l.advance(b, p)
	l.mu.Unlock()
	if err := old.Close(); err != nil {
		return l.stop("roll", err)
	}
	return nil
}

// advance counts a written piece; mu is held.
func (l *Log) advance(b []byte, p piece) {
	l.end = synced{p.next, l.end.offset + int64(len(b))}
	tail := l.segments[len(l.segments)-1]
	for _, pl := range l.plan.places {
		if pl.index >= p.first && pl.index < p.next {
			tail.places = append(tail.places, pl)
		}
	}
	if l.chained != nil {
		l.state = l.chained.State(l.lastRecord(b, p))
	}
	l.signal()
}

// lastRecord returns the last record of a piece, which split has checked.
func (l *Log) lastRecord(b []byte, p piece) []byte {
	for index := p.first; ; {
		rec, err := parseRecord(l.format, b, index)
		invariant.MustNil(err, "a planned record parses")
		if rec.Next == p.next {
			return b[:rec.Len]
		}
		b, index = b[rec.Len:], rec.Next
	}
}

// Sync makes everything appended before the call durable: bytes, and the name
// of a new segment. After an error the log has stopped, for ever: what the disk
// holds beyond Durable is unknown, and asking again would prove nothing.
func (l *Log) Sync() error {
	l.syncMu.Lock()
	defer l.unlockSync()
	return l.sync()
}

// sync is Sync with syncMu held.
func (l *Log) sync() error {
	l.mu.Lock()
	err, tail, end, done, dirDirty := l.err, l.tail, l.end, l.durable, l.dirDirty
	l.mu.Unlock()
	if err != nil || end == done && !dirDirty {
		return err
	}
	if err := tail.Sync(); err != nil {
		return l.stop("sync", err)
	}
	if dirDirty {
		if err := l.fsys.SyncDir(l.dir); err != nil {
			return l.stop("sync", err)
		}
	}
	if err := l.mark.write(end); err != nil {
		return l.stop("sync", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.durable, l.dirDirty = end, false
	return nil
}

// stop makes err the reason why the log no longer works and returns it.
func (l *Log) stop(op string, err error) error {
	err = &tidegate.Error{
		Op: op, Subject: l.dir, Class: tidegate.Permanent,
		Hint: "check the disk, then restart the process: what was not acknowledged is recovered or set aside at start",
		Err:  fmt.Errorf("%w: %w", tidegate.ErrStopped, err),
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
	l.signal()
	return err
}

// fullOrStop returns err as it is when the disk is full and the attempt was
// undone; otherwise the log stops.
func (l *Log) fullOrStop(op string, err, undo error) error {
	if undo != nil || !errors.Is(err, tidegate.ErrFull) {
		return l.stop(op, errors.Join(err, undo))
	}
	return fmt.Errorf("%s %s: %w", op, l.dir, err)
}

// signal wakes every waiter; mu is held.
func (l *Log) signal() {
	if l.wake != nil {
		close(l.wake)
		l.wake = nil
	}
}

// First is the index of the oldest record kept.
func (l *Log) First() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.segments[0].first
}

// End is the index after the newest record.
func (l *Log) End() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end.index
}

// Durable is the index up to which the log has been synced.
func (l *Log) Durable() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable.index
}

// EndState is the state after the newest record; zero for a format that is not [Chained].
func (l *Log) EndState() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

// Bytes is the size of the records kept.
func (l *Log) Bytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end.offset - l.segments[0].offset
}

// Err is why the log has stopped, nil while it works.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Wait returns nil when End is beyond index, ctx's error when ctx ends first,
// and the log's own when it has stopped.
func (l *Log) Wait(ctx context.Context, index uint64) error {
	for {
		l.mu.Lock()
		if l.end.index > index || l.err != nil {
			defer l.mu.Unlock()
			if l.end.index > index {
				return nil
			}
			return l.err
		}
		if l.wake == nil {
			l.wake = make(chan struct{})
		}
		wake := l.wake
		l.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Close stops the log and wakes its waiters. It does not sync: what was
// appended since the last Sync may or may not survive. It returns even while a
// Sync hangs; the files are then released when that returns. Readers must be
// closed by their owners. Closing again does nothing.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.err == nil {
		l.err = fmt.Errorf("log %s is closed: %w", l.dir, tidegate.ErrStopped)
	}
	l.closed = true
	l.signal()
	l.mu.Unlock()
	return l.release()
}

// unlockSync gives syncMu back, and the files too when Close found it taken.
func (l *Log) unlockSync() {
	l.syncMu.Unlock()
	l.mu.Lock()
	closed := l.closed
	l.mu.Unlock()
	if closed {
		_ = l.release() // a close that was not waited for has nobody to report to
	}
}

func (l *Log) release() error {
	if !l.syncMu.TryLock() {
		return nil
	}
	defer l.syncMu.Unlock()
	if l.lock == nil {
		return nil
	}
	err := errors.Join(l.tail.Close(), l.mark.f.Close(), l.lock.Close())
	l.lock = nil
	return err
}
