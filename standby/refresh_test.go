package standby

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/rates"
	"github.com/tidegate/tidegate/snapshot"
)

func TestRefreshIsDue(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	p := BasePolicy{RefreshEvery: time.Hour, RefreshLog: 1000}
	held := refreshFacts{held: true, taken: now.Add(-time.Minute), now: now, log: 10}
	with := func(change func(*refreshFacts)) refreshFacts { f := held; change(&f); return f }
	for _, c := range []struct {
		name string
		p    BasePolicy
		f    refreshFacts
		want bool
	}{
		{"young, and little log", p, held, false},
		{"old", p, with(func(f *refreshFacts) { f.taken = now.Add(-time.Hour) }), true},
		{"old, and age is no reason", BasePolicy{RefreshLog: 1000}, with(func(f *refreshFacts) { f.taken = now.Add(-time.Hour) }), false},
		{"from the future: a clock was set back", p, with(func(f *refreshFacts) { f.taken = now.Add(time.Hour) }), false},
		{"much log", p, with(func(f *refreshFacts) { f.log = 1000 }), true},
		{"off", BasePolicy{RefreshEvery: time.Hour, RefreshLog: 1000, RefreshOff: true}, with(func(f *refreshFacts) { f.log, f.taken = 5000, time.Time{} }), false},
		{"asked for, and off", BasePolicy{RefreshOff: true}, with(func(f *refreshFacts) { f.asked = true }), true},
		{"asked for, and none is held", p, refreshFacts{asked: true, now: now}, true},
		{"none is held", p, refreshFacts{now: now, log: 5000}, false},
	} {
		if why, due := c.p.refreshDue(c.f); due != c.want || due == (why == "") {
			t.Errorf("%s: %v, %q", c.name, due, why)
		}
	}
}

// service is a warm service that a base can be taken of.
type service struct {
	mu      sync.Mutex
	content [][]byte
	base    snapshot.Base
	err     error
	taken   int
}

func (s *service) Base(ctx context.Context, w snapshot.Writer, total func(int64)) (snapshot.Base, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken++
	if s.err != nil {
		return snapshot.Base{}, s.err
	}
	if _, err := files(s.content...)(ctx, w, total); err != nil {
		return snapshot.Base{}, err
	}
	return s.base, nil
}

func (s *service) times() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken
}

// refreshing runs what a warm service's node runs, until the test ends.
func (c *cluster) refreshing(name tidegate.NodeName, s *service) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.nodes[name].n.RefreshBases(ctx, "ledger", "main", s); err != nil {
			c.t.Errorf("refresh: %v", err)
		}
	})
	c.t.Cleanup(func() { cancel(); wg.Wait() })
}

// starts lists where the bases on a node begin.
func (c *cluster) starts(name tidegate.NodeName) (starts []tidegate.Position) {
	for _, l := range (Bases{c.nodes[name].n.stream(theStream)}).Bases() {
		starts = append(starts, l.Start)
	}
	return starts
}

// A base that the operator asks for is taken of the warm service, stores what has
// changed, and comes to the other nodes, which lack nothing but want the newer one.
func TestBaseIsRenewedAndSpreads(t *testing.T) {
	names := []tidegate.NodeName{"dr1", "dr2", "dr3"}
	c := newBaseCluster(t, 1, nil, names...)
	w := c.start1()
	w.attach("dr1")
	content := noise(6 << 20)
	w.sealLineage("pg:1:1", "")
	w.mustPush("dr1", 1, content)
	w.seal(20, 1000)
	w.mustShip()
	for _, name := range names {
		c.until(string(name)+" is seeded and knows what is committed", func() bool { s := c.nodes[name].status(); return s.Err == "" && s.Commit == 21 })
	}
	content[12345]++
	s := &service{content: [][]byte{content}, base: snapshot.Base{Start: 4000, End: 15_000, Lineage: "pg:1:1"}}
	nd := c.nodes["dr2"]
	before := nd.n.stream(theStream).bases.store.Bytes()
	c.halt(t, rates.Copy, names...)
	c.refreshing("dr2", s)
	if err := AskRefresh(nd.fs, nd.dir, theStream); err != nil {
		t.Fatal(err)
	}
	c.until("it is held back", func() bool {
		for _, r := range nd.n.Status().Rates.Rates {
			if r.Name == rates.Copy && r.Waiting > 0 {
				return true
			}
		}
		return false
	})
	c.lift(t, rates.Copy)
	for _, name := range names {
		c.until(string(name)+" has the new base", func() bool { return len(c.starts(name)) == 2 })
		if got := c.starts(name); got[0] != 0 || got[1] != 4000 {
			t.Errorf("%s: bases begin at %v", name, got)
		}
		c.restored(name, content)
	}
	if grew := nd.n.stream(theStream).bases.store.Bytes() - before; grew > 3*snapshot.PageBytes {
		t.Errorf("one page has changed, the store grew by %d bytes", grew)
	}
	if asked, err := RefreshAsked(nd.fs, nd.dir, theStream); asked || err != nil {
		t.Errorf("still asked for: %v, %v", asked, err)
	}
	if n := s.times(); n != 1 {
		t.Errorf("taken %d times", n)
	}
	if list, err := ListBases(nd.fs, nd.dir, theStream); err != nil || len(list) != 2 {
		t.Errorf("listed %v, %v", list, err)
	}
}

