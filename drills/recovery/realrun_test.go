package recovery_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate/drills/recovery"
)

// collector stands outside the processes: it starts them, gives them inputs, and records
// every output that reaches it.
type collector struct {
	t       *testing.T
	started time.Time // of the failure, once there was one
	cmd     *exec.Cmd
	in      io.WriteCloser
	lines   *bufio.Scanner
	stderr  strings.Builder
}

func (c *collector) start(o orders) {
	c.t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		c.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	c.cmd = exec.Command(self)
	c.cmd.Env = append(os.Environ(), processEnv+"="+string(text))
	c.cmd.Stderr = &c.stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		c.t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.lines = bufio.NewScanner(out)
}

// feed gives the process inputs from one number to another.
func (c *collector) feed(from, to int) {
	c.t.Helper()
	for i := from; i < to; i++ {
		if _, err := fmt.Fprintln(c.in, i*i+1); err != nil {
			c.t.Fatalf("input %d: %v; the process says %s", i, err, &c.stderr)
		}
	}
}

// collect records n outputs.
func (c *collector) collect(n int) (out []recovery.Output) {
	c.t.Helper()
	for len(out) < n {
		if !c.lines.Scan() {
			c.t.Fatalf("%d outputs, want %d: %v; the process says %s", len(out), n, c.lines.Err(), &c.stderr)
		}
		var l line
		if err := json.Unmarshal(c.lines.Bytes(), &l); err != nil {
			c.t.Fatal(err)
		}
		out = append(out, c.output(l))
	}
	return out
}

func (c *collector) output(l line) recovery.Output {
	content, err := json.Marshal(l)
	if err != nil {
		c.t.Fatal(err)
	}
	digest, err := recovery.DigestJSON(content, "sent", "epoch")
	if err != nil {
		c.t.Fatal(err)
	}
	return recovery.Output{ID: l.ID, Digest: digest, Epoch: l.Epoch, At: time.Since(c.started)}
}

// kill is kill -9.
func (c *collector) kill() {
	c.t.Helper()
	if c.cmd == nil {
		return
	}
	if err := c.cmd.Process.Kill(); err != nil {
		c.t.Error(err)
	}
	_ = c.cmd.Wait() // "signal: killed" is what was asked for
	c.cmd, c.started = nil, time.Now()
}

// golden executes the journal that the processes left behind once more, without a failure.
func (c *collector) golden(o orders) []recovery.Output {
	c.t.Helper()
	j, err := openJournal(o.Dir)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() {
		if err := j.Close(); err != nil {
			c.t.Error(err)
		}
	}()
	records, err := recorded(j)
	if err != nil {
		c.t.Fatal(err)
	}
	p := process{orders: o, op: o.operator()}
	var out []recovery.Output
	for _, r := range records {
		for _, l := range p.execute(r.at, r.payload) {
			out = append(out, c.output(l))
		}
	}
	return out
}

