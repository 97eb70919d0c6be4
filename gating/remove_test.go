package gating

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
)

// What stores keep for a stream goes before the stream does; of an agent that is
// away it is said what is left.
func TestRemovedStreamsStoresLetGo(t *testing.T) {
	t.Parallel()
	s, _, _ := ready(t, pb.Mode_MODE_SYNC, nil)
	op := s.operator(tidegate.RoleOperator)
	add := func(name string) string {
		r, err := op.AddStream(t.Context(), connect.NewRequest(&pb.AddStreamRequest{
			Service: "ledger", Name: name, Store: "postgres", Mode: pb.Mode_MODE_OPEN, Members: []string{"w1", "w2", "w3"}, W: 2,
		}))
		if err != nil {
			t.Fatal(err)
		}
		return r.Msg.GetStream().GetId()
	}
	report := func(id string, keeps ...string) {
		t.Helper()
		_, err := s.node(tidegate.RoleAgent, "east", "e1").ReportAgent(t.Context(), connect.NewRequest(&pb.ReportAgentRequest{
			Node: "e1", Site: "east", Holder: s.agents["e1"].String(), Streams: []*pb.AgentStream{{StreamId: id, Keeps: keeps}},
		}))
		if err != nil {
			t.Fatal(err)
		}
	}
	type answer struct {
		left []*pb.Remnant
		err  error
	}
	remove := func(name string) <-chan answer {
		done := make(chan answer, 1)
		go func() {
			r, err := op.RemoveStream(t.Context(), connect.NewRequest(&pb.RemoveStreamRequest{Service: "ledger", Stream: name}))
			if err != nil {
				done <- answer{err: err}
				return
			}
			done <- answer{left: r.Msg.GetRemnants()}
		}()
		return done
	}
	leaving := func(name string, want bool) {
		t.Helper()
		s.eventually("leaving", func() error {
			r, err := op.ListStreams(t.Context(), connect.NewRequest(&pb.ListStreamsRequest{Service: "ledger"}))
			if err != nil {
				return err
			}
			for _, one := range r.Msg.GetStreams() {
				if one.GetName() == name && one.GetLeaving() == want {
					return nil
				}
			}
			return fmt.Errorf("streams %v", r.Msg.GetStreams())
		})
	}

	id := add("pg")
	report(id, "a slot")
	done := remove("pg")
	leaving("pg", true)
	report(id)
	if got := <-done; got.err != nil || len(got.left) != 0 {
		t.Errorf("let go: %v, %v", got.left, got.err)
	}

	add("unused")
	done = remove("unused")
	if got := <-done; got.err != nil || len(got.left) != 0 {
		t.Errorf("never had a writer: %v, %v", got.left, got.err)
	}

	id = add("stubborn")
	done = nil
	var got answer
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for waiting := true; waiting; {
		report(id, "a name") // again and again
		if done == nil {
			done = remove("stubborn")
		}
		select {
		case got = <-done:
			waiting = false
		case <-tick.C:
		}
	}
	if err := api.FromError("remove", "", got.err); tidegate.ClassOf(err) != tidegate.Refused || tidegate.HintOf(err) == "" || !strings.Contains(err.Error(), "e1: a name") {
		t.Errorf("kept: %v", got.err)
	}
	leaving("stubborn", false)
	s.eventually("removed once the agent is silent", func() error { // for longer than a report is believed
		r, err := op.RemoveStream(t.Context(), connect.NewRequest(&pb.RemoveStreamRequest{Service: "ledger", Stream: "stubborn"}))
		if err != nil {
			return err
		}
		if left := r.Msg.GetRemnants(); len(left) != 1 || left[0].GetNode() != "e1" || left[0].GetText() != "a name" {
			t.Errorf("left %v", left)
		}
		return nil
	})
}
