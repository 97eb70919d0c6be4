package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/retry"
	"github.com/tidegate/tidegate/internal/vfs"
)

// lockWait is how long the lock file is waited for between two looks: it is held
// for a rename and a sync, some milliseconds.
var lockWait = retry.Policy{First: 2 * time.Millisecond, Max: 50 * time.Millisecond}

// copyBytes is how much of a body is held in memory.
const copyBytes = 1 << 20

// Put implements [bucket.Bucket].
func (b *Bucket) Put(ctx context.Context, name string, body bucket.Body, o bucket.PutOptions) (bucket.Object, error) {
	if err := bucket.CheckPut(name, o); err != nil {
		return bucket.Object{}, err
	}
	if !o.RetainUntil.IsZero() {
		return bucket.Object{}, &tidegate.Error{
			Op: "put object", Subject: name, Class: tidegate.Misuse,
			Err:  fmt.Errorf("lock it until %s: %w: a directory cannot lock its files", o.RetainUntil.UTC().Format(time.RFC3339), tidegate.ErrUnsupported),
			Hint: "leave out archive.lock, or archive to a bucket that has object lock",
		}
	}
	obj, err := b.put(ctx, name, body, o)
	if err != nil {
		return bucket.Object{}, b.fail(ctx, "put object", name, err)
	}
	return obj, nil
}

func (b *Bucket) put(ctx context.Context, name string, body bucket.Body, o bucket.PutOptions) (bucket.Object, error) {
	if b.missing() {
		return bucket.Object{}, tidegate.ErrNotFound
	}
	if o.IfAbsent { // spares the writing where it is known to be in vain
		if err := b.holds(ctx, name, o); err != nil {
			return bucket.Object{}, err
		}
	}
	if err := b.prepare(ctx); err != nil {
		return bucket.Object{}, err
	}
	temp, err := b.writeTemp(ctx, body)
	if err != nil {
		return bucket.Object{}, err
	}
	var obj bucket.Object
	err = b.change(ctx, func() error {
		if err := b.holds(ctx, name, o); err != nil {
			return err
		}
		if err := b.publish(temp.path, name); err != nil {
			return err
		}
		temp.path = ""
		obj, err = b.stat(ctx, name)
		return err
	})
	if temp.path != "" {
		err = errors.Join(err, b.fs.Remove(temp.path))
	}
	return obj, errors.Join(err, temp.lock.Close())
}

// holds asks whether the conditions of a Put hold.
func (b *Bucket) holds(ctx context.Context, name string, o bucket.PutOptions) error {
	if !o.IfAbsent && o.IfMatch == "" {
		return nil
	}
	there, err := b.stat(ctx, name)
	absent := errors.Is(err, tidegate.ErrNotFound)
	switch {
	case err != nil && !absent:
		return err
	case o.IfAbsent && !absent:
		// Whoever put it may have died, or failed, between the rename and the sync of the
		// directory; who is told that it is there goes by that.
		if err := b.fs.SyncDir(filepath.Dir(b.path(name))); err != nil {
			return err
		}
		return bucket.Conflict(name, "there is one already")
	case o.IfMatch != "" && absent:
		return bucket.Conflict(name, "it is not there any more")
	case o.IfMatch != "" && there.Tag != o.IfMatch:
		return bucket.Conflict(name, "it is not the one that was to be replaced")
	}
	return nil
}

// temp is an object that has no name yet. Its writer holds the lock, which says to
// others that it is in use, until it has a name or is gone.
type temp struct {
	path string
	lock io.Closer
}

// writeTemp writes and syncs a body.
func (b *Bucket) writeTemp(ctx context.Context, body bucket.Body) (t temp, err error) {
	t.path = filepath.Join(b.root, tempDir, tidegate.NewID().String())
	var f vfs.File
	// Together, or another process could sweep the file in between.
	err = b.change(ctx, func() (err error) {
		if f, err = b.fs.Create(t.path); err != nil {
			return err
		}
		if t.lock, err = b.fs.Lock(t.path); err != nil {
			return errors.Join(err, f.Close(), b.fs.Remove(t.path))
		}
		return nil
	})
	if err != nil {
		return temp{}, err
	}
	if err = errors.Join(fill(ctx, f, body), f.Close()); err != nil {
		// The half file goes: a full disk is the common cause.
		return temp{}, errors.Join(err, b.fs.Remove(t.path), t.lock.Close())
	}
	return t, nil
}

// fill copies a body and syncs it. A body that is shorter than it says is an error.
func fill(ctx context.Context, f vfs.File, body bucket.Body) error {
	size := body.Size()
	piece := make([]byte, min(size, copyBytes))
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		want := piece[:min(size-off, copyBytes)]
		if n, err := body.ReadAt(want, off); n < len(want) {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read the body at %d of %d: %w", off+int64(n), size, err)
		}
		if _, err := f.Write(want); err != nil {
			return err
		}
		off += int64(len(want))
	}
	return f.Sync()
}

// publish gives a temporary file its name, durably; the lock file is held.
func (b *Bucket) publish(temp, name string) error {
	path := b.path(name)
	if info, err := b.fs.Stat(path); err == nil && info.Dir {
		return errors.New("the name is the directory of other objects")
	}
	parent := filepath.Dir(path)
	if err := b.makeDir(parent); err != nil {
		return err
	}
	err := b.fs.Rename(temp, path)
	if errors.Is(err, tidegate.ErrNotFound) { // somebody has tidied up by hand
		b.forgetDirs()
		if err := b.makeDir(parent); err != nil {
			return err
		}
		err = b.fs.Rename(temp, path)
	}
	if err != nil {
		return err
	}
	return b.fs.SyncDir(parent)
}

// makeDir makes a directory below the root durable, once.
func (b *Bucket) makeDir(dir string) error {
	b.mu.Lock()
	known := b.made[dir]
	b.mu.Unlock()
	if known || dir == filepath.Clean(b.root) {
		return nil
	}
	if err := durable.MkdirAll(b.fs, dir); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.made[dir] = true
	return nil
}

func (b *Bucket) forgetDirs() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.made)
}

// change runs what changes a name, one at a time among all processes.
func (b *Bucket) change(ctx context.Context, do func() error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	if b.missing() {
		return tidegate.ErrNotFound
	}
	select {
	case b.changing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-b.changing }()
	if err := b.makeDir(filepath.Join(b.root, ownDir)); err != nil {
		return err
	}
	wait := lockWait.Backoff()
	for {
		lock, err := b.fs.Lock(filepath.Join(b.root, lockFile))
		if err == nil {
			return errors.Join(do(), lock.Close())
		}
		if !errors.Is(err, tidegate.ErrConflict) {
			return err
		}
		if err := wait.Wait(ctx); err != nil {
			return err
		}
	}
}

// prepare makes the driver's own directories and removes what killed writers left,
// once.
func (b *Bucket) prepare(ctx context.Context) error {
	b.mu.Lock()
	swept := b.swept
	b.mu.Unlock()
	if swept {
		return nil
	}
	dir := filepath.Join(b.root, tempDir)
	if err := b.makeDir(dir); err != nil {
		return err
	}
	err := b.change(ctx, func() error {
		names, err := b.fs.List(dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := b.sweep(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.swept = true
	return nil
}

// sweep removes a temporary file that nobody writes. The lock file is held, so no
// writer is about to make or publish one.
func (b *Bucket) sweep(path string) error {
	lock, err := b.fs.Lock(path)
	if errors.Is(err, tidegate.ErrConflict) {
		return nil // its writer lives
	}
	if err != nil {
		return err
	}
	return errors.Join(b.fs.Remove(path), lock.Close())
}
