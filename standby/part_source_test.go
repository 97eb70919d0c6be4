package standby

import (
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/local"
)

// What the service beside a node is told of its part as the source: to end is said
// from the gate's own word of this run only, and until the stream lives elsewhere.
func TestSourceIsToldFromTheRecord(t *testing.T) {
	here, there := fence.Holder{Node: "p1", Site: "east"}, fence.Holder{Node: "d1", Site: "west"}
	record := func(state fence.State, change func(*fence.EpochRecord)) *fence.EpochRecord {
		r := &fence.EpochRecord{Epoch: 3, ActiveEpoch: 3, Holder: here, Active: here, State: state}
		if change != nil {
			change(r)
		}
		return r
	}
	next := func(handed tidegate.Epoch) func(*fence.EpochRecord) {
		return func(r *fence.EpochRecord) {
			r.Epoch, r.Holder = 4, there
			if handed != 0 {
				r.Handover = &fence.Handover{Head: tidegate.LogPos{Epoch: handed}}
			}
		}
	}
	to := func(h fence.Holder) func(*fence.EpochRecord) {
		return func(r *fence.EpochRecord) { r.Target = h }
	}
	for name, c := range map[string]struct {
		rec  *fence.EpochRecord
		want local.Source
	}{
		"nothing":                     {nil, local.SourceUnknown},
		"never active":                {record(fence.StateDemoted, func(r *fence.EpochRecord) { r.Epoch, r.ActiveEpoch = 0, 0 }), local.SourceUnknown},
		"active":                      {record(fence.StateActive, nil), local.SourceWrites},
		"active elsewhere":            {record(fence.StateActive, func(r *fence.EpochRecord) { r.Active, r.Holder = there, there }), local.SourceUnknown},
		"switching":                   {record(fence.StateSwitching, to(there)), local.SourceHandsOver},
		"switching to itself":         {record(fence.StateSwitching, to(here)), local.SourceWrites},
		"demoted":                     {record(fence.StateDemoted, to(there)), local.SourceHandsOver},
		"the next is fenced":          {record(fence.StateFencing, next(3)), local.SourceHandsOver},
		"the next is recovering":      {record(fence.StateRecovering, next(3)), local.SourceHandsOver},
		"taken, not handed over":      {record(fence.StateFencing, next(0)), local.SourceUnknown},
		"taken, an old handover":      {record(fence.StateFencing, next(2)), local.SourceUnknown},
		"its own agent was restarted": {record(fence.StateFencing, func(r *fence.EpochRecord) { r.Epoch = 4 }), local.SourceUnknown},
	} {
		v := StreamView{Record: c.rec, fresh: true}
		if got := v.sourceOf("p1"); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
		v.fresh = false
		if got := v.sourceOf("p1"); got != local.SourceUnknown {
			t.Errorf("%s, as of the last run: %d", name, got)
		}
	}
}
