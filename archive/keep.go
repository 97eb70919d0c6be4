package archive

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Keep says which of the copies of one thing stay: the newest Last of them, and of
// each of the newest Hourly hours that have one the newest, and so for days, weeks
// (ISO 8601) and months, all of UTC. A copy stays if any of these names it. What is
// 0 names none; the zero value keeps everything.
type Keep struct {
	Last    int `yaml:"last" json:"last"`
	Hourly  int `yaml:"hourly" json:"hourly"`
	Daily   int `yaml:"daily" json:"daily"`
	Weekly  int `yaml:"weekly" json:"weekly"`
	Monthly int `yaml:"monthly" json:"monthly"`
}

// Validate reports every broken rule.
func (k Keep) Validate() error {
	var errs []error
	for _, n := range []struct {
		name string
		n    int
	}{{"last", k.Last}, {"hourly", k.Hourly}, {"daily", k.Daily}, {"weekly", k.Weekly}, {"monthly", k.Monthly}} {
		if n.n < 0 {
			errs = append(errs, fmt.Errorf("%s: want 0 or more (got %d)", n.name, n.n))
		}
	}
	return errors.Join(errs...)
}

// Rule returns which copies stay, by the times as of which they are, in any order.
// The newest one always stays.
func (k Keep) Rule(times []time.Time) []bool {
	stays := make([]bool, len(times))
	if k == (Keep{}) {
		for i := range stays {
			stays[i] = true
		}
		return stays
	}
	order := make([]int, len(times)) // newest first
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return times[b].Compare(times[a]) })
	for n, i := range order {
		stays[i] = n < max(k.Last, 1)
	}
	for _, every := range []struct {
		n  int
		of func(time.Time) string
	}{
		{k.Hourly, func(t time.Time) string { return t.Format("2006-01-02T15") }},
		{k.Daily, func(t time.Time) string { return t.Format(time.DateOnly) }},
		{k.Weekly, func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprintf("%d-W%02d", y, w) }},
		{k.Monthly, func(t time.Time) string { return t.Format("2006-01") }},
	} {
		seen := map[string]bool{}
		for _, i := range order {
			if period := every.of(times[i].UTC()); len(seen) < every.n && !seen[period] {
				seen[period], stays[i] = true, true
			}
		}
	}
	return stays
}
