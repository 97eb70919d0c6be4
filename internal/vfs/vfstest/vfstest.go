package vfstest

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
)

// Run checks a file system. open returns a fresh one and an empty directory in it.
func Run(t *testing.T, open func(t *testing.T) (fsys vfs.FS, dir string)) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, vfs.FS, string){
		"create is exclusive":            createIsExclusive,
		"read and write":                 readAndWrite,
		"write past the end":             writePastTheEnd,
		"names":                          names,
		"rename replaces":                renameReplaces,
		"removed file stays open":        removedFileStaysOpen,
		"lock is exclusive":              lockIsExclusive,
		"directories make and sync":      directories,
		"closed and read-only files say": closedAndReadOnly,
	} {
		t.Run(name, func(t *testing.T) {
			fsys, dir := open(t)
			test(t, fsys, dir)
		})
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantIs(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("got error %v, want %v", got, want)
	}
}

func create(t *testing.T, fsys vfs.FS, name, text string) vfs.File {
	t.Helper()
	f, err := fsys.Create(name)
	check(t, err)
	_, err = f.Write([]byte(text))
	check(t, err)
	return f
}

func createIsExclusive(t *testing.T, fsys vfs.FS, dir string) {
	name := filepath.Join(dir, "f")
	check(t, create(t, fsys, name, "").Close())
	_, err := fsys.Create(name)
	wantIs(t, err, tidegate.ErrConflict)
	_, err = fsys.Open(filepath.Join(dir, "none"))
	wantIs(t, err, tidegate.ErrNotFound)
	_, err = fsys.OpenReadWrite(filepath.Join(dir, "none"))
	wantIs(t, err, tidegate.ErrNotFound)
}

func readAndWrite(t *testing.T, fsys vfs.FS, dir string) {
	name := filepath.Join(dir, "f")
	f := create(t, fsys, name, "hello, world")
	_, err := f.WriteAt([]byte("W"), 7)
	check(t, err)
	_, err = f.Write([]byte("!"))
	check(t, err)
	check(t, f.Sync())
	size, err := f.Size()
	check(t, err)
	if size != 13 || f.Name() != name {
		t.Errorf("size %d, name %s", size, f.Name())
	}
	check(t, f.Close())
	r, err := fsys.Open(name)
	check(t, err)
	got, err := io.ReadAll(r)
	check(t, err)
	if string(got) != "hello, World!" {
		t.Errorf("got %q", got)
	}
	b := make([]byte, 20)
	if n, err := r.ReadAt(b, 7); n != 6 || !errors.Is(err, io.EOF) {
		t.Errorf("read at the end: %d, %v, want 6 and end of file", n, err)
	}
	check(t, r.Close())
}

func writePastTheEnd(t *testing.T, fsys vfs.FS, dir string) {
	f := create(t, fsys, filepath.Join(dir, "f"), "abcdef")
	check(t, f.Truncate(2))
	_, err := f.WriteAt([]byte("z"), 5)
	check(t, err)
	got := make([]byte, 6)
	_, err = f.ReadAt(got, 0)
	check(t, err)
	if want := []byte("ab\x00\x00\x00z"); !bytes.Equal(got, want) {
		t.Errorf("got %q, want %q: a cut file's old bytes must not come back", got, want)
	}
	check(t, f.Close())
}

func names(t *testing.T, fsys vfs.FS, dir string) {
	for _, n := range []string{"b", "a", "c"} {
		check(t, create(t, fsys, filepath.Join(dir, n), n+n).Close())
	}
	check(t, fsys.Remove(filepath.Join(dir, "b")))
	got, err := fsys.List(dir)
	check(t, err)
	if want := []string{"a", "c"}; !slices.Equal(got, want) {
		t.Errorf("got names %v, want %v", got, want)
	}
	info, err := fsys.Stat(filepath.Join(dir, "a"))
	check(t, err)
	if info.Size != 2 || info.Dir || info.ModTime.IsZero() {
		t.Errorf("stat of a file: %+v", info)
	}
	wantIs(t, fsys.Remove(filepath.Join(dir, "b")), tidegate.ErrNotFound)
	_, err = fsys.List(filepath.Join(dir, "none"))
	wantIs(t, err, tidegate.ErrNotFound)
	free, total, err := fsys.Free(dir)
	check(t, err)
	if free == 0 || free > total {
		t.Errorf("free %d of %d bytes", free, total)
	}
}

func renameReplaces(t *testing.T, fsys vfs.FS, dir string) {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	check(t, create(t, fsys, a, "new").Close())
	check(t, create(t, fsys, b, "older").Close())
	check(t, fsys.Rename(a, b))
	_, err := fsys.Stat(a)
	wantIs(t, err, tidegate.ErrNotFound)
	info, err := fsys.Stat(b)
	check(t, err)
	if info.Size != 3 {
		t.Errorf("size %d after the rename, want 3", info.Size)
	}
	wantIs(t, fsys.Rename(a, b), tidegate.ErrNotFound)
}

func removedFileStaysOpen(t *testing.T, fsys vfs.FS, dir string) {
	name := filepath.Join(dir, "f")
	f := create(t, fsys, name, "still here")
	check(t, fsys.Remove(name))
	b := make([]byte, 10)
	_, err := f.ReadAt(b, 0)
	check(t, err)
	check(t, f.Sync())
	check(t, f.Close())
}

func lockIsExclusive(t *testing.T, fsys vfs.FS, dir string) {
	name := filepath.Join(dir, "lock")
	l, err := fsys.Lock(name)
	check(t, err)
	_, err = fsys.Lock(name)
	wantIs(t, err, tidegate.ErrConflict)
	check(t, l.Close())
	l, err = fsys.Lock(name)
	check(t, err)
	check(t, l.Close())
}

func directories(t *testing.T, fsys vfs.FS, dir string) {
	deep := filepath.Join(dir, "x", "y", "z")
	check(t, fsys.MkdirAll(deep))
	check(t, fsys.MkdirAll(deep))
	info, err := fsys.Stat(deep)
	check(t, err)
	if !info.Dir || info.Size != 0 {
		t.Errorf("stat of a directory: %+v", info)
	}
	check(t, fsys.SyncDir(filepath.Dir(deep)))
	if err := fsys.Remove(filepath.Dir(deep)); err == nil {
		t.Error("removed a directory that is not empty")
	}
	check(t, create(t, fsys, filepath.Join(deep, "f"), "1").Close())
	check(t, fsys.Rename(filepath.Join(dir, "x", "y"), filepath.Join(dir, "moved")))
	info, err = fsys.Stat(filepath.Join(dir, "moved", "z", "f"))
	check(t, err)
	if info.Size != 1 {
		t.Errorf("file in a moved directory: %+v", info)
	}
}

func closedAndReadOnly(t *testing.T, fsys vfs.FS, dir string) {
	name := filepath.Join(dir, "f")
	check(t, create(t, fsys, name, "1").Close())
	r, err := fsys.Open(name)
	check(t, err)
	if _, err := r.Write([]byte("2")); err == nil {
		t.Error("wrote to a file opened for reading")
	}
	check(t, r.Close())
	if _, err := r.Read(make([]byte, 1)); err == nil {
		t.Error("read from a closed file")
	}
	if err := r.Sync(); err == nil {
		t.Error("synced a closed file")
	}
}
