package evidence_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/evidence"
)

var update = flag.Bool("update", false, "rewrite the golden bytes of a version that is not released")

var started = time.Date(2026, 11, 22, 6, 30, 0, 123456789, time.UTC)

// bare is a report of a drill that was refused: nothing is known of it but that.
func bare() evidence.Report {
	return evidence.Report{
		ID: uuid.MustParse("0192a6f0-0000-7000-8000-000000000001"), Number: 1,
		Cluster: "prod", Service: "bank", Level: evidence.L1, Scenario: "shadow-promote",
		Verdict: evidence.Verdict{Outcome: evidence.Refused, Reasons: []string{"the sandbox is not empty"}},
		Started: evidence.Moment{At: started}, Ran: evidence.Ran{Host: "dr-1", Version: "1.2.3"},
	}
}

// full is a report in which every field says something.
func full() evidence.Report {
	r := bare()
	r.ID, r.Number, r.Previous = uuid.MustParse("0192a6f0-0000-7000-8000-000000000002"), 2, new(evidence.HashOf([]byte("before")))
	r.Verdict = evidence.Verdict{Outcome: evidence.Failed, Reasons: []string{"content: the state is another one", "apply took 2.1 times as long"}}
	r.Started.Error, r.Ended = new(2*time.Millisecond), new(started.Add(time.Minute))
	r.Ran.Identity, r.Config = "tidegate://prod/west/drill/nightly", new(evidence.HashOf([]byte("service: bank\n")))
	r.Gate = evidence.Gate{Mode: new(tidegate.ModeBounded), Bounds: &tidegate.Bounds{Records: 100, Bytes: tidegate.Unbounded, Window: 2 * time.Second}}
	r.Backlog = evidence.Backlog{Chosen: new(int64(100000)), Records: new(int64(100007)), Bytes: new(int64(16 << 20))}
	r.Streams = []evidence.Stream{{
		ID: tidegate.StreamID{0x0a, 15: 1}, Name: "main", Store: "journal", Generation: new(tidegate.Generation(2)),
		Lineage: new(tidegate.Lineage("journal:07")), CutSeq: new(tidegate.Seq(41)), Cut: new(tidegate.Position(0x1f40)),
		Expected: &tidegate.Digest{1}, Observed: &tidegate.Digest{2},
	}}
	r.Phases = []evidence.Phase{{Name: "detect", Absent: true}, {Name: "catch-up", Took: new(1200 * time.Millisecond)}, {Name: "apply", Took: new(3 * time.Second), Noise: new(200 * time.Millisecond)}, {Name: "verify", Took: new(time.Duration(0))}, {Name: "re-route"}}
	r.Recovered = evidence.Recovered{Objective: new(30 * time.Second), Actual: new(4200 * time.Millisecond), Predicted: new(5 * time.Second)}
	r.Lost = evidence.Lost{Objective: new(2 * time.Second), Actual: new(time.Duration(0)), Records: new(int64(0)), Bytes: new(int64(0))}
	seen := evidence.LagSeen{Samples: 10, Median: new(10 * time.Millisecond), P99: new(20 * time.Millisecond), Max: new(21 * time.Millisecond), Records: new(int64(3)), Bytes: new(int64(300))}
	r.Lag = evidence.Lag{Before: seen, During: seen}
	r.Checks = []evidence.Check{
		{"content", "digest", "01", new("02"), evidence.CheckFailed, new(5 * time.Millisecond), "the state is another one"},
		{"canary", "canary", "written and read", new("written and read"), evidence.CheckPassed, new(7 * time.Millisecond), ""},
		{"report <1>", "http", "200", nil, evidence.CheckUnknown, nil, "no answer within 5s"},
	}
	r.Recovery = evidence.Recovery{Required: new("precise"), Predicted: new("repeating"), Observed: new("repeating"), Outcome: new("failed"), Vector: json.RawMessage(`{"type":"repeating"}`)}
	r.Isolation = []evidence.Check{{"acquire epoch", "refusal", "permission denied", new("permission denied"), evidence.CheckPassed, nil, ""}}
	r.LeftOvers = []evidence.LeftOver{{"process", "4711", true}, {"directory", "/srv/drill/old", false}}
	r.Compared = []evidence.Compared{
		{"apply", 12, 1, new(1400 * time.Millisecond), new(3 * time.Second), new(1600 * time.Millisecond), new(2.1), nil, nil, "doubled"},
		{"catch-up", 12, 5, new(1300 * time.Millisecond), new(1200 * time.Millisecond), new(-100 * time.Millisecond), new(0.92), new(0.81), new(0.02), "steady"},
	}
	r.Proven = &evidence.Proven{Passes: 30, Misses: 0, Percentile: new(0.9), Confidence: 0.95}
	return r
}