// TestRealRuns kills a process with kill -9, has a second one take over from its journal,
// and classifies what came out of the two: well behaved, and misbehaving in every way
// that orders know.
func TestRealRuns(t *testing.T) {
	const first, second = 20, 15 // inputs of each process
	inStep := recovery.Setup{
		Approach: recovery.PassiveStandby, Class: recovery.Deterministic, IDs: true, Gate: true, Dedup: true,
	}
	for _, test := range []struct {
		name    string
		orders  orders
		before  int // outputs until the failure
		more    int // outputs of the second, less than one for each of its inputs but the newest
		without bool
		want    string
		outcome recovery.Outcome // against a service that keeps ids, gate and dedup
	}{
		{name: "well behaved", orders: orders{Operator: "total"}, before: 17, more: 3, want: "precise", outcome: recovery.Holds},
		{name: "no dedup", orders: orders{Operator: "total", NoDedup: true}, before: 17, more: 12, want: "repeating", outcome: recovery.Failed},
		{name: "empty restart", orders: orders{Operator: "average", EmptyRestart: true}, before: 17, more: 3, want: "convergent", outcome: recovery.Failed},
		{name: "empty restart of what never forgets", orders: orders{Operator: "total", EmptyRestart: true}, before: 17, more: 3, want: "divergent", outcome: recovery.Failed},
		{name: "wall clock", orders: orders{Operator: "total", WallClock: true}, before: 17, more: 3, want: "divergent, with before-differs", outcome: recovery.Failed},
		{name: "wall clock, without a golden", orders: orders{Operator: "total", WallClock: true}, before: 17, more: 3, without: true, want: "unknown", outcome: recovery.Undecided},
		{name: "skipped ids", orders: orders{Operator: "total", SkipIDs: true}, before: 17, more: 0, want: "gap", outcome: recovery.Failed},
		{name: "emitted before it was journaled", orders: orders{Operator: "total", EmitBeforeJournal: true}, before: 18, more: 0, want: "gap, with undone", outcome: recovery.Failed},

		{name: "skipped ids, no dedup", orders: orders{Operator: "total", SkipIDs: true, NoDedup: true}, before: 17, more: 9, want: "gap, with duplicates", outcome: recovery.Failed},
		{name: "skipped ids, empty restart", orders: orders{Operator: "total", SkipIDs: true, EmptyRestart: true}, before: 17, more: 0, want: "gap, with wrong", outcome: recovery.Failed},
		{name: "emitted before it was journaled, empty restart, no dedup", orders: orders{Operator: "average", EmitBeforeJournal: true, EmptyRestart: true, NoDedup: true}, before: 18, more: 6, want: "gap, with undone, duplicates, duplicates-differ", outcome: recovery.Failed},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := &collector{t: t, started: time.Now()}
			defer c.kill()
			o := test.orders
			o.Dir, o.Epoch = t.TempDir(), 1
			c.start(o)
			inputs := first
			if o.EmitBeforeJournal {
				inputs = test.before
			}
			c.feed(0, inputs)
			before := c.collect(test.before)
			c.kill()

			o.Epoch, o.Last, o.EmitBeforeJournal = 2, &before[len(before)-1].ID, false
			c.start(o)
			c.feed(inputs, inputs+second)
			after := c.collect(second - heldBack + test.more)
			c.kill()

			e := recovery.Evidence{
				Before: before, After: after,
				Terms: recovery.Terms{Epoch: 2, Timed: true, MinTail: 6, Horizon: time.Second},
			}
			if !test.without {
				e.Golden = &recovery.Golden{Outputs: c.golden(o), Content: true}
			}
			got, err := recovery.Classify(e)
			if err != nil {
				t.Fatal(err)
			}
			if said := strings.Replace(got.String(), " up to 1s", "", 1); said != test.want {
				b, _ := json.MarshalIndent(got, "", " ")
				t.Errorf("got %q, want %q\n%s", said, test.want, b)
			}
			compared := recovery.Compare(recovery.Expected(inStep), recovery.Precise, got)
			if compared.Outcome != test.outcome {
				t.Errorf("compared with %s: %s %q, want %s", compared.Predicted, compared.Outcome, compared.Reasons, test.outcome)
			}
			t.Logf("%s: %q; %d before, %d after", got, compared.Reasons, len(before), len(after))
		})
	}
}

// TestRealOperatorsHaveTheirClass ties the two halves together: what the process executes
// is of the class that its recovery is predicted by.
func TestRealOperatorsHaveTheirClass(t *testing.T) {
	for name, want := range map[string]recovery.Class{"average": recovery.ConvergentCapable, "total": recovery.Deterministic} {
		o := orders{Operator: name}
		var closed int
		report, err := recovery.TestOperator(t.Context(), recovery.OperatorPlan{
			New:    func(recovery.Surroundings) (recovery.Operator, error) { return tested{o.operator(), &closed}, nil },
			Inputs: numbers(120), Offsets: []int{1, emptyFrom, 20},
		})
		if err != nil || report.Class != want {
			t.Errorf("%s: %s, %v, want %s", name, report, err, want)
		}
	}
}
