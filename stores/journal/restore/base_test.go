package restore_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	cold "github.com/tidegate/tidegate/archive/restore"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/journal"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/stores/journal/base"
)

// bases are those that the archive has now.
func (s *source) bases(t *testing.T) *archive.Bases {
	t.Helper()
	all, err := s.open(t).Bases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(all.Close)
	return all
}

// raw are the source's bytes between two positions.
func (s *source) raw(t *testing.T, dir string, from, to tidegate.Position) (all []byte) {
	t.Helper()
	r, err := journal.OpenReader(dir, from)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }() // only read
	for r.At() < to {
		b, _, err := r.Read(to, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	return all
}

// archiveState archives a base of the state behind record i: all that it had been told
// by then, and some noise that makes it several extents.
func (s *source) archiveState(t *testing.T, i int, epoch tidegate.Epoch) tidegate.Position {
	t.Helper()
	at := s.at[i].Next
	r, err := s.j.NewReader(s.at[i].First)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }() // only read
	rec, _, err := r.TryNext()
	if err != nil {
		t.Fatal(err)
	}
	s.m.State(t, base.State{Position: at, Records: rec.Number, Digest: digestAt(at), Lineage: s.j.Lineage()}, epoch, stateAt(at))
	return at
}

func digestAt(p tidegate.Position) tidegate.Digest {
	return tidegate.Digest{byte(p), byte(p >> 8), byte(p >> 16), 1}
}

// stateAt is what the state of a teller is at a position.
func stateAt(p tidegate.Position) []byte {
	b := bytes.Repeat([]byte("a state of "+p.String()), 20_000)
	for i := range b {
		b[i] += byte(i >> 8 * i >> 12)
	}
	return b
}

// teller is a service that reads its state back.
type teller struct {
	at     tidegate.Position
	digest tidegate.Digest
}

func (s *teller) State() (tidegate.Position, tidegate.Digest) { return s.at, s.digest }
func (s *teller) Apply(journal.Record) error                  { return nil }
func (s *teller) Fenced(tidegate.Epoch)                       {}
func (s *teller) Snapshot() (io.WriterTo, error)              { return nil, tidegate.ErrUnsupported }

func (s *teller) Promote(context.Context, tidegate.Epoch, tidegate.Position) error { return nil }

func (s *teller) Restore(_ context.Context, at tidegate.Position, r io.Reader) error {
	have, err := io.ReadAll(r)
	if err == nil && !bytes.Equal(have, stateAt(at)) {
		err = errors.New("another state")
	}
	s.at, s.digest = at, digestAt(at)
	return err
}

// wants opens a restored journal as its service does, and compares state and log.
func (s *source) wants(t *testing.T, dir string, from, to tidegate.Position) {
	t.Helper()
	j, err := journal.Open(dir, journal.Config{Service: "bank", Stream: "main", SegmentBytes: segmentBytes + journal.HeaderSize, RecordBytesMax: segmentBytes})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}()
	svc := &teller{}
	got, err := j.Restore(t.Context(), svc)
	if err != nil || got.Done != (from > 0) || svc.at != from || j.First() != from || j.End() != to {
		t.Fatalf("state of %s given: %t, journal of [%s, %s), want [%s, %s): %v", svc.at, got.Done, j.First(), j.End(), from, to, err)
	}
	if have := s.raw(t, dir, from, to); !bytes.Equal(have, s.raw(t, s.dir, from, to)) {
		t.Error("the log behind is not the source's")
	}
}

