package dir_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/buckettest"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/internal/vfs"
)

func TestConformance(t *testing.T) {
	for name, fresh := range map[string]func(t *testing.T) (vfs.FS, string){
		"os": func(t *testing.T) (vfs.FS, string) { return vfs.OS(), t.TempDir() },
		"mem": func(t *testing.T) (vfs.FS, string) {
			mem := vfs.NewMem()
			if err := mem.MkdirAll("/archive"); err != nil {
				t.Fatal(err)
			}
			return mem, "/archive"
		},
	} {
		t.Run(name, func(t *testing.T) {
			buckettest.Run(t, func(t *testing.T) buckettest.Place {
				fsys, root := fresh(t)
				return buckettest.Place{
					Open:  func(*testing.T) bucket.Bucket { return dir.New(fsys, root) },
					Large: 1<<20 + 17,
					Page:  10,
				}
			})
		})
	}
}

// scenario puts and replaces, and notes what was acknowledged.
func scenario(t *testing.T, fsys vfs.FS, acked map[string]string) (trying map[string]string, err error) {
	b := dir.New(fsys, "/archive")
	for _, step := range []struct {
		name, text string
		o          bucket.PutOptions
	}{
		{"a/b/one", "first", bucket.PutOptions{IfAbsent: true}},
		{"a/b/two", strings.Repeat("two ", 1000), bucket.PutOptions{}},
		{"a/b/one", "replaced", bucket.PutOptions{}},
		{"c", "", bucket.PutOptions{}},
	} {
		if _, err := b.Put(t.Context(), step.name, strings.NewReader(step.text), step.o); err != nil {
			return map[string]string{step.name: step.text}, err
		}
		acked[step.name] = step.text
	}
	if err := b.Remove(t.Context(), "a/b/two"); err != nil {
		return map[string]string{"a/b/two": "-"}, err
	}
	delete(acked, "a/b/two")
	return nil, nil
}

// Whatever was acknowledged is there after a power cut at any operation, and nothing
// is there in part; the bucket goes on, without what was being written.
func TestPowerCutAtEveryOperation(t *testing.T) {
	for n := int64(0); ; n++ {
		mem := vfs.NewMem()
		if err := errors.Join(mem.MkdirAll("/archive"), mem.SyncDir("/")); err != nil {
			t.Fatal(err)
		}
		fault := vfs.CrashAt(n)
		acked := map[string]string{}
		trying, err := scenario(t, vfs.Inject(mem, fault.Inject), acked)
		for seed := range int64(4) {
			afterCut(t, fmt.Sprintf("cut at %d, seed %d", n, seed), mem.CrashClone(seed), acked, trying)
		}
		if !fault.Fired() {
			if err != nil {
				t.Fatal(err)
			}
			return
		}
		if err == nil {
			continue // it fired behind the scenario
		}
	}
}

func afterCut(t *testing.T, when string, fsys vfs.FS, acked, trying map[string]string) {
	t.Helper()
	b := dir.New(fsys, "/archive")
	seen := map[string]string{}
	for o, err := range b.List(t.Context(), "", "") {
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		data, _, err := bucket.ReadAll(t.Context(), b, o.Name, 1<<20)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		seen[o.Name] = string(data)
	}
	for name, want := range acked {
		got, there := seen[name]
		next, open := trying[name]
		if got != want && !(open && (got == next || !there && next == "-")) {
			t.Errorf("%s: %s is %.20q, %v; acknowledged was %.20q", when, name, got, there, want)
		}
	}
	for name, got := range seen {
		if _, was := acked[name]; !was && trying[name] != got {
			t.Errorf("%s: %s is %.20q, which nobody has put", when, name, got)
		}
	}
	if _, err := b.Put(t.Context(), "next", strings.NewReader("x"), bucket.PutOptions{IfAbsent: true}); err != nil {
		t.Errorf("%s: %v", when, err)
	}
	if left, err := fsys.List("/archive/.tidegate/tmp"); err != nil || len(left) != 0 {
		t.Errorf("%s: left over: %q, %v", when, left, err)
	}
}

// Who is told that an object is there already can rely on it, even if the directory could
// not be synced when it got its name.
func TestConflictIsToldOfWhatIsDurable(t *testing.T) {
	mem := vfs.NewMem()
	if err := errors.Join(mem.MkdirAll("/archive/a"), mem.SyncDir("/"), mem.SyncDir("/archive")); err != nil {
		t.Fatal(err)
	}
	var fails atomic.Bool
	b := dir.New(vfs.Inject(mem, vfs.PathMatch("a", vfs.KindIs(vfs.OpSyncDir, func(vfs.Op) error {
		if fails.Load() {
			return syscall.EIO
		}
		return nil
	}))), "/archive")
	put := func(name string) error {
		_, err := b.Put(t.Context(), name, strings.NewReader("text"), bucket.PutOptions{IfAbsent: true})
		return err
	}
	if err := put("a/before"); err != nil {
		t.Fatal(err)
	}
	fails.Store(true)
	for range 2 { // and again, when it has its name
		if err := put("a/one"); !errors.Is(err, syscall.EIO) {
			t.Errorf("put, and the directory was not synced: %v", err)
		}
	}
	fails.Store(false)
	if err := put("a/one"); !errors.Is(err, tidegate.ErrConflict) {
		t.Fatalf("put again: %v", err)
	}
	for seed := range int64(16) {
		after := dir.New(mem.CrashClone(seed), "/archive")
		if got, _, err := bucket.ReadAll(t.Context(), after, "a/one", 100); err != nil || string(got) != "text" {
			t.Fatalf("after a power cut, seed %d: %q, %v", seed, got, err)
		}
	}
}

