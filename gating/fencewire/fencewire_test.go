package fencewire

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
)

func fullRecord() fence.EpochRecord {
	uuid, old := tidegate.NewID(), tidegate.NewID()
	head := tidegate.LogPos{Epoch: 3, Seq: 41, Chain: tidegate.Chain{1}}
	return fence.EpochRecord{
		Version: fence.EpochRecordVersion, Stream: tidegate.NewID(), Epoch: 5,
		Holder: fence.Holder{Node: "n1", Site: "west", UUID: uuid}, State: fence.StateActive,
		Gate: fence.GateRecord{
			State: fence.GateDegraded, Mode: tidegate.ModeBounded, SinceSeq: 7, Lease: 6 * time.Second,
			Bounds: tidegate.Bounds{Records: 10, Bytes: tidegate.Unbounded, Window: time.Second},
		},
		Config:      fence.Config{Members: []fence.Member{{Node: "n1", Incarnation: tidegate.NewID()}, {Node: "n2", Incarnation: tidegate.NewID()}}, W: 2},
		ActiveEpoch: 5, Active: fence.Holder{Node: "n1", Site: "west", UUID: uuid}, StartSeq: 42, Head: head,
		History: fence.History{{Epoch: 3, StartSeq: 1, Holder: old}, {Epoch: 5, StartSeq: 42, Holder: uuid}},
		Source:  "n2", Plan: tidegate.NewID(), Kind: fence.KindFailover, Unclean: true, Restored: true, Shrunk: true, Forced: 3, Since: 1_700_000_000_000_000_001,
		Handover: &fence.Handover{Head: head, Position: 512, StateKnown: true, StateDigest: tidegate.Digest{9}},
	}
}

// through passes m over the wire, so that nothing rests on shared memory.
func through[M proto.Message](t *testing.T, m, into M) M {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
	return into
}

func TestRecordRoundTrip(t *testing.T) {
	want := fullRecord()
	got, rev, err := Record(through(t, RecordMessage(want, 99), &pb.EpochRecord{}))
	if err != nil || rev != 99 {
		t.Fatalf("revision %d, %v", rev, err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	want.State, want.Handover = fence.StateSwitching, nil
	want.Target, want.Deadline = fence.Holder{Node: "n2", Site: "west", UUID: tidegate.NewID()}, 1_700_000_030_000_000_001
	if got, _, err = Record(through(t, RecordMessage(want, 99), &pb.EpochRecord{})); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestEveryKindOfPlanHasItsMessage(t *testing.T) {
	for _, k := range []fence.PlanKind{fence.KindAcquire, fence.KindFailover, fence.KindSwitchover, fence.KindReconfigure} {
		if got := Kind(KindMessage(k)); got != k {
			t.Errorf("%s came back as %q", k, got)
		}
	}
}

func TestCallsRoundTrip(t *testing.T) {
	r := fullRecord()
	m := r.Config.Members[0]
	fr := fence.FenceRequest{Stream: r.Stream, Epoch: 5, Holder: r.Holder.UUID, Attested: true}
	if got, err := FenceRequest(through(t, FenceRequestMessage(fr), &pb.FenceRequest{})); err != nil || got != fr {
		t.Errorf("fence request %+v, %v", got, err)
	}
	fp := fence.FenceReply{Stream: r.Stream, Member: m, Refused: true, Leased: 3 * time.Second, Promise: r.Promise(), History: r.History, Durable: r.Head, Commit: 9, Limbo: true, Evidence: fence.Evidence{ReleasedKnown: true, Beyond: 3, BlindKnown: true, Blind: time.Second}}
	gotFence, err := FenceReply(r.Stream, through(t, FenceReplyMessage(fp), &pb.FenceResponse{}))
	if d := cmp.Diff(fp, gotFence); err != nil || d != "" {
		t.Error(d, err)
	}
	ar := fence.AdoptRequest{Stream: r.Stream, Epoch: 5, Holder: r.Holder.UUID, History: r.History[:1], Head: r.Head, Source: "n2", Reason: fence.ReasonDiverged, Unclean: true}
	gotAdopt, err := AdoptRequest(through(t, AdoptRequestMessage(ar), &pb.AdoptRequest{}))
	if d := cmp.Diff(ar, gotAdopt); err != nil || d != "" {
		t.Error(d, err)
	}
	ap := fence.AdoptReply{Stream: r.Stream, Member: m, Adopted: true, Epoch: 5, Holder: r.Holder.UUID, Promise: r.Promise(), Durable: r.Head, Class: tidegate.Transient, Why: "x"}
	gotReply, err := AdoptReply(r.Stream, through(t, AdoptReplyMessage(ap), &pb.AdoptResponse{}))
	if d := cmp.Diff(ap, gotReply); err != nil || d != "" {
		t.Error(d, err)
	}
	pr := fence.PromoteRequest{Stream: r.Stream, Epoch: 5, Holder: r.Holder.UUID, Head: r.Head}
	if got, err := PromoteRequest(through(t, PromoteRequestMessage(pr), &pb.PromoteRequest{})); err != nil || got != pr {
		t.Errorf("promote request %+v, %v", got, err)
	}
}

func TestBrokenMessagesAreRefused(t *testing.T) {
	for name, breakIt := range map[string]func(*pb.EpochRecord){
		"stream id":   func(m *pb.EpochRecord) { m.StreamId = "xyz" },
		"no stream":   func(m *pb.EpochRecord) { m.StreamId = "" },
		"holder":      func(m *pb.EpochRecord) { m.Holder.Uuid = "12" },
		"state":       func(m *pb.EpochRecord) { m.State = 99 },
		"gate state":  func(m *pb.EpochRecord) { m.Gate.State = pb.GateState_GATE_STATE_UNSPECIFIED },
		"mode":        func(m *pb.EpochRecord) { m.Gate.Mode = 99 },
		"quorum":      func(m *pb.EpochRecord) { m.Config.W = 9 },
		"chain":       func(m *pb.EpochRecord) { m.Head.Chain = "00" },
		"history":     func(m *pb.EpochRecord) { m.History[1].Epoch = 1 },
		"lease":       func(m *pb.EpochRecord) { m.Gate.Lease.Seconds = -1 },
		"handed over": func(m *pb.EpochRecord) { m.Handover.StateDigest = "1" },
		"start seq":   func(m *pb.EpochRecord) { m.StartSeq = 7 },
		"incarnation": func(m *pb.EpochRecord) { m.Config.Members[0].Incarnation = "" },
	} {
		m := through(t, RecordMessage(fullRecord(), 1), &pb.EpochRecord{})
		breakIt(m)
		if _, _, err := Record(m); err == nil {
			t.Errorf("%s: a broken record was taken", name)
		}
	}
	if _, _, err := Record(nil); err == nil {
		t.Error("no record was taken for one")
	}
}
