package deltalog

import (
	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
)

// recentMax is how many headers are remembered, some 200 bytes each. Between a
// batch's arrival and its application lie far fewer, and all that happens to a
// batch in between asks for its header.
const recentMax = 1024

// recent remembers the headers of the newest batches that were appended by this
// process, so that the common questions do not go to the disk. Its seqs are
// contiguous. The zero value is empty.
type recent struct {
	headers []batch.Header // of seq s at s % recentMax
	first   tidegate.Seq   // oldest remembered
	next    tidegate.Seq   // one past the newest; equal to first when empty
}

func (r *recent) push(h *batch.Header) {
	if h.Seq != r.next || r.first == r.next {
		r.first, r.next = h.Seq, h.Seq
	}
	if r.headers == nil {
		r.headers = make([]batch.Header, recentMax)
	}
	r.headers[h.Seq%recentMax] = *h
	r.next++
	r.first = max(r.first, r.next-min(r.next, recentMax))
}

func (r *recent) at(seq tidegate.Seq) (h batch.Header, ok bool) {
	if seq < r.first || seq >= r.next {
		return h, false
	}
	return r.headers[seq%recentMax], true
}

// cut forgets everything beyond seq.
func (r *recent) cut(seq tidegate.Seq) {
	r.next = min(r.next, seq+1)
	r.first = min(r.first, r.next)
}
