package evidence

import (
	_ "embed"
	"html/template"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/tidegate/tidegate/internal/cli"
)

//go:embed page.html.tmpl
var pageText string

// barWidth is how wide the bar of the phases is, in units of the drawing.
const barWidth = 1000.0

// colors of the phases, one after the other; neighbours differ on paper, too.
var colors = []string{"#1f6feb", "#9ecbff", "#0a7d5a", "#8fd6bd", "#8250df", "#d4bfff", "#bc4c00", "#ffc680", "#57606a", "#c3c9d0"}

// page is what the template is given.
type page struct {
	S      Sealed
	R      Report
	Bar    *bar // nil: no phase was measured
	Phases []pagePhase
	Lag    []pageLag
	Looked bool // for left-overs
}

type pagePhase struct {
	Phase
	Color    string // "" where it was not measured
	Compared *Compared
}

type pageLag struct {
	When string
	LagSeen
}

// bar is the phases behind one another, as far as they were measured, with what they
// are held against.
type bar struct {
	Parts []barPart
	Marks []barMark
}

type barPart struct{ X, Width, Name, Took, Color string }

type barMark struct {
	X, Y, Text, Anchor string
	Dashed             bool
}

// WriteHTML writes a report as one page without scripts, which needs nothing else and
// can be printed. It says what the report says: whether that is to be believed is what
// [Verify] tells.
func WriteHTML(w io.Writer, s Sealed) error {
	t, err := template.New("page").Funcs(template.FuncMap{
		"span": spanOf, "count": cli.Count[int64], "size": cli.MaybeSize, "word": wordOf,
		"when":    func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) },
		"ratio":   func(x *float64) string { return numberOf(x, 2) },
		"p":       func(x *float64) string { return numberOf(x, 4) },
		"percent": percentOf, "share": func(x *float64) string { return percentOf(*x) },
	}).Parse(pageText)
	if err != nil {
		return err
	}
	r := s.Report
	p := page{S: s, R: r, Looked: r.LeftOvers != nil, Lag: []pageLag{{"before", r.Lag.Before}, {"during", r.Lag.During}, {"after", r.Lag.After}}}
	for i, phase := range r.Phases {
		one := pagePhase{Phase: phase}
		if phase.Took != nil {
			one.Color = colors[i%len(colors)]
		}
		if at := slices.IndexFunc(r.Compared, func(c Compared) bool { return c.Phase == phase.Name }); at >= 0 {
			one.Compared = &r.Compared[at]
		}
		p.Phases = append(p.Phases, one)
	}
	p.Bar = barOf(p.Phases, r.Recovered)
	return t.Execute(w, p)
}

// barOf draws what was measured, to the scale of the longest of it and the objective.
func barOf(phases []pagePhase, against Recovered) *bar {
	var total time.Duration
	for _, p := range phases {
		if p.Took != nil {
			total += *p.Took
		}
	}
	longest := total
	for _, d := range []*time.Duration{against.Objective, against.Actual} {
		if d != nil {
			longest = max(longest, *d)
		}
	}
	if total == 0 {
		return nil
	}
	x := func(d time.Duration) string { return number(float64(d)/float64(longest)*barWidth, 1) }
	out := &bar{}
	var at time.Duration
	for _, p := range phases {
		if p.Took == nil {
			continue
		}
		out.Parts = append(out.Parts, barPart{x(at), x(*p.Took), p.Name, cli.Span(*p.Took), p.Color})
		at += *p.Took
	}
	mark := func(d *time.Duration, name, y string, dashed bool) {
		if d == nil {
			return
		}
		anchor := "end" // so that the text stays within the drawing
		if *d < longest/2 {
			anchor = "start"
		}
		out.Marks = append(out.Marks, barMark{x(*d), y, name + " " + cli.Span(*d), anchor, dashed})
	}
	mark(against.Actual, "RTA", "80", false)
	mark(against.Objective, "RTO", "12", true)
	return out
}

func spanOf(d *time.Duration) string {
	if d == nil {
		return cli.Unknown
	}
	return cli.Span(*d)
}

func wordOf(s *string) string {
	if s == nil {
		return cli.Unknown
	}
	return *s
}

func number(x float64, digits int) string { return strconv.FormatFloat(x, 'f', digits, 64) }

func numberOf(x *float64, digits int) string {
	if x == nil {
		return cli.Unknown
	}
	return number(*x, digits)
}

// percentOf prints a share of 1 as people say it.
func percentOf(x float64) string { return number(x*100, 1) + " %" }
