package gating

import (
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
)

// serviceLoss is a service's statement: the weakest claim among its streams,
// with their numbers put together. Records and bytes add up, because each stream
// may lose its own bound; windows overlap in time, so the longest one counts. A
// bound that one stream lacks the service lacks.
func serviceLoss(streams []*pb.PlanStream) *pb.LossStatement {
	worst := worstLoss(streams)
	if worst == nil {
		return nil
	}
	sum := proto.CloneOf(worst)
	sum.Bounds, sum.AtLeast, sum.Unclean, sum.Missing = &pb.Bounds{Records: new(int64), Bytes: new(int64), Window: durationpb.New(0)}, 0, false, nil
	for _, s := range streams {
		l := s.GetLoss()
		if l == nil {
			continue
		}
		addBounds(sum.Bounds, l)
		sum.AtLeast += l.GetAtLeast()
		sum.Unclean = sum.Unclean || l.GetUnclean()
		sum.Missing = append(sum.Missing, l.GetMissing()...)
	}
	slices.Sort(sum.Missing)
	sum.Missing = slices.Compact(sum.Missing)
	return sum
}

// addBounds adds what one stream may lose to a sum. What is proven zero adds
// nothing, whatever its bounds field holds.
func addBounds(sum *pb.Bounds, l *pb.LossStatement) {
	if l.GetKind() == pb.LossKind_LOSS_KIND_ZERO {
		return
	}
	b := l.GetBounds()
	add := func(a *int64, known bool, n int64) *int64 {
		if a == nil || !known || *a > math.MaxInt64-n {
			return nil
		}
		total := *a + n
		return &total
	}
	sum.Records = add(sum.Records, b != nil && b.Records != nil, b.GetRecords())
	sum.Bytes = add(sum.Bytes, b != nil && b.Bytes != nil, b.GetBytes())
	if b.GetWindow() == nil || sum.Window == nil {
		sum.Window = nil
		return
	}
	sum.Window = durationpb.New(max(sum.Window.AsDuration(), b.GetWindow().AsDuration(), time.Duration(0)))
}
