package seglog_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/racetest"
	"github.com/tidegate/tidegate/internal/seglog"
	"github.com/tidegate/tidegate/internal/vfs"
)

const crashSeeds = 12

var crashConfig = seglog.Config{SegmentBytes: 1500, Quarantine: "/torn"}

// history is what a scenario did to a log, as far as it was told.
type history struct {
	all     []byte            // bytes of every append tried, in order; the log must be a prefix of one of its versions
	past    [][]byte          // versions before a cut
	durable int               // bytes for which Sync returned nil, less what was cut
	least   int               // durable, or where a cut under way would bring it
	trimmed uint64            // no record at or after this may be missing
	cuts    map[string][]byte // quarantine directory to records, of cuts that were acknowledged
}

// scenario opens a log, appends with rolls, syncs, cuts twice (inside the tail,
// and over segments), trims, and restarts in the middle.
func scenario(fsys vfs.FS, h *history) error {
	h.cuts = map[string][]byte{}
	l, _, err := seglog.Open(fsys, "/log", frames{}, crashConfig)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }() // the machine may be down already
	step := 0
	write := func(n, size int) error {
		for range n {
			rec := frame(l.End(), text(step, size+step%7*31))
			h.all = append(h.all, rec...)
			if err := l.Append(rec, l.End()+uint64(len(rec))); err != nil {
				return err
			}
			step++
		}
		return nil
	}
	sync := func() error {
		end := int(l.End())
		err := l.Sync()
		if err == nil {
			h.durable, h.least = end, end
		}
		return err
	}
	cut := func(back int) error {
		at := len(h.all)
		for range back {
			at = lastFrame(h.all[:at])
		}
		dir := fmt.Sprintf("/quarantine/%d", step)
		h.past = append(h.past, bytes.Clone(h.all))
		h.least = min(h.durable, at)
		_, err := l.CutTo(uint64(at), dir, "test")
		if err == nil {
			h.cuts[dir] = bytes.Clone(h.all[at:])
			h.all = h.all[:at]
			h.durable, h.least = at, at
		}
		return err
	}
	trim := func(at uint64) error {
		h.trimmed = at
		return l.TrimBefore(at)
	}
	restart := func() error {
		if err := l.Close(); err != nil {
			return err
		}
		again, _, err := seglog.Open(fsys, "/log", frames{}, crashConfig)
		if err != nil {
			return err
		}
		l = again
		h.durable = int(l.End())
		h.least = h.durable
		return nil
	}
	for _, do := range []func() error{
		func() error { return write(3, 200) },
		sync,
		func() error { return write(6, 300) },
		sync,
		func() error { return write(2, 100) },
		func() error { return cut(3) },
		func() error { return write(2, 400) },
		sync,
		restart,
		func() error { return write(8, 500) },
		func() error { return cut(7) },
		func() error { return write(5, 600) },
		sync,
		func() error { return trim(2500) },
		func() error { return write(4, 250) },
	} {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// lastFrame returns where the last frame of b starts.
func lastFrame(b []byte) int {
	at, last := 0, 0
	for at < len(b) {
		rec, err := frames{}.Parse(b[at:at+frameHeader], uint64(at))
		if err != nil {
			panic(err)
		}
		last = at
		at += rec.Len
	}
	return last
}

// checkCrashed opens what a crash left and holds it against the promise.
func checkCrashed(h *history, mem *vfs.Mem) error {
	l, rec, err := seglog.Open(mem, "/log", frames{}, crashConfig)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	end, first := l.End(), l.First()
	if err := l.Close(); err != nil {
		return err
	}
	if int(end) < h.least {
		return fmt.Errorf("log ends at %d, synced up to %d", end, h.least)
	}
	if first > h.trimmed {
		return fmt.Errorf("log starts at %d, trimmed before %d", first, h.trimmed)
	}
	got, err := readAll(mem, "/log", first, end)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if !isPrefix(h, got, first) {
		return fmt.Errorf("%d bytes from %d are no prefix of what was appended", len(got), first)
	}
	for dir, want := range h.cuts {
		from := uint64(0)
		for name := range mustNames(mem, dir) {
			from = name
			break
		}
		got, err := readAll(mem, dir, from, from+uint64(len(want)))
		if err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("quarantine %s holds %d bytes, want %d: %w", dir, len(got), len(want), err)
		}
	}
	if rec.TornBytes > 0 {
		if info, err := mem.Stat(rec.Quarantined); err != nil || info.Size == 0 {
			return fmt.Errorf("torn tail is not in quarantine: %+v, %w", info, err)
		}
	}
	// Opening again finds a clean log that takes appends.
	survivor := mem.CrashClone(vfs.CrashLoseAll)
	l, rec, err = seglog.Open(survivor, "/log", frames{}, crashConfig)
	if err != nil || rec.TornBytes > 0 || l.End() != end {
		return fmt.Errorf("open again: %+v: %w", rec, err)
	}
	next := frame(end, []byte("next"))
	if err := errors.Join(l.Append(next, end+uint64(len(next))), l.Sync(), l.Close()); err != nil {
		return err
	}
	if first > 0 {
		return nil
	}
	return sameAsFresh(survivor, append(got, next...))
}

