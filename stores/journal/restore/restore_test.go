package restore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/archivetest"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	cold "github.com/tidegate/tidegate/archive/restore"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/journal"
	"github.com/tidegate/tidegate/stores"
	"github.com/tidegate/tidegate/stores/journal/capture"
	"github.com/tidegate/tidegate/stores/journal/restore"
)

const segmentBytes = 1 << 20

var (
	journalID = tidegate.ID{7}
	epoch     = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
)

// source is a journal that is archived, a batch every 50 records or so. Record i was
// made i seconds after epoch.
type source struct {
	dir string
	j   *journal.Journal
	m   *archivetest.Maker
	at  []journal.Range // of every record
}

func newSource(t *testing.T) *source {
	t.Helper()
	s := &source{dir: filepath.Join(t.TempDir(), "journal"), m: archivetest.New(t, dir.New(vfs.OS(), t.TempDir()), "journal")}
	s.m.Time = epoch.UnixNano()
	var err error
	s.j, err = journal.Open(s.dir, journal.Config{Service: "bank", Stream: "main", ID: journalID, SegmentBytes: segmentBytes + journal.HeaderSize, RecordBytesMax: segmentBytes, Clock: clock.NewFake(epoch)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.j.Close() }) // it has been read by then
	s.m.Lineage(t, s.j.Lineage(), "")
	return s
}

