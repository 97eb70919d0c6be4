package stores

import (
	"context"
	"fmt"

	"github.com/tidegate/tidegate"
)

// ErrTrimmed says that a source had the range once and has given it up: nothing is
// known of what was there. It is a kind of tidegate.ErrNotFound.
var ErrTrimmed = fmt.Errorf("trimmed: %w", tidegate.ErrNotFound)

// Unit is a run of whole records of a source's log.
type Unit struct {
	First   tidegate.Position // of the first record
	Next    tidegate.Position // exclusive; equal to First when the unit is empty
	Records uint32            // what the stream counts and K bounds; a store may count some of its records only, commits for one
	Oldest  int64             // source time of the oldest and newest of them, unix ns; 0 when Records is 0
	Newest  int64
	Payload []byte // verbatim bytes of [First, Next); empty when the unit is; borrowed until the cursor's next call
}

// Source reads one stream's log on a node of the primary cluster, usually in
// another process than the one that writes it.
type Source interface {
	// Follow opens a cursor at from, which must be the start of a record or
	// the end of the log. Outcomes: a cursor; an error that wraps
	// tidegate.ErrNotFound when the source has trimmed from; another error when
	// from is no record's start or lies beyond the end.
	Follow(ctx context.Context, from tidegate.Position) (Cursor, error)

	// Reread returns the content digest of [first, next), both the start of a
	// record or the end of the log: what batch.ContentDigest gives for a batch
	// of that range. Errors as for Follow; tidegate.ErrNotFound also when no
	// record ends at next, and [ErrTrimmed], if the source can tell, when the range
	// was there and is gone. It may read gigabytes, and ends early with ctx.
	Reread(ctx context.Context, first, next tidegate.Position) (tidegate.Digest, error)
}

// Cursor reads a source's log onward. It holds no lock and no memory but one
// buffer, so a slow reader costs the store nothing.
type Cursor interface {
	// Read returns the records from where the last Read ended up to limit, at
	// most bytesMax of payload; a single record above bytesMax is returned
	// alone. limit is a position that the source has made durable. The unit is
	// empty when nothing lies before limit. After an error the same Read may
	// be tried again.
	Read(limit tidegate.Position, bytesMax int) (Unit, error)

	// Close releases the cursor; the last unit's payload is invalid after it.
	Close() error
}

// Begun is a Source whose log does not begin at 0.
type Begun interface {
	Source

	// Begin returns where the log of a stream that holds nothing yet begins: a
	// position that Follow accepts, from which on the log stays readable until the
	// source has been told that what lies beyond it is durable. The stream's first
	// base, if it has one, is complete with the log from there on. It may wait for
	// the store, and ends with ctx.
	Begin(ctx context.Context) (tidegate.Position, error)
}
