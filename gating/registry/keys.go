package registry

import (
	"fmt"

	"github.com/tidegate/tidegate"
)

// Key names a record below the cluster's root.
type Key string

// The tables' prefixes.
const (
	liveTable      = "live/"
	servicesTable  = liveTable + "services/"
	streamsTable   = liveTable + "streams/"
	namesTable     = liveTable + "names/"
	nodesTable     = liveTable + "nodes/"
	epochsTable    = liveTable + "epochs/"
	routesTable    = liveTable + "routes/"
	drillsTable    = liveTable + "drills/"
	schedulesTable = liveTable + "schedules/"
	historyTable   = "history/"
	plansTable     = "plans/"
	planIndexTable = "plans-of/"
	bundlesTable   = "quarantine/"
	leasesTable    = "leases/"
	auditTable     = "audit/"
	cursorsTable   = "notify/"
	electionTable  = "election"
)

// ServiceKey is the key of a [Service].
func ServiceKey(s tidegate.ServiceName) Key { return Key(servicesTable + string(s)) }

// StreamKey is the key of a [Stream].
func StreamKey(id tidegate.StreamID) Key { return Key(streamsTable + id.String()) }

// NameKey holds a stream's id; its absence guards the name's uniqueness.
func NameKey(s tidegate.ServiceName, n tidegate.StreamName) Key {
	return Key(namesTable + string(s) + "/" + string(n))
}

// NodeKey is the key of a [Node].
func NodeKey(k Kind, n tidegate.NodeName) Key { return Key(nodesTable + string(k) + "/" + string(n)) }

// EpochKey is the key of a stream's [fence.EpochRecord]: the one key on which
// every change of writer and every change of the gate's record compete.
func EpochKey(id tidegate.StreamID) Key { return Key(epochsTable + id.String()) }

// RouteKey is the key of a [Route].
func RouteKey(s tidegate.ServiceName) Key { return Key(routesTable + string(s)) }

// DrillsKey is the key of a service's [Drills].
func DrillsKey(s tidegate.ServiceName) Key { return Key(drillsTable + string(s)) }

// ScheduleKey is the key of a service's [Schedule].
func ScheduleKey(s tidegate.ServiceName) Key { return Key(schedulesTable + string(s)) }

// HistoryKey is the key of an epoch record that will not change any more. The
// epoch is written with fixed width, so that keys sort as epochs do.
func HistoryKey(id tidegate.StreamID, e tidegate.Epoch) Key {
	return Key(fmt.Sprintf("%s%s/%016x", historyTable, id, uint64(e)))
}

// PlanKey is the key of a plan; ids sort by time.
func PlanKey(id string) Key { return Key(plansTable + id) }

// LeaseKey is the key of a service's [Lease]. It is not among the live tables:
// it changes three times per ttl, and only who waits for its end looks at it.
func LeaseKey(s tidegate.ServiceName) Key { return Key(leasesTable + string(s)) }

// AuditKey is the key of an [AuditEntry]; ids sort by time.
func AuditKey(id string) Key { return Key(auditTable + id) }

// CursorKey is the key of a [Cursor]: how far the named receiver has been told.
func CursorKey(receiver string) Key { return Key(cursorsTable + receiver) }

// QuarantineKey is the key of a [Quarantine].
func QuarantineKey(id tidegate.StreamID, bundle string) Key {
	return Key(bundlesTable + id.String() + "/" + bundle)
}
