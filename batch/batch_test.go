package batch_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/golang/snappy"
	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
)

var update = flag.Bool("update", false, "rewrite the golden bytes")

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func header(kind batch.Kind) batch.Header {
	h := batch.Header{
		Kind: kind, Epoch: 7, Seq: 42, First: 1000, Next: 1000, OldestTime: 1_700_000_000_000_000_000,
		NewestTime: 1_700_000_000_500_000_000, Head: 2000, Generation: 3,
	}
	for i := range h.Stream {
		h.Stream[i] = byte(i + 1)
	}
	switch kind {
	case batch.KindData:
		h.Next, h.Records = 1500, 5
	case batch.KindGap:
		h.Next = 1900
	}
	return h
}

func seal(t testing.TB, codec batch.Codec, h batch.Header, prev tidegate.Chain, payload []byte) ([]byte, batch.Header) {
	t.Helper()
	sealed, out, err := batch.NewSealer(codec).Seal(nil, h, prev, payload)
	check(t, err)
	return sealed, out
}

var (
	prevChain = tidegate.Chain{0xaa, 0xbb, 15: 0xcc}
	soft      = bytes.Repeat([]byte("tidegate ships sealed batches. "), 40)
)

func noise(n int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func TestSealVerifyOpen(t *testing.T) {
	tests := map[string]struct {
		codec   batch.Codec
		payload []byte
		stored  batch.Codec
	}{
		"snappy shrinks":        {batch.CodecSnappy, soft, batch.CodecSnappy},
		"snappy does not":       {batch.CodecSnappy, noise(3000), batch.CodecNone},
		"plain":                 {batch.CodecNone, soft, batch.CodecNone},
		"one byte":              {batch.CodecSnappy, []byte{1}, batch.CodecNone},
		"more than 64 KiB":      {batch.CodecSnappy, bytes.Repeat(soft, 200), batch.CodecSnappy},
		"more than 64 KiB hard": {batch.CodecSnappy, noise(200_000), batch.CodecNone},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			prefix := []byte("before")
			got, h, err := batch.NewSealer(tt.codec).Seal(prefix, header(batch.KindData), prevChain, tt.payload)
			check(t, err)
			if !bytes.HasPrefix(got, prefix) {
				t.Fatal("dst was not appended to")
			}
			sealed := got[len(prefix):]
			want := header(batch.KindData)
			want.Codec, want.RawLen, want.StoredLen = tt.stored, uint32(len(tt.payload)), uint32(len(sealed)-batch.HeaderSize)
			want.Digest = batch.ContentDigest(tt.payload)
			want.PayloadCRC, want.Chain = h.PayloadCRC, h.Chain
			if diff := cmp.Diff(want, h); diff != "" {
				t.Errorf("header as sealed: %s", diff)
			}
			verified, err := batch.Verify(sealed, prevChain)
			check(t, err)
			var o batch.Opener
			opened, payload, err := o.Open(nil, sealed)
			check(t, err)
			if verified != h || opened != h || !bytes.Equal(payload, tt.payload) {
				t.Error("what was opened is not what was sealed")
			}
			if batch.ChainOf(sealed) != h.Chain || h.SealedLen() != len(sealed) || h.Pos() != (tidegate.LogPos{Epoch: 7, Seq: 42, Chain: h.Chain}) {
				t.Error("chain, length or position differ")
			}
			if _, err := batch.Verify(sealed, tidegate.Chain{}); !errors.Is(err, tidegate.ErrDiverged) {
				t.Errorf("after another log: %v", err)
			}
		})
	}
}

// TestEveryBitIsGuarded flips every single bit of a small batch, and cuts it at
// every byte.
func TestEveryBitIsGuarded(t *testing.T) {
	for _, codec := range []batch.Codec{batch.CodecNone, batch.CodecSnappy} {
		sealed, _ := seal(t, codec, header(batch.KindData), prevChain, soft)
		var o batch.Opener
		for bit := range len(sealed) * 8 {
			sealed[bit/8] ^= 1 << (bit % 8)
			_, verifyErr := batch.Verify(sealed, prevChain)
			_, _, openErr := o.Open(nil, sealed)
			if verifyErr == nil || openErr == nil {
				t.Fatalf("%s: bit %d of byte %d: verify %v, open %v", codec, bit%8, bit/8, verifyErr, openErr)
			}
			sealed[bit/8] ^= 1 << (bit % 8)
		}
		for n := range len(sealed) {
			var damage *tidegate.CorruptError
			if _, err := batch.Verify(sealed[:n], prevChain); !errors.As(err, &damage) {
				t.Fatalf("%s: cut at %d: %v", codec, n, err)
			}
		}
		if _, err := batch.Verify(append(sealed, 0), prevChain); err == nil {
			t.Fatalf("%s: junk behind the batch was accepted", codec)
		}
	}
}

