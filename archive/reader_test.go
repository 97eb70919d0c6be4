package archive_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/archivetest"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/archive/bucket/encrypt"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
)

func newMaker(t *testing.T) *archivetest.Maker {
	t.Helper()
	return archivetest.New(t, dir.New(vfs.OS(), t.TempDir()), "journal")
}

// fill archives n batches of 100 bytes, a second apart, of size batches a segment.
func fill(t *testing.T, m *archivetest.Maker, n, size int) (names []string) {
	t.Helper()
	for i := range n {
		m.Time += int64(time.Second)
		m.Data(t, []byte(strings.Repeat(fmt.Sprint(i%10), 100)), 1, m.Time, m.Time)
		if (i+1)%size == 0 {
			names = append(names, m.Segment(t))
		}
	}
	return names
}

func openStream(t *testing.T, m *archivetest.Maker) *archive.Stream {
	t.Helper()
	r, err := archive.OpenReader(t.Context(), m.B)
	if err != nil {
		t.Fatal(err)
	}
	infos, _, err := r.Streams(t.Context())
	if err != nil || len(infos) != 1 || infos[0].Stream != archivetest.Stream {
		t.Fatalf("streams: %+v, %v", infos, err)
	}
	s, err := r.Open(t.Context(), infos[0])
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestBatchesInOrder(t *testing.T) {
	m := newMaker(t)
	fill(t, m, 60, 3)
	s := openStream(t, m)
	for _, from := range []tidegate.Seq{1, 2, 3, 4, 31, 60} {
		next := from
		for b, err := range s.Batches(t.Context(), from) {
			if err != nil || b.Seq != next || len(b.Sealed) != b.SealedLen() {
				t.Fatalf("from %d: batch %d, %v; want %d", from, b.Seq, err, next)
			}
			next++
		}
		if next != 61 {
			t.Errorf("from %d: ended before %d", from, next)
		}
	}
	for _, err := range s.Batches(t.Context(), 1) { // who has enough may go
		if err != nil {
			t.Error(err)
		}
		break
	}
	for _, err := range s.Batches(t.Context(), 61) {
		if !errors.Is(err, tidegate.ErrNotFound) {
			t.Errorf("behind the end: %v", err)
		}
	}
}

// TestTail: so many records from the end of a batch backwards, in whole batches.
func TestTail(t *testing.T) {
	m := newMaker(t)
	fill(t, m, 20, 7) // a record of 100 bytes each
	m.Heartbeat(t, m.Time)
	m.Segment(t)
	s := openStream(t, m)
	for records, want := range map[uint64]tidegate.Seq{0: 22, 1: 20, 5: 16, 20: 1, 99: 1} {
		first, err := s.Tail(t.Context(), 21, records)
		if err != nil || first != want {
			t.Errorf("%d records: from %d, %v, want %d", records, first, err, want)
		}
		n, size, err := s.Count(t.Context(), first, 21)
		if err != nil || n != min(records, 20) || size != 100*n {
			t.Errorf("%d records: counted %d of %d bytes, %v", records, n, size, err)
		}
	}
	if _, err := s.Tail(t.Context(), 22, 1); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("behind the end: %v", err)
	}
}

