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

// seal makes the header of an object of that name: dataKey under the newest key.
// The name and the header's beginning are bound to it.
func (k *Keys) seal(name string, dataKey [KeyBytes]byte, nonce [nonceBytes]byte) ([]byte, error) {
	key := k.byID[k.newest]
	aead, err := gcm(key)
	if err != nil {
		return nil, err
	}
	h := make([]byte, 0, HeaderBytes)
	h = append(h, Magic...)
	h = append(h, Version)
	h = append(h, k.newest...)
	h = append(h, make([]byte, wrapOffset-len(h))...)
	bound := append(bytes.Clone(h), name...)
	h = append(h, nonce[:]...)
	h = aead.Seal(h, nonce[:], dataKey[:], bound)
	return binary.BigEndian.AppendUint32(h, crc32.Checksum(h, castagnoli)), nil
}

// open reads a header and returns the data key.
func (k *Keys) open(name string, h []byte) (dataKey [KeyBytes]byte, err error) {
	if len(h) < HeaderBytes || string(h[:len(Magic)]) != Magic {
		return dataKey, errNotOurs
	}
	h = h[:HeaderBytes]
	if want, got := binary.BigEndian.Uint32(h[crcOffset:]), crc32.Checksum(h[:crcOffset], castagnoli); want != got {
		return dataKey, fmt.Errorf("header: checksum mismatch (want %08x, got %08x)", want, got)
	}
	if v := h[len(Magic)]; v != Version {
		return dataKey, fmt.Errorf("header: version %d, this program knows %d", v, Version)
	}
	id, rest, _ := bytes.Cut(h[idOffset:wrapOffset], []byte{0})
	if validID(string(id)) != nil || len(bytes.Trim(rest, "\x00")) != 0 {
		return dataKey, errors.New("header: no id of a key")
	}
	key, known := k.byID[string(id)]
	if !known {
		return dataKey, &unknownKeyError{string(id)}
	}
	aead, err := gcm(key)
	if err != nil {
		return dataKey, err
	}
	bound := append(bytes.Clone(h[:wrapOffset]), name...)
	plain, err := aead.Open(nil, h[wrapOffset:wrapOffset+nonceBytes], h[wrapOffset+nonceBytes:crcOffset], bound)
	if err != nil {
		return dataKey, fmt.Errorf("header: the key %s does not open it: it is another key, or the object was put under another name", id)
	}
	return [KeyBytes]byte(plain), nil
}

// unknownKeyError says which key is wanted.
type unknownKeyError struct{ id string }

func (e *unknownKeyError) Error() string { return "the key file has no key " + e.id }

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
