package main

import (
	"fmt"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/daemon"
	"github.com/tidegate/tidegate/internal/daemon/agentd"
)

func checkConfigCommand() *ucli.Command {
	return &ucli.Command{
		Name:        "check-config",
		Usage:       "read the configuration and report every mistake",
		ArgsUsage:   " ",
		Description: "Reads the certificate too, and checks that it speaks for this node. Changes nothing.",
		Flags:       []ucli.Flag{configFlag()},
		Action: func(c *ucli.Context) error {
			if _, err := cli.Args(c); err != nil {
				return err
			}
			cfg, err := load(c.String("config"))
			if err != nil {
				return err
			}
			if _, err := daemon.Credentials(cfg.TLS, cfg.Node, tidegate.RoleAgent); err != nil {
				return err
			}
			if _, err := fmt.Fprintf(c.App.Writer, "%s: good, %d streams\n", c.String("config"), len(cfg.Streams)); err != nil {
				return err
			}
			for _, note := range agentd.Notes(cfg) {
				if _, err := fmt.Fprintln(c.App.Writer, "note: "+note); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
