package walsender

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// memLog is a log in memory whose bytes are a function of their place.
type memLog struct {
	mu       sync.Mutex
	id       Identity
	start    wal.LSN                      // what lies before was trimmed
	ends     map[wal.Timeline]TimelineEnd // of timelines that are history
	piece    int                          // bytes of a range
	broken   error                        // what readers say from now on
	identity error                        // what Identity says
	changed  chan struct{}                // closed at every change
	readers  int                          // open ones
	ahead    int                          // bytes by which first ranges begin early
}

func newMemLog(start, end wal.LSN) *memLog {
	return &memLog{
		id:    Identity{SystemID: 7301234567890123456, Timeline: 1, End: end, SegmentSize: 16 << 20, ServerVersion: "15.18"},
		start: start, ends: map[wal.Timeline]TimelineEnd{}, piece: 1 << 20, changed: make(chan struct{}),
	}
}

func (l *memLog) change(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *memLog) grow(to wal.LSN) { l.change(func() { l.id.End = to }) }

// promote ends the current timeline at its end.
func (l *memLog) promote() {
	l.change(func() {
		l.ends[l.id.Timeline] = TimelineEnd{At: l.id.End, Next: l.id.Timeline + 1}
		l.id.Timeline++
	})
}

func (l *memLog) opened() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.readers
}

func (l *memLog) Identity(context.Context) (Identity, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.id, l.identity
}

func (l *memLog) History(_ context.Context, tli wal.Timeline) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if tli < 2 || tli > l.id.Timeline {
		return nil, fmt.Errorf("history of %s: %w", tli, tidegate.ErrNotFound)
	}
	return fmt.Appendf(nil, "%d\t%s\ttest\n", tli-1, l.ends[tli-1].At), nil
}

func (l *memLog) Open(_ context.Context, tli wal.Timeline, from wal.LSN) (Reader, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	end, ended := l.ends[tli]
	switch {
	case tli > l.id.Timeline:
		return nil, &HistoryError{Timeline: tli, Asked: from}
	case ended && from > end.At:
		return nil, &HistoryError{Timeline: tli, Asked: from, ForkedAt: end.At}
	case ended && from == end.At:
		return nil, &end
	case from > l.id.End:
		return nil, &AheadError{Asked: from, End: l.id.End}
	case from < l.start:
		return nil, fmt.Errorf("open log: %w", tidegate.ErrNotFound)
	}
	l.readers++
	return &memReader{log: l, tli: tli, pos: from - wal.LSN(l.ahead)}, nil
}

type memReader struct {
	log *memLog
	tli wal.Timeline
	pos wal.LSN
	b   []byte // lent by the last Next; poisoned by the next one
}

func byteAt(at wal.LSN) byte { return byte(at) ^ byte(at>>8)*31 ^ byte(at>>16)*7 }

func (r *memReader) Next(ctx context.Context) (wal.LSN, []byte, error) {
	for i := range r.b {
		r.b[i] = 0xEE
	}
	for {
		r.log.mu.Lock()
		end, ended := r.log.ends[r.tli]
		limit, changed, broken := r.log.id.End, r.log.changed, r.log.broken
		r.log.mu.Unlock()
		if ended {
			limit = end.At
		}
		switch {
		case broken != nil:
			return 0, nil, broken
		case r.pos < limit:
			n := min(int(limit-r.pos), r.log.piece)
			r.b = make([]byte, n)
			for i := range r.b {
				r.b[i] = byteAt(r.pos + wal.LSN(i))
			}
			r.pos += wal.LSN(n)
			return r.pos - wal.LSN(n), r.b, nil
		case ended:
			return 0, nil, &end
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, nil, ctx.Err()
		}
	}
}

func (r *memReader) Close() error {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	r.log.readers--
	if r.log.readers < 0 {
		return errors.New("closed twice")
	}
	return nil
}
