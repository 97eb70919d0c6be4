package encrypt

import (
	"crypto/cipher"
	"errors"
	"io"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
)

// sealedBody is what is put in place of a body: made while it is read, the same at
// every reading, because the body is.
type sealedBody struct {
	header []byte
	aead   cipher.AEAD
	plain  bucket.Body
	size   int64 // of plain
}

// Size implements [bucket.Body].
func (s *sealedBody) Size() int64 { return sealedSize(s.size) }

// ReadAt implements [io.ReaderAt]. It makes whole chunks, so readers ask for much.
func (s *sealedBody) ReadAt(p []byte, off int64) (n int, err error) {
	total := s.Size()
	if off >= total {
		return 0, io.EOF
	}
	short := int64(len(p)) > total-off
	p = p[:min(int64(len(p)), total-off)]
	if off < HeaderBytes {
		n = copy(p, s.header[off:])
	}
	buffer := make([]byte, 0, sealedChunk)
	for n < len(p) {
		at := off + int64(n) - HeaderBytes
		chunk := at / sealedChunk
		sealed, err := s.chunk(chunk, buffer)
		if err != nil {
			return n, err
		}
		n += copy(p[n:], sealed[at%sealedChunk:])
	}
	if short {
		return n, io.EOF
	}
	return n, nil
}

// chunk makes one chunk in buffer.
func (s *sealedBody) chunk(chunk int64, buffer []byte) ([]byte, error) {
	off := chunk * ChunkBytes
	plain := buffer[:min(ChunkBytes, s.size-off)]
	if n, err := s.plain.ReadAt(plain, off); n < len(plain) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, &tidegate.Error{Op: "read the body", Class: tidegate.Permanent, Err: err}
	}
	return s.aead.Seal(plain[:0], nonce(chunk, chunk == chunks(s.size)-1), plain, nil), nil
}

// opened reads chunks, from the first one that a range touches.
type opened struct {
	from io.ReadCloser // sealed chunks
	aead cipher.AEAD
	tag  string
	bad  func(what string) error
	// beyond asks whether the range begins at or behind the object's end.
	beyond func() (bool, error)

	chunk  int64  // the next one
	began  bool   // one has been read
	skip   int64  // of its bytes
	left   int64  // bytes to give; negative: all
	sealed []byte // where a chunk is read to
	out    []byte // where it is opened to
	plain  []byte // of out, not given yet
	last   bool   // the end of the object has been seen
}

// Tag implements [bucket.Tagged].
func (o *opened) Tag() string { return o.tag }

func (o *opened) Read(p []byte) (int, error) {
	for len(o.plain) == 0 {
		if o.left == 0 || o.last {
			return 0, io.EOF
		}
		if err := o.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, o.plain)
	o.plain = o.plain[n:]
	return n, nil
}

// next opens one chunk. Whether it is the object's last one is not known before: a
// shorter one must be, any other may be.
func (o *opened) next() error {
	n, err := io.ReadFull(o.from, o.sealed)
	switch {
	case err == io.EOF: //nolint:errorlint // ReadFull's own: the sealed bytes end between two chunks
		return o.ended()
	case err != nil && err != io.ErrUnexpectedEOF: //nolint:errorlint // as above: a shorter chunk
		return err
	case n < TagBytes:
		return o.bad("it ends within a chunk")
	}
	o.began = true
	o.last = n < sealedChunk
	plain, err := o.aead.Open(o.out[:0], nonce(o.chunk, o.last), o.sealed[:n], nil)
	if err != nil && !o.last {
		o.last = true
		plain, err = o.aead.Open(o.out[:0], nonce(o.chunk, true), o.sealed[:n], nil)
	}
	if err != nil {
		return o.bad("a chunk is not what was written")
	}
	if n == sealedChunk && o.last && o.left < 0 {
		if err := o.nothingBehind(); err != nil {
			return err
		}
	}
	o.chunk++
	plain = plain[min(o.skip, int64(len(plain))):]
	o.skip = 0
	if o.left >= 0 {
		plain = plain[:min(o.left, int64(len(plain)))]
		o.left -= int64(len(plain))
	}
	o.plain = plain
	return nil
}

// nothingBehind makes sure that sealed bytes end with the last chunk.
func (o *opened) nothingBehind() error {
	switch n, err := io.ReadFull(o.from, make([]byte, 1)); {
	case n > 0:
		return o.bad("it goes on behind its last chunk")
	case !errors.Is(err, io.EOF):
		return err
	}
	return nil
}

// ended judges sealed bytes that end where a chunk was to begin.
func (o *opened) ended() error {
	if !o.began && o.chunk > 0 {
		beyond, err := o.beyond()
		if err != nil {
			return err
		}
		if beyond {
			o.last = true
			return nil
		}
	}
	return o.bad("it ends before its last chunk")
}

func (o *opened) Close() error { return o.from.Close() }
