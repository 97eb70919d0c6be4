package agent

import (
	"errors"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/stores"
)

// The member to measure a spare by is the one that holds most of the active epoch's
// log, of so many answers that nothing durable is unknown to all of them.
func TestHoldsMost(t *testing.T) {
	gone := errors.New("no answer")
	rec := fence.EpochRecord{Epoch: 7, State: fence.StateActive, Config: fence.Config{Members: make([]fence.Member, 3), W: 2}}
	for name, c := range map[string]struct {
		moving bool
		ends   []logEnd
		errs   []error
		best   int // -1: nobody can tell
	}{
		"the longest":                               {ends: []logEnd{{5, 7}, {9, 7}, {7, 7}}, errs: make([]error, 3), best: 1},
		"not one that missed the adopt":             {ends: []logEnd{{5, 7}, {9, 6}, {7, 7}}, errs: make([]error, 3), best: 2},
		"any while no epoch is active":              {moving: true, ends: []logEnd{{5, 6}, {9, 5}, {7, 6}}, errs: make([]error, 3), best: 1},
		"one that adopted a newer epoch than heard": {ends: []logEnd{{5, 8}, {9, 6}, {}}, errs: []error{nil, nil, gone}, best: 0},
		"two of three are enough for two":           {ends: []logEnd{{}, {9, 7}, {7, 7}}, errs: []error{gone, nil, nil}, best: 1},
		"one is not":                                {ends: []logEnd{{}, {9, 7}, {}}, errs: []error{gone, nil, gone}, best: -1},
		"none that has adopted":                     {ends: []logEnd{{5, 6}, {9, 6}, {7, 6}}, errs: make([]error, 3), best: -1},
	} {
		t.Run(name, func(t *testing.T) {
			rec := rec
			if c.moving {
				rec.State = fence.StateFencing
			}
			best, err := holdsMost(rec, c.ends, c.errs)
			if best != c.best || (err != nil) != (c.best < 0) {
				t.Errorf("%d, %v, want %d", best, err, c.best)
			}
		})
	}
}

// Positions of two generations are places in two logs.
func TestObservationForgetsPositionsOfAnOlderGeneration(t *testing.T) {
	var o observation
	h := func(seq tidegate.Seq, next tidegate.Position, g tidegate.Generation) batch.Header {
		return batch.Header{Seq: seq, Next: next, Generation: g}
	}
	o.hold(h(1, 1000, 1))
	o.hold(h(2, 2000, 1))
	o.commit = 1
	o.settle()
	if o.durable != 1000 {
		t.Errorf("durable at %s", o.durable)
	}
	o.hold(h(3, 50, 2))
	if o.durable != 0 {
		t.Errorf("durable at %s of the generation before", o.durable)
	}
	o.commit = 3
	o.settle()
	if o.durable != 50 {
		t.Errorf("durable at %s, want the new generation's 50", o.durable)
	}
}

// wholeLog is a source that is active with all that it will ever have.
type wholeLog struct{ stores.Spare }

func (wholeLog) Whole() bool { return true }

// A replica that is promoted without what the standby nodes hold lacks it. The primary
// before, which comes back as it was when others had gone on without it, does not: it
// has diverged, and no new generation is to be opened from it.
func TestOldPrimaryIsNoReplicaThatLacksLog(t *testing.T) {
	h := batch.Header{Seq: 20, Epoch: 2, First: 100, Next: 300}
	for _, c := range []struct {
		name    string
		spent   tidegate.Epoch
		on      tidegate.Lineage // that it wrote
		writer  tidegate.NodeName
		lacking bool
	}{
		{"promoted, and never wrote", 0, "", "n2", true},
		{"the primary before", 1, "pg:1:1", "n2", false},
		{"promoted again since it wrote", 1, "pg:1:9", "n2", true},
		{"the writer, set back", 1, "pg:1:1", "n1", true},
		{"set back while it writes", 2, "pg:1:1", "n2", true},
	} {
		self := fence.Holder{Node: c.writer, Site: "east"}
		s := unproven(t, streamView{rec: fence.EpochRecord{State: fence.StateActive, Epoch: 2, ActiveEpoch: 2, Holder: self, Active: self}}).s
		s.source, s.spent, s.spentOn = wholeLog{}, c.spent, c.on
		s.lib = library{conn: &local.Conn{}, known: true, active: true, began: 200, lineage: "pg:1:1"}
		err := s.lacking(h)
		if !errors.Is(err, tidegate.ErrDiverged) || errors.Is(err, errLacking) != c.lacking {
			t.Errorf("%s: %v", c.name, err)
		}
		if err := s.lacking(batch.Header{First: 100, Next: 200}); err != nil {
			t.Errorf("%s: of what it has: %v", c.name, err)
		}
	}
}
