package fence_test

import (
	"bytes"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

var update = flag.Bool("update", false, "write golden files")

func TestHistory(t *testing.T) {
	a, b := tidegate.ID{1}, tidegate.ID{2}
	h := fence.History{{Epoch: 1, StartSeq: 1, Holder: a}, {Epoch: 3, StartSeq: 5, Holder: a}}
	if got := h.EpochAt(4); got != 1 {
		t.Errorf("epoch at 4: got %s, want 1", got)
	}
	if got := h.EpochAt(5); got != 3 {
		t.Errorf("epoch at 5: got %s, want 3", got)
	}
	o := fence.History{{Epoch: 1, StartSeq: 1, Holder: a}, {Epoch: 2, StartSeq: 4, Holder: b}}
	if got, ok := h.CommonBound(9, o, 7); got != 3 || !ok {
		t.Errorf("common bound: got %d %v, want 3 true", got, ok)
	}
	if _, ok := h.CommonBound(9, fence.History{{Epoch: 1, StartSeq: 1, Holder: b}}, 7); ok {
		t.Error("common bound of foreign histories: got true")
	}
	if got, ok := h.CommonBound(9, h, 7); got != 7 || !ok {
		t.Errorf("common bound of one history: got %d %v, want 7 true", got, ok)
	}
	if err := (fence.History{{Epoch: 2, StartSeq: 1}, {Epoch: 2, StartSeq: 3}}).Validate(); err == nil {
		t.Error("repeated epoch: no error")
	}
	long := fence.History{}
	for e := range fence.HistoryTermsMax + 5 {
		long = long.With(fence.Term{Epoch: tidegate.Epoch(e + 1), StartSeq: tidegate.Seq(e + 1)})
	}
	if len(long) != fence.HistoryTermsMax || long.Last().StartSeq != fence.HistoryTermsMax+5 {
		t.Errorf("long history: %d terms to %v", len(long), long.Last())
	}
}

func TestExitLimboAndGateCompete(t *testing.T) {
	r := goldenRecord()
	by := r.Promise()
	if _, err := r.ExitLimbo(fence.Promise{Epoch: by.Epoch + 1}, r.Config.Members[0]); tidegate.ClassOf(err) != tidegate.Fenced {
		t.Errorf("exit limbo by another: %v", err)
	}
	if _, err := r.SetGate(by, fence.GateRecord{State: fence.GateDegraded}, r.Gate); !errors.Is(err, tidegate.ErrConflict) {
		t.Errorf("armed over another gate than was read: %v", err)
	}
	next, err := r.ExitLimbo(by, fence.Member{Node: "n1", Incarnation: tidegate.ID{9}})
	if err != nil || next.Config.Members[1].Incarnation != (tidegate.ID{9}) || r.Config.Members[1].Incarnation == (tidegate.ID{9}) {
		t.Errorf("exit limbo: %v, %v", next.Config, err)
	}
	r.State = fence.StateFencing
	r.Epoch++
	if _, err := r.SetGate(by, r.Gate, fence.GateRecord{State: fence.GateDegraded}); tidegate.ClassOf(err) != tidegate.Fenced {
		t.Errorf("degrade after a reservation: %v", err)
	}
}

// A view that was overtaken on its way must not end a drain; a record that a
// registry shows anew after it went back must be seen.
func TestOlder(t *testing.T) {
	now := fence.Sighting{Record: goldenRecord(), Revision: 10}
	now.Record.State, now.Record.Restored = fence.StateActive, false
	change := func(revision int64, do func(*fence.EpochRecord)) fence.Sighting {
		s := fence.Sighting{Record: now.Record.Clone(), Revision: revision}
		do(&s.Record)
		return s
	}
	moving := change(10, func(r *fence.EpochRecord) { r.Plan, r.State = tidegate.ID{77}, fence.StateSwitching })
	for _, c := range []struct {
		name    string
		s, have fence.Sighting
		want    bool
	}{
		{"the same", now, now, false},
		{"nothing seen yet", now, fence.Sighting{}, false},
		{"a lower revision", change(9, func(*fence.EpochRecord) {}), now, true},
		{"a higher revision", change(11, func(*fence.EpochRecord) {}), now, false},
		{"an older epoch", change(99, func(r *fence.EpochRecord) { r.Epoch-- }), now, true},
		{"a newer epoch", change(2, func(r *fence.EpochRecord) { r.Epoch++ }), now, false},
		{"the epoch, issued anew", change(2, func(r *fence.EpochRecord) { r.Plan = tidegate.ID{78} }), now, false},
		{"active, before the switchover", now, moving, false},
		{"active, before the switchover, overtaken", change(9, func(*fence.EpochRecord) {}), moving, true},
		{"reserved, before the switchover, overtaken", change(8, func(r *fence.EpochRecord) { r.State = fence.StateFencing }), moving, true},
		{"the epoch went to another", change(8, func(r *fence.EpochRecord) { r.Plan, r.Holder.UUID = tidegate.ID{78}, tidegate.ID{79} }), moving, false},
	} {
		if got := c.s.Older(&c.have); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestPredictLoss(t *testing.T) {
	b := tidegate.Bounds{Records: 10, Bytes: 100, Window: time.Second}
	for _, tt := range []struct {
		name string
		gate fence.GateRecord
		rest bool
		want fence.LossKind
	}{
		{"sync", fence.GateRecord{State: fence.GateArmed, Mode: tidegate.ModeSync}, false, fence.LossZero},
		{"bounded", fence.GateRecord{State: fence.GateArmed, Mode: tidegate.ModeBounded, Bounds: b}, false, fence.LossAtMost},
		{"open", fence.GateRecord{State: fence.GateArmed, Mode: tidegate.ModeOpen}, false, fence.LossUnknown},
		{"degraded", fence.GateRecord{State: fence.GateDegraded, Mode: tidegate.ModeSync}, false, fence.LossUnknown},
		{"blind", fence.GateRecord{State: fence.GateBlindOK, Mode: tidegate.ModeSync}, false, fence.LossUnknown},
		{"restored", fence.GateRecord{State: fence.GateArmed, Mode: tidegate.ModeSync}, true, fence.LossUnknown},
		{"bad mode", fence.GateRecord{State: fence.GateArmed, Mode: "x"}, false, fence.LossUnknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := fence.PredictLoss(fence.EpochRecord{ActiveEpoch: 1, Gate: tt.gate, Restored: tt.rest}); got.Kind != tt.want {
				t.Errorf("got %s, want %s", got.Kind, tt.want)
			}
		})
	}
}

func goldenRecord() fence.EpochRecord {
	h := fence.Holder{Node: "p0", Site: "east", UUID: tidegate.ID{7}}
	return fence.EpochRecord{
		Version: fence.EpochRecordVersion, Stream: tidegate.ID{1}, Epoch: 2, Holder: h, State: fence.StateActive,
		Gate:        fence.GateRecord{State: fence.GateArmed, Mode: tidegate.ModeBounded, Bounds: tidegate.Bounds{Records: 10, Bytes: 100, Window: time.Second}},
		Config:      fence.Config{Members: []fence.Member{{Node: "n0", Incarnation: tidegate.ID{2}}, {Node: "n1", Incarnation: tidegate.ID{3}}}, W: 2},
		ActiveEpoch: 2, Active: h, StartSeq: 5, Head: tidegate.LogPos{Epoch: 1, Seq: 4, Chain: tidegate.Chain{8}},
		History: fence.History{{Epoch: 1, StartSeq: 1, Holder: tidegate.ID{6}}, {Epoch: 2, StartSeq: 5, Holder: h.UUID}},
		Source:  "n0", Plan: tidegate.ID{5}, Kind: fence.KindAcquire, Since: 1,
	}
}

// TestGolden keeps the bytes of version 1 readable for ever.
func TestGolden(t *testing.T) {
	rec, err := goldenRecord().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	meta := fence.FormatMeta(tidegate.ID{1}, fence.Member{Node: "n0", Incarnation: tidegate.ID{2}})
	meta.History, meta.Promise, meta.Starts = goldenRecord().History, goldenRecord().Promise(), 3
	mb, err := meta.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	plan := fence.Plan{
		ID: tidegate.ID{5}, Service: "books", Kind: fence.KindFailover, Target: goldenRecord().Holder, Step: fence.StepAdopt,
		Streams: []fence.StreamPlan{{Stream: tidegate.ID{1}, Name: "a", Record: goldenRecord(), Revision: 12}},
	}
	pb, err := plan.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][]byte{"epochrecord.json": rec, "nodemeta.json": mb, "plan.json": pb} {
		file := "testdata/v1/" + name
		if *update {
			if err := os.MkdirAll("testdata/v1", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %s", name, cmp.Diff(string(want), string(got)))
		}
	}
	if got, err := fence.ParseEpochRecord(rec); err != nil || cmp.Diff(goldenRecord(), got) != "" {
		t.Errorf("record: %v %s", err, cmp.Diff(goldenRecord(), got))
	}
	if got, err := fence.ParseNodeMeta(mb); err != nil || cmp.Diff(meta, got) != "" {
		t.Errorf("meta: %v %s", err, cmp.Diff(meta, got))
	}
	if got, err := fence.ParsePlan(pb); err != nil || cmp.Diff(plan, got) != "" {
		t.Errorf("plan: %v %s", err, cmp.Diff(plan, got))
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"epochrecord.json", "nodemeta.json", "plan.json"} {
		b, err := os.ReadFile("testdata/v1/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := fence.ParseEpochRecord(b); err == nil {
			again, err := r.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			if r2, err := fence.ParseEpochRecord(again); err != nil || !r2.Config.Names(r.Config.Members[0]) {
				t.Fatalf("%v", err)
			}
		}
		if m, err := fence.ParseNodeMeta(b); err == nil {
			if again, err := m.Marshal(); err != nil {
				t.Fatal(err)
			} else if _, err := fence.ParseNodeMeta(again); err != nil {
				t.Fatal(err)
			}
		}
		if p, err := fence.ParsePlan(b); err == nil {
			if again, err := p.Marshal(); err != nil {
				t.Fatal(err)
			} else if _, err := fence.ParsePlan(again); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// oneWriter returns the writer of a record over n members, W of which count.
func oneWriter(t testing.TB, n, w int) (*fence.Writer, fence.Config) {
	t.Helper()
	self := fence.Holder{Node: "p", Site: "east", UUID: tidegate.ID{7}}
	rec := fence.EpochRecord{
		Version: 1, Stream: tidegate.ID{1}, Epoch: 3, ActiveEpoch: 3, Holder: self, Active: self, State: fence.StateActive, StartSeq: 1,
		History: fence.History{{Epoch: 3, StartSeq: 1, Holder: self.UUID}}, Config: fence.Config{W: w},
	}
	for i := range n {
		rec.Config.Members = append(rec.Config.Members, fence.Member{Node: tidegate.NodeName("n" + string(rune('a'+i))), Incarnation: tidegate.ID{byte(i + 1)}})
	}
	wr, err := fence.NewWriter(self, rec)
	if err != nil {
		t.Fatal(err)
	}
	return wr, rec.Config
}

func chainAt(s tidegate.Seq) (c tidegate.Chain) { c[0], c[1], c[15] = byte(s), byte(s>>8), 1; return c }

// TestDurableAgainstSorting compares D with the plain definition, whatever order
// and repetition acks arrive in.
func TestDurableAgainstSorting(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 5).Draw(rt, "n")
		q := rapid.IntRange(1, n).Draw(rt, "w")
		w, cfg := oneWriter(t, n, q)
		const sealed = 300
		for s := tidegate.Seq(1); s <= sealed; s++ {
			if err := w.Sealed(tidegate.LogPos{Epoch: 3, Seq: s, Chain: chainAt(s)}); err != nil {
				rt.Fatal(err)
			}
		}
		type said struct{ node, durable int }
		best := make([]int, n)
		stamps := make([]uint64, n)
		for _, v := range rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) said {
			return said{rapid.IntRange(0, n-1).Draw(rt, "node"), rapid.IntRange(0, 40).Draw(rt, "more")}
		}), 0, 60).Draw(rt, "acks") {
			best[v.node] = min(best[v.node]+v.durable, sealed)
			stamps[v.node]++
			a := fence.Ack{
				Node: cfg.Members[v.node].Node, Incarnation: cfg.Members[v.node].Incarnation, Epoch: 3,
				Durable: tidegate.Seq(best[v.node]), Chain: chainAt(tidegate.Seq(best[v.node])), Stamp: stamps[v.node],
			}
			if best[v.node] == 0 {
				a.Chain = tidegate.Chain{}
			}
			if eff := w.OnAck(a); len(eff) > 0 {
				rt.Fatalf("%+v gave %+v", a, eff)
			}
			w.OnAck(a) // repeated
			sorted := slices.Sorted(slices.Values(best))
			if want := tidegate.Seq(sorted[n-q]); w.Durable() != want {
				rt.Fatalf("D %d, want %d of %v", w.Durable(), want, sorted)
			}
		}
	})
}

