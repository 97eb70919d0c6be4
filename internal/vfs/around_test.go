package vfs_test

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/tidegate/tidegate/internal/vfs"
)

// TestWriteAround: whatever goes past the page cache or through it, in whatever order,
// the file has it all, and through a new name.
func TestWriteAround(t *testing.T) {
	for name, fsys := range map[string]vfs.FS{"os": vfs.OS(), "memory": vfs.NewMem()} {
		t.Run(name, func(t *testing.T) {
			dir := "/"
			if name == "os" {
				dir = t.TempDir()
			}
			want := make([]byte, 5<<20+777)
			_, _ = rand.NewChaCha8([32]byte{1}).Read(want) // never fails
			f, err := fsys.Create(filepath.Join(dir, "f"))
			if err != nil {
				t.Fatal(err)
			}
			if err := fsys.Rename(filepath.Join(dir, "f"), filepath.Join(dir, "g")); err != nil {
				t.Fatal(err)
			}
			// Aligned; odd in length, which leaves the next odd in place; from odd memory; short.
			for off := int64(0); off < int64(len(want)); {
				for _, n := range []int{1 << 20, 300<<10 + 5, 1<<20 - (300<<10 + 5), 4096} {
					part := want[off:min(off+int64(n), int64(len(want)))]
					got, err := vfs.WriteAround(f, part, off)
					if err != nil || got != len(part) {
						t.Fatalf("%d bytes at %d: %d, %v", len(part), off, got, err)
					}
					off += int64(len(part))
				}
			}
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(want))
			if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
				t.Errorf("what was read is not what was written: %v", err)
			}
			if size, err := f.Size(); err != nil || size != int64(len(want)) {
				t.Errorf("%d bytes, want %d: %v", size, len(want), err)
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
