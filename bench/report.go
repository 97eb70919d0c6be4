package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/tidegate/tidegate/bench/figure"
)

// The targets.
const (
	tripRatioMax     = 2.0 // p50 at N=1, in limits
	pumpRatioMin     = 0.5 // at N=1 and pumpSize, in limits, or
	pumpMBMin        = 200 // MB/s, whichever is less
	pumpSize         = 1000
	replayMin        = 1_000_000 // records/s
	agentMemoryMax   = 100e6
	standbyMemoryMax = 300e6
	agentBytesMax    = 20e6
	distanceRatioMin = 0.95 // sync's rate at distanceTarget, in open's
)

// report is what a run has measured.
type report struct {
	Machine string     `json:"machine"`
	Rounds  int        `json:"rounds"`
	Agent   program    `json:"agent_binary"`
	Trips   []tripRow  `json:"b1"`
	Pumps   []pumpRow  `json:"b2"`
	Replay  *replayRow `json:"b3,omitempty"`

	Distances []distanceRow `json:"b4,omitempty"`
	Snapshots *snapshotRow  `json:"b5,omitempty"`
	Drills    []*drillRow   `json:"drills,omitempty"` // B6, B7
}

func (r *report) print(out io.Writer) {
	fmt.Fprintf(out, "\n%s\n%d rounds, product and limit in turns; median (min-max) of the rounds\n", r.Machine, r.Rounds)
	if len(r.Trips) > 0 {
		r.printTrips(out)
	}
	if len(r.Pumps) > 0 {
		r.printPumps(out)
	}
	if r.Replay != nil {
		r.Replay.print(out)
	}
	if len(r.Distances) > 0 {
		r.printDistances(out)
	}
	if r.Snapshots != nil {
		r.Snapshots.print(out)
	}
	for _, row := range r.Drills {
		row.print(out)
	}
	stripped := ""
	if !r.Agent.Stripped {
		stripped = ", NOT STRIPPED"
	}
	fmt.Fprintf(out, "\nAgent binary %.1f MB%s: target at most %.0f MB: %s\n", float64(r.Agent.Bytes)/1e6, stripped, agentBytesMax/1e6, figure.Verdict(agentBytesMax, float64(r.Agent.Bytes)))
}

func (r *report) printTrips(out io.Writer) {
	fmt.Fprintf(out, "\nB1: one record from append to release, µs; limit: append + fdatasync here, TLS 1.3 to another process, append + fdatasync there, back\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "N\tW\tbytes\tp50\tp99\tp99.9\tlimit p50\tp99\tp99.9\tTLS p50\tfsync p50\tp50 / limit\ttarget\t\t")
	for _, t := range r.Trips {
		target, said := "", ""
		if t.N == 1 {
			target, said = fmt.Sprintf("<= %.1f", tripRatioMax), figure.Verdict(tripRatioMax, t.Ratio.Median)
		}
		fmt.Fprintf(w, "%d\t%d\t%d\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%s\t%s\t%s\t\n", t.N, t.W, t.Size,
			t.Product.P50, t.Product.P99, t.Product.P999, t.Limit.P50, t.Limit.P99, t.Limit.P999, t.TLS.P50, t.Fsync.P50, t.Ratio, target, said)
	}
	_ = w.Flush() // to a terminal
}

func (r *report) printPumps(out io.Writer) {
	fmt.Fprintf(out, "\nB2: durable on W standby nodes, %d KiB in flight; limit: one file, write + fdatasync of groups as large as the journal's\n", flightBytes>>10)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "N\tW\tbytes\trecords/s\tMB/s\tKiB/group\tlimit MB/s\t/ limit\ttarget\t\t")
	for _, t := range r.Pumps {
		target, said := "", ""
		if t.N == 1 && t.Size == pumpSize {
			target, said = fmt.Sprintf(">= %.1f or %d MB/s", pumpRatioMin, pumpMBMin), figure.Verdict(t.Reached.Median, 1)
		}
		fmt.Fprintf(w, "%d\t%d\t%d\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t\n", t.N, t.W, t.Size,
			t.Records.Whole(), t.MB.Whole(), t.Group>>10, t.Limit.Whole(), t.Ratio, target, said)
	}
	_ = w.Flush() // to a terminal
	var agent, standby int64
	for _, t := range r.Pumps {
		agent, standby = max(agent, t.Agent), max(standby, t.Standby)
	}
	fmt.Fprintf(out, "Resident memory, largest: agent %.0f MB, target at most %.0f: %s; standby node %.0f MB, target at most %.0f: %s\n",
		float64(agent)/1e6, agentMemoryMax/1e6, figure.Verdict(agentMemoryMax, float64(agent)),
		float64(standby)/1e6, standbyMemoryMax/1e6, figure.Verdict(standbyMemoryMax, float64(standby)))
}

func (t *replayRow) print(out io.Writer) {
	fmt.Fprintf(out, "\nB3: replay of %d transfers, %d bytes each, into the ledger's state, one core; limit: the same bytes added up in memory, %s MB/s\n",
		t.Records, t.Bytes/max(1, t.Records), t.Memory.Whole())
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\trecords/s\t/ limit\ttarget\t\t")
	for _, x := range []struct {
		name        string
		rate, ratio figure.Spread
	}{{"from memory", t.Warm, t.WarmRatio}, {"from cold files", t.Cold, t.ColdRatio}} {
		fmt.Fprintf(w, "%s\t%s\t%.3f\t>= %d\t%s\t\n", x.name, x.rate.Whole(), x.ratio.Median, replayMin, figure.Verdict(x.rate.Median, replayMin))
	}
	_ = w.Flush() // to a terminal
}
