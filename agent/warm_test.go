package agent

import (
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// The furthest warm copy counts, of those whose word counts for D; and only what was
// said of this epoch.
func TestFurthestWarmCopy(t *testing.T) {
	w := unproven(t, streamView{mode: tidegate.ModeSync})
	member := w.core.Record().Config.Members[0]
	other := fence.Member{Node: member.Node, Incarnation: tidegate.NewID()}
	learner := fence.Member{Node: "s9", Incarnation: tidegate.NewID()}
	says := func(m fence.Member, epoch tidegate.Epoch, at tidegate.Position) bool {
		return w.noteWarm(fence.Ack{Node: m.Node, Incarnation: m.Incarnation, Epoch: epoch, AppliedAt: at})
	}
	for i, step := range []struct {
		of    fence.Member
		epoch tidegate.Epoch
		at    tidegate.Position
		want  tidegate.Position
	}{
		{learner, 3, 900, 0},
		{member, 2, 800, 0},
		{member, 3, 500, 500},
		{member, 3, 500, 500},
		{other, 3, 700, 0}, // the disk was lost, and with it the copy that was told of
		{member, 3, 400, 400},
		{member, 3, 0, 0}, // the warm server is gone
	} {
		was := w.furthest()
		moved := says(step.of, step.epoch, step.at)
		if got := w.furthest(); got != step.want || moved != (got != was) {
			t.Errorf("step %d: %s (moved %v), want %s", i, got, moved, step.want)
		}
	}

	// A position in the generation before the one that this term has opened is a place
	// in another log.
	w.entry = 7
	ack := fence.Ack{Node: member.Node, Incarnation: member.Incarnation, Epoch: 3, Applied: 6, AppliedAt: 5000}
	if w.noteWarm(ack); w.furthest() != 0 {
		t.Errorf("%s of an older generation", w.furthest())
	}
	ack.Applied, ack.AppliedAt = 7, 100
	if w.noteWarm(ack); w.furthest() != 100 {
		t.Errorf("%s, want the new generation's 100", w.furthest())
	}
}
