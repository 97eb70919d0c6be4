package batch

import (
	"crypto/sha256"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/golang/snappy"

	"github.com/tidegate/tidegate"
)

// ContentDigest is the digest of a raw payload: what two copies of a source's
// log must agree on, however the batch was compressed.
func ContentDigest(payload []byte) tidegate.Digest {
	sum := sha256.Sum256(payload)
	return tidegate.Digest(sum[:16])
}

// chainAfter extends prev by the chained part of a header.
func chainAfter(prev tidegate.Chain, header []byte) tidegate.Chain {
	var b [len(prev) + chainedLen]byte
	copy(b[:], prev[:])
	copy(b[len(prev):], header[:chainedLen])
	sum := sha256.Sum256(b[:])
	return tidegate.Chain(sum[:16])
}

// Sealer seals batches with one codec. Reuse it; it is not for concurrent use.
type Sealer struct {
	codec Codec
}

// NewSealer returns a sealer for a codec that [ParseCodec] knows. For any other
// every Seal returns tidegate.ErrUnsupported.
func NewSealer(codec Codec) *Sealer { return &Sealer{codec: codec} }

// Seal appends a sealed batch to dst and returns the extended slice and the
// header as written. prev is the chain of the batch before, zero for seq 1.
// The payload is stored as it is when the codec does not shrink it. dst and
// payload must not overlap; payload is only read.
//
// On error dst's contents up to its length are unchanged. Nothing is allocated
// when dst has room for HeaderSize and the worst case of the codec, which
// [Sealer.Room] tells.
func (s *Sealer) Seal(dst []byte, h Header, prev tidegate.Chain, payload []byte) (sealed []byte, out Header, err error) {
	if len(payload) > PayloadBytesMax {
		return dst, h, fmt.Errorf("seal batch %s: payload of %d bytes is over the limit of %d", h.Seq, len(payload), PayloadBytesMax)
	}
	if s.codec != CodecNone && s.codec != CodecSnappy {
		return dst, h, fmt.Errorf("seal batch %s: codec %s: %w", h.Seq, s.codec, tidegate.ErrUnsupported)
	}
	if h.Flags&^flagsKnown != 0 || h.Flags&FlagEncrypted != 0 || h.KeyID != 0 {
		return dst, h, fmt.Errorf("seal batch %s: flags %#x, key %d: %w", h.Seq, uint32(h.Flags), h.KeyID, tidegate.ErrUnsupported)
	}
	start := len(dst)
	b := slices.Grow(dst, s.Room(len(payload)))
	b = b[:start+HeaderSize]
	header := b[start:]
	clear(header)

	h.Codec, b = s.store(b, payload)
	stored := b[start+HeaderSize:]
	header = b[start : start+HeaderSize]
	h.RawLen, h.StoredLen = uint32(len(payload)), uint32(len(stored))
	if err := h.Validate(); err != nil {
		return dst, h, fmt.Errorf("seal batch %s: %w", h.Seq, err)
	}
	h.PayloadCRC = crc32.Checksum(stored, castagnoli)
	h.Digest = ContentDigest(payload)
	h.put(header)
	h.Chain = chainAfter(prev, header)
	copy(header[offChain:], h.Chain[:])
	le.PutUint32(header[offHeaderCRC:], crc32.Checksum(header[:offHeaderCRC], castagnoli))
	return b, h, nil
}

// Room is the capacity that Seal needs beyond dst's length for a payload of n
// bytes, in bytes.
func (s *Sealer) Room(n int) int {
	if s.codec == CodecSnappy {
		return HeaderSize + snappy.MaxEncodedLen(n)
	}
	return HeaderSize + n
}

// store appends the stored form of payload to b, which has room for it.
func (s *Sealer) store(b, payload []byte) (Codec, []byte) {
	if s.codec == CodecSnappy && len(payload) > 0 {
		packed := snappy.Encode(b[len(b):cap(b)], payload)
		if len(packed) < len(payload) {
			return CodecSnappy, b[:len(b)+len(packed)]
		}
	}
	return CodecNone, append(b, payload...)
}

