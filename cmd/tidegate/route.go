package main

import (
	"errors"
	"log/slog"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/gating/route"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/daemon"
	"github.com/tidegate/tidegate/internal/pki"
	"github.com/tidegate/tidegate/internal/vfs"
)

// routeFile is the file of `tidegate route`.
type routeFile struct {
	Node  config.Node  `yaml:"node"`
	TLS   config.TLS   `yaml:"tls"`
	Route route.Config `yaml:"route"`
}

// SetDefaults returns f with every unset key at its default.
func (f routeFile) SetDefaults() routeFile {
	if f.Route.Dir == "" {
		f.Route.Dir = "/var/lib/tidegate/route"
	}
	f.Route = f.Route.SetDefaults()
	return f
}

// Validate reports every broken rule.
func (f routeFile) Validate() error {
	return errors.Join(config.Under("node", f.Node.Validate()), config.Under("tls", f.TLS.Validate()), config.Under("route", f.Route.Validate()))
}

func routeCommand() *ucli.Command {
	return &ucli.Command{
		Name:      "route",
		Usage:     "run the clients' address of services: a TCP proxy that follows the newest epoch",
		ArgsUsage: " ",
		Flags:     []ucli.Flag{roleFileFlag("route")},
		Action: func(c *ucli.Context) error {
			if _, err := cli.Args(c); err != nil {
				return err
			}
			f, err := config.Load[routeFile](roleFile(c))
			if err != nil {
				return err
			}
			return runRoute(c, f)
		},
	}
}

func runRoute(c *ucli.Context, f routeFile) error {
	log := daemon.Logger(c.App.ErrWriter, logLevel(c))
	parts, err := routeParts(f, log)
	if err != nil {
		return err
	}
	return daemon.Serve(c.Context, log, "route", parts...)
}

// routeParts wires a route and its metrics, in a registry of its own.
func routeParts(f routeFile, log *slog.Logger) ([]daemon.Part, error) {
	creds, err := daemon.Credentials(f.TLS, f.Node, tidegate.RoleRoute)
	if err != nil {
		return nil, err
	}
	client := api.NewHTTPClient(creds.ClientTLS(pki.Expect{Role: tidegate.RoleGate}))
	var gates []route.Gate
	for _, addr := range f.Route.Gates {
		gates = append(gates, route.Gate{Addr: addr, Client: tidegatev1connect.NewNodeServiceClient(client, "https://"+addr)})
	}
	reg := daemon.Registry()
	proxy := route.New(vfs.OS(), log, reg, route.NewFollower(log, creds.Identity(), gates, f.Route.ReportPeriod), f.Route)
	return []daemon.Part{{Name: "proxy", Run: proxy.Run, Ready: proxy.Ready()}, daemon.Metrics(f.Route.MetricsAddr, reg)}, nil
}
