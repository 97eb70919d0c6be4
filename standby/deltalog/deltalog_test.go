package deltalog_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/quarantine"
	"github.com/tidegate/tidegate/internal/seglog"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/standby/deltalog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	stream = tidegate.StreamID{1, 2, 3}
	clk    = clock.NewFake(time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC))
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// writer seals the batches of one stream.
type writer struct {
	s     *batch.Sealer
	h     batch.Header
	chain tidegate.Chain
}

func newWriter() *writer {
	return &writer{s: batch.NewSealer(batch.CodecNone), h: batch.Header{Stream: stream, Epoch: 1, Generation: 1}}
}

// data seals the next batch; its payload, records and times derive from its seq.
func (w *writer) data(size int) []byte {
	w.h.Seq++
	w.h.Kind, w.h.Records = batch.KindData, uint32(w.h.Seq)
	w.h.First, w.h.Next = w.h.Next, w.h.Next+tidegate.Position(size)
	w.h.Head = w.h.Next
	w.h.OldestTime = int64(w.h.Seq) * int64(time.Second)
	w.h.NewestTime = w.h.OldestTime + 500
	return w.seal(bytes.Repeat([]byte{byte(w.h.Epoch), byte(w.h.Seq)}, size)[:size])
}

func (w *writer) heartbeat() []byte {
	w.h.Seq++
	w.h.Kind, w.h.Records, w.h.First, w.h.Head = batch.KindHeartbeat, 0, w.h.Next, w.h.Next
	return w.seal(nil)
}

func (w *writer) seal(payload []byte) []byte {
	sealed, h, err := w.s.Seal(nil, w.h, w.chain, payload)
	if err != nil {
		panic(err)
	}
	w.h, w.chain = h, h.Chain
	return sealed
}

// at is a copy of the writer, to seal another history from here on.
func (w *writer) fork(epoch tidegate.Epoch) *writer {
	f := *w
	f.h.Epoch = epoch
	return &f
}

func open(t testing.TB, fsys vfs.FS, cfg deltalog.Config) *deltalog.Log {
	t.Helper()
	l, _, err := deltalog.Open(fsys, "/log", stream, cfg)
	check(t, err)
	return l
}

func TestAppendSyncReopen(t *testing.T) {
	mem := vfs.NewMem()
	cfg := deltalog.Config{SegmentBytes: 3000}
	l := open(t, mem, cfg)
	if l.End() != (tidegate.LogPos{}) || l.Durable() != (tidegate.LogPos{}) || l.First() != 1 {
		t.Errorf("empty log: end %s, durable %s, first %s", l.End(), l.Durable(), l.First())
	}
	w := newWriter()
	var all [][]byte
	for i := range 20 {
		all = append(all, w.data(300+i))
		check(t, l.Append(all[i]))
	}
	if l.Durable() == l.End() {
		t.Error("durable before a sync")
	}
	pos := must(l.Sync())
	if pos != w.h.Pos() || l.Durable() != pos || l.End() != pos {
		t.Errorf("synced %s, durable %s, end %s, want %s", pos, l.Durable(), l.End(), w.h.Pos())
	}
	check(t, l.Close())
	l = open(t, mem.CrashClone(vfs.CrashLoseAll), cfg)
	defer l.Close()
	if l.End() != pos || l.Durable() != pos {
		t.Errorf("reopened: end %s, durable %s, want %s", l.End(), l.Durable(), pos)
	}
	c := must(l.ReadFrom(1))
	defer c.Close()
	for i := range all {
		h, sealed, err := c.Next(t.Context())
		check(t, err)
		if !bytes.Equal(sealed, all[i]) || h.Seq != tidegate.Seq(i+1) {
			t.Fatalf("batch %d differs from what was received", i+1)
		}
		gotPos, gotHeader, err := l.At(h.Seq)
		if err != nil || gotPos != h.Pos() || gotHeader != h {
			t.Errorf("at %s: %s, %v", h.Seq, gotPos, err)
		}
	}
	tail := must(l.Tail(3))
	if len(tail) != 3 || tail[0].Seq != 18 || tail[2].Pos() != pos {
		t.Errorf("tail of 3: %d headers from %s", len(tail), tail[0].Seq)
	}
	if got := len(must(l.Tail(100))); got != 20 {
		t.Errorf("tail of 100: %d headers", got)
	}
	if _, _, err := l.At(21); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("at a seq beyond the end: %v", err)
	}
	check(t, l.Append(w.data(10)))
}

