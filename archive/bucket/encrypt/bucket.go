package encrypt

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
)

// Bucket encrypts what it puts into another one; it implements [bucket.Bucket].
type Bucket struct {
	bucket.Bucket

	keys Keeper

	mu     sync.Mutex
	opened map[string]header
}

// header is what is remembered of an object whose ranges are read.
type header struct {
	aead cipher.AEAD
	tag  string // of the object; empty where the driver's reader knows none
}

// headersMax is how many objects' headers are remembered.
const headersMax = 4096

// New returns b with all objects encrypted under keys. Objects that are not are
// refused: they were not put by this archive.
func New(b bucket.Bucket, keys Keeper) *Bucket {
	return &Bucket{Bucket: b, keys: keys, opened: map[string]header{}}
}

// Put implements [bucket.Bucket].
func (b *Bucket) Put(ctx context.Context, name string, body bucket.Body, o bucket.PutOptions) (bucket.Object, error) {
	if err := bucket.CheckPut(name, o); err != nil {
		return bucket.Object{}, err
	}
	id, key, err := b.keys.Newest(ctx)
	if err != nil {
		return bucket.Object{}, withKey("put object", name, err)
	}
	var dataKey [KeyBytes]byte
	var nonce [nonceBytes]byte
	_, _ = rand.Read(dataKey[:]) // never fails, by its documentation
	_, _ = rand.Read(nonce[:])   // as above
	head, err := sealHeader(name, id, key, dataKey, nonce)
	if err != nil {
		return bucket.Object{}, err
	}
	aead, err := gcm(dataKey)
	if err != nil {
		return bucket.Object{}, err
	}
	size := body.Size()
	obj, err := b.Bucket.Put(ctx, name, &sealedBody{header: head, aead: aead, plain: body, size: size}, o)
	obj.Size = size
	if err != nil {
		return bucket.Object{}, err
	}
	return obj, nil
}

// Get implements [bucket.Bucket]. The first Get of a range of an object also gets
// its header.
func (b *Bucket) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if err := bucket.CheckGet(name, off); err != nil {
		return nil, err
	}
	if n == 0 {
		if _, err := b.Stat(ctx, name); err != nil {
			return nil, err
		}
		return io.NopCloser(strings.NewReader("")), nil
	}
	if off < ChunkBytes {
		return b.getStart(ctx, name, off, n)
	}
	// A header that is remembered, or was read a moment ago, may be that of an object
	// which has been replaced.
	var err error
	for range replacedMax {
		var r *opened
		if r, err = b.getRange(ctx, name, off, n); err == nil {
			return r, nil
		}
		b.forget(name)
		if !errors.Is(err, errReplaced) && tidegate.ClassOf(err) != tidegate.Corrupt {
			return nil, err
		}
	}
	return nil, err
}

// replacedMax is how often a Get begins anew because the object was replaced.
const replacedMax = 3

var errReplaced = errors.New("it was replaced while it was read")

// getStart reads header and chunks in one go.
func (b *Bucket) getStart(ctx context.Context, name string, off, n int64) (*opened, error) {
	sealed := spanBytes(0, off, n)
	if sealed >= 0 {
		sealed += HeaderBytes
	}
	body, err := b.Bucket.Get(ctx, name, 0, sealed)
	if err != nil {
		return nil, err
	}
	h, err := b.readHeader(ctx, name, body)
	if err != nil {
		return nil, errors.Join(err, body.Close())
	}
	return b.open(ctx, name, h, body, off, n), nil
}

// getRange reads the chunks of a range, under a header that is read before where it
// is not remembered.
func (b *Bucket) getRange(ctx context.Context, name string, off, n int64) (*opened, error) {
	h, err := b.header(ctx, name)
	if err != nil {
		return nil, err
	}
	first := off / ChunkBytes
	body, err := b.Bucket.Get(ctx, name, HeaderBytes+first*sealedChunk, spanBytes(first, off, n))
	if err != nil {
		return nil, err
	}
	r := b.open(ctx, name, h, body, off, n)
	if r.tag != "" && h.tag != "" {
		if r.tag != h.tag {
			err := &tidegate.Error{Op: "get object", Subject: name, Class: tidegate.Transient, Err: errReplaced}
			return nil, errors.Join(err, body.Close())
		}
		return r, nil
	}
	// Without tags only the key tells, and whether it fits shows the first chunk.
	if err := r.next(); err != nil {
		return nil, errors.Join(err, body.Close())
	}
	return r, nil
}

