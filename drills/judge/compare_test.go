package judge

import (
	"slices"
	"testing"
	"time"
)

// drill is a run with one phase, which took so many milliseconds.
func drill(millis float64) Run {
	return Run{Phases: []Phase{{Name: "apply", Took: &ms(millis)[0]}}}
}

// drills are runs of the one phase; a negative time is a run that did not measure it.
func drills(millis ...float64) []Run {
	var out []Run
	for _, m := range millis {
		r := drill(m)
		r.Phases = append(r.Phases, Phase{Name: "promote", Took: &ms(500)[0]})
		out = append(out, r)
	}
	return out
}

func TestCompare(t *testing.T) {
	around := []float64{1000, 1010, 990, 1020, 980, 1005, 995, 1015, 985, 1000}
	slow := []float64{1200, 1210, 1190, 1220, 1205}
	join := func(parts ...[]float64) []float64 { return slices.Concat(parts...) }
	for name, c := range map[string]struct {
		runs             []float64 // the last is the one that is judged
		baseline, newest int
		tested           bool
		want             Trend
	}{
		"first":                          {around[:1], 0, 1, false, TooFew},
		"3 v 1":                          {around[:4], 3, 1, false, TooFew},
		"3 v 3":                          {join(around[:3], slow[:3]), 5, 1, false, TooFew},
		"seven runs":                     {join(around[:3], slow[:4]), 6, 1, false, TooFew},
		"4 v 4":                          {join(around[:4], slow[:4]), 4, 4, true, Slower},
		"5 v 4":                          {join(around[:5], slow[:4]), 5, 4, true, Slower},
		"5 v 5":                          {join(around[:5], slow), 5, 5, true, Slower},
		"steady":                         {around, 5, 5, true, Steady},
		"faster":                         {join(slow, around[:5]), 5, 5, true, Steady},
		"below a tenth":                  {join(around[:5], []float64{1080, 1090, 1085, 1095, 1075}), 5, 5, true, Steady},
		"one slow run of five":           {join(around, []float64{1001, 999, 1002, 998, 1900}), 10, 5, true, Steady},
		"an outlier in the baseline":     {join([]float64{9000}, around[:9], slow), 10, 5, true, Slower},
		"baseline of twenty":             {join([]float64{9000, 9000, 9000}, around, around, slow), 20, 5, true, Slower},
		"newest measured three of five":  {join(around, []float64{1200, -1, -1, 1210, 1205}), 10, 3, true, Slower},
		"3 of 5 against nine":            {join(around[:9], []float64{1200, -1, -1, 1210, 1205}), 9, 3, false, TooFew},
		"not measured now":               {join(around, slow, []float64{-1}), 0, 0, false, NotKnown},
		"doubled":                        {join(around[:4], []float64{2010}), 4, 1, false, Doubled},
		"not quite doubled":              {join(around[:4], []float64{1980}), 4, 1, false, TooFew},
		"doubled against three":          {join(around[:3], []float64{5000}), 3, 1, false, TooFew},
		"doubled in many":                {join(around, around, []float64{2100}), 16, 5, true, Doubled},
		"doubled within the noise":       {[]float64{5, 5, 5, 5, 30}, 4, 1, false, TooFew},
		"doubled beyond it":              {[]float64{5, 5, 5, 5, 36}, 4, 1, false, Doubled},
		"a tenth more, within the noise": {[]float64{100, 101, 99, 100, 98, 121, 122, 123, 124, 125}, 5, 5, true, Steady},
		"beyond it":                      {[]float64{100, 101, 99, 100, 98, 131, 132, 133, 134, 135}, 5, 5, true, Slower},
		"from nothing":                   {[]float64{0, 0, 0, 0, 0, 40, 40, 40, 40, 40}, 5, 5, true, Doubled},
	} {
		t.Run(name, func(t *testing.T) {
			runs := drills(c.runs...)
			got := Compare(runs[len(runs)-1], runs[:len(runs)-1])[0]
			if got.Trend != c.want || got.Baseline != c.baseline || got.Newest != c.newest || (got.P != nil) != c.tested {
				t.Errorf("%s of %d v %d (p %v), want %s of %d v %d", got.Trend, got.Baseline, got.Newest, got.P, c.want, c.baseline, c.newest)
			}
		})
	}
}