func TestSealRefuses(t *testing.T) {
	change := func(f func(*batch.Header)) batch.Header {
		h := header(batch.KindData)
		f(&h)
		return h
	}
	tests := map[string]struct {
		codec   batch.Codec
		h       batch.Header
		payload []byte
		is      error
	}{
		"zstd":                  {batch.CodecZstd, header(batch.KindData), soft, tidegate.ErrUnsupported},
		"encryption":            {batch.CodecNone, change(func(h *batch.Header) { h.Flags = batch.FlagEncrypted }), soft, tidegate.ErrUnsupported},
		"key":                   {batch.CodecNone, change(func(h *batch.Header) { h.KeyID = 1 }), soft, tidegate.ErrUnsupported},
		"unknown flag":          {batch.CodecNone, change(func(h *batch.Header) { h.Flags = 1 << 20 }), soft, tidegate.ErrUnsupported},
		"no stream":             {batch.CodecNone, change(func(h *batch.Header) { h.Stream = tidegate.StreamID{} }), soft, nil},
		"no epoch":              {batch.CodecNone, change(func(h *batch.Header) { h.Epoch = 0 }), soft, nil},
		"no seq":                {batch.CodecNone, change(func(h *batch.Header) { h.Seq = 0 }), soft, nil},
		"no generation":         {batch.CodecNone, change(func(h *batch.Header) { h.Generation = 0 }), soft, nil},
		"positions backwards":   {batch.CodecNone, change(func(h *batch.Header) { h.Next = 999 }), soft, nil},
		"no positions":          {batch.CodecNone, change(func(h *batch.Header) { h.Next = h.First }), soft, nil},
		"times backwards":       {batch.CodecNone, change(func(h *batch.Header) { h.OldestTime = h.NewestTime + 1 }), soft, nil},
		"head behind":           {batch.CodecNone, change(func(h *batch.Header) { h.Head = h.Next - 1 }), soft, nil},
		"heartbeat with bytes":  {batch.CodecNone, header(batch.KindHeartbeat), soft, nil},
		"payload over limit":    {batch.CodecNone, header(batch.KindData), make([]byte, batch.PayloadBytesMax+1), nil},
		"gap without positions": {batch.CodecNone, change(func(h *batch.Header) { h.Kind, h.Next = batch.KindGap, h.First }), soft, nil},
		"lineage with records":  {batch.CodecNone, change(func(h *batch.Header) { h.Kind = batch.KindLineage }), soft, nil},
	}
	for name, tt := range tests {
		dst := []byte("kept")
		got, _, err := batch.NewSealer(tt.codec).Seal(dst, tt.h, prevChain, tt.payload)
		if err == nil || tt.is != nil && !errors.Is(err, tt.is) {
			t.Errorf("%s: %v", name, err)
		}
		if string(got) != "kept" {
			t.Errorf("%s: dst became %q", name, got)
		}
	}
}

// TestUnknownIsShippedNotOpened: a newer writer's kind, codec or flag passes
// through an older node and stops where it would be applied; a newer layout is
// refused at once.
func TestUnknownIsShippedNotOpened(t *testing.T) {
	tests := map[string]struct {
		change func(b []byte)
		ships  bool
	}{
		"kind":       {func(b []byte) { b[7] = 99 }, true},
		"codec zstd": {func(b []byte) { b[6] = byte(batch.CodecZstd) }, true},
		"codec":      {func(b []byte) { b[6] = 77 }, true},
		"encrypted":  {func(b []byte) { b[8] |= byte(batch.FlagEncrypted) }, true},
		"key":        {func(b []byte) { b[100] = 5 }, true},
		"flag":       {func(b []byte) { b[11] = 0x80 }, true},
		"version":    {func(b []byte) { b[4] = 2 }, false},
		"reserved 1": {func(b []byte) { b[108] = 1 }, false},
		"reserved 2": {func(b []byte) { b[150] = 1 }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			sealed, _ := seal(t, batch.CodecNone, header(batch.KindData), prevChain, soft)
			tt.change(sealed)
			batch.Reseal(sealed, prevChain)
			_, err := batch.Verify(sealed, prevChain)
			if tt.ships != (err == nil) || err != nil && !errors.Is(err, tidegate.ErrUnsupported) {
				t.Errorf("verify: %v, ships %v", err, tt.ships)
			}
			var o batch.Opener
			if _, _, err := o.Open(nil, sealed); !errors.Is(err, tidegate.ErrUnsupported) {
				t.Errorf("open: %v", err)
			}
		})
	}
}

