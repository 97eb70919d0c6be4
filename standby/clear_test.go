package standby

import (
	"errors"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/rates"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
)

// aBase is one that counts and that the log goes on from.
func aBase(g tidegate.Generation, opened tidegate.Epoch, start tidegate.Position) keepBase {
	info := snapshot.Info{Generation: g, Opened: opened, Base: snapshot.Base{Start: start}}
	return keepBase{Listed: snapshot.Listed{Info: info, Name: snapshot.Name{byte(g), byte(opened), byte(start)}}, Counts: true}
}

// goodKeep are facts of a log of generation 3, which epoch 7 opened, that let the first
// three bases go: of an older generation, of another log, and of before the newest two.
func goodKeep() keepFacts {
	return keepFacts{
		Follows: true, Generation: 3, Opened: 7, Oldest: 3, Warm: true, Known: true, Serves: 3, Keep: 2,
		Bases: []keepBase{aBase(2, 4, 10), aBase(3, 6, 15), aBase(3, 7, 20), aBase(3, 7, 30), aBase(3, 7, 40)},
	}
}

func TestKeepRule(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*keepFacts)
		goes   string // per base: g, or - if it stays
	}{
		{"everything is known", func(*keepFacts) {}, "ggg--"},
		{"everything is to be kept", func(f *keepFacts) { f.Off = true }, "-----"},
		{"does not follow", func(f *keepFacts) { f.Follows = false }, "-----"},
		{"warm, and nothing is heard of it", func(f *keepFacts) { f.Known = false }, "-----"},
		{"no warm service", func(f *keepFacts) { f.Warm, f.Known, f.Serves = false, false, 0 }, "ggg--"},
		{"the warm service is of the generation before", func(f *keepFacts) { f.Serves = 2 }, "-gg--"},
		{"the warm service has no state yet", func(f *keepFacts) { f.Serves = 0 }, "ggg--"},
		{"the log has some of the generation before", func(f *keepFacts) { f.Oldest = 2 }, "-gg--"},
		{"where the log begins is not known", func(f *keepFacts) { f.Oldest = 0 }, "-gg--"},
		{"one is kept", func(f *keepFacts) { f.Keep = 1 }, "gggg-"},
		{"none is to be kept: one is", func(f *keepFacts) { f.Keep = 0 }, "gggg-"},
		{"four are kept", func(f *keepFacts) { f.Keep = 4 }, "gg---"},
		{"the newest is not committed", func(f *keepFacts) { f.Bases[4].Useless = "not committed" }, "gg---"},
		{"one between is of no use", func(f *keepFacts) { f.Bases[3].Useless = "of another history" }, "gg---"},
		{"the older one is of no use", func(f *keepFacts) { f.Bases[2].Useless = "the log begins later" }, "ggg--"},
		{"the newest does not count", func(f *keepFacts) { f.Bases[4].Counts = false }, "gg---"},
		{"none is of use", func(f *keepFacts) {
			for i := range f.Bases {
				f.Bases[i].Useless = "?"
			}
		}, "-----"},
		{"one is of use, and is not the newest", func(f *keepFacts) { f.Bases[3].Useless, f.Bases[4].Useless = "?", "?" }, "gg---"},
		{"one is restored", func(f *keepFacts) { f.Bases[0].Read = true }, "-gg--"},
		{"one is given away", func(f *keepFacts) { f.Bases[2].Read = true }, "gg---"},
		{"a generation opens", func(f *keepFacts) { f.Generation, f.Opened, f.Oldest, f.Serves = 2, 4, 2, 2 }, "-----"},
		{"nothing is held of the generation", func(f *keepFacts) { f.Generation, f.Opened = 4, 8 }, "-----"},
		{"another base of the same start", func(f *keepFacts) { f.Bases[2].Listed.Start = 30 }, "gg---"},
	} {
		f := goodKeep()
		c.change(&f)
		got := ""
		for _, fate := range f.rule() {
			if fate.Goes {
				got += "g"
			} else {
				got += "-"
			}
			if fate.Why == "" {
				t.Errorf("%s: nothing is said", c.name)
			}
		}
		if got != c.goes {
			t.Errorf("%s: %s, want %s", c.name, got, c.goes)
		}
	}
}

