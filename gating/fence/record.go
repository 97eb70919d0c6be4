package fence

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/mutate"
)

// State is the phase of a stream's epoch.
type State string

// The states of an epoch record. FENCING: reserved, the nodes are being asked.
// RECOVERING: the head has been chosen and is part of the record. ACTIVE: the
// holder may write.
const (
	StateActive     State = "ACTIVE"
	StateSwitching  State = "SWITCHING"
	StateDemoted    State = "DEMOTED"
	StateFencing    State = "FENCING"
	StateRecovering State = "RECOVERING"
)

// GateState says whether the gate's bounds hold.
type GateState string

// The gate states. Only armed permits a bounded loss statement.
const (
	GateArmed    GateState = "ARMED"
	GateDegraded GateState = "DEGRADED" // outputs go on unprotected; recorded before it took effect
	GateBlindOK  GateState = "BLIND_OK" // may degrade without recording: no zero-loss claim ever
	GateUnknown  GateState = "UNKNOWN"  // rebuilt or restored registry: no claim until a live writer re-arms
)

// GateRecord is the gate's part of the epoch record. Loosening is recorded
// before it acts, tightening acts before it is recorded.
type GateRecord struct {
	State    GateState       `json:"state"`
	Mode     tidegate.Mode   `json:"mode"`
	Bounds   tidegate.Bounds `json:"bounds"` // of the bounded mode
	SinceSeq tidegate.Seq    `json:"since_seq"`

	// Lease is how long one output lease lasts; 0: the writer needs none. A writer
	// whose record names one releases nothing beyond D without it while its gate
	// does not hold it by itself ([GateRecord.Holds]).
	Lease time.Duration `json:"lease_ns,omitempty"`
}

// Holds reports whether the writer's own gate stops it without any lease: armed,
// and in a mode with bounds. A degradation needs the epoch key's revision, so a
// writer whose key has moved on stays armed and stops at K, B, T.
func (g GateRecord) Holds() bool {
	return g.State == GateArmed && (g.Mode == tidegate.ModeSync || g.Mode == tidegate.ModeBounded)
}

// LeaseBinds reports whether a writer that outlives its epoch is stopped by its
// leases running out: the record names one, and the gate is in a state in which
// the writer obeys it. A gate that may open blindly obeys nobody, and what a
// restored registry says of leases may be old.
func (g GateRecord) LeaseBinds() bool {
	return g.Lease > 0 && (g.State == GateArmed || g.State == GateDegraded)
}

// Handover is what the writer of an epoch vouches for when it gives it up: the
// batch at Head is its last one, all it released lies within, W members and the
// target hold it, and the target has applied it.
type Handover struct {
	Head        tidegate.LogPos   `json:"head"`         // the handover batch
	Position    tidegate.Position `json:"position"`     // of the source, at its end
	StateKnown  bool              `json:"state_known"`  // whether StateDigest was taken
	StateDigest tidegate.Digest   `json:"state_digest"` // of the service's state at Position
}

