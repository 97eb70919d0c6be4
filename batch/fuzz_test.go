package batch_test

import (
	"bytes"
	"testing"

	"github.com/tidegate/tidegate/batch"
)

func seeds(f *testing.F) {
	f.Helper()
	for _, sealed := range goldens(f) {
		f.Add(sealed, 0)
		f.Add(sealed, len(sealed)-1)
	}
	f.Add([]byte(nil), 0)
	f.Add(make([]byte, batch.HeaderSize), 0)
}

// FuzzOpen: nothing panics; what opens is what was sealed; a cut batch is never
// accepted.
func FuzzOpen(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		var o batch.Opener
		h, payload, err := o.Open(nil, b)
		_, parseErr := batch.ParseHeader(b)
		_, verifyErr := batch.Verify(b, prevChain)
		if err != nil {
			return
		}
		if parseErr != nil {
			t.Fatalf("opens, but its header does not parse: %v", parseErr)
		}
		if batch.ContentDigest(payload) != h.Digest || len(payload) != int(h.RawLen) {
			t.Fatal("opened to something else")
		}
		if verifyErr == nil && h.Codec == batch.CodecNone {
			again, _, err := batch.NewSealer(batch.CodecNone).Seal(nil, h, prevChain, payload)
			if err != nil || !bytes.Equal(again, b) {
				t.Fatalf("sealing it again gives other bytes: %v", err)
			}
		}
		if cut >= 0 && cut < len(b) {
			if _, _, err := o.Open(nil, b[:cut]); err == nil {
				t.Fatalf("cut at %d of %d still opens", cut, len(b))
			}
		}
	})
}

// FuzzOpenResealed lets the fuzzer past the checksums: damage behind right CRCs.
func FuzzOpenResealed(f *testing.F) {
	seeds(f)
	f.Fuzz(func(_ *testing.T, b []byte, _ int) {
		if len(b) < batch.HeaderSize {
			return
		}
		batch.Reseal(b, prevChain)
		var o batch.Opener
		_, _, _ = o.Open(nil, b)
	})
}

func FuzzParsePayloads(f *testing.F) {
	for _, sealed := range goldens(f) {
		f.Add(sealed[batch.HeaderSize:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := batch.ParseLineage(b); err == nil && !bytes.Equal(b, mustPayload(l.Append(nil))) {
			t.Fatal("lineage encodes to other bytes")
		}
		if g, err := batch.ParseGap(b); err == nil && !bytes.Equal(b, mustPayload(g.Append(nil))) {
			t.Fatal("gap encodes to other bytes")
		}
		if h, err := batch.ParseHandover(b); err == nil && !bytes.Equal(b, mustPayload(h.Append(nil))) {
			t.Fatal("handover encodes to other bytes")
		}
	})
}
