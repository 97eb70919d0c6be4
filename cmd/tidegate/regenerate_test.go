package main

import (
	"testing"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
)

// A dry run of what would be refused is refused as that is, and says what to do.
func TestDryRunOfARefusedGenerationHasAHint(t *testing.T) {
	rules := []*pb.RuleVerdict{{Rule: "freeze", Holds: true, Known: true}, {Rule: "log-lost", Known: true, Reason: "n1 does not say that the log ends"}}
	if err := wouldBeRefused("regenerate stream", "ledger/main", rules); tidegate.ClassOf(err) != tidegate.Refused || tidegate.HintOf(err) == "" {
		t.Errorf("%v, hint %q", err, tidegate.HintOf(err))
	}
	if err := wouldBeRefused("regenerate stream", "ledger/main", rules[:1]); err != nil {
		t.Errorf("nothing is refused: %v", err)
	}
}
