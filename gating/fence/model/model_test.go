package model_test

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/tidegate/tidegate/gating/fence/model"
	"github.com/tidegate/tidegate/internal/racetest"
)

var full = flag.Bool("full", false, "search the worlds of `make model` and print what was found")

func search(t testing.TB, cfg model.Config) model.Result {
	t.Helper()
	r, err := model.Search(t.Context(), cfg, 2)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func tell(r model.Result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", r.Broken, r.What)
	for i, l := range r.Trace {
		fmt.Fprintf(&b, "%4d. %s\n", i+1, l)
	}
	return b.String()
}

func TestProtocolHolds(t *testing.T) {
	if racetest.Apart(t) {
		return
	}
	for _, cfg := range model.Bounded() {
		t.Run(cfg.Name, func(t *testing.T) {
			r := search(t, cfg)
			if r.Broken != "" {
				t.Fatalf("%s\n%s", cfg, tell(r))
			}
			if !r.Complete && cfg.States == 0 {
				t.Error("the world was not exhausted")
			}
			t.Logf("%d states, depth %d, %s", r.States, r.Depth, r.Verdict())
		})
	}
}

func TestEveryRuleIsNeeded(t *testing.T) {
	if racetest.Apart(t) {
		return
	}
	for _, mu := range model.Mutations() {
		t.Run(mutationName(mu), func(t *testing.T) {
			r := search(t, mu.Config)
			if r.Broken != mu.Want || len(r.Trace) != mu.Steps {
				t.Errorf("%s: got %s after %d steps and %d states, want %s after %d\n%s",
					mu.Config, orHolds(r.Broken), len(r.Trace), r.States, orHolds(mu.Want), mu.Steps, tell(r))
			}
			if (mu.Want == "") != (mu.Why != "") {
				t.Error("a mutation breaks an invariant, or says why none is broken")
			}
			mu.Broken = nil
			if mu.Want == "" || r.States > 50_000 {
				return // the bounded worlds show that it holds
			}
			if mu.States = r.States; search(t, mu.Config).Broken != "" {
				t.Error("the invariant breaks with the rule in place too")
			}
		})
	}
}

func mutationName(mu model.Mutation) string {
	names := make([]string, len(mu.Broken))
	for i, r := range mu.Broken {
		names[i] = r.String()
	}
	return strings.Join(names, "+") + "/" + orHolds(mu.Want)
}

func orHolds(i model.Invariant) string {
	if i == "" {
		return "holds"
	}
	return string(i)
}

func TestEveryRuleHasAMutation(t *testing.T) {
	var shown []model.Rule
	for _, mu := range model.Mutations() {
		shown = append(shown, mu.Broken...)
	}
	for _, r := range model.Rules() {
		if !slices.Contains(shown, r) {
			t.Errorf("no world shows what %s is for", r)
		}
	}
}

// TestTraceIsShortestAndReadable pins one counterexample of the protocol's
// papers, word for word.
func TestTraceIsShortestAndReadable(t *testing.T) {
	r := search(t, model.Config{
		N: 3, W: 2, Slots: 2, Batches: 1, Log: 1, Crashes: 1,
		Broken: []model.Rule{model.PromiseOnDisk}, Look: []model.Invariant{model.I6},
	})
	want := `I6: seq 1 (b1.1), released as durable under epoch 1, is missing from epoch 2
   1. W1 seals seq 1 = b1.1
   2. N0 stores seq 1 = b1.1 from W1, syncs it and acks
   3. F1 C2 reserves epoch 2 (failover); the gate is ARMED
   4. F2 N1 promises epoch 2 to C2, answers: adopted 1, log []
   5. F2 N2 promises epoch 2 to C2, answers: adopted 1, log []
   6. F3 C2 chooses the head 0: adopted 1, log []
   7. F5 N0 adopts epoch 2 with log [] (had [b1.1])
   8. F5 N1 adopts epoch 2 with log [] (had [])
   9. F6 C2 opens epoch 2 with head 0, W=2: log []
  10. N2 crashes; on disk are log [], promise 1
  11. N2 stores seq 1 = b1.1 from W1, syncs it and acks; durable 1, released [b1.1]
`
	if got := tell(r); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestSearchIsDeterministic: the same world gives the same answer, with any
// number of workers.
func TestSearchIsDeterministic(t *testing.T) {
	cfg := model.Config{
		N: 3, W: 2, Slots: 3, Batches: 1, Log: 1,
		Broken: []model.Rule{model.EpochFirst}, Look: []model.Invariant{model.I6},
	}
	var first model.Result
	for i, workers := range []int{1, 1, 2, 3} {
		r, err := model.Search(t.Context(), cfg, workers)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = r
		}
		if tell(r) != tell(first) {
			t.Errorf("%d workers: %s\nwant %s", workers, tell(r), tell(first))
		}
	}
}

func TestSearchRefusesAndStops(t *testing.T) {
	for _, cfg := range []model.Config{
		{N: 0, W: 1, Slots: 1, Batches: 1, Log: 1},
		{N: 5, W: 2, Slots: 1, Batches: 1, Log: 1},
		{N: 3, W: 4, Slots: 1, Batches: 1, Log: 1},
		{N: 3, W: 2, Slots: 5, Batches: 1, Log: 1},
		{N: 3, W: 2, Slots: 1, Batches: 3, Log: 1},
		{N: 3, W: 2, Slots: 1, Batches: 1, Log: 5},
	} {
		if _, err := model.Search(t.Context(), cfg, 1); err == nil {
			t.Errorf("%s: no error", cfg)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := model.Search(ctx, model.Full()[0], 1); err == nil {
		t.Error("a search goes on after its context is done")
	}
}

// TestFull is `make model`.
func TestFull(t *testing.T) {
	if !*full {
		t.Skip("runs with -full, as `make model` does")
	}
	fmt.Printf("%-13s %-76s %9s %6s %8s  %s\n", "world", "", "states", "depth", "seconds", "verdict")
	total := 0
	for _, cfg := range model.Full() {
		r, err := model.Search(t.Context(), cfg, runtime.GOMAXPROCS(0))
		if err != nil {
			t.Fatal(err)
		}
		total += r.States
		fmt.Printf("%-13s %-76s %9d %6d %8.1f  %s\n", cfg.Name, cfg, r.States, r.Depth, r.Elapsed.Seconds(), r.Verdict())
		if r.Broken != "" {
			t.Errorf("%s\n%s", cfg, tell(r))
		}
	}
	fmt.Printf("%d states in all\n\n%-42s %9s  %s\n", total, "without the rule", "states", "verdict")
	for _, mu := range model.Mutations() {
		r := search(t, mu.Config)
		fmt.Printf("%-42s %9d  %s %s\n", mutationName(mu), r.States, r.Verdict(), mu.Why)
		if r.Broken != "" {
			fmt.Print(tell(r), "\n")
		}
	}
}
