package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/open"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/daemon"
	"github.com/tidegate/tidegate/internal/pki"
	"github.com/tidegate/tidegate/internal/rates"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/standby"
)

func standbyCommand() *ucli.Command {
	run := func(c *ucli.Context) error {
		if name := c.Args().First(); name != "" {
			return cli.Usagef("unknown command %q", name)
		}
		f, err := config.Load[standbyFile](roleFile(c))
		if err != nil {
			return err
		}
		return runStandby(c, f)
	}
	return &ucli.Command{
		Name:      "standby",
		Usage:     "run a standby node: keep logs, fan out, apply",
		ArgsUsage: " ",
		Flags:     []ucli.Flag{roleFileFlag("standby")},
		Action:    run,
		Subcommands: []*ucli.Command{
			{
				Name: "run", Usage: "the same, said in full", ArgsUsage: " ",
				Flags: []ucli.Flag{roleFileFlag("standby")}, Action: run,
			},
			{
				Name: "format", Usage: "make the data directory and draw the node's incarnation; once, before the first start",
				ArgsUsage: " ",
				Flags:     []ucli.Flag{roleFileFlag("standby"), cli.OutputFlag()},
				Action:    formatStandby,
			},
			{
				Name: "set-aside", Usage: "move a damaged stream's log to quarantine, so that the stopped node copies it again when it starts",
				ArgsUsage: "<stream-id>",
				Flags:     []ucli.Flag{roleFileFlag("standby"), cli.OutputFlag()},
				Action:    setAsideStandby,
			},
			seedCommand(),
			baseCommand(),
		},
	}
}

func formatStandby(c *ucli.Context) error {
	if _, err := cli.Args(c); err != nil {
		return err
	}
	f, err := config.Load[standbyFile](roleFile(c))
	if err != nil {
		return err
	}
	made, err := standby.Format(vfs.OS(), f.DataDir, f.Node.Name)
	if err != nil {
		return err
	}
	return cli.Print(c, made, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s formatted for %s, incarnation %s\n", f.DataDir, made.Node, made.Incarnation)
		return err
	})
}

// asideResult is what set-aside prints.
type asideResult struct {
	Stream     tidegate.StreamID `json:"stream"`
	Quarantine string            `json:"quarantine"`
}

func setAsideStandby(c *ucli.Context) error {
	args, err := cli.Args(c, "stream-id")
	if err != nil {
		return err
	}
	id, err := tidegate.ParseID(args[0])
	if err != nil {
		return cli.Usagef("%v", err)
	}
	f, err := config.Load[standbyFile](roleFile(c))
	if err != nil {
		return err
	}
	to, err := standby.SetAside(vfs.OS(), clock.System(), f.DataDir, id)
	if err != nil {
		return err
	}
	return cli.Print(c, asideResult{id, to}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "log of stream %s is now %s; start the node to copy it again\n", id, to)
		return err
	})
}

func runStandby(c *ucli.Context, f standbyFile) error {
	log := daemon.Logger(c.App.ErrWriter, logLevel(c))
	parts, err := standbyParts(f, log)
	if err != nil {
		return err
	}
	return daemon.Serve(c.Context, log, "standby", parts...)
}

// standbyParts wires a standby node, with a metrics registry of its own.
func standbyParts(f standbyFile, log *slog.Logger) ([]daemon.Part, error) {
	creds, err := daemon.Credentials(f.TLS, f.Node, tidegate.RoleStandby)
	if err != nil {
		return nil, err
	}
	clk := clock.System()
	directory, err := standby.NewGateDirectory(f.Node.Name, f.Gates, creds.ClientTLS(pki.Expect{Role: tidegate.RoleGate}), clk, log)
	if err != nil {
		return nil, err
	}
	deps := standby.Deps{
		FS: vfs.OS(), Clock: clk, Log: log, Registry: daemon.Registry(), Directory: directory,
		ShipServe: creds.ServerTLS(),
		ShipDial:  creds.ClientTLS(pki.Expect{Role: tidegate.RoleStandby}),
		APIServe:  creds.ServerTLS(),
	}
	if !f.Archive.IsZero() {
		deps.Archive = func(ctx context.Context, rate *rates.Limiter) (bucket.Bucket, error) {
			return open.OpenWith(ctx, f.Archive.Config, open.Around{Rate: rate})
		}
		if !f.Drop.Off {
			passing := f.Archive.Config
			passing.Lock = 0 // what is on its way is removed once it has arrived
			// Agents have no key service; TLS is what keeps a session from being read.
			passing.Encryption.KMS = open.KMS{}
			deps.Drop = func(ctx context.Context) (bucket.Bucket, error) { return open.Open(ctx, passing) }
		}
	}
	node, err := standby.New(f.config(), deps)
	if err != nil {
		return nil, err
	}
	warm, err := warmParts(f, node, clk, log)
	return append([]daemon.Part{{Name: "standby", Run: node.Run, Ready: node.Ready()}}, warm...), err
}
