package seglog_test

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/seglog"
	"github.com/tidegate/tidegate/internal/vfs"
)

// TestManyAtOnce runs the appender, the syncer, readers here and as in another
// process, and lookups beside each other, over many rolls.
func TestManyAtOnce(t *testing.T) {
	const records, size = 2000, 100
	mem := vfs.NewMem()
	l := open(t, mem, seglog.Config{SegmentBytes: 5000})
	var wg sync.WaitGroup
	var want []byte
	wg.Go(func() {
		want = add(t, l, records, size)
	})
	wg.Go(func() {
		for l.Durable() < records*(frameHeader+size) {
			if err := errors.Join(l.Wait(t.Context(), l.Durable()), l.Sync()); err != nil {
				t.Error(err)
				return
			}
		}
	})
	got := make([][]byte, 4)
	for i := range got {
		wg.Go(func() { got[i] = follow(t, l, mem, i%2 == 0, records*(frameHeader+size)) })
	}
	wg.Go(func() {
		for at := uint64(0); at < l.End(); at += 7 * (frameHeader + size) {
			if _, err := l.Header(at, nil); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	for i := range got {
		if !bytes.Equal(got[i], want) {
			t.Errorf("reader %d read %d bytes, want %d", i, len(got[i]), len(want))
		}
	}
	check(t, l.TrimBefore(l.End()/2))
	check(t, l.Close())
}

// follow reads limit bytes while they are being written.
func follow(t *testing.T, l *seglog.Log, mem *vfs.Mem, inside bool, limit uint64) (all []byte) {
	t.Helper()
	if inside {
		r := must(l.NewReader(0))
		defer r.Close()
		for r.At() < limit {
			rec, _, err := r.Next(t.Context())
			if err != nil {
				t.Error(err)
				return all
			}
			all = append(all, rec...)
		}
		return all
	}
	r := must(seglog.OpenReader(mem, "/log", frames{}, 0))
	defer r.Close()
	buf := make([]byte, 0, 1000)
	for r.At() < limit {
		if err := l.Wait(t.Context(), r.At()); err != nil {
			t.Error(err)
			return all
		}
		recs, _, err := r.ReadUpTo(l.End(), buf)
		if err != nil {
			t.Error(err)
			return all
		}
		all = append(all, recs...)
	}
	return all
}

// FuzzOpen opens whatever files: it never panics, and what it opens can be read
// and appended to, or reports what is wrong.
func FuzzOpen(f *testing.F) {
	mem := vfs.NewMem()
	l := open(f, mem, seglog.Config{})
	add(f, l, 3, 30)
	check(f, l.Sync())
	add(f, l, 2, 30)
	check(f, l.Close())
	f.Add(readFile(mem, "/log/0000000000000000.seg"), readFile(mem, "/log/mark"))
	f.Add([]byte{}, []byte{})
	f.Add(readFile(mem, "/log/0000000000000000.seg")[:150], []byte{})
	f.Fuzz(func(t *testing.T, segment, mark []byte) {
		mem := vfs.NewMem()
		check(t, mem.MkdirAll("/log"))
		for name, b := range map[string][]byte{"/log/0000000000000000.seg": segment, "/log/mark": mark} {
			file := must(mem.Create(name))
			must(file.Write(b))
			check(t, file.Close())
		}
		l, _, err := seglog.Open(mem, "/log", frames{}, seglog.Config{})
		var damage *tidegate.CorruptError
		if err != nil {
			if !errors.As(err, &damage) && !errors.Is(err, tidegate.ErrUnsupported) {
				t.Fatalf("unclassified: %v", err)
			}
			return
		}
		add(t, l, 1, 10)
		check(t, l.Sync())
		end := l.End()
		check(t, l.Close())
		contents(t, mem, "/log", 0, end)
	})
}
