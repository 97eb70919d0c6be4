package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/pki"
)

// devValidity is short enough that nobody mistakes these for real certificates.
const devValidity = 365 * 24 * time.Hour

// devHosts are the names by which browsers and curl reach this machine.
func devHosts() []string { return []string{"localhost", "127.0.0.1", "::1"} }

func devPKICommand() *ucli.Command {
	return &ucli.Command{
		Name:      "pki",
		Usage:     "make a certificate authority and certificates for a cluster",
		ArgsUsage: " ",
		Description: "Makes DIR with ca.crt, ca.key and, per identity, <site>-<role>-<name>.crt and .key. A second call\n" +
			"with more nodes uses the same authority. Not for production: the authority's key lies beside the rest.",
		Flags: []ucli.Flag{
			&ucli.StringFlag{Name: "dir", Usage: "`DIR` to write to"},
			&ucli.StringFlag{Name: "cluster", Value: "dev", Usage: "`NAME` of the cluster; certificates of another one are refused"},
			&ucli.StringSliceFlag{Name: "node", Usage: "`SITE/NODE`: an agent's and a standby's certificate; give each node"},
			&ucli.StringSliceFlag{Name: "identity", Usage: "`SITE/ROLE/NAME`: one certificate, such as west/gate/g1 or west/operator/ada"},
			&ucli.StringSliceFlag{Name: "host", Usage: "`HOST` name or address for browsers and curl", Value: ucli.NewStringSlice(devHosts()...)},
			cli.OutputFlag(),
		},
		Action: devPKI,
	}
}

// issued is one certificate as devPKI reports it.
type issued struct {
	Identity string `json:"identity"`
	Cert     string `json:"cert"`
	Key      string `json:"key"`
	CA       string `json:"ca"`
}

func devPKI(c *ucli.Context) error {
	if _, err := cli.Args(c); err != nil {
		return err
	}
	if c.String("dir") == "" {
		return cli.Usagef("dev pki: want --dir")
	}
	ids, err := devIdentities(c.String("cluster"), c.StringSlice("node"), c.StringSlice("identity"))
	if err != nil {
		return err
	}
	authority, err := pki.Dev(c.String("dir"), c.String("cluster"))
	if err != nil {
		return err
	}
	var out []issued
	for _, id := range ids {
		f, err := authority.Issue(id, c.StringSlice("host"), devValidity)
		if err != nil {
			return err
		}
		out = append(out, issued{id.String(), f.Cert, f.Key, f.CA})
	}
	return cli.Print(c, out, func(w io.Writer) error {
		table := cli.NewTable("identity", "certificate", "key")
		for _, i := range out {
			table.Row(i.Identity, i.Cert, i.Key)
		}
		_, err := table.WriteTo(w)
		return err
	})
}

// devIdentities lists whom to issue certificates for, everything checked before
// anything is written.
func devIdentities(cluster string, nodes, identities []string) ([]tidegate.Identity, error) {
	var wanted []string
	for _, n := range nodes {
		site, name, ok := strings.Cut(n, "/")
		if !ok {
			return nil, cli.Usagef("node %q: want SITE/NODE", n)
		}
		for _, role := range []tidegate.Role{tidegate.RoleAgent, tidegate.RoleStandby} {
			wanted = append(wanted, fmt.Sprintf("%s/%s/%s", site, role, name))
		}
	}
	wanted = append(wanted, identities...)
	if len(wanted) == 0 {
		return nil, cli.Usagef("dev pki: want --node or --identity")
	}
	var ids []tidegate.Identity
	for _, w := range wanted {
		id, err := tidegate.ParseIdentity("tidegate://" + cluster + "/" + w)
		if err != nil {
			return nil, cli.Usagef("identity %q: want SITE/ROLE/NAME: %w", w, err)
		}
		ids = append(ids, id)
	}
	return ids, nil
}
