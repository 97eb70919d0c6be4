package journal

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
)

// crashConfig has small segments, so that rolls come often.
func crashConfig() Config {
	cfg := testConfig()
	cfg.SegmentBytes, cfg.RecordBytesMax, cfg.GroupBytesMax = 1<<10, 256, 4<<10
	return cfg
}

// acked is what the journal has promised so far.
type acked struct {
	records int               // appended: Append returned
	branch  bool              // Branch returned
	trimmed tidegate.Position // TrimBefore may have removed what lies before
}

// crashScenario does a bit of everything, and writes down what was promised.
func crashScenario(t *testing.T, fsys vfs.FS, did *acked) error {
	j, err := OpenFS(fsys, "/j", crashConfig())
	if err != nil {
		return err
	}
	defer func() { _ = j.Close() }() // the file system has crashed under it
	for i := range 12 {
		if _, err := j.Append(t.Context(), payload(i), testTime); err != nil {
			return err
		}
		did.records++
	}
	at := j.End()
	if _, err := j.Branch(t.Context(), 3, at); err != nil {
		return err
	}
	did.branch = true
	for i := 12; i < 20; i++ {
		if _, err := j.Append(t.Context(), payload(i), testTime); err != nil {
			return err
		}
		did.records++
	}
	keep := j.End()
	for i := 20; i < 24; i++ {
		if _, err := j.Submit(t.Context(), []byte("to be cut"), testTime); err != nil {
			return err
		}
	}
	if _, err := j.CutTo(t.Context(), keep, "", "test"); err != nil {
		return err
	}
	did.trimmed = at
	if err := j.TrimBefore(t.Context(), at); err != nil {
		return err
	}
	if _, err := j.Append(t.Context(), payload(20), testTime); err != nil {
		return err
	}
	did.records++
	return j.Close()
}

// TestCrashAtEveryOp cuts the power before every operation on the disk, and
// separately lets it fail; what was acknowledged must be there, and nothing
// half.
func TestCrashAtEveryOp(t *testing.T) {
	for _, partial := range []bool{false, true} {
		t.Run(fmt.Sprintf("partial=%v", partial), func(t *testing.T) {
			ops := 0
			for done := false; !done; ops++ {
				done = crashAt(t, int64(ops), partial)
				if t.Failed() {
					t.Fatalf("at operation %d", ops)
				}
			}
			t.Logf("%d operations", ops)
			if ops < 50 {
				t.Errorf("only %d operations: the scenario did not run", ops)
			}
		})
	}
}

// crashAt returns true if the scenario ended before operation op.
func crashAt(t *testing.T, op int64, partial bool) bool {
	mem := vfs.NewMem()
	var crashed atomic.Bool
	fsys := vfs.Inject(mem, func(o vfs.Op) error {
		if o.Index >= op {
			crashed.Store(true)
		}
		if crashed.Load() {
			if partial && o.Index == op {
				return vfs.Partial(vfs.ErrCrashed)
			}
			return vfs.ErrCrashed
		}
		return nil
	})
	var did acked
	err := crashScenario(t, fsys, &did)
	if err == nil {
		return true
	}
	if !errors.Is(err, vfs.ErrCrashed) {
		t.Errorf("the crash did not surface: %v", err)
	}
	for _, seed := range []int64{vfs.CrashLoseAll, 1, 2, 3} {
		checkAfterCrash(t, mem.CrashClone(seed), did, seed)
	}
	return false
}

