package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/recovery"
	"github.com/tidegate/tidegate/drills/recovery/program"
	"github.com/tidegate/tidegate/internal/cli"
)

func opclassCommand() *ucli.Command {
	return &ucli.Command{
		Name: "opclass", Usage: "find out what a program's outputs depend on: its operator class", ArgsUsage: "-- PROGRAM [ARGUMENT...]",
		Flags: []ucli.Flag{
			cli.OutputFlag(),
			&ucli.StringFlag{Name: "inputs", Usage: "required: `FILE` of recorded inputs, one JSON value a line; - is the standard input"},
			&ucli.IntSliceFlag{Name: "position", Usage: "input `N` before which executions that begin empty are compared; may be said more than once", DefaultText: "1/4, 1/2 and 3/4 of them"},
			&ucli.IntSliceFlag{Name: "offset", Usage: "begin empty so many inputs `N` before a position; may be said more than once", DefaultText: "1, 10, 100"},
			&ucli.IntFlag{Name: "tail-min", Usage: "`N` outputs at the end that must be the same for it to have converged", DefaultText: "10"},
			&ucli.StringSliceFlag{Name: "volatile", Usage: "`FIELD` of outputs that is meant to differ, by its path; may be said more than once"},
			&ucli.DurationFlag{Name: "wait", Value: 10 * time.Second, Usage: "how long one answer may take"},
			&ucli.StringSliceFlag{Name: "with", Usage: "`CLASS` of another part of the pipeline, whose class is that of its weakest part; may be said more than once"},
			&ucli.StringFlag{Name: "want", Usage: "end with 9 if the class, of the pipeline where --with is said, is weaker than `CLASS`"},
		},
		Action: opclass,
		Description: "Executes recorded inputs again and again: in other surroundings, and begun empty at earlier places, and compares every output. A\n" +
			"class is lost for certain, and kept as far as the inputs go: feed it inputs of production, refusals and repeated requests among them.\n\n" +
			"The program reads one line for each input, and answers it with one line before it reads the next, flushed:\n" +
			"   {\"position\":\"0000000000000007\",\"input\":VALUE}   {\"outputs\":[VALUE,...],\"state\":VALUE}\n" +
			"state is what it remembers, and may be left out; {\"error\":\"...\"} ends the test. It begins empty, and is started anew to be emptied. TZ,\n" +
			"GOMAXPROCS and FAKETIME, for libfaketime, say the surroundings; it is said when the clock was not moved. The classes: arbitrary, deterministic, convergent-capable, repeatable.\n\n" +
			"Ends with 12 when it gives no outputs to compare.\n\n" +
			"Examples:\n" +
			"   tidegate opclass --inputs recorded.jsonl -- /usr/bin/ledger-op\n" +
			"   tidegate opclass --inputs recorded.jsonl --with deterministic --want deterministic -o json -- python3 -u average.py",
	}
}

// opclassResult is what opclass prints.
type opclassResult struct {
	recovery.OperatorReport

	Program  []string         `json:"program"`
	With     []recovery.Class `json:"with"`
	Pipeline recovery.Class   `json:"pipeline"` // of the program and the others together

	ClockMoved bool `json:"clock_moved"` // by FAKETIME; false: what depends on the clock may not show
}

func opclass(c *ucli.Context) error {
	want, with, err := opclassWords(c)
	if err != nil {
		return err
	}
	inputs, err := readInputs(c)
	if err != nil {
		return err
	}
	run := c.Args().Slice()
	var fed atomic.Int64
	plan := recovery.OperatorPlan{
		Inputs: inputs, Positions: intsOf(c, "position"), Offsets: intsOf(c, "offset"), TailMin: c.Int("tail-min"),
		Progress: func(n, _ int64) { fed.Store(n) },
	}
	out := opclassResult{Program: run, With: with}
	line := func(elapsed time.Duration) string {
		return countLine(fed.Load(), plan.FedMax(), "inputs at most", elapsed)
	}
	err = withLines(c, "test operator class", line, func(ctx context.Context) error {
		plan := plan // the line is said meanwhile
		plan.Surroundings, out.ClockMoved = program.Surroundings(ctx)
		plan.New = program.Maker(ctx, program.Config{Run: run, Wait: c.Duration("wait"), Volatile: c.StringSlice("volatile")})
		out.OperatorReport, err = recovery.TestOperator(ctx, plan)
		return err
	})
	if err != nil {
		return err
	}
	out.Pipeline = recovery.Compose(append([]recovery.Class{out.Class}, with...)...)
	if err := cli.Print(c, out, out.write); err != nil {
		return err
	}
	return out.end(want)
}

