package batch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/tidegate/tidegate"
)

// Sizes and limits of format version 1, in bytes.
const (
	Version         = 1
	HeaderSize      = 160
	PayloadBytesMax = 64 << 20             // raw payload; a unit of a source is never split, so it bounds that too
	StoredBytesMax  = PayloadBytesMax + 16 // a cipher adds its tag
)

// Magic starts every sealed batch.
const Magic = "TGB1"

// Codec is how the payload is stored.
type Codec uint8

// The codecs. Zstd is reserved: no version writes or reads it yet.
const (
	CodecNone   Codec = 0
	CodecSnappy Codec = 1
	CodecZstd   Codec = 2
)

func (c Codec) String() string {
	switch c {
	case CodecNone:
		return "none"
	case CodecSnappy:
		return "snappy"
	case CodecZstd:
		return "zstd"
	}
	return fmt.Sprintf("codec(%d)", uint8(c))
}

// ParseCodec parses the name of a codec that this version can write.
func ParseCodec(s string) (Codec, error) {
	switch s {
	case "none":
		return CodecNone, nil
	case "snappy":
		return CodecSnappy, nil
	}
	return 0, fmt.Errorf("parse codec %q: want none or snappy", s)
}

// Kind is what a batch is. It is a batch's word; an error has a class.
type Kind uint8

// The kinds. Their numbers are on disks and never change.
const (
	KindData      Kind = 0 // records of the source
	KindHeartbeat Kind = 1 // no payload: source time and head on a quiet stream
	KindLineage   Kind = 2 // the source's history from here on; payload [Lineage]
	KindBarrier   Kind = 3 // a marker that several streams share; payload is its maker's
	KindGap       Kind = 4 // positions within a generation that will never be shipped; payload [Gap]. Nobody writes it; who reads it stops
	KindHandover  Kind = 5 // the writer's last word before a planned switchover; payload [Handover]
)