func TestLocate(t *testing.T) {
	m := newMaker(t)
	fill(t, m, 60, 7)
	m.Segment(t)
	s := openStream(t, m)
	for seq := tidegate.Seq(1); seq <= 60; seq++ {
		first := tidegate.Position(100 * (seq - 1))
		at := time.Unix(0, 1).Add(time.Duration(seq) * time.Second)
		for what, find := range map[string]func() (archive.Place, error){
			"seq":        func() (archive.Place, error) { return s.AtSeq(t.Context(), seq) },
			"begin":      func() (archive.Place, error) { return s.AtPosition(t.Context(), 0, first) },
			"within":     func() (archive.Place, error) { return s.AtPosition(t.Context(), 1, first+99) },
			"its time":   func() (archive.Place, error) { return s.AtTime(t.Context(), at) },
			"just later": func() (archive.Place, error) { return s.AtTime(t.Context(), at.Add(time.Duration(min(1, 60-seq)))) },
		} {
			got, err := find()
			if err != nil || got.Seq != seq {
				t.Errorf("batch %d by %s: %v, %v", seq, what, got, err)
			}
		}
	}
	for what, err := range map[string]error{
		"seq 61":          second(s.AtSeq(t.Context(), 61)),
		"position beyond": second(s.AtPosition(t.Context(), 0, 6001)),
		"generation 2":    second(s.AtPosition(t.Context(), 2, 5)),
		"too early":       second(s.AtTime(t.Context(), time.Unix(0, 0))),
		"too late":        second(s.AtTime(t.Context(), time.Now())),
	} {
		if !errors.Is(err, tidegate.ErrNotFound) || tidegate.HintOf(err) == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestHolesAndBranches(t *testing.T) {
	m := newMaker(t)
	names := fill(t, m, 12, 3)
	if err := m.B.Remove(t.Context(), names[1]); err != nil {
		t.Fatal(err)
	}
	old := *m
	fill(t, m, 6, 3)
	left := *m
	*m = old // a failover cut those six, and went on
	m.Epoch = 2
	fill(t, m, 3, 3)
	s := openStream(t, m)
	if tip := s.Branch.Tip(); tip.Epoch != 2 || tip.Seq != 15 || len(s.Branch.Holes) != 1 || s.Branch.Holes[0] != (archive.Hole{First: 4, Last: 6}) {
		t.Errorf("%+v", s.Branch)
	}
	if aside := s.Aside(); len(aside) != 2 || aside[1].End() != (tidegate.LogPos{Epoch: 1, Seq: 18, Chain: left.Chain}) {
		t.Errorf("aside: %v", aside)
	}
	w, err := s.Window(t.Context(), &archive.Bases{}, false)
	if err != nil {
		t.Fatal(err)
	}
	if len(w.Spans) != 2 || !w.Spans[0].Restorable || w.Spans[0].To.Seq != 3 || w.Spans[1].Restorable || w.Spans[1].From.Seq != 7 || w.Spans[1].To.Seq != 15 {
		t.Errorf("%+v", w.Spans)
	}
	var got error
	n := 0
	for _, err := range s.Batches(t.Context(), 2) {
		n++
		got = err
	}
	if !errors.Is(got, tidegate.ErrGap) || n != 3 {
		t.Errorf("%d steps, %v", n, got)
	}
	if err := second(s.AtSeq(t.Context(), 5)); !errors.Is(err, tidegate.ErrGap) {
		t.Errorf("in the hole: %v", err)
	}
	until := w.Spans[0].Until
	if at, err := s.AtTime(t.Context(), until); err != nil || at.Seq != 3 {
		t.Errorf("the last moment before the hole: %v, %v", at, err)
	}
	if err := second(s.AtTime(t.Context(), until.Add(1))); !errors.Is(err, tidegate.ErrGap) || !strings.Contains(err.Error(), "batches 4 to 6 were never archived") {
		t.Errorf("a moment in the hole: %v", err)
	}
}

// TestStranger: a segment whose bytes do not follow is found where they are read, also
// where nothing else told of it.
func TestStranger(t *testing.T) {
	m := newMaker(t)
	fill(t, m, 6, 3)
	m.Chain[0] ^= 1
	fill(t, m, 3, 3)
	s := openStream(t, m)
	var got error
	for _, err := range s.Batches(t.Context(), 1) {
		got = err
	}
	if tidegate.ClassOf(got) != tidegate.Corrupt || !strings.Contains(got.Error(), "batch 7 does not follow") {
		t.Errorf("got %v", got)
	}
}

// TestBasesWithoutLog: bases alone are of no use, and said to be.
func TestBasesWithoutLog(t *testing.T) {
	m := newMaker(t)
	root, from := t.TempDir(), t.TempDir()
	writeFile(t, from+"/small", "x")
	archivetest.Base(t, root, snapshot.Info{Stream: archivetest.Stream, Generation: 1, Opened: 1, Taken: 1}, from)
	m.Mirror(t, root)
	s := openStream(t, m)
	bases, err := s.Bases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer bases.Close()
	w, err := s.Window(t.Context(), bases, true)
	if err != nil || len(w.Spans) != 0 || len(w.Bases) != 1 || w.Bases[0].Unfit == nil || !strings.Contains(w.Bases[0].Unfit.Error(), "nothing of its log is archived") {
		t.Errorf("%+v, %v", w, err)
	}
	if err := second(s.AtTime(t.Context(), time.Now())); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("a time: %v", err)
	}
}

// TestTimeIsOfRecords: what has no record carries the agent's time, and does not say
// that the source had committed nothing up to then.
func TestTimeIsOfRecords(t *testing.T) {
	m := newMaker(t)
	fill(t, m, 6, 3)
	newest := time.Unix(0, m.Time).UTC()
	later := newest.Add(30 * time.Minute)
	for range 5 {
		m.Heartbeat(t, later.UnixNano())
		m.Data(t, []byte("no commit"), 0, 0, 0)
		m.Heartbeat(t, later.UnixNano())
		m.Segment(t)
	}
	s := openStream(t, m)
	if at, err := s.AtTime(t.Context(), newest); err != nil || at.Seq != 6 {
		t.Errorf("its newest record: %v, %v", at, err)
	}
	for _, at := range []time.Time{newest.Add(1), later.Add(-time.Minute), later} {
		if err := second(s.AtTime(t.Context(), at)); !errors.Is(err, tidegate.ErrNotFound) || !strings.Contains(err.Error(), newest.Format(time.RFC3339Nano)) {
			t.Errorf("%s: %v", at, err)
		}
	}
	w, err := s.Window(t.Context(), &archive.Bases{}, false)
	if err != nil || len(w.Spans) != 1 || !w.Spans[0].Until.Equal(newest) || !w.Spans[0].To.Newest.Equal(later) {
		t.Errorf("window: %+v, %v", w, err)
	}
}

// TestOneBadStream hides no other.
func TestOneBadStream(t *testing.T) {
	m := newMaker(t)
	fill(t, m, 3, 3)
	for i, text := range []string{"{", `{"version":9}`, ""} {
		id := tidegate.StreamID{0xa0, 15: byte(i)}
		name := archive.StreamName(id)
		if text == "" { // only a segment is there
			name = archive.Segment{First: 1, Last: 2, Epoch: 1}.Name(id)
		}
		if _, err := m.B.Put(t.Context(), name, strings.NewReader(text), bucket.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	r, err := archive.OpenReader(t.Context(), m.B)
	if err != nil {
		t.Fatal(err)
	}
	infos, faults, err := r.Streams(t.Context())
	if err != nil || len(infos) != 1 || infos[0].Stream != archivetest.Stream || len(faults) != 3 {
		t.Errorf("%v, %v, %v", infos, faults, err)
	}
}

// TestStrangersAmongEncrypted: an object of a size that none has hides no other, and is
// named when it is read.
func TestStrangersAmongEncrypted(t *testing.T) {
	keys, err := encrypt.ParseKeys("one 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n")
	if err != nil {
		t.Fatal(err)
	}
	inner := dir.New(vfs.OS(), t.TempDir())
	m := archivetest.New(t, encrypt.New(inner, keys), "journal")
	names := fill(t, m, 9, 3)
	mirror := archive.Mirror{Node: "dr-1", Incarnation: tidegate.Incarnation{1}}
	for _, name := range []string{names[1], mirror.IndexName(archivetest.Stream, 1)} {
		if _, err := inner.Put(t.Context(), name, strings.NewReader("cut"), bucket.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s := openStream(t, m)
	bases, err := s.Bases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer bases.Close()
	v, err := s.Verify(t.Context(), bases, &archive.VerifyMeter{})
	if err != nil || len(v.Bad) != 1 || !strings.Contains(v.Bad[0].Error(), names[1]) {
		t.Errorf("%v, %v", v.Bad, err)
	}
	if _, err := s.AtSeq(t.Context(), 8); err != nil {
		t.Errorf("beside it: %v", err)
	}
	fsys, err := archive.FS(t.Context(), m.B, mirror.Prefix(archivetest.Stream))
	if err != nil {
		t.Fatal(err)
	}
	index := "/" + mirror.IndexName(archivetest.Stream, 1)
	if err := second(fsys.Open(index)); tidegate.ClassOf(err) != tidegate.Corrupt {
		t.Errorf("open: %v", err)
	}
	if err := second(fsys.Stat(index)); tidegate.ClassOf(err) != tidegate.Corrupt {
		t.Errorf("stat: %v", err)
	}
}

func TestNoArchive(t *testing.T) {
	_, err := archive.OpenReader(t.Context(), dir.New(vfs.OS(), t.TempDir()))
	if !errors.Is(err, tidegate.ErrNotFound) || tidegate.HintOf(err) == "" {
		t.Errorf("got %v", err)
	}
}

// TestMirrorIsReadAsAStore gives a base back out of a bucket, and names what is damaged.
func TestMirrorIsReadAsAStore(t *testing.T) {
	m := newMaker(t)
	root := t.TempDir()
	from := t.TempDir()
	big := strings.Repeat("0123456789abcdef", 300_000)
	writeFile(t, from+"/a/big", big)
	writeFile(t, from+"/small", "x")
	archivetest.Base(t, root, snapshot.Info{Stream: archivetest.Stream, Generation: 1, Opened: 1, Taken: 1}, from)
	mirror := m.Mirror(t, root)
	fill(t, m, 3, 3)
	s := openStream(t, m)
	bases, err := s.Bases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer bases.Close()
	if len(bases.All) != 1 || bases.All[0].Mirror != mirror || len(bases.Faults) != 0 {
		t.Fatalf("%+v", bases)
	}
	r, err := bases.All[0].Store.Reader(bases.All[0].Listed)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i, f := range r.Files() {
		var b strings.Builder
		if err := r.Copy(t.Context(), i, &b); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"a/big": big, "small": "x"}[f.Path]
		if f.Kind == snapshot.KindFile && b.String() != want {
			t.Errorf("%s: %d bytes, want %d", f.Path, b.Len(), len(want))
		}
		for text, is := range map[string]bool{want: true, want + "x": false, strings.Replace(want, "x", "y", 1) + " ": false} {
			if same, err := r.Same(t.Context(), i, strings.NewReader(text)); f.Kind == snapshot.KindFile && (err != nil || same != is) {
				t.Errorf("%s is the same as %.10q: %v, %v", f.Path, text, same, err)
			}
		}
	}
	if err := m.B.Remove(t.Context(), mirror.PackName(archivetest.Stream, 1)); err != nil {
		t.Fatal(err)
	}
	again, err := openStream(t, m).Bases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if all := errors.Join(again.Faults...); len(again.All) != 0 || all == nil || !strings.Contains(all.Error(), "packs/0000000000000001") {
		t.Errorf("without its pack: %d bases, %v", len(again.All), all)
	}
}
