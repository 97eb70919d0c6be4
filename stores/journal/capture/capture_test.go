package capture_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/journal"
	"github.com/tidegate/tidegate/stores"
	"github.com/tidegate/tidegate/stores/journal/capture"
	"github.com/tidegate/tidegate/stores/storestest"
)

func open(t *testing.T, fsys vfs.FS, dir string) *journal.Journal {
	t.Helper()
	// Small segments, so that units cross them.
	j, err := journal.OpenFS(fsys, dir, journal.Config{Service: "ledger", Stream: "main", SegmentBytes: 1 << 20, RecordBytesMax: 512 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Errorf("close journal: %v", err)
		}
	})
	return j
}

func TestConformance(t *testing.T) {
	storestest.Run(t, func(t *testing.T) storestest.Fixture {
		dir := t.TempDir() + "/journal"
		j := open(t, vfs.OS(), dir)
		src := capture.New(vfs.OS(), dir)
		t.Cleanup(func() {
			if err := src.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		return storestest.Fixture{
			Source: src,
			First:  j.First(),
			Append: func(t *testing.T, size int, ns int64) tidegate.Position {
				t.Helper()
				r, err := j.Append(t.Context(), bytes.Repeat([]byte{byte(size)}, size), time.Unix(0, ns))
				if err != nil {
					t.Fatal(err)
				}
				return r.Next
			},
		}
	})
}

// A failed read must neither lose nor repeat records.
func TestReadGoesOnAfterAnError(t *testing.T) {
	dir := t.TempDir() + "/journal"
	j := open(t, vfs.OS(), dir)
	var end tidegate.Position
	for range 50 {
		r, err := j.Append(t.Context(), bytes.Repeat([]byte("x"), 100), time.Unix(1, 0))
		if err != nil {
			t.Fatal(err)
		}
		end = r.Next
	}
	failing := false
	boom := errors.New("boom")
	fsys := vfs.Inject(vfs.OS(), func(vfs.Op) error {
		if failing {
			return boom
		}
		return nil
	})
	c, err := capture.New(fsys, dir).Follow(t.Context(), j.First())
	if err != nil {
		t.Fatal(err)
	}
	at, records := j.First(), uint32(0)
	for i := 0; at < end; i++ {
		failing = i%2 == 1
		u, err := c.Read(end, 1000)
		if failing {
			if err == nil {
				// Nothing had to be read from the file this time.
				failing = false
			} else {
				if !errors.Is(err, boom) {
					t.Fatalf("read = %v, want the injected error", err)
				}
				continue
			}
		} else if err != nil {
			t.Fatal(err)
		}
		if u.First != at {
			t.Fatalf("unit begins at %s, want %s", u.First, at)
		}
		at, records = u.Next, records+u.Records
	}
	if records != 50 {
		t.Errorf("%d records, want 50", records)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestRereadEndsWithItsContext(t *testing.T) {
	dir := t.TempDir() + "/journal"
	j := open(t, vfs.OS(), dir)
	r, err := j.Append(t.Context(), []byte("x"), time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := capture.New(vfs.OS(), dir).Reread(ctx, r.First, r.Next); !errors.Is(err, context.Canceled) {
		t.Errorf("reread = %v, want canceled", err)
	}
}

// The path that every record of the product takes.
func BenchmarkRead(b *testing.B) {
	dir := b.TempDir() + "/journal"
	j, err := journal.Open(dir, journal.Config{Service: "ledger", Stream: "main"})
	if err != nil {
		b.Fatal(err)
	}
	payloads := make([][]byte, 1000)
	for i := range payloads {
		payloads[i] = bytes.Repeat([]byte{byte(i)}, 1000)
	}
	var end tidegate.Position
	for range 50 {
		r, err := j.AppendBatch(b.Context(), payloads, time.Unix(1, 0))
		if err != nil {
			b.Fatal(err)
		}
		end = r.Next
	}
	src := capture.New(vfs.OS(), dir)
	b.SetBytes(int64(end))
	b.ReportAllocs()
	for b.Loop() {
		c, err := src.Follow(b.Context(), 0)
		if err != nil {
			b.Fatal(err)
		}
		for at := tidegate.Position(0); at < end; {
			u, err := c.Read(end, 1<<20)
			if err != nil {
				b.Fatal(err)
			}
			at = u.Next
		}
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		b.Fatal(err)
	}
}

// What the journal has left behind is told from what it never had.
func TestTrimmedIsTold(t *testing.T) {
	dir := t.TempDir() + "/journal"
	j, err := journal.Open(dir, journal.Config{Service: "ledger", Stream: "main", SegmentBytes: 4 << 10, RecordBytesMax: 1 << 10})
	if err != nil {
		t.Fatal(err)
	}
	var ends []tidegate.Position
	for range 20 {
		r, err := j.Append(t.Context(), bytes.Repeat([]byte("x"), 900), time.Unix(1, 0))
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, r.Next)
	}
	if err := errors.Join(j.TrimBefore(t.Context(), ends[9]), j.Close()); err != nil {
		t.Fatal(err)
	}
	src := capture.New(vfs.OS(), dir)
	defer src.Close()
	if _, err := src.Reread(t.Context(), 0, ends[0]); !errors.Is(err, stores.ErrTrimmed) {
		t.Errorf("reread of what was trimmed: %v", err)
	}
	if _, err := src.Reread(t.Context(), ends[15], ends[16]); err != nil {
		t.Error(err)
	}
	if _, err := src.Reread(t.Context(), ends[15], ends[16]-1); !errors.Is(err, tidegate.ErrNotFound) || errors.Is(err, stores.ErrTrimmed) {
		t.Errorf("reread to inside of a record: %v", err)
	}
	if _, err := capture.New(vfs.OS(), dir+"-none").Follow(t.Context(), 0); errors.Is(err, stores.ErrTrimmed) {
		t.Errorf("of a journal that is not there: %v", err)
	}
}
