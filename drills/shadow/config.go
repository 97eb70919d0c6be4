package shadow

import (
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/config"
)

// Limits.
const (
	scratchLenMax = 50               // the path of a socket below it has at most 108 bytes
	askTimeoutMax = 10 * time.Minute // of one check
)

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

	Program Program       `yaml:"program"`
	Wait    time.Duration `yaml:"wait"` // for the program: to connect, to be promoted, to take a canary; default 1m
	// Rate is how many bytes per second are read from the node before t0; 0: as many as
	// go. What is timed is not held back.
	Rate config.Bytes `yaml:"rate"`

	Canaries   []Canary   `yaml:"canaries"` // at least one; the recovery time ends when the clone has taken each
	Checks     []Check    `yaml:"checks"`
	Objectives Objectives `yaml:"objectives"`
	Harm       Harm       `yaml:"harm"`
	Evidence   Evidence   `yaml:"evidence"`
}

// Program is the service's own program, in the part that it has at the standby site.
type Program struct {
	Follow      []string          `yaml:"follow"`      // command line: an absolute path and its arguments
	Environment map[string]string `yaml:"environment"` // of it and of commands; besides these there are PATH, HOME, TMPDIR and TIDEGATE_DRILL
	Stop        time.Duration     `yaml:"stop"`        // between SIGTERM and SIGKILL; default 5s
}

// Canary is a write that the clone must accept, and what reads it back.
type Canary struct {
	Name  string `yaml:"name"`
	Write Ask    `yaml:"write"`
	Read  Ask    `yaml:"read"`
}

// Check is one of the operator's own.
type Check struct {
	Name string `yaml:"name"`
	Ask  `yaml:",inline"`
}

// Ask is a question to the clone: by HTTP, or by a command. Exactly one is set.
type Ask struct {
	HTTP    *HTTP         `yaml:"http"`
	Command *Command      `yaml:"command"`
	Timeout time.Duration `yaml:"timeout"` // default 10s
}

// HTTP is a request to the clone, and the answer that is wanted.
type HTTP struct {
	Method   string `yaml:"method"` // default GET
	URL      string `yaml:"url"`    // http://{address:NAME}/...: nothing else can be asked
	Body     string `yaml:"body"`
	Status   int    `yaml:"status"`   // default 200
	Contains string `yaml:"contains"` // of the answer's body
}

// Command is a program, and the end that is wanted of it.
type Command struct {
	Run      []string `yaml:"run"`
	Exit     int      `yaml:"exit"`
	Contains string   `yaml:"contains"` // of what it prints
}

// Objectives of the service, as the drill judges them.
type Objectives struct {
	RTO time.Duration `yaml:"rto"` // 0: none is judged
}

// Harm is the blocking assertion: what the live standby node may be behind while the
// drill runs. What is not known for that long counts as behind.
type Harm struct {
	Blind time.Duration `yaml:"blind"` // its blind window; default 10s
	For   time.Duration `yaml:"for"`   // in one stretch; default 10s
}

// Evidence says where the report goes, and who signs it.
type Evidence struct {
	Directory string   `yaml:"directory"`
	Key       string   `yaml:"key"`   // the drill's own signing key, as `tidegate drill key` makes it
	Trust     []string `yaml:"trust"` // public keys of earlier drills, besides this one's
}

