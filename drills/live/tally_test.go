package live

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/probe"
)

// at is a moment of so many milliseconds.
func at(ms int) tidegate.Instant { return tidegate.Instant(time.Duration(ms) * time.Millisecond) }

// tallied takes attempts as began, ended pairs; number is the time of the end, and ended
// below 0 one that was not accepted then.
func tallied(name string, spans ...[2]int) (t Tally) {
	for _, s := range spans {
		a := Attempt{Canary: name, Service: "bank", Number: fmt.Sprint(s[1]), Began: at(s[0]), Ended: at(s[1])}
		if s[1] < 0 {
			a.Ended, a.Failed = at(-s[1]), "refused"
		}
		t.Take(a)
	}
	return t
}

// TestServed: only what was begun when the new epoch was active shows that it serves.
func TestServed(t *testing.T) {
	t.Parallel()
	tl := tallied("eur", [2]int{10, 20}, [2]int{30, 500}, [2]int{90, -120}, [2]int{100, 210}, [2]int{150, 200})
	for _, c := range []struct {
		since int
		want  int
	}{{0, 20}, {25, 200}, {100, 200}, {151, 0}} {
		got, ok := tl.Served([]string{"eur"}, at(c.since))
		if ok != (c.want > 0) || got != at(c.want) {
			t.Errorf("since %d: %d, %t, want %d", c.since, got, ok, c.want)
		}
	}
	tl.Take(Attempt{Canary: "usd", Service: "bank", Number: "x", Began: at(110), Ended: at(300)})
	if got, ok := tl.Served([]string{"eur", "usd"}, at(100)); !ok || got != at(300) {
		t.Errorf("the last of them: %d, %t", got, ok)
	}
	if _, ok := tl.Served([]string{"eur", "gbp"}, 0); ok {
		t.Error("one was never accepted")
	}
	if _, ok := tl.Served(nil, 0); ok {
		t.Error("nobody was asked")
	}
}

func TestPause(t *testing.T) {
	t.Parallel()
	tl := tallied("eur", [2]int{0, 10}, [2]int{0, 20}, [2]int{25, -40}, [2]int{90, 100}, [2]int{100, 110})
	for _, c := range []struct{ from, until, want int }{
		{15, 120, 80}, // from 20 to 100
		{0, 20, 10},
		{50, 120, 80}, // it had begun before
		{105, 300, 190},
		{120, 130, 10},
	} {
		if got, ok := tl.Pause([]string{"eur"}, at(c.from), at(c.until)); !ok || got != time.Duration(at(c.want)) {
			t.Errorf("from %d until %d: %s, %t, want %d ms", c.from, c.until, got, ok, c.want)
		}
	}
	if _, ok := tl.Pause([]string{"eur", "usd"}, 0, at(100)); ok {
		t.Error("one was never accepted: unknown")
	}
	if newest, ok := tl.Newest([]string{"eur"}); !ok || newest != at(110) || tl.LastFailure() != "refused" {
		t.Errorf("newest %d, %t, %q", newest, ok, tl.LastFailure())
	}
}

// TestTells: a refusal is not taken for a canary that is gone.
func TestTells(t *testing.T) {
	t.Parallel()
	http, command, sql := &probe.Ask{HTTP: &probe.HTTP{Status: 200}}, &probe.Ask{Command: &probe.Command{Exit: 3}}, &probe.Ask{SQL: &probe.SQL{}}
	for _, c := range []struct {
		read *probe.Ask
		got  string
		want bool
	}{
		{http, "200 nothing", true},
		{http, "404 no such account", true},
		{http, "410", true},
		{http, "503 not-active", false},
		{http, "401 who are you", false},
		{http, "301 elsewhere", false},
		{command, "exit 3: none", true},
		{command, "exit 1: connection refused", false},
		{sql, "0", true},
	} {
		if tells(c.read, c.got) != c.want {
			t.Errorf("%s of %+v", c.got, c.read)
		}
	}
}

// TestLost: what is missing is counted by number and by span, and what nobody answered for
// is neither there nor missing.
func TestLost(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		found []Found // of those acknowledged at 10, 20, 30, 40, 50
		want  Lost
	}{
		"nothing":    {[]Found{There, There, There, There, There}, Lost{Asked: 5}},
		"the last":   {[]Found{There, There, There, There, Missing}, Lost{Asked: 5, Records: 1, Span: time.Duration(at(10)), First: "50"}},
		"two":        {[]Found{There, There, There, Missing, Missing}, Lost{Asked: 5, Records: 2, Span: time.Duration(at(20)), Inner: time.Duration(at(10)), First: "40"}},
		"in between": {[]Found{There, Missing, There, There, Missing}, Lost{Asked: 5, Records: 2, Span: time.Duration(at(40)), Inner: time.Duration(at(30)), First: "20"}},
		"all":        {[]Found{Missing, Missing, Missing, Missing, Missing}, Lost{Asked: 5, Records: 5, Span: time.Duration(at(45)), Inner: time.Duration(at(40)), First: "10"}},
		"no answer":  {[]Found{There, Unknown, There, There, There}, Lost{Asked: 5, Unknown: 1}},
	} {
		tl := tallied("eur", [2]int{5, 10}, [2]int{12, -13}, [2]int{15, 20}, [2]int{25, 30}, [2]int{35, 40}, [2]int{45, 50})
		asked := tl.Acknowledged()
		if len(asked) != 5 || slices.ContainsFunc(asked, func(a Attempt) bool { return a.Failed != "" }) {
			t.Fatalf("%v", asked)
		}
		for i, f := range c.found {
			tl.Look(asked[i].Number, f)
		}
		if got := tl.Lost("bank"); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
		if got := tl.Lost("till"); got != (Lost{}) || len(tl.Acknowledged()) != 0 {
			t.Errorf("%s: of another service %+v", name, got)
		}
	}
}
