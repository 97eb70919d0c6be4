package gating

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/gating/registry"
)

func (s *site) open(reason string) (*pb.OpenGateResponse, error) {
	r, err := s.operator(tidegate.RoleOperator).OpenGate(s.t.Context(), connect.NewRequest(&pb.OpenGateRequest{Service: "ledger", Reason: reason}))
	if err != nil {
		return nil, api.FromError("open gate", "ledger", err)
	}
	return r.Msg, nil
}

func (s *site) arm() (*pb.ArmGateResponse, error) {
	r, err := s.operator(tidegate.RoleOperator).ArmGate(s.t.Context(), connect.NewRequest(&pb.ArmGateRequest{Service: "ledger", Reason: "repaired"}))
	if err != nil {
		return nil, api.FromError("arm gate", "ledger", err)
	}
	return r.Msg, nil
}

// record writes a gate's state as the writer of the record does.
func (s *site) record(id tidegate.StreamID, state fence.GateState) (fence.EpochRecord, error) {
	store, err := registry.Open("demo", s.registry)
	if err != nil {
		return fence.EpochRecord{}, err
	}
	defer store.Close()
	es, err := store.ReadEpochs(s.t.Context(), id)
	if err != nil {
		return fence.EpochRecord{}, err
	}
	rec := es[0].Value
	gate := rec.Gate
	gate.State = state
	r, err := s.node(tidegate.RoleAgent, whereIs(rec.Holder.Node), string(rec.Holder.Node)).RecordGate(s.t.Context(), connect.NewRequest(&pb.RecordGateRequest{
		StreamId: id.String(), Epoch: uint64(rec.Epoch), Holder: rec.Holder.UUID.String(), Revision: es[0].Revision, Was: fencewire.GateMessage(rec.Gate), Gate: fencewire.GateMessage(gate), Reason: "test",
	}))
	if err != nil {
		return rec, api.FromError("record gate", "", err)
	}
	rec, _, err = fencewire.Record(r.Msg.GetEpoch())
	return rec, err
}

func TestBrake(t *testing.T) {
	t.Parallel()
	s, ids, _ := ready(t, pb.Mode_MODE_SYNC, nil)
	if _, err := s.open(""); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("brake without a reason: %v", err)
	}
	if _, err := s.record(ids["a"], fence.GateDegraded); tidegate.ClassOf(err) != tidegate.Refused {
		t.Errorf("a writer degraded against its policy: %v", err)
	}
	r, err := s.open("the DR site floods us")
	if err != nil || !r.GetChanged() || r.GetService().GetArmed() || r.GetService().GetStreams()[0].GetBrake().GetReason() != "the DR site floods us" {
		t.Fatalf("open: %v, %v", r, err)
	}
	for name, rec := range s.records(ids) {
		if rec.Gate.State != fence.GateDegraded || rec.Epoch != 1 || rec.State != fence.StateActive {
			t.Errorf("stream %s: %+v, want it recorded as degraded before anybody opens", name, rec.Gate)
		}
	}
	before := s.revisions(ids)
	if r, err = s.open("again"); err != nil || r.GetChanged() || r.GetService().GetStreams()[0].GetBrake().GetReason() != "the DR site floods us" {
		t.Errorf("open again: %v, %v", r, err)
	}
	if after := s.revisions(ids); after["a"] != before["a"] || after["b"] != before["b"] {
		t.Error("open again changed the records")
	}
	if _, err := s.record(ids["a"], fence.GateArmed); tidegate.ClassOf(err) != tidegate.Refused {
		t.Errorf("a writer armed its gate against the brake: %v", err)
	}
	ra, err := s.arm()
	if err != nil || !ra.GetChanged() || !ra.GetService().GetArmed() || ra.GetService().GetStreams()[0].GetBrake() != nil {
		t.Fatalf("arm: %v, %v", ra, err)
	}
	if got := s.records(ids)["a"].Gate.State; got != fence.GateDegraded {
		t.Errorf("gate %s after the brake was lifted: the writer enforces first, then records", got)
	}
	if ra, err = s.arm(); err != nil || ra.GetChanged() {
		t.Errorf("arm again: %v, %v", ra, err)
	}
	if rec, err := s.record(ids["a"], fence.GateArmed); err != nil || rec.Gate.State != fence.GateArmed {
		t.Errorf("the writer may not arm: %+v, %v", rec.Gate, err)
	}
}

// A writer that may open without asking is never on record as one that holds.
func TestBlindPolicyIsOnRecordFirst(t *testing.T) {
	t.Parallel()
	s, ids, _ := ready(t, pb.Mode_MODE_SYNC, nil)
	set := func(p pb.GatePolicy) {
		t.Helper()
		if _, err := s.operator(tidegate.RoleOperator).SetMode(t.Context(), connect.NewRequest(&pb.SetModeRequest{Service: "ledger", Policy: p, SingleRegistry: true})); err != nil {
			t.Fatal(err)
		}
	}
	set(pb.GatePolicy_GATE_POLICY_DEGRADE_BLIND)
	for name, rec := range s.records(ids) {
		if rec.Gate.State != fence.GateBlindOK {
			t.Errorf("stream %s: gate %s, want what it may do on record", name, rec.Gate.State)
		}
	}
	if rec, err := s.record(ids["a"], fence.GateArmed); err != nil || rec.Gate.State != fence.GateBlindOK {
		t.Errorf("recorded armed: %s, %v", rec.Gate.State, err)
	}
	set(pb.GatePolicy_GATE_POLICY_BLOCK)
	if rec, err := s.record(ids["a"], fence.GateArmed); err != nil || rec.Gate.State != fence.GateArmed {
		t.Errorf("recorded armed once it may not open: %s, %v", rec.Gate.State, err)
	}
	if _, err := s.record(ids["a"], fence.GateBlindOK); tidegate.ClassOf(err) != tidegate.Refused {
		t.Errorf("a writer gave itself leave: %v", err)
	}
}

