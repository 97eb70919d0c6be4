package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidegate/tidegate/drills/evidence"
)

// Journey is what a client does: several steps in order, with values handed on. It has
// passed when each step has, within the time for the whole.
type Journey struct {
	Name   string        `yaml:"name"`
	Steps  []Step        `yaml:"steps"`
	Within time.Duration `yaml:"within"` // default: no limit besides the steps' own
}

// Step is one question of a journey.
type Step struct {
	Ask  `yaml:",inline"`
	Save map[string]Pattern `yaml:"save"` // values of the answer; later steps have them as {saved:NAME}
	Age  *Age               `yaml:"age"`
}

// Record is a question for the newest record of a writer outside of the drill, which the
// recovered service must have.
type Record struct {
	Name string `yaml:"name"`
	Ask  `yaml:",inline"`
	Age  Age `yaml:"age"`
}

// Age is how old something in an answer may be. The time in it is somebody else's clock's.
type Age struct {
	Time   Pattern       `yaml:"time"`   // where it stands in the answer; default: the answer is the time
	Within time.Duration `yaml:"within"` // above 0
}

// Pattern finds one value in a text: what its one group matches. The zero one finds the
// whole text.
type Pattern struct{ re *regexp.Regexp }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (p *Pattern) UnmarshalText(text []byte) error {
	re, err := regexp.Compile(string(text))
	if err != nil {
		return fmt.Errorf("want a regular expression: %w", err)
	}
	if re.NumSubexp() != 1 {
		return fmt.Errorf("want one group in the regular expression, around the value (got %d)", re.NumSubexp())
	}
	p.re = re
	return nil
}

// MarshalText implements [encoding.TextMarshaler].
func (p Pattern) MarshalText() ([]byte, error) {
	if p.re == nil {
		return nil, nil
	}
	return []byte(p.re.String()), nil
}

func (p Pattern) find(text string) (string, error) {
	if p.re == nil {
		return strings.TrimSpace(text), nil
	}
	found := p.re.FindStringSubmatch(text)
	if found == nil {
		return "", fmt.Errorf("nothing in the answer is like %s", p.re)
	}
	return found[1], nil
}

// layouts are the forms of a time: RFC 3339, and as PostgreSQL writes a timestamptz.
var layouts = []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999Z07", "2006-01-02 15:04:05.999999999Z07:00"}

// secondsMax is in the year 2286: what is above counts something else than seconds.
const secondsMax = 1e10

