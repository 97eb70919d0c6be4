package seglog

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
)

const (
	placeEvery = 64 << 10 // record bytes between two entries of the sparse index
	placesMax  = 1 << 16  // entries kept of sealed segments: 1 MiB of memory for 4 GiB of log
	walkBytes  = 64 << 10 // read at once while looking for a record
)

// segment is one file of the log. first and offset never change; the rest is
// guarded by the log's mu.
type segment struct {
	first  uint64
	offset int64   // record bytes before it
	size   int64   // record bytes in it; of a sealed segment only
	places []place // ascending; complete for the tail, as far as anybody looked for the others
}

// place says where in a segment a record starts.
type place struct {
	index uint64
	at    int64 // record bytes before it in the segment
}

func (s *segment) lastPlace() int64 {
	if n := len(s.places); n > 0 {
		return s.places[n-1].at
	}
	return 0
}

// nearest returns the last known place whose index is below or at index.
func (s *segment) nearest(index uint64) place {
	i, found := slices.BinarySearchFunc(s.places, index, func(p place, index uint64) int {
		switch {
		case p.index < index:
			return -1
		case p.index > index:
			return 1
		}
		return 0
	})
	if found {
		return s.places[i]
	}
	if i == 0 {
		return place{index: s.first}
	}
	return s.places[i-1]
}

var errNotBoundary = errors.New("not the index of a record")

// located is where a record starts, and the record before it in its segment.
type located struct {
	segment *segment
	file    vfs.File // for reading; the caller closes it
	at      int64    // offset in the file
	prev    int64    // offset in the file of the record before; 0 when there is none in the segment
}

// locate opens the segment of the record at index, which may be the end of the
// log, and finds it.
func (l *Log) locate(index uint64) (found located, err error) {
	// prev must be found too, so start from a place before the record.
	before := index
	if before > 0 {
		before--
	}
	l.mu.Lock()
	if index < l.segments[0].first || index > l.end.index {
		first, end := l.segments[0].first, l.end.index
		l.mu.Unlock()
		return found, fmt.Errorf("index %d of %s is outside [%d, %d): %w", index, l.dir, first, end, tidegate.ErrNotFound)
	}
	i, exact := slices.BinarySearchFunc(l.segments, index, func(s *segment, index uint64) int {
		switch {
		case s.first < index:
			return -1
		case s.first > index:
			return 1
		}
		return 0
	})
	if !exact {
		i--
	}
	s := l.segments[i]
	start, known := s.nearest(max(before, s.first)), s.lastPlace()
	sealed := i < len(l.segments)-1
	l.mu.Unlock()

	f, err := l.fsys.Open(segmentPath(l.dir, s.first))
	if err != nil {
		return found, err
	}
	w := walker{f: f, format: l.format, index: start.index, at: HeaderSize + start.at, known: known}
	if err := w.to(index); err != nil {
		return found, errors.Join(err, f.Close())
	}
	if sealed && len(w.places) > 0 {
		l.learn(s, w.places)
	}
	return located{s, f, w.at, w.prev}, nil
}

// learn keeps places found in a sealed segment, within the limit.
func (l *Log) learn(s *segment, places []place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	total := len(places)
	for _, s := range l.segments[:len(l.segments)-1] {
		total += len(s.places)
	}
	if total > placesMax {
		for _, s := range l.segments[:len(l.segments)-1] {
			s.places = nil
		}
	}
	for _, p := range places {
		if p.at-s.lastPlace() >= placeEvery {
			s.places = append(s.places, p)
		}
	}
}

// walker steps over record headers; payloads are not looked at.
type walker struct {
	f      vfs.File
	format Format
	index  uint64
	at     int64 // offset in the file
	prev   int64 // of the record before; 0 when the walk began at index
	known  int64 // places up to here are known already
	places []place

	window []byte
	start  int64 // offset in the file of the window
	buf    []byte
}

// to steps until index is reached.
func (w *walker) to(index uint64) error {
	for w.index < index {
		b, err := w.bytes(w.format.HeaderLen())
		if err != nil {
			return err
		}
		rec, err := parseRecord(w.format, b, w.index)
		if err != nil {
			return corruptAt(w.f.Name(), w.at, err)
		}
		if at := w.at - HeaderSize; at-w.known >= placeEvery {
			w.places = append(w.places, place{w.index, at})
			w.known = at
		}
		w.prev = w.at
		w.at += int64(rec.Len)
		w.index = rec.Next
	}
	if w.index != index {
		return fmt.Errorf("index %d in %s: %w", index, w.f.Name(), errNotBoundary)
	}
	return nil
}

// bytes returns n bytes at w.at, reading ahead; fewer at the end of the file.
func (w *walker) bytes(n int) ([]byte, error) {
	if w.at < w.start || w.at+int64(n) > w.start+int64(len(w.window)) {
		if w.buf == nil {
			w.buf = make([]byte, max(walkBytes, n))
		}
		got, err := w.f.ReadAt(w.buf, w.at)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		w.window, w.start = w.buf[:got], w.at
	}
	b := w.window[w.at-w.start:]
	return b[:min(n, len(b))], nil
}

// Header reads the header of the record at index into buf, which is grown if it
// is too small, and returns it. The rest of the record is not looked at.
func (l *Log) Header(index uint64, buf []byte) (hdr []byte, err error) {
	if end := l.End(); index >= end {
		return nil, fmt.Errorf("index %d of %s is at or beyond the end %d: %w", index, l.dir, end, tidegate.ErrNotFound)
	}
	found, err := l.locate(index)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, found.file.Close()) }()
	n := l.format.HeaderLen()
	hdr = slices.Grow(buf[:0], n)[:n]
	if _, err := found.file.ReadAt(hdr, found.at); err != nil {
		if errors.Is(err, io.EOF) {
			err = corruptAt(found.file.Name(), found.at, errors.New("record header is cut"))
		}
		return nil, err
	}
	return hdr, nil
}

// FirstState is the state before the oldest record kept.
func (l *Log) FirstState() (state State, err error) {
	first := l.First()
	f, err := l.fsys.Open(segmentPath(l.dir, first))
	if err != nil {
		return state, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h, err := readSegmentHeader(f, l.format, first)
	return h.state, err
}
