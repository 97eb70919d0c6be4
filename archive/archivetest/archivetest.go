package archivetest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
	journalbase "github.com/tidegate/tidegate/stores/journal/base"
)

// Stream is the id of the stream that a Maker archives.
var Stream = tidegate.StreamID{0xa1, 15: 0x07}

// Maker seals batches and archives them.
type Maker struct {
	B    bucket.Bucket
	Info archive.StreamInfo

	Epoch      tidegate.Epoch
	Generation tidegate.Generation
	Seq        tidegate.Seq   // of the newest batch
	Chain      tidegate.Chain // behind it
	At         tidegate.Position
	Time       int64  // of the newest record; unix ns
	Root       string // of the base store that State builds in, and mirrors; made by the first

	sealer *batch.Sealer
	open   []byte // the segment that is not put yet
	first  tidegate.Seq
}

// New begins an archive with one stream.
func New(tb testing.TB, b bucket.Bucket, store string) *Maker {
	tb.Helper()
	m := &Maker{
		B: b, Epoch: 1, Generation: 1, Time: 1, sealer: batch.NewSealer(batch.CodecSnappy),
		Info: archive.StreamInfo{Stream: Stream, Service: "bank", Name: "main", Store: store},
	}
	m.put(tb, archive.FormatName, archive.FormatDocument())
	m.put(tb, archive.StreamName(Stream), m.Info.Encode())
	return m
}

func (m *Maker) put(tb testing.TB, name string, text []byte) {
	tb.Helper()
	if _, err := m.B.Put(tb.Context(), name, bytes.NewReader(text), bucket.PutOptions{}); err != nil {
		tb.Fatal(err)
	}
}

// Batch seals h, of which kind, positions, times and records are the caller's.
func (m *Maker) Batch(tb testing.TB, h batch.Header, payload []byte) {
	tb.Helper()
	h.Stream, h.Epoch, h.Generation, h.Seq = Stream, m.Epoch, m.Generation, m.Seq+1
	if h.Kind == batch.KindData || h.Kind == batch.KindHeartbeat {
		h.Head = h.Next
	}
	var err error
	if m.open, h, err = m.sealer.Seal(m.open, h, m.Chain, payload); err != nil {
		tb.Fatal(err)
	}
	if m.first == 0 {
		m.first = h.Seq
	}
	m.Seq, m.Chain, m.At = h.Seq, h.Chain, h.Next
}

// Data archives a range of the source's log.
func (m *Maker) Data(tb testing.TB, payload []byte, records uint32, oldest, newest int64) {
	tb.Helper()
	if records == 0 {
		oldest, newest = m.Time, m.Time
	}
	m.Time = max(m.Time, newest)
	m.Batch(tb, batch.Header{
		Kind: batch.KindData, First: m.At, Next: m.At + tidegate.Position(len(payload)), Records: records, OldestTime: oldest, NewestTime: newest,
	}, payload)
}

// Lineage says which history the log has from here on.
func (m *Maker) Lineage(tb testing.TB, now, before tidegate.Lineage) {
	tb.Helper()
	payload, err := batch.Lineage{Lineage: now, Previous: before}.Append(nil)
	if err != nil {
		tb.Fatal(err)
	}
	m.Batch(tb, batch.Header{Kind: batch.KindLineage, First: m.At, Next: m.At, OldestTime: m.Time, NewestTime: m.Time}, payload)
}

// Heartbeat says that nothing happened up to a time.
func (m *Maker) Heartbeat(tb testing.TB, now int64) {
	tb.Helper()
	m.Time = max(m.Time, now)
	m.Batch(tb, batch.Header{Kind: batch.KindHeartbeat, First: m.At, Next: m.At, OldestTime: now, NewestTime: now}, nil)
}

// Segment puts what was sealed since the last one, and returns the object's name.
func (m *Maker) Segment(tb testing.TB) string {
	tb.Helper()
	name := archive.Segment{First: m.first, Last: m.Seq, Epoch: m.Epoch, Chain: m.Chain}.Name(Stream)
	m.put(tb, name, m.open)
	m.open, m.first = nil, 0
	return name
}

// Mirror copies the base store in dir, as node's.
func (m *Maker) Mirror(tb testing.TB, dir string) archive.Mirror {
	tb.Helper()
	mirror := archive.Mirror{Node: "dr-1", Incarnation: tidegate.Incarnation{1}}
	for _, part := range []string{"packs/*.pack", "packs/*.idx", "bases/*.base"} {
		files, err := filepath.Glob(filepath.Join(dir, part))
		if err != nil {
			tb.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				tb.Fatal(err)
			}
			m.put(tb, mirror.Prefix(Stream)+filepath.Dir(part)+"/"+filepath.Base(file), text)
		}
	}
	return mirror
}

// Change replaces an object's bytes.
func (m *Maker) Change(tb testing.TB, name string, change func([]byte) []byte) {
	tb.Helper()
	text, _, err := bucket.ReadAll(tb.Context(), m.B, name, 1<<30)
	if err != nil {
		tb.Fatal(err)
	}
	m.put(tb, name, change(text))
}

// Base builds a base of the files below from, in the base store in root.
func Base(tb testing.TB, root string, info snapshot.Info, from string) snapshot.Listed {
	tb.Helper()
	return BaseOf(tb, root, info, func(ctx context.Context, w snapshot.Writer) (snapshot.Base, error) {
		if _, err := snapshot.Directory(from, &snapshot.Meter{})(ctx, w); err != nil {
			return snapshot.Base{}, err
		}
		return info.Base, nil
	})
}

// BaseOf is Base of whatever fill writes.
func BaseOf(tb testing.TB, root string, info snapshot.Info, fill func(context.Context, snapshot.Writer) (snapshot.Base, error)) snapshot.Listed {
	tb.Helper()
	store, err := snapshot.Open(vfs.OS(), root, snapshot.StoreConfig{})
	if err != nil {
		tb.Fatal(err)
	}
	defer store.Close()
	in, err := store.Intake()
	if err != nil {
		tb.Fatal(err)
	}
	l, err := build(tb.Context(), in, info, fill)
	if err = errors.Join(err, in.Close()); err != nil {
		tb.Fatal(err)
	}
	return l
}

func build(ctx context.Context, in *snapshot.Intake, info snapshot.Info, fill func(context.Context, snapshot.Writer) (snapshot.Base, error)) (l snapshot.Listed, err error) {
	m, err := snapshot.Build(ctx, in, snapshot.BuildConfig{}, info, fill)
	if err != nil {
		return l, err
	}
	text, _, err := m.Encode()
	if err != nil {
		return l, err
	}
	return in.Commit(ctx, text, func(snapshot.Info) error { return nil })
}

// State archives a base of a journal: the state st, of which content is all, taken of the
// log whose batch there is of an epoch.
func (m *Maker) State(tb testing.TB, st journalbase.State, of tidegate.Epoch, content []byte) {
	tb.Helper()
	if m.Root == "" {
		m.Root = tb.TempDir()
	}
	st.Bytes = int64(len(content))
	BaseOf(tb, m.Root, snapshot.Info{Stream: Stream, Generation: m.Generation, Opened: 1}, func(ctx context.Context, w snapshot.Writer) (snapshot.Base, error) {
		out, err := w.Create(ctx, st.File())
		if err != nil {
			return snapshot.Base{}, err
		}
		_, err = out.Write(content)
		b := st.Base()
		b.Attrs[snapshot.AttrEpoch] = of.String()
		return b, errors.Join(err, out.Close())
	})
	m.Mirror(tb, m.Root)
}
