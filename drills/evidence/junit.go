package evidence

import (
	"encoding/xml"
	"fmt"
	"io"
	"time"
)

// suites is a JUnit report, in the form that CI servers read.
type suites struct {
	XMLName xml.Name `xml:"testsuites"`
	Suite   suite    `xml:"testsuite"`
}

type suite struct {
	Name       string     `xml:"name,attr"`
	ID         string     `xml:"id,attr"`
	Timestamp  string     `xml:"timestamp,attr"` // UTC, without a zone
	Hostname   string     `xml:"hostname,attr"`
	Tests      int        `xml:"tests,attr"`
	Failures   int        `xml:"failures,attr"`
	Errors     int        `xml:"errors,attr"`
	Skipped    int        `xml:"skipped,attr"`
	Time       string     `xml:"time,attr,omitempty"` // seconds
	Properties []property `xml:"properties>property"`
	Cases      []testCase `xml:"testcase"`
}

type property struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

type testCase struct {
	Class   string  `xml:"classname,attr"`
	Name    string  `xml:"name,attr"`
	Time    string  `xml:"time,attr,omitempty"` // seconds; absent: unknown
	Failure *remark `xml:"failure"`
	Error   *remark `xml:"error"`   // unknown: it is no pass
	Skipped *remark `xml:"skipped"` // of a phase that such a drill does not have, and of what has no objective
}

type remark struct {
	Message string `xml:"message,attr"`
}

// WriteJUnit writes a report as JUnit XML: one suite, with the verdict, the objectives,
// the phases, the checks and those of isolation as its cases. What must be known and is
// not is an error, and never a pass.
func WriteJUnit(w io.Writer, s Sealed) error {
	r := s.Report
	out := suite{
		Name: fmt.Sprintf("tidegate drill %s %s %s", r.Service, r.Level, r.Scenario), ID: r.ID.String(), Hostname: r.Ran.Host,
		Timestamp: r.Started.At.UTC().Format("2006-01-02T15:04:05.000"), Time: seconds(r.Recovered.Actual),
		Properties: []property{
			{"number", fmt.Sprint(r.Number)}, {"cluster", r.Cluster}, {"hash", s.Hash.String()}, {"version", r.Ran.Version},
		},
	}
	out.add(verdictCase(r.Verdict))
	out.add(objectiveCase("rto", r.Recovered.Objective, r.Recovered.Actual))
	out.add(objectiveCase("rpo", r.Lost.Objective, r.Lost.Actual))
	for _, p := range r.Phases {
		out.add(phaseCase(p, r.Compared))
	}
	for _, c := range r.Checks {
		out.add(checkCase("check", c))
	}
	for _, c := range r.Isolation {
		out.add(checkCase("isolation", c))
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(suites{Suite: out}); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func (s *suite) add(c testCase) {
	s.Cases = append(s.Cases, c)
	s.Tests++
	switch {
	case c.Failure != nil:
		s.Failures++
	case c.Error != nil:
		s.Errors++
	case c.Skipped != nil:
		s.Skipped++
	}
}

func verdictCase(v Verdict) testCase {
	c := testCase{Class: "verdict", Name: "verdict"}
	why := string(v.Outcome)
	for _, r := range v.Reasons {
		why += "; " + r
	}
	switch v.Outcome {
	case Passed:
	case Failed:
		c.Failure = &remark{why}
	default:
		c.Error = &remark{why}
	}
	return c
}

func objectiveCase(name string, objective, actual *time.Duration) testCase {
	c := testCase{Class: "objective", Name: name}
	switch {
	case objective == nil:
		c.Skipped = &remark{"no objective is set"}
	case actual == nil:
		c.Error = &remark{"unknown: it was not measured"}
	case *actual > *objective:
		c.Failure = &remark{fmt.Sprintf("%s, and the objective is %s", *actual, *objective)}
	}
	return c
}

// phaseCase fails where the phase took longer than its history lets expect.
func phaseCase(p Phase, compared []Compared) testCase {
	c := testCase{Class: "phase", Name: p.Name, Time: seconds(p.Took)}
	switch {
	case p.Absent:
		c.Skipped = &remark{"drills of this level have no such phase"}
		return c
	case p.Took == nil:
		c.Error = &remark{"unknown: it was not measured"}
		return c
	}
	for _, one := range compared {
		if one.Phase == p.Name && (one.Finding == "slower" || one.Finding == "doubled") {
			c.Failure = &remark{fmt.Sprintf("%s: %s, and usually %s", one.Finding, *p.Took, spanOf(one.BaselineMedian))}
		}
	}
	return c
}

func checkCase(class string, k Check) testCase {
	c := testCase{Class: class, Name: k.Name, Time: seconds(k.Took)}
	switch k.Outcome {
	case CheckPassed:
	case CheckFailed:
		c.Failure = &remark{fmt.Sprintf("%s (wanted %s, got %s)", k.Why, k.Wanted, wordOf(k.Got))}
	default:
		c.Error = &remark{"unknown: " + k.Why}
	}
	return c
}

// seconds is "" for what is not known.
func seconds(d *time.Duration) string {
	if d == nil {
		return ""
	}
	return number(d.Seconds(), 6)
}
