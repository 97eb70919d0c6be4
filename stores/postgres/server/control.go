package server

import "github.com/tidegate/tidegate/stores/postgres/wal"

// Control is what a data directory's control file (global/pg_control) says.
type Control struct {
	System      uint64       // system identifier
	State       ClusterState // when it was written
	Checkpoint  wal.LSN      // the newest checkpoint's record
	Redo        wal.LSN      // where recovery begins to read
	Timeline    wal.Timeline // of that checkpoint
	MinRecovery wal.LSN      // a follower is consistent only after this
	BackupStart wal.LSN      // not 0: recovery from a base that has not come to its end
	SegmentSize wal.SegmentSize
	Checksums   bool // of data pages
	Required    Sizes
	WALLevel    string // "minimal", "replica", "logical"
	HintBits    bool   // wal_log_hints
	CommitTimes bool   // track_commit_timestamp
}

// Sizes are the settings that a follower must have at least as large as its
// primary, by their names in PostgreSQL.
type Sizes struct {
	MaxConnections          int
	MaxWorkerProcesses      int
	MaxWALSenders           int
	MaxPreparedTransactions int
	MaxLocksPerTransaction  int
}

// ClusterState is a control file's own state (DBState).
type ClusterState int

// The states.
const (
	StateStartup ClusterState = iota
	StateShutDown
	StateShutDownInRecovery
	StateShuttingDown
	StateCrashRecovery
	StateArchiveRecovery
	StateProduction
)
