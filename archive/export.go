package archive

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/snapshot"
)

// ExportName is the object that lists what an export put into a bucket of its own. It is
// put last: a bucket that lacks it holds an export that was cut off.
const ExportName = "export.json"

// exportSegmentBytes is from how many bytes on a segment of an export ends.
const exportSegmentBytes = 16 << 20

// exportListMax bounds the list that is read back: an object takes some 250 bytes of it.
const exportListMax = 64 << 20

// Exporting is what of a stream is put into another bucket.
type Exporting struct {
	Begin, End Place  // first and last batch; nothing lies between them that is not there
	Bases      []Base // whose log the range has
}

// Export is what [ExportName] holds.
type Export struct {
	Version int              `json:"version"` // Version
	Archive string           `json:"archive"` // that it is out of, for people
	Made    time.Time        `json:"made"`
	Stream  StreamInfo       `json:"stream"`
	Begin   Place            `json:"begin"`
	End     Place            `json:"end"`
	Bases   []string         `json:"bases"` // names of their manifests
	Objects []ExportedObject `json:"objects"`
}

// ExportedObject is an object of an export.
type ExportedObject struct {
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// ExportMeter tells how far an export has come, in bytes; it may be read at any time.
type ExportMeter struct{ done, total atomic.Int64 }

// Progress returns bytes put, and to be put.
func (m *ExportMeter) Progress() (done, total int64) { return m.done.Load(), m.total.Load() }

// exporter puts an export.
type exporter struct {
	s   *Stream
	to  bucket.Bucket
	m   *ExportMeter
	out Export
}

// Export puts a range of the stream into an empty bucket, which is an archive then: the
// batches as they were sealed, in segments of its own, and the bases with the packs that
// they need. Every batch is verified as it is read. What was put of an export that failed
// stays, and is none: what says that a bucket is an archive comes when all else is there.
func (s *Stream) Export(ctx context.Context, to bucket.Bucket, x Exporting, made time.Time, m *ExportMeter) (*Export, error) {
	e := &exporter{s: s, to: to, m: m, out: Export{
		Version: Version, Archive: s.b.String(), Made: made.UTC(), Stream: s.Info, Begin: x.Begin, End: x.End, Bases: []string{},
	}}
	for o, err := range to.List(ctx, "", "") {
		if err == nil {
			err = &tidegate.Error{
				Op: "export into", Subject: to.String(), Class: tidegate.Refused, Err: fmt.Errorf("it is not empty: it has %s", o.Name),
				Hint: "name an empty place: nothing in this one is touched",
			}
		}
		return nil, err
	}
	for _, g := range s.Branch.Segments {
		if g.Last >= x.Begin.Seq && g.First <= x.End.Seq {
			m.total.Add(s.Size(g))
		}
	}
	if err := e.put(ctx, StreamName(s.Info.Stream), bytes.NewReader(s.Info.Encode())); err != nil {
		return nil, err
	}
	if err := e.log(ctx, x); err != nil {
		return nil, err
	}
	for _, b := range x.Bases {
		if err := e.base(ctx, b); err != nil {
			return nil, fmt.Errorf("export base %.12s: %w", b.Name, err)
		}
	}
	// Without this it is no archive, so that nobody takes one that was cut off for a whole one.
	if err := e.put(ctx, FormatName, bytes.NewReader(FormatDocument())); err != nil {
		return nil, err
	}
	slices.SortFunc(e.out.Objects, func(a, b ExportedObject) int { return cmp.Compare(a.Name, b.Name) })
	_, err := to.Put(ctx, ExportName, bytes.NewReader(document(e.out)), bucket.PutOptions{IfAbsent: true})
	return &e.out, err
}

// put puts an object and lists it.
func (e *exporter) put(ctx context.Context, name string, body bucket.Body) error {
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(body, 0, body.Size())); err != nil {
		return err
	}
	if _, err := e.to.Put(ctx, name, body, bucket.PutOptions{IfAbsent: true}); err != nil {
		return err
	}
	e.out.Objects = append(e.out.Objects, ExportedObject{name, body.Size(), sumText(sum)})
	return nil
}

func sumText(sum hash.Hash) string { return hex.EncodeToString(sum.Sum(nil)) }