// pass makes the report one of a drill that has passed.
func pass(r *evidence.Report) {
	r.Verdict, r.Checks, r.Phases = evidence.Verdict{Outcome: evidence.Passed}, r.Checks[1:2], r.Phases[:4]
	r.Recovery.Outcome = new("holds")
}

// golden compares with what lies in testdata for ever.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-want +got):\n%s", file, d)
	}
}

func TestReportsStayTheSame(t *testing.T) {
	for name, r := range map[string]evidence.Report{"bare": bare(), "full": full()} {
		b, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "v1/"+name+".json", append(b, '\n'))
		got, err := evidence.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		again, err := got.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s: read and written again: %v\n%s\n%s", name, err, again, b)
		}
		sealed, err := evidence.Seal(t.Context(), evidence.KeyFromSeed(1), r)
		if err != nil || !bytes.Equal(sealed.Payload, b) {
			t.Fatalf("%s: %v, %s", name, err, sealed.Payload)
		}
		golden(t, "v1/"+name+".dsse.json", sealed.Data)
	}
	golden(t, "v1/key.pem", evidence.KeyFromSeed(1).Public().PEM())
}

// TestUnknownIsNull: a report of which nothing is known has no number that could be
// taken for one.
func TestUnknownIsNull(t *testing.T) {
	b, err := bare().Encode()
	if err != nil {
		t.Fatal(err)
	}
	var fields any
	if err := json.Unmarshal(b, &fields); err != nil {
		t.Fatal(err)
	}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, x := range v {
				walk(path+"."+k, x)
			}
		case float64:
			if v == 0 && !strings.HasSuffix(path, ".samples") {
				t.Errorf("%s is 0 in a report of nothing", path)
			}
		}
	}
	walk("", fields)
}

