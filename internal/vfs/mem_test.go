package vfs_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/internal/vfs/vfstest"
)

func TestMemConforms(t *testing.T) {
	vfstest.Run(t, func(*testing.T) (vfs.FS, string) { return vfs.NewMem(), "/" })
}

func TestOSConforms(t *testing.T) {
	vfstest.Run(t, func(t *testing.T) (vfs.FS, string) { return vfs.OS(), t.TempDir() })
}

func TestInjectConforms(t *testing.T) {
	vfstest.Run(t, func(*testing.T) (vfs.FS, string) {
		return vfs.Inject(vfs.NewMem(), func(vfs.Op) error { return nil }), "/"
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, fsys vfs.FS, name string) []byte {
	t.Helper()
	f := must(fsys.Open(name))
	b := must(io.ReadAll(f))
	check(t, f.Close())
	return b
}

func TestCrashCloneLosesWhatWasNotSynced(t *testing.T) {
	mem := vfs.NewMem()
	f := must(mem.Create("/log"))
	must(f.Write([]byte("synced ")))
	if _, err := mem.CrashClone(vfs.CrashLoseAll).Open("/log"); !errors.Is(err, tidegate.ErrNotFound) {
		t.Fatalf("file whose name was never synced: got %v, want not found", err)
	}
	check(t, f.Sync())
	check(t, mem.SyncDir("/"))
	must(f.Write([]byte("lost")))
	if got := read(t, mem.CrashClone(vfs.CrashLoseAll), "/log"); string(got) != "synced " {
		t.Errorf("after losing everything unsynced: got %q", got)
	}
	if got := read(t, mem.CrashClone(vfs.CrashKeepAll), "/log"); string(got) != "synced lost" {
		t.Errorf("after losing nothing: got %q", got)
	}
	if got := read(t, mem, "/log"); string(got) != "synced lost" {
		t.Errorf("the original after its clones: got %q", got)
	}
}

// TestCrashCloneSectors checks the contract of CrashClone against a model: each
// sector of the survivor is the durable one, the newest one, or zeros where the
// disk had none; synced bytes are always there.
func TestCrashCloneSectors(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mem := vfs.NewMem()
		f := must(mem.Create("/f"))
		must(0, mem.SyncDir("/"))
		var durable, newest []byte
		for range rapid.IntRange(1, 20).Draw(t, "ops") {
			switch rapid.IntRange(0, 5).Draw(t, "op") {
			case 0:
				must(0, f.Sync())
				durable = bytes.Clone(newest)
			case 1:
				size := rapid.IntRange(0, 4000).Draw(t, "size")
				must(0, f.Truncate(int64(size)))
				newest = append(newest[:min(size, len(newest)):min(size, len(newest))], make([]byte, max(0, size-len(newest)))...)
			default:
				off := rapid.IntRange(0, 3000).Draw(t, "off")
				b := bytes.Repeat([]byte{byte(rapid.IntRange(1, 255).Draw(t, "byte"))}, rapid.IntRange(1, 1500).Draw(t, "len"))
				must(f.WriteAt(b, int64(off)))
				if need := off + len(b) - len(newest); need > 0 {
					newest = append(newest, make([]byte, need)...)
				}
				copy(newest[off:], b)
			}
		}
		got := must(io.ReadAll(must(mem.CrashClone(rapid.Int64().Draw(t, "seed")).Open("/f"))))
		if len(got) < min(len(durable), len(newest)) || len(got) > max(len(durable), len(newest)) {
			t.Fatalf("size %d, durable %d, newest %d", len(got), len(durable), len(newest))
		}
		sector := func(b []byte, start, n int) []byte {
			out := make([]byte, n)
			if start < len(b) {
				copy(out, b[start:])
			}
			return out
		}
		for start := 0; start < len(got); start += vfs.SectorSize {
			n := min(vfs.SectorSize, len(got)-start)
			s := got[start : start+n]
			if !bytes.Equal(s, sector(durable, start, n)) && !bytes.Equal(s, sector(newest, start, n)) {
				t.Fatalf("sector at %d is neither the durable nor the newest one", start)
			}
		}
	})
}

func TestCrashCloneRenameIsWhole(t *testing.T) {
	mem := vfs.NewMem()
	for name, text := range map[string]string{"/a": "old", "/a.tmp": "new"} {
		f := must(mem.Create(name))
		must(f.Write([]byte(text)))
		check(t, f.Sync())
	}
	check(t, mem.SyncDir("/"))
	check(t, mem.Rename("/a.tmp", "/a"))
	seen := map[string]int{}
	for seed := range int64(50) {
		clone := mem.CrashClone(seed)
		seen[string(read(t, clone, "/a"))]++
	}
	if seen["old"] == 0 || seen["new"] == 0 || len(seen) != 2 {
		t.Errorf("contents over 50 crashes: %v, want old and new", seen)
	}
}