// Files of writers that live are not swept.
func TestSweepLeavesOthersAlone(t *testing.T) {
	root := t.TempDir()
	one, two := dir.New(vfs.OS(), root), dir.New(vfs.OS(), root)
	half, on := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	body := slowBody{Reader: bytes.NewReader(make([]byte, 3<<20)), at: func() {
		close(half)
		<-on
	}}
	go func() { // owned by this test; ends with the Put, which it waits for
		_, err := one.Put(t.Context(), "slow", &body, bucket.PutOptions{})
		done <- err
	}()
	<-half
	stale := filepath.Join(root, ".tidegate", "tmp", "stale")
	if err := os.WriteFile(stale, []byte("half an obj"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := two.Put(t.Context(), "quick", strings.NewReader("x"), bucket.PutOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a killed writer left is still there: %v", err)
	}
	close(on)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if o, err := two.Stat(t.Context(), "slow"); err != nil || o.Size != 3<<20 {
		t.Errorf("%+v, %v", o, err)
	}
}

// slowBody calls at when it is read for the second time.
type slowBody struct {
	*bytes.Reader

	at    func()
	reads int
}

func (s *slowBody) ReadAt(p []byte, off int64) (int, error) {
	if s.reads++; s.reads == 2 {
		s.at()
	}
	return s.Reader.ReadAt(p, off)
}

// racer says in the environment of a process which directory it is to write to.
const racer = "TIDEGATE_TEST_RACER"

// TestMain also is the other processes of TestProcessesRace.
func TestMain(m *testing.M) {
	root := os.Getenv(racer)
	if root == "" {
		os.Exit(m.Run())
	}
	_, err := os.Stdin.Read(make([]byte, 1)) // until all are there
	if err == nil {
		err = race(root)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// rounds is for how many objects the processes race.
const rounds = 20

func race(root string) error {
	b := dir.New(vfs.OS(), root)
	for round := range rounds {
		name := fmt.Sprintf("race/%d", round)
		_, err := b.Put(context.Background(), name, strings.NewReader(name), bucket.PutOptions{IfAbsent: true})
		switch {
		case err == nil:
			fmt.Println("won", round)
		case !errors.Is(err, tidegate.ErrConflict):
			return err
		}
	}
	return nil
}

func TestProcessesRace(t *testing.T) {
	const processes = 6
	root := t.TempDir()
	outs := make([]bytes.Buffer, processes)
	var cmds []*exec.Cmd
	var starts []io.Closer
	for i := range processes {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), racer+"="+root)
		cmd.Stdout, cmd.Stderr = &outs[i], &outs[i]
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds, starts = append(cmds, cmd), append(starts, in)
	}
	for _, in := range starts {
		if _, err := in.(io.Writer).Write([]byte{1}); err != nil {
			t.Error(err)
		}
	}
	won := map[string]int{}
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Errorf("process %d: %v: %s", i, err, outs[i].String())
		}
		for line := range strings.Lines(outs[i].String()) {
			won[line]++
		}
	}
	for line, n := range won {
		if n != 1 {
			t.Errorf("%s by %d processes", strings.TrimSpace(line), n)
		}
	}
	if len(won) != rounds {
		t.Errorf("%d of %d objects were won: %v", len(won), rounds, won)
	}
}

func TestLocksAreRefused(t *testing.T) {
	b := dir.New(vfs.OS(), t.TempDir())
	_, err := b.Put(t.Context(), "it", strings.NewReader("x"), bucket.PutOptions{RetainUntil: time.Now().Add(time.Hour)})
	if !errors.Is(err, tidegate.ErrUnsupported) || tidegate.ClassOf(err) != tidegate.Misuse || tidegate.HintOf(err) == "" {
		t.Errorf("%v", err)
	}
	if _, err := b.Stat(t.Context(), "it"); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("it was put all the same: %v", err)
	}
}

func TestFullDisk(t *testing.T) {
	mem := vfs.NewMem()
	if err := mem.MkdirAll("/archive"); err != nil {
		t.Fatal(err)
	}
	full := false
	b := dir.New(vfs.Inject(mem, func(op vfs.Op) error {
		if full && op.Kind == vfs.OpWrite {
			return vfs.ErrNoSpace
		}
		return nil
	}), "/archive")
	put := func() error {
		_, err := b.Put(t.Context(), "it", strings.NewReader("x"), bucket.PutOptions{})
		return err
	}
	if err := put(); err != nil {
		t.Fatal(err)
	}
	full = true
	if err := put(); !errors.Is(err, tidegate.ErrFull) || tidegate.HintOf(err) == "" {
		t.Errorf("%v", err)
	}
	if left, err := mem.List("/archive/.tidegate/tmp"); err != nil || len(left) != 0 {
		t.Errorf("left over: %q, %v", left, err)
	}
	full = false
	if err := put(); err != nil {
		t.Error(err)
	}
}
