package dir

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/internal/vfs"
)

// TaggedMax is the size in bytes up to which an object has a tag. Objects that are
// replaced under a condition are small: leases and pointers.
const TaggedMax = 1 << 20

// Where the driver keeps what is no object; no name begins with a dot.
const (
	ownDir   = ".tidegate"
	lockFile = ownDir + "/lock"
	tempDir  = ownDir + "/tmp"
)

// Bucket is a directory; it implements [bucket.Bucket].
type Bucket struct {
	fs   vfs.FS
	root string
	// changing is held while a name changes: the lock file keeps processes apart, and
	// this the goroutines of one, which would poll for it.
	changing chan struct{}

	mu    sync.Mutex
	swept bool            // the leftovers of killed writers
	made  map[string]bool // directories that are durable
}

// New returns the bucket in the directory root, which must be there when the bucket
// is used.
func New(fsys vfs.FS, root string) *Bucket {
	return &Bucket{fs: fsys, root: root, changing: make(chan struct{}, 1), made: map[string]bool{}}
}

func (b *Bucket) String() string { return "file://" + b.root }

func (b *Bucket) path(name string) string { return filepath.Join(b.root, filepath.FromSlash(name)) }

// Get implements [bucket.Bucket]. A reader goes on with the object that it began
// with, whatever becomes of the name.
func (b *Bucket) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if err := bucket.CheckGet(name, off); err != nil {
		return nil, err
	}
	f, size, err := b.open(ctx, name)
	if err != nil {
		return nil, b.fail(ctx, "get object", name, err)
	}
	off = min(off, size)
	if n < 0 || n > size-off {
		n = size - off
	}
	return &reader{b: b, ctxErr: ctx.Err, name: name, from: io.NewSectionReader(f, off, n), left: n, f: f}, nil
}

// open opens an object's file; a directory of that name is no object.
func (b *Bucket) open(ctx context.Context, name string) (_ vfs.File, size int64, err error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	info, err := b.info(name)
	if err != nil {
		return nil, 0, err
	}
	if info.Dir {
		return nil, 0, tidegate.ErrNotFound
	}
	f, err := b.fs.Open(b.path(name))
	if err != nil {
		return nil, 0, err
	}
	if size, err = f.Size(); err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, size, nil
}

// info looks at a name; below an object there is nothing, which the file system calls
// another kind of mistake.
func (b *Bucket) info(name string) (vfs.Info, error) {
	info, err := b.fs.Stat(b.path(name))
	if errors.Is(err, syscall.ENOTDIR) {
		return vfs.Info{}, fmt.Errorf("%w: %w", tidegate.ErrNotFound, err)
	}
	return info, err
}

// reader is the body of a Get.
type reader struct {
	b      *Bucket
	ctxErr func() error // of the Get's context
	name   string
	from   *io.SectionReader
	left   int64
	f      vfs.File
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctxErr(); err != nil {
		return 0, err
	}
	n, err := r.from.Read(p)
	r.left -= int64(n)
	switch {
	case errors.Is(err, io.EOF) && r.left > 0:
		err = io.ErrUnexpectedEOF // somebody has cut the file
	case errors.Is(err, io.EOF), err == nil:
		return n, err
	}
	return n, &tidegate.Error{Op: "get object", Subject: r.name, Class: tidegate.Permanent, Err: err}
}

func (r *reader) Close() error { return r.f.Close() }

// Stat implements [bucket.Bucket]. It reads an object that has a tag.
func (b *Bucket) Stat(ctx context.Context, name string) (bucket.Object, error) {
	if err := bucket.CheckName("stat object", name); err != nil {
		return bucket.Object{}, err
	}
	o, err := b.stat(ctx, name)
	if err != nil {
		return bucket.Object{}, b.fail(ctx, "stat object", name, err)
	}
	return o, nil
}

func (b *Bucket) stat(ctx context.Context, name string) (o bucket.Object, err error) {
	f, size, err := b.open(ctx, name)
	if err != nil {
		return bucket.Object{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := b.fs.Stat(b.path(name))
	if err != nil {
		return bucket.Object{}, err
	}
	o = bucket.Object{Name: name, Size: size, Modified: info.ModTime}
	if size <= TaggedMax {
		o.Tag, err = tag(io.NewSectionReader(f, 0, size))
	}
	return o, err
}

// tag names an object's bytes.
func tag(r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Remove implements [bucket.Bucket].
func (b *Bucket) Remove(ctx context.Context, name string) error {
	if err := bucket.CheckName("remove object", name); err != nil {
		return err
	}
	err := b.change(ctx, func() error {
		info, err := b.info(name)
		if errors.Is(err, tidegate.ErrNotFound) || err == nil && info.Dir {
			return nil
		}
		if err != nil {
			return err
		}
		if err := b.fs.Remove(b.path(name)); err != nil {
			return err
		}
		return b.fs.SyncDir(filepath.Dir(b.path(name)))
	})
	if err != nil {
		return b.fail(ctx, "remove object", name, err)
	}
	return nil
}

// fail classifies an error of the file system.
func (b *Bucket) fail(ctx context.Context, op, name string, err error) error {
	e := &tidegate.Error{Op: op, Subject: name, Class: tidegate.Permanent, Err: err}
	var done *tidegate.Error
	switch {
	case errors.As(err, &done):
		return err
	case ctx.Err() != nil:
		e.Class = tidegate.Transient
	case errors.Is(err, tidegate.ErrFull):
		e.Class = tidegate.Transient
		e.Hint = fmt.Sprintf("make room on the file system of %s", b.root)
	case b.missing():
		// Not ErrNotFound: it is not the object that is missing.
		e.Subject, e.Class = b.root, tidegate.Misuse
		e.Err = errors.New("the archive's directory is not there")
		e.Hint = "mount its disk, or make the directory once; it is not made by itself, because on an unmounted disk it would be another one"
	}
	return e
}

// missing reports whether the bucket itself is not there.
func (b *Bucket) missing() bool {
	info, err := b.fs.Stat(b.root)
	return errors.Is(err, tidegate.ErrNotFound) || err == nil && !info.Dir
}
