package agentd

import (
	"fmt"
	"log/slog"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/agent"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/daemon"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores"
	"github.com/tidegate/tidegate/stores/journal/capture"
)

// Parts returns what runs an agent with configuration cfg, which must be valid
// and have its defaults. The agent has a metrics registry of its own. The memory
// limit of cfg is the process's affair, not an agent's.
func Parts(cfg agent.Config, log *slog.Logger) ([]daemon.Part, error) {
	creds, err := daemon.Credentials(cfg.TLS, cfg.Node, tidegate.RoleAgent)
	if err != nil {
		return nil, err
	}
	fsys := vfs.OS()
	a, err := agent.New(cfg, agent.Deps{
		FS: fsys, Clock: clock.System(), Credentials: creds, Log: log, Registry: daemon.Registry(),
		Source:  func(s agent.StreamConfig) (stores.Source, error) { return openSource(fsys, s) },
		BootID:  agent.BootID(),
		Version: cli.Version(),
	})
	if err != nil {
		return nil, err
	}
	return []daemon.Part{{Name: "agent", Run: a.Run, Ready: a.Ready()}}, nil
}

// openSource is where a store's name in a file becomes its code.
func openSource(fsys vfs.FS, s agent.StreamConfig) (stores.Source, error) {
	if s.Source != agent.SourceJournal {
		return nil, fmt.Errorf("source %q: %w", s.Source, tidegate.ErrUnsupported)
	}
	return capture.New(fsys, s.JournalDir), nil
}
