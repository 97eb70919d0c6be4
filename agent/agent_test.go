package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/quarantine"
	"github.com/tidegate/tidegate/internal/vfs"
)

// journalBytes is what the journal of h holds up to limit.
func (h *host) bytes(limit tidegate.Position) []byte {
	h.w.t.Helper()
	s := h.agent.streams[0]
	c, err := s.source.Follow(h.w.t.Context(), 0)
	if err != nil {
		h.w.t.Fatal(err)
	}
	u, err := c.Read(limit, 1<<30)
	if err != nil {
		h.w.t.Fatal(err)
	}
	all := bytes.Clone(u.Payload)
	if err := c.Close(); err != nil {
		h.w.t.Fatal(err)
	}
	return all
}

// shipped waits until the standby nodes hold everything up to p, and checks
// that it is the journal's content.
func (h *host) shipped(p tidegate.Position) {
	h.w.t.Helper()
	h.w.log.wait(h.w.t, "everything shipped", func(d *dr) bool {
		for i := len(d.headers) - 1; i >= 0; i-- {
			if d.headers[i].Kind == batch.KindData {
				return d.headers[i].Next >= p
			}
		}
		return p == 0
	})
	if got, want := h.w.log.content(h.w.t), h.bytes(p); !bytes.Equal(got, want) {
		h.w.t.Fatalf("standby nodes hold %d bytes that are not the journal's %d", len(got), len(want))
	}
}

func TestAppendAwaitRoundTrip(t *testing.T) {
	w := newWorld(t, "s1", "s2", "s3")
	n := w.host("east", "n1").openJournal().startAgent()
	if err := n.j.Activate(); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		n.await(n.append(1))
	}
	end := n.append(200)
	n.await(end)
	n.shipped(end)
	st := n.state(StateWriting)
	if e := st.Writer.Exposure; !e.Known || e.Records != 0 {
		t.Errorf("exposure %+v, want 0 and known", e)
	}
	if st.Epoch != 1 || st.Writer.Mode != tidegate.ModeSync || !st.Writer.Recorded {
		t.Errorf("status %+v, want epoch 1, sync, recorded", st)
	}
	if h := w.log.headers[0]; h.Kind != batch.KindLineage || h.Seq != 1 {
		t.Errorf("first batch is %s %s, want lineage 1", h.Kind, h.Seq)
	}
	w.gate.wait(t, "report", func(g *fakeGate) bool {
		r := g.reports["n1"]
		return r != nil && len(r.GetStreams()) == 1 && r.GetStreams()[0].GetEndpoint() == "127.0.0.1:1234"
	})
}

func TestHeartbeatsOnAQuietStream(t *testing.T) {
	w := newWorld(t, "s1")
	n := w.host("east", "n1").openJournal().startAgent()
	if err := n.j.Activate(); err != nil {
		t.Fatal(err)
	}
	w.log.wait(t, "two heartbeats", func(d *dr) bool {
		beats := 0
		for _, h := range d.headers {
			if h.Kind == batch.KindHeartbeat {
				beats++
			}
		}
		return beats >= 2
	})
}

func TestRelaySwitchIsSeamless(t *testing.T) {
	w := newWorld(t, "s1", "s2")
	n := w.host("east", "n1").openJournal().startAgent()
	if err := n.j.Activate(); err != nil {
		t.Fatal(err)
	}
	n.await(n.append(10))
	w.log.setDeaf(true)
	end := n.append(50) // in the ring, not acknowledged
	w.kill(n.state(StateWriting).Writer.Relay)
	w.log.setDeaf(false)
	n.await(end)
	n.shipped(end)
	if st := n.state(StateWriting); st.Epoch != 1 {
		t.Errorf("epoch %s after a relay switch, want 1", st.Epoch)
	}
}