// SetDefaults fills in what is not set.
func (c Config) SetDefaults() Config {
	if c.Live == nil {
		c.Live = []string{"/run/tidegate", "/var/lib/tidegate"}
	}
	setDefault(&c.Wait, time.Minute)
	setDefault(&c.Program.Stop, 5*time.Second)
	setDefault(&c.Harm.Blind, 10*time.Second)
	setDefault(&c.Harm.For, 10*time.Second)
	canaries := make([]Canary, len(c.Canaries))
	for i, k := range c.Canaries {
		canaries[i] = Canary{Name: k.Name, Write: k.Write.withDefaults(), Read: k.Read.withDefaults()}
	}
	checks := make([]Check, len(c.Checks))
	for i, k := range c.Checks {
		checks[i] = Check{Name: k.Name, Ask: k.Ask.withDefaults()}
	}
	c.Canaries, c.Checks = canaries, checks
	return c
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

func (a Ask) withDefaults() Ask {
	setDefault(&a.Timeout, 10*time.Second)
	if a.HTTP != nil {
		h := *a.HTTP
		setDefault(&h.Method, http.MethodGet)
		setDefault(&h.Status, http.StatusOK)
		a.HTTP = &h
	}
	return a
}

// Validate reports every broken rule.
func (c Config) Validate() error {
	errs := []error{
		config.Name("service", string(c.Service)), config.Reachable("standby", c.Standby), config.Under("tls", c.TLS.Validate()),
		config.Under("program", c.Program.validate()), config.Under("evidence", c.Evidence.validate()),
		c.validateScratch(), c.validateNames(),
		config.AtLeast("wait", c.Wait, time.Second), config.AtLeast("rate", int64(c.Rate), 0), config.AtLeast("objectives.rto", c.Objectives.RTO, 0),
		config.AtLeast("harm.blind", c.Harm.Blind, time.Millisecond), config.AtLeast("harm.for", c.Harm.For, 0),
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
	for i, k := range c.Canaries {
		at := fmt.Sprintf("canaries[%d]", i)
		errs = append(errs, config.Under(at+".write", k.Write.validate()), config.Under(at+".read", k.Read.validate()), config.Under(at, k.validate()))
	}
	for i, k := range c.Checks {
		errs = append(errs, config.Under(fmt.Sprintf("checks[%d]", i), k.validate()))
	}
	return errors.Join(errs...)
}

// validate makes sure that what is read back can only be there because it was written by
// this drill.
func (c Canary) validate() error {
	var errs []error
	says := func(a Ask) (texts []string, contains string) {
		if a.HTTP != nil {
			texts, contains = append(texts, a.HTTP.URL, a.HTTP.Body), a.HTTP.Contains
		}
		if a.Command != nil {
			texts, contains = append(texts, a.Command.Run...), a.Command.Contains
		}
		return append(texts, contains), contains
	}
	const mark = "{canary}"
	write, _ := says(c.Write)
	if write = write[:len(write)-1]; !strings.Contains(strings.Join(write, " "), mark) {
		errs = append(errs, config.Broken("write", "want {canary} in what is written: no other drill has written that", write))
	}
	read, contains := says(c.Read)
	if contains == "" {
		errs = append(errs, config.Broken("read", "want contains: an answer alone does not say that the write is there", contains))
	}
	if !strings.Contains(strings.Join(read, " "), mark) {
		errs = append(errs, config.Broken("read", "want {canary} in what is asked or in contains: else it may be another write's", read))
	}
	return errors.Join(errs...)
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

// validateNames checks what canaries and checks are called in the report.
func (c Config) validateNames() error {
	var errs []error
	seen := map[string]bool{}
	name := func(path, name string) {
		switch {
		case seen[name]:
			errs = append(errs, config.Broken(path, "want a name that no other canary or check has", name))
		default:
			errs = append(errs, config.Name(path, name))
		}
		seen[name] = true
	}
	for i, k := range c.Canaries {
		name(fmt.Sprintf("canaries[%d].name", i), k.Name)
	}
	for i, k := range c.Checks {
		name(fmt.Sprintf("checks[%d].name", i), k.Name)
	}
	return errors.Join(errs...)
}

func (p Program) validate() error {
	errs := []error{config.AtLeast("stop", p.Stop, 0)}
	if len(p.Follow) == 0 {
		return errors.Join(config.Broken("follow", "want the command line that starts the service as one that follows", p.Follow), errors.Join(errs...))
	}
	errs = append(errs, config.AbsPath("follow[0]", p.Follow[0]))
	needs := map[string]bool{"{data}": false, "{run}": false}
	for i, arg := range p.Follow {
		errs = append(errs, placeholders(fmt.Sprintf("follow[%d]", i), arg))
		for n := range needs {
			needs[n] = needs[n] || strings.Contains(arg, n)
		}
	}
	for _, n := range []string{"{data}", "{run}"} {
		if !needs[n] {
			errs = append(errs, config.Broken("follow", "want "+n+" among the arguments: the sandbox's folder", p.Follow))
		}
	}
	for k := range p.Environment {
		if k == "" || strings.ContainsAny(k, "=\x00") || k == markName {
			errs = append(errs, config.Broken("environment", "want names of variables, and not "+markName, k))
		}
	}
	return errors.Join(errs...)
}

func (e Evidence) validate() error {
	errs := []error{config.AbsPath("directory", e.Directory), config.AbsPath("key", e.Key)}
	for i, k := range e.Trust {
		errs = append(errs, config.AbsPath(fmt.Sprintf("trust[%d]", i), k))
	}
	return errors.Join(errs...)
}

// cloneURL is what can be asked by HTTP: an address that the drill gave to the program.
var cloneURL = regexp.MustCompile(`^http://\{address:[a-z][a-z0-9-]*\}(/|$)`)

func (a Ask) validate() error {
	errs := []error{config.AtLeast("timeout", a.Timeout, time.Millisecond)}
	if a.Timeout > askTimeoutMax {
		errs = append(errs, config.Broken("timeout", "want at most "+askTimeoutMax.String(), a.Timeout))
	}
	switch {
	case (a.HTTP == nil) == (a.Command == nil):
		errs = append(errs, config.Broken("", "want http or command, one of them", "both or none"))
	case a.HTTP != nil:
		errs = append(errs, config.Under("http", a.HTTP.validate()))
	default:
		errs = append(errs, config.Under("command", a.Command.validate()))
	}
	return errors.Join(errs...)
}

func (h HTTP) validate() error {
	errs := []error{placeholders("url", h.URL), placeholders("body", h.Body), placeholders("contains", h.Contains)}
	if !cloneURL.MatchString(h.URL) {
		errs = append(errs, config.Broken("url", "want http://{address:NAME}/...: a drill asks its clone and nothing else", h.URL))
	}
	if h.Status < 100 || h.Status > 599 {
		errs = append(errs, config.Broken("status", "want an HTTP status", h.Status))
	}
	return errors.Join(errs...)
}

func (c Command) validate() error {
	if len(c.Run) == 0 {
		return config.Broken("run", "want a command line", c.Run)
	}
	errs := []error{config.AbsPath("run[0]", c.Run[0]), placeholders("contains", c.Contains)}
	for i, arg := range c.Run {
		errs = append(errs, placeholders(fmt.Sprintf("run[%d]", i), arg))
	}
	if c.Exit < 0 || c.Exit > 255 {
		errs = append(errs, config.Broken("exit", "want an exit code, 0 to 255", c.Exit))
	}
	return errors.Join(errs...)
}

// place is a name in braces that a drill fills in. JSON has none: its braces hold quotes.
var place = regexp.MustCompile(`\{[a-z][a-z0-9:_-]*\}`)

var addressPlace = regexp.MustCompile(`^\{address:([a-z][a-z0-9-]*)\}$`)

func placeholders(path, text string) error {
	for _, p := range place.FindAllString(text, -1) {
		if p != "{data}" && p != "{run}" && p != "{canary}" && !addressPlace.MatchString(p) {
			return config.Broken(path, "want {data}, {run}, {canary} or {address:NAME} in braces", p)
		}
	}
	return nil
}

// fill puts values in for the names in braces.
func fill(text string, values map[string]string) string {
	return place.ReplaceAllStringFunc(text, func(p string) string { return values[p] })
}

// addresses lists the names of the addresses that a configuration speaks of.
func (c Config) addresses() []string {
	seen := map[string]bool{}
	var all []string
	look := func(texts ...string) {
		for _, text := range texts {
			for _, p := range place.FindAllString(text, -1) {
				if addressPlace.MatchString(p) && !seen[p] {
					seen[p] = true
					all = append(all, p)
				}
			}
		}
	}
	look(c.Program.Follow...)
	for _, a := range c.asks() {
		if a.HTTP != nil {
			look(a.HTTP.URL, a.HTTP.Body, a.HTTP.Contains)
		} else {
			look(append(a.Command.Run, a.Command.Contains)...)
		}
	}
	return all
}

func (c Config) asks() (all []Ask) {
	for _, k := range c.Canaries {
		all = append(all, k.Write, k.Read)
	}
	for _, k := range c.Checks {
		all = append(all, k.Ask)
	}
	return all
}
