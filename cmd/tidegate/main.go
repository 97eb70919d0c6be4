package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	_ "time/tzdata" // schedules name zones, and a machine or a container may have none

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
		Name:     "tidegate",
		Usage:    "disaster recovery with an enforced RPO and a measured RTO",
		Flags:    []ucli.Flag{&ucli.BoolFlag{Name: "debug", Usage: "log what a developer wants to know"}},
		Commands: commandTree(),
	}
	return int(cli.Run(ctx, app, args, stdin, stdout, stderr))
}

// commandTree is every command, in the order in which help lists them.
func commandTree() []*ucli.Command {
	return slices.Concat([]*ucli.Command{
		statusCommand(),
		servicesCommand(),
		streamsCommand(),
	}, roleCommands(), []*ucli.Command{
		planCommand(),
		overrideCommand(),
		auditCommand(),
		doctorCommand(),
		toleranceCommand(),
		ratesCommand(),
		detectorCommand(),
		gateCommand(),
		standbyCommand(),
		quarantineCommand(),
		windowCommand(),
		whereCommand(),
		verifyCommand(),
		keysCommand(),
		restoreCommand(),
		gapCommand(),
		replayCommand(),
		drillCommand(),
		opclassCommand(),
		exportCommand(),
		routeCommand(),
		checkConfigCommand(),
		devCommand(),
	})
}
