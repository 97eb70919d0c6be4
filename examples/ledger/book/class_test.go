package book

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/recovery"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/journal"
)

// asOperator drives a book, with a journal of its own, as the test of its class asks.
type asOperator struct {
	tb     testing.TB
	inputs []recovery.Input
	clock  clock.Clock
	procs  int
	book   *Book
}

func (o *asOperator) open() (err error) {
	j, err := journal.OpenFS(vfs.NewMem(), "/book", journal.Config{
		Service: "ledger", Stream: "eur", ID: HistoryID("test", ledger.EUR), Clock: o.clock,
	})
	o.book = newBook(ledger.EUR, "/book", j)
	return err
}

func (o *asOperator) Reset() error { return errors.Join(o.book.journal.Close(), o.open()) }

func (o *asOperator) Close() error {
	runtime.GOMAXPROCS(o.procs)
	return o.book.journal.Close()
}

func (o *asOperator) State() tidegate.Digest { return o.book.Digest().Digest }

// Feed journals and applies one command. What the journal lacks before it is journaled and
// not applied: a book that begins there empty.
func (o *asOperator) Feed(in recovery.Input) ([]tidegate.Digest, error) {
	if err := o.fill(in.Position); err != nil {
		return nil, err
	}
	if o.book.Position() < in.Position {
		if err := o.book.SkipTo(in.Position); err != nil {
			return nil, err
		}
	}
	outcomes, err := o.book.Append(o.tb.Context(), [][]byte{in.Payload})
	if err != nil {
		return nil, err
	}
	out := make([]tidegate.Digest, len(outcomes))
	for i, outcome := range outcomes {
		content, err := json.Marshal(outcome)
		if err != nil {
			return nil, err
		}
		out[i] = recovery.DigestOf(content)
	}
	return out, nil
}

func (o *asOperator) fill(to tidegate.Position) error {
	for _, in := range o.inputs {
		if in.Position < o.book.journal.End() || in.Position >= to {
			continue
		}
		t, err := ledger.RecordTime(in.Payload)
		if err != nil {
			return err
		}
		if _, err := o.book.journal.SubmitAt(o.tb.Context(), in.Position, in.Payload, t); err != nil {
			return err
		}
	}
	return nil
}

func (o *asOperator) Snapshot() ([]byte, error) { return o.book.Snapshot(), nil }

func (o *asOperator) Restore(state []byte) error {
	s, err := ledger.ParseSnapshot(state)
	if err != nil {
		return err
	}
	if err := errors.Join(o.Reset(), o.fill(s.Position())); err != nil {
		return err
	}
	return o.book.Install(s)
}

// commands are deposits, transfers and refusals among accounts that are opened among them,
// and repeated requests.
func commands(t *testing.T, n int) (inputs []recovery.Input) {
	t.Helper()
	recs := opens(t, 0, 10)
	for i := 10; len(recs) < n; i++ {
		cmd := ledger.Command{
			Kind: ledger.KindDeposit, Currency: ledger.EUR, TimeUnix: int64(i), Client: ledger.ClientID{2}, Request: ledger.Request(i),
			To: ledger.AccountID(fmt.Sprintf("a-%d", i*7%11)), Amount: ledger.Amount(i),
		}
		switch i % 4 {
		case 1:
			cmd.Kind, cmd.From = ledger.KindTransfer, ledger.AccountID(fmt.Sprintf("a-%d", i*3%10))
		case 2:
			cmd.Request-- // is that of another command
		}
		rec, err := cmd.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if recs = append(recs, rec); i%5 == 0 {
			recs = append(recs, rec) // a client asks again
		}
	}
	at := tidegate.Position(0)
	for _, rec := range recs[:n] {
		inputs = append(inputs, recovery.Input{Position: at, Payload: rec})
		at += tidegate.Position(journal.HeaderSize + len(rec))
	}
	return inputs
}

// TestClassOfTheBook: neither clock nor processors decide what comes of a command, a state
// that was written down lacks nothing, and a book that begins empty is wrong for ever. So
// a base and the log behind it recover it repeating, and with ids, gate and dedup precise.
func TestClassOfTheBook(t *testing.T) {
	inputs := commands(t, 120)
	report, err := recovery.TestOperator(t.Context(), recovery.OperatorPlan{
		Inputs: inputs,
		New: func(s recovery.Surroundings) (recovery.Operator, error) {
			c := clock.NewFake(time.Unix(1795341600, 0))
			c.Step(s.ClockOffset)
			o := &asOperator{tb: t, inputs: inputs, clock: c, procs: runtime.GOMAXPROCS(s.Procs)} // 0 changes nothing
			return o, o.open()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(report)
	if c := report.Coverage; report.Class != recovery.Deterministic || c.Snapshots != 3 || !c.States || c.Pairs < 5 || c.Outputs != len(inputs) {
		t.Errorf("got %+v, want deterministic, from three states and at least five other beginnings", report)
	}
	for _, with := range []struct {
		all  bool
		want recovery.Type
	}{{false, recovery.Repeating}, {true, recovery.Precise}} {
		s := recovery.Setup{Approach: recovery.PassiveStandby, Class: report.Class, IDs: with.all, Gate: with.all, Dedup: with.all}
		if got := recovery.Expected(s); got != with.want {
			t.Errorf("%+v: got %s, want %s", s, got, with.want)
		}
	}
}
