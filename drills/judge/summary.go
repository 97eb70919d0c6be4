package judge

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Summary is what the drills of one stratum show together.
type Summary struct {
	Stratum   Stratum        `json:"stratum"`
	Drills    int            `json:"drills"`
	Outcomes  []Counted      `json:"outcomes"` // of each that occurs, passed first
	LastPass  *time.Time     `json:"last_pass"`
	SincePass *time.Duration `json:"since_pass_ns"` // nil: none has passed yet, or its clock was ahead
	RTA       Times          `json:"rta"`
	Newest    string         `json:"newest"`   // id of the last run that measured something; Compared is about it
	Compared  []Compared     `json:"compared"` // with the runs before it
	Proof     Proof          `json:"proof"`
}

// Counted is how many runs had an outcome.
type Counted struct {
	Outcome Outcome `json:"outcome"`
	Drills  int     `json:"drills"`
}

// Times are the recovery times of the runs that have one. Without any they are unknown.
type Times struct {
	Objective *time.Duration `json:"rto_ns"`
	Drills    int            `json:"drills"`
	Newest    *time.Duration `json:"newest_ns"`
	Median    *time.Duration `json:"p50_ns"`
	P95       *time.Duration `json:"p95_ns"` // the smallest that is at least 95 % of them
	Max       *time.Duration `json:"max_ns"`
}

// Summarise gives one summary for each stratum of runs, the one with the newest run
// first, as of the wall-clock time at. Runs are oldest first.
func Summarise(runs []Run, at time.Time, o Objectives) []Summary {
	var out []Summary
	for i := len(runs) - 1; i >= 0; i-- {
		if s := runs[i].Stratum; !slices.ContainsFunc(out, func(done Summary) bool { return done.Stratum == s }) {
			of := slices.DeleteFunc(slices.Clone(runs), func(r Run) bool { return r.Stratum != s })
			out = append(out, summarise(of, at, o))
		}
	}
	return out
}

// summarise is the summary of runs of one stratum, of which there is at least one.
func summarise(runs []Run, at time.Time, o Objectives) Summary {
	s := Summary{Stratum: runs[0].Stratum, Drills: len(runs), Outcomes: []Counted{}, Compared: []Compared{}}
	trials := make([]tried, 0, len(runs))
	var rtas []time.Duration
	for i := range runs {
		r := &runs[i]
		trials = append(trials, trial(r.Outcome, r.RTA))
		if rta := known(r.RTA); rta != nil {
			rtas = append(rtas, *rta)
		}
		if r.Outcome == Passed {
			s.LastPass = &r.Started
		}
		if r.ran() {
			s.Newest, s.Compared = r.ID, Compare(*r, runs[:i])
		}
	}
	for _, outcome := range []Outcome{Passed, Partial, Failed, Interrupted, Refused} {
		n := 0
		for i := range runs {
			if runs[i].Outcome == outcome {
				n++
			}
		}
		if n > 0 {
			s.Outcomes = append(s.Outcomes, Counted{outcome, n})
		}
	}
	if s.LastPass != nil && !at.Before(*s.LastPass) {
		s.SincePass = new(at.Sub(*s.LastPass))
	}
	s.RTA, s.Proof = timesOf(rtas, o), proofOf(trials, o)
	return s
}

func timesOf(rtas []time.Duration, o Objectives) Times {
	t := Times{Drills: len(rtas)}
	if o.RTO > 0 {
		t.Objective = &o.RTO
	}
	if len(rtas) == 0 {
		return t
	}
	t.Newest, t.Median = new(rtas[len(rtas)-1]), new(medianOf(rtas))
	slices.Sort(rtas)
	t.P95, t.Max = new(rtas[(95*len(rtas)+99)/100-1]), new(rtas[len(rtas)-1])
	return t
}

// WriteText writes s for people, in a few lines.
func (s Summary) WriteText(w io.Writer) error {
	var outcomes []string
	for _, c := range s.Outcomes {
		outcomes = append(outcomes, fmt.Sprintf("%d %s", c.Drills, c.Outcome))
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(tw, "%s\n", s.Stratum) // a tabwriter keeps its error for Flush
	_, _ = fmt.Fprintf(tw, "  drills:\t%s\n", strings.Join(outcomes, ", "))
	_, _ = fmt.Fprintf(tw, "  last pass:\t%s\n", s.lastPass())
	_, _ = fmt.Fprintf(tw, "  RTA:\t%s\n", s.RTA)
	_, _ = fmt.Fprintf(tw, "  proven:\t%s\n", s.Proof)
	if err := tw.Flush(); err != nil {
		return err
	}
	if len(s.Compared) == 0 {
		return nil
	}
	_, _ = fmt.Fprintf(tw, "  PHASE\tTOOK\tNEWEST\tBEFORE\tRATIO\tP\tTREND\n")
	for _, c := range s.Compared {
		_, _ = fmt.Fprintf(tw, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\n", c.Phase, span(c.Took),
			ofRuns(c.NewestMedian, c.Newest), ofRuns(c.BaselineMedian, c.Baseline), number(c.Ratio), number(c.P), c.Trend)
	}
	return tw.Flush()
}

func (s Summary) lastPass() string {
	switch {
	case s.LastPass == nil:
		return "never"
	case s.SincePass == nil:
		return s.LastPass.UTC().Format(time.RFC3339) + ", which is in the future: look at the clocks"
	}
	return fmt.Sprintf("%s, %.1f days ago", s.LastPass.UTC().Format(time.RFC3339), s.SincePass.Hours()/24)
}

func (t Times) String() string {
	text := "not measured yet"
	if t.Drills > 0 {
		text = fmt.Sprintf("newest %s, median %s, p95 %s, longest %s of %d", span(t.Newest), span(t.Median), span(t.P95), span(t.Max), t.Drills)
	}
	if t.Objective != nil {
		text += "; RTO " + t.Objective.String()
	}
	return text
}

func (p Proof) String() string {
	text := "nothing: no drill has passed or failed"
	if p.Percentile != nil {
		text = fmt.Sprintf("%.1f %% of such recoveries pass, by %d of %d drills, with a confidence of %.0f %%",
			100**p.Percentile, p.Passes, p.Passes+p.Misses, 100*p.Confidence)
	}
	if p.NextPasses != nil {
		text += fmt.Sprintf("; %d more in a row prove %.4g %%", *p.NextPasses, 100**p.Next)
	}
	return text
}

// ofRuns is a median and how many runs it is of.
func ofRuns(d *time.Duration, runs int) string {
	if d == nil {
		return unknownText
	}
	return fmt.Sprintf("%s (%d)", span(d), runs)
}

// unknownText is how a number that is not known is printed; it is never 0.
const unknownText = "unknown"

func span(d *time.Duration) string {
	if d == nil {
		return unknownText
	}
	return d.Round(time.Millisecond).String()
}

func number(f *float64) string {
	if f == nil {
		return unknownText
	}
	return strconv.FormatFloat(*f, 'g', 3, 64)
}
