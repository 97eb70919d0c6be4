//go:build mutate

package sim

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate/internal/mutate"
)

// foundWithin bounds the seeds in which each broken rule must be noticed.
const foundWithin = 3000

var onlyRule = flag.String("rule", "", "break only rules with this in their names")

// elsewhere lists the rules that no simulated cluster can miss, and where their
// absence is noticed instead.
var elsewhere = map[mutate.Rule]string{}

// together lists the rules that another one makes up for, as long as that one holds:
// they are broken with it, and only what the rule itself is for counts as found.
var together = map[mutate.Rule]struct {
	with []mutate.Rule
	says string
}{
	// What the target has applied was committed, and what is committed is durable.
	mutate.HandoverDurable: {[]mutate.Rule{mutate.HandoverApplied}, "members have"},
	// A head that is durable is chosen, one way or the other.
	mutate.HandoverLossless: {[]mutate.Rule{mutate.HandoverApplied, mutate.HandoverDurable}, "switchover opened"},
}

// TestBrokenRulesAreFound breaks the protocol's rules one at a time. A rule whose
// absence the simulator does not notice is a rule that the simulator does not test.
func TestBrokenRulesAreFound(t *testing.T) {
	defer mutate.Break()
	var lines []string
	for _, r := range mutate.Rules() {
		if !strings.Contains(r.String(), *onlyRule) {
			continue
		}
		if why, ok := elsewhere[r]; ok {
			t.Logf("%-20s not here: %s", r, why)
			continue
		}
		mutate.Break(append([]mutate.Rule{r}, together[r].with...)...)
		began := time.Now()
		var found Result
		worlds(1, foundWithin, func(res Result) bool {
			if res.Violation != "" && !liveness(res.Violation) && strings.Contains(res.Violation, together[r].says) && (found.Violation == "" || res.Seed < found.Seed) {
				found = res
			}
			return found.Violation == ""
		})
		if found.Violation == "" {
			t.Errorf("%-20s nothing noticed in %d seeds", r, foundWithin)
			continue
		}
		what, _, _ := strings.Cut(found.Violation, ":")
		lines = append(lines, fmt.Sprintf("%-20s found with seed %5d by %-4s in %s", r, found.Seed, what, time.Since(began).Round(time.Millisecond)))
	}
	t.Logf("rules and what found them:\n%s", strings.Join(lines, "\n"))
}

// liveness: a world that merely got stuck is no proof that the rule is watched.
func liveness(v string) bool { return strings.HasPrefix(v, "I28") }
