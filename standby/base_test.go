package standby

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/rates"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/snapshot"
)

// newBaseCluster has nodes of a stream whose store needs bases.
func newBaseCluster(t testing.TB, w int, fsOf func(tidegate.NodeName) vfs.FS, names ...tidegate.NodeName) *cluster {
	t.Helper()
	return newBaseClusterWith(t, w, fsOf, BasePolicy{LookEvery: 20 * time.Millisecond}, names...)
}

func newBaseClusterWith(t testing.TB, w int, fsOf func(tidegate.NodeName) vfs.FS, p BasePolicy, names ...tidegate.NodeName) *cluster {
	t.Helper()
	c := newClusterWith(t, w, nil, nil)
	c.policy = p
	v := &c.gate.view.Streams[0]
	v.Store, v.Members = "postgres", names
	for _, name := range names {
		nd := &node{c: c, name: name, fs: vfs.OS(), dir: t.TempDir() + "/data"}
		if fsOf != nil {
			nd.fs, nd.dir = fsOf(name), "/data"
		}
		c.nodes[name] = nd
		if _, err := Format(nd.fs, nd.dir, name); err != nil {
			t.Fatal(err)
		}
		nd.start()
	}
	for _, nd := range c.nodes {
		c.until(string(nd.name)+" knows the stream", func() bool { return nd.n.stream(theStream) != nil })
	}
	return c
}

// files writes one file per content.
func files(content ...[]byte) func(context.Context, snapshot.Writer, func(int64)) (snapshot.Base, error) {
	return func(ctx context.Context, w snapshot.Writer, total func(int64)) (snapshot.Base, error) {
		sum := 0
		for _, b := range content {
			sum += len(b)
		}
		total(int64(sum))
		for i, b := range content {
			f, err := w.Create(ctx, snapshot.File{Path: string(rune('a' + i)), Kind: snapshot.KindFile, Mode: 0o600, Size: int64(len(b))})
			if err == nil {
				_, err = f.Write(b)
			}
			if err == nil {
				err = f.Close()
			}
			if err != nil {
				return snapshot.Base{}, err
			}
		}
		return snapshot.Base{Start: 0, End: 10, Lineage: "pg:1:1"}, nil
	}
}

// push puts a base to a node.
func (w *writer) push(to tidegate.NodeName, g tidegate.Generation, meter *snapshot.Meter, content ...[]byte) (shipper.Pushed, error) {
	return w.dialer().PushBase(w.c.ctx(), w.c.nodes[to].n.Identity().Ship, shipper.BaseAttach{
		Stream: theStream, Generation: g, Promise: fence.Promise{Epoch: w.rec.Epoch, Holder: w.rec.Holder.UUID},
	}, shipper.PushConfig{Meter: meter, InFlight: 4}, files(content...))
}

func (w *writer) mustPush(to tidegate.NodeName, g tidegate.Generation, content ...[]byte) snapshot.Progress {
	w.c.t.Helper()
	var meter snapshot.Meter
	if _, err := w.push(to, g, &meter, content...); err != nil {
		w.c.t.Fatalf("push base of generation %d to %s: %v", g, to, err)
	}
	return meter.Progress()
}

// sealIn makes one batch of a generation.
func (w *writer) sealIn(g tidegate.Generation, payload []byte) {
	w.c.t.Helper()
	next := w.pos + tidegate.Position(len(payload))
	sealed, h, err := w.sealer.Seal(nil, batch.Header{
		Kind: batch.KindData, Records: 1, Stream: theStream, Epoch: w.rec.Epoch, Seq: tidegate.Seq(len(w.log) + 1),
		First: w.pos, Next: next, Head: next, Generation: g, OldestTime: 1, NewestTime: 1,
	}, w.chain, payload)
	if err != nil {
		w.c.t.Fatal(err)
	}
	w.chain, w.pos = h.Chain, next
	w.log = append(w.log, sealed)
}

func (w *writer) mustShip() {
	w.c.t.Helper()
	if err := w.ship(); err != nil {
		w.c.t.Fatal(err)
	}
}

// received waits until the nodes have the log, synced.
func (w *writer) received(names ...tidegate.NodeName) {
	w.c.t.Helper()
	for _, name := range names {
		w.c.until(string(name)+" has synced the log", func() bool {
			s := w.c.nodes[name].n.stream(theStream)
			return s.durableSeq() == tidegate.Seq(len(w.log))
		})
	}
}