// opclassWords reads what the command line says of classes, and that it names a program.
func opclassWords(c *ucli.Context) (want recovery.Class, with []recovery.Class, err error) {
	var wrong []error
	parse := func(flag, text string, to *recovery.Class) {
		if err := to.UnmarshalText([]byte(text)); err != nil || *to == recovery.ClassUnknown {
			wrong = append(wrong, fmt.Errorf("--%s %s: want arbitrary, deterministic, convergent-capable or repeatable", flag, text))
		}
	}
	if c.IsSet("want") {
		parse("want", c.String("want"), &want)
	}
	with = []recovery.Class{}
	for _, text := range c.StringSlice("with") {
		var class recovery.Class
		parse("with", text, &class)
		with = append(with, class)
	}
	if c.NArg() == 0 {
		wrong = append(wrong, errors.New("which program? name it behind --"))
	}
	if c.String("inputs") == "" {
		wrong = append(wrong, errors.New("--inputs: want a file with one JSON value a line"))
	}
	if c.Duration("wait") <= 0 {
		wrong = append(wrong, fmt.Errorf("--wait: want more than 0 (got %s)", c.Duration("wait")))
	}
	if len(wrong) > 0 {
		return want, with, cli.Usagef("%w", errors.Join(wrong...))
	}
	return want, with, nil
}

// intsOf is what a flag says, nil where it was not given.
func intsOf(c *ucli.Context, flag string) []int {
	if !c.IsSet(flag) {
		return nil
	}
	return c.IntSlice(flag)
}

// readInputs reads the inputs; their positions are their numbers, from 0.
func readInputs(c *ucli.Context) (inputs []recovery.Input, err error) {
	name := c.String("inputs")
	fail := func(err error) error {
		return &tidegate.Error{Op: "read inputs", Subject: name, Class: tidegate.Misuse, Err: err, Hint: "one JSON value a line, each an input"}
	}
	var text []byte
	if name == "-" {
		text, err = io.ReadAll(c.App.Reader)
	} else {
		text, err = os.ReadFile(name)
	}
	if err != nil {
		return nil, fail(err)
	}
	n := 0
	for line := range bytes.Lines(text) {
		n++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if !json.Valid(line) {
			return nil, fail(fmt.Errorf("line %d is no JSON value: %.80q", n, line))
		}
		inputs = append(inputs, recovery.Input{Position: tidegate.Position(len(inputs)), Payload: line}) //nolint:gosec // not negative
	}
	if len(inputs) == 0 {
		return nil, fail(errors.New("there are none"))
	}
	return inputs, nil
}

func (r opclassResult) write(w io.Writer) error {
	fmt.Fprintln(w, r.OperatorReport)
	for _, d := range r.Refuted {
		fmt.Fprintln(w, d)
	}
	if !r.ClockMoved {
		fmt.Fprintln(w, "the clock was not moved: what depends on it may not have shown; preload libfaketime, and leave FAKETIME to this command")
	}
	if len(r.With) > 0 {
		fmt.Fprintf(w, "the pipeline is %s\n", r.Pipeline)
	}
	return nil
}

// end is the error that the command ends with.
func (r opclassResult) end(want recovery.Class) error {
	fail := func(code cli.Code, why, hint string) error {
		return cli.WithCode(code, &tidegate.Error{Op: "test operator class of", Subject: strings.Join(r.Program, " "), Class: tidegate.Permanent, Err: errors.New(why), Hint: hint})
	}
	switch {
	case r.Class == recovery.ClassUnknown:
		return fail(cli.UnknownState, "it gave no outputs: nothing was compared", "feed it inputs of production")
	case r.Pipeline < want:
		return fail(cli.Unverified, fmt.Sprintf("%s is weaker than the wanted %s", r.Pipeline, want), "what is printed above names the first input at which two executions part")
	}
	return nil
}
