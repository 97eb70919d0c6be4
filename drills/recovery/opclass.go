package recovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/tidegate/tidegate"
)

// TestOperator tries to refute one class after the other, by executing the plan's inputs
// again and again: in different surroundings, and begun at other places. It returns an
// error when an operator does, or ctx's.
func TestOperator(ctx context.Context, p OperatorPlan) (OperatorReport, error) {
	p = p.setDefaults()
	if err := p.validate(); err != nil {
		return OperatorReport{}, &tidegate.Error{Op: "test operator class", Class: tidegate.Misuse, Err: err}
	}
	t := operatorTest{OperatorPlan: p, report: OperatorReport{Class: Repeatable, Refuted: []Difference{}}}
	c := &t.report.Coverage
	c.Inputs, c.Positions, c.Offsets = len(p.Inputs), p.Positions, p.Offsets
	for _, s := range p.Surroundings {
		c.Surroundings = append(c.Surroundings, s.Name)
	}
	if err := t.run(ctx); err != nil {
		return OperatorReport{}, fmt.Errorf("test operator class: %w", err)
	}
	return t.report, nil
}

type operatorTest struct {
	OperatorPlan

	report    OperatorReport
	reference trace
	states    map[int][]byte // by position
}

// trace is what an execution gave, by input.
type trace struct {
	outputs [][]tidegate.Digest
	states  []tidegate.Digest
}

func (t *operatorTest) run(ctx context.Context) error {
	if err := t.in(ctx, t.Surroundings[0], t.refer); err != nil {
		return err
	}
	for _, s := range t.Surroundings[1:] {
		if err := t.in(ctx, s, func(ctx context.Context, op Operator) error { return t.determinism(ctx, op, s) }); err != nil {
			return err
		}
		if t.report.Class == Arbitrary {
			return nil
		}
	}
	if t.report.Coverage.Outputs == 0 {
		t.report.Class = ClassUnknown // nothing was compared but states
		return nil
	}
	return t.in(ctx, t.Surroundings[0], t.convergence)
}

