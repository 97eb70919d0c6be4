package standby

import (
	"errors"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
)

// goodTrim are facts that let everything before batch 500 go.
func goodTrim() trimFacts {
	return trimFacts{
		Follows: true, First: 1, Commit: 1000, Spare: 900, Bases: []tidegate.Seq{100, 500, 800}, Keep: 2,
		Warm: true, Known: true, Applied: 990, Wait: time.Hour,
		Peers: []trimPeer{{Node: "dr2", Known: true, Next: 999}, {Node: "dr3", Known: true, Next: 1}},
	}
}

func TestTrimRule(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*trimFacts)
		to     tidegate.Seq
		held   int // nodes for which more is kept
		lost   int // nodes that need a base
	}{
		{"everything is known", func(*trimFacts) {}, 500, 0, 0},
		{"does not follow", func(f *trimFacts) { f.Follows = false }, 0, 0, 0},
		{"no base of the log", func(f *trimFacts) { f.Bases = nil }, 0, 0, 0},
		{"one base", func(f *trimFacts) { f.Bases = f.Bases[:1] }, 100, 0, 0},
		{"one base is kept", func(f *trimFacts) { f.Keep = 1 }, 800, 0, 0},
		{"none is to be kept: one is", func(f *trimFacts) { f.Keep = 0 }, 800, 0, 0},
		{"commit is behind the base", func(f *trimFacts) { f.Commit = 300 }, 301, 0, 0},
		{"more is always kept", func(f *trimFacts) { f.Spare = 50 }, 50, 0, 0},
		{"warm, and nothing is heard of it", func(f *trimFacts) { f.Known = false }, 0, 0, 0},
		{"no warm service", func(f *trimFacts) { f.Warm, f.Known, f.Applied = false, false, 0 }, 500, 0, 0},
		{"the warm service is behind", func(f *trimFacts) { f.Applied = 200 }, 201, 0, 0},
		{"a node is not heard of", func(f *trimFacts) { f.Peers[0] = trimPeer{Node: "dr2"} }, 0, 1, 0},
		{"and was waited for", func(f *trimFacts) { f.Peers[0] = trimPeer{Node: "dr2", Held: time.Hour} }, 500, 0, 1},
		{"a node is behind", func(f *trimFacts) { f.Peers[0].Next = 40 }, 40, 1, 0},
		{"and was waited for for long enough", func(f *trimFacts) { f.Peers[0].Next, f.Peers[0].Held = 40, time.Hour }, 500, 0, 1},
		{"a node is behind what is kept already", func(f *trimFacts) { f.First, f.Peers[0].Next = 60, 40 }, 500, 0, 0},
		{"the archive has nothing", func(f *trimFacts) { f.Peers[1] = trimPeer{Node: archivePeer, Archive: true, Known: true, Next: 1} }, 1, 1, 0},
		{"the archive is behind", func(f *trimFacts) { f.Peers[1] = trimPeer{Node: archivePeer, Archive: true, Known: true, Next: 40} }, 40, 1, 0},
		{"the archive is not heard of", func(f *trimFacts) { f.Peers[1] = trimPeer{Node: archivePeer, Archive: true} }, 0, 1, 0},
		{"and was waited for", func(f *trimFacts) { f.Peers[1] = trimPeer{Node: archivePeer, Archive: true, Held: time.Hour} }, 500, 0, 1},
		{"the disk is nearly full", func(f *trimFacts) {
			f.Tight, f.Peers[1] = true, trimPeer{Node: archivePeer, Archive: true, Known: true, Next: 40}
		}, 500, 0, 1},
		{"and the archive is not heard of", func(f *trimFacts) { f.Tight, f.Peers[1] = true, trimPeer{Node: archivePeer, Archive: true} }, 500, 0, 1},
		{"nodes are waited for all the same", func(f *trimFacts) { f.Tight, f.Peers[0].Next = true, 40 }, 40, 1, 0},
		{"the archive has what would go", func(f *trimFacts) { f.Peers[1] = trimPeer{Node: archivePeer, Archive: true, Known: true, Next: 500} }, 500, 0, 0},
		{"a node lacks the newest only", func(f *trimFacts) { f.Peers[0].Next = 500 }, 500, 0, 0},
	} {
		f := goodTrim()
		c.change(&f)
		if r := f.rule(); r.To != c.to || len(r.For) != c.held || len(r.Lost) != c.lost || r.Why == "" {
			t.Errorf("%s: %+v, want to %d", c.name, r, c.to)
		}
	}
}

