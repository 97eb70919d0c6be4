package judge

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var start = time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC)

// ledger are drills of one service, a day apart: passes, of which the last five are
// slower, then one that was refused and one that was interrupted.
func ledger() []Run {
	var runs []Run
	for i := range 12 {
		r := good()
		r.ID, r.Outcome = "drill "+string(rune('a'+i)), Passed
		r.Stratum = Stratum{"bank", "L1", "shadow-promote", "sync", ClassOf(nil, nil)}
		r.Started = start.AddDate(0, 0, i)
		if i >= 5 {
			r.Phases[0].Took, r.RTA = &ms(1300)[0], &ms(2300)[0]
		}
		if i == 9 {
			r.Outcome = Failed
		}
		if i >= 10 {
			r.Outcome, r.Phases, r.RTA, r.RPA = Refused, nil, nil, nil
		}
		if i == 11 {
			r.Outcome, r.Phases = Interrupted, []Phase{{Name: "apply"}}
		}
		runs = append(runs, r)
	}
	return runs
}

func TestSummarise(t *testing.T) {
	shop := good()
	shop.Stratum.Service, shop.Outcome = "shop", Partial
	runs := append([]Run{shop}, ledger()...)
	got := Summarise(runs, start.AddDate(0, 0, 12), Objectives{RTO: 10 * time.Second})
	if len(got) != 2 || got[0].Stratum.Service != "bank" || got[1].Stratum.Service != "shop" {
		t.Fatalf("strata: %+v", got)
	}
	var text strings.Builder
	for _, s := range got {
		if err := s.WriteText(&text); err != nil {
			t.Fatal(err)
		}
	}
	want := `bank L1 shadow-promote, mode sync, backlog unknown
  drills:     9 passed, 1 failed, 1 interrupted, 1 refused
  last pass:  2026-11-09T10:00:00Z, 4.0 days ago
  RTA:        newest 2.3s, median 2.15s, p95 2.3s, longest 2.3s of 10; RTO 10s
  proven:     60.5 % of such recoveries pass, by 9 of 10 drills, with a confidence of 95 %; 36 more in a row prove 90 %
  PHASE   TOOK     NEWEST    BEFORE   RATIO    P        TREND
  apply   1.3s     1.3s (5)  1s (5)   1.3      0.00397  slower
  detect  unknown  unknown   unknown  unknown  unknown  absent
  total   2.3s     2.3s (5)  2s (5)   1.15     0.00397  slower
shop  , mode , backlog 
  drills:     1 partial
  last pass:  never
  RTA:        newest 2s, median 2s, p95 2s, longest 2s of 1; RTO 10s
  proven:     nothing: no drill has passed or failed; 29 more in a row prove 90 %
  PHASE   TOOK     NEWEST   BEFORE   RATIO    P        TREND
  apply   1s       1s (1)   unknown  unknown  unknown  too few
  detect  unknown  unknown  unknown  unknown  unknown  absent
  total   2s       2s (1)   unknown  unknown  unknown  too few
`
	if diff := cmp.Diff(want, text.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What no drill has measured is unknown, in text and in JSON.
func TestSummariseNothing(t *testing.T) {
	if got := Summarise(nil, start, Objectives{}); got != nil {
		t.Errorf("of no run: %+v", got)
	}
	runs := ledger()
	got := Summarise(runs[10:], start, Objectives{})[0]
	raw, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"stratum":{"service":"bank","level":"L1","scenario":"shadow-promote","mode":"sync","backlog":"unknown"},"drills":2,` +
		`"outcomes":[{"outcome":"interrupted","drills":1},{"outcome":"refused","drills":1}],"last_pass":null,"since_pass_ns":null,` +
		`"rta":{"rto_ns":null,"drills":0,"newest_ns":null,"p50_ns":null,"p95_ns":null,"max_ns":null},"newest":"","compared":[],` +
		`"proof":{"passes":0,"misses":0,"uncounted":2,"confidence":0.95,"percentile":null,"next":0.9,"next_passes":29}}`
	if string(raw) != want {
		t.Errorf("got  %s\nwant %s", raw, want)
	}
	var text bytes.Buffer
	if err := got.WriteText(&text); err != nil || !strings.Contains(text.String(), "not measured yet") || strings.Contains(text.String(), "PHASE") {
		t.Errorf("%v\n%s", err, &text)
	}
	ahead := Summarise(runs[:1], start.Add(-time.Hour), Objectives{})[0]
	if ahead.SincePass != nil || !strings.Contains(ahead.lastPass(), "look at the clocks") {
		t.Errorf("a pass in the future: %s", ahead.lastPass())
	}
}

// The percentile of the times that are there, no less than 95 % of them.
func TestTimesOf(t *testing.T) {
	for n, want := range map[int]int{1: 1, 2: 2, 19: 19, 20: 19, 21: 20, 40: 38, 100: 95} {
		var rtas []time.Duration
		for i := range n {
			rtas = append(rtas, time.Duration(n-i))
		}
		if got := timesOf(rtas, Objectives{}); *got.P95 != time.Duration(want) || *got.Newest != 1 || *got.Max != time.Duration(n) {
			t.Errorf("of %d: %s", n, got)
		}
	}
}
