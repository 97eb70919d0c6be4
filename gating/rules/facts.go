package rules

import (
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// Facts is what is known of a service at one moment. Every pointer that is nil
// is a fact nobody knows; texts are for people and decide nothing. The zero
// value knows nothing, and no rule holds on it.
type Facts struct {
	Service ServiceFacts
	Target  TargetFacts
	Streams []StreamFacts // sorted by name; none: the service has no streams
	Limits  Limits
}

// Limits are the thresholds of rules that compare. A zero field takes the default.
type Limits struct {
	DatumAge  time.Duration // newest word from the writer; default 10s
	DiskLasts time.Duration // the target's free space at the rate it fills; default 1h
	DiskFree  int64         // bytes free on the target, whatever the rate; default 256 MiB
	DrillAge  time.Duration // newest passing drill; default 7 days
}

// SetDefaults fills what was left out.
func (l Limits) SetDefaults() Limits {
	if l.DatumAge <= 0 {
		l.DatumAge = 10 * time.Second // two reports' patience
	}
	if l.DiskLasts <= 0 {
		l.DiskLasts = time.Hour // somebody can come and make room
	}
	if l.DiskFree <= 0 {
		l.DiskFree = 256 << 20 // four segments
	}
	if l.DrillAge <= 0 {
		l.DrillAge = 7 * 24 * time.Hour
	}
	return l
}

// ServiceFacts are about the service as a whole.
type ServiceFacts struct {
	Frozen    *bool
	FrozenWhy string
	Armed     *bool // the arm switch is on
	ArmedWhy  string
	DrillAge  *time.Duration  // since the newest passing drill
	MaxLoss   tidegate.Bounds // what may be lost without being asked; zero accepts nothing
}

// TargetFacts are about the node that is to take over.
type TargetFacts struct {
	Node       tidegate.NodeName // empty: nobody qualifies
	Registered *bool             // as a standby node
	Agent      *bool             // the agent beside it is known to the gate
	Healthy    *bool             // it reports, and no stream of the service with an error
	HealthWhy  string
	DiskFree   *int64   // bytes
	DiskGrowth *float64 // bytes/s; negative shrinks
}

// StreamFacts are about one stream of the service.
type StreamFacts struct {
	Name   tidegate.StreamName
	Writer string // who holds which epoch, for people

	Recorded     *bool // there is a readable epoch record
	NeverWritten *bool // it never had a writer: its log is empty
	Restored     *bool // the registry went back and nobody has armed the gate since

	Quorum  tidegate.Quorum // of the configuration in force; invalid: not known
	Members []MemberFacts   // of the configuration, and configured ones that are not in it yet

	TargetNamed *bool // the target is a member, configured or in force
	TargetHolds *bool // the stream is active on the target already, under whatever holder

	GateHolds *bool          // a cut-off writer stops at its own bounds
	GateText  string         // for people
	Lease     *time.Duration // a cut-off writer's outputs end with its output lease; 0: there are none
	Loss      *fence.LossStatement

	BeaconAge    *time.Duration // since the newest beacon that any member has heard
	WriterSilent *time.Duration // since the writer's last sign of life that anybody here has seen

	Applies    *bool // the target's service is connected, and says how far it has applied
	AppliesWhy string

	NoGap   *bool // no stretch of the log is missing at the target
	GapWhy  string
	Agree   *bool // no two members contradict each other or the writer; see [Agreement]
	Differs string
}

// MemberFacts are about one member of a stream.
type MemberFacts struct {
	Node     tidegate.NodeName
	InForce  bool  // in the configuration in force, not only configured
	Answers  *bool // it reported lately
	Knows    *bool // under the incarnation that counts, and out of limbo
	Verified *bool // what it holds is what the writer wrote
	Why      string
}

// Request is what is asked for.
type Request struct {
	Action     Action
	AcceptLoss bool
	Attest     bool // somebody vouches that the old writer can put nothing out
	Actor      string
	Reason     string
}

// alive reports whether a member counts for a quorum now.
func (m MemberFacts) alive() bool { return is(m.Answers) && is(m.Knows) }

// is reports whether a fact is known and true.
func is(b *bool) bool { return b != nil && *b }

// Tail is what one member says its log ends with.
type Tail struct {
	Node       tidegate.NodeName
	Epoch      tidegate.Epoch // the newest that it adopted
	Seq        tidegate.Seq
	Chain      tidegate.Chain
	Distrusted bool // the writer heard something from it that contradicts what it sent
}

// Agreement compares the ends of the members' logs. Two members whose logs end
// at the same batch must show the same chain; a chain covers everything before
// it. Ends at different batches cannot be compared and contradict nothing: each
// append proved the log before it to the node that took it. A member that has
// not adopted the newest epoch among them may end with what that epoch will cut.
func Agreement(tails []Tail) (agree bool, why string) {
	var newest tidegate.Epoch
	for _, t := range tails {
		newest = max(newest, t.Epoch)
	}
	for i, a := range tails {
		if a.Distrusted {
			return false, string(a.Node) + " contradicts the writer"
		}
		for _, b := range tails[i+1:] {
			if a.Epoch == newest && b.Epoch == newest && a.Seq == b.Seq && a.Chain != b.Chain {
				return false, string(a.Node) + " and " + string(b.Node) + " differ at batch " + a.Seq.String()
			}
		}
	}
	return true, ""
}
