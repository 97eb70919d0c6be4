package shipper

import (
	"fmt"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/wire"
)

// VersionMin and VersionMax bound the protocol versions that this build speaks.
const (
	VersionMin uint16 = 1
	VersionMax uint16 = 1
)

// Frame types; the numbers are on the wire for ever.
const (
	typeHello wire.Type = iota + 1
	typeWelcome
	typeAttach
	typeAttached
	typeRefusal
	typeBatch
	typeHeader
	typeAck
	typeCommit
	typeBeacon
	typeCredit
	typeTimeRequest
	typeTimeReply
	typeClose
	typeLeaseGrant
)

// typeFeedback comes after the types of sessions for bases.
const typeFeedback wire.Type = 24

// As is what the dialer is to the stream.
type As uint8

// The four ways to attach.
const (
	AsWriter   As = iota + 1 // the stream's agent: ships batches, gets acks; role agent
	AsRelay                  // a node that forwards the writer's batches; role standby
	AsObserver               // gets headers, commit and beacons; role agent, standby or operator
	AsReader                 // gets whole batches up to the end of what is durable; the same roles
)

func (a As) String() string {
	switch a {
	case AsWriter:
		return "writer"
	case AsRelay:
		return "relay"
	case AsObserver:
		return "observer"
	case AsReader:
		return "reader"
	}
	return fmt.Sprintf("as(%d)", uint8(a))
}

// Ships reports whether batches go from dialer to acceptor.
func (a As) Ships() bool { return a == AsWriter || a == AsRelay }

// asBase stands for a session that is for a base; it is not on the wire.
const asBase As = 255

// watches reports whether the writer's commit and beacons come to the dialer.
func (a As) watches() bool { return a == AsObserver || a == AsReader }

// permits reports whether a certificate's role may attach as a.
func (a As) permits(r tidegate.Role) bool {
	switch a {
	case AsWriter:
		return r == tidegate.RoleAgent
	case AsRelay:
		return r == tidegate.RoleStandby
	case AsObserver, AsReader:
		return r == tidegate.RoleAgent || r == tidegate.RoleStandby || r == tidegate.RoleOperator || r == tidegate.RoleDrill
	}
	return false
}

// MembersMax bounds the members of one stream.
const MembersMax = 16

// TailMax bounds the headers that Attached names as log-matching proof.
const TailMax = 64

// featuresMax bounds the optional parts that a hello may offer.
const featuresMax = 32

// Attach binds a session to one stream.
type Attach struct {
	Stream tidegate.StreamID
	As     As
	Epoch  tidegate.Epoch    // writer and relay: the epoch they ship under
	Holder tidegate.HolderID // writer and relay: who holds that epoch
	// From is the first seq that an observer or reader wants; a writer or relay
	// leaves it 0 and ships from Attached.Received.Seq + 1.
	From    tidegate.Seq
	Members []fence.Member // writer and relay: the configuration of the epoch
}

// Attached is the acceptor's yes.
type Attached struct {
	Node        tidegate.NodeName
	Incarnation tidegate.Incarnation
	Promise     fence.Promise
	Durable     tidegate.LogPos // end of what the node has fsynced
	Received    tidegate.LogPos // end of the node's log
	Commit      tidegate.Seq    // newest seq that the node knows to be committed
	Adopted     fence.Term      // the newest that the node's log has adopted
	Begin       Begin           // of the node's log; zero while that begins with the stream
	// Credit is the bytes of batches that may be sent before the first grant;
	// 0 where batches go the other way.
	Credit int64
	// Tail names the newest batches in the node's log, oldest first. A writer
	// proves that it continues this log by reading the same ranges from its
	// own source and finding the same content digests. An observer gets the newest
	// one only, for its generation.
	Tail []batch.Header
}

// Begin is where a log begins whose older batches were trimmed.
type Begin struct {
	Before     tidegate.LogPos     // the last batch that went
	Position   tidegate.Position   // in the source's log, of the first batch that is left
	Generation tidegate.Generation // of that batch
	Opened     tidegate.Epoch      // in which that generation began
	Lineage    tidegate.Lineage    // of the source's log there
}

