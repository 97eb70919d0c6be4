package judge

import (
	"slices"
	"time"
)

// rankedMax bounds the values of one rank test: the number of ways to choose half of
// them, 1.8e18, fits 64 bits.
const rankedMax = 64

// The long window fits: a negative constant would not compile.
const _ = uint(rankedMax - longNewestRuns - longBaselineRuns)

// slowerP is the p-value of the exact one-sided Mann-Whitney test (Mann and Whitney
// 1947): how likely the values of newest rank as high as they do, or higher, if they
// come from where those of baseline come from. Ties have their mean rank, and the
// distribution is that of these ranks, ties and all (Streitberg and Roehmel 1986): the
// number of ways to choose len(newest) of them with each sum.
//
// Neither may be empty, and both together have at most rankedMax values.
func slowerP(baseline, newest []time.Duration) float64 {
	all := slices.Concat(baseline, newest)
	slices.Sort(all)
	// Twice the mean rank of a value is an integer: the first and the last of its ranks.
	doubled := func(v time.Duration) int {
		first, _ := slices.BinarySearch(all, v)
		after, _ := slices.BinarySearch(all, v+1)
		return first + 1 + after
	}
	observed := 0
	for _, v := range newest {
		observed += doubled(v)
	}
	// ways[k][s] counts the choices of k ranks, of those seen, whose doubled sum is s:
	// no rank is above len(all).
	ways := make([][]uint64, len(newest)+1)
	for k := range ways {
		ways[k] = make([]uint64, 2*k*len(all)+1)
	}
	ways[0][0] = 1
	for i, v := range all {
		rank := doubled(v)
		for k := min(i+1, len(newest)); k > 0; k-- {
			for s, n := range ways[k-1][:(k-1)*rank+1] { // the ranks seen before are no higher
				ways[k][s+rank] += n
			}
		}
	}
	var high, total uint64
	for s, n := range ways[len(newest)] {
		total += n
		if s >= observed {
			high += n
		}
	}
	return float64(high) / float64(total)
}

// shiftOf is the estimate of Hodges and Lehmann (1963) of how much newest takes longer
// than baseline: the median of the differences of every pair. Neither may be empty.
func shiftOf(baseline, newest []time.Duration) time.Duration {
	differences := make([]time.Duration, 0, len(baseline)*len(newest))
	for _, n := range newest {
		for _, b := range baseline {
			differences = append(differences, n-b)
		}
	}
	return medianOf(differences)
}

// medianOf is the middle of values, or the mean of the two in the middle. There is at
// least one.
func medianOf(values []time.Duration) time.Duration {
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	low, high := sorted[(len(sorted)-1)/2], sorted[len(sorted)/2]
	return low + (high-low)/2
}

// discoveries is the step-up procedure of Benjamini and Hochberg (1995): the limits
// that bound the share of false discoveries among all by rate. A value is a discovery
// where it is at most its limit.
func discoveries(p []float64, rate float64) []float64 {
	order := make([]int, len(p))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case p[a] < p[b]:
			return -1
		case p[a] > p[b]:
			return 1
		}
		return 0
	})
	limit := func(rank int) float64 { return rate * float64(rank) / float64(len(p)) }
	last := 0 // the largest rank whose value is within its limit; all below it are discoveries too
	for i, at := range order {
		if p[at] <= limit(i+1) {
			last = i + 1
		}
	}
	limits := make([]float64, len(p))
	for i, at := range order {
		limits[at] = limit(max(last, i+1))
	}
	return limits
}
