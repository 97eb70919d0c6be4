package seglog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
)

const (
	partialSuffix = ".partial" // of a quarantine directory that is not whole yet
	cutName       = "cut.json"
)

// cutRecord is cut.json in a quarantine directory.
type cutRecord struct {
	First  uint64 `json:"first,string"`
	Next   uint64 `json:"next,string"`
	Bytes  int64  `json:"bytes,string"`
	Reason string `json:"reason"`
}

// CutTo removes every record from index on. Before the first of them leaves
// the log, all of them lie in quarantineDir, synced, as segment files that
// [OpenReader] reads, beside cut.json and the attachments. When the directory
// exists already with the same content, as after a crash in the middle of this
// very cut, it is used; with other content a number is added to the name.
//
// On an error before that the log is unchanged; after it the log stops, and
// opening it again finds a whole log that ends at index or later. The appender
// must stand still; readers that are beyond index get tidegate.ErrConflict.
func (l *Log) CutTo(index uint64, quarantineDir, reason string, attach ...Attachment) (Cut, error) {
	l.syncMu.Lock()
	defer l.unlockSync()
	if err := l.Err(); err != nil {
		return Cut{}, err
	}
	if index == l.End() {
		return Cut{}, nil
	}
	cut, err := l.cut(index, quarantineDir, reason, attach)
	if err != nil && l.Err() == nil {
		return Cut{}, fmt.Errorf("cut %s to index %d: %w", l.dir, index, err)
	}
	return cut, err
}

func (l *Log) cut(index uint64, quarantineDir, reason string, attach []Attachment) (Cut, error) {
	to, err := l.locate(index)
	if err != nil {
		return Cut{}, err
	}
	state, err := l.stateBefore(to)
	if err := errors.Join(err, to.file.Close()); err != nil {
		return Cut{}, err
	}
	at := synced{index, to.segment.offset + to.at - HeaderSize}
	cut := Cut{First: index, Next: l.end.index, Bytes: l.end.offset - at.offset}
	note, err := json.MarshalIndent(cutRecord{cut.First, cut.Next, cut.Bytes, reason}, "", "  ")
	if err != nil {
		return Cut{}, err
	}
	attach = append(attach[:len(attach):len(attach)], Attachment{cutName, append(note, '\n')})
	q := quarantiner{Log: l, cut: to, header: segmentHeader{l.format.Magic(), index, at.offset, state}, attach: attach}
	if cut.Dir, err = q.run(quarantineDir); err != nil {
		return Cut{}, err
	}
	if err := l.shorten(at, state); err != nil {
		return Cut{}, l.stop("cut", err)
	}
	return cut, nil
}

// stateBefore returns the state at a located record.
func (l *Log) stateBefore(at located) (State, error) {
	h, err := readSegmentHeader(at.file, l.format, at.segment.first)
	if err != nil || l.chained == nil || at.prev == 0 {
		return h.state, err
	}
	rec := make([]byte, at.at-at.prev)
	if _, err := at.file.ReadAt(rec, at.prev); err != nil {
		return State{}, err
	}
	return l.chained.State(rec), nil
}

// shorten makes the log end at a place whose records beyond are in quarantine.
// Each step leaves a whole log behind if it is the last one.
func (l *Log) shorten(at synced, state State) error {
	// First the mark: were the records gone while it still counts them as
	// synced, the next start would report the log as damaged.
	mark := l.durable
	if mark.index > at.index {
		mark = at
	}
	if err := l.mark.settle(mark); err != nil {
		return err
	}
	gone := l.forget(at, mark, state)
	// Newest first, each removal durable before the next: what a power cut
	// leaves has no hole.
	for _, s := range slices.Backward(gone) {
		if err := l.fsys.Remove(segmentPath(l.dir, s.first)); err != nil {
			return err
		}
		if err := l.fsys.SyncDir(l.dir); err != nil {
			return err
		}
	}
	last := l.segments[len(l.segments)-1]
	if len(gone) > 0 {
		f, err := l.fsys.OpenReadWrite(segmentPath(l.dir, last.first))
		if err != nil {
			return err
		}
		old := l.tail
		l.mu.Lock()
		l.tail = f
		l.mu.Unlock()
		if err := old.Close(); err != nil {
			return err
		}
	}
	l.reserved, l.flushed = 0, 0 // truncating gives it back
	if err := l.tail.Truncate(HeaderSize + at.offset - last.offset); err != nil {
		return err
	}
	l.mu.Lock()
	l.dirDirty = true // whatever it was: the tail may be another file now
	l.mu.Unlock()
	return l.sync()
}

// forget takes everything from a place on out of the books and returns the
// segments that must go. It comes before the bytes change, so that a reader
// that stumbles over the change finds the reason.
func (l *Log) forget(at, durable synced, state State) (gone []*segment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	keep := len(l.segments)
	for keep > 1 && l.segments[keep-1].first >= at.index {
		keep--
	}
	gone = l.segments[keep:]
	l.segments = l.segments[:keep:keep]
	last := l.segments[keep-1]
	for n := len(last.places); n > 0 && last.places[n-1].index >= at.index; n-- {
		last.places = last.places[:n-1]
	}
	l.end, l.durable, l.state = at, durable, state
	l.cuts = append(l.cuts, at.index)
	l.signal()
	return gone
}

// quarantiner copies the end of a log to a directory of its own.
type quarantiner struct {
	*Log
	cut    located
	header segmentHeader // of the first file
	attach []Attachment
}

