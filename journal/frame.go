package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/seglog"
)

// HeaderSize is the length of a record's header in bytes:
//
//	 0  4  CRC-32C of the position (8 bytes, little-endian), then bytes 4 to the end
//	 4  4  payload length
//	 8  8  record number
//	16  8  source time, unix ns
//	24  1  kind
//	25  3  reserved, 0
const HeaderSize = 28

const branchPayloadSize = 16

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is a record's header without its checksum.
type header struct {
	length int
	number uint64
	time   int64
	kind   Kind
}

// appendRecord appends the record that goes at position at.
func appendRecord(dst []byte, at tidegate.Position, h header, payload []byte) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(payload)))
	dst = binary.LittleEndian.AppendUint64(dst, h.number)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(h.time))
	dst = append(dst, byte(h.kind), 0, 0, 0)
	dst = append(dst, payload...)
	binary.LittleEndian.PutUint32(dst[start:], checksum(dst[start:], at))
	return dst
}

// checksum covers everything but itself, and where the record stands: a record
// copied to another place is as broken as one with a flipped bit.
func checksum(rec []byte, at tidegate.Position) uint32 {
	// The position goes in by the table: as a slice it would escape to the heap.
	crc := ^uint32(0)
	p := uint64(at)
	for range 8 {
		crc = castagnoli[byte(crc)^byte(p)] ^ crc>>8
		p >>= 8
	}
	return crc32.Update(^crc, castagnoli, rec[4:])
}

// parseHeader checks everything about a header but its checksum.
func parseHeader(b []byte) (header, error) {
	h := header{
		length: int(binary.LittleEndian.Uint32(b[4:])),
		number: binary.LittleEndian.Uint64(b[8:]),
		time:   int64(binary.LittleEndian.Uint64(b[16:])),
		kind:   Kind(b[24]),
	}
	switch {
	case h.length > PayloadMax:
		return header{}, fmt.Errorf("payload of %d bytes, at most %d", h.length, PayloadMax)
	case h.number == 0:
		return header{}, errors.New("record number 0")
	case b[25]|b[26]|b[27] != 0:
		return header{}, fmt.Errorf("reserved bytes % x", b[25:28])
	case h.kind != KindData && h.kind != KindBranch:
		return header{}, fmt.Errorf("record kind %d: %w", h.kind, tidegate.ErrUnsupported)
	case h.kind == KindBranch && h.length != branchPayloadSize:
		return header{}, fmt.Errorf("branch record with %d bytes", h.length)
	}
	return h, nil
}

// parseRecord reads the record at the beginning of b, which begins at position
// at. The payload aliases b. Nothing is verified but the header.
func parseRecord(b []byte, at tidegate.Position) (Record, error) {
	if len(b) < HeaderSize {
		return Record{}, fmt.Errorf("record at %s: %d bytes, a header has %d", at, len(b), HeaderSize)
	}
	h, err := parseHeader(b)
	if err != nil {
		return Record{}, fmt.Errorf("record at %s: %w", at, err)
	}
	n := HeaderSize + h.length
	if len(b) < n {
		return Record{}, fmt.Errorf("record at %s: %d bytes of %d", at, len(b), n)
	}
	return Record{
		Range:   Range{First: at, Next: at + tidegate.Position(n)},
		Number:  h.number,
		Time:    time.Unix(0, h.time),
		Kind:    h.kind,
		Payload: b[HeaderSize:n:n],
	}, nil
}

// verifyRecord checks the checksum of one whole record.
func verifyRecord(rec []byte, at tidegate.Position) error {
	if want, got := binary.LittleEndian.Uint32(rec), checksum(rec, at); want != got {
		return fmt.Errorf("checksum mismatch (want %08x, got %08x)", want, got)
	}
	return nil
}

// Scan calls f for each record in raw, which begins at position first. It
// verifies every record before f sees it, that their numbers are contiguous,
// and that the bytes end with a whole record. The payload aliases raw.
func Scan(raw []byte, first tidegate.Position, f func(Record) error) error {
	var number uint64
	for at := first; len(raw) > 0; {
		r, err := parseRecord(raw, at)
		n := int(r.Next - at)
		if err == nil {
			err = verifyRecord(raw[:n], at)
		}
		if err == nil && number != 0 && r.Number != number+1 {
			err = fmt.Errorf("record number %d follows %d", r.Number, number)
		}
		if err != nil {
			return &tidegate.CorruptError{Path: "journal bytes", Offset: int64(at - first), What: err.Error()}
		}
		if err := f(r); err != nil {
			return err
		}
		number, at, raw = r.Number, r.Next, raw[n:]
	}
	return nil
}

// Branch is a fork of the history, as its record says.
type Branch struct {
	Epoch    tidegate.Epoch    `json:"epoch"`
	Position tidegate.Position `json:"position"` // of the branch record itself: where the old history was left
}

func (b Branch) payload() []byte {
	p := binary.LittleEndian.AppendUint64(nil, uint64(b.Epoch))
	return binary.LittleEndian.AppendUint64(p, uint64(b.Position))
}

func parseBranch(r Record) (Branch, error) {
	b := Branch{
		Epoch:    tidegate.Epoch(binary.LittleEndian.Uint64(r.Payload)),
		Position: tidegate.Position(binary.LittleEndian.Uint64(r.Payload[8:])),
	}
	if b.Position != r.First {
		return Branch{}, fmt.Errorf("branch record at %s names %s", r.First, b.Position)
	}
	return b, nil
}

// format tells the segment log what a journal's records look like. The state
// between records is the number of the last one: it makes a gap visible, and
// opening a journal need not count.
type format struct{}

var _ seglog.Chained = format{}

func (format) Magic() [4]byte { return [4]byte{'T', 'G', 'J', '1'} }
func (format) HeaderLen() int { return HeaderSize }

func (format) Parse(hdr []byte, at uint64) (seglog.Record, error) {
	h, err := parseHeader(hdr)
	if err != nil {
		return seglog.Record{}, err
	}
	n := HeaderSize + h.length
	return seglog.Record{Len: n, Next: at + uint64(n)}, nil
}

func (format) Verify(rec []byte, at uint64) error {
	return verifyRecord(rec, tidegate.Position(at))
}

func (format) State(rec []byte) (s seglog.State) {
	copy(s[:8], rec[8:16])
	return s
}

func (format) Follows(prev seglog.State, rec []byte) error {
	last, number := recordNumber(prev), binary.LittleEndian.Uint64(rec[8:])
	if number != last+1 {
		return fmt.Errorf("record number %d follows %d", number, last)
	}
	return nil
}

func putRecordNumber(s *seglog.State, n uint64) { binary.LittleEndian.PutUint64(s[:8], n) }

func recordNumber(s seglog.State) uint64 { return binary.LittleEndian.Uint64(s[:8]) }
