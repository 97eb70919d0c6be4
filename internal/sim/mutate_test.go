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

var (
	onlyRule = flag.String("rule", "", "break only rules with this in their names")
	search   = flag.Bool("search", false, "look for each rule from the first seed on, whatever was noted")
)

// noted are seeds that notice rules for which a search takes long. Each is tried before
// the search, which goes on as ever when the simulator has changed and it notices no
// more. They lie among the seeds of TestSeeds, in which nothing is noticed of whole rules.
var noted = map[mutate.Rule]uint64{
	mutate.EpochFirst: 51, mutate.AdoptedEpoch: 49, mutate.ChainCheck: 51, mutate.Limbo: 38, mutate.CaughtUp: 310,
	mutate.ChoiceRecorded: 86, mutate.NoAckAfterFence: 106, mutate.ConfigOverlap: 682, mutate.HandoverLossless: 93,
	mutate.SwitchAbort: 209, mutate.UncleanSticks: 855, mutate.AcquireOwn: 276, mutate.ChoiceKnown: 49,
	mutate.LeaseAwaited: 51, mutate.LeaseFence: 52, mutate.LeaseKept: 82, mutate.LeaseAfterRestart: 252,
	mutate.LeaseNoRenew: 127, mutate.LeaseChecked: 33, mutate.LeaseBootClock: 418, mutate.LeaseCounted: 1437,
	mutate.RegateAfterStart: 204, mutate.RearmEnforced: 59, mutate.BrakeHolds: 215,
	mutate.DetectorProgress: 197, mutate.DetectorQuorum: 42,
}

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
		if seed, ok := noted[r]; ok && !*search {
			if found = noticedWithin(seed, 1, together[r].says); found.Violation == "" {
				t.Logf("%-20s seed %d notices it no more: the search takes its time; note the seed that it finds", r, seed)
			}
		}
		if found.Violation == "" {
			found = noticedWithin(1, foundWithin, together[r].says)
		}
		if found.Violation == "" {
			t.Errorf("%-20s nothing noticed in %d seeds", r, foundWithin)
			continue
		}
		what, _, _ := strings.Cut(found.Violation, ":")
		lines = append(lines, fmt.Sprintf("%-20s found with seed %5d by %-4s in %s", r, found.Seed, what, time.Since(began).Round(time.Millisecond)))
	}
	t.Logf("rules and what found them:\n%s", strings.Join(lines, "\n"))
}

// noticedWithin runs n seeds from one on and returns what the first that notices the
// broken rule, in these words, says; without a violation when none does.
func noticedWithin(from, n uint64, says string) (found Result) {
	worlds(from, n, func(res Result) bool {
		if res.Violation != "" && !liveness(res.Violation) && strings.Contains(res.Violation, says) && (found.Violation == "" || res.Seed < found.Seed) {
			found = res
		}
		return found.Violation == ""
	})
	return found
}

// liveness: a world that merely got stuck is no proof that the rule is watched.
func liveness(v string) bool { return strings.HasPrefix(v, "I28") }