// TestStoredFreesTheRing has a generation whose base is not whole yet: what W members
// have stored need not be kept for anybody, and counts for nothing until they state it.
func TestStoredFreesTheRing(t *testing.T) {
	w, cfg := oneWriter(t, 3, 2)
	for s := tidegate.Seq(1); s <= 10; s++ {
		if err := w.Sealed(tidegate.LogPos{Epoch: 3, Seq: s, Chain: chainAt(s)}); err != nil {
			t.Fatal(err)
		}
	}
	var stamp uint64
	says := func(i int, durable, stored, wantD, wantFloor tidegate.Seq) {
		t.Helper()
		stamp++
		a := fence.Ack{
			Node: cfg.Members[i].Node, Incarnation: cfg.Members[i].Incarnation, Epoch: 3,
			Received: 10, Stored: stored, Durable: durable, Stamp: stamp,
		}
		if durable > 0 {
			a.Chain = chainAt(durable)
		}
		if eff := w.OnAck(a); len(eff) > 0 {
			t.Fatalf("%+v gave %+v", a, eff)
		}
		if w.Durable() != wantD || w.Floor() != wantFloor {
			t.Fatalf("node %d, durable %s, stored %s: D %s, floor %s; want %s, %s", i, durable, stored, w.Durable(), w.Floor(), wantD, wantFloor)
		}
	}
	says(0, 0, 6, 0, 1)
	says(1, 0, 5, 0, 6) // two have stored up to 5
	says(0, 6, 6, 0, 6) // one of them counts
	says(1, 0, 8, 0, 7)
	says(2, 0, 9, 0, 9)
	says(1, 7, 8, 6, 9) // it counts at a place that nobody has to be fed any more
	says(1, 8, 8, 6, 9)
	says(0, 9, 9, 8, 10) // D is what one of them has stated
	says(2, 10, 10, 9, 10)
	m := cfg.Members[2]
	if eff := w.OnAck(fence.Ack{Node: m.Node, Incarnation: m.Incarnation, Epoch: 3, Received: 11, Stored: 11, Durable: 10, Chain: chainAt(10), Stamp: 99}); len(eff) == 0 {
		t.Error("a node stored what was never sealed, and is trusted")
	}
}

