package recovery

import (
	"fmt"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
)

// Evidence is what a drill has collected. The collector stands outside both sites, so
// that it sees what an old writer sends that does not know it is one.
type Evidence struct {
	Before []Output // until the failure, in the order they came
	After  []Output // from the takeover until the horizon, in the order they came; those of a superseded epoch too

	// Golden is what a failure-free execution gives for the accepted inputs, those of
	// the new writer's log, at least as far as Before and After go. Nil: no such
	// execution is possible, as for a service that asks the wall clock.
	Golden *Golden

	// OldGolden is the same by the program that ran before, when the drill spans an
	// upgrade; nil when it does not. Golden is by the new program.
	OldGolden *Golden

	// Lost is what is due by the old writer's recovered log, for accepted inputs that
	// the new history does not have. Nil: that log was not recovered; empty: it was,
	// and nothing is lost.
	Lost []Output

	Terms
}

// Golden is what is due.
type Golden struct {
	Outputs []Output // in any order; each id once
	Content bool     // false: only the ids are known, digests mean nothing
}

// Terms say how outputs are to be read.
type Terms struct {
	Epoch        tidegate.Epoch // of the new writer; 0: not known, and then stale outputs are not decidable
	StaleRefused bool           // whoever receives outputs turns those of a superseded epoch away
	Timed        bool           // At of outputs is set

	// MinTail is the number of outputs after the takeover without which nothing is
	// claimed, and of those at the end that a convergent recovery has right: at least
	// the convergence window, [OperatorReport.WindowOutputs]. Less than 1 is 1.
	MinTail int
	Horizon time.Duration // how long After was recorded
}

// Settings of a [Classifier].
type Settings struct {
	Terms

	Due     Due  // what it will be told of what is due
	OldDue  bool // it will be told what is due by the old program, too
	OldLog  bool // the old writer's log was recovered: [Classifier.Lost] says what is lost
	KeepMax int  // it forgets an output that came as it is due once so many later ones are due; 0: never
}

// Due says what is known of what is due.
type Due int

// What may be known.
const (
	DueUnknown Due = iota // there is no golden
	DueIDs                // ids alone
	DueContent            // ids and contents
)

// Classify tells how a service recovered. An error says that the evidence contradicts
// itself, or can not be read.
func Classify(e Evidence) (Result, error) {
	s := Settings{Terms: e.Terms, OldDue: e.OldGolden != nil && e.OldGolden.Content, OldLog: e.Lost != nil}
	if e.Golden != nil {
		s.Due = DueIDs
		if e.Golden.Content {
			s.Due = DueContent
		}
	}
	c := New(s)
	feed := func(what string, outputs []Output, to func(Output) error) error {
		for _, o := range outputs {
			if err := to(o); err != nil {
				return fmt.Errorf("classify recovery: %s: %w", what, err)
			}
		}
		return nil
	}
	if s.OldDue {
		if err := feed("old golden", sorted(e.OldGolden.Outputs), c.OldGolden); err != nil {
			return Result{}, err
		}
	}
	if e.Golden != nil {
		if err := feed("golden", sorted(e.Golden.Outputs), c.Golden); err != nil {
			return Result{}, err
		}
	}
	for _, part := range []struct {
		what    string
		outputs []Output
		to      func(Output) error
	}{{"before", e.Before, c.Before}, {"after", e.After, c.After}, {"lost", e.Lost, c.Lost}} {
		if err := feed(part.what, part.outputs, part.to); err != nil {
			return Result{}, err
		}
	}
	return c.Result(), nil
}

// sorted returns outputs by their place; streams may be mixed.
func sorted(outputs []Output) []Output {
	out := slices.Clone(outputs)
	slices.SortStableFunc(out, func(a, b Output) int { return a.ID.place().compare(b.ID.place()) })
	return out
}
