//go:build mutate

package fence_test

import (
	"testing"

	"github.com/tidegate/tidegate/internal/mutate"
)

// TestStoriesNeedTheirRules plays each story without its rule: it must not come
// to its end. A story that does tests nothing.
func TestStoriesNeedTheirRules(t *testing.T) {
	defer mutate.Break()
	for _, s := range stories {
		t.Run(s.rule.String(), func(t *testing.T) {
			mutate.Break()
			if why := play(s.play); why != "" {
				t.Fatalf("with every rule in place: %s", why)
			}
			mutate.Break(s.rule)
			why := play(s.play)
			if why == "" {
				t.Fatalf("%s: nothing noticed", s.name)
			}
			t.Log(why)
		})
	}
}

// TestPairsNeedTheKey: without compare-and-swap some duel has two winners.
func TestPairsNeedTheKey(t *testing.T) {
	defer mutate.Break()
	for _, rule := range []mutate.Rule{mutate.ActivateCompare, mutate.SwitchAbort} {
		t.Run(rule.String(), func(t *testing.T) {
			mutate.Break(rule)
			for _, a := range commands {
				for _, b := range commands {
					for k := range 12 {
						for m := range 12 {
							if why := play(func(s *stage) { duel(s, a, b, k, m) }); why != "" {
								t.Logf("%s, %d moves, then %s, %d: %s", a.name, k, b.name, m, why)
								return
							}
						}
					}
				}
			}
			t.Error("nothing noticed")
		})
	}
}
