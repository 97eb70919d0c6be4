//go:build mutate

package sim

import (
	"testing"

	"github.com/tidegate/tidegate/internal/mutate"
)

// foundWithin bounds the seeds in which each broken rule must be noticed.
const foundWithin = 1000

// TestBrokenRulesAreFound breaks the protocol's rules one at a time. A rule whose
// absence the simulator does not notice is a rule that the simulator does not test.
func TestBrokenRulesAreFound(t *testing.T) {
	defer mutate.Break()
	for _, rule := range []mutate.Rule{
		mutate.PromiseOnDisk, mutate.AckAfterSync, mutate.EpochFirst, mutate.AdoptedEpoch, mutate.AdoptQuorum, mutate.EpochCheck,
		mutate.Limbo, mutate.ReadEpoch, mutate.FenceQuorum, mutate.ChoiceRecorded, mutate.ActivateCompare, mutate.NoAckAfterFence,
	} {
		t.Run(rule.String(), func(t *testing.T) {
			mutate.Break(rule)
			for seed := uint64(1); seed <= foundWithin; seed++ {
				if r := Run(Options{Seed: seed}); r.Violation != "" && !liveness(r.Violation) {
					t.Logf("%s: found with seed %d: %s", rule, seed, r.Violation)
					return
				}
			}
			t.Errorf("nothing noticed in %d seeds", foundWithin)
		})
	}
}

// liveness: a world that merely got stuck is no proof that the rule is watched.
func liveness(v string) bool { return v[:3] == "I28" }
