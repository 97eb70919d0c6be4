package live

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/snapshot"
)

// load looks at a stream once: how far its log is committed, and which segments that
// makes.
func (b *Bucket) load(ctx context.Context, s archive.StreamInfo) (*loaded, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.logs[s.Stream]; l != nil {
		return l, nil
	}
	conn, at, err := b.dial(ctx, s.Stream, shipper.AsObserver, 0)
	if err != nil {
		return nil, err
	}
	if err := conn.Close(); err != nil {
		return nil, err
	}
	l := &loaded{mirror: archive.Mirror{Node: at.Node, Incarnation: at.Incarnation}}
	first, last := at.Begin.Before.Seq+1, min(at.Commit, at.Durable.Seq)
	if last < first {
		return nil, &tidegate.Error{
			Op: "read log", Class: tidegate.Transient, Err: fmt.Errorf("nothing of it is known there to be committed: %w", tidegate.ErrNotFound),
			Hint: "ask another node of the stream, `tidegate status` lists them; a node learns again what is committed from the stream's writer",
		}
	}
	if l.objects, err = b.heads(ctx, s.Stream, at.Adopted, first, last); err != nil {
		return nil, err
	}
	b.logs[s.Stream] = l
	return l, nil
}

func (b *Bucket) dial(ctx context.Context, id tidegate.StreamID, as shipper.As, from tidegate.Seq) (*shipper.Conn, shipper.Attached, error) {
	return b.cfg.Dialer.Dial(ctx, b.cfg.Addr, shipper.Attach{Stream: id, As: as, From: from})
}

// heads reads the headers of a log from first to last, and returns the segments that
// it is shown as. What is committed there was said in another session: the log must not
// have become another one since, and end there no sooner.
func (b *Bucket) heads(ctx context.Context, id tidegate.StreamID, of fence.Term, first, last tidegate.Seq) (all []bucket.Object, err error) {
	conn, at, err := b.dial(ctx, id, shipper.AsObserver, first)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // Recv reports it
	defer stop()
	defer func() { err = errors.Join(err, conn.Close()) }()
	if at.Adopted != of || at.Commit < last {
		return nil, &tidegate.Error{
			Op: "read log", Class: tidegate.Transient, Hint: "repeat the command",
			Err: fmt.Errorf("it has changed meanwhile: batch %d of epoch %s was committed, and now %d of epoch %s is: %w", uint64(last), of.Epoch, uint64(at.Commit), at.Adopted.Epoch, tidegate.ErrConflict),
		}
	}
	seg, size := archive.Segment{First: first}, int64(0)
	for next := first; next <= last; {
		ev, err := conn.Recv()
		if err != nil {
			return nil, err
		}
		h, ok := ev.(*shipper.HeaderEvent)
		if !ok {
			continue
		}
		if h.Header.Seq != next {
			return nil, fmt.Errorf("header of batch %d came where %d was due: %w", uint64(h.Header.Seq), uint64(next), tidegate.ErrGap)
		}
		seg.Last, seg.Epoch, seg.Chain = next, h.Header.Epoch, h.Header.Chain
		size += int64(h.Header.SealedLen())
		if size >= b.cfg.SegmentBytes || next == last {
			all = append(all, bucket.Object{Name: seg.Name(id), Size: size})
			seg, size = archive.Segment{First: next + 1}, 0
		}
		next++
	}
	return all, nil
}

// segment reads a segment's batches from the log.
func (b *Bucket) segment(ctx context.Context, e archive.Entry) (io.ReadCloser, error) {
	conn, _, err := b.dial(ctx, e.Stream, shipper.AsReader, e.Segment.First)
	if err != nil {
		return nil, err
	}
	r := &batches{conn: conn, next: e.Segment.First, last: e.Segment.Last, wait: func(n int) error { return b.cfg.Wait(ctx, n) }}
	r.stop = context.AfterFunc(ctx, func() { _ = conn.Close() }) // Recv reports it
	return r, nil
}

// batches is a part of a log as bytes.
type batches struct {
	conn       *shipper.Conn
	stop       func() bool
	next, last tidegate.Seq
	rest       []byte // of the session, until the next Recv
	wait       func(n int) error
}

// Read implements io.Reader.
func (r *batches) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.next > r.last {
			return 0, io.EOF
		}
		ev, err := r.conn.Recv()
		if err != nil {
			return 0, err
		}
		if ev, ok := ev.(*shipper.BatchEvent); ok {
			if ev.Header.Seq != r.next {
				return 0, fmt.Errorf("batch %d came where %d was due: %w", uint64(ev.Header.Seq), uint64(r.next), tidegate.ErrGap)
			}
			if err := r.wait(len(ev.Sealed)); err != nil {
				return 0, err
			}
			r.rest, r.next = ev.Sealed, r.next+1
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// Close implements io.Closer.
func (r *batches) Close() error {
	r.stop()
	return r.conn.Close()
}

// Fetch takes a base that the node holds into the stage, whose streams' mirrors have it
// then. tidegate.ErrNotFound when the node has it no more.
func (b *Bucket) Fetch(ctx context.Context, id tidegate.StreamID, name snapshot.Name) (err error) {
	if err := durable.MkdirAll(b.cfg.FS, b.stage(id)); err != nil {
		return err
	}
	store, err := snapshot.Open(b.cfg.FS, b.stage(id), snapshot.StoreConfig{})
	if err != nil {
		return err
	}
	defer store.Close()
	conn, _, err := b.cfg.Dialer.DialBase(ctx, b.cfg.Addr, shipper.BaseAttach{Stream: id, Way: shipper.BasePick, Name: name})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // Recv reports it
	defer stop()
	defer func() { err = errors.Join(err, conn.Close()) }()
	in, err := store.Intake()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	var m snapshot.Meter
	b.base.Store(&m)
	defer b.base.Store(nil)
	r := shipper.BaseReceiver{
		Link: conn, Intake: in, Meter: &m,
		Wait: func(ctx context.Context, n int) error {
			return errors.Join(b.room(id, m.Progress()), b.cfg.Wait(ctx, n))
		},
		Commit: func(ctx context.Context, manifest []byte) (snapshot.Listed, error) {
			return in.Commit(ctx, manifest, func(info snapshot.Info) error {
				if info.Stream != id {
					return shipper.Refuse(shipper.CodeProtocol, "manifest of stream %s", info.Stream)
				}
				return nil
			})
		},
	}
	_, err = r.Run(ctx)
	return err
}

// roomLeft is what a fetch leaves free.
const roomLeft = 64 << 20

// room refuses a base that the stage's file system does not take.
func (b *Bucket) room(id tidegate.StreamID, p snapshot.Progress) error {
	free, _, err := b.cfg.FS.Free(b.stage(id))
	if err != nil {
		return err
	}
	if free < roomLeft {
		return &tidegate.Error{
			Op: "fetch base into", Subject: b.stage(id), Class: tidegate.Refused, Err: fmt.Errorf("%d MiB are free, and %d of %d MiB have come: %w", free>>20, p.Bytes>>20, p.Total>>20, tidegate.ErrFull),
			Hint: "make room and repeat the command, or name a directory on a larger file system",
		}
	}
	return nil
}
