package recovery_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/recovery"
	"github.com/tidegate/tidegate/journal"
)

// processEnv names the orders of a process that this test binary is started as.
const processEnv = "TIDEGATE_TEST_RECOVERY_PROCESS"

func TestMain(m *testing.M) {
	if text := os.Getenv(processEnv); text != "" {
		var o orders
		if err := errors.Join(json.Unmarshal([]byte(text), &o), serve(context.Background(), o, os.Stdin, os.Stdout)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// What a process keeps back, and how far apart its checkpoints are, in records.
const (
	heldBack   = 3 // the newest outputs wait: so a gate would hold them
	checkpoint = 8
	lazyGroup  = 4 // of EmitBeforeJournal
	emptyFrom  = 6 // records before the end at which EmptyRestart begins
)

// orders are what a process is started with.
type orders struct {
	Dir      string
	Epoch    tidegate.Epoch
	Operator string       // average, total
	Last     *recovery.ID // the receiver's word on what it got last; nil: nothing

	// How it misbehaves.
	EmitBeforeJournal bool // outputs leave at once, and inputs are journaled in groups
	SkipIDs           bool // at a takeover it takes for delivered what the journal holds
	NoDedup           bool // at a takeover it sends again what came since the checkpoint
	EmptyRestart      bool // at a takeover it begins empty, a few records before the end
	WallClock         bool // the time is part of its outputs
}

// line is an output as it leaves the process.
type line struct {
	ID    recovery.ID    `json:"id"`
	Epoch tidegate.Epoch `json:"epoch"`
	Text  string         `json:"text"`
	Sent  int64          `json:"sent"` // unix ns: declared volatile
}

// operator returns the operator that the orders name, empty.
func (o *orders) operator() operator {
	if o.Operator == "average" {
		return &average{size: 5}
	}
	return &total{}
}

// process is a service behind the journal library: numbers come in, are journaled, and
// give outputs.
type process struct {
	orders

	journal *journal.Journal
	op      operator
	out     *json.Encoder
	held    []line
	late    [][]byte          // emitted, and not journaled
	at      tidegate.Position // EmitBeforeJournal: where the next input will lie
}

func serve(ctx context.Context, o orders, in io.Reader, out io.Writer) (err error) {
	j, err := openJournal(o.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	p := process{orders: o, journal: j, op: o.operator(), out: json.NewEncoder(out)}
	if err := p.takeOver(ctx); err != nil {
		return err
	}
	p.at = j.End()
	for lines := bufio.NewScanner(in); lines.Scan(); {
		n, err := strconv.ParseUint(lines.Text(), 10, 64)
		if err != nil {
			return err
		}
		if err := p.take(ctx, binary.LittleEndian.AppendUint64(nil, n)); err != nil {
			return err
		}
	}
	return nil
}

func openJournal(dir string) (*journal.Journal, error) {
	return journal.Open(dir, journal.Config{Service: "numbers", Stream: "main"})
}

// takeOver executes what the journal holds, and sends what is due of it.
func (p *process) takeOver(ctx context.Context) error {
	records, err := recorded(p.journal)
	if err != nil || len(records) == 0 {
		return err
	}
	for i, r := range records {
		if p.EmptyRestart && i < len(records)-emptyFrom {
			continue
		}
		for _, l := range p.execute(r.at, r.payload) {
			delivered := p.Last != nil && !after(l.ID, *p.Last)
			again := p.NoDedup && i >= len(records)/checkpoint*checkpoint-checkpoint
			if delivered && again || !delivered && !p.SkipIDs {
				if err := p.out.Encode(l); err != nil {
					return err
				}
			}
		}
	}
	_, err = p.journal.Branch(ctx, p.Epoch, p.journal.End())
	return err
}

func after(a, b recovery.ID) bool {
	return a.Input > b.Input || a.Input == b.Input && a.Ordinal > b.Ordinal
}

// take takes one input.
func (p *process) take(ctx context.Context, payload []byte) error {
	if p.EmitBeforeJournal {
		p.held = append(p.held, p.execute(p.at, payload)...)
		p.at += tidegate.Position(journal.HeaderSize + len(payload))
		p.late = append(p.late, payload)
		if err := p.release(0); err != nil || len(p.late) < lazyGroup {
			return err
		}
		_, err := p.journal.AppendBatch(ctx, p.late, time.Now())
		p.late = nil
		return err
	}
	r, err := p.journal.Append(ctx, payload, time.Now())
	if err != nil {
		return err
	}
	p.held = append(p.held, p.execute(r.First, payload)...)
	return p.release(heldBack)
}

// release sends all but the newest outputs.
func (p *process) release(keep int) error {
	for ; len(p.held) > keep; p.held = p.held[1:] {
		if err := p.out.Encode(p.held[0]); err != nil {
			return err
		}
	}
	return nil
}

func (p *process) execute(at tidegate.Position, payload []byte) (out []line) {
	for i, text := range p.op.feed(binary.LittleEndian.Uint64(payload), at) {
		now := time.Now()
		if p.WallClock {
			text += now.Format(" at 15:04:05.000000000")
		}
		id := recovery.ID{Stream: "main", Input: at, Ordinal: uint32(i)} //nolint:gosec // few
		out = append(out, line{ID: id, Epoch: p.Epoch, Text: text, Sent: now.UnixNano()})
	}
	return out
}

// record is an input as the journal holds it.
type record struct {
	at      tidegate.Position
	payload []byte
}

func recorded(j *journal.Journal) (out []record, err error) {
	r, err := j.NewReader(j.First())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for {
		rec, ok, err := r.TryNext()
		if err != nil || !ok {
			return out, err
		}
		if rec.Kind == journal.KindData {
			out = append(out, record{rec.First, append([]byte(nil), rec.Payload...)})
		}
	}
}
