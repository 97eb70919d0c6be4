package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/client"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
)

// ackTail follows the clients' file of acknowledged transfers.
type ackTail struct {
	path string
	off  int64
	acks []client.Ack
}

// read takes in what was written since the last call. A last line without its
// end is left for the next one.
func (t *ackTail) read() error {
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

// first returns the earliest acknowledgement, by the clients' clock, of stream c
// and an epoch above e.
func (t *ackTail) first(c ledger.Currency, e tidegate.Epoch) (found client.Ack, ok bool) {
	for _, a := range t.acks {
		if a.Currency == c && a.Epoch > e && (!ok || a.AckedMS < found.AckedMS) {
			found, ok = a, true
		}
	}
	return found, ok
}

// highest returns the highest position of stream c that was acknowledged under
// an epoch below e.
func (t *ackTail) highest(c ledger.Currency, e tidegate.Epoch) (p tidegate.Position, ok bool) {
	for _, a := range t.acks {
		if a.Currency == c && a.Epoch < e {
			p, ok = max(p, a.Position), true
		}
	}
	return p, ok
}

// since counts the acknowledgements of stream c after ms.
func (t *ackTail) since(c ledger.Currency, ms int64) (n int) {
	for _, a := range t.acks {
		if a.Currency == c && a.AckedMS > ms {
			n++
		}
	}
	return n
}