// sameAsFresh compares the segments of a log that went through a crash with
// those of one that was fed the same records in peace.
func sameAsFresh(mem *vfs.Mem, recs []byte) error {
	fresh := vfs.NewMem()
	l, _, err := seglog.Open(fresh, "/log", frames{}, crashConfig)
	if err != nil {
		return err
	}
	if err := errors.Join(l.Append(recs, uint64(len(recs))), l.Close()); err != nil {
		return err
	}
	names := must(fresh.List("/log"))
	if got := must(mem.List("/log")); !slices.Equal(got, names) {
		return fmt.Errorf("files %v, a log without a crash has %v", got, names)
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".seg") && !bytes.Equal(readFile(mem, "/log/"+name), readFile(fresh, "/log/"+name)) {
			return fmt.Errorf("%s differs from that of a log without a crash", name)
		}
	}
	return nil
}

func readFile(fsys vfs.FS, path string) []byte {
	f := must(fsys.Open(path))
	b := must(io.ReadAll(f))
	must(0, f.Close())
	return b
}

func mustNames(mem *vfs.Mem, dir string) func(func(uint64) bool) {
	return func(yield func(uint64) bool) {
		for _, name := range must(mem.List(dir)) {
			var first uint64
			if n, _ := fmt.Sscanf(name, "%016x.seg", &first); n == 1 && !yield(first) {
				return
			}
		}
	}
}

func isPrefix(h *history, got []byte, first uint64) bool {
	for _, version := range append(h.past, h.all) {
		if int(first) <= len(version) && bytes.HasPrefix(version[first:], got) {
			return true
		}
	}
	return false
}

// TestCrashAtEveryOp stops the machine before each operation of the scenario.
func TestCrashAtEveryOp(t *testing.T) {
	if racetest.Apart(t) {
		return
	}
	for n := int64(0); ; n++ {
		mem := vfs.NewMem()
		fault := vfs.CrashAt(n)
		var h history
		err := scenario(vfs.Inject(mem, fault.Inject), &h)
		if fault.Fired() != (err != nil) && fault.Op().Kind != vfs.OpClose {
			t.Fatalf("op %d %+v: fired %v, error %v", n, fault.Op(), fault.Fired(), err)
		}
		for seed := range int64(crashSeeds) {
			if err := checkCrashed(&h, mem.CrashClone(seed)); err != nil {
				t.Fatalf("op %d %+v seed %d: %v", n, fault.Op(), seed, err)
			}
		}
		if !fault.Fired() {
			t.Logf("%d operations, %d crashes each", n, crashSeeds)
			return
		}
	}
}

