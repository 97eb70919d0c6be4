package evidence

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/recovery"
)

// NewID draws the id of a report: a UUID of version 7, which sorts by its time.
func NewID() (uuid.UUID, error) { return uuid.NewV7() }

// Encode checks the report and returns its bytes, as they are signed. All mistakes are
// named at once; they are the caller's.
func (r Report) Encode() ([]byte, error) {
	r.Format, r.Version = Format, Version
	r.normalize()
	fail := func(err error) error {
		return &tidegate.Error{Op: "write report of drill", Subject: r.ID.String(), Class: tidegate.Misuse, Err: err}
	}
	if err := r.check(); err != nil {
		return nil, fail(err)
	}
	b, err := json.Marshal(r)
	if err == nil && len(b) > ReportBytesMax {
		err = fmt.Errorf("it has %d bytes, more than %d", len(b), ReportBytesMax)
	}
	if err != nil {
		return nil, fail(err)
	}
	return b, nil
}

// Parse reads a report. A version that it does not know is tidegate.ErrUnsupported;
// anything else that is not a report has the class corrupt.
func Parse(b []byte) (r Report, err error) {
	var head struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	if err = json.Unmarshal(b, &head); err == nil && head.Format != Format {
		err = fmt.Errorf("format %q: want %q", head.Format, Format)
	}
	if err == nil && head.Version != Version {
		return r, &tidegate.Error{
			Op: "read report", Class: tidegate.Permanent, Err: fmt.Errorf("version %d: %w", head.Version, tidegate.ErrUnsupported),
			Hint: "a newer tidegate has written it: read it with one",
		}
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err == nil {
		r.normalize()
		err = r.check()
	}
	if err != nil {
		return Report{}, &tidegate.Error{Op: "read report", Class: tidegate.Corrupt, Err: err}
	}
	return r, nil
}

// normalize gives what has two forms in Go the one that it has in a report.
func (r *Report) normalize() {
	r.Started.At = r.Started.At.UTC().Round(0)
	if r.Ended != nil {
		r.Ended = new(r.Ended.UTC().Round(0))
	}
	if r.Checks == nil {
		r.Checks = []Check{}
	}
	if r.Streams == nil {
		r.Streams = []Stream{}
	}
	if r.Phases == nil {
		r.Phases = []Phase{}
	}
	if r.Verdict.Reasons == nil {
		r.Verdict.Reasons = []string{}
	}
	if string(r.Recovery.Vector) == "null" {
		r.Recovery.Vector = nil
	}
}

// check reports every rule that the report breaks.
func (r *Report) check() error {
	var c checker
	c.want(r.ID.Version() == 7, "id %s: want a UUID of version 7", r.ID)
	c.want(r.Number > 0 && (r.Previous == nil) == (r.Number == 1), "number %d: want 1 without a previous report, or more with one", r.Number)
	if r.Cluster != "" {
		c.add("cluster", tidegate.ValidName(r.Cluster))
	}
	c.add("service", tidegate.ValidName(string(r.Service)))
	c.add("scenario", tidegate.ValidName(r.Scenario))
	c.want(slices.Contains([]Level{L0, L1, L2, L3, L4}, r.Level), "level %q: want L0 to L4", r.Level)
	c.want(!r.Started.At.IsZero(), "started: want a time")
	c.span("started.error_ns", r.Started.Error)
	for _, s := range r.Streams {
		c.want(!s.ID.IsZero(), "stream %q: has no id", s.Name)
	}
	c.phases(r.Phases)
	c.count("backlog", r.Backlog.Chosen, r.Backlog.Records, r.Backlog.Bytes, r.Lost.Records, r.Lost.Bytes)
	c.span("recovery_time", r.Recovered.Objective, r.Recovered.Actual, r.Recovered.Predicted)
	c.span("loss", r.Lost.Objective, r.Lost.Actual)
	for _, seen := range []LagSeen{r.Lag.Before, r.Lag.During, r.Lag.After} {
		c.count("lag", new(int64(seen.Samples)), seen.Records, seen.Bytes)
		c.span("lag", seen.Median, seen.P99, seen.Max)
	}
	c.checks("checks", r.Checks)
	c.checks("isolation", r.Isolation)
	for _, one := range r.Compared {
		field := "compared " + one.Phase
		c.want(one.Phase != "" && one.Finding != "" && one.Baseline >= 0 && one.Newest >= 0, "compared: phase %q, finding %q, %d against %d runs", one.Phase, one.Finding, one.Newest, one.Baseline)
		c.span(field, one.BaselineMedian, one.NewestMedian)
		c.number(field, one.Ratio, one.P, one.Limit)
	}
	if p := r.Proven; p != nil {
		c.want(p.Passes >= 0 && p.Misses >= 0, "proven: %d passes, %d misses", p.Passes, p.Misses)
		c.number("proven", p.Percentile, &p.Confidence)
	}
	c.verdict(r)
	return errors.Join(c.wrong...)
}

// checker collects what is wrong with a report.
type checker struct{ wrong []error }

func (c *checker) want(holds bool, format string, args ...any) {
	if !holds {
		c.wrong = append(c.wrong, fmt.Errorf(format, args...))
	}
}

func (c *checker) add(field string, err error) {
	if err != nil {
		c.wrong = append(c.wrong, fmt.Errorf("%s: %w", field, err))
	}
}

func (c *checker) span(field string, all ...*time.Duration) {
	for _, d := range all {
		c.want(d == nil || *d >= 0, "%s: a time below 0", field)
	}
}

func (c *checker) count(field string, all ...*int64) {
	for _, n := range all {
		c.want(n == nil || *n >= 0, "%s: a number below 0", field)
	}
}

func (c *checker) number(field string, all ...*float64) {
	for _, x := range all {
		c.want(x == nil || *x >= 0 && !math.IsInf(*x, 0), "%s: want a number, and 0 at least", field)
	}
}

func (c *checker) phases(all []Phase) {
	seen := map[string]bool{}
	for _, p := range all {
		c.want(p.Name != "" && !seen[p.Name], "phases: %q is there twice, or has no name", p.Name)
		c.span("phase "+p.Name, p.Took, p.Noise)
		c.want(!p.Absent || p.Took == nil, "phase %s: such a drill has no such phase, and it took a time", p.Name)
		seen[p.Name] = true
	}
}

func (c *checker) checks(field string, all []Check) {
	for _, k := range all {
		c.want(k.Name != "" && k.Kind != "", "%s: %q has no name or kind", field, k.Name)
		c.want(slices.Contains([]CheckOutcome{CheckPassed, CheckFailed, CheckUnknown}, k.Outcome), "%s: %s: outcome %q", field, k.Name, k.Outcome)
		c.want((k.Outcome == CheckPassed) == (k.Why == ""), "%s: %s: want a reason for what did not pass, and none for what did", field, k.Name)
		c.span(field+": "+k.Name, k.Took)
	}
}

// verdict holds a verdict against what the same report says.
func (c *checker) verdict(r *Report) {
	v := r.Verdict
	c.want(slices.Contains([]Outcome{Passed, Partial, Failed, Interrupted, Refused}, v.Outcome), "verdict: outcome %q", v.Outcome)
	c.want(v.Outcome == Passed || len(v.Reasons) > 0, "verdict: %s without a reason", v.Outcome)
	if v.Outcome != Passed {
		return
	}
	passed := false
	for _, k := range slices.Concat(r.Checks, r.Isolation) {
		passed = passed || k.Outcome == CheckPassed
		c.want(k.Outcome == CheckPassed, "verdict: passed, and the check %s is %s", k.Name, k.Outcome)
	}
	c.want(passed, "verdict: passed, and no check has")
	if r.Level != L0 { // which recovers nothing
		c.measured(r)
	}
	c.want(wordOf(r.Recovery.Outcome) != string(recovery.Failed), "verdict: passed, and the recovery type is weaker than it must be")
	for _, t := range []struct{ objective, actual *time.Duration }{{r.Recovered.Objective, r.Recovered.Actual}, {r.Lost.Objective, r.Lost.Actual}} {
		c.want(t.objective == nil || t.actual == nil || *t.actual <= *t.objective, "verdict: passed, and an objective was missed")
	}
}

// measured holds a verdict that a recovery has passed against what was measured of it.
func (c *checker) measured(r *Report) {
	c.want(r.Recovered.Actual != nil, "verdict: passed, and the recovery time was not measured")
	c.want(r.Lost.Objective == nil || r.Lost.Actual != nil, "verdict: passed, and what was lost was not measured, which has an objective")
	for _, p := range r.Phases {
		c.want(p.Absent || p.Took != nil, "verdict: passed, and phase %s was not measured", p.Name)
	}
}
