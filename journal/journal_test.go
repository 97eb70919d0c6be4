package journal

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testTime = time.Unix(1_700_000_000, 123)

func testConfig() Config {
	return Config{
		Service: "ledger", Stream: "main", ID: tidegate.ID{1, 2, 3},
		SegmentBytes: 1 << 20, GroupBytesMax: 64 << 10, RecordBytesMax: 4 << 10,
	}
}

func open(t testing.TB, fsys vfs.FS, dir string, cfg Config) *Journal {
	t.Helper()
	j, err := OpenFS(fsys, dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return j
}

// payload is recognisable by its number.
func payload(i int) []byte { return fmt.Appendf(nil, "record %06d %s", i, make([]byte, i%97)) }

func appendN(t testing.TB, j *Journal, from, n int) {
	t.Helper()
	for i := from; i < from+n; i++ {
		if _, err := j.Append(t.Context(), payload(i), testTime.Add(time.Duration(i))); err != nil {
			t.Fatal(err)
		}
	}
}

// readAll returns the payloads of data records, checking positions and numbers.
func readAll(t testing.TB, j *Journal) []string {
	t.Helper()
	r, err := j.NewReader(j.First())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got []string
	at := j.First()
	for number := uint64(1); ; number++ {
		rec, ok, err := r.TryNext()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return got
		}
		if rec.First != at || rec.Number != number {
			t.Fatalf("record %d at %s, want %d at %s", rec.Number, rec.First, number, at)
		}
		at = rec.Next
		if rec.Kind == KindData {
			got = append(got, string(rec.Payload))
		}
	}
}

func wantRecords(t testing.TB, j *Journal, n int) {
	t.Helper()
	got := readAll(t, j)
	if len(got) != n {
		t.Fatalf("%d records, want %d", len(got), n)
	}
	for i, p := range got {
		if p != string(payload(i)) {
			t.Fatalf("record %d is %q", i, p)
		}
	}
}

func TestAppendReopenRead(t *testing.T) {
	fsys, dir := vfs.NewMem(), "/j"
	j := open(t, fsys, dir, testConfig())
	appendN(t, j, 0, 50)
	end, lineage := j.End(), j.Lineage()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Append(t.Context(), nil, testTime); !errors.Is(err, tidegate.ErrStopped) {
		t.Errorf("append after close: %v", err)
	}
	j = open(t, fsys, dir, testConfig())
	if j.End() != end || j.Durable() != end || j.Records() != 50 || j.Lineage() != lineage {
		t.Errorf("end %s durable %s records %d lineage %s", j.End(), j.Durable(), j.Records(), j.Lineage())
	}
	wantRecords(t, j, 50)
	appendN(t, j, 50, 10)
	wantRecords(t, j, 60)
}