// spanBytes is how many sealed bytes, from a chunk on, hold a range; negative: all.
func spanBytes(first, off, n int64) int64 {
	if n < 0 {
		return -1
	}
	return ((off+n-1)/ChunkBytes - first + 1) * sealedChunk
}

// open returns the reader of a range, whose chunks body gives.
func (b *Bucket) open(ctx context.Context, name string, h header, body io.ReadCloser, off, n int64) *opened {
	return &opened{
		from: body, aead: h.aead, tag: bucket.TagOf(body), chunk: off / ChunkBytes, skip: off % ChunkBytes, left: n,
		sealed: make([]byte, sealedChunk), out: make([]byte, 0, ChunkBytes),
		bad: func(what string) error { return corrupt("get object", name, errors.New(what)) },
		beyond: func() (bool, error) {
			o, err := b.Stat(ctx, name)
			return err == nil && off >= o.Size, err
		},
	}
}

// header returns an object's header.
func (b *Bucket) header(ctx context.Context, name string) (h header, err error) {
	b.mu.Lock()
	h, known := b.opened[name]
	b.mu.Unlock()
	if known {
		return h, nil
	}
	r, err := b.Bucket.Get(ctx, name, 0, HeaderBytes)
	if err != nil {
		return header{}, err
	}
	h, err = b.readHeader(ctx, name, r)
	return h, errors.Join(err, r.Close())
}

// readHeader reads a header off the beginning of an object, and remembers it.
func (b *Bucket) readHeader(ctx context.Context, name string, r io.Reader) (h header, err error) {
	head := make([]byte, HeaderBytes)
	n, err := io.ReadFull(r, head)
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF { //nolint:errorlint // ReadFull's own: the object is shorter
		return header{}, err
	}
	id, err := headerID(head[:n])
	if err != nil {
		return header{}, corrupt("get object", name, err)
	}
	key, err := b.keys.Key(ctx, id)
	if err != nil {
		return header{}, withKey("get object", name, err)
	}
	dataKey, err := openHeader(name, head, key)
	if err != nil {
		return header{}, corrupt("get object", name, fmt.Errorf("under the key %s: %w", id, err))
	}
	h = header{tag: bucket.TagOf(r)}
	if h.aead, err = gcm(dataKey); err != nil {
		return header{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.opened) >= headersMax {
		clear(b.opened)
	}
	b.opened[name] = h
	return h, nil
}

func (b *Bucket) forget(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.opened, name)
}

// Stat implements [bucket.Bucket].
func (b *Bucket) Stat(ctx context.Context, name string) (bucket.Object, error) {
	o, err := b.Bucket.Stat(ctx, name)
	if err != nil {
		return bucket.Object{}, err
	}
	return plainObject("stat object", o)
}

// List implements [bucket.Bucket].
func (b *Bucket) List(ctx context.Context, prefix, after string) iter.Seq2[bucket.Object, error] {
	return func(yield func(bucket.Object, error) bool) {
		for o, err := range b.Bucket.List(ctx, prefix, after) {
			if err == nil {
				if size, bad := plainSize(o.Size); bad == nil {
					o.Size = size
				} else {
					o.Size = -1 // one stray object does not hide the others
				}
			}
			if !yield(o, err) || err != nil {
				return
			}
		}
	}
}

// String implements [bucket.Bucket].
func (b *Bucket) String() string { return b.Bucket.String() + " (encrypted)" }

// plainObject is an object with the size that it has for its reader.
func plainObject(op string, o bucket.Object) (bucket.Object, error) {
	size, err := plainSize(o.Size)
	if err != nil {
		return bucket.Object{}, corrupt(op, o.Name, err)
	}
	o.Size = size
	return o, nil
}

// corrupt is an object that is not what was put.
func corrupt(op, name string, err error) error {
	e := &tidegate.Error{Op: op, Subject: name, Class: tidegate.Corrupt, Err: err}
	if errors.Is(err, errNotOurs) {
		e.Hint = "an archive is encrypted from its beginning or not at all: is the block `encryption` meant here?"
	}
	return e
}

// withKey is an object whose key is not to be had; the keeper says what that means.
func withKey(op, name string, err error) error {
	return &tidegate.Error{Op: op, Subject: name, Class: tidegate.ClassOf(err), Err: err}
}
