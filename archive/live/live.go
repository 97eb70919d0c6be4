package live

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/snapshot"
)

// segmentBytes is the default of [Config.SegmentBytes].
const segmentBytes = 32 << 20

// Config is what a [Bucket] is opened with.
type Config struct {
	Dialer  shipper.Dialer
	Addr    string // host:port of the node's ship sessions
	Node    tidegate.NodeName
	Streams []archive.StreamInfo // that the node has
	FS      vfs.FS
	// Stage is a directory for the bases that are fetched; empty: none is.
	Stage string
	// SegmentBytes is how long the segments become that a log is shown as. Each that is
	// read is a session, and some of what is behind it crosses in vain. Default 32 MiB.
	SegmentBytes int64
	// Wait is called before so many bytes more are taken from the node, and holds them
	// back; nil: nothing is. Of several goroutines.
	Wait func(ctx context.Context, n int) error
}

// Bucket is a node as an archive. Nothing can be put into it.
type Bucket struct {
	cfg     Config
	streams []archive.StreamInfo // by id

	mu   sync.Mutex
	logs map[tidegate.StreamID]*loaded
	base atomic.Pointer[snapshot.Meter] // of the one that is being fetched
}

// loaded is what is known of a stream.
type loaded struct {
	mirror  archive.Mirror
	objects []bucket.Object // of its log, by name
}

// New returns a bucket; it does no I/O.
func New(cfg Config) *Bucket {
	if cfg.SegmentBytes == 0 {
		cfg.SegmentBytes = segmentBytes
	}
	if cfg.Wait == nil {
		cfg.Wait = func(context.Context, int) error { return nil }
	}
	b := &Bucket{cfg: cfg, streams: slices.Clone(cfg.Streams), logs: map[tidegate.StreamID]*loaded{}}
	slices.SortFunc(b.streams, func(x, y archive.StreamInfo) int { return slices.Compare(x.Stream[:], y.Stream[:]) })
	return b
}

// String names the node.
func (b *Bucket) String() string { return "node " + string(b.cfg.Node) }

// Progress returns how far the base has come that is being fetched, in bytes of files;
// zeros while none is.
func (b *Bucket) Progress() (done, total int64) {
	m := b.base.Load()
	if m == nil {
		return 0, 0
	}
	p := m.Progress()
	return p.Bytes, p.Total
}

// documents are the objects that are made here.
func (b *Bucket) document(name string) ([]byte, bool) {
	if name == archive.FormatName {
		return archive.FormatDocument(), true
	}
	for _, s := range b.streams {
		if name == archive.StreamName(s.Stream) {
			return s.Encode(), true
		}
	}
	return nil, false
}

var errReadOnly = &tidegate.Error{Op: "write", Class: tidegate.Misuse, Err: fmt.Errorf("a node is read only here: %w", tidegate.ErrUnsupported)}

// Put implements [bucket.Bucket]: it refuses.
func (b *Bucket) Put(context.Context, string, bucket.Body, bucket.PutOptions) (bucket.Object, error) {
	return bucket.Object{}, errReadOnly
}

// Remove implements [bucket.Bucket]: it refuses.
func (b *Bucket) Remove(context.Context, string) error { return errReadOnly }

func notThere(op, name string) error {
	return &tidegate.Error{Op: op, Subject: name, Class: tidegate.Permanent, Err: tidegate.ErrNotFound}
}

// Stat implements [bucket.Bucket].
func (b *Bucket) Stat(ctx context.Context, name string) (bucket.Object, error) {
	if text, ok := b.document(name); ok {
		return bucket.Object{Name: name, Size: int64(len(text))}, nil
	}
	for o, err := range b.List(ctx, name, "") {
		if err != nil || o.Name == name {
			return o, err
		}
		break // it would be the first
	}
	return bucket.Object{}, notThere("stat object", name)
}