// restored compares what the newest base on a node gives back.
func (c *cluster) restored(name tidegate.NodeName, content ...[]byte) {
	c.t.Helper()
	store := c.nodes[name].n.stream(theStream).bases.store
	list := store.Bases()
	if len(list) == 0 {
		c.t.Fatalf("%s has no base", name)
	}
	r, err := store.Reader(list[len(list)-1])
	if err != nil {
		c.t.Fatalf("%s: %v", name, err)
	}
	defer r.Close()
	for i, want := range content {
		var b bytes.Buffer
		if err := r.Copy(c.ctx(), i, &b); err != nil || !bytes.Equal(b.Bytes(), want) {
			c.t.Fatalf("%s: file %d differs: %v", name, i, err)
		}
	}
}

// A base crosses to the relay once and fans out from there; until W nodes hold it
// nothing of its generation is durable, however much of the log they have synced.
func TestNothingIsDurableBeforeTheBaseIs(t *testing.T) {
	names := []tidegate.NodeName{"dr1", "dr2", "dr3"}
	c := newBaseCluster(t, 2, nil, names...)
	w := c.start1()
	w.attach("dr1")
	w.seal(20, 1000)
	w.mustShip()
	w.received(names...)
	for _, name := range names {
		st := c.nodes[name].status()
		if st.Durable.Seq != 0 || !strings.HasPrefix(st.Err, "seeding: ") {
			t.Errorf("%s: durable %s, says %q", name, st.Durable, st.Err)
		}
		if b, err := c.nodes[name].n.Bases("ledger", "main"); err != nil || len(b.Bases()) > 0 {
			t.Errorf("%s has a base, %v", name, err)
		}
	}
	if d := w.durable(); d != 0 {
		t.Fatalf("D is %s without any base", d)
	}
	// The writer, which keeps what is not stored, may let go of it.
	for _, name := range names {
		c.until(string(name)+" says what it has stored", func() bool { return w.stored(name) == 20 && w.acked(name) == 0 })
	}
	a, b := noise(9<<20+5), noise(3000)
	p := w.mustPush("dr1", 1, a, b)
	if want := int64(len(a) + len(b)); p.Needed != want || p.Sent > want*101/100 {
		t.Errorf("the base of %d bytes crossed as %+v", want, p)
	}
	c.until("D reaches the end", func() bool { return w.durable() == 20 })
	for _, name := range names {
		c.until(string(name)+" holds the base", func() bool { return c.nodes[name].status().Err == "" })
		c.restored(name, a, b)
		if got := w.acked(name); got != 20 {
			c.until(string(name)+" acknowledges", func() bool { return w.acked(name) == 20 })
		}
	}
	// Pushed again, it is not wanted.
	again, err := w.push("dr1", 1, nil, a, b)
	if err != nil || !again.Held {
		t.Errorf("again: %+v, %v", again, err)
	}
}

// The generation before stays good while the next one is seeded.
func TestSecondGenerationCountsWithItsOwnBase(t *testing.T) {
	c := newBaseCluster(t, 1, nil, "dr1", "dr2")
	c.w = 1
	w := c.start1()
	w.attach("dr1")
	first := noise(5 << 20)
	w.mustPush("dr1", 1, first)
	w.seal(3, 100)
	w.mustShip()
	c.until("D reaches the end of generation 1", func() bool { return w.durable() == 3 })
	w.sealIn(2, noise(50))
	w.sealIn(2, noise(60))
	w.mustShip()
	w.received("dr1", "dr2")
	for _, name := range []tidegate.NodeName{"dr1", "dr2"} {
		c.until(string(name)+" vouches for generation 1 and no more", func() bool { return c.nodes[name].status().Durable.Seq == 3 })
	}
	if d := w.durable(); d != 3 {
		t.Errorf("D is %s without the base of generation 2", d)
	}
	second := slices.Clone(first)
	second[20_000]++
	if p := w.mustPush("dr1", 2, second); p.Needed != snapshot.PageBytes {
		t.Errorf("one page differs, %d bytes crossed", p.Needed)
	}
	c.until("D reaches the end", func() bool { return w.durable() == 5 })
	c.restored("dr1", second)
}

