package gating

import (
	"testing"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/gating/registry"
)

// A registry that was put back names an older epoch of the writer that lives. It
// asks again, says what it holds, and gets an epoch above; the record says that
// it was forgotten until the writer arms its gate.
func TestAcquireAboveWhatTheRegistryForgot(t *testing.T) {
	t.Parallel()
	s, ids, first := ready(t, pb.Mode_MODE_SYNC, nil)
	s.agent("e2", "east")
	held := s.mustAcquire("e2", "east")
	s.write(held[0], 3, "w1", "w2", "w3")
	store, err := registry.Open("demo", s.registry)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	tx := new(registry.Tx)
	for _, rec := range first {
		rec.Holder.UUID, rec.Active.UUID = s.agents["e2"], s.agents["e2"] // the epoch before was its own
		rec.History[len(rec.History)-1].Holder = s.agents["e2"]
		rec.Holder.Node, rec.Active.Node = "e2", "e2"
		tx.Put(registry.EpochKey(rec.Stream), rec)
	}
	if _, err := store.Commit(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	ask := func(with []fence.EpochRecord) map[tidegate.StreamID]fence.EpochRecord {
		t.Helper()
		req := &pb.AcquireEpochRequest{
			Service: "ledger", Holder: &pb.Holder{Node: "e2", Site: "east", Uuid: s.agents["e2"].String()}, Reason: "activated",
		}
		for _, rec := range with {
			req.Held = append(req.Held, &pb.StreamEpoch{StreamId: rec.Stream.String(), Epoch: uint64(rec.Epoch)})
		}
		r, err := s.node(tidegate.RoleAgent, "east", "e2").AcquireEpoch(t.Context(), connect.NewRequest(req))
		if err != nil {
			t.Fatal(err)
		}
		out := map[tidegate.StreamID]fence.EpochRecord{}
		for _, g := range r.Msg.GetGrants() {
			rec, _, err := fencewire.Record(g.GetEpoch())
			if err != nil {
				t.Fatal(err)
			}
			out[rec.Stream] = rec
		}
		return out
	}
	got := ask(held)
	for _, h := range held {
		rec := got[h.Stream]
		if rec.Epoch != h.Epoch+1 || rec.State != fence.StateActive || !rec.Restored || rec.Gate.State != fence.GateUnknown {
			t.Errorf("stream %s: %+v, want an epoch above %s, distrusted until it is armed", h.Stream, rec, h.Epoch)
		}
	}
	if rec := got[ids["a"]]; rec.Head.Seq != 3 {
		t.Errorf("head %s, want all that the epoch of which nobody knew had written", rec.Head)
	}
	// Whoever asks once more, because a late view tells of the past, gets what it has.
	for id, rec := range ask([]fence.EpochRecord{got[ids["a"]], got[ids["b"]]}) {
		if rec.Epoch != got[id].Epoch {
			t.Errorf("asked again: epoch %s, want %s", rec.Epoch, got[id].Epoch)
		}
	}
}
