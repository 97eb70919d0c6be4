package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/seglog"
)

// AppendAt is SubmitAt and WaitDurable.
func (j *Journal) AppendAt(ctx context.Context, at tidegate.Position, payload []byte, t time.Time) (Range, error) {
	r, err := j.SubmitAt(ctx, at, payload, t)
	if err != nil {
		return Range{}, err
	}
	return r, j.WaitDurable(ctx, r.Next)
}

// SubmitAt appends one record at a position the caller knows from its own
// replicated log; doing it again is harmless. If the journal already reaches
// beyond at, payload and time are compared with the record there:
// tidegate.ErrDiverged if they differ, with nothing changed. tidegate.ErrGap if
// at lies beyond the end, tidegate.ErrNotFound if it was trimmed. One caller at
// a time: records of other appends would come between. The gate is not asked,
// see [Journal.Admit]; but once a handover's end is final, tidegate.ErrDraining.
func (j *Journal) SubmitAt(ctx context.Context, at tidegate.Position, payload []byte, t time.Time) (Range, error) {
	end := j.End()
	switch {
	case at > end:
		return Range{}, fmt.Errorf("append at %s: journal ends at %s: %w", at, end, tidegate.ErrGap)
	case at < end:
		return j.compareRecord(ctx, at, payload, t)
	}
	r, err := j.submitOne(ctx, payload, t, true)
	if err == nil && r.First != at {
		return Range{}, fmt.Errorf("append at %s: another append came first: %w", at, tidegate.ErrConflict)
	}
	return r, err
}

func (j *Journal) compareRecord(ctx context.Context, at tidegate.Position, payload []byte, t time.Time) (Range, error) {
	if first := j.First(); at < first {
		return Range{}, fmt.Errorf("append at %s: journal begins at %s: %w", at, first, tidegate.ErrNotFound)
	}
	rec, next, err := j.compare.record(ctx, j, at)
	if err != nil {
		return Range{}, fmt.Errorf("append at %s: %w", at, err)
	}
	have, err := parseRecord(rec, at)
	if err != nil {
		return Range{}, fmt.Errorf("append at %s: %w", at, err)
	}
	if have.Kind != KindData || have.Time.UnixNano() != t.UnixNano() || !bytes.Equal(have.Payload, payload) {
		return Range{}, diverged(at)
	}
	return Range{First: at, Next: next}, nil
}

func diverged(at tidegate.Position) error {
	return &tidegate.Error{
		Op: "append", Subject: "at " + at.String(), Class: tidegate.Permanent,
		Hint: "this journal and its source hold different records there; cut it into quarantine and follow again",
		Err:  tidegate.ErrDiverged,
	}
}

// comparer reads the journal's own records back, in order, as a replay asks
// for them.
type comparer struct {
	mu sync.Mutex
	r  *seglog.Reader
}

// record returns the record at position at. It is valid until the next call,
// and calls do not overlap: the appender is one.
func (c *comparer) record(ctx context.Context, j *Journal, at tidegate.Position) ([]byte, tidegate.Position, error) {
	if err := j.waitWritten(ctx, at+1); err != nil {
		return nil, 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.r == nil || c.r.At() != uint64(at) {
		if c.r != nil {
			if err := c.r.Close(); err != nil {
				return nil, 0, err
			}
			c.r = nil
		}
		r, err := j.log.NewReader(uint64(at))
		if err != nil {
			return nil, 0, err
		}
		c.r = r
	}
	rec, next, err := c.r.Next(ctx)
	return rec, tidegate.Position(next), err
}

func (c *comparer) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.r == nil {
		return nil
	}
	r := c.r
	c.r = nil
	return r.Close()
}

// waitWritten returns when everything before p can be read back.
func (j *Journal) waitWritten(ctx context.Context, p tidegate.Position) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for j.written < p {
		if j.err != nil {
			return j.err
		}
		if err := j.writers.wait(ctx, &j.mu, j.writers.add(p)); err != nil {
			return err
		}
	}
	return nil
}