// A fence is told of no more than counts: a head inside of a generation without a
// base could not be started from. And who lacks the base is not counted as joined.
func TestFenceAndAdoptKnowOfBases(t *testing.T) {
	c := newBaseCluster(t, 1, nil, "dr1", "dr2")
	w := c.start1()
	w.attach("dr1")
	w.seal(5, 100)
	w.mustShip()
	w.received("dr1", "dr2")
	if _, err := w.push("dr1", 1, nil, noise(100)); err != nil {
		t.Fatal(err)
	}
	c.until("dr2 has fetched", func() bool { return w.acked("dr2") == 5 })
	w.sealIn(2, noise(50))
	w.mustShip()
	w.received("dr1", "dr2")
	holder := fence.Holder{Node: "app1", Site: "east", UUID: tidegate.NewID()}
	r, err := c.nodes["dr1"].n.Fence(c.ctx(), fenceAsk(2, holder.UUID))
	if err != nil || r.Refused || r.Durable.Seq != 5 {
		t.Fatalf("fence: %+v, %v", r, err)
	}
	// Epoch 2 begins at 5: what was not counted goes to quarantine.
	rec := c.activate(holder)
	if rec.Head.Seq != 5 {
		t.Fatalf("head %s", rec.Head)
	}
	w2 := c.writer(rec)
	w2.log = append(w2.log[:0], w.log[:5]...)
	w2.pos = 500
	w2.attach("dr1")
	// The new writer opens generation 2 once more: an old one's base is not its own.
	w2.sealIn(2, noise(70))
	w2.mustShip()
	w2.received("dr1", "dr2")
	if _, err := w.push("dr1", 2, nil, noise(100)); err == nil || tidegate.ClassOf(err) != tidegate.Fenced {
		t.Errorf("a base of the old writer: %v", err)
	}
	// The whole of it on dr1 only: dr2 is away.
	if err := c.nodes["dr2"].stop(); err != nil {
		t.Fatal(err)
	}
	w2.mustPush("dr1", 2, noise(200_000))
	c.until("D reaches the end", func() bool { return w2.durable() == 6 })
	w2.close()
	c.nodes["dr2"].start()
	c.until("dr2 knows the stream", func() bool { return c.nodes["dr2"].n.stream(theStream) != nil })
	if err := c.nodes["dr1"].stop(); err != nil {
		t.Fatal(err)
	}
	// Nobody has it now but a node that is down.
	head := tidegate.LogPos{Epoch: 2, Seq: 6, Chain: w2.chain}
	ask := fence.AdoptRequest{
		Stream: theStream, Epoch: 3, Holder: tidegate.NewID(), Head: head, Source: "dr2", Reason: fence.ReasonDiverged,
		History: rec.History,
	}
	a, err := c.nodes["dr2"].n.Adopt(c.ctx(), ask)
	if err != nil || a.Adopted || a.Class != tidegate.Transient || !strings.Contains(a.Why, "seeding") {
		t.Fatalf("adopted without the base: %+v, %v", a, err)
	}
	c.nodes["dr1"].start()
	c.until("dr2 has fetched, and joins", func() bool {
		a, err := c.nodes["dr2"].n.Adopt(c.ctx(), ask)
		return err == nil && a.Adopted
	})
}

// A push that is cut off goes on where it was, and so does whoever follows it.
func TestPushIsCutAndFollowersGoOn(t *testing.T) {
	c := newBaseCluster(t, 2, nil, "dr1", "dr2", "dr3")
	w := c.start1()
	w.attach("dr1")
	w.seal(2, 100)
	w.mustShip()
	w.received("dr1", "dr2", "dr3")
	content := noise(6<<20 + 1)
	for extents := 1; extents <= 6; extents++ {
		stop := errors.New("the server went away")
		_, err := w.dialer().PushBase(c.ctx(), c.nodes["dr1"].n.Identity().Ship, shipper.BaseAttach{
			Stream: theStream, Generation: 1, Promise: fence.Promise{Epoch: w.rec.Epoch, Holder: w.rec.Holder.UUID},
		}, shipper.PushConfig{}, func(ctx context.Context, out snapshot.Writer, total func(int64)) (snapshot.Base, error) {
			total(int64(len(content)))
			f, err := out.Create(ctx, snapshot.File{Path: "a", Kind: snapshot.KindFile, Size: int64(len(content))})
			if err == nil {
				_, err = f.Write(content[:extents<<20])
			}
			if err != nil {
				return snapshot.Base{}, err
			}
			s := c.nodes["dr1"].n.stream(theStream)
			var x snapshot.Extent
			x.Cut(content[(extents-1)<<20 : extents<<20])
			c.until("the extent has arrived", func() bool { return s.bases.store.Has(x.Name) })
			return snapshot.Base{}, stop
		})
		if !errors.Is(err, stop) {
			t.Fatalf("cut after %d extents: %v", extents, err)
		}
	}
	if p := w.mustPush("dr1", 1, content); p.Needed > 1 {
		t.Errorf("%d bytes crossed again", p.Needed)
	}
	c.until("D reaches the end", func() bool { return w.durable() == 2 })
	for _, name := range []tidegate.NodeName{"dr1", "dr2", "dr3"} {
		c.until(string(name)+" holds the base", func() bool { return c.nodes[name].status().Err == "" })
		c.restored(name, content)
	}
}

