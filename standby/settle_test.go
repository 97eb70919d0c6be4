package standby

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/journal"
	"github.com/tidegate/tidegate/stores"
	"github.com/tidegate/tidegate/stores/journal/capture"
)

func TestHistoriesPartAtTheFirstForkOfOne(t *testing.T) {
	for name, tc := range map[string]struct {
		a, b tidegate.Lineage
		want tidegate.Position
	}{
		"equal":             {"journal:x+2@100", "journal:x+2@100", beyondAll},
		"none":              {"journal:x", "journal:x", beyondAll},
		"the log went on":   {"journal:x", "journal:x+2@100+3@200", 100},
		"the journal did":   {"journal:x+2@100+3@200", "journal:x+2@100", 200},
		"each its own way":  {"journal:x+2@100+4@300", "journal:x+2@100+5@250", 250},
		"same place, later": {"journal:x+2@100", "journal:x+3@100", 100},
	} {
		t.Run(name, func(t *testing.T) {
			a, errA := parseHistory(lineage(tc.a))
			b, errB := parseHistory(lineage(tc.b))
			if err := errors.Join(errA, errB); err != nil {
				t.Fatal(err)
			}
			if got := a.parts(b); got != tc.want || b.parts(a) != got {
				t.Errorf("part at %s, want %s", got, tc.want)
			}
		})
	}
	for _, bad := range []tidegate.Lineage{"journal:x+", "journal:x+2", "journal:x+2@", "journal:x+a@3", "journal:x+2@b"} {
		if _, err := parseHistory(lineage(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// lineage writes positions as a lineage does.
func lineage(short tidegate.Lineage) tidegate.Lineage {
	parts := strings.Split(string(short), "@")
	for i, p := range parts[1:] {
		at, rest, more := strings.Cut(p, "+")
		if n, err := strconv.ParseUint(at, 10, 64); err == nil {
			at = tidegate.Position(n).String()
		}
		if more {
			at += "+" + rest
		}
		parts[i+1] = at
	}
	return tidegate.Lineage(strings.Join(parts, "@"))
}

// books is a journal on disk whose bytes depend only on what is appended.
type books struct {
	t   *testing.T
	dir string
	j   *journal.Journal
}

func newBooks(t *testing.T) *books {
	t.Helper()
	b := &books{t: t, dir: filepath.Join(t.TempDir(), "journal")}
	var err error
	b.j, err = journal.Open(b.dir, journal.Config{Service: "ledger", Stream: "main", ID: tidegate.ID{0x0b}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.j.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// write appends records and makes them readable from outside.
func (b *books) write(texts ...string) *books {
	b.t.Helper()
	for _, text := range texts {
		if _, err := b.j.Append(b.t.Context(), []byte(text), time.Unix(int64(b.j.Records()), 0)); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := b.j.Sync(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	return b
}

func (b *books) branch(epoch tidegate.Epoch) {
	b.t.Helper()
	if _, err := b.j.Branch(b.t.Context(), epoch, b.j.End()); err != nil {
		b.t.Fatal(err)
	}
}

// sealFrom seals what the books hold beyond what was sealed, one record a batch.
func (w *writer) sealFrom(b *books) {
	t := b.t
	t.Helper()
	c, err := capture.New(w.c.nodes["dr1"].fs, b.dir).Follow(t.Context(), w.pos)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, err := b.j.NewReader(w.pos)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for {
		rec, ok, err := r.TryNext()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return
		}
		u, err := c.Read(rec.Next, 1)
		if err != nil || u.Records != 1 {
			t.Fatalf("%d records, %v", u.Records, err)
		}
		w.sealOne(batch.KindData, u.Records, u.Payload)
	}
}

func (w *writer) sealLineage(l, previous tidegate.Lineage) {
	w.c.t.Helper()
	p, err := batch.Lineage{Lineage: l, Previous: previous}.Append(nil)
	if err != nil {
		w.c.t.Fatal(err)
	}
	w.sealOne(batch.KindLineage, 0, p)
}

// returning speaks for books that are followed, as the library does.
type returning struct {
	conn *local.Conn
	mu   sync.Mutex
	role local.Role
	back *local.Rewind
	got  []tidegate.Position // where batches began
	wg   sync.WaitGroup
}

func (c *cluster) returning(b *books, released tidegate.Position) *returning {
	c.t.Helper()
	l := &returning{}
	path := local.SocketPath(c.run, local.DaemonStandby, "ledger", "main")
	c.until("socket", func() bool {
		var err error
		l.conn, _, err = local.Dial(c.ctx(), path, local.Hello{
			Service: "ledger", Stream: "main", Kind: local.KindJournal, Dir: b.dir, Lineage: b.j.Lineage(), End: b.j.End(),
		})
		return err == nil
	})
	p := local.LibraryProgress{End: b.j.End(), Applied: b.j.End(), L: local.Count{Position: b.j.Durable()}}
	if released != math.MaxUint64 {
		p.A, p.AKnown = local.Count{Position: released}, true
	}
	if err := l.conn.Send(&p); err != nil {
		c.t.Fatal(err)
	}
	l.wg.Go(func() {
		for {
			m, err := l.conn.Recv()
			if err != nil {
				return
			}
			l.mu.Lock()
			switch m := m.(type) {
			case *local.Role:
				l.role = *m
			case *local.Rewind:
				back := *m
				l.back = &back
			case *local.Batch:
				l.got = append(l.got, m.First)
			}
			l.mu.Unlock()
		}
	})
	c.t.Cleanup(l.close)
	return l
}

func (l *returning) close() {
	_ = l.conn.Close() // may be closed already
	l.wg.Wait()
}

func (l *returning) rewound() *local.Rewind {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.back
}

func (l *returning) state() local.State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.role.State
}

func (l *returning) fed() []tidegate.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]tidegate.Position(nil), l.got...)
}

// ten is what both logs of these tests begin with.
func ten() []string {
	var texts []string
	for i := range 10 {
		texts = append(texts, fmt.Sprintf("record %d", i))
	}
	return texts
}

// forked is a cluster whose log goes on at another site after ten records of
// east, with a branch and three more, which follow the fork.
func forked(t *testing.T) (c *cluster, w2 *writer, log *books, fork tidegate.Position) {
	t.Helper()
	c = withLibrary(t, 1, "dr1")
	log = newBooks(t).write(ten()...)
	w := c.start1()
	w.attach("dr1")
	w.sealLineage(log.j.Lineage(), "")
	w.sealFrom(log)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("all durable", func() bool { return w.durable() == 11 })
	w.close()
	fork = log.j.End()
	previous := log.j.Lineage()
	log.branch(2)
	log.write("west 1", "west 2", "west 3")
	w2 = c.writer(c.activate(fence.Holder{Node: "n2", Site: "north", UUID: tidegate.NewID()}))
	w2.pos = w.pos
	w2.attach("dr1")
	w2.sealLineage(log.j.Lineage(), previous)
	w2.sealFrom(log)
	if err := w2.ship(); err != nil {
		t.Fatal(err)
	}
	end := tidegate.Seq(len(w2.log))
	c.until("all durable", func() bool { return w2.durable() == end })
	return c, w2, log, fork
}

// A primary that comes back with records that the stream went on without is
// rewound to the fork, although its journal is shorter than the log; what it
// leaves behind is counted once and reported, whatever the gate's state.
func TestReturningPrimaryIsRewoundToTheFork(t *testing.T) {
	c, w2, log, fork := forked(t)
	old := newBooks(t).write(ten()...).write("east 1", "east 2")
	if old.j.End() >= log.j.End() {
		t.Fatal("the old journal is not the shorter one")
	}
	released := fork + (old.j.End()-fork)/2 // the first of the two
	c.gate.mu.Lock()
	c.gate.down = true
	c.gate.mu.Unlock()
	for range 2 { // it asks again after it was interrupted: the same answer
		l := c.returning(old, released)
		c.until("told to rewind", func() bool { return l.rewound() != nil })
		if got := *l.rewound(); got.To != fork || got.Epoch != 2 {
			t.Errorf("told %+v, want to %s", got, fork)
		}
		if len(l.fed()) > 0 {
			t.Error("fed before it was rewound")
		}
		l.close()
	}
	// The account survives the node, and the gate's absence.
	nd := c.nodes["dr1"]
	if err := nd.stop(); err != nil {
		t.Fatal(err)
	}
	c.gate.mu.Lock()
	c.gate.down = false
	c.gate.mu.Unlock()
	nd.start()
	var tails []Tail
	c.until("reported", func() bool {
		c.gate.mu.Lock()
		defer c.gate.mu.Unlock()
		tails = c.gate.tails
		return len(tails) > 0
	})
	want := Tail{
		Version: 1, ID: stores.TailID(theStream, 2, fork), Stream: theStream, WrittenEpoch: 1, CutEpoch: 2, First: fork, Next: old.j.End(),
		Records: 2, Bytes: int64(old.j.End() - fork), OldestTime: time.Unix(10, 0).UTC(), NewestTime: time.Unix(11, 0).UTC(),
		ReleasedKnown: true, ReleasedRecords: 1, ReleasedNewest: time.Unix(10, 0).UTC(), Reason: fence.ReasonDiverged, Path: old.dir + "/quarantine",
	}
	for _, got := range tails {
		if got != want {
			t.Errorf("reported %+v\nwant %+v", got, want)
		}
	}
	// Rewound, it is fed from the fork on, as far as the writer says that is durable.
	w2.attach("dr1")
	if err := w2.conn.SendCommit(tidegate.Seq(len(w2.log))); err != nil {
		t.Fatal(err)
	}
	if _, err := old.j.CutTo(t.Context(), fork, "", "diverged"); err != nil {
		t.Fatal(err)
	}
	l := c.returning(old, released)
	c.until("fed", func() bool { return len(l.fed()) == 4 })
	if l.rewound() != nil || l.fed()[0] != fork {
		t.Errorf("rewound %v, fed from %v", l.rewound(), l.fed())
	}
	names, err := nd.fs.List(streamDir(nd.dir, theStream))
	if n := strings.Count(strings.Join(names, " "), "tail-"); err != nil || n != 1 {
		t.Errorf("%d accounts in %v, %v", n, names, err)
	}
}

// One that ended where the other site went on has nothing to leave behind.
func TestPrimaryThatHandedOverFollowsFromThere(t *testing.T) {
	c, _, _, fork := forked(t)
	l := c.returning(newBooks(t).write(ten()...), fork)
	c.until("fed", func() bool { return len(l.fed()) == 4 })
	if l.rewound() != nil || l.fed()[0] != fork {
		t.Errorf("rewound %v, fed from %v", l.rewound(), l.fed())
	}
}

// Lineages that agree are not believed: the content has the last word.
func TestOtherContentIsFoundWhereLineagesAgree(t *testing.T) {
	c, _, _, fork := forked(t)
	for at := range 8 {
		texts := ten()
		for i := at + 2; i < len(texts); i++ {
			texts[i] = fmt.Sprintf("other %02d", i)
		}
		old := newBooks(t).write(texts...)
		same := newBooks(t).write(texts[:at+2]...)
		l := c.returning(old, math.MaxUint64)
		c.until("told to rewind", func() bool { return l.rewound() != nil })
		if got := *l.rewound(); got.To != same.j.End() || got.Epoch != 1 {
			t.Errorf("%d records are the same: told %+v, want to %s (fork at %s)", at+2, got, same.j.End(), fork)
		}
		l.close()
	}
}

// A journal that has nothing in common with the log is nobody's to cut.
func TestStrangersJournalIsRefused(t *testing.T) {
	c, _, _, _ := forked(t)
	for name, old := range map[string]*books{
		"content":    newBooks(t).write("no", "such", "records", "here"),
		"same sizes": newBooks(t).write("recorD 0", "recorD 1", "recorD 2"),
	} {
		l := c.returning(old, math.MaxUint64)
		c.until(name+" refused", func() bool { return strings.Contains(c.nodes["dr1"].status().Err, "of another history") })
		if l.rewound() != nil || len(l.fed()) > 0 {
			t.Errorf("%s: rewound %v, fed %v", name, l.rewound(), l.fed())
		}
		l.close()
	}
}

// A journal that is longer than the log waits until the log shows how it goes on.
func TestLongerJournalWaitsForTheLog(t *testing.T) {
	c := withLibrary(t, 1, "dr1")
	b := newBooks(t).write(ten()...)
	w := c.start1()
	w.attach("dr1")
	w.sealLineage(b.j.Lineage(), "")
	w.sealFrom(b)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("all durable", func() bool { return w.durable() == 11 })
	b.write("more")
	l := c.returning(b, math.MaxUint64)
	c.until("heard", func() bool { return c.nodes["dr1"].status().AppliedPosition != nil })
	if r := l.rewound(); r != nil {
		t.Fatalf("rewound to %s on no evidence", r.To)
	}
	w.sealFrom(b)
	b.write("and more")
	w.sealFrom(b)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("fed", func() bool { return len(l.fed()) == 1 })
	if l.rewound() != nil {
		t.Error("rewound")
	}
}

// A primary that was started again leads its cluster and says so. It is told to
// follow, which makes it stand down, and only then is its journal compared: until
// then it may grow.
func TestActivePrimaryStandsDownBeforeItIsRewound(t *testing.T) {
	c, _, _, fork := forked(t)
	old := newBooks(t).write(ten()...).write("east 1")
	l := c.returning(old, math.MaxUint64)
	if err := l.conn.Send(&local.Activated{Lineage: old.j.Lineage(), L: old.j.End()}); err != nil {
		t.Fatal(err)
	}
	c.until("told to rewind or to follow", func() bool { return l.state() == local.StateFollow || l.rewound() != nil })
	old.write("east 2")
	if l.rewound() != nil {
		// Its first report came before it said that it was active.
		l.close()
		l = c.returning(old, math.MaxUint64)
	}
	for _, m := range []local.Message{
		&local.Deactivated{},
		&local.LibraryProgress{End: old.j.End(), Applied: old.j.End(), L: local.Count{Position: old.j.Durable()}},
	} {
		if err := l.conn.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	c.until("told to rewind", func() bool { return l.rewound() != nil })
	if len(l.fed()) > 0 || l.rewound().To != fork {
		t.Errorf("fed %v, told %+v", l.fed(), l.rewound())
	}
	c.until("all of it reported", func() bool {
		c.gate.mu.Lock()
		defer c.gate.mu.Unlock()
		n := len(c.gate.tails)
		return n > 0 && c.gate.tails[n-1].Records == 2
	})
}

// A neighbour of the writer may be the second node of its cluster: to be told to
// follow would cost it that. Once it has followed another site it is none.
func TestNeighbourOfTheWriterIsToldToFollowOnlyIfItEverDid(t *testing.T) {
	c := withLibrary(t, 1, "dr1")
	c.register()
	at := func(site tidegate.SiteName) *writer {
		w := c.writer(c.activate(fence.Holder{Node: "n2", Site: site, UUID: tidegate.NewID()}))
		w.attach("dr1")
		return w
	}
	w := at("west")
	l := c.library("dr1", nil)
	c.until("idle", func() bool { return l.state() == local.StateIdle })
	w.seal(5, 100)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("durable", func() bool { return w.durable() == 5 })
	if len(l.have()) > 0 {
		t.Error("fed")
	}
	w.close()
	pos := w.pos
	w = at("east")
	w.pos = pos
	w.seal(5, 100)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("follows", func() bool { return len(l.have()) == 1000 })
	w.close()
	pos = w.pos
	w = at("west")
	w.pos = pos
	w.seal(5, 100)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("follows its neighbour", func() bool { return len(l.have()) == 1500 })
	w.close()
	l.close()
	if err := c.nodes["dr1"].stop(); err != nil {
		t.Fatal(err)
	}
	c.nodes["dr1"].start()
	l = c.library("dr1", nil)
	c.until("follows its neighbour after a restart", func() bool { return l.state() == local.StateFollow })
}

// The writer's last batch is applied when everything before it is, and the gate
// hears of it at once, with the digest the service came to.
func TestHandoverIsApplied(t *testing.T) {
	c := withLibrary(t, 2, "dr1", "dr2")
	w := c.start1()
	w.attach("dr1")
	w.seal(20, 100)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	l := c.library("dr1", nil)
	c.until("applied", func() bool { st := c.nodes["dr1"].status(); return st.Applied != nil && *st.Applied == 20 })
	if h := c.nodes["dr1"].status().HandoverApplied; h != nil {
		t.Errorf("handover %+v before there was one", h)
	}
	p, err := batch.Handover{Holder: w.rec.Holder.UUID, StateKnown: true, StateDigest: tidegate.Digest{1}}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	w.sealOne(batch.KindHandover, 0, p)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	want := fence.Handover{Head: tidegate.LogPos{Epoch: 1, Seq: 21, Chain: w.chain}, Position: w.pos, StateKnown: true, StateDigest: tidegate.Digest{1}}
	c.until("reported", func() bool {
		c.gate.mu.Lock()
		defer c.gate.mu.Unlock()
		st := c.gate.reports["dr1"]
		return len(st.Streams) == 1 && st.Streams[0].HandoverApplied != nil && *st.Streams[0].HandoverApplied == want
	})
	c.until("acknowledged as applied", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.acks[w.rec.Config.Members[0]].Applied == 21
	})
	if h := c.nodes["dr2"].status().HandoverApplied; h != nil {
		t.Errorf("dr2 has applied %+v without a service", h)
	}
	w.close()

	// The promotion that follows cuts nothing and branches off at the handover.
	holder := fence.Holder{Node: "dr1", Site: "west", UUID: tidegate.NewID()}
	rec := c.activate(holder)
	if rec.Head != want.Head {
		t.Fatalf("chosen head %s, handed over %s", rec.Head, want.Head)
	}
	done, err := c.nodes["dr1"].n.Promote(c.ctx(), fence.PromoteRequest{Stream: theStream, Epoch: rec.Epoch, Holder: holder.UUID, Head: rec.Head}, nil)
	if err != nil || !done.Done || done.AppliedSeq != 21 || done.Applied != want.Position {
		t.Errorf("promoted %+v, %v", done, err)
	}
	if got := l.have(); len(got) != int(w.pos) {
		t.Errorf("promoted with %d bytes, handed over %s", len(got), w.pos)
	}
	if held := c.nodes["dr1"].n.Status().Quarantined; held != 0 {
		t.Errorf("%d bytes in quarantine after a handover", held)
	}
}
