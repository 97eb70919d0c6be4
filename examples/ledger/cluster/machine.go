package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/book"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
)

// machine is raft's state machine over the books. Raft calls it from one
// goroutine; once an entry could not be journaled it applies nothing more and
// gives no snapshot, because raft itself would go on as if it had.
type machine struct {
	ctx   func() context.Context // of Run: raft's callbacks have none of their own
	shelf *book.Shelf
	fetch func(ctx context.Context, b *book.Book, to tidegate.Position) error

	once   sync.Once
	broken chan error // receives the first failure
}

func newMachine(shelf *book.Shelf) *machine {
	return &machine{shelf: shelf, broken: make(chan error, 1)}
}

func (m *machine) fail(err error) error {
	m.once.Do(func() { m.broken <- err })
	return err
}

// applied is what raft hands back for an entry.
type applied struct {
	outcome ledger.Outcome
	err     error
}

// Apply implements [raft.FSM]; raft uses ApplyBatch instead.
func (m *machine) Apply(l *raft.Log) any { return m.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements [raft.BatchingFSM]: all entries of a batch share their
// journal's fsync, and the currencies' fsyncs run beside each other.
func (m *machine) ApplyBatch(logs []*raft.Log) []any {
	out := make([]any, len(logs))
	perBook := map[*book.Book][]int{}
	for i, l := range logs {
		if l.Type != raft.LogCommand {
			continue
		}
		c, err := ledger.RecordCurrency(l.Data)
		b := m.shelf.Book(c)
		if err == nil && b == nil {
			err = fmt.Errorf("no book of %s", c)
		}
		if err != nil {
			out[i] = applied{err: m.fail(&tidegate.Error{
				Op: "apply entry", Subject: fmt.Sprint(l.Index), Class: tidegate.Corrupt, Err: err,
			})}
			continue
		}
		perBook[b] = append(perBook[b], i)
	}
	var g errgroup.Group
	for b, indexes := range perBook {
		g.Go(func() error {
			recs := make([][]byte, len(indexes))
			for k, i := range indexes {
				recs[k] = logs[i].Data
			}
			outcomes, err := b.Append(m.ctx(), recs)
			for k, i := range indexes {
				if err != nil {
					out[i] = applied{err: err}
				} else {
					out[i] = applied{outcome: outcomes[k]}
				}
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		_ = m.fail(err)
	}
	return out
}

// Snapshot implements [raft.FSM].
func (m *machine) Snapshot() (raft.FSMSnapshot, error) {
	for _, b := range m.shelf.Books() {
		if err := b.Broken(); err != nil {
			return nil, fmt.Errorf("snapshot: %w", err)
		}
	}
	return snapshot(encodeBooks(m.shelf)), nil
}

// Restore implements [raft.FSM]: first the journals are made to reach the
// snapshot's positions, then the states are replaced.
func (m *machine) Restore(rc io.ReadCloser) error {
	defer func() { _ = rc.Close() }() // only read
	b, err := io.ReadAll(rc)
	if err != nil {
		return fmt.Errorf("read raft snapshot: %w", err)
	}
	states, err := parseBooks(b)
	if err != nil {
		return err
	}
	for _, s := range states {
		b := m.shelf.Book(s.Currency())
		if b == nil {
			return &tidegate.Error{
				Op: "restore raft snapshot", Class: tidegate.Misuse, Err: fmt.Errorf("no book of %s", s.Currency()),
			}
		}
		if b.Journal().End() < s.Position() {
			if err := m.fetch(m.ctx(), b, s.Position()); err != nil {
				return err
			}
		}
		if err := b.Install(s); err != nil {
			return err
		}
	}
	return nil
}

// snapshot is an encoded set of states: made while raft waits, written beside it.
type snapshot []byte

// Persist implements [raft.FSMSnapshot].
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := sink.Write(s); err != nil {
		return errors.Join(fmt.Errorf("write raft snapshot: %w", err), sink.Cancel())
	}
	return sink.Close()
}

// Release implements [raft.FSMSnapshot].
func (s snapshot) Release() {}

// A raft snapshot's bytes, version 1, little-endian: magic "TGLC", version u16,
// books u16, then per book its length u64 and a snapshot of package ledger.
// The checksums are those of the states; raft adds one over the whole.
const (
	booksMagic   = "TGLC"
	booksVersion = 1
)

func encodeBooks(shelf *book.Shelf) []byte {
	b := append([]byte(nil), booksMagic...)
	b = binary.LittleEndian.AppendUint16(b, booksVersion)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(shelf.Books())))
	states := make([][]byte, len(shelf.Books()))
	var beside sync.WaitGroup
	for i, bk := range shelf.Books() { // to put a large book in order takes its time
		beside.Go(func() { states[i] = bk.Snapshot() })
	}
	beside.Wait()
	for _, s := range states {
		b = binary.LittleEndian.AppendUint64(b, uint64(len(s)))
		b = append(b, s...)
	}
	return b
}

func parseBooks(b []byte) ([]*ledger.State, error) {
	corrupt := func(format string, args ...any) error {
		return &tidegate.Error{Op: "parse raft snapshot", Class: tidegate.Corrupt, Err: fmt.Errorf(format, args...)}
	}
	if len(b) < 8 || string(b[:4]) != booksMagic {
		return nil, corrupt("no magic %q at its beginning", booksMagic)
	}
	if v := binary.LittleEndian.Uint16(b[4:]); v != booksVersion {
		return nil, corrupt("version %d: %w", v, tidegate.ErrUnsupported)
	}
	n := int(binary.LittleEndian.Uint16(b[6:]))
	b = b[8:]
	var states []*ledger.State
	for i := range n {
		if len(b) < 8 || binary.LittleEndian.Uint64(b) > uint64(len(b)-8) {
			return nil, corrupt("ends inside book %d of %d", i, n)
		}
		end := 8 + binary.LittleEndian.Uint64(b)
		s, err := ledger.ParseSnapshot(b[8:end])
		if err != nil {
			return nil, err
		}
		for _, other := range states {
			if other.Currency() == s.Currency() {
				return nil, corrupt("two books of %s", s.Currency())
			}
		}
		states = append(states, s)
		b = b[end:]
	}
	if len(b) != 0 {
		return nil, corrupt("%d bytes after the last book", len(b))
	}
	return states, nil
}