func (t *operatorTest) in(ctx context.Context, s Surroundings, f func(context.Context, Operator) error) error {
	op, err := t.New(s)
	if err != nil {
		return fmt.Errorf("%s: make operator: %w", s.Name, err)
	}
	if err := errors.Join(f(ctx, op), op.Close()); err != nil {
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	return nil
}

// refer makes the execution that all others are compared with.
func (t *operatorTest) refer(ctx context.Context, op Operator) error {
	t.states = map[int][]byte{}
	snapshotter, can := op.(Snapshotter)
	var err error
	t.reference, err = t.feed(ctx, op, 0, func(k int) error {
		if !can || !slices.Contains(t.Positions, k) {
			return nil
		}
		state, err := snapshotter.Snapshot()
		t.states[k] = state
		return err
	})
	for i, out := range t.reference.outputs {
		t.report.Coverage.Outputs += len(out)
		t.report.Coverage.States = t.report.Coverage.States || !t.reference.states[i].IsZero()
	}
	t.report.Coverage.Snapshots = len(t.states)
	return err
}

// feed executes the inputs from one on; at is called before each, with its number.
func (t *operatorTest) feed(ctx context.Context, op Operator, from int, at func(int) error) (tr trace, err error) {
	for i := from; i <= len(t.Inputs); i++ {
		if err := errors.Join(ctx.Err(), at(i)); err != nil || i == len(t.Inputs) {
			return tr, err
		}
		out, err := op.Feed(t.Inputs[i])
		if err != nil {
			return tr, fmt.Errorf("feed input %d at %s: %w", i, t.Inputs[i].Position, err)
		}
		tr.outputs = append(tr.outputs, slices.Clone(out))
		tr.states = append(tr.states, op.State())
		if t.report.Coverage.Fed++; t.Progress != nil {
			t.Progress(t.report.Coverage.Fed, int64(len(t.Inputs)))
		}
	}
	return tr, nil
}

func nowhere(int) error { return nil }

// determinism compares executions in other surroundings, from the beginning and from
// states.
func (t *operatorTest) determinism(ctx context.Context, op Operator, s Surroundings) error {
	tr, err := t.feed(ctx, op, 0, nowhere)
	if err != nil || t.differs(tr, 0, s.Name) {
		return err
	}
	snapshotter, can := op.(Snapshotter)
	for _, k := range t.Positions {
		if !can {
			return nil
		}
		if err := snapshotter.Restore(t.states[k]); err != nil {
			return fmt.Errorf("restore the state before input %d: %w", k, err)
		}
		tr, err := t.feed(ctx, op, k, nowhere)
		if err != nil || t.differs(tr, k, fmt.Sprintf("%s, begun at the state before input %d", s.Name, k)) {
			return err
		}
	}
	return nil
}

// differs compares an execution from an input on with the reference, states included.
func (t *operatorTest) differs(tr trace, from int, where string) bool {
	for i := range tr.outputs {
		field, want, got := compare(t.reference.outputs[from+i], tr.outputs[i])
		if field == "" && t.reference.states[from+i] != tr.states[i] {
			field, want, got = "state", t.reference.states[from+i].String(), tr.states[i].String()
		}
		if field != "" {
			t.refute(Deterministic, from+i, field, want, got, where)
			return true
		}
	}
	return false
}

func (t *operatorTest) refute(c Class, input int, field, want, got, where string) {
	if t.report.Class < c {
		return
	}
	t.report.Class = c - 1
	t.report.Refuted = append(t.report.Refuted, Difference{
		Refutes: c, Position: t.Inputs[input].Position, Input: input, Field: field, Want: want, Got: got, Where: where,
	})
}

// compare returns the first difference of the outputs of one input; field is empty when
// there is none.
func compare(want, got []tidegate.Digest) (field, wanted, is string) {
	if len(want) != len(got) {
		return "outputs", strconv.Itoa(len(want)), strconv.Itoa(len(got))
	}
	for i := range want {
		if want[i] != got[i] {
			return fmt.Sprintf("output %d", i), want[i].String(), got[i].String()
		}
	}
	return "", "", ""
}

// convergence begins empty at earlier inputs.
func (t *operatorTest) convergence(ctx context.Context, op Operator) error {
	inputs, outputs, converged := 0, 0, true
	for _, k := range t.Positions {
		for _, d := range t.Offsets {
			from := k - d
			if from <= 0 || t.outputsFrom(k) < t.TailMin {
				t.report.Coverage.Skipped++
				continue
			}
			if err := op.Reset(); err != nil {
				return fmt.Errorf("reset: %w", err)
			}
			tr, err := t.feed(ctx, op, from, nowhere)
			if err != nil {
				return err
			}
			t.report.Coverage.Pairs++
			same, ok := t.sameFrom(tr, from)
			converged = converged && ok
			if same > k {
				inputs = max(inputs, same-k)
				outputs = max(outputs, t.outputsFrom(k)-t.outputsFrom(same))
			}
		}
	}
	if t.report.Coverage.Pairs == 0 {
		t.report.Class = Deterministic // the stronger ones were not tried
		return nil
	}
	if converged {
		t.report.WindowInputs, t.report.WindowOutputs = &inputs, &outputs
	}
	return nil
}

// sameFrom returns the input from which on an execution that began empty gives what the
// reference gives, and whether enough outputs show it; it refutes what that refutes.
func (t *operatorTest) sameFrom(tr trace, from int) (same int, converged bool) {
	same = from
	where := fmt.Sprintf("begun empty at input %d", from)
	for i := range tr.outputs {
		field, want, got := compare(t.reference.outputs[from+i], tr.outputs[i])
		if field == "" {
			continue
		}
		t.refute(Repeatable, from+i, field, want, got, where)
		same = from + i + 1
	}
	if t.outputsFrom(same) >= t.TailMin {
		return same, true
	}
	field, want, got := compare(t.reference.outputs[same-1], tr.outputs[same-1-from])
	t.refute(ConvergentCapable, same-1, field, want, got, where+", and not the same until the end")
	return same, false
}

// outputsFrom counts the reference's outputs from an input on.
func (t *operatorTest) outputsFrom(i int) (n int) {
	for _, out := range t.reference.outputs[i:] {
		n += len(out)
	}
	return n
}