// TestSeedingOutgrowsTheRing has a generation whose log is longer than the ring before
// any of it counts: the standby nodes store it, and lack the base.
func TestSeedingOutgrowsTheRing(t *testing.T) {
	w := newWorld(t, "s1", "s2", "s3")
	w.log.is(&w.log.seeding, true)
	n := w.host("east", "n1")
	n.limits = Limits{BatchBytesMax: 64 << 10, RingBytesMax: 256 << 10}
	n.openJournal().startAgent()
	if err := n.j.Activate(); err != nil {
		t.Fatal(err)
	}
	noise := rand.NewChaCha8([32]byte{7})
	var end tidegate.Position
	for range 64 {
		payload := make([]byte, 16<<10)
		_, _ = noise.Read(payload) // never fails
		r, err := n.j.Append(t.Context(), payload, time.Unix(1000, 0))
		if err != nil {
			t.Fatal(err)
		}
		end = r.Next
	}
	n.shipped(end)
	if st := n.state(StateWriting); st.Writer.DurableSeq != 0 || st.Writer.Relay == "" {
		t.Errorf("status %+v, want a relay, and nothing durable", st.Writer)
	}
	n.held(end)
	w.kill(n.state(StateWriting).Writer.Relay) // another one goes on from where W nodes are
	w.log.is(&w.log.seeding, false)
	n.await(end)
	n.await(n.append(10))
}

func TestRestartAcquiresANewEpochAndProvesItsTail(t *testing.T) {
	w := newWorld(t, "s1")
	n := w.host("east", "n1").openJournal().startAgent()
	if err := n.j.Activate(); err != nil {
		t.Fatal(err)
	}
	n.await(n.append(10))
	first := n.agent.Holder()
	n.stopA()
	n.append(10)
	n.startAgent()
	end := n.append(10)
	n.await(end)
	n.shipped(end)
	st := n.state(StateWriting)
	if st.Epoch != 2 || n.agent.Holder() == first || n.agent.predecessor != first {
		t.Errorf("epoch %s, holder %s after %s (predecessor %s); want epoch 2, a new holder and the old as predecessor",
			st.Epoch, n.agent.Holder(), first, n.agent.predecessor)
	}
}

// A registry that was rebuilt has records above all promises and no writer. The
// one that wrote goes on by itself, under a new epoch, and arms its gate again.
func TestWriterGoesOnAfterARebuildOfTheRegistry(t *testing.T) {
	w := newWorld(t, "s1")
	n := w.host("east", "n1").openJournal().startAgent()
	if err := n.j.Activate(); err != nil {
		t.Fatal(err)
	}
	n.await(n.append(10))
	g := w.gate
	g.mu.Lock()
	g.rec.Active, g.rec.Holder = g.rec.Holder, fence.Holder{UUID: tidegate.NewID()}
	g.rec.Epoch, g.rec.State, g.rec.Restored = g.rec.Epoch+5, fence.StateFencing, true
	g.rec.Gate.State = fence.GateUnknown
	g.revision = 1 // it counts from the beginning
	g.shout()
	g.mu.Unlock()
	w.gate.wait(t, "an epoch above the rebuilt one", func(g *fakeGate) bool { return g.rec.Epoch == 7 && g.rec.State == fence.StateActive })
	end := n.append(10)
	n.await(end)
	n.shipped(end)
	if st := n.state(StateWriting); st.Epoch != 7 {
		t.Errorf("epoch %s, want 7", st.Epoch)
	}
	w.gate.wait(t, "an armed gate", func(g *fakeGate) bool { return g.rec.Gate.State == fence.GateArmed })
}

