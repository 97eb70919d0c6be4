package program_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/recovery"
	"github.com/tidegate/tidegate/drills/recovery/program"
)

// TestMain is also the programs: processes of their own, of this binary.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "operator" {
		if err := operate(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

type question struct {
	Position tidegate.Position `json:"position"`
	Input    int               `json:"input"`
}

type answer struct {
	Outputs []any  `json:"outputs"`
	State   any    `json:"state,omitempty"`
	Error   string `json:"error,omitempty"`
}

// operators are the four classes' examples, and some that are no operators.
var operators = map[string]func() func(q question) answer{
	"filter": func() func(question) answer {
		return func(q question) answer {
			if q.Input%3 != 0 {
				return answer{Outputs: []any{}}
			}
			return answer{Outputs: []any{q.Input}}
		}
	},
	"tumbling sum": func() func(question) answer { // of windows that begin with the first input
		n, sum := 0, 0
		return func(q question) (a answer) {
			n, sum = n+1, sum+q.Input
			if a.State = []int{n, sum}; n%8 == 0 {
				a.Outputs, sum = []any{map[string]any{"sum": sum, "sent": time.Now().UnixNano()}}, 0
			}
			return a
		}
	},
	"sliding average": func() func(question) answer {
		var last []int
		return func(q question) answer {
			last = append(last, q.Input)
			last = last[max(0, len(last)-5):]
			sum := 0
			for _, n := range last {
				sum += n
			}
			return answer{Outputs: []any{float64(sum) / float64(len(last))}, State: last}
		}
	},
	"wall-clock sampler": func() func(question) answer {
		return func(q question) answer {
			return answer{Outputs: []any{fmt.Sprint(q.Input, " at ", time.Now().UnixNano())}}
		}
	},
	"surroundings": func() func(question) answer {
		return func(question) answer {
			return answer{Outputs: []any{os.Getenv("TZ"), os.Getenv("FAKETIME"), os.Getenv("GOMAXPROCS")}}
		}
	},
	"poisoned": func() func(question) answer {
		return func(question) answer { return answer{Error: "no such account"} }
	},
}

func operate(name string) error {
	switch name {
	case "dumb":
		_, _ = io.Copy(io.Discard, os.Stdin) // until its input ends
		return nil
	case "ends":
		return fmt.Errorf("no table")
	case "babbles":
		fmt.Println("listening")
	case "banner":
		fmt.Println(`{"outputs":["ready"]}`) // which would be taken for the first answer
	}
	make, is := operators[name]
	if !is {
		make = operators["filter"]
	}
	op, out, next := make(), json.NewEncoder(os.Stdout), tidegate.Position(0)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var q question
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			return err
		}
		if next > 0 && q.Position != next {
			return fmt.Errorf("input at %s, want %s: a process begins empty, and gets one stretch of inputs", q.Position, next)
		}
		next = q.Position + 1
		if name == "trails" {
			fmt.Println(`{"outputs":[1]} of 7`)
			continue
		}
		if err := out.Encode(op(q)); err != nil {
			return err
		}
		if name == "last twice" && q.Position == 79 {
			fmt.Println(`{"outputs":[1]}`)
		}
	}
	return nil
}

func test(t *testing.T, name string, wait time.Duration) (recovery.OperatorReport, error) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var inputs []recovery.Input
	for i := range 80 {
		inputs = append(inputs, recovery.Input{Position: tidegate.Position(i), Payload: fmt.Append(nil, uint64(i)*2654435761%1009+1)})
	}
	return recovery.TestOperator(t.Context(), recovery.OperatorPlan{
		New:    program.Maker(t.Context(), program.Config{Run: []string{exe, "operator", name}, Wait: wait, Volatile: []string{"sent"}}),
		Inputs: inputs, Positions: []int{32}, Offsets: []int{1, 10}, TailMin: 4,
	})
}

// TestClasses: the example of each class is told to be of it, as a process of its own.
func TestClasses(t *testing.T) {
	for name, want := range map[string]recovery.Class{
		"filter": recovery.Repeatable, "sliding average": recovery.ConvergentCapable, "tumbling sum": recovery.Deterministic, "wall-clock sampler": recovery.Arbitrary,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report, err := test(t, name, 10*time.Second)
			if err != nil || report.Class != want {
				t.Errorf("%s: %v, %v", report, report.Refuted, err)
			}
			if stateful := slices.Contains([]string{"tumbling sum", "sliding average"}, name); report.Coverage.States != stateful {
				t.Errorf("states %v", report.Coverage.States)
			}
		})
	}
}

// TestNoOperators: a program that does not keep to the protocol is an error that says so,
// and never of a class.
func TestNoOperators(t *testing.T) {
	for name, want := range map[string]string{
		"banner": "more than one line", "last twice": "more than one line", "trails": "something follows",
		"poisoned": "no such account", "dumb": "no answer within 1s", "ends": "it ended before it answered", "babbles": `answer "listening": `,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report, err := test(t, name, time.Second)
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(tidegate.HintOf(err), "outputs") {
				t.Errorf("%s, %v, hint %q", report, err, tidegate.HintOf(err))
			}
		})
	}
	_, err := recovery.TestOperator(t.Context(), recovery.OperatorPlan{
		New: program.Maker(t.Context(), program.Config{Run: []string{"/nowhere/op"}, Wait: time.Second}), Inputs: []recovery.Input{{Payload: []byte("1")}},
	})
	if err == nil || !strings.Contains(err.Error(), "start /nowhere/op") {
		t.Error(err)
	}
}

// TestSurroundings: a program is told of what must not decide about its outputs.
func TestSurroundings(t *testing.T) {
	t.Setenv("LD_PRELOAD", "")
	all, moves := program.Surroundings(t.Context())
	if moves || len(all) != 4 || all[2].Name != "GOMAXPROCS=1 TZ=Etc/GMT-14" || all[2].ClockOffset == 0 {
		t.Errorf("%+v, the clock moves: %v", all, moves)
	}
	// A date(1) that looks at it, as one does with libfaketime.
	dir := t.TempDir()
	date := "#!/bin/sh\necho $(($(PATH=$REAL date +%s) ${FAKETIME:-+ 0}))\n"
	if err := os.WriteFile(filepath.Join(dir, "date"), []byte(date), 0o700); err != nil { //nolint:gosec // to be run
		t.Fatal(err)
	}
	t.Setenv("REAL", os.Getenv("PATH"))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	all, moves = program.Surroundings(t.Context())
	if !moves || all[2].Name != "GOMAXPROCS=1 TZ=Etc/GMT-14 FAKETIME=+129600" || all[3].Name != "GOMAXPROCS=7 TZ=Etc/GMT+11 FAKETIME=-34560000" {
		t.Errorf("%+v, the clock moves: %v", all, moves)
	}
	report, err := test(t, "surroundings", 10*time.Second)
	if err != nil || len(report.Refuted) != 1 {
		t.Fatal(report, err)
	}
	if d := report.Refuted[0]; !strings.Contains(d.Where, "+14 h zone") || d.Field != "output 0" {
		t.Errorf("%s", d)
	}
}
