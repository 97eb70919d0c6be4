package seglog_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/seglog"
	"github.com/tidegate/tidegate/internal/vfs"
)

func TestTrimPoint(t *testing.T) {
	l := open(t, vfs.NewMem(), seglog.Config{SegmentBytes: 250})
	defer func() { check(t, l.Close()) }()
	add(t, l, 10, 84) // 100 bytes each, two to a segment
	for _, c := range []struct {
		before uint64
		most   int
		want   uint64
	}{{0, 9, 0}, {199, 9, 0}, {200, 9, 200}, {500, 9, 400}, {500, 1, 200}, {1 << 40, 9, 800}, {1 << 40, 0, 0}} {
		if got := l.TrimPoint(c.before, c.most); got != c.want {
			t.Errorf("before %d, %d at most: %d, want %d", c.before, c.most, got, c.want)
		}
	}
	for bytes, want := range map[int64]uint64{0: 800, 200: 800, 201: 600, 1000: 0, 5000: 0} {
		if got := l.Behind(bytes); got != want {
			t.Errorf("with %d bytes left: from %d, want %d", bytes, got, want)
		}
	}
	check(t, l.TrimBefore(500))
	if got := l.TrimPoint(10, 9); got != l.First() {
		t.Errorf("before what is gone: %d, the log begins at %d", got, l.First())
	}
}

func TestBegin(t *testing.T) {
	mem := vfs.NewMem()
	l := open(t, mem, seglog.Config{SegmentBytes: 250})
	check(t, l.Begin(700, seglog.State{7}))
	if l.First() != 700 || l.End() != 700 || l.Durable() != 700 || must(l.FirstState()) != (seglog.State{7}) {
		t.Errorf("%d to %d, durable %d", l.First(), l.End(), l.Durable())
	}
	check(t, l.Begin(900, seglog.State{9})) // nothing is in it yet
	if _, err := l.NewReader(700); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("reader before the beginning: %v", err)
	}
	all := add(t, l, 5, 84)
	check(t, l.Sync())
	if err := l.Begin(5000, seglog.State{}); !errors.Is(err, tidegate.ErrConflict) {
		t.Errorf("a log that holds something: %v", err)
	}
	check(t, l.Close())
	l = open(t, mem.CrashClone(vfs.CrashLoseAll), seglog.Config{SegmentBytes: 250})
	if l.First() != 900 || l.End() != 1400 {
		t.Errorf("%d to %d after a crash", l.First(), l.End())
	}
	check(t, l.Close())
	if got := contents(t, mem, "/log", 900, 1400); string(got) != string(all) {
		t.Error("content differs")
	}
}

// Wherever the power goes while a log is begun, it is empty afterwards, and begins
// where it did or where it was to; what was synced behind it is there.
func TestBeginCrashesAtEveryOp(t *testing.T) {
	scenario := func(fsys vfs.FS, told, synced *uint64) error {
		l, _, err := seglog.Open(fsys, "/log", frames{}, crashConfig)
		if err != nil {
			return err
		}
		defer func() { _ = l.Close() }() // the machine may be down already
		*told = 700                      // as its owner has written down by now
		if err := l.Begin(*told, seglog.State{7}); err != nil {
			return err
		}
		*synced = 700
		next := frame(700, []byte("first"))
		if err := errors.Join(l.Append(next, 700+uint64(len(next))), l.Sync()); err != nil {
			return err
		}
		*synced = l.End()
		return nil
	}
	for n := int64(0); ; n++ {
		mem := vfs.NewMem()
		fault := vfs.CrashAt(n)
		var told, synced uint64
		_ = scenario(vfs.Inject(mem, fault.Inject), &told, &synced) // it is cut off
		for seed := range int64(crashSeeds) {
			if err := begun(mem.CrashClone(seed), told, synced); err != nil {
				t.Fatalf("op %d %+v, seed %d, to begin at %d: %v", n, fault.Op(), seed, told, err)
			}
		}
		if !fault.Fired() {
			return
		}
	}
}

func begun(fsys vfs.FS, first, synced uint64) error {
	cfg := crashConfig
	cfg.First = first
	l, _, err := seglog.Open(fsys, "/log", frames{}, cfg)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }() // only looked at
	switch {
	case l.First() != 0 && l.First() != 700, l.First() != l.End() && l.First() != 700:
		return fmt.Errorf("%d to %d", l.First(), l.End())
	case l.End() < synced:
		return fmt.Errorf("ends at %d, synced to %d", l.End(), synced)
	}
	return nil
}
