package batch

import (
	"bytes"
	"testing"

	"github.com/tidegate/tidegate"
)

func TestAppendGivesTheSealedHeader(t *testing.T) {
	h := Header{Stream: tidegate.NewID(), Epoch: 3, Seq: 9, First: 10, Next: 14, Records: 1, Head: 20, Generation: 1, OldestTime: 5, NewestTime: 6}
	sealed, _, err := NewSealer(CodecNone).Seal(nil, h, tidegate.Chain{1}, []byte("four"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseHeader(sealed)
	if err != nil {
		t.Fatal(err)
	}
	if b := got.Append(nil); !bytes.Equal(b, sealed[:HeaderSize]) {
		t.Errorf("got  % x\nwant % x", b, sealed[:HeaderSize])
	}
}
