package main

import (
	"fmt"
	"log/slog"
	"runtime/debug"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/agent"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/daemon"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores"
	"github.com/tidegate/tidegate/stores/journal/capture"
)

func runCommand() *ucli.Command {
	return &ucli.Command{
		Name:      "run",
		Usage:     "capture, seal and ship until stopped",
		ArgsUsage: " ",
		Flags:     []ucli.Flag{configFlag(), &ucli.BoolFlag{Name: "debug", Usage: "log what a developer wants to know"}},
		Action:    runAgent,
	}
}

func runAgent(c *ucli.Context) error {
	if _, err := cli.Args(c); err != nil {
		return err
	}
	cfg, err := config.Load[agent.Config](c.String("config"))
	if err != nil {
		return err
	}
	creds, err := daemon.Credentials(cfg.TLS, cfg.Node, tidegate.RoleAgent)
	if err != nil {
		return err
	}
	if cfg.Limits.MemoryMax > 0 {
		debug.SetMemoryLimit(int64(cfg.Limits.MemoryMax))
	}
	level := slog.LevelInfo
	if c.Bool("debug") {
		level = slog.LevelDebug
	}
	log := daemon.Logger(c.App.ErrWriter, level)
	fsys := vfs.OS()
	a, err := agent.New(cfg, agent.Deps{
		FS: fsys, Clock: clock.System(), Credentials: creds, Log: log, Registry: daemon.Registry(),
		Source:  func(s agent.StreamConfig) (stores.Source, error) { return openSource(fsys, s) },
		BootID:  agent.BootID(),
		Version: cli.Version(),
	})
	if err != nil {
		return err
	}
	return daemon.Serve(c.Context, log, "agent", daemon.Part{Name: "agent", Run: a.Run, Ready: a.Ready()})
}

// openSource is where a store's name in a file becomes its code.
func openSource(fsys vfs.FS, s agent.StreamConfig) (stores.Source, error) {
	if s.Source != agent.SourceJournal {
		return nil, fmt.Errorf("source %q: %w", s.Source, tidegate.ErrUnsupported)
	}
	return capture.New(fsys, s.JournalDir), nil
}