// A registry that was put back from a backup has forgotten the epoch that is being
// written. The writer goes on, asks for an epoch above it, and arms its gate again.
func TestWriterReclaimsAfterARegistryWasPutBack(t *testing.T) {
	w := newWorld(t, "s1")
	n := w.host("east", "n1").openJournal().startAgent()
	if err := n.j.Activate(); err != nil {
		t.Fatal(err)
	}
	n.await(n.append(10))
	g := w.gate
	g.mu.Lock()
	backup := g.rec
	g.mu.Unlock()
	n.stopA()
	n.startAgent()
	n.await(n.append(10))
	n.state(StateWriting)
	g.mu.Lock()
	last, asked := g.rec.Epoch, g.acquired
	g.rec, g.revision = backup, 1
	g.rec.Restored, g.rec.Gate.State = true, fence.GateUnknown
	g.shout()
	g.mu.Unlock()
	end := n.append(10)
	n.await(end) // nothing stops
	n.shipped(end)
	g.wait(t, "an armed epoch above the forgotten one", func(g *fakeGate) bool {
		return g.rec.Epoch == last+1 && g.rec.State == fence.StateActive && g.rec.Gate.State == fence.GateArmed
	})
	end = n.append(10)
	n.await(end)
	n.shipped(end)
	if st := n.state(StateWriting); st.Epoch != last+1 {
		t.Errorf("epoch %s, want %s", st.Epoch, last+1)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.acquired != asked+1 {
		t.Errorf("asked %d times, want once", g.acquired-asked)
	}
}

func TestServiceRestartGoesOnUnderTheSameEpoch(t *testing.T) {
	w := newWorld(t, "s1")
	n := w.host("east", "n1").openJournal().startAgent()
	if err := n.j.Activate(); err != nil {
		t.Fatal(err)
	}
	n.await(n.append(10))
	n.stopJ()
	n.openJournal()
	if err := n.j.Activate(); err != nil {
		t.Fatal(err)
	}
	end := n.append(10)
	n.await(end)
	n.shipped(end)
	if st := n.state(StateWriting); st.Epoch != 1 {
		t.Errorf("epoch %s after a restart of the service, want 1", st.Epoch)
	}
}

func TestHandoverToAnotherAgentOfTheSite(t *testing.T) {
	w := newWorld(t, "s1")
	n1 := w.host("east", "n1").openJournal().startAgent()
	if err := n1.j.Activate(); err != nil {
		t.Fatal(err)
	}
	end := n1.append(30)
	n1.await(end)
	n2 := w.host("east", "n2").openJournal()
	n2.copyOf(n1, end).startAgent()
	n2.state(StateObserving)
	// The service's own cluster moves the lead: same content, another node.
	n1.j.Deactivate()
	began := time.Now()
	if err := n2.j.Activate(); err != nil {
		t.Fatal(err)
	}
	end = n2.append(30)
	n2.await(end)
	t.Logf("handover took %s", time.Since(began))
	n2.shipped(end)
	if st := n2.state(StateWriting); st.Epoch != 2 {
		t.Errorf("epoch %s, want 2", st.Epoch)
	}
	// The old writer's copy is a prefix; it observes again and may lead again.
	n1.copyOf(n2, end)
	n1.state(StateObserving)
	n2.j.Deactivate()
	if err := n1.j.Activate(); err != nil {
		t.Fatal(err)
	}
	end = n1.append(5)
	n1.await(end)
	n1.shipped(end)
	if len(w.gate.bundles) != 0 {
		t.Errorf("%d bundles after handovers within a site, want none", len(w.gate.bundles))
	}
}

func TestObserverFindsDivergence(t *testing.T) {
	w := newWorld(t, "s1")
	n1 := w.host("east", "n1").openJournal().startAgent()
	if err := n1.j.Activate(); err != nil {
		t.Fatal(err)
	}
	n1.await(n1.append(10))
	n2 := w.host("east", "n2").openJournal()
	for range 30 {
		if _, err := n2.j.Append(t.Context(), []byte("something else entirely"), time.Unix(1000, 0)); err != nil {
			t.Fatal(err)
		}
	}
	n2.startAgent()
	st := n2.state(StateDiverged)
	if st.Observer.Diverged == "" {
		t.Errorf("status %+v, want the reason", st.Observer)
	}
	// Unfit: it does not even ask to become writer.
	asked := w.gate.acquired
	if err := n2.j.Activate(); err == nil {
		w.gate.wait(t, "a reason", func(*fakeGate) bool { return n2.agent.Status().Streams[0].Waiting != "" })
	}
	if w.gate.acquired != asked {
		t.Error("a diverged agent asked for the epoch")
	}
}

// failover makes a holder at another site the writer and lets it ship.
func (w *world) failover(first tidegate.Position) {
	w.gate.grant(fence.Holder{Node: "d1", Site: "west", UUID: tidegate.NewID()}, fence.KindFailover)
	w.log.seal(w.t, first, []byte("what the other site wrote next, longer than one record of the old"))
}

func TestFencedAgentKeepsItsTail(t *testing.T) {
	t.Run("active", func(t *testing.T) { fencedAgentKeepsItsTail(t, false) })
	// A service steps down altogether when one of its streams is fenced, which
	// may be before the agent has counted on the others.
	t.Run("stepped down", func(t *testing.T) { fencedAgentKeepsItsTail(t, true) })
}

func fencedAgentKeepsItsTail(t *testing.T, stepDown bool) {
	w := newWorld(t, "s1")
	w.gate.set(tidegate.ModeBounded, tidegate.Bounds{Records: 100, Bytes: 1 << 20, Window: time.Hour})
	n := w.host("east", "n1").openJournal().startAgent()
	if err := n.j.Activate(); err != nil {
		t.Fatal(err)
	}
	head := n.append(10)
	n.await(head)
	n.shipped(head)
	n.state(StateWriting)
	w.gate.wait(t, "bounds recorded", func(*fakeGate) bool { return n.agent.Status().Streams[0].Writer.Recorded })
	w.log.setDeaf(true)
	n.await(n.append(5)) // released under the bounds, not durable
	end := n.append(3)   // nobody was told
	w.gate.wait(t, "exposure", func(*fakeGate) bool {
		e := n.agent.Status().Streams[0].Writer.Exposure
		return e.Known && e.Records == 5 && e.InDoubtRecords == 3
	})
	if stepDown {
		n.j.Deactivate()
	}
	w.failover(head)
	w.gate.wait(t, "a bundle", func(g *fakeGate) bool { return len(g.bundles) > 0 })
	b := w.gate.bundles[0]
	if b.GetRecords() != 8 || b.GetReleasedRecords() != 5 || b.ReleasedRecords == nil || b.GetWrittenEpoch() != 1 || b.GetCutEpoch() != 2 ||
		b.GetFirstPosition() != uint64(head) || b.GetNextPosition() != uint64(end) {
		t.Errorf("bundle %v; want 8 records from %s to %s, 5 released", b, head, end)
	}
	if err := n.j.Await(t.Context(), end); !errors.Is(err, tidegate.ErrFenced) {
		t.Errorf("await = %v, want fenced", err)
	}
	n.state(StateFenced)
	tail, err := os.ReadFile(filepath.Join(b.GetPath(), tailFile))
	if err != nil {
		t.Fatal(err)
	}
	if want := n.bytes(end)[head:]; !bytes.Equal(tail, want) {
		t.Errorf("quarantine holds %d bytes, want the journal's %d", len(tail), len(want))
	}
	kept, err := quarantine.Read(vfs.OS(), b.GetPath())
	if err != nil {
		t.Fatal(err)
	}
	if *kept.Records != 8 || kept.ID.String() != b.GetId() || kept.Released == nil || kept.Released.Records != 5 || kept.Files[0].Bytes != int64(end-head) {
		t.Errorf("summary %+v", kept)
	}
	// A restart of the agent finds the bundle and says the same again.
	n.stopA()
	n.startAgent()
	w.gate.wait(t, "the bundle again", func(g *fakeGate) bool { return len(g.bundles) > 1 })
	if again := w.gate.bundles[1]; again.GetId() != b.GetId() || again.GetRecords() != 8 || again.GetReleasedRecords() != 5 {
		t.Errorf("second report %v, want the first again", again)
	}
}

// A writer that had nothing beyond the fork says so as soon as its library is
// fenced: nothing of the new epoch will ever be in its log, however long it waits.
func TestFencedAgentWithoutATailSaysSoAtOnce(t *testing.T) {
	w := newWorld(t, "s1")
	n := w.host("east", "n1")
	n.proofWait = time.Hour
	n.openJournal().startAgent()
	if err := n.j.Activate(); err != nil {
		t.Fatal(err)
	}
	head := n.append(10)
	n.await(head)
	n.shipped(head)
	n.state(StateWriting)
	w.failover(head)
	w.gate.wait(t, "an empty bundle", func(g *fakeGate) bool { return len(g.bundles) > 0 })
	if b := w.gate.bundles[0]; b.GetRecords() != 0 || b.ReleasedRecords == nil || b.GetReleasedRecords() != 0 {
		t.Errorf("bundle %v; want none, and known", b)
	}
	n.state(StateFenced)
}

// A replica of the old site has the same tail in its journal; only the agent
// that wrote it knows what was released, so only that one reports.
func TestOnlyTheFormerWriterReportsATail(t *testing.T) {
	w := newWorld(t, "s1")
	w.gate.set(tidegate.ModeBounded, tidegate.Bounds{Records: 100, Bytes: 1 << 20, Window: time.Hour})
	n1 := w.host("east", "n1").openJournal().startAgent()
	if err := n1.j.Activate(); err != nil {
		t.Fatal(err)
	}
	head := n1.append(10)
	n1.await(head)
	n1.shipped(head)
	w.log.setDeaf(true)
	tail := n1.append(4)
	n2 := w.host("east", "n2").openJournal()
	n2.copyOf(n1, tail).startAgent()
	n2.state(StateObserving)
	n1.stopA()
	// The replica sees the new log before the gate tells it of the new epoch.
	w.log.adopt(fence.Promise{Epoch: 2, Holder: tidegate.NewID()})
	w.log.seal(t, head, []byte("what the other site wrote next, longer than one record of the old"))
	n2.state(StateDiverged)
	n2.stopA() // waits for a report that would be under way
	if len(w.gate.bundles) != 0 {
		t.Errorf("the replica reported %v", w.gate.bundles)
	}
	n1.startAgent()
	w.gate.wait(t, "the former writer's bundle", func(g *fakeGate) bool { return len(g.bundles) == 1 })
	if b := w.gate.bundles[0]; b.GetNode() != "n1" || b.GetRecords() != 4 {
		t.Errorf("bundle %v, want 4 records of n1", b)
	}
}

func TestFencedWriterShipsNothingMore(t *testing.T) {
	w := newWorld(t, "s1")
	n := w.host("east", "n1").openJournal().startAgent()
	if err := n.j.Activate(); err != nil {
		t.Fatal(err)
	}
	head := n.append(10)
	n.await(head)
	n.shipped(head)
	w.failover(head)
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	if r, err := n.j.Append(ctx, []byte("late"), time.Unix(1, 0)); err == nil {
		if err := n.j.Await(ctx, r.Next); !errors.Is(err, tidegate.ErrFenced) {
			t.Fatalf("await after the failover = %v, want fenced", err)
		}
	}
	n.state(StateFenced)
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	for _, h := range w.log.headers {
		if h.Kind == batch.KindData && h.First >= head && h.Epoch != 2 {
			t.Errorf("batch %s of epoch %s beyond the failover's head", h.Seq, h.Epoch)
		}
	}
	if w.gate.acquired != 1 {
		t.Errorf("asked for the epoch %d times, want once", w.gate.acquired)
	}
}

func TestGateDownKeepsWriting(t *testing.T) {
	w := newWorld(t, "s1")
	n := w.host("east", "n1").openJournal().startAgent()
	if err := n.j.Activate(); err != nil {
		t.Fatal(err)
	}
	n.await(n.append(1))
	w.gate.stop()
	for range 20 {
		n.await(n.append(5))
	}
	// No gate, no new writer: a restarted agent waits, and says so.
	n.stopA()
	n.startAgent()
	end := n.append(1)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := n.j.Await(ctx, end); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("await without a gate = %v, want no answer", err)
	}
	if st := n.agent.Status(); st.GateReached || st.Streams[0].Writer != nil {
		t.Errorf("status %+v, want no gate and no writer", st)
	}
	w.startGate()
	n.await(end)
	n.shipped(end)
}

