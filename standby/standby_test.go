package standby

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/shipper"
)

func TestBatchesReachDurableOnAllNodesThroughOneRelay(t *testing.T) {
	c := newCluster(t, 2, nil, "dr1", "dr2", "dr3")
	w := c.start1()
	w.attach("dr1")
	w.seal(200, 700)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("D", func() bool { return w.durable() == 200 })
	for _, n := range []tidegate.NodeName{"dr1", "dr2", "dr3"} {
		c.until("ack of "+string(n), func() bool { return w.acked(n) == 200 })
		c.until("commit at "+string(n), func() bool { return c.nodes[n].status().Commit == 200 })
	}
	w.same(200, "dr1", "dr2", "dr3")
}

// The writer loses its relay in the middle, goes to another node and ships on
// from where that one is.
func TestAnotherRelayTakesOverWithoutGapOrDuplicate(t *testing.T) {
	c := newCluster(t, 2, nil, "dr1", "dr2", "dr3")
	w := c.start1()
	w.attach("dr1")
	w.seal(100, 500)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("some D", func() bool { return w.durable() >= 1 })
	if err := c.nodes["dr1"].stop(); err != nil {
		t.Fatal(err)
	}
	c.until("session lost", func() bool { return w.lost() != nil })
	w.attach("dr2")
	w.seal(100, 500)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("D on the two that are left", func() bool { return w.durable() == 200 })
	w.same(200, "dr2", "dr3")

	// The old relay comes back behind and is caught up by the new one.
	c.nodes["dr1"].start()
	c.until("dr1 catches up", func() bool { return w.acked("dr1") == 200 })
	w.same(200, "dr1")
}

// A second session of the same writer ends the first; nothing is stored twice.
func TestTheNewerSessionOfAWriterWins(t *testing.T) {
	c := newCluster(t, 2, nil, "dr1", "dr2")
	w := c.start1()
	w.attach("dr1")
	w.seal(10, 100)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("D", func() bool { return w.durable() == 10 })
	second, at, err := w.dial("dr1")
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if at.Received.Seq != 10 || at.Durable.Seq != 10 || len(at.Tail) != 10 || at.Tail[9].Chain != w.chain {
		t.Errorf("attached %+v", at)
	}
	c.until("first session ends", func() bool { return w.lost() != nil })
	if err := w.lost(); tidegate.ClassOf(err) != tidegate.Transient || !strings.Contains(err.Error(), "superseded") {
		t.Error(describe(err))
	}
}

func TestBadBatchesAreRefusedAndNotStored(t *testing.T) {
	c := newCluster(t, 1, nil, "dr1")
	w := c.start1()
	w.seal(3, 200)
	other := &writer{c: c, rec: w.rec, sealer: w.sealer, chain: tidegate.Chain{1}}
	other.seal(2, 200)
	foreign := &writer{c: c, rec: w.rec, sealer: w.sealer}
	foreign.rec.Epoch++
	foreign.seal(2, 200)
	flipped := bytes.Clone(w.log[1])
	flipped[batch.HeaderSize+3] ^= 4
	good := tidegate.Seq(0)
	for name, tc := range map[string]struct {
		batch []byte
		code  shipper.Code
	}{
		"corrupt":     {flipped, shipper.CodeCorrupt},
		"truncated":   {w.log[1][:len(w.log[1])-2], shipper.CodeCorrupt},
		"reordered":   {w.log[2], shipper.CodeGap},
		"replayed":    {w.log[0], shipper.CodeGap},
		"other chain": {other.log[1], shipper.CodeDiverged},
		"wrong epoch": {foreign.log[1], shipper.CodeDiverged},
	} {
		t.Run(name, func(t *testing.T) {
			conn, at, err := w.dial("dr1")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if at.Received.Seq != good {
				t.Fatalf("node has %s, want %s", at.Received.Seq, good)
			}
			if good == 0 {
				if err := conn.Send(t.Context(), w.log[0]); err != nil {
					t.Fatal(err)
				}
				good = 1
			}
			if err := errors.Join(conn.Send(t.Context(), tc.batch), conn.Flush()); err != nil {
				t.Fatal(err)
			}
			err = ending(conn)
			if r, ok := errors.AsType[*shipper.Refusal](err); !ok || r.Code != tc.code {
				t.Errorf("got %s", describe(err))
			}
			if st := c.nodes["dr1"].status(); st.Received.Seq != 1 {
				t.Errorf("stored %s", st.Received.Seq)
			}
		})
	}
	if err := c.nodes["dr1"].stop(); err != nil {
		t.Errorf("a bad batch stopped the node: %v", err)
	}
}

