//go:build mutate

package mutate

var brokenRules [ruleCount]bool

// Broken reports whether rule r is switched off in this run.
func Broken(r Rule) bool { return brokenRules[r] }

// Break switches rules off and all others on. Not safe while a core is running.
func Break(rs ...Rule) {
	brokenRules = [ruleCount]bool{}
	for _, r := range rs {
		brokenRules[r] = true
	}
}
