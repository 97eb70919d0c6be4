package journal

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/vfs"
)

// restorer is a service that takes some states, and not others.
type restorer struct {
	*tallier

	refuses []tidegate.Position
	asked   []tidegate.Position
	rewound []tidegate.Position
}

func (y *restorer) Snapshot() (io.WriterTo, error) { return nil, tidegate.ErrUnsupported }

func (y *restorer) Restore(_ context.Context, at tidegate.Position, r io.Reader) error {
	if _, err := io.ReadAll(r); err != nil {
		return err
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	y.asked = append(y.asked, at)
	if slices.Contains(y.refuses, at) {
		return errors.New("written by a later release")
	}
	y.applied = at
	return nil
}

// rewinder is one that can give a state up.
type rewinder struct{ *restorer }

func (y rewinder) Rewound(_ context.Context, to tidegate.Position) error {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.applied, y.rewound = to, append(y.rewound, to)
	return nil
}

func newRestorer(refuses ...tidegate.Position) *restorer {
	return &restorer{tallier: newTallier(), refuses: refuses}
}

// A state that the service does not take is declined, with the reason; nothing of it stays,
// and the service follows from the log, in the same process.
func TestStateIsDeclined(t *testing.T) {
	const at = 1000
	lie := tidegate.Digest{9} // no digest that the service comes to
	for _, c := range []struct {
		name   string
		svc    Service
		digest tidegate.Digest
		says   string
		ends   string // Run, with this
	}{
		{"it cannot read it", newRestorer(at), tidegate.Digest{}, "later release", ""},
		{"it makes something else of it", rewinder{newRestorer()}, lie, "with digest", ""},
		{"and cannot give that up", newRestorer(), lie, "", "give up a state"},
	} {
		t.Run(c.name, func(t *testing.T) {
			source := open(t, vfs.NewMem(), "/src", testConfig())
			appendN(t, source, 0, 10)
			raw := rawBytes(t, source, 0)
			d := listen(t, local.DaemonStandby)
			cfg := testConfig()
			cfg.ID, cfg.StandbySocket = tidegate.ID{}, d.l.Addr()
			j := open(t, vfs.NewMem(), "/j", cfg)
			stop := run(t, j, c.svc)
			begin := func() {
				t.Helper()
				if h := d.accept(); h.End != 0 {
					t.Errorf("hello %+v", h)
				}
				expect(d, "that it is empty", func(m *local.Snapshots) bool { return m.Empty })
				d.send(&local.Role{State: local.StateFollow, Epoch: 1, Lineage: source.Lineage()})
			}
			begin()
			d.send(&local.Snapshot{Position: at, Records: 5, Digest: c.digest, Size: 5, Lineage: source.Lineage()})
			expect(d, "read", anyOf[*local.SnapshotRead])
			d.send(&local.SnapshotPart{Position: at, Payload: []byte("state")})
			if c.ends != "" {
				d.wg.Wait()
				if err := stop(); err == nil || !strings.Contains(err.Error(), c.ends) || tidegate.HintOf(err) == "" {
					t.Errorf("run: %v", err)
				}
				return
			}
			m := expect(d, "declined", anyOf[*local.Snapshot])
			if m.Position != at || !strings.Contains(m.Text, c.says) {
				t.Errorf("declined %+v", m)
			}
			d.hangUp()
			begin()
			if list, err := j.states().list(); err != nil || len(list) > 0 {
				t.Errorf("states %v, %v", list, err)
			}
			d.send(&local.Batch{Epoch: 1, Seq: 1, Next: source.End(), Records: 10, Payload: raw})
			expect(d, "applied", func(m *local.LibraryProgress) bool { return m.Applied == source.End() })
			if err := j.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantRecords(t, j, 10)
		})
	}
}

// A state beside the journal that the service does not take, or makes something else of,
// is passed over for the one before it, and no other is taken for it.
func TestRestorePassesOver(t *testing.T) {
	raw, starts, lineage := history(t)
	for _, c := range []struct {
		name    string
		refuses []tidegate.Position
		digest  tidegate.Digest // of the newest
		asked   []tidegate.Position
		rewound []tidegate.Position
		at      tidegate.Position
	}{
		{"none", nil, tidegate.Digest{}, []tidegate.Position{starts[8]}, nil, starts[8]},
		{"cannot be read", []tidegate.Position{starts[8]}, tidegate.Digest{}, []tidegate.Position{starts[8], starts[7]}, nil, starts[7]},
		{"is something else", nil, tidegate.Digest{9}, []tidegate.Position{starts[8], starts[7]}, []tidegate.Position{0}, starts[7]},
		{"neither can be read", starts[7:9], tidegate.Digest{}, []tidegate.Position{starts[8], starts[7]}, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := open(t, vfs.NewMem(), "/j", crashConfig())
			if err := j.adopt(lineage); err != nil {
				t.Fatal(err)
			}
			if _, err := j.AppendRaw(t.Context(), 0, raw); err != nil {
				t.Fatal(err)
			}
			for _, n := range []int{7, 8} {
				h := stateAt(starts, lineage, n)
				if n == 8 {
					h.digest = c.digest
				}
				if _, err := j.states().write(h, func(w io.Writer) error { _, err := w.Write([]byte("state")); return err }); err != nil {
					t.Fatal(err)
				}
			}
			y := rewinder{newRestorer(c.refuses...)}
			for range 2 { // what was passed over is not asked for again
				r, err := j.Restore(t.Context(), y)
				if err != nil || r.Done && r.At != c.at {
					t.Fatalf("%+v, %v", r, err)
				}
			}
			if d := cmp.Diff(c.asked, y.asked) + cmp.Diff(c.rewound, y.rewound); d != "" || y.applied != c.at {
				t.Errorf("at %s, want %s; %s", y.applied, c.at, d)
			}
		})
	}
}