func TestAppendRefuses(t *testing.T) {
	past := newWriter()
	log := [][]byte{past.data(10), past.data(10)}
	otherPast := past.fork(2)
	log = append(log, past.data(10))
	// The log ends at epoch 2, generation 2, so that lower ones exist.
	base := *past
	base.h.Epoch, base.h.Generation = 2, 2
	log = append(log, base.data(10))
	next := func(change func(w *writer)) []byte {
		f := base
		change(&f)
		return f.data(10)
	}
	flipped := next(func(*writer) {})
	flipped[len(flipped)-1] ^= 1
	tests := map[string]struct {
		sealed []byte
		want   error // nil: damage
	}{
		"seq ahead":           {next(func(w *writer) { w.h.Seq++ }), tidegate.ErrGap},
		"positions ahead":     {next(func(w *writer) { w.h.Next += 5 }), tidegate.ErrGap},
		"positions again":     {next(func(w *writer) { w.h.Next -= 5 }), tidegate.ErrDiverged},
		"older epoch":         {next(func(w *writer) { w.h.Epoch = 1 }), tidegate.ErrFenced},
		"another log's":       {next(func(w *writer) { w.chain[0] ^= 1 }), tidegate.ErrDiverged},
		"another stream's":    {next(func(w *writer) { w.h.Stream[0]++ }), tidegate.ErrDiverged},
		"older generation":    {next(func(w *writer) { w.h.Generation = 1 }), tidegate.ErrDiverged},
		"same batch again":    {log[2], tidegate.ErrConflict},
		"another in its past": {otherPast.data(10), tidegate.ErrDiverged},
		"damaged":             {flipped, nil},
		"cut":                 {next(func(*writer) {})[:100], nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			l := open(t, vfs.NewMem(), deltalog.Config{})
			defer l.Close()
			check(t, l.Append(log...))
			end := l.End()
			err := l.Append(tt.sealed)
			var damage *tidegate.CorruptError
			if tt.want == nil && !errors.As(err, &damage) || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if l.End() != end {
				t.Errorf("end moved to %s", l.End())
			}
			check(t, l.Append(next(func(*writer) {})))
		})
	}
}

func TestCursorFollows(t *testing.T) {
	l := open(t, vfs.NewMem(), deltalog.Config{SegmentBytes: 2000})
	c := must(l.ReadFrom(1))
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan tidegate.Seq)
	done := make(chan error)
	go func() { // owned by this test; ends with the log
		for {
			h, _, err := c.Next(ctx)
			if err != nil {
				done <- err
				return
			}
			got <- h.Seq
		}
	}()
	w := newWriter()
	for i := range 30 {
		check(t, l.Append(w.data(300)))
		if seq := <-got; seq != tidegate.Seq(i+1) {
			t.Fatalf("got %s, want %d", seq, i+1)
		}
	}
	check(t, l.Close())
	if err := <-done; !errors.Is(err, tidegate.ErrStopped) {
		t.Errorf("cursor of a closed log: %v", err)
	}
}

func TestFindPosition(t *testing.T) {
	l := open(t, vfs.NewMem(), deltalog.Config{SegmentBytes: 2000})
	defer l.Close()
	w := newWriter()
	for i := range 30 {
		if i%3 == 2 {
			check(t, l.Append(w.heartbeat()))
			continue
		}
		if i == 15 {
			w.h.Generation, w.h.Next = 2, 7000
		}
		check(t, l.Append(w.data(100)))
	}
	tail := must(l.Tail(100))
	for g, want := range []tidegate.Seq{0, 15, 30, 30} {
		if got, err := l.LastOf(tidegate.Generation(g)); got != want || err != nil {
			t.Errorf("last of generation %d: %s, %v, want %s", g, got, err, want)
		}
	}
	for _, g := range []tidegate.Generation{0, 1, 2, 3} {
		for pos := tidegate.Position(0); pos < 9000; pos += 50 {
			var want tidegate.Seq // the dumb way
			for _, h := range tail {
				if h.Generation == g && h.Next > pos {
					want = h.Seq
					break
				}
			}
			got, err := l.FindPosition(g, pos)
			if got != want || (err == nil) != (want > 0) || err != nil && !errors.Is(err, tidegate.ErrNotFound) {
				t.Fatalf("generation %d position %d: got %s, %v, want %s", g, pos, got, err, want)
			}
			for _, guess := range []tidegate.Seq{1, want - 1, want, want + 1, 7, 30, 31, 1000} { // right or not
				if got, err := l.FindPositionNear(g, pos, guess); got != want || (err == nil) != (want > 0) {
					t.Fatalf("generation %d position %d, guess %s: got %s, %v, want %s", g, pos, guess, got, err, want)
				}
			}
		}
	}
}