func checkAfterCrash(t *testing.T, fsys vfs.FS, did acked, seed int64) {
	j, err := OpenFS(fsys, "/j", crashConfig())
	if err != nil {
		t.Errorf("seed %d: reopen: %v", seed, err)
		return
	}
	defer func() {
		if err := j.Close(); err != nil {
			t.Errorf("seed %d: close: %v", seed, err)
		}
	}()
	if did.branch && j.Lineage() == "journal:"+tidegate.Lineage(crashConfig().ID.String()) {
		t.Errorf("seed %d: an acknowledged branch is lost", seed)
	}
	if j.First() > did.trimmed {
		t.Errorf("seed %d: begins at %s, trimmed before %s at most", seed, j.First(), did.trimmed)
	}
	r, err := j.NewReader(j.First())
	if err != nil {
		t.Errorf("seed %d: %v", seed, err)
		return
	}
	defer r.Close()
	have, branches := map[string]bool{}, 0
	for {
		rec, ok, err := r.TryNext()
		if err != nil {
			t.Errorf("seed %d: %v", seed, err)
			return
		}
		if !ok {
			break
		}
		have[string(rec.Payload)] = true
		if rec.Kind == KindBranch {
			branches++
		}
	}
	if said := strings.Count(string(j.Lineage()), "+"); said != branches {
		t.Errorf("seed %d: lineage %s names %d branches, the journal has %d", seed, j.Lineage(), said, branches)
	}
	at := tidegate.Position(0)
	for i := range did.records {
		if at >= j.First() && !have[string(payload(i))] {
			t.Errorf("seed %d: acknowledged record %d of %d is lost", seed, i, did.records)
			return
		}
		at += tidegate.Position(HeaderSize + len(payload(i)))
	}
	// The journal goes on where it ended.
	if _, err := j.Append(t.Context(), []byte("after the crash"), time.Now()); err != nil {
		t.Errorf("seed %d: append after the crash: %v", seed, err)
	}
}

// TestFailedSyncStopsForGood: what the disk holds is unknown then.
func TestFailedSyncStopsForGood(t *testing.T) {
	var fail atomic.Bool
	fsys := vfs.Inject(vfs.NewMem(), func(o vfs.Op) error {
		if o.Kind == vfs.OpSync && fail.Swap(false) {
			return vfs.ErrIO
		}
		return nil
	})
	j, err := OpenFS(fsys, "/j", testConfig())
	if err != nil {
		t.Fatal(err)
	}
	appendN(t, j, 0, 2)
	fail.Store(true)
	for i := range 2 {
		if _, err := j.Append(t.Context(), payload(i), testTime); !errors.Is(err, tidegate.ErrStopped) {
			t.Errorf("append: %v", err)
		}
	}
	if err := j.Await(t.Context(), 1); !errors.Is(err, tidegate.ErrStopped) {
		t.Errorf("await: %v", err)
	}
	if err := j.Run(t.Context(), nil); !errors.Is(err, tidegate.ErrStopped) {
		t.Errorf("run: %v", err)
	}
	if err := j.Close(); !errors.Is(err, tidegate.ErrStopped) {
		t.Errorf("close hides the failure: %v", err)
	}
}

// TestAppendAllocatesNothing: what is left is one closure per fsync, below.
func TestAppendAllocatesNothing(t *testing.T) {
	var syncs atomic.Int64
	fsys := vfs.Inject(vfs.OS(), func(o vfs.Op) error {
		if o.Kind == vfs.OpSync {
			syncs.Add(1)
		}
		return nil
	})
	j := open(t, fsys, t.TempDir(), Config{Service: "ledger", Stream: "main"})
	p := make([]byte, 300)
	ctx := t.Context()
	if err := j.Activate(); err != nil {
		t.Fatal(err)
	}
	const inFlight = 64
	step := func() {
		var r Range
		var err error
		for range inFlight {
			if r, err = j.Submit(ctx, p, testTime); err != nil {
				t.Error(err)
			}
		}
		if err := j.WaitDurable(ctx, r.Next); err != nil {
			t.Error(err)
		}
	}
	for range 50 {
		step()
	}
	const runs = 50
	syncs.Store(0)
	perRun := testing.AllocsPerRun(runs, step)
	perSync := float64(syncs.Load()) / (runs + 1) // AllocsPerRun warms up once
	if perRun > 2*perSync+2 {
		t.Errorf("%v allocations for %d records in %v syncs", perRun, inFlight, perSync)
	}
}
