package archive

import (
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
)

// backlog is what follows the archive's end in a log, as far as it was looked at:
// one segment at most.
type backlog struct {
	Range           // Last < First: nothing was added
	Bytes     int64 // sealed
	Says      bool  // something else than heartbeats
	Since     tidegate.Instant
	committed bool // there was a batch: Since counts
	// Of the log: under another epoch its batches are others.
	epoch tidegate.Epoch
	start tidegate.Seq
}

// begin makes b the backlog from a batch on, of the log as s says.
func (b *backlog) begin(next tidegate.Seq, s *Standing) {
	*b = backlog{Range: Range{next, next - 1}, epoch: s.Epoch, start: s.Start}
}

// goesOn reports whether b is of the log as s says, from next on, and nothing in it is
// beyond upTo.
func (b *backlog) goesOn(next, upTo tidegate.Seq, s *Standing) bool {
	return b.First == next && b.epoch == s.Epoch && b.start == s.Start && (!b.committed || b.Last <= upTo)
}

// add takes the next batch, which is committed.
func (b *backlog) add(h *batch.Header, now tidegate.Instant) {
	if !b.committed {
		b.Since, b.committed = now, true
	}
	b.Last = h.Seq
	b.Bytes += int64(h.SealedLen())
	b.Says = b.Says || h.Kind != batch.KindHeartbeat
}

// due reports whether the backlog is to become a segment now.
func (p Policy) due(b *backlog, now tidegate.Instant) bool {
	if !b.committed {
		return false
	}
	waited := time.Duration(now - b.Since)
	return b.Bytes >= p.Segment || b.Says && waited >= p.Every || waited >= p.Quiet
}
