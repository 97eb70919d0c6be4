//go:build bench

package postgres

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// spread is what the rounds of one figure gave.
type spread []float64

func (s *spread) add(v float64) { *s = append(*s, v) }

func (s spread) median() float64 {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[len(sorted)/2]
}

// String is the median and the range of the rounds.
func (s spread) String() string {
	return fmt.Sprintf("%.2f (%.2f-%.2f)", s.median(), slices.Min(s), slices.Max(s))
}

// target is what is wanted of a median.
type target struct {
	want  float64
	least bool // or else at most
}

func atLeast(v float64) target { return target{v, true} }
func atMost(v float64) target  { return target{v, false} }

func (t target) judge(got float64) string {
	sign, held := "<=", got <= t.want
	if t.least {
		sign, held = ">=", got >= t.want
	}
	if held {
		return fmt.Sprintf("%s %.2f: reached", sign, t.want)
	}
	return fmt.Sprintf("%s %.2f: NOT REACHED", sign, t.want)
}

// report is the run's tables.
type report struct{ strings.Builder }

func (r *report) line(format string, args ...any) { fmt.Fprintf(r, format+"\n", args...) }

// quantile returns the smallest of sorted that at least q of a thousand do not exceed.
func quantile(sorted []time.Duration, q int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(0, (len(sorted)*q+999)/1000-1)]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
