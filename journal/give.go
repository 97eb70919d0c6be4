package journal

import (
	"context"
	"fmt"
	"hash/crc32"
	"sync"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
)

// versionSnapshots is the first of the session's that knows snapshots.
const versionSnapshots = 2

// giving is what a session with the standby node has under way of a snapshot.
type giving struct {
	writing sync.WaitGroup // one at a time
	buf     []byte         // the receiving goroutine's own

	mu   sync.Mutex
	busy bool
	file *stateFile // to be read from; nil: none
	read summed     // so far
}

// summed is how far a state has been read, from its beginning on. What comes last is
// given only if all of it has the checksum with which it was written down: whoever
// reads names the bytes anew, and would never find out.
type summed struct {
	at  int64
	sum uint32
}

// next takes the bytes at offset, which follow those before them or are the first.
func (s *summed) next(f *stateFile, offset int64, part []byte) error {
	if offset == 0 {
		*s = summed{}
	}
	if offset != s.at {
		return fmt.Errorf("asked for bytes %d and on of a state of which %d were read: %w", offset, s.at, tidegate.ErrConflict)
	}
	s.at += int64(len(part))
	s.sum = crc32.Update(s.sum, castagnoli, part)
	if s.at == f.size && s.sum != f.sum {
		return &tidegate.CorruptError{Path: f.f.Name(), Offset: -1, What: "state does not match its checksum"}
	}
	return nil
}

// end closes what is open, once nothing is written down any more.
func (g *giving) end() {
	g.writing.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.close()
}

// close closes the file; mu is held.
func (g *giving) close() {
	if g.file != nil {
		_ = g.file.close() // it was only read from
		g.file = nil
	}
}

// askState answers the standby node's wish for a snapshot. Only what holds the state
// still is done here; it is written down beside the records that follow.
func (l *standbyLink) askState(ctx context.Context) error {
	l.giving.mu.Lock()
	busy := l.giving.busy
	if !busy {
		l.giving.close()
	}
	l.giving.busy = true
	l.giving.mu.Unlock()
	if busy {
		return fmt.Errorf("asked for a snapshot while one is written down: %w", tidegate.ErrConflict)
	}
	z, err := l.f.freeze(ctx)
	if err != nil {
		return l.giveState(nil, err)
	}
	l.giving.writing.Go(func() {
		var file *stateFile
		h, err := l.f.j.writeDown(ctx, z)
		if err == nil {
			file, err = l.f.j.states().open(h.position)
		}
		if err := l.giveState(file, err); err != nil {
			_ = l.conn.Close() // the receiver reports it
		}
	})
	return nil
}

// giveState tells what can be read, or why nothing can.
func (l *standbyLink) giveState(file *stateFile, err error) error {
	l.giving.mu.Lock()
	l.giving.busy, l.giving.file, l.giving.read = false, file, summed{}
	l.giving.mu.Unlock()
	if err != nil {
		l.f.j.cfg.Log.Warn("no snapshot", "stream", string(l.f.j.cfg.Stream), "err", err)
		return l.conn.Send(&local.Snapshot{Class: tidegate.ClassOf(err), Text: err.Error(), Hint: tidegate.HintOf(err)})
	}
	return l.conn.Send(&local.Snapshot{
		Position: file.position, Records: file.records, Digest: file.digest, Size: uint64(file.size), Lineage: file.lineage, //nolint:gosec // a file's size
	})
}

// readState gives bytes of the state that was told last.
func (l *standbyLink) readState(m *local.SnapshotRead) error {
	g := &l.giving
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.file == nil || g.file.position != m.Position || m.Offset+uint64(m.Bytes) > uint64(g.file.size) || m.Offset+uint64(m.Bytes) < m.Offset { //nolint:gosec // a file's size
		return fmt.Errorf("asked for bytes %d and on of a state at %s, which was not told: %w", m.Offset, m.Position, tidegate.ErrConflict)
	}
	if g.buf == nil {
		g.buf = make([]byte, local.PartMax)
	}
	part := g.buf[:m.Bytes]
	if err := g.file.readAt(part, int64(m.Offset)); err != nil { //nolint:gosec // below the size
		return err
	}
	if err := g.read.next(g.file, int64(m.Offset), part); err != nil { //nolint:gosec // below the size
		if tidegate.ClassOf(err) == tidegate.Corrupt {
			l.f.bad, l.f.isBad = g.file.position, true // the next wish has it written anew
		}
		return err
	}
	return l.conn.Send(&local.SnapshotPart{Position: m.Position, Offset: m.Offset, Payload: part})
}
