package schedule

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/netresearch/go-cron"
)

// Missed says what becomes of an occurrence that could not be begun when it was due.
type Missed string

// The policies for missed occurrences.
const (
	RunOnce Missed = "run-once" // it is begun within the grace; of several the newest
	Skip    Missed = "skip"     // the next one is waited for
)

// Limits of a policy.
const (
	every     = time.Hour // occurrences come no more often
	jitterMax = 24 * time.Hour
	graceMax  = 31 * 24 * time.Hour
	settleMax = 31 * 24 * time.Hour
	punctual  = 5 * time.Minute // the grace of [Skip]: workers ask a few times a minute
	checked   = 60              // occurrences whose distance is looked at
)

// Policy is when drills of a service are wanted. Its text is the operator's.
type Policy struct {
	Off     bool          `json:"off,omitempty"`     // none at all
	Cron    string        `json:"cron"`              // minute hour day month weekday, or @daily, @weekly, @monthly
	Zone    string        `json:"zone"`              // of the IANA database, as Europe/Berlin; UTC
	Jitter  time.Duration `json:"jitter"`            // nanoseconds
	Missed  Missed        `json:"missed"`            // run-once or skip
	Grace   time.Duration `json:"grace"`             // nanoseconds; 0 with skip
	Settle  time.Duration `json:"settle"`            // none so soon after a change of roles, nanoseconds
	Blocked []string      `json:"blocked,omitempty"` // weekly, as "Mon-Fri 08:00-18:00 Europe/Berlin"; the zone is the policy's when left out
	Dates   []string      `json:"dates,omitempty"`   // as 2026-12-24 or 2026-12-24..2027-01-02, both days included, in the policy's zone
}

// Default is the policy of a service for which nobody has set one: each week, on Sunday
// morning.
func Default() Policy {
	return Policy{Cron: "0 3 * * Sun", Zone: "UTC", Jitter: 4 * time.Hour, Missed: RunOnce, Grace: 24 * time.Hour, Settle: time.Hour}
}

// Timetable is a policy that was read.
type Timetable struct {
	policy  Policy
	cron    cron.Schedule
	zone    *time.Location
	windows []window
	dates   []dates
}

// parser takes the five fields of cron, where a day of month and a weekday that are both
// given are either of them, as crontab(5) has it.
var parser = cron.MustNewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor | cron.Extended | cron.DowOrDom)

// New reads a policy. Its error names every rule that is broken.
func New(p Policy) (*Timetable, error) {
	t := &Timetable{policy: p}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	var err error
	if t.zone, err = zoneOf(p.Zone); err != nil {
		bad("zone: %w", err)
	}
	if t.cron, err = cronOf(p.Cron); err != nil {
		bad("cron %q: %w", p.Cron, err)
	}
	if p.Jitter < 0 || p.Jitter > jitterMax {
		bad("jitter: want 0 to %s (got %s)", jitterMax, p.Jitter)
	}
	if p.Settle < 0 || p.Settle > settleMax {
		bad("settle: want 0 to %s (got %s)", settleMax, p.Settle)
	}
	switch p.Missed {
	case RunOnce:
		if p.Grace < punctual || p.Grace > graceMax {
			bad("grace: want %s to %s (got %s)", punctual, graceMax, p.Grace)
		}
	case Skip:
		if p.Grace != 0 {
			bad("grace: what is skipped has none (got %s)", p.Grace)
		}
	default:
		bad("missed: want %s or %s (got %q)", RunOnce, Skip, p.Missed)
	}
	for _, text := range p.Blocked {
		w, err := parseWindow(text, t.zone)
		if err != nil {
			bad("blocked %q: %w", text, err)
		}
		t.windows = append(t.windows, w)
	}
	for _, text := range p.Dates {
		d, err := parseDates(text)
		if err != nil {
			bad("dates %q: %w", text, err)
		}
		t.dates = append(t.dates, d)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if t.always() {
		return nil, errors.New("blocked: no hour of the week is left")
	}
	return t, nil
}

// Policy returns what the timetable was read from.
func (t *Timetable) Policy() Policy { return t.policy }

func zoneOf(name string) (*time.Location, error) {
	if name == "" || name == "Local" {
		return nil, fmt.Errorf("want one of the IANA database, as Europe/Berlin, or UTC (got %q)", name)
	}
	return time.LoadLocation(name)
}

func cronOf(text string) (cron.Schedule, error) {
	if strings.Contains(text, "TZ=") {
		return nil, errors.New("name the zone by itself, not in the expression")
	}
	s, err := parser.Parse(text)
	if err != nil {
		return nil, err
	}
	spec, ok := s.(*cron.SpecSchedule)
	if !ok {
		return nil, errors.New("want times of the day and not a distance")
	}
	spec.Location = time.UTC
	at := time.Date(2025, 12, 31, 23, 59, 59, 0, time.UTC)
	if at = spec.Next(at); at.IsZero() {
		return nil, errors.New("it never comes")
	}
	for range checked {
		next := spec.Next(at)
		if next.IsZero() {
			break
		}
		if next.Sub(at) < every {
			return nil, fmt.Errorf("want at most one an hour (got %s and %s)", at.Format("15:04"), next.Format("15:04"))
		}
		at = next
	}
	return spec, nil
}

// grace is for how long after it was due an occurrence is begun.
func (t *Timetable) grace() time.Duration {
	if t.policy.Missed == Skip {
		return punctual
	}
	return t.policy.Grace
}

// always reports whether the weekly windows leave nothing.
func (t *Timetable) always() bool {
	if len(t.windows) == 0 {
		return false
	}
	at := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	for range 7 * 24 * 60 {
		if !slices.ContainsFunc(t.windows, func(w window) bool { return w.covers(at) }) {
			return false
		}
		at = at.Add(time.Minute)
	}
	return true
}
