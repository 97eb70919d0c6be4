//go:build mutate

package detect

import (
	"testing"

	"github.com/tidegate/tidegate/internal/mutate"
)

// With its rule broken each counterexample shows what the rule is for; the same
// scenes hold in TestNoProgressIsAnAlarmAndNeverDown and TestOneLinkIsNeverDown.
func TestBrokenRules(t *testing.T) {
	defer mutate.Break()
	mutate.Break(mutate.DetectorProgress)
	s := newStage(Settings{Mode: Auto}, atDR, atWitness, atGate).run(60)
	s.at(atDR).prog = &Progress{Stream: "a", Head: 140, Released: 100, Durable: 7}
	s.run(120)
	if s.v.State != Up || s.alarm(AlarmNoProgress) {
		t.Errorf("%s: a primary that makes no progress was noticed without the rule", s.v.State)
	}
	mutate.Break(mutate.DetectorQuorum)
	s = newStage(Settings{Mode: Auto}, atDR, atWitness, atGate).run(60).deaf(atDR, atGate).run(30)
	if s.v.State != Down {
		t.Errorf("%s: one dead link was not taken for a dead primary without the rule", s.v.State)
	}
}
