package walsender

import (
	"context"
	"log/slog"
	"time"

	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// StreamState is what a server knows of a stream that is going on.
type StreamState struct {
	Stream
	Since  time.Time // when it began, by our wall clock
	Sent   wal.LSN   // exclusive end of what was handed to the kernel
	Status Status    // the last one; zero before the first
}

// Server serves a [Log] to receivers on one Unix socket.
type Server struct {
	cfg    Config
	log    *slog.Logger
	clk    clock.Clock
	fsys   vfs.FS
	source Log
	events Events
	ready  chan struct{}
}

// New returns a server that has done nothing yet. fsys holds the socket's
// directory: the system's, except that a test may want to see what is removed.
func New(source Log, fsys vfs.FS, clk clock.Clock, log *slog.Logger, cfg Config, events Events) (*Server, error) {
	panic("not yet")
}

// Run listens and serves until ctx ends, and returns nil then. Receivers are told
// that the server shuts down. It may be called once.
func (s *Server) Run(ctx context.Context) error { panic("not yet") }

// Ready is closed when receivers can connect.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Streams returns the state of every stream that is going on, by session.
func (s *Server) Streams() []StreamState { panic("not yet") }

// RequestStatus asks every receiver that is streaming for its status at once.
// The answers come as events. A walreceiver otherwise speaks each
// wal_receiver_status_interval, and when it has written or caught up.
func (s *Server) RequestStatus() { panic("not yet") }
