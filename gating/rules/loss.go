package rules

import (
	"fmt"
	"strings"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// Acceptable reports whether a loss is within what needs no asking. What is
// unknown never is.
func Acceptable(l fence.LossStatement, limit tidegate.Bounds) bool {
	return l.Kind == fence.LossZero || l.Kind == fence.LossAtMost && !l.Bounds.LooserThan(limit)
}

// LossText says in one sentence what a statement claims.
func LossText(l fence.LossStatement) string {
	switch l.Kind {
	case fence.LossZero:
		return "loss zero: " + l.Why
	case fence.LossAtMost:
		return "loss at most " + BoundsText(l.Bounds) + ": " + l.Why
	case fence.LossUnknown:
	}
	return "loss unknown: " + l.Why
}

// BoundsText lists the bounds that limit something.
func BoundsText(b tidegate.Bounds) string {
	var parts []string
	if b.Records != tidegate.Unbounded {
		parts = append(parts, fmt.Sprintf("%d records", b.Records))
	}
	if b.Bytes != tidegate.Unbounded {
		parts = append(parts, fmt.Sprintf("%d bytes", b.Bytes))
	}
	if b.Window != tidegate.Unbounded {
		parts = append(parts, "a window of "+b.Window.String())
	}
	if len(parts) == 0 {
		return "anything"
	}
	return strings.Join(parts, ", ")
}
