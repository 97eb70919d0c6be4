package probe

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tidegate/tidegate/drills/evidence"
)

// Ask is a question: by HTTP, by a command, or in SQL. Exactly one is set.
type Ask struct {
	HTTP    *HTTP         `yaml:"http"`
	Command *Command      `yaml:"command"`
	SQL     *SQL          `yaml:"sql"`
	Timeout time.Duration `yaml:"timeout"` // default 10s, at most [TimeoutMax]
}

// TimeoutMax bounds one question.
const TimeoutMax = 10 * time.Minute

const timeoutDefault = 10 * time.Second

// HTTP is a request, and the answer that is wanted.
type HTTP struct {
	Method   string `yaml:"method"` // default GET
	URL      string `yaml:"url"`
	Body     string `yaml:"body"`
	Status   int    `yaml:"status"`   // default 200
	Contains string `yaml:"contains"` // of the answer's body
}

// Command is a program, and the end that is wanted of it.
type Command struct {
	Run      []string `yaml:"run"`
	Exit     int      `yaml:"exit"`
	Contains string   `yaml:"contains"` // of what it prints, to either output
}

// SQL is one statement to a PostgreSQL server, on a connection of its own, and the answer
// that is wanted. The answer is the first column of the first row, as text; of a statement
// without rows it is the command's tag.
type SQL struct {
	Where    string `yaml:"where"` // as libpq takes it, without a password: postgres://dora@{address:sql}/bank, or host={run} dbname=bank
	Query    string `yaml:"query"`
	Want     string `yaml:"want"`     // the whole answer; default: any
	Contains string `yaml:"contains"` // of the answer
}

// Check is one question of the operator's own.
type Check struct {
	Name string `yaml:"name"`
	Ask  `yaml:",inline"`
}

// Canary is a write that must be accepted, and what reads it back.
type Canary struct {
	Name  string `yaml:"name"`
	Write Ask    `yaml:"write"`
	Read  Ask    `yaml:"read"`
}

// WithDefaults is a with what is not set filled in.
func (a Ask) WithDefaults() Ask {
	if a.Timeout == 0 {
		a.Timeout = timeoutDefault
	}
	if a.HTTP != nil {
		h := *a.HTTP
		if h.Method == "" {
			h.Method = http.MethodGet
		}
		if h.Status == 0 {
			h.Status = http.StatusOK
		}
		a.HTTP = &h
	}
	return a
}

// WithDefaults is c with what is not set filled in.
func (c Check) WithDefaults() Check { return Check{c.Name, c.Ask.WithDefaults()} }

// WithDefaults is c with what is not set filled in.
func (c Canary) WithDefaults() Canary {
	return Canary{c.Name, c.Write.WithDefaults(), c.Read.WithDefaults()}
}

// Kind is http, command or sql.
func (a *Ask) Kind() string {
	switch {
	case a.HTTP != nil:
		return "http"
	case a.SQL != nil:
		return "sql"
	}
	return "command"
}

// Wanted is what an answer must be, for people.
func (a *Ask) Wanted() string {
	var text, contains string
	switch {
	case a.HTTP != nil:
		text, contains = fmt.Sprintf("%s %s: %d", a.HTTP.Method, a.HTTP.URL, a.HTTP.Status), a.HTTP.Contains
	case a.SQL != nil:
		text, contains = evidence.OneLine(a.SQL.Query)+": an answer", a.SQL.Contains
		if a.SQL.Want != "" {
			text = fmt.Sprintf("%s: %q", evidence.OneLine(a.SQL.Query), a.SQL.Want)
		}
	default:
		text, contains = fmt.Sprintf("%s: exit %d", strings.Join(a.Command.Run, " "), a.Command.Exit), a.Command.Contains
	}
	if contains != "" {
		text += fmt.Sprintf(" with %q", contains)
	}
	return text
}

// Asked are all texts of a question in which names in braces are filled in.
func (a *Ask) Asked() (texts []string) {
	if a.HTTP != nil {
		texts = append(texts, a.HTTP.URL, a.HTTP.Body)
	}
	if a.Command != nil {
		texts = append(texts, a.Command.Run...)
	}
	if a.SQL != nil {
		texts = append(texts, a.SQL.Where, a.SQL.Query)
	}
	return texts
}

// Answered are all texts that an answer is compared with, in which names in braces are
// filled in.
func (a *Ask) Answered() (texts []string) {
	if a.HTTP != nil {
		texts = append(texts, a.HTTP.Contains)
	}
	if a.Command != nil {
		texts = append(texts, a.Command.Contains)
	}
	if a.SQL != nil {
		texts = append(texts, a.SQL.Want, a.SQL.Contains)
	}
	return slices.DeleteFunc(texts, func(s string) bool { return s == "" })
}

// place is a name in braces that is filled in. JSON has none: its braces hold quotes.
var place = regexp.MustCompile(`\{[a-z][a-z0-9:_-]*\}`)

// Places lists the names in braces of texts, with their braces, each once, in order.
func Places(texts ...string) (all []string) {
	for _, text := range texts {
		for _, p := range place.FindAllString(text, -1) {
			if !slices.Contains(all, p) {
				all = append(all, p)
			}
		}
	}
	return all
}

// Fill puts values in for the names in braces; one without a value becomes nothing.
func Fill(text string, values map[string]string) string {
	return place.ReplaceAllStringFunc(text, func(p string) string { return values[p] })
}
