package gating

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/tidegate/tidegate/gating/notify"
	"github.com/tidegate/tidegate/gating/probe"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/gating/route"
	"github.com/tidegate/tidegate/internal/config"
)

// Config configures a gate. Who the gate is comes from its certificate.
type Config struct {
	Listen   string             `yaml:"listen"` // host:port of the API and /metrics; default :7412
	Dir      string             `yaml:"dir"`    // the gate's own data
	Registry registry.Config    `yaml:"registry"`
	Route    route.DriverConfig `yaml:"route"`
	Probes   []ProbeConfig      `yaml:"probes"`
	Notify   []notify.Config    `yaml:"notify"`
	Timing   Timing             `yaml:"timing"`
	Backup   BackupConfig       `yaml:"backup"` // of the registry, to the archive that the file names
	Drills   DrillsConfig       `yaml:"drills"`
}

// DrillsConfig says whose reports of drills count, and how long a worker may be silent.
type DrillsConfig struct {
	Silence time.Duration `yaml:"silence"` // a worker that has not reported for so long has lost its drill; default 30s
	Keys    []string      `yaml:"keys"`    // PEM files of the public keys; none: no report is taken
}

// Timing is the gate's patience.
type Timing struct {
	Fence  time.Duration `yaml:"fence"`   // for R promises; default 5s
	Lease  time.Duration `yaml:"lease"`   // for the old writer's outputs to be provably over; default 1s
	Adopt  time.Duration `yaml:"adopt"`   // for W members at the chosen head; default 5m
	Apply  time.Duration `yaml:"apply"`   // after which a slow apply is warned of; default 1m
	Verify time.Duration `yaml:"verify"`  // for a promoted service to confirm a write, before clients are sent there all the same; default 10s
	Route  time.Duration `yaml:"route"`   // for routes to have applied a switch, per attempt; default 15s
	Call   time.Duration `yaml:"call"`    // one short call to a standby node; default 3s
	Tick   time.Duration `yaml:"tick"`    // between repetitions of what was not answered; default 250ms
	Stale  time.Duration `yaml:"stale"`   // a report older than this is not known any more; default 5s
	RPOLow float64       `yaml:"rpo_low"` // share of the RPO from which a service is at risk; default 0.5
}

// ProbeConfig is the synthetic client of one service.
type ProbeConfig struct {
	Service string        `yaml:"service"`
	Kind    string        `yaml:"kind"`    // the protocol; default http
	Level   probe.Level   `yaml:"level"`   // default write: only that proves that clients are served
	Every   time.Duration `yaml:"every"`   // default 200ms: the resolution of t0 and t8
	Timeout time.Duration `yaml:"timeout"` // of one attempt; default 2s
	// Verify has a promoted service written to at its endpoint before the route is
	// switched to it. The gate must be able to reach the endpoints of every site.
	Verify   bool           `yaml:"verify"`
	Settings config.Section `yaml:"settings"` // the kind's own
}

// SetDefaults fills what was left out.
func (c Config) SetDefaults() Config {
	if c.Listen == "" {
		c.Listen = ":7412"
	}
	if c.Registry.Dir == "" && c.Dir != "" {
		c.Registry.Dir = filepath.Join(c.Dir, "registry")
	}
	c.Registry = c.Registry.SetDefaults()
	c.Route = c.Route.SetDefaults()
	c.Timing = c.Timing.SetDefaults()
	c.Backup = c.Backup.SetDefaults()
	if c.Drills.Silence == 0 {
		c.Drills.Silence = 30 * time.Second // six reports: a gate's restart or a change of leader is no silence
	}
	c.Probes = append([]ProbeConfig(nil), c.Probes...)
	for i := range c.Probes {
		c.Probes[i] = c.Probes[i].SetDefaults()
	}
	c.Notify = append([]notify.Config(nil), c.Notify...)
	for i := range c.Notify {
		c.Notify[i] = c.Notify[i].SetDefaults()
	}
	return c
}

