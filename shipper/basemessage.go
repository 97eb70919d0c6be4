package shipper

import (
	"fmt"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/wire"
	"github.com/tidegate/tidegate/snapshot"
)

// FeatureBase is the optional part of the protocol that carries bases. Without it
// on both ends there is no session for one; other sessions are as they were.
const FeatureBase = "base"

// FeatureBasePick is the part of it that lets a fetch name its base.
const FeatureBasePick = "base-pick"

// Frame types of sessions for bases; the numbers are on the wire for ever.
const (
	typeBaseAttach wire.Type = iota + 16
	typeBaseAttached
	typeBaseOffer
	typeBaseNeed
	typeBasePages
	typeBaseTotal
	typeBaseManifest
	typeBaseCommitted
)

// BaseWay says in which direction a base goes; the numbers are on the wire.
type BaseWay uint8

// The ways.
const (
	BasePush  BaseWay = iota + 1 // the dialer sends one: the stream's agent, role agent
	BaseFetch                    // the dialer wants one: another node of the stream, role standby, or who restores from it, role operator, or rehearses that, role drill
	BasePick                     // the dialer wants the one that it names; likewise
)

func (w BaseWay) String() string {
	switch w {
	case BasePush:
		return "push"
	case BaseFetch:
		return "fetch"
	case BasePick:
		return "pick"
	}
	return fmt.Sprintf("way(%d)", uint8(w))
}

// permits reports whether a certificate's role may go this way.
func (w BaseWay) permits(r tidegate.Role) bool {
	return w == BasePush && r == tidegate.RoleAgent ||
		(w == BaseFetch || w == BasePick) && (r == tidegate.RoleStandby || r == tidegate.RoleOperator || r == tidegate.RoleDrill)
}

// BaseAttach binds a session to the base of one generation of a stream.
type BaseAttach struct {
	Stream tidegate.StreamID
	Way    BaseWay
	// Generation of the base. For a fetch, 0 asks for the newest there is.
	Generation tidegate.Generation
	// Promise of the writer whose base is pushed: the acceptor must have adopted
	// it, and must still do when the base is whole. Of a fetch it says nothing.
	Promise fence.Promise
	// Name of the manifest, of a base that is picked; of nothing else.
	Name snapshot.Name
}

// BaseAttached is the acceptor's yes.
type BaseAttached struct {
	Node        tidegate.NodeName
	Incarnation tidegate.Incarnation
	Generation  tidegate.Generation // that the session is about
	// Opened is the epoch in which the generation's first batch was sealed, as the
	// acceptor's log has it or as it has heard; 0: it has no such batch yet.
	Opened tidegate.Epoch
	Held   bool // of a push: the acceptor holds a base of this generation already, none is wanted
	// Start is where the log that follows the base to be given begins; of a fetch
	// only, and 0 while that is not known. Whoever has one that begins there, or
	// later, ends the session: it is none the wiser for this one.
	Start tidegate.Position
}

// baseOffer tells of an extent. Offers are numbered by who sends them.
type baseOffer struct {
	number uint32
	place  uint64
	bytes  uint32
	names  []byte // of the extent, and of its pages
}

const (
	nameBytes     = len(snapshot.Name{})
	baseOfferMax  = 16 + nameBytes*(1+snapshot.ExtentPages)
	basePagesMax  = 5 + snapshot.ExtentBytes
	manifestPiece = 512 << 10
)

func (a BaseAttach) append(b []byte) []byte {
	b = wire.Append16(b, a.Stream)
	b = wire.AppendU8(b, uint8(a.Way))
	b = wire.AppendU32(b, uint32(a.Generation))
	b = appendPromise(b, a.Promise)
	if a.Way == BasePick {
		b = append(b, a.Name[:]...)
	}
	return b
}

func parseBaseAttach(body []byte) (a BaseAttach, err error) {
	d := wire.NewDecoder(body)
	a.Stream = d.Array16()
	a.Way = BaseWay(d.U8())
	a.Generation = tidegate.Generation(d.U32())
	a.Promise = decodePromise(&d)
	if a.Way == BasePick {
		half, rest := d.Array16(), d.Array16()
		copy(a.Name[:], half[:])
		copy(a.Name[len(half):], rest[:])
	}
	if a.Way < BasePush || a.Way > BasePick {
		d.Fail("%s", a.Way)
	}
	if a.Way == BasePush && a.Generation == 0 {
		d.Fail("push of no generation")
	}
	return a, finish(&d, "base attach")
}

