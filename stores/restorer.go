package stores

import (
	"context"
	"io"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/snapshot"
)

// Target is where a restored state ends. The zero value is the end of the log.
type Target struct {
	Position tidegate.Position // no record ends beyond it; 0 is any
	Time     int64             // unix ns: no record's source time is later; 0 is any
}

// Restoration is what a Restorer is to restore.
type Restoration struct {
	Service tidegate.ServiceName
	Stream  tidegate.StreamName
	ID      tidegate.StreamID
	Base    *snapshot.Info    // nil: the log is everything
	From    tidegate.Position // where the log begins: the base's Start
	Target  Target
}

// Restored is what came of a restoration.
type Restored struct {
	Position tidegate.Position `json:"position"`  // the state's: no record of the log lies beyond it
	Records  uint64            `json:"records"`   // of the log that were restored, as the store counts them
	Newest   int64             `json:"newest_ns"` // source time of the newest of them, unix ns; 0: none
	Path     string            `json:"path"`      // of what a service is to be started on
	Next     string            `json:"next"`      // the next step, for people
}

// Restorer rebuilds a store in an empty directory out of a base and the log behind
// it, without anything else of Tidegate running. What was cut off is found again by
// the next one that is made for the same directory and the same Restoration.
//
// The calls come in this order: Begin, then Have, Keep, Create and Add, which may be
// called concurrently, then Log, Batch, and Finish or Abort. After an error of any of
// them only Abort is left.
type Restorer interface {
	// Begin takes hold of the directory. Nothing is written before it.
	Begin(ctx context.Context, r Restoration) error

	// Have opens what an earlier attempt left of a file, if that has its size; nil if
	// not. The caller compares and closes it, and says Keep when it is the file.
	Have(f snapshot.File) (io.ReadCloser, error)
	Keep(f snapshot.File) error
	// Create begins a file in place of what was there; nil for one that the restored
	// store has no use for. It is durable after Finish. Add is of directories and links.
	Create(ctx context.Context, f snapshot.File) (io.WriteCloser, error)
	Add(f snapshot.File) error

	// Log says that the base is whole, and returns from which position on the log is
	// wanted: From, or where an earlier attempt came to. Batches may overlap with it.
	Log(ctx context.Context) (tidegate.Position, error)
	// Batch takes the next batch, opened; done is true when the target is reached, and
	// what follows is not wanted. The payload is the caller's again when it returns.
	Batch(ctx context.Context, h *batch.Header, payload []byte) (done bool, err error)

	// Finish makes it all durable, checks that it is a store that can be opened, and
	// gives it its name. known is told what it will be just before that: Begin then
	// refuses the directory with tidegate.ErrConflict.
	Finish(ctx context.Context, known func(Restored) error) (Restored, error)
	// Abort lets go; what was written stays for the next attempt. After Finish
	// succeeded it does nothing.
	Abort() error
}
