package main

import (
	"strings"
	"testing"

	"github.com/tidegate/tidegate/bench/figure"
)

// What was not known is counted and is in no figure, and a round in which nothing was
// exposed without a drill has no ratio.
func TestExposureOfTurns(t *testing.T) {
	turn := func(unknown int, blind ...float64) (s stretch) {
		s.said[blindWindow], s.unknown[blindWindow] = blind, unknown
		return s
	}
	d := &drilling{
		a:     []stretch{turn(0, 9, 10), turn(0, 20), turn(0, 0)},
		b:     []stretch{turn(2, 12, 11), turn(0, 60), turn(0, 5)},
		again: []stretch{turn(0, 14), turn(1, 20), turn(0, 0)},
	}
	got := d.exposed(blindWindow)
	want := exposureRow{
		Name:    quantityNames[blindWindow],
		Without: tailOf{Looks: 4, P50: 9, P99: 20, Max: 20}, With: tailOf{Looks: 4, Unknown: 2, P50: 11, P99: 60, Max: 60},
		Again: tailOf{Looks: 3, Unknown: 1, P50: 14, P99: 20, Max: 20},
		Band:  figure.Spread{Median: 1.4, Min: 1, Max: 1.4}, Ratio: figure.Spread{Median: 3, Min: 1, Max: 3}, Rounds: 2,
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	d.sum()
	var out strings.Builder
	d.row.print(&out)
	for _, said := range []string{"target: p99 at most 1.2 times that without: not reached: 0.40x of it; 2 of 0 rounds compared", "not to be told: there was none"} {
		if !strings.Contains(out.String(), said) {
			t.Errorf("the table lacks %q:\n%s", said, out.String())
		}
	}
}

// A machine that is never twice the same says nothing of so small a difference.
func TestNoiseIsNoSuccess(t *testing.T) {
	spread := func(median, highest float64) figure.Spread {
		return figure.Spread{Median: median, Min: 1, Max: highest}
	}
	for _, tt := range []struct {
		want string
		of   exposureRow
	}{
		{"reached; ", exposureRow{Band: spread(1, 1.1), Ratio: spread(1.1, 1.3), Rounds: 3}},
		{"not to be told: turns", exposureRow{Band: spread(1, 1.9), Ratio: spread(1.1, 7), Rounds: 3}},
		{"not to be told: there was none without a drill in some", exposureRow{Band: spread(1, 1.1), Ratio: spread(1.1, 1.3), Rounds: 2}},
		{"not reached: ", exposureRow{Band: spread(1, 1.9), Ratio: spread(2.4, 7), Rounds: 3}},
		{"not reached: ", exposureRow{Band: spread(1, 1.1), Ratio: spread(2.4, 7), Rounds: 2}},
	} {
		if got := tt.of.judged(3); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%+v: %q, want %q", tt.of, got, tt.want)
		}
	}
}
