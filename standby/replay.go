package standby

import (
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
)

// replay counts the records of a log as they are appended, so that the warm
// copy's backlog and its rate are known without reading the log again. Guarded
// by the stream's mu.
//
// Invariants:
//  1. marks ascend, lie in (base, end], and are at most marksMax
//  2. what lies at or before base was not counted: nothing is claimed of it
type replay struct {
	base    tidegate.Seq      // newest batch that was in the log before counting began
	end     tidegate.Seq      // newest batch counted
	records uint64            // of (base, end]
	next    tidegate.Position // end of the newest batch counted
	marks   []mark
	every   tidegate.Seq // distance of marks; 0 stands for 1

	// The stretch that is being timed: it began while the library had something
	// to do, so its time was spent on applying.
	timing bool
	began  tidegate.Instant
	from   uint64 // records applied when it began
	rates  [ratesKept]float64
	rated  int // stretches timed so far
}

// mark says how many records lie in (base, seq].
type mark struct {
	seq     tidegate.Seq
	records uint64
	next    tidegate.Position // end of the batch
}

const (
	// marksMax bounds the memory of a backlog: 64 KiB. Beyond it every other mark
	// goes, and the lag is then an upper bound, too high by one distance at most.
	marksMax = 4096
	// stretchMin is what a rate is measured over at least: several reports of the
	// library, so that when they happened to come does not show.
	stretchMin = 500 * time.Millisecond
	// ratesKept stretches are remembered, and the best of them is the rate: the
	// copy cannot apply faster than records come, so a quiet stretch says
	// little, and a busy one shows what it can do.
	ratesKept = 16
)

// startReplay begins to count behind the log's end.
func startReplay(end tidegate.Seq) replay { return replay{base: end, end: end} }

// appended counts a batch that follows the end.
func (r *replay) appended(h *batch.Header) {
	seq := h.Seq
	r.end, r.records, r.next = seq, r.records+uint64(h.Records), h.Next
	last := r.base
	if n := len(r.marks); n > 0 {
		last = r.marks[n-1].seq
	}
	if seq-last < r.every {
		return
	}
	if len(r.marks) == marksMax {
		kept := r.marks[:0]
		for i := 1; i < len(r.marks); i += 2 {
			kept = append(kept, r.marks[i])
		}
		r.marks, r.every = kept, max(1, r.every)*2
	}
	r.marks = append(r.marks, mark{seq, r.records, r.next})
}

// cut starts over behind a log that was cut to seq. The rates stay.
func (r *replay) cut(seq tidegate.Seq) {
	r.base, r.end, r.records, r.marks, r.every, r.timing = seq, seq, 0, nil, 0, false
}

// through returns how many records lie in (base, seq]: exactly at the end and at
// a mark, otherwise as many as the next mark below says. Not known before base.
func (r *replay) through(seq tidegate.Seq) (records uint64, known bool) {
	switch {
	case seq < r.base:
		return 0, false
	case seq >= r.end:
		return r.records, true
	}
	i, exact := slices.BinarySearchFunc(r.marks, seq, func(m mark, seq tidegate.Seq) int {
		switch {
		case m.seq < seq:
			return -1
		case m.seq > seq:
			return 1
		}
		return 0
	})
	if exact {
		return r.marks[i].records, true
	}
	if i == 0 {
		return 0, true
	}
	return r.marks[i-1].records, true
}

// lag returns the records behind seq.
func (r *replay) lag(seq tidegate.Seq) (records int64, known bool) {
	done, known := r.through(seq)
	return int64(r.records - done), known
}

// behind returns how many records lie behind a position, or somewhat more.
func (r *replay) behind(p tidegate.Position) int64 {
	through := uint64(0)
	for _, m := range slices.Backward(r.marks) {
		if m.next <= p {
			through = m.records
			break
		}
	}
	return int64(r.records - through)
}

// applied takes the library's word on how far it is.
func (r *replay) applied(now tidegate.Instant, seq tidegate.Seq) {
	done, known := r.through(seq)
	if !known {
		r.timing = false
		return
	}
	behind := r.records > done
	if r.timing && time.Duration(now-r.began) >= stretchMin {
		if done > r.from {
			r.rates[r.rated%ratesKept] = float64(done-r.from) / time.Duration(now-r.began).Seconds()
			r.rated++
		}
		r.timing = false
	}
	if !r.timing && behind {
		r.timing, r.began, r.from = true, now, done
	}
	if n := len(r.marks); seq >= r.end && n > 0 && n < marksMax && r.marks[n-1].seq < r.end {
		r.marks = append(r.marks, mark{r.end, r.records, r.next}) // exact again, however far apart the marks were
	}
	// What lies before the newest mark at or below seq is asked for no more.
	i := slices.IndexFunc(r.marks, func(m mark) bool { return m.seq > seq })
	if i < 0 {
		i = len(r.marks)
	}
	if i > 1 {
		r.marks = slices.Delete(r.marks, 0, i-1)
	}
	if len(r.marks) <= 1 {
		r.every = 0
	}
}

// paused ends the stretch: the library is gone.
func (r *replay) paused() { r.timing = false }

// rate returns the records applied per second; not known until measured.
func (r *replay) rate() (perSecond float64, known bool) {
	return slices.Max(r.rates[:]), r.rated > 0
}
