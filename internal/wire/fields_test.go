package wire

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func encoded() []byte {
	b := AppendU8(nil, 7)
	b = AppendBool(b, true)
	b = AppendU16(b, 0x0102)
	b = AppendU32(b, 0x01020304)
	b = AppendU64(b, 0x0102030405060708)
	b = AppendI64(b, -2)
	b = Append16(b, [16]byte{1, 15: 2})
	b = AppendBytes(b, []byte("bytes"))
	b = AppendString(b, "string")
	return AppendU16(b, 3)
}

func decode(b []byte) error {
	d := NewDecoder(b)
	ok := d.U8() == 7 && d.Bool() && d.U16() == 0x0102 && d.U32() == 0x01020304 && d.U64() == 0x0102030405060708 &&
		d.I64() == -2 && d.Array16() == [16]byte{1, 15: 2} && string(d.Bytes(5)) == "bytes" && d.String(6) == "string" && d.Count(3) == 3
	if err := d.Finish(); err != nil {
		return err
	}
	if !ok {
		return errors.New("decoded other values")
	}
	return nil
}

func TestDecoderIsStrict(t *testing.T) {
	b := encoded()
	if err := decode(b); err != nil {
		t.Fatal(err)
	}
	for i := range b {
		if err := decode(b[:i]); !errors.Is(err, ErrMessage) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	if err := decode(append(bytes.Clone(b), 0)); !errors.Is(err, ErrMessage) {
		t.Errorf("trailing byte: %v", err)
	}
	for name, f := range map[string]func(*Decoder){
		"bool 2":          func(d *Decoder) { d.U8(); d.U8(); d.b = []byte{2}; d.off = 0; d.Bool() },
		"bytes over":      func(d *Decoder) { d.b = AppendBytes(nil, []byte("12345")); d.Bytes(4) },
		"bytes length":    func(d *Decoder) { d.b = []byte{255, 255, 255, 255}; d.Bytes(1 << 40) },
		"string over":     func(d *Decoder) { d.b = AppendString(nil, "12345"); d.String(4) },
		"count over":      func(d *Decoder) { d.b = AppendU16(nil, 5); d.Count(4) },
		"value not liked": func(d *Decoder) { d.Rest(); d.Fail("mode %d", 9) },
	} {
		d := NewDecoder(b)
		f(&d)
		d.off = len(d.b)
		if err := d.Finish(); !errors.Is(err, ErrMessage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAppendStringCutsAtItsLengthField(t *testing.T) {
	d := NewDecoder(AppendString(nil, strings.Repeat("x", 1<<17)))
	if got := len(d.String(1 << 16)); got != 1<<16-1 {
		t.Errorf("%d bytes", got)
	}
	if err := d.Finish(); err != nil {
		t.Error(err)
	}
}

func FuzzDecoder(f *testing.F) {
	f.Add(encoded())
	f.Fuzz(func(t *testing.T, b []byte) {
		if decode(b) == nil && !bytes.Equal(b, encoded()) {
			t.Fatal("two encodings of the same fields")
		}
	})
}
