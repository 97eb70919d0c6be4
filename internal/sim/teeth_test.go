//go:build !mutate

package sim

import "testing"

// TestTeeth runs TestBrokenRulesAreFound, which needs a build in which the
// protocol's rules can be broken. That build is never the one that ships.
func TestTeeth(t *testing.T) {
	if testing.Short() {
		t.Skip("builds another test binary")
	}
	apart(t, "-tags", "mutate", "-run", "TestBrokenRulesAreFound")
}
