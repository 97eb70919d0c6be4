package live

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/drills/shadow"
)

// Sight is what the gates say at one moment.
type Sight struct {
	Status   *pb.StatusResponse // of the first gate that answers; nil: none did
	Findings []*pb.Finding      // of its doctor; nil: it gave none
	Silent   map[string]string  // gates of the file that gave no answer, and why
}

// service is what is said of a service; nil: nothing is.
func (s Sight) service(name tidegate.ServiceName) *pb.ServiceStatus {
	for _, one := range s.Status.GetServices() {
		if one.GetName() == string(name) {
			return one
		}
	}
	return nil
}

// Lines is what is said, for people and for [Expectation.Says]: one thing a line, each
// beginning with whom it is about.
func (s Sight) Lines(name tidegate.ServiceName) (out []string) {
	for gate, why := range s.Silent {
		out = append(out, fmt.Sprintf("gate %s: no answer: %s", gate, why))
	}
	if s.Status == nil {
		out = append(out, "gates: none answers: nothing is known")
	} else if !s.Status.GetRegistryReachable() {
		out = append(out, "registry: does not answer")
	}
	if svc := s.service(name); svc != nil {
		if p := svc.GetProbe(); p.GetEnabled() && !p.GetGood() {
			out = append(out, "probe fails: "+p.GetError())
		}
		for _, r := range svc.GetReasons() {
			out = append(out, word(svc.GetVerdict())+": "+r)
		}
	}
	for _, f := range s.Findings {
		if f.GetSeverity() > pb.Severity_SEVERITY_INFO || strings.Contains(f.GetFinding(), "quarantine") {
			out = append(out, fmt.Sprintf("finding: %s: %s", f.GetSubject(), f.GetFinding()))
		}
	}
	slices.Sort(out)
	return out
}

func word(v pb.Verdict) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(v.String(), "VERDICT_"), "_", " "))
}

// says returns the first line that e expects and before has not; lines differ by their
// numbers alone when they say the same.
func (s Sight) says(e Expectation, name tidegate.ServiceName, before Sight) (string, bool) {
	old := map[string]bool{}
	for _, line := range before.Lines(name) {
		old[numberless(line)] = true
	}
	for _, line := range s.Lines(name) {
		if e.Says != nil && e.Says.MatchString(line) && !old[numberless(line)] {
			return line, true
		}
	}
	return "", false
}

func numberless(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r == '.' {
			return -1
		}
		return r
	}, s)
}

// writer is who writes a service: the node and site of all its streams; empty where they
// are not all of one, or not known.
func writer(s *pb.ServiceStatus) (node, site string) {
	for i, x := range s.GetStreams() {
		h := x.GetView().GetEpoch().GetHolder()
		if i > 0 && h.GetNode() != node {
			return "", ""
		}
		node, site = h.GetNode(), h.GetSite()
	}
	return node, site
}

// exposed says why a service is not protected; empty: it is.
func exposed(s *pb.ServiceStatus) string {
	if s == nil {
		return "no gate says anything of it"
	}
	if len(s.GetStreams()) == 0 {
		return "it has no streams"
	}
	for _, x := range s.GetStreams() {
		v := x.GetView()
		switch e := v.GetEpoch(); {
		case v.GetPaused():
			return v.GetName() + " is paused"
		case e.GetState() != pb.EpochState_EPOCH_STATE_ACTIVE:
			return v.GetName() + " has no writer"
		case e.GetGate().GetState() != pb.GateState_GATE_STATE_ARMED:
			return v.GetName() + "'s gate is not armed"
		case api.Mode(e.GetGate().GetMode()) == tidegate.ModeOpen:
			return v.GetName() + "'s gate is open: nothing bounds what a disaster loses"
		case x.GetVerdict() == pb.Verdict_VERDICT_UNSAFE || x.GetVerdict() == pb.Verdict_VERDICT_UNKNOWN:
			return fmt.Sprintf("%s is %s: %s", v.GetName(), word(x.GetVerdict()), strings.Join(x.GetReasons(), "; "))
		case x.GetMembersCounted() < v.GetW():
			return fmt.Sprintf("%s: %d members are caught up, W is %d", v.GetName(), x.GetMembersCounted(), v.GetW())
		}
	}
	return ""
}

