package live

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/assert"
	"github.com/tidegate/tidegate/drills/probe"
	"github.com/tidegate/tidegate/drills/shadow"
	"github.com/tidegate/tidegate/internal/config"
)

// Config is the configuration file of a service's live drills. docs/operating/drills.md
// has a sample.
type Config struct {
	Service  tidegate.ServiceName `yaml:"service"`
	Operator Operator             `yaml:"operator"`
	// Target is the node that the service is moved to; default: the gate's choice.
	Target string `yaml:"target"`

	// Canaries are written through the clients' own route, at least one of each service
	// that is drilled; the recovery time ends when each is accepted.
	Canaries []Canary        `yaml:"canaries"`
	Every    time.Duration   `yaml:"every"` // each canary is written; default 200ms
	Checks   []probe.Check   `yaml:"checks"`
	Journeys []probe.Journey `yaml:"journeys"` // gone at the end, after the checks

	// Assertions are held against what the gates say of the service all the time: judged,
	// and those that call the drill off.
	Assertions []assert.Assertion `yaml:"assertions"`
	Blocking   []assert.Assertion `yaml:"blocking"`

	Faults map[Scenario]Fault `yaml:"faults"`

	Steady  time.Duration `yaml:"steady"`  // canaries must be accepted for so long before anything is done; default 5s
	Notice  time.Duration `yaml:"notice"`  // bound: for the gates to say what they must; default 1m
	Change  time.Duration `yaml:"change"`  // bound: for a change of role, refused and asked for again, until every canary is accepted; default 5m
	Hold    time.Duration `yaml:"hold"`    // the service stays at the other site, or the fault lasts, for so long; default 30s
	Whole   time.Duration `yaml:"whole"`   // bound: for protection to come back; default 5m
	Pause   time.Duration `yaml:"pause"`   // the longest that served clients may wait; default 5s
	Refused time.Duration `yaml:"refused"` // blocking assertion: after so long without an accepted canary the drill is called off and heals; default 2m

	Objectives Objectives      `yaml:"objectives"`
	Evidence   shadow.Evidence `yaml:"evidence"`
}

// Objectives are what the drill is judged by; 0: the service's own, as the gate has it.
type Objectives struct {
	RTO time.Duration `yaml:"rto"`
	RPO time.Duration `yaml:"rpo"`
}

// Operator is whom the drill acts as.
type Operator struct {
	Gates []string   `yaml:"gates"` // host:port of every gate's API
	TLS   config.TLS `yaml:"tls"`   // with a certificate of role operator
	// Overrides are rules that a change of role may go against, each with a reason; they go
	// on the gate's record as an operator's own do.
	Overrides map[string]string `yaml:"overrides"`
}

// Canary is a write through the route, and what looks it up.
type Canary struct {
	// Service that it is written to; default: the drill's own. At level L4 each service that
	// is active at the site has one.
	Service      tidegate.ServiceName `yaml:"service"`
	probe.Canary `yaml:",inline"`
}

// Fault is what injects a fault, and what ends it. Both run as who runs the drill.
type Fault struct {
	Inject []Command `yaml:"inject"` // one after the other; the fault begins with the last one, or with what is seen of it before
	Heal   []Command `yaml:"heal"`   // each, whatever becomes of the others; three times when it fails
}

// Command is a program that must end with 0.
type Command struct {
	Run     []string      `yaml:"run"`     // an absolute path and its arguments
	Timeout time.Duration `yaml:"timeout"` // default 30s
	Then    time.Duration `yaml:"then"`    // pause behind it: of a sequence
}