// Beacon is the writer's word on itself, [BeaconEvery] apart.
type Beacon struct {
	Epoch      tidegate.Epoch
	Generation tidegate.Generation // in which the positions are compared
	AKnown     bool                // false after a start or change of writer: A is then meaningless
	A, L, D    tidegate.Position   // released, head, durable
	Boot       tidegate.Instant    // the writer's boot clock when A, if known, was heard of
	Wall       time.Time           // the writer's wall clock then

	// Exposed counts the records in (D, A]; -1 when it is not known. What it says
	// of A is as of Boot.
	Exposed int64

	// Offset is the sending node's boot clock - the writer's; a relay sets it
	// when it forwards a beacon, so that a node behind it can date it. A writer
	// leaves all three zero.
	OffsetKnown       bool
	Offset, OffsetErr time.Duration

	// Lease asks every member for a node lease; the zero value asks for none. A
	// relay forwards it as it is: each node counts from when it hears the ask,
	// which is after the writer sent it.
	Lease LeaseAsk
}

// LeaseAsk asks a node to refuse every fence for TTL, on its own boot clock,
// counted from when it hears the ask. The writer tells its asks apart by Seqno,
// which grows; only grants of one ask may be counted together, and what they are
// worth ends TTL after the ask was sent, less a margin for the clocks' drift.
type LeaseAsk struct {
	TTL   time.Duration // 0: nothing is asked
	Seqno uint64
}

// LeaseGrant is a node's own statement that it refuses fences for TTL after it
// heard the ask Seqno of the writer that holds Epoch. A relay passes on those of
// other nodes unchanged.
type LeaseGrant struct {
	Node        tidegate.NodeName
	Incarnation tidegate.Incarnation
	Epoch       tidegate.Epoch
	TTL         time.Duration // as asked, never less
	Seqno       uint64
}

// Feedback is a node's own statement of what the warm copy beside it asks of the
// source, in a form that only the stream's store knows. A relay passes on those of
// other nodes unchanged, each time that one comes: who hears nothing more of a node
// for long may take it for gone.
type Feedback struct {
	Node        tidegate.NodeName
	Incarnation tidegate.Incarnation
	Epoch       tidegate.Epoch // whose log the copy follows
	Opaque      string         // at most [tidegate.FeedbackMax] bytes; empty takes back what was asked
}

// BeaconEvery is the writer's interval between beacons.
const BeaconEvery = 200 * time.Millisecond

// hello opens a session, from dialer to acceptor.
type hello struct {
	min, max uint16
	features []string
}

// welcome answers hello.
type welcome struct {
	version  uint16
	node     tidegate.NodeName
	features []string // those of hello that the acceptor has too
}

// helloMagic tells a ship session from whatever else may dial the port.
var helloMagic = [4]byte{'T', 'G', 'S', '1'}

func (h hello) append(b []byte) []byte {
	b = append(b, helloMagic[:]...)
	b = wire.AppendU16(b, h.min)
	b = wire.AppendU16(b, h.max)
	return appendStrings(b, h.features)
}

func parseHello(body []byte) (h hello, err error) {
	d := wire.NewDecoder(body)
	var magic [4]byte
	for i := range magic {
		magic[i] = d.U8()
	}
	if magic != helloMagic {
		d.Fail("magic % x", magic)
	}
	h.min, h.max = d.U16(), d.U16()
	if h.min == 0 || h.max < h.min {
		d.Fail("versions %d to %d", h.min, h.max)
	}
	h.features = decodeStrings(&d)
	return h, finish(&d, "hello")
}

func (w welcome) append(b []byte) []byte {
	b = wire.AppendU16(b, w.version)
	b = wire.AppendString(b, string(w.node))
	return appendStrings(b, w.features)
}

func parseWelcome(body []byte) (w welcome, err error) {
	d := wire.NewDecoder(body)
	w.version = d.U16()
	w.node = decodeName(&d)
	w.features = decodeStrings(&d)
	return w, finish(&d, "welcome")
}

func (a Attach) append(b []byte) []byte {
	b = wire.Append16(b, a.Stream)
	b = wire.AppendU8(b, uint8(a.As))
	b = wire.AppendU64(b, uint64(a.Epoch))
	b = wire.Append16(b, a.Holder)
	b = wire.AppendU64(b, uint64(a.From))
	b = wire.AppendU16(b, uint16(len(a.Members)))
	for _, m := range a.Members {
		b = wire.AppendString(b, string(m.Node))
		b = wire.Append16(b, m.Incarnation)
	}
	return b
}

