package judge

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRunsNeeded(t *testing.T) {
	for _, c := range []struct {
		percentile float64
		misses     int
		want       int
	}{
		{.90, 0, 29},
		{.95, 0, 59},
		{.99, 0, 299},
		{.90, 1, 46},
		{.95, 1, 93},
		{.99, 1, 473},
		{.50, 0, 5},
		{.01, 0, 1},
		{.999, 0, 2995},
	} {
		if got := runsNeeded(c.percentile, .95, c.misses); got != c.want {
			t.Errorf("p%g with %d misses: %d runs, want %d", 100*c.percentile, c.misses, got, c.want)
		}
	}
}

// What is proven by n runs, and how many prove it, are two views of one limit.
func TestProven(t *testing.T) {
	for misses := range 4 {
		for _, passes := range []int{1, 4, 28, 29, 58, 59, 92, 300, 1000} {
			share := proven(passes, misses, .95)
			n := passes + misses
			if at := runsNeeded(share-1e-6, .95, misses); at > n {
				t.Errorf("%d of %d: %.4f is proven, and needs %d runs", passes, n, share, at)
			}
			if at := runsNeeded(share+1e-6, .95, misses); at <= n {
				t.Errorf("%d of %d: more than %.4f is proven by %d runs", passes, n, share, at)
			}
		}
	}
	// By hand: the share whose nth power is 1/20.
	if got, want := proven(59, 0, .95), math.Pow(.05, 1./59); math.Abs(got-want) > 1e-9 {
		t.Errorf("59 passes prove %.6f, want %.6f", got, want)
	}
	if got := proven(0, 3, .95); got != 0 {
		t.Errorf("no pass proves %g", got)
	}
}

func TestProof(t *testing.T) {
	trials := func(n int, o Outcome, rta float64) []tried {
		var out []tried
		for range n {
			out = append(out, trial(o, &ms(rta)[0]))
		}
		return out
	}
	objectives := Objectives{RTO: time.Second}
	for name, c := range map[string]struct {
		trials []tried
		want   Proof
	}{
		"none":                 {nil, Proof{Next: new(.9), NextPasses: new(29)}},
		"one short of p95":     {trials(58, Passed, 9), Proof{Passes: 58, Percentile: new(.949), Next: new(.95), NextPasses: new(1)}},
		"p95":                  {trials(59, Passed, 9), Proof{Passes: 59, Percentile: new(.950), Next: new(.99), NextPasses: new(240)}},
		"over today's RTO":     {append(trials(45, Passed, 9), trials(1, Passed, 1001)...), Proof{Passes: 45, Misses: 1, Percentile: new(.900), Next: new(.95), NextPasses: new(47)}},
		"within it, yet wrong": {trials(2, Failed, 9), Proof{Misses: 2, Percentile: new(0.), Next: new(.9), NextPasses: new(59)}},
		"shows neither": {
			append(append(trials(2, Partial, 9), trials(3, Interrupted, 9)...), append(trials(4, Refused, 9), trial(Passed, nil))...),
			Proof{Uncounted: 10, Next: new(.9), NextPasses: new(29)},
		},
		"all proven": {trials(3000, Passed, 9), Proof{Passes: 3000, Percentile: new(.999)}},
	} {
		t.Run(name, func(t *testing.T) {
			c.want.Confidence = .95
			if diff := cmp.Diff(c.want, proofOf(c.trials, objectives)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
