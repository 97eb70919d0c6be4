package snapshot

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/racetest"
	"github.com/tidegate/tidegate/internal/vfs"
)

// sweep removes bases of a store and what only they needed.
func sweep(s *Store, remove ...Listed) (done Swept, err error) {
	w, err := s.Sweep()
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	for _, l := range remove {
		if err := w.Remove(l); err != nil {
			return done, err
		}
	}
	return w.Run(context.Background(), Pace{})
}

func mustSweep(t testing.TB, s *Store, remove ...Listed) Swept {
	t.Helper()
	done, err := sweep(s, remove...)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// touched is content with the first byte of some pages changed.
func touched(content tree, rng *rand.Rand, pages int) tree {
	next := clone(content)
	paths := next.paths()
	for range pages {
		b := next[paths[rng.IntN(len(paths))]]
		if len(b) > 0 {
			b[rng.IntN(len(b))/PageBytes*PageBytes]++
		}
	}
	return next
}

// TestStoreStaysSmall renews a base again and again and keeps the newest two: every
// one that is kept is whole, also for whoever opens the store anew, what goes on is
// shared, and the disk holds no more than twice what the two need: also where a page
// here and there changes in an extent of which others never do.
func TestStoreStaysSmall(t *testing.T) {
	cfg := StoreConfig{PackBytes: 200 << 10}
	content := tree{"a": noise(1, 40*PageBytes), "b": noise(2, 20*PageBytes+5), "c": noise(3, 9)}
	size := content.bytes()
	mem := vfs.NewMem()
	s := openStore(t, mem, "/base", cfg)
	rng := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same changes each time
	var listed []Listed
	var trees []tree
	var freed int64
	for round := range 40 {
		content = touched(content, rng, 8)
		l := mustPut(t, s, content, tidegate.Generation(round+1)) // in order
		listed, trees = append(listed, l), append(trees, content)
		if len(listed) < 3 {
			continue
		}
		done := mustSweep(t, s, listed[0])
		freed += done.Freed
		listed, trees = listed[1:], trees[1:]
		stores := []*Store{s}
		if round%7 == 0 {
			stores = append(stores, openStore(t, mem, "/base", cfg))
		}
		for _, s := range stores {
			if n := len(s.Bases()); n != 2 || len(s.Faults()) > 0 {
				t.Fatalf("round %d: %d bases, faults %v", round, n, s.Faults())
			}
			for i, l := range listed {
				if err := equal(s, l, trees[i]); err != nil {
					t.Fatalf("round %d: base %d: %v", round, i, err)
				}
			}
		}
		if round%7 == 0 {
			s = stores[1]
		}
		if now := diskBytes(t, s); now > 4*size {
			t.Fatalf("round %d: %d bytes for bases of %d", round, now, size)
		}
	}
	if freed == 0 {
		t.Error("nothing was freed")
	}
	t.Logf("bases of %d bytes: %d on the disk, %d were freed", size, diskBytes(t, s), freed)
}

func (t tree) bytes() (sum int64) {
	for _, b := range t {
		sum += int64(len(b))
	}
	return sum
}

// TestExtentIsStoredWholeAgain: where every base takes a page from another before
// it, what a place needs is a few records, and not all there ever were.
func TestExtentIsStoredWholeAgain(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "/base", StoreConfig{})
	content := tree{"a": noise(1, ExtentBytes-3)}
	for i := range 20 {
		content["a"][i*3*PageBytes]++
		var m Meter
		l, err := put(s, content, tidegate.Generation(i+1), nil, &m)
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Progress().Needed; i > 0 && got != PageBytes {
			t.Fatalf("%d: %d bytes were needed, one page has changed", i, got)
		}
		if err := equal(s, l, content); err != nil {
			t.Fatal(err)
		}
		_, man, err := s.Manifest(l)
		if err != nil {
			t.Fatal(err)
		}
		r, _, err := s.record(man.Extents[1][0], nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.sources) > sourcesMax+1 {
			t.Fatalf("%d: takes pages from %d others", i, len(r.sources))
		}
	}
}

