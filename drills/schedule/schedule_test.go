package schedule

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tidegate/tidegate/internal/racetest"
)

// zones put their clocks in all the ways there are: by an hour, by half of one, in either
// half of the year, at midnight, for a month, a whole day at once, and not at all.
var zones = []string{"UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago", "Africa/Casablanca", "Africa/Cairo", "Asia/Kolkata"}

func policy(edit func(*Policy)) Policy {
	p := Default()
	p.Jitter = 0
	if edit != nil {
		edit(&p)
	}
	return p
}

func table(t testing.TB, edit func(*Policy)) *Timetable {
	t.Helper()
	out, err := New(policy(edit))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func at(t testing.TB, text string) time.Time {
	t.Helper()
	out, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestYear compares a year of daily schedules with a walk through its minutes.
func TestYear(t *testing.T) {
	if racetest.Apart(t) {
		return
	}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom(zones).Draw(t, "zone")
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		hour, minute := rapid.SampledFrom([]int{0, 1, 2, 3, 4, 23}).Draw(t, "hour"), rapid.SampledFrom([]int{0, 1, 29, 30, 59}).Draw(t, "minute")
		year := rapid.IntRange(2024, 2030).Draw(t, "year")
		tt, err := New(policy(func(p *Policy) { p.Cron, p.Zone = fmt.Sprintf("%d %d * * *", minute, hour), name }))
		if err != nil {
			t.Fatal(err)
		}
		from := instantOf(time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC), zone).Add(-time.Second)
		var want []time.Time
		for d := time.Date(year, 1, 1, hour, minute, 0, 0, time.UTC); d.Year() == year; d = d.AddDate(0, 0, 1) {
			want = append(want, walk(d, zone))
		}
		want = slices.Compact(want)
		got := tt.Next("bank", from, len(want))
		for i := range want {
			if !got[i].At.Equal(want[i]) {
				t.Fatalf("%s %02d:%02d: number %d is %s, want %s", name, hour, minute, i, got[i].At.In(zone), want[i].In(zone))
			}
		}
		if i := rapid.IntRange(1, len(want)-1).Draw(t, "day"); true { // the newest one is found from behind
			if o, ok := tt.newest("bank", want[i].Add(-time.Second)); !ok || !o.At.Equal(want[i-1]) {
				t.Fatalf("before %s the newest is %s, want %s", want[i].In(zone), o.At.In(zone), want[i-1].In(zone))
			}
		}
	})
}

// walk is the first minute at which the wall shows at least what is wanted.
func walk(wall time.Time, zone *time.Location) time.Time {
	at := wall.Add(-30 * time.Hour)
	if _, before := at.In(zone).Zone(); !changes(at, zone) {
		return wall.Add(-time.Duration(before) * time.Second)
	}
	for wallOf(at, zone).Before(wall) {
		at = at.Add(time.Minute)
	}
	return at
}

func changes(at time.Time, zone *time.Location) bool {
	_, end := at.In(zone).ZoneBounds()
	return !end.IsZero() && end.Before(at.Add(60*time.Hour))
}

func TestClockChanges(t *testing.T) {
	for _, c := range []struct {
		name, cron, zone, from string
		want                   []string
	}{
		{"left out: right after it", "30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", []string{"2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"}},
		{"two left out or at its end: once", "0 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", []string{"2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"}},
		{"twice on the wall: the first", "30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", []string{"2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"}},
		{"asked between the two", "30 2 * * *", "Europe/Berlin", "2026-10-25T00:45:00Z", []string{"2026-10-26T01:30:00Z"}},
		{"half an hour left out", "15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", []string{"2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"}},
		{"no midnight", "0 0 * * *", "America/Santiago", "2026-09-05T12:00:00Z", []string{"2026-09-06T04:00:00Z", "2026-09-07T03:00:00Z"}},
		{"no such day", "0 3 * * *", "Pacific/Apia", "2011-12-29T14:00:00Z", []string{"2011-12-30T10:00:00Z", "2011-12-30T13:00:00Z"}},
		{"day or weekday", "0 3 1 * Mon", "UTC", "2026-11-28T00:00:00Z", []string{"2026-11-30T03:00:00Z", "2026-12-01T03:00:00Z"}},
		{"first Sunday", "0 3 * * Sun#1", "UTC", "2026-11-28T00:00:00Z", []string{"2026-12-06T03:00:00Z", "2027-01-03T03:00:00Z"}},
	} {
		tt := table(t, func(p *Policy) { p.Cron, p.Zone = c.cron, c.zone })
		for i, o := range tt.Next("bank", at(t, c.from), len(c.want)) {
			if got := o.At.UTC().Format(time.RFC3339); got != c.want[i] {
				t.Errorf("%s: number %d is %s, want %s", c.name, i, got, c.want[i])
			}
		}
	}
}