// SetDefaults fills what was left out.
func (t Timing) SetDefaults() Timing {
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&t.Fence, 5 * time.Second},       // several round trips of a WAN and an fsync on a busy disk
		{&t.Lease, time.Second},           // there are no leases to wait out: only an attestation can come
		{&t.Adopt, 5 * time.Minute},       // a member may have to copy a backlog
		{&t.Apply, time.Minute},           // beyond a usual objective
		{&t.Verify, 10 * time.Second},     // for a gate that arms itself first, and some attempts
		{&t.Route, 15 * time.Second},      // longer than a hook's deadline
		{&t.Call, 3 * time.Second},        // as the registry's
		{&t.Tick, 250 * time.Millisecond}, // twice per beat of the core
		{&t.Stale, 5 * time.Second},       // five reports
	} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	if t.RPOLow == 0 {
		t.RPOLow = 0.5
	}
	return t
}

// SetDefaults fills what was left out.
func (p ProbeConfig) SetDefaults() ProbeConfig {
	if p.Kind == "" {
		p.Kind = probe.HTTPKind
	}
	if p.Level == "" {
		p.Level = probe.Write
	}
	if p.Every == 0 {
		p.Every = 200 * time.Millisecond
	}
	if p.Timeout == 0 {
		p.Timeout = 2 * time.Second
	}
	return p
}

// Validate reports every broken rule.
func (c Config) Validate() error {
	errs := []error{
		config.HostPort("listen", c.Listen),
		config.AbsPath("dir", c.Dir),
		config.Under("registry", c.Registry.Validate()),
		config.Under("route", c.Route.Validate()),
		config.Under("timing", c.Timing.Validate()),
		config.Under("backup", c.Backup.Validate()),
	}
	seen := map[string]bool{}
	for i, p := range c.Probes {
		path := fmt.Sprintf("probes[%d]", i)
		errs = append(errs, config.Under(path, p.Validate()))
		if seen[p.Service] {
			errs = append(errs, config.Broken(path+".service", "want each service once", p.Service))
		}
		seen[p.Service] = true
	}
	errs = append(errs, config.AtLeast("drills.silence", c.Drills.Silence, 100*time.Millisecond))
	for i, path := range c.Drills.Keys {
		errs = append(errs, config.AbsPath(fmt.Sprintf("drills.keys[%d]", i), path))
	}
	named := map[string]bool{}
	for i, n := range c.Notify {
		path := fmt.Sprintf("notify[%d]", i)
		errs = append(errs, config.Under(path, n.Validate(Actions())))
		if named[n.Name] {
			errs = append(errs, config.Broken(path+".name", "want each name once", n.Name))
		}
		named[n.Name] = true
	}
	return errors.Join(errs...)
}

// Validate reports every broken rule.
func (t Timing) Validate() error {
	least := 10 * time.Millisecond
	errs := []error{
		config.AtLeast("fence", t.Fence, least), config.AtLeast("lease", t.Lease, least), config.AtLeast("adopt", t.Adopt, least),
		config.AtLeast("apply", t.Apply, least), config.AtLeast("verify", t.Verify, least), config.AtLeast("route", t.Route, least), config.AtLeast("call", t.Call, least),
		config.AtLeast("tick", t.Tick, least), config.AtLeast("stale", t.Stale, 2*time.Second),
	}
	if t.RPOLow <= 0 || t.RPOLow > 1 {
		errs = append(errs, config.Broken("rpo_low", "want more than 0 and at most 1", t.RPOLow))
	}
	return errors.Join(errs...)
}

// Validate reports every broken rule but those of the kind and its settings, which
// whoever knows the kinds reads: [Config.CheckProbes].
func (p ProbeConfig) Validate() error {
	errs := []error{
		config.Name("service", p.Service), config.AtLeast("every", p.Every, 10*time.Millisecond),
		config.AtLeast("timeout", p.Timeout, p.Every),
	}
	if p.Verify && p.Level != probe.Write {
		errs = append(errs, config.Broken("verify", "want level write with it", p.Verify))
	}
	if p.Settings.IsZero() {
		errs = append(errs, config.Broken("settings", "want those of the kind", "none"))
	}
	return errors.Join(errs...)
}

// CheckProbes reports every broken rule of the probes' kinds and settings. path is
// where the gate's section stands in its file.
func (c Config) CheckProbes(path string, kinds probe.Kinds) error {
	var errs []error
	for i, p := range c.Probes {
		kind, ok := kinds[p.Kind]
		switch {
		case !ok:
			errs = append(errs, config.Broken(fmt.Sprintf("%s.probes[%d].kind", path, i), "want one of "+kinds.Names(), p.Kind))
		case !p.Settings.IsZero():
			_, err := kind("", p.Settings)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
