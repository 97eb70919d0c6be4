package rules

import (
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
		return "loss at most " + l.Bounds.String() + ": " + l.Why
	case fence.LossUnknown:
	}
	return "loss unknown: " + l.Why
}
