package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/bench/figure"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/shadow"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/internal/vfs"
)

// B6 and B7: drills of level L1, and what they do to live exposure. The service is in
// mode bounded, where there is some, and under load all the time. In each round it is
// looked at for a while (A), while `tidegate drill run` rehearses its recovery (B), and
// for a while again (A').
const (
	drillRatioMax = 1.2             // p99 of B, in that of A and A'
	drillSettle   = 5 * time.Second // after a drill, whose files are being removed, before A'
)

// drillBounds are wide: what is released is what the load asks for, drill or none.
var drillBounds = tidegate.Bounds{Records: 1_000_000, Bytes: 1 << 30, Window: 5 * time.Second}

// drillRow is B6 or B7.
type drillRow struct {
	Name     string        `json:"name"`
	What     string        `json:"what"`
	Rate     string        `json:"rate"`
	Verdicts []string      `json:"verdicts"` // of each round's report
	Phases   []phaseRow    `json:"phases"`
	RTA      figure.Spread `json:"rta_seconds"`
	Whole    figure.Spread `json:"whole_seconds"` // with its preparation, checks and teardown
	Backlog  figure.Spread `json:"backlog_mib"`
	Exposure []exposureRow `json:"exposure"`

	broken error // drills that did not come to pass
}

type phaseRow struct {
	Name    string        `json:"name"`
	Seconds figure.Spread `json:"seconds"`
}

// exposureRow is one quantity in the turns of all rounds together; ratios are of the
// p99 of a round.
type exposureRow struct {
	Name    string        `json:"name"`
	Without tailOf        `json:"without"`       // A
	With    tailOf        `json:"with"`          // B
	Again   tailOf        `json:"without_again"` // A'
	Band    figure.Spread `json:"without_again_to_without"`
	Ratio   figure.Spread `json:"with_to_without"`
	Rounds  int           `json:"rounds"` // that have ratios: without exposure there is none
}

// tailOf is how one quantity was distributed in a turn.
type tailOf struct {
	Looks   int     `json:"looks"`
	Unknown int     `json:"unknown"` // looks more
	P50     float64 `json:"p50"`
	P99     float64 `json:"p99"`
	Max     float64 `json:"max"`
}

// drilling is a service whose recovery is rehearsed round by round.
type drilling struct {
	lab     *lab.Lab
	file    string // of the drill
	backlog string // as `tidegate drill run` takes it
	span    time.Duration
	witness witness

	reports     []evidence.Report
	whole       []float64 // seconds
	a, b, again []stretch
	row         drillRow
	say         func(string, ...any)
}

// newDrilling writes the file of a drill that rehearses with the node beside the live
// service.
func newDrilling(ctx context.Context, l *lab.Lab, p plan, row drillRow, backlog string, more map[string]any, say func(string, ...any)) (*drilling, error) {
	more["rate"] = p.rate
	if err := l.SigningKey(); err != nil {
		return nil, err
	}
	file, err := l.DrillFile(ctx, snapshotNode, more)
	if err != nil {
		return nil, err
	}
	cfg, err := config.Load[shadow.Config](file)
	if err != nil {
		return nil, err
	}
	row.Rate = p.rate
	d := &drilling{lab: l, file: file, backlog: backlog, span: p.drillSpan, row: row, say: say}
	d.witness = witness{agent: l.AgentURL(primary), client: http.Client{Timeout: time.Second}}
	d.witness.node, err = shadow.NewNode(vfs.OS(), clock.System(), &cfg)
	return d, err
}

// rounds takes all turns.
func (d *drilling) rounds(ctx context.Context, rounds int) (*drillRow, error) {
	for n := range rounds {
		d.say("%s: round %d of %d: %s without a drill", d.row.Name, n+1, rounds, d.span)
		a := d.without(ctx, d.span)
		d.say("%s: round %d of %d: a drill", d.row.Name, n+1, rounds)
		b, err := d.during(ctx)
		if err != nil {
			return nil, err
		}
		d.say("%s: round %d of %d: %s, took %.1f s; %s without one", d.row.Name, n+1, rounds, d.reports[n].Verdict.Outcome, d.whole[n], d.span)
		d.without(ctx, drillSettle)
		again := d.without(ctx, d.span)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		d.a, d.b, d.again = append(d.a, a), append(d.b, b), append(d.again, again)
	}
	d.sum()
	return &d.row, nil
}

func (d *drilling) without(ctx context.Context, span time.Duration) stretch {
	ctx, cancel := context.WithTimeout(ctx, span)
	defer cancel()
	return d.witness.watch(ctx)
}

// during rehearses once, and looks meanwhile.
func (d *drilling) during(ctx context.Context) (s stretch, err error) {
	watching, stop := context.WithCancel(ctx)
	var g errgroup.Group
	g.Go(func() error {
		s = d.witness.watch(watching)
		return nil
	})
	began := time.Now()
	rep, err := d.rehearse(ctx)
	d.whole = append(d.whole, time.Since(began).Seconds())
	stop()
	err = errors.Join(err, g.Wait())
	d.reports = append(d.reports, rep)
	return s, err
}

// rehearse runs the product's own command, and returns its report, whatever it says.
func (d *drilling) rehearse(ctx context.Context) (rep evidence.Report, err error) {
	text, err := d.lab.Command(ctx, d.lab.Bin("tidegate"), "drill", "run", "--config", d.file, "--backlog", d.backlog, "-o", "json")
	_, report, found := strings.Cut(string(text), "{")
	if !found {
		return rep, errors.Join(err, errors.New("the drill has printed no report"))
	}
	if bad := json.Unmarshal([]byte("{"+report), &rep); bad != nil {
		return rep, errors.Join(err, bad)
	}
	switch rep.Verdict.Outcome {
	case evidence.Passed, evidence.Partial:
	case evidence.Failed, evidence.Interrupted, evidence.Refused:
		d.row.broken = errors.Join(d.row.broken, fmt.Errorf("%s: a drill is %s: %s", d.row.Name, rep.Verdict.Outcome, strings.Join(rep.Verdict.Reasons, "; ")))
	}
	return rep, nil
}

