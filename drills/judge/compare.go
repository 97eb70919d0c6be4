package judge

import (
	"slices"
	"time"
)

// What is compared with what: the newest five runs, which show a change soon, and,
// where there are as many, the newest twenty, which show it where times vary much. The
// baselines are as long as it takes for a p far below the limits, and short enough to
// follow what changes slowly. See TestComputed.
const (
	newestRuns       = 5
	baselineRuns     = 20
	longNewestRuns   = 20
	longBaselineRuns = 40
)

// When a difference is a finding.
const (
	FalseDiscoveries = 0.05 // most of the drills, or of the weeks if there are more drills, that call a phase slower which is not
	effectShare      = 10   // a slower phase takes at least a tenth more than its baseline's median
	effectNoise      = 3    // and so many times what its times may be off
	doubledRuns      = 4    // baseline from which a single run may be called doubled

	// NoiseMin is what any time of a phase may be off by: one flush to a disk and one
	// turn of a busy machine's scheduler.
	NoiseMin = 10 * time.Millisecond
)

// Total is the name of the comparison of the RTA, next to those of the phases. The
// total hides changes that offset each other, and shows many small ones.
const Total = "total"

// Compared is one phase against its own history.
type Compared struct {
	Phase          string         `json:"phase"` // or Total
	Took           *time.Duration `json:"took_ns"`
	Baseline       int            `json:"baseline_runs"` // that have this phase measured
	Newest         int            `json:"newest_runs"`   // that have; with this run
	BaselineMedian *time.Duration `json:"baseline_median_ns"`
	NewestMedian   *time.Duration `json:"newest_median_ns"`
	Shift          *time.Duration `json:"shift_ns"` // of the newest against the baseline, by Hodges and Lehmann
	Ratio          *float64       `json:"ratio"`    // what Shift makes of the baseline's median; nil where that is 0
	P              *float64       `json:"p"`        // exact one-sided Mann-Whitney; nil: too few runs
	Limit          *float64       `json:"p_limit"`  // what P must not exceed for a finding, by Benjamini and Hochberg
	Trend          Trend          `json:"trend"`
}

// Trend is what a comparison says of a phase.
type Trend string

// The trends.
const (
	Steady    Trend = "steady"  // not found to be slower
	Slower    Trend = "slower"  // the newest runs are, by the rank test and by the effect
	Doubled   Trend = "doubled" // this run took at least twice the baseline's median, by the effect of noise
	TooFew    Trend = "too few" // runs to tell
	NotKnown  Trend = "unknown" // not measured in this run
	NotOfThis Trend = "absent"  // drills of this level have no such phase
)

// Regressed reports whether a drill fails by t.
func (t Trend) Regressed() bool { return t == Slower || t == Doubled }

// Compare compares each phase of now, and the total, with the runs of history that have
// its stratum. History is oldest first, as the chain of reports has it.
func Compare(now Run, history []Run) []Compared {
	runs := peers(now, history)
	out := compareAll(runs, newestOf(len(runs)), baselineRuns, false)
	if len(runs) < longNewestRuns+longBaselineRuns {
		control(rateOf(runs), out)
		return out
	}
	long := compareAll(runs, longNewestRuns, longBaselineRuns, true)
	control(rateOf(runs), out, long)
	for i := range out {
		if !out[i].Trend.Regressed() && long[i].Trend == Slower {
			out[i] = long[i]
		}
	}
	return out
}

// peers is what of history is to be compared with now, oldest first, and now at
// the end.
func peers(now Run, history []Run) []*Run {
	var runs []*Run
	for i := range history {
		r := &history[i]
		if r.Stratum == now.Stratum && r.ran() && (r.ID == "" || r.ID != now.ID) {
			runs = append(runs, r)
		}
	}
	return append(runs, &now)
}

// newestOf is how many of so many runs are the newest; the rest is the baseline. Where
// a rank test would have too few, the one run stands against all before it.
func newestOf(runs int) int {
	switch {
	case runs >= 2*newestRuns:
		return newestRuns
	case runs >= 2*(newestRuns-1):
		return newestRuns - 1
	}
	return 1
}

// enough reports whether so few values can show anything: with less the smallest p of
// all is too large to be told from chance over the phases of a drill.
func enough(baseline, newest int) bool {
	return baseline >= 4 && newest >= 4 || baseline >= 10 && newest >= 3
}

