package replay

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/archivetest"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	cold "github.com/tidegate/tidegate/archive/restore"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/journal"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/stores/journal/base"
	"github.com/tidegate/tidegate/stores/journal/capture"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// adder is a service whose state is the chain of its events.
type adder struct {
	spoils int // number of the event that it carries out wrongly; 0: none
	dies   int // number of the event that it cannot carry out

	mu    sync.Mutex
	at    tidegate.Position
	state tidegate.Digest
	seen  int // events
}

func (a *adder) State() (tidegate.Position, tidegate.Digest) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.at, a.state
}

var errPoison = errors.New("poison")

func (a *adder) Apply(r journal.Record) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if int(r.Number) == a.dies {
		return errPoison
	}
	a.state = after(a.state, r.Payload)
	if int(r.Number) == a.spoils {
		a.state[0]++
	}
	a.at, a.seen = r.Next, a.seen+1
	return nil
}

func after(state tidegate.Digest, event []byte) tidegate.Digest {
	sum := sha256.Sum256(append(state[:], event...))
	return tidegate.Digest(sum[:16])
}

func (*adder) Promote(context.Context, tidegate.Epoch, tidegate.Position) error { return nil }
func (*adder) Fenced(tidegate.Epoch)                                            {}

// written is an adder that takes bases.
type written struct{ *adder }

func (w written) Snapshot() (io.WriterTo, error) {
	return nil, tidegate.ErrUnsupported
}

func (w written) Restore(_ context.Context, at tidegate.Position, r io.Reader) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := io.ReadFull(r, w.state[:])
	w.at = at
	return err
}

// world is an archive of a journal, and the run folder of a sandbox.
type world struct {
	m       *archivetest.Maker
	bases   string
	run     string
	digests []tidegate.Digest   // of the state after so many records
	ends    []tidegate.Position // of the records
	began   time.Time
}

const records = 600

// newWorld archives a journal of records 10 ms apart, with a base in the middle and one at
// two thirds, and a handover at the end.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		m: archivetest.New(t, dir.New(vfs.OS(), t.TempDir()), local.KindJournal), bases: t.TempDir(),
		began: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), digests: make([]tidegate.Digest, 1), ends: make([]tidegate.Position, 1),
	}
	var err error
	if w.run, err = os.MkdirTemp("", "tg"); err != nil { //nolint:usetesting // a socket's path has at most 108 bytes, less than t.TempDir's
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(w.run) }) // it is below the system's folder for such things
	from := filepath.Join(t.TempDir(), "journal")
	j, err := journal.Open(from, journal.Config{Service: "bank", Stream: "main"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = j.Close() }() // all of it was synced
	w.m.Time = w.began.UnixNano()
	w.m.Lineage(t, j.Lineage(), "")
	for i := range records {
		event := []byte(strings.Repeat(fmt.Sprint(i), 20))
		at, err := j.SubmitAt(t.Context(), j.End(), event, w.began.Add(time.Duration(i)*10*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		w.digests, w.ends = append(w.digests, after(w.digests[i], event)), append(w.ends, at.Next)
	}
	if err := j.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, err := capture.New(vfs.OS(), from).Follow(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }() // only read
	for w.m.At < j.End() {
		u, err := c.Read(j.End(), 4<<10)
		if err != nil {
			t.Fatal(err)
		}
		w.m.Data(t, u.Payload, u.Records, u.Oldest, u.Newest)
		if w.m.Seq%4 == 0 {
			w.m.Segment(t)
		}
	}
	w.handover(t, w.digests[records])
	w.m.Segment(t)
	for _, n := range []int{records / 2, 2 * records / 3} {
		w.base(t, n, w.digests[n], j.Lineage())
	}
	w.m.Mirror(t, w.bases)
	return w
}

func (w *world) handover(t *testing.T, d tidegate.Digest) {
	t.Helper()
	payload, err := batch.Handover{Holder: tidegate.ID{1}, StateKnown: true, StateDigest: d}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	w.m.Batch(t, batch.Header{Kind: batch.KindHandover, First: w.m.At, Next: w.m.At, OldestTime: w.m.Time, NewestTime: w.m.Time}, payload)
}

// base archives the state after n records.
func (w *world) base(t *testing.T, n int, d tidegate.Digest, l tidegate.Lineage) {
	t.Helper()
	state := w.digests[n]
	st := base.State{Position: w.ends[n], Records: uint64(n), Digest: d, Lineage: l, Bytes: int64(len(state))} //nolint:gosec // a count
	info := snapshot.Info{Stream: archivetest.Stream, Generation: 1, Opened: 1, Taken: 1, Base: st.Base()}
	info.Attrs[snapshot.AttrEpoch] = "1"
	archivetest.BaseOf(t, w.bases, info, func(ctx context.Context, to snapshot.Writer) (snapshot.Base, error) {
		f, err := to.Create(ctx, st.File())
		if err != nil {
			return snapshot.Base{}, err
		}
		_, err = f.Write(state[:])
		return info.Base, errors.Join(err, f.Close())
	})
}

func (w *world) plan(t *testing.T, c Choice) (*Plan, error) {
	t.Helper()
	r, err := archive.OpenReader(t.Context(), w.m.B)
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.Open(t.Context(), w.m.Info)
	if err != nil {
		t.Fatal(err)
	}
	bases, err := s.Bases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(bases.Close)
	return Make(t.Context(), s, bases, c)
}

// runOnce runs a service that follows, in a data folder, until it or ctx ends.
func (w *world) runOnce(ctx context.Context, dir string, svc journal.Service, begin func(*journal.Journal)) error {
	j, err := journal.Open(dir, journal.Config{
		Service: "bank", Stream: "main", ProgressEvery: time.Millisecond,
		StandbySocket: local.SocketPath(w.run, local.DaemonStandby, "bank", "main"),
	})
	if err != nil {
		return err
	}
	if begin != nil {
		begin(j)
	}
	return errors.Join(j.Run(ctx, svc), j.Close())
}

// start runs such a service beside the test, until the test or stop ends it.
func (w *world) start(t *testing.T, dir string, svc journal.Service, begin func(*journal.Journal)) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { // owned by the test; stop waits for it
		ended <- w.runOnce(ctx, dir, svc, begin)
	}()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { _ = stop() }) // the test has looked
	return stop
}