// The copy file holds bases back, and a session that is held back lives on.
func TestBasesObeyTheirRate(t *testing.T) {
	c := newBaseCluster(t, 1, nil, "dr1")
	w := c.start1()
	c.halt(t, rates.Copy, "dr1")
	done := make(chan error, 1)
	var meter snapshot.Meter
	content := noise(3 << 20)
	go func() {
		_, err := w.push("dr1", 1, &meter, content)
		done <- err
	}()
	c.until("it is held back", func() bool {
		for _, r := range c.nodes["dr1"].n.Status().Rates.Rates {
			if r.Name == rates.Copy && r.Waiting > 0 {
				return true
			}
		}
		return false
	})
	if st := c.nodes["dr1"].status(); !strings.Contains(st.Err, "base of generation 1 from app1") {
		t.Errorf("says %q", st.Err)
	}
	if p := meter.Progress(); p.Sent != 0 {
		t.Errorf("%d bytes crossed", p.Sent)
	}
	c.lift(t, rates.Copy)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// Without a batch of its generation nobody knows yet that it is the log's.
	w.attach("dr1")
	w.seal(1, 10)
	w.mustShip()
	c.until("it counts", func() bool { return w.durable() == 1 })
	c.restored("dr1", content)
}

// What was counted on is there after a restart, or the node does not know any more
// what it had.
func TestBasesSurviveARestart(t *testing.T) {
	c := newBaseCluster(t, 1, nil, "dr1")
	w := c.start1()
	w.attach("dr1")
	content := noise(2<<20 + 9)
	w.mustPush("dr1", 1, content)
	w.seal(4, 100)
	w.mustShip()
	c.until("D reaches the end", func() bool { return w.durable() == 4 })
	w.close()
	nd := c.nodes["dr1"]
	if err := nd.stop(); err != nil {
		t.Fatal(err)
	}
	nd.start()
	c.until("dr1 counts again", func() bool { s := nd.n.stream(theStream); return s != nil && nd.status().Durable.Seq == 4 })
	c.restored("dr1", content)
	if err := nd.stop(); err != nil {
		t.Fatal(err)
	}
	list, err := nd.fs.List(filepath.Join(streamDir(nd.dir, theStream), "base/bases"))
	if err != nil || len(list) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	at := filepath.Join(streamDir(nd.dir, theStream), "base/bases", list[0])
	if err := nd.fs.Rename(at, at+".away"); err != nil {
		t.Fatal(err)
	}
	nd.start()
	c.until("dr1 is in limbo", func() bool { s := nd.n.stream(theStream); return s != nil && s.fault != nil })
	if st := nd.status(); !st.Limbo || !strings.Contains(st.Err, "which was counted on") {
		t.Errorf("%+v", st)
	}
	if err := nd.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := SetAside(nd.fs, clock.System(), nd.dir, theStream); err != nil {
		t.Fatal(err)
	}
	nd.start()
	c.until("dr1 begins anew, in limbo", func() bool { s := nd.n.stream(theStream); return s != nil && s.fault == nil && nd.status().Limbo })
}

// A stream whose log says everything needs no base, and takes none from its writer.
func TestJournalsBeginWithoutBase(t *testing.T) {
	c := newCluster(t, 1, nil, "dr1")
	w := c.start1()
	if _, err := w.push("dr1", 1, nil, noise(100)); !errors.Is(err, tidegate.ErrUnsupported) {
		t.Errorf("a base of a journal: %v", err)
	}
	w.attach("dr1")
	w.seal(3, 100)
	w.mustShip()
	c.until("it counts", func() bool { st := c.nodes["dr1"].status(); return st.Err == "" && st.Durable.Seq == 3 })
}

// A node that is seeded from a directory lacks only what differs.
func TestSeededNodeFetchesTheRest(t *testing.T) {
	c := newBaseCluster(t, 1, nil, "dr1")
	w := c.start1()
	content := noise(4 << 20)
	from := t.TempDir()
	if err := writeWhole(filepath.Join(from, "a"), content); err != nil {
		t.Fatal(err)
	}
	nd := c.nodes["dr1"]
	var meter snapshot.Meter
	p, err := Seed(c.ctx(), nd.fs, nd.dir, theStream, from, &meter, nil)
	if err != nil || p.Bytes != int64(len(content)) {
		t.Fatalf("seed: %+v, %v", p, err)
	}
	if nd.status().Err == "" {
		t.Error("a seed counts as a base")
	}
	content[70_000]++
	if p := w.mustPush("dr1", 1, content); p.Needed != snapshot.PageBytes {
		t.Errorf("one page differs, %d bytes crossed", p.Needed)
	}
	w.attach("dr1")
	w.seal(1, 10)
	w.mustShip()
	c.until("it counts", func() bool { return w.durable() == 1 })
	c.restored("dr1", content)
	if _, err := Seed(c.ctx(), nd.fs, nd.dir, tidegate.ID{1}, from, &meter, nil); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("a stream that the node does not know: %v", err)
	}
}

func writeWhole(path string, b []byte) (err error) {
	f, err := vfs.OS().Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}
