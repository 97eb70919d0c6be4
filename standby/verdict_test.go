package standby

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/snapshot"
)

// A base is of a log whose history is the base's as far as the base reaches.
func TestJudge(t *testing.T) {
	const root = "pg:1:1"
	fork := func(l tidegate.Lineage, epoch string, at tidegate.Position) tidegate.Lineage {
		return l + "+" + tidegate.Lineage(epoch) + "@" + tidegate.Lineage(at.String())
	}
	const start, whole = 0x100, 0x200
	for _, c := range []struct {
		name      string
		base, log tidegate.Lineage
		end       tidegate.Position
		want      verdict
	}{
		{"the log is behind", root, root, whole - 1, verdictOpen},
		{"the log has come through", root, root, whole, verdictOf},
		{"the log says nothing", root, "", whole, verdictOf},
		{"the log says nothing yet", root, "", start, verdictOpen},
		{"of another system", "pg:12:1", root, start, verdictNot},
		{"nobody said of which", "", root, whole, verdictNot},
		{"of which nobody can read", root + "+x", root, whole, verdictNot},
		{"the log forked behind it", root, fork(root, "2", whole+9), whole + 20, verdictOf},
		{"the log forked where it is whole", root, fork(root, "2", whole), whole, verdictOf},
		{"the log forked inside of it", root, fork(root, "2", whole-1), whole + 20, verdictNot},
		{"the log forked before it, and is not there yet", root, fork(root, "2", 0x50), 0x50, verdictNot},
		{"both forked there", fork(root, "2", 0x50), fork(root, "2", 0x50), whole, verdictOf},
		{"both forked there, and the log again", fork(root, "2", 0x50), fork(fork(root, "2", 0x50), "4", 0x60), 0x60, verdictNot},
		{"another fork at the same place", fork(root, "3", 0x50), fork(root, "2", 0x50), 0x50, verdictNot},
		{"it forked, and the log comes to it", fork(root, "2", 0x180), root, 0x180, verdictOpen},
		{"it forked, and the log went on", fork(root, "2", 0x180), root, 0x181, verdictNot},
		{"two forks at one place, and the log has come to the first", fork(fork(root, "2", 0x50), "3", 0x50), fork(root, "2", 0x50), 0x50, verdictOpen},
		{"it forked earlier than the log did", fork(root, "2", 0x50), fork(root, "3", 0x60), 0x60, verdictNot},
	} {
		if got := judge(snapshot.Base{Start: start, End: whole, Lineage: c.base}, c.log, c.end); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// wentBack has dr1 adopt the next epoch from one of its own batches, as an unclean
// failover does, and returns the epoch's writer.
func (w *writer) wentBack(to tidegate.Seq) *writer {
	c := w.c
	c.t.Helper()
	w.close()
	n := c.nodes["dr1"].n
	s := n.stream(theStream)
	head, h, err := s.log.At(to)
	if err != nil {
		c.t.Fatal(err)
	}
	rec, holder := w.rec.Clone(), fence.Holder{Node: "app1", Site: "east", UUID: tidegate.NewID()}
	rec.Epoch++
	rec.ActiveEpoch, rec.Holder, rec.Active, rec.Head, rec.StartSeq = rec.Epoch, holder, holder, head, to+1
	ask := fence.AdoptRequest{
		Stream: theStream, Epoch: rec.Epoch, Holder: holder.UUID, History: rec.History, Head: head, Source: "dr1", Reason: fence.ReasonDiverged, Unclean: true,
	}
	rec.History = rec.History.With(fence.Term{Epoch: rec.Epoch, StartSeq: rec.StartSeq, Holder: holder.UUID})
	c.until("dr1 has adopted", func() bool {
		if _, err := n.Adopt(c.ctx(), ask); err != nil {
			c.t.Fatal(err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.core.Adopted().Epoch == rec.Epoch
	})
	c.gate.set(rec)
	next := c.writer(rec)
	next.log, next.pos = slices.Clone(w.log[:to]), h.Next
	next.attach("dr1")
	return next
}

// After an unclean failover that went back behind a base, the base is given to nobody, and
// nothing is decided by it; what the log has come to behind it does not count where there is
// no other.
func TestBaseOfAnAbandonedHistory(t *testing.T) {
	c := newBaseClusterWith(t, 1, nil, BasePolicy{LookEvery: 20 * time.Millisecond, TrimOff: true, RefreshOff: true}, "dr1")
	w := c.start1()
	w.attach("dr1")
	w.sealLineage("pg:1:1", "")
	w.mustPush("dr1", 1, noise(100)) // from 0, whole at 10
	w.seal(20, 1)                    // batch n ends at n-1
	w.mustShip()
	nd := c.nodes["dr1"]
	c.until("all is committed", func() bool { return nd.status().Commit == 21 })
	c.renewed("dr1", 15, noise(200))
	if at := c.starts("dr1"); !slices.Equal(at, []tidegate.Position{0, 15}) {
		t.Fatalf("bases at %v", at)
	}

	w = w.wentBack(13)
	w.sealLineage("pg:1:1+2@000000000000000c", "pg:1:1")
	w.seal(20, 1)
	w.mustShip()
	c.until("the other way is committed", func() bool { return nd.status().Commit == 34 && w.durable() == 34 })
	s := nd.n.stream(theStream)
	find := func() (tidegate.Position, bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		src, _, found := s.findBase(1)
		if !found || src.listed == nil { // one is being pushed
			return 0, false
		}
		return src.listed.Start, true
	}
	if at, found := find(); !found || at != 0 {
		t.Errorf("a base at %s would be given, %v", at, found)
	}
	if at := c.starts("dr1"); !slices.Equal(at, []tidegate.Position{0}) {
		t.Errorf("bases at %v", at)
	}
	if f, err := s.refreshFacts(); err != nil || !f.held || f.log != 32 {
		t.Errorf("what would renew it: %+v, %v", f, err)
	}
	if err := (&library{s: s}).worth(&local.Snapshot{Position: 14}); err != nil {
		t.Errorf("a state newer than what is of use: %v", err)
	}
	if s.noNews(shipper.BaseAttached{Generation: 1, Opened: 1, Start: 15}) {
		t.Error("the log's own base would be left for the other")
	}

	// Behind what the first one needs, too.
	w = w.wentBack(7)
	w.sealLineage("pg:1:1+3@0000000000000006", "pg:1:1")
	w.seal(20, 1)
	w.mustShip()
	w.received("dr1")
	if st := nd.status(); st.Durable.Seq != 0 || !strings.HasPrefix(st.Err, "seeding: ") || w.durable() != 0 {
		t.Errorf("durable %s, D %s, says %q", st.Durable, w.durable(), st.Err)
	}
	if at, found := find(); found {
		t.Errorf("a base at %s would be given", at)
	}
	_, err := w.dialer().PushBase(c.ctx(), nd.n.Identity().Ship, shipper.BaseAttach{
		Stream: theStream, Generation: 1, Promise: fence.Promise{Epoch: w.rec.Epoch, Holder: w.rec.Holder.UUID},
	}, shipper.PushConfig{}, func(ctx context.Context, out snapshot.Writer, total func(int64)) (snapshot.Base, error) {
		_, err := files(noise(300))(ctx, out, total)
		return snapshot.Base{Start: 8, End: 9, Lineage: "pg:1:1+3@0000000000000006"}, err
	})
	if err != nil {
		t.Fatal(err)
	}
	c.until("it counts with a base of its own", func() bool { return w.durable() == 28 })
	c.until("it would be given", func() bool { at, found := find(); return found && at == 8 })
}

// A lineage that was said within a term is known, also by a process that has nothing but the log.
func TestLineageWithinATerm(t *testing.T) {
	c := newBaseCluster(t, 1, nil, "dr1")
	w := c.start1()
	w.attach("dr1")
	w.sealLineage("pg:1:1", "")
	w.seal(5, 10)
	const forked = "pg:1:1+2@0000000000000032"
	w.sealLineage(forked, "pg:1:1")
	w.seal(5, 10)
	w.mustShip()
	w.received("dr1")
	nd := c.nodes["dr1"]
	path := filepath.Join(streamDir(nd.dir, theStream), linesFileName)
	for _, what := range []string{"as it came", "after a restart", "without what was written down"} {
		s := nd.n.stream(theStream)
		for seq, want := range map[tidegate.Seq]tidegate.Lineage{6: "pg:1:1", 7: forked, 12: forked} {
			if l, err := s.lineageThrough(seq); err != nil || l != want {
				t.Errorf("%s, at %s: %q, %v; want %q", what, seq, l, err, want)
			}
		}
		if what == "after a restart" {
			if err := nd.fs.Rename(path, path+".away"); err != nil {
				t.Fatal(err)
			}
		}
		if err := nd.stop(); err != nil {
			t.Fatal(err)
		}
		nd.start()
		c.until("dr1 has the log", func() bool { s := nd.n.stream(theStream); return s != nil && s.durableSeq() == 12 })
	}
	if known, err := exists(nd.fs, path); err != nil || !known {
		t.Errorf("it is not written down again: %v", err)
	}
}
