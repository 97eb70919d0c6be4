package walsender

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"os"
	"testing"

	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// endlessReader gives the same 1 MiB again and again.
type endlessReader struct {
	Log
	pos wal.LSN
	b   []byte
}

func (r *endlessReader) Open(_ context.Context, _ wal.Timeline, from wal.LSN) (Reader, error) {
	return &endlessReader{pos: from, b: make([]byte, 1<<20)}, nil
}

func (r *endlessReader) Next(context.Context) (wal.LSN, []byte, error) {
	r.pos += wal.LSN(len(r.b))
	return r.pos - wal.LSN(len(r.b)), r.b, nil
}

func (r *endlessReader) Close() error { return nil }

// BenchmarkStream is a receiver that only reads, beside the bare socket with the
// same sizes of writes: what the socket leaves, the walsender must not take.
func BenchmarkStream(b *testing.B) {
	b.Run("via=walsender", func(b *testing.B) {
		s, err := New(&endlessReader{Log: newMemLog(0, 0)}, vfs.OS(), clock.System(), slog.New(slog.DiscardHandler), Config{Directory: "/x"}, Events{})
		if err != nil {
			b.Fatal(err)
		}
		ours, theirs := socketPair(b)
		ctx, cancel := context.WithCancel(b.Context())
		served := make(chan struct{})
		go func() { s.serve(ctx, ours); close(served) }() // owned by the benchmark, which waits for it
		hello := binary.BigEndian.AppendUint32(nil, 8+17+1)
		hello = append(binary.BigEndian.AppendUint32(hello, 196608), "replication\x00true\x00\x00"...)
		query := []byte("START_REPLICATION 0/1000000\x00")
		hello = append(hello, 'Q')
		hello = append(binary.BigEndian.AppendUint32(hello, uint32(4+len(query))), query...)
		if _, err := theirs.Write(hello); err != nil {
			b.Fatal(err)
		}
		drain(b, theirs)
		cancel()
		theirs.Close()
		<-served
	})
	b.Run("via=socket", func(b *testing.B) {
		ours, theirs := socketPair(b)
		written := make(chan struct{})
		go func() { // owned by the benchmark, which waits for it
			defer close(written)
			buf := make([]byte, messageBytes)
			for {
				parts := net.Buffers{buf[:logHeaderBytes], buf}
				if _, err := parts.WriteTo(ours); err != nil {
					return
				}
			}
		}()
		drain(b, theirs)
		theirs.Close()
		<-written
		ours.Close()
	})
}

func drain(b *testing.B, conn net.Conn) {
	b.Helper()
	buf := make([]byte, 1<<20)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := io.ReadFull(conn, buf); err != nil {
			b.Fatal(err)
		}
	}
	if bytes.Contains(buf[:100], []byte("FATAL")) {
		b.Fatal("refused")
	}
}

func socketPair(b *testing.B) (ours, theirs net.Conn) {
	b.Helper()
	dir, err := os.MkdirTemp("/tmp", "walsender-") //nolint:usetesting // b.TempDir is too long for a socket
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // of a benchmark
	l, err := net.Listen("unix", dir+"/s")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	if theirs, err = net.Dial("unix", dir+"/s"); err != nil {
		b.Fatal(err)
	}
	if ours, err = l.Accept(); err != nil {
		b.Fatal(err)
	}
	return ours, theirs
}
