package stores

import (
	"context"

	"github.com/tidegate/tidegate/snapshot"
)

// Based is a Source whose log does not say everything: a state is rebuilt from a
// base and the log that follows it. Each generation of its stream begins with
// one, and a standby node counts for nothing in a generation whose base it lacks.
type Based interface {
	Source

	// Base takes a base of the source as it is now, writes its files to w and
	// returns what belongs into the manifest. Start must be a position that
	// Follow accepts, and the log from there on must stay readable until the
	// base has been committed. total, called at any time with the bytes that
	// the source expects to write in all, makes an ETA possible; it may be
	// ignored. It may take hours, and ends early with ctx. An error of w is
	// returned as it is: the transfer's, not the source's. A call after one that
	// failed takes another base; what the failed one has carried over is found
	// by its content and does not cross again.
	Base(ctx context.Context, w snapshot.Writer, total func(bytes int64)) (snapshot.Base, error)
}
