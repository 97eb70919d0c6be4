package shipper

import (
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
)

// Event is what Recv returns: one of the pointer types below. It, and the
// bytes it points to, belong to the session again at the next Recv.
type Event interface{ event() }

// AckEvent comes to a writer or relay: a node's own statement, the acceptor's
// or one that the acceptor passes on unchanged.
type AckEvent struct{ Ack fence.Ack }

// BatchEvent is one sealed batch, exactly as it was sealed. Only the header has
// been checked.
type BatchEvent struct {
	Header batch.Header
	Sealed []byte
}

// HeaderEvent comes to an observer: the header of a batch in the node's log.
type HeaderEvent struct{ Header batch.Header }

// CommitEvent says that everything up to Seq is durable on W nodes.
type CommitEvent struct{ Seq tidegate.Seq }

// BeaconEvent is the writer's word on itself, perhaps passed on by a relay.
type BeaconEvent struct{ Beacon Beacon }

// LeaseEvent comes to a writer or relay: a node's grant of a lease, the
// acceptor's or one that the acceptor passes on unchanged.
type LeaseEvent struct{ Grant LeaseGrant }

// FeedbackEvent comes to a writer or relay: what the warm copy beside a node asks
// of the source, the acceptor's or one that the acceptor passes on unchanged.
type FeedbackEvent struct{ Feedback Feedback }

// OffsetEvent is the best estimate so far of the clocks' difference, the same
// on either side. It comes about once per Limits.KeepaliveEvery.
type OffsetEvent struct {
	Offset time.Duration // the acceptor's boot clock - the dialer's: only for dating, the boots are unrelated
	Err    time.Duration // the true offset is within Offset ± Err
	Wall   time.Duration // the acceptor's wall clock - the dialer's, within Err; for people
}

func (*AckEvent) event()      {}
func (*BatchEvent) event()    {}
func (*HeaderEvent) event()   {}
func (*CommitEvent) event()   {}
func (*BeaconEvent) event()   {}
func (*LeaseEvent) event()    {}
func (*FeedbackEvent) event() {}
func (*OffsetEvent) event()   {}
