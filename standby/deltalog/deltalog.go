package deltalog

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/internal/seglog"
	"github.com/tidegate/tidegate/internal/vfs"
)

// Config shapes a log. The zero value means the defaults.
type Config struct {
	SegmentBytes int64           // see seglog.Config; default 64 MiB
	Before       tidegate.LogPos // of a new log that starts in the middle of the stream: the position before its first batch
	Quarantine   string          // where a torn tail goes; default "torn" in the log's directory
}

// Log is the durable log of one stream.
type Log struct {
	stream tidegate.StreamID
	log    *seglog.Log

	mu      sync.Mutex
	end     end
	durable tidegate.LogPos
	recent  recent
}

// end is what the next batch must fit.
type end struct {
	pos        tidegate.LogPos
	generation tidegate.Generation // 0: no batch to compare with
	next       tidegate.Position
}

func endOf(h *batch.Header) end { return end{h.Pos(), h.Generation, h.Next} }

// Open opens or creates the log of stream in dir and recovers it as seglog.Open
// does. What the log then holds is durable. A damaged batch that was synced is
// a *tidegate.CorruptError, and nothing has been touched then.
func Open(fsys vfs.FS, dir string, stream tidegate.StreamID, cfg Config) (*Log, seglog.Recovery, error) {
	if stream.IsZero() {
		return nil, seglog.Recovery{}, fmt.Errorf("open delta log %s: stream id is zero", dir)
	}
	log, rec, err := seglog.Open(fsys, dir, Format{stream}, seglog.Config{
		SegmentBytes: cfg.SegmentBytes,
		First:        uint64(cfg.Before.Seq) + 1,
		State:        seglog.State(cfg.Before.Chain),
		Quarantine:   cfg.Quarantine,
	})
	if err != nil {
		return nil, rec, err
	}
	l := &Log{stream: stream, log: log}
	// Of an empty log that starts in the middle only the caller knows the epoch.
	if cfg.Before.Seq+1 == tidegate.Seq(log.First()) {
		l.end.pos.Epoch = cfg.Before.Epoch
	}
	l.end, err = l.endAt(tidegate.Seq(log.End())-1, l.end.pos.Epoch)
	if err != nil {
		return nil, rec, errors.Join(err, log.Close())
	}
	l.durable = l.end.pos
	return l, rec, nil
}

// endAt returns the end of the log when seq is the last batch; before the first
// batch it is the start of the log, of the given epoch.
func (l *Log) endAt(seq tidegate.Seq, epoch tidegate.Epoch) (end, error) {
	if uint64(seq)+1 == l.log.First() {
		chain, err := l.log.FirstState()
		return end{pos: tidegate.LogPos{Epoch: epoch, Seq: seq, Chain: tidegate.Chain(chain)}}, err
	}
	_, h, err := l.At(seq)
	return endOf(&h), err
}

// Append verifies whole sealed batches and appends them in order; see
// [Log.AppendVerified] for the errors. Damage is a *tidegate.CorruptError.
// Batches before the one at fault are in the log.
func (l *Log) Append(sealed ...[]byte) error {
	for _, s := range sealed {
		h, err := batch.VerifyBytes(s)
		if err != nil {
			return fmt.Errorf("append to stream %s: %w", l.stream, err)
		}
		if err := l.AppendVerified(&h, s); err != nil {
			return err
		}
	}
	return nil
}

// AppendVerified appends a batch whose header batch.Verify or batch.VerifyBytes
// has just returned; it does not look at the payload again. It checks stream,
// epoch, seq, positions and chain:
//
//  1. a seq or position beyond the end: tidegate.ErrGap
//  2. an epoch below the end's: tidegate.ErrFenced
//  3. a batch the log has already: tidegate.ErrConflict; another at its seq, or
//     one that follows another log: tidegate.ErrDiverged
//  4. the disk is full: tidegate.ErrFull; nothing was appended, try again later
//  5. any other write error: tidegate.ErrStopped, for ever
//
// sealed is only read, and may be reused when the call returns. It does not sync.
func (l *Log) AppendVerified(h *batch.Header, sealed []byte) error {
	if err := l.fits(h, sealed); err != nil {
		return fmt.Errorf("append batch %s to stream %s: %w", h.Seq, l.stream, err)
	}
	if err := l.log.Append(sealed, uint64(h.Seq)+1); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end = endOf(h)
	l.recent.push(h)
	return nil
}

