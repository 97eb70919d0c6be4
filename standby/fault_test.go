package standby

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/quarantine"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/shipper"
)

// Whatever was acknowledged before the power went is there after it, under the
// same incarnation and promise, and nothing of it differs.
func TestPowerCutLosesNothingAcknowledged(t *testing.T) {
	for seed := range int64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			mem, fsOf := mems("dr1", "dr2", "dr3")
			c := newCluster(t, 2, fsOf, "dr1", "dr2", "dr3")
			w := c.start1()
			w.attach("dr1")
			w.seal(150, 900)
			if err := w.ship(); err != nil {
				t.Fatal(err)
			}
			c.until("some acks", func() bool { return w.acked("dr2") > tidegate.Seq(20*seed) })
			acked := w.acked("dr2")
			incarnation := c.nodes["dr2"].n.Identity().Incarnation
			clone := mem["dr2"].CrashClone(seed)
			// The clone was taken after the ack: whatever it lacks was promised.
			if err := c.nodes["dr2"].stop(); err != nil {
				t.Fatal(err)
			}
			c.nodes["dr2"].fs = clone
			c.nodes["dr2"].start()
			st := c.nodes["dr2"].status()
			if st.Durable.Seq < acked || st.Limbo || st.Member.Incarnation != incarnation || st.Promise != w.rec.Promise() {
				t.Fatalf("acknowledged %s, came back with %s, limbo %v, promise %s", acked, st.Durable, st.Limbo, st.Promise)
			}
			w.same(st.Durable.Seq, "dr2")
			c.until("dr2 catches up", func() bool { return w.acked("dr2") == 150 })
			w.same(150, "dr2")
		})
	}
}

// Fence, then the power goes at once: the promise must be there.
func TestPowerCutKeepsThePromise(t *testing.T) {
	mem, fsOf := mems("dr1")
	c := newCluster(t, 1, fsOf, "dr1")
	c.start1()
	holder := tidegate.NewID()
	r, err := c.nodes["dr1"].n.Fence(c.ctx(), fenceAsk(5, holder))
	if err != nil || r.Refused {
		t.Fatal(r, err)
	}
	clone := mem["dr1"].CrashClone(1)
	if err := c.nodes["dr1"].stop(); err != nil {
		t.Fatal(err)
	}
	c.nodes["dr1"].fs = clone
	c.nodes["dr1"].start()
	if st := c.nodes["dr1"].status(); st.Promise.Epoch != 5 || st.Promise.Holder != holder {
		t.Errorf("came back with %s", st.Promise)
	}
	if r, err := c.nodes["dr1"].n.Fence(c.ctx(), fenceAsk(4, tidegate.NewID())); err != nil || !r.Refused {
		t.Errorf("older fence: %+v, %v", r, err)
	}
}

// A node whose disk cannot sync stops at once, and acknowledges nothing more;
// the others go on. What it noted of that survives, also when the disk takes no
// note either.
func TestFailedSyncStopsTheNode(t *testing.T) {
	t.Run("noted on the disk", func(t *testing.T) { failedSync(t, false) })
	t.Run("noted in memory", func(t *testing.T) { failedSync(t, true) })
}

func failedSync(t *testing.T, noNote bool) {
	var broken atomic.Bool
	inject := func(op vfs.Op) error {
		switch {
		case !broken.Load():
		case op.Kind == vfs.OpSync && filepath.Base(filepath.Dir(op.Path)) == "log":
			return vfs.ErrIO
		case noNote && op.Kind == vfs.OpCreate && strings.HasPrefix(op.Path, "/data"):
			return vfs.ErrIO
		}
		return nil
	}
	faulty := vfs.Inject(vfs.NewMem(), inject)
	c := newCluster(t, 2, func(n tidegate.NodeName) vfs.FS {
		if n == "dr2" {
			return faulty
		}
		return nil
	}, "dr1", "dr2", "dr3")
	if noNote {
		if err := c.nodes["dr2"].stop(); err != nil {
			t.Fatal(err)
		}
		c.run = shortRun(t)
		c.nodes["dr2"].start()
	}
	w := c.start1()
	w.attach("dr1")
	w.seal(10, 100)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("all ack", func() bool { return w.acked("dr2") == 10 && w.durable() == 10 })
	broken.Store(true)
	w.seal(10, 100)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("D goes on", func() bool { return w.durable() == 20 })
	err := <-c.nodes["dr2"].done
	c.nodes["dr2"].cancel = nil
	if !errors.Is(err, vfs.ErrIO) {
		t.Errorf("run: %v", err)
	}
	if got := w.acked("dr2"); got != 10 {
		t.Errorf("acknowledged %s without a sync", got)
	}

	// The kernel could still show the tail from memory: it is not believed.
	broken.Store(false)
	w.close()
	if err := c.nodes["dr1"].stop(); err != nil {
		t.Fatal(err)
	}
	c.nodes["dr2"].start()
	if st := c.nodes["dr2"].status(); st.Received.Seq != 10 || st.Limbo {
		t.Errorf("came back with %s, limbo %v", st.Received, st.Limbo)
	}
	if held, err := treeBytes(faulty, quarantineDir("/data", theStream)); err != nil || held == 0 {
		t.Errorf("quarantine holds %d bytes, %v", held, err)
	}
	w.attach("dr3")
	c.until("dr2 copies it again", func() bool { return w.acked("dr2") == 20 })
	w.same(20, "dr2")
	if err := c.nodes["dr2"].stop(); err != nil {
		t.Fatal(err)
	}
	c.nodes["dr2"].start()
	if st := c.nodes["dr2"].status(); st.Received.Seq != 20 {
		t.Errorf("doubted twice: came back with %s", st.Received)
	}
}