func (k Kind) String() string {
	names := [...]string{"data", "heartbeat", "lineage", "barrier", "gap", "handover"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Known reports whether this version knows the kind. An unknown one is shipped
// and kept, never applied and never skipped.
func (k Kind) Known() bool { return k <= KindHandover }

// Flags are properties of the payload. A flag this version does not know stops
// [Opener.Open], never shipping.
type Flags uint32

// The flags. Encryption is reserved: no version writes or reads it yet.
const (
	FlagEncrypted Flags = 1 << 0 // payload is AES-256-GCM over the compressed form
	FlagConflated Flags = 1 << 1 // positions between First and Next may be missing by declaration
	FlagFramed    Flags = 1 << 2 // payload carries record boundaries of its own

	flagsKnown = FlagEncrypted | FlagConflated | FlagFramed
)

// Header describes a batch. [Sealer.Seal] fills Codec, StoredLen, RawLen,
// PayloadCRC, Digest and Chain; the caller the rest.
type Header struct {
	Codec      Codec
	Kind       Kind
	Flags      Flags
	StoredLen  uint32 // bytes that follow the header
	RawLen     uint32 // bytes of the payload when opened
	Records    uint32 // of the source, in this batch
	Stream     tidegate.StreamID
	Epoch      tidegate.Epoch
	Seq        tidegate.Seq
	First      tidegate.Position // of the source, inclusive
	Next       tidegate.Position // exclusive
	OldestTime int64             // source wall time of the oldest record, unix ns
	NewestTime int64             // source wall time of the newest record, unix ns
	Head       tidegate.Position // newest position the source had committed when this was sealed
	Generation tidegate.Generation
	KeyID      uint32 // 0: plain
	PayloadCRC uint32 // CRC-32C of the stored payload
	Digest     tidegate.Digest
	Chain      tidegate.Chain // of the log up to and with this batch
}

// Pos returns the end of a log whose last batch is h.
func (h *Header) Pos() tidegate.LogPos {
	return tidegate.LogPos{Epoch: h.Epoch, Seq: h.Seq, Chain: h.Chain}
}

// SealedLen is the size of the whole batch, in bytes.
func (h *Header) SealedLen() int { return HeaderSize + int(h.StoredLen) }

// Offsets in the header. docs/formats/batch.md has the same table, and a test
// holds the two together.
const (
	offMagic      = 0
	offVersion    = 4
	offCodec      = 6
	offKind       = 7
	offFlags      = 8
	offStoredLen  = 12
	offRawLen     = 16
	offRecords    = 20
	offStream     = 24
	offEpoch      = 40
	offSeq        = 48
	offFirst      = 56
	offNext       = 64
	offOldestTime = 72
	offNewestTime = 80
	offHead       = 88
	offGeneration = 96
	offKeyID      = 100
	offPayloadCRC = 104
	offReserved1  = 108
	offDigest     = 112
	offChain      = 128
	offReserved2  = 144
	offHeaderCRC  = 156

	chainedLen = offChain // the part of the header that the chain covers
)

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// put writes h, all but its CRC, over b[:HeaderSize]. The reserved bytes of b are zero.
func (h *Header) put(b []byte) {
	_ = b[HeaderSize-1]
	copy(b[offMagic:], Magic)
	le.PutUint16(b[offVersion:], Version)
	b[offCodec] = byte(h.Codec)
	b[offKind] = byte(h.Kind)
	le.PutUint32(b[offFlags:], uint32(h.Flags))
	le.PutUint32(b[offStoredLen:], h.StoredLen)
	le.PutUint32(b[offRawLen:], h.RawLen)
	le.PutUint32(b[offRecords:], h.Records)
	copy(b[offStream:], h.Stream[:])
	le.PutUint64(b[offEpoch:], uint64(h.Epoch))
	le.PutUint64(b[offSeq:], uint64(h.Seq))
	le.PutUint64(b[offFirst:], uint64(h.First))
	le.PutUint64(b[offNext:], uint64(h.Next))
	le.PutUint64(b[offOldestTime:], uint64(h.OldestTime))
	le.PutUint64(b[offNewestTime:], uint64(h.NewestTime))
	le.PutUint64(b[offHead:], uint64(h.Head))
	le.PutUint32(b[offGeneration:], uint32(h.Generation))
	le.PutUint32(b[offKeyID:], h.KeyID)
	le.PutUint32(b[offPayloadCRC:], h.PayloadCRC)
	copy(b[offDigest:], h.Digest[:])
	copy(b[offChain:], h.Chain[:])
}

func (h *Header) get(b []byte) {
	_ = b[HeaderSize-1]
	h.Codec = Codec(b[offCodec])
	h.Kind = Kind(b[offKind])
	h.Flags = Flags(le.Uint32(b[offFlags:]))
	h.StoredLen = le.Uint32(b[offStoredLen:])
	h.RawLen = le.Uint32(b[offRawLen:])
	h.Records = le.Uint32(b[offRecords:])
	copy(h.Stream[:], b[offStream:])
	h.Epoch = tidegate.Epoch(le.Uint64(b[offEpoch:]))
	h.Seq = tidegate.Seq(le.Uint64(b[offSeq:]))
	h.First = tidegate.Position(le.Uint64(b[offFirst:]))
	h.Next = tidegate.Position(le.Uint64(b[offNext:]))
	h.OldestTime = int64(le.Uint64(b[offOldestTime:]))
	h.NewestTime = int64(le.Uint64(b[offNewestTime:]))
	h.Head = tidegate.Position(le.Uint64(b[offHead:]))
	h.Generation = tidegate.Generation(le.Uint32(b[offGeneration:]))
	h.KeyID = le.Uint32(b[offKeyID:])
	h.PayloadCRC = le.Uint32(b[offPayloadCRC:])
	copy(h.Digest[:], b[offDigest:])
	copy(h.Chain[:], b[offChain:])
}

// ParseHeader reads the header at the start of b, which may be longer. It
// checks magic, version, the header's CRC, the reserved bytes and the ranges of
// the fields, and nothing of the payload. Damage is a *tidegate.CorruptError, a
// newer version or a used reserved byte tidegate.ErrUnsupported.
func ParseHeader(b []byte) (Header, error) {
	var h Header
	if len(b) < HeaderSize {
		return h, corrupt("batch header is cut: %d of %d bytes", len(b), HeaderSize)
	}
	if string(b[offMagic:offMagic+len(Magic)]) != Magic {
		return h, corrupt("batch magic is %q, want %q", b[offMagic:offMagic+len(Magic)], Magic)
	}
	want := le.Uint32(b[offHeaderCRC:])
	if got := crc32.Checksum(b[:offHeaderCRC], castagnoli); got != want {
		return h, corrupt("batch header checksum mismatch (want %08x, got %08x)", want, got)
	}
	// The CRC held, so from here a surprise is a newer writer, not damage.
	if v := le.Uint16(b[offVersion:]); v != Version {
		return h, fmt.Errorf("batch version %d: %w", v, tidegate.ErrUnsupported)
	}
	if le.Uint32(b[offReserved1:])|le.Uint32(b[offReserved2:])|le.Uint32(b[offReserved2+4:])|le.Uint32(b[offReserved2+8:]) != 0 {
		return h, fmt.Errorf("batch header uses reserved bytes: %w", tidegate.ErrUnsupported)
	}
	h.get(b)
	if err := h.Validate(); err != nil {
		return h, corrupt("batch header: %s", err)
	}
	return h, nil
}

// Validate checks the ranges that hold for every batch of this version. The
// sealer calls it before it seals, the parser after the CRC.
func (h *Header) Validate() error {
	switch {
	case h.Stream.IsZero():
		return errors.New("stream id is zero")
	case h.Epoch == 0:
		return errors.New("epoch is 0")
	case h.Seq == 0:
		return errors.New("seq is 0")
	case h.Generation == 0:
		return errors.New("generation is 0")
	case h.First > h.Next:
		return fmt.Errorf("first position %s is beyond next %s", h.First, h.Next)
	case h.OldestTime > h.NewestTime:
		return fmt.Errorf("oldest time %d is after newest %d", h.OldestTime, h.NewestTime)
	case h.RawLen > PayloadBytesMax:
		return fmt.Errorf("payload of %d bytes is over the limit of %d", h.RawLen, PayloadBytesMax)
	case h.StoredLen > StoredBytesMax:
		return fmt.Errorf("stored payload of %d bytes is over the limit of %d", h.StoredLen, StoredBytesMax)
	case h.Codec == CodecNone && h.Flags&FlagEncrypted == 0 && h.StoredLen != h.RawLen:
		return fmt.Errorf("stored length %d differs from raw length %d without a codec", h.StoredLen, h.RawLen)
	}
	return h.validateKind()
}

func (h *Header) validateKind() error {
	switch h.Kind {
	case KindData:
		switch {
		case h.First == h.Next:
			return errors.New("data batch covers no position")
		case h.Head < h.Next:
			return fmt.Errorf("head %s is before next position %s", h.Head, h.Next)
		}
	case KindHeartbeat:
		switch {
		case h.First != h.Next || h.Records != 0 || h.RawLen != 0:
			return errors.New("heartbeat carries positions, records or bytes")
		case h.Head < h.Next:
			return fmt.Errorf("head %s is before next position %s", h.Head, h.Next)
		}
	case KindLineage, KindHandover, KindBarrier:
		if h.First != h.Next || h.Records != 0 {
			return fmt.Errorf("%s batch carries positions or records", h.Kind)
		}
	case KindGap:
		if h.First == h.Next {
			return errors.New("gap covers no position")
		}
	}
	return nil
}

func corrupt(format string, args ...any) error {
	return &tidegate.CorruptError{Offset: -1, What: fmt.Sprintf(format, args...)}
}
