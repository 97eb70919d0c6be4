package recovery

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
)

// Operator is a service, or a part of one, as the test of its class drives it: one call
// at a time. An error of any method ends the test.
type Operator interface {
	// Reset makes its state empty, whatever it has been fed.
	Reset() error
	// Feed takes the next input and returns the digests of the outputs that it gives,
	// in order: see [DigestOf]. An operator that was reset takes inputs from any on.
	Feed(in Input) ([]tidegate.Digest, error)
	// State returns the digest of the state; zero if it has none, always then.
	State() tidegate.Digest
	// Close is called once, at the end.
	Close() error
}

// Snapshotter is an [Operator] whose state can be written down: the test then begins at
// states, too, and finds what is missing in them.
type Snapshotter interface {
	Operator

	Snapshot() ([]byte, error)
	Restore(state []byte) error
}

// Input is one recorded input.
type Input struct {
	Position tidegate.Position // in its stream
	Payload  []byte            // not to be changed
}

// Surroundings are what must not decide about outputs. Who makes an operator makes them
// so, as far as its kind allows: in the process that it starts, or in the clock that it
// hands in.
type Surroundings struct {
	Name        string
	Procs       int            // GOMAXPROCS, or CPUs; 0: as they are
	Zone        *time.Location // time zone; nil: as it is
	ClockOffset time.Duration  // of the wall clock
}

// DefaultSurroundings returns those that the test takes when it is told none.
func DefaultSurroundings() []Surroundings {
	return []Surroundings{
		{Name: "as it is"},
		{Name: "as it is, again"},
		{Name: "1 processor, +14 h zone, clock 36 h ahead", Procs: 1, Zone: time.FixedZone("UTC+14", 14*3600), ClockOffset: 36 * time.Hour},
		{Name: "7 processors, -11 h zone, clock 400 days behind", Procs: 7, Zone: time.FixedZone("UTC-11", -11*3600), ClockOffset: -400 * 24 * time.Hour},
	}
}

// OperatorPlan is what [TestOperator] does.
type OperatorPlan struct {
	New    func(Surroundings) (Operator, error) // a new operator, empty
	Inputs []Input                              // in the order of the stream

	Surroundings []Surroundings // at least two; nil: [DefaultSurroundings]
	Positions    []int          // inputs before the places it begins at, or before; nil: at 1/4, 1/2 and 3/4
	Offsets      []int          // inputs before a position, from which an empty operator is fed; nil: 1, 10, 100

	// TailMin is how many outputs at the end must be the same for an operator to count
	// as converged; 0: 10.
	TailMin int

	Progress func(fed, inputs int64) // called now and then, by the same goroutine; may be nil
}

func (p OperatorPlan) setDefaults() OperatorPlan {
	n := len(p.Inputs)
	if p.Surroundings == nil {
		p.Surroundings = DefaultSurroundings()
	}
	if p.Positions == nil {
		p.Positions = slices.Compact([]int{n / 4, n / 2, n * 3 / 4})
	}
	if p.Offsets == nil {
		p.Offsets = []int{1, 10, 100}
	}
	if p.TailMin == 0 {
		p.TailMin = 10
	}
	return p
}

// FedMax is how many inputs all executions of the plan take together, at most: without
// those that a class that is refuted early spares. 0 for a plan that is not valid.
func (p OperatorPlan) FedMax() (most int64) {
	p = p.setDefaults()
	n := int64(len(p.Inputs))
	most = n * int64(len(p.Surroundings))
	for _, k := range p.Positions {
		most += (n - int64(k)) * int64(len(p.Surroundings)-1) // of those that can begin at states
		for _, d := range p.Offsets {
			if k > d {
				most += n - int64(k) + int64(d)
			}
		}
	}
	return max(most, 0)
}

func (p OperatorPlan) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if p.New == nil {
		bad("want a function that makes operators")
	}
	if len(p.Inputs) == 0 {
		bad("want inputs")
	}
	if len(p.Surroundings) < 2 {
		bad("surroundings: want at least 2, so that there is something to compare (got %d)", len(p.Surroundings))
	}
	for _, k := range p.Positions {
		if k < 0 || k > len(p.Inputs) {
			bad("positions: want 0 to %d (got %d)", len(p.Inputs), k)
		}
	}
	for _, d := range p.Offsets {
		if d < 1 {
			bad("offsets: want 1 or more (got %d)", d)
		}
	}
	if p.TailMin < 1 {
		bad("tail: want 1 or more outputs (got %d)", p.TailMin)
	}
	return errors.Join(errs...)
}

// OperatorReport says what class an operator has as far as it was tested. A class that
// was refuted is refuted; the one that is left may still be, by other inputs.
type OperatorReport struct {
	Class Class `json:"class"`
	// Refuted says what refuted each stronger class, at most one difference each.
	Refuted []Difference `json:"refuted"`
	// WindowInputs and WindowOutputs say how many inputs, and outputs, behind a position
	// it took at most until outputs were the same; nil when they never were, or it was
	// not tried.
	WindowInputs  *int     `json:"window_inputs"`
	WindowOutputs *int     `json:"window_outputs"`
	Coverage      Coverage `json:"coverage"`
}

// Coverage says how much was tried.
type Coverage struct {
	Inputs       int      `json:"inputs"`
	Outputs      int      `json:"outputs"` // of one execution
	States       bool     `json:"states"`  // the operator has digests of its state
	Surroundings []string `json:"surroundings"`
	Positions    []int    `json:"positions"`
	Offsets      []int    `json:"offsets"`
	Pairs        int      `json:"pairs"`     // of position and offset, begun empty
	Skipped      int      `json:"skipped"`   // pairs that begin before the first input, or have too few outputs to tell
	Snapshots    int      `json:"snapshots"` // positions begun at a state that was written down
	Fed          int64    `json:"fed"`       // inputs, of all executions
}

func (r OperatorReport) String() string {
	text := fmt.Sprintf("%s, not refuted by %d inputs with %d outputs: %d surroundings, %d pairs of position and offset, %d states",
		r.Class, r.Coverage.Inputs, r.Coverage.Outputs, len(r.Coverage.Surroundings), r.Coverage.Pairs, r.Coverage.Snapshots)
	if r.WindowInputs != nil {
		text += fmt.Sprintf("; the same after %d inputs, %d outputs", *r.WindowInputs, *r.WindowOutputs)
	}
	return text
}

// Difference is what refutes a class.
type Difference struct {
	Refutes  Class             `json:"refutes"` // it, and the stronger ones
	Position tidegate.Position `json:"position"`
	Input    int               `json:"input"` // from 0
	Field    string            `json:"field"` // "outputs": how many; "output 2": from 0, its content; "state"
	Want     string            `json:"want"`
	Got      string            `json:"got"`
	Where    string            `json:"where"` // surroundings, or the beginning
}

func (d Difference) String() string {
	return fmt.Sprintf("not %s: input %d at %s: %s: want %s, got %s (%s)", d.Refutes, d.Input, d.Position, d.Field, d.Want, d.Got, d.Where)
}
