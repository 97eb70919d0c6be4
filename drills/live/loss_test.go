package live

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/drills/evidence"
)

// TestJudgeLoss: what is missing is held against mode and claim; only what is allowed and
// claimed passes.
func TestJudgeLoss(t *testing.T) {
	t.Parallel()
	const passed, failed, unknown = evidence.CheckPassed, evidence.CheckFailed, evidence.CheckUnknown
	sync, bounded, open := tidegate.ModeSync, tidegate.ModeBounded, tidegate.ModeOpen
	zero := &pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_ZERO}
	most := func(records int64, window time.Duration) *pb.LossStatement {
		return &pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_AT_MOST, Bounds: &pb.Bounds{Records: &records, Window: durationpb.New(window)}}
	}
	anything := &pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_UNKNOWN, Why: "the gate was open"}
	none, some := Lost{Asked: 9}, Lost{Asked: 9, Records: 3, Span: 2 * time.Second, Inner: time.Second, First: "7"}
	for name, c := range map[string]struct {
		lost      Lost
		mode      *tidegate.Mode
		statement *pb.LossStatement
		rpo       time.Duration
		want      []evidence.CheckOutcome // canaries, statement
	}{
		"nothing in sync":              {none, &sync, zero, time.Second, []evidence.CheckOutcome{passed, passed}},
		"some in sync":                 {some, &sync, zero, time.Hour, []evidence.CheckOutcome{failed, failed}},
		"some in sync, claimed":        {some, &sync, most(10, time.Minute), time.Hour, []evidence.CheckOutcome{failed, passed}},
		"some within the bounds":       {some, &bounded, most(10, time.Minute), time.Hour, []evidence.CheckOutcome{passed, passed}},
		"more than the bounds":         {some, &bounded, most(2, time.Minute), time.Hour, []evidence.CheckOutcome{passed, failed}},
		"longer than the bounds":       {some, &bounded, most(10, time.Millisecond), time.Hour, []evidence.CheckOutcome{passed, failed}},
		"zero claimed and some lost":   {some, &bounded, zero, time.Hour, []evidence.CheckOutcome{passed, failed}},
		"nothing claimed":              {some, &open, anything, time.Hour, []evidence.CheckOutcome{passed, unknown}},
		"no objective":                 {some, &bounded, most(10, time.Minute), 0, []evidence.CheckOutcome{unknown, passed}},
		"a claim without numbers":      {none, &bounded, &pb.LossStatement{Kind: pb.LossKind_LOSS_KIND_AT_MOST}, time.Hour, []evidence.CheckOutcome{passed, unknown}},
		"nobody answered":              {Lost{Asked: 9, Unknown: 1}, &sync, zero, time.Hour, []evidence.CheckOutcome{unknown, unknown}},
		"nobody answered for the rest": {Lost{Asked: 9, Unknown: 1, Records: 1, First: "7"}, &sync, zero, time.Hour, []evidence.CheckOutcome{failed, failed}},
		"nothing was acknowledged":     {Lost{}, &sync, zero, time.Hour, []evidence.CheckOutcome{unknown, unknown}},
		"beside, within the RPO":       {some, &bounded, most(10, time.Minute), time.Hour, []evidence.CheckOutcome{passed, passed}},
		"beside, beyond the RPO":       {some, &bounded, most(10, time.Minute), time.Second, []evidence.CheckOutcome{failed, passed}},
		"nobody moved it":              {none, &bounded, nil, time.Hour, []evidence.CheckOutcome{passed}},
		"nobody moved it, some lost":   {some, &bounded, nil, time.Hour, []evidence.CheckOutcome{failed}},
	} {
		got := judgeLoss(c.lost, c.mode, c.statement, c.rpo, strings.HasPrefix(name, "beside"))
		if len(got) != len(c.want) {
			t.Errorf("%s: %d checks", name, len(got))
			continue
		}
		for i, k := range got {
			if k.Outcome != c.want[i] || (k.Outcome == passed) != (k.Why == "") || k.Wanted == "" {
				t.Errorf("%s: %s: %+v, want %s", name, k.Name, k, c.want[i])
			}
		}
	}
}

// TestPhases: the gate's times are the gate's, the rest is the drill's own clock's, and
// what is not known is not 0.
func TestPhases(t *testing.T) {
	t.Parallel()
	plan := &pb.Plan{Phases: &pb.Phases{}}
	for name, ms := range map[string]int{"fence": 10, "lease": 0, "catch-up": 20, "promote": 5, "apply": 100, "reconstitute": 400} {
		plan.Phases.Phases = append(plan.Phases.Phases, &pb.Phase{Name: name, Took: durationpb.New(time.Duration(ms) * time.Millisecond)})
	}
	on := func(ms int) *tidegate.Instant { i := at(ms); return &i }
	m := Moments{Fault: on(1000), Notice: on(1300), Decide: on(1350), Serve: on(1600), Whole: on(9000)}
	type want map[string]int // ms; -1: unknown
	for name, c := range map[string]struct {
		got  []evidence.Phase
		want want
	}{
		"failover": {Phases(m, plan, false, false, time.Millisecond), want{
			"detect": 300, "decide": 50, "fence": 10, "lease": 0, "catch-up": 20, "promote": 5, "apply": 100, "re-route": 115, "reconstitute": 400,
		}},
		"its verify is not on record": {Phases(m, plan, false, true, time.Millisecond), want{
			"detect": 300, "decide": 50, "fence": 10, "lease": 0, "catch-up": 20, "promote": 5, "apply": 100, "verify": -1, "re-route": -1, "reconstitute": 400,
		}},
		"planned": {Phases(m, plan, true, false, time.Millisecond), want{
			"drain": 350, "fence": 10, "lease": 0, "catch-up": 20, "promote": 5, "apply": 100, "re-route": 115, "reconstitute": 7400,
		}},
		"nothing came of it": {Phases(Moments{Fault: on(1)}, nil, false, false, time.Millisecond), want{
			"detect": -1, "decide": -1, "fence": -1, "lease": -1, "catch-up": -1, "promote": -1, "apply": -1, "re-route": -1, "reconstitute": -1,
		}},
		"clocks contradict one another": {Phases(Moments{Decide: on(1), Serve: on(2)}, plan, true, false, time.Millisecond), want{
			"drain": -1, "fence": 10, "lease": 0, "catch-up": 20, "promote": 5, "apply": 100, "re-route": -1, "reconstitute": -1,
		}},
		"ridden out":           {Ridden(on(1), on(21), on(100), on(150), true, time.Millisecond), want{"detect": 20, "reconstitute": 50}},
		"nothing need be said": {Ridden(on(1), nil, on(100), on(150), false, time.Millisecond), want{"reconstitute": 50}},
	} {
		seen := want{}
		for _, p := range c.got {
			if p.Absent {
				if p.Took != nil {
					t.Errorf("%s: %s is absent, and took %s", name, p.Name, *p.Took)
				}
				continue
			}
			if seen[p.Name] = -1; p.Took != nil {
				seen[p.Name] = int(p.Took.Milliseconds())
			}
		}
		if len(c.got) != 11 || len(seen) != len(c.want) {
			t.Errorf("%s: %d phases, %v, want %v", name, len(c.got), seen, c.want)
		}
		for phase, ms := range c.want {
			if seen[phase] != ms {
				t.Errorf("%s: %s took %d, want %d", name, phase, seen[phase], ms)
			}
		}
	}
	if back := wayBack(Phases(m, plan, true, false, 0)); len(back) != 8 || back[0].Name != "back-drain" {
		t.Errorf("the way back: %+v", back)
	}
}