// Whatever the facts are, what the log rests on stays; and to know less never lets
// more go.
func TestKeepRuleKeepsWhatIsNeeded(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4)) //nolint:gosec // the same facts each time
	for range 50_000 {
		f := keepFacts{
			Follows: r.IntN(8) > 0, Generation: tidegate.Generation(1 + r.IntN(3)), Opened: tidegate.Epoch(1 + r.IntN(2)),
			Oldest: tidegate.Generation(r.IntN(4)), Warm: r.IntN(2) > 0, Known: r.IntN(4) > 0, Serves: tidegate.Generation(r.IntN(4)), Keep: r.IntN(4),
		}
		for start := range r.IntN(7) {
			b := aBase(tidegate.Generation(1+r.IntN(3)), tidegate.Epoch(1+r.IntN(2)), tidegate.Position(start))
			b.Counts, b.Read = r.IntN(4) > 0, r.IntN(6) == 0
			if r.IntN(4) == 0 {
				b.Useless = "?"
			}
			f.Bases = append(f.Bases, b)
		}
		slices.SortStableFunc(f.Bases, func(a, b keepBase) int { return int(a.Listed.Generation) - int(b.Listed.Generation) })
		fates := f.rule()
		useful, left := 0, 0
		for i, b := range f.Bases {
			use := b.of(f.Generation, f.Opened) && b.Counts && b.Useless == ""
			if use {
				useful++
			}
			if !fates[i].Goes && use {
				left++
			}
			if fates[i].Goes && (b.Read || !f.Follows || f.Warm && !f.Known || b.Listed.Generation > f.Generation || b.Listed.Generation < f.Generation && f.Oldest <= b.Listed.Generation) {
				t.Fatalf("%+v: base %d goes", f, i)
			}
			less := f
			less.Bases = slices.Clone(f.Bases)
			less.Bases[i].Useless = "?"
			for j, fate := range less.rule() {
				if fate.Goes && !fates[j].Goes && j != i {
					t.Fatalf("%+v: to know less of base %d lets %d go", f, i, j)
				}
			}
		}
		if left < min(useful, max(1, f.Keep)) {
			t.Fatalf("%+v: %d of %d that are of use are left", f, left, useful)
		}
	}
}

// renewed takes a base of what the warm service beside a node has, that begins there.
func (c *cluster) renewed(name tidegate.NodeName, start tidegate.Position, content []byte) {
	c.t.Helper()
	src := &service{content: [][]byte{content}, base: snapshot.Base{Start: start, End: start + 1, Lineage: "pg:1:1"}}
	c.until(string(name)+" has taken a base", func() bool {
		_, err := c.nodes[name].n.stream(theStream).refreshBase(c.ctx(), src)
		if err != nil && !errors.Is(err, tidegate.ErrConflict) { // another is on its way: it is waited for
			c.t.Fatalf("renew base of %s: %v", name, err)
		}
		return err == nil
	})
}

// seeded is a cluster whose nodes hold the first base and a log of 21 batches.
func seeded(t *testing.T, p BasePolicy, content []byte, names ...tidegate.NodeName) (*cluster, *writer) {
	t.Helper()
	c := newBaseClusterWith(t, 1, nil, p, names...)
	w := c.start1()
	w.attach(names[0])
	w.sealLineage("pg:1:1", "")
	w.mustPush(names[0], 1, content)
	w.seal(20, 1000)
	w.mustShip()
	for _, name := range names {
		c.until(string(name)+" is seeded and knows what is committed", func() bool { s := c.nodes[name].status(); return s.Err == "" && s.Commit == 21 })
	}
	return c, w
}

// Bases that newer ones stand for go on every node, with what only they needed, and
// what stays is whole, counts, and is found again by the next process.
func TestBasesAreRemoved(t *testing.T) {
	content := noise(1 << 20)
	c, w := seeded(t, BasePolicy{LookEvery: 20 * time.Millisecond, Keep: 2, RefreshOff: true}, content, "dr1", "dr2")
	for i := range 3 {
		content = noise(1<<20 + i)
		c.renewed("dr1", tidegate.Position(1000*(i+2)), content)
		for _, name := range []tidegate.NodeName{"dr1", "dr2"} {
			c.until(string(name)+" has it, and one more", func() bool {
				at := c.starts(name)
				return at[len(at)-1] == tidegate.Position(1000*(i+2)) && len(at) == 2
			})
		}
	}
	for _, name := range []tidegate.NodeName{"dr1", "dr2"} {
		nd := c.nodes[name]
		marker := filepath.Join(streamDir(nd.dir, theStream), baseDirName, sweepFileName)
		c.until(string(name)+" has swept", func() bool { due, err := exists(nd.fs, marker); return err == nil && !due })
		store := nd.n.stream(theStream).bases.store
		if now := store.Bytes(); now > 5<<19 {
			t.Errorf("%s: %d bytes for two bases of 1 MiB", name, now)
		}
		c.restored(name, content)
		c.until(string(name)+" says why they stay", func() bool {
			fates, err := BaseFates(nd.fs, nd.dir, theStream)
			if err != nil || len(fates) != 2 {
				return false
			}
			for _, l := range store.Bases() {
				if fate := fates[l.Name.String()]; fate.Goes || !strings.Contains(fate.Why, "the newest 2") {
					return false
				}
			}
			return true
		})
		if err := nd.stop(); err != nil {
			t.Fatal(err)
		}
		nd.start()
		c.until(string(name)+" counts again", func() bool {
			s := nd.n.stream(theStream)
			return s != nil && s.fault == nil && nd.status().Durable.Seq == 21 && len(s.bases.held) == 2
		})
		c.restored(name, content)
	}
	w.close()
}

