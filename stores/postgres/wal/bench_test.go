package wal_test

import (
	"hash/crc32"
	"path/filepath"
	"testing"
	"time"

	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// A walsender's message holds at most so much (walsender.c, MAX_SEND_SIZE).
const messageBytes = 128 << 10

// BenchmarkParser reads logs of a real server in messages of a walsender's size,
// in turns with what no checking reader can do without, the CRC of the same bytes,
// and with copying them. of-crc and of-copy are speeds as parts of those; B/record
// says what kind of log it was.
func BenchmarkParser(b *testing.B) {
	for _, kind := range []struct {
		name     string
		settings map[string]string
		work     func(s *pgtest.Server)
	}{
		{"transactions", map[string]string{"full_page_writes": "off"}, func(s *pgtest.Server) {
			if err := s.Bench(b, "-c", "8", "-t", "8000").Wait(b.Context()); err != nil {
				b.Fatal(err)
			}
		}},
		{"burst", nil, func(s *pgtest.Server) {
			s.SQL(b, "CREATE TABLE burst AS SELECT g AS id, md5(g::text) AS a, repeat('x', 200) AS b FROM generate_series(1, 300000) g")
			s.SQL(b, "CREATE INDEX ON burst (a)")
			s.SQL(b, "UPDATE burst SET id = id + 1 WHERE id % 2 = 0")
			s.SQL(b, "DELETE FROM burst WHERE id % 3 = 0")
		}},
		{"page images", nil, func(s *pgtest.Server) {
			s.SQL(b, "CHECKPOINT; CREATE INDEX ON pgbench_accounts (abalance, filler)")
			s.SQL(b, "CHECKPOINT; UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 50 = 0")
			s.SQL(b, "CHECKPOINT; UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 50 = 1")
		}},
	} {
		b.Run(kind.name, func(b *testing.B) {
			set := map[string]string{"autovacuum": "off", "wal_keep_size": "4GB", "max_wal_size": "4GB", "synchronous_commit": "off"}
			for k, v := range kind.settings {
				set[k] = v
			}
			s := pgtest.New(b, pgtest.Config{Settings: set})
			s.BenchInit(b, 5)
			start, err := wal.ParseLSN(s.SQL(b, "SELECT pg_switch_wal()"))
			if err != nil {
				b.Fatal(err)
			}
			start = wal.SegmentSizeDefault.End(start)
			kind.work(s)
			s.Stop(b, pgtest.Fast)
			log := readFiles(b, filepath.Join(s.DataDir, "pg_wal"), wal.SegmentSizeDefault, 1)
			bench(b, start, log.bytes()[start-log.start:])
		})
	}
}

func bench(b *testing.B, start wal.LSN, log []byte) {
	b.Helper()
	commits := 0
	p := parser(b, wal.Config{SegmentSize: wal.SegmentSizeDefault, Event: func(e wal.Event) {
		if e.Kind == wal.Commit {
			commits++
		}
	}})
	p.Begin(start)
	if f := pushAll(b, p, start, log, fixed(messageBytes)); f == nil || f.Kind != wal.FaultEnd {
		b.Fatalf("the log ends with %+v", f)
	}
	log = log[:p.End()-start]
	records := p.Tally().Records

	table := crc32.MakeTable(crc32.Castagnoli)
	to := make([]byte, messageBytes)
	each := func(do func(at wal.LSN, b []byte)) time.Duration {
		begun := time.Now()
		at := start
		for rest := log; len(rest) > 0; {
			n := min(messageBytes, len(rest))
			do(at, rest[:n])
			at, rest = at+wal.LSN(n), rest[n:]
		}
		return time.Since(begun)
	}
	var parsing, summing, copying time.Duration
	b.SetBytes(int64(len(log)))
	b.ReportAllocs()
	for b.Loop() {
		p.Begin(start)
		parsing += each(func(at wal.LSN, piece []byte) {
			if err := p.Push(at, piece); err != nil {
				b.Fatal(err)
			}
		})
		summing += each(func(_ wal.LSN, piece []byte) { crc32.Checksum(piece, table) })
		copying += each(func(_ wal.LSN, piece []byte) { copy(to, piece) })
	}
	speed := func(d time.Duration) float64 { return float64(len(log)) * float64(b.N) / d.Seconds() / 1e6 }
	b.ReportMetric(speed(parsing), "parsed-MB/s")
	b.ReportMetric(speed(parsing)/speed(summing), "of-crc")
	b.ReportMetric(speed(parsing)/speed(copying), "of-copy")
	b.ReportMetric(float64(len(log))/float64(records), "B/record")
	b.ReportMetric(float64(len(log))/1e6, "MB")
	b.ReportMetric(0, "ns/op") // of all three: says nothing
}