// EpochRecord is the value of a stream's epoch key in etcd: the one place where
// role changes, degradations and limbo exits compete, by compare-and-swap on the
// key's revision.
//
// Invariants, checked by Validate:
//  1. Epoch >= ActiveEpoch; they are equal when the state is ACTIVE, SWITCHING or DEMOTED
//  2. Config is the one of ActiveEpoch: later fences ask its members
//  3. in RECOVERING and ACTIVE, StartSeq is Head.Seq+1
//  4. History ends with ActiveEpoch, or in RECOVERING with the chosen log's last epoch
//  5. SWITCHING names its target
//  6. DEMOTED, but for an epoch 0, carries the handover; its head is a batch of the epoch
type EpochRecord struct {
	Version     int                 `json:"version"` // EpochRecordVersion
	Stream      tidegate.StreamID   `json:"stream"`
	Epoch       tidegate.Epoch      `json:"epoch"` // 0: formatted, never active
	Holder      Holder              `json:"holder"`
	State       State               `json:"state"`
	Gate        GateRecord          `json:"gate"`
	Config      Config              `json:"config"`           // last active configuration
	ActiveEpoch tidegate.Epoch      `json:"active_epoch"`     // the epoch Config was written under; 0: registration
	Active      Holder              `json:"active"`           // holder of ActiveEpoch: where the stream lives
	Branch      tidegate.Epoch      `json:"branch,omitempty"` // newest epoch that brought the service of another node up: what has not gone on from there is not the stream's source
	StartSeq    tidegate.Seq        `json:"start_seq"`
	Head        tidegate.LogPos     `json:"head"`
	History     History             `json:"history"`             // terms of the log; in ACTIVE it ends with this epoch
	Source      tidegate.NodeName   `json:"source,omitempty"`    // node that held the chosen log at F3
	Plan        tidegate.ID         `json:"plan"`                // plan that wrote the record last
	Kind        PlanKind            `json:"kind,omitempty"`      // of the plan that reserved Epoch; a switchover writes SWITCHING into the epoch of another plan
	Unclean     bool                `json:"unclean,omitempty"`   // chosen with fewer than R replies of members that know what they had
	Few         bool                `json:"few,omitempty"`       // of an Unclean one: fewer than R members have promised, too; otherwise R have, and some had given something up before
	Missing     []tidegate.NodeName `json:"missing,omitempty"`   // members that did not answer the fence of F3, or do not know what they had
	Restored    bool                `json:"restored,omitempty"`  // a node's promise was above the key: etcd has gone back, no zero-loss claim
	Before      GateRecord          `json:"before,omitzero"`     // the gate as it stood when Head was chosen: what that epoch's writer has recorded since says nothing of the loss
	Forgot      bool                `json:"forgot,omitempty"`    // Restored was set then
	Inherited   bool                `json:"inherited,omitempty"` // made by a reconfiguration while leases applied: until it hears of it, the holder may count on words of members before; only time since F1 ends those
	Forced      tidegate.Epoch      `json:"forced,omitempty"`    // newest epoch that was opened with an Unclean head: a log older than that may hold what it gave up, committed as it was
	Shrunk      bool                `json:"shrunk,omitempty"`    // fewer members than wanted: under-protected
	Chosen      []Choice            `json:"chosen,omitempty"`    // heads chosen since ActiveEpoch, oldest first: no log has adopted any other epoch above it unless the registry has gone back
	Target      Holder              `json:"target,omitzero"`     // SWITCHING, DEMOTED: who is to hold the stream next
	Deadline    int64               `json:"deadline,omitempty"`  // SWITCHING: wall clock, unix ns, at which the switchover will be called off
	Handover    *Handover           `json:"handover,omitempty"`  // DEMOTED, and of the epoch that follows: where the writer before stopped of its own will
	Since       int64               `json:"since"`               // wall clock of the last change, unix ns; information only
}

// Choice is a head that was chosen in an epoch that has not been opened: members
// may have adopted it, and nothing was ever sealed behind it.
//
// It is noted when it is chosen, not when the epoch is reserved. A registry that
// went back may have the same epoch reserved again for the same holder: a log that
// has adopted it got it before, and must not pass for one that this record knows.
type Choice struct {
	Term
	Unclean bool `json:"unclean,omitempty"` // too few had answered that know what they had: who adopts it may be cut below what it had acknowledged
}

// choicesMax bounds what a record remembers of them. Who has adopted one that is
// forgotten is taken for proof that the registry went back: claims only get weaker.
const choicesMax = 32

// choice returns the choice in whose epoch a term was opened; false when the
// record knows of none.
func (r *EpochRecord) choice(t Term) (Choice, bool) {
	for i := len(r.Chosen) - 1; i >= 0; i-- {
		if c := r.Chosen[i]; c.Epoch == t.Epoch && c.Holder == t.Holder {
			return c, true
		}
	}
	return Choice{}, false
}

// gaveUp reports whether a log's newest term began with a head that too few had
// chosen, in an epoch that was never opened.
func (r *EpochRecord) gaveUp(h History) bool {
	c, ok := r.choice(h.Last())
	return ok && c.Unclean && c.Epoch > r.ActiveEpoch && !mutate.Broken(mutate.UncleanSticks)
}

