package journal

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/vfs"
)

// goldenState is a head with every field set.
func goldenState() stateHead {
	return stateHead{
		position: 0x1000, records: 7, digest: tidegate.Digest{1, 2}, size: 9, sum: 0xdeadbeef,
		lineage: "journal:01020300000000000000000000000000+2@0000000000000800",
	}
}

func TestGoldenStateHead(t *testing.T) {
	h := goldenState()
	path := filepath.Join("testdata", "v1", "state.hex")
	got := hex.Dump(h.encode())
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Error(d)
	}
	raw := h.encode()
	if back, err := parseStateHead(raw); err != nil || back != h {
		t.Errorf("%+v, %v", back, err)
	}
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1 << (i % 8)
		if _, err := parseStateHead(bad); err == nil {
			t.Errorf("a bit changed at %d is taken", i)
		}
		if _, err := parseStateHead(raw[:i]); err == nil {
			t.Errorf("cut to %d bytes it is taken", i)
		}
	}
	doc, err := os.ReadFile(filepath.Join("..", "docs", "formats", "journal.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"magic `" + stateMagic + "`", "snapshots/", "<position>" + stateSuffix} {
		if !strings.Contains(string(doc), want) {
			t.Errorf("docs/formats/journal.md does not say %q", want)
		}
	}
}

func FuzzStateHead(f *testing.F) {
	h := goldenState()
	f.Add(h.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseStateHead(b)
		if err != nil {
			return
		}
		if !bytes.HasPrefix(b, h.encode()) {
			t.Fatalf("% x reads as %+v", b, h)
		}
	})
}