// write appends n records and archives them.
func (s *source) write(t *testing.T, n int) {
	t.Helper()
	for range n {
		i := len(s.at)
		r, err := s.j.SubmitAt(t.Context(), s.j.End(), bytes.Repeat([]byte(fmt.Sprintf("%d,", i)), 1+i%700), epoch.Add(time.Duration(i)*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		s.at = append(s.at, r)
	}
	if err := s.j.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, err := capture.New(vfs.OS(), s.dir).Follow(t.Context(), s.m.At)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }() // only read
	for s.m.At < s.j.End() {
		u, err := c.Read(s.j.End(), 64<<10)
		if err != nil {
			t.Fatal(err)
		}
		s.m.Data(t, u.Payload, u.Records, u.Oldest, u.Newest)
		if s.m.Seq%4 == 0 {
			s.m.Segment(t)
		}
	}
	s.m.Heartbeat(t, epoch.Add(time.Duration(len(s.at))*time.Second).UnixNano())
	s.m.Segment(t)
}

func (s *source) open(t *testing.T) *archive.Stream {
	t.Helper()
	r, err := archive.OpenReader(t.Context(), s.m.B)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := r.Open(t.Context(), s.m.Info)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func (s *source) plan(t *testing.T, to cold.To) *cold.Plan {
	t.Helper()
	return s.planOf(t, cold.Choice{To: to})
}

func (s *source) planOf(t *testing.T, c cold.Choice) *cold.Plan {
	t.Helper()
	p, err := cold.Choose(t.Context(), s.open(t), s.bases(t), c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func run(ctx context.Context, p *cold.Plan, fsys vfs.FS, into string) (cold.Result, error) {
	where := cold.Target{FS: vfs.OS(), Clock: clock.System(), Dir: into}
	if _, err := p.Check(ctx, where); err != nil {
		return cold.Result{}, err
	}
	var m cold.Meter
	r := restore.New(fsys, restore.Config{Dir: into, SegmentBytes: segmentBytes + journal.HeaderSize})
	return p.Run(ctx, where, r, &m)
}

// equal compares the restored journal's segments with the source's, up to a position.
func (s *source) equal(t *testing.T, restored string, end tidegate.Position) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(restored, "log", "*.seg"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no segments, %v", restored, err)
	}
	var sum int
	for i, file := range files {
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(s.dir, "log", filepath.Base(file)))
		if err != nil {
			t.Fatal(err)
		}
		sum += len(got) - 64
		if i == len(files)-1 {
			want = want[:min(len(want), len(got))]
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not the source's", filepath.Base(file))
		}
	}
	if sum != int(end) {
		t.Errorf("%d bytes of records, want %d", sum, end)
	}
}

func TestRestoreFromArchive(t *testing.T) {
	s := newSource(t)
	s.write(t, 1000)
	if _, err := s.j.Branch(t.Context(), 5, s.j.End()); err != nil {
		t.Fatal(err)
	}
	s.m.Epoch = 5
	s.write(t, 1000)
	at := s.at[1400]
	for name, c := range map[string]struct {
		to   cold.To
		want tidegate.Position
	}{
		"latest":              {cold.To{}, s.j.End()},
		"a record's end":      {cold.To{Position: at.Next}, at.Next},
		"in a record":         {cold.To{Position: at.Next - 1}, at.First},
		"before the branch":   {cold.To{Position: s.at[300].Next}, s.at[300].Next},
		"a record's time":     {cold.To{Time: epoch.Add(1400 * time.Second)}, at.Next},
		"between two records": {cold.To{Time: epoch.Add(1400*time.Second - 1)}, at.First},
	} {
		t.Run(name, func(t *testing.T) {
			into := filepath.Join(t.TempDir(), "into")
			res, err := run(t.Context(), s.plan(t, c.to), vfs.OS(), into)
			if err != nil {
				t.Fatal(err)
			}
			if res.Position != c.want {
				t.Errorf("ends at %s, want %s", res.Position, c.want)
			}
			s.equal(t, res.Path, c.want)
			if _, err := run(t.Context(), s.plan(t, c.to), vfs.OS(), into); tidegate.ClassOf(err) != tidegate.Refused {
				t.Errorf("once more into the same directory: %v", err)
			}
		})
	}
}

// TestRestoreIsResumed stops the machine before every so many operations.
func TestRestoreIsResumed(t *testing.T) {
	s := newSource(t)
	s.write(t, 2000)
	plan := s.plan(t, cold.To{})
	s.write(t, 50) // what comes meanwhile changes nothing
	into := filepath.Join(t.TempDir(), "into")
	for n, stops := int64(3), 0; ; n, stops = n*2, stops+1 {
		fault := vfs.CrashAt(n)
		res, err := run(t.Context(), plan, vfs.Inject(vfs.OS(), fault.Inject), into)
		if err == nil {
			if !res.Resumed || stops < 2 || res.Bytes.Kept == 0 {
				t.Errorf("after %d stops: %+v", stops, res)
			}
			s.equal(t, res.Path, s.at[1999].Next)
			return
		}
		if !errors.Is(err, vfs.ErrCrashed) {
			t.Fatal(err)
		}
		if plan = s.plan(t, cold.To{}); plan.End.Next == s.at[1999].Next {
			t.Fatal("nothing came meanwhile")
		}
	}
}

// TestCutOffAtTheName ends a restore right behind the last step: the next one says that
// it is done.
func TestCutOffAtTheName(t *testing.T) {
	s := newSource(t)
	s.write(t, 100)
	into := filepath.Join(t.TempDir(), "into")
	named := func(vfs.Op) error {
		if _, err := os.Stat(filepath.Join(into, "journal")); err == nil {
			return vfs.ErrIO
		}
		return nil
	}
	_, err := run(t.Context(), s.plan(t, cold.To{}), vfs.Inject(vfs.OS(), vfs.KindIs(vfs.OpSyncDir, vfs.PathMatch("into", named))), into)
	if !errors.Is(err, vfs.ErrIO) {
		t.Fatal(err)
	}
	// A conflict alone does not say that it is done: what was to be there is not.
	plan := s.plan(t, cold.To{})
	where := cold.Target{FS: vfs.OS(), Clock: clock.System(), Dir: into}
	if err := os.Rename(filepath.Join(into, "journal"), into+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := plan.Run(t.Context(), where, inTheWay{restore.New(vfs.OS(), restore.Config{Dir: into})}, &cold.Meter{}); !errors.Is(err, tidegate.ErrConflict) {
		t.Errorf("without what was restored: %v", err)
	}
	if err := os.Rename(into+".away", filepath.Join(into, "journal")); err != nil {
		t.Fatal(err)
	}
	res, err := run(t.Context(), s.plan(t, cold.To{}), vfs.OS(), into)
	if err != nil || res.Position != s.j.End() {
		t.Fatalf("%+v, %v", res, err)
	}
	s.equal(t, res.Path, s.j.End())
}

// inTheWay finds something else at work in the directory.
type inTheWay struct{ stores.Restorer }

func (inTheWay) Begin(context.Context, stores.Restoration) error { return tidegate.ErrConflict }

// TestDamageIsNamed: what is not as it was sealed is never restored, and the object is
// named.
func TestDamageIsNamed(t *testing.T) {
	s := newSource(t)
	s.write(t, 1500)
	whole := s.open(t)
	middle := whole.Branch.Segments[len(whole.Branch.Segments)/2].Name(archivetest.Stream)
	plan := s.plan(t, cold.To{})
	var kept []byte
	for name, change := range map[string]func([]byte) []byte{
		"flipped":    func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"cut":        func(b []byte) []byte { return b[:len(b)-7] },
		"swapped":    func([]byte) []byte { return make([]byte, 400) },
		"lengthened": func(b []byte) []byte { return append(b, 0) },
	} {
		s.m.Change(t, middle, func(b []byte) []byte {
			if kept == nil {
				kept = bytes.Clone(b)
			}
			return change(bytes.Clone(kept))
		})
		_, err := run(t.Context(), plan, vfs.OS(), filepath.Join(t.TempDir(), "into"))
		if tidegate.ClassOf(err) != tidegate.Corrupt || !bytes.Contains([]byte(err.Error()), []byte(middle)) {
			t.Errorf("%s: %v, want damage of %s", name, err, middle)
		}
	}
	if err := s.m.B.Remove(t.Context(), middle); err != nil {
		t.Fatal(err)
	}
	_, err := run(t.Context(), plan, vfs.OS(), filepath.Join(t.TempDir(), "into"))
	if !errors.Is(err, tidegate.ErrNotFound) || !bytes.Contains([]byte(err.Error()), []byte(middle)) {
		t.Errorf("gone: %v, want %s", err, middle)
	}
	_, err = cold.Choose(t.Context(), s.open(t), &archive.Bases{}, cold.Choice{})
	if !errors.Is(err, tidegate.ErrGap) {
		t.Errorf("a plan over the hole: %v", err)
	}
}