// TestOpenChecksContent: a batch whose CRCs hold but whose content is another
// is damage.
func TestOpenChecksContent(t *testing.T) {
	other := bytes.Clone(soft)
	other[5]++
	tests := map[string]struct {
		codec  batch.Codec
		stored []byte
	}{
		"plain, other bytes":         {batch.CodecNone, other},
		"snappy, other bytes":        {batch.CodecSnappy, snappy.Encode(nil, other)},
		"snappy, longer":             {batch.CodecSnappy, snappy.Encode(nil, append(bytes.Clone(soft), 1))},
		"snappy, promises 1 GiB":     {batch.CodecSnappy, []byte{0x80, 0x80, 0x80, 0x80, 0x04, 0}},
		"snappy, cut":                {batch.CodecSnappy, snappy.Encode(nil, soft)[:20]},
		"snappy, nothing":            {batch.CodecSnappy, nil},
		"snappy, right length, junk": {batch.CodecSnappy, append([]byte{0xd8, 0x09}, noise(100)...)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			sealed, _ := seal(t, batch.CodecNone, header(batch.KindData), prevChain, soft)
			sealed = append(sealed[:batch.HeaderSize], tt.stored...)
			sealed[6] = byte(tt.codec)
			batch.Reseal(sealed, prevChain)
			if _, err := batch.Verify(sealed, prevChain); err != nil {
				t.Fatalf("verify: %v", err)
			}
			var o batch.Opener
			var damage *tidegate.CorruptError
			if _, _, err := o.Open(nil, sealed); !errors.As(err, &damage) {
				t.Errorf("open: %v", err)
			}
		})
	}
}

func TestNothingIsAllocated(t *testing.T) {
	payload := bytes.Repeat(soft, 100)
	for _, codec := range []batch.Codec{batch.CodecNone, batch.CodecSnappy} {
		s := batch.NewSealer(codec)
		var o batch.Opener
		sealed := make([]byte, 0, s.Room(len(payload)))
		raw := make([]byte, 0, len(payload))
		h := header(batch.KindData)
		allocs := testing.AllocsPerRun(100, func() {
			b, _, err := s.Seal(sealed[:0], h, prevChain, payload)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := batch.ParseHeader(b); err != nil {
				t.Fatal(err)
			}
			if _, err := batch.Verify(b, prevChain); err != nil {
				t.Fatal(err)
			}
			if _, _, err := o.Open(raw, b); err != nil {
				t.Fatal(err)
			}
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations per batch", codec, allocs)
		}
	}
}

// goldens are one batch of every kind; their bytes are on disks for ever.
func goldens(t testing.TB) map[string][]byte {
	t.Helper()
	lineage, err := batch.Lineage{Lineage: "journal:00112233+a1@0000000000000400", Previous: "journal:00112233"}.Append(nil)
	check(t, err)
	gap, err := batch.Gap{RecordsKnown: true, Records: 900, Reason: "spool full"}.Append(nil)
	check(t, err)
	handover, err := batch.Handover{Holder: tidegate.HolderID{9: 9}, StateKnown: true, StateDigest: tidegate.Digest{1: 7}, Reason: "planned"}.Append(nil)
	check(t, err)
	out := map[string][]byte{}
	for name, g := range map[string]struct {
		kind    batch.Kind
		codec   batch.Codec
		payload []byte
	}{
		"data-none":   {batch.KindData, batch.CodecNone, []byte("five small records")},
		"data-snappy": {batch.KindData, batch.CodecSnappy, bytes.Repeat([]byte("tide"), 32)},
		"heartbeat":   {batch.KindHeartbeat, batch.CodecSnappy, nil},
		"lineage":     {batch.KindLineage, batch.CodecNone, lineage},
		"barrier":     {batch.KindBarrier, batch.CodecNone, []byte("barrier 1")},
		"gap":         {batch.KindGap, batch.CodecNone, gap},
		"handover":    {batch.KindHandover, batch.CodecNone, handover},
	} {
		out[name], _ = seal(t, g.codec, header(g.kind), prevChain, g.payload)
	}
	return out
}

func TestGolden(t *testing.T) {
	for name, sealed := range goldens(t) {
		path := filepath.Join("testdata", "v1", name+".hex")
		if *update {
			check(t, os.WriteFile(path, []byte(toHex(sealed)), 0o644))
		}
		text, err := os.ReadFile(path)
		check(t, err)
		want, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
		check(t, err)
		if !bytes.Equal(sealed, want) {
			t.Errorf("%s: sealing gives other bytes than version 1 did", name)
		}
		if _, err := batch.Verify(want, prevChain); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var o batch.Opener
		if _, _, err := o.Open(nil, want); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func toHex(b []byte) string {
	var out strings.Builder
	for line := range bytesIn(b, 32) {
		fmt.Fprintf(&out, "%x\n", line)
	}
	return out.String()
}

func bytesIn(b []byte, n int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(b) > 0 {
			line := b[:min(n, len(b))]
			if !yield(line) {
				return
			}
			b = b[len(line):]
		}
	}
}

func TestNames(t *testing.T) {
	for _, codec := range []batch.Codec{batch.CodecNone, batch.CodecSnappy} {
		if got, err := batch.ParseCodec(codec.String()); err != nil || got != codec {
			t.Errorf("%s parses to %s, %v", codec, got, err)
		}
	}
	if _, err := batch.ParseCodec("zstd"); err == nil {
		t.Error("zstd parses, but cannot be written")
	}
	if batch.KindHandover.String() != "handover" || batch.Kind(9).String() != "kind(9)" || batch.Kind(9).Known() {
		t.Error("kind names")
	}
}
