package evidence_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/recovery"
)

// typed is a report with a word about the recovery type; "" stands for none.
func typed(service tidegate.ServiceName, number evidence.Number, approach, class, required, predicted, observed string) evidence.Report {
	word := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	r := full()
	r.Service, r.Number = service, number
	r.Recovery = evidence.Recovery{
		Approach: word(approach), Class: word(class), Required: word(required), Predicted: word(predicted), Observed: word(observed), Outcome: new("holds"),
	}
	return r
}

func TestMatrix(t *testing.T) {
	const passive, det = "passive-standby", "deterministic"
	weak := typed("excluded", 1, passive, det, "precise", "precise", "")
	weak.Recovery.Vector = json.RawMessage(`{"type":"unknown","at_best":"gap"}`)
	never := typed("never", 1, "", "", "", "", "")
	other, refused := typed("other level", 2, "", "", "", "", ""), typed("other level", 3, "", "", "", "", "")
	other.Level, refused.Verdict.Outcome = evidence.L3, evidence.Refused // neither looks for it
	m := evidence.MatrixOf([]evidence.Report{
		never, weak,
		typed("mended", 1, passive, det, "precise", "precise", "gap"),
		typed("mended", 2, passive, det, "precise", "precise", "precise"),
		typed("stale", 1, passive, det, "precise", "precise", "precise"),
		typed("stale", 2, passive, det, "precise", "precise", ""), // nothing was seen: what was before is past
		typed("stale", 3, "", "", "", "", ""),                     // it is no longer looked for
		typed("weak", 1, "active-standby", "repeatable", "precise", "precise", "divergent"),
		typed("weak", 2, "active-standby", "repeatable", "precise", "precise", ""), // not mended either
		typed("undone", 1, passive, det, "", "precise", "precise"),
		typed("undone", 2, passive, det, "", "repeating", ""), // without what made it precise
		typed("asked more", 1, passive, det, "", "precise", "precise"),
		typed("asked more", 2, passive, det, "precise", "precise", ""),
		other,
		typed("other level", 1, passive, det, "", "precise", "precise"),
		refused,
		typed("remade", 2, passive, "arbitrary", "", "divergent", ""),
		typed("remade", 1, passive, det, "", "repeating", "repeating"), // it was another service then
		typed("lucky", 1, passive, det, "gap-ok", "repeating", "precise"),
		typed("weaker", 1, "active-standby", "repeatable", "", "repeating", "divergent"), // whatever its own outcome says
	})
	want := map[tidegate.ServiceName]struct {
		outcome  recovery.Outcome
		observed recovery.Type
		drill    evidence.Number // 0: none
		looked   int
	}{
		"never": {recovery.Undecided, recovery.Unknown, 0, 0}, "excluded": {recovery.Failed, recovery.Unknown, 1, 1},
		"mended": {recovery.Holds, recovery.Precise, 2, 2}, "remade": {recovery.Undecided, recovery.Unknown, 0, 1},
		"stale": {recovery.Undecided, recovery.Unknown, 1, 2}, "weak": {recovery.Failed, recovery.Divergent, 1, 2},
		"undone": {recovery.Undecided, recovery.Unknown, 0, 1}, "asked more": {recovery.Undecided, recovery.Unknown, 0, 1},
		"other level": {recovery.Holds, recovery.Precise, 1, 1},
		"lucky":       {recovery.Lucky, recovery.Precise, 1, 1}, "weaker": {recovery.Failed, recovery.Divergent, 1, 1},
	}
	if len(m.Services) != len(want) || !slices.IsSortedFunc(m.Services, func(a, b evidence.MatrixRow) int { return slices.Compare([]byte(a.Service), []byte(b.Service)) }) {
		t.Fatalf("%+v", m.Services)
	}
	for _, r := range m.Services {
		w := want[r.Service]
		if r.Outcome != w.outcome || r.Observed != w.observed || (r.Drill == nil) != (w.drill == 0) || r.Drill != nil && *r.Drill != w.drill || r.Looked != w.looked {
			t.Errorf("%s: %+v, want %+v", r.Service, r, w)
		}
	}
	if m.Outcome() != recovery.Failed {
		t.Error(m.Outcome())
	}
	if got := evidence.MatrixOf([]evidence.Report{never}).Outcome(); got != recovery.Undecided {
		t.Errorf("a service that nobody has looked at is %s", got)
	}
	if len(m.Cells) != 16 {
		t.Fatal(len(m.Cells))
	}
	for _, c := range m.Cells {
		seen := recovery.Unknown
		switch {
		case c.Approach == recovery.PassiveStandby && c.Class == recovery.Deterministic:
			seen = recovery.Precise
		case c.Approach == recovery.ActiveStandby && c.Class == recovery.Repeatable:
			seen = recovery.Divergent
		}
		if c.Observed != seen || c.Predicted == recovery.Unknown {
			t.Errorf("%+v, want observed %s", c, seen)
		}
	}
}
