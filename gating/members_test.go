package gating

import (
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/internal/clock"
)

// A gate that does not lead has not heard what rules and status rest on: it must
// not answer from that, least of all refuse a failover by it. Whoever asked goes
// to the next gate.
func TestOnlyTheLeaderJudges(t *testing.T) {
	t.Parallel()
	s, _, _ := ready(t, pb.Mode_MODE_SYNC, nil)
	s.startGate("gate-b", nil, nil)
	op := s.operator(tidegate.RoleOperator)
	calls := map[string]func() error{
		"status": func() error {
			_, err := op.Status(t.Context(), connect.NewRequest(&pb.StatusRequest{}))
			return err
		},
		"doctor": func() error {
			_, err := op.Doctor(t.Context(), connect.NewRequest(&pb.DoctorRequest{}))
			return err
		},
		"failover": func() error {
			_, _, err := s.failover(&pb.ChangeRoleRequest{DryRun: true})
			return err
		},
	}
	for name, call := range calls {
		s.eventually(name+" is sent to the leader", func() error {
			err := api.FromError(name, "", call())
			if tidegate.ClassOf(err) != tidegate.Transient || tidegate.HintOf(err) != "gate gate-a leads; ask there" {
				return fmt.Errorf("got %w (%s)", err, tidegate.HintOf(err))
			}
			return nil
		})
	}
}

// A member whose acks count may be dead, full or far behind all the same: an
// operator who reads "3 of 3" relies on each of them.
func TestMembersCountWhenTheyAreCaughtUp(t *testing.T) {
	clk := clock.NewFake(time.Unix(1_700_000_000, 0))
	w := newWorld(clk)
	id, holder := tidegate.NewID(), tidegate.NewID()
	rec := fence.EpochRecord{Stream: id, Epoch: 4, Holder: fence.Holder{Node: "e1", UUID: holder}}
	nodes := []string{"behind", "dead", "full", "limbo", "silent", "well"}
	writer := func(durable uint64) {
		s := &pb.AgentStream{StreamId: id.String(), Role: pb.AgentRole_AGENT_ROLE_WRITER, Epoch: 4, DurableSeq: durable}
		for _, n := range nodes {
			s.Members = append(s.Members, &pb.AgentMember{Node: n, Counted: true})
			rec.Config.Members = append(rec.Config.Members, fence.Member{Node: tidegate.NodeName(n)})
		}
		w.reportAgent(&pb.ReportAgentRequest{Node: "e1", Streams: []*pb.AgentStream{s}}, holder)
	}
	standby := func(node string, s *pb.StandbyStream) {
		s.StreamId = id.String()
		w.reportStandby(&pb.ReportStandbyRequest{Node: node, Streams: []*pb.StandbyStream{s}})
	}
	at := func(seq uint64) *pb.LogPos { return &pb.LogPos{Seq: seq} }
	standby("dead", &pb.StandbyStream{Durable: at(100)})
	clk.Advance(time.Minute)
	writer(90)
	writer(100)
	standby("behind", &pb.StandbyStream{Durable: at(89)})
	standby("full", &pb.StandbyStream{Durable: at(95), Error: "full"})
	standby("limbo", &pb.StandbyStream{Durable: at(95), Limbo: true})
	standby("well", &pb.StandbyStream{Durable: at(90)}) // its report is as old as the writer's one before
	s, _ := w.writerReport(rec)
	for _, m := range w.memberStatus(rec, registry.Stream{}, s, 5*time.Second) {
		if want := m.GetNode() == "well"; m.GetCounted() != want {
			t.Errorf("%s counted: %t, want %t", m.GetNode(), m.GetCounted(), want)
		}
	}
}
