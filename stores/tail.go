package stores

import (
	"crypto/sha256"
	"fmt"

	"github.com/tidegate/tidegate"
)

// TailID names the tail of a source's log that a stream went on without: the
// records from first on, cut off by epoch. Whoever finds and reports the tail,
// the agent or the standby node, and however often, gives it the same name.
func TailID(stream tidegate.StreamID, epoch tidegate.Epoch, first tidegate.Position) tidegate.ID {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %s", stream, epoch, first))
	return tidegate.ID(sum[:16])
}
