package s3api

import (
	"context"
	"iter"
	"net/http"
	"strings"

	"github.com/tidegate/tidegate/archive/bucket"
)

// List implements [bucket.Bucket].
//
// It asks for each page by the last name of the one before, from the innermost
// directory outwards. MinIO, asked for what follows "x/002", first looks at what
// lies between "x" and "x/", such as "x-000", and where that is a page or more it
// answers that there is nothing. A page of one directory has no such neighbours.
func (b *Bucket) List(ctx context.Context, prefix, after string) iter.Seq2[bucket.Object, error] {
	return func(yield func(bucket.Object, error) bool) {
		if err := bucket.CheckList(prefix); err != nil {
			yield(bucket.Object{}, err)
			return
		}
		from := ""
		if after != "" {
			from = b.key(after)
		}
		for more := true; more; {
			var err error
			from, more, err = b.page(ctx, b.key(prefix), from, yield)
			if err != nil {
				yield(bucket.Object{}, b.fail(ctx, "list objects", prefix, err))
				return
			}
		}
	}
}

// page gives one page of keys that begin with prefix and follow from, and says from
// where to go on.
func (b *Bucket) page(ctx context.Context, prefix, from string, yield func(bucket.Object, error) bool) (next string, more bool, err error) {
	dir := innermost(prefix, from)
	n := 0
	for e, err := range b.api.List(ctx, dir, from, b.cfg.Page) {
		if err != nil {
			return "", false, err
		}
		name, ours := strings.CutPrefix(e.Key, b.prefix)
		// Others are somebody else's, or the folder that a browser has made.
		if ours && bucket.ValidName(name) == nil {
			if !yield(bucket.Object{Name: name, Size: e.Size, Tag: e.Tag, Modified: e.Modified}, nil) {
				return "", false, nil
			}
		}
		if n++; n == b.cfg.Page {
			return e.Key, true, nil
		}
	}
	if dir == prefix {
		return "", false, nil
	}
	// What follows everything in dir: '0' is next to '/'. It may be an object itself,
	// and a server gives what lies behind the key that it is asked for.
	next = dir[:len(dir)-1] + "0"
	if !strings.HasPrefix(next, prefix) {
		return "", false, nil
	}
	h, err := b.api.Head(ctx, next)
	f, answered := b.fault(err)
	switch {
	case answered && f.Status == http.StatusNotFound:
		return next, true, nil
	case err != nil:
		return "", false, err
	}
	more = yield(bucket.Object{Name: strings.TrimPrefix(next, b.prefix), Size: h.Size, Tag: h.Tag, Modified: h.Modified}, nil)
	return next, more, nil
}

// innermost returns the innermost directory that key lies in, or prefix where that
// is further in, or where key does not begin with it.
func innermost(prefix, key string) string {
	if slash := strings.LastIndexByte(key, '/'); strings.HasPrefix(key, prefix) && slash >= len(prefix) {
		return key[:slash+1]
	}
	return prefix
}
