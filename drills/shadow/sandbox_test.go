package shadow

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
)

// inScratch makes a scratch directory, with something live beside it.
func inScratch(t *testing.T) (s *scratch, live string) {
	t.Helper()
	dir := t.TempDir()
	live = filepath.Join(dir, "live")
	write(t, filepath.Join(live, "data"), "")
	s, err := openScratch(vfs.OS(), clock.System(), filepath.Join(dir, "scratch"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.close() // nobody waits for it
		if _, err := os.Stat(filepath.Join(live, "data")); err != nil {
			t.Errorf("live data: %v", err)
		}
	})
	return s, live
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// TestLeftOversAreADrills: what does not say itself that a drill has made it is refused
// and named, and stays.
func TestLeftOversAreADrills(t *testing.T) {
	const name = sandboxPrefix + "0badcafe"
	link := func(t *testing.T, to, from string) {
		t.Helper()
		if err := os.Symlink(to, from); err != nil {
			t.Fatal(err)
		}
	}
	for what, tc := range map[string]struct {
		plant   func(t *testing.T, at, live string)
		refused string // empty: it is cleaned
	}{
		"a link":          {func(t *testing.T, at, live string) { link(t, live, at) }, "no directory"},
		"a dangling link": {func(t *testing.T, at, _ string) { link(t, "/nowhere", at) }, "no directory"},
		"a file":          {func(t *testing.T, at, _ string) { write(t, at, "") }, "no directory"},
		"nobody's":        {func(t *testing.T, at, _ string) { write(t, filepath.Join(at, "x"), "") }, ownerFile},
		"another's":       {func(t *testing.T, at, _ string) { write(t, filepath.Join(at, ownerFile), `{"mark":"00000001"}`) }, "00000001"},
		"no owner":        {func(t *testing.T, at, _ string) { write(t, filepath.Join(at, ownerFile), "?") }, ownerFile},
		"a linked owner": {func(t *testing.T, at, live string) {
			write(t, filepath.Join(at, "x"), "")
			link(t, live, filepath.Join(at, ownerFile))
		}, "no file"},
		"just begun": {func(t *testing.T, at, _ string) { write(t, filepath.Join(at, ownerFile+".1.tmp"), `{"ma`) }, ""},
		"nothing in it": {func(t *testing.T, at, _ string) {
			if err := os.MkdirAll(at, 0o700); err != nil {
				t.Fatal(err)
			}
		}, ""},
		"links in it": {func(t *testing.T, at, live string) {
			write(t, filepath.Join(at, ownerFile), `{"mark":"0badcafe"}`)
			write(t, filepath.Join(at, "home", "x"), "")
			link(t, live, filepath.Join(at, "home", "live"))
			link(t, "/nowhere", filepath.Join(at, "home", "cache"))
		}, ""},
	} {
		t.Run(what, func(t *testing.T) {
			s, live := inScratch(t)
			at := filepath.Join(s.dir, name)
			tc.plant(t, at, live)
			found, err := s.leftOvers()
			_, there := os.Lstat(at)
			if tc.refused == "" {
				if err != nil || len(found) != 1 || there == nil {
					t.Errorf("%v, %v, there %v", found, err, there == nil)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.refused) || !strings.Contains(err.Error(), name) || there != nil {
				t.Errorf("%v, there %v", err, there == nil)
			}
		})
	}
}

// TestOwnerGoesLast: a sandbox of which a part could not be removed is still known as one.
func TestOwnerGoesLast(t *testing.T) {
	s, _ := inScratch(t)
	box, err := s.make(&Config{Service: "bank"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	s.fs = failing{s.fs, "remove", box.run()}
	if _, err := box.tearDown(); !errors.Is(err, errTest) {
		t.Fatalf("torn down: %v", err)
	}
	s.fs = vfs.OS()
	if found, err := s.leftOvers(); err != nil || len(found) != 1 {
		t.Errorf("%v, %v", found, err)
	}
}

var errTest = errors.New("test")

// failing fails one operation on one path.
type failing struct {
	vfs.FS
	op, path string
}

func (f failing) Remove(name string) error {
	if f.op == "remove" && name == f.path {
		return errTest
	}
	return f.FS.Remove(name)
}

func (f failing) MkdirAll(name string) error {
	if f.op == "make" && filepath.Base(name) == f.path {
		return errTest
	}
	return f.FS.MkdirAll(name)
}

// TestHalfMadeSandbox: one that could not be made whole is removed too.
func TestHalfMadeSandbox(t *testing.T) {
	s, _ := inScratch(t)
	src := &site{blind: new(time.Duration)}
	src.cfg = Config{Service: "bank", Scratch: s.dir}.SetDefaults()
	src.cfg.Live = nil
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	d := New(failing{vfs.OS(), "make", "run"}, clock.System(), src, src.cfg, Options{Limit: time.Minute})
	d.pause = 0
	res := d.Run(t.Context())
	if left, err := os.ReadDir(s.dir); err != nil || len(left) != 1 || !strings.Contains(strings.Join(res.refused, " "), errTest.Error()) {
		t.Errorf("left %v, %v; refused %v", left, err, res.refused)
	}
}

// TestAddressesAreDrawnLate: an address that is drawn minutes before it is used may be
// somebody else's by then.
func TestAddressesAreDrawnLate(t *testing.T) {
	s, _ := inScratch(t)
	cfg := Config{Service: "bank", Program: Program{Follow: []string{"/bin/true", "{address:http}"}}}
	box, err := s.make(&cfg, time.Now())
	if err != nil || box.Fill("{address:http}") != "" {
		t.Fatalf("drawn already: %v, %v", box.values, err)
	}
	p, err := box.start(&cfg.Program, cfg.addresses())
	if err != nil || !box.Given(p.cmd.Args[1]) || !box.Given(box.run()+"/.s.PGSQL.5432") || box.Given(box.run()+"/../../live.sock") {
		t.Fatalf("%v, %v", box.values, err)
	}
	<-p.ended
	p.stop()
}

// TestScratchIsGivenBack: also where a process that is being started has the file still.
func TestScratchIsGivenBack(t *testing.T) {
	s, _ := inScratch(t)
	other, err := syscall.Dup(int(s.lock.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Close(other) }() // only held
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	again, err := openScratch(vfs.OS(), clock.System(), s.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.close(); err != nil {
		t.Error(err)
	}
}

// TestOrphansOfAServer: what a postmaster that was killed leaves behind has no mark, and
// is ended; somebody who looks around in the sandbox is not.
func TestOrphansOfAServer(t *testing.T) {
	s, _ := inScratch(t)
	box, err := s.make(&Config{Service: "bank"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	orphan := filepath.Join(t.TempDir(), serverProgram)
	if err := os.WriteFile(orphan, text, 0o700); err != nil { //nolint:gosec // it is to be executed
		t.Fatal(err)
	}
	begin := func(name, at string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), name, "60")
		cmd.Dir, cmd.Env = at, []string{"A=b"}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	left, visitor, elsewhere := begin(orphan, box.data()), begin(sleep, box.data()), begin(orphan, s.dir)
	ended := make(chan error, 1)
	go func() { ended <- left.Wait() }() // owned by the test, which waits for it: ends with the process
	found, err := box.tearDown()
	if err != nil || len(found) != 1 || !strings.HasPrefix(found[0].Where, fmt.Sprintf("pid %d ", left.Process.Pid)) {
		t.Errorf("found %+v, %v", found, err)
	}
	if err := <-ended; err == nil {
		t.Error("it has ended by itself")
	}
	for _, cmd := range []*exec.Cmd{visitor, elsewhere} {
		if err := cmd.Process.Signal(syscall.SIGTERM); cmd.Wait() == nil || err != nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
			t.Errorf("%s: %v, %v", cmd.Path, cmd.ProcessState, err)
		}
	}
}