// TestFaultAtEveryOp fails one operation and lets the rest go on: the error
// surfaces at the caller, and the machine may lose power right after.
func TestFaultAtEveryOp(t *testing.T) {
	if racetest.Apart(t) {
		return
	}
	for _, cause := range []error{vfs.ErrIO, vfs.ErrNoSpace, vfs.Partial(vfs.ErrNoSpace), vfs.Partial(vfs.ErrIO)} {
		for n := int64(0); ; n++ {
			mem := vfs.NewMem()
			fault := vfs.OnIndex(n, cause)
			var h history
			err := scenario(vfs.Inject(mem, fault.Inject), &h)
			if !fault.Fired() {
				break
			}
			if err == nil && fault.Op().Kind != vfs.OpClose {
				t.Fatalf("%v at op %d %+v did not surface", cause, n, fault.Op())
			}
			for seed := range int64(crashSeeds / 4) {
				if err := checkCrashed(&h, mem.CrashClone(seed)); err != nil {
					t.Fatalf("%v at op %d %+v seed %d: %v", cause, n, fault.Op(), seed, err)
				}
			}
		}
	}
}

// TestFailedSyncStopsTheLog fails each sync of the scenario, of file or
// directory: the log never accepts anything afterwards.
func TestFailedSyncStopsTheLog(t *testing.T) {
	for _, kind := range []vfs.OpKind{vfs.OpSync, vfs.OpSyncDir} {
		mem := vfs.NewMem()
		l := open(t, mem, crashConfig)
		check(t, l.Close())
		fault := vfs.OnIndex(0, vfs.ErrIO)
		armed := false
		fsys := vfs.Inject(mem, func(op vfs.Op) error {
			if !armed {
				return nil
			}
			return vfs.KindIs(kind, fault.Inject)(op)
		})
		l, _, err := seglog.Open(fsys, "/log", frames{}, crashConfig)
		check(t, err)
		add(t, l, 3, 700) // over a roll, so that the directory must be synced
		armed = true
		durable := l.Durable()
		if err := l.Sync(); !errors.Is(err, vfs.ErrIO) || !errors.Is(err, tidegate.ErrStopped) || tidegate.HintOf(err) == "" {
			t.Errorf("%s: first sync: %v", kind, err)
		}
		if err := l.Sync(); !errors.Is(err, tidegate.ErrStopped) {
			t.Errorf("%s: second sync: %v", kind, err)
		}
		rec := frame(l.End(), []byte("more"))
		if err := l.Append(rec, l.End()+uint64(len(rec))); !errors.Is(err, tidegate.ErrStopped) {
			t.Errorf("%s: append: %v", kind, err)
		}
		if _, err := l.CutTo(0, "/q/x", "test"); !errors.Is(err, tidegate.ErrStopped) {
			t.Errorf("%s: cut: %v", kind, err)
		}
		if err := l.TrimBefore(10); !errors.Is(err, tidegate.ErrStopped) {
			t.Errorf("%s: trim: %v", kind, err)
		}
		if l.Durable() != durable {
			t.Errorf("%s: durable went from %d to %d", kind, durable, l.Durable())
		}
		check(t, l.Close())
	}
}

// TestEveryByteIsGuarded flips a bit in each byte of a synced log, in a sealed
// segment and in the tail: opening or reading reports it, and touches nothing.
func TestEveryByteIsGuarded(t *testing.T) {
	if racetest.Apart(t) {
		return
	}
	mem := vfs.NewMem()
	cfg := seglog.Config{SegmentBytes: 13 << 10}
	l := open(t, mem, cfg)
	want := add(t, l, 100, 200) // a full segment and a half
	check(t, l.Sync())
	check(t, l.Close())
	const rec = frameHeader + 200
	for i, path := range []string{"/log/0000000000000000.seg", tailPath(t, mem)} {
		first := uint64(i) * (13 << 10 / rec * rec)
		size := int64(len(slurp(t, mem, path)))
		for at := range size {
			check(t, mem.FlipBit(path, at*8+at%8))
			from := first
			if at > seglog.HeaderSize {
				from += uint64(at-seglog.HeaderSize) / rec * rec
			}
			_, readErr := readAll(mem, "/log", from, from+rec)
			var damage *tidegate.CorruptError
			if !errors.As(readErr, &damage) || damage.Path != path {
				t.Fatalf("%s byte %d: reading gave %v", path, at, readErr)
			}
			// The scan at start covers the tail; it is slow, so every 64th byte.
			if at%64 == 0 && i == 1 {
				before := slurp(t, mem, path)
				_, _, err := seglog.Open(mem, "/log", frames{}, cfg)
				if !errors.As(err, &damage) {
					t.Fatalf("%s byte %d: opening gave %v", path, at, err)
				}
				if !bytes.Equal(before, slurp(t, mem, path)) {
					t.Fatalf("%s byte %d: opening changed the file", path, at)
				}
			}
			check(t, mem.FlipBit(path, at*8+at%8))
		}
	}
	if got := contents(t, mem, "/log", 0, uint64(len(want))); !bytes.Equal(got, want) {
		t.Error("contents differ after all flips were undone")
	}
}