// compareAll compares each phase of the last of runs, and the total, in the newest with
// the baseline before them.
func compareAll(runs []*Run, newest, baseline int, long bool) []Compared {
	now, split := runs[len(runs)-1], len(runs)-newest
	w := window{runs[max(0, split-baseline):split], runs[split:], long}
	out := make([]Compared, 0, len(now.Phases)+1)
	for i := range now.Phases {
		if now.Phases[i].Absent {
			out = append(out, Compared{Phase: now.Phases[i].Name, Trend: NotOfThis})
			continue
		}
		out = append(out, w.compare(now.Phases[i].Name))
	}
	if len(now.Phases) > 0 || known(now.RTA) != nil {
		out = append(out, w.compare(Total))
	}
	return out
}

// window is what is compared with what, and whether it is the long one.
type window struct {
	baseline, newest []*Run
	long             bool
}

// compare is what the window says of the phase of that name, as far as one phase goes:
// control decides over all.
func (w window) compare(name string) Compared {
	noise := NoiseMin
	values := func(of []*Run) []time.Duration {
		var out []time.Duration
		for _, r := range of {
			if took, off := r.phase(name); took != nil {
				out, noise = append(out, *took), max(noise, off)
			}
		}
		return out
	}
	c := Compared{Phase: name, Trend: NotKnown}
	if c.Took, _ = w.newest[len(w.newest)-1].phase(name); c.Took == nil {
		return c
	}
	baseline, newest := values(w.baseline), values(w.newest)
	c.Baseline, c.Newest = len(baseline), len(newest)
	c.NewestMedian = new(medianOf(newest))
	if c.Trend = TooFew; len(baseline) == 0 {
		return c
	}
	usual, shift := medianOf(baseline), shiftOf(baseline, newest)
	c.BaselineMedian, c.Shift = &usual, &shift
	if usual > 0 {
		c.Ratio = new(float64(usual+shift) / float64(usual))
	}
	if enough(len(baseline), len(newest)) {
		effect := shift >= max(usual/effectShare, effectNoise*noise)
		c.P, c.Trend = new(1.), Steady
		if effect || !w.long { // 1 is never too small, and the long test is the one that takes time
			*c.P = slowerP(baseline, newest)
		}
		if effect {
			c.Trend = Slower
		}
	}
	if len(baseline) >= doubledRuns && *c.Took >= 2*usual && *c.Took-usual >= effectNoise*noise {
		c.Trend = Doubled
	}
	return c
}

// rateOf is the rate of false discoveries for the last of runs. By it alone drills by the
// hour would give an alarm of chance each day, so that where the windows are full, and
// much smaller values of p can come, the drills of a week share one rate.
func rateOf(runs []*Run) float64 {
	if len(runs) < newestRuns+baselineRuns {
		return FalseDiscoveries
	}
	now, drills := runs[len(runs)-1].Started, 1
	for _, r := range runs[:len(runs)-1] {
		if age := now.Sub(r.Started); age >= 0 && age < 7*24*time.Hour {
			drills++
		}
	}
	return FalseDiscoveries / float64(drills)
}

// control leaves slower only what is a discovery among all that was tested.
func control(rate float64, windows ...[]Compared) {
	var tested []*Compared
	var p []float64
	for _, all := range windows {
		for i := range all {
			if all[i].P != nil {
				tested, p = append(tested, &all[i]), append(p, *all[i].P)
			}
		}
	}
	for i, limit := range discoveries(p, rate) {
		tested[i].Limit = &limit
		if p[i] > limit && tested[i].Trend == Slower {
			tested[i].Trend = Steady
		}
	}
}

// phase is what the phase of that name took in r, and how far that may be off.
func (r *Run) phase(name string) (took *time.Duration, noise time.Duration) {
	if name == Total {
		for i := range r.Phases {
			noise = max(noise, r.Phases[i].Noise)
		}
		return known(r.RTA), noise
	}
	i := slices.IndexFunc(r.Phases, func(p Phase) bool { return p.Name == name && !p.Absent })
	if i < 0 {
		return nil, 0
	}
	return known(r.Phases[i].Took), r.Phases[i].Noise
}
