package fence

import (
	"time"

	"github.com/tidegate/tidegate"
)

// ControlEvent is something that happened to a plan.
type ControlEvent interface{ controlEvent() }

// KeyState is a stream's epoch key as a linearizable read returned it.
// Revision 0 with a zero Record means that the key does not exist.
type KeyState struct {
	Stream   tidegate.StreamID
	Revision int64
	Record   EpochRecord
}

type (
	// KeysRead answers ReadKeys: one linearizable read of all asked streams.
	KeysRead struct {
		Token uint64
		Keys  []KeyState
	}
	// TxnDone answers Txn. Committed: all puts were made, the keys' new revision
	// is Revision. Otherwise nothing was: a revision differed.
	TxnDone struct {
		Token     uint64
		Committed bool
		Revision  int64
	}
	// TxnUnknown answers Txn or ReadKeys when its outcome is not known (timeout, lost leader).
	TxnUnknown struct{ Token uint64 }
	// FenceReplied brings a node's answer to SendFence.
	FenceReplied struct{ Reply FenceReply }
	// AdoptReplied brings a node's answer to SendAdopt.
	AdoptReplied struct{ Reply AdoptReply }
	// LeaseOver: every output lease that the registry granted before F1 is over, or
	// was released. It settles only streams whose record names a lease.
	LeaseOver struct{}
	// Attested: a human says that the primary is down.
	Attested struct{ Actor string }
	// Abort: somebody wants the plan called off. It is, while nothing is lost by it:
	// before F1, and a switchover before the writer has handed over. Otherwise
	// AbortRefused says why not, and the plan goes on.
	Abort struct{ Actor, Reason string }
	// HandedOver: the writer's DEMOTED may be in the keys; look now rather than at
	// the next tick.
	HandedOver struct{}
	// Promoted answers SendPromote; Applied says that the target has applied
	// through H and its state digests agree (else: accepted, still applying).
	Promoted struct {
		Stream  tidegate.StreamID
		Applied bool
		Class   tidegate.Class // of a refusal; "" when accepted
		Why     string
	}
	// Verified: the verification journeys of F7 passed.
	Verified struct{}
	// Unverified: they did not pass in the time that the shell gives them. The plan
	// goes on, because its epoch is open and there is no way back; it says so, and t7
	// stays unknown.
	Unverified struct{ Why string }
	// RouteSwitched answers SwitchRoute.
	RouteSwitched struct{ Epoch tidegate.Epoch }
	// Journey: the prober's first good client write through the normal route (t8).
	Journey struct{ At time.Time }
	// Reconstituted: redundancy is back (t9).
	Reconstituted struct{}
	// Tick: time passed; what was not answered is sent again. Send one every
	// half second or so.
	Tick struct{}
	// Deadline: the shell's patience with the current step is over; decide with
	// what there is.
	Deadline struct{ Step PlanStep }
)

func (KeysRead) controlEvent()      {}
func (TxnDone) controlEvent()       {}
func (TxnUnknown) controlEvent()    {}
func (FenceReplied) controlEvent()  {}
func (AdoptReplied) controlEvent()  {}
func (LeaseOver) controlEvent()     {}
func (Attested) controlEvent()      {}
func (Promoted) controlEvent()      {}
func (Verified) controlEvent()      {}
func (Unverified) controlEvent()    {}
func (RouteSwitched) controlEvent() {}
func (Journey) controlEvent()       {}
func (Reconstituted) controlEvent() {}
func (Tick) controlEvent()          {}
func (Deadline) controlEvent()      {}
func (Abort) controlEvent()         {}
func (HandedOver) controlEvent()    {}

// ControlEffect is something the shell must do, in the order of the slice.
type ControlEffect interface{ controlEffect() }

// Put is one epoch key of a Txn.
type Put struct {
	Stream     tidegate.StreamID
	IfRevision int64 // compare: the key's modification revision; 0: the key must not exist
	Record     EpochRecord
}

type (
	// ReadKeys: one linearizable read of all streams' epoch keys, then step KeysRead.
	ReadKeys struct {
		Token   uint64
		Streams []tidegate.StreamID
	}
	// Txn: one etcd transaction: if every key is at its revision, put them all
	// and the plan's own record; then step TxnDone or TxnUnknown.
	Txn struct {
		Token uint64
		Step  PlanStep // StepSwitching, StepAbort, StepReserve, StepChoose or StepActivate
		Puts  []Put
		Plan  Plan // as it will stand when the transaction commits
	}
	// SavePlan: write the plan's record, without waiting. Safety never rests on
	// it: everything that must not be forgotten travels in a Txn.
	SavePlan struct{ Plan Plan }
	// SendFence: ask a member; the answer comes as FenceReplied. It may be lost.
	SendFence struct {
		Member Member
		Req    FenceRequest
	}
	// SendAdopt: ask a member; the answer comes as AdoptReplied. It may be lost.
	SendAdopt struct {
		Member Member
		Req    AdoptRequest
	}
	// AwaitLease: F4 does not hold by itself. Lease, if not 0, is the longest lease
	// that any of the streams' records names: step LeaseOver once the registry's is
	// over, which no gate renews after F1; and, where a record is Restored or
	// Inherited, not before that long has passed since F1, whatever the registry
	// knows. Lease 0: only Attested helps.
	AwaitLease struct {
		Why   string
		Lease time.Duration
	}
	// SendPromote: F7, ask the target node; the answer comes as Promoted.
	SendPromote struct {
		Node tidegate.NodeName
		Req  PromoteRequest
	}
	// Verify: F7, run the verification journeys at the target, then step Verified, or
	// Unverified after a while. Epoch is the highest of the service's streams.
	Verify struct {
		Holder Holder
		Epoch  tidegate.Epoch
	}
	// SwitchRoute: F8, clients go to the holder; then step RouteSwitched.
	SwitchRoute struct {
		Service tidegate.ServiceName
		Holder  Holder
		Epoch   tidegate.Epoch // highest of the service's streams
	}
	// Report: F9, the statements are final as far as DR can know.
	Report struct{ Loss []LossStatement }
	// SetDeadline: step Deadline{Step} after the patience configured for Step and
	// Extra, replacing any earlier one. StepDrain has no patience but Extra.
	SetDeadline struct {
		Step  PlanStep
		Extra time.Duration
	}
	// AbortRefused: the plan has passed the point up to which it can be called off.
	AbortRefused struct{ Why string }
	// Refuse: the plan is over, a rule said no.
	Refuse struct{ Refusal Refusal }
	// Superseded: the plan is over, another one has the streams.
	Superseded struct{ By tidegate.ID }
	// Finished: the plan is over and done.
	Finished struct{}
)

func (ReadKeys) controlEffect()     {}
func (Txn) controlEffect()          {}
func (SavePlan) controlEffect()     {}
func (SendFence) controlEffect()    {}
func (SendAdopt) controlEffect()    {}
func (AwaitLease) controlEffect()   {}
func (SendPromote) controlEffect()  {}
func (Verify) controlEffect()       {}
func (SwitchRoute) controlEffect()  {}
func (Report) controlEffect()       {}
func (SetDeadline) controlEffect()  {}
func (Refuse) controlEffect()       {}
func (Superseded) controlEffect()   {}
func (Finished) controlEffect()     {}
func (AbortRefused) controlEffect() {}
