package assert

import (
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/evidence"
)

// TestParse: what is written is what is held, and is written so again.
func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"exposure_age_p99 < 2s for 1m":                           "",
		"durable_nodes >= 2":                                     "",
		"blind_window_max < 5s":                                  "",
		"  bytes_behind   <=  64KiB for 90s ":                    "bytes_behind <= 64KiB for 1m30s",
		"exposure_age_p50 < 1500ms for 1h while durable_nodes>2": "-",
		"exposure_age_min > 0s for 1h while durable_nodes != 0":  "",
		"records_behind = 0 while blind_window < 1m0s":           "records_behind = 0 while blind_window < 1m",
	} {
		a, err := Parse(text)
		if want == "" {
			want = text
		}
		if want == "-" {
			if err == nil {
				t.Errorf("%s: taken", text)
			}
			continue
		}
		if err != nil || a.String() != want {
			t.Errorf("%s: %v, %v", text, a, err)
		}
	}
}

// TestMistakes: all of them, each with what is wanted.
func TestMistakes(t *testing.T) {
	for text, wants := range map[string][]string{
		"":                              {"want METRIC COMPARISON VALUE"},
		"latency_p99 ~ 5":               {"want one of blind_window, bytes_behind, durable_nodes, exposure_age, records_behind", "want <, <=", `"latency_p99"`},
		"exposure_age < 5 for 1ms":      {"exposure_age: want a time such as 2s", "for: want a time from 1s to 1h"},
		"durable_nodes >= 2s":           {"durable_nodes: want a number"},
		"durable_nodes >= -2":           {"durable_nodes: want a number"},
		"bytes_behind < 5 apples":       {"want `for TIME`"},
		"blind_window < 5s for":         {"want `for TIME`"},
		"blind_window < 5s for 1s for":  {"want `for TIME`"},
		"blind_window < 5s while x < 1": {"want one of"},
		"durable_nodes > 1 while blind_window_p99 < 1s":   {"want a metric of one look, without _p99"},
		"durable_nodes > 1 while bytes_behind < 1 for 1s": {"want `for TIME`, then `while"},
		strings.Repeat("x", textLenMax+1):                 {"want at most 300 bytes"},
	} {
		_, err := Parse(text)
		for _, want := range wants {
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v, want %s", text, err, want)
			}
		}
	}
	if err := parsed(t, "durable_nodes > 1 while blind_window < 1s").Over(BlindWindow, BytesBehind); err == nil || !strings.Contains(err.Error(), "want one of blind_window, bytes_behind: nobody says durable_nodes here") {
		t.Error(err)
	}
	if parsed(t, "blind_window_p99 < 1s").Blocking() == nil || parsed(t, "blind_window_max < 1s").Blocking() != nil || parsed(t, "blind_window_p99 < 1s for 1m").Blocking() != nil {
		t.Error("a statistic of all looks calls something off, or another does not")
	}
}