// List implements [bucket.Bucket], but that of what begins with no stream's prefix it
// gives the documents alone: to tell what else there is the log has to be looked at.
func (b *Bucket) List(ctx context.Context, prefix, after string) iter.Seq2[bucket.Object, error] {
	return func(yield func(bucket.Object, error) bool) {
		all, err := b.list(ctx, prefix)
		if err != nil {
			yield(bucket.Object{}, err)
			return
		}
		for _, o := range all {
			if strings.HasPrefix(o.Name, prefix) && o.Name > after && !yield(o, nil) {
				return
			}
		}
	}
}

func (b *Bucket) list(ctx context.Context, prefix string) (all []bucket.Object, err error) {
	names := []string{archive.FormatName}
	for _, s := range b.streams {
		names = append(names, archive.StreamName(s.Stream))
		if !strings.HasPrefix(prefix, archive.StreamPrefix(s.Stream)) {
			continue
		}
		l, err := b.load(ctx, s)
		if err != nil {
			return nil, fmt.Errorf("look at %s/%s on node %s: %w", s.Service, s.Name, b.cfg.Node, err)
		}
		mirrored, err := b.staged(s.Stream, l)
		if err != nil {
			return nil, err
		}
		all = append(append(all, l.objects...), mirrored...)
	}
	for _, name := range names {
		text, _ := b.document(name)
		all = append(all, bucket.Object{Name: name, Size: int64(len(text))})
	}
	slices.SortFunc(all, func(x, y bucket.Object) int { return cmp.Compare(x.Name, y.Name) })
	return all, nil
}

// Get implements [bucket.Bucket].
func (b *Bucket) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if err := bucket.CheckGet(name, off); err != nil {
		return nil, err
	}
	if text, ok := b.document(name); ok {
		return part(io.NopCloser(bytes.NewReader(text)), off, n)
	}
	e, err := archive.Parse(name)
	if err != nil {
		return nil, notThere("get object", name)
	}
	switch e.Kind {
	case archive.KindSegment:
		r, err := b.segment(ctx, e)
		if err != nil {
			return nil, err
		}
		return part(r, off, n)
	case archive.KindPack, archive.KindIndex, archive.KindBase:
		return b.mirrored(e, off, n)
	}
	return nil, notThere("get object", name)
}

// limited is a part of what another reader gives.
type limited struct {
	io.Reader
	io.Closer
}

// part gives n bytes from off on; all where n is negative.
func part(r io.ReadCloser, off, n int64) (io.ReadCloser, error) {
	if _, err := io.CopyN(io.Discard, r, off); err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(err, r.Close())
	}
	if n < 0 {
		return r, nil
	}
	return limited{io.LimitReader(r, n), r}, nil
}

// path is where a mirror's object is staged.
func (b *Bucket) path(e archive.Entry) string {
	return filepath.Join(b.stage(e.Stream), filepath.FromSlash(strings.TrimPrefix(e.Name(), e.Mirror.Prefix(e.Stream))))
}

// stage is the directory of a stream's base.
func (b *Bucket) stage(id tidegate.StreamID) string { return filepath.Join(b.cfg.Stage, id.String()) }

func (b *Bucket) mirrored(e archive.Entry, off, n int64) (io.ReadCloser, error) {
	if b.cfg.Stage == "" {
		return nil, notThere("get object", e.Name())
	}
	f, err := b.cfg.FS.Open(b.path(e))
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	end := size
	if n >= 0 {
		end = min(size, off+n)
	}
	return limited{io.NewSectionReader(f, off, max(0, end-off)), f}, nil
}

// staged lists what has been fetched of a stream's bases, as a mirror.
func (b *Bucket) staged(id tidegate.StreamID, l *loaded) (all []bucket.Object, err error) {
	if b.cfg.Stage == "" {
		return nil, nil
	}
	for _, dir := range []string{"packs", "bases"} {
		at := filepath.Join(b.stage(id), dir)
		files, err := b.cfg.FS.List(at)
		if errors.Is(err, tidegate.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			name := l.mirror.Prefix(id) + dir + "/" + file
			if _, err := archive.Parse(name); err != nil {
				continue // what a fetch leaves beside them
			}
			info, err := b.cfg.FS.Stat(filepath.Join(at, file))
			if err != nil {
				return nil, err
			}
			all = append(all, bucket.Object{Name: name, Size: info.Size})
		}
	}
	return all, nil
}
