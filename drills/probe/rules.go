package probe

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/internal/config"
	pgprobe "github.com/tidegate/tidegate/stores/postgres/probe"
)

// Rules say what a drill of some kind may ask, in its file.
type Rules struct {
	URL   Form // of HTTP
	Where Form // of SQL
	// Own says that each host of SQL must be a place: the asked service is the drill's own.
	Own    bool
	Places []string
	// Places are the names in braces that are filled in, with their braces; NAME in one
	// stands for any: {address:NAME}.
}

// Form is how a text must begin or look, before anything is filled in.
type Form struct {
	Matches *regexp.Regexp
	Want    string // the same for people: "want http://..."
}

// Ask is every mistake in a.
func (r Rules) Ask(a *Ask) error {
	errs := []error{config.AtLeast("timeout", a.Timeout, time.Millisecond)}
	if a.Timeout > TimeoutMax {
		errs = append(errs, config.Broken("timeout", "want at most "+TimeoutMax.String(), a.Timeout))
	}
	ways := 0
	if a.HTTP != nil {
		ways++
		errs = append(errs, config.Under("http", r.http(a.HTTP)))
	}
	if a.Command != nil {
		ways++
		errs = append(errs, config.Under("command", r.command(a.Command)))
	}
	if a.SQL != nil {
		ways++
		errs = append(errs, config.Under("sql", r.sql(a.SQL)))
	}
	if ways != 1 {
		errs = append(errs, config.Broken("", "want http, command or sql, one of them", fmt.Sprint(ways)+" of them"))
	}
	return errors.Join(errs...)
}

// Check is every mistake in c; its name is [Names]' to check.
func (r Rules) Check(c *Check) error { return r.Ask(&c.Ask) }

// Canary is every mistake in c. What is read back can only be there because it was
// written by this drill.
func (r Rules) Canary(c *Canary) error {
	errs := []error{config.Under("write", r.Ask(&c.Write)), config.Under("read", r.Ask(&c.Read))}
	const mark = "{canary}"
	has := func(texts []string) bool { return strings.Contains(strings.Join(texts, " "), mark) }
	if asked := c.Write.Asked(); !has(asked) {
		errs = append(errs, config.Broken("write", "want {canary} in what is written: no other drill has written that", "none"))
	}
	answered := c.Read.Answered()
	if len(answered) == 0 {
		errs = append(errs, config.Broken("read", "want contains: an answer alone does not say that the write is there", ""))
	}
	if asked := c.Read.Asked(); !has(asked) && !has(answered) {
		errs = append(errs, config.Broken("read", "want {canary} in what is asked or in contains: else it may be another write's", "none"))
	}
	return errors.Join(errs...)
}

// Journey is every mistake in j; its name is [Names]' to check. A step has the values that
// steps before it have saved.
func (r Rules) Journey(j *Journey) error {
	errs := []error{config.AtLeast("within", j.Within, 0)}
	if len(j.Steps) == 0 {
		errs = append(errs, config.Broken("steps", "want at least one", j.Steps))
	}
	r.Places = slices.Clone(r.Places)
	for i := range j.Steps {
		s, at := &j.Steps[i], fmt.Sprintf("steps[%d]", i)
		errs = append(errs, config.Under(at, r.Ask(&s.Ask)))
		if s.Age != nil {
			errs = append(errs, config.Under(at+".age", s.Age.validate()))
		}
		for name, p := range s.Save {
			if !placeName.MatchString(name) {
				errs = append(errs, config.Broken(at+".save", "want a name of a-z, 0-9 and -", name))
			}
			if p.re == nil {
				errs = append(errs, config.Broken(at+".save."+name, "want a regular expression with one group around the value", ""))
			}
			r.Places = append(r.Places, savedPlace(name))
		}
	}
	return errors.Join(errs...)
}

// Record is every mistake in c; its name is [Names]' to check.
func (r Rules) Record(c *Record) error {
	return errors.Join(r.Ask(&c.Ask), config.Under("age", c.Age.validate()))
}

func (a *Age) validate() error { return config.AtLeast("within", a.Within, time.Millisecond) }

// Names checks what questions are called in the report; each name is its own.
type Names map[string]bool

// Check is the mistake in the name that stands at path.
func (n Names) Check(path, name string) error {
	if n[name] {
		return config.Broken(path, "want a name that no other question has", name)
	}
	n[name] = true
	return config.Name(path, name)
}