func TestOpenRefuses(t *testing.T) {
	fsys, dir := vfs.NewMem(), "/j"
	j := open(t, fsys, dir, testConfig())
	if _, err := OpenFS(fsys, dir, testConfig()); !errors.Is(err, tidegate.ErrConflict) {
		t.Errorf("second opener: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	other := testConfig()
	other.ID = tidegate.ID{9}
	if _, err := OpenFS(fsys, dir, other); !errors.Is(err, tidegate.ErrDiverged) {
		t.Errorf("other id: %v", err)
	}
	other = testConfig()
	other.SegmentBytes = 2 << 20
	if _, err := OpenFS(fsys, dir, other); !errors.Is(err, tidegate.ErrConflict) {
		t.Errorf("other segment size: %v", err)
	}
	if _, err := OpenFS(fsys, dir, Config{}); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("empty configuration: %v", err)
	}
	if err := fsys.Remove(filepath.Join(dir, metaName)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFS(fsys, dir, testConfig()); tidegate.ClassOf(err) != tidegate.Corrupt {
		t.Errorf("log without meta: %v", err)
	}
}

// TestReplicasAreByteIdentical feeds the same records in different groups.
func TestReplicasAreByteIdentical(t *testing.T) {
	cfg := testConfig()
	cfg.SegmentBytes = 8 << 10
	a, b := t.TempDir(), t.TempDir()
	one, err := Open(a, cfg)
	if err != nil {
		t.Fatal(err)
	}
	appendN(t, one, 0, 300)
	two, err := Open(b, cfg)
	if err != nil {
		t.Fatal(err)
	}
	at := tidegate.Position(0)
	for i := range 300 {
		r, err := two.SubmitAt(t.Context(), at, payload(i), testTime.Add(time.Duration(i)))
		if err != nil {
			t.Fatal(err)
		}
		at = r.Next
	}
	if err := errors.Join(one.Close(), two.Close()); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(a, logName, "*"))
	if err != nil || len(names) < 3 {
		t.Fatalf("%d segments, %v", len(names), err)
	}
	for _, name := range names {
		if filepath.Base(name) == "mark" {
			continue // says how often it was synced, not what
		}
		x, errA := os.ReadFile(name)
		y, errB := os.ReadFile(filepath.Join(b, logName, filepath.Base(name)))
		if errA != nil || errB != nil || string(x) != string(y) {
			t.Errorf("%s differs: %v %v", filepath.Base(name), errA, errB)
		}
	}
}

func TestAppendAt(t *testing.T) {
	j := open(t, vfs.NewMem(), "/j", testConfig())
	appendN(t, j, 0, 20)
	end := j.End()
	at := tidegate.Position(0)
	for i := range 20 {
		r, err := j.AppendAt(t.Context(), at, payload(i), testTime.Add(time.Duration(i)))
		if err != nil {
			t.Fatal(err)
		}
		at = r.Next
	}
	if at != end || j.End() != end {
		t.Fatalf("replay ended at %s, journal at %s, want %s", at, j.End(), end)
	}
	if _, err := j.AppendAt(t.Context(), 0, payload(1), testTime); !errors.Is(err, tidegate.ErrDiverged) {
		t.Errorf("other payload: %v", err)
	}
	if _, err := j.AppendAt(t.Context(), 0, payload(0), testTime.Add(1)); !errors.Is(err, tidegate.ErrDiverged) {
		t.Errorf("other time: %v", err)
	}
	if _, err := j.AppendAt(t.Context(), end+1, payload(0), testTime); !errors.Is(err, tidegate.ErrGap) {
		t.Errorf("beyond the end: %v", err)
	}
	if _, err := j.AppendAt(t.Context(), 5, payload(0), testTime); err == nil {
		t.Error("in the middle of a record: accepted")
	}
	if _, err := j.AppendAt(t.Context(), end, payload(20), testTime.Add(20)); err != nil {
		t.Fatal(err)
	}
	wantRecords(t, j, 21)
}

func TestAppendRaw(t *testing.T) {
	source := open(t, vfs.NewMem(), "/j", testConfig())
	appendN(t, source, 0, 30)
	raw := rawBytes(t, source, 0)
	j := open(t, vfs.NewMem(), "/j", testConfig())
	cut := func(i int) int { // position behind record i
		n := 0
		for k := range i {
			n += HeaderSize + len(payload(k))
		}
		return n
	}
	for _, s := range []struct{ from, to int }{{0, 10}, {0, 10}, {5, 15}, {15, 30}, {0, 30}} {
		first, last := cut(s.from), cut(s.to)
		r, err := j.AppendRaw(t.Context(), tidegate.Position(first), raw[first:last])
		if err != nil || r.Next != tidegate.Position(last) {
			t.Fatalf("records %d to %d: %v, next %s", s.from, s.to, err, r.Next)
		}
	}
	if err := j.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantRecords(t, j, 30)
	if _, err := j.AppendRaw(t.Context(), j.End()+9, rawAt(t, j.End()+9)); !errors.Is(err, tidegate.ErrGap) {
		t.Errorf("gap: %v", err)
	}
	if _, err := j.AppendRaw(t.Context(), 0, rawAt(t, 0)); !errors.Is(err, tidegate.ErrDiverged) {
		t.Errorf("divergent: %v", err)
	}
	if _, err := j.AppendRaw(t.Context(), j.End(), raw[:10]); tidegate.ClassOf(err) != tidegate.Corrupt {
		t.Errorf("half a record: %v", err)
	}
	if _, err := j.AppendRaw(t.Context(), j.End(), raw[:cut(1)]); tidegate.ClassOf(err) != tidegate.Corrupt {
		t.Errorf("record of another position: %v", err)
	}
	if _, err := j.AppendRaw(t.Context(), j.End(), rawAt(t, j.End())); tidegate.ClassOf(err) != tidegate.Corrupt {
		t.Errorf("number that does not follow: %v", err)
	}
	wantRecords(t, j, 30)
}

// rawAt is one sound record, number 1, for position at.
func rawAt(t testing.TB, at tidegate.Position) []byte {
	t.Helper()
	return appendRecord(nil, at, header{number: 1, time: 1, kind: KindData}, []byte("other"))
}

func rawBytes(t testing.TB, j *Journal, from tidegate.Position) []byte {
	t.Helper()
	r, err := OpenReaderFS(j.fs, j.Dir(), from)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var all []byte
	for {
		raw, _, err := r.Read(j.Durable(), 4<<10)
		if err != nil {
			t.Fatal(err)
		}
		if len(raw) == 0 {
			return all
		}
		all = append(all, raw...)
	}
}

func TestBranchExtendsLineage(t *testing.T) {
	fsys := vfs.NewMem()
	j := open(t, fsys, "/j", testConfig())
	appendN(t, j, 0, 3)
	at := j.End()
	if _, err := j.Branch(t.Context(), 7, at-1); !errors.Is(err, tidegate.ErrConflict) {
		t.Errorf("not at the end: %v", err)
	}
	r, err := j.Branch(t.Context(), 7, at)
	if err != nil {
		t.Fatal(err)
	}
	again, err := j.Branch(t.Context(), 7, at)
	if err != nil || again != r || j.End() != r.Next {
		t.Errorf("again: %v %v, end %s", again, err, j.End())
	}
	want := tidegate.Lineage("journal:" + hex.EncodeToString(testID()) + "+7@" + at.String())
	if j.Lineage() != want {
		t.Errorf("lineage %s, want %s", j.Lineage(), want)
	}
	appendN(t, j, 3, 2)
	// A follower learns the branch from the bytes.
	f := open(t, vfs.NewMem(), "/f", testConfig())
	if _, err := f.AppendRaw(t.Context(), 0, rawBytes(t, j, 0)); err != nil {
		t.Fatal(err)
	}
	if f.Lineage() != want {
		t.Errorf("follower's lineage %s, want %s", f.Lineage(), want)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, fsys, "/j", testConfig())
	if j.Lineage() != want {
		t.Errorf("lineage after reopening %s", j.Lineage())
	}
	if got, err := ReadLineage(fsys, "/j"); err != nil || got != want {
		t.Errorf("ReadLineage: %s %v", got, err)
	}
}

func testID() []byte { id := testConfig().ID; return id[:] }

func TestCutToQuarantinesFirst(t *testing.T) {
	fsys := vfs.NewMem()
	j := open(t, fsys, "/j", testConfig())
	appendN(t, j, 0, 10)
	at := j.End()
	if _, err := j.Branch(t.Context(), 3, at); err != nil {
		t.Fatal(err)
	}
	appendN(t, j, 10, 5)
	end := j.End()
	cut, err := j.CutTo(t.Context(), at, "", "diverged")
	if err != nil {
		t.Fatal(err)
	}
	if cut.First != at || cut.Next != end || cut.Records != 6 || cut.Path == "" {
		t.Errorf("cut %+v", cut)
	}
	if j.End() != at || j.Records() != 10 || j.Lineage() != tidegate.Lineage("journal:"+hex.EncodeToString(testID())) {
		t.Errorf("end %s records %d lineage %s", j.End(), j.Records(), j.Lineage())
	}
	if _, err := fsys.Stat(filepath.Join(cut.Path, "summary.json")); err != nil {
		t.Error(err)
	}
	appendN(t, j, 10, 5)
	wantRecords(t, j, 15)
	if cut, err := j.CutTo(t.Context(), j.End(), "", "nothing"); err != nil || cut.Path != "" {
		t.Errorf("nothing to cut: %+v %v", cut, err)
	}
}

func TestTrimBefore(t *testing.T) {
	cfg := testConfig()
	cfg.SegmentBytes = 8 << 10
	fsys := vfs.NewMem()
	j := open(t, fsys, "/j", cfg)
	appendN(t, j, 0, 500)
	if err := j.TrimBefore(t.Context(), j.End()-1); err != nil {
		t.Fatal(err)
	}
	first := j.First()
	if first == 0 {
		t.Fatal("nothing trimmed")
	}
	if _, err := j.AppendAt(t.Context(), 0, payload(0), testTime); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("append at a trimmed position: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, fsys, "/j", cfg)
	if j.First() != first || j.Records() != 500 {
		t.Errorf("first %s records %d", j.First(), j.Records())
	}
}

func TestManyAppendersShareGroups(t *testing.T) {
	fsys := vfs.NewMem()
	j := open(t, fsys, "/j", testConfig())
	const writers, each = 16, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				r, err := j.Append(t.Context(), fmt.Appendf(nil, "%d/%d", w, i), testTime)
				if err != nil || j.Durable() < r.Next {
					t.Errorf("append: %v, durable %s of %s", err, j.Durable(), r.Next)
				}
			}
		})
	}
	wg.Wait()
	if got := len(readAll(t, j)); got != writers*each {
		t.Errorf("%d records", got)
	}
	if _, err := j.AppendBatch(t.Context(), [][]byte{payload(1), payload(2)}, testTime); err != nil {
		t.Error(err)
	}
	if got := len(readAll(t, j)); got != writers*each+2 {
		t.Errorf("%d records", got)
	}
}

func TestReaderFollows(t *testing.T) {
	j := open(t, vfs.NewMem(), "/j", testConfig())
	r, err := j.NewReader(0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got := make(chan string)
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 20 {
			rec, err := r.Next(t.Context())
			if err != nil {
				t.Error(err)
			}
			got <- string(rec.Payload)
		}
	})
	for i := range 20 {
		appendN(t, j, i, 1)
		if p := <-got; p != string(payload(i)) {
			t.Errorf("record %d is %q", i, p)
		}
	}
	wg.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestRecordTooLong(t *testing.T) {
	j := open(t, vfs.NewMem(), "/j", testConfig())
	if _, err := j.Append(t.Context(), make([]byte, 4<<10+1), testTime); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("too long: %v", err)
	}
	if _, err := j.AppendBatch(t.Context(), [][]byte{make([]byte, 4<<10), nil}, testTime); err != nil {
		t.Error(err)
	}
	big := make([][]byte, 20)
	for i := range big {
		big[i] = make([]byte, 4<<10)
	}
	if _, err := j.AppendBatch(t.Context(), big, testTime); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("group too long: %v", err)
	}
}
