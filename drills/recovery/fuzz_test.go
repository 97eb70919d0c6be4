package recovery

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate"
)

// FuzzClassify reads evidence of one stream out of bytes, two an output, and compares
// with the reference.
func FuzzClassify(f *testing.F) {
	f.Add([]byte{0, 0, 1, 0, 2, 0}, []byte{0, 0, 1, 0}, []byte{2, 0}, byte(1))
	f.Add([]byte{0, 0, 1, 0, 2, 0, 3, 0}, []byte{0, 0, 1, 1}, []byte{1, 2, 0x82, 0, 3, 0}, byte(2))
	f.Add([]byte{0, 0, 2, 0}, []byte{0, 0, 1, 0}, []byte{2, 0, 0x41, 0}, byte(0x83))
	f.Fuzz(func(t *testing.T, golden, before, after []byte, how byte) {
		if len(golden)+len(before)+len(after) > 256 || len(golden)+len(before)+len(after) < 2 {
			return
		}
		read := func(b []byte, epoch tidegate.Epoch) (out []Output) {
			for ; len(b) > 1; b = b[2:] {
				o := Output{ID: ID{"eur", tidegate.Position(b[0] & 0x1f), uint32(b[0] >> 5 & 1)}, Digest: tidegate.Digest{b[1]}, Epoch: epoch}
				if epoch > 1 && b[0]&0x40 != 0 {
					o.Epoch--
				}
				out = append(out, o)
			}
			return out
		}
		e := Evidence{
			Before: read(before, 1), After: read(after, 2), Golden: &Golden{read(golden, 0), how&0x40 == 0},
			Terms: Terms{Epoch: 2, MinTail: int(how & 7), StaleRefused: how&0x80 != 0},
		}
		if len(e.Golden.Outputs)+len(e.Before)+len(e.After) == 0 {
			return
		}
		slices.SortFunc(e.Golden.Outputs, func(a, b Output) int { return a.ID.place().compare(b.ID.place()) })
		e.Golden.Outputs = slices.CompactFunc(e.Golden.Outputs, func(a, b Output) bool { return a.ID == b.ID })
		got, err := Classify(e)
		if err != nil {
			t.Fatal(err)
		}
		typ, best, also := reference(e)
		if v := got.Streams[0]; v.Type != typ || v.AtBest != best || cmp.Diff(also, v.Also) != "" {
			t.Errorf("got %s at best %s with %v, the reference says %s at best %s with %v", v.Type, v.AtBest, v.Also, typ, best, also)
		}
	})
}

// FuzzParseID: whatever is read is written the same.
func FuzzParseID(f *testing.F) {
	f.Add("eur/00000000000010a3/0")
	f.Add("eur/00000000000010a3/4294967296")
	f.Add("a/0/0/0")
	f.Fuzz(func(t *testing.T, text string) {
		id, err := ParseID(text)
		if err != nil {
			return
		}
		if b, err := id.MarshalText(); err != nil || string(b) != text {
			t.Errorf("%q was read, and is written as %q, %v", text, b, err)
		}
	})
}

// FuzzDigestJSON never panics, and what it takes has the same digest when read again.
func FuzzDigestJSON(f *testing.F) {
	f.Add([]byte(`{"a":{"b":1},"sent":2}`))
	f.Add([]byte(`{"a":[{}],"a":null}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		one, err := DigestJSON(content, "sent", "a.b")
		if err != nil {
			return
		}
		if two, err := DigestJSON(content, "a.b", "sent"); err != nil || one != two {
			t.Errorf("%q: %s, then %s, %v", content, one, two, err)
		}
	})
}