// TestStoredIsComparedUntilItCounts has a member that counts, and stays behind what the
// others have stored: it is credited where it is, and what it says is compared.
func TestStoredIsComparedUntilItCounts(t *testing.T) {
	w, cfg := oneWriter(t, 3, 2)
	var stamp uint64
	says := func(i int, durable, stored tidegate.Seq, chain tidegate.Chain) []fence.WriterEffect {
		stamp++
		return w.OnAck(fence.Ack{
			Node: cfg.Members[i].Node, Incarnation: cfg.Members[i].Incarnation, Epoch: 3,
			Received: stored, Stored: stored, Durable: durable, Chain: chain, Stamp: stamp,
		})
	}
	const last = 1<<16 + 1000 // more than is kept of
	for s := tidegate.Seq(1); s <= last; s++ {
		if err := w.Sealed(tidegate.LogPos{Epoch: 3, Seq: s, Chain: chainAt(s)}); err != nil {
			t.Fatal(err)
		}
		says(0, 0, s, tidegate.Chain{})
		says(1, 0, s, tidegate.Chain{})
	}
	says(0, last, last, chainAt(last))
	for _, c := range []struct{ durable, want tidegate.Seq }{{10, 0}, {last - 1000, last - 1000}, {last - 10, last - 10}} {
		if eff := says(2, c.durable, c.durable, chainAt(c.durable)); len(eff) > 0 || w.Durable() != c.want {
			t.Errorf("one says %s: D is %s, want %s; %+v", c.durable, w.Durable(), c.want, eff)
		}
	}
	if eff := says(2, last-5, last-5, chainAt(1)); len(eff) == 0 || w.Durable() != last-10 {
		t.Errorf("another log is counted: D is %s", w.Durable())
	}
}

