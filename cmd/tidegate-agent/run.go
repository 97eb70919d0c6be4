package main

import (
	"log/slog"
	"runtime/debug"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate/agent"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/daemon"
	"github.com/tidegate/tidegate/internal/daemon/agentd"
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
	cfg, err := load(c.String("config"))
	if err != nil {
		return err
	}
	level := slog.LevelInfo
	if c.Bool("debug") {
		level = slog.LevelDebug
	}
	log := daemon.Logger(c.App.ErrWriter, level)
	parts, err := agentd.Parts(cfg, log)
	if err != nil {
		return err
	}
	if cfg.Limits.MemoryMax > 0 {
		debug.SetMemoryLimit(int64(cfg.Limits.MemoryMax))
	}
	return daemon.Serve(c.Context, log, "agent", parts...)
}

// load reads the agent's file, the stores' own sections included.
func load(path string) (agent.Config, error) {
	return config.LoadWith(path, agentd.Check)
}
