package shipper

import (
	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/snapshot"
)

// BaseAttach binds a session to the base of one generation of a stream.
type BaseAttach struct {
	Stream     tidegate.StreamID
	Generation tidegate.Generation
	Promise    fence.Promise // of the writer whose base it is; the acceptor must have adopted it
}

// BaseSummary is what was committed.
type BaseSummary struct {
	Name     snapshot.Name // of the manifest
	Progress snapshot.Progress
}