// AppendRaw appends whole records as they stand in another copy of this
// journal; raw is only read. What overlaps with this journal is compared, byte
// by byte: tidegate.ErrDiverged if it differs. tidegate.ErrGap if first lies
// beyond the end, a *tidegate.CorruptError if raw is not whole sound records.
// The bytes are handed to the operating system in time, and fsynced by Sync.
// Refused while the service is active.
func (j *Journal) AppendRaw(ctx context.Context, first tidegate.Position, raw []byte) (Range, error) {
	marks, branches, err := j.inspect(first, raw)
	if err != nil {
		return Range{}, fmt.Errorf("append raw: %w", err)
	}
	r := Range{First: first, Next: first + tidegate.Position(len(raw))}
	end := j.endMark()
	switch {
	case first > end.Position:
		return Range{}, fmt.Errorf("append raw at %s: journal ends at %s: %w", first, end.Position, tidegate.ErrGap)
	case j.gate.active():
		return Range{}, &tidegate.Error{Op: "append raw", Class: tidegate.Misuse, Err: errors.New("the service is active")}
	case first < end.Position:
		n, err := j.compareRaw(ctx, first, raw, end.Position)
		if err != nil {
			return Range{}, err
		}
		first, raw = first+tidegate.Position(n), raw[n:]
	}
	if len(raw) == 0 {
		return r, nil
	}
	return r, j.putRaw(ctx, first, raw, marks, branches)
}

// rawRecord is where a record in raw bytes ends, and its number.
type rawRecord struct {
	next   tidegate.Position
	number uint64
}

func (j *Journal) inspect(first tidegate.Position, raw []byte) ([]rawRecord, []Branch, error) {
	var (
		records  []rawRecord
		branches []Branch
	)
	err := Scan(raw, first, func(r Record) error {
		records = append(records, rawRecord{next: r.Next, number: r.Number})
		if r.Kind != KindBranch {
			return nil
		}
		b, err := parseBranch(r)
		branches = append(branches, b)
		return err
	})
	return records, branches, err
}

// compareRaw compares raw with what lies before end, and returns how much that was.
func (j *Journal) compareRaw(ctx context.Context, first tidegate.Position, raw []byte, end tidegate.Position) (int, error) {
	if begin := j.First(); first < begin {
		return 0, fmt.Errorf("append raw at %s: journal begins at %s: %w", first, begin, tidegate.ErrNotFound)
	}
	if err := j.waitWritten(ctx, end); err != nil {
		return 0, err
	}
	r, err := j.log.NewReader(uint64(first))
	if err != nil {
		return 0, err
	}
	defer func() { _ = r.Close() }() // only read
	limit := min(end, first+tidegate.Position(len(raw)))
	buf := make([]byte, 0, readChunk)
	done := 0
	for at := first; at < limit; {
		have, next, err := r.ReadUpTo(uint64(end), buf)
		if err != nil {
			return 0, err
		}
		n := min(len(have), len(raw)-done)
		if n == 0 || !bytes.Equal(have[:n], raw[done:done+n]) {
			return 0, diverged(at)
		}
		done += n
		at = tidegate.Position(next)
	}
	return done, nil
}

// putRaw hands new records to the committer, not to be synced. Branches among
// them are in the meta file before their records can be on disk.
func (j *Journal) putRaw(ctx context.Context, first tidegate.Position, raw []byte, records []rawRecord, branches []Branch) error {
	for _, b := range branches {
		if err := j.addBranch(b); err != nil {
			return err
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.reserve(ctx, len(raw)); err != nil {
		return err
	}
	if j.end.Position != first {
		return fmt.Errorf("append raw at %s: another append came first: %w", first, tidegate.ErrConflict)
	}
	for _, rec := range records {
		if rec.next <= first {
			continue
		}
		if rec.number != uint64(j.end.Records)+1 {
			return &tidegate.CorruptError{
				Path: "journal bytes", Offset: int64(j.end.Position - first),
				What: fmt.Sprintf("record number %d where %d is due", rec.number, j.end.Records+1),
			}
		}
		break
	}
	j.pending.buf = append(j.pending.buf, raw...)
	for _, rec := range records {
		if rec.next > first {
			j.advance(int(rec.next - j.end.Position))
		}
	}
	j.work.Signal()
	return nil
}
