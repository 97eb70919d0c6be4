package seglog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
)

const (
	lockName   = "lock"
	tornDir    = "torn"
	tornSuffix = ".torn"
)

// Open opens the log in dir for appending, or creates it there, and recovers
// it: a torn tail goes to quarantine and everything left is made durable. One
// process at a time may hold a log open; another is refused with
// tidegate.ErrConflict. An unreadable record that was synced before is a
// *tidegate.CorruptError, and nothing has been touched then.
func Open(fsys vfs.FS, dir string, format Format, cfg Config) (*Log, Recovery, error) {
	if cfg.SegmentBytes == 0 {
		cfg.SegmentBytes = SegmentBytesDefault
	}
	if cfg.Quarantine == "" {
		cfg.Quarantine = filepath.Join(dir, tornDir)
	}
	l := &Log{fsys: fsys, dir: dir, format: format, cfg: cfg}
	l.chained, _ = format.(Chained)
	rec, err := l.open()
	if err != nil {
		return nil, rec, fmt.Errorf("open log %s: %w", dir, err)
	}
	return l, rec, nil
}

func (l *Log) open() (rec Recovery, err error) {
	if err := durable.MkdirAll(l.fsys, l.dir); err != nil {
		return rec, err
	}
	if l.lock, err = l.fsys.Lock(filepath.Join(l.dir, lockName)); err != nil {
		return rec, err
	}
	defer func() {
		if err == nil {
			return
		}
		if l.tail != nil {
			err = errors.Join(err, l.tail.Close())
		}
		if l.mark != nil {
			err = errors.Join(err, l.mark.f.Close())
		}
		err = errors.Join(err, l.lock.Close())
	}()
	mark, at, known, err := openMark(l.fsys, l.dir)
	if err != nil {
		return rec, err
	}
	l.mark = mark
	r := &recovery{Log: l, marked: at, known: known}
	if err := r.run(); err != nil {
		return r.found, err
	}
	return r.found, r.harden()
}

// recovery is the work of one Open.
type recovery struct {
	*Log
	marked synced
	known  bool // whether the mark could be read
	found  Recovery
}

// run finds the end of the log and sets aside what is torn.
func (r *recovery) run() error {
	firsts, err := listSegments(r.fsys, r.dir)
	if err != nil {
		return err
	}
	for _, first := range firsts {
		if err := r.addSegment(first, first == firsts[len(firsts)-1]); err != nil {
			return err
		}
	}
	if len(r.segments) == 0 {
		return r.create()
	}
	if err := r.openTail(); err != nil {
		return err
	}
	if err := r.scanTail(); err != nil {
		return err
	}
	return r.dropEmptyTail()
}

// addSegment checks a segment's header against its name and its predecessor.
func (r *recovery) addSegment(first uint64, last bool) (err error) {
	path := segmentPath(r.dir, first)
	f, err := r.fsys.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return err
	}
	h, err := readSegmentHeader(f, r.format, first)
	var damage *tidegate.CorruptError
	switch {
	case errors.As(err, &damage) && last && r.mayBeTorn(first, len(r.segments) == 0 && size <= HeaderSize):
		return r.dropTornSegment(f, path, first, size)
	case err != nil:
		return err
	}
	if n := len(r.segments); n > 0 {
		prev := r.segments[n-1]
		prev.size = h.offset - prev.offset
		prevPath := segmentPath(r.dir, prev.first)
		info, err := r.fsys.Stat(prevPath)
		if err != nil {
			return err
		}
		if info.Size != HeaderSize+prev.size {
			return &tidegate.CorruptError{Path: prevPath, Offset: -1, What: fmt.Sprintf(
				"sealed segment is %d bytes, want %d: the next one starts at offset %d", info.Size, HeaderSize+prev.size, h.offset)}
		}
	}
	r.segments = append(r.segments, &segment{first: first, offset: h.offset})
	r.end, r.state = synced{first, h.offset}, h.state
	return nil
}

// mayBeTorn reports whether something unreadable at index may be what a power
// cut left of unsynced bytes. Without a mark only an empty beginning may.
func (r *recovery) mayBeTorn(index uint64, beginning bool) bool {
	if !r.known {
		return beginning
	}
	return index >= r.marked.index
}

// dropTornSegment sets aside a last segment without a header: the power went
// between its creation and the first sync. Its predecessor is whole.
func (r *recovery) dropTornSegment(f vfs.File, path string, first uint64, size int64) error {
	if err := r.quarantine(f, first, 0, size); err != nil {
		return err
	}
	if err := r.fsys.Remove(path); err != nil {
		return err
	}
	return r.fsys.SyncDir(r.dir)
}

// create makes the first segment of a new log.
func (r *recovery) create() error {
	if r.known && r.marked.index != r.cfg.First {
		return &tidegate.CorruptError{Path: r.dir, Offset: -1, What: fmt.Sprintf(
			"no segments, but the log was synced up to index %d", r.marked.index)}
	}
	h := segmentHeader{format: r.format.Magic(), first: r.cfg.First, state: r.cfg.State}
	f, err := r.fsys.Create(segmentPath(r.dir, h.first))
	if err != nil {
		return err
	}
	r.tail = f // closed by open when something fails
	if _, err := f.WriteAt(h.encode(), 0); err != nil {
		return err
	}
	r.segments = []*segment{{first: h.first}}
	r.end, r.state = synced{index: h.first}, h.state
	return nil
}

func (r *recovery) openTail() (err error) {
	r.tail, err = r.fsys.OpenReadWrite(segmentPath(r.dir, r.segments[len(r.segments)-1].first))
	return err
}

