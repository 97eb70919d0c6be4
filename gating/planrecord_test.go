package gating

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

func somePlan() fence.Plan {
	return fence.Plan{
		ID: tidegate.ID{1}, Service: "ledger", Kind: fence.KindFailover, Target: fence.Holder{Node: "w1", Site: "west", UUID: tidegate.ID{2}},
		Streams: []fence.StreamPlan{{Stream: tidegate.ID{3}, Name: "a"}}, Step: fence.StepFence, Attempts: 1,
		Times: fence.Timings{T2: time.Unix(1_700_000_000, 0).UTC()},
	}
}

func TestPlanRecordRoundTrip(t *testing.T) {
	want := planRecord{plan: somePlan(), view: newView(somePlan(), "gate-a", time.Unix(1_700_000_000, 0))}
	b, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var got planRecord
	if err := got.UnmarshalJSON(b); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want.plan, got.plan); d != "" || !proto.Equal(want.view, got.view) {
		t.Errorf("plan %s\nview %v", d, got.view)
	}
}

func TestPlanIDsSortByTime(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	if a, b := newPlanID(at), newPlanID(at.Add(time.Millisecond)); a.String() >= b.String() || a == newPlanID(at) {
		t.Errorf("%s and %s: want them to sort by time and differ", a, b)
	}
}

func FuzzPlanRecord(f *testing.F) {
	b, err := planRecord{plan: somePlan(), view: newView(somePlan(), "gate-a", time.Unix(1, 0))}.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var rec planRecord
		if rec.UnmarshalJSON(b) != nil {
			return
		}
		again, err := rec.Marshal()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		var back planRecord
		if err := back.UnmarshalJSON(again); err != nil || !proto.Equal(back.view, rec.view) {
			t.Fatalf("what was written reads differently: %v", err)
		}
	})
}
