package main

import (
	"fmt"
	"log/slog"
	"slices"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/daemon"
)

// roleFileFlag names the file of a role, where the package installs its sample.
func roleFileFlag(role string) ucli.Flag {
	return &ucli.StringFlag{Name: "config", Aliases: []string{"c"}, Value: "/etc/tidegate/" + role + ".yaml", Usage: "the " + role + "'s `FILE`"}
}

// roleFile is the file that was named, here or before the sub-command's name:
// `standby -c x format` must not format what the default file says.
func roleFile(c *ucli.Context) string {
	for _, at := range c.Lineage() {
		if slices.Contains(at.LocalFlagNames(), "config") {
			return at.String("config")
		}
	}
	return c.String("config")
}

// logLevel reads the program's own flag.
func logLevel(c *ucli.Context) slog.Level {
	if c.Bool("debug") {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

func checkConfigCommand() *ucli.Command {
	return &ucli.Command{
		Name:        "check-config",
		Usage:       "read a role's configuration and report every mistake",
		ArgsUsage:   "ROLE [FILE]",
		Description: "ROLE is gate, standby, route or operator. Reads the certificate too. Changes nothing.",
		Action: func(c *ucli.Context) error {
			args := c.Args().Slice()
			if len(args) == 0 || len(args) > 2 {
				return cli.Usagef("check-config: want ROLE [FILE]")
			}
			check, ok := checks()[args[0]]
			if !ok {
				return cli.Usagef("unknown role %q: want gate, standby, route or operator", args[0])
			}
			file := "/etc/tidegate/" + args[0] + ".yaml"
			if len(args) == 2 {
				file = args[1]
			}
			if err := check(file); err != nil {
				return err
			}
			_, err := fmt.Fprintf(c.App.Writer, "%s: good\n", file)
			return err
		},
	}
}

// checks maps a role to what reads its file and its certificate.
func checks() map[string]func(path string) error {
	return map[string]func(string) error{
		"operator": func(path string) error {
			_, err := loadOperator(path)
			return err
		},
		"route": func(path string) error {
			f, err := config.Load[routeFile](path)
			if err == nil {
				_, err = daemon.Credentials(f.TLS, f.Node, tidegate.RoleRoute)
			}
			return err
		},
		"gate": func(path string) error {
			f, err := config.Load[gateFile](path)
			if err == nil {
				_, err = daemon.Credentials(f.TLS, f.Node, tidegate.RoleGate)
			}
			return err
		},
		"standby": func(path string) error {
			f, err := config.Load[standbyFile](path)
			if err == nil {
				_, err = daemon.Credentials(f.TLS, f.Node, tidegate.RoleStandby)
			}
			return err
		},
	}
}
