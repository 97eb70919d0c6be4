package fence_test

import (
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// group is a service of two streams whose nodes answer at once, with heads that
// the test gives them.
type group struct {
	t     *testing.T
	keys  map[tidegate.StreamID]fence.KeyState
	heads map[tidegate.StreamID]tidegate.LogPos
	ctl   *fence.Controller
	txns  int
	told  []fence.LossStatement
}

func newGroup(t *testing.T) (*group, fence.Plan) {
	g := &group{t: t, keys: map[tidegate.StreamID]fence.KeyState{}, heads: map[tidegate.StreamID]tidegate.LogPos{}}
	holder := fence.Holder{Node: "p0", Site: "east", UUID: tidegate.ID{7}}
	p := fence.Plan{ID: tidegate.ID{9}, Service: "books", Kind: fence.KindSwitchover, Drain: time.Second, Target: fence.Holder{Node: "n0", Site: "west", UUID: tidegate.ID{8}}}
	for i, name := range []tidegate.StreamName{"a", "b"} {
		id := tidegate.StreamID{byte(i + 1)}
		rec, err := fence.NewRecord(id, fence.Config{Members: []fence.Member{{Node: "n0", Incarnation: tidegate.ID{3}}, {Node: "n1", Incarnation: tidegate.ID{4}}}, W: 2}, armed)
		if err != nil {
			t.Fatal(err)
		}
		rec.State, rec.Epoch, rec.ActiveEpoch, rec.Holder, rec.Active, rec.Kind = fence.StateActive, 1, 1, holder, holder, fence.KindAcquire
		rec.History = fence.History{{Epoch: 1, StartSeq: 1, Holder: holder.UUID}}
		g.keys[id] = fence.KeyState{Stream: id, Revision: int64(10 + i), Record: rec}
		g.heads[id] = tidegate.LogPos{Epoch: 1, Seq: 5, Chain: tidegate.Chain{byte(i + 1)}}
		p.Streams = append(p.Streams, fence.StreamPlan{Stream: id, Name: name})
	}
	return g, p
}

// handOver is the writer's part, for the named streams only.
func (g *group) handOver(ids ...tidegate.StreamID) {
	g.t.Helper()
	for _, id := range ids {
		k := g.keys[id]
		rec, err := k.Record.HandOver(k.Record.Promise(), fence.Handover{Head: tidegate.LogPos{Epoch: 1, Seq: 5, Chain: tidegate.Chain{id[0]}}})
		if err != nil {
			g.t.Fatal(err)
		}
		g.keys[id] = fence.KeyState{Stream: id, Revision: k.Revision + 100, Record: rec}
	}
}

func (g *group) do(effects []fence.ControlEffect) {
	for _, e := range effects {
		var ev fence.ControlEvent
		switch e := e.(type) {
		case fence.ReadKeys:
			r := fence.KeysRead{Token: e.Token}
			for _, id := range e.Streams {
				r.Keys = append(r.Keys, g.keys[id])
			}
			ev = r
		case fence.Txn:
			if len(e.Puts) != 2 {
				g.t.Errorf("%s writes %d streams of 2", e.Step, len(e.Puts))
			}
			g.txns++
			rev := int64(1000 * g.txns)
			for _, p := range e.Puts {
				if p.IfRevision != g.keys[p.Stream].Revision {
					g.t.Fatalf("%s compares %d with %d", e.Step, p.IfRevision, g.keys[p.Stream].Revision)
				}
			}
			for _, p := range e.Puts {
				g.keys[p.Stream] = fence.KeyState{Stream: p.Stream, Revision: rev, Record: p.Record}
			}
			ev = fence.TxnDone{Token: e.Token, Committed: true, Revision: rev}
		case fence.SendFence:
			ev = fence.FenceReplied{Reply: fence.FenceReply{
				Stream: e.Req.Stream, Member: e.Member, Promise: fence.Promise{Epoch: e.Req.Epoch, Holder: e.Req.Holder},
				History: fence.History{{Epoch: 1, StartSeq: 1, Holder: tidegate.ID{7}}}, Durable: g.heads[e.Req.Stream],
			}}
		case fence.SendAdopt:
			ev = fence.AdoptReplied{Reply: fence.AdoptReply{
				Stream: e.Req.Stream, Member: e.Member, Adopted: true, Epoch: e.Req.Epoch, Holder: e.Req.Holder,
				Promise: fence.Promise{Epoch: e.Req.Epoch, Holder: e.Req.Holder}, Durable: e.Req.Head,
			}}
		case fence.SendPromote:
			ev = fence.Promoted{Stream: e.Req.Stream, Applied: true}
		case fence.SwitchRoute:
			ev = fence.RouteSwitched{Epoch: e.Epoch}
		case fence.Report:
			g.told = e.Loss
		}
		if ev != nil {
			g.do(g.ctl.Step(time.Unix(0, 0), ev))
		}
	}
}

// The streams of a service change hands together or not at all.
func TestServiceSwitchesOverAsOne(t *testing.T) {
	a, b := tidegate.StreamID{1}, tidegate.StreamID{2}
	for name, tt := range map[string]struct {
		hand []tidegate.StreamID
		lost bool // the standbys of b end before the handover
		step fence.PlanStep
		rule string
		want fence.State // of both streams at the end
	}{
		"both":            {[]tidegate.StreamID{a, b}, false, fence.StepDone, "", fence.StateActive},
		"one falls short": {[]tidegate.StreamID{a, b}, true, fence.StepRefused, fence.RuleHandover, fence.StateFencing},
		"neither":         {nil, false, fence.StepRefused, fence.RuleDrain, fence.StateActive},
	} {
		t.Run(name, func(t *testing.T) {
			g, p := newGroup(t)
			if tt.lost {
				g.heads[b] = tidegate.LogPos{Epoch: 1, Seq: 4, Chain: tidegate.Chain{9}}
			}
			var err error
			if g.ctl, err = fence.NewController(p); err != nil {
				t.Fatal(err)
			}
			g.do(g.ctl.Start(time.Unix(0, 0)))
			g.handOver(tt.hand...)
			g.do(g.ctl.Step(time.Unix(0, 0), fence.Tick{}))
			g.do(g.ctl.Step(time.Unix(2, 0), fence.Deadline{Step: fence.StepDrain}))
			got := g.ctl.Plan()
			if got.Step != tt.step || tt.rule != "" && got.Refusal.Rule != tt.rule {
				t.Fatalf("%s: %v", got.Step, got.Refusal)
			}
			for id, k := range g.keys {
				if k.Record.State != tt.want {
					t.Errorf("stream %d is %s", id[0], k.Record.State)
				}
			}
			if tt.step == fence.StepDone && (len(g.told) != 2 || g.told[1].Kind != fence.LossZero) {
				t.Errorf("%v", g.told)
			}
		})
	}
	t.Run("half", func(t *testing.T) { // no gate of ours writes that; nothing goes on from it
		g, p := newGroup(t)
		var err error
		if g.ctl, err = fence.NewController(p); err != nil {
			t.Fatal(err)
		}
		g.do(g.ctl.Start(time.Unix(0, 0)))
		g.handOver(a)
		g.do(g.ctl.Step(time.Unix(0, 0), fence.Tick{}))
		if got := g.ctl.Plan(); got.Step != fence.StepRefused || got.Refusal.Rule != fence.RuleRecord || g.keys[b].Record.State != fence.StateSwitching {
			t.Errorf("%s: %v, b is %s", got.Step, got.Refusal, g.keys[b].Record.State)
		}
	})
}
