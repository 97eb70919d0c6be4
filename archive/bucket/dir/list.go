package dir

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
)

// List implements [bucket.Bucket]. The objects have no tags.
func (b *Bucket) List(ctx context.Context, prefix, after string) iter.Seq2[bucket.Object, error] {
	return func(yield func(bucket.Object, error) bool) {
		err := bucket.CheckList(prefix)
		if err == nil && b.missing() {
			err = b.fail(ctx, "list objects", prefix, tidegate.ErrNotFound)
		}
		if err != nil {
			yield(bucket.Object{}, err)
			return
		}
		w := walk{ctx: ctx.Err, b: b, prefix: prefix, after: after, yield: yield}
		// No object outside the directory that the prefix names can begin with it.
		dir, _ := path.Split(prefix)
		if err := w.dir(dir); err != nil && !w.ended {
			yield(bucket.Object{}, b.fail(ctx, "list objects", prefix, err))
		}
	}
}

// walk is one List.
type walk struct {
	ctx           func() error // of the List
	b             *Bucket
	prefix, after string
	yield         func(bucket.Object, error) bool
	ended         bool
}

// entry is a file or a directory; a directory's name ends in a slash, by which it
// sorts where its objects do.
type entry struct {
	name string
	info bucket.Object
}

// dir gives what is below a directory, whose name ends in a slash or is empty.
func (w *walk) dir(dir string) error {
	if err := w.ctx(); err != nil {
		return err
	}
	names, err := w.b.fs.List(w.b.path(dir))
	if errors.Is(err, tidegate.ErrNotFound) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	var entries []entry
	for _, name := range names {
		e, ok, err := w.look(dir + name)
		if err != nil {
			return err
		}
		if ok {
			entries = append(entries, e)
		}
	}
	slices.SortFunc(entries, func(x, y entry) int { return cmp.Compare(x.name, y.name) })
	for _, e := range entries {
		if strings.HasSuffix(e.name, "/") {
			if err := w.dir(e.name); err != nil || w.ended {
				return err
			}
		} else if !w.yield(e.info, nil) {
			w.ended = true
			return nil
		}
	}
	return nil
}

// look decides whether there is anything to give at or below a path, asking the
// file system only where the name does not tell.
func (w *walk) look(name string) (entry, bool, error) {
	begins := strings.HasPrefix(name, w.prefix)
	holds := strings.HasPrefix(w.prefix, name+"/")
	past := name <= w.after && name+"/" <= w.after && !strings.HasPrefix(w.after, name+"/")
	if !begins && !holds || past || bucket.ValidName(name) != nil {
		return entry{}, false, nil // the driver's own, or nothing that we have put there
	}
	info, err := w.b.fs.Stat(w.b.path(name))
	if errors.Is(err, tidegate.ErrNotFound) {
		return entry{}, false, nil // removed meanwhile
	}
	if err != nil {
		return entry{}, false, err
	}
	if info.Dir {
		return entry{name: name + "/"}, true, nil
	}
	return entry{name, bucket.Object{Name: name, Size: info.Size, Modified: info.ModTime}}, begins && name > w.after, nil
}
