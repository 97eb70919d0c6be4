package deltalog_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/standby/deltalog"
)

// BenchmarkAppendSync receives batches, verifies, appends and syncs each, in
// turn with a bare write and fdatasync of the same bytes to a file beside the
// log: ratio is the median of one to that of the other, p50 the log's own.
func BenchmarkAppendSync(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("size=%dKiB", size>>10), func(b *testing.B) { benchAppendSync(b, size) })
	}
}

func benchAppendSync(b *testing.B, size int) {
	dir := benchDir(b)
	l, _, err := deltalog.Open(vfs.OS(), filepath.Join(dir, "log"), stream, deltalog.Config{})
	check(b, err)
	defer l.Close()
	raw := must(vfs.OS().Create(filepath.Join(dir, "raw")))
	defer raw.Close()
	w := newWriter()
	var logged, bare []time.Duration
	b.SetBytes(int64(size))
	for b.Loop() {
		b.StopTimer()
		sealed := w.data(size - batch.HeaderSize)
		start := time.Now()
		must(raw.Write(sealed))
		check(b, raw.Sync())
		bare = append(bare, time.Since(start))
		if len(bare)%64 == 0 { // a segment is 64 MiB; let the bare file not outgrow the log's
			check(b, raw.Truncate(0))
			check(b, raw.Sync())
			check(b, raw.Close())
			check(b, vfs.OS().Remove(filepath.Join(dir, "raw")))
			raw = must(vfs.OS().Create(filepath.Join(dir, "raw")))
		}
		b.StartTimer()
		start = time.Now()
		h, err := batch.Verify(sealed, l.End().Chain)
		check(b, err)
		check(b, l.AppendVerified(&h, sealed))
		must(l.Sync())
		logged = append(logged, time.Since(start))
		b.StopTimer()
		if h.Seq%512 == 0 {
			check(b, l.TrimBefore(h.Seq))
		}
		b.StartTimer()
	}
	p50 := func(d []time.Duration) float64 {
		slices.Sort(d)
		return float64(d[len(d)/2])
	}
	b.ReportMetric(p50(logged)/1e3, "p50-us")
	b.ReportMetric(p50(bare)/1e3, "bare-p50-us")
	b.ReportMetric(p50(logged)/p50(bare), "ratio")
}

// benchDir is on a real disk: the default for temporary files may be memory.
func benchDir(b *testing.B) string {
	b.Helper()
	if dir := os.Getenv("TIDEGATE_BENCH_DIR"); dir != "" {
		dir = must(os.MkdirTemp(dir, "deltalog")) //nolint:usetesting // on the disk that was named
		b.Cleanup(func() { check(b, os.RemoveAll(dir)) })
		return dir
	}
	return b.TempDir()
}

// BenchmarkAppend is the CPU cost alone: verify and append, nothing synced.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("size=%dKiB", size>>10), func(b *testing.B) {
			w := newWriter()
			sealed := make([][]byte, 64)
			for i := range sealed {
				sealed[i] = w.data(size - batch.HeaderSize)
			}
			dir := benchDir(b)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			var l *deltalog.Log
			for i := 0; b.Loop(); i++ {
				if i%len(sealed) == 0 {
					b.StopTimer()
					if l != nil {
						check(b, l.Close())
					}
					check(b, os.RemoveAll(filepath.Join(dir, "log")))
					l, _, _ = deltalog.Open(vfs.OS(), filepath.Join(dir, "log"), stream, deltalog.Config{})
					b.StartTimer()
				}
				s := sealed[i%len(sealed)]
				h, err := batch.VerifyBytes(s)
				check(b, err)
				check(b, l.AppendVerified(&h, s))
			}
			check(b, l.Close())
		})
	}
}

// BenchmarkCursor is a fan-out's side: verified batches out of the page cache.
func BenchmarkCursor(b *testing.B) {
	l, _, err := deltalog.Open(vfs.OS(), filepath.Join(benchDir(b), "log"), stream, deltalog.Config{})
	check(b, err)
	defer l.Close()
	w := newWriter()
	const size, n = 64 << 10, 256
	for range n {
		check(b, l.Append(w.data(size)))
	}
	b.SetBytes(size)
	b.ReportAllocs()
	c := must(l.ReadFrom(1))
	for b.Loop() {
		if c.Seq() > tidegate.Seq(n) {
			check(b, c.Close())
			c = must(l.ReadFrom(1))
		}
		_, _, err := c.Next(b.Context())
		check(b, err)
	}
	check(b, c.Close())
}
