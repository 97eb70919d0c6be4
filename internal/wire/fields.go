package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// ErrMessage is wrapped by every error of a [Decoder].
var ErrMessage = errors.New("malformed message")

// AppendU8 appends one byte.
func AppendU8(dst []byte, v uint8) []byte { return append(dst, v) }

// AppendBool appends 1 for true and 0 for false.
func AppendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// AppendU16 appends two bytes.
func AppendU16(dst []byte, v uint16) []byte { return binary.LittleEndian.AppendUint16(dst, v) }

// AppendU32 appends four bytes.
func AppendU32(dst []byte, v uint32) []byte { return binary.LittleEndian.AppendUint32(dst, v) }

// AppendU64 appends eight bytes.
func AppendU64(dst []byte, v uint64) []byte { return binary.LittleEndian.AppendUint64(dst, v) }

// AppendI64 appends eight bytes, two's complement.
func AppendI64(dst []byte, v int64) []byte { return AppendU64(dst, uint64(v)) }

// Append16 appends a 16-byte value: an ID, a digest or a chain.
func Append16(dst []byte, v [16]byte) []byte { return append(dst, v[:]...) }

// AppendBytes appends a u32 length and the bytes.
func AppendBytes(dst, v []byte) []byte {
	return append(AppendU32(dst, uint32(len(v))), v...)
}

// AppendString appends a u16 length and the string. A longer string is cut:
// text on the wire is for people, what must not be cut goes by AppendBytes.
func AppendString(dst []byte, s string) []byte {
	s = s[:min(len(s), math.MaxUint16)]
	return append(AppendU16(dst, uint16(len(s))), s...)
}

// Decoder reads fields in the order in which they were appended. After the
// first error every further field is zero, so that a message is decoded in one
// go and checked once, by Finish.
type Decoder struct {
	b   []byte
	off int
	err error
}

// NewDecoder reads from b; what Bytes and Rest return aliases b.
func NewDecoder(b []byte) Decoder { return Decoder{b: b} }

// Finish returns the first error, or one if bytes are left over.
func (d *Decoder) Finish() error {
	if d.err == nil && d.off != len(d.b) {
		d.err = fmt.Errorf("%w: %d trailing bytes", ErrMessage, len(d.b)-d.off)
	}
	return d.err
}

// Fail records that a field's value is not allowed; the first failure wins.
func (d *Decoder) Fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrMessage, fmt.Sprintf(format, args...))
	}
}

// Err returns the first error so far.
func (d *Decoder) Err() error { return d.err }

// Left returns the number of unread bytes; 0 after an error.
func (d *Decoder) Left() int {
	if d.err != nil {
		return 0
	}
	return len(d.b) - d.off
}

func (d *Decoder) take(n int) []byte {
	if d.err != nil {
		return nil
	}
	if n < 0 || len(d.b)-d.off < n {
		d.err = fmt.Errorf("%w: %d bytes wanted at %d, %d left", ErrMessage, n, d.off, len(d.b)-d.off)
		return nil
	}
	p := d.b[d.off : d.off+n : d.off+n]
	d.off += n
	return p
}

// U8 reads one byte.
func (d *Decoder) U8() uint8 {
	if p := d.take(1); p != nil {
		return p[0]
	}
	return 0
}

// Bool reads a byte that must be 0 or 1.
func (d *Decoder) Bool() bool {
	v := d.U8()
	if v > 1 {
		d.Fail("boolean %d at %d", v, d.off-1)
	}
	return v == 1
}

// U16 reads two bytes.
func (d *Decoder) U16() uint16 {
	if p := d.take(2); p != nil {
		return binary.LittleEndian.Uint16(p)
	}
	return 0
}

// U32 reads four bytes.
func (d *Decoder) U32() uint32 {
	if p := d.take(4); p != nil {
		return binary.LittleEndian.Uint32(p)
	}
	return 0
}

// U64 reads eight bytes.
func (d *Decoder) U64() uint64 {
	if p := d.take(8); p != nil {
		return binary.LittleEndian.Uint64(p)
	}
	return 0
}

// I64 reads eight bytes, two's complement.
func (d *Decoder) I64() int64 { return int64(d.U64()) }

// Array16 reads a 16-byte value.
func (d *Decoder) Array16() (v [16]byte) {
	copy(v[:], d.take(16))
	return v
}

// Bytes reads what AppendBytes wrote, at most limit bytes. The result aliases
// the input; it is nil when empty.
func (d *Decoder) Bytes(limit int) []byte {
	n := d.U32()
	if uint64(n) > uint64(max(limit, 0)) {
		d.Fail("%d bytes at %d, at most %d", n, d.off-4, limit)
		return nil
	}
	if n == 0 {
		return nil
	}
	return d.take(int(n))
}

// String reads what AppendString wrote, at most limit bytes.
func (d *Decoder) String(limit int) string {
	n := d.U16()
	if int(n) > limit {
		d.Fail("string of %d bytes at %d, at most %d", n, d.off-2, limit)
		return ""
	}
	return string(d.take(int(n)))
}

// Count reads a u16 number of elements, at most limit.
func (d *Decoder) Count(limit int) int {
	n := int(d.U16())
	if n > limit {
		d.Fail("%d elements at %d, at most %d", n, d.off-2, limit)
		return 0
	}
	return n
}

// Rest reads everything that is left, aliasing the input.
func (d *Decoder) Rest() []byte { return d.take(d.Left()) }

// Raw reads n bytes without a length of their own, aliasing the input.
func (d *Decoder) Raw(n int) []byte { return d.take(n) }
