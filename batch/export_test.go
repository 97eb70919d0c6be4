package batch

import (
	"hash/crc32"

	"github.com/tidegate/tidegate"
)

// Reseal makes lengths, checksums and chain of a changed batch right again, as
// a writer of another version would have written them.
func Reseal(sealed []byte, prev tidegate.Chain) {
	stored := sealed[HeaderSize:]
	le.PutUint32(sealed[offStoredLen:], uint32(len(stored)))
	le.PutUint32(sealed[offPayloadCRC:], crc32.Checksum(stored, castagnoli))
	chain := chainAfter(prev, sealed)
	copy(sealed[offChain:], chain[:])
	le.PutUint32(sealed[offHeaderCRC:], crc32.Checksum(sealed[:offHeaderCRC], castagnoli))
}

// Offsets is the layout by the names of docs/formats/batch.md.
var Offsets = map[string]int{
	"magic": offMagic, "version": offVersion, "codec": offCodec, "kind": offKind, "flags": offFlags,
	"stored length": offStoredLen, "raw length": offRawLen, "records": offRecords, "stream id": offStream,
	"epoch": offEpoch, "seq": offSeq, "first position": offFirst, "next position": offNext,
	"oldest source time": offOldestTime, "newest source time": offNewestTime, "head": offHead,
	"generation": offGeneration, "key id": offKeyID, "payload CRC": offPayloadCRC, "reserved": offReserved1,
	"content digest": offDigest, "chain": offChain, "reserved, end": offReserved2, "header CRC": offHeaderCRC,
}

// StringLenMax is the limit that docs/formats/batch.md quotes.
const StringLenMax = stringLenMax