func tailPath(t *testing.T, mem *vfs.Mem) string {
	t.Helper()
	last := ""
	for name := range segments(t, mem, "/log") {
		last = max(last, name)
	}
	return "/log/" + last
}

// TestTornOrCorrupt damages a log at and before the synced mark.
func TestTornOrCorrupt(t *testing.T) {
	build := func() (*vfs.Mem, string, uint64) {
		mem := vfs.NewMem()
		l := open(t, mem, crashConfig)
		add(t, l, 4, 84)
		check(t, l.Sync())
		synced := l.End()
		add(t, l, 3, 84)
		check(t, l.Close())
		return mem.CrashClone(vfs.CrashKeepAll), tailPath(t, mem), synced
	}
	flip := func(mem *vfs.Mem, path string, at uint64) {
		check(t, mem.FlipBit(path, int64(seglog.HeaderSize+at+20)*8))
	}
	truncate := func(mem *vfs.Mem, path string, at uint64) {
		f := must(mem.OpenReadWrite(path))
		check(t, f.Truncate(int64(seglog.HeaderSize+at)))
		check(t, f.Close())
	}
	tests := map[string]struct {
		damage   func(mem *vfs.Mem, path string, synced uint64)
		end      uint64
		torn     int64
		corrupt  bool
		sameMark bool
	}{
		"nothing":                    {func(*vfs.Mem, string, uint64) {}, 700, 0, false, true},
		"first record after mark":    {func(m *vfs.Mem, p string, s uint64) { flip(m, p, s) }, 400, 300, false, true},
		"second record after mark":   {func(m *vfs.Mem, p string, s uint64) { flip(m, p, s+100) }, 500, 200, false, true},
		"cut in a record after mark": {func(m *vfs.Mem, p string, s uint64) { truncate(m, p, s+150) }, 500, 50, false, true},
		"cut in a header after mark": {func(m *vfs.Mem, p string, s uint64) { truncate(m, p, s+103) }, 500, 3, false, true},
		"cut at the mark":            {func(m *vfs.Mem, p string, s uint64) { truncate(m, p, s) }, 400, 0, false, true},
		"last record before mark":    {func(m *vfs.Mem, p string, s uint64) { flip(m, p, s-100) }, 0, 0, true, true},
		"cut before mark":            {func(m *vfs.Mem, p string, s uint64) { truncate(m, p, s-100) }, 0, 0, true, true},
		"all records gone":           {func(m *vfs.Mem, p string, _ uint64) { truncate(m, p, 0) }, 0, 0, true, true},
		"segment gone":               {func(m *vfs.Mem, p string, _ uint64) { check(t, m.Remove(p)) }, 0, 0, true, true},
		"mark gone, records whole":   {func(m *vfs.Mem, _ string, _ uint64) { check(t, m.Remove("/log/mark")) }, 700, 0, false, false},
		"mark gone, damage": {func(m *vfs.Mem, p string, s uint64) {
			check(t, m.Remove("/log/mark"))
			flip(m, p, s+100)
		}, 0, 0, true, false},
		"one slot of the mark": {func(m *vfs.Mem, p string, s uint64) {
			check(t, m.FlipBit("/log/mark", 20*8))
			truncate(m, p, s+100)
		}, 500, 0, false, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			mem, path, synced := build()
			tt.damage(mem, path, synced)
			before := segments(t, mem, "/log")
			l, rec, err := seglog.Open(mem, "/log", frames{}, crashConfig)
			var damage *tidegate.CorruptError
			if tt.corrupt {
				if !errors.As(err, &damage) || damage.Path == "" {
					t.Fatalf("got %v, want a corrupt error", err)
				}
				if after := segments(t, mem, "/log"); len(after) != len(before) || after["0000000000000000.seg"] != before["0000000000000000.seg"] {
					t.Error("opening changed a damaged log")
				}
				return
			}
			check(t, err)
			defer l.Close()
			if l.End() != tt.end || rec.TornBytes != tt.torn || l.Durable() != tt.end {
				t.Errorf("end %d, durable %d, recovery %+v, want end %d, torn %d", l.End(), l.Durable(), rec, tt.end, tt.torn)
			}
			if tt.torn > 0 {
				got := slurp(t, mem, rec.Quarantined)
				want := before["0000000000000000.seg"][seglog.HeaderSize+tt.end:]
				if string(got) != want {
					t.Errorf("quarantine holds %d bytes, want the %d torn ones", len(got), len(want))
				}
			}
		})
	}
}