func (l *Log) fits(h *batch.Header, sealed []byte) error {
	l.mu.Lock()
	end := l.end
	l.mu.Unlock()
	switch {
	case h.Stream != l.stream:
		return fmt.Errorf("batch belongs to stream %s: %w", h.Stream, tidegate.ErrDiverged)
	case h.Seq <= end.pos.Seq:
		return l.known(h)
	case h.Seq != end.pos.Seq+1:
		return fmt.Errorf("log ends at %s: %w", end.pos.Seq, tidegate.ErrGap)
	case h.Epoch < end.pos.Epoch:
		return fmt.Errorf("epoch %s is below the log's %s: %w", h.Epoch, end.pos.Epoch, tidegate.ErrFenced)
	case len(sealed) != h.SealedLen():
		return fmt.Errorf("batch is %d bytes, its header says %d", len(sealed), h.SealedLen())
	case !batch.Follows(sealed, end.pos.Chain):
		return fmt.Errorf("batch does not follow chain %s: %w", end.pos.Chain, tidegate.ErrDiverged)
	case h.Generation < end.generation:
		return fmt.Errorf("generation %d is below the log's %d: %w", h.Generation, end.generation, tidegate.ErrDiverged)
	case h.Generation == end.generation && h.First > end.next:
		return fmt.Errorf("positions %s to %s are missing: %w", end.next, h.First, tidegate.ErrGap)
	case h.Generation == end.generation && h.First < end.next:
		return fmt.Errorf("position %s is in the log already, up to %s: %w", h.First, end.next, tidegate.ErrDiverged)
	}
	return nil
}

// known says how a batch relates to the one the log has at its seq.
func (l *Log) known(h *batch.Header) error {
	pos, _, err := l.At(h.Seq)
	switch {
	case errors.Is(err, tidegate.ErrNotFound):
		return fmt.Errorf("before the oldest batch kept: %w", tidegate.ErrConflict)
	case err != nil:
		return err
	case pos.Chain != h.Chain:
		return fmt.Errorf("log has another batch there: %w", tidegate.ErrDiverged)
	}
	return fmt.Errorf("already in the log: %w", tidegate.ErrConflict)
}

// Rolls reports whether an append of n bytes would begin a segment, which syncs the
// one before it.
func (l *Log) Rolls(n int) bool { return l.log.Rolls(n) }

