package wal

import "math"

// Kind says what an [Event]'s record did.
type Kind uint8

// The kinds of events. Records of other kinds are counted and not told.
const (
	Commit        Kind = iota + 1 // a transaction, or a prepared one, was committed
	Abort                         // a transaction, or a prepared one, was rolled back
	Prepare                       // a transaction was prepared: it may be committed later
	SegmentSwitch                 // the rest of the segment is padding
	Overwrite                     // a record that a crash had torn is void; see Event.Torn
	Checkpoint                    // an online checkpoint was completed
	Shutdown                      // a checkpoint while nothing else ran: the last record before a clean stop, or the first after a recovery
	Recovered                     // a promotion: the first record of a new timeline
	Settings                      // max_connections and its like changed; see Event.Settings
)

var kindNames = [...]string{
	Commit: "commit", Abort: "abort", Prepare: "prepare", SegmentSwitch: "segment switch", Overwrite: "overwrite",
	Checkpoint: "checkpoint", Shutdown: "shutdown", Recovered: "recovered", Settings: "settings",
}

// String returns the kind's name.
func (k Kind) String() string {
	if int(k) < len(kindNames) && kindNames[k] != "" {
		return kindNames[k]
	}
	return "unknown"
}

// Event is a record that somebody outside the server cares about.
type Event struct {
	Kind  Kind
	Start LSN // of the record: what recovery_target_lsn must be given for this commit
	End   LSN // record end: a commit waits until this much is confirmed

	// Of Commit, Abort and Prepare. XID is that of the transaction, also where a
	// later command ends a prepared one; 0 is that of a transaction that needed none
	// and left a commit record all the same. Children is the number of
	// subtransactions that are named in the record.
	XID      uint32
	Children uint32
	Prepared bool  // Commit and Abort: of a prepared transaction
	Time     int64 // unix ns by the server's clock, which counts microseconds; also of Recovered

	// Of Overwrite: where the void record had begun.
	Torn LSN

	// Of Checkpoint, Shutdown and Recovered.
	Redo     LSN // where recovery from this checkpoint begins; of Checkpoint and Shutdown
	Timeline Timeline
	Previous Timeline // equal to Timeline unless this record begins a timeline

	Settings Limits // of Settings
}

// Limits are the settings that a hot standby must not have less of than its
// primary: it stops replaying where they grow beyond its own.
type Limits struct {
	MaxConnections        int32
	MaxWorkerProcesses    int32
	MaxWalSenders         int32
	MaxPreparedXacts      int32
	MaxLocksPerXact       int32
	WalLevel              int32 // 0 minimal, 1 replica, 2 logical
	WalLogHints           bool
	TrackCommitTimestamps bool
}

// Tally counts what lies before a place in the log, since it was last taken.
type Tally struct {
	Records uint64 // complete records
	Commits uint64 // commit records, prepared ones among them
	Aborts  uint64
	// Of the commits, unix ns; 0 when there was none. Clocks go back: oldest is the
	// smallest, newest the largest.
	Oldest int64
	Newest int64
}

// Add counts e.
func (t *Tally) Add(e *Event) {
	switch e.Kind {
	case Commit:
		t.Merge(Tally{Commits: 1, Oldest: e.Time, Newest: e.Time})
	case Abort:
		t.Aborts++
	default:
	}
}

// Merge adds what o counted.
func (t *Tally) Merge(o Tally) {
	if o.Commits > 0 {
		if t.Commits == 0 {
			t.Oldest, t.Newest = o.Oldest, o.Newest
		}
		t.Oldest, t.Newest = min(t.Oldest, o.Oldest), max(t.Newest, o.Newest)
	}
	t.Records += o.Records
	t.Commits += o.Commits
	t.Aborts += o.Aborts
}

// epochOffset is 2000-01-01 in unix microseconds: PostgreSQL's day zero.
const epochOffset = 946_684_800_000_000

// unixNano converts a TimestampTz, microseconds since 2000; what no int64 of
// nanoseconds can hold becomes its largest or smallest value.
func unixNano(t int64) int64 {
	if t > math.MaxInt64/1000-epochOffset {
		return math.MaxInt64
	}
	if t < math.MinInt64/1000 {
		return math.MinInt64
	}
	return (t + epochOffset) * 1000
}