// told returns the terms by which a log that ends at end is compared with others:
// without the one that it has not come to hold ([NodeMeta.GivingUp]), and without
// those at its end by which it only gave something up.
func (r *EpochRecord) told(h History, end tidegate.Seq) History {
	for len(h) > 0 && (h.Last().StartSeq > end+1 || r.gaveUp(h)) {
		h = h[:len(h)-1]
	}
	return h
}

// EpochRecordVersion is the version of the JSON form of [EpochRecord].
const EpochRecordVersion = 1

// NewRecord returns the record of a stream that has been registered and never
// been active: epoch 0, its formatted members named.
func NewRecord(stream tidegate.StreamID, cfg Config, gate GateRecord) (EpochRecord, error) {
	r := EpochRecord{
		Version: EpochRecordVersion, Stream: stream, State: StateDemoted,
		Gate: gate, Config: cfg.Clone(), StartSeq: 1,
	}
	return r, r.Validate()
}

// Validate checks the invariants.
func (r EpochRecord) Validate() error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("epoch record %s: %w", r.Stream, fmt.Errorf(format, a...))
	}
	if err := r.Config.Validate(); err != nil {
		return bad("%w", err)
	}
	if err := r.History.Validate(); err != nil {
		return bad("%w", err)
	}
	switch r.State {
	case StateActive, StateSwitching, StateDemoted:
		if r.Epoch != r.ActiveEpoch || r.History.Last().Epoch != r.ActiveEpoch {
			return bad("%s with epoch %s, active %s, history to %s", r.State, r.Epoch, r.ActiveEpoch, r.History.Last().Epoch)
		}
	case StateFencing, StateRecovering:
		if r.Epoch <= r.ActiveEpoch {
			return bad("%s with epoch %s, active %s", r.State, r.Epoch, r.ActiveEpoch)
		}
	default:
		return bad("unknown state %q", r.State)
	}
	switch h := r.Handover; {
	case r.State != StateFencing && r.StartSeq != r.Head.Seq+1:
		return bad("start %s does not follow head %s", r.StartSeq, r.Head)
	case r.State == StateSwitching && (r.Target.Node == "" || r.Target.UUID.IsZero()):
		return bad("%s to nobody", r.State)
	case r.State == StateDemoted && r.Epoch > 0 && h == nil:
		return bad("%s without a handover", r.State)
	case r.State == StateDemoted && h != nil && (h.Head.Epoch != r.Epoch || h.Head.Seq < r.StartSeq):
		return bad("handed over at %s, epoch %s began at %s", h.Head, r.Epoch, r.StartSeq)
	case r.Gate.Lease < 0:
		return bad("lease of %s", r.Gate.Lease)
	}
	return nil
}

// Clone returns a copy that shares no memory with r.
func (r EpochRecord) Clone() EpochRecord {
	r.Config, r.History, r.Missing = r.Config.Clone(), r.History.Clone(), slices.Clone(r.Missing)
	r.Chosen = slices.Clone(r.Chosen)
	if r.Handover != nil {
		h := *r.Handover
		r.Handover = &h
	}
	return r
}

// Promise returns the promise that the record stands for.
func (r EpochRecord) Promise() Promise { return Promise{r.Epoch, r.Holder.UUID} }

// Marshal returns the value of the epoch key.
func (r EpochRecord) Marshal() ([]byte, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return json.Marshal(r)
}

// ParseEpochRecord reads what Marshal wrote; it refuses other versions and
// records that break an invariant.
func ParseEpochRecord(b []byte) (EpochRecord, error) {
	var r EpochRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return EpochRecord{}, fmt.Errorf("parse epoch record: %w", err)
	}
	if r.Version != EpochRecordVersion {
		return EpochRecord{}, fmt.Errorf("parse epoch record: version %d: %w", r.Version, tidegate.ErrUnsupported)
	}
	return r, r.Validate()
}

