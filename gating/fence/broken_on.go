//go:build mutate

package fence

// Rule is a safety rule that this build can break; see rules.go. Builds with the
// tag `mutate` are for the simulator's own tests only.
type Rule = rule

// The rules, by the names that tests use.
var Rules = map[string]Rule{
	"promise-on-disk":  rulePromiseOnDisk,
	"ack-after-sync":   ruleAckAfterSync,
	"epoch-first":      ruleEpochFirst,
	"adopted-epoch":    ruleAdoptedEpoch,
	"adopt-quorum":     ruleAdoptQuorum,
	"epoch-check":      ruleEpochCheck,
	"limbo":            ruleLimbo,
	"read-epoch":       ruleReadEpoch,
	"fence-quorum":     ruleFenceQuorum,
	"choice-recorded":  ruleChoiceRecorded,
	"activate-compare": ruleActivateCompare,
	"no-ack-after":     ruleNoAckAfterFence,
}

var brokenRules [ruleCount]bool

// Break switches rules off, all others on. Not safe while a core is running.
func Break(rs ...Rule) {
	brokenRules = [ruleCount]bool{}
	for _, r := range rs {
		brokenRules[r] = true
	}
}

func broken(r rule) bool { return brokenRules[r] }
