package evidence

import (
	"cmp"
	"encoding/json"
	"fmt"
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
// drill with a word about it, and of the newest one like that which has seen a type. What
// drills after that one did not see again is unknown; what failed still has.
type MatrixRow struct {
	Service  tidegate.ServiceName `json:"service"`
	Approach recovery.Approach    `json:"approach"`
	Class    recovery.Class       `json:"class"`

	recovery.Comparison // computed anew: a report's own word is not needed

	Drill  *Number    `json:"drill"`         // that has seen a type; nil: none has
	Newest *Number    `json:"newest_drill"`  // of the level at which it is looked for, and that began; nil: none has a word about it
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
	level, since := Level(""), 0 // since: drills after the one that has seen it
	for i := range reports {
		r := &reports[i].Recovery
		if r.Required == nil && r.Predicted == nil && r.Observed == nil {
			if reports[i].Level == level && reports[i].Verdict.Outcome != Refused {
				out.Newest = &reports[i].Number
				since++
			}
			continue
		}
		switch {
		case newest == nil, r.otherwise(newest):
			// It was made otherwise: what was seen of it before says nothing.
			out.Drill, out.Began, out.Looked, out.Seen, seen = nil, nil, 0, 0, recovery.Result{}
		case reports[i].Verdict.Outcome == Refused:
			continue
		}
		level, out.Newest = reports[i].Level, &reports[i].Number
		since++
		newest = r
		out.Looked++
		got := r.seen()
		if got.Type == recovery.Unknown && got.AtBest == recovery.Unknown {
			continue
		}
		out.Drill, out.Began, seen = &reports[i].Number, &reports[i].Started.At, got
		out.Seen++
		since = 0
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
	if since > 0 && out.Drill != nil && out.Outcome != recovery.Failed {
		out.Comparison = recovery.Compare(predicted, required, recovery.Result{})
		out.Reasons = append(out.Reasons, fmt.Sprintf("the newest %d drills have not seen it; drill %d saw %s", since, *out.Drill, seen.Type))
	}
	return out
}

// otherwise reports whether the service was made otherwise than in another report, or
// other things were asked of it.
func (r *Recovery) otherwise(than *Recovery) bool {
	words := func(r *Recovery) [4]string {
		return [4]string{wordOf(r.Approach), wordOf(r.Class), wordOf(r.Predicted), wordOf(r.Required)}
	}
	return words(r) != words(than)
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