func moment(text string) (time.Time, error) {
	for _, layout := range layouts {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	s, err := strconv.ParseFloat(text, 64)
	if err != nil || s <= 0 || s >= secondsMax {
		return time.Time{}, fmt.Errorf("want a time as RFC 3339, PostgreSQL's timestamptz or seconds since 1970 have it (got %s)", quoted(text))
	}
	return time.UnixMicro(int64(s * 1e6)), nil
}

// quotedMax is the longest value that an error quotes: a time is shorter.
const quotedMax = 40

func quoted(text string) string {
	if len(text) > quotedMax {
		return fmt.Sprintf("%d bytes", len(text))
	}
	return strconv.Quote(text)
}

// clocksMax is how much newer than a moment something may be that was before it: what two
// well-kept clocks differ by.
const clocksMax = 100 * time.Millisecond

// of is how old what an answer speaks of was at a moment.
func (a *Age) of(text string, at time.Time) (time.Duration, error) {
	value, err := a.Time.find(text)
	if err != nil {
		return 0, err
	}
	then, err := moment(value)
	if err != nil {
		return 0, err
	}
	old := at.Sub(then)
	if old < -clocksMax {
		return 0, undecided{fmt.Sprintf("it is newer than that by %s: the clocks differ", (-old).Round(time.Millisecond))}
	}
	return max(0, old), nil
}

func (a *Age) judge(old time.Duration) error {
	if old > a.Within {
		return fmt.Errorf("it is %s old, and may be %s", old.Round(time.Millisecond), a.Within)
	}
	return nil
}

// WithDefaults is j with what is not set filled in.
func (j Journey) WithDefaults() Journey {
	steps := make([]Step, len(j.Steps))
	for i, s := range j.Steps {
		steps[i] = Step{s.Ask.WithDefaults(), s.Save, s.Age}
	}
	j.Steps = steps
	return j
}

// WithDefaults is r with what is not set filled in.
func (r Record) WithDefaults() Record { return Record{r.Name, r.Ask.WithDefaults(), r.Age} }

// saving is a place with the values that a journey has saved.
type saving struct {
	Place
	values map[string]string
}

// Fill implements [Place]. What is put in is not looked at again.
func (s saving) Fill(text string) string {
	return place.ReplaceAllStringFunc(text, func(p string) string {
		if v, saved := s.values[p]; saved {
			return v
		}
		return s.Place.Fill(p)
	})
}

func savedPlace(name string) string { return "{saved:" + name + "}" }

// Journey goes it once, and writes down what came of it. The time is of all steps. What was
// saved stands in no record: it may be a token.
func (k *Asker) Journey(ctx context.Context, j *Journey) evidence.Check {
	own := *k // values are this journey's alone
	values := map[string]string{}
	own.at = saving{k.at, values}
	out := evidence.Check{Name: j.Name, Kind: "journey", Wanted: j.wanted()}
	began := k.clk.Boot()
	var said []string
	var err error
	for i := range j.Steps {
		var got string
		if got, err = own.step(ctx, &j.Steps[i], values); got != "" {
			said = append(said, got)
		}
		if err != nil {
			err = fmt.Errorf("step %d of %d: %w", i+1, len(j.Steps), err)
			break
		}
	}
	took := time.Duration(k.clk.Boot() - began)
	if err == nil && j.Within > 0 && took > j.Within {
		err = fmt.Errorf("it took %s, and may take %s", took.Round(time.Millisecond), j.Within)
	}
	out.Took = &took
	if len(said) > 0 {
		for i := range said {
			said[i] = Short(hide(said[i], values))
		}
		out.Got = new(Short(strings.Join(said, "; ")))
	}
	var why string
	out.Outcome, why = outcome(ctx, err)
	out.Why = Short(hide(why, values))
	return out
}

func (j *Journey) wanted() string {
	var steps []string
	for i := range j.Steps {
		steps = append(steps, j.Steps[i].Wanted())
	}
	text := strings.Join(steps, "; ")
	if j.Within > 0 {
		text += fmt.Sprintf("; within %s in all", j.Within)
	}
	return text
}

// step asks, and saves. said and the error are whole, and have what was saved in them.
func (k *Asker) step(ctx context.Context, s *Step, values map[string]string) (said string, err error) {
	a, err := k.ask(ctx, &s.Ask)
	if err != nil {
		return "", err
	}
	for name, p := range s.Save { // of an answer that is not the wanted one, too: it is to be hidden
		v, missing := p.find(a.text)
		if missing == nil {
			values[savedPlace(name)] = v
			missing = plain(v)
		}
		if missing != nil && err == nil {
			err = fmt.Errorf("save %s: %w", name, missing)
		}
	}
	if !a.wanted {
		return a.said, Wrong{a.said}
	}
	if err != nil || s.Age == nil {
		return a.said, err
	}
	old, err := s.Age.of(a.text, k.clk.Wall())
	if err != nil {
		return a.said, err
	}
	return fmt.Sprintf("%s (%s old)", Short(a.said), old.Round(time.Millisecond)), s.Age.judge(old)
}

// savable are values that mean nothing to a shell, in SQL or in a URL: what a service
// answers is not executed.
var savable = regexp.MustCompile(`^[A-Za-z0-9._~:+/=@-]*$`)

func plain(value string) error {
	if !savable.MatchString(value) {
		return errors.New("the value has other characters than letters, digits and ._~:+/=@-: later steps would hand them to a shell, or to SQL")
	}
	return nil
}

// hide puts the names of values in for them, the longest first: one may begin another.
func hide(text string, values map[string]string) string {
	var forms [][2]string
	for name, v := range values {
		if v == "" {
			continue
		}
		forms = append(forms, [2]string{v, name}, [2]string{url.PathEscape(v), name}, [2]string{url.QueryEscape(v), name})
	}
	slices.SortFunc(forms, func(a, b [2]string) int { return cmp.Or(len(b[0])-len(a[0]), cmp.Compare(a[1], b[1])) })
	for _, f := range forms {
		text = strings.ReplaceAll(text, f[0], f[1])
	}
	return text
}

// Record asks for the newest record and writes down how old it was at the cut: what had
// been lost, had the writer's site been lost then, is at most that. cut is wall time; zero:
// unknown.
func (k *Asker) Record(ctx context.Context, r *Record, cut time.Time) evidence.Check {
	out := evidence.Check{Name: r.Name, Kind: "record", Wanted: fmt.Sprintf("%s, at most %s old at the cut", r.Wanted(), r.Age.Within)}
	if cut.IsZero() {
		out.Outcome, out.Why = evidence.CheckUnknown, "when the clone's cut was is not known"
		return out
	}
	began := k.clk.Boot()
	a, err := k.ask(ctx, &r.Ask)
	out.Took = new(time.Duration(k.clk.Boot() - began))
	if err == nil {
		var got string
		got, err = a.record(a.said)
		out.Got = &got
	}
	if err == nil {
		var old time.Duration
		if old, err = r.Age.of(a.text, cut); err == nil {
			out.Got = new(fmt.Sprintf("%s old at the cut: %s", old.Round(time.Millisecond), *out.Got))
			err = r.Age.judge(old)
		}
	}
	out.Outcome, out.Why = outcome(ctx, err)
	return out
}