// history is a journal with a branch, and where each of its records begins.
func history(t *testing.T) (raw []byte, starts []tidegate.Position, lineage tidegate.Lineage) {
	t.Helper()
	fsys := vfs.NewMem()
	j := open(t, fsys, "/src", crashConfig())
	appendN(t, j, 0, 5)
	if _, err := j.Branch(t.Context(), 2, j.End()); err != nil {
		t.Fatal(err)
	}
	appendN(t, j, 5, 5)
	r, err := OpenReaderFS(fsys, "/src", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for r.At() < j.End() {
		b, _, err := r.Read(j.End(), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		raw = append(raw, b...)
	}
	if err := Scan(raw, 0, func(rec Record) error { starts = append(starts, rec.First); return nil }); err != nil {
		t.Fatal(err)
	}
	return raw, append(starts, j.End()), j.Lineage()
}

// stateAt is the head of a state at the beginning of record number n+1 of a history.
func stateAt(starts []tidegate.Position, lineage tidegate.Lineage, n int) stateHead {
	return stateHead{position: starts[n], records: uint64(n), lineage: lineage} //nolint:gosec // small
}

// keeper is a service that keeps its state on a disk.
type keeper struct {
	fsys vfs.FS
	at   tidegate.Position
}

const keeperFile = "/svc/state"

// openKeeper finds the state that was kept last.
func openKeeper(fsys vfs.FS) (*keeper, error) {
	k := &keeper{fsys: fsys}
	text, err := readFile(fsys, keeperFile)
	switch {
	case errors.Is(err, tidegate.ErrNotFound):
		return k, durable.MkdirAll(fsys, filepath.Dir(keeperFile))
	case err != nil:
		return nil, err
	}
	k.at, err = tidegate.ParsePosition(string(text))
	return k, err
}

func (k *keeper) State() (tidegate.Position, tidegate.Digest) { return k.at, tidegate.Digest{} }

func (k *keeper) Apply(r Record) error {
	k.at = r.Next
	return nil
}

func (k *keeper) Promote(context.Context, tidegate.Epoch, tidegate.Position) error { return nil }

func (k *keeper) Fenced(tidegate.Epoch) {}

func (k *keeper) Snapshot() (io.WriterTo, error) { return nil, tidegate.ErrUnsupported }

func (k *keeper) Restore(_ context.Context, at tidegate.Position, r io.Reader) error {
	if _, err := io.ReadAll(r); err != nil {
		return err
	}
	if err := durable.WriteFile(k.fsys, keeperFile, []byte(at.String())); err != nil {
		return err
	}
	k.at = at
	return nil
}

// beginScenario is a service that keeps its state, on an empty journal that begins at a
// state and follows from there; or what is left of that.
func beginScenario(t *testing.T, fsys vfs.FS, h stateHead, raw []byte) error {
	svc, err := openKeeper(fsys)
	if err != nil {
		return err
	}
	j, err := OpenFS(fsys, "/j", crashConfig())
	if err != nil {
		return err
	}
	defer func() { _ = j.Close() }() // the file system has crashed under it
	if err := j.resume(t.Context(), svc); err != nil {
		return err
	}
	f := &follower{j: j, svc: svc}
	if err := f.start(t.Context(), &local.Role{Lineage: h.lineage}, true); err != nil {
		return err
	}
	if j.End() == 0 {
		if _, err := j.states().write(h, func(w io.Writer) error { _, err := w.Write([]byte("state")); return err }); err != nil {
			return err
		}
		file, err := j.states().open(h.position)
		if err != nil {
			return err
		}
		err = restore(t.Context(), svc, svc, file)
		if err := errors.Join(err, file.close()); err != nil {
			return err
		}
		if err := j.begin(t.Context(), file.stateHead); err != nil {
			return err
		}
	}
	if _, err := j.AppendRaw(t.Context(), h.position, raw[h.position:]); err != nil {
		return err
	}
	return j.Sync(t.Context())
}

// TestCrashWhileBeginningAtAState cuts the power before every operation: the journal is
// then empty, and begins anew, whether its service has the state or not, or it begins at the
// state, which is there.
func TestCrashWhileBeginningAtAState(t *testing.T) {
	raw, starts, lineage := history(t)
	h := stateAt(starts, lineage, 7)
	for op, done := int64(0), false; !done; op++ {
		mem := vfs.NewMem()
		var crashed atomic.Bool
		fsys := vfs.Inject(mem, func(o vfs.Op) error {
			if o.Index >= op {
				crashed.Store(true)
			}
			if crashed.Load() {
				return vfs.ErrCrashed
			}
			return nil
		})
		done = beginScenario(t, fsys, h, raw) == nil
		for _, seed := range []int64{vfs.CrashLoseAll, 1, 2} {
			after := mem.CrashClone(seed)
			j, err := OpenFS(after, "/j", crashConfig())
			if err != nil {
				t.Fatalf("at operation %d, seed %d: %v", op, seed, err)
			}
			switch first, end := j.First(), j.End(); {
			case first == 0 && end == 0 && !done:
				if strings.Contains(string(j.Lineage()), "+") {
					t.Errorf("at operation %d, seed %d: empty, and of %s", op, seed, j.Lineage())
				}
			case first != h.position || done && end != starts[len(starts)-1]:
				t.Errorf("at operation %d, seed %d: journal holds [%s, %s)", op, seed, first, end)
			default:
				f, err := j.states().open(h.position)
				if err != nil {
					t.Fatalf("at operation %d, seed %d: begins at a state that is not there: %v", op, seed, err)
				}
				got, err := io.ReadAll(f.reader())
				if err := errors.Join(err, f.close()); err != nil || string(got) != "state" || j.Lineage() != lineage {
					t.Errorf("at operation %d, seed %d: %q, lineage %s, %v", op, seed, got, j.Lineage(), err)
				}
			}
			if err := errors.Join(j.Close(), beginScenario(t, after, h, raw)); err != nil {
				t.Errorf("at operation %d, seed %d: %v", op, seed, err)
			}
		}
		if t.Failed() {
			return
		}
	}
}

// TestFollowerBeginsInsideABatch: what of a batch lies before the journal is in its state.
func TestFollowerBeginsInsideABatch(t *testing.T) {
	raw, starts, lineage := history(t)
	h := stateAt(starts, lineage, 8)
	j := open(t, vfs.NewMem(), "/j", crashConfig())
	if err := j.begin(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	if err := j.begin(t.Context(), stateAt(starts, lineage, 2)); !errors.Is(err, tidegate.ErrConflict) {
		t.Errorf("it began before its own beginning: %v", err)
	}
	svc := newTallier()
	f := &follower{j: j, svc: svc, started: true, applied: h.position}
	for _, m := range []local.Batch{
		{First: 0, Next: starts[6], Payload: raw[:starts[6]]},
		{First: starts[6], Next: starts[10], Payload: raw[starts[6]:starts[10]]},
		{First: starts[10], Next: starts[11], Payload: raw[starts[10]:]},
	} {
		if err := f.batch(t.Context(), &m); err != nil {
			t.Fatal(err)
		}
	}
	if j.End() != starts[11] || f.applied != starts[11] || j.Records() != 11 {
		t.Errorf("ends at %s with record %d, applied to %s", j.End(), j.Records(), f.applied)
	}
	if _, err := j.AppendRaw(t.Context(), 0, raw); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("what it never had is the same: %v", err)
	}
	// A journal that holds something does not begin elsewhere.
	if err := j.begin(t.Context(), stateHead{position: starts[11], records: 11, lineage: lineage}); !errors.Is(err, tidegate.ErrConflict) {
		t.Errorf("it began again: %v", err)
	}
}

// TestStatesBehindACutAreForgotten: what comes there is another history's.
func TestStatesBehindACutAreForgotten(t *testing.T) {
	_, starts, lineage := history(t)
	j := open(t, vfs.NewMem(), "/j", crashConfig())
	appendN(t, j, 0, 5)
	if _, err := j.Branch(t.Context(), 2, j.End()); err != nil {
		t.Fatal(err)
	}
	appendN(t, j, 5, 5)
	for _, n := range []int{3, 6, 8, 9} {
		if _, err := j.states().write(stateAt(starts, lineage, n), func(io.Writer) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.states().prune(); err != nil {
		t.Fatal(err)
	}
	list, err := j.states().list()
	if d := cmp.Diff([]tidegate.Position{starts[8], starts[9]}, list); d != "" || err != nil {
		t.Errorf("%v %s", err, d)
	}
	if _, err := j.CutTo(t.Context(), starts[8], "", "test"); err != nil {
		t.Fatal(err)
	}
	list, err = j.states().list()
	if d := cmp.Diff([]tidegate.Position{starts[8]}, list); d != "" || err != nil {
		t.Errorf("%v %s", err, d)
	}
}

// TestDamagedStateIsNotGiven reads a state in parts, as a standby node does: of one that
// is damaged the last part is not given, so nothing comes to rest on it.
func TestDamagedStateIsNotGiven(t *testing.T) {
	fsys := vfs.NewMem()
	all := states{fsys, "/j/snapshots"}
	state := bytes.Repeat([]byte("state"), 1000)
	h, err := all.write(goldenState(), func(w io.Writer) error {
		_, err := w.Write(state)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	read := func(offsets ...int64) (got []byte, err error) {
		t.Helper()
		f, err := all.open(h.position)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.close() }() // read only
		var s summed
		for _, at := range offsets {
			part := make([]byte, min(2000, f.size-at))
			if err := f.readAt(part, at); err != nil {
				t.Fatal(err)
			}
			if err := s.next(f, at, part); err != nil {
				return got, err
			}
			got = append(got, part...)
		}
		return got, nil
	}
	if got, err := read(0, 2000, 4000); err != nil || !bytes.Equal(got, state) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	if _, err := read(0, 2000, 0, 2000, 4000); err != nil {
		t.Errorf("from the beginning once more: %v", err)
	}
	if _, err := read(0, 4000); !errors.Is(err, tidegate.ErrConflict) {
		t.Errorf("with a hole: %v", err)
	}
	if err := fsys.FlipBit(all.path(h.position), (h.len()+2500)*8); err != nil {
		t.Fatal(err)
	}
	if got, err := read(0, 2000, 4000); tidegate.ClassOf(err) != tidegate.Corrupt || len(got) != 4000 {
		t.Errorf("damaged, %d bytes were given: %v", len(got), err)
	}
}
