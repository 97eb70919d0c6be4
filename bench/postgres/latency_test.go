//go:build bench

package postgres

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
)

// commits is what clients saw in one turn.
type commits struct {
	p50, p99 time.Duration
	tps      float64
}

// clients run pgbench's simple updates for a span at a synchronous_commit.
func (r *rig) clients(n int, level string) commits {
	r.t.Helper()
	dir := filepath.Join(r.primary.Place(r.t), "log")
	if err := os.Mkdir(dir, 0o700); err != nil {
		r.t.Fatal(err)
	}
	r.primary.Give(r.t, dir, 0o700)
	env := append(r.primary.Env(), "PGOPTIONS=-c synchronous_commit="+level)
	// The time begins before the first connection: many clients need more of it.
	seconds := max(1, int(span.Seconds())) * (1 + n/32)
	text, err := r.primary.Try(r.t, env, "pgbench", "-n", "-N", "-M", "prepared", "-c", fmt.Sprint(n), "-T", fmt.Sprint(seconds), "-l", "--log-prefix", filepath.Join(dir, "t"))
	if err != nil {
		r.t.Fatalf("pgbench: %v\n%s", err, text)
	}
	logs, err := filepath.Glob(filepath.Join(dir, "t.*"))
	if err != nil || len(logs) == 0 {
		r.t.Fatalf("pgbench left no log: %v\n%s", err, text)
	}
	var all []time.Duration
	for _, name := range logs {
		f, err := os.Open(name)
		if err != nil {
			r.t.Fatal(err)
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() { // client, transaction, microseconds, script, when
			us, err := strconv.ParseInt(strings.Fields(lines.Text())[2], 10, 64)
			if err != nil {
				r.t.Fatalf("%s: %v", name, err)
			}
			all = append(all, time.Duration(us)*time.Microsecond)
		}
		if err := lines.Err(); err != nil {
			r.t.Fatal(err)
		}
		f.Close()
	}
	if len(all) < n {
		r.t.Fatalf("%d clients had %d commits in %d s: want a longer -span, or less beside it", n, len(all), seconds)
	}
	slices.Sort(all)
	return commits{quantile(all, 500), quantile(all, 990), float64(len(all)) / float64(seconds)}
}

// pair is one way beside the other, as ratios of the first to the second.
type pair struct{ p50, p99, tps, ours50, other50, ours99, other99 spread }

func (p *pair) add(ours, other commits) {
	p.p50.add(float64(ours.p50) / float64(other.p50))
	p.p99.add(float64(ours.p99) / float64(other.p99))
	p.tps.add(ours.tps / other.tps)
	p.ours50.add(milliseconds(ours.p50))
	p.other50.add(milliseconds(other.p50))
	p.ours99.add(milliseconds(ours.p99))
	p.other99.add(milliseconds(other.p99))
}

// benchSync is native synchronous replication beside our sync gate.
func benchSync(t *testing.T, out *report) {
	out.line("Latency of pgbench -N, native synchronous replication (a hot standby, on) beside our sync gate, N=1")
	for _, rtt := range []time.Duration{0, 30 * time.Millisecond} {
		t.Run(rtt.String(), func(t *testing.T) { syncAt(t, out, rtt) })
	}
}

func syncAt(t *testing.T, out *report, rtt time.Duration) {
	r := newRig(t, plan{rtt: rtt, scale: 10})
	native := r.native(rtt)
	r.names(ourName) // bounds that the server does not wait for are not recorded
	r.gate(tidegate.ModeSync, pb.Mode_MODE_SYNC)
	r.names("")
	counts := []int{1, 8}
	rows := make([]pair, len(counts))
	var cpu spread
	for round := range *rounds {
		for i, n := range counts {
			var ours, other commits
			turns := []func(){
				func() {
					r.names(nativeName)
					r.freeze(true)
					other = r.clients(n, "on")
					r.freeze(false)
					r.names("")
					r.crossed("what was written meanwhile")
				},
				func() {
					before := r.crossed("all before the turn")
					from := r.end()
					r.names(ourName)
					native.Freeze(t, true)
					ours = r.clients(n, "on")
					native.Freeze(t, false)
					r.names("")
					after := r.crossed("all of the turn")
					cpu.add((after[metricCPU] - before[metricCPU]) * 1e9 / float64(r.end()-from))
					native.UntilReplayed(t, r.primary.LSN(t))
				},
			}
			turns[round%2]()
			turns[1-round%2]()
			rows[i].add(ours, other)
			t.Logf("round %d, %d clients at %s: native p50 %s p99 %s %.0f/s, ours p50 %s p99 %s %.0f/s", round+1, n, rtt, other.p50, other.p99, other.tps, ours.p50, ours.p99, ours.tps)
		}
	}
	for i, n := range counts {
		x := rows[i]
		out.line("  %4s %2d clients  native p50 %s p99 %s ms, ours p50 %s p99 %s ms", rtt, n, x.other50, x.other99, x.ours50, x.ours99)
		out.line("                   ours / native: p50 %s   %s; p99 %s   %s; tps %s", x.p50, atMost(1.15).judge(x.p50.median()), x.p99, atMost(1.15).judge(x.p99.median()), x.tps)
	}
	out.line("       agent's CPU under this load %s ms for a MB of log", cpu)
}

// benchBounded is the bounded mode at a distance beside waiting for nobody.
func benchBounded(t *testing.T, out *report) {
	const rtt = 30 * time.Millisecond
	r := newRig(t, plan{rtt: rtt, scale: 10})
	r.names(ourName) // as above
	r.gate(tidegate.ModeBounded, pb.Mode_MODE_BOUNDED, "--window", "2s", "--records", "100000", "--bytes", "256MiB")
	wants := map[int]float64{1: 1.6, 8: 1.1, 64: 1.1}
	counts := []int{1, 8, 64}
	rows := make([]pair, len(counts))
	for round := range *rounds {
		for i, n := range counts {
			var ours, other commits
			turns := []func(){
				func() {
					r.names("")
					other = r.clients(n, "on")
					r.crossed("what was written meanwhile")
				},
				func() {
					r.names(ourName)
					ours = r.clients(n, "remote_write")
					r.names("")
					r.crossed("what was written meanwhile")
				},
			}
			turns[round%2]()
			turns[1-round%2]()
			rows[i].add(ours, other)
			t.Logf("round %d, %d clients: asynchronous p50 %s p99 %s %.0f/s, bounded p50 %s p99 %s %.0f/s", round+1, n, other.p50, other.p99, other.tps, ours.p50, ours.p99, ours.tps)
		}
	}
	out.line("Latency of pgbench -N at a round trip of %s, bounded (remote_write) beside asynchronous, the agent shipping in both", rtt)
	for i, n := range counts {
		x := rows[i]
		out.line("  %2d clients  asynchronous p50 %s p99 %s ms, bounded p50 %s p99 %s ms", n, x.other50, x.other99, x.ours50, x.ours99)
		out.line("              bounded / asynchronous: p50 %s   %s; p99 %s; tps %s", x.p50, atMost(wants[n]).judge(x.p50.median()), x.p99, x.tps)
	}
}
