package local

import (
	"errors"
	"fmt"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/internal/wire"
)

// VersionMin and VersionMax bound the protocol versions this code speaks.
const (
	VersionMin = 1
	VersionMax = 2 // snapshots of the service's state
)

// KindJournal is the kind of the journal library. The other kinds are named by
// their stores: a daemon serves the kind that its stream has.
const KindJournal = "journal"

// Limits of variable fields, in bytes.
const (
	PathLenMax    = 4096
	TextLenMax    = 1024
	LineageLenMax = 16 << 10
	// PayloadMax bounds a batch's raw journal bytes.
	PayloadMax = 64 << 20
	bodyMax    = PayloadMax + 1024
	// PartMax bounds what one [SnapshotRead] asks for.
	PartMax = 1 << 20
)

// The message types on the wire. A number is never used again for another message.
const (
	typeHello           wire.Type = 1
	typeWelcome         wire.Type = 2
	typeRefusal         wire.Type = 3
	typeActivated       wire.Type = 4
	typeDeactivated     wire.Type = 5
	typeLibraryProgress wire.Type = 6
	typeRole            wire.Type = 7
	typeDaemonProgress  wire.Type = 8
	typeBatch           wire.Type = 9
	typeRewind          wire.Type = 10
	typeFinding         wire.Type = 11
	typeFeedback        wire.Type = 12

	// From version 2 on.
	typeSnapshots    wire.Type = 13
	typeSnapshotAsk  wire.Type = 14
	typeSnapshot     wire.Type = 15
	typeSnapshotRead wire.Type = 16
	typeSnapshotPart wire.Type = 17
)

// Message is one of the structs of this package, by pointer.
type Message interface {
	wireType() wire.Type
	appendTo(dst []byte) []byte
	decode(d *wire.Decoder)
}

// Hello opens a connection; the library sends it first.
type Hello struct {
	VersionMin uint16 // lowest and highest protocol version the library speaks
	VersionMax uint16
	Service    tidegate.ServiceName
	Stream     tidegate.StreamName
	Kind       string            // of the store: [KindJournal], or another store's name
	Dir        string            // absolute path of the journal, or of what the store keeps its log in
	Lineage    tidegate.Lineage  // of the journal, with its branches
	End        tidegate.Position // end of what the journal holds, fsynced or not
	Endpoint   string            // host:port where the service answers its clients; may be empty
	// Generation is that of the base which the service's state was made from; 0 when
	// it was made from none. It is not fed batches of another one.
	Generation tidegate.Generation
	// Rest asks for no batches in this session: there is nothing yet that could
	// apply them. Roles come all the same.
	Rest bool
	// Warm asks the agent to tell what comes back from warm copies of the log:
	// [DaemonProgress].Applied, and every [Feedback].
	Warm bool
}

// Welcome answers a [Hello]: the daemon serves this stream.
type Welcome struct {
	Version uint16 // chosen by the daemon: the highest that both speak
	Daemon  Daemon
	Node    tidegate.NodeName
}

// Daemon says which of the two daemons answered.
type Daemon uint8

// The daemons.
const (
	DaemonAgent   Daemon = 1
	DaemonStandby Daemon = 2
)

func (d Daemon) String() string {
	switch d {
	case DaemonAgent:
		return "agent"
	case DaemonStandby:
		return "standby"
	}
	return fmt.Sprintf("daemon(%d)", uint8(d))
}

// Refusal ends a connection with a reason that can be classified.
type Refusal struct {
	Class tidegate.Class
	Text  string
	Hint  string
}

// Activated says that the service has become the active one: it accepts
// writes. Sent at once, and again after every reconnect while it holds.
type Activated struct {
	Lineage tidegate.Lineage
	L       tidegate.Position // end of the journal at that moment
}

// Deactivated takes an [Activated] back.
type Deactivated struct{}

// Count is a place in the journal with what lies before it.
type Count struct {
	Position tidegate.Position
	Records  uint64 // cumulative from the journal's beginning
	Bytes    uint64 // cumulative raw bytes; for a journal equal to Position
}