// weakened is exposed for before a drill, and after one that changed no writer: besides,
// every member answers and clients are served.
func weakened(s *pb.ServiceStatus) string {
	if why := exposed(s); why != "" {
		return why
	}
	for _, x := range s.GetStreams() {
		if x.GetUnderProtected() {
			return x.GetView().GetName() + ": not every member answers"
		}
		for _, m := range x.GetMembers() {
			if text := m.GetStream().GetError(); text != "" {
				return fmt.Sprintf("%s: member %s: %s", x.GetView().GetName(), m.GetNode(), text)
			}
		}
	}
	if p := s.GetProbe(); p.GetEnabled() && !p.GetGood() {
		return "its synthetic client fails: " + p.GetError()
	}
	return ""
}

// closed says whose clients wait for the other site; empty: nobody's, as far as is known. A
// writer's word may be some seconds old.
func closed(s *pb.ServiceStatus) string {
	for _, x := range s.GetStreams() {
		if x.GetWriter().GetBlocked() {
			return x.GetView().GetName() + ": its gate is closed: clients wait for the other site"
		}
	}
	return ""
}

// unready says why no drill may begin now; empty: one may.
func unready(s Sight, name tidegate.ServiceName) string {
	svc := s.service(name)
	switch {
	case s.Status == nil:
		return "no gate answers"
	case svc == nil:
		return fmt.Sprintf("the gate knows no service %s", name)
	case svc.GetFrozen():
		return fmt.Sprintf("role changes of %s are frozen", name)
	}
	if why := s.uncontrolled(s.Silent); why != "" {
		return why
	}
	if why := weakened(svc); why != "" {
		return fmt.Sprintf("%s is not protected as it should be: %s", name, why)
	}
	return ""
}

// uncontrolled says why roles could not be changed, or which gate has gone besides those
// that were silent before; empty: neither.
func (s Sight) uncontrolled(silent map[string]string) string {
	switch {
	case s.Status == nil:
		return "no gate answers"
	case !s.Status.GetRegistryReachable():
		return "the registry does not answer: nobody could change roles"
	case s.Status.GetLeader() == "":
		return "no gate leads: nobody could change roles"
	}
	for gate, why := range s.Silent {
		if _, was := silent[gate]; !was {
			return fmt.Sprintf("gate %s gives no answer: %s", gate, why)
		}
	}
	return ""
}

// exposure is what a sight says of a service's exposure: the worst of its streams, its age
// as the blind window.
func (s Sight) exposure(name tidegate.ServiceName) (out shadow.Seen) {
	svc := s.service(name)
	if svc == nil || len(svc.GetStreams()) == 0 {
		return out
	}
	out = shadow.Seen{Blind: new(time.Duration), Records: new(int64), Bytes: new(int64)}
	for _, x := range svc.GetStreams() {
		e := x.GetWriter().GetExposure()
		if !known(x) {
			return shadow.Seen{}
		}
		*out.Blind = max(*out.Blind, e.GetAge().AsDuration())
		*out.Records = max(*out.Records, e.GetRecords())
		*out.Bytes = max(*out.Bytes, e.GetBytes())
	}
	return out
}

// staleAfter is from when on a writer's report says nothing any more; gates' own default.
const staleAfter = 5 * time.Second

// known reports whether a stream's exposure is.
func known(x *pb.StreamStatus) bool {
	e := x.GetWriter().GetExposure()
	return e != nil && e.Records != nil && e.Bytes != nil && e.GetAge() != nil && x.GetWriterReportAge().AsDuration() <= staleAfter
}

// blind is a stream whose exposure is not known and that is called safe all the same;
// empty: there is none.
func (s Sight) blind(name tidegate.ServiceName) string {
	for _, x := range s.service(name).GetStreams() {
		if !known(x) && x.GetVerdict() == pb.Verdict_VERDICT_SAFE {
			return fmt.Sprintf("%s is called safe, and its exposure is not known", x.GetView().GetName())
		}
	}
	return ""
}
