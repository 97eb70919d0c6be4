package walsender

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// pgLog is a Log over the segment files of real servers, which goes on as they
// write. Ranges are of random sizes and end where the parser says.
type pgLog struct {
	mu      sync.Mutex
	id      Identity
	lines   map[wal.Timeline]*pgLine
	changed chan struct{} // closed at every change
}

// pgLine is one timeline: the pg_wal it is read from, and what of it is known.
type pgLine struct {
	dir     string
	cuts    []wal.LSN // record ends, ascending; the first is where the line begins
	end     *TimelineEnd
	history []byte
}

func newPGLog(t *testing.T, s *pgtest.Server) *pgLog {
	t.Helper()
	l := &pgLog{lines: map[wal.Timeline]*pgLine{}, changed: make(chan struct{})}
	var err error
	if l.id.SegmentSize, err = wal.ParseSegmentSize(s.SQL(t, "SHOW wal_segment_size")); err != nil {
		t.Fatal(err)
	}
	l.id.ServerVersion = s.SQL(t, "SHOW server_version")
	if _, err := fmt.Sscan(s.SQL(t, "SELECT system_identifier FROM pg_control_system()"), &l.id.SystemID); err != nil {
		t.Fatal(err)
	}
	return l
}

// follow reads timeline tli from s, from the segment of start on, until the test
// or the server ends, or the timeline. flushed is SQL for the end of what s has.
func (l *pgLog) follow(t *testing.T, tli wal.Timeline, s *pgtest.Server, start wal.LSN, flushed string, history []byte) {
	t.Helper()
	line := &pgLine{dir: filepath.Join(s.DataDir, "pg_wal"), cuts: []wal.LSN{l.id.SegmentSize.Start(start)}, history: history}
	l.change(func() { l.lines[tli], l.id.Timeline = line, tli })
	conn, err := pgconn.Connect(t.Context(), s.Conn())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var end error
	var one sync.WaitGroup
	one.Go(func() { end = l.copyEnds(ctx, conn, tli, flushed) })
	t.Cleanup(func() {
		cancel()
		one.Wait()
		_ = conn.Close(context.Background()) // the server may be gone
		var fault *wal.Fault
		if errors.As(end, &fault) {
			t.Errorf("log of timeline %s: %v", tli, end)
		}
	})
}

// copyEnds finds record ends as the server goes on.
func (l *pgLog) copyEnds(ctx context.Context, conn *pgconn.PgConn, tli wal.Timeline, flushed string) error {
	p, err := wal.NewParser(wal.Config{SegmentSize: l.id.SegmentSize})
	if err != nil {
		return err
	}
	l.mu.Lock()
	line := l.lines[tli]
	p.Begin(line.cuts[0])
	l.mu.Unlock()
	r := &pgReader{log: l, line: line, tli: tli}
	defer r.Close()
	buf := make([]byte, 2<<20)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		rows, err := conn.Exec(ctx, "SELECT "+flushed).ReadAll()
		if err != nil {
			return err
		}
		limit, err := wal.ParseLSN(string(rows[0].Rows[0][0]))
		if err != nil {
			return err
		}
		for p.Next() < limit {
			n := min(int(limit-p.Next()), 1+rand.N([]int{500, 9000, 300_000, len(buf)}[rand.N(4)]))
			if err := r.readAt(p.Next(), buf[:n]); err != nil {
				return err
			}
			if err := p.Push(p.Next(), buf[:n]); err != nil {
				return err
			}
			l.cut(line, p.End())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (l *pgLog) cut(line *pgLine, at wal.LSN) {
	l.change(func() {
		if line.end == nil && at > line.cuts[len(line.cuts)-1] {
			line.cuts, l.id.End = append(line.cuts, at), at
		}
	})
}

// finish ends a timeline at a fork, to which it has to be known.
func (l *pgLog) finish(t *testing.T, tli, next wal.Timeline, at wal.LSN) {
	t.Helper()
	line := l.lines[tli]
	until(t, "the log to reach the fork", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return line.cuts[len(line.cuts)-1] >= at
	})
	l.change(func() {
		for line.cuts[len(line.cuts)-1] > at {
			line.cuts = line.cuts[:len(line.cuts)-1]
		}
		if line.cuts[len(line.cuts)-1] < at {
			line.cuts = append(line.cuts, at)
		}
		line.end = &TimelineEnd{At: at, Next: next}
	})
}

func (l *pgLog) change(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *pgLog) Identity(context.Context) (Identity, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.id, nil
}

func (l *pgLog) History(_ context.Context, tli wal.Timeline) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if line := l.lines[tli]; line != nil && line.history != nil {
		return line.history, nil
	}
	return nil, tidegate.ErrNotFound
}

func (l *pgLog) Open(_ context.Context, tli wal.Timeline, from wal.LSN) (Reader, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := l.lines[tli]
	switch {
	case line == nil:
		return nil, &HistoryError{Timeline: tli, Asked: from}
	case from < line.cuts[0]:
		return nil, tidegate.ErrNotFound
	case line.end != nil && from == line.end.At:
		return nil, line.end
	case line.end != nil && from > line.end.At:
		return nil, &HistoryError{Timeline: tli, Asked: from, ForkedAt: line.end.At}
	case from > line.cuts[len(line.cuts)-1]:
		return nil, &AheadError{Asked: from, End: line.cuts[len(line.cuts)-1]}
	}
	return &pgReader{log: l, line: line, tli: tli, pos: from}, nil
}

type pgReader struct {
	log  *pgLog
	line *pgLine
	tli  wal.Timeline
	pos  wal.LSN
	buf  []byte
	file *os.File
}

func (r *pgReader) Next(ctx context.Context) (wal.LSN, []byte, error) {
	for {
		r.log.mu.Lock()
		cuts, end, changed := r.line.cuts, r.line.end, r.log.changed
		r.log.mu.Unlock()
		if i := sort.Search(len(cuts), func(i int) bool { return cuts[i] > r.pos }); i < len(cuts) {
			start := r.pos
			r.buf = append(r.buf[:0], make([]byte, cuts[i]-start)...)
			r.pos = cuts[i]
			return start, r.buf, r.readAt(start, r.buf)
		}
		if end != nil {
			return 0, nil, end
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, nil, ctx.Err()
		}
	}
}

// readAt fills b from the segment files.
func (r *pgReader) readAt(at wal.LSN, b []byte) error {
	size := r.log.id.SegmentSize
	for len(b) > 0 {
		path := filepath.Join(r.line.dir, size.FileName(r.tli, at))
		if r.file == nil || strings.TrimSuffix(r.file.Name(), ".partial") != path {
			if err := r.open(path); err != nil {
				return err
			}
		}
		n := min(len(b), int(size)-int(size.Offset(at)))
		if _, err := r.file.ReadAt(b[:n], size.Offset(at)); err != nil {
			return err
		}
		at, b = at+wal.LSN(n), b[n:]
	}
	return nil
}

// open opens a segment; a promotion renames the last one of the old timeline.
func (r *pgReader) open(path string) error {
	if err := r.Close(); err != nil {
		return err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = os.Open(path + ".partial")
	}
	r.file = f
	return err
}

func (r *pgReader) Close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return err
}
