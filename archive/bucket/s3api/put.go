package s3api

import (
	"context"
	"errors"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
)

// Put implements [bucket.Bucket].
func (b *Bucket) Put(ctx context.Context, name string, body bucket.Body, o bucket.PutOptions) (bucket.Object, error) {
	const op = "put object"
	if err := bucket.CheckPut(name, o); err != nil {
		return bucket.Object{}, err
	}
	// Servers keep whole seconds; up, so that it is never shorter than asked for.
	c := Conditions{IfAbsent: o.IfAbsent, IfMatch: o.IfMatch, RetainUntil: o.RetainUntil}
	if whole := c.RetainUntil.Truncate(time.Second); whole.Before(c.RetainUntil) {
		c.RetainUntil = whole.Add(time.Second)
	}
	size := body.Size()
	var tag string
	var err error
	if size <= b.cfg.PartBytes {
		tag, err = b.api.Put(ctx, b.key(name), section(body, 0, size), c)
	} else {
		tag, err = b.putParts(ctx, name, body, c)
	}
	if err != nil {
		return bucket.Object{}, b.failPut(ctx, op, name, c, err)
	}
	return bucket.Object{Name: name, Size: size, Tag: tag, RetainUntil: c.RetainUntil}, nil
}

// section is a part of a body that says so when the body is shorter than it claims:
// a client library would take the early end for a short part, or send zeroes.
func section(body bucket.Body, off, n int64) *io.SectionReader {
	return io.NewSectionReader(whole{body}, off, n)
}

type whole struct{ body bucket.Body }

func (w whole) ReadAt(p []byte, off int64) (int, error) {
	n, err := w.body.ReadAt(p, off)
	if n < len(p) && (err == nil || errors.Is(err, io.EOF)) {
		return n, &tidegate.Error{Op: "read the body", Class: tidegate.Permanent, Err: io.ErrUnexpectedEOF}
	}
	if n == len(p) {
		return n, nil
	}
	return n, err
}

// putParts sends a large object.
func (b *Bucket) putParts(ctx context.Context, name string, body bucket.Body, c Conditions) (tag string, err error) {
	key := b.key(name)
	if c.IfAbsent { // spares the sending where it is known to be in vain
		if _, err := b.head(ctx, "put object", name); err == nil {
			return "", bucket.Conflict(name, "there is one already")
		} else if !errors.Is(err, tidegate.ErrNotFound) {
			return "", err
		}
	}
	upload, err := b.api.CreateUpload(ctx, key, c)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			b.abort(ctx, key, upload)
		}
	}()
	ranges := cut(body.Size(), b.cfg.PartBytes)
	parts := make([]Part, len(ranges))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(partsAtOnce)
	for i, r := range ranges {
		group.Go(func() (err error) {
			if err := groupCtx.Err(); err != nil {
				return err
			}
			parts[i], err = b.api.PutPart(groupCtx, key, upload, i+1, section(body, r.off, r.n))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return "", err
	}
	return b.api.CompleteUpload(ctx, key, upload, parts, c)
}

// span is a part of a body.
type span struct{ off, n int64 }

// cut divides size bytes into at most PartsMax parts of at least part bytes, the
// last one excepted.
func cut(size, part int64) []span {
	part = max(part, (size+PartsMax-1)/PartsMax)
	var all []span
	for off := int64(0); off < size; off += part {
		all = append(all, span{off, min(part, size-off)})
	}
	return all
}

// abortTime bounds the clean-up behind a Put that has failed already.
const abortTime = 10 * time.Second

// abort gives up an upload. What it fails to remove is invisible, costs its bytes,
// and is what the bucket's rule for incomplete uploads is for.
func (b *Bucket) abort(ctx context.Context, key, upload string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
	defer cancel()
	_ = b.api.AbortUpload(ctx, key, upload) // the Put's own error is the one to report
}
