package evidence_test

import (
	"bytes"
	"encoding/xml"
	"regexp"
	"strings"
	"testing"

	"github.com/tidegate/tidegate/drills/evidence"
)

func sealed(t *testing.T, r evidence.Report) evidence.Sealed {
	t.Helper()
	s, err := evidence.Seal(t.Context(), evidence.KeyFromSeed(1), r)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPages(t *testing.T) {
	for name, r := range map[string]evidence.Report{"bare": bare(), "full": full()} {
		var page, junit bytes.Buffer
		if err := evidence.WriteHTML(&page, sealed(t, r)); err != nil {
			t.Fatal(err)
		}
		if err := evidence.WriteJUnit(&junit, sealed(t, r)); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".html", page.Bytes())
		golden(t, name+".xml", junit.Bytes())
		if bad := regexp.MustCompile(`<script|src=|href=|@import|url\(|ZgotmplZ`).FindString(page.String()); bad != "" {
			t.Errorf("%s: the page needs more than itself, or has code: %s", name, bad)
		}
	}
}

func TestPageSaysTheVerdictFirstAndEscapes(t *testing.T) {
	r := full()
	r.Verdict.Reasons = []string{"<script>alert(1)</script>"}
	var page bytes.Buffer
	if err := evidence.WriteHTML(&page, sealed(t, r)); err != nil {
		t.Fatal(err)
	}
	text := page.String()
	if strings.Contains(text, "<script") {
		t.Error("what a report says is taken for code")
	}
	body := text[strings.Index(text, "<body>"):]
	if h1, h2 := strings.Index(body, "Drill 2 of bank: failed"), strings.Index(body, "<h2>"); h1 < 0 || h2 < h1 {
		t.Errorf("the verdict is at %d, the first section at %d", h1, h2)
	}
	if n := strings.Count(body, "<rect"); n != 3 {
		t.Errorf("%d bars, want one of each phase that was measured", n)
	}
}

func TestJUnitCounts(t *testing.T) {
	var out bytes.Buffer
	if err := evidence.WriteJUnit(&out, sealed(t, full())); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Suites []struct {
			Tests    int `xml:"tests,attr"`
			Failures int `xml:"failures,attr"`
			Errors   int `xml:"errors,attr"`
			Skipped  int `xml:"skipped,attr"`
			Cases    []struct {
				Name    string    `xml:"name,attr"`
				Failure *struct{} `xml:"failure"`
				Error   *struct{} `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(out.Bytes(), &got); err != nil || len(got.Suites) != 1 {
		t.Fatal(err)
	}
	s := got.Suites[0]
	// The verdict, a check and the phase that doubled; the check without an answer and the
	// phase that was not measured; the one that such a drill does not have.
	if s.Tests != len(s.Cases) || s.Tests != 12 || s.Failures != 3 || s.Errors != 2 || s.Skipped != 1 {
		t.Errorf("%+v", s)
	}
	for _, c := range s.Cases {
		if c.Name == "report <1>" && (c.Error == nil || c.Failure != nil) {
			t.Error("a check without an answer is no error")
		}
	}
}
