//go:build mutate

package sim

import (
	"slices"
	"testing"

	"github.com/tidegate/tidegate/gating/fence"
)

// foundWithin bounds the seeds in which each broken rule must be noticed.
const foundWithin = 1000

// TestBrokenRulesAreFound breaks the protocol's rules one at a time. A rule whose
// absence the simulator does not notice is a rule that the simulator does not test.
func TestBrokenRulesAreFound(t *testing.T) {
	defer fence.Break()
	var names []string
	for name := range fence.Rules {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			fence.Break(fence.Rules[name])
			for seed := uint64(1); seed <= foundWithin; seed++ {
				if r := Run(Options{Seed: seed}); r.Violation != "" && !liveness(r.Violation) {
					t.Logf("%s: found with seed %d: %s", name, seed, r.Violation)
					return
				}
			}
			t.Errorf("nothing noticed in %d seeds", foundWithin)
		})
	}
}

// liveness: a world that merely got stuck is no proof that the rule is watched.
func liveness(v string) bool { return v[:3] == "I28" }
