package fence_test

import (
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// memLog is a log that a test may lengthen and cut.
type memLog struct{ at []tidegate.LogPos }

func (l *memLog) At(seq tidegate.Seq) (tidegate.LogPos, error) {
	switch {
	case seq == 0:
		return tidegate.LogPos{}, nil
	case int(seq) > len(l.at):
		return tidegate.LogPos{}, tidegate.ErrNotFound
	}
	return l.at[seq-1], nil
}

func (l *memLog) grow(epoch tidegate.Epoch, to tidegate.Seq) tidegate.LogPos {
	for s := tidegate.Seq(len(l.at)) + 1; s <= to; s++ {
		l.at = append(l.at, tidegate.LogPos{Epoch: epoch, Seq: s, Chain: chainAt(s)})
	}
	return l.at[to-1]
}

// settle carries out what asks for no decision, and returns the rest.
func settle(n *fence.Node, log *memLog, effects []fence.NodeEffect) (rest []fence.NodeEffect) {
	for len(effects) > 0 {
		e := effects[0]
		effects = effects[1:]
		switch e := e.(type) {
		case fence.Persist:
			effects = append(effects, n.Step(fence.Persisted{Token: e.Token})...)
		case fence.Sync:
			effects = append(effects, n.Step(fence.Synced{Token: e.Token, End: log.at[len(log.at)-1]})...)
		case fence.Cut:
			log.at = log.at[:e.To.Seq]
			effects = append(effects, n.Step(fence.CutDone{Token: e.Token, End: e.To})...)
		default:
			rest = append(rest, e)
		}
	}
	return rest
}

// A linearizable read that waits for a running operation must survive a watched
// record that comes before the operation is over: it is the only way out of limbo.
func TestFreshReadIsNotLostToAWatch(t *testing.T) {
	m := fence.Member{Node: "n0", Incarnation: tidegate.ID{1}}
	rec, err := fence.NewRecord(tidegate.ID{5}, fence.Config{Members: []fence.Member{m}, W: 1}, fence.GateRecord{State: fence.GateArmed, Mode: tidegate.ModeSync})
	if err != nil {
		t.Fatal(err)
	}
	log := &memLog{}
	n, effects := fence.NewNode(fence.FormatMeta(rec.Stream, m), tidegate.LogPos{}, log)
	if more := n.Step(fence.RecordRead{Record: rec, Fresh: true}); len(more) != 0 {
		t.Fatalf("%v while the start is being written", more)
	}
	if more := n.Step(fence.RecordRead{Record: rec}); len(more) != 0 {
		t.Fatalf("%v while the start is being written", more)
	}
	settle(n, log, effects)
	if n.Limbo() {
		t.Error("still in limbo")
	}
}

// A node that was away since its stream was made has never acknowledged anything,
// however many writers there have been: it must not keep a fence from its quorum.
func TestNodeThatMissedTheFirstWritersKnowsWhatItHad(t *testing.T) {
	m := fence.Member{Node: "n0", Incarnation: tidegate.ID{1}}
	rec, err := fence.NewRecord(tidegate.ID{5}, fence.Config{Members: []fence.Member{m}, W: 1}, fence.GateRecord{State: fence.GateArmed, Mode: tidegate.ModeSync})
	if err != nil {
		t.Fatal(err)
	}
	rec.Epoch, rec.ActiveEpoch = 3, 3
	for _, c := range []struct {
		name    string
		history fence.History
		limbo   bool
	}{
		{"no history", nil, false},
		{"a history that the active epoch is not in", fence.History{{Epoch: 1, StartSeq: 1, Holder: tidegate.ID{7}}}, true},
	} {
		meta := fence.FormatMeta(rec.Stream, m)
		meta.History = c.history
		log := &memLog{}
		n, effects := fence.NewNode(meta, log.grow(1, 2), log)
		settle(n, log, effects)
		for range 2 { // the first one tells it the epoch
			settle(n, log, n.Step(fence.RecordRead{Record: rec, Fresh: true}))
		}
		if n.Limbo() != c.limbo {
			t.Errorf("%s: limbo %v, want %v", c.name, n.Limbo(), c.limbo)
		}
	}
}

// A damaged node must not pretend to a term that its log does not reach: a forced
// choice would prefer its short log to a longer one of an older epoch.
func TestFenceReplyClaimsOnlyWhatTheLogReaches(t *testing.T) {
	log := &memLog{}
	holder := tidegate.ID{7}
	meta := fence.NodeMeta{
		Version: 1, Stream: tidegate.ID{5}, Node: "n0", Incarnation: tidegate.ID{1}, EpochRead: true,
		Promise: fence.Promise{Epoch: 4, Holder: holder},
		History: fence.History{{Epoch: 2, StartSeq: 1, Holder: holder}, {Epoch: 4, StartSeq: 9, Holder: holder}},
	}.Damaged(tidegate.ID{2})
	n, effects := fence.NewNode(meta, log.grow(2, 5), log)
	effects = append(effects, n.Step(fence.FenceAsked{Call: 1, Req: fence.FenceRequest{Stream: meta.Stream, Epoch: 5, Holder: holder}})...)
	for _, e := range settle(n, log, effects) {
		if r, ok := e.(fence.ReplyFence); ok {
			if got := r.Reply.History.Last().Epoch; got != 2 || r.Reply.Durable.Seq != 5 || !r.Reply.Limbo {
				t.Errorf("log of epoch %s through %s, limbo %v: want 2 through 5, true", got, r.Reply.Durable.Seq, r.Reply.Limbo)
			}
			return
		}
	}
	t.Error("no reply")
}

// After an unclean head below what was committed, nothing that the new writer
// puts there may be applied before the new writer has committed it. (I24)
func TestUncleanHeadTakesCommitBack(t *testing.T) {
	log := &memLog{}
	old, holder := tidegate.ID{7}, tidegate.ID{8}
	meta := fence.NodeMeta{
		Version: 1, Stream: tidegate.ID{5}, Node: "n0", Incarnation: tidegate.ID{1},
		Promise: fence.Promise{Epoch: 1, Holder: old}, History: fence.History{{Epoch: 1, StartSeq: 1, Holder: old}},
	}
	n, effects := fence.NewNode(meta, log.grow(1, 6), log)
	settle(n, log, effects)
	n.Commit(1, old, 10) // this node lags: 7 to 10 are on others, which are lost
	effects = n.Step(fence.AdoptAsked{Call: 1, Req: fence.AdoptRequest{
		Stream: meta.Stream, Epoch: 2, Holder: holder, History: meta.History, Head: log.at[5], Source: "n1", Reason: fence.ReasonDiverged, Unclean: true,
	}})
	settle(n, log, effects)
	end := log.grow(2, 9)
	n.Received(end)
	if _, ok := n.Durable(end); !ok {
		t.Fatal("epoch 2 not adopted")
	}
	if got := n.ApplyTo(); got != 6 {
		t.Errorf("may apply to %s, committed is 6", got)
	}
}

// A node that holds nothing adopts an epoch whose head nobody keeps, by what its
// shell vouches for; one that holds something, or is told of less than the head,
// does not.
func TestEmptyLogBeginsBeyondTheHead(t *testing.T) {
	holder := tidegate.ID{8}
	for _, c := range []struct {
		name  string
		holds tidegate.Seq
		ends  tidegate.Seq
		want  bool
	}{
		{"empty", 0, 50, true},
		{"at the head, of which nothing was compared", 0, 9, false},
		{"a log that holds something", 4, 50, false},
	} {
		log := &memLog{}
		meta := fence.NodeMeta{Version: 1, Stream: tidegate.ID{5}, Node: "n0", Incarnation: tidegate.ID{1}, EpochRead: true}
		var end tidegate.LogPos
		if c.holds > 0 {
			end = log.grow(2, c.holds)
			meta.History = fence.History{{Epoch: 2, StartSeq: 1, Holder: tidegate.ID{7}}}
		}
		n, effects := fence.NewNode(meta, end, log)
		effects = append(effects, n.Step(fence.AdoptAsked{Call: 1, Req: fence.AdoptRequest{
			Stream: meta.Stream, Epoch: 3, Holder: holder, Head: tidegate.LogPos{Epoch: 2, Seq: 10, Chain: chainAt(10)},
			History: fence.History{{Epoch: 2, StartSeq: 1, Holder: tidegate.ID{7}}}, Source: "n1",
		}})...)
		began := tidegate.LogPos{Epoch: 3, Seq: c.ends, Chain: chainAt(c.ends)}
		replied := false
		for len(effects) > 0 {
			e := effects[0]
			effects = effects[1:]
			switch e := e.(type) {
			case fence.Persist:
				effects = append(effects, n.Step(fence.Persisted{Token: e.Token})...)
			case fence.AskChain:
				effects = append(effects, n.Step(fence.ChainRead{Token: e.Token, Pos: tidegate.LogPos{Epoch: 2, Seq: e.Seq, Chain: chainAt(e.Seq)}})...)
			case fence.Fetch:
				effects = append(effects, n.Step(fence.Fetched{Token: e.Token, End: began, Beyond: true})...)
			case fence.Sync:
				effects = append(effects, n.Step(fence.Synced{Token: e.Token, End: began})...)
			case fence.ReplyAdopt:
				replied = true
				if e.Reply.Adopted != c.want {
					t.Errorf("%s: %+v", c.name, e.Reply)
				}
			}
		}
		if got := n.Adopted().Epoch == 3; !replied || got != c.want {
			t.Errorf("%s: adopted %v, want %v", c.name, got, c.want)
		}
	}
}
