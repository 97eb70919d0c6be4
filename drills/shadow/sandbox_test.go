package shadow

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
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
	s, err := openScratch(vfs.OS(), filepath.Join(dir, "scratch"))
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

// TestAsksTheCloneOnly: neither a redirect nor an address of somebody else's is followed.
func TestAsksTheCloneOnly(t *testing.T) {
	hits := 0
	live := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { hits++ }))
	defer live.Close()
	clone := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, live.URL, http.StatusTemporaryRedirect)
	}))
	defer clone.Close()
	b := &sandbox{values: map[string]string{"{address:http}": strings.TrimPrefix(clone.URL, "http://"), "{data}": strings.TrimPrefix(live.URL, "http://")}}
	k := &asker{clk: clock.System(), b: b, http: b.client()}
	defer k.http.CloseIdleConnections()
	_, err := k.ask(t.Context(), &Ask{Timeout: time.Minute, HTTP: &HTTP{Method: http.MethodPost, URL: "http://{address:http}/", Body: "canary", Status: http.StatusOK}})
	if _, is := errors.AsType[wrong](err); !is || hits > 0 {
		t.Errorf("redirected: %v, %d requests at the live service", err, hits)
	}
	res, err := k.http.Post(live.URL, "text/plain", strings.NewReader("canary"))
	if err == nil {
		_ = res.Body.Close() // it must not be there: said below
	}
	if err == nil || hits > 0 || !strings.Contains(err.Error(), "no address of the clone's") {
		t.Errorf("dialled: %v, %d requests at the live service", err, hits)
	}
}

// TestAddressesAreDrawnLate: an address that is drawn minutes before it is used may be
// somebody else's by then.
func TestAddressesAreDrawnLate(t *testing.T) {
	s, _ := inScratch(t)
	cfg := Config{Service: "bank", Program: Program{Follow: []string{"/bin/true", "{address:http}"}}}
	box, err := s.make(&cfg, time.Now())
	if err != nil || box.fill("{address:http}") != "" {
		t.Fatalf("drawn already: %v, %v", box.values, err)
	}
	p, err := box.start(&cfg.Program, cfg.addresses())
	if err != nil || !box.given(p.cmd.Args[1]) {
		t.Fatalf("%v, %v", box.values, err)
	}
	<-p.ended
	p.stop()
}

// TestEndedGroupIsLeftAlone: the number of a process that was reaped may be anybody's.
func TestEndedGroupIsLeftAlone(t *testing.T) {
	cmd := exec.Command("/bin/true")
	cmd.SysProcAttr = sysProc()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var g group
	if err := g.wait(cmd); err != nil || g.kill(cmd, syscall.Signal(0)) {
		t.Errorf("signalled after its end, %v", err)
	}
	cmd.Process.Pid = syscall.Getpgrp() // as if its number were this test's by now
	if g.kill(cmd, syscall.Signal(0)) {
		t.Error("somebody else's group was signalled")
	}
}

// disk says how much of it is free.
type disk struct {
	vfs.FS
	free, total uint64
}

func (d disk) Free(string) (free, total uint64, err error) { return d.free, d.total, nil }

// TestRoomOfLiveData: on the file system of live data a drill leaves a tenth of it free
// and at least 1 GiB, before it begins and while it runs.
func TestRoomOfLiveData(t *testing.T) {
	dir := t.TempDir()
	for name, tc := range map[string]struct {
		lives         []string
		free, total   uint64
		begins, harms bool
	}{
		"elsewhere":           {[]string{"/proc", filepath.Join(dir, "none")}, 1 << 29, 1 << 40, true, false},
		"elsewhere, full":     {nil, 1 << 25, 1 << 40, false, false},
		"beside, room":        {[]string{"/proc", dir}, 2 << 40, 10 << 40, true, false},
		"beside, a tenth":     {[]string{dir}, 1 << 40, 10 << 40, false, false},
		"beside, less":        {[]string{dir}, 1<<40 - 1, 10 << 40, false, true},
		"beside, small":       {[]string{dir}, 1<<30 - 1, 2 << 30, false, true},
		"beside, small, room": {[]string{dir}, 3 << 29, 2 << 30, true, false},
	} {
		s := spaceOf(disk{vfs.OS(), tc.free, tc.total}, dir, tc.lives)
		if begins := s.need(1<<20) == nil; begins != tc.begins {
			t.Errorf("%s: begins %v", name, begins)
		}
		if err := s.harmed(); (err != nil) != tc.harms {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWatchesTheRoom: a clone that grows into the room of live data is called off.
func TestWatchesTheRoom(t *testing.T) {
	d := New(vfs.OS(), clock.System(), &site{blind: new(time.Duration)}, Config{}.SetDefaults(), Options{})
	d.every = time.Millisecond
	dir := t.TempDir()
	r := &run{d: d, lag: lag{harm: d.cfg.Harm}, space: spaceOf(disk{vfs.OS(), 1 << 29, 1 << 40}, dir, []string{dir})}
	ctx, call := context.WithCancelCause(t.Context())
	r.watch(ctx, call)
	if why, is := errors.AsType[harmError](context.Cause(ctx)); !is || !strings.Contains(why.Error(), "must stay free") {
		t.Errorf("%v", context.Cause(ctx))
	}
}