func TestReportsThatContradictThemselves(t *testing.T) {
	for want, spoil := range map[string]func(*evidence.Report){
		"UUID of version 7":              func(r *evidence.Report) { r.ID = uuid.UUID{} },
		"number 2: want":                 func(r *evidence.Report) { r.Previous = nil },
		"number 0: want":                 func(r *evidence.Report) { r.Number = 0 },
		"service: ":                      func(r *evidence.Report) { r.Service = "../x" },
		"cluster: ":                      func(r *evidence.Report) { r.Cluster = "A B" },
		"scenario: ":                     func(r *evidence.Report) { r.Scenario = "" },
		`level "L9"`:                     func(r *evidence.Report) { r.Level = "L9" },
		"started: want a time":           func(r *evidence.Report) { r.Started.At = time.Time{} },
		"has no id":                      func(r *evidence.Report) { r.Streams[0].ID = tidegate.StreamID{} },
		"phase apply: a time below 0":    func(r *evidence.Report) { r.Phases[2].Took = new(-time.Second) },
		`"apply" is there twice`:         func(r *evidence.Report) { r.Phases[1].Name = "apply" },
		"and it took a time":             func(r *evidence.Report) { r.Phases[2].Absent = true },
		"backlog: a number below 0":      func(r *evidence.Report) { r.Backlog.Records = new(int64(-1)) },
		"recovery_time: a time below 0":  func(r *evidence.Report) { r.Recovered.Actual = new(-time.Second) },
		"lag: a number below 0":          func(r *evidence.Report) { r.Lag.After.Samples = -1 },
		"checks: content: want a reason": func(r *evidence.Report) { r.Checks[0].Why = "" },
		"checks: canary: outcome":        func(r *evidence.Report) { r.Checks[1].Outcome = "" },
		"isolation: ":                    func(r *evidence.Report) { r.Isolation[0].Kind = "" },
		"compared apply: want a number":  func(r *evidence.Report) { r.Compared[0].Ratio = new(math.NaN()) },
		`finding ""`:                     func(r *evidence.Report) { r.Compared[0].Finding = "" },
		"failed without a reason":        func(r *evidence.Report) { r.Verdict.Reasons = nil },
		`outcome "good"`:                 func(r *evidence.Report) { r.Verdict.Outcome = "good" },
		"check content is failed":        func(r *evidence.Report) { r.Verdict.Outcome = evidence.Passed },
		"check report <1> is unknown":    func(r *evidence.Report) { pass(r); r.Checks = full().Checks[2:] },
		"check acquire epoch is unknown": func(r *evidence.Report) {
			pass(r)
			r.Isolation[0].Outcome, r.Isolation[0].Why = evidence.CheckUnknown, "no answer"
		},
		"passed, and no check has":       func(r *evidence.Report) { pass(r); r.Checks, r.Isolation = nil, nil },
		"recovery time was not measured": func(r *evidence.Report) { pass(r); r.Recovered.Actual = nil },
		"what was lost was not measured": func(r *evidence.Report) { pass(r); r.Lost.Actual = nil },
		"phase re-route was not":         func(r *evidence.Report) { pass(r); r.Phases = full().Phases },
		"weaker than it must be":         func(r *evidence.Report) { pass(r); r.Recovery.Outcome = new("failed") },
		"an objective was missed":        func(r *evidence.Report) { pass(r); r.Recovered.Actual = new(time.Hour) },
		"more than":                      func(r *evidence.Report) { r.Checks[0].Wanted = strings.Repeat("x", evidence.ReportBytesMax) },
	} {
		r := full()
		spoil(&r)
		if _, err := r.Encode(); err == nil || !strings.Contains(err.Error(), want) || tidegate.ClassOf(err) != tidegate.Misuse {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	r := full()
	pass(&r)
	if _, err := r.Encode(); err != nil {
		t.Errorf("one that has passed: %v", err)
	}
	r.Level, r.Recovered.Actual, r.Phases, r.Lost.Actual = evidence.L0, nil, nil, nil
	if _, err := r.Encode(); err != nil {
		t.Errorf("one that has recovered nothing: %v", err)
	}
	r = full()
	r.Level, r.Service = "", ""
	if _, err := r.Encode(); err == nil || !strings.Contains(err.Error(), "level") || !strings.Contains(err.Error(), "service") {
		t.Errorf("not all mistakes at once: %v", err)
	}
}

func TestReportsThatAreNotUnderstood(t *testing.T) {
	good, err := full().Encode()
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{`"version":1`: `"version":2`, `"version":1,`: ""} {
		if _, err := evidence.Parse(bytes.Replace(good, []byte(from), []byte(to), 1)); !errors.Is(err, tidegate.ErrUnsupported) {
			t.Errorf("%s for %s: %v", to, from, err)
		}
	}
	for _, text := range []string{"", "{}", "[]", "null", string(good[:len(good)-1]), string(good) + "{}", strings.Replace(string(good), `"L1"`, `"L7"`, 1)} {
		if _, err := evidence.Parse([]byte(text)); tidegate.ClassOf(err) != tidegate.Corrupt {
			t.Errorf("%.40s: %v, want corrupt", text, err)
		}
	}
	more := bytes.Replace(good, []byte(`"version":1,`), []byte(`"version":1,"since_version_1_1":[1],`), 1)
	if _, err := evidence.Parse(more); err != nil {
		t.Errorf("a field that this version does not know: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	for _, name := range []string{"bare", "full"} {
		b, err := os.ReadFile("testdata/v1/" + name + ".dsse.json")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := evidence.Open(evidence.File{Name: "f", Data: b})
		if err != nil {
			return
		}
		again, err := s.Report.Encode()
		if err != nil {
			t.Fatalf("read, and not to be written: %v", err)
		}
		if r, err := evidence.Parse(again); err != nil || cmp.Diff(s.Report, r) != "" {
			t.Errorf("%v\n%s", err, cmp.Diff(s.Report, r))
		}
	})
}