// After a failover the target's agent is the holder before its service is
// active; it begins at the head once the service says so.
func TestHolderAfterFailoverWritesOnceActive(t *testing.T) {
	w := newWorld(t, "s1")
	n1 := w.host("east", "n1").openJournal().startAgent()
	if err := n1.j.Activate(); err != nil {
		t.Fatal(err)
	}
	head := n1.append(20)
	n1.await(head)
	n1.shipped(head)
	d1 := w.host("west", "d1").openJournal()
	d1.copyOf(n1, head).startAgent()
	d1.state(StateObserving)
	rec := w.gate.grant(fence.Holder{Node: "d1", Site: "west", UUID: d1.agent.Holder()}, fence.KindFailover)
	if _, err := d1.j.Branch(t.Context(), rec.Epoch, head); err != nil {
		t.Fatal(err)
	}
	if err := d1.j.Activate(); err != nil {
		t.Fatal(err)
	}
	end := d1.append(10)
	d1.await(end)
	d1.shipped(end)
	n1.state(StateFenced)
	if w.gate.acquired != 1 {
		t.Errorf("asked for the epoch %d times, want once: the failover's target is given it", w.gate.acquired)
	}
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	if h := w.log.headers[rec.Head.Seq]; h.Kind != batch.KindLineage || h.Epoch != rec.Epoch {
		t.Errorf("first batch of the new epoch is %s of epoch %s, want lineage of %s", h.Kind, h.Epoch, rec.Epoch)
	}
}