// LibraryProgress is what the daemon computes exposure from.
type LibraryProgress struct {
	L        Count             // head: fsynced in the local journal
	A        Count             // released; meaningful only if AKnown
	AKnown   bool              // false after a start, until D has reached the head at the start
	T0       tidegate.Instant  // earliest release beyond D; 0 if there is none
	Released tidegate.Instant  // last release; 0 if there was none
	End      tidegate.Position // end of what the journal holds, fsynced or not
	Applied  tidegate.Position // state of the service: everything before it is applied
	Digest   tidegate.Digest   // of the state at DigestAt; zero if the service gives none
	DigestAt tidegate.Position

	// The gate beside the ceiling; meaningful only if Gate is not 0.
	Gate        machine.State
	Since       tidegate.Instant // of Gate
	Want        machine.Want     // what the record should say
	Grant       uint64           // number of the [DaemonProgress] that is in force here; 0: none
	Utilisation float64          // largest used share of a bound, 0 or more
	Rejected    uint64           // calls refused since the journal was opened
	// Drained says, while draining, that End and L are equal and final: no work is
	// taken, none is in flight, and nobody waits for a release any more.
	Drained bool
	Slack   time.Duration // longest time from a release's clock reading to its effect
	// Room is where the room for batches ends: one that begins there or beyond is
	// not to be sent yet. 0: the library takes whatever comes, when it comes.
	Room tidegate.Position
}

// State is the part a daemon gives to the library.
type State uint8

// The states.
const (
	StateIdle   State = 1 // nothing to do: another node is active, nothing is followed
	StateFollow State = 2 // apply the batches that come
	StateActive State = 3 // from the agent: the epoch is held; from the standby node: be promoted
	StateFenced State = 4 // a newer epoch is held elsewhere: stop
)