func ending(conn *shipper.Conn) error {
	for {
		if _, err := conn.Recv(); err != nil {
			return err
		}
	}
}

// Once R nodes are fenced the old writer can make nothing durable, and is told
// by whom it was replaced, also when only another node than its relay knows.
func TestFencedWriterIsRefused(t *testing.T) {
	c := newCluster(t, 2, nil, "dr1", "dr2", "dr3")
	w := c.start1()
	w.attach("dr1")
	w.seal(10, 100)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("acks", func() bool { return w.acked("dr2") == 10 && w.acked("dr3") == 10 })
	next := fence.Promise{Epoch: 2, Holder: tidegate.NewID()}
	for _, n := range []tidegate.NodeName{"dr2", "dr3"} {
		r, err := c.nodes[n].n.Fence(c.ctx(), fence.FenceRequest{Stream: theStream, Epoch: next.Epoch, Holder: next.Holder})
		if err != nil || r.Refused || r.Limbo || r.Durable.Seq != 10 || r.Promise != next {
			t.Fatalf("fence %s: %+v, %v", n, r, err)
		}
	}
	w.seal(1, 100)
	_ = w.ship() // may fail already; the reason is what Recv says
	c.until("writer hears of it", func() bool { return w.lost() != nil })
	err := w.lost()
	r, ok := errors.AsType[*shipper.Refusal](err)
	if !ok || !errors.Is(err, tidegate.ErrFenced) || tidegate.ClassOf(err) != tidegate.Fenced || r.Promise != next {
		t.Errorf("got %s", describe(err))
	}
	if d := w.durable(); d != 10 {
		t.Errorf("D went to %s after the fence", d)
	}
	if _, _, err := w.dial("dr2"); !errors.Is(err, tidegate.ErrFenced) {
		t.Errorf("dial a fenced node: %v", err)
	}
}

// dr1 alone has a tail of epoch 1 when epoch 2 is chosen without it; dr3 has
// less than was chosen and copies it from dr2.
func TestAdoptFetchesWhatIsMissingAndQuarantinesWhatDiverged(t *testing.T) {
	c := newCluster(t, 2, nil, "dr1", "dr2", "dr3")
	w := c.start1()
	w.attach("dr1")
	w.seal(5, 300)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("all have 5", func() bool { return w.acked("dr1") == 5 && w.acked("dr2") == 5 && w.acked("dr3") == 5 })
	if err := c.nodes["dr3"].stop(); err != nil {
		t.Fatal(err)
	}
	w.seal(5, 300)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("two have 10", func() bool { return w.acked("dr1") == 10 && w.acked("dr2") == 10 })
	if err := c.nodes["dr2"].stop(); err != nil {
		t.Fatal(err)
	}
	w.seal(3, 300)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("dr1 has 13", func() bool { return w.acked("dr1") == 13 })
	w.close()
	if err := c.nodes["dr1"].stop(); err != nil {
		t.Fatal(err)
	}
	c.nodes["dr2"].start()
	c.nodes["dr3"].start()
	rec := c.activate(fence.Holder{Node: "dr-app", Site: "west", UUID: tidegate.NewID()}, "dr2", "dr3")
	if rec.Head.Seq != 10 {
		t.Fatalf("chose %s", rec.Head)
	}
	w.same(10, "dr2", "dr3")

	// dr1 missed the adopt and comes back by itself, its tail in quarantine.
	c.nodes["dr1"].start()
	c.until("dr1 adopts", func() bool { return c.nodes["dr1"].status().History.Last().Epoch == 2 })
	st := c.nodes["dr1"].status()
	if st.Received != rec.Head || st.Durable != rec.Head {
		t.Errorf("dr1 is at %s, want %s", st.Received, rec.Head)
	}
	held, err := treeBytes(c.nodes["dr1"].fs, quarantineDir(c.nodes["dr1"].dir, theStream))
	if err != nil || held < 3*batch.HeaderSize {
		t.Errorf("quarantine holds %d bytes, %v", held, err)
	}
	second := c.writer(rec)
	second.attach("dr3")
	second.pos = 10 * 300
	second.seal(20, 100)
	if err := second.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("epoch 2 is durable everywhere", func() bool {
		return second.acked("dr1") == 30 && second.acked("dr2") == 30 && second.acked("dr3") == 30
	})
	second.same(30, "dr1", "dr2", "dr3")
}

