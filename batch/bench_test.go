package batch_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/tidegate/tidegate/batch"
)

// records fills a payload with records of a size, half text and half noise:
// they compress, as a ledger's do, but not for nothing.
func records(total, size int) []byte {
	rng := rand.New(rand.NewPCG(3, 4))
	b := make([]byte, 0, total)
	for len(b)+size <= total {
		rec := fmt.Appendf(nil, `{"seq":%d,"from":"account-%06d","to":"account-%06d","note":"`, len(b), rng.IntN(1e6), rng.IntN(1e6))
		for len(rec) < size {
			rec = append(rec, byte('a'+rng.IntN(26)))
		}
		b = append(b, rec[:size]...)
	}
	return b
}

func eachSize(b *testing.B, run func(b *testing.B, codec batch.Codec, payload []byte)) {
	b.Helper()
	for _, codec := range []batch.Codec{batch.CodecNone, batch.CodecSnappy} {
		for _, total := range []int{64 << 10, 256 << 10, 1 << 20} {
			for _, size := range []int{125, 250, 500, 1000, 2000} {
				b.Run(fmt.Sprintf("codec=%s/payload=%dKiB/record=%dB", codec, total>>10, size), func(b *testing.B) {
					payload := records(total, size)
					b.SetBytes(int64(len(payload)))
					b.ReportAllocs()
					run(b, codec, payload)
				})
			}
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	eachSize(b, func(b *testing.B, codec batch.Codec, payload []byte) {
		s := batch.NewSealer(codec)
		dst := make([]byte, 0, s.Room(len(payload)))
		h := header(batch.KindData)
		for b.Loop() {
			if _, _, err := s.Seal(dst, h, prevChain, payload); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	eachSize(b, func(b *testing.B, codec batch.Codec, payload []byte) {
		sealed, _ := seal(b, codec, header(batch.KindData), prevChain, payload)
		dst := make([]byte, 0, len(payload))
		var o batch.Opener
		for b.Loop() {
			if _, _, err := o.Open(dst, sealed); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	eachSize(b, func(b *testing.B, codec batch.Codec, payload []byte) {
		sealed, _ := seal(b, codec, header(batch.KindData), prevChain, payload)
		for b.Loop() {
			if _, err := batch.Verify(sealed, prevChain); err != nil {
				b.Fatal(err)
			}
		}
	})
}
