package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
)

// table has a column for each act's result.
type table[R any] struct {
	out     io.Writer
	cells   *tabwriter.Writer
	results []R
}

func newTable[R any](out io.Writer, results []R) *table[R] {
	fmt.Fprintln(out)
	return &table[R]{out: out, cells: tabwriter.NewWriter(out, 0, 4, 3, ' ', 0), results: results}
}

func (t *table[R]) row(label string, value func(R) string) {
	fmt.Fprint(t.cells, label)
	for _, r := range t.results {
		fmt.Fprint(t.cells, "\t", value(r))
	}
	fmt.Fprintln(t.cells)
}

// phases has a row for each phase of any of the plans.
func (t *table[R]) phases(plan func(R) *pb.Plan) {
	seen := map[string]bool{}
	for _, r := range t.results {
		for _, p := range plan(r).GetPhases().GetPhases() {
			if name := p.GetName(); !seen[name] {
				seen[name] = true
				t.row("RTO phase "+name, func(r R) string { return phase(plan(r), name) })
			}
		}
	}
}

// end prints the table, and below it what did not hold.
func (t *table[R]) end(broken func(R) []error) {
	_ = t.cells.Flush() // standard output; the exit code still speaks
	for _, r := range t.results {
		for _, b := range broken(r) {
			fmt.Fprintln(t.out, "DID NOT HOLD:", b)
		}
	}
}

func phase(p *pb.Plan, name string) string {
	for _, ph := range p.GetPhases().GetPhases() {
		if ph.GetName() == name && ph.GetTook() != nil {
			return ph.GetTook().AsDuration().Round(time.Millisecond).String()
		}
	}
	return "unknown"
}

func yesNo(ok bool) string {
	if ok {
		return "yes"
	}
	return "NO"
}