// A node that lost its disk is fed and counts for nothing until the record
// names its new incarnation.
func TestWipedNodeStaysInLimboUntilTheRecordNamesIt(t *testing.T) {
	c := newCluster(t, 2, nil, "dr1", "dr2", "dr3")
	w := c.start1()
	w.attach("dr1")
	w.seal(50, 300)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	dr3 := c.nodes["dr3"]
	c.until("all have 50", func() bool { return w.acked("dr3") == 50 })
	old := dr3.n.Identity().Incarnation
	if err := dr3.stop(); err != nil {
		t.Fatal(err)
	}
	dr3.dir = t.TempDir() + "/new"
	fresh, err := Format(dr3.fs, dr3.dir, "dr3")
	if err != nil || fresh.Incarnation == old {
		t.Fatal(fresh, err)
	}
	dr3.start()
	c.until("dr3 acks as another", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.acks[fence.Member{Node: "dr3", Incarnation: fresh.Incarnation}].Durable == 50
	})
	w.same(50, "dr3")
	r, err := dr3.n.Fence(c.ctx(), fence.FenceRequest{Stream: theStream, Epoch: 1, Holder: w.rec.Holder.UUID})
	if err != nil || !r.Limbo {
		t.Fatalf("fence in limbo: %+v, %v", r, err)
	}
	rec, err := w.rec.ExitLimbo(w.rec.Promise(), fence.Member{Node: "dr3", Incarnation: fresh.Incarnation})
	if err != nil {
		t.Fatal(err)
	}
	c.gate.set(rec)
	c.until("dr3 is free", func() bool { return !dr3.status().Limbo })
}

// A stream's directory that vanished while the node's identity stayed must not
// come back under the old incarnation.
func TestLostStreamDirectoryIsAnotherIncarnation(t *testing.T) {
	c := newCluster(t, 1, nil, "dr1")
	w := c.start1()
	before := c.nodes["dr1"].status().Member
	w.attach("dr1")
	w.seal(3, 50)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("D", func() bool { return w.durable() == 3 })
	w.close()
	if err := c.nodes["dr1"].stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(streamDir(c.nodes["dr1"].dir, theStream)); err != nil {
		t.Fatal(err)
	}
	c.nodes["dr1"].start()
	c.until("stream is back", func() bool { return c.nodes["dr1"].n.stream(theStream) != nil })
	if st := c.nodes["dr1"].status(); !st.Limbo || st.Member == before {
		t.Errorf("came back as %s, limbo %v", st.Member, st.Limbo)
	}
}

// With every gate away a restarted node serves from its last view.
func TestNodeServesWithoutAGate(t *testing.T) {
	c := newCluster(t, 2, nil, "dr1", "dr2")
	w := c.start1()
	c.until("views are kept", func() bool {
		v, err := readView(c.nodes["dr1"].fs, c.nodes["dr1"].dir+"/"+viewFileName)
		return err == nil && len(v.Streams) == 1 && v.Streams[0].Record != nil && v.Streams[0].Record.State == fence.StateActive && len(v.Nodes) == 2
	})
	c.gate.mu.Lock()
	c.gate.down = true
	c.gate.mu.Unlock()
	if err := c.nodes["dr1"].stop(); err != nil {
		t.Fatal(err)
	}
	c.nodes["dr1"].start()
	w.attach("dr1")
	w.seal(10, 50)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("D without a gate", func() bool { return w.durable() == 10 })
}