// A full disk refuses batches as full, keeps what it has, and takes them again
// when there is room.
func TestFullDiskRefusesAndRecovers(t *testing.T) {
	var full atomic.Bool
	inject := func(op vfs.Op) error {
		if full.Load() && (op.Kind == vfs.OpWrite || op.Kind == vfs.OpWriteAt) && filepath.Base(filepath.Dir(op.Path)) == "log" {
			return vfs.Partial(vfs.ErrNoSpace)
		}
		return nil
	}
	faulty := vfs.Inject(vfs.NewMem(), inject)
	c := newCluster(t, 1, func(tidegate.NodeName) vfs.FS { return faulty }, "dr1")
	w := c.start1()
	w.attach("dr1")
	w.seal(10, 400)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("D", func() bool { return w.durable() == 10 })
	full.Store(true)
	w.seal(10, 400)
	_ = w.ship() // the reason is what Recv says
	c.until("refused", func() bool { return w.lost() != nil })
	if err := w.lost(); !errors.Is(err, tidegate.ErrFull) || tidegate.ClassOf(err) != tidegate.Transient {
		t.Errorf("got %s", describe(err))
	}
	if st := c.nodes["dr1"].status(); st.Received.Seq != 10 {
		t.Errorf("log ends at %s", st.Received)
	}
	full.Store(false)
	w.attach("dr1")
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("D with room again", func() bool { return w.durable() == 20 })
	w.same(20, "dr1")
	w.close()
	if err := c.nodes["dr1"].stop(); err != nil {
		t.Fatal(err)
	}
	c.nodes["dr1"].start()
	w.same(20, "dr1")
}

// What an operator reads must say why a node with a full disk falls behind.
func TestStatusSaysFull(t *testing.T) {
	mem := vfs.NewMem()
	c := newCluster(t, 1, func(tidegate.NodeName) vfs.FS { return mem }, "dr1")
	c.start1()
	told := func() string { return c.nodes["dr1"].n.Status().Streams[0].Err }
	if told() != "" {
		t.Fatalf("with room: %s", told())
	}
	mem.SetCapacity(1)
	c.until("status says full", func() bool { return strings.Contains(told(), "full") && strings.Contains(told(), "dr1") })
	mem.SetCapacity(0)
	c.until("status says nothing more", func() bool { return told() == "" })
}

// A full node is asked again and again, and with pauses that grow.
func TestRelayDoesNotStormAFullNode(t *testing.T) {
	mem := vfs.NewMem()
	c := newCluster(t, 1, func(n tidegate.NodeName) vfs.FS {
		if n == "dr2" {
			return mem
		}
		return nil
	}, "dr1", "dr2")
	w := c.start1()
	w.attach("dr1")
	w.seal(2, 400)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("dr2 has it", func() bool { return w.acked("dr2") == 2 })
	mem.SetCapacity(1)
	c.until("dr2 is full", func() bool { return c.nodes["dr2"].n.Status().Full })
	w.seal(2, 400)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	refused := func() (n float64) {
		families, err := c.nodes["dr2"].reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if f.GetName() == "tidegate_standby_refused_total" && m.GetLabel()[0].GetValue() == "full" {
					n += m.GetCounter().GetValue()
				}
			}
		}
		return n
	}
	c.until("dr2 refuses", func() bool { return refused() > 0 })
	// At a steady 10 a second there would be more in this time; with growing
	// pauses so many take half a minute.
	const many, span = 12, 2 * time.Second
	began := time.Now()
	c.until("time passes", func() bool { return refused() >= many || time.Since(began) > span })
	if n := refused(); n >= many {
		t.Errorf("refused %v times within %s", n, time.Since(began))
	}
	mem.SetCapacity(0)
	c.until("dr2 catches up", func() bool { return w.acked("dr2") == 4 })
}

