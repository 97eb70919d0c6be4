package local

import (
	"fmt"
	"math"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/internal/wire"
)

// Append appends m as one whole frame.
func Append(dst []byte, m Message) []byte {
	return wire.AppendFrame(dst, m.wireType(), m.appendTo(nil))
}

// Decode parses the body of a frame of type t. A [Batch]'s payload aliases body.
func Decode(t wire.Type, body []byte) (Message, error) {
	m := newMessage(t)
	if m == nil {
		return nil, fmt.Errorf("decode local message type %d: %w", t, tidegate.ErrUnsupported)
	}
	d := wire.NewDecoder(body)
	m.decode(&d)
	if err := d.Finish(); err != nil {
		return nil, fmt.Errorf("decode local message type %d: %w", t, err)
	}
	return m, nil
}

func newMessage(t wire.Type) Message {
	switch t {
	case typeHello:
		return new(Hello)
	case typeWelcome:
		return new(Welcome)
	case typeRefusal:
		return new(Refusal)
	case typeActivated:
		return new(Activated)
	case typeDeactivated:
		return new(Deactivated)
	case typeLibraryProgress:
		return new(LibraryProgress)
	case typeRole:
		return new(Role)
	case typeDaemonProgress:
		return new(DaemonProgress)
	case typeBatch:
		return new(Batch)
	case typeRewind:
		return new(Rewind)
	case typeFinding:
		return new(Finding)
	case typeFeedback:
		return new(Feedback)
	case typeSnapshots:
		return new(Snapshots)
	case typeSnapshotAsk:
		return new(SnapshotAsk)
	case typeSnapshot:
		return new(Snapshot)
	case typeSnapshotRead:
		return new(SnapshotRead)
	case typeSnapshotPart:
		return new(SnapshotPart)
	}
	return nil
}

func (*Hello) wireType() wire.Type           { return typeHello }
func (*Welcome) wireType() wire.Type         { return typeWelcome }
func (*Refusal) wireType() wire.Type         { return typeRefusal }
func (*Activated) wireType() wire.Type       { return typeActivated }
func (*Deactivated) wireType() wire.Type     { return typeDeactivated }
func (*LibraryProgress) wireType() wire.Type { return typeLibraryProgress }
func (*Role) wireType() wire.Type            { return typeRole }
func (*DaemonProgress) wireType() wire.Type  { return typeDaemonProgress }
func (*Batch) wireType() wire.Type           { return typeBatch }
func (*Rewind) wireType() wire.Type          { return typeRewind }
func (*Finding) wireType() wire.Type         { return typeFinding }
func (*Feedback) wireType() wire.Type        { return typeFeedback }

func (m *Hello) appendTo(b []byte) []byte {
	b = wire.AppendU16(b, m.VersionMin)
	b = wire.AppendU16(b, m.VersionMax)
	b = wire.AppendString(b, string(m.Service))
	b = wire.AppendString(b, string(m.Stream))
	b = wire.AppendString(b, m.Kind)
	b = wire.AppendString(b, m.Dir)
	b = wire.AppendString(b, string(m.Lineage))
	b = wire.AppendU64(b, uint64(m.End))
	b = wire.AppendString(b, m.Endpoint)
	b = wire.AppendU32(b, uint32(m.Generation))
	b = wire.AppendBool(b, m.Rest)
	return wire.AppendBool(b, m.Warm)
}

func (m *Hello) decode(d *wire.Decoder) {
	m.VersionMin = d.U16()
	m.VersionMax = d.U16()
	m.Service = tidegate.ServiceName(name(d, "service"))
	m.Stream = tidegate.StreamName(name(d, "stream"))
	m.Kind = d.String(tidegate.NameLenMax)
	m.Dir = d.String(PathLenMax)
	m.Lineage = tidegate.Lineage(d.String(LineageLenMax))
	m.End = tidegate.Position(d.U64())
	m.Endpoint = d.String(TextLenMax)
	m.Generation = tidegate.Generation(d.U32())
	m.Rest = d.Bool()
	m.Warm = d.Bool()
	if m.VersionMin == 0 || m.VersionMin > m.VersionMax {
		d.Fail("versions %d to %d", m.VersionMin, m.VersionMax)
	}
}

