package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/tidegate/tidegate/bench/figure"
)

// The targets.
const (
	overTheirsMin = 1.2  // restore, in restores of pgBackRest's best
	overLimitMin  = 0.7  // restore, in the limit
	inARowMax     = 0.02 // stored after 1 % in a row, in what the first base takes
	anywhereMax   = 2.0  // stored after 1 % anywhere, in the changed pages
)

// report is what a run has measured.
type report struct {
	machine string
	version string // of pgBackRest
	rounds  int
	best    int    // of theirs
	again   copied // a base of a database that has not changed
	stages  []*stage
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f", float64(n)/1e6) }

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f", d.Seconds()) }

func (r *report) print(out io.Writer) error {
	fmt.Fprintf(out, "\n%s\npgBackRest %s, process-max = cores, bundles; median (min-max) of %d rounds in turns, repositories not in the page cache\n", r.machine, r.version, r.rounds)
	r.printBackups(out)
	r.printRestores(out)
	r.printTargets(out)
	return nil
}

func (r *report) printBackups(out io.Writer) {
	fmt.Fprintln(out, "\nBackup; ours: until the node holds the base, read back and proven, and until the archive has it, synced")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "changed\t\ts\tstored MB\tpages changed, MB\t")
	for _, st := range r.stages {
		pages := ""
		if st.changed >= 0 {
			pages = megabytes(st.changed * pageBytes)
		}
		for n, c := range st.theirs {
			fmt.Fprintf(w, "%s\tpgBackRest %s\t%s\t%s\t%s\t\n", st.change, theirs[n], seconds(c.took), megabytes(c.stored), pages)
		}
		fmt.Fprintf(w, "%s\tours\t%s + %s\t%s\t%s\t\n", st.change, seconds(st.ours.held), seconds(st.ours.took-st.ours.held), megabytes(st.ours.stored), pages)
	}
	fmt.Fprintf(w, "nothing\tours\t%s + %s\t%s\t\t\n", seconds(r.again.held), seconds(r.again.took-r.again.held), megabytes(r.again.stored))
	_ = w.Flush() // to a terminal
}

func (r *report) printRestores(out io.Writer) {
	fmt.Fprintln(out, "\nRestore into an empty directory, files and directories synced: MB of the base's files a second")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "changed\t\tMB\tMB/s\tprocessor s\t")
	for _, st := range r.stages {
		row := func(name string, rates, cpu []float64) {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t\n", st.change, name, megabytes(st.bytes), figure.SpreadOf(rates).Whole(), figure.SpreadOf(cpu))
		}
		for n, rates := range st.theirsMBs {
			if rates != nil {
				row("pgBackRest "+theirs[n], rates, st.cpuTheirs[n])
			}
		}
		row("ours", st.oursMBs, st.cpuOurs)
		row("limit", st.limitMBs, st.cpuLimit)
	}
	_ = w.Flush() // to a terminal
}

func (r *report) printTargets(out io.Writer) {
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "changed\tfigure\t\ttarget")
	full := float64(r.stages[0].ours.stored)
	for _, st := range r.stages {
		theirs, limit := figure.SpreadOf(st.overTheirs), figure.SpreadOf(st.overLimit)
		fmt.Fprintf(w, "%s\trestore / pgBackRest's fastest\t%s\t>= %.1f: %s\n", st.change, theirs, overTheirsMin, figure.Verdict(theirs.Median, overTheirsMin))
		fmt.Fprintf(w, "%s\trestore / limit\t%s\t>= %.1f: %s\n", st.change, limit, overLimitMin, figure.Verdict(limit.Median, overLimitMin))
		switch got := float64(st.ours.stored); st.change {
		case contiguous:
			fmt.Fprintf(w, "%s\tstored / stored of the first base\t%.4f\t<= %.2f: %s\n", st.change, got/full, inARowMax, figure.Verdict(inARowMax, got/full))
		case random:
			pages := float64(st.changed * pageBytes)
			fmt.Fprintf(w, "%s\tstored / changed pages\t%.2f\t<= %.1f: %s\n", st.change, got/pages, anywhereMax, figure.Verdict(anywhereMax, got/pages))
		}
	}
	_ = w.Flush() // to a terminal
}
