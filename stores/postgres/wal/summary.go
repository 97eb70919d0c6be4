package wal

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// SummaryXIDsMax bounds the transactions that a Summary names. All are counted.
const SummaryXIDsMax = 10_000

// Summary says what a stretch of the log held: for a tail that a server wrote and
// the stream went on without, the transactions that are lost with it.
type Summary struct {
	From LSN `json:"from"` // where the stretch begins: the fork
	To   LSN `json:"to"`   // the last record end that was found; From when there was no record

	Records uint64 `json:"records"`
	Commits uint64 `json:"commits"`
	Aborts  uint64 `json:"aborts"`

	// XIDs are the transactions that were committed, in the order of their commits,
	// the first SummaryXIDsMax. Prepared ones are in it once they were committed.
	XIDs []uint32 `json:"xids,omitempty"`
	// Open are the transactions that were prepared in the stretch and not ended in
	// it, in the order of their ids.
	Open []uint32 `json:"open,omitempty"`

	// Of the commits, by the server's clock; nil when there was none.
	Oldest *time.Time `json:"oldest,omitempty"`
	Newest *time.Time `json:"newest,omitempty"`

	// Why it ends at To: empty when it was not read to its end.
	Ended FaultKind `json:"ended,omitempty"`
	Cause string    `json:"cause,omitempty"`
}

// Bytes returns how much log the stretch is.
func (s Summary) Bytes() uint64 { return uint64(s.To - s.From) }

// String returns one line for a person:
// "0/3000158 to 0/3000D28 (3024 bytes): 3 commits, xids 741 to 745, 2026-11-21T14:02:11.5Z to 2026-11-21T14:02:12Z".
func (s Summary) String() string {
	b := fmt.Appendf(nil, "%s to %s (%d bytes): %d commits", s.From, s.To, s.Bytes(), s.Commits)
	if len(s.XIDs) > 0 {
		b = fmt.Appendf(b, ", xids %d to %d", s.XIDs[0], s.XIDs[len(s.XIDs)-1])
		if more := s.Commits - uint64(len(s.XIDs)); more > 0 {
			b = fmt.Appendf(b, " and %d more", more)
		}
	}
	if s.Oldest != nil {
		b = fmt.Appendf(b, ", %s to %s", s.Oldest.Format(time.RFC3339Nano), s.Newest.Format(time.RFC3339Nano))
	}
	if len(s.Open) > 0 {
		b = fmt.Appendf(b, "; %d prepared and not ended", len(s.Open))
	}
	return string(b)
}

// Summarizer makes the Summary of a stretch that is pushed to it, usually the
// segment files of an old primary from the fork on. Its memory grows with the
// transactions that it names.
type Summarizer struct {
	p    *Parser
	s    Summary
	open map[uint32]bool
}

// NewSummarizer starts at from, a record end. cfg.Event is not called. For a tail,
// cfg.Lineage is the lineage of the server that wrote it, or zero.
func NewSummarizer(cfg Config, from Mark) (*Summarizer, error) {
	z := &Summarizer{s: Summary{From: from.End, To: from.End}, open: map[uint32]bool{}}
	cfg.Event = z.event
	var err error
	if z.p, err = NewParser(cfg); err != nil {
		return nil, err
	}
	return z, z.p.Resume(from)
}

// Push reads on. done is true once the log has ended: where PostgreSQL itself
// would end it, at the first byte that cannot be log. The error is for bytes
// that are not of this log at all: of another system or release, of a timeline that
// does not belong there, or not those that follow.
func (z *Summarizer) Push(at LSN, b []byte) (done bool, err error) {
	if z.s.Ended != "" {
		return true, nil
	}
	err = z.p.Push(at, b)
	z.s.To = z.p.End()
	var f *Fault
	if err == nil || !errors.As(err, &f) {
		return false, err
	}
	switch f.Kind {
	case FaultEnd, FaultPage, FaultRecord, FaultLink, FaultChecksum:
		z.s.Ended, z.s.Cause = f.Kind, fmt.Sprintf("%s: %s", f.At, f.What)
		return true, nil
	case FaultGap, FaultVersion, FaultSystem, FaultTimeline:
	}
	return false, err
}

func (z *Summarizer) event(e Event) {
	switch e.Kind {
	case Commit:
		if len(z.s.XIDs) < SummaryXIDsMax {
			z.s.XIDs = append(z.s.XIDs, e.XID)
		}
		delete(z.open, e.XID)
	case Abort:
		delete(z.open, e.XID)
	case Prepare:
		z.open[e.XID] = true
	default:
	}
}

// Summary returns what was found so far. The slices are the caller's.
func (z *Summarizer) Summary() Summary {
	s, t := z.s, z.p.Tally()
	s.Records, s.Commits, s.Aborts = t.Records, t.Commits, t.Aborts
	s.XIDs, s.Open = slices.Clone(s.XIDs), nil
	for xid := range z.open {
		s.Open = append(s.Open, xid)
	}
	slices.Sort(s.Open)
	if t.Commits > 0 {
		oldest, newest := time.Unix(0, t.Oldest).UTC(), time.Unix(0, t.Newest).UTC()
		s.Oldest, s.Newest = &oldest, &newest
	}
	return s
}