func (s *site) renew(node tidegate.NodeName, recs []fence.EpochRecord) (time.Duration, error) {
	req := &pb.RenewLeaseRequest{Service: "ledger", Node: string(node), Holder: s.agents[node].String()}
	for _, r := range recs {
		req.Epochs = append(req.Epochs, &pb.StreamEpoch{StreamId: r.Stream.String(), Epoch: uint64(r.Epoch)})
	}
	r, err := s.node(tidegate.RoleAgent, whereIs(node), string(node)).RenewLease(s.t.Context(), connect.NewRequest(req))
	if err != nil {
		return 0, api.FromError("renew lease", "ledger", err)
	}
	return r.Msg.GetTtl().AsDuration(), nil
}

// An output lease is what a failover waits for where no gate holds the old
// writer, and nobody renews it once a failover has reserved its epoch.
func TestFailoverWaitsForTheLease(t *testing.T) {
	t.Parallel()
	const ttl = 3 * time.Second
	s := newSite(t, "w1", "w2", "w3")
	s.startGate("gate-a", nil, nil)
	s.register()
	op := s.operator(tidegate.RoleOperator)
	if _, err := op.AddService(t.Context(), connect.NewRequest(&pb.AddServiceRequest{
		Service: &pb.Service{Name: "ledger", LeaseTtl: durationpb.New(ttl)}, SingleRegistry: true,
	})); err != nil {
		t.Fatal(err)
	}
	ids := s.addStreams(pb.Mode_MODE_OPEN, nil)
	s.agent("e1", "east")
	for n := range s.nodes {
		s.agent(n, "west")
	}
	recs := s.mustAcquire("e1", "east")
	if recs[0].Gate.Lease != ttl {
		t.Fatalf("the record names a lease of %s, want %s", recs[0].Gate.Lease, ttl)
	}
	s.report()
	for range 2 { // a grant, and a renewal
		if got, err := s.renew("e1", recs); err != nil || got != ttl {
			t.Fatalf("renew: %s, %v", got, err)
		}
	}
	granted := time.Now()
	s.agent("e9", "east")
	if _, err := s.renew("e9", recs); tidegate.ClassOf(err) != tidegate.Fenced {
		t.Errorf("a stranger renewed: %v", err)
	}
	if _, err := s.renew("e1", recs[:1]); tidegate.ClassOf(err) != tidegate.Fenced {
		t.Errorf("renewed for one stream of two: %v", err)
	}
	status, err := op.Status(t.Context(), connect.NewRequest(&pb.StatusRequest{Service: "ledger"}))
	if err != nil || status.Msg.GetServices()[0].GetLease().GetHolder().GetNode() != "e1" {
		t.Errorf("status shows lease %v, %v", status.Msg.GetServices()[0].GetLease(), err)
	}
	done := make(chan error, 1)
	go func() { // ends with the plan
		_, _, err := s.failover(&pb.ChangeRoleRequest{Target: "w1", AcceptLoss: true})
		done <- err
	}()
	s.eventually("a reserved epoch", func() error {
		if got := s.records(ids)["a"].Epoch; got != 2 {
			return fmt.Errorf("epoch %s", got)
		}
		return nil
	})
	if _, err := s.renew("e1", recs); tidegate.ClassOf(err) != tidegate.Fenced {
		t.Errorf("renewed after the failover had reserved its epoch: %v", err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if took := time.Since(granted); took < ttl {
		t.Errorf("the failover went on %s after the lease was granted, its ttl is %s", took, ttl)
	}
	if rec := s.records(ids)["a"]; rec.State != fence.StateActive || rec.Holder.Node != "w1" {
		t.Errorf("record %+v", rec)
	}
}

func TestReleasedLeaseIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	s, ids, recs := ready(t, pb.Mode_MODE_OPEN, nil)
	if _, err := s.renew("e1", recs); tidegate.ClassOf(err) != tidegate.Refused {
		t.Errorf("a lease of a service without any: %v", err)
	}
	if _, err := s.operator(tidegate.RoleOperator).SetMode(t.Context(), connect.NewRequest(&pb.SetModeRequest{
		Service: "ledger", LeaseTtl: durationpb.New(time.Minute), SingleRegistry: true,
	})); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids { // the writer obeys it from now on, and says so
		store, err := registry.Open("demo", s.registry)
		if err != nil {
			t.Fatal(err)
		}
		es, err := store.ReadEpochs(t.Context(), id)
		if err = errors.Join(err, store.Close()); err != nil {
			t.Fatal(err)
		}
		gate := es[0].Value.Gate
		gate.Lease = time.Minute
		if _, err := s.node(tidegate.RoleAgent, "east", "e1").RecordGate(t.Context(), connect.NewRequest(&pb.RecordGateRequest{
			StreamId: id.String(), Epoch: 1, Holder: s.agents["e1"].String(), Revision: es[0].Revision,
			Was: fencewire.GateMessage(es[0].Value.Gate), Gate: fencewire.GateMessage(gate),
		})); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.renew("e1", recs); err != nil {
		t.Fatal(err)
	}
	if _, err := s.node(tidegate.RoleAgent, "east", "e1").ReleaseLease(t.Context(), connect.NewRequest(&pb.ReleaseLeaseRequest{
		Service: "ledger", Node: "e1", Holder: s.agents["e1"].String(),
	})); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, _, err := s.failover(&pb.ChangeRoleRequest{Target: "w1", AcceptLoss: true}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the failover took %s although the lease was released", took)
	}
}
