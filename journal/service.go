package journal

import (
	"context"
	"time"

	"github.com/tidegate/tidegate"
)

// Kind says what a record is.
type Kind uint8

// The kinds. Services see only KindData.
const (
	KindData   Kind = 1
	KindBranch Kind = 2
)

// Range is the place of one or several records: [First, Next).
type Range struct {
	First tidegate.Position
	Next  tidegate.Position // exclusive; what to give to Await
}

// Record is one record as read back.
type Record struct {
	Range

	Number  uint64    // cumulative, the journal's first record is 1
	Time    time.Time // source time, as appended
	Kind    Kind
	Payload []byte // borrowed: valid until the reader's next call, or until Apply returns
}

// Service is what the library asks of the service that uses it. Calls come
// from [Journal.Run] and have ended when Run returns.
type Service interface {
	// State returns the position up to which the state machine has applied the
	// journal, and a digest of its state there; the zero digest if it keeps none.
	// The two belong together. Called at the start of following, from where Apply
	// then goes on, and every ProgressEvery to report; may be called concurrently
	// with everything else, and must be quick.
	State() (applied tidegate.Position, digest tidegate.Digest)

	// Apply applies one committed record while following. One call at a time, in
	// the order of positions, without gaps, from State's position on; only KindData,
	// but State must move past the others: r.First may be larger than the last
	// r.Next. It must be deterministic. An error ends Run with that error: a
	// record is never skipped.
	Apply(r Record) error

	// Promote makes a following service the active one. at is where the old history
	// was left; the branch record of epoch lies there, durable. Every record of the
	// journal is applied: normally none follows the branch record, after a restart
	// of a promoted service those do that it wrote itself. The service's next record
	// goes to the journal's End. Promote returns once the service can take writes;
	// the library then reports it active, as if it had called Activate. It may be
	// called again with the same arguments and must then do no harm. Not concurrent
	// with Apply. An error ends Run with that error.
	Promote(ctx context.Context, epoch tidegate.Epoch, at tidegate.Position) error

	// Fenced says that epoch is held by somebody else: every Await and Append
	// fails with tidegate.ErrFenced from now on, and the service should turn its
	// clients away. May be called concurrently with everything else, more than
	// once, and must not block.
	Fenced(epoch tidegate.Epoch)
}