// A node that does not get on holds neither the writer nor memory.
func TestSlowNodeHoldsNoMemory(t *testing.T) {
	release := make(chan struct{})
	var slow atomic.Bool
	faulty := vfs.Inject(vfs.OS(), func(op vfs.Op) error {
		if slow.Load() && (op.Kind == vfs.OpWrite || op.Kind == vfs.OpWriteAt) && filepath.Base(filepath.Dir(op.Path)) == "log" {
			<-release
		}
		return nil
	})
	c := newCluster(t, 2, nil, "dr1", "dr2", "dr3")
	if err := c.nodes["dr3"].stop(); err != nil {
		t.Fatal(err)
	}
	c.nodes["dr3"].fs = faulty
	c.nodes["dr3"].start()
	w := c.start1()
	w.attach("dr1")
	w.seal(2, 1000)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("all ack", func() bool { return w.acked("dr3") == 2 })
	slow.Store(true)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const batches, size = 400, 256 << 10 // 100 MiB, by 4 MiB of credit
	for range batches {
		w.seal(1, size)
		if err := w.ship(); err != nil {
			t.Fatal(err)
		}
		w.log[len(w.log)-1] = nil // the test's own copy
		w.c.until("D", func() bool { return w.durable()+20 > tidegate.Seq(len(w.log)) })
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 24<<20 {
		t.Errorf("heap grew by %d MiB for a node that stands still", grown>>20)
	}
	if got := w.acked("dr3"); got > 10 {
		t.Errorf("dr3 stood still and acknowledged %s", got)
	}
	slow.Store(false)
	close(release)
	c.until("dr3 catches up", func() bool { return w.acked("dr3") == batches+2 })
}

// Damage below the synced mark is not healed by itself: the node answers limbo
// until an operator sets the log aside, and copies it again.
func TestCorruptLogAnswersLimboUntilSetAside(t *testing.T) {
	mem, fsOf := mems("dr1", "dr2", "dr3")
	c := newCluster(t, 2, fsOf, "dr1", "dr2", "dr3")
	w := c.start1()
	w.attach("dr1")
	w.seal(30, 500)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	dr2 := c.nodes["dr2"]
	c.until("all ack", func() bool { return w.acked("dr2") == 30 && w.acked("dr3") == 30 })
	if err := dr2.stop(); err != nil {
		t.Fatal(err)
	}
	names, err := mem["dr2"].List(streamDir("/data", theStream) + "/log")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	if err := mem["dr2"].FlipBit(filepath.Join(streamDir("/data", theStream), "log", names[0]), 8*3000); err != nil {
		t.Fatal(err)
	}
	dr2.start()
	st := dr2.status()
	if !st.Limbo || st.Err == "" {
		t.Fatalf("opened a corrupt log: %+v", st)
	}
	r, err := dr2.n.Fence(c.ctx(), fenceAsk(2, tidegate.NewID()))
	if err != nil || !r.Limbo {
		t.Errorf("fence: %+v, %v", r, err)
	}
	if _, _, err := w.dial("dr2"); !errors.Is(err, shipper.ErrLimbo) || tidegate.HintOf(err) == "" {
		t.Errorf("attach: %v", err)
	}
	if _, err := SetAside(dr2.fs, clock.System(), dr2.dir, theStream); !errors.Is(err, tidegate.ErrConflict) {
		t.Errorf("set aside under a running node: %v", err)
	}
	if err := dr2.stop(); err != nil {
		t.Fatal(err)
	}
	to, err := SetAside(dr2.fs, clock.System(), dr2.dir, theStream)
	if err != nil {
		t.Fatal(err)
	}
	if held, err := treeBytes(dr2.fs, to); err != nil || held == 0 {
		t.Errorf("%s holds %d bytes, %v", to, held, err)
	}
	if b, err := quarantine.Read(dr2.fs, to); err != nil || b.Kind != quarantine.KindLogAside || b.StreamID != theStream || b.Created.IsZero() {
		t.Errorf("summary %+v, %v", b, err)
	}
	dr2.start()
	c.until("dr2 copies the log again", func() bool { return dr2.status().Durable.Seq == 30 })
	if st := dr2.status(); !st.Limbo || st.Member == w.rec.Config.Members[1] {
		t.Errorf("%+v", st)
	}
	w.same(30, "dr2")
}