func TestCompareFigures(t *testing.T) {
	runs := drills(1000, 1010, 990, 1020, 980, 1200, 1210, 1190, 1220, 1205)
	got := Compare(runs[9], runs[:9])
	if len(got) != 3 || got[0].Phase != "apply" || got[1].Phase != "promote" || got[2].Phase != Total {
		t.Fatalf("phases: %+v", got)
	}
	apply := got[0]
	if *apply.Took != 1205*time.Millisecond || *apply.BaselineMedian != time.Second || *apply.NewestMedian != 1205*time.Millisecond ||
		*apply.Shift != 205*time.Millisecond || *apply.Ratio != 1.205 || *apply.P != 1./252 || *apply.Limit != .025 {
		t.Errorf("apply: %s", apply.sentence())
	}
	if p := got[1]; *p.P != 1 || p.Trend != Steady || *p.Ratio != 1 {
		t.Errorf("promote: %+v", p)
	}
	if got[2].Trend != NotKnown {
		t.Errorf("a total that nobody measured is %s", got[2].Trend)
	}
}

// What a poll can not see is no change.
func TestCompareNoise(t *testing.T) {
	runs := drills(1000, 1010, 990, 1020, 980, 1200, 1210, 1190, 1220, 1205)
	runs[2].Phases[0].Noise = 100 * time.Millisecond
	if got := Compare(runs[9], runs[:9])[0]; got.Trend != Steady {
		t.Errorf("a shift of %s with 100ms of noise: %s", *got.Shift, got.Trend)
	}
	runs[2].Phases[0].Noise = 60 * time.Millisecond
	if got := Compare(runs[9], runs[:9])[0]; got.Trend != Slower {
		t.Errorf("a shift of %s with 60ms of noise: %s", *got.Shift, got.Trend)
	}
}

// Only runs of the stratum that have measured something are a history.
func TestCompareWithWhat(t *testing.T) {
	now := drill(1300)
	now.ID, now.Stratum = "now", Stratum{Service: "bank", Level: "L1", Backlog: "unknown"}
	var history []Run
	add := func(millis float64, change func(*Run)) {
		r := drill(millis)
		r.Stratum = now.Stratum
		change(&r)
		history = append(history, r)
	}
	for range 4 {
		add(600, func(*Run) {})
		add(100, func(r *Run) { r.Stratum.Service = "shop" })
		add(100, func(r *Run) { r.Stratum.Level = "L2" })
		add(100, func(r *Run) { r.Stratum.Scenario = "site-lost" })
		add(100, func(r *Run) { r.Stratum.Mode = "sync" })
		add(100, func(r *Run) { r.Stratum.Backlog = "small" })
		add(100, func(r *Run) { r.ID = "now" })
		add(-1, func(r *Run) { r.Refused = []string{"no space"} })
	}
	if got := Compare(now, history)[0]; got.Baseline != 4 || got.Trend != Doubled {
		t.Errorf("%s against %d runs, want doubled against 4", got.Trend, got.Baseline)
	}
	// An interrupted run's measured phases count: outliers stay in.
	history[0].Interrupted = []string{"^C"}
	history[0].Outcome = Interrupted
	if got := Compare(now, history)[0]; got.Baseline != 4 {
		t.Errorf("%d runs with an interrupted one, want 4", got.Baseline)
	}
	now.Phases[0].Absent = true
	if got := Compare(now, history)[0]; got.Trend != NotOfThis {
		t.Errorf("a phase that is none: %s", got.Trend)
	}
}

// The total is judged like a phase: many small changes show there.
func TestCompareTotal(t *testing.T) {
	var runs []Run
	for i := range 10 {
		r := Run{RTA: &ms(5000 + float64(i))[0]}
		if i >= 5 {
			r.RTA = &ms(6500 + float64(i))[0]
		}
		runs = append(runs, r)
	}
	if got := Compare(runs[9], runs[:9]); len(got) != 1 || got[0].Phase != Total || got[0].Trend != Slower {
		t.Errorf("an RTA that is longer by 30 %%: %+v", got)
	}
}

func TestClassOf(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	for _, c := range []struct {
		records, bytes *int64
		want           BacklogClass
	}{
		{nil, nil, "unknown"},
		{n(-1), n(-1), "unknown"},
		{n(0), nil, "under 1024 records"},
		{n(1023), nil, "under 1024 records"},
		{n(1024), nil, "1024 records and up to twice that"},
		{n(2047), nil, "1024 records and up to twice that"},
		{n(100_000), nil, "65536 records and up to twice that"},
		{n(100_000), n(5), "under 1 MiB"},
		{nil, n(256 << 20), "256 MiB and up to twice that"},
		{nil, n(256<<20 - 1), "128 MiB and up to twice that"},
	} {
		if got := ClassOf(c.records, c.bytes); got != c.want {
			t.Errorf("%v: %q", c, got)
		}
	}
}
