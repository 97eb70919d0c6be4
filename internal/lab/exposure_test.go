package lab

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
	want := map[string]Exposure{
		"eur": {Known: true, Records: 17, Bytes: 1500, Window: 0.25},
		// The window is absent, so nothing is Known: an absent number is never 0.
		"usd": {Records: 3, Bytes: 300},
	}
	if d := cmp.Diff(want, got); d != "" {
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
		e    Exposure
		want string
	}{
		{Exposure{Known: true, Records: 10, Bytes: 100, Window: 1}, ""},
		{Exposure{Records: 11, Bytes: 101, Window: 2}, ""}, // not known
		{Exposure{Known: true, Records: 11}, "11 records"},
		{Exposure{Known: true, Bytes: 101}, "101 bytes"},
		{Exposure{Known: true, Window: 1.001}, "loss window"},
	} {
		if got := c.e.within(b); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%+v: %q, want %q", c.e, got, c.want)
		}
	}
	if (Exposure{Known: true, Records: 1}).within(tidegate.Bounds{}) == "" {
		t.Error("sync lets a record be exposed")
	}
}

func TestWitnessKeepsTheWorst(t *testing.T) {
	w := NewWitness(tidegate.Bounds{Records: 5, Bytes: 5, Window: time.Second})
	w.see("p1", "eur", Exposure{Known: true, Records: 4, Window: 0.5})
	w.see("p1", "usd", Exposure{Known: true, Records: 1, Bytes: 5})
	w.see("p1", "usd", Exposure{Records: 100})
	most, samples, passed := w.Seen()
	if most != (Exposure{Known: true, Records: 4, Bytes: 5, Window: 0.5}) || samples != 2 || passed != nil {
		t.Errorf("%+v, %d samples, %v", most, samples, passed)
	}
	for range 2 * passedMax {
		w.see("p2", "eur", Exposure{Known: true, Records: 6})
	}
	if _, _, passed = w.Seen(); len(passed) != passedMax || !strings.Contains(passed[0], "p2, stream eur: 6 records") {
		t.Errorf("%q", passed)
	}
}
