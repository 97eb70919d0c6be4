package shadow

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/assert"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/probe"
	"github.com/tidegate/tidegate/internal/config"
)

// scratchLenMax bounds scratch: the path of a socket below it has at most 108 bytes.
const scratchLenMax = 50

// Config is a drill's configuration file. docs/operating/drills.md has a sample.
type Config struct {
	Service tidegate.ServiceName `yaml:"service"`
	Standby string               `yaml:"standby"` // host:port of the API of the node that is rehearsed with
	Gates   []string             `yaml:"gates"`   // host:port of the gates' API: each must refuse this identity
	TLS     config.TLS           `yaml:"tls"`     // with a certificate of role drill

	// Scratch is a directory of the drill's own. The sandbox lies below it, and what an
	// earlier drill left there is cleaned.
	Scratch string `yaml:"scratch"`
	// Live are directories of daemons on this machine that the drill must not be able to
	// write, and that scratch must not lie in. Default /run/tidegate and /var/lib/tidegate.
	Live []string `yaml:"live"`

	// Program starts an event-sourced service, Postgres one whose store is PostgreSQL.
	// Exactly one is set; of the other, Program's environment at the most.
	Program  Program       `yaml:"program"`
	Postgres *Postgres     `yaml:"postgres"`
	Wait     time.Duration `yaml:"wait"` // for the service: to connect, to be promoted, to take a canary; default 1m
	// Rate is how many bytes per second are read from the node before t0; 0: as many as
	// go. What is timed is not held back.
	Rate config.Bytes `yaml:"rate"`

	Canaries []probe.Canary `yaml:"canaries"` // at least one; the recovery time ends when the clone has taken each
	Checks   []probe.Check  `yaml:"checks"`
	// Records are of a writer outside of the drill, at the live service: the newest one that
	// the clone has says what is measured of the loss.
	Records  []probe.Record  `yaml:"records"`
	Journeys []probe.Journey `yaml:"journeys"`

	Recovery   *Recovery  `yaml:"recovery"` // nil: the recovery type is not looked for
	Objectives Objectives `yaml:"objectives"`
	Harm       Harm       `yaml:"harm"`

	// Assertions are held against what the live standby node says of itself: judged, and
	// blocking ones, which call the drill off.
	Assertions []assert.Assertion `yaml:"assertions"`
	Blocking   []assert.Assertion `yaml:"blocking"`

	Evidence Evidence `yaml:"evidence"`
}

// Program is the service's own program, in the part that it has at the standby site.
type Program struct {
	Follow      []string          `yaml:"follow"`      // command line: an absolute path and its arguments
	Environment map[string]string `yaml:"environment"` // of it and of commands; besides these there are PATH, HOME, TMPDIR and TIDEGATE_DRILL
	Stop        time.Duration     `yaml:"stop"`        // between SIGTERM and SIGKILL; default 5s
}

// Postgres is a PostgreSQL server in the sandbox.
type Postgres struct {
	BinDir   string            `yaml:"bin_dir"`  // of its programs; default /usr/lib/postgresql/<release>/bin of the base's release
	Account  string            `yaml:"account"`  // user that it runs as; default this process's, postgres for root
	User     string            `yaml:"user"`     // superuser that the base has; default postgres
	Settings map[string]string `yaml:"settings"` // for this machine; they win over the base's
	// Amcheck is for pg_amcheck, which reads all tables and indexes; default 10m, 0: it is
	// not asked.
	Amcheck *time.Duration `yaml:"amcheck"`
}

// Objectives of the service, as the drill judges them.
type Objectives struct {
	RTO time.Duration `yaml:"rto"` // 0: none is judged
}

// Harm is the blocking assertion: what the live standby node may be behind while the
// drill runs. What is not known for that long counts as behind.
type Harm struct {
	// Blind is how much it may lack: its blind window, and what it has not made durable.
	// Default 10s, or the window that the gate bounds when that is shorter, at least 1s.
	Blind time.Duration `yaml:"blind"`
	For   time.Duration `yaml:"for"` // in one stretch; default 10s
}

// Harm that is not configured: beacons come a few times a second, so that less than a
// second says nothing of a bound that is shorter.
const harmLeast, harmMost = time.Second, 10 * time.Second

// under is what a service may lack whose gate is that.
func (h Harm) under(gate evidence.Gate) Harm {
	if h.Blind == 0 {
		h.Blind = harmMost
		if b := gate.Bounds; b != nil && b.Window != tidegate.Unbounded {
			h.Blind = min(harmMost, max(harmLeast, b.Window))
		}
	}
	return h
}

