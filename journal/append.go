package journal

import (
	"context"
	"fmt"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/rpo"
)

// Append appends one record and returns when it is durable here. On an error
// the record may or may not be there; after ctx ended it usually will be.
// payload is copied. Records of concurrent calls share an fsync.
//
// The gate may slow new records down, and refuses them with a [Closed] in the
// error's tree when the stream's policy says so or a handover is under way;
// nothing was appended then.
func (j *Journal) Append(ctx context.Context, payload []byte, t time.Time) (Range, error) {
	r, err := j.Submit(ctx, payload, t)
	if err != nil {
		return Range{}, err
	}
	return r, j.WaitDurable(ctx, r.Next)
}

// AppendBatch appends records next to each other, all of the same time, and
// returns when all are durable. After a crash a prefix of them may be there.
// Together they may have at most GroupBytesMax.
func (j *Journal) AppendBatch(ctx context.Context, payloads [][]byte, t time.Time) (Range, error) {
	r, err := j.submit(ctx, t, payloads...)
	if err != nil {
		return Range{}, err
	}
	return r, j.WaitDurable(ctx, r.Next)
}

// Submit appends one record without waiting for the disk; it blocks only while
// GroupBytesMax wait already. The record is durable here once WaitDurable has
// returned for its Next, and may be told to the world once Await has. Any
// number may be in flight. payload is copied.
func (j *Journal) Submit(ctx context.Context, payload []byte, t time.Time) (Range, error) {
	return j.submitOne(ctx, payload, t, false)
}

