package recovery_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/recovery"
)

func numbers(n int) (in []recovery.Input) {
	for i := range n {
		// Not by a pattern that a window could repeat by chance.
		v := uint64(i)*2654435761%1009 + 1
		in = append(in, recovery.Input{Position: tidegate.Position(i), Payload: binary.LittleEndian.AppendUint64(nil, v)})
	}
	return in
}

func TestOperatorClasses(t *testing.T) {
	begun := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		name  string
		make  func(recovery.Surroundings) operator
		class recovery.Class
		// What refuted the stronger ones, and the window in inputs and outputs; -1: none.
		refuted         string
		inputs, outputs int
	}{
		{"filter", func(recovery.Surroundings) operator { return filter{} }, recovery.Repeatable, "", 0, 0},
		{
			"sliding average", func(recovery.Surroundings) operator { return &average{size: 20} }, recovery.ConvergentCapable,
			"not repeatable: input 99 at 0000000000000063: output 0", 18, 18,
		},
		{
			"tumbling sum, windows by position", func(recovery.Surroundings) operator { return &tumbling{size: 8, aligned: true} }, recovery.ConvergentCapable,
			"not repeatable: input 103", 4, 2,
		},
		{
			"tumbling sum, windows from the first input on", func(recovery.Surroundings) operator { return &tumbling{size: 8} }, recovery.Deterministic,
			"not convergent-capable: input 399 at 000000000000018f: outputs: want 2, got 0 (begun empty at input 99, and not the same until the end)", -1, -1,
		},
		{"total", func(recovery.Surroundings) operator { return &total{} }, recovery.Deterministic, "not convergent-capable: input 399", -1, -1},
		{
			"wall-clock sampler", func(s recovery.Surroundings) operator {
				zone := s.Zone
				if zone == nil {
					zone = time.UTC
				}
				return sampler{func() time.Time { return begun.Add(s.ClockOffset).In(zone) }}
			}, recovery.Arbitrary,
			"not deterministic: input 0 at 0000000000000000: output 0", -1, -1,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var made, closed int
			var fed int64
			report, err := recovery.TestOperator(t.Context(), recovery.OperatorPlan{
				New: func(s recovery.Surroundings) (recovery.Operator, error) {
					made++
					return tested{test.make(s), &closed}, nil
				},
				Inputs:   numbers(400),
				Progress: func(n, inputs int64) { fed = n },
			})
			if err != nil {
				t.Fatal(err)
			}
			said := ""
			for _, d := range report.Refuted {
				said = d.String()
			}
			if report.Class != test.class || !strings.HasPrefix(said, test.refuted) || (said == "") != (test.refuted == "") {
				t.Errorf("got %s, %q, want %s, %q", report.Class, said, test.class, test.refuted)
			}
			if (report.WindowInputs == nil) != (test.inputs < 0) {
				t.Fatalf("window %v", report.WindowInputs)
			}
			if test.inputs >= 0 && (*report.WindowInputs != test.inputs || *report.WindowOutputs != test.outputs) {
				t.Errorf("window of %d inputs and %d outputs, want %d and %d", *report.WindowInputs, *report.WindowOutputs, test.inputs, test.outputs)
			}
			if most := (recovery.OperatorPlan{Inputs: numbers(400)}).FedMax(); fed > most || test.class > recovery.Arbitrary && fed < most/2 {
				t.Errorf("%d fed, at most %d were foretold", fed, most)
			}
			if made != closed || made < 2 || fed != report.Coverage.Fed {
				t.Errorf("%d made, %d closed, %d fed of %d", made, closed, fed, report.Coverage.Fed)
			}
			if c := report.Coverage; test.class > recovery.Arbitrary && (c.Pairs != 8 || c.Skipped != 1 || c.Inputs != 400 || c.Outputs == 0) {
				t.Errorf("coverage %+v", c)
			}
			b, err := json.Marshal(report)
			var back recovery.OperatorReport
			if err != nil || json.Unmarshal(b, &back) != nil || back.String() != report.String() {
				t.Errorf("read back %s from %s, %v", back, b, err)
			}
		})
	}
}

func TestOperatorStates(t *testing.T) {
	var closed int
	plan := recovery.OperatorPlan{
		New: func(recovery.Surroundings) (recovery.Operator, error) {
			return kept{tested{&total{}, &closed}}, nil
		},
		Inputs: numbers(60), Offsets: []int{1, 5}, TailMin: 3,
	}
	report, err := recovery.TestOperator(t.Context(), plan)
	if err != nil || report.Class != recovery.Deterministic || report.Coverage.Snapshots != 3 || !report.Coverage.States {
		t.Errorf("got %+v, %v, want deterministic, from 3 states too", report, err)
	}
	plan.New = func(recovery.Surroundings) (recovery.Operator, error) {
		return forgetful{kept{tested{&total{}, &closed}}}, nil
	}
	report, err = recovery.TestOperator(t.Context(), plan)
	if err != nil || report.Class != recovery.Arbitrary || !strings.Contains(report.Refuted[0].Where, "begun at the state before input 15") {
		t.Errorf("a state that lacks something: %+v, %v", report, err)
	}
}

// TestOperatorClaimsNoMoreThanItTried covers what is not tried.
func TestOperatorClaimsNoMoreThanItTried(t *testing.T) {
	var closed int
	plan := func(op func() operator, n int) recovery.OperatorPlan {
		return recovery.OperatorPlan{
			New:    func(recovery.Surroundings) (recovery.Operator, error) { return tested{op(), &closed}, nil },
			Inputs: numbers(n),
		}
	}
	filters := func() operator { return filter{} }
	for _, test := range []struct {
		name string
		plan recovery.OperatorPlan
		want recovery.Class
	}{
		{"too few inputs to begin elsewhere", plan(filters, 8), recovery.Deterministic},
		{"no outputs", plan(func() operator { return &tumbling{size: 1000} }, 100), recovery.ClassUnknown},
	} {
		report, err := recovery.TestOperator(t.Context(), test.plan)
		if err != nil || report.Class != test.want || report.WindowInputs != nil {
			t.Errorf("%s: got %+v, %v, want %s", test.name, report, err, test.want)
		}
	}
	bad := recovery.OperatorPlan{Surroundings: recovery.DefaultSurroundings()[:1], Positions: []int{5}, Offsets: []int{0}, TailMin: -1}
	_, err := recovery.TestOperator(t.Context(), bad)
	if tidegate.ClassOf(err) != tidegate.Misuse {
		t.Fatalf("got %v, want misuse", err)
	}
	for _, mistake := range []string{"makes operators", "want inputs", "surroundings", "positions", "offsets", "tail"} {
		if !strings.Contains(err.Error(), mistake) {
			t.Errorf("%v: does not name %q", err, mistake)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := recovery.TestOperator(ctx, plan(filters, 100)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
	broken := errors.New("broken")
	failing := plan(filters, 100)
	failing.New = func(recovery.Surroundings) (recovery.Operator, error) { return nil, broken }
	if _, err := recovery.TestOperator(t.Context(), failing); !errors.Is(err, broken) {
		t.Errorf("got %v, want what made the operator's error", err)
	}
}