func TestCutTo(t *testing.T) {
	mem := vfs.NewMem()
	l := open(t, mem, deltalog.Config{SegmentBytes: 2000})
	defer l.Close()
	w := newWriter()
	var all [][]byte
	var at5 *writer
	for range 12 {
		if w.h.Seq == 5 {
			at5 = w.fork(3)
			w.h.Epoch = 2
		}
		all = append(all, w.data(400))
	}
	check(t, l.Append(all...))
	must(l.Sync())
	sum, err := l.CutTo(5, "/quarantine", 3, "superseded", clk)
	check(t, err)
	want := deltalog.Summary{
		Stream: stream, Epoch: 3, Epochs: []tidegate.Epoch{2}, FirstSeq: 6, LastSeq: 12, Batches: 7,
		Records: 6 + 7 + 8 + 9 + 10 + 11 + 12, RawBytes: 7 * 400,
		OldestTime: time.Unix(6, 0).UTC(), NewestTime: time.Unix(12, 500).UTC(),
		Reason: "superseded", Created: clk.Wall(),
		Dir:        "/quarantine/" + stream.String() + "/3-0000000000000006-000000000000000c-superseded",
		Generation: 1, Positions: &quarantine.Positions{First: 5 * 400, Next: 12 * 400},
	}
	if diff := cmp.Diff(want, sum); diff != "" {
		t.Errorf("summary: %s", diff)
	}
	clone := mem.CrashClone(vfs.CrashLoseAll)
	onDisk := quarantine.Summary{
		Version: quarantine.Version, Kind: quarantine.KindLogTail, StreamID: stream, Reason: "superseded", Created: clk.Wall(),
		Generation: 1, CutEpoch: 3, WrittenEpochs: []tidegate.Epoch{2},
		Positions: want.Positions, Seqs: &quarantine.Seqs{First: 6, Last: 12},
		Batches: quarantine.Count(7), Records: &want.Records, Bytes: &want.RawBytes, Oldest: want.OldestTime, Newest: want.NewestTime,
	}
	if diff := cmp.Diff(onDisk, must(quarantine.Read(clone, sum.Dir))); diff != "" {
		t.Errorf("summary on disk: %s", diff)
	}
	r := must(seglog.OpenReader(clone, sum.Dir, deltalog.Format{}, 6))
	defer r.Close()
	var moved []byte
	for r.At() < 13 {
		b, _, err := r.ReadUpTo(13, nil)
		check(t, err)
		moved = append(moved, b...)
	}
	if !bytes.Equal(moved, bytes.Join(all[5:], nil)) {
		t.Error("quarantine differs from what was received")
	}
	if l.End().Seq != 5 || l.Durable() != l.End() {
		t.Errorf("end %s, durable %s", l.End(), l.Durable())
	}
	check(t, l.Append(at5.data(10)))
	if must(l.Sync()) != at5.h.Pos() {
		t.Error("the new history did not take")
	}
	for name, call := range map[string]func() (deltalog.Summary, error){
		"beyond the end": func() (deltalog.Summary, error) { return l.CutTo(9, "/quarantine", 3, "x", clk) },
		"bad reason":     func() (deltalog.Summary, error) { return l.CutTo(2, "/quarantine", 3, "../x", clk) },
	} {
		if _, err := call(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if sum, err := l.CutTo(6, "/quarantine", 3, "x", clk); err != nil || sum.Dir != "" {
		t.Errorf("cut of nothing: %+v, %v", sum, err)
	}
	must(l.CutTo(0, "/quarantine", 4, "reseed", clk))
	if l.End().Seq != 0 || !l.End().Chain.IsZero() {
		t.Errorf("end %s after cutting everything", l.End())
	}
	check(t, l.Append(newWriter().data(10)))
}

func slurp(t testing.TB, fsys vfs.FS, path string) []byte {
	t.Helper()
	f := must(fsys.Open(path))
	b := must(io.ReadAll(f))
	check(t, f.Close())
	return b
}

func TestStartInTheMiddle(t *testing.T) {
	mem := vfs.NewMem()
	w := newWriter()
	for range 9 {
		w.data(50)
	}
	before := w.h.Pos()
	cfg := deltalog.Config{Before: before}
	l := open(t, mem, cfg)
	if l.End() != before || l.First() != 10 || l.Durable() != before {
		t.Errorf("end %s, first %s", l.End(), l.First())
	}
	check(t, l.Append(w.data(50)))
	check(t, l.Close())
	l = open(t, mem, deltalog.Config{}) // an existing log knows where it starts
	if l.End() != w.h.Pos() || l.First() != 10 {
		t.Errorf("reopened: end %s, first %s", l.End(), l.First())
	}
	check(t, l.Close())
}

func TestAnotherStreamsLog(t *testing.T) {
	mem := vfs.NewMem()
	l := open(t, mem, deltalog.Config{})
	check(t, l.Append(newWriter().data(10)))
	must(l.Sync())
	check(t, l.Close())
	var damage *tidegate.CorruptError
	if _, _, err := deltalog.Open(mem, "/log", tidegate.StreamID{9}, deltalog.Config{}); !errors.As(err, &damage) {
		t.Errorf("opened the log of another stream: %v", err)
	}
	if _, _, err := deltalog.Open(mem, "/log", tidegate.StreamID{}, deltalog.Config{}); err == nil {
		t.Error("opened a log without a stream")
	}
}

// TestSplicedLog replaces the tail by batches whose own checksums hold: the
// chain shows it at start.
func TestSplicedLog(t *testing.T) {
	mem := vfs.NewMem()
	l := open(t, mem, deltalog.Config{})
	w := newWriter()
	check(t, l.Append(w.data(100), w.data(100)))
	other := w.fork(1)
	other.chain[3] ^= 1
	check(t, l.Append(w.data(100)))
	must(l.Sync())
	check(t, l.Close())
	f := must(mem.OpenReadWrite("/log/0000000000000001.seg"))
	must(f.WriteAt(other.data(100), seglog.HeaderSize+2*(batch.HeaderSize+100)))
	check(t, f.Close())
	var damage *tidegate.CorruptError
	if _, _, err := deltalog.Open(mem, "/log", stream, deltalog.Config{}); !errors.As(err, &damage) {
		t.Errorf("opened a spliced log: %v", err)
	}
}

func TestAppendAllocatesNothing(t *testing.T) {
	l, _, err := deltalog.Open(vfs.OS(), filepath.Join(t.TempDir(), "log"), stream, deltalog.Config{})
	check(t, err)
	defer l.Close()
	w := newWriter()
	var all [][]byte
	for range 102 {
		all = append(all, w.data(2000))
	}
	i := 0
	allocs := testing.AllocsPerRun(100, func() {
		h, err := batch.VerifyBytes(all[i])
		check(t, err)
		check(t, l.AppendVerified(&h, all[i]))
		i++
	})
	if allocs != 0 {
		t.Errorf("%v allocations per batch", allocs)
	}
}

func ExampleLog_CutTo() {
	w := newWriter()
	l, _, _ := deltalog.Open(vfs.NewMem(), "/log", stream, deltalog.Config{})
	_ = l.Append(w.data(10), w.data(10), w.data(10))
	sum, err := l.CutTo(1, "/quarantine", 2, "superseded", clk)
	fmt.Println(l.End().Seq, sum.Batches, sum.Dir, err)
	// Output: 0000000000000001 2 /quarantine/01020300000000000000000000000000/2-0000000000000002-0000000000000003-superseded <nil>
}

// Who may not wait for a sync can tell when an append would bring one.
func TestRollsIsToldBefore(t *testing.T) {
	created := 0
	mem := vfs.Inject(vfs.NewMem(), func(op vfs.Op) error {
		if op.Kind == vfs.OpCreate {
			created++
		}
		return nil
	})
	l := open(t, mem, deltalog.Config{SegmentBytes: 2000})
	w := newWriter()
	rolled := 0
	for range 40 {
		sealed := w.data(300)
		told := l.Rolls(len(sealed))
		before := created
		check(t, l.Append(sealed))
		if got := created > before; got != told {
			t.Fatalf("began a segment: %v, told %v", got, told)
		}
		if told {
			rolled++
		}
	}
	if rolled < 3 {
		t.Errorf("rolled %d times", rolled)
	}
}
