package figure

import (
	"testing"
	"time"
)

func TestStats(t *testing.T) {
	var ops []time.Duration
	for i := 1000; i >= 1; i-- {
		ops = append(ops, time.Duration(i)*time.Microsecond)
	}
	if got, want := TailOf(ops), (Tail{P50: 500, P99: 990, P999: 999}); got != want {
		t.Errorf("tail of 1 to 1000 µs = %+v, want %+v", got, want)
	}
	if got, want := TailOf([]time.Duration{7 * time.Microsecond}), (Tail{7, 7, 7}); got != want {
		t.Errorf("tail of one = %+v, want %+v", got, want)
	}
	if got, want := SpreadOf([]float64{3, 1, 2}), (Spread{Median: 2, Min: 1, Max: 3}); got != want {
		t.Errorf("spread = %+v, want %+v", got, want)
	}
	if got, want := Verdict(1.5, 1), "reached"; got != want {
		t.Errorf("verdict = %q, want %q", got, want)
	}
	if got, want := Verdict(0.6, 1), "not reached: 0.60x of it"; got != want {
		t.Errorf("verdict = %q, want %q", got, want)
	}
}