func (m *Welcome) appendTo(b []byte) []byte {
	b = wire.AppendU16(b, m.Version)
	b = wire.AppendU8(b, uint8(m.Daemon))
	return wire.AppendString(b, string(m.Node))
}

func (m *Welcome) decode(d *wire.Decoder) {
	m.Version = d.U16()
	m.Daemon = Daemon(d.U8())
	m.Node = tidegate.NodeName(name(d, "node"))
	if m.Daemon != DaemonAgent && m.Daemon != DaemonStandby {
		d.Fail("daemon %d", m.Daemon)
	}
}

func (m *Refusal) appendTo(b []byte) []byte { return appendReason(b, m.Class, m.Text, m.Hint) }

func (m *Refusal) decode(d *wire.Decoder) { m.Class, m.Text, m.Hint = decodeReason(d) }

func (m *Finding) appendTo(b []byte) []byte {
	b = wire.AppendString(b, m.Name)
	b = wire.AppendU8(b, uint8(m.Severity))
	return appendReason(b, m.Class, m.Text, m.Hint)
}

func (m *Finding) decode(d *wire.Decoder) {
	m.Name = d.String(tidegate.NameLenMax)
	m.Severity = Severity(d.U8())
	m.Class, m.Text, m.Hint = decodeReason(d)
	switch {
	case d.Err() != nil:
	case m.Severity > SeverityCritical, m.Text != "" && m.Severity == 0:
		d.Fail("severity %d", m.Severity)
	case m.Name != "":
		if err := tidegate.ValidName(m.Name); err != nil {
			d.Fail("finding: %v", err)
		}
	}
}

func appendReason(b []byte, class tidegate.Class, text, hint string) []byte {
	b = wire.AppendString(b, string(class))
	b = wire.AppendString(b, text[:min(len(text), TextLenMax)])
	return wire.AppendString(b, hint[:min(len(hint), TextLenMax)])
}

func decodeReason(d *wire.Decoder) (class tidegate.Class, text, hint string) {
	class = tidegate.Class(d.String(tidegate.NameLenMax))
	text = d.String(TextLenMax)
	hint = d.String(TextLenMax)
	return class, text, hint
}

func (m *Activated) appendTo(b []byte) []byte {
	b = wire.AppendString(b, string(m.Lineage))
	return wire.AppendU64(b, uint64(m.L))
}

func (m *Activated) decode(d *wire.Decoder) {
	m.Lineage = tidegate.Lineage(d.String(LineageLenMax))
	m.L = tidegate.Position(d.U64())
}

func (*Deactivated) appendTo(b []byte) []byte { return b }
func (*Deactivated) decode(*wire.Decoder)     {}

func (c Count) appendTo(b []byte) []byte {
	b = wire.AppendU64(b, uint64(c.Position))
	b = wire.AppendU64(b, c.Records)
	return wire.AppendU64(b, c.Bytes)
}

func (c *Count) decode(d *wire.Decoder) {
	c.Position = tidegate.Position(d.U64())
	c.Records = d.U64()
	c.Bytes = d.U64()
}

func (m *LibraryProgress) appendTo(b []byte) []byte {
	b = m.L.appendTo(b)
	b = m.A.appendTo(b)
	b = wire.AppendBool(b, m.AKnown)
	b = wire.AppendI64(b, int64(m.T0))
	b = wire.AppendI64(b, int64(m.Released))
	b = wire.AppendU64(b, uint64(m.End))
	b = wire.AppendU64(b, uint64(m.Applied))
	b = wire.Append16(b, m.Digest)
	b = wire.AppendU64(b, uint64(m.DigestAt))
	b = wire.AppendU8(b, uint8(m.Gate))
	b = wire.AppendI64(b, int64(m.Since))
	b = wire.AppendU8(b, uint8(m.Want))
	b = wire.AppendU64(b, m.Grant)
	b = wire.AppendU64(b, math.Float64bits(m.Utilisation))
	b = wire.AppendU64(b, m.Rejected)
	b = wire.AppendBool(b, m.Drained)
	b = wire.AppendI64(b, int64(m.Slack))
	return wire.AppendU64(b, uint64(m.Room))
}