func TestTighteningActsFirstAndLooseningIsRecordedFirst(t *testing.T) {
	w := newWorld(t, "s1")
	n := w.host("east", "n1").openJournal().startAgent()
	if err := n.j.Activate(); err != nil {
		t.Fatal(err)
	}
	n.await(n.append(1))
	w.gate.set(tidegate.ModeOpen, tidegate.Bounds{})
	w.gate.wait(t, "open recorded", func(g *fakeGate) bool { return len(g.recorded) == 1 && g.recorded[0].Mode == tidegate.ModeOpen })
	w.gate.wait(t, "open in force", func(*fakeGate) bool { return n.agent.Status().Streams[0].Writer.Mode == tidegate.ModeOpen })
	w.log.setDeaf(true)
	end := n.append(5)
	n.await(end)
	w.gate.set(tidegate.ModeSync, tidegate.Bounds{})
	w.gate.wait(t, "sync in force", func(*fakeGate) bool {
		st := n.agent.Status().Streams[0].Writer
		return st.Mode == tidegate.ModeSync && !st.Recorded
	})
	if len(w.gate.recorded) != 1 {
		t.Fatal("the record claims sync while released records are not durable")
	}
	w.log.setDeaf(false)
	w.gate.wait(t, "sync recorded", func(g *fakeGate) bool { return len(g.recorded) == 2 && g.recorded[1].Mode == tidegate.ModeSync })
}