type noLog struct{}

func (noLog) At(tidegate.Seq) (tidegate.LogPos, error) {
	return tidegate.LogPos{}, tidegate.ErrNotFound
}

// TestHotPathAllocatesNothing covers the calls made for each batch.
func TestHotPathAllocatesNothing(t *testing.T) {
	w, cfg := oneWriter(t, 3, 2)
	var seq tidegate.Seq
	ack := fence.Ack{Node: cfg.Members[0].Node, Incarnation: cfg.Members[0].Incarnation, Epoch: 3}
	if got := testing.AllocsPerRun(50, func() {
		seq++
		_ = w.Sealed(tidegate.LogPos{Epoch: 3, Seq: seq, Chain: chainAt(seq)})
		ack.Durable, ack.Chain, ack.Stamp = seq, chainAt(seq), uint64(seq)
		w.OnAck(ack)
	}); got != 0 {
		t.Errorf("writer: %v allocations per batch", got)
	}

	meta := fence.NodeMeta{
		Version: 1, Node: "n0", Incarnation: tidegate.ID{1}, Promise: fence.Promise{Epoch: 3, Holder: tidegate.ID{7}},
		History: fence.History{{Epoch: 3, StartSeq: 1, Holder: tidegate.ID{7}}},
	}
	n, effects := fence.NewNode(meta, tidegate.LogPos{}, noLog{})
	n.Step(fence.Persisted{Token: effects[0].(fence.Persist).Token})
	seq = 0
	if got := testing.AllocsPerRun(50, func() {
		seq++
		end := tidegate.LogPos{Epoch: 3, Seq: seq, Chain: chainAt(seq)}
		if err := n.CheckAppend(3, tidegate.ID{7}, 3); err != nil {
			t.Fatal(err)
		}
		if n.CheckAppend(2, tidegate.ID{7}, 2) == nil {
			t.Fatal("an older epoch was let in")
		}
		n.Received(end)
		if _, ok := n.Durable(end); !ok {
			t.Fatal("no ack")
		}
	}); got != 0 {
		t.Errorf("node: %v allocations per batch", got)
	}
}

func BenchmarkOnAck(b *testing.B) {
	w, cfg := oneWriter(b, 5, 3)
	rng := rand.New(rand.NewPCG(1, 2))
	for s := tidegate.Seq(1); s <= 1000; s++ {
		_ = w.Sealed(tidegate.LogPos{Epoch: 3, Seq: s, Chain: chainAt(s)})
	}
	var stamp uint64
	b.ReportAllocs()
	for b.Loop() {
		stamp++
		m := cfg.Members[rng.IntN(5)]
		w.OnAck(fence.Ack{Node: m.Node, Incarnation: m.Incarnation, Epoch: 3, Durable: 1000, Chain: chainAt(1000), Stamp: stamp})
	}
}
