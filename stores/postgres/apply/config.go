package apply

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/stores/postgres/server"
)

// Kind is the store's name, in the gate's record of a stream and in Hello.
const Kind = "postgres"

// Config is one connector: one stream's warm server on this node.
type Config struct {
	Service tidegate.ServiceName
	Stream  tidegate.StreamName
	// RunDir is the standby's run directory: its socket for the stream is there, and
	// the one that the warm server takes its log from. Absolute, and short: a
	// socket's path has at most 107 bytes.
	RunDir string
	// Endpoint is where clients reach the warm server once it is active, host:port.
	Endpoint string
	// Server is the warm server. Its Home is the connector's, too; Upstream is set here.
	Server server.Config
	// ProgressEvery is how often the node is told at least. Default 200 ms.
	ProgressEvery time.Duration
	// WindowBytes bounds the log in memory. Default 8 MiB.
	WindowBytes int
	// RewindFrom is [server.RejoinPlan.Source]; empty: what has diverged needs a base.
	RewindFrom string
}

// adopts reports whether the data is that of a server which somebody else runs,
// until the stream leaves it.
func (c Config) adopts() bool { return c.Server.Data != "" }

// SetDefaults returns c with its zero values filled in.
func (c Config) SetDefaults() Config {
	if c.ProgressEvery == 0 {
		c.ProgressEvery = 200 * time.Millisecond
	}
	if c.WindowBytes == 0 {
		c.WindowBytes = windowBytesDefault
	}
	c.Server.Upstream.SocketDir = c.upstreamDir()
	c.Server = c.Server.SetDefaults()
	return c
}

// upstreamDir is where the walsender listens. Nobody but this process and the
// warm server's account may enter it.
func (c Config) upstreamDir() string {
	return filepath.Join(c.RunDir, "postgres", string(c.Service)+"."+string(c.Stream))
}

// socket is the standby's.
func (c Config) socket() string {
	return local.SocketPath(c.RunDir, local.DaemonStandby, c.Service, c.Stream)
}

// Validate reports every broken rule.
func (c Config) Validate() error {
	var errs []error
	if err := tidegate.ValidName(string(c.Service)); err != nil {
		errs = append(errs, fmt.Errorf("service: %w", err))
	}
	if err := tidegate.ValidName(string(c.Stream)); err != nil {
		errs = append(errs, fmt.Errorf("stream: %w", err))
	}
	if !filepath.IsAbs(c.RunDir) {
		errs = append(errs, fmt.Errorf("run_dir: want an absolute path (got %q)", c.RunDir))
	}
	if len(c.Endpoint) > local.TextLenMax {
		errs = append(errs, fmt.Errorf("endpoint: want at most %d bytes (got %d)", local.TextLenMax, len(c.Endpoint)))
	}
	if c.ProgressEvery <= 0 {
		errs = append(errs, fmt.Errorf("progress_every: want more than 0 (got %s)", c.ProgressEvery))
	}
	if c.WindowBytes < 1<<20 {
		errs = append(errs, fmt.Errorf("window_bytes: want 1 MiB or more (got %d)", c.WindowBytes))
	}
	return errors.Join(append(errs, c.Server.Validate())...)
}

// Bases is where the node keeps the stream's bases; a *snapshot.Store is one.
type Bases interface {
	// Bases lists those that are whole, by generation, then start.
	Bases() []snapshot.Listed
	// Reader opens one of them.
	Reader(l snapshot.Listed) (*snapshot.Reader, error)
}

// Deps is what a connector is given by the process it runs in. None is nil.
type Deps struct {
	FS    vfs.FS
	Clock clock.Clock
	Log   *slog.Logger
	// Bases returns the stream's bases. An error is told as a finding and asked
	// again later: the node may not have heard of the stream yet.
	Bases func() (Bases, error)
	// Left takes what the server had that the stream went on without, which is in
	// quarantine. It is asked again after an error, and after a restart.
	Left func(Tail) error
}