func TestStatusAndMetricsAreServed(t *testing.T) {
	w := newWorld(t, "s1")
	n := w.host("east", "n1").openJournal().startAgent()
	if err := n.j.Activate(); err != nil {
		t.Fatal(err)
	}
	n.await(n.append(1))
	w.gate.wait(t, "exposure known", func(*fakeGate) bool {
		st := n.agent.Status().Streams[0].Writer
		return st != nil && st.Exposure.Known
	})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path string) string {
		res, err := client.Get("http://" + n.agent.Addr() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var b bytes.Buffer
		if _, err := b.ReadFrom(res.Body); err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d, %v: %s", path, res.StatusCode, err, b.String())
		}
		return b.String()
	}
	var st Status
	if err := json.Unmarshal([]byte(get("/status")), &st); err != nil || len(st.Streams) != 1 || st.Streams[0].State != StateWriting {
		t.Errorf("status %+v, %v", st, err)
	}
	metrics := get("/metrics")
	for _, want := range []string{
		`tidegate_agent_state{service="ledger",state="writing",stream="main"} 1`,
		`tidegate_agent_exposure_records{service="ledger",stream="main"} 0`,
		`tidegate_agent_gate_mode_info{mode="sync",service="ledger",stream="main"} 1`,
		`tidegate_agent_durable_round_trip_seconds_count`,
	} {
		if !bytes.Contains([]byte(metrics), []byte(want)) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

func TestSecondAgentOnTheSameDataIsRefused(t *testing.T) {
	w := newWorld(t, "s1")
	n := w.host("east", "n1").startAgent()
	a, err := New(n.config(), Deps{
		FS: n.agent.fs, Clock: n.agent.clk, Credentials: n.agent.cred, Log: n.agent.log, Registry: newRegistry(),
		Source: n.source, BootID: "this-boot",
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); tidegate.ClassOf(err) != tidegate.Misuse || tidegate.HintOf(err) == "" {
		t.Errorf("run = %v, want misuse with a hint", err)
	}
}