func TestBadPolicies(t *testing.T) {
	for want, edit := range map[string]func(*Policy){
		"zone: want one":                                  func(p *Policy) { p.Zone = "" },
		"zone: unknown":                                   func(p *Policy) { p.Zone = "Europe/Atlantis" },
		"not in the expression":                           func(p *Policy) { p.Cron = "CRON_TZ=UTC 0 3 * * *" },
		`cron "0 3 * *"`:                                  func(p *Policy) { p.Cron = "0 3 * *" },
		"at most one an hour (got 00:00 and 00:30)":       func(p *Policy) { p.Cron = "*/30 * * * *" },
		"it never comes":                                  func(p *Policy) { p.Cron = "0 3 30 2 *" },
		"times of the day and not a distance":             func(p *Policy) { p.Cron = "@every 3h" },
		"jitter: want":                                    func(p *Policy) { p.Jitter = 25 * time.Hour },
		"settle: want":                                    func(p *Policy) { p.Settle = -1 },
		"missed: want run-once or skip":                   func(p *Policy) { p.Missed = "twice" },
		"grace: want":                                     func(p *Policy) { p.Grace = time.Second },
		"what is skipped has none":                        func(p *Policy) { p.Missed = Skip },
		`days "Mo": want daily`:                           func(p *Policy) { p.Blocked = []string{"Mo 08:00-09:00"} },
		`time "8:00": want HH:MM`:                         func(p *Policy) { p.Blocked = []string{"Mon 8:00-09:00"} },
		"want two that differ":                            func(p *Policy) { p.Blocked = []string{"Mon 08:00-08:00"} },
		"no hour of the week is left":                     func(p *Policy) { p.Blocked = []string{"daily 00:00-12:00", "daily 12:00-00:00"} },
		"want DAYS FROM-TO":                               func(p *Policy) { p.Blocked = []string{"Mon"} },
		`blocked "Mon 08:00-09:00 Mars": unknown`:         func(p *Policy) { p.Blocked = []string{"Mon 08:00-09:00 Mars"} },
		"want a day as 2026-12-24":                        func(p *Policy) { p.Dates = []string{"24.12."} },
		"the last day comes before":                       func(p *Policy) { p.Dates = []string{"2026-12-24..2026-12-23"} },
		"missed: want run-once or skip (got \"\")\ndates": func(p *Policy) { p.Missed, p.Dates = "", []string{"never"} },
	} {
		if _, err := New(policy(edit)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := New(Default()); err != nil {
		t.Error(err)
	}
}

func TestBlocked(t *testing.T) {
	tt := table(t, func(p *Policy) {
		p.Zone = "Europe/Berlin"
		p.Blocked = []string{"Mon-Fri 08:00-18:00", "Fri-Sat 22:00-04:00", "Sun 00:00-24:00 UTC"}
		p.Dates = []string{"2026-12-24..2026-12-27"}
	})
	for _, c := range []struct{ at, until string }{
		{"2026-11-23T06:59:59Z", ""},
		{"2026-11-23T07:00:00Z", "2026-11-23T17:00:00Z"},
		{"2026-11-23T16:59:59Z", "2026-11-23T17:00:00Z"},
		{"2026-11-23T17:00:00Z", ""},
		{"2026-11-27T21:30:00Z", "2026-11-28T03:00:00Z"},
		{"2026-11-28T02:30:00Z", "2026-11-28T03:00:00Z"},
		{"2026-11-28T21:30:00Z", "2026-11-30T00:00:00Z"}, // one window after the other
		{"2026-12-23T22:59:59Z", ""},
		{"2026-12-23T23:00:00Z", "2026-12-28T00:00:00Z"}, // the dates, then Sunday in UTC, an hour later
		{"2026-03-28T21:30:00Z", "2026-03-30T00:00:00Z"},
	} {
		why, until := tt.blocked(at(t, c.at))
		if got := until.UTC().Format(time.RFC3339); (why == "") != (c.until == "") || why != "" && got != c.until {
			t.Errorf("%s: %q until %s, want %q", c.at, why, got, c.until)
		}
	}
}

// TestBlockedTwice: a window that the wall shows twice is blocked twice.
func TestBlockedTwice(t *testing.T) {
	tt := table(t, func(p *Policy) { p.Blocked = []string{"daily 01:00-02:30 Europe/Berlin"} })
	for second, want := range map[string]string{
		"2026-10-25T00:15:00Z": "2026-10-25T00:30:00Z", "2026-10-25T00:45:00Z": "", "2026-10-25T01:15:00Z": "2026-10-25T01:30:00Z", "2026-10-25T01:30:00Z": "",
	} {
		why, until := tt.blocked(at(t, second))
		if got := until.UTC().Format(time.RFC3339); (why == "") != (want == "") || why != "" && got != want {
			t.Errorf("%s: %q until %s, want %q", second, why, got, want)
		}
	}
}

// TestJitter: it depends on the service and the occurrence, and on nothing else.
func TestJitter(t *testing.T) {
	tt := table(t, func(p *Policy) { p.Jitter = 4 * time.Hour })
	now, seen := at(t, "2026-11-22T12:00:00Z"), map[time.Duration]bool{}
	for i := range 20 {
		for _, o := range tt.Next(fmt.Sprint("service", i), now, 3) {
			j := o.Due.Sub(o.At)
			if j < 0 || j >= 4*time.Hour || j%time.Second != 0 || tt.jitter(fmt.Sprint("service", i), o.At) != j {
				t.Fatalf("jitter %s", j)
			}
			seen[j] = true
		}
	}
	if len(seen) < 50 {
		t.Errorf("%d values in 60 draws", len(seen))
	}
}
