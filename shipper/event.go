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

// OffsetEvent is the best estimate so far of the clocks' difference. It comes
// about once per Limits.KeepaliveEvery.
type OffsetEvent struct {
	Offset time.Duration // the acceptor's wall clock - the dialer's, on either side
	Err    time.Duration // the true offset is within Offset ± Err
}

func (*AckEvent) event()    {}
func (*BatchEvent) event()  {}
func (*HeaderEvent) event() {}
func (*CommitEvent) event() {}
func (*BeaconEvent) event() {}
func (*OffsetEvent) event() {}

// offsetWindow is how long a sample with a short round trip outranks later
// ones, and driftPPM by how much two undisciplined clocks may part meanwhile.
const (
	offsetWindow = 10 * time.Second
	driftPPM     = 200
)

// offsets keeps the sample with the smallest error: the one whose round trip
// was shortest, aged by the clocks' drift.
type offsets struct {
	known  bool
	offset time.Duration
	err    time.Duration // when taken
	at     tidegate.Instant
}

// sample adds an exchange: t0 and t3 by the dialer's clock, t1 and t2 by the
// acceptor's, in wall nanoseconds. It returns the best estimate at now.
func (o *offsets) sample(t0, t1, t2, t3 int64, now tidegate.Instant) (offset, err time.Duration) {
	theta := time.Duration(((t1 - t0) + (t2 - t3)) / 2)
	delta := max((t3-t0)-(t2-t1), 0)
	fresh := offsets{known: true, offset: theta, err: time.Duration(delta/2 + 1), at: now}
	if !o.known || fresh.err <= o.errAt(now) || time.Duration(now-o.at) > offsetWindow {
		*o = fresh
	}
	return o.offset, o.errAt(now)
}

func (o *offsets) errAt(now tidegate.Instant) time.Duration {
	age := time.Duration(now - o.at)
	return o.err + age*driftPPM/1_000_000
}
