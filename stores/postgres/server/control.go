package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// Control is what a data directory's control file (global/pg_control) says.
type Control struct {
	System      uint64       // system identifier
	State       ClusterState // when it was written
	Checkpoint  wal.LSN      // the newest checkpoint's record
	Redo        wal.LSN      // where recovery begins to read
	Timeline    wal.Timeline // of that checkpoint
	MinRecovery wal.LSN      // a follower is consistent only after this
	MinTimeline wal.Timeline // of MinRecovery; of a new primary before its first checkpoint: its own. 0 for none
	BackupStart wal.LSN      // not 0: recovery from a base that has not come to its end
	SegmentSize wal.SegmentSize
	Checksums   bool // of data pages
	Required    Sizes
	WALLevel    string // "minimal", "replica", "logical"
	HintBits    bool   // wal_log_hints
	CommitTimes bool   // track_commit_timestamp
}

// Sizes are the settings that a follower must have at least as large as its
// primary: those that the control file has of the primary's log.
type Sizes struct {
	MaxConnections          int
	MaxWorkerProcesses      int
	MaxWALSenders           int
	MaxPreparedTransactions int
	MaxLocksPerTransaction  int
}

// ClusterState is a control file's own state (DBState in pg_control.h).
type ClusterState uint32

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

// String returns the words of pg_controldata.
func (s ClusterState) String() string {
	names := []string{
		"starting up", "shut down", "shut down in recovery", "shutting down",
		"in crash recovery", "in archive recovery", "in production",
	}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("unrecognized status code %d", uint32(s))
}

// Places in struct ControlFileData (pg_control.h) as a 64-bit little-endian
// compiler lays it out. They are the same in every layout below; what differs is
// how much follows them, and so where the checksum is.
const (
	controlSystem       = 0
	controlVersion      = 8
	controlState        = 16
	controlCheckpoint   = 32
	controlRedo         = 40
	controlTimeline     = 48
	controlMinRecovery  = 136
	controlMinTimeline  = 144
	controlBackupStart  = 152
	controlWALLevel     = 172
	controlHintBits     = 176
	controlSizes        = 180
	controlCommitTimes  = 200
	controlMaxAlign     = 204
	controlBlockSize    = 216
	controlWALBlockSize = 224
	controlSegmentSize  = 228
	controlChecksums    = 252
)

// controlChecksumAt is where the checksum is, by PG_CONTROL_VERSION.
func controlChecksumAt(version uint32) (at int, ok bool) {
	switch version {
	case 1300, 1700: // releases 13 to 16, and 17
		return 288, true
	case 1800:
		return 292, true
	}
	return 0, false
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Newest is the timeline that the data has come to. The checkpoint's lags behind:
// a promoted server that ends before its first one is on the next already.
func (c Control) Newest() wal.Timeline { return max(c.Timeline, c.MinTimeline) }

// ParseControl reads a control file of releases 13 to 18, made on a little-endian
// 64-bit machine. It checks the checksum.
func ParseControl(b []byte) (Control, error) {
	const magicBytes = 12
	if len(b) < magicBytes {
		return Control{}, errors.New("parse control file: too short")
	}
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	u64 := func(at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }
	sumAt, ok := controlChecksumAt(u32(controlVersion))
	if !ok {
		return Control{}, fmt.Errorf("parse control file: layout %d: %w", u32(controlVersion), tidegate.ErrUnsupported)
	}
	if len(b) < sumAt+4 {
		return Control{}, errors.New("parse control file: too short")
	}
	if want, got := u32(sumAt), crc32.Checksum(b[:sumAt], castagnoli); want != got {
		return Control{}, fmt.Errorf("parse control file: checksum mismatch (want %08x, got %08x)", want, got)
	}
	if u32(controlMaxAlign) != 8 || u32(controlBlockSize) != wal.PageSize || u32(controlWALBlockSize) != wal.PageSize {
		return Control{}, fmt.Errorf("parse control file: built with other sizes of pages or words: %w", tidegate.ErrUnsupported)
	}
	levels := []string{"minimal", "replica", "logical"}
	level := u32(controlWALLevel)
	if int(level) >= len(levels) {
		return Control{}, fmt.Errorf("parse control file: wal level %d: want 0 to 2", level)
	}
	size := func(i int) int { return int(int32(u32(controlSizes + 4*i))) }
	c := Control{
		System: u64(controlSystem), State: ClusterState(u32(controlState)),
		Checkpoint: wal.LSN(u64(controlCheckpoint)), Redo: wal.LSN(u64(controlRedo)),
		Timeline:    wal.Timeline(u32(controlTimeline)),
		MinRecovery: wal.LSN(u64(controlMinRecovery)), MinTimeline: wal.Timeline(u32(controlMinTimeline)), BackupStart: wal.LSN(u64(controlBackupStart)),
		SegmentSize: wal.SegmentSize(u32(controlSegmentSize)),
		Checksums:   u32(controlChecksums) != 0,
		Required:    Sizes{size(0), size(1), size(2), size(3), size(4)},
		WALLevel:    levels[level], HintBits: b[controlHintBits] != 0, CommitTimes: b[controlCommitTimes] != 0,
	}
	if err := c.SegmentSize.Validate(); err != nil {
		return Control{}, fmt.Errorf("parse control file: %w", err)
	}
	return c, nil
}

// Control reads the control file. The error wraps tidegate.ErrNotFound when
// nothing was restored. A running server rewrites the file in place, atomically.
func (s *Server) Control() (Control, error) {
	path := s.inData(controlFile)
	b, err := readFile(s.fsys, path)
	if err == nil && b == nil {
		err = tidegate.ErrNotFound
	}
	var c Control
	if err == nil {
		c, err = ParseControl(b)
	}
	if err != nil {
		return Control{}, &tidegate.Error{Op: "read control file", Subject: path, Class: tidegate.Permanent, Err: err}
	}
	return c, nil
}
