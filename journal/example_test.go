package journal_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/journal"
)

// counter is the smallest event-sourced service: each event adds a number.
type counter struct {
	mu      sync.Mutex
	sum     uint64
	applied tidegate.Position
}

// State implements journal.Service: this counter keeps no digest.
func (c *counter) State() (tidegate.Position, tidegate.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.applied, tidegate.Digest{}
}

// Apply implements journal.Service. The active node calls it too, so that both
// sites get to their state by the same code.
func (c *counter) Apply(r journal.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sum += binary.LittleEndian.Uint64(r.Payload)
	c.applied = r.Next
	return nil
}

// Promote implements journal.Service: from now on this node takes writes.
func (c *counter) Promote(context.Context, tidegate.Epoch, tidegate.Position) error { return nil }

// Fenced implements journal.Service: Append and Await refuse by themselves.
func (c *counter) Fenced(tidegate.Epoch) {}

// patience is how long a request waits for the gate before its client is told to ask again.
const patience = 20 * time.Millisecond

// add is one request: append, execute, and answer once the gate lets the answer
// out. One at a time: events are executed in the journal's order.
func (c *counter) add(ctx context.Context, j *journal.Journal, n uint64) error {
	payload := binary.LittleEndian.AppendUint64(nil, n)
	at, err := j.Append(ctx, payload, time.Now())
	if err != nil {
		return err
	}
	if err := c.Apply(journal.Record{Range: at, Kind: journal.KindData, Payload: payload}); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return j.Await(wait, at.Next)
}

// An active service. No agent runs beside this one, so nothing says that the
// other site has the record: it is durable here, and the answer is held back.
func Example() {
	dir, err := os.MkdirTemp("", "journal")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	j, err := journal.Open(filepath.Join(dir, "main"), journal.Config{
		Service: "counter", Stream: "main",
		AgentSocket: filepath.Join(dir, "run/agent/counter.main.sock"),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	var running errgroup.Group
	c := &counter{}
	running.Go(func() error { return j.Run(ctx, c) })

	// The cluster of the service has made this node its leader.
	if err := j.Activate(); err != nil {
		fmt.Println(err)
	}
	err = c.add(ctx, j, 42)
	fmt.Println("answered:", err == nil, "held back:", errors.Is(err, context.DeadlineExceeded))
	fmt.Println("durable here:", j.Durable() == j.End(), "sum:", c.sum)

	stop()
	if err := errors.Join(running.Wait(), j.Close()); err != nil {
		fmt.Println(err)
	}
	// Output:
	// answered: false held back: true
	// durable here: true sum: 42
}

// After a restart the state machine is built again from the journal, here from
// its beginning; a service that keeps snapshots begins at one.
func ExampleJournal_NewReader() {
	dir, err := os.MkdirTemp("", "journal")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	j, err := journal.Open(dir, journal.Config{Service: "counter", Stream: "main"})
	if err != nil {
		fmt.Println(err)
		return
	}
	for n := range uint64(4) {
		payload := binary.LittleEndian.AppendUint64(nil, n)
		if _, err := j.Append(context.Background(), payload, time.Now()); err != nil {
			fmt.Println(err)
		}
	}
	c := &counter{}
	r, err := j.NewReader(j.First())
	if err != nil {
		fmt.Println(err)
		return
	}
	for {
		rec, ok, err := r.TryNext()
		if err != nil {
			fmt.Println(err)
		}
		if !ok {
			break
		}
		if err := c.Apply(rec); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println("sum:", c.sum, "applied:", c.applied == j.End())
	if err := errors.Join(r.Close(), j.Close()); err != nil {
		fmt.Println(err)
	}
	// Output:
	// sum: 6 applied: true
}
