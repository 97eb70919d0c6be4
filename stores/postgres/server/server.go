package server

import (
	"context"
	"log/slog"
	"time"

	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// Purpose is what a server is started for.
type Purpose string

// The purposes. They are not changed by starting: a data directory either has
// standby.signal or not, and a start for the other purpose is refused.
const (
	Follow Purpose = "follow"
	Serve  Purpose = "serve"
)

// StopMode is how a server is stopped.
type StopMode string

// The modes, as pg_ctl has them.
const (
	StopFast      StopMode = "fast"      // ends sessions, writes a checkpoint
	StopImmediate StopMode = "immediate" // as a crash: the next start recovers
)

// State is a server as one query saw it.
type State struct {
	Recovery   bool         `json:"recovery"`    // false: it is a primary
	Received   wal.LSN      `json:"received"`    // end of what is flushed here; 0 before the first byte
	Replayed   wal.LSN      `json:"replayed"`    // end of the last record replayed; a primary's insert position
	Paused     bool         `json:"paused"`      // replay stands still, whoever asked for it
	Streaming  bool         `json:"streaming"`   // a walreceiver is connected and streaming
	LastCommit time.Time    `json:"last_commit"` // of the last transaction replayed, by the primary's clock; zero for none
	Timeline   wal.Timeline `json:"timeline"`    // of the log that is replayed or written
}

// Promotion is what came of one.
type Promotion struct {
	Timeline wal.Timeline  // the new one
	Fork     wal.LSN       // where it begins
	History  []byte        // its history file, verbatim
	Took     time.Duration // from the request until the server took writes
}

// Server is a PostgreSQL server in its home.
type Server struct {
	cfg  Config
	fsys vfs.FS
	clk  clock.Clock
	log  *slog.Logger
}

// New returns the server of cfg, with the defaults set. It does no I/O.
func New(fsys vfs.FS, clk clock.Clock, log *slog.Logger, cfg Config) (*Server, error) {
	panic("not yet")
}

// Home returns the paths that others may need.
func (s *Server) DataDir() string { panic("not yet") }

// SocketDir is the directory of the socket that [Server.Start]'s server listens
// on, whatever else it listens on.
func (s *Server) SocketDir() string { panic("not yet") }

// Restored reports whether there is a whole data directory, and what its control
// file says.
func (s *Server) Restored() (Control, bool, error) { panic("not yet") }

// Start starts the server, or finds it running, and returns as soon as its
// process has its place; [Server.WaitReady] waits for it to take connections. The
// configuration is written first, with settings at least as large as the data's
// control file asks for.
func (s *Server) Start(ctx context.Context, p Purpose) error { panic("not yet") }

// WaitReady waits until the server takes connections. A follower does once it has
// replayed enough log to be consistent, so log must flow meanwhile. It ends with
// an error that holds the server's last findings when the server ends.
func (s *Server) WaitReady(ctx context.Context) error { panic("not yet") }

// Stop stops the server and waits for its end; a server that does not run is none
// to stop. A fast stop that takes longer than StopTimeout becomes an immediate one.
func (s *Server) Stop(ctx context.Context, m StopMode) error { panic("not yet") }

// Run keeps a server up that was started: it reads the server's log, starts the
// server again for p when it ends by itself, and restarts it with larger settings when
// replay wants them. found is called with every finding, from one goroutine. Run
// returns nil when ctx ends, and leaves the server as it is then: running.
func (s *Server) Run(ctx context.Context, p Purpose, found func(Finding)) error { panic("not yet") }

// State asks the server.
func (s *Server) State(ctx context.Context) (State, error) { panic("not yet") }

// WaitReplayed waits until everything before end, a record's end, was replayed.
func (s *Server) WaitReplayed(ctx context.Context, end wal.LSN) error { panic("not yet") }

// Pause stops replay and waits until it stands; [Server.Resume] lets it go on.
func (s *Server) Pause(ctx context.Context) error { panic("not yet") }

// Resume lets replay go on.
func (s *Server) Resume(ctx context.Context) error { panic("not yet") }

// Checkpoint makes the server write one: a restartpoint on a follower, if the log
// has brought a checkpoint since the last. pg_rewind needs it of a new primary.
func (s *Server) Checkpoint(ctx context.Context) error { panic("not yet") }

// Promote makes a follower the primary. The caller has stopped the upstream at
// end, a record's end that all log received ends at. Promote waits until that is
// replayed, promotes, waits until the server takes writes, and checks that the
// new timeline begins at end; if it does not, the error wraps
// tidegate.ErrDiverged and the promotion is returned with it. A server that was
// promoted to a timeline that begins at end already is a success too.
func (s *Server) Promote(ctx context.Context, end wal.LSN) (Promotion, error) { panic("not yet") }