func (m *LibraryProgress) decode(d *wire.Decoder) {
	m.L.decode(d)
	m.A.decode(d)
	m.AKnown = d.Bool()
	m.T0 = tidegate.Instant(d.I64())
	m.Released = tidegate.Instant(d.I64())
	m.End = tidegate.Position(d.U64())
	m.Applied = tidegate.Position(d.U64())
	m.Digest = d.Array16()
	m.DigestAt = tidegate.Position(d.U64())
	m.Gate = machine.State(d.U8())
	m.Since = tidegate.Instant(d.I64())
	m.Want = machine.Want(d.U8())
	m.Grant = d.U64()
	m.Utilisation = math.Float64frombits(d.U64())
	m.Rejected = d.U64()
	m.Drained = d.Bool()
	m.Slack = time.Duration(d.I64())
	m.Room = tidegate.Position(d.U64())
	switch {
	case m.Gate != 0 && !m.Gate.Valid():
		d.Fail("gate state %d", m.Gate)
	case !m.Want.Valid():
		d.Fail("want %d", m.Want)
	case !(m.Utilisation >= 0) || math.Signbit(m.Utilisation): // a NaN, too
		d.Fail("utilisation %v", m.Utilisation)
	case m.Slack < 0:
		d.Fail("slack %s", m.Slack)
	}
}

func (m *Role) appendTo(b []byte) []byte {
	b = wire.AppendU8(b, uint8(m.State))
	b = wire.AppendU64(b, uint64(m.Epoch))
	b = wire.Append16(b, m.Holder)
	b = wire.AppendU64(b, uint64(m.ApplyTo))
	b = wire.AppendU64(b, uint64(m.Branch))
	b = wire.AppendString(b, string(m.Lineage))
	b = wire.AppendU32(b, uint32(m.Generation))
	return wire.AppendU8(b, uint8(m.Source))
}

func (m *Role) decode(d *wire.Decoder) {
	m.State = State(d.U8())
	m.Epoch = tidegate.Epoch(d.U64())
	m.Holder = d.Array16()
	m.ApplyTo = tidegate.Position(d.U64())
	m.Branch = tidegate.Position(d.U64())
	m.Lineage = tidegate.Lineage(d.String(LineageLenMax))
	m.Generation = tidegate.Generation(d.U32())
	m.Source = Source(d.U8())
	if m.State < StateIdle || m.State > StateFenced {
		d.Fail("state %d", m.State)
	}
	if m.Source > SourceHandsOver {
		d.Fail("source %d", m.Source)
	}
}

func (m *DaemonProgress) appendTo(b []byte) []byte {
	b = wire.AppendU64(b, uint64(m.D))
	b = wire.AppendBool(b, m.DKnown)
	b = wire.AppendU64(b, uint64(m.Epoch))
	b = wire.AppendString(b, string(m.Mode))
	b = wire.AppendI64(b, m.Bounds.Records)
	b = wire.AppendI64(b, m.Bounds.Bytes)
	b = wire.AppendI64(b, int64(m.Bounds.Window))
	b = wire.AppendBool(b, m.Recorded)
	b = wire.AppendU64(b, m.Grant)
	b = wire.AppendU8(b, uint8(m.Record))
	b = wire.AppendString(b, string(m.Policy.Reaction))
	b = wire.AppendI64(b, int64(m.Policy.Grace))
	b = wire.AppendI64(b, int64(m.Policy.Rearm))
	b = wire.AppendBool(b, m.Brake)
	b = wire.AppendBool(b, m.LeaseNeeded)
	b = wire.AppendI64(b, int64(m.LeaseUntil))
	b = wire.AppendBool(b, m.Drain)
	b = wire.AppendBool(b, m.HandedOver)
	b = wire.AppendBool(b, m.RateLimited)
	b = wire.AppendU64(b, m.Rate)
	return wire.AppendU64(b, uint64(m.Applied))
}