// submitOne appends a record, one that the gate must admit or one that the
// service's own cluster has agreed upon already.
func (j *Journal) submitOne(ctx context.Context, payload []byte, t time.Time, replicated bool) (Range, error) {
	if len(payload) > j.cfg.RecordBytesMax {
		return Range{}, j.tooLong(len(payload))
	}
	if err := j.mayAppend(); err != nil {
		return Range{}, err
	}
	if !replicated {
		if err := j.gate.admit(ctx, 1); err != nil {
			return Range{}, err
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.reserve(ctx, HeaderSize+len(payload)); err != nil {
		return Range{}, err
	}
	if err := j.gate.mayPut(replicated); err != nil {
		return Range{}, err
	}
	first := j.end.Position
	j.put(KindData, payload, t)
	j.queued()
	return Range{First: first, Next: j.end.Position}, nil
}

func (j *Journal) submit(ctx context.Context, t time.Time, payloads ...[]byte) (Range, error) {
	total := 0
	for _, p := range payloads {
		if len(p) > j.cfg.RecordBytesMax {
			return Range{}, j.tooLong(len(p))
		}
		total += HeaderSize + len(p)
	}
	if total > j.cfg.GroupBytesMax {
		return Range{}, &tidegate.Error{
			Op: "append", Subject: fmt.Sprintf("%d records", len(payloads)), Class: tidegate.Misuse,
			Err: fmt.Errorf("%d bytes together, at most %d", total, j.cfg.GroupBytesMax),
		}
	}
	if err := j.mayAppend(); err != nil {
		return Range{}, err
	}
	if err := j.gate.admit(ctx, len(payloads)); err != nil {
		return Range{}, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.reserve(ctx, total); err != nil {
		return Range{}, err
	}
	if err := j.gate.mayPut(false); err != nil {
		return Range{}, err
	}
	first := j.end.Position
	for _, p := range payloads {
		j.put(KindData, p, t)
	}
	j.queued()
	return Range{First: first, Next: j.end.Position}, nil
}

// mayAppend returns why nothing of this journal's own may be appended.
func (j *Journal) mayAppend() error {
	if err := j.gate.mayAppend(); err != nil {
		return err
	}
	return j.own()
}

func (j *Journal) tooLong(n int) error {
	return &tidegate.Error{
		Op: "append", Subject: "record", Class: tidegate.Misuse,
		Err: fmt.Errorf("%d bytes, at most %d", n, j.cfg.RecordBytesMax),
	}
}

// reserve waits until n more bytes fit into the pending group. Called and
// returns with mu held.
func (j *Journal) reserve(ctx context.Context, n int) error {
	for {
		switch {
		case j.err != nil:
			return j.err
		case j.closing:
			return errClosed
		case !j.frozen && (len(j.pending.buf) == 0 || len(j.pending.buf)+n <= j.cfg.GroupBytesMax):
			return nil
		}
		if err := j.room.wait(ctx, &j.mu, j.room.add(0)); err != nil {
			return err
		}
	}
}

// put encodes one record into the pending group. mu is held.
func (j *Journal) put(kind Kind, payload []byte, t time.Time) {
	h := header{number: uint64(j.end.Records) + 1, time: t.UnixNano(), kind: kind}
	j.pending.buf = appendRecord(j.pending.buf, j.end.Position, h, payload)
	j.advance(HeaderSize + len(payload))
}

// advance counts one record of n bytes that was put into the pending group.
func (j *Journal) advance(n int) {
	j.end = rpo.Mark{
		Position: j.end.Position + tidegate.Position(n),
		Records:  j.end.Records + 1,
		Bytes:    j.end.Bytes + int64(n),
	}
	j.pending.marks = append(j.pending.marks, j.end)
}

// queued hands the pending group to the committer, to be synced. mu is held.
func (j *Journal) queued() {
	j.pending.sync = true
	j.work.Signal()
}

// WaitDurable returns when everything before p is fsynced here. p may lie
// beyond the end: it then waits for it to be appended.
func (j *Journal) WaitDurable(ctx context.Context, p tidegate.Position) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for {
		switch {
		case j.durable >= p:
			return nil
		case j.err != nil:
			return j.err
		}
		if p > j.syncTo {
			j.syncTo = p
			j.work.Signal()
		}
		if err := j.syncers.wait(ctx, &j.mu, j.syncers.add(p)); err != nil {
			return err
		}
	}
}

// Sync makes everything appended so far durable.
func (j *Journal) Sync(ctx context.Context) error { return j.WaitDurable(ctx, j.End()) }

// commit is the one goroutine that writes and syncs. There is no timer: a group
// is whatever came while the previous one was on its way to the disk.
func (j *Journal) commit() {
	defer close(j.done)
	j.mu.Lock()
	defer j.mu.Unlock()
	for {
		for !j.due() && !j.closing {
			j.work.Wait()
		}
		if !j.due() {
			// Closing: what was only written is synced too.
			if j.durable < j.end.Position {
				j.syncTo = j.end.Position
			} else {
				j.fail(errClosed)
				return
			}
		}
		if !j.commitGroup() {
			return
		}
	}
}

// due reports whether the committer has something to do. mu is held.
func (j *Journal) due() bool {
	return len(j.pending.buf) > 0 || j.durable < min(j.syncTo, j.end.Position)
}

// commitGroup writes the pending group and syncs if somebody relies on it.
// Called and returns with mu held; false after a failure.
func (j *Journal) commitGroup() bool {
	g, end := j.pending, j.end
	j.pending, j.spare = j.spare, nil
	sync := g.sync || j.durable < min(j.syncTo, end.Position)
	j.busy = true
	j.room.wake(noPosition, nil)
	j.mu.Unlock()

	err := j.store(g, end, sync)

	j.mu.Lock()
	j.busy = false
	if err != nil {
		j.fail(&tidegate.Error{
			Op: "commit journal", Subject: j.dir, Class: tidegate.Permanent,
			Hint: "what the disk holds beyond the last acknowledged record is unknown: restart the service once the disk is sound",
			Err:  fmt.Errorf("%w: %w", tidegate.ErrStopped, err),
		})
		return false
	}
	j.groups++
	j.written = end.Position
	j.writers.wake(j.written, nil)
	if sync {
		j.durable = end.Position
		j.syncers.wake(j.durable, nil)
	}
	g.reset()
	j.spare = g
	j.idle.Broadcast()
	return true
}

func (j *Journal) store(g *group, end rpo.Mark, sync bool) error {
	if len(g.buf) > 0 {
		if err := j.log.Append(g.buf, uint64(end.Position)); err != nil {
			return err
		}
	}
	if !sync {
		return nil
	}
	if err := j.log.Sync(); err != nil {
		return err
	}
	j.gate.appended(end, g.marks)
	return nil
}

// fail ends the journal for everybody. mu is held.
func (j *Journal) fail(err error) {
	j.err = err
	j.idle.Broadcast()
	j.syncers.wake(noPosition, err)
	j.writers.wake(noPosition, err)
	j.room.wake(noPosition, err)
	if err != errClosed { //nolint:errorlint // identity: closed by us, not failed
		close(j.failed)
		j.gate.stop(err)
	}
}