// Verify checks that sealed is exactly one whole batch: header, length, CRC of
// the stored payload, and that it follows prev in the chain. It does not
// decompress. A batch that is whole but follows another log is
// tidegate.ErrDiverged; damage is a *tidegate.CorruptError.
func Verify(sealed []byte, prev tidegate.Chain) (Header, error) {
	h, err := VerifyBytes(sealed)
	if err != nil {
		return h, err
	}
	if !Follows(sealed, prev) {
		return h, fmt.Errorf("batch %s does not follow chain %.8s: %w", h.Seq, prev, tidegate.ErrDiverged)
	}
	return h, nil
}

// VerifyBytes is [Verify] without the chain, for a reader that starts in the
// middle of a log.
func VerifyBytes(sealed []byte) (Header, error) {
	h, err := ParseHeader(sealed)
	if err != nil {
		return h, err
	}
	if len(sealed) != h.SealedLen() {
		return h, corrupt("batch %s is %d bytes, want %d", h.Seq, len(sealed), h.SealedLen())
	}
	if got := crc32.Checksum(sealed[HeaderSize:], castagnoli); got != h.PayloadCRC {
		return h, corrupt("batch %s payload checksum mismatch (want %08x, got %08x)", h.Seq, h.PayloadCRC, got)
	}
	return h, nil
}

// Follows reports whether the batch at the start of sealed, which has passed
// [ParseHeader], comes right after a log whose chain is prev.
func Follows(sealed []byte, prev tidegate.Chain) bool {
	return chainAfter(prev, sealed[:HeaderSize]) == ChainOf(sealed)
}

// ChainOf reads the chain of the batch at the start of sealed, which has passed
// [ParseHeader].
func ChainOf(sealed []byte) tidegate.Chain {
	return tidegate.Chain(sealed[offChain : offChain+16])
}

// Opener opens sealed batches. Reuse it; it is not for concurrent use.
type Opener struct{}

// Open verifies everything of a batch but its chain and returns the raw
// payload, whose content digest matched. The payload lies in dst's storage when
// dst has the capacity, else in new storage; a batch stored without a codec is
// not copied: its payload lies in sealed. It is valid until either is changed.
//
// Unknown kinds and flags, reserved codecs and encryption are
// tidegate.ErrUnsupported; damage is a *tidegate.CorruptError.
func (o *Opener) Open(dst, sealed []byte) (Header, []byte, error) {
	h, err := VerifyBytes(sealed)
	if err != nil {
		return h, nil, err
	}
	switch {
	case !h.Kind.Known():
		err = fmt.Errorf("open batch %s: %s: %w", h.Seq, h.Kind, tidegate.ErrUnsupported)
	case h.Flags&^flagsKnown != 0:
		err = fmt.Errorf("open batch %s: flags %#x: %w", h.Seq, uint32(h.Flags), tidegate.ErrUnsupported)
	case h.Flags&FlagEncrypted != 0 || h.KeyID != 0:
		err = fmt.Errorf("open batch %s: encrypted with key %d: %w", h.Seq, h.KeyID, tidegate.ErrUnsupported)
	}
	if err != nil {
		return h, nil, err
	}
	payload, err := h.unpack(dst, sealed[HeaderSize:])
	if err != nil {
		return h, nil, err
	}
	if got := ContentDigest(payload); got != h.Digest {
		return h, nil, corrupt("batch %s content digest mismatch (want %s, got %s)", h.Seq, h.Digest, got)
	}
	return h, payload, nil
}

func (h *Header) unpack(dst, stored []byte) ([]byte, error) {
	switch h.Codec {
	case CodecNone:
		return stored, nil
	case CodecSnappy:
		// Ask before decoding: the length inside the payload is not the sealer's
		// word, and decides how much memory is taken.
		n, err := snappy.DecodedLen(stored)
		if err != nil || n != int(h.RawLen) {
			return nil, corrupt("batch %s snappy payload holds %d bytes, want %d", h.Seq, n, h.RawLen)
		}
		dst = slices.Grow(dst[:0], n)
		payload, err := snappy.Decode(dst[:n], stored)
		if err != nil {
			return nil, corrupt("batch %s snappy payload: %s", h.Seq, err)
		}
		return payload, nil
	}
	return nil, fmt.Errorf("open batch %s: codec %s: %w", h.Seq, h.Codec, tidegate.ErrUnsupported)
}
