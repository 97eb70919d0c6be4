package figure

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Spread is what the rounds of one figure gave.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// SpreadOf sums rounds up; it keeps them as they are.
func SpreadOf(rounds []float64) Spread {
	if len(rounds) == 0 {
		return Spread{}
	}
	s := slices.Sorted(slices.Values(rounds))
	return Spread{Median: s[len(s)/2], Min: s[0], Max: s[len(s)-1]}
}

// Tail is the distribution of single operations, in microseconds.
type Tail struct {
	P50  float64 `json:"p50_us"`
	P99  float64 `json:"p99_us"`
	P999 float64 `json:"p999_us"`
}

// TailOf sorts ops, which is not kept.
func TailOf(ops []time.Duration) Tail {
	slices.Sort(ops)
	return Tail{P50: quantile(ops, 500), P99: quantile(ops, 990), P999: quantile(ops, 999)}
}

func quantile(sorted []time.Duration, q int) float64 {
	return float64(Quantile(sorted, q)) / float64(time.Microsecond)
}

// Quantile returns the smallest of sorted that at least q of a thousand do not exceed;
// of none 0.
func Quantile[N cmp.Ordered](sorted []N, q int) (n N) {
	if len(sorted) == 0 {
		return n
	}
	i := (len(sorted)*q+999)/1000 - 1
	return sorted[max(0, i)]
}

func (s Spread) String() string { return fmt.Sprintf("%.2f (%.2f-%.2f)", s.Median, s.Min, s.Max) }

// Whole prints a spread of large numbers.
func (s Spread) Whole() string { return fmt.Sprintf("%.0f (%.0f-%.0f)", s.Median, s.Min, s.Max) }

// Verdict says whether got, the more the better, reaches target. Where less is
// better, target and got change places.
func Verdict(got, target float64) string {
	if got >= target {
		return "reached"
	}
	return fmt.Sprintf("not reached: %.2fx of it", got/target)
}
