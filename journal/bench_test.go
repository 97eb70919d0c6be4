package journal

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
)

// benchFlight is how many appends are in flight: group commit has something to
// group.
const benchFlight = 256

var benchSizes = []int{125, 250, 500, 1000, 2000}

// BenchmarkAppend appends durably with benchFlight in flight, and reports the
// bytes per second beside a raw write + fdatasync of the same groups on the
// same disk in the same run.
func BenchmarkAppend(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			j, err := Open(b.TempDir(), Config{Service: "bench", Stream: "main"})
			if err != nil {
				b.Fatal(err)
			}
			p := make([]byte, size)
			ctx := b.Context()
			var ends [benchFlight]tidegate.Position
			n := 0
			b.SetBytes(int64(size))
			b.ReportAllocs()
			begin := time.Now()
			for b.Loop() {
				slot := &ends[n%benchFlight]
				if err := j.WaitDurable(ctx, *slot); err != nil {
					b.Fatal(err)
				}
				r, err := j.Submit(ctx, p, testTime)
				if err != nil {
					b.Fatal(err)
				}
				*slot = r.Next
				n++
			}
			if err := j.Sync(ctx); err != nil {
				b.Fatal(err)
			}
			took := time.Since(begin)
			end := j.End()
			groups := j.groups
			if err := j.Close(); err != nil {
				b.Fatal(err)
			}
			group := max(1, int(uint64(end)/max(1, groups)))
			raw := rawWrite(b, int(end), group)
			b.ReportMetric(float64(end)/raw.Seconds()/1e6, "raw-MB/s")
			b.ReportMetric(raw.Seconds()/took.Seconds(), "of-raw")
			b.ReportMetric(float64(group)/float64(size+HeaderSize), "records/group")
		})
	}
}

// rawWrite is the physical limit: the same bytes, the same syncs, nothing else.
func rawWrite(b *testing.B, total, group int) time.Duration {
	b.Helper()
	f, err := os.Create(filepath.Join(b.TempDir(), "raw"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	p := make([]byte, group)
	begin := time.Now()
	for done := 0; done < total; done += group {
		if _, err := f.Write(p[:min(group, total-done)]); err != nil {
			b.Fatal(err)
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(begin)
}

// BenchmarkAppendParallel is what callers of Append see: one record each.
func BenchmarkAppendParallel(b *testing.B) {
	j, err := Open(b.TempDir(), Config{Service: "bench", Stream: "main"})
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	p := make([]byte, 250)
	b.SetParallelism(64)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := j.Append(b.Context(), p, testTime); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkAwait releases at once: the gate's own cost.
func BenchmarkAwait(b *testing.B) {
	j, err := OpenFS(vfs.NewMem(), "/j", Config{Service: "bench", Stream: "main"})
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	if err := j.Activate(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := j.Await(b.Context(), 0); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReplay reads a journal back from files, checksums verified.
func BenchmarkReplay(b *testing.B) {
	const records = 1_000_000
	for _, size := range []int{50, 125} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			j, err := Open(b.TempDir(), Config{Service: "bench", Stream: "main"})
			if err != nil {
				b.Fatal(err)
			}
			defer j.Close()
			p := make([]byte, size)
			for range records {
				if _, err := j.Submit(b.Context(), p, testTime); err != nil {
					b.Fatal(err)
				}
			}
			if err := j.Sync(b.Context()); err != nil {
				b.Fatal(err)
			}
			dropCache(b, j.Dir())
			b.ReportAllocs()
			var took time.Duration
			n := 0
			for b.Loop() {
				begin := time.Now()
				n += replay(b, j)
				took += time.Since(begin)
			}
			b.ReportMetric(float64(n)/took.Seconds(), "records/s")
		})
	}
}

// dropCache makes the first pass a cold one.
func dropCache(b *testing.B, dir string) {
	b.Helper()
	names, err := filepath.Glob(filepath.Join(dir, logName, "*"))
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			b.Fatal(err)
		}
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func replay(b *testing.B, j *Journal) int {
	b.Helper()
	r, err := j.NewReader(0)
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	for n := 0; ; n++ {
		if _, ok, err := r.TryNext(); err != nil {
			b.Fatal(err)
		} else if !ok {
			return n
		}
	}
}
