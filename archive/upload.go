package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/batch"
)

// uploadDue puts the next segment when it is due.
func (w *Writer) uploadDue(ctx context.Context, s *Standing) (time.Duration, error) {
	next, upTo := w.survey.Next(w.Log.First())
	if upTo == 0 || s.Commit < upTo {
		upTo = s.Commit
	}
	b := &w.backlog
	if !b.goesOn(next, upTo, s) {
		b.begin(next, s)
	}
	for b.Last < upTo && b.Bytes < w.policy.Segment {
		_, h, err := w.Log.At(b.Last + 1)
		if err != nil {
			b.begin(0, s) // it was trimmed, or cut
			return 0, fmt.Errorf("read log: %w", err)
		}
		b.add(&h, w.Clock.Boot())
	}
	if !w.policy.due(b, w.Clock.Boot()) {
		return w.tick(), nil
	}
	if err := w.upload(ctx, b.Range, s); err != nil {
		return 0, err
	}
	return 0, nil
}

// upload puts batches as one segment, if they still are committed when they have been
// read: s is from before the bucket was asked this and that, which takes its time.
func (w *Writer) upload(ctx context.Context, r Range, s *Standing) error {
	var buf []byte
	select {
	case buf = <-w.Buffers:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { w.Buffers <- buf }() // never full: as many as there are
	buf, seg, err := w.read(ctx, buf[:0], r)
	if err != nil {
		w.backlog.begin(0, s) // the log has changed under it
		return fmt.Errorf("read log: %w", err)
	}
	still, err := w.stillCommitted(seg, s)
	if err != nil || !still {
		w.backlog.begin(0, s)
		return err
	}
	name := seg.Name(w.id)
	if err := w.putNew(ctx, name, bytes.NewReader(buf)); err != nil {
		return w.inBucket("upload segment", err)
	}
	w.survey.Add(Range{seg.First, seg.Last})
	w.publish()
	w.Logger.Debug("segment archived", "first", uint64(seg.First), "last", uint64(seg.Last), "bytes", len(buf))
	return nil
}

// read appends batches of the log to buf, each as it was sealed, and returns what
// they are as a segment. Each is checked again: what rots on a disk stays there.
func (w *Writer) read(ctx context.Context, buf []byte, r Range) (_ []byte, s Segment, err error) {
	cursor, err := w.Log.ReadFrom(r.First)
	if err != nil {
		return buf, s, err
	}
	defer func() { err = errors.Join(err, cursor.Close()) }()
	s.First = r.First
	for cursor.Seq() <= r.Last {
		if w.Log.Durable().Seq < cursor.Seq() { // the cursor would wait for whatever comes, with the buffer in hand
			return buf, s, fmt.Errorf("batch %d is not there any more: %w", cursor.Seq(), tidegate.ErrConflict)
		}
		h, sealed, err := cursor.Next(ctx)
		if err != nil {
			return buf, s, err
		}
		if h.Stream != w.id || s.Last != 0 && !batch.Follows(sealed, s.Chain) {
			return buf, s, fmt.Errorf("batch %d does not follow the one before: %w", h.Seq, tidegate.ErrDiverged)
		}
		buf = append(buf, sealed...)
		s.Last, s.Epoch, s.Chain = h.Seq, h.Epoch, h.Chain
	}
	return buf, s, nil
}

// stillCommitted reports whether what was read of the log as s says is committed in it,
// and durable, as of now. A failover may have cut the log meanwhile, and put other
// batches in the place of those that were to be read.
func (w *Writer) stillCommitted(seg Segment, s *Standing) (bool, error) {
	now := w.Source.Standing()
	if !now.Follows || now.Epoch != s.Epoch || now.Start != s.Start || now.Commit < seg.Last {
		return false, nil
	}
	pos, _, err := w.Log.At(seg.Last)
	if errors.Is(err, tidegate.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read log: %w", err)
	}
	return pos.Chain == seg.Chain, nil
}

// putNew puts an object whose name says what is in it, or finds that it is there.
func (w *Writer) putNew(ctx context.Context, name string, body bucket.Body) error {
	o := bucket.PutOptions{IfAbsent: true}
	_, err := w.putBody(ctx, name, body, o)
	if !errors.Is(err, tidegate.ErrConflict) {
		return err
	}
	there, err := w.Bucket.Stat(ctx, name)
	if err != nil {
		return err
	}
	w.succeeded()
	if there.Size != body.Size() {
		return &tidegate.Error{
			Op: "put object", Subject: name, Class: tidegate.Refused, Err: fmt.Errorf("one of %d bytes is there, want %d: %w", there.Size, body.Size(), tidegate.ErrDiverged),
			Hint: "nothing in an archive is written over; look who wrote it",
		}
	}
	return nil
}

// putOnce puts a document that stays as whoever was first has written it.
func (w *Writer) putOnce(ctx context.Context, name string, b []byte) error {
	_, err := w.put(ctx, name, b, bucket.PutOptions{IfAbsent: true})
	if errors.Is(err, tidegate.ErrConflict) {
		return nil // by another node, just now; the next start reads it
	}
	return err
}

func (w *Writer) put(ctx context.Context, name string, b []byte, o bucket.PutOptions) (bucket.Object, error) {
	return w.putBody(ctx, name, bytes.NewReader(b), o)
}

func (w *Writer) putBody(ctx context.Context, name string, body bucket.Body, o bucket.PutOptions) (bucket.Object, error) {
	obj, err := w.Bucket.Put(ctx, name, body, o)
	if err == nil {
		w.succeeded()
		w.Meter.Stored(body.Size())
	}
	return obj, err
}
