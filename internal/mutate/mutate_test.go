package mutate_test

import (
	"testing"

	"github.com/tidegate/tidegate/internal/mutate"
)

func TestEveryRuleHasANameOfItsOwn(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range mutate.Rules() {
		if n := r.String(); n == "" || seen[n] {
			t.Errorf("rule %d: name %q is empty or taken", r, n)
		}
		seen[r.String()] = true
	}
	if n := mutate.Rule(255).String(); n != "rule-unknown" {
		t.Errorf("no such rule is called %q", n)
	}
}

func TestNothingIsBrokenByItself(t *testing.T) {
	for _, r := range mutate.Rules() {
		if mutate.Broken(r) {
			t.Errorf("%s is broken", r)
		}
	}
}
