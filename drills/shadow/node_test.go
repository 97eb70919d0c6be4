package shadow

import (
	"context"
	"sync"
	"testing"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
)

// answers is a node's API as far as these are asked; the real one is met in internal/lab.
type answers struct {
	tidegatev1connect.StandbyServiceClient

	id tidegate.StreamID
}

func (a answers) Describe(context.Context, *connect.Request[pb.DescribeRequest]) (*connect.Response[pb.DescribeResponse], error) {
	return connect.NewResponse(&pb.DescribeResponse{ShipAddress: "here:1", Streams: []*pb.StreamDescription{
		{Service: "bank", Name: "main", StreamId: a.id.String(), Mode: pb.Mode_MODE_SYNC}, {Service: "other", StreamId: a.id.String()},
	}}), nil
}

func (a answers) Status(context.Context, *connect.Request[pb.StandbyServiceStatusRequest]) (*connect.Response[pb.StandbyServiceStatusResponse], error) {
	return connect.NewResponse(&pb.StandbyServiceStatusResponse{Streams: []*pb.StandbyStream{{StreamId: a.id.String()}}}), nil
}

// TestLooksWhileItIsDescribed: the watch looks while the clone is opened, and sees the
// whole of one answer. (The race detector finds where it does not.)
func TestLooksWhileItIsDescribed(t *testing.T) {
	n := &Node{service: "bank", addr: "here", api: answers{id: tidegate.NewID()}}
	if _, _, err := n.describe(t.Context()); err != nil {
		t.Fatal(err)
	}
	var g sync.WaitGroup
	defer g.Wait()
	g.Go(func() {
		for range 100 {
			if _, _, err := n.describe(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	for range 100 {
		if look, err := n.Look(t.Context()); err != nil || len(look) != 1 || n.Protection().Mode == nil {
			t.Fatalf("%v, %v, %+v", look, err, n.Protection())
		}
	}
}
