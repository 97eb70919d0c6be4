package agent

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
)

// One record at a time from append to release in sync mode: journal fsync,
// capture, seal, TLS session there and back, D, release. The far end keeps the
// batch in memory, so that this is the agent's share and one fsync.
func BenchmarkAppendToRelease(b *testing.B) {
	n := benchHost(b)
	record := bytes.Repeat([]byte("x"), 250)
	for b.Loop() {
		r, err := n.j.Append(b.Context(), record, time.Unix(1, 0))
		if err != nil {
			b.Fatal(err)
		}
		if err := n.j.Await(b.Context(), r.Next); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N), "µs/op")
}

// A thousand records of 1000 bytes submitted together, released together.
func BenchmarkThroughput(b *testing.B) {
	n := benchHost(b)
	payloads := make([][]byte, 1000)
	for i := range payloads {
		payloads[i] = bytes.Repeat([]byte{byte(i), 1, 2, 3}, 250)
	}
	b.SetBytes(1000 * 1000)
	var last tidegate.Position
	for b.Loop() {
		r, err := n.j.AppendBatch(b.Context(), payloads, time.Unix(1, 0))
		if err != nil {
			b.Fatal(err)
		}
		last = r.Next
	}
	if err := n.j.Await(b.Context(), last); err != nil {
		b.Fatal(err)
	}
}

func benchHost(b *testing.B) *host {
	b.Helper()
	w := newWorld(b, "s1")
	n := w.host("east", "n1").openJournal().startAgent()
	if err := n.j.Activate(); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.Context(), patient)
	defer cancel()
	r, err := n.j.Append(ctx, []byte("first"), time.Unix(1, 0))
	if err != nil {
		b.Fatal(err)
	}
	if err := n.j.Await(ctx, r.Next); err != nil {
		b.Fatal(err)
	}
	return n
}
