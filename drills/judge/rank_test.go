package judge

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// ms are durations of so many milliseconds.
func ms(values ...float64) []time.Duration {
	var out []time.Duration
	for _, v := range values {
		out = append(out, time.Duration(math.Round(v*float64(time.Millisecond))))
	}
	return out
}

// distinct are the values that give newest exactly the statistic u: the number of pairs
// in which it does not take longer.
func distinct(baseline, newest, u int) (b, n []time.Duration) {
	for i := range baseline {
		b = append(b, time.Duration(i*1000))
	}
	for i := range newest {
		below := max(0, min(baseline, u))
		u -= below
		n = append(n, time.Duration((baseline-below)*1000-500+i))
	}
	return b, n
}

// Mann and Whitney 1947, table I: the chance of U or less for n = m = 5.
func TestSlowerPOfFive(t *testing.T) {
	for u, want := range []float64{.004, .008, .016, .028, .048, .075, .111, .155, .210, .274, .345, .421, .500} {
		b, n := distinct(5, 5, u)
		if got := slowerP(b, n); math.Abs(got-want) > .0005 {
			t.Errorf("U = %d: p = %.4f, want %.3f", u, got, want)
		}
	}
}

// The critical values of the usual tables: the largest U that is significant.
func TestSlowerPCriticalValues(t *testing.T) {
	for _, c := range []struct {
		baseline, newest int
		rate             float64
		want             int
	}{
		{4, 4, .05, 1},
		{4, 4, .025, 0},
		{5, 5, .05, 4},
		{5, 5, .025, 2},
		{5, 5, .01, 1},
		{6, 6, .025, 5},
		{8, 8, .05, 15},
		{8, 8, .025, 13},
		{10, 10, .05, 27},
		{10, 10, .025, 23},
		{10, 10, .01, 19},
		{20, 5, .05, 25},
		{20, 5, .025, 20},
		{20, 5, .01, 16},
		{20, 20, .05, 138},
		{20, 20, .025, 127},
		{20, 20, .01, 114},
	} {
		p := func(u int) float64 { b, n := distinct(c.baseline, c.newest, u); return slowerP(b, n) }
		if at, above := p(c.want), p(c.want+1); at > c.rate || above <= c.rate {
			t.Errorf("%d v %d at %g: U = %d has p %.5f, the next %.5f", c.baseline, c.newest, c.rate, c.want, at, above)
		}
	}
}

// The smallest p of all, by which it is decided how few runs are too few.
func TestSlowerPSmallest(t *testing.T) {
	for _, c := range []struct {
		baseline, newest int
		want             float64
	}{
		{3, 3, 1. / 20},
		{5, 3, 1. / 56},
		{4, 4, 1. / 70},
		{5, 5, 1. / 252},
		{10, 3, 1. / 286},
		{20, 3, 1. / 1771},
		{10, 5, 1. / 3003},
		{20, 5, 1. / 53130},
		{40, 20, 1. / 4191844505805495},
		{32, 32, 1. / 1832624140942590534},
	} {
		b, n := distinct(c.baseline, c.newest, 0)
		if got := slowerP(b, n); math.Abs(got/c.want-1) > 1e-12 {
			t.Errorf("%d v %d: p %g, want %g", c.baseline, c.newest, got, c.want)
		}
	}
}

// Hollander and Wolfe 1973, page 69: permeability of the chorioamnion at term and
// before; W = 35, p = 0.1272, shift 0.305.
func TestRankExample(t *testing.T) {
	before := ms(1150, 880, 900, 740, 1210)
	term := ms(800, 830, 1890, 1040, 1450, 1380, 1910, 1640, 730, 1460)
	if p := slowerP(before, term); math.Abs(p-.1272) > .00005 {
		t.Errorf("p %.5f, want 0.1272", p)
	}
	if got := shiftOf(before, term); got != 305*time.Millisecond {
		t.Errorf("shift %s, want 305ms", got)
	}
}

// With ties: every way to choose the newest, one by one.
func TestSlowerPBruteForce(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 150 {
		size, kinds := 2+r.IntN(10), 1+r.IntN(6)
		newest := 1 + r.IntN(size-1)
		all := make([]time.Duration, size)
		for i := range all {
			all[i] = time.Duration(r.IntN(kinds))
		}
		baseline, last := all[:size-newest], all[size-newest:]
		if got, want := slowerP(baseline, last), bruteP(all, newest); math.Abs(got-want) > 1e-12 {
			t.Fatalf("baseline %d, newest %d: p %v, want %v", baseline, last, got, want)
		}
	}
}

// bruteP is the share of the choices of newest values whose number of pairs won, ties
// counted half, is at least that of the last of all.
func bruteP(all []time.Duration, newest int) float64 {
	won := func(choice int) (halves int) {
		for i, a := range all {
			for j, b := range all {
				if choice>>i&1 == 1 && choice>>j&1 == 0 && a >= b {
					halves++
					if a > b {
						halves++
					}
				}
			}
		}
		return halves
	}
	observed := won((1<<newest - 1) << (len(all) - newest))
	high, total := 0, 0
	for choice := range 1 << len(all) {
		if bits.OnesCount(uint(choice)) != newest {
			continue
		}
		total++
		if won(choice) >= observed {
			high++
		}
	}
	return float64(high) / float64(total)
}

func TestSlowerPAllEqual(t *testing.T) {
	if p := slowerP(make([]time.Duration, 40), make([]time.Duration, 20)); p != 1 {
		t.Errorf("p %g of equal values, want 1", p)
	}
}

func TestMedianOf(t *testing.T) {
	for _, c := range []struct {
		values []time.Duration
		want   time.Duration
	}{
		{ms(7), 7 * time.Millisecond},
		{ms(9, 1), 5 * time.Millisecond},
		{ms(9, 1, 2), 2 * time.Millisecond},
		{ms(-9, 1, -2, 4), -500 * time.Microsecond},
	} {
		given := slices.Clone(c.values)
		if got := medianOf(c.values); got != c.want {
			t.Errorf("%v: %s, want %s", c.values, got, c.want)
		}
		if !slices.Equal(given, c.values) {
			t.Errorf("%v came back as %v", given, c.values)
		}
	}
}

// Benjamini and Hochberg 1995, section 3.2: of fifteen values four are discoveries.
func TestDiscoveries(t *testing.T) {
	p := []float64{
		.6528, .0001, .7590, .0004, 1, .0019, .0095, .0201, .0278, .0298, .0344, .0459, .3240, .4262, .5719,
	}
	var found []float64
	for i, limit := range discoveries(p, .05) {
		if p[i] <= limit {
			found = append(found, p[i])
		}
	}
	if want := []float64{.0001, .0004, .0019, .0095}; !slices.Equal(found, want) {
		t.Errorf("discoveries %v, want %v", found, want)
	}
	// A value above its own limit counts where a larger one is within its.
	near := cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) < 1e-12 })
	if diff := cmp.Diff([]float64{.05, .05, .05, .05}, discoveries([]float64{.03, .035, .04, .049}, .05), near); diff != "" {
		t.Errorf("limits (-want +got):\n%s", diff)
	}
	if got := discoveries(nil, .05); len(got) != 0 {
		t.Errorf("limits of nothing: %v", got)
	}
}
