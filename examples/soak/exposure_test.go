package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate"
)

const scraped = `# HELP tidegate_agent_exposure_records Records released and not durable at the DR site.
# TYPE tidegate_agent_exposure_records gauge
tidegate_agent_exposure_records{service="ledger",stream="eur"} 17
tidegate_agent_exposure_records{service="ledger",stream="usd"} 3
tidegate_agent_exposure_bytes{service="ledger",stream="eur"} 1.5e+03
tidegate_agent_loss_window_seconds{service="ledger",stream="eur"} 0.25
tidegate_agent_exposure_bytes{service="ledger",stream="usd"} 300
tidegate_agent_exposure_record_seconds_total{service="ledger",stream="eur"} 99
process_open_fds 12
`

func TestParseExposure(t *testing.T) {
	got, err := parseExposure(strings.NewReader(scraped))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]exposure{
		"eur": {known: true, records: 17, bytes: 1500, window: 0.25},
		// The window is absent, so nothing is known: an absent number is never 0.
		"usd": {records: 3, bytes: 300},
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(exposure{})); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{
		"tidegate_agent_exposure_records{service=\"ledger\",stream=\"eur\"} many\n",
		"tidegate_agent_exposure_records{service=\"ledger\"} 1\n",
	} {
		if _, err := parseExposure(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestWithin(t *testing.T) {
	b := tidegate.Bounds{Records: 10, Bytes: 100, Window: time.Second}
	for _, c := range []struct {
		e    exposure
		want string
	}{
		{exposure{known: true, records: 10, bytes: 100, window: 1}, ""},
		{exposure{records: 11, bytes: 101, window: 2}, ""}, // not known
		{exposure{known: true, records: 11}, "11 records"},
		{exposure{known: true, bytes: 101}, "101 bytes"},
		{exposure{known: true, window: 1.001}, "loss window"},
	} {
		if got := c.e.within(b); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%+v: %q, want %q", c.e, got, c.want)
		}
	}
	if (exposure{known: true, records: 1}).within(tidegate.Bounds{}) == "" {
		t.Error("sync lets a record be exposed")
	}
}

func TestWitnessKeepsTheWorst(t *testing.T) {
	w := newWitness(tidegate.Bounds{Records: 5, Bytes: 5, Window: time.Second})
	w.see("p1", "eur", exposure{known: true, records: 4, window: 0.5})
	w.see("p1", "usd", exposure{known: true, records: 1, bytes: 5})
	w.see("p1", "usd", exposure{records: 100})
	most, samples, passed := w.seen()
	if most != (exposure{known: true, records: 4, bytes: 5, window: 0.5}) || samples != 2 || passed != nil {
		t.Errorf("%+v, %d samples, %v", most, samples, passed)
	}
	for range 2 * passedMax {
		w.see("p2", "eur", exposure{known: true, records: 6})
	}
	if _, _, passed = w.seen(); len(passed) != passedMax || !strings.Contains(passed[0], "p2, stream eur: 6 records") {
		t.Errorf("%q", passed)
	}
}
