package main

import (
	"fmt"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/daemon"
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
			_, err = fmt.Fprintf(c.App.Writer, "%s: good, %d streams\n", c.String("config"), len(cfg.Streams))
			return err
		},
	}
}
