package encrypt

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// The format, see docs/formats/archive-object.md. All numbers are big-endian.
const (
	Magic       = "tgcrypt"
	Version     = 1
	ChunkBytes  = 64 << 10
	TagBytes    = 16 // behind every chunk
	HeaderBytes = 104

	idOffset   = 8
	wrapOffset = idOffset + IDMax // nonce and wrapped data key
	crcOffset  = wrapOffset + nonceBytes + KeyBytes + TagBytes
	nonceBytes = 12

	sealedChunk = ChunkBytes + TagBytes
)

// castagnoli is a constant table.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errNotOurs says that bytes are no encrypted object at all.
var errNotOurs = errors.New("not an encrypted object")

// sealHeader makes the header of an object of that name: dataKey under the key with
// that id. The name and the header's beginning are bound to it.
func sealHeader(name, id string, key, dataKey [KeyBytes]byte, nonce [nonceBytes]byte) ([]byte, error) {
	aead, err := gcm(key)
	if err != nil {
		return nil, err
	}
	h := make([]byte, 0, HeaderBytes)
	h = append(h, Magic...)
	h = append(h, Version)
	h = append(h, id...)
	h = append(h, make([]byte, wrapOffset-len(h))...)
	bound := append(bytes.Clone(h), name...)
	h = append(h, nonce[:]...)
	h = aead.Seal(h, nonce[:], dataKey[:], bound)
	return binary.BigEndian.AppendUint32(h, crc32.Checksum(h, castagnoli)), nil
}

// headerID checks a header for damage and returns the id of the key that opens it.
func headerID(h []byte) (string, error) {
	if len(h) < HeaderBytes || string(h[:len(Magic)]) != Magic {
		return "", errNotOurs
	}
	if want, got := binary.BigEndian.Uint32(h[crcOffset:]), crc32.Checksum(h[:crcOffset], castagnoli); want != got {
		return "", fmt.Errorf("header: checksum mismatch (want %08x, got %08x)", want, got)
	}
	if v := h[len(Magic)]; v != Version {
		return "", fmt.Errorf("header: version %d, this program knows %d", v, Version)
	}
	id, rest, _ := bytes.Cut(h[idOffset:wrapOffset], []byte{0})
	if ValidID(string(id)) != nil || len(bytes.Trim(rest, "\x00")) != 0 {
		return "", errors.New("header: no id of a key")
	}
	return string(id), nil
}

// openHeader returns the data key of a header that [headerID] has checked.
func openHeader(name string, h []byte, key [KeyBytes]byte) (dataKey [KeyBytes]byte, err error) {
	aead, err := gcm(key)
	if err != nil {
		return dataKey, err
	}
	bound := append(bytes.Clone(h[:wrapOffset]), name...)
	plain, err := aead.Open(nil, h[wrapOffset:wrapOffset+nonceBytes], h[wrapOffset+nonceBytes:crcOffset], bound)
	if err != nil {
		return dataKey, errors.New("header: its key does not open it: it is another key of that id, or the object was put under another name")
	}
	return [KeyBytes]byte(plain), nil
}

func gcm(key [KeyBytes]byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// nonce of a chunk. The data key is of one object alone, so a count is never used
// twice; the last chunk is marked, so that an object cannot be cut between chunks.
func nonce(chunk int64, last bool) []byte {
	n := binary.BigEndian.AppendUint64(make([]byte, 0, nonceBytes), uint64(chunk))
	n = append(n, 0, 0, 0, 0)
	if last {
		n[nonceBytes-1] = 1
	}
	return n
}

// chunks is of how many an object of size bytes consists; an empty one has one.
func chunks(size int64) int64 { return max(1, (size+ChunkBytes-1)/ChunkBytes) }

// sealedSize is how long an object of size bytes is in the bucket.
func sealedSize(size int64) int64 { return HeaderBytes + size + chunks(size)*TagBytes }

// plainSize is the reverse.
func plainSize(sealed int64) (int64, error) {
	rest := sealed - HeaderBytes
	n := (rest + sealedChunk - 1) / sealedChunk
	size := rest - n*TagBytes
	if rest < TagBytes || size < 0 || sealedSize(size) != sealed {
		return 0, fmt.Errorf("%w: no encrypted object has %d bytes", errNotOurs, sealed)
	}
	return size, nil
}
