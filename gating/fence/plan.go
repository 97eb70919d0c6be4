package fence

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/tidegate/tidegate"
)

// PlanKind says why the writer changes.
type PlanKind string

// The kinds of plan.
const (
	KindAcquire  PlanKind = "acquire"  // an agent starts: F1-F6, same site, no promotion of a standby
	KindFailover PlanKind = "failover" // F0-F9: another node takes over

	KindSwitchover  PlanKind = "switchover"  // S0-S5, F1-F9: the writer hands over to another node, nothing is lost
	KindReconfigure PlanKind = "reconfigure" // F1-F6: the same writer, another configuration
)

// PlanStep is where a plan stands. Steps only grow, except that F1 to F5 go
// back to StepReserve when a higher epoch was heard of.
type PlanStep string

// The steps of PROTOCOL 4.6.
const (
	StepSwitching PlanStep = "S1-switching" // SWITCHING is being written
	StepDrain     PlanStep = "S2-drain"     // the writer drains, seals the handover, and gives the epoch up (S2 to S5)
	StepAbort     PlanStep = "S-abort"      // ACTIVE is being written back
	StepDecide    PlanStep = "F0-decide"    // S0 of a switchover
	StepReserve   PlanStep = "F1-reserve"
	StepFence     PlanStep = "F2-fence"
	StepChoose    PlanStep = "F3-choose"
	StepLease     PlanStep = "F4-lease"
	StepAdopt     PlanStep = "F5-adopt"
	StepActivate  PlanStep = "F6-activate"
	StepApply     PlanStep = "F7-apply"
	StepRoute     PlanStep = "F8-route"
	StepReport    PlanStep = "F9-report"
	StepDone      PlanStep = "done"
	StepRefused   PlanStep = "refused"    // a rule said no; see Plan.Refusal
	StepGone      PlanStep = "superseded" // another plan has the streams; nothing was opened by this one after that
)

// Timings are the instants of the RTO phases on the controller's wall clock; a
// zero time has not happened. T0 and T8 are stamped by the prober.
type Timings struct {
	T0      time.Time `json:"t0,omitzero"`       // fault onset, or last good journey
	T1      time.Time `json:"t1,omitzero"`       // suspected
	T2      time.Time `json:"t2,omitzero"`       // decided: F1 committed
	T3      time.Time `json:"t3,omitzero"`       // R promises on every stream
	T3Lease time.Time `json:"t3_lease,omitzero"` // old outputs provably over
	T4      time.Time `json:"t4,omitzero"`       // W adopters on every stream
	T5      time.Time `json:"t5,omitzero"`       // ACTIVE committed
	T6      time.Time `json:"t6,omitzero"`       // applied through H
	T7      time.Time `json:"t7,omitzero"`       // verified; zero when nothing was (Plan.Verify, Plan.Unverified)
	T8      time.Time `json:"t8,omitzero"`       // first client write through the normal route
	T9      time.Time `json:"t9,omitzero"`       // redundancy restored

	// Of a switchover. S2 to S4 happen at the writer and the target, in between.
	S1 time.Time `json:"s1,omitzero"` // SWITCHING committed: the pause that clients notice begins, and T0 is the same instant
	S5 time.Time `json:"s5,omitzero"` // DEMOTED seen: the writer has handed over
}

// Refusal is a rule that said no.
type Refusal struct {
	Rule   string              `json:"rule"` // one of the Rule constants
	Stream tidegate.StreamName `json:"stream,omitempty"`
	Why    string              `json:"why"`
	Hint   string              `json:"hint,omitempty"`
}

func (r Refusal) Error() string {
	if r.Stream == "" {
		return fmt.Sprintf("%s: %s", r.Rule, r.Why)
	}
	return fmt.Sprintf("%s %s: %s", r.Rule, r.Stream, r.Why)
}

// Rules that a controller can refuse by.
const (
	RuleRPOBound     = "rpo-bound"      // the loss that must be assumed is above what was accepted
	RuleFenceQuorum  = "fence-quorum"   // fewer than R members answered that know what they had
	RulePrimaryFence = "primary-fenced" // the old writer's outputs are not provably over
	RuleAdoptQuorum  = "adopt-quorum"   // no member (or not the target) reached H
	RuleSameSite     = "same-site"      // an agent may acquire only where the stream already lives
	RuleTarget       = "target"         // the target is not a member, or unknown
	RuleUnderway     = "failover-under-way"
	RuleAttempts     = "attempts" // F1 was committed AttemptsMax times without success
	RuleRecord       = "record"   // the registry's record is missing, unreadable, or not in the state that the plan needs

	RuleBranch   = "other-history"     // an agent may acquire only for a service whose log went on from the stream's last promotion
	RuleHandover = "handover-lossless" // the chosen head is not the one that was handed over
	RuleDrain    = "drain"             // the writer did not hand over in time
	RuleAborted  = "aborted"           // an operator called the plan off
	RuleConfig   = "config"            // the wanted configuration was not reached; the old one stays
)

