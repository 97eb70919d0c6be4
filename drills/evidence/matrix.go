package evidence

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/recovery"
)

// Matrix holds what was required and predicted of recoveries against what drills have
// seen. Its JSON form is stable.
type Matrix struct {
	Services []MatrixRow  `json:"services"` // by name
	Cells    []MatrixCell `json:"cells"`    // approach by approach, of each from the weakest class to the strongest
}

// MatrixRow is what is known of one service as it was protected last: of its newest
// drill with a word about it, and of the newest one like that which has seen a type.
type MatrixRow struct {
	Service  tidegate.ServiceName `json:"service"`
	Approach recovery.Approach    `json:"approach"`
	Class    recovery.Class       `json:"class"`

	recovery.Comparison // computed anew: a report's own word is not needed

	Drill  *Number    `json:"drill"`         // that has seen it; nil: none has
	Began  *time.Time `json:"began"`         // of that drill
	Looked int        `json:"drills_looked"` // in which it was looked for
	Seen   int        `json:"drills_seen"`   // in which it was seen
}

// MatrixCell is one approach and class over all services.
type MatrixCell struct {
	Approach  recovery.Approach `json:"approach"`
	Class     recovery.Class    `json:"class"`
	Predicted recovery.Type     `json:"predicted"` // by themselves, without ids, gate and dedup
	Observed  recovery.Type     `json:"observed"`  // the weakest that was seen by the services' newest drills; unknown: nobody has looked
	Services  int               `json:"services"`  // of which it is known
}

// MatrixOf computes the matrix. Reports may come in any order; those of drills that had
// no word about the recovery type say nothing, but that their service is there.
func MatrixOf(reports []Report) Matrix {
	reports = slices.Clone(reports)
	slices.SortStableFunc(reports, func(a, b Report) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Number, b.Number))
	})
	m := Matrix{Services: []MatrixRow{}, Cells: []MatrixCell{}}
	for len(reports) > 0 {
		n := 1
		for n < len(reports) && reports[n].Service == reports[0].Service {
			n++
		}
		m.Services = append(m.Services, rowOf(reports[:n]))
		reports = reports[n:]
	}
	for _, row := range recovery.Table() {
		for _, class := range recovery.Classes() {
			m.Cells = append(m.Cells, m.cell(row, class))
		}
	}
	return m
}

// Outcome is the gravest of all services: failed before unknown before the others.
func (m Matrix) Outcome() recovery.Outcome {
	worst := recovery.Holds
	for _, r := range m.Services {
		switch {
		case r.Outcome == recovery.Failed:
			return recovery.Failed
		case r.Outcome == recovery.Undecided:
			worst = recovery.Undecided
		}
	}
	return worst
}

func (m Matrix) cell(row recovery.Row, class recovery.Class) MatrixCell {
	c := MatrixCell{Approach: row.Approach, Class: class, Predicted: row.For(class)}
	var seen []recovery.Type
	for _, r := range m.Services {
		if r.Approach == c.Approach && r.Class == class && r.Observed != recovery.Unknown {
			seen = append(seen, r.Observed)
		}
	}
	c.Services = len(seen)
	if len(seen) > 0 {
		c.Observed = slices.Min(seen)
	}
	return c
}

// rowOf is the row of one service, whose reports are given oldest first.
func rowOf(reports []Report) MatrixRow {
	out := MatrixRow{Service: reports[0].Service}
	var newest *Recovery // that has a word about it
	var seen recovery.Result
	for i := range reports {
		r := &reports[i].Recovery
		if r.Required == nil && r.Predicted == nil && r.Observed == nil {
			continue
		}
		if newest == nil || wordOf(r.Approach) != wordOf(newest.Approach) || wordOf(r.Class) != wordOf(newest.Class) {
			// It was made otherwise: what was seen of it before says nothing.
			out.Drill, out.Began, out.Looked, out.Seen, seen = nil, nil, 0, 0, recovery.Result{}
		}
		newest = r
		out.Looked++
		got := r.seen()
		if got.Type == recovery.Unknown && got.AtBest == recovery.Unknown {
			continue
		}
		out.Drill, out.Began, seen = &reports[i].Number, &reports[i].Started.At, got
		out.Seen++
	}
	var predicted, required recovery.Type
	if newest != nil {
		// A word that is not known leaves unknown.
		_ = out.Approach.UnmarshalText([]byte(wordOf(newest.Approach)))
		_ = out.Class.UnmarshalText([]byte(wordOf(newest.Class)))
		_ = predicted.UnmarshalText([]byte(wordOf(newest.Predicted)))
		if newest.Required != nil {
			required, _ = recovery.ParseRequired(*newest.Required)
		}
	}
	out.Comparison = recovery.Compare(predicted, required, seen)
	return out
}

// seen is what the report says was seen.
func (r *Recovery) seen() (out recovery.Result) {
	var v struct {
		AtBest recovery.Type `json:"at_best"`
	}
	_ = out.Type.UnmarshalText([]byte(wordOf(r.Observed))) // one that is not known leaves unknown
	if out.AtBest = out.Type; json.Unmarshal(r.Vector, &v) == nil && out.Type == recovery.Unknown {
		out.AtBest = v.AtBest
	}
	return out
}
