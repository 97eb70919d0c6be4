package standby

import (
	"errors"
	"fmt"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/shipper"
)

// BenchmarkAck measures one batch from Send to the ack that makes it durable
// on one node: a round trip and one fdatasync.
func BenchmarkAck(b *testing.B) {
	for _, size := range []int{125, 1000, 64 << 10} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			w, conn := benchWriter(b)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			for b.Loop() {
				w.seal(1, size)
				benchShip(b, w, conn, tidegate.Seq(len(w.log)))
			}
		})
	}
}

// BenchmarkStream measures batches of 256 KiB kept 16 in flight.
func BenchmarkStream(b *testing.B) {
	const size, flight = 256 << 10, 16
	w, conn := benchWriter(b)
	b.SetBytes(size)
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		w.seal(1, size)
		end := tidegate.Seq(len(w.log))
		if end > flight {
			benchShip(b, w, conn, end-flight)
			w.log[end-flight-1] = nil
		} else {
			benchShip(b, w, conn, 0)
		}
	}
}

func benchWriter(b *testing.B) (*writer, *shipper.Conn) {
	b.Helper()
	c := newCluster(b, 1, nil, "dr1")
	w := c.start1()
	conn, _, err := w.dial("dr1")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() }) // nothing more is sent
	return w, conn
}

// benchShip ships what was sealed last and waits until upTo is durable.
func benchShip(b *testing.B, w *writer, conn *shipper.Conn, upTo tidegate.Seq) {
	b.Helper()
	if err := errors.Join(conn.Send(b.Context(), w.log[len(w.log)-1]), conn.Flush()); err != nil {
		b.Fatal(err)
	}
	for w.d < upTo {
		ev, err := conn.Recv()
		if err != nil {
			b.Fatal(err)
		}
		if a, ok := ev.(*shipper.AckEvent); ok {
			w.d = a.Ack.Durable
		}
	}
}
