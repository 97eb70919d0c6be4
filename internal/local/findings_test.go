package local

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"
)

func TestFindingsHoldTheNewestOfEachName(t *testing.T) {
	var f Findings
	note := func(name string, s Severity, text string) bool {
		return f.Note(&Finding{Name: name, Severity: s, Text: text})
	}
	if f.Work() != nil || len(f.List()) != 0 {
		t.Errorf("new: %+v", f.List())
	}
	if !note("b", SeverityInfo, "one") || !note("a", SeverityWarning, "two") || !note("", SeverityCritical, "three") {
		t.Error("new ones are no news")
	}
	if note("b", SeverityInfo, "one") || note("b", SeverityInfo, "four") || !note("", SeverityCritical, "other") || !note("", SeverityCritical, "three") || note("c", 0, "") {
		t.Error("what is said twice, or taken back without having been said, is news")
	}
	if err := f.Work(); err == nil {
		t.Error("nothing keeps it from its work")
	}
	text, err := json.Marshal(f.List())
	if err != nil {
		t.Fatal(err)
	}
	const want = `[{"severity":"critical","text":"three"},{"name":"a","severity":"warning","text":"two"},{"name":"b","severity":"info","text":"four"}]`
	if string(text) != want {
		t.Errorf("%s, want %s", text, want)
	}
	var back []Finding
	if err := json.Unmarshal(text, &back); err != nil || !reflect.DeepEqual(back, f.List()) {
		t.Errorf("read back %+v: %v", back, err)
	}
	if !note("", 0, "") || !note("a", 0, "") || f.Work() != nil || len(f.List()) != 1 {
		t.Errorf("taken back: %+v", f.List())
	}
	for i := range 2 * FindingsMax {
		note(fmt.Sprint("n", i), SeverityInfo, "x")
	}
	note("", SeverityInfo, "work")
	if n := len(f.List()); n != FindingsMax+1 || f.Work() == nil {
		t.Errorf("%d kept", n)
	}
}