// scanTail reads the last segment record by record up to the first that is not
// whole, and decides whether that one is torn or corrupt.
func (r *recovery) scanTail() error {
	size, err := r.tail.Size()
	if err != nil {
		return err
	}
	at, bad, err := r.scan(size)
	if err != nil {
		return err
	}
	path := r.tail.Name()
	if bad != nil {
		bad = corruptAt(path, at, bad)
		if errors.Is(bad, tidegate.ErrUnsupported) || !r.mayBeTorn(r.end.index, false) {
			return bad
		}
		if err := r.quarantine(r.tail, r.end.index, at, size); err != nil {
			return err
		}
		return r.tail.Truncate(at)
	}
	if r.known && r.end.index < r.marked.index {
		return &tidegate.CorruptError{Path: path, Offset: size, What: fmt.Sprintf(
			"log ends at index %d, but was synced up to %d", r.end.index, r.marked.index)}
	}
	return nil
}

// scan advances end and state over whole records. It returns where in the file
// it stopped and what is wrong there, nil at a clean end.
func (r *recovery) scan(size int64) (at int64, bad, err error) {
	at = HeaderSize
	var recs []byte
	buf := make([]byte, readAhead)
	for at < size {
		recs, buf, _, err = readRecords(r.tail, r.format, at, r.end.index, ^uint64(0), buf)
		var damage *unreadable
		if errors.As(err, &damage) {
			return at, damage.err, nil
		}
		if err != nil {
			return at, nil, err
		}
		for len(recs) > 0 {
			n, bad := r.step(recs)
			if bad != nil {
				return at, bad, nil
			}
			recs, at = recs[n:], at+int64(n)
		}
	}
	return at, nil, nil
}

// step takes the record at the start of recs, which has been verified, into
// the log and returns its length.
func (r *recovery) step(recs []byte) (int, error) {
	rec, err := parseRecord(r.format, recs, r.end.index)
	if err != nil {
		return 0, err
	}
	if r.chained != nil {
		if err := r.chained.Follows(r.state, recs[:rec.Len]); err != nil {
			return 0, err
		}
		r.state = r.chained.State(recs[:rec.Len])
	}
	tail := r.segments[len(r.segments)-1]
	if in := r.end.offset - tail.offset; in-tail.lastPlace() >= placeEvery {
		tail.places = append(tail.places, place{r.end.index, in})
	}
	r.end = synced{rec.Next, r.end.offset + int64(rec.Len)}
	return rec.Len, nil
}

// dropEmptyTail goes back to the segment before when the tail has no record
// left: an empty segment exists only at the beginning of a log, so that where
// segments begin depends on the records alone.
func (r *recovery) dropEmptyTail() error {
	n := len(r.segments)
	if n == 1 || r.end.offset > r.segments[n-1].offset {
		return nil
	}
	path := r.tail.Name()
	err := r.tail.Close()
	r.tail = nil
	if err != nil {
		return err
	}
	if err := r.fsys.Remove(path); err != nil {
		return err
	}
	if err := r.fsys.SyncDir(r.dir); err != nil {
		return err
	}
	r.segments = r.segments[:n-1]
	return r.openTail()
}

// quarantine copies the bytes [from, size) of f, unreadable from index on, to a
// durable file of their own.
func (r *recovery) quarantine(f vfs.File, index uint64, from, size int64) error {
	if size == from {
		return nil
	}
	b := make([]byte, size-from)
	if _, err := f.ReadAt(b, from); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := durable.MkdirAll(r.fsys, r.cfg.Quarantine); err != nil {
		return err
	}
	for n := 1; ; n++ {
		path := filepath.Join(r.cfg.Quarantine, fmt.Sprintf("%016x-%d%s", index, n, tornSuffix))
		same, err := holds(r.fsys, path, b)
		switch {
		case errors.Is(err, tidegate.ErrNotFound):
			err = durable.WriteFile(r.fsys, path, b)
		case err == nil && !same:
			continue // another torn tail at the same place, of an earlier crash
		case err == nil:
			// The crash before this one came between this copy and the truncation.
			err = r.fsys.SyncDir(r.cfg.Quarantine)
		}
		if err == nil {
			r.found = Recovery{TornBytes: r.found.TornBytes + int64(len(b)), Quarantined: path}
		}
		return err
	}
}

// harden makes everything found durable and says so in the mark.
func (r *recovery) harden() error {
	if err := r.rewrite(); err != nil {
		return err
	}
	if err := r.tail.Sync(); err != nil {
		return err
	}
	if err := r.mark.settle(r.end); err != nil {
		return err
	}
	if err := r.fsys.SyncDir(r.dir); err != nil {
		return err
	}
	r.durable = r.end
	return nil
}

// rewrite writes the tail's bytes beyond the mark once more. After a failed
// fsync the kernel calls such pages clean, so that reading finds them and
// syncing skips them, while the disk has something else; writing makes them
// dirty again.
func (r *recovery) rewrite() error {
	tail := r.segments[len(r.segments)-1]
	from := tail.offset
	if r.known {
		from = max(from, r.marked.offset)
	}
	buf := make([]byte, readAhead)
	for from < r.end.offset {
		b := buf[:min(int64(len(buf)), r.end.offset-from)]
		at := HeaderSize + from - tail.offset
		if _, err := r.tail.ReadAt(b, at); err != nil {
			return err
		}
		if _, err := r.tail.WriteAt(b, at); err != nil {
			return err
		}
		from += int64(len(b))
	}
	return nil
}

// holds reports whether the file at path has exactly these bytes.
func holds(fsys vfs.FS, path string, want []byte) (same bool, err error) {
	f, err := fsys.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil || size != int64(len(want)) {
		return false, err
	}
	got := make([]byte, size)
	if _, err := f.ReadAt(got, 0); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return bytes.Equal(got, want), nil
}
