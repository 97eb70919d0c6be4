package gating

import (
	"fmt"
	"sync"
	"time"

	"github.com/tidegate/tidegate"
)

// newPlanID draws an id that sorts by time: 48 bits of milliseconds, 80 random.
func newPlanID(now time.Time) tidegate.ID {
	id := tidegate.NewID()
	putMillis(&id, now)
	return id
}

func putMillis(id *tidegate.ID, now time.Time) {
	ms := uint64(now.UnixMilli())
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
}

// entryIDs draws ids of audit entries: 48 bits of milliseconds, 16 of a counter,
// 64 random. Entries of one gate sort in the order in which they were made, also
// within one transaction.
type entryIDs struct {
	mu    sync.Mutex
	ms    int64
	count uint16
}

func (e *entryIDs) next(now time.Time) tidegate.ID {
	id := tidegate.NewID()
	e.mu.Lock()
	defer e.mu.Unlock()
	if ms := now.UnixMilli(); ms > e.ms {
		e.ms, e.count = ms, 0
	} else if e.count++; e.count == 0 {
		e.ms++ // 65,536 entries within a millisecond: borrow from the next one
	}
	putMillis(&id, time.UnixMilli(e.ms))
	id[6], id[7] = byte(e.count>>8), byte(e.count)
	return id
}

// sinceID is an id below which no entry is as young as t: an id begins with the
// time of a gate whose clock may be a little behind.
func sinceID(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return fmt.Sprintf("%012x%020x", max(t.Add(-time.Minute).UnixMilli(), 0), 0)
}
