package gating

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/gating/registry"
)

// A new generation that was declared is declared still after a rebuild: by the newest
// word that any node has of it, and with a warning while nobody has opened it.
func TestRebuildKeepsADeclaredGeneration(t *testing.T) {
	t.Parallel()
	id, holder := tidegate.NewID(), tidegate.NewID()
	members := []fence.Member{{Node: "w1", Incarnation: tidegate.NewID()}, {Node: "w2", Incarnation: tidegate.NewID()}, {Node: "w3", Incarnation: tidegate.NewID()}}
	since := time.Unix(1000, 0).UTC()
	describe := func(term tidegate.Epoch, r *pb.Renewal) *pb.StreamDescription {
		return &pb.StreamDescription{
			StreamId: id.String(), Promise: fencewire.PromiseMessage(fence.Promise{Epoch: term, Holder: holder}), Renewal: r,
			History: fencewire.HistoryMessage(fence.History{{Epoch: term, StartSeq: 1, Holder: holder}}),
			Durable: api.LogPosMessage(tidegate.LogPos{Epoch: term, Seq: 4}), Mode: pb.Mode_MODE_SYNC, Members: []string{"w1", "w2", "w3"},
			Config: fencewire.ConfigMessage(fence.Config{Members: members, W: 2}),
		}
	}
	for name, c := range map[string]struct {
		said    []*pb.Renewal
		epoch   tidegate.Epoch // of what is kept; 0: nothing
		pending bool
	}{
		"nobody heard of any": {said: []*pb.Renewal{nil, nil, nil}},
		"one has": {
			said:  []*pb.Renewal{nil, {Epoch: 5, Node: "e1", Site: "east", Reason: "slot lost", Actor: "ann", Since: timestamppb.New(since)}, nil},
			epoch: 5, pending: true,
		},
		"the newest counts": {
			said:  []*pb.Renewal{{Epoch: 2, Node: "e9", Site: "east"}, {Epoch: 5, Node: "e1", Site: "east", Reason: "slot lost", Actor: "ann", Since: timestamppb.New(since)}, {Epoch: 3, Node: "e9"}},
			epoch: 5, pending: true,
		},
		"an epoch was opened for it, which may have come to nothing": {
			said: []*pb.Renewal{{Epoch: 4, Node: "e1", Site: "east", Reason: "slot lost", Actor: "ann", Since: timestamppb.New(since)}, nil, nil}, epoch: 4,
		},
	} {
		f := &found{service: "ledger", name: "a", store: "postgres"}
		for i, m := range members {
			if err := f.add(m, describe(5, c.said[i])); err != nil {
				t.Fatal(err)
			}
		}
		// Each remembers gaps that another does not, and one that all do.
		for i, m := range members {
			sd := describe(5, c.said[i])
			sd.Gaps = api.GapMessages([]tidegate.Gap{{Epoch: 3, Reason: "everybody's", Since: since}, {Epoch: tidegate.Epoch(i), Reason: "one's", Since: since}})
			if err := f.add(m, sd); err != nil {
				t.Fatal(err)
			}
		}
		if got := fmt.Sprint(len(f.gaps), f.gaps[0].Epoch, f.gaps[1].Epoch, f.gaps[2].Epoch, f.gaps[3].Epoch); got != "4 0 1 2 3" {
			t.Errorf("%s: gaps %s", name, got)
		}
		rec, st, warn, err := f.records(id, nil, "east")
		if len(st.Gaps) != 4 {
			t.Errorf("%s: gaps %+v", name, st.Gaps)
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := slices.ContainsFunc(warn, func(w string) bool { return strings.Contains(w, "generation was declared by ann (slot lost)") }); got != c.pending {
			t.Errorf("%s: warnings %q", name, warn)
		}
		if c.epoch == 0 {
			if st.Renewal != nil {
				t.Errorf("%s: %+v", name, st.Renewal)
			}
			continue
		}
		want := registry.Renewal{Epoch: c.epoch, Node: "e1", Site: "east", Reason: "slot lost", Actor: "ann", Since: since}
		if st.Renewal == nil || *st.Renewal != want || st.Renewal.Pending(rec) != c.pending {
			t.Errorf("%s: %+v, pending in epoch %s: %v", name, st.Renewal, rec.ActiveEpoch, st.Renewal.Pending(rec))
		}
	}
}