// Whatever the facts are, and whichever of them are not known, nothing goes that
// anybody who counts still needs; and to know less never lets more go.
func TestTrimRuleKeepsWhatIsNeeded(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same facts each time
	seq := func() tidegate.Seq { return tidegate.Seq(r.IntN(50)) }
	for range 100_000 {
		f := trimFacts{
			Follows: r.IntN(8) > 0, First: 1 + seq(), Commit: seq(), Spare: seq(), Keep: r.IntN(4),
			Warm: r.IntN(2) > 0, Known: r.IntN(2) > 0, Applied: seq(), Wait: 10, Tight: r.IntN(4) == 0,
		}
		for range r.IntN(4) {
			f.Bases = append(f.Bases, seq())
		}
		slices.Sort(f.Bases)
		for range r.IntN(4) {
			f.Peers = append(f.Peers, trimPeer{Archive: r.IntN(3) == 0, Known: r.IntN(4) > 0, Next: seq(), Held: time.Duration(r.IntN(20))})
		}
		got := f.rule().To
		needs := func(what string, from tidegate.Seq) {
			if got > f.First && got > from {
				t.Fatalf("%+v: before %d goes, %s needs %d", f, got, what, from)
			}
		}
		if !f.Follows || len(f.Bases) == 0 || f.Warm && !f.Known {
			needs("what is not known", 0)
			continue
		}
		for _, b := range f.Bases[max(0, len(f.Bases)-max(1, f.Keep)):] {
			needs("a base", b)
		}
		needs("what is not committed", f.Commit+1)
		needs("what is always kept", f.Spare)
		if f.Warm {
			needs("the warm service", f.Applied+1)
		}
		for i, p := range f.Peers {
			switch {
			case p.Held >= f.Wait, f.Tight && p.Archive:
			case !p.Known:
				needs("a node that is not heard of", 0)
			case (p.Next > 1 || p.Archive) && p.Next >= f.First:
				needs("a node", p.Next)
			}
			less := f
			less.Peers = slices.Clone(f.Peers)
			less.Peers[i].Known = false
			if p.Known && less.rule().To > got && p.Held < f.Wait {
				t.Fatalf("%+v: to know less of node %d lets %d go", f, i, less.rule().To)
			}
		}
	}
}

// trimming is a cluster whose nodes trim as soon as they may.
func newTrimCluster(t *testing.T, w int, names ...tidegate.NodeName) *cluster {
	t.Helper()
	c := newBaseClusterWith(t, w, nil, BasePolicy{
		LookEvery: 20 * time.Millisecond, Keep: 1, TrimExtra: 1, TrimWait: 100 * time.Millisecond, RefreshOff: true,
	}, names...)
	return c
}