func TestCrashCloneIsReproducible(t *testing.T) {
	mem := vfs.NewMem()
	for _, name := range []string{"/x", "/y", "/z"} {
		f := must(mem.Create(name))
		must(f.Write(bytes.Repeat([]byte{1}, 5000)))
	}
	for seed := range int64(20) {
		a, b := mem.CrashClone(seed), mem.CrashClone(seed)
		names := must(a.List("/"))
		if diff := cmp.Diff(names, must(b.List("/"))); diff != "" {
			t.Fatalf("seed %d: names differ: %s", seed, diff)
		}
		for _, name := range names {
			if !bytes.Equal(read(t, a, "/"+name), read(t, b, "/"+name)) {
				t.Fatalf("seed %d: %s differs", seed, name)
			}
		}
	}
}

func TestLoseWrites(t *testing.T) {
	mem := vfs.NewMem()
	f := must(mem.Create("/f"))
	check(t, mem.SyncDir("/"))
	must(f.Write([]byte("durable ")))
	check(t, f.Sync())
	must(f.Write(bytes.Repeat([]byte("x"), 1000)))
	check(t, mem.LoseWrites("/f"))
	check(t, f.Sync())
	if got := read(t, mem, "/f"); len(got) != 1008 || got[1000] != 'x' {
		t.Errorf("read back %q: the cache must still have it", got)
	}
	got := read(t, mem.CrashClone(vfs.CrashLoseAll), "/f")
	if len(got) != 1008 || !bytes.Equal(got[:8], []byte("durable ")) || bytes.ContainsRune(got, 'x') {
		t.Errorf("after a power cut: %q", got)
	}
	must(f.WriteAt(bytes.Repeat([]byte("y"), 1000), 8))
	check(t, f.Sync())
	if got := read(t, mem.CrashClone(vfs.CrashLoseAll), "/f"); !bytes.Equal(got[8:], bytes.Repeat([]byte("y"), 1000)) {
		t.Errorf("written again and synced, after a power cut: %q", got)
	}
}

func TestReserveChangesNothing(t *testing.T) {
	for _, fsys := range []vfs.FS{vfs.OS(), vfs.NewMem()} {
		dir := "/"
		if fsys == vfs.OS() {
			dir = t.TempDir()
		}
		f := must(fsys.Create(dir + "/f"))
		must(f.Write([]byte("abc")))
		vfs.Reserve(f, 0, 1<<20)
		if size := must(f.Size()); size != 3 {
			t.Errorf("size %d after a reservation", size)
		}
		check(t, f.Close())
	}
}

func TestMemCapacity(t *testing.T) {
	mem := vfs.NewMem()
	mem.SetCapacity(1000)
	f := must(mem.Create("/f"))
	n, err := f.Write(make([]byte, 1500))
	if n != 1000 || !errors.Is(err, tidegate.ErrFull) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("write over the capacity: %d, %v", n, err)
	}
	check(t, f.Truncate(100))
	if free, total, _ := mem.Free("/"); free != 900 || total != 1000 {
		t.Errorf("free %d of %d, want 900 of 1000", free, total)
	}
	check(t, mem.Remove("/f"))
	if free, _, _ := mem.Free("/"); free != 1000 {
		t.Errorf("free %d after remove, want 1000", free)
	}
}

func TestInjectCountsAndFails(t *testing.T) {
	var ops []vfs.Op
	fault := vfs.OnIndex(1, vfs.Partial(vfs.ErrNoSpace))
	fsys := vfs.Inject(vfs.NewMem(), func(op vfs.Op) error {
		ops = append(ops, op)
		return vfs.KindIs(vfs.OpWrite, vfs.PathMatch("*.log", fault.Inject))(op)
	})
	f := must(fsys.Create("/a.log"))
	must(f.Write([]byte("12345678")))
	n, err := f.Write([]byte("12345678"))
	if n != 4 || !errors.Is(err, tidegate.ErrFull) {
		t.Errorf("second write: %d, %v, want half of it and full", n, err)
	}
	if !fault.Fired() || fault.Op().Path != "/a.log" {
		t.Errorf("fault: fired %v at %+v", fault.Fired(), fault.Op())
	}
	if size := must(f.Size()); size != 12 {
		t.Errorf("size %d, want 12", size)
	}
	for i, op := range ops {
		if op.Index != int64(i) {
			t.Errorf("operation %d has index %d", i, op.Index)
		}
	}
}

func TestCrashAtStopsEverything(t *testing.T) {
	fault := vfs.CrashAt(1)
	fsys := vfs.Inject(vfs.NewMem(), fault.Inject)
	must(fsys.Create("/a"))
	for range 3 {
		if _, err := fsys.Create("/b"); !errors.Is(err, vfs.ErrCrashed) {
			t.Fatalf("after the crash: %v", err)
		}
	}
}

func TestErrorsKeepTheirConditions(t *testing.T) {
	_, err := vfs.OS().Open(t.TempDir() + "/none")
	if !errors.Is(err, tidegate.ErrNotFound) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open of nothing: %v", err)
	}
	if !errors.Is(vfs.ErrNoSpace, tidegate.ErrFull) || tidegate.ClassOf(vfs.ErrNoSpace) != tidegate.Transient {
		t.Errorf("no space: %v is %s", vfs.ErrNoSpace, tidegate.ClassOf(vfs.ErrNoSpace))
	}
}