// sum makes the row of the rounds.
func (d *drilling) sum() {
	r := &d.row
	r.Whole = figure.SpreadOf(d.whole)
	took := map[string][]float64{}
	var order []string
	var rta, backlog []float64
	for _, rep := range d.reports {
		r.Verdicts = append(r.Verdicts, strings.Join(append([]string{string(rep.Verdict.Outcome)}, rep.Verdict.Reasons...), ": "))
		for _, p := range rep.Phases {
			if p.Took == nil {
				continue // a clone has no such phase, or the verdict says why
			}
			if took[p.Name] == nil {
				order = append(order, p.Name)
			}
			took[p.Name] = append(took[p.Name], p.Took.Seconds())
		}
		if rep.Recovered.Actual != nil {
			rta = append(rta, rep.Recovered.Actual.Seconds())
		}
		if rep.Backlog.Bytes != nil {
			backlog = append(backlog, float64(*rep.Backlog.Bytes)/(1<<20))
		}
	}
	for _, name := range order {
		r.Phases = append(r.Phases, phaseRow{name, figure.SpreadOf(took[name])})
	}
	r.RTA, r.Backlog = figure.SpreadOf(rta), figure.SpreadOf(backlog)
	for q := range quantities {
		r.Exposure = append(r.Exposure, d.exposed(q))
	}
}

func (d *drilling) exposed(q int) exposureRow {
	x := exposureRow{Name: quantityNames[q], Without: tailIn(d.a, q), With: tailIn(d.b, q), Again: tailIn(d.again, q)}
	var band, ratios []float64
	for n := range d.a {
		a, b, again := d.a[n].p(q, 990), d.b[n].p(q, 990), d.again[n].p(q, 990)
		if a <= 0 || again <= 0 || len(d.b[n].said[q]) == 0 {
			continue
		}
		band, ratios = append(band, again/a), append(ratios, 2*b/(a+again))
	}
	x.Band, x.Ratio, x.Rounds = figure.SpreadOf(band), figure.SpreadOf(ratios), len(ratios)
	return x
}

// tailIn is a quantity in the turns of one kind.
func tailIn(turns []stretch, q int) tailOf {
	var all stretch
	for _, t := range turns {
		all.add(t)
	}
	t := tailOf{Looks: len(all.said[q]), Unknown: all.unknown[q], P50: all.p(q, 500), P99: all.p(q, 990)}
	if t.Looks > 0 {
		t.Max = slices.Max(all.said[q])
	}
	return t
}

func (r *drillRow) print(out io.Writer) {
	fmt.Fprintf(out, "\n%s: drills of level L1 under load, %s, rate %s/s\n", r.Name, r.What, r.Rate)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, p := range r.Phases {
		fmt.Fprintf(w, "phase %s\t%s s\n", p.Name, p.Seconds)
	}
	fmt.Fprintf(w, "RTA\t%s s\n", r.RTA)
	fmt.Fprintf(w, "backlog\t%s MiB\n", r.Backlog)
	fmt.Fprintf(w, "the whole drill\t%s s\n", r.Whole)
	for n, v := range r.Verdicts {
		fmt.Fprintf(w, "verdict %d\t%s\n", n+1, v)
	}
	_ = w.Flush() // to a terminal
	fmt.Fprintf(out, "Live exposure, asked for every %s: A and A' without a drill, B while one runs\n", exposureEvery)
	w = tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tturn\tlooks\tunknown\tp50\tp99\tmax\tp99 of a round\t\t")
	for _, x := range r.Exposure {
		for _, t := range []struct {
			turn string
			tail tailOf
			to   string
		}{{"A", x.Without, ""}, {"A'", x.Again, "/ A " + x.Band.String()}, {"B", x.With, "/ A " + x.Ratio.String()}} {
			fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%.1f\t%.1f\t%.1f\t%s\t\n", x.Name, t.turn, t.tail.Looks, t.tail.Unknown, t.tail.P50, t.tail.P99, t.tail.Max, t.to)
		}
	}
	_ = w.Flush() // to a terminal
	for _, x := range r.Exposure {
		fmt.Fprintf(out, "%s: target: p99 at most %.1f times that without: %s\n", x.Name, drillRatioMax, x.judged(len(r.Verdicts)))
	}
}

// judged holds a quantity against the target. Where turns without a drill differ by more
// than the target allows, a ratio within their band says nothing.
func (x exposureRow) judged(rounds int) string {
	of := fmt.Sprintf("%d of %d rounds compared, A' / A spans %.2f to %.2f", x.Rounds, rounds, x.Band.Min, x.Band.Max)
	switch {
	case x.Rounds == 0:
		return "not to be told: there was none without a drill"
	case x.Rounds < rounds && x.Ratio.Median <= drillRatioMax: // what is left out may be the worst
		return "not to be told: there was none without a drill in some rounds; " + of
	case x.Ratio.Median <= x.Band.Max && x.Band.Max > drillRatioMax:
		return "not to be told: turns without a drill differ by more; " + of
	default:
		return figure.Verdict(drillRatioMax, x.Ratio.Median) + "; " + of
	}
}
