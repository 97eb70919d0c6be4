package judge

import (
	"math"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/tidegate/tidegate/internal/racetest"
)

// TestComputed has what computes much, in one binary without the race detector.
func TestComputed(t *testing.T) {
	if racetest.Apart(t) {
		return
	}
	t.Run("combinations", judgeCombinations)
	t.Run("power", power)
	t.Run("totals", totals)
	t.Run("false alarms", falseAlarms)
	t.Run("weeks", weeks)
}

// model makes up runs whose phases take a second each, by themselves.
type model struct {
	*rand.Rand
	phases int
	cv     float64 // coefficient of variation of each
	normal bool    // else log-normal, as times are: never negative, with a tail
}

// run is one run, whose first phase takes slower times as long.
func (m model) run(slower float64) Run {
	r := Run{RTA: new(time.Duration)}
	for i := range m.phases {
		factor := 1 + m.cv*m.NormFloat64()
		if !m.normal {
			sigma := math.Sqrt(math.Log1p(m.cv * m.cv))
			factor = math.Exp(sigma*m.NormFloat64() - sigma*sigma/2)
		}
		if i == 0 {
			factor *= slower
		}
		took := time.Duration(factor * float64(time.Second))
		*r.RTA += took
		r.Phases = append(r.Phases, Phase{Name: strconv.Itoa(i), Took: &took})
	}
	return r
}

// trials are the shares of so many rows of weekly runs in which the first phase, which
// takes slower times as long in the newest, and in which any other phase is named. The
// total is neither where it has become slower too; where nothing has, all are others.
func (m model) trials(n, baseline, newest int, slower float64) (first, other float64) {
	firsts, others := 0, 0
	for range n {
		var runs []Run
		for i := range baseline + newest {
			factor := 1.
			if i >= baseline {
				factor = slower
			}
			runs = append(runs, m.run(factor).after(runs, 7*24*time.Hour))
		}
		named := map[bool]bool{}
		for i, c := range Compare(runs[len(runs)-1], runs[:len(runs)-1]) {
			if c.Trend.Regressed() && (c.Phase != Total || slower == 1) {
				named[i == 0 && slower != 1] = true
			}
		}
		if named[true] {
			firsts++
		}
		if named[false] {
			others++
		}
	}
	return float64(firsts) / float64(n), float64(others) / float64(n)
}

// A shift of +20 % in one of ten phases. The least of all is asked at 5 v 5, where with
// ten phases and the total the limit of the first discovery is 0.05/11 = 0.00455: below
// it lies 1/252 alone, five runs that all took longer than all five before them.
func power(t *testing.T) {
	for _, c := range []struct {
		trials, phases, baseline, newest int
		cv                               float64
		normal                           bool
		atLeast, atMost                  float64
	}{
		{1000, 10, 5, 5, .05, false, .90, 1},
		{300, 10, 5, 5, .05, true, .90, 1},
		{200, 10, 20, 5, .05, false, .98, 1},
		{300, 4, 5, 5, .05, false, .95, 1}, // an L1 drill
		{300, 4, 4, 4, .05, false, .40, .60},
		{100, 10, 4, 4, .05, false, 0, .05}, // 1/70 is above every limit: nothing can be found
		{1000, 10, 5, 5, .15, false, .08, .20},
		{200, 10, 20, 5, .15, false, .20, .40},
		{300, 4, 5, 5, .15, false, .15, .30},
		{200, 4, 20, 5, .15, false, .35, .55},
		{50, 10, 40, 20, .15, false, .80, 1},
	} {
		m := model{rand.New(rand.NewPCG(1, 2)), c.phases, c.cv, c.normal}
		first, other := m.trials(c.trials, c.baseline, c.newest, 1.2)
		t.Logf("+20 %% in one of %d phases at %d v %d, CV %.0f %%, normal %t: found in %.1f %%; another phase named in %.1f %%",
			c.phases, c.baseline, c.newest, 100*c.cv, c.normal, 100*first, 100*other)
		if first < c.atLeast || first > c.atMost {
			t.Errorf("found in %.3f, want %.2f to %.2f", first, c.atLeast, c.atMost)
		}
	}
}

