package gating

import (
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/registry"
)

// What is known of a gap is what is kept whichever members are lost; what too few say is not
// known.
func TestWhatIsKnownOfAGap(t *testing.T) {
	t.Parallel()
	const stale = 5 * time.Second
	w, clk, v := factual()
	id, _ := tidegate.ParseID(aStream)
	st, rec := v.Streams[id].Value, v.Epochs[id].Value
	p := parts{world: w, timing: Timing{Stale: stale}}
	agent := w.agents["e1"].report.GetStreams()[0]
	gap := func() tidegate.Gap { return w.gapOf(rec, w.sourceOf(st, rec, stale), stale) }

	agent.Lost = "the slot was dropped"
	if g := gap(); g.Durable != nil || g.Head != nil || g.Generation != 0 || g.Epoch != 3 || g.Node != "e1" || g.Lost != agent.GetLost() {
		t.Errorf("nobody tells: %+v", g)
	}
	facts := func() (text string) {
		for _, f := range p.gapFacts(rec, w.sourceOf(st, rec, stale), gap()) {
			text += f.Key + "=" + f.Value + "\n"
		}
		return text
	}
	if text := facts(); !strings.Contains(text, "lost=from an unknown position") || !strings.Contains(text, "new base=of unknown size") {
		t.Error(text)
	}
	agent.Head = new(uint64(900))
	for node, at := range map[tidegate.NodeName]uint64{"w1": 300, "w2": 700, "w3": 800} {
		one := w.standbys[node].report.GetStreams()[0]
		one.Generation, one.DurablePosition, one.BaseBytes, one.Durable.Seq = 2, &at, 5000, at/100
		if node == "w3" {
			one.Limbo = true // it does not know what it had
		}
	}
	if g := gap(); g.Durable == nil || *g.Durable != 300 || g.Head == nil || *g.Head != 900 || g.Generation != 2 {
		t.Errorf("what W members have: %+v", g)
	}
	w.standbys["w1"].report.GetStreams()[0].Limbo = true
	if g := gap(); g.Durable != nil || g.Head == nil {
		t.Errorf("one of W says where its log ends: %+v", g)
	}
	w.standbys["w1"].report.GetStreams()[0].Limbo = false
	if text := facts(); !strings.Contains(text, "lost=from "+tidegate.Position(300).String()) || !strings.Contains(text, "about 5000 bytes") {
		t.Error(text)
	}

	state := func(want pb.GapState) {
		t.Helper()
		if list := p.gapsOf(st, rec); len(list) != 1 || list[0].GetState() != want {
			t.Errorf("want %s: %v", want, list)
		}
	}
	state(pb.GapState_GAP_STATE_OPEN)
	st.Gaps, st.Renewal = []tidegate.Gap{{Epoch: 3}}, &registry.Renewal{Epoch: 3, Node: "e1", Site: "east"}
	state(pb.GapState_GAP_STATE_PENDING)
	st.Renewal.Epoch, st.Gaps[0].Epoch, agent.Epoch = 2, 2, 2
	if list := p.gapsOf(st, rec); len(list) != 2 || list[0].GetState() != pb.GapState_GAP_STATE_ACCEPTED || list[1].GetState() != pb.GapState_GAP_STATE_UNKNOWN {
		t.Errorf("what was said before the log was given up: %v", list)
	}
	agent.Epoch, agent.Lost = 3, ""
	state(pb.GapState_GAP_STATE_ACCEPTED)
	st.Gaps = nil
	if list := p.gapsOf(st, rec); len(list) > 0 {
		t.Errorf("nothing is lost: %v", list)
	}
	clk.boot += tidegate.Instant(time.Hour)
	state(pb.GapState_GAP_STATE_UNKNOWN)
	st.Store = "journal"
	if list := p.gapsOf(st, rec); len(list) > 0 {
		t.Errorf("a journal never says so: %v", list)
	}
}
