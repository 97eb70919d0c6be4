package live

import (
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/drills/evidence"
)

// The phases of a recovery, t0 to t9 of PROTOCOL 5.7, besides drain: of a planned change,
// from the request until the old writer has handed over and the next epoch is reserved.
const (
	phaseDetect       = "detect"
	phaseDecide       = "decide"
	phaseDrain        = "drain"
	phaseVerify       = "verify"
	phaseReroute      = "re-route"
	phaseReconstitute = "reconstitute"
)

// byGate are the phases that the gate's record of a change of role has, in their order.
var byGate = []string{"fence", "lease", "catch-up", "promote", "apply", phaseVerify}

// Moments are those of a change of role, by the drill's clock; nil: it did not come.
type Moments struct {
	Fault  *tidegate.Instant // t0: the fault, or the request
	Notice *tidegate.Instant // t1
	Decide *tidegate.Instant // t2: the gate has reserved the epoch
	Serve  *tidegate.Instant // t8
	Whole  *tidegate.Instant // t9
}

// Phases lists the phases of one change of role. Those that the gate has on record are as
// it has them, and re-route is what is left of the time until clients were served, which
// the drill's own clock measured; noise is how far that may be off. planned ones have no
// fault to detect and nothing to decide. Everything that is not known is nil.
func Phases(m Moments, plan *pb.Plan, planned, verifies bool, noise time.Duration) []evidence.Phase {
	decided := between(m.Notice, m.Decide)
	drained := between(m.Fault, m.Decide)
	out := []evidence.Phase{
		{Name: phaseDetect, Took: only(!planned, between(m.Fault, m.Notice)), Absent: planned, Noise: only(!planned, &noise)},
		{Name: phaseDecide, Took: only(!planned, decided), Absent: planned, Noise: only(!planned, &noise)},
		{Name: phaseDrain, Took: only(planned, drained), Absent: !planned},
	}
	left := between(m.Decide, m.Serve)
	for _, name := range byGate {
		took := onRecord(plan, name)
		absent := name == phaseVerify && !verifies
		if absent {
			took = nil
		}
		out = append(out, evidence.Phase{Name: name, Took: took, Absent: absent})
		switch {
		case left == nil || absent:
		case took == nil:
			left = nil
		default:
			left = new(*left - *took)
		}
	}
	if left != nil && *left < 0 {
		left = nil // two clocks contradict one another
	}
	whole := between(m.Serve, m.Whole)
	if took := onRecord(plan, phaseReconstitute); took != nil && !planned {
		whole = took
	}
	return append(out, evidence.Phase{Name: phaseReroute, Took: left, Noise: &noise}, evidence.Phase{Name: phaseReconstitute, Took: whole, Noise: &noise})
}

// Ridden lists the phases of a fault that nobody changed roles for: until the gate said so,
// and from the heal on until protection was back.
func Ridden(fault, notice, heal, whole *tidegate.Instant, says bool, noise time.Duration) (out []evidence.Phase) {
	out = append(out, evidence.Phase{Name: phaseDetect, Took: only(says, between(fault, notice)), Absent: !says, Noise: only(says, &noise)})
	for _, name := range append([]string{phaseDecide, phaseDrain}, append(byGate, phaseReroute)...) {
		out = append(out, evidence.Phase{Name: name, Absent: true})
	}
	return append(out, evidence.Phase{Name: phaseReconstitute, Took: between(heal, whole), Noise: &noise})
}

// backPrefix begins the phases of the way back.
const backPrefix = "back-"

// wayBack are the phases of the second change of a planned drill, by names of their own.
func wayBack(all []evidence.Phase) (out []evidence.Phase) {
	for _, p := range all {
		if !p.Absent {
			p.Name = backPrefix + p.Name
			out = append(out, p)
		}
	}
	return out
}

// onRecord is how long a phase took by the gate's record; nil: it does not say.
func onRecord(plan *pb.Plan, name string) *time.Duration {
	for _, p := range plan.GetPhases().GetPhases() {
		if p.GetName() == name && p.GetTook() != nil {
			return new(p.GetTook().AsDuration())
		}
	}
	return nil
}

func between(from, to *tidegate.Instant) *time.Duration {
	if from == nil || to == nil {
		return nil
	}
	return new(max(0, time.Duration(*to-*from)))
}

func only(has bool, d *time.Duration) *time.Duration {
	if !has {
		return nil
	}
	return d
}

// reserved is the step behind which a change of role is decided; its name begins so.
const reserved, activated = "F1 ", "F6 "

// stepDone reports whether a step of a plan has ended well.
func stepDone(s *pb.PlanStep, name string) bool {
	return strings.HasPrefix(s.GetName(), name) && s.GetState() == "done"
}