func parseAttach(body []byte) (a Attach, err error) {
	d := wire.NewDecoder(body)
	a.Stream = d.Array16()
	a.As = As(d.U8())
	a.Epoch = tidegate.Epoch(d.U64())
	a.Holder = d.Array16()
	a.From = tidegate.Seq(d.U64())
	for range d.Count(MembersMax) {
		m := fence.Member{Node: decodeName(&d)}
		m.Incarnation = d.Array16()
		a.Members = append(a.Members, m)
	}
	if a.As < AsWriter || a.As > AsReader {
		d.Fail("%s", a.As)
	}
	if a.Epoch.IsDrill() {
		d.Fail("epoch %s, which is a drill's", a.Epoch)
	}
	return a, finish(&d, "attach")
}

func (a Attached) append(b []byte) []byte {
	b = wire.AppendString(b, string(a.Node))
	b = wire.Append16(b, a.Incarnation)
	b = appendPromise(b, a.Promise)
	b = appendLogPos(b, a.Durable)
	b = appendLogPos(b, a.Received)
	b = wire.AppendU64(b, uint64(a.Commit))
	b = appendTerm(b, a.Adopted)
	b = a.Begin.append(b)
	b = wire.AppendI64(b, a.Credit)
	b = wire.AppendU16(b, uint16(len(a.Tail)))
	for _, h := range a.Tail {
		b = h.Append(b)
	}
	return b
}

func parseAttached(body []byte) (a Attached, err error) {
	d := wire.NewDecoder(body)
	a.Node = decodeName(&d)
	a.Incarnation = d.Array16()
	a.Promise = decodePromise(&d)
	a.Durable = decodeLogPos(&d)
	a.Received = decodeLogPos(&d)
	a.Commit = tidegate.Seq(d.U64())
	a.Adopted = decodeTerm(&d)
	a.Begin = decodeBegin(&d)
	a.Credit = d.I64()
	if a.Credit < 0 {
		d.Fail("credit %d", a.Credit)
	}
	n := d.Count(TailMax)
	if d.Left() != n*batch.HeaderSize {
		d.Fail("%d bytes for %d headers", d.Left(), n)
	}
	for tail := d.Rest(); len(tail) > 0; tail = tail[batch.HeaderSize:] {
		h, err := batch.ParseHeader(tail[:batch.HeaderSize])
		if err != nil {
			return a, fmt.Errorf("parse attached: %w", err)
		}
		a.Tail = append(a.Tail, h)
	}
	return a, finish(&d, "attached")
}

func appendTerm(b []byte, t fence.Term) []byte {
	b = wire.AppendU64(b, uint64(t.Epoch))
	b = wire.AppendU64(b, uint64(t.StartSeq))
	return wire.Append16(b, t.Holder)
}

func decodeTerm(d *wire.Decoder) (t fence.Term) {
	t.Epoch, t.StartSeq = tidegate.Epoch(d.U64()), tidegate.Seq(d.U64())
	t.Holder = d.Array16()
	return t
}

func (g Begin) append(b []byte) []byte {
	b = appendLogPos(b, g.Before)
	b = wire.AppendU64(b, uint64(g.Position))
	b = wire.AppendU32(b, uint32(g.Generation))
	b = wire.AppendU64(b, uint64(g.Opened))
	return wire.AppendString(b, string(g.Lineage))
}

func decodeBegin(d *wire.Decoder) (g Begin) {
	g.Before = decodeLogPos(d)
	g.Position = tidegate.Position(d.U64())
	g.Generation = tidegate.Generation(d.U32())
	g.Opened = tidegate.Epoch(d.U64())
	g.Lineage = tidegate.Lineage(d.String(lineageBytesMax))
	return g
}

// lineageBytesMax bounds a lineage, as a manifest does.
const lineageBytesMax = 4096

func (k Beacon) append(b []byte) []byte {
	b = wire.AppendU64(b, uint64(k.Epoch))
	b = wire.AppendU32(b, uint32(k.Generation))
	b = wire.AppendBool(b, k.AKnown)
	b = wire.AppendU64(b, uint64(k.A))
	b = wire.AppendU64(b, uint64(k.L))
	b = wire.AppendU64(b, uint64(k.D))
	b = wire.AppendI64(b, int64(k.Boot))
	b = wire.AppendI64(b, k.Wall.UnixNano())
	b = wire.AppendI64(b, k.Exposed)
	b = wire.AppendBool(b, k.OffsetKnown)
	b = wire.AppendI64(b, int64(k.Offset))
	b = wire.AppendI64(b, int64(k.OffsetErr))
	b = wire.AppendI64(b, int64(k.Lease.TTL))
	return wire.AppendU64(b, k.Lease.Seqno)
}