// log puts the range's batches.
func (e *exporter) log(ctx context.Context, x Exporting) error {
	var buf []byte
	var seg Segment
	flush := func() error {
		if len(buf) == 0 {
			return nil
		}
		err := e.put(ctx, seg.Name(e.s.Info.Stream), bytes.NewReader(buf))
		e.m.done.Add(int64(len(buf)))
		buf, seg = buf[:0], Segment{}
		return err
	}
	for b, err := range e.s.Batches(ctx, x.Begin.Seq) {
		if err != nil {
			return fmt.Errorf("export log: %w", err)
		}
		if seg.First == 0 {
			seg.First = b.Seq
		}
		buf = append(buf, b.Sealed...)
		seg.Last, seg.Epoch, seg.Chain = b.Seq, b.Epoch, b.Chain
		if len(buf) >= exportSegmentBytes || b.Seq == x.End.Seq {
			if err := flush(); err != nil {
				return err
			}
		}
		if b.Seq == x.End.Seq {
			return nil
		}
	}
	return fmt.Errorf("export log: %w", e.s.notHere(x.End.Seq))
}

// base puts a base: the packs that it needs, and then its manifest.
func (e *exporter) base(ctx context.Context, b Base) error {
	manifest, _, err := b.Store.Manifest(b.Listed)
	if err != nil {
		return err
	}
	packs, err := b.Store.Needs(ctx, []snapshot.Listed{b.Listed})
	if err != nil {
		return err
	}
	for number := range packs {
		if err := e.pack(ctx, b, number); err != nil {
			return err
		}
	}
	id := e.s.Info.Stream
	if err := e.put(ctx, b.Mirror.ManifestName(id, BaseName{b.Generation, b.Name}), bytes.NewReader(manifest)); err != nil {
		return err
	}
	e.out.Bases = append(e.out.Bases, b.Name.String())
	return nil
}

// pack puts a pack with its index, unless another base has brought it.
func (e *exporter) pack(ctx context.Context, b Base, number uint64) (err error) {
	name := b.Mirror.PackName(e.s.Info.Stream, number)
	if slices.ContainsFunc(e.out.Objects, func(o ExportedObject) bool { return o.Name == name }) {
		return nil
	}
	index, err := b.Store.Index(number)
	if err != nil {
		return err
	}
	f, err := b.Store.OpenPack(number)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return err
	}
	e.m.total.Add(size)
	if err := e.put(ctx, name, io.NewSectionReader(f, 0, size)); err != nil {
		return err
	}
	e.m.done.Add(size)
	return e.put(ctx, b.Mirror.IndexName(e.s.Info.Stream, number), bytes.NewReader(index))
}

// Export reads what an archive says that it is an export of; nil where it is none.
func (r *Reader) Export(ctx context.Context) (*Export, error) {
	text, _, err := bucket.ReadAll(ctx, r.b, ExportName, exportListMax)
	if errors.Is(err, tidegate.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var x Export
	if err := json.Unmarshal(text, &x); err != nil {
		return nil, corrupt(ExportName, err)
	}
	if x.Version != Version {
		return nil, fmt.Errorf("%s: version %d: %w", ExportName, x.Version, tidegate.ErrUnsupported)
	}
	return &x, nil
}

// Verify compares every object of an export with what it was when it was put. What is
// bad is listed; an error is of the reading itself.
func (x *Export) Verify(ctx context.Context, r *Reader) (bad []error, err error) {
	for _, o := range x.Objects {
		switch n, sum, err := r.sum(ctx, o.Name); {
		case errors.Is(err, tidegate.ErrNotFound):
			bad = append(bad, &tidegate.CorruptError{Path: o.Name, Offset: -1, What: "was exported, and is not there"})
		case err != nil && !OfObject(err):
			return bad, err
		case err != nil:
			bad = append(bad, fmt.Errorf("%s: %w", o.Name, err))
		case n != o.Bytes || sum != o.SHA256:
			bad = append(bad, &tidegate.CorruptError{Path: o.Name, Offset: -1, What: fmt.Sprintf("has %d bytes of SHA-256 %s, exported were %d of %s", n, sum, o.Bytes, o.SHA256)})
		}
	}
	return bad, nil
}

func (r *Reader) sum(ctx context.Context, name string) (n int64, _ string, err error) {
	body, err := r.b.Get(ctx, name, 0, -1)
	if err != nil {
		return 0, "", err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	sum := sha256.New()
	n, err = io.Copy(sum, body)
	return n, sumText(sum), err
}