// A base that is to be taken does not wait for one that is removed, nor for the rate
// that holds that back; what was begun is finished afterwards.
func TestSweepMakesWayForABase(t *testing.T) {
	content := noise(1 << 20)
	c, _ := seeded(t, BasePolicy{LookEvery: 20 * time.Millisecond, Keep: 1, RefreshOff: true}, content, "dr1")
	c.renewed("dr1", 2000, noise(2<<20))
	s, nd := c.nodes["dr1"].n.stream(theStream), c.nodes["dr1"]
	marker := filepath.Join(s.bases.dir, sweepFileName)
	swept := func() bool { due, err := exists(nd.fs, marker); return err == nil && !due && len(c.starts("dr1")) == 1 }
	c.until("the first is removed", swept)
	c.halt(t, rates.Copy, "dr1")
	f, err := nd.fs.Create(marker)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	c.until("a sweep is held back", func() bool {
		waits := slices.ContainsFunc(nd.n.Status().Rates.Rates, func(r rates.Rate) bool { return r.Name == rates.Copy && r.Waiting > 0 })
		s.mu.Lock()
		defer s.mu.Unlock()
		return waits && s.bases.sweep != nil
	})
	tk := &taking{generation: 1, opened: 1, from: "a test", end: func(error) {}, done: make(chan struct{})}
	in, err := s.bases.begin(c.ctx(), tk, errOtherBase)
	if err != nil {
		t.Fatal(err)
	}
	if due, err := exists(nd.fs, marker); err != nil || !due {
		t.Errorf("%v: the sweep that was ended is taken for finished", err)
	}
	s.bases.finish(tk, in)
	c.lift(t, rates.Copy)
	c.until("it is finished", swept)
}

// A base that is restored, or given away, stays until that is over.
func TestBaseThatIsReadStays(t *testing.T) {
	content := noise(100_000)
	c, _ := seeded(t, BasePolicy{LookEvery: 20 * time.Millisecond, Keep: 1, RefreshOff: true}, content, "dr1")
	b := Bases{c.nodes["dr1"].n.stream(theStream)}
	r, err := b.Reader(b.Bases()[0])
	if err != nil {
		t.Fatal(err)
	}
	c.renewed("dr1", 2000, noise(1000))
	nd := c.nodes["dr1"]
	c.until("it is said", func() bool {
		fates, err := BaseFates(nd.fs, nd.dir, theStream)
		if err != nil {
			t.Error(err)
		}
		for _, fate := range fates {
			if strings.Contains(fate.Why, "being restored") {
				return true
			}
		}
		return false
	})
	if n := len(c.starts("dr1")); n != 2 {
		t.Errorf("%d bases", n)
	}
	r.Close()
	c.until("it is gone", func() bool { return len(c.starts("dr1")) == 1 })
}

// A crash behind any step of a removal leaves a node that counts on what it has.
func TestRemovalCutShort(t *testing.T) {
	content := noise(1000)
	c, w := seeded(t, BasePolicy{LookEvery: time.Hour, Keep: 1, RefreshOff: true}, content, "dr1")
	c.renewed("dr1", 2000, noise(2000))
	nd := c.nodes["dr1"]
	for _, step := range []string{"written down", "removed", "swept"} {
		s := nd.n.stream(theStream)
		f, err := s.keepFacts(c.ctx())
		if err != nil {
			t.Fatal(err)
		}
		var gone []snapshot.Listed
		for i, fate := range f.rule() {
			if fate.Goes {
				gone = append(gone, f.Bases[i].Listed)
			}
		}
		left := 2
		switch step {
		case "written down":
			if same, err := s.bases.unhold(f, gone); err != nil || !same || len(gone) != 1 {
				t.Fatalf("%d go: %v, %v", len(gone), same, err)
			}
		case "removed":
			left = 1
			w, err := s.bases.store.Sweep()
			if err == nil {
				err = errors.Join(s.bases.remove(w, f, gone), w.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
		default:
			left = 1
			if err := s.bases.clear(c.ctx(), f, gone); err != nil {
				t.Fatal(err)
			}
		}
		if err := nd.stop(); err != nil {
			t.Fatal(err)
		}
		nd.start()
		c.until("it counts, after the base was "+step, func() bool {
			s := nd.n.stream(theStream)
			return s != nil && s.fault == nil && nd.status().Durable.Seq == tidegate.Seq(len(w.log))
		})
		if n := len(nd.n.stream(theStream).bases.held); n != left {
			t.Errorf("%s: %d are held", step, n)
		}
		w.attach("dr1")
		w.seal(1, 100)
		w.mustShip()
		c.until("it follows", func() bool {
			s := nd.n.stream(theStream)
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.settled() && s.core.ApplyTo() >= 21
		})
	}
	if list, err := ListBases(vfs.OS(), nd.dir, theStream); err != nil || len(list) != 1 || list[0].Start != 2000 {
		t.Errorf("%v, %v", list, err)
	}
}
