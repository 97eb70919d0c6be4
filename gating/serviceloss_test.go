package gating

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
)

// Two streams with K=500 each lost 524 records together, and the service's
// statement said at most 500.
func TestServiceLossAddsUp(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	bounded := func(k, b int64, w time.Duration) *pb.PlanStream {
		return &pb.PlanStream{Loss: &pb.LossStatement{
			Kind: pb.LossKind_LOSS_KIND_AT_MOST, Bounds: &pb.Bounds{Records: n(k), Bytes: n(b), Window: durationpb.New(w)},
		}}
	}
	zero := &pb.PlanStream{Loss: &pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_ZERO, Bounds: &pb.Bounds{Records: n(0), Bytes: n(0), Window: durationpb.New(0)}}}
	open := &pb.PlanStream{Loss: &pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_UNKNOWN, AtLeast: 7, Missing: []string{"d2", "d1"}, Unclean: true}}
	for _, tc := range []struct {
		name    string
		streams []*pb.PlanStream
		want    *pb.LossStatement
	}{
		{"none", nil, nil},
		{"zero", []*pb.PlanStream{zero, zero}, &pb.LossStatement{
			Kind: pb.LossKind_LOSS_KIND_ZERO, Bounds: &pb.Bounds{Records: n(0), Bytes: n(0), Window: durationpb.New(0)},
		}},
		{"records and bytes add, the longest window counts", []*pb.PlanStream{bounded(500, 10, 2*time.Second), bounded(500, 20, time.Second), zero}, &pb.LossStatement{
			Kind: pb.LossKind_LOSS_KIND_AT_MOST, Bounds: &pb.Bounds{Records: n(1000), Bytes: n(30), Window: durationpb.New(2 * time.Second)},
		}},
		{"one unknown makes it unknown", []*pb.PlanStream{bounded(500, 10, time.Second), open}, &pb.LossStatement{
			Kind: pb.LossKind_LOSS_KIND_UNKNOWN, AtLeast: 7, Unclean: true, Missing: []string{"d1", "d2"}, Bounds: &pb.Bounds{},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, serviceLoss(tc.streams), protocmp.Transform()); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}
