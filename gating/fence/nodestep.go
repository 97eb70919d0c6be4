package fence

import "github.com/tidegate/tidegate"

// NodeEvent is something that happened to a standby node's stream.
type NodeEvent interface{ nodeEvent() }

// Requests. Call is chosen by the shell and comes back in the reply effect.
type (
	// FenceAsked asks for a promise; answered by ReplyFence.
	FenceAsked struct {
		Call uint64
		Req  FenceRequest
		Now  tidegate.Instant // boot clock of the node's machine
	}
	// LeaseAsked asks for a lease; answered by ReplyLease.
	LeaseAsked struct {
		Call uint64
		Req  LeaseRequest
		Now  tidegate.Instant // boot clock of the node's machine, read after the request came
	}
	// Started tells when this process started, on the boot clock of its machine.
	// Optional, and best stepped right after NewNode: a lease granted by the
	// process before runs from here. Without it, it runs from the first Now heard.
	Started struct{ Now tidegate.Instant }
	// AdoptAsked asks for the log of an epoch; answered by ReplyAdopt. Asking
	// again for the same epoch and holder, while it runs or after, is harmless.
	AdoptAsked struct {
		Call uint64
		Req  AdoptRequest
	}
	// PromoteAsked tells the target that its epoch is active; answered by ReplyPromote.
	PromoteAsked struct {
		Call uint64
		Req  PromoteRequest
	}
	// RecordRead brings the epoch record, as a Watch delivers it. Fresh means a
	// linearizable read that began after this process had started.
	RecordRead struct {
		Record EpochRecord
		Fresh  bool
	}
)

// Completions of effects. A token that the node no longer waits for is ignored.
type (
	// Persisted: the metadata file and its directory are fsynced.
	Persisted struct{ Token uint64 }
	// Synced: everything appended before the Sync effect is fsynced; End is the durable end.
	Synced struct {
		Token uint64
		End   tidegate.LogPos
	}
	// ChainRead answers AskChain with the source's position at the asked seq.
	ChainRead struct {
		Token uint64
		Pos   tidegate.LogPos
		Err   error
	}
	// CutDone: everything beyond the cut is safe in quarantine and gone from the log.
	CutDone struct {
		Token uint64
		End   tidegate.LogPos
		Err   error
	}
	// Fetched: copying stopped, whole or in part; End is where the log ends now
	// (appended, not necessarily synced). Err says why it is not the asked head.
	// Beyond says that the log, which was empty, now begins behind the asked head, at
	// End: nobody keeps what is before, and a node that had adopted the epoch from that
	// very head vouches for what follows. See "Logs that were trimmed" in doc.go.
	Fetched struct {
		Token  uint64
		End    tidegate.LogPos
		Beyond bool
		Err    error
	}
)

func (FenceAsked) nodeEvent()   {}
func (AdoptAsked) nodeEvent()   {}
func (PromoteAsked) nodeEvent() {}
func (LeaseAsked) nodeEvent()   {}
func (Started) nodeEvent()      {}
func (RecordRead) nodeEvent()   {}
func (Persisted) nodeEvent()    {}
func (Synced) nodeEvent()       {}
func (ChainRead) nodeEvent()    {}
func (CutDone) nodeEvent()      {}
func (Fetched) nodeEvent()      {}

// NodeEffect is something the shell must do, in the order of the slice.
type NodeEffect interface{ nodeEffect() }

type (
	// Persist: write Meta durably (file and directory), then step Persisted.
	// A failure stops the node for good: it is never retried.
	Persist struct {
		Token uint64
		Meta  NodeMeta
	}
	// Sync: fsync the log, then step Synced. A failure stops the node for good.
	Sync struct{ Token uint64 }
	// AskChain: read the position (epoch and chain) at Seq from Source's log,
	// then step ChainRead.
	AskChain struct {
		Token  uint64
		Source tidegate.NodeName
		Seq    tidegate.Seq
	}
	// Cut: move everything beyond To into quarantine, fsync it there, report it,
	// and only then truncate the log; then step CutDone. (I18)
	Cut struct {
		Token     uint64
		To        tidegate.LogPos
		Epoch     tidegate.Epoch // of the adopt that supersedes the tail
		Reason    string         // ReasonSuperseded or ReasonDiverged
		Committed bool           // an unclean adopt: may cut below what was applied, which a restart has made the core forget; the warm copy may have to be rebuilt
	}
	// Fetch: append the batches (From.Seq, To.Seq] from Source's log, verbatim
	// and chain-checked, then step Fetched.
	Fetch struct {
		Token    uint64
		Source   tidegate.NodeName
		From, To tidegate.LogPos
	}
	// CancelFetch: stop the fetch with this token soon; Fetched must still follow,
	// after its last append.
	CancelFetch struct{ Token uint64 }
	// ReplyFence, ReplyAdopt and ReplyPromote answer the calls.
	ReplyFence struct {
		Call  uint64
		Reply FenceReply
	}
	// ReplyAdopt answers an AdoptAsked.
	ReplyAdopt struct {
		Call  uint64
		Reply AdoptReply
	}
	// ReplyPromote answers a PromoteAsked.
	ReplyPromote struct {
		Call  uint64
		Reply PromoteReply
	}
	// ReplyLease answers a LeaseAsked.
	ReplyLease struct {
		Call  uint64
		Reply LeaseReply
	}
	// DropSessions: end every writer or relay session of a promise other than
	// Keep with ErrFenced; information only, CheckAppend already refuses them.
	DropSessions struct{ Keep Promise }
	// Freed: the node left limbo; the metadata that says so is on disk.
	Freed struct{}
)

func (Persist) nodeEffect()      {}
func (Sync) nodeEffect()         {}
func (AskChain) nodeEffect()     {}
func (Cut) nodeEffect()          {}
func (Fetch) nodeEffect()        {}
func (CancelFetch) nodeEffect()  {}
func (ReplyFence) nodeEffect()   {}
func (ReplyAdopt) nodeEffect()   {}
func (ReplyPromote) nodeEffect() {}
func (ReplyLease) nodeEffect()   {}
func (DropSessions) nodeEffect() {}
func (Freed) nodeEffect()        {}

// LogView is the node's read access to its own log, answered synchronously by
// the shell from its index. At(0) is the zero LogPos.
type LogView interface {
	// At returns the position (epoch of the sealing writer, chain) of batch seq,
	// or an error when the log does not hold it.
	At(seq tidegate.Seq) (tidegate.LogPos, error)
}