// replay feeds what c chooses to whatever service there is.
func (w *world) replay(t *testing.T, c Choice, speed float64) (Outcome, error) {
	t.Helper()
	p, err := w.plan(t, c)
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(clock.System(), Config{RunDir: w.run, Speed: speed, Wait: time.Minute}, []*Plan{p})
	if err != nil {
		t.Fatal(err)
	}
	out, err := r.Run(t.Context())
	if got := r.Progress(); err == nil && out[0].Verdict != Differs && got.Records != out[0].Records {
		t.Errorf("progress %+v, outcome %+v", got, out[0])
	}
	return out[0], err
}

func to(n tidegate.Position) cold.To { return cold.To{Position: n} }

// TestVerdict: a state is the recorded one only where a digest is on record and the
// service says the same.
func TestVerdict(t *testing.T) {
	w := newWorld(t)
	half, third2 := w.ends[records/2], w.ends[2*records/3]
	for name, c := range map[string]struct {
		choice  Choice
		svc     *adder
		want    Verdict
		records uint64
		checked []tidegate.Position
		why     string
	}{
		"everything":               {Choice{}, &adder{}, Same, records, []tidegate.Position{half, third2, w.ends[records]}, ""},
		"up to a base":             {Choice{To: to(half)}, &adder{}, Same, records / 2, []tidegate.Position{half}, ""},
		"from a base":              {Choice{From: to(w.ends[records/2+9])}, &adder{}, Same, records / 2, []tidegate.Position{third2, w.ends[records]}, ""},
		"nothing on record":        {Choice{To: to(w.ends[7] + 5)}, &adder{}, Unknown, 7, nil, "no digest is on record at " + w.ends[7].String()},
		"nothing behind a base":    {Choice{To: to(w.ends[records/2+1])}, &adder{}, Unknown, records/2 + 1, []tidegate.Position{half}, "the last that is, at " + half.String()},
		"to a time":                {Choice{To: cold.To{Time: w.began.Add(65 * time.Millisecond)}, Digest: w.digests[7]}, &adder{}, Same, 7, []tidegate.Position{w.ends[7]}, ""},
		"another digest is given":  {Choice{To: to(w.ends[7]), Digest: w.digests[8]}, &adder{}, Differs, 7, []tidegate.Position{w.ends[7]}, "as given"},
		"the service spoils one":   {Choice{}, &adder{spoils: records/2 + 3}, Differs, 2 * records / 3, []tidegate.Position{half, third2}, "base "},
		"and the last":             {Choice{}, &adder{spoils: records}, Differs, records, []tidegate.Position{half, third2, w.ends[records]}, "handover in batch"},
		"a base, from its own log": {Choice{Base: "", Beginning: true, From: to(third2)}, &adder{}, Same, records, []tidegate.Position{half, third2, w.ends[records]}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			stop := w.start(t, filepath.Join(t.TempDir(), "journal"), written{c.svc}, nil)
			out, err := w.replay(t, c.choice, 0)
			if err != nil {
				t.Fatal(err)
			}
			if out.Verdict != c.want || out.Records != c.records || !strings.Contains(out.Why, c.why) || (c.why == "") != (out.Why == "") {
				t.Errorf("%+v", out)
			}
			var at []tidegate.Position
			for _, m := range out.Checked {
				at = append(at, m.Position)
			}
			if fmt.Sprint(at) != fmt.Sprint(c.checked) {
				t.Errorf("checked at %v, want %v", at, c.checked)
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
			if got, _ := c.svc.State(); got != out.Position {
				t.Errorf("fed to %s, the service is at %s", out.Position, got)
			}
		})
	}
}