func (q *quarantiner) run(dir string) (string, error) {
	partial := dir + partialSuffix
	if err := q.clear(partial); err != nil {
		return "", err
	}
	if err := durable.MkdirAll(q.fsys, partial); err != nil {
		return "", err
	}
	if err := q.fill(partial); err != nil {
		return "", errors.Join(err, q.clear(partial))
	}
	final, done, err := q.name(partial, dir)
	if err != nil {
		return "", err
	}
	if done {
		err = q.clear(partial)
	} else {
		err = q.fsys.Rename(partial, final)
	}
	if err != nil {
		return "", err
	}
	return final, q.fsys.SyncDir(filepath.Dir(dir))
}

// clear removes an attempt that was interrupted: a copy, the log still has it all.
func (q *quarantiner) clear(partial string) error {
	names, err := q.fsys.List(partial)
	if errors.Is(err, tidegate.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := q.fsys.Remove(filepath.Join(partial, name)); err != nil {
			return err
		}
	}
	return q.fsys.Remove(partial)
}

// fill copies every segment from the cut on, and writes what lies beside them.
func (q *quarantiner) fill(partial string) error {
	for i, s := range q.segments {
		if s.first < q.cut.segment.first {
			continue
		}
		size := s.size
		if i == len(q.segments)-1 {
			size = q.end.offset - s.offset
		}
		first, from := s.first, int64(0)
		var head []byte
		if s == q.cut.segment {
			first, from, head = q.header.first, q.cut.at, q.header.encode()
		}
		if from == HeaderSize+size {
			continue // the cut is at the end of this segment
		}
		if err := q.copy(segmentPath(partial, first), segmentPath(q.dir, s.first), head, from, HeaderSize+size); err != nil {
			return err
		}
	}
	// There is at least cut.json, and writing it syncs the directory with all
	// that was put there before.
	for _, a := range q.attach {
		if err := durable.WriteFile(q.fsys, filepath.Join(partial, a.Name), a.Data); err != nil {
			return err
		}
	}
	return nil
}

// copy writes head and the bytes [from, to) of a file to a new, synced one.
func (q *quarantiner) copy(newPath, oldPath string, head []byte, from, to int64) (err error) {
	src, err := q.fsys.Open(oldPath)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	dst, err := q.fsys.Create(newPath)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if _, err := dst.Write(head); err != nil {
		return err
	}
	if n, err := io.Copy(struct{ io.Writer }{dst}, io.NewSectionReader(src, from, to-from)); err != nil || n != to-from {
		return errors.Join(err, shortCopy(oldPath, n, to-from))
	}
	return dst.Sync()
}

func shortCopy(path string, got, want int64) error {
	if got == want {
		return nil
	}
	return &tidegate.CorruptError{Path: path, Offset: -1, What: fmt.Sprintf("segment ends %d bytes early", want-got)}
}

// name finds the directory's final name, and whether it is there already.
func (q *quarantiner) name(partial, dir string) (final string, done bool, err error) {
	for n := 1; ; n++ {
		final = dir
		if n > 1 {
			final = fmt.Sprintf("%s-%d", dir, n)
		}
		_, err := q.fsys.Stat(final)
		if errors.Is(err, tidegate.ErrNotFound) {
			return final, false, nil
		}
		if err != nil {
			return "", false, err
		}
		same, err := sameRecords(q.fsys, partial, final)
		if err != nil || same {
			return final, same, err
		}
	}
}

// sameRecords reports whether two quarantine directories hold the same records;
// what lies beside them may differ in its time stamps.
func sameRecords(fsys vfs.FS, a, b string) (bool, error) {
	inA, err := listSegments(fsys, a)
	if err != nil {
		return false, err
	}
	inB, err := listSegments(fsys, b)
	if err != nil || len(inA) != len(inB) {
		return false, err
	}
	for i, first := range inA {
		if inB[i] != first {
			return false, nil
		}
		same, err := sameFile(fsys, segmentPath(a, first), segmentPath(b, first))
		if err != nil || !same {
			return false, err
		}
	}
	return true, nil
}

func sameFile(fsys vfs.FS, a, b string) (same bool, err error) {
	fa, err := fsys.Open(a)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, fa.Close()) }()
	fb, err := fsys.Open(b)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, fb.Close()) }()
	bufA, bufB := make([]byte, readAhead), make([]byte, readAhead)
	for off := int64(0); ; off += readAhead {
		na, errA := fa.ReadAt(bufA, off)
		nb, errB := fb.ReadAt(bufB, off)
		if !bytes.Equal(bufA[:na], bufB[:nb]) {
			return false, nil
		}
		endA, endB := errors.Is(errA, io.EOF), errors.Is(errB, io.EOF)
		if endA && endB {
			return true, nil
		}
		if errA != nil && !endA || errB != nil && !endB {
			return false, errors.Join(errA, errB)
		}
	}
}

// TrimBefore removes the oldest segments as long as all their records are
// before index; the last segment always stays. It may run beside the appender;
// readers in the removed part get tidegate.ErrNotFound at the end of their file.
func (l *Log) TrimBefore(index uint64) error {
	l.syncMu.Lock()
	defer l.unlockSync()
	// The tail may soon be all there is: were it torn then, the log would not
	// even know at which index it stands.
	if err := l.sync(); err != nil {
		return err
	}
	for {
		l.mu.Lock()
		segments := l.segments
		l.mu.Unlock()
		if len(segments) < 2 || segments[1].first > index {
			return nil
		}
		// Oldest first, each removal durable before the next: no hole.
		if err := l.fsys.Remove(segmentPath(l.dir, segments[0].first)); err != nil {
			return l.stop("trim", err)
		}
		if err := l.fsys.SyncDir(l.dir); err != nil {
			return l.stop("trim", err)
		}
		l.mu.Lock()
		l.segments = l.segments[1:]
		l.mu.Unlock()
	}
}
