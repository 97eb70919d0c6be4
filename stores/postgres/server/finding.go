package server

import (
	"time"

	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// Kind says what a finding is about.
type Kind string

// The kinds. Those of the log are told from the server's English messages, which
// the configuration asks for; a message that is none of these is no finding.
const (
	// FoundInsufficient: settings are below the primary's; replay is paused or has
	// ended and promotion is impossible until a restart with larger ones, which
	// [Server.Run] does by itself.
	FoundInsufficient Kind = "insufficient-settings"
	// FoundUpstream: the follower cannot connect, or was refused or cut off.
	FoundUpstream Kind = "upstream"
	// FoundBadRecord: what was received is no valid log; not the ordinary end.
	FoundBadRecord Kind = "bad-record"
	// FoundHistory: the upstream's timelines are not those of this data.
	FoundHistory Kind = "history"
	// FoundConflict: a read was ended because replay needed its rows gone.
	FoundConflict Kind = "conflict"
	// FoundDisk: a write, sync or read of a file failed, or there is no space.
	FoundDisk Kind = "disk"
	// FoundConfiguration: the server does not start with these files.
	FoundConfiguration Kind = "configuration"
	// FoundBase: the base is incomplete or its log is missing.
	FoundBase Kind = "base"
	// FoundCrash: a process of the server died, or the server itself.
	FoundCrash Kind = "crash"
)

// Finding is something that somebody should know of a server.
type Finding struct {
	Kind    Kind      `json:"kind"`
	At      time.Time `json:"at"` // when it was read, by our wall clock
	LSN     wal.LSN   `json:"lsn,omitempty"`
	Message string    `json:"message"` // the server's own words
	Hint    string    `json:"hint,omitempty"`
	Fatal   bool      `json:"fatal,omitempty"` // the server says that it, or its recovery, ends by this
}
