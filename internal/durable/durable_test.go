package durable_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
)

func read(fsys vfs.FS, name string) (string, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(f)
	return string(b), errors.Join(err, f.Close())
}

// TestCrashAtEveryOp stops the machine before each operation of two writes in a
// directory that is made first: what was acknowledged is there after the power
// cut, and what is there is one of the versions, whole.
func TestCrashAtEveryOp(t *testing.T) {
	const path = "/data/deep/promise.json"
	for n := int64(0); ; n++ {
		mem := vfs.NewMem()
		fault := vfs.CrashAt(n)
		acked := ""
		scenario := func(fsys vfs.FS) error {
			if err := durable.MkdirAll(fsys, "/data/deep"); err != nil {
				return err
			}
			for _, version := range []string{"first", "second version"} {
				if err := durable.WriteFile(fsys, path, []byte(version)); err != nil {
					return err
				}
				acked = version
			}
			return nil
		}
		err := scenario(vfs.Inject(mem, fault.Inject))
		if fault.Fired() != errors.Is(err, vfs.ErrCrashed) {
			t.Fatalf("op %d %+v: fired %v, error %v", n, fault.Op(), fault.Fired(), err)
		}
		for seed := range int64(20) {
			clone := mem.CrashClone(seed)
			got, err := read(clone, path)
			whole := got == "first" || got == "second version"
			switch {
			case errors.Is(err, tidegate.ErrNotFound) && acked == "":
			case err != nil:
				t.Fatalf("op %d seed %d: %q was acknowledged: %v", n, seed, acked, err)
			case !whole || acked == "second version" && got != acked:
				t.Fatalf("op %d seed %d: got %q, acknowledged %q", n, seed, got, acked)
			}
			checkSweep(t, clone)
		}
		if !fault.Fired() {
			t.Logf("%d operations", n)
			return
		}
	}
}

func checkSweep(t *testing.T, fsys vfs.FS) {
	t.Helper()
	err := durable.SweepTemp(fsys, "/data/deep")
	if errors.Is(err, tidegate.ErrNotFound) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	names, err := fsys.List("/data/deep")
	if err != nil || len(names) > 1 {
		t.Fatalf("names after the sweep: %v, %v", names, err)
	}
}

// TestFaultAtEveryOp fails one operation and goes on: the error surfaces, the
// old or the new bytes are there, and a full disk is left as it was.
func TestFaultAtEveryOp(t *testing.T) {
	for _, cause := range []error{vfs.ErrIO, vfs.Partial(vfs.ErrNoSpace)} {
		for n := int64(0); ; n++ {
			mem := vfs.NewMem()
			if err := durable.WriteFile(mem, "/f", []byte("old")); err != nil {
				t.Fatal(err)
			}
			fault := vfs.OnIndex(n, cause)
			err := durable.WriteFile(vfs.Inject(mem, fault.Inject), "/f", []byte("new bytes"))
			if !fault.Fired() {
				break
			}
			if !errors.Is(err, errors.Unwrap(cause)) && !errors.Is(err, cause) {
				t.Fatalf("op %d %+v: error %v does not tell the cause", n, fault.Op(), err)
			}
			got, err := read(mem, "/f")
			if err != nil || got != "old" && got != "new bytes" {
				t.Fatalf("op %d: got %q, %v", n, got, err)
			}
			if names, _ := mem.List("/"); len(names) != 1 {
				t.Errorf("op %d %+v left %v", n, fault.Op(), names)
			}
		}
	}
}

func TestMkdirAllSyncsWhatAKilledProcessMade(t *testing.T) {
	mem := vfs.NewMem()
	if err := mem.MkdirAll("/a"); err != nil { // made, and killed before the sync
		t.Fatal(err)
	}
	if err := durable.MkdirAll(mem, "/a/b/c"); err != nil {
		t.Fatal(err)
	}
	if _, err := mem.CrashClone(vfs.CrashLoseAll).Stat("/a/b/c"); err != nil {
		t.Errorf("after a power cut: %v", err)
	}
}

func TestRemoveTree(t *testing.T) {
	fsys := vfs.NewMem()
	if err := errors.Join(durable.RemoveTree(fsys, "/a"), durable.MkdirAll(fsys, "/a/b/c"), durable.WriteFile(fsys, "/a/b/x", []byte("x")), durable.WriteFile(fsys, "/a/y", nil), durable.RemoveTree(fsys, "/a/b")); err != nil {
		t.Fatal(err)
	}
	if names, err := fsys.List("/a"); err != nil || len(names) != 1 || names[0] != "y" {
		t.Errorf("left %q, %v", names, err)
	}
}

// TestRemoveTreeFollowsNoLink: what a link leads to stays, and one that leads nowhere is
// removed too.
func TestRemoveTreeFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	err := errors.Join(
		os.MkdirAll(at("live/deep"), 0o700), os.WriteFile(at("live/deep/data"), nil, 0o600), os.MkdirAll(at("tree/sub"), 0o700), os.WriteFile(at("tree/sub/x"), nil, 0o600),
		os.Symlink(at("live"), at("tree/sub/link")), os.Symlink(at("nowhere"), at("tree/dangling")), os.Symlink(at("live"), at("link")), os.Symlink(at("nowhere"), at("dangling")),
	)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tree", "link", "dangling", "tree"} {
		if err := durable.RemoveTree(vfs.OS(), at(name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left %v, %v", left, err)
	}
	if _, err := os.Stat(at("live/deep/data")); err != nil {
		t.Errorf("behind a link: %v", err)
	}
}
