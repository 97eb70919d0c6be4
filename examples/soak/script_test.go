package main

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate"
)

var three = site{primaries: []string{"p1", "p2", "p3"}, standbys: []string{"d1", "d2", "d3"}, w: 2}

func TestTolerates(t *testing.T) {
	for _, c := range []struct {
		down []string
		name string
		want bool
	}{
		{nil, "standby-d1", true},
		{[]string{"standby-d2"}, "standby-d1", false},
		{[]string{"ledger-p2"}, "ledger-p1", false},
		{[]string{"ledger-p2"}, "ledger-d1", true},
		{[]string{"ledger-d2"}, "ledger-d1", true},
		{[]string{"ledger-p2", "standby-d3", "gate"}, "agent-p2", true},
		{[]string{"gate"}, "gate", false},
		{[]string{"agent-p1", "agent-p2"}, "agent-p3", true},
	} {
		if got := three.tolerates(c.down, c.name); got != c.want {
			t.Errorf("with %v down, %s may die: %v, want %v", c.down, c.name, got, c.want)
		}
	}
	all := site{primaries: []string{"p1"}, standbys: []string{"d1"}, w: 1}
	for _, name := range []string{"standby-d1", "ledger-p1"} {
		if all.tolerates(nil, name) {
			t.Errorf("the only %s may die", name)
		}
	}
}

func TestScriptKeepsWithinWhatIsTolerated(t *testing.T) {
	seen := map[string]bool{}
	pairs := 0
	for seed := range uint64(200) {
		deeds := three.script(rand.New(rand.NewPCG(seed, 1)), 30*time.Second)
		var down []string
		var last deed
		for _, d := range deeds {
			if d.at < last.at {
				t.Fatalf("seed %d: %v after %v", seed, d, last)
			}
			if d.kill && last.kill && d.at == last.at {
				pairs++
			}
			last = d
			if !d.kill {
				i := slices.Index(down, d.name)
				if i < 0 {
					t.Fatalf("seed %d: %v, which is up", seed, d)
				}
				down = slices.Delete(down, i, i+1)
				continue
			}
			if !three.tolerates(down, d.name) {
				t.Fatalf("seed %d: %v with %v down", seed, d, down)
			}
			down = append(down, d.name)
			seen[d.name] = true
		}
		if len(down) > 0 {
			t.Fatalf("seed %d: %v left down", seed, down)
		}
	}
	for _, name := range three.processes() {
		if !seen[name] {
			t.Errorf("%s is never killed", name)
		}
	}
	if pairs == 0 {
		t.Error("never two at once")
	}
}

func TestRoundsAreReproducible(t *testing.T) {
	allow := cmp.AllowUnexported(round{}, deed{})
	a, b := drawRound(7, 3, three, 20*time.Second), drawRound(7, 3, three, 20*time.Second)
	if d := cmp.Diff(a, b, allow); d != "" {
		t.Error(d)
	}
	if cmp.Equal(a, drawRound(8, 3, three, 20*time.Second), allow) {
		t.Error("another seed draws the same round")
	}
	if a.mode != tidegate.ModeSync || drawRound(7, 4, three, time.Second).mode != tidegate.ModeBounded {
		t.Error("modes do not alternate")
	}
	for i := range bites {
		if r := drawRound(7, 2*(i+1), three, time.Second); r.bounds != bites[i] {
			t.Errorf("bounded round %d has bounds %+v, want each in turn", i, r.bounds)
		}
	}
	if a.bounds != (tidegate.Bounds{}) {
		t.Errorf("sync with bounds %+v", a.bounds)
	}
	if a.kills() == 0 || 2*a.kills() != len(a.deeds) {
		t.Errorf("%d kills in %d deeds", a.kills(), len(a.deeds))
	}
}
