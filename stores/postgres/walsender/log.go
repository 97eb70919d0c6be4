package walsender

import (
	"context"
	"fmt"

	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// Identity is what a receiver is told of the cluster that the log comes from.
type Identity struct {
	SystemID      uint64          // of the cluster, as initdb made it
	Timeline      wal.Timeline    // the newest one that may be streamed
	End           wal.LSN         // exclusive end of what may be streamed of it now; told as the flush position
	SegmentSize   wal.SegmentSize // wal_segment_size of the cluster
	ServerVersion string          // "15.18" or longer; receivers compare its major number with their own
}

// Log is the write-ahead log that is served. Its methods may be called
// concurrently, also for one place several times over.
type Log interface {
	// Identity returns what is so now. An error is told to the receiver, which
	// tries again later.
	Identity(ctx context.Context) (Identity, error)

	// History returns the timeline's history file, verbatim. An error that wraps
	// tidegate.ErrNotFound when there is none; timeline 1 never has one.
	History(ctx context.Context, tli wal.Timeline) ([]byte, error)

	// Open returns a reader of the timeline from the given place on, which is
	// wherever the receiver says: usually a segment's start, inside a record as
	// often as not. After a fork inside a segment that start lies before the fork,
	// and the reader gives the parent's bytes up to it, as the new timeline's first
	// segment file has them. It may block until the log is at hand, and ends early with
	// ctx. Outcomes: a reader; a [TimelineEnd] when exactly the end of a
	// timeline was asked for; one of the errors below, which are told in
	// PostgreSQL's words; another error, told as it is.
	//
	//  1. [AheadError]: the place lies beyond the end of the current timeline
	//  2. [HistoryError]: the timeline is none of ours, or ended before the place
	//  3. tidegate.ErrNotFound, wrapped: the log no longer has the place
	Open(ctx context.Context, tli wal.Timeline, from wal.LSN) (Reader, error)
}

// Reader gives one timeline's log onward, to one session.
type Reader interface {
	// Next blocks until there is more log and returns where it begins and its
	// bytes, never none, borrowed until the next call. Ranges are consecutive
	// and end at the end of a record. The first may begin before the place that
	// was opened, and is then trimmed; it must reach beyond it.
	//
	// A [TimelineEnd] says that the timeline ended where the last range did. Any
	// other error ends the stream and is told to the receiver, which connects
	// again by itself. It ends early with ctx.
	Next(ctx context.Context) (wal.LSN, []byte, error)

	// Close releases the reader; the last range is invalid after it. It is
	// called once, never during Next.
	Close() error
}

// TimelineEnd is the error of a reader that has come to where its timeline
// ended because another branched off.
type TimelineEnd struct {
	At   wal.LSN      // exclusive end of the timeline, start of the next one
	Next wal.Timeline // its child in the history of the newest one
}

func (e *TimelineEnd) Error() string {
	return fmt.Sprintf("timeline ended at %s, timeline %d follows", e.At, e.Next)
}

// AheadError refuses a place beyond the end of the current timeline: the
// receiver has log that ours lacks.
type AheadError struct {
	Asked wal.LSN
	End   wal.LSN // exclusive end of what may be streamed
}

func (e *AheadError) Error() string {
	return fmt.Sprintf("requested starting point %s is ahead of the WAL flush position of this server %s", e.Asked, e.End)
}

// HistoryError refuses a place that no history leads to: the receiver is on a
// branch of its own.
type HistoryError struct {
	Timeline wal.Timeline // asked for
	Asked    wal.LSN      // asked for
	ForkedAt wal.LSN      // where the timeline asked for ended; 0 when it is none of ours
}

func (e *HistoryError) Error() string {
	if e.ForkedAt == 0 {
		return fmt.Sprintf("requested timeline %d is not in this server's history", e.Timeline)
	}
	return fmt.Sprintf("requested starting point %s on timeline %d is not in this server's history", e.Asked, e.Timeline)
}