func (s State) String() string {
	switch s {
	case StateIdle:
		return "idle"
	case StateFollow:
		return "follow"
	case StateActive:
		return "active"
	case StateFenced:
		return "fenced"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Role tells the library its part. The latest one holds.
type Role struct {
	State   State
	Epoch   tidegate.Epoch    // the stream's current epoch as the daemon knows it; of the fencer if fenced
	Holder  tidegate.HolderID // of that epoch
	ApplyTo tidegate.Position // follow: committed so far, apply no further; active from the standby node: H
	// Branch is where the new history forks off: active from the standby node
	// only, and equal to ApplyTo. The library appends its branch record there.
	Branch tidegate.Position
	// Lineage is that of the log the daemon holds; empty if it does not know. It is
	// told anew, between two batches, where it changes in the log.
	Lineage tidegate.Lineage
	// Generation is that of what is committed of the log; 0 if the daemon does not know.
	Generation tidegate.Generation
	// Source is what the gate's record says of the service beside the daemon as the
	// stream's source; from the standby node only.
	Source Source
}

// Source is whether the stream is written from here.
type Source uint8

// The sources. Only the gate's word in this run counts: what a node remembers of
// an earlier one is unknown.
const (
	SourceUnknown   Source = iota // not from here, or a change is under way
	SourceWrites                  // from here, and it goes on
	SourceHandsOver               // from here, and it is to end: a switchover drains it, or has
)

// DaemonProgress is the grant: durable position and the gate's record.
type DaemonProgress struct {
	D      tidegate.Position
	DKnown bool // false until the writer has heard W nodes in this epoch
	Epoch  tidegate.Epoch
	Mode   tidegate.Mode
	Bounds tidegate.Bounds // effective: K, B, T of the mode
	// Recorded says that mode and bounds are those of the gate's record, read in
	// this epoch. Without it an open stream does not go on when the daemon is lost.
	Recorded bool

	// Grant numbers this connection's different grants from 1; the library reports
	// the one it obeys.
	Grant  uint64
	Record machine.Record // of the gate's record, read in this epoch
	Policy tidegate.Policy
	Brake  bool // an operator opened the gate: it must not ask to be armed

	// LeaseNeeded says that beyond D outputs may leave only before LeaseUntil, on
	// this machine's boot clock; at LeaseUntil they may not.
	LeaseNeeded bool
	LeaseUntil  tidegate.Instant

	// Drain asks the library to refuse new work and to finish what is in flight;
	// it stays set until the handover is given up or a newer epoch is held.
	Drain      bool
	HandedOver bool // the handover is recorded: nothing may leave here; only with Drain

	// RateLimited says that new work is limited to Rate records per second, 0
	// being none at all.
	RateLimited bool
	Rate        uint64

	// Applied is how far the furthest warm copy of the log has applied it, among the
	// members whose word counts for D: what lies before it can be read there. Never
	// beyond D; 0 while none is proven to follow this epoch's log, and to a library
	// that did not ask ([Hello].Warm).
	Applied tidegate.Position
}

// Batch carries one committed batch to a following library.
type Batch struct {
	Epoch   tidegate.Epoch
	Seq     tidegate.Seq
	First   tidegate.Position
	Next    tidegate.Position
	Records uint32
	Payload []byte // raw journal bytes [First, Next), whole records; valid until the next Recv
}

// Rewind, from the standby node, tells a library whose journal has gone another
// way than the stream, or further, to cut it. The library moves everything from
// To on into quarantine, lets the service rebuild its state, and connects anew.
type Rewind struct {
	To    tidegate.Position // a record's beginning, or the journal's end
	Epoch tidegate.Epoch    // whose history goes on from there
}

// Finding, from the library, is something that it has found of itself or of its
// store, although the session goes on. The newest one of each name holds; one
// without text takes it back, as does the session's end for all.
type Finding struct {
	// Name says which: a word for people and their scripts to tell findings by. The
	// empty one is what keeps the library from applying, from receiving, or from
	// becoming active.
	Name     string         `json:"name,omitempty"`
	Severity Severity       `json:"severity"` // 0 only where there is no text
	Class    tidegate.Class `json:"class,omitempty"`
	Text     string         `json:"text"`
	Hint     string         `json:"hint,omitempty"` // what to do
}

// Feedback is what a warm copy of the log asks of its source, in a form that only
// the stream's store knows: a library tells it to the standby node, and the agent
// tells it to the source's library. The newest one of each node holds, for as long
// as the store says; it is repeated while it does.
type Feedback struct {
	Node   tidegate.NodeName // whose warm copy it is; empty from a library, which speaks for its own
	Opaque string            // at most [tidegate.FeedbackMax] bytes; empty takes back what was asked
}

// Snapshots, from a library, says that the service's state can be written down, and
// that the service can begin at one. Sent to the standby node once, first of all.
type Snapshots struct {
	// Empty says that the journal holds no record, so that it can begin at a snapshot.
	Empty bool
}

// SnapshotAsk, from the standby node, asks a library that follows for its state.
type SnapshotAsk struct{}

// Snapshot says what can be read of a state: from a library the answer to a
// [SnapshotAsk], from the standby node where the library's empty journal is to begin.
// With a Text there is none, and the text says why: from a library that was told where
// to begin, why its service does not take that.
type Snapshot struct {
	Position tidegate.Position // everything before it is in the state
	Records  uint64            // of the journal before Position
	Digest   tidegate.Digest   // of the state; zero if the service gives none
	Size     uint64            // bytes
	Lineage  tidegate.Lineage  // of the journal before Position
	Class    tidegate.Class
	Text     string
	Hint     string
}

// SnapshotRead asks whoever sent the [Snapshot] of that position for bytes of it, in
// order: there is never more under way than was asked for.
type SnapshotRead struct {
	Position tidegate.Position
	Offset   uint64
	Bytes    uint32 // 1 to [PartMax], not beyond the end
}

// SnapshotPart answers a [SnapshotRead].
type SnapshotPart struct {
	Position tidegate.Position
	Offset   uint64
	Payload  []byte // as many bytes as were asked for; valid until the next Recv
}

// Err returns why there is no snapshot; nil when there is one.
func (m *Snapshot) Err() error {
	if m.Text == "" {
		return nil
	}
	return &tidegate.Error{Op: "write state down", Class: m.Class, Hint: m.Hint, Err: errors.New(m.Text)}
}

// FindingsMax bounds how many findings of different names a daemon keeps of one
// session; a library has a fixed list of names.
const FindingsMax = 64

// Severity says how soon a finding needs somebody.
type Severity uint8

// The severities.
const (
	SeverityInfo     Severity = 1 // good to know
	SeverityWarning  Severity = 2 // it will cost something unless somebody acts
	SeverityCritical Severity = 3 // it costs something now, or soon
)

func (s Severity) String() string {
	switch s {
	case SeverityInfo:
		return "info"
	case SeverityWarning:
		return "warning"
	case SeverityCritical:
		return "critical"
	}
	return fmt.Sprintf("severity(%d)", uint8(s))
}
