package fence

import (
	"fmt"
	"slices"

	"github.com/tidegate/tidegate"
)

// HistoryTermsMax bounds a [History]. Older terms are forgotten: the chain
// proves content at any seq, a history only shortens the search.
const HistoryTermsMax = 32

// History lists the terms of a log, oldest first. Its last epoch is the epoch
// the log has *adopted*: never the one merely promised.
//
// Invariants, checked by Validate:
//  1. epochs grow strictly
//  2. start seqs never fall
type History []Term

// Last returns the newest term; the zero term for an empty history.
func (h History) Last() Term {
	if len(h) == 0 {
		return Term{}
	}
	return h[len(h)-1]
}

// EpochAt returns the epoch under which the batch seq was sealed; 0 when the
// history does not reach back to it.
func (h History) EpochAt(seq tidegate.Seq) tidegate.Epoch {
	for i := len(h) - 1; i >= 0; i-- {
		if h[i].StartSeq <= seq {
			return h[i].Epoch
		}
	}
	return 0
}

// end returns the last seq that term i can hold in a log that ends at end.
func (h History) end(i int, end tidegate.Seq) tidegate.Seq {
	if i+1 < len(h) {
		return min(h[i+1].StartSeq-1, end)
	}
	return end
}

// CommonBound returns the highest seq at which two logs with these histories
// and ends can be equal. One writer per epoch means that they agree through the
// shorter one's end of the last common term. It is a hint, to be proved by the
// chain; ok is false when the histories share no term.
func (h History) CommonBound(end tidegate.Seq, o History, oEnd tidegate.Seq) (bound tidegate.Seq, ok bool) {
	for i := len(h) - 1; i >= 0; i-- {
		for j := len(o) - 1; j >= 0; j-- {
			if h[i] == o[j] {
				return min(h.end(i, end), o.end(j, oEnd)), true
			}
		}
	}
	return 0, false
}

// With returns h cut to terms before t.Epoch and starting no later than
// t.StartSeq, followed by t. The result shares no memory with h.
func (h History) With(t Term) History {
	out := make(History, 0, len(h)+1)
	for _, x := range h {
		if x.Epoch < t.Epoch && x.StartSeq <= t.StartSeq {
			out = append(out, x)
		}
	}
	out = append(out, t)
	if len(out) > HistoryTermsMax {
		out = slices.Clone(out[len(out)-HistoryTermsMax:])
	}
	return out
}

// through returns the terms that a log ending at end can vouch for, in memory of
// their own: one that was damaged, or cut by an adopt that went no further, does
// not reach to where its last terms begin.
func (h History) through(end tidegate.Seq) History {
	for len(h) > 0 && h.Last().StartSeq > end+1 {
		h = h[:len(h)-1]
	}
	return h.Clone()
}

// Clone returns a copy that shares no memory with h.
func (h History) Clone() History { return slices.Clone(h) }

// Validate checks the invariants.
func (h History) Validate() error {
	for i := 1; i < len(h); i++ {
		if h[i-1].Epoch >= h[i].Epoch || h[i-1].StartSeq > h[i].StartSeq {
			return fmt.Errorf("history: term %d@%s follows %d@%s", h[i].Epoch, h[i].StartSeq, h[i-1].Epoch, h[i-1].StartSeq)
		}
	}
	return nil
}
