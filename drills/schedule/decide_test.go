package schedule

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tidegate/tidegate/internal/racetest"
)

// weekly is on Sundays at three; 2026-11-22 is one.
const weekly = "0 3 * * Sun"

func TestDecide(t *testing.T) {
	sunday := at(t, "2026-11-22T03:00:00Z")
	last := State{Since: sunday.AddDate(0, 0, -30), Taken: sunday.AddDate(0, 0, -7)}
	with := func(edit func(*State)) State {
		s := last
		edit(&s)
		return s
	}
	for _, c := range []struct {
		name    string
		edit    func(*Policy)
		state   State
		facts   Facts
		now     time.Time
		begin   bool
		why     string // part of it
		missed  string // part of it
		overdue bool
	}{
		{name: "not yet", state: last, facts: Facts{Ran: sunday.AddDate(0, 0, -7)}, now: sunday.Add(-time.Second), why: "none is due before 2026-11-22T03:00:00Z"},
		{name: "due", state: last, facts: Facts{Ran: sunday.AddDate(0, 0, -7)}, now: sunday, begin: true},
		{name: "the one before was missed, too", state: last, now: sunday, begin: true, overdue: true},
		{name: "late, within the grace", state: last, facts: Facts{Ran: sunday.AddDate(0, 0, -7)}, now: sunday.Add(23 * time.Hour), begin: true},
		{name: "missed", state: last, now: sunday.Add(24 * time.Hour), why: "none is due before 2026-11-29", missed: "no worker", overdue: true},
		{name: "missed long ago", state: last, now: sunday.Add(6 * 24 * time.Hour), why: "none is due", missed: "no worker", overdue: true},
		{name: "skipped", edit: func(p *Policy) { p.Missed, p.Grace = Skip, 0 }, state: last, now: sunday.Add(punctual), why: "none is due", missed: "no worker", overdue: true},
		{name: "punctual", edit: func(p *Policy) { p.Missed, p.Grace = Skip, 0 }, state: last, facts: Facts{Ran: sunday.AddDate(0, 0, -7)}, now: sunday.Add(punctual - 1), begin: true},
		{name: "begun already", state: with(func(s *State) { s.Taken = sunday }), facts: Facts{Ran: sunday.AddDate(0, 0, -7)}, now: sunday.Add(time.Hour), why: "none is due"},
		{name: "one by hand since", state: last, facts: Facts{Ran: sunday.Add(time.Minute)}, now: sunday.Add(time.Hour), why: "none is due"},
		{name: "runs", state: with(func(s *State) { s.Taken = sunday }), facts: Facts{Running: true}, now: sunday.Add(30 * time.Hour), why: "a drill runs", overdue: true},
		{name: "one that ran in a future", state: last, facts: Facts{Ran: sunday.AddDate(1, 0, 0)}, now: sunday.Add(time.Hour), begin: true, overdue: true},
		{name: "to be tried again in a future", state: State{Since: last.Since, Taken: sunday, Tries: 1, Again: sunday.AddDate(1, 0, 0)}, facts: Facts{Ran: sunday.AddDate(0, 0, -7)}, now: sunday, why: "comes at 2026-11-22T03:15:00Z"},
		{name: "refused", state: last, facts: Facts{Against: []string{"frozen", "paused"}, Ran: sunday.AddDate(0, 0, -7)}, now: sunday, why: "frozen; paused"},
		{name: "refused until it was missed", state: last, facts: Facts{Against: []string{"frozen"}}, now: sunday.Add(25 * time.Hour), why: "none is due", missed: "frozen", overdue: true},
		{name: "blocked", edit: func(p *Policy) { p.Blocked = []string{"Sun 02:00-05:00"} }, state: last, facts: Facts{Ran: sunday.AddDate(0, 0, -7)}, now: sunday, why: `blocked by "Sun 02:00-05:00" until 2026-11-22T05:00:00Z`},
		{name: "after the window", edit: func(p *Policy) { p.Blocked = []string{"Sun 02:00-05:00"} }, state: last, facts: Facts{Ran: sunday.AddDate(0, 0, -7)}, now: sunday.Add(2 * time.Hour), begin: true},
		{name: "off", edit: func(p *Policy) { p.Off = true }, state: last, now: sunday, why: "off"},
		{name: "new service", now: sunday.Add(time.Hour), why: "none is due before 2026-11-29"},
		{name: "service from after it", state: State{Since: sunday.Add(time.Minute)}, now: sunday.Add(time.Hour), why: "none is due before 2026-11-29"},
		{name: "to be tried again, soon", state: State{Since: last.Since, Taken: sunday}.Begun(sunday).Undone(sunday), facts: Facts{Ran: sunday.AddDate(0, 0, -7)}, now: sunday.Add(pause - 1), why: "did not come to its end"},
		{name: "tried again", state: State{Since: last.Since, Taken: sunday}.Begun(sunday).Undone(sunday), facts: Facts{Ran: sunday.AddDate(0, 0, -7)}, now: sunday.Add(pause), begin: true},
		{name: "tried often enough", state: State{Since: last.Since, Taken: sunday, Tries: 2}.Begun(sunday).Undone(sunday), facts: Facts{Ran: sunday.AddDate(0, 0, -7)}, now: sunday.Add(pause), why: "none is due"},
		{name: "a newer one goes first", state: State{Since: last.Since, Taken: sunday.AddDate(0, 0, -7), Tries: 1, Again: sunday.Add(time.Hour)}, facts: Facts{Ran: sunday.AddDate(0, 0, -7)}, now: sunday, begin: true},
	} {
		tt := table(t, func(p *Policy) {
			p.Cron = weekly
			if c.edit != nil {
				c.edit(p)
			}
		})
		d := tt.Decide("bank", c.state, c.facts, c.now)
		if d.Begin != c.begin || !strings.Contains(d.Why, c.why) || (d.Why == "") != c.begin || d.Overdue != c.overdue {
			t.Errorf("%s: begin %v, why %q, overdue %v; want %v, %q, %v", c.name, d.Begin, d.Why, d.Overdue, c.begin, c.why, c.overdue)
		}
		if (d.Missed == "") != (c.missed == "") || !strings.Contains(d.Missed, c.missed) {
			t.Errorf("%s: missed %q, want %q", c.name, d.Missed, c.missed)
		}
		if c.missed != "" {
			if again := tt.Decide("bank", d.State, c.facts, c.now.Add(time.Second)); again.Missed != "" || again.Begin || again.State != d.State {
				t.Errorf("%s: once on record: %+v", c.name, again)
			}
		}
	}
}