// A base that is not the log's own does not count: one that reaches beyond what is
// committed, one of another history, one that begins where there is no log.
func TestBaseThatIsNotOfTheLogIsRefused(t *testing.T) {
	c := newBaseCluster(t, 1, nil, "dr1")
	w := c.start1()
	w.attach("dr1")
	w.sealLineage("pg:1:1", "")
	w.mustPush("dr1", 1, noise(1000))
	w.seal(20, 1000)
	w.mustShip()
	c.until("it is committed", func() bool { s := c.nodes["dr1"].status(); return s.Commit == 21 && s.Err == "" })
	s := c.nodes["dr1"].n.stream(theStream)
	for _, one := range []struct {
		name string
		base snapshot.Base
		err  error
	}{
		{"beyond the log", snapshot.Base{Start: 4000, End: 99_000, Lineage: "pg:1:1"}, tidegate.ErrNotFound},
		{"of another history", snapshot.Base{Start: 4000, End: 5000, Lineage: "pg:1:2@00001"}, tidegate.ErrDiverged},
	} {
		src := &service{content: [][]byte{noise(100)}, base: one.base}
		if _, err := s.refreshBase(t.Context(), src); !errors.Is(err, one.err) {
			t.Errorf("%s: %v", one.name, err)
		}
	}
	// The writer has shipped more than is committed.
	for _, nd := range c.nodes {
		s := nd.n.stream(theStream)
		info := snapshot.Info{Generation: 1, Opened: 1, Base: snapshot.Base{Start: 1000, End: 20_000, Lineage: "pg:1:1"}}
		if seq, err := s.keptFrom(info); err != nil || seq != 3 {
			t.Errorf("kept from %s, %v", seq, err)
		}
		info.Opened = 9
		if _, err := s.keptFrom(info); !errors.Is(err, tidegate.ErrDiverged) {
			t.Errorf("opened by another epoch: %v", err)
		}
	}
	if n := len(c.starts("dr1")); n != 1 {
		t.Errorf("%d bases", n)
	}
}

// What went wrong is said, and asked for once only.
func TestFailedRefreshIsAFinding(t *testing.T) {
	c := newBaseCluster(t, 1, nil, "dr1")
	w := c.start1()
	w.attach("dr1")
	w.sealLineage("pg:1:1", "")
	w.mustPush("dr1", 1, noise(1000))
	w.seal(1, 10)
	w.mustShip()
	nd := c.nodes["dr1"]
	c.until("it is committed", func() bool { s := nd.status(); return s.Commit == 2 && s.Err == "" })
	s := &service{err: &tidegate.Error{Op: "back up", Class: tidegate.Permanent, Err: errors.New("no room"), Hint: "make room"}}
	c.refreshing("dr1", s)
	if err := AskRefresh(nd.fs, nd.dir, theStream); err != nil {
		t.Fatal(err)
	}
	c.until("it is said", func() bool {
		for _, f := range nd.status().Findings {
			if f.Name == findingRefresh && f.Hint == "make room" {
				return true
			}
		}
		return false
	})
	c.until("it is asked for no more", func() bool { asked, err := RefreshAsked(nd.fs, nd.dir, theStream); return err == nil && !asked })
	if err := AskRefresh(nd.fs, t.TempDir(), theStream); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("of a node that has no such stream: %v", err)
	}
	if _, err := nd.fs.Stat(filepath.Join(streamDir(nd.dir, theStream), baseDirName, refreshFileName)); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("%v", err)
	}
}
