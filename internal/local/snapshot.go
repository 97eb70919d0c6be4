package local

import (
	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/wire"
)

func (*Snapshots) wireType() wire.Type    { return typeSnapshots }
func (*SnapshotAsk) wireType() wire.Type  { return typeSnapshotAsk }
func (*Snapshot) wireType() wire.Type     { return typeSnapshot }
func (*SnapshotRead) wireType() wire.Type { return typeSnapshotRead }
func (*SnapshotPart) wireType() wire.Type { return typeSnapshotPart }

func (m *Snapshots) appendTo(b []byte) []byte { return wire.AppendBool(b, m.Empty) }
func (m *Snapshots) decode(d *wire.Decoder)   { m.Empty = d.Bool() }

func (*SnapshotAsk) appendTo(b []byte) []byte { return b }
func (*SnapshotAsk) decode(*wire.Decoder)     {}

func (m *Snapshot) appendTo(b []byte) []byte {
	b = wire.AppendU64(b, uint64(m.Position))
	b = wire.AppendU64(b, m.Records)
	b = wire.Append16(b, m.Digest)
	b = wire.AppendU64(b, m.Size)
	b = wire.AppendString(b, string(m.Lineage))
	return appendReason(b, m.Class, m.Text, m.Hint)
}

func (m *Snapshot) decode(d *wire.Decoder) {
	m.Position = tidegate.Position(d.U64())
	m.Records = d.U64()
	m.Digest = d.Array16()
	m.Size = d.U64()
	m.Lineage = tidegate.Lineage(d.String(LineageLenMax))
	m.Class, m.Text, m.Hint = decodeReason(d)
}

func (m *SnapshotRead) appendTo(b []byte) []byte {
	b = wire.AppendU64(b, uint64(m.Position))
	b = wire.AppendU64(b, m.Offset)
	return wire.AppendU32(b, m.Bytes)
}

func (m *SnapshotRead) decode(d *wire.Decoder) {
	m.Position = tidegate.Position(d.U64())
	m.Offset = d.U64()
	m.Bytes = d.U32()
	if d.Err() == nil && (m.Bytes == 0 || m.Bytes > PartMax) {
		d.Fail("read of %d bytes", m.Bytes)
	}
}

func (m *SnapshotPart) appendTo(b []byte) []byte {
	b = wire.AppendU64(b, uint64(m.Position))
	b = wire.AppendU64(b, m.Offset)
	return wire.AppendBytes(b, m.Payload)
}

func (m *SnapshotPart) decode(d *wire.Decoder) {
	m.Position = tidegate.Position(d.U64())
	m.Offset = d.U64()
	m.Payload = d.Bytes(PartMax)
	if d.Err() == nil && len(m.Payload) == 0 {
		d.Fail("part without bytes")
	}
}

// Is reports whether m answers r.
func (m *SnapshotPart) Is(r SnapshotRead) bool {
	return m.Position == r.Position && m.Offset == r.Offset && len(m.Payload) == int(r.Bytes)
}

// NextRead returns what is to be asked for next, of a snapshot of which the bytes
// before offset are there; done when that is all.
func (m *Snapshot) NextRead(offset uint64) (r SnapshotRead, done bool) {
	if offset >= m.Size {
		return r, true
	}
	return SnapshotRead{Position: m.Position, Offset: offset, Bytes: uint32(min(PartMax, m.Size-offset))}, false
}
