package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/tidegate/tidegate/bench/figure"
)

// report prints the medians of the rounds.
func report(out io.Writer, turns []*turn) {
	fmt.Fprintf(out, "\nmedians of %d rounds\n", len(turns[0].played))
	w := tabwriter.NewWriter(out, 0, 4, 3, ' ', 0)
	row := func(label string, value func(*turn) string) {
		fmt.Fprint(w, label)
		for _, t := range turns {
			fmt.Fprint(w, "\t", value(t))
		}
		fmt.Fprintln(w)
	}
	row("", func(t *turn) string { return t.name })
	row("tables, with indexes", func(t *turn) string { return figure.Human(median(t, func(p *played) int64 { return p.tables })) })
	row("log to be replayed at the kill", func(t *turn) string { return figure.Human(median(t, func(p *played) int64 { return p.behind })) })
	row("commits a second before it, of 4 of 12 clients", func(t *turn) string {
		return fmt.Sprintf("%.0f", median(t, func(p *played) float64 { return p.rate }))
	})
	row("load of the machine at the kill", func(t *turn) string { return t.played[len(t.played)-1].load })
	for _, x := range turns[0].played[0].takeover.Plan.GetPhases().GetPhases() {
		row("phase "+x.GetName(), func(t *turn) string {
			return span(median(t, func(p *played) time.Duration { return phase(p, x.GetName()) }))
		})
	}
	row("from the decision to the first good synthetic write", func(t *turn) string {
		return span(median(t, func(p *played) time.Duration {
			return p.takeover.Plan.GetPhases().GetControllable().AsDuration()
		}))
	})
	row("RTA: last good synthetic write to the first", func(t *turn) string {
		return span(median(t, func(p *played) time.Duration { return p.takeover.Plan.GetPhases().GetRta().AsDuration() }))
	})
	row("RTO: kill to the first commit that a client was told of", func(t *turn) string {
		return span(median(t, func(p *played) time.Duration { return p.takeover.RTO }))
	})
	row("confirmed commits lost", func(t *turn) string { return fmt.Sprint(median(t, func(p *played) int { return p.loss.Lost })) })
	_ = w.Flush() // standard output; the exit code still speaks
}

// phase is how long a phase took; one that is not known has failed the run.
func phase(p *played, name string) time.Duration {
	for _, x := range p.takeover.Plan.GetPhases().GetPhases() {
		if x.GetName() == name {
			return x.GetTook().AsDuration()
		}
	}
	return 0
}

func span(d time.Duration) string { return d.Round(time.Millisecond).String() }

// median is the upper one of two in the middle.
func median[N cmp.Ordered](t *turn, value func(*played) N) N {
	var all []N
	for i := range t.played {
		all = append(all, value(&t.played[i]))
	}
	slices.Sort(all)
	return all[len(all)/2]
}
