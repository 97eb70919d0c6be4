package probe

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/config"
)

// pattern is one out of a file.
func pattern(t *testing.T, text string) Pattern {
	t.Helper()
	var p Pattern
	if err := p.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return p
}

// shop is a service that gives out a token, and orders to who has it.
func shop(t *testing.T, written time.Time) (*Asker, *httptest.Server) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, `{"token":"s3cr3t"}`) })
	mux.HandleFunc("GET /orders/{token}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("token") != "s3cr3t" {
			http.Error(w, "no such token: "+r.PathValue("token"), http.StatusForbidden)
			return
		}
		_, _ = fmt.Fprintf(w, `{"order":7,"by":"s3cr3t","at":%q}`, written.Format(time.RFC3339Nano))
	})
	mux.HandleFunc("GET /cut/{token}", func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) })
	srv := httptest.NewServer(mux)
	clk := clock.NewFake(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	k := New(clk, somewhere{"{address:http}": of(srv)}, nil)
	t.Cleanup(func() {
		k.Close()
		srv.Close()
	})
	return k, srv
}

// TestJourney: what a step saves the next one has; what was saved stands in no record; the
// first step that is wrong is named.
func TestJourney(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	k, _ := shop(t, now.Add(-1500*time.Millisecond))
	login := Step{Ask: Ask{HTTP: &HTTP{Method: http.MethodPost, URL: "http://{address:http}/login"}}, Save: map[string]Pattern{"token": pattern(t, `"token":"([^"]*)"`)}}
	read := func(contains string, within time.Duration) Step {
		return Step{Ask: Ask{HTTP: &HTTP{URL: "http://{address:http}/orders/{saved:token}", Contains: contains}}, Age: &Age{Time: pattern(t, `"at":"([^"]*)"`), Within: within}}
	}
	for name, tc := range map[string]struct {
		steps []Step
		got   string
		why   string // empty: it passes
	}{
		"goes well":    {[]Step{login, read("7", 2*time.Second)}, `200 {"token":"{saved:token}"}; 200 {"order":7,"by":"{saved:token}","at":"2026-01-02T03:04:03.5Z"} (1.5s old)`, ""},
		"stale":        {[]Step{login, read("7", time.Second)}, "(1.5s old)", "step 2 of 2: it is 1.5s old, and may be 1s"},
		"wrong answer": {[]Step{login, read("8", time.Minute)}, `"by":"{saved:token}"`, "step 2 of 2: got 200"},
		"not saved":    {[]Step{{Ask: login.Ask}, read("7", time.Minute), login}, "404", "step 2 of 3: got 404"},
		"cannot save":  {[]Step{{Ask: login.Ask, Save: map[string]Pattern{"token": pattern(t, "key=(.*)")}}, read("7", time.Minute)}, "200 ", "step 1 of 2: save token: nothing in the answer is like key=(.*)"},
		"no answer":    {[]Step{login, {Ask: Ask{HTTP: &HTTP{URL: "http://{address:http}/cut/{saved:token}"}}}}, "", "/cut/{saved:token}"},
		"other status": {[]Step{{Ask: Ask{HTTP: &HTTP{Method: http.MethodPost, URL: "http://{address:http}/login", Status: 201}}, Save: login.Save}}, "{saved:token}", "got 200"},
		"two values":   {[]Step{{Ask: login.Ask, Save: map[string]Pattern{"token": pattern(t, `"token":"([^"]*)"`), "begin": pattern(t, `"token":"(..)`), "id": pattern(t, "id=(.*)")}}}, "{saved:token}", "save id: nothing"},
		"not plain":    {[]Step{{Ask: login.Ask, Save: map[string]Pattern{"all": pattern(t, `(.*)`)}}}, "{saved:all}", "save all: the value has other characters"},
		"age of all":   {[]Step{login, {Ask: read("", 1).Ask, Age: &Age{Within: 1}}}, "{saved:token}", "want a time as RFC 3339"},
		"no time":      {[]Step{login, {Ask: read("", 1).Ask, Age: &Age{Time: pattern(t, `"order":([a-z]*)`), Within: 1}}}, "200 ", "step 2 of 2: want a time"},
	} {
		j := Journey{Name: "order", Steps: tc.steps}.WithDefaults()
		c := k.Journey(t.Context(), &j)
		if (c.Outcome == evidence.CheckPassed) != (tc.why == "") || !strings.Contains(c.Why, tc.why) || c.Got == nil || !strings.Contains(*c.Got, tc.got) || strings.Contains(*c.Got+c.Why, "s3cr3t") != strings.HasSuffix(name, " save") && name != "not saved" || c.Took == nil {
			t.Errorf("%s: %+v, got %v", name, c, *c.Got)
		}
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	j := Journey{Steps: []Step{login}}.WithDefaults()
	if c := k.Journey(over, &j); c.Outcome != evidence.CheckUnknown {
		t.Errorf("called off: %+v", c)
	}
}

// ticking goes on by a second each time that it is read.
type ticking struct{ *clock.Fake }

func (c ticking) Boot() (now tidegate.Instant) {
	c.Advance(time.Second)
	return c.Fake.Boot()
}

// TestJourneyAsAWhole: steps that are quick enough each may take too long together.
func TestJourneyAsAWhole(t *testing.T) {
	k, _ := shop(t, time.Now())
	k.clk = ticking{clock.NewFake(time.Now())}
	j := Journey{Within: 500 * time.Millisecond, Steps: []Step{{Ask: Ask{Command: &Command{Run: []string{"/bin/true"}}}}}}.WithDefaults()
	if c := k.Journey(t.Context(), &j); c.Outcome != evidence.CheckFailed || c.Why != "it took 1s, and may take 500ms" || *c.Took != time.Second {
		t.Errorf("%+v", c)
	}
}

// TestRecord: how old the newest record was at the cut, by whichever form of a time.
func TestRecord(t *testing.T) {
	cut := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	k, _ := shop(t, cut)
	for said, want := range map[string]struct {
		cut     time.Time
		outcome evidence.CheckOutcome
		text    string
	}{
		"2026-01-02T04:04:03+01:00":  {cut, evidence.CheckPassed, "2s old at the cut"},
		"2026-01-02 03:04:04.75+00":  {cut, evidence.CheckPassed, "250ms old at the cut"},
		"2026-01-02 08:34:04+05:30":  {cut, evidence.CheckPassed, "1s old at the cut"},
		"1767323044.5":               {cut, evidence.CheckPassed, "500ms old at the cut"},
		"2026-01-02T03:04:05.05Z":    {cut, evidence.CheckPassed, "0s old at the cut"},
		"2026-01-02T03:04:06Z":       {cut, evidence.CheckUnknown, "newer than that by 1s"},
		"2026-01-02T03:04:01Z":       {cut, evidence.CheckFailed, "it is 4s old, and may be 3s"},
		"2026-01-02T03:05:01Z":       {cut, evidence.CheckUnknown, "newer than that by 56s"},
		"1767323044500":              {cut, evidence.CheckFailed, "want a time"},
		"null":                       {cut, evidence.CheckFailed, "want a time"},
		"2026-01-02T03:04:05.0001Z ": {time.Time{}, evidence.CheckUnknown, "not known"},
	} {
		r := Record{Name: "newest", Ask: Ask{Command: &Command{Run: []string{"/bin/echo", said}}}, Age: Age{Within: 3 * time.Second}}.WithDefaults()
		c := k.Record(t.Context(), &r, want.cut)
		got := ""
		if c.Got != nil {
			got = *c.Got
		}
		if c.Outcome != want.outcome || !strings.Contains(got+c.Why, want.text) {
			t.Errorf("%s: %+v, got %q", said, c, got)
		}
	}
}

type journeys struct {
	Journeys []Journey `yaml:"journeys"`
	Records  []Record  `yaml:"records"`
}

func (f journeys) SetDefaults() journeys {
	for i, j := range f.Journeys {
		f.Journeys[i] = j.WithDefaults()
	}
	for i, r := range f.Records {
		f.Records[i] = r.WithDefaults()
	}
	return f
}

func (f journeys) Validate() error {
	return config.Under("x", func() error {
		for i := range f.Journeys {
			if err := clones.Journey(&f.Journeys[i]); err != nil {
				return err
			}
		}
		for i := range f.Records {
			if err := clones.Record(&f.Records[i]); err != nil {
				return err
			}
		}
		return nil
	}())
}

// TestJourneyOutOfAFile: as operators write it, and each mistake.
func TestJourneyOutOfAFile(t *testing.T) {
	step := `{command: {run: [/bin/echo, "%s"]}, %s}`
	for name, tc := range map[string]struct{ yaml, want string }{
		"right":        {"journeys: [{name: a, within: 3s, steps: [" + fmt.Sprintf(step, "{canary}", `save: {id: "([0-9]+)"}`) + ", " + fmt.Sprintf(step, "{saved:id}", `age: {within: 1s, time: "at (.*)"}`) + "]}]", ""},
		"a record":     {`records: [{name: a, sql: {where: "host={run}", query: SELECT max(at) FROM c}, age: {within: 5s}}]`, ""},
		"no steps":     {"journeys: [{name: a}]", "steps: want at least one"},
		"not saved":    {"journeys: [{name: a, steps: [" + fmt.Sprintf(step, "{saved:id}", `save: {id: "(.)"}`) + "]}]", "steps[0].command.run[1]: want {data}"},
		"no group":     {"journeys: [{name: a, steps: [" + fmt.Sprintf(step, "x", `save: {id: "."}`) + "]}]", "want one group"},
		"no name":      {"journeys: [{name: a, steps: [" + fmt.Sprintf(step, "x", `save: {"I d": "(.)"}`) + "]}]", "save: want a name"},
		"no regexp":    {"journeys: [{name: a, steps: [" + fmt.Sprintf(step, "x", `save: {id: "("}`) + "]}]", "want a regular expression"},
		"no age":       {"journeys: [{name: a, steps: [" + fmt.Sprintf(step, "x", `age: {time: "(.)"}`) + "]}]", "steps[0].age.within"},
		"no record":    {`records: [{name: a, age: {within: 1s}}]`, "want http, command or sql"},
		"no limit":     {`records: [{name: a, command: {run: [/bin/date]}}]`, "age.within"},
		"empty saving": {"journeys: [{name: a, steps: [" + fmt.Sprintf(step, "x", `save: {id: null}`) + "]}]", "save.id: want a regular expression"},
	} {
		_, err := config.Parse[journeys]("drill.yaml", []byte(tc.yaml))
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %s", name, err, tc.want)
		}
	}
}