// SetDefaults fills in what is not set.
func (c Config) SetDefaults() Config {
	for _, d := range []struct {
		at *time.Duration
		to time.Duration
	}{
		{&c.Every, 200 * time.Millisecond},
		{&c.Steady, 5 * time.Second},
		{&c.Notice, time.Minute},
		{&c.Change, 5 * time.Minute},
		{&c.Hold, 30 * time.Second},
		{&c.Whole, 5 * time.Minute},
		{&c.Pause, 5 * time.Second},
		{&c.Refused, 2 * time.Minute},
	} {
		if *d.at == 0 {
			*d.at = d.to
		}
	}
	c.Canaries, c.Checks = slices.Clone(c.Canaries), slices.Clone(c.Checks)
	for i := range c.Canaries {
		k := &c.Canaries[i]
		if k.Write.Timeout == 0 {
			k.Write.Timeout = writeTimeout
		}
		k.Canary = k.Canary.WithDefaults()
		if k.Service == "" {
			k.Service = c.Service
		}
	}
	for i := range c.Checks {
		c.Checks[i] = c.Checks[i].WithDefaults()
	}
	c.Journeys = slices.Clone(c.Journeys)
	for i := range c.Journeys {
		c.Journeys[i] = c.Journeys[i].WithDefaults()
	}
	faults := map[Scenario]Fault{}
	for name, f := range c.Faults {
		faults[name] = Fault{Inject: withTimeouts(f.Inject), Heal: withTimeouts(f.Heal)}
	}
	c.Faults = faults
	c.Evidence = c.Evidence.SetDefaults()
	return c
}

// writeTimeout is how long a canary's write may take: one that hangs in a dead connection
// must not keep the next ones from showing that the service is back.
const writeTimeout = 2 * time.Second

func withTimeouts(all []Command) []Command {
	all = slices.Clone(all)
	for i := range all {
		if all[i].Timeout == 0 {
			all[i].Timeout = 30 * time.Second
		}
	}
	return all
}

// asked are the rules of what a live drill asks: addresses are those of its file.
var asked = probe.Rules{
	URL:    probe.Form{Matches: regexp.MustCompile(`^https?://[^/{}]+(/|$)`), Want: "want http://HOST:PORT/... or https://HOST:PORT/...: the clients' own route"},
	Where:  probe.Form{Matches: regexp.MustCompile(`.`), Want: "want a connection string"},
	Places: []string{"{canary}"},
}