// Sync makes everything appended before the call durable and returns its end,
// which may be acknowledged. After an error the log has stopped for ever.
func (l *Log) Sync() (tidegate.LogPos, error) {
	l.mu.Lock()
	pos := l.end.pos
	l.mu.Unlock()
	if err := l.log.Sync(); err != nil {
		return tidegate.LogPos{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if pos.Seq > l.durable.Seq {
		l.durable = pos
	}
	return pos, nil
}

// Stream is the stream whose log this is.
func (l *Log) Stream() tidegate.StreamID { return l.stream }

// First is the seq of the oldest batch kept.
func (l *Log) First() tidegate.Seq { return tidegate.Seq(l.log.First()) }

// End is the position of the newest batch, received; the zero seq for an empty log.
func (l *Log) End() tidegate.LogPos {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end.pos
}

// Durable is the newest synced position.
func (l *Log) Durable() tidegate.LogPos {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable
}

// Bytes is the size of the batches kept.
func (l *Log) Bytes() int64 { return l.log.Bytes() }

// Err is why the log has stopped, nil while it works.
func (l *Log) Err() error { return l.log.Err() }

// At returns the header of a batch and the position of the log with that batch
// as its last. tidegate.ErrNotFound when the log does not hold it.
func (l *Log) At(seq tidegate.Seq) (tidegate.LogPos, batch.Header, error) {
	if seq >= l.First() {
		l.mu.Lock()
		h, ok := l.recent.at(seq)
		l.mu.Unlock()
		if ok {
			return h.Pos(), h, nil
		}
	}
	var buf [batch.HeaderSize]byte
	b, err := l.log.Header(uint64(seq), buf[:])
	if err != nil {
		return tidegate.LogPos{}, batch.Header{}, err
	}
	h, err := batch.ParseHeader(b)
	return h.Pos(), h, err
}

// Tail returns the headers of the newest n batches, or as many as there are,
// oldest first.
func (l *Log) Tail(n int) ([]batch.Header, error) {
	last := l.End().Seq
	first := l.First()
	if have := int64(last) - int64(first) + 1; int64(n) < have {
		first = last - tidegate.Seq(n) + 1
	}
	var tail []batch.Header
	for seq := first; seq <= last; seq++ {
		_, h, err := l.At(seq)
		if err != nil {
			return nil, err
		}
		tail = append(tail, h)
	}
	return tail, nil
}

// FindPosition returns the seq of the first batch of the generation whose Next
// is beyond pos: the one to start with for somebody who has everything before
// pos. tidegate.ErrNotFound when there is none.
func (l *Log) FindPosition(g tidegate.Generation, pos tidegate.Position) (tidegate.Seq, error) {
	return l.FindPositionNear(g, pos, 0)
}

// FindPositionNear is FindPosition for who has a guess: a batch shortly before the
// one that is looked for. Each header that is looked at is read from a file; a guess
// that is wrong, or 0, costs time only.
func (l *Log) FindPositionNear(g tidegate.Generation, pos tidegate.Position, guess tidegate.Seq) (tidegate.Seq, error) {
	low, end := l.First(), l.End().Seq+1
	l.mu.Lock()
	if h, ok := l.recent.at(l.recent.first); ok && (h.Generation < g || h.Generation == g && h.Next <= pos) {
		low = max(low, h.Seq+1) // what is asked for is almost always at the end
	}
	l.mu.Unlock()
	high := end
	var found batch.Header
	look := func(seq tidegate.Seq) error {
		_, h, err := l.At(seq)
		if err != nil {
			return err
		}
		// Generations never go down, and positions never within one.
		if h.Generation > g || h.Generation == g && h.Next > pos {
			high, found = seq, h
		} else {
			low = seq + 1
		}
		return nil
	}
	for step := tidegate.Seq(1); guess >= low && guess < high && high == end; guess, step = guess+step, 2*step {
		if err := look(guess); err != nil {
			return 0, err
		}
	}
	for low < high {
		if err := look(low + (high-low)/2); err != nil {
			return 0, err
		}
	}
	if low == end || found.Generation != g {
		return 0, fmt.Errorf("position %s of generation %d in stream %s: %w", pos, g, l.stream, tidegate.ErrNotFound)
	}
	return low, nil
}

// LastOf returns the last batch of a generation, or of one before where it has none
// here; 0 when all that is kept is of newer ones.
func (l *Log) LastOf(g tidegate.Generation) (tidegate.Seq, error) {
	low, high := l.First(), l.End().Seq+1
	for low < high {
		mid := low + (high-low)/2
		_, h, err := l.At(mid)
		if err != nil {
			return 0, err
		}
		if h.Generation > g { // they never go down
			high = mid
		} else {
			low = mid + 1
		}
	}
	if low == l.First() {
		return 0, nil
	}
	return low - 1, nil
}

// Wait returns nil when the end is beyond seq, ctx's error when ctx ends first,
// and the log's own when it has stopped.
func (l *Log) Wait(ctx context.Context, seq tidegate.Seq) error {
	return l.log.Wait(ctx, uint64(seq)+1)
}

// Close stops the log; it does not sync. See seglog.Log.Close.
func (l *Log) Close() error { return l.log.Close() }
