package main

import (
	"slices"
	"time"
)

// spread is what the rounds of one figure gave.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func spreadOf(rounds []float64) spread {
	if len(rounds) == 0 {
		return spread{}
	}
	s := slices.Sorted(slices.Values(rounds))
	return spread{Median: s[len(s)/2], Min: s[0], Max: s[len(s)-1]}
}

// tail is the distribution of single operations, in microseconds.
type tail struct {
	P50  float64 `json:"p50_us"`
	P99  float64 `json:"p99_us"`
	P999 float64 `json:"p999_us"`
}

// tailOf sorts ops, which is not kept.
func tailOf(ops []time.Duration) tail {
	slices.Sort(ops)
	return tail{P50: quantile(ops, 500), P99: quantile(ops, 990), P999: quantile(ops, 999)}
}

// quantile returns the smallest of sorted that at least q of a thousand do not
// exceed, in microseconds.
func quantile(sorted []time.Duration, q int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	i := (len(sorted)*q+999)/1000 - 1
	return float64(sorted[max(0, i)]) / float64(time.Microsecond)
}