// TestSealedSegmentIsNeverTorn: an older segment was synced before the next one
// began, so damage there is damage, whatever the mark says.
func TestSealedSegmentIsNeverTorn(t *testing.T) {
	mem := vfs.NewMem()
	l := open(t, mem, crashConfig)
	add(t, l, 40, 84)
	check(t, l.Close())
	f := must(mem.OpenReadWrite("/log/0000000000000000.seg"))
	check(t, f.Truncate(900))
	check(t, f.Close())
	var damage *tidegate.CorruptError
	if _, _, err := seglog.Open(mem, "/log", frames{}, crashConfig); !errors.As(err, &damage) {
		t.Errorf("got %v", err)
	}
}

// TestCloseWhileSyncHangs: the disk does not answer, Close does.
func TestCloseWhileSyncHangs(t *testing.T) {
	hang, hung := make(chan struct{}), make(chan struct{})
	armed := false
	fsys := vfs.Inject(vfs.NewMem(), func(op vfs.Op) error {
		if armed && op.Kind == vfs.OpSync {
			close(hung)
			<-hang
		}
		return nil
	})
	l := open(t, fsys, crashConfig)
	add(t, l, 1, 10)
	armed = true
	done := make(chan error)
	go func() { done <- l.Sync() }() // owned by this test; ends when the disk answers
	<-hung
	check(t, l.Close())
	armed = false
	close(hang)
	<-done                                       //nolint:errcheck // whatever the disk said in the end
	check(t, open(t, fsys, crashConfig).Close()) // the lock is free again
}

// TestRestartAfterFailedSync: the kernel calls pages clean whose write failed.
// A process that restarts reads them, and must not take the next sync's word
// for them.
func TestRestartAfterFailedSync(t *testing.T) {
	mem := vfs.NewMem()
	fault := vfs.OnIndex(1, vfs.ErrIO)
	fsys := vfs.Inject(mem, vfs.PathMatch("*.seg", vfs.KindIs(vfs.OpSync, fault.Inject)))
	l := open(t, fsys, crashConfig)
	want := add(t, l, 5, 200)
	if err := l.Sync(); !errors.Is(err, vfs.ErrIO) {
		t.Fatalf("sync: %v", err)
	}
	check(t, mem.LoseWrites("/log/0000000000000000.seg"))
	check(t, l.Close())
	l = open(t, mem, crashConfig)
	end := l.Durable()
	check(t, l.Close())
	l = open(t, mem.CrashClone(vfs.CrashLoseAll), crashConfig)
	if l.End() != end || int(end) > len(want) {
		t.Errorf("log ends at %d after the power cut, %d was called durable", l.End(), end)
	}
	check(t, l.Close())
}