// TestWindowDuringJitter: an occurrence whose jitter leads into a blocked window waits for
// the window's end, and is missed when that lies behind its grace.
func TestWindowDuringJitter(t *testing.T) {
	sunday := at(t, "2026-11-22T03:00:00Z")
	s := State{Since: sunday.AddDate(0, 0, -30), Taken: sunday.AddDate(0, 0, -7)}
	edit := func(p *Policy) { p.Jitter, p.Grace, p.Blocked = 4*time.Hour, time.Hour, []string{"Sun 03:15-08:30"} }
	tt := table(t, edit)
	o := tt.Next("bank", sunday.Add(-time.Second), 1)[0]
	if why, until := tt.Blocked(o); why == "" || until.Sub(o.Due) < 0 {
		t.Fatalf("due %s: %q until %s", o.Due, why, until)
	}
	if d := tt.Decide("bank", s, Facts{}, o.Due.Add(-time.Second)); d.Begin || !d.Next.At.Equal(sunday) {
		t.Fatalf("before its jitter is over: %+v", d)
	}
	if d := tt.Decide("bank", s, Facts{}, o.Due); d.Begin || !strings.Contains(d.Why, "blocked") {
		t.Fatalf("in the window: %+v", d)
	}
	if d := tt.Decide("bank", s, Facts{}, o.Until); !strings.Contains(d.Missed, "blocked") {
		t.Fatalf("grace over in the window: %+v", d)
	}
}