// Nodes trim behind a base that was renewed; one that has nothing begins at that
// base and the log that is left, beyond the head of the epoch that it adopts; and
// the log can be failed over to without losing anything.
func TestTrimmedLogFeedsANodeThatHasNothing(t *testing.T) {
	c := newTrimCluster(t, 1, "dr1", "dr2", "dr3")
	w := c.start1()
	w.attach("dr1")
	w.sealLineage("pg:1:1", "")
	content := noise(100_000)
	w.mustPush("dr1", 1, content)
	for range 200 { // six segments
		w.sealIn(1, noise(30_000))
	}
	w.mustShip()
	for _, name := range []tidegate.NodeName{"dr1", "dr2", "dr3"} {
		c.until(string(name)+" knows what is committed", func() bool { s := c.nodes[name].status(); return s.Err == "" && s.Commit == 201 })
	}
	if first := c.nodes["dr1"].n.stream(theStream).log.First(); first != 1 {
		t.Fatalf("trimmed to %s behind the first base", first)
	}
	s := &service{content: [][]byte{content}, base: snapshot.Base{Start: 3_000_000, End: 3_300_000, Lineage: "pg:1:1"}}
	c.refreshing("dr2", s)
	if err := AskRefresh(vfs.OS(), c.nodes["dr2"].dir, theStream); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, nd := range c.sorted() {
			if s := nd.n.stream(theStream); t.Failed() && s != nil {
				s.mu.Lock()
				t.Logf("%s: log from %s, %d bytes; %+v", nd.name, s.log.First(), s.log.Bytes(), s.trimmed)
				s.mu.Unlock()
			}
		}
	})
	for _, name := range []tidegate.NodeName{"dr1", "dr2", "dr3"} {
		c.until(string(name)+" is trimmed", func() bool { return c.nodes[name].n.stream(theStream).log.First() > 60 })
		if first := c.nodes[name].n.stream(theStream).log.First(); first > 102 {
			t.Errorf("%s: trimmed to %s, the base goes on from 102", name, first)
		}
		c.until(string(name)+" counts", func() bool { return c.nodes[name].status().Durable.Seq == 201 })
	}
	c.wipe("dr3")
	c.until("dr3 counts", func() bool {
		s := c.nodes["dr3"].n.stream(theStream)
		return s != nil && c.nodes["dr3"].status().Durable.Seq == 201
	})
	s3 := c.nodes["dr3"].n.stream(theStream)
	if first := s3.log.First(); first < 60 {
		t.Errorf("dr3 begins with %s", first)
	}
	if l, err := s3.logLineage(); err != nil || l != "pg:1:1" {
		t.Errorf("lineage %q, %v: the batch that said it is gone", l, err)
	}
	w.seal(3, 1000)
	w.mustShip()
	c.until("dr3 goes on", func() bool { return w.acked("dr3") == 204 })
	// All of it survives a restart.
	for _, nd := range c.sorted() {
		first := nd.n.stream(theStream).log.First()
		if err := nd.stop(); err != nil {
			t.Fatal(err)
		}
		nd.start()
		c.until(string(nd.name)+" counts again", func() bool {
			s := nd.n.stream(theStream)
			return s != nil && s.fault == nil && nd.status().Durable.Seq == 204
		})
		if got := nd.n.stream(theStream).log.First(); got < first {
			t.Errorf("%s begins with %s, it did with %s", nd.name, got, first)
		}
	}
	// The writer is lost, and of the nodes the one that began behind the base is left
	// to be copied from.
	w.close()
	rec := c.activate(fence.Holder{Node: "app1", Site: "east", UUID: tidegate.NewID()}, "dr3")
	if rec.Head.Seq != 204 || rec.Head.Chain != w.chain {
		t.Errorf("head %s, the log ends at 204", rec.Head)
	}
	w2 := c.writer(rec)
	w2.log, w2.pos = slices.Clone(w.log), w.pos
	w2.attach("dr3")
	w2.seal(2, 100)
	w2.mustShip()
	for _, name := range []tidegate.NodeName{"dr1", "dr2", "dr3"} {
		c.until(string(name)+" follows the new writer", func() bool { return w2.acked(name) == 206 })
	}
}

