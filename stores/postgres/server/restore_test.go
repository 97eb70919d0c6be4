package server

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
)

// smallBase is what every base has, and what is left out or mapped.
func smallBase(t *testing.T) map[string]string {
	t.Helper()
	control, err := os.ReadFile("testdata/control-15.bin")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		versionFile: "15\n", controlFile: string(control), backupLabel: "START WAL LOCATION: 0/2000028\n",
		"base/5/1259": strings.Repeat("page", 5000), autoConfigFile: "synchronous_standby_names = 'x'\n",
		"pg_tblspc/16384/PG_15_202209061/5/16385": "row", tablespaceMap: "16384 /nowhere\n",
		pidFile: "1\n", recoverySignal: "", "pg_wal/000000010000000000000002": "log", "pg_wal/00000002.history": "1\t0/3000000\tx\n",
		"pg_replslot/theirs/state": "slot",
	}
}

func memServer(t *testing.T, fsys vfs.FS) *Server {
	t.Helper()
	s, err := New(fsys, clock.NewFake(clock.System().Wall()), slog.New(slog.DiscardHandler),
		Config{Home: "/home/pg", BinDir: "/bin", Upstream: Upstream{SocketDir: "/run"}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func restoreSmall(ctx context.Context, s *Server, base map[string]string) (err error) {
	r, err := s.Restore(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Abort()) }()
	for name, text := range base {
		w, err := r.Create(ctx, snapshot.File{Path: name, Kind: snapshot.KindFile, Size: int64(len(text))})
		if err != nil {
			return err
		}
		if _, err := w.Write([]byte(text)); err != nil {
			return errors.Join(err, w.Close())
		}
		if err := w.Close(); err != nil {
			return err
		}
	}
	if err := r.Add(snapshot.File{Path: "pg_tblspc/16384", Kind: snapshot.KindLink, Link: "/nowhere"}); err != nil {
		return err
	}
	return r.Finish(ctx)
}

// checkSmall looks at a restored small base.
func checkSmall(t *testing.T, s *Server, base map[string]string) {
	t.Helper()
	want := map[string]string{
		s.inData("base/5/1259"): base["base/5/1259"], s.inData("pg_wal/00000002.history"): base["pg_wal/00000002.history"],
		s.inData(tablespaceMap): "16384 /home/pg/cluster/tablespaces/16384\n", s.inData(standbySignal): "", s.inData(controlFile): base[controlFile],
		"/home/pg/cluster/tablespaces/16384/PG_15_202209061/5/16385": "row",
	}
	for path, text := range want {
		got, err := readFile(s.fsys, path)
		if err != nil || got == nil || string(got) != text {
			t.Errorf("%s: %d bytes, %v; want %d", path, len(got), err, len(text))
		}
	}
	for _, name := range []string{pidFile, recoverySignal, "pg_wal/000000010000000000000002", "pg_replslot/theirs"} {
		if have, err := s.exists(s.inData(name)); err != nil || have {
			t.Errorf("%s: is there: %v, %v", name, have, err)
		}
	}
	auto, err := readFile(s.fsys, s.inData(autoConfigFile))
	if err != nil || !strings.Contains(string(auto), "\nsynchronous_standby_names = ''\n") {
		t.Errorf("%s: %v\n%s", autoConfigFile, err, auto)
	}
}

// TestRestoreCrashesAtEveryOp stops the machine before each operation: a server's
// data is there whole or not at all, and the next restore goes through.
func TestRestoreCrashesAtEveryOp(t *testing.T) {
	base := smallBase(t)
	step := int64(1)
	if testing.Short() {
		step = 7
	}
	for n := int64(0); ; n += step {
		mem := vfs.NewMem()
		fault := vfs.CrashAt(n)
		err := restoreSmall(t.Context(), memServer(t, vfs.Inject(mem, fault.Inject)), base)
		if !fault.Fired() {
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d operations", n)
			return
		}
		clone := mem.CrashClone(n)
		s := memServer(t, clone)
		p, ok, err2 := s.Restored()
		switch {
		case err2 != nil:
			t.Fatalf("op %d: %v", n, err2)
		case ok && p != Follow:
			t.Fatalf("op %d %+v: what is there would serve", n, fault.Op())
		case !ok && err == nil:
			t.Fatalf("op %d %+v: was acknowledged, and is not there", n, fault.Op())
		case !ok:
			if err := restoreSmall(t.Context(), s, base); err != nil {
				t.Fatalf("op %d %+v: the next restore: %v", n, fault.Op(), err)
			}
		}
		checkSmall(t, s, base)
		if t.Failed() {
			t.Fatalf("op %d %+v", n, fault.Op())
		}
	}
}

// TestRestoreSurfacesEveryFault fails one operation and goes on.
func TestRestoreSurfacesEveryFault(t *testing.T) {
	base := smallBase(t)
	for n := int64(0); ; n++ {
		mem := vfs.NewMem()
		fault := vfs.OnIndex(n, vfs.ErrNoSpace)
		s := memServer(t, vfs.Inject(mem, fault.Inject))
		err := restoreSmall(t.Context(), s, base)
		if !fault.Fired() {
			return
		}
		if _, ok, err2 := s.Restored(); err2 != nil || ok && err != nil && fault.Op().Kind != vfs.OpSyncDir {
			t.Fatalf("op %d %+v: restored %v, %v after %v", n, fault.Op(), ok, err2, err)
		}
		if err == nil {
			t.Fatalf("op %d %+v: the fault is not told", n, fault.Op())
		}
	}
}

func TestRestoreRefuses(t *testing.T) {
	without := func(name string) func(map[string]string) { return func(b map[string]string) { delete(b, name) } }
	for name, test := range map[string]struct {
		change func(map[string]string)
		want   string
	}{
		"no label":      {without(backupLabel), "no backup_label"},
		"no control":    {without(controlFile), "no global/pg_control"},
		"no version":    {without(versionFile), "no PG_VERSION"},
		"torn control":  {func(b map[string]string) { b[controlFile] = b[controlFile][:100] + "x" + b[controlFile][101:] }, "checksum"},
		"outside":       {func(b map[string]string) { b["../x"] = "" }, "within the base"},
		"absolute":      {func(b map[string]string) { b["/etc/x"] = "" }, "within the base"},
		"not clean":     {func(b map[string]string) { b["base//x"] = "" }, "within the base"},
		"no tablespace": {func(b map[string]string) { b["pg_tblspc/x/y"] = "" }, "number of a tablespace"},
	} {
		t.Run(name, func(t *testing.T) {
			base := smallBase(t)
			test.change(base)
			s := memServer(t, vfs.NewMem())
			if err := restoreSmall(t.Context(), s, base); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if _, ok, err := s.Restored(); ok || err != nil {
				t.Errorf("restored %v, %v", ok, err)
			}
			if err := restoreSmall(t.Context(), s, smallBase(t)); err != nil {
				t.Errorf("a good one after it: %v", err)
			}
		})
	}
	t.Run("size", func(t *testing.T) {
		s := memServer(t, vfs.NewMem())
		r, err := s.Restore(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Abort() //nolint:errcheck // it is the end of the test
		w, err := r.Create(t.Context(), snapshot.File{Path: "x", Kind: snapshot.KindFile, Size: 2})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); tidegate.ClassOf(err) != tidegate.Permanent {
			t.Errorf("a short file: %v", err)
		}
	})
}
