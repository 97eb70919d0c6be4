package batch

import "hash/crc32"

// Append appends the 160 bytes that h was parsed from: a header that was
// accepted by [ParseHeader] and not changed since encodes to the same bytes.
// Nothing is computed but the header's CRC; to make a new batch use a [Sealer].
func (h *Header) Append(dst []byte) []byte {
	var b [HeaderSize]byte
	h.put(b[:])
	le.PutUint32(b[offHeaderCRC:], crc32.Checksum(b[:offHeaderCRC], castagnoli))
	return append(dst, b[:]...)
}