// SetDefaults fills in what is not set.
func (c Config) SetDefaults() Config {
	if c.Live == nil {
		c.Live = []string{"/run/tidegate", "/var/lib/tidegate"}
	}
	setDefault(&c.Wait, time.Minute)
	setDefault(&c.Program.Stop, 5*time.Second)
	setDefault(&c.Harm.For, 10*time.Second)
	c.Recovery = c.Recovery.withDefaults()
	c.Evidence = c.Evidence.SetDefaults()
	if c.Postgres != nil {
		pg := *c.Postgres
		setDefault(&pg.User, "postgres")
		if pg.Amcheck == nil {
			pg.Amcheck = new(10 * time.Minute)
		}
		c.Postgres = &pg
	}
	c.Canaries, c.Checks = slices.Clone(c.Canaries), slices.Clone(c.Checks)
	for i, k := range c.Canaries {
		c.Canaries[i] = k.WithDefaults()
	}
	for i, k := range c.Checks {
		c.Checks[i] = k.WithDefaults()
	}
	c.Records, c.Journeys = slices.Clone(c.Records), slices.Clone(c.Journeys)
	for i, k := range c.Records {
		c.Records[i] = k.WithDefaults()
	}
	for i, k := range c.Journeys {
		c.Journeys[i] = k.WithDefaults()
	}
	return c
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// Validate reports every broken rule.
func (c Config) Validate() error {
	errs := []error{
		config.Name("service", string(c.Service)), config.Reachable("standby", c.Standby), config.Under("tls", c.TLS.Validate()),
		c.validateService(), config.Under("evidence", c.Evidence.Validate()), config.Under("recovery", c.Recovery.validate()),
		c.validateScratch(), c.validateNames(),
		config.AtLeast("wait", c.Wait, time.Second), config.AtLeast("rate", int64(c.Rate), 0), config.AtLeast("objectives.rto", c.Objectives.RTO, 0),
		config.AtLeast("harm.blind", c.Harm.Blind, 0), config.AtLeast("harm.for", c.Harm.For, 0),
	}
	if len(c.Gates) == 0 {
		errs = append(errs, config.Broken("gates", "want at least one host:port: that a gate refuses this drill is tried", c.Gates))
	}
	for i, g := range c.Gates {
		errs = append(errs, config.Reachable(fmt.Sprintf("gates[%d]", i), g))
	}
	for i, dir := range c.Live {
		errs = append(errs, config.AbsPath(fmt.Sprintf("live[%d]", i), dir))
	}
	if len(c.Canaries) == 0 {
		errs = append(errs, config.Broken("canaries", "want at least one: the recovery time ends with it", c.Canaries))
	}
	for i := range c.Canaries {
		errs = append(errs, config.Under(fmt.Sprintf("canaries[%d]", i), rules.Canary(&c.Canaries[i])))
	}
	for i := range c.Checks {
		errs = append(errs, config.Under(fmt.Sprintf("checks[%d]", i), rules.Check(&c.Checks[i])))
	}
	for i := range c.Records {
		errs = append(errs, config.Under(fmt.Sprintf("records[%d]", i), rules.Record(&c.Records[i])))
	}
	for i := range c.Journeys {
		errs = append(errs, config.Under(fmt.Sprintf("journeys[%d]", i), rules.Journey(&c.Journeys[i])))
	}
	for i, a := range c.Assertions {
		errs = append(errs, broken(fmt.Sprintf("assertions[%d]", i), a, a.Over(looked...)))
	}
	for i, a := range c.Blocking {
		errs = append(errs, broken(fmt.Sprintf("blocking[%d]", i), a, a.Over(looked...), a.Blocking()))
	}
	return errors.Join(errs...)
}

// broken is what is wrong with an assertion.
func broken(path string, a assert.Assertion, whys ...error) error {
	if err := errors.Join(whys...); err != nil {
		return config.Broken(path, err.Error(), a)
	}
	return nil
}

func (c Config) validateScratch() error {
	if err := config.AbsPath("scratch", c.Scratch); err != nil {
		return err
	}
	if len(c.Scratch) > scratchLenMax {
		return config.Broken("scratch", fmt.Sprintf("want a path of at most %d bytes: sockets lie below it", scratchLenMax), c.Scratch)
	}
	if filepath.Clean(c.Scratch) == "/" {
		return config.Broken("scratch", "want a directory of the drill's own", c.Scratch)
	}
	return nil
}

// validateNames checks what questions are called in the report.
func (c Config) validateNames() error {
	var errs []error
	names := probe.Names{}
	for i, k := range c.Canaries {
		errs = append(errs, names.Check(fmt.Sprintf("canaries[%d].name", i), k.Name))
	}
	for i, k := range c.Checks {
		errs = append(errs, names.Check(fmt.Sprintf("checks[%d].name", i), k.Name))
	}
	for i, k := range c.Records {
		errs = append(errs, names.Check(fmt.Sprintf("records[%d].name", i), k.Name))
	}
	for i, k := range c.Journeys {
		errs = append(errs, names.Check(fmt.Sprintf("journeys[%d].name", i), k.Name))
	}
	return errors.Join(errs...)
}

// validateService checks how the service is started.
func (c Config) validateService() error {
	pg := c.Postgres
	if pg == nil {
		return config.Under("program", errors.Join(c.Program.validateFollow(), c.Program.validate()))
	}
	errs := []error{config.Under("program", c.Program.validate())}
	if len(c.Program.Follow) > 0 {
		errs = append(errs, config.Broken("program.follow", "want none beside postgres: a service is started in one way", c.Program.Follow))
	}
	return errors.Join(append(errs, config.Under("postgres", pg.validate()))...)
}

func (p *Postgres) validate() error {
	errs := []error{config.AtLeast("amcheck", *p.Amcheck, 0)}
	if p.BinDir != "" {
		errs = append(errs, config.AbsPath("bin_dir", p.BinDir))
	}
	for name, value := range p.Settings {
		if _, sealed := sealedSettings[name]; sealed && name != preload {
			errs = append(errs, config.Broken("settings."+name, "want a setting that keeps nobody in the sandbox: this one is the drill's", value))
		}
		if found := workersIn(value); name == preload && len(found) > 0 {
			errs = append(errs, config.Broken("settings."+name, "want it without "+strings.Join(found, " and ")+": the clone would run the source's jobs again, or reach its peers", value))
		}
	}
	return errors.Join(errs...)
}

func (p Program) validate() error {
	errs := []error{config.AtLeast("stop", p.Stop, 0)}
	for k := range p.Environment {
		if k == "" || strings.ContainsAny(k, "=\x00") || k == markName {
			errs = append(errs, config.Broken("environment", "want names of variables, and not "+markName, k))
		}
	}
	return errors.Join(errs...)
}

func (p Program) validateFollow() error {
	if len(p.Follow) == 0 {
		return config.Broken("follow", "want the command line that starts the service as one that follows, or the block postgres in place of program", p.Follow)
	}
	errs := []error{config.AbsPath("follow[0]", p.Follow[0])}
	needs := map[string]bool{"{data}": false, "{run}": false}
	for i, arg := range p.Follow {
		errs = append(errs, rules.Text(fmt.Sprintf("follow[%d]", i), arg))
		for n := range needs {
			needs[n] = needs[n] || strings.Contains(arg, n)
		}
	}
	for _, n := range []string{"{data}", "{run}"} {
		if !needs[n] {
			errs = append(errs, config.Broken("follow", "want "+n+" among the arguments: the sandbox's folder", p.Follow))
		}
	}
	return errors.Join(errs...)
}

// addressPlace begins the names of addresses that a drill gives to the program.
const addressPlace = "{address:"

// rules: a drill asks its clone and nothing else.
var rules = probe.Rules{
	URL: probe.Form{
		Matches: regexp.MustCompile(`^http://\{address:[a-z][a-z0-9-]*\}(/|$)`),
		Want:    "want http://{address:NAME}/...: a drill asks its clone and nothing else",
	},
	Where: probe.Form{
		Matches: regexp.MustCompile(`\{address:[a-z][a-z0-9-]*\}|\{run\}`),
		Want:    "want {address:NAME} or {run} as the host: a drill asks its clone and nothing else",
	},
	Own:    true,
	Places: []string{"{data}", "{run}", "{canary}", addressPlace + "NAME}"},
}

// addresses lists the names of the addresses that a configuration speaks of.
func (c Config) addresses() []string {
	texts := slices.Clone(c.Program.Follow)
	for _, a := range c.asks() {
		texts = append(append(texts, a.Asked()...), a.Answered()...)
	}
	return slices.DeleteFunc(probe.Places(texts...), func(p string) bool { return !strings.HasPrefix(p, addressPlace) })
}

func (c Config) asks() (all []probe.Ask) {
	for _, k := range c.Canaries {
		all = append(all, k.Write, k.Read)
	}
	for _, k := range c.Checks {
		all = append(all, k.Ask)
	}
	for _, k := range c.Records {
		all = append(all, k.Ask)
	}
	for _, j := range c.Journeys {
		for _, s := range j.Steps {
			all = append(all, s.Ask)
		}
	}
	return append(all, c.Recovery.asks()...)
}