// yielder keeps its state on a disk, and gives it up.
type yielder struct{ *keeper }

func (y yielder) Rewound(_ context.Context, to tidegate.Position) error {
	if err := durable.WriteFile(y.fsys, keeperFile, []byte(to.String())); err != nil {
		return err
	}
	y.at = to
	return nil
}

// declineScenario is a service that keeps its state, on an empty journal that is to begin
// at a state of which the service makes something else; or what is left of that.
func declineScenario(t *testing.T, fsys vfs.FS, h stateHead) error {
	k, err := openKeeper(fsys)
	if err != nil {
		return err
	}
	svc := yielder{k}
	j, err := OpenFS(fsys, "/j", crashConfig())
	if err != nil {
		return err
	}
	defer func() { _ = j.Close() }() // the file system has crashed under it
	if _, err := j.states().write(h, func(w io.Writer) error { _, err := w.Write([]byte("state")); return err }); err != nil {
		return err
	}
	file, err := j.states().open(h.position)
	if err != nil {
		return err
	}
	why := restore(t.Context(), svc, svc, file)
	if err := file.close(); err != nil || why == nil {
		return errors.Join(err, errors.New("the state was taken"))
	}
	return j.giveUp(t.Context(), svc, h.position, 0, why)
}

// TestCrashWhileDeclining cuts the power before every operation: the service that is
// started then is at the beginning of its empty journal, and follows.
func TestCrashWhileDeclining(t *testing.T) {
	raw, starts, lineage := history(t)
	h := stateAt(starts, lineage, 7)
	h.digest = tidegate.Digest{9} // no digest that the service comes to
	for op := int64(0); ; op++ {
		mem := vfs.NewMem()
		fault := vfs.CrashAt(op)
		err := declineScenario(t, vfs.Inject(mem, fault.Inject), h)
		if !fault.Fired() && err != nil {
			t.Fatal(err)
		}
		for _, seed := range []int64{vfs.CrashKeepAll, 1} {
			after := mem.CrashClone(seed)
			k, err := openKeeper(after)
			if err != nil {
				t.Fatal(err)
			}
			j, err := OpenFS(after, "/j", crashConfig())
			if err != nil {
				t.Fatalf("at operation %d, seed %d: %v", op, seed, err)
			}
			f := &follower{j: j, svc: yielder{k}}
			if err := j.resume(t.Context(), f.svc); err != nil {
				t.Fatalf("at operation %d, seed %d: %v", op, seed, err)
			}
			if err := f.start(t.Context(), &local.Role{Lineage: lineage}, true); err != nil || k.at != 0 {
				t.Fatalf("at operation %d, seed %d: the service is at %s: %v", op, seed, k.at, err)
			}
			if _, err := j.AppendRaw(t.Context(), 0, raw); err != nil {
				t.Fatalf("at operation %d, seed %d: %v", op, seed, err)
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if !fault.Fired() {
			t.Logf("%d operations", op)
			return
		}
	}
}
