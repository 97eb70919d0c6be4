package release

import (
	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
)

// Announcer remembers, for one session with a daemon, what it was told about who
// is active. The zero value has told nothing. It belongs to the session's sender.
type Announcer struct {
	told       bool   // that the service is active
	activation uint64 // which one
}

// Announce sends what changed since the last call: it comes before the progress
// that was read together with its arguments, see [Gate.Progress].
func (a *Announcer) Announce(send func(local.Message) error, l tidegate.Lineage, activation uint64, active bool, start tidegate.Position) error {
	if a.told && (!active || activation != a.activation) {
		if err := send(&local.Deactivated{}); err != nil {
			return err
		}
		a.told = false
	}
	if active && !a.told {
		if err := send(&local.Activated{Lineage: l, L: start}); err != nil {
			return err
		}
		a.told, a.activation = true, activation
	}
	return nil
}
