package client

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
)

// Ack is one acknowledged transfer, a line of the ack file.
type Ack struct {
	Client   ledger.ClientID   `json:"client"`
	Request  ledger.Request    `json:"request"`
	Currency ledger.Currency   `json:"currency"`
	Position tidegate.Position `json:"position"`
	Amount   ledger.Amount     `json:"amount"`
	Epoch    tidegate.Epoch    `json:"epoch"`
	AckedMS  int64             `json:"acked_unix_ms"` // by the client's clock
}

const (
	acksBuffered = 4096                   // acks between the workers and the file
	acksEvery    = 100 * time.Millisecond // longest time between an ack and its fsync
)

// ackFile appends acks to a file, fsynced in groups. write runs in one
// goroutine; any number of workers put, and their owner closes queue after them.
type ackFile struct {
	path   string
	queue  chan Ack
	failed chan struct{} // closed by write when it gives up
}

var errAckFile = errors.New("the ack file cannot be written")

// write drains the queue into the file until it is closed. After an error it
// returns at once; the workers then stop, because an acknowledged transfer that
// nobody wrote down would make the check worthless.
func (a *ackFile) write() (err error) {
	defer func() {
		if err != nil {
			close(a.failed)
		}
	}()
	f, err := os.OpenFile(a.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open ack file: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var lines []byte // whole lines only, so that several loads may share a file
	tick := time.NewTicker(acksEvery)
	defer tick.Stop()
	sync := func() error {
		if len(lines) == 0 {
			return nil
		}
		if _, err := f.Write(lines); err != nil {
			return fmt.Errorf("write ack file: %w", err)
		}
		lines = lines[:0]
		if err := f.Sync(); err != nil {
			return fmt.Errorf("sync ack file: %w", err)
		}
		return nil
	}
	for {
		select {
		case ack, ok := <-a.queue:
			if !ok {
				return sync()
			}
			line, err := json.Marshal(ack)
			if err != nil {
				return fmt.Errorf("encode ack: %w", err)
			}
			lines = append(append(lines, line...), '\n')
		case <-tick.C:
			if err := sync(); err != nil {
				return err
			}
		}
	}
}

// put hands an ack to the file's goroutine. It does not end with a context: the
// ack was given, so it is written down even if the load is being stopped.
func (a *ackFile) put(ack Ack) error {
	select {
	case a.queue <- ack:
		return nil
	case <-a.failed:
		return errAckFile
	}
}

// readAcks returns the acks of a file. A last line without its newline is what
// a killed client leaves: it was being written, so it is not counted, and
// torn says so. Anything else that does not parse is an error.
func readAcks(path string) (acks []Ack, torn bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, &tidegate.Error{
			Op: "read ack file", Subject: path, Class: tidegate.Misuse, Err: err,
			Hint: "`ledger load -acked FILE` writes it",
		}
	}
	if err != nil {
		return nil, false, fmt.Errorf("read ack file: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	r := bufio.NewReader(f)
	for n := 1; ; n++ {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return acks, len(line) > 0, nil
		}
		if err != nil {
			return nil, false, fmt.Errorf("read ack file: %w", err)
		}
		var ack Ack
		dec := json.NewDecoder(bytes.NewReader(line))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&ack); err != nil {
			return nil, false, &tidegate.Error{
				Op: "read ack file", Subject: fmt.Sprintf("%s line %d", path, n), Class: tidegate.Corrupt, Err: err,
			}
		}
		acks = append(acks, ack)
	}
}