// An RTA that is longer by 30 % after five runs, wherever the time went.
func totals(t *testing.T) {
	m, found := model{rand.New(rand.NewPCG(3, 4)), 10, .05, false}, 0
	const n = 1000
	for range n {
		var runs []Run
		for i := range 10 {
			r := m.run(1)
			if i >= 5 {
				*r.RTA = *r.RTA * 13 / 10
			}
			runs = append(runs, r)
		}
		if c := Compare(runs[9], runs[:9]); c[10].Trend.Regressed() {
			found++
		}
	}
	t.Logf("+30 %% of the RTA at 5 v 5, CV 5 %% of ten phases: found in %d of %d", found, n)
	if found < n*99/100 {
		t.Errorf("found in %d of %d", found, n)
	}
}

// Where nothing has changed, at most one drill in twenty names a phase. Where times vary
// by 30 % one of them is twice the median by chance often enough: that rule is what it is.
func falseAlarms(t *testing.T) {
	for _, c := range []struct {
		trials, phases, baseline, newest int
		cv, atMost                       float64
	}{
		{1000, 10, 5, 5, .05, .05},
		{1000, 10, 5, 5, .15, .05},
		{300, 4, 5, 5, .15, .05},
		{300, 4, 4, 4, .15, .05},
		{200, 10, 20, 5, .15, .05},
		{150, 10, 40, 20, .15, .09}, // 4.0 % of 3,000; so few trials are this far off now and then
		{200, 10, 5, 5, .30, .25},
	} {
		m := model{rand.New(rand.NewPCG(5, 6)), c.phases, c.cv, false}
		_, any := m.trials(c.trials, c.baseline, c.newest, 1)
		t.Logf("no change in %d phases at %d v %d, CV %.0f %%: %.1f %% of the drills name one",
			c.phases, c.baseline, c.newest, 100*c.cv, 100*any)
		if any > c.atMost {
			t.Errorf("false alarms in %.3f of the drills", any)
		}
	}
}

// after gives r the start that comes so long after the last of runs.
func (r Run) after(runs []Run, pause time.Duration) Run {
	if len(runs) > 0 {
		r.Started = runs[len(runs)-1].Started.Add(pause)
	}
	return r
}

// hourly adds n runs, an hour apart, and gives those in which the first phase, or any
// other or the total, is named.
func (m model) hourly(runs *[]Run, n int, slower float64) (first []int, other map[string]bool) {
	other = map[string]bool{}
	for i := range n {
		r := m.run(slower).after(*runs, time.Hour)
		for at, c := range Compare(r, (*runs)[max(0, len(*runs)-7*24-60):]) {
			switch {
			case !c.Trend.Regressed():
			case at == 0:
				first = append(first, i)
			default:
				other[c.Phase] = true
			}
		}
		*runs = append(*runs, r)
	}
	return first, other
}

// week is a week of drills by the hour in which nothing changed.
func (m model) week() []Run {
	var runs []Run
	for range 7 * 24 {
		runs = append(runs, m.run(1).after(runs, time.Hour))
	}
	return runs
}

// Drills by the hour look at overlapping runs, and there are many: the drills of a week
// share a rate. A change is found all the same, by the drills after it.
func weeks(t *testing.T) {
	const phases, weeks, days = 4, 3, 15
	for _, cv := range []float64{.05, .15} {
		m, named := model{rand.New(rand.NewPCG(7, 8)), phases, cv, false}, 0
		for runs, i := m.week(), 0; i < weeks; i++ {
			first, other := m.hourly(&runs, 7*24, 1)
			named += min(1, len(first)) + len(other)
		}
		share := float64(named) / (weeks * (phases + 1)) // with the total
		t.Logf("no change in %d phases, a drill each hour, CV %.0f %%: %.1f %% of the phase-weeks name one", phases, 100*cv, 100*share)
		if share > .05 {
			t.Errorf("false alarms in %.3f of the phase-weeks", share)
		}
		found, drills := 0, 0
		for range days {
			runs := m.week()
			if first, _ := m.hourly(&runs, 24, 1.2); len(first) > 0 {
				found++
				drills += first[0] + 1
			}
		}
		t.Logf("+20 %% in one of %d phases, a drill each hour, CV %.0f %%: found in %d of %d days, after %.1f drills",
			phases, 100*cv, found, days, float64(drills)/float64(max(1, found)))
		if atLeast := map[float64]int{.05: days * 95 / 100, .15: days / 2}[cv]; found < atLeast {
			t.Errorf("found in %d of %d days", found, days)
		}
	}
}