// A log that holds nothing ends where it begins only if a fetch has found that there is
// no more to copy: the source's may be trimmed to the very head, or beyond it.
func TestEmptyLogStandsForWhatItBeginsBehind(t *testing.T) {
	at := tidegate.LogPos{Epoch: 2, Seq: 100, Chain: tidegate.Chain{1}}
	for name, c := range map[string]struct {
		empty bool
		to    tidegate.Seq
		err   error
		want  tidegate.LogPos
	}{
		"to the very head":         {true, 100, nil, at},
		"beyond it":                {true, 90, nil, at},
		"more was to come":         {true, 110, nil, tidegate.LogPos{}},
		"it did not come so far":   {true, 100, errors.New("lost"), tidegate.LogPos{}},
		"a log that has something": {false, 110, errors.New("lost"), at},
	} {
		if got := copied(at, c.empty, c.to, c.err); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// wipe gives a node an empty disk, and names what comes back in the configuration.
func (c *cluster) wipe(name tidegate.NodeName) {
	c.t.Helper()
	nd := c.nodes[name]
	if err := nd.stop(); err != nil {
		c.t.Fatal(err)
	}
	nd.dir = filepath.Join(c.t.(*testing.T).TempDir(), "data")
	if _, err := Format(nd.fs, nd.dir, name); err != nil {
		c.t.Fatal(err)
	}
	nd.start()
	c.gate.mu.Lock()
	rec := c.gate.record.Clone()
	c.gate.mu.Unlock()
	rec.Config = c.config()
	c.gate.set(rec)
}

// A crash between what is written down and the log's own change, at either end of
// it, leaves a log that begins where it was written down; what does not fit is
// damage, and nothing is counted on.
func TestTrimCutShortIsFinished(t *testing.T) {
	c := newBaseClusterWith(t, 1, nil, BasePolicy{LookEvery: 20 * time.Millisecond, TrimOff: true, RefreshOff: true}, "dr1")
	w := c.start1()
	w.attach("dr1")
	w.sealLineage("pg:1:1", "")
	w.mustPush("dr1", 1, noise(1000))
	for range 100 {
		w.sealIn(1, noise(30_000))
	}
	w.mustShip()
	nd := c.nodes["dr1"]
	c.until("it is committed", func() bool { s := nd.status(); return s.Err == "" && s.Commit == 101 && s.Durable.Seq == 101 })
	s := nd.n.stream(theStream)
	src := &service{content: [][]byte{noise(1000)}, base: snapshot.Base{Start: 1_800_000, End: 1_900_000, Lineage: "pg:1:1"}}
	if _, err := s.refreshBase(t.Context(), src); err != nil {
		t.Fatal(err)
	}
	to := s.log.TrimPoint(60, 9)
	if to < 30 {
		t.Fatalf("a segment begins with %s", to)
	}
	s.mu.Lock()
	b, err := s.beginAt(to, "pg:1:1")
	s.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.writeBegin(b); err != nil {
		t.Fatal(err)
	}
	again := func(what string, ok func(*stream) bool) {
		t.Helper()
		if err := nd.stop(); err != nil {
			t.Fatal(err)
		}
		nd.start()
		c.until(what, func() bool { s := nd.n.stream(theStream); return s != nil && ok(s) })
	}
	again("the trim is finished", func(s *stream) bool {
		return s.fault == nil && s.log.First() == to && nd.status().Durable.Seq == 101
	})
	path := filepath.Join(streamDir(nd.dir, theStream), beginFileName)
	for _, damage := range []struct {
		name string
		do   func() error
	}{
		{"gone", func() error { return nd.fs.Rename(path, path+".away") }},
		{"of another log", func() error {
			other := b
			other.Before.Chain[0]++
			return nd.n.stream(theStream).writeBegin(other)
		}},
		{"beyond the log", func() error {
			other := b
			other.Before.Seq = 4000
			return nd.n.stream(theStream).writeBegin(other)
		}},
	} {
		if err := damage.do(); err != nil {
			t.Fatalf("%s: %v", damage.name, err)
		}
		again("dr1 is in limbo, its beginning is "+damage.name, func(s *stream) bool { return s.fault != nil && nd.status().Limbo })
		if err := nd.n.stream(theStream).writeBegin(b); err != nil {
			t.Fatal(err)
		}
		again("dr1 counts", func(s *stream) bool { return s.fault == nil && nd.status().Durable.Seq == 101 })
	}
	// What cannot be read is set aside with the log it speaks of, and the node begins anew.
	garbage := []byte("{")
	if err := durable.WriteFile(nd.fs, path, garbage); err != nil {
		t.Fatal(err)
	}
	again("dr1 is in limbo, its beginning cannot be read", func(s *stream) bool { return s.fault != nil })
	if err := nd.stop(); err != nil {
		t.Fatal(err)
	}
	aside, err := SetAside(nd.fs, clock.System(), nd.dir, theStream)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := readFile(nd.fs, aside+"-"+beginFileName); err != nil || !slices.Equal(b, garbage) {
		t.Errorf("beside the log that was set aside: %q, %v", b, err)
	}
	nd.start()
	c.until("dr1 begins anew, in limbo", func() bool {
		s := nd.n.stream(theStream)
		return s != nil && s.fault == nil && nd.status().Limbo && s.log.First() == 1
	})
}

// What the nodes have said was of a term: in the next one any of them may have been cut
// back, and need what it had.
func TestNothingGoesByTheWordOfAnotherTerm(t *testing.T) {
	c := newBaseClusterWith(t, 1, nil, BasePolicy{LookEvery: 20 * time.Millisecond, TrimOff: true, RefreshOff: true}, "dr1")
	w := c.start1()
	w.attach("dr1")
	w.sealLineage("pg:1:1", "")
	w.mustPush("dr1", 1, noise(1000))
	for range 100 {
		w.sealIn(1, noise(30_000))
	}
	w.mustShip()
	s := c.nodes["dr1"].n.stream(theStream)
	c.until("it is committed", func() bool { return c.nodes["dr1"].status().Commit == 101 })
	f, err := s.trimFacts(t.Context())
	if err != nil || !f.Follows {
		t.Fatalf("%+v, %v", f, err)
	}
	to := s.log.TrimPoint(60, 9)
	for _, change := range []func(*fence.Term){
		func(t *fence.Term) { t.Epoch++ }, func(t *fence.Term) { t.StartSeq++ }, func(t *fence.Term) { t.Holder[0]++ },
	} {
		then := f
		change(&then.term)
		if err := s.trimTo(t.Context(), to, then); err != nil || s.log.First() != 1 {
			t.Fatalf("trimmed to %s by what was said in %+v, %v", s.log.First(), then.term, err)
		}
	}
	if err := s.trimTo(t.Context(), to, f); err != nil || s.log.First() != to {
		t.Errorf("trimmed to %s, want %s, %v", s.log.First(), to, err)
	}
}

// Log is kept for a node that lacks it, for as long as was said; then it is said
// that the node needs a base.
func TestLogIsKeptForANodeThatIsAway(t *testing.T) {
	c := newBaseClusterWith(t, 1, nil, BasePolicy{
		LookEvery: 20 * time.Millisecond, Keep: 1, TrimExtra: 1, TrimWait: time.Hour, RefreshOff: true,
	}, "dr1", "dr2")
	w := c.start1()
	w.attach("dr1")
	w.sealLineage("pg:1:1", "")
	content := noise(1000)
	w.mustPush("dr1", 1, content)
	w.sealIn(1, noise(30_000))
	w.mustShip()
	c.until("dr2 has the beginning", func() bool { s := c.nodes["dr2"].status(); return s.Err == "" && s.Durable.Seq == 2 })
	if err := c.nodes["dr2"].stop(); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		w.sealIn(1, noise(30_000))
	}
	w.mustShip()
	nd := c.nodes["dr1"]
	c.until("it is committed", func() bool { return nd.status().Commit == 202 })
	s := nd.n.stream(theStream)
	src := &service{content: [][]byte{content}, base: snapshot.Base{Start: 3_000_000, End: 3_300_000, Lineage: "pg:1:1"}}
	if _, err := s.refreshBase(t.Context(), src); err != nil {
		t.Fatal(err)
	}
	c.until("it is kept for dr2", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return slices.Contains(s.trimmed.For, "dr2")
	})
	if first := s.log.First(); first != 1 {
		t.Errorf("trimmed to %s", first)
	}
	c.nodes["dr2"].start()
	c.until("dr2 has all of it, and it is kept no longer", func() bool {
		s2 := c.nodes["dr2"].n.stream(theStream)
		return s2 != nil && c.nodes["dr2"].status().Durable.Seq == 202 && s.log.First() > 60
	})
}
