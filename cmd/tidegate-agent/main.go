package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The second signal ends the process by force.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr))
}

// run is the whole program but for the process: tests call it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	app := &ucli.App{
		Name:     "tidegate-agent",
		Usage:    "captures a service's log and ships it to the standby site",
		Commands: []*ucli.Command{runCommand(), checkConfigCommand(), statusCommand()},
	}
	return int(cli.Run(ctx, app, args, stdin, stdout, stderr))
}

// configFlag names the file that the package installs a sample of.
func configFlag() ucli.Flag {
	return &ucli.StringFlag{Name: "config", Aliases: []string{"c"}, Value: "/etc/tidegate/agent.yaml", Usage: "the agent's `FILE`"}
}
