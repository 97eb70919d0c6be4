package assert

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// statistic is what is made of the looks of a window.
type statistic string

const (
	each   statistic = "" // each of them
	median statistic = "p50"
	p99    statistic = "p99"
	least  statistic = "min"
	most   statistic = "max"
)

var statistics = []statistic{median, p99, least, most}

// comparison is how a value stands to its limit.
type comparison string

var comparisons = []comparison{"<", "<=", ">", ">=", "=", "!="}

func (c comparison) holds(n, limit int64) bool {
	switch c {
	case "<":
		return n < limit
	case "<=":
		return n <= limit
	case ">":
		return n > limit
	case ">=":
		return n >= limit
	case "=":
		return n == limit
	}
	return n != limit
}

// condition is a metric, or a statistic of it, against a limit.
type condition struct {
	metric Metric
	of     statistic
	cmp    comparison
	limit  int64
}

func (c condition) String() string {
	name := string(c.metric)
	if c.of != each {
		name += "_" + string(c.of)
	}
	return fmt.Sprintf("%s %s %s", name, c.cmp, units[c.metric].format(c.limit))
}

// everyLook reports whether the condition holds exactly when it holds for each look.
func (c condition) everyLook() bool {
	return c.of == each || c.of == most && c.cmp[0] == '<' || c.of == least && c.cmp[0] == '>'
}

// Assertion is what must hold. Its zero value is none.
type Assertion struct {
	must   condition
	window time.Duration // 0: a look is its own window, and a statistic's is all looks
	while  *condition    // only looks at which that holds count; nil: all do
}

// String is the assertion as [Parse] reads it.
func (a Assertion) String() string {
	text := a.must.String()
	if a.window > 0 {
		text += " for " + span(a.window)
	}
	if a.while != nil {
		text += " while " + a.while.String()
	}
	return text
}

// Blocking is why the assertion cannot call anything off; nil: it can.
func (a Assertion) Blocking() error {
	if a.window == 0 && !a.must.everyLook() {
		return fmt.Errorf("want `for TIME` behind %s: a statistic of all looks is known at their end", a.must)
	}
	return nil
}

// Limits.
const (
	textLenMax = 300
	windowMin  = time.Second
	windowMax  = time.Hour
)

// Parse reads an assertion:
//
//	METRIC[_p50|_p99|_min|_max] <|<=|>|>=|=|!= VALUE [for TIME] [while METRIC COMPARISON VALUE]
//
// All mistakes are reported at once. Not every drill knows every metric: [Assertion.Over].
func Parse(text string) (Assertion, error) {
	if len(text) > textLenMax {
		return Assertion{}, fmt.Errorf("want at most %d bytes (got %d)", textLenMax, len(text))
	}
	words := strings.Fields(text)
	if len(words) < 3 {
		return Assertion{}, fmt.Errorf("want METRIC COMPARISON VALUE, then maybe `for TIME` and `while METRIC COMPARISON VALUE` (got %q)", text)
	}
	var a Assertion
	must, errs := readCondition(words[:3])
	a.must = must
	for words = words[3:]; len(words) > 0; {
		switch {
		case words[0] == "for" && a.window == 0 && a.while == nil && len(words) > 1:
			var err error
			if a.window, err = readWindow(words[1]); err != nil {
				errs = append(errs, err)
				a.window = windowMin // it is there, whatever it is
			}
			words = words[2:]
		case words[0] == "while" && a.while == nil && len(words) > 3:
			while, mistakes := readCondition(words[1:4])
			if while.of != each {
				mistakes = append(mistakes, fmt.Errorf("while %s: want a metric of one look, without _%s", while, while.of))
			}
			a.while, errs, words = &while, append(errs, mistakes...), words[4:]
		default:
			errs, words = append(errs, fmt.Errorf("want `for TIME`, then `while METRIC COMPARISON VALUE`, once each, or nothing (got %q)", strings.Join(words, " "))), nil
		}
	}
	if len(errs) > 0 {
		return Assertion{}, errors.New(strings.ReplaceAll(errors.Join(errs...).Error(), "\n", "; "))
	}
	return a, nil
}

// UnmarshalText implements [encoding.TextUnmarshaler] by [Parse].
func (a *Assertion) UnmarshalText(text []byte) (err error) {
	*a, err = Parse(string(text))
	return err
}

// MarshalText implements [encoding.TextMarshaler].
func (a Assertion) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// Over is why the assertion cannot be held against looks that know no more than have;
// nil: it can.
func (a Assertion) Over(have ...Metric) error {
	of := []Metric{a.must.metric}
	if a.while != nil {
		of = append(of, a.while.metric)
	}
	for _, m := range of {
		if !slices.Contains(have, m) {
			return fmt.Errorf("want one of %s: nobody says %s here", names(have), m)
		}
	}
	return nil
}

func readCondition(words []string) (c condition, errs []error) {
	c.metric, c.cmp = Metric(words[0]), comparison(words[1])
	for _, s := range statistics {
		if m, is := strings.CutSuffix(words[0], "_"+string(s)); is {
			c.metric, c.of = Metric(m), s
		}
	}
	u, known := units[c.metric]
	if !known {
		errs = append(errs, fmt.Errorf("want one of %s, as it is or with _p50, _p99, _min or _max (got %q)", names(slices.Collect(maps.Keys(units))), words[0]))
	}
	if !slices.Contains(comparisons, c.cmp) {
		errs = append(errs, fmt.Errorf("want <, <=, >, >=, = or != behind the metric (got %q)", words[1]))
	}
	if known {
		var err error
		if c.limit, err = u.parse(words[2]); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.metric, err))
		}
	}
	return c, errs
}

func readWindow(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < windowMin || d > windowMax {
		return 0, fmt.Errorf("for: want a time from %s to %s (got %q)", windowMin, windowMax, text)
	}
	return d, nil
}
