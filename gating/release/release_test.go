package release

import (
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/rpo"
)

// A service that slept is promoted by the standby node's word while the agent's
// older one, that it is fenced, still waits to be read: it stays the writer.
func TestOldFenceAfterPromotion(t *testing.T) {
	const now, was, promoted = tidegate.Instant(1), 12, 13
	g := New(now, nil)
	if !g.Unfence(promoted) {
		t.Fatal("promotion refused")
	}
	g.Activate(now, rpo.Mark{})
	if g.Yields(was) {
		t.Error("yields to the epoch before its own")
	}
	if g.Fence(was) {
		t.Error("fenced by the epoch before its own")
	}
	if !g.Hold(now, promoted) || !g.Held {
		t.Error("the agent's word for the promotion's epoch does not count")
	}
	if g.Unfence(was) {
		t.Error("promoted to an older epoch")
	}
	if !g.Fence(promoted + 1) {
		t.Error("not fenced by a newer epoch")
	}
}