func TestRestoreFromBase(t *testing.T) {
	s := newSource(t)
	s.write(t, 500)
	first := s.archiveState(t, 358, 1)
	if _, err := s.j.Branch(t.Context(), 5, s.j.End()); err != nil {
		t.Fatal(err)
	}
	s.m.Epoch = 5
	s.write(t, 500)
	second := s.archiveState(t, 650, 5)
	end := s.j.End()
	for name, c := range map[string]struct {
		choice   cold.Choice
		from, to tidegate.Position
	}{
		"latest":              {cold.Choice{}, second, end},
		"a position":          {cold.Choice{To: cold.To{Position: s.at[850].Next}}, second, s.at[850].Next},
		"in a record":         {cold.Choice{To: cold.To{Position: s.at[850].Next - 1}}, second, s.at[850].First},
		"a time":              {cold.Choice{To: cold.To{Time: epoch.Add(850 * time.Second)}}, second, s.at[850].Next},
		"the base's own":      {cold.Choice{To: cold.To{Position: second}}, second, second},
		"before the newest":   {cold.Choice{To: cold.To{Position: second - 1}}, first, s.at[650].First},
		"over the branch":     {cold.Choice{To: cold.To{Position: s.at[550].Next}}, first, s.at[550].Next},
		"before any":          {cold.Choice{To: cold.To{Position: s.at[150].Next}}, 0, s.at[150].Next},
		"from the log alone":  {cold.Choice{Base: cold.NoBase}, 0, end},
		"and to a base's own": {cold.Choice{Base: cold.NoBase, To: cold.To{Position: first}}, 0, first},
	} {
		t.Run(name, func(t *testing.T) {
			into := filepath.Join(t.TempDir(), "into")
			res, err := run(t.Context(), s.planOf(t, c.choice), vfs.OS(), into)
			if err != nil {
				t.Fatal(err)
			}
			if res.Position != c.to || res.Bytes.Kept != 0 {
				t.Errorf("ends at %s, want %s; %+v", res.Position, c.to, res)
			}
			s.wants(t, res.Path, c.from, c.to)
		})
	}
}

// TestRestoreFromBaseIsResumed stops the machine before every so many operations.
func TestRestoreFromBaseIsResumed(t *testing.T) {
	s := newSource(t)
	s.write(t, 600)
	from := s.archiveState(t, 400, 1)
	into := filepath.Join(t.TempDir(), "into")
	for n, stops := int64(3), 0; ; n, stops = n+1+n/4, stops+1 {
		where := cold.Target{FS: vfs.OS(), Clock: clock.System(), Dir: into}
		plan := s.planOf(t, cold.Choice{}.GoingOn(where))
		if stops == 1 {
			s.archiveState(t, 500, 1) // changes nothing
		}
		fault := vfs.CrashAt(n)
		res, err := run(t.Context(), plan, vfs.Inject(vfs.OS(), fault.Inject), into)
		if err == nil {
			if !res.Resumed || stops < 5 || res.Bytes.Kept == 0 {
				t.Errorf("after %d stops: %+v", stops, res)
			}
			s.wants(t, res.Path, from, s.j.End())
			return
		}
		if !errors.Is(err, vfs.ErrCrashed) {
			t.Fatal(err)
		}
	}
}

// TestBaseOfAnotherHistory: one that a failover left behind is passed over, and said to be
// of no use; so is one that does not say of which log it is.
func TestBaseOfAnotherHistory(t *testing.T) {
	s := newSource(t)
	s.write(t, 400)
	s.archiveState(t, 300, 7)
	if p := s.planOf(t, cold.Choice{}); p.Base != nil || p.Begin.Seq != 1 {
		t.Errorf("begins with base %v, batch %s", p.Base, p.Begin.Seq)
	}
	all := s.bases(t)
	_, err := cold.Choose(t.Context(), s.open(t), all, cold.Choice{Base: all.All[0].Name.String()})
	if !errors.Is(err, tidegate.ErrDiverged) || !strings.Contains(err.Error(), "of one of epoch 7") {
		t.Errorf("asked for: %v", err)
	}
	w, err := s.open(t).Window(t.Context(), all, false)
	if err != nil || len(w.Bases) != 1 || !errors.Is(w.Bases[0].Unfit, tidegate.ErrDiverged) {
		t.Errorf("%+v, %v", w.Bases, err)
	}
	delete(all.All[0].Attrs, snapshot.AttrEpoch)
	if _, _, err := s.open(t).From(t.Context(), all.All[0].Info); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("without an epoch: %v", err)
	}
}

// TestDamagedBaseIsNamed: no byte of a state that is not what its name says is given to a service.
func TestDamagedBaseIsNamed(t *testing.T) {
	s := newSource(t)
	s.write(t, 200)
	s.archiveState(t, 150, 1)
	plan := s.planOf(t, cold.Choice{})
	var pack string
	for o, err := range s.m.B.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(o.Name, ".pack") {
			pack = o.Name
		}
	}
	s.m.Change(t, pack, func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
	into := filepath.Join(t.TempDir(), "into")
	if _, err := run(t.Context(), plan, vfs.OS(), into); tidegate.ClassOf(err) != tidegate.Corrupt {
		t.Errorf("restored: %v", err)
	}
	names, err := filepath.Glob(filepath.Join(into, "restoring", "snapshots", "*"))
	if err != nil || len(names) > 0 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}
