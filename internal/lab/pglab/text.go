package pglab

import (
	"fmt"
	"strings"
	"time"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
)

// ClaimText is a loss statement in a few words.
func ClaimText(l *pb.LossStatement) string {
	switch l.GetKind() {
	case pb.LossKind_LOSS_KIND_ZERO:
		return "zero, proven"
	case pb.LossKind_LOSS_KIND_AT_MOST:
		return fmt.Sprintf("at most %d commits of %s", l.GetBounds().GetRecords(), l.GetBounds().GetWindow().AsDuration())
	case pb.LossKind_LOSS_KIND_UNKNOWN, pb.LossKind_LOSS_KIND_UNSPECIFIED:
	}
	return "unknown: " + l.GetWhy()
}

// PhasesText is the phases of a plan that took any time.
func PhasesText(p *pb.Plan) string {
	var out []string
	for _, x := range p.GetPhases().GetPhases() {
		if x.GetTook() != nil {
			out = append(out, fmt.Sprintf("%s %s", x.GetName(), x.GetTook().AsDuration().Round(time.Millisecond)))
		}
	}
	return strings.Join(out, ", ")
}
