package agentd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/agent"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/minio"
	"github.com/tidegate/tidegate/archive/bucket/place"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/daemon"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores"
	"github.com/tidegate/tidegate/stores/journal/capture"
	pgcapture "github.com/tidegate/tidegate/stores/postgres/capture"
)

// Parts returns what runs an agent with configuration cfg, which must be valid
// and have its defaults. The agent has a metrics registry of its own. The memory
// limit of cfg is the process's affair, not an agent's.
func Parts(cfg agent.Config, log *slog.Logger) ([]daemon.Part, error) {
	creds, err := daemon.Credentials(cfg.TLS, cfg.Node, tidegate.RoleAgent)
	if err != nil {
		return nil, err
	}
	w := wiring{cfg: cfg, fs: vfs.OS(), clock: clock.System(), log: log}
	crossing, err := crossingBucket(cfg)
	if err != nil {
		return nil, err
	}
	a, err := agent.New(cfg, agent.Deps{
		Drop: crossing,
		FS:   w.fs, Clock: w.clock, Credentials: creds, Log: log, Registry: daemon.Registry(),
		Source:  w.source,
		BootID:  agent.BootID(),
		Version: cli.Version(),
	})
	if err != nil {
		return nil, err
	}
	return append([]daemon.Part{{Name: "agent", Run: a.Run, Ready: a.Ready()}}, w.connectors...), nil
}

// crossingBucket opens the archive as a way across; nil: there is none. One driver for
// servers is enough, and half the size of the binary's limit.
func crossingBucket(cfg agent.Config) (bucket.Bucket, error) {
	if cfg.Archive.IsZero() || cfg.Drop.Off {
		return nil, nil //nolint:nilnil // see above
	}
	passing := cfg.Archive
	passing.Lock = 0 // what is on its way is removed once it has arrived
	return place.Open(context.Background(), passing, place.Around{}, place.Linked{Drivers: map[string]place.Driver{place.DriverMinIO: minio.Open}})
}

// Check reports every mistake in what cfg leaves to the stores, whatever else is
// wrong with it; it does no I/O. It is for config.LoadWith.
func Check(cfg agent.Config) error {
	var all []error
	users := map[string]int{}
	for i, s := range cfg.Streams {
		if s.Source != agent.SourcePostgres || s.Settings.IsZero() { // which the file's own rules name
			continue
		}
		set, err := config.ReadSection[pgcapture.Settings](s.Settings)
		all = append(all, err)
		if err != nil {
			continue
		}
		key := set.Conn + "\x00" + set.Slot
		if j, taken := users[key]; taken {
			all = append(all, config.Broken(fmt.Sprintf("streams[%d].settings.slot", i), fmt.Sprintf("want one stream for one slot, streams[%d] has it too", j), set.Slot))
		}
		users[key] = i
	}
	return errors.Join(all...)
}

// Notes are what cfg, which passed [Check], demands of the registry, which a file
// cannot tell: one line each.
func Notes(cfg agent.Config) []string {
	var out []string
	for i, s := range cfg.Streams {
		if s.Source != agent.SourcePostgres {
			continue
		}
		if set, err := config.ReadSection[pgcapture.Settings](s.Settings); err == nil && set.Replica { // Check has reported an error
			out = append(out, fmt.Sprintf("streams[%d]: captured from a replica also: stream %s/%s must be in mode open, a replica holds no commit back", i, s.Service, s.Stream))
		}
	}
	return out
}

// wiring is where a store's name in a file becomes its code.
type wiring struct {
	cfg        agent.Config
	fs         vfs.FS
	clock      clock.Clock
	log        *slog.Logger
	connectors []daemon.Part // of stores that know nothing of Tidegate: they run beside the agent
}

func (w *wiring) source(s agent.StreamConfig) (stores.Source, error) {
	switch s.Source {
	case agent.SourceJournal:
		return capture.New(w.fs, s.JournalDir), nil
	case agent.SourcePostgres:
		set, err := config.ReadSection[pgcapture.Settings](s.Settings)
		if err != nil {
			return nil, err
		}
		c, err := pgcapture.New(pgcapture.Config{
			Settings: set, Service: s.Service, Stream: s.Stream, Endpoint: s.Endpoint, Clock: w.clock, Log: w.log,
			Socket: local.SocketPath(w.cfg.RunDir, local.DaemonAgent, s.Service, s.Stream),
			FS:     w.fs, Memory: filepath.Join(w.cfg.DataDir, "given-up", fmt.Sprintf("%s_%s.json", s.Service, s.Stream)),
		})
		if err != nil {
			return nil, err
		}
		w.connectors = append(w.connectors, daemon.Part{Name: fmt.Sprintf("connector of %s/%s", s.Service, s.Stream), Run: c.Run})
		return c, nil
	}
	return nil, fmt.Errorf("source %q: %w", s.Source, tidegate.ErrUnsupported)
}