// Text is every name in braces in text that nothing fills in.
func (r Rules) Text(path, text string) error {
	for _, p := range Places(text) {
		if !r.fills(p) {
			return config.Broken(path, "want "+r.places()+" in braces", p)
		}
	}
	return nil
}

func (r Rules) texts(path string, texts []string) error {
	var errs []error
	for i, text := range texts {
		errs = append(errs, r.Text(fmt.Sprintf("%s[%d]", path, i), text))
	}
	return errors.Join(errs...)
}

const anyName = "NAME}"

func (r Rules) fills(p string) bool {
	for _, known := range r.Places {
		begin, named := strings.CutSuffix(known, anyName)
		name := strings.TrimSuffix(strings.TrimPrefix(p, begin), "}")
		if p == known || named && strings.HasPrefix(p, begin) && placeName.MatchString(name) {
			return true
		}
	}
	return false
}

var placeName = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)

func (r Rules) places() string {
	last := len(r.Places) - 1
	if last < 1 {
		return strings.Join(r.Places, "")
	}
	return strings.Join(r.Places[:last], ", ") + " or " + r.Places[last]
}

func (f Form) check(path, text string) error {
	if f.Matches.MatchString(text) {
		return nil
	}
	return config.Broken(path, f.Want, text)
}

func (r Rules) http(h *HTTP) error {
	errs := []error{r.Text("url", h.URL), r.Text("body", h.Body), r.Text("contains", h.Contains)}
	if u, err := url.Parse(Fill(h.URL, sampled(h.URL))); err != nil || u.User != nil {
		errs = append(errs, config.Broken("url", "want a URL without a user or password: it is part of the report", "another"))
	} else {
		errs = append(errs, r.URL.check("url", h.URL))
	}
	if h.Status < 100 || h.Status > 599 {
		errs = append(errs, config.Broken("status", "want an HTTP status", h.Status))
	}
	return errors.Join(errs...)
}

func (r Rules) command(c *Command) error {
	if len(c.Run) == 0 {
		return config.Broken("run", "want a command line", c.Run)
	}
	errs := []error{config.AbsPath("run[0]", c.Run[0]), r.texts("run", c.Run), r.Text("contains", c.Contains)}
	if c.Exit < 0 || c.Exit > 255 {
		errs = append(errs, config.Broken("exit", "want an exit code, 0 to 255", c.Exit))
	}
	return errors.Join(errs...)
}

func (r Rules) sql(s *SQL) error {
	errs := []error{r.Text("where", s.Where), r.Text("query", s.Query), r.Text("want", s.Want), r.Text("contains", s.Contains)}
	if strings.TrimSpace(s.Query) == "" {
		errs = append(errs, config.Broken("query", "want one statement", s.Query))
	}
	filled := Fill(s.Where, sampled(s.Where))
	switch cfg, err := connection(filled); {
	case s.Where == "":
		errs = append(errs, config.Broken("where", "want a connection string such as postgres://dora@{address:sql}/bank", s.Where))
	case pgprobe.HasPassword(filled):
		errs = append(errs, config.Broken("where", "want no password here: name a file, passfile=/etc/tidegate-drill/pgpass", "one with a password"))
	case err != nil:
		errs = append(errs, config.Broken("where", "want a connection string ("+evidence.Sentence(err)+")", "one that is not")) // pgconn leaves the password out
	case r.Own && !sampledHosts(cfg):
		errs = append(errs, config.Broken("where", r.Where.Want, s.Where))
	default:
		errs = append(errs, r.Where.check("where", s.Where))
	}
	return errors.Join(errs...)
}

// sampledHosts reports whether a connection that was filled with samples leads to places
// alone.
func sampledHosts(cfg *pgconn.Config) bool {
	own := func(host string, port uint16) bool {
		return host == samplePath || strings.HasPrefix(host, samplePath+"/") || host == sampleHost && port == samplePort
	}
	for _, f := range cfg.Fallbacks {
		if !own(f.Host, f.Port) {
			return false
		}
	}
	return own(cfg.Host, cfg.Port)
}

const (
	samplePath = "/place"
	sampleHost = "127.0.0.1"
	samplePort = 1
)

// sampled are values of the right form for the names in braces of a text.
func sampled(text string) map[string]string {
	values := map[string]string{}
	for _, p := range Places(text) {
		values[p] = samplePath
		if strings.HasPrefix(p, "{address:") {
			values[p] = fmt.Sprintf("%s:%d", sampleHost, samplePort)
		}
	}
	return values
}
