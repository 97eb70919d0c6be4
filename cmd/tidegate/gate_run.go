package main

import (
	"context"
	"errors"
	"log/slog"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/open"
	"github.com/tidegate/tidegate/gating"
	"github.com/tidegate/tidegate/gating/probe"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/daemon"
	"github.com/tidegate/tidegate/internal/vfs"
	pgprobe "github.com/tidegate/tidegate/stores/postgres/probe"
)

// gateFile is the file of `tidegate gate`.
type gateFile struct {
	Node config.Node   `yaml:"node"`
	TLS  config.TLS    `yaml:"tls"`
	Gate gating.Config `yaml:"gate"`
	// Archive is where the registry is backed up to; absent: nowhere.
	Archive open.Config `yaml:"archive"`
}

// SetDefaults returns f with every unset key at its default.
func (f gateFile) SetDefaults() gateFile {
	if f.Gate.Dir == "" {
		f.Gate.Dir = "/var/lib/tidegate/gate"
	}
	f.Gate = f.Gate.SetDefaults()
	f.Archive = f.Archive.SetDefaults()
	return f
}

// Validate reports every broken rule.
func (f gateFile) Validate() error {
	return errors.Join(
		config.Under("node", f.Node.Validate()), config.Under("tls", f.TLS.Validate()), config.Under("gate", f.Gate.Validate()),
		config.Under("archive", f.Archive.Validate()),
		f.Gate.CheckProbes("gate", probeKinds()),
	)
}

// probeKinds are the kinds of synthetic client that a gate's file may name.
func probeKinds() probe.Kinds {
	return probe.Kinds{probe.HTTPKind: probe.HTTP, pgprobe.Kind: pgprobe.New}
}

// gateRun is the action of `gate` and of `gate run`.
func gateRun(c *ucli.Context) error {
	if name := c.Args().First(); name != "" {
		return cli.Usagef("unknown command %q", name)
	}
	f, err := config.Load[gateFile](roleFile(c))
	if err != nil {
		return err
	}
	return runGate(c, f)
}

func runGate(c *ucli.Context, f gateFile) error {
	log := daemon.Logger(c.App.ErrWriter, logLevel(c))
	parts, err := gateParts(f, log)
	if err != nil {
		return err
	}
	return daemon.Serve(c.Context, log, "gate", parts...)
}

// gateParts wires a gate, with a metrics registry of its own.
func gateParts(f gateFile, log *slog.Logger) ([]daemon.Part, error) {
	creds, err := daemon.Credentials(f.TLS, f.Node, tidegate.RoleGate)
	if err != nil {
		return nil, err
	}
	deps := gating.Deps{FS: vfs.OS(), Clock: clock.System(), Log: log, Metrics: daemon.Registry(), Creds: creds, Probes: probeKinds()}
	if !f.Archive.IsZero() {
		deps.Archive = func(ctx context.Context) (bucket.Bucket, error) { return open.Open(ctx, f.Archive) }
	}
	if deps.DrillReport, err = drillReports(f.Gate.Drills.Keys); err != nil {
		return nil, err
	}
	gate := gating.New(deps, f.Gate)
	return []daemon.Part{{Name: "gate", Run: gate.Run, Ready: gate.Ready()}}, nil
}
