//go:build bench

package postgres

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// backlog writes log: small records and images of whole pages, as updates make
// them. It begins at a segment's start, where pg_receivewal begins, and there is
// nothing before it that the far side lacks.
func (r *rig) backlog(size int64, stop func()) (from, to wal.LSN, before map[string]float64) {
	r.t.Helper()
	r.primary.SQL(r.t, "CHECKPOINT")
	r.primary.SQL(r.t, "SELECT pg_switch_wal()")
	r.primary.SQL(r.t, "INSERT INTO pgbench_history (tid) VALUES (1)")
	before = r.crossed("what there was before")
	stop()
	from = r.end()
	for to = from; int64(to-from) < size; to = r.end() {
		r.primary.SQL(r.t, "SET synchronous_commit = off; UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 4 = 0")
		r.primary.SQL(r.t, "VACUUM pgbench_accounts")
	}
	return from, to, before
}

// crossing is one way to cross a backlog.
type crossing struct {
	seconds, mbs, wire, cpu float64 // wire: bytes of log to one on the wire; cpu: the agent's milliseconds for one MB of log, its receiving included
	first                   float64 // until the first of it was durable
}

// receivewal crosses the backlog natively.
func (r *rig) receivewal(from, to wal.LSN) crossing {
	r.t.Helper()
	dir := filepath.Join(r.primary.Place(r.t), "wal")
	if err := os.Mkdir(dir, 0o700); err != nil {
		r.t.Fatal(err)
	}
	r.primary.Give(r.t, dir, 0o700)
	defer os.RemoveAll(dir) //nolint:errcheck // the place goes at the end, whatever is in it
	began := time.Now()
	// It stops once it is beyond the place it is given.
	out, err := r.primary.Try(r.t, nil, "pg_receivewal", "-d", r.primary.TCP(), "-S", nativeName, "-D", dir, "-n", "-E", (to - 8).String())
	took := time.Since(began)
	if err != nil {
		r.t.Fatalf("pg_receivewal: %v\n%s", err, out)
	}
	return crossing{seconds: took.Seconds(), mbs: float64(to-from) / 1e6 / took.Seconds()}
}

// ours crosses the backlog to a standby node that is started for it.
func (r *rig) ours(from, to wal.LSN, before map[string]float64) crossing {
	r.t.Helper()
	began := time.Now()
	if err := r.Proc("standby-d1").Start(); err != nil {
		r.t.Fatal(err)
	}
	ctx := r.within()
	if _, err := r.durable(ctx, from+1); err != nil {
		r.t.Fatal(err)
	}
	first := time.Since(began)
	m, err := r.durable(ctx, to)
	if err != nil {
		r.t.Fatal(err)
	}
	took := time.Since(began)
	mb := float64(to-from) / 1e6
	return crossing{
		seconds: took.Seconds(), mbs: mb / took.Seconds(), first: first.Seconds(),
		wire: mb * 1e6 / (m[metricShipped] - before[metricShipped]), cpu: (m[metricCPU] - before[metricCPU]) * 1000 / mb,
	}
}

// benchBacklog is a backlog until it is durable at the far side.
func benchBacklog(t *testing.T, out *report) {
	r := newRig(t, plan{scale: 10})
	wanted := *size << 20
	type row struct{ native, ours, ratio, wire, cpu, first spread }
	codecs := []string{"none", "snappy"}
	rows := make([]row, len(codecs))
	for round := range *rounds {
		for i, codec := range codecs {
			x := &rows[i]
			r.codec(codec)
			from, to, before := r.backlog(wanted, func() {
				r.Proc("standby-d1").Stop(10 * time.Second)
				r.primary.SQL(t, "SELECT pg_create_physical_replication_slot('"+nativeName+"', true)")
			})
			var native, ours crossing
			turns := []func(){func() { native = r.receivewal(from, to) }, func() { ours = r.ours(from, to, before) }}
			turns[round%2]()
			turns[1-round%2]()
			r.primary.UntilSQL(t, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '"+nativeName+"' AND active", "0")
			r.primary.SQL(t, "SELECT pg_drop_replication_slot('"+nativeName+"')")
			t.Logf("round %d: %s of log: pg_receivewal %.0f MB/s, ours with codec %s %.0f MB/s (first durable after %.2f s)",
				round+1, mb(to-from), native.mbs, codec, ours.mbs, ours.first)
			x.native.add(native.mbs)
			x.ours.add(ours.mbs)
			x.ratio.add(ours.mbs / native.mbs)
			x.wire.add(ours.wire)
			x.cpu.add(ours.cpu)
			x.first.add(ours.first)
		}
	}
	out.line("Backlog of %d MB of log until durable at the far side, N=1, both over TLS, the far side's start included", *size)
	for i, want := range []target{atLeast(1), atLeast(0.8)} {
		x, codec := rows[i], codecs[i]
		out.line("  codec %-6s  pg_receivewal %s MB/s, ours %s MB/s, ours / native %s   %s", codec, x.native, x.ours, x.ratio, want.judge(x.ratio.median()))
		wire := ""
		if codec == "snappy" {
			wire = "   " + atLeast(2).judge(x.wire.median())
		}
		out.line("                first durable after %s s, log / wire %s%s", x.first, x.wire, wire)
		out.line("                agent's CPU %s ms for a MB of log", x.cpu)
	}
}

func mb(n wal.LSN) string { return fmt.Sprintf("%.0f MB", float64(n)/1e6) }