// StreamPlan is one stream's part of a plan.
type StreamPlan struct {
	Stream   tidegate.StreamID   `json:"stream"`
	Name     tidegate.StreamName `json:"name"`
	Wanted   *Config             `json:"wanted,omitempty"`  // configuration to reach; nil keeps the last active one
	Branch   *tidegate.Epoch     `json:"branch,omitempty"`  // acquire: the newest epoch that the target's own log was brought up by, 0 for none; nil when it does not tell
	Evidence Evidence            `json:"evidence,omitzero"` // of the nodes that answered, against the chosen head

	Revision int64        `json:"revision"` // of the epoch key when Record was read or written
	Record   EpochRecord  `json:"record"`   // as last read or written by this plan
	Heard    Promise      `json:"heard"`    // highest promise heard of that the record did not know; without holder: a log that had adopted it
	Replies  []FenceReply `json:"replies,omitempty"`
	Adopters []AdoptReply `json:"adopters,omitempty"`
	Declined []AdoptReply `json:"declined,omitempty"` // who would not adopt for a reason that waiting does not mend, newest reply of each
	Promoted bool         `json:"promoted,omitempty"`
	Applied  bool         `json:"applied,omitempty"`
}

// Plan is one change of writer of one service: everything a controller needs to
// go on where another was killed. Plain data, JSON-able. A caller fills the
// first block; the rest is written by the [Controller].
type Plan struct {
	ID                tidegate.ID          `json:"id"`
	Service           tidegate.ServiceName `json:"service"`
	Kind              PlanKind             `json:"kind"`
	Target            Holder               `json:"target"`              // who will hold the streams
	AcceptLoss        bool                 `json:"accept_loss"`         // go on although loss cannot be bounded as wanted
	MaxLoss           tidegate.Bounds      `json:"max_loss"`            // loss that needs no AcceptLoss
	Force             bool                 `json:"force"`               // go on with fewer than R fence replies (unclean)
	AttestPrimaryDown bool                 `json:"attest_primary_down"` // a human says that the old writer's outputs are over
	SameBoot          bool                 `json:"same_boot,omitempty"` // acquire: old holder ran on the same boot of the same node and is proven dead
	Shrink            bool                 `json:"shrink"`              // F6 may write the adopters as a smaller configuration when F5 runs out of patience
	Preempt           bool                 `json:"preempt"`             // the plan that has the streams in its hands ([EpochRecord.Moving]) is known to be over
	Verify            bool                 `json:"verify"`              // F7 waits for Verified, or Unverified, before the route is switched
	Drain             time.Duration        `json:"drain_ns,omitempty"`  // switchover: how long the writer may take to hand over
	Abort             *AbortAsked          `json:"abort,omitempty"`     // somebody wants it called off
	Reason            string               `json:"reason"`              // for people
	Actor             string               `json:"actor"`               // for people
	Streams           []StreamPlan         `json:"streams"`             // sorted by name, at least one

	Step     PlanStep `json:"step"`
	Attempts int      `json:"attempts"` // times F1 was committed
	Cut      string   `json:"cut,omitempty"`

	Unverified string          `json:"unverified,omitempty"` // why F7 went on without the verification that was wanted
	Refusal    *Refusal        `json:"refusal,omitempty"`
	Loss       []LossStatement `json:"loss,omitempty"` // one per stream, same order; failovers only
	Times      Timings         `json:"times"`
}

// AbortAsked says who wants a plan called off, and why.
type AbortAsked struct {
	Actor  string `json:"actor"`
	Reason string `json:"reason"`
}

// AttemptsMax bounds how often one plan reserves an epoch.
const AttemptsMax = 16

// PlanVersion is the version of the JSON form of [Plan].
const PlanVersion = 1

// Marshal returns the plan's record, with its version.
func (p Plan) Marshal() ([]byte, error) {
	return json.Marshal(struct {
		Version int `json:"version"`
		Plan
	}{PlanVersion, p})
}

// ParsePlan reads what Marshal wrote; it refuses other versions.
func ParsePlan(b []byte) (Plan, error) {
	var v struct {
		Version int `json:"version"`
		Plan
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return Plan{}, fmt.Errorf("parse plan: %w", err)
	}
	if v.Version != PlanVersion {
		return Plan{}, fmt.Errorf("parse plan: version %d: %w", v.Version, tidegate.ErrUnsupported)
	}
	return v.Plan, v.Plan.Validate()
}

// Finished reports whether the controller has nothing more to do by itself.
func (p Plan) Finished() bool {
	return p.Step == StepDone || p.Step == StepRefused || p.Step == StepGone
}

// Validate checks what the caller filled in.
func (p Plan) Validate() error {
	if p.ID.IsZero() || len(p.Streams) == 0 {
		return fmt.Errorf("plan %s: want an id and at least one stream", p.ID)
	}
	switch p.Kind {
	case KindAcquire, KindFailover, KindReconfigure:
	case KindSwitchover:
		if p.Drain <= 0 {
			return fmt.Errorf("plan %s: drain for %s: want some time", p.ID, p.Drain)
		}
	default:
		return fmt.Errorf("plan %s: unknown kind %q", p.ID, p.Kind)
	}
	if p.Target.Node == "" || p.Target.Site == "" || p.Target.UUID.IsZero() {
		return fmt.Errorf("plan %s: target %s: want node, site and uuid", p.ID, p.Target)
	}
	for i := range p.Streams {
		s := &p.Streams[i]
		if s.Stream.IsZero() || i > 0 && p.Streams[i-1].Name >= s.Name {
			return fmt.Errorf("plan %s: stream %q: want ids, sorted by name, each once", p.ID, s.Name)
		}
		if s.Wanted != nil {
			if err := s.Wanted.Validate(); err != nil {
				return fmt.Errorf("plan %s: stream %s: %w", p.ID, s.Name, err)
			}
		}
	}
	return nil
}
