package stores

import (
	"fmt"

	"github.com/tidegate/tidegate"
)

// AcceptGapCommand is what an operator types to have a stream whose source is lost go
// on in a new generation, for hints.
func AcceptGapCommand(service tidegate.ServiceName, stream tidegate.StreamName) string {
	return fmt.Sprintf("`tidegate gap accept %s/%s --reason WHY`", service, stream)
}

// Renewable is a Source that can come to where it does not go on: the store keeps
// the log no more that the other site lacks, or the log is not the one that was
// shipped. The stream then goes on in a new generation: another base, and the log
// from it on. Both methods may be called at any time, do no I/O, and do not wait.
type Renewable interface {
	Based
	Begun

	// Lost returns why the log is not continued by this source, whatever time passes;
	// nil while it is, as far as is known. It wraps tidegate.ErrDiverged when the store
	// lacks what was shipped of it, or may: then a new generation goes on without that.
	// Anything else leaves out nothing that the store ever had.
	Lost() error

	// Renew gives up what the source was to continue, because somebody has declared
	// that: it looks at the store as at one that was never captured, has it keep the
	// log from then on, and names that place by Begin, which waits for it. What is
	// still kept of the old log is let go only where the store can keep no other
	// beside it. Nobody reads the source meanwhile. It may be done again.
	Renew()
}
