package batch

import (
	"fmt"

	"github.com/tidegate/tidegate"
)

// payloadVersion is the version of every control payload below; each carries
// it in its first two bytes, so that one can change without the others.
const payloadVersion = 1

// stringLenMax bounds every text in a control payload, in bytes.
const stringLenMax = 4096

// Lineage is the payload of a [KindLineage] batch: from the batch's position on,
// the source's history is this one. The header's generation tells whether it
// continues the history before (same generation) or opens a new one.
type Lineage struct {
	Lineage  tidegate.Lineage // never empty
	Previous tidegate.Lineage // what the stream had before; empty in the first batch of a stream
}

// Append appends the payload to b.
func (l Lineage) Append(b []byte) ([]byte, error) {
	if err := l.validate(); err != nil {
		return b, fmt.Errorf("encode lineage: %w", err)
	}
	b = le.AppendUint16(b, payloadVersion)
	b = appendString(b, string(l.Lineage))
	return appendString(b, string(l.Previous)), nil
}

func (l Lineage) validate() error {
	switch {
	case l.Lineage == "":
		return fmt.Errorf("lineage is empty")
	case len(l.Lineage) > stringLenMax || len(l.Previous) > stringLenMax:
		return fmt.Errorf("lineage of %d and %d bytes: limit is %d", len(l.Lineage), len(l.Previous), stringLenMax)
	}
	return nil
}

// ParseLineage parses what [Lineage.Append] wrote, and nothing else.
func ParseLineage(b []byte) (Lineage, error) {
	p := newParser("lineage", b)
	l := Lineage{Lineage: tidegate.Lineage(p.string()), Previous: tidegate.Lineage(p.string())}
	if err := p.end(); err != nil {
		return Lineage{}, err
	}
	if err := l.validate(); err != nil {
		return Lineage{}, corrupt("lineage payload: %s", err)
	}
	return l, nil
}

// Handover is the payload of a [KindHandover] batch: the writer's last word of
// its epoch in a planned switchover. The batch's position is the point handed
// over: everything before it is in the log, nothing will follow.
type Handover struct {
	Holder      tidegate.HolderID // the writer that hands over
	StateKnown  bool              // whether the source told a state digest
	StateDigest tidegate.Digest   // of the service's state at the batch's position; zero unless StateKnown
	Reason      string            // for the record; may be empty
}

// Append appends the payload to b.
func (h Handover) Append(b []byte) ([]byte, error) {
	if err := h.validate(); err != nil {
		return b, fmt.Errorf("encode handover: %w", err)
	}
	b = le.AppendUint16(b, payloadVersion)
	b = append(b, h.Holder[:]...)
	b = appendBool(b, h.StateKnown)
	b = append(b, h.StateDigest[:]...)
	return appendString(b, h.Reason), nil
}

func (h Handover) validate() error {
	switch {
	case h.Holder.IsZero():
		return fmt.Errorf("holder is zero")
	case !h.StateKnown && !h.StateDigest.IsZero():
		return fmt.Errorf("state digest is set but not known")
	case len(h.Reason) > stringLenMax:
		return fmt.Errorf("reason of %d bytes: limit is %d", len(h.Reason), stringLenMax)
	}
	return nil
}

// ParseHandover parses what [Handover.Append] wrote, and nothing else.
func ParseHandover(b []byte) (Handover, error) {
	p := newParser("handover", b)
	h := Handover{}
	copy(h.Holder[:], p.bytes(16))
	h.StateKnown = p.bool()
	copy(h.StateDigest[:], p.bytes(16))
	h.Reason = p.string()
	if err := p.end(); err != nil {
		return Handover{}, err
	}
	if err := h.validate(); err != nil {
		return Handover{}, corrupt("handover payload: %s", err)
	}
	return h, nil
}

// Gap is the payload of a [KindGap] batch: the positions of the header's range
// are lost to the standby site, and why.
type Gap struct {
	RecordsKnown bool   // whether the source could tell how many
	Records      uint64 // records in the range; 0 unless RecordsKnown
	Reason       string // never empty
}

// Append appends the payload to b.
func (g Gap) Append(b []byte) ([]byte, error) {
	if err := g.validate(); err != nil {
		return b, fmt.Errorf("encode gap: %w", err)
	}
	b = le.AppendUint16(b, payloadVersion)
	b = appendBool(b, g.RecordsKnown)
	b = le.AppendUint64(b, g.Records)
	return appendString(b, g.Reason), nil
}

func (g Gap) validate() error {
	switch {
	case g.Reason == "":
		return fmt.Errorf("reason is empty")
	case len(g.Reason) > stringLenMax:
		return fmt.Errorf("reason of %d bytes: limit is %d", len(g.Reason), stringLenMax)
	case !g.RecordsKnown && g.Records != 0:
		return fmt.Errorf("records are set but not known")
	}
	return nil
}

// ParseGap parses what [Gap.Append] wrote, and nothing else.
func ParseGap(b []byte) (Gap, error) {
	p := newParser("gap", b)
	g := Gap{RecordsKnown: p.bool(), Records: p.uint64(), Reason: p.string()}
	if err := p.end(); err != nil {
		return Gap{}, err
	}
	if err := g.validate(); err != nil {
		return Gap{}, corrupt("gap payload: %s", err)
	}
	return g, nil
}

func appendString(b []byte, s string) []byte {
	return append(le.AppendUint16(b, uint16(len(s))), s...)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// parser takes a control payload apart; the first mistake sticks.
type parser struct {
	what string
	rest []byte
	err  error
}

func newParser(what string, b []byte) *parser {
	p := &parser{what: what, rest: b}
	if v := p.bytes(2); p.err == nil && le.Uint16(v) != payloadVersion {
		p.err = fmt.Errorf("%s payload version %d: %w", what, le.Uint16(v), tidegate.ErrUnsupported)
	}
	return p
}

func (p *parser) bytes(n int) []byte {
	if p.err == nil && len(p.rest) < n {
		p.err = corrupt("%s payload is cut", p.what)
	}
	if p.err != nil {
		return make([]byte, n)
	}
	b := p.rest[:n]
	p.rest = p.rest[n:]
	return b
}

func (p *parser) uint64() uint64 { return le.Uint64(p.bytes(8)) }

func (p *parser) bool() bool {
	v := p.bytes(1)[0]
	if p.err == nil && v > 1 {
		p.err = corrupt("%s payload holds truth value %d", p.what, v)
	}
	return v == 1
}

func (p *parser) string() string {
	n := int(le.Uint16(p.bytes(2)))
	if p.err == nil && n > stringLenMax {
		p.err = corrupt("%s payload holds a text of %d bytes, limit is %d", p.what, n, stringLenMax)
	}
	if p.err != nil {
		return ""
	}
	return string(p.bytes(n))
}

func (p *parser) end() error {
	if p.err == nil && len(p.rest) > 0 {
		p.err = corrupt("%s payload has %d bytes of junk behind it", p.what, len(p.rest))
	}
	return p.err
}