func (m *DaemonProgress) decode(d *wire.Decoder) {
	m.D = tidegate.Position(d.U64())
	m.DKnown = d.Bool()
	m.Epoch = tidegate.Epoch(d.U64())
	m.Mode = tidegate.Mode(d.String(tidegate.NameLenMax))
	m.Bounds.Records = d.I64()
	m.Bounds.Bytes = d.I64()
	m.Bounds.Window = time.Duration(d.I64())
	m.Recorded = d.Bool()
	m.Grant = d.U64()
	m.Record = machine.Record(d.U8())
	m.Policy.Reaction = tidegate.Reaction(d.String(tidegate.NameLenMax))
	m.Policy.Grace = time.Duration(d.I64())
	m.Policy.Rearm = time.Duration(d.I64())
	m.Brake = d.Bool()
	m.LeaseNeeded = d.Bool()
	m.LeaseUntil = tidegate.Instant(d.I64())
	m.Drain = d.Bool()
	m.HandedOver = d.Bool()
	m.RateLimited = d.Bool()
	m.Rate = d.U64()
	m.Applied = tidegate.Position(d.U64())
	if d.Err() == nil {
		m.check(d)
	}
}

// check refuses grants that contradict themselves: what they would permit must
// not be guessed at.
func (m *DaemonProgress) check(d *wire.Decoder) {
	effective, err := m.Mode.Bounds(m.Bounds)
	policy := m.Policy.Validate()
	switch {
	case err != nil:
		d.Fail("%v", err)
	case policy != nil:
		d.Fail("%v", policy)
	case !m.Record.Valid():
		d.Fail("record %d", m.Record)
	case m.HandedOver && !m.Drain:
		d.Fail("handed over without drain")
	case m.Rate != 0 && !m.RateLimited:
		d.Fail("rate %d without a limit", m.Rate)
	case m.Applied > m.D:
		// Who waits for both must never be let go by this one alone.
		d.Fail("applied %s beyond durable %s", m.Applied, m.D)
	case effective != m.Bounds:
		// Bounds that contradict the mode must not be guessed at: one of the two
		// would be looser than what the gate recorded.
		d.Fail("bounds %+v contradict mode %s", m.Bounds, m.Mode)
	}
}

func (m *Batch) appendTo(b []byte) []byte {
	return wire.AppendBytes(m.appendHead(b), m.Payload)
}

func (m *Batch) appendHead(b []byte) []byte {
	b = wire.AppendU64(b, uint64(m.Epoch))
	b = wire.AppendU64(b, uint64(m.Seq))
	b = wire.AppendU64(b, uint64(m.First))
	b = wire.AppendU64(b, uint64(m.Next))
	return wire.AppendU32(b, m.Records)
}

func (m *Batch) decode(d *wire.Decoder) {
	m.Epoch = tidegate.Epoch(d.U64())
	m.Seq = tidegate.Seq(d.U64())
	m.First = tidegate.Position(d.U64())
	m.Next = tidegate.Position(d.U64())
	m.Records = d.U32()
	m.Payload = d.Bytes(PayloadMax)
	if d.Err() == nil && (m.Next < m.First || uint64(m.Next-m.First) != uint64(len(m.Payload))) {
		d.Fail("range [%s, %s) with %d bytes", m.First, m.Next, len(m.Payload))
	}
}

func (m *Rewind) appendTo(b []byte) []byte {
	b = wire.AppendU64(b, uint64(m.To))
	return wire.AppendU64(b, uint64(m.Epoch))
}

func (m *Rewind) decode(d *wire.Decoder) {
	m.To = tidegate.Position(d.U64())
	m.Epoch = tidegate.Epoch(d.U64())
}

func (m *Feedback) appendTo(b []byte) []byte {
	b = wire.AppendString(b, string(m.Node))
	return wire.AppendString(b, m.Opaque)
}

func (m *Feedback) decode(d *wire.Decoder) {
	m.Node = tidegate.NodeName(d.String(tidegate.NameLenMax))
	m.Opaque = d.String(tidegate.FeedbackMax)
	if d.Err() == nil && m.Node != "" {
		if err := tidegate.ValidName(string(m.Node)); err != nil {
			d.Fail("node: %v", err)
		}
	}
}

// name reads a name and checks its form: names become paths and labels.
func name(d *wire.Decoder, what string) string {
	s := d.String(tidegate.NameLenMax)
	if d.Err() == nil {
		if err := tidegate.ValidName(s); err != nil {
			d.Fail("%s: %v", what, err)
		}
	}
	return s
}
