package seglog

import (
	"fmt"
	"slices"
	"sort"

	"github.com/tidegate/tidegate"
)

// TrimPoint returns where the log would begin after TrimBefore(index), if that took
// away so many segments at most: where a segment begins, at or before index.
func (l *Log) TrimPoint(index uint64, most int) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := sort.Search(len(l.segments), func(i int) bool { return l.segments[i].first > index })
	return l.segments[min(max(n, 1)-1, most)].first
}

// Behind returns where the newest segment begins from which on the log holds at
// least so many bytes of records; its beginning when it holds less.
func (l *Log) Behind(bytes int64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range slices.Backward(l.segments) {
		if l.end.offset-s.offset >= bytes {
			return s.first
		}
	}
	return l.segments[0].first
}

// Begin makes an empty log one whose first record will have an index of its own,
// behind a state: what a log is that begins where another was trimmed. A log that
// holds anything is tidegate.ErrConflict. The appender must stand still; readers
// get tidegate.ErrNotFound. It is durable when it returns. After a crash in between
// the log is empty, and begins where it did or where Config.First says; after
// another error it has stopped.
func (l *Log) Begin(index uint64, state State) error {
	l.syncMu.Lock()
	defer l.unlockSync()
	if err := l.Err(); err != nil {
		return err
	}
	if first, end := l.First(), l.End(); first != end {
		return fmt.Errorf("begin %s at %d: it holds %d to %d: %w", l.dir, index, first, end, tidegate.ErrConflict)
	}
	if err := l.begin(index, state); err != nil {
		return l.stop("begin", err)
	}
	return nil
}

func (l *Log) begin(index uint64, state State) error {
	// First the mark: one that speaks of another index than the first one kept
	// would call what a crash leaves damaged. Without one, only an empty log is taken
	// for whole.
	if err := l.mark.forget(); err != nil {
		return err
	}
	l.mu.Lock()
	old, tail := l.segments[0].first, l.tail
	l.mu.Unlock()
	if err := tail.Close(); err != nil {
		return err
	}
	if err := l.fsys.Remove(segmentPath(l.dir, old)); err != nil {
		return err
	}
	if err := l.fsys.SyncDir(l.dir); err != nil {
		return err
	}
	h := segmentHeader{format: l.format.Magic(), first: index, state: state}
	f, err := l.fsys.Create(segmentPath(l.dir, index))
	if err != nil {
		return err
	}
	at := synced{index: index}
	l.mu.Lock()
	l.tail, l.segments, l.end, l.durable, l.state = f, []*segment{{first: index}}, at, at, state
	l.signal()
	l.mu.Unlock()
	l.reserved, l.flushed = 0, 0
	if _, err := f.WriteAt(h.encode(), 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := l.fsys.SyncDir(l.dir); err != nil {
		return err
	}
	return l.mark.settle(at)
}