// A chunk that an intake was told is there must not go while it may still be
// listed; what has gone must not be taken for there by an intake that begins later,
// in this process or in one that had looked before.
func TestSweepAndIntakeKeepApart(t *testing.T) {
	mem := vfs.NewMem()
	s := openStore(t, mem, "/base", StoreConfig{})
	old := mustPut(t, s, tree{"a": noise(1, ExtentBytes)}, 1)
	mustPut(t, s, tree{"a": noise(2, ExtentBytes)}, 2)
	other := openStore(t, mem, "/base", StoreConfig{})
	var x Extent
	x.Cut(noise(1, ExtentBytes))

	in, err := s.Intake()
	if err != nil {
		t.Fatal(err)
	}
	if o, err := in.Offer(7, &x); err != nil || o.Need != (Need{}) {
		t.Fatalf("%v: %d pages are needed of what is there", err, o.Need.Count())
	}
	if _, err := s.Sweep(); !errors.Is(err, tidegate.ErrConflict) {
		t.Fatalf("a sweep beside an intake: %v", err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}

	w, err := s.Sweep()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store{s, other} {
		if _, err := s.Intake(); !errors.Is(err, tidegate.ErrConflict) {
			t.Fatalf("an intake beside a sweep: %v", err)
		}
	}
	if err := w.Remove(old); err != nil {
		t.Fatal(err)
	}
	if done, err := w.Run(t.Context(), Pace{}); err != nil || done.Extents != 1 {
		t.Fatalf("%+v, %v", done, err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store{s, other} {
		in, err := s.Intake()
		if err != nil {
			t.Fatal(err)
		}
		if o, err := in.Offer(7, &x); err != nil || o.Need.Count() != ExtentPages {
			t.Errorf("%v: %d pages are needed of what has gone", err, o.Need.Count())
		}
		if err := in.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSweepsBesideIntakes takes bases that come back to what they were, over and over,
// while another removes all but the newest: whatever was listed is whole.
func TestSweepsBesideIntakes(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "/base", StoreConfig{PackBytes: 1 << 20, SyncBytes: 1 << 20})
	contents := []tree{{"a": noise(1, 40*PageBytes)}, {"a": noise(2, 40*PageBytes)}, {"a": noise(1, 20*PageBytes), "b": noise(2, 20*PageBytes)}}
	due := make(chan struct{}, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		for range due {
			for err := tidegate.ErrConflict; err != nil; {
				list := s.Bases()
				if _, err = sweep(s, list[:max(0, len(list)-1)]...); err != nil && !errors.Is(err, tidegate.ErrConflict) {
					t.Errorf("sweep: %v", err)
					return
				}
				runtime.Gosched()
			}
		}
	})
	for i := 0; i < 30; {
		content := contents[i%len(contents)]
		l, err := put(s, content, tidegate.Generation(i+1), nil, nil)
		if errors.Is(err, tidegate.ErrConflict) {
			runtime.Gosched()
			continue
		}
		if err == nil {
			err = equal(s, l, content) // the newest stays
		}
		if err != nil {
			t.Errorf("base %d: %v", i, err)
			break
		}
		i++
		select {
		case due <- struct{}{}:
		default:
		}
	}
	close(due)
	wg.Wait()
}

// What a transfer has brought that was cut off is there when it goes on, whatever was
// swept in between, and what it took pages from is too; so is what was seeded.
func TestSweepKeepsWhatHasArrived(t *testing.T) {
	cfg := StoreConfig{PackBytes: 1 << 20}
	mem := vfs.NewMem()
	s := openStore(t, mem, "/base", cfg)
	content := tree{"a": noise(1, 2*ExtentBytes), "b": noise(2, 2*ExtentBytes), "c": noise(3, 2*ExtentBytes)}
	cut := func(content tree, after int64, m *Meter) {
		left := &atomic.Int64{}
		left.Store(after)
		if _, err := put(s, content, 9, func(s Sink) Sink { return cutSink{s, left} }, m); !errors.Is(err, errCut) {
			t.Fatal(err)
		}
	}
	var seeded, first, second Meter
	cut(content, 4, &seeded)
	if done := mustSweep(t, s); done.Extents+done.Packs > 0 || len(s.Bases()) > 0 {
		t.Fatalf("there is no base, and %+v went", done)
	}
	one := mustPut(t, s, content, 1)
	two := mustPut(t, s, tree{"z": noise(4, 9)}, 2)
	next := clone(content) // takes pages from what only the first base has
	next["a"][0]++
	next["c"][0]++
	cut(next, 5, &first)
	if done := mustSweep(t, s, one); done.Extents == 0 {
		t.Errorf("%+v: nothing went of the first base", done)
	}
	s = openStore(t, mem, "/base", cfg)
	if list := s.Bases(); len(list) != 1 || list[0].Name != two.Name {
		t.Fatalf("%d bases", len(list))
	}
	before := first.Progress()
	cut(next, 5, &second)
	if p := second.Progress(); before.Needed == 0 || p.Needed > next.bytes()-before.Needed {
		t.Errorf("%d bytes were needed, then %d: what had arrived is gone", before.Needed, p.Needed)
	}
	l := mustPut(t, s, next, 3)
	if err := equal(s, l, next); err != nil {
		t.Fatal(err)
	}
	mustSweep(t, s, two)
	if err := equal(s, l, next); err != nil {
		t.Fatal(err)
	}
}

// A base that is read is not removed, and while something is given nothing goes.
func TestSweepWaitsForReadersAndGivers(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "/base", StoreConfig{})
	content := tree{"a": noise(1, ExtentBytes)}
	old := mustPut(t, s, content, 1)
	mustPut(t, s, tree{"a": noise(2, 9)}, 2)
	r, err := s.Reader(old)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sweep(s, old); !errors.Is(err, tidegate.ErrConflict) || len(s.Bases()) != 2 {
		t.Errorf("of a base that is read: %v", err)
	}
	mustSweep(t, s)
	if err := equal(s, old, content); err != nil {
		t.Error(err)
	}
	r.Close()
	r.Close()
	g := s.Giver(1)
	if _, err := sweep(s, old); !errors.Is(err, tidegate.ErrConflict) || len(s.Bases()) != 1 {
		t.Errorf("while something is given: %v, %d bases", err, len(s.Bases()))
	}
	if _, err := s.Reader(old); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("of a base that was removed: %v", err)
	}
	var x Extent
	x.Cut(content["a"])
	if !s.Has(x.Name) {
		t.Error("swept while something is given")
	}
	g.Close()
	g.Close()
	if done := mustSweep(t, s); done.Extents != 1 || done.Packs != 1 || done.Freed < ExtentBytes || s.Has(x.Name) {
		t.Errorf("%+v", done)
	}
}

// moved is a store with one base to be removed, and what has to be moved then.
func moved(t testing.TB, fsys vfs.FS) (gone Listed, contents []tree, err error) {
	t.Helper()
	contents = []tree{
		{"a": noise(1, 5*PageBytes), "b": noise(2, 5*PageBytes), "c": noise(3, PageBytes)},
		{"a": noise(4, 5*PageBytes), "b": noise(5, 5*PageBytes), "c": noise(3, PageBytes)},
	}
	contents = append(contents, clone(contents[1]))
	contents[2]["a"][0]++
	s, err := Open(fsys, "/base", StoreConfig{})
	if err != nil {
		return gone, nil, err
	}
	defer s.Close()
	for i, c := range contents {
		l, err := put(s, c, tidegate.Generation(i+1), nil, nil)
		if err != nil {
			return gone, nil, err
		}
		if i == 0 {
			gone = l
		}
	}
	return gone, contents, nil
}

// checkMoved finds the bases that stay, and the one that was removed whole if it is
// there; going on works, and ends with nothing left of it.
func checkMoved(s *Store, gone Listed, contents []tree, again bool) error {
	bases := s.Bases()
	if n := len(bases); n < 2 || n > 3 || bases[n-2].Generation != 2 || bases[n-1].Generation != 3 {
		return fmt.Errorf("%d bases, faults %v", n, s.Faults())
	}
	for _, l := range bases {
		if err := equal(s, l, contents[l.Generation-1]); err != nil {
			return fmt.Errorf("base %d: %w", l.Generation, err)
		}
	}
	if _, err := sweep(s, gone); err != nil {
		return fmt.Errorf("go on: %w", err)
	}
	if !again {
		return nil
	}
	var m Meter
	if _, err := put(s, contents[0], 4, nil, &m); err != nil || m.Progress().Needed != 10*PageBytes {
		return fmt.Errorf("the same base once more: %w, %d bytes needed", err, m.Progress().Needed)
	}
	for _, l := range s.Bases() {
		if err := equal(s, l, contents[(l.Generation-1)%3]); err != nil {
			return fmt.Errorf("then base %d: %w", l.Generation, err)
		}
	}
	return nil
}

// TestSweepCrashAtEveryOp stops the machine before each operation of a sweep.
func TestSweepCrashAtEveryOp(t *testing.T) {
	if racetest.Apart(t) {
		return
	}
	before := vfs.NewMem()
	gone, contents, err := moved(t, before)
	if err != nil {
		t.Fatal(err)
	}
	for n := int64(0); ; n++ {
		mem := before.CrashClone(vfs.CrashKeepAll)
		fault := vfs.CrashAt(n)
		if s, err := Open(vfs.Inject(mem, fault.Inject), "/base", StoreConfig{}); err == nil {
			done, err := sweep(s, gone)
			if !fault.Fired() && (err != nil || done.Moved == 0 || done.Packs < 1 || len(done.Damaged) > 0) {
				t.Fatalf("%+v, %v", done, err)
			}
			s.Close()
		}
		for seed := range int64(3) {
			s := openStore(t, mem.CrashClone(seed), "/base", StoreConfig{})
			if err := checkMoved(s, gone, contents, seed == n%3); err != nil {
				t.Fatalf("op %d %+v seed %d: %v", n, fault.Op(), seed, err)
			}
		}
		if !fault.Fired() {
			t.Logf("%d operations", n)
			return
		}
	}
}

// TestSweepFaultAtEveryOp fails one operation of a sweep: the bases that stay can be
// read all the same, by this process and by the next, which goes on.
func TestSweepFaultAtEveryOp(t *testing.T) {
	if racetest.Apart(t) {
		return
	}
	before := vfs.NewMem()
	gone, contents, err := moved(t, before)
	if err != nil {
		t.Fatal(err)
	}
	for _, cause := range []error{vfs.ErrIO, vfs.Partial(vfs.ErrNoSpace)} {
		for n := int64(0); ; n++ {
			mem := before.CrashClone(vfs.CrashKeepAll)
			fault := vfs.OnIndex(n, cause)
			s, err := Open(vfs.Inject(mem, fault.Inject), "/base", StoreConfig{})
			if err == nil {
				_, _ = sweep(s, gone) // what it leaves is looked at
				if !fault.Fired() {
					s.Close()
					break
				}
				for _, l := range s.Bases() {
					if err := equal(s, l, contents[l.Generation-1]); err != nil {
						t.Fatalf("op %d %+v: base %d: %v", n, fault.Op(), l.Generation, err)
					}
				}
				s.Close()
			}
			if err := checkMoved(openStore(t, mem, "/base", StoreConfig{}), gone, contents, n%3 == 0); err != nil {
				t.Fatalf("op %d %+v: %v", n, fault.Op(), err)
			}
		}
	}
}

// TestSweepOfDamage: what cannot be read is told of and stays, and where it is not
// known what a base names nothing goes.
func TestSweepOfDamage(t *testing.T) {
	mem := vfs.NewMem()
	gone, contents, err := moved(t, mem)
	if err != nil {
		t.Fatal(err)
	}
	const pack = "/base/packs/0000000000000001.pack" // of which "c" stays
	info, err := mem.Stat(pack)
	if err != nil {
		t.Fatal(err)
	}
	var c Extent
	c.Cut(contents[0]["c"])
	at, _ := openStore(t, mem, "/base", StoreConfig{}).find(c.Name)
	table := mem.CrashClone(vfs.CrashKeepAll)
	if err := errors.Join(mem.FlipBit(pack, (at.offset+int64(at.length)-1)*8), table.FlipBit(pack, (at.offset+100)*8)); err != nil {
		t.Fatal(err)
	}
	for _, disk := range []*vfs.Mem{mem, table} {
		done := mustSweep(t, openStore(t, disk, "/base", StoreConfig{}), gone)
		if len(done.Damaged) != 1 || done.Extents != 2 || done.Packs > 0 {
			t.Errorf("%+v", done)
		}
		if now, err := disk.Stat(pack); err != nil || now.Size != info.Size {
			t.Errorf("%v: %d bytes, had %d", err, now.Size, info.Size)
		}
	}
	s := openStore(t, mem, "/base", StoreConfig{})
	l := s.Bases()[0]
	if err := mem.FlipBit("/base/bases/"+baseFile(l.Generation, l.Name), 100*8); err != nil {
		t.Fatal(err)
	}
	if done, err := sweep(s, s.Bases()[1]); tidegate.ClassOf(err) != tidegate.Corrupt || done.Extents > 0 {
		t.Errorf("%+v, %v", done, err)
	}
}

// A sweep that is held back ends when its context does, and is gone on with.
func TestSweepEndsWhenAsked(t *testing.T) {
	mem := vfs.NewMem()
	gone, contents, err := moved(t, mem)
	if err != nil {
		t.Fatal(err)
	}
	s := openStore(t, mem, "/base", StoreConfig{})
	waits := make(chan struct{}, 1)
	stop := func(ctx context.Context, _ int) error {
		waits <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	for _, pace := range []Pace{{Read: stop}, {Write: stop}} {
		w, err := s.Sweep()
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Remove(gone); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { // owned by the test; ends when the sweep does
			_, err := w.Run(ctx, pace)
			ended <- err
		}()
		<-waits
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := checkMoved(s, gone, contents, true); err != nil {
		t.Error(err)
	}
}

// TestNeeds: a base needs the packs with its extents, and those that they take pages from.
func TestNeeds(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "/base", StoreConfig{PackBytes: 50 << 10})
	one := tree{"a": noise(1, 10*PageBytes), "b": noise(2, 10*PageBytes), "c": noise(3, 10*PageBytes)}
	first := mustPut(t, s, one, 1)
	two := tree{"a": touched(tree{"a": one["a"]}, rand.New(rand.NewPCG(1, 2)), 1)["a"], "b": noise(4, 10*PageBytes)} //nolint:gosec // the same changes each time
	second := mustPut(t, s, two, 2)
	sealed, err := s.Sealed()
	if err != nil {
		t.Fatal(err)
	}
	all, err := s.Needs(t.Context(), []Listed{first, second})
	if err != nil || len(all) != len(sealed) {
		t.Fatalf("both need %v of %v, %v", all, sealed, err)
	}
	needs, err := s.Needs(t.Context(), []Listed{second})
	if err != nil {
		t.Fatal(err)
	}
	a, _ := s.find(nameOf(t, one["a"]))
	c, _ := s.find(nameOf(t, one["c"]))
	if !needs[a.pack] || needs[c.pack] || len(needs) >= len(sealed) {
		t.Errorf("the second needs %v of %v; it takes pages from pack %d, and nothing from pack %d", needs, sealed, a.pack, c.pack)
	}
	if needs, err = s.Needs(t.Context(), nil); err != nil || len(needs) > 0 {
		t.Errorf("none needs %v, %v", needs, err)
	}
}

// nameOf is the name of content that is one extent.
func nameOf(t *testing.T, content []byte) Name {
	t.Helper()
	var x Extent
	x.Cut(content)
	return x.Name
}