// TestGoOn: a replay goes on where an earlier one stopped, and where a service that came
// back does; one that ends again and again is given up on, at the record that it ends at.
func TestGoOn(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(t.TempDir(), "journal")
	svc := &adder{}
	stop := w.start(t, dir, svc, nil)
	if out, err := w.replay(t, Choice{To: to(w.ends[100])}, 0); err != nil || out.Records != 100 {
		t.Fatalf("%+v, %v", out, err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	svc.dies = 250
	ctx, cancel := context.WithCancel(t.Context())
	var supervisor sync.WaitGroup
	supervisor.Go(func() {
		for ctx.Err() == nil {
			if err := w.runOnce(ctx, dir, svc, nil); ctx.Err() == nil && !errors.Is(err, errPoison) {
				t.Errorf("the service ended: %v", err)
				return
			}
		}
	})
	out, err := w.replay(t, Choice{}, 0)
	if tidegate.ClassOf(err) != tidegate.Transient || !strings.Contains(fmt.Sprint(err), "at position "+w.ends[249].String()) {
		t.Errorf("%+v, %v", out, err)
	}
	if out.Verdict != Unknown {
		t.Errorf("%+v", out)
	}
	cancel()
	supervisor.Wait()

	svc.dies = 0
	w.start(t, dir, svc, nil)
	if out, err = w.replay(t, Choice{}, 0); err != nil || out.Verdict != Same || svc.seen != records {
		t.Errorf("%+v, %v", out, err)
	}
}

// TestRefusals: what is not to be fed is named, and is not fed.
func TestRefusals(t *testing.T) {
	w := newWorld(t)
	half := w.ends[records/2]
	for name, c := range map[string]struct {
		choice Choice
		svc    journal.Service
		begin  func(*testing.T, *journal.Journal)
		want   string
	}{
		"takes no base": {Choice{From: to(half)}, &adder{}, nil, "does not take a base"},
		"active": {Choice{}, &adder{}, func(t *testing.T, j *journal.Journal) {
			t.Helper()
			if err := j.Activate(); err != nil {
				t.Fatal(err)
			}
		}, "it is active"},
		"of another history": {Choice{}, &adder{}, func(t *testing.T, j *journal.Journal) {
			t.Helper()
			if _, err := j.Append(t.Context(), []byte("another"), w.began); err != nil {
				t.Fatal(err)
			}
		}, "is of history"},
	} {
		t.Run(name, func(t *testing.T) {
			w.start(t, filepath.Join(t.TempDir(), "journal"), c.svc, func(j *journal.Journal) {
				if c.begin != nil {
					c.begin(t, j)
				}
			})
			out, err := w.replay(t, c.choice, 0)
			if tidegate.ClassOf(err) != tidegate.Refused || !strings.Contains(fmt.Sprint(err), c.want) || tidegate.HintOf(err) == "" || out.Records != 0 {
				t.Errorf("%+v, %v, hint %q", out, err, tidegate.HintOf(err))
			}
		})
	}
	for name, c := range map[string]struct {
		choice Choice
		want   error
	}{
		"begins behind its end":  {Choice{From: to(half), To: to(w.ends[3])}, nil},
		"no such base":           {Choice{Base: "ffff"}, tidegate.ErrNotFound},
		"not archived":           {Choice{To: cold.To{Seq: 1 << 40}}, tidegate.ErrNotFound},
		"base behind where from": {Choice{From: to(w.ends[3]), Base: ""}, nil}, // the log's beginning
	} {
		p, err := w.plan(t, c.choice)
		if name == "base behind where from" {
			if err != nil || p.Base != nil {
				t.Errorf("%s: %+v, %v", name, p, err)
			}
			continue
		}
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.behindHole(t)
}

// behindHole: of bases the oldest is taken from which the log leads to the end.
func (w *world) behindHole(t *testing.T) {
	t.Helper()
	p, err := w.plan(t, Choice{From: to(w.ends[records/2])})
	if err != nil {
		t.Fatal(err)
	}
	late := records - 20
	for _, n := range []int{20, late} {
		w.base(t, n, w.digests[n], p.Base.Lineage)
	}
	w.m.Mirror(t, w.bases)
	segments := p.Stream.Branch.Segments
	for _, g := range segments[1 : len(segments)-1] {
		if err := w.m.B.Remove(t.Context(), g.Name(archivetest.Stream)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err = w.plan(t, Choice{}); !errors.Is(err, tidegate.ErrGap) {
		t.Fatalf("from the beginning, over a hole: %v", err)
	}
	r, err := archive.OpenReader(t.Context(), w.m.B)
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.Open(t.Context(), w.m.Info)
	if err != nil {
		t.Fatal(err)
	}
	bases, err := s.Bases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer bases.Close()
	tip, err := s.Tip(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p = &Plan{Stream: s, End: tip}
	if err := p.choose(t.Context(), bases, Choice{}, tip); err != nil || p.Base.Start < w.ends[records/2] {
		t.Errorf("chosen is %+v, %v", p.Base, err)
	}
}

// TestAwayAndCancelled: a replay without a service ends, and one that is interrupted says so.
func TestAwayAndCancelled(t *testing.T) {
	w := newWorld(t)
	p, err := w.plan(t, Choice{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(clock.System(), Config{RunDir: w.run, Wait: time.Millisecond}, []*Plan{p})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := r.Run(t.Context()); tidegate.ClassOf(err) != tidegate.Transient || out[0].Verdict != Unknown || !strings.Contains(tidegate.HintOf(err), w.run) {
		t.Errorf("%+v, %v", out, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err = New(clock.System(), Config{RunDir: w.run, Wait: time.Minute}, []*Plan{p}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := New(clock.System(), Config{Speed: -1}, []*Plan{p}); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Error(err)
	}
}

// TestPace: a record is due as long after the first as it was, by the source's clock,
// divided by the speed; what lies before --from is fed at once.
func TestPace(t *testing.T) {
	since := time.Unix(1000, 0)
	for at, want := range map[time.Duration]tidegate.Instant{-time.Hour: 7, 0: 7, 10 * time.Second: 7 + tidegate.Instant(2*time.Second)} {
		if got := dueAt(7, since, since.Add(at), 5); got != want {
			t.Errorf("%s later: %d, want %d", at, got, want)
		}
	}

	w := newWorld(t)
	w.start(t, filepath.Join(t.TempDir(), "journal"), &adder{}, nil)
	began := time.Now()
	// 10 records 10 ms apart at twice the pace, behind 590 that are fed at once.
	out, err := w.replay(t, Choice{From: cold.To{Time: w.began.Add((records - 10) * 10 * time.Millisecond)}, Beginning: true}, 2)
	if err != nil || out.Records != records || out.Verdict != Same {
		t.Errorf("%+v, %v", out, err)
	}
	if took := time.Since(began); took < 45*time.Millisecond {
		t.Errorf("took %s", took)
	}
}
