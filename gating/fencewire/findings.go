package fencewire

import (
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/local"
)

// FindingMessages is what a library has found, in the form that gates take.
func FindingMessages(all []local.Finding) []*pb.StoreFinding {
	out := make([]*pb.StoreFinding, 0, len(all))
	for i := range all {
		f := &all[i]
		out = append(out, &pb.StoreFinding{Name: f.Name, Severity: severities[f.Severity], Text: f.Text, Hint: f.Hint})
	}
	return out
}

var severities = map[local.Severity]pb.Severity{
	local.SeverityInfo: pb.Severity_SEVERITY_INFO, local.SeverityWarning: pb.Severity_SEVERITY_WARNING,
	local.SeverityCritical: pb.Severity_SEVERITY_CRITICAL,
}
