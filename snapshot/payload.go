package snapshot

import (
	"fmt"

	"github.com/klauspost/compress/zstd"

	"github.com/tidegate/tidegate"
)

// Encoding says how a payload is stored; the numbers are in the format.
type Encoding uint8

// The encodings.
const (
	Plain Encoding = iota
	Zstd           // one frame, RFC 8878
)

// Payload is some pages of an extent, as they cross and as they are stored.
type Payload struct {
	Encoding Encoding
	Stored   []byte
}

// Pages gives pages of one extent; [Sink.Put] asks for those that are missing.
type Pages interface {
	// Pages returns the pages of the set, in their order, as one payload. The
	// bytes are the caller's until the next call. It is called at most once.
	Pages(need Need) (Payload, error)
}

// codec compresses and opens payloads; safe for concurrent use.
type codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

// newCodec makes a codec. The level is the fastest: a base crosses once, and what
// is stored is read as often as it is written.
func newCodec() (*codec, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false), zstd.WithWindowSize(ExtentBytes))
	if err != nil {
		return nil, fmt.Errorf("make compressor: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(2*ExtentBytes), zstd.WithDecoderMaxWindow(ExtentBytes))
	if err != nil {
		return nil, fmt.Errorf("make decompressor: %w", err)
	}
	return &codec{enc, dec}, nil
}

// encode returns raw compressed into dst, or raw itself when that is not smaller.
func (c *codec) encode(dst, raw []byte) Payload {
	if z := c.enc.EncodeAll(raw, dst[:0]); len(z) < len(raw) {
		return Payload{Zstd, z}
	}
	return Payload{Plain, raw}
}

// decode opens a payload of want bytes into dst, or returns it as it is.
func (c *codec) decode(dst []byte, p Payload, want int) ([]byte, error) {
	raw := p.Stored
	switch p.Encoding {
	case Plain:
	case Zstd:
		var err error
		if raw, err = c.dec.DecodeAll(p.Stored, dst[:0]); err != nil {
			return nil, fmt.Errorf("open payload: %w: %w", err, &tidegate.CorruptError{Path: "payload", Offset: -1, What: "does not decompress"})
		}
	default:
		return nil, fmt.Errorf("open payload: encoding %d: %w", p.Encoding, tidegate.ErrUnsupported)
	}
	if len(raw) != want {
		return nil, &tidegate.CorruptError{Path: "payload", Offset: -1, What: fmt.Sprintf("holds %d bytes, want %d", len(raw), want)}
	}
	return raw, nil
}

func (c *codec) close() {
	_ = c.enc.Close() // it wrote to nobody
	c.dec.Close()
}