// Validate reports every broken rule.
func (c Config) Validate() error {
	errs := []error{
		config.Name("service", string(c.Service)), config.Under("operator", c.Operator.validate()), config.Under("evidence", c.Evidence.Validate()),
		config.AtLeast("every", c.Every, 10*time.Millisecond), config.AtLeast("objectives.rpo", c.Objectives.RPO, 0), config.AtLeast("objectives.rto", c.Objectives.RTO, 0),
	}
	for name, d := range map[string]time.Duration{
		"steady": c.Steady, "notice": c.Notice, "change": c.Change, "hold": c.Hold, "whole": c.Whole, "pause": c.Pause, "refused": c.Refused,
	} {
		errs = append(errs, config.AtLeast(name, d, time.Millisecond))
	}
	if c.Target != "" {
		errs = append(errs, config.Name("target", c.Target))
	}
	names := probe.Names{}
	own := false
	for i := range c.Canaries {
		k, at := &c.Canaries[i], fmt.Sprintf("canaries[%d]", i)
		own = own || k.Service == c.Service
		errs = append(errs, names.Check(at+".name", k.Name), config.Name(at+".service", string(k.Service)), config.Under(at, asked.Canary(&k.Canary)))
	}
	if !own {
		errs = append(errs, config.Broken("canaries", "want at least one of the service: the recovery time ends with it", len(c.Canaries)))
	}
	for i := range c.Checks {
		at := fmt.Sprintf("checks[%d]", i)
		errs = append(errs, names.Check(at+".name", c.Checks[i].Name), config.Under(at, asked.Check(&c.Checks[i])))
	}
	for i := range c.Journeys {
		at := fmt.Sprintf("journeys[%d]", i)
		errs = append(errs, names.Check(at+".name", c.Journeys[i].Name), config.Under(at, asked.Journey(&c.Journeys[i])))
	}
	for i, a := range c.Assertions {
		errs = append(errs, broken(fmt.Sprintf("assertions[%d]", i), a, a.Over(looked...)))
	}
	for i, a := range c.Blocking {
		errs = append(errs, broken(fmt.Sprintf("blocking[%d]", i), a, a.Over(looked...), a.Blocking()))
	}
	for name, f := range c.Faults {
		errs = append(errs, config.Under("faults."+string(name), f.validate(name)))
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

func (o Operator) validate() error {
	errs := []error{config.Under("tls", o.TLS.Validate())}
	if len(o.Gates) == 0 {
		errs = append(errs, config.Broken("gates", "want at least one host:port", o.Gates))
	}
	for i, g := range o.Gates {
		errs = append(errs, config.Reachable(fmt.Sprintf("gates[%d]", i), g))
	}
	for rule, why := range o.Overrides {
		if strings.TrimSpace(rule) == "" || strings.TrimSpace(why) == "" {
			errs = append(errs, config.Broken("overrides", "want RULE: REASON", rule))
		}
	}
	return errors.Join(errs...)
}

func (f Fault) validate(name Scenario) error {
	var errs []error
	if _, known := Expected(name); !known {
		errs = append(errs, config.Broken("", fmt.Sprintf("want one of the scenarios %v", Scenarios()), name))
	}
	for field, all := range map[string][]Command{"inject": f.Inject, "heal": f.Heal} {
		if len(all) == 0 {
			errs = append(errs, config.Broken(field, "want at least one command", 0))
		}
		for i, one := range all {
			at := fmt.Sprintf("%s[%d]", field, i)
			errs = append(errs, config.AtLeast(at+".timeout", one.Timeout, time.Millisecond), config.AtLeast(at+".then", one.Then, 0))
			if len(one.Run) == 0 {
				errs = append(errs, config.Broken(at+".run", "want a command line", one.Run))
			} else {
				errs = append(errs, config.AbsPath(at+".run[0]", one.Run[0]))
			}
		}
	}
	return errors.Join(errs...)
}

// services are those that canaries are written to, the drill's own first.
func (c *Config) services() []tidegate.ServiceName {
	out := []tidegate.ServiceName{c.Service}
	for _, k := range c.Canaries {
		if !slices.Contains(out, k.Service) {
			out = append(out, k.Service)
		}
	}
	return out
}

// canaries are the names of a service's canaries.
func (c *Config) canaries(s tidegate.ServiceName) (out []string) {
	for _, k := range c.Canaries {
		if k.Service == s {
			out = append(out, k.Name)
		}
	}
	return out
}

// addresses are those that questions of the file name.
func (c *Config) addresses() map[string]bool {
	out := map[string]bool{}
	add := func(a *probe.Ask) {
		if a.HTTP != nil {
			if u, err := url.Parse(probe.Fill(a.HTTP.URL, nil)); err == nil {
				port := u.Port()
				if port == "" {
					port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
				}
				out[net.JoinHostPort(u.Hostname(), port)] = true
			}
		}
		if a.SQL == nil {
			return
		}
		if to, err := pgconn.ParseConfig(probe.Fill(a.SQL.Where, nil)); err == nil {
			_, addr := pgconn.NetworkAddress(to.Host, to.Port)
			out[addr] = true
			for _, f := range to.Fallbacks {
				_, addr := pgconn.NetworkAddress(f.Host, f.Port)
				out[addr] = true
			}
		}
	}
	for i := range c.Canaries {
		add(&c.Canaries[i].Write)
		add(&c.Canaries[i].Read)
	}
	for i := range c.Checks {
		add(&c.Checks[i].Ask)
	}
	for _, j := range c.Journeys {
		for i := range j.Steps {
			add(&j.Steps[i].Ask)
		}
	}
	return out
}