func TestObserverSeesHeadersCommitAndBeacons(t *testing.T) {
	c := newCluster(t, 2, nil, "dr1", "dr2")
	w := c.start1()
	w.attach("dr1")
	w.seal(5, 50)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("D", func() bool { return w.durable() == 5 })
	beacon := shipper.Beacon{Epoch: 1, Generation: 1, L: 99, D: 50, Boot: clock.System().Boot(), Wall: time.Now()}
	if err := w.conn.SendBeacon(beacon); err != nil {
		t.Fatal(err)
	}
	// Through the other node: what it knows came by the relay.
	obs, at, err := w.dialer().Dial(t.Context(), c.nodes["dr2"].n.Identity().Ship, shipper.Attach{Stream: theStream, As: shipper.AsObserver, From: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer obs.Close()
	if at.Node != "dr2" {
		t.Errorf("attached %+v", at)
	}
	var headers, commits, beacons int
	for headers < 5 || commits == 0 || beacons == 0 {
		ev, err := obs.Recv()
		if err != nil {
			t.Fatal(err)
		}
		switch ev := ev.(type) {
		case *shipper.HeaderEvent:
			headers++
			if want := w.log[headers-1]; ev.Header.Chain != batch.ChainOf(want) {
				t.Errorf("header %d differs", headers)
			}
		case *shipper.CommitEvent:
			if ev.Seq == 5 {
				commits++
			}
		case *shipper.BeaconEvent:
			if ev.Beacon.L != 99 || ev.Beacon.AKnown {
				t.Errorf("beacon %+v", ev.Beacon)
			}
			beacons++
		}
	}
	// Both nodes can date the writer's word once clocks were compared on the way.
	for _, n := range []tidegate.NodeName{"dr1", "dr2"} {
		c.until("blind window at "+string(n), func() bool {
			_ = w.conn.SendBeacon(shipper.Beacon{Epoch: 1, Generation: 1, L: 99, D: 50, Boot: clock.System().Boot(), Wall: time.Now()})
			st := c.nodes[n].status()
			return st.Blind != nil && *st.Blind > 0 && *st.Blind < 5*time.Second && st.BeaconReleased == nil && *st.BeaconHead == 99
		})
	}
}

// An observer of a log that cannot be read is told so, and does not wait for more of it.
func TestObserverOfADamagedLog(t *testing.T) {
	c := newCluster(t, 1, nil, "dr1")
	w := c.start1()
	w.attach("dr1")
	w.seal(5, 50)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("D", func() bool { return w.durable() == 5 })
	segments, err := filepath.Glob(filepath.Join(streamDir(c.nodes["dr1"].dir, theStream), "log", "*.seg"))
	if err != nil || len(segments) != 1 {
		t.Fatal(segments, err)
	}
	text, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(text, w.log[2][batch.HeaderSize:])
	text[at+3] ^= 4
	if err := os.WriteFile(segments[0], text, 0o600); err != nil {
		t.Fatal(err)
	}
	obs, _, err := w.dialer().Dial(t.Context(), c.nodes["dr1"].n.Identity().Ship, shipper.Attach{Stream: theStream, As: shipper.AsObserver, From: 1})
	if err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(10*time.Second, func() { _ = obs.Close() }) // Recv reports it
	defer late.Stop()
	for err == nil {
		_, err = obs.Recv()
	}
	if tidegate.ClassOf(err) != tidegate.Corrupt || !strings.Contains(err.Error(), "batch 0000000000000003") {
		t.Errorf("%v", err)
	}
	_ = obs.Close() // it has ended
}