// ExitLimbo returns the record in which node is named with a new incarnation,
// for one compare-and-swap on the key. It is granted only to the active holder,
// who vouches that the member has caught up with everything it had sealed when
// it first heard of the incarnation ([CaughtUp]). (I22)
func (r EpochRecord) ExitLimbo(by Promise, m Member) (EpochRecord, error) {
	refuse := func(rule string) (EpochRecord, error) {
		return EpochRecord{}, &tidegate.Error{Op: "exit limbo", Subject: m.String(), Class: tidegate.Refused, Err: fmt.Errorf("%s", rule)}
	}
	switch {
	case r.State != StateActive:
		return refuse("stream is " + string(r.State))
	case r.Promise() != by:
		return EpochRecord{}, &tidegate.Error{Op: "exit limbo", Subject: m.String(), Class: tidegate.Fenced, Err: tidegate.ErrFenced}
	case r.Config.Index(m.Node) < 0:
		return refuse("node is not a member")
	}
	r = r.Clone()
	r.Config.Members[r.Config.Index(m.Node)] = m
	return r, nil
}

// SetGate returns the record with another gate part, for one compare-and-swap
// on the key by the active holder: the same key that a failover reserves, so
// that a degradation and a failover never both succeed. (I13)
//
// was is the gate part that g was decided on: a registry that was put back may
// issue the revisions of a swap again, for another content.
func (r EpochRecord) SetGate(by Promise, was, g GateRecord) (EpochRecord, error) {
	if r.Promise() != by || r.State != StateActive && r.State != StateSwitching {
		return EpochRecord{}, &tidegate.Error{Op: "record gate", Subject: r.Stream.String(), Class: tidegate.Fenced, Err: tidegate.ErrFenced}
	}
	if r.Gate != was {
		return EpochRecord{}, &tidegate.Error{
			Op: "record gate", Subject: r.Stream.String(), Class: tidegate.Transient,
			Err: fmt.Errorf("the gate is %s, not %s: %w", r.Gate.State, was.State, tidegate.ErrConflict),
		}
	}
	r = r.Clone()
	r.Gate = g
	if g.State == GateArmed {
		r.Restored = false // a live writer has re-armed: claims are sound again
	}
	return r, nil
}

// AdoptFor returns the adopt that brings a member that missed F5, or a learner,
// under the record's epoch, and whether one is due: the record has a writer and
// the node has not adopted its epoch. source is a node known to have adopted it.
// A learner is a standby node that the configuration does not name: it follows
// like a member, and its acks count for nothing.
func (r EpochRecord) AdoptFor(adopted tidegate.Epoch, source tidegate.NodeName) (AdoptRequest, bool) {
	if r.State != StateActive && r.State != StateSwitching || adopted >= r.Epoch {
		return AdoptRequest{}, false
	}
	return adoptRequest(r, source, adopted), true
}

// adoptRequest derives the adopt from a record that carries the choice
// (RECOVERING or ACTIVE): any controller derives the same one for a log that has
// adopted the epoch adopted, 0 when that is not known.
func adoptRequest(r EpochRecord, source tidegate.NodeName, adopted tidegate.Epoch) AdoptRequest {
	h := r.History
	if h.Last().Epoch == r.Epoch {
		h = h[:len(h)-1]
	}
	reason := ReasonDiverged
	if r.Kind == KindAcquire || r.Kind == KindReconfigure {
		reason = ReasonSuperseded
	}
	return AdoptRequest{
		Stream: r.Stream, Epoch: r.Epoch, Holder: r.Holder.UUID,
		History: h.Clone(), Head: r.Head, Source: source, Reason: reason,
		Unclean: r.Unclean || adopted < r.Forced,
	}
}

// Sighting is an epoch record as somebody has come to see it.
type Sighting struct {
	Record   EpochRecord
	Revision int64 // of its key; a registry that was put back or rebuilt may count them again
}

// Older reports whether s was on record before have: what nodes keep is the newest
// of what they see, and views overtake one another. A registry that went back shows
// what is older than what was seen, and is the only one that there is: an epoch that
// was issued anew, to another plan, counts. A switchover's plan takes a record over
// within its epoch: there the other plan is the one before. The zero Sighting is
// older than any.
func (s *Sighting) Older(have *Sighting) bool {
	r, h := &s.Record, &have.Record
	switch {
	case r.Epoch != h.Epoch:
		return r.Epoch < h.Epoch
	case s.Revision >= have.Revision:
		return false
	case r.Plan == h.Plan:
		return true
	}
	return (h.State == StateSwitching || h.State == StateDemoted) && r.Holder == h.Holder
}
