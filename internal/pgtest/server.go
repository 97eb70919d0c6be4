package pgtest

import (
	"testing"

	"github.com/tidegate/tidegate/internal/pgrun"
)

// Port is every server's port; servers differ by address and socket directory.
const Port = pgrun.Port

// Superuser is the superuser's name in every cluster.
const Superuser = pgrun.Superuser

// Config says what is special about a server; the zero value is a primary that
// replicas can follow.
type Config = pgrun.Config

// Server is one PostgreSQL cluster and the process that serves it.
type Server struct {
	Install
	*pgrun.Server
}

// New makes a cluster and starts its server.
func New(tb testing.TB, cfg Config) *Server {
	tb.Helper()
	return owned(tb)(pgrun.New(cfg))
}

// owned ends a server with the test.
func owned(tb testing.TB) func(*pgrun.Server, error) *Server {
	return func(core *pgrun.Server, err error) *Server {
		tb.Helper()
		must(tb, err)
		tb.Cleanup(func() {
			text := core.Tail(40)
			if err := core.Close(); err != nil {
				tb.Error(err)
			}
			if tb.Failed() {
				tb.Logf("the last of %s's log:\n%s", core.Name, text)
			}
		})
		return &Server{Install: Install{core.Install}, Server: core}
	}
}

// Start starts the server and waits until it accepts connections (a standby:
// read-only ones). It must not be running.
func (s *Server) Start(tb testing.TB) {
	tb.Helper()
	must(tb, s.Server.Start())
}

// Launch starts the server and does not wait: for servers that are meant to fail.
// Exited tells that it ended.
func (s *Server) Launch(tb testing.TB) {
	tb.Helper()
	must(tb, s.Server.Launch())
}

// Shutdown is a way to stop a server.
type Shutdown = pgrun.Shutdown

// The ways.
const (
	Smart     = pgrun.Smart     // waits for clients
	Fast      = pgrun.Fast      // ends sessions, writes a checkpoint, waits for walreceivers
	Immediate = pgrun.Immediate // as a crash
)

// Signal sends the way's signal without waiting.
func (s *Server) Signal(tb testing.TB, how Shutdown) {
	tb.Helper()
	must(tb, s.Server.Signal(how))
}

// Stop stops the server and waits.
func (s *Server) Stop(tb testing.TB, how Shutdown) {
	tb.Helper()
	must(tb, s.Server.Stop(how))
}

// Restart stops the server fast and starts it again.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	s.Stop(tb, Fast)
	s.Start(tb)
}

// Kill ends the server and all its backends with SIGKILL and waits for them:
// after it, the data directory is that of a machine whose processes vanished.
func (s *Server) Kill(tb testing.TB) {
	tb.Helper()
	must(tb, s.Server.Kill())
}

// Freeze stops every process of the server in its tracks (SIGSTOP), or lets them
// go on.
func (s *Server) Freeze(tb testing.TB, frozen bool) {
	tb.Helper()
	must(tb, s.Server.Freeze(frozen))
}
