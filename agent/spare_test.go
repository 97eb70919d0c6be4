package agent

import (
	"errors"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
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
