package replication_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/stores/postgres/replication"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// BenchmarkReceive streams a backlog over the Unix socket, and has pg_receivewal,
// which also writes it to disk without syncing, do the same beside it.
func BenchmarkReceive(b *testing.B) {
	s := pgtest.New(b, pgtest.Config{Settings: map[string]string{"wal_keep_size": "4GB", "max_wal_size": "4GB"}})
	slot := createSlot(b, s, "tide")
	size := wal.SegmentSizeDefault
	from := size.Start(slot.Restart)
	s.BenchInit(b, 30)
	end := lsn(b, s.LSN(b))
	b.SetBytes(int64(end - from))
	b.ReportAllocs()
	messages := 0
	var ours, theirs time.Duration
	for b.Loop() {
		begun := time.Now()
		st := stream(b, config(s), replication.StartOptions{Timeline: 1, From: from})
		for at := from; at < end; messages++ {
			m, err := st.Receive()
			if err != nil {
				b.Fatal(err)
			}
			at = max(at, m.Next())
		}
		st.Close()
		ours += time.Since(begun)

		b.StopTimer()
		dir := filepath.Join(s.Dir, "received")
		if err := os.Mkdir(dir, 0o700); err != nil {
			b.Fatal(err)
		}
		s.Give(b, dir, 0o700)
		begun = time.Now()
		s.Tool(b, "pg_receivewal", "-D", dir, "--no-sync", "-E", end.String(), "--no-loop", "-S", "tide")
		theirs += time.Since(begun)
		if err := os.RemoveAll(dir); err != nil {
			b.Fatal(err)
		}
		// The next round needs the slot's log, which pg_receivewal has confirmed.
		c := connect(b, config(s))
		if err := c.DropSlot(b.Context(), "tide"); err != nil {
			b.Fatal(err)
		}
		c.Close()
		createSlot(b, s, "tide")
		b.StartTimer()
	}
	b.ReportMetric(theirs.Seconds()/ours.Seconds(), "x_pg_receivewal")
	b.ReportMetric(float64(int64(end-from)*int64(b.N))/float64(messages), "B/message")
}

// BenchmarkCommit measures commits that wait for our status, and as many that wait
// for pg_receivewal --synchronous, which writes and syncs: one client, pgbench -N.
func BenchmarkCommit(b *testing.B) {
	s := pgtest.New(b, pgtest.Config{Settings: map[string]string{"wal_keep_size": "4GB"}})
	s.BenchInit(b, 1)
	latency := regexp.MustCompile(`latency average = ([0-9.]+) ms`)
	measure := func(level string) float64 {
		s.SQL(b, "ALTER SYSTEM SET synchronous_standby_names = '"+level+"'")
		s.SQL(b, "SELECT pg_reload_conf()")
		s.UntilSQL(b, "SELECT '"+level+"' = '' OR 'sync' = ANY (array_agg(sync_state)) FROM pg_stat_replication", "t")
		out := s.Tool(b, "pgbench", "-n", "-N", "-c", "1", "-T", "3")
		m := latency.FindStringSubmatch(out)
		if m == nil {
			b.Fatal(out)
		}
		ms, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			b.Fatal(err)
		}
		return ms
	}
	var alone, ours, theirs float64
	for b.Loop() {
		alone += measure("")

		slot := createSlot(b, s, "tide")
		st := stream(b, config(s), replication.StartOptions{Slot: "tide", Timeline: 1, From: slot.Restart})
		done := make(chan struct{})
		go func() { // owned by this round; ends when the stream is closed
			defer close(done)
			for {
				m, err := st.Receive()
				if err != nil || st.Status(replication.Status{Write: m.Next(), Flush: m.Next()}) != nil {
					return
				}
			}
		}()
		ours += measure("tidegate")
		s.SQL(b, "ALTER SYSTEM SET synchronous_standby_names = ''")
		s.SQL(b, "SELECT pg_reload_conf()")
		st.Close()
		<-done
		s.UntilSQL(b, "SELECT count(*) FROM pg_stat_replication", "0")

		dir := filepath.Join(s.Dir, "received")
		if err := os.Mkdir(dir, 0o700); err != nil {
			b.Fatal(err)
		}
		s.Give(b, dir, 0o700)
		native := s.Beside(b, "pg_receivewal", "-D", dir, "--synchronous", "-S", "tide")
		theirs += measure("pgtest")
		s.SQL(b, "ALTER SYSTEM SET synchronous_standby_names = ''")
		s.SQL(b, "SELECT pg_reload_conf()")
		native.Stop()
		if err := os.RemoveAll(dir); err != nil {
			b.Fatal(err)
		}
		c := connect(b, config(s))
		if err := c.DropSlot(b.Context(), "tide"); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
	n := float64(b.N)
	b.ReportMetric(alone/n, "ms/async")
	b.ReportMetric(ours/n, "ms/sync")
	b.ReportMetric(theirs/n, "ms/pg_receivewal")
}