func parseBeacon(body []byte) (k Beacon, err error) {
	d := wire.NewDecoder(body)
	k.Epoch = tidegate.Epoch(d.U64())
	k.Generation = tidegate.Generation(d.U32())
	k.AKnown = d.Bool()
	k.A, k.L, k.D = tidegate.Position(d.U64()), tidegate.Position(d.U64()), tidegate.Position(d.U64())
	k.Boot = tidegate.Instant(d.I64())
	k.Wall = time.Unix(0, d.I64())
	k.Exposed = d.I64()
	k.OffsetKnown = d.Bool()
	k.Offset, k.OffsetErr = time.Duration(d.I64()), time.Duration(d.I64())
	k.Lease.TTL = time.Duration(d.I64())
	k.Lease.Seqno = d.U64()
	if k.Lease.TTL < 0 {
		d.Fail("lease of %s", k.Lease.TTL)
	}
	return k, finish(&d, "beacon")
}

func (g LeaseGrant) append(b []byte) []byte {
	b = wire.AppendString(b, string(g.Node))
	b = wire.Append16(b, g.Incarnation)
	b = wire.AppendU64(b, uint64(g.Epoch))
	b = wire.AppendI64(b, int64(g.TTL))
	return wire.AppendU64(b, g.Seqno)
}

func parseLeaseGrant(body []byte) (g LeaseGrant, err error) {
	d := wire.NewDecoder(body)
	g.Node = decodeName(&d)
	g.Incarnation = d.Array16()
	g.Epoch = tidegate.Epoch(d.U64())
	g.TTL = time.Duration(d.I64())
	g.Seqno = d.U64()
	if g.TTL <= 0 {
		d.Fail("lease of %s", g.TTL)
	}
	return g, finish(&d, "lease grant")
}

func (f Feedback) append(b []byte) []byte {
	b = wire.AppendString(b, string(f.Node))
	b = wire.Append16(b, f.Incarnation)
	b = wire.AppendU64(b, uint64(f.Epoch))
	return wire.AppendString(b, f.Opaque)
}

func parseFeedback(body []byte) (f Feedback, err error) {
	d := wire.NewDecoder(body)
	f.Node = decodeName(&d)
	f.Incarnation = d.Array16()
	f.Epoch = tidegate.Epoch(d.U64())
	f.Opaque = d.String(tidegate.FeedbackMax)
	return f, finish(&d, "feedback")
}

func finish(d *wire.Decoder, what string) error {
	if err := d.Finish(); err != nil {
		return fmt.Errorf("parse %s: %w", what, err)
	}
	return nil
}

func appendPromise(b []byte, p fence.Promise) []byte {
	return wire.Append16(wire.AppendU64(b, uint64(p.Epoch)), p.Holder)
}

func decodePromise(d *wire.Decoder) (p fence.Promise) {
	p.Epoch = tidegate.Epoch(d.U64())
	p.Holder = d.Array16()
	return p
}

func appendLogPos(b []byte, p tidegate.LogPos) []byte {
	b = wire.AppendU64(b, uint64(p.Epoch))
	b = wire.AppendU64(b, uint64(p.Seq))
	return wire.Append16(b, p.Chain)
}

func decodeLogPos(d *wire.Decoder) (p tidegate.LogPos) {
	p.Epoch = tidegate.Epoch(d.U64())
	p.Seq = tidegate.Seq(d.U64())
	p.Chain = d.Array16()
	return p
}

func appendStrings(b []byte, list []string) []byte {
	list = list[:min(len(list), featuresMax)]
	b = wire.AppendU16(b, uint16(len(list)))
	for _, s := range list {
		b = wire.AppendString(b, s)
	}
	return b
}

func decodeStrings(d *wire.Decoder) (list []string) {
	for range d.Count(featuresMax) {
		list = append(list, d.String(nameBytesMax))
	}
	return list
}

// decodeName reads a node's name; a peer that sends another one is not ours.
func decodeName(d *wire.Decoder) tidegate.NodeName {
	s := d.String(nameBytesMax)
	if d.Err() == nil {
		if err := tidegate.ValidName(s); err != nil {
			d.Fail("%v", err)
		}
	}
	return tidegate.NodeName(s)
}

// common returns the names that both lists have, in the order of ours.
func common(ours, theirs []string) []string {
	var both []string
	for _, f := range ours {
		if slices.Contains(theirs, f) {
			both = append(both, f)
		}
	}
	return both
}