func (a BaseAttached) append(b []byte) []byte {
	b = wire.AppendString(b, string(a.Node))
	b = wire.Append16(b, a.Incarnation)
	b = wire.AppendU32(b, uint32(a.Generation))
	b = wire.AppendU64(b, uint64(a.Opened))
	b = wire.AppendBool(b, a.Held)
	return wire.AppendU64(b, uint64(a.Start))
}

func parseBaseAttached(body []byte) (a BaseAttached, err error) {
	d := wire.NewDecoder(body)
	a.Node = decodeName(&d)
	a.Incarnation = d.Array16()
	a.Generation = tidegate.Generation(d.U32())
	a.Opened = tidegate.Epoch(d.U64())
	a.Held = d.Bool()
	a.Start = tidegate.Position(d.U64())
	return a, finish(&d, "base attached")
}

// appendOffer encodes an offer of x.
func appendOffer(b []byte, number uint32, place uint64, x *snapshot.Extent) []byte {
	b = wire.AppendU32(b, number)
	b = wire.AppendU64(b, place)
	b = wire.AppendU32(b, uint32(x.Bytes))
	b = append(b, x.Name[:]...)
	for i := range x.Pages {
		b = append(b, x.Pages[i][:]...)
	}
	return b
}

func parseOffer(body []byte) (o baseOffer, err error) {
	d := wire.NewDecoder(body)
	o.number, o.place, o.bytes = d.U32(), d.U64(), d.U32()
	pages := int(o.bytes+snapshot.PageBytes-1) / snapshot.PageBytes
	if o.bytes < 1 || o.bytes > snapshot.ExtentBytes || d.Left() != (1+pages)*nameBytes {
		d.Fail("extent of %d bytes with %d bytes of names", o.bytes, d.Left())
	}
	o.names = d.Rest()
	return o, finish(&d, "base offer")
}

// extent takes the offer's extent over, in memory of its own.
func (o *baseOffer) extent() *snapshot.Extent {
	x := &snapshot.Extent{Bytes: int(o.bytes), Pages: make([]snapshot.Name, len(o.names)/nameBytes-1)}
	copy(x.Name[:], o.names)
	for i := range x.Pages {
		copy(x.Pages[i][:], o.names[(1+i)*nameBytes:])
	}
	return x
}

func appendNeed(b []byte, number uint32, need snapshot.Need) []byte {
	return append(wire.AppendU32(b, number), need[:]...)
}

func parseNeed(body []byte) (number uint32, need snapshot.Need, err error) {
	d := wire.NewDecoder(body)
	number = d.U32()
	need = snapshot.Need(d.Array16())
	return number, need, finish(&d, "base need")
}

func parsePages(body []byte) (number uint32, p snapshot.Payload, err error) {
	d := wire.NewDecoder(body)
	number, p.Encoding = d.U32(), snapshot.Encoding(d.U8())
	p.Stored = d.Rest()
	if len(p.Stored) == 0 || len(p.Stored) > snapshot.ExtentBytes {
		d.Fail("pages of %d bytes", len(p.Stored))
	}
	return number, p, finish(&d, "base pages")
}

// manifestPart is some bytes of a manifest; the parts come in their order.
type manifestPart struct {
	total, offset uint64
	bytes         []byte
}

func parseManifestPart(body []byte) (m manifestPart, err error) {
	d := wire.NewDecoder(body)
	m.total, m.offset = d.U64(), d.U64()
	m.bytes = d.Rest()
	if m.total > snapshot.ManifestBytesMax || len(m.bytes) == 0 || m.offset+uint64(len(m.bytes)) > m.total {
		d.Fail("%d bytes at %d of a manifest of %d", len(m.bytes), m.offset, m.total)
	}
	return m, finish(&d, "base manifest")
}

// baseEvent is what Recv returns in a session for a base: the frame, for whoever
// runs the session's part. It is not one of those that handlers see.
type baseEvent struct {
	kind wire.Type
	body []byte
}

func (*baseEvent) event() {}

// isBase reports whether t is a frame that comes after the attach.
func isBase(t wire.Type) bool { return t >= typeBaseOffer && t <= typeBaseCommitted }