// TestClockJumps: whatever the clock does, an occurrence is begun once, and a clock that
// was ahead does not keep drills away for as long as it was.
func TestClockJumps(t *testing.T) {
	tt := table(t, func(p *Policy) { p.Cron = weekly })
	sunday := at(t, "2026-11-22T03:00:00Z")
	s := State{Since: sunday.AddDate(0, 0, -30), Taken: sunday.AddDate(0, 0, -7)}
	ran := Facts{Ran: sunday.AddDate(0, 0, -7)}
	ahead := tt.Decide("bank", s, ran, sunday.Add(time.Minute)) // the clock is a day ahead
	if !ahead.Begin {
		t.Fatal(ahead)
	}
	s = ahead.State.Begun(ahead.At.At)
	for _, back := range []time.Duration{time.Hour, 24 * time.Hour, 6 * 24 * time.Hour} {
		if d := tt.Decide("bank", s, ran, sunday.Add(-back)); d.Begin || d.Missed != "" || d.State != s {
			t.Errorf("set back by %s: %+v", back, d)
		}
	}
	if d := tt.Decide("bank", s, ran, sunday.Add(time.Hour)); d.Begin {
		t.Errorf("the same again: %+v", d)
	}
	far := State{Since: sunday.AddDate(5, 0, 0), Taken: sunday.AddDate(5, 0, 0)} // written by a clock years ahead
	d := tt.Decide("bank", far, Facts{}, sunday.Add(time.Hour))
	if d.Begin || d.State.Taken.After(sunday.Add(time.Hour)) || d.State.Since.After(sunday.Add(time.Hour)) {
		t.Fatalf("years back: %+v", d)
	}
	if d = tt.Decide("bank", d.State, Facts{}, sunday.AddDate(0, 0, 7)); !d.Begin {
		t.Errorf("a week after it was put right: %+v", d)
	}
}

// TestOnce walks a worker that asks now and then through a year: every occurrence is begun
// once or missed once, in order, none early, and none in a blocked window.
func TestOnce(t *testing.T) {
	if racetest.Apart(t) {
		return
	}
	rapid.Check(t, func(t *rapid.T) {
		p := policy(func(p *Policy) {
			p.Cron = rapid.SampledFrom([]string{"30 2 * * *", "0 */6 * * *", weekly, "0 0 1 * *"}).Draw(t, "cron")
			p.Zone = rapid.SampledFrom(zones).Draw(t, "zone")
			p.Jitter = time.Duration(rapid.IntRange(0, 8).Draw(t, "jitter")) * 20 * time.Minute
			p.Grace = time.Duration(rapid.IntRange(1, 30).Draw(t, "grace")) * time.Hour
			p.Blocked = rapid.SampledFrom([][]string{nil, {"Mon-Fri 08:00-18:00"}, {"Sat 20:00-06:00", "daily 01:00-02:15"}}).Draw(t, "blocked")
		})
		tt, err := New(p)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Date(2026, time.Month(rapid.IntRange(1, 12).Draw(t, "month")), 20, 0, 0, 0, 0, time.UTC)
		s, handled := State{Since: now}, time.Time{}
		for range 40 {
			now = now.Add(time.Duration(rapid.IntRange(1, 40*60).Draw(t, "minutes")) * time.Minute)
			d := tt.Decide("bank", s, Facts{}, now)
			if d.Next.Due.Before(now) || d.State.Since != s.Since {
				t.Fatalf("at %s: %+v", now, d)
			}
			s = d.State
			if d.Missed != "" {
				if !s.Taken.After(handled) {
					t.Fatalf("%s missed after %s", s.Taken, handled)
				}
				handled = s.Taken
			}
			if !d.Begin {
				continue
			}
			if why, _ := tt.blocked(now); why != "" || now.Before(d.At.Due) || !now.Before(d.At.Until) || !d.At.At.After(handled) {
				t.Fatalf("at %s begins %+v, blocked by %q, handled %s", now, d.At, why, handled)
			}
			s, handled = s.Begun(d.At.At), d.At.At
			if d := tt.Decide("bank", s, Facts{}, now); d.Begin {
				t.Fatalf("at %s begins %s again", now, d.At.At)
			}
		}
	})
}
