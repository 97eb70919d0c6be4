package walsender

import (
	"time"

	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// Stream names one streaming of log to one receiver: from its START_REPLICATION
// until that ends. A session may have several, one after the other.
type Stream struct {
	Session     uint64       // number of the connection, from 1, never used again by this Server
	Application string       // application_name, as the receiver chose it
	Slot        string       // "" when it named none
	Timeline    wal.Timeline // of the log that is sent
	From        wal.LSN      // where it began
}

// Status is what a receiver said of itself. A 0 says nothing: a receiver that
// does not apply has no Apply, and none has any before its first record.
type Status struct {
	Write wal.LSN   // exclusive end of what it has written
	Flush wal.LSN   // exclusive end of what it has made durable
	Apply wal.LSN   // exclusive end of what it has replayed; never inside a record
	At    time.Time // when it said so, by its own clock
}

// Feedback is a hot standby's word on the transactions that its queries still
// need the rows of (hot_standby_feedback), to be told to the primary. With all
// four 0 it takes back what it said before.
type Feedback struct {
	Xmin             uint32 // 0: none
	XminEpoch        uint32
	CatalogXmin      uint32 // of its replication slots; 0: none
	CatalogXminEpoch uint32
	At               time.Time // when it said so, by its own clock
}

// Events are called as a server's streams go on; any may be nil. One stream's
// calls come in order and one at a time, on the goroutine that would otherwise
// read from the receiver: a callback that blocks holds up that receiver's words,
// not its log. Those of different streams may come at the same time. A callback
// must not call Run's caller to account for an end: Ended runs while Run waits.
type Events struct {
	Started  func(Stream)
	Status   func(Stream, Status)
	Feedback func(Stream, Feedback)
	// Ended is the last call for a stream. The error is nil when the receiver or
	// the timeline ended it in good order, and also when Run was told to end.
	Ended func(Stream, error)
}