func parsed(t *testing.T, text string) Assertion {
	t.Helper()
	a, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// none is a look that got no answer.
const none = -1

// TestWatch: one look a second, in seconds of blind window.
func TestWatch(t *testing.T) {
	for name, tc := range map[string]struct {
		text    string
		looks   []int64
		outcome evidence.CheckOutcome
		broken  bool
		why     string
	}{
		"holds":                      {"blind_window < 5s", []int64{0, 4, 4}, evidence.CheckPassed, false, ""},
		"one look breaks it":         {"blind_window < 5s", []int64{0, 5, 4}, evidence.CheckFailed, true, "blind_window = 5s, 1s after the first look"},
		"the most":                   {"blind_window_max < 5s", []int64{0, 5, 4}, evidence.CheckFailed, true, "blind_window_max = 5s"},
		"one is unknown":             {"blind_window < 5s", []int64{0, none, 4}, evidence.CheckUnknown, false, "blind_window was unknown, first 1s after"},
		"unknown and broken":         {"blind_window < 5s", []int64{none, 5, 4}, evidence.CheckFailed, true, "blind_window = 5s"},
		"never looked":               {"blind_window < 5s", nil, evidence.CheckUnknown, false, "nobody looked"},
		"unknown for long":           {"blind_window < 5s", []int64{0, none, none, none, none, none, none, none, none, none, none, none}, evidence.CheckUnknown, true, "unknown"},
		"unknown with breaks":        {"blind_window < 5s", []int64{none, none, none, none, none, none, 0, none, none, none, none, none}, evidence.CheckUnknown, false, "unknown"},
		"whole window":               {"blind_window < 5s for 2s", []int64{0, 0, 0}, evidence.CheckPassed, false, ""},
		"no whole window":            {"blind_window < 5s for 3s", []int64{0, 0, 0}, evidence.CheckUnknown, false, "not looked at for 3s without a break"},
		"broken before it is whole":  {"blind_window < 5s for 3s", []int64{6}, evidence.CheckFailed, true, "blind_window = 6s"},
		"tolerates a moment":         {"blind_window_min < 5s for 2s", []int64{9, 9, 0, 9, 9, 1}, evidence.CheckPassed, false, ""},
		"and no more":                {"blind_window_min < 5s for 2s", []int64{9, 9, 0, 9, 9, 9}, evidence.CheckFailed, true, "blind_window_min = 9s, 5s after"},
		"median of all, at the end":  {"blind_window_p50 < 5s", []int64{9, 9, 1, 1, 1}, evidence.CheckPassed, false, ""},
		"median of all, broken":      {"blind_window_p50 < 5s", []int64{9, 9, 9, 1, 1}, evidence.CheckFailed, false, "blind_window_p50 = 9s"},
		"median of a window":         {"blind_window_p50 < 5s for 2s", []int64{1, 1, 1, 9, 9, 1}, evidence.CheckFailed, true, "blind_window_p50 = 9s, 4s"},
		"statistic over unknown":     {"blind_window_p50 < 5s for 2s", []int64{9, none, 1, 1, 1, 1}, evidence.CheckUnknown, false, "unknown"},
		"broken whatever it was":     {"blind_window_p50 < 5s for 2s", []int64{9, none, 9, 1, 1, 1}, evidence.CheckFailed, true, "blind_window_p50 = 9s, 2s"},
		"unknown now and then":       {"blind_window_min < 5s for 2s", []int64{9, none, 9, none, 9, none, 9, none, 9, none, 9, none, 9, none}, evidence.CheckUnknown, true, "unknown"},
		"unknown once":               {"blind_window < 5s for 6s", []int64{1, 1, 1, 1, 1, none, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, evidence.CheckUnknown, false, "unknown"},
		"equals":                     {"blind_window = 1s", []int64{1, 1, 2}, evidence.CheckFailed, true, "blind_window = 2s"},
		"not equal":                  {"blind_window != 2s", []int64{1, 1, 2}, evidence.CheckFailed, true, "blind_window = 2s"},
		"at most":                    {"blind_window <= 2s", []int64{1, 2}, evidence.CheckPassed, false, ""},
		"at least":                   {"blind_window_min >= 2s", []int64{2, 1}, evidence.CheckFailed, true, "blind_window_min = 1s"},
		"only while":                 {"blind_window < 5s while durable_nodes > 1", []int64{9, 1, 1, 109, 101}, evidence.CheckFailed, true, "blind_window = 9s, 3s"},
		"not while":                  {"blind_window < 5s while durable_nodes > 1", []int64{9, 101, 9}, evidence.CheckPassed, false, ""},
		"was never":                  {"blind_window < 5s while durable_nodes > 1", []int64{9, 1}, evidence.CheckUnknown, false, "durable_nodes > 1 was at no look"},
		"statistic while":            {"blind_window_p50 < 5s while durable_nodes > 1", []int64{109, 109, 1, 101, 1}, evidence.CheckFailed, false, "blind_window_p50 = 9s"},
		"window broken by while":     {"blind_window < 5s for 2s while durable_nodes > 1", []int64{101, 101, 1, 101, 101}, evidence.CheckUnknown, false, "without a break"},
		"unknown while it is unsaid": {"blind_window < 5s while exposure_age > 0s", []int64{1}, evidence.CheckUnknown, false, "exposure_age was unknown"},
	} {
		w, now, broken := NewWatch(parsed(t, tc.text)), tidegate.Instant(time.Hour), false
		for _, n := range tc.looks {
			v := Values{DurableNodes: 1 + n/100}
			if n != none {
				v[BlindWindow] = n % 100 * int64(time.Second)
			}
			w.Take(now, v)
			broken = broken || w.Broken(now) != ""
			now += tidegate.Instant(time.Second)
		}
		if c := w.Check("k"); c.Outcome != tc.outcome || broken != tc.broken || (c.Why == "") != (tc.why == "") || !strings.Contains(c.Why, tc.why) || c.Name != tc.text || c.Kind != "k" {
			t.Errorf("%s: broken %v, %+v", name, broken, c)
		}
	}
}

// TestGuarded: a blocking assertion passes when it was not broken, whole or not; one whose
// looks do not hold so far, or were unknown, does not.
func TestGuarded(t *testing.T) {
	for name, tc := range map[string]struct {
		looks   []int64
		outcome evidence.CheckOutcome
		soFar   string
	}{
		"short and well":   {[]int64{9, 1, 9}, evidence.CheckPassed, ""},
		"short and behind": {[]int64{9, 9}, evidence.CheckUnknown, "does not hold so far: blind_window_min = 9s"},
		"short, unknown":   {[]int64{9, none}, evidence.CheckUnknown, ""},
		"nobody looked":    {nil, evidence.CheckUnknown, ""},
		"broken":           {[]int64{9, 9, 9, 9, 9, 9}, evidence.CheckFailed, "does not hold: blind_window_min = 9s"},
	} {
		w, now := NewWatch(parsed(t, "blind_window_min < 5s for 5s")), tidegate.Instant(time.Hour)
		for _, n := range tc.looks {
			v := Values{}
			if n != none {
				v[BlindWindow] = n * int64(time.Second)
			}
			w.Take(now, v)
			now += tidegate.Instant(time.Second)
		}
		if c := w.Guarded(); c.Outcome != tc.outcome || c.Kind != evidence.KindHarm || !strings.Contains(w.SoFar(), tc.soFar) || (w.SoFar() == "") != (tc.soFar == "") {
			t.Errorf("%s: %+v, so far %q", name, c, w.SoFar())
		}
	}
}

// TestNobodyLooked: a window is not whole across a time in which nobody looked.
func TestNobodyLooked(t *testing.T) {
	w := NewWatch(parsed(t, "blind_window < 5s for 1m"))
	for _, at := range []tidegate.Instant{1, 2, 3, 70, 71} {
		w.Take(at*tidegate.Instant(time.Second), Values{BlindWindow: 0})
	}
	if c := w.Check(""); c.Outcome != evidence.CheckUnknown || !strings.Contains(c.Why, "without a break") {
		t.Errorf("%+v", c)
	}
}

// TestNearestRank: of 100 looks, one may be above the 99th percentile.
func TestNearestRank(t *testing.T) {
	w := NewWatch(parsed(t, "records_behind_p99 < 5"))
	for i := range 100 {
		v := Values{RecordsBehind: 1}
		if i == 50 {
			v[RecordsBehind] = 9
		}
		w.Take(tidegate.Instant(i+1), v)
	}
	if c := w.Check(""); c.Outcome != evidence.CheckPassed || *c.Got != "records_behind from 1 to 9, in 100 looks" {
		t.Errorf("%+v", c)
	}
}

// FuzzParse: what is taken is written so that it is taken again as the same.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"exposure_age_p99 < 2s for 1m", "durable_nodes >= 2", "bytes_behind <= 1536 for 1h while records_behind != 0", "blind_window_min > 1h0m0.5s", "x", "bytes_behind < 1.5GiB",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(a.String())
		if err != nil || again.String() != a.String() || again.must != a.must || again.window != a.window {
			t.Errorf("%q became %q, and that %q, %v", text, a, again, err)
		}
	})
}
