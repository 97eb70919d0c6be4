package vfs

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/tidegate/tidegate"
)

// TestAround writes streams in pieces of any length, from anywhere, and reads them back.
func TestAround(t *testing.T) {
	noise := rand.NewChaCha8([32]byte{1})
	rng := rand.New(noise)
	for name, fsys := range map[string]FS{"os": OS(), "memory": NewMem()} {
		dir := "/"
		if name == "os" {
			dir = t.TempDir()
		}
		for i, off := range []int64{0, 57, aroundAlign, aroundBytes - 1, aroundBytes} {
			f, err := fsys.Create(filepath.Join(dir, string(rune('a'+i))))
			if err != nil {
				t.Fatal(err)
			}
			want := make([]byte, 3*aroundBytes+rng.IntN(aroundBytes))
			_, _ = noise.Read(want) // it never fails
			w := NewAround(f, off)
			for rest := want; len(rest) > 0; {
				n := min(1+rng.IntN(2*aroundBytes), len(rest))
				if m, err := w.Write(rest[:n]); m != n || err != nil {
					t.Fatal(m, err)
				}
				rest = rest[n:]
			}
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(want))
			if _, err := f.ReadAt(got, off); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s from %d: other bytes, %v", name, off, err)
			}
			if size, err := f.Size(); err != nil || size != off+int64(len(want)) {
				t.Errorf("%s from %d: size %d, %v", name, off, size, err)
			}
			if o, is := f.(*osFile); is && off%aroundAlign == 0 && o.around == nil {
				t.Errorf("%s from %d: went through the page cache", name, off)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestAroundFull says how much of a stream there was room for.
func TestAroundFull(t *testing.T) {
	m := NewMem()
	m.SetCapacity(aroundBytes + 10)
	f, err := m.Create("/a")
	if err != nil {
		t.Fatal(err)
	}
	w := NewAround(f, 0)
	if n, err := w.Write(make([]byte, 2*aroundBytes)); n < aroundBytes || n == 2*aroundBytes || !errors.Is(err, tidegate.ErrFull) {
		t.Errorf("full: %d, %v", n, err)
	}
}
