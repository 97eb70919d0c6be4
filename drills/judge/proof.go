package judge

import (
	"math"
	"time"
)

// Confidence is how sure a proof by passes is.
const Confidence = 0.95

// Proof is what a row of drills says about the next recovery, whatever the distribution
// of its times: of recoveries like these at least Percentile pass, with a chance of at
// most 1-Confidence to be wrong. A pass is within the RTO, so that percentile of the RTA
// is too.
type Proof struct {
	Passes     int      `json:"passes"`
	Misses     int      `json:"misses"`    // failed, or over the RTO of today
	Uncounted  int      `json:"uncounted"` // partial, interrupted, refused: they show neither
	Confidence float64  `json:"confidence"`
	Percentile *float64 `json:"percentile"`  // 0 to 1, rounded down to a thousandth; nil: no run counts
	Next       *float64 `json:"next"`        // the next of 0.90, 0.95, 0.99, 0.999; nil: all proven
	NextPasses *int     `json:"next_passes"` // in a row from here that prove Next
}

// runsNeeded is how many runs, of which misses missed, prove that the share percentile
// of all runs passes: the fewest of which so few misses would come with a chance of at
// most 1-confidence if less passed (Wilks 1941). Both shares lie between 0 and 1.
func runsNeeded(percentile, confidence float64, misses int) int {
	enough := func(n int) bool { return fewMisses(n, misses, percentile) <= 1-confidence }
	high := misses + 1
	for !enough(high) {
		high *= 2
	}
	low := misses // not enough, for any miss is as likely as can be
	for low+1 < high {
		if mid := (low + high) / 2; enough(mid) {
			high = mid
		} else {
			low = mid
		}
	}
	return high
}

// proven is the largest share of runs of which it is proven, with that confidence, that
// they pass, by so many that did and so many that did not: the one-sided limit of
// Clopper and Pearson (1934). It is 0 where none did.
func proven(passes, misses int, confidence float64) float64 {
	if passes == 0 {
		return 0
	}
	low, high := 0.0, 1.0
	for range 40 {
		if mid := (low + high) / 2; fewMisses(passes+misses, misses, mid) <= 1-confidence {
			low = mid
		} else {
			high = mid
		}
	}
	return low
}

// fewMisses is the chance that of n runs at most misses miss if the share pass passes.
func fewMisses(n, misses int, pass float64) float64 {
	if pass <= 0 || pass >= 1 {
		if pass >= 1 || misses >= n {
			return 1
		}
		return 0
	}
	sum := 0.0
	for k := range misses + 1 {
		if k <= n {
			sum += math.Exp(logChoose(n, k) + float64(k)*math.Log1p(-pass) + float64(n-k)*math.Log(pass))
		}
	}
	return sum
}

func logChoose(n, k int) float64 {
	all, _ := math.Lgamma(float64(n + 1))
	in, _ := math.Lgamma(float64(k + 1))
	out, _ := math.Lgamma(float64(n - k + 1))
	return all - in - out
}

// tried is a run as a proof counts it.
type tried struct {
	outcome Outcome
	rta     *time.Duration
}

func trial(outcome Outcome, rta *time.Duration) tried { return tried{outcome, known(rta)} }

// stratum is what of history is of the stratum of now.
func stratum(history []Run, now Run) []tried {
	var out []tried
	for i := range history {
		if r := &history[i]; r.Stratum == now.Stratum && (r.ID == "" || r.ID != now.ID) {
			out = append(out, trial(r.Outcome, r.RTA))
		}
	}
	return out
}

// proofOf counts the trials by the objectives of today.
func proofOf(trials []tried, o Objectives) Proof {
	p := Proof{Confidence: Confidence}
	for _, t := range trials {
		switch {
		case t.outcome == Failed, t.outcome == Passed && o.RTO > 0 && t.rta != nil && *t.rta > o.RTO:
			p.Misses++
		case t.outcome == Passed && (o.RTO == 0 || t.rta != nil):
			p.Passes++
		default:
			p.Uncounted++
		}
	}
	share := proven(p.Passes, p.Misses, Confidence)
	if p.Passes+p.Misses > 0 {
		p.Percentile = new(math.Floor(share*1000) / 1000)
	}
	for _, next := range []float64{0.90, 0.95, 0.99, 0.999} {
		if n := runsNeeded(next, Confidence, p.Misses); n > p.Passes+p.Misses {
			p.Next, p.NextPasses = new(next), new(n-p.Passes-p.Misses)
			break
		}
	}
	return p
}
