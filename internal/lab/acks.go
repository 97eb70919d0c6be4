package lab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/client"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
)

// AckTail follows the clients' file of acknowledged transfers. Not safe for
// concurrent use.
type AckTail struct {
	path string
	off  int64
	acks []client.Ack
}

// Tail returns what follows the lab's file of acknowledged transfers.
func (l *Lab) Tail() *AckTail { return &AckTail{path: l.Acked()} }

// Read takes in what was written since the last call. A last line without its
// end is left for the next one; a file that is not there yet is empty.
func (t *AckTail) Read() error {
	f, err := os.Open(t.path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(io.NewSectionReader(f, t.off, 1<<40))
	if err != nil {
		return err
	}
	b = b[:bytes.LastIndexByte(b, '\n')+1]
	for line := range bytes.Lines(b) {
		var a client.Ack
		if err := json.Unmarshal(line, &a); err != nil {
			return fmt.Errorf("read %s at %d: %w", t.path, t.off, err)
		}
		t.acks = append(t.acks, a)
	}
	t.off += int64(len(b))
	return nil
}

// First returns the earliest acknowledgement, by the clients' clock, of stream c
// and an epoch above e.
func (t *AckTail) First(c ledger.Currency, e tidegate.Epoch) (found client.Ack, ok bool) {
	for _, a := range t.acks {
		if a.Currency == c && a.Epoch > e && (!ok || a.AckedMS < found.AckedMS) {
			found, ok = a, true
		}
	}
	return found, ok
}

// Highest returns the highest position of stream c that was acknowledged under
// an epoch below e.
func (t *AckTail) Highest(c ledger.Currency, e tidegate.Epoch) (p tidegate.Position, ok bool) {
	for _, a := range t.acks {
		if a.Currency == c && a.Epoch < e {
			p, ok = max(p, a.Position), true
		}
	}
	return p, ok
}

// Since counts the acknowledgements of stream c after a moment.
func (t *AckTail) Since(c ledger.Currency, when time.Time) (n int) {
	for _, a := range t.acks {
		if a.Currency == c && a.AckedMS > when.UnixMilli() {
			n++
		}
	}
	return n
}

// Newest returns when the last acknowledgement of any stream was given, by the
// clients' clock; the zero time before the first.
func (t *AckTail) Newest() (when time.Time) {
	for _, a := range t.acks {
		if at := time.UnixMilli(a.AckedMS); at.After(when) {
			when = at
		}
	}
	return when
}

// Pause returns the longest time that passed between two acknowledgements from
// one moment on, of all streams together, by the clients' clock.
func (t *AckTail) Pause(from time.Time) (longest time.Duration) {
	var at []int64
	for _, a := range t.acks {
		if a.AckedMS >= from.UnixMilli() {
			at = append(at, a.AckedMS)
		}
	}
	slices.Sort(at)
	last := from.UnixMilli()
	for _, ms := range at {
		longest, last = max(longest, time.Duration(ms-last)*time.Millisecond), ms
	}
	return longest
}
